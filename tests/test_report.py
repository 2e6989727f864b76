"""The pages of a run: whole, safe, small, readable, and the same for the same input."""

import base64
import json
import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import report_project as made
from browser import PROGRAM, Browser
from bs4 import BeautifulSoup
from ruamel.yaml import YAML

from mlloop import products
from mlloop.core import storage
from mlloop.pages import diagrams, notebook_html, problem_view, report, wording
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger

HOSTILE = (
    "</title></style></script></textarea></table>\"'><script>document.title='ran'</script>"
    "<img src=x onerror=\"document.title='ran'\"><svg onload=\"document.title='ran'\"></svg>"
    "<a href=\"javascript:document.title='ran'\">x</a><iframe srcdoc='<script>top.document.title=1</script>'></iframe>"
    "{{ 7 * 7 }}{% raw %} ]]> --> `x` [x](javascript:alert(1)) <math><mtext></table><mglyph><style><img src=x onerror=alert(1)>"
)
NEEDS_BROWSER = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine to open the pages in")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    places = made.live(made.run(tmp_path_factory.mktemp("whole") / "project"))
    report.write(places)
    return places


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    say = lambda text: text + HOSTILE
    places = made.live(made.run(tmp_path_factory.mktemp("hostile") / "project", say=say), say)
    report.write(places)
    return places


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


def pages(places) -> list[Path]:
    return sorted(places.reports.rglob("*.html"))


def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


# ---------------------------------------------------------------------------------------------- what is written


def test_each_stage_has_a_page_and_the_index_names_both_verdicts(whole):
    stages = [stage.name for stage in problem_view.stages(whole, "shop") if stage.shown]
    assert [page.stem for page in pages(whole) if page.parent.name == "shop"] == sorted(
        [
            *stages,
            "lineage",
            "model",
            "monitoring",
            "versions",
            *(f"period-2025-07-{day}" for day in ("07", "14", "21", "28")),
        ]
    )
    words = soup(whole.reports / "index.html").get_text(" ")
    assert (
        "Machine learning is justified, and on its holdout period the production model may have solved the problem: ndcg 0.134 share "
        "(0.120 to 0.150), target 0.100." in words
    )
    assert "1,200 rows read: 1,100 kept, 90 rejected with a reason, 10 duplicates." in words


def test_the_run_act_is_shown_without_parameters_and_with_code_folded(whole):
    page = soup(whole.reports / "shop" / "analysis.html")
    words = page.get_text(" ")
    assert "Which columns say something?" in words and "secret" not in words and "Figure size" not in words
    assert all(block.find_parent("details") for block in page.find_all("pre") if "describe(rows)" in block.text)
    assert "## Run" not in words and page.find("h1").text == "Data analysis"


def test_a_whole_notebook_shows_only_its_run_act():
    cells = [made.markdown("# Analysis"), made.code("1 / 0", made.shown(text_plain="lesson")), *made.run_cells(str)]
    words = " ".join(block.shown for block in notebook_html.blocks(notebook_html.run_act(made.notebook(*cells))))
    assert "lesson" not in words and "What this run answers." in words


def test_corrected_prose_is_shown_without_a_run_and_changed_code_is_not():
    executed = made.notebook(*made.run_cells(str))
    source = json.loads(json.dumps(executed))
    source["cells"][4]["source"] = "Which column is *best*?"
    source["cells"][5]["outputs"] = []
    shown = lambda: "".join(block.shown for block in notebook_html.blocks(notebook_html.run_act(executed, source)))
    assert "<em>best</em>" in shown() and "1234.5" in shown()
    source["cells"][5]["source"] = "#| pipeline\nsomething_else()"
    assert "best" not in shown() and "1234.5" in shown() and "something_else" not in shown()


def visualized(tmp_path, prose, said):
    """The pages of a run whose last notebook says so, below that prose."""
    places = made.run(tmp_path, until="visualization")
    cells = [made.markdown(prose), made.code("f()", made.shown(text_markdown=said))]
    storage.write_json(places.state / "products" / "shop" / "visualization.ipynb", made.notebook(*cells))
    report.write(places)
    return places


def test_what_a_notebook_stresses_is_its_finding_and_is_said_once(tmp_path):
    places = visualized(tmp_path, "## Run", "- **All 7 rows & more *kept***; the rest is not")
    assert "All 7 rows & more kept" in soup(places.reports / "index.html").get_text(" ")
    assert soup(places.reports / "shop" / "visualization.html").get_text(" ").count("All 7 rows") == 1


def test_what_tells_the_finding_stands_at_the_head_of_the_page(whole, tmp_path):
    places = visualized(
        tmp_path, "## Run\n\nMay the data be trusted?", "### All is well\n\nNothing asks for attention."
    )
    page = soup(places.reports / "shop" / "visualization.html")
    first = page.select_one("h1 + .opening .first")
    assert first is not None and first.h2.text == "All is well"
    words = page.get_text(" ")
    assert words.index("All is well") < words.index("May the data be trusted?") and words.count("All is well") == 1


def test_prose_that_announces_nothing_is_left_out_with_it():
    act = [
        made.markdown("## Run\n\nWhat this run answers."),
        made.code("import this"),
        made.markdown("Why rows were rejected."),
        made.code("if rejected: plot()"),
        made.markdown("What is kept."),
        made.code("kept", made.shown(text_plain="7")),
    ]
    words = " ".join(notebook_html.words(block.shown) for block in notebook_html.blocks(act))
    assert "What this run answers." in words and "What is kept." in words and "if rejected" in words
    assert "Why rows were rejected." not in words


def test_headers_say_their_unit_as_people_do_and_counts_of_rows_get_separators():
    table = made.table(("kept", "0.54", "5380"), columns=("name", "set_aside_pct", "rows"))
    cells = BeautifulSoup(notebook_html.library_html(table), "html.parser").find_all(["th", "td"])
    assert [cell.text for cell in cells] == ["name", "set aside (%)", "rows", "kept", "0.54", "5,380"]


def test_tables_align_numbers_and_name_their_headers():
    html = notebook_html.library_html(
        made.table(("a", "1,234", "x"), ("b", float("nan"), "y"), columns=("name", "rows", "word"))
    )
    table = BeautifulSoup(html, "html.parser").table
    assert [cell.get("class") for cell in table.tbody.tr.find_all("td")] == [["n"], None]
    assert [(cell.text, cell["scope"]) for cell in table.thead.find_all("th")] == [
        ("name", "col"),
        ("rows", "col"),
        ("word", "col"),
    ]
    assert [cell.text for cell in table.tbody.find_all("td")] == ["1,234", "x", "–", "y"]


def test_large_counts_get_separators_and_an_empty_table_says_so():
    counts = BeautifulSoup(notebook_html.library_html(made.table(("kept", 68785), ("rejected", 12))), "html.parser")
    assert [cell.text for cell in counts.find_all("td")] == ["68,785", "12"]
    assert "No rows." in notebook_html.library_html(made.table())


def test_html_in_prose_is_shown_as_text_and_a_moment_as_a_date():
    assert "&lt;b&gt;bold&lt;/b&gt;" in notebook_html.prose("a <b>bold</b> <script>1</script> word")
    shown = notebook_html.output(made.shown(text_plain="datetime.datetime(2016, 1, 1, 0, 0)"))[0].shown
    assert "2016-01-01" in shown and "datetime" not in shown


def test_long_texts_keep_room_beside_numbers():
    html = notebook_html.library_html(made.table(("a", 1, "words " * 9), columns=("name", "n", "why")))
    cells = BeautifulSoup(html, "html.parser").table.tbody.find_all("td")
    assert [cell.get("class") for cell in cells] == [["n"], ["wide"]]


def test_long_outputs_are_cut_and_say_so():
    rows = [(str(i), i) for i in range(500)]
    html = notebook_html.library_html(made.table(*rows))
    assert html.count("<tr>") == 201 and "The first 200 of 500 rows." in html
    text = notebook_html.output({"output_type": "stream", "name": "stdout", "text": "x" * 30_000})[0].shown
    assert "10,000 more characters" in text


def test_a_failed_stage_shows_its_error(tmp_path):
    places = made.run(tmp_path, until="analysis")
    failed = places.state / "failed" / "shop" / "visualization.ipynb"
    storage.write_json(failed, made.notebook(*made.run_cells(str), made.markdown("What never came.")))
    report.write(places)
    words = soup(places.reports / "shop" / "visualization.html").get_text(" ")
    assert "DataError: words" in words and "mlloop debug visualization --problem shop" in words
    assert "What never came." not in words
    words = soup(places.reports / "index.html").get_text(" ")
    assert "The run failed at visualization" in words and "DataError: words" in words


def test_states_of_the_runner_are_shown_with_their_reasons(tmp_path):
    places = made.run(tmp_path)
    states = {
        "shop": {
            "features": {"state": "stale", "reasons": ["module mlloop.features changed"]},
            "training": {"state": "waiting"},
        }
    }
    report.write(places, states=states)
    words = soup(places.reports / "index.html").get_text(" ")
    assert "module mlloop.features changed" in words and "waits for a stale stage" in words


def test_a_gate_that_says_nothing_is_shown_as_no(tmp_path):
    places = made.run(tmp_path, until="need_gate")
    storage.write_json(
        places.state / "products" / "shop" / "need_gate.json",
        {"stage": "own need gate", "version": 1, "verdict": "perhaps"},
    )
    report.write(places)
    page = soup(places.reports / "shop" / "need_gate.html")
    assert page.select_one(".verdict .word").get_text(
        strip=True
    ) == "No" and "no verdict counts as no" in page.get_text(" ")


def test_a_closed_gate_names_what_must_change_and_the_next_revision(tmp_path):
    places = made.run(tmp_path, until="need_gate")
    product = made.products(str)["need_gate"]
    product["verdict"]["verdict"] = "no"
    storage.write_json(places.state / "products" / "shop" / "need_gate.json", product)
    (places.problems / "shop.r3.yaml").write_text("revision: 3\n")
    index = soup(report.write(places))
    words = index.get_text(" ")
    assert "No machine learning is needed" in words and "What must change: a threshold" in " ".join(words.split())
    assert "mlloop run --problem problems/shop.r3.yaml" in words and len(index.find_all("section")) == 1


def test_figures_that_differ_never_read_the_same():
    shown = wording.evidence(
        {"name": "auc", "value": 0.84996, "threshold": 0.85, "low": None, "high": None, "passed": False}
    )
    assert (shown["value"], shown["threshold"]) == ("0.84996", "0.85000")


def test_numbers_read_as_a_person_writes_them():
    given = [None, True, 0, 12345, 12345.6, 0.13421, 0.0134, 0.00000123, 12.34, -3.456, 4.0, 1.0, "knn"]
    assert [wording.number(v) for v in given] == [
        "–",
        "yes",
        "0",
        "12,345",
        "12,346",
        "0.134",
        "0.0134",
        "1.23e−06",
        "12.3",
        "−3.46",
        "4",
        "1",
        "knn",
    ]


def test_the_model_card_says_what_it_is_how_well_it_does_and_where_it_ends(whole):
    words = " ".join(soup(whole.reports / "shop" / "model.html").get_text(" ").split())
    for said in (
        "Model card: knn",
        "1,100",
        "2025-03-03 up to, not including, 2025-06-16",
        "99 % of predictions take at most 20 ms",
        "best_sellers rule 0.02 0.01 to 0.03 0.02 (0.01 to 0.03)",
        "activity: new 0.100 9",
        "It was trained on data before 2025-06-16.",
        "this model since",
        made.MODEL,
        "there is no previous one to roll back to",
    ):
        assert said in words, said


def test_an_interval_is_drawn_in_proportion():
    line = diagrams.interval(0.5, 0.0, 1.0, 0.25)
    assert (line.low, line.threshold, line.value, line.high) == (6, 28, 50, 94)
    assert diagrams.interval(0.5, None, None, None) is None


def test_every_stage_has_its_place_in_both_drawings(whole):
    stages = problem_view.stages(whole, "shop")
    for drawn in (diagrams.wide(stages, lambda s: s.is_gate), diagrams.narrow(stages, lambda s: s.is_gate)):
        places = {(node.x, node.y) for node in drawn.nodes}
        assert len(places) == len(stages) > 10
        assert all(node.x + node.w <= drawn.width and node.y + node.h <= drawn.height for node in drawn.nodes)


def test_the_index_tells_what_is_in_production_since_when_why_and_what_would_change_it(whole):
    panel = soup(whole.reports / "index.html").select_one(".now")
    words = " ".join(panel.get_text(" ").split())
    for said in (
        "Model knn 9f9f9f9f9f9f9",
        "Since 2025-06-30 in the data (decided 20",
        "by Ada (decision 3)",
        "Reason ndcg 0.134 share (0.120 to 0.150), target 0.100; nobody answered yet",
        "Health being watched since the period that began 2025-07-21, as of 2025-07-28 in the data. It does as well as it promised.",
        "serves 20% of the requests, for 21 days at most. It is promoted after 200 predictions if it is no worse by more than 0.01 in NDCG.",
        "3 of the last 5 periods (one every 7 days), the newest included, are worse than its reference by 2 standard errors",
        "at most 12 times a year, and 21 days after the last at the earliest.",
        "This is the first model in production, so there is none to roll back to.",
    ):
        assert said in words, (said, words)


def test_the_loop_is_drawn_to_its_end_with_the_state_of_each_part(whole, tmp_path):
    drawn = soup(whole.reports / "index.html").select_one("svg.loop.wide")
    told = [one["aria-label"] for one in drawn.find_all(attrs={"aria-label": True})]
    assert told[-3:] == ["Serving: answers", "Monitoring: being watched", "Retraining: being watched"]
    assert len(drawn.select("path.again")) == 1
    told = [one["aria-label"] for one in soup(report.write(made.run(tmp_path))).select("svg.loop.wide [aria-label]")]
    assert told[-3:] == ["Serving: nothing to serve", "Monitoring: not monitored yet", "Retraining: not asked yet"]


def test_looks_that_changed_nothing_are_one_line_in_the_timeline(whole):
    line = soup(whole.reports / "index.html").select_one(".timeline")
    first = [" ".join(one.get_text(" ").split()) for one in line.find_all("li", recursive=False)]
    assert (
        len(first) == 5
        and first[0].startswith("2025-07-28 in the data (decided 20")
        and "Retrain? Being watched" in first[0]
    )
    assert first[1].startswith("2025-07-07 to 2025-07-21 in the data · Retrain? Nothing to do , 3 times")


def test_a_look_at_the_model_before_says_nothing_of_the_one_that_answers_now(tmp_path):
    places = made.live(made.run(tmp_path), weeks=2)
    look = sorted((places.state / "monitoring" / "shop").glob("*.json"))[-1]
    storage.write_json(look, storage.read_json(look) | {"model": "1a" * 32, "health": "worse", "said": "It fell."})
    page = soup(report.write(places))
    panel = " ".join(page.select_one(".now").get_text(" ").split())
    assert "Health not known yet . No period of its own has been monitored" in panel
    assert "is of the model before it (1a1a1a1a1a1a): worse than reference. It fell." in panel
    assert page.select_one("svg.loop.wide [aria-label^=Monitoring]")["aria-label"] == "Monitoring: not known yet"
    words = " ".join(soup(places.reports / "shop" / "monitoring.html").get_text(" ").split())
    assert "The figures below are of the model that predicted then. knn 9f9f9f9f9f9f predicts since" in words


def test_a_model_that_the_loop_made_has_the_card_and_the_verdict(tmp_path):
    places, later = made.live(made.run(tmp_path), weeks=1), "2b" * 32
    folder = places.state / "products" / "shop"
    for path in list(folder.glob("*.json")):
        storage.write_json(places.state / "products" / "shop@2025-08-04" / path.name, storage.read_json(path))
    again = places.state / "products" / "shop@2025-08-04"
    trained, judged = (storage.read_json(again / f"{name}.json") for name in ("training", "validation_gate"))
    trained["model"] |= {"digest": later}
    judged["verdict"]["evidence"][0] |= {"value": 0.234}
    storage.write_json(again / "training.json", trained)
    storage.write_json(again / "validation_gate.json", judged)
    ledger = Ledger.open(places)
    ledger.append(Entry("gate", "shop", subject="validation", verdict="yes", model=later, actor="policy"))
    ledger.append(
        Entry("promotion", "shop", model=later, expect=made.MODEL, actor="policy", details={"as_of": "2025-08-04"})
    )
    page = soup(report.write(places))
    words = " ".join(page.get_text(" ").split())
    assert "ndcg 0.234" in words and "Trained by the loop; the run below trained the first model." in words
    assert page.find("a", href="shop/model.html#asked") is not None
    card = " ".join(soup(places.reports / "shop" / "model.html").get_text(" ").split())
    assert f"Digest {later}" in card and "this model since 2025-08-04 in the data" in card


def test_a_verdict_that_rests_on_no_figure_gives_its_reason(tmp_path):
    places = made.run(tmp_path)
    path = places.state / "products" / "shop" / "need_gate.json"
    product = storage.read_json(path)
    product["verdict"] |= {
        "verdict": "maybe",
        "deciding": "worth",
        "reasons": ["Nobody knows what an answer is worth."],
    }
    open_ = dict.fromkeys(("value", "low", "high", "threshold", "passed"))
    product["verdict"]["evidence"] = [{"name": "worth", "unit": "EUR", **open_}]
    storage.write_json(path, product)
    card = soup(report.write(places)).select_one(".verdict")
    assert "Nobody knows what an answer is worth." in card.get_text(" ") and "–" not in card.get_text(" ")


def test_a_long_history_is_cut_and_says_where_the_rest_is():
    row = {"kind": "gate", "verdict": "yes", "action": ""}
    found = wording.folded([row] * 130)
    assert (len(found["parts"]), len(found["older"]), found["left"]) == (8, 92, 30)


def test_the_monitoring_page_shows_what_was_promised_estimated_and_realised(whole):
    page = soup(whole.reports / "shop" / "monitoring.html")
    words = " ".join(page.get_text(" ").split())
    for said in (
        "Being watched since the period that began 2025-07-21. It does as well as it promised.",
        "Period 2025-07-21 up to, not including, 2025-07-28",
        "Retrain? Being watched",
        "2025-07-21 – – 0.116 (0.096 to 0.136) – 9f9f9f9f being watched 2,004 being watched",
        "2025-07-14 0.100 (0.08 to 0.120) met 0.117 (0.097 to 0.137) 5% 9f9f9f9f healthy 2,003 nothing to do",
        "Schema, volume, missing and unseen values match the reference.",
        "1 of 1 columns drifted. Drift explains; it never decides.",
        "drifted age : 0.200, threshold 0.100",
        "Missing: 0%, then 25%. Values that the reference does not have: 12%.",
        "18 to 40 75% 25% 40 to 90 25% 50%",
        "activity: new labels 0.100",
        "99 % within 9.50 ms; 50 ms allowed",
    ):
        assert said in words, said
    for drawn in (".on-wide", ".on-narrow"):
        assert len(page.select(f"{drawn} .realised")) == 3 and len(page.select(f"{drawn} .estimated")) == 4


def test_the_monitoring_page_shows_the_notebook_where_it_is_kept(tmp_path):
    places = made.live(made.run(tmp_path), weeks=2, with_notebook=True)
    report.write(places)
    words = " ".join(soup(places.reports / "shop" / "monitoring.html").get_text(" ").split())
    assert "Which columns say something?" in words and "All periods" in words and "How well it answers" not in words


def test_a_retraining_and_its_end_are_told_apart_from_looks_that_changed_nothing(tmp_path):
    places = made.live(made.run(tmp_path), weeks=1)
    ledger = Ledger.open(places)
    for subject, verdict, outcome in (
        ("retrain", "yes", ""),
        ("ended", "no", "gate said no"),
        ("ended", "no", "failed"),
    ):
        details = {"as_of": "2025-08-04", "outcome": outcome}
        ledger.append(Entry("retrain", "shop", subject=subject, verdict=verdict, actor="policy", details=details))
    first = soup(report.write(places)).select(".timeline > li")
    told = [" ".join(one.get_text(" ").split()) for one in first]
    assert "Retrained: failed" in told[0] and "the gate said No to the new model" in told[1]
    assert "Retrain? Yes" in told[2] and "What would change it: three of five" in told[3]


def test_a_figure_stands_where_its_value_is():
    chart = diagrams.periods(
        [{"period": "a", "realised": {"value": 1.0}}, {"period": "b", "estimated": {"value": 3.0}}], 2.0, None
    )
    assert chart is not None and chart.reference is not None
    low, high = (next(m.y for m in chart.marks if m.kind == kind) for kind in ("realised", "estimated"))
    assert abs((low + high) / 2 - chart.reference) < 0.02 and low > high
    assert diagrams.periods([], None, None) is None


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"feed": 3, "realised": [1], "explains": "x", "period": [], "health": 7, "estimated": {"methods": []}}',
    ],
)
def test_a_damaged_product_of_monitoring_does_not_hide_the_rest(tmp_path, content):
    places = made.live(made.run(tmp_path), weeks=1)
    (places.state / "monitoring" / "shop" / "2025-07-07.json").write_text(content)
    assert "may have solved the problem" in soup(report.write(places)).get_text(" ")


def test_products_of_a_retraining_are_no_problem_of_their_own(tmp_path):
    places = made.run(tmp_path)
    storage.write_json(places.state / "products" / "shop@2025-08-18" / "training.json", {"stage": "training"})
    assert problem_view.names(places) == ["shop"]


# ---------------------------------------------------------------------------------------------- what may be missing


def test_a_project_without_problems_has_an_index_that_says_what_to_do(tmp_path):
    places = made.empty(tmp_path)
    assert "There is no problem statement yet." in soup(report.write(places)).get_text(" ")


def test_a_half_run_project_has_pages_of_what_ran(tmp_path):
    places = made.run(tmp_path, until="ingestion")
    words = soup(report.write(places)).get_text(" ")
    assert "Has run as far as ingestion; neither gate has been asked." in words and "not run" in words
    assert [page.stem for page in pages(places)] == ["index", "collection", "ingestion", "lineage", "problem"]


def test_a_statement_that_never_ran_is_listed_with_its_question(tmp_path):
    places = made.empty(tmp_path)
    for name in ("shop", "broken"):
        text = (made.HERE / "problems" / "shop.yaml").read_text(encoding="utf-8")
        (places.problems / f"{name}.yaml").write_text(
            text if name == "shop" else text.replace("metric: ndcg", "metric: ndgc")
        )
    words = soup(report.write(places)).get_text(" ")
    asked = " ".join(YAML(typ="safe").load(text)["question"].split())
    assert asked in " ".join(words.split()) and "is not valid" in words and "ndgc" in words


def test_damaged_products_and_ledger_do_not_hide_the_rest(tmp_path):
    places = made.run(tmp_path)
    (places.state / "products" / "shop" / "training.json").write_text("{")
    (places.state / "products" / "shop" / "evaluation.json").write_text('{"metrics": 3, "slices": [1, null]}')
    (places.state / "ledger.db").write_bytes(b"not a database, and long enough to be looked at" * 40)
    words = soup(report.write(places)).get_text(" ")
    assert "The ledger cannot be read" in words and "may have solved the problem" in words


@pytest.mark.parametrize(
    "stage, field", [("evaluation", "main"), ("training", "trained"), ("validation_gate", "verdict")]
)
def test_a_field_that_is_missing_is_an_error_that_names_it_and_never_an_empty_place(tmp_path, stage, field):
    places = made.run(tmp_path)
    path = places.state / "products" / "shop" / f"{stage}.json"
    storage.write_json(path, {key: value for key, value in storage.read_json(path).items() if key != field})
    index = soup(report.write(places))
    said = f".mlloop/products/shop/{stage}.json: '{field}' is missing Make it again: mlloop run --from {stage}"
    for page in (index, soup(places.reports / "shop" / f"{stage}.html")):
        words = " ".join(page.get_text(" ").split())
        assert said in words and "its product cannot be read" in words


def test_periods_of_an_older_form_are_brought_up_and_unreadable_ones_are_named(tmp_path):
    places = made.live(made.run(tmp_path), weeks=2)
    folder = places.state / "monitoring" / "shop"
    for path in folder.glob("*.json"):  # as a version before wrote them
        storage.write_json(path, {key: value for key, value in storage.read_json(path).items() if key != "version"})
    older = storage.read_json(folder / "2025-07-07.json")
    storage.write_json(folder / "2025-07-07.json", older | {"said": None})
    report.write(places)
    words = " ".join(soup(places.reports / "shop" / "monitoring.html").get_text(" ").split())
    assert "It does as well as it promised." in words
    assert "Some periods cannot be read." in words and "2025-07-07.json: 'said' holds None" in words


# ---------------------------------------------------------------------------------------------- whole, small, the same


def test_links_lead_to_pages_that_are_there(whole):
    for page in pages(whole):
        for link in soup(page).find_all("a", href=True):
            target = urlsplit(link["href"])
            assert not target.scheme and not target.netloc and not target.path.startswith("/")
            other = (page.parent / unquote(target.path)).resolve() if target.path else page
            assert other.is_file(), (page, link["href"])
            if target.fragment:
                assert soup(other).find(id=unquote(target.fragment)), (page, link["href"])


def test_the_same_input_gives_the_same_bytes(tmp_path, whole):
    again = made.live(made.run(tmp_path))
    for name in ("ledger.db", "ledger-verified.json"):  # the pages name the ledger's head: it is input too
        shutil.copy(whole.state / name, again.state / name)
    report.write(again)
    strip = lambda page: re.sub(rb"\d{4}-\d\d-\d\d \d\d:\d\d UTC", b"", page.read_bytes())
    digest = lambda page: re.sub(rb'content="[0-9a-f]{64}"', b"", strip(page))
    assert [digest(a) for a in pages(again)] == [digest(b) for b in pages(whole)]


def test_unchanged_pages_are_left_alone_and_changed_ones_are_not(tmp_path):
    places = made.run(tmp_path)
    report.write(places)
    before = {page: page.stat().st_ino for page in pages(places)}
    report.write(places)
    assert {page: page.stat().st_ino for page in pages(places)} == before
    path = places.state / "products" / "shop" / "analysis.ipynb"
    storage.write_json(path, made.notebook(made.markdown("## Run\n\nAnother answer.")))
    report.write(places)
    changed = {page.name for page in pages(places) if page.stat().st_ino != before[page]}
    assert changed == {"analysis.html"}
    assert not list(places.reports.rglob(".*"))


def test_a_page_goes_when_its_product_does(tmp_path):
    places = made.run(tmp_path)
    report.write(places)
    for stage in ("training", "validation_gate"):
        (places.state / "products" / "shop" / f"{stage}.json").unlink()
    report.write(places)
    assert {"training", "validation_gate", "model"}.isdisjoint(page.stem for page in pages(places))


@pytest.mark.parametrize(
    "what", ["nbs/14_analysis.ipynb", "problems/shop.yaml", ".mlloop/records/shop/analysis.json", ".mlloop/ledger.db"]
)
def test_pages_are_out_of_date_when_something_they_show_is_newer(tmp_path, what):
    places = made.run(tmp_path)
    assert not report.is_current(places)
    storage.write_json(places.notebooks / "14_analysis.ipynb", made.notebook(*made.run_cells(str)))
    report.write(places)
    assert report.is_current(places)
    index = places.reports / "index.html"
    before = (places.root / what).stat().st_mtime - 60
    for path in [index, *(p for p in places.root.rglob("*") if p.is_file())]:
        os.utime(path, (before - 60, before - 60))
    os.utime(places.root / what, (before, before))
    assert not report.is_current(places)
    report.write(places)
    assert report.is_current(places)


def test_a_page_stays_under_a_megabyte(tmp_path):
    places = made.run(tmp_path, until="analysis")
    picture = base64.b64encode(made.png(700, 500, noise=True)).decode()
    cells = [made.code(f"plot({i})", made.shown(image_png=picture)) for i in range(8)]
    storage.write_json(places.state / "products" / "shop" / "analysis.ipynb", made.notebook(*cells))
    report.write(places)
    page = places.reports / "shop" / "analysis.html"
    assert page.stat().st_size < report.MAX_BYTES
    assert "too large for this page" in page.read_text(encoding="utf-8")
    assert max(p.stat().st_size for p in pages(places)) < report.MAX_BYTES


# ---------------------------------------------------------------------------------------------- hostile strings


def test_hostile_strings_leave_the_structure_alone(hostile, whole):
    for page in pages(hostile):
        parsed = soup(page)
        assert len(parsed.find_all("main")) == len(parsed.find_all("h1")) == len(parsed.find_all("footer")) == 1
        assert not parsed.find_all(["script", "iframe", "object", "embed", "form", "base", "link"]), page
        assert all(image["src"].startswith("data:image/") for image in parsed.find_all("img"))
        for tag in parsed.find_all(True):
            assert not [name for name in tag.attrs if name.startswith("on")], (page, tag.name)
            assert not str(tag.get("href", "")).startswith(("javascript:", "http", "data:")), (page, tag)
        assert "49" not in parsed.get_text().split("{{")[0][-3:]
        twin = soup(whole.reports / page.relative_to(hostile.reports))
        assert [len(parsed.find_all(tag)) for tag in ("section", "nav", "figure")] == [
            len(twin.find_all(tag)) for tag in ("section", "nav", "figure")
        ]


@NEEDS_BROWSER
@pytest.mark.parametrize("guard", ["with its policy", "without its policy"])
def test_hostile_strings_run_nothing_in_a_browser(hostile, browser, tmp_path, guard):
    for page in pages(hostile):
        target = page
        if guard == "without its policy":
            target = tmp_path / page.name
            target.write_text(
                re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text(encoding="utf-8")), encoding="utf-8"
            )
        browser.open(target)
        assert browser.opened == 0
        assert browser.run("document.title").endswith("mlloop")
        assert browser.run("document.querySelectorAll('script, iframe, [onerror], [onload], [onclick]').length") == 0
        assert browser.run("document.querySelectorAll('main').length") == 1


@NEEDS_BROWSER
def test_pages_ask_for_nothing_but_themselves(whole, hostile, browser):
    for places in (whole, hostile):
        for page in pages(places):
            browser.open(page)
            asked = [url for url in browser.requests if not url.startswith("data:image/")]
            assert asked == [page.as_uri()]


@NEEDS_BROWSER
def test_a_page_forbids_scripts_even_where_one_got_in(whole, browser, tmp_path):
    script = "<script>document.title = 'ran'</script><img src=x onerror=\"document.title = 'ran'\">"
    page = tmp_path / "page.html"
    text = (whole.reports / "index.html").read_text(encoding="utf-8").replace("</main>", script + "</main>")
    page.write_text(text, encoding="utf-8")
    assert browser.open(page).run("document.title") == "Overview of all problems · mlloop"


def test_the_card_shows_the_interval_that_the_gate_judged_by():
    main = {
        "name": "ndcg",
        "label": "NDCG",
        "unit": "",
        "value": 0.15290227296675532,
        "low": 0.137,
        "high": 0.170,
        "n": 9,
    }
    judged_by = {"value": 0.1529022729667553, "low": 0.136, "high": 0.170, "n": 9}
    found = wording.judged(products.parse(made.products(str)["evaluation"] | {"metrics": [main], "main": judged_by}))
    assert (found["metrics"][0]["low"], found["metrics"][0]["value"]) == (0.136, main["value"])


def test_every_page_names_the_ledgers_head(tmp_path):
    places = made.run(tmp_path)
    report.write(places)
    head = Ledger.open(places).head()
    for page in pages(places):
        assert f"Ledger when this page was written: row {head.id}, {head.hash}." in soup(page).find("footer").get_text(
            " "
        )


def test_the_model_card_names_the_holdout_where_the_release_learned_it():
    tables = [
        products.Table(name=f"shop/{part}", uri=part, version=1, rows=9, digest="d")
        for part in ("train", "holdout", "users")
    ]
    named = lambda is_refitted: [table.name for table in report._trained_on(tables, is_refitted)]
    assert named(is_refitted=True) == ["shop/train", "shop/holdout"] and named(is_refitted=False) == ["shop/train"]
