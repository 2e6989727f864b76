"""A problem held for its turns: its statement, ledger and lake, the lock, and warm kernels."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlloop import deployment
from mlloop import problem as problems
from mlloop.core import extensions as own
from mlloop.core import settings as _settings
from mlloop.core import storage
from mlloop.core.errors import UsageError
from mlloop.core.settings import Settings
from mlloop.loop import arrivals
from mlloop.pipeline import runner
from mlloop.pipeline.plan import Plan
from mlloop.problem import Problem
from mlloop.store import prediction_log
from mlloop.store.ledger import Ledger

Watch = Callable[[str], None]


@dataclass
class Session:
    """A problem held for its turns.

    Attributes
    ----------
    settings : Settings
    plan : Plan
    statement : Problem
    ledger : Ledger
    lake : Lake
        Read by DuckDB.
    lock : tuple of int or None
        What `runner.hold` gave.
    pool : kernels.Pool or None
        Warm kernels.
    watch : callable
        Told in a word what is being done.
    seconds : dict of str to float
        By step.
    """

    settings: Settings
    plan: Plan
    statement: Problem
    ledger: Ledger
    lake: Any
    lock: runner.Held | None = None
    pool: Any = None
    watch: Watch = lambda word: None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The problem's name."""
        return self.statement.name

    def folder(self, kind: str) -> Path:
        """Where what turns make of a kind ('turns', 'monitoring', 'history') is kept."""
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


@contextlib.contextmanager
def opened(
    settings: Settings, plan: Plan, command: str = "mlloop tick", watch: Watch = lambda word: None
) -> Iterator[Session]:
    """Hold a problem for its turns, with warm kernels; what was begun and not ended is ended first.

    Raises
    ------
    ProjectBusy
    UsageError
        The problem's rows have no time.
    """
    from mlloop.kernels import execute
    from mlloop.store.lake import Lake

    if plan.revision:
        raise UsageError(
            "is a revision that is not in force yet", str(plan.revision), f"mlloop run --problem {plan.revision}"
        )
    statement = arrivals.normal(problems.load(runner.statement_file(settings, plan)))
    own.bring_in(settings.root)
    if isinstance(statement.task, problems.Tabular) and statement.time.column is None:
        raise UsageError(
            "its rows have no time, so nothing can be said of a period, of drift or of when to retrain",
            str(runner.statement_file(settings, plan)),
            "Name the column that says when a row happened: time: {column: ...}; until then: mlloop run",
        )
    with runner.hold(settings, command, statement.name) as lock, execute.pool(settings) as pool:
        ledger = Ledger.open(settings)
        session = Session(settings, plan, statement, ledger, Lake(settings).on_duckdb(), lock, pool, watch)
        clear(settings, plan.problem, statement.name)
        deployment.follow(settings, ledger)
        yield session


def clear(settings: Settings, folder: str, problem: str) -> None:
    """Remove what killed turns and services left half written; a running service keeps its own."""
    for kind in ("turns", "monitoring"):
        storage.sweep(settings.state / kind / folder)
    prediction_log.sweep(settings.state / "predictions" / problem)


@contextlib.contextmanager
def copied(settings: Settings) -> Iterator[Settings]:
    """A copy of the project's state in which nothing that is done counts: what a dry run works on.

    Raises
    ------
    UsageError
        The lake or the ledger is not on this disk.
    """
    here = [settings.lake_uri, settings.ledger_url.removeprefix("sqlite:///")]
    if not all(Path(path).is_relative_to(settings.state) for path in here):
        raise UsageError(
            "a dry run copies lake and ledger, and they are not in the state folder",
            str(settings.state),
            "Try it on a copy of the project",
        )
    with tempfile.TemporaryDirectory(prefix="mlloop-dry-") as folder:
        state = Path(folder, "state")
        skip = shutil.ignore_patterns("artifacts", "debug", "failed", "replays", "kernels*", "*.sock", "run*.lock")
        shutil.copytree(settings.state, state, ignore=skip, symlinks=True)
        inside = lambda path: str(state / Path(path).relative_to(settings.state))
        overrides = {
            "MLLOOP_PATHS_STATE": str(state),
            "MLLOOP_LAKE_URI": inside(settings.lake_uri),
            "MLLOOP_LEDGER_URL": f"sqlite:///{inside(here[1])}",
            "MLLOOP_TRACKING_URL": f"sqlite:///{state / 'mlflow.db'}",
            "MLLOOP_TRACKING_ARTIFACTS": str(state / "artifacts"),
        }
        before = {name: os.environ.get(name) for name in overrides}
        os.environ.update(overrides)
        try:
            yield _settings.load(settings.root)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
