"""What was cleaned for training is cleaned for serving: one row at a time gives what the whole table gave."""

import datetime as dt

import ibis
import numpy as np
import pandas as pd
import pytest

from mlloop.data import cleaning
from mlloop.data.cleaning import RULES, Context, clean, standard_rules
from mlloop.data.parsing import LAKE_TYPES, parse_value, text_or_null
from mlloop.data.row_cleaner import RowCleaner
from mlloop.data.row_cleaning import frozen
from mlloop.problem import CLEANING_RULES, Cleaning, Column

COLUMNS = {
    "channel": Column(type="category"),
    "town": Column(type="text"),
    "state": Column(type="text"),
    "price": Column(type="text"),
    "share": Column(type="text"),
    "size": Column(type="text"),
    "born": Column(type="text"),
    "left": Column(type="text"),
    "took": Column(type="text"),
    "visits": Column(type="integer"),
    "weight": Column(type="number", decimal=",", thousands="."),
    "at": Column(type="time", format="%d.%m.%Y %H:%M"),
    "until": Column(type="date", missing=["9999-12-31"]),
    "paid": Column(type="boolean"),
}
DECLARED = [
    {"rule": "text", "columns": ["town"], "options": {"case": "title"}},
    {"rule": "missing_words", "columns": ["town"], "options": {"words": ["?"]}},
    {"rule": "spill", "columns": ["town", "state"]},
    {"rule": "spelling", "columns": ["town"], "options": {"ratio": 5}},
    {"rule": "recode", "columns": ["state"], "options": {"to": {"Calif.": "CA", "--": None}}},
    {"rule": "replace", "columns": ["size"], "options": {"pattern": "^about ", "by": ""}},
    {"rule": "shape", "columns": ["size"], "options": {"template": "{n} beds"}},
    {"rule": "words", "columns": ["size"]},
    {"rule": "number", "columns": ["price"]},
    {"rule": "number", "columns": ["share"], "options": {"decimal": ",", "units": {"%": 0.01}}},
    {"rule": "duration", "columns": ["took"]},
    {"rule": "date", "columns": ["born"], "options": {"formats": ["%d/%m/%Y"]}},
    {"rule": "time_form", "columns": ["left"], "options": {"form": "%-I:%M %p"}},
    {"rule": "fill", "columns": ["visits"], "options": {"by": "median", "flag": True}},
    {"rule": "fill", "columns": ["state"], "options": {"by": "mode"}},
    {"rule": "outliers", "columns": ["price"], "options": {"action": "clip", "k": 1.5}},
    {"rule": "outliers", "columns": ["visits"], "options": {"low": 0, "high": 90, "action": "missing"}},
    {"rule": "outliers", "columns": ["weight"], "options": {"action": "flag", "k": 1.0}},
    {"rule": "dotless", "columns": ["channel"]},
    {"rule": "dependency", "columns": ["state"], "options": {"by": ["town"]}},
    {"rule": "duplicates", "columns": []},
]
OF_TABLES = {"dependency", "sources", "duplicates", "near_duplicates", "drop_missing", "returns"}


def raw_texts(n=300, seed=4) -> pd.DataFrame:
    r = np.random.default_rng(seed)
    pick = lambda *values: r.choice(np.array(values, dtype=object), n)
    return pd.DataFrame(
        {
            "channel": pick("Web", " Web", "web", "Shop", "SHOP ", "e-mail", "N/A", "", None),
            "town": pick("san  diego", "San Diego", "San Dieog", "Bend", "Bend OR", "?", " bend", None),
            "state": pick("CA", "Calif.", "OR", "--", "", None),
            "price": pick("$ 29.85", "$1,234.50", "(45.10)", "12", "n/a", "-$5", "9'999.00", None),
            "share": pick("12%", "0,25", "7,5 %", "1.234,5", "x", None),
            "size": pick("3 beds", "3 bedz", "about 4 beds", "12 beds", None),
            "born": pick("31/03/1980", "1/4/1975", "1980-03-31", "30/02/1990", None),
            "left": pick("7:10 a.m.", "11:05aDec 1", "Dec 1, 2011 19:30", "7:10 a.m. - 9:40 a.m.", "9:55", None),
            "took": pick("1h 20m", "3 days", "00:12:30", "9:47", "soon", None),
            "visits": pick("3", "5.0", "700", "-4", "NA", None),
            "weight": pick("0,805", "1.234,5", "99.000,0", "2", None),
            "at": pick("01.03.2025 10:30", "31.12.2024 00:00", None),
            "until": pick("2025-03-01", "9999-12-31", None),
            "paid": pick("yes", "NO", "1", "f", None),
        }
    )


@pytest.fixture(scope="module")
def trained():
    """The table cleaned as a whole, and the cleaner of single rows made of it."""
    RULES["dotless"] = lambda table, columns, context: cleaning.Step(
        table, {c: table[c].replace("-", "") for c in columns}
    )
    texts = raw_texts()
    con = ibis.duckdb.connect()
    raw = con.create_table("raw", texts.assign(_row=range(len(texts))).astype({c: "string" for c in texts}))
    typed = raw.mutate(
        **{n: parse_value(text_or_null(raw[n], c), c).cast(LAKE_TYPES[c.type]) for n, c in COLUMNS.items()}
    )
    table = con.create_table("typed", typed)
    steps, context = [], Context(COLUMNS, ["_row"], "at", dt.datetime(2030, 1, 1))
    rows, _ = clean(table, standard_rules(table, COLUMNS), context=context, declared=False, steps=steps)
    declared = [Cleaning(**rule) for rule in DECLARED]
    rows, _ = clean(rows, [rule for rule in declared if rule.rule not in OF_TABLES], context=context, steps=steps)
    clean(
        rows, [rule for rule in declared if rule.rule in OF_TABLES], context=context, steps=steps
    )  # changes nothing here
    yield texts, rows.order_by("_row").to_pandas(), RowCleaner(frozen(steps, COLUMNS, table))
    del RULES["dotless"]


def same(one, other) -> bool:
    gone = lambda value: value is None or value != value or value is pd.NaT
    if gone(one) or gone(other):
        return gone(one) and gone(other)
    number = lambda value: float(value) if isinstance(value, (bool, int, float, np.number, np.bool_)) else value
    return number(one) == number(other) or pd.Timestamp(one) == pd.Timestamp(other)


def test_every_rule_of_rows_is_tried_here():
    assert {rule["rule"] for rule in DECLARED} | {"finite", "one_spelling"} | OF_TABLES >= set(CLEANING_RULES)


def test_rows_one_by_one_are_cleaned_as_the_table_was(trained):
    texts, table, cleaner = trained
    for at, row in enumerate(texts.to_dict("records")):
        (made,), (wrong,) = cleaner.clean([row])
        assert not wrong
        for name in table.columns.drop("_row"):
            assert same(made.get(name), table[name].iloc[at]), (name, row, made.get(name), table[name].iloc[at])


def test_all_rows_at_once_are_cleaned_as_one_by_one(trained):
    texts, _, cleaner = trained
    rows = texts.to_dict("records")
    assert cleaner.clean(rows)[0] == [cleaner.clean([row])[0][0] for row in rows]


def test_a_value_that_has_its_type_already_is_left_as_it_is(trained):
    _, _, cleaner = trained
    (made,), _ = cleaner.clean(
        [{"price": 29.85, "share": 0.25, "visits": 5, "weight": 0.805, "at": dt.datetime(2025, 3, 1)}]
    )
    assert (made["price"], made["share"], made["visits"], made["weight"]) == (29.85, 0.25, 5.0, 0.805)
    assert made["at"] == dt.datetime(2025, 3, 1) and made["visits_missing"] == 0.0


def test_a_spelling_that_no_row_had_is_taken_for_its_like(trained):
    _, _, cleaner = trained
    known = {cleaner.clean([{"channel": one}])[0][0]["channel"] for one in ("Web", " web", "WEB", "w e b", "wEb ")}
    assert len(known) == 1


def test_what_cannot_be_read_is_named_with_its_column(trained):
    _, _, cleaner = trained
    _, (wrong,) = cleaner.clean([{"weight": "1,2,3", "paid": "perhaps", "visits": "7"}])
    assert set(wrong) == {"weight", "paid"} and "finite number" in wrong["weight"]


def test_what_is_not_stated_stays_unstated(trained):
    _, _, cleaner = trained
    (made,), _ = cleaner.clean([{"price": "$5"}])
    assert made["price"] == 5.0 and "born" not in made
