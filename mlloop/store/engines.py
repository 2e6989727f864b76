"""What holds two engines to the same rows: SQL of a row is DuckDB's on both, and a sample of single rows is compared."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ibis
import ibis.expr.operations as ops
import ibis.expr.types as ir
import pyarrow as pa

from mlloop.core.errors import LakeError

ON_DUCKDB = "Say it in other words, or set [engine] name = duckdb in settings.ini, then: mlloop run"
SAMPLE = 200


def with_sql(rows: ir.Table, name: str, query: str) -> ir.Table:
    """`query`, which says something of each row of `rows` alone, over `rows` under `name`.

    Parameters
    ----------
    rows : ibis table
    name : str
    query : str
        In DuckDB's dialect. On Spark, DuckDB computes it on parts of the rows, where they lie.

    Raises
    ------
    ValueError
        On Spark: a query that looks at other rows.
    """
    con = rows.get_backend()
    if con.name != "pyspark":
        return rows.alias(name).sql(query, dialect="duckdb")
    import duckdb
    import sqlglot as sg
    import sqlglot.expressions as sge
    from pyspark.sql.pandas.types import from_arrow_schema

    if beyond := next(sg.parse_one(query, read="duckdb").find_all(sge.Window, sge.AggFunc, sge.Subquery), None):
        raise ValueError(f"{beyond.sql('duckdb')!r} looks at other rows, and Spark has them in parts. {ON_DUCKDB}")
    empty = rows.schema().to_pyarrow().empty_table()
    with duckdb.connect() as trial:
        trial.register(name, empty)
        schema = trial.sql(query).to_arrow_table().schema
    frame = con._session.sql(con.compile(rows)).mapInArrow(
        _each_part(name, query, schema), from_arrow_schema(schema, prefer_timestamp_ntz=True)
    )
    label = ibis.util.gen_name("computed")
    frame.createOrReplaceTempView(label)
    return con.table(label)


def _each_part(name: str, query: str, schema: pa.Schema) -> Callable[[Iterator], Iterator]:
    """A function for Spark's workers; it holds all it needs, so that they need DuckDB and Arrow alone."""

    def compute(batches):
        import duckdb
        import pyarrow

        with duckdb.connect(config={"threads": 1}) as con:
            con.execute("SET TimeZone = 'UTC'")
            for batch in batches:
                con.register(name, pyarrow.Table.from_batches([batch]))
                yield from con.sql(query).to_arrow_table().cast(schema).to_batches()

    return compute


def must_agree(table: ir.Table, values: Mapping[str, ir.Value], where: str) -> None:
    """See on a sample that Spark makes of single rows what DuckDB makes of them; nothing to see on DuckDB.

    Parameters
    ----------
    table : ibis table
    values : mapping of str to ibis value
        Of `table`'s rows; those that look at other rows are passed over.
    where : str
        For the error.

    Raises
    ------
    LakeError
        A value differs.
    """
    con, own = table.get_backend(), table.op()
    beyond = (ops.Analytic, ops.WindowFunction, ops.Reduction, ops.Subquery)
    single = {name: value for name, value in values.items() if not value.op().find(beyond)}
    single = {name: value for name, value in single.items() if value.op().relations == {own}}
    if con.name != "pyspark" or not single:
        return
    read = sorted({field.name for value in single.values() for field in value.op().find(ops.Field)})
    columns = {f"__made{i}": value for i, value in enumerate(single.values())}
    sample = table.select(*read, **columns).limit(SAMPLE).to_pyarrow()
    reference = ibis.duckdb.connect().create_table("sample", sample.select(read))
    again = reference.select(
        **{name: value.op().replace({own: reference.op()}).to_expr() for name, value in columns.items()}
    )
    theirs = again.to_pyarrow().to_pylist()
    for row, other in zip(sample.to_pylist(), theirs, strict=True):
        for name, label in zip(single, columns, strict=True):
            if not alike(row[label], other[label]):
                came = {column: row[column] for column in read}
                what = f"Spark makes {row[label]!r} of {name!r}, and DuckDB {other[label]!r} (of {came!r})"
                raise LakeError(what, where, ON_DUCKDB)


def alike(value: Any, other: Any) -> bool:
    """Whether two engines gave the same value: floats to twelve digits, whatever the sign of zero."""
    if isinstance(value, float) and isinstance(other, float):
        return value == other or (value != value and other != other) or math.isclose(value, other, rel_tol=1e-12)
    return type(value) is type(other) and value == other
