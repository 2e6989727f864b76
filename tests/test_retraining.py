"""The loop's decisions in a world whose truth is known; many seeds of each are in benchmarks/scenarios.py."""

import datetime as dt
from types import SimpleNamespace

import pandas as pd
import pytest
from scenario_world import STATEMENT, Happening, play

from mlloop import retraining
from mlloop.core.errors import UsageError
from mlloop.loop import turn
from mlloop.loop.history import moments
from mlloop.store import prediction_log
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger

AT = 3


def test_shift_that_hurts_is_found_retrained_and_promoted():
    record = play(1, [Happening("hurts", AT)], 10)
    assert record.retrained[0] == AT, "so large a fall is acted on in the period in which the estimates show it"
    assert record.promoted
    assert record.quality[-1] > record.quality[AT] + 0.1


def test_shift_that_does_not_hurt_is_no_reason():
    record = play(1, [Happening("harmless", 1)], 8)
    assert record.retrained == [] and "feed broken" not in record.actions


def test_concept_drift_is_found_by_labels_and_not_before():
    record = play(1, [Happening("concept", AT)], 8)
    assert record.actions[AT] == "nothing" and record.health[AT] == "ok"
    assert record.retrained[0] == AT + 1 and "labels" in record.said[AT + 1]


@pytest.mark.parametrize(
    ("kind", "word"), [("nulls", "missing"), ("unit", "sum_eur"), ("gone", "empty"), ("duplicates", "another row")]
)
def test_broken_feed_is_named_and_never_retrained_on(kind, word):
    record = play(1, [Happening(kind, 1, 4)], 6)
    assert record.actions[1:4] == ["feed broken"] * 3 and record.retrained == []
    assert all(word in said for said in record.said[1:4])
    assert record.actions[5] != "feed broken"


@pytest.mark.slow
def test_challenger_of_bad_labels_is_not_promoted():
    assert play(1, [Happening("bad labels", AT, AT + 4)], 14).promoted == []


@pytest.mark.slow
def test_block_of_two_periods_is_undone_by_the_first_labels_after_it():
    record = play(1, [Happening("concept", AT, AT + 2)], 9)
    assert record.promoted == [AT + 2], (
        "labels of a second period agree with the first: nothing tells it from a change for good"
    )
    assert record.fell_back == [AT + 3] and record.quality[AT + 4 :] == record.never[AT + 4 :]


@pytest.mark.slow
def test_block_of_one_period_is_over_with_the_labels_after_it():
    record = play(1, [Happening("concept", AT, AT + 1)], 8)
    assert record.promoted == [] and record.retrained[0] == AT + 1
    assert record.quality[AT + 3 :] == record.never[AT + 3 :]


def test_challenger_beside_a_fallen_champion_predicts_for_nearly_all_requests():
    record = play(1, [Happening("concept", AT)], AT + 3)
    assert record.retrained[0] == AT + 1
    assert record.quality[AT + 2] > record.never[AT + 2] + 0.1, "and not only from its promotion on"


def test_challengers_broken_on_their_way_out_are_rolled_back_twice_and_then_a_person_is_called():
    record = play(1, [Happening("hurts", AT), Happening("bad canary", 0)], 11)
    assert len(record.rolled_back) == len(record.retrained) == 2 and record.promoted == []
    assert record.actions[-1] == "failed twice"


def test_challengers_that_failed_in_canary_count_until_another_model_predicts(tmp_path):
    ledger, day = Ledger(f"sqlite:///{tmp_path}/ledger.db"), lambda number: dt.datetime(2025, 1, 6 + number)
    session = SimpleNamespace(name="loan", ledger=ledger)
    loss = [
        {"name": "realised gain over the champion", "passed": False, "value": -0.1, "high": -0.05, "threshold": 0.0}
    ]
    chance = [{**loss[0], "high": 0.02}]

    def gated(model):
        ledger.append(Entry("gate", "loan", subject="validation", verdict="yes", model=model))
        return model

    def rolled_back(model, number, evidence):
        champion = ledger.champion("loan").model
        ledger.append(Entry("canary", "loan", "started", model=gated(model), expect=champion))
        details = {"as_of": day(number).isoformat(), "outcome": "canary"}
        ledger.append(Entry("retrain", "loan", subject="ended", model=model, details=details))
        ledger.append(Entry("canary", "loan", "rolled_back", model=model, evidence=evidence))

    failed = lambda at: turn.failed_in_canary(
        session, ledger.rows(problem="loan", kind="retrain", subject="ended"), day(at)
    )
    ledger.append(Entry("promotion", "loan", model=gated("a" * 64)))
    for number, evidence in enumerate((loss, chance, loss)):
        rolled_back(str(number) * 64, number, evidence)
    assert failed(9) == (day(0), day(2)) and failed(2) == (day(0),)
    ledger.append(Entry("promotion", "loan", model=gated("b" * 64), expect="a" * 64))
    assert failed(9) == ()


@pytest.mark.slow
def test_nothing_is_retrained_in_a_year_without_change():
    assert play(1, [], 52).retrained == []


def test_label_beside_one_that_has_not_come_stays_what_it_was():
    log = pd.DataFrame({"entity": ["a", "b", "c"]})
    joined = prediction_log.with_labels(log, pd.DataFrame({"id": ["a", "b"], "bought": [1, 0]}), "id", "bought")
    assert joined["label"].dropna().astype(str).tolist() == ["1", "0"]  # "1.0" would be no positive class


def statement(**retrain):
    from mlloop.problem import Problem

    return Problem.model_validate({**STATEMENT, "retrain": {**STATEMENT["retrain"], **retrain}})


def test_backstop_renews_a_model_that_is_old_though_nothing_is_worse():
    now = dt.datetime(2025, 6, 1)
    facts = retraining.Facts(now, champion="m", since=now - dt.timedelta(days=90), new_labelled_rows=1000)
    assert retraining.decide(statement(backstop_days=91), [], facts).action == "no figure yet"
    assert retraining.decide(statement(backstop_days=90), [], facts).action == "retrain"
    lately = retraining.Facts(**{**facts.__dict__, "begun": (now - dt.timedelta(days=30),)})
    assert retraining.decide(statement(backstop_days=90), [], lately).action == "no figure yet"
    on_trial_first = retraining.Facts(**{**facts.__dict__, "since": now, "trained": now - dt.timedelta(days=90)})
    assert retraining.decide(statement(backstop_days=90), [], on_trial_first).action == "retrain", (
        "trials do not make it younger"
    )


def test_turns_of_a_history_are_the_grid_and_its_rhythm_the_statements():
    start, until = dt.datetime(2025, 1, 6), dt.datetime(2025, 1, 28)
    found = moments(statement(), start, None, until, None)
    assert [one.day for one in found] == [13, 20, 27]
    assert moments(statement(), start, dt.datetime(2025, 1, 15), until, 7)[0].day == 20
    with pytest.raises(UsageError, match="schedule"):
        moments(statement(), start, None, until, 14)
    with pytest.raises(UsageError, match="no turn"):
        moments(statement(), start, None, dt.datetime(2025, 1, 8), None)


@pytest.mark.parametrize(
    ("by", "gate", "outcome"),
    [("person", "yes", "trained"), ("person", "maybe", "gate said maybe"), ("policy", "yes", "gate said maybe")],
)
def test_a_challenger_that_passed_is_left_to_a_person_where_settings_say_so(monkeypatch, by, gate, outcome):
    monkeypatch.setattr(turn, "_trained_by", lambda plan, stage: "m")
    monkeypatch.setattr(turn, "attempted", lambda *of: {})
    monkeypatch.setattr(turn, "after_no", lambda *of, **more: {})
    monkeypatch.setattr(turn.products, "load", lambda *of: SimpleNamespace(action="refused"))
    last = SimpleNamespace(verdict=gate, reasons=["it is better"])
    session = SimpleNamespace(
        settings=SimpleNamespace(deployment_by=by), name="loan", ledger=SimpleNamespace(last=lambda **of: last)
    )
    plan = SimpleNamespace(problem="loan", tasks={"deployment": SimpleNamespace(products={"data": ""})})
    end = turn._end(session, plan, None, SimpleNamespace(details={"as_of": "2025-03-03T00:00:00"}))
    assert end["details"]["outcome"] == outcome
    assert ("waits for a person" in end["reasons"][0]) == (outcome == "trained")
