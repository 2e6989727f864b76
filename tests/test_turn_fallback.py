"""A turn that falls back to the rule: at once, once whatever is killed, until a better model passes gate and canary."""

import json

import pytest
from loop_project import actions, make

from mlloop.store import prediction_log

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    """The same customers with a rule that holds through their change: the older repay."""
    loop = make(tmp_path_factory.mktemp("steady") / "project")
    path = loop.root / "problems/loan.yaml"
    text = path.read_text().replace(
        "{name: small, meaning: lend small sums, score: -amount}", "{name: older, meaning: the older repay, score: age}"
    )
    path.write_text(text.replace("severe_standard_errors: 100", "severe_standard_errors: 6"))
    done = loop.mlloop("run", "--json")
    assert done.returncode == 0, done.stderr
    loop.turn("2025-03-10")
    return loop


def test_the_rule_takes_over_in_the_turn_that_shows_it_and_a_better_model_takes_over_from_it(steady, tmp_path):
    loop = steady.copy(tmp_path / "project")
    first = loop.ledger.champion("loan").model
    (fell,) = loop.turn("2025-03-17")
    assert fell.ended[0]["what"] == "fallback" and fell.ended[0]["outcome"] == "rule" and fell.alert
    assert fell.action == "retrain" and fell.champion != first
    row = loop.ledger.rows(kind="fallback")[0]
    assert (row.subject, row.model, row.details["to"]) == (first, fell.champion, "rule")
    turned = loop.turn("2025-03-24", "2025-03-31", "2025-04-07", "2025-04-14")
    log = prediction_log.read(loop.root / ".mlloop/predictions/loan")
    assert (log.loc[log["at"].between("2025-03-17", "2025-03-23 23:59:59"), "model"] == row.model).any()
    assert turned[-1].champion not in (first, row.model), "a model that passed gate and trial answers again"
    loop.ledger.verify()
    again = loop.mlloop("tick", "--at", "2025-03-17", "--json")
    assert json.loads(again.stdout)["fresh"] and len(loop.ledger.rows(kind="fallback")) >= 1


@pytest.mark.parametrize("kills", [[("standing", 1), ("standing", 3), ("standing", 6), ("canary", 1), ("decision", 2)]])
def test_turn_killed_while_it_falls_back_falls_back_once(steady, tmp_path, kills):
    loop = steady.copy(tmp_path / "project")
    died = [loop.killed_turn("2025-03-17", word, steps) for word, steps in kills]
    assert died.count(-9) >= 3
    loop.turn("2025-03-17")
    loop.ledger.verify()
    assert [row.details["to"] for row in loop.ledger.rows(kind="fallback")].count("rule") == 1
    assert actions(loop) == ["nothing", "retrain"]
    log = prediction_log.read(loop.root / ".mlloop/predictions/loan")
    assert log["entity"].is_unique and len(log) == 2 * 840
