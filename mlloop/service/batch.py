"""Scoring of files and tables: read, answer with the code that answers requests, write whole or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlloop import serving
from mlloop.core import storage
from mlloop.core.errors import ModelError, SourceError
from mlloop.core.settings import Settings
from mlloop.store import prediction_log
from mlloop.store.ledger import Ledger

if TYPE_CHECKING:
    import pandas as pd

KINDS = (".csv", ".parquet")
NEXT = "Example: mlloop predict people.csv --out scored.parquet"


@dataclass(frozen=True)
class Done:
    """What was scored: the answers, and counts with the reasons of what was refused."""

    answered: "pd.DataFrame"
    summary: dict[str, Any]


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
    if out is not None and Path(out).suffix not in KINDS:
        raise SourceError(f"is of kind {Path(out).suffix!r}, expected {' or '.join(KINDS)}", str(out), NEXT)
    pair = serving.in_production(settings, Ledger.open(settings), problem)
    if pair is None:
        raise ModelError("no model is in production", problem, "Put one there: mlloop run")
    texts = [one.name for one in pair.form.fields if one.type == "text"] + [pair.form.entity or "user"]
    texts += ["exclude"] * (pair.form.kind == "recommendation")
    rows = read(settings, table, texts)
    kept = prediction_log.Log(prediction_log.folder_of(settings, problem)) if log else None
    try:
        answered, refused = serving.score_table(pair, rows, kept)
        lost = kept.lost if kept else 0
    finally:
        if kept:
            kept.close()
    if out is not None:
        write(answered, Path(out))
    counts = refused["reason"].value_counts().head(20)
    summary = {
        "problem": problem,
        "rows": len(rows),
        "answered": len(rows) - len(refused),
        "refused": {str(reason): int(count) for reason, count in counts.items()},
        "not_logged": lost,
        "model": pair.champion.model,
        "out": str(out) if out else None,
    }
    return Done(answered, summary)


def read(settings: Settings, table: "str | Path | pd.DataFrame", texts: Sequence[str] = ()) -> "pd.DataFrame":
    """The rows of a file or of a table of the lake; of a CSV or JSON file the columns `texts` are taken as they are written.

    Otherwise '021' would become 21, and '21' beside a gap 21.0: another category than the one the service is told.
    """
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        return table
    table = str(table)
    if table.startswith("lake:"):
        from mlloop.store.lake import Lake

        return Lake(settings).read(table.removeprefix("lake:")).to_pandas()
    kinds: dict[str, Any] = {
        ".csv": lambda path: pd.read_csv(path, dtype=dict.fromkeys(texts, str)),
        ".parquet": pd.read_parquet,
        ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=False, convert_dates=False),
    }
    name = Path(table).name.removesuffix(".gz")
    kind = kinds.get(Path(name).suffix)
    if kind is None:
        raise SourceError(f"is of no known kind (known: {', '.join(kinds)}, each also .gz)", table, NEXT)
    try:
        return kind(table)
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot be read: {error}", table, NEXT) from error


def write(frame: "pd.DataFrame", path: Path) -> None:
    """Write the answers, atomically, as CSV or Parquet."""
    with storage.atomic_path(path) as beside:
        frame.to_csv(beside) if path.suffix == ".csv" else frame.to_parquet(beside)
