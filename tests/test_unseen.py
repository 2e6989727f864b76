"""What `mlloop new` makes of kinds of tables: panels, row numbers, years, outcomes that are not known yet, files that differ."""

import itertools

import ibis
import numpy as np
import pandas as pd
import pytest

from mlloop import need_gate, problem
from mlloop.data import leaks, loan_example, parsing
from mlloop.scaffold import draft, project_files, survey, times


def parts_of(tmp_path, rows, target, **options):
    """The parts of the statement that `new` writes for a table, or for several files of one."""
    files = rows if isinstance(rows, dict) else {"rows.csv": rows}
    for name, part in files.items():
        part.to_csv(tmp_path / name, index=False)
    data = str(tmp_path if len(files) > 1 else tmp_path / "rows.csv")
    sample = survey.read_sample(data)
    stated = draft.ProjectOptions(data=data, target=target, **options)
    return draft.statement("it", stated, sample, survey.columns_of(sample), None)


def csv(tmp_path, rows):
    rows.to_csv(tmp_path / "rows.csv", index=False)
    return str(tmp_path / "rows.csv")


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
    named = parts_of(tmp_path, rows.round(2), "load", id="id")
    assert entity_of(named) is None and named["key"] == ["id"], "naming it does not take the series' past away"
    assert entity_of(parts_of(tmp_path, rows.assign(load=r.permutation(series)).round(2), "load", id="id")) == "id"
    assert entity_of(parts_of(tmp_path, rows.assign(load=r.permutation(series)).round(2), "load")) == "id"


def test_rows_of_the_last_day_that_stand_last_in_the_file_by_chance_have_known_outcomes():
    days = pd.Series(pd.date_range("2024-01-01", periods=60).repeat(20))
    outcome = pd.Series([1.0, 0.0] * 600)
    outcome[days == days.max()] = [1.0] * 4 + [0.0] * 16  # the file is sorted within a day
    assert times.not_known_yet(days, outcome) is None
    outcome[days > "2024-02-25"] = 0.0
    assert times.not_known_yet(days, outcome) == (80, 4, pd.Timestamp(2024, 2, 26))


def test_the_newest_rows_of_one_class_are_taken_as_not_known_yet(tmp_path):
    r = np.random.default_rng(2)
    n = 1000
    at = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(n) * 6, "h")
    rows = pd.DataFrame({"at": at, "x": r.normal(size=n).round(3), "paid": (r.random(n) < 0.3) & (np.arange(n) < 700)})
    parts = parts_of(tmp_path, rows.astype({"paid": int}), "paid")
    assert "probably not known yet" in said(parts, "outcome not known yet")
    assert pd.Timestamp(parts["time"]["as_of"]) <= at[701]


def test_new_counts_the_rows_of_the_holdout_and_of_each_fold(tmp_path):
    at = pd.date_range("2024-01-01", periods=400).append(pd.date_range("2026-01-01", periods=100))  # a gap of a year
    rows = pd.DataFrame({"at": at.astype(str), "x": range(500), "load": np.random.default_rng(0).normal(size=500)})
    parts = parts_of(tmp_path, rows, "load")
    until = pd.Timestamp(parts["time"]["as_of"]) - pd.Timedelta(days=parts["time"]["holdout_days"])
    cuts = [until - pd.Timedelta(days=parts["time"]["fold_days"] * k) for k in range(parts["time"]["folds"], -1, -1)]
    tested = [int(((at >= a) & (at < b)).sum()) for a, b in itertools.pairwise(cuts)]
    words = said(parts, "folds")
    assert f"{(at >= until).sum()} rows from {until:%Y-%m-%d} on are held out" in words
    assert (
        f"{min(tested)} to {max(tested)} rows each" in words and f"learn from {(at < cuts[0]).sum()} at least" in words
    )


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


def series(n, **columns):
    return pd.DataFrame(columns).assign(level=np.cumsum(np.random.default_rng(4).normal(0, 1, n)).round(3) + 50)


YEARS, QUARTERS = np.repeat(np.arange(1960, 1990), 4), np.tile([1, 2, 3, 4], 30)


@pytest.mark.parametrize(
    ("columns", "made_of", "form", "second"),
    [
        ({"year": YEARS, "quarter": QUARTERS}, ["year", "quarter"], "year_quarter", "1960-04-01"),
        ({"year": YEARS.astype(float), "quarter": QUARTERS.astype(float)}, ["year", "quarter"], "year_quarter", "1960-04-01"),
        ({"fiscal_year": YEARS, "fiscal_qtr": [f"Q{q}" for q in QUARTERS]}, ["fiscal_year", "fiscal_qtr"], "year_quarter", "1960-04-01"),
        ({"period": [f"{y}-Q{q}" for y, q in zip(YEARS, QUARTERS, strict=True)]}, [], "year_quarter", "1960-04-01"),
        ({"period": [f"Q{q}{y}" for y, q in zip(YEARS, QUARTERS, strict=True)]}, [], "year_quarter", "1960-04-01"),
        ({"period": [f"{q}Q {y}" for y, q in zip(YEARS, QUARTERS, strict=True)]}, [], "year_quarter", "1960-04-01"),
        ({"wk": [f"KW {i % 40 + 1:02d}/{2020 + i // 40}" for i in range(120)]}, [], "year_week", "2020-01-06"),
        ({"year": np.repeat([2020, 2021, 2022], 40), "week": np.tile(np.arange(1, 41), 3)}, ["year", "week"], "year_week", "2020-01-06"),
        ({"wk": [f"{2020 + i // 40}-W{i % 40 + 1:02d}" for i in range(120)]}, [], "year_week", "2020-01-06"),
        ({"YEAR": np.arange(1890, 2010).astype(float)}, ["YEAR"], "%Y.0", "1891-01-01"),
        ({"Year": np.arange(1750, 1870)}, ["Year"], "%Y", "1751-01-01"),
    ],
)  # fmt: skip
def test_quarters_weeks_and_years_are_the_time_of_a_series(columns, made_of, form, second, tmp_path):
    rows = series(120, **columns)
    parts = parts_of(tmp_path, rows, "level")
    time = parts["table_time"]
    spec = next(column["spec"] for column in parts["columns"] if column["name"] == time)
    assert (spec.get("made_of", []), spec["format"]) == (made_of, form)
    sample = survey.read_sample(str(tmp_path / "rows.csv"))
    columns = survey.columns_of(sample)
    times.add_moments(sample, columns)
    assert str(columns[time].values.iloc[1])[:10] == second


def test_the_hours_of_a_date_in_another_time_zone_are_its_time(tmp_path):
    local = pd.date_range("2024-01-01 05:00", periods=3000, freq="h")
    r = np.random.default_rng(0)
    parts = {"year": local.year, "month": local.month, "day": local.day}
    rows = pd.DataFrame({**parts, "at": (local + pd.Timedelta(hours=5)).strftime("%Y-%m-%dT%H:%M:%SZ")})
    assert parts_of(tmp_path, rows.assign(load=r.normal(size=3000)), "load")["table_time"] == "at"
    rows["at"] = (local.normalize() + pd.to_timedelta(r.integers(0, 30, 3000), "D")).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert parts_of(tmp_path, rows.assign(load=r.normal(size=3000)), "load")["table_time"] == "date"  # another event


def test_a_year_a_month_a_day_and_an_hour_are_one_time(tmp_path):
    at = pd.date_range("2024-01-01", periods=2000, freq="h")
    rows = pd.DataFrame({"year": at.year, "month": at.month, "day": at.day, "hour": at.hour}).loc[
        lambda f: f.index.repeat(2)
    ]
    rows = rows.assign(site=["north", "south"] * 2000, load=np.random.default_rng(0).normal(size=4000))
    parts = parts_of(tmp_path, rows, "load")
    spec = next(column["spec"] for column in parts["columns"] if column["name"] == parts["table_time"])
    assert (spec["type"], spec["made_of"]) == ("time", ["year", "month", "day", "hour"]) and entity_of(parts) == "site"


def every(step, n=1500):
    return pd.date_range("2024-01-01", periods=n, freq=step)


HALF_HOURS, HOURS = every("30min"), every("h")
OFFICE, DAILY = HOURS[(HOURS.hour >= 9) & (HOURS.hour <= 17)], ["year", "month", "day"]
TO_MINUTE = [*DAILY, "hour", "minute"]


def clock(at, *parts, **columns):
    """Columns for parts of moments, `date` among them, and a level that has nothing to do with them."""
    each = {part: at.strftime("%Y-%m-%d") if part == "date" else getattr(at, part) for part in parts}
    return series(len(at), **each | columns)


@pytest.mark.parametrize(
    ("rows", "made_of", "form"),
    [
        (clock(HALF_HOURS, *TO_MINUTE), TO_MINUTE, "%Y %m %d %H %M"),
        (clock(every("15min"), *TO_MINUTE), TO_MINUTE, "%Y %m %d %H %M"),
        (clock(every("10min"), *TO_MINUTE), TO_MINUTE, "%Y %m %d %H %M"),
        (clock(HALF_HOURS, "date", "hour", "minute"), ["date", "hour", "minute"], "%Y-%m-%d %H %M"),
        (clock(every("30s", 30_000), *TO_MINUTE, "second"), [*TO_MINUTE, "second"], "%Y %m %d %H %M %S"),
        (clock(OFFICE, *DAILY, "hour"), [*DAILY, "hour"], "%Y %m %d %H"),
        (clock(OFFICE, "date", "hour"), ["date", "hour"], "%Y-%m-%d %H"),
        (clock(HOURS[HOURS.hour.isin([8, 12])], "date", "hour"), ["date", "hour"], "%Y-%m-%d %H"),
        (clock(HOURS, *DAILY, hour=HOURS.hour.astype(float)), [*DAILY, "hour"], "%Y %m %d %H.0"),
        (clock(HOURS, "date", hour=HOURS.hour.astype(float)), ["date", "hour"], "%Y-%m-%d %H.0"),
        (clock(HALF_HOURS, *TO_MINUTE).astype(dict.fromkeys(TO_MINUTE, float)), TO_MINUTE, "%Y.0 %m.0 %d.0 %H.0 %M.0"),
        (clock(HALF_HOURS, *TO_MINUTE, ampm=HALF_HOURS.strftime("%p")).assign(hour=HALF_HOURS.strftime("%I")), [*TO_MINUTE, "ampm"], "%Y %m %d %I %M %p"),
    ],
)  # fmt: skip
def test_some_hours_and_minutes_beside_a_date_are_one_time_and_whose_row_is_nobodys(rows, made_of, form, tmp_path):
    parts = parts_of(tmp_path, rows, "level")
    spec = next(column["spec"] for column in parts["columns"] if column["name"] == parts["table_time"])
    assert (spec["made_of"], spec["format"], entity_of(parts)) == (made_of, form, None)
    sample = survey.read_sample(str(tmp_path / "rows.csv"))
    columns = survey.columns_of(sample)
    times.add_moments(sample, columns)
    joined = sample.text[made_of].astype(object).agg(" ".join, axis=1)
    ingested = parsing.parse_value(ibis.memtable({"text": joined}).text, columns[parts["table_time"]].column).execute()
    moments = columns[parts["table_time"]].values
    assert moments.is_unique and (ingested.sort_values().to_numpy() == moments.sort_values().to_numpy()).all()


@pytest.mark.parametrize(
    "columns",
    [
        {"hour_ending": HOURS.hour + 1},
        {"hour": [f"{hour} o'clock" for hour in HOURS.hour]},
        {"minute_of_day": HOURS.hour * 60},
        {"period": HOURS.hour + 1},
    ],
)
@pytest.mark.parametrize("of_day", [["date"], DAILY])
def test_hours_that_no_form_reads_are_not_whose_row_it_is(of_day, columns, tmp_path):
    parts = parts_of(tmp_path, clock(HOURS, *of_day, **columns), "level")
    assert (parts["table_time"], entity_of(parts)) == ("date", None)


def test_a_file_in_the_order_of_days_and_slots_under_other_names_is_not_shuffled(tmp_path):
    r = np.random.default_rng(0)
    slot = (np.arange(4800) % 48 / 47).round(3)
    rows = pd.DataFrame({"a": np.arange(4800) // 48, "b": slot, "c": r.normal(size=4800).round(2)})
    level = pd.Series(r.normal(size=4800)).ewm(halflife=8).mean()
    parts = parts_of(tmp_path, rows.assign(up=(level > 0).astype(int)), "up")
    assert "rows are not shuffled" in said(parts, "order of the file")


def test_changes_and_running_means_of_a_panels_target_are_kept_away(tmp_path):
    r = np.random.default_rng(0)
    rows = pd.DataFrame({"day": np.tile(pd.date_range("2023-01-01", periods=200).astype(str), 3)})
    rows["store"], rows["wind"] = np.repeat(["north", "mid", "south"], 200), r.normal(5, 1, 600).round(1)
    rows["sold"] = (r.normal(0, 3, 600).cumsum() + 500).round(1)
    of_store = rows.groupby("store").sold
    rows["sold_change"], rows["sold_yesterday"] = of_store.diff().round(1), of_store.shift()
    rows["mean_week"] = of_store.transform(lambda sold: sold.rolling(7).mean()).round(1)
    parts = parts_of(tmp_path, rows.sort_values(["day", "store"]), "sold")
    assert entity_of(parts) == "store" and set(parts["leaks"]) == {"sold_change", "mean_week"}


def test_a_year_in_no_order_is_asked_about_and_is_the_time_where_a_person_names_it(tmp_path):
    r = np.random.default_rng(0)
    rows = pd.DataFrame({"Year": r.integers(2001, 2020, 2000), "score": r.normal(90, 5, 2000).round(1)})
    parts = parts_of(tmp_path, rows, "score")
    assert parts["table_time"] is None and "--time Year" in said(parts, "time?")
    parts = parts_of(tmp_path, rows, "score", time="Year")
    spec = next(column["spec"] for column in parts["columns"] if column["name"] == parts["table_time"])
    assert (spec["made_of"], spec["format"]) == (["Year"], "%Y") and not said(parts, "time?")


def test_years_that_no_difference_can_hold_leave_the_order_of_the_file(tmp_path):
    parts = parts_of(tmp_path, series(400, YEAR=np.arange(1600, 2000)), "level")
    assert "YEAR only grows" in said(parts, "order of the file")


def test_a_count_of_zero_is_a_count(tmp_path):
    r = np.random.default_rng(0)
    rows = pd.DataFrame(
        {"visits": r.poisson(2, 3000) * 3, "plan": np.where(r.random(3000) < 0.4, 0, r.uniform(500, 700, 3000))}
    )
    rows["fee"] = np.where(r.random(3000) < 0.3, 0, r.uniform(90, 100, 3000)).round(2)
    parts = parts_of(tmp_path, rows.assign(cost=r.poisson(3, 3000)), "visits")
    assert not said(parts, "missing values") and "are left out" not in said(parts, "question")


def test_a_pressure_of_zero_is_asked_about_and_stays(tmp_path):
    r = np.random.default_rng(0)
    pressure = r.normal(72, 9, 900).clip(40, 120).round()
    rows = pd.DataFrame({"pressure": np.where(r.random(900) < 0.04, 0, pressure), "age": r.integers(20, 80, 900)})
    parts = parts_of(tmp_path, rows.assign(ill=r.integers(0, 2, 900)), "ill")
    assert "pressure is 0 in" in said(parts, "zeros") and "age" not in said(parts, "zeros")
    assert not said(parts, "missing values")


def test_a_frame_written_with_its_index_has_its_header(tmp_path):
    rows = series(120, day=pd.date_range("2024-01-01", periods=120)).set_index("day")[["level"]]
    rows.index.name = None
    rows.to_csv(tmp_path / "rows.csv")
    sample = survey.read_sample(str(tmp_path / "rows.csv"))
    assert sample.rows == 120 and not sample.source.skip and "level" in sample.text


def test_answers_of_a_questionnaire_that_agree_by_chance_are_all_kept(tmp_path):
    r = np.random.default_rng(0)
    rows = pd.DataFrame(r.integers(0, 3, (4000, 8)), columns=[f"q{i}" for i in range(8)]).assign(
        again=r.integers(0, 2, 4000)
    )
    kept = parts_of(tmp_path, rows, "again")
    assert "They are kept" in said(kept, "repeated rows") and not kept["cleaning"]
    twice = pd.concat([rows.assign(**{name: r.integers(0, 29, 4000) for name in ("town", "job", "age")})] * 2)
    dropped = parts_of(tmp_path, twice, "again")
    assert [rule["rule"] for rule in dropped["cleaning"]] == ["duplicates"]


def test_whole_numbers_that_may_be_classes_are_told(tmp_path):
    r = np.random.default_rng(0)
    rows = pd.DataFrame({"alcohol": r.normal(12, 1, 600), "cultivar": r.integers(0, 3, 600)})
    assert "--task classification" in said(parts_of(tmp_path, rows, "cultivar"), "a quantity")
    assert not said(parts_of(tmp_path, rows, "cultivar", task="classification"), "a quantity")
    assert not said(parts_of(tmp_path, rows.assign(cultivar=r.integers(0, 300, 600)), "cultivar"), "a quantity")


def test_the_parts_of_the_rows_own_time_are_known_in_time(tmp_path):
    n, r = 250, np.random.default_rng(0)
    at = pd.date_range("2018-01-01", periods=n, freq="W-MON").isocalendar()
    rows = pd.DataFrame({"year": at.year.to_numpy(), "week": at.week.to_numpy(), "ads": r.normal(5, 1, n).round(2)})
    rows["sales"] = (100 + 30 * np.sin(rows["week"] / 52 * 6.28) + r.normal(0, 5, n)).round(1)
    assert not parts_of(tmp_path, rows, "sales")["asked"]


def test_rows_of_a_unit_that_a_cycle_counts_stay_together(tmp_path):
    r = np.random.default_rng(0)
    lives = r.integers(40, 90, 40)
    rows = pd.DataFrame(
        {
            "unit_number": np.repeat(np.arange(1, 41), lives),
            "cycle": np.concatenate([np.arange(1, n + 1) for n in lives]),
        }
    )
    rows["left"] = rows["unit_number"].map(dict(enumerate(lives, 1))) - rows["cycle"]
    rows["heat"] = (500 + 20 / (1 + rows["left"]) + r.normal(0, 1, len(rows))).round(2)
    rows = rows.assign(fails=(rows.pop("left") < 10).astype(int))
    parts = parts_of(tmp_path, rows, "fails")
    assert entity_of(parts) == "unit_number" and "cycle counts" in said(parts, "rows that belong together")
    shuffled = rows.sample(frac=1, random_state=0)
    assert "counts" not in said(parts_of(tmp_path, shuffled, "fails"), "rows that belong together")


def test_ranges_written_with_signs_are_classes(tmp_path):
    r = np.random.default_rng(0)
    hours = r.integers(10, 70, 2000)
    income = np.where(r.random(2000) < hours / 90, " >50K", " <=50K")
    age = np.select([hours < 20, hours < 40], ["<25", "25-40"], ">40")
    parts = parts_of(tmp_path, pd.DataFrame({"hours": hours, "age": age, "income": income}), "income")
    assert 'positive: "<=50K"' in parts["task"] or 'positive: ">50K"' in parts["task"]
    assert next(c["spec"]["type"] for c in parts["columns"] if c["name"] == "age") == "category"
    limits = pd.DataFrame(
        {"lead": np.where(hours < 20, "<0.5", (hours / 10).astype(str)), "ill": r.integers(0, 2, 2000)}
    )
    assert any(rule["columns"] == ["lead"] for rule in parts_of(tmp_path, limits, "ill")["cleaning"])


def test_of_two_strong_columns_neither_towers_over_the_other():
    r, n = np.random.default_rng(1), 30_000
    fraud = pd.Series((r.random(n) < 0.004).astype(float))
    rows = pd.DataFrame(r.normal(0, 1, (n, 8)), columns=[f"v{i}" for i in range(8)])
    rows.loc[fraud == 1, "v0"] -= 2.5
    rows.loc[fraud == 1, "v3"] += 2.2
    assert not [
        sign
        for sign in leaks.find(rows, fraud, "classification")
        if "towers" in sign.reason or "alone tells more" in sign.reason
    ]


def test_seconds_that_only_grow_put_the_rows_in_their_order(tmp_path):
    r, n = np.random.default_rng(0), 3000
    rows = pd.DataFrame({"Time": np.sort(r.integers(0, 170_000, n)), "v1": r.normal(0, 1, n).round(3)})
    rows["fraud"] = (r.random(n) < 0.05 + 0.2 * (rows["v1"] > 1)).astype(int)
    parts = parts_of(tmp_path, rows, "fraud")
    assert "Time only grows" in said(parts, "order of the file")
    assert not next(c["spec"] for c in parts["columns"] if c["name"] == "Time").get("feature", True)
    assert not said(parts_of(tmp_path, rows.sample(frac=1, random_state=0), "fraud"), "order of the file")


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["1_Good", "2_Fair", "3_Poor"], "category"),  # the place of a label in its order
        (["1st", "2nd", "3rd", "*"], "category"),
        (["1", "2", "3", "1OT"], "category"),  # the first overtime is not the first quarter
        (["12 beans", "16 beans.", "1 bean"], "text"),
        (["12 oz", "16 oz.", "12 ounces", "3 Oz"], "text"),
    ],
)
def test_a_number_that_is_the_place_of_a_label_is_no_quantity(labels, kind):
    guessed = survey.guess("it", pd.Series(labels * 20))
    assert (guessed.column.type, bool(guessed.cleaning)) == (kind, kind == "text")


@pytest.mark.parametrize(
    ("name", "moments", "form", "second"),
    [
        ("time", [f"{1949 + i / 12:.6g}" for i in range(144)], "decimal_year", "1949-02-01"),
        ("Year", [str(1959 + i / 4) for i in range(144)], "decimal_year", "1959-04-01"),
        ("time", [str(1850 + i) for i in range(144)], "%Y", "1851-01-01"),
        ("year_start", [str(1850 + i) for i in range(144)], "%Y", "1851-01-01"),
    ],
)
def test_a_series_that_counts_years_has_its_time(name, moments, form, second, tmp_path):
    level = np.random.default_rng(0).normal(size=144).cumsum().round(2)
    parts = parts_of(tmp_path, pd.DataFrame({name: moments, "level": level}), "level")
    spec = next(line["spec"] for line in parts["columns"] if line["name"] == parts["table_time"])
    assert (spec["made_of"], spec["format"], entity_of(parts)) == ([name], form, None)
    assert str(survey.moments_of(pd.Series(moments), form)[1])[:10] == second


def test_minutes_called_time_are_no_years(tmp_path):
    rows = pd.DataFrame({"time": np.arange(1500, 2100, 20), "level": np.random.default_rng(0).normal(size=30)})
    assert parts_of(tmp_path, pd.concat([rows] * 4).sort_values("time").round(2), "level")["table_time"] != "time_begin"


def test_no_time_is_made_of_the_target(tmp_path):
    r = np.random.default_rng(0)
    rows = pd.DataFrame({"size": r.normal(size=300).round(2), "year": np.sort(r.integers(1990, 2020, 300))})
    assert parts_of(tmp_path, rows, "year")["table_time"] is None


def test_rows_of_a_subject_stay_together_and_counts_of_children_name_nobody(tmp_path):
    r = np.random.default_rng(0)
    rows = pd.DataFrame({"Subject": np.arange(240) // 20 + 1, "dose": r.normal(size=240).round(2)})
    rows = rows.assign(child=r.poisson(1.0, 240), level=r.normal(size=240).round(2)).sample(frac=1, random_state=0)
    assert entity_of(parts_of(tmp_path, rows, "level")) == "Subject"
    assert entity_of(parts_of(tmp_path, rows.drop(columns="Subject"), "level")) is None


def test_numbers_of_a_status_are_classes_and_neither_one_nor_two_is_a_yes(tmp_path):
    r = np.random.default_rng(0)
    rows = pd.DataFrame({"x": r.normal(size=300).round(3), "status": r.choice([0, 1, 2], 300, p=[0.5, 0.3, 0.2])})
    parts = parts_of(tmp_path, rows, "status")
    assert parts["task"][0] == "kind: classification" and "--task regression" in said(parts, "classes")
    assert parts_of(tmp_path, rows, "status", task="regression")["task"][0] == "kind: regression"
    coded = rows.assign(died=r.choice([1, 2], 300, p=[0.7, 0.3])).drop(columns="status")
    parts = parts_of(tmp_path, coded, "died")
    assert "positive: 2" in parts["task"] and "1 or 2" in said(parts, "classes")


def test_a_column_without_a_value_is_called_so_and_names_no_row():
    text, source = pd.DataFrame({"a": ["1"] * 60, "b": [None] * 60}), survey.Source(kind="files", path="x")
    sample = survey.SourceSample(source, [], text, 60, 0, {"a": 1, "b": 0}, {"a": 0, "b": 60})
    assert survey.columns_of(sample)["b"].why == "no value at all"


def test_a_column_called_self_is_read(tmp_path):
    rows = pd.DataFrame({"self": [0, 1] * 60, "x": range(120), "paid": [0, 1, 1] * 40})
    parts = parts_of(tmp_path, rows, "paid")
    assert "self (2)" in [line["name"] for line in parts["columns"]] and "'self (2)'" in said(parts, "columns")


def test_a_word_that_ends_like_a_name_of_rows_names_none():
    assert not [n for n in ("bid", "paid", "humid", "casino", "acid", "Paid") if survey.NAMING.search(n)]
    assert all(
        survey.NAMING.search(n) for n in ("userid", "pid", "customerID", "OrderNo", "case_id", "rownames", "Phone No")
    )


def test_a_postcode_with_four_more_digits_stays_text_and_bands_of_age_stay_bands():
    codes = pd.Series([f"98{i:03}" for i in range(100)] * 3 + ["98115-4820", "98101-1234"])
    assert not survey.guess("zip_code", codes).cleaning
    assert survey.guess("age", pd.Series(["24-", "25+"] * 50)).column.type == "category"
    assert survey.guess("rooms", pd.Series(["1", "2", "3", "4+"] * 50 + [str(n) for n in range(5, 30)])).cleaning


@pytest.mark.parametrize("names", [range(1970, 1990), [*range(1970, 1990), *range(1991, 2000)], range(6)])
def test_columns_called_by_years_in_a_row_are_a_header(names, tmp_path):
    r = np.random.default_rng(0)
    rows = pd.DataFrame(r.normal(size=(100, len(list(names)))).round(3), columns=list(names))
    rows.to_csv(tmp_path / "wide.csv", index=False)
    assert survey.read_sample(str(tmp_path / "wide.csv")).rows == 100


def test_a_file_sorted_by_its_columns_or_stacked_by_series_is_no_series(tmp_path):
    r = np.random.default_rng(0)
    answers = pd.DataFrame(r.integers(0, 2, (400, 4)), columns=list("abcd")).sort_values(list("abcd"))
    assert parts_of(tmp_path, answers, "d")["table_time"] is None
    stacked = pd.DataFrame({"airline": np.repeat(np.arange(6), 20), "period": np.tile(np.arange(1, 21), 6)})
    stacked = stacked.assign(load=r.normal(size=(6, 20)).cumsum(axis=1).ravel().round(3))
    parts = parts_of(tmp_path, stacked, "load")
    assert (parts["table_time"], entity_of(parts)) == (None, "airline")


def test_patients_stay_together_where_another_column_numbers_the_rows(tmp_path):
    r = np.random.default_rng(0)
    rows = pd.DataFrame({"rownames": np.arange(1, 201), "patient": r.integers(1, 40, 200)})
    parts = parts_of(
        tmp_path, rows.assign(dose=r.normal(size=200).round(2), level=r.normal(size=200).round(2)), "level"
    )
    assert (parts["key"], entity_of(parts)) == (["rownames"], "patient")


def test_a_number_of_periods_names_nobody(tmp_path):
    r = np.random.default_rng(0)
    parts = parts_of(tmp_path, pd.DataFrame({"t": np.arange(1, 301), "change": r.normal(size=300).round(3)}), "change")
    assert entity_of(parts) is None and "only grows" in said(parts, "order of the file")


def test_the_counts_of_a_cross_table_are_told(tmp_path):
    cells = pd.MultiIndex.from_product([list("ab"), list("xyz"), range(20)], names=["sex", "method", "age"])
    rows = cells.to_frame(index=False).assign(Freq=np.random.default_rng(0).poisson(9, 120))
    assert "Freq seems to count" in said(parts_of(tmp_path, rows, "sex"), "counts")


GERMAN = (
    "Januar",
    "Februar",
    "März",
    "April",
    "Mai",
    "Juni",
    "Juli",
    "August",
    "September",
    "Oktober",
    "November",
    "Dezember",
)
FRENCH = ("janv.", "févr.", "mars", "avr.", "mai", "juin", "juil.", "août", "sept.", "oct.", "nov.", "déc.")
SPANISH = ("ene", "feb", "mar", "abr", "may", "jun", "jul", "ago", "sep", "oct", "nov", "dic")


@pytest.mark.parametrize(
    ("written", "form", "first"),
    [
        (lambda d: f"{d.day}. {GERMAN[d.month - 1]} {d.year}", "%d. %B %Y", "2019-03-08"),
        (lambda d: f"{FRENCH[d.month - 1]} {d.year}", "%b %Y", "2019-03-01"),
        (lambda d: f"{d.day} de {SPANISH[d.month - 1]} de {d.year}", "%d %B %Y", "2019-03-08"),
        (lambda d: d.strftime("%d/%m/63"), "%d/%m/%y", "1963-03-08"),
    ],
)
def test_months_of_other_languages_and_years_of_two_digits_are_read_as_ingestion_reads_them(written, form, first):
    texts = pd.Series([written(day) for day in pd.date_range("2019-01-01", periods=120, freq="11D")])
    guessed = survey.guess("day", texts)
    assert (guessed.column.format, str(guessed.values[6])[:10]) == (form, first)
    rows = ibis.memtable({"at": range(len(texts)), "text": texts})
    read = rows.select("at", moment=parsing.parse_value(rows.text, guessed.column)).order_by("at").execute()["moment"]
    assert (pd.to_datetime(read).to_numpy() == guessed.values.to_numpy("datetime64[s]")).all()


def test_of_a_day_and_the_same_day_with_its_hour_the_hour_is_the_time(tmp_path):
    at = pd.Series(pd.date_range("2024-01-01", periods=400, freq="h"))
    rows = pd.DataFrame({"year": at.dt.year, "month": at.dt.month, "day": at.dt.day, "time_hour": at})
    parts = parts_of(tmp_path, rows.assign(wind=np.random.default_rng(0).normal(size=400).round(2)), "wind")
    assert parts["table_time"] == "time_hour"


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (["1h 20m", "45m", "2h", "1h 5m"], [4800, 2700, 7200, 3900]),
        (["02:55:10", "02:42:00", "03:01:59"], [10_510, 9_720, 10_919]),
        (["3 days", "1 week", "2 hours", "1 day"], [259_200, 604_800, 7_200, 86_400]),
        (["47:12", "9:47", "12:00"], [2_832, 587, 720]),  # 47 hours is no time of a day: minutes
        (["08:15", "23:59", "00:30"], [29_700, 86_340, 1_800]),
    ],
)
def test_how_long_something_took_is_a_number_of_seconds(written, seconds):
    guessed = survey.guess("took", pd.Series(written * 30))
    assert guessed.cleaning[0]["rule"] == "duration" and guessed.values[: len(written)].tolist() == seconds


@pytest.mark.parametrize("written", [["3:1", "2:0", "0:0"], ["1:10", "1:20", "1:40"], ["5 m", "7 m"], ["3 kg", "2 kg"]])
def test_scores_ratios_and_other_units_are_no_durations(written):
    assert not [r for r in survey.guess("it", pd.Series(written * 30)).cleaning if r["rule"] == "duration"]


@pytest.mark.parametrize(
    ("written", "bare"), [(["12,34,567", "1,000", "98,76,543.5"], True), (["₹ 12,34,567", "₹ 500"], False)]
)
def test_digits_grouped_as_in_india_are_a_number(written, bare):
    guessed = survey.guess("amount", pd.Series(written * 30))
    assert guessed.values[0] == 1_234_567 and bool(guessed.cleaning) is not bare
    column = guessed.column
    rows = ibis.memtable({"text": written})
    if bare:
        assert rows.select(v=parsing.parse_value(rows.text, column)).execute()["v"].max() == 9_876_543.5


def test_a_measure_that_is_written_as_text_names_nobody(tmp_path):
    r = np.random.default_rng(0)
    minutes = r.integers(5, 60, 300)
    rows = pd.DataFrame(
        {"took": [f"{m} min" if m % 2 else f"{m * 60} s" for m in minutes], "late": minutes + r.normal(size=300)}
    )
    assert entity_of(parts_of(tmp_path, rows.round(2), "late")) is None


def test_a_semicolon_file_of_decimal_commas_alone_is_cut_by_semicolons(tmp_path):
    (tmp_path / "it.csv").write_text(
        "time;value\n" + "".join(f"{1996 + i / 12:.4f};{i}.5\n".replace(".", ",") for i in range(120))
    )
    sample = survey.read_sample(str(tmp_path / "it.csv"))
    assert list(sample.text.columns) == ["time", "value"] and sample.rows == 120
    parts = draft.statement(
        "it", draft.ProjectOptions(data="", target="value"), sample, survey.columns_of(sample), None
    )
    assert (
        next(line["spec"] for line in parts["columns"] if line["name"] == parts["table_time"])["format"]
        == "decimal_year"
    )


def test_a_pace_beside_a_date_is_no_clock_and_a_whole_date_is_not_made_again(tmp_path):
    day = pd.Series(pd.date_range("2020-01-01", periods=400, freq="D"))
    r = np.random.default_rng(0)
    rows = pd.DataFrame(
        {"date": day.dt.strftime("%Y-%m-%d"), "year": day.dt.year, "month": day.dt.month, "day": day.dt.day}
    )
    rows = rows.assign(
        pace=[f"{h}:{m:02}:{s:02}" for h, m, s in r.integers([6, 0, 0], [9, 60, 60], (400, 3))],
        day_of_year=day.dt.dayofyear,
    )
    parts = parts_of(tmp_path, rows.assign(level=r.normal(size=400).round(2)), "level")
    assert (parts["table_time"], entity_of(parts)) == ("date", None)


def test_the_year_and_the_month_beside_a_whole_date_are_parts_of_it(tmp_path):
    day = pd.Series(pd.date_range("2020-01-01", periods=400, freq="D"))
    columns = {"date": survey.guess("date", day.astype(str)), "mon": survey.guess("mon", day.dt.month.astype(str))}
    columns["other"] = survey.guess("other", pd.Series(np.arange(400) % 7).astype(str))
    assert times.parts_of(columns, "date") == {"mon"}
    rare = {**columns, "refunded": survey.guess("refunded", pd.Series(["0"] * 398 + ["1", "0"]))}
    assert "refunded" not in times.parts_of(rare, "date")  # the hour of a date is 0 too


def test_days_of_six_digits_and_panels_by_years_of_two_are_times(tmp_path):
    day = pd.Series(pd.date_range("1980-01-02", periods=300, freq="B")).dt.strftime("%y%m%d")
    r = np.random.default_rng(0)
    parts = parts_of(tmp_path, pd.DataFrame({"date": day, "rate": r.normal(size=300).cumsum().round(3)}), "rate")
    assert (parts["table_time"], parts["time"]["as_of"].year) == ("date", 1981)
    women = pd.DataFrame(
        [(w, y) for w in range(1, 60) for y in range(68, 88) if r.random() < 0.5], columns=["idcode", "year"]
    )
    parts = parts_of(tmp_path, women.assign(wage=r.normal(size=len(women)).round(3)), "wage")
    assert (parts["time"]["as_of"].year, entity_of(parts)) == (1987, "idcode")


def test_digits_before_letters_of_many_kinds_are_codes():
    codes = pd.Series(["24D", "5A", "4D", "34B", "24C", "2B"] * 20 + ["unk"] * 10)
    assert survey.guess("sponsor_code", codes).column.type == survey.guess("seat", codes).column.type == "category"


def test_a_number_that_begins_again_in_each_survey_names_nobody(tmp_path):
    r = np.random.default_rng(0)
    rows = pd.concat([pd.DataFrame({"wave": w, "id": np.arange(1, n + 1)}) for w, n in enumerate([60, 90, 75, 120])])
    assert entity_of(parts_of(tmp_path, rows.assign(answer=r.normal(size=len(rows)).round(2)), "answer")) is None
    panel = pd.DataFrame({"wave": np.repeat(range(4), 60), "id": np.tile(np.arange(1, 61), 4)})
    assert entity_of(parts_of(tmp_path, panel.assign(answer=r.normal(size=240).round(2)), "answer")) == "id"


def test_folds_of_two_centuries_stay_within_them():
    at = pd.Series([pd.Timestamp(year, 1, 1) for year in range(1800, 2011) for _ in range(3)]).astype("datetime64[us]")
    y = pd.Series((np.arange(len(at)) > len(at) - 4).astype(float))
    assert times.filled(survey.windows_of(at), at, y) is not None


@pytest.mark.parametrize("written", ["hour", "clock", "whole", "iso"])
def test_hours_from_1_to_24_are_the_time_and_the_last_one_begins_the_next_day(tmp_path, written):
    r = np.random.default_rng(0)
    ends = pd.Series(pd.date_range("2024-01-01 01:00", periods=2400, freq="h"))
    day = (ends - pd.Timedelta(hours=1)).dt.normalize()
    hour = ends.dt.hour.where(ends.dt.hour > 0, 24)
    load = np.sin(ends.dt.hour / 4) * 10 + r.normal(0, 1, 2400)
    of_day, clock = day.dt.strftime("%d.%m.%Y"), hour.astype(str).str.zfill(2) + ":00"
    columns = {
        "hour": {"day": of_day, "hour": hour},
        "clock": {"day": of_day, "clock": clock},
        "whole": {"ended": of_day + " " + clock},
        "iso": {"ended": day.dt.strftime("%Y-%m-%d") + "T" + clock},
    }
    made = project_files.new(
        tmp_path / "load",
        project_files.ProjectOptions(csv(tmp_path, pd.DataFrame(columns[written]).assign(load=load)), target="load"),
    )
    statement = problem.load(made.root / "problems/load.yaml")
    chosen = statement.tables["rows"].columns[statement.time.column]
    raw = ibis.memtable(pd.read_csv(tmp_path / "rows.csv", dtype=str))
    text = ibis.literal(" ").join([raw[part] for part in chosen.made_of or [statement.time.column]])
    assert list(raw.select(at=parsing.parse_value(text, chosen)).execute()["at"]) == list(ends)


def test_a_series_of_a_few_days_is_not_shuffled(tmp_path):
    r = np.random.default_rng(0)
    at = pd.date_range("2018-07-31 18:00", periods=600, freq="5s")
    rows = pd.DataFrame({"time": at, "distance": np.arange(600) * 12.5, "pace": 11 + r.normal(0, 0.3, 600).cumsum()})
    parts = parts_of(tmp_path, rows.round(3), "pace")
    assert (
        parts["table_time"] == "row_time"
        and parts["asked"] == {}
        and "not shuffled" in said(parts, "order of the file")
    )
    shuffled = rows.sample(frac=1, random_state=0)
    assert parts_of(tmp_path, shuffled.round(3), "pace")["table_time"] is None


def test_the_price_at_which_a_day_opens_is_no_copy_of_its_close(tmp_path):
    r = np.random.default_rng(0)
    close = 1000 + r.normal(0, 6, 2500).cumsum()
    opened = np.r_[1000, close[:-1]] + r.normal(0, 0.3, 2500)
    rows = pd.DataFrame({"date": pd.date_range("2015-01-01", periods=2500), "open": opened})
    rows["high"], rows["low"] = (
        np.maximum(opened, close) + r.gamma(2, 1.5, 2500),
        np.minimum(opened, close) - r.gamma(2, 1.5, 2500),
    )
    parts = parts_of(tmp_path, rows.assign(close=close, adj_close=close * 0.98).round(4), "close")
    assert set(parts["leaks"]) == {"adj_close"} and set(parts["asked"]) == {"high", "low"}
