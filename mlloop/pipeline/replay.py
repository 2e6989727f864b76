"""Asks a gate again on exactly what it read when it decided, and says what differs."""

from typing import TypedDict

from mlloop.core import storage
from mlloop.core.errors import UsageError
from mlloop.core.settings import Settings
from mlloop.core.verdict import StatedVerdict
from mlloop.kernels import execute
from mlloop.pipeline import plan as plans
from mlloop.pipeline import runner
from mlloop.pipeline.freshness import Freshness
from mlloop.store import objects
from mlloop.store.ledger import Ledger, Row


class Replay(TypedDict):
    """A gate's decision and what the same inputs give today."""

    gate: str
    problem: str
    then: str | None
    now: str
    same: bool
    differs: list[str]


def replay(settings: Settings, decision: int) -> Replay:
    """Run a gate's notebook again on the inputs recorded with its decision.

    Parameters
    ----------
    decision : int
        The number of a ledger row of kind 'gate'.

    Returns
    -------
    dict
        gate, problem, then, now (verdicts), same (bool), differs (list of str: figures and circumstances).

    Raises
    ------
    UsageError
        Not a gate's decision.
    DataError
        What it read is no longer kept.
    StageFailed
        The notebook fails today.
    """
    row = Ledger.open(settings).row(decision)
    if row.kind != "gate":
        raise UsageError(
            f"decision {decision} is a {row.kind}, only a gate can be replayed", next_step="See: mlloop log --kind gate"
        )
    plan = plans.read(
        settings, plans.parameters(settings, **{**row.details["parameters"], "problem": row.details["products"]})
    )
    task = plan.task(row.details["stage"])
    folder = settings.state / "replays" / str(decision)
    storage.remove(folder)
    injected = {
        **row.details["parameters"],
        "upstream": {},
        "product": {n: str(folder / p.name) for n, p in task.products.items()},
    }
    for name in task.upstream:
        kept = objects.restore(settings, row.digests[f"stage {name}"], folder / f"{name}.json")
        injected["upstream"][name] = {"nb": str(kept.with_suffix(".ipynb")), "data": str(kept)}
    execute.run_notebook(
        runner.run_act(task),
        folder / f"{task.name}.ipynb",
        cwd=settings.root,
        env={},
        parameters=injected,
        settings=settings,
    )
    now = plans.read_verdict(folder / task.products["data"].name)
    differs = [*_figures(row, now), *_circumstances(settings, plan, task, row)]
    same = now["verdict"] == row.verdict
    return {
        "gate": row.subject,
        "problem": row.problem,
        "then": row.verdict,
        "now": now["verdict"],
        "same": same,
        "differs": differs,
    }


def _figures(row: Row, now: StatedVerdict) -> list[str]:
    then = {check["name"]: check["value"] for check in row.evidence}
    today = {check["name"]: check.get("value") for check in now["evidence"]}
    return [
        f"{name} was {then.get(name)}, is {today.get(name)}"
        for name in {**then, **today}
        if then.get(name) != today.get(name)
    ]


def _circumstances(settings: Settings, plan: plans.Plan, task: plans.Task, row: Row) -> list[str]:
    parts = Freshness(settings, plan.problem, lambda task: []).parts(task, {})
    changes = []
    if storage.digest_json([parts.cells, parts.modules]) != row.digests.get("code"):
        changes.append("the gate's code changed since")
    later = Ledger.open(settings).last(problem=row.problem, kind="erasure")
    if later is not None and later.id > row.id:
        changes.append(f"a person's rows were erased since (decision {later.id})")
    if parts.dependencies != row.digests.get("environment"):
        changes.append("the dependencies changed since")
    return changes
