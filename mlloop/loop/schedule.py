"""When a turn of the loop is due, and how it stands where none is; it loads no heavy library.

A scheduler calls `mlloop tick` more often than a turn is due. Most calls end here.
"""

import datetime as dt
from dataclasses import dataclass, field, replace

from mlloop import problem as problems
from mlloop.core import storage
from mlloop.core.records import EndedJson, JsonObject
from mlloop.core.settings import Settings
from mlloop.monitors import periods
from mlloop.pipeline import runner
from mlloop.pipeline.plan import Plan
from mlloop.problem import Problem, Recommendation
from mlloop.store.ledger import Ledger, Row

STEPS = ("collect", "monitor", "canary", "decide", "retrain")  # of a turn, for a scheduler that makes them one by one
NOT_DUE = "not due"  # the action where no turn has been made yet


@dataclass(frozen=True)
class Period:
    """[since, until): the time between two turns."""

    since: dt.datetime
    until: dt.datetime

    @property
    def name(self) -> str:
        """The day (and hour, where it is not midnight) it ends, which names its files."""
        return f"{self.until:%Y-%m-%d}" if self.until.time() == dt.time() else f"{self.until:%Y-%m-%dT%H%M%S}"


@dataclass(frozen=True)
class Turned:
    """How a turn ended.

    Attributes
    ----------
    at : str
        ISO.
    action, verdict, summary, change : str
        Of the decision, see `retraining.Decision`; the action is 'not due' where the first turn has not come yet.
    health : str
        What monitoring says of the model.
    alert : bool
        Whether somebody should look: feed broken, worse, a fallback, a retraining, or two challengers that failed in canary.
    champion, canary : str or None
        After the turn.
    answered : int
    ended : list of dict
        What came of a fallback, a canary and a retraining in this turn.
    fresh : bool
        Whether it had been decided before and nothing was left to do.
    seconds : dict of str to float
        By step.
    warnings : list of str
        What else went wrong and failed nothing: an address that an alert could not be sent to.
    due : str or None
        When the next turn is due, where none was; ISO.
    """

    problem: str
    at: str
    action: str
    verdict: str
    summary: str
    change: str
    health: str
    alert: bool
    champion: str | None
    canary: str | None
    answered: int
    ended: list[EndedJson]
    fresh: bool
    seconds: dict[str, float]
    warnings: list[str] = field(default_factory=list)
    due: str | None = None

    def to_dict(self) -> JsonObject:
        """The turn in JSON's types; `summary` is called 'said' there, as `--json` has had it."""
        return {"said" if name == "summary" else name: value for name, value in storage.plain(self).items()}


def decided(ledger: Ledger, problem: str) -> dict[dt.datetime, Row]:
    """The decision of each turn so far, by its moment."""
    rows = [
        row
        for row in ledger.rows(problem=problem, kind="retrain")
        if row.subject != "ended" and row.details.get("as_of") and not row.details.get("by_person")
    ]
    return {dt.datetime.fromisoformat(row.details["as_of"]): row for row in rows}


def begun(ledger: Ledger, problem: str) -> list[Row]:
    """The rows that began a retraining."""
    return [row for row in ledger.rows(problem=problem, kind="retrain", subject="retrain") if row.verdict == "yes"]


def unfinished(ledger: Ledger, problem: str) -> list[Row]:
    """The rows that began a retraining which has no end."""
    over = {row.details["as_of"] for row in ledger.rows(problem=problem, kind="retrain", subject="ended")}
    return [row for row in begun(ledger, problem) if row.details["as_of"] not in over]


def following(statement: Problem, ledger: Ledger) -> dt.datetime:
    """When the next turn is due: one step after the last one, or after the grid's beginning."""
    done = decided(ledger, statement.name)
    return (max(done) if done else periods.start(statement, ledger)) + periods.step(statement)


def due(statement: Problem, ledger: Ledger, now: dt.datetime) -> dt.datetime | None:
    """The moment of the next turn, if it has come."""
    at = following(statement, ledger)
    return at if at <= now else None


def shown_decision(ledger: Ledger, at: dt.datetime, row: Row, fell: bool = False) -> Turned:
    """A turn by the row of its decision, as made before; `fell`: whether production fell back in it, which is an alert too."""
    champion, canary = ledger.champion(row.problem), ledger.canary(row.problem)
    health = str(row.details.get("health", ""))
    is_alert = fell or row.subject in ("retrain", "feed broken", "failed twice") or health in ("worse", "feed broken")
    return Turned(
        row.problem, at.isoformat(), row.subject, str(row.verdict), row.reasons[0] if row.reasons else "", row.details.get("change", ""),
        health, is_alert, champion.model if champion else None, canary.model if canary else None, 0, [], True, {},
    )  # fmt: skip


def idle(settings: Settings, plan: Plan, now: dt.datetime) -> Turned | None:
    """How the problem stands where no turn is due and nothing is left of the last one; None where there is work to do."""
    if plan.revision or settings.alerts_to or not Ledger.is_there(settings):
        return None
    statement = problems.load(runner.statement_file(settings, plan))
    ledger = Ledger.open(settings)
    champion, canary = ledger.champion(statement.name), ledger.canary(statement.name)
    if champion is None or (statement.task.kind != "recommendation" and statement.time.column is None):
        return None
    at = following(statement, ledger)
    if at <= now or unfinished(ledger, statement.name):
        return None
    models = [str(row.model) for row in (champion, canary) if row is not None]
    done = decided(ledger, statement.name)
    if not done:
        begins = at - periods.step(statement)
        return Turned(
            statement.name, begins.isoformat(), NOT_DUE, "no", f"nothing is due until {at:%Y-%m-%d %H:%M} UTC, the first turn",
            "", "", False, models[0], canary.model if canary else None, 0, [], True, {}, due=at.isoformat(),
        )  # fmt: skip
    last = max(done)
    row = done[last]
    if not _is_finished(settings, plan, statement, ledger, last, models):
        return None
    return replace(shown_decision(ledger, last, row), due=at.isoformat())


def _is_finished(
    settings: Settings, plan: Plan, statement: Problem, ledger: Ledger, at: dt.datetime, models: list[str]
) -> bool:
    """Whether all that follows a turn's decision was done: its page comes last, and counts may follow a promotion."""
    page = settings.state / "turns" / plan.problem / Period(at, at).name / "retraining.json"
    if not page.exists():
        return False
    if not isinstance(statement.task, Recommendation) or not statement.retrain.update_counts:
        return True
    updates = ledger.rows(problem=statement.name, kind="update")
    counted = {row.model for row in updates if row.details.get("as_of") == at.isoformat()}
    return counted >= set(models)
