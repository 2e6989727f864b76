"""The drawing for narrow pages: what it leaves out so that nothing runs into its neighbour."""

import re

import matplotlib.pyplot as plt

from mlloop.core import charts


def labels(svg: str) -> list[str]:
    return re.findall(r">([\d,]+)</text>", svg)


def test_numbers_below_a_narrow_chart_do_not_run_into_each_other():
    figure, ax = plt.subplots(figsize=(10, 3))
    ax.barh(["a model with a rather long name"], [45_546])
    ax.set_xticks(range(0, 50_001, 5_000))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    drawn = charts.drawing(figure)
    assert labels(drawn.wide) == [f"{n:,}" for n in range(0, 50_001, 5_000)]
    narrow = labels(drawn.narrow)
    assert 2 <= len(narrow) < 8 and narrow[0] == "0" and set(narrow) < set(labels(drawn.wide))
    assert [f"{place:.0f}" for place in ax.get_xticks()] == [str(n) for n in range(0, 50_001, 5_000)]  # as it was
    plt.close(figure)
