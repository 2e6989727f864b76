"""What other policies would have come to on the same rows: the first model for ever, and fixed schedules without gate or trial.

A schedule's model is the recipe of the first model, fitted to every label that had come by then. One fit serves all
schedules that fall on its period.
"""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlloop import products
from mlloop.core import metrics, storage
from mlloop.core.errors import DataError
from mlloop.core.records import ComparedPeriod, IntervalJson, LearnableJson, PolicyFigureJson, WindowsJson
from mlloop.loop import arrivals, turn
from mlloop.loop.arrivals import Period
from mlloop.loop.session import Session
from mlloop.problem import Recommendation
from mlloop.release import releases
from mlloop.store import prediction_log

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import pandas as pd

MAX_ROWS = 20_000  # the newest, of which the model of a schedule learns
MAX_FITS = 6  # of recommenders, whose features take longer than their fit
STRIDES = (1, 2, 4, 8)  # periods between two fits of a schedule, times the least that can be afforded
DRAWS, BLOCK = 2000, 3  # of the bootstrap over periods, in blocks since neighbours resemble each other


def schedules(stride: int, periods: int, windows: Sequence[int | None] = (None,)) -> dict[str, tuple[int, int | None]]:
    """Name -> periods between two fits, and days learnt from (None: the statement's): 'always', 'every_2', 'every_4_last_84d' ..."""
    listed = {}
    for days in windows:
        for times in STRIDES:
            every = stride * times
            if times > 1 and every >= periods:
                continue
            name = "always" if times == 1 else f"every_{every}"
            listed[name + (f"_last_{days}d" if days else "")] = (every, days)
    return listed


def in_words(every: int, days: int | None = None) -> str:
    """A schedule in words."""
    schedule = "retraining every period" if every == 1 else f"retraining every {every} periods"
    return schedule + (f" on the last {days} days" if days else "")


def gained(
    figures: Sequence[Mapping[str, Any]],
    ours: str,
    theirs: str,
    scale: float,
    costs: float,
    seed: int = 0,
    confidence: float = 0.95,
) -> IntervalJson:
    """How much more one policy is worth than another on the same periods, its retrainings paid, with its interval.

    Parameters
    ----------
    figures : sequence of dict
        Periods, each with the worth of both policies.
    scale : float
        Periods of money in a period of the loop.
    costs : float
        What the retrainings of ours cost more than theirs.

    References
    ----------
    Politis & Romano (1992), A circular block-resampling procedure for stationary data: the interval.
    """
    each = np.array([period[ours]["worth"] - period[theirs]["worth"] for period in figures]) * scale
    n, rng = len(each), np.random.default_rng(seed)
    begins = rng.integers(0, n, (DRAWS, -(-n // BLOCK)))
    picked = ((begins[:, :, None] + np.arange(BLOCK)) % n).reshape(DRAWS, -1)[:, :n]
    low, high = np.quantile(each[picked].sum(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"value": float(each.sum() - costs), "low": float(low - costs), "high": float(high - costs)}


class Counterfactual:
    """Measures a period under each policy; what a period gave is kept.

    Parameters
    ----------
    begins : list of datetime
        The beginning of each period.
    windows : sequence of int or None
        Days that the schedules learn from; None: the statement's window, or everything.
    """

    def __init__(
        self,
        session: Session,
        begins: list[dt.datetime],
        until: dt.datetime,
        always: bool,
        windows: Sequence[int | None] = (None,),
    ):
        self.session, self.begin, self.until, self.always = session, begins[0], until, always
        self.statement = session.statement
        recommends = isinstance(self.statement.task, Recommendation)
        self.counts = recommends and self.statement.retrain.update_counts
        self.stride = -(-(len(begins) - 1) // MAX_FITS) if recommends and len(begins) > 1 else 1
        self.schedules = schedules(self.stride, len(begins), windows) if always else {}
        self.renewed = {
            name: {at: begins[number - number % every] for number, at in enumerate(begins)}
            for name, (every, _) in self.schedules.items()
        }
        base = session.plan
        self.recipe: Any = products.load(
            base.tasks["building"].products["data"], products.Building
        ).estimator.model_dump()
        self.first = self._first()
        self.folder = session.settings.state / "history" / base.problem
        self._rows_with_features: tuple[pd.DataFrame, list[str]] | None = None
        self._truth: Any = None
        self._models: dict[tuple[int | None, dt.datetime], Any] = {}

    def _first(self) -> releases.Release:
        from mlloop import deployment

        row = self.session.ledger.rows(problem=self.session.name, kind="promotion")[0]
        of = (self.session.settings, self.session.ledger, self.session.name, str(row.model))
        return deployment.load_release(*of, at=self.begin)  # as it was trained: later counts would know what was bought

    def of(self, period: Period) -> ComparedPeriod | None:
        """since, until, n and for each policy value and worth; None where nothing can be said of it."""
        key = storage.digest_json(
            [
                {
                    name: [renewed[period.since].isoformat(), self.schedules[name][1]]
                    for name, renewed in self.renewed.items()
                },
                self.first.model,
                self.first.digest,
                self.recipe["digest"],
                self.always,
                MAX_ROWS,
                period.since.isoformat(),
                self.begin.isoformat(),
                "fitted to every label that had come",
                "classes as served",
                *(["counts"] if self.counts else []),
            ]
        )
        path = self.folder / f"{period.name}.json"
        if path.exists() and (kept := storage.read_json(path)).get("key") == key:
            return kept["found"]
        log = prediction_log.read(
            prediction_log.folder_of(self.session.settings, self.session.name), period.since, period.until
        )
        log = (
            log[log["error"].isna()]
            .drop_duplicates("entity" if log["entity"].notna().all() else "id")
            .reset_index(drop=True)
        )
        try:
            compared = (self._lists if isinstance(self.statement.task, Recommendation) else self._rows)(log, period)
        except DataError:
            compared = None
        storage.write_json(path, {"key": key, "found": compared})
        return compared

    # tabular

    def _rows(self, log: "pd.DataFrame", period: Period) -> ComparedPeriod | None:
        from mlloop.comparison import baselines

        task: Any = self.statement.task
        truth = arrivals.labels(self.session.lake, self.statement, period.since, self.until)
        if truth is None or log.empty:
            return None
        on, by = (task.entity, "entity") if task.entity and task.entity in truth else ("id", "id")
        known = (
            prediction_log.with_labels(log, truth, on, task.target, by).dropna(subset=["label"]).reset_index(drop=True)
        )
        if known.empty:
            return None
        y = baselines.target_values(known["label"], task)
        requests = prediction_log.requests(known)
        first: Any = self.first
        never = np.asarray(first.scores(releases.rows_of(requests, first.fields)), dtype=np.float64)
        figures = {
            "loop": self._figure(y, known["score"].to_numpy(float), self._decided(known)),
            "never": self._figure(y, never, never >= first.cut),
        }
        of_model: dict[tuple[int | None, dt.datetime], PolicyFigureJson] = {}
        for name, (_, days) in self.schedules.items():
            at = self.renewed[name][period.since]
            if at <= self.begin:
                figures[name] = figures["never"]
                continue
            if (days, at) not in of_model:
                of_model[days, at] = self._figure(y, self._scores_of_model(known, at, days))
            figures[name] = of_model[days, at]
        self._forget(period.since)
        return {"since": period.since.isoformat(), "until": period.until.isoformat(), "n": len(y), **figures}

    def _decided(self, known: "pd.DataFrame") -> Any:
        """Where production predicted the positive class: the class that was served, from whichever threshold on."""
        task: Any = self.statement.task
        return (
            (known["prediction"].astype(str) == str(task.positive)).to_numpy()
            if task.kind == "classification"
            else None
        )

    def _forget(self, since: dt.datetime) -> None:
        """Drop the models that no later period asks."""
        needed = {(self.schedules[name][1], at[since]) for name, at in self.renewed.items()}
        self._models = {key: model for key, model in self._models.items() if key in needed or key[1] > since}

    def _figure(self, y: np.ndarray, score: np.ndarray, decided: Any = None) -> PolicyFigureJson:
        """The metric and the worth of a period.

        `decided` says where the positive class was predicted; None: from the statement's threshold on.
        """
        from mlloop.comparison import baselines

        money, name = self.statement.money, self.statement.success.metric
        if self.statement.task.kind == "regression":
            worth = metrics.worth_of_errors(y, score, money)
        else:
            served = score >= baselines.decision_threshold(self.statement).value if decided is None else decided
            worth = metrics.worth_of_decisions(y, np.asarray(served, float), 0.5, money)
            score = np.asarray(served, float) if name in ("accuracy", "f1") else score
        estimate = metrics.estimate(name, y, score, confidence=0.95)
        return {
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "worth": float(worth.mean() * money.decisions_per_period),
        }

    def _scores_of_model(self, known: "pd.DataFrame", at: dt.datetime, days: int | None) -> np.ndarray:
        from mlloop.comparison import holdout

        if (days, at) not in self._models:
            self._models[days, at] = self._trained(at, days)
        model, features = self._models[days, at]
        rows = self._frame()[0].set_index("__id").reindex(known["id"])
        missing = rows[features].isna().all(axis=1).to_numpy()
        scores = np.asarray(holdout.scores_of(model, rows[features], 1), float)
        if missing.any():
            scores[missing] = np.nanmean(scores)
        return scores

    def _frame(self) -> "tuple[pd.DataFrame, list[str]]":
        """Every row up to the end with its features and the id its answer had; and the names of the features."""
        if self._rows_with_features is None:
            from mlloop import features

            rows = self._all()["rows"]
            known = set(products.load(self._product_of("features"), products.Features).features)
            of_entity, seasonal = set(features.HISTORY) <= known, set(features.SEASON) <= known
            built = features.row_features(self.statement, rows, self._suspects(), of_entity, seasonal)
            frame = built.tables["rows"].to_pandas()
            time, task = arrivals._time(self.statement), self.statement.task
            frame = frame.sort_values([c for c in (time, task.entity) if c], kind="stable", ignore_index=True)  # type: ignore[union-attr]
            frame["__id"] = arrivals.names(self.statement, frame, Period(self.begin, self.until))
            self._rows_with_features = frame, built.features
        return self._rows_with_features

    def _trained(self, at: dt.datetime, days: int | None = None):
        from mlloop import training
        from mlloop.comparison import baselines
        from mlloop.models import candidates

        frame, names = self._frame()
        time, task = arrivals._time(self.statement), self.statement.task
        until = at - dt.timedelta(days=self.statement.time.label_delay_days)
        days = days or self.statement.retrain.window_days
        since = until - dt.timedelta(days=days) if days else frame[time].min()
        target: str = task.target  # type: ignore[union-attr]
        learnt = frame[(frame[time] < until) & (frame[time] >= since)].dropna(subset=[target]).tail(MAX_ROWS)
        y = baselines.target_values(learnt[target], task)
        y = y.astype(int) if task.kind == "classification" else y
        material = training.Material(
            {"X": baselines.with_whole_cycles(learnt[names], learnt[time]), "y": y},
            learnt[names].head(),
            {"rows": len(learnt), "from": None, "until": None},
        )
        return training.fitted(candidates.from_recipe(self.recipe, task), material), names

    # recommendation

    def _lists(self, log: "pd.DataFrame", period: Period) -> ComparedPeriod | None:
        import pandas as pd

        shown = log[log["items"].notna()][["entity", "at", "items"]]
        users = shown["entity"].tolist()
        if not users:
            return None
        task: Any = self.statement.task
        bought = None if task.repeats else arrivals.bought_before(self._events(), self.statement, shown)
        says = [
            "exclude" in text for text in log.loc[shown.index, "row"].map(json.loads)
        ]  # only who states it is spared it
        rows = [{"user": user, "exclude": bought[at] if bought and says[at] else None} for at, user in enumerate(users)]
        first_lists = pd.Series([prediction["items"] for prediction in self.first.answers(rows)], index=shown.index)
        lists = {"loop": shown, "never": shown.assign(items=first_lists)}
        if self.counts:
            first: Any = self.first
            events = self._every_event()
            events = events[events["time"] < period.since]
            items = releases.chosen(first.recommender.updated(events), rows, task.k, task.repeats)
            lists["counts"] = shown.assign(items=pd.Series(items, index=shown.index))
        of_model: dict[tuple[int | None, dt.datetime], pd.DataFrame] = {}
        for name, (_, days) in self.schedules.items():
            at = self.renewed[name][period.since]
            if at <= self.begin:
                lists[name] = lists["never"]
                continue
            if (days, at) not in self._models:
                self._models[days, at] = self._trained_events(at, days)
            if (days, at) not in of_model:
                chosen = releases.chosen(self._models[days, at], rows, task.k, task.repeats)
                of_model[days, at] = shown.assign(items=pd.Series(chosen, index=shown.index))
            lists[name] = of_model[days, at]
        self._forget(period.since)
        compared: ComparedPeriod = {"since": period.since.isoformat(), "until": period.until.isoformat()}
        for name, recommended in lists.items():
            values = self._metrics_of(recommended)
            if not len(values):
                return None
            mean = metrics.estimate_mean(values[self.statement.success.metric], draws=0)
            worth = float(
                metrics.worth_of_hits(values["hits"], self.statement.money).mean()
                * self.statement.money.decisions_per_period
            )
            figure: PolicyFigureJson = {"value": mean.value, "low": mean.low, "high": mean.high, "worth": worth}
            compared |= {"n": len(values), name: figure}
        return compared

    def _metrics_of(self, shown: "pd.DataFrame") -> "pd.DataFrame":
        from mlloop.monitors import evidence

        return evidence.list_metrics(shown, self._events(), self.statement)

    def _every_event(self) -> "pd.DataFrame":
        if self._truth is None:
            self._truth = self._all()["events"].select("user", "item", "time", "kind", "quantity").to_pandas()
        return self._truth

    def _events(self) -> "pd.DataFrame":
        """The events of users that are known."""
        events = self._every_event()
        return events[events["user"].notna()].reset_index(drop=True)

    def _trained_events(self, at: dt.datetime, days: int | None = None):
        from mlloop import features, training, transformation
        from mlloop.models import candidates

        tables = self._all()
        events = tables["events"].filter(tables["events"].time < at)
        first = events.time.min().to_pyarrow().as_py()
        windows: WindowsJson = {
            **transformation.time_windows(self.statement.time, at, first),
            "train_until": at.isoformat(),
        }
        inputs = {"events": events, **({"items": tables["items"]} if "items" in tables else {})}
        built = features.build_features(self.statement, inputs, windows)
        product: LearnableJson = {"tables": {**inputs, **built.tables}, "windows": windows, "features": built.features}
        return training.fitted(
            candidates.from_recipe(self.recipe, self.statement.task),
            training.material(self.statement, product, lambda table: table, days or self.statement.retrain.window_days),
        )

    # both

    def _all(self) -> "dict[str, ir.Table]":
        """Rows, or events and items, up to the end, computed once."""
        if not hasattr(self, "_transformed"):
            from mlloop import transformation

            if isinstance(self.statement.task, Recommendation):
                self._transformed = {
                    name: self.session.lake.read(f"{self.session.name}/{name}") for name in ("events", "items")
                }
            else:
                product = storage.read_json(
                    self.session.folder("turns") / Period(self.until, self._last()).name / "ingestion.json"
                )
                tables = {name: self.session.lake.read(ref) for name, ref in product["tables"].items()}
                self._transformed = transformation.transform(self.statement, tables, self._last()).tables
        return self._transformed

    def _last(self) -> dt.datetime:
        return max(at for at in turn.decided(self.session.ledger, self.session.name) if at <= self.until)

    def _product_of(self, stage: str) -> Path:
        return self.session.plan.tasks[stage].products["data"]

    def _suspects(self) -> list[str]:
        from mlloop import features

        return features.leak_suspects(products.load(self._product_of("need_gate"), products.NeedGate))
