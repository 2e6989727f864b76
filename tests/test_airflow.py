"""`mlloop export airflow` in a real Airflow, in an environment of its own: exit codes as states of tasks."""

import os
import re
import subprocess

import pytest
from environments import environment
from schedulers import exported

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    """A project of four problems, exported, and how an Airflow runs one of its DAGs: states of tasks, calls of mlloop."""
    programs = environment("airflow", "apache-airflow>=3.1,<4")
    root = tmp_path_factory.mktemp("airflow") / "loans"
    _, log = exported(root, "airflow", "dags/loans.py")
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))},
        "PATH": f"{programs}:{os.environ['PATH']}", "AIRFLOW_HOME": str(root / "home"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(root / "dags"), "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }  # fmt: skip
    call = lambda *words: subprocess.run(
        [str(programs / "airflow"), *words], env=environ, cwd=root, capture_output=True, text=True, timeout=900
    )
    (root / "dags" / "broken.py").write_text("from airflow.sdk import DAG\nimport a_module_that_is_nowhere\n")
    migrated = call("db", "migrate")
    assert migrated.returncode == 0, migrated.stderr

    def test(dag: str) -> tuple[dict[str, str], list[str]]:
        log.write_text("")
        done = call("dags", "test", dag)
        states = call("tasks", "states-for-dag-run", dag, _run_id(done.stdout + done.stderr), "--output", "plain")
        found = re.findall(r"(\w+\.\w+) +(success|skipped|failed|upstream_failed)", states.stdout)
        assert found, done.stdout + done.stderr + states.stderr
        return dict(found), log.read_text().splitlines()

    test.call, test.root = call, root
    return test


def _run_id(output: str) -> str:
    return re.findall(r"run_id=(\S+?)[,>\s]", output)[-1]


def test_a_turn_is_a_task_a_step_and_problems_do_not_wait_for_each_other(airflow):
    states, calls = airflow("mlloop_loans_loop")
    steps = ["collect", "monitor", "canary", "decide"]
    of = lambda problem: {name.partition(".")[2]: state for name, state in states.items() if name.startswith(problem)}
    assert of("fine") == {**dict.fromkeys([*steps, "close", "alert"], "success"), "retrain": "skipped"}
    # an alert is seen, and blocks neither the retraining nor another problem
    assert of("worse") == {**dict.fromkeys([*steps, "retrain", "close"], "success"), "alert": "failed"}
    assert set(of("done").values()) == {"skipped"}  # the turn was made before
    assert of("typo")["collect"] == "failed" and set(of("typo").values()) == {"failed", "upstream_failed"}
    at = "tick --problem worse --at 2026-01-05T00:00:00"
    assert [call.removesuffix(" --json") for call in calls if "worse" in call] == [
        "tick --problem worse --until collect",
        *(f"{at} --until {step}" for step in ("monitor", "canary", "decide", "retrain")),
        at,
    ]


def test_a_closed_gate_skips_what_is_behind_it_and_nothing_else(airflow):
    states, calls = airflow("mlloop_loans_run")
    assert states["typo.collection"] == "success"
    assert states["typo.need_gate"] == states["typo.training"] == "skipped"
    assert {state for name, state in states.items() if not name.startswith("typo")} == {"success"}
    assert "run --problem fine --until training --json" in calls


def test_airflow_lists_both_dags_and_the_import_error_of_a_file_that_is_broken(airflow):
    errors = airflow.call("dags", "list-import-errors", "--local", "--output", "plain").stdout
    assert "a_module_that_is_nowhere" in errors and "loans.py" not in errors
    assert airflow.call("dags", "reserialize").returncode == 0
    for words in (["--local"], []):  # from the files, and from Airflow's database
        listed = airflow.call("dags", "list", *words, "--output", "plain").stdout
        assert re.findall(r"^mlloop\S+", listed, re.MULTILINE) == ["mlloop_loans_loop", "mlloop_loans_run"]


def test_a_program_that_is_not_there_fails_at_once_and_says_how_to_name_it(airflow):
    dags, command = airflow.root / "dags" / "loans.py", airflow.root / "mlloop"
    text = dags.read_text()
    dags.write_text(text.replace(repr(str(command)), "'nowhere/mlloop'"))
    done = airflow.call("tasks", "test", "mlloop_loans_loop", "fine.collect")
    dags.write_text(text)
    assert (
        "nowhere/mlloop cannot be called" in done.stdout + done.stderr and "--command PATH" in done.stdout + done.stderr
    )
    assert "AirflowFailException" in done.stdout + done.stderr  # which is not repeated
