"""A small world whose truth is known, in which the loop's decisions can be tried: no notebook, no disk, seconds a history.

Rows come each period; a model answers; labels come later. The same functions decide as in production: `feed.compare`,
`monitoring.observe`, `retraining.decide`, `lookback.look_back`, the gate's tests of the target and against the champion,
`standing.stand_in`, and `canary.decide`. What the world does when is said by `Happening`s.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from mlloop import deployment, evaluation, monitoring, retraining, validation_gate
from mlloop.comparison import baselines, folds, holdout, lookback
from mlloop.comparison.baselines import Prediction
from mlloop.core import metrics
from mlloop.data import feed_checks
from mlloop.models import candidates
from mlloop.monitors import standing
from mlloop.monitors.estimation import MetricValue
from mlloop.monitors.evidence import Answers, Inputs, Other, Reference
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

    `quality` and `never` are the truth of what was answered, and of what the first model would have answered; `gains` says
    of each promotion how much better the new model is in truth, on rows to come.
    """

    actions: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    retrained: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    promoted: list[int] = field(default_factory=list)
    rolled_back: list[int] = field(default_factory=list)
    stood_in: list[int] = field(default_factory=list)
    fell_back: list[int] = field(default_factory=list)
    never: list[float] = field(default_factory=list)
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


RECIPE = {"name": "lightgbm", "params": {"n_estimators": 50, "num_leaves": 15, "learning_rate": 0.15, "min_child_samples": 150, "reg_lambda": 0.0,
                                          "subsample": 1.0, "colsample_bytree": 1.0}}  # fmt: skip
"""A boosted tree that does not learn what is rare: leaves hold at least 150 rows."""
NEWEST, JUDGED = HELD + 8, HELD  # periods that a retraining considers, and the newest of them, on which it is judged


class Model:
    """A fitted recipe with the reference that its gate judged it on.

    Attributes
    ----------
    until : int
        The first period of which it has learnt no row.
    learnt : int or None
        Rows that it learnt from, where its past was cut short.
    broken : bool
        Its answers in production are shuffled.
    """

    def __init__(self, fitted: Any, seed: int, name: str, until: int, learnt: int | None = None):
        self.fitted, self.name, self.until, self.learnt, self.broken = fitted, name, until, learnt, False
        self._rng = np.random.default_rng(seed)
        self.reference: Reference | None = None

    def scores(self, rows: pd.DataFrame) -> np.ndarray:
        found = baselines.predict_scores(self.fitted, rows[NAMES])
        return self._rng.permutation(found) if self.broken else found


@dataclass
class Judgement:
    """A challenger with what its gate read: rows, predictions of models that had not learnt them, the gain over the champion."""

    model: Model
    rows: pd.DataFrame
    score: np.ndarray
    main: metrics.Estimate
    figures: dict[str, Any]
    evidence: list[Any]

    @property
    def verdict(self) -> bool | None:
        passed = [check["passed"] for check in self.evidence]
        return False if False in passed else None if None in passed else True


class Loop:
    """The loop in a world; `run` turns it and keeps a record.

    As in production a retraining compares windows and judges the recipe forward in time, a canary is judged on all rows
    whose labels it has not learnt, and an earlier champion takes over again where labels show that it is surely better.
    Two things are left out: the rule of the statement never answers, and no model of the newest rows is compared in each period.
    """

    def __init__(self, world: World):
        self.world, self.statement, self.record = world, world.statement, Record()
        first = self._past(-HISTORY, -HELD)
        self.champion = Model(self._fit(first, lookback.ALL, None), world.seed, "model-0", -HELD)
        held = world.between(-HELD, 0)
        self.champion.reference = self._reference("model-0", held, self.champion.scores(held))
        self.models = {"model-0": self.champion}
        self.former: list[str] = []
        self.since, self.canary_since = 0, 0
        self.canary: Model | None = None
        self.terms: dict[str, Any] = {}
        self.failed: list[dt.datetime] = []
        self.fallen, self.was_rolled_back = False, False
        self.history: list[dict[str, Any]] = []
        self.waiting: list[tuple[int, Answers, Reference]] = []
        self.begun: list[dt.datetime] = []
        self.attempt: dict[str, Any] | None = None
        self._profile = feed_checks.profile(self._ibis(held), self._spec)

    @property
    def _spec(self):
        return self.statement.tables["rows"]

    @property
    def delay(self) -> int:
        """Periods until a label comes."""
        return self.statement.time.label_delay_days // 7

    def _ibis(self, frame: pd.DataFrame):
        import ibis

        return ibis.memtable(frame[["id", "at", *NAMES, "bought"]])

    def _past(self, first: int, last: int) -> lookback.RowsPast:
        rows = self.world.between(first, last)
        y = rows["bought"].to_numpy(int)
        return lookback.RowsPast(self.statement, rows, NAMES, y, np.zeros(len(rows), bool))

    def _fit(self, past: lookback.RowsPast, window: lookback.Lookback, until: Any) -> Any:
        model = candidates.build("lightgbm", self.statement.task, self.world.seed, RECIPE["params"])
        return lookback.fitted(model, past.fit_data(window, until, seed=self.world.seed), window, self.world.seed)

    def _reference(self, name: str, rows: pd.DataFrame, score: np.ndarray) -> Reference:
        y = rows["bought"].to_numpy(float)
        found = metrics.estimate(self.statement.success.metric, y, score)
        figure = MetricValue(found.value, (found.high - found.low) / (2 * 1.96), len(rows))
        return Reference(name, rows[NAMES], figure, score, y)

    def run(self, periods: int) -> Record:
        for number in range(periods):
            self.turn(number)
        return self.record

    def turn(self, number: int) -> None:
        """One period: answers, monitoring, who answers, canary, decision."""
        product = self._observed(number)
        self.history.append(product)
        self._stood_in(number)
        self._judged(number)
        facts = self._facts(number)
        decision = retraining.decide(self.statement, self.history, facts)
        self.record.actions.append(decision.action)
        self.record.health.append(product["health"])
        self.record.said.append(product["said"])
        if decision.action == "retrain":
            self.record.retrained.append(number)
            self._retrain(number, decision.has_fallen)

    def _observed(self, number: int) -> dict[str, Any]:
        rows, now = self.world.period(number), self.world.day(number + 1)
        score = self.champion.scores(rows)
        log = pd.DataFrame({"at": rows["at"], "entity": rows["id"], "role": "champion", "ms": 1.0, "error": None})
        span, reference = (self.world.day(number), now), self.champion.reference
        former = [Other(name, name, "former", self.models[name].scores(rows)) for name in self.former[-2:]]
        truth = rows["bought"].to_numpy(float)
        answers = Answers(*span, self.champion.name, log, rows[NAMES], score, np.full(len(rows), np.nan))
        known = Answers(*span, self.champion.name, log, rows[NAMES], score, truth, others=former)
        self._measured(rows, score)
        self.waiting.append((number, known, reference))
        due = [one for one in self.waiting if one[0] + 1 + self.delay <= number + 1]
        self.waiting = [one for one in self.waiting if one not in due]
        due = [(self._with_newer_champion(asked, number), its) for _, asked, its in due]
        findings = feed_checks.compare_profiles(
            "rows", self._profile, feed_checks.profile(self._ibis(rows), self._spec), 7.0
        )
        inputs = Inputs(now, self.world.day(self.since), reference, answers, due, self.history,
                        {"findings": findings, "rows": {"rows": len(rows)}})  # fmt: skip
        return monitoring.observe(self.statement, inputs)

    def _measured(self, rows: pd.DataFrame, score: np.ndarray) -> None:
        """Keep how good the answers of a period were in truth: those of the canary for its share, else the champion's."""
        truth, given = rows["truth"].to_numpy(float), score
        if self.canary is not None:
            is_canary = np.random.default_rng(len(self.history)).random(len(rows)) < self.terms["share"]
            given = np.where(is_canary, self.canary.scores(rows), score)
        measure = lambda answered: metrics.measure("roc_auc", truth, answered)
        self.record.quality.append(measure(given))
        self.record.never.append(measure(self.models["model-0"].scores(rows)))

    def _with_newer_champion(self, asked: Answers, number: int) -> Answers:
        """A period that its predecessor answered, with what the champion would have predicted."""
        if asked.model == self.champion.name or any(other.model == self.champion.name for other in asked.others):
            return asked
        period = self.world.period(number - self.delay)
        own = Other(self.champion.name, self.champion.name, "former", self.champion.scores(period))
        return replace(asked, others=[*asked.others, own])

    def _stood_in(self, number: int) -> None:
        """An earlier champion answers again where labels show that it is surely better."""
        since, unlearnt = self.world.day(self.since).isoformat(), self.world.day(self.champion.until).isoformat()
        better = standing.stand_in(self.statement, self.history, self.champion.name, since, unlearnt)
        if better is not None and better.model in self.models:
            self.record.fell_back.append(number)
            self._put(self.models[better.model], number)

    def _put(self, model: Model, number: int) -> None:
        """`model` answers from the next period on."""
        self.former = [*(name for name in self.former if name != model.name), self.champion.name]
        self.champion, self.since, self.was_rolled_back, self.failed = model, number + 1, False, []
        self.models[model.name] = model

    def _facts(self, number: int) -> retraining.Facts:
        rows_since = lambda first: sum(len(self.world.period(i)) for i in range(first, number + 1 - self.delay))
        attempt = self.attempt and {**self.attempt, "new": rows_since(self.attempt["end"])}
        is_proven = self.fallen and standing.has_met_target(self.statement, self.history, self.champion.name)
        return retraining.Facts(
            now=self.world.day(number + 1), champion=self.champion.name, since=self.world.day(self.since), begun=tuple(self.begun),
            canary=self.canary.name if self.canary else None, canary_until=self.terms["deadline"] if self.canary else "",
            new_labelled_rows=rows_since(self.champion.until), learnt_rows=self.champion.learnt, attempt=attempt,
            fallen="challenger" if self.fallen and not is_proven else None,
            refused=tuple(self.world.day(refused + 1) for refused in self.record.refused), failed=tuple(self.failed), rate=20_000.0,
        )  # fmt: skip

    def _retrain(self, number: int, has_fallen: bool) -> None:
        """A challenger with a window of its own; the gate's tests of the target and against the champion."""
        self.begun.append(self.world.day(number + 1))
        judged = self._challenger(number)
        self.attempt = self._attempted(judged.model, number)
        if judged.verdict is not True:
            self.record.refused.append(number)
            if standing.best_after_no(judged.figures, judged.evidence, False) == "challenger":
                self.record.stood_in.append(number)
                self._put(judged.model, number)
                self.fallen = True
            return
        self.attempt["outcome"] = "canary"
        judged.model.broken = self.world.on("bad canary", number)
        self.canary, self.canary_since = judged.model, number + 1
        start, has_fallen = self.world.day(number + 1), has_fallen and not self.was_rolled_back
        self.terms = deployment.canary_details(self.statement, judged.evidence, has_fallen, start)

    def _attempted(self, model: Model, number: int) -> dict[str, Any]:
        """What the next attempt is measured against: the labelled rows since the champion became worse, or those learnt."""
        end = number + 1 - self.delay
        since = retraining.worse_since(self.statement, self.history, self.champion.name)
        first = (dt.datetime.fromisoformat(since) - self.world.start).days // 7 if since else -HISTORY
        rows = sum(len(self.world.period(i)) for i in range(first, end))
        rows = min(rows, model.learnt) if model.learnt is not None else rows
        at = self.world.day(number + 1).isoformat()
        return {"until": "", "at": at, "rows": rows, "n": rows, "gap": None, "se": None, "end": end}

    def _challenger(self, number: int) -> Judgement:
        """The recipe refitted to everything labelled, and what models of fewer rows showed of it."""
        end = number + 1 - self.delay
        past = self._past(max(-HISTORY, end - NEWEST), end)
        windows = {"holdout_from": self.world.day(end - JUDGED), "holdout_until": self.world.day(end)}
        choice = lookback.look_back(past, RECIPE, windows, self.world.seed)
        at, scores, numbers = [], [], []
        for number_of_block, block in enumerate(choice.blocks):
            models = [self._fit(past, window, block.learnt_until) for window in choice.halves]
            positions = past.positions_in(block)
            predictions = [baselines.predict_scores(model, past.rows[NAMES].iloc[positions]) for model in models]
            at.append(positions)
            numbers.append(np.full(len(positions), number_of_block))
            scores.append(np.where(past.halves(positions), predictions[1], predictions[0]))
        rows, score = past.rows.iloc[np.concatenate(at)].reset_index(drop=True), np.concatenate(scores)
        learnt = None if choice.chosen.kind == "all" else round(lookback.effective(past.before(None, choice.chosen)[1]))
        model = Model(self._fit(past, choice.chosen, None), self.world.seed, f"model-{number + 1}", end, learnt)
        model.reference = self._reference(model.name, rows, score)
        return self._gate(model, rows, score, np.concatenate(numbers), choice.detected)

    def _gate(
        self, model: Model, rows: pd.DataFrame, score: np.ndarray, block: np.ndarray, detected: pd.Timestamp | None
    ) -> Judgement:
        name, y = self.statement.success.metric, rows["bought"].to_numpy(float)
        main = metrics.estimate(name, y, score)
        since = max(filter(None, (pd.Timestamp(self.world.day(self.champion.until)), detected)))
        is_new = (rows["at"] >= since).to_numpy()
        beside = holdout.Champion(self.champion.name, None, None, self.champion.learnt, model.learnt)
        over_rule = metrics.compare(name, y, score, np.ones(len(y)))
        theirs = self.champion.scores(rows)
        gain = metrics.compare(name, y[is_new], score[is_new], theirs[is_new])
        scored = lambda values: Prediction(values[is_new], 0.5, np.zeros(is_new.sum()))
        both = {holdout.MODEL.name: scored(score), holdout.CHAMPION.name: scored(theirs)}
        fold = folds.RowsFold(y[is_new], both, None, name, self.statement.money)
        newest = evaluation.newest_gain(holdout.Held([], fold, rows, rows, block=block[is_new]))
        figures = {
            "main": monitoring_plain(main), "contenders": [{"kind": "rule", "gain": monitoring_plain(over_rule)}],
            "champion": {"digest": self.champion.name, "said": "", "n": int(is_new.sum()), "gain": monitoring_plain(gain), "newest": newest,
                         "follow_up": holdout.is_follow_up(beside)},
        }  # fmt: skip
        checks = [
            validation_gate.threshold_met(figures, self.statement),
            validation_gate.better_than_champion(figures, self.statement),
        ]
        return Judgement(model, rows, score, main, figures, [check.evidence() for check in checks])

    def _gain(self, model: Model, rows: pd.DataFrame) -> metrics.Estimate:
        y = rows["bought"].to_numpy(float)
        return metrics.compare(self.statement.success.metric, y, model.scores(rows), self.champion.scores(rows))

    def _judged(self, number: int) -> None:
        if self.canary is None:
            return
        terms, now = deployment.canary_terms(self.statement, self.terms), self.world.day(number + 1)
        answered = sum(len(self.world.period(i)) for i in range(self.canary_since, number + 1)) * self.terms["share"]
        first, last = max(self.canary.until, self.canary_since - self.delay), number + 1 - self.delay
        gain = self._gain(self.canary, self.world.between(first, last)) if last > first else None
        trial = canary.decide(terms, canary.CanaryUsage(int(answered), 0, 1.0), gain, None, now)
        if trial.outcome is None:
            return
        if trial.outcome == "promoted":
            self.record.promoted.append(number)
            ahead = self.world.between(number + 1, number + 4)
            of = lambda model: metrics.measure("roc_auc", ahead["truth"].to_numpy(float), model.scores(ahead))
            self.record.gains.append(of(self.canary) - of(self.champion))
            held = self.world.between(self.canary.until - JUDGED, self.canary.until)
            self._profile = feed_checks.profile(self._ibis(held), self._spec)
            self.fallen, self.attempt = False, None
            self._put(self.canary, number)
        else:
            self.record.rolled_back.append(number)
            self.was_rolled_back = True
            if canary.has_failed(trial.evidence):
                self.failed.append(self.begun[-1])
        self.canary = None


def monitoring_plain(e: metrics.Estimate) -> dict[str, Any]:
    """value, low, high, n of an estimate."""
    return {"value": e.value, "low": e.low, "high": e.high, "n": e.n}


def play(seed: int, happenings: Sequence[Happening] = (), periods: int = 16, rows: int = ROWS) -> Record:
    """The record of one history."""
    return Loop(World(seed, happenings, rows)).run(periods)
