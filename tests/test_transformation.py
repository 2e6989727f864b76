"""Transformation and cleaning: what happens to bad rows, that nothing is lost uncounted, that engines agree."""

import datetime as dt
import os
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
import pytest

from mlloop.core.errors import DataError, ProblemError
from mlloop.core.storage import plain
from mlloop.data import loan_example
from mlloop.data.cleaning import Change, Context, clean
from mlloop.data.profiling import suggest_cleaning
from mlloop.problem import Cleaning, Interactions, Items, Join, Problem, Time
from mlloop.transformation import (
    add_derived_columns,
    cleaning_summary,
    join_table,
    prepare_events,
    prepare_items,
    prepare_rows,
    time_windows,
    transform,
)
from mlloop.visualization import changes_table

AS_OF = dt.datetime(2025, 3, 1)
DAYS = pd.date_range("2025-01-01", periods=60)


@pytest.fixture
def con():
    return ibis.duckdb.connect()


def statement(**changes) -> Problem:
    loan = loan_example.statement(time={"holdout_days": 10, "folds": 2, "fold_days": 10})
    return Problem.model_validate(loan.model_dump() | changes)


def loans(**columns) -> pd.DataFrame:
    return pd.DataFrame({"id": range(60), "day": DAYS, "town": "Bend", "amount": 1.0, "repaid": [0, 1] * 30} | columns)


def run(con, frame: pd.DataFrame, **changes):
    return prepare_rows(statement(**changes), {"loans": con.create_table(ibis.util.gen_name("loans"), frame)}, AS_OF)


def rule(name, columns=(), **options) -> Cleaning:
    return Cleaning(rule=name, columns=list(columns), options=options)


def cleaned(con, frame, *rules, **context):
    table, changes = clean(
        con.create_table(ibis.util.gen_name("toy"), pd.DataFrame(frame)), rules, context=Context(**context)
    )
    return table.to_pandas(), changes


def test_nothing_at_or_after_as_of_reaches_the_rows(con):
    rows = run(con, loans()).tables["rows"].to_pandas()
    assert rows["day"].max() == pd.Timestamp("2025-02-28") and len(rows) == 59


def test_rows_whose_time_comes_with_a_join_are_cut_as_well(con):
    columns = {"nr": {"type": "integer"}, "repaid": {"type": "integer"}}
    days = {"nr": {"type": "integer"}, "day": {"type": "time"}}
    tables = {
        "loans": {"source": "loans", "columns": columns},
        "days": {"source": "loans", "key": ["nr"], "columns": days},
    }
    task = {
        "kind": "classification",
        "table": "loans",
        "target": "repaid",
        "positive": 1,
        "joins": [{"table": "days", "on": ["nr"]}],
    }
    asked = statement(task=task, tables=tables, rules=[{"name": "r", "meaning": "m", "score": "nr"}])
    made = {
        "loans": con.create_table("own_loans", pd.DataFrame({"nr": range(60), "repaid": [0, 1] * 30})),
        "days": con.create_table("own_days", pd.DataFrame({"nr": range(60), "day": DAYS})),
    }
    rows = prepare_rows(asked, made, AS_OF).tables["rows"].to_pandas()
    assert rows["day"].max() == pd.Timestamp("2025-02-28") and len(rows) == 59


def test_windows_meet_without_gap_or_overlap():
    found = time_windows(
        Time(holdout_days=14, folds=3, fold_days=7, label_delay_days=3), AS_OF, DAYS[0].to_pydatetime()
    )
    edges = [fold["test_from"] for fold in found["folds"]] + [found["holdout_from"]]
    assert edges == [fold["test_from"] for fold in found["folds"][:1]] + [fold["test_until"] for fold in found["folds"]]
    assert found["holdout_until"] == "2025-02-26T00:00:00" and found["train_until"] == "2025-02-12T00:00:00"


def test_fewer_folds_where_history_is_short_and_a_refusal_below_two():
    plan = Time(holdout_days=10, folds=4, fold_days=10)
    assert len(time_windows(plan, AS_OF, dt.datetime(2025, 1, 15))["folds"]) == 3
    with pytest.raises(DataError, match="Shorten holdout_days or fold_days"):
        time_windows(plan, AS_OF, dt.datetime(2025, 2, 5))


def test_a_target_of_one_value_is_refused(con):
    with pytest.raises(DataError, match="one value only"):
        run(con, loans(repaid=1))


def test_a_target_that_is_not_there_is_refused_with_what_was_meant(con):
    with pytest.raises(DataError, match="Did you mean 'repaid_at'"):
        run(con, loans().rename(columns={"repaid": "repaid_at"}))


def test_a_column_of_one_value_passes_and_infinities_become_missing(con):
    amount = [np.inf, -np.inf, np.nan] + [5.0] * 57
    result = run(con, loans(amount=amount))
    assert result.tables["rows"].to_pandas()["amount"].isna().sum() == 3
    assert [c.rule for c in result.changes] == ["finite"]


def test_rows_without_a_target_are_counted_out(con):
    result = run(con, loans(repaid=[0, 1] * 29 + [None, 1]))
    dropped = [c for c in result.changes if c.rule == "target"]
    assert dropped[0].rows == 1 and result.tables["rows"].count().to_pyarrow().as_py() == 58


def test_mixed_date_formats_are_read_in_the_order_declared(con):
    days = ["31/12/2024", "2024-12-31", "12.31.24", "30/02/2025", "yesterday", None]
    rows, _ = cleaned(con, {"day": days}, rule("date", ["day"], formats=["%d/%m/%Y", "%Y-%m-%d", "%m.%d.%y"]))
    assert rows["day"].isna().tolist() == [False, False, False, True, True, True]
    assert set(rows["day"].dropna()) == {pd.Timestamp("2024-12-31")}


def test_a_ten_megabyte_cell_neither_stops_cleaning_nor_reaches_the_product(con):
    rows, changes = cleaned(con, {"note": ["  x" * 3_500_000, "short"]}, rule("text", ["note"]))
    assert changes[0].rows == 1 and len(rows["note"].iloc[0]) == 2 * 3_500_000 - 1
    assert all(len(text) <= 80 for text in changes[0].examples[0].values())


def test_counts_add_up_over_dropping_rules(con):
    frame = {"id": [1, 1, 2, 3, 4], "who": ["a", "a", None, "c", "d"], "n": [1.0, 1.0, 2.0, 900.0, 3.0]}
    rows, changes = cleaned(
        con, frame, rule("duplicates"), rule("drop_missing", ["who"]), rule("outliers", ["n"], high=100, action="drop")
    )
    assert len(rows) + sum(c.rows for c in changes) == 5 and [c.rows for c in changes] == [1, 1, 1]


def test_duplicates_keep_the_earliest_and_treat_missing_as_alike(con):
    frame = {
        "id": ["x", "x", None, None],
        "at": pd.to_datetime(["2025-01-02", "2025-01-01", "2025-01-04", "2025-01-03"]),
    }
    rows, changes = cleaned(con, frame, rule("duplicates", ["id"]), time="at")
    assert sorted(rows["at"].dt.day) == [1, 3] and changes[0].rows == 2


def test_a_second_submission_within_seconds_is_a_near_duplicate(con):
    at = pd.to_datetime(["2025-01-01 10:00:00", "2025-01-01 10:00:04", "2025-01-01 10:05:00"])
    rows, changes = cleaned(
        con, {"who": ["Ann", "ANN ", "ann"], "at": at}, rule("near_duplicates", ["who"], within_s=10), time="at"
    )
    assert len(rows) == 2 and changes[0].rows == 1


def test_statistics_are_learnt_before_the_held_out_days_only(con):
    at = pd.to_datetime(["2025-01-01", "2025-01-02", "2025-06-01", "2025-06-02"])
    rows, _ = cleaned(
        con, {"at": at, "n": [1.0, 3.0, 500.0, None]}, rule("fill", ["n"], by="mean"), time="at", until=AS_OF
    )
    assert rows.sort_values("at")["n"].tolist()[-1] == 2.0


def test_clipping_leaves_missing_values_missing(con):
    rows, changes = cleaned(con, {"n": [None, -5.0, 500.0]}, rule("outliers", ["n"], low=0, high=100, action="clip"))
    assert rows["n"].fillna(-1).tolist() == [-1.0, 0.0, 100.0] and changes[0].rows == 2


def test_spelling_repairs_slips_and_leaves_other_words(con):
    style = (
        ["American Pale Ale"] * 40 + ["Americxn Pale Ale", "American Dark Ale", "size 12", "size 13"] + ["size 12"] * 20
    )
    rows, _ = cleaned(con, {"style": style}, rule("spelling", ["style"], max_edits=6, ratio=5))
    assert set(rows["style"]) == {"American Pale Ale", "American Dark Ale", "size 12", "size 13"}


def test_a_word_of_several_values_is_no_slip(con):
    state = [f"al {n}" for n in ("one", "two", "three")] * 30 + ["ak one", "ak two", "ak three", "xl one"]
    rows, changes = cleaned(con, {"state": state}, rule("spelling", ["state"], ratio=5))
    assert {"ak one", "ak two", "ak three"} <= set(rows["state"]) and changes[0].rows == 1


def test_a_second_truth_is_not_repaired_by_the_majority(con):
    frame = {"town": ["a"] * 20, "code": ["1111"] * 13 + ["1112"] * 6 + ["111x"]}
    rows, _ = cleaned(con, frame, rule("dependency", ["code"], by=["town"]))
    assert rows["code"].value_counts().to_dict() == {"1111": 14, "1112": 6}


def test_returns_are_netted_against_earlier_purchases_only(con):
    at = pd.to_datetime(["2025-01-01", "2025-01-02", "2025-01-03"])
    frame = {"who": "a", "what": "mug", "n": [-2, 3, -1], "at": at}
    rows, _ = cleaned(con, frame, rule("returns", ["n"], how="net", by=["who", "what"]), time="at")
    assert rows["n"].tolist() == [2]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (rule("splling", ["town"]), "Did you mean 'spelling'"),
        (rule("text", ["twon"]), "Did you mean 'town'"),
        (rule("text", ["town"], case="loud"), "expected lower, upper or title"),
        (rule("text", ["town"], caze="lower"), "caze"),
        (rule("replace", ["town"], pattern="("), "no regular expression"),
        (rule("outliers", ["n"], action="hide"), "expected flag"),
        (rule("date", ["town"], formats=["%Q"]), "not understood"),
        (rule("near_duplicates", ["town"], within_s=1), "time column"),
        (rule("dependency", ["town"], by=[]), "others that determine it"),
        (rule("shape", ["town"], template="x"), "{n}"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_told(con, wrong, said):
    with pytest.raises(ProblemError) as told:
        cleaned(con, {"town": ["a"], "n": [1.0]}, wrong)
    assert said in str(told.value)


def test_a_join_never_multiplies_rows(con):
    left = con.create_table("l", pd.DataFrame({"k": ["a", "b", None], "n": [1, 2, 3]}))
    twice = con.create_table("r", pd.DataFrame({"k": ["a", "a"], "v": [1, 2]}))
    with pytest.raises(DataError, match="would multiply rows"):
        join_table(left, twice, Join(table="r", on=["k"]))
    rows, _ = join_table(left, con.create_table("r1", pd.DataFrame({"k": ["a"], "n": [9]})), Join(table="r1", on=["k"]))
    assert rows.to_pandas().sort_values("n")["n_r1"].tolist()[0] == 9 and rows.count().to_pyarrow().as_py() == 3


def test_a_join_as_of_takes_the_latest_entry_before_the_row(con):
    left = con.create_table("o", pd.DataFrame({"k": ["a", "a"], "at": pd.to_datetime(["2025-01-05", "2024-12-31"])}))
    right = con.create_table(
        "p", pd.DataFrame({"k": ["a", "a"], "since": pd.to_datetime(["2025-01-01", "2025-01-06"]), "price": [5.0, 6.0]})
    )
    rows, _ = join_table(left, right, Join(table="p", on=["k"]), time="at", right_time="since")
    shown = rows.to_pandas().sort_values("at")
    assert shown["price"].tolist()[1] == 5.0 and np.isnan(shown["price"].tolist()[0])


def test_derived_columns_build_on_each_other_and_errors_name_the_expression(con):
    table = con.create_table("d", pd.DataFrame({"n": [2]}))
    assert add_derived_columns(table, {"a": "n * 2", "b": "a + 1"}).to_pandas()["b"].tolist() == [5]
    with pytest.raises(DataError, match=r"task\.derive: c"):
        add_derived_columns(table, {"c": "no_such + 1"})


def test_events_of_unknown_visitors_leave_and_are_counted(con):
    clicks = con.create_table(
        "c", pd.DataFrame({"u": ["a", None], "i": ["x", "y"], "t": DAYS[:2], "e": ["view", "view"]})
    )
    events, changes = prepare_events(
        [Interactions(table="c", user="u", item="i", time="t", kind_column="e")], {"c": clicks}
    )
    assert events.count().to_pyarrow().as_py() == 1 and [(c.rule, c.rows) for c in changes] == [("unknown visitor", 1)]
    assert list(events.schema().items())[:4] == [(n, events.schema()[n]) for n in ("user", "item", "time", "kind")]


def test_a_value_that_matches_becomes_missing_and_its_rows_can_be_left_out(con):
    rules = [rule("replace", ["code"], pattern="^[^0-9]", by=None), rule("drop_missing", ["code"])]
    rows, changes = cleaned(con, {"code": ["123", "POST", "M", "9A"]}, *rules)
    assert sorted(rows["code"]) == ["123", "9A"] and [c.rows for c in changes] == [2, 2]


def test_a_catalogue_taken_from_sales_has_no_column_of_a_sale_and_counts_names_that_differ(con):
    frame = {
        "item": ["a", "a", "a", "b", "b"],
        "called": ["mug", "mug", "damaged", "pen", "pen"],
        "who": list("uvwxy"),
        "paid": [5.0, 4.0, 4.0, 1.0, 1.0],
    }
    sales = {"sales": con.create_table("sales_of_items", pd.DataFrame(frame))}
    items, changes = prepare_items(
        Items(table="sales", item="item", name="called", price="paid"), sales, None, others=False
    )
    assert items.order_by("item").to_pandas().to_dict("list") == {
        "item": ["a", "b"],
        "name": ["mug", "pen"],
        "category": [None, None],
        "price_eur": [4.0, 1.0],
    }
    assert [c.rows for c in changes] == [1]


def test_the_page_shows_values_before_and_after_but_never_a_whole_row():
    whole = Change("sales", "duplicates", [], 3, "dropped", "typed twice", examples=[{"row": "id=3, who=Ann"}])
    value = Change("sales", "replace", ["code"], 2, "changed", examples=[{"before": "POST", "after": None}])
    assert list(cleaning_summary([whole, value]).example) == ["typed twice", "'POST' -> missing"]
    product = {"changes": [plain(whole), plain(value)]}
    assert list(changes_table(product).example) == ["", "'POST' -> missing"]


def test_the_same_input_gives_the_same_rows_and_changes(con):
    frame = loans(town=["Bend ", "bend", "Gary"] * 20)
    runs = [run(con, frame.sample(frac=1, random_state=seed)) for seed in (1, 2)]
    one, other = (r.tables["rows"].to_pandas() for r in runs)
    pd.testing.assert_frame_equal(one, other)
    assert runs[0].changes == runs[1].changes


def test_a_shop_without_catalogue_gets_its_items_from_events(con):
    task = {
        "kind": "recommendation",
        "interactions": [{"table": "sales", "user": "u", "item": "i", "time": "t", "kind": "purchase", "price": "p"}],
    }
    columns = {"u": {"type": "text"}, "i": {"type": "text"}, "t": {"type": "time"}, "p": {"type": "number"}}
    asked = statement(
        task=task,
        tables={"sales": {"source": "loans", "time": "t", "columns": columns}},
        success={"metric": "ndcg", "threshold": 0.1},
        rules=[{"name": "best", "meaning": "best-sellers", "popular_days": 30}],
        time={"holdout_days": 10, "folds": 2, "fold_days": 10},
    )
    sales = con.create_table("sales", pd.DataFrame({"u": "a", "i": ["x", "y"] * 30, "t": DAYS, "p": [1.0, 3.0] * 30}))
    result = transform(asked, {"sales": sales}, AS_OF)
    assert result.tables["items"].to_pandas()[["item", "price_eur"]].to_numpy().tolist() == [["x", 1.0], ["y", 3.0]]


def test_proposed_rules_repair_injected_errors_with_high_precision(con):
    rng = np.random.default_rng(3)
    towns = pd.DataFrame(
        {
            "town": [f"{a}ville" for a in ("ash", "birch", "cedar", "elder", "maple", "willow")],
            "code": [f"{n}0{n}7" for n in range(1, 7)],
        }
    )
    truth = towns.sample(600, replace=True, random_state=1, ignore_index=True)
    dirty = truth.copy()
    wrong = rng.choice(600, 40, replace=False)
    for i in wrong[:20]:
        dirty.loc[i, "town"] = dirty.loc[i, "town"][:-1] + "q"
    for i in wrong[20:]:
        dirty.loc[i, "code"] = "x" + dirty.loc[i, "code"][1:]
    table = con.create_table("dirty", dirty.assign(row=range(600)))
    repaired, _ = clean(table, suggest_cleaning(table))
    repaired = repaired.order_by("row").to_pandas()[["town", "code"]]
    changed = repaired != dirty
    assert (repaired == truth)[changed].stack().mean() > 0.95 and (repaired != truth).sum().sum() <= 4


def contradicting(seed=7, entities=60) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Nine sites tell of flights, five of them by copying one that is often wrong: the rows, and the truth."""
    rng = np.random.default_rng(seed)
    clock = lambda at: f"{at // 60 % 12 or 12}:{at % 60:02d} {'a' if at < 720 else 'p'}.m."
    truth = pd.DataFrame(rng.integers(0, 1400, (entities, 2)), columns=["leaves", "lands"])
    copied = truth.mask(rng.random(truth.shape) < 0.6, truth + 9)
    rows = []
    for site in range(9):
        said = copied if site < 5 else truth.mask(rng.random(truth.shape) < 0.05, truth + 3)
        told = said.map(clock).mask(rng.random(truth.shape) < 0.15)
        rows.append(
            told.assign(
                portal=f"{'copy' if site < 5 else 'own'} {'abcdefghi'[site]}", flight=[f"F{i}" for i in range(entities)]
            )
        )
    return pd.concat(rows, ignore_index=True), truth.map(clock).assign(flight=[f"F{i}" for i in range(entities)])


def test_five_copies_of_a_wrong_source_do_not_outvote_four_that_asked_themselves(con):
    rows, truth = contradicting()
    table = con.create_table("told", rows.assign(row=range(len(rows))))
    found = [r for r in suggest_cleaning(table) if r.rule == "sources"]
    assert [(r.options, r.columns) for r in found] == [({"entity": "flight", "source": "portal"}, ["leaves", "lands"])]
    settled = clean(table, found)[0].order_by("row").to_pandas()
    right = rows[["flight"]].merge(truth, on="flight")
    before, after, right = (frame[["leaves", "lands"]].fillna("") for frame in (rows, settled, right))
    changed = before != after
    assert changed.sum().sum() > 60 and (after == right)[changed].stack().mean() > 0.95


def test_sources_that_cannot_be_told_apart_change_nothing(con):
    rows = pd.DataFrame([(f"s{s}", f"e{e}", str(e + 100 * (s < 2))) for s in range(4) for e in range(20)])
    rows.columns = ["source", "thing", "size"]
    asked = rule("sources", ["size"], entity="thing", source="source")
    assert cleaned(con, rows, asked)[1][0].rows == 0


@pytest.mark.parametrize("options", [{"entity": "thing", "source": "sauce"}, {"entity": "size", "source": "source"}])
def test_a_rule_of_sources_that_names_no_such_columns_is_refused(con, options):
    rows = {"source": ["a"], "thing": ["x"], "size": ["1"]}
    with pytest.raises(ProblemError, match=r"Did you mean 'source'|under `entity` and `source` others"):
        cleaned(con, rows, rule("sources", ["size"], **options))


def test_a_form_of_times_that_is_none_is_refused(con):
    with pytest.raises(ProblemError, match="%-I"):
        cleaned(con, {"at": ["7:10"]}, rule("time_form", ["at"], form="hours"))


def test_a_panel_of_months_is_no_table_of_contradicting_sources(con):
    rows = [
        (f"2025-{m:02d}", f"customer {c}", f"plan {(c + (m > c % 13)) % 7}", f"town {c % 9}")
        for c in range(40)
        for m in range(1, 13)
    ]
    table = con.create_table("panel", pd.DataFrame(rows, columns=["month", "customer", "plan", "town"]))
    assert not [r for r in suggest_cleaning(table) if r.rule == "sources"]


@pytest.mark.parametrize(
    ("name", "precision", "recall"), [("hospital", 0.95, 0.9), ("beers", 0.99, 0.99), ("flights", 0.93, 0.6)]
)
def test_public_dirty_tables_are_repaired(name, precision, recall):
    data = os.environ.get("MLLOOP_TEST_DATA")
    if not data or not Path(data, "dirty", name).is_dir():
        pytest.skip("name the folder that holds dirty/hospital, dirty/beers and dirty/flights by MLLOOP_TEST_DATA")
    import importlib.util

    spec = importlib.util.spec_from_file_location(
        "cleaning_benchmark", Path(__file__).parent.parent / "benchmarks" / "cleaning.py"
    )
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    found = {row["rule"]: row for row in benchmark.measure(Path(data, "dirty", name))}["all"]
    assert found["precision"] >= precision and found["recall"] >= recall
