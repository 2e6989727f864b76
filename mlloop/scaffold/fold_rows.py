"""Counts the rows of each window that a statement cuts a history into, from its files and before anything runs."""

import datetime as dt
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlloop.core.errors import DataError, ProblemError
from mlloop.core.settings import Settings
from mlloop.problem import Column, Problem, Tabular, utc

MOST_BYTES = 500_000_000
"""Files that are larger together are not counted: a check takes seconds."""


@dataclass(frozen=True)
class Counts:
    """The rows of a table that have a target: of the holdout and of each fold, and what was before the first fold."""

    by_file_order: bool
    holdout_from: dt.datetime
    holdout: int
    folds: list[tuple[str, int]]
    learnt: int

    @property
    def words(self) -> str:
        """One line of them."""
        from mlloop.scaffold import times

        tested = [rows for _, rows in self.folds]
        empty = [day for day, rows in self.folds if not rows]
        left_out = f"; the fold from {', '.join(empty)} on holds no row and is left out" if empty else ""
        counted_rows = times.folds_in_words(self.holdout, self.holdout_from, tested, self.learnt, self.by_file_order)
        return counted_rows + left_out


def of_statement(file: Path, statement: Problem, settings: Settings) -> list[str]:
    """The rows of the holdout and of each fold, one line; none where they cannot be known without running.

    Raises
    ------
    ProblemError
        The holdout, or all folds but one, hold no row: the run would fail.
    """
    task, time = statement.task, statement.time.column
    if not isinstance(task, Tabular) or time is None or statement.time.as_of is None or statement.simulator:
        return []
    table = statement.tables[task.table]
    source, columns = statement.sources[table.source], table.columns
    if source.kind != "files" or time not in columns or task.target not in columns or task.where:
        return []
    moments = _moments(statement, settings, {n: columns[n] for n in (time, task.target)})
    if moments is None:
        return []
    counts = counted(statement, moments)
    where = f"{file}: time"
    if not counts.holdout:
        raise ProblemError(
            f"no row from {counts.holdout_from:%Y-%m-%d} on has a target: nothing is held out", where,
            "Widen time.holdout_days or change time.as_of, then: mlloop check",
        )  # fmt: skip
    if sum(rows > 0 for _, rows in counts.folds) < 2:
        raise ProblemError(
            f"fewer than two folds hold rows ({counts.words})", where,
            "Fewer or longer folds (time.folds, time.fold_days), then: mlloop check",
        )  # fmt: skip
    return [f"folds of {statement.name}: {counts.words}"]


def counted(statement: Problem, moments: Sequence[dt.datetime]) -> Counts:
    """The rows of each window, by the moments of the rows that have a target.

    Raises
    ------
    DataError
        The history is too short for two folds and the holdout days.
    """
    import numpy as np

    from mlloop import transformation

    assert statement.time.as_of is not None
    as_of = utc(statement.time.as_of)
    at = np.sort(np.array([moment for moment in moments if moment < as_of], dtype="datetime64[us]"))
    if not len(at):
        raise DataError("no row is before as_of", "time.as_of", "Change time.as_of, then: mlloop check")
    windows = transformation.time_windows(statement.time, as_of, at[0].astype(dt.datetime))
    between = lambda a, b: int(np.subtract(*np.searchsorted(at, [np.datetime64(b), np.datetime64(a)])))
    folds = [(f["test_from"][:10], between(f["test_from"], f["test_until"])) for f in windows["folds"]]
    learnt = int(np.searchsorted(at, np.datetime64(windows["folds"][0]["train_until"])))
    held = between(windows["holdout_from"], windows["holdout_until"])
    holdout_from = dt.datetime.fromisoformat(windows["holdout_from"])
    return Counts(_is_by_file_order(statement), holdout_from, held, folds, learnt)


def _is_by_file_order(statement: Problem) -> bool:
    """Whether the time only stands for each row's place in the file."""
    task, time = statement.task, statement.time.column
    columns = statement.tables[task.table].columns if isinstance(task, Tabular) else {}
    return time in columns and columns[time].row_seconds is not None


def _moments(statement: Problem, settings: Settings, columns: dict[str, Column]) -> list[dt.datetime] | None:
    """When the rows happened that have a target, before any cleaning; None where the files are too large to be counted here."""
    import ibis

    from mlloop import collection, ingestion
    from mlloop.data import parsing

    task, time = statement.task, statement.time.column
    assert isinstance(task, Tabular) and time is not None
    table = statement.tables[task.table]
    source = statement.sources[table.source]
    files = collection.matching_files(source, settings, statement.name)
    if sum(path.stat().st_size for path in files) > MOST_BYTES:
        return None
    read = list(dict.fromkeys(part for n, column in columns.items() for part in column.made_of or [n]))
    with tempfile.TemporaryDirectory() as folder:
        raws = [ingestion.RawFile(path, collection.file_format(path, source), path.name, source) for path in files]
        con = ibis.duckdb.connect(memory_limit="600MB", temp_directory=folder)
        rows, _ = ingestion.raw_rows(con, [ingestion.as_utf8(raw, Path(folder)) for raw in raws], read)
        derived = table.model_copy(update={"columns": columns})
        rows = ingestion.derived_columns(rows, derived)
        text = {name: parsing.text_or_null(rows[name], column) for name, column in columns.items()}
        at = parsing.parse_value(text[time], columns[time]).cast("timestamp")
        known = rows.select(at=at, target=text[task.target]).filter(ibis._.at.notnull() & ibis._.target.notnull())
        return list(known.at.to_pyarrow().to_pylist())
