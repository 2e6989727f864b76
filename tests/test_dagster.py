"""`mlloop export dagster` in a real Dagster, in an environment of its own: exit codes as states of ops."""

import os
import subprocess

import pytest
from environments import environment
from schedulers import PROBLEMS, exported

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def dagster(tmp_path_factory):
    """A project of four problems, exported, and how a Dagster runs one of its jobs: the command's end and calls of mlloop."""
    programs = environment("dagster", "dagster>=1.13,<2")
    root = tmp_path_factory.mktemp("dagster") / "loans"
    _, log = exported(root, "dagster", "jobs.py")
    (root / "home").mkdir()
    (root / "home/dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "DAGSTER_HOME": str(root / "home"),
    }

    def call(*words: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        log.write_text("")
        done = subprocess.run(
            [str(programs / "dagster"), *words], env=environ, cwd=root, capture_output=True, text=True, timeout=900
        )
        return done, [line.removesuffix(" --json") for line in log.read_text().splitlines()]

    call.root = root
    return call


def ends(done: subprocess.CompletedProcess[str], state: str) -> set[str]:
    """The ops that ended so, by the run's log."""
    event = {"success": "STEP_SUCCESS", "skipped": "STEP_SKIPPED", "failed": "STEP_FAILURE"}[state]
    lines = (done.stdout + done.stderr).splitlines()
    return {line.split(f" - {event}")[0].split(" - ")[-1] for line in lines if f" - {event}" in line}


def test_a_turn_is_an_op_a_step_and_an_alert_blocks_nothing(dagster):
    steps = ["collect", "monitor", "canary", "decide"]
    done, calls = dagster("job", "execute", "-f", "jobs.py", "-j", "mlloop_loans_fine_loop")
    assert done.returncode == 0 and ends(done, "success") == {*steps, "retrain", "close", "alert"}, done.stderr
    at = "tick --problem {} --at 2026-01-05T00:00:00"
    told = [f"{at} --until {step}" for step in ("monitor", "canary", "decide")]
    assert calls == [one.format("fine") for one in ("tick --problem {} --until collect", *told, at)]
    done, calls = dagster("job", "execute", "-f", "jobs.py", "-j", "mlloop_loans_worse_loop")
    assert done.returncode and ends(done, "failed") == {"alert"} and "labels show it worse" in done.stderr + done.stdout
    assert calls[-2:] == [f"{at} --until retrain".format("worse"), at.format("worse")]


def test_a_turn_that_is_not_due_is_skipped_and_invalid_input_is_not_tried_again(dagster):
    done, calls = dagster("job", "execute", "-f", "jobs.py", "-j", "mlloop_loans_done_loop")
    assert done.returncode == 0 and ends(done, "success") == {"collect"} and len(calls) == 1
    done, calls = dagster("job", "execute", "-f", "jobs.py", "-j", "mlloop_loans_typo_loop")
    assert done.returncode and ends(done, "failed") == {"collect"} and len(calls) == 1


def test_a_closed_gate_skips_what_is_behind_it(dagster):
    done, calls = dagster("job", "execute", "-f", "jobs.py", "-j", "mlloop_loans_typo_run")
    assert done.returncode == 0 and ends(done, "skipped") == {"training"}, done.stderr
    assert calls == [f"run --problem typo --until {stage}" for stage in ("collection", "need_gate")]
    done, calls = dagster("job", "execute", "-f", "jobs.py", "-j", "mlloop_loans_fine_run")
    assert done.returncode == 0 and len(calls) == 3


def test_dagster_reads_the_jobs_and_a_schedule_for_each_problem(dagster):
    done, _ = dagster("job", "list", "-f", "jobs.py")
    assert all(f"mlloop_loans_{name}_{job}" in done.stdout for name in PROBLEMS for job in ("run", "loop"))
    assert (
        done.stdout.count("One turn of the loop") == done.stdout.count("The pipeline, an op a stage") == len(PROBLEMS)
    )
    done, _ = dagster("schedule", "list", "-f", "jobs.py")
    assert done.stdout.count("0 6 * * 1") == len(PROBLEMS), done.stdout + done.stderr


ASKED_TWICE = """
import dagster as dg, jobs
instance, job = dg.DagsterInstance.get(), jobs.defs.get_job_def("mlloop_loans_fine_loop")
schedule = jobs.defs.get_schedule_def("mlloop_loans_fine_loop_schedule")
for status in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.STARTED):
    instance.create_run_for_job(job, status=status)
    print(status.value, type(schedule(dg.build_schedule_context(instance=instance))).__name__)
"""


def test_a_turn_does_not_begin_while_the_one_before_still_runs(dagster):
    programs = environment("dagster", "dagster>=1.13,<2")
    words = [str(programs / "python"), "-c", ASKED_TWICE]
    environ = {**os.environ, "PYTHONPATH": str(dagster.root), "DAGSTER_HOME": str(dagster.root / "home")}
    done = subprocess.run(words, cwd=dagster.root, env=environ, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["SUCCESS", "RunRequest", "STARTED", "SkipReason"], done.stderr


def test_a_program_that_is_not_there_fails_at_once_and_says_how_to_name_it(dagster):
    jobs = dagster.root / "jobs.py"
    (dagster.root / "nowhere.py").write_text(jobs.read_text().replace(str(dagster.root / "mlloop"), "nowhere/mlloop"))
    done, _ = dagster("job", "execute", "-f", "nowhere.py", "-j", "mlloop_loans_fine_loop")
    said = done.stdout + done.stderr
    assert "nowhere/mlloop cannot be called" in said and "--command PATH" in said and "retry" not in said.lower()
