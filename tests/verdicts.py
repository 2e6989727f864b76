"""Run beside Great Expectations by tests/test_expectations.py: what it says of rows, and what pandera says of the same."""

import datetime as dt
import sys
from collections.abc import Iterator
from pathlib import Path

import ibis
import pyarrow as pa
from pandera.errors import SchemaError

from mlloop import problem as problems
from mlloop.data import expectations
from mlloop.ingestion import contract
from mlloop.problem import Column, Table

TYPES = {
    "integer": pa.int64(), "number": pa.float64(), "text": pa.string(), "category": pa.string(), "time": pa.timestamp("us"),
    "date": pa.date32(), "boolean": pa.bool_(),
}  # fmt: skip
MOMENT = dt.datetime(2020, 1, 2, 3, 4)
# what a pattern of a statement matches; a new pattern needs a line
MATCHES = {"^[0-9]{6}": "536365"}
AWKWARD = Table(
    source="awkward",
    columns={
        "code": Column(type="text", pattern="[0-9]"),  # anywhere in the text
        "kind": Column(type="category", values=["it's", "2", "none"], required=True),
        "share": Column(type="number", max=1, required=True),
        "count": Column(type="integer", min=0),
        "day": Column(type="date", min=dt.datetime(2020, 1, 1)),
        "open": Column(type="boolean"),
    },
)


def fitting(column: Column):
    """A value that fits a column's contract."""
    if column.values is not None:
        return int(column.values[0]) if column.type == "integer" else column.values[0]
    if column.pattern is not None:
        return MATCHES.get(column.pattern, "a1")
    number = column.min if column.min is not None else column.max if column.max is not None else 1
    return {
        "integer": lambda: int(number), "number": lambda: float(number), "time": lambda: MOMENT, "date": MOMENT.date,
        "boolean": lambda: True,
    }.get(column.type, lambda: "x")()  # fmt: skip


def values(column: Column) -> Iterator:
    """Values of a column, of which some break its contract."""
    yield None
    if column.type in ("integer", "number"):
        kind = int if column.type == "integer" else float
        yield from (kind(end + by) for end in (column.min, column.max) if end is not None for by in (-1, 0, 1))
        if column.type == "number":
            yield from (float("nan"), float("inf"), float("-inf"))
    elif column.type in ("text", "category"):
        yield from ("", "no such value", "1", "a1")


def rows(table: Table, **change) -> pa.Table:
    """Two rows that fit a table's contract, but for a column in the second."""
    columns = {
        name: pa.array([fitting(column), change.get(name, fitting(column))], TYPES[column.type])
        for name, column in table.columns.items()
    }
    return pa.table(columns)


def fits_by_pandera(table: Table, given: pa.Table) -> bool:
    try:
        contract(table).validate(ibis.memtable(given))
    except SchemaError:
        return False
    return True


def compare(folder: Path) -> tuple[int, int]:
    """How many verdicts were compared, and how many of them were refusals; ends where two differ."""
    tables = {"awkward": AWKWARD}
    for path in sorted(folder.glob("*.yaml")):
        tables |= {f"{path.stem}/{name}": table for name, table in problems.load(path).tables.items()}
    compared = refused = 0
    for name, table in tables.items():
        cases = [(None, rows(table))]
        cases += [
            (f"{column} = {value!r}", rows(table, **{column: value}))
            for column in table.columns
            for value in values(table.columns[column])
        ]
        for what, given in cases:
            by_pandera, broken = fits_by_pandera(table, given), expectations.broken(given, table)
            assert by_pandera is not bool(broken), (name, what, by_pandera, broken)
            assert what or by_pandera, (name, "the fitting rows do not fit", broken)
            compared, refused = compared + 1, refused + bool(broken)
    other = rows(AWKWARD).set_column(3, "count", pa.array([1.0, 2.0]))  # another type
    assert not fits_by_pandera(AWKWARD, other) and expectations.broken(other, AWKWARD)
    return compared, refused


if __name__ == "__main__":
    print(*compare(Path(sys.argv[1])))
