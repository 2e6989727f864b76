"""The ledger against a model of its rules, by every order of decisions that hypothesis thinks of.

Several deciders look at what is in production and decide later, by what they saw: whoever decided against a champion
that is gone must be refused. The model keeps what is in production as a pile of champions; the ledger reads it off rows.
"""

import shutil
import tempfile
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mlloop.core.errors import PromotionRefused
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger

MODELS = st.sampled_from(["m1", "m2", "m3", "m4"])
DECIDERS = st.sampled_from(["ann", "policy", "bob"])


class Decisions(RuleBasedStateMachine):
    """Deciders at one ledger; each rule says what the ledger must do, and then does it."""

    def __init__(self):
        super().__init__()
        self.pile: list[str] = []  # champions that a rollback can go back to, the reigning one last
        self.canary: str | None = None
        self.beside: str | None = None  # the champion that the canary is compared with
        self.verdicts: dict[str, str] = {}
        self.seen: dict[str, str | None] = {}  # decider -> the champion it saw last
        self.rows = 0
        self.keys: dict[str, tuple[str, str]] = {}

    @initialize()
    def an_empty_ledger(self):
        self.url, self.remove = self.place()
        self.ledger = Ledger(self.url)
        for model in ("m1", "m2", "m3"):
            self.a_gate_judges(model, "yes")

    @staticmethod
    def place():
        folder = Path(tempfile.mkdtemp(prefix="mlloop-ledger-"))
        return f"sqlite:///{folder}/ledger.db", lambda: shutil.rmtree(folder)

    def teardown(self):
        if hasattr(self, "remove"):
            self.remove()

    @property
    def champion(self) -> str | None:
        return self.pile[-1] if self.pile else None

    def passed(self, model: str, decider: str) -> bool:
        return self.verdicts.get(model) in (("yes",) if decider == "policy" else ("yes", "maybe"))

    def expected(self, decider: str) -> str | None:
        """The champion that the decider decides against: ann looks before she decides, the others when they looked last."""
        return self.champion if decider == "ann" else self.seen.get(decider)

    def decide(self, allowed: bool, entry: Entry, rows: int = 1) -> bool:
        """Hand the entry in: it is written or refused as the model has it."""
        if allowed:
            self.ledger.append(entry)
            self.rows += rows
        else:
            with pytest.raises(PromotionRefused):
                self.ledger.append(entry)
        return allowed

    @rule(model=MODELS, verdict=st.sampled_from(["yes", "no", "maybe"]))
    def a_gate_judges(self, model, verdict):
        self.ledger.append(Entry("gate", "shop", "validation", verdict, model=model))
        self.verdicts[model] = verdict
        self.rows += 1

    @rule(decider=DECIDERS)
    def a_decider_looks(self, decider):
        champion = self.ledger.champion("shop")
        self.seen[decider] = champion.model if champion else None

    @rule(decider=DECIDERS, model=MODELS)
    def a_decider_promotes(self, decider, model):
        expect = self.expected(decider)
        allowed = expect == self.champion and model != self.champion and self.passed(model, decider)
        if self.decide(allowed, Entry("promotion", "shop", model=model, expect=expect, actor=decider)):
            self.pile.append(model)
            self.canary = None

    @rule(decider=DECIDERS, model=MODELS)
    def two_deciders_promote_with_one_key(self, decider, model):
        expect, key = self.expected(decider), f"run {len(self.pile)}"
        entry = Entry("promotion", "shop", model=model, expect=expect, actor=decider, key=key)
        allowed = expect == self.champion and model != self.champion and self.passed(model, decider)
        if key in self.keys:
            return
        if self.decide(allowed, entry):
            self.keys[key] = (model, decider)
            self.pile.append(model)
            self.canary = None
            again = Ledger(self.url).append(entry)  # handed in again, by another process: the row that is there
            assert again.model == model and again.id == self.rows

    @rule(decider=DECIDERS, to=st.none() | MODELS)
    def a_decider_goes_back(self, decider, to):
        expect = self.expected(decider)
        if expect is None:
            return
        earlier = self.pile[:-1]
        allowed = expect == self.champion and bool(earlier) and (to is None or to in earlier) and to != expect
        if self.decide(allowed, Entry("rollback", "shop", model=to, expect=expect, actor=decider)):
            back = to or earlier[-1]
            del self.pile[self.pile.index(back) + 1 :]
            self.canary = None

    @rule(decider=DECIDERS, model=MODELS)
    def production_falls_back(self, decider, model):
        expect = self.expected(decider)
        if expect is None:
            return
        allowed = expect == self.champion and model != self.champion and model in {*self.verdicts, *self.pile}
        if self.decide(allowed, Entry("fallback", "shop", model=model, expect=expect, actor=decider)):
            if model in self.pile:
                del self.pile[self.pile.index(model) + 1 :]
            else:
                self.pile.append(model)
            self.beside = model

    @rule(decider=DECIDERS, model=MODELS)
    def a_canary_starts(self, decider, model):
        expect = self.expected(decider)
        allowed = (
            expect == self.champion and self.champion not in (None, model) and self.canary is None and self.passed(model, decider)
        )  # fmt: skip
        if self.decide(allowed, Entry("canary", "shop", "started", model=model, expect=expect, actor=decider)):
            self.canary, self.beside = model, self.champion

    @precondition(lambda self: self.canary)
    @rule(decider=DECIDERS, model=MODELS, passes=st.booleans())
    def a_canary_ends(self, decider, model, passes):
        subject = "promoted" if passes else "rolled_back"
        lets_in = self.beside == self.champion and model != self.champion and self.passed(model, decider)
        allowed = model == self.canary and (lets_in or not passes)
        if self.decide(allowed, Entry("canary", "shop", subject, model=model, actor=decider), rows=2 if passes else 1):
            self.canary = None
            if passes:
                self.pile.append(model)

    @rule()
    def another_process_opens_the_ledger(self):
        self.ledger = Ledger(self.url)

    @invariant()
    def the_ledger_stands_as_the_model(self):
        if not hasattr(self, "ledger"):
            return
        champion, canary = self.ledger.champion("shop"), self.ledger.canary("shop")
        assert (champion.model if champion else None) == self.champion
        assert (canary.model if canary else None) == self.canary
        assert self.ledger.earlier_champions("shop") == self.pile[:-1]
        assert self.ledger.verify().id == self.rows


def test_every_order_of_decisions_keeps_to_the_rules():
    run_state_machine_as_test(Decisions, settings=settings(max_examples=25, stateful_step_count=30, deadline=None))


def test_the_rules_hold_in_postgres_too(postgres):
    admin = sa.create_engine(sa.make_url(postgres).set(drivername="postgresql+psycopg"), poolclass=sa.pool.NullPool)

    class InPostgres(Decisions):
        @staticmethod
        def place():
            schema = f"m{uuid.uuid4().hex[:12]}"
            with admin.begin() as connection:
                connection.exec_driver_sql(f"CREATE SCHEMA {schema}")

            def remove():
                with admin.begin() as connection:
                    connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")

            return f"{postgres}?options=-csearch_path%3D{schema}", remove

    run_state_machine_as_test(InPostgres, settings=settings(max_examples=5, stateful_step_count=30, deadline=None))
