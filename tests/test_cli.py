"""The command line: help with an example for every command, light imports, errors without tracebacks."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import forked
import pytest
import typer.main
from typer.testing import CliRunner

from mlloop.cli import running
from mlloop.cli.app import app
from mlloop.core import storage
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger

TOP = typer.main.get_command(app).commands  # type: ignore[attr-defined]
COMMANDS = {**TOP, **{f"export {name}": command for name, command in TOP["export"].commands.items()}}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help_with_an_example_of_itself(command):
    done = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert f"Example: mlloop {command}" in done.stdout


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_example_has_only_options_that_its_command_knows(command):
    found = COMMANDS[command]
    words = shlex.split(found.epilog.removeprefix(f"Example: mlloop {command}"))
    found.make_context(command, words, resilient_parsing=True)
    known = {option for parameter in found.params for option in parameter.opts}
    free = hasattr(found, "commands") or found.context_settings.get("ignore_unknown_options", False)
    assert free or {word.split("=")[0] for word in words if word.startswith("--")} <= known


def test_help_imports_nothing_heavy():
    code = "import sys; from mlloop.cli import app; print([m for m in ('pandas','torch','mlflow','ploomber','papermill','ibis',"
    code += "'sqlalchemy','sklearn','nbformat','pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_written_for_each_shell(shell):
    words = [sys.executable, "-m", "mlloop", "--show-completion", shell]
    # what typer's own tests set: the shell that is named, not the one that started the tests
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | named)
    assert done.returncode == 0 and f"complete_{shell}" in done.stdout and "mlloop" in done.stdout


def test_completion_completes_commands_and_options():
    program = str(Path(sys.executable).with_name("mlloop"))
    asked = {"_MLLOOP_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    ask = lambda words, at: subprocess.run(
        [program], capture_output=True, text=True, env=os.environ | asked | {"COMP_WORDS": words, "COMP_CWORD": at}
    ).stdout.split()
    assert {"replay", "report"} <= set(ask("mlloop re", "1"))
    assert ask("mlloop run --unt", "2") == ["--until"]


def test_unknown_command_and_option_are_usage_errors():
    for words in (["rnu"], ["run", "--untill", "features"]):
        done = forked.run([sys.executable, "-m", "mlloop", *words], capture_output=True, text=True)
        assert done.returncode == 2 and "Traceback" not in done.stderr


def test_check_names_a_misspelt_key_with_its_line(project):
    project.change("problems/loan.yaml", "threshold: 0.7", "treshold: 0.7")
    done = project.mlloop("check")
    assert (
        done.returncode == 2
        and "loan.yaml:12: success.treshold" in done.stderr
        and "Did you mean 'threshold'?" in done.stderr
    )


def test_check_passes_on_a_sound_project(project):
    project.write("loans.csv", "amount,repaid\n1,1\n2,0\n")
    done = project.mlloop("check")
    assert done.returncode == 0 and "5 stages, gates: need_gate" in done.stdout


def test_broken_settings_and_pipeline_are_told_with_the_file(project):
    project.write("settings.ini", "[kernels]\npol = warm\n")
    done = project.mlloop("run")
    assert done.returncode == 2 and "unknown setting [kernels] pol" in done.stderr
    project.write("settings.ini", "[kernels]\npool = fresh\n")
    project.change("pipeline.yaml", "upstream: [training]", "upstream: [trainin]")
    done = project.mlloop("run")
    assert done.returncode == 2 and "pipeline.yaml" in done.stderr and "Traceback" not in done.stderr


def test_status_before_the_first_run_lists_every_stage_as_missing(project):
    stages = json.loads(project.mlloop("status", "--json").stdout)["stages"]
    assert {one["state"] for one in stages.values()} == {"missing"} and len(stages) == 5


def test_log_before_the_first_decision_says_how_to_get_one(project):
    assert "mlloop run" in project.mlloop("log").stdout


def test_log_is_readable_in_80_columns(project):
    project.mlloop("run", "--until", "training")
    words = [sys.executable, "-m", "mlloop", "log"]
    narrow = project.environment | {"COLUMNS": "80"}
    said = forked.run(words, cwd=project.root, capture_output=True, text=True, env=narrow).stdout.splitlines()
    assert said[0].startswith("#1  ") and said[0].endswith("loan  Need gate: yes, by policy")
    assert said[1] == "    3 rows" and max(map(len, said)) <= 80


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["log", "--kind", "gates"], "Did you mean 'gate'?"),
        (["at", "yesterday"], "TIME is 'yesterday'"),
        (["loop", "--until", "soon"], "--until is 'soon'"),
        (["monitor", "--at", "soon"], "--at is 'soon'"),
        (["gate", "nead"], "no gate 'nead' (known: need). Did you mean 'need'?"),
    ],
)
def test_a_mistyped_word_is_told_by_its_own_name(project, words, said):
    done = project.mlloop(*words)
    assert done.returncode == 2 and said in done.stderr and "mlloop" in done.stderr.splitlines()[-1]


def test_log_says_what_a_look_came_to_and_when_it_was_in_the_data(project):
    ledger = Ledger(f"sqlite:///{project.root}/.mlloop/ledger.db")
    ledger.append(Entry("retrain", "loan", subject="watch", verdict="maybe", details={"as_of": "2025-08-04T00:00:00"}))
    ledger.append(Entry("retrain", "loan", subject="ended", verdict="yes", details={"outcome": "canary"}))
    said = project.mlloop("log").stdout
    assert "Retrain? Being watched (2025-08-04 in the data)" in said
    assert "Retrained: the new model is in canary" in said


def test_log_of_a_problem_without_decisions_does_not_deny_those_of_others(project):
    project.mlloop("run", "--until", "training")
    assert "for 'other'; see all: mlloop log" in project.mlloop("log", "--problem", "other").stdout


def test_what_a_person_should_know_is_a_sentence_and_no_line_of_code():
    code = (
        "import warnings; from mlloop.cli import output; from mlloop.core.errors import Noted; output.note_warnings()\n"
        "warnings.warn('no answer; using fresh kernels', Noted); warnings.warn('from elsewhere', UserWarning)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stderr.splitlines()[:2]
    assert first == "note: no answer; using fresh kernels" and "UserWarning: from elsewhere" in second


@pytest.mark.parametrize(
    ("by", "verdict", "champion", "waits"),
    [
        ("policy", "yes", None, ""),
        (
            "policy",
            "maybe",
            None,
            "no model is in production: after a Maybe a person decides: mlloop promote --problem loan",
        ),
        ("policy", "maybe", "old", ""),
        ("person", "yes", None, "no model is in production: mlloop promote --problem loan"),
        ("person", "yes", "old", "the release waits for a person: mlloop promote --problem loan"),
        ("person", "yes", "new", ""),
        ("person", "yes", "old, new in canary", ""),
        ("person", "no", "old", ""),
    ],
)
def test_a_run_says_what_is_left_to_a_person(tmp_path, by, verdict, champion, waits):
    storage.write_json(tmp_path / "products/loan/training.json", {"model": {"digest": "new"}})
    project = SimpleNamespace(
        settings=SimpleNamespace(deployment_by=by, state=tmp_path),
        in_production=lambda name: SimpleNamespace(
            champion=champion, canary="new" if "new in" in str(champion) else None
        ),
    )
    state = SimpleNamespace(problem="loan", verdicts={"validation": {"verdict": verdict}}, error=None)
    assert running._waits(project, state) == waits
