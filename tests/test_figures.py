"""Charts inside pages: text stays text, nothing can run, the numbers are there, and a phone gets a drawing of its own."""

import re

import matplotlib
import pandas as pd
import pytest

from mlloop.core import charts
from mlloop.pages import figures, notebook_html

matplotlib.use("Agg", force=False)
RUN = [
    '<script>document.title="ran"</script>',
    '<g onload="document.title=1"><path d="M0 0"/></g>',
    '<a href="javascript:alert(1)"><text>x</text></a>',
    '<image href="https://example.org/p.png"/>',
    '<use href="https://example.org/x.svg#a"/>',
    '<foreignObject><body xmlns="http://www.w3.org/1999/xhtml"><img src="x"/></body></foreignObject>',
    "<style>* { fill: url(https://example.org) }</style>",
    '<path d="M0 0" style="fill: url(https://example.org/x)"/>',
    '<set attributeName="href" to="javascript:alert(1)"/>',
]


@pytest.fixture(scope="module")
def drawn():
    import matplotlib.pyplot as plt

    from mlloop.visualization import panels, plot_drift, plot_money

    fig, (left, right) = panels(2, width=10, height=3)
    worth = [("the model", 1200.0), ("a rule with a rather long name", 800.0)]
    plot_money(pd.DataFrame(worth, columns=["name", "value"]), left)
    plot_drift(pd.DataFrame({"column": ["<b>age</b>", "town"], "value": [0.3, 0.1]}), right, threshold=0.2)
    made = charts.drawing(fig)
    plt.close(fig)
    return made


def svg(inside: str) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><text>seen</text>{inside}</svg>'


def test_text_is_text_in_the_page_s_own_colours_and_each_bar_says_what_it_is(drawn):
    shown = str(figures.of_drawing(drawn, "Money and drift"))
    assert ">a rule with a rather long name</text>" in shown and "var(--chart-blue)" in shown
    assert "<title>the model: 1,200 EUR</title>" in shown and "<title>&lt;b&gt;age&lt;/b&gt;: 0.300</title>" in shown
    assert "<b>age" not in shown and "#0072b2" not in shown.lower()


def test_a_phone_gets_the_charts_below_each_other_and_labels_in_lines(drawn):
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn.narrow).groups()
    assert float(width) < 300 and float(height) > 350
    assert ">a rule with a rather<" in drawn.narrow and ">long name<" in drawn.narrow


def test_drawing_for_the_phone_leaves_the_figure_as_it_was(drawn):
    from mlloop.visualization import panels, plot_money

    fig, (left, _) = panels(2, width=10, height=3)
    plot_money(pd.DataFrame([("a name that is longer than a line", 2.0), ("b", 1.0)], columns=["name", "value"]), left)
    first = charts.drawing(fig)
    assert charts.drawing(fig).wide == first.wide and tuple(fig.get_size_inches()) == (10, 3)


def test_the_numbers_of_each_chart_are_a_table_below_it(drawn):
    assert [one.columns for one in drawn.numbers] == [
        ["name", "value (EUR)"],
        ["column", "distance from the reference"],
    ]
    shown = str(figures.figure(drawn.wide, drawn.metadata(), "x"))
    assert shown.count("<table>") == 2 and '<td class="n">1,200</td>' in shown and "&lt;b&gt;age&lt;/b&gt;" in shown


@pytest.mark.parametrize("evil", RUN)
def test_nothing_in_a_drawing_can_run_or_fetch(evil):
    shown = str(figures.inline(svg(evil), "x"))
    assert "seen" in shown
    assert not re.search(r"script|onload|javascript|example\.org|foreign|<style|<set|<img|<a ", shown)


def test_what_is_no_plain_drawing_becomes_a_picture():
    entity = '<!DOCTYPE svg [<!ENTITY a "b">]>' + svg("&a;")
    for odd in (entity, "<svg>no namespace</svg>", svg("<text>cut")):
        assert figures.inline(odd, "x") == ""
        shown = str(notebook_html.picture("image/svg+xml", odd, {}, "what it shows"))
        assert re.match(r'<figure tabindex="0" role="group" aria-label="what it shows"><img src="data:', shown)


def test_metadata_that_is_not_of_its_form_is_left_out():
    shown = figures.figure(
        svg(""), {"narrow": 3, "numbers": [{"columns": ["a"], "rows": [[1], [1, 2], "x"]}, "y"]}, "x"
    )
    assert str(shown).count("<tr>") == 2
