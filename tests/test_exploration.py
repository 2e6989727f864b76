"""Exploration: the same trials for the same seed, nobody forgotten, and a candidate of one's own."""

import re
from dataclasses import replace

import ibis
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlloop import exploration, features
from mlloop.core import metrics
from mlloop.core.errors import ModelError
from mlloop.core.metrics import Estimate
from mlloop.data import loan_example
from mlloop.exploration import Budget, Contestant
from mlloop.models import candidates
from mlloop.problem import Problem


def statement(**changed) -> Problem:
    return loan_example.statement(**{"budget": {"trials": 3, "candidates": ["linear"]}, **changed})


def judge(problem: Problem, n: int = 900, seed: int = 0) -> exploration.RowsJudge:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {"id": range(n), "day": pd.date_range("2025-01-01", periods=n, freq="h"), "amount": rng.uniform(0, 10, n)}
    )
    table["town"] = rng.choice(["a", "b"], n)
    table["repaid"] = (rng.random(n) < np.where(table["town"] == "a", 0.8, 0.3)).astype(int)
    table["rule_small"] = -table["amount"]
    folds = [
        {"train_until": a, "test_from": a, "test_until": b}
        for a, b in (("2025-01-15", "2025-01-22"), ("2025-01-22", "2025-01-29"), ("2025-01-29", "2025-02-05"))
    ]
    product = {"tables": {"train": "t"}, "features": ["amount", "town"], "windows": {"folds": folds}}
    return exploration.judge_of(problem, product, lambda ref: ibis.memtable(table))


def test_the_same_seed_gives_the_same_product():
    problem = statement(budget={"trials": 3, "candidates": ["linear", "perceptron"]})
    found = [exploration.summary(exploration.explore(judge(problem), seed=1), problem) for _ in range(2)]
    assert found[0] == found[1]


def test_every_trial_of_every_loser_is_kept():
    problem = statement(budget={"trials": 3, "candidates": ["linear", "lightgbm"]})
    explored = exploration.explore(judge(problem))
    kept = exploration.summary(explored, problem)
    assert {c["name"] for c in kept["candidates"]} == {"linear", "lightgbm", "small"}
    assert [t["candidate"] for t in kept["trials"]].count("linear") == 3
    assert all(len(c["folds"]) == 3 for c in kept["candidates"])


def test_no_test_row_lies_before_what_was_learned_from():
    held = judge(statement())
    for train, test in held.folds:
        assert train.max() < test.min()


def test_seconds_end_a_search_but_never_the_defaults():
    linear = candidates.CANDIDATES["linear"]
    trials, stopped = exploration.search(linear, judge(statement()), Budget(trials=4, until=0.0))
    assert stopped and [t.params for t in trials] == [linear.defaults]


def test_a_plainer_candidate_is_taken_only_within_one_standard_error():
    def line(name, complexity, behind, half):
        return Contestant(
            name,
            "model",
            "",
            complexity,
            {},
            [],
            [],
            Estimate(figure, 0, 0, 9),
            Estimate(behind, behind - half, behind + half, 9),
        )

    figure = 1000.0
    best = line("network", 6, 0.0, 0.0)
    # an interval of +-1.96 has a standard error of 1 (normal distribution)
    assert exploration.choose([best, line("line", 1, 0.9, 1.96)]) == "line"
    assert exploration.choose([best, line("line", 1, 1.1, 1.96)]) == "network"
    assert exploration.choose([best, line("line", 1, 9.0, 196.0)]) == "line"
    # folds so uneven that one standard error is a tenth of the figure: behind by 1 % at most
    assert exploration.choose([best, line("line", 1, 11.0, 196.0)]) == "network"


@pytest.mark.parametrize(("gave", "warns"), [(220.0, True), (400.0, False), (440.0, False), (None, False)])
def test_a_figure_clearly_worse_than_the_need_gates_on_the_same_folds_says_so(gave, warns):
    selected = Estimate(414.0, 400.0, 428.0, 9)
    told = exploration.unlike({"value": gave, "low": 210.0, "high": 230.0}, selected, metrics.metric("mae"))
    assert ("better by 194" in told) == warns and bool(told) == warns
    assert exploration.unlike(None, selected, metrics.metric("mae")) == ""


def test_a_candidate_of_ones_own_takes_part():
    class Town(ClassifierMixin, BaseEstimator):
        def fit(self, X, y):
            self.classes_ = np.unique(y)
            self.share_ = pd.Series(y).groupby(X["town"].to_numpy()).mean()
            return self

        def predict_proba(self, X):
            share = X["town"].map(self.share_).fillna(0.5).to_numpy()
            return np.column_stack([1 - share, share])

    @candidates.candidate("town", ["classification"], complexity=1)
    def town(task, seed):
        """The share of each town."""
        return Town()

    try:
        problem = statement(budget={"trials": 1, "candidates": ["town", "lightgbm"]})
        assert exploration.explore(judge(problem)).chosen == "town"
    finally:
        candidates.CANDIDATES.pop("town")


def test_a_candidate_that_cannot_be_fitted_is_named():
    @candidates.candidate("broken", ["classification"])
    def broken(task, seed):
        class Broken(BaseEstimator):
            def fit(self, X, y):
                raise ValueError("no inverse")

        return Broken()

    try:
        with pytest.raises(ModelError, match=r"candidate 'broken'.*cannot be fitted: no inverse"):
            exploration.search(candidates.CANDIDATES["broken"], judge(statement()), Budget(trials=1))
    finally:
        candidates.CANDIDATES.pop("broken")


def regression() -> Problem:
    task = {"kind": "regression", "target": "amount", "positive": None}
    return statement(
        task=task,
        success={"metric": "mae", "threshold": 2.0},
        money={"true_positive": None, "false_positive": None, "per_unit_error": 1.0},
    )


def hourly(memory: float) -> exploration.RowsJudge:
    """A count by the hour of the day, with or without a memory, and with the features of the rows before."""
    rng, n = np.random.default_rng(1), 1500
    hour, surprise = np.arange(n) % 24, rng.normal(0, 1, n)
    past = np.concatenate([[0.0], surprise[:-1]])
    y = 5 * np.sin(hour / 4) + memory * past + surprise
    noise = {name: rng.normal(0, 1, n) for name in ("before_target_mean_28d", "before_days_since")}
    X = pd.DataFrame({"hour": hour.astype(float), "before_target_last": past, **noise})
    folds = [(np.arange(at), np.arange(at, at + 400)) for at in (300, 700, 1100)]
    return exploration.RowsJudge(regression(), X, y, folds, None, {})


@pytest.mark.parametrize("memory", [0.0, 2.0])
def test_the_rows_before_are_left_out_where_the_target_has_no_memory(memory):
    counts = hourly(memory)
    trials, _ = exploration.search(candidates.CANDIDATES["lightgbm"], counts, Budget(2))
    assert [trial.params["history"] for trial in trials] == [True, True, False]
    best = exploration.best_of(trials, counts.statement.success.metric)
    assert best.params["history"] is bool(memory)


def test_a_candidate_with_nothing_to_search_tries_each_of_its_starts():
    @candidates.candidate("nearest", ["classification"], starts={"classification": [{"neighbours": 9}]})
    def nearest(task, seed, neighbours=3):
        """The nearest rows."""
        return make_pipeline(StandardScaler(), KNeighborsClassifier(neighbours))

    try:
        problem = statement()
        numbers = replace(judge(problem), X=judge(problem).X.select_dtypes("number").fillna(0))
        trials, _ = exploration.search(candidates.CANDIDATES["nearest"], numbers, Budget(trials=1))
        assert [trial.params for trial in trials] == [{"neighbours": 3}, {"neighbours": 9}]
    finally:
        candidates.CANDIDATES.pop("nearest")


def test_a_regression_tries_lightgbms_own_values_second_and_goes_on_from_the_better_of_both():
    counts = replace(hourly(0.0), X=hourly(0.0).X[["hour"]])
    trials, _ = exploration.search(candidates.CANDIDATES["lightgbm"], counts, Budget(3))
    assert trials[1].params == {**trials[0].params, **candidates.PLAIN}
    best = exploration.best_of(trials[:2], counts.statement.success.metric).params
    assert trials[2].params["colsample_bytree"] == best["colsample_bytree"]


def test_without_features_of_the_rows_before_there_is_no_further_trial():
    counts = replace(hourly(0.0), X=hourly(0.0).X[["hour"]])
    trials, _ = exploration.search(candidates.CANDIDATES["lightgbm"], counts, Budget(2))
    assert len(trials) == 2


def test_what_is_left_out_is_what_the_stage_of_features_makes_of_the_rows_before():
    assert all(re.fullmatch(candidates.PAST, name) for name in features.HISTORY | features.SEASON)
