"""What the ledger holds: an entry as it is handed in, and the row that it becomes."""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypedDict

from mlloop.core.errors import LedgerError
from mlloop.core.records import EvidenceJson, JsonObject
from mlloop.core.storage import plain
from mlloop.core.verdict import VERDICTS

EVIDENCE = tuple(EvidenceJson.__annotations__)
KINDS = ("gate", "promotion", "canary", "rollback", "fallback", "update", "retrain", "revision", "alert", "erasure")
SWAPS = ("promotion", "rollback", "fallback")  # the kinds that change who is champion


class EntryFields(TypedDict, total=False):
    """Fields that entries of one decision share, for ``Entry(kind, problem, **fields)``."""

    digests: dict[str, str]
    actor: str
    evidence: Iterable[Mapping[str, Any]]
    key: str
    details: JsonObject
    reasons: Iterable[str]


@dataclass(frozen=True)
class Entry:
    """One decision, as `Ledger.append` takes it.

    Attributes
    ----------
    kind : str
        One of `KINDS`. What production answers with is changed by promotions, rollbacks, fallbacks and canaries alone, and those
        keep to the rules of `mlloop.store.champions`.
    problem : str
    subject : str
        The gate's name; 'started', 'promoted' or 'rolled_back' for a canary; what was decided on for others. A
        promotion, a rollback and a fallback set it themselves.
    verdict : str or None
        'yes', 'maybe' or 'no'; a gate needs one. Promotions, rollbacks, fallbacks and canaries set it themselves.
    reasons : iterable of str
    evidence : iterable of mapping
        Each with the keys of `EVIDENCE`.
    digests : mapping, optional
    actor : str, default 'policy'
    model : str, optional
        The model decided on; for a rollback the earlier champion to go back to (default: the one before).
    details : mapping, optional
        A canary's share, rows and deadline go here.
    key : str, optional
        The same decision handed in again under the same key (after a kill, say) adds nothing.
    expect : str, optional
        The champion that a promotion, a rollback, a fallback or the start of a canary was decided against; None where there was
        none. It is compared in the same transaction, and is not kept.
    """

    kind: str
    problem: str
    subject: str = ""
    verdict: str | None = None
    reasons: Iterable[str] = ()
    evidence: Iterable[Mapping[str, Any]] = ()
    digests: Mapping[str, Any] | None = None
    actor: str = "policy"
    model: str | None = None
    details: Mapping[str, Any] | None = None
    key: str | None = None
    expect: str | None = None

    def columns(self) -> JsonObject:
        """What is written of it, by column."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "expect"}

    def with_details(self, **more: Any) -> "Entry":
        """The same entry with more details."""
        return replace(self, details={**(self.details or {}), **more})


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
        The model decided on; for a promotion, a rollback and a fallback the champion from here on.
    details : dict
    key : str or None
        What makes a repeated decision recognisable, see `Entry`.
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
    evidence: list[EvidenceJson]
    digests: dict[str, str]
    actor: str
    model: str | None
    details: JsonObject
    key: str | None
    previous: str
    hash: str

    def to_dict(self) -> JsonObject:
        """The row in JSON's own types."""
        return plain(asdict(self))


ROW_COLUMNS = tuple(field.name for field in fields(Row))


def checked(entry: Entry, where: str) -> Entry:
    """The entry in JSON's own types.

    Parameters
    ----------
    where : str
        The ledger it is for, named by an error.

    Raises
    ------
    LedgerError
        A value that cannot be meant.
    """
    stated = entry.columns()
    row = plain({**stated, "digests": stated["digests"] or {}, "details": stated["details"] or {}})
    if isinstance(stated["reasons"], str):
        raise _bad("reasons", stated["reasons"], "a list of sentences", where)
    row |= {
        "reasons": plain(list(stated["reasons"])),
        "evidence": [_figure(figure, where) for figure in stated["evidence"]],
    }
    _one_of("kind", row["kind"], KINDS, where)
    if row["verdict"] is not None or row["kind"] == "gate":
        _one_of("verdict", row["verdict"], VERDICTS, where)
    for name in ("problem", "actor", *(["subject"] if row["kind"] == "gate" else [])):
        if not row[name]:
            raise _bad(name, row[name], "a name", where)
    for name in ("problem", "subject", "actor", "model", "key"):
        value = stated[name]
        if value is not None and not (isinstance(value, str) and _is_text(value)):
            raise _bad(name, value, "text", where)
    for name, kind in (("digests", dict), ("details", dict)):
        if not isinstance(row[name], kind):
            raise _bad(name, row[name], "names and values", where)
    if not all(isinstance(reason, str) for reason in row["reasons"]):
        raise _bad("reasons", row["reasons"], "a list of sentences", where)
    return Entry(**row, expect=entry.expect)


def _figure(stated: Any, where: str) -> EvidenceJson:
    """One figure of the evidence with all keys of `EVIDENCE`."""
    figure = plain(stated)
    if not isinstance(figure, dict) or not isinstance(figure.get("name"), str) or not figure["name"]:
        raise _bad("evidence", stated, "a figure with a name", where)
    if unknown := set(figure) - set(EVIDENCE):
        raise _bad(f"evidence {figure['name']!r}", sorted(unknown), "only " + ", ".join(EVIDENCE), where)
    for key in ("value", "low", "high", "threshold"):
        if not isinstance(figure.get(key), (int, float, type(None))):
            raise _bad(f"evidence {figure['name']!r} {key}", figure[key], "a number", where)
    if not isinstance(figure.get("unit"), (str, type(None))) or not isinstance(
        figure.get("passed"), (bool, type(None))
    ):
        raise _bad(f"evidence {figure['name']!r}", figure, "unit as text and passed as true or false", where)
    return {
        "name": figure["name"],
        "value": figure.get("value"),
        "unit": figure.get("unit"),
        "low": figure.get("low"),
        "high": figure.get("high"),
        "threshold": figure.get("threshold"),
        "passed": figure.get("passed"),
    }


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
