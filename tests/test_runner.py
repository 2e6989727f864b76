"""Runs are right, atomic and resumable; one at a time; a closed gate stops what follows."""

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from conftest import Project, write_notebook, write_project
from wire import Wire

from mlloop.core import settings
from mlloop.core.errors import ProjectBusy
from mlloop.pipeline import runner
from mlloop.store import ledger
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger


def ledger_of(project):
    return ledger.Ledger.open(settings.load(project.root))


def close_the_gate(project):
    project.write("loans.csv", "amount\n1\n2\n")


def wait_until(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.02)


PAUSE = (
    "import pathlib, time\n    pathlib.Path('begun').touch()\n"
    "    while not pathlib.Path('go').exists():\n        time.sleep(0.02)\n    "
)
"""At the beginning of a function of a stage: it says that it has begun, and goes on when it is told to."""


def test_a_run_records_its_gate_in_the_ledger(project):
    outcome = project.run()
    assert outcome["exit_code"] == 0 and outcome["verdicts"]["need"]["verdict"] == "yes"
    (row,) = ledger_of(project).rows(kind="gate")
    assert (row.problem, row.subject, row.verdict, row.evidence[0]["value"]) == ("loan", "need", "yes", 3)
    assert project.product("evaluation") == {"stage": "loan evaluation", "version": 1, "rounded": 3}


def test_closed_gate_stops_what_follows_also_after_an_earlier_yes(project):
    assert project.run()["verdicts"]["need"]["verdict"] == "yes"
    before = project.product("training")
    close_the_gate(project)
    done = project.mlloop("run")
    assert done.returncode == 3
    assert "needs 3 rows, has 2" in done.stderr and "loan.r2.yaml" in done.stderr
    assert project.product("training") == before
    assert json.loads(project.mlloop("status", "--json").stdout)["stages"]["training"]["state"] == "closed"
    assert [row.verdict for row in ledger_of(project).rows(kind="gate")] == ["yes", "no"]
    assert (project.root / "problems/loan.r2.yaml").read_text().startswith("# Revision 2")


def test_a_champion_that_is_as_good_stays_and_no_revision_is_opened(project):
    project.change("toy/ask.py", "'name': 'rows'", "'name': 'better than the champion'")
    close_the_gate(project)
    for _ in range(2):
        done = project.mlloop("run")
        assert done.returncode == 3 and "said No to this model" in done.stderr
        assert "nothing has to change in the problem statement" in done.stderr
    assert not (project.root / "problems/loan.r2.yaml").exists() and not ledger_of(project).rows(kind="revision")
    project.change("toy/ask.py", "'value': len(amounts)", "'value': None")  # no figure for the champion: a plain No
    assert project.mlloop("run").returncode == 3 and (project.root / "problems/loan.r2.yaml").exists()


def test_closed_gate_stays_closed_without_asking_again(project):
    close_the_gate(project)
    assert project.mlloop("run").returncode == 3
    again = project.run()
    assert again["exit_code"] == 3 and again["ran"] == [] and set(again["skipped"]) == {"training", "evaluation"}
    assert len(ledger_of(project).rows(kind="gate")) == 1
    assert len(ledger_of(project).rows(kind="revision")) == 1


def test_gate_without_a_verdict_counts_as_no(project):
    project.write("toy/ask.py", "def verdict(amounts):\n    return None\n")
    done = project.mlloop("run")
    assert done.returncode == 3 and "no verdict counts as no" in done.stderr
    assert ledger_of(project).rows(kind="gate")[0].verdict == "no"


def test_plain_ploomber_build_runs_the_same_notebooks(project):
    done = ploomber(project)
    assert done.returncode == 0, done.stderr[-2000:]
    assert project.product("evaluation") == {"stage": "loan evaluation", "version": 1, "rounded": 3}


def test_plain_ploomber_build_stops_at_a_closed_gate_also_after_an_earlier_yes(project):
    assert ploomber(project).returncode == 0
    before = project.product("training")
    close_the_gate(project)
    (project.root / ".mlloop/products/loan/collection.json").unlink()
    for _ in range(2):
        done = ploomber(project)
        assert done.returncode != 0
        assert "the gate said No" in done.stdout + done.stderr
        assert project.product("training") == before


def ploomber(project):
    command = [str(Path(sys.executable).with_name("ploomber")), "build"]
    return subprocess.run(
        command, cwd=project.root, capture_output=True, text=True, timeout=600, env=project.environment
    )


def test_failed_stage_is_told_in_a_line_and_keeps_the_good_product(project):
    project.run()
    good = project.products()
    project.change("toy/fit.py", "return total(values)", "return nothing(values)")
    done = project.mlloop("run")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "stage training" in done.stderr and "name 'nothing' is not defined" in done.stderr
    assert ".mlloop/failed/loan/training.ipynb" in done.stderr and "mlloop debug training" in done.stderr
    assert "NameError" in (project.root / ".mlloop/failed/loan/training.ipynb").read_text()
    assert project.products() == good
    assert json.loads(project.mlloop("status", "--json").stdout)["stages"]["training"]["state"] == "missing"


def test_a_run_goes_on_where_it_failed(project):
    project.change("toy/fit.py", "return total(values)", "return nothing(values)")
    assert project.mlloop("run").returncode == 1
    project.change("toy/fit.py", "return nothing(values)", "return total(values)")
    outcome = project.run()
    assert set(outcome["ran"]) == {"training", "evaluation"} and outcome["exit_code"] == 0
    assert not (project.root / ".mlloop/failed").exists()  # nothing is left of the failure, no empty folder either


def test_until_stops_and_from_enters(project):
    assert set(project.run("--until", "need_gate")["ran"]) == {"problem", "collection", "need_gate"}
    assert set(project.run()["ran"]) == {"training", "evaluation"}
    assert set(project.run("--from", "training")["ran"]) == {"training", "evaluation"}


def test_unknown_stage_parameter_and_problem_are_refused_with_what_was_meant(project):
    for options, said in {
        ("--until", "trainig"): "Did you mean 'training'?",
        ("--set", "sed=1"): "Did you mean 'seed'?",
        ("--set", "sample=2"): "expected 0 < sample <= 1",
        ("--problem", "laon"): "Did you mean 'loan'?",
        ("--set", "seed"): "is not KEY=VALUE",
    }.items():
        done = project.mlloop("run", *options)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_parameter_that_a_notebook_does_not_know_is_an_error(project):
    project.change("nbs/13_training.ipynb", '"seed = 0"', '"sed = 0"')
    done = project.mlloop("run")
    assert done.returncode == 2 and "does not know seed" in done.stderr
    assert not (project.root / ".mlloop/products").exists()


def test_broken_notebook_is_named_before_anything_runs(project):
    project.write("nbs/14_evaluation.ipynb", '{"cells": [')
    done = project.mlloop("run")
    assert done.returncode == 1 and "14_evaluation.ipynb: not a notebook" in done.stderr
    assert not (project.root / ".mlloop/products").exists()


def test_stage_that_writes_no_product_fails(project):
    write_notebook(project.root / "nbs/14_evaluation.ipynb", "1 + 1")
    done = project.mlloop("run")
    assert done.returncode == 1 and "without writing its product data" in done.stderr


def test_input_that_changes_while_it_is_read_is_not_recorded(project):
    project.change("toy/read.py", "return [float", "found = [float")
    project.change("toy/read.py", "split()[1:]]", "split()[1:]]\n    open(path, 'a').write('7\\n')\n    return found")
    done = project.mlloop("run")
    assert done.returncode == 1 and "changed while collection was reading it" in done.stderr
    assert not (project.root / ".mlloop/records/loan/collection.json").exists()


def test_of_two_runs_one_works_and_the_other_names_the_holder(project):
    project.change("toy/read.py", "return name", f"{PAUSE}return name")
    first = project.start("run")
    wait_until((project.root / "begun").exists)
    second = project.mlloop("run")
    assert second.returncode == 5 and f"process {first.pid}" in second.stderr
    assert f"running: process {first.pid}" in project.mlloop("status").stdout
    project.write("go", "")
    assert first.wait(300) == 0


def test_runs_of_two_problems_go_side_by_side_and_what_changes_the_project_waits(project):
    here = settings.load(project.root)
    with runner.hold(here, "mlloop run", "loan"), runner.hold(here, "mlloop loop", "shop"):
        for problem, named in (("loan", "loan"), ("loan.r2", "loan.r2"), (None, "the project")):
            with (
                pytest.raises(
                    ProjectBusy, match=rf"another run holds {named}: process {os.getpid()} .*mlloop (run|loop)"
                ),
                runner.hold(here, "mlloop tick", problem, patience_s=0.2),
            ):
                pass
        assert runner.is_held(here) and runner.holder_of(here, "loan.r2")["command"] == "mlloop run"
        assert runner.holder_of(here, "census") is None
    with (
        runner.hold(here, "mlloop maintain"),
        pytest.raises(ProjectBusy, match=r"another run holds loan: process .*mlloop maintain"),
        runner.hold(here, "mlloop run", "loan", patience_s=0.2),
    ):
        pass
    assert not runner.is_held(here)


def test_a_problem_is_held_by_its_name_whatever_its_file_is_called(project):
    statement = project.root / "problems/loan.yaml"
    statement.rename(statement.with_name("lent.yaml"))
    here = settings.load(project.root)
    with runner.hold(here, "a test", "loan"):
        done = project.mlloop("run", "--problem", "lent")
        assert done.returncode == 5 and "another run holds loan" in done.stderr
        assert f"running: process {os.getpid()}" in project.mlloop("status", "--problem", "lent").stdout
    statement.write_text(statement.with_name("lent.yaml").read_text())
    done = project.mlloop("check")
    assert done.returncode == 2 and "has the name 'loan', as lent.yaml has" in done.stderr


def test_what_a_run_on_another_machine_writes_stays(project):
    here, dead = settings.load(project.root), subprocess.Popen(["true"])
    dead.wait()
    with runner.hold(here, "mlloop run", "shop"):
        lock, part = runner.problem_lock(here, "shop"), here.state / f".a.{dead.pid}.0fe1.part"
        part.touch()
        lock.write_text(lock.read_text().replace(socket.gethostname(), "another"))
        with runner.hold(here, "mlloop run", "loan"):
            assert part.exists()
    with runner.hold(here, "mlloop run", "loan"):
        assert not part.exists()


def test_killed_runs_leave_work_to_redo_and_nothing_to_mend(project, tmp_path):
    seconds = time.monotonic()
    project.run()
    whole, expected = time.monotonic() - seconds, project.products()
    source = random.Random(4)
    for _ in range(12):
        process = project.start("run", "--force")
        time.sleep(source.uniform(0.1, whole))
        process.kill()
        process.wait()
    outcome = project.run()
    assert outcome["exit_code"] == 0
    assert project.products() == expected
    assert not list((project.root / ".mlloop").rglob("*.part*"))
    ledger_of(project).verify()
    assert project.run()["ran"] == []


def test_what_dead_writers_left_is_removed_and_what_a_living_one_writes_stays(project):
    state, dead = project.root / ".mlloop", subprocess.Popen(["true"])
    dead.wait()
    (state / "plans").mkdir(parents=True)
    above, below = state / f".ledger-verified.{dead.pid}.7.part.json", state / "plans" / f".a.b.{dead.pid}.0fe1.part"
    living = state / "plans" / f".a.b.{os.getpid()}.0fe1.part"
    for path in (above, below, living):
        path.touch()
    project.mlloop("status")
    assert [path.exists() for path in (above, below, living)] == [False, True, True]
    with runner.hold(settings.load(project.root), "a test"):
        assert [path.exists() for path in (below, living)] == [False, True]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_says_so_and_goes_on_later(project, number):
    project.change("toy/fit.py", "return total", f"{PAUSE}return total")
    process = project.start("run")
    wait_until((project.root / "begun").exists)
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number and "continues from there" in said and "Traceback" not in said
    project.write("go", "")
    assert set(project.run()["ran"]) == {"training", "evaluation"}


def test_replayed_gate_gives_the_same_verdict_from_the_same_data(project):
    project.run()
    close_the_gate(project)
    project.mlloop("run")
    first = json.loads(project.mlloop("replay", "1", "--json").stdout)
    assert first["same"] and first["now"] == "yes" and first["differs"] == []
    project.change("toy/ask.py", ">= 3", ">= 4")
    done = project.mlloop("replay", "1")
    assert done.returncode == 1 and "the gate's code changed since" in done.stdout
    assert "said yes, and says no" in done.stdout


def test_at_tells_what_stood_then(project):
    project.run()
    assert "need gate yes" in project.mlloop("at", "2999-01-01").stdout
    assert "nothing had been decided" in project.mlloop("at", "2001-01-01").stdout


def test_debug_writes_the_notebook_with_its_inputs(project):
    project.run()
    done = project.mlloop("debug", "training", "--no-open")
    text = (project.root / done.stdout.strip()).read_text()
    assert "need_gate.json" in text and ".mlloop/debug/loan/training.json" in text


def test_outside_a_project_every_command_says_what_to_do(tmp_path):
    done = subprocess.run([sys.executable, "-m", "mlloop", "run"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "mlloop new" in done.stderr


# ---------------------------------------------------------------------------------------------- another ledger


def test_a_lost_ledger_is_told_and_its_gates_are_asked_again(project):
    project.run()
    (project.root / ".mlloop/ledger.db").unlink()
    done = project.mlloop("status")
    assert "the ledger is empty, and its last row that this project knows was row 1" in done.stderr
    assert "its verdict is not in the ledger" in " ".join(done.stdout.split())
    done = project.mlloop("run")
    assert done.returncode == 0 and "mlloop run" in done.stderr and "1 stages run, 4 up to date" in done.stdout
    again = json.loads(project.mlloop("log", "--json").stdout)
    assert [(row["kind"], row["subject"], row["verdict"]) for row in again] == [("gate", "need", "yes")]
    done = project.mlloop("status")
    assert done.stderr == "" and "stale" not in done.stdout


def test_a_project_that_moves_to_another_database_asks_its_gates_there_or_takes_its_ledger_along(project):
    project.run()
    project.write("settings.ini", "[kernels]\npool = fresh\n[ledger]\nurl = sqlite:///new.db\n")
    assert "stale" in project.mlloop("status").stdout
    project.write("settings.ini", "[kernels]\npool = fresh\n")
    done = project.mlloop("ledger", "copy", "--to", "sqlite:///new.db")
    assert done.returncode == 0 and "1 decisions, the chain holds" in done.stdout, done.stderr
    project.write("settings.ini", "[kernels]\npool = fresh\n[ledger]\nurl = sqlite:///new.db\n")
    assert "stale" not in project.mlloop("status").stdout and project.run()["ran"] == []


def test_a_database_that_goes_away_in_the_middle_of_a_run_is_named_and_the_next_run_goes_on(project, postgres):
    server = sa.make_url(postgres).set(drivername="postgresql+psycopg")
    schema = f"away{os.getpid()}"
    with sa.create_engine(server, poolclass=sa.pool.NullPool).begin() as admin:
        admin.exec_driver_sql(f"CREATE SCHEMA {schema}")
    wire = Wire(server.port or 5432)
    through = server.set(drivername="postgresql", host="127.0.0.1", port=wire.port, password="s3cret")
    url = f"{through.render_as_string(hide_password=False)}?options=-csearch_path%3D{schema}"
    project.write("settings.ini", f"{(project.root / 'settings.ini').read_text()}[ledger]\nurl = {url}\n")
    project.change("toy/ask.py", "def verdict(amounts):\n", f"def verdict(amounts):\n    {PAUSE}\n")
    process = project.start("run")
    wait_until((project.root / "begun").exists)
    wire.cut()
    project.write("go", "")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1 and "s3cret" not in said and "Traceback" not in said, said
    assert "cannot be used" in said and "Check it: mlloop check" in said
    wire.lay()
    project.change("toy/ask.py", "time.sleep(0.02)", "time.sleep(0.01)")
    outcome = project.run()
    assert outcome["exit_code"] == 0 and "problem" not in outcome["ran"] and "training" in outcome["ran"]
    ledger = ledger_of(project)
    assert [row.subject for row in ledger.rows()] == ["need"]
    ledger.verify()


def test_a_statement_is_read_once_for_as_long_as_its_file_stays_as_it_is(project, monkeypatch):
    project.run()
    load, read = runner.problems.load, []
    monkeypatch.setattr(runner.problems, "load", lambda path: read.append(path) or load(path))
    given, plan = runner.project(root=project.root)
    runner._statement_in.cache_clear()
    read.clear()
    runner.status(given, plan)
    runner.status(given, plan)
    assert len(read) == 1
    statement = runner.statement_file(given, plan)
    statement.write_text(statement.read_text() + "# one more line\n")
    assert runner._statement(given, plan).name == "loan" and len(read) == 2


def test_a_model_is_deployed_again_where_the_ledger_does_not_know_that_it_was(project, monkeypatch):
    settings, plan = runner.project(root=project.root)
    deployed = SimpleNamespace(action="champion", model=SimpleNamespace(digest="m1"))
    monkeypatch.setattr(runner, "_products", lambda: SimpleNamespace(load=lambda path, kind: deployed, Deployment=None))
    task, ledger = SimpleNamespace(products={"data": None}), Ledger.open(settings)
    assert "is not in the ledger" in runner._not_deployed_here(settings, plan, task)[0]
    deployed.action = "refused"
    assert runner._not_deployed_here(settings, plan, task) == []
    deployed.action = "champion"
    ledger.append(Entry("gate", "loan", "validation", "yes", model="m1"))
    assert "is not in the ledger" in runner._not_deployed_here(settings, plan, task)[0]
    ledger.append(Entry("promotion", "loan", model="m1", expect=None))
    assert runner._not_deployed_here(settings, plan, task) == []


@pytest.mark.parametrize(
    "words", [["status"], ["at"], ["log"], ["report"], ["replay", "1"], ["run"], ["ledger", "check"]]
)
def test_a_changed_ledger_is_told_by_every_command_that_reads_it(changed, words):
    done = changed.mlloop(*words)
    assert done.returncode == 1 and "row 1 was changed after it was written" in done.stderr, done
    assert "no longer" not in done.stdout and "says no" not in done.stdout


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> Project:
    """A project that ran, and whose only decision somebody turned into its opposite."""
    root = tmp_path_factory.mktemp("changed") / "loans"
    write_project(root)
    made = Project(root)
    made.run()
    with sqlite3.connect(root / ".mlloop/ledger.db") as database:
        database.execute("DROP TRIGGER decisions_no_UPDATE")
        database.execute("UPDATE decisions SET verdict = 'no' WHERE id = 1")
    database.close()
    return made
