"""Which model a page is about, and the page of all versions: releases, editions, and any two side by side."""

from pathlib import Path

import pytest
import report_project as made
from browser import PROGRAM, Browser
from bs4 import BeautifulSoup

from mlloop.core import settings, storage
from mlloop.pages import report
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger

LATER = "2b" * 32
EDITION = "shop@2025-08-04"


def retrained(places: settings.Settings, folder: str = EDITION, model: str = LATER) -> settings.Settings:
    """The project after a retraining whose model was promoted: another model, one feature more, better on the same rows."""
    products, again = places.state / "products", places.state / "products" / folder
    for path in (products / "shop").glob("*"):
        if path.stem not in ("analysis", "visualization", "need_gate", "exploration", "building"):
            again.mkdir(exist_ok=True)
            (again / path.name).write_bytes(path.read_bytes())
    change = lambda stage, **more: storage.write_json(
        again / f"{stage}.json", storage.read_json(again / f"{stage}.json") | more
    )
    trained = storage.read_json(again / "training.json")
    trained["model"] |= {"digest": model, "registered": trained["model"]["registered"] | {"version": 2}}
    trained["model"]["recipe"]["params"] = {"k": "90"}
    change("training", model=trained["model"], features=[*trained["features"], "income"])
    gain = {"value": 0.03, "low": 0.01, "high": 0.05, "n": 700}
    change("evaluation", model=model, champion={"said": "It is better.", "digest": made.MODEL, "gain": gain})
    change("problem", as_of="2025-08-04T00:00:00")
    ledger = Ledger.open(places)
    ledger.append(Entry("gate", "shop", subject="validation", verdict="yes", model=model, actor="policy"))
    promoted = {"as_of": "2025-08-11", "rule": None}
    ledger.append(
        Entry(
            "promotion",
            "shop",
            model=model,
            expect=made.MODEL,
            reasons=["It is better."],
            actor="policy",
            details=promoted,
        )
    )
    return places


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    found = retrained(made.live(made.run(tmp_path_factory.mktemp("versions") / "project"), weeks=2))
    report.write(found)
    return found


def words(page: Path) -> str:
    return " ".join(BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").get_text(" ").split())


def test_every_stage_page_names_its_model_and_whether_production_has_moved_on(places):
    page = words(places.reports / "shop" / "features.html")
    assert f"This page is about version 1 (knn, {made.MODEL[:12]}), trained on data up to 2025-06-30." in page
    assert (
        "until 2025-08-11 in the data (decided " in page
        and "In production now: version 2 since 2025-08-11 in the data" in page
    )
    page = words(places.reports / EDITION / "features.html")
    assert (
        f"This page is about version 2 (knn, {LATER[:12]}), trained on data up to 2025-08-04. It is in production since"
        in page
    )


def test_a_retraining_has_pages_of_its_own_and_leads_to_those_of_the_run_it_entered_beside(places):
    own = sorted(path.stem for path in (places.reports / EDITION).glob("*.html"))
    assert own == [
        "collection",
        "evaluation",
        "features",
        "ingestion",
        "lineage",
        "problem",
        "training",
        "transformation",
        "validation_gate",
    ]
    page = BeautifulSoup((places.reports / EDITION / "training.html").read_text(encoding="utf-8"), "html.parser")
    links = [link["href"] for link in page.select(".stages a")]
    assert "../shop/analysis.html" in links and "features.html" in links and "../shop/versions.html" in links
    for link in page.find_all("a", href=True):
        path = link["href"].partition("#")[0]
        assert not path or (places.reports / EDITION / path).resolve().is_file(), link["href"]


def test_the_versions_page_lists_who_replaced_whom_when_by_both_clocks_and_why(places):
    page = BeautifulSoup((places.reports / "shop" / "versions.html").read_text(encoding="utf-8"), "html.parser")
    rows = [" ".join(row.get_text(" ").split()) for row in page.select("table")[0].select("tbody tr")]
    assert (
        rows[0].startswith("version 2 now 2025-08-11 20")
        and "Promoted, by policy version 1 0.134 (0.120 to 0.150)" in rows[0]
    )
    assert (
        rows[1].startswith("version 1 2025-06-30 20")
        and "nothing 0.134 (0.120 to 0.150) 0.120 (0.100 to 0.140) in the period from" in rows[1]
    )
    assert all(page.find(id=link["href"][1:]) for link in page.select('a[href^="#m-"]'))
    assert page.select_one(f'a[href="../{EDITION}/evaluation.html"]') or page.select_one(
        'a[href="../shop%402025-08-04/evaluation.html"]'
    )


def test_two_versions_stand_side_by_side_with_the_paired_interval(places):
    page = BeautifulSoup((places.reports / "shop" / "versions.html").read_text(encoding="utf-8"), "html.parser")
    (pair,) = page.select("details.compare")
    told = " ".join(pair.get_text(" ").split())
    assert (
        "On the same 700 rows, which neither had learned, version 2 is better than version 1 by 0.03 in NDCG (0.01 to 0.05)."
        in told
    )
    assert "Version 2 alone uses income." in told
    assert "parameter k 50 90" in told and "ndcg 0.134 (0.120 to 0.150) 0.134 (0.120 to 0.150)" in told
    assert "seed" not in told  # what is equal is not listed among what differs


def kept(places: settings.Settings) -> None:
    """The gate's decision about the first model, with the products that it read, as a run leaves them."""
    digests = {}
    for stage in ("problem", "training", "evaluation"):
        path = places.state / "products" / "shop" / f"{stage}.json"
        digest = digests[f"stage {stage}"] = storage.digest_file(path)
        storage.write_json(places.state / "objects" / f"{digest}.json", storage.read_json(path))
    Ledger.open(places).append(
        Entry("gate", "shop", subject="validation", verdict="maybe", model=made.MODEL, actor="policy", digests=digests)
    )


def test_a_model_that_a_later_run_wrote_over_keeps_its_figures_and_is_compared(tmp_path):
    places = made.live(made.run(tmp_path), weeks=1)
    kept(places)
    retrained(places, folder="shop")
    stated = (places.problems / "shop.yaml").read_text(encoding="utf-8")
    (places.problems / "shop.r2.yaml").write_text(stated, encoding="utf-8")
    report.write(places)
    page = BeautifulSoup((places.reports / "shop" / "versions.html").read_text(encoding="utf-8"), "html.parser")
    first = " ".join(page.select("table")[0].select("tbody tr")[1].get_text(" ").split())
    assert first.startswith("version 1 2025-06-30") and "nothing 0.134 (0.120 to 0.150)" in first
    models = [" ".join(row.get_text(" ").split()) for row in page.select("table")[1].select("tbody tr")]
    assert [row.split(maxsplit=2)[:2] for row in models] == [["version", "2"], ["version", "1"]]
    assert "Maybe" in models[1]
    (pair,) = page.select("details.compare")
    assert "parameter k 50 90" in " ".join(pair.get_text(" ").split())


def test_the_model_in_production_keeps_its_name_when_a_later_run_trained_another(tmp_path):
    places = made.live(made.run(tmp_path), weeks=1)
    kept(places)
    products = places.state / "products" / "shop"
    trained = storage.read_json(products / "training.json")
    trained["model"] |= {"digest": LATER, "name": "popular"}
    storage.write_json(products / "training.json", trained)
    panel = BeautifulSoup(report.write(places).read_text(encoding="utf-8"), "html.parser").select_one(".now")
    assert " ".join(panel.get_text(" ").split()).startswith(f"In production Model knn {made.MODEL[:13]}")


def test_a_rule_in_production_is_called_by_its_name(tmp_path):
    places = made.live(made.run(tmp_path), weeks=1)
    rule = {"as_of": "2025-07-07", "to": "rule", "name": "best_sellers"}
    Ledger.open(places).append(
        Entry("revision", "shop", subject="1", actor="policy", details={"rule": {"model": LATER}})
    )
    Ledger.open(places).append(
        Entry("fallback", "shop", expect=made.MODEL, model=LATER, reasons=["better"], actor="policy", details=rule)
    )
    index = BeautifulSoup(report.write(places).read_text(encoding="utf-8"), "html.parser")
    assert index.select_one(".now strong").get_text() == "the rule 'best_sellers'"
    assert "the rule 'best_sellers', since 2025-07-07" in " ".join(index.select_one("table").get_text(" ").split())


def test_a_rollback_says_from_what_to_what(tmp_path):
    places = retrained(made.live(made.run(tmp_path), weeks=1))
    Ledger.open(places).append(
        Entry("rollback", "shop", expect=LATER, model=made.MODEL, reasons=["complaints"], actor="Ada")
    )
    index = BeautifulSoup(report.write(places).read_text(encoding="utf-8"), "html.parser")
    first = " ".join(index.select_one(".timeline > li").get_text(" ").split())
    assert "Rolled back" in first and f"From {LATER[:15]}… to {made.MODEL[:15]}…" in first
    page = words(places.reports / "shop" / "versions.html")
    assert "In production is version 1 since" in page and ", in place of version 2." in page
    assert "It was in production from 2025-08-11 in the data" in words(places.reports / EDITION / "training.html")


def test_pages_of_a_retraining_go_when_its_products_do(tmp_path):
    places = retrained(made.live(made.run(tmp_path), weeks=1))
    report.write(places)
    for path in (places.state / "products" / EDITION).glob("*"):
        path.unlink()
    report.write(places)
    assert not list((places.reports / EDITION).glob("*.html"))


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine to open the pages in")
@pytest.mark.parametrize("width", [360, 1280])
def test_the_versions_page_fits_the_screen(places, tmp_path, width):
    with Browser(tmp_path) as browser:
        browser.open(places.reports / "shop" / "versions.html", width=width)
        browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
