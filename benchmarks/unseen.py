"""Does `mlloop new` see in a table what a careful person would, and do the gates agree?

    python benchmarks/unseen.py [--seed 1] [--case marketing ...] [--run] [--keep FOLDER] [--json FILE]

Each case draws a table whose right reading is known: which column is the time, whose rows belong together, which columns
are written after the outcome, which are honest, and what the gates have to say. Names, strengths and sizes change with the
seed, so a seed that nobody has looked at is a test. `mlloop new` reads the table with nothing but its target, `--run` also
runs it, and what the statement and the ledger say is compared with the truth.
"""

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

Draw = np.random.Generator


@dataclass
class Case:
    """A table and what is true of it.

    Attributes
    ----------
    rows : DataFrame or dict of str to DataFrame
        One file, or several by name.
    target : str
    after : set of str
        Written after the outcome: each has to be kept away or asked about; of a group such as 'a|b' one is enough.
    time, entity : set of str
        Columns of which one has to be the time, or say whose rows belong together; '' for none, empty: not judged.
    types : dict of str to str
        What a column has to be.
    need, validation : set of str
        Verdicts that are right; empty: not judged.
    promoted : bool or None
        Whether a model may go into production by itself.
    told : tuple of str
        Regular expressions that what `new` prints has to hold.
    money : dict
        What is stated under money before the run.
    """

    rows: pd.DataFrame | Mapping[str, pd.DataFrame]
    target: str
    after: set[str] = field(default_factory=set)
    time: set[str] = field(default_factory=set)
    entity: set[str] = field(default_factory=set)
    types: Mapping[str, str] = field(default_factory=dict)
    need: set[str] = field(default_factory=set)
    validation: set[str] = field(default_factory=set)
    promoted: bool | None = None
    told: Sequence[str] = ()
    money: Mapping[str, float] = field(default_factory=dict)
    separator: str = ","


def pick(r: Draw, *names: str) -> str:
    """A name, another one with each seed."""
    return str(r.choice(names))


def logistic(score: np.ndarray, r: Draw, share: float) -> np.ndarray:
    """Outcomes of which about `share` are 1, by a score."""
    shift = np.quantile(score, 1 - share)
    return (r.random(len(score)) < 1 / (1 + np.exp(-2 * (score - shift)))).astype(int)


def field_of(r: Draw, n: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Honest columns, and a score that several of them make up."""
    rows = pd.DataFrame({
        pick(r, "age", "tenure", "years"): r.integers(18, 80, n),
        pick(r, "balance", "income", "budget"): np.exp(r.normal(7, 0.8, n)).round(2),
        pick(r, "visits", "contacts", "orders"): r.poisson(3, n),
        pick(r, "region", "branch", "area"): r.choice(["north", "south", "east", "west"], n),
        pick(r, "plan", "tariff", "segment"): r.choice(["basic", "plus", "gold"], n, p=[0.5, 0.3, 0.2]),
    })  # fmt: skip
    a, b, c, d, e = (rows[name] for name in rows)
    score = (
        (a - 45) / 25 * np.where(d == "north", 1.2, -0.5) + 0.5 * (c - 3) + 0.8 * (e == "gold") - 0.5 * np.log(b / 1100)
    )
    return rows, score.to_numpy(float)


def days(r: Draw, n: int, start: str = "2022-03-01", over: int = 500) -> pd.Series:
    """Sorted moments of one column."""
    return pd.Series(pd.Timestamp(start) + pd.to_timedelta(np.sort(r.integers(0, over * 86_400, n)), "s"))


# ---------------------------------------------------------------------------------------------- cases


def marketing(r: Draw) -> Case:
    """A call whose length is known when it is over: it towers over a weak field."""
    n, target = 6000, pick(r, "subscribed", "accepted", "signed")
    rows, score = field_of(r, n)
    y = logistic(0.5 * score + r.normal(0, 1, n), r, 0.15)
    length = pick(r, "call_seconds", "duration", "talk_time")
    rows[length] = np.exp(r.normal(4.8 + r.uniform(1.4, 1.9) * y, 0.8, n)).round()
    rows[pick(r, "called_on", "contact_date", "date")] = days(r, n).dt.date
    rows[target] = np.where(y == 1, "yes", "no")
    return Case(rows, target, {length}, validation={"maybe", "no"}, promoted=False)


def panel(r: Draw) -> Case:
    """Stores by week: the same week of a store is once in the file, and last week says most."""
    stores, weeks, target = 40, 110, pick(r, "sales", "turnover", "units_sold")
    store, week = pick(r, "store", "shop", "outlet"), pick(r, "week", "week_start", "period")
    base, rows = np.exp(r.normal(8, 0.6, stores)), []
    noise = np.zeros(stores)
    for w in range(weeks):
        noise = 0.7 * noise + r.normal(0, 0.12, stores)
        promo = r.random(stores) < 0.2
        at = pd.Timestamp("2021-01-04") + pd.Timedelta(weeks=w)
        value = base * np.exp(noise + 0.35 * promo + 0.25 * np.sin(2 * np.pi * w / 52))
        rows.append(pd.DataFrame({store: [f"S{i:02}" for i in range(stores)], week: at.date(), "promo": promo.astype(int),
                                  "price_index": r.normal(1, 0.05, stores).round(3), target: value.round(2)}))  # fmt: skip
    return Case(pd.concat(rows), target, time={week}, entity={store}, validation={"yes", "maybe"}, promoted=False)


def invoice(r: Draw) -> Case:
    """A total beside its parts, and a rate of it: the parts, or what holds the total, are no features."""
    n, target = 4000, pick(r, "total", "amount_due", "invoice_total")
    rows, score = field_of(r, n)
    net = np.exp(4 + 0.4 * score + r.normal(0, 0.4, n)).round(2)
    tax, shipping = (net * r.choice([0.07, 0.19], n)).round(2), r.choice([0, 4.9, 9.9], n)
    rows["net"], rows["tax"], rows["shipping"] = net, tax, shipping
    rows[target] = (net + tax + shipping).round(2)
    rows["pieces"] = r.integers(1, 12, n)
    rows["per_piece"] = (rows[target] / rows["pieces"]).round(4)
    return Case(rows, target, {"net", "per_piece|pieces"}, validation={"yes", "maybe"}, promoted=False)


def ticket(r: Draw) -> Case:
    """How long a case took, beside the moments it began and ended."""
    n, target = 4000, pick(r, "hours", "days_open", "handling_time")
    rows, score = field_of(r, n)
    begin, end = pick(r, "opened", "received", "reported"), pick(r, "resolved", "closed", "answered")
    rows[begin] = days(r, n)
    took = np.exp(2 + 0.4 * score + r.normal(0, 0.5, n))
    rows[end] = (rows[begin] + pd.to_timedelta(took * 3600, "s")).dt.round("s")
    rows[target] = (took / (24 if "days" in target else 1)).round(2)
    return Case(rows, target, {end}, time={begin}, validation={"yes", "maybe"}, promoted=False)


def serial(r: Draw) -> Case:
    """A line of measurements in file order without a time, whose states last."""
    n, target = 8000, pick(r, "faulty", "alarm", "state")
    level = np.cumsum(r.normal(0, 1, n))
    level -= pd.Series(level).rolling(400, min_periods=1).mean().to_numpy()
    rows = pd.DataFrame({f"sensor_{k}": (0.2 * level * r.normal() + r.normal(0, 2, n)).round(3) for k in "abcd"})
    rows[target] = ((level + r.normal(0, 0.5, n)) > np.quantile(level, 0.7)).astype(int)
    return Case(rows, target, time={"row_time"}, told=["order of the file"], validation={"maybe", "no"}, promoted=False)


def patients(r: Draw) -> Case:
    """Several visits of each patient, all with the outcome of the patient."""
    who, n = pick(r, "patient", "subject", "machine"), 700
    size = r.integers(3, 9, n)
    code = np.repeat(np.arange(n), size)
    outcome, marks = (r.random(n) < 0.35).astype(int), r.normal(size=(n, 4))
    marks[:, 0] += 0.8 * outcome
    rows = pd.DataFrame({f"mark_{k}": (marks[code, k] + r.normal(0, 0.05, len(code))).round(3) for k in range(4)})
    rows[who] = [f"P{c:04}" for c in code]
    rows["outcome"] = outcome[code]
    rows = rows.iloc[r.permutation(len(rows))]
    return Case(rows, "outcome", entity={who}, promoted=False)


def reviews(r: Draw) -> Case:
    """Text that says the answer, beside columns that do not."""
    n, target = 4000, pick(r, "recommended", "satisfied", "complaint")
    good = ["quick", "friendly", "great", "lovely", "perfect", "sturdy", "happy", "again", "worth", "excellent"]
    bad = ["slow", "broken", "rude", "refund", "never", "awful", "waiting", "cheap", "disappointed", "late"]
    plain = [
        "the",
        "delivery",
        "order",
        "box",
        "was",
        "with",
        "and",
        "we",
        "on",
        "day",
        "had",
        "product",
        "shop",
        "my",
        "it",
        "from",
        "a",
        "when",
    ]
    y = (r.random(n) < 0.6).astype(int)
    words = [[*r.choice(plain, 9), *r.choice(good if (r.random() < 0.8) == bool(v) else bad, 2)] for v in y]
    text = [" ".join(map(str, r.permutation(w))) for w in words]
    rows = pd.DataFrame({"stars_of_shop": r.normal(4, 0.3, n).round(1), pick(r, "comment", "review", "message"): text})
    rows["written"] = days(r, n).dt.strftime("%d %b %Y")
    rows[target] = y
    return Case(rows, target, time={"written"}, need={"yes", "maybe"}, validation={"yes", "maybe"}, promoted=False)


def imbalance(r: Draw) -> Case:
    """Four in a thousand, and columns that tell them."""
    n, target = 20_000, pick(r, "fraud", "claim", "breach")
    rows, score = field_of(r, n)
    y = logistic(2 * score + r.normal(0, 0.5, n), r, 0.002)
    rows["at"], rows[target] = days(r, n), y
    return Case(rows, target, time={"at"}, validation={"yes", "maybe", "no"}, promoted=False)


def sentinels(r: Draw) -> Case:
    """Numbers and marks that stand for a missing value."""
    n, target = 4000, "price"
    rows, score = field_of(r, n)
    a, b, _, d, _ = rows.columns
    rows[target] = np.exp(4 + 0.3 * score + r.normal(0, 0.3, n)).round(2)
    rows["depth"], rows["width"] = r.normal(60, 5, n).round(1), r.normal(30, 4, n).round(1)
    mark = float(pick(r, "-999", "-1", "9999"))
    for name in ("depth", "width"):
        rows.loc[r.random(n) < 0.08, name] = mark
    rows[a], rows[b] = rows[a].astype(object), rows[b].astype(object)
    rows.loc[r.random(n) < 0.05, a] = "?"
    rows.loc[r.random(n) < 0.03, b] = pick(r, "unknown", "n.d.", "--")
    rows.loc[r.random(n) < 0.04, d] = "?"
    return Case(rows, target, types={"depth": f"missing {mark:g}", "width": f"missing {mark:g}"}, promoted=False)


def monthly(r: Draw) -> Case:
    """A file a month, two months without one, a column that comes and one that goes."""
    files = {}
    for k in (1, 2, 3, 4, 7, 8, 9, 10):
        n = 700
        rows, score = field_of(np.random.default_rng(4), n)
        noise = np.random.default_rng(int(r.integers(1e6)))
        rows["visits" if "visits" in rows else rows.columns[2]] = noise.poisson(3, n)
        score = score + noise.normal(0, 0.6, n)
        rows["booked_at"] = pd.Timestamp(2023, k, 1) + pd.to_timedelta(np.sort(noise.integers(0, 27 * 86_400, n)), "s")
        rows["fare"] = np.exp(3 + 0.3 * score).round(2)
        if k >= 7:
            rows["channel"] = noise.choice(["web", "app"], n)
        if k < 4:
            rows["old_code"] = noise.choice(list("abc"), n)
        files[f"trips_2023-{k:02}.csv"] = rows
    return Case(files, "fare", time={"booked_at"}, told=["channel", "old_code"], promoted=False)


def repeats(r: Draw) -> Case:
    """A tenth of the rows written twice."""
    n, target = 4000, "left"
    rows, score = field_of(r, n)
    more = pd.DataFrame({f"m{i}": r.normal(size=n).round(4) for i in range(6)})
    rows = rows.join(more)
    rows[target] = logistic(score + r.normal(0, 0.5, n), r, 0.3)
    rows = pd.concat([rows, rows.sample(frac=0.1, random_state=int(r.integers(1e6)))]).sample(frac=1, random_state=1)
    return Case(rows, target, told=["400 of 4,400 rows repeat"], promoted=False)


def rule_is_best(r: Draw) -> Case:
    """One question is all there is to know."""
    n, target = 5000, pick(r, "late", "broken", "returned")
    rows, _ = field_of(r, n)
    a = rows.columns[0]
    rows[target] = (r.random(n) < np.where(rows[a] >= 50, 0.6, 0.15)).astype(int)
    return Case(rows, target, need={"no"}, promoted=False)


def noise(r: Draw) -> Case:
    """Nothing says anything."""
    n, target = 5000, pick(r, "late", "score", "returned")
    rows, _ = field_of(r, n)
    rows[target] = r.normal(50, 9, n).round(1) if target == "score" else (r.random(n) < 0.4).astype(int)
    rows["on"] = days(r, n).dt.date
    return Case(rows, target, need={"no"}, promoted=False)


def money(r: Draw) -> Case:
    """A real signal and a stated price: the model is promoted by the policy."""
    n, target = 8000, pick(r, "churned", "cancelled", "converted")
    rows, score = field_of(r, n)
    rows["since"], rows[target] = days(r, n), logistic(1.5 * score + r.normal(0, 0.4, n), r, 0.3)
    worth = {"true_positive": 50, "false_positive": -20, "false_negative": 0, "true_negative": 0, "ml_per_period": 100}
    return Case(rows, target, time={"since"}, need={"yes"}, validation={"yes"}, promoted=True, money=worth)


def date_forms(r: Draw) -> Case:
    """Dates written as a person writes them."""
    n = 3000
    rows, score = field_of(r, n)
    at = days(r, n, "2020-11-05", 800)
    rows["entered"] = at.dt.strftime(pick(r, "%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%y-%m-%d"))
    rows["due"] = (at + pd.to_timedelta(r.integers(5, 60, n), "D")).dt.strftime(
        pick(r, "%d %B %Y", "%b %d, %Y", "%d-%b-%y")
    )
    rows["fee"] = np.exp(3 + 0.3 * score + r.normal(0, 0.3, n)).round(2)
    return Case(rows, "fee", time={"entered"}, types={"entered": "date", "due": "date"}, promoted=False)


def european(r: Draw) -> Case:
    """Decimal commas, thousands with points, postcodes and phone numbers."""
    n = 3000
    rows, score = field_of(r, n)
    b = rows.columns[1]
    text = lambda v: f"{v:,.2f}".translate(str.maketrans(",.", ".,"))
    rows["plz"] = [f"{v:05}" for v in r.integers(1067, 99999, n)]
    rows["telefon"] = [f"+49{v}" for v in r.integers(10**9, 10**10, n)]
    rows["gewicht"] = [f"{v:.3f}".replace(".", ",") for v in r.gamma(2, 0.4, n)]
    rows["preis"] = [text(v) for v in np.exp(6 + 0.4 * score + r.normal(0, 0.3, n))]
    rows[b] = [text(v) for v in rows[b]]
    return Case(
        rows, "preis", types={"plz": "text|category", "telefon": "text|category", "gewicht": "number"}, separator=";"
    )


def ranked(r: Draw) -> Case:
    """A number that was given when the outcome was known: it stands in its order."""
    n, target = 4000, pick(r, "approved", "won", "defect")
    rows, score = field_of(r, n)
    y = logistic(0.6 * score + r.normal(0, 1, n), r, 0.3)
    name = pick(r, "case_no", "file_number", "ref")
    rows[name] = 100_000 + np.argsort(np.argsort(-y + r.normal(0, 0.25, n))) * 3
    rows[target] = y
    rows = rows.iloc[r.permutation(n)]
    return Case(rows, target, {name}, promoted=False)


def reasons(r: Draw) -> Case:
    """A reason that only those have who left, and an offer that most of them got."""
    n, target = 5000, pick(r, "left", "cancelled", "returned")
    rows, score = field_of(r, n)
    y = logistic(score + r.normal(0, 0.7, n), r, 0.25)
    why, none = pick(r, "reason", "why", "category"), pick(r, "none", "-", "not given")
    rows[why] = np.where((y == 1) & (r.random(n) < 0.8), r.choice(["price", "moved", "service"], n), none)
    offer = pick(r, "campaign", "channel", "desk")
    some = (y == 1) & (r.random(n) < 0.3)
    rows[offer] = np.where(some, "winback", r.choice(["mail", "phone", "web"], n))
    rows[target] = y
    return Case(rows, target, {why, offer}, promoted=False)


def one_class_late(r: Draw) -> Case:
    """The last weeks hold no positive: they are not known yet."""
    n, target = 3000, pick(r, "defaulted", "churned")
    rows, score = field_of(r, n)
    rows["granted"] = days(r, n)
    y = logistic(score + r.normal(0, 0.7, n), r, 0.2)
    rows[target] = np.where(np.arange(n) > 0.7 * n, 0, y)
    return Case(rows, target, time={"granted"}, need={"no", "maybe"}, promoted=False)


def numbered(r: Draw) -> Case:
    """A row number is no entity, and no feature."""
    n, target = 5000, "load"
    number = pick(r, "instant", "idx", "row_id", "seq")
    at = pd.date_range("2021-01-01", periods=n, freq="h")
    rows = pd.DataFrame(
        {
            number: np.arange(1, n + 1),
            "at": at,
            "temp": (10 + 8 * np.sin(np.arange(n) / 1400) + r.normal(0, 2, n)).round(1),
        }
    )
    rows[target] = (50 + 20 * np.sin(at.hour / 24 * 2 * np.pi) - rows["temp"] + r.normal(0, 4, n)).round(1)
    return Case(rows, target, time={"at"}, entity={""}, validation={"yes", "maybe"}, promoted=False)


def months(r: Draw) -> Case:
    """Cities by month, the month in two columns."""
    city, target = pick(r, "city", "county", "site"), pick(r, "rate", "index", "level")
    rows = [{city: f"C{c:02}", "year": 2008 + m // 12, "month": m % 12 + 1, "stock": r.normal(5, 1), "c": c, "m": m}
            for c in range(30) for m in range(120)]  # fmt: skip
    rows = pd.DataFrame(rows)
    rows[target] = (r.normal(0, 5, 30)[rows["c"]] + 0.05 * rows["m"] - rows["stock"] + r.normal(0, 1, len(rows))).round(
        2
    )
    rows["stock"] = rows["stock"].round(2)
    return Case(rows.drop(columns=["c", "m"]), target, time={"made of year, month"}, entity={city}, promoted=False)


def yearly(r: Draw) -> Case:
    """Countries by year: a year is a time."""
    who, when, target = (
        pick(r, "country", "firm", "state"),
        pick(r, "year", "yr"),
        pick(r, "gdp", "output", "emissions"),
    )
    n, span = 90, 24
    rows = pd.DataFrame(
        [(f"{who} {i}", 1990 + t, i, t) for i in range(n) for t in range(span)], columns=[who, when, "i", "t"]
    )
    level = r.normal(0, 1, n)[rows["i"]] + 0.03 * rows["t"] * r.uniform(0.5, 1.5, n)[rows["i"]]
    rows["invest"] = (level + r.normal(0, 0.5, len(rows))).round(3)
    rows[target] = np.exp(5 + level + r.normal(0, 0.05, len(rows))).round(2)
    return Case(rows.drop(columns=["i", "t"]), target, time={f"made of {when}"}, entity={who}, promoted=False)


CASES: dict[str, Callable[[Draw], Case]] = {
    case.__name__: case
    for case in (marketing, panel, invoice, ticket, serial, patients, reviews, imbalance, sentinels, monthly, repeats, rule_is_best,
                 noise, money, date_forms, european, ranked, reasons, one_class_late, numbered, months, yearly)
}  # fmt: skip


# ---------------------------------------------------------------------------------------------- what mlloop says of it


@dataclass
class Outcome:
    """What was wrong with a case, and what was printed."""

    case: str
    seed: int
    wrong: list[str]
    needless: list[str]
    printed: str
    seconds: float


def command(root: Path, *words: str) -> subprocess.CompletedProcess:
    """`mlloop` with the interpreter of this script."""
    return subprocess.run([sys.executable, "-m", "mlloop.cli", *words], cwd=root, capture_output=True, text=True)


def here(root: Path, *words: str) -> subprocess.CompletedProcess:
    """As `command`, in this process: a table is read in a second where the libraries are loaded."""
    from typer.testing import CliRunner

    from mlloop.cli.app import app

    with contextlib.chdir(root):
        done = CliRunner().invoke(app, words)
    error = "" if done.exception is None or isinstance(done.exception, SystemExit) else f"{done.exception}"
    return subprocess.CompletedProcess(words, done.exit_code, done.output, error)


def judged(name: str, seed: int, root: Path, run: bool) -> Outcome:
    """Draw the case, let mlloop read it (and run it), and compare."""
    began, case = time.monotonic(), CASES[name](np.random.default_rng([seed, *name.encode()]))
    root.mkdir(parents=True, exist_ok=True)
    data = root / "data"
    files = case.rows if isinstance(case.rows, Mapping) else {"rows.csv": case.rows}
    data.mkdir(exist_ok=True)
    for file, rows in files.items():
        rows.to_csv(data / file, index=False, sep=case.separator)
    new = here(root, "new", "it", "--data", str(data if len(files) > 1 else data / "rows.csv"), "--target", case.target)
    printed = new.stdout + new.stderr
    if new.returncode:
        return Outcome(name, seed, [f"new fails: {printed[-300:]}"], [], printed, time.monotonic() - began)
    path = root / "it/problems/it.yaml"
    statement = yaml.safe_load(path.read_text())
    wrong, needless = _of_new(case, statement, printed)
    if run:
        if case.money:
            path.write_text(_with_money(path.read_text(), case.money))
        ran = command(root / "it", "run")
        printed += ran.stdout + ran.stderr
        wrong += _of_run(case, ran.stdout + ran.stderr, ran.returncode)
    return Outcome(name, seed, wrong, needless, printed, time.monotonic() - began)


def _with_money(text: str, money: Mapping[str, float]) -> str:
    for name, value in money.items():
        text = re.sub(rf"(\b{name}: )0\b", rf"\g<1>{value}", text)
    return text


def _of_new(case: Case, statement: dict[str, Any], printed: str) -> tuple[list[str], list[str]]:
    """What the statement has wrong, and the honest columns that are kept away or asked about."""
    wrong, table = [], next(iter(statement["tables"].values()))
    columns: dict[str, Any] = {n: (c if isinstance(c, dict) else {"type": c}) for n, c in table["columns"].items()}
    marked = {n for n, c in columns.items() if c.get("known") in ("after", "unsure")} - {case.target}
    unused = {n for n, c in columns.items() if c.get("feature") is False}
    wrong += [f"missed: {group}" for group in sorted(case.after) if not set(group.split("|")) & (marked | unused)]
    honest = marked - {n for group in case.after for n in group.split("|")} - {"tax", "shipping"}
    when = statement.get("time", {}).get("column") or ""
    made = columns.get(when, {}).get("made_of")
    said = f"made of {', '.join(made)}" if made else when
    if case.time and said not in case.time:
        wrong.append(f"time is {said!r}, not {sorted(case.time)}")
    who = statement["task"].get("entity") or ""
    if case.entity and who not in case.entity:
        wrong.append(f"entity is {who!r}, not {sorted(case.entity)}")
    for column, kind in case.types.items():
        spec = columns.get(column, {})
        right = (
            kind.split()[1] in {f"{float(m):g}" for m in spec.get("missing", [])}
            if kind.startswith("missing")
            else spec.get("type") in kind.split("|")
        )
        wrong += [] if right else [f"{column} is {spec}, not {kind}"]
    wrong += [f"does not say {told!r}" for told in case.told if not re.search(told, printed)]
    return wrong, [f"{n}: {columns[n].get('known')}" for n in sorted(honest)]


def _of_run(case: Case, printed: str, code: int) -> list[str]:
    said = {gate: (re.findall(rf"{gate} gate: (\w+)", printed) or [""])[-1] for gate in ("need", "validation")}
    wrong = [] if code in (0, 3) and "Traceback" not in printed else [f"run fails with {code}: {printed[-300:]}"]
    wrong += [f"need gate says {said['need']}" for _ in "x" if case.need and said["need"] not in case.need]
    judged = said["validation"]
    wrong += [
        f"validation gate says {judged}" for _ in "x" if case.validation and judged and judged not in case.validation
    ]
    promoted = bool(re.search(r"model: .* registered as", printed)) and "no model is in production" not in printed
    if case.promoted is not None and promoted != case.promoted:
        wrong.append("promoted" if promoted else "not promoted")
    return wrong


def main() -> None:
    """Draw, read, run, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="*", choices=[*CASES], default=[*CASES])
    parser.add_argument("--seed", type=int, nargs="*", default=[1])
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    outcomes = []
    for seed in options.seed:
        for name in options.case:
            root = Path(options.keep or tempfile.mkdtemp()) / f"{name}-{seed}"
            outcome = judged(name, seed, root, options.run)
            outcomes.append(outcome)
            (root / "printed.txt").write_text(outcome.printed)
            print(
                f"{name} {seed}: {outcome.wrong or 'right'} {outcome.needless or ''} ({outcome.seconds:.0f} s)",
                flush=True,
            )
    right = sum(not outcome.wrong for outcome in outcomes)
    print(
        f"{right} of {len(outcomes)} tables are read right; honest columns marked: {sum(len(o.needless) for o in outcomes)}"
    )
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))


if __name__ == "__main__":
    main()
