"""A decision by a person: shown before, told in the moment in which it stands, and not made twice by mistake."""

import os
import pty
import signal
import subprocess
import sys

import pytest
from production import Production, environment

import mlloop
from mlloop import deployment
from mlloop.cli.production import _refused
from mlloop.store.entries import Entry


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Production:
    """Two models whose gate said yes; the second is champion."""
    made = Production(tmp_path_factory.mktemp("deciding") / "loans", make=True)
    made.first, made.second = made.train("linear", C=1.0), made.train("linear", C=0.01)
    for model in (made.first, made.second):
        deployment.promote(made.settings, made.ledger, "loan", model["digest"], model["release"])
    return made


@pytest.fixture
def production(made, tmp_path) -> Production:
    return made.copy(tmp_path / "loans")


def rows(production) -> list[str]:
    return [f"{row.kind} {row.model[:12]}" for row in production.ledger.rows(kind=("promotion", "rollback"))]


def test_a_preview_decides_nothing_and_keeps_to_the_rules(production):
    before = production.ledger.head()
    done = production.mlloop("rollback", "--dry-run")
    assert done.returncode == 0 and done.stdout.splitlines() == [
        f"now       loan: in production {made_of(production, 2)}; before {made_of(production, 1)}",
        f"would be  loan: in production {made_of(production, 1)}; before no model",
    ]
    done = production.mlloop("promote", made_of(production, 2), "--dry-run")
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "nothing to decide: it is so already"
    assert production.ledger.head() == before


def made_of(production, number: int) -> str:
    return (production.first, production.second)[number - 1]["digest"][:12]


@pytest.mark.parametrize("answer, decided", [("n", False), ("y", True)])
def test_on_a_terminal_a_person_is_shown_what_would_be_and_asked(production, answer, decided):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mlloop", "rollback"], cwd=production.root, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**environment(), "TERM": "dumb"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(ours, 1000)
    os.write(ours, f"{answer}\n".encode())
    process.wait(60)
    assert f"would be  loan: in production {made_of(production, 1)}".encode() in shown
    assert (rows(production)[-1] == f"rollback {made_of(production, 1)}") is decided


def test_a_promotion_that_changes_nothing_says_so_and_names_the_model_that_was_refused(production):
    made_again = production.mlloop("promote", made_of(production, 2))
    assert made_again.stdout.splitlines()[-1] == "nothing changed"
    assert _refused(mlloop.open(production.root), None) == ""
    production.ledger.append(Entry("gate", "loan", subject="validation", verdict="no", model="f" * 64))
    assert "ffffffffffff, was refused by the validation gate" in _refused(mlloop.open(production.root), None)


def test_a_rollback_to_a_named_model_can_be_repeated(production):
    for _ in range(2):
        done = production.mlloop("rollback", "--to", made_of(production, 1))
        assert done.returncode == 0 and f"in production {made_of(production, 1)}" in done.stdout, done.stderr
    assert len(rows(production)) == 3


@pytest.mark.parametrize(
    "words, kind, number",
    [
        (["rollback"], "rollback", signal.SIGINT),
        (["promote"], "promotion", signal.SIGINT),
        (["rollback"], "rollback", signal.SIGTERM),
        (["rollback"], "rollback", signal.SIGHUP),
    ],
)
def test_a_decision_is_told_when_it_stands_and_again_when_the_rest_is_interrupted(production, words, kind, number):
    if kind == "promotion":
        production.mlloop("rollback")
        words = [*words, production.second["digest"]]
    # whoever runs the tests may have signals ignored, which a child inherits
    code = f"import signal; signal.signal({int(number)}, {'signal.default_int_handler' if number == signal.SIGINT else 'signal.SIG_DFL'})\n"
    code += "import sys, time; from mlloop.cli.app import main; from mlloop.project import Project\n"
    code += f"Project._follow_aliases = lambda self: time.sleep(60); sys.argv[1:] = {words!r}; main()"
    process = production.python(code)
    line = process.stdout.readline()
    expected = made_of(production, 1 if kind == "rollback" else 2)
    assert line.startswith(f"loan: in production {expected}")
    os.kill(process.pid, number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Do not decide it again" in told
    assert f"#{production.ledger.head().id} loan: {kind}" in told


def test_a_command_interrupted_before_its_decision_says_that_nothing_was_decided(production):
    code = "import sys, time; from mlloop.cli.app import main; from mlloop.project import Project\n"
    code += "Project.in_production = lambda *_: (print('here', flush=True), time.sleep(60)); sys.argv[1:] = ['rollback']; main()"
    process = production.python(code)
    assert process.stdout.readline() == "here\n"
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted; nothing was decided" in told and len(rows(production)) == 2


def test_a_library_that_is_stopped_while_it_loads_is_no_fault_of_ours(production):
    code = "import os, signal, sys; from mlloop.cli.app import main; from mlloop.project import Project\n"
    code += "def load(*_):\n    try:\n        os.kill(os.getpid(), signal.SIGINT)\n"
    code += "    except KeyboardInterrupt:\n        raise ImportError('initialization failed') from None\n"
    code += "Project.in_production = load; sys.argv[1:] = ['rollback']; main()"
    process = production.python(code)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "nothing was decided" in told and "fault of mlloop" not in told


def test_who_only_decides_does_not_wait_for_what_training_needs():
    code = "import sys, mlloop.deployment; print(sorted({'sklearn', 'scipy', 'ibis', 'lightgbm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
