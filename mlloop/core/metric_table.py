"""The metrics, each described once: name, title, unit, direction, range, task, and what it says in words.

Problem statements are checked against this table, the figures of `mlloop.core.metrics` are computed by its names, and
pages take titles and meanings from it. It imports nothing heavy, since the command line reads statements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlloop.core.errors import UsageError
from mlloop.core.formatting import number


@dataclass(frozen=True)
class Metric:
    """What a metric is called, which way is better, and between which figures it lies.

    Attributes
    ----------
    name, label : str
        The key used in problem statements, and the title for readers.
    task : str
        'classification', 'regression' or 'recommendation'.
    higher_is_better : bool
    meaning : str
        What it measures, in half a sentence.
    low, high : float
        Its range.
    unit : str
        '' for a pure number, 'target' for the unit of what is predicted.
    has_target : bool
        Whether a problem statement may ask for it (success.metric).
    is_usual : bool
        Whether it is shown where the statement does not ask for it.
    """

    name: str
    label: str
    task: str
    higher_is_better: bool
    meaning: str
    low: float = 0.0
    high: float = 1.0
    unit: str = ""
    has_target: bool = True
    is_usual: bool = True

    def gain(self, ours: float, theirs: float) -> float:
        """How much better `ours` is than `theirs`; positive is better, whichever way the metric runs."""
        return ours - theirs if self.higher_is_better else theirs - ours

    def meets(self, value: float, threshold: float) -> bool:
        """Whether `value` is at least as good as `threshold`; never where it is not a number."""
        return math.isfinite(value) and bool(self.gain(value, threshold) >= 0)

    @property
    def bound(self) -> str:
        """How a threshold is asked for: 'at least' or 'at most'."""
        return "at least" if self.higher_is_better else "at most"


CLASSIFICATION, REGRESSION, RECOMMENDATION = "classification", "regression", "recommendation"
UP, DOWN = True, False

METRICS = {
    m.name: m
    for m in (
        Metric(
            "roc_auc",
            "ROC AUC",
            CLASSIFICATION,
            UP,
            "how often a positive row is ranked above a negative one: 0.5 is guessing, 1 is perfect",
        ),
        Metric(
            "average_precision",
            "average precision",
            CLASSIFICATION,
            UP,
            "precision averaged over the ranking: 1 is perfect, guessing gives the share of positives",
        ),
        Metric("accuracy", "accuracy", CLASSIFICATION, UP, "the share of correct predictions"),
        Metric(
            "balanced_accuracy",
            "balanced accuracy",
            CLASSIFICATION,
            UP,
            "the mean of the shares of positives and of negatives that are found: 0.5 is guessing, 1 is perfect",
            is_usual=False,
        ),
        Metric(
            "f1",
            "F1",
            CLASSIFICATION,
            UP,
            "the harmonic mean of precision and recall: 1 is perfect, 0 finds no positive",
        ),
        Metric(
            "log_loss",
            "log loss",
            CLASSIFICATION,
            DOWN,
            "how wrong the probabilities are, confident errors most: 0 is perfect",
            high=math.inf,
        ),
        Metric(
            "brier",
            "Brier score",
            CLASSIFICATION,
            DOWN,
            "the squared distance of the probabilities from the outcome: 0 is perfect",
        ),
        Metric(
            "ece",
            "expected calibration error",
            CLASSIFICATION,
            DOWN,
            "how far the probabilities are off on average: 0 is perfect",
            has_target=False,
        ),
        Metric(
            "mae",
            "mean absolute error",
            REGRESSION,
            DOWN,
            "the average error of a prediction",
            high=math.inf,
            unit="target",
        ),
        Metric(
            "rmse",
            "root mean squared error",
            REGRESSION,
            DOWN,
            "the average error of a prediction, large errors counting more",
            high=math.inf,
            unit="target",
        ),
        Metric(
            "r2",
            "R2",
            REGRESSION,
            UP,
            "the share of the variance that is explained: 1 is all, 0 is no better than the mean",
            low=-math.inf,
        ),
        Metric(
            "mape",
            "mean absolute percentage error",
            REGRESSION,
            DOWN,
            "the average error of a prediction, as a share of the true value",
            high=math.inf,
        ),
        Metric(
            "rmsle",
            "root mean squared logarithmic error",
            REGRESSION,
            DOWN,
            "the average error of a prediction in logarithms of 1 + the value, so that factors count, not differences",
            high=math.inf,
            is_usual=False,
        ),
        Metric(
            "poisson_deviance",
            "mean Poisson deviance",
            REGRESSION,
            DOWN,
            "how unlikely the counts are under the predictions: 0 is perfect",
            high=math.inf,
            is_usual=False,
        ),
        Metric(
            "pinball_10",
            "pinball loss at 10 %",
            REGRESSION,
            DOWN,
            "the error of a prediction below which one value in ten should lie",
            high=math.inf,
            unit="target",
            is_usual=False,
        ),
        Metric(
            "pinball_90",
            "pinball loss at 90 %",
            REGRESSION,
            DOWN,
            "the error of a prediction below which nine values in ten should lie",
            high=math.inf,
            unit="target",
            is_usual=False,
        ),
        Metric(
            "ndcg",
            "NDCG",
            RECOMMENDATION,
            UP,
            "how high the relevant items are in the list: 1 means all of them first, 0 means none in the list",
        ),
        Metric("hit_rate", "hit rate", RECOMMENDATION, UP, "the share of lists with at least one relevant item"),
        Metric("recall", "recall", RECOMMENDATION, UP, "the share of the relevant items that are in the list"),
        Metric(
            "map",
            "mean average precision",
            RECOMMENDATION,
            UP,
            "precision averaged over the relevant items: 1 is perfect",
        ),
    )
}


LEVELS = {"pinball_10": 0.1, "pinball_90": 0.9}  # the share of the values that should lie below a prediction
OF_CLASSES = ("accuracy", "balanced_accuracy", "f1")  # they judge classes, for which there has to be a threshold


def metric(name: str) -> Metric:
    """The metric called `name`.

    Raises
    ------
    UsageError
        No such metric.
    """
    if name not in METRICS:
        known = ", ".join(METRICS)
        raise UsageError(f"no metric {name!r} (known: {known})", next_step="Fix success.metric, then: mlloop check")
    return METRICS[name]


def of_task(task: str) -> list[Metric]:
    """The metrics of a task."""
    return [m for m in METRICS.values() if m.task == task]


def targets(task: str) -> list[str]:
    """The metrics that a problem statement of this task may ask for."""
    return [m.name for m in of_task(task) if m.has_target]


def title(name: object) -> str:
    """A metric as people write it: 'ROC AUC' for roc_auc; a name that is not known, in words."""
    known = METRICS.get(str(name))
    return known.label if known else str(name).replace("_", " ")


THRESHOLDS = {
    "money": "from there on acting pays, by what the statement says decisions are worth",
    "metric": "there the metric was best on rows that are not judged",
    "default": "the statement does not say what decisions are worth",
}


def threshold_in_words(value: float, source: str) -> str:
    """From which score on a row is predicted positive, and where that threshold comes from."""
    if source == "money" and not 0 < value <= 1:
        every, less = ("every row", "positive") if value <= 0 else ("no row", "negative")
        return f"{every} is predicted positive: by the statement's money {less} is worth more at any probability"
    return f"a row is predicted positive from a score of {number(value)} on: {THRESHOLDS.get(source, source)}"


def meaning(name: object) -> str:
    """A sentence that says what a metric measures; '' for one that is not known."""
    known = METRICS.get(str(name))
    return f"{known.label}: {known.meaning}." if known else ""
