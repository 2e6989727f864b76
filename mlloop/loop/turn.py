"""One turn of the loop, for a scheduler: bring the data, answer, watch, judge the canary, decide, retrain.

A turn stands at a moment of the problem's grid and is done once: its decision is a row of the ledger under a key. Every
step leaves the same behind when it is done again, so a turn that was killed is turned again from its beginning: what is
there is found there.
"""

import contextlib
import datetime as dt
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlloop import deployment, products, retraining
from mlloop import problem as problems
from mlloop.core import extensions as own
from mlloop.core import metrics, storage
from mlloop.core import settings as _settings
from mlloop.core.errors import GateClosed, MlloopError, UsageError
from mlloop.core.settings import Settings
from mlloop.core.verdict import number
from mlloop.loop import arrivals
from mlloop.loop.arrivals import Period
from mlloop.monitors import standing
from mlloop.pipeline import plan as plans
from mlloop.pipeline import runner
from mlloop.pipeline.plan import Plan
from mlloop.problem import Problem, utc
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger, Row

ENTERED = (
    "problem", "collection", "ingestion", "transformation", "features", "training", "evaluation", "validation_gate", "deployment",
)  # fmt: skip
EXPLORED = ("exploration", "building")
MAX_FAILURES = 2
Watch = Callable[[str], None]


@dataclass
class Place:
    """What turns work on: a project held for one problem.

    Attributes
    ----------
    settings, plan, statement, ledger
    lake : Lake
    lock : int or None
        What `runner.hold` gave.
    pool : kernels.Pool or None
        Warm kernels.
    watch : callable
        Told in a word what is being done.
    """

    settings: Settings
    plan: Plan
    statement: Problem
    ledger: Ledger
    lake: Any
    lock: int | None = None
    pool: Any = None
    watch: Watch = lambda word: None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.statement.name

    def folder(self, kind: str) -> Path:
        return self.settings.state / kind / self.plan.problem

    @contextlib.contextmanager
    def step(self, word: str) -> Iterator[None]:
        """Tell of a step and measure it."""
        self.watch(word)
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[word] = round(self.seconds.get(word, 0.0) + time.monotonic() - began, 3)


@dataclass(frozen=True)
class Turned:
    """How a turn ended.

    Attributes
    ----------
    at : str
        ISO.
    action, verdict, said, change : str
        Of the decision, see `retraining.Decision`.
    health : str
        What monitoring says of the model.
    alert : bool
        Whether somebody should look: feed broken, worse, a fallback, or a retraining.
    champion, canary : str or None
        After the turn.
    answered : int
    ended : list of dict
        What came of a fallback, a canary and a retraining in this turn.
    fresh : bool
        Whether it had been decided before and nothing was left to do.
    seconds : dict of str to float
        By step.
    """

    problem: str
    at: str
    action: str
    verdict: str
    said: str
    change: str
    health: str
    alert: bool
    champion: str | None
    canary: str | None
    answered: int
    ended: list[dict[str, Any]]
    fresh: bool
    seconds: dict[str, float]


# ------------------------------------------------------------------------------------------------ the grid


def start_of(statement: Problem, ledger: Ledger) -> dt.datetime:
    """Where the problem's time begins: the statement's as_of, else the day its first champion was made.

    Raises
    ------
    UsageError
        Neither.
    """
    if statement.time.as_of:
        return utc(statement.time.as_of)
    rows = ledger.rows(problem=statement.name, kind="promotion")
    if not rows:
        raise UsageError(
            "no model is in production and the statement names no as_of", statement.name, "Put one there: mlloop run"
        )
    return dt.datetime.combine(rows[0].at.date(), dt.time())


def decided(ledger: Ledger, problem: str) -> dict[dt.datetime, Row]:
    """The decision of each turn so far, by its moment."""
    rows = [
        row
        for row in ledger.rows(problem=problem, kind="retrain")
        if row.subject != "ended" and row.details.get("as_of") and not row.details.get("by_person")
    ]
    return {dt.datetime.fromisoformat(row.details["as_of"]): row for row in rows}


def on_grid(statement: Problem, start: dt.datetime, moment: dt.datetime) -> dt.datetime:
    """The last moment of the grid that is not after `moment`."""
    step = dt.timedelta(days=statement.retrain.every_days)
    return start + step * ((moment - start) // step)


def due(statement: Problem, ledger: Ledger, now: dt.datetime) -> dt.datetime | None:
    """The moment of the next turn, if it has come: one step after the last one."""
    start, step = start_of(statement, ledger), dt.timedelta(days=statement.retrain.every_days)
    done = decided(ledger, statement.name)
    following = (max(done) if done else start) + step
    return following if following <= now else None


def chosen(place: "Place", now: dt.datetime, exact: bool = False) -> dt.datetime:
    """The moment of the turn to make at `now`: the next that is due, else the last one decided.

    Parameters
    ----------
    exact : bool
        Whether `now` was asked for: then the last moment of the grid up to it, decided or not.

    Raises
    ------
    UsageError
        The first turn is not due yet.
    """
    start = start_of(place.statement, place.ledger)
    at = on_grid(place.statement, start, now) if exact else due(place.statement, place.ledger, now)
    at = at or max(decided(place.ledger, place.name), default=None)
    if at is None:
        raise UsageError(
            f"the first turn is due {place.statement.retrain.every_days} days after {start:%Y-%m-%d}",
            place.name,
            f"Wait, or give a later moment: mlloop tick --problem {place.name} --at TIME",
        )
    return at


def last_period(place: "Place", now: dt.datetime, exact: bool = False) -> Period:
    """The last whole period at `now`, that of the turn of `chosen`; before the first turn is due the one before it."""
    start = start_of(place.statement, place.ledger)
    at = on_grid(place.statement, start, now) if exact else due(place.statement, place.ledger, now)
    at = at or max(decided(place.ledger, place.name), default=start)
    return Period(at - dt.timedelta(days=place.statement.retrain.every_days), at)


# ------------------------------------------------------------------------------------------------ opening


@contextlib.contextmanager
def opened(
    settings: Settings, plan: Plan, command: str = "mlloop tick", watch: Watch = lambda word: None
) -> Iterator[Place]:
    """Hold the project for turns of one problem, with warm kernels; what was begun and not ended is ended first.

    Raises
    ------
    ProjectBusy
    UsageError
        The problem's rows have no time.
    """
    from mlloop.kernels import execute
    from mlloop.store.lake import Lake

    statement = arrivals.normal(problems.load(runner.statement_file(settings, plan)))
    own.bring_in(settings.root)
    if isinstance(statement.task, problems.Tabular) and statement.time.column is None:
        raise UsageError(
            "its rows have no time, so nothing can be said of a period, of drift or of when to retrain",
            str(runner.statement_file(settings, plan)),
            "Name the column that says when a row happened: time: {column: ...}; until then: mlloop run",
        )
    with runner.hold(settings, command) as lock, execute.pool(settings) as pool:
        ledger = Ledger.open(settings)
        place = Place(settings, plan, statement, ledger, Lake(settings).on_duckdb(), lock, pool, watch)
        for folder in ("turns", "monitoring", "predictions"):
            storage.sweep(settings.state / folder)
        deployment.follow(settings, ledger)
        yield place


@contextlib.contextmanager
def copied(settings: Settings) -> Iterator[Settings]:
    """A copy of the project's state in which nothing that is done counts: what a dry run works on.

    Raises
    ------
    UsageError
        The lake or the ledger is not on this disk.
    """
    here = [settings.lake_uri, settings.ledger_url.removeprefix("sqlite:///")]
    if not all(Path(one).is_relative_to(settings.state) for one in here):
        raise UsageError(
            "a dry run copies lake and ledger, and they are not in the state folder",
            str(settings.state),
            "Try it on a copy of the project",
        )
    with tempfile.TemporaryDirectory(prefix="mlloop-dry-") as folder:
        state = Path(folder, "state")
        skip = shutil.ignore_patterns("artifacts", "debug", "failed", "replays", "kernels*", "*.sock", "run.lock")
        shutil.copytree(settings.state, state, ignore=skip, symlinks=True)
        inside = lambda path: str(state / Path(path).relative_to(settings.state))
        given = {
            "MLLOOP_PATHS_STATE": str(state),
            "MLLOOP_LAKE_URI": inside(settings.lake_uri),
            "MLLOOP_LEDGER_URL": f"sqlite:///{inside(here[1])}",
            "MLLOOP_TRACKING_URL": f"sqlite:///{state / 'mlflow.db'}",
            "MLLOOP_TRACKING_ARTIFACTS": str(state / "artifacts"),
        }
        before = {name: os.environ.get(name) for name in given}
        os.environ.update(given)
        try:
            yield _settings.load(settings.root)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


# ------------------------------------------------------------------------------------------------ the turn


def turn(place: Place, at: dt.datetime, launch: bool = True, pages: bool = True) -> Turned:
    """Turn the loop once, at `at`.

    Parameters
    ----------
    launch : bool
        False: decide, and do not retrain (a dry run).
    pages : bool
        Whether to run the notebook that shows the decision.

    Raises
    ------
    UsageError
        No model is in production.
    StageFailed
        Monitoring, or the retraining, failed; the turn goes on with the next call.
    """
    place.seconds = {}
    ended = resume(place) if launch else []
    row = decided(place.ledger, place.name).get(at)
    if row is not None:
        return _turned(place, at, row, 0, ended, fresh=not ended)
    if place.ledger.champion(place.name) is None:
        raise UsageError(
            "no model is in production", place.name, f"Put one there: mlloop run --problem {place.plan.problem}"
        )
    period = Period(at - dt.timedelta(days=place.statement.retrain.every_days), at)
    with place.step("data"):
        came = arrivals.bring(place.settings, place.lake, place.statement, period)
        storage.write_json(place.folder("turns") / period.name / "ingestion.json", storage.plain(came))
    with place.step("answers"):
        counts = arrivals.answer(place.settings, place.ledger, place.lake, place.statement, period)
    with place.step("monitoring"):
        monitored(place, period, pages)
    with place.step("standing"):
        ended += stood_in(place, period)
    with place.step("canary"):
        ended += judged(place, period)
    with place.step("decision"):
        row = decide(place, period)
    if row.verdict == "yes" and launch:
        ended += retrain(place, row)
    if pages:
        with place.step("page"):
            show(place, period)
    return _turned(place, at, row, counts["answered"], ended, fresh=False)


def _turned(place: Place, at: dt.datetime, row: Row, answered: int, ended: list[dict[str, Any]], fresh: bool) -> Turned:
    champion, canary = place.ledger.champion(place.name), place.ledger.canary(place.name)
    health = str(row.details.get("health", ""))
    fell = any(one["what"] == "fallback" for one in ended)
    alert = fell or row.subject in ("retrain", "feed broken") or health in ("worse", "feed broken")
    return Turned(
        place.name, at.isoformat(), row.subject, str(row.verdict), row.reasons[0] if row.reasons else "", row.details.get("change", ""),
        health, alert, champion.model if champion else None, canary.model if canary else None, answered, ended, fresh, dict(place.seconds),
    )  # fmt: skip


def looked_at(place: Place, period: Period) -> Path:
    """The product of monitoring for a period, with what it needs brought first; nothing is decided.

    Raises
    ------
    UsageError
        No model is in production.
    """
    if place.ledger.champion(place.name) is None:
        raise UsageError(
            "no model is in production", place.name, f"Put one there: mlloop run --problem {place.plan.problem}"
        )
    if not (place.folder("monitoring") / f"{period.name}.json").exists():
        with place.step("data"):
            came = arrivals.bring(place.settings, place.lake, place.statement, period)
            storage.write_json(place.folder("turns") / period.name / "ingestion.json", storage.plain(came))
        with place.step("answers"):
            arrivals.answer(place.settings, place.ledger, place.lake, place.statement, period)
    with place.step("monitoring"):
        return monitored(place, period)


def monitored(place: Place, period: Period, page: bool = True) -> Path:
    """The product of monitoring for the period, made where it is not there: by its notebook, or by what that calls.

    Parameters
    ----------
    page : bool
        False: without the executed notebook, which saves a kernel and its imports.
    """
    path = place.folder("monitoring") / f"{period.name}.json"
    if path.exists() and (path.with_suffix(".ipynb").exists() or not page):
        return path
    if page:
        run_notebook(place, "25_monitoring", path, {"as_of": period.until.isoformat()})
        return path
    from mlloop import monitoring

    statement = problems.load(runner.statement_file(place.settings, place.plan))
    found = monitoring.observe(statement, monitoring.gather(place.settings, place.ledger, statement, period.until))
    products.save_product({"data": str(path)}, stage="monitoring", **found)
    return path


def run_notebook(place: Place, name: str, path: Path, given: dict[str, Any]) -> None:
    """Execute the Run act of a notebook that is no stage of the pipeline; its product and page material lie at `path`.

    The product is there only when the notebook has run to its end.
    """
    from mlloop.kernels import execute

    source = place.settings.notebooks / f"{name}.ipynb"
    task = plans.Task(name.partition("_")[2], source, (), {}, {}, False)
    shown = path.with_suffix(".ipynb")
    beside = path.with_name(f".{path.stem}.{os.getpid()}.part.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    asked = {
        "problem": str(place.plan.parameters["problem"]),
        "sample": 1.0,
        "seed": place.plan.parameters.get("seed", 0),
        **given,
    }
    known = plans.parameter_names("\n".join(plans.parameters_cells(source)))
    try:
        execute.execute(
            runner.run_act(task),
            beside.with_suffix(".ipynb"),
            cwd=place.settings.root,
            env={"MLLOOP_PROJECT": str(place.settings.root)},
            parameters={
                k: v for k, v in {**asked, "product": {"nb": str(shown), "data": str(beside)}}.items() if k in known
            },
            settings=place.settings,
            pool=place.pool,
            pass_fds=(place.lock,) if place.lock is not None else (),
        )
        os.replace(beside.with_suffix(".ipynb"), shown)
        if not path.exists():  # what was decided on stays as it was
            os.replace(beside, path)
    finally:
        storage.remove(beside)
        storage.remove(beside.with_suffix(".ipynb"))


# ------------------------------------------------------------------------------------------------ who answers


def stood_in(place: Place, period: Period) -> list[dict[str, Any]]:
    """Let the rule, or an earlier champion, answer from now on where the labels that had come show that it is surely better.

    A canary that is on goes on, beside whoever answers now.
    """
    done = [row for row in fallbacks(place) if row.details.get("as_of") == period.until.isoformat()]
    champion = place.ledger.champion(place.name)
    if done or champion is None:
        return [_told_of(row) for row in done]
    found = standing.stand_in(
        place.statement, history(place, period.until), champion.model, since_of(place, champion).isoformat()
    )
    if found is None or found.model == champion.model:
        return []
    release = deployment.load_release(place.settings, place.ledger, place.name, found.model)
    row = fall_back(
        place, period.until, found.model, release.digest, found.kind, found.name, [found.said], found.evidence
    )
    return [_told_of(row)]


def fall_back(
    place: Place,
    at: dt.datetime,
    model: str,
    release: str,
    to: str,
    name: str,
    reasons: list[str],
    evidence: Sequence[Any] = (),
) -> Row:
    """Write the row after which `model` answers; MLflow's aliases follow."""
    champion = place.ledger.champion(place.name)
    assert champion is not None
    row = place.ledger.append(Entry("fallback", place.name, model=model, expect=str(champion.model), reasons=reasons, evidence=evidence, digests={"model": model, "release": release}, details={"as_of": at.isoformat(), "to": to, "name": name}, key=storage.digest_json(["fallback", place.name, at.isoformat(), to])))  # fmt: skip
    deployment.follow(place.settings, place.ledger)
    return row


def fallbacks(place: Place) -> list[Row]:
    """The rows in which production fell back, the oldest first."""
    return place.ledger.rows(problem=place.name, kind="fallback")


def _told_of(row: Row) -> dict[str, Any]:
    return {"what": "fallback", "model": row.model, "outcome": row.details["to"], "reasons": row.reasons}


def judged(place: Place, period: Period) -> list[dict[str, Any]]:
    """Judge the canary that is on by the labels that had come; what became of it, [] where it goes on."""
    on = place.ledger.canary(place.name)
    since = dt.datetime.fromisoformat(on.details["since"]) if on else None
    if on is None or since is None or since > period.until:
        return []
    early = 0 if isinstance(place.statement.task, problems.Recommendation) else place.statement.time.label_delay_days
    truth = arrivals.labels(place.lake, place.statement, since - dt.timedelta(days=early), period.until)
    trial = deployment.judge(place.settings, place.ledger, place.statement, truth, now=period.until)
    if trial is None or trial.outcome is None:
        return []
    return [{"what": "canary", "model": on.model, "outcome": trial.outcome, "reasons": trial.reasons}]


# ------------------------------------------------------------------------------------------------ deciding


def history(place: Place, until: dt.datetime) -> list[dict[str, Any]]:
    """The products of monitoring of the periods that had ended at `until`, the oldest first."""
    found = [products.load_kept(path) for path in sorted(place.folder("monitoring").glob("[!.]*.json"))]
    return sorted((one for one in found if utc(one["as_of"]) <= until), key=lambda one: one["as_of"])


def begun(ledger: Ledger, problem: str) -> list[Row]:
    """The rows that began a retraining."""
    return [row for row in ledger.rows(problem=problem, kind="retrain", subject="retrain") if row.verdict == "yes"]


def facts(place: Place, at: dt.datetime) -> retraining.Facts:
    """What the policy knows besides monitoring, from ledger, lake and the champion's own evaluation."""
    from mlloop.monitors import evidence

    champion, canary = place.ledger.champion(place.name), place.ledger.canary(place.name)
    if canary and dt.datetime.fromisoformat(canary.details["since"]) > at:
        canary = None
    trained = judged_product(place, champion.model if champion else None, "training")
    evaluated = judged_product(place, champion.model if champion else None, "evaluation")
    learnt = (trained.get("trained") or {}).get("until")
    earlier = sorted(dt.datetime.fromisoformat(row.details["as_of"]) for row in begun(place.ledger, place.name))
    ended = place.ledger.rows(problem=place.name, kind="retrain", subject="ended")
    refused = [
        dt.datetime.fromisoformat(row.details["as_of"]) for row in ended if row.details.get("outcome") == "gate said no"
    ]
    stands_in = champion.details.get("to") if champion and champion.kind == "fallback" else None
    return retraining.Facts(
        now=at,
        champion=champion.model if champion else None,
        since=since_of(place, champion) if champion else None,
        trained=evidence.trained_at(place.ledger, place.name, champion.model) if champion else None,
        canary=canary.model if canary else None,
        canary_until=canary.details.get("deadline", "") if canary else "",
        begun=tuple(one for one in earlier if one < at),
        new_labelled_rows=arrivals.labelled_rows(place.lake, place.statement, utc(learnt) if learnt else None, at),
        fallen=stands_in if stands_in in ("rule", "challenger") else None,
        attempt=last_attempt(place, ended, at),
        refused=tuple(sorted(refused)),
        rate=retraining.exchange_rate(evaluated, place.statement.success.metric) if evaluated else None,
    )


def last_attempt(place: Place, ended: Sequence[Row], at: dt.datetime) -> dict[str, Any] | None:
    """The last retraining, where it did not come to answer and none was let in after it; with the labels that came since."""
    last = next((row for row in reversed(ended) if row.details.get("attempt")), None)
    if last is None or dt.datetime.fromisoformat(last.details["as_of"]) >= at:
        return None
    let_in = place.ledger.last(problem=place.name, kind="promotion")
    if let_in is not None and (let_in.id > last.id or let_in.model == last.model):
        return None
    until = dt.datetime.fromisoformat(last.details["attempt"]["until"])
    new = arrivals.labelled_rows(place.lake, place.statement, until, at)
    return {**last.details["attempt"], "at": last.details["as_of"], "new": new}


def since_of(place: Place, row: Row) -> dt.datetime:
    """When a model became champion, by the history's clock: that of its turn, else not after the statement's as_of."""
    if row.details.get("as_of"):
        return dt.datetime.fromisoformat(row.details["as_of"])
    stands = place.statement.time.as_of
    return min(row.at, utc(stands)) if stands else row.at


def judged_product(place: Place, model: str | None, stage: str) -> dict[str, Any]:
    """The product of a stage that the validation gate read when it let `model` pass; {} where it is not kept."""
    gate = place.ledger.last(problem=place.name, kind="gate", subject="validation", model=model) if model else None
    digest = gate.digests.get(f"stage {stage}") if gate else None
    path = place.settings.state / "objects" / f"{digest}.json"
    return products.load_kept(path) if digest and path.exists() else {}


def decide(place: Place, period: Period) -> Row:
    """Decide, keep what was decided on, and write the decision's row; the row that is there, where it is."""
    known, seen = facts(place, period.until), history(place, period.until)
    decision = retraining.decide(place.statement, seen, known)
    files = {path.stem: path for path in place.folder("monitoring").glob("[!.]*.json")}
    newest = seen[-1] if seen else {}
    kept = {
        "statement": place.statement,
        "facts": known,
        "decision": decision,
        "events": events(place, period.until),
        "history": [
            str(files[name]) for name in sorted(files) if utc(storage.read_json(files[name])["as_of"]) <= period.until
        ],
    }
    storage.write_json(place.folder("turns") / period.name / "decision.json", storage.plain(kept))
    own = files.get(period.name)
    return place.ledger.append(
        Entry(
            "retrain",
            place.name,
            subject=decision.action,
            verdict=decision.verdict,
            reasons=[decision.said],
            evidence=decision.evidence,
            digests={"monitoring": storage.digest_file(own) if own else None, "model": known.champion},
            model=known.champion,
            details={
                "as_of": period.until.isoformat(),
                "from": period.since.isoformat(),
                "change": decision.change,
                "worse_since": worse_since(place, seen, period.until),
                "health": newest.get("health", ""),
                "health_said": newest.get("said", ""),
            },
            key=storage.digest_json(["tick", place.name, period.until.isoformat()]),
        )
    )


def worse_since(place: Place, seen: list[dict[str, Any]], at: dt.datetime) -> str | None:
    """Since when (ISO) the model in production, or the one that fell, is worse than it was; None where it is not."""
    champion = place.ledger.champion(place.name)
    if champion is None:
        return None
    fell = champion.kind == "fallback" and champion.details.get("to") in ("rule", "challenger")
    model = (
        next((row.subject for row in reversed(fallbacks(place)) if row.details["to"] == "rule"), champion.model)
        if fell
        else champion.model
    )
    since = retraining.worse_since(place.statement, seen, model)
    if since is None and fell:  # worse than the rule and not than its own reference: since the fall
        since = (since_of(place, champion) - dt.timedelta(days=place.statement.retrain.every_days)).isoformat()
    return since


def events(place: Place, until: dt.datetime) -> list[dict[str, str]]:
    """What happened so far, for figures: as_of and word."""
    words = {"retrain": "retrain", "promoted": "promoted", "rolled_back": "rolled back", "feed broken": "feed broken"}
    fell = {
        "rule": "fell back to the rule",
        "former": "back to an earlier model",
        "challenger": "refused challenger stands in",
    }
    rows = place.ledger.rows(problem=place.name, kind=("retrain", "canary", "fallback"))
    word = lambda row: fell.get(row.details.get("to")) if row.kind == "fallback" else words.get(row.subject)
    found = [
        {"as_of": row.details["as_of"], "word": word(row)} for row in rows if word(row) and row.details.get("as_of")
    ]
    return [one for one in found if utc(one["as_of"]) <= until]


def show(place: Place, period: Period) -> Path | None:
    """Run the notebook that shows the decision, from what the decision was made on."""
    given = place.folder("turns") / period.name / "decision.json"
    source = place.settings.notebooks / "26_retraining.ipynb"
    if not (given.exists() and source.exists()):
        return None
    path = place.folder("turns") / period.name / "retraining.json"
    listed = storage.read_json(given)["history"]
    run_notebook(place, "26_retraining", path, {"upstream": {"decision": str(given), "history": listed}})
    return path


# ------------------------------------------------------------------------------------------------ retraining


def edition(place: Place, at: dt.datetime, explore: bool = False) -> Plan:
    """The plan of a retraining at `at`: it enters with a new window, and takes over what need not be asked again."""
    entered = [name for name in (*ENTERED, *(EXPLORED if explore else ())) if name in place.plan.tasks]
    name = Period(at, at).name
    return plans.edition(place.plan, name, entered, as_of=at.isoformat())


def retrain(place: Place, row: Row, explore: bool = False) -> list[dict[str, Any]]:
    """Run the edition of a decision to retrain, or go on with it, and write down what came of it.

    Raises
    ------
    StageFailed, MlloopError
        A stage failed; it is tried once more with the next turn, then given up.
    """
    at = dt.datetime.fromisoformat(row.details["as_of"])
    plan = edition(place, at, explore or bool(row.details.get("explore")))
    with place.step("retraining"):
        outcome = runner.run(
            plan,
            place.settings,
            watch=lambda event: place.watch(f"retraining: {event.stage}"),
            command="mlloop tick",
            lock=place.lock,
        )
    end = _end(place, plan, outcome.error, row)
    if end is None:
        assert outcome.error is not None
        raise outcome.error
    place.ledger.append(
        Entry(
            "retrain",
            place.name,
            subject="ended",
            key=storage.digest_json(["retrained", place.name, at.isoformat()]),
            **end,
        )
    )
    storage.remove(_failures(place, at))
    return [
        {"what": "retraining", "model": end["model"], "outcome": end["details"]["outcome"], "reasons": end["reasons"]}
    ]


def _failures(place: Place, at: dt.datetime) -> Path:
    return place.folder("turns") / Period(at, at).name / "failed.json"


def _end(place: Place, plan: Plan, error: MlloopError | None, row: Row) -> dict[str, Any] | None:
    """What a retraining came to, as the ledger's row has it; None: a stage failed and is to be tried again."""
    at = dt.datetime.fromisoformat(row.details["as_of"])
    model = _made(plan, "training")
    details = {"as_of": at.isoformat(), "edition": plan.problem, "attempt": attempted(place, model, row)}
    if error is None:
        action = "trained"
        if "deployment" in plan.tasks:
            action = products.load(plan.tasks["deployment"].products["data"], products.Deployment).action
        verdict = "yes" if action in ("canary", "champion", "trained") else "no"
        said = {
            "canary": "The challenger passed its gate and answers for a share.",
            "champion": "The challenger is champion.",
        }
        return dict(
            verdict=verdict,
            model=model,
            reasons=[said.get(action, f"The challenger did not go out: {action}.")],
            details={**details, "outcome": action},
        )
    if isinstance(error, GateClosed):
        answers = after_no(place, plan, model, at)
        return dict(
            verdict="no",
            model=model,
            reasons=[error.what],
            details={**details, "outcome": "gate said no", "standing": answers},
        )
    path = _failures(place, at)
    failures = (storage.read_json(path)["failures"] if path.exists() else 0) + 1
    storage.write_json(path, {"failures": failures, "said": str(error)})
    if failures < MAX_FAILURES:
        return None
    return dict(
        verdict="no",
        model=None,
        reasons=[f"given up after {failures} tries: {error.what}"],
        details={**details, "outcome": "failed"},
    )


def gate_of(place: Place, model: str | None) -> Row | None:
    """The newest word of the validation gate on a model."""
    return place.ledger.last(problem=place.name, kind="gate", subject="validation", model=model) if model else None


def attempted(place: Place, model: str | None, row: Row) -> dict[str, Any]:
    """What the next attempt is measured against: rows that could be learnt from, and what was missing to a Yes.

    Returns
    -------
    dict
        until (ISO: labels up to here were known), rows (labelled, since the world changed, where it did), n, gap, se.
    """
    at = dt.datetime.fromisoformat(row.details["as_of"])
    gate, since = gate_of(place, model), row.details.get("worse_since")
    late = 0 if isinstance(place.statement.task, problems.Recommendation) else place.statement.time.label_delay_days
    rows = arrivals.labelled_rows(place.lake, place.statement, utc(since) if since else None, at)
    found: dict[str, Any] = {
        "until": (at - dt.timedelta(days=late)).isoformat(),
        "rows": rows,
        "n": rows,
        "gap": None,
        "se": None,
    }
    failed = [
        one
        for one in (gate.evidence if gate else [])
        if one["passed"] is False and None not in (one["value"], one["threshold"], one["low"], one["high"])
    ]
    if failed:
        sign = metrics.metric(place.statement.success.metric).gain(1, 0) if failed[0]["name"] == "threshold met" else 1
        found["gap"] = sign * (failed[0]["threshold"] - failed[0]["value"])
        found["se"] = (failed[0]["high"] - failed[0]["low"]) / (2 * 1.96)
        evaluated = judged_product(place, model, "evaluation")
        found["n"] = int((evaluated.get("main") or {}).get("n") or rows)
    return found


def after_no(place: Place, plan: Plan, model: str | None, at: dt.datetime) -> str:
    """Let the best of champion, challenger and rule answer after a No, and tell the statement what is attainable now."""
    stands = next(
        (
            row.details["to"]
            for row in fallbacks(place)
            if row.details.get("as_of") == at.isoformat() and row.details["to"] == "challenger"
        ),
        None,
    )
    gate, evaluated = gate_of(place, model), judged_product(place, model, "evaluation")
    if gate is None or not evaluated or model is None:
        return "champion"
    champion = place.ledger.champion(place.name)
    answers = "rule" if champion and deployment.is_rule(place.ledger, place.name, champion.model) else "champion"
    stands = stands or standing.best_after_no(evaluated, gate.evidence, answers == "rule")
    if stands == "challenger" and (champion is None or champion.model != model):
        told = storage.read_json(plan.tasks["training"].products["data"])
        release = _release_of(place, plan, told["model"])
        said = "The gate refused it, and on the rows it was judged on it is surely better than the rule and than what answered."
        fall_back(
            place, at, model, release, "challenger", f"model {model[:12]}", [said, *gate.reasons[:1]], gate.evidence
        )
    tell_statement(place, plan, gate, evaluated, at)
    return stands


def _release_of(place: Place, plan: Plan, model: dict[str, Any]) -> str:
    """The digest of the release of a challenger that its gate refused, as the stage `deployment` would have made it."""
    from mlloop.release import preparation, rule_release

    load = lambda stage: storage.read_json(plan.tasks[stage].products["data"])
    statement, features = problems.Problem.model_validate(load("problem")["problem"]), load("features")
    rows = preparation.real_rows(statement, features, place.lake)
    calibration = preparation.belief(load("evaluation"), place.lake)
    also = rule_release.rule_columns(statement, rows)
    return preparation.prepare(
        place.settings, statement, model, rows, features["features"], calibration, also=also
    ).digest


def tell_statement(place: Place, plan: Plan, gate: Row, evaluated: dict[str, Any], at: dt.datetime) -> None:
    """Take a No back to the problem statement: what can be attained now, in its next revision and in a row of the ledger."""
    verdict = plans.read_verdict(plan.tasks["validation_gate"].products["data"])
    main, label = evaluated["main"], metrics.metric(place.statement.success.metric).label
    target = place.statement.success.threshold
    reach = f"{number(main['value'])} [{number(main['low'])}, {number(main['high'])}]"
    said = f"attainable on {at:%Y-%m-%d}: {label} {reach}, asked for {number(target)}"
    change = [*verdict["must_change"], said]
    path = runner.statement_file(place.settings, place.plan)
    file = problems.next_revision(path, "validation", change)
    figures = {key: main[key] for key in ("value", "low", "high", "n")}
    attainable = {"metric": place.statement.success.metric, **figures}
    place.ledger.append(Entry(
        "revision", place.name, subject="attainable", reasons=change, evidence=gate.evidence, model=gate.model,
        details={"as_of": at.isoformat(), "file": os.path.relpath(file, place.settings.root), "attainable": attainable},
        key=storage.digest_json(["attainable", place.name, at.isoformat()]),
    ))  # fmt: skip


def _made(plan: Plan, stage: str) -> str | None:
    path = plan.tasks[stage].products["data"] if stage in plan.tasks else None
    if path is None or not path.exists():
        return None
    made = products.read_kept(path)
    return made.model.digest if isinstance(made, products.Training) else None


def resume(place: Place) -> list[dict[str, Any]]:
    """End the retrainings that were begun and have no end; what came of each."""
    rows = place.ledger.rows(problem=place.name, kind="retrain", subject="ended")
    over = {row.details["as_of"] for row in rows}
    return [
        one
        for row in begun(place.ledger, place.name)
        if row.details["as_of"] not in over
        for one in retrain(place, row)
    ]


def retrain_now(
    place: Place, at: dt.datetime, actor: str, reasons: Sequence[str] = (), explore: bool = False
) -> list[dict[str, Any]]:
    """Retrain at `at` because a person says so; the policy's evidence is not asked, the gate and the canary are.

    Raises
    ------
    UsageError
        Data after `at` were turned already, so that the challenger would be judged on the past.
    """
    ended = resume(place)
    row = place.ledger.append(
        Entry(
            "retrain",
            place.name,
            subject="retrain",
            verdict="yes",
            reasons=list(reasons) or ["a person asked for it"],
            actor=actor,
            model=(champion.model if (champion := place.ledger.champion(place.name)) else None),
            details={"as_of": at.isoformat(), "explore": explore, "by_person": True},
            key=storage.digest_json(["retrain", place.name, at.isoformat()]),
        )
    )
    over = {one.details["as_of"] for one in place.ledger.rows(problem=place.name, kind="retrain", subject="ended")}
    return ended if row.details["as_of"] in over else ended + retrain(place, row, explore)
