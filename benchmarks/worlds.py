"""Worlds with a known truth, turned by the real commands: how much a loop loses, and how soon it is right again.

    python benchmarks/worlds.py --worlds quiet,abrupt --seeds 10 --rows 600 --jobs 2 --json worlds.jsonl

Each history is a project: `mlloop new` from a folder of weekly files, `mlloop run`, then later files arrive and
`mlloop loop` turns every week. Nothing is shortened: gates, trials, delays and costs are those of production. What is
drawn is drawn from a seed, and the probability of every row is known, so worth is counted in expectation over labels.

The oracle decides by the true probability. Regret is what a policy is worth less than the oracle, its retrainings paid.
Beside the loop stand, on the same rows and without gate or trial: the first model for ever, a model for every period, and
for tables the best of 15 fixed schedules (every 1, 2, 4, 8 or 13 periods on everything, the newest 12 or the newest 6 periods),
chosen afterwards, which nobody could know before. The shop is `problems/shop.yaml` with drawn seeds, counted by what was
bought; beside it stand the schedules of `mlloop loop`, and its oracle shows each customer what they like best that day.

A line of JSON is kept for each history, with the commit it was made at; a history that is in the file is not made
again. Histories of one seed share their past, so `new` and `run` are made once for all worlds of a seed.
"""

import argparse
import datetime as dt
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pandas as pd
import yaml

WEEK = dt.timedelta(days=7)
START = dt.datetime(2024, 1, 1)
PAST, TURNS = 30, 24  # periods before the first turn, and turns where --turns says nothing else
STRIDES, WINDOWS = (1, 2, 4, 8, 13), (None, 12, 6)
MONEY = {"currency": "EUR", "true_positive": 60.0, "false_positive": -20.0, "false_negative": -20.0, "true_negative": 0.0,
         "ml_per_period": 50.0, "per_retraining": 150.0, "period_days": 7}  # fmt: skip
PER_UNIT = 4.0  # EUR an absolute unit of error costs, in regression
NOISE = 6.0  # standard deviation of the target around its mean, in regression
HEALED = 1 / 3  # of what never retraining loses in that period, beyond what it lost before the change

WORLDS = {
    "quiet": "nothing changes",
    "abrupt": "the causes change for good in one period",
    "gradual": "the causes change for good over eight periods, row by row",
    "recurring": "the causes change, change back after six periods, and change again after six more",
    "transient": "for two periods the causes are others, and then they are as they were",
    "harmless": "customers become others, where the model knows them",
    "harmful": "customers become those whom the model hardly met",
    "base rate": "the outcome becomes commoner at every level of the inputs",
    "wrong labels": "for three periods four labels of ten are wrong; the causes stay",
    "feed fault": "for three periods one input arrives in another unit",
    "stuck input": "for three periods one input repeats one value",
    "empty input": "for three periods one input is missing",
    "new category": "a third of the rows have a plan that did not exist, with causes of its own",
    "new market": "rows of a region that did not exist, half as many again, with causes of its own",
    "slow fade": "the causes drift a little every period, to the end",
}
LASTING = ("abrupt", "gradual", "harmful", "base rate", "new category", "new market", "slow fade")
"""Worlds in which the change may hurt for good."""
FAULTS = ("feed fault", "stuck input", "empty input")
NUMBERS = ("tenure", "spend", "calls", "age")
PLANS, REGIONS = ("basic", "plus", "pro"), ("north", "east", "south", "west")


# ------------------------------------------------------------------------------------------------ the worlds


class Causes:
    """What the outcome follows from: weights of the standardised inputs and of plan and region, drawn from a seed."""

    def __init__(self, rng: np.random.Generator):
        self.weights = rng.permutation([1.0, -0.8, 0.5, -0.4]) * rng.choice([-1, 1], 4)
        self.plan = dict(zip(PLANS, rng.permutation([-0.7, 0.0, 0.7]), strict=True))
        self.region = dict(zip(REGIONS, rng.normal(0, 0.25, 4), strict=True))
        self.together = rng.choice([-0.6, 0.6])
        self.level = -0.6

    def turned(self, rng: np.random.Generator) -> "Causes":
        """Others: the strongest weight changes sign, so does what two inputs do together, and plans change places."""
        other = Causes(rng)
        strongest = np.argmax(np.abs(self.weights))
        other.weights = np.where(np.arange(4) == strongest, -self.weights, self.weights)
        other.plan = dict(zip(PLANS, np.roll(list(self.plan.values()), 1), strict=True))
        other.region, other.together, other.level = self.region, -self.together, self.level
        return other

    def between(self, other: "Causes", share: float) -> "Causes":
        """A mixture of the weights."""
        made = Causes(np.random.default_rng(0))
        mixed = lambda a, b: (1 - share) * a + share * b
        made.weights, made.together = mixed(self.weights, other.weights), mixed(self.together, other.together)
        made.plan = {k: mixed(self.plan[k], other.plan[k]) for k in PLANS}
        made.region, made.level = self.region, mixed(self.level, other.level)
        return made

    def logit(self, rows: pd.DataFrame) -> np.ndarray:
        z = np.column_stack(
            [(rows["tenure"] - 24) / 18, (rows["spend"] - 50) / 30, (rows["calls"] - 2) / 1.5, (rows["age"] - 45) / 14]
        )
        found = z @ self.weights + self.together * z[:, 0] * z[:, 1]
        found += rows["plan"].map(self.plan).fillna(0).to_numpy() + rows["region"].map(self.region).fillna(0).to_numpy()
        old = (rows["age"] > 66).to_numpy()  # rare at first: there the strongest input works the other way round
        strongest = int(np.argmax(np.abs(self.weights)))
        return found - 2 * old * z[:, strongest] * self.weights[strongest] + self.level


class World:
    """Rows of each period with their truth; everything before the change is the same in every world of a seed.

    Attributes
    ----------
    change : int
        The first period, counted from the first turn, in which something is different.
    """

    def __init__(self, name: str, kind: str, seed: int, rows: int, turns: int = TURNS):
        self.name, self.kind, self.seed, self.rows, self.turns = name, kind, seed, rows, turns
        rng = np.random.default_rng([seed, 1])
        self.change = int(rng.integers(2, 7))
        self.before = Causes(rng)
        self.after, self.apart = self.before.turned(rng), self.before.turned(np.random.default_rng([seed, 2]))

    def share(self, period: int) -> float:
        """How much of the change is there in a period, 0 to 1."""
        since = period - self.change
        if self.name == "quiet" or since < 0:
            return 0.0
        if self.name == "gradual":
            return min(1.0, (since + 1) / 8)
        if self.name == "recurring":
            return float(since // 6 != 1)
        if self.name == "transient":
            return float(since < 2)
        if self.name in ("wrong labels", *FAULTS):
            return float(since < 3)
        if self.name == "slow fade":
            return 0.7 * (since + 1) / (self.turns - self.change)
        return 1.0

    def period(self, number: int) -> pd.DataFrame:
        """The rows of a period (negative: before the first turn) as they arrive, with `truth`: probability or mean."""
        on = self.share(number)
        rows = self._inputs(number, on)
        rng = np.random.default_rng([self.seed, 5, number + PAST])
        chance, noise, flips, picks = (rng.random(2 * self.rows) for _ in range(4))
        n = len(rows)
        logit = self._logit(rows, on, picks[:n])
        rows["truth"] = 1 / (1 + np.exp(-logit)) if self.kind == "classification" else 60 + 12 * logit
        if self.kind == "classification":
            label = chance[:n] < rows["truth"]
            wrong = (flips[:n] < 0.4) if self.name == "wrong labels" and on else np.zeros(n, bool)
            rows["churned"] = np.where(wrong, ~label, label).astype(int)
        else:
            from scipy.stats import norm

            y = rows["truth"] + NOISE * norm.ppf(np.clip(noise[:n], 1e-9, 1 - 1e-9))
            wrong = (flips[:n] < 0.4) if self.name == "wrong labels" and on else np.zeros(n, bool)
            rows["value"] = np.where(wrong, 120 - y, y).round(2)
        if self.name == "feed fault" and on:
            rows["spend"] = (rows["spend"] * 100).round(2)  # cents
        if self.name in ("stuck input", "empty input") and on:
            rows["spend"] = 50.0 if self.name == "stuck input" else np.nan
        return rows

    def _logit(self, rows: pd.DataFrame, on: float, pick: np.ndarray) -> np.ndarray:
        old, new = self.before.logit(rows), self.after.logit(rows)
        if self.name in ("abrupt", "recurring", "transient", "gradual"):
            if self.kind == "regression":
                return (1 - on) * old + on * new
            p = (1 - on) / (1 + np.exp(-old)) + on / (1 + np.exp(-new))
            return np.log(p / (1 - p))
        if self.name == "slow fade":
            return self.before.between(self.after, on).logit(rows)
        if self.name == "base rate":
            return old + 1.3 * on
        if self.name == "new category":
            return np.where(rows["plan"] == "max", self.apart.logit(rows) + 0.8, old)
        if self.name == "new market":
            return np.where(rows["region"] == "island", self.apart.logit(rows) + 0.5, old)
        return old

    def _inputs(self, number: int, on: float) -> pd.DataFrame:
        rng = np.random.default_rng([self.seed, 3, number + PAST])
        n = self.rows
        begin = START + WEEK * (number + PAST)
        rows = pd.DataFrame({
            "id": [f"{number + PAST:02d}-{i:05d}" for i in range(n)],
            "at": pd.Timestamp(begin) + pd.to_timedelta(np.sort(rng.integers(0, 7 * 86_400, n)), "s"),
            "tenure": np.clip(rng.gamma(1.8, 13.5, n), 0, 120).round(1), "spend": np.clip(rng.gamma(3.2, 15.6, n), 1, 400).round(2),
            "calls": rng.poisson(2, n), "age": np.clip(rng.normal(45, 14, n), 18, 66).round(0),
            "plan": rng.choice(PLANS, n, p=[0.5, 0.3, 0.2]), "region": rng.choice(REGIONS, n),
        })  # fmt: skip
        old = rng.random(n) < 0.003
        rows.loc[old, "age"] = rng.integers(67, 86, int(old.sum()))
        if not on:
            return rows
        other = np.random.default_rng([self.seed, 4, number + PAST])
        if self.name == "harmless":
            rows["plan"] = other.choice(PLANS, n, p=[0.2, 0.3, 0.5])
            rows["calls"] = other.poisson(2.6, n)
        if self.name == "harmful":
            old = other.random(n) < 0.5
            rows.loc[old, "age"] = other.integers(67, 86, int(old.sum()))
        if self.name == "new category":
            rows.loc[other.random(n) < 0.33, "plan"] = "max"
        if self.name == "new market":
            more = rows.sample(n // 2, random_state=number + PAST).reset_index(drop=True)
            more["id"], more["region"] = [f"{one}-i" for one in more["id"]], "island"
            rows = pd.concat([rows, more]).sort_values(["at", "id"], ignore_index=True)
        return rows

    def write(self, folder: Path, first: int, last: int) -> None:
        """A CSV for each of the periods [first, last), named by its last day, without the truth."""
        for number in range(first, last):
            day = START + WEEK * (number + PAST + 1) - dt.timedelta(days=1)
            self.period(number).drop(columns="truth").to_csv(folder / f"rows-{day:%Y-%m-%d}.csv", index=False)

    @property
    def target(self) -> str:
        return "churned" if self.kind == "classification" else "value"


# ------------------------------------------------------------------------------------------------ turning one


def mlloop(root: Path, *arguments: str) -> str:
    """Run a command in a project; its output.

    Raises
    ------
    RuntimeError
        It failed.
    """
    done = subprocess.run([sys.executable, "-m", "mlloop", *arguments], cwd=root, capture_output=True, text=True,
                          env={**os.environ, "COLUMNS": "200"})  # fmt: skip
    if done.returncode:
        raise RuntimeError(
            f"mlloop {' '.join(arguments)} in {root}: exit {done.returncode}: {(done.stderr or done.stdout)[-600:]}"
        )
    return done.stdout


def made(root: Path, kind: str, seed: int, rows: int) -> float:
    """Make the project in `root` from its past and run it; seconds."""
    began = time.monotonic()
    world = World("quiet", kind, seed, rows)
    feed = root.parent / "feed"
    feed.mkdir()
    world.write(feed, -PAST, 0)
    mlloop(root.parent, "new", str(root), "--data", str(feed), "--target", world.target, "--time", "at", "--id", "id")
    file = root / "problems" / f"{root.name}.yaml"
    statement = yaml.safe_load(file.read_text(encoding="utf-8"))
    statement["time"] |= {"label_delay_days": 7, "as_of": (START + WEEK * PAST).date()}
    statement["retrain"] |= {"every_days": 7, "cooldown_days": 14, "min_labelled_rows": min(500, rows)}
    statement["canary"] |= {"deadline_days": 14, "min_rows": min(100, rows // 5)}
    costs = {key: MONEY[key] for key in ("currency", "ml_per_period", "per_retraining", "period_days")} | {
        "per_unit_error": PER_UNIT
    }
    statement["money"] = {**(MONEY if kind == "classification" else costs), "decisions_per_period": rows}
    if kind == "classification":
        statement["success"] |= {"threshold": 0.62}
    statement["budget"] = {"trials": 2, "seconds": 60, "candidates": ["linear", "lightgbm"]}
    file.write_text(yaml.safe_dump(statement, sort_keys=False), encoding="utf-8")
    mlloop(root, "run")
    return time.monotonic() - began


def turned(root: Path, world: World) -> tuple[dict[str, Any], float]:
    """Let the later files arrive and turn the loop through them; what `loop --json` says, and seconds."""
    began = time.monotonic()
    world.write(root / "data", 0, world.turns)
    until = START + WEEK * (PAST + world.turns)
    found = json.loads(mlloop(root, "loop", "--until", f"{until:%Y-%m-%d}", "--no-always", "--no-pages", "--json"))
    return found, time.monotonic() - began


# ------------------------------------------------------------------------------------------------ judging one


def worth(world: World, truth: np.ndarray, score: np.ndarray) -> np.ndarray:
    """What each row's decision is worth in expectation over its label; no answer is no action, or the mean predicted."""
    if world.kind == "regression":
        from scipy.stats import norm

        off = np.where(np.isnan(score), 60.0, score) - truth
        return -PER_UNIT * (
            NOISE * math.sqrt(2 / math.pi) * np.exp(-(off**2) / (2 * NOISE**2)) + off * (1 - 2 * norm.cdf(-off / NOISE))
        )
    acts = np.nan_to_num(score, nan=-np.inf) >= threshold()
    gained = truth * MONEY["true_positive"] + (1 - truth) * MONEY["false_positive"]
    return np.where(acts, gained, truth * MONEY["false_negative"] + (1 - truth) * MONEY["true_negative"])


def threshold() -> float:
    """Act from this probability on."""
    for_, against = MONEY["true_positive"] - MONEY["false_negative"], MONEY["false_positive"] - MONEY["true_negative"]
    return -against / (for_ - against)


class Judge:
    """Counts a turned history by the truth, from the prediction log and the releases of its ledger."""

    def __init__(self, root: Path, world: World):
        from mlloop.pipeline import runner
        from mlloop.store.ledger import Ledger

        self.world = world
        self.settings, self.plan = runner.project(None, root)
        self.ledger = Ledger.open(self.settings)
        self.periods = [world.period(number) for number in range(world.turns)]
        self.cost = MONEY["per_retraining"]

    def of(self, scores: Callable[[int], np.ndarray]) -> list[float]:
        """The worth of each period under scores (n_rows,) of each period."""
        return [
            float(worth(self.world, one["truth"].to_numpy(), scores(number)).sum())
            for number, one in enumerate(self.periods)
        ]

    def loop(self) -> np.ndarray:
        """What was answered in production, by row: (n_rows,) for each period."""
        from mlloop.store import prediction_log

        log = prediction_log.read(
            prediction_log.folder_of(self.settings, self.plan.base), START, START + WEEK * (PAST + self.world.turns)
        )
        log = log[log["error"].isna()].drop_duplicates("entity", keep="last").set_index("entity")
        rows = self.ledger.rows(problem=self.plan.base)
        rules = {str(row.details["rule"]["model"]) for row in rows if isinstance(row.details.get("rule"), dict)}
        rules |= {str(row.model) for row in rows if row.details.get("to") == "rule"}
        score = log["score"]
        if self.world.kind == "classification":  # a rule's score is no probability: what it predicted counts
            score = score.where(~log["model"].isin(rules), (log["prediction"].astype(str) == "1").astype(float))
        return [score.reindex(one["id"]).to_numpy(float) for one in self.periods]

    def released(self, model: str) -> list[np.ndarray]:
        """What a released model would have answered in every period, as it was trained: without a later recalibration."""
        from mlloop import deployment
        from mlloop.release import releases

        release: Any = deployment.load_release(self.settings, self.ledger, self.plan.base, model, START)
        asked = [releases.rows_of(one, release.fields) for one in self.periods]
        if release.form == "rule" and self.world.kind == "classification":
            return [np.array([str(one["prediction"]) == "1" for one in release.answers(rows)], float) for rows in asked]
        return [np.asarray(release.scores(rows), float) for rows in asked]

    def champions(self) -> list[tuple[int, str]]:
        """The first period that each champion answered, and the champion, the oldest first."""
        rows = self.ledger.rows(problem=self.plan.base, kind=("promotion", "rollback", "fallback"))
        first, found = START + WEEK * PAST, []
        for row in rows:
            at = row.details.get("as_of")
            number = max(0, round((dt.datetime.fromisoformat(at) - first) / WEEK)) if at else 0
            found.append((number, str(row.model)))
        return found

    def fits(self) -> dict[tuple[int | None, int], list[np.ndarray]]:
        """window, period of fitting -> scores in every period, by the recipe of the first model on all labels that had come."""
        from mlloop import training
        from mlloop.core import storage
        from mlloop.models import candidates

        recipe = storage.read_json(self.plan.tasks["building"].products["data"])["estimator"]
        from mlloop import problem as problems

        task = problems.load(runner_file(self.settings, self.plan)).task
        names = [*NUMBERS, "plan", "region"]
        past = [self.world.period(number) for number in range(-PAST, 0)]
        every = [*past, *self.periods]
        found = {}
        for window in WINDOWS:
            for number in range(1, self.world.turns):
                last = number + PAST - 1  # labels are a period late
                learnt = pd.concat(every[max(0, last - window) if window else 0 : last], ignore_index=True)
                y = learnt[self.world.target].to_numpy()
                made = training.Material(
                    {"X": _typed(learnt[names]), "y": y}, learnt[names].head(), {"rows": len(learnt)}
                )
                model = training.fitted(candidates.from_recipe(recipe, task), made)
                ahead = [np.full(len(one), np.nan) for one in self.periods]
                for later in range(number, min(self.world.turns, number + max(STRIDES))):
                    ahead[later] = _asked(model, _typed(self.periods[later][names]))
                found[window, number] = ahead
        return found

    def judged(self) -> dict[str, Any]:
        """Worth by period of each policy, its retrainings, recovery and swaps."""
        oracle = self.of(lambda number: self.periods[number]["truth"].to_numpy())
        answered, champions = self.loop(), self.champions()
        first = self.released(champions[0][1])
        fits = self.fits()
        policies = {"loop": self.of(lambda n: answered[n]), "never": self.of(lambda n: first[n])}
        retrained = len(self.ledger.rows(problem=self.plan.base, kind="retrain", subject="retrain"))
        count = {"loop": retrained, "never": 0}
        for window in WINDOWS:
            for stride in STRIDES:
                name = f"every {stride}" + (f" on {window}" if window else "")
                at = lambda n, window=window, stride=stride: (
                    fits[window, n - n % stride][n] if n >= stride else first[n]
                )
                policies[name], count[name] = self.of(at), (self.world.turns - 1) // stride
        return {
            "oracle": oracle, "policies": policies, "retrainings": count, "change": self.world.change,
            "counts": [len(one) for one in self.periods], "unanswered": int(sum(np.isnan(one).sum() for one in answered)),
            "swaps": self.swaps(champions, oracle), "cost": self.cost,
        }  # fmt: skip

    def swaps(self, champions: list[tuple[int, str]], oracle: list[float]) -> list[dict[str, Any]]:
        """Each swap with what it gained in truth over the four periods after it, as a share of the oracle's worth."""
        found = []
        for (_, before), (number, after) in itertools.pairwise(champions):
            ahead = range(number, min(self.world.turns, number + 4))
            if not ahead:
                continue
            old, new = (self.of(self.released(model).__getitem__) for model in (before, after))
            gained = sum(new[n] - old[n] for n in ahead)
            found.append({"period": number, "gained": gained / max(1.0, abs(sum(oracle[n] for n in ahead)))})
        return found


def runner_file(settings, plan) -> Path:
    """The statement's file."""
    from mlloop.pipeline import runner

    return runner.statement_file(settings, plan)


def _typed(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(calls=rows["calls"].astype(float), age=rows["age"].astype(float))


def _asked(model, rows: pd.DataFrame) -> np.ndarray:
    return np.asarray(
        model.predict_proba(rows)[:, 1] if hasattr(model, "predict_proba") else model.predict(rows), float
    )


# ------------------------------------------------------------------------------------------------ the shop

SHOP = {"quiet": None, "abrupt": 5}
"""World -> the turn in whose first days tastes change; the shop's other changes (seasons, new goods, new customers) always happen."""


def shop_made(root: Path, seed: int, customers: int) -> float:
    """The statement that ships, with another seed and number of customers, run up to its first model; seconds."""
    began = time.monotonic()
    home = Path(__file__).parents[1]
    for name in ("pipeline.yaml", "settings.ini", "env.yaml"):
        root.mkdir(exist_ok=True)
        shutil.copy(home / name, root)
    shutil.copytree(home / "nbs", root / "nbs")
    (root / "problems").mkdir()
    statement = yaml.safe_load((home / "problems" / "shop.yaml").read_text(encoding="utf-8"))
    statement["simulator"] |= {"seed": seed, "customers": customers}
    statement["simulator"].pop("taste_change_at", None)
    (root / "problems" / "shop.yaml").write_text(yaml.safe_dump(statement, sort_keys=False), encoding="utf-8")
    mlloop(root, "run", "--problem", "shop")
    return time.monotonic() - began


def shop_turned(root: Path, name: str, turns: int) -> tuple[dict[str, Any], float, dict[str, Any]]:
    """Turn the shop's loop and count it by what was bought; the oracle shows each customer what they like best that day."""
    began = time.monotonic()
    file = root / "problems" / "shop.yaml"
    statement = yaml.safe_load(file.read_text(encoding="utf-8"))
    start = pd.Timestamp(statement["time"]["as_of"]).to_pydatetime()
    change = SHOP[name]
    if change is not None:
        statement["simulator"]["taste_change_at"] = (start + WEEK * change).date()
        file.write_text(yaml.safe_dump(statement, sort_keys=False), encoding="utf-8")
    until = f"{start + WEEK * turns:%Y-%m-%d}"
    summary = json.loads(mlloop(root, "loop", "--problem", "shop", "--until", until, "--no-pages", "--json"))
    loop_s = time.monotonic() - began
    count = {policy: total["retrainings"] for policy, total in summary["totals"].items()}
    worths = {policy: [one[policy]["worth"] for one in summary["periods"]] for policy in count}
    found = {
        "oracle": shop_oracle(root, summary), "policies": {_named(policy): worth for policy, worth in worths.items()},
        "retrainings": {_named(policy): n for policy, n in count.items()}, "change": change if change is not None else 2,
        "counts": [one["n"] for one in summary["periods"]], "unanswered": 0, "swaps": [], "cost": statement["money"]["per_retraining"],
    }  # fmt: skip
    return summary, loop_s, found


def _named(policy: str) -> str:
    return {"always": "every 1"}.get(policy, policy.replace("_", " "))


def shop_oracle(root: Path, summary: dict[str, Any]) -> list[float]:
    """What lists by the customers' true liking are worth, in the periods of `summary`."""
    from mlloop.core import metrics
    from mlloop.data import simulator
    from mlloop.loop import arrivals
    from mlloop.loop import session as sessions
    from mlloop.loop.counterfactual import Counterfactual
    from mlloop.pipeline import runner
    from mlloop.store import prediction_log

    settings, plan = runner.project("shop", root)
    moment = dt.datetime.fromisoformat
    with sessions.opened(settings, plan) as session:
        truth = simulator.truth(**session.statement.simulator)
        begins = [moment(one["since"]) for one in summary["periods"]]
        compare = Counterfactual(session, begins, moment(summary["until"]), False)
        users = pd.Index(truth.customers["customer_id"].astype(str))
        items = truth.products["product_id"].astype(str).to_numpy()
        at = {item: n for n, item in enumerate(items)}
        found = []
        for one in summary["periods"]:
            log = prediction_log.read(
                prediction_log.folder_of(settings, "shop"), moment(one["since"]), moment(one["until"])
            )
            shown = (
                log[log["items"].notna()].drop_duplicates("entity").reset_index(drop=True)[["entity", "at", "items"]]
            )
            liking = truth.liking((moment(one["since"]).date() - truth.parameters.start).days).copy()
            bought = arrivals.bought_before(compare._events(), session.statement, shown)
            lists = []
            for user, before, now in zip(shown["entity"].astype(str), bought, shown["items"], strict=True):
                if user not in users:
                    lists.append(now)
                    continue
                row = liking[users.get_loc(user)].copy()
                row[[at[item] for item in before if item in at]] = -1
                lists.append(items[np.argsort(-row)[: session.statement.task.k]].tolist())
            values = compare._metrics_of(shown.assign(items=lists))
            worth = metrics.worth_of_hits(values["hits"], session.statement.money).mean()
            found.append(float(worth * session.statement.money.decisions_per_period))
    return found


# ------------------------------------------------------------------------------------------------ many


def histories(
    kind: str, seed: int, rows: int, turns: int, names: list[str], keep: Path | None, told: Callable[[dict], None]
) -> None:
    """Turn every world of one seed; the project with its past is made once. Each world's line goes to `told`."""
    with tempfile.TemporaryDirectory(prefix="worlds-", ignore_cleanup_errors=True) as scratch:
        root, snapshot = Path(scratch, "churn"), Path(scratch, "snapshot")
        line = {"kind": kind, "seed": seed, "rows": rows, "turns_made": turns, "commit": _commit()}
        try:
            new_s = shop_made(root, seed, rows) if kind == "shop" else made(root, kind, seed, rows)
        except RuntimeError as error:
            for name in names:
                told({**line, "world": name, "failed": str(error)})
            return
        _parted(root)
        shutil.copytree(root, snapshot, symlinks=True, ignore=shutil.ignore_patterns("kernels*", "*.sock", "run.lock"))
        for number, name in enumerate(names):
            if number:
                shutil.rmtree(root, ignore_errors=True)
                shutil.copytree(snapshot, root, symlinks=True)
            try:
                if kind == "shop":
                    summary, loop_s, found = shop_turned(root, name, turns)
                else:
                    world = World(name, kind, seed, rows, turns)
                    summary, loop_s = turned(root, world)
                    found = Judge(root, world).judged()
                kept = {k: summary.get(k) for k in ("turns", "events", "totals", "phases")}
                told({**line, "world": name, **found, **kept, "new_s": round(new_s, 1), "loop_s": round(loop_s, 1)})
            except Exception as error:
                told({**line, "world": name, "failed": f"{type(error).__name__}: {error}"})
            _parted(root)
            if keep:
                shutil.copytree(root, keep / f"{name}-{kind}-{rows}-{seed}".replace(" ", "-"), symlinks=True, dirs_exist_ok=True,
                                ignore=shutil.ignore_patterns("kernels*", "*.sock", "run.lock"))  # fmt: skip


def _parted(root: Path) -> None:
    """End the warm kernels that wait for this project."""
    from mlloop.core import settings as _settings
    from mlloop.kernels import execute

    execute.stop(_settings.load(root))


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return done.stdout.strip()


def _job(given: tuple[str, int, int, int, list[str], Path | None, Path]) -> list[dict[str, Any]]:
    kind, seed, rows, turns, names, keep, file = given
    lines = []

    def told(line: dict[str, Any]) -> None:
        lines.append(line)
        with file.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")  # one write, so that a kill leaves whole lines

    histories(kind, seed, rows, turns, names, keep, told)
    return lines


def read(file: Path) -> list[dict[str, Any]]:
    """The histories kept in a file; a line cut short by a kill is left out."""
    found = []
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


# ------------------------------------------------------------------------------------------------ the figures


def regret(line: dict[str, Any], policy: str, since: int = 0) -> float:
    """EUR lost against the oracle from a period on; retrainings are paid where all periods are counted."""
    lost = sum(o - p for o, p in zip(line["oracle"][since:], line["policies"][policy][since:], strict=True))
    return lost + (line["retrainings"][policy] * line["cost"] if since == 0 else 0)


def best_fixed(line: dict[str, Any]) -> str:
    """The fixed schedule that lost least, found afterwards; never retraining is one of them."""
    return min((p for p in line["policies"] if p != "loop"), key=lambda p: regret(line, p))


def recovery(line: dict[str, Any]) -> int | None:
    """Periods from the first labels of the change until the loop loses, then and in the period after, at most a third of
    what never retraining loses more than before; None: never in this history."""
    lost = {p: np.subtract(line["oracle"], line["policies"][p]) / np.asarray(line["counts"]) for p in ("loop", "never")}
    usual = lost["never"][: line["change"]].mean()
    is_well = lost["loop"] - usual <= HEALED * np.maximum(lost["never"] - usual, 0) + 0.05 * usual
    for number in range(line["change"], len(lost["loop"]) - 1):
        if is_well[number] and is_well[number + 1]:
            return max(0, number - line["change"] - 1)
    return None


def hurts(line: dict[str, Any]) -> bool:
    """Whether never retraining loses noticeably more after the change than before it."""
    lost = np.subtract(line["oracle"], line["policies"]["never"]) / np.asarray(line["counts"])
    return bool(lost[line["change"] :].mean() > 1.25 * lost[: line["change"]].mean())


def table(lines: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The table of docs/retraining.md, a line each."""
    good = [one for one in lines if "failed" not in one]
    yield (
        "| world | kind, rows a period | histories | regret (EUR): loop | never | every period | best fixed | loop to never "
        "| loop to best fixed: median, worst | healed (median periods) | swaps | wrong |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for one in good:
        groups.setdefault((one["world"], one["kind"], one["rows"]), []).append(one)
    order = list(WORLDS)
    for (world, kind, rows), group in sorted(
        groups.items(), key=lambda pair: (pair[0][1], pair[0][2], order.index(pair[0][0]))
    ):
        of = lambda policy, group=group: mean(regret(one, policy) for one in group)
        fixed = [regret(one, best_fixed(one)) for one in group]
        ratio = [regret(one, "loop") / max(1.0, best) for one, best in zip(group, fixed, strict=True)]
        hurt = [one for one in group if world != "quiet" and hurts(one)]
        times = [recovery(one) for one in hurt]
        healed = [t for t in times if t is not None]
        told = f"{len(healed)} of {len(hurt)}" + (f" ({median(healed):g})" if healed else "") if hurt else ""
        swaps = [swap for one in group for swap in one["swaps"]]
        wrong = sum(swap["gained"] < -0.01 for swap in swaps)
        yield (f"| {world} | {kind}, {rows:,} | {len(group)} | {of('loop'):,.0f} | {of('never'):,.0f} | {of('every 1'):,.0f} | {mean(fixed):,.0f} | "
               f"{of('loop') / max(1.0, of('never')):.2f} | {median(ratio):.2f}, {max(ratio):.2f} | {told} | {len(swaps)} | {wrong} |")  # fmt: skip


def main(arguments: list[str]) -> None:
    """Turn what is not in the file yet, and print the table of all that is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", default="", help=f"comma-separated, of: {', '.join(WORLDS)}; default: all")
    parser.add_argument("--kinds", default="classification", help="comma-separated: classification, regression, shop")
    parser.add_argument("--seeds", default="10", help="how many, or a range such as 100-109")
    parser.add_argument(
        "--rows", default="600", help="rows a period (the shop: customers), comma-separated: 300 to 3000"
    )
    parser.add_argument("--turns", type=int, default=TURNS, help="periods that the loop turns")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--json", type=Path, default=Path("worlds.jsonl"), help="the file of histories; what is in it is not made again"
    )
    parser.add_argument("--keep", type=Path, help="a folder for the turned projects, to look into")
    given = parser.parse_args(arguments)
    names = [one.strip() for one in given.worlds.split(",") if one.strip()] or list(WORLDS)
    if unknown := [one for one in names if one not in WORLDS]:
        parser.error(f"no world {unknown[0]!r}; there are: {', '.join(WORLDS)}")
    first, dash, last = given.seeds.partition("-")
    seeds = range(int(first), int(last) + 1) if dash else range(int(first))
    there = {
        (one["world"], one["kind"], one["seed"], one["rows"], one["turns_made"])
        for one in read(given.json)
        if "failed" not in one
    }
    jobs = []
    for kind in given.kinds.split(","):
        for rows in map(int, given.rows.split(",")):
            for seed in seeds:
                possible = [name for name in names if kind != "shop" or name in SHOP]
                if left := [name for name in possible if (name, kind, seed, rows, given.turns) not in there]:
                    jobs.append((kind, seed, rows, given.turns, left, given.keep, given.json.resolve()))
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(given.jobs) as workers:
        for lines in workers.map(_job, jobs):
            for one in lines:
                told = (
                    one.get("failed")
                    or f"{one['loop_s']:.0f} s, regret {regret(one, 'loop'):,.0f}, never {regret(one, 'never'):,.0f}"
                )
                print(f"{one['world']} {one['kind']} {one['seed']}: {told}", file=sys.stderr, flush=True)
    everything = read(given.json)
    for line in table(everything):
        print(line)
    if failed := [one for one in everything if "failed" in one]:
        print(
            f"\n{len(failed)} failed: "
            + "; ".join(f"{one['world']} {one['kind']} {one['seed']}: {one['failed'][:300]}" for one in failed)
        )


if __name__ == "__main__":
    main(sys.argv[1:])
