"""A project in Python: everything the command line can do, on one object.

The command line is a thin layer over `Project`. Heavy libraries are imported by the method that needs them.
"""

import contextlib
import datetime as dt
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mlloop.core import clock, revisions
from mlloop.core import settings as _settings
from mlloop.core.errors import MlloopError, ModelError, UsageError
from mlloop.core.records import BacktestJson, EndedJson, EvaluationJson, JsonObject, MonitoringJson
from mlloop.core.settings import Settings

if TYPE_CHECKING:
    import ibis
    import pandas as pd

    from mlloop.loop.backtest import Policy, Replayed
    from mlloop.loop.erasure import Erased
    from mlloop.loop.history import History, TurnProgress
    from mlloop.loop.maintenance import Maintained
    from mlloop.loop.schedule import Turned
    from mlloop.loop.session import Session
    from mlloop.loop.streaming import Streamed
    from mlloop.pipeline.plan import Plan
    from mlloop.pipeline.replay import Replay
    from mlloop.pipeline.runner import Event, Holder, Outcome, StageState
    from mlloop.problem import Problem
    from mlloop.scaffold.project_files import NewProject
    from mlloop.service.batch import Done
    from mlloop.service.champion import Champion
    from mlloop.service.smoke import SmokeAnswer
    from mlloop.store.chain import Head
    from mlloop.store.entries import Row
    from mlloop.store.lake import Lake
    from mlloop.store.ledger import Ledger, Standing
    from mlloop.store.topics import Landed

Watch = Callable[[str], None]
LAST = 30


def open(root: Path | str | None = None) -> "Project":
    """The project at or above a folder.

    Parameters
    ----------
    root : Path or str, optional
        Default: the current folder.

    Raises
    ------
    ProjectNotFound
        There is none; begin one with `Project.new` or `mlloop new`.
    SettingsError
        Its settings.ini cannot be used.

    Examples
    --------
    >>> import mlloop
    >>> project = mlloop.open()
    >>> project.problems
    ['loan', 'shop']
    """
    _show_in_notebook()
    return Project(root)


def _show_in_notebook() -> None:
    """In IPython: let statements, decisions and products show as tables."""
    import sys

    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    formatter = getattr(get_ipython(), "display_formatter", None)
    if formatter is not None:
        from mlloop.lab import displays

        displays.register(formatter.formatters["text/html"])


def moment(time: dt.datetime | dt.date | str, name: str = "at") -> dt.datetime:
    """A moment as a naive datetime in UTC.

    Parameters
    ----------
    name : str
        What the caller calls it; an error names it.

    Raises
    ------
    UsageError
        It is not a time.
    """
    from mlloop.problem import utc

    try:
        return utc(time)
    except MlloopError as error:
        what = f"{name} is {time!r}, which is not a time such as 2025-03-31 or 2025-03-31T12:00"
        step = "Give one of these forms, in UTC; what is decided when: mlloop log"
        raise UsageError(what, next_step=step) from error


def _reasons(reason: str | Iterable[str]) -> tuple[str, ...]:
    return (reason,) if isinstance(reason, str) else tuple(reason)


def _person(name: str | None) -> str:
    import getpass

    return name or getpass.getuser()


@dataclass(frozen=True)
class Status:
    """The state of each stage of a problem.

    Attributes
    ----------
    problem : str
    stages : dict
        stage -> {state, reasons, seconds, finished_at, rows}; state is 'fresh', 'stale', 'waiting', 'missing' or 'closed'.
    running : dict or None
        Which process holds the problem, or the project, now: pid, host, command, since.
    lost : str or None
        What is missing where the ledger is empty and was not before, see `Project.lost_ledger`.
    production : str
        How production does now against its target and its rule; '' where nothing is in production.
    revision : int
        Which revision of the statement it is of.
    """

    problem: str
    stages: "dict[str, StageState]"
    running: "Holder | None" = None
    lost: str | None = None
    production: str = ""
    revision: int = 1

    def to_df(self) -> "pd.DataFrame":
        """One row a stage: state, reasons (joined), seconds, finished_at (UTC) and rows."""
        import pandas as pd

        lines = [{**state, "reasons": "; ".join(state["reasons"])} for state in self.stages.values()]
        columns = ["state", "reasons", "seconds", "finished_at", "rows"]
        frame = pd.DataFrame(lines, columns=columns, index=pd.Index(list(self.stages), name="stage"))
        return frame.astype({"seconds": "float64", "rows": "Int64"}).assign(
            finished_at=pd.to_datetime(frame["finished_at"])
        )

    def _repr_html_(self) -> str:
        from mlloop.pages import html_table

        cells = [
            (name, state["state"], state.get("seconds"), state.get("rows"), "; ".join(state["reasons"]))
            for name, state in self.stages.items()
        ]
        heading = f"{revisions.problem_of(self.problem)}, revision {self.revision}"
        return html_table.table(heading, ["stage", "state", "took (s)", "rows", "why"], cells, self.production)


@dataclass(frozen=True)
class Reasons:
    """Why a stage would run again, or what was decided about a model.

    Attributes
    ----------
    name : str
        The stage, or the beginning of the model's digest.
    problem : str
    state : dict or None
        Of a stage, as in `Status.stages`.
    decisions : list of Row
        About a model.
    """

    name: str
    problem: str
    state: "StageState | None" = None
    decisions: "list[Row]" = field(default_factory=list)

    def __str__(self) -> str:
        if self.state is None:
            return "\n".join(f"#{row.id} {row.kind} {row.subject}: {'; '.join(row.reasons)}" for row in self.decisions)
        if not self.state["reasons"]:
            return f"{self.name} is fresh: its code, inputs, parameters and dependencies are those of its product"
        return "\n".join(
            [f"{self.name} is {self.state['state']}:", *(f"  - {reason}" for reason in self.state["reasons"])]
        )

    def _repr_html_(self) -> str:
        from mlloop.pages import html_table

        lines = self.state["reasons"] if self.state else str(self).splitlines()
        heading = f"{self.name} is {self.state['state']}" if self.state else f"model {self.name}"
        return html_table.table(heading, ["why"], [[line] for line in lines])


@dataclass(frozen=True)
class InProduction:
    """Which models are in production for a problem, by digest.

    Attributes
    ----------
    problem : str
    champion, canary, previous : str or None
        `previous` is what `Project.rollback` would go back to.
    until : str or None
        The canary's deadline, ISO.
    """

    problem: str
    champion: str | None
    canary: str | None
    until: str | None
    previous: str | None

    def _repr_html_(self) -> str:
        from mlloop.pages import html_table

        shown = {
            "champion": self.champion,
            "canary": self.canary,
            "canary until": self.until,
            "previous": self.previous,
        }
        return html_table.table(f"In production: {self.problem}", ["", ""], [p for p in shown.items() if p[1]])


@dataclass(frozen=True)
class Monitored:
    """What monitoring found in one period.

    Attributes
    ----------
    problem : str
    until : datetime
        The period's end.
    product : dict
        As kept in the state folder.
    notebook : Path
        The executed notebook.
    """

    problem: str
    until: dt.datetime
    product: MonitoringJson
    notebook: Path

    @property
    def health(self) -> str:
        """'ok', 'watch', 'worse' or 'feed broken'."""
        return self.product["health"]

    @property
    def alert(self) -> bool:
        """Whether somebody should look at it."""
        return self.health in ("worse", "feed broken")

    def to_df(self) -> "pd.DataFrame":
        """The period as one row of `Project.monitoring`."""
        from mlloop.pipeline import dataframes

        return dataframes.monitoring([self.product])

    def _repr_html_(self) -> str:
        from mlloop.pages import html_table

        heading = f"{self.problem}, period until {self.until:%Y-%m-%d}: {self.health}"
        return html_table.facts(heading, {str(k): v for k, v in self.to_df().iloc[0].dropna().items()})


class Project:
    """A project: its settings, problem statements, ledger and lake, and everything that can be done with them.

    `problem` is a statement's name or file; left out, it is the one that env.yaml names.

    Parameters
    ----------
    root : Path or str, optional
        A folder at or below the project's; default: the current folder.
    command : str
        What is told to whoever finds the project held.

    Attributes
    ----------
    settings : Settings

    Raises
    ------
    ProjectNotFound, SettingsError

    Examples
    --------
    >>> project.run("loan", until="training").exit_code
    0
    >>> project.status("loan").stages["training"]["state"]
    'fresh'
    """

    def __init__(self, root: Path | str | None = None, command: str = "Python"):
        self.settings: Settings = _settings.load(root)
        self.command = command
        self.created: NewProject | None = None
        self._keep_private()

    def _keep_private(self) -> None:
        """Take others' rights from a state folder that an earlier version, or a copy, left open; remove what a kill left."""
        from mlloop.core import storage

        storage.clear_dead(self.settings.state)
        for folder in self.settings.private:
            if folder.is_dir() and folder.stat().st_mode & 0o077:
                storage.tighten(folder)

    # what it holds

    @property
    def root(self) -> Path:
        """The folder that holds settings.ini and pipeline.yaml."""
        return self.settings.root

    @cached_property
    def ledger(self) -> "Ledger":
        """The append-only table of decisions."""
        from mlloop.store.ledger import Ledger

        return Ledger.open(self.settings)

    def lost_ledger(self) -> str | None:
        """What is missing where the ledger is empty and this project knows rows of it; None where nothing is.

        Raises
        ------
        LedgerError
            A row was changed, removed or added.
        """
        from mlloop.store.ledger import Ledger

        if not Ledger.is_there(self.settings):
            return None
        known = self.ledger.lost()
        if known is None:
            return None
        return (
            f"{self.ledger.where}: the ledger is empty, and its last row that this project knows was row {known.id} "
            f"(hash {known.hash[:12]}...)\nPut back a copy of it (mlloop maintain restore FOLDER). Or begin it again, gates and deployment included: mlloop run"
        )

    def check_ledger(self, accept: bool = False) -> "Head":
        """Verify every row of the ledger; returns its head.

        Parameters
        ----------
        accept : bool
            Take the ledger as it is from here on: what was noted of it earlier no longer counts.

        Raises
        ------
        LedgerError
            A row was changed, removed or added, or the ledger is not the one that this project knows.
        """
        return self.ledger.accept() if accept else self.ledger.verify()

    def copy_ledger(self, to: str) -> "Head":
        """Copy the ledger into another database, row by row as it is; returns the head, verified on both sides.

        Parameters
        ----------
        to : str
            SQLAlchemy URL of an empty database, or of an earlier copy, which is brought up to date.

        Raises
        ------
        LedgerError
            Either chain does not hold, or another ledger is there.
        """
        from mlloop.store.ledger import Ledger

        return self.ledger.copy_to(Ledger(_settings.database(self.root, to)))

    @cached_property
    def lake(self) -> "Lake":
        """The tables, each version of which can be read again."""
        from mlloop.store.lake import Lake

        return Lake(self.settings)

    @property
    def problems(self) -> list[str]:
        """The names of the problem statements."""
        from mlloop.pipeline import revise

        return sorted(p.stem for p in self.settings.problems.glob("*.yaml") if not revise.base_of(p))

    def statement(self, problem: str | None = None) -> "Problem":
        """A problem statement, checked.

        Raises
        ------
        ProblemError
            No such statement, or one that is not consistent; each mistake with its line.

        Examples
        --------
        >>> project.statement("loan").success.metric
        'roc_auc'
        >>> project.statement("laon")
        Traceback (most recent call last):
        ...
        mlloop.core.errors.ProblemError: ...: no problem 'laon' (known: loan, shop). Did you mean 'loan'?
        See them: mlloop status
        """
        from mlloop import problem as problems
        from mlloop.pipeline import plan as plans

        chosen = problem or str(plans.parameters(self.settings)["problem"])
        return problems.load(problems.find(revisions.meant(self.settings, chosen), self.settings.problems))

    def plan(self, problem: str | None = None, changes: Mapping[str, Any] | None = None) -> "Plan":
        """The stages of a problem in an order in which they can run.

        Parameters
        ----------
        changes : mapping, optional
            Parameters over those of env.yaml, such as {'sample': 0.1}.
        """
        from mlloop.pipeline import runner

        changed = dict(changes or {})
        named = changed.pop("problem", None)
        return runner.project(problem or named, self.root, **changed)[1]

    def table(self, name: str, version: int | None = None) -> "ibis.Table":
        """A table of the lake, as an Ibis table on the project's engine.

        Parameters
        ----------
        name : str
            'PROBLEM/TABLE'.
        version : int, optional
            Default: the latest.

        Raises
        ------
        UsageError
            No such table.
        LakeError
            No such version, or files that are gone.

        Examples
        --------
        >>> project.table("loan/loans").count().to_pandas()
        3
        """
        from mlloop.problem import did_you_mean

        if not self.lake.exists(name):
            problem = name.partition("/")[0]
            known = self.lake.names(problem) or [
                table for other_problem in self.problems for table in self.lake.names(other_problem)
            ]
            step = "Make it: mlloop run --until ingestion" if not known else "Example: project.table('shop/purchases')"
            raise UsageError(
                f"no table {name!r}{did_you_mean(name, known) if known else ''}", self.settings.lake_uri, step
            )
        return self.lake.read(name, version)

    # figures

    def champion(self, problem: str | None = None) -> "Champion":
        """The model in production, which predicts on DataFrames with the code that answers requests.

        Raises
        ------
        ModelError
            No model is in production, or its release was altered.

        Examples
        --------
        >>> project.champion("loan").predict(rows.head(1)).round(2)
              score  prediction
        L0-0   0.35           0
        """
        from mlloop import deployment
        from mlloop.core import extensions
        from mlloop.service.champion import Champion
        from mlloop.store import champions

        name = self.statement(problem).name
        row = self.ledger.champion(name)
        if row is None:
            raise ModelError("no model is in production", name, champions.way_into_production(self.ledger, name))
        extensions.bring_in(self.root)
        return Champion(
            self.settings, self.ledger, row, deployment.load_release(self.settings, self.ledger, name, str(row.model))
        )

    def features(self, problem: str, rows: "pd.DataFrame") -> "pd.DataFrame":
        """The columns that the model in production sees for these rows, see `Champion.features`.

        Examples
        --------
        >>> list(project.features("loan", rows).columns)
        ['amount', 'age', 'town', 'job']
        """
        return self.champion(problem).features(rows)

    def evaluation(self, problem: str | None = None) -> "pd.DataFrame":
        """The figures of the holdout period of the model that was trained last, see `dataframes.evaluation`.

        Returns
        -------
        DataFrame
            part ('metric', 'slice', 'contender' or 'latency'), name, value, low, high, unit and n, one row a figure.

        Raises
        ------
        UsageError
            The stage has not run.
        """
        from mlloop.core import metrics
        from mlloop.pipeline import dataframes

        success = self.statement(problem).success
        return dataframes.evaluation(
            cast(EvaluationJson, self._product(problem, "evaluation")),
            success.metric,
            metrics.metric(success.metric).unit,
        )

    def monitoring(self, problem: str | None = None) -> "pd.DataFrame":
        """What monitoring found, a period a row, see `dataframes.monitoring`; without rows where no period was monitored.

        Returns
        -------
        DataFrame
            Indexed by `until`: health, the estimated and realised metric with intervals and unit, reference, drift.
        """
        from mlloop import products
        from mlloop.pipeline import dataframes

        folder = self.settings.state / "monitoring" / self.plan(problem).problem
        return dataframes.monitoring([products.load_monitoring(path) for path in sorted(folder.glob("[!.]*.json"))])

    def _product(self, problem: str | None, stage: str) -> JsonObject:
        from mlloop import products

        plan = self.plan(problem)
        path = plan.task(stage).products["data"]
        if not path.exists():
            raise UsageError(
                f"the stage {stage} has not run",
                plan.problem,
                f"Run it: mlloop run --problem {plan.problem} --until {stage}",
            )
        return products.load_product(str(path))

    # running

    def run(
        self,
        problem: str | None = None,
        *,
        start: str | None = None,
        until: str | None = None,
        changes: Mapping[str, Any] | None = None,
        force: bool = False,
        pages: bool = True,
        watch: "Callable[[Event], None]" = lambda event: None,
    ) -> "Outcome":
        """Bring a problem's products up to date: run what is stale, up to a gate that says No.

        Parameters
        ----------
        start : str, optional
            Run this stage and what follows, fresh or not.
        until : str, optional
            Stop after this stage.
        changes : mapping, optional
            Parameters over those of env.yaml, such as {'sample': 0.1}.
        force : bool
            Run every stage, fresh or not.
        pages : bool
            Whether to write the pages afterwards.
        watch : callable, optional
            Is given each event of the run.

        Returns
        -------
        Outcome
            ran, fresh, skipped, verdicts, seconds; `error` where a stage failed or a gate said No.

        Raises
        ------
        MlloopError
            What is found wrong before the first stage.

        Examples
        --------
        >>> outcome = project.run("loan", start="need_gate", until="need_gate")
        >>> outcome.ran, outcome.verdicts["need"]["verdict"]
        (['need_gate'], 'yes')
        """
        from mlloop.pipeline import runner

        outcome = runner.run(
            self.plan(problem, changes), self.settings, start=start, until=until, force=force, watch=watch, command=self.command
        )  # fmt: skip
        if pages:
            with contextlib.suppress(MlloopError):  # an error of the pages never hides a run's outcome
                self.report(again=bool(outcome.ran or outcome.error))
        return outcome

    def gate(
        self,
        name: str,
        problem: str | None = None,
        *,
        changes: Mapping[str, Any] | None = None,
        force: bool = False,
        watch: "Callable[[Event], None]" = lambda event: None,
    ) -> "Outcome":
        """Ask one gate, running first what it reads.

        Parameters
        ----------
        name : str
            'need' or 'validation'.
        force : bool
            Ask again even where nothing changed.

        Returns
        -------
        Outcome
            `verdicts[name]` has verdict, reasons, evidence and must_change.

        Raises
        ------
        UsageError
            No such gate.

        Examples
        --------
        >>> project.gate("need", "loan").verdicts["need"]["reasons"]
        ['3 rows']
        """
        from mlloop.pipeline import runner
        from mlloop.problem import did_you_mean

        plan = self.plan(problem, changes)
        gates = {task.gate: task.name for task in plan.tasks.values() if task.is_gate}
        stage = gates.get(name.removesuffix("_gate"))
        if stage is None:
            raise UsageError(
                f"no gate {name!r}{did_you_mean(name, gates)}", "pipeline.yaml", "Example: mlloop gate need"
            )
        return runner.run(
            plan, self.settings, until=stage, start=stage if force else None, watch=watch, command=self.command
        )

    def status(self, problem: str | None = None, *, changes: Mapping[str, Any] | None = None) -> Status:
        """Each stage's state: fresh, stale, waiting, missing, or behind a closed gate.

        Examples
        --------
        >>> project.status("loan").to_df()["state"].iloc[0]
        'fresh'
        """
        from mlloop.pipeline import runner

        plan = self.plan(problem, changes)
        stages = runner.status(self.settings, plan)
        statement = self._stated(plan)
        held = runner.holder_of(self.settings, statement.name if statement else plan.base)
        return Status(plan.problem, stages, held, self.lost_ledger(), *self._against_target(plan, statement))

    def _stated(self, plan: "Plan") -> "Problem | None":
        """The statement of a plan; None where it is not valid, which the stage `problem` tells."""
        from mlloop import problem as problems
        from mlloop.pipeline import runner

        try:
            return problems.load(runner.statement_file(self.settings, plan))
        except MlloopError:
            return None

    def _against_target(self, plan: "Plan", statement: "Problem | None") -> tuple[str, int]:
        """How production does now against its target and its rule ('' where that cannot be said), and the statement's revision."""
        from mlloop.pages import problem_view

        if statement is None:
            return "", revisions.number_of(plan.problem)
        standing = problem_view.standing_now(self.settings, plan.problem, statement)
        sentences = (standing["sentence"], standing["rule"]) if standing else ()
        return " ".join(filter(None, sentences)), statement.revision

    def why(self, name: str, problem: str | None = None, *, changes: Mapping[str, Any] | None = None) -> Reasons:
        """Why a stage would run again, or what was decided about a model.

        Parameters
        ----------
        name : str
            A stage, or a model's digest (its beginning is enough).

        Raises
        ------
        ParameterError, UsageError
            No such stage or model.

        Examples
        --------
        >>> print(project.why("need_gate", "loan"))
        need_gate is fresh: its code, inputs, parameters and dependencies are those of its product
        """
        plan = self.plan(problem, changes)
        if name not in plan.tasks and len(name) >= 6 and all(c in "0123456789abcdef" for c in name):
            rows = [row for row in self.ledger.rows() if (row.model or "").startswith(name)]
            if not rows:
                raise UsageError(f"the ledger knows no model {name!r}", next_step="See what it knows: mlloop log")
            return Reasons(name, plan.problem, None, rows)
        plan.task(name)
        return Reasons(name, plan.problem, self.status(problem, changes=changes).stages[name])

    # decisions

    def log(self, problem: str | None = None, kind: str | None = None, last: int | None = LAST) -> "list[Row]":
        """What was decided, with the evidence, the newest last; the ledger is verified first.

        Parameters
        ----------
        problem : str, optional
            Default: all.
        kind : str, optional
            'gate', 'promotion', 'canary', 'rollback', 'retrain' or 'revision'.
        last : int or None
            How many rows, the newest; None: all.

        Raises
        ------
        UsageError
            No such kind.
        LedgerError
            A row was changed, removed or added.
        """
        from mlloop.problem import did_you_mean
        from mlloop.store.ledger import KINDS

        if kind is not None and kind not in KINDS:
            raise UsageError(
                f"no kind {kind!r}{did_you_mean(kind, KINDS)}", "--kind", "Example: mlloop log --kind gate"
            )
        self.ledger.verify()
        rows = self.ledger.rows(problem=problem, kind=kind)
        return rows if last is None else rows[-last:]

    def decisions(self, problem: str | None = None, kind: str | None = None, last: int | None = None) -> "pd.DataFrame":
        """The ledger as a DataFrame, a decision a row, see `dataframes.decisions`.

        Examples
        --------
        >>> project.decisions("loan", kind="gate")[["subject", "verdict", "figure", "value"]].tail(1).to_dict("records")
        [{'subject': 'need', 'verdict': 'yes', 'figure': 'rows', 'value': 3.0}]
        """
        from mlloop.pipeline import dataframes

        return dataframes.decisions(self.log(problem, kind, last))

    def at(self, moment: dt.datetime | dt.date | str | None = None, clock: str = "decision") -> "dict[str, Standing]":
        """What was in production at a time and what the gates had said, by problem.

        Parameters
        ----------
        moment : datetime, date or str, optional
            UTC; default: now.
        clock : {'decision', 'data'}
            'decision': by when it was decided; 'data': by the moment at which the data stood, which a replayed history has.

        Raises
        ------
        UsageError
            No such clock, or not a time.

        Examples
        --------
        >>> project.at("2025-01-01")
        {}
        """
        if clock not in ("decision", "data"):
            raise UsageError(
                f"the clock is {clock!r}, expected decision or data", "--clock", "Example: mlloop at now --clock data"
            )
        when = None if moment in (None, "now") else _moment(moment, "moment")
        return self.ledger.at_in_the_data(when or dt.datetime.max) if clock == "data" else self.ledger.at(when)

    def in_the_data(self) -> dict[int, dt.datetime]:
        """Decision's number -> where its data stood, for those whose data stood elsewhere than the clock, as in a replayed history."""
        from mlloop.store import clocks

        rows = self.ledger.rows()
        problems = sorted({row.problem for row in rows})
        moments: dict[int, dt.datetime | None] = {}
        for name in problems:
            moments |= clocks.in_the_data([row for row in rows if row.problem == name])
        return {number: at for number, at in moments.items() if at is not None}

    def replay(self, decision: int) -> "Replay":
        """Run a gate's notebook again on the inputs recorded with its decision, and compare.

        Returns
        -------
        dict
            gate, problem, then, now (verdicts), same (bool), differs (list of str).
        """
        from mlloop.pipeline.replay import replay

        return replay(self.settings, decision)

    # in production

    def in_production(self, problem: str | None = None) -> InProduction:
        """Which models are in production now."""
        name = self.statement(problem).name
        champion, canary = self.ledger.champion(name), self.ledger.canary(name)
        return InProduction(
            name,
            champion.model if champion else None,
            canary.model if canary else None,
            canary.details.get("deadline") if canary else None,
            self.ledger.previous_champion(name),
        )

    def promote(
        self,
        problem: str | None = None,
        model: str | None = None,
        *,
        canary: bool = False,
        reason: str | Iterable[str] = (),
        by: str | None = None,
        dry_run: bool = False,
        on_decided: "Callable[[InProduction], None]" = lambda now: None,
    ) -> InProduction:
        """Put a model that passed its gate into production.

        Parameters
        ----------
        model : str, optional
            A digest (its beginning is enough); default: the one trained last. Where it is champion already, nothing is
            done.
        canary : bool
            On a share of the requests, beside the champion.
        reason : str or iterable of str
            Goes into the ledger.
        by : str, optional
            Who decides; default: you.
        dry_run : bool
            Say what would be in production; nothing is decided.
        on_decided : callable
            Is given what is in production as soon as the decision stands.

        Raises
        ------
        PromotionRefused
            No gate said yes to it, or somebody else promoted first.
        ModelError
            No such model, or its release was altered.
        """
        from mlloop import deployment

        statement = self.statement(problem)
        if not canary and deployment.is_champion_already(self.settings, self.ledger, statement, model):
            now = self.in_production(problem)
            on_decided(now)
            return now
        ledger, then = self._decided(statement.name, on_decided, dry_run)
        row = deployment.put(
            self.settings, ledger, statement, model, on_trial=canary, actor=_person(by), reasons=_reasons(reason), then=then
        )  # fmt: skip
        return self._would_be(row) if dry_run else self.in_production(problem)

    def rollback(
        self,
        problem: str | None = None,
        *,
        to: str | None = None,
        canary: bool = False,
        reason: str | Iterable[str] = (),
        by: str | None = None,
        dry_run: bool = False,
        on_decided: "Callable[[InProduction], None]" = lambda now: None,
    ) -> InProduction:
        """Go back to an earlier champion, or end a canary.

        Parameters
        ----------
        to : str, optional
            An earlier champion; default: the one before. Where it is champion already, nothing is done: with `to` the
            same call can be repeated.
        canary : bool
            Only end the canary.
        dry_run : bool
            Say what would be in production; nothing is decided.
        on_decided : callable
            Is given what is in production as soon as the decision stands.

        Raises
        ------
        PromotionRefused
            There is no earlier champion, or no canary.
        """
        from mlloop import deployment

        name, why = self.statement(problem).name, _reasons(reason)
        ledger, then = self._decided(name, on_decided, dry_run)
        if canary:
            row = deployment.stop_canary(self.settings, ledger, name, _person(by), why, then)
        else:
            chosen, now = deployment.known_model(ledger, name, to) if to else None, self.in_production(problem)
            if chosen is not None and chosen == now.champion:
                on_decided(now)
                return now
            row = deployment.rollback(self.settings, ledger, name, chosen, _person(by), why, then)
        return self._would_be(row) if dry_run else self.in_production(problem)

    def _would_be(self, row: "Row") -> InProduction:
        """What would be in production after a row of a preview."""
        now = self.in_production(row.problem)
        if row.kind == "canary":
            begins = row.subject == "started"
            deadline = row.details.get("deadline") if begins else None
            return InProduction(row.problem, now.champion, row.model if begins else None, deadline, now.previous)
        earlier = self.ledger.earlier_champions(row.problem)
        before = earlier[: earlier.index(str(row.model))] if row.kind == "rollback" else [now.champion]
        return InProduction(row.problem, row.model, None, None, before[-1] if before else None)

    def serve(
        self,
        problem: str | Sequence[str] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        token_file: Path | None = None,
        max_body: int = 1024 * 1024,
        poll_s: float = 0.5,
        durable: str = "disk",
        request_s: float = 15.0,
        max_requests: int = 256,
        once: bool = False,
        ready: Callable[[str], None] = lambda address: None,
    ) -> "list[SmokeAnswer]":
        """Answer over HTTP with the models in production, until it is stopped.

        Parameters
        ----------
        problem : str or sequence of str, optional
            Default: all that have a champion.
        host, port
            Another host than loopback needs a token; port 0: any that is free.
        token_file : Path, optional
            File with the token; default: MLLOOP_TOKEN.
        max_body : int
            Bytes of a request, at most.
        poll_s : float
            Seconds between two checks of the ledger.
        durable : {'disk', 'process'}
            'disk': a prediction is on disk before it is acknowledged; 'process': the operating system has it.
        request_s : float
            Seconds in which a request must have arrived whole.
        max_requests : int
            Requests answered at the same time, at most; more are refused with 503.
        once : bool
            Start it, ask it for one real row of each problem over HTTP, and stop.
        ready : callable
            Is given the address once it answers.

        Returns
        -------
        list of dict
            With `once`: problem, path, asked, status and answer of each problem; else [].
        """
        from mlloop.service import http, smoke
        from mlloop.service.models_in_use import InProduction

        names = [problem] if isinstance(problem, str) else list(problem) if problem else None
        options = http.Options.stated(
            durable, token_file, host=host, port=port, max_body=max_body, poll_s=poll_s, request_s=request_s,
            max_requests=max_requests,
        )  # fmt: skip
        if once:
            return smoke.ask_once(self.settings, names, options)
        self._follow_aliases()
        http.serve(InProduction(self.settings, names), options, ready=ready)
        return []

    def _follow_aliases(self) -> None:
        """Let MLflow's aliases follow the ledger, in a process of its own: MLflow is heavy, and nobody need wait for it.

        Killed, it leaves aliases that the next start sets.
        """
        import subprocess
        import sys

        file = self.settings.tracking_url.removeprefix("sqlite:///")
        if file != self.settings.tracking_url and not Path(file).exists():  # nothing was ever registered
            return
        work = "import os; os.nice(10); import mlloop; from mlloop import deployment; p = mlloop.open(); deployment.follow(p.settings, p.ledger)"
        nowhere = subprocess.DEVNULL
        subprocess.Popen(
            [sys.executable, "-c", work], cwd=self.root, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True
        )  # fmt: skip

    def _decided(self, problem: str, on_decided: "Callable[[InProduction], None]", dry_run: bool):
        """The ledger for a decision, and what is done once it stands: it is told, then MLflow's aliases follow."""

        def then(settings: Settings, ledger: "Ledger") -> None:
            on_decided(self.in_production(problem))
            self._follow_aliases()

        return (self.ledger.dry(), lambda settings, ledger: None) if dry_run else (self.ledger, then)

    def predict(
        self,
        table: "str | Path | pd.DataFrame",
        problem: str | None = None,
        *,
        out: Path | str | None = None,
        log: bool = True,
    ) -> "Done":
        """Predict every row of a table with champion and canary, as the service would, and keep it in the prediction log.

        Parameters
        ----------
        table : str, Path or DataFrame
            A CSV, Parquet or JSON-lines file (each also .gz), a table of the lake ('lake:employment/holdout'), or rows.
        out : Path or str, optional
            A CSV or Parquet file to write.
        log : bool
            Whether to keep the predictions in the log, which monitoring reads.

        Returns
        -------
        Done
            `answered` (DataFrame) and `summary` (counts, and why rows were refused).

        Examples
        --------
        >>> project.predict(rows, "loan", log=False).summary["answered"]
        3
        """
        from mlloop.core import extensions
        from mlloop.service import batch

        extensions.bring_in(self.root)
        return batch.score(self.settings, self.statement(problem).name, table, Path(out) if out else None, log)

    # the loop

    @contextlib.contextmanager
    def session(self, problem: str | None = None, *, watch: Watch = lambda word: None) -> "Iterator[Session]":
        """Hold a problem for its turns, with warm kernels: what several turns in a row need.

        Raises
        ------
        ProjectBusy
            Another run holds the problem, or the project.
        UsageError
            The problem's rows have no time.
        """
        from mlloop.loop import session

        with session.opened(self.settings, self.plan(problem), self.command, watch) as held:
            yield held

    def tick(
        self,
        problem: str | None = None,
        *,
        at: dt.datetime | dt.date | str | None = None,
        until: str | None = None,
        dry_run: bool = False,
        watch: Watch = lambda word: None,
    ) -> "Turned":
        """Turn the loop once: data, predictions, monitoring, canary, decision, retraining.

        Parameters
        ----------
        at : datetime, date or str, optional
            The moment to stand at, UTC; default: the next turn of the problem's schedule, if its time has come.
        until : {'collect', 'monitor', 'canary', 'decide', 'retrain'}, optional
            Stop after this step; the next call with the same `at` goes on from there.
        dry_run : bool
            Decide on a copy of the state; nothing is kept.
        watch : callable
            Is told in a word what is being done.

        Returns
        -------
        Turned
            action, verdict, health, champion, canary and what ended in this turn; the last one, as it was decided,
            where none is due.

        Raises
        ------
        UsageError
            The first turn is not due at `at`, no model is in production, or no such step.
        """
        from mlloop.loop import schedule

        if until is not None and until not in schedule.STEPS:
            from mlloop.problem import did_you_mean

            raise UsageError(
                f"a turn has no step {until!r} (known: {', '.join(schedule.STEPS)}){did_you_mean(until, schedule.STEPS)}",
                "--until",
                "Example: mlloop tick --problem shop --until monitor",
            )
        now = moment(at) if at else clock.now()
        if not at and (standing := schedule.idle(self.settings, self.plan(problem), now)):
            return standing
        from mlloop.loop import session, turn

        if dry_run:
            self.plan(problem)  # an unknown problem is told before anything is copied
            with session.copied(self.settings) as copy:
                project = Project(copy.root, self.command)
                with project.session(problem, watch=watch) as held:
                    return turn.turn(held, turn.chosen(held, now, bool(at)), launch=False, pages=False, until=until)
        from mlloop.loop import alerts

        with self.session(problem, watch=watch) as held:
            turned = turn.turn(held, turn.chosen(held, now, bool(at)), until=until)
            turned = alerts.notify(self.settings, held.ledger, turned)
        self._publish()
        return turned

    def monitor(
        self,
        problem: str | None = None,
        *,
        at: dt.datetime | dt.date | str | None = None,
        watch: Watch = lambda word: None,
    ) -> Monitored:
        """Monitor the model in production over the last whole period, deciding nothing.

        Parameters
        ----------
        at : datetime, date or str, optional
            The moment to stand at, UTC; default: now.

        Raises
        ------
        UsageError
            No model is in production.
        """
        from mlloop import products
        from mlloop.loop import turn

        now = moment(at) if at else clock.now()
        with self.session(problem, watch=watch) as held:
            period = turn.last_period(held, now, bool(at))
            path = turn.monitoring_product(held, period)
        self._publish()
        return Monitored(held.plan.problem, period.until, products.load_monitoring(path), path.with_suffix(".ipynb"))

    def retrain(
        self,
        problem: str | None = None,
        *,
        at: dt.datetime | dt.date | str | None = None,
        explore: bool = False,
        reason: str | Iterable[str] = (),
        by: str | None = None,
        watch: Watch = lambda word: None,
    ) -> list[EndedJson]:
        """Train a challenger on the data up to now, whatever the policy says; gate and canary decide as always.

        Parameters
        ----------
        explore : bool
            Compare the candidates again as well.

        Returns
        -------
        list of dict
            what, model, outcome and reasons of what ended; [] where this retraining was done already.
        """
        from mlloop.loop import turn

        now = moment(at) if at else clock.now().replace(minute=0, second=0, microsecond=0)
        with self.session(problem, watch=watch) as held:
            ended = turn.retrain_now(held, now, _person(by), _reasons(reason), explore)
        self._publish()
        return ended

    def loop(
        self,
        problem: str | None = None,
        *,
        until: dt.datetime | dt.date | str,
        since: dt.datetime | dt.date | str | None = None,
        every: int | None = None,
        always: bool = True,
        pages: bool = True,
        on_turn: "Callable[[TurnProgress], None]" = lambda line: None,
        watch: Watch = lambda word: None,
    ) -> "History":
        """Replay a history with the loop, and measure it against never and always retraining.

        Parameters
        ----------
        until, since : datetime, date or str
            UTC; `since` defaults to the statement's as_of.
        every : int, optional
            Days; must be the statement's.
        always : bool
            Whether to compare with fixed schedules of retraining as well.
        pages : bool
            Whether to make the notebooks of what was decided, and the page.
        on_turn : callable
            Is given each turn once it is made.

        Returns
        -------
        History
            summary (turns, periods, totals of each policy), page, turned.
        """
        from mlloop.loop import start

        end, begin = moment(until, "until"), moment(since, "since") if since else None
        start.must_be_in_production(self.settings, self.statement(problem).name)
        plan = self.plan(problem)
        from mlloop.loop import history

        replayed = history.loop(self.settings, plan, end, begin, every, on_turn, watch, always, pages)
        if replayed.page and replayed.turned:
            self.report()  # the other pages link to the one of the loop, and show what it decided
        return replayed

    def policies(self, problem: str | None = None) -> "list[Policy]":
        """The retraining policies that `backtest` compares."""
        from mlloop.loop import backtest

        return backtest.policies(self.statement(problem))

    def backtest(
        self,
        problem: str | None = None,
        *,
        until: dt.datetime | dt.date | str | None = None,
        policy: str | Sequence[str] = (),
        jobs: int = 2,
        keep: bool = False,
        on_replay: "Callable[[Replayed], None]" = lambda replayed: None,
        watch: Watch = lambda word: None,
    ) -> BacktestJson:
        """Replay the history under several retraining policies, gates and trials included, and compare their worth.

        What was replayed is kept; killed, the same call goes on.

        Parameters
        ----------
        until : datetime, date or str, optional
            UTC; default: the end of the last `loop`.
        policy : str or sequence of str
            Names of `policies`; default: all.
        jobs : int
            Replays at the same time.
        keep : bool
            Whether to keep the replayed copies of the project.
        on_replay : callable
            Is given each replay once it has ended.

        Returns
        -------
        dict
            The worth of each policy with its interval, and the line for the statement.
        """
        from mlloop.loop import start

        start.must_be_in_production(self.settings, self.statement(problem).name)
        plan = self.plan(problem)
        end = moment(until, "until") if until else start.last_end(self.settings, plan)
        from mlloop.loop import backtest

        names = (policy,) if isinstance(policy, str) else policy
        return backtest.backtest(self.settings, plan, end, names, jobs, on_replay, watch, keep)

    # pages, files and notebooks

    def report(self, *, open: bool = False, again: bool = True) -> Path:
        """Write the pages of everything that ran; returns the first.

        Parameters
        ----------
        open : bool
            Show it in a browser.
        again : bool
            Whether to write them even where they are current.
        """
        from mlloop.pages import problem_view, report
        from mlloop.pipeline import runner

        index = self.settings.reports / "index.html"
        if again or not report.is_current(self.settings):
            states = {}
            for name in problem_view.names(self.settings):
                with contextlib.suppress(MlloopError):
                    states[name] = runner.status(self.settings, self.plan(name))
            index = report.write(self.settings, states=states)
        if open:
            import webbrowser

            webbrowser.open(index.as_uri())
        return index

    def ingest(
        self,
        problem: str | None = None,
        *,
        sources: Sequence[str] = (),
        follow: bool = False,
        every_s: float = 10.0,
        batch_rows: int = 10_000,
        idle_s: float = 5.0,
        metrics: tuple[str, int] | None = None,
        on_landed: "Callable[[str, Landed], None]" = lambda source, batch: None,
        watch: Watch = lambda line: None,
    ) -> "Streamed":
        """Land the messages of a problem's topics in the lake, each once; `run` and `tick` read what has landed.

        It does not hold the project: runs and turns go on beside it.

        Parameters
        ----------
        sources : sequence of str
            Default: all of kind 'kafka'.
        follow : bool
            Go on until SIGTERM or SIGINT; else it ends when no message came for `idle_s`.
        every_s, batch_rows
            A micro-batch lands after so many seconds or messages, whichever comes first.
        metrics : (str, int), optional
            Host and port at which to serve figures for Prometheus while it runs.
        on_landed : callable
            Is given the source and each micro-batch that landed.
        watch : callable
            Is told of a broker that is away, and where the figures are.

        Raises
        ------
        UsageError
            The problem has no such source.
        SourceError
            The broker or the topic cannot be reached, or messages are gone that were not read yet.
        """
        from mlloop.loop import streaming

        pace = streaming.Pace(batch_rows, every_s, None if follow else idle_s)
        return streaming.stream(
            self.statement(problem),
            self.settings,
            pace,
            sources,
            metrics,
            on_landed,
            watch,
            lambda at: watch(f"figures: {at}"),
        )

    def maintain(
        self, problem: str | None = None, *, dry_run: bool = False, watch: Watch = lambda line: None
    ) -> "list[Maintained]":
        """Compact tables of many files, and remove what nothing cites and what is past its retention.

        Versions of tables that a product, a release or a row of the ledger names stay, whatever their age. See [maintain]
        in settings.ini.

        Parameters
        ----------
        problem : str, optional
            Default: every problem.
        dry_run : bool
            Change nothing; say what would be done.
        watch : callable
            Is told of each table.

        Raises
        ------
        ProjectBusy
            A run or a turn holds the project, or a problem of it.
        LakeError
            A table cannot be read or written.

        Examples
        --------
        >>> [done.problem for done in project.maintain("loan", dry_run=True)]
        ['loan']
        """
        from mlloop.loop import maintenance
        from mlloop.pipeline import runner

        statements = [self.statement(name) for name in ([problem] if problem else self.problems)]
        with runner.hold(self.settings, self.command):
            cited = maintenance.cited_versions(self.settings, self.ledger)
            return [
                maintenance.maintain(self.settings, statement, cited, dry_run=dry_run, watch=watch)
                for statement in statements
            ]

    def erase(
        self,
        column: str,
        value: str,
        problem: str | None = None,
        *,
        dry_run: bool = False,
        watch: Watch = lambda line: None,
    ) -> "list[Erased]":
        """Erase one person's rows: from data files of the project, raw copies, tables in all versions, prediction logs.

        Decisions and releases stay; the ledger gets a row that names no value. It cannot be undone. A call that was
        interrupted is completed by the next one.

        Parameters
        ----------
        column, value : str
            Whose rows: those in which the column of a table holds the value.
        problem : str, optional
            Default: every problem.
        dry_run : bool
            Change nothing; count what would be erased.
        watch : callable
            Is told of each table.

        Raises
        ------
        UsageError
            No table has that column.
        ProjectBusy
            A run or a turn holds the project, or a problem of it.
        LakeError
            A table cannot be read or written.
        """
        from mlloop.loop import erasure
        from mlloop.pipeline import runner

        statements = [self.statement(name) for name in ([problem] if problem else self.problems)]
        who = erasure.person(statements, column, value)
        with runner.hold(self.settings, "mlloop maintain erase"):
            return erasure.erase(
                self.settings,
                self.ledger,
                self.lake.on_duckdb(),
                statements,
                who,
                _person(None),
                dry_run=dry_run,
                watch=watch,
            )

    def back_up(self, folder: Path | str) -> "Head":
        """Copy the ledger, and MLflow's database where it is a file, into a folder; returns the ledger's verified head.

        A folder with an earlier backup is brought up to date. It may run beside everything else.

        Raises
        ------
        LedgerError
            A chain does not hold, or the folder holds the backup of another ledger.
        """
        from mlloop.loop import maintenance

        return maintenance.back_up(self.settings, self.ledger, Path(folder).resolve())

    def restore(self, folder: Path | str) -> "Head":
        """Bring the decisions of a backup back, where the project's ledger is empty or an earlier state of it.

        Raises
        ------
        UsageError
            There is no backup in the folder.
        ProjectBusy
            A run or a turn holds the project, or a problem of it.
        LedgerError
            A chain does not hold, or the project's ledger says something else.
        """
        from mlloop.loop import maintenance
        from mlloop.pipeline import runner

        with runner.hold(self.settings, self.command):
            return maintenance.restore(self.settings, self.ledger, Path(folder).resolve())

    def metrics(self, *, textfile: Path | str | None = None) -> str:
        """Model health, performance, drift, feed and decisions of all problems in Prometheus' text format.

        Parameters
        ----------
        textfile : Path or str, optional
            A file for the textfile collector of node_exporter to write; its name ends in .prom.

        Examples
        --------
        >>> "mlloop_model_info" in project.metrics()
        True
        """
        from mlloop.export import metrics

        if textfile is None:
            return metrics.text(self.settings)
        return metrics.write(self.settings, Path(textfile).resolve()).read_text(encoding="utf-8")

    def _publish(self) -> None:
        """Write the metrics where settings.ini names a file, after a command that may have changed a figure."""
        if self.settings.metrics_textfile is not None:
            from mlloop.export import metrics

            metrics.on_turn(self.settings)

    def export(
        self,
        target: str,
        problem: str | Sequence[str] | None = None,
        *,
        out: Path | str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> dict[str, str]:
        """The loop for a program around it, as files that call mlloop or read what it publishes.

        Parameters
        ----------
        target : str
            Which program: a name of `mlloop.export.exporters.EXPORTERS`.
        problem : str or sequence of str, optional
            Default: all statements.
        out : Path or str, optional
            Where to write: a file where the export is a single one, otherwise a folder.
        options : mapping, optional
            Fields of the exporter's `Options`, such as {'schedule': '@weekly'}.

        Returns
        -------
        dict
            Path below `out` -> text.

        Examples
        --------
        >>> list(project.export("airflow", options={"schedule": "@weekly"}))
        ['mlloop_loans.py']
        """
        from mlloop.export import exporters
        from mlloop.pages import problem_view

        names = [problem] if isinstance(problem, str) else list(problem or problem_view.names(self.settings))
        content = exporters.files(target, self.settings, names, options or {})
        if out is not None:
            exporters.write(target, content, Path(out).resolve())
        return content

    def check(self) -> list[str]:
        """Find what would fail before anything runs; returns what was checked, a line each.

        Raises
        ------
        MlloopError
            The first thing that would fail.
        """
        from mlloop.scaffold import checks

        return checks.everything(self.root)

    def upgrade(self) -> list[str]:
        """Renew Run acts, pipeline.yaml and module names to those of the installed mlloop; what was changed, a line each."""
        from mlloop.scaffold import upgrade

        return upgrade.upgrade(self.root)

    def lab(self, *arguments: str) -> int:
        """Run JupyterLab in the project until it is stopped; returns its exit code.

        Parameters
        ----------
        arguments : str
            Options of JupyterLab, such as '--no-browser'.
        """
        from mlloop.lab import jupyterlab

        return jupyterlab.start(self.settings, list(arguments))

    def debug(self, stage: str, problem: str | None = None, *, open: bool = False) -> Path:
        """Write a copy of a stage's notebook with its true inputs filled in; returns its path.

        Parameters
        ----------
        open : bool
            Open it in JupyterLab, until that is stopped.

        Examples
        --------
        >>> project.debug("training", "loan").name
        'training.ipynb'
        """
        from mlloop.lab import jupyterlab

        plan = self.plan(problem)
        path = jupyterlab.with_inputs(self.settings, plan, plan.task(stage))
        if open:
            self.lab(os.fspath(path))
        return path

    @classmethod
    def new(
        cls,
        folder: Path | str,
        data: str,
        target: str | None = None,
        *,
        time: str | None = None,
        id: str | None = None,
        user: str | None = None,
        item: str | None = None,
        task: str | None = None,
        positive: str | None = None,
        table: str | None = None,
        query: str | None = None,
        history: int = 0,
        ask: Callable[..., str] | None = None,
    ) -> "Project":
        """Make a project out of a data file and a question.

        Parameters
        ----------
        folder : Path or str
            Must not exist, or be empty; its name is the problem's.
        data : str
            A CSV, Parquet or JSON-lines file (or .gz), a glob or folder of them, or an SQL URL.
        target : str, optional
            The column to predict.
        time, id : str, optional
            The columns that say when a row happened, and who or what it is about.
        user, item : str, optional
            For recommendations: the columns that say who, and what.
        task : str, optional
            'classification', 'regression' or 'recommendation'; default: found out.
        positive : str, optional
            The positive class.
        table, query : str, optional
            Of an SQL URL.
        history : int
            Days at the end of the data that are left for `Project.loop`.
        ask : callable (question, choices, default) -> str, optional
            Asks for what is missing; without it a missing target is an error.

        Returns
        -------
        Project
            `created` has what was guessed, and the columns kept from the model because they leak the target.
        """
        from mlloop.scaffold import project_files

        options = project_files.ProjectOptions(
            data, target, time, id, user, item, task, positive, table, query, history
        )
        created = project_files.new(Path(folder), options, ask)
        project = cls(created.root)
        project.created = created
        for target, path in (("gitlab", ".gitlab-ci.yml"), ("github", ".github/workflows/loop.yml")):
            project.export(target, created.name, out=created.root / path)
        return project

    def __repr__(self) -> str:
        return f"Project({os.fspath(self.root)!r})"

    def _repr_html_(self) -> str:
        from mlloop.pages import html_table

        standing = self.ledger.at()
        lines = []
        for name in self.problems:
            try:
                statement = self.statement(name)
            except MlloopError as error:
                lines.append((name, error.what, "", "", "", ""))
                continue
            now = standing.get(statement.name)
            champion = now.champion if now else None
            lines.append((
                name, statement.question, statement.task.kind, str(champion.model)[:12] if champion else "none",
                f"{champion.at:%Y-%m-%d %H:%M}" if champion else "",
                ", ".join(f"{gate} {row.verdict}" for gate, row in now.gates.items()) if now else "",
            ))  # fmt: skip
        columns = ["problem", "question", "task", "champion", "since (UTC)", "gates"]
        return html_table.table(f"Project {self.root.name}", columns, lines, os.fspath(self.root))


_moment = moment  # where a parameter has that name
