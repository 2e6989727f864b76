"""The loop through a history: turn after turn at the data's own pace, and what it gained.

Beside what the loop did stand two others on the same rows: the first model for ever, and a model trained anew at every
turn and let out at once. All three are measured by the labels that came in the end.
"""

import base64
import datetime as dt
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlloop import problem as problems
from mlloop.core import metrics, storage
from mlloop.core.errors import DataError, UsageError
from mlloop.core.settings import Settings
from mlloop.loop import arrivals, turn
from mlloop.loop.arrivals import Period
from mlloop.loop.turn import Place, Turned
from mlloop.pages import wording
from mlloop.pipeline import runner
from mlloop.pipeline.plan import Plan
from mlloop.problem import Recommendation, utc
from mlloop.release import releases
from mlloop.store import prediction_log

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 20_000  # the newest, of which the model of "always" learns
MAX_FITS = 6  # of recommenders, whose features take longer than their fit
POLICIES = {"loop": "the loop", "never": "never retraining", "always": "retraining every period"}


@dataclass(frozen=True)
class Told:
    """One line of progress: the turn, its number, of how many, seconds so far."""

    turned: Turned
    number: int
    of: int
    seconds: float


@dataclass(frozen=True)
class History:
    """What came of a loop.

    Attributes
    ----------
    summary : dict
        As kept in the state folder: turns, periods (figures of each policy), totals.
    page : Path or None
    turned : int
        How many turns were made; 0 where all had been.
    """

    summary: dict[str, Any]
    page: Path | None
    turned: int


def moments(
    statement, start: dt.datetime, since: dt.datetime | None, until: dt.datetime, every: int | None
) -> list[dt.datetime]:
    """The turns of a loop: the grid after `since` up to `until`.

    Raises
    ------
    UsageError
        Another rhythm than the statement's, or no turn in between.
    """
    days = statement.retrain.every_days
    if every is not None and every != days:
        raise UsageError(
            f"--every {every} is not the rhythm of the statement (retrain.every_days: {days})", statement.name,
            "Change it there, since monitoring counts its periods by it",
        )  # fmt: skip
    step = dt.timedelta(days=days)
    first = turn.on_grid(statement, start, since) if since and since > start else start
    found, at = [], first + step
    while at <= until:
        found.append(at)
        at += step
    if not found:
        raise UsageError(
            f"no turn lies between {first:%Y-%m-%d} and {until:%Y-%m-%d} ({days} days apart)",
            statement.name,
            "Give a later --until",
        )
    return found


def loop(
    settings: Settings,
    plan: Plan,
    until: dt.datetime,
    since: dt.datetime | None = None,
    every: int | None = None,
    told: Callable[[Told], None] = lambda line: None,
    watch: Callable[[str], None] = lambda word: None,
    always: bool = True,
) -> History:
    """Turn the loop through the history up to `until`, then measure it against never and always retraining.

    What was turned before is not turned again; what was measured before is kept.

    Parameters
    ----------
    always : bool
        Whether to train a model for every period to compare with.

    Raises
    ------
    UsageError
        No turn in between, or no model in production.
    """
    import time

    if done := _kept(settings, plan, until, since, every):
        return done
    with turn.opened(settings, plan, "mlloop loop", watch) as place:
        start = turn.start_of(place.statement, place.ledger)
        asked = moments(place.statement, start, since, until, every)
        turned, began = 0, time.monotonic()
        for number, at in enumerate(asked, 1):
            new = at not in turn.decided(place.ledger, place.name)
            one = turn.turn(place, at, pages=False)
            if new and (one.verdict == "yes" or number == len(asked)):
                with place.step("page"):
                    period = Period(at - dt.timedelta(days=place.statement.retrain.every_days), at)
                    turn.show(place, period)
                    turn.monitored(place, period)
            turned += new
            told(Told(one, number, len(asked), time.monotonic() - began))
        watch("what it gained")
        summary = measured(place, asked, until, always, watch)
        summary["seconds"] = round(time.monotonic() - began, 1)
        storage.write_json(_file(settings, plan), summary)
        return History(summary, write_page(settings, plan, summary), turned)


def _file(settings: Settings, plan: Plan) -> Path:
    return settings.state / "history" / plan.problem / "history.json"


def _kept(
    settings: Settings, plan: Plan, until: dt.datetime, since: dt.datetime | None, every: int | None
) -> History | None:
    """What was kept of the same loop, if nothing was decided since."""
    from mlloop.store.ledger import Ledger

    path = _file(settings, plan)
    if not path.exists():
        return None
    summary, ledger = storage.read_json(path), Ledger.open(settings)
    statement = arrivals.normal(problems.load(runner.statement_file(settings, plan)))
    asked = moments(statement, turn.start_of(statement, ledger), since, until, every)
    same = [line["at"] for line in summary["turns"]] == [at.isoformat() for at in asked]
    last = ledger.last(problem=statement.name)
    if not same or not last or last.hash != summary["ledger"]:
        return None
    page = settings.reports / plan.problem / "loop.html"
    return History(summary, page if page.exists() else write_page(settings, plan, summary), 0)


# ------------------------------------------------------------------------------------------------ what it gained


def measured(
    place: Place,
    asked: list[dt.datetime],
    until: dt.datetime,
    always: bool = True,
    watch: Callable[[str], None] = lambda word: None,
) -> dict[str, Any]:
    """The turns, each period's figure under each policy, and the totals."""
    step = dt.timedelta(days=place.statement.retrain.every_days)
    rows = turn.decided(place.ledger, place.name)
    periods = [Period(at - step, at) for at in asked]
    compare = _Comparison(place, [period.since for period in periods], until, always)
    figures = []
    for period in periods:
        watch(f"what it gained: {period.name}")
        if _known(place, period, until) and (found := compare.of(period)):
            figures.append(found)
    last = place.ledger.last(problem=place.name)
    happened = turn.events(place, until)
    return {
        "problem": place.name,
        "metric": place.statement.success.metric,
        "currency": place.statement.money.currency,
        "until": until.isoformat(),
        "ledger": last.hash if last else "",
        "turns": [
            {"at": at.isoformat(), "action": rows[at].subject, "verdict": rows[at].verdict, "said": (rows[at].reasons or [""])[0],
             "health": rows[at].details.get("health", "")}
            for at in asked if at in rows
        ],
        "events": happened,
        "periods": figures,
        "totals": _totals(place, figures, [at for at in asked if at in rows and rows[at].verdict == "yes"], compare),
        "policies": {**POLICIES, "always": _every(compare.stride).lower()},
        "note": _note(place, compare, always),
    }  # fmt: skip


def _known(place: Place, period: Period, until: dt.datetime) -> bool:
    late = (
        place.statement.time.holdout_days
        if isinstance(place.statement.task, Recommendation)
        else place.statement.time.label_delay_days
    )
    return period.until + dt.timedelta(days=late) <= until


def _totals(
    place: Place, figures: list[dict[str, Any]], retrained: list[dt.datetime], compare: "_Comparison"
) -> dict[str, Any]:
    """For each policy: mean figure, number of retrainings, worth less what the retrainings cost."""
    money, days = place.statement.money, place.statement.retrain.every_days
    names = [name for name in POLICIES if figures and all(name in one for one in figures)]
    if not figures:
        return {}
    last = utc(figures[-1]["until"])
    count = {
        "loop": sum(at < last for at in retrained),
        "never": 0,
        "always": len({compare.renewed[utc(one["since"])] for one in figures}) - 1,
    }
    found = {}
    for name in names:
        worth = sum(one[name]["worth"] for one in figures) * days / money.period_days
        found[name] = {
            "metric": float(np.mean([one[name]["value"] for one in figures])),
            "retrainings": count[name],
            "worth": worth,
            "cost": count[name] * money.per_retraining,
            "net": worth - count[name] * money.per_retraining,
        }
    return found


def _every(stride: int) -> str:
    return "Retraining every period" if stride == 1 else f"Retraining every {stride} periods"


def _note(place: Place, compare: "_Comparison", always: bool) -> str:
    if not always:
        return ""
    bound = f" on the newest {MAX_ROWS:,} rows" if not isinstance(place.statement.task, Recommendation) else ""
    return (
        f"{_every(compare.stride)} is a replay: the recipe of the first model ({compare.recipe['name']}), fitted{bound} before "
        "each period's held-out days, without gate or trial. All figures are on the same rows, by the labels that came in the end."
    )


class _Comparison:
    """Measures a period under each policy; what a period gave is kept."""

    def __init__(self, place: Place, begins: list[dt.datetime], until: dt.datetime, always: bool):
        self.place, self.begin, self.until, self.always = place, begins[0], until, always
        self.statement = place.statement
        recommends = isinstance(self.statement.task, Recommendation)
        self.stride = -(-(len(begins) - 1) // MAX_FITS) if recommends and len(begins) > 1 else 1
        self.renewed = {at: begins[number - number % self.stride] for number, at in enumerate(begins)}
        base = place.plan
        self.recipe = storage.read_json(base.tasks["building"].products["data"])["estimator"]
        self.first = self._first()
        self.folder = place.settings.state / "history" / base.problem
        self._tables: dict[str, Any] | None = None
        self._truth: Any = None
        self._always: tuple[dt.datetime, Any] | None = None

    def _first(self) -> releases.Release:
        from mlloop import deployment

        row = self.place.ledger.rows(problem=self.place.name, kind="promotion")[0]
        return deployment.load_release(self.place.settings, self.place.ledger, self.place.name, str(row.model))

    def of(self, period: Period) -> dict[str, Any] | None:
        """since, until, n and for each policy value and worth; None where nothing can be said of it."""
        key = storage.digest_json(
            [
                self.renewed[period.since].isoformat(),
                self.first.model,
                self.recipe["digest"],
                self.always,
                MAX_ROWS,
                period.since.isoformat(),
                self.begin.isoformat(),
                "without what the request says was bought before",
            ]
        )
        path = self.folder / f"{period.name}.json"
        if path.exists() and (kept := storage.read_json(path)).get("key") == key:
            return kept["found"]
        log = prediction_log.read(
            prediction_log.folder_of(self.place.settings, self.place.name), period.since, period.until
        )
        log = (
            log[log["error"].isna()]
            .drop_duplicates("entity" if log["entity"].notna().all() else "id")
            .reset_index(drop=True)
        )
        try:
            found = (self._lists if isinstance(self.statement.task, Recommendation) else self._rows)(log, period)
        except DataError:
            found = None
        storage.write_json(path, {"key": key, "found": found})
        return found

    # tabular

    def _rows(self, log: "pd.DataFrame", period: Period) -> dict[str, Any] | None:
        from mlloop.comparison import baselines

        task: Any = self.statement.task
        truth = arrivals.labels(self.place.lake, self.statement, period.since, self.until)
        if truth is None or log.empty:
            return None
        on, by = (task.entity, "entity") if task.entity and task.entity in truth else ("id", "id")
        known = (
            prediction_log.with_labels(log, truth, on, task.target, by).dropna(subset=["label"]).reset_index(drop=True)
        )
        if known.empty:
            return None
        y = baselines.target(known["label"], task)
        asked = prediction_log.asked(known)
        first: Any = self.first
        never = np.asarray(first.scores(releases.rows_of(asked, first.fields)), dtype=np.float64)
        scores = {"loop": known["score"].to_numpy(float), "never": never}
        if self.always:
            scores["always"] = (
                scores["never"]
                if self.renewed[period.since] <= self.begin
                else self._asked_always(known, self.renewed[period.since])
            )
        return {
            "since": period.since.isoformat(),
            "until": period.until.isoformat(),
            "n": len(y),
            **{n: self._figure(y, s) for n, s in scores.items()},
        }

    def _figure(self, y: np.ndarray, score: np.ndarray) -> dict[str, float]:
        money, name = self.statement.money, self.statement.success.metric
        found = metrics.estimate(name, y, score, confidence=0.95)
        worth = (
            metrics.worth_of_errors(y, score, money)
            if self.statement.task.kind == "regression"
            else metrics.worth_of_decisions(y, score, metrics.breakeven(money), money)
        )
        return {
            "value": found.value,
            "low": found.low,
            "high": found.high,
            "worth": float(worth.mean() * money.decisions_per_period),
        }

    def _asked_always(self, known: "pd.DataFrame", at: dt.datetime) -> np.ndarray:
        from mlloop.comparison import holdout

        model, features = self._trained(at)
        rows = self._frame().set_index("__id").reindex(known["id"])
        missing = rows[features].isna().all(axis=1).to_numpy()
        found = np.asarray(holdout.scores_of(model, rows[features], 1), float)
        if missing.any():
            found[missing] = np.nanmean(found)
        return found

    def _frame(self) -> "pd.DataFrame":
        """Every row up to the end with its features and the id its answer had."""
        if self._tables is None:
            from mlloop import features

            rows = self._all()["rows"]
            made = features.row_features(
                self.statement,
                rows,
                self._suspects(),
                set(features.HISTORY) <= set(self._product("features")["features"]),
            )
            frame = made.tables["rows"].to_pandas()
            time, task = arrivals._time(self.statement), self.statement.task
            frame = frame.sort_values([c for c in (time, task.entity) if c], kind="stable", ignore_index=True)  # type: ignore[union-attr]
            frame["__id"] = arrivals.names(self.statement, frame, Period(self.begin, self.until))
            self._tables = {"frame": frame, "features": made.features}
        return self._tables["frame"]

    def _trained(self, at: dt.datetime):
        from mlloop import training
        from mlloop.comparison import baselines
        from mlloop.models import candidates

        frame, time, task = self._frame(), arrivals._time(self.statement), self.statement.task
        until = at - dt.timedelta(days=self.statement.time.label_delay_days + self.statement.time.holdout_days)
        assert self._tables is not None
        days = self.statement.retrain.window_days
        since = until - dt.timedelta(days=days) if days else frame[time].min()
        learnt = frame[(frame[time] < until) & (frame[time] >= since)].tail(MAX_ROWS)
        y = baselines.target(learnt[task.target], task)  # type: ignore[union-attr]
        y = y.astype(int) if task.kind == "classification" else y
        names = self._tables["features"]
        made = training.Material({"X": learnt[names], "y": y}, learnt[names].head(), {"rows": len(learnt)})
        return training.fitted(candidates.from_recipe(self.recipe, task), made), names

    # recommendation

    def _lists(self, log: "pd.DataFrame", period: Period) -> dict[str, Any] | None:
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
        lists = {"loop": shown, "never": shown.assign(items=[one["items"] for one in self.first.answers(rows)])}
        if self.always:
            at = self.renewed[period.since]
            if at <= self.begin:
                lists["always"] = lists["never"]
            else:
                if self._always is None or self._always[0] != at:
                    self._always = (at, self._trained_events(at))
                chosen = releases.chosen(self._always[1], rows, task.k, task.repeats)
                lists["always"] = shown.assign(items=pd.Series(chosen, index=shown.index))
        found: dict[str, Any] = {"since": period.since.isoformat(), "until": period.until.isoformat()}
        for name, one in lists.items():
            values = self._wants(one)
            if not len(values):
                return None
            mean = metrics.estimate_mean(values[self.statement.success.metric], draws=0)
            worth = float(
                metrics.worth_of_hits(values["hits"], self.statement.money).mean()
                * self.statement.money.decisions_per_period
            )
            found |= {"n": len(values), name: {"value": mean.value, "low": mean.low, "high": mean.high, "worth": worth}}
        return found

    def _wants(self, shown: "pd.DataFrame") -> "pd.DataFrame":
        from mlloop.monitors import evidence

        return evidence.wants_of(shown, self._events(), self.statement)

    def _events(self) -> "pd.DataFrame":
        if self._truth is None:
            events = self._all()["events"]
            self._truth = (
                events.filter(events.user.notnull()).select("user", "item", "time", "kind", "quantity").to_pandas()
            )
        return self._truth

    def _trained_events(self, at: dt.datetime):
        from mlloop import features, training, transformation
        from mlloop.models import candidates

        tables = self._all()
        events = tables["events"].filter(tables["events"].time < at)
        first = events.time.min().to_pyarrow().as_py()
        windows = transformation.time_windows(self.statement.time, at, first)
        given = {"events": events, **({"items": tables["items"]} if "items" in tables else {})}
        made = features.make(self.statement, given, windows)
        product = {"tables": {**given, **made.tables}, "windows": windows, "features": made.features}
        return training.fitted(
            candidates.from_recipe(self.recipe, self.statement.task),
            training.material(self.statement, product, lambda table: table, self.statement.retrain.window_days),
        )

    # both

    def _all(self) -> dict[str, Any]:
        """Rows, or events and items, up to the end, computed once."""
        if not hasattr(self, "_made"):
            from mlloop import transformation

            if isinstance(self.statement.task, Recommendation):
                self._made = {name: self.place.lake.read(f"{self.place.name}/{name}") for name in ("events", "items")}
            else:
                product = storage.read_json(
                    self.place.folder("turns") / Period(self.until, self._last()).name / "ingestion.json"
                )
                tables = {name: self.place.lake.read(one) for name, one in product["tables"].items()}
                self._made = transformation.transform(self.statement, tables, self._last()).tables
        return self._made

    def _last(self) -> dt.datetime:
        return max(at for at in turn.decided(self.place.ledger, self.place.name) if at <= self.until)

    def _product(self, stage: str) -> dict[str, Any]:
        return storage.read_json(self.place.plan.tasks[stage].products["data"])

    def _suspects(self) -> list[str]:
        from mlloop import features

        return features.suspects_of(self._product("need_gate"))


# ------------------------------------------------------------------------------------------------ showing it


def sentences(summary: dict[str, Any]) -> list[str]:
    """What was decided when, and what it gained: lines for the terminal and the page."""
    counts: dict[str, int] = {}
    for line in summary["turns"]:
        counts[line["action"]] = counts.get(line["action"], 0) + 1
    said = [
        f"{len(summary['turns'])} turns: "
        + ", ".join(f"{n} {action}" for action, n in sorted(counts.items(), key=lambda p: -p[1]))
    ]
    said += [f"{one['as_of'][:10]}: {one['word']}" for one in summary["events"]]
    totals, currency = summary["totals"], summary["currency"]
    label = metrics.metric(summary["metric"]).label
    for name, one in totals.items():
        said.append(
            f"{summary['policies'][name]}: {label} {one['metric']:.4f} on average, {one['retrainings']} retrainings, "
            f"{one['net']:,.0f} {currency} ({one['worth']:,.0f} less {one['cost']:,.0f} for retraining)"
        )
    if {"loop", "never"} <= set(totals):
        against = [_gained(totals, "never", "never retraining", currency)]
        if "always" in totals:
            against.append(_gained(totals, "always", summary["policies"]["always"], currency))
        said.append(f"over {len(summary['periods'])} periods the loop {' and '.join(against)}")
    return said


def _gained(totals: dict[str, Any], other: str, called: str, currency: str) -> str:
    gain = round(totals["loop"]["net"] - totals[other]["net"])
    if gain == 0:
        return f"was worth as much as {called}"
    return f"{'gained' if gain > 0 else 'lost'} {abs(gain):,} {currency} against {called}"


def plot_policies(summary: dict[str, Any], ax):
    """The realised figure of each period under each policy, and what happened when; returns ax."""
    import pandas as pd

    from mlloop.visualization import BLUE, GREEN, GREY, ORANGE, finish

    periods = summary["periods"]
    at = [pd.Timestamp(one["until"]) for one in periods]
    styles = {"never": (ORANGE, "--", "s"), "always": (GREEN, ":", "^"), "loop": (BLUE, "-", "o")}
    for name, (colour, line, sign) in styles.items():
        if periods and name in periods[0]:
            ax.plot(
                at,
                [one[name]["value"] for one in periods],
                color=colour,
                ls=line,
                marker=sign,
                ms=3.5,
                lw=1.6 if name == "loop" else 1.1,
                label=summary["policies"][name],
            )
    words: dict[str, list[str]] = {}
    for one in summary["events"]:
        words.setdefault(one["as_of"], []).append(one["word"])
    for moment, said in words.items():
        ax.axvline(pd.Timestamp(moment), color=GREY, lw=0.8, ls=":")
        where = (pd.Timestamp(moment), 0.02)
        ax.annotate(
            ", ".join(said),
            where,
            xycoords=("data", "axes fraction"),
            rotation=90,
            va="bottom",
            ha="right",
            fontsize=7,
            color=GREY,
        )
    if periods:
        ax.legend(fontsize=8, frameon=False, loc="best")
        ax.tick_params(axis="x", labelrotation=30)
    title = sentences(summary)[-1]
    label = metrics.metric(summary["metric"]).label
    return finish(
        ax,
        title[0].upper() + title[1:],
        f"n = {sum(one['n'] for one in periods):,} answers whose truth came, in {len(periods)} periods",
        "end of the period (UTC)",
        label,
    )


def _in_words(line: dict[str, Any]) -> str:
    return "yes" if line["verdict"] == "yes" else wording.ACTIONS.get(line["action"], (line["action"], ""))[0]


def write_page(settings: Settings, plan: Plan, summary: dict[str, Any]) -> Path:
    """Write reports/PROBLEM/loop.html."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from mlloop.pages import report
    from mlloop.visualization import panels

    fig, (ax,) = panels(width=9, height=4)
    plot_policies(summary, ax)
    drawn = io.BytesIO()
    fig.savefig(drawn, format="png", dpi=110, metadata={"Software": None})
    import matplotlib.pyplot as plt

    plt.close(fig)
    image = "data:image/png;base64," + base64.b64encode(drawn.getvalue()).decode()
    view = {
        "problem": plan.problem,
        "summary": summary,
        "sentences": sentences(summary),
        "image": image,
        "policies": {name: said for name, said in summary["policies"].items() if name in summary["totals"]},
        "actions": {line["action"]: _in_words(line) for line in summary["turns"]},
        "metric": wording.metric_meaning(summary["metric"]),
        "label": metrics.metric(summary["metric"]).label,
    }
    return report._page(settings.reports / plan.problem / "loop.html", "loop.html", [summary, image], lambda: view)


def to_json(one: Turned) -> dict[str, Any]:
    """A turn in JSON's own types."""
    return storage.plain(asdict(one))
