"""One writer of figures: the rounding rule, and that every place that prints figures keeps to it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlloop.core import formatting, verdict
from mlloop.pages import html_table, wording

FIGURES = st.floats(-1e9, 1e9, allow_nan=False)
UNITS = st.sampled_from(["", "EUR", "ms", "rows"])


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (43, "43"), (43.0, "43"), (42.96, "43.0"), (1, "1"), (1.0, "1"), (0.0, "0"), (-0.0, "0"), (0.85, "0.850"),
        (0.9996, "1.00"), (9.999, "10.0"), (99.96, "100"), (999.9, "1,000"), (0.00999, "0.00999"), (0.000099999, "0.0001"),
        (12345, "12,345"), (12345.6, "12,346"), (-3.456, "−3.46"), (1.23e-6, "1.23e−06"), (0.02, "0.02"),
        (None, "–"), (math.nan, "–"), (math.inf, "–"), (True, "yes"), (np.float32(0.5), "0.500"), (np.int64(7), "7"),
        ([1], "–"), ("knn", "knn"),
    ],
)  # fmt: skip
def test_the_rounding_rule(value, read):
    assert formatting.number(value) == read


@settings(deadline=None)
@given(value=FIGURES, unit=UNITS)
def test_a_number_reads_alike_wherever_it_is_printed(value, unit):
    """Page, notebook, gate's table and sentence, however the number is held."""
    read = formatting.number(value, unit)
    held = [np.float64(value), *([int(value)] if value == int(value) else [])]
    assert all(formatting.number(same, unit) == read for same in held)
    bare = formatting.number(value)
    figure = {"name": "x", "value": value, "unit": unit, "low": value, "high": value, "threshold": None, "passed": None}
    assert wording.evidence(figure)["value"] == bare and wording.number(value) == bare
    assert wording.within(figure) == formatting.interval(value, value)
    table = verdict.table({"evidence": [figure]})
    assert table.loc["x", "figure"] == bare and table.loc["x", "interval"] == formatting.interval(value, value)
    assert bare in html_table.table("", ["x"], [[value]]) and bare in html_table.facts("", {"x": value})
    assert read == f"{bare} {unit}".strip()


@settings(deadline=None)
@given(value=FIGURES)
def test_a_figure_is_off_by_half_a_unit_of_its_third_digit_at_most(value):
    read = float(formatting.number(value).replace(",", "").replace("−", "-"))
    assert abs(read - value) <= 0.5 if abs(value) >= 100 else abs(read - value) <= 0.00501 * abs(value)


@settings(deadline=None)
@given(a=FIGURES, b=FIGURES)
def test_figures_that_differ_are_told_apart(a, b):
    if abs(a - b) > 1e-12:
        assert len(set(formatting.apart(a, b))) == 2


@pytest.mark.parametrize(
    ("share", "read"),
    [(0.25, "25%"), (0.254, "25%"), (0.045, "4.5%"), (0.05, "5%"), (0.996, "99.6%"), (1.0, "100%"), (0.0, "0%"),
     (0.9999, "99.99%"), (0.0004, "0.04%"), (0.00044, "0.04%"), (-0.125, "−12%"), (None, "–")],
)  # fmt: skip
def test_shares_in_percent(share, read):
    assert formatting.percent(share) == read


def test_durations_money_and_signs():
    assert formatting.duration(12.34) == "12.3 s" == formatting.duration(np.float64(12.34))
    assert formatting.duration(None) == "–" and formatting.number(10666.7, "EUR") == "10,667 EUR"
    assert formatting.signed(2.5, "EUR") == "+2.50 EUR" and formatting.signed(-2, "EUR") == "−2 EUR"
    assert formatting.bracketed(0.229, 0.354) == "[0.229 to 0.354]"
