"""The shop's world: seeded, incremental, learnable, and dirty in known ways."""

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlloop.core.errors import UsageError
from mlloop.core.storage import digest_file
from mlloop.data.simulator import parameters, truth, write_world

SMALL = {"start": "2025-03-03", "customers": 120, "products": 60, "seed": 5}


def sources(folder: Path) -> dict[str, str]:
    clicks = {path.name: digest_file(path) for path in (folder / "clicks").iterdir()}
    with sqlite3.connect(folder / "shop.db") as con:
        sold = con.execute("SELECT * FROM purchases").fetchall()
    return clicks | {"sold": str(sold), "catalogue": (folder / "catalogue.csv").read_text()}


def test_the_same_seed_gives_the_same_world_and_another_seed_another(tmp_path):
    first = sources(write_world(tmp_path / "a", "2025-03-12", **SMALL))
    assert sources(write_world(tmp_path / "b", "2025-03-12", **SMALL)) == first
    assert sources(write_world(tmp_path / "c", "2025-03-12", **(SMALL | {"seed": 6})))["sold"] != first["sold"]


def test_a_later_moment_only_adds_days(tmp_path):
    at_once = sources(write_world(tmp_path / "a", "2025-03-25", **SMALL))
    for moment in ("2025-03-04", "2025-03-12", "2025-03-12T15:00", "2025-03-25"):
        step = sources(write_world(tmp_path / "b", moment, **SMALL))
        assert all(at_once[name] == digest for name, digest in step.items() if name.endswith(".jsonl"))
        assert at_once["sold"].startswith(step["sold"][:-1])
    assert step == at_once
    assert sources(write_world(tmp_path / "a", "2025-03-12", **SMALL)) == at_once


def test_no_row_is_later_than_its_day_and_nothing_is_at_or_after_the_moment(tmp_path):
    folder = write_world(tmp_path, "2025-03-10", **SMALL)
    assert sorted(p.stem for p in (folder / "clicks").iterdir()) == [f"2025-03-0{d}" for d in range(3, 10)]
    for path in (folder / "clicks").iterdir():
        times = [json.loads(line)["event_time"][:10] for line in path.read_text().splitlines() if line.endswith("}")]
        assert max(times) == path.stem
    with sqlite3.connect(folder / "shop.db") as con:
        assert con.execute("SELECT max(purchased_at) FROM purchases").fetchone()[0] < "2025-03-10"


def test_other_parameters_replace_the_world(tmp_path):
    write_world(tmp_path / "a", "2025-03-12", **(SMALL | {"seed": 9}))
    assert sources(write_world(tmp_path / "a", "2025-03-06", **SMALL)) == sources(
        write_world(tmp_path / "b", "2025-03-06", **SMALL)
    )


@pytest.mark.parametrize("seconds", [0.2, 0.5, 0.9])
def test_a_killed_writer_leaves_whole_days_and_the_next_writes_the_rest(tmp_path, seconds):
    code = (
        "import os, signal, threading\nfrom mlloop.data.simulator import write_world\n"
        f"threading.Timer({seconds}, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()\n"
        f"write_world({str(tmp_path / 'a')!r}, '2025-05-12', **{SMALL!r})\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert sources(write_world(tmp_path / "a", "2025-05-12", **SMALL)) == sources(
        write_world(tmp_path / "b", "2025-05-12", **SMALL)
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    given = {"start": "2025-03-03", "customers": 800, "products": 200, "seed": 3, "taste_change_at": "2025-05-05"}
    return write_world(tmp_path_factory.mktemp("shop"), "2025-06-02", **given), given


def purchases(folder) -> pd.DataFrame:
    with sqlite3.connect(folder / "shop.db") as con:
        return pd.read_sql("SELECT * FROM purchases", con, parse_dates=["purchased_at"])


def test_every_declared_kind_of_dirt_is_there_and_is_rare(shop):
    folder, _ = shop
    lines = [line for path in (folder / "clicks").iterdir() for line in path.read_text().splitlines()]
    events, broken = [], 0
    for line in lines:
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            broken += 1
    sold = purchases(folder)
    late = sum(
        json.loads(line)["event_time"][:10] < path.stem
        for path in (folder / "clicks").iterdir() for line in path.read_text().splitlines() if line.endswith("}")
    )  # fmt: skip
    shares = {
        "broken line": broken / len(lines),
        "event twice": 1 - len({e["event_id"] for e in events}) / len(events),
        "misspelt event": sum(e["event"] == "veiw" for e in events) / len(events),
        "impossible dwell": sum(e["dwell_s"] < 0 for e in events) / len(events),
        "late": late / len(events),
        "visitor": sum(e["customer_id"] == "" for e in events) / len(events) / 10,
        "impossible price": (~sold.price_eur.between(0.01, 5000)).mean(),
        "no customer": (sold.customer_id == "").mean(),
        "return": (sold.quantity < 0).mean(),
        "row twice": sold.duplicated(["order_id", "product_id"]).mean(),
    }
    assert all(0 < share < 0.08 for share in shares.values()), shares
    catalogue = pd.read_csv(folder / "catalogue.csv")
    assert catalogue.category.nunique() > catalogue.category.str.strip().str.lower().nunique() > 12
    assert (catalogue.price_eur <= 0).sum() == 2


def test_the_catalogue_holds_what_was_listed_and_the_truth_is_not_in_it(shop):
    folder, given = shop
    catalogue = pd.read_csv(folder / "catalogue.csv", parse_dates=["listed_at"])
    known = truth(**given).products
    assert set(catalogue.product_id) == set(known[known.listed_at < "2025-06-02"].product_id)
    assert not {"style", "appeal", "segment"} & set(catalogue.columns)


def test_customers_buy_what_they_are_said_to_like(shop):
    folder, given = shop
    world, sold = truth(**given), purchases(folder)
    sold = sold[(sold.quantity > 0) & (sold.customer_id != "") & (sold.purchased_at < "2025-05-05")]
    customer = sold.customer_id.str[1:].astype(int).to_numpy() - 1
    product = sold.product_id.str[1:].astype(int).to_numpy() - 1
    liked = world.before[customer, product]
    by_chance = world.before[np.random.default_rng(0).permutation(customer), product]
    assert liked.mean() > 2.5 * by_chance.mean()


def test_tastes_change_on_the_declared_day_for_the_declared_share(shop):
    folder, given = shop
    world, sold = truth(**given), purchases(folder)
    moved = world.customers.segment != world.customers.segment_after
    assert 0.5 < moved.mean() < 0.7
    sold = sold[(sold.quantity > 0) & (sold.customer_id != "")]
    customer = sold.customer_id.str[1:].astype(int).to_numpy() - 1
    product = sold.product_id.str[1:].astype(int).to_numpy() - 1
    gain = np.log(world.after[customer, product] / world.before[customer, product])
    days = sold.purchased_at.dt.normalize()
    after = (days >= "2025-05-05").to_numpy()
    assert gain[~after & moved[customer]].mean() < -0.3 and gain[after & moved[customer]].mean() > 0.3
    unmoved = pd.DataFrame(given, index=[0]).assign(scenario="none").iloc[0].to_dict()
    assert not truth(**unmoved).changed(1000)


def test_what_is_bought_again_is_bought_by_the_same_customers(shop):
    folder, _ = shop
    sold = purchases(folder)
    sold = sold[(sold.quantity > 0) & (sold.customer_id != "") & (sold.purchased_at < "2025-05-05")]
    pairs = Counter(zip(sold.customer_id, sold.product_id, strict=True))
    shuffled = Counter(zip(sold.customer_id, np.random.default_rng(0).permutation(sold.product_id), strict=True))
    again = lambda counts: sum(n - 1 for n in counts.values()) / sum(counts.values())
    assert again(pairs) > 3 * again(shuffled)


def test_collaborative_filtering_clearly_beats_best_sellers_and_is_not_perfect(shop):
    """nDCG@10 over two weeks, by its definition (Jaervelin & Kekaelaeinen 2002), for products and a product-similarity ranking."""
    folder, _ = shop
    sold = purchases(folder)
    sold = sold[(sold.quantity > 0) & (sold.customer_id != "")]
    u, i = sold.customer_id.str[1:].astype(int).to_numpy(), sold.product_id.str[1:].astype(int).to_numpy()
    seen, test = (
        (sold.purchased_at < "2025-04-21").to_numpy(),
        sold.purchased_at.between("2025-04-21", "2025-05-05").to_numpy(),
    )
    bought = np.zeros((u.max() + 1, i.max() + 1))
    bought[u[seen], i[seen]] = 1
    count = bought.T @ bought
    norm = np.sqrt(np.diag(count)) + 1e-9
    similar = bought @ (count / norm[:, None] / norm[None, :])
    popular = np.broadcast_to(bought.sum(axis=0), bought.shape)

    def ndcg(score):
        values = []
        for user in set(u[test]):
            wanted = set(i[test & (u == user)])
            top = np.argsort(-score[user], kind="stable")[:10]
            gain = sum(1 / np.log2(rank + 2) for rank, item in enumerate(top) if item in wanted)
            values.append(gain / sum(1 / np.log2(rank + 2) for rank in range(min(10, len(wanted)))))
        return np.mean(values)

    assert ndcg(similar) > 1.5 * ndcg(popular) and ndcg(similar) < 0.6


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (SMALL | {"sead": 1}, "unknown parameter 'sead'"),
        (SMALL | {"scenario": "flood"}, "scenario is 'flood'"),
        (SMALL | {"customers": 2}, "customers is 2"),
        ({"seed": 1}, "start is missing"),
    ],
)
def test_parameters_that_make_no_world_are_refused(given, said):
    with pytest.raises(UsageError, match=said):
        parameters(**given)
