"""One threshold for the money that the gate states, the class that is served, and the worth that the loop counts."""

import json

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from production import FEATURES, Production

from mlloop import exploration, serving
from mlloop.comparison import holdout
from mlloop.core import metric_table
from mlloop.loop.counterfactual import Counterfactual
from mlloop.models import candidates
from mlloop.release import preparation, releases, rule_release

OUTCOMES = ("true_positive", "false_positive", "false_negative", "true_negative")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The loans, a model of the earlier ones, and its saved form."""
    production = Production(tmp_path_factory.mktemp("decided"))
    production.train_rows = production.rows[:800].assign(rule_small=-production.rows["amount"][:800])
    production.held_rows = production.rows[800:].assign(rule_small=-production.rows["amount"][800:])
    production.held_rows = production.held_rows.reset_index(drop=True)
    X, y = production.train_rows[FEATURES], production.train_rows["repaid"]
    production.fitted = candidates.build("lightgbm", production.loan.task, 0, {"n_estimators": 20}).fit(X, y)
    production.saved = {"name": "lightgbm", **candidates.save(production.fitted, production.root / ".mlloop" / "m")}
    return production


def priced(made, metric: str = "roc_auc", **money: float):
    """The statement of the loans with other worths."""
    loan = made.loan
    terms = {**dict.fromkeys(OUTCOMES, 0.0), **money}
    success = loan.success.model_copy(update={"metric": metric})
    return loan.model_copy(update={"money": loan.money.model_copy(update=terms), "success": success})


def worth_by_hand(statement, truth, said) -> float:
    """What the served classes were worth in a period, outcome by outcome."""
    m = statement.money
    of = {(1, 1): m.true_positive, (0, 1): m.false_positive, (1, 0): m.false_negative, (0, 0): m.true_negative}
    each = [of[y, p] for y, p in zip(truth, said, strict=True)]
    return float(np.mean(each) * m.decisions_per_period)


def served(made, statement, rows):
    """The release of the model under a statement, and its answers over the rows."""
    prepared = preparation.prepare(made.settings, statement, made.saved, rows, FEATURES)
    release = releases.load(prepared.path, prepared.digest)
    answered, refused = serving.score_table(serving.Pair(release), rows[["id", *FEATURES]])
    assert refused.empty
    return release, answered


COSTS = st.integers(-400, 400).map(float)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(money=st.fixed_dictionaries(dict.fromkeys(OUTCOMES, COSTS)), metric=st.sampled_from(["roc_auc", "accuracy"]))
def test_the_served_classes_are_worth_what_the_gate_states_whatever_decisions_cost(made, money, metric):
    statement, rows = priced(made, metric, **money), made.held_rows
    held = holdout.held_rows(statement, made.fitted, made.train_rows, rows, FEATURES)
    _, answered = served(made, statement, rows)
    truth, said = held.fold.y.astype(int), answered["prediction"].to_numpy()
    assert held.fold.worth("model").value == pytest.approx(worth_by_hand(statement, truth, said), abs=1e-6)
    if metric == "accuracy":
        assert held.fold.figure("model").value == pytest.approx(np.mean(truth == said))
    loop = Counterfactual.__new__(Counterfactual)
    loop.statement = statement
    counted = loop._figure(held.fold.y, answered["score"].to_numpy(), loop._decided(answered))
    assert counted["worth"] == pytest.approx(held.fold.worth("model").value, abs=1e-6)
    assert counted["value"] == pytest.approx(held.fold.figure("model").value, abs=1e-6)
    assert loop._figure(held.fold.y, answered["score"].to_numpy())["worth"] == pytest.approx(counted["worth"])


def test_a_decision_that_pays_from_13_percent_is_served_from_13_percent(made):
    statement = priced(made, true_positive=87, false_positive=-13)
    release, answered = served(made, statement, made.held_rows)
    assert release.threshold == {"value": pytest.approx(0.13), "source": "money"}
    assert (answered["prediction"] == (answered["score"] >= 0.13)).all()
    assert answered["score"].between(0.13, 0.5).any()  # these were served as negative from one half on
    said = metric_table.threshold_in_words(**release.threshold)
    assert "from a score of 0.130 on" in said and "acting pays" in said


def test_the_rule_that_is_kept_ready_decides_from_the_same_probability(made):
    statement = priced(made, true_positive=87, false_positive=-13)
    prepared = rule_release.prepare_rule(made.settings, statement, statement.rules[0], made.held_rows)
    release = releases.load(prepared.path, prepared.digest)
    assert release.threshold == {"value": pytest.approx(0.13), "source": "money"}


@pytest.mark.parametrize(("money", "every"), [({"true_positive": 5}, True), ({"false_positive": -5}, False)])
def test_where_one_decision_always_pays_the_words_say_so(made, money, every):
    release, answered = served(made, priced(made, **money), made.held_rows.head(50))
    assert (answered["prediction"] == int(every)).all()
    said = metric_table.threshold_in_words(**json.loads(json.dumps(release.threshold)))
    assert said.startswith("every row is predicted positive" if every else "no row is predicted positive")


@pytest.mark.parametrize("money", [{}, {"true_positive": 3, "false_negative": 3}])
def test_without_a_price_on_decisions_the_threshold_is_one_half(made, money):
    release, _ = served(made, priced(made, **money), made.held_rows.head(50))
    assert release.threshold == {"value": 0.5, "source": "default"}


def test_a_release_made_before_thresholds_were_kept_answers_as_it_did(made):
    prepared = preparation.prepare(
        made.settings, priced(made, true_positive=87, false_positive=-13), made.saved, made.held_rows, FEATURES
    )
    card = json.loads((prepared.path / "release.json").read_text())
    del card["cut_from"]
    path, digest = releases.write(
        made.settings, "loan", card | {"cut": 0.5}, {"model.onnx": (prepared.path / "model.onnx").read_bytes()}
    )
    before = releases.load(path, digest)
    answers, _ = serving.answer(serving.Pair(before), releases.rows_of(made.held_rows[FEATURES], before.fields))
    assert {one["threshold"] for one in answers} == {0.5} and {one["threshold_from"] for one in answers} == {"default"}
    assert all(one["prediction"] == int(one["score"] >= 0.5) for one in answers)


def test_champion_and_canary_decide_from_their_own_thresholds(made):
    champion, _ = served(made, priced(made, true_positive=50, false_positive=-50), made.held_rows.head(50))
    canary, _ = served(made, priced(made, true_positive=87, false_positive=-13), made.held_rows.head(50))
    rows = releases.rows_of(made.held_rows[["id", *FEATURES]], champion.fields)
    keyed = [{**row, "id": name} for row, name in zip(rows, made.held_rows["id"], strict=True)]
    answers, records = serving.answer(serving.Pair(champion, canary, 0.5), keyed)
    found = {(one["role"], round(one["threshold"], 6), one["threshold_from"]) for one in answers}
    assert found == {("champion", 0.5, "money"), ("canary", 0.13, "money")}
    assert all(one["prediction"] == int(one["score"] >= one["threshold"]) for one in answers)
    assert not any("threshold" in record for record in records)  # the log names the release, which holds it


def test_where_f1_asks_and_money_does_not_the_threshold_of_the_folds_is_judged_and_served(made):
    statement, rows, cut = priced(made, "f1"), made.held_rows, 0.31
    held = holdout.held_rows(statement, made.fitted, made.train_rows, rows, FEATURES, cut=cut)
    prepared = preparation.prepare(made.settings, statement, {**made.saved, "recipe": {"cut": cut}}, rows, FEATURES)
    release = releases.load(prepared.path, prepared.digest)
    answered, _ = serving.score_table(serving.Pair(release), rows[["id", *FEATURES]])
    assert release.threshold == {"value": cut, "source": "metric"}
    assert held.fold.figure("model").value == pytest.approx(sk.f1_score(held.fold.y, answered["prediction"]))
    money = priced(made, "f1", true_positive=87, false_positive=-13)
    prepared = preparation.prepare(made.settings, money, {**made.saved, "recipe": {"cut": cut}}, rows, FEATURES)
    assert releases.load(prepared.path, prepared.digest).threshold["source"] == "money"


def test_the_threshold_of_the_folds_is_where_f1_is_best_and_weighs_no_class(made):
    rows = made.train_rows
    folds = [(np.arange(start), np.arange(start, start + 200)) for start in (400, 600)]
    judge = exploration.RowsJudge(
        priced(made, "f1"),
        rows[FEATURES],
        rows["repaid"].to_numpy(float),
        folds,
        None,
        {"small": -rows["amount"].to_numpy()},
    )
    candidate = candidates.CANDIDATES["lightgbm"]
    trial = exploration.Trial({"n_estimators": 20}, [0.5, 0.5], False)
    found = next(c for c in exploration.compared(judge, {"lightgbm": (candidate, [trial])}) if c.kind == "model")
    fitted = [
        candidate.make(made.loan.task, 0, n_estimators=20).fit(rows[FEATURES][: len(a)], judge.y[a]) for a, _ in folds
    ]
    scores = np.concatenate(
        [m.predict_proba(rows[FEATURES].iloc[b])[:, 1] for m, (_, b) in zip(fitted, folds, strict=True)]
    )
    y = np.concatenate([judge.y[b] for _, b in folds])
    assert sk.f1_score(y, scores >= found.cut) == pytest.approx(max(sk.f1_score(y, scores >= cut) for cut in scores))
    assert found.cut < 0.5
    assert exploration.best_threshold(priced(made, "f1", true_positive=1, false_positive=-1), [], "lightgbm") is None
