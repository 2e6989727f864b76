"""What a history needs before it can be turned; asked before anything heavy is imported."""

from pathlib import Path

from mlloop.core.errors import UsageError
from mlloop.core.settings import Settings
from mlloop.pipeline.plan import Plan


def must_be_in_production(settings: Settings, plan: Plan) -> None:
    """Refuse a history without a model that could predict in it.

    Raises
    ------
    UsageError
        No model is in production.
    """
    file = settings.ledger_url.removeprefix("sqlite:///")
    if file == settings.ledger_url or Path(file).exists():
        from mlloop.store.ledger import Ledger

        if Ledger.open(settings).champion(plan.base) is not None:
            return
    raise UsageError("no model is in production", plan.base, f"Put one there: mlloop run --problem {plan.base}")
