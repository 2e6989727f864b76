"""pipeline.yaml as a plan: which notebook, after which, with which parameters, into which files.

The one module that knows Ploomber. Ploomber reads and checks the graph; what it said is kept by content, so that a
project whose pipeline.yaml and parameters did not change never waits for Ploomber's import.
"""

import ast
import graphlib
import io
import json
import os
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlloop.core import parsing, storage, verdict
from mlloop.core.errors import GateClosed, ParameterError, SettingsError, StageFailed
from mlloop.core.moved import current
from mlloop.core.records import Parameters
from mlloop.core.settings import Settings
from mlloop.problem import did_you_mean

GATE_HOOK = "mlloop.pipeline.plan.stop_at_closed_gate"


@dataclass(frozen=True)
class Task:
    """One stage of the pipeline.

    Attributes
    ----------
    name : str
    source : Path
        The stage's notebook, absolute.
    upstream : tuple of str
        The stages whose products it reads.
    parameters : dict
        What is injected into its parameters cell, beside upstream and product.
    products : dict of str to Path
        'nb' (the executed notebook) and 'data' (the JSON product), absolute.
    is_gate : bool
        Whether its product's verdict decides what runs after it.
    """

    name: str
    source: Path
    upstream: tuple[str, ...]
    parameters: Parameters
    products: dict[str, Path]
    is_gate: bool

    @property
    def gate(self) -> str:
        """The gate's name: 'need' for the stage 'need_gate'."""
        return self.name.removesuffix("_gate")


@dataclass(frozen=True)
class Plan:
    """The stages of one problem in an order in which they can run.

    Attributes
    ----------
    problem : str
        Under which name products and records lie: 'shop', or 'shop@2025-08-04' for an edition.
    parameters : dict
    tasks : dict of str to Task
    edition : str
        What distinguishes it from the base plan; '' for the base.
    taken : frozenset of str
        Stages that an edition does not run: their products are read where the base plan's lie.
    revision : Path, optional
        A revision of the statement that is not in force yet; a run of the plan puts it in force.
    """

    problem: str
    parameters: Parameters
    tasks: dict[str, Task]
    edition: str = ""
    taken: frozenset[str] = frozenset()
    revision: Path | None = None

    @property
    def base(self) -> str:
        """The name without the edition."""
        return self.problem.removesuffix(f"@{self.edition}") if self.edition else self.problem

    @property
    def again(self) -> str:
        """The command that goes on with it."""
        return (
            f"mlloop retrain --problem {self.base} --at {self.edition}"
            if self.edition
            else f"mlloop run --problem {self.problem}"
        )

    def downstream(self, name: str) -> set[str]:
        """The stages that read `name`'s product, directly or not."""
        below: set[str] = set()
        for task in self.tasks.values():
            if task.name != name and below.union([name]) & set(task.upstream):
                below.add(task.name)
        return below

    def task(self, name: str) -> Task:
        """The stage called `name`.

        Raises
        ------
        ParameterError
            No such stage.
        """
        if name not in self.tasks:
            raise ParameterError(
                f"no stage {name!r}" + did_you_mean(name, self.tasks), "pipeline.yaml", "See them: mlloop status"
            )
        return self.tasks[name]


def parameters(settings: Settings, **changed: Any) -> Parameters:
    """env.yaml with `changed` put over it.

    Raises
    ------
    SettingsError
        env.yaml cannot be read.
    ParameterError
        A name that env.yaml does not have, or a value that cannot be meant.
    """
    path = settings.root / "env.yaml"
    known = parsing.mapping(path) if path.exists() else {}
    for name, value in changed.items():
        if name not in known:
            raise ParameterError(
                f"no parameter {name!r}" + did_you_mean(name, known),
                str(path),
                "Declare it in env.yaml or leave it out, then: mlloop run",
            )
        known[name] = value
    sample = known.get("sample", 1.0)
    if not (isinstance(sample, (int, float)) and 0 < sample <= 1):
        raise ParameterError(
            f"sample is {sample!r}, expected 0 < sample <= 1", str(path), "Try: mlloop run --set sample=0.1"
        )
    if not isinstance(known.get("seed", 0), int):
        raise ParameterError(
            f"seed is {known['seed']!r}, expected an integer", str(path), "Try: mlloop run --set seed=1"
        )
    return known


def read(settings: Settings, values: Parameters) -> Plan:
    """The plan of the project for the parameters `values`, as Ploomber reads pipeline.yaml.

    Parameters
    ----------
    values : dict
        From `parameters`; 'problem' is a name or the path of a statement outside [paths] problems.

    Raises
    ------
    SettingsError
        pipeline.yaml does not describe a graph of notebooks.
    """
    path = settings.root / "pipeline.yaml"
    statement = str(values.get("problem", ""))
    env = {**values, "problem": Path(statement).stem if statement.endswith((".yaml", ".yml")) else statement}
    declared = parsing.tasks(settings.root)
    kept = settings.state / "plans" / f"{storage.digest_json([path.read_text(encoding='utf-8'), env])[:16]}.json"
    if not kept.exists():
        for task in declared:
            if isinstance(task, dict) and str(task.get("source", "")).endswith(".ipynb"):
                parameters_cells(settings.root / task["source"])  # Ploomber would not say which notebook is broken
        storage.write_json(kept, _ask_ploomber(path, {k: _as_text(v) for k, v in env.items()}))
    tasks = {}
    for entry in storage.read_json(kept):
        stated = {**entry["params"], **({"problem": statement} if "problem" in entry["params"] else {})}
        tasks[entry["name"]] = Task(
            name=entry["name"],
            source=settings.root / entry["source"],
            upstream=tuple(entry["upstream"]),
            parameters=stated,
            products={key: settings.root / product_path for key, product_path in entry["product"].items()},
            is_gate=entry["is_gate"],
        )
    return Plan(problem=env["problem"], parameters=values, tasks=tasks)


def edition(base: Plan, name: str, entered: Iterable[str], **changed: Any) -> Plan:
    """`base` once more beside itself: other parameters, products of its own, and only some of its stages.

    Parameters
    ----------
    name : str
        Of the edition, such as '2025-08-04'; products lie in 'PROBLEM@NAME'.
    entered : iterable of str
        The stages that run; the others' products are the base's.
    changed : dict
        Parameters that differ, such as as_of.

    Raises
    ------
    SettingsError
        A product that would overwrite the base's, since its place does not name the problem.
    """
    stages = set(entered)
    tasks = {
        task.name: replace(
            task,
            parameters={**task.parameters, **{key: value for key, value in changed.items() if key in task.parameters}},
            products={key: _beside(base, path, name) for key, path in task.products.items()},
        )
        if task.name in stages
        else task
        for task in base.tasks.values()
    }
    values = {**base.parameters, **changed}
    return Plan(f"{base.problem}@{name}", values, tasks, name, frozenset(base.tasks) - frozenset(stages))


def _beside(base: Plan, path: Path, name: str) -> Path:
    """The same product in the edition's folder: the innermost folder called after the problem is the one that changes."""
    parts = list(path.parts)
    positions = [at for at, part in enumerate(parts[:-1]) if part == base.problem]
    if not positions:
        raise SettingsError(
            f"the product {path.name!r} lies in no folder called {base.problem!r}, so a retraining would overwrite it",
            str(path.parent),
            "Let its path in pipeline.yaml hold {{problem}}, then: mlloop check",
        )
    parts[positions[-1]] = f"{base.problem}@{name}"
    return Path(*parts)


def _as_text(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def _ask_ploomber(path: Path, env: Parameters) -> list[dict]:
    printed = io.StringIO()
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            from ploomber.spec import DAGSpec

            spec = DAGSpec(str(path), env=env)
            dag = spec.to_dag()
            upstream = {name: sorted(dag[name].upstream) for name in dag}
            graphlib.TopologicalSorter(upstream).prepare()
    except Exception as error:
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__  # type: ignore[assignment]
        raise SettingsError(" ".join(str(cause).split()), str(path), "Fix the file, then: mlloop check") from error
    declared = {task["name"]: task for task in spec["tasks"]}
    return [
        {
            "name": name,
            "source": os.path.relpath(path.parent / declared[name]["source"], path.parent),  # a project may be moved
            "upstream": upstream[name],
            "params": {k: _as_text(v) for k, v in (declared[name].get("params") or {}).items()},
            "product": _products(path, declared[name]),
            "is_gate": current(str(declared[name].get("on_finish"))) == GATE_HOOK,
        }
        for name in _in_file_order(list(declared), upstream)
    ]


def _in_file_order(listed: list[str], upstream: dict[str, list[str]]) -> list[str]:
    """A topological order that keeps the order of pipeline.yaml where it can."""
    done: list[str] = []
    while len(done) < len(listed):
        done.append(next(n for n in listed if n not in done and set(upstream[n]) <= set(done)))
    return done


def _products(path: Path, task: dict) -> dict[str, str]:
    product = task["product"]
    if not isinstance(product, dict) or not {"nb", "data"} <= set(product):
        raise SettingsError(
            f"the product of {task['name']!r} is {product!r}, expected nb: and data:",
            str(path),
            "Fix the file, then: mlloop check",
        )
    return {key: str(product_path) for key, product_path in product.items()}


def read_verdict(product: Path) -> verdict.StatedVerdict:
    """The verdict in a gate's product, as `core.verdict.stated` understands it."""
    return verdict.stated(storage.read_json(product).get("verdict") if product.exists() else None)


def stop_at_closed_gate(product, params) -> None:
    """Ploomber's on_finish hook of a gate: a plain `ploomber build` stops at a closed gate as well.

    Raises
    ------
    GateClosed
        The verdict is no; what Ploomber noted of the product is removed, so that the gate is asked again next time.
    """
    stated = read_verdict(Path(str(product["data"])))
    if stated["verdict"] != "no":
        return
    product.metadata.delete()
    raise GateClosed(
        "the gate said No: " + "; ".join(stated["reasons"]),
        str(product["data"]),
        "Change the problem statement, then build again",
    )


def parameters_cells(source: Path) -> list[str]:
    """The code of a notebook's cells tagged 'parameters'.

    Raises
    ------
    StageFailed
        The file is not there, or is not a notebook.
    """
    try:
        cells = json.loads(source.read_text(encoding="utf-8"))["cells"]
        return ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", [])]
    except FileNotFoundError as error:
        raise StageFailed(
            "the notebook is not there", str(source), "Restore it, or fix pipeline.yaml, then: mlloop check"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StageFailed(f"not a notebook: {error}", str(source), "Restore it, then: mlloop check") from error


def parameter_names(cell_source: str) -> set[str]:
    """The names that a notebook's parameters cell assigns."""
    names: set[str] = set()
    for node in parsing.tree(cell_source).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names
