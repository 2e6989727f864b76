"""Ten million events: the declared rules through Ibis, against DuckDB SQL written by hand, and pandas.

Each way reads the same Parquet files, does the same work in a process of its own, and writes one Parquet file sorted by
time: trim and unify the device, fix missing words, drop unknown visitors, clip dwell times, mark returns, drop rows
that were sent twice, merge clicks and purchases. Ours counts every change as well; `sql_counting` is the SQL that counts them too.
Peak memory is the process's largest resident set. Several rounds, the ways alternating; medians. Run:

    python benchmarks/transformation.py [--events 10000000] [--rounds 3] [--memory 2GB] [--without pandas]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SEED, USERS, ITEMS = 7, 200_000, 20_000
WAYS = ("ours", "sql", "sql_counting", "pandas")


def simulate(folder: Path, events: int) -> None:
    """Write clicks (90%) and purchases (10%) with dirt: stray spaces and cases, 'n/a', wild dwell times, rows sent twice."""
    import duckdb

    con = duckdb.connect()
    con.execute(f"SELECT setseed({SEED / 100})")
    clicks, sales = int(events * 0.9), int(events * 0.1)
    con.execute(f"""COPY (
        SELECT (i // 1.001)::BIGINT AS n, md5((i // 1.001)::BIGINT::VARCHAR)[:12] AS event_id,
               TIMESTAMP '2025-01-01' + INTERVAL 1 SECOND * (hash(i // 1.001, 1) % 7776000)::BIGINT AS event_time,
               CASE WHEN hash(i // 1.001, 2) % 20 = 0 THEN NULL ELSE 'u' || (hash(i // 1.001, 3) % {USERS}) END AS customer_id,
               'p' || (hash(i // 1.001, 4) % {ITEMS}) AS product_id,
               CASE WHEN hash(i // 1.001, 5) % 10 = 0 THEN 'cart' ELSE 'view' END AS event,
               ['phone', 'desktop', 'tablet', ' Phone', 'DESKTOP', 'n/a'][1 + (
                   CASE WHEN hash(i // 1.001, 6) % 50 < 3 THEN 3 + hash(i // 1.001, 6) % 50
                        ELSE hash(i // 1.001, 6) % 3 END)::INT] AS device,
               CASE WHEN hash(i // 1.001, 7) % 1000 = 0 THEN 99999.0 ELSE (hash(i // 1.001, 8) % 3000) / 10.0 END AS dwell_s
        FROM range({clicks}) t(i)) TO '{folder}/clicks.parquet'""")
    con.execute(f"""COPY (
        SELECT md5(i::VARCHAR)[:12] AS order_id,
               TIMESTAMP '2025-01-01' + INTERVAL 1 SECOND * (hash(i, 11) % 7776000)::BIGINT AS purchased_at,
               'u' || (hash(i, 12) % {USERS}) AS customer_id, 'p' || (hash(i, 13) % {ITEMS}) AS product_id,
               CASE WHEN hash(i, 14) % 30 = 0 THEN -1 ELSE 1 + (hash(i, 15) % 3)::INT END AS quantity,
               round(1 + (hash(i, 16) % 10000) / 100.0, 2) AS price_eur
        FROM range({sales}) t(i)) TO '{folder}/purchases.parquet'""")


def ours(folder: Path, memory: str) -> dict:
    """The exported functions, with the rules as a statement declares them."""
    import ibis

    from mlloop.data.cleaning import Context, clean
    from mlloop.problem import Cleaning, Interactions
    from mlloop.transformation import prepare_events

    con = ibis.duckdb.connect(memory_limit=memory, temp_directory=str(folder / "spill"))
    con.raw_sql("SET TimeZone = 'UTC'")
    rules = [
        Cleaning(rule="duplicates", columns=["event_id"]),
        Cleaning(rule="text", columns=["device", "event"], options={"case": "lower"}),
        Cleaning(rule="missing_words", columns=["device"]),
        Cleaning(rule="outliers", columns=["dwell_s"], options={"low": 0, "high": 3600, "action": "clip"}),
    ]
    clicks = con.read_parquet(folder / "clicks.parquet")
    clicks, changes = clean(clicks, rules, name="clicks", context=Context(time="event_time"))
    tables = {"clicks": clicks, "purchases": con.read_parquet(folder / "purchases.parquet")}
    uses = [
        Interactions(table="clicks", user="customer_id", item="product_id", time="event_time", kind_column="event"),
        Interactions(
            table="purchases",
            user="customer_id",
            item="product_id",
            time="purchased_at",
            kind="purchase",
            quantity="quantity",
            price="price_eur",
        ),
    ]
    events, more = prepare_events(uses, tables)
    events.order_by("time", "user", "item", "kind", "quantity").to_parquet(folder / "ours.parquet")
    return {f"{c.rule} {','.join(c.columns)}": c.rows for c in [*changes, *more]}


CLEAN = """
    WITH ranked AS (SELECT *, row_number() OVER (PARTITION BY event_id ORDER BY event_time, {rest}) AS copy FROM '{folder}/clicks.parquet'),
    once AS (SELECT * FROM ranked WHERE copy = 1),
    tidy AS (SELECT *, nullif(trim(regexp_replace(lower(device), '\\s+', ' ', 'g')), '') AS d,
                    nullif(trim(regexp_replace(lower(event), '\\s+', ' ', 'g')), '') AS e FROM once),
    cleaned AS (SELECT * REPLACE (CASE WHEN d IN ('n/a', 'null', 'nan') THEN NULL ELSE d END AS device, e AS event,
                        least(greatest(dwell_s, 0), 3600) AS dwell_s) FROM tidy),
    merged AS (
        SELECT customer_id AS user, product_id AS item, event_time AS time, event AS kind, NULL::DOUBLE AS quantity, NULL::DOUBLE AS price_eur
        FROM cleaned UNION ALL
        SELECT customer_id, product_id, purchased_at, CASE WHEN quantity < 0 THEN 'return' ELSE 'purchase' END, quantity, price_eur
        FROM '{folder}/purchases.parquet')
"""
WRITE = """COPY ({clean} SELECT * FROM merged WHERE user IS NOT NULL AND item IS NOT NULL AND time IS NOT NULL
    ORDER BY time, user, item, kind, quantity) TO '{folder}/{name}.parquet'"""
COUNT = """{clean} SELECT (SELECT count(*) FROM '{folder}/clicks.parquet') - (SELECT count(*) FROM once),
    (SELECT count_if(device IS DISTINCT FROM d) FROM tidy), (SELECT count_if(event IS DISTINCT FROM e) FROM tidy),
    (SELECT count_if(d IN ('n/a', 'null', 'nan')) FROM tidy), (SELECT count_if(dwell_s > 3600 OR dwell_s < 0) FROM once),
    (SELECT count_if(user IS NULL) FROM merged), (SELECT count_if(kind = 'return') FROM merged)"""


def sql(folder: Path, memory: str, counting: bool = False) -> dict:
    """What somebody writes who knows DuckDB and this table."""
    import duckdb

    con = duckdb.connect(config={"memory_limit": memory, "temp_directory": str(folder / "spill")})
    rest = "n, customer_id, product_id, event, device, dwell_s"
    query = CLEAN.format(folder=folder, rest=rest)
    name = "sql_counting" if counting else "sql"
    counts = con.execute(COUNT.format(clean=query, folder=folder)).fetchone() if counting else ()
    con.execute(WRITE.format(clean=query, folder=folder, name=name))
    return {str(i): n for i, n in enumerate(counts)}


def with_pandas(folder: Path) -> dict:
    """The same in pandas."""
    import pandas as pd

    clicks = pd.read_parquet(folder / "clicks.parquet").sort_values("event_time").drop_duplicates("event_id")
    for column in ("device", "event"):
        tidy = clicks[column].str.lower().str.replace(r"\s+", " ", regex=True).str.strip()
        clicks[column] = tidy.mask(tidy.isin(["", "n/a", "null", "nan"]))
    clicks["dwell_s"] = clicks["dwell_s"].clip(0, 3600)
    sales = pd.read_parquet(folder / "purchases.parquet")
    sales["kind"] = sales["quantity"].lt(0).map({True: "return", False: "purchase"})
    names = {"customer_id": "user", "product_id": "item", "event_time": "time", "purchased_at": "time", "event": "kind"}
    columns = ["user", "item", "time", "kind", "quantity", "price_eur"]
    merged = pd.concat([part.rename(columns=names).reindex(columns=columns) for part in (clicks, sales)])
    merged = merged.dropna(subset=["user", "item", "time"]).sort_values(["time", "user", "item", "kind", "quantity"])
    merged.to_parquet(folder / "pandas.parquet", index=False)
    return {}


def once(way: str, folder: Path, memory: str) -> dict:
    """One way, in this process: seconds of work without imports, peak memory (MB), and what it counted."""
    import duckdb
    import ibis  # noqa: F401
    import pandas as pd  # noqa: F401

    import mlloop.transformation  # noqa: F401

    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    duckdb.connect().close()
    start = time.perf_counter()
    counts = {
        "ours": lambda: ours(folder, memory),
        "sql": lambda: sql(folder, memory),
        "sql_counting": lambda: sql(folder, memory, counting=True),
        "pandas": lambda: with_pandas(folder),
    }[way]()
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "imports_mb": base,
        "counts": counts,
    }


def digest(folder: Path, name: str) -> str:
    """Rows and a digest of a result, whatever the order of equal rows."""
    import duckdb

    return str(
        duckdb.sql(
            f"""SELECT count(*), sum(hash(user, item, time::TIMESTAMP, kind, quantity::DOUBLE, price_eur::DOUBLE) % 1000000007)
            FROM '{folder}/{name}.parquet'"""
        ).fetchone()
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", default="2GB", help="DuckDB's memory bound, for ours and for the SQL")
    parser.add_argument("--without", action="append", default=[], choices=WAYS)
    parser.add_argument("--once", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        print(json.dumps(once(given.once[0], Path(given.once[1]), given.memory)))
        return 0
    ways = [way for way in WAYS if way not in given.without]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        simulate(folder, given.events)
        runs: dict[str, list[dict]] = {way: [] for way in ways}
        for _ in range(given.rounds):
            for way in ways:
                command = [sys.executable, __file__, "--once", way, str(folder), "--memory", given.memory]
                runs[way].append(
                    json.loads(
                        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
                    )
                )
        results = {way: digest(folder, way) for way in ways}
    print(report(given.events, given.memory, runs, results))
    return 0 if len(set(results.values())) == 1 else 1


def report(events: int, memory: str, runs: dict[str, list[dict]], results: dict[str, str]) -> str:
    """The medians and their ratios to the SQL of the same run, as a table."""
    import statistics

    middle = {way: statistics.median(run["seconds"] for run in found) for way, found in runs.items()}
    lines = [
        f"{events:,} events, DuckDB held to {memory}, {len(next(iter(runs.values())))} rounds",
        "way            seconds  SQL's speed  peak MB (imports)  same rows",
    ]
    for way, found in runs.items():
        peak, base = max(run["peak_mb"] for run in found), max(run["imports_mb"] for run in found)
        same = "yes" if results[way] == results.get("sql", results[way]) else "NO"
        lines.append(
            f"{way:13} {middle[way]:8.1f} {middle.get('sql', middle[way]) / middle[way]:12.2f} {peak:11,.0f} ({base:,.0f}) {same:>10}"
        )
    counts = runs.get("ours", [{}])[0].get("counts")
    return "\n".join([*lines, f"counted: {counts}"])


if __name__ == "__main__":
    sys.exit(main())
