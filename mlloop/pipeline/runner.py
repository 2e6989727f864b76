"""Runs the pipeline: right (only what is stale), atomic, resumable, one run of a problem at a time, stopping at a closed gate.

A stage counts as done when its record is written, which happens after its product is whole; a gate's verdict goes
into the ledger before that. So a kill at any point leaves work to redo and nothing to fix.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from mlloop import problem as problems
from mlloop.core import clock, errors, reads, revisions, storage
from mlloop.core import settings as _settings
from mlloop.core.errors import (
    GateClosed,
    InputChanged,
    MlloopError,
    ParameterError,
    ProjectBusy,
    SettingsError,
    StageFailed,
)
from mlloop.core.formatting import duration
from mlloop.core.records import Parameters
from mlloop.core.settings import Settings
from mlloop.core.verdict import StatedVerdict, is_champion_as_good, lines_to_change
from mlloop.pipeline import plan as plans
from mlloop.pipeline import revise
from mlloop.pipeline.freshness import Freshness, Record, is_run_cell
from mlloop.pipeline.plan import Plan, Task
from mlloop.store import objects
from mlloop.store.entries import SWAPS

if TYPE_CHECKING:
    from mlloop.products import Product


@dataclass(frozen=True)
class Event:
    """What a run tells whoever watches it: 'revision', 'start', 'cell', 'fresh', 'done', 'verdict', 'failed'
    or 'page'."""

    kind: str
    problem: str
    stage: str
    text: str = ""
    cell: int = 0
    cells: int = 0
    seconds: float = 0.0
    rows: int | None = None


@dataclass
class Outcome:
    """How a run of one problem ended."""

    problem: str
    ran: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    verdicts: dict[str, StatedVerdict] = field(default_factory=dict)
    error: MlloopError | None = None
    seconds: float = 0.0
    took: dict[str, float] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        return self.error.exit_code if self.error else 0

    def _repr_html_(self) -> str:
        from mlloop.pages import html_table

        ended = [
            *((name, "ran", self.took.get(name)) for name in self.ran),
            *((name, "fresh", None) for name in self.fresh),
        ]
        lines = [*ended, *((name, "did not run", None) for name in self.skipped)]
        gates = "; ".join(f"{gate} gate: {verdict['verdict']}" for gate, verdict in self.verdicts.items())
        foot = " ".join(filter(None, [f"{gates}." if gates else "", str(self.error or "")]))
        return html_table.table(
            f"{self.problem}: {duration(self.seconds)}", ["stage", "state", "took (s)"], lines, foot
        )


# ---------------------------------------------------------------------------------------------- one run at a time


WHOLE = "run.lock"  # the file of the project's lock; that of a problem has its name
Held = tuple[int, ...]
"""Descriptors of the locks of a run, which its kernels inherit."""


@contextlib.contextmanager
def hold(settings: Settings, command: str, problem: str | None = None, patience_s: float = 3.0) -> Iterator[Held]:
    """Hold a problem, or the whole project, for one run; yields the descriptors of its locks, which the run's kernels inherit.

    Runs of different problems go side by side, and what changes the whole project excludes them all. The operating system
    frees a lock when the last process that has the descriptor is gone, so a killed run is over when its kernels are. A
    ledger in Postgres holds problem or project on other machines as well.

    Parameters
    ----------
    problem : str, optional
        The problem's name; None: the whole project.

    Raises
    ------
    ProjectBusy
        Another run holds the problem, or the project; names it.
    """
    paths = [settings.state / WHOLE, *([problem_lock(settings, problem)] if problem else [])]
    with storage.privately():
        settings.state.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as locks:
        held = []
        for path in paths:
            descriptor = _open_lock(path)
            locks.callback(os.close, descriptor)
            is_shared = path is not paths[-1]
            _take(descriptor, path, is_shared, patience_s, problem or "the project")
            held.append(descriptor)
        _name_holder(held[-1], command)
        storage.tighten(*settings.private)
        locks.callback(storage.tighten, *settings.private)
        _clear_dead(settings, paths[-1])
        with _held_elsewhere(settings, command, problem, patience_s):
            yield tuple(held)


def _clear_dead(settings: Settings, mine: Path) -> None:
    """Remove what killed writers left, unless a run on another machine is writing too: its processes cannot be seen from here."""
    others = [path for path in _locked(_all_locks(settings.state)) if path != mine]
    if all(holder(path).get("host") == socket.gethostname() for path in others):
        storage.clear_dead(settings.state, deep=True)


def _all_locks(state: Path) -> list[Path]:
    """The lock of the project, and those of the problems that have run."""
    return [state / WHOLE, *state.glob("run-*.lock")]


def _locked(locks: Iterable[Path]) -> list[Path]:
    return [path for path in locks if path.is_file() and storage.is_locked(path)]


def problem_lock(settings: Settings, problem: str) -> Path:
    """The file whose lock a run of a problem holds; one for all its revisions."""
    return settings.state / f"run-{revisions.problem_of(problem)}.lock"


def _open_lock(path: Path) -> int:
    if path.is_dir():
        raise SettingsError("is a folder, and the lock of a run is a file", str(path), "Remove it, then: mlloop run")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _name_holder(descriptor: int, command: str) -> None:
    """Write into a lock's file who holds it."""
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "command": command, "since": _now()}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _held_elsewhere(
    settings: Settings, command: str, problem: str | None, patience_s: float
) -> contextlib.AbstractContextManager[None]:
    """The lock that other machines see, where the ledger is on a server; a file needs no database for it."""
    if settings.ledger_url.startswith("sqlite:"):
        return contextlib.nullcontext()
    from mlloop.store import shared_lock

    return shared_lock.hold(settings, command, revisions.problem_of(problem) if problem else None, patience_s)


def _take(descriptor: int, path: Path, is_shared: bool, patience_s: float, what: str) -> None:
    until = time.monotonic() + patience_s
    while True:
        try:
            return fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            # the project may be held as a whole, or by runs of its problems
            others = _all_locks(path.parent) if path.name == WHOLE else [path]
            holders = [holder(lock) for lock in _locked(others)]
            held = next((holding for holding in holders if holding.get("alive")), None)
            if held or time.monotonic() > until:
                held = held or next(iter(holders), Holder())
                who = f"process {held.get('pid', '?')} on {held.get('host', '?')} ({held.get('command', '?')}, since {held.get('since', '?')})"
                raise ProjectBusy(
                    f"another run holds {what}: {who}", str(path.parent), "Wait for it, or stop it, then run again"
                ) from error
            time.sleep(0.05)


class Holder(TypedDict, total=False):
    """Who holds a project's lock: a process on a machine, its command, since when, and whether it is still there."""

    pid: int
    host: str
    command: str
    since: str
    alive: bool


class StageState(TypedDict):
    """How a stage stands: 'fresh', 'stale', 'waiting', 'missing' or 'closed', and why; what it last took and wrote."""

    state: str
    reasons: list[str]
    seconds: NotRequired[float]
    finished_at: NotRequired[str]
    rows: NotRequired[int | None]


def holder(path: Path) -> Holder:
    """Who wrote the lock file last, with `alive`: whether that process is still there; {} where nobody did."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        here = held.get("host") == socket.gethostname()
        return {**held, "alive": not here or Path(f"/proc/{held['pid']}").exists() or _is_alive(held["pid"])}
    except (OSError, ValueError, KeyError):
        return {}


def is_held(settings: Settings) -> bool:
    """Whether a run holds the project, or a problem of it, now."""
    return bool(_locked(_all_locks(settings.state)))


def holder_of(settings: Settings, problem: str) -> Holder | None:
    """Who holds a problem now, or the whole project; None where nobody does."""
    locks = [problem_lock(settings, problem), settings.state / WHOLE]
    return next((holder(path) for path in _locked(locks)), None)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _now() -> str:
    return clock.now().replace(microsecond=0).isoformat()


# ---------------------------------------------------------------------------------------------- the project's state


def project(problem: str | None = None, root: Path | str | None = None, **changed: Any) -> tuple[Settings, Plan]:
    """The settings and the plan of the project around `root` for one problem."""
    settings = _settings.load(root)
    changes = {**changed, **({"problem": problem} if problem else {})}
    values = plans.parameters(settings, **changes)
    file = problems.find(revisions.meant(settings, str(values["problem"])), settings.problems)
    base = None if (settings.state / "products" / file.stem).is_dir() else revise.base_of(file)
    revision, file = (file, base) if base else (None, file)
    if file.suffix in (".yaml", ".yml") and file.resolve().parent == settings.problems:
        values["problem"] = file.stem
    else:
        values["problem"] = str(file.resolve())
    plan = plans.read(settings, values)
    return settings, replace(plan, revision=revision) if revision else plan


def statement_file(settings: Settings, plan: Plan) -> Path:
    """The YAML file of the plan's problem."""
    return getattr(plan, "revision", None) or problems.find(str(plan.parameters["problem"]), settings.problems)


def _statement(settings: Settings, plan: Plan) -> problems.Problem:
    """The plan's statement, to look at; it is read once for as long as its file stays as it is."""
    file = statement_file(settings, plan)
    now = file.stat()
    return _statement_in(file, now.st_mtime_ns, now.st_size, now.st_ino)


@lru_cache(maxsize=8)
def _statement_in(file: Path, *state: int) -> problems.Problem:
    return problems.load(file)


def freshness(settings: Settings, plan: Plan) -> Freshness:
    """The freshness of a plan's stages, with the files outside the pipeline that the first two read."""

    def external(task: Task) -> list[Path]:
        if task.name == "problem":
            return [statement_file(settings, plan)]
        if task.name == "collection":
            from mlloop.collection import external_files

            return external_files(_statement(settings, plan), settings)
        return []

    fresh = Freshness(settings, plan.problem, external, lambda task: _outdated(settings, plan, fresh, task))
    return fresh


def gate_key(plan: Plan, stage: str, key: str, products: dict[str, str]) -> str:
    """The key of a gate's row in the ledger: the same for the same verdict on the same inputs."""
    return storage.digest_json([plan.problem, stage, key, products["data"], products["nb"]])


def _outdated(settings: Settings, plan: Plan, fresh: Freshness, task: Task) -> list[str]:
    """Why a product no longer holds although nothing that it was made of has changed."""
    if task.is_gate:
        return _not_in_ledger(settings, plan, fresh, task)
    stage = storage.read_json(task.products["data"])["stage"]
    if stage == "collection":
        return _more_has_landed(settings, plan, task)
    if stage == "evaluation":
        return _compared_with_another(settings, plan, fresh, task)
    return _not_deployed_here(settings, plan, task) if stage == "deployment" else []


def _more_has_landed(settings: Settings, plan: Plan, task: Task) -> list[str]:
    """Which topics have messages in the lake that the run's moment sees and the collection has not."""
    statement = _statement(settings, plan)
    sources = {name: source for name, source in statement.sources.items() if source.kind == "kafka"}
    moment = plan.parameters.get("as_of") or statement.time.as_of
    if not sources or moment is None:
        return []
    from mlloop import collection
    from mlloop.store.lake import Lake

    collected, lake, stale = _products().load(task.products["data"], _products().Collection), Lake(settings), []
    for name, source in sources.items():
        topic = collection.landing_topic(statement.name, name, source)
        if not lake.exists(topic.table):
            continue
        rows = collection.landed_messages(lake.on_duckdb(), topic, source.late_hours)
        reached = collection.offsets_text(collection.offsets_at(rows, problems.utc(moment)))
        if reached != (collected.batches[name][-1].watermark if collected.batches.get(name) else ""):
            stale.append(f"source {name}: messages have landed since")
    return stale


def _not_in_ledger(settings: Settings, plan: Plan, fresh: Freshness, task: Task) -> list[str]:
    """Why a gate must be asked again: its verdict is not in the ledger, which was lost, emptied or is another one."""
    from mlloop.store.ledger import Ledger

    record, ledger = fresh.record(task.name), Ledger.open(settings)
    name = _statement(settings, plan).name
    if record is None or ledger.recorded(name, gate_key(plan, task.name, record.key, record.products)):
        return []
    return [f"its verdict is not in the ledger {ledger.where}"]


def _not_deployed_here(settings: Settings, plan: Plan, task: Task) -> list[str]:
    """Why a model must be deployed again: the ledger does not know that it was."""
    from mlloop.store.ledger import Ledger

    deployed, ledger = _products().load(task.products["data"], _products().Deployment), Ledger.open(settings)
    name = _statement(settings, plan).name
    if deployed.action == "refused" or ledger.last(name, (*SWAPS, "canary"), model=deployed.model.digest):
        return []
    return [f"its decision is not in the ledger {ledger.where}"]


def _compared_with_another(settings: Settings, plan: Plan, fresh: Freshness, task: Task) -> list[str]:
    """Why an evaluation no longer holds: somebody else is champion than it compared with, and no verdict stands on it.

    An evaluation that a gate has judged is history. The gate's record shows that without a look into the ledger.
    """
    ours = fresh.digests.of(task.products["data"])
    for gate in (
        other_task for other_task in plan.tasks.values() if other_task.is_gate and task.name in other_task.upstream
    ):
        record = fresh.record(gate.name)
        if record and record.parts.get("inputs", {}).get(f"stage {task.name}") == ours:
            return []
    from mlloop.store.ledger import Ledger

    judged = _products().load(task.products["data"], _products().Evaluation)
    row = Ledger.open(settings).champion(_statement(settings, plan).name)
    if row is None or row.model in (judged.model, judged.champion.digest):
        return []
    was = (judged.champion.digest or "nobody")[:12]
    return [f"the champion is {str(row.model)[:12]} since it was compared with {was}"]


def status(settings: Settings, plan: Plan) -> dict[str, StageState]:
    """The state of each stage: 'fresh', 'stale' (and why), 'waiting' (what it reads is stale), 'missing' or 'closed'.

    Returns
    -------
    dict
        stage -> {state, reasons, seconds, finished_at, rows}
    """
    fresh, blocked = freshness(settings, plan), ""
    states: dict[str, StageState] = {}
    for task in plan.tasks.values():
        record, state = fresh.record(task.name), "fresh"
        reasons = _stale(plan, fresh, task) if task.source.exists() else ["its notebook is missing"]
        if reasons:
            state = "missing" if record is None else "stale"
        waits = [name for name in task.upstream if states[name]["state"] != "fresh"]
        if waits and not reasons:
            state, reasons = "waiting", [f"reads {name}, which is {states[name]['state']}" for name in waits]
        if blocked and task.name in plan.downstream(blocked):
            state, reasons = "closed", [f"the gate {blocked} said No"]
        if task.is_gate and state == "fresh" and plans.read_verdict(task.products["data"])["verdict"] == "no":
            blocked = blocked or task.name
        states[task.name] = {"state": state, "reasons": reasons}
        if record:
            states[task.name] |= {"seconds": record.seconds, "finished_at": record.finished_at, "rows": record.rows}
    fresh.remember()
    return states


def _upstream(plan: Plan, task: Task) -> dict[str, Task]:
    return {name: plan.tasks[name] for name in task.upstream}


def _stale(plan: Plan, fresh: Freshness, task: Task) -> list[str]:
    """Why a stage must run, one reason a line."""
    upstream = _upstream(plan, task)
    return fresh.stale(task, fresh.parts(task, upstream), upstream)


# ---------------------------------------------------------------------------------------------- running


def run(
    plan: Plan,
    settings: Settings,
    *,
    start: str | None = None,
    until: str | None = None,
    force: bool = False,
    watch: Callable[[Event], None] = lambda event: None,
    command: str = "mlloop run",
    actor: str = "policy",
    lock: Held | None = None,
) -> Outcome:
    """Bring a problem's products up to date: run what is stale, in order, up to a gate that says No.

    Parameters
    ----------
    start : str, optional
        Run this stage and what follows, fresh or not ("enter at features").
    until : str, optional
        Stop after this stage.
    force : bool
        Run every selected stage, fresh or not.
    lock : tuple of int, optional
        What `hold` gave, where the caller holds the problem already.

    Returns
    -------
    Outcome
        With `error` set when a stage failed or a gate is closed; raised are only errors before the first stage.

    Raises
    ------
    ProjectBusy, ParameterError, ProblemError, SettingsError, StageFailed
    """
    chosen = [name for name in _chosen(plan, until) if name not in plan.taken]
    _must_be_there(settings, plan)
    forced = {start, *plan.downstream(start)} if start and plan.task(start) else set(chosen) if force else set()
    outcome = Outcome(plan.problem)
    began = time.monotonic()
    fresh = freshness(settings, plan)
    problem = problems.load(statement_file(settings, plan)).name
    check_notebooks([plan.tasks[name] for name in chosen])
    if _all_fresh(plan, fresh, chosen, forced, outcome):
        outcome.seconds = time.monotonic() - began
        return outcome
    outcome = Outcome(plan.problem)
    with contextlib.nullcontext(lock) if lock is not None else hold(settings, command, problem) as held:
        for folder in ("products", "records"):
            storage.sweep(settings.state / folder / plan.problem)
        if plan.revision:
            watch(Event("revision", plan.problem, "", text=revise.put_in_force(plan.revision)))
            plan = replace(plan, revision=None)
        work = _Work(plan, settings, freshness(settings, plan), watch, held, actor)
        try:
            work.all(chosen, forced, outcome)
        except MlloopError as error:
            outcome.error = error
        finally:
            work.close()
    outcome.seconds = time.monotonic() - began
    return outcome


def _must_be_there(settings: Settings, plan: Plan) -> None:
    """What an edition takes over is there and recorded, and no gate among it said No."""
    for task in (plan.tasks[name] for name in plan.taken):
        kept = settings.state / "records" / plan.base / f"{task.name}.json"
        if not (kept.exists() and task.products["data"].exists()):
            raise StageFailed(
                f"the stage {task.name} that it takes over has not run",
                plan.problem,
                f"Run it: mlloop run --problem {plan.base}",
            )
        if task.is_gate and (verdict := plans.read_verdict(task.products["data"]))["verdict"] == "no":
            raise closed(replace(plan, problem=plan.base, edition=""), task, verdict)


def _chosen(plan: Plan, until: str | None) -> list[str]:
    if until is None:
        return list(plan.tasks)
    chosen, waiting = set(), [plan.task(until).name]
    while waiting:
        name = waiting.pop()
        chosen.add(name)
        waiting += plan.tasks[name].upstream
    order = list(plan.tasks)
    return [name for name in order if name in chosen or order.index(name) <= order.index(until)]


def check_notebooks(tasks: list[Task]) -> None:
    """Before anything runs: each notebook is there, is one, and takes the parameters it will be given.

    Raises
    ------
    StageFailed, ParameterError
    """
    for task in tasks:
        tagged = plans.parameters_cells(task.source)
        names = plans.parameter_names(tagged[0]) if tagged else set()
        unknown = set(task.parameters) - names
        if unknown:
            raise ParameterError(
                f"the parameters cell does not know {', '.join(sorted(unknown))} (it has: {', '.join(sorted(names)) or 'none'})",
                str(task.source),
                "Add them to the cell tagged 'parameters', or remove them from pipeline.yaml",
            )


def _all_fresh(plan: Plan, fresh: Freshness, chosen: list[str], forced: set[str], outcome: Outcome) -> bool:
    for name in chosen:
        task = plan.tasks[name]
        if name in forced or _stale(plan, fresh, task):
            return False
        outcome.fresh.append(name)
        if task.is_gate:
            verdict = outcome.verdicts[task.gate] = plans.read_verdict(task.products["data"])
            if verdict["verdict"] == "no":
                if _is_against_question(plan, verdict) and (opened := _opened(plan, fresh.settings)):
                    verdict["revision"] = opened
                outcome.error = closed(plan, task, verdict)
                outcome.skipped = [n for n in chosen if n in plan.downstream(name)]
                break
    fresh.remember()
    return True


def _is_against_question(plan: Plan, verdict: StatedVerdict) -> bool:
    """Whether a No asks for another statement: not that to a challenger, nor to a model that is merely no better than the champion."""
    return not (plan.edition or is_champion_as_good(verdict))


def _opened(plan: Plan, settings: Settings) -> str:
    """The next revision that a gate has opened, relative to the project; '' where there is none."""
    file = problems.revision_file(statement_file(settings, plan))
    return os.path.relpath(file, settings.root) if file.is_file() else ""


def closed(plan: Plan, task: Task, verdict: StatedVerdict) -> GateClosed:
    """The error of a gate that said No: why, and what in the problem statement must change."""
    reasons = "; ".join(verdict["reasons"]) or "no reason given"
    change = "\n".join(f"  - {line}" for line in verdict["must_change"])
    step = f"What must change in the problem statement:\n{change}\n" if change else ""
    file = verdict.get("revision")
    lines = " and ".join(lines_to_change(verdict["evidence"])) or "the statement"
    again = f"edit {lines} in {file}, then: mlloop run --problem {file}" if file else f"then: {plan.again}"
    if plan.edition:
        return GateClosed(
            f"the {task.gate} gate said No to the challenger of {plan.edition}: {reasons}",
            plan.base,
            f"The champion stays. See the evidence: mlloop log --problem {plan.base} --kind gate",
        )
    if is_champion_as_good(verdict):
        return GateClosed(
            f"the {task.gate} gate said No to this model: {reasons}",
            plan.problem,
            "The champion stays, and nothing has to change in the problem statement. More rows, or a better model, ask the gate again.",
        )
    return GateClosed(
        f"the {task.gate} gate said No: {reasons}",
        plan.problem,
        f"{step}Back to the problem statement{':' if file else ','} {again}",
    )


class _Work:
    """One run in progress."""

    def __init__(self, plan: Plan, settings: Settings, fresh: Freshness, watch, lock: Held, actor: str):
        self.plan, self.settings, self.fresh, self.watch, self.lock, self.actor = (
            plan,
            settings,
            fresh,
            watch,
            lock,
            actor,
        )
        self.run_id = f"{clock.now():%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
        self._pool: Any = None
        self._stack = contextlib.ExitStack()
        self._mutex = threading.Lock()

    def close(self) -> None:
        self._stack.close()

    def all(self, chosen: list[str], forced: set[str], outcome: Outcome) -> None:
        """Run the stages in the plan's order, two at a time where the graph allows."""
        waiting = list(chosen)
        running: dict[Future, str] = {}
        done: set[str] = set(self.plan.taken)
        with ThreadPoolExecutor(max_workers=_at_once()) as threads:
            try:
                while waiting or running:
                    for name in [n for n in waiting if set(self.plan.tasks[n].upstream) <= done][
                        : _at_once() - len(running)
                    ]:
                        waiting.remove(name)
                        running[threads.submit(self.one, self.plan.tasks[name], name in forced, outcome)] = name
                    if not running:
                        break
                    self._collect(running, done, outcome)
            except MlloopError:
                raise  # what runs beside it may end well: the executor waits for it
            except BaseException:
                self._stop()
                raise
            finally:
                outcome.skipped = [n for n in chosen if n not in outcome.ran and n not in outcome.fresh]

    def _collect(self, running: dict[Future, str], done: set[str], outcome: Outcome) -> None:
        ended, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in ended:
            name = running.pop(future)
            future.result()
            done.add(name)

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.close()

    def one(self, task: Task, forced: bool, outcome: Outcome) -> None:
        """Bring one stage up to date and, at a gate, read its verdict.

        Raises
        ------
        StageFailed, InputChanged, GateClosed
        """
        upstream = _upstream(self.plan, task)
        before = self.fresh.parts(task, upstream)
        if not forced and not self.fresh.stale(task, before, upstream):
            outcome.fresh.append(task.name)
            self.watch(Event("fresh", self.plan.problem, task.name))
        else:
            outcome.took[task.name] = self._execute(task, before)
            outcome.ran.append(task.name)
        if task.is_gate:
            verdict = outcome.verdicts[task.gate] = plans.read_verdict(task.products["data"])
            self.watch(Event("verdict", self.plan.problem, task.name, text=verdict["verdict"]))
            if verdict["verdict"] == "no":
                if _is_against_question(self.plan, verdict):
                    verdict["revision"] = self._open_revision(task, verdict)
                raise closed(self.plan, task, verdict)

    def _open_revision(self, task: Task, verdict: StatedVerdict) -> str:
        """Open the statement's next revision with what must change; its path, relative to the project."""
        from mlloop.store.entries import Entry
        from mlloop.store.ledger import Ledger

        path = statement_file(self.settings, self.plan)
        revision = revise.open_next(self.settings, path, task.gate, verdict["must_change"])
        shown = os.path.relpath(revision, self.settings.root)
        statement = problems.load(path)
        Ledger.open(self.settings).append(
            Entry(
                "revision",
                statement.name,
                subject=task.gate,
                reasons=verdict["must_change"],
                actor=self.actor,
                details={"from": statement.revision, "to": statement.revision + 1, "file": shown},
                key=storage.digest_json(
                    ["revision", statement.name, statement.revision, task.gate, verdict["must_change"]]
                ),
            )
        )
        return shown

    def _execute(self, task: Task, before) -> float:
        self.fresh.forget(task.name)
        began = time.monotonic()
        cells: list[dict] = []
        self.watch(Event("start", self.plan.problem, task.name))
        notes = self.settings.state / "records" / self.plan.problem / f".{task.name}.{os.getpid()}.part.reads"
        try:
            self._notebook(task, cells, reads.watch(notes, self._watched(task)))
            used = self._used(task, notes)
        except StageFailed as error:
            self.watch(Event("failed", self.plan.problem, task.name, text=error.what, seconds=time.monotonic() - began))
            raise
        finally:
            storage.remove(notes)
        now = self.fresh.parts(task, _upstream(self.plan, task))
        changed = sorted(k for k in now.inputs if now.inputs[k] != before.inputs.get(k))
        if changed or set(before.inputs) - set(now.inputs):
            raise InputChanged(
                f"{', '.join(changed) or 'an input'} changed while {task.name} was reading it",
                self.plan.problem,
                f"Run again: {self.plan.again}",
            )
        seconds = round(time.monotonic() - began, 3)
        products = {name: self.fresh.digests.of(path) or "" for name, path in task.products.items()}
        if not all(products.values()):
            missing = ", ".join(n for n, digest in products.items() if not digest)
            raise StageFailed(
                f"ended without writing its product {missing}",
                str(task.source),
                f"Its last cell must call save_product, then: mlloop run --from {task.name}",
            )
        written = _products().read(task.products["data"])
        if task.is_gate:
            self._into_ledger(task, before, products, written)
        self.fresh.keep(
            Record(
                task.name,
                before.key,
                storage.plain(before),
                products,
                seconds,
                _now(),
                _rows(written),
                cells,
                self.run_id,
                used,
            )
        )
        self.watch(Event("done", self.plan.problem, task.name, seconds=seconds, rows=_rows(written)))
        return seconds

    def _watched(self, task: Task) -> dict[Path, str]:
        """The files whose reading is noted, and whose product each is; the statement stands for that of `problem`."""
        files = {self.plan.tasks[name].products["data"]: name for name in task.upstream}
        return {
            **files,
            **({statement_file(self.settings, self.plan): "problem"} if "problem" in task.upstream else {}),
        }

    def _used(self, task: Task, notes: Path) -> dict[str, dict[str, str]]:
        """The fields that a stage used, with their digests, of each product that it read only as a model."""
        return {
            name: reads.digests(storage.read_json(self.plan.tasks[name].products["data"]), fields)
            for name, fields in reads.noted(notes).items()
            if name in task.upstream and reads.WHOLE not in fields
        }

    def _notebook(self, task: Task, cells: list[dict], watching: dict[str, str]) -> None:
        from mlloop.kernels import execute

        failed = self.settings.state / "failed" / self.plan.problem / f"{task.name}.ipynb"
        beside = task.products["nb"].with_name(f".{task.name}.{os.getpid()}.part.ipynb")
        try:
            execute.run_notebook(
                run_act(task),
                beside,
                cwd=self.settings.root,
                env={"MLLOOP_RUN": self.run_id, "MLLOOP_PROJECT": str(self.settings.root), **watching},
                parameters=injected(self.plan, task),
                on_cell=lambda event: self._cell(task, event, cells),
                settings=self.settings,
                pool=self._warm(),
                pass_fds=self.lock,
            )
        except StageFailed as error:
            if beside.exists():
                with self._mutex:
                    failed.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(beside, failed)
            raise self._stage_failed(task, error, failed) from error
        _tidy(beside)
        os.replace(beside, task.products["nb"])
        with self._mutex:
            storage.remove(failed)
            with contextlib.suppress(OSError):  # there is none, or other failures are in it
                os.removedirs(failed.parent)

    def _stage_failed(self, task: Task, error: StageFailed, failed: Path) -> StageFailed:
        where = f"{self.plan.problem}: stage {task.name} ({os.path.relpath(task.source, self.settings.root)})"
        shown = f"Executed notebook: {os.path.relpath(failed, self.settings.root)}" if failed.exists() else ""
        kind = getattr(errors, getattr(error, "ename", ""), None)
        if isinstance(kind, type) and issubclass(kind, MlloopError):
            # it is complete already: what and where, and in its last line the next step
            *lines, step = [line for line in str(getattr(error, "evalue", "")).splitlines() if line.strip()]
            failure = StageFailed("\n".join(lines) or step, where, f"{step}\n{shown}" if lines else shown)
            failure.exit_code = kind.exit_code
            return failure
        run = self.plan.again
        look = "" if self.plan.edition else f"Look into it: mlloop debug {task.name} --problem {self.plan.problem}; "
        again = f"{look}then: {run}"
        if any(os.strerror(number) in error.what for number in storage.NO_ROOM):
            again = f"Nothing was half-written. Make room or give permission, then: {run}"
        what = error.what if hasattr(error, "ename") or not error.where else f"{error.where}: {error.what}"
        return StageFailed(what, where, f"{shown}\n{again}" if shown else again)

    def _cell(self, task: Task, event, cells: list[dict]) -> None:
        if event.seconds is not None:
            cells.append({"cell": event.index, "seconds": round(event.seconds, 3)})
        self.watch(Event("cell", self.plan.problem, task.name, cell=event.index + 1, cells=event.total))

    def _warm(self):
        from mlloop.kernels import execute

        with self._mutex:
            if self._pool is None:
                self._pool = self._stack.enter_context(execute.pool(self.settings))
            return self._pool

    def _into_ledger(self, task: Task, parts, products: dict[str, str], product: "Product") -> None:
        from mlloop.store.entries import Entry
        from mlloop.store.ledger import Ledger

        for name in task.upstream:
            objects.keep(self.settings, self.plan.tasks[name].products["data"])
        verdict = plans.read_verdict(task.products["data"])
        statement = problems.load(statement_file(self.settings, self.plan))
        model = (
            product.model
            if isinstance(product, _products().ValidationGate)
            else (product.model_extra or {}).get("model")
        )
        Ledger.open(self.settings).append(
            Entry(
                "gate",
                statement.name,
                subject=task.gate,
                verdict=verdict["verdict"],
                reasons=verdict["reasons"],
                evidence=verdict["evidence"],
                digests={
                    "code": storage.digest_json([parts.cells, parts.modules]),
                    "environment": parts.dependencies,
                    "notebook": products["nb"],
                    "product": products["data"],
                    **parts.inputs,
                },
                actor=self.actor,
                model=model,
                details={
                    "stage": task.name,
                    "parameters": task.parameters,
                    "deciding": verdict["deciding"],
                    "must_change": verdict["must_change"],
                    "revision": statement.revision,
                    "products": self.plan.problem,
                    "run": self.run_id,
                    **_moment_of(task.parameters, statement),
                },
                key=gate_key(self.plan, task.name, parts.key, products),
            )
        )


def _moment_of(parameters: Mapping[str, Any], statement: problems.Problem) -> dict[str, str]:
    """as_of: the moment in the data up to which a run reads rows; {} where it has none of its own, as rows without time."""
    moment = parameters.get("as_of") or (statement.time and statement.time.as_of)
    return {"as_of": problems.utc(moment).isoformat()} if moment else {}


def _at_once() -> int:
    return max(1, min(2, os.cpu_count() or 1))


def _rows(product: "Product") -> int | None:
    tables = getattr(product, "tables", {}).values()
    counts = [ref.get("rows") if isinstance(ref, dict) else ref.rows for ref in tables]
    known: list[int] = [count for count in counts if count is not None]
    return sum(known) if known else None


def _products():
    """`mlloop.products`, whose models an up-to-date project does not wait for."""
    from mlloop import products

    return products


def _is_prose(cell) -> bool:
    """Whether a cell is prose below the notebook's title."""
    return cell.cell_type == "markdown" and not cell.source.startswith("# ")


def run_act(task: Task):
    """The Run act of a stage's notebook as a notebook: its `#| pipeline` and parameters cells and their prose."""
    import nbformat

    notebook = nbformat.read(task.source, as_version=4)
    marked = [i for i, cell in enumerate(notebook.cells) if is_run_cell(cell)]
    if len(marked) > 1:
        first = marked[0]
        while first and _is_prose(notebook.cells[first - 1]):
            first -= 1
        notebook.cells = [
            cell
            for i, cell in enumerate(notebook.cells)
            if i >= first and (cell.cell_type == "markdown" or i in marked)
        ]
    return notebook


def injected(plan: Plan, task: Task) -> Parameters:
    """What a stage's parameters cell is given: the task's parameters, `upstream` and `product` (absolute paths)."""
    paths = lambda of_task: {name: str(path) for name, path in of_task.products.items()}
    return {
        **task.parameters,
        "upstream": {name: paths(plan.tasks[name]) for name in task.upstream} or None,
        "product": paths(task),
    }


def _tidy(path: Path) -> None:
    """Take out of an executed notebook what differs from run to run: times, papermill's notes, the id of its own cell."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content["metadata"].pop("papermill", None)
    for cell in content["cells"]:
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["id"] = "injected-parameters"
        cell["metadata"] = {"tags": cell["metadata"]["tags"]} if cell["metadata"].get("tags") else {}
    storage.write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
