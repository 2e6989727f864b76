"""Writes churn.csv: customers by the hour, whose visits mean the opposite from October 2024 on. For docs/own_project.md."""

import numpy as np
import pandas as pd

rng = np.random.default_rng(0)
n = 9_000
at = pd.Timestamp("2023-07-01") + pd.to_timedelta(np.sort(rng.integers(0, 562 * 24, n)), "h")
rows = pd.DataFrame(
    {"id": np.arange(n), "at": at, "visits": rng.poisson(3, n), "plan": rng.choice(["basic", "plus"], n)}
)
rows["age"], rows["spent"] = rng.integers(18, 80, n), rng.gamma(2, 30, n).round(2)
turned = at > pd.Timestamp("2024-10-01")  # from here on visits mean the opposite
score = (
    np.where(turned, 1, -1) * 0.9 * (rows.visits - 3)
    + 0.04 * (rows.age - 45)
    + (rows.plan == "basic")
    - rows.spent / 60
)
rows["churned"] = (rng.random(n) < 1 / (1 + np.exp(-score))).astype(int)
rows.to_csv("churn.csv", index=False)
