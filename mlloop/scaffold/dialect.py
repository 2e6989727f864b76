"""How a text file is written: encoding, separator, quotes, escapes, and the lines above its header.

DuckDB's sniffer proposes; what it cannot see, a title above the header or a backslash that only comes later, is tried on the
lines themselves. What is found goes into the statement, so that every later file is read alike.
"""

import codecs
import contextlib
import csv
import gzip
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from mlloop import ingestion
from mlloop.core.errors import DataError
from mlloop.core.records import Parameters
from mlloop.data import parsing, profiling

HEAD_CHARS = 2_000_000
SEPARATORS = (",", ";", "\t", "|")
FORMS: tuple[tuple[str, str | None], ...] = (('"', None), ('"', "\\"), ("", ""), ("", "\\"))
NO_NAME = re.compile(r"[+-]?\d+([.,]\d+)?|\d{4}-\d\d-\d\d.*|\\N|NULL|true|false", re.I)


@dataclass
class Dialect:
    """How a text file is written, as a source of the statement says it; `notes` are what a person should know."""

    encoding: str = "utf-8"
    separator: str = ","
    skip: int = 0
    below: int = 0
    quote: str = '"'
    escape: str | None = None
    notes: list[tuple[str, str]] = field(default_factory=list)

    def source(self) -> Parameters:
        """The keys of a source that differ from their defaults; the encoding always."""
        stated: Parameters = {"encoding": self.encoding}
        stated |= {"separator": self.separator} if self.separator != "," else {}
        stated |= {"skip": self.skip} if self.skip else {}
        stated |= {"skip_below": self.below} if self.below else {}
        stated |= {"quote": self.quote} if self.quote != '"' else {}
        return stated | ({"escape": self.escape} if self.escape is not None else {})


def _bytes(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.name.endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def encoding(path: Path) -> str:
    """The encoding of a text file: what it can be read as, of the likely ones."""
    with _bytes(path) as handle:
        block = handle.read(1 << 20)
        if block[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
        if block[:200].count(0) > len(block[:200]) / 4:
            return "utf-16-le" if block[1:2] == b"\0" else "utf-16-be"
        for name in ("utf-8", "cp1252"):  # cp1252 is slow to read, and asked only where UTF-8 fails
            handle.seek(0)
            decoder = codecs.getincrementaldecoder(name)()
            with contextlib.suppress(UnicodeDecodeError):
                while block := handle.read(1 << 20):
                    decoder.decode(block)
                decoder.decode(b"", final=True)
                return name
            if name == "utf-8" and _is_damaged_utf8(handle):
                return name
        return "latin-1"


FEW_DAMAGED = 0.1
"""Bytes that are not UTF-8, of each character that is: below that a file is UTF-8 in which single lines were damaged."""


def _is_damaged_utf8(handle: IO[bytes]) -> bool:
    """Whether nearly all letters with accents are UTF-8: other encodings would misread them to save a few."""
    handle.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    letters = damaged = 0
    while block := handle.read(1 << 20):
        text = decoder.decode(block)
        damaged += len(re.findall("[\udc80-\udcff]", text))
        letters += len(re.findall("[^\x00-\x7f\udc80-\udcff]", text))
    return damaged < FEW_DAMAGED * letters


def read(path: Path, suffix: str = ".csv") -> Dialect:
    """The dialect of a text file.

    Raises
    ------
    DataError
        Its first line holds values rather than names, or it is no table of text at all.
    """
    _must_be_text(path)
    dialect = Dialect(encoding(path))
    coded = "utf-8-sig" if dialect.encoding == "utf-8" else dialect.encoding
    with _bytes(path) as handle:
        text = io.TextIOWrapper(handle, encoding=coded, errors="replace", newline="").read(HEAD_CHARS)
    lines = re.sub(r"\r\n?", "\n", text).split("\n")
    lines = (lines[:-1] if len(text) == HEAD_CHARS else lines) or [""]
    declared = re.fullmatch(r'"?sep=(.)"?', lines[0].strip("\ufeff"), re.I)
    if declared:
        dialect.separator, dialect.skip, lines = declared[1], 1, lines[1:]
    else:
        dialect.separator = _separator(lines, "\t" if suffix == ".tsv" else None)
    dialect.quote, dialect.escape = _quoting(lines, dialect.separator)
    bare = rf'(^|{re.escape(dialect.separator)})[^"{re.escape(dialect.separator)}]+\\"'
    if (
        dialect.quote
        and dialect.escape == "\\"
        and (odd := next((text_line for text_line in lines if re.search(bare, text_line)), None))
    ):
        warning = f"a backslash outside quotes stays in the value, as in {odd[:60]!r}: write such values in quotes"
        dialect.notes.append(("escape", warning))
    above = _above(lines, dialect)
    dialect.skip += above
    if above:
        title = next(
            (line.strip(dialect.separator + ' "') for line in lines[:above] if line.strip(dialect.separator + ' "')), ""
        )
        more = f"{above} line{'s' if above > 1 else ''} above it {'are' if above > 1 else 'is'} passed over"
        dialect.notes.append(("header", f"in line {dialect.skip + 1}; {more}{f' ({title[:60]!r})' if title else ''}"))
    dialect.below = _below(lines[above:], dialect)
    if dialect.below:
        shown = dialect.separator.join(next(csv.reader([lines[above + 1]], delimiter=dialect.separator)))
        those = "lines" if dialect.below > 1 else "line"
        note = f"{dialect.below} {those} below the header ({shown[:60]!r}) describe the columns and are passed over"
        dialect.notes.append(
            ("header", note if dialect.below > 1 else note.replace("describe", "describes").replace("are", "is"))
        )
    if dialect.encoding in ("cp1252", "latin-1"):
        dialect.notes.append(
            ("encoding", f"read as {dialect.encoding}, since it is not UTF-8: check letters with accents")
        )
    _must_have_names(path, lines[above:], dialect)
    return dialect


def _separator(lines: Sequence[str], usual: str | None) -> str:
    """What DuckDB's sniffer finds in the first lines, else the character that cuts them into the most equal columns."""
    import tempfile

    import duckdb

    if usual and sum(usual in line for line in lines[:50]) > 0.8 * len(lines[:50]):
        return usual
    scores = {mark: _score(lines[:100], mark) for mark in SEPARATORS}
    named = {mark: score for mark, score in scores.items() if _cuts_the_header(lines[:100], mark)}
    scores = named or scores  # a decimal comma in each number cuts the rows more evenly than the semicolon between them
    best = max(scores, key=lambda mark: scores[mark])
    with tempfile.NamedTemporaryFile("w", suffix=".csv", encoding="utf-8", newline="") as file, duckdb.connect() as con:
        file.write("\n".join(lines[:2000]) + "\n")
        file.flush()
        try:
            row = con.execute(
                "SELECT Delimiter, len(Columns) FROM sniff_csv(?, all_varchar = true)", [file.name]
            ).fetchone()
        except duckdb.Error:
            row = None
    return row[0] if row and row[1] > 1 and scores.get(row[0], 0) >= 0.5 * scores[best] else best


def _cuts_the_header(lines: Sequence[str], mark: str) -> bool:
    """Whether a character cuts the first line into as many columns as the lines below it."""
    widths = [len(row) for row in csv.reader(lines, delimiter=mark) if row]
    below = widths[1:]
    return bool(below) and widths[0] > 1 and below.count(widths[0]) > 0.6 * len(below)


def _score(lines: Sequence[str], mark: str) -> float:
    widths = [len(row) for row in csv.reader(lines, delimiter=mark) if row]
    usual = max(set(widths), key=widths.count) if widths else 0
    score = (usual > 1) * widths.count(usual) * usual
    return score if widths and widths.count(usual) > 0.6 * len(widths) else score / 100


def _rows(lines: Sequence[str], separator: str, quote: str, escape: str | None) -> Iterator[list[str] | None]:
    """The rows of the lines as one form reads them; None for one that it cannot read."""
    if not quote and escape == "\\":
        yield from ingestion.unescaped([f"{line}\n" for line in lines], separator)
        return
    how: Parameters = {"delimiter": separator, "strict": True}
    if quote:
        how |= {"quotechar": quote} | ({"escapechar": escape, "doublequote": False} if escape else {})
    reader = csv.reader((f"{line}\n" for line in lines), **(how if quote else how | {"quoting": csv.QUOTE_NONE}))
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield None


def _quoting(lines: Sequence[str], separator: str) -> tuple[str, str | None]:
    """Quote and escape: as the standard has it, unless the lines are clearly read better in another form."""
    some = [line for line in lines if line]
    has = {mark: any(mark in line for line in some) for mark in ('"', "'", "\\")}
    if not any(has.values()):
        return FORMS[0]
    empty = re.compile(rf"(^|{re.escape(separator)})\\N({re.escape(separator)}|$)")
    if has["\\"] and any(empty.search(line) for line in some) and _quoted_share(some, separator) < 0.2:
        return "", "\\"
    forms = [form for form in FORMS if "\\" not in (form[1] or "") or has["\\"]]
    forms += [("'", None)] * any(
        re.search(rf"(^|{re.escape(separator)})'.*'({re.escape(separator)}|$)", line) for line in some
    )
    bad = {form: _misread(some, separator, *form) for form in forms}
    standard = bad[FORMS[0]]
    best = min(forms, key=lambda form: bad[form])
    if best == FORMS[0] or not standard or bad[best] > 0.1 * standard:
        quoted = ("'", None) in forms and not has['"'] and bad[("'", None)] == 0 and _all_quoted(some, separator)
        return ("'", None) if quoted else FORMS[0]
    return best


def _quoted_share(lines: Sequence[str], separator: str) -> float:
    """How many of the lines hold a value in quotes."""
    mark = re.escape(separator)
    return sum(bool(re.search(rf'(^|{mark})"[^"]*"({mark}|$)', line)) for line in lines) / max(len(lines), 1)


def _misread(lines: Sequence[str], separator: str, quote: str, escape: str | None) -> int:
    rows = list(_rows(lines, separator, quote, escape))
    widths = [len(row) for row in rows if row is not None]
    usual = max(set(widths), key=widths.count) if widths else 0
    swallowed = sum(any(cell.count("\n") > 50 for cell in row) for row in rows if row)  # a quote that never ends
    return sum(row is None or len(row) != usual for row in rows) + 10 * swallowed


def _all_quoted(lines: Sequence[str], separator: str) -> bool:
    """Whether a column is quoted by ' in every line."""
    rows = [line.split(separator) for line in lines[1:200]]
    width = min(map(len, rows), default=0)
    return any(
        all(re.fullmatch("'.*'|", row[at]) for row in rows) and any(row[at] for row in rows) for at in range(width)
    )


def _above(lines: Sequence[str], dialect: Dialect) -> int:
    """How many lines stand above the header: those that fill few of the columns, as a title does."""
    rows, at = [], 0
    reader = csv.reader((f"{line}\n" for line in lines[:200]), delimiter=dialect.separator, quotechar=dialect.quote or None,
                        quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE)  # fmt: skip
    try:
        for row in itertools.islice(reader, 100):
            rows.append((at, row))
            at = reader.line_num
    except csv.Error:
        return 0
    widths = [len(row) for _, row in rows if len(row) > 1]
    usual = max(set(widths), key=widths.count) if widths else 0
    filled = [sum(bool(cell.strip()) for cell in row) for _, row in rows]
    body = sorted(filled[len(filled) // 2 :])
    least = max(2, min(usual, body[len(body) // 2] if body else 0) / 2)
    if usual < 2 or (len(rows) > 1 and filled[0] >= least and len(rows[0][1]) == usual - 1 == len(rows[1][1]) - 1):
        return 0
    if len(rows) > 1 and _has_unnamed_index(rows[0][1], rows[1][1], usual):
        return 0
    for (start, row), n in zip(rows, filled, strict=True):
        if n >= least and len(row) >= usual:
            return start
    return 0


MOST_BELOW = 3
FEWEST_BELOW = 10  # rows of values from which it is sure what a column holds
VALUE = re.compile(
    r"[+-]?[$€£]?\s*(\d[\d.,' ]*|[.,]\d+)([eE][+-]?\d+)?\s*%?|\d{4}-\d\d-\d\d.*|\d{1,2}[./]\d{1,2}[./]\d{2,4}.*"
)
DESCRIBES = re.compile(
    r"c|d|s|t|n|(continuous|discrete|string|time|numeric|nominal|ordinal|integer|int|int64|float|float64|double|real|number|text|varchar|"
    r"char|date|datetime|timestamp|bool|boolean|categor(y|ical)|factor|class|meta|ignore|weight|id|unit|units|min|max)(\(.*\))?|"
    r"[(\[].{1,20}[)\]]",
    re.I,
)


def _below(lines: Sequence[str], dialect: Dialect) -> int:
    """How many lines below the header describe the columns, as types, units and roles do: words where all further lines hold values."""
    read = [row for row in _rows(lines[:200], dialect.separator, dialect.quote, dialect.escape) if row]
    rows = [[cell.strip() for cell in row] for row in read[1:]]
    if len(rows) < FEWEST_BELOW + MOST_BELOW or not read:
        return 0
    if _are_types(rows[0]) and _are_roles(rows[1]):
        return 2
    body = rows[MOST_BELOW:]
    width = len(read[0])
    cells = lambda at: [row[at] for row in body if at < len(row) and row[at]]
    of_values = [
        at
        for at in range(width)
        if cells(at) and sum(map(bool, map(VALUE.fullmatch, cells(at)))) >= 0.95 * len(cells(at))
    ]
    below = 0
    for row in rows[:MOST_BELOW]:
        held = [row[at] for at in of_values if at < len(row)]
        words = [cell for cell in held if cell and not VALUE.fullmatch(cell) and not _means_missing(cell)]
        named = bool(words) and all(map(DESCRIBES.fullmatch, words))
        only_words = held and len(words) == sum(map(bool, held)) and (len(words) >= max(2, 0.8 * len(held)) or named)
        roles = below and not any(held) and any(row) and all(DESCRIBES.match(cell) for cell in row if cell)
        if not (only_words or roles):
            break
        below += 1
    return below


TYPE = re.compile(r"c|d|s|t|continuous|discrete|string|time|basket|[\w.<>=+\\-]+( [\w.<>=+\\-]+)+", re.I)
ROLE = re.compile(r"c|m|i|w|(class|meta|ignore|weight)?( ?[\w-]+=\S+)*", re.I)


def _are_types(row: Sequence[str]) -> bool:
    """Whether a line names a type for each column, as Orange's second line does: continuous, discrete, or the values of a class."""
    plain = [cell for cell in row if re.fullmatch(r"c|d|s|t|continuous|discrete|string|time", cell, re.I)]
    return bool(row) and all(map(TYPE.fullmatch, row)) and len(plain) >= 0.5 * len(row)


def _are_roles(row: Sequence[str]) -> bool:
    """Whether a line says what some columns are for, as Orange's third line does, and leaves others empty."""
    return any(row) and not all(row) and all(map(ROLE.fullmatch, row))


def _means_missing(cell: str) -> bool:
    return cell.lower() in (*profiling.MISSING_PLACEHOLDERS, *parsing.MISSING)


KINDS_OF_FILE = (
    (b"PK\x03\x04", "a ZIP archive: a spreadsheet is to be called .xlsx or .ods"),
    (b"\xd0\xcf\x11\xe0", "an old spreadsheet: call it .xls"),
    (b"PAR1", "a Parquet file: call it .parquet"),
    (b"%PDF", "a PDF"),
    (b"\x1f\x8b", "compressed with gzip: let its name end with .gz"),
    (b"SQLite format 3", "an SQLite database: give it as sqlite:///FILE"),
)
MARKS_OF_TEXT = (
    (re.compile(rb"\s*<(!doctype|html|\?xml|table)", re.I), "HTML or XML"),
    (re.compile(rb"(\s*%[^\n]*\n)*\s*@relation\b", re.I), "an ARFF file, which holds its header in lines of its own"),
    (re.compile(rb"\s*[\[{]\s*[\[{\"]"), "JSON: call it .json, or .jsonl where each line is an object"),
)


def _must_be_text(path: Path) -> None:
    """Refuse a file that is no table of text, whatever its name says."""
    with _bytes(path) as handle:
        try:
            begin = handle.read(4096)
        except OSError as error:
            raise DataError(f"cannot be read: {error}", str(path), "Look at the file") from error
    kind = next((words for mark, words in KINDS_OF_FILE if begin.startswith(mark)), None)
    kind = kind or next(
        (words for mark, words in MARKS_OF_TEXT if mark.match(begin.removeprefix(codecs.BOM_UTF8))), None
    )
    if kind:
        raise DataError(f"is no table of text but {kind}", str(path), "Save it as CSV or Parquet")


def _has_unnamed_index(header: Sequence[str], first: Sequence[str], usual: int) -> bool:
    """Whether a line names all columns but the first, which is filled below it: a data frame written with its index."""
    names = [cell.strip() for cell in header]
    if len(header) != usual or names[0] or not all(names[1:]) or not first or not first[0].strip():
        return False
    return _count_on(names[1:]) or not any(NO_NAME.fullmatch(name) for name in names[1:])


def _count_on(names: Sequence[str]) -> bool:
    """Whether columns are called by numbers that follow each other: the years of a wide table, or 0, 1, 2 of a data frame without names."""
    numbers = [int(name) for name in names if name.isascii() and name.isdigit()]
    steps = [later - earlier for earlier, later in itertools.pairwise(numbers)]
    return len(numbers) >= MANY_NUMBERED and min(steps) > 0 and steps.count(1) >= 0.9 * len(steps)


MANY_NUMBERED = 5


def _must_have_names(path: Path, lines: Sequence[str], dialect: Dialect) -> None:
    names = next((row for row in _rows(lines[:50], dialect.separator, dialect.quote, dialect.escape) if row), [])
    filled = [name.strip() for name in names if name.strip()]
    if (
        len(filled) > 1
        and sum(bool(NO_NAME.fullmatch(name)) for name in filled) > len(filled) / 2
        and not _count_on(filled)
    ):
        raise DataError(
            f"has no header: its first line reads {dialect.separator.join(names)[:80]!r}",
            str(path),
            "Write the columns' names into a line above it",
        )
