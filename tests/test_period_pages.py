"""A page a period, the lists that lead to them, and what labels showed of each later."""

import pytest
import report_project as made
from bs4 import BeautifulSoup

from mlloop.core import storage
from mlloop.pages import report


def soup(page):
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def words(page):
    return " ".join(soup(page).get_text(" ").split())


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Seven weeks, of which labels showed the fourth to be worse than the reference; nobody was alerted."""
    found = made.live(made.run(tmp_path_factory.mktemp("periods") / "project"), weeks=7)
    for path in sorted((found.state / "monitoring" / "shop").glob("*.json")):
        look = storage.read_json(path)
        for at, one in enumerate(look["realised"]):
            one |= {"value": 0.05, "worse_by": 0.08, "standard_errors": 5.0} if at == 3 else {"value": 0.13}
        storage.write_json(path, look)
    report.write(found)
    return found


def test_every_period_has_a_page_that_leads_to_those_beside_it(places):
    pages = sorted(path.name for path in (places.reports / "shop").glob("period-*.html"))
    assert len(pages) == 7 and pages[0] == "period-2025-07-07.html"
    page = soup(places.reports / "shop" / pages[2])
    assert page.h1.text == "Period from 2025-07-14 to 2025-07-21"
    beside = [link["href"] for link in page.select("nav.around a")]
    assert beside == [pages[1], pages[3]]


def test_the_lists_lead_to_every_period_filtered_and_sorted(places):
    page = soup(places.reports / "shop" / "monitoring.html")
    lists = {
        one.summary.get_text(): [link.text for link in one.select("tbody th a")]
        for one in page.select("details")
        if one.select("tbody th a")
    }
    assert list(lists) == [
        "All periods, the newest first: 7",
        "By realised performance, the worst first: 6",
        "Periods that missed the target: 1",
    ]
    assert lists["All periods, the newest first: 7"] == sorted(lists["All periods, the newest first: 7"], reverse=True)
    assert (
        lists["By realised performance, the worst first: 6"][0]
        == "2025-07-21"
        == lists["Periods that missed the target: 1"][0]
    )
    assert "Periods with an alert: none." in words(places.reports / "shop" / "monitoring.html")


def test_a_period_in_a_fall_says_so_though_nobody_was_alerted(places):
    page = words(places.reports / "shop" / "period-2025-07-28.html")
    assert "Its labels showed NDCG 0.05" in page and "which misses the target of 0.100." in page
    assert (
        "It is part of a fall: NDCG fell to 0.05 in 1 period from 2025-07-21 to 2025-07-28. It passed. It raised no alert."
        in page
    )
    assert "No label has come for this period yet; the target is NDCG 0.100." in words(
        places.reports / "shop" / "period-2025-08-18.html"
    )


def test_the_page_of_a_period_goes_with_its_product(tmp_path):
    places = made.live(made.run(tmp_path), weeks=3)
    report.write(places)
    (places.state / "monitoring" / "shop" / "2025-07-14.json").unlink()
    report.write(places)
    assert sorted(path.stem for path in (places.reports / "shop").glob("period-*.html")) == [
        "period-2025-07-07",
        "period-2025-07-21",
    ]
