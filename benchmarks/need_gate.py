"""Is the need gate right? Worlds whose truth is known, many draws of each, and how often the verdict is that truth.

    python benchmarks/need_gate.py [--draws 100] [--case noise ...] [--seed 0] [--json FILE]

Each draw makes a table (or events), lets the analysis look for leaks and the need gate hold its contest, and compares
the verdict with what is true by construction. Nothing is tuned to the draws: the gate's settings are those it ships with.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd

ROWS, DAYS = 2400, 120
START = pd.Timestamp("2025-01-01")


def windows(folds: int = 4, fold_days: int = 14, days: int = DAYS) -> dict[str, Any]:
    """Windows as the transformation makes them, over `days` days with the last 14 held out."""
    day = lambda n: (START + pd.Timedelta(days=n)).isoformat()
    until = days - 14
    cuts = [until - fold_days * i for i in range(folds, 0, -1)]
    return {
        "from": day(0), "train_until": day(until), "holdout_from": day(until), "holdout_until": day(days), "as_of": day(days),
        "folds": [{"train_until": day(c), "test_from": day(c), "test_until": day(c + fold_days)} for c in cuts],
    }  # fmt: skip


def statement(columns: dict[str, Any], kind: str = "classification", entity: str | None = None, **changed: Any):
    """A problem statement around a toy table; `changed` replaces whole parts."""
    from mlloop.problem import Problem

    regression = kind == "regression"
    given = {
        "name": "known", "question": "?", "decision": "?",
        "task": {"kind": kind, "table": "rows", "target": "y", "entity": entity, "positive": None if regression else 1},
        "time": {"column": "at"},
        "sources": {"rows": {"kind": "files", "path": "rows.csv"}},
        "tables": {"rows": {"source": "rows", "columns": {
            "at": {"type": "time", "feature": False}, "y": {"type": "number" if regression else "integer"}, **columns}}},
        "rules": [{"name": "rule", "meaning": "the rule in use", "score": "x0"}],
        "success": {"metric": "mae" if regression else "roc_auc", "threshold": 0.5 if regression else 0.75,
                    "min_gain": 0.05 if regression else 0.02},
        "money": {"true_positive": 10, "false_positive": -10, "per_unit_error": 10 if regression else 0,
                  "decisions_per_period": 1000, "ml_per_period": 200},
        "need": {"min_rows": 1000, "min_positives": 100},
    }  # fmt: skip
    return Problem.model_validate(given | changed)


def table(rng: np.random.Generator, n: int = ROWS, columns: int = 8) -> pd.DataFrame:
    """`n` rows spread over the days: numbers x0, x1 ... and a category c, all noise."""
    rows = pd.DataFrame(rng.normal(size=(n, columns)), columns=[f"x{i}" for i in range(columns)])
    rows["c"] = rng.choice(list("abcdef"), n)
    rows["at"] = START + pd.to_timedelta(np.sort(rng.random(n)) * DAYS, unit="D").floor("us")
    return rows


def declared(rows: pd.DataFrame) -> dict[str, Any]:
    kinds = {name: {"type": "category" if rows[name].dtype == object else "number"} for name in rows}
    return {name: kind for name, kind in kinds.items() if name not in ("at", "y", "who")}


def coin(rng: np.random.Generator, logits: np.ndarray) -> np.ndarray:
    """0 or 1 with these log-odds."""
    return (rng.random(len(logits)) < 1 / (1 + np.exp(-logits))).astype(int)


def noise(rng):
    """The target is a coin: nothing tells it."""
    rows = table(rng)
    rows["y"] = coin(rng, np.zeros(len(rows)))
    return statement(declared(rows)), rows


def rule_suffices(rng):
    """The target is the rule in use, wrong in one row of ten by chance: nobody can be better."""
    rows = table(rng)
    rows["y"] = ((rows["x0"] > 0) ^ (rng.random(len(rows)) < 0.1)).astype(int)
    said = [{"name": "rule", "meaning": "the rule in use", "score": "CASE WHEN x0 > 0 THEN 1.0 ELSE 0.0 END"}]
    return statement(declared(rows), rules=said), rows


def one_split_suffices(rng):
    """The rule in use is worthless, but one question on another column tells all there is."""
    rows = table(rng)
    rows["y"] = coin(rng, np.where(rows["x3"] > 0.2, 2.0, -2.0))
    return statement(declared(rows)), rows


def last_value_suffices(rng):
    """Forty machines whose figure walks by chance: tomorrow is today, and nothing else tells more."""
    rows = table(rng)
    rows["who"] = np.arange(len(rows)) % 40
    rows["y"] = rows.assign(step=rng.normal(0, 0.6, len(rows))).groupby("who")["step"].cumsum() + rows["who"] % 7
    columns = declared(rows) | {"who": {"type": "integer", "feature": False}}
    return statement(columns, "regression", "who"), rows


def too_few_rows(rng):
    """A strong signal in 240 rows, where the statement asks for 1,000."""
    rows = table(rng, 240)
    rows["y"] = coin(rng, 2 * rows["x1"] + 2 * rows["x2"])
    return statement(declared(rows)), rows


def leak(rng):
    """The target is a coin, and one column was written after it: a reason, of which no single question tells much."""
    rows = table(rng)
    rows["y"] = coin(rng, np.zeros(len(rows)))
    rows["written_after"] = 2 * rng.integers(0, 10, len(rows)) + rows["y"]
    return statement(declared(rows)), rows


def real_signal(rng):
    """Several columns each tell a part; the rule in use sees one of them."""
    rows = table(rng)
    weight = rows["c"].map(dict(zip("abcdef", (-1.2, -0.7, 0, 0, 0.7, 1.2), strict=True)))
    rows["y"] = coin(rng, 0.8 * rows["x0"] + 1.2 * rows["x1"] + 1.2 * rows["x2"] + np.abs(rows["x3"]) - 0.8 + weight)
    return statement(declared(rows)), rows


def only_interactions(rng):
    """No column tells anything alone: the target follows from two signs being equal."""
    rows = table(rng)
    rows["y"] = coin(rng, np.where((rows["x1"] > 0) == (rows["x2"] > 0), 2.5, -2.5))
    return statement(declared(rows)), rows


def real_signal_in_a_number(rng):
    """A number to predict, from three columns; a constant and one split are far off."""
    rows = table(rng)
    rows["y"] = 2 * rows["x1"] + np.where(rows["x2"] > 0, 2 * rows["x3"], -rows["x3"]) + rng.normal(0, 0.3, len(rows))
    success = {"metric": "mae", "threshold": 0.8, "min_gain": 0.1}
    return statement(declared(rows), "regression", success=success), rows


def _shop(rng, taste: float):
    users, items, groups, n = 400, 240, 8, 16_000
    group, liked = rng.integers(0, groups, items), rng.integers(0, groups, users)
    popular = rng.pareto(1.5, items) + 0.3 if taste == 1 else rng.uniform(0.5, 2.0, items)
    who = rng.integers(0, users, n)
    weight = popular[None, :] * np.where(group[None, :] == liked[:, None], taste, 1.0)
    share = (weight / weight.sum(axis=1, keepdims=True)).cumsum(axis=1)
    what = np.minimum((rng.random(n)[:, None] > share[who]).sum(axis=1), items - 1)
    at = START + pd.to_timedelta(np.sort(rng.random(n)) * DAYS, unit="D").floor("us")
    kind = np.where(rng.random(n) < 0.3, "purchase", "view")
    events = pd.DataFrame(
        {"user": [f"u{i}" for i in who], "item": [f"i{i}" for i in what], "time": at, "kind": kind, "quantity": 1.0}
    )
    column = {"type": "text"}
    found = statement(
        {"user": column, "item": column, "kind": column},
        task={"kind": "recommendation", "k": 5, "repeats": False, "interactions": [
            {"table": "rows", "user": "user", "item": "item", "time": "at", "kind_column": "kind"}]},
        rules=[{"name": "today", "meaning": "best-sellers of 30 days", "popular_days": 30}],
        success={"metric": "ndcg", "threshold": 0.10, "min_gain": 0.02},
        money={"per_hit": 1.0, "decisions_per_period": 1000, "ml_per_period": 30},
        need={"min_rows": 1000, "min_users": 100},
    )  # fmt: skip
    items_table = pd.DataFrame({"item": [f"i{i}" for i in range(items)]})
    return found, {"events": events, "items": items_table}


def best_sellers_suffice(rng):
    """Everybody draws from the same best-sellers."""
    return _shop(rng, taste=1.0)


def tastes(rng):
    """Everybody likes one group of products and wants new ones of it; the catalogue does not say which is of which group."""
    return _shop(rng, taste=60.0)


CASES: dict[str, tuple[Callable, str]] = {
    "noise": (noise, "no"),
    "rule suffices": (rule_suffices, "no"),
    "one split suffices": (one_split_suffices, "no"),
    "last value suffices": (last_value_suffices, "no"),
    "too few rows": (too_few_rows, "no"),
    "leak": (leak, "no"),
    "best-sellers suffice": (best_sellers_suffice, "no"),
    "real signal": (real_signal, "yes"),
    "signal only in interactions": (only_interactions, "yes"),
    "real signal in a number": (real_signal_in_a_number, "yes"),
    "tastes": (tastes, "yes"),
}


def verdict_of(case: str, seed: int) -> dict[str, Any]:
    """The need gate's verdict on one draw of a case, with its figures."""
    import ibis

    from mlloop.analysis import association
    from mlloop.need_gate import contest, decide

    problem, made = CASES[case][0](np.random.default_rng([seed, sorted(CASES).index(case)]))
    cuts = windows()
    tables = made if isinstance(made, dict) else {"rows": made}
    leaks: dict[str, str] = {}
    if problem.task.kind != "recommendation":
        seen = made[made["at"] < pd.Timestamp(cuts["train_until"])]
        columns = problem.tables["rows"].columns
        features = [name for name in seen if name != "y" and (name == "at" or columns[name].feature)]
        found = association(seen[features], seen["y"].astype(float), "at", problem.task.kind, columns)
        leaks = {row.column: row.sign for row in found.itertuples() if row.suspect}
    figures = contest(problem, {name: ibis.memtable(t) for name, t in tables.items()}, cuts, leaks, seed)
    return {**decide(figures, problem), "figures": figures}


def run(draws: int, cases: list[str], seed: int = 0) -> Iterator[dict[str, Any]]:
    """One row a case: truth, how often each verdict, what decided, seconds a draw."""
    for case in cases:
        begin = time.perf_counter()
        found = [verdict_of(case, seed + i) for i in range(draws)]
        verdicts, truth = Counter(f["verdict"] for f in found), CASES[case][1]
        decided = Counter(f["deciding"] for f in found).most_common(1)[0]
        yield {
            "case": case, "truth": truth, "right": verdicts[truth], "draws": draws, "verdicts": dict(verdicts),
            "mostly decided by": f"{decided[0]} ({decided[1]})", "seconds": round((time.perf_counter() - begin) / draws, 2),
        }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    asked = parser.parse_args()
    rows = []
    print(
        "| case | truth | right of draws | yes / maybe / no | mostly decided by | s a draw |\n|---|---|---|---|---|---|"
    )
    for row in run(asked.draws, asked.case or list(CASES), asked.seed):
        rows.append(row)
        share = " / ".join(str(row["verdicts"].get(v, 0)) for v in ("yes", "maybe", "no"))
        told = (
            row["case"],
            row["truth"],
            f"{row['right']} of {row['draws']}",
            share,
            row["mostly decided by"],
            row["seconds"],
        )
        print("| " + " | ".join(map(str, told)) + " |", flush=True)
    if asked.json:
        with open(asked.json, "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump(rows, file, indent=1)
    return 0 if all(row["right"] >= 0.95 * row["draws"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
