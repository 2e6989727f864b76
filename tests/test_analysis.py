"""Analysis: facts of the training period against figures from elsewhere, and leaks that must be named."""

import ibis
import numpy as np
import pandas as pd
import pytest
from scipy.stats.contingency import association as scipy_association

from mlloop.analysis import (
    association,
    cold_start_shares,
    column_facts,
    concentration,
    cramers_v,
    days_between_purchases,
    forward_score,
    group_codes,
    repeat_purchases,
    sample,
    season,
    segment_means,
    sessions,
    training_rows,
    trend,
)
from mlloop.problem import Column

RNG = np.random.default_rng(5)
N = 2000
Y = pd.Series(RNG.integers(0, 2, N).astype(float))
AT = pd.date_range("2025-01-01", periods=N, freq="h")


def test_held_out_rows_are_not_seen():
    table = ibis.memtable({"at": AT, "y": Y})
    windows = {"from": "2025-01-01T00:00:00", "train_until": "2025-02-01T00:00:00"}
    assert training_rows(table, windows, "at").at.max().to_pyarrow().as_py().replace(tzinfo=None) < pd.Timestamp(
        "2025-02-01"
    )


def test_the_sample_is_the_same_whatever_the_order():
    frame = pd.DataFrame({"id": range(3000), "n": RNG.normal(size=3000)})
    one, other = (sample(ibis.memtable(part), ["id"], limit=500) for part in (frame, frame[::-1]))
    pd.testing.assert_frame_equal(one, other)
    assert 400 < len(one) < 600


def test_column_facts_count_missing_and_distinct():
    facts = {f["column"]: f for f in column_facts(ibis.memtable({"a": ["x", None, "x"], "n": [1.0, 2.0, 6.0]}))}
    assert (
        facts["a"]["missing"] == 1
        and facts["a"]["distinct"] == 1
        and facts["n"]["mean"] == 3.0
        and facts["n"]["median"] == 2.0
    )


def test_cramers_v_is_near_scipys_on_many_rows_and_below_it_on_few():
    counts = np.array([[3000, 1000], [1000, 3000], [2000, 2000]])
    assert cramers_v(counts) == pytest.approx(
        scipy_association(counts, method="cramer"), abs=0.005
    )  # the correction is O(1/n)
    few = np.array([[3, 2], [2, 3], [3, 2], [1, 2]])
    assert cramers_v(few) < scipy_association(few, method="cramer")


@pytest.mark.parametrize(
    ("values", "sign"),
    [
        (Y.to_numpy() * 3 + 1, "copy of the target"),
        (np.where(Y == 1, RNG.integers(1, 9, N), 0), "alone tells the target"),
        (pd.Series(RNG.normal(size=N)).where(Y == 1), "for one class only"),
        ([f"no {i}" for i in range(N)], "names rows"),
        (RNG.normal(size=N) + Y, ""),
        (RNG.normal(size=N), ""),
        (RNG.integers(0, 4, N), ""),
    ],
    ids=["copy", "known-after", "missing-tells", "identifier", "honest", "noise", "noise-category"],
)
def test_a_leak_is_named_and_an_honest_column_is_not(values, sign):
    found = association(pd.DataFrame({"at": AT, "x": values}), Y, "at", "classification")
    assert sign in found["sign"][0] and found["suspect"][0] == bool(sign)


def test_a_column_declared_known_after_is_suspect():
    found = association(
        pd.DataFrame({"at": AT, "x": RNG.normal(size=N)}),
        Y,
        "at",
        "classification",
        {"x": Column(type="number", known="after")},
    )
    assert "declared" in found["sign"][0]


def test_forward_score_is_sklearns_auc():
    from sklearn.metrics import roc_auc_score

    codes, later = pd.Series(RNG.integers(0, 6, N)) + (Y * 2).astype(int), np.arange(N) >= N // 2
    early = Y[~later].groupby(codes[~later].to_numpy()).mean()
    score = codes[later].map(early).fillna(Y[~later].mean())
    assert forward_score(codes, Y, later, "classification") == pytest.approx(roc_auc_score(Y[later], score))


def test_noise_of_many_values_has_no_forward_score():
    codes = pd.Series(RNG.integers(0, 500, N))
    assert (
        abs(forward_score(codes, Y, np.arange(N) >= N // 2, "classification") - 0.5) < 0.06
    )  # 1000 rows: standard error 0.018


def test_missing_values_are_a_group_of_their_own():
    assert group_codes(pd.Series([1.0, None, 2.0])).tolist()[1] == -1


def test_segments_put_the_surest_difference_first():
    group = np.where(np.arange(N) < 60, "few", np.where(np.arange(N) < 1000, "many", "rest"))
    y = pd.Series(
        np.where(
            group == "few", RNG.random(N) < 0.62, np.where(group == "many", RNG.random(N) < 0.7, RNG.random(N) < 0.45)
        ).astype(float)
    )
    found = segment_means(pd.DataFrame({"g": group}), y, "classification", ["g"], least=20)
    assert (
        found["group"][0] in ("many", "rest") and found.set_index("group").loc["few", "apart"] == found["apart"].min()
    )


def test_a_trend_needs_more_than_one_wild_week():
    level = pd.Series(RNG.normal(100, 1, 40))
    wild = level.copy()
    wild.iloc[-1] = 900
    assert trend(wild)["p"] > 0.01 and trend(level + np.arange(40))["p"] < 1e-6


def test_a_weekday_effect_is_found_and_noise_is_not():
    days = pd.Series(pd.date_range("2025-01-06", periods=140))
    week = days.dt.dayofweek
    assert season(pd.Series(np.where(week >= 5, 20.0, 10.0) + RNG.normal(0, 1, 140)), week)["p"] < 1e-6
    assert season(pd.Series(RNG.normal(10, 1, 140)), week)["p"] > 0.001


def test_facts_of_purchases_by_hand():
    bought = pd.DataFrame(
        {
            "user": ["a", "a", "a", "b"],
            "item": ["mug", "mug", "pen", "mug"],
            "time": pd.to_datetime(["2025-01-01 10:00", "2025-01-05 10:00", "2025-01-05 10:20", "2025-01-06 09:00"]),
        }
    )
    assert (
        repeat_purchases(bought)["repeat_share"] == 0.25
        and repeat_purchases(bought)["one_event_users"] == 0.5
        and days_between_purchases(bought).tolist() == [4]
    )
    assert sessions(bought)["count"] == 3
    assert cold_start_shares(bought, pd.Timestamp("2025-01-05")) == {
        "items": pytest.approx(1 / 3),
        "users": pytest.approx(1 / 3),
        "events": 3,
    }


def test_concentration_of_equal_and_of_one():
    assert (
        concentration(pd.Series([5] * 10))["gini"] == pytest.approx(0)
        and concentration(pd.Series([5] * 10))["share_for_80"] == 0.8
    )
    assert concentration(pd.Series([0] * 99 + [100]))["gini"] == pytest.approx(0.99)
