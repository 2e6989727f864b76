"""The validation gate: verdicts from figures, missing figures, chance, and a model asked in a fresh process."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mlloop.comparison.baselines import Prediction
from mlloop.comparison.folds import RowsFold
from mlloop.core import metrics
from mlloop.core.verdict import Check, conclude, table
from mlloop.data import loan_example
from mlloop.models import candidates
from mlloop.problem import Problem
from mlloop.validation_gate import decide, reproduce_in_fresh_process

STATEMENT = loan_example.statement(
    success={
        "threshold": 0.8,
        "min_gain": 0.02,
        "slices": ["branch"],
        "min_slice_rows": 100,
        "max_slice_gap": 0.1,
        "max_latency_ms": 50,
    }
)
ASKED = {"asked": 5, "same": 5, "said": ""}


def around(value, half, n=1000):
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def figures(**changed):
    """The evaluation of a model that passes; `changed` replaces whole parts."""
    return {
        "main": around(0.85, 0.02), "best_rule": 0,
        "contenders": [{"name": "old", "kind": "rule", "metric": around(0.78, 0.02), "gain": around(0.07, 0.015)}],
        "champion": {"digest": None, "gain": None, "said": "There is no champion."},
        "slices": [
            {"slice": "branch", "group": "north", **around(0.84, 0.03, 600), "gap": 0.01},
            {"slice": "branch", "group": "far", **around(0.60, 0.20, 40), "gap": 0.25}],
        "latency": {"p50_below_ms": 5.0, "p99_below_ms": 10.0},
    } | changed  # fmt: skip


def champion(gain, n=900):
    return {"digest": "c0ffee", "said": "The champion is c0ffee.", "n": n, "gain": gain}


def rule(gain):
    return [{"name": "old", "kind": "rule", "metric": around(0.78, 0.02), "gain": gain}]


def group(gap, half, n=600):
    return [{"slice": "branch", "group": "north", **around(0.85 - gap, half, n), "gap": gap}]


@pytest.mark.parametrize(
    ("changed", "verdict", "deciding"),
    [
        ({}, "yes", "threshold met"),
        ({"main": around(0.79, 0.005)}, "no", "threshold met"),
        ({"main": around(0.81, 0.02)}, "maybe", "threshold met"),
        ({"contenders": rule(around(0.03, 0.005))}, "yes", "threshold met"),
        ({"contenders": rule(around(0.03, 0.02))}, "maybe", "better than the best rule"),
        ({"contenders": rule(around(0.03, 0.04))}, "no", "better than the best rule"),
        ({"contenders": rule(around(0.01, 0.005))}, "no", "better than the best rule"),
        ({"champion": champion(around(0.02, 0.01))}, "yes", "threshold met"),
        ({"champion": champion(around(0.01, 0.02))}, "no", "better than the champion"),
        ({"champion": champion(around(-0.02, 0.01))}, "no", "better than the champion"),
        # another file, the same answers: it solves the problem, and there is no reason to swap
        ({"champion": champion(around(0.0, 0.0))}, "maybe", "better than the champion"),
        ({"slices": group(0.2, 0.03)}, "no", "no group of branch left behind"),
        ({"slices": group(0.12, 0.05)}, "maybe", "no group of branch left behind"),
        ({"slices": group(0.05, 0.05)}, "yes", "threshold met"),
        ({"latency": {"p99_below_ms": 100.0}}, "no", "quick enough"),
    ],
)
def test_a_verdict_follows_from_its_figures(changed, verdict, deciding):
    found = decide(figures(**changed), STATEMENT, ASKED)
    assert (found["verdict"], found["deciding"]) == (verdict, deciding)
    assert (verdict == "yes") == (not found["must_change"]) and len(found["evidence"]) == 6


def test_a_question_that_a_person_answered_by_promoting_is_not_asked_of_a_challenger():
    asked = [{"column": "age", "rests": True, "sign": "tells much alone", "without": 0.6, "value": 0.8}]
    better = champion(around(0.02, 0.01))
    first = decide(figures(asked=asked, champion=better), STATEMENT, ASKED)
    later = decide(figures(asked=asked, champion={**better, "accepted": ["age is known before"]}), STATEMENT, ASKED)
    assert (first["verdict"], first["deciding"]) == ("maybe", "age is known before") and later["verdict"] == "yes"
    assert any(reason.startswith("Accepted by the person") for reason in later["reasons"])


def test_groups_that_are_too_small_do_not_keep_a_model_in_place_that_was_not_judged_on_them_either():
    few = {
        "slices": group(0.0, 0.03, n=60),
        "refit": {"differs": 0.01, "bound": 0.25, "rows": 60, "unit": "probability"},
    }
    beside = {**champion(around(-0.001, 0.01)), "follow_up": True}
    judged = decide(figures(**few, champion=beside), STATEMENT, ASKED)
    unjudged = {**beside, "unjudged_groups": ["no group of branch left behind"]}
    both = decide(figures(**few, champion=unjudged), STATEMENT, ASKED)
    assert (judged["verdict"], judged["deciding"]) == ("maybe", "no group of branch left behind")
    assert both["verdict"] == "yes" and any(
        "as it is for the model in production" in reason for reason in both["reasons"]
    )
    worse = {**champion(around(-0.02, 0.01)), "unjudged_groups": ["no group of branch left behind"]}
    assert decide(figures(**few, champion=worse), STATEMENT, ASKED)["verdict"] == "no"


NAN = around(float("nan"), 0.0)


@pytest.mark.parametrize(
    "changed",
    [
        {"main": None}, {"main": NAN}, {"main": {"value": 0.9}}, {"best_rule": None}, {"contenders": rule(None)}, {"contenders": rule(NAN)},
        {"champion": None}, {"champion": champion(None)}, {"champion": champion(NAN)}, {"slices": []}, {"slices": None},
        {"slices": group(0.0, 0.03, n=99)}, {"slices": [{**group(0.0, 0.03)[0], "value": None}]}, {"latency": None}, {"latency": {}},
        {"latency": {"p99_below_ms": None}}, {"latency": {"p99_below_ms": float("inf")}},
    ],
)  # fmt: skip
def test_a_missing_figure_is_a_no(changed):
    found = decide(figures(**changed), STATEMENT, ASKED)
    assert found["verdict"] == "no" and found["must_change"]
    json.dumps(found, allow_nan=False)  # the ledger takes it as it is


@pytest.mark.parametrize("key", list(figures()))
def test_a_figure_nobody_wrote_is_a_no(key):
    told = {name: value for name, value in figures().items() if name != key}
    if key == "contenders":
        told |= {"contenders": [], "best_rule": None}
    assert decide(told, STATEMENT, ASKED)["verdict"] == "no"


@pytest.mark.parametrize(
    "asked",
    [
        None,
        {},
        {"asked": 5, "same": None, "said": "gone"},
        {"asked": 5, "same": 4, "said": ""},
        {"asked": 0, "same": 0},
    ],
)
def test_a_model_that_cannot_be_asked_is_a_no(asked):
    found = decide(figures(), STATEMENT, asked)
    assert (found["verdict"], found["deciding"]) == ("no", "can be loaded and asked")


def test_lower_is_better_is_judged_downwards():
    error = Problem.model_validate({
        **STATEMENT.model_dump(), "task": {"kind": "regression", "table": "loans", "target": "income"},
        "success": {"metric": "mae", "threshold": 2.0, "min_gain": 0.5, "slices": ["branch"], "max_slice_gap": 0.3, "min_slice_rows": 100},
    })  # fmt: skip
    told = figures(main=around(1.5, 0.2), contenders=rule(around(1.0, 0.2)),
                   slices=[{"slice": "branch", "group": "north", **around(1.6, 0.1, 600), "gap": 0.1}])  # fmt: skip
    assert decide(told, error, ASKED)["verdict"] == "yes"
    assert decide(told | {"main": around(1.9, 0.2)}, error, ASKED)["verdict"] == "maybe"
    assert decide(told | {"main": around(2.5, 0.2)}, error, ASKED)["verdict"] == "no"
    behind = [{"slice": "branch", "group": "north", **around(2.1, 0.1, 600), "gap": 0.6}]
    found = decide(told | {"slices": behind}, error, ASKED)
    assert (found["verdict"], found["deciding"]) == ("no", "no group of branch left behind")
    wide = [{"slice": "branch", "group": "north", **around(1.9, 0.2, 600), "gap": 0.4}]
    assert decide(told | {"slices": wide}, error, ASKED)["verdict"] == "maybe"


def test_groups_with_few_rows_are_named_and_not_judged():
    reasons = decide(figures(), STATEMENT, ASKED)["reasons"]
    assert any("1 group with fewer than 100 rows is not judged" in reason for reason in reasons)


def test_a_group_of_one_class_is_no_reason_for_a_no_where_the_groups_were_guessed():
    groups = [
        *figures()["slices"],
        {"slice": "branch", "group": "east", "n": 400, "value": None, "low": None, "high": None, "gap": None},
    ]
    guessed = STATEMENT.model_copy(update={"guessed": {"success.slices": ["branch"]}})
    assert decide(figures(slices=groups), STATEMENT, ASKED)["verdict"] == "no"
    assert decide(figures(slices=groups), guessed, ASKED)["verdict"] == "yes"


def test_what_must_change_is_said_in_numbers():
    said = decide(figures(main=around(0.76, 0.01), contenders=rule(around(0.01, 0.005))), STATEMENT, ASKED)[
        "must_change"
    ]
    assert said[0] == "needs ROC AUC 0.800, the model gives 0.760 +- 0.01"
    assert said[1].startswith(
        "needs 0.02 more than the rule 'old' (0.780) with 95% confidence, the model gives 0.01 [0.005 to 0.015]"
    )


def _challenge(seed, truth=0.0, n=600):
    """A challenger's gain over a champion; the challenger knows `truth` more of the answer."""
    rng = np.random.default_rng(seed)
    y = (np.arange(n) % 2).astype(float)
    shared = rng.normal(size=n) + y
    answers = {
        name: Prediction(shared + rng.normal(0, 0.7, n) + more * y, 0.5, np.zeros(n))
        for name, more in (("model", truth), ("champion", 0.0))
    }
    money = SimpleNamespace(decisions_per_period=1)
    gain = RowsFold(y, answers, None, "roc_auc", money).gain("model", "champion")
    return {"value": gain.value, "low": gain.low, "high": gain.high, "n": gain.n}


def test_a_challenger_of_equal_truth_is_promoted_in_at_most_five_of_a_hundred_draws():
    promoted = sum(
        decide(figures(champion=champion(_challenge(seed))), STATEMENT, ASKED)["verdict"] == "yes"
        for seed in range(400)
    )
    assert 0 < promoted <= 20  # 10 expected of 400: the upper tail of a 95 % interval
    worse = sum(
        decide(figures(champion=champion(_challenge(seed, -0.1))), STATEMENT, ASKED)["verdict"] == "yes"
        for seed in range(400)
    )
    assert worse <= 2


def test_a_challenger_that_is_truly_better_is_promoted():
    promoted = sum(
        decide(figures(champion=champion(_challenge(seed, 0.6))), STATEMENT, ASKED)["verdict"] == "yes"
        for seed in range(50)
    )
    assert promoted >= 48


def test_a_challenger_of_equal_truth_to_a_recommender_is_promoted_in_at_most_five_of_a_hundred_draws():
    promoted = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        hard = rng.beta(0.4, 1.2, 500)  # users differ more than models do, and half of them have no hit
        ours, theirs = (
            np.where(rng.random(500) < 0.5, 0.0, np.clip(hard + rng.normal(0, 0.1, 500), 0, 1)) for _ in range(2)
        )
        gain = metrics.estimate_mean(ours - theirs, draws=0)
        told = champion({"value": gain.value, "low": gain.low, "high": gain.high, "n": 500})
        promoted += decide(figures(champion=told), STATEMENT, ASKED)["verdict"] == "yes"
    assert 0 < promoted <= 20


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    X = pd.DataFrame({"age": np.arange(20.0, 60.0), "branch": ["north", "south"] * 20})
    model = candidates.build("linear", STATEMENT.task).fit(X, (X["age"] > 40).astype(int))
    folder = tmp_path_factory.mktemp("model")
    saved = candidates.save(model, folder)
    asked = {
        "rows": X.head(3).to_dict("list"),
        "numbers": ["age"],
        "answers": model.predict_proba(X.head(3))[:, 1].tolist(),
    }
    return saved, asked


def test_a_fresh_process_gives_the_same_answers(kept):
    assert reproduce_in_fresh_process(kept[0]["path"], kept[0]["digest"], kept[1]) == {
        "asked": 3,
        "same": 3,
        "said": "",
    }


def test_missing_values_travel_as_they_are(kept):
    saved, asked = copy.deepcopy(kept)
    asked["rows"]["age"][0], asked["rows"]["branch"][1] = None, None
    model = candidates.load(saved["path"])
    X = pd.DataFrame(
        {
            "age": pd.Series(asked["rows"]["age"], dtype=float),
            "branch": pd.Series(asked["rows"]["branch"], dtype=object),
        }
    )
    asked["answers"] = model.predict_proba(X)[:, 1].tolist()
    assert reproduce_in_fresh_process(saved["path"], saved["digest"], asked)["same"] == 3


def test_other_answers_are_noticed(kept):
    saved, asked = copy.deepcopy(kept)
    asked["answers"][1] += 0.001
    assert reproduce_in_fresh_process(saved["path"], saved["digest"], asked)["same"] == 2


@pytest.mark.parametrize("harm", ["digest", "path"])
def test_a_model_that_is_not_the_one_recorded_cannot_be_asked(kept, harm):
    saved, asked = copy.deepcopy(kept)
    saved[harm] = "0" * 64
    found = reproduce_in_fresh_process(saved["path"], saved["digest"], asked)
    assert found["same"] is None and "Loading it failed" in found["said"] and "ModelError" in found["said"]


def test_a_verdict_without_checks_is_a_no_and_its_table_is_empty():
    assert conclude("validation", [])["verdict"] == "no"
    shown = table(
        conclude(
            "validation", [Check("a", None, "open", 0.25, 0.2, 0.3, 0.2, "AUC"), Check("b", True, "", float("inf"))]
        )
    )
    assert (
        shown.loc["a", "verdict"] == "open"
        and shown.loc["a", "interval"] == "0.200 to 0.300"
        and shown.loc["b", "figure"] == ""
    )


def test_a_least_gain_that_nobody_stated_refuses_no_gain_that_is_hardly_chance():
    guessed = STATEMENT.model_copy(update={"guessed": {"success.min_gain": 0.02, "success.max_slice_gap": 0.1}})
    verdicts = {}
    for name, gain in {"wide": around(0.05, 0.055), "small": around(0.01, 0.005), "chance": around(0.03, 0.04)}.items():
        verdicts[name] = decide(figures(contenders=rule(gain)), guessed, ASKED)
    assert {name: found["verdict"] for name, found in verdicts.items()} == {
        "wide": "maybe",
        "small": "maybe",
        "chance": "no",
    }
    assert any("may be chance" in reason for reason in verdicts["chance"]["reasons"])
    assert decide(figures(contenders=rule(around(0.05, 0.055))), STATEMENT, ASKED)["verdict"] == "no"


def test_a_group_that_a_refit_serves_worse_refuses_only_where_a_person_stated_the_gap():
    refit = {
        "rows": 300, "differs": 0.04, "unit": "probability", "bound": 0.2, "gain": {"value": 0.02, "low": 0.0, "high": 0.04},
        "slices": [{"slice": "branch", "group": "north", "n": 200, "fall": 0.3}],
    }  # fmt: skip
    guessed = STATEMENT.model_copy(update={"guessed": {"success.max_slice_gap": 0.1}})
    assert decide(figures(refit=refit), STATEMENT, ASKED)["verdict"] == "no"
    assert decide(figures(refit=refit), guessed, ASKED)["verdict"] == "maybe"
