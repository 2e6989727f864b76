"""The rules of production: who is champion, which canary is on, and what an entry that changes either must keep to.

Nothing is stored apart from the rows: the champion is the model of the last promotion, rollback or fallback. A rule sees the
rows inside the transaction that adds the entry, so that two deciders cannot both win.
"""

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from mlloop.core import revisions
from mlloop.core.errors import LedgerError, PromotionRefused
from mlloop.store.entries import SWAPS, Entry, Row

CANARY = {"started": None, "promoted": "yes", "rolled_back": "no"}  # subject of a canary's row: its verdict
SEE_LOG = "See what happened: mlloop log"


class Rows(Protocol):
    """The ledger's rows as one transaction sees them."""

    @property
    def where(self) -> str: ...

    def select(
        self,
        *,
        problem: str | None = None,
        kind: str | Iterable[str] | None = None,
        subject: str | None = None,
        model: str | None = None,
        at: dt.datetime | None = None,
    ) -> list[Row]:
        """Such rows, in the order they were written."""

    def last(
        self,
        *,
        problem: str | None = None,
        kind: str | Iterable[str] | None = None,
        subject: str | None = None,
        model: str | None = None,
        at: dt.datetime | None = None,
    ) -> Row | None:
        """The latest such row."""


def champion(rows: Rows, problem: str, at: dt.datetime | None = None) -> Row | None:
    """The row that made the champion (its `model`), now or as of `at`."""
    return rows.last(problem=problem, kind=SWAPS, at=at)


class Latest(Protocol):
    """Something that finds the latest row: a ledger, or the rows of a transaction."""

    def last(self, *, problem: str, kind: str) -> Row | None:
        """The latest such row."""


def way_into_production(rows: "Latest | None", problem: str) -> str:
    """The next step where no model is in production, by what the last gate said; `problem` may name a revision."""
    gate = rows.last(problem=revisions.problem_of(problem), kind="gate") if rows is not None else None
    if gate and (gate.subject, gate.verdict) == ("validation", "maybe"):
        return f"The validation gate said Maybe, and a person decides: mlloop promote --problem {problem}"
    if gate and gate.verdict == "no":
        return f"The {gate.subject} gate said No. See what must change: mlloop run --problem {problem}"
    return f"Put one there: mlloop run --problem {problem}"


def canary(rows: Rows, problem: str, at: dt.datetime | None = None) -> Row | None:
    """The row that started the canary that is on: until it is ended, or the champion changes other than by a fallback."""
    last = rows.last(problem=problem, kind=("canary", "promotion", "rollback"), at=at)
    return last if last and last.kind == "canary" and last.subject == "started" else None


def earlier(rows: Rows, problem: str) -> list[str]:
    """The champions that a rollback can go back to, the latest last."""
    stack: list[str] = []
    for row in rows.select(problem=problem, kind=SWAPS):
        if row.kind != "promotion" and row.model in stack:  # going back takes off those above
            del stack[stack.index(row.model) + 1 :]
        else:
            stack.append(str(row.model))
    return stack[:-1]


def completed(entry: Entry, where: str) -> Entry:
    """The entry with the subject and the verdict that its kind has.

    Raises
    ------
    LedgerError
        A promotion, a fallback or a canary without a model, a rollback or fallback that expects nobody, or a canary's row of another subject.
    """
    if entry.kind in ("promotion", "canary", "fallback") and not entry.model:
        raise LedgerError(f"model of a {entry.kind} is {entry.model!r}, expected a digest", where, SEE_LOG)
    if entry.kind == "promotion":
        return replace(entry, subject=entry.model or "", verdict="yes")
    if entry.kind in ("rollback", "fallback"):
        if not entry.expect:
            raise LedgerError(f"expect of a {entry.kind} is None, expected the champion", where, SEE_LOG)
        return replace(entry, subject=entry.expect, verdict="no")
    if entry.kind == "canary":
        if entry.subject not in CANARY:
            raise LedgerError(
                f"subject of a canary is {entry.subject!r}, expected one of {', '.join(CANARY)}", where, SEE_LOG
            )
        return replace(entry, verdict=CANARY[entry.subject])
    return entry


def ruled(rows: Rows, entry: Entry) -> list[Entry]:
    """The entries to write for `entry`, by the rule of its kind.

    Raises
    ------
    PromotionRefused
        Somebody else is champion (the message says who and since when), or what the entry's kind asks for is missing.
    """
    return _RULES[entry.kind](rows, entry) if entry.kind in _RULES else [entry]


def _promotion(rows: Rows, entry: Entry) -> list[Entry]:
    """The model may be promoted; a canary that is on ends with it."""
    _promotable(rows, entry)
    return [entry.with_details(**_ends_canary(rows, entry.problem), was=entry.expect)]


def _promotable(rows: Rows, entry: Entry) -> None:
    """The champion is still the one expected, the model is another, and its validation gate said yes."""
    reigning = _expected(rows, entry)
    if reigning and reigning.model == entry.model:
        raise _refused(rows, _already(reigning))
    _validated(rows, entry)


def _rollback(rows: Rows, entry: Entry) -> list[Entry]:
    """The champion is still the one expected, and goes back to another that was not itself rolled back."""
    reigning = _expected(rows, entry)
    if reigning and reigning.model == entry.model:  # it was champion before others too
        raise _refused(rows, _already(reigning))
    known = earlier(rows, entry.problem)
    if not known or (entry.model is not None and entry.model not in known):
        names = ", ".join(repr(name) for name in known) or "none"
        goal = entry.model or "an earlier champion"
        raise _refused(rows, f"{entry.problem!r} cannot go back to {goal} (earlier champions: {names})")
    back = replace(entry, model=entry.model or known[-1])
    return [back.with_details(**_ends_canary(rows, entry.problem), was=entry.expect)]


def _fallback(rows: Rows, entry: Entry) -> list[Entry]:
    """The champion is still the one expected, and who takes its place is known here; a canary that is on goes on.

    Known is a rule whose release a row cites, an earlier champion, and a model that its gate judged, whatever it said:
    the best there is stands in until something passes.
    """
    reigning = _expected(rows, entry)
    if reigning and reigning.model == entry.model:
        raise _refused(rows, _already(reigning))
    known = rows.last(problem=entry.problem, kind=("gate", *SWAPS), model=entry.model)
    cited = rows.select(problem=entry.problem, kind=("promotion", "canary", "revision"))
    if known is None and not any((row.details.get("rule") or {}).get("model") == entry.model for row in cited):
        what = f"{entry.model!r} is no rule kept ready for {entry.problem!r}, never was its champion, and no gate judged it"
        raise _refused(rows, what)
    return [entry.with_details(was=entry.expect)]


def _canary(rows: Rows, entry: Entry) -> list[Entry]:
    return _canary_start(rows, entry) if entry.subject == "started" else _canary_end(rows, entry)


def _canary_start(rows: Rows, entry: Entry) -> list[Entry]:
    """There is a champion to compare with, no other canary is on, and the model's validation gate said yes."""
    reigning = _expected(rows, entry)
    if reigning is None:
        raise _refused(
            rows, f"{entry.problem!r} has no champion to compare a canary with", "Promote it: mlloop promote"
        )
    if reigning.model == entry.model:
        raise _refused(rows, _already(reigning))
    if on := canary(rows, entry.problem):
        raise _refused(rows, f"{on.model!r} is canary of {entry.problem!r} since {_second(on.at)}")
    _validated(rows, entry)
    return [entry.with_details(champion=reigning.model)]


def _canary_end(rows: Rows, entry: Entry) -> list[Entry]:
    """The model is the canary; where it is promoted it is champion in the same transaction."""
    on = canary(rows, entry.problem)
    if on is None or on.model != entry.model:
        current = on.model if on else None
        raise _refused(rows, f"{entry.model!r} is not canary of {entry.problem!r} ({current!r} is)")
    if entry.subject != "promoted":
        return [entry]
    promotion = replace(entry, kind="promotion", subject=on.model or "", key=None, expect=_beside(rows, on))
    _promotable(rows, promotion)
    return [entry, promotion.with_details(was=promotion.expect)]


_RULES: dict[str, Callable[[Rows, Entry], list[Entry]]] = {
    "promotion": _promotion,
    "rollback": _rollback,
    "fallback": _fallback,
    "canary": _canary,
}


def _beside(rows: Rows, on: Row) -> str:
    """The champion that a canary is compared with: the one it began beside, or who took its place by a fallback."""
    fallen = rows.last(problem=on.problem, kind="fallback")
    return str(fallen.model) if fallen and fallen.id > on.id else on.details["champion"]


def _expected(rows: Rows, entry: Entry) -> Row | None:
    """The champion, if it is the one that the entry was decided against."""
    reigning = champion(rows, entry.problem)
    if (reigning.model if reigning else None) != entry.expect:
        now = f"{reigning.model!r} since {_second(reigning.at)}" if reigning else "nobody"
        raise _refused(rows, f"champion of {entry.problem!r} is {now}, the decision was taken against {entry.expect!r}")
    return reigning


def _validated(rows: Rows, entry: Entry) -> None:
    """The model's last validation gate said yes (a maybe is for a person to decide), of this very file."""
    gate = rows.last(problem=entry.problem, kind="gate", subject="validation", model=entry.model)
    by_person = gate is not None and gate.verdict == "maybe" and entry.actor != "policy"
    if gate is None or not (gate.verdict == "yes" or by_person):
        outcome = f"said {gate.verdict} (row {gate.id})" if gate else "has not been asked"
        raise _refused(
            rows,
            f"the validation gate of {entry.problem!r} {outcome} of {entry.model!r}",
            "Ask it: mlloop gate validation",
        )
    judged, offered = gate.digests.get("model"), (entry.digests or {}).get("model")
    if judged and offered and judged != offered:
        raise _refused(
            rows,
            f"the validation gate (row {gate.id}) judged model file {judged[:12]}..., got {offered[:12]}...",
            "Ask it of this file: mlloop gate validation",
        )


def _ends_canary(rows: Rows, problem: str) -> dict[str, str]:
    on = canary(rows, problem)
    return {"ended_canary": on.model} if on and on.model else {}


def _already(reigning: Row) -> str:
    return f"{reigning.model!r} is champion of {reigning.problem!r} already, since {_second(reigning.at)}"


def _second(moment: dt.datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _refused(rows: Rows, what: str, next_step: str = SEE_LOG) -> PromotionRefused:
    return PromotionRefused(what, rows.where, next_step)
