"""One turn of the loop, for a scheduler: bring the data, answer, watch, judge the canary, decide, retrain.

A turn stands at a moment of the problem's grid and is done once: its decision is a row of the ledger under a key. Every
step leaves the same behind when it is done again, so a turn that was killed is turned again from its beginning: what is
there is found there.
"""

import datetime as dt
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from mlloop import deployment, products, retraining
from mlloop import problem as problems
from mlloop.core import metrics, storage
from mlloop.core.errors import GateClosed, MlloopError, ModelError, UsageError
from mlloop.core.formatting import number
from mlloop.core.records import (
    AttemptJson,
    EndedJson,
    EvaluationJson,
    HappenedJson,
    JsonObject,
    ModelJson,
    MonitoringJson,
    Parameters,
    RetrainEndJson,
)
from mlloop.data import feed_checks
from mlloop.loop import arrivals
from mlloop.loop.schedule import STEPS as STEPS
from mlloop.loop.schedule import Period, Turned, begun, decided, due, shown_decision, unfinished
from mlloop.loop.session import Session
from mlloop.monitors import periods, standing
from mlloop.monitors.degradation import is_feed_broken
from mlloop.pipeline import plan as plans
from mlloop.pipeline import revise, runner
from mlloop.pipeline.plan import Plan
from mlloop.problem import Recommendation, utc
from mlloop.release.canary import has_failed
from mlloop.store import champions
from mlloop.store.entries import SWAPS, Entry
from mlloop.store.ledger import Row

ENTERED = (
    "problem", "collection", "ingestion", "transformation", "features", "training", "evaluation", "validation_gate", "deployment",
)  # fmt: skip
EXPLORED = ("exploration", "building")
MAX_FAILURES = 2


def chosen(session: Session, now: dt.datetime, exact: bool = False) -> dt.datetime:
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
    start = periods.start(session.statement, session.ledger)
    at = periods.on_grid(session.statement, start, now) if exact else due(session.statement, session.ledger, now)
    at = at or max(decided(session.ledger, session.name), default=None)
    if at is None:
        raise UsageError(
            f"the first turn is due {session.statement.retrain.every_days} days after {start:%Y-%m-%d}",
            session.name,
            f"Wait, or give a later moment: mlloop tick --problem {session.name} --at TIME",
        )
    return at


def last_period(session: Session, now: dt.datetime, exact: bool = False) -> Period:
    """The last whole period at `now`, that of the turn of `chosen`; before the first turn is due the one before it."""
    start = periods.start(session.statement, session.ledger)
    at = periods.on_grid(session.statement, start, now) if exact else due(session.statement, session.ledger, now)
    at = at or max(decided(session.ledger, session.name), default=start)
    return Period(at - dt.timedelta(days=session.statement.retrain.every_days), at)


# ------------------------------------------------------------------------------------------------ the turn


def turn(
    session: Session, at: dt.datetime, launch: bool = True, pages: bool = True, until: str | None = None
) -> Turned:
    """Turn the loop once, at `at`.

    Parameters
    ----------
    launch : bool
        False: decide, and do not retrain (a dry run).
    pages : bool
        Whether to run the notebook that shows the decision.
    until : str, optional
        One of `STEPS`, after which to stop; the next call goes on from there. A retraining that was begun before is
        ended in any case.

    Raises
    ------
    UsageError
        No model is in production.
    StageFailed
        Monitoring, or the retraining, failed; the turn goes on with the next call.
    """
    session.seconds = {}
    ended = resume(session) if launch else []
    decisions = decided(session.ledger, session.name)
    row = decisions.get(at)
    if row is not None:
        # the turn may have been killed, or stopped, before what follows its decision
        is_shown = finish(session, row, pages) if launch and at == max(decisions) and until is None else False
        return _turned(session, at, row, 0, ended, fresh=not ended and not is_shown)
    if session.ledger.champion(session.name) is None:
        step = champions.way_into_production(session.ledger, session.plan.problem)
        raise UsageError("no model is in production", session.name, step)
    period = Period(at - dt.timedelta(days=session.statement.retrain.every_days), at)
    with session.step("data"):
        came = arrivals.bring(session.settings, session.lake, session.statement, period)
        storage.write_json(session.folder("turns") / period.name / "ingestion.json", storage.plain(came))
    with session.step("answers"):
        counts = arrivals.answer(session.settings, session.ledger, session.lake, session.statement, period)
    if until == "collect":
        return _stopped(session, at, until, counts["answered"], ended)
    with session.step("monitoring"):
        monitored(session, period, pages)
    if until == "monitor":
        return _stopped(session, at, until, counts["answered"], ended)
    with session.step("standing"):
        withhold_broken(session, period)
        ended += stood_in(session, period)
    with session.step("canary"):
        ended += judged(session, period)
    if until == "canary":
        return _stopped(session, at, until, counts["answered"], ended)
    with session.step("decision"):
        row = decide(session, period)
    if row.verdict == "yes" and launch and until != "decide":
        ended += retrain(session, row)
    if until is None:
        finish(session, row, pages, launch)
    return _turned(session, at, row, counts["answered"], ended, fresh=False)


def finish(session: Session, row: Row, pages: bool, launch: bool = True) -> bool:
    """Do what follows a decision besides a retraining: bring counts and calibration up to date; whether its page was made."""
    at = dt.datetime.fromisoformat(row.details["as_of"])
    if launch:
        with session.step("counts"):
            recalibrate(session, row)
            update_counts(session, at)
    if pages:
        with session.step("page"):
            return show(session, Period(dt.datetime.fromisoformat(row.details["from"]), at)) is not None
    return False


def _stopped(session: Session, at: dt.datetime, step: str, answered: int, ended: list[EndedJson]) -> Turned:
    """A turn that stops after a step before its decision."""
    champion, canary = session.ledger.champion(session.name), session.ledger.canary(session.name)
    newest = history(session, at)[-1:] if step != "collect" else []
    health, summary = (newest[0]["health"], newest[0]["said"]) if newest else ("", "")
    alert = health in ("worse", "feed broken") or any(end["what"] == "fallback" for end in ended)
    return Turned(
        session.name, at.isoformat(), step, "", summary, "", health, alert, champion.model if champion else None,
        canary.model if canary else None, answered, ended, False, dict(session.seconds),
    )  # fmt: skip


def _turned(session: Session, at: dt.datetime, row: Row, answered: int, ended: list[EndedJson], fresh: bool) -> Turned:
    shown = shown_decision(session.ledger, at, row, any(end["what"] == "fallback" for end in ended))
    return replace(shown, answered=answered, ended=ended, fresh=fresh, seconds=dict(session.seconds))


def monitoring_product(session: Session, period: Period) -> Path:
    """The product of monitoring for a period, with what it needs brought first; nothing is decided.

    Raises
    ------
    UsageError
        No model is in production.
    """
    if session.ledger.champion(session.name) is None:
        step = champions.way_into_production(session.ledger, session.plan.problem)
        raise UsageError("no model is in production", session.name, step)
    if not (session.folder("monitoring") / f"{period.name}.json").exists():
        with session.step("data"):
            came = arrivals.bring(session.settings, session.lake, session.statement, period)
            storage.write_json(session.folder("turns") / period.name / "ingestion.json", storage.plain(came))
        with session.step("answers"):
            arrivals.answer(session.settings, session.ledger, session.lake, session.statement, period)
    with session.step("monitoring"):
        return monitored(session, period)


def monitored(session: Session, period: Period, page: bool = True) -> Path:
    """The product of monitoring for the period, made where it is not there: by its notebook, or by what that calls.

    Parameters
    ----------
    page : bool
        False: without the executed notebook, which saves a kernel and its imports.
    """
    path = session.folder("monitoring") / f"{period.name}.json"
    if path.exists() and (path.with_suffix(".ipynb").exists() or not page):
        return path
    if page:
        run_notebook(session, "25_monitoring", path, {"as_of": period.until.isoformat()})
        return path
    from mlloop import monitoring

    statement = problems.load(runner.statement_file(session.settings, session.plan))
    observed = monitoring.observe(
        statement, monitoring.gather(session.settings, session.ledger, statement, period.until)
    )
    products.save_product({"data": str(path)}, stage="monitoring", **observed)
    return path


def run_notebook(session: Session, name: str, path: Path, parameters: Parameters) -> None:
    """Execute the Run act of a notebook that is no stage of the pipeline; its product and page material lie at `path`.

    The product is there only when the notebook has run to its end.
    """
    from mlloop.kernels import execute

    source = session.settings.notebooks / f"{name}.ipynb"
    task = plans.Task(name.partition("_")[2], source, (), {}, {}, False)
    shown = path.with_suffix(".ipynb")
    beside = path.with_name(f".{path.stem}.{os.getpid()}.part.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    defaults = {
        "problem": str(session.plan.parameters["problem"]),
        "sample": 1.0,
        "seed": session.plan.parameters.get("seed", 0),
        **parameters,
    }
    known = plans.parameter_names("\n".join(plans.parameters_cells(source)))
    try:
        execute.run_notebook(
            runner.run_act(task),
            beside.with_suffix(".ipynb"),
            cwd=session.settings.root,
            env={"MLLOOP_PROJECT": str(session.settings.root)},
            parameters={
                k: v for k, v in {**defaults, "product": {"nb": str(shown), "data": str(beside)}}.items() if k in known
            },
            settings=session.settings,
            pool=session.pool,
            pass_fds=session.lock or (),
        )
        os.replace(beside.with_suffix(".ipynb"), shown)
        if not path.exists():  # what was decided on stays as it was
            os.replace(beside, path)
    finally:
        storage.remove(beside)
        storage.remove(beside.with_suffix(".ipynb"))


# ------------------------------------------------------------------------------------------------ who answers


def answering(session: Session) -> list[str]:
    """The models that answer, the champion first, and those that may have to; [] where nothing is in production."""
    from mlloop.monitors import evidence

    live = [row for row in (session.ledger.champion(session.name), session.ledger.canary(session.name)) if row]
    models = [str(row.model) for row in live]
    ready = [other.model for other in evidence.stand_ins(session.ledger, session.name, models[0])] if models else []
    return list(dict.fromkeys([*models, *ready]))


def update_counts(session: Session, at: dt.datetime) -> None:
    """Bring histories and counts of the recommenders that answer, or may have to, up to `at`; nothing for other problems."""
    statement = session.statement
    if not isinstance(statement.task, Recommendation) or not statement.retrain.update_counts:
        return
    models = [
        model for model in answering(session) if not deployment.has_counts(session.ledger, session.name, model, at)
    ]
    if not models:
        return
    events = arrivals.events_before(session.lake, statement, at)
    for model in models:
        try:
            deployment.update_counts(session.settings, session.ledger, statement, model, events, at)
        except ModelError:  # a champion's fault stops the step that loads it to answer
            continue


def recalibrate(session: Session, row: Row) -> None:
    """Shift the champion's probabilities to the newest labels where a turn decided so; nothing for other decisions."""
    from mlloop.monitors import evidence

    champion = session.ledger.champion(session.name)
    if row.subject != "recalibrate" or champion is None or champion.model != row.model:
        return
    at = dt.datetime.fromisoformat(row.details["as_of"])
    if deployment.update_of(session.ledger, session.name, str(row.model), at):
        return
    release = deployment.load_release(session.settings, session.ledger, session.name, str(row.model))
    shift = evidence.shift_known(session.lake, session.statement, release, at)
    if shift is not None:
        deployment.recalibrate(session.settings, session.ledger, session.statement, str(row.model), shift, at)


def updated(session: Session, model: str, subject: str) -> dt.datetime | None:
    """When (in the data) `model` was last released again: 'calibration' or `deployment.WITHHELD`."""
    row = session.ledger.last(problem=session.name, kind="update", subject=subject, model=model)
    return dt.datetime.fromisoformat(row.details["as_of"]) if row else None


def withhold_broken(session: Session, period: Period) -> None:
    """Read columns whose every value is wrong as missing from now on, and as they come again once their feed is right.

    It holds for whoever answers, and for whoever may have to.
    """
    task, looks = session.statement.task, history(session, period.until)
    if isinstance(task, Recommendation) or not looks:
        return
    tables = {task.table, *(join.table for join in task.joins)}
    broken = {
        str(finding["column"])
        for finding in looks[-1]["feed"]["findings"]
        if finding["kind"] in feed_checks.WITHHELD and finding["table"] in tables
    }
    for model in answering(session):
        if not broken and not deployment.withheld_at(session.ledger, session.name, model, period.until):
            continue  # as nearly always: no release has to be loaded
        try:
            release = deployment.load_release(session.settings, session.ledger, session.name, model)
        except ModelError:  # a champion's fault stops the step that loads it to answer
            continue
        columns = sorted(broken & {field.name for field in release.fields})
        if columns != release.withheld:
            where = session.settings, session.ledger, session.statement
            deployment.withhold(*where, model, columns, period.since, period.until)


def stood_in(session: Session, period: Period) -> list[EndedJson]:
    """Let the rule, or an earlier champion, answer from now on where the labels that had come show that it is surely better.

    Who stood in while the feed was broken makes way once it is whole. A canary that is on goes on, beside whoever
    answers now.
    """
    done = [row for row in fallbacks(session) if row.details.get("as_of") == period.until.isoformat()]
    champion = session.ledger.champion(session.name)
    if done or champion is None:
        return [_fallback_of(row) for row in done]
    looks = history(session, period.until)
    is_broken = bool(looks) and is_feed_broken(looks[-1])
    if not is_broken and (before := stood_in_for(champion)):
        release = deployment.cited_release(session.ledger, session.name, before)
        reason = "The feed is whole again, so the model that answered before it broke answers again."
        return [
            _fallback_of(fall_back(session, period.until, before, release, "former", f"model {before[:12]}", [reason]))
        ]
    since = periods.since(session.statement, session.ledger, champion)
    if is_broken:  # as it answers now: with the columns that it reads now
        since = max(since, updated(session, str(champion.model), deployment.WITHHELD) or since)
    unlearnt = unlearnt_from(session, str(champion.model))
    better = standing.stand_in(session.statement, looks, champion.model, since.isoformat(), unlearnt)
    if better is None or better.model == champion.model:
        return []
    deployment.load_release(session.settings, session.ledger, session.name, better.model)  # it must load
    release = deployment.cited_release(session.ledger, session.name, better.model)
    before = (stood_in_for(champion) or str(champion.model)) if is_broken else None
    row = fall_back(
        session,
        period.until,
        better.model,
        release,
        better.kind,
        better.name,
        [better.summary],
        better.evidence,
        before,
    )
    return [_fallback_of(row)]


def unlearnt_from(session: Session, model: str) -> str:
    """From when on (ISO) a model has learnt no row, since no later label was known; '' where that cannot be told."""
    trained = periods.trained_at(session.ledger, session.name, model)
    if trained is None or isinstance(session.statement.task, Recommendation):
        return ""
    return (trained - dt.timedelta(days=session.statement.time.label_delay_days)).isoformat()


def stood_in_for(champion: Row) -> str | None:
    """The model in whose place `champion` answers only while the feed is broken."""
    return champion.details.get("until_feed_is_whole") if champion.kind == "fallback" else None


def fall_back(
    session: Session,
    at: dt.datetime,
    model: str,
    release: str,
    to: str,
    name: str,
    reasons: list[str],
    evidence: Sequence[Any] = (),
    instead_of: str | None = None,
) -> Row:
    """Write the row after which `model` answers, `instead_of` another only while the feed is broken; MLflow's aliases follow."""
    champion = session.ledger.champion(session.name)
    assert champion is not None
    row = session.ledger.append(
        Entry(
            "fallback",
            session.name,
            model=model,
            expect=str(champion.model),
            reasons=reasons,
            evidence=evidence,
            digests={"model": model, "release": release},
            details={"as_of": at.isoformat(), "to": to, "name": name}
            | ({"until_feed_is_whole": instead_of} if instead_of else {}),
            key=storage.digest_json(["fallback", session.name, at.isoformat(), to]),
        )
    )
    deployment.follow(session.settings, session.ledger)
    return row


def fallbacks(session: Session) -> list[Row]:
    """The rows in which production fell back, the oldest first."""
    return session.ledger.rows(problem=session.name, kind="fallback")


def _fallback_of(row: Row) -> EndedJson:
    return {"what": "fallback", "model": row.model, "outcome": row.details["to"], "reasons": row.reasons}


def judged(session: Session, period: Period) -> list[EndedJson]:
    """Judge the canary that is on by the labels that had come; what became of it, [] where it goes on."""
    on = session.ledger.canary(session.name)
    since = dt.datetime.fromisoformat(on.details["since"]) if on else None
    if on is None or since is None or since > period.until:
        return []
    early = (
        0 if isinstance(session.statement.task, problems.Recommendation) else session.statement.time.label_delay_days
    )
    truth = arrivals.labels(session.lake, session.statement, since - dt.timedelta(days=early), period.until)
    trial = deployment.judge(session.settings, session.ledger, session.statement, truth, now=period.until)
    if trial is None or trial.outcome is None:
        return []
    return [{"what": "canary", "model": on.model, "outcome": trial.outcome, "reasons": trial.reasons}]


# ------------------------------------------------------------------------------------------------ deciding


def history(session: Session, until: dt.datetime) -> list[MonitoringJson]:
    """The products of monitoring of the periods that had ended at `until`, the oldest first."""
    from mlloop.monitors.evidence import kept_product

    kept = [kept_product(path) for path in sorted(session.folder("monitoring").glob("[!.]*.json"))]
    return sorted((product for product in kept if utc(product["as_of"]) <= until), key=lambda product: product["as_of"])


def facts(session: Session, at: dt.datetime) -> retraining.Facts:
    """What the policy knows besides monitoring, from ledger, lake and the champion's own evaluation."""
    champion, canary = session.ledger.champion(session.name), session.ledger.canary(session.name)
    if canary and dt.datetime.fromisoformat(canary.details["since"]) > at:
        canary = None
    trained = judged_product(session, champion.model if champion else None, "training")
    evaluated = judged_evaluation(session, champion.model if champion else None)
    learnt = (trained.get("trained") or {}).get("until")
    earlier = sorted(dt.datetime.fromisoformat(row.details["as_of"]) for row in begun(session.ledger, session.name))
    ended = session.ledger.rows(problem=session.name, kind="retrain", subject="ended")
    refused = [
        dt.datetime.fromisoformat(row.details["as_of"])
        for row in ended
        if row.details.get("outcome") in ("gate said no", "gate said maybe")
    ]
    is_fallback = champion is not None and champion.kind == "fallback" and stood_in_for(champion) is None
    stands_in = champion.details.get("to") if champion and is_fallback else None
    if champion and stands_in == "challenger":
        met = standing.has_met_target(session.statement, history(session, at), str(champion.model))
        stands_in = None if met else stands_in
    return retraining.Facts(
        now=at,
        champion=champion.model if champion else None,
        since=periods.since(session.statement, session.ledger, champion) if champion else None,
        trained=periods.trained_at(session.ledger, session.name, champion.model) if champion else None,
        canary=canary.model if canary else None,
        canary_until=canary.details.get("deadline", "") if canary else "",
        begun=tuple(begun_at for begun_at in earlier if begun_at < at),
        new_labelled_rows=arrivals.labelled_rows(session.lake, session.statement, utc(learnt) if learnt else None, at),
        learnt_rows=short_past(session, champion.model if champion else None),
        recalibrated=updated(session, str(champion.model), "calibration") if champion else None,
        withheld=tuple(deployment.withheld_at(session.ledger, session.name, str(champion.model), at))
        if champion
        else (),
        fallen=stands_in if stands_in in ("rule", "challenger") else None,
        attempt=last_attempt(session, ended, at),
        refused=tuple(sorted(refused)),
        failed=failed_in_canary(session, ended, at),
        rate=retraining.exchange_rate(evaluated, session.statement.success.metric) if evaluated else None,
    )


def last_attempt(session: Session, ended: Sequence[Row], at: dt.datetime) -> AttemptJson | None:
    """The last retraining, where it did not come to answer and none was let in after it; with the labels that came since."""
    last = next((row for row in reversed(ended) if row.details.get("attempt")), None)
    if last is None or dt.datetime.fromisoformat(last.details["as_of"]) >= at:
        return None
    let_in = session.ledger.last(problem=session.name, kind="promotion")
    if let_in is not None and (let_in.id > last.id or let_in.model == last.model):
        return None
    attempt: AttemptJson = last.details["attempt"]
    new = arrivals.labelled_rows(session.lake, session.statement, dt.datetime.fromisoformat(attempt["until"]), at)
    return {**attempt, "at": last.details["as_of"], "outcome": str(last.details.get("outcome", "")), "new": new}


def failed_in_canary(session: Session, ended: Sequence[Row], at: dt.datetime) -> tuple[dt.datetime, ...]:
    """The moments of the retrainings whose challengers failed in canary since the last swap, see `canary.has_failed`."""
    swap = session.ledger.last(problem=session.name, kind=SWAPS)
    over = session.ledger.rows(problem=session.name, kind="canary", subject="rolled_back")
    failed = {row.model for row in over if (swap is None or row.id > swap.id) and has_failed(row.evidence)}
    begun_at = (dt.datetime.fromisoformat(row.details["as_of"]) for row in ended if row.model in failed)
    return tuple(sorted(moment for moment in begun_at if moment < at))


def judged_product(session: Session, model: str | None, stage: str) -> JsonObject:
    """The product of a stage that the validation gate read when it let `model` pass; {} where it is not kept."""
    gate = session.ledger.last(problem=session.name, kind="gate", subject="validation", model=model) if model else None
    digest = gate.digests.get(f"stage {stage}") if gate else None
    path = session.settings.state / "objects" / f"{digest}.json"
    return products.load_kept(path) if digest and path.exists() else {}


def judged_evaluation(session: Session, model: str | None) -> EvaluationJson:
    """The evaluation that the validation gate read when it let `model` pass; {} where it is not kept."""
    return cast(EvaluationJson, judged_product(session, model, "evaluation"))


def short_past(session: Session, model: str | None) -> int | None:
    """How many rows a classifier or regression learnt from where its past was cut short or fades, else None."""
    if isinstance(session.statement.task, Recommendation):
        return None
    lookbacks = (judged_product(session, model, "training").get("lookback") or {}).get("candidates") or []
    return next((tried["rows"] for tried in lookbacks if tried["chosen"] and tried["kind"] != "all"), None)


def decide(session: Session, period: Period) -> Row:
    """Decide, keep what was decided on, and write the decision's row; the row that is there, where it is."""
    from mlloop.monitors import evidence

    known, looks = facts(session, period.until), history(session, period.until)
    decision = retraining.decide(session.statement, looks, known)
    files = {path.stem: path for path in session.folder("monitoring").glob("[!.]*.json")}
    newest = looks[-1] if looks else None
    kept = {
        "statement": session.statement,
        "facts": known,
        "decision": decision.to_dict(),
        "events": events(session, period.until),
        "history": [
            str(files[name])
            for name in sorted(files)
            if utc(evidence.kept_product(files[name])["as_of"]) <= period.until
        ],
    }
    storage.write_json(session.folder("turns") / period.name / "decision.json", storage.plain(kept))
    own = files.get(period.name)
    return session.ledger.append(
        Entry(
            "retrain",
            session.name,
            subject=decision.action,
            verdict=decision.verdict,
            reasons=[decision.summary],
            evidence=decision.evidence,
            digests={"monitoring": storage.digest_file(own) if own else None, "model": known.champion},
            model=known.champion,
            details={
                "as_of": period.until.isoformat(),
                "from": period.since.isoformat(),
                "change": decision.change,
                "worse_since": worse_since(session, looks, period.until),
                "fallen": decision.has_fallen,
                "health": newest["health"] if newest else "",
                "health_said": newest["said"] if newest else "",
            },
            key=storage.digest_json(["tick", session.name, period.until.isoformat()]),
        )
    )


def worse_since(session: Session, history: list[MonitoringJson], at: dt.datetime) -> str | None:
    """Since when (ISO) the model in production, or the one that fell, is worse than it was; None where it is not."""
    champion = session.ledger.champion(session.name)
    if champion is None:
        return None
    fell = champion.kind == "fallback" and champion.details.get("to") in ("rule", "challenger")
    model = (
        next((row.subject for row in reversed(fallbacks(session)) if row.details["to"] == "rule"), champion.model)
        if fell
        else champion.model
    )
    since = retraining.worse_since(session.statement, history, model)
    if since is None and fell:  # worse than the rule and not than its own reference: since the fall
        since = (
            periods.since(session.statement, session.ledger, champion)
            - dt.timedelta(days=session.statement.retrain.every_days)
        ).isoformat()
    return since


def events(session: Session, until: dt.datetime) -> list[HappenedJson]:
    """What happened so far, for figures: as_of and word."""
    words = {"retrain": "retrain", "promoted": "promoted", "rolled_back": "rolled back", "feed broken": "feed broken"}
    fell = {
        "rule": "fell back to the rule",
        "former": "back to an earlier model",
        "challenger": "refused challenger stands in",
    }
    rows = session.ledger.rows(problem=session.name, kind=("retrain", "canary", "fallback"))
    word = lambda row: fell.get(row.details.get("to")) if row.kind == "fallback" else words.get(row.subject)
    happened: list[HappenedJson] = [
        {"as_of": row.details["as_of"], "word": str(word(row))}
        for row in rows
        if word(row) and row.details.get("as_of")
    ]
    return [event for event in happened if utc(event["as_of"]) <= until]


def show(session: Session, period: Period) -> Path | None:
    """Run the notebook that shows the decision, from what the decision was made on."""
    decision = session.folder("turns") / period.name / "decision.json"
    source = session.settings.notebooks / "26_retraining.ipynb"
    path = session.folder("turns") / period.name / "retraining.json"
    if not (decision.exists() and source.exists()) or path.exists():
        return None
    listed = storage.read_json(decision)["history"]
    run_notebook(session, "26_retraining", path, {"upstream": {"decision": str(decision), "history": listed}})
    return path


# ------------------------------------------------------------------------------------------------ retraining


def edition(session: Session, at: dt.datetime, explore: bool = False) -> Plan:
    """The plan of a retraining at `at`: it enters with a new window, and takes over what need not be asked again."""
    entered = [name for name in (*ENTERED, *(EXPLORED if explore else ())) if name in session.plan.tasks]
    name = Period(at, at).name
    return plans.edition(session.plan, name, entered, as_of=at.isoformat())


def retrain(session: Session, row: Row, explore: bool = False) -> list[EndedJson]:
    """Run the edition of a decision to retrain, or go on with it, and write down what came of it.

    Raises
    ------
    StageFailed, MlloopError
        A stage failed; it is tried once more with the next turn, then given up.
    """
    at = dt.datetime.fromisoformat(row.details["as_of"])
    plan = edition(session, at, explore or bool(row.details.get("explore")))
    with session.step("retraining"):
        outcome = runner.run(
            plan,
            session.settings,
            watch=lambda event: session.watch(f"retraining: {event.stage}"),
            command="mlloop tick",
            lock=session.lock,
        )
    end = _end(session, plan, outcome.error, row)
    if end is None:
        assert outcome.error is not None
        raise outcome.error
    session.ledger.append(
        Entry(
            "retrain",
            session.name,
            subject="ended",
            key=storage.digest_json(["retrained", session.name, at.isoformat()]),
            **end,
        )
    )
    storage.remove(_failures(session, at))
    return [
        {"what": "retraining", "model": end["model"], "outcome": end["details"]["outcome"], "reasons": end["reasons"]}
    ]


def _failures(session: Session, at: dt.datetime) -> Path:
    return session.folder("turns") / Period(at, at).name / "failed.json"


def _end(session: Session, plan: Plan, error: MlloopError | None, row: Row) -> RetrainEndJson | None:
    """What a retraining came to, as the ledger's row has it; None: a stage failed and is to be tried again."""
    at = dt.datetime.fromisoformat(row.details["as_of"])
    model = _trained_by(plan, "training")
    details = {"as_of": at.isoformat(), "edition": plan.problem, "attempt": attempted(session, model, row)}
    if error is None:
        action = "trained"
        if "deployment" in plan.tasks:
            action = products.load(plan.tasks["deployment"].products["data"], products.Deployment).action
        waits = action == "refused" and _waits_for_a_person(session, model)
        if waits:
            action = "trained"
        if action == "refused":
            return _open(session, plan, model, at, details)
        verdict = "yes" if action in ("canary", "champion", "trained") else "no"
        outcomes = {
            "canary": "The challenger passed its gate and answers for a share.",
            "champion": "The challenger is champion.",
        }
        return dict(
            verdict=verdict,
            model=model,
            reasons=[
                "The challenger passed its gate and waits for a person."
                if waits
                else outcomes.get(action, "A challenger was trained.")
            ],
            details={**details, "outcome": action},
        )
    if isinstance(error, GateClosed):
        answers = after_no(session, plan, model, at)
        return dict(
            verdict="no",
            model=model,
            reasons=[error.what],
            details={**details, "outcome": "gate said no", "standing": answers},
        )
    path = _failures(session, at)
    failures = (storage.read_json(path)["failures"] if path.exists() else 0) + 1
    storage.write_json(path, {"failures": failures, "said": str(error)})
    if failures < MAX_FAILURES:
        return None
    return dict(
        verdict="no",
        model=None,
        reasons=[f"abandoned after {failures} tries: {error.what}"],
        details={**details, "outcome": "failed"},
    )


def _waits_for_a_person(session: Session, model: str | None) -> bool:
    """Whether the gate let a challenger pass that `[deployment] by = person` leaves to a person."""
    gate = gate_of(session, model)
    return session.settings.deployment_by == "person" and gate is not None and gate.verdict == "yes"


def _open(session: Session, plan: Plan, model: str | None, at: dt.datetime, details: JsonObject) -> RetrainEndJson:
    """The end of a retraining whose challenger the gate neither let pass nor refused."""
    gate = gate_of(session, model)
    unsettled = gate.reasons if gate else []
    reason = "The gate said Maybe to the challenger" + (
        f": {unsettled[0]}" if unsettled else "; a person may promote it."
    )
    stands = after_no(session, plan, model, at, tell=False)
    return dict(
        verdict="no",
        model=model,
        reasons=[reason],
        details={**details, "outcome": "gate said maybe", "standing": stands},
    )


def gate_of(session: Session, model: str | None) -> Row | None:
    """The newest word of the validation gate on a model."""
    return session.ledger.last(problem=session.name, kind="gate", subject="validation", model=model) if model else None


def attempted(session: Session, model: str | None, row: Row) -> AttemptJson:
    """What the next attempt is measured against: rows that could be learnt from, and what was missing to a Yes.

    Returns
    -------
    dict
        until (ISO: labels up to here were known), rows (labelled, since the world changed, where it did), n, gap, se.
    """
    at = dt.datetime.fromisoformat(row.details["as_of"])
    gate, since = gate_of(session, model), row.details.get("worse_since")
    late = 0 if isinstance(session.statement.task, problems.Recommendation) else session.statement.time.label_delay_days
    rows = arrivals.labelled_rows(session.lake, session.statement, utc(since) if since else None, at)
    learnt = short_past(session, model)
    rows = min(rows, learnt) if learnt is not None else rows
    attempt: AttemptJson = {
        "until": (at - dt.timedelta(days=late)).isoformat(),
        "rows": rows,
        "n": rows,
        "gap": None,
        "se": None,
    }
    for check in gate.evidence if gate else []:
        value, threshold, low, high = check["value"], check["threshold"], check["low"], check["high"]
        if check["passed"] is not False or value is None or threshold is None or low is None or high is None:
            continue
        is_metric = check["name"] == "threshold met"
        sign = metrics.metric(session.statement.success.metric).gain(1, 0) if is_metric else 1
        main = judged_evaluation(session, model).get("main")
        return {
            **attempt,
            "gap": sign * (threshold - value),
            "se": (high - low) / (2 * 1.96),
            "n": int((main["n"] if main else None) or rows),
        }
    return attempt


def after_no(session: Session, plan: Plan, model: str | None, at: dt.datetime, tell: bool = True) -> str:
    """Let the best of champion, challenger and rule answer after a No or Maybe; `tell` the statement what is attainable now."""
    stands = next(
        (
            row.details["to"]
            for row in fallbacks(session)
            if row.details.get("as_of") == at.isoformat() and row.details["to"] == "challenger"
        ),
        None,
    )
    gate, evaluated = gate_of(session, model), judged_evaluation(session, model)
    if gate is None or not evaluated or model is None:
        return "champion"
    champion = session.ledger.champion(session.name)
    answers = "rule" if champion and deployment.is_rule(session.ledger, session.name, champion.model) else "champion"
    stands = stands or standing.best_after_no(evaluated, gate.evidence, answers == "rule")
    if stands == "challenger" and (champion is None or champion.model != model):
        trained = storage.read_json(plan.tasks["training"].products["data"])
        release = _release_of(session, plan, trained["model"])
        reason = "The gate did not let it pass, but on the rows it was judged on it is significantly better than what answers now, and no rule is better."
        fall_back(
            session, at, model, release, "challenger", f"model {model[:12]}", [reason, *gate.reasons[:1]], gate.evidence
        )
    if tell:
        tell_statement(session, plan, gate, evaluated, at)
    return stands


def _release_of(session: Session, plan: Plan, model: ModelJson) -> str:
    """The digest of the release of a challenger that its gate refused, as the stage `deployment` would have made it."""
    from mlloop.release import preparation, rule_release

    load = lambda stage: storage.read_json(plan.tasks[stage].products["data"])
    statement, features = problems.Problem.model_validate(load("problem")["problem"]), load("features")
    rows = preparation.real_rows(statement, features, session.lake)
    calibration = preparation.holdout_calibration(load("evaluation"), session.lake)
    also = rule_release.rule_columns(statement, rows)
    return preparation.prepare(
        session.settings, statement, model, rows, features["features"], calibration,
        also=also, cleaning=features.get("row_cleaning") or [],
    ).digest  # fmt: skip


def tell_statement(session: Session, plan: Plan, gate: Row, evaluated: EvaluationJson, at: dt.datetime) -> None:
    """Take a No back to the problem statement: what can be attained now, in its next revision and in a row of the ledger."""
    verdict = plans.read_verdict(plan.tasks["validation_gate"].products["data"])
    main, label = evaluated["main"], metrics.metric(session.statement.success.metric).label
    target = session.statement.success.threshold
    reach = f"{number(main['value'])} [{number(main['low'])} to {number(main['high'])}]"
    sentence = f"attainable on {at:%Y-%m-%d}: {label} {reach}, {session.statement.target_name} {number(target)}"
    change = [*verdict["must_change"], sentence]
    path = runner.statement_file(session.settings, session.plan)
    file = revise.open_next(session.settings, path, "validation", change)
    figures = {"value": main["value"], "low": main["low"], "high": main["high"], "n": main["n"]}
    attainable = {"metric": session.statement.success.metric, **figures}
    session.ledger.append(Entry(
        "revision", session.name, subject="attainable", reasons=change, evidence=gate.evidence, model=gate.model,
        details={"as_of": at.isoformat(), "file": os.path.relpath(file, session.settings.root), "attainable": attainable},
        key=storage.digest_json(["attainable", session.name, at.isoformat()]),
    ))  # fmt: skip


def _trained_by(plan: Plan, stage: str) -> str | None:
    path = plan.tasks[stage].products["data"] if stage in plan.tasks else None
    if path is None or not path.exists():
        return None
    product = products.read_kept(path)
    return product.model.digest if isinstance(product, products.Training) else None


def resume(session: Session) -> list[EndedJson]:
    """End the retrainings that were begun and have no end; what came of each."""
    return [end for row in unfinished(session.ledger, session.name) for end in retrain(session, row)]


def retrain_now(
    session: Session, at: dt.datetime, actor: str, reasons: Sequence[str] = (), explore: bool = False
) -> list[EndedJson]:
    """Retrain at `at` because a person says so; the policy's evidence is not asked, the gate and the canary are.

    Raises
    ------
    UsageError
        Data after `at` were turned already, so that the challenger would be judged on the past.
    """
    ended = resume(session)
    row = session.ledger.append(
        Entry(
            "retrain",
            session.name,
            subject="retrain",
            verdict="yes",
            reasons=list(reasons) or ["a person requested it"],
            actor=actor,
            model=(champion.model if (champion := session.ledger.champion(session.name)) else None),
            details={"as_of": at.isoformat(), "explore": explore, "by_person": True},
            key=storage.digest_json(["retrain", session.name, at.isoformat()]),
        )
    )
    over = {end.details["as_of"] for end in session.ledger.rows(problem=session.name, kind="retrain", subject="ended")}
    return ended if row.details["as_of"] in over else ended + retrain(session, row, explore)
