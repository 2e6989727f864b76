"""Every recommender on the shop and on Online Retail, with intervals, beside the business rules.

    python benchmarks/quality.py [--data shop|online_retail ...] [--tuned] [--json FILE]

Online Retail is read from the folder that MLLOOP_TEST_DATA names (online_retail/online_retail.csv.gz); without it that
part is skipped. NDCG@10 over the whole catalogue, averaged over the customers who bought in the test period. Parameters
are those that the candidates ship with; --tuned lets exploration search them on folds before the test period first.
"""

import argparse
import datetime as dt
import json
import os
import sqlite3
import tempfile
import time
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import ibis
import pandas as pd

from mlloop import exploration, features
from mlloop.comparison import baselines
from mlloop.core import metrics
from mlloop.data import simulator
from mlloop.models import candidates
from mlloop.problem import Problem


def statement(repeats: bool, trials: int = 4, folds: int = 2) -> Problem:
    """A recommendation problem around events that are at hand."""
    columns = {c: {"type": "text"} for c in ("user", "item", "time")}
    use = {"table": "t", "user": "user", "item": "item", "time": "time", "kind": "purchase"}
    rules = [
        {"name": "best_sellers_ever", "meaning": "best-sellers of all time", "popular_days": 3650},
        {"name": "best_sellers_30d", "meaning": "best-sellers of the last 30 days", "popular_days": 30},
    ]
    return Problem.model_validate(
        {
            "name": "quality", "question": "?", "decision": "?", "rules": rules, "money": {},
            "sources": {"s": {"kind": "files", "path": "s.csv"}}, "tables": {"t": {"source": "s", "columns": columns}},
            "task": {"kind": "recommendation", "interactions": [use], "k": 10, "repeats": repeats},
            "success": {"metric": "ndcg", "threshold": 0.1}, "budget": {"trials": trials, "seconds": 100_000},
            "time": {"folds": folds},
        }
    )  # fmt: skip


def shop() -> tuple[pd.DataFrame, pd.DataFrame, pd.Timestamp, int]:
    """The simulated shop up to 2025-06-30, the last 14 days being the test."""
    with tempfile.TemporaryDirectory() as place:
        simulator.write_world(place, "2025-06-30", start="2025-03-03", customers=2000, products=400, seed=11)
        lines = [_line(text) for file in sorted(Path(place, "clicks").glob("*.jsonl")) for text in file.open()]
        clicks = pd.DataFrame([line for line in lines if line]).drop_duplicates("event_id")
        with sqlite3.connect(Path(place, "shop.db")) as con:
            bought = pd.read_sql("SELECT * FROM purchases", con).drop_duplicates(["order_id", "product_id"])
        goods = pd.read_csv(Path(place, "catalogue.csv"))
    named = {"customer_id": "user", "product_id": "item"}
    views = clicks.rename(columns={**named, "event_time": "time", "event": "kind"})[["user", "item", "time", "kind"]]
    sales = bought.rename(columns={**named, "purchased_at": "time"}).assign(kind="purchase")
    events = pd.concat([views, sales[["user", "item", "time", "kind", "quantity", "price_eur"]]])
    events["item"] = events["item"].str.strip().str.upper()
    events["user"] = events["user"].where(events["user"].fillna("").str.len() > 0)
    items = goods.rename(columns={"product_id": "item"}).assign(item=lambda t: t["item"].str.strip().str.upper())
    items["category"] = items["category"].str.strip().str.lower()
    items["price_eur"] = pd.to_numeric(items["price_eur"], errors="coerce")
    items = items.drop_duplicates("item")[["item", "name", "category", "brand", "price_eur"]]
    return _clean(events, items), items, pd.Timestamp("2025-06-16"), 14


def _line(text: str) -> dict | None:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _clean(events: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    events["time"] = pd.to_datetime(events["time"], errors="coerce", utc=True, format="mixed").dt.tz_localize(None)
    events["time"] = events["time"].dt.floor("s")
    for column in ("quantity", "price_eur"):
        events[column] = pd.to_numeric(events[column], errors="coerce")
    events = events[
        events["time"].notna() & events["item"].isin(items["item"]) & events["kind"].isin(["view", "cart", "purchase"])
    ]
    return events.sort_values(["time", "user", "item", "kind"], ignore_index=True)


def online_retail(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.Timestamp, int]:
    """UCI Online Retail; test from 2011-11-01 to the end of the data."""
    raw = pd.read_csv(folder / "online_retail" / "online_retail.csv.gz", dtype=str)
    raw.columns = [c.strip().lower().replace(" ", "_") for c in raw.columns]
    customer = next(c for c in raw.columns if c.startswith("customer"))
    code, date = next(c for c in raw.columns if c.startswith("stock")), next(c for c in raw.columns if "date" in c)
    price = next(c for c in raw.columns if "price" in c)
    events = pd.DataFrame(
        {
            "user": raw[customer].str.replace(".0", "", regex=False), "item": raw[code].str.strip().str.upper(),
            "time": pd.to_datetime(raw[date]), "kind": "purchase", "quantity": pd.to_numeric(raw["quantity"]),
            "price_eur": pd.to_numeric(raw[price]),
        }
    )  # fmt: skip
    names = (
        raw.assign(item=events["item"])
        .groupby("item")["description"]
        .agg(lambda d: d.dropna().mode().iloc[0] if d.notna().any() else None)
    )
    events = events[(events["quantity"] > 0) & events["user"].notna()].drop_duplicates()
    items = pd.DataFrame({"item": sorted(events["item"].unique())})
    items["name"] = items["item"].map(names)
    items["price_eur"] = items["item"].map(events.groupby("item")["price_eur"].median())
    until = pd.Timestamp("2011-11-01")
    days = int((events["time"].max() - until).days) + 1
    return events.sort_values(["time", "user", "item"], ignore_index=True), items, until, days


def measured(name: str, loaded, repeats: bool, tuned: bool) -> list[dict]:
    """One line a rule and candidate: NDCG@10 and hit rate with 95 % intervals, seconds of fitting and scoring."""
    events, items, until, days = loaded
    asked = statement(repeats)
    length = dt.timedelta(days=min(days, 28))
    cuts = [(until - 2 * length), (until - length), until]
    folds = [{"train_until": str(a), "test_from": str(a), "test_until": str(b)} for a, b in pairwise(cuts)]
    con = ibis.duckdb.connect()
    tables = {"events": con.create_table("events", events), "items": con.create_table("items", items)}
    moments = [(c - length).to_pydatetime() for c in cuts[:1]] + [c.to_pydatetime() for c in cuts]
    made = features.features_at_cutoffs(asked, tables["events"], tables["items"], moments)
    known = {kind: table.to_pandas() for kind, table in made.tables.items()}
    wants = baselines.relevant_items(asked, events, str(until), str(until + dt.timedelta(days=days)))
    before, lines = events[events["time"] < until], []
    judge = exploration.UsersJudge(asked, before, items, folds, known)
    models = {
        rule.name: ("rule", lambda rule=rule: candidates.rule_recommender(rule, asked.task)) for rule in asked.rules
    }
    for one in candidates.candidates_for("recommendation"):
        params = dict(one.defaults)
        if tuned and one.space:
            trials, _ = exploration.search(one, judge, exploration.Budget(asked.budget.trials))
            params = exploration.best_of(trials, "ndcg").params
        models[one.name] = ("candidate", lambda one=one, params=params: one.make(asked.task, 0, **params))
    for model_name, (kind, build) in models.items():
        began = time.perf_counter()
        model = build().fit(before, items, **exploration.features_until(known, until))
        fitted = time.perf_counter()
        values = baselines.user_metrics(model, wants, 10, repeats)
        ndcg = metrics.estimate_mean(values["ndcg"], draws=0)
        line = {"data": name, "repeats": repeats, "model": model_name, "kind": kind, "ndcg": round(ndcg.value, 4),
                "low": round(ndcg.low, 4), "high": round(ndcg.high, 4), "hit_rate": round(values["hit_rate"].mean(), 4),
                "users": len(values), "fit_s": round(fitted - began, 2), "score_s": round(time.perf_counter() - fitted, 2)}  # fmt: skip
        lines.append(line)
        print(json.dumps(line), flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="*", default=["shop", "online_retail"], choices=["shop", "online_retail"])
    parser.add_argument("--tuned", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: list[dict] = []
    if "shop" in given.data:
        found += measured("shop", shop(), True, given.tuned)
    folder = os.environ.get("MLLOOP_TEST_DATA")
    if "online_retail" in given.data and folder:
        loaded = online_retail(Path(folder))
        for repeats in (False, True):
            found += measured("online_retail", loaded, repeats, given.tuned)
    elif "online_retail" in given.data:
        print("online_retail skipped: MLLOOP_TEST_DATA names no folder")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
