"""Dirt of each kind planted into clean tables: how much of it the proposed rules repair, and what they change in tables that are clean.

The tables are shipped in packages (nannyml, statsmodels, matplotlib); with MLLOOP_TEST_DATA those of that folder are taken as well. All
columns are text, and at most 1,000 rows of a table are used. No rule was made on these tables. Run:

    MLLOOP_TEST_DATA=../data python benchmarks/planted_dirt.py
"""

import os
import sys
from importlib.resources import files
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
from cleaning import ROW, judged, same

from mlloop.data.cleaning import clean
from mlloop.data.profiling import suggest_cleaning

SHIPPED = {
    "titanic": ("nannyml", "datasets/data/titanic_reference.csv"),
    "car_loan": ("nannyml", "datasets/data/synthetic_car_loan_reference.csv"),
    "fertility": ("statsmodels", "datasets/fertility/fertility.csv"),
    "grunfeld": ("statsmodels", "datasets/grunfeld/grunfeld.csv"),
    "committee": ("statsmodels", "datasets/committee/committee.csv"),
    "smoking": ("statsmodels", "datasets/china_smoking/china_smoking.csv"),
    "stocks": ("matplotlib", "mpl-data/sample_data/Stocks.csv"),
}
OWN = {
    "hotel": "hotel_bookings/hotel_bookings.csv.gz",
    "products": "complete_journey/products.csv.gz",
    "households": "complete_journey/demographics.csv.gz",
    "traffic": "metro_traffic/metro_traffic.csv.gz",
    "hospital": "dirty/hospital/clean.csv",
    "beers": "dirty/beers/clean.csv",
    "flights": "dirty/flights/clean.csv",
}
Planted = tuple[pd.DataFrame, pd.DataFrame] | None


def tables() -> dict[str, pd.DataFrame]:
    """The clean tables, as text."""
    paths = {name: Path(str(files(package).joinpath(path))) for name, (package, path) in SHIPPED.items()}
    data = os.environ.get("MLLOOP_TEST_DATA")
    paths |= {name: Path(data, path) for name, path in OWN.items()} if data else {}
    found = {}
    for name, path in paths.items():
        table = pd.read_csv(path, dtype=str, keep_default_na=False, comment="#")
        found[name] = table.sample(min(1000, len(table)), random_state=0).sort_index().reset_index(drop=True)
    return found


def cleaned(dirty: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The table after all rules that are proposed for it, and their names."""
    table = ibis.duckdb.connect().create_table("dirty", dirty.assign(**{ROW: range(len(dirty))}))
    rules = suggest_cleaning(table)
    return clean(table, rules)[0].order_by(ROW).to_pandas().drop(columns=ROW), [rule.rule for rule in rules]


def some(rng: np.random.Generator, n: int, share: float) -> np.ndarray:
    return rng.choice(n, max(5, int(share * n)), replace=False)


def categories(table: pd.DataFrame) -> list[str]:
    """Columns of few words, each of which occurs often."""
    wordy = [c for c in table if table[c].str.fullmatch(r"[A-Za-z][A-Za-z /&-]{4,}").mean() > 0.9]
    return [c for c in wordy if 3 <= table[c].nunique() <= 60 and table[c].value_counts().iloc[:3].min() >= 30]


def typos(table: pd.DataFrame, rng: np.random.Generator) -> Planted:
    """One letter of 2 % of the frequent values of a category is another one."""
    names = categories(table)
    if not names:
        return None
    dirty, column = table.copy(), names[0]
    often = table[column].map(table[column].value_counts()) >= 0.02 * len(table)
    for row in rng.choice(np.flatnonzero(often), max(5, int(0.02 * len(table))), replace=False):
        value = table[column][row]
        at = rng.integers(1, len(value))
        dirty.loc[row, column] = value[:at] + "qxzjkv"[rng.integers(6)] + value[at + 1 :]
    return dirty, table


def dependencies(table: pd.DataFrame, rng: np.random.Generator) -> Planted:
    """A column that another one determines, 2 % of whose cells have a wrong character."""
    names = categories(table)
    if not names or len(table) < 400:
        return None
    codes = {v: f"{rng.integers(10**5, 10**6)}-{i:02d}" for i, v in enumerate(table[names[0]].unique())}
    truth = table.assign(branch_code=table[names[0]].map(codes))
    dirty = truth.copy()
    for row in some(rng, len(table), 0.02):
        value = truth["branch_code"][row]
        at = rng.integers(0, 5)
        dirty.loc[row, "branch_code"] = value[:at] + "x" + value[at + 1 :]
    return dirty, truth


def units(table: pd.DataFrame, rng: np.random.Generator) -> Planted:
    """Numbers written with one unit in three ways."""
    if len(table) < 100:
        return None
    number = pd.Series(rng.integers(1, 400, len(table)) / 4)
    truth = table.assign(weight=number.map(lambda v: f"{v:g}"))
    words = np.array([" kg", " kgs", "kg", " kilograms"])[rng.integers(0, 4, len(table))]
    return truth.assign(weight=truth["weight"] + words), truth


def missing_words(table: pd.DataFrame, rng: np.random.Generator) -> Planted:
    """3 % of a category are words that mean missing."""
    names = categories(table)
    if not names:
        return None
    dirty, truth = table.copy(), table.copy()
    rows = some(rng, len(table), 0.03)
    dirty.loc[rows, names[0]] = rng.choice(["N/A", "unknown", "-", "null"], len(rows))
    truth.loc[rows, names[0]] = ""
    return dirty, truth


def times(table: pd.DataFrame, rng: np.random.Generator) -> Planted:
    """Dates of one form, a tenth of them in others."""
    if len(table) < 100:
        return None
    days = pd.Series(pd.Timestamp("2019-01-01") + pd.to_timedelta(rng.integers(0, 900, len(table)), "D"))
    truth = table.assign(seen=days.dt.strftime("%Y-%m-%d"))
    dirty = truth.copy()
    forms = ["%d.%m.%Y", "%b %d, %Y", "%Y/%m/%d", "%Y-%d-%m", "%Y-%m-%d 00:00:00"]
    for row in some(rng, len(table), 0.1):
        dirty.loc[row, "seen"] = days[row].strftime(forms[rng.integers(5)])
    return dirty, truth


def sources(table: pd.DataFrame, rng: np.random.Generator) -> Planted:
    """Seven sources tell of 80 rows: four with a few errors, one with many, and two copies of that."""
    wide = [c for c in table if table[c].nunique() > 0.1 * len(table) and (table[c] != "").mean() > 0.9][:3]
    if len(table) < 80 or not wide:
        return None
    truth = table[wide].head(80).assign(thing=[f"thing {i}" for i in range(80)])
    bad = truth.copy()
    parts = []
    for source in range(7):
        said = truth.copy() if source < 5 else bad.copy()
        for c in wide if source < 5 else ():
            rows = some(rng, 80, 0.05 if source < 4 else 0.4)
            said.loc[rows, c] = truth[c].to_numpy()[(rows + 7) % 80]
        bad = said.copy() if source == 4 else bad
        parts.append((said.assign(feed=f"feed {'abcdefg'[source]}"), truth.assign(feed=f"feed {'abcdefg'[source]}")))
    dirty, right = (pd.concat(side, ignore_index=True) for side in zip(*parts, strict=True))
    return dirty, right


def spills(table: pd.DataFrame, rng: np.random.Generator) -> Planted:
    """The second of two columns stands at the end of the first in 5 % of the rows."""
    if len(table) < 400:
        return None
    town = pd.Series(rng.choice(["Oslo", "Bergen", "Malmo", "Turku", "Aarhus"], len(table)))
    truth = table.assign(
        town=town, land=town.map({"Oslo": "NO", "Bergen": "NO", "Malmo": "SE", "Turku": "FI", "Aarhus": "DK"})
    )
    dirty = truth.copy()
    rows = some(rng, len(table), 0.05)
    dirty.loc[rows, "town"] = truth["town"][rows] + " " + truth["land"][rows]
    dirty.loc[rows, "land"] = ""
    return dirty, truth


KINDS = (typos, dependencies, units, missing_words, times, sources, spills)


def measure(found: dict[str, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What is changed in the clean tables; and precision, recall and F1 of each kind over all tables."""
    untouched = []
    for name, table in found.items():
        after, rules = cleaned(table)
        changed = {c: int((~same(table[c], after[c])).sum()) for c in table}
        shown = ", ".join(f"{c} {n}" for c, n in changed.items() if n)
        untouched.append((name, len(table), table.size, sum(changed.values()), shown, " ".join(rules)))
    rows = []
    for kind in KINDS:
        wrong = changed = right = used = 0
        for i, table in enumerate(found.values()):
            planted = kind(table, np.random.default_rng(i))
            if planted is None:
                continue
            dirty, truth = planted
            columns = [c for c in truth if not same(dirty[c], truth[c]).all()]
            after, _ = cleaned(dirty)
            moved, good = judged(dirty[columns], after[columns], truth[columns])
            wrong += sum(int((~same(dirty[c], truth[c])).sum()) for c in columns)
            changed, right, used = changed + moved, right + good, used + 1
        precision, recall = right / max(changed, 1), right / max(wrong, 1)
        f1 = 2 * precision * recall / (precision + recall) if right else 0.0
        rows.append((kind.__name__, used, wrong, changed, right, round(precision, 3), round(recall, 3), round(f1, 3)))
    heads = ["kind", "tables", "wrong", "changed", "right", "precision", "recall", "f1"]
    return pd.DataFrame(untouched, columns=["table", "rows", "cells", "changed", "columns", "rules"]), pd.DataFrame(
        rows, columns=heads
    )


def main() -> int:
    untouched, kinds = measure(tables())
    print(untouched.to_string(index=False))
    print(kinds.to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
