"""A table's contract as expectations of Great Expectations, with the verdict that pandera's schema gives on the same rows.

Great Expectations is imported only where `[validation] engine = great_expectations` asks for it.
"""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import pyarrow as pa
import pyarrow.compute as pc

from mlloop.core.errors import SettingsError
from mlloop.core.records import JsonObject
from mlloop.problem import Column, Table

TYPES = {
    "integer": "int64",
    "number": "float64",
    "text": "str",
    "category": "str",
    "time": "datetime64",
    "date": "datetime64",
    "boolean": "bool",
}


@dataclass(frozen=True)
class Expectation:
    """One expectation about a column.

    Attributes
    ----------
    kind : str
        Its name in Great Expectations.
    column : str
    type_ : str, optional
    min_value, max_value : float, optional
    value_set : list of str, optional
    regex : str, optional
    """

    kind: str
    column: str
    type_: str | None = None
    min_value: float | dt.datetime | None = None
    max_value: float | dt.datetime | None = None
    value_set: list[str] | None = field(default=None, hash=False)
    regex: str | None = None

    def json(self) -> JsonObject:
        """In the form in which Great Expectations keeps it."""
        words = {word.name: getattr(self, word.name) for word in fields(self) if word.name != "kind"}
        return {"type": self.kind, "kwargs": {name: value for name, value in words.items() if value is not None}}


def expectations(table: Table) -> list[Expectation]:
    """The contract of a table, column by column."""
    return [expectation for name, column in table.columns.items() for expectation in _of_column(name, column)]


def _of_column(name: str, column: Column) -> Iterator[Expectation]:
    is_text = column.type in ("text", "category")
    yield Expectation("expect_column_values_to_be_of_type", name, type_=TYPES[column.type])
    if column.required:
        yield Expectation("expect_column_values_to_not_be_null", name)
    if column.type in ("integer", "number") and not (column.min is None and column.max is None):
        yield Expectation(
            "expect_column_values_to_be_between", name, min_value=column.min, max_value=column.max
        )  # both ends belong to it
    if column.values is not None and is_text:
        yield Expectation("expect_column_values_to_be_in_set", name, value_set=list(column.values))
    if column.pattern is not None and is_text:
        yield Expectation("expect_column_values_to_match_regex", name, regex=column.pattern)


def suite(name: str, table: Table) -> JsonObject:
    """A suite in Great Expectations' own JSON."""
    return {
        "name": name,
        "expectations": [expectation.json() for expectation in expectations(table)],
        "meta": {"notes": f"The contract of {name}, from its problem statement."},
    }


def frame(rows: pa.Table):
    """Rows of the lake as a pandas.DataFrame in which each type and each missing value can be told.

    Not a number stands above every number, as it does in the engine; pandas would call it missing.
    """
    import pandas as pd

    for at, column in enumerate(rows.schema):
        values = rows.column(at)
        if pa.types.is_date(column.type):
            rows = rows.set_column(at, column.name, values.cast(pa.timestamp("us")))
        elif pa.types.is_floating(column.type):
            above = pc.if_else(pc.is_nan(values), pa.scalar(float("inf"), column.type), values)
            rows = rows.set_column(at, column.name, above)
    types = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype(), pa.string(): pd.StringDtype()}
    return rows.to_pandas(types_mapper=types.get)


def broken(rows: pa.Table, table: Table) -> list[str]:
    """Which parts of its contract the rows break, a sentence each; [] where they fit.

    Raises
    ------
    SettingsError
        Great Expectations is not installed.
    """
    try:
        import great_expectations
        from great_expectations.data_context.types.base import ProgressBarsConfig
    except ModuleNotFoundError as error:
        raise SettingsError(
            "[validation] engine = great_expectations needs a library that is not installed",
            "settings.ini",
            "Install it: pip install 'mlloop[expectations]'",
        ) from error
    context = great_expectations.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("rows").add_dataframe_asset("table")
    batch = source.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame(rows)})
    result = batch.validate(great_expectations.ExpectationSuite(**suite("contract", table)))
    return [_sentence(result_of_one.to_json_dict()) for result_of_one in result.results if not result_of_one.success]


def _sentence(result: JsonObject) -> str:
    """What one expectation found."""
    observed, details = result["expectation_config"], result.get("result") or {}
    count, values = details.get("unexpected_count"), details.get("partial_unexpected_list") or []
    figures = (
        f": {count:,} rows, such as {values[:3]}"
        if count
        else f": {details.get('observed_value', 'it cannot be computed')}"
    )
    return f"{observed['kwargs']['column']} {observed['type'].removeprefix('expect_column_values_to_').replace('_', ' ')}{figures}"
