"""How many wrong cells of two public dirty tables the proposed rules repair, by kind of rule.

The tables (hospital, beers and flights of the Raha benchmark, each dirty and clean) are not part of the repository: name their
folder by MLLOOP_TEST_DATA. Only the dirty table is shown to the rules; the clean one judges. Run:

    MLLOOP_TEST_DATA=../data python benchmarks/cleaning.py
"""

import json
import os
import sys
from pathlib import Path

import ibis
import pandas as pd

from mlloop.data.cleaning import clean
from mlloop.data.profiling import suggest_cleaning

TABLES = ("hospital", "beers", "flights")
ROW = "file_row"  # a number that no rule sees: rules may reorder rows, and the truth stands in file order


def read(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The dirty and the clean table, all text, with the dirty one's column names and a row number."""
    dirty, truth = (pd.read_csv(folder / name, dtype=str, keep_default_na=False) for name in ("dirty.csv", "clean.csv"))
    truth.columns = dirty.columns
    return dirty, truth


def same(left: pd.Series, right: pd.Series) -> pd.Series:
    """Whether cells say the same: equal as text, or as numbers to nine digits; missing equals empty."""
    as_text = [side.map(lambda v: "" if v is None or v != v else str(v).strip()) for side in (left, right)]
    numbers = [pd.to_numeric(side, errors="coerce") for side in as_text]
    return (as_text[0] == as_text[1]) | ((numbers[0] - numbers[1]).abs() <= 1e-9 * numbers[1].abs().clip(lower=1))


def judged(before: pd.DataFrame, after: pd.DataFrame, truth: pd.DataFrame) -> tuple[int, int]:
    """Cells changed, and of those the ones that are now as the truth has them."""
    changed = right = 0
    for column in truth:
        moved = ~same(before[column], after[column])
        changed += int(moved.sum())
        right += int((moved & same(after[column], truth[column])).sum())
    return changed, right


def measure(folder: Path) -> list[dict]:
    """Precision, recall and F1 of repaired cells, for each kind of rule and for all together."""
    dirty, truth = read(folder)
    con = ibis.duckdb.connect()
    table = con.create_table("dirty", dirty.assign(**{ROW: range(len(dirty))}))
    wrong = sum(int((~same(dirty[c], truth[c])).sum()) for c in truth)
    kinds, before = {}, dirty
    for rule in suggest_cleaning(table):
        table, _ = clean(table, [rule])
        after = table.order_by(ROW).to_pandas().drop(columns=ROW)
        changed, right = judged(before, after, truth)
        total = kinds.setdefault(rule.rule, [0, 0])
        kinds[rule.rule] = [total[0] + changed, total[1] + right]
        before = after
    kinds["all"] = list(judged(dirty, before, truth))
    return [_figures(folder.name, kind, changed, right, wrong) for kind, (changed, right) in kinds.items() if changed]


def _figures(table: str, kind: str, changed: int, right: int, wrong: int) -> dict:
    precision, recall = right / changed, right / wrong
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return {
        "table": table,
        "rule": kind,
        "wrong": wrong,
        "changed": changed,
        "right": right,
        "precision": round(precision, 3),
        "recall": round(recall, 3),
        "f1": round(f1, 3),
    }


def main() -> int:
    data = os.environ.get("MLLOOP_TEST_DATA")
    if not data:
        print(
            "Name the folder that holds dirty/hospital, dirty/beers and dirty/flights: MLLOOP_TEST_DATA=... python benchmarks/cleaning.py"
        )
        return 2
    rows = [row for name in TABLES for row in measure(Path(data, "dirty", name))]
    print(pd.DataFrame(rows).to_string(index=False))
    if "--json" in sys.argv:
        print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
