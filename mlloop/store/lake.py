"""The lake: typed tables in Delta Lake, each version of which can be read again for ever.

A table's content has a digest that does not depend on the order of its rows nor on how they lie in files, so the same
content never makes a second version and a ledger row can cite exactly what a decision saw. Reads are Ibis tables on the
engine of settings.ini (DuckDB, or Spark); nothing here holds a table's rows in Python.
"""

import atexit
import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import starmap
from pathlib import Path
from typing import Any, Protocol

import ibis
import ibis.expr.datatypes as dt
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, DeltaProtocolError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler

from mlloop.core import settings as _settings
from mlloop.core.errors import LakeError, SettingsError
from mlloop.core.expressions import quoted
from mlloop.core.records import JsonObject, Parameters, TableJson, VersionJson
from mlloop.core.settings import Settings
from mlloop.core.storage import digest_json, remove

KEEP = {"delta.enableExpiredLogCleanup": "false", "delta.logRetentionDuration": "interval 36500 days"}
CLOUD = ("AWS_", "AZURE_", "GOOGLE_", "GCP_")
NOTE = "mlloop"
BATCH_ROWS = 131_072
EXTEND_ATTEMPTS = 20
WIDE = 200  # columns of a table from which DuckDB plans in another way
NEVER = "in_clause"  # an optimization of DuckDB's: it makes a join of every IN, which carries all columns along


class Version(Protocol):
    """What names one version of a table: a `TableRef`, or a product's `Table`."""

    @property
    def name(self) -> str: ...
    @property
    def uri(self) -> str: ...
    @property
    def version(self) -> int: ...


@dataclass(frozen=True)
class TableRef:
    """One version of one table, and what it holds: enough to read it again and to know that it is the same.

    Attributes
    ----------
    name : str
        'problem/table'.
    uri : str
        Where the table lies, relative to the lake: a project that is copied or moved reads its own.
    version : int
        Of the Delta table, >= 0.
    rows : int
    digest : str
        Of names, types and rows; hexadecimal.
    """

    name: str
    uri: str
    version: int
    rows: int
    digest: str

    def to_dict(self) -> TableJson:
        """The fields, as JSON has them."""
        return {
            "name": self.name,
            "uri": self.uri,
            "version": self.version,
            "rows": self.rows,
            "digest": self.digest,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "TableRef":
        """The reference that `to_dict` wrote."""
        return cls(**{name: fields[name] for name in ("name", "uri", "version", "rows", "digest")})


_connections: dict[tuple, Any] = {}


def connect(settings: Settings | None = None):
    """The engine of settings.ini as an Ibis backend; one for each process and project.

    Parameters
    ----------
    settings : Settings, optional
        Default: those of the project here or above.

    Raises
    ------
    SettingsError
        ``engine = spark`` where pyspark is not installed, or a memory bound that is none.
    """
    settings = settings or _settings.load()
    key = (os.getpid(), settings.engine, settings.engine_memory, settings.engine_threads, settings.state)
    if key not in _connections:
        _connections[key] = _spark(settings) if settings.engine == "spark" else _duckdb(settings)
    return _connections[key]


def _duckdb(settings: Settings):
    spill = settings.state / "tmp" / f"duckdb-{os.getpid()}"
    if settings.state.is_dir():
        with contextlib.suppress(OSError):  # the engine makes the last folder alone, and only where memory ends
            spill.parent.mkdir(exist_ok=True)
    options: Parameters = {"temp_directory": str(spill)}
    if settings.engine_memory:
        options["memory_limit"] = settings.engine_memory
    if settings.engine_threads:
        options["threads"] = settings.engine_threads
    atexit.register(shutil.rmtree, spill, ignore_errors=True)
    try:
        con = ibis.duckdb.connect(**options)
    except Exception as error:
        what = f"[engine] memory {settings.engine_memory!r}, threads {settings.engine_threads!r}: {_message_of(error)}"
        raise SettingsError(what, "settings.ini", "Fix the file, then: mlloop check") from error
    con.raw_sql("SET TimeZone = 'UTC'")
    con.raw_sql("SET enable_progress_bar = false")  # under `python -c` it is on, and writes into the JSON of stdout
    con.raw_sql(f"SET disabled_optimizers = '{NEVER}'")
    return con


def plan_wide(con, columns: int) -> None:
    """Let DuckDB leave out, from here on, an optimization whose time is quadratic in the columns of a wide table.

    It compares every expression with every other. With it and the one that is `NEVER` used, ingesting 4,000 rows of 3,000
    columns took more than half an hour.
    """
    if columns > WIDE and con.name == "duckdb":
        con.raw_sql(f"SET disabled_optimizers = '{NEVER},common_subexpressions'")


def _spark(settings: Settings):
    from mlloop.store import spark

    try:
        return spark.connect(spark.session(settings.engine_threads, settings.engine_memory))
    except ImportError as error:
        raise SettingsError(
            "[engine] name is 'spark', but pyspark is not installed", "settings.ini", "Run: pip install 'mlloop[spark]'"
        ) from error


class Lake:
    """Tables by name under one address.

    Parameters
    ----------
    location : Settings, str or Path, optional
        The project's settings (default: those of the project here or above), or the address alone.
    con : ibis backend, optional
        Where tables are read; default: `connect(settings)`.
    """

    def __init__(self, location: Settings | str | Path | None = None, con=None):
        settings = location if isinstance(location, Settings) else _settings.load() if location is None else None
        self.uri = settings.lake_uri if settings else str(location)
        self._settings, self._con = settings, con

    @property
    def con(self):
        """The engine's Ibis backend."""
        if self._con is None:
            self._con = connect(self._settings) if self._settings else ibis.duckdb.connect()
        return self._con

    def on_duckdb(self) -> "Lake":
        """The same lake, read by DuckDB: for rows that lie in files of this machine, whatever the engine."""
        if self.con.name == "duckdb":
            return self
        return Lake(self.uri, _duckdb(self._settings) if self._settings else None)

    def where(self, name: str) -> str:
        """The address of table `name`."""
        return f"{self.uri.rstrip('/')}/{name}"

    def _address(self, ref: Version) -> str:
        """Where a version lies: in this lake. An absolute address, as products had it, counts where this lake lacks the table."""
        here = self.where(ref.name)
        is_absolute = "://" in ref.uri or ref.uri.startswith("/")
        return ref.uri if is_absolute and ref.uri != here and not self.exists(ref.name) else here

    def exists(self, name: str) -> bool:
        """Whether there is a table `name`.

        Raises
        ------
        LakeError
            The store does not answer.
        """
        with _reached(self.where(name)):
            return DeltaTable.is_deltatable(self.where(name), storage_options(self.uri))

    def names(self, problem: str) -> list[str]:
        """The tables of a problem, sorted."""
        if "://" not in self.uri:
            return sorted(f"{problem}/{log.parent.name}" for log in Path(self.uri, problem).glob("*/_delta_log"))
        with _reached(self.where(problem)):
            store = pa.fs.PyFileSystem(DeltaStorageHandler(self.uri, storage_options(self.uri)))
            below = store.get_file_info(pa.fs.FileSelector(problem, allow_not_found=True))
        folders = sorted(entry.base_name for entry in below if entry.type == pa.fs.FileType.Directory)
        return [f"{problem}/{name}" for name in folders if self.exists(f"{problem}/{name}")]

    def ref(self, name: str, version: int | None = None) -> TableRef:
        """The reference of a version of a table (default: the latest).

        Raises
        ------
        LakeError
            No such table or version.
        """
        table = self._open(name, version)
        sums = self._sums(table)
        return TableRef(name, name, table.version(), sums.rows, _digest(_columns(table), sums))

    def history(self, name: str, limit: int | None = None) -> list[VersionJson]:
        """The newest `limit` versions of a table (default: all), newest first: version, time (epoch, ms), operation,
        batches, notes."""
        return [_version_of(entry) for entry in self._open(name).history(limit)]

    def has_batch(self, name: str, batch: str) -> bool:
        """Whether `batch` was ever committed to table `name`."""
        return self.exists(name) and _has(self._open(name), batch)

    def read(self, table: Version | Mapping[str, Any] | str, version: int | None = None):
        """A version of a table, as an Ibis table on the engine.

        Parameters
        ----------
        table : TableRef or another version of a table, its dict, or str
            A reference reads the version it names; a name reads `version`, or the latest.

        Raises
        ------
        LakeError
            No such table or version, or files that are gone.
        """
        if not isinstance(table, str):
            ref = TableRef.from_dict(table) if isinstance(table, Mapping) else table
            return self._scan(self._open(ref.name, ref.version if version is None else version, self._address(ref)))
        return self._scan(self._open(table, version))

    def write(
        self,
        name: str,
        data,
        mode: str = "overwrite",
        *,
        batches: Sequence[str] = (),
        notes: Mapping[str, Any] | None = None,
    ) -> TableRef:
        """Write a table whole, or append to it, as one atomic commit.

        Parameters
        ----------
        name : str
            'problem/table'.
        data : pyarrow.Table, pandas.DataFrame or ibis table
            Times become naive UTC, microseconds. An Ibis table is computed by its engine and streamed.
        mode : {'overwrite', 'append'}
            'overwrite' with the content that is already there, and 'append' of no rows, add no version.
        batches : sequence of str
            Names of what is being written, kept with the commit. An append all of whose batches are already
            there adds nothing: the same batch twice is written once, even if the first writer was killed.
        notes : mapping, optional
            Kept with the version, see `history`.

        Returns
        -------
        TableRef
            Of the version that now holds the content.

        Raises
        ------
        LakeError
            Columns that cannot be stored, or that differ from the table's on append; no space; no permission.
        """
        if mode not in ("overwrite", "append"):
            raise LakeError(f"mode is {mode!r}, expected 'overwrite' or 'append'", name, "Fix the call.")
        present = self._open(name) if self.exists(name) else None
        if present is not None and mode == "append" and batches and all(_has(present, batch) for batch in batches):
            return self.ref(name)
        with _prepared(name, data) as (schema, stream, sums):
            if present is not None and mode == "append":
                _must_fit(name, present, schema)
            if present is not None and self._is_there(present, mode, schema, sums, batches):
                return self.ref(name)
            self._commit(name, present, schema, stream, mode, sums, batches, notes)
        return self.ref(name)

    def positions(self, name: str, streams: Iterable[str]) -> dict[str, int]:
        """How far a table has each stream: the position that its last `extend` reached; streams it never had are left out."""
        table = self._open(name) if self.exists(name) else None
        reached = {stream: table.transaction_version(stream) for stream in streams} if table is not None else {}
        return {stream: at for stream, at in reached.items() if at is not None}

    def extend(self, name: str, rows: pa.Table, since: Mapping[str, int], until: Mapping[str, int]) -> bool:
        """Append rows that take streams from one position to the next, if the table stands exactly there; whether it did.

        Rows and positions are one commit: a writer that is killed leaves both or neither, and of two writers at the same
        position one is refused. Whoever is refused reads `positions` and goes on from there.

        Parameters
        ----------
        name : str
            'problem/table'; made where it is not there.
        since : mapping of stream to int
            Where the rows begin; a stream that the table never had is left out.
        until : mapping of stream to int
            Where they end: the position of the next row, > `since`.

        Raises
        ------
        LakeError
            Columns that differ from the table's; no space; no permission; a store that does not answer.
        """
        for _ in range(EXTEND_ATTEMPTS):
            present = self._open(name) if self.exists(name) else self._create(name, rows.schema)
            if any(present.transaction_version(stream) != since.get(stream) for stream in until):
                return False
            with _prepared(name, rows) as (schema, stream_rows, sums):
                _must_fit(name, present, schema)
                try:
                    self._commit(name, present, schema, stream_rows, "append", sums, (), None, until)
                    return True
                except LakeError as error:
                    if not isinstance(error.__cause__, CommitFailedError):
                        raise
        raise LakeError(
            f"was changed by another writer at each of {EXTEND_ATTEMPTS} attempts", name, "Run it again: mlloop ingest"
        )

    def _create(self, name: str, schema: pa.Schema) -> DeltaTable:
        """An empty table; where another writer made it meanwhile, that one."""
        note = {"whole": True, **asdict(Sums(0, 0, 0))}
        fields = [pa.field(field.name, _stored(name, field.name, field.type)) for field in schema]
        with contextlib.suppress(DeltaError):
            DeltaTable.create(
                self.where(name),
                pa.schema(fields),
                mode="error",
                configuration=KEEP,
                storage_options=storage_options(self.uri),
                commit_properties=CommitProperties(custom_metadata={NOTE: json.dumps(note)}),
            )
        return self._open(name)

    def restore(self, name: str, version: int) -> TableRef:
        """Make an earlier version the latest again (as a new version; no row is copied)."""
        old = self._open(name, version)
        table = self._open(name)
        if table.version() != version:
            notes = next(entry["notes"] for entry in self.history(name) if entry["version"] == version)
            note = {"whole": True, **asdict(self._sums(old)), "restored": version, "notes": notes}
            table.restore(version, commit_properties=CommitProperties(custom_metadata={NOTE: json.dumps(note)}))
        return self.ref(name)

    def files(self, name: str) -> int:
        """How many files the latest version of a table lies in."""
        return len(self._open(name).file_uris())

    def is_whole(self, name: str, version: int) -> bool:
        """Whether every file of a version is still there: `vacuum` removes those that nothing needs."""
        files = self._open(name, version).file_uris()
        if "://" not in self.uri:
            return all(Path(file).exists() for file in files)
        with _reached(self.where(name)):
            store = pa.fs.PyFileSystem(DeltaStorageHandler(self.where(name), storage_options(self.uri)))
            below = store.get_file_info(pa.fs.FileSelector("", recursive=True))
        names = {entry.base_name for entry in below}
        return all(file.rsplit("/", 1)[-1] in names for file in files)

    def compact(self, name: str) -> int:
        """Write the rows of a table's many small files into few; returns how many files it has less.

        The new version has the digest, notes and batches of the one before it. No file is removed: see `vacuum`.

        Raises
        ------
        LakeError
            Another writer changed the table meanwhile, no space, or no permission.
        """
        table = self._open(name)
        before = len(table.file_uris())
        with self._changed(name):
            table.optimize.compact(commit_properties=self._as_before(name, table))
        return before - self.files(name)

    def vacuum(self, name: str, keep: Iterable[int], days: float, dry_run: bool = False) -> list[str]:
        """Remove the files that no version needs but those that ceased to be the latest `days` ago or earlier.

        Parameters
        ----------
        keep : iterable of int
            Versions that stay readable whatever their age; the latest always does.
        days : float
            >= 0.
        dry_run : bool
            Remove nothing.

        Returns
        -------
        list of str
            The files, relative to the table.

        Raises
        ------
        LakeError
            See `compact`.
        """
        table = self._open(name)
        kept = sorted({*keep, table.version()} & set(range(table.version() + 1)))
        with self._changed(name):
            removed = table.vacuum(
                retention_hours=int(days * 24),
                dry_run=dry_run,
                enforce_retention_duration=False,
                commit_properties=self._as_before(name, table),
                full=days >= 1,  # with what killed writers left; a writer of today may not be done yet
                keep_versions=kept,
            )
        return sorted(removed)

    def _as_before(self, name: str, table: DeltaTable) -> CommitProperties:
        """What is kept with a commit that leaves the rows as they are: the sums and the notes of the version before it."""
        newest = next((entry for entry in self.history(name) if entry["notes"]), None)
        note = {"whole": True, **asdict(self._sums(table)), "notes": newest["notes"] if newest else {}}
        return CommitProperties(custom_metadata={NOTE: json.dumps(note)})

    @contextlib.contextmanager
    def _changed(self, name: str) -> Iterator[None]:
        try:
            yield
        except CommitFailedError as error:
            raise LakeError(
                f"was changed by another writer: {_message_of(error)}", name, "Run it again: mlloop maintain"
            ) from error
        except (DeltaError, DeltaProtocolError, OSError) as error:
            step = _ASK_STORE if _is_unreachable(self.where(name), error) else "Run it again: mlloop maintain"
            raise LakeError(f"cannot be maintained: {_message_of(error)}", self.where(name), step) from error

    def _is_there(self, present: DeltaTable, mode: str, schema: pa.Schema, sums: "Sums", batches) -> bool:
        if mode == "append":
            return sums.rows == 0 and not batches
        if _columns_of(schema) != _columns(present) or any(not _has(present, batch) for batch in batches):
            return False
        return _digest(_columns(present), self._sums(present)) == _digest(_columns_of(schema), sums)

    def _commit(self, name, present, schema, stream, mode, sums, batches, notes, reached=None) -> None:
        note: JsonObject = {
            "whole": mode == "overwrite" or present is None,
            **asdict(sums),
            "batches": list(batches),
        }
        if not note["whole"]:
            note |= {"base": present.version(), "before": asdict(self._sums(present))}
        if notes:
            note["notes"] = dict(notes)
        properties = CommitProperties(
            custom_metadata={NOTE: json.dumps(note)},
            app_transactions=[
                *(Transaction(batch, 1) for batch in batches),
                *starmap(Transaction, (reached or {}).items()),
            ]
            or None,
        )
        try:
            write_deltalake(
                present if present is not None and mode == "append" else self.where(name),
                pa.RecordBatchReader.from_batches(schema, stream()),
                mode="append" if mode == "append" else "overwrite",
                schema_mode=None if mode == "append" else "overwrite",
                configuration=KEEP if present is None else None,
                storage_options=storage_options(self.uri),
                commit_properties=properties,
            )
        except CommitFailedError as error:
            if mode == "append" and batches and all(_has(self._open(name), batch) for batch in batches):
                return
            raise LakeError(
                f"was changed by another writer: {_message_of(error)}", name, "Run it again: mlloop run"
            ) from error
        except (DeltaError, DeltaProtocolError, OSError) as error:
            step = _ASK_STORE if _is_unreachable(self.where(name), error) else _room(error)
            raise LakeError(f"cannot be written: {_message_of(error)}", self.where(name), step) from error

    def _open(self, name: str, version: int | None = None, uri: str | None = None) -> DeltaTable:
        uri = uri or self.where(name)
        try:
            table = DeltaTable(uri, version=version, storage_options=storage_options(uri))
        except TableNotFoundError as error:
            there = ", ".join(self.names(name.split("/")[0])) or "none"
            raise LakeError(f"there is no table {name!r} (there are: {there})", uri, "Write it: mlloop run") from error
        except (DeltaError, OSError, OverflowError) as error:
            if _is_unreachable(uri, error):
                raise LakeError(_store_said(error), uri, _ASK_STORE) from error
            if version is not None and self.exists(name):
                latest = DeltaTable(uri, storage_options=storage_options(uri)).version()
                what = f"table {name!r} has no version {version} (versions: 0 to {latest})"
                raise LakeError(what, uri, "See which were written: mlloop log") from error
            raise LakeError(
                f"table {name!r} cannot be opened: {_message_of(error)}", uri, "Write it again: mlloop run"
            ) from error
        if "deletionVectors" in (table.protocol().reader_features or []):
            raise LakeError("uses deletion vectors, which are not read here", uri, "Rewrite it without them.")
        return table

    def _scan(self, table: DeltaTable):
        files = table.file_uris()
        plan_wide(self.con, len(table.schema().fields))
        label = f"delta_{uuid.uuid4().hex[:12]}"
        if not files:
            return _empty(self.con, label, ibis.Schema.from_pyarrow(pa.schema(table.schema())))
        try:
            if self.con.name == "duckdb" and "://" in files[0]:
                self.con.con.register(label, table.to_pyarrow_dataset())
                return self.con.table(label)
            if self.con.name == "pyspark":
                rows = self.con._session.read.option("mergeSchema", "true").parquet(*files)
                rows.createOrReplaceTempView(label)
                return self.con.table(label)
            return self.con.read_parquet(files, table_name=label, union_by_name=True)
        except Exception as error:
            what = f"version {table.version()} cannot be read: {_message_of(error)}"
            raise LakeError(
                what, str(table.table_uri), "If its files were removed, write it again: mlloop run --force"
            ) from error

    def _sums(self, table: DeltaTable) -> "Sums":
        """The sums of a version: those its commits noted, or, where another program wrote, computed from its rows."""
        total = Sums(0, 0, 0)
        for entry in _commits(table):
            note = _note(entry)
            if note is None and entry["operation"] in ("WRITE", "MERGE", "DELETE", "UPDATE", "RESTORE"):
                break
            if note is None:
                continue
            if note.get("base") == entry["version"] - 1:
                return total + Sums(note["rows"], int(note["low"]), int(note["high"])) + Sums(**note["before"])
            total += Sums(note["rows"], int(note["low"]), int(note["high"]))
            if note["whole"]:
                return total
        schema = pa.schema(table.schema())
        rows = self._scan(table).to_pyarrow_batches(chunk_size=BATCH_ROWS)
        return _sum(
            _memory(), pa.RecordBatchReader.from_batches(schema, (batch.cast(schema) for batch in rows)), schema
        )


def _empty(con, label: str, schema: ibis.Schema):
    if con.name != "pyspark":
        return con.create_table(label, schema=schema, temp=True)
    from ibis.backends.pyspark.datatypes import PySparkSchema

    con._session.createDataFrame([], schema=PySparkSchema.from_ibis(schema)).createOrReplaceTempView(label)
    return con.table(label)


@dataclass(frozen=True)
class Sums:
    """Count and sums of the rows' MD5 halves: they add up over batches, whatever the order of the rows."""

    rows: int
    low: int
    high: int

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.rows + other.rows, self.low + other.low, self.high + other.high)


def _has(table: DeltaTable, batch: str) -> bool:
    return table.transaction_version(batch) is not None


# a store that is away for a moment is asked again for half a minute; without bounds deltalake asks for three
PATIENCE = {"connect_timeout": "5s", "timeout": "60s", "max_retries": "8", "retry_timeout": "30s"}


def storage_options(uri: str) -> dict[str, str] | None:
    """How an object store is asked: credentials from the environment (AWS_*, AZURE_*, GOOGLE_*); None on a disk."""
    if "://" not in uri or uri.startswith("file://"):
        return None
    return PATIENCE | {key: value for key, value in os.environ.items() if key.startswith(CLOUD)}


_ASK_STORE = (
    "See that the store runs and that [lake] uri in settings.ini and AWS_*, AZURE_* or GOOGLE_* in the environment are "
    "right, then: mlloop run"
)


def _is_unreachable(uri: str, error: BaseException) -> bool:
    """Whether an object store did not answer, or refused: what it holds is then not known."""
    return "://" in uri and bool(re.search(r"Generic (?!delta)\w+ error|error sending request|privileges", str(error)))


def _store_said(error: BaseException) -> str:
    return f"the object store does not give what is asked of it: {_message_of(error)}"


@contextlib.contextmanager
def _reached(uri: str) -> Iterator[None]:
    """What deltalake and Arrow say of a store that does not answer, as an error of the lake."""
    try:
        yield
    except (DeltaError, OSError) as error:
        raise LakeError(_store_said(error), uri, _ASK_STORE) from error


def digest(data) -> str:
    """Digest of a table's names, types and rows; the order of the rows plays no part.

    Parameters
    ----------
    data : pyarrow.Table, pandas.DataFrame or ibis table
    """
    with _prepared("data", data) as (schema, _, sums):
        return _digest(_columns_of(schema), sums)


@contextlib.contextmanager
def _prepared(name: str, data) -> Iterator[tuple]:
    """The stored schema, a function that streams the rows in it, and their sums."""
    if isinstance(data, ibis.Table):
        with _computed(name, data) as path:
            file = pq.ParquetFile(path)
            schema = file.schema_arrow.remove_metadata()
            sums = _sum(_memory(), None, schema, path)
            yield schema, lambda: file.iter_batches(BATCH_ROWS), sums
        return
    table = data if isinstance(data, pa.Table) else pa.Table.from_pandas(data, preserve_index=False)
    schema = pa.schema([pa.field(f.name, _stored(name, f.name, f.type)) for f in table.schema])
    table = _cast(name, table, schema)
    yield schema, lambda: iter(table.to_batches(BATCH_ROWS)), _sum(_memory(), table, schema)


def _cast(name: str, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table as it is stored; where a value does not survive, what it is and the way out."""
    columns = []
    for field, kind in zip(schema, table.schema.types, strict=True):
        try:
            columns.append(table[field.name].cast(field.type))
        except pa.ArrowInvalid as error:
            finer = pa.types.is_timestamp(kind) and kind.unit == "ns"
            what = "holds parts of a microsecond" if finer else f"does not fit the type {field.type}"
            step = (
                f"Round it: frame[{field.name!r}].dt.floor('us')" if finer else "Store it as text, or as another number"
            )
            raise LakeError(f"column {field.name!r} {what}, which the lake cannot keep: {error}", name, step) from error
    return pa.Table.from_arrays(columns, schema=schema)


@contextlib.contextmanager
def _computed(name: str, table) -> Iterator[Path]:
    """The rows of an Ibis table, computed once by its engine into a Parquet file that lives as long as the block."""
    casts = {column: _stored_ibis(name, column, kind) for column, kind in table.schema().items()}
    table = table.cast({column: kind for column, kind in casts.items() if kind != table.schema()[column]})
    folder = Path(os.environ.get("MLLOOP_TMP") or _spill())
    path = folder / f"rows-{os.getpid()}-{uuid.uuid4().hex[:8]}.parquet"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if table.get_backend().name == "duckdb":
            table.to_parquet(path)
        else:
            batches = table.to_pyarrow_batches(chunk_size=BATCH_ROWS)
            with pq.ParquetWriter(path, batches.schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
        yield path
    finally:
        remove(path)


def _spill() -> Path:
    for pid, *_, state in _connections:
        if pid == os.getpid():
            return Path(state) / "tmp"
    import tempfile

    return Path(tempfile.mkdtemp(prefix="mlloop-"))


def _stored(table: str, column: str, kind: pa.DataType) -> pa.DataType:
    """The type under which Delta keeps a column."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us")
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_unsigned_integer(kind):
        return {8: pa.int16(), 16: pa.int32()}.get(kind.bit_width, pa.int64())
    if pa.types.is_date64(kind):
        return pa.date32()
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_duration(kind) or pa.types.is_time(kind) or pa.types.is_interval(kind):
        raise LakeError(
            f"column {column!r} is of type {kind}, which Delta cannot keep",
            table,
            "Store it as a number with its unit in the name.",
        )
    return kind


def _stored_ibis(table: str, column: str, kind: dt.DataType) -> dt.DataType:
    if kind.is_timestamp():
        return dt.Timestamp(scale=6)
    if kind.is_null() or kind.is_uuid() or kind.is_json():
        return dt.string
    if kind.is_unsigned_integer():
        return {8: dt.int16, 16: dt.int32}.get(kind.nbytes * 8, dt.int64)
    if kind.is_time() or kind.is_interval():
        _stored(table, column, pa.duration("us"))
    return kind


def _memory():
    """A private DuckDB connection for digests: the same digest on every engine."""
    import duckdb

    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    return con


def _sum(con, rows, schema: pa.Schema, path: Path | None = None) -> Sums:
    with contextlib.closing(con):
        if path is None:
            con.register("rows", rows)
        scan = f"read_parquet('{str(path).replace(chr(39), chr(39) * 2)}')" if path else "rows"
        parts = ", '|', ".join(_text(field) for field in schema) or "''"
        counted, low, high = con.execute(
            f"""SELECT count(*), coalesce(sum((m & 18446744073709551615::UHUGEINT)::HUGEINT), 0),
                       coalesce(sum((m >> 64)::HUGEINT), 0)
                FROM (SELECT md5_number(concat({parts}, '')) AS m FROM {scan})"""
        ).fetchone()
    return Sums(int(counted), int(low), int(high))


def file_sums(path: str, file: Any) -> Sums:
    """The sums of the rows in one Parquet file of a table; those of a version are the sums of its files."""
    source = pq.ParquetFile(file)
    schema = pa.schema(
        [pa.field(field_.name, _stored(path, field_.name, field_.type)) for field_ in source.schema_arrow]
    )
    batches = (batch.cast(schema) for batch in source.iter_batches(BATCH_ROWS))
    return _sum(_memory(), pa.RecordBatchReader.from_batches(schema, batches), schema)


def _text(field: pa.Field) -> str:
    """SQL for a value as text such that no two rows of different values read the same."""
    column = quoted(field.name)
    if pa.types.is_string(field.type):
        return f"coalesce(strlen({column}) || ':' || {column}, '~')"
    if pa.types.is_binary(field.type):
        return f"coalesce(hex({column}), '~')"
    if pa.types.is_nested(field.type):
        return f"coalesce(strlen(to_json({column})::VARCHAR) || ':' || to_json({column})::VARCHAR, '~')"
    return f"coalesce({column}::VARCHAR, '~')"


def _digest(columns: list[list[str]], sums: Sums) -> str:
    return digest_json({"columns": columns, "rows": sums.rows, "low": str(sums.low), "high": str(sums.high)})


def _columns_of(schema: pa.Schema) -> list[list[str]]:
    return [[field.name, str(field.type).replace("large_", "")] for field in schema]


def _columns(table: DeltaTable) -> list[list[str]]:
    schema = pa.schema(table.schema())
    return _columns_of(pa.schema([pa.field(f.name, _stored("", f.name, f.type)) for f in schema]))


def _must_fit(name: str, table: DeltaTable, schema: pa.Schema) -> None:
    there, new = dict(_columns(table)), dict(_columns_of(schema))
    wrong = [f"column {c!r} is missing (the table has it as {t})" for c, t in there.items() if c not in new]
    wrong += [f"column {c!r} is not in the table" for c in new if c not in there]
    wrong += [f"column {c!r} is {new[c]}, the table has {t}" for c, t in there.items() if c in new and new[c] != t]
    if not wrong and list(there) != list(new):
        wrong = [f"columns are in another order: {', '.join(new)}; the table has {', '.join(there)}"]
    if wrong:
        raise LakeError(
            "; ".join(wrong), name, "Bring the rows to the table's schema, or write the table whole: mlloop run"
        )


def _commits(table: DeltaTable) -> Iterator[JsonObject]:
    """The commits that made a version, newest first; the first is read alone, since it mostly suffices.

    deltalake 1.6 numbers them wrongly when a table was opened at an older version, so the latest is opened for it.
    """
    latest = DeltaTable(table.table_uri, storage_options=storage_options(table.table_uri))
    near = latest.version() - table.version() + 1
    for limit in (near, None):
        commits = latest.history(limit)
        yield from commits[near - 1 if limit else near :]


def _note(entry: Mapping[str, Any]) -> JsonObject | None:
    return json.loads(entry[NOTE]) if NOTE in entry else None


def _version_of(entry: Mapping[str, Any]) -> VersionJson:
    note = _note(entry) or {}
    return {
        "version": entry["version"],
        "time": entry["timestamp"],
        "operation": entry["operation"],
        "batches": note.get("batches", []),
        "notes": note.get("notes", {}),
    }


def _message_of(error: BaseException) -> str:
    return " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())[:300]


def _room(error: BaseException) -> str:
    text = str(error).lower()
    if "no space" in text or "quota" in text:
        return "Nothing was changed there. Make room, then: mlloop run"
    if "permission" in text or "read-only" in text:
        return "Nothing was changed there. Give permission to write, then: mlloop run"
    return "Nothing was changed there. Run it again: mlloop run"
