"""One grid of periods, and one answer to the question since when a champion answers."""

import datetime as dt
from types import SimpleNamespace

import pytest

from mlloop.core.errors import DataError, UsageError
from mlloop.monitors import periods
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger

FIRST, SECOND, LAST = dt.datetime(2025, 1, 6), dt.datetime(2025, 2, 3), dt.datetime(2025, 3, 3)
WEEK = dt.timedelta(days=7)


def statement(as_of=None):
    return SimpleNamespace(name="loan", time=SimpleNamespace(as_of=as_of), retrain=SimpleNamespace(every_days=7))


def history(tmp_path, written: dt.datetime) -> Ledger:
    """Three champions and a turn, decided on in 2025, all written at `written`."""
    ledger, before = Ledger(f"sqlite:///{tmp_path}/ledger.db", clock=lambda: written), None
    for model, moment in (("a", FIRST), ("b", SECOND), ("c", LAST)):
        trained = {"parameters": {"as_of": moment.isoformat()}}
        ledger.append(Entry("gate", "loan", "validation", "yes", model=model, details=trained))
        details = {"as_of": moment.isoformat()}
        ledger.append(Entry("promotion", "loan", model=model, expect=before, details=details))
        before = model
    ledger.append(Entry("retrain", "loan", "nothing", "no", details={"as_of": (LAST + WEEK).isoformat()}))
    return ledger


def test_a_rolled_back_champion_answers_from_the_rollback_and_not_from_its_training(tmp_path):
    """In a history, where the ledger's clock is years later: since the newest moment decided on."""
    ledger = history(tmp_path, dt.datetime(2026, 11, 29))
    row = ledger.append(Entry("rollback", "loan", expect="c", actor="Ada"))
    for stated in (FIRST, None):
        assert periods.since(statement(stated), ledger, row) == LAST + WEEK
        assert periods.champion_at(ledger, statement(stated), LAST + 2 * WEEK) == ("b", LAST + WEEK)
        assert periods.champion_at(ledger, statement(stated), LAST + WEEK) == ("c", LAST)


def test_in_a_project_that_lives_a_rollback_holds_from_when_it_was_done(tmp_path):
    now = LAST + WEEK + dt.timedelta(days=2)
    ledger = history(tmp_path, now)
    row = ledger.append(Entry("rollback", "loan", expect="c", actor="Ada"))
    assert periods.since(statement(), ledger, row) == now


def test_the_grid_begins_with_the_statement_or_the_first_champion(tmp_path):
    ledger = history(tmp_path, dt.datetime(2026, 11, 29))
    assert periods.start(statement(SECOND), ledger) == SECOND and periods.start(statement(), ledger) == FIRST
    assert periods.on_grid(statement(), FIRST, SECOND + dt.timedelta(days=6, hours=23)) == SECOND
    assert periods.on_grid(statement(), FIRST, FIRST - dt.timedelta(hours=1)) == FIRST - WEEK
    with pytest.raises(UsageError, match="no model is in production"):
        periods.start(SimpleNamespace(name="shop", time=SimpleNamespace(as_of=None)), ledger)
    with pytest.raises(DataError, match="nothing to watch"):
        periods.champion_at(ledger, SimpleNamespace(name="shop"), LAST)
