"""The prediction log: what was asked, what was answered, by which model, when; on disk before it is acknowledged.

One process writes one segment at a time: a file filled with zeros beforehand and written over from its beginning, so
that making a line durable touches no directory and no length. A segment whose writer is gone becomes a Parquet file.
What cannot be written is counted, never silently dropped.
"""

import contextlib
import datetime as dt
import fcntl
import functools
import json
import os
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pydantic_core

from mlloop.core import clock, storage
from mlloop.core.errors import DataError
from mlloop.core.records import PredictionRecordJson
from mlloop.core.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

SEGMENT_BYTES = 8 * 1024 * 1024
COLUMNS = {
    "id": "string", "at": "timestamp[us]", "problem": "string", "model": "string", "release": "string", "role": "string",
    "entity": "string", "row": "string", "score": "double", "prediction": "string", "items": "list<string>",
    "ms": "double", "error": "string",
}  # fmt: skip


def folder_of(settings: Settings, problem: str) -> Path:
    """Where a problem's predictions lie."""
    return settings.state / "predictions" / problem


class Log:
    """Appends records; safe from several threads. Whoever has many makes them durable in one call.

    Parameters
    ----------
    folder : Path
    sync : bool
        True: `append` returns when the disk has the records. False: when the operating system has them, so that a
        killed process loses nothing and a power cut may lose the last moments.
    segment_bytes : int

    Attributes
    ----------
    written, lost : int
        Predictions that are durable, and that could not be written.
    fault : str or None
        Why the last loss happened; None when writing works.
    """

    def __init__(self, folder: Path | str, sync: bool = True, segment_bytes: int = SEGMENT_BYTES):
        self.folder, self.sync, self.segment_bytes = Path(folder), sync, segment_bytes
        self.written = self.lost = 0
        self.fault: str | None = None
        self._now: _Segment | None = None
        self._next: _Segment | None = None
        self._lock = threading.Lock()

    def append(self, records: Iterable[PredictionRecordJson]) -> bool:
        """Write the records; whether they are durable. What prevents it is a loss that is counted, never an error."""
        lines = [encode(record) for record in records]
        with self._lock:
            durable = self._is_put(b"".join(lines))
            self.written, self.lost = self.written + len(lines) * durable, self.lost + len(lines) * (not durable)
        return durable

    def prepare(self) -> None:
        """Make the next segment ready while this one is filled, since filling with zeros takes a while."""
        half = self._now is None or self._now.at > self._now.size / 2
        if half and self._next is None:
            with contextlib.suppress(OSError):  # it shows with the next append
                self._next = _Segment(self.folder, self.segment_bytes, self.sync)

    def close(self) -> None:
        """Leave the segment to be sealed."""
        with self._lock:
            for segment in (self._now, self._next):
                if segment is not None:
                    segment.close()
            self._now = self._next = None

    def _is_put(self, content: bytes) -> bool:
        try:
            if self._now is None or self._now.at + len(content) > self._now.size:
                self._turn(len(content))
            self._now.append(content)  # type: ignore[union-attr]
            self.fault = None
            return True
        except Exception as error:
            self.fault = f"{getattr(error, 'strerror', None) or error} ({self.folder})"
            if self._now is not None:
                self._now.close()
            self._now = None
            return False

    def _turn(self, least: int) -> None:
        """Leave this segment for the next."""
        if self._now is not None:
            self._now.close()
        self._now, self._next = self._next, None
        if self._now is None or self._now.size < least:
            self._now = _Segment(self.folder, max(self.segment_bytes, least), self.sync)
        self._now.begin()


class _Segment:
    """One file of the log: locked by its writer, named when it is whole."""

    def __init__(self, folder: Path, size: int, sync: bool):
        with storage.privately():
            folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.size, self.sync, self.at = folder, size, sync, 0
        self.part = folder / f".{uuid.uuid4().hex}.part.jsonl"
        self.file = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX)
            if not self.part.exists():
                raise OSError("swept before it was locked")
            zeros = bytes(min(size, 1024 * 1024))
            for at in range(0, size if sync else 0, len(zeros)):
                _write(self.file, zeros[: size - at], at)
            os.fsync(self.file)
        except OSError:
            self.close()
            raise

    def begin(self) -> None:
        """Give it its name, which says when it began."""
        name = f"{clock.now():%Y%m%dT%H%M%S%f}-{os.getpid()}.jsonl"
        self.part = self.part.rename(self.folder / name)
        folder = os.open(self.folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def append(self, content: bytes) -> None:
        _write(self.file, content, self.at)
        if self.sync:
            os.fdatasync(self.file)
        self.at += len(content)

    def close(self) -> None:
        os.close(self.file)
        if self.part.name.startswith("."):
            storage.remove(self.part)


def _write(file: int, content: bytes, at: int) -> None:
    """Write all of it; on a disk that is nearly full the system writes a part and says so only by its length."""
    done = 0
    while done < len(content):
        done += os.pwrite(file, content[done:], at + done)


def encode(record: PredictionRecordJson) -> bytes:
    """A record as one line of JSON."""
    return pydantic_core.to_json(record) + b"\n"


# ------------------------------------------------------------------------------------------------ reading


def records(path: Path) -> Iterator[PredictionRecordJson]:
    """The whole records of a segment; a line that a power cut tore is left out."""
    with path.open("rb") as file:
        for line in file:
            if not line.startswith(b"{"):
                if line.startswith(b"\0") and not line.rstrip(b"\n").strip(b"\0"):
                    return
                line = line.lstrip(b"\0")
            try:
                record: Any = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield cast(PredictionRecordJson, record)


def sweep(folder: Path | str) -> int:
    """Remove what killed writers left: segments prepared and not begun, files half sealed; returns how many.

    Safe beside a running service: what its writer still holds is left.
    """
    left = [path for path in Path(folder).glob(".*.part*") if path.suffix != ".jsonl" and not _is_written(path)]
    for path in Path(folder).glob(".*.part.jsonl"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.append(path)
            storage.remove(path)
    for path in left:
        storage.remove(path)
    return len(left)


def _is_written(path: Path) -> bool:
    """Whether the process that a part names, see `storage.atomic_path`, still lives."""
    return any(part.isdigit() and Path("/proc", part).exists() for part in path.name.split(".")[1:-1])


def seal(folder: Path | str) -> int:
    """Make Parquet files of the segments whose writer is gone; returns how many. Safe at any time, also twice at once."""
    sealed = 0
    sweep(folder)
    for path in sorted(Path(folder).glob("[!.]*.jsonl")):
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists():
                _seal(path)
                sealed += 1
        except BlockingIOError:
            continue
        finally:
            os.close(file)
    return sealed


def _seal(path: Path) -> None:
    import pyarrow.parquet as pq

    target = path.with_suffix(".parquet")
    if not target.exists():
        table = _table(list(records(path)))
        if table.num_rows:
            with storage.atomic_path(target) as beside:
                pq.write_table(table, beside, compression="zstd")
                beside.chmod(0o600)
    path.unlink()


def _schema():
    import pyarrow as pa

    kinds = {
        "string": pa.string(), "double": pa.float64(), "timestamp[us]": pa.timestamp("us"), "list<string>": pa.list_(pa.string()),
    }  # fmt: skip
    return pa.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])


def _table(records: list[PredictionRecordJson]):
    import pyarrow as pa

    schema = _schema()
    rows = []
    for record in records:
        row = {name: record.get(name) for name in COLUMNS}
        row["at"] = dt.datetime.fromisoformat(record["at"])
        row["row"] = json.dumps(record.get("row"), ensure_ascii=False, separators=(",", ":"))
        row["prediction"] = None if record.get("prediction") is None else str(record["prediction"])
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema)


def read(
    folder: Path | str,
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    columns: Sequence[str] | None = None,
) -> "pd.DataFrame":
    """The predictions of [since, until), in the order of their time; each once.

    Parameters
    ----------
    folder : Path
        See `folder_of`; one that is not there holds no predictions.
    columns : list of str, optional
        Of `COLUMNS`; default: all. `row` is the requested row as JSON, see `requests`.

    Returns
    -------
    DataFrame
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    folder, parts, schema = Path(folder), [], _schema()
    inside = [("at", sign, bound) for sign, bound in ((">=", since), ("<", until)) if bound is not None] or None
    for path in sorted(folder.glob("[!.]*.*")):
        whole = path.with_suffix(".parquet")
        if path.suffix == ".jsonl" and not whole.exists():
            try:
                parts.append(_table(list(records(path))))
            except FileNotFoundError:  # sealed meanwhile
                parts.append(pq.read_table(whole, schema=schema, filters=inside))
        elif path.suffix == ".parquet" and _overlaps(path, since, until):
            parts.append(pq.read_table(path, schema=schema, filters=inside))
    table = pa.concat_tables(parts) if parts else schema.empty_table()
    for bound, compare in ((since, pc.greater_equal), (until, pc.less)):
        if bound is not None:
            table = table.filter(compare(table["at"], pa.scalar(bound, pa.timestamp("us"))))
    frame = table.to_pandas().drop_duplicates("id").sort_values(["at", "id"], ignore_index=True)
    return frame[list(columns)] if columns else frame


def _overlaps(path: Path, since: dt.datetime | None, until: dt.datetime | None) -> bool:
    """Whether a sealed segment can hold predictions of [since, until); one that does not say may."""
    first, last = _span(str(path))
    return not (first is not None and ((until is not None and first >= until) or (since is not None and last < since)))


@functools.lru_cache(maxsize=100_000)
def _span(path: str) -> tuple[Any, Any]:
    """The first and the last moment in a sealed segment, which never changes: read once, however often the log is."""
    import pyarrow.parquet as pq

    meta = pq.read_metadata(path)
    column = meta.schema.names.index("at") if "at" in meta.schema.names else 0
    groups = [meta.row_group(n).column(column) for n in range(meta.num_row_groups)]
    named = all(
        group.path_in_schema == "at" and group.statistics is not None and group.statistics.has_min_max
        for group in groups
    )
    if not groups or not named:
        return None, None
    return min(group.statistics.min for group in groups), max(group.statistics.max for group in groups)


def newest(folder: Path | str) -> dt.datetime | None:
    """The moment of the newest prediction; None where there is none."""
    sealed = sorted(Path(folder).glob("[!.]*.parquet"))
    moments = [last for path in sealed if (last := _span(str(path))[1]) is not None]
    open_ = [record["at"] for path in Path(folder).glob("[!.]*.jsonl") for record in records(path)]
    return max([*moments, *(dt.datetime.fromisoformat(at) for at in open_)], default=None)


def before(folder: Path | str, moment: dt.datetime) -> list[Path]:
    """The sealed segments all of whose predictions lie before a moment."""
    spans = ((path, _span(str(path))[1]) for path in sorted(Path(folder).glob("[!.]*.parquet")))
    return [path for path, last in spans if last is not None and last < moment]


def requests(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The requested rows of a log as columns, in the order of `frame`."""
    import pandas as pd

    return pd.DataFrame([json.loads(text) or {} for text in frame["row"]], index=frame.index)


def with_labels(
    frame: "pd.DataFrame", labels: "pd.DataFrame", on: str, label: str, by: str = "entity"
) -> "pd.DataFrame":
    """The log with a column `label` where one has come.

    Parameters
    ----------
    on, label : str
        Columns of `labels`: whom or what it is of, and the label.
    by : {'entity', 'id'}
        What `on` holds: who was asked about, or the id that the answer gave.

    Raises
    ------
    DataError
        A column is missing from the labels, or an id has two labels.
    """
    missing = [name for name in (on, label) if name not in labels]
    if missing:
        raise DataError(
            f"the labels lack {', '.join(missing)} (have: {', '.join(map(str, labels.columns))})",
            "labels",
            "Name the columns with on= and label=",
        )
    known = labels[[on, label]].dropna(subset=[on]).drop_duplicates()
    if known[on].duplicated().any():
        raise DataError(
            f"{int(known[on].duplicated().sum())} ids have more than one label", "labels", "Keep one row an id"
        )
    label_of = known.assign(**{on: known[on].astype(str)}).set_index(on)[label]
    return frame.assign(label=frame[by].map(label_of.astype(object)))  # a gap must not turn 1 into 1.0
