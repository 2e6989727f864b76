"""Features: a later event never changes an earlier row, and figures that were counted by hand."""

import datetime as dt
from types import SimpleNamespace

import ibis
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlloop import features
from mlloop.comparison import baselines
from mlloop.data import feature_registry, loan_example
from mlloop.problem import Budget, Problem

BEGIN = pd.Timestamp("2025-01-06")
KINDS = ("user", "item", "taste", "pair")
GOODS = pd.DataFrame(
    {
        "item": [f"i{i}" for i in range(5)],
        "category": ["a", "a", "b", "b", None],
        "price_eur": [1.0, 2.0, 3.0, np.nan, 5.0],
    }
)


def loans(**time) -> Problem:
    return loan_example.statement(
        task={"kind": "regression", "target": "paid", "positive": None},
        time=time,
        tables={"loans": {"columns": {"paid": {"type": "number", "known": "after"}}}},
        success={"metric": "mae", "threshold": 1.0},
    )


events_of_a_shop = st.lists(
    st.tuples(
        st.sampled_from(["u1", "u2", "u3", None]),
        st.sampled_from(GOODS["item"].tolist()),
        st.integers(0, 40 * 24),
        st.sampled_from(["view", "cart", "purchase"]),
        st.sampled_from([1.0, 2.0, -1.0, None]),
        st.sampled_from([1.0, 9.5]),
    ),
    min_size=4,
    max_size=40,
)


def table_of(drawn) -> pd.DataFrame:
    frame = pd.DataFrame(drawn, columns=["user", "item", "hour", "kind", "quantity", "price_eur"])
    frame["time"] = BEGIN + pd.to_timedelta(frame.pop("hour"), unit="h")
    return frame.astype({"user": object, "quantity": float, "price_eur": float})


@settings(max_examples=12, deadline=None)
@given(events_of_a_shop, st.integers(1, 40 * 24), events_of_a_shop)
def test_a_later_event_never_changes_an_earlier_feature(drawn, hour, more):
    con, moment = ibis.duckdb.connect(), (BEGIN + pd.Timedelta(hours=hour)).to_pydatetime()
    earlier = table_of(drawn)
    earlier = earlier[earlier["time"] < moment]
    if earlier["user"].notna().sum() == 0:
        return
    later = table_of(more)
    later["time"] = later["time"] + (moment - BEGIN)
    tables = [con.create_table(f"t{n}", t) for n, t in enumerate((earlier, pd.concat([earlier, later])))]
    goods = con.create_table("goods", GOODS)
    for kind in KINDS:
        keys = feature_registry.KEYS[kind]
        one, two = (
            feature_registry.compute_features(kind, t, goods, [moment]).to_pandas().sort_values(keys, ignore_index=True)
            for t in tables
        )
        pd.testing.assert_frame_equal(one, two, rtol=1e-6)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 60), st.integers(1, 9)), min_size=3, max_size=25),
    st.integers(1, 60),
    st.integers(0, 5),
)
def test_a_later_row_never_changes_an_earlier_row(drawn, day, delay):
    con = ibis.duckdb.connect()
    frame = pd.DataFrame(drawn, columns=["id", "day", "amount"])
    frame["day"] = BEGIN + pd.to_timedelta(frame.pop("day"), unit="D")
    frame["paid"], frame["town"], frame["row"] = frame["amount"] * 2.0, "x", range(len(frame))
    earlier = frame[frame["day"] < BEGIN + pd.Timedelta(days=day)]
    if earlier.empty:
        return
    made = [
        features.row_features(loans(label_delay_days=delay), con.create_table(f"t{n}", t), entity_repeats=True)
        for n, t in enumerate((earlier, frame))
    ]
    one, two = (m.tables["rows"].to_pandas().set_index("row").loc[earlier["row"], m.features] for m in made)
    pd.testing.assert_frame_equal(one, two)


def test_a_target_of_the_past_is_used_only_after_its_delay():
    con = ibis.duckdb.connect()
    frame = pd.DataFrame(
        {
            "id": "a",
            "day": BEGIN + pd.to_timedelta([0, 3, 10], unit="D"),
            "amount": 1.0,
            "town": "x",
            "paid": [4.0, 8.0, 0.0],
        }
    )
    made = features.row_features(loans(label_delay_days=5), con.create_table("t", frame), entity_repeats=True)
    found = made.tables["rows"].order_by("day").to_pandas()
    assert found["before_rows"].tolist() == [0, 1, 2]
    assert found["before_days_since"].tolist()[1:] == [3, 7]
    assert found["before_target_mean"].isna().tolist() == [True, True, False]
    assert found["before_target_mean"].iloc[2] == 6.0  # both 4 and 8 were known by day 10


def past_of(frame: pd.DataFrame, row: pd.Series, entity: str | None, delay: int) -> dict[str, float]:
    """The past of one row, read from the table as its definition says it."""
    mine = frame[frame[entity] == row[entity]] if entity else frame
    before = mine[mine["day"] <= row["day"] - pd.Timedelta(seconds=1)]
    ends = row["day"] - (pd.Timedelta(days=delay) if delay else pd.Timedelta(seconds=1))
    known = mine[(mine["day"] <= ends) & mine["paid"].notna()]
    month = known[known["day"] >= row["day"] - pd.Timedelta(days=28 + delay)]
    return {
        "before_rows": float(len(before)),
        "before_days_since": (row["day"] - before["day"].max()).total_seconds() / 86400 if len(before) else np.nan,
        "before_target_last": known.loc[known["day"] == known["day"].max(), "paid"].mean(),
        "before_target_mean": known["paid"].mean(),
        "before_target_mean_28d": month["paid"].mean(),
    }


@pytest.mark.parametrize("delay", [0, 3])
@pytest.mark.parametrize("entity", ["id", None])
def test_the_past_of_a_row_is_what_a_search_through_the_table_finds(entity, delay):
    rng = np.random.default_rng(delay + 10 * bool(entity))
    frame = pd.DataFrame({"id": rng.choice(["a", "b", "c", None], 240, p=[0.5, 0.3, 0.1, 0.1])})
    seconds = rng.integers(0, 90 * 86400, 240)
    seconds[::7] = seconds[3]  # several rows of one moment
    seconds[1::9] = seconds[0] + rng.choice([0, 1, 28 * 86400, delay * 86400, (28 + delay) * 86400], len(seconds[1::9]))
    frame["day"] = BEGIN + pd.to_timedelta(seconds, unit="s") + pd.to_timedelta(rng.choice([0, 0, 400], 240), unit="ms")
    frame["paid"] = np.where(rng.random(240) < 0.2, np.nan, rng.normal(-50, 90, 240).round(2))
    frame["row"] = range(240)
    table = ibis.duckdb.connect().create_table("t", frame)
    made = features.with_history(table, entity, "day", table.paid, delay, list(features.HISTORY)).to_pandas()
    made = made.set_index("row").sort_index()[list(features.HISTORY)].astype(float)
    expected = pd.DataFrame([past_of(frame, row, entity, delay) for _, row in frame.iterrows()], made.index)
    if entity:  # a row of nobody has no history
        expected.loc[frame["id"].isna()] = [0.0, np.nan, np.nan, np.nan, np.nan]
    pd.testing.assert_frame_equal(made, expected, rtol=1e-9, check_names=False)


def test_drawn_rows_keep_the_whole_past_and_the_look_ahead_is_still_found():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"id": rng.choice(list("abcd"), 4_000), "day": BEGIN})
    frame["day"] += pd.to_timedelta(np.sort(rng.integers(0, 100 * 86400, 4_000)), unit="s")
    frame = frame.assign(amount=rng.random(4_000), town="x", paid=rng.random(4_000), row=range(4_000))
    windows = {"train_until": "2025-03-01", "holdout_from": "2025-03-01", "holdout_until": "2025-05-01"}
    windows |= {"from": "2025-01-01", "folds": [{"train_until": "2025-02-01"}]}
    tables = {"rows": ibis.duckdb.connect().create_table("t", frame)}
    of_rows = lambda rows, delay: loans(label_delay_days=delay).model_copy(update={"budget": Budget(rows=rows)})
    made = [features.build_features(of_rows(rows, 2), tables, windows, (), True) for rows in (1_000, 4_000)]
    few, all_rows = (pd.concat(part.to_pandas() for part in m.tables.values()).set_index("row") for m in made)
    assert (made[0].share, made[1].share) == (0.25, 1.0) and 850 < len(few) < 1_150 and len(all_rows) == 4_000
    pd.testing.assert_frame_equal(few.sort_index(), all_rows.loc[few.index].sort_index())
    assert features.features_changed_by_future(of_rows(1_000, 2), tables, windows, made[0]) == []
    assert "before_target_last" in features.features_changed_by_future(of_rows(1_000, 9), tables, windows, made[0])


@pytest.mark.parametrize("delay", [0, 2, 9])
def test_the_target_of_last_week_is_the_seasonal_rules_and_known_in_time(delay):
    rng = np.random.default_rng(delay)
    hours = np.sort(rng.choice(24 * 40, 600, replace=False))
    frame = pd.DataFrame({"day": BEGIN + pd.to_timedelta(hours, unit="h"), "paid": rng.normal(size=600).round(3)})
    frame = frame.assign(id=[f"r{n}" for n in range(600)], amount=1.0, town="x")
    statement = loans(label_delay_days=delay)
    alone = statement.model_copy(update={"task": statement.task.model_copy(update={"entity": None})})
    made = features.row_features(alone, ibis.duckdb.connect().create_table("t", frame), seasonal=True)
    found = made.tables["rows"].order_by("day").to_pandas()
    rule = baselines.seasonal_values(frame["paid"].to_numpy(), frame["day"], None, delay)
    assert np.isfinite(rule).sum() > 200
    np.testing.assert_allclose(found["before_target_week"].to_numpy(float), rule)
    assert "before_target_week" in made.features


@pytest.mark.parametrize(("week", "last", "expected"), [(300.0, 658.0, True), (5.0, 2.3, False), (None, 2.3, False)])
def test_last_week_is_a_feature_only_where_it_is_the_better_rule(week, last, expected):
    given = {"last_week": week, "last_value": last}
    rules = [SimpleNamespace(name=n, metric=SimpleNamespace(value=v)) for n, v in given.items() if v is not None]
    statement = loans(label_delay_days=0)
    asked = statement.model_copy(update={"success": statement.success.model_copy(update={"metric": "mae"})})
    assert features.is_seasonal(asked, SimpleNamespace(contenders=rules)) is expected


def test_figures_of_a_small_shop_as_counted_by_hand():
    lines = [
        ("u1", "i0", 0, "view"),
        ("u1", "i0", 0, "purchase"),
        ("u1", "i0", 12, "purchase"),
        ("u2", "i0", 13, "view"),
    ]
    lines += [("u2", "i1", 13, "cart"), ("u1", "i1", 20, "purchase"), ("u2", "i0", 25, "purchase")]
    events = pd.DataFrame(lines, columns=["user", "item", "day", "kind"])
    events["time"], events["quantity"], events["price_eur"] = (
        BEGIN + pd.to_timedelta(events.pop("day"), unit="D"),
        2.0,
        3.0,
    )
    con = ibis.duckdb.connect()
    moment = (BEGIN + pd.Timedelta(days=24)).to_pydatetime()
    made = {
        kind: feature_registry.compute_features(
            kind, con.create_table(f"e{kind}", events), con.create_table(f"g{kind}", GOODS), [moment]
        ).to_pandas()
        for kind in KINDS
    }
    item = made["item"].set_index("item").loc["i0"]
    assert (item["item_purchases_30d"], item["item_purchases_7d"], item["item_views_30d"]) == (2, 0, 2)
    assert item["item_days_since_purchase"] == 12 and item["item_repeat_share"] == 1.0
    assert item["item_trend_purchases"] == pytest.approx((0 + 1) / (2 / 4 + 1))
    user = made["user"].set_index("user").loc["u1"]
    assert (user["user_purchases"], user["user_days_since_event"], user["user_spend_30d"]) == (3, 4, 18.0)
    assert user["user_repeat_share"] == 0.5  # i0 twice, i1 once
    pair = made["pair"].set_index(["user", "item"]).loc[("u1", "i0")]
    assert (pair["pair_days_between_purchases"], pair["pair_due"]) == (12, 1.0)
    taste = made["taste"].set_index(["user", "category"]).loc[("u1", "a")]
    assert taste["taste_share"] == 1.0 and taste["taste_days_since_purchase"] == 4


def test_the_catalogue_explains_more_than_fifty_features_once_each():
    told = feature_registry.catalogue(*KINDS)
    names = [line["name"] for line in told]
    assert len(names) > 50 and len(set(names)) == len(names)
    assert all(line["meaning"] and line["source"] for line in told)


def test_a_changed_formula_changes_the_definition():
    before = feature_registry.definition_digest("row")

    @feature_registry.feature("row", double=("twice the amount", ""))
    def double(rows):
        return {"double": rows.amount * 2}

    try:
        assert feature_registry.definition_digest("row") != before
    finally:
        feature_registry.DEFINITIONS.pop("double")
    assert feature_registry.definition_digest("row") == before


def test_what_is_known_afterwards_is_no_feature():
    con = ibis.duckdb.connect()
    frame = pd.DataFrame(
        {"id": ["a", "b"], "day": [BEGIN, BEGIN], "amount": [1, 2], "town": ["x", None], "paid": [1.0, 2.0]}
    )
    made = features.row_features(loans(), con.create_table("t", frame))
    assert not {"paid", "id", "day", "rule_small"} & set(made.features)
    assert {line["column"] for line in made.left_out} == {"id"}
    assert made.tables["rows"].to_pandas()["town"].tolist() == ["x", "(missing)"]


def test_the_cutoffs_end_with_the_held_out_period():
    windows = {
        "from": "2025-01-01",
        "holdout_from": "2025-04-01",
        "holdout_until": "2025-04-29",
        "folds": [{"train_until": "2025-03-04", "test_from": "2025-03-04", "test_until": "2025-03-18"}],
    }
    found = features.cutoffs(windows)
    assert found == [
        dt.datetime(2025, 2, 18),
        dt.datetime(2025, 3, 4),
        dt.datetime(2025, 4, 1),
        dt.datetime(2025, 4, 29),
    ]
