"""The project holds together: what it adds of its own is found, and a run comes to a verdict."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlloop import problem
from mlloop.core import extensions, settings

ROOT = Path(__file__).resolve().parents[1]
STATEMENT = ROOT / "problems" / "{{ name }}.yaml"


def mlloop(*arguments, state=None):
    """Run the command line in this project; `state` keeps what it makes apart."""
    apart = {
        "MLLOOP_PATHS_STATE": f"{state}/.mlloop",
        "MLLOOP_PATHS_REPORTS": f"{state}/reports",
        "MLLOOP_PATHS_PROBLEMS": f"{state}/problems",
        "MLLOOP_LAKE_URI": f"{state}/.mlloop/lake",
        "MLLOOP_LEDGER_URL": f"sqlite:///{state}/.mlloop/ledger.db",
        "MLLOOP_TRACKING_URL": f"sqlite:///{state}/.mlloop/mlflow.db",
        "MLLOOP_TRACKING_ARTIFACTS": f"{state}/.mlloop/artifacts",
    }
    environment = {**os.environ, **(apart if state else {})}
    return subprocess.run([sys.executable, "-m", "mlloop", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def data_is_here():
    """Whether the data that the statement names lies on this machine."""
    from mlloop.collection import external_files

    statement = problem.load(STATEMENT)
    local = any(one.kind == "files" for one in statement.sources.values())
    return bool(external_files(statement, settings.load(ROOT))) or not local


def test_the_statement_holds_together():
    assert problem.load(STATEMENT).name == "{{ name }}"


def test_every_function_of_our_own_is_found():
    assert set(extensions.bring_in(ROOT)) == set(extensions.modules(ROOT))


def test_nothing_would_fail_before_a_run():
    if not data_is_here():
        pytest.skip("the data is not on this machine")
    done = mlloop("check")
    assert done.returncode == 0, done.stderr


def test_a_run_reaches_the_first_verdict(tmp_path):
    if not data_is_here():
        pytest.skip("the data is not on this machine")
    shutil.copytree(ROOT / "problems", tmp_path / "problems")
    done = mlloop("run", "--until", "need_gate", "--json", state=tmp_path)
    assert done.returncode in (0, 3), done.stderr
    assert json.loads(done.stdout)[0]["verdicts"]["need"]["verdict"] in ("yes", "maybe", "no")
