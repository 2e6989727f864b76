"""How many planted leaks are found, and how many clean columns are kept away wrongly.

Tables that hold no leak, as far as anybody knows, are given one column that knows the target: each kind in several
strengths. `python benchmarks/leaks.py [--table NAME] [--json FILE]`. The tables are those that scikit-learn ships, two
drawn ones, and, where the environment variable MLLOOP_TEST_DATA names a folder with them, five public ones.
"""

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mlloop.data import leaks

PUBLIC = Path(os.environ["MLLOOP_TEST_DATA"]) if os.environ.get("MLLOOP_TEST_DATA") else None
MAX = 15_000


@dataclass
class Table:
    """A clean table: its rows without the target, the target as numbers, the kind of task and the time of each row."""

    name: str
    rows: pd.DataFrame
    y: pd.Series
    kind: str
    order: pd.Series | None = None


def _cut(name: str, rows: pd.DataFrame, y, kind: str, time: str | None = None) -> Table:
    y = pd.Series(np.asarray(y, dtype=float))
    rows = rows.reset_index(drop=True)
    if len(rows) > MAX:
        at = np.sort(np.random.default_rng(0).choice(len(rows), MAX, replace=False))
        rows, y = rows.iloc[at].reset_index(drop=True), y.iloc[at].reset_index(drop=True)
    known = y.notna()
    rows, y = rows[known].reset_index(drop=True), y[known].reset_index(drop=True)
    return Table(name, rows.drop(columns=[time] if time else []), y, kind, rows[time] if time else None)


def tables() -> Iterator[Table]:
    """Every clean table there is."""
    from sklearn import datasets

    for name in ("breast_cancer", "wine", "iris"):
        data = getattr(datasets, f"load_{name}")(as_frame=True)
        rows = data.data.loc[:, data.data.nunique() > 1]
        yield _cut(name, rows, data.target == 1, "classification")
    data = datasets.load_diabetes(as_frame=True)
    yield _cut("diabetes", data.data, data.target, "regression")
    yield from _drawn()
    yield from _public() if PUBLIC else ()


def _drawn() -> Iterator[Table]:
    r = np.random.default_rng(5)
    n = 6000
    X = pd.DataFrame(r.normal(size=(n, 7)), columns=[f"x{i}" for i in range(7)]).round(3)
    X["plan"], X["visits"] = r.choice(list("abcd"), n), r.poisson(3, n)
    X["since"] = pd.Timestamp("2022-01-01") + pd.to_timedelta(r.integers(0, 700, n), "D")
    score = 0.6 * X.x0 + 0.5 * X.x1 - 0.5 * X.x2 + 0.3 * X.visits - 0.9 + 0.5 * (X.plan == "a")
    yield _cut("churn (drawn)", X, r.random(n) < 1 / (1 + np.exp(-(score - 1))), "classification")
    yield _cut("costs (drawn)", X, np.exp(1 + 0.5 * score + r.normal(0, 0.6, n)).round(2), "regression")


def _public() -> Iterator[Table]:
    assert PUBLIC
    hotel = pd.read_csv(PUBLIC / "hotel_bookings/hotel_bookings.csv.gz")
    hotel["arrival"] = pd.to_datetime(
        hotel.arrival_date_year.astype(str) + hotel.arrival_date_month + hotel.arrival_date_day_of_month.astype(str),
        format="%Y%B%d",
    )
    clean = hotel.drop(columns=["is_canceled", "reservation_status", "reservation_status_date"])
    yield _cut("hotel", clean, hotel.is_canceled, "classification", "arrival")
    yield _cut("hotel rate", clean.drop(columns="adr"), hotel.adr, "regression", "arrival")
    elec = pd.read_csv(PUBLIC / "elec2/elec2.csv.gz")
    yield _cut("elec2", elec.drop(columns="class"), elec["class"] == "UP", "classification")
    metro = pd.read_csv(PUBLIC / "metro_traffic/metro_traffic.csv.gz")
    metro["date_time"] = pd.to_datetime(metro.date_time, dayfirst=True)
    yield _cut("metro", metro.drop(columns="traffic_volume"), metro.traffic_volume, "regression", "date_time")
    bike = pd.read_csv(PUBLIC / "bike_sharing/hour.csv", parse_dates=["dteday"])
    yield _cut("bike", bike.drop(columns=["cnt", "instant", "casual", "registered"]), bike.cnt, "regression", "dteday")
    air = pd.read_csv(PUBLIC / "air_quality/AirQualityUCI.csv.gz").replace(-200, np.nan)
    air = air.drop(columns=["Date", "Time"])
    yield _cut("air", air.drop(columns=["C6H6_GT", "PT08_S2_NMHC"]), air.C6H6_GT, "regression")
    try:
        import nannyml

        work = nannyml.datasets.load_us_census_ma_employment_data()[0]
    except (ImportError, OSError):
        return
    drop = [
        c
        for c in work
        if c
        in (
            "id",
            "timestamp",
            "employed",
            "prediction",
            "predicted_probability",
            "y_pred",
            "y_pred_proba",
            "ESR",
            "year",
            "row_id",
        )
    ]
    target = next(c for c in ("employed", "ESR") if c in work)
    yield _cut("employment", work.drop(columns=drop), work[target], "classification")


# ---------------------------------------------------------------------------------------------- what is planted


Plant = Callable[[Table, np.random.Generator], tuple[pd.DataFrame, list[str], pd.Series]]
"""A table -> its rows with the leak, the names of the leaking columns, and the target."""


def _one(make) -> Plant:
    return lambda t, r: (t.rows.assign(planted=make(t, r)), ["planted"], t.y)


def _noisy(share: float):
    return lambda t, r: t.y * 3 + 7 + r.normal(0, share * t.y.std() * 3, len(t.y))


def _flipped(share: float):
    return lambda t, r: np.where(r.random(len(t.y)) < share, 1 - t.y, t.y)


def _filled(covered: float, empty):
    def make(t, r):
        there = (t.y == 1) & (r.random(len(t.y)) < covered)
        return np.where(there, r.gamma(2, 30, len(t.y)).round(2) + 1, empty)

    return make


def _towers(separation: float):
    return lambda t, r: r.normal(separation * t.y, 1)


def _date_after(spread: int):
    def plant(t, r):
        began = pd.Timestamp("2023-01-01") + pd.to_timedelta(r.integers(0, 10**7, len(t.y)), "s")
        if t.kind == "regression":
            days = (t.y - t.y.min()) / (t.y.std() or 1) * 10
        else:
            days = np.where(t.y == 1, -r.integers(1, spread, len(t.y)), r.integers(1, spread, len(t.y)))
        rows = t.rows.assign(opened_at=began, closed_at=began + pd.to_timedelta(days, "D"))
        return rows, ["closed_at"], t.y

    return plant


def _parts(t, r):
    first = (t.y * r.random(len(t.y))).round(2)
    return t.rows.assign(part_a=first, part_b=t.y - first), ["part_a", "part_b"], t.y


def _total(others: int):
    def plant(t, r):
        more = pd.DataFrame({f"fee_{i}": r.gamma(2, t.y.std() + 1, len(t.y)).round(2) for i in range(others)})
        return t.rows.join(more).assign(planted=t.y + more.sum(axis=1)), ["planted"], t.y

    return plant


def _ratio(t, r):
    size = r.integers(1, 9, len(t.y)).astype(float)
    return t.rows.assign(pieces=size, planted=(t.y + 0.01) * size), ["planted"], t.y


def _flags(kinds: int, covered: float):
    def plant(t, r):
        which = r.integers(0, kinds, len(t.y))
        shown = (t.y == 1) & (r.random(len(t.y)) < covered)
        flags = {f"kind_{i}": ((which == i) & shown).astype(int) for i in range(kinds)}
        return t.rows.assign(**flags), list(flags), t.y

    return plant


def _aggregate(size: int, out: bool = False):
    def plant(t, r):
        group = r.permutation(np.arange(len(t.y)) // size)
        total = t.y.groupby(group).transform("sum")
        count = t.y.groupby(group).transform("size")
        value = (total - t.y) / (count - 1).clip(lower=1) if out else total / count
        return t.rows.assign(group=pd.Series(group).astype(str), planted=value), ["planted"], t.y

    return plant


SURE, ASKED = True, False
KINDS: dict[str, tuple[bool, str, Plant]] = {
    "copy": (SURE, "both", _one(lambda t, r: t.y * 2 + 1)),
    "copy, noise 0.5 %": (SURE, "regression", _one(_noisy(0.005))),
    "copy, noise 5 %": (SURE, "regression", _one(_noisy(0.05))),
    "copy, noise 20 %": (ASKED, "regression", _one(_noisy(0.2))),
    "copy, noise 50 %": (ASKED, "regression", _one(_noisy(0.5))),
    "copy, bent": (SURE, "regression", _one(lambda t, r: np.log1p(t.y - t.y.min()))),
    "copy as text": (SURE, "classification", _one(lambda t, r: np.where(t.y == 1, "written off", "repaid"))),
    "copy, 0.5 % flipped": (SURE, "classification", _one(_flipped(0.005))),
    "copy, 2 % flipped": (ASKED, "classification", _one(_flipped(0.02))),
    "copy, 8 % flipped": (ASKED, "classification", _one(_flipped(0.08))),
    "zero unless positive": (SURE, "classification", _one(_filled(1.0, 0.0))),
    "zero unless positive, 70 %": (SURE, "classification", _one(_filled(0.7, 0.0))),
    "empty unless positive": (SURE, "classification", _one(_filled(1.0, np.nan))),
    "empty unless positive, 60 %": (SURE, "classification", _one(_filled(0.6, np.nan))),
    "empty unless positive, 25 %": (ASKED, "classification", _one(_filled(0.25, np.nan))),
    "parts": (SURE, "regression", _parts),
    "total less one": (SURE, "regression", _total(1)),
    "total less three": (SURE, "regression", _total(3)),
    "times a number": (SURE, "regression", _ratio),
    "date after the event": (SURE, "both", _date_after(40)),
    "two flags": (SURE, "classification", _flags(2, 1.0)),
    "five flags": (SURE, "classification", _flags(5, 1.0)),
    "five flags, 80 %": (SURE, "classification", _flags(5, 0.8)),
    "mean over 3 rows": (SURE, "both", _aggregate(3)),
    "mean over 20 rows": (SURE, "both", _aggregate(20)),
    "mean over 5, without it": (ASKED, "both", _aggregate(5, out=True)),
    "towers, 3 sd": (ASKED, "classification", _one(_towers(3.0))),
    "towers, 2 sd": (ASKED, "classification", _one(_towers(2.0))),
}


def run(chosen: str | None = None) -> dict:
    """Plant every kind into every table it fits: one line a plant, and the clean columns that were found in the clean tables."""
    lines, clean = [], []
    for table in tables():
        if chosen and chosen not in table.name:
            continue
        began = time.monotonic()
        base = {s.column: s for s in leaks.find(table.rows, table.y, table.kind, table.order)}
        sure, asked = [c for c in base if base[c].sure], [c for c in base if not base[c].sure]
        clean.append({"table": table.name, "columns": table.rows.shape[1], "sure": sure, "asked": asked})
        for seed, (kind, (sure, fits, plant)) in enumerate(KINDS.items()):
            if fits not in ("both", table.kind):
                continue
            rows, names, y = plant(table, np.random.default_rng(seed))
            found = {s.column: s for s in leaks.find(rows, y, table.kind, table.order)}
            wrong = [c for c in found if found[c].sure and c not in names and c not in base]
            hit = [c for c in names if c in found]
            lines.append({
                "table": table.name, "kind": kind, "sure_kind": sure, "planted": len(names), "found": len(hit),
                "sure": sum(found[c].sure for c in hit), "wrong": wrong, "clean": rows.shape[1] - len(names),
            })  # fmt: skip
        print(f"{table.name}: {time.monotonic() - began:.0f} s; clean: {clean[-1]}", file=sys.stderr, flush=True)
    return {"lines": lines, "clean": clean, **totals(lines, clean)}


def totals(lines: list[dict], clean: list[dict]) -> dict:
    """Recall of the sure kinds (kept away) and of all (kept away or asked), and the share of clean columns kept away wrongly."""
    sure = [line for line in lines if line["sure_kind"]]
    columns = sum(c["columns"] for c in clean)
    return {
        "recall_sure": sum(x["sure"] for x in sure) / max(1, sum(x["planted"] for x in sure)),
        "recall_all": sum(x["found"] for x in lines) / max(1, sum(x["planted"] for x in lines)),
        "plants": len(lines),
        "clean_columns": columns,
        "clean_kept_away": sum(len(c["sure"]) for c in clean),
        "clean_asked": sum(len(c["asked"]) for c in clean),
        "beside_a_leak_kept_away": sum(len(x["wrong"]) for x in lines),
        "beside_a_leak": sum(x["clean"] for x in lines),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    outcome = run(options.table)
    lines = pd.DataFrame(outcome["lines"])
    by = (
        lines.groupby("kind", sort=False)[["planted", "found", "sure"]]
        .sum()
        .assign(tables=lines.groupby("kind").size())
    )
    print(by.to_string())
    print({key: round(value, 4) for key, value in outcome.items() if key not in ("lines", "clean")})
    missed = lines[lines["found"] < lines["planted"]]
    print("not found:", [f"{m.kind} in {m.table}" for m in missed.itertuples()])
    print("wrong:", [(m.table, m.kind, m.wrong) for m in lines.itertuples() if m.wrong])
    if options.json:
        options.json.write_text(json.dumps(outcome, indent=1, default=lambda value: value.item()))


if __name__ == "__main__":
    main()
