"""A small world whose truth is known, in which the loop's decisions can be tried: no notebook, no disk, a second a history.

Rows come each period; a model answers; labels come later. The same functions decide as in production: `feed.compare`,
`monitoring.observe`, `retraining.decide`, the gate's test against the champion, and `canary.decide`. What the world does
when is said by `Happening`s.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mlloop import monitoring, retraining, validation_gate
from mlloop.core import metrics
from mlloop.data import feed_checks
from mlloop.monitors.estimation import MetricValue
from mlloop.monitors.evidence import Answers, Inputs, Reference
from mlloop.problem import Problem
from mlloop.release import canary

STATEMENT = {
    "name": "world", "question": "Who buys?", "decision": "Whom to write to.", "time": {"column": "at", "label_delay_days": 7, "as_of": "2025-01-06"},
    "task": {"kind": "classification", "table": "rows", "target": "bought", "positive": 1, "entity": "id"},
    "sources": {"rows": {"kind": "files", "path": "rows.csv"}},
    "tables": {"rows": {"source": "rows", "key": ["id"], "time": "at", "columns": {
        "id": {"type": "text"}, "at": {"type": "time"}, "age": {"type": "number"}, "sum_eur": {"type": "number"}, "visits": {"type": "number"},
        "town": {"type": "category"}, "bought": {"type": "integer", "known": "after"}}}},
    "rules": [{"name": "all", "meaning": "write to everybody", "score": "1"}], "success": {"metric": "roc_auc", "threshold": 0.6},
    "money": {"period_days": 7, "per_retraining": 100},
    "retrain": {"every_days": 7, "k": 3, "n": 5, "standard_errors": 2, "margin": 0.005, "min_labelled_rows": 300, "cooldown_days": 28, "budget_per_year": 6},
    "canary": {"share": 0.2, "min_rows": 200, "deadline_days": 28, "max_loss": 0.01},
}  # fmt: skip
ROWS, HISTORY, HELD = 1500, 4, 2  # rows a period; periods before the first turn, of which the last are held out
NAMES = ["age", "sum_eur", "visits", "town"]
KINDS = ("hurts", "harmless", "concept", "nulls", "unit", "gone", "duplicates", "bad labels", "bad canary")


@dataclass(frozen=True)
class Happening:
    """Something that happens to the world from period `at` until, not including, `until`.

    kind: 'hurts' (a kind of customer that was rare comes often, and is other than the rest), 'harmless' (the inputs
    move, the model stays as good), 'concept' (who buys changes, the inputs do not), 'nulls', 'unit', 'gone',
    'duplicates' (faults of the feed), 'bad labels' (a part of them is wrong), 'bad canary' (a challenger is broken on
    its way into production).
    """

    kind: str
    at: int
    until: int = 10_000


@dataclass
class Record:
    """What came of a history: the action of each period, and what happened to the models.

    `gains` says of each promotion how much better the new model is in truth, on rows to come.
    """

    actions: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    retrained: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    promoted: list[int] = field(default_factory=list)
    rolled_back: list[int] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)


class World:
    """Rows, labels and models of a history.

    Parameters
    ----------
    seed : int
    happenings : sequence of Happening
    rows : int
        A period.
    """

    def __init__(self, seed: int, happenings: Sequence[Happening] = (), rows: int = ROWS):
        self.seed, self.happenings, self.rows = seed, tuple(happenings), rows
        self.statement = Problem.model_validate(STATEMENT)
        self.start = dt.datetime(2025, 1, 6)
        self._made: dict[int, pd.DataFrame] = {}

    def on(self, kind: str, period: int) -> bool:
        return any(one.kind == kind and one.at <= period < one.until for one in self.happenings)

    def day(self, period: int) -> dt.datetime:
        """Where a period begins; the first turn stands at the end of period 0."""
        return self.start + dt.timedelta(days=7 * period)

    def period(self, number: int) -> pd.DataFrame:
        """The rows of a period with their labels as the world has them (`truth`) and as they are delivered (`bought`)."""
        if number not in self._made:
            self._made[number] = self._draw(number)
        return self._made[number]

    def _draw(self, number: int) -> pd.DataFrame:
        rng, n = np.random.default_rng([self.seed, number + 1000]), self.rows
        rare = 0.5 if self.on("hurts", number) else 0.04
        town = np.where(rng.random(n) < rare, "port", rng.choice(["hill", "lake"], n))
        frame = pd.DataFrame({
            "id": [f"{number}-{i}" for i in range(n)],
            "at": self.day(number) + pd.to_timedelta(np.sort(rng.uniform(0, 7 * 86400 - 1, n)).round(), "s"),
            "age": rng.normal(45, 12, n), "sum_eur": rng.lognormal(4, 0.6, n),
            "visits": rng.poisson(12 if self.on("harmless", number) else 4, n).astype(float), "town": town,
        })  # fmt: skip
        age, money = (frame["age"] - 45) / 12, (np.log(frame["sum_eur"]) - 4) / 0.6
        sign = np.where(town == "port", -1.0, 1.0)  # in the port it is the other way round
        logit = 1.3 * sign * age + 0.9 * money + 0.3 * (town == "hill")
        if self.on("concept", number):
            logit = -0.5 * sign * age + 0.9 * money + 0.3 * (town == "hill")
        frame["truth"] = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(int)
        wrong = rng.random(n) < (0.45 if self.on("bad labels", number) else 0.0)
        frame["bought"] = np.where(wrong, 1 - frame["truth"], frame["truth"])
        return self._soiled(frame, number, rng)

    def _soiled(self, frame: pd.DataFrame, number: int, rng) -> pd.DataFrame:
        if self.on("nulls", number):
            frame.loc[rng.random(len(frame)) < 0.6, "age"] = np.nan
        if self.on("unit", number):
            frame["sum_eur"] *= 100
        if self.on("gone", number):
            frame["age"] = np.nan
        if self.on("duplicates", number):
            again = frame.iloc[: len(frame) // 2].copy()
            frame = pd.concat([frame, again.assign(id=again["id"] + "-again")], ignore_index=True).sort_values(
                "at", ignore_index=True
            )
        return frame

    def between(self, first: int, last: int) -> pd.DataFrame:
        """The rows of periods [first, last)."""
        return pd.concat([self.period(i) for i in range(first, last)], ignore_index=True)


class Model:
    """A boosted tree that does not learn what is rare: leaves hold at least 150 rows."""

    def __init__(self, rows: pd.DataFrame, seed: int, name: str, until: int, broken: bool = False):
        import lightgbm

        self.name, self.until, self.broken = name, until, broken
        self._rng = np.random.default_rng(seed)
        settings = {"objective": "binary", "num_leaves": 15, "min_data_in_leaf": 150, "learning_rate": 0.15, "verbosity": -1,
                    "num_threads": 1, "seed": seed, "deterministic": True}  # fmt: skip
        self.booster = lightgbm.train(settings, lightgbm.Dataset(self._X(rows), rows["bought"]), 50)

    @staticmethod
    def _X(rows: pd.DataFrame) -> np.ndarray:
        town = rows["town"].map({"hill": 0.0, "lake": 1.0, "port": 2.0})
        return np.column_stack([rows[["age", "sum_eur", "visits"]].to_numpy(float), town])

    def scores(self, rows: pd.DataFrame) -> np.ndarray:
        found = np.asarray(self.booster.predict(self._X(rows)))
        return self._rng.permutation(found) if self.broken else found


class Loop:
    """The loop in a world; `run` turns it and keeps a record."""

    def __init__(self, world: World):
        self.world, self.statement, self.record = world, world.statement, Record()
        self.champion = self._trained(-HISTORY, -HELD, "model-0")
        self.reference = self._reference(self.champion, -HELD, 0)
        self.since, self.canary_since = 0, 0
        self.canary: Model | None = None
        self.history: list[dict[str, Any]] = []
        self.waiting: list[tuple[int, Answers, Reference]] = []
        self.begun: list[dt.datetime] = []
        self._profile = feed_checks.profile(self._ibis(world.between(-HELD, 0)), self._spec)

    @property
    def _spec(self):
        return self.statement.tables["rows"]

    def _ibis(self, frame: pd.DataFrame):
        import ibis

        return ibis.memtable(frame[["id", "at", *NAMES, "bought"]])

    def _trained(self, first: int, last: int, name: str, broken: bool = False) -> Model:
        return Model(self.world.between(first, last), self.world.seed, name, last, broken)

    def _reference(self, model: Model, first: int, last: int) -> Reference:
        rows = self.world.between(first, last)
        y, score = rows["bought"].to_numpy(float), model.scores(rows)
        found = metrics.estimate(self.statement.success.metric, y, score)
        figure = MetricValue(found.value, (found.high - found.low) / (2 * 1.96), len(rows))
        return Reference(model.name, rows[NAMES], figure, score, y)

    def run(self, periods: int) -> Record:
        for number in range(periods):
            self.turn(number)
        return self.record

    def turn(self, number: int) -> None:
        """One period: answers, monitoring, canary, decision."""
        product = self._observed(number)
        self.history.append(product)
        self._judged(number)
        decision = retraining.decide(self.statement, self.history, self._facts(number))
        self.record.actions.append(decision.action)
        self.record.health.append(product["health"])
        self.record.said.append(product["said"])
        if decision.action == "retrain":
            self.record.retrained.append(number)
            self._retrain(number)

    def _observed(self, number: int) -> dict[str, Any]:
        rows, now = self.world.period(number), self.world.day(number + 1)
        good, score = rows, self.champion.scores(rows)
        log = pd.DataFrame({"at": good["at"], "entity": good["id"], "role": "champion", "ms": 1.0, "error": None})
        span = (self.world.day(number), now)
        answers = Answers(*span, self.champion.name, log, good[NAMES], score, np.full(len(good), np.nan))
        known = Answers(*span, self.champion.name, log, good[NAMES], score, good["bought"].to_numpy(float))
        self.record.quality.append(metrics.measure("roc_auc", rows["truth"].to_numpy(float), score))
        self.waiting.append((number, known, self.reference))
        delay = self.statement.time.label_delay_days // 7
        due = [one for one in self.waiting if one[0] + 1 + delay <= number + 1]
        self.waiting = [one for one in self.waiting if one not in due]
        findings = feed_checks.compare_profiles(
            "rows", self._profile, feed_checks.profile(self._ibis(rows), self._spec), 7.0
        )
        inputs = Inputs(now, self.world.day(self.since), self.reference, answers, [(one, its) for _, one, its in due], self.history,
                        {"findings": findings, "rows": {"rows": len(rows)}})  # fmt: skip
        return monitoring.observe(self.statement, inputs)

    def _facts(self, number: int) -> retraining.Facts:
        delay = self.statement.time.label_delay_days // 7
        new = sum(len(self.world.period(i)) for i in range(self.champion.until, number + 1 - delay))
        return retraining.Facts(
            now=self.world.day(number + 1), champion=self.champion.name, since=self.world.day(self.since), begun=tuple(self.begun),
            canary=self.canary.name if self.canary else None, canary_until=self.world.day(self.canary_since + 4).isoformat() if self.canary else "",
            new_labelled_rows=new, rate=20_000.0,
        )  # fmt: skip

    def _retrain(self, number: int) -> None:
        """A challenger with a new window; the gate's own test against the champion, on the same holdout rows, paired."""
        end = number + 1 - self.statement.time.label_delay_days // 7
        self.begun.append(self.world.day(number + 1))
        broken = self.world.on("bad canary", number)
        made = self._trained(max(-HISTORY, end - HELD - 8), end - HELD, f"model-{number + 1}")
        held = self.world.between(max(end - HELD, self.champion.until), end)
        gain = self._gain(made, held)
        figures = {
            "champion": {"digest": self.champion.name, "said": "", "n": len(held), "gain": monitoring_plain(gain)}
        }
        if validation_gate.better_than_champion(figures, self.statement).passed is not True:
            self.record.refused.append(number)
            return
        made.broken = broken
        self.canary, self.canary_since = made, number + 1

    def _gain(self, model: Model, rows: pd.DataFrame) -> metrics.Estimate:
        y = rows["bought"].to_numpy(float)
        return metrics.compare(self.statement.success.metric, y, model.scores(rows), self.champion.scores(rows))

    def _judged(self, number: int) -> None:
        if self.canary is None:
            return
        policy, delay = self.statement.canary, self.statement.time.label_delay_days // 7
        start, now = self.world.day(self.canary_since), self.world.day(number + 1)
        terms = canary.Terms(
            start, start + dt.timedelta(days=policy.deadline_days), policy.min_rows, policy.max_loss, 0.95, 100.0
        )
        answered = sum(len(self.world.period(i)) for i in range(self.canary_since, number + 1)) * policy.share
        last = number + 1 - delay
        gain = (
            self._gain(self.canary, self.world.between(self.canary_since, last)) if last > self.canary_since else None
        )
        trial = canary.decide(terms, canary.CanaryUsage(int(answered), 0, 1.0), gain, None, now)
        if trial.outcome is None:
            return
        if trial.outcome == "promoted":
            self.record.promoted.append(number)
            ahead = self.world.between(number + 1, number + 4)
            of = lambda model: metrics.measure("roc_auc", ahead["truth"].to_numpy(float), model.scores(ahead))
            self.record.gains.append(of(self.canary) - of(self.champion))
            first = max(self.canary.until, self.canary_since - delay - HELD)
            self.champion, self.since = self.canary, number + 1
            self.reference = self._reference(self.champion, first, first + HELD)
            self._profile = feed_checks.profile(self._ibis(self.world.between(first, first + HELD)), self._spec)
        else:
            self.record.rolled_back.append(number)
        self.canary = None


def monitoring_plain(e: metrics.Estimate) -> dict[str, Any]:
    """value, low, high, n of an estimate."""
    return {"value": e.value, "low": e.low, "high": e.high, "n": e.n}


def play(seed: int, happenings: Sequence[Happening] = (), periods: int = 16, rows: int = ROWS) -> Record:
    """The record of one history."""
    return Loop(World(seed, happenings, rows)).run(periods)
