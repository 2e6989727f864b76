"""The file for Airflow: valid Python that calls commands which exist. Airflow itself is not installed here."""

import ast
import datetime as dt
from pathlib import Path

import pytest
import typer.main

from mlloop.cli.app import app
from mlloop.core.errors import UsageError
from mlloop.core.settings import load
from mlloop.export import exporters

START = dt.date(2026, 1, 2)


def dag(root: Path, problems: list[str], schedule: str = "@daily", command: str = "mlloop") -> str:
    """The file for Airflow, of a project at `root` that has nothing but its settings."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "settings.ini").touch()
    (root / "pipeline.yaml").touch()
    options = {"schedule": schedule, "command": command, "start": START}
    (text,) = exporters.files("airflow", load(root), problems, options).values()
    return text


def test_the_dag_is_python_that_calls_one_turn_per_problem(tmp_path):
    text = dag(tmp_path / "my loop", ["shop", "employment"], "0 6 * * 1", ".venv/bin/mlloop")
    tree = ast.parse(text)
    named = {n.targets[0].id: ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign)}
    assert named == {"PROJECT": str(tmp_path / "my loop"), "PROBLEMS": ["shop", "employment"]}
    calls = {n.func.id: n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    given = {k.arg: k.value for k in calls["DAG"].keywords}
    assert ast.literal_eval(given["schedule"]) == "0 6 * * 1" and ast.literal_eval(given["max_active_runs"]) == 1
    assert ast.literal_eval(given["dag_id"]) == "mlloop_my_loop"
    task = {k.arg: k.value for k in calls["BashOperator"].keywords}
    assert ast.unparse(task["bash_command"]) == "f'.venv/bin/mlloop tick --problem {problem}'"
    assert ast.literal_eval(task["skip_on_exit_code"]) == [3, 4]


def test_the_command_in_the_dag_exists():
    assert "tick" in typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("problems", "schedule", "command"),
    [([], "@daily", "mlloop"), (["shop"], "daily", "mlloop"), (["shop"], "@daily", "mlloop'; rm -rf /")],
)
def test_what_cannot_be_meant_is_refused(problems, schedule, command, tmp_path):
    with pytest.raises(UsageError, match="mlloop"):
        dag(tmp_path, problems, schedule, command)


def test_an_unknown_export_or_option_is_told_with_those_that_there_are(tmp_path):
    dag(tmp_path, ["shop"])
    with pytest.raises(UsageError, match=r"no export called 'arflow'.*Did you mean 'airflow'"):
        exporters.files("arflow", load(tmp_path), ["shop"], {})
    with pytest.raises(UsageError, match=r"airflow has no option 'shedule'.*Did you mean 'schedule'"):
        exporters.files("airflow", load(tmp_path), ["shop"], {"shedule": "@daily"})


def test_a_path_with_quotes_stays_text(tmp_path):
    text = dag(tmp_path / 'it\'s\n"here"', ["shop"])
    assert f'{tmp_path}/it\'s\n"here"' in [n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)]


def test_the_command_line_writes_the_file_and_says_what_it_knows(project):
    done = project.mlloop("export", "airflow", "--problem", "loan", "--out", "dags/loan.py")
    assert done.returncode == 0 and done.stdout.strip() == "dags/loan.py"
    compile((project.root / "dags" / "loan.py").read_text(), "loan.py", "exec")
    done = project.mlloop("export", "arflow")
    assert done.returncode == 2 and "No such command 'arflow'" in done.stderr
