"""Feature computation at 10 million events: seconds, rows and peak memory of each table, on the engine of the project.

    python benchmarks/features.py [--events 10000000] [--users 200000] [--items 20000] [--memory 4GB]
    python benchmarks/features.py --rows 1000000 --groups 1     # the past of rows, beside windows over ranges of time

Events are drawn in the engine itself (Zipf-like items, half a year). Each table is computed as of one cutoff, written to
Parquet, and timed with what it takes to write it. Vectors are made from the distinct pairs of user and item.

With `--rows` the past of each row (its last target, the mean of 28 days, the time since the row before) is computed as the
stage does it and by SQL's windows over a range of time, and the figures are compared; CPU seconds of this process.
"""

import argparse
import datetime as dt
import json
import resource
import tempfile
import time
from pathlib import Path

import ibis

from mlloop import features
from mlloop.data import event_features, feature_registry

assert event_features  # registers the definitions

CUTOFF = dt.datetime(2025, 7, 1)


def world(con, events: int, users: int, items: int) -> None:
    """Tables `events` and `items` of that size."""
    con.raw_sql(f"""
        CREATE TABLE events AS SELECT
            CASE WHEN random() < 0.05 THEN NULL ELSE 'u' || CAST(floor(pow(random(), 1.5) * {users}) AS INT) END AS "user",
            'i' || CAST(floor(pow(random(), 2.5) * {items}) AS INT) AS item,
            TIMESTAMP '2025-01-01' + to_seconds(CAST(floor(random() * 181 * 86400) AS BIGINT)) AS "time",
            CASE WHEN random() < 0.7 THEN 'view' WHEN random() < 0.5 THEN 'cart' ELSE 'purchase' END AS kind,
            1.0 + floor(random() * 3) AS quantity, 1.0 + random() * 100 AS price_eur
        FROM range({events})""")
    con.raw_sql(f"""
        CREATE TABLE items AS SELECT 'i' || i AS item, 'c' || (i % 40) AS category, 1.0 + random() * 100 AS price_eur
        FROM range({items}) t(i)""")


PAST = ("before_days_since", "before_target_last", "before_target_mean_28d")
BY_WINDOWS = """
    SELECT epoch("at") - epoch(max("at") OVER (g RANGE BETWEEN UNBOUNDED PRECEDING AND INTERVAL 1 SECOND PRECEDING)) AS days,
        last(y) OVER (g RANGE BETWEEN UNBOUNDED PRECEDING AND INTERVAL 3 DAY PRECEDING) AS last,
        avg(y) OVER (g RANGE BETWEEN INTERVAL 31 DAY PRECEDING AND INTERVAL 3 DAY PRECEDING) AS mean
    FROM rows_ WINDOW g AS (PARTITION BY who ORDER BY "at")"""


def past(rows: int, groups: int, memory: str) -> None:
    """Print the CPU seconds of both ways for rows of so many groups, one every three seconds, and check that they agree."""
    con = ibis.duckdb.connect(memory_limit=memory)
    con.raw_sql(f"""
        CREATE TABLE rows_ AS SELECT CAST(hash(i) % {groups} AS INT) AS who, CAST(hash(i * 7) % 10 = 0 AS DOUBLE) AS y,
            TIMESTAMP '2019-01-01' + to_seconds(3 * i) AS "at" FROM range({rows}) r(i)""")
    table = con.table("rows_")
    looked_up = features.with_history(table, "who" if groups > 1 else None, "at", table.y, 3, PAST)
    sums = looked_up.agg(
        days=looked_up[PAST[0]].sum() * 86_400, last=looked_up[PAST[1]].sum(), mean=looked_up[PAST[2]].sum()
    )
    report: dict = {"rows": rows, "groups": groups}
    found = []
    for name, query in (
        ("as-of joins", str(ibis.to_sql(sums))),
        ("windows", f"SELECT sum(days), sum(last), sum(mean) FROM ({BY_WINDOWS})"),
    ):
        began = time.process_time()
        found.append(con.raw_sql(query).fetchone())
        report[name] = round(time.process_time() - began, 1)
    assert all(abs(a - b) <= 1e-6 * (1 + abs(b)) for a, b in zip(*found, strict=True)), found
    print(json.dumps(report), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in (("events", 10_000_000), ("users", 200_000), ("items", 20_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--memory", default="4GB")
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--groups", type=int, default=1)
    given = parser.parse_args()
    if given.rows:
        return past(given.rows, given.groups, given.memory)
    with tempfile.TemporaryDirectory() as folder:
        con = ibis.duckdb.connect(Path(folder, "world.db"), memory_limit=given.memory, temp_directory=folder)
        con.raw_sql("SELECT setseed(0.5)")
        world(con, given.events, given.users, given.items)
        known = [feature_registry.build_past(con.table("events"), con.table("items"), CUTOFF)]
        report: dict = {"events": given.events, "tables": {}}
        for kind in ("item", "user", "taste", "pair"):
            began = time.perf_counter()
            table = feature_registry.compute_features_at(kind, known)
            table.to_parquet(Path(folder, f"{kind}.parquet"))
            took = time.perf_counter() - began
            rows = con.read_parquet(Path(folder, f"{kind}.parquet")).count().execute()
            features = len(table.columns) - 1 - len(feature_registry.KEYS[kind])
            report["tables"][kind] = {"seconds": round(took, 1), "rows": int(rows), "features": features}
            print(kind, report["tables"][kind], flush=True)
    report["seconds"] = round(sum(t["seconds"] for t in report["tables"].values()), 1)
    report["events_per_s"] = round(given.events / report["seconds"])
    report["peak_memory_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
