"""The grid of periods, and since when a champion answers: one rule for the turn, for monitoring and for pages.

Time is that of the data. In a project that lives, that is the machine's; in a history that is turned, the ledger's rows
are written years after the moments they decide on, and say those moments as `as_of`.
"""

import datetime as dt

from mlloop.core.errors import DataError, UsageError
from mlloop.problem import Problem, utc
from mlloop.store import champions
from mlloop.store.entries import SWAPS, Row
from mlloop.store.ledger import Ledger


def step(statement: Problem) -> dt.timedelta:
    """How long a period is."""
    return dt.timedelta(days=statement.retrain.every_days)


def start(statement: Problem, ledger: Ledger) -> dt.datetime:
    """Where the grid begins: the statement's as_of, else the day from which the first champion answered.

    Raises
    ------
    UsageError
        Neither is known.
    """
    if statement.time.as_of:
        return utc(statement.time.as_of)
    first = next(iter(ledger.rows(problem=statement.name, kind=SWAPS)), None)
    if first is None:
        step = champions.way_into_production(ledger, statement.name)
        raise UsageError("no model is in production and the statement names no as_of", statement.name, step)
    return dt.datetime.combine(since(statement, ledger, first).date(), dt.time())


def on_grid(statement: Problem, begin: dt.datetime, moment: dt.datetime) -> dt.datetime:
    """The last moment of the grid that is not after `moment`."""
    return begin + step(statement) * ((moment - begin) // step(statement))


def since(statement: Problem, ledger: Ledger, row: Row) -> dt.datetime:
    """From when on a promotion or a rollback holds.

    It is the `as_of` of the row. A row that a person caused has none: it holds from when it was written, where that
    lies in the period after the newest moment decided on before it, else from that moment. Before any was decided on,
    it is the moment of the run that trained the model, the statement's as_of, or when the row was written.
    """
    if row.details.get("as_of"):
        return utc(str(row.details["as_of"]))
    before = [
        utc(str(r.details["as_of"]))
        for r in ledger.rows(problem=row.problem)
        if r.id < row.id and r.details.get("as_of")
    ]
    if before:
        newest = max(before)
        return row.at if newest <= row.at < newest + step(statement) else newest
    is_first = ledger.rows(problem=row.problem, kind=SWAPS)[0].id == row.id
    stated = utc(statement.time.as_of) if is_first and statement.time.as_of else None
    return trained_at(ledger, row.problem, row.model) or stated or row.at


def trained_at(ledger: Ledger, problem: str, model: str | None) -> dt.datetime | None:
    """The moment of the run that trained a model, as its gate has it; None where the gate names none."""
    gate = ledger.last(problem=problem, kind="gate", subject="validation", model=model)
    moment = ((gate.details.get("parameters") or {}) if gate else {}).get("as_of")
    return utc(str(moment)) if moment else None


def champion_at(ledger: Ledger, statement: Problem, moment: dt.datetime) -> tuple[str, dt.datetime]:
    """The champion that answered until a moment, and since when; one promoted at that very moment did not yet.

    Raises
    ------
    DataError
        Nothing is in production.
    """
    rows = ledger.rows(problem=statement.name, kind=SWAPS)
    if not rows:
        raise DataError(
            "nothing is in production, so there is nothing to watch", statement.name, "Put a model there: mlloop run"
        )
    placed = [(since(statement, ledger, row), row) for row in rows]
    moment_of, row = next((pair for pair in reversed(placed) if pair[0] < moment), placed[-1])
    return str(row.model), moment_of
