"""The loop through a history: turn after turn at the data's own pace, and what it gained.

Beside what the loop did stand others on the same rows: the first model for ever, and models retrained by a fixed
schedule and let out at once. All are measured by the labels that came in the end.
"""

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlloop import problem as problems
from mlloop.core import charts, metric_table, metrics, storage
from mlloop.core.errors import UsageError
from mlloop.core.formatting import number
from mlloop.core.records import ComparedPeriod, HistoryJson, IntervalJson, PolicyTotalJson, TurnLineJson
from mlloop.core.settings import Settings
from mlloop.loop import arrivals, backtest, counterfactual, turn
from mlloop.loop.arrivals import Period
from mlloop.loop.counterfactual import Counterfactual
from mlloop.loop.schedule import Turned
from mlloop.loop.session import Session, opened
from mlloop.monitors import periods
from mlloop.pages import wording
from mlloop.pipeline import runner
from mlloop.pipeline.plan import Plan
from mlloop.problem import Recommendation, utc

if TYPE_CHECKING:
    import pandas as pd

POLICIES = {
    "loop": "the loop",
    "never": "never retraining",
    "counts": "never retraining, histories and counts updated",
    "always": "retraining every period",
}


@dataclass(frozen=True)
class TurnProgress:
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

    summary: HistoryJson
    page: Path | None
    turned: int

    def _repr_html_(self) -> str:
        from mlloop.pages import html_table

        return html_table.table(
            f"History of {self.summary['problem']}", [""], [[line] for line in sentences(self.summary)]
        )


def moments(
    statement, start: dt.datetime, since: dt.datetime | None, until: dt.datetime, every: int | None
) -> list[dt.datetime]:
    """The turns of a loop: the grid after `since` up to `until`.

    Raises
    ------
    UsageError
        Another schedule than the statement's, or no turn in between.
    """
    days = statement.retrain.every_days
    if every is not None and every != days:
        raise UsageError(
            f"--every {every} is not the schedule of the statement (retrain.every_days: {days})", statement.name,
            "Change it there, since monitoring counts its periods by it",
        )  # fmt: skip
    step = dt.timedelta(days=days)
    first = periods.on_grid(statement, start, since) if since and since > start else start
    ends, at = [], first + step
    while at <= until:
        ends.append(at)
        at += step
    if not ends:
        raise UsageError(
            f"no turn lies between {first:%Y-%m-%d} and {until:%Y-%m-%d} ({days} days apart)",
            statement.name,
            "Give a later --until",
        )
    return ends


def loop(
    settings: Settings,
    plan: Plan,
    until: dt.datetime,
    since: dt.datetime | None = None,
    every: int | None = None,
    on_turn: Callable[[TurnProgress], None] = lambda line: None,
    watch: Callable[[str], None] = lambda word: None,
    always: bool = True,
    pages: bool = True,
) -> History:
    """Turn the loop through the history up to `until`, then measure it against never and always retraining.

    What was turned before is not turned again; what was measured before is kept.

    Parameters
    ----------
    always : bool
        Whether to train models by fixed schedules to compare with.
    pages : bool
        Whether to make the notebooks of the periods in which something was decided, and the page; a replay needs none.

    Raises
    ------
    UsageError
        No turn in between, or no model in production.
    """
    import time

    if done := _kept(settings, plan, until, since, every, pages):
        return done
    with opened(settings, plan, "mlloop loop", watch) as session:
        start = periods.start(session.statement, session.ledger)
        ends = moments(session.statement, start, since, until, every)
        turned, began = 0, time.monotonic()
        for number, at in enumerate(ends, 1):
            new = at not in turn.decided(session.ledger, session.name)
            ended = turn.turn(session, at, pages=False)
            if pages and new and (ended.verdict == "yes" or number == len(ends)):
                with session.step("page"):
                    period = Period(at - dt.timedelta(days=session.statement.retrain.every_days), at)
                    turn.show(session, period)
                    turn.monitored(session, period)
            turned += new
            on_turn(TurnProgress(ended, number, len(ends), time.monotonic() - began))
        watch("what it gained")
        summary = measured(session, ends, until, always, watch)
        summary["gated"] = backtest.kept_schedules(settings, plan, until)
        summary["seconds"] = round(time.monotonic() - began, 1)
        storage.write_json(_file(settings, plan), summary)
        return History(summary, write_page(settings, plan, summary) if pages else None, turned)


def _file(settings: Settings, plan: Plan) -> Path:
    return settings.state / "history" / plan.problem / "history.json"


def _kept(
    settings: Settings, plan: Plan, until: dt.datetime, since: dt.datetime | None, every: int | None, pages: bool
) -> History | None:
    """What was kept of the same loop, if nothing was decided since."""
    from mlloop.store.ledger import Ledger

    path = _file(settings, plan)
    if not path.exists():
        return None
    summary, ledger = storage.read_json(path), Ledger.open(settings)
    statement = arrivals.normal(problems.load(runner.statement_file(settings, plan)))
    ends = moments(statement, periods.start(statement, ledger), since, until, every)
    same = [line["at"] for line in summary["turns"]] == [at.isoformat() for at in ends]
    last = ledger.last(problem=statement.name)
    if not same or not last or last.hash != summary["ledger"]:
        return None
    page, gated = settings.reports / plan.problem / "loop.html", backtest.kept_schedules(settings, plan, until)
    if gated == summary.get("gated", {}) and (page.exists() or not pages):
        return History(summary, page if page.exists() else None, 0)
    summary["gated"] = gated
    storage.write_json(path, summary)
    return History(summary, write_page(settings, plan, summary) if pages else None, 0)


# ------------------------------------------------------------------------------------------------ what it gained


def measured(
    session: Session,
    ends: list[dt.datetime],
    until: dt.datetime,
    always: bool = True,
    watch: Callable[[str], None] = lambda word: None,
    windows: Sequence[int | None] = (None,),
) -> HistoryJson:
    """The turns, each period's figure under each policy, the totals, and the loop's gain over each of the others.

    Parameters
    ----------
    windows : sequence of int or None
        Days that fixed schedules learn from, see `counterfactual.Counterfactual`.
    """
    step = dt.timedelta(days=session.statement.retrain.every_days)
    rows = turn.decided(session.ledger, session.name)
    periods = [Period(at - step, at) for at in ends]
    compare = Counterfactual(session, [period.since for period in periods], until, always, windows)
    figures: list[ComparedPeriod] = []
    for period in periods:
        watch(f"what it gained: {period.name}")
        if _known(session, period, until) and (compared := compare.of(period)):
            figures.append(compared)
    last = session.ledger.last(problem=session.name)
    happened = turn.events(session, until)
    totals = _totals(session, figures, [at for at in ends if at in rows and rows[at].verdict == "yes"], compare)
    return {
        "problem": session.name,
        "metric": session.statement.success.metric,
        "target": session.statement.success.threshold,
        "currency": session.statement.money.currency,
        "until": until.isoformat(),
        "ledger": last.hash if last else "",
        "turns": [
            {"at": at.isoformat(), "action": rows[at].subject, "verdict": rows[at].verdict, "said": (rows[at].reasons or [""])[0],
             "health": rows[at].details.get("health", "")}
            for at in ends if at in rows
        ],
        "events": happened,
        "periods": figures,
        "totals": totals,
        "against": _against(session, figures, totals),
        "best_fixed": _best_fixed(session, [name for name in compare.schedules if name in totals], totals),
        "priced": session.statement.money.is_priced(session.statement.task.kind),
        "policies": {
            **{name: words for name, words in POLICIES.items() if name != "counts" or compare.counts},
            **{name: counterfactual.in_words(*schedule) for name, schedule in compare.schedules.items()},
        },
        "note": _note(session, compare, always),
    }  # fmt: skip


def _best_fixed(session: Session, names: list[str], totals: dict[str, PolicyTotalJson]) -> str | None:
    """The schedule of the highest net worth, or of the best figure where nobody stated what a prediction is worth."""
    if session.statement.money.is_priced(session.statement.task.kind):
        return max(names, key=lambda name: totals[name]["net"], default=None)
    gain = metrics.metric(session.statement.success.metric).gain
    return max(names, key=lambda name: gain(totals[name]["metric"], 0.0), default=None)


def _known(session: Session, period: Period, until: dt.datetime) -> bool:
    late = (
        session.statement.time.holdout_days
        if isinstance(session.statement.task, Recommendation)
        else session.statement.time.label_delay_days
    )
    return period.until + dt.timedelta(days=late) <= until


def _totals(
    session: Session, figures: list[ComparedPeriod], retrained: list[dt.datetime], compare: Counterfactual
) -> dict[str, PolicyTotalJson]:
    """For each policy: mean figure, number of retrainings, worth less what the retrainings cost."""
    money, days = session.statement.money, session.statement.retrain.every_days
    policies = ("loop", "never", "counts", *compare.schedules)
    names = [name for name in policies if figures and all(name in period for period in figures)]
    if not figures:
        return {}
    last = utc(figures[-1]["until"])
    count = {
        "loop": sum(at < last for at in retrained),
        "never": 0,
        "counts": 0,
        **{
            name: len({at[utc(period["since"])] for period in figures} - {compare.begin})
            for name, at in compare.renewed.items()
        },
    }
    totals: dict[str, PolicyTotalJson] = {}
    for name in names:
        worth = sum(period[name]["worth"] for period in figures) * days / money.period_days
        totals[name] = {
            "metric": float(np.mean([period[name]["value"] for period in figures])),
            "retrainings": count[name],
            "worth": worth,
            "cost": count[name] * money.per_retraining,
            "net": worth - count[name] * money.per_retraining,
        }
    return totals


def _against(
    session: Session, figures: list[ComparedPeriod], totals: dict[str, PolicyTotalJson]
) -> dict[str, IntervalJson]:
    """For each other policy: what the loop is worth more, net of retraining, with its interval."""
    scale = session.statement.retrain.every_days / session.statement.money.period_days
    return {
        name: counterfactual.gained(figures, "loop", name, scale, totals["loop"]["cost"] - total["cost"])
        for name, total in totals.items()
        if name != "loop"
    }


def _note(session: Session, compare: Counterfactual, always: bool) -> str:
    if not always:
        return ""
    bound = ""
    if not isinstance(session.statement.task, Recommendation):
        bound = f", at most the newest {counterfactual.MAX_ROWS:,} rows"
    return (
        f"A schedule is a replay without gate or trial: the recipe of the first model ({compare.recipe['name']}), fitted to every "
        f"label that had come{bound}. All figures are on the same rows, by the labels that came in the end. Which schedule is "
        "best was found afterwards, and nobody could know it before."
    )


# ------------------------------------------------------------------------------------------------ showing it


def _is_priced(summary: HistoryJson) -> bool:
    """Whether policies are compared in money; of a history that did not note it: whether anything was worth something."""
    return summary.get("priced", any(total["worth"] for total in summary["totals"].values()))


def sentences(summary: HistoryJson) -> list[str]:
    """What was decided when, and what it gained: lines for the terminal and the page."""
    counts: dict[str, int] = {}
    for line in summary["turns"]:
        counts[line["action"]] = counts.get(line["action"], 0) + 1
    lines = [
        f"{len(summary['turns'])} turns: "
        + ", ".join(f"{n} {action}" for action, n in sorted(counts.items(), key=lambda p: -p[1]))
    ]
    lines += [f"{event['as_of'][:10]}: {event['word']}" for event in summary["events"]]
    totals, currency, is_priced = summary["totals"], summary["currency"], _is_priced(summary)
    label = metrics.metric(summary["metric"]).label
    for name, total in totals.items():
        net = (
            f"{number(total['net'])} {currency} ({number(total['worth'])} less {number(total['cost'])} for retraining)"
        )
        lines.append(
            f"{summary['policies'][name]}: {label} {number(total['metric'])} on average, {total['retrainings']} retrainings"
            + (f", {net}" if is_priced else "")
        )
    if {"loop", "never"} <= set(totals) and not is_priced:
        return [*lines, _by_the_figure(summary, label)]
    if {"loop", "never"} <= set(totals):
        against = [_gained(totals, "never", "never retraining", currency)]
        if "always" in totals:
            against.append(_gained(totals, "always", summary["policies"]["always"], currency))
        lines.append(f"over {len(summary['periods'])} periods the loop {' and '.join(against)}")
        if (best := summary.get("best_fixed")) and best != "always":
            called = f"the best fixed schedule, found afterwards ({summary['policies'][best]}, without gate or trial)"
            lines[-1:-1] = [f"the loop {_gained(totals, best, called, currency)}{_interval(summary, best)}"]
        lines[-1:-1] = _through_gates(summary)
    return lines


def _by_the_figure(summary: HistoryJson, label: str) -> str:
    """The sentence that compares the loop with the other policies where nobody stated what a prediction is worth."""
    totals, best = summary["totals"], summary.get("best_fixed")
    others = [name for name in dict.fromkeys(("never", "always", best)) if name in totals]
    called = {name: summary["policies"][name] for name in others}
    if best and best != "always":
        called[best] = f"the best fixed schedule, found afterwards ({called[best]})"
    figures = ", ".join(f"{number(totals[name]['metric'])} by {called[name]}" for name in others)
    return (
        f"over {len(summary['periods'])} periods the loop had {label} {number(totals['loop']['metric'])} on average, against "
        f"{figures}; the statement does not say what a prediction is worth, so nothing is compared in money"
    )


def _through_gates(summary: HistoryJson) -> list[str]:
    """The best fixed schedule through gate and trial, where a backtest replayed some."""
    gated = {name: total for name, total in summary.get("gated", {}).items() if total}
    if not gated:
        return []
    name, best = max(gated.items(), key=lambda pair: pair[1]["net"])
    every = int(name.removeprefix("every_"))
    return [
        f"the best fixed schedule through gate and trial ({counterfactual.in_words(every)}, by mlloop backtest): "
        f"{best['net']:,.0f} {summary['currency']}, {best['retrainings']} retrainings"
    ]


def _interval(summary: HistoryJson, name: str) -> str:
    gain = summary["against"][name]
    return f" (loop less schedule: [{number(gain['low'])} to {number(gain['high'])}])"


def _gained(totals: dict[str, PolicyTotalJson], other: str, called: str, currency: str) -> str:
    gain = round(totals["loop"]["net"] - totals[other]["net"])
    if gain == 0:
        return f"was worth as much as {called}"
    return f"{'gained' if gain > 0 else 'lost'} {abs(gain):,} {currency} against {called}"


def plot_policies(summary: HistoryJson, ax):
    """The realised figure of each period under each policy, and what happened when; returns ax."""
    import pandas as pd

    from mlloop.visualization import BLUE, GREEN, GREY, ORANGE, PINK, draw_threshold, label_axes

    periods = summary["periods"]
    at = [pd.Timestamp(period["until"]) for period in periods]
    styles = {"never": (ORANGE, "--", "s"), "always": (GREEN, ":", "^"), "loop": (BLUE, "-", "o")}
    best = summary.get("best_fixed")
    if best and best != "always":
        styles = {best: (PINK, "-.", "d"), **styles}
    for name, (colour, line, sign) in styles.items():
        if periods and name in periods[0]:
            values = [period[name]["value"] for period in periods]
            (points,) = ax.plot(
                at,
                values,
                color=colour,
                ls=line,
                marker=sign,
                ms=3.5,
                lw=1.6 if name == "loop" else 1.1,
                label=summary["policies"][name],
            )
            charts.name_marks(points, [f"{t:%Y-%m-%d}: {number(value)}" for t, value in zip(at, values, strict=True)])
    charts.keep_numbers(
        ax, _figures(summary, [name for name in ("loop", *styles) if name in periods[0]] if periods else [])
    )
    if summary.get("target") is not None:
        draw_threshold(ax, summary["target"], "target", horizontal=True)
    words: dict[str, list[str]] = {}
    for event in summary["events"]:
        words.setdefault(event["as_of"], []).append(event["word"])
    for moment, happened in words.items():
        ax.axvline(pd.Timestamp(moment), color=GREY, lw=0.8, ls=":")
        where = (pd.Timestamp(moment), 0.98)
        ax.annotate(
            ", ".join(happened),
            where,
            xycoords=("data", "axes fraction"),
            rotation=90,
            va="top",
            ha="right",
            fontsize=7,
            color=GREY,
        )
    if periods:
        ax.legend(fontsize=8, frameon=False, loc="best")
        ax.tick_params(axis="x", labelrotation=30)
    label = metrics.metric(summary["metric"]).label
    means = [
        f"{summary['policies'][name]} {number(total['metric'])}"
        for name, total in summary["totals"].items()
        if name in styles
    ]
    return label_axes(
        ax,
        f"{label} on average: {', '.join(means)}",
        f"n = {sum(period['n'] for period in periods):,} predictions with labels, in {len(periods)} periods",
        "end of the period (UTC)",
        label,
    )


def _figures(summary: HistoryJson, names: list[str]) -> "pd.DataFrame":
    """The realised figure of each period under each policy, as a table."""
    import pandas as pd

    rows = [
        [period["until"][:10], *(period[name]["value"] for name in dict.fromkeys(names))]
        for period in summary["periods"]
    ]
    return pd.DataFrame(rows, columns=["period until", *(summary["policies"][name] for name in dict.fromkeys(names))])


def _in_words(line: TurnLineJson) -> str:
    return "yes" if line["verdict"] == "yes" else wording.ACTIONS.get(line["action"], (line["action"], ""))[0]


def write_page(settings: Settings, plan: Plan, summary: HistoryJson) -> Path:
    """Write reports/PROBLEM/loop.html."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    import matplotlib.pyplot as plt

    from mlloop.pages import figures, problem_view, report
    from mlloop.visualization import panels

    fig, (ax,) = panels(width=9, height=4)
    plot_policies(summary, ax)
    label = metrics.metric(summary["metric"]).label
    chart = figures.of_drawing(charts.drawing(fig), f"{label} of each period under each policy")
    plt.close(fig)
    shown_stages = problem_view.stages(settings, plan.problem)
    view = {
        **report.navigation(settings, plan.problem, shown_stages),
        "problem": plan.problem,
        "summary": summary,
        "priced": _is_priced(summary),
        "sentences": sentences(summary),
        "chart": chart,
        "policies": {name: words for name, words in summary["policies"].items() if name in summary["totals"]},
        "actions": {line["action"]: _in_words(line) for line in summary["turns"]},
        "metric": metric_table.meaning(summary["metric"]),
        "label": label,
    }
    head = problem_view.Decisions(settings).head()
    drawn = [(stage.name, stage.shown, stage.word) for stage in shown_stages]
    return report._page(
        settings.reports / plan.problem / "loop.html", "loop.html", [summary, str(chart), drawn], lambda: view, head
    )
