"""The loop for Airflow: a DAG that calls the command line, and nothing else."""

import datetime as dt
import re
from dataclasses import dataclass, field

from mlloop.core.errors import UsageError
from mlloop.export.exporters import Request

DAG = '''"""One turn of the loop of each problem, every day; written by `mlloop export airflow`.

Exit codes of mlloop: 3 a gate said No and 4 monitoring raised an alert are answers, not faults: the task is skipped and
a person reads the page. 5 another run holds the project: Airflow tries again.
"""

import datetime

from airflow import DAG

try:
    from airflow.providers.standard.operators.bash import BashOperator  # Airflow 3
except ImportError:
    from airflow.operators.bash import BashOperator  # Airflow 2

PROJECT = {project!r}
PROBLEMS = {problems!r}

with DAG(
    dag_id={dag_id!r},
    schedule={schedule!r},
    start_date=datetime.datetime({start.year}, {start.month}, {start.day}),
    catchup=False,
    max_active_runs=1,
    default_args={{"retries": 2, "retry_delay": datetime.timedelta(minutes=10)}},
) as dag:
    before = None
    for problem in PROBLEMS:
        turn = BashOperator(
            task_id=f"tick_{{problem}}",
            bash_command=f"{command} tick --problem {{problem}}",
            cwd=PROJECT,
            append_env=True,
            skip_on_exit_code=[3, 4],
        )
        if before is not None:
            before >> turn  # one run at a time holds a project
        before = turn
'''


@dataclass(frozen=True)
class Options:
    """What can be chosen.

    Attributes
    ----------
    schedule : str
        '@daily', or a cron expression.
    command : str
        How mlloop is called where Airflow runs the tasks.
    start : date
        The DAG's start.
    """

    schedule: str = "@daily"
    command: str = "mlloop"
    start: dt.date = field(default_factory=dt.date.today)


def files(request: Request, options: Options) -> dict[str, str]:
    """A DAG that calls `mlloop tick` for each problem, one after the other.

    Raises
    ------
    UsageError
        A schedule or command that cannot be written into a file.
    """
    if not re.fullmatch(r"@[a-z]+|(\S+ ){4}\S+", options.schedule):
        raise UsageError(
            f"{options.schedule!r} is not a schedule",
            "--schedule",
            "Example: mlloop export airflow --schedule '0 6 * * 1'",
        )
    if not re.fullmatch(r"[\w./~-]+", options.command):
        raise UsageError(
            f"{options.command!r} is not the path of a program",
            "--command",
            "Example: mlloop export airflow --command mlloop",
        )
    dag_id = re.sub(r"[^\w.-]", "_", f"mlloop_{request.root.name}")
    text = DAG.format(
        project=str(request.root), problems=list(request.problems), dag_id=dag_id, schedule=options.schedule,
        command=options.command, start=options.start,
    )  # fmt: skip
    return {f"{dag_id}.py": text}
