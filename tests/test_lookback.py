"""How far back to learn: what is chosen where the world changed and where it did not, and that nothing looks ahead."""

import numpy as np
import pandas as pd
import pytest
from test_evaluation import SHOP

from mlloop import training
from mlloop.comparison import lookback
from mlloop.comparison.lookback import ALL, Block, RowsPast, UsersPast, blocks_of, look_back
from mlloop.data import loan_example
from mlloop.models import candidates

WINDOWS = {"train_until": "2025-05-26", "holdout_from": "2025-05-26", "holdout_until": "2025-07-07"}
REGRESSION = {
    "task": {"kind": "regression", "positive": None},
    "success": {"metric": "mae", "threshold": 1.0},
    "money": {"per_unit_error": 1.0},
}
LINEAR = candidates.recipe("linear", {"C": 1.0}, 0)


def past(changed: str | None, kind: str = "classification", seed: int = 0, n: int = 7800) -> RowsPast:
    """26 weeks from January to July; from `changed` on the sign of what counts is another."""
    rng = np.random.default_rng(seed)
    at = pd.Timestamp("2025-01-06") + pd.to_timedelta(np.sort(rng.uniform(0, 182, n)), "D")
    rows = pd.DataFrame({"id": range(n), "day": at, "amount": rng.normal(size=n), "income": rng.normal(size=n)})
    sign = np.where(at >= pd.Timestamp(changed or "2026-01-01"), -1.0, 1.0)
    signal = 1.2 * sign * rows["amount"] + 0.6 * rows["income"]
    number = signal + rng.normal(size=n)
    rows["repaid"] = number if kind == "regression" else (rng.random(n) < 1 / (1 + np.exp(-signal))).astype(int)
    changes = REGRESSION if kind == "regression" else {}
    statement = loan_example.statement(time={"label_delay_days": 7}, retrain={"every_days": 7}, **changes)
    return RowsPast(statement, rows, ["amount", "income"], rows["repaid"].to_numpy(), np.zeros(n, bool))


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_after_a_change_only_what_came_since_is_learnt(kind):
    choice = look_back(past("2025-06-09", kind), LINEAR, WINDOWS)
    assert abs(choice.changed - pd.Timestamp("2025-06-09")) <= pd.Timedelta(days=4)
    assert choice.chosen.kind in ("since", "days") and choice.halves[0].kind != "all"
    weights = choice.chosen.weights(past("2025-06-09").time, pd.Timestamp(WINDOWS["holdout_until"]))
    assert weights[past("2025-06-09").time < pd.Timestamp("2025-06-01")].sum() == 0


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_where_nothing_changed_everything_is_learnt(kind):
    chosen = [look_back(past(None, kind, seed), LINEAR, WINDOWS).chosen for seed in range(4)]
    assert sum(one == ALL for one in chosen) >= 3  # one standard error: now and then chance has its way


@pytest.mark.parametrize("name", ["linear", "lightgbm", "perceptron"])
def test_a_month_that_was_seen_once_is_no_season(name):
    """Of half a year in which the outcome became more frequent: January is not taken for what lies before July."""
    rng = np.random.default_rng(0)
    at = pd.Timestamp("2024-07-01") + pd.to_timedelta(np.sort(rng.uniform(0, 184, 6000)), "D")
    rows = pd.DataFrame({"day": at, "amount": rng.normal(size=6000), "day_month": at.month * 1.0})
    growing = rng.random(6000) < 1 / (1 + np.exp(-rows["amount"] - (at.month - 9.5)))
    columns = ["amount", "day_month"]
    half = RowsPast(past(None).statement, rows, columns, growing.to_numpy(int), np.zeros(6000, bool))
    model = lookback.fitted(candidates.build(name, half.statement.task), half.fit_data(ALL, None))
    december, january = (rows[columns].tail(500).assign(day_month=month) for month in (12.0, 1.0))
    np.testing.assert_allclose(model.predict_proba(december), model.predict_proba(january))
    twice = RowsPast(half.statement, rows.assign(day=at + (at - at[0]) * 2), columns, half.y, half.aside)
    model = lookback.fitted(candidates.build(name, half.statement.task), twice.fit_data(ALL, None))
    assert np.abs(model.predict_proba(december) - model.predict_proba(january)).max() > 0.05


def of_two_groups(seed=0, n=5200):
    """Who has an income above the average repays large sums, and the others small ones: no line tells them apart."""
    one = past(None, seed=seed, n=n)
    signal = 1.5 * one.rows["amount"] * np.sign(one.rows["income"])
    y = (np.random.default_rng(seed).random(n) < 1 / (1 + np.exp(-signal))).astype(int)
    rows = one.rows.assign(repaid=y)
    return RowsPast(one.statement, rows, one.features, y, one.aside)


def test_where_the_recipe_cannot_learn_the_world_another_is_chosen_on_equal_terms():
    choice = look_back(of_two_groups(), LINEAR, WINDOWS)
    figures = {one.lookback.name: one.figure.value for one in choice.tried}
    assert choice.chosen.recipe == "lightgbm" and figures["all, by lightgbm"] > figures["all"] + 0.1
    assert training.recipe_of(LINEAR, choice.chosen)["name"] == "lightgbm"
    assert look_back(past(None), LINEAR, WINDOWS).chosen.recipe == ""


def test_a_statement_that_names_its_candidates_keeps_its_recipe():
    one = of_two_groups(n=2600)
    budget = one.statement.budget.model_copy(update={"candidates": ["linear"]})
    object.__setattr__(one, "statement", one.statement.model_copy(update={"budget": budget}))
    assert {each.lookback.recipe for each in look_back(one, LINEAR, WINDOWS).tried} == {""}


def test_a_block_is_predicted_by_what_was_labelled_before_it():
    one = past("2025-06-09")
    blocks, after = blocks_of(one.statement, WINDOWS, one.time, pd.Timestamp("2025-06-09"))
    assert after is not None and blocks[0].since >= pd.Timestamp("2025-06-09") + pd.Timedelta(days=7)
    for block in blocks:
        assert block.learnt_until == block.since - pd.Timedelta(days=7)  # the labels' delay
        assert one.time.iloc[one.before(block.learnt_until)[0]].max() < block.learnt_until


def test_too_little_of_the_new_world_is_no_new_world_yet():
    one = past("2025-07-02")
    blocks, after = blocks_of(one.statement, WINDOWS, one.time, pd.Timestamp("2025-07-02"))
    assert after is None and blocks[0].since == pd.Timestamp(WINDOWS["holdout_from"])


def test_a_change_is_named_where_too_little_of_the_new_world_is_there_to_learn():
    choice = look_back(past("2025-06-27", n=3900), LINEAR, WINDOWS)  # 150 rows a week
    assert choice.changed is None and abs(choice.detected - pd.Timestamp("2025-06-27")) <= pd.Timedelta(days=5)
    assert lookback.product_of(choice)["detected_at"] and not lookback.product_of(choice)["changed_at"]


def test_in_the_first_week_of_a_new_world_its_later_rows_are_predicted_by_its_earlier_ones():
    one = past("2025-06-30", n=15_600)  # 600 rows a week
    blocks, after = blocks_of(one.statement, WINDOWS, one.time, pd.Timestamp("2025-06-30"))
    assert after is not None and [block.learnt_until for block in blocks] == [block.since for block in blocks]
    choice = look_back(one, LINEAR, WINDOWS)
    assert choice.chosen.kind == "since" and choice.tried[0].figure.value < 0.5


def test_what_is_chosen_on_one_half_predicts_the_other():
    one = past(None)
    first = lookback.Lookback("the last 40 days", "days", days=40)
    choice = lookback.LookbackChoice(
        [], ALL, (ALL, first), blocks_of(one.statement, WINDOWS, one.time)[0], "linear", None
    )
    stretches = training.stretches_of(WINDOWS, choice)
    assert {(s.lookback.name, s.half) for s in stretches} == {("all", False), ("the last 40 days", True)}
    at = one.positions_in(stretches[0].block)
    mask = one.halves(at)
    assert (
        0.4 < mask.mean() < 0.6 and (one.halves(at[::-1]) == mask[::-1]).all()
    )  # whose half a row is does not hang on its place


def test_the_release_has_learnt_what_the_judged_models_had_not(tmp_path):
    one = past(None)
    judged = training.judged_models(one, LINEAR, training.stretches_of(WINDOWS), tmp_path / "judged", tmp_path / "c")
    _, learned_from, kept = training.release_of(one, LINEAR, ALL, WINDOWS, judged, tmp_path / "model", tmp_path / "c")
    assert len(judged) == 1 and judged[0]["rows"] < learned_from.trained["rows"] == 7800
    assert judged[0]["digest"] != kept["digest"]
    kept_as_judged = past(None)
    object.__setattr__(kept_as_judged, "statement", one.statement.model_copy(update={"refit": False}))
    _, _, same = training.release_of(
        kept_as_judged, LINEAR, ALL, WINDOWS, list(judged), tmp_path / "again", tmp_path / "c"
    )
    assert same["digest"] == judged[0]["digest"]  # refit: false releases the model that is judged


def test_a_steady_loss_has_no_change_and_one_that_moves_has_one_where_it_moved():
    rng, time = np.random.default_rng(0), past(None).time
    steady = [lookback.change_point(time, rng.exponential(1.0, len(time)), 7) for _ in range(30)]
    assert sum(one is not None for one in steady) <= 1
    back = np.where((time > "2025-03-03") & (time < "2025-05-05"), 1.5, 1.0) * rng.exponential(1.0, len(time))
    assert abs(lookback.change_point(time, back, 7) - pd.Timestamp("2025-05-05")) <= pd.Timedelta(
        days=8
    )  # the newest one


def shop(changed: bool, seed: int = 0) -> UsersPast:
    """Two groups of users, each with ten products of its own; after the change each likes the other's."""
    rng = np.random.default_rng(seed)
    n, users = 12000, 300
    who, at = (
        rng.integers(0, users, n),
        pd.Timestamp("2025-01-06") + pd.to_timedelta(np.sort(rng.uniform(0, 182, n)), "D"),
    )
    turned = (at >= pd.Timestamp("2025-05-01")) if changed else np.zeros(n, bool)
    item = rng.integers(0, 10, n) + 10 * ((who % 2).astype(bool) ^ turned)
    events = pd.DataFrame(
        {
            "user": [f"u{w}" for w in who],
            "item": [f"i{i}" for i in item],
            "time": at,
            "kind": "purchase",
            "quantity": 1.0,
        }
    )
    return UsersPast(
        SHOP.model_copy(update={"retrain": SHOP.retrain.model_copy(update={"every_days": 7})}), events, None
    )


def test_a_recommender_forgets_tastes_that_have_gone_and_no_others():
    recipe, windows = candidates.recipe("ease", {}, 0), {**WINDOWS, "holdout_from": "2025-06-23"}
    choice = look_back(shop(True), recipe, windows)
    assert choice.chosen != ALL and choice.changed is not None
    assert look_back(shop(False), recipe, windows).chosen == ALL


def test_a_window_is_for_tastes_and_what_was_bought_stays_known():
    one = shop(True)
    short = lookback.Lookback("the last 10 days", "days", days=10)
    whole, cut = (
        lookback.fitted(candidates.build("ease", SHOP.task), one.fit_data(far, None), far) for far in (ALL, short)
    )
    assert (whole.seen_ != cut.seen_).nnz == 0 and cut.history_.nnz < whole.history_.nnz


def test_an_estimator_without_weights_learns_from_rows_drawn_by_them():
    one = past("2025-06-09")
    faded = lookback.Lookback("half-life 7 days", "decay", half_life_days=7)
    block = Block(pd.Timestamp("2025-06-30"), pd.Timestamp("2025-06-30"), pd.Timestamp("2025-07-07"))
    for name in ("lightgbm", "perceptron"):
        model = lookback.fitted(
            candidates.build(name, one.statement.task), one.fit_data(faded, block.learnt_until), faded
        )
        scores, _ = one.predict(model, block)
        assert (
            np.corrcoef(scores, one.rows["amount"].iloc[one.positions_in(block)])[0, 1] < -0.3
        )  # as it is now, not as it was
