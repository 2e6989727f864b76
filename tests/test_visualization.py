"""Figures: each draws what it is given, says it, and survives awkward data."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest

from mlloop import visualization as v
from mlloop.core import charts

WINDOWS = {
    "from": "2025-01-01",
    "train_until": "2025-02-15",
    "holdout_from": "2025-02-15",
    "holdout_until": "2025-03-01",
    "as_of": "2025-03-02",
    "folds": [{"train_until": "2025-02-01", "test_from": "2025-02-01", "test_until": "2025-02-15"}],
}
DAYS = pd.date_range("2025-01-01", periods=30)
NAMED = pd.DataFrame(
    {
        "name": ["a $ b", "rule"],
        "value": [0.8, 0.7],
        "low": [0.75, 0.65],
        "high": [0.85, 0.75],
        "group": ["model", "rule"],
    }
)

DRAWN = {
    "intervals": lambda ax: v.plot_intervals(NAMED, ax, thresholds={"asked for": 0.78}, unit="AUC"),
    "money": lambda ax: v.plot_money(NAMED, ax, currency="EUR", period="each week"),
    "time": lambda ax: v.plot_time_series(
        pd.DataFrame({"time": DAYS, "value": range(30)}), ax, label="orders", windows=WINDOWS
    ),
    "folds": lambda ax: v.plot_folds(WINDOWS, ax),
    "number": lambda ax: v.plot_distribution(pd.Series([1.0, np.inf, np.nan, *range(50)], name="n"), ax),
    "category": lambda ax: v.plot_distribution(pd.Series(["<b>$x</b>", None], name="c"), ax),
    "missing": lambda ax: v.plot_missing(pd.DataFrame({"column": ["a"], "share": [0.5], "n": [10]}), ax),
    "association": lambda ax: v.plot_association(
        pd.DataFrame({"column": ["a"], "value": [0.5], "low": [0.4], "high": [0.6], "suspect": [True]}),
        ax,
        suspicious=0.45,
    ),
    "heatmap": lambda ax: v.plot_heatmap(pd.DataFrame([[1.0]], index=["a"], columns=["b"]), ax, title="One cell"),
    "rate": lambda ax: v.plot_rate(
        pd.DataFrame({"group": ["a"], "value": [0.5], "low": [0.4], "high": [0.6], "n": [9]}),
        ax,
        label="share",
        overall=0.4,
    ),
    "concentration": lambda ax: v.plot_concentration(pd.Series([5, 1]), ax),
    "counts": lambda ax: v.plot_counts(
        pd.DataFrame({"table": ["t"], "read": [10], "kept": [8], "rejected": [1], "duplicates": [1]}), ax
    ),
    "calibration": lambda ax: v.plot_calibration(pd.DataFrame({"predicted": [0.5], "observed": [0.4], "n": [10]}), ax),
    "performance": lambda ax: v.plot_performance(
        pd.DataFrame({"time": DAYS[:2], "estimated": [0.8, 0.7], "realised": [0.8, np.nan], "alert": [False, True]}),
        ax,
        label="AUC",
        threshold=0.75,
    ),
    "drift": lambda ax: v.plot_drift(pd.DataFrame({"column": ["a"], "value": [0.2]}), ax, threshold=0.1),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_has_its_numbers_for_the_table_below_it(name):
    _, (ax,) = v.panels()
    drawn = charts.drawing(DRAWN[name](ax).figure)
    assert drawn.numbers and all(one.rows for one in drawn.numbers)


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_has_a_finding_and_returns_its_axes(name):
    fig, (ax,) = v.panels()
    assert DRAWN[name](ax) is ax
    fig.canvas.draw()
    assert len(ax.get_title(loc="left")) > 5 and not ax.get_title()
    matplotlib.pyplot.close(fig)


def test_the_best_interval_is_on_top_and_the_threshold_is_named():
    _, (ax,) = v.panels()
    v.plot_intervals(NAMED, ax, thresholds={"asked for": 0.78})
    assert [t.get_text() for t in ax.get_yticklabels()] == ["rule", r"a \$ b"]
    assert any("asked for 0.78" in t.get_text() for t in ax.texts)


def test_a_metric_of_errors_has_its_best_at_the_top():
    _, (ax,) = v.panels()
    v.plot_intervals(NAMED, ax, higher_is_better=False)
    assert [t.get_text() for t in ax.get_yticklabels()][-1] == "rule"


def test_health_says_what_to_look_at():
    ingestion = {"counts": {"t": {"read": 100, "kept": 80, "rejected": 15, "duplicates": 5}}}
    transformation = {"changes": [], "windows": {"as_of": "2025-03-02T00:00:00"}}
    analysis = {"facts": {"columns": [{"column": "a", "missing": 5, "rows": 80}], "newest": "2025-02-01T00:00:00"}}
    found = v.health(ingestion, transformation, analysis)
    assert list(found["verdict"]) == ["look at it", "good", "good", "look at it"] and found["value"].iloc[-1] == 29.0


def test_long_and_hostile_names_stay_short_and_literal():
    assert v.escape_label("$" * 100).count(r"\$") <= 60 and "\n" not in v.escape_label("a\nb")


def test_worth_that_nobody_stated_is_said_and_not_drawn():
    _, (ax,) = v.panels(height=3.4)
    nothing = pd.DataFrame({"name": ["random", "model"], "value": [0.0, 0.0], "low": [0.0, 0.0], "high": [0.0, 0.0]})
    v.plot_money(nothing, ax, currency="EUR", period="each week", title="random is worth most")
    assert ax.get_title(loc="left") == "The statement does not say what a prediction is worth" and not ax.patches
