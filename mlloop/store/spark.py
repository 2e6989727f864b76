"""Spark as an engine that gives the same rows as DuckDB.

Ibis 12 renders some operations for Spark so that they mean another thing there: `strip` takes the letters v and f off,
a not-a-number counts as missing, a whole number beside a missing one passes through a float. Each is rendered here so
that it means what DuckDB makes of it, or is refused by name; `tests/test_engines.py` holds both engines to the same
rows.
"""

import functools
import os
import string
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import ibis
import ibis.common.exceptions as com
import ibis.expr.datatypes as dt
import ibis.expr.operations as ops
import pyarrow as pa
import sqlglot as sg
import sqlglot.expressions as sge
from ibis.backends.sql.compilers.base import FALSE, NULL
from ibis.backends.sql.compilers.pyspark import PySparkCompiler
from ibis.backends.sql.dialects import PySpark

from mlloop.core.errors import LakeError
from mlloop.store.engines import ON_DUCKDB
from mlloop.store.regexes import Untranslatable, as_java, may_match_nothing, replacement_as_java

ASIDE = 0x10F000  # private signs that no text holds


class SparkSQL(PySpark):
    """Spark's SQL with text as Spark reads it: a backslash before a, v and f gives it those letters."""


SparkSQL.ESCAPED_SEQUENCES = {
    sign: escape for sign, escape in PySpark.ESCAPED_SEQUENCES.items() if sign not in "\x07\x08\x0b\x0c"
}


class Compiler(PySparkCompiler):
    """Ibis operations in Spark's SQL, each meaning what it means on DuckDB."""

    __slots__ = ()
    dialect = SparkSQL
    SIMPLE_OPS: ClassVar[dict] = {}
    UNSUPPORTED_OPS = (*PySparkCompiler.UNSUPPORTED_OPS, ops.Reverse, ops.Capitalize)

    def visit_LStrip(self, op, *, arg):
        """White space of ASCII, as `strip` takes it."""
        return sge.Trim(this=arg, expression=sge.convert(string.whitespace), position="LEADING")

    def visit_RStrip(self, op, *, arg):
        """White space of ASCII, as `strip` takes it."""
        return sge.Trim(this=arg, expression=sge.convert(string.whitespace), position="TRAILING")

    def visit_Lowercase(self, op, *, arg):
        """One character for one, as DuckDB has it."""
        return self._cased("lower", arg)

    def visit_Uppercase(self, op, *, arg):
        """One character for one, as DuckDB has it."""
        return self._cased("upper", arg)

    def _cased(self, case: str, arg):
        own, ours = _odd_cases(case)
        aside = "".join(chr(ASIDE + i) for i in range(len(own)))
        return self.f.translate(self.f.anon[case](self.f.translate(arg, own, aside)), aside, ours)

    def visit_Levenshtein(self, op, *, left, right):
        """Of bytes, as DuckDB counts."""
        text = lambda value: self.f.anon.decode(self.f.anon.encode(value, "UTF-8"), "ISO-8859-1")
        return self.f.levenshtein(text(left), text(right))

    def visit_StringSplit(self, op, *, arg, delimiter):
        """By a text; Spark takes it for a regular expression."""
        return self.f.anon.split(
            arg, as_java("".join(f"\\{c}" if c in string.punctuation else c for c in _constant(op.delimiter)))
        )

    def visit_StringSQLLike(self, op, *, arg, pattern, escape):
        """A backslash is a backslash."""
        return arg.like(sge.convert(_constant(op.pattern).replace("\\", "\\\\")))

    def visit_StringSQLILike(self, op, *, arg, pattern, escape):
        """A backslash is a backslash."""
        return arg.ilike(sge.convert(_constant(op.pattern).replace("\\", "\\\\")))

    def visit_RegexSearch(self, op, *, arg, pattern):
        """As RE2 matches."""
        return self.f.anon.regexp_like(arg, _java(op.pattern))

    def visit_RegexExtract(self, op, *, arg, pattern, index):
        """As RE2 matches."""
        return self.f.anon.regexp_extract(arg, _java(op.pattern), index)

    def visit_RegexReplace(self, op, *, arg, pattern, replacement):
        """As RE2 matches."""
        return self.f.anon.regexp_replace(
            arg, _java(op.pattern, True), _java(op.replacement, translate=replacement_as_java)
        )

    def visit_RegexSplit(self, op, *, arg, pattern):
        """As RE2 matches."""
        return self.f.anon.split(arg, _java(op.pattern, True))

    def visit_IsNull(self, op, *, arg):
        """A not-a-number is a value."""
        return arg.is_(NULL)

    def visit_NotNull(self, op, *, arg):
        """A not-a-number is a value."""
        return sg.not_(arg.is_(NULL))

    def visit_IsNan(self, op, *, arg):
        """Missing where the value is."""
        return self.if_(arg.is_(NULL), NULL, self.f.isnan(arg))

    def visit_IsInf(self, op, *, arg):
        """Of floats."""
        return sg.or_(arg.eq(self.POS_INF), arg.eq(self.NEG_INF)) if op.arg.dtype.is_floating() else FALSE

    def visit_Divide(self, op, *, left, right):
        """By zero as IEEE 754 has it."""
        left, right = (self.cast(side, dt.float64) for side in (left, right))
        by_zero = left * self.f.anon.power(right, sge.convert(-1))
        return self.if_(right.eq(0), by_zero, self.f.anon.try_divide(left, right))

    def visit_Modulus(self, op, *, left, right):
        """By zero: not a number, and missing for whole numbers."""
        by_zero = left * self.NAN if op.dtype.is_floating() else NULL
        return self.if_(right.eq(0), by_zero, self.f.anon.try_mod(left, right))

    def visit_Round(self, op, *, arg, digits):
        """Half away from zero of the number as it is stored, not as it is written."""
        if not op.arg.dtype.is_floating() or digits is None:
            return super().visit_Round(op, arg=arg, digits=digits)
        scale = sge.convert(10.0 ** abs(int(_constant(op.digits))))
        whole = lambda value: self.f.anon.round(value, 0)
        if int(_constant(op.digits)) < 0:
            return self.cast(whole(arg / scale) * scale, op.dtype)
        beyond = sg.or_((arg * scale).eq(self.POS_INF), (arg * scale).eq(self.NEG_INF))
        return self.cast(self.if_(beyond, arg, whole(arg * scale) / scale), op.dtype)

    def visit_Sqrt(self, op, *, arg):
        """Of a negative number refused."""
        return self._defined(arg < 0, "square root of a negative number", arg, self.f.sqrt(arg))

    def visit_Ln(self, op, *, arg):
        """Of a number that is not positive refused."""
        return self._defined(arg <= 0, "logarithm of a number that is not positive", arg, self.f.anon.ln(arg))

    def visit_Log10(self, op, *, arg):
        """Of a number that is not positive refused."""
        return self._defined(arg <= 0, "logarithm of a number that is not positive", arg, self.f.anon.log10(arg))

    def visit_Log2(self, op, *, arg):
        """Of a number that is not positive refused."""
        return self._defined(arg <= 0, "logarithm of a number that is not positive", arg, self.f.anon.log2(arg))

    def _defined(self, wrong, message: str, arg, value):
        refused = self.cast(self.f.anon.raise_error(f"cannot take the {message}"), dt.float64)
        return self.if_(sg.and_(wrong, sg.not_(self.f.isnan(arg))), refused, value)

    def visit_Sign(self, op, *, arg):
        """Of a not-a-number zero."""
        sign = self.f.anon.signum(arg)
        return self.cast(self.if_(self.f.isnan(arg), 0, sign) if op.arg.dtype.is_floating() else sign, op.dtype)

    def visit_Cast(self, op, *, arg, to):
        """Numbers become whole by rounding half to even, and text as Python writes them."""
        kind = op.arg.dtype
        if kind.is_floating() and to.is_integer():
            return self.cast(self.f.anon.bround(arg, 0), to)
        if kind.is_float64() and to.is_string():
            return self._written(arg)
        return super().visit_Cast(op, arg=arg, to=to)

    def visit_TryCast(self, op, *, arg, to):
        """Numbers become whole by rounding half to even; text that is a number with a point or an exponent, too."""
        kind, attempt = op.arg.dtype, super().visit_TryCast
        if to.is_integer() and kind.is_floating():
            return attempt(op, arg=self.f.anon.bround(arg, 0), to=to)
        if to.is_integer() and kind.is_string():
            number = self.f.anon.bround(attempt(op, arg=arg, to=dt.float64), 0)
            return self.f.coalesce(attempt(op, arg=arg, to=to), attempt(op, arg=number, to=to))
        if to.is_string() and kind.is_float64():
            return self._written(arg)
        if to.is_boolean() and kind.is_string():
            return self.if_(self.f.anon.regexp_like(arg, r"\s"), NULL, attempt(op, arg=arg, to=to))
        return attempt(op, arg=arg, to=to)

    def _written(self, arg):
        """A float as DuckDB writes it: 1.0E7 of Java is 10000000.0, and 1.0E16 is 1e+16."""
        f, text = self.f.anon, lambda value: sg.cast(value, "string", dialect=self.dialect)
        java = text(arg)
        digits = f.replace(f.substring_index(f.replace(java, "-", ""), "E", 1), ".", "")
        digits = f.regexp_replace(digits, "(?<=.)0$", "")
        power = sg.cast(f.element_at(f.split(java, "E"), -1), "int", dialect=self.dialect)
        point, places = f.substring(digits, 2), text(f.abs(power))
        large = f.concat(
            f.rpad(f.substring(digits, 1, power + 1), power + 1, "0"), ".",
            self.if_(f.length(digits) > power + 1, f.substring(digits, power + 2), "0"),
        )  # fmt: skip
        small = f.concat("0.", f.repeat("0", -power - 1), digits)
        science = f.concat(
            f.substring(digits, 1, 1), self.if_(f.length(point).eq(0), "", f.concat(".", point)), "e",
            self.if_(power < 0, "-", "+"), f.lpad(places, f.greatest(2, f.length(places)), "0"),
        )  # fmt: skip
        near = self.if_(sg.and_(power < 0, power >= -4), small, science)
        written = f.concat(self.if_(arg < 0, "-", ""), self.if_(sg.and_(power >= 0, power < 16), large, near))
        return self.if_(f.contains(java, "E"), written, f.replace(f.replace(java, "NaN", "nan"), "Infinity", "inf"))

    def visit_SortKey(self, op, *, arg, ascending, nulls_first):
        """Zero and minus zero are one place in an order."""
        key = sge.paren(arg, copy=False) + sge.convert(0.0) if op.arg.dtype.is_floating() else arg
        return super().visit_SortKey(op, arg=key, ascending=ascending, nulls_first=nulls_first)

    def visit_ExtractEpochSeconds(self, op, *, arg):
        """With the fraction of the second."""
        return self.f.anon.unix_micros(self.cast(arg, dt.timestamp)) / sge.convert(1000000.0)

    def visit_ExtractSecond(self, op, *, arg):
        """A whole number."""
        return self.cast(self.f.anon.second(arg), op.dtype)

    def visit_ExtractMicrosecond(self, op, *, arg):
        """Within the second."""
        return self.cast(self.f.anon.pmod(self.f.anon.unix_micros(self.cast(arg, dt.timestamp)), 1000000), op.dtype)

    def visit_TimestampDelta(self, op, *, part, left, right):
        """The bounds of a unit that lie between two times, not the whole units."""
        unit = str(_constant(op.part))
        at = lambda value: self.f.anon.date_trunc(unit, value)
        return self.f.anon.timestampdiff(self.v[unit], at(right), at(left))

    visit_DateDelta = visit_TimestampDelta

    def visit_FirstValue(self, op, *, arg):
        """Missing where the first is."""
        return self.f.first(arg)

    def visit_LastValue(self, op, *, arg):
        """Missing where the last is."""
        return self.f.last(arg)


def _constant(value) -> Any:
    """What a literal says."""
    if not isinstance(value, ops.Literal):
        raise com.UnsupportedOperationError(f"Spark takes a constant here, not {type(value).__name__}")
    return value.value


@functools.cache
def _odd_cases(case: str) -> tuple[str, str]:
    """Characters whose other case Java writes as several, or by their place in the word; and as DuckDB writes it."""
    import duckdb

    signs = [chr(code) for code in range(0x11000) if not 0xD800 <= code < 0xE000]
    odd = [sign for sign in signs if len(getattr(sign, case)()) > 1 or sign == "\u03a3"]
    with duckdb.connect() as con:
        ours = [con.execute(f"SELECT {case}(?)", [sign]).fetchall()[0][0] for sign in odd]
    return "".join(odd), "".join(ours)


def _java(value, replaces: bool = False, translate: Callable[[str], str] = as_java):
    pattern = _constant(value)
    try:
        if replaces and may_match_nothing(pattern):
            raise Untranslatable("it matches an empty text, which the engines count differently")
        return sge.convert(translate(pattern))
    except Untranslatable as error:
        raise LakeError(
            f"the regular expression {pattern!r} is not computed on Spark: {error}", "[engine] name", ON_DUCKDB
        ) from error


def session(threads: int | None = None, memory: str = ""):
    """Spark's session: this process' own, unless SPARK_REMOTE or MASTER name another.

    Raises
    ------
    ImportError
        pyspark is not installed.
    """
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName("mlloop").config("spark.sql.session.timeZone", "UTC")
    if not os.environ.get("SPARK_REMOTE") and "MASTER" not in os.environ:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        builder = builder.master(f"local[{threads or '*'}]")
        builder = builder.config("spark.ui.enabled", "false").config("spark.driver.host", "127.0.0.1")
        builder = builder.config("spark.sql.shuffle.partitions", str(threads or os.cpu_count() or 2))
        if memory:
            builder = builder.config("spark.driver.memory", memory.upper().removesuffix("B"))
    return builder.getOrCreate()


def connect(session):
    """An Ibis backend on Spark that gives the same rows as DuckDB's.

    Parameters
    ----------
    session : pyspark.sql.SparkSession
    """
    from ibis.backends.pyspark import Backend
    from ibis.formats.pandas import PandasData
    from ibis.formats.pyarrow import PyArrowData

    ibis.pyspark.from_connection(session)  # this registers the backend's options with Ibis

    class SparkBackend(Backend):
        """Rows pass as Arrow: through pandas a whole number beside a missing one would become a float."""

        compiler = Compiler()

        def to_pyarrow(self, expr, /, *, params=None, limit=None, **kwargs: Any):
            self._run_pre_execute_hooks(expr)
            table = expr.as_table()
            with self._safe_raw_sql(self.compile(table, params=params, limit=limit, **kwargs)) as query:
                arrow = query.toArrow()
            return expr.__pyarrow_result__(PyArrowData.convert_table(arrow, table.schema()))

        def execute(self, expr, /, *, params=None, limit=None, **kwargs: Any):
            table = expr.as_table()
            arrow = self.to_pyarrow(table, params=params, limit=limit, **kwargs)
            return expr.__pandas_result__(PandasData.convert_table(_frame(arrow), table.schema()))

    return SparkBackend().connect(session)


def _frame(table: pa.Table):
    import pandas as pd

    return pd.DataFrame({name: table[name].to_pandas() for name in table.column_names}, columns=table.column_names)
