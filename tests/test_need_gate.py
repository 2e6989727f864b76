"""The need gate: its verdict logic on figures, its contest on worlds of known truth, and what it must not see."""

import copy
import sys
from itertools import pairwise
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
import pytest

from mlloop import need_gate, products
from mlloop.comparison import baselines
from mlloop.comparison.folds import rows_contest
from mlloop.core.errors import DataError, ProblemError
from mlloop.core.verdict import figure_name, table
from mlloop.data import loan_example
from mlloop.need_gate import before_holdout, contest, decide

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import need_gate as worlds


def figures(
    model=0.85, rule=0.78, gain=(0.05, 0.07, 0.09), more=(300, 500, 700), folds=(0.06, 0.07, 0.08, 0.07), **changed
):
    """Figures of a contest that a model wins; `changed` replaces whole parts."""
    around = lambda value, half: {"value": value, "low": value - half, "high": value + half, "n": 900}
    found = {
        "task": "classification", "metric": "roc_auc", "data": {"rows": 2400, "minority": 900}, "model": "cheap_model",
        "best_rule": "rule", "best_paying": "rule", "left_out": [], "timeless": False,
        "contenders": [
            {"name": "rule", "kind": "rule", "meaning": "the rule in use", "metric": around(rule, 0.02), "worth": around(900, 90)},
            {"name": "cheap_model", "kind": "model", "meaning": "untuned", "metric": around(model, 0.02), "worth": around(1400, 90)}],
        "gain": {"low": gain[0], "value": gain[1], "high": gain[2], "folds": list(folds)},
        "more_worth": {"low": more[0], "value": more[1], "high": more[2]},
    }  # fmt: skip
    return found | changed


STATEMENT = worlds.statement(
    {"x0": {"type": "number"}}, success={"metric": "roc_auc", "threshold": 0.8, "min_gain": 0.02}
)


@pytest.mark.parametrize(
    ("changed", "verdict", "deciding"),
    [
        ({}, "yes", "gain over the best rule"),
        ({"data": {"rows": 999, "minority": 900}}, "no", "enough rows"),
        ({"data": {"rows": 2400, "minority": 99}}, "no", "enough rows of the rarer class"),
        ({"gain": (-0.01, 0.01, 0.03)}, "no", "gain over the best rule"),
        ({"gain": (0.001, 0.01, 0.019)}, "no", "gain over the best rule"),
        ({"gain": (-0.01, 0.04, 0.09)}, "maybe", "gain over the best rule"),
        ({"gain": (0.01, 0.04, 0.07)}, "maybe", "gain over the best rule"),
        ({"gain": (float("nan"),) * 3}, "no", "gain over the best rule"),
        ({"more": (-700, 100, 900)}, "no", "worth more than it costs"),
        ({"more": (100, 300, 500)}, "maybe", "worth more than it costs"),
        ({"rule": 0.83}, "maybe", "no rule suffices"),
        ({"rule": 0.83, "more": (100, 300, 500)}, "no", "no rule suffices"),
        ({"model": 0.75, "rule": 0.68}, "maybe", "threshold in reach"),
        ({"model": 0.70, "rule": 0.63}, "no", "threshold in reach"),
        ({"folds": (0.1, -0.01, 0.1, 0.1)}, "maybe", "better in every fold"),
        ({"folds": (0.5, -0.01, -0.02, -0.01)}, "no", "better in every fold"),
    ],
)
def test_a_verdict_follows_from_its_figures(changed, verdict, deciding):
    found = decide(figures(**changed), STATEMENT)
    assert (found["verdict"], found["deciding"]) == (verdict, deciding)
    assert (verdict == "yes") == (not found["must_change"]) and found["reasons"]


def test_what_must_change_is_said_in_numbers():
    # the sentence the statement's next revision opens with
    said = decide(figures(model=0.79, rule=0.78, gain=(-0.005, 0.01, 0.02)), STATEMENT)["must_change"][0]
    assert said == (
        "needs ROC AUC 0.800 and 0.02 better than any rule; best candidate ROC AUC 0.790 +- 0.02; the rule 'rule' gives 0.780"
    )


def test_a_metric_that_runs_downwards_is_judged_downwards():
    statement = worlds.statement(
        {"x0": {"type": "number"}}, "regression", success={"metric": "mae", "threshold": 1.0, "min_gain": 0.1}
    )
    base = figures(task="regression", metric="mae", data={"rows": 2400})
    lower = copy.deepcopy(base)
    lower["contenders"][0]["metric"] = {"value": 1.5, "low": 1.4, "high": 1.6, "n": 9}
    lower["contenders"][1]["metric"] = {"value": 0.9, "low": 0.8, "high": 1.0, "n": 9}
    lower["gain"] |= {"low": 0.5, "value": 0.6, "high": 0.7}
    assert decide(lower, statement)["verdict"] == "yes"
    met = copy.deepcopy(lower)
    met["contenders"][0]["metric"] = {"value": 0.95, "low": 0.93, "high": 0.97, "n": 9}
    assert decide(met, statement)["deciding"] == "no rule suffices"
    far = copy.deepcopy(lower)
    far["contenders"][1]["metric"]["value"] = 1.9
    assert decide(far, statement)["deciding"] == "threshold in reach"


def test_without_money_in_the_statement_it_is_a_maybe_that_asks_for_it():
    unpriced = worlds.statement({"x0": {"type": "number"}}, success=STATEMENT.success.model_dump(), money={})
    found = decide(figures(), unpriced)
    assert found["verdict"] == "maybe" and "under money" in found["must_change"][0]


@pytest.mark.parametrize("case", sorted(worlds.CASES))
def test_the_gate_is_right_on_worlds_of_known_truth(case):
    # one draw each here, the hundred are in the slow test
    assert worlds.verdict_of(case, 1)["verdict"] == worlds.CASES[case][1]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("case", sorted(worlds.CASES))
def test_the_gate_is_right_in_95_of_100_draws(case):
    (row,) = worlds.run(100, [case])
    assert row["right"] >= 95, row


def test_a_leak_is_left_out_and_named():
    found = worlds.verdict_of("leak", 3)
    assert any("written_after" in reason for reason in found["reasons"])
    assert [row["column"] for row in found["figures"]["left_out"] if "leak" in row["why"]] == ["written_after"]
    ignored = worlds.CASES["leak"][0](np.random.default_rng(3))
    blind = contest(ignored[0], {"rows": ibis.memtable(ignored[1])}, worlds.windows(), {}, 0)
    model = next(row for row in blind["contenders"] if row["kind"] == "model")
    assert model["metric"]["value"] > 0.99  # what would have been believed without the analysis


def test_columns_known_only_after_the_fact_are_not_used():
    statement, rows = worlds.leak(np.random.default_rng(4))
    columns = {n: c.model_dump() for n, c in statement.tables["rows"].columns.items()}
    columns["written_after"]["known"] = "after"
    declared = worlds.statement({n: c for n, c in columns.items() if n not in ("at", "y")})
    found = contest(declared, {"rows": ibis.memtable(rows)}, worlds.windows(), {}, 0)
    assert decide(found, declared)["verdict"] == "no"


def test_the_same_seed_gives_the_same_figures():
    one, two = (worlds.verdict_of("real signal", 5) for _ in range(2))
    assert one == two


def test_nothing_of_the_held_out_period_or_later_changes_a_figure():
    statement, rows = worlds.real_signal(np.random.default_rng(6))
    cuts = worlds.windows()
    changed = rows.copy()
    later = changed["at"] >= pd.Timestamp(cuts["train_until"])
    changed.loc[later, "y"] = 1 - changed.loc[later, "y"]
    changed.loc[later, "x1"] = 99.0
    one, two = (contest(statement, {"rows": ibis.memtable(t)}, cuts, {}, 0) for t in (rows, changed))
    assert one == two


def test_a_fold_learns_nothing_of_its_test_rows():
    statement, rows = worlds.real_signal(np.random.default_rng(7))
    made = baselines.prepare_rows(statement, rows)
    fold = worlds.windows()["folds"][0]
    who, before = rows_contest(statement, made, [fold])
    changed = rows.copy()
    after = changed["at"] >= pd.Timestamp(fold["test_until"])
    changed.loc[after, "y"] = 1 - changed.loc[after, "y"]
    _, again = rows_contest(statement, baselines.prepare_rows(statement, changed), [fold])
    assert all(np.array_equal(before[0].predictions[c.name].scores, again[0].predictions[c.name].scores) for c in who)


def test_a_table_without_time_is_cut_by_chance_and_says_so():
    statement, rows = worlds.real_signal(np.random.default_rng(8))
    columns = {n: c for n, c in statement.model_dump()["tables"]["rows"]["columns"].items() if n not in ("at", "y")}
    timeless = worlds.statement(columns, time={})
    found = contest(timeless, {"rows": ibis.memtable(rows.drop(columns="at"))}, None, {}, 0)
    verdict = decide(found, timeless)
    assert found["timeless"] and len(found["gain"]["folds"]) == 4 and verdict["verdict"] == "yes"
    assert any("have no time" in reason for reason in verdict["reasons"])


@pytest.mark.parametrize("metric", ["accuracy", "f1", "log_loss", "brier", "average_precision"])
def test_every_metric_of_a_class_can_be_asked_for(metric):
    statement, rows = worlds.real_signal(np.random.default_rng(9))
    asked = statement.model_copy(
        update={"success": statement.success.model_copy(update={"metric": metric, "threshold": 0.5})}
    )
    found = contest(asked, {"rows": ibis.memtable(rows)}, worlds.windows(), {}, 0)
    assert found["gain"]["low"] > 0  # the model is better by whichever metric
    by_name = {c["name"]: c["metric"]["value"] for c in found["contenders"]}
    assert by_name["cheap_model"] != by_name["rule"]


def test_the_last_known_value_respects_the_label_delay():
    day = pd.Series(pd.date_range("2025-01-01", periods=4, freq="D"))
    y = np.array([1.0, 2.0, 3.0, 4.0])
    assert baselines.last_values(y, day, None)[1:].tolist() == [1.0, 2.0, 3.0]
    assert baselines.last_values(y, day.astype("datetime64[us]"), None, delay_days=2)[3] == 1.0


def test_a_target_of_one_class_in_training_is_answered_not_crashed_on():
    statement, rows = worlds.noise(np.random.default_rng(10))
    rows["y"] = (rows["at"] >= pd.Timestamp(worlds.windows()["folds"][-1]["train_until"])).astype(int)
    figures = contest(statement, {"rows": ibis.memtable(rows)}, worlds.windows(), {}, 0)
    assert figures["data"]["folds"] == 0 and decide(figures, statement)["verdict"] == "no"


def test_errors_name_what_and_where():
    statement, rows = worlds.noise(np.random.default_rng(11))
    wrong = statement.model_copy(update={"rules": [statement.rules[0].model_copy(update={"score": "x99 + 1"})]})
    with pytest.raises(ProblemError, match=r"rule 'rule'.*x99"):
        contest(wrong, {"rows": ibis.memtable(rows)}, worlds.windows(), {}, 0)
    steals = f"(SELECT length(content) FROM read_text('{__file__}'))"
    reads = statement.model_copy(update={"rules": [statement.rules[0].model_copy(update={"score": steals})]})
    with pytest.raises(ProblemError):
        contest(reads, {"rows": ibis.memtable(rows)}, worlds.windows(), {}, 0)
    with pytest.raises(DataError, match="no row has a value"):
        baselines.prepare_rows(statement, rows.assign(y=None))
    early = worlds.windows() | {
        "folds": [{"train_until": "2024-01-01", "test_from": "2024-01-01", "test_until": "2024-02-01"}]
    }
    with pytest.raises(DataError, match="0 rows to learn from"):
        contest(statement, {"rows": ibis.memtable(rows)}, early, {}, 0)


def test_many_rows_are_drawn_from_and_always_the_same(monkeypatch):
    monkeypatch.setattr(need_gate, "MAX_ROWS", 500)
    _, rows = worlds.noise(np.random.default_rng(12))
    cuts = worlds.windows()
    one = need_gate.before_holdout(ibis.memtable(rows), "at", cuts, 0)
    two = need_gate.before_holdout(ibis.memtable(rows.sample(frac=1.0, random_state=1)), "at", cuts, 0)
    assert len(one) == 500 and one["x0"].sum() == pytest.approx(two["x0"].sum())


def test_of_many_events_whole_customers_are_left_out(monkeypatch):
    _, made = worlds.tastes(np.random.default_rng(12))
    events, cuts = ibis.memtable(made["events"]), worlds.windows()
    whole = need_gate.events_before_holdout(events, cuts)
    monkeypatch.setattr(need_gate, "MAX_EVENTS", len(whole) // 4)
    some = need_gate.events_before_holdout(events, cuts)
    assert 0.15 < len(some) / len(whole) < 0.35
    assert some.groupby("user").size().equals(whole[whole["user"].isin(some["user"])].groupby("user").size())


def test_popularity_by_category_and_of_all_time_stand_beside_the_rule():
    statement, made = worlds.tastes(np.random.default_rng(13))
    items = made["items"].assign(category=[f"c{i % 4}" for i in range(len(made["items"]))])
    found = contest(
        statement, {"events": ibis.memtable(made["events"]), "items": ibis.memtable(items)}, worlds.windows(), {}, 0
    )
    assert {"today", "popular_ever", "popular_of_category", "cheap_model"} == {c["name"] for c in found["contenders"]}
    users = [c["metric"]["n"] for c in found["contenders"]]
    assert len(set(users)) == 1  # everybody is asked about the same users


def asked_with(rows: pd.DataFrame, windows: dict | None = None, **changes):
    statement = loan_example.statement(**changes)
    found = contest(statement, {"rows": ibis.memtable(rows)}, windows)
    return found, decide(found, statement)


@pytest.mark.parametrize("positives", [0, 1, 2])
def test_with_fewer_than_three_positives_the_gate_says_no_and_how_many_are_needed(tmp_path, positives):
    rows = loan_example.rows(400).assign(repaid=0)
    learnt = before_holdout(ibis.memtable(rows), None, None).id
    rows.loc[rows.id.isin(learnt.iloc[:positives]), "repaid"] = 1
    found, verdict = asked_with(rows, need={"min_positives": 100}, time={"column": None})
    assert found["contenders"] == [] and found["data"]["minority"] == positives
    assert verdict["verdict"] == "no"
    assert f"needs 100 rows of the rarer class, there are {positives}" in verdict["must_change"]
    saved = products.save_product(str(tmp_path / "gate.json"), stage="need_gate", verdict=verdict, figures=found)
    assert saved["verdict"]["verdict"] == "no" and len(table(verdict)) == len(verdict["evidence"])


def test_a_class_that_comes_in_one_fold_only_is_a_no_even_where_few_positives_are_stated_to_do():
    rows = loan_example.rows(400).assign(repaid=0)
    day = rows.day.sort_values().reset_index(drop=True)
    cuts = [day.iloc[at] for at in (100, 200, 300, 399)]
    rows.loc[rows.day >= cuts[2], "repaid"] = np.arange((rows.day >= cuts[2]).sum()) % 2
    folds = [{"train_until": str(a), "test_from": str(a), "test_until": str(b)} for a, b in pairwise(cuts)]
    windows = {"train_until": "2100-01-01", "folds": folds}
    found, verdict = asked_with(rows, windows, need={"min_rows": 10, "min_positives": 1})
    assert found["data"]["folds"] < 2 and verdict["verdict"] == "no"
    assert verdict["deciding"] == "folds to compare in"


def with_a_late_column(noise: bool) -> pd.DataFrame:
    """Loans with a column written afterwards that one question answers; `noise`: nothing else says anything."""
    rng = np.random.default_rng(3)
    rows = loan_example.rows(1200).assign(amount=rng.random(1200), income=rng.random(1200))
    same = (rows["income"] > 0.5) == (rows["amount"] > 0.5)
    rows["repaid"] = (rng.random(1200) < (0.5 if noise else np.where(same, 0.9, 0.2))).astype(int)
    return rows.assign(reminders=np.where(rows["repaid"] == 1, 0, 1 + rng.integers(0, 3, 1200)))


@pytest.mark.parametrize(("noise", "expected"), [(False, "maybe"), (True, "no")])
def test_a_rule_on_a_column_that_is_asked_about_decides_nothing_where_a_model_without_it_is_worth_it(noise, expected):
    stated = loan_example.statement(
        success={"min_gain": 0.02},
        need={"min_rows": 500, "min_positives": 50},
        money={"ml_per_period": 1000},
        tables={"loans": {"columns": {"reminders": {"type": "integer"}}}},
    )
    days = [str(day.date()) for day in pd.date_range("2025-01-30", periods=5, freq="5D")]
    folds = [{"train_until": a, "test_from": a, "test_until": b} for a, b in pairwise(days)]
    tables = {"rows": ibis.memtable(with_a_late_column(noise))}
    windows = {"train_until": "2025-02-20", "folds": folds}
    figures = contest(stated, tables, windows, unconfirmed={"reminders": "towers over the rest"})
    verdict = decide(figures, stated)
    assert verdict["verdict"] == expected
    assert ("reminders" in verdict["reasons"][0]) is (not noise)
    asks = [line for line in verdict["must_change"] if "reminders: say in the statement" in line]
    assert bool(asks) is not noise
    assert products.NeedFigures.model_validate(figures).without_unconfirmed is not None
    assert decide(contest(stated, tables, windows), stated)["verdict"] == "no"  # nobody was asked


def test_stores_that_sell_by_season_and_promotion_need_a_model():
    rng = np.random.default_rng(21)
    days = pd.date_range("2024-01-01", periods=300)
    rows = pd.DataFrame([(f"S{s}", day) for s in range(8) for day in days], columns=["id", "day"])
    rows["income"] = (rng.random(len(rows)) < 0.2).astype(float)  # a promotion
    level = rows["id"].map({f"S{s}": value for s, value in enumerate(rng.uniform(50, 300, 8))})
    week = rows["day"].dt.dayofweek.map({5: 1.3, 6: 0.0}).fillna(1.0)
    rows["amount"] = rng.poisson(level * week * (1 + 0.3 * rows["income"])).astype(float)
    money = {"true_positive": None, "false_positive": None, "per_unit_error": 1.0, "ml_per_period": 10}
    stated = loan_example.statement(
        task={"kind": "regression", "target": "amount", "positive": None},
        success={"metric": "mae", "threshold": 20, "min_gain": 1.0},
        money=money,
        tables={"loans": {"columns": {"town": None, "repaid": None}}},
    )
    cuts = [str(day.date()) for day in pd.date_range("2024-06-01", periods=4, freq="30D")]
    folds = [{"train_until": a, "test_from": a, "test_until": b} for a, b in pairwise(cuts)]
    figures = contest(stated, {"rows": ibis.memtable(rows)}, {"train_until": cuts[-1], "folds": folds})
    of = {row["name"]: row["metric"]["value"] for row in figures["contenders"]}
    assert of["cheap_model"] < 0.8 * min(value for name, value in of.items() if name != "cheap_model")


@pytest.mark.parametrize(
    ("check", "called"),
    [
        ("no rule suffices", "best rule"),
        ("worth more than it costs", "worth after its cost"),
        ("enough rows", "rows"),
        ("no group of clinic left behind", "worst group of clinic behind by"),
        ("gain over the best rule", "gain over the best rule"),
    ],
)
def test_the_figure_behind_a_no_is_not_called_by_what_a_yes_would_claim(check, called):
    assert figure_name(check) == called
