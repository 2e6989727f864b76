"""Kinds of files and tables that `mlloop new` read wrongly once: counted days, dates in several forms, lines around the header, later measures."""

import numpy as np
import pandas as pd
import pytest

from mlloop import ingestion
from mlloop.core.errors import DataError
from mlloop.data import dependence, leaks, parsing
from mlloop.problem import Column, Source
from mlloop.scaffold import draft, survey

RNG = np.random.default_rng


def parts_of(folder, rows, target, text=None, name="rows.csv", **options):
    file = folder / name
    if text is None:
        rows.to_csv(file, index=False)
    else:
        file.write_bytes(text)
    sample = survey.read_sample(str(file))
    stated = draft.ProjectOptions(data=str(file), target=target, **options)
    return draft.statement("it", stated, sample, survey.columns_of(sample), None)


def noted(parts, what):
    return " ".join(text for name, text in parts["notes"] if name == what)


def measured(n=300, seed=0):
    r = RNG(seed)
    rows = pd.DataFrame({"a": r.normal(size=n).round(3), "b": r.normal(size=n).round(3), "k": r.choice(list("uv"), n)})
    return rows.assign(y=(rows.a + r.normal(size=n)).round(3))


DAYS = pd.date_range("2015-03-01", periods=300)


@pytest.mark.parametrize(
    ("name", "counted", "form", "first"),
    [
        ("date_ordinal", [day.toordinal() for day in DAYS], "ordinal", "2015-03-01"),
        ("datenum", [day.toordinal() + 366 for day in DAYS], "matlab", "2015-03-01"),
        ("date", [day.toordinal() + 366.25 for day in DAYS], "matlab", "2015-03-01 06:00"),
        ("julian_date", [day.to_julian_date() for day in DAYS], "julian", "2015-03-01"),
        ("date", [(day - pd.Timestamp(0)).days for day in DAYS], "days_1970", "2015-03-01"),
        ("paid_on", [(day - pd.Timestamp(0)).days for day in DAYS], "days_1970", "2015-03-01"),
        ("day", [(day - pd.Timestamp(0)).days for day in DAYS], "days_1970", "2015-03-01"),
        ("epoch_day", [(day - pd.Timestamp(0)).days for day in DAYS], "days_1970", "2015-03-01"),
        ("days_since_1970", [(day - pd.Timestamp(0)).days for day in DAYS], "days_1970", "2015-03-01"),
        ("date", [f"{day:%Y%j}" for day in DAYS], "%Y%j", "2015-03-01"),
        ("t", [int(day.timestamp()) for day in DAYS], "unix_s", "2015-03-01"),
    ],
)
def test_days_that_are_counted_are_the_time_of_the_rows(tmp_path, name, counted, form, first):
    rows = measured()
    rows.insert(0, name, counted)
    parts = parts_of(tmp_path, rows, "y")
    spec = next(line["spec"] for line in parts["columns"] if line["name"] == name)
    assert (parts["table_time"], spec["format"]) == (name, form)
    import ibis

    text = ibis.memtable({"raw": [str(counted[0])]}).raw
    column = Column(type=spec["type"], format=form)
    read = parsing.parse_value(parsing.text_or_null(text, column), column).execute()
    assert pd.Timestamp(read.iloc[0]) == pd.Timestamp(first), "ingestion reads what was looked at"


def test_numbers_that_only_look_like_counted_days_stay_numbers():
    counts = pd.Series([str(v) for v in range(736_389, 736_689)])
    assert survey.guess("account_total", counts).column.type == "integer"
    months = pd.Series(
        [f"{year}{month:02d}{day:02d}" for year in (1, 2) for month in range(1, 13) for day in (1, 15, 28)]
    )
    assert survey.guess("date", months).column.format != "days_1970", "a year, a month and a day without a zero before"


def test_dates_in_several_forms_are_one_time_and_the_forms_are_told(tmp_path):
    rows, forms = measured(), ("%Y-%m-%d", "%d/%m/%Y", "%d %b %Y")
    rows.insert(0, "date", [f"{day:{forms[0 if at % 2 else at % 6 // 2]}}" for at, day in enumerate(DAYS)])
    parts = parts_of(tmp_path, rows, "y")
    assert parts["table_time"] == "date" and "written in 3 ways" in noted(parts, "reading")
    words = pd.Series([f"{word} {at}" for at, word in enumerate(["2020-01-01", "soon", "later"] * 60)])
    assert not survey.guess("date", words).is_time


def test_moments_of_which_some_name_no_offset_are_told(tmp_path):
    rows = measured()
    rows.insert(0, "ts", [f"{day:%Y-%m-%dT%H:%M:%S}{'+02:00' if at % 3 else ''}" for at, day in enumerate(DAYS)])
    assert "100 of 300 moments name no offset" in noted(parts_of(tmp_path, rows, "y"), "reading")
    rows["ts"] = [f"{day:%Y-%m-%dT%H:%M:%S}Z" for day in DAYS]
    assert noted(parts_of(tmp_path, rows, "y"), "reading") == ""


def test_a_line_that_repeats_the_header_is_set_aside_and_counted(tmp_path):
    lines = measured().to_csv(index=False).splitlines()
    text = "\n".join([*lines[:150], lines[0], *lines[150:], lines[0]]).encode()
    parts = parts_of(tmp_path, None, "y", text)
    assert "2 lines repeat the header" in noted(parts, "header again")
    assert next(line["spec"]["type"] for line in parts["columns"] if line["name"] == "a") == "number"
    import ibis

    raw = ingestion.RawFile(tmp_path / "rows.csv", "csv", "rows.csv", Source(kind="files", path="rows.csv"))
    rows, unread = ingestion.raw_rows(ibis.duckdb.connect(), [raw], ["a", "b", "k", "y"])
    assert rows.count().execute() == 300
    assert unread.execute()["_reason"].tolist() == [ingestion.HEADER_AGAIN] * 2


@pytest.mark.parametrize("below", ["continuous,continuous,discrete,continuous\n,,,class\n", "(cm),(cm),(-),(kg)\n"])
def test_lines_below_the_header_that_describe_the_columns_are_no_rows(tmp_path, below):
    head, _, body = measured().to_csv(index=False).partition("\n")
    parts = parts_of(tmp_path, None, "y", f"{head}\n{below}{body}".encode())
    lines = below.count("\n")
    assert parts["source"]["skip_below"] == lines and f"{lines} line" in noted(parts, "header")
    source = Source(kind="files", path="rows.csv", skip_below=lines)
    plain = tmp_path / "plain.csv"
    plain.write_text(f"{head}\n{body}")
    for file in (tmp_path / "rows.csv", plain):  # a file without such lines loses no row
        copy = ingestion.as_utf8(ingestion.RawFile(file, "csv", file.name, source), tmp_path)
        assert copy.path.read_text() == f"{head}\n{body}"


def test_the_types_and_roles_of_a_table_of_words_are_no_rows(tmp_path):
    rows = pd.DataFrame(
        {
            "sex": ["male", "female"] * 60,
            "age": ["adult", "child", "adult"] * 40,
            "lived": ["yes", "no", "no", "yes"] * 30,
        }
    )
    head, _, body = rows.to_csv(index=False).partition("\n")
    parts = parts_of(tmp_path, None, "lived", f"{head}\nd,male female,d\n,,class\n{body}".encode())
    assert parts["source"]["skip_below"] == 2 and "120 rows" in noted(parts, "question")
    assert "skip_below" not in parts_of(tmp_path, rows, "lived")["source"]


def test_a_first_row_with_a_missing_value_is_a_row(tmp_path):
    rows = measured().astype(object)
    rows.loc[0, ["a", "b"]] = "n/a"
    assert "skip_below" not in parts_of(tmp_path, rows, "y")["source"]


@pytest.mark.parametrize(
    ("begin", "words"),
    [
        (b"PK\x03\x04\x14\x00", "spreadsheet"),
        (b"%% a comment\n@relation iris\n@attribute a numeric\n@data\n1\n", "ARFF"),
        (b"<html><table><tr><td>1</td></tr></table></html>", "HTML"),
        (b'[{"a": 1}, {"a": 2}]', "JSON"),
        (b"PAR1\x15\x04", "Parquet"),
    ],
)
def test_a_file_that_is_no_table_of_text_is_refused_with_what_it_is(tmp_path, begin, words):
    (tmp_path / "rows.csv").write_bytes(begin)
    with pytest.raises(DataError, match=words):
        survey.read_sample(str(tmp_path / "rows.csv"))


def test_none_is_a_class_of_the_target_and_na_an_unknown_outcome(tmp_path):
    rows = measured(400).drop(columns="y")
    rows["severity"] = np.where(rows.a > 1, "major", np.where(rows.a > 0.3, "minor", "none"))
    rows.loc[:9, "severity"] = "NA"
    parts = parts_of(tmp_path, rows, "severity")
    assert "'none' is read as a class" in noted(parts, "classes") and "10 rows without it" in noted(parts, "question")
    assert next(line["spec"]["missing"] for line in parts["columns"] if line["name"] == "severity") == ["NA"]
    assert "positive: minor" in parts["task"], "the class that says that there is nothing is not looked for"


def test_so_few_rows_of_a_class_that_no_figure_means_much_are_told(tmp_path):
    rows = measured(2000).assign(y=lambda t: (t.a > 2.3).astype(int))
    assert "of the rarer class" in noted(parts_of(tmp_path, rows, "y"), "few rows")
    assert "both gates say No" in noted(parts_of(tmp_path, rows.assign(y=rows.b)[:20], "y"), "few rows")
    assert noted(parts_of(tmp_path, rows.assign(y=rows.b), "y"), "few rows") == ""


def test_two_columns_that_say_together_whose_row_it_is_are_its_entity(tmp_path):
    r = RNG(0)
    weeks = pd.date_range("2022-01-03", periods=40, freq="7D")
    rows = pd.MultiIndex.from_product([weeks, list("abcd"), range(6)], names=["week", "store", "product"]).to_frame(
        index=False
    )
    rows["units"] = (
        r.normal(50, 15, 24)[pd.factorize(rows.store + rows["product"].astype(str))[0]] + r.normal(size=960)
    ).round(2)
    parts = parts_of(tmp_path, rows, "units")
    spec = next(line["spec"] for line in parts["columns"] if line["name"] == "store_product")
    assert spec["made_of"] == ["store", "product"] and "entity: store_product" in parts["task"]
    shuffled = rows.assign(product=r.permutation(rows["product"]))
    assert not any("store_product" in line for line in parts_of(tmp_path, shuffled, "units")["task"])


def test_neighbours_of_a_short_file_that_depend_on_each_other_are_seen():
    r = RNG(1)
    noise = [r.normal(size=150) for _ in range(200)]
    series = [pd.Series(e).ewm(alpha=0.6).mean() for e in noise]
    assert np.mean([dependence.stands_in_order(y) for y in series]) > 0.75
    assert np.mean([dependence.stands_in_order(y) for y in noise]) < 0.01


def test_a_later_visit_what_came_of_a_plan_and_an_end_are_asked_about(tmp_path):
    r, n = RNG(3), 600
    cd4 = r.normal(350, 100, n)
    rows = pd.DataFrame(
        {"age": r.integers(20, 60, n)} | {f"cd4{w}": (cd4 + r.normal(0, 50, n)).round() for w in (0, 20, 96)}
    )
    rows["worse"] = (cd4 + r.normal(0, 60, n) < 300).astype(int)
    rows["offtrt"] = (r.random(n) < 0.2 + 0.4 * rows.worse).astype(int)
    assert {"cd420", "cd496", "offtrt"} <= set(parts_of(tmp_path, rows, "worse")["asked"])
    assert "cd40" not in parts_of(tmp_path, rows, "worse")["asked"]


def test_the_sum_of_the_target_to_date_is_kept_away_and_the_one_before_is_not(tmp_path):
    r, n = RNG(4), 3000
    rows = pd.DataFrame(
        {"at": pd.date_range("2022-01-01", periods=n, freq="6h"), "customer": [f"c{at}" for at in r.integers(0, 60, n)]}
    )
    rows["spend"] = (r.normal(0, 5, 60)[rows.customer.str[1:].astype(int)] + 20 + r.normal(size=n)).round(2)
    rows["to_date"] = rows.groupby("customer").spend.cumsum().round(2)
    rows["before"] = (rows.to_date - rows.spend).round(2)
    parts = parts_of(tmp_path, rows, "spend")
    assert list(parts["leaks"]) == ["to_date"]


def test_the_price_at_which_a_day_opens_is_honest_also_where_the_level_wanders_less():
    r = RNG(6)
    close = pd.Series(np.exp(0.03 * r.normal(size=1500).cumsum() * 0.5 + r.normal(0, 0.02, 1500)), name="close")
    opened = close.shift().fillna(1.0) * (1 + r.normal(0, 0.015, 1500))
    rows = pd.DataFrame({"open": opened, "adj": close * 0.9})
    signs = leaks.find(rows, close, "regression", pd.Series(pd.date_range("2015-01-01", periods=1500)))
    assert [(sign.column, sign.sure) for sign in signs if sign.sure] == [("adj", True)]


def test_files_of_different_tables_are_refused_and_a_feed_whose_columns_change_is_not(tmp_path):
    pd.DataFrame({"customer": range(60), "town": "Ely", "since": 2020}).to_csv(tmp_path / "customers.csv", index=False)
    orders = pd.DataFrame({"order": range(80), "customer": range(80), "price": 5, "late": [0, 1] * 40})
    orders.to_csv(tmp_path / "orders.csv", index=False)
    with pytest.raises(DataError, match=r"2 different tables: customers\.csv and orders\.csv share customer"):
        survey.read_sample(str(tmp_path))
    (tmp_path / "customers.csv").unlink()
    orders.rename(columns={"price": "price_eur"}).assign(shop=1).to_csv(tmp_path / "orders2.csv", index=False)
    assert survey.read_sample(str(tmp_path)).rows == 160
