"""Where did the world change? Ours, PELT (ruptures) and ADWIN (river) on series whose change is known.

pip install river ruptures, then: python benchmarks/changes.py
"""

import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from mlloop.comparison.lookback import change_point

SERIES = 30


def losses(rng, n: int, share: float) -> np.ndarray:
    """Losses of `n` rows, of which a share was predicted badly."""
    return np.where(rng.random(n) < share, rng.exponential(1.0, n) + 0.3, rng.exponential(0.4, n))


def ours(x: np.ndarray, n: int) -> float | None:
    """The week that `change_point` names."""
    at = pd.Series(pd.Timestamp("2025-01-06") + pd.to_timedelta(np.arange(len(x)) * 7 / n, "D"))
    found = change_point(at, x, 7)
    return None if found is None else (found - at.iloc[0]).total_seconds() / (7 * 86400)


def pelt(x: np.ndarray, n: int) -> float | None:
    """The last change that PELT finds in the weekly means."""
    import ruptures

    mean = x.reshape(-1, n).mean(1)
    scale = np.median(np.abs(np.diff(mean))) / 0.6745 / np.sqrt(2)
    found = ruptures.Pelt(model="l2", min_size=1, jump=1).fit(mean / scale).predict(pen=3 * np.log(len(mean)) + 6)
    return found[-2] if len(found) > 1 else None


def adwin(x: np.ndarray, n: int) -> float | None:
    """Where the window of ADWIN begins after its last alarm."""
    from river.drift import ADWIN

    detector, last = ADWIN(delta=0.002), None
    for i, value in enumerate(x):
        detector.update(value)
        last = i - int(detector.width) + 1 if detector.drift_detected else last
    return None if last is None else last / n


WORLDS: dict[str, list[float]] = {
    "nothing changes": [0.3] * 30,
    "abrupt, 3 weeks ago": [0.3] * 27 + [0.45] * 3,
    "abrupt, 6 weeks ago": [0.3] * 24 + [0.38] * 6,
    "gradual over 12 weeks": [0.3] * 18 + [0.3 + 0.015 * i for i in range(12)],
    "there and back": [0.3] * 10 + [0.42] * 10 + [0.3] * 10,
}


def main() -> None:
    """Print for each world and detector: how often it found one, its median place, the spread; and the seconds taken."""
    detectors: tuple[Callable[[np.ndarray, int], float | None], ...] = (ours, pelt, adwin)
    spent = dict.fromkeys((one.__name__ for one in detectors), 0.0)
    for name, shares in WORLDS.items():
        for n in (300, 600, 2000):
            rng = np.random.default_rng(0)
            series = [np.concatenate([losses(rng, n, share) for share in shares]) for _ in range(SERIES)]
            for one in detectors:
                began = time.process_time()
                found = [place for x in series if (place := one(x, n)) is not None]
                spent[one.__name__] += time.process_time() - began
                at = (
                    f"week {np.median(found):.1f}, half within {np.subtract(*np.percentile(found, [75, 25])):.1f}"
                    if found
                    else ""
                )
                print(f"{name:24s} {n:5d} rows a week  {one.__name__:6s} {len(found):3d} of {SERIES}  {at}")
    print(spent)


if __name__ == "__main__":
    main()
