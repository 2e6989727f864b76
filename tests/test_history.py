"""What a loop through a history is said to have gained, on the terminal and on its page."""

import dataclasses
from types import SimpleNamespace

import loop_project
import pytest
from bs4 import BeautifulSoup

from mlloop import problem as problems
from mlloop.core import settings as _settings
from mlloop.core import storage
from mlloop.core.formatting import number
from mlloop.loop import history
from mlloop.pipeline import runner
from mlloop.problem import utc
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger


def summary(never=88_100.0, always=106_022.0):
    policy = lambda net, n: {"metric": 0.1, "retrainings": n, "worth": net + 150 * n, "cost": 150.0 * n, "net": net}
    at = lambda value: {"value": value, "worth": 1.0}
    ends = ("2025-07-07T00:00:00", "2025-07-14T00:00:00")
    return {
        "problem": "shop", "metric": "ndcg", "currency": "EUR", "note": "The others are a replay.",
        "turns": [
            {"at": ends[0], "action": "no figure yet", "verdict": "no", "said": "No figure yet.", "health": "ok"},
            {"at": ends[1], "action": "retrain", "verdict": "yes", "said": "It is 28 days old.", "health": "ok"},
        ],
        "events": [{"as_of": ends[1], "word": "retrain"}],
        "periods": [{"until": e, "n": 10, "loop": at(0.2), "never": at(0.1), "always": at(0.3)} for e in ends],
        "totals": {"loop": policy(95_921.0, 2), "never": policy(never, 0), "always": policy(always, 5)},
        "policies": {"loop": "the loop", "never": "never retraining", "always": "retraining every 3 periods"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("never", "always", "said"),
    [
        (
            88_100,
            106_022,
            "gained 7,821 EUR against never retraining and lost 10,101 EUR against retraining every 3 periods",
        ),
        (95_921.3, 1, "was worth as much as never retraining and gained 95,920 EUR against retraining every 3 periods"),
    ],
)
def test_what_the_loop_gained_is_said_in_words(never, always, said):
    assert history.sentences(summary(never, always))[-1] == f"over 2 periods the loop {said}"


def test_the_page_of_the_loop_says_the_gain_first_and_decisions_in_words(tmp_path):
    places = dataclasses.replace(_settings.load(), reports=tmp_path)
    page = history.write_page(places, SimpleNamespace(problem="shop"), summary())
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    assert soup.select_one("h1 + .lead").text.startswith("Over 2 periods the loop gained 7,821 EUR")
    words = " ".join(soup.get_text(" ").split())
    assert "2025-07-07 no label yet No figure yet." in words and "2025-07-14 yes It is 28 days old." in words
    assert "retraining every 3 periods" in words and "NDCG: how high the relevant items are in the list" in words
    assert all(cell.get("scope") for cell in soup.find_all("th")) and soup.select_one("svg[role=img]")["aria-label"]


def with_schedules() -> dict:
    found = summary()
    found["totals"]["every_2"] = {"metric": 0.1, "retrainings": 3, "worth": 110_450.0, "cost": 450.0, "net": 110_000.0}
    found["policies"]["every_2"] = "retraining every 2 periods"
    found |= {"best_fixed": "every_2", "against": {
        "never": {"value": 7_821.0, "low": 7_000.0, "high": 8_600.0}, "always": {"value": -10_101.0, "low": -12_000.0, "high": -8_000.0},
        "every_2": {"value": -14_079.0, "low": -16_000.0, "high": -12_000.0},
    }}  # fmt: skip
    for one in found["periods"]:
        one["every_2"] = {"value": 0.35, "worth": 1.0}
    return found


def test_without_prices_policies_are_compared_by_their_figure():
    found = with_schedules() | {"priced": False}
    said = history.sentences(found)
    totals = found["totals"]
    for name in ("loop", "never", "always", "every_2"):
        assert number(totals[name]["metric"]) in said[-1]
    assert "nothing is compared in money" in said[-1] and "EUR" not in " ".join(said)
    assert "found afterwards" in said[-1] and "worth as much" not in " ".join(said)


def test_the_best_fixed_schedule_is_named_as_found_afterwards():
    said = history.sentences(with_schedules())
    assert said[-2] == (
        "the loop lost 14,079 EUR against the best fixed schedule, found afterwards (retraining every 2 periods, "
        "without gate or trial) (loop less schedule: [−16,000 to −12,000])"
    )


def test_the_page_shows_what_the_loop_is_worth_more_with_its_interval(tmp_path):
    places = dataclasses.replace(_settings.load(), reports=tmp_path)
    page = history.write_page(places, SimpleNamespace(problem="shop"), with_schedules())
    words = " ".join(BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").get_text(" ").split())
    assert (
        "−14,079 [−16,000 to −12,000]" in words
        and "the best fixed schedule, known only in hindsight, is retraining every 2 periods" in words
    )


def test_a_loop_without_schedules_has_a_page_too(tmp_path):
    bare = summary()
    del bare["totals"]["always"]
    for one in bare["periods"]:
        del one["always"]
    places = dataclasses.replace(_settings.load(), reports=tmp_path)
    page = history.write_page(places, SimpleNamespace(problem="shop"), bare)
    assert "whatever the figures say" not in page.read_text(encoding="utf-8")


def test_what_a_schedule_is_worth_through_gate_and_trial_is_said_where_a_backtest_replayed_it():
    found = {
        **summary(),
        "gated": {"every_1": {"net": 90_000.0, "retrainings": 9}, "every_4": {"net": 99_000.0, "retrainings": 4}},
    }
    assert history.sentences(found)[-2] == (
        "the best fixed schedule through gate and trial (retraining every 4 periods, by mlloop backtest): 99,000 EUR, 4 retrainings"
    )


def test_a_history_that_was_kept_makes_no_page_where_none_is_wanted(tmp_path):
    settings, plan = runner.project("loan", loop_project.make(tmp_path / "loan").root)
    ledger, until = Ledger.open(settings), utc("2025-03-17")
    ledger.append(Entry("gate", "loan", subject="validation", verdict="yes", model="a" * 64))
    first = ledger.append(
        Entry(
            "promotion", "loan", model="a" * 64, digests={"release": "b" * 64}, details={"as_of": "2025-03-03T00:00:00"}
        )
    )
    ends = history.moments(problems.load(settings.problems / "loan.yaml"), utc("2025-03-03"), None, until, None)
    kept = {**summary(), "problem": "loan", "turns": [{**summary()["turns"][0], "at": at.isoformat()} for at in ends]}
    storage.write_json(history._file(settings, plan), {**kept, "ledger": first.hash, "gated": {}})
    again = history.loop(settings, plan, until, pages=False)
    assert (again.page, again.turned) == (None, 0) and not (settings.reports / "loan" / "loop.html").exists()
    assert history.loop(settings, plan, until).page.exists()
