"""How a canary does beside the champion: the figures, and what follows from them.

It reads a log and labels, and acts on nothing: `decide` returns what the turn then does.

Both models are asked again, in one go, for every row that was asked since the canary began; so the test is paired: the
same rows under both. Where a prediction does not change the outcome (who repays does not depend on the score), that is
as good as having answered them all, and rows that were asked before the canary began count too, as long as their labels
came after it had learnt. What only the canary's own answers can show, errors and latency, is read from its share.

The test is sequential: it is looked at in every period, and its interval covers the truth at all looks together
(`metrics.anytime`). So a trial ends when the evidence allows, and the deadline is a bound.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlloop.core import metrics
from mlloop.core.errors import DataError
from mlloop.core.formatting import number
from mlloop.core.records import EvidenceJson
from mlloop.core.verdict import Check
from mlloop.problem import Problem, Recommendation
from mlloop.release import releases
from mlloop.store import prediction_log

if TYPE_CHECKING:
    import pandas as pd

MAX_ERRORS, ERROR_SHARE = 2, 0.01
MAX_ROWS = 50_000
ROWS = "canary's rows"  # the check of how many requests it answered
LEAST_OWN = 50  # requests that the canary itself must have answered, where the test is of all rows


@dataclass(frozen=True)
class Terms:
    """What a canary was started with, as its ledger row has it.

    Attributes
    ----------
    since, deadline : datetime
    min_rows : int
        Rows with a label that the test needs; of a recommender, also requests that the canary must have answered.
    max_loss : float
        How much worse than the champion still counts as no worse, in the problem's metric.
    confidence : float
    max_latency_ms : float
    paired : bool
        Whether a prediction leaves the outcome as it is, so that rows which the champion answered count as well.
    may_tie : bool
        Whether the gate asked for no gain in the metric: then the deadline asks only that none was lost on what was seen.
    """

    since: dt.datetime
    deadline: dt.datetime
    min_rows: int
    max_loss: float
    confidence: float
    max_latency_ms: float
    paired: bool = False
    may_tie: bool = False

    @property
    def own_rows(self) -> int:
        """Requests that the canary itself must have answered."""
        return min(self.min_rows, LEAST_OWN) if self.paired else self.min_rows


@dataclass(frozen=True)
class Trial:
    """How a canary stands.

    Attributes
    ----------
    outcome : str or None
        'promoted', 'rolled_back', or None: go on.
    reasons : list of str
    evidence : list of dict
    """

    outcome: str | None
    reasons: list[str]
    evidence: list[EvidenceJson]


@dataclass(frozen=True)
class CanaryUsage:
    """What the canary's own share shows: answers, errors, the 99th percentile of its latency."""

    answered: int
    errors: int
    slow_ms: float | None


def usage(log: "pd.DataFrame", model: str) -> CanaryUsage:
    """Count the canary's own answers in the log."""
    own = log[(log["model"] == model) & (log["role"] == "canary")]
    answered = own[own["error"].isna()]
    slow = float(answered["ms"].quantile(0.99)) if answered["ms"].notna().any() else None
    return CanaryUsage(len(answered), int(own["error"].notna().sum()), slow)


def gain(
    statement: Problem,
    champion: releases.Release,
    canary: releases.Release,
    log: "pd.DataFrame",
    labels: "pd.DataFrame | None",
    now: dt.datetime,
) -> metrics.Estimate | None:
    """How much better the canary is than the champion on the rows whose truth is known; None where there is none.

    Parameters
    ----------
    labels : DataFrame
        The entity's column, or the id that the answer gave, and the target; for recommendation user, item, time of
        what was bought.
    """
    from mlloop.comparison import baselines  # brings scikit-learn, which a decision without labels does not need

    if labels is None or log.empty:
        return None
    if isinstance(statement.task, Recommendation):
        return _ranking_gain(statement, champion, canary, log, labels, now)
    task = statement.task
    by_entity = task.entity is not None and task.entity in labels
    on, by = (task.entity, "entity") if by_entity else ("id", "id")
    known = prediction_log.with_labels(log, labels, str(on), task.target, by).dropna(subset=["label"]).head(MAX_ROWS)
    if known.empty:
        return None
    requests = releases.rows_of(prediction_log.requests(known), canary.fields)
    truth = baselines.target_values(known["label"], task)
    ours, theirs = canary.scores(requests), champion.scores(requests)  # type: ignore[attr-defined]
    cut, their_cut = getattr(canary, "cut", 0.5), getattr(champion, "cut", 0.5)
    try:
        return metrics.compare(
            statement.success.metric, truth, ours, theirs,
            threshold=cut, their_threshold=their_cut, confidence=statement.success.confidence,
        )  # fmt: skip
    except DataError:  # one class only, say: no figure yet
        return None


def _ranking_gain(statement, champion, canary, log, bought, now) -> metrics.Estimate | None:
    """Both are asked what everybody was asked, and judged by what was bought in the time that the statement gives a list."""
    import pandas as pd

    window = pd.Timedelta(days=statement.time.holdout_days)
    shown = log.dropna(subset=["entity"]).sort_values("at", kind="stable").drop_duplicates("entity")
    shown = shown[shown["at"] + window <= now].reset_index(drop=True)
    relevant = bought.astype({"user": str, "item": str}).merge(
        shown[["entity", "at"]], left_on="user", right_on="entity"
    )
    relevant = relevant.loc[
        (relevant["time"] >= relevant["at"]) & (relevant["time"] < relevant["at"] + window), ["user", "item"]
    ]
    requests = prediction_log.requests(shown)
    left_out = requests["exclude"] if "exclude" in requests else pd.Series([None] * len(shown), dtype=object)
    rows = [
        {"user": user, "k": statement.task.k, "exclude": out if isinstance(out, list) else None}
        for user, out in zip(shown["entity"], left_out, strict=True)
    ]
    relevant = relevant.drop_duplicates()
    if not statement.task.repeats:
        relevant = relevant[~_bought_before(relevant, rows, (champion, canary))]
    who = sorted(relevant["user"].unique())[:MAX_ROWS]
    if not who:
        return None
    some = set(who)
    rows, relevant = [row for row in rows if row["user"] in some], relevant[relevant["user"].isin(some)]
    users = [row["user"] for row in rows]
    lists = [[answer["items"] for answer in release.answers(rows)] for release in (canary, champion)]
    figures = [
        metrics.values_of_lists(users, recommended, relevant["user"], relevant["item"], statement.task.k)
        for recommended in lists
    ]
    values = [figure[statement.success.metric] for figure in figures]
    return metrics.estimate_mean(values[0] - values[1], confidence=statement.success.confidence)


def _bought_before(relevant, rows, both) -> np.ndarray:
    """Which pairs of user and item were bought before the list was shown: left out of it, or seen by a model."""
    left_out = {(row["user"], item) for row in rows for item in row["exclude"] or ()}
    bought = np.array([pair in left_out for pair in zip(relevant["user"], relevant["item"], strict=True)], dtype=bool)
    for release in both:
        bought |= releases.has_bought(release.recommender, relevant["user"], relevant["item"])
    return bought


def estimated_gain(
    statement: Problem, champion: releases.Release, canary: releases.Release, log: "pd.DataFrame", draws: int = 200
) -> metrics.Estimate | None:
    """The gain to be expected where no label has come; classification only, else None.

    Each row is believed positive with the mean of both models' calibrated probabilities, so that neither is judged by
    its own belief alone. Truth is drawn from that belief and rows with replacement; the figure says nothing about a
    change in what the target means.
    """
    if statement.task.kind != "classification" or log.empty:
        return None
    rows = releases.rows_of(prediction_log.requests(log.head(MAX_ROWS)), canary.fields)
    scores = [np.asarray(release.scores(rows)) for release in (canary, champion)]  # type: ignore[attr-defined]
    belief = np.mean([calibrated(release, s) for release, s in zip((canary, champion), scores, strict=True)], axis=0)
    rng, better, gains = np.random.default_rng(0), metrics.metric(statement.success.metric), []
    for _ in range(draws):
        some = rng.integers(0, len(belief), len(belief))
        truth = (rng.random(len(belief)) < belief[some]).astype(float)
        try:
            figures = [
                metrics.measure(better.name, truth, s[some], getattr(release, "cut", 0.5))
                for release, s in zip((canary, champion), scores, strict=True)
            ]
        except DataError:
            continue
        gains.append(better.gain(*figures))
    if len(gains) < draws // 2:
        return None
    tail = (1 - statement.success.confidence) / 2
    low, high = np.quantile(gains, [tail, 1 - tail])
    return metrics.Estimate(float(np.mean(gains)), float(low), float(high), len(belief), 1 - 2 * tail, "expected")


def calibrated(release: releases.Release, scores: np.ndarray) -> np.ndarray:
    """Scores as probabilities by the release's own calibration on the holdout period; as they are where it has none."""
    knots = release.card.get("calibration")
    if not knots:
        return np.clip(scores, 0, 1)
    return np.interp(scores, knots["score"], knots["probability"])


def has_failed(evidence: Sequence[EvidenceJson]) -> bool:
    """Whether a canary ended because it did worse: errors, latency, or a loss that is no chance; not for too few rows, nor at a tie.

    Parameters
    ----------
    evidence : list of dict
        Of the row that ended it.
    """
    failed = [check for check in evidence if check["passed"] is False and check["name"] != ROWS]
    is_sure = lambda check: check["high"] is None or check["high"] < check["threshold"]
    return any(is_sure(check) for check in failed if check["value"] is not None)


def decide(
    terms: Terms,
    own: CanaryUsage,
    realised: metrics.Estimate | None,
    estimated: metrics.Estimate | None,
    now: dt.datetime,
    label: str = "metric",
) -> Trial:
    """What follows from a canary's figures: promote, roll back, or go on. No data means roll back.

    Parameters
    ----------
    own : CanaryUsage
    realised, estimated : Estimate or None
        Gain over the champion.
    now : datetime
    label : str
        The metric's name for readers.
    """
    over = now >= terms.deadline
    enough = own.answered >= terms.own_rows
    figure, kind = (metrics.anytime(realised, 2 * terms.min_rows) if realised else None), "realised"
    if figure is None or figure.n < terms.min_rows:
        figure, kind = (estimated, "estimated") if over else (None, "")
    checks = [_errors(own), _rows(own, terms, over)]
    if enough:
        checks += [_latency(own, terms)]
    if enough or figure is not None:
        checks += [_no_worse(figure, kind, terms, over, label)]
    evidence = [check.evidence() for check in checks]
    failed = [check for check in checks if check.passed is False]
    if failed:
        return Trial("rolled_back", [check.reason for check in failed], evidence)
    if all(check.passed for check in checks) and enough:
        return Trial("promoted", [check.reason for check in checks if check.reason], evidence)
    return Trial(None, [check.reason for check in checks if check.passed is None], evidence)


def _errors(own: CanaryUsage) -> Check:
    requests = own.answered + own.errors
    share = own.errors / requests if requests else 0.0
    bad = own.errors > MAX_ERRORS and share > ERROR_SHARE
    reason = f"{own.errors} of {requests} requests to the canary ended in an error." if bad else ""
    return Check("canary's errors", not bad, reason, share, None, None, ERROR_SHARE, "share of requests")


def _rows(own: CanaryUsage, terms: Terms, over: bool) -> Check:
    passed = True if own.answered >= terms.own_rows else False if over else None
    until = f"{terms.deadline:%Y-%m-%d %H:%M}"
    reason = f"The canary answered {own.answered:,} requests by {until}, {terms.own_rows:,} are required."
    return Check(ROWS, passed, "" if passed else reason, own.answered, None, None, terms.own_rows, "rows")


def _latency(own: CanaryUsage, terms: Terms) -> Check:
    slow = own.slow_ms is not None and own.slow_ms > terms.max_latency_ms
    reason = f"One in a hundred answers of the canary took {number(own.slow_ms)} ms or longer, {number(terms.max_latency_ms)} are allowed."
    return Check(
        "canary's latency (p99)", not slow, reason if slow else "", own.slow_ms, None, None, terms.max_latency_ms, "ms"
    )


def _no_worse(figure: metrics.Estimate | None, kind: str, terms: Terms, over: bool, label: str) -> Check:
    name = f"{kind or 'realised'} gain over the champion"
    if figure is None or not np.isfinite([figure.low, figure.high]).all():
        reason = "There is no figure for the canary's gain: too few labels have come, and it cannot be estimated."
        return Check(name, False if over else None, reason, None, None, None, -terms.max_loss, label)
    least = figure.value if over and terms.may_tie else figure.low
    good, bad = least >= -terms.max_loss, figure.high < -terms.max_loss
    passed = True if good else False if bad or over else None
    words = "is no worse than" if good else "is worse than" if bad else "is not shown to be as good as"
    if (
        over and terms.may_tie and figure.low < -terms.max_loss <= figure.high
    ):  # the gate compared them: no proof is asked
        words = f"did {'no worse' if good else 'worse'} by its deadline than"
    reason = (
        f"The canary {words} the champion: {kind} gain in {label} {number(figure.value)} "
        f"[{number(figure.low)} to {number(figure.high)}] on {figure.n:,} rows, a loss of {number(terms.max_loss)} is allowed."
    )
    return Check(name, passed, reason, figure.value, figure.low, figure.high, -terms.max_loss, label)
