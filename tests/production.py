"""A project with trained models whose gates said yes, and how to put them into production; no pipeline is run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import httpx
import numpy as np
import pandas as pd

from mlloop import deployment
from mlloop import problem as problems
from mlloop.core import settings
from mlloop.models import candidates
from mlloop.release import preparation
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger

LOAN = """\
name: loan
revision: 1
question: Who repays?
decision: Whom to lend to.
task: {kind: classification, table: loans, target: repaid, positive: 1, entity: id}
time: {column: day, label_delay_days: 2}
sources: {loans: {kind: files, path: "{root}/loans.csv"}}
tables:
  loans:
    source: loans
    key: [id]
    time: day
    columns:
      id: {type: text, required: true, feature: false}
      day: {type: time, required: true, feature: false}
      amount: {type: number, required: true, min: 0, max: 1000, unit: EUR, meaning: sum asked for}
      age: {type: number, min: 18, max: 120, unit: years, meaning: age}
      town: {type: category, values: [Ely, York, Ulm], meaning: where}
      job: {type: text, meaning: what they do}
      repaid: {type: integer, known: after}
rules: [{name: small, meaning: lend small sums, score: -amount}]
success: {metric: roc_auc, threshold: 0.6}
money: {true_positive: 50, false_positive: -500}
canary: {share: 0.5, min_rows: 100, deadline_days: 14, max_loss: 0.02}
"""

SHOP = """\
name: shop
revision: 1
question: What to show?
decision: Ten places.
task:
  kind: recommendation
  interactions: [{table: sold, user: who, item: what, time: at, kind: purchase}]
  k: 5
time: {holdout_days: 7}
sources: {sold: {kind: files, path: "{root}/sold.csv"}}
tables: {sold: {source: sold, columns: {who: {type: text}, what: {type: text}, at: {type: time}}}}
rules: [{name: best, meaning: best-sellers, popular_days: 30}]
success: {metric: ndcg, threshold: 0.1}
money: {per_hit: 1}
canary: {share: 0.5, min_rows: 50, deadline_days: 14, max_loss: 0.02}
"""

FEATURES = ["amount", "age", "town", "job"]


def loans(rows: int = 1500, seed: int = 0) -> pd.DataFrame:
    """Rows with the raw columns, the features and the target."""
    rng = np.random.default_rng(seed)
    made = pd.DataFrame(
        {
            "id": [f"L{seed}-{n}" for n in range(rows)],
            "day": pd.date_range("2025-01-01", periods=rows, freq="h"),
            "amount": rng.uniform(0, 1000, rows).round(2),
            "age": rng.integers(18, 90, rows).astype(float),
            "town": rng.choice(["Ely", "York", "Ulm"], rows),
            "job": rng.choice(["smith", "nurse", "clerk"], rows),
        }
    )
    made.loc[rng.random(rows) < 0.1, "age"] = np.nan
    chance = 1 / (1 + np.exp((made["amount"] - 500) / 150 - (made["town"] == "Ely") * 1.5))
    made["repaid"] = (rng.random(rows) < chance).astype(int)
    return made


def sales(users: int = 60, items: int = 30, rows: int = 2500, seed: int = 0) -> pd.DataFrame:
    """Purchases in which each customer keeps to a third of the goods."""
    rng = np.random.default_rng(seed)
    who = rng.integers(0, users, rows)
    what = (who % 3) * (items // 3) + np.minimum(rng.geometric(0.25, rows) - 1, items // 3 - 1)
    return pd.DataFrame(
        {
            "user": [f"u{n}" for n in who],
            "item": [f"i{n:02}" for n in what],
            "time": pd.Timestamp("2025-01-01") + pd.to_timedelta(np.sort(rng.uniform(0, 60, rows)), "D"),
            "kind": "purchase",
            "quantity": 1.0,
        }
    )


class Production:
    """A project on disk, its models, and the service on it."""

    def __init__(self, root: Path, make: bool = False):
        self.root = root
        (root / "problems").mkdir(parents=make)
        for name, text in {
            "settings.ini": "[kernels]\npool = fresh\n",
            "pipeline.yaml": "tasks: []\n",
            "env.yaml": "problem: loan\nas_of: null\nsample: 1.0\nseed: 0\n",
            "problems/loan.yaml": LOAN,
            "problems/shop.yaml": SHOP,
        }.items():
            (root / name).write_text(text)
        self.settings = settings.load(root)
        self.ledger = Ledger.open(self.settings)
        self.loan = problems.load(root / "problems/loan.yaml")
        self.shop = problems.load(root / "problems/shop.yaml")
        self.rows = loans()

    def copy(self, root: Path) -> "Production":
        """The same project elsewhere."""
        shutil.copytree(self.root, root, ignore=shutil.ignore_patterns("predictions"))
        made = Production.__new__(Production)
        made.__dict__.update(self.__dict__)
        made.root, made.settings = root, settings.load(root)
        made.ledger = Ledger.open(made.settings)
        return made

    def train(self, name: str = "linear", rows: slice = slice(0, 800), **params) -> dict:
        """A model of the loans whose gate said yes, with its release."""
        X, y = self.rows[FEATURES].iloc[rows], self.rows["repaid"].iloc[rows]
        fitted = candidates.build(name, self.loan.task, 0, params).fit(X, y)
        return self._judged(self.loan, name, fitted, self.rows.iloc[800:], FEATURES)

    def train_shop(self, name: str = "item_knn", **params) -> dict:
        """The same for the shop."""
        events = sales()
        fitted = candidates.build(name, self.shop.task, 0, params).fit(events)
        return self._judged(self.shop, name, fitted, events[["user"]], None)

    def _judged(self, statement, name, fitted, rows, names) -> dict:
        place = self.root / ".mlloop" / "trained" / f"{statement.name}-{len(list(self.root.glob('.mlloop/trained/*')))}"
        model = {"name": name, **candidates.save(fitted, place)}
        made = preparation.prepare(self.settings, statement, model, rows, names)
        self.ledger.append(Entry("gate", statement.name, subject="validation", verdict="yes", model=model["digest"]))
        return {
            **model,
            "release": made.digest,
            "folder": made.path,
            "parity": made.parity,
            "production_form": made.form,
        }

    def deploy(self, model: dict, statement=None, now=None):
        """As the stage does it."""
        statement = statement or (self.shop if model["form"] == "safetensors" else self.loan)
        return deployment.deploy(self.settings, self.ledger, statement, model["digest"], model["release"], now=now)

    def mlloop(self, *arguments: str, **options) -> subprocess.CompletedProcess:
        """Run the command line in the project."""
        return forked.run(
            [sys.executable, "-m", "mlloop", *arguments],
            cwd=self.root, capture_output=True, text=True, timeout=120, **{"env": environment(), **options},
        )  # fmt: skip

    def python(self, code: str, **more: str) -> subprocess.Popen:
        """Start Python in the project, in a session of its own."""
        return forked.Popen(
            [sys.executable, "-c", code], cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**environment(), **more}, start_new_session=True,
        )  # fmt: skip

    def serve(self, *arguments: str, prefix=(), **more: str) -> "Served":
        """Start `mlloop serve` on a free port and wait until it answers."""
        return Served(self, arguments, more, prefix)

    def ask(self, n: int = 0) -> dict:
        """A request's row, of the rows no model has seen."""
        row = self.rows.iloc[800 + n % 700]
        asked = {name: (None if row[name] != row[name] else row[name]) for name in FEATURES}
        return {"id": row["id"], **asked}


class Served:
    """A running `mlloop serve`."""

    def __init__(self, production: Production, arguments, more, prefix=()):
        self.errors = production.root / f"serve-{time.monotonic_ns()}.err"
        start = subprocess.Popen if prefix else forked.Popen
        self.process = start(
            [*prefix, sys.executable, "-m", "mlloop", "serve", "--port", "0", "--poll-s", "0.05", *arguments],
            cwd=production.root, stdout=subprocess.PIPE, stderr=self.errors.open("w"), text=True,
            env={**environment(), **more}, start_new_session=True,
        )  # fmt: skip
        line = self.process.stdout.readline()
        assert line.startswith("answering at "), self.errors.read_text()
        self.url = line.split()[2]
        self.client = httpx.Client(base_url=self.url, timeout=120, trust_env=False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(120)

    def ask(self, row, path: str = "/predict", **more) -> httpx.Response:
        return self.client.post(path, json=row, **more)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def until(self, what, seconds: float = 120) -> dict:
        """Wait until /ready satisfies `what`; returns it."""
        end = time.monotonic() + seconds
        while not what(found := self.client.get("/ready").json()):
            assert time.monotonic() < end, found
            time.sleep(0.02)
        return found


def environment() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "200"}


def dumps(value) -> str:
    return json.dumps(value)
