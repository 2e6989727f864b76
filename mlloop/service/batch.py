"""Scoring of files and tables: read, answer with the code that answers requests, write whole or not at all."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlloop import ingestion, serving
from mlloop import problem as problems
from mlloop.core import revisions, storage
from mlloop.core.errors import ModelError, ProblemError, SourceError
from mlloop.core.records import JsonObject
from mlloop.core.settings import Settings
from mlloop.data import parsing, whole_files
from mlloop.problem import Problem, Source
from mlloop.service import models_in_use
from mlloop.store import champions, prediction_log
from mlloop.store.ledger import Ledger

if TYPE_CHECKING:
    import pandas as pd

KINDS = (".csv", ".parquet")
NEXT = "Example: mlloop predict people.csv --out scored.parquet"


@dataclass(frozen=True)
class Done:
    """What was scored: the answers, and counts with the reasons of what was refused."""

    answered: "pd.DataFrame"
    summary: JsonObject


def score(
    settings: Settings, problem: str, table: "str | Path | pd.DataFrame", out: Path | None = None, log: bool = True
) -> Done:
    """Answer for every row of a file, a table of the lake or a DataFrame.

    Parameters
    ----------
    table : str, Path or DataFrame
        A CSV, Parquet or JSON-lines file (each also .gz), or 'lake:PROBLEM/TABLE'.
    out : Path, optional
        A CSV or Parquet file to write the answers to.
    log : bool
        Whether to keep them in the prediction log, where monitoring reads them.

    Raises
    ------
    ModelError
        No model is in production, or its release was altered.
    SourceError
        The table cannot be read, or `out` is of no known kind: nothing is answered then.
    """
    ledger = Ledger.open(settings)
    pair = serving.in_production(settings, ledger, problem)
    if pair is None:
        raise ModelError("no model is in production", problem, champions.way_into_production(ledger, problem))
    folder = prediction_log.folder_of(settings, problem) if log else None
    statement = _statement(settings, problem)
    return answered_by(pair, table, out, folder, _sources(statement), settings)


def score_alone(
    folder: Path | str, table: "str | Path | pd.DataFrame", out: Path | None = None, logs: Path | None = None
) -> Done:
    """Answer for every row with the release in a folder, without a project.

    Parameters
    ----------
    folder : Path
        Holds release.json.
    table, out
        As for `score`; there is no lake.
    logs : Path, optional
        The folder of the prediction logs, one folder a problem; default: nothing is logged.

    Raises
    ------
    ModelError
        There is no release, or it was altered.
    SourceError
        See `score`.
    """
    release = models_in_use.load_folder(folder)
    return answered_by(serving.Pair(release), table, out, logs / release.problem if logs else None)


def answered_by(
    pair: serving.Pair,
    table: "str | Path | pd.DataFrame",
    out: Path | None,
    log_folder: Path | None,
    sources: Sequence[Source] = (),
    settings: Settings | None = None,
) -> Done:
    """Answer for every row with a pair of releases; see `score`."""
    if out is not None and Path(out).suffix not in KINDS:
        raise SourceError(f"is of kind {Path(out).suffix!r}, expected {' or '.join(KINDS)}", str(out), NEXT)
    texts = [field.name for field in pair.form.fields if field.type == "text"] + [pair.form.entity or "user"]
    texts += ["exclude"] * (pair.form.kind == "recommendation")
    texts += [part for parts in pair.form.made_of.values() for part in parts if part not in pair.form.names]
    fields = [field.name for field in pair.form.fields if not field.derived]
    rows = read(settings, table, texts, fields, sources)
    log = prediction_log.Log(log_folder) if log_folder else None
    try:
        cleaned = isinstance(table, str) and table.startswith("lake:")
        answered, refused = serving.score_table(pair, rows, log, clean=not cleaned)
        lost = log.lost if log else 0
    finally:
        if log:
            log.close()
    if out is not None:
        write(answered, Path(out))
    counts = refused["reason"].value_counts().head(20)
    summary = {
        "problem": pair.champion.problem,
        "rows": len(rows),
        "answered": len(rows) - len(refused),
        "refused": {str(reason): int(count) for reason, count in counts.items()},
        "not_logged": lost,
        "model": pair.champion.model,
        "threshold": {role: release.threshold for role, release in _roles(pair) if release.threshold},
        "out": str(out) if out else None,
    }
    return Done(answered, summary)


def _roles(pair: serving.Pair) -> list[tuple[str, Any]]:
    """The releases that answer, with their roles."""
    return [("champion", pair.champion), *([("canary", pair.canary)] if pair.canary else [])]


def _statement(settings: Settings, problem: str) -> Problem | None:
    """The statement of a problem as it is now; None where it cannot be read."""
    try:
        return problems.load(problems.find(revisions.current(settings, problem), settings.problems))
    except ProblemError:
        return None


def _sources(statement: Problem | None) -> list[Source]:
    """How the files of a problem are written, going by its statement."""
    return [source for source in statement.sources.values() if source.kind == "files"] if statement else []


def read(
    settings: Settings | None,
    table: "str | Path | pd.DataFrame",
    texts: Sequence[str] = (),
    fields: Sequence[str] = (),
    sources: Sequence[Source] = (),
) -> "pd.DataFrame":
    """The rows of a file or of a table of the lake; every value of a CSV file, and `texts` of JSON, as it is written.

    Otherwise '021' would become 21, and '21' beside a gap 21.0: another category than the one the service is told.

    Parameters
    ----------
    fields : sequence of str
        What a request states; says in which of several ways a CSV file is to be read.
    sources : sequence of Source
        How the files of the problem are written.
    """
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        return table
    table = str(table)
    if table.startswith("lake:"):
        if settings is None:
            raise SourceError("is a table of a lake, and a release alone has none", table, NEXT)
        from mlloop.store.lake import Lake

        return Lake(settings).read(table.removeprefix("lake:")).to_pandas()
    kinds: dict[str, Callable[[str], pd.DataFrame]] = {
        ".csv": lambda path: _csv(Path(path), texts, fields, sources),
        ".tsv": lambda path: _csv(Path(path), texts, fields, sources),
        ".parquet": pd.read_parquet,
        ".jsonl": lambda path: _json(Path(path)),
        ".json": lambda path: _whole(Path(path), "json", texts, fields, sources),
    }
    sheet: Callable[[str], pd.DataFrame] = lambda path: _whole(Path(path), "sheet", texts, fields, sources)
    kinds |= dict.fromkeys(whole_files.SHEETS, sheet)
    name = Path(table).name.removesuffix(".gz")
    kind = kinds.get(Path(name).suffix)
    if kind is None:
        raise SourceError(f"is of no known kind (known: {', '.join(kinds)}, each also .gz)", table, NEXT)
    try:
        return kind(table)
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot be read: {error}", table, NEXT) from error


def _json(path: Path) -> "pd.DataFrame":
    """Rows of JSON lines; the keys of an object within a record are columns of their own."""
    import pandas as pd

    frame = pd.read_json(path, lines=True, dtype=False, convert_dates=False)
    if not frame.map(lambda value: isinstance(value, dict)).to_numpy().any():
        return frame
    records: list[dict] = frame.to_dict("records")
    paths = whole_files.paths_of(records)
    return pd.DataFrame([whole_files.flat(record, paths) for record in records])


def _whole(
    path: Path, form: str, texts: Sequence[str], fields: Sequence[str], sources: Sequence[Source]
) -> "pd.DataFrame":
    """Rows of a JSON document or a spreadsheet, written out as lines first."""
    sheet = next((source.sheet for source in sources if source.sheet), None)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, f"{path.name}.{whole_files.LINES_OF[form]}")
        whole_files.written_out(path, form, copy, sheet)
        return _json(copy) if form == "json" else _csv(copy, texts, fields, sources)


def _csv(path: Path, texts: Sequence[str], fields: Sequence[str], sources: Sequence[Source]) -> "pd.DataFrame":
    """A text file as the statement's files are written, or with another separator where more of the fields are found so."""
    import ibis

    plain = [Source(kind="files", path=str(path), separator=mark) for mark in (None, ";", "\t", "|")]
    ways = [ingestion.RawFile(path, "csv", path.name, source) for source in [*sources, *plain]]
    readable: list[tuple[int, int, ingestion.RawFile, list[str]]] = []
    faults: list[SourceError] = []
    for position, way in enumerate(ways):
        try:
            names = ingestion.header(way)
        except SourceError as error:
            faults.append(error)
            continue
        readable.append((-len({*fields, *texts} & set(names)), position, way, names))
    if not readable:
        raise faults[-1]
    _, _, way, names = min(readable, key=lambda reading: reading[:2])
    if not names:
        raise SourceError("cannot be read: it is empty", str(path), NEXT)
    with tempfile.TemporaryDirectory() as folder:
        rows, unread = ingestion.raw_rows(ibis.duckdb.connect(), [ingestion.as_utf8(way, Path(folder))], names)
        lost = unread.limit(3).to_pyarrow().to_pylist()
        if lost:
            lines = "; ".join(f"line {line['_row']}: {line['_reason']}" for line in lost)
            raise SourceError(f"cannot be read: {lines}", str(path), "Fix the lines, then score it again")
        frame = rows.order_by("_row").select(*names).to_pandas().astype(object)
    for name in set(names) - set(texts):
        frame[name] = frame[name].where(~frame[name].str.strip().str.lower().isin(parsing.MISSING))
    return frame.where(frame.notna(), None)


def write(frame: "pd.DataFrame", path: Path) -> None:
    """Write the answers, atomically, as CSV or Parquet."""
    with storage.atomic_path(path) as beside:
        frame.to_csv(beside) if path.suffix == ".csv" else frame.to_parquet(beside)
