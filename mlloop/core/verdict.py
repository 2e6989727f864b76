"""What a gate says: yes, maybe or no, on figures, with what would have to change.

A verdict is worked out from its checks alone: one that failed makes it No, one that is open makes it Maybe, and a
figure that is missing fails its check. So the same figures give the same verdict, whoever reads them again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

from mlloop.core import formatting
from mlloop.core.formatting import number
from mlloop.core.records import EvidenceJson

if TYPE_CHECKING:
    import pandas as pd

WORDS = {True: "yes", False: "no", None: "open"}
VERDICTS = ("yes", "maybe", "no")
STATED_UNDER = {
    "no rule suffices": "success.threshold", "threshold in reach": "success.threshold", "threshold met": "success.threshold",
    "gain over the best rule": "success.min_gain", "worth more than it costs": "money", "quick enough": "success.max_latency_ms",
    "no group of": "success.max_slice_gap",
}  # fmt: skip


FIGURES = {
    "no rule suffices": "best rule", "threshold in reach": "cheap model", "worth more than it costs": "worth after its cost",
    "better in every fold": "model better in", "better than the best rule": "gain over the best rule",
    "better than the champion": "gain over the champion", "quick enough": "99 of 100 predictions take at most",
    "can be loaded and asked": "predictions that a fresh process repeated", "what goes out is what was judged": "refit differs by",
    "both classes in the holdout": "rarer class in the holdout",
}  # fmt: skip


def figure_name(check: str) -> str:
    """What the figure of a check is: its name claims that the check passed, which a No or Maybe must not repeat."""
    group = check.removeprefix("no group of ").removesuffix(" left behind")
    if group != check:
        return f"worst group of {group} behind by"
    return FIGURES.get(check) or check.removeprefix("enough ")


class Conclusion(TypedDict):
    """What a gate concludes from its checks, in JSON's types."""

    gate: str
    verdict: str
    deciding: str
    reasons: list[str]
    evidence: list[EvidenceJson]
    must_change: list[str]


class StatedVerdict(TypedDict):
    """What a gate's notebook stated, as far as it was understood; `revision`: the statement's next one, where it was opened."""

    verdict: str
    reasons: list[str]
    evidence: list[EvidenceJson]
    must_change: list[str]
    deciding: str | None
    gate: NotRequired[str]
    revision: NotRequired[str]


@dataclass(frozen=True)
class Check:
    """One question a gate asks, its figure, and how it went.

    Attributes
    ----------
    name : str
        What was asked, in a reader's words.
    passed : bool or None
        None: the figures leave it open.
    reason : str
        One sentence with the figures in it.
    value, low, high, threshold : float or None
    unit : str
    must_change : str
        What would make it pass, in numbers; empty where it passed.
    """

    name: str
    passed: bool | None
    reason: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    threshold: float | None = None
    unit: str = ""
    must_change: str = ""

    def __post_init__(self):
        if self.passed is not None:  # a NumPy False is not `False`
            object.__setattr__(self, "passed", bool(self.passed))

    def evidence(self) -> EvidenceJson:
        """The figure as the ledger keeps it; what is not a finite number is None."""
        return {
            "name": self.name,
            "value": _finite(self.value),
            "unit": self.unit,
            "low": _finite(self.low),
            "high": _finite(self.high),
            "threshold": _finite(self.threshold),
            "passed": self.passed,
        }


def _finite(figure: float | None) -> float | None:
    return None if figure is None or not math.isfinite(figure) else float(figure)


WHETHER_KNOWN = "in the statement whether it is known: before, or known: after the target"


def known_before(column: str, reason: str, without: float) -> Check:
    """Left open: a model rests on a column of which the owner of the data has not said when it is known.

    Parameters
    ----------
    without : float
        The metric of a cheap model that does without the column.
    """
    change = f"say of {column} {WHETHER_KNOWN}"
    return Check(f"{column} is known before", None, reason, without, unit="without it", must_change=change)


def conclude(gate: str, checks: Iterable[Check], main: str = "") -> Conclusion:
    """The verdict of a gate.

    Parameters
    ----------
    gate : str
        'need' or 'validation'.
    checks : iterable of Check
        In order of weight: the first that failed decides, else the first left open, else `main`.
    main : str
        Name of the check that a Yes rests on; default: the first.

    Returns
    -------
    Conclusion
        gate, verdict ('yes', 'maybe', 'no'), deciding (name of a check), reasons, evidence, must_change.
    """
    listed = list(checks)
    unclear = [c for c in listed if c.passed is None]
    failed = [c for c in listed if c.passed is not None and not c.passed]
    verdict = "no" if failed or not listed else "maybe" if unclear else "yes"
    ordered = failed + unclear + [c for c in listed if c.passed]
    return {
        "gate": gate,
        "verdict": verdict,
        "deciding": (failed or unclear or [c for c in listed if c.name == main] or listed)[0].name if listed else "",
        "reasons": [c.reason for c in ordered if c.reason],
        "evidence": [c.evidence() for c in listed],
        "must_change": [c.must_change for c in failed + unclear if c.must_change],
    }


def is_hardly_chance(value: float, low: float, high: float, confidence: float) -> bool:
    """Whether a gain is above zero with a confidence, asked on one side.

    Parameters
    ----------
    value, low, high : float
        The gain and its interval, two-sided and of the same confidence.
    confidence : float
        Such as 0.95.
    """
    beyond = NormalDist().inv_cdf
    error = (high - low) / 2 / beyond(0.5 + confidence / 2)
    return bool(value > beyond(confidence) * error)


def lines_to_change(evidence: Iterable[Mapping[str, Any]]) -> list[str]:
    """The lines of a statement that the checks which failed hold against the figures, such as 'success.threshold'."""
    failed = [str(check.get("name")) for check in evidence if check.get("passed") is False]
    of_a_group = {name: STATED_UNDER["no group of"] for name in failed if name.startswith("no group of")}
    return list(dict.fromkeys(line for name in failed if (line := (STATED_UNDER | of_a_group).get(name))))


BESIDE_CHAMPION = "better than the champion"  # the name of the check
GROUPS = "no group of "  # how the names of the checks of groups begin


def is_champion_as_good(verdict: Mapping[str, Any]) -> bool:
    """Whether a No rests on the champion alone: the model solves the problem, and so does the one that is there."""
    failed = [check for check in verdict.get("evidence") or [] if check.get("passed") is False]
    is_alone = [check.get("name") for check in failed] == [BESIDE_CHAMPION]
    return verdict.get("verdict") == "no" and is_alone and failed[0].get("value") is not None


def stated(content: Any) -> StatedVerdict:
    """The verdict that a gate stated; one that is missing or not understood counts as No, and says so.

    Returns
    -------
    dict
        verdict ('yes', 'maybe' or 'no'), reasons, evidence, must_change, deciding.
    """
    if isinstance(content, dict) and content.get("verdict") in VERDICTS:
        defaults: Mapping[str, object] = {"reasons": [], "evidence": [], "must_change": [], "deciding": None}
        return cast(StatedVerdict, {**defaults, **content})
    shown = "nothing" if content is None else repr(content)
    reason = f"the gate's notebook said {shown}, expected a verdict of yes, maybe or no; no verdict counts as no"
    return {"verdict": "no", "reasons": [reason], "evidence": [], "must_change": [reason], "deciding": None}


def table(verdict: Mapping[str, Any]) -> pd.DataFrame:
    """A verdict's figures for a page: figure, unit, interval, threshold, verdict (one row a check)."""
    import pandas as pd

    rows = [
        {
            "question": e["name"],
            "figure": number(e["value"]) if e["value"] is not None else "",
            "unit": e["unit"],
            "interval": formatting.interval(e["low"], e["high"]) if e["low"] is not None else "",
            "threshold": number(e["threshold"]) if e["threshold"] is not None else "",
            "verdict": WORDS[e["passed"]],
        }
        for e in verdict["evidence"]
    ]
    return pd.DataFrame(rows, columns=["question", "figure", "unit", "interval", "threshold", "verdict"]).set_index(
        "question"
    )
