"""Erases one person's rows on request: from raw files, tables, prediction logs, and what runs kept of rows.

What was decided stays: the ledger holds figures and digests, never rows, so its chain is untouched; a row is added that
says when rows were erased and from where, without the value. A model keeps what it has learned until it is trained again.
"""

import contextlib
import csv
import gzip
import io
import json
import mmap
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mlloop import collection, ingestion
from mlloop.core import storage
from mlloop.core.errors import MlloopError, SourceError, UsageError
from mlloop.core.records import JsonObject, Parameters, Row
from mlloop.core.settings import Settings
from mlloop.data import whole_files
from mlloop.ingestion import RawFile
from mlloop.problem import Problem, Recommendation, did_you_mean
from mlloop.store import erasing, objects, prediction_log
from mlloop.store.entries import Entry
from mlloop.store.erasing import Person
from mlloop.store.lake import Lake
from mlloop.store.ledger import Ledger

KEPT_ROWS = ("products", "objects", "monitoring", "turns", "history", "replays", "debug", "failed", "backtest")
JOURNAL = "erasing.json"
ERASED = "(erased)"


@dataclass(frozen=True)
class Erased:
    """What was erased for one problem, or would be: rows, counted in each file that held them.

    Attributes
    ----------
    problem : str
    sources, raw, tables : dict of str to int
        The project's own data files, raw copies, and tables in all their versions -> rows.
    predictions : int
        Of the prediction log.
    kept : int
        Files of products and pages that showed the person.
    left : list of str
        What could not be erased, and what to do about it.
    """

    problem: str
    sources: dict[str, int] = field(default_factory=dict)
    raw: dict[str, int] = field(default_factory=dict)
    tables: dict[str, int] = field(default_factory=dict)
    predictions: int = 0
    kept: int = 0
    left: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows in all, each file's counted."""
        return sum((*self.sources.values(), *self.raw.values(), *self.tables.values(), self.predictions))

    def with_those(self, before: JsonObject) -> "Erased":
        """With what an interrupted call had found: of each place the larger figure, since a part of it may be erased."""
        if not before:
            return self
        larger = lambda a, b: {name: max(a.get(name, 0), b.get(name, 0)) for name in {**a, **b}}
        return replace(
            self,
            sources=larger(self.sources, before["sources"]),
            raw=larger(self.raw, before["raw"]),
            tables=larger(self.tables, before["tables"]),
            predictions=max(self.predictions, before["predictions"]),
            kept=max(self.kept, before["kept"]),
        )


def person(statements: Iterable[Problem], column: str, value: str) -> Person:
    """Whose rows are meant.

    Raises
    ------
    UsageError
        No table has that column, or the value is empty.
    """
    names = {name for statement in statements for table in statement.tables.values() for name in table.columns}
    if column not in names:
        raise UsageError(
            f"no table has a column {column!r}{did_you_mean(column, sorted(names))}", "maintain erase", EXAMPLE
        )
    if not value.strip():
        raise UsageError("the value is empty", "maintain erase", EXAMPLE)
    return Person((column,), value.strip())


EXAMPLE = "Example: mlloop maintain erase customer_id=C1042 --dry-run"


def _in_problem(statement: Problem, who: Person) -> Person:
    """The person under the names that a problem's tables of events give the column."""
    if not isinstance(statement.task, Recommendation):
        return who
    users = {interactions.user for interactions in statement.task.interactions}
    return who.also_in("user") if users & set(who.columns) else who


def _in_log(statement: Problem, who: Person) -> Person:
    """The person as the prediction log names who was asked about."""
    entity = getattr(statement.task, "entity", None)
    is_entity = entity in who.columns or "user" in _in_problem(statement, who).columns
    return who.also_in("entity") if is_entity else who


# ------------------------------------------------------------------------------------------------ the order of the work


def erase(
    settings: Settings,
    ledger: Ledger,
    lake: Lake,
    statements: list[Problem],
    who: Person,
    actor: str,
    *,
    dry_run: bool = False,
    watch: Callable[[str], None] = lambda word: None,
) -> list[Erased]:
    """Erase a person's rows from all that some problems keep; the project must be held.

    What holds no column with the person's value (pages, examples) goes first, while the tables still say which rows were
    the person's; so a call that was interrupted is completed by the next one.

    Parameters
    ----------
    statements : list of Problem
    who : Person
        See `person`.
    actor : str
        Who asked for it.
    dry_run : bool
        Change nothing; count what would be erased.

    Raises
    ------
    LakeError
        A table cannot be read or written.
    """
    would_be = _gone_through(settings, lake, statements, who, True, lambda word: watch(f"search {word}"))
    if dry_run:
        return [replace(part, left=[*part.left, *_learned(ledger, part)]) for part in would_be]
    file = settings.state / JOURNAL
    journal: JsonObject = storage.read_json(file) if file.exists() else {"request": uuid.uuid4().hex}
    whole = [part.with_those(journal.get("parts", {}).get(part.problem, {})) for part in would_be]
    storage.write_json(file, {**journal, "parts": {part.problem: asdict(part) for part in whole}})
    erased = _gone_through(settings, lake, statements, who, False, lambda word: watch(f"erase {word}"))
    done = [replace(part, left=[*now.left, *_learned(ledger, part)]) for part, now in zip(whole, erased, strict=True)]
    for part in done:
        _record(ledger, part, who, actor, journal["request"])
    storage.remove(file)
    return done


def _gone_through(
    settings: Settings, lake: Lake, statements: list[Problem], who: Person, dry_run: bool, watch: Callable[[str], None]
) -> list[Erased]:
    """Search all places in order and, unless it is a dry run, erase what is found there."""
    rows = _rows_of(lake, statements, who)
    kept = _from_kept(settings, who, rows, dry_run, watch)
    done = []
    for statement in statements:
        mine = _in_problem(statement, who)
        watch(f"{statement.name}: predictions")
        predictions, left = _from_log(settings, statement, _in_log(statement, who), dry_run)
        tables = {}
        for name in lake.names(statement.name):
            watch(name)
            if count := erasing.from_table(lake, name, mine, dry_run=dry_run):
                tables[name] = count
        watch(f"{statement.name}: raw files")
        raw = _from_raw(settings, statement, mine, dry_run)
        sources, out_of_reach = _from_sources(settings, statement, mine, dry_run)
        done.append(Erased(statement.name, sources, raw, tables, predictions, kept, [*left, *out_of_reach]))
        kept = 0  # products of all problems are counted with the first
    return done


def _record(ledger: Ledger, part: Erased, who: Person, actor: str, request: str) -> None:
    """Write down that rows were erased; not whose, and nothing where there were none."""
    if not part.rows and not part.kept:
        return
    ledger.append(
        Entry(
            "erasure",
            part.problem,
            subject="person",
            actor=actor,
            reasons=[f"The rows of one person were erased on request: {part.rows:,} in {_places(part)} places."],
            details={
                "column": who.columns[0],
                **{name: getattr(part, name) for name in ("sources", "raw", "tables", "predictions", "kept", "left")},
            },
            key=storage.digest_json(["erasure", request, part.problem]),
        )
    )


def _places(part: Erased) -> int:
    return len(part.sources) + len(part.raw) + len(part.tables) + bool(part.predictions)


def _rows_of(lake: Lake, statements: list[Problem], who: Person) -> list[Row]:
    """Rows of the person that the tables still hold: by them an example without the column is known again."""
    rows: list[Row] = []

    def remember(row: Row) -> None:
        if len(rows) < erasing.MOST_ROWS:
            rows.append(row)

    for statement in statements:
        for name in lake.names(statement.name):
            erasing.from_table(lake, name, _in_problem(statement, who), dry_run=True, remember=remember)
    return rows


def _learned(ledger: Ledger, part: Erased) -> list[str]:
    """What a model keeps of the rows it has learned, where one is in production."""
    row = ledger.champion(part.problem)
    if row is None or not part.rows:
        return []
    return [
        f"The model in production ({str(row.model)[:12]}) and earlier releases learned from these rows and stay as they are, with the values of "
        f"text columns that they know, and a recommender with a vector for each user. Retrain without them: mlloop retrain --problem {part.problem}"
    ]


# ------------------------------------------------------------------------------------------------ predictions


def _from_log(settings: Settings, statement: Problem, who: Person, dry_run: bool) -> tuple[int, list[str]]:
    folder = prediction_log.folder_of(settings, statement.name)
    if not folder.is_dir():
        return 0, []
    if not dry_run:
        prediction_log.seal(folder)
    count = 0
    for path in sorted(folder.glob("[!.]*.parquet")):
        hits = erasing.from_parquet(path, who, dry_run)
        count += hits
        if hits and not dry_run and not erasing.pq.read_metadata(path).num_rows:
            storage.remove(path)
    # a locked segment is one that a service writes now
    open_ = [path for path in folder.glob("[!.]*.jsonl") if not dry_run or storage.is_locked(path)]
    written = [path for path in open_ if any(who.owns(_flat(record)) for record in prediction_log.records(path))]
    if dry_run:
        closed = [path for path in folder.glob("[!.]*.jsonl") if path not in open_]
        count += sum(who.owns(_flat(record)) for path in closed for record in prediction_log.records(path))
    step = "a running service writes a segment of the prediction log that names the person: restart it, then run this again"
    return count, [step] if written else []


def _flat(record: Mapping[str, Any]) -> Row:
    return {**(record.get("row") or {}), "entity": record.get("entity")}


# ------------------------------------------------------------------------------------------------ raw files and sources


def _from_raw(settings: Settings, statement: Problem, who: Person, dry_run: bool) -> dict[str, int]:
    """Take the person out of the raw copies of a problem's sources; the manifest names what takes their place."""
    counts = {}
    for name, source in statement.sources.items():
        folder = settings.state / "raw" / statement.name / name
        if not (folder / "manifest.json").exists():
            continue
        manifest, old = storage.read_json(folder / "manifest.json"), []
        for batch_name, batch in list(manifest["batches"].items()):
            path = settings.state / batch["path"]
            if not path.exists():
                continue
            raw = RawFile(path, batch["format"], batch["origin"], source)
            if dry_run:
                hits = _without(raw, who, None)
            else:
                hits, batch_now = _rewritten_batch(settings, folder, raw, batch, who)
                if hits:
                    _rename(manifest, batch_name, batch_now)
                    old.append((path, batch["digest"], batch_now.digest))
            if hits:
                counts[batch["path"]] = hits
        if old:
            objects.note_erased(settings, {before: after for _, before, after in old})
            storage.write_json(folder / "manifest.json", manifest)
        for path, before, after in old:
            if before != after:
                storage.remove(path)
    return counts


def _rewritten_batch(
    settings: Settings, folder: Path, raw: RawFile, batch: JsonObject, who: Person
) -> tuple[int, collection.Batch]:
    """A batch without the person's rows, under the digest of what is left."""
    suffix = raw.path.name[20:]
    beside = folder / f".erased-{os.getpid()}.part{suffix}"
    try:
        hits = _without(raw, who, beside)
        if not hits:
            return 0, collection.Batch(**batch)
        digest = storage.digest_file(beside)
        final = folder / f"{digest[:20]}{suffix}"
        beside.chmod(0o600)
        os.replace(beside, final)
    finally:
        storage.remove(beside)
    path = final.relative_to(settings.state).as_posix()
    same = digest if batch["source_digest"] == batch["digest"] else batch["source_digest"]
    fields = {**batch, "path": path, "digest": digest, "rows": batch["rows"] - hits, "source_digest": same}
    return hits, collection.Batch(**fields)


def _rename(manifest: JsonObject, was: str, batch: collection.Batch) -> None:
    """Put a batch in the place of another, wherever a manifest names it."""
    name = batch.name()
    manifest["batches"] = {name if key == was else key: value for key, value in manifest["batches"].items()}
    manifest["batches"][name] = asdict(batch)
    for moment, names in manifest["seen"].items():
        manifest["seen"][moment] = [name if listed == was else listed for listed in names]
    for entry in manifest.get("known", {}).values():
        entry[1] = name if entry[1] == was else entry[1]
    if was in manifest.get("fetched", {}):
        manifest["fetched"][name] = manifest["fetched"].pop(was)


def _from_sources(
    settings: Settings, statement: Problem, who: Person, dry_run: bool
) -> tuple[dict[str, int], list[str]]:
    """Take the person out of the project's own data files; what lies elsewhere is named."""
    counts, left = {}, []
    for name, source in statement.sources.items():
        if source.kind != "files":
            left.append(
                f"source {name} ({source.kind}) lies outside: erase the person there, or the next fetch may bring the rows back"
            )
            continue
        for path in collection.matching_files(source, settings, statement.name):
            try:
                raw = RawFile(path, collection.file_format(path, source), path.name, source)
                is_own = path.resolve().is_relative_to(settings.root.resolve()) and os.access(path, os.W_OK)
                hits = (
                    _erased_in_place(settings, statement, name, raw, who)
                    if is_own and not dry_run
                    else _without(raw, who, None)
                )
            except MlloopError as error:
                left.append(f"{path} cannot be read, so it was not searched: {error}".splitlines()[0])
                continue
            if hits and is_own:
                counts[str(path.relative_to(settings.root) if path.is_relative_to(settings.root) else path)] = hits
            elif hits:
                left.append(f"{path} is not the project's own and still has {hits:,} rows: erase them there")
    return counts, left


def _erased_in_place(settings: Settings, statement: Problem, source: str, raw: RawFile, who: Person) -> int:
    """Rewrite a data file; the raw store goes on knowing it, by its new size and time."""
    hits = _without(raw, who, None)
    if not hits:
        return 0
    before = storage.digest_file(raw.path)
    with storage.atomic_path(raw.path) as beside:
        _without(raw, who, beside)
        beside.chmod(raw.path.stat().st_mode & 0o777)
    objects.note_erased(settings, {before: storage.digest_file(raw.path)})
    file = settings.state / "raw" / statement.name / source / "manifest.json"
    if file.exists():
        manifest, status = storage.read_json(file), raw.path.stat()
        entry = manifest.get("known", {}).get(str(raw.path))
        if entry and manifest["batches"].get(entry[1], {}).get("digest") == storage.digest_file(raw.path):
            entry[0] = [status.st_size, status.st_mtime_ns]
            storage.write_json(file, manifest)
    return hits


def _without(raw: RawFile, who: Person, target: Path | None) -> int:
    """How many rows of a raw file are the person's; `target` becomes the file without them, every other byte as it was.

    Raises
    ------
    SourceError
        A file that is not in its declared format.
    """
    if raw.format in whole_files.LINES_OF:
        raise SourceError(f"is read as a whole ({raw.format})", str(raw.path), "Take the person out of it by hand")
    if not _mentions(raw.path, who, raw.source.encoding):
        if target is not None:
            target.write_bytes(raw.path.read_bytes())
        return 0
    try:
        if raw.format == "parquet":
            return erasing.owned(raw.path, who) if target is None else erasing.write_without(raw.path, who, target)
        records = _json_lines(raw, who) if raw.format == "jsonl" else _csv_records(raw, who)
        with _written(target, raw) as write:
            count = 0
            for text, is_theirs in records:
                count += is_theirs
                if not is_theirs:
                    write(text)
            return count
    except (UnicodeError, LookupError, csv.Error, OSError, EOFError) as error:
        raise SourceError(f"cannot be read as {raw.format}: {error}", str(raw.path), ingestion.FETCH_AGAIN) from error


def _mentions(path: Path, who: Person, encoding: str) -> bool:
    """Whether the value can be in a file at all; a compressed one may always."""
    if path.suffix in (".gz", ".parquet", ".pq") or not path.stat().st_size:
        return path.stat().st_size > 0
    written = {who.value.encode(encoding, "ignore"), json.dumps(who.value)[1:-1].encode(encoding, "ignore")}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(text.removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff")) >= 0 for text in written)


def _opened(raw: RawFile) -> io.TextIOBase:
    """The text of a raw file such that writing it again gives the same bytes."""
    is_utf8 = ingestion.is_utf8(raw.source)
    opened: Any = gzip.open if raw.path.name.endswith(".gz") else open
    errors = "surrogateescape" if is_utf8 else "strict"
    return opened(raw.path, "rt", encoding="utf-8" if is_utf8 else raw.source.encoding, errors=errors, newline="")


@contextlib.contextmanager
def _written(target: Path | None, raw: RawFile) -> Iterator[Callable[[str], Any]]:
    if target is None:
        yield lambda text: None
        return
    is_utf8 = ingestion.is_utf8(raw.source)
    opened: Any = gzip.open if raw.path.name.endswith(".gz") else open
    errors = "surrogateescape" if is_utf8 else "strict"
    with opened(target, "wt", encoding="utf-8" if is_utf8 else raw.source.encoding, errors=errors, newline="") as file:
        yield file.write


def _json_lines(raw: RawFile, who: Person) -> Iterator[tuple[str, bool]]:
    """Each line with whether it is the person's."""
    with _opened(raw) as lines:
        for line in lines:
            row = None
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line.lstrip("\ufeff"))
            yield line, isinstance(row, dict) and who.owns(row)


def _csv_records(raw: RawFile, who: Person) -> Iterator[tuple[str, bool]]:
    """Each record of a CSV as it is written, with whether it is the person's; lines above the header belong to nobody."""
    source = raw.source
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in file:
            taken.append(line)
            yield line.lstrip("\ufeff") if is_header else line

    def text() -> str:
        whole = "".join(taken)
        taken.clear()
        return whole

    with _opened(raw) as file:
        for _ in range(source.skip):
            yield file.readline(), False
        is_header, before = True, csv.field_size_limit(2**31 - 1)
        try:
            reader = _reader(lines(), raw)
            names = ingestion.distinct_names(next(reader, []))
            yield text(), False
            is_header, at = False, [n for n, name in enumerate(names) if name in who.columns]
            for record in reader:
                yield text(), any(n < len(record) and who.is_in(record[n]) for n in at)
            yield text(), False
        finally:
            csv.field_size_limit(before)


def _reader(lines: Iterator[str], raw: RawFile) -> Iterator[list[str]]:
    source, separator = raw.source, ingestion.separator(raw)
    if not source.quote and source.escape == "\\":
        return ingestion.unescaped(lines, separator)
    form: Parameters = {"delimiter": separator, "doublequote": source.escape != "\\"}
    if source.escape == "\\":
        form["escapechar"] = "\\"
    quoting = {"quotechar": source.quote} if source.quote else {"quoting": csv.QUOTE_NONE}
    return csv.reader(lines, **form, **quoting)


# ------------------------------------------------------------------------------------------------ products and pages


def _from_kept(settings: Settings, who: Person, rows: list[Row], dry_run: bool, watch: Callable[[str], None]) -> int:
    """Take the person out of examples in products, executed notebooks and pages; returns from how many files."""
    watch("products and pages")
    folders = [*(settings.state / name for name in KEPT_ROWS), settings.reports]
    count, changed = 0, {}
    for path in (path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("*"))):
        if path.suffix not in (".json", ".ipynb", ".html", ".parquet") or not path.is_file() or path.is_symlink():
            continue
        if path.suffix == ".parquet":
            hits = 0 if erasing.LOG in str(path) else erasing.from_parquet(path, who, dry_run)
            count += bool(hits)
            continue
        before = path.read_text(encoding="utf-8", errors="surrogateescape")
        after = _scrubbed(path, before, who, rows)
        if after == before:
            continue
        count += 1
        if not dry_run:
            was = storage.digest_file(path)
            with storage.atomic_path(path) as beside:
                beside.write_text(after, encoding="utf-8", errors="surrogateescape")
                beside.chmod(path.stat().st_mode & 0o777)
            changed[was] = storage.digest_file(path)
            objects.note_erased(settings, changed)
    return count


def _scrubbed(path: Path, text: str, who: Person, rows: list[Row]) -> str:
    """The text of a file without the person."""
    if path.suffix == ".json":
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(text)
            without = without_person(content, who, rows)
            return (
                text if without == content else json.dumps(without, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
            )
    if not who.is_telling or who.value not in text:
        return text
    return re.sub(rf"(?<![\w@]){re.escape(who.value)}(?![\w@])", ERASED, text)


def without_person(content: Any, who: Person, rows: Iterable[Row] = ()) -> Any:
    """JSON without the person: rows that are theirs, examples that equal such a row, and the value itself where it is telling."""
    if isinstance(content, list):
        kept = [entry for entry in content if not (isinstance(entry, dict) and who.owns(entry))]
        return [without_person(entry, who, rows) for entry in kept]
    if isinstance(content, dict):
        content = _without_examples(content, who, rows)
        telling = {key: value for key, value in content.items() if not (who.is_telling and who.is_in(key))}
        return {key: without_person(value, who, rows) for key, value in telling.items()}
    return ERASED if who.is_telling and isinstance(content, str) and who.is_in(content) else content


def _without_examples(content: JsonObject, who: Person, rows: Iterable[Row]) -> JsonObject:
    """Requests and their predictions, as an evaluation keeps them: of columns, or of users."""
    columns, users, predictions = content.get("rows"), content.get("users"), content.get("answers")
    if not isinstance(predictions, list):
        return content
    theirs: set[int] = set()
    if isinstance(columns, dict) and all(isinstance(v, list) and len(v) == len(predictions) for v in columns.values()):
        examples = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        theirs = {
            n for n, example in enumerate(examples) if who.owns(example) or any(_equal(example, row) for row in rows)
        }
        columns = {name: _but(values, theirs) for name, values in columns.items()}
    if isinstance(users, list) and len(users) == len(predictions):
        theirs |= {n for n, user in enumerate(users) if who.is_in(user)}
        users = _but(users, theirs)
    if not theirs:
        return content
    shorter = {"rows": columns, "users": users, "answers": _but(predictions, theirs)}
    return {**content, **{key: value for key, value in shorter.items() if key in content}}


def _but(values: list[Any], left_out: set[int]) -> list[Any]:
    return [value for n, value in enumerate(values) if n not in left_out]


def _equal(example: Row, row: Row) -> bool:
    """Whether an example is a row, by the columns that both have: two at least."""
    shared = [name for name in example if name in row]
    return len(shared) > 1 and all(_plain(example[name]) == _plain(row[name]) for name in shared)


def _plain(value: Any) -> Any:
    return str(value.isoformat() if hasattr(value, "isoformat") else value).replace("T", " ").removesuffix(".0")


def described(done: Iterable[Erased], dry_run: bool) -> list[str]:
    """What was erased, a line each; at the end what could not be."""
    verb = "would be erased" if dry_run else "erased"
    lines: list[str] = []
    left: dict[str, None] = {}
    for part in done:
        where = [*part.sources.items(), *part.raw.items(), *part.tables.items()]
        where += [("predictions", part.predictions)] if part.predictions else []
        where += [("files of products and pages", part.kept)] if part.kept else []
        lines += [f"{part.problem:<16} {count:>8,}  {name}" for name, count in where]
        left |= dict.fromkeys(part.left)
    if not lines:
        return ["nothing of this person is left", *(f"not in reach: {line}" for line in left)]
    head = f"{verb}: rows, counted in each file that holds them" + (" (every version of a table)" if lines else "")
    return [head, *lines, *(f"stays: {line}" for line in left)]
