"""The loop for somebody else's scheduler: a file that calls the command line, and nothing else."""

import re
from collections.abc import Sequence
from pathlib import Path

from mlloop.core import storage
from mlloop.core.errors import UsageError

TARGETS = ("airflow",)
AIRFLOW = '''"""One turn of the loop of each problem, every day; written by `mlloop export airflow`.

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


def airflow(root: Path, problems: Sequence[str], schedule: str, command: str, start) -> str:
    """The text of an Airflow DAG that calls `mlloop tick` for each problem, one after the other.

    Parameters
    ----------
    root : Path
        The project's folder on the machine where Airflow runs the tasks.
    schedule : str
        '@daily', or a cron expression.
    command : str
        How mlloop is called there.
    start : date
        The DAG's start.

    Raises
    ------
    UsageError
        No problem, or a schedule or command that cannot be written into a file.
    """
    if not problems:
        raise UsageError("there is no problem statement to schedule", str(root), "Write one, then: mlloop check")
    if not re.fullmatch(r"@[a-z]+|(\S+ ){4}\S+", schedule):
        raise UsageError(
            f"{schedule!r} is not a schedule", "--schedule", "Example: mlloop export airflow --schedule '0 6 * * 1'"
        )
    if not re.fullmatch(r"[\w./~-]+", command):
        raise UsageError(
            f"{command!r} is not the path of a program", "--command", "Example: mlloop export airflow --command mlloop"
        )
    dag_id = re.sub(r"[^\w.-]", "_", f"mlloop_{root.name}")
    return AIRFLOW.format(
        project=str(root), problems=list(problems), dag_id=dag_id, schedule=schedule, command=command, start=start
    )


def write(out: Path, text: str) -> Path:
    """Write the file, whole or not at all."""
    return storage.write_text(out, text)
