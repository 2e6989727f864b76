"""Files that can only be read as a whole: JSON documents and spreadsheets, written out as the lines that ingestion reads."""

import csv
import datetime as dt
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlloop.core.errors import SourceError
from mlloop.core.records import JsonObject

LINES_OF = {"json": "jsonl", "sheet": "csv"}
SHEETS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")  # suffixes
BLANKS = b" \t\r\n\xef\xbb\xbf"
MOST_BYTES = 2**31 - 1  # of one record
AS_LINES = 'Write one object a line (pandas: df.to_json(FILE, orient="records", lines=True)), and call it .jsonl'


def written_out(path: Path, form: str, to: Path, sheet: str | None = None) -> int:
    """Write the rows of a JSON document as JSON lines, or those of a spreadsheet as CSV, and count them.

    Parameters
    ----------
    form : str
        'json' or 'sheet'.
    sheet : str, optional
        Which sheet; otherwise the first that is visible and holds a table.

    Raises
    ------
    SourceError
        A file of another kind, a document without a list of records, or a sheet that is not there.
    """
    return _json_lines(path, to) if form == "json" else _csv_of_sheet(path, to, sheet)


# ------------------------------------------------------------------------------------------------------------- JSON


def _json_lines(path: Path, to: Path) -> int:
    """One record a line, each as it is written: numbers keep their digits."""
    import duckdb

    connection = duckdb.connect()
    count = 0
    try:
        select, turned = _select_records(path)
        with to.open("w", encoding="utf-8") as write:
            if turned is not None:
                write.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in turned)
                return len(turned)
            result = connection.execute(select)
            while rows := result.fetchmany(10_000):
                # text has no raw line break in JSON: one can only stand between the values
                write.writelines(text.replace("\r", " ").replace("\n", " ") + "\n" for (text,) in rows)
                count += len(rows)
    except duckdb.Error as error:
        message = f"cannot be read as JSON: {' '.join(str(error).split())[:200]}"
        raise SourceError(message, path.name, AS_LINES) from error
    finally:
        connection.close()
    return count


def _select_records(path: Path) -> tuple[str, list[JsonObject] | None]:
    """SQL that yields the text of each record of a list, of lines, or of the only list of objects within one object.

    Beside it the records themselves where the document holds columns, and not records.
    """
    file = "'" + str(path).replace("'", "''") + "'"
    read = f"read_json_objects({file}, format = '{{}}', maximum_object_size = {MOST_BYTES})"
    if _begin(path).startswith(b"["):
        return f"SELECT json::VARCHAR FROM {read.format('array')}", None
    import duckdb

    with duckdb.connect() as connection:
        head = connection.execute(f"SELECT json::VARCHAR FROM {read.format('unstructured')} LIMIT 2").fetchall()
    content = json.loads(head[0][0]) if len(head) == 1 else None
    turned = _records_of_columns(content) if content else None
    key = _key_of_records(content, path) if content and turned is None else None
    if key is None:
        return f"SELECT json::VARCHAR FROM {read.format('unstructured')}", turned
    place = "'" + '$."{}"[*]'.format(key.replace("'", "''")) + "'"
    return f"SELECT unnest(json_extract(json, {place}))::VARCHAR FROM {read.format('unstructured')}", None


def _begin(path: Path) -> bytes:
    import gzip

    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as handle:
        return handle.read(4096).lstrip(BLANKS)


def _records_of_columns(content: JsonObject) -> list[JsonObject] | None:
    """The records of an object as pandas writes a table without `orient="records"`; None where it is no such object.

    That is a list or an object of row labels for each column (`columns`, its default), an object of columns for each row
    label (`index`), or `columns`, `index` and `data` (`split`). Row labels that do more than count the rows become the
    column `index`. Where both the outer and the inner keys are numbers, or neither are, nothing says which of them are the
    columns.
    """
    held = list(content.values())
    if {"columns", "data"} <= set(content) <= {"columns", "data", "index"} and isinstance(content["data"], list):
        names, rows = content["columns"], content["data"]
        if all(isinstance(row, list) and len(row) == len(names) for row in rows):
            return _labelled([dict(zip(map(str, names), row, strict=True)) for row in rows], content.get("index"))
    if all(isinstance(column, list) for column in held):
        longest = {len(column) for column in held}
        plain = not any(isinstance(value, dict | list) for column in held for value in column)
        return (
            [dict(zip(content, row, strict=True)) for row in zip(*held, strict=True)]
            if plain and len(longest) == 1
            else None
        )
    if len(held) < 2 or not all(isinstance(part, dict) and part.keys() == held[0].keys() for part in held):
        return None
    if any(isinstance(value, dict | list) for part in held for value in part.values()):
        return None
    outer, inner = list(content), list(held[0])
    if _are_numbers(outer) == _are_numbers(inner):
        return None
    if _are_numbers(outer):
        return _labelled(held, outer)
    return _labelled([{name: column[label] for name, column in content.items()} for label in inner], inner)


def _are_numbers(labels: list[Any]) -> bool:
    return all(str(label).removeprefix("-").isdecimal() for label in labels)


def _labelled(records: list[JsonObject], labels: list[Any] | None) -> list[JsonObject]:
    """The records with their row labels, unless these only count the rows."""
    if labels is None or len(labels) != len(records) or any("index" in record for record in records):
        return records
    if {str(label) for label in labels} == set(map(str, range(len(records)))):
        return records
    return [{"index": label, **record} for label, record in zip(labels, records, strict=True)]


def _key_of_records(content: JsonObject, path: Path) -> str | None:
    """Under which key of one object the records lie; None where the object is itself the only record."""
    keys = [key for key, held in content.items() if isinstance(held, list) and held and isinstance(held[0], dict)]
    if len(keys) == 1 and '"' not in keys[0]:
        return keys[0]
    if keys or all(isinstance(held, dict | list) for held in content.values()):
        what = f"{len(keys)} lists of records ({', '.join(keys[:5])})" if keys else "no list of records"
        raise SourceError(f"holds {what}", path.name, AS_LINES)
    return None


# ----------------------------------------------------------------------------------------------------- spreadsheets


def _csv_of_sheet(path: Path, to: Path, sheet: str | None) -> int:
    rows = list(read_sheet(path, sheet))
    width = max(map(len, rows), default=0)
    with_hours = [any(isinstance(row[at], dt.datetime) for row in rows if at < len(row)) for at in range(width)]
    count = 0
    with to.open("w", encoding="utf-8", newline="") as handle:
        write = csv.writer(handle, lineterminator="\n")
        for row in rows:
            write.writerow([_text(cell, is_moment) for cell, is_moment in zip(row, with_hours, strict=False)])
            count += 1
    return max(0, count - 1)


def sheets(path: Path) -> list[str]:
    """The names of the visible sheets that hold a table, in their order; where none does, of those that hold something."""
    with _workbook(path) as book:
        return _with_tables(book)


def _with_tables(book: Any) -> list[str]:
    visible = [held.name for held in book.sheets_metadata if "Visible" in str(held.visible)]
    sizes = {name: (sheet.height, sheet.width) for name in visible if (sheet := book.get_sheet_by_name(name)).height}
    return [name for name, size in sizes.items() if min(size) > 1] or list(sizes)


def read_sheet(path: Path, sheet: str | None = None) -> Iterator[list[Any]]:
    """The rows of a sheet that are not wholly empty, from its first filled cell on; those of merged cells once."""
    with _workbook(path) as book:
        if sheet is not None and sheet not in book.sheet_names:
            raise SourceError(
                f"has no sheet {sheet!r} (it has {', '.join(map(repr, book.sheet_names[:8]))})",
                path.name,
                "State another under sheet: in the statement, then: mlloop check",
            )
        name = sheet or next(iter(_with_tables(book)), None)
        if name is None:
            return iter([])
        rows = book.get_sheet_by_name(name).to_python(skip_empty_area=True)
    return (row for row in rows if any(cell != "" for cell in row))


def _workbook(path: Path) -> Any:
    try:
        import python_calamine as calamine
    except ModuleNotFoundError as error:
        raise SourceError(
            "is a spreadsheet, and the library that reads it is not installed",
            path.name,
            "pip install python-calamine, or save the sheet as CSV",
        ) from error
    try:
        return calamine.CalamineWorkbook.from_path(str(path))
    except FileNotFoundError:
        raise
    except (calamine.CalamineError, OSError) as error:
        step = "Is it protected by a password? Save the sheet as CSV"
        raise SourceError(f"cannot be read as a spreadsheet: {error}", path.name, step) from error


def _text(cell: Any, is_moment: bool = False) -> str:
    """A cell as text: whole numbers without a point, moments as ISO 8601, a length of time as hours, minutes and seconds.

    A day in a column of moments (`is_moment`) is its midnight, as the spreadsheet means it.
    """
    if is_moment and type(cell) is dt.date:
        return f"{cell.isoformat()}T00:00:00"
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < 2**53 else repr(cell)
    if isinstance(cell, dt.timedelta):
        seconds = round(cell.total_seconds())
        return f"{seconds // 3600:02}:{seconds % 3600 // 60:02}:{seconds % 60:02}"
    return cell.isoformat() if isinstance(cell, dt.date | dt.time) else str(cell)


# --------------------------------------------------------------------------------------------------- nested objects

MOST_INNER_KEYS = 100  # more are values that stand as keys, such as the numbers of customers


def paths_of(records: list[JsonObject]) -> dict[str, tuple[str, ...]]:
    """The columns of records, those of an object within a record called OUTER.INNER, and the keys that lead to each."""
    paths: dict[str, tuple[str, ...]] = {}
    keys = dict.fromkeys(itertools.chain.from_iterable(records))
    for key in keys:
        held = [record[key] for record in records if record.get(key) is not None]
        inner = paths_of(held) if held and all(isinstance(value, dict) for value in held) else {}
        if 0 < len(inner) <= MOST_INNER_KEYS:
            paths |= {f"{key}.{name}": (key, *path) for name, path in inner.items() if f"{key}.{name}" not in keys}
        else:
            paths[key] = (key,)
    return paths


def flat(record: JsonObject, paths: dict[str, tuple[str, ...]]) -> JsonObject:
    """A record with its columns beside each other; a list or an object that stays whole as the text of its JSON."""
    row = {}
    for name, path in paths.items():
        value: Any = record
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        row[name] = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
    return row
