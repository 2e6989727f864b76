"""A turn that falls back to the rule: at once, once whatever is killed, until a better model passes gate and canary."""

import json

import pytest
from loop_project import actions, loans, make

from mlloop import deployment, products
from mlloop.problem import utc
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


@pytest.fixture(scope="module")
def months(tmp_path_factory):
    """Customers who stay as they are, and an age that comes in months for two periods."""
    loop = make(tmp_path_factory.mktemp("months") / "project")
    path = loop.root / "problems/loan.yaml"
    path.write_text(path.read_text().replace("min: 18, max: 120", "min: 18"))
    rows = loans(back_at="2025-03-03")
    rows.loc[rows["day"].between("2025-03-10", "2025-03-23 23:59:59"), "age"] *= 12
    rows.to_csv(loop.root / "loans.csv", index=False)
    done = loop.mlloop("run", "--json")
    assert done.returncode == 0, done.stderr
    loop.turn("2025-03-10", "2025-03-17", "2025-03-24", "2025-03-31", "2025-04-07", "2025-04-14")
    return loop


def test_a_column_in_another_unit_is_read_as_missing_until_its_feed_is_right(months):
    from mlloop.core import settings

    assert actions(months) == ["nothing", *["feed broken"] * 2, *["not enough rows"] * 2, "nothing"]
    model = months.ledger.champion("loan").model
    rows = months.ledger.rows(kind="update", subject="withheld", model=model)
    assert [(row.details["as_of"][:10], row.details["columns"]) for row in rows] == [
        ("2025-03-17", ["age"]),
        ("2025-03-31", []),
    ]
    request = {"amount": 500.0, "town": "Ely"}
    released = lambda day: deployment.load_release(settings.load(months.root), months.ledger, "loan", model, utc(day))
    young, old = ([{**request, "age": age}] for age in (20, 80))
    assert released("2025-03-10").scores(young) < released("2025-03-10").scores(old)
    assert released("2025-03-24").scores(young) == released("2025-03-24").scores(old)
    assert released("2025-04-07").scores(young) == released("2025-03-10").scores(young)


def test_what_was_predicted_without_a_column_is_not_held_against_the_model(months):
    read = lambda day: products.load_kept(months.root / f".mlloop/monitoring/loan/{day}.json")
    assert read("2025-03-31")["feed"]["withheld"] == ["age"] and "read age as missing" in read("2025-03-31")["said"]
    assert read("2025-04-07")["feed"]["withheld"] == [] and read("2025-04-07")["health"] == "ok"
    assert months.ledger.rows(kind="fallback") == []


def test_what_was_broken_is_not_learnt_from(months):
    spans = deployment.withheld_spans(months.ledger, "loan", utc("2025-04-07"))
    assert spans == [("age", utc("2025-03-10"), utc("2025-03-24"))]
    done = months.mlloop("retrain", "--at", "2025-04-14")
    assert done.returncode in (0, 3), done.stderr  # the gate may find it no better
    (change,) = [
        one
        for one in products.load_kept(months.root / ".mlloop/products/loan@2025-04-14/transformation.json")["changes"]
        if one["rule"] == "feed broken"
    ]
    assert change["columns"] == ["age"] and change["rows"] == 14 * 120
