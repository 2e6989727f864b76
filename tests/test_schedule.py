"""When no turn is due: said in words, without a fault and without loading what a turn needs."""

import datetime as dt
import json
import subprocess
import sys

import pytest
from production import Production, environment

from mlloop import deployment
from mlloop.core import clock, storage
from mlloop.loop import schedule
from mlloop.pipeline import runner
from mlloop.store.entries import Entry


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Production:
    """A champion since now; no turn was made."""
    made = Production(tmp_path_factory.mktemp("schedule") / "loans", make=True)
    model = made.train("linear", C=1.0)
    deployment.promote(made.settings, made.ledger, "loan", model["digest"], model["release"])
    return made


@pytest.fixture
def production(begun, tmp_path) -> Production:
    return begun.copy(tmp_path / "loans")


def midnight() -> dt.datetime:
    return dt.datetime.combine(clock.now().date(), dt.time())


def decide(production, subject: str = "nothing", is_shown: bool = True) -> None:
    """The row of a turn at this midnight, and its page."""
    at = midnight()
    entry = Entry("retrain", "loan", subject, "no", ["as before"], details={"as_of": at.isoformat()}, key="turn")
    production.ledger.append(entry)
    if is_shown:
        page = production.settings.state / "turns" / "loan" / schedule.Period(at, at).name / "retraining.json"
        storage.write_json(page, {})


def test_before_the_first_turn_a_tick_does_nothing_and_says_until_when(production):
    first = midnight() + dt.timedelta(days=production.loan.retrain.every_days)
    for arguments in ([], ["--dry-run"], ["--until", "collect"]):
        done = production.mlloop("tick", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"loan: nothing is due until {first:%Y-%m-%d %H:%M} UTC, the first turn\n"
    told = json.loads(production.mlloop("tick", "--json").stdout)
    assert (told["action"], told["fresh"], told["due"]) == ("not due", True, first.isoformat())


def test_between_two_turns_the_last_decision_is_told_without_loading_what_a_turn_needs(production):
    decide(production)
    runner.project("loan", production.root)  # the plan is read by Ploomber once
    code = (
        "import sys; from mlloop.project import Project; done = Project().tick('loan'); "
        "heavy = {'pandas', 'sklearn', 'scipy', 'ibis', 'mlflow'} & set(sys.modules); "
        "print(done.action, done.summary, done.fresh, sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=production.root, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "nothing as before True []\n"
    shown = production.mlloop("tick").stdout
    assert "already decided: nothing. as before" in shown and "nothing is due until" in shown


@pytest.mark.parametrize("left", ["nothing", "its page", "a retraining"])
def test_what_is_left_of_a_turn_is_done_by_the_next_tick(production, left):
    decide(production, is_shown=left != "its page")
    if left == "a retraining":
        entry = Entry("retrain", "loan", "retrain", "yes", details={"as_of": "2020-01-01", "by_person": True}, key="b")
        production.ledger.append(entry)
    settings, plan = runner.project("loan", production.root)
    standing = schedule.idle(settings, plan, clock.now())
    assert (standing is None) == (left != "nothing")
