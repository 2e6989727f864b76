"""Generated tables as pandas, spreadsheets of six locales and three databases write them: no value is changed in silence."""

import csv
import datetime as dt
import io
import random

import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mlloop.scaffold import survey

LETTERS = "abcXYZ äßéø,;|\t'\"\n\\.0-"
NAMES = ["nr", "note", "pieces", "price", "day"]


def drawn(seed: int) -> list[tuple]:
    """The rows of a table; two of them show how numbers and dates are written."""
    r = random.Random(seed)
    text = lambda: "k" + "".join(r.choice(LETTERS) for _ in range(r.randint(1, 9))) + "z"
    day = lambda: dt.date(1990, 1, 1) + dt.timedelta(r.randrange(14_000))
    makers = (text, lambda: r.randint(-(10**7), 10**7), lambda: r.randint(-(10**8), 10**8) / 100, day)
    table = [tuple(None if r.random() < 0.15 else make() for make in makers) for _ in range(r.randint(24, 40))]
    shown = [("kz", 12345, 1234.56, dt.date(2001, 12, 31)), ("kaz", -3, -0.07, dt.date(2011, 1, 13))]
    return [(i, *row) for i, row in enumerate([*shown, *table])]


def number(value, decimal=".", thousands="", places=None):
    if value is None:
        return ""
    text = f"{value:,.{places}f}" if places else f"{value:,}"
    return text.replace(",", "\0").replace(".", decimal).replace("\0", thousands)


def spreadsheet(sep, decimal, thousands, day, encoding, declared=False, end="\r\n"):
    def write(table):
        out = io.StringIO()
        out.write(f"sep={sep}{end}" if declared else "")
        writer = csv.writer(out, delimiter=sep, lineterminator=end)
        writer.writerow(NAMES)
        for nr, note, pieces, price, at in table:
            cells = number(pieces, decimal, thousands), number(price, decimal, thousands, 2)
            writer.writerow([nr, note or "", *cells, at.strftime(day) if at else ""])
        return out.getvalue().encode(encoding)

    return write


def frame(table) -> pd.DataFrame:
    return pd.DataFrame(table, columns=NAMES).astype({"pieces": "Int64"})


def by_pandas(encoding="utf-8", **how):
    return lambda table: frame(table).to_csv(index=False, **how).encode(encoding)


def lines(cell, sep, quoted_header=False, end="\n"):
    def write(table):
        head = [f"'{name}'" for name in NAMES] if quoted_header else NAMES
        return (end.join([sep.join(head), *(sep.join(map(cell, row)) for row in table)]) + end).encode()

    return write


def escaped(value) -> str:
    """As COPY and SELECT INTO OUTFILE write text."""
    if value is None:
        return "\\N"
    text = str(value).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")
    return text


def mysql_csv(value) -> str:
    if value is None:
        return "\\N"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"' if isinstance(value, str) else str(value)


def standard(value) -> str:
    """As Postgres and SQLite write CSV."""
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ",\"\n\r\t' ") else text


def quoted(value) -> str:
    """As SQLite's .mode quote writes."""
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, (int, float)) else "'" + str(value).replace("'", "''") + "'"


DIALECTS = {
    "pandas": by_pandas(),
    "pandas, semicolons and decimal commas": by_pandas(sep=";", decimal=","),
    "pandas, everything quoted": by_pandas(quoting=csv.QUOTE_ALL),
    "pandas, tabs in UTF-16": by_pandas("utf-16", sep="\t"),
    "pandas, backslashes": by_pandas(doublequote=False, escapechar="\\"),
    "pandas, missing as NA": by_pandas(na_rep="NA"),
    "spreadsheet en_US": spreadsheet(",", ".", ",", "%m/%d/%Y", "utf-8-sig"),
    "spreadsheet de_DE": spreadsheet(";", ",", ".", "%d.%m.%Y", "cp1252"),
    "spreadsheet fr_FR": spreadsheet(";", ",", "\u202f", "%d/%m/%Y", "utf-8-sig"),
    "spreadsheet sv_SE": spreadsheet(";", ",", "\u00a0", "%Y-%m-%d", "utf-8"),
    "spreadsheet de_CH": spreadsheet(";", ".", "\u2019", "%d.%m.%Y", "utf-8-sig", declared=True),
    "spreadsheet pt_BR": spreadsheet("\t", ",", ".", "%d/%m/%Y", "utf-16"),
    "Postgres COPY": lines(escaped, "\t"),
    "Postgres CSV": lines(standard, ","),
    "MySQL OUTFILE": lines(escaped, "\t"),
    "MySQL CSV": lines(mysql_csv, ","),
    "SQLite csv": lines(standard, ",", end="\r\n"),
    "SQLite quote": lines(quoted, ",", quoted_header=True),
}


def wrong(table, data: bytes, folder) -> list[str]:
    """What the reader changes without a word."""
    file = folder / "table.csv"
    file.write_bytes(data)
    sample = survey.read_sample(str(file))
    found = []
    if sample.rows + sample.unread != len(table):
        return [f"{sample.rows} rows and {sample.unread} that could not be read of {len(table)}"]
    if list(sample.text) != NAMES:
        return [f"columns {list(sample.text)}"]
    columns = survey.columns_of(sample)
    for at, name in enumerate(NAMES):
        guess = columns[name]
        told = guess.question or guess.why
        for row, value in zip(table, guess.values, strict=True):
            gone = value is None or value != value or value is pd.NaT
            want = row[at]
            if want is None or gone:
                same = gone and (want is None or bool(told))
            elif isinstance(value, str):
                same = value.replace("\r\n", "\n").strip() == str(want).strip() or name != "note"
                same = same or ("escape" in dict(sample.notes) and value.replace("\\", "") == want.replace("\\", ""))
            else:
                same = (pd.Timestamp(want) == value) if name == "day" else abs(float(value) - float(want)) < 1e-9
            if not same and not guess.question:
                found.append(f"{name}: {want!r} is read as {value!r} ({guess.column.type}, {told!r})")
    kinds = {name: columns[name].column.type for name in NAMES}
    expected = {"pieces": {"integer", "number"}, "price": {"number", "integer"}, "day": {"time", "date"}}
    found += [
        f"{name} is {kinds[name]}"
        for name, able in expected.items()
        if kinds[name] not in able and not columns[name].why and not columns[name].question
    ]
    return found


@pytest.mark.parametrize("name", DIALECTS)
def test_what_was_written_is_read(name, tmp_path):
    @settings(max_examples=4, derandomize=True, deadline=None, database=None, phases=[Phase.generate])
    @given(st.integers(0, 2**32))
    def holds(seed):
        written = drawn(seed)
        assert not wrong(written, DIALECTS[name](written), tmp_path)[:5]

    holds()
