"""Takes the rows of one person out of Parquet files and out of every version of a table of the lake.

A Delta table keeps a version as a list of files. The files are written again without the rows, under their own names,
and the log is brought into line with them: sizes, statistics, and the sums from which a version's digest follows. So
every version that a product cites can still be read, without the person. Done again after an interruption it completes.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler

from mlloop.core import storage
from mlloop.core.errors import LakeError
from mlloop.core.records import JsonObject, Row
from mlloop.store import lake as lakes
from mlloop.store.lake import Lake, Sums

LOG = "_delta_log"
MOST_ROWS = 10_000  # of a person that are remembered, to know them again where the column is missing
LEAST_LETTERS = 3  # of a value that is replaced in text: a shorter one, or a number, says nothing by itself


@dataclass(frozen=True)
class Person:
    """Whose rows are erased: those in which one of the columns holds the value, blanks around it aside."""

    columns: tuple[str, ...]
    value: str

    def also_in(self, *columns: str) -> "Person":
        """The same person, whose value stands in further columns."""
        return replace(self, columns=tuple(dict.fromkeys((*self.columns, *columns))))

    @property
    def number(self) -> int | None:
        """The value as a whole number, where it is written as one."""
        return int(self.value) if self.value.lstrip("-").isdecimal() and str(int(self.value)) == self.value else None

    @property
    def is_telling(self) -> bool:
        """Whether the value is the person wherever it stands in a text."""
        return len(self.value) >= LEAST_LETTERS and any(letter.isalpha() for letter in self.value)

    def is_in(self, value: Any) -> bool:
        """Whether a value is the person's."""
        text = str(value).strip()
        if value is None or text == self.value or self.number is None:
            return value is not None and text == self.value
        try:
            return float(text) == self.number
        except ValueError:
            return False

    def owns(self, row: Row) -> bool:
        """Whether a row is the person's."""
        return any(self.is_in(row[name]) for name in self.columns if name in row)

    def mask(self, batch: pa.RecordBatch) -> pa.Array:
        """Which rows are the person's, shape (n_rows,), without nulls."""
        mask = pa.array([False] * batch.num_rows, pa.bool_())
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            values = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
            hits = self._equal(values) if name in self.columns else self._in_json(values)
            mask = mask if hits is None else pc.or_(mask, pc.fill_null(hits, False))
        return mask

    def _equal(self, values: pa.Array) -> pa.Array | None:
        kind = values.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return pc.equal(pc.utf8_trim_whitespace(values), self.value)
        if pa.types.is_floating(kind):
            return None if self.number is None else pc.equal(values, float(self.number))
        return None if pa.types.is_nested(kind) else pc.equal(values.cast(pa.string()), self.value)

    def _in_json(self, values: pa.Array) -> pa.Array | None:
        """Rows that hold the person's row as JSON: a rejected row, a message, a logged request."""
        kind = values.type
        if not (pa.types.is_string(kind) or pa.types.is_binary(kind)):
            return None
        written = {json.dumps(self.value, ensure_ascii=ascii)[1:-1] for ascii in (True, False)}
        hits = [pc.fill_null(pc.match_substring(values, text), False) for text in written]
        candidates = pc.or_(hits[0], hits[-1])
        if not pc.any(candidates).as_py():
            return None
        return pa.array([bool(is_hit) and self._owns_json(values[n].as_py()) for n, is_hit in enumerate(candidates)])

    def _owns_json(self, text: str | bytes) -> bool:
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(text)
            return isinstance(row, dict) and self.owns(row)
        return False


@dataclass(frozen=True)
class _Files:
    """The files of one folder, on a disk or in a store."""

    fs: pa.fs.FileSystem
    uri: str

    @classmethod
    def of(cls, uri: str) -> "_Files":
        if "://" in uri:
            return cls(pa.fs.PyFileSystem(DeltaStorageHandler(uri, lakes.storage_options(uri))), uri)
        return cls(pa.fs.SubTreeFileSystem(str(Path(uri).resolve()), pa.fs.LocalFileSystem()), uri)

    def sizes(self, suffix: str) -> dict[str, int]:
        """Name -> bytes of the files with such an ending, relative to the folder."""
        entries = self.fs.get_file_info(pa.fs.FileSelector("", recursive=True, allow_not_found=True))
        files = [entry for entry in entries if entry.type == pa.fs.FileType.File and entry.path.endswith(suffix)]
        return {entry.path: entry.size for entry in files}

    def read(self, name: str) -> bytes:
        with self.fs.open_input_stream(name) as stream:
            return stream.read()

    @contextlib.contextmanager
    def replaced(self, name: str) -> Iterator[Any]:
        """A stream whose content takes a file's place as a whole."""
        if "://" in self.uri:
            with self.fs.open_output_stream(name) as stream:
                yield stream
            return
        with storage.atomic_path(Path(self.uri, name)) as beside, beside.open("wb") as stream:
            yield stream

    def remove(self, name: str) -> None:
        self.fs.delete_file(name)


def owned(file: Any, person: Person, remember: Callable[[Row], None] = lambda row: None) -> int:
    """How many rows of a Parquet file are the person's; `remember` is given each."""
    count = 0
    for batch in pq.ParquetFile(file).iter_batches():
        mask = person.mask(batch)
        hits = pc.sum(mask).as_py() or 0
        count += hits
        for row in batch.filter(mask).to_pylist() if hits else []:
            remember(row)
    return count


def write_without(file: Any, person: Person, sink: Any) -> int:
    """Write a Parquet file without the person's rows; returns how many were left out."""
    count, source = 0, pq.ParquetFile(file)
    with pq.ParquetWriter(sink, source.schema_arrow, compression="snappy") as writer:
        for batch in source.iter_batches():
            mask = person.mask(batch)
            count += pc.sum(mask).as_py() or 0
            writer.write_batch(batch.filter(pc.invert(mask)))
    return count


def from_parquet(path: Path, person: Person, dry_run: bool = False) -> int:
    """Take the person's rows out of a Parquet file of this disk; returns how many."""
    rows = owned(path, person)
    if rows and not dry_run:
        with storage.atomic_path(path) as beside:
            write_without(path, person, beside)
            beside.chmod(path.stat().st_mode & 0o777)
    return rows


def from_table(
    lake: Lake,
    name: str,
    person: Person,
    *,
    dry_run: bool = False,
    remember: Callable[[Row], None] = lambda row: None,
) -> int:
    """Take the person's rows out of every version of a table; returns how many, those of each file counted.

    Raises
    ------
    LakeError
        The beginning of the table's log is gone, so its versions cannot be brought into line.
    """
    files, rows = _Files.of(lake.where(name)), 0
    for path in (path for path in files.sizes(".parquet") if not path.startswith(LOG)):
        with files.fs.open_input_file(path) as file:
            hits = owned(file, person, remember)
        rows += hits
        if hits and not dry_run:
            with files.fs.open_input_file(path) as file, files.replaced(path) as sink:
                write_without(file, person, sink)
    if not dry_run:
        _align(lake, name, files, person)
    return rows


def _align(lake: Lake, name: str, files: _Files, person: Person) -> None:
    """Bring a table's log into line with its files, the newest commit first: an interruption leaves a sign behind it."""
    sizes = {path: size for path, size in files.sizes(".parquet").items() if not path.startswith(LOG)}
    commits = {path: _lines(files, path) for path in sorted(files.sizes(".json")) if _version(path) is not None}
    adds = [line["add"] for lines in commits.values() for line in lines if "add" in line]
    stale = {unquote(add["path"]) for add in adds if sizes.get(unquote(add["path"]), add["size"]) != add["size"]}
    named = {unquote(add["path"]) for add in adds if json.dumps(person.value)[1:-1] in (add.get("stats") or "")}
    if not stale and not named:
        return
    if _version(min(commits)) != 0:
        raise LakeError("the beginning of its log is gone", lake.where(name), "Write the table again: mlloop run")
    for path in [path for path in files.sizes("") if path.startswith(LOG) and ("checkpoint" in path)]:
        files.remove(path)
    sums = _sums_of_versions(files, commits, set(sizes)) if stale else {}
    counts = {path: _rows_of(files, path) for path in stale}
    for path, lines in reversed(commits.items()):
        for line in lines:
            _correct(line, sizes, counts, named)
            if "commitInfo" in line and lakes.NOTE in line["commitInfo"] and path in sums:
                line["commitInfo"][lakes.NOTE] = _note(line["commitInfo"][lakes.NOTE], sums[path])
        content = "\n".join(json.dumps(line, separators=(",", ":"), ensure_ascii=False) for line in lines) + "\n"
        if content.encode() != files.read(path):
            with files.replaced(path) as sink:
                sink.write(content.encode())
    if len(commits) >= 100:  # as many as deltalake waits for
        DeltaTable(lake.where(name), storage_options=lakes.storage_options(lake.uri)).create_checkpoint()


def _lines(files: _Files, path: str) -> list[JsonObject]:
    return [json.loads(line) for line in files.read(path).decode().splitlines() if line.strip()]


def _version(path: str) -> int | None:
    stem = path.removeprefix(f"{LOG}/").removesuffix(".json")
    return int(stem) if path.startswith(f"{LOG}/") and stem.isdecimal() else None


def _rows_of(files: _Files, path: str) -> int:
    with files.fs.open_input_file(path) as file:
        return pq.ParquetFile(file).metadata.num_rows


def _correct(line: JsonObject, sizes: dict[str, int], counts: dict[str, int], named: set[str]) -> None:
    """Sizes as they are, and statistics that name no value of a file that held the person."""
    for action in (line[kind] for kind in ("add", "remove") if kind in line):
        path = unquote(action["path"])
        if path in counts:
            action["size"] = sizes[path]
        if (path in counts or path in named) and action.get("stats"):
            known = json.loads(action["stats"])
            action["stats"] = json.dumps({"numRecords": counts.get(path, known.get("numRecords"))})


def _note(text: str, sums: Sums) -> str:
    """The note of a commit with the sums of its version, which now stand for themselves."""
    note = {key: value for key, value in json.loads(text).items() if key not in ("base", "before")}
    return json.dumps({**note, "whole": True, "rows": sums.rows, "low": sums.low, "high": sums.high})


def _sums_of_versions(files: _Files, commits: dict[str, list[JsonObject]], there: set[str]) -> dict[str, Sums]:
    """The sums of each version all of whose files are there, from those of its files."""
    known: dict[str, Sums] = {}
    live: set[str] = set()
    versions = {}
    for path, lines in commits.items():
        live -= {unquote(line["remove"]["path"]) for line in lines if "remove" in line}
        live |= {unquote(line["add"]["path"]) for line in lines if "add" in line}
        if live <= there:
            known |= {file: _sums_of(files, file) for file in live if file not in known}
            versions[path] = sum((known[file] for file in live), Sums(0, 0, 0))
    return versions


def _sums_of(files: _Files, path: str) -> Sums:
    with files.fs.open_input_file(path) as file:
        return lakes.file_sums(path, file)
