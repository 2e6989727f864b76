"""Files as others write them: what a column holds is kept, told or asked, and never changed in silence."""

import datetime as dt
import gzip

import ibis
import numpy as np
import pandas as pd
import pytest

from mlloop import need_gate, problem, transformation
from mlloop.core.errors import DataError
from mlloop.release import releases
from mlloop.scaffold import dialect, notation, project_files, survey, times
from mlloop.scaffold.notation import Hint


def people(n=200, seed=2, **more) -> pd.DataFrame:
    r = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "account": [f"A{i:05d}" for i in range(n)],
            "signed_up_at": (
                pd.Timestamp("2025-01-02") + pd.to_timedelta(np.sort(r.integers(0, 200 * 24, n)), "h")
            ).strftime("%Y-%m-%dT%H:%M:%S"),
            "amount": r.gamma(2, 50, n).round(2),
            "churned": r.integers(0, 2, n),
        }
    )
    return frame.assign(**{name: [value(r, i) for i in range(n)] for name, value in more.items()})


def columns_of(tmp_path, frame, text=None, **how):
    file = tmp_path / "people.csv"
    if text is None:
        frame.to_csv(file, index=False, **how)
    else:
        file.write_bytes(text)
    sample = survey.read_sample(str(file))
    return sample, survey.columns_of(sample)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("zip", lambda r, i: f"{r.integers(1, 99_999):05d}", "leading zeros"),
        ("plz", lambda r, i: f"{r.integers(10_000, 99_999)}", "name things"),
        ("phone", lambda r, i: f"+49{r.integers(10**9, 10**10)}", "phone"),
        ("contact", lambda r, i: f"{r.integers(10**10, 10**11)}", "all of 11 digits"),
        ("iban", lambda r, i: f"{2**53 + int(r.integers(1, 10**6))}", "longer than a number holds exactly"),
        ("site", lambda r, i: f"{[10417, 10423, 20931, 30122][i % 4]}", "few values"),
        ("sku", lambda r, i: f"{i % 9 + 1}E{i % 12}", "codes"),
        ("version", lambda r, i: ["1.1", "1.10", "1.9", "2.0"][i % 4], "versions"),
        ("batch", lambda r, i: f"{i % 9 + 1}E{i % 5}" if i % 2 else f"{100 + i % 800}"[:3], "codes"),
    ],
)  # fmt: skip
def test_digits_that_name_things_stay_as_they_are_written(tmp_path, name, value, why):
    frame = people(**{name: value})
    _, columns = columns_of(tmp_path, frame)
    assert columns[name].column.type in ("text", "category") and why in columns[name].why
    assert columns[name].values.tolist() == frame[name].tolist()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("year", lambda r, i: 2015 + i % 9),
        ("income", lambda r, i: int(r.integers(10_000, 99_999))),
        ("clicks", lambda r, i: int(r.integers(0, 9))),
        ("bytes_sent", lambda r, i: 1_700_000_000 + i * 977),
        ("lifetime", lambda r, i: 40_000 + i * 7),
    ],
)
def test_digits_that_count_stay_numbers(tmp_path, name, value):
    frame = people(**{name: value})
    _, columns = columns_of(tmp_path, frame)
    assert columns[name].column.type == "integer" and columns[name].values.tolist() == frame[name].tolist()


@pytest.mark.parametrize(
    ("name", "form", "written"),
    [
        ("ts", "unix_s", lambda at: str(int(at.timestamp()))),
        ("created_at", "unix_ms", lambda at: str(int(at.timestamp()) * 1000)),
        ("order_date", "excel", lambda at: f"{(at - pd.Timestamp(1899, 12, 30)) / pd.Timedelta(days=1):.6f}"),
        ("sent", "%Y-%m-%d %H:%M:%S UTC", lambda at: f"{at} UTC"),
        ("sent", "%d%b%Y:%H:%M:%S", lambda at: f"{at:%d%b%Y:%H:%M:%S}".upper()),
        ("month", "%Y%m", lambda at: f"{at:%Y%m}"),
        ("paid_in", "%m/%Y", lambda at: f"{at:%m/%Y}"),
    ],
)
def test_moments_are_read_as_programs_count_and_write_them(tmp_path, name, form, written):
    frame = people()
    at = pd.to_datetime(frame.signed_up_at)
    _, columns = columns_of(tmp_path, frame.assign(**{name: at.map(written)}).drop(columns="signed_up_at"))
    month = form in ("%Y%m", "%m/%Y")
    wanted = at.dt.to_period("M").dt.to_timestamp() if month else at
    assert columns[name].column.format == form
    assert (columns[name].values - wanted).abs().max() < pd.Timedelta(seconds=1)


def test_a_message_names_no_row_though_each_is_different(tmp_path):
    frame = people(message=lambda r, i: f"please send order {i} again").drop(columns="account")
    sample, columns = columns_of(tmp_path, frame)
    assert columns["message"].column.type == "text" and survey.key_of(sample, columns) != "message"


def test_a_last_row_that_sums_up_the_others_is_told_and_set_aside(tmp_path):
    frame = people()
    text = frame.to_csv(index=False) + f"Total:,,{frame.amount.sum():.2f},{frame.churned.sum()}\n"
    sample, columns = columns_of(tmp_path, None, text.encode())
    assert sample.rows == len(sample.text) == 200 and survey.kind_of(columns["churned"]) == "classification"
    assert columns["account"].column.missing == ["Total:"] and columns["account"].column.required
    assert any("sums up the others" in told for _, told in sample.notes)


def test_a_damaged_line_does_not_make_a_file_of_another_encoding(tmp_path):
    frame = people(city=lambda r, i: ["Köln", "Málaga"][i % 2])
    text = frame.to_csv(index=False).encode().replace("Köln".encode(), "Köln".encode("cp1252"), 1)
    sample, columns = columns_of(tmp_path, None, text)
    assert (sample.source.encoding, sample.unread) == ("utf-8", 1)
    assert set(columns["city"].values) == {"Köln", "Málaga"} and any("1 line has" in told for _, told in sample.notes)
    assert dialect.encoding(_written(tmp_path, frame.to_csv(index=False).encode("cp1252"))) == "cp1252"


def _written(tmp_path, content):
    file = tmp_path / "other.csv"
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("words", [("Ja", "Nein"), ("OUI", "NON"), ("Sí", "No"), ("да", "нет"), ("はい", "いいえ")])
def test_the_class_that_is_looked_for_is_yes_in_any_language(words):
    yes, no = words
    assert survey.positive_of(pd.Series({yes: 600, no: 400}).sort_values(ascending=False)) == yes


@pytest.mark.parametrize(
    ("clock", "form"),
    [("{:02d}.00.00", "%H.%M.%S"), ("{:02d}h30", "%Hh%M"), ("{:d}:05", "%H:%M"), ("{:02d}:00:00", "%H:%M:%S")],
)
def test_a_day_and_a_clock_beside_it_are_one_time_and_the_clock_is_nobody(tmp_path, clock, form):
    r = np.random.default_rng(0)
    hours = pd.date_range("2024-03-01", periods=24 * 40, freq="h")
    frame = pd.DataFrame(
        {"Day": hours.strftime("%d/%m/%Y"), "Clock": [clock.format(h) for h in hours.hour], "x": r.normal(size=960)}
    )
    sample, columns = columns_of(tmp_path, frame)
    assert times.panel_of(sample, columns, "Day") is None
    assert times.add_moments(sample, columns) == ["day_clock"]
    assert columns["day_clock"].column.format == f"%d/%m/%Y {form}"


@pytest.mark.parametrize("mark", [-999.9, 99.99, -99.0])
def test_a_number_of_nines_far_from_all_others_counts_as_missing(tmp_path, mark):
    frame = people(temperature=lambda r, i: mark if i % 20 == 0 else round(15 + r.normal(), 1))
    sample, columns = columns_of(tmp_path, frame)
    assert times.take_out_sentinels(sample, columns) == {mark: ["temperature"]}


@pytest.mark.parametrize(
    ("written", "hint", "separator", "first", "is_open"),
    [
        (["0,805", "1,293", "2,044"], None, ",", 0.805, False),  # no thousands begin with 0
        (["1,293", "2,044"], None, ",", 1293.0, True),
        (["1,293", "2,044"], None, ";", 1.293, True),
        (["1,293", "2,044"], Hint(decimal=",", decimal_shown_by="price"), ",", 1.293, True),
        (["1,293", "15,300,000"], None, ";", 1293.0, False),
        (["1.293", "2.044"], Hint(decimal=","), ";", 1293.0, True),
        (["1.293", "2.04"], None, ";", 1.293, False),
        (["1,293", "2044"], None, ";", 1.293, False),  # whoever sets thousands apart would have done so
        (["3 743,40", "95,10"], None, ";", 3743.4, False),
        (["3\u00a0743,40", "95,10"], None, ";", 3743.4, False),
        (["3\u202f743,40", "1,5"], None, ";", 3743.4, False),
        (["1'234.50", "3.10"], None, ",", 1234.5, False),
        (["$1,234.50", "$3.10"], None, ",", 1234.5, False),
        (["(45.10)", "3.10"], None, ",", -45.1, False),
        (["\u22125,1", "3,25"], None, ";", -5.1, False),
        (["-$5.10", "$3.25"], None, ",", -5.1, False),
        (["CHF 1'234.50", "CHF 3.10"], None, ",", 1234.5, False),
        (["1.5k", "800"], None, ",", 1500.0, False),
        (["124,78 €", "3,1 €"], None, ";", 124.78, False),
        ([".5", "1.25"], None, ",", 0.5, False),
    ],
)  # fmt: skip
def test_a_number_is_read_as_it_was_written_or_its_reading_is_told(written, hint, separator, first, is_open):
    found = notation.read(pd.Series(written * 5), hint, separator)
    assert found.values.iloc[0] == first and bool(found.open) == is_open and bool(found.why) == is_open


@pytest.mark.parametrize("written", [["1,2,3", "4,5"], ["A12", "B7"], ["10:30", "9:15"], ["192.168.0.1", "10.0.0.1"]])
def test_what_is_no_number_is_not_made_one(written):
    found = notation.read(pd.Series(written * 20))
    assert found is None or notation.is_code(found, pd.Series(written * 20))


def test_what_is_unsure_follows_the_rest_of_the_file_and_is_asked_in_the_statement(tmp_path):
    frame = people(
        weight=lambda r, i: f"{r.uniform(1, 9):.3f}".replace(".", ","),
        price=lambda r, i: f"{r.uniform(1, 900):.2f}".replace(".", ","),
    )
    frame["amount"] = frame["amount"].map("{:.2f}".format).str.replace(".", ",")
    frame.to_csv(tmp_path / "p.csv", index=False, sep=";")
    made = project_files.new(tmp_path / "shop", project_files.ProjectOptions(str(tmp_path / "p.csv"), target="churned"))
    told = dict(made.notes)["reading"]
    assert "weight: decimals or thousands?" in told and "as in amount" in told
    text = (made.root / "problems/shop.yaml").read_text()
    assert 'weight: {type: number, decimal: ","}  # decimals or thousands?' in text


def test_the_order_of_day_and_month_follows_the_columns_that_show_it(tmp_path):
    frame = people(
        born=lambda r, i: f"{r.integers(1, 13):02d}/{r.integers(1, 13):02d}/1980",
        since=lambda r, i: f"{13 + i % 15}/03/2020",
    )
    _, columns = columns_of(tmp_path, frame)
    assert columns["born"].column.format == "%d/%m/%Y" and "as in since" in columns["born"].question


def test_two_columns_that_differ_by_case_are_both_kept_and_told(tmp_path):
    frame = people(Amount=lambda r, i: int(r.integers(0, 900)))
    frame.to_csv(tmp_path / "p.csv", index=False)
    made = project_files.new(tmp_path / "shop", project_files.ProjectOptions(str(tmp_path / "p.csv"), target="churned"))
    columns = problem.load(made.root / "problems/shop.yaml").tables["rows"].columns
    assert {"amount", "Amount (2)"} <= set(columns) and "one name to a database" in dict(made.notes)["columns"]


@pytest.mark.parametrize(
    ("before", "skipped", "told"),
    [
        ("sep=;\n", 1, None),
        ("Churn report;;;\n;;;\n", 2, "'Churn report'"),
        ("Churn report\n\n", 2, "'Churn report'"),
        ("Exported by;Anna;;\nAt;2025-01-01;;\n\n", 3, "Anna"),
        ("", 0, None),
    ],
)
@pytest.mark.parametrize("coded", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_the_header_is_found_below_what_stands_above_it(tmp_path, before, skipped, told, coded):
    frame = people(note=lambda r, i: "größe" if i % 2 else "x;y")
    text = (before + frame.to_csv(index=False, sep=";")).encode(coded)
    sample, _ = columns_of(tmp_path, frame, text)
    assert sample.source.skip == skipped and sample.rows == len(frame) and sample.unread == 0
    assert sample.text["note"].tolist() == frame["note"].tolist()
    assert told is None or told in dict(sample.notes)["header"]


def test_a_file_without_a_header_is_refused_rather_than_a_row_lost(tmp_path):
    (tmp_path / "p.csv").write_text("1,2025-01-01,3.5\n2,2025-01-02,4.5\n")
    with pytest.raises(DataError, match="has no header"):
        dialect.read(tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("id\tnote\tsum\n1\ta\\tb\t\\N\n2\tC:\\\\x\t5\n3\tz\t6\n", ["a\tb", "C:\\x", "z"]),
        ('id,note,sum\n1,"a\\"b, c",\\N\n2,"d",5\n3,"e",6\n', ['a"b, c', "d", "e"]),
        ("id,note,sum\n1,'a,b',3\n2,'it''s',5\n3,'x',6\n", ["a,b", "it's", "x"]),
        ("id\tnote\tsum\n" + '1\t"open\t3\n2\tb\t5\n3\tc\t6\n', ['"open', "b", "c"]),
        ('id,note,sum\r1,"a""b",3\r2,b,5\r', ['a"b', "b"]),
    ],
)
def test_quotes_and_escapes_are_read_as_the_program_wrote_them(tmp_path, text, want):
    sample, _ = columns_of(tmp_path, None, text.encode())
    assert sample.text["note"].tolist() == want and sample.unread == 0


@pytest.mark.parametrize(
    ("open_end", "means"),
    [("9999-12-31", "still open"), ("0000-00-00", "means none"), ("1900-01-01", "means none"), ("2999-12-31", "open")],
)
def test_a_day_that_stands_for_none_counts_as_missing_and_the_column_stays_a_date(tmp_path, open_end, means):
    frame = people(until=lambda r, i: open_end if i % 3 == 0 else f"2026-0{1 + i % 9}-1{i % 9}")
    _, columns = columns_of(tmp_path, frame)
    found = columns["until"]
    assert found.column.type == "date" and found.column.missing == [open_end] and means in found.why
    assert found.values.isna().sum() == (frame["until"] == open_end).sum()


def test_days_of_birth_from_1900_on_are_days(tmp_path):
    frame = people(born=lambda r, i: "1900-01-01" if i == 3 else f"19{i % 99:02d}-03-04")
    _, columns = columns_of(tmp_path, frame)
    assert not columns["born"].column.missing and not columns["born"].values.isna().any()


@pytest.mark.parametrize(
    ("typed", "bound"), [(["2205-03-04T10:00:00"], "max"), (["1900-01-01T00:00:00", "1901-01-01T00:00:00"], "min")]
)
def test_a_few_times_far_outside_are_set_aside_and_the_folds_follow_the_rows(tmp_path, typed, bound):
    frame = people()
    frame.loc[range(5, 5 + len(typed)), "signed_up_at"] = typed
    frame.to_csv(tmp_path / "p.csv", index=False)
    options = project_files.ProjectOptions(str(tmp_path / "p.csv"), target="churned", time="signed_up_at")
    made = project_files.new(tmp_path / "shop", options)
    one = problem.load(made.root / "problems/shop.yaml")
    limit = getattr(one.tables["rows"].columns["signed_up_at"], bound)
    assert isinstance(limit, dt.datetime) and one.time.as_of.year == 2025
    assert (pd.to_datetime(frame["signed_up_at"]).drop(range(5, 5 + len(typed))).max() < limit) == (bound == "max")
    assert f"{len(typed)} of {len(frame)} rows lie far outside" in dict(made.notes)["time"]


def test_a_growing_history_has_nothing_far_outside():
    times = pd.Series(
        pd.Timestamp("2020-01-01") + pd.to_timedelta(np.cumsum(np.random.default_rng(0).exponential(30, 300)), "h")
    )
    assert not survey.outlying(times)[1]


def test_any_gzip_is_read_like_its_file(tmp_path):
    with gzip.open(tmp_path / "p.csv.gz", "wb") as file:
        file.write(b"Report;;\n;;\nname;sum;n\nAnna;1,5;2\nBob;2,25;3\n")
    sample = survey.read_sample(str(tmp_path / "p.csv.gz"))
    assert sample.source.skip == 2 and sample.rows == 2


def test_blanks_around_the_names_of_columns_are_no_part_of_them(tmp_path):
    lines = ["name,        country,   time", *(f'"Runner {i}",  "USA",  {10 + i / 100}' for i in range(40))]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    sample = survey.read_sample(str(tmp_path / "p.csv"))
    assert list(sample.text.columns) == ["name", "country", "time"]
    assert survey.columns_of(sample)["time"].values.iloc[3] == 10.03
    assert set(sample.text["country"].str.strip().str.strip('"')) == {"USA"}


@pytest.mark.parametrize("name", ["zip", "class", "list", "pandas"])
def test_a_projects_package_hides_no_builtin_keyword_or_library(name):
    assert project_files._package(name) == f"{name}_project"


@pytest.mark.parametrize(("n", "positives"), [(12, 4), (2000, 5)])
def test_too_few_rows_or_positives_are_a_no_that_says_how_many_are_needed(tmp_path, n, positives):
    frame = people(n).assign(churned=0)
    frame.loc[np.linspace(0, n - 1, positives, dtype=int), "churned"] = 1
    frame.to_csv(tmp_path / "p.csv", index=False)
    options = project_files.ProjectOptions(str(tmp_path / "p.csv"), target="churned", time="signed_up_at")
    made = project_files.new(tmp_path / "few", options)
    statement = problem.load(made.root / "problems/few.yaml")
    table = ibis.duckdb.connect().create_table("rows", frame.assign(signed_up_at=pd.to_datetime(frame["signed_up_at"])))
    first = pd.Timestamp(frame["signed_up_at"].min()).to_pydatetime()
    windows = transformation.time_windows(statement.time, problem.utc(statement.time.as_of), first)
    verdict = need_gate.decide(need_gate.contest(statement, {"rows": table}, windows), statement)
    assert verdict["verdict"] == "no" and any(
        f"rows of the rarer class to learn from ({positives} with those of the holdout), 20 are needed" in reason
        for reason in verdict["reasons"]
    )


@pytest.mark.filterwarnings("error")
def test_moments_of_several_zones_are_read_one_by_one():
    values = pd.Series(["2024-03-01T10:00:00+01:00", "2024-03-01T10:00:00-05:00"])
    assert [at.isoformat() for at in releases._moments(values)] == values.tolist()
