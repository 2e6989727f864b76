"""How often does the policy retrain in a year in which nothing changes for good, and how soon after a change?

    python benchmarks/quiet_years.py [--years 200] [--rows 400]

Labels and scores of each week are drawn, and monitoring's own functions make figures, periods and streaks of them. Weeks differ
by more than chance, as real ones do: the census of Massachusetts varies by 0.65 of a week's sampling error. Sizes are in that unit.
"""

import argparse
import datetime as dt
from collections.abc import Callable

import numpy as np
import pandas as pd

from mlloop.monitors.degradation import PeriodResult, period_result, streak
from mlloop.monitors.estimation import MetricValue, Period, compare_with_reference, realised_performance
from mlloop.problem import Retrain

REFERENCE, YEAR, CENSUS = 6, 52, 0.65  # weeks; weeks; standard deviation of weeks, in sampling errors
BOUNDS = (4.0, 4.5, 5.0, 5.5, 6.0)
Drawn = tuple[np.ndarray, np.ndarray]


def ranked(rng: np.random.Generator, n: int, fall: float, log_odds: float) -> Drawn:
    """Scores and outcomes; at a `fall` of 0 the odds rise by exp(1.5) a unit of the score, at 1 not at all."""
    score = rng.normal(size=n)
    return score, (rng.random(n) < 1 / (1 + np.exp(-log_odds - 1.5 * (1 - fall) * score))).astype(float)


def measured(rng: np.random.Generator, n: int, fall: float, _: float) -> Drawn:
    """Predictions and values with heavy-tailed errors, exp(fall) times as large."""
    score = rng.normal(size=n)
    return score, score + rng.standard_t(5, size=n) * np.exp(fall)


KINDS: dict[str, tuple[str, Callable[[np.random.Generator, int, float, float], Drawn], float, float]] = {
    "classification": ("roc_auc", ranked, 1.0, -0.5),
    "rare outcome, half the rows": ("roc_auc", ranked, 0.5, -3.0),
    "regression": ("mae", measured, 1.0, 0.0),
}


def figure(kind: str, rng: np.random.Generator, n: int, falls: np.ndarray) -> MetricValue:
    """Monitoring's figure of weeks of `n` rows, one of each of `falls` (n_weeks,)."""
    metric, draw, share, log_odds = KINDS[kind]
    drawn = [draw(rng, int(n * share), fall, log_odds) for fall in falls]
    score, y = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    return realised_performance(metric, Period(pd.DataFrame(index=range(len(y))), score, y))


def unit(kind: str, n: int) -> float:
    """The fall that moves the metric by one sampling error of a week."""
    many = 200_000
    before, after = (figure(kind, np.random.default_rng(1), many, np.array([fall])) for fall in (0.0, 0.2))
    errors = [figure(kind, np.random.default_rng(seed), n, np.zeros(1)).se for seed in range(30)]
    return 0.2 * float(np.mean(errors)) / abs(after.value - before.value)


def weeks(name: str, size: float, rng: np.random.Generator, count: int) -> np.ndarray:
    """How far each week falls, in sampling errors, those of the reference first."""
    n, change = REFERENCE + count, int(rng.integers(0, count - 1)) + REFERENCE
    falls = size * rng.normal(size=n) if name in ("weeks differ", "weeks alike") else CENSUS * rng.normal(size=n)
    if name == "weeks alike":  # neighbours correlate by 0.7
        for t in range(1, n):
            falls[t] = 0.7 * falls[t - 1] + (1 - 0.7**2) ** 0.5 * falls[t]
    elif name == "season":
        falls += size * np.sin(2 * np.pi * (np.arange(n) / YEAR + rng.random()))
    elif name == "two bad weeks":
        falls[change : change + 2] += size
    elif name == "change":
        falls[REFERENCE + 10 :] += size
    return falls


def periods(kind: str, name: str, size: float, n: int, rng: np.random.Generator, fall: float, count: int) -> list:
    """The periods of one history, as the policy reads them."""
    falls, policy = fall * weeks(name, size, rng, count), Retrain()
    reference = figure(kind, rng, n, falls[:REFERENCE])
    values = [figure(kind, rng, n, falls[t : t + 1]) for t in range(REFERENCE, REFERENCE + count)]
    return results(KINDS[kind][0], reference, values, policy)


def results(metric: str, reference: MetricValue, values: list[MetricValue], policy: Retrain) -> list[PeriodResult]:
    """Each week beside the reference."""
    day = lambda t: (dt.datetime(2025, 1, 6) + dt.timedelta(days=7 * t)).isoformat()
    known = [
        {
            **value.plain(),
            **compare_with_reference(metric, value, reference, periods=policy.k),
            "reference": reference.plain(),
        }
        for value in values
    ]
    return [period_result(each, {"from": day(t), "until": day(t + 1)}, True) for t, each in enumerate(known)]  # type: ignore[arg-type]


def first(marks: list[PeriodResult], bound: float) -> int | None:
    """The first week in which the policy asks for a retraining, with `bound` for two periods together."""
    policy = Retrain()
    for t in range(len(marks)):
        now = streak("realised", marks[: t + 1], policy)
        if now.severe or now.is_often or (now.joint is not None and now.joint >= bound):
            return t
    return None


QUIET = [("weeks differ", 0.0), ("weeks differ", CENSUS), ("weeks differ", 1.0), ("weeks alike", 1.0), ("season", 2.0),
         ("two bad weeks", 4.0)]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--years", type=int, default=200)
    parser.add_argument("--rows", type=int, default=400)
    given = parser.parse_args()
    bounds = (1e9, *BOUNDS)
    print("| kind | what happens | size | " + " | ".join(["without", *map(str, BOUNDS)]) + " |\n" + "|---" * 9 + "|")
    for kind in KINDS:
        fall = unit(kind, given.rows)
        for name, size in [*QUIET, ("change", 4.0), ("change", 5.0)]:
            rng, count = np.random.default_rng(7), 26 if name == "change" else YEAR
            histories = [periods(kind, name, size, given.rows, rng, fall, count) for _ in range(given.years)]
            if name == "change":
                after = [[first(marks[10:], bound) for marks in histories] for bound in bounds]
                found = [np.mean([16 if t is None else t + 1 for t in each]) for each in after]
            else:
                found = [100 * np.mean([first(marks, bound) is not None for marks in histories]) for bound in bounds]
            print(f"| {kind} | {name} | {size:g} | " + " | ".join(f"{each:.2f}" for each in found) + " |", flush=True)


if __name__ == "__main__":
    main()
