"""Would a model of the newest rows, or the same model recalibrated, have done better in a period?"""

import dataclasses
import datetime as dt

import numpy as np
import pytest
from watched import EVERY, HELD, Watched

from mlloop import deployment, monitoring, retraining
from mlloop.monitors import evidence, standing
from mlloop.release import releases

PERIODS = 5


def office_of(root, change):
    """Some periods after the holdout, in which `change` made other outcomes of the rows; observed one after the other."""
    made = Watched(root / "project")
    later = (made.rows["day"] >= HELD).to_numpy()
    made.rows.loc[later, "repaid"] = change(made.rows[later], np.random.default_rng(0))
    for k in range(1, PERIODS + 1):
        end = HELD + EVERY * k
        made.answer(end - EVERY, end)
        made.bring(end)
        made.noted(end, monitoring.observe(made.loan, made.gathered(end)))
    history = evidence.earlier_products(made.settings, "loan", end + EVERY)
    return made, history


def commoner(rows, rng):
    """The log odds of repaying are larger by 2 for everybody."""
    odds = (500 - rows["amount"]) / 150 + (rows["town"] == "Ely") * 1.5 + 2
    return (rng.random(len(rows)) < 1 / (1 + np.exp(-odds))).astype(int)


def reversed_causes(rows, rng):
    """Large sums are repaid, and small ones are not."""
    return np.where(rows["amount"] > rows["amount"].median(), rows["repaid"].max(), rows["repaid"].min())


def newer_of(history):
    return {one["name"].split(",")[0].split(" trained")[0]: one for one in history[-1]["realised"][-1]["others"]}


@pytest.mark.parametrize("change", [commoner, reversed_causes])
def test_a_retraining_is_asked_for_where_one_would_help(tmp_path, change):
    made, history = office_of(tmp_path, change)
    found = standing.newer_is_better(made.loan, history, made.digest)
    assert found is not None and found.kind == "newer" and found.gain > 0
    assert found.in_money is (change is commoner)


def test_nothing_is_asked_for_where_nothing_changed(tmp_path):
    made, history = office_of(tmp_path, lambda rows, rng: rows["repaid"].to_numpy())
    assert len(newer_of(history)) >= 2, "both were compared"
    assert standing.newer_is_better(made.loan, history, made.digest) is None


def test_what_is_fitted_for_a_comparison_saw_no_label_that_had_not_come(tmp_path):
    made = Watched(tmp_path / "project")
    until = HELD + 3 * EVERY
    made.bring(until + EVERY)
    time = made.loan.time.model_copy(update={"label_delay_days": 9})
    statement = made.loan.model_copy(update={"time": time})
    release = deployment.load_release(made.settings, made.ledger, "loan", made.digest)
    rows = evidence.newest_rows(made.lake, statement, release, until)
    assert rows["day"].max() < until - dt.timedelta(days=9) <= rows["day"].max() + dt.timedelta(hours=1)
    assert rows["day"].min() >= until - dt.timedelta(days=9) - evidence.NEWER_PERIODS * EVERY


def test_of_many_rows_a_fixed_part_is_read(tmp_path, monkeypatch):
    made = Watched(tmp_path / "project")
    made.bring(HELD)
    release = deployment.load_release(made.settings, made.ledger, "loan", made.digest)
    monkeypatch.setattr(evidence, "NEWER_ROWS", 500)
    first, again = (evidence.newest_rows(made.lake, made.loan, release, HELD) for _ in range(2))
    assert 200 < len(first) <= 500 and first.equals(again)


def test_a_rule_is_not_recalibrated(tmp_path):
    made = Watched(tmp_path / "project")
    made.bring(HELD)
    release = deployment.load_release(made.settings, made.ledger, "loan", made.digest)
    rule = dataclasses.make_dataclass("Rule", ["form", "fields"])("rule", release.fields)
    assert evidence.shift_known(made.lake, made.loan, rule, HELD) is None


def test_where_the_outcome_became_commoner_the_model_is_recalibrated_and_not_retrained(tmp_path):
    """Its scores keep their order, earn more from then on, and nothing is asked for again."""
    made, history = office_of(tmp_path, commoner)
    end = HELD + PERIODS * EVERY
    facts = retraining.Facts(end, made.digest, HELD, new_labelled_rows=9999)
    decision = retraining.decide(made.loan, history, facts)
    assert (decision.action, decision.verdict) == ("recalibrate", "no")
    before = deployment.load_release(made.settings, made.ledger, "loan", made.digest)
    shift = evidence.shift_known(made.lake, made.loan, before, end)
    rows = [deployment.recalibrate(made.settings, made.ledger, made.loan, made.digest, shift, end) for _ in range(2)]
    assert rows[0].id == rows[1].id and rows[0].subject == "calibration", "once for each moment"
    after = deployment.load_release(made.settings, made.ledger, "loan", made.digest)
    asked = releases.rows_of(made.rows.tail(500), before.fields)
    was, is_ = before.scores(asked), after.scores(asked)
    assert after.model == before.model and (np.argsort(was) == np.argsort(is_)).all() and (is_ > was).all()
    assert abs(evidence.shift_known(made.lake, made.loan, after, end)) < 1e-6
    earlier = deployment.load_release(made.settings, made.ledger, "loan", made.digest, end - EVERY)
    assert earlier.digest == before.digest, "what was answered before was answered without it"
    later = dataclasses.replace(facts, recalibrated=end)
    assert retraining.decide(made.loan, history, later).action == "nothing"


def test_an_outcome_that_is_far_more_frequent_awaits_no_second_period(tmp_path):
    made, history = office_of(tmp_path, commoner)
    first = next(one for one in history if one["realised"])
    assert len(first["realised"]) == 1 and first["realised"][0]["level_errors"] > 6
    end = dt.datetime.fromisoformat(first["as_of"])
    decision = retraining.decide(made.loan, [first], retraining.Facts(end, made.digest, HELD, new_labelled_rows=9999))
    assert decision.action == "recalibrate" and "count at once" in decision.summary
    unpriced = made.loan.model_copy(update={"money": type(made.loan.money)()})
    assert standing.level_is_off(unpriced, [first], made.digest) is None, "nobody acts by a price"


def test_a_fall_of_the_metric_is_retrained_and_not_recalibrated(tmp_path):
    made, history = office_of(tmp_path, reversed_causes)
    facts = retraining.Facts(HELD + PERIODS * EVERY, made.digest, HELD, new_labelled_rows=9999)
    assert retraining.decide(made.loan, history, facts).action == "retrain"


def test_a_refusal_does_not_outlast_labels_that_show_a_better_model(tmp_path):
    """It was refused with all of 20,000 rows at hand; half as many again would take a year."""
    made, history = office_of(tmp_path, reversed_causes)
    attempt = {"at": "2025-02-01", "rows": 20_000, "n": 300, "gap": None, "se": None, "new": 9999}
    facts = retraining.Facts(HELD + PERIODS * EVERY, made.digest, HELD, new_labelled_rows=9999, attempt=attempt)
    assert retraining.decide(made.loan, history, facts).action == "retrain"
    fewer = dataclasses.replace(facts, attempt={**attempt, "new": made.loan.retrain.min_labelled_rows - 1})
    assert retraining.decide(made.loan, history, fewer).action == "not yet"
