"""What a history needs before it can be turned; asked before anything heavy is imported."""

import datetime as dt
import json

from mlloop.core import revisions
from mlloop.core.errors import UsageError
from mlloop.core.settings import Settings
from mlloop.pipeline.plan import Plan


def must_be_in_production(settings: Settings, plan: Plan | str) -> None:
    """Refuse a history without a model that could predict in it.

    Parameters
    ----------
    plan : Plan or str
        The problem's plan, or its name.

    Raises
    ------
    UsageError
        No model is in production.
    """
    from mlloop.store import champions
    from mlloop.store.ledger import Ledger

    problem, ledger = plan if isinstance(plan, str) else plan.base, None
    if Ledger.is_there(settings):
        ledger = Ledger.open(settings)
        if ledger.champion(revisions.problem_of(problem)) is not None:
            return
    raise UsageError("no model is in production", problem, champions.way_into_production(ledger, problem))


def last_end(settings: Settings, plan: Plan) -> dt.datetime:
    """The moment that the last history was turned to.

    Raises
    ------
    UsageError
        None was.
    """
    file = settings.state / "history" / plan.problem / "history.json"
    if not file.exists():
        raise UsageError(
            "no history was turned yet, so its end is not known",
            plan.base,
            f"Say until when: mlloop backtest --problem {plan.base} --until TIME",
        )
    return dt.datetime.fromisoformat(json.loads(file.read_text(encoding="utf-8"))["until"])
