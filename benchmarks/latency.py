"""One-row latency of each kind of model, as trained and as ONNX.

    python benchmarks/latency.py [--rows 300] [--json FILE]

Tabular models are fitted to the census in nannyml's wheel and asked one row at a time, as a request asks: a data frame
of one row for the trained pipeline, a mapping for ONNX. Recommenders are fitted to the simulated shop and asked for the
ten products of one customer. Microseconds, median and 99th percentile, one thread.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"

import numpy as np
import pandas as pd

from mlloop.models import candidates, onnx_export
from mlloop.problem import Tabular

sys.path.insert(0, str(Path(__file__).parent))


def census() -> tuple[pd.DataFrame, np.ndarray]:
    """Features and target of the first 30,000 rows."""
    from nannyml.datasets import load_us_census_ma_employment_data

    rows = load_us_census_ma_employment_data()[0].head(30_000)
    X = rows.drop(columns=["id", "employed", "year", "prediction", "predicted_probability"])
    for name in X.select_dtypes("category"):
        X[name] = X[name].astype(str)
    return X, rows["employed"].to_numpy()


def timed(ask: Callable[[int], object], count: int) -> dict[str, float]:
    """Median and 99th percentile of `ask(n)` in microseconds, after a warm-up."""
    for n in range(20):
        ask(n)
    took = []
    for n in range(count):
        began = time.perf_counter_ns()
        ask(n)
        took.append((time.perf_counter_ns() - began) / 1000)
    return {"median_us": round(float(np.median(took)), 1), "p99_us": round(float(np.percentile(took, 99)), 1)}


def tabular(count: int) -> list[dict]:
    X, y = census()
    task = Tabular(kind="classification", table="census", target="employed", positive=1)
    kinds = {c: "number" if pd.api.types.is_numeric_dtype(X[c]) else "text" for c in X}
    single = [X.iloc[[n]] for n in range(count)]
    listed = [{name: [value] for name, value in row.items()} for row in X.head(count).to_dict("records")]
    found = []
    for one in candidates.candidates_for("classification"):
        model = one.make(task, 0)
        with candidates.fit_threads(model, len(X)):
            model.fit(X, y)
        session = onnx_export.Session(onnx_export.convert(model, kinds), kinds)
        expected = model.predict_proba(X.head(2000))[:, 1]
        difference = float(np.abs(expected - session.scores_of_frame(X.head(2000))[:, 1]).max())
        found.append(
            {
                "model": one.name,
                "trained": timed(lambda n, m=model: m.predict_proba(single[n % count]), count),
                "onnx": timed(lambda n, s=session: s.scores_of_columns(listed[n % count], 1), count * 3),
                "largest_difference": difference,
            }
        )
        print(json.dumps(found[-1]), flush=True)
    return found


def recommenders(count: int) -> list[dict]:
    from quality import features, shop, statement

    events, items, until, _ = shop()
    asked = statement(True)
    import ibis

    con = ibis.duckdb.connect()
    moments = [(until - pd.Timedelta(days=14 * n)).to_pydatetime() for n in (3, 2, 1, 0)]
    made = features.features_at_cutoffs(asked, con.create_table("e", events), con.create_table("i", items), moments)
    known = {kind: table.to_pandas() for kind, table in made.tables.items()}
    before, found = events[events["time"] < until], []
    for one in candidates.candidates_for("recommendation"):
        model = one.make(asked.task, 0).fit(before, items, **known)
        users = model.users_[:count]
        found.append(
            {"model": one.name, "trained": timed(lambda n, m=model, u=users: m.recommend([u[n % len(u)]], 10), count)}
        )
        print(json.dumps(found[-1]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = tabular(given.rows) + recommenders(given.rows)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
