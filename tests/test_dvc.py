"""dvc.yaml: what each stage depends on and leaves, and the real DVC on a small project: repro, push, pull."""

import json
import os
import shutil
import subprocess
import sys

import programs
import pytest
import yaml


def exported(project) -> dict:
    done = project.mlloop("export", "dvc", "--out", "dvc.yaml")
    assert done.returncode == 0, done.stderr
    return yaml.safe_load((project.root / "dvc.yaml").read_text())["stages"]


def test_a_project_that_has_not_run_is_told_to_run_first(project):
    done = project.mlloop("export", "dvc")
    assert done.returncode == 2 and "mlloop run --problem loan" in done.stderr


@pytest.mark.slow
def test_dvc_repeats_pushes_and_brings_back_what_the_ledger_cites(project, tmp_path):
    dvc = programs.of_pypi(tmp_path / "environment", "dvc", "dvc", "MLLOOP_TEST_DVC")
    assert project.mlloop("run").returncode == 0
    stages = exported(project)
    assert list(stages)[-1] == "ledger" and "loan-training" in stages
    training = stages["loan-training"]
    assert ".mlloop/products/loan/collection.json" in training["deps"] and training["cmd"].endswith("--until training")
    assert {"toy/fit.py", "toy/arithmetic.py"} <= set(training["deps"]) and "toy/ask.py" not in training["deps"]
    assert {".mlloop/products/loan/training.json": {"persist": True}} in training["outs"]
    outs = [next(iter(out)) for stage in stages.values() for out in stage["outs"]]
    assert len(outs) == len(set(outs))

    (tmp_path / "bin").mkdir()
    mlloop = tmp_path / "bin" / "mlloop"
    mlloop.write_text(f'#!/bin/sh\nexec {sys.executable} -m mlloop "$@"\n')
    mlloop.chmod(0o755)

    def call(program, *words) -> str:
        where = {**os.environ, "PATH": f"{mlloop.parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
        done = subprocess.run([program, *words], cwd=project.root, env=where, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (project.root / ".gitignore").write_text(".mlloop/\n")
    call("git", "init", "-q")
    call(dvc, "init", "-q")
    call(dvc, "config", "core.analytics", "false")
    call(dvc, "remote", "add", "-d", "disk", str(tmp_path / "remote"))
    call(dvc, "repro")
    for command in (("status",), ("run",), ("ledger", "check")):  # what a machine notes of its own files is no output
        assert project.mlloop(*command).returncode == 0
    assert "up to date" in call(dvc, "status")
    assert "Running stage" not in call(dvc, "repro")
    call(dvc, "push")
    call("git", "add", "-A")
    head = json.loads(project.mlloop("log", "--json").stdout)
    shutil.rmtree(project.root / ".mlloop")
    call(dvc, "pull")
    assert json.loads(project.mlloop("log", "--json").stdout) == head
    assert project.mlloop("ledger", "check").returncode == 0
    states = {
        name: stage["state"] for name, stage in json.loads(project.mlloop("status", "--json").stdout)["stages"].items()
    }
    assert set(states.values()) == {"fresh"}, states
    replayed = project.mlloop("replay", "1")
    assert replayed.returncode == 0, replayed.stderr
    project.write("toy/arithmetic.py", "def total(values):\n    return float(sum(values))\n")
    assert "loan-training:" in call(dvc, "status") and "loan-collection:" not in call(dvc, "status")
