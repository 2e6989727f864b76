"""Is the released candidate at least as good as what a person would write in ten minutes?

    python benchmarks/hand.py --data FOLDER [--case metro_traffic ...] [--rows 20000] [--keep FOLDER] [--json FILE]

Each case is a public table. A project is made of it with `mlloop new` and run with `mlloop run`, with nothing changed by
hand. Beside the recipe that the project releases, judged on its holdout period, stands untuned
LightGBM on the same training rows: the raw columns that the project kept, the hour, weekday, month and day of the year of
its time, and an objective that fits the metric. Neither sees the holdout.
"""

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

BOUND = 0.02  # by hand may be better by this share of the released figure


@dataclass(frozen=True)
class Case:
    """A file below the data's folder, the target, how the rows are sampled ('last', or 'even': over the whole span)."""

    file: str
    target: str
    sample: str = "last"
    options: tuple[str, ...] = ()


CASES = {
    "metro_traffic": Case("metro_traffic/metro_traffic.csv.gz", "traffic_volume"),
    "bike_sharing": Case("bike_sharing/hour.csv", "cnt"),
    "air_quality": Case("air_quality/AirQualityUCI.csv.gz", "C6H6_GT"),
    "hotel_bookings": Case("hotel_bookings/hotel_bookings.csv.gz", "is_canceled", "even"),
    "elec2": Case("elec2/elec2.csv.gz", "class"),
}


def sampled(source: Path, rows: int, how: str, to: Path) -> Path:
    """At most `rows` lines of a CSV file, as they stand in it."""
    raw = source.read_bytes()
    header, *lines = (gzip.decompress(raw) if source.suffix == ".gz" else raw).splitlines(keepends=True)
    step = max(1, -(-len(lines) // rows))
    kept = lines[-rows:] if how == "last" else lines[::step]
    to.write_bytes(b"".join([header, *kept]))
    return to


def mlloop(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run the command line."""
    return subprocess.run([sys.executable, "-m", "mlloop", *arguments], cwd=root, capture_output=True, text=True)


def by_hand(root: Path, problem: str) -> tuple[float, list[str]]:
    """The figure of untuned LightGBM on the project's own training and holdout rows, and the columns it read."""
    os.chdir(root)
    from lightgbm import LGBMClassifier, LGBMRegressor

    from mlloop.comparison import baselines
    from mlloop.core import metrics, settings
    from mlloop.problem import Problem
    from mlloop.store.lake import Lake

    kept = lambda stage: json.loads((root / ".mlloop" / "products" / problem / f"{stage}.json").read_text())
    statement, made = Problem.model_validate(kept("problem")["problem"]), kept("features")
    lake, task, metric = Lake(settings.load(root)), statement.task, statement.success.metric
    frames = [lake.read(made["tables"][name]).to_pandas() for name in ("train", "holdout")]
    raw = [name for name in made["features"] if not name.startswith("before_")]
    X = pd.concat([frame[raw] for frame in frames], ignore_index=True)
    both = pd.concat(frames, ignore_index=True)
    moments = [c for c in both if pd.api.types.is_datetime64_any_dtype(both[c]) and c == statement.time.column]
    for name in moments:
        at = both[name].dt
        parts = {"hour": at.hour, "weekday": at.dayofweek, "month": at.month, "yearday": at.dayofyear}
        X = X.assign(**{f"hand_{part}": values for part, values in parts.items()})
    for name in X.select_dtypes(exclude="number"):
        X[name] = X[name].astype("category")
    X.columns = [f"x{i}" for i in range(X.shape[1])]
    y, n = [baselines.target_values(frame[task.target], task) for frame in frames], len(frames[0])
    objective = {"mae": "l1", "mape": "mape"}.get(metric, "l2")
    same: dict[str, Any] = {"random_state": 0, "n_jobs": 1, "verbosity": -1}
    is_class = task.kind == "classification"
    model = LGBMClassifier(**same) if is_class else LGBMRegressor(objective=objective, **same)
    model.fit(X[:n], y[0])
    return metrics.measure(metric, y[1], baselines.predict_scores(model, X[n:])), raw


def behind(metric: str, ours: float, hand: float) -> float:
    """How much better by hand is than what is released, as a share of the latter's figure; negative where it is worse."""
    from mlloop.core.metrics import metric as known

    return known(metric).gain(hand, ours) / abs(ours) if ours else 0.0


def run(name: str, data: Path, folder: Path, rows: int) -> dict[str, Any]:
    """One case: what the project says, and the figures of both."""
    case = CASES[name]
    file = sampled(data / case.file, rows, case.sample, folder / f"{name}.csv")
    began = time.monotonic()
    made = mlloop(folder, "new", name, "--data", str(file), "--target", case.target, *case.options)
    root, line = folder / name, {"case": name, "rows": rows}
    if made.returncode:
        return line | {"said": (made.stdout + made.stderr).strip()[-400:]}
    ran = mlloop(root, "run")
    (folder / f"{name}.log").write_text(made.stdout + made.stderr + ran.stdout + ran.stderr)
    products = root / ".mlloop" / "products" / name
    place = lambda stage: products / f"{stage}.json"
    read = lambda stage: json.loads(place(stage).read_text()) if place(stage).exists() else {}
    line |= {"seconds": round(time.monotonic() - began), "exit": ran.returncode}
    statement, evaluated = read("problem").get("problem", {}), read("evaluation")
    line |= {"metric": statement.get("success", {}).get("metric"), "time": statement.get("time", {}).get("column")}
    line |= {gate: (read(gate).get("verdict") or {}).get("verdict") for gate in ("need_gate", "validation_gate")}
    if not evaluated:
        return line | {"said": ran.stdout.strip()[-300:]}
    trained = read("building")["estimator"]
    rules = [one for one in evaluated["contenders"] if one["kind"] in ("rule", "statistic")]
    best = evaluated["contenders"][evaluated["best_rule"]]
    hand, columns = by_hand(root, name)
    line |= {"candidate": trained["name"], "params": trained["params"], "released": evaluated["main"]["value"]}
    folds = next(one for one in read("exploration")["candidates"] if one["name"] == trained["name"])
    line |= {"in folds": folds["mean"], "best rule": best["name"], "rule": best["metric"]["value"], "hand": hand}
    line |= {"behind": behind(line["metric"], line["released"], hand), "columns": columns, "rules": len(rules)}
    return line | {"holds": line["behind"] <= BOUND}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MLLOOP_TEST_DATA"))
    parser.add_argument("--case", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--keep", type=Path, help="where the projects stay; default: nowhere")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.data is None:
        print("skipped: neither --data nor MLLOOP_TEST_DATA names the folder of the public tables")
        return
    lines = []
    with tempfile.TemporaryDirectory() as own:
        folder = (asked.keep or Path(own)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for name in asked.case:
            shutil.rmtree(folder / name, ignore_errors=True)
            lines.append(run(name, Path(asked.data).resolve(), folder, asked.rows))
            print(json.dumps(lines[-1], default=str), flush=True)
            if asked.json:
                asked.json.write_text(json.dumps(lines, indent=1, default=str))
    print("\n| table | metric | released | by hand | by hand better by | best rule | need, validation |")
    print("|---|---|---:|---:|---:|---|---|")
    for one in lines:
        if "hand" not in one:
            print(f"| {one['case']} | {one.get('metric')} | none | | | | {one.get('need_gate')} |")
            continue
        print(
            f"| {one['case']} | {one['metric']} | {one['candidate']} {one['released']:.4g} | {one['hand']:.4g} | "
            f"{one['behind']:+.1%} | {one['best rule']} {one['rule']:.4g} | {one['need_gate']}, {one['validation_gate']} |"
        )


if __name__ == "__main__":
    main()
