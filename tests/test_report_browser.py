"""The pages as people meet them: at three widths, in light and dark, on paper, by keyboard and by screen reader."""

import base64
import os
import re
from itertools import pairwise
from pathlib import Path

import pytest
import report_project as made
from browser import PROGRAM, Browser

from mlloop.pages import report

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine to open the pages in")
WIDTHS = [360, 768, 1280]
AXE = Path(os.environ.get("MLLOOP_AXE", "node_modules/axe-core/axe.min.js"))
LONG = " " + "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft_" * 3

CONTRAST = """
(() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return [m[0], m[1], m[2], m.length > 3 ? m[3] : 1]; };
  const light = c => { const f = c.slice(0, 3).map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
                       return .2126 * f[0] + .7152 * f[1] + .0722 * f[2]; };
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > .99) return c; }
                        return [255, 255, 255, 1]; };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, style = getComputedStyle(e);
    if (!walk.currentNode.data.trim() || !e.getClientRects().length || style.visibility === 'hidden') continue;
    const box = e.closest('svg') && e.parentElement.querySelector('rect, polygon');
    const a = parse(e.closest('svg') ? style.fill : style.color), b = box ? parse(getComputedStyle(box).fill) : behind(e);
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p), ratio = (x + .05) / (y + .05);
    const size = parseFloat(style.fontSize), big = size >= 24 || (size >= 18.66 && +style.fontWeight >= 700);
    if (ratio < (big ? 3 : 4.5)) found.push([walk.currentNode.data.trim().slice(0, 40), +ratio.toFixed(2), e.tagName]);
  }
  return found;
})()
"""
FOCUSED = """
(() => { const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
  const shape = e.querySelector && e.querySelector('rect, polygon');
  const ringed = (s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2)
    || (shape && parseFloat(getComputedStyle(shape).strokeWidth) >= 4);
  return {tag: e.tagName, text: (e.getAttribute('aria-label') || e.textContent || '').trim().slice(0, 60), ringed: !!ringed,
          visible: r.width > 1 && r.height > 1 && r.left >= 0, id: e.id, at: [...document.querySelectorAll('*')].indexOf(e)}; })()
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    places = made.live(made.run(tmp_path_factory.mktemp("whole") / "project"))
    states = {
        "shop": {
            "evaluation": {"state": "stale", "reasons": ["input stage training changed"]},
            "validation_gate": {"state": "waiting"},
        }
    }
    report.write(places, states=states)
    return places


@pytest.fixture(scope="module")
def wordy(tmp_path_factory):
    say = lambda text: text + LONG
    places = made.live(made.run(tmp_path_factory.mktemp("wordy") / "project", say=say), say)
    report.write(places)
    return places


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


def pages(places):
    return sorted(places.reports.rglob("*.html"))


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_scrolls_sideways(whole, wordy, browser, width):
    for page in pages(whole) + pages(wordy):
        browser.open(page, width=width)
        browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, (
            page,
            width,
        )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_has_contrast_enough(whole, browser, dark):
    for page in pages(whole):
        browser.open(page, dark=dark)
        browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert browser.run(CONTRAST) == [], page


def test_dark_is_dark_and_paper_is_light(whole, browser):
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).reduce((a, b) => a + b)"
    index = whole.reports / "index.html"
    assert browser.open(index, dark=True).run(ground) < 120
    assert browser.open(index, dark=False).run(ground) > 700
    assert browser.open(index, dark=True, media="print").run(ground) == 765


def test_the_first_key_offers_to_skip_to_the_content(whole, browser):
    browser.open(whole.reports / "shop" / "analysis.html")
    browser.press("Tab")
    first = browser.run(FOCUSED)
    assert (first["text"], first["visible"], first["ringed"]) == ("Skip to the content", True, True)
    browser.press("Enter")
    assert browser.run("document.activeElement.id") == "content"
    browser.press("Tab")
    assert browser.run("document.getElementById('content').contains(document.activeElement)")


@pytest.mark.parametrize("name", ["index.html", "shop/need_gate.html", "shop/analysis.html", "shop/model.html"])
def test_the_keyboard_reaches_everything_in_reading_order_and_shows_where_it_is(whole, browser, name):
    browser.open(whole.reports / name)
    operable = browser.run(
        "[...document.querySelectorAll('a[href], summary, [tabindex=\"0\"]')].filter(e => e.checkVisibility()).length"
    )
    seen = []
    for _ in range(operable):
        browser.press("Tab")
        seen.append(browser.run(FOCUSED))
    assert all(one["ringed"] for one in seen), [one for one in seen if not one["ringed"]]
    assert all(one["text"] for one in seen)
    places = [one["at"] for one in seen]
    assert places == sorted(places) and len(set(places)) == operable


def test_code_unfolds_by_keyboard(whole, browser):
    browser.open(whole.reports / "shop" / "analysis.html")
    browser.run("document.querySelector('details.code summary').focus()")
    browser.press("Enter")
    assert browser.run("document.querySelector('details.code').open")
    assert "describe(rows)" in browser.run("document.querySelector('details.code pre').innerText")


def accessible(browser):
    """What assistive technology is told: the nodes that it does not ignore, as (role, name)."""
    nodes = browser.ask("Accessibility.getFullAXTree")["nodes"]
    said = [(n.get("role", {}).get("value"), n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")]
    return [(role, name.strip()) for role, name in said]


def test_a_screen_reader_finds_landmarks_names_and_states(whole, browser):
    for page in pages(whole):
        browser.open(page)
        said = accessible(browser)
        roles = [role for role, _ in said]
        assert roles.count("main") == roles.count("banner") == roles.count("contentinfo") == 1, page
        navigations = [name for role, name in said if role == "navigation"]
        assert all(navigations) and len(set(navigations)) == len(navigations) >= 1
        assert all(
            name for role, name in said if role in ("link", "image", "heading", "region", "columnheader", "rowheader")
        )
    browser.open(whole.reports / "index.html")
    said = accessible(browser)
    assert ("link", "Need gate: said Yes") in said and ("link", "Evaluation: stale") in said
    assert ("group", "The loop of shop") in said


def test_headings_go_down_one_level_at_a_time(whole, browser):
    for page in pages(whole):
        browser.open(page)
        levels = browser.run("[...document.querySelectorAll('h1, h2, h3, h4')].map(h => +h.tagName[1])")
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(b - a <= 1 for a, b in pairwise(levels)), (page, levels)


def test_pictures_are_described(whole, browser):
    browser.open(whole.reports / "shop" / "analysis.html")
    described = browser.run("[...document.querySelectorAll('img')].map(i => i.alt)")
    assert described and all("Which columns say something?" in text for text in described)


def test_the_current_page_is_marked(whole, browser):
    browser.open(whole.reports / "shop" / "features.html")
    assert browser.run(
        "[...document.querySelectorAll('.stages [aria-current=page]')].map(e => e.innerText.trim())"
    ) == ["Features"]


def test_the_phone_shows_tables_of_monitoring_whole(whole, browser):
    cut = "[...document.querySelectorAll('.scroll')].filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1).map(e => e.ariaLabel)"
    browser.open(whole.reports / "shop" / "monitoring.html", width=390)
    browser.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert [label for label in browser.run(cut) if "Evidence" not in label] == []


def test_the_narrow_drawing_replaces_the_wide_one(whole, browser):
    shown = "['wide', 'narrow'].map(k => document.querySelector('.loop.' + k).getBoundingClientRect().width > 0)"
    assert browser.open(whole.reports / "index.html", width=1280).run(shown) == [True, False]
    assert browser.open(whole.reports / "index.html", width=360).run(shown) == [False, True]


def test_status_is_told_without_colour(whole, browser):
    browser.open(whole.reports / "index.html")
    told = browser.run(
        "[...document.querySelectorAll('.state')].map(e => [e.textContent.trim(), !!e.querySelector('use')])"
    )
    assert told and all(word and shape for word, shape in told)
    shapes = browser.run(
        "Object.fromEntries([...document.querySelectorAll('.state')].map(e => [e.textContent.trim(), e.querySelector('use').getAttribute('href')]))"
    )
    assert len({shapes["said Yes"], shapes["stale"], shapes["waits for a stale stage"], shapes["ran"]}) == 4


def test_print_leaves_code_and_navigation_out_and_fits_the_paper(whole, wordy, browser):
    for page in [*pages(whole), wordy.reports / "index.html", wordy.reports / "shop" / "model.html"]:
        browser.open(page, width=700, media="print")
        assert browser.run(
            "[...document.querySelectorAll('details.code, .stages, .around, .skip')].every(e => !e.checkVisibility())"
        )
        assert browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, page
    browser.open(whole.reports / "index.html")
    pdf = base64.b64decode(
        browser.ask("Page.printToPDF", preferCSSPageSize=True, paperWidth=8.27, paperHeight=11.69)["data"]
    )
    assert pdf.startswith(b"%PDF") and 1 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 6


BROKEN_WORDS = """[...document.querySelectorAll("th, td .state")].flatMap(cell => {
  const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), broken = [];
  for (let text; text = walk.nextNode();) for (const word of text.data.matchAll(/[a-z]{4,}/gi)) {
    const range = document.createRange();
    range.setStart(text, word.index); range.setEnd(text, word.index + word[0].length);
    if (new Set([...range.getClientRects()].map(one => Math.round(one.top))).size > 1) broken.push(word[0]);
  }
  return broken;
})"""


def test_print_cuts_no_heading_and_no_state_inside_a_word(whole, browser):
    for page in ("index", "shop/monitoring", "shop/versions", "shop/evaluation"):
        browser.open(whole.reports / f"{page}.html", width=690, media="print")
        assert browser.run(BROKEN_WORDS) == [], page


def test_print_breaks_the_headings_of_columns_of_numbers_between_words(whole, browser):
    browser.open(whole.reports / "index.html", width=700, media="print")
    headings = (
        "mean ROC AUC",
        "retrainings",
        "worth (USD)",
        "cost of retraining (USD)",
        "net (USD)",
        "the loop is worth more by (USD, 95 %)",
    )
    head = "".join(f"<th class='n'>{heading}</th>" for heading in headings)
    row = "<td class='n'>1,665,135 [22,081 to 217,532]</td>" * len(headings)
    browser.run(
        f"document.querySelector('main').innerHTML = `<div class='scroll'><table><thead><tr><th>policy</th>{head}</tr></thead>"
        f"<tbody><tr><th>the loop</th>{row}</tr></tbody></table></div>`"
    )
    assert browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    assert browser.run(BROKEN_WORDS) == []


def test_larger_text_still_fits(whole, browser):
    for page in pages(whole):
        browser.open(page, width=640)
        browser.run("document.documentElement.style.fontSize = '200%'")
        assert browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, page


@pytest.mark.skipif(not AXE.exists(), reason="no axe-core here: npm install axe-core, or MLLOOP_AXE=path/to/axe.min.js")
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1440, True)], ids=["phone", "wide and dark"])
def test_axe_finds_nothing_serious(whole, browser, width, dark):
    kinds = ("analysis", "need_gate", "model", "versions", "lineage", "monitoring", "period-2025-07-28")
    for page in [whole.reports / "index.html", *(whole.reports / "shop" / f"{kind}.html" for kind in kinds)]:
        browser.open(page, width=width, dark=dark)
        browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        browser.run(AXE.read_text(encoding="utf-8") + ";0")
        said = (
            "axe.run().then(r => r.violations.filter(v => ['serious', 'critical'].includes(v.impact)).map(v => v.id))"
        )
        assert browser.run(said) == [], page
