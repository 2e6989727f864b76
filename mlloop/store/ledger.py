"""The ledger: what was decided, when, by whom and on what evidence; the one authority on what is in production.

One append-only table. Each row's hash covers the row and the hash of the row before it, so a changed, removed or
reordered row is found. What is in production is never stored apart: it is read off the rows.
"""

import contextlib
import copy
import datetime as dt
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mlloop.core import clock as core_clock
from mlloop.core import settings as _settings
from mlloop.core import storage
from mlloop.core.commit import commit_of
from mlloop.core.errors import LedgerError, MlloopError, Noted
from mlloop.core.records import JsonObject
from mlloop.store import chain, champions, clocks
from mlloop.store.chain import NOTHING_BEFORE, Head
from mlloop.store.chain import canonical as _canonical
from mlloop.store.chain import row_hash as _hash
from mlloop.store.entries import KINDS as KINDS
from mlloop.store.entries import ROW_COLUMNS, Entry, Row, checked
from mlloop.store.entries import SWAPS as SWAPS

WAIT_S = 60
_JSON = ("reasons", "evidence", "digests", "details")

_schema = sa.MetaData()
decisions = sa.Table(
    "decisions",
    _schema,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(26), nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("problem", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("verdict", sa.Text),
    sa.Column("reasons", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    sa.Column("digests", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("model", sa.Text),
    sa.Column("details", sa.Text, nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.UniqueConstraint("problem", "key"),
    sa.Index("decisions_by_problem", "problem", "kind", "id"),
)
# One row: how far the ledger goes. It is what writers lock, and what shows that rows are missing at the end.
head = sa.Table(
    "decisions_head",
    _schema,
    sa.Column("one", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("last", sa.Integer, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)

_GUARDS = {
    "sqlite": [
        *(
            f"CREATE TRIGGER decisions_no_{verb} BEFORE {verb} ON decisions "
            f"BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: {verb} refused'); END"
            for verb in ("UPDATE", "DELETE")
        ),
        # INSERT OR REPLACE would remove a row without firing the DELETE trigger
        "CREATE TRIGGER decisions_only_at_end BEFORE INSERT ON decisions "
        "WHEN NEW.id <> (SELECT COALESCE(MAX(id), 0) + 1 FROM decisions) "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: INSERT only at its end'); END",
    ],
    "postgresql": [
        "CREATE OR REPLACE FUNCTION decisions_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION USING MESSAGE = 'the ledger is append-only: ' || TG_OP || ' refused'; END $$",
        "CREATE TRIGGER decisions_no_change BEFORE UPDATE OR DELETE ON decisions "
        "FOR EACH ROW EXECUTE FUNCTION decisions_refuse()",
        "CREATE TRIGGER decisions_no_truncate BEFORE TRUNCATE ON decisions "
        "FOR EACH STATEMENT EXECUTE FUNCTION decisions_refuse()",
    ],
}


@dataclass(frozen=True)
class Standing:
    """How a problem stood at a moment.

    Attributes
    ----------
    problem : str
    champion : Row or None
        The promotion or rollback that made the model champion.
    canary : Row or None
        The row that started the canary, while it is on.
    gates : dict of str to Row
        The last row of each gate.
    """

    problem: str
    champion: Row | None
    canary: Row | None
    gates: dict[str, Row]


class Ledger:
    """The append-only table of decisions, in SQLite or Postgres.

    Every method opens a connection of its own, so a ledger may be used by threads and after a fork. Whatever is read
    is verified first; what has not changed since it was verified is not read again.

    Parameters
    ----------
    url : str
        SQLAlchemy URL: 'sqlite:////path/ledger.db' or 'postgresql://user@host/database'. The tables are made
        on first use.
    clock : callable, optional
        Returns the time of a row as naive UTC; default: the machine's.
    memory : Path, optional
        The file in which it is remembered how far the ledger was verified; default: only this process remembers.
    anchor : Path, optional
        A second place, to which the head is added with every row, and which the ledger is held against.
    code : Path, optional
        The folder whose git commit every row cites, as `digests["commit"]`; default: none is cited.

    Raises
    ------
    LedgerError
        A URL of another database, or one that cannot be read.
    """

    def __init__(
        self,
        url: str,
        clock: Callable[[], dt.datetime] | None = None,
        memory: Path | None = None,
        anchor: Path | None = None,
        code: Path | None = None,
    ):
        self._code = code
        self._clock = clock or core_clock.now
        self._engine = _engine(url)
        self._ready = False
        self._anchor = anchor
        self._memory = chain.Memory(memory, self._name(memory))
        self._seen: str | None = None

    @classmethod
    def open(cls, settings: _settings.Settings | None = None) -> "Ledger":
        """The ledger of a project (default: the one at or above the current folder)."""
        settings = settings or _settings.load()
        return cls(
            settings.ledger_url, None, settings.state / "ledger-verified.json", settings.ledger_anchor, settings.root
        )

    @staticmethod
    def is_there(settings: _settings.Settings) -> bool:
        """Whether a project has a ledger, or had one: where not, nobody needs to make it by looking."""
        file = settings.ledger_url.removeprefix("sqlite:///")
        known = settings.state / "ledger-verified.json"
        return file == settings.ledger_url or Path(file).exists() or known.exists()

    # writing

    def append(self, entry: Entry) -> Row:
        """Write a decision; returns its row, or the row that is there under the same key.

        What a promotion, a rollback or a canary must keep to is in `mlloop.store.champions`, and is looked at in the
        transaction that writes. A canary that ends 'promoted' writes two rows, its own (returned) and the promotion.

        Raises
        ------
        PromotionRefused
            The entry would change what is in production against the rules.
        LedgerError
            A value that cannot be meant, a key used for another decision, or a ledger that cannot be written.
        """
        entry = champions.completed(checked(entry, self.where), self.where)
        with self._writing() as connection:
            if known := self._known(connection, entry):
                return known
            rows = _Rows(self, connection)
            written = [self._write(connection, ruled) for ruled in champions.ruled(rows, entry)]
        chain.recorded(written)
        self._anchored(written[-1])
        return written[0]

    def dry(self) -> "Ledger":
        """The same ledger for a preview: an entry is held against the rules, and not written."""
        copied = copy.copy(self)
        copied.append = copied._preview  # type: ignore[method-assign]
        return copied

    def _preview(self, entry: Entry) -> Row:
        entry = champions.completed(checked(entry, self.where), self.where)
        with self._reading() as connection:
            return self._row(self._next(connection, champions.ruled(_Rows(self, connection), entry)[0]))

    def recorded(self, problem: str, key: str) -> bool:
        """Whether a decision of the problem is recorded under that key."""
        with self._reading() as connection:
            same = sa.select(decisions.c.id).where(decisions.c.problem == problem, decisions.c.key == key)
            return connection.execute(same).first() is not None

    # reading

    def rows(
        self,
        problem: str | None = None,
        kind: str | Iterable[str] | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        subject: str | None = None,
        model: str | None = None,
    ) -> list[Row]:
        """The rows in the order they were written, of [since, until)."""
        with self._reading() as connection:
            return _Rows(self, connection).select(
                problem=problem, kind=kind, since=since, until=until, subject=subject, model=model
            )

    def row(self, number: int) -> Row:
        """The row with that id.

        Raises
        ------
        LedgerError
            There is none.
        """
        with self._reading() as connection:
            stored = connection.execute(sa.select(decisions).where(decisions.c.id == number)).mappings().one_or_none()
        if stored is None:
            raise LedgerError(f"has no row {number!r}", self.where, "See its rows: mlloop log")
        return self._row(stored)

    def last(
        self,
        problem: str | None = None,
        kind: str | Iterable[str] | None = None,
        subject: str | None = None,
        model: str | None = None,
        until: dt.datetime | None = None,
    ) -> Row | None:
        """The latest such row before `until`, or None."""
        with self._reading() as connection:
            return _Rows(self, connection).last(problem=problem, kind=kind, subject=subject, model=model, until=until)

    def champion(self, problem: str, at: dt.datetime | None = None) -> Row | None:
        """The row that made the champion (its `model`), now or as of `at`; None where there is none."""
        with self._reading() as connection:
            return champions.champion(_Rows(self, connection), problem, at)

    def previous_champion(self, problem: str) -> str | None:
        """The model that `rollback` would go back to."""
        earlier = self.earlier_champions(problem)
        return earlier[-1] if earlier else None

    def earlier_champions(self, problem: str) -> list[str]:
        """The models that a rollback can go back to, the latest last."""
        with self._reading() as connection:
            return champions.earlier(_Rows(self, connection), problem)

    def canary(self, problem: str, at: dt.datetime | None = None) -> Row | None:
        """The row that started the canary that is on, now or as of `at`."""
        with self._reading() as connection:
            return champions.canary(_Rows(self, connection), problem, at)

    def at(self, moment: dt.datetime | None = None) -> dict[str, Standing]:
        """How each problem stood right after `moment`: champion, canary, last gates (default: now)."""
        with self._reading() as connection:
            reader = _Rows(self, connection)
            rows = reader.select(at=moment)
            return {
                problem: Standing(
                    problem=problem,
                    champion=champions.champion(reader, problem, moment),
                    canary=champions.canary(reader, problem, moment),
                    gates={row.subject: row for row in rows if row.problem == problem and row.kind == "gate"},
                )
                for problem in sorted({row.problem for row in rows})
            }

    def at_in_the_data(self, moment: dt.datetime) -> dict[str, Standing]:
        """How each problem stood when its data stood at `moment`, see `clocks.in_the_data`."""
        standings, rows = {}, self.rows()
        for problem in sorted({row.problem for row in rows}):
            until = clocks.Until([row for row in rows if row.problem == problem], moment, self.where)
            gates = {row.subject: row for row in until.rows if row.kind == "gate"}
            if until.rows:
                standings[problem] = Standing(
                    problem, champions.champion(until, problem), champions.canary(until, problem), gates
                )
        return standings

    def head(self) -> Head:
        """How far the ledger goes; noted elsewhere, it is what `verify` can be held against."""
        with self._reading() as connection:
            top = self._top(connection)
        return Head(top["last"], top["hash"])

    def lost(self) -> Head | None:
        """The last row that this project knows of a ledger that is empty now; None where nothing is missing."""
        known = self._memory.known
        return known.head if known and known.head.id and self.head() == chain.EMPTY else None

    def accept(self) -> Head:
        """Take the ledger as it is: what was noted of it earlier no longer counts. Its chain must hold; returns the head."""
        self._memory.forget()
        self._seen, anchor, self._anchor = None, self._anchor, None
        try:
            verified = self.verify()
        finally:
            self._anchor = anchor
        if anchor is not None:
            chain.anchor(anchor, verified, self._clock().isoformat(timespec="seconds"))
        return verified

    def verify(self, noted: Head | None = None) -> Head:
        """Check every row against its hash and its predecessor; returns the head.

        A changed field, a removed, added or reordered row and a cut end are found. Not found: a ledger replaced by
        an older copy of itself, or one whose rows were all written again with right hashes by somebody who may write
        the database; against those, note the head elsewhere and pass it as `noted`.

        Raises
        ------
        LedgerError
            Naming the first row that is wrong.
        """
        with self._reading(verified=False) as connection:
            return self._checked(connection, self._state(connection), [(noted, "here")] if noted else [])

    def copy_to(self, other: "Ledger") -> Head:
        """Copy every row as it is into another database, and verify both; rows that are there already are left.

        Raises
        ------
        LedgerError
            A chain does not hold, or the other ledger is not the beginning of this one.
        """
        self.verify()
        with self._reading() as connection:
            rows = connection.execute(sa.select(decisions).order_by(decisions.c.id)).mappings().all()
        there = other.verify()
        if there.id > len(rows) or (there.id and rows[there.id - 1]["hash"] != there.hash):
            raise LedgerError(
                f"holds another ledger, which ends with row {there.id}", other.where, "Name an empty database: mlloop ledger copy --to URL"
            )  # fmt: skip
        with other._writing() as connection:
            for row in rows[there.id :]:
                connection.execute(sa.insert(decisions).values(**row))
            if rows:
                connection.execute(sa.update(head).values(last=rows[-1]["id"], hash=rows[-1]["hash"]))
        verified = other.verify()
        if self.verify() != verified:
            raise LedgerError("was added to while it was copied", self.where, "Run the copy again: mlloop ledger copy --to URL")  # fmt: skip
        return verified

    # inside a transaction

    @property
    def where(self) -> str:
        """The database, without its password."""
        return self._engine.url.database or "" if self._sqlite else self._engine.url.render_as_string()

    def connection(self, name: str) -> sa.Connection:
        """A connection of its own outside any transaction, under a name that the database shows."""
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(sa.select(sa.func.set_config("application_name", name, False)))
        return connection

    @property
    def _sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """A transaction that no other writer shares: it sees the last row and adds the next."""
        with self.speaking():
            self._prepare()
            with self._engine.connect().execution_options(mlloop_write=True) as connection:
                with connection.begin():
                    if not self._sqlite:
                        connection.execute(sa.select(head).with_for_update())
                    self._verified(connection)
                    alone = self._alone(connection)
                    yield connection
                    top = self._top(connection)
                    after = None if self._sqlite else self._state(connection)
                self._follow(connection, alone, after, Head(top["last"], top["hash"]))

    @contextlib.contextmanager
    def _reading(self, verified: bool = True) -> Iterator[sa.Connection]:
        """A transaction that sees one state of all rows, verified unless it is that very thing that is asked for."""
        with self.speaking():
            self._prepare()
            options = {} if self._sqlite else {"isolation_level": "REPEATABLE READ"}
            with self._engine.connect().execution_options(**options) as connection, connection.begin():
                if verified:
                    self._verified(connection)
                yield connection

    # verified by whoever reads

    def _name(self, memory: Path | None) -> str:
        """What the ledger is called in the project's memory: a file inside moves and is copied with the project."""
        if self._sqlite and memory is not None and Path(self.where).is_relative_to(memory.parent):
            return os.path.relpath(self.where, memory.parent)
        return self.where

    def _verified(self, connection: sa.Connection) -> None:
        """Verify the rows, unless the database is in the state in which they were verified."""
        state = self._state(connection)
        known = self._memory.known
        if state == self._seen or (known and known.state == state):
            self._seen = state
        else:
            self._checked(connection, state)

    def _checked(self, connection: sa.Connection, state: str, noted: Iterable[tuple[Head, str]] = ()) -> Head:
        """Verify all rows and remember that; an empty ledger says nothing wrong, see `lost`."""
        anchored = (
            self._last_anchored() if self._anchor else None
        )  # before the rows: another may add a row and anchor it
        known = self._memory.known
        rows = connection.execute(sa.select(decisions).order_by(decisions.c.id)).mappings().all()
        top = connection.execute(sa.select(head)).mappings().one_or_none()
        noted, empty = list(noted), not rows and top is not None and not top["last"]
        if known and known.head.id and not empty:
            noted.append((known.head, "when this project read it last"))
        if anchored:
            noted.append((anchored, f"in the anchor {self._anchor}"))
        verified = chain.checked(rows, top, self._damaged, noted)
        if not (empty and known and known.head.id):
            self._memory.keep(verified, state)
        self._seen = state
        return verified

    def _state(self, connection: sa.Connection) -> str:
        """What shows that the database has changed: a file's size, times and inode, else its rows' own marks."""
        if self._sqlite:  # never opened here: closing it would free the locks that SQLite holds for this process
            stat = Path(self.where).stat()
            return json.dumps([stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino])
        marks = "md5(coalesce(string_agg(id || ':' || xmin || ':' || ctid, ',' ORDER BY id), ''))"
        marked = connection.exec_driver_sql(f"SELECT (SELECT {marks} FROM decisions), (SELECT min(last || hash) FROM decisions_head)")  # fmt: skip
        return json.dumps(list(marked.one()))

    def _alone(self, connection: sa.Connection) -> Any:
        """What stays the same for as long as no other connection writes the file."""
        if not self._sqlite:
            return None
        return connection.connection.driver_connection.execute("PRAGMA data_version").fetchone()  # type: ignore[union-attr]

    def _follow(self, connection: sa.Connection, alone: Any, after: str | None, top: Head) -> None:
        """After a write of our own: the rows are verified still, if nobody else wrote a file meanwhile."""
        after = after or self._state(connection)
        if self._alone(connection) == alone:
            self._seen = after
            self._memory.keep(top, after)

    def _last_anchored(self) -> Head | None:
        assert self._anchor is not None
        try:
            return chain.last_anchored(self._anchor)
        except OSError as error:
            raise LedgerError(
                f"its anchor cannot be read: {error.strerror}", str(self._anchor), "Bring it back, then: mlloop check"
            ) from error

    def _anchored(self, last: Row) -> None:
        """Add the new head to the anchor. The decision is taken by then: a place that is away is told, and raises nothing."""
        if self._anchor is None:
            return
        try:
            chain.anchor(self._anchor, Head(last.id, last.hash), last.at.isoformat(timespec="seconds"))
        except OSError as error:
            warnings.warn(
                f"row {last.id} was recorded, and not anchored in {self._anchor}: {error.strerror}", Noted, stacklevel=3
            )

    def _top(self, connection: sa.Connection) -> Mapping[Any, Any]:
        top = connection.execute(sa.select(head)).mappings().one_or_none()
        if top is None:
            raise self._damaged("its head is missing")
        return top

    @contextlib.contextmanager
    def speaking(self) -> Iterator[None]:
        """What the database says goes wrong, as an error of the ledger."""
        try:
            yield
        except MlloopError:
            raise
        except sa.exc.SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            message = " ".join(str(cause).split())
            if "locked" in message:
                raise LedgerError(f"was held by another writer for {WAIT_S} s", self.where, "Try again") from error
            raise LedgerError(f"cannot be used: {message}", self.where, "Check it: mlloop check") from error

    def _prepare(self) -> None:
        """Make the tables and their guards once, whoever comes first."""
        if self._ready:
            return
        if (
            self._sqlite and not Path(self.where).exists()
        ):  # a file that is there keeps its time: its state is remembered by it
            with storage.privately():
                Path(self.where).parent.mkdir(parents=True, exist_ok=True)
                Path(self.where).touch()  # SQLite gives its journal the mode of the file
        if not sa.inspect(self._engine).has_table(head.name):
            with self._engine.connect().execution_options(mlloop_write=True) as connection, connection.begin():
                if not self._sqlite:
                    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7316170812)")
                if not sa.inspect(connection).has_table(head.name):
                    _schema.create_all(connection)
                    for guard in _GUARDS[self._engine.dialect.name]:
                        connection.exec_driver_sql(guard)
                    connection.execute(sa.insert(head).values(one=1, last=0, hash=NOTHING_BEFORE))
        self._ready = True

    def _write(self, connection: sa.Connection, entry: Entry) -> Row:
        written = self._next(connection, entry)
        connection.execute(sa.insert(decisions).values(written))
        connection.execute(sa.update(head).values(last=written["id"], hash=written["hash"]))
        return self._row(written)

    def _next(self, connection: sa.Connection, entry: Entry) -> JsonObject:
        """The row of an entry as it comes next, by column."""
        top = self._top(connection)
        last = connection.execute(sa.select(decisions).where(decisions.c.id == top["last"])).mappings().one_or_none()
        if (last["hash"] if last else NOTHING_BEFORE) != top["hash"]:
            raise self._damaged(f"row {top['last']} is not the one its head names")
        at = self._clock().isoformat(timespec="microseconds")
        columns = entry.columns() | {"digests": self._digests(entry)}
        written = {name: _canonical(value) if name in _JSON else value for name, value in columns.items()}
        written |= {"id": top["last"] + 1, "at": max(at, last["at"]) if last else at, "previous": top["hash"]}
        return {**written, "hash": _hash(written)}

    def _digests(self, entry: Entry) -> dict[str, str]:
        """What the entry was based on, and the commit of the code that hands it in."""
        stated = {name: value for name, value in (entry.digests or {}).items() if name != "commit" or not self._code}
        commit = commit_of(self._code) if self._code else None
        return {**stated, "commit": commit} if commit else stated

    def _known(self, connection: sa.Connection, entry: Entry) -> Row | None:
        """The row already recorded under the same key."""
        if entry.key is None:
            return None
        same = sa.select(decisions).where(decisions.c.problem == entry.problem, decisions.c.key == entry.key)
        stored = connection.execute(same).mappings().one_or_none()
        if stored is None:
            return None
        handed_in = entry.columns()
        if entry.kind == "rollback":  # the model it went back to may have been left to the rule
            handed_in["model"] = stored["model"]
        for name in ("kind", "subject", "verdict", "model"):
            if stored[name] != handed_in[name]:
                raise LedgerError(
                    f"key {entry.key!r} stands for row {stored['id']} with {name} {stored[name]!r}, "
                    f"got {handed_in[name]!r}",
                    self.where,
                    champions.SEE_LOG,
                )
        return self._row(stored)

    def _row(self, record: Mapping[Any, Any]) -> Row:
        try:
            values = {name: json.loads(record[name]) if name in _JSON else record[name] for name in ROW_COLUMNS}
            return Row(**{**values, "at": dt.datetime.fromisoformat(values["at"])})
        except (ValueError, TypeError) as error:
            raise self._damaged(f"row {record['id']} cannot be read: {error}") from error

    def _damaged(self, what: str) -> LedgerError:
        return LedgerError(
            f"the ledger is damaged: {what}",
            self.where,
            "Put back a copy of it; nothing was changed now. To see what holds: mlloop ledger check",
        )


@dataclass(frozen=True)
class _Rows:
    """The rows as one transaction sees them."""

    ledger: Ledger
    connection: sa.Connection

    @property
    def where(self) -> str:
        return self.ledger.where

    def select(self, **conditions: Any) -> list[Row]:
        records = self.connection.execute(
            sa.select(decisions).where(*_conditions(**conditions)).order_by(decisions.c.id)
        )
        return [self.ledger._row(row) for row in records.mappings()]

    def last(self, **conditions: Any) -> Row | None:
        newest = sa.select(decisions).where(*_conditions(**conditions)).order_by(decisions.c.id.desc()).limit(1)
        record = self.connection.execute(newest).mappings().one_or_none()
        return self.ledger._row(record) if record else None


def _engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        raise LedgerError(
            f"cannot be read as a URL: {error}", "settings.ini [ledger] url", "Fix it, then: mlloop check"
        ) from error
    kind = parsed.get_backend_name()
    if kind not in _GUARDS or (kind == "sqlite" and parsed.database in (None, "", ":memory:")):
        raise LedgerError(
            f"is {str(parsed)!r}, expected sqlite:///FILE or postgresql://...",
            "settings.ini [ledger] url",
            "Fix it, then: mlloop check",
        )
    if kind == "postgresql":
        try:
            return sa.create_engine(parsed.set(drivername="postgresql+psycopg"), poolclass=sa.pool.NullPool)
        except ModuleNotFoundError as error:
            raise LedgerError(
                f"needs {error.name}", str(parsed), "Install it: pip install 'mlloop[postgres]'"
            ) from error
    engine = sa.create_engine(parsed, poolclass=sa.pool.NullPool, connect_args={"timeout": WAIT_S})
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # sqlite3 would begin transactions by itself, later than they must
    # A rollback journal, not WAL: the ledger is one file at every moment, which can be copied and put on a share.
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.execute("PRAGMA synchronous=EXTRA")


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("mlloop_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _conditions(
    problem: str | None = None,
    kind: str | Iterable[str] | None = None,
    subject: str | None = None,
    model: str | None = None,
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    at: dt.datetime | None = None,
) -> list[sa.ColumnElement[bool]]:
    c = decisions.c
    kinds = [kind] if isinstance(kind, str) else kind
    return [
        condition
        for value, condition in (
            (problem, c.problem == problem),
            (kinds, c.kind.in_(kinds or [])),
            (subject, c.subject == subject),
            (model, c.model == model),
            (since, c.at >= _moment(since)),
            (until, c.at < _moment(until)),
            (at, c.at <= _moment(at)),
        )
        if value is not None
    ]


def _moment(time: dt.datetime | None) -> str:
    if time is None:
        return ""
    naive = time.astimezone(dt.UTC).replace(tzinfo=None) if time.tzinfo else time
    return naive.isoformat(timespec="microseconds")
