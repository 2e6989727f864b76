"""The prediction log: what was asked, what was answered, by which model, when; on disk before it is acknowledged.

One process writes one segment at a time: a file filled with zeros beforehand and written over from its beginning, so
that making a line durable touches no directory and no length. Lines that wait are made durable together. A segment
whose writer is gone becomes a Parquet file. What cannot be written is counted, never silently dropped.
"""

import datetime as dt
import fcntl
import json
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlloop import storage
from mlloop.errors import DataError
from mlloop.settings import Settings

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
    """Appends lines and says when they are durable; one writer thread, used from any thread.

    Parameters
    ----------
    folder : Path
    acknowledge : callable (tokens, durable), optional
        Called in the writer thread for each group of lines that was written, with what `append` was given for each.
    sync : bool
        True: the disk has a line before it is acknowledged. False: the operating system has it, so that a killed
        process loses nothing and a power cut may lose the last moments.
    segment_bytes : int

    Attributes
    ----------
    written, lost : int
        Predictions that are durable, and that could not be written.
    fault : str or None
        Why the last loss happened; None when writing works.
    """

    def __init__(
        self,
        folder: Path | str,
        acknowledge: Callable[[Sequence[Any], bool], None] | None = None,
        sync: bool = True,
        segment_bytes: int = SEGMENT_BYTES,
    ):
        self.folder, self.sync, self.segment_bytes = Path(folder), sync, segment_bytes
        self.written = self.lost = 0
        self.fault: str | None = None
        self._acknowledge = acknowledge or (lambda tokens, durable: None)
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._file, self._at, self._end = -1, 0, 0
        self._thread = threading.Thread(target=self._work, name="prediction-log", daemon=True)
        self._thread.start()

    def append(self, records: Iterable[dict[str, Any]], token: Any = None) -> None:
        """Queue the records of one request; `token` is handed to `acknowledge` when they are durable, or lost."""
        lines = [encode(one) for one in records]
        self._queue.put((b"".join(lines), len(lines), token))

    def append_encoded(self, lines: bytes, count: int, token: Any = None) -> None:
        """The same for lines that are encoded already."""
        self._queue.put((lines, count, token))

    def write(self, records: Iterable[dict[str, Any]]) -> bool:
        """Append and wait; whether the records are durable."""
        done: threading.Event = threading.Event()
        said: list[bool] = []
        self.append(records, (done, said))
        done.wait()
        return said[0]

    def close(self) -> None:
        """Write what waits, and leave the segment to be sealed."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            waiting = [self._queue.get()]
            while len(waiting) < 1024:
                try:
                    waiting.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            ends = None in waiting
            self._commit([one for one in waiting if one is not None])
            if ends:
                self._leave()
                return

    def _commit(self, group: list[tuple[bytes, int, Any]]) -> None:
        if not group:
            return
        content, count = b"".join(lines for lines, _, _ in group), sum(n for _, n, _ in group)
        durable = True
        try:
            self._put(content)
            self.written += count
            self.fault = None
        except OSError as error:
            durable = False
            self.lost += count
            self.fault = f"{error.strerror} ({self.folder})"
            self._leave()
        tokens = []
        for _, _, token in group:
            if isinstance(token, tuple) and len(token) == 2 and isinstance(token[0], threading.Event):
                token[1].append(durable)
                token[0].set()
            elif token is not None:
                tokens.append(token)
        if tokens:
            self._acknowledge(tokens, durable)

    def _put(self, content: bytes) -> None:
        if self._file < 0 or self._at + len(content) > self._end:
            self._open(len(content))
        _write(self._file, content, self._at)
        if self.sync:
            os.fdatasync(self._file)
        self._at += len(content)

    def _open(self, least: int) -> None:
        """Begin a segment: locked, filled with zeros, and named only when it is whole."""
        self._leave()
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S%f}-{os.getpid()}"
        beside, path = self.folder / f".{name}.part.jsonl", self.folder / f"{name}.jsonl"
        file = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = max(self.segment_bytes, least)
            zeros = bytes(min(size, 1024 * 1024))
            for at in range(0, size, len(zeros)):
                _write(file, zeros[: size - at], at)
            os.fsync(file)
            beside.rename(path)
            folder = os.open(self.folder, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        except OSError:
            os.close(file)
            storage.remove(beside)
            raise
        self._file, self._at, self._end = file, 0, size

    def _leave(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def _write(file: int, content: bytes, at: int) -> None:
    """Write all of it; on a disk that is nearly full the system writes a part and says so only by its length."""
    done = 0
    while done < len(content):
        done += os.pwrite(file, content[done:], at + done)


def encode(record: dict[str, Any]) -> bytes:
    """A record as one line of JSON."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


# ------------------------------------------------------------------------------------------------ reading


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The whole records of a segment; a line that a power cut tore is left out."""
    with path.open("rb") as file:
        for line in file:
            if not line.startswith(b"{"):
                if line.startswith(b"\0") and not line.rstrip(b"\n").strip(b"\0"):
                    return
                line = line.lstrip(b"\0")
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found


def seal(folder: Path | str) -> int:
    """Make Parquet files of the segments whose writer is gone; returns how many. Safe at any time, also twice at once."""
    sealed = 0
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
    path.unlink()


def _schema():
    import pyarrow as pa

    kinds = {
        "string": pa.string(), "double": pa.float64(), "timestamp[us]": pa.timestamp("us"), "list<string>": pa.list_(pa.string()),
    }  # fmt: skip
    return pa.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])


def _table(found: list[dict[str, Any]]):
    import pyarrow as pa

    schema = _schema()
    rows = []
    for one in found:
        row = {name: one.get(name) for name in COLUMNS}
        row["at"] = dt.datetime.fromisoformat(one["at"])
        row["row"] = json.dumps(one.get("row"), ensure_ascii=False, separators=(",", ":"))
        row["prediction"] = None if one.get("prediction") is None else str(one["prediction"])
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
        Of `COLUMNS`; default: all. `row` is the asked row as JSON, see `asked`.

    Returns
    -------
    DataFrame
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    folder, parts, schema = Path(folder), [], _schema()
    for path in sorted(folder.glob("[!.]*.*")):
        whole = path.with_suffix(".parquet")
        if path.suffix == ".jsonl" and not whole.exists():
            try:
                parts.append(_table(list(records(path))))
            except FileNotFoundError:  # sealed meanwhile
                parts.append(pq.read_table(whole, schema=schema))
        elif path.suffix == ".parquet":
            parts.append(pq.read_table(path, schema=schema))
    table = pa.concat_tables(parts) if parts else schema.empty_table()
    for bound, compare in ((since, pc.greater_equal), (until, pc.less)):
        if bound is not None:
            table = table.filter(compare(table["at"], pa.scalar(bound, pa.timestamp("us"))))
    frame = table.to_pandas().drop_duplicates("id").sort_values(["at", "id"], ignore_index=True)
    return frame[list(columns)] if columns else frame


def asked(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The asked rows of a log as columns, in the order of `frame`."""
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
        raise DataError(f"the labels lack {', '.join(missing)} (have: {', '.join(map(str, labels.columns))})", "labels")
    known = labels[[on, label]].dropna(subset=[on]).drop_duplicates()
    if known[on].duplicated().any():
        raise DataError(
            f"{int(known[on].duplicated().sum())} ids have more than one label", "labels", "Keep one row an id"
        )
    found = known.assign(**{on: known[on].astype(str)}).set_index(on)[label]
    return frame.assign(label=frame[by].map(found))
