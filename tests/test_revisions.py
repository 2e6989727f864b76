"""Revisions of a statement are one problem's history, and its name means the current one."""

from pathlib import Path
from types import SimpleNamespace

import report_project as made
from bs4 import BeautifulSoup
from typer.testing import CliRunner

from mlloop import project as projects
from mlloop.cli.app import app
from mlloop.core import revisions, settings, storage
from mlloop.pages import problem_view, report
from mlloop.pipeline import runner
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger


def revised(root: Path, deployed: bool = False) -> settings.Settings:
    """A project whose second revision has run; with `deployed` it is in production."""
    places = made.live(made.run(root), weeks=1)
    made.run(root, problem="shop.r2", until="validation_gate")
    text = (places.problems / "shop.yaml").read_text(encoding="utf-8")
    assert "\nrevision: 1\n" in text
    (places.problems / "shop.r2.yaml").write_text(text.replace("\nrevision: 1\n", "\nrevision: 2\n"), encoding="utf-8")
    (places.problems / "shop.r3.yaml").write_text(text, encoding="utf-8")  # a draft that nobody has run
    if deployed:
        storage.write_json(places.state / "products" / "shop.r2" / "deployment.json", {"stage": "deployment"})
    return places


def test_the_current_revision_is_the_newest_that_is_deployed_or_else_the_newest_that_ran(tmp_path):
    places = revised(tmp_path)
    assert revisions.current(places, "shop") == "shop.r2"
    storage.write_json(places.state / "products" / "shop" / "deployment.json", {"stage": "deployment"})
    assert revisions.current(places, "shop") == "shop"  # the second is being worked on beside the one in production
    storage.write_json(places.state / "products" / "shop.r2" / "deployment.json", {"stage": "deployment"})
    assert revisions.current(places, "shop") == "shop.r2"
    assert [revisions.meant(places, name) for name in ("shop", "shop.r1", "shop.r3", "a/shop.yaml")] == [
        "shop.r2",
        "shop",
        "shop.r3",
        "a/shop.yaml",
    ]


def test_a_problems_name_is_its_current_revision_for_every_command(tmp_path, monkeypatch):
    places = revised(tmp_path, deployed=True)
    monkeypatch.setattr(runner.plans, "read", lambda settings, values: values["problem"])
    assert runner.project("shop", places.root)[1] == "shop.r2"
    assert runner.project("shop.r1", places.root)[1] == "shop"
    assert runner.project("problems/shop.yaml", places.root)[1].endswith("shop.yaml")
    assert projects.Project(places.root).statement("shop").revision == 2
    assert projects.Project(places.root).statement("shop.r1").revision == 1


def test_revisions_are_one_problem_of_the_index_with_a_link_to_each(tmp_path):
    places = revised(tmp_path, deployed=True)
    index = BeautifulSoup(report.write(places).read_text(encoding="utf-8"), "html.parser")
    assert problem_view.names(places) == ["shop"] and len(index.select("section.one")) == 1
    told = " ".join(index.select_one("section.one").get_text(" ").split())
    assert "Revisions of the statement: revision 1 , revision 2 (current)" in told
    assert index.find("a", href="shop/problem.html") and index.find("a", href="shop.r2/training.html")
    page = (places.reports / "shop" / "training.html").read_text(encoding="utf-8")
    assert "This is revision 1 of the problem statement; the current one is revision 2." in page
    assert "This is revision 2 of the problem statement, the current one." in (
        places.reports / "shop.r2" / "training.html"
    ).read_text(encoding="utf-8")
    for file in places.reports.rglob("*.html"):
        for link in BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser").find_all("a", href=True):
            path = link["href"].partition("#")[0]
            assert not path or (file.parent / path).resolve().is_file(), (file, link["href"])


def test_log_and_status_say_which_revision_they_speak_of(tmp_path, monkeypatch):
    places = revised(tmp_path, deployed=True)
    ledger = Ledger.open(places)
    later = {"revision": 2, "products": "shop.r2"}
    ledger.append(Entry("gate", "shop", subject="validation", verdict="yes", model="5c" * 32, details=later))
    ledger.append(Entry("gate", "shop", subject="validation", verdict="yes", model=made.MODEL, details={"revision": 1}))
    ledger.append(Entry("promotion", "shop", model="5c" * 32, expect=made.MODEL, reasons=["it is better"]))
    monkeypatch.chdir(places.root)
    told = " ".join(CliRunner().invoke(app, ["log", "--problem", "shop"], env={"COLUMNS": "200"}).output.split())
    assert f"shop (revision 2) Promoted (2025-07-07 in the data), from {made.MODEL[:12]} to 5c5c5c5c5c5c" in told
    assert "shop (revision 1) Validation gate" in told
    plan = SimpleNamespace(problem="shop.r2", parameters={"problem": "shop.r2"})
    project = projects.Project(places.root)
    assert project._against_target(plan, project._stated(plan))[1] == 2


def test_log_folds_decisions_that_changed_nothing_and_all_unfolds_them(tmp_path, monkeypatch):
    places = made.live(made.run(tmp_path), weeks=5)
    monkeypatch.chdir(places.root)
    log = lambda *more: CliRunner().invoke(app, ["log", *more], env={"COLUMNS": "200"}).output
    assert "Retrain? Nothing to do, 4 times (2025-07-07 to 2025-07-28 in the data)" in log()
    assert log().count("Retrain?") == 2 and log("--all").count("Retrain?") == 5


def test_at_takes_a_moment_of_either_clock_and_names_both(tmp_path, monkeypatch):
    places = made.live(made.run(tmp_path), weeks=3)
    monkeypatch.chdir(places.root)
    ask = lambda *more: " ".join(CliRunner().invoke(app, ["at", *more], env={"COLUMNS": "200"}).output.split())
    said = ask("2025-07-10")
    assert said.startswith(
        "nothing had been decided by 2025-07-10; when the data stood at 2025-07-10: shop: in production 9f9f9f9f9f9f"
    )
    assert "since 2025-06-30 in the data (decided 20" in said
    assert ask("2025-01-01", "--clock", "data") == "nothing had been decided by 2025-01-01"
    assert ask("2025-07-10", "--clock", "decision") == "nothing had been decided by 2025-07-10"
    assert "in the data (decided 20" in ask("now")
