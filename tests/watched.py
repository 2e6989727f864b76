"""A project with a champion that has answered for weeks: reference, ledger, lake and log as the pipeline leaves them."""

import datetime as dt
from pathlib import Path

import pandas as pd
import production

from mlloop import problem as problems
from mlloop import products, serving
from mlloop.comparison import baselines
from mlloop.core.metrics import estimate
from mlloop.models import candidates
from mlloop.monitors import evidence
from mlloop.release import preparation, releases
from mlloop.store import objects, prediction_log
from mlloop.store.entries import Entry
from mlloop.store.lake import Lake

START, EVERY = dt.datetime(2025, 1, 1), dt.timedelta(days=14)
TRAINED, HELD = dt.datetime(2025, 4, 1), dt.datetime(2025, 6, 24)
POLICY = "retrain: {every_days: 14, k: 2, n: 3, margin: 0.01, min_labelled_rows: 150}\n"


class Watched:
    """A loan office: rows each hour for a year, a model trained until April and judged until the end of June."""

    def __init__(self, root: Path, rows: pd.DataFrame | None = None):
        self.made = production.Production(root, make=True)
        place = root / "problems/loan.yaml"
        place.write_text(place.read_text() + POLICY)
        self.settings, self.ledger, self.loan = self.made.settings, self.made.ledger, problems.load(place)
        self.rows = production.loans(24 * 360) if rows is None else rows
        self.lake = Lake(self.settings)
        before = self.rows[self.rows["day"] < TRAINED]
        self.model = candidates.build("linear", self.loan.task, 0, {}).fit(
            before[production.FEATURES], before["repaid"]
        )
        self._judge(root)

    def _judge(self, root: Path) -> None:
        held = self.rows[(self.rows["day"] >= TRAINED) & (self.rows["day"] < HELD)].reset_index(drop=True)
        y = baselines.target_values(held["repaid"], self.loan.task)
        score = self.model.predict_proba(held[production.FEATURES])[:, 1]
        main = estimate("roc_auc", y, score)
        windows = {"as_of": HELD.isoformat(), "from": START.isoformat(), "train_until": TRAINED.isoformat(),
                   "holdout_from": TRAINED.isoformat(), "holdout_until": HELD.isoformat(), "folds": []}  # fmt: skip
        read = {"windows": windows, "holdout": self.lake.write("loan/holdout", held)}
        figure = {"value": main.value, "low": main.low, "high": main.high, "n": main.n}
        product = root / ".mlloop/products/loan/evaluation.json"
        products.save_product(
            str(product), stage="evaluation", model="m", main=figure, metrics=[], contenders=[], best_rule=0, slices=[],
            champion={"said": "", "digest": None, "gain": None}, slices_missing=[], tables={}, reference=read,
            latency={"p50_below_ms": 1.0, "p99_below_ms": 1.0, "calls": 1}, examples={"answers": []},
        )  # fmt: skip
        trained = {"name": "linear", **candidates.save(self.model, root / ".mlloop/trained/loan-0")}
        release = preparation.prepare(self.settings, self.loan, trained, held, production.FEATURES)
        self.digest = trained["digest"]
        self.ledger.append(Entry("gate", "loan", subject="validation", verdict="yes", model=self.digest,
                           digests={"stage evaluation": objects.keep(self.settings, product)},
                           details={"parameters": {"as_of": HELD.isoformat()}}))  # fmt: skip
        self.made.deploy({**trained, "release": release.digest}, self.loan)

    def bring(self, until: dt.datetime, rows: pd.DataFrame | None = None) -> None:
        """Everything that happened before `until` into the lake."""
        known = (self.rows if rows is None else rows)[lambda t: t["day"] < until]
        self.lake.write("loan/loans", known)
        self.lake.write("loan/rows", known.dropna(subset=["repaid"]))

    def answer(self, since: dt.datetime, until: dt.datetime, rows: pd.DataFrame | None = None) -> None:
        """Every row of [since, until), answered by the code that serves, noted at the row's time."""
        pair = serving.in_production(self.settings, self.ledger, "loan")
        asked = (self.rows if rows is None else rows)[lambda t: (t["day"] >= since) & (t["day"] < until)]
        fields = [*pair.form.fields, releases.Field("id", "text")]
        _, records = serving.answer(pair, releases.rows_of(asked, fields))
        for record, at in zip(records, asked["day"], strict=True):
            record["at"] = at.isoformat()
        log = prediction_log.Log(prediction_log.folder_of(self.settings, "loan"), sync=False)
        log.append(records)
        log.close()

    def gathered(self, as_of: dt.datetime) -> evidence.Inputs:
        return evidence.gather(self.settings, self.ledger, self.loan, as_of)

    def noted(self, as_of: dt.datetime, found: dict) -> None:
        """Keep the product of a period."""
        place = evidence.product_path(self.settings, "loan", as_of)
        products.save_product(str(place), stage="monitoring", **found)
