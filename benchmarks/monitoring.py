"""How right are the estimates, how quick is a period, and how often is an alarm false?

    python benchmarks/monitoring.py [--part census] [--part speed] [--part alarms] [--rows 100000 1000000]

census: CBPE, M-CBPE and PAPE on the census that NannyML ships, 104 chunks of 2,000 rows, against what the labels showed.
speed: one monitoring period against calling NannyML plainly (CBPE, and Jensen-Shannon distance of each column, 20 chunks
a period), CPU seconds in one process, imports apart; whether both raise the same alerts.
alarms: periods in which nothing changed, through the estimates themselves.
"""

import argparse
import datetime as dt
import os
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"

import numpy as np
import pandas as pd

from mlloop import monitoring
from mlloop.core import metrics
from mlloop.monitors import degradation, estimation
from mlloop.monitors.estimation import Period, realised_performance
from mlloop.monitors.evidence import Answers, Inputs, Reference
from mlloop.problem import Problem

CHUNK, START = 2000, dt.datetime(2025, 1, 6)
NAMES = {
    "cbpe": "CBPE",
    "mcbpe": "M-CBPE",
    "pape": "PAPE",
    "middle": "the middle one",
    "reference": "the reference's figure",
}
LOAN = Problem.model_validate({
    "name": "loan", "question": "?", "decision": "?",
    "task": {"kind": "classification", "table": "loans", "target": "y", "positive": 1},
    "sources": {"loans": {"kind": "files", "path": "loans.csv"}},
    "tables": {"loans": {"source": "loans", "columns": {"y": {"type": "integer"}, "x0": {"type": "number"}}}},
    "rules": [{"name": "rule", "meaning": "?", "score": "x0"}],
    "success": {"metric": "roc_auc", "threshold": 0.7, "slices": ["w0"]}, "money": {}, "retrain": {"margin": 0.005},
})  # fmt: skip


def census() -> None:
    """Mean absolute error of each method, over all chunks and over the five that are shifted."""
    first, later, labels = estimation.nannyml().load_us_census_ma_employment_data()
    later = later.merge(labels, on="id")
    columns = [c for c in first if c not in ("id", "year", "employed", "prediction", "predicted_probability")]
    made = lambda rows: Period(
        rows[columns], rows["predicted_probability"].to_numpy(), rows["employed"].to_numpy(float)
    )
    reference, rows, began = made(first), [], time.process_time()
    chunks = len(later) // CHUNK
    for k in range(chunks):
        now = made(later.iloc[k * CHUNK : (k + 1) * CHUNK])
        probabilities = estimation.estimate_performance("roc_auc", reference, now).probabilities
        for metric in ("roc_auc", "f1", "accuracy"):
            truth = metrics.measure(metric, now.y, now.score)
            said = {name: metrics.expected(metric, one, now.score) for name, one in probabilities.items()}
            said |= {
                "middle": float(np.median(list(said.values()))),
                "reference": metrics.measure(metric, reference.y, reference.score),
            }
            rows.append({"chunk": k, "metric": metric, **{name: abs(value - truth) for name, value in said.items()}})
    each = (time.process_time() - began) / chunks
    errors = pd.DataFrame(rows)
    far = errors[errors["metric"] == "roc_auc"].nlargest(5, "reference")["chunk"]
    print(f"Mean absolute error, {chunks} chunks of {CHUNK:,} rows; {each:.2f} CPU s a chunk for all three methods\n")
    print("| | ROC AUC | F1 | accuracy | ROC AUC, 5 shifted | F1, 5 shifted |\n|---|---|---|---|---|---|")
    for name, label in NAMES.items():
        mean = errors.groupby("metric")[name].mean()
        shifted = errors[errors["chunk"].isin(far)].groupby("metric")[name].mean()
        figures = [mean["roc_auc"], mean["f1"], mean["accuracy"], shifted["roc_auc"], shifted["f1"]]
        print(f"| {label} | " + " | ".join(f"{figure:.4f}"[1:] for figure in figures) + " |", flush=True)


def rows_of(n: int, seed: int, shifted: bool = False) -> Period:
    """12 numeric and 4 columns of words; where shifted, three have moved and the model tells less."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(0, 1, (n, 12)), columns=[f"x{i}" for i in range(12)])
    for i in range(4):
        X[f"w{i}"] = rng.choice(list("abcdefgh"), n, p=[0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05])
    if shifted:
        X["x0"] *= 0.5
        X["x1"] += 0.5
        X.loc[rng.random(n) < 0.2, "w0"] = "a"
    z = 1.5 * X["x0"].to_numpy() + 0.5 * (X["w1"] == "a").to_numpy()
    score = 1 / (1 + np.exp(-z))
    return Period(X, score, (rng.random(n) < score).astype(float))


def plainly(reference: Period, now: Period) -> tuple[set[str], bool]:
    """NannyML as its documentation calls it: the columns that alert, and whether the performance does, in most chunks."""
    library, size = estimation.nannyml(), len(now) // 20
    table = lambda p: p.X.assign(score=p.score, said=(p.score >= 0.5).astype(int), y=p.y)
    names = list(reference.X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guess = library.CBPE(y_pred_proba="score", y_pred="said", y_true="y", problem_type="classification_binary",
                             metrics=["roc_auc"], chunk_size=size).fit(table(reference))  # fmt: skip
        found = guess.estimate(table(now).drop(columns="y")).filter(period="analysis").to_df()
        moved = library.UnivariateDriftCalculator(names, continuous_methods=["jensen_shannon"], categorical_methods=["jensen_shannon"],
                                                  chunk_size=size).fit(table(reference))  # fmt: skip
        drift = moved.calculate(table(now)).filter(period="analysis").to_df()
        known = library.PerformanceCalculator(y_pred_proba="score", y_pred="said", y_true="y", problem_type="classification_binary",
                                              metrics=["roc_auc"], chunk_size=size).fit(table(reference))  # fmt: skip
        known.calculate(table(now))
    columns = {name for name in names if drift[(name, "jensen_shannon", "alert")].mean() > 0.5}
    return columns, bool(found[("roc_auc", "alert")].mean() > 0.5)


def kept(reference: Period) -> Reference:
    """As evidence reads it: a sample, with its figure."""
    some = reference.some()
    return Reference("m", some.X, realised_performance("roc_auc", some), some.score, some.y)


def ours(its: Reference, now: Period) -> tuple[set[str], bool]:
    """A whole period as the monitoring observes it, with labels of the period before."""
    log = pd.DataFrame({"at": START, "ms": 1.0, "error": None}, index=range(len(now)))
    given = lambda start, y: Answers(start, start + dt.timedelta(days=7), "m", log, now.X, now.score, y)
    current, past = given(START + dt.timedelta(days=7), None), given(START, now.y)
    found = monitoring.observe(LOAN, Inputs(current.until, START, its, current, [(past, its)]))
    return {c["name"] for c in found["drift"]["columns"] if c["alert"]}, is_worse_by(found["estimated"], found)


def is_worse_by(figure: dict, found: dict) -> bool:
    """Whether a figure of the period counts as worse, trusted or not."""
    return degradation.is_worse(degradation.period_result(figure, found["period"], True), LOAN.retrain)


def speed(sizes: list[int]) -> None:
    """CPU seconds of both, and their alerts."""
    estimation.nannyml()
    ours(kept(rows_of(5000, 1)), rows_of(1000, 2))
    plainly(rows_of(5000, 1), rows_of(1000, 2))
    print(
        "\n| rows of reference and period | what happened | NannyML plainly | mlloop, a model's first period | each later one "
        "| times quicker | alerts of NannyML | of mlloop |\n|---|---|---|---|---|---|---|---|"
    )
    for n in sizes:
        for shifted in (True, False):
            reference, now = rows_of(n, 1), rows_of(n, 2, shifted)
            its: list[Reference] = []
            first = lambda now=now, its=its, reference=reference: ours(its.append(kept(reference)) or its[0], now)
            calls = [
                lambda now=now, reference=reference: plainly(reference, now),
                first,
                lambda now=now, its=its: ours(its[0], now),
            ]
            took, alerts = [], []
            for call in calls:
                began = time.process_time()
                columns, worse = call()
                took.append(time.process_time() - began)
                alerts.append(
                    f"{', '.join(sorted(columns)) or 'none'}; performance {'worse' if worse else 'as it was'}"
                )
            what = "shifted" if shifted else "nothing"
            print(
                f"| {n:,} | {what} | {took[0]:.1f} s | {took[1]:.1f} s | {took[2]:.1f} s | {took[0] / took[1]:.1f}, {took[0] / took[2]:.1f} "
                f"| {alerts[0]} | {'the same' if len(set(alerts)) == 1 else alerts[1]} |",
                flush=True,
            )


def alarms(periods: int = 60) -> None:
    """How often a period in which nothing changed is called worse, by estimate and by labels, or drifted."""
    reference = rows_of(6000, 0)
    its = Reference("m", reference.X, realised_performance("roc_auc", reference), reference.score, reference.y)
    log = pd.DataFrame({"at": START, "ms": 1.0, "error": None}, index=range(1500))
    guess = truth = moved = 0
    for seed in range(1, periods + 1):
        now = rows_of(1500, seed)
        known = Answers(START, START + dt.timedelta(days=7), "m", log, now.X, now.score, now.y)
        found = monitoring.observe(LOAN, Inputs(known.until, START, its, known, [(known, its)]))
        guess += is_worse_by(found["estimated"], found)
        truth += is_worse_by(found["realised"][0], found)
        moved += any(c["alert"] for c in found["drift"]["columns"])
    print(f"\nOf {periods} periods of 1,500 rows in which nothing changed {guess} were called worse by the estimate, "
          f"{truth} by the labels, and {moved} had a column called drifted.")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", action="append", choices=["census", "speed", "alarms"])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    given = parser.parse_args()
    parts = given.part or ["census", "speed", "alarms"]
    if "census" in parts:
        census()
    if "speed" in parts:
        speed(given.rows)
    if "alarms" in parts:
        alarms()


if __name__ == "__main__":
    main()
