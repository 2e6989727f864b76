"""The bench's worlds: what is drawn, and how regret, recovery and swaps are counted; no project is turned here."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def worlds():
    spec = importlib.util.spec_from_file_location("worlds", ROOT / "benchmarks" / "worlds.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["worlds"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_worlds_of_a_seed_share_their_past_to_the_row(worlds, kind):
    pasts = [
        pd.concat([world.period(number) for number in range(-2, world.change)])
        for world in (worlds.World(name, kind, 3, 300) for name in worlds.WORLDS)
    ]
    for one in pasts[1:]:
        pd.testing.assert_frame_equal(one, pasts[0])


def test_each_world_changes_what_it_says(worlds):
    quiet = worlds.World("quiet", "classification", 1, 600)
    now = quiet.change + 1
    calm = quiet.period(now)
    of = lambda name: worlds.World(name, "classification", 1, 600).period(now)
    assert np.corrcoef(of("abrupt")["truth"], calm["truth"])[0, 1] < 0.5
    assert of("base rate")["truth"].mean() > calm["truth"].mean() + 0.15
    assert (of("harmful")["age"] > 66).mean() > 0.4 > 0.01 > (calm["age"] > 66).mean()
    assert of("feed fault")["spend"].median() == pytest.approx(100 * calm["spend"].median())
    assert of("stuck input")["spend"].nunique() == 1 and of("empty input")["spend"].isna().all()
    wrong = of("wrong labels")
    assert 0.3 < (wrong["churned"] != calm["churned"]).mean() < 0.5 and wrong["truth"].equals(calm["truth"])
    assert 0.2 < (of("new category")["plan"] == "max").mean() < 0.45 and len(of("new market")) == 900


def test_labels_come_out_as_often_as_the_truth_says(worlds):
    rows = pd.concat([worlds.World("quiet", "classification", 0, 3000).period(n) for n in range(4)])
    for low in (0.1, 0.3, 0.5, 0.7):
        inside = rows[rows["truth"].between(low, low + 0.1)]
        assert inside["churned"].mean() == pytest.approx(inside["truth"].mean(), abs=4 * 0.5 / len(inside) ** 0.5)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_nobody_is_worth_more_than_the_oracle(worlds, kind):
    world = worlds.World("abrupt", kind, 0, 300)
    rows, rng = world.period(world.change), np.random.default_rng(0)
    best = worlds.worth(world, rows["truth"].to_numpy(), rows["truth"].to_numpy())
    for noise in (0.05, 0.3, 30):
        score = rows["truth"] + rng.normal(0, noise, len(rows))
        assert (worlds.worth(world, rows["truth"].to_numpy(), score.to_numpy()) <= best + 1e-9).all()


def test_an_error_of_regression_costs_its_expected_size(worlds):
    world = worlds.World("quiet", "regression", 0, 300)
    drawn = np.abs(np.random.default_rng(0).normal(5, worlds.NOISE, 400_000)).mean()
    found = worlds.worth(world, np.array([50.0]), np.array([55.0]))[0]
    assert found == pytest.approx(-worlds.PER_UNIT * drawn, rel=0.005)


def line(worlds, loop, never, change=2, retrainings=1):
    n = len(loop)
    return {
        "world": "abrupt", "kind": "classification", "rows": 1, "oracle": [10.0] * n, "change": change, "counts": [1] * n, "swaps": [],
        "policies": {"loop": [10 - x for x in loop], "never": [10 - x for x in never], "every 2": [8.0] * n},
        "retrainings": {"loop": retrainings, "never": 0, "every 2": 3}, "cost": 1.0,
    }  # fmt: skip


def test_regret_pays_retrainings_and_recovery_counts_from_the_first_labels(worlds):
    one = line(worlds, loop=[1, 1, 9, 9, 9, 2, 1, 1], never=[1, 1, 9, 9, 9, 9, 9, 9])
    assert worlds.regret(one, "loop") == 33 + 1 and worlds.regret(one, "never") == 56
    assert worlds.best_fixed(one) == "every 2" and worlds.regret(one, "every 2") == 16 + 3
    assert worlds.recovery(one) == 2, "wrong from period 2, whose labels come in 3; right from 5"


def test_a_loop_that_is_right_for_one_period_only_has_not_recovered(worlds):
    assert worlds.recovery(line(worlds, loop=[1, 1, 9, 1, 9, 9, 9, 9], never=[1, 1, 9, 9, 9, 9, 9, 9])) is None


def test_a_history_cut_short_by_a_kill_is_made_again(worlds, tmp_path):
    file = tmp_path / "worlds.jsonl"
    file.write_text('{"world": "quiet"}\n{"world": "abr', encoding="utf-8")
    assert worlds.read(file) == [{"world": "quiet"}]
