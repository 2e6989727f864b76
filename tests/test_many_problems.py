"""The index with twenty problems, and the way through the pages, which is the same on all of them."""

import shutil

import pytest
import report_project as made
from browser import PROGRAM, Browser
from bs4 import BeautifulSoup

from mlloop.pages import report


def soup(page):
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    places = made.live(made.run(tmp_path_factory.mktemp("many") / "project"), weeks=1)
    for number in range(19):
        shutil.copy(places.problems / "shop.yaml", places.problems / f"copy{number:02}.yaml")
    report.write(places)
    return places


def test_of_twenty_problems_each_is_a_line_of_the_table_and_unfolds(many):
    page = soup(many.reports / "index.html")
    assert len(page.select("table.brief tbody tr")) == 20 == len(page.select("details.folded > section.one"))
    assert not page.select("details.folded[open]")


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine to open the pages in")
def test_a_link_to_a_folded_problem_shows_it(many, tmp_path):
    with Browser(tmp_path) as browser:
        browser.open((many.reports / "index.html").as_uri() + "#copy07")
        assert browser.run("document.querySelector('#copy07').checkVisibility()")
        browser.open(many.reports / "index.html", width=360)
        assert browser.run("document.documentElement.scrollHeight") < 12_000


def test_every_page_of_a_problem_has_the_same_way_through_them(tmp_path):
    places = made.live(made.run(tmp_path), weeks=2)
    report.write(places)
    way = lambda page: [link.get_text(" ", strip=True) for link in soup(page).select("nav.stages a")]
    pages = [page for page in sorted((places.reports / "shop").glob("*.html"))]
    assert {len(way(page)) for page in pages} == {17} and len(pages) == 19
    assert way(pages[0])[-4:] == ["Monitoring", "Model card", "Lineage", "Versions"]
    titles = way(places.reports / "shop" / "versions.html")
    assert [one.split(" ran")[0] for one in titles if one.startswith(("Data", "Model c", "Model s"))] == [
        "Data analysis", "Data quality", "Model comparison", "Model settings", "Model card",
    ]  # fmt: skip
    assert soup(places.reports / "shop" / "visualization.html").h1.text == "Data quality"
