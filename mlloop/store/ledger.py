"""The ledger: what was decided, when, by whom and on what evidence; the one authority on what is in production.

One append-only table. Each row's hash covers the row and the hash of the row before it, so a changed, removed or
reordered row is found. What is in production is never stored apart: it is read off the rows.
"""

import contextlib
import datetime as dt
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mlloop.core import settings as _settings
from mlloop.core.errors import LedgerError, MlloopError, PromotionRefused
from mlloop.core.storage import plain

KINDS = ("gate", "promotion", "canary", "rollback", "retrain", "revision")
VERDICTS = ("yes", "maybe", "no")
EVIDENCE = ("name", "value", "unit", "low", "high", "threshold", "passed")
OUTCOMES = ("promoted", "rolled_back")
NOTHING_BEFORE = "0" * 64
WAIT_S = 60
_SWAPS = ("promotion", "rollback")
_JSON = ("reasons", "evidence", "digests", "details")
_LOOK = "See what happened: mlloop log"

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
class Row:
    """One decision.

    Attributes
    ----------
    id : int
        1, 2, 3 ... without gaps.
    at : datetime
        UTC without a zone; never before the row above it.
    kind : str
        One of `KINDS`.
    problem : str
    subject : str
        The gate's name; 'started' or the outcome for a canary; what was decided on for others.
    verdict : str or None
        'yes', 'maybe' or 'no'.
    reasons : list of str
    evidence : list of dict
        Each with the keys of `EVIDENCE`; a figure that was not a finite number is None.
    digests : dict of str to str or None
        Of the data versions, the code, the executed notebook, the environment, the model.
    actor : str
        'policy' or a person.
    model : str or None
        The model decided on; for a promotion and a rollback the champion from here on.
    details : dict
    key : str or None
        What makes a repeated decision recognisable, see `Ledger.record`.
    previous, hash : str
        SHA-256 of the row before and of this one, hexadecimal.
    """

    id: int
    at: dt.datetime
    kind: str
    problem: str
    subject: str
    verdict: str | None
    reasons: list[str]
    evidence: list[dict[str, Any]]
    digests: dict[str, Any]
    actor: str
    model: str | None
    details: dict[str, Any]
    key: str | None
    previous: str
    hash: str

    def to_dict(self) -> dict[str, Any]:
        """The row in JSON's own types."""
        return plain(asdict(self))


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


@dataclass(frozen=True)
class Head:
    """How far the ledger goes: its last row's id (0 when empty) and hash."""

    id: int
    hash: str


class Ledger:
    """The append-only table of decisions, in SQLite or Postgres.

    Every method opens a connection of its own, so a ledger may be used by threads and after a fork.

    Parameters
    ----------
    url : str
        SQLAlchemy URL: 'sqlite:////path/ledger.db' or 'postgresql://user@host/database'. The tables are made
        on first use.
    clock : callable, optional
        Returns the time of a row as naive UTC; default: the machine's.

    Raises
    ------
    LedgerError
        A URL of another database, or one that cannot be read.
    """

    def __init__(self, url: str, clock: Callable[[], dt.datetime] | None = None):
        self._clock = clock or (lambda: dt.datetime.now(dt.UTC).replace(tzinfo=None))
        self._engine = _engine(url)
        self._ready = False

    @classmethod
    def open(cls, settings: _settings.Settings | None = None) -> "Ledger":
        """The ledger of a project (default: the one at or above the current folder)."""
        return cls((settings or _settings.load()).ledger_url)

    # writing

    def record(
        self,
        kind: str,
        problem: str,
        subject: str = "",
        verdict: str | None = None,
        reasons: Iterable[str] = (),
        evidence: Iterable[Mapping[str, Any]] = (),
        digests: Mapping[str, Any] | None = None,
        actor: str = "policy",
        model: str | None = None,
        details: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Row:
        """Append a decision that does not change what is in production; returns its row.

        Parameters
        ----------
        kind : {'gate', 'retrain', 'revision'}
            Promotions, rollbacks and canaries have methods of their own.
        key : str, optional
            The same decision recorded again under the same key (after a kill, say) adds nothing and returns the
            first row.

        Raises
        ------
        LedgerError
            A value that cannot be meant, a key used for another decision, or a ledger that cannot be written.
        """
        if kind in ("promotion", "rollback", "canary"):
            raise LedgerError(
                f"a {kind} is not recorded by hand", self.where, "Use promote, rollback, start_canary or end_canary"
            )
        given = dict(
            kind=kind, problem=problem, subject=subject, verdict=verdict, reasons=reasons, evidence=evidence,
            digests=digests, actor=actor, model=model, details=details, key=key,
        )  # fmt: skip
        row = _checked(given, self.where)
        with self._writing() as connection:
            return self._known(connection, row) or self._append(connection, row)

    def promote(
        self,
        problem: str,
        model: str,
        expect: str | None,
        reasons: Iterable[str] = (),
        evidence: Iterable[Mapping[str, Any]] = (),
        digests: Mapping[str, Any] | None = None,
        actor: str = "policy",
        details: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Row:
        """Make `model` the champion, if the champion is still `expect`; ends a canary that is on.

        Parameters
        ----------
        expect : str or None
            The champion that the decision was taken against; None where there was none.

        Raises
        ------
        PromotionRefused
            Somebody else is champion (the message says who and since when), the model is champion already, or its
            last validation gate in this ledger did not say yes (a maybe is for a person to decide), or said it of
            another model file.
        LedgerError
            As for `record`.
        """
        given = dict(
            kind="promotion", problem=problem, subject=model, verdict="yes", reasons=reasons, evidence=evidence,
            digests=digests, actor=actor, model=model, details=details, key=key,
        )  # fmt: skip
        row = _checked(given, self.where)
        with self._writing() as connection:
            return self._known(connection, row) or self._swap(connection, row, expect)

    def rollback(
        self,
        problem: str,
        expect: str,
        to: str | None = None,
        reasons: Iterable[str] = (),
        evidence: Iterable[Mapping[str, Any]] = (),
        digests: Mapping[str, Any] | None = None,
        actor: str = "policy",
        details: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Row:
        """Make an earlier champion the champion again, if it is still `expect` that is one.

        Parameters
        ----------
        to : str, optional
            An earlier champion that was not itself rolled back; default: the one before `expect`.

        Raises
        ------
        PromotionRefused
            Somebody else is champion, or there is no such earlier champion.
        """
        given = dict(
            kind="rollback", problem=problem, subject=expect, verdict="no", reasons=reasons, evidence=evidence,
            digests=digests, actor=actor, model=to, details=details, key=key,
        )  # fmt: skip
        row = _checked(given, self.where)
        with self._writing() as connection:
            if known := self._known(connection, row, ignore=("model",)):
                return known
            self._expected(connection, problem, expect)
            earlier = _reigns(self._select(connection, problem=problem, kind=_SWAPS))[:-1]
            if not earlier or (to is not None and to not in earlier):
                had = ", ".join(repr(name) for name in earlier) or "none"
                raise self._refused(
                    f"{problem!r} cannot go back to {to or 'an earlier champion'} (earlier champions: {had})"
                )
            row["model"] = to or earlier[-1]
            row["details"] = {**row["details"], **self._ends_canary(connection, problem), "was": expect}
            return self._append(connection, row)

    def start_canary(
        self,
        problem: str,
        model: str,
        expect: str | None,
        reasons: Iterable[str] = (),
        evidence: Iterable[Mapping[str, Any]] = (),
        digests: Mapping[str, Any] | None = None,
        actor: str = "policy",
        details: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Row:
        """Let `model` answer beside the champion `expect`; share, rows and deadline go into `details`.

        Raises
        ------
        PromotionRefused
            Another canary is on, there is no champion to compare with, somebody else is champion, or the model's
            last validation gate did not say yes.
        """
        given = dict(
            kind="canary", problem=problem, subject="started", verdict=None, reasons=reasons, evidence=evidence,
            digests=digests, actor=actor, model=model, details=details, key=key,
        )  # fmt: skip
        row = _checked(given, self.where)
        with self._writing() as connection:
            if known := self._known(connection, row):
                return known
            champion = self._expected(connection, problem, expect)
            if champion is None:
                raise self._refused(
                    f"{problem!r} has no champion to compare a canary with", "Promote it: mlloop promote"
                )
            if champion.model == model:
                raise self._refused(
                    f"{model!r} is champion of {problem!r} already, since {champion.at:%Y-%m-%d %H:%M:%S}"
                )
            if on := self._canary(connection, problem):
                raise self._refused(f"{on.model!r} is canary of {problem!r} since {on.at:%Y-%m-%d %H:%M:%S}")
            self._validated(connection, row)
            row["details"] = {**row["details"], "champion": champion.model}
            return self._append(connection, row)

    def end_canary(
        self,
        problem: str,
        model: str,
        outcome: str,
        reasons: Iterable[str] = (),
        evidence: Iterable[Mapping[str, Any]] = (),
        digests: Mapping[str, Any] | None = None,
        actor: str = "policy",
        details: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Row:
        """End the canary of `model`; with 'promoted' it is champion in the same transaction.

        Parameters
        ----------
        outcome : {'promoted', 'rolled_back'}
            Too little data by the deadline is 'rolled_back', with that as the reason.

        Returns
        -------
        Row
            The canary's last row. A promotion is the row after it.

        Raises
        ------
        PromotionRefused
            `model` is not the canary, or the champion changed since.
        """
        if outcome not in OUTCOMES:
            raise LedgerError(f"outcome is {outcome!r}, expected one of {', '.join(OUTCOMES)}", self.where, _LOOK)
        given = dict(
            kind="canary", problem=problem, subject=outcome, verdict="yes" if outcome == "promoted" else "no",
            reasons=reasons, evidence=evidence, digests=digests, actor=actor, model=model, details=details, key=key,
        )  # fmt: skip
        row = _checked(given, self.where)
        with self._writing() as connection:
            if known := self._known(connection, row):
                return known
            on = self._canary(connection, problem)
            if on is None or on.model != model:
                raise self._refused(f"{model!r} is not canary of {problem!r} ({on.model if on else None!r} is)")
            ended = self._append(connection, row)
            if outcome == "promoted":
                self._swap(
                    connection, {**row, "kind": "promotion", "subject": model, "key": None}, on.details["champion"]
                )
            return ended

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
            return self._select(
                connection, problem=problem, kind=kind, since=since, until=until, subject=subject, model=model
            )

    def row(self, number: int) -> Row:
        """The row with that id.

        Raises
        ------
        LedgerError
            There is none.
        """
        with self._reading() as connection:
            found = connection.execute(sa.select(decisions).where(decisions.c.id == number)).mappings().one_or_none()
        if found is None:
            raise LedgerError(f"has no row {number!r}", self.where, "See its rows: mlloop log")
        return self._row(found)

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
            return self._last(connection, problem=problem, kind=kind, subject=subject, model=model, until=until)

    def champion(self, problem: str, at: dt.datetime | None = None) -> Row | None:
        """The row that made the champion (its `model`), now or as of `at`; None where there is none."""
        with self._reading() as connection:
            return self._champion(connection, problem, at)

    def previous_champion(self, problem: str) -> str | None:
        """The model that `rollback` would go back to."""
        with self._reading() as connection:
            earlier = _reigns(self._select(connection, problem=problem, kind=_SWAPS))[:-1]
        return earlier[-1] if earlier else None

    def canary(self, problem: str, at: dt.datetime | None = None) -> Row | None:
        """The row that started the canary that is on, now or as of `at`."""
        with self._reading() as connection:
            return self._canary(connection, problem, at)

    def at(self, moment: dt.datetime | None = None) -> dict[str, Standing]:
        """How each problem stood right after `moment`: champion, canary, last gates (default: now)."""
        with self._reading() as connection:
            rows = self._select(connection, at=moment)
            return {
                problem: Standing(
                    problem=problem,
                    champion=self._champion(connection, problem, moment),
                    canary=self._canary(connection, problem, moment),
                    gates={row.subject: row for row in rows if row.problem == problem and row.kind == "gate"},
                )
                for problem in sorted({row.problem for row in rows})
            }

    def has_model(self, digest: str) -> bool:
        """Whether a validation gate said yes to the model of that digest, or a file of it was promoted: only those load.

        The digest is the row's model, or stands in a promotion's `digests` (the artefact made of the model).
        """
        for row in self.rows(kind=("gate", "promotion")):
            judged = row.kind == "gate" and row.subject == "validation" and row.verdict == "yes"
            if judged and digest in (row.model, row.digests.get("model")):
                return True
            if row.kind == "promotion" and digest in (row.model, *row.digests.values()):
                return True
        return False

    def head(self) -> Head:
        """How far the ledger goes; noted elsewhere, it is what `verify` can be held against."""
        with self._reading() as connection:
            found = connection.execute(sa.select(head)).mappings().one()
        return Head(found["last"], found["hash"])

    def verify(self, noted: Head | None = None) -> Head:
        """Check every row against its hash and its predecessor; returns the head.

        A changed field, a removed, added or reordered row and a cut end are found. Not found: a ledger replaced by
        an older copy of itself, or one whose rows were all written anew with right hashes by somebody who may write
        the database; against those, note the head elsewhere and pass it as `noted`.

        Raises
        ------
        LedgerError
            Naming the first row that is wrong.
        """
        with self._reading() as connection:
            rows = connection.execute(sa.select(decisions).order_by(decisions.c.id)).mappings().all()
            top = connection.execute(sa.select(head)).mappings().one_or_none()
        before, seen = Head(0, NOTHING_BEFORE), {}
        for row in rows:
            if row["id"] != before.id + 1:
                raise self._damaged(f"row {before.id + 1} is missing (row {row['id']} comes next)")
            if row["hash"] != _hash(row):
                raise self._damaged(f"row {row['id']} was changed after it was written")
            if row["previous"] != before.hash:
                raise self._damaged(f"row {row['id']} does not follow row {before.id}: one of them was replaced")
            before = Head(row["id"], row["hash"])
            seen[before.id] = before.hash
        if top is None or (top["last"], top["hash"]) != (before.id, before.hash):
            said = "nothing" if top is None else f"row {top['last']}"
            raise self._damaged(f"it ends with row {before.id} and its head says {said}: the end was cut or added to")
        if noted and noted.id and seen.get(noted.id) != noted.hash:
            raise self._damaged(f"row {noted.id} is not the one noted (hash {noted.hash[:12]}...)")
        return before

    # inside a transaction

    @property
    def where(self) -> str:
        """The database, without its password."""
        return self._engine.url.database or "" if self._sqlite else self._engine.url.render_as_string()

    @property
    def _sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """A transaction that no other writer shares: it sees the last row and adds the next."""
        with self._speaking():
            self._prepare()
            with self._engine.connect().execution_options(mlloop_write=True) as connection, connection.begin():
                if not self._sqlite:
                    connection.execute(sa.select(head).with_for_update())
                yield connection

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of all rows."""
        with self._speaking():
            self._prepare()
            options = {} if self._sqlite else {"isolation_level": "REPEATABLE READ"}
            with self._engine.connect().execution_options(**options) as connection, connection.begin():
                yield connection

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except MlloopError:
            raise
        except sa.exc.SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            said = " ".join(str(cause).split())
            if "locked" in said:
                raise LedgerError(f"was held by another writer for {WAIT_S} s", self.where, "Try again") from error
            raise LedgerError(f"cannot be used: {said}", self.where, "Check it: mlloop check") from error

    def _prepare(self) -> None:
        """Make the tables and their guards once, whoever comes first."""
        if self._ready:
            return
        if self._sqlite:
            Path(self.where).parent.mkdir(parents=True, exist_ok=True)
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

    def _append(self, connection: sa.Connection, row: dict[str, Any]) -> Row:
        top = connection.execute(sa.select(head)).mappings().one_or_none()
        if top is None:
            raise self._damaged("its head is missing")
        last = connection.execute(sa.select(decisions).where(decisions.c.id == top["last"])).mappings().one_or_none()
        if (last["hash"] if last else NOTHING_BEFORE) != top["hash"]:
            raise self._damaged(f"row {top['last']} is not the one its head names")
        at = self._clock().isoformat(timespec="microseconds")
        written = {name: _canonical(value) if name in _JSON else value for name, value in row.items()}
        written |= {"id": top["last"] + 1, "at": max(at, last["at"]) if last else at, "previous": top["hash"]}
        written["hash"] = _hash(written)
        connection.execute(sa.insert(decisions).values(written))
        connection.execute(sa.update(head).values(last=written["id"], hash=written["hash"]))
        return self._row(written)

    def _known(self, connection: sa.Connection, row: dict[str, Any], ignore: tuple[str, ...] = ()) -> Row | None:
        """The row already recorded under the same key."""
        if row["key"] is None:
            return None
        same = sa.select(decisions).where(decisions.c.problem == row["problem"], decisions.c.key == row["key"])
        found = connection.execute(same).mappings().one_or_none()
        if found is None:
            return None
        for name in ("kind", "subject", "verdict", "model"):
            if name not in ignore and found[name] != row[name]:
                raise LedgerError(
                    f"key {row['key']!r} stands for row {found['id']} with {name} {found[name]!r}, got {row[name]!r}",
                    self.where,
                    _LOOK,
                )
        return self._row(found)

    def _swap(self, connection: sa.Connection, row: dict[str, Any], expect: str | None) -> Row:
        problem, model = row["problem"], row["model"]
        champion = self._expected(connection, problem, expect)
        if champion and champion.model == model:
            raise self._refused(f"{model!r} is champion of {problem!r} already, since {champion.at:%Y-%m-%d %H:%M:%S}")
        self._validated(connection, row)
        details = {**row["details"], **self._ends_canary(connection, problem), "was": expect}
        return self._append(connection, {**row, "details": details})

    def _expected(self, connection: sa.Connection, problem: str, expect: str | None) -> Row | None:
        champion = self._champion(connection, problem)
        if (champion.model if champion else None) != expect:
            now = f"{champion.model!r} since {champion.at:%Y-%m-%d %H:%M:%S}" if champion else "nobody"
            raise self._refused(f"champion of {problem!r} is {now}, the decision was taken against {expect!r}")
        return champion

    def _validated(self, connection: sa.Connection, row: dict[str, Any]) -> None:
        problem, model = row["problem"], row["model"]
        gate = self._last(connection, problem=problem, kind="gate", subject="validation", model=model)
        by_person = gate is not None and gate.verdict == "maybe" and row["actor"] != "policy"
        if gate is None or not (gate.verdict == "yes" or by_person):
            said = f"said {gate.verdict} (row {gate.id})" if gate else "has not been asked"
            raise self._refused(
                f"the validation gate of {problem!r} {said} of {model!r}", "Ask it: mlloop gate validation"
            )
        judged, given = gate.digests.get("model"), row["digests"].get("model")
        if judged and given and judged != given:
            raise self._refused(
                f"the validation gate (row {gate.id}) judged model file {judged[:12]}..., got {given[:12]}...",
                "Ask it of this file: mlloop gate validation",
            )

    def _ends_canary(self, connection: sa.Connection, problem: str) -> dict[str, str]:
        on = self._canary(connection, problem)
        return {"ended_canary": on.model} if on and on.model else {}

    def _champion(self, connection: sa.Connection, problem: str, at: dt.datetime | None = None) -> Row | None:
        return self._last(connection, problem=problem, kind=_SWAPS, at=at)

    def _canary(self, connection: sa.Connection, problem: str, at: dt.datetime | None = None) -> Row | None:
        """A canary is over when it is ended, and when the champion it was compared with is one no more."""
        last = self._last(connection, problem=problem, kind=("canary", *_SWAPS), at=at)
        return last if last and last.kind == "canary" and last.subject == "started" else None

    def _select(self, connection: sa.Connection, **wanted: Any) -> list[Row]:
        found = connection.execute(sa.select(decisions).where(*_conditions(**wanted)).order_by(decisions.c.id))
        return [self._row(row) for row in found.mappings()]

    def _last(self, connection: sa.Connection, **wanted: Any) -> Row | None:
        newest = sa.select(decisions).where(*_conditions(**wanted)).order_by(decisions.c.id.desc()).limit(1)
        found = connection.execute(newest).mappings().one_or_none()
        return self._row(found) if found else None

    def _row(self, found: Mapping[Any, Any]) -> Row:
        try:
            values = {name: json.loads(found[name]) if name in _JSON else found[name] for name in _ROW}
            return Row(**{**values, "at": dt.datetime.fromisoformat(values["at"])})
        except (ValueError, TypeError) as error:
            raise self._damaged(f"row {found['id']} cannot be read: {error}") from error

    def _refused(self, what: str, next_step: str = _LOOK) -> PromotionRefused:
        return PromotionRefused(what, self.where, next_step)

    def _damaged(self, what: str) -> LedgerError:
        return LedgerError(
            f"the ledger is damaged: {what}", self.where, "Put back a copy of it; nothing was changed now"
        )


_ROW = tuple(field.name for field in fields(Row))


def _engine(url: str) -> sa.Engine:
    try:
        made = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise LedgerError(
            f"cannot be read as a URL: {error}", "settings.ini [ledger] url", "Mend it, then: mlloop check"
        ) from error
    kind = made.get_backend_name()
    if kind not in _GUARDS or (kind == "sqlite" and made.database in (None, "", ":memory:")):
        raise LedgerError(
            f"is {str(made)!r}, expected sqlite:///FILE or postgresql://...",
            "settings.ini [ledger] url",
            "Mend it, then: mlloop check",
        )
    if kind == "postgresql":
        try:
            return sa.create_engine(made.set(drivername="postgresql+psycopg"), poolclass=sa.pool.NullPool)
        except ModuleNotFoundError as error:
            raise LedgerError(f"needs {error.name}", str(made), "Install it: pip install 'mlloop[postgres]'") from error
    engine = sa.create_engine(made, poolclass=sa.pool.NullPool, connect_args={"timeout": WAIT_S})
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
        for wanted, condition in (
            (problem, c.problem == problem),
            (kinds, c.kind.in_(kinds or [])),
            (subject, c.subject == subject),
            (model, c.model == model),
            (since, c.at >= _moment(since)),
            (until, c.at < _moment(until)),
            (at, c.at <= _moment(at)),
        )
        if wanted is not None
    ]


def _moment(time: dt.datetime | None) -> str:
    if time is None:
        return ""
    naive = time.astimezone(dt.UTC).replace(tzinfo=None) if time.tzinfo else time
    return naive.isoformat(timespec="microseconds")


def _reigns(swaps: list[Row]) -> list[str]:
    """The champions one upon the other, the present one last; a rollback takes off those above its own."""
    stack: list[str] = []
    for row in swaps:
        if row.kind == "rollback" and row.model in stack:
            del stack[stack.index(row.model) + 1 :]
        else:
            stack.append(str(row.model))
    return stack


def _canonical(value: Any) -> str:
    """JSON that is the same for the same value: sorted keys, no blanks, ASCII, finite numbers."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False, default=repr)


def _hash(row: Mapping[Any, Any]) -> str:
    """SHA-256 of the row as it is stored, `previous` included; a column without a value does not take part."""
    content = {name: value for name, value in row.items() if name != "hash" and value is not None}
    return hashlib.sha256(_canonical(content).encode()).hexdigest()


def _checked(given: dict[str, Any], where: str) -> dict[str, Any]:
    """The row's columns in JSON's own types.

    Raises
    ------
    LedgerError
        A value that cannot be meant.
    """
    row = plain({**given, "digests": given["digests"] or {}, "details": given["details"] or {}})
    if isinstance(given["reasons"], str):
        raise _bad("reasons", given["reasons"], "a list of sentences", where)
    row |= {"reasons": plain(list(given["reasons"])), "evidence": [_figure(one, where) for one in given["evidence"]]}
    _one_of("kind", row["kind"], KINDS, where)
    if row["verdict"] is not None or row["kind"] == "gate":
        _one_of("verdict", row["verdict"], VERDICTS, where)
    for name in ("problem", "actor", *(["subject"] if row["kind"] == "gate" else [])):
        if not row[name]:
            raise _bad(name, row[name], "a name", where)
    for name in ("problem", "subject", "actor", "model", "key"):
        value = given[name]
        if value is not None and not (isinstance(value, str) and _is_text(value)):
            raise _bad(name, value, "text", where)
    for name, kind in (("digests", dict), ("details", dict)):
        if not isinstance(row[name], kind):
            raise _bad(name, row[name], "names and values", where)
    if not all(isinstance(reason, str) for reason in row["reasons"]):
        raise _bad("reasons", row["reasons"], "a list of sentences", where)
    return row


def _figure(given: Any, where: str) -> dict[str, Any]:
    """One figure of the evidence with all keys of `EVIDENCE`."""
    figure = plain(given)
    if not isinstance(figure, dict) or not isinstance(figure.get("name"), str) or not figure["name"]:
        raise _bad("evidence", given, "a figure with a name", where)
    if unknown := set(figure) - set(EVIDENCE):
        raise _bad(f"evidence {figure['name']!r}", sorted(unknown), "only " + ", ".join(EVIDENCE), where)
    for key in ("value", "low", "high", "threshold"):
        if not isinstance(figure.get(key), (int, float, type(None))):
            raise _bad(f"evidence {figure['name']!r} {key}", figure[key], "a number", where)
    if not isinstance(figure.get("unit"), (str, type(None))) or not isinstance(
        figure.get("passed"), (bool, type(None))
    ):
        raise _bad(f"evidence {figure['name']!r}", figure, "unit as text and passed as true or false", where)
    return {key: figure.get(key) for key in EVIDENCE}


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in value and len(value) <= 1000


def _one_of(name: str, value: Any, allowed: tuple[str, ...], where: str) -> None:
    if value not in allowed:
        raise _bad(name, value, f"one of {', '.join(allowed)}", where)


def _bad(name: str, value: Any, expected: str, where: str) -> LedgerError:
    return LedgerError(f"{name} is {value!r}, expected {expected}", where, "Nothing was recorded")
