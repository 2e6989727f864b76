"""The loop for Airflow 3: two DAGs that call the command line, and nothing else."""

import datetime as dt
import re
from dataclasses import dataclass, field

from mlloop.export import orchestration
from mlloop.export.exporters import Request

DAGS = '''"""The loop of mlloop for Airflow 3; written by `mlloop export airflow`.

{run_id}: the pipeline, a task a stage, started by hand. A gate that says No skips what is behind it.
{loop_id}: one turn of the loop, on a schedule. A turn that is not due is skipped. The task `alert` fails where
monitoring raised an alert, so that somebody notices, and nothing waits for it.

Problems do not wait for each other's outcome. One task runs at a time, so that a small worker has room for it; those of
different problems may run side by side: raise max_active_tasks.
"""

import datetime
import json
import subprocess

from airflow.sdk import DAG, Asset, TaskGroup, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

PROJECT = {project!r}
COMMAND = {command!r}
STAGES = {stages!r}  # stage: the stages that it reads
TABLES = {tables!r}  # problem: its tables in the lake
SHARED = {{
    "start_date": datetime.datetime({start.year}, {start.month}, {start.day}),
    "catchup": False,
    "max_active_runs": 1,
    "max_active_tasks": 1,
    # every step finds what an earlier try left, so each can be repeated
    "default_args": {{"retries": 2, "retry_delay": datetime.timedelta(minutes=10)}},
}}


def mlloop(*words):
    """Call the command line; returns its JSON and whether it raised an alert.

    Exit codes: 0 done, 4 done and an alert, 3 a gate said No (skip what follows), 2 bad input (no retry would help),
    1 failed and 5 another run holds the problem (try again).
    """
    try:
        done = subprocess.run([COMMAND, *words, "--json"], cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        again = "Name the program and the project as this machine has them: mlloop export airflow --command PATH"
        raise AirflowFailException(f"{{COMMAND}} cannot be called in {{PROJECT}}: {{error}}. {{again}}") from error
    print(done.stdout)
    said = f"mlloop {{' '.join(words)}} ended with {{done.returncode}}"
    if done.returncode == 3:
        raise AirflowSkipException(f"{{said}}: a gate said No; its page says what must change")
    if done.returncode == 2:
        raise AirflowFailException(f"{{said}}: the message is in this log")
    if done.returncode not in (0, 4):
        raise AirflowException(said)
    return json.loads(done.stdout), done.returncode == 4


@task
def stage(problem, name):
    """Bring one stage's product up to date."""
    mlloop("run", "--problem", problem, "--until", name)


@task
def collect(problem):
    """Find the turn that is due and bring its data; what is skipped here was decided before."""
    turn, _ = mlloop("tick", "--problem", problem, "--until", "collect")
    if turn["fresh"]:
        raise AirflowSkipException(f"the turn of {{turn['at']}} is done and the next one is not due")
    return turn["at"]


@task
def step(problem, at, name):
    """Make one step of the turn, and hand on what it came to."""
    turn, alert = mlloop("tick", "--problem", problem, "--at", at, "--until", name)
    return {{"verdict": turn["verdict"], "alert": f"{{problem}} {{at}}: {{turn['said']}}" if alert else ""}}


@task
def retrain(problem, at, decided):
    """Retrain, where the turn decided so."""
    if decided["verdict"] != "yes":
        raise AirflowSkipException("the decision is not to retrain")
    mlloop("tick", "--problem", problem, "--at", at, "--until", "retrain")


@task(trigger_rule="none_failed_min_one_success")
def close(problem, at):
    """Make what is left of the turn, and the pages."""
    mlloop("tick", "--problem", problem, "--at", at)


@task(retries=0)
def alert(monitored, judged, decided):
    """Fail where monitoring, the canary's step (a fallback too) or the decision raised an alert; nothing comes after it."""
    if raised := decided["alert"] or judged["alert"] or monitored["alert"]:
        raise AirflowFailException(raised)


def assets(problem):
    """The tables of a problem, as others may wait for them."""
    return [Asset(name=f"{{problem}}/{{table}}", uri=uri) for table, uri in TABLES[problem].items()]


with DAG(dag_id={run_id!r}, schedule=None, **SHARED) as run:
    for problem in TABLES:
        with TaskGroup(problem):
            stages = {{}}
            for name, upstream in STAGES.items():
                outlets = assets(problem) if name == "ingestion" else []
                stages[name] = stage.override(task_id=name, outlets=outlets)(problem, name)
                for before in upstream:
                    stages[before] >> stages[name]

with DAG(dag_id={loop_id!r}, schedule={schedule!r}, **SHARED) as loop:
    for problem in TABLES:
        with TaskGroup(problem):
            at = collect.override(outlets=assets(problem))(problem)
            monitored = step.override(task_id="monitor")(problem, at, "monitor")
            judged = step.override(task_id="canary")(problem, at, "canary")
            decided = step.override(task_id="decide")(problem, at, "decide")
            retrained = retrain(problem, at, decided)
            monitored >> judged >> decided >> retrained
            [decided, retrained] >> close(problem, at)
            alert(monitored, judged, decided)
'''


@dataclass(frozen=True)
class Options(orchestration.Options):
    """What can be chosen.

    Attributes
    ----------
    schedule, command : str
        As `orchestration.Options` has them.
    start : date
        The DAGs' start.
    """

    start: dt.date = field(default_factory=dt.date.today)


def files(request: Request, options: Options) -> dict[str, str]:
    """A file with two DAGs: the pipeline, a task a stage, and the turn of the loop, a task a step.

    Raises
    ------
    ProblemError
        A statement cannot be read.
    """
    name = re.sub(r"[^\w.-]", "_", orchestration.name_of(request))
    text = DAGS.format(
        **orchestration.facts(request, options),
        start=options.start,
        run_id=f"{name}_run",
        loop_id=f"{name}_loop",
    )
    return {f"{name}.py": text}
