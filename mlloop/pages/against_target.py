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
            f"{label} fell to {formatting.number(self.worst)} in {formatting.quantity(self.periods, 'period')} from {self.since} to "
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
    known = [figure for figure in realised(looks.values()) if figure.value is not None]
    named = statement.target_name
    target_text = f"its {named} ({metric.label} {metric.bound} {formatting.number(target)})"
    if not known:
        return _not_known(target_text, looks)
    last = known[-1]
    assert last.value is not None
    if last.model != live["model"]:
        return _of_another(target_text, known, str(live["model"]))
    is_met = metric.meets(last.value, target)
    value, threshold = formatting.apart(last.value, target)
    within = wording.span(last.low, last.high)
    missed = sum(not metric.meets(figure.value, target) for figure in known[-LAST:] if figure.value is not None)
    inside = f" ({within})" if within != "–" else ""
    return {
        "word": f"{'meets' if is_met else 'misses'} its {named}",
        "mark": "fresh" if is_met else "failed",
        "sentence": (
            f"Production {'meets' if is_met else 'misses'} its {named}: {metric.label} {value}{inside}, {named} {threshold}, in the "
            f"period from {_start(last)}. {_often(missed, len(known[-LAST:]))}"
        ),
        "figure": f"{value}{inside}, {named} {threshold}",
        "rule": _rule(last),
        "period": _start(last),
    }


def _of_another(target_text: str, known: Sequence[Realised], live: str) -> StandingView:
    """Where the newest labels are those of the model before: what it came to, and the one in production when it last answered."""
    own = next((figure for figure in reversed(known) if figure.model == live), None)
    in_words = lambda figure: (
        f"{formatting.number(figure.value)} ({wording.span(figure.low, figure.high)}) in the period from {_start(figure)}"
    )
    earlier = f" When the one in production last answered, it came to {in_words(own)}." if own else ""
    return {
        "word": "not known yet",
        "mark": "missing",
        "sentence": (
            f"Whether production meets {target_text} is not known yet: no label has come since the model changed. The model "
            f"before it ({known[-1].model[:12]}) came to {in_words(known[-1])}.{earlier}"
        ),
        "figure": "",
        "rule": "",
        "period": "",
    }


def _not_known(target_text: str, looks: Mapping[str, Monitoring]) -> StandingView:
    last = list(looks.values())[-1].estimated if looks else None
    guess = ""
    if last is not None and last.value is not None:
        guess = f" Without labels {formatting.number(last.value)} is estimated."
    why = "no label has come for it" if looks else "it has not been monitored"
    return {
        "word": "not known yet",
        "mark": "missing",
        "sentence": f"Whether production meets {target_text} is not known yet: {why}.{guess}",
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
    rules: list[Other] = [other for other in last.others if other.kind == "rule" and other.gain is not None]
    if not rules:
        return ""
    best = max(rules, key=lambda other: other.gain or 0.0)
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
    parts: list[list[Realised]] = []
    was_worse = False
    for figure in known:
        is_worse = _is_worse(figure, policy)
        if is_worse and was_worse:
            parts[-1].append(figure)
        elif is_worse:
            parts.append([figure])
        was_worse = is_worse
    after = lambda part: next((later for later in known if later.period.since > part[-1].period.since), None)
    end = lambda later, model: "" if later is None else "passed" if later.model == model else "a new model"
    return [
        Fall(
            _start(part[0]),
            wording.moment(part[-1].period.until),
            max(part, key=lambda figure: figure.worse_by or 0.0).value or 0.0,
            len(part),
            end(after(part), part[-1].model),
        )
        for part in parts
    ]


def _is_worse(figure: Realised, policy: Retrain) -> bool:
    """Whether a period is surely and noticeably worse than the reference, by the statement's own rule."""
    return figure.value is not None and policy.is_worse(figure.worse_by or 0.0, figure.standard_errors or 0.0)


def title(known: Sequence[Realised], statement: Problem) -> str:
    """What a chart of the periods shows, as its heading: the newest fall, or how many periods miss the target."""
    metric, target = metric_table.metric(statement.success.metric), statement.success.threshold
    figures = [figure for figure in known if figure.value is not None]
    if not figures:
        return f"No label has come yet; {statement.target_name} {formatting.number(target)}"
    missed = sum(not metric.meets(figure.value, target) for figure in figures if figure.value is not None)
    summary = f"{missed} of {formatting.quantity(len(figures), 'period')} with labels miss the {statement.target_name} of {formatting.number(target)}"
    fell = falls(figures, statement.retrain)
    return summary + (f"; {fell[-1].sentence(metric.label)}" if fell else ".")


def _start(figure: Realised) -> str:
    return wording.moment(figure.period.since)
