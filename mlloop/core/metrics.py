"""How good are predictions, how sure are we, and what are they worth?

`FORMULAS` has one for every metric of rows in `core.metric_table`, over weights of rows: all ones give the figure, counts drawn with replacement give its
bootstrap interval, and the same counts put under two models give the interval of their difference.
Ties never help a ranking: an item that was wanted stands behind every unwanted item of equal score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mlloop.core.errors import DataError, UsageError
from mlloop.core.metric_table import LEVELS, metric
from mlloop.core.metric_table import METRICS as METRICS
from mlloop.core.metric_table import Metric as Metric

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

WIDER = "Widen the window (time.holdout_days), then: mlloop run"
OTHER = "Choose another success.metric, then: mlloop check"
CELLS = 4_000_000  # weights held at once: 32 MB
BINS = 10
TINY = np.finfo(np.float64).eps

Weighted = Callable[[np.ndarray], np.ndarray]  # (draws, rows) -> (draws,)


PROBABILITIES = ("log_loss", "brier", "ece")


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes
    ----------
    value, low, high : float
    n : int
        Rows, or users, it rests on.
    confidence : float
        Of the two-sided interval.
    method : str
        'bootstrap', 't', 'DeLong' or 'folds'.
    """

    value: float
    low: float
    high: float
    n: int
    confidence: float = 0.95
    method: str = "bootstrap"

    def scaled(self, factor: float) -> Estimate:
        """The same estimate in another unit: worth of a decision to worth of a period, say."""
        low, high = sorted((self.low * factor, self.high * factor))
        return Estimate(self.value * factor, low, high, self.n, self.confidence, self.method)

    @property
    def standard_error(self) -> float:
        """The standard error that the interval stands for, read as a normal one."""
        from scipy.stats import norm

        return float((self.high - self.low) / (2 * norm.ppf(0.5 + self.confidence / 2)))

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        return f"{self.value:{spec}} [{self.low:{spec}} to {self.high:{spec}}]".replace("-", "−")


def anytime(estimate: Estimate, tuned_to: int) -> Estimate:
    """The same figure with an interval that stays valid however often one looks while rows come.

    An interval of fixed size covers the truth with its confidence on one look; of many looks one will miss it. This one
    covers it at all looks together, for means and for figures that behave like them (ROC AUC, a paired gain), once the
    rows suffice for the usual interval. It is about 1.6 times as wide.

    Parameters
    ----------
    estimate : Estimate
        Of all rows so far; its interval is read as a normal one.
    tuned_to : int
        Rows at which the interval is narrowest; its width is within a tenth of that from a third of them to ten times.

    References
    ----------
    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), Time-uniform central limit theory and asymptotic confidence
    sequences, Annals of Statistics 52: Theorem 2.2, with rho of its eq. 10; Robbins (1970), Annals of Mathematical
    Statistics 41, for the mixture.
    """
    alpha = 1 - estimate.confidence
    two_log = -2 * np.log(alpha)
    grown = max(estimate.n, 1) / max(tuned_to, 1) * (two_log + np.log(two_log) + 1)  # t rho^2
    reach = float(estimate.standard_error * np.sqrt(2 * (grown + 1) / grown * np.log(np.sqrt(grown + 1) / alpha)))
    return Estimate(
        estimate.value, estimate.value - reach, estimate.value + reach, estimate.n, estimate.confidence, "anytime"
    )


# ---- the figures, over weights -------------------------------------------------------------------------------------


def measure(name: str, y_true: ArrayLike, y_score: ArrayLike, threshold: float = 0.5) -> float:
    """The metric `name` of predictions.

    Parameters
    ----------
    name : str
        A metric of classification or regression.
    y_true : array-like of shape (n_samples,)
        0 and 1 (1 is the positive class), or the true numbers.
    y_score : array-like of shape (n_samples,)
        Scores, higher meaning more likely positive (probabilities for log_loss, brier, ece); or predicted numbers.
    threshold : float, default 0.5
        The score from which a row counts as predicted positive; used by accuracy and f1.

    Raises
    ------
    DataError
        No rows, unequal lengths, missing values, one class only, scores that are no probabilities, or a target of 0
        under mape.
    """
    y, s = _checked(name, y_true, y_score)
    return float(_weighted(name, y, s, threshold)(np.ones((1, len(y))))[0])


def expected(name: str, belief: ArrayLike, y_score: ArrayLike, threshold: float = 0.5) -> float:
    """The metric of classification to be expected where each row is positive with the probability `belief`.

    Every row stands once as positive, weighing `belief`, and once as negative, weighing the rest.

    Parameters
    ----------
    name : str
        A metric of classification but 'ece'.
    belief : array-like of shape (n_samples,)
        Probabilities, 0 to 1.
    y_score, threshold
        As `measure` takes them.

    Raises
    ------
    DataError
        As `measure`; beliefs that are no probabilities; a metric that cannot be expected so.

    References
    ----------
    Bialek et al. (2024), arXiv 2401.08348, section 3: CBPE's confusion matrix and area under the curve.
    """
    p = np.asarray(belief, dtype=float).ravel()
    if not np.isfinite(p).all() or ((p < 0) | (p > 1)).any():
        raise DataError("calibrated probabilities must lie from 0 to 1", name, "Calibrate the scores first")
    if metric(name).task != "classification" or name == "ece":
        raise DataError("cannot be estimated from calibrated probabilities, only from labels", name, OTHER)
    s = np.asarray(y_score, dtype=float).ravel()
    y, s = _checked(name, np.r_[np.ones(len(p)), np.zeros(len(p))], np.r_[s, s])
    return float(_weighted(name, y, s, threshold)(np.r_[p, 1 - p][None])[0])


SPREAD_ROWS = 20_000


def standard_error(
    name: str,
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    threshold: float = 0.5,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> float:
    """How far the metric lies from its true value by chance, one standard error.

    Taken as `estimate` does, DeLong or bootstrap; of more than `SPREAD_ROWS` independent rows so many are drawn and
    the error is made smaller by the root of their share.
    """
    y, s = _checked(name, y_true, y_score)
    n, who = len(y), None if groups is None else np.asarray(groups)
    if n > SPREAD_ROWS and who is None:
        some = np.random.default_rng(seed).choice(n, SPREAD_ROWS, replace=False)
        y, s = y[some], s[some]
    interval = estimate(name, y, s, threshold=threshold, groups=who, draws=300, seed=seed)
    return float(interval.standard_error * np.sqrt(len(y) / n))


def _checked(name: str, y_true: ArrayLike, y_score: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    known = metric(name)
    if known.task == "recommendation":
        raise UsageError(f"{name} is taken per user from ranks", next_step="Use ranking_values and estimate_mean")
    y, s = np.asarray(y_true, dtype=float).ravel(), np.asarray(y_score, dtype=float).ravel()
    if len(y) != len(s):
        raise DataError(
            f"{len(y)} true values and {len(s)} predictions cannot be compared",
            name,
            "Give one prediction for each true value",
        )
    if not len(y):
        raise DataError("there are no rows to measure", name, WIDER)
    for what, values in (("true values", y), ("predictions", s)):
        if not np.isfinite(values).all():
            raise DataError(
                f"{(~np.isfinite(values)).sum()} of {len(y)} {what} are missing or infinite",
                name,
                "Leave those rows out, or fix what made them, before measuring",
            )
    if known.task == "classification":
        _check_classes(name, y, s)
    elif name in ("rmsle", "poisson_deviance") and (y < 0).any():
        raise DataError(f"the target is negative in {(y < 0).sum()} rows, where it means nothing", name, OTHER)
    elif name == "mape" and (y == 0).any():
        raise DataError(f"the target is 0 in {(y == 0).sum()} rows, where a percentage means nothing", name, OTHER)
    elif name == "r2" and (y == y[0]).all():
        raise DataError(f"the target is {y[0]:g} in every row: there is nothing to explain", name, OTHER)
    return y, s


def _check_classes(name: str, y: np.ndarray, s: np.ndarray) -> None:
    if not np.isin(y, (0, 1)).all():
        raise DataError(
            f"true classes must be 0 and 1, got {np.unique(y)[:5].tolist()}",
            name,
            "Write the class to be predicted as 1 and the others as 0",
        )
    if name in ("roc_auc", "average_precision", "f1", "balanced_accuracy") and len(np.unique(y)) == 1:
        raise DataError(f"needs both classes, all {len(y)} rows are of class {y[0]:.0f}", name, WIDER)
    if name in PROBABILITIES and ((s < 0) | (s > 1)).any():
        raise DataError(
            f"needs probabilities, got scores from {s.min():g} to {s.max():g}",
            name,
            "Calibrate them, or choose roc_auc in the problem statement",
        )


def _weighted(name: str, y: np.ndarray, s: np.ndarray, threshold: float = 0.5) -> Weighted:
    """The metric as a function of row weights (draws, rows)."""
    return FORMULAS[name](y, s, threshold)


def mean_of(values: np.ndarray) -> Weighted:
    """The weighted mean of `values` as a function of weights."""
    return lambda w: _ratio(w @ values, w.sum(axis=1))


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, NaN where a draw left nothing to divide by."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)


def _area(name: str, y: np.ndarray, s: np.ndarray) -> Weighted:
    order = np.argsort(-s, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(s[order]) != 0])  # where each distinct score begins
    positive = y[order] == 1

    def area(w: np.ndarray) -> np.ndarray:
        sorted_w = w[:, order]
        up = np.add.reduceat(sorted_w * positive, first, axis=1)  # (draws, distinct scores)
        down = np.add.reduceat(sorted_w * ~positive, first, axis=1)
        hits, alarms = up.cumsum(axis=1), down.cumsum(axis=1)
        if name == "roc_auc":
            return _ratio((down * (hits - up / 2)).sum(axis=1), hits[:, -1] * alarms[:, -1])
        precision = _ratio(hits, hits + alarms)
        return _ratio(np.nansum(precision * up, axis=1), hits[:, -1])

    return area


def _calibration_error(y: np.ndarray, s: np.ndarray) -> Weighted:
    bins = np.minimum((s * BINS).astype(int), BINS - 1)
    gap = np.zeros((len(y), BINS))
    gap[np.arange(len(y)), bins] = y - s
    return lambda w: _ratio(np.abs(w @ gap).sum(axis=1), w.sum(axis=1))


def _precision_and_recall(y: np.ndarray, s: np.ndarray, threshold: float) -> Weighted:
    hit = s >= threshold
    true_positive, wrong = (hit & (y == 1)).astype(float), (hit != (y == 1)).astype(float)
    return lambda w: _ratio(2 * (w @ true_positive), 2 * (w @ true_positive) + w @ wrong)


def _balanced(y: np.ndarray, s: np.ndarray, threshold: float) -> Weighted:
    right, positive = ((s >= threshold) == (y == 1)).astype(float), (y == 1).astype(float)
    recall = lambda w, of: _ratio(w @ (right * of), w @ of)
    return lambda w: (recall(w, positive) + recall(w, 1 - positive)) / 2


def _root_mean_square(y: np.ndarray, s: np.ndarray) -> Weighted:
    error = (y - s) ** 2
    return lambda w: np.sqrt(_ratio(w @ error, w.sum(axis=1)))


def _explained(y: np.ndarray, s: np.ndarray) -> Weighted:
    error, centred = (y - s) ** 2, y - y.mean()  # centred for accuracy of the sums

    def explained(w: np.ndarray) -> np.ndarray:
        spread = w @ centred**2 - _ratio((w @ centred) ** 2, w.sum(axis=1))
        return 1 - _ratio(w @ error, spread)

    return explained


def _log_losses(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    p = np.clip(p, TINY, 1 - TINY)
    return -np.log(np.where(y == 1, p, 1 - p))


def _poisson_deviances(y: np.ndarray, mean: np.ndarray) -> np.ndarray:
    mean = np.maximum(mean, TINY)
    return 2 * (np.where(y > 0, y * np.log(np.where(y > 0, y, 1.0) / mean), 0.0) - y + mean)


def _pinball(level: float) -> Callable[[np.ndarray, np.ndarray, float], Weighted]:
    return lambda y, s, at: mean_of(np.maximum(level * (y - s), (level - 1) * (y - s)))


FORMULAS: dict[str, Callable[[np.ndarray, np.ndarray, float], Weighted]] = {
    "roc_auc": lambda y, s, at: _area("roc_auc", y, s),
    "average_precision": lambda y, s, at: _area("average_precision", y, s),
    "accuracy": lambda y, s, at: mean_of(((s >= at) == (y == 1)).astype(float)),
    "balanced_accuracy": _balanced,
    "f1": _precision_and_recall,
    "log_loss": lambda y, s, at: mean_of(_log_losses(y, s)),
    "brier": lambda y, s, at: mean_of((s - y) ** 2),
    "ece": lambda y, s, at: _calibration_error(y, s),
    "mae": lambda y, s, at: mean_of(np.abs(y - s)),
    "mape": lambda y, s, at: mean_of(np.abs(y - s) / np.abs(y)),
    "rmse": lambda y, s, at: _root_mean_square(y, s),
    "rmsle": lambda y, s, at: _root_mean_square(np.log1p(y), np.log1p(np.maximum(s, 0.0))),
    "r2": lambda y, s, at: _explained(y, s),
    "poisson_deviance": lambda y, s, at: mean_of(_poisson_deviances(y, s)),
    **{name: _pinball(level) for name, level in LEVELS.items()},
}
"""The formula of each metric of rows: true values, predictions and the decision threshold, to a function of row weights."""


# ---- intervals -----------------------------------------------------------------------------------------------------


def estimate(
    name: str,
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    threshold: float = 0.5,
    confidence: float = 0.95,
    groups: ArrayLike | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    """The metric `name` with its interval: DeLong's for roc_auc on independent rows, else a percentile bootstrap.

    Parameters
    ----------
    name, y_true, y_score, threshold
        As `measure` takes them.
    confidence : float, default 0.95
    groups : array-like of shape (n_samples,), optional
        Whom a row belongs to; whole groups are drawn, since rows of one person are not independent.
    draws : int, default 1000
    seed : int, default 0

    References
    ----------
    Efron and Tibshirani (1993), An Introduction to the Bootstrap, ch. 13.
    """
    y, s = _checked(name, y_true, y_score)
    if name == "roc_auc" and groups is None:
        return delong(y, s, confidence=confidence)
    return _bootstrap(_weighted(name, y, s, threshold), len(y), groups, confidence, draws, seed, centred=name == "ece")


def compare(
    name: str,
    y_true: ArrayLike,
    ours: ArrayLike,
    theirs: ArrayLike,
    *,
    threshold: float = 0.5,
    their_threshold: float | None = None,
    confidence: float = 0.95,
    groups: ArrayLike | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    """How much better `ours` is than `theirs` on the same rows, with the interval of that gain.

    Positive is better whichever way the metric runs. Every draw takes the same rows under both, so what is hard for
    both cancels. `their_threshold` (default: `threshold`) is where the other scores are cut. Other parameters as in
    `estimate`.
    """
    y, s = _checked(name, y_true, ours)
    _, t = _checked(name, y_true, theirs)
    if name == "roc_auc" and groups is None:
        return delong(y, s, t, confidence=confidence)
    mine = _weighted(name, y, s, threshold)
    other = _weighted(name, y, t, threshold if their_threshold is None else their_threshold)
    sign = 1 if metric(name).higher_is_better else -1
    return _bootstrap(lambda w: sign * (mine(w) - other(w)), len(y), groups, confidence, draws, seed)


def estimate_mean(
    values: ArrayLike, *, groups: ArrayLike | None = None, confidence: float = 0.95, draws: int = 1000, seed: int = 0
) -> Estimate:
    """The mean of one value a row (a user's NDCG, a decision's worth, a paired difference) with its interval.

    `draws` 0 gives the t interval instead of the bootstrap: the same for many rows, and at once.
    """
    values = np.asarray(values, dtype=float).ravel()
    if not len(values):
        raise DataError("there are no values to average", "mean", WIDER)
    if not np.isfinite(values).all():
        raise DataError(
            f"{(~np.isfinite(values)).sum()} of {len(values)} values are missing",
            "mean",
            "Leave them out, and say how many",
        )
    if not draws:
        return _t_interval(values, groups, confidence)
    return _bootstrap(mean_of(values), len(values), groups, confidence, draws, seed)


def _t_interval(values: np.ndarray, groups: ArrayLike | None, confidence: float) -> Estimate:
    from scipy.stats import t

    n, mean = len(values), float(values.mean())
    off = values - mean
    if groups is not None:  # groups of unequal size: the linearised ratio of sums
        who = np.unique(np.asarray(groups), return_inverse=True)[1].ravel()
        off = np.bincount(who, weights=off).astype(float)
    k = len(off)
    error = float(np.sqrt(k / (k - 1) * (off**2).sum()) / n) if k > 1 else np.inf
    reach = error * float(t.ppf(0.5 + confidence / 2, max(k - 1, 1)))
    return Estimate(mean, mean - reach, mean + reach, n, confidence, "t")


def _bootstrap(
    figure: Weighted, n: int, groups: ArrayLike | None, confidence: float, draws: int, seed: int, centred: bool = False
) -> Estimate:
    value = float(figure(np.ones((1, n)))[0])
    drawn = np.concatenate([figure(w) for w in resampled(n, groups, draws, seed)])
    tail = (1 - confidence) / 2
    drawn = drawn[np.isfinite(drawn)]
    if centred and len(drawn):  # a sum of absolute gaps only grows by resampling: take that growth off again
        drawn = np.maximum(drawn - (np.median(drawn) - value), 0.0)
    low, high = np.quantile(drawn, [tail, 1 - tail]) if len(drawn) else (np.nan, np.nan)
    return Estimate(value, float(low), float(high), n, confidence, "bootstrap")


def resampled(n: int, groups: ArrayLike | None = None, draws: int = 1000, seed: int = 0) -> Iterator[np.ndarray]:
    """Weights of `n` rows, (some draws, n) at a time: how often each row was drawn with replacement.

    With `groups`, groups are drawn and every row weighs as its group does.
    """
    code = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].ravel()
    drawable = n if code is None else int(code.max()) + 1
    rng = np.random.default_rng(seed)
    at_once = max(1, CELLS // max(n, drawable))
    for start in range(0, draws, at_once):
        some = min(at_once, draws - start)
        drawn = rng.integers(0, drawable, (some, drawable)) + drawable * np.arange(some)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=some * drawable).reshape(some, drawable).astype(float)
        yield counts if code is None else counts[:, code]


def delong(
    y_true: ArrayLike, ours: ArrayLike, theirs: ArrayLike | None = None, *, confidence: float = 0.95
) -> Estimate:
    """The area under the ROC curve, or the gain of one over another on the same rows, with DeLong's interval.

    Raises
    ------
    DataError
        As `measure`, and fewer than two rows of a class.

    References
    ----------
    DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44, eq. 4 to 6; midranks as in Sun and Xu (2014), IEEE Signal
    Processing Letters 21.
    """
    from scipy.stats import norm, rankdata

    scores = [_checked("roc_auc", y_true, s)[1] for s in (ours, theirs) if s is not None]
    positive = np.asarray(y_true, dtype=float).ravel() == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if min(m, n) < 2:
        raise DataError(f"needs two rows of each class, got {m} positive and {n} negative", "roc_auc", WIDER)
    above, below = [], []  # for each positive: share of negatives under it; for each negative: of positives over it
    for s in scores:
        rank = rankdata(s)
        above.append((rank[positive] - rankdata(s[positive])) / n)
        below.append(1 - (rank[~positive] - rankdata(s[~positive])) / m)
    sign = np.array([1.0, -1.0][: len(scores)])
    value = float(sign @ [a.mean() for a in above])
    variance = np.var(sign @ np.array(above), ddof=1) / m + np.var(sign @ np.array(below), ddof=1) / n
    reach = float(norm.ppf(0.5 + confidence / 2) * np.sqrt(variance))
    floor = 0.0 if theirs is None else -1.0
    return Estimate(value, max(floor, value - reach), min(1.0, value + reach), m + n, confidence, "DeLong")


def over_folds(estimates: list[Estimate], low: float = -np.inf, high: float = np.inf) -> Estimate:
    """The mean of a figure over folds, with its interval.

    Two things make a fold's figure differ from the truth: which rows it drew (its own interval says how much) and
    which period it was (the spread of the folds beyond that). The interval holds whichever is larger, within
    [low, high].

    References
    ----------
    DerSimonian and Laird (1986), Meta-analysis in clinical trials, with equal weights: the error of the mean is the
    square root of (own variance + variance between periods) / k, and the latter is what the spread shows beyond the former.
    """
    from scipy.stats import norm

    k, confidence = len(estimates), estimates[0].confidence
    z = norm.ppf(0.5 + confidence / 2)
    value = float(np.mean([e.value for e in estimates]))
    own = float(np.sqrt(np.sum([((e.high - e.low) / (2 * z)) ** 2 for e in estimates]))) / k
    between = float(np.std([e.value for e in estimates], ddof=1) / np.sqrt(k)) if k > 1 else 0.0
    reach = float(z * max(own, between))
    ends = max(low, value - reach), min(high, value + reach)
    return Estimate(value, *ends, sum(e.n for e in estimates), confidence, "folds")


# ---- ranking -------------------------------------------------------------------------------------------------------


def relevant_ranks(y_score: ArrayLike, relevant) -> tuple[np.ndarray, np.ndarray]:
    """The place of every wanted item in its user's list, counted from 1, ties against it.

    Parameters
    ----------
    y_score : array-like of shape (n_users, n_items)
        Higher is recommended earlier; -inf for an item that may not be shown to this user.
    relevant : bool array or scipy.sparse matrix of shape (n_users, n_items)
        What the user wanted.

    Returns
    -------
    users : ndarray of shape (n_wanted,)
        Row of `y_score`, ascending.
    ranks : ndarray of shape (n_wanted,)
        Infinite where the item may not be shown.

    Raises
    ------
    DataError
        Unequal shapes, or scores that are NaN.
    """
    s = np.asarray(y_score, dtype=float)
    if s.shape != relevant.shape:
        raise DataError(
            f"scores are {s.shape}, wanted items {relevant.shape}", "ranking", "Score every user for every item"
        )
    if np.isnan(s).any():
        raise DataError(
            f"{np.isnan(s).sum()} scores are not a number", "ranking", "Give minus infinity to what must not be shown"
        )
    is_relevant = np.asarray(relevant.todense() if hasattr(relevant, "todense") else relevant).astype(bool)
    users, items = np.nonzero(is_relevant)
    own = s[users, items]
    ranks = np.empty(len(users))
    at_once = max(1, CELLS // max(1, s.shape[1]))
    for i in range(0, len(users), at_once):
        part = slice(i, i + at_once)
        rows, mine = s[users[part]], own[part, None]
        ranks[part] = (rows > mine).sum(axis=1) + ((rows == mine) & ~is_relevant[users[part]]).sum(axis=1)
    order = np.lexsort((own, users))  # wanted items of equal score follow one another
    same = np.r_[False, (np.diff(users[order]) == 0) & (np.diff(own[order]) == 0)]
    rank = np.arange(len(order)) - np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
    ranks[order] += 1 + rank
    return users, np.where(np.isneginf(own), np.inf, ranks)


def ranking_values(y_score: ArrayLike, relevant, k: int) -> dict[str, np.ndarray]:
    """Each user's figures in the top `k`: ndcg, hit_rate, recall, map, and hits (wanted items shown).

    Parameters
    ----------
    y_score, relevant
        As `relevant_ranks` takes them.
    k : int
        Places in the list.

    Returns
    -------
    dict of str to ndarray of shape (n_users,)
        NaN for a user who wanted nothing.

    References
    ----------
    Jarvelin and Kekalainen (2002), ACM TOIS 20: DCG with binary gains and log2 discounts, over the best possible.
    """
    users, ranks = relevant_ranks(y_score, relevant)
    return values_of_ranks(users, ranks, np.shape(y_score)[0], k)


def values_of_ranks(users: ArrayLike, ranks: ArrayLike, n_users: int, k: int) -> dict[str, np.ndarray]:
    """As `ranking_values`, from the ranks themselves (1 is the first place; `users` says whose each is)."""
    users, ranks = np.asarray(users, dtype=int), np.asarray(ranks, dtype=float)
    if k < 1:
        raise UsageError(
            f"k is {k}, expected at least 1 place", "ranking", "Set task.k in the problem statement, then: mlloop check"
        )
    relevant_count = np.bincount(users, minlength=n_users).astype(float)
    order = np.lexsort((ranks, users))
    users, ranks = users[order], ranks[order]
    nth = np.arange(len(users)) - np.searchsorted(users, users) + 1  # nth wanted item of its user
    shown = ranks <= k
    total = lambda v: np.bincount(users, weights=v * shown, minlength=n_users)
    ideal = np.r_[0.0, np.cumsum(1 / np.log2(np.arange(2, k + 2)))]
    best = np.minimum(relevant_count, k)
    safe = np.where(np.isinf(ranks), 1.0, ranks)
    hits = total(np.ones(len(users)))
    return {
        "ndcg": _ratio(total(1 / np.log2(safe + 1)), ideal[best.astype(int)]),
        "hit_rate": np.where(relevant_count > 0, hits > 0, np.nan).astype(float),
        "recall": _ratio(hits, relevant_count),
        "map": _ratio(total(nth / safe), best),
        "hits": np.where(relevant_count > 0, hits, np.nan),
    }


def values_of_lists(
    users: Iterable, lists: Iterable, relevant_users: Iterable, relevant_items: Iterable, k: int
) -> dict[str, np.ndarray]:
    """`values_of_ranks` of the list that was shown to each user.

    Parameters
    ----------
    users : iterable of str
        Each once, (n_users,).
    lists : iterable of sequence of str
        The items shown to each of `users`, best first.
    relevant_users, relevant_items : iterable of (n_pairs,)
        Pairs: one of `users`, and an item that is relevant to them.
    """
    at = {user: position for position, user in enumerate(users)}
    ranks = {(user, item): rank for user, items in zip(at, lists, strict=True) for rank, item in enumerate(items, 1)}
    pairs = [(user, str(item)) for user, item in zip(relevant_users, relevant_items, strict=True)]
    places = [at[user] for user, _ in pairs]
    return values_of_ranks(places, [ranks.get(pair, np.inf) for pair in pairs], len(at), k)


# ---- money ---------------------------------------------------------------------------------------------------------


class Worth(Protocol):
    """What the problem statement says of money; `problem.Money` is one."""

    true_positive: float
    false_positive: float
    false_negative: float
    true_negative: float
    per_unit_error: float
    per_hit: float
    decisions_per_period: int


def best_threshold(y_true: ArrayLike, y_score: ArrayLike, money: Worth) -> float:
    """The score from which acting is worth most on these rows: rows of training folds, never of the test.

    -inf: act on everybody; inf: on nobody. Of equally good ones the middle of the gap between two scores is taken,
    so that the choice does not hang on one row.
    """
    y, s = _checked("accuracy", y_true, y_score)
    order = np.argsort(-s, kind="stable")
    gain = np.where(y == 1, money.true_positive - money.false_negative, money.false_positive - money.true_negative)
    total = np.r_[0.0, np.cumsum(gain[order])]  # worth of acting on the first i rows, over acting on none
    ranked = s[order]
    cut = np.r_[0, np.flatnonzero(np.diff(ranked)) + 1, len(ranked)]  # equal scores are cut together
    best = cut[np.argmax(total[cut])]
    if best == 0 or best == len(ranked):
        return np.inf if best == 0 else -np.inf
    return float((ranked[best - 1] + ranked[best]) / 2)


def is_decided_by(money: Worth) -> bool:
    """Whether it matters to the worth of a row how it is classified."""
    return money.true_positive != money.false_negative or money.false_positive != money.true_negative


def breakeven(money: Worth) -> float:
    """The probability from which taking a row as positive is worth more than not; inf: never, -inf: always.

    References
    ----------
    Elkan (2001), The foundations of cost-sensitive learning, IJCAI, eq. 2.
    """
    on_positive, on_negative = money.true_positive - money.false_negative, money.false_positive - money.true_negative
    if on_positive > 0 > on_negative:
        return -on_negative / (on_positive - on_negative)
    return -np.inf if on_positive + on_negative > 0 else np.inf


def paying_threshold(y_true: ArrayLike, y_score: ArrayLike, money: Worth) -> float:
    """The probability from which acting pays, for probabilities that are first set right on these rows.

    `best_threshold` follows every chance peak of the rows it sees; this one fits two numbers (how far the
    probabilities are off, in logits) and takes the threshold from the worths, so a few hundred rows are enough.

    References
    ----------
    Elkan (2001) as in `breakeven`; Platt (1999), Probabilistic outputs for support vector machines, for setting right.
    """
    from scipy.special import expit, logit
    from sklearn.linear_model import LogisticRegression

    y, s = _checked("brier", y_true, y_score)
    target = breakeven(money)
    if not np.isfinite(target) or len(np.unique(y)) < 2:
        return best_threshold(y, s, money)
    logits = logit(np.clip(s, 1e-6, 1 - 1e-6))
    fitted = LogisticRegression(C=100.0).fit(logits[:, None], y)
    slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if slope <= 1e-6:
        return best_threshold(y, s, money)
    return float(expit((logit(target) - offset) / slope))


def best_cut(name: str, y_true: ArrayLike, y_score: ArrayLike) -> float:
    """The score from which a metric of classes (`name`) is best on these rows: of training folds, never of the test."""
    y, s = _checked("accuracy", y_true, y_score)
    order = np.argsort(-s, kind="stable")
    ranked, hits = s[order], np.r_[0.0, np.cumsum(y[order])]
    shown = np.arange(len(y) + 1)
    right = hits + (len(y) - y.sum()) - (shown - hits)
    figure = right if name == "accuracy" else _ratio(2 * hits, shown + y.sum())
    if name == "balanced_accuracy":
        figure = hits / max(y.sum(), 1) + (right - hits) / max(len(y) - y.sum(), 1)
    cut = np.r_[0, np.flatnonzero(np.diff(ranked)) + 1, len(ranked)]
    best = cut[np.nanargmax(figure[cut])]
    if best == 0 or best == len(ranked):
        return np.inf if best == 0 else -np.inf
    return float((ranked[best - 1] + ranked[best]) / 2)


def worth_of_decisions(y_true: ArrayLike, y_score: ArrayLike, threshold: float, money: Worth) -> np.ndarray:
    """What each row's decision is worth when rows scoring at least `threshold` are taken as positive.

    Returns
    -------
    ndarray of shape (n_samples,)
        In the currency of the problem, per decision.
    """
    y, s = _checked("accuracy", y_true, y_score)
    acted, paid = s >= threshold, y == 1
    return np.where(
        acted,
        np.where(paid, money.true_positive, money.false_positive),
        np.where(paid, money.false_negative, money.true_negative),
    )


def worth_of_errors(y_true: ArrayLike, y_pred: ArrayLike, money: Worth) -> np.ndarray:
    """What each predicted number costs: minus its absolute error times the cost of one unit."""
    y, p = _checked("mae", y_true, y_pred)
    return -money.per_unit_error * np.abs(y - p)


def worth_of_hits(hits: ArrayLike, money: Worth) -> np.ndarray:
    """What each user's list is worth: wanted items shown times the worth of one."""
    return money.per_hit * np.asarray(hits, dtype=float)


def per_period(
    values: ArrayLike, money: Worth, *, groups: ArrayLike | None = None, confidence: float = 0.95
) -> Estimate:
    """The worth of a period: the mean worth of a decision times the decisions of a period, with its t interval."""
    mean = estimate_mean(values, groups=groups, confidence=confidence, draws=0)
    return mean.scaled(money.decisions_per_period)
