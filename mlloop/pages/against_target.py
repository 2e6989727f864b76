"""How production does now, by the labels that came: against the target, against the rule, and where it fell."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from mlloop.core import formatting, metric_table
from mlloop.pages import wording
from mlloop.problem import Problem, Retrain
from mlloop.products import Monitoring, Other, Realised

LAST = 8


class StandingView(TypedDict):
    """How production does: the state and its shape, a sentence, the figure, a sentence on the rule, and the period."""

    word: str
    mark: str
    sentence: str
    figure: str
    rule: str
    period: str


@dataclass(frozen=True)
class Fall:
    """Periods in a row in which labels showed the model worse than its reference.

    Attributes
    ----------
    since, until : str
        From the start of the first to the end of the last, as people read them.
    worst : float
        The figure of the worst of them.
    periods : int
    end : str
        How it ended: 'passed', 'a new model', or '' where no later period has labels.
    """

    since: str
    until: str
    worst: float
    periods: int
    end: str

    def sentence(self, label: str) -> str:
        """The fall in a sentence."""
        ends = {"passed": "It passed.", "a new model": "It ended with a new model."}
        over = ends.get(self.end, "No later period has labels.")
        return (
            f"{label} fell to {formatting.number(self.worst)} in {_counted(self.periods, 'period')} from {self.since} to "
            f"{self.until}. {over}"
        )


def realised(looks: Iterable[Monitoring]) -> list[Realised]:
    """What labels showed of each period, in order; where it was reported more than once, the newest report counts."""
    newest = {figure.period.since: figure for product in looks for figure in product.realised}
    return [newest[start] for start in sorted(newest)]


def standing(
    statement: Problem | None, looks: Mapping[str, Monitoring], live: Mapping[str, Any]
) -> StandingView | None:
    """How production does in the newest period with labels, against its target and against its rule.

    Returns
    -------
    dict
        'word' and 'mark' (the state and its shape), 'sentence', 'figure' (value, interval, target), 'rule' (a sentence) and
        'period'; None where nothing is in production.
    """
    if statement is None or not live:
        return None
    metric, target = metric_table.metric(statement.success.metric), statement.success.threshold
    known = [one for one in realised(looks.values()) if one.value is not None]
    asked = f"{metric.label} {metric.bound} {formatting.number(target)}"
    if not known:
        return _not_known(asked, looks)
    last = known[-1]
    assert last.value is not None
    if last.model != live["model"]:
        return _of_another(asked, known, str(live["model"]))
    is_met = metric.meets(last.value, target)
    value, threshold = formatting.apart(last.value, target)
    within = wording.span(last.low, last.high)
    missed = sum(not metric.meets(one.value, target) for one in known[-LAST:] if one.value is not None)
    inside = f" ({within})" if within != "–" else ""
    return {
        "word": "meets its target" if is_met else "misses its target",
        "mark": "fresh" if is_met else "failed",
        "sentence": (
            f"Production {'meets' if is_met else 'misses'} its target: {metric.label} {value}{inside}, target {threshold}, in the "
            f"period from {_start(last)}. {_often(missed, len(known[-LAST:]))}"
        ),
        "figure": f"{value}{inside}, target {threshold}",
        "rule": _rule(last),
        "period": _start(last),
    }


def _of_another(asked: str, known: Sequence[Realised], live: str) -> StandingView:
    """Where the newest labels are those of the model before: what it came to, and the one in production when it last answered."""
    own = next((one for one in reversed(known) if one.model == live), None)
    told = lambda one: (
        f"{formatting.number(one.value)} ({wording.span(one.low, one.high)}) in the period from {_start(one)}"
    )
    earlier = f" When the one in production last answered, it came to {told(own)}." if own else ""
    return {
        "word": "not known yet",
        "mark": "missing",
        "sentence": (
            f"Whether production meets its target ({asked}) is not known yet: no label has come since the model changed. The model "
            f"before it ({known[-1].model[:12]}) came to {told(known[-1])}.{earlier}"
        ),
        "figure": "",
        "rule": "",
        "period": "",
    }


def _not_known(asked: str, looks: Mapping[str, Monitoring]) -> StandingView:
    last = list(looks.values())[-1].estimated if looks else None
    guess = ""
    if last is not None and last.value is not None:
        guess = f" Without labels {formatting.number(last.value)} is estimated."
    why = "no label has come for it" if looks else "it has not been monitored"
    return {
        "word": "not known yet",
        "mark": "missing",
        "sentence": f"Whether production meets its target ({asked}) is not known yet: {why}.{guess}",
        "figure": "",
        "rule": "",
        "period": "",
    }


def _often(missed: int, periods: int) -> str:
    if periods == 1:
        return "It is the only period with labels."
    which = "none" if not missed else "all" if missed == periods else str(missed)
    return f"Of the last {periods} periods with labels {which} missed it."


def _rule(last: Realised) -> str:
    """How the best of the rules would have done on the same rows, in a sentence; '' where none was kept ready."""
    rules: list[Other] = [one for one in last.others if one.kind == "rule" and one.gain is not None]
    if not rules:
        return ""
    best = max(rules, key=lambda one: one.gain or 0.0)
    assert best.gain is not None
    by = formatting.number(abs(best.gain))
    low, high = (best.low, best.high) if best.gain > 0 else wording.mirrored(best.low, best.high)
    is_sure = low is not None and low > 0
    more = "" if is_sure else ", which may be chance"
    who = "The rule {0!r} is better than production" if best.gain > 0 else "Production is better than the rule {0!r}"
    name = who.format(best.name)
    return f"{name} by {by} ({wording.span(low, high)}) on the same rows{more}."


def falls(known: Sequence[Realised], policy: Retrain) -> list[Fall]:
    """The periods in which labels showed a model worse than its reference, neighbours in one piece, the oldest first."""
    found: list[list[Realised]] = []
    was_worse = False
    for one in known:
        is_worse = _is_worse(one, policy)
        if is_worse and was_worse:
            found[-1].append(one)
        elif is_worse:
            found.append([one])
        was_worse = is_worse
    after = lambda part: next((one for one in known if one.period.since > part[-1].period.since), None)
    end = lambda one, model: "" if one is None else "passed" if one.model == model else "a new model"
    return [
        Fall(
            _start(part[0]),
            wording.moment(part[-1].period.until),
            max(part, key=lambda one: one.worse_by or 0.0).value or 0.0,
            len(part),
            end(after(part), part[-1].model),
        )
        for part in found
    ]


def _is_worse(one: Realised, policy: Retrain) -> bool:
    """Whether a period is surely and noticeably worse than the reference, by the statement's own rule."""
    return one.value is not None and policy.is_worse(one.worse_by or 0.0, one.standard_errors or 0.0)


def title(known: Sequence[Realised], statement: Problem) -> str:
    """What a chart of the periods shows, as its heading: the newest fall, or how many periods miss the target."""
    metric, target = metric_table.metric(statement.success.metric), statement.success.threshold
    figures = [one for one in known if one.value is not None]
    if not figures:
        return f"No label has come yet; target {formatting.number(target)}"
    missed = sum(not metric.meets(one.value, target) for one in figures if one.value is not None)
    said = f"{missed} of {_counted(len(figures), 'period')} with labels miss the target of {formatting.number(target)}"
    fell = falls(figures, statement.retrain)
    return said + (f"; {fell[-1].sentence(metric.label)}" if fell else ".")


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _start(one: Realised) -> str:
    return wording.moment(one.period.since)
