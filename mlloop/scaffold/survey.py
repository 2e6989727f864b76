"""Looks at a table nobody has described yet and says what its columns are, which one leaks the target, and what to ask.

It reads the rows as ingestion will: all values as text. What it cannot know it leaves as a first guess, and says so.
"""

import datetime as dt
import glob
import re
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import ibis
import numpy as np
import pandas as pd

from mlloop import ingestion
from mlloop.collection import FORMATS
from mlloop.core import clock, prose
from mlloop.core.errors import DataError, SourceError, UsageError
from mlloop.core.expressions import quoted
from mlloop.core.formatting import number, percent
from mlloop.core.records import JsonObject, Parameters
from mlloop.data import cleaning, parsing, profiling, whole_files
from mlloop.data import leaks as leak_signs
from mlloop.problem import Column, Source, did_you_mean
from mlloop.scaffold import dialect, notation
from mlloop.scaffold.notation import Hint, Numbers

ROWS, VALUES = 100_000, 20_000_000
"""How many rows are looked at closely, and how many values of a table with many columns."""

FORMS = (
    *("%Y-%m-%d", "%d.%m.%y", "%d.%m.%y %H:%M", "%Y.%m.%d", "%Y.%m.%d.", "%d. %m. %Y", "%Y. %m. %d.", "%Y年%m月%d日"),
    *("%d-%m-%Y %H:%M:%S", "%d-%m-%Y %H:%M", "%d %B %Y", "%B %d, %Y", "%Y%m%d%H%M%S"),
    *("%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%m-%d-%Y", "%m/%d/%y", "%d/%m/%y", "%Y%m%d"),
    *("%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%m/%d/%Y %H:%M:%S"),
    *("%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%m/%d/%y %H:%M", "%d/%m/%y %H:%M"),
    *("%m/%d/%Y %I:%M:%S %p", "%m/%d/%Y %I:%M %p", "%d %b %Y", "%b %d, %Y", "%d-%b-%y", "%d-%b-%Y"),
    *(
        "%d-%m-%y",
        "%m-%d-%y",
        "%y-%m-%d",
        "%y/%m/%d",
        "%y.%m.%d",
        "%d %b %y",
        "%b %d, %y",
        "%d %B %y",
        "%b %d %Y",
        "%B %d %Y",
    ),
    *("%Y-%m-%d %H:%M:%S UTC", "%Y-%m-%d %H:%M:%S GMT", "%a, %d %b %Y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"),
    *("%Y-%m-%d %I:%M %p", "%Y-%m-%d %I:%M:%S %p", "%d/%b/%Y:%H:%M:%S", "%Y-%m-%d-%H.%M.%S.%f", "%Y%m%d %H%M%S"),
    *("%d%b%Y", "%d%b%Y:%H:%M:%S", "%Y-%m-%d %H.%M.%S", "%d/%m/%Y %H.%M.%S", "%d.%m.%Y %H.%M.%S"),
    *(
        "%y%m%d",
        "%Y%j",
        "%Y-%j",
        "%Y%m",
        "%Y-%m",
        "%Y/%m",
        "%m/%Y",
        "%m.%Y",
        "%m-%Y",
        "%b-%y",
        "%b-%Y",
        "%b %Y",
        "%B %Y",
        "%b %y",
    ),
    *(
        "%d. %B %Y",
        "%d. %b %Y",
        "%d/%b/%Y",
        "%d/%b/%y",
        "%d-%B-%Y",
        "%Y %B",
        "%Y %b",
        "%Y-%b",
        "%B-%Y",
        "%d %B %Y %H:%M",
    ),
    *("%d-%m-%y %H:%M", "%y-%m-%d %H:%M", "%y/%m/%d %H:%M", "%d %b %Y %H:%M", "%b %d, %Y %H:%M", "%d-%b-%Y %H:%M:%S"),
)
WORDS = {"true", "false", "yes", "no", "t", "f", "y", "n"}
YES = ("1", "1.0", "true", "yes", "y", "t", "positive", "bad", "default", "churned", "fraud", "dead", "won",
       "ja", "oui", "si", "sí", "sì", "sim", "da", "tak", "ano", "áno", "igen", "evet", "kyllä", "jah", "jā", "taip", "да", "так",
       "ναι", "نعم", "כן", "はい", "是", "예", "네", "wahr", "vrai", "vero", "verdadero", "verdadeiro", "waar", "prawda")  # fmt: skip
NOTHING = {
    "none",
    "no",
    "normal",
    "ok",
    "okay",
    "negative",
    "absent",
    "healthy",
    "nothing",
    "no failure",
    "benign",
    "clean",
}
USER = re.compile(
    r"(^|_)(user|customer|client|member|household|visitor|account|shopper|buyer|reviewer)(_?(id|no|key|number))?$", re.I
)
SUBJECT = re.compile(
    r"(^|[_ .-])(subj(ect)?|patient|pat|pers(on)?|participant|respondent|indiv(idual)?|animal|rat|mouse|dog|cow|pig|sheep|monkey|chick|"
    r"bird|child|infant|baby|twins?|pair|family|household|hh|student|pupil|worker|employee|driver|player|athlete|speaker|listener|"
    r"mother|mom|cluster|litter|nest|tree|specimen|machine|engine|unit|device|sensor|vehicle|wafer|batch|lot|run|firm|company)"
    r"([_ .-]?(id|no|nr|num|number|code|name))?$|^(id|idno|id_?code|pid|ptid|uid|case_?id|person_?id|nr)$",
    re.I,
)
ITEM = re.compile(
    r"(^|_)(item|product|article|sku|stock_?code|movie|book|song|track|isbn|asin|upc|good)(_?(id|no|key|code|number))?$",
    re.I,
)
WHEN = re.compile(r"(date|time|timestamp|_at$|^at$|day$|dt$|when|since)", re.I)
COUNTS_TIME = re.compile(r"(date|time|_at$|^at$|_on$|(^|_)ts$|^t$|epoch|unix|when|since|_(s|ms|utc)$)", re.I)
COUNTS_DAYS = re.compile(r"(date|datum|fecha|_at$|^at$|_on$|(^|_)day$)", re.I)
COUNTS_ORDINALS = re.compile(
    r"(date|datum|fecha|time|_at$|^at$|_on$|(^|_)days?$|ordinal|julian|serial|epoch|^t$|(^|_)(jd|ts)$|when|since)", re.I
)
COUNTED_AS_DATE = re.compile(
    r"^(date|datum|fecha)$|_date$|(?<=[a-z])Date$|(^|_)(on|at|day)$|(^|_)epoch_?days?$|since_(the_)?(epoch|1970)$", re.I
)
BY_MONTH = re.compile(r"(month|period|yyyymm|(^|_)ym$|mois|monat)", re.I)
NAMED_THINGS = (
    "user|cust|customer|client|member|order|trans|transaction|prod|product|item|store|acct|account|emp|employee|patient|pat|subj|subject|"
    "case|person|house|household|family|school|student|session|device|record|invoice|ticket|booking|trip|station|movie|event|loc|location|"
    "party|fam|group|class|plot|tree|animal|site|row|line|sample|batch|machine|unit|game|team|player|image|file|doc|document|study|center|centre"
)
NAMING = re.compile(  # a name that only ends in these letters names nothing: bid, paid, humid, casino
    r"(?i:(^|[_ .])(id|pid|ptid|uid|sid|idno|uuid|guid|key|index|idx|rowid|row|instant|nr|no|nbr|number)$|^unnamed|^rownames?$|^row[_ .]names?$)|"
    rf"(?<=[a-z])(ID|Id|No|Nr|Nbr|Number)$|^(?i:({NAMED_THINGS})(id|nr|no|nbr|number|key))$|(?<=[a-z][hstwynxzfeiq])id$",
)
QUANTITY = re.compile(r"(quantity|qty|pieces|units|count)$", re.I)
PRICE = re.compile(r"(price|amount|sales_value|cost|revenue)", re.I)
TITLE = re.compile(r"(description|name|title|product_?name)$", re.I)
CLASSES = re.compile(
    r"(^|[_ .-])(class(es)?|klasse|classe|label|classification|status|state|type|typ|kind|group|grp|gruppe|cluster|category|cat|species|outcome|diagnosis|"
    r"diag|segment|mode|choice|brand|region|zone|sector|industry|occupation|race|ethnicity|religion|party|vote|arm|treat|treatment|trt|"
    r"cause|event|censor(ed)?|cens|digit|diet|variety|gender|sex|colou?r|variant)(_?(id|no|nr|code|cd))?$|(?<=[a-z])(Class|Type|Status|Group|Code)$",
    re.I,
)
GROUP = re.compile(r"(category|department|genre|group|brand|type|class)$", re.I)


# ---------------------------------------------------------------------------------------------- reading


@dataclass
class SourceSample:
    """A source as it was looked at.

    Attributes
    ----------
    source : Source
    files : list of Path
        The files behind it; none for a database.
    text : DataFrame
        At most about `ROWS` rows and `VALUES` values, every value as text.
    rows, unread : int
        Rows there are, and lines that could not be read at all.
    distinct, missing : dict of str to int
        Of each column, over all rows.
    table : ibis.Table
        All rows, as text.
    notes : list of (what, note)
        What a person should know of how the file is read.
    gone : dict of str to str
        Columns that the newest files no longer have, each with the words.
    totals : dict of str to str
        The column and the word that mark a last row which sums up the others.
    headers : int
        Lines that repeat the header; `unread` counts them too.
    """

    source: Source
    files: list[Path]
    text: pd.DataFrame
    rows: int
    unread: int
    distinct: dict[str, int]
    missing: dict[str, int]
    table: Any = None
    notes: list[tuple[str, str]] = field(default_factory=list)
    gone: dict[str, str] = field(default_factory=dict)
    totals: dict[str, str] = field(default_factory=dict)
    headers: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether `text` holds every row."""
        return len(self.text) == self.rows

    def counts_of(self, name: str) -> pd.Series:
        """How often each text of a column is there, over all rows; missing ones left out."""
        if self.is_whole or self.table is None or name not in self.table.columns:
            return self.text[name].value_counts()
        counted = self.table.filter(self.table[name].notnull()).group_by(name).aggregate(n=lambda t: t.count())
        return counted.to_pandas().set_index(name)["n"]


MEMORY_MB, COLUMN_MB = 600, 2
"""What the engine may hold of a source while it is looked at, and for each column at least; the rest lies in a temporary folder."""


def read_sample(data: str, table: str | None = None, query: str | None = None) -> SourceSample:
    """Read a sample of a file, a glob or folder of files, or a table of a database.

    Raises
    ------
    SourceError, UsageError, DataError
        Nothing there, a format that is not known, no column or no row.
    """
    folder = Path(tempfile.mkdtemp(prefix="mlloop-new-"))
    try:
        sample = _read_sample(data, table, query, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(sample, shutil.rmtree, folder, ignore_errors=True)
    return sample


def _read_sample(data: str, table: str | None, query: str | None, folder: Path) -> SourceSample:
    """The sample; what the engine's memory does not hold lies in `folder`, for as long as the sample is there."""
    import ibis

    notes: list[tuple[str, str]]
    if "://" in data:
        source, files, raws, notes = *_database(data, table, query, folder), None, []
    else:
        if table or query:
            raise UsageError("--table and --query belong to a database's URL", next_step=f"Example: {EXAMPLE}")
        source, files, raws, notes = _files(data, folder)
    raws = raws or [ingestion.RawFile(folder / "sample.parquet", "parquet", "query", source)]
    raws = [ingestion.as_utf8(raw, folder) for raw in raws]
    _must_be_one_table(raws, data)
    names = list(dict.fromkeys(name for raw in raws[:50] for name in ingestion.header(raw) if name.strip()))
    if len(names) < 2:
        raise DataError(
            f"has {len(names)} column{'s' if len(names) != 1 else ''} ({', '.join(names) or 'none'})",
            data,
            "Is it a table with a header line?",
        )
    room = f"{max(MEMORY_MB, COLUMN_MB * len(names))}MB"
    con = ibis.duckdb.connect(memory_limit=room, temp_directory=str(folder / "engine"))
    rows, unread = ingestion.raw_rows(con, raws, names)
    sample = _counted(rows, unread, names, source, files, data)
    sample.headers = int(unread.filter(unread["_reason"] == ingestion.HEADER_AGAIN).count().to_pyarrow().as_py())
    changes, sample.gone = _changes(raws)
    sample.notes = [*notes, *_renamed(names), *changes, *_unread(sample), *_take_out_totals(sample)]
    return sample


EXAMPLE = "mlloop new churn --data customers.csv --target churned"


def _renamed(names: Sequence[str]) -> list[tuple[str, str]]:
    """What to say of columns that have the name of another, whatever its case."""
    bases = {name: match[1] for name in names if (match := re.fullmatch(r"(.*) \(\d+\)", name, re.S))}
    first = {name.lower(): name for name in reversed(names)}
    alike = "{!r} and {!r} are one name to a database: the second is called {!r} here"
    own = "{!r} is a name that ingestion uses itself: it is called {!r} here"
    return [
        ("columns", alike.format(first[base.lower()], base, name) if base.lower() in first else own.format(base, name))
        for name, base in bases.items()
        if base.lower() in first or base.startswith("_") or base == "self"
    ]


TOTALS = re.compile(
    r"((grand|sub)[ -]?)?totals?|total (général|general|generale)|(gesamt)?summe|gesamt|insgesamt|somme|suma( total)?|totale|totaal|итого|合計",
    re.I,
)


def _take_out_totals(sample: SourceSample) -> list[tuple[str, str]]:
    """Leave out a last row that sums up the others, as a spreadsheet's does; what to say of it."""
    if not sample.is_whole or len(sample.text) < 3:
        return []
    last = sample.text.iloc[-1]
    for name, value in last.items():
        word = str(value or "").strip()
        if TOTALS.fullmatch(word.rstrip(": ")) and int((sample.text[name] == value).sum()) == 1:
            rest = sample.text.iloc[:-1]
            sample.text, sample.rows, sample.totals = rest, sample.rows - 1, {str(name): word}
            sample.distinct, sample.missing = _counts(sample.table, rest, list(rest.columns))
            sample.table = sample.table.filter(sample.table[name].isnull() | (sample.table[name] != value))
            return [
                ("totals", f"the last row sums up the others ({name} is {word!r}): it is no row of them, and set aside")
            ]
    return []


def _unread(sample: SourceSample) -> list[tuple[str, str]]:
    """What to say of lines that could not be read at all, and of those that repeat the header."""
    notes = []
    if sample.headers:
        repeat = "lines repeat" if sample.headers > 1 else "line repeats"
        notes.append(
            ("header again", f"{sample.headers:,} {repeat} the header: set aside, and counted by `mlloop run`")
        )
    damaged = sample.unread - sample.headers
    if damaged:
        lines = "lines have" if damaged > 1 else "line has"
        notes.append(
            (
                "not read",
                f"{damaged:,} {lines} more or fewer values than the header, or bytes that cannot be read: "
                "set aside, and counted with its reason by `mlloop run`",
            )
        )
    return notes


SAME_TABLE = 0.5  # of the columns of the narrower of two files, that the other has


def _must_be_one_table(raws: Sequence[ingestion.RawFile], data: str) -> None:
    """Refuse files that are different tables, such as customers and orders: one below the other they mean nothing."""
    if len(raws) < 2 or raws[0].format == "jsonl":  # keys of JSON come and go
        return
    tables: list[tuple[str, set[str]]] = []
    for raw in raws[:MAX_HEADERS]:
        names = {name for name in ingestion.header(raw) if name.strip()}
        alike = [one for one in tables if len(names & one[1]) >= SAME_TABLE * min(len(names), len(one[1]))]
        if alike:
            alike[0][1].update(names)
        elif names:
            tables.append((raw.origin, names))
    if len(tables) > 1:
        (first, columns), (second, others) = tables[:2]
        shared = ", ".join(sorted(columns & others)[:5]) or "no column"
        raise DataError(
            f"holds {len(tables)} different tables: {first} and {second} share {shared}",
            data,
            "Give the files that hold the target (--data FILE); the others are further sources, put together by joins: in the statement",
        )


def _changes(raws: Sequence[ingestion.RawFile]) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """What to say of columns that not every file has, the files in the order of their names; and those that the newest lack."""
    if len(raws) < 2 or raws[0].format == "jsonl":  # keys of JSON come and go from row to row
        return [], {}
    headers = [[name for name in ingestion.header(raw) if name.strip()] for raw in raws[:MAX_HEADERS]]
    notes: list[tuple[str, str]] = []
    gone: dict[str, str] = {}
    for name in dict.fromkeys(name for header in headers for name in header):
        there = [name in header for header in headers]
        if all(there):
            continue
        first, last = there.index(True), len(there) - 1 - there[::-1].index(True)
        change = f"{name!r} is in {sum(there)} of {len(there)} files"
        if first and all(there[first:]):
            change += f", from {raws[first].origin} on"
        if last + 1 < len(there) and len(raws) <= MAX_HEADERS:
            change += f", the last of them {raws[last].origin}: the newest do not have it, so it is no feature"
            gone[name] = f"not in the newest files: the last that has it is {raws[last].origin}"
        notes.append(("columns differ", change))
    return notes, gone


MAX_HEADERS = 200
"""Files of which the header is read."""


def _counted(rows, unread, names, source, files, data) -> SourceSample:
    values = rows.select(*names)
    count = rows.count().to_pyarrow().as_py()
    if not count:
        raise DataError("holds no row", data, "Look at the file, or at the query")
    some = rows
    most = min(ROWS, max(5_000, VALUES // len(names)))
    if count > most:
        some = some.filter((some["_row"].hash().abs() % 1_000_000) < int(1_000_000 * most / count))
    text = some.order_by("_n", "_row").select(*names).to_pandas().astype(object)
    return SourceSample(
        source,
        files,
        text.where(text.notna(), None),
        count,
        int(unread.count().to_pyarrow().as_py()),
        *_counts(values, text if len(text) == count else None, names, count),
        values,
    )


COLUMNS_AT_ONCE, VALUES_AT_ONCE = 40, 10_000_000


def _counts(
    values, whole: pd.DataFrame | None, names: Sequence[str], rows: int = 0
) -> tuple[dict[str, int], dict[str, int]]:
    """Different and missing values of each column, over all rows: of a table at hand, or by the engine, some columns at once."""
    import ibis

    if whole is not None:
        gone = {name: len(whole) - len(_known(whole[name])) for name in names}
        return {name: int(whole[name].nunique()) for name in names}, gone
    distinct: dict[str, int] = {}
    missing: dict[str, int] = {}
    at_once = max(1, min(COLUMNS_AT_ONCE, VALUES_AT_ONCE // max(rows, 1)))
    for start in range(0, len(names), at_once):
        part = names[start : start + at_once]
        # numbers that stand for the texts take less room than the texts, and two hardly ever share one
        totals = {
            f"d{i}": values[name].isnull().ifelse(ibis.null("int64"), values[name].hash()).nunique()
            for i, name in enumerate(part)
        }
        totals |= {
            f"m{i}": (values[name].strip().lower().isin(parsing.MISSING) | values[name].isnull()).sum()
            for i, name in enumerate(part)
        }
        counted = values.aggregate(**totals).to_pyarrow().to_pylist()[0]
        distinct |= {name: counted[f"d{i}"] or 0 for i, name in enumerate(part)}
        missing |= {name: int(counted[f"m{i}"] or 0) for i, name in enumerate(part)}
    return distinct, missing


def different_rows(sample: SourceSample) -> int:
    """How many of all rows differ from each other; each is told by a number of 64 bits made of its values."""
    content = ingestion._hash(sample.table, list(sample.table.columns))
    return int(sample.table.aggregate(n=content.nunique()).to_pyarrow().to_pylist()[0]["n"])


def _files(data: str, folder: Path) -> tuple[Source, list[Path], list[ingestion.RawFile], list[tuple[str, str]]]:
    path = Path(data).expanduser()
    pattern = str(path / "*") if path.is_dir() else str(path)
    files = sorted(Path(p) for p in glob.glob(pattern) if Path(p).is_file())  # noqa: PTH207
    for file in files:
        if any("\ud800" <= letter <= "\udfff" for letter in file.name):
            raise SourceError(
                "has a name that is not UTF-8 text", ascii(str(file))[1:-1], "Rename the file, then: " + EXAMPLE
            )
    if not files:
        near = sorted(p.name for p in path.parent.glob("*") if p.is_file())[:8] if path.parent.is_dir() else []
        raise SourceError(
            "there is no such file" + (did_you_mean(path.name, near) if near else ""), data, "Name it: --data FILE"
        )
    suffix = lambda guess: Path(guess.name.removesuffix(".gz")).suffix.lower()
    if path.is_dir():
        files = [guess for guess in files if suffix(guess) in FORMATS]
    strange = sorted({suffix(guess) for guess in files} - set(FORMATS))
    if strange or not files:
        known = "CSV, TSV, Parquet, JSON and JSON lines, each also .gz, spreadsheets, and SQL by URL"
        what = f"{strange[0]!r} is not a format that is read" if strange else "holds no file of a format that is read"
        raise SourceError(f"{what} ({known})", data, "Save it as CSV or Parquet, then: " + EXAMPLE)
    form = FORMATS[suffix(files[0])]
    glob_or_file = str(files[0].resolve()) if len(files) == 1 else str(Path(pattern).resolve())
    fields: Parameters = {"kind": "files", "path": glob_or_file, "format": form}
    notes: list[tuple[str, str]] = []
    if form == "sheet":
        notes += _other_sheets(files[0])
    if "csv" in (form, whole_files.LINES_OF.get(form)):
        text = files[0] if form == "csv" else folder / "first.csv"
        if form != "csv":
            whole_files.written_out(files[0], form, text)
        written = dialect.read(text, suffix(text))
        fields, notes = fields | written.source(), [*notes, *written.notes]
    source = Source(**fields)
    return source, files, [ingestion.RawFile(file, form, file.name, source) for file in files], notes


def _other_sheets(file: Path) -> list[tuple[str, str]]:
    """What to say of a spreadsheet that has several sheets."""
    first, *others = whole_files.sheets(file) or [""]
    if not others:
        return []
    rest = ", ".join(map(repr, others[:5])) + (" ..." if len(others) > 5 else "")
    return [("sheets", f"the first, {first!r}, is read; for another ({rest}) state sheet: under sources")]


def _database(url: str, table: str | None, query: str | None, folder: Path) -> tuple[Source, list[Path]]:
    import sqlalchemy as sa
    from sqlalchemy.exc import SQLAlchemyError

    from mlloop.collection import CHUNK_ROWS, write_rows

    if url.startswith("sqlite:///"):
        file = Path(url.removeprefix("sqlite:///").split("?")[0]).expanduser().resolve()
        if not file.is_file():
            raise SourceError("there is no such database", str(file), "Name it: --data sqlite:///FILE --table TABLE")
        url = f"sqlite:///{file}"
    try:
        engine = sa.create_engine(url)
        known = sa.inspect(engine).get_table_names()
        if table is None and query is None and len(known) != 1:
            raise UsageError(
                f"which table? There are: {', '.join(known) or 'none'}", url, "Say it: --table NAME, or --query SQL"
            )
        table = None if query else (table or known[0])
        if table and "." not in table and table not in known + sa.inspect(engine).get_view_names():
            raise SourceError(f"there is no table {table!r}" + did_you_mean(table, known), url, "Say it: --table NAME")
        inner = (
            f"({query}) AS asked"
            if query
            else ".".join(engine.dialect.identifier_preparer.quote(p) for p in (table or "").split("."))
        )
        with engine.connect().execution_options(stream_results=True) as connection:
            result = connection.execute(sa.text(f"SELECT * FROM {inner}"))
            columns = list(result.keys())
            rows = ([dict(r) for r in part] for part in result.mappings().partitions(CHUNK_ROWS))
            write_rows(rows, folder / "sample.parquet", columns)
    except (SQLAlchemyError, ImportError) as error:
        raise SourceError(
            " ".join(str(getattr(error, "orig", None) or error).split())[:300],
            url,
            "Fix the URL or the query, then try again",
        ) from error
    return Source(kind="sql", url=url, table=table, query=query), []


# ---------------------------------------------------------------------------------------------- columns


@dataclass
class Guess:
    """What a column seems to be.

    Attributes
    ----------
    column : Column
    why : str
        A note for the statement: '' where there is nothing to say.
    values : Series
        The sample's values in that type.
    cleaning : list of dict
        Cleaning rules that make it so.
    question : str
        What the values leave open, and how it was read.
    numbers : Numbers or None
        How its numbers are written.
    day_first : bool or None
        Whether its dates show that the day comes first.
    """

    column: Column
    why: str
    values: pd.Series
    cleaning: list[JsonObject] = field(default_factory=list)
    question: str = ""
    numbers: Numbers | None = None
    day_first: bool | None = None

    @property
    def is_time(self) -> bool:
        return self.column.type in ("time", "date")

    @property
    def is_number(self) -> bool:
        return self.values.dtype.kind in "if"


def guess(name: str, text: pd.Series, hint: Hint | None = None, separator: str = ",") -> Guess:
    """The type of one column of text, and what makes its values fit.

    Parameters
    ----------
    hint : Hint, optional
        What other columns of the file say, where the values allow two readings.
    separator : str
        Between the values of the file.
    """
    known = _known(text)
    if known.empty:
        return Guess(Column(type="text", feature=False), "no value at all", text)
    guessed = (
        _boolean(known)
        or _counting(name, known)
        or _number(name, known, hint, separator)
        or _moment(known, hint)
        or _duration(name, known)
        or _dressed(name, known, hint, separator)
        or _text(name, known)
    )
    guessed.values = guessed.values.reindex(text.index)
    return guessed


def _known(text: pd.Series) -> pd.Series:
    """The texts without spaces around them, and without those that stand for a missing value."""
    gone = frozenset(parsing.MISSING)
    if pd.api.types.infer_dtype(text, skipna=True) != "string":
        known = text[text.notna()].map(lambda value: value.strip() if isinstance(value, str) else value)
        return known[[not isinstance(value, str) or value.lower() not in gone for value in known]].astype(object)
    places, different = pd.factorize(text)  # what is written often is read once
    stripped = np.array([*(value.strip() for value in different), None], dtype=object)
    there = np.array([*(value.lower() not in gone for value in stripped[:-1]), False])[places]
    return pd.Series(stripped[places[there]], index=text.index[there], dtype=object)


def _boolean(known: pd.Series) -> Guess | None:
    if str(known.iloc[0]).lower() not in WORDS:
        return None
    low = known.str.lower()
    if not set(low.unique()) <= WORDS or low.nunique() != 2:
        return None
    return Guess(Column(type="boolean"), "", low.isin(parsing.TRUE))


COUNTED = (  # a format of the statement, the names it is asked of, its lowest and highest count, and what it counts
    ("unix_s", COUNTS_TIME, 6e8, 2.3e9, "seconds since 1970"),
    ("unix_ms", COUNTS_TIME, 6e11, 2.3e12, "milliseconds since 1970"),
    ("excel", COUNTS_DAYS, 32_874, 54_789, "days as a spreadsheet does"),
    ("ordinal", COUNTS_ORDINALS, 693_596, 755_000, "days since the year 1, as Python does"),
    ("matlab", COUNTS_ORDINALS, 693_962, 755_366, "days since the year 0, as MATLAB does"),
    ("julian", COUNTS_ORDINALS, 2_415_020, 2_476_500, "Julian days"),
    ("days_1970", COUNTED_AS_DATE, 7_305, 25_567, "days since 1970"),
)
MONTH_AND_DAY = r"\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"
"""Five digits that are more likely a year, a month and a day than a count of days."""


def _counting(name: str, known: pd.Series) -> Guess | None:
    """A moment that a program counts instead of writing it: by the column's name, and where every count is of our time."""
    if not any(names.search(name) for _, names, *_ in COUNTED) or not notation.every(r"\d{4,13}(\.\d*)?|0", known):
        return None
    counts = pd.to_numeric(known).astype(float)
    zero = counts == 0
    there = counts[~zero]
    able = [
        (form, meaning)
        for form, names, low, high, meaning in COUNTED
        if names.search(name) and there.nunique() > 3 and there.between(low, high).all()
    ]
    if {form for form, _ in able} >= {"ordinal", "matlab"} and _is_of_matlab(name, there):
        able.sort(key=lambda pair: pair[0] != "matlab")
    is_unlikely = bool((there % 1 != 0).any()) or notation.every(MONTH_AND_DAY, known)
    if not able or (able[0][0] == "days_1970" and is_unlikely):
        return None
    form, meaning = able[0]
    unit_ms, since = parsing.COUNTED[form]
    values = (pd.Timestamp(0) + pd.to_timedelta(((counts - since) * unit_ms).round().astype("int64"), "ms")).mask(zero)
    values = values.astype("datetime64[us]")
    whole = unit_ms == parsing.DAY_MS and bool((there % 1 == (0.5 if form == "julian" else 0)).all())
    column = Column(type="date" if whole else "time", format=form, missing=["0"] if zero.any() else [])
    why = f"counts {meaning}: {known[there.index[0]]} is {values[there.index[0]]:%Y-%m-%d}"
    others = [f"{other} ({count})" for other, count in able[1:]]
    why += f"; if it counts otherwise, change format: {', '.join(others)}" if others else ""
    return Guess(column, why, values, question=why)


def _is_of_matlab(name: str, counts: pd.Series) -> bool:
    """Whether days since a year without a name are counted as MATLAB does: by the name, parts of days, or days that are still to come."""
    from_year_1 = pd.Timestamp(0) + pd.Timedelta(days=float(counts.max()) - parsing.COUNTED["ordinal"][1])
    in_future = from_year_1 > pd.Timestamp(clock.now().replace(tzinfo=None)) + pd.Timedelta(days=2)
    return "datenum" in name.lower().replace("_", "") or bool((counts % 1 != 0).any()) or in_future


def _number(name: str, known: pd.Series, hint: Hint | None, separator: str) -> Guess | None:
    """A number that ingestion reads as it is written; or digits that name things."""
    if WHEN.search(name) and notation.every(r"(19|20)\d\d[01]\d[0-3]\d", known):
        return None
    if (WHEN.search(name) or BY_MONTH.search(name)) and notation.every(r"(19|20)\d\d(0[1-9]|1[0-2])", known):
        return None
    if (
        WHEN.search(name)
        and known.nunique() > 20
        and notation.every(r"\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", known)
    ):
        return None
    if WHEN.search(name) and notation.every(r"(19|20)\d\d([0-2]\d\d|3[0-5]\d|36[0-6])", known):
        return None
    named = notation.names_things(name, known)
    if named:
        return _text(name, known, named)
    numbers = notation.read(known, hint, separator)
    if numbers is None or not numbers.is_bare:
        return None
    if numbers.is_whole and numbers.thousands is None:
        return Guess(Column(type="integer"), "", numbers.values, numbers=numbers)
    options_of: Parameters = {"decimal": numbers.decimal} if not numbers.is_whole or numbers.thousands else {}
    options_of |= {"thousands": numbers.thousands} if numbers.thousands else {}
    words = {",": "a comma", ".": "a point", " ": "a space", "'": "an apostrophe"}
    why = numbers.why or (f"thousands are set apart by {words[numbers.thousands]}" if numbers.thousands else "")
    why = why or ("the decimal sign is a comma" if numbers.decimal == "," else "")
    if numbers.open:
        other = (
            {"decimal": ",", "thousands": "."}
            if (numbers.decimal == ",") == bool(numbers.thousands)
            else {"thousands": ","}
        )
        other = {"decimal": numbers.open} if numbers.thousands else other
        why = f"{why}: {other}".replace("'", "").replace("{", "").replace("}", "")
    return Guess(
        Column(type="number", **options_of), why, numbers.values, question=why if numbers.open else "", numbers=numbers
    )


PLACEHOLDER_DAYS = {"9999-12-31", "9999-01-01", "9998-12-31", "2999-12-31", "2999-01-01", "3000-01-01", "2199-12-31", "2100-12-31",
                    "2099-12-31", "1970-01-01", "1900-01-01", "1899-12-30", "1899-12-31", "1800-01-01", "1753-01-01", "1601-01-01",
                    "1111-11-11", "1000-01-01", "0001-01-01"}  # fmt: skip
NO_DAY = r"0{1,4}[-./ ]0{1,2}[-./ ]0{1,4}([ T]0.*)?"


def _moment(known: pd.Series, hint: Hint | None) -> Guess | None:
    if not notation.some(r"\d", known):
        return None
    zero = known.str.fullmatch(NO_DAY) if notation.some(r"\A0", known) else pd.Series(False, index=known.index)
    written, known = known[zero], known[~zero]
    if known.empty:
        return None
    some = known if len(known) <= 3000 else known.sample(3000, random_state=0)
    moments = _iso(known) if some.str.match(parsing.ISO).mean() > 0.98 else None
    moments = moments or _span(known) or _formatted(known, some, hint)
    if moments is not None:
        _without_placeholders(moments, known, sorted(set(written)))
    return moments


def moments_of(texts: pd.Series, form: str) -> pd.Series:
    """The moments that texts stand for in a format of the statement; missing where they do not fit."""
    if form not in parsing.SPANS:
        return _strptime(texts, form)
    column = Column(type="date", format=form)
    rows = ibis.memtable({"at": range(len(texts)), "text": texts.astype(object).where(texts.notna(), None)})
    read = rows.select("at", moment=parsing.parse_value(rows.text, column)).order_by("at").execute()["moment"]
    return pd.Series(pd.to_datetime(read).to_numpy(), index=texts.index)


def _begun(texts: pd.Series, form: str | None) -> tuple[pd.Series, pd.Series]:
    """Texts with the hour 0 where their hour 24 ends the day, and whether it does: that is the midnight that begins the next day."""
    midnight = parsing.midnight_of(form)
    if midnight is None:
        return texts, pd.Series(False, index=texts.index)
    ends = texts.astype("string").str.fullmatch(midnight.removesuffix("$")).fillna(False).astype(bool)
    return texts.where(~ends, texts.str.replace(midnight, r"\g<1>00\g<2>", regex=True)) if ends.any() else texts, ends


def _strptime(texts: pd.Series, form: str) -> pd.Series:
    """The moments of texts in a strptime form, as ingestion reads them: months in any language, two digits of a year until 2049."""
    begun, ended = _begun(texts, form)
    if ended.any():
        return _strptime(begun, form) + _days(ended)
    values = pd.Series(pd.to_datetime(texts, format=form, errors="coerce"), index=texts.index)
    if "%b" in form or "%B" in form:
        lost = texts[values.isna() & texts.notna()]
        if len(lost):
            named = dict(zip(lost.unique(), map(parsing.month_in_english, lost.unique()), strict=True))
            english = pd.to_datetime(lost.map(named), format=form.replace("%B", "%b"), errors="coerce")
            values = values.fillna(english)
    if "%y" in form:
        late = values.dt.year > parsing.LAST_YEAR
        values = values.mask(late, values - pd.DateOffset(years=100)) if late.any() else values
    return values


WRITTEN_SPANS = {
    "year_quarter": r"\d{4}[ :/-]?[Qq][1-4]|([Qq][1-4]|[1-4][Qq])[ :/-]?\d{4}",
    "year_week": r"\d{4}[ :/-]?[Kk]?[Ww][ .]?\d{1,2}|[Kk]?[Ww][ .]?\d{1,2}[ :/-]?\d{4}",
}


def _span(known: pd.Series) -> Guess | None:
    """A quarter or a week of a year, such as 2025-Q1 or 2025-W05, as its first day."""
    form = next((form for form, pattern in WRITTEN_SPANS.items() if notation.every(pattern, known)), None)
    if form is None:
        return None
    span = form.removeprefix("year_")
    return Guess(Column(type="date", format=form), f"the first day of each {span}", moments_of(known, form))


def _iso(known: pd.Series) -> Guess | None:
    begun, ended = _begun(known, None)
    values = pd.to_datetime(begun, format="ISO8601", errors="coerce", utc=True).dt.tz_localize(None)
    values = _beyond(values, begun, dt.datetime.fromisoformat) + _days(ended)
    if values.notna().mean() <= 0.98:
        return None
    whole = bool((known.str.len() <= 10).all())
    zones = _zones(known)
    return Guess(
        Column(type="date" if whole else "time"),
        "; ".join(filter(None, (_unfit(values), zones))),
        values,
        question=zones,
    )


def _zones(known: pd.Series) -> str:
    """What to say of moments of which some name their offset from UTC and some do not; '' where all do, or none."""
    offset = known.astype("string").str.extract(r":\d\d(?:\.\d+)?\s*(Z|[+-]\d\d:?\d{0,2})$")[0]
    if offset.isna().all() or offset.notna().all():
        return ""
    return (
        f"{int(offset.isna().sum()):,} of {len(known):,} moments name no offset from UTC and are read as UTC, the others name "
        f"{', '.join(sorted(offset.dropna().unique())[:4])}"
    )


def _days(ended: pd.Series) -> pd.Series:
    """A day for each time that is written as the end of its day, in microseconds: nanoseconds hold no year 9999."""
    return pd.to_timedelta(ended.astype(int), "D").astype("timedelta64[us]")


def _beyond(values: pd.Series, known: pd.Series, parse: Any) -> pd.Series:
    """The times in microseconds, with those that nanoseconds cannot hold: before 1677 and after 2262."""
    values = values.astype("datetime64[us]")
    lost = known[values.isna()]
    for text in lost.unique()[:2000]:
        try:
            moment = parse(text)
        except ValueError:
            continue
        values.loc[lost.index[lost == text]] = np.datetime64(moment.replace(tzinfo=None), "us")  # type: ignore[call-overload]
    return values


def _formatted(known: pd.Series, some: pd.Series, hint: Hint | None) -> Guess | None:
    if not some.str.contains(r"\d").mean() > 0.9 or some.str.len().median() < 6:
        return None
    share = lambda text, form: _strptime(text, form).notna().mean()
    few = some.head(60)
    able = FORMS if notation.every(r"\d{4}-?\d{3}", few) else [form for form in FORMS if "%j" not in form]
    fits = {form: share(some, form) for form in able if share(few, form) > 0.3}
    best = max(fits.values(), default=0.0)
    if best < 0.9:
        return _in_several_forms(known, some, hint)
    tied = _narrowest([form for form, fit in fits.items() if fit == best], some)
    day_first = hint.day_first if hint else None
    if day_first is not None:
        tied.sort(key=lambda form: _day_first(form) is (not day_first))
    forms = tied[:1]
    rest = some[_strptime(some, forms[0]).isna()]
    if best < 0.995 and len(rest):
        more = {form: share(rest, form) for form in FORMS if form not in forms}
        forms += [form for form, fit in sorted(more.items(), key=lambda pair: -pair[1])[:1] if fit > 0.3]
    values = pd.concat([_strptime(known, form) for form in forms], axis=1).bfill(axis=1).iloc[:, 0]
    values = _beyond(values, known, lambda text: dt.datetime.strptime(text, forms[0]))
    order = {_day_first(form) for form in tied}
    why, question = _unfit(values), ""
    if {True, False} <= order:
        read = "the day" if _day_first(forms[0]) else "the month"
        shown = f", as in {hint.day_shown_by}" if hint and hint.day_shown_by else ""
        question = (
            f"day or month first? Both would do: {some.iloc[0]} is read with {read} first{shown}; if not, change format"
        )
    whole = not any("%H" in form or "%I" in form for form in forms)
    stated = forms[0] if len(forms) == 1 else forms
    guessed = Guess(Column(type="date" if whole else "time", format=stated), question or why, values, question=question)
    guessed.day_first = _day_first(forms[0]) if len(order) == 1 else None
    return guessed


MOST_FORMS, FEWEST_OF_FORM = (
    4,
    0.02,
)  # ways in which one column writes its dates, and the share of the values that each has at least


def _in_several_forms(known: pd.Series, some: pd.Series, hint: Hint | None) -> Guess | None:
    """Dates of which some are written in one way and some in others, where nearly each is a date in one of them."""
    rest, tied_order = some, None
    forms: list[str] = []
    while len(rest) and len(forms) < MOST_FORMS:
        read = {form: _strptime(rest, form).notna() for form in FORMS if "%j" not in form}
        counts = {form: int(fits.sum()) for form, fits in read.items()}
        most = max(counts.values())
        if most < FEWEST_OF_FORM * len(some):
            break
        tied = _narrowest([form for form in read if counts[form] == most], rest)
        order = {_day_first(form) for form in tied}
        if {True, False} <= order:
            day_first = hint.day_first if hint and hint.day_first is not None else True
            tied.sort(key=lambda form: _day_first(form) is (not day_first))
            tied_order = tied[0]
        forms.append(tied[0])
        rest = rest[~read[tied[0]]]
    if len(forms) < 2 or len(rest) > 0.02 * len(some):
        return None
    values = pd.concat([_strptime(known, form) for form in forms], axis=1).bfill(axis=1).iloc[:, 0]
    shown = ", ".join(f"{percent(float(_strptime(some, form).notna().mean()))} as {form}" for form in forms)
    question = f"dates are written in {len(forms)} ways: {shown}"
    if tied_order:
        read_first = "the day" if _day_first(tied_order) else "the month"
        question += f"; in {tied_order} day and month could be taken for each other, and {read_first} is read first"
    unfit = _unfit(values)
    question += f"; {unfit}" if unfit else ""
    whole = not any("%H" in form or "%I" in form for form in forms)
    return Guess(Column(type="date" if whole else "time", format=forms), question, values, question=question)


def _narrowest(forms: list[str], some: pd.Series) -> list[str]:
    """Of forms that all fit, those whose dates lie closest together: 21-04-03 is a day of 2021 where the first two digits are few."""
    spans = {}
    for form in forms if len(forms) > 1 else ():
        values = _strptime(some, form).dropna()
        low, high = np.percentile(values.to_numpy("datetime64[s]").astype(float), [2, 98])
        spans[form] = high - low
    return [form for form in forms if spans[form] <= 2 * min(spans.values())] if spans else forms


def _day_first(form: str) -> bool | None:
    """Whether the day comes before the month, where both are digits that could be taken for one another."""
    if "%d" not in form or "%m" not in form or form[:2] in ("%Y", "%y") or "." in form:
        return None
    return form.index("%d") < form.index("%m")


def _without_placeholders(guessed: Guess, known: pd.Series, written: list[str]) -> None:
    """Take out days that stand for none: 9999-12-31 for what is still open, 1900-01-01 for what nobody knows."""
    days = guessed.values.dropna().astype("datetime64[s]").dt.strftime("%Y-%m-%d")
    counts = days.value_counts()
    often = {day for day, n in counts.items() if n >= max(3, 0.002 * len(known))}
    able = {day for day in counts.index if day in PLACEHOLDER_DAYS or (day in often and not "1800" <= day < "2200")}
    usual = guessed.values[days.index[~days.isin(able)]]
    gap, far = np.timedelta64(5 * 365, "D"), set()
    for day in able if len(usual) else ():
        at, surely = np.datetime64(day), day > "2200" or day < "1800"
        if (at > usual.max().to_datetime64() + gap or at < usual.min().to_datetime64() - gap) and (
            surely or day in often
        ):
            far.add(day)
    gone = days.index[days.isin(far)]
    texts = [*written, *sorted(set(known[gone]))]
    if texts:
        n = len(gone)
        guessed.values[gone] = pd.NaT
        guessed.column = guessed.column.model_copy(update={"missing": texts})
        share = f" ({percent(n / len(known))} of the values)" if n else ""
        means = "means still open" if any(day > "2090" for day in far) else "means none"
        question = f"{', '.join(texts[:3])}{share} {means}: it counts as missing"
        guessed.why, guessed.question = question, "; ".join(part for part in (guessed.question, question) if part)


def _unfit(values: pd.Series) -> str:
    bad = int(values.isna().sum())
    return f"{bad:,} of {len(values):,} values are no times: their rows are set aside" if bad else ""


def outlying(times: pd.Series) -> tuple[pd.Series, dict[str, dt.datetime]]:
    """Which times lie far outside all others, as those do that were mistyped; and the bounds that set them aside.

    Returns
    -------
    far : Series of bool
    bounds : dict
        'min' and 'max', where something lies before or after.
    """
    known = times.dropna().sort_values()
    bounds: dict[str, dt.datetime] = {}
    far, n = pd.Series(False, index=times.index), len(known)
    if n < 20:
        return far, bounds
    most = int(max(2, 0.005 * n))
    core = known.iloc[most : n - most]
    least = max(core.iloc[-1] - core.iloc[0], pd.Timedelta(days=30))
    for name, ends in (("min", known.iloc[: most + 1][::-1]), ("max", known.iloc[n - most - 1 :])):
        steps = ends.diff().abs()
        if (steps > least).any():
            at = int(np.argmax((steps > least).to_numpy()))
            near, off = ends.iloc[at - 1], ends.iloc[at]
            middle = (near + (off - near) / 2).normalize()
            new_year = middle.replace(month=1, day=1) + pd.DateOffset(years=1)
            bound = middle if name == "max" else min(new_year, near.normalize())
            bounds[name] = bound.to_pydatetime()
            far |= (times <= off) if name == "min" else (times >= off)
    return far, bounds


def set_aside_outlying(columns: dict[str, Guess], time: str, is_whole: bool = True) -> list[tuple[str, str]]:
    """Bound the time column where a few rows lie far outside all others; what there is to say of it."""
    of_time = columns[time]
    far, bounds = outlying(of_time.values)
    if not bounds:
        return []
    shown = ", ".join(f"{at:%Y-%m-%d}" for at in of_time.values[far].drop_duplicates().sort_values()[:3])
    rows = f"{len(far):,} rows" if is_whole else f"{len(far):,} rows looked at"
    question = f"{int(far.sum())} of {rows} lie far outside the others ({shown}): they are set aside"
    columns[time] = _changed(of_time, why=question, **bounds)
    columns[time].values = of_time.values.mask(far)
    limits = " and ".join(f"{name} {at:%Y-%m-%d}" for name, at in bounds.items())
    return [("time", f"{time}: {question} by {limits}")]


def _dressed(name: str, known: pd.Series, hint: Hint | None, separator: str) -> Guess | None:
    """Numbers with units or among words that mean nothing: text that a cleaning rule makes a number."""
    different = pd.Series(known.unique(), dtype=object)
    fits = known.map(dict(zip(different, notation.unified(different).str.fullmatch(notation.PARTS), strict=True)))
    words = known[~fits].str.lower()
    strange = words[~words.isin(profiling.MISSING_PLACEHOLDERS)]
    enough = fits.sum() >= 20 or (fits.all() and len(known) >= 3)
    if not enough or len(strange) > 0.1 * len(known) or strange.nunique() > max(5, 0.02 * len(known)):
        return None
    numbers = notation.read(known[fits], hint, separator)
    if (
        numbers is None
        or NAMING.search(name)
        or notation.is_code(numbers, known[fits])
        or _names_ranges(known[fits], numbers)
        or _names_ranks(known[fits], numbers)
    ):
        return None
    if notation.CODES.search(name) and numbers.is_whole and not numbers.units:
        return None  # a postcode beside one with four more digits
    letters = {dress for dress in numbers.units if re.search(r"[^\W\d_]", dress)}
    single = {dress for dress in letters if len(dress) == 1}
    if (notation.CODES.search(name) or len(single) > 2) and letters - notation.KNOWN_UNITS:
        return None  # 5A, 24D and 3B are codes
    if len(letters) > 6 or (numbers.is_bare and not len(words)):
        return None
    remarks = [f"some are written with {', '.join(numbers.units[:6])}"] if numbers.units else []
    if numbers.decimal == "," and not numbers.is_whole:
        remarks.append("the decimal sign is a comma")
    remarks += [f"{unit} multiplies by {number(factor)}" for unit, factor in numbers.factors.items()]
    remarks += (
        [f"{len(words):,} values such as {words.iloc[0]!r} are no numbers: they count as missing"] if len(words) else []
    )
    options: Parameters = {"decimal": ","} if numbers.decimal == "," or numbers.thousands == "." else {}
    options |= {"units": numbers.factors} if numbers.factors else {}
    rule = {
        "rule": "number",
        "columns": [name],
        **({"options": options} if options else {}),
        "reason": "; ".join(remarks) or "numbers written as text",
    }
    question = (
        f"{numbers.why}: {'no option decimal' if options.get('decimal') else 'option decimal is a comma'}"
        if numbers.open
        else ""
    )
    kinds = {next((i for i, group in enumerate(profiling.UNITS) if unit in group), -1) for unit in letters}
    if len(kinds - {-1}) > 1 and not numbers.factors:
        question = (
            question or f"{', '.join(sorted(letters))} are not the same: state their factors under options: units"
        )
    why = f"a number once it is cleaned: {rule['reason']}" + (f"; {question}" if question else "")
    values = numbers.values.reindex(known.index).astype(float)
    return Guess(Column(type="text"), why, values, [rule], question=question, numbers=numbers)


def _duration(name: str, known: pd.Series) -> Guess | None:
    """How long something took, or the time of a day: clocks, or numbers with units of time of which there are several."""
    if not str(known.iloc[0]).strip("-pPtT ")[:1].isdigit() or not notation.every(
        cleaning.SPAN[1:-1], known.head(50).str.lower()
    ):
        return None
    low = known.str.lower()
    different = pd.Series(low.unique())
    spans = different[different.str.fullmatch(cleaning.SPAN[1:-1]) & different.str.contains(r"\d\s*[a-zà-ÿ]|:")]
    fits = low.isin(set(spans))
    units = {
        names for names in cleaning.DURATION_UNITS if spans.str.contains(rf"\d\s*(?:{names})(?:[^a-zà-ÿ]|$)").any()
    }
    clocks = spans.str.extract(rf"{cleaning.CLOCKED}$").dropna(subset=[0])
    if (
        fits.mean() < 0.98
        or len(spans) < 3
        or (not len(clocks) and len(units) < 2)
        or (len(clocks) and clocks[0].nunique() < 2)
    ):
        return None
    minutes = clocks[2].isna().any() and pd.to_numeric(clocks[0][clocks[2].isna()]).max() > 23
    table = ibis.memtable({"at": range(len(low)), "text": low.astype("string")})
    read = (
        table.select("at", s=cleaning._seconds(table.text, "minutes" if minutes else "hours"))
        .order_by("at")
        .execute()["s"]
    )
    example = known.iloc[0]
    question = ""
    if clocks[2].isna().any():
        parts = "minutes and seconds" if minutes else "hours and minutes"
        other = "hours" if minutes else "minutes"
        question = f"{example} is read as {parts}; if not, option pairs: {other}"
    rule = {
        "rule": "duration",
        "columns": [name],
        **({"options": {"pairs": "minutes"}} if minutes else {}),
        "reason": f"seconds: {example} is {number(read.iloc[0])}",
    }
    why = f"seconds once it is cleaned: {example} is {number(read.iloc[0])}" + (f"; {question}" if question else "")
    return Guess(
        Column(type="text"), why, pd.Series(read.to_numpy(float), index=known.index), [rule], question=question
    )


BOUND = r"[<>≤≥]|\d\s*[+-]$"


def _names_ranges(known: pd.Series, numbers: Numbers) -> bool:
    """Whether texts with < or > or a sign at their end name ranges, as "<=50K" and "25+" do: most have one, or the numbers alone are fewer than the texts."""
    bounded = known.str.contains(BOUND)
    if not bounded.any():
        return False
    texts = known.str.strip().str.casefold()
    few = texts.nunique() <= 20 and numbers.values.nunique() < texts.nunique()
    return bool(bounded.mean() > 0.5 or few)


FEW_LABELS = 20


def _names_ranks(known: pd.Series, numbers: Numbers) -> bool:
    """Whether a number before a word is the place of a label, as in 1_Good, 2_Fair or 1st, 2nd: each number has words of its own, none a unit."""
    texts = known.str.strip().str.casefold()
    labels = pd.DataFrame({"number": numbers.values, "text": texts}).drop_duplicates("text")
    labels["words"] = labels["text"].str.findall(r"[^\W\d_]+").map(" ".join).str.rstrip("s")
    labels = labels.drop_duplicates(["number", "words"])
    stems = set(labels["words"]) - {""}
    if not stems or len(labels) > FEW_LABELS or stems & notation.KNOWN_UNITS:
        return False
    more_labels_than_numbers = labels["number"].nunique() < len(labels)
    return more_labels_than_numbers or (len(stems) > 1 and bool((labels["words"] != "").mean() > 0.5))


def _text(name: str, known: pd.Series, why: str = "") -> Guess:
    distinct = known.nunique()
    if distinct <= 50 or (distinct <= 500 and distinct <= 0.2 * len(known)):
        return Guess(Column(type="category"), why, known.astype(object))
    if len(known) > 50 and distinct > 0.9 * len(known) and (NAMING.search(name) or not prose.has_words(known)):
        remark = "names rows: nearly every value is different"
        return Guess(Column(type="text", feature=False), f"{why}; {remark}" if why else remark, known.astype(object))
    return Guess(Column(type="text"), why or f"{distinct:,} different values", known.astype(object))


def hint_of(columns: dict[str, Guess]) -> Hint:
    """What the columns that can be read in one way only say of the others."""
    decimals: dict[str, str] = {}
    orders: dict[bool, str] = {}
    for name, column in columns.items():
        if (
            column.numbers is not None
            and not column.numbers.open
            and (not column.numbers.is_whole or column.numbers.thousands in (",", "."))
        ):
            decimals.setdefault(column.numbers.decimal, name)
        if column.day_first is not None:
            orders.setdefault(column.day_first, name)
    decimal = next(iter(decimals)) if len(decimals) == 1 else None
    day_first = next(iter(orders)) if len(orders) == 1 else None
    return Hint(
        decimal,
        decimals[decimal] if decimal else "",
        day_first if day_first is not None else True if decimal == "," else None,
        orders[day_first] if day_first is not None else decimals[","] if decimal == "," else "",
    )


def guesses_of(sample: SourceSample) -> dict[str, Guess]:
    """A guess for each column by its values; where they allow two readings, by what the other columns say."""
    mark = sample.source.separator or ("," if sample.source.format == "csv" else "")
    guesses = {name: guess(name, sample.text[name], None, mark) for name in map(str, sample.text.columns)}
    unsure = [
        name
        for name, guessed in guesses.items()
        if guessed.question and (guessed.column.format or guessed.numbers is not None)
    ]
    if unsure:
        hint = hint_of(guesses)
        guesses |= {name: guess(name, sample.text[name], hint, mark) for name in unsure}
    return guesses


def columns_of(sample: SourceSample) -> dict[str, Guess]:
    """A guess for each column, by name; what only numbers the rows is no feature."""
    guesses = guesses_of(sample)
    for name, word in sample.totals.items():
        column, whole = guesses[name].column, sample.missing[name] == 0
        guesses[name] = _changed(
            guesses[name],
            f"{word!r} marks the row that sums up the others: it is set aside",
            missing=[*column.missing, word],
            required=column.required or whole,
        )
    for name, current in guesses.items():
        if sample.missing[name] == sample.rows:
            continue
        current = guesses[name] = _guess_of_whole(sample, name, current)
        unique = sample.distinct[name] >= 0.999 * (sample.rows - sample.missing[name])
        whole = current.column.type in ("integer", "category") or (
            current.column.type == "text" and not current.is_number
        )
        if (
            whole
            and unique
            and sample.rows > 50
            and (NAMING.search(name) or _names_by_text(current) or _counts_up(current))
        ):
            guesses[name] = _changed(
                current,
                feature=False,
                why=current.why if "names rows" in current.why else "names rows: every value is different",
            )
        elif (
            current.column.type in ("integer", "number")
            and NAMING.search(name)
            and sample.distinct[name] >= 0.9 * sample.rows > 50
        ):
            guesses[name] = _changed(current, feature=False, why="names rows: nearly every value is different")
        elif current.column.type in ("integer", "number") and NAMING.search(name) and sample.distinct[name] > 2:
            kind: Any = "category" if sample.distinct[name] <= 500 else "text"
            guesses[name] = Guess(Column(type=kind), "a number that names things", sample.text[name])
        elif name in sample.gone and current.column.feature:
            guesses[name] = _changed(current, feature=False, why=sample.gone[name])
        elif current.column.feature and sample.distinct[name] <= 1:
            guesses[name] = _changed(current, feature=False, why="one value only: nothing to learn")
    return guesses


OF_VALUES = re.compile(r"\d[\d,]* (of [\d,]+ values|values such as|different values)")


def _guess_of_whole(sample: SourceSample, name: str, guess: Guess) -> Guess:
    """The guess with counts of all rows, or saying that they are of the rows looked at."""
    if sample.is_whole or not OF_VALUES.search(guess.why):
        return guess
    if guess.why.endswith("different values"):
        return _changed(guess, f"{sample.distinct[name]:,} different values")
    of_sample = f"of {len(sample.text):,} rows looked at, "
    guess.cleaning = [{**rule, "reason": of_sample + rule["reason"]} for rule in guess.cleaning]
    return _changed(guess, of_sample + guess.why)


def _names_by_text(guess: Guess) -> bool:
    return guess.column.type == "text" and not prose.has_words(guess.values)


def _counts_up(guess: Guess) -> bool:
    return guess.is_number and bool((guess.values.dropna().diff().dropna() > 0).all())


def _changed(guess: Guess, why: str, **fields: Any) -> Guess:
    return Guess(guess.column.model_copy(update=fields), why, guess.values, guess.cleaning)


# ---------------------------------------------------------------------------------------------- keys and time


def key_of(sample: SourceSample, columns: dict[str, Guess]) -> str | None:
    """The column that names each row, if one does."""
    kinds = ("integer", "text", "category")
    whole = [
        n
        for n, guess in columns.items()
        if sample.missing[n] == 0
        and guess.column.type in kinds
        and not guess.cleaning
        and not (guess.column.type == "text" and prose.is_prose(guess.values))
    ]
    named = [n for n in whole if NAMING.search(n) and sample.distinct[n] >= 0.98 * sample.rows]
    plain = [n for n in whole if sample.distinct[n] == sample.rows and not columns[n].column.feature]
    rank = lambda n: (-sample.distinct[n], not re.search("id$", n, re.I))
    best: list[str | None] = [*sorted(named, key=rank), *plain, None]
    return best[0]


def times_of(sample: SourceSample, columns: dict[str, Guess]) -> list[str]:
    """The columns that may say when a row happened, the likeliest first; columns with many gaps do not."""
    able = [
        n
        for n, guess in columns.items()
        if guess.is_time and sample.missing[n] <= 0.02 * sample.rows and guess.values.nunique() > 3
    ]
    likely = lambda n: (
        sample.missing[n] > 0,
        not re.search(r"^(date|time|timestamp|created|ordered|observed)|(time|date|timestamp|created_at|dt)$", n, re.I),
        list(columns).index(n),
    )
    return sorted(able, key=likely)


class DraftWindows(TypedDict):
    """How a statement may cut a history: its keys for `time`, and of the history its days, its ends, and the share before as_of."""

    as_of: dt.date | pd.Timestamp
    holdout_days: int
    folds: int
    fold_days: int
    days: int
    step_days: int
    first: pd.Timestamp
    until: pd.Timestamp
    share: float


LONGEST = 290  # years of a history: a difference in nanoseconds holds no more


def windows_of(times: pd.Series, recommendation: bool = False, later: int = 0) -> DraftWindows | None:
    """as_of, holdout_days, folds and fold_days for a history; None where it is too short to be cut by days.

    Parameters
    ----------
    later : int
        Days at the end that are left for the loop: as_of lies before them.
    """
    known = times.dropna().sort_values()
    if known.iloc[-1].year - known.iloc[0].year > LONGEST:
        return None
    first, end = known.iloc[0], known.iloc[-1].normalize() + pd.Timedelta(days=1)
    begin, as_of = first.normalize(), end - pd.Timedelta(days=later)
    days, everything = (as_of - begin).days, len(known)
    known = known[known < as_of]
    if days < 8:
        return None
    cut = known.iloc[int(len(known) * 0.8)].normalize()
    holdout = int(np.clip((as_of - cut).days, max(1, days * 0.1), max(1, days * 0.3)))
    holdout = min(holdout, 28) if recommendation else holdout
    half = known[known < as_of - pd.Timedelta(days=holdout)]
    middle = half.iloc[int(len(half) * 0.4)] if len(half) else begin
    fold = max(1, int(((as_of - pd.Timedelta(days=holdout)) - middle.normalize()).days // 4))
    fold = min(fold, 28) if recommendation else fold
    return {
        "as_of": as_of.date() if as_of == as_of.normalize() else as_of,
        "holdout_days": holdout,
        "folds": 4,
        "fold_days": fold,
        "days": days,
        "step_days": int(pd.Series(known.dt.normalize().unique()).diff().dt.days.median() or 1),
        "first": first,
        "until": end,
        "share": len(known) / everything,
    }


# ---------------------------------------------------------------------------------------------- the target and what leaks it


def classes_of(target: Guess) -> pd.Series:
    """The classes of a target and how often each is there, commonest first; spellings of one class count as one."""
    text = target.values.dropna().map(_spelt)
    spelling = text.groupby(text.str.casefold()).agg(lambda v: v.value_counts().index[0])
    return text.str.casefold().map(spelling).value_counts()


def _spelt(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value).strip()


def kind_of(target: Guess) -> str:
    """'classification' or 'regression'."""
    return "regression" if target.is_number and target.values.nunique() > 2 else "classification"


def positive_of(counts: pd.Series) -> str:
    """The class that is looked for: the one called yes, else the rarer of two, else the commonest that does not say that there is nothing."""
    yes = YES[2:] if set(counts.index) == {"1", "2"} else YES  # one and two are numbers of classes: neither is a yes
    likely = [guess for word in yes for guess in counts.index if guess.lower() == word]
    if len(counts) == 2:
        return likely[0] if likely else str(counts.index[-1])
    something = [name for name in map(str, counts.index) if name.casefold() not in NOTHING]
    return something[0] if something else str(counts.index[0])


def as_number(target: Guess, kind: str, positive: str | None = None) -> pd.Series:
    """The target as numbers: 1 for the positive class and 0 for others, or the number; missing where it is."""
    if kind == "regression":
        return target.values.astype(float)
    yes = target.values.map(lambda v: None if pd.isna(v) else float(_spelt(v).casefold() == str(positive).casefold()))
    return yes.astype(float)


def target_counts(sample: SourceSample, name: str, y: pd.Series, positive: str | None) -> tuple[int, float]:
    """Of all rows, how many have no value of the target, and the share of the positive class among the others.

    Parameters
    ----------
    y : Series of float
        The target of the sample's rows, see `as_number`.
    positive : str or None
        None for a regression, whose share is 0.
    """
    if sample.is_whole or sample.table is None:
        return int(y.isna().sum()), float(y.mean())
    text = sample.table[name]
    unread = sample.text[name][y.isna()].dropna().unique()[:1000].tolist()
    read = {str(spelling).strip().lower() for spelling in sample.text[name][y.notna()].dropna().unique()[:1000]}
    gone = text.isnull() | text.strip().lower().isin([word for word in parsing.MISSING if word not in read])
    gone = gone | text.isin(unread) if unread else gone
    lost = int(sample.table.filter(gone).count().to_pyarrow().as_py())
    if positive is None:
        return lost, 0.0
    value_of = dict(zip(sample.text[name], y, strict=True))
    counts = sample.counts_of(name)
    values = [
        value_of.get(spelling, float(str(spelling).strip().casefold() == positive.casefold()))
        for spelling in counts.index
    ]
    yes = sum(n for n, value in zip(counts, values, strict=True) if value == 1)
    return lost, float(yes / max(1, sample.rows - lost))


def leaks(
    columns: dict[str, Guess],
    y: pd.Series,
    kind: str,
    skip: Sequence[str],
    order: pd.Series | None = None,
    whose: pd.Series | None = None,
) -> dict[str, leak_signs.Sign]:
    """Columns that seem to know the target, each with the sign that gives it away; see `data.leaks`.

    Parameters
    ----------
    columns : dict of str to Guess
    y : Series of float
        1 for the positive class, or the number.
    skip : sequence of str
        The target, the time, and what names rows.
    order : Series, optional
        When each row happened: what is learnt from the earlier half is tried on the later; without it halves are drawn.
    whose : Series, optional
        Whose row it is, where each has a series of its own.
    """
    columns_asked = {n: guess.values for n, guess in columns.items() if n not in skip and guess.values.notna().any()}
    rows = pd.DataFrame(
        {n: v if v.dtype.kind in "ifbM" else v.astype("string") for n, v in columns_asked.items()}, index=y.index
    )
    return {sign.column: sign for sign in leak_signs.find(rows, y, kind, order, whose=whose)}


# ---------------------------------------------------------------------------------------------- a first rule


def first_rule(
    columns: dict[str, Guess], usable: Sequence[str], y: pd.Series, kind: str
) -> tuple[dict[str, str], float]:
    """The best single question the sample knows, as SQL: name, meaning, score; and its ROC AUC or mean absolute error."""
    known = y.dropna().index
    t, best = y.loc[known].to_numpy(float), None
    mean, least = t.mean(), 0.02 * len(t)
    for name in usable:
        guess = columns[name]
        if guess.is_time:
            continue
        values = guess.values.loc[known]
        for words, sql, yes in _questions(name, guess, values):
            n = int(np.count_nonzero(yes))
            if min(n, len(t) - n) < least:
                continue
            inside, outside = t[yes], t[~yes]
            between = len(inside) * (inside.mean() - mean) ** 2 + len(outside) * (outside.mean() - mean) ** 2
            if best is None or between > best[0]:
                best = (between, words, sql, yes)
    form = np.mean if kind == "classification" else np.median
    if best is None:
        usual = float(form(t))
        figure = 0.5 if kind == "classification" else float(np.abs(t - usual).mean())
        return {"name": "always_alike", "meaning": "the same answer for every row", "score": f"{usual:.6g}"}, figure
    _, words, sql, yes = best
    a, b = float(form(t[yes])), float(form(t[~yes]))
    figure = float(np.abs(t - np.where(yes, a, b)).mean())
    if kind == "classification":
        figure = 0.5 + abs(float(yes[t == 1].mean()) - float(yes[t != 1].mean())) / 2  # the curve has one corner
    score = f"CASE WHEN {sql} THEN {a:.6g} ELSE {b:.6g} END"
    return {"name": "one_question", "meaning": f"{words}: {number(a)}, otherwise {number(b)}", "score": score}, figure


def _questions(name: str, guess: Guess, values: pd.Series):
    """Pairs of words and SQL with where `values` say yes, one after the other; the questions come from all of the column."""
    column = quoted(name)
    if guess.column.type == "boolean":
        yield f"{name} is true", column, values.eq(True).to_numpy(bool)
    elif guess.is_number:
        numbers, known = values.to_numpy(float), guess.values.to_numpy(float)
        known = known[~np.isnan(known)]
        cuts = np.percentile(known, np.array([0.2, 0.35, 0.5, 0.65, 0.8]) * 100) if len(known) else known
        for cut in np.unique(cuts):
            yield f"{name} is at least {cut:.6g}", f"{column} >= {cut:.6g}", numbers >= float(f"{cut:.6g}")
    elif guess.values.nunique() <= 500:
        for value in guess.values.value_counts().index[:10]:
            quoted_value = str(value).replace("'", "''")
            yield f"{name} is {value}", f"{column} = '{quoted_value}'", values.eq(value).to_numpy(bool)


def slices_of(columns: dict[str, Guess], usable: Sequence[str], rows: int) -> dict[str, int]:
    """At most two columns whose groups are few and large, each with how many holdout rows its smallest group may have."""
    slices: dict[str, int] = {}
    for name in usable:
        guess = columns[name]
        if len(slices) == 2:
            break
        if guess.column.type not in ("category", "boolean") or guess.cleaning:
            continue
        shares = guess.values.value_counts(normalize=True)
        if 2 <= len(shares) <= 6 and shares.min() >= 0.08 and shares.min() * rows * 0.2 >= 50:
            slices[name] = int(shares.min() * rows * 0.2)
    return slices


# ---------------------------------------------------------------------------------------------- who bought what


def parts_of_events(sample: SourceSample, columns: dict[str, Guess]) -> dict[str, str | None]:
    """The columns of a table of events that seem to say user, item, quantity, price, name and category; None: no such."""
    first = lambda pattern, able=lambda name: True: next((n for n in columns if pattern.search(n) and able(n)), None)
    number = lambda name: columns[name].is_number
    item = first(ITEM, lambda n: sample.distinct[n] > 1 and sample.distinct[n] < sample.rows)
    named = lambda n: n != item and not number(n) and _settles(sample, item, n)
    return {
        "user": first(USER, lambda n: 1 < sample.distinct[n] < sample.rows),
        "item": item,
        "quantity": first(QUANTITY, number),
        "price": first(PRICE, number),
        "name": first(TITLE, named) if item else None,
        "category": first(GROUP, lambda n: named(n) and sample.distinct[n] <= 500) if item else None,
    }


def simple_figure(
    sample: SourceSample, user: str, item: str, time: str, windows: DraftWindows, kind: tuple[str, str] | None
) -> float:
    """The best NDCG@10 that best-sellers, or what a user had before, reach in the holdout days; of whole users, a part of them."""
    from mlloop.comparison.baselines import BoughtBefore, user_metrics
    from mlloop.models import recommenders

    table = sample.table
    if sample.rows > ROWS:
        table = table.filter((table[user].hash().abs() % 1_000_000) < int(1_000_000 * ROWS / sample.rows))
    events = table.select(
        user=table[user], item=table[item], time=table[time], **({"kind": table[kind[0]]} if kind else {})
    )
    events = events.to_pandas().dropna(subset=["user", "item", "time"])
    events = events.assign(
        time=guess(time, events["time"].astype(object)).values, kind="purchase" if kind is None else events["kind"]
    )
    since = pd.Timestamp(windows["as_of"]) - pd.Timedelta(days=windows["holdout_days"])
    before, after = events[events["time"] < since], events[events["time"] >= since]
    target_kind = kind[1] if kind else "purchase"
    after = after[after["kind"] == target_kind][["user", "item"]].drop_duplicates()
    if before.empty or after.empty:
        return 0.0
    simple = [recommenders.Popularity(days=30, target_kind=target_kind), BoughtBefore(target_kind=target_kind)]
    with np.errstate(invalid="ignore"):  # nobody paid a price here
        values = [user_metrics(rule.fit(before, None), after, 10)["ndcg"].mean() for rule in simple]
    return float(max(values))


def _settles(sample: SourceSample, item: str | None, name: str) -> bool:
    """Whether an item nearly always has the same value of column `name`."""
    if item is None:
        return False
    pairs = sample.text[[item, name]].dropna()
    most = pairs.groupby([item, name]).size().groupby(level=0).max().sum() if len(pairs) else 0
    return len(pairs) > 0 and most / len(pairs) > 0.8


KINDS = re.compile(r"(^|_)(event|action|kind|event_?type|behaviou?r)(_?type)?$", re.I)
WANTED = ("purchase", "transaction", "order", "buy", "bought", "conversion", "pv")


def kind_column_of(columns: dict[str, Guess]) -> tuple[str, str] | None:
    """The column that says of which kind an event is, and the kind that is wanted; None where there is none."""
    for name, guess in columns.items():
        if KINDS.search(name) and guess.column.type == "category":
            kinds = [str(v) for v in guess.values.dropna().unique()]
            targets = [v for word in WANTED for v in kinds if v.lower() == word]
            if targets:
                return name, targets[0]
    return None


def looks_like_events(sample: SourceSample, columns: dict[str, Guess]) -> bool:
    """Whether the table seems to say who bought what and when."""
    parts = parts_of_events(sample, columns)
    return bool(parts["user"] and parts["item"] and times_of(sample, columns))


def today() -> dt.date:
    """The day on which a table without times is looked at."""
    return clock.now().date()
