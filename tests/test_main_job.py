"""The shipped problems, from question to gated model, in a copy of the project with the network away."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_install import without_network

from mlloop.core import settings
from mlloop.store import ledger, tracking

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = {"employment": 0.3, "shop": 1.0}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Path:
    """The project as a clone has it, with one trial a candidate."""
    folder = tmp_path_factory.mktemp("shipped")
    for part in ("settings.ini", "env.yaml", "pipeline.yaml", "requirements.lock", "problems", "nbs"):
        source = ROOT / part
        shutil.copytree(source, folder / part) if source.is_dir() else shutil.copy(source, folder / part)
    for statement in (folder / "problems").glob("*.yaml"):
        statement.write_text(re.sub(r"trials: \d+", "trials: 1", statement.read_text()))
    yield folder
    subprocess.run([sys.executable, "-m", "mlloop.kernels", "stop"], cwd=folder, capture_output=True)


def mlloop(folder: Path, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    command = [*before, sys.executable, "-m", "mlloop", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=1500, env={**os.environ, "COLUMNS": "200"}
    )


@pytest.mark.timeout(1600)
@pytest.mark.parametrize("problem", SAMPLE)
def test_the_main_job_reaches_a_gated_model_without_a_network(shipped, problem):
    words = tuple(without_network())
    done = mlloop(shipped, "run", "--problem", problem, "--set", f"sample={SAMPLE[problem]}", "--json", before=words)
    (outcome,) = json.loads(done.stdout)
    assert outcome["error"] is None and outcome["exit_code"] == 0, done.stderr
    assert outcome["verdicts"]["need"]["verdict"] in ("yes", "maybe")
    assert outcome["verdicts"]["validation"]["verdict"] in ("yes", "maybe")
    found = settings.load(shipped)
    training = json.loads((shipped / f".mlloop/products/{problem}/training.json").read_text())
    gate = ledger.Ledger.open(found).last(problem=problem, kind="gate")
    assert gate.subject == "validation" and gate.model == training["model"]["digest"]
    path, registered = tracking.fetch(problem, training["model"]["registered"]["version"], found)
    assert registered.digest == training["model"]["digest"] and Path(path).exists()
    assert (shipped / "reports/index.html").stat().st_size < 1_000_000
    again = mlloop(shipped, "run", "--problem", problem, "--set", f"sample={SAMPLE[problem]}", "--json")
    assert json.loads(again.stdout)[0]["ran"] == []


def test_every_gate_replays_to_its_verdict(shipped):
    rows = ledger.Ledger.open(settings.load(shipped)).rows(kind="gate")
    assert rows, "the main job has not run"
    for row in rows:
        done = mlloop(shipped, "replay", str(row.id), "--json")
        result = json.loads(done.stdout)
        assert (result["same"], result["differs"]) == (True, []), done.stdout + done.stderr


def test_pages_hold_no_path_of_the_machine(shipped):
    for page in (shipped / "reports").rglob("*.html"):
        assert str(shipped) not in page.read_text(), page
        assert page.stat().st_size < 1_200_000, page
