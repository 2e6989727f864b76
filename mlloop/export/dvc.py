"""DVC: the pipeline as dvc.yaml, so that `dvc repro` runs it and `dvc push` keeps what the ledger cites."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from mlloop.core import storage
from mlloop.core.errors import UsageError
from mlloop.core.records import JsonObject
from mlloop.export.exporters import Request
from mlloop.pipeline import plan as plans
from mlloop.pipeline import runner
from mlloop.pipeline.freshness import Freshness
from mlloop.pipeline.plan import Plan, Task
from mlloop.store import objects

HEAD = """\
# The pipeline for DVC; written by `mlloop export dvc`. `dvc repro` runs it, `dvc push` keeps data, models and ledger, and
# after `dvc pull` every row of the ledger finds what it cites. mlloop itself decides what is out of date inside a stage and
# writes each output whole or not at all, so outputs persist: DVC must not remove them first.
"""


@dataclass(frozen=True)
class Options:
    """What can be chosen.

    Attributes
    ----------
    command : str
        How mlloop is called.
    """

    command: str = "mlloop"


def files(request: Request, options: Options) -> dict[str, str]:
    """dvc.yaml, for the project's folder: a stage for each of the pipeline's, and one for what they share.

    Raises
    ------
    UsageError
        A problem has not run yet: which tables a stage writes is read off its products.
    """
    stages: JsonObject = {}
    ends = []
    for problem in request.problems:
        plan = plans.read(request.settings, plans.parameters(request.settings, problem=problem))
        fresh, known = runner.freshness(request.settings, plan), set[str]()
        for task in plan.tasks.values():
            stages[f"{problem}-{task.name}"] = _stage(request, options, plan, task, fresh, known)
        ends += [_relative(request, task.products["data"]) for task in plan.tasks.values() if _is_last(plan, task)]
    stages["ledger"] = _shared(request, options, ends)
    return {"dvc.yaml": HEAD + yaml.safe_dump({"stages": stages}, sort_keys=False, width=120, allow_unicode=True)}


def _stage(request: Request, options: Options, plan: Plan, task: Task, fresh: Freshness, known: set[str]) -> JsonObject:
    """One stage; `known` are the tables that earlier ones wrote, to which its own are added."""
    if not task.products["data"].exists():
        raise UsageError(
            f"{task.name} of {plan.problem} has not run yet, and what it writes is read off its product",
            str(request.root),
            f"Run: mlloop run --problem {plan.problem}   (or export only problems that have run: --problem NAME)",
        )
    above = [plan.tasks[name].products["data"] for name in task.upstream]
    code = [*fresh.code_files(task), request.root / "requirements.lock"]
    reads = [task.source, *above, *fresh.external(task), *(path for path in code if path.exists())]
    outputs = [*task.products.values(), *_beside(task), *_tables(request, task, known)]
    folder = {"collection": "raw", "deployment": "releases"}.get(task.name)
    if folder and (request.settings.state / folder / plan.problem).exists():
        outputs.append(request.settings.state / folder / plan.problem)
    return {
        "cmd": f"{options.command} run --problem {plan.problem} --until {task.name}",
        "deps": [_relative(request, path) for path in reads if request.root in path.parents],
        "params": [{"env.yaml": [name for name in plan.parameters if name != "problem"]}],
        "outs": _kept(request, outputs),
    }


def _beside(task: Task) -> Iterator[Path]:
    """The folders of a stage's own beside its product, such as the trained model's."""
    for path in sorted(task.products["data"].parent.glob(f"{task.name}*")):
        if path.is_dir() and path.name.split(".")[0] == task.name:
            yield path


def _tables(request: Request, task: Task, known: set[str]) -> list[Path]:
    """The folders of the tables that a stage is the first to cite; none where the lake is not on this disk."""
    if "://" in request.settings.lake_uri:
        return []
    names = {entry["name"] for entry in objects.cited(storage.read_json(task.products["data"])) if "version" in entry}
    new = sorted(names - known)
    known |= names
    return [path for path in (Path(request.settings.lake_uri, name) for name in new) if path.is_dir()]


def _shared(request: Request, options: Options, ends: list[str]) -> JsonObject:
    """What the stages and the turns share: the ledger, kept products, records of what is up to date, turns, MLflow's runs.

    What this machine remembers of its own files (times and inodes) is left out: it changes with every command.
    """
    state = request.settings.state
    kinds = ("records", "predictions", "monitoring", "turns")
    folders = [f"{kind}/{problem}" for kind in kinds for problem in request.problems]
    names = ("objects", *folders, "ledger.db", "mlflow.db", "artifacts")
    outputs = [state / name for name in names if (state / name).exists()]
    return {"cmd": f"{options.command} ledger check", "deps": ends, "outs": _kept(request, outputs)}


def _kept(request: Request, outputs: list[Path]) -> list[JsonObject]:
    return [{_relative(request, path): {"persist": True}} for path in outputs]


def _is_last(plan: Plan, task: Task) -> bool:
    return not any(task.name in other.upstream for other in plan.tasks.values())


def _relative(request: Request, path: Path) -> str:
    return Path(os.path.relpath(path, request.root)).as_posix()
