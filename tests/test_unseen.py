"""What `mlloop new` makes of kinds of tables: panels, row numbers, years, outcomes that are not known yet, files that differ."""

import numpy as np
import pandas as pd
import pytest

from mlloop import need_gate
from mlloop.data import leaks, loan_example
from mlloop.scaffold import draft, survey, times


def parts_of(tmp_path, rows, target, **options):
    """The parts of the statement that `new` writes for a table, or for several files of one."""
    files = rows if isinstance(rows, dict) else {"rows.csv": rows}
    for name, part in files.items():
        part.to_csv(tmp_path / name, index=False)
    data = str(tmp_path if len(files) > 1 else tmp_path / "rows.csv")
    sample = survey.read_sample(data)
    stated = draft.ProjectOptions(data=data, target=target, **options)
    return draft.statement("it", stated, sample, survey.columns_of(sample), None)


def entity_of(parts):
    return next((line.removeprefix("entity: ") for line in parts["task"] if line.startswith("entity")), None)


def said(parts, what):
    return " ".join(text for name, text in parts["notes"] if name == what)


@pytest.fixture
def panel():
    r = np.random.default_rng(0)
    rows = pd.DataFrame([(f"s{i}", 2001 + m // 12, m % 12 + 1) for i in range(12) for m in range(60)])
    rows.columns = ["site", "year", "month"]
    return rows.assign(level=r.normal(0, 5, 12).repeat(60) + r.normal(0, 1, len(rows)))


def test_a_panel_by_month_has_its_time_and_its_entity(panel, tmp_path):
    parts = parts_of(tmp_path, panel.round(2), "level")
    spec = next(line["spec"] for line in parts["columns"] if line["name"] == parts["table_time"])
    assert (spec["made_of"], spec["format"], entity_of(parts)) == (["year", "month"], "%Y %m", "site")


def test_a_year_is_the_time_of_a_panel_by_year_and_not_of_cars(panel, tmp_path):
    by_year = panel.assign(year=1950 + panel.groupby("site").cumcount()).drop(columns="month").round(2)
    parts = parts_of(tmp_path, by_year, "level")
    assert next(line["spec"] for line in parts["columns"] if line["name"] == parts["table_time"])["made_of"] == ["year"]
    cars = by_year.sample(frac=1, random_state=0).assign(site=np.arange(len(by_year)) % 5)
    assert parts_of(tmp_path, cars, "level")["table_time"] is None


def test_a_number_that_counts_a_series_is_no_entity_and_one_of_people_is(tmp_path):
    r = np.random.default_rng(1)
    n = 1500
    series = np.sin(np.arange(n) / 8) * 5 + r.normal(0, 1, n)
    rows = pd.DataFrame(
        {"id": np.arange(1, n + 1), "at": pd.date_range("2024-01-01", periods=n, freq="h"), "load": series}
    )
    parts = parts_of(tmp_path, rows.round(2), "load")
    assert entity_of(parts) is None and parts["key"] == ["id"]
    assert entity_of(parts_of(tmp_path, rows.assign(load=r.permutation(series)).round(2), "load")) == "id"


def test_the_newest_rows_of_one_class_are_taken_as_not_known_yet(tmp_path):
    r = np.random.default_rng(2)
    n = 1000
    at = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(n) * 6, "h")
    rows = pd.DataFrame({"at": at, "x": r.normal(size=n).round(3), "paid": (r.random(n) < 0.3) & (np.arange(n) < 700)})
    parts = parts_of(tmp_path, rows.astype({"paid": int}), "paid")
    assert "probably not known yet" in said(parts, "outcome not known yet")
    assert pd.Timestamp(parts["time"]["as_of"]) <= at[701]


def test_folds_hold_both_classes_where_longer_ones_can():
    at = pd.Series(pd.date_range("2024-01-01", periods=400, freq="D"))
    y = pd.Series(((np.arange(400) % 40) == 0).astype(float))
    windows = survey.windows_of(at)
    longer = times.filled(windows, at, y)
    until = pd.Timestamp(longer["as_of"])
    held = y[at >= until - pd.Timedelta(days=longer["holdout_days"])]
    assert held.sum() >= 2


def test_a_holdout_without_a_positive_is_a_no_that_says_what_is_needed():
    loans = loan_example.statement()
    data = {"rows": 4000, "minority": 900, "held_minority": 0}
    said_no = need_gate.decide(need_gate.nothing_measured(loans, data), loans)
    (check,) = [one for one in said_no["evidence"] if one["name"] == "both classes in the holdout"]
    assert said_no["verdict"] == "no" and check["passed"] is False and check["threshold"] == 2
    assert "0 rows of the rarer class, 2 are needed" in " ".join(said_no["reasons"])
    assert "holdout_days" in " ".join(said_no["must_change"])
    enough = need_gate.decide(need_gate.nothing_measured(loans, data | {"held_minority": 9}), loans)
    assert "both classes in the holdout" not in [one["name"] for one in enough["evidence"]]


def test_columns_that_come_and_go_between_files_are_named(tmp_path):
    r = np.random.default_rng(3)
    make = lambda **more: pd.DataFrame({"x": r.normal(size=60), "y": r.normal(size=60), **more}).round(3)
    files = {"m1.csv": make(old=1.5), "m2.csv": make(), "m3.csv": make(new=r.normal(size=60))}
    parts = parts_of(tmp_path, files, "y")
    assert "'new' is in 1 of 3 files, from m3.csv on" in said(parts, "columns differ")
    assert "'old' is in 1 of 3 files, the last of them m1.csv" in said(parts, "columns differ")


@pytest.mark.parametrize(
    ("form", "read"), [("%d/%m/%y", "2021-03-14"), ("%y-%m-%d", "2021-03-14"), ("%m/%d/%y", "2021-03-14")]
)
def test_years_of_two_digits_are_read(form, read):
    days = pd.Series(pd.date_range("2020-11-05", periods=600, freq="D"))
    made = survey.guess("day", days.dt.strftime(form))
    assert made.column.type == "date" and made.values[129] == pd.Timestamp(read)


def test_an_honest_column_is_not_asked_about_for_being_the_strongest():
    r = np.random.default_rng(4)
    n = 3000
    rows = pd.DataFrame({"visits": r.poisson(3, n), "age": r.integers(18, 80, n), "plan": r.choice(list("abc"), n)})
    score = 0.8 * (rows["visits"] - 3) + (rows["age"] - 45) / 20 + (rows["plan"] == "a")
    y = pd.Series((r.random(n) < 1 / (1 + np.exp(-2 * score))).astype(float))
    assert leaks.find(rows, y, "classification") == []
    late = rows.assign(seconds=np.exp(r.normal(5 + 1.6 * y, 0.8)))
    assert [(one.column, one.sure) for one in leaks.find(late, y, "classification")] == [("seconds", False)]


def test_a_flight_that_has_no_departure_was_cancelled():
    r = np.random.default_rng(5)
    y = pd.Series((r.random(4000) < 0.03).astype(float))
    left = pd.Series(r.normal(900, 200, 4000)).where(y == 0)
    sure, words = leaks.filled_sign(left, y)
    assert sure and "for one class only" in words
