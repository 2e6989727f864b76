"""What `mlloop export` writes: valid files that call commands which exist. The programs themselves are in tests of their own."""

import ast
import datetime as dt
import json
from pathlib import Path

import pytest
import typer.main
import yaml
from conftest import STATEMENT

from mlloop.cli.app import app
from mlloop.core.errors import UsageError
from mlloop.core.settings import load
from mlloop.export import exporters, metrics, monitoring
from mlloop.loop.turn import STEPS

START = dt.date(2026, 1, 2)
PIPELINE = (
    "tasks:\n  - {name: ingestion, source: a.ipynb}\n  - {name: need_gate, source: b.ipynb, upstream: [ingestion]}\n"
)


def project_at(root: Path):
    """The settings of a project that has two statements and a pipeline of two stages."""
    (root / "problems").mkdir(parents=True, exist_ok=True)
    (root / "settings.ini").touch()
    (root / "pipeline.yaml").write_text(PIPELINE)
    for name in ("loan", "other"):
        (root / "problems" / f"{name}.yaml").write_text(STATEMENT.replace("name: loan", f"name: {name}"))
    return load(root)


def dags(root: Path, problems: list[str], schedule: str = "@daily", command: str = "mlloop") -> ast.Module:
    """The file for Airflow, parsed."""
    options = {"schedule": schedule, "command": command, "start": START}
    (text,) = exporters.files("airflow", project_at(root), problems, options).values()
    return ast.parse(text)


def constants(tree: ast.Module) -> dict:
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id != "SHARED"
    }


def test_the_dags_are_python_that_names_stages_and_tables(tmp_path):
    tree = dags(tmp_path / "my loop", ["loan", "other"], "0 6 * * 1", ".venv/bin/mlloop")
    root = tmp_path / "my loop"
    uri = lambda problem: {"loans": (root / ".mlloop/lake" / problem / "loans").as_uri()}
    assert constants(tree) == {
        "PROJECT": str(root),
        "COMMAND": ".venv/bin/mlloop",
        "STAGES": {"ingestion": [], "need_gate": ["ingestion"]},
        "TABLES": {"loan": uri("loan"), "other": uri("other")},
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "DAG"]
    named = [{word.arg: ast.unparse(word.value) for word in call.keywords if word.arg} for call in calls]
    assert named == [
        {"dag_id": "'mlloop_my_loop_run'", "schedule": "None"},
        {"dag_id": "'mlloop_my_loop_loop'", "schedule": "'0 6 * * 1'"},
    ]


def test_the_commands_and_steps_of_the_dags_exist(tmp_path):
    tree = dags(tmp_path, ["loan"])
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "mlloop"]
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for call in calls:
        command, *rest = [word.value if isinstance(word, ast.Constant) else "" for word in call.args]
        options = {option for parameter in commands[command].params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options
    steps = [
        node.args[-1].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and node.args and "step.override" in ast.unparse(node.func)
    ]
    assert {*steps, "collect", "retrain"} == set(STEPS)


@pytest.mark.parametrize(
    ("problems", "schedule", "command"),
    [([], "@daily", "mlloop"), (["loan"], "daily", "mlloop"), (["loan"], "@daily", "mlloop'; rm -rf /")],
)
def test_what_cannot_be_meant_is_refused(problems, schedule, command, tmp_path):
    with pytest.raises(UsageError, match="mlloop"):
        dags(tmp_path, problems, schedule, command)


def test_an_unknown_export_or_option_is_told_with_those_that_there_are(tmp_path):
    settings = project_at(tmp_path)
    with pytest.raises(UsageError, match=r"no export called 'arflow'.*Did you mean 'airflow'"):
        exporters.files("arflow", settings, ["loan"], {})
    with pytest.raises(UsageError, match=r"airflow has no option 'shedule'.*Did you mean 'schedule'"):
        exporters.files("airflow", settings, ["loan"], {"shedule": "@daily"})


def test_a_path_with_quotes_stays_text(tmp_path):
    tree = dags(tmp_path / 'it\'s\n"here"', ["loan"])
    assert constants(tree)["PROJECT"] == f'{tmp_path}/it\'s\n"here"'


def test_the_command_line_writes_the_file_and_says_what_it_knows(project):
    done = project.mlloop("export", "airflow", "--problem", "loan", "--out", "dags/loan.py")
    assert done.returncode == 0 and done.stdout.strip() == "dags/loan.py"
    compile((project.root / "dags" / "loan.py").read_text(), "loan.py", "exec")
    done = project.mlloop("export", "arflow")
    assert done.returncode == 2 and "No such command 'arflow'" in done.stderr
    done = project.mlloop("export", "airflow", "--problem", "laon")
    assert done.returncode == 2 and "Did you mean 'loan'" in done.stderr


def test_every_rule_and_panel_reads_figures_that_mlloop_publishes():
    published = {f"mlloop_{name}" for name in metrics.GAUGES} | {
        "mlloop_decisions_total", "mlloop_requests_total", "mlloop_predictions_total", "mlloop_predictions_lost_total",
        "mlloop_canary_errors_total", "mlloop_request_duration_seconds_bucket",
    }  # fmt: skip
    expressions = [alert.expr for alert in monitoring.ALERTS]
    expressions += [expr for panel in monitoring.PANELS for expr in panel.queries.values()]
    words = {
        word.strip("()[],{}")
        for expr in expressions
        for word in expr.replace("{", " ").replace("[", " ").replace("(", " ").split()
    }
    assert {word for word in words if word.startswith("mlloop_")} <= published


def test_monitoring_is_yaml_and_json_whatever_the_addresses(tmp_path):
    options = {"mail_to": "o'neil: #1 <a@example.org>", "pagerduty_key": "/etc/a b/key"}
    content = exporters.files("monitoring", project_at(tmp_path), ["loan"], options)
    for path, text in content.items():
        assert json.loads(text) if path.endswith(".json") else yaml.safe_load(text), path
    receivers = yaml.safe_load(content["alertmanager.yml"])["receivers"]
    assert receivers[1]["email_configs"][0]["to"] == options["mail_to"]
    assert receivers[0]["pagerduty_configs"][0]["routing_key_file"] == "/etc/a b/key"
    with pytest.raises(UsageError, match="not host:port"):
        exporters.files("monitoring", project_at(tmp_path), ["loan"], {"service": "localhost"})
