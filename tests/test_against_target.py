"""How production does now against its target and its rule, as pages and `mlloop status` say it first."""

import dataclasses

import report_project as made
from bs4 import BeautifulSoup

from mlloop import problem as problems
from mlloop import project as projects
from mlloop.core import storage
from mlloop.pages import against_target, monitoring_view, report
from mlloop.products import Realised

SHOP = problems.load(made.HERE / "problems" / "shop.yaml")
RULE = {
    "model": "7a" * 32, "name": "best_sellers", "kind": "rule", "value": 0.07, "gain": -0.03, "low": -0.05, "high": -0.01, "se": 0.01,
    "standard_errors": -3.0, "n": 900,
}  # fmt: skip


def period(week: int, value: float, worse_by: float = 0.0, errors: float = 0.0, **more) -> Realised:
    """What labels showed of one week."""
    last = made.looked(str, 6)["realised"][0]
    start = f"2025-{6 + (week + 1) // 4:02}-{1 + 7 * ((week + 1) % 4):02}T00:00:00"
    row = last | {"period": {"from": start, "until": start}, "value": value, "low": value - 0.02, "high": value + 0.02}
    return Realised.model_validate(row | {"worse_by": worse_by, "standard_errors": errors} | more)


def words(page) -> str:
    return " ".join(BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").get_text(" ").split())


def missed(tmp_path):
    """A project whose newest labels lie below the target of 0.100, and above its rule."""
    places = made.live(made.run(tmp_path), weeks=6)
    last = sorted((places.state / "monitoring" / "shop").glob("*.json"))[-1]
    look = storage.read_json(last)
    look["realised"][-1] |= {"others": [RULE]}
    storage.write_json(last, look)
    return places


def test_the_first_line_of_a_problem_says_how_production_does_against_target_and_rule(tmp_path):
    page = report.write(missed(tmp_path))
    lead = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").select_one("section.one .lead").get_text(" ")
    assert " ".join(lead.split()) == (
        "Production misses its target: NDCG 0.08 (0.06 to 0.100), target 0.100, in the period from 2025-07-28. Of the last 5 periods "
        "with labels 2 missed it. Production is better than the rule 'best_sellers' by 0.03 (0.01 to 0.05) on the same rows."
    )
    said = words(page)
    assert said.index("Production misses its target") < said.index(
        "Machine learning is justified, and on its holdout period the production model may"
    )


def test_a_target_that_nobody_stated_is_called_a_guess(tmp_path):
    live, figures = {"model": period(0, 0.2).model}, [period(0, 0.2)]
    guessed = SHOP.model_copy(update={"guessed": {"success.threshold": SHOP.success.threshold}})
    assert against_target.title(figures, guessed).startswith(
        "0 of 1 period with labels miss the guessed target of 0.100"
    )
    sentence = against_target.standing(guessed, {}, live)["sentence"]
    assert sentence.startswith("Whether production meets its guessed target (NDCG at least 0.100) is not known yet")
    stated = guessed.model_copy(update={"success": SHOP.success.model_copy(update={"threshold": 0.12})})
    assert against_target.title(figures, stated).startswith("0 of 1 period with labels miss the target of 0.12")


def test_status_begins_with_how_production_does(tmp_path):
    places = missed(tmp_path)
    project, plan = projects.Project(places.root), dataclasses.make_dataclass("P", ["problem", "parameters"])
    shop = plan("shop", {"problem": "shop"})
    found = project._against_target(shop, project._stated(shop))
    assert found[0].startswith("Production misses its target: NDCG 0.08")


def test_without_labels_it_is_not_known_and_the_estimate_is_named(tmp_path):
    page = report.write(made.live(made.run(tmp_path), weeks=1))
    said = words(page)
    assert (
        "Whether production meets its target (NDCG at least 0.100) is not known yet: no label has come for it." in said
    )
    assert "Without labels 0.119 is estimated." in said


def test_a_model_that_went_is_named_where_the_newest_labels_are_its_own():
    looks = {"2025-08-11": monitoring_view.Monitoring.model_validate(made.looked(str, 6))}
    said = against_target.standing(SHOP, looks, {"model": "1a" * 32})["sentence"]
    assert (
        "not known yet: no label has come since the model changed. The model before it (9f9f9f9f9f9f) came to 0.08"
        in said
    )


def test_a_model_that_was_put_back_is_named_with_what_it_last_came_to():
    look = made.looked(str, 6)
    look["realised"][-1] |= {"model": "1a" * 32}
    looks = {"2025-08-11": monitoring_view.Monitoring.model_validate(look)}
    said = against_target.standing(SHOP, looks, {"model": made.MODEL})["sentence"]
    assert "The model before it (1a1a1a1a1a1a) came to 0.08" in said and said.endswith(
        "When the one in production last answered, it came to 0.09 (0.07 to 0.110) in the period from 2025-07-21."
    )


def test_the_target_is_drawn_and_named_in_the_chart(tmp_path):
    places = made.live(made.run(tmp_path), weeks=6)
    report.write(places)
    page = BeautifulSoup((places.reports / "shop" / "monitoring.html").read_text(encoding="utf-8"), "html.parser")
    line, reference = page.select_one(".chart line.target"), page.select_one(".chart line.ask")
    assert float(line["y1"]) > float(reference["y1"])  # 0.100 lies below 0.134
    assert page.select_one(".chart .said").get_text() == "target 0.100"


def test_a_fall_that_passed_is_in_the_heading_of_the_chart_and_an_alert_is_not_needed():
    known = [period(0, 0.13), period(1, 0.06, 0.07, 4.0), period(2, 0.07, 0.06, 3.0), period(3, 0.13), period(4, 0.12)]
    fell = against_target.falls(known, SHOP.retrain)
    assert [(one.periods, one.worst, one.end) for one in fell] == [(2, 0.06, "passed")]
    title = against_target.title(known, SHOP)
    assert title.startswith("2 of 5 periods with labels miss the target of 0.100; NDCG fell to 0.06 in 2 periods from ")
    assert title.endswith("It passed.") and "alert" not in title


def test_a_fall_that_a_new_model_ended_did_not_pass():
    known = [period(1, 0.06, 0.07, 4.0), period(2, 0.13, model="1a" * 32)]
    assert against_target.falls(known, SHOP.retrain)[0].sentence("NDCG").endswith("It ended with a new model.")


def test_a_fall_by_chance_is_none():
    assert against_target.falls([period(0, 0.13), period(1, 0.06, 0.07, 0.5)], SHOP.retrain) == []
