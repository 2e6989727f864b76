"""Keeps a project from growing for ever: compaction, removal of what nothing cites, and backups of its databases.

What a decision cites stays readable: a version of a table is kept while a product, a release or a row of the ledger
names it, however old it is.
"""

import contextlib
import datetime as dt
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlloop.core import clock, storage
from mlloop.core.errors import UsageError
from mlloop.core.settings import Settings
from mlloop.problem import Problem
from mlloop.store import objects, prediction_log
from mlloop.store.chain import Head
from mlloop.store.lake import Lake
from mlloop.store.ledger import Ledger

NO_CITATIONS = ("lake", "artifacts", "raw", "predictions", "tmp", "kernels")  # folders of the state without products
NEWEST_PERIODS = 12  # that monitoring may look back on


@dataclass(frozen=True)
class Maintained:
    """What was done for one problem, or would be.

    Attributes
    ----------
    problem : str
    compacted : dict of str to int
        Table -> how many files it has less.
    removed : dict of str to int
        Table -> how many files no version needed.
    segments : int
        Sealed parts of the prediction log that were removed.
    predictions_since : datetime or None
        Since when predictions are kept; None: all of them.
    freed_bytes : int
        Of the removed files.
    """

    problem: str
    compacted: dict[str, int]
    removed: dict[str, int]
    segments: int
    predictions_since: dt.datetime | None
    freed_bytes: int


def cited_versions(settings: Settings, ledger: Ledger) -> dict[str, set[int]]:
    """The versions of each table that a product, a release or a row of the ledger names."""
    versions: dict[str, set[int]] = {}

    def note(content) -> None:
        for entry in objects.cited(content):
            if isinstance(entry.get("version"), int) and entry.get("name"):
                versions.setdefault(str(entry["name"]), set()).add(entry["version"])

    folders = [path for path in settings.state.iterdir() if path.is_dir() and path.name not in NO_CITATIONS]
    for file in (file for folder in folders for file in folder.rglob("*.json")):
        with contextlib.suppress(ValueError, FileNotFoundError):  # a part of a run beside this, or no JSON: no product
            note(storage.read_json(file))
    for row in ledger.rows():
        note(row.details)
        note(row.evidence)
    return versions


def maintain(
    settings: Settings,
    statement: Problem,
    cited: Mapping[str, set[int]],
    *,
    dry_run: bool = False,
    watch: Callable[[str], None] = lambda word: None,
) -> Maintained:
    """Compact a problem's tables, and remove old versions that nothing cites and predictions past their retention.

    Parameters
    ----------
    cited : mapping of str to set of int
        See `cited_versions`.
    dry_run : bool
        Change nothing; say what would be done. Files of a compaction that did not take place are not counted.

    Raises
    ------
    LakeError
        A table cannot be read or written.
    """
    lake = Lake(settings)
    compacted, removed, freed = {}, {}, 0
    for name in lake.names(statement.name):
        watch(name)
        if (files := lake.files(name)) > settings.maintain_files:
            compacted[name] = files - 1 if dry_run else lake.compact(name)
        keep, days = cited.get(name, set()), settings.maintain_versions_days
        unneeded = lake.vacuum(name, keep, days, dry_run=True)
        freed += sum(_size(lake, name, file) for file in unneeded)
        if unneeded and not dry_run:
            lake.vacuum(name, keep, days)
        if unneeded:
            removed[name] = len(unneeded)
    watch("predictions")
    since = predictions_since(settings, statement)
    old = prediction_log.before(prediction_log.folder_of(settings, statement.name), since) if since else []
    freed += sum(path.stat().st_size for path in old)
    for path in [] if dry_run else old:
        storage.remove(path)
    return Maintained(statement.name, compacted, removed, len(old), since, freed)


def _size(lake: Lake, name: str, file: str) -> int:
    path = Path(lake.where(name), file)
    return path.stat().st_size if path.exists() else 0


def predictions_since(settings: Settings, statement: Problem) -> dt.datetime | None:
    """Since when predictions are kept; None where all are.

    It counts from the newest prediction, and never cuts off what the loop still reads: periods whose labels are on
    their way, those that the policy looks back on, and a canary.
    """
    if settings.maintain_predictions_days is None:
        return None
    newest = prediction_log.newest(prediction_log.folder_of(settings, statement.name))
    if newest is None:
        return None
    policy, time = statement.retrain, statement.time
    least = policy.every_days * max(policy.n, NEWEST_PERIODS) + time.label_delay_days + time.holdout_days
    least += statement.canary.deadline_days
    return newest - dt.timedelta(days=max(settings.maintain_predictions_days, least))


# ------------------------------------------------------------------------------------------------ backups

LEDGER, TRACKING, ABOUT = "ledger.db", "mlflow.db", "backup.json"


def back_up(settings: Settings, ledger: Ledger, folder: Path) -> Head:
    """Copy the ledger, and MLflow's database where it is a file, into a folder; an earlier backup is brought up to date.

    Raises
    ------
    LedgerError
        A chain does not hold, or the folder holds the backup of another ledger.
    """
    with storage.privately():
        folder.mkdir(parents=True, exist_ok=True)
    head = ledger.copy_to(Ledger(f"sqlite:///{folder / LEDGER}"))
    source = _file_of(settings.tracking_url)
    if source is not None and source.exists():
        _copy_database(source, folder / TRACKING)
    about = {"made_at": clock.in_utc().isoformat(timespec="seconds"), "row": head.id, "hash": head.hash}
    storage.write_json(folder / ABOUT, about)
    return head


def restore(settings: Settings, ledger: Ledger, folder: Path) -> Head:
    """Bring the ledger of a backup back, where the project's is empty or an earlier state of it.

    Raises
    ------
    UsageError
        There is no backup in the folder.
    LedgerError
        A chain does not hold, or the project's ledger says something else.
    """
    if not (folder / LEDGER).is_file():
        raise UsageError(
            f"there is no backup (no {LEDGER})", str(folder), "Name the folder of: mlloop maintain backup FOLDER"
        )
    head = Ledger(f"sqlite:///{folder / LEDGER}").copy_to(ledger)
    target = _file_of(settings.tracking_url)
    if target is not None and not target.exists() and (folder / TRACKING).exists():
        _copy_database(folder / TRACKING, target)
    return head


def _file_of(url: str) -> Path | None:
    """The file of an SQLite URL."""
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


def _copy_database(source: Path, target: Path) -> None:
    """A consistent copy of an SQLite database, whoever writes it meanwhile."""
    with storage.atomic_path(target) as beside:
        with (
            contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as theirs,
            contextlib.closing(sqlite3.connect(beside)) as ours,
        ):
            theirs.backup(ours)
        beside.chmod(0o600)


def described(done: Iterable[Maintained], dry_run: bool) -> list[str]:
    """What was done, a line each."""
    lines = []
    for maintained in done:
        begin = f"{maintained.problem:<16} "
        what = [f"{name.split('/', 1)[1]} compacted into {n} files less" for name, n in maintained.compacted.items()]
        files = sum(maintained.removed.values())
        what += [f"{files:,} files that nothing cites"] if files else []
        what += (
            [f"{maintained.segments:,} segments of predictions before {maintained.predictions_since:%Y-%m-%d}"]
            if maintained.segments
            else []
        )
        freed = f", {maintained.freed_bytes / 1e6:,.1f} MB" if maintained.freed_bytes else ""
        lines.append(begin + ("; ".join(what) + freed if what else "nothing to do"))
    if dry_run:
        lines.append("Nothing was changed. To do it: mlloop maintain")
    return lines
