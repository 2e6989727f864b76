"""Ingestion: idempotent, adding up, blind to the future, and calm about bad input."""

import datetime as dt
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlloop.core.errors import ContractError, SourceError
from mlloop.ingestion import RawFile, contract, ingest_table, schema_changes
from mlloop.problem import Column, Problem, Source, Table, load
from mlloop.store.lake import Lake, digest

NOW = dt.datetime(2025, 4, 1)
SALES = Table(
    source="sales", key=["id"], time="at",
    columns={
        "id": Column(type="text", required=True), "at": Column(type="time", required=True), "user": Column(type="text"),
        "amount": Column(type="number", min=0, max=1000), "kind": Column(type="category", values=["a", "b"]),
    },
)  # fmt: skip
HEAD = "id,at,user,amount,kind\n"


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path / "lake")


class Feed:
    """Files in a folder, ingested up to a given one; names stand for contents."""

    def __init__(self, folder: Path, lake: Lake, table: Table = SALES, **source):
        self.folder, self.lake, self.table, self.raws = folder, lake, table, []
        self.source = Source(kind="files", path="*", **source)

    def add(self, name: str, content: str | bytes) -> "Feed":
        (self.folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        suffix = name.removesuffix(".gz").rsplit(".", 1)[1]
        form = {"jsonl": "jsonl", "parquet": "parquet"}.get(suffix, "csv")
        self.raws.append(RawFile(self.folder / name, form, name, self.source))
        return self

    def ingest(self, n=None, as_of=NOW, table="p/sales", **more):
        raws = self.raws[:n]
        return ingest_table(self.lake, table, self.table, raws, [digest_of(r) for r in raws], as_of, **more)


def digest_of(raw: RawFile) -> str:
    from mlloop.core.storage import digest_file

    return digest_file(raw.path)


@pytest.fixture
def feed(tmp_path, lake):
    return Feed(tmp_path, lake)


def days(feed, n=4, rows=5):
    for day in range(1, n + 1):
        lines = [f"{day}-{i},2025-03-{day:02d} 0{i}:00,u{i},{i}.5,a" for i in range(rows)]
        feed.add(f"d{day}.csv", HEAD + "\n".join(lines) + "\n")
    return feed


def reasons(feed, done):
    rows = feed.lake.read(done.rejected).execute()
    return dict(zip(rows.raw, rows.reason, strict=True)), rows


def test_one_file_after_another_equals_all_at_once_and_a_file_twice_adds_nothing(feed):
    days(feed)
    for n in range(1, 5):
        stepwise = feed.ingest(n)
        assert feed.ingest(n) == stepwise
    at_once = feed.ingest(table="p/other")
    assert stepwise.table.digest == at_once.table.digest and stepwise.counts == at_once.counts
    assert stepwise.table.version == 3
    feed.raws.append(feed.raws[0])
    assert feed.ingest() == stepwise


def test_an_earlier_state_is_found_again_and_a_changed_feed_starts_anew(feed):
    days(feed)
    early, late = feed.ingest(2), feed.ingest(4)
    assert feed.ingest(2) == early and feed.ingest(4) == late
    feed.raws[1:2] = []
    other = feed.ingest()
    assert other.counts["kept"] == 15 and feed.lake.read(late.table).count().execute() == 20
    assert feed.ingest() == other


def test_the_same_rows_in_another_file_are_duplicates(feed):
    days(feed, 2)
    feed.add("again.csv", (feed.folder / "d1.csv").read_text() + "new,2025-03-09,u9,1,b\n")
    feed.ingest(2)
    done = feed.ingest()
    assert done.counts == {"read": 16, "kept": 11, "rejected": 0, "duplicates": 5}


def test_a_key_used_for_something_else_is_rejected_and_the_first_stays(feed):
    feed.add("a.csv", HEAD + "1,2025-03-01,u,5,a\n1,2025-03-01,u,6,a\n")
    feed.add("b.csv", HEAD + "1,2025-03-01,u,7,a\n1,2025-03-01,u,5,a\n")
    feed.ingest(1)
    done = feed.ingest()
    assert done.counts == {"read": 4, "kept": 1, "rejected": 2, "duplicates": 1}
    assert feed.lake.read(done.table).amount.execute().tolist() == [5]
    assert set(reasons(feed, done)[1].reason) == {"id is already used by a row with other values"}


def test_late_and_disordered_rows_are_kept_like_any_other(feed):
    feed.add("d2.csv", HEAD + "2,2025-03-02,u,5,a\n").add("d3.csv", HEAD + "3,2025-03-03,u,5,a\n1,2025-02-01,u,5,a\n")
    feed.ingest(1)
    done = feed.ingest()
    assert sorted(feed.lake.read(done.table).id.execute()) == ["1", "2", "3"]


def test_nothing_at_or_after_the_moment_is_visible_whatever_ran_before(feed):
    days(feed, 4)
    seen = {}
    for day in (3, 2, 5, 4, 2, 3):
        done = feed.ingest(as_of=dt.datetime(2025, 3, day))
        assert done.counts["read"] == 5 * (day - 1)
        assert feed.lake.read(done.table).at.max().execute() < pd.Timestamp(2025, 3, day)
        assert seen.setdefault(day, done.table.digest) == done.table.digest


def test_sampling_keeps_whole_users_and_the_same_ones_in_each_run(feed):
    lines = [f"{i},2025-03-01,u{i % 50},1,a" for i in range(500)]
    feed.add("a.csv", HEAD + "\n".join(lines))
    some = feed.ingest(entity="user", sample=0.4)
    users = feed.lake.read(some.table).user.value_counts().execute()
    assert set(users.iloc[:, 1]) == {10} and 8 <= len(users) <= 32
    full = feed.ingest(entity="user", sample=1.0)
    assert full.counts["kept"] == 500 and feed.ingest(entity="user", sample=0.4) == some


BAD = {
    "no number": ("1,2025-03-01,u,five,a", "amount is not a finite number"),
    "infinite": ("1,2025-03-01,u,inf,a", "amount is not a finite number"),
    "overflow": ("1,2025-03-01,u,1e999,a", "amount is not a finite number"),
    "thousands not declared": ('1,2025-03-01,u,"1,000",a', "amount is not a finite number"),
    "too small": ("1,2025-03-01,u,-1,a", "amount is below 0"),
    "too large": ("1,2025-03-01,u,1001,a", "amount is above 1,000"),
    "unknown value": ("1,2025-03-01,u,1,c", "kind is none of a, b"),
    "no key": (",2025-03-01,u,1,a", "id is missing"),
    "other date": ("1,03/04/2025,u,1,a", "at is not a time as declared (default: ISO 8601)"),
    "no such day": ("1,2025-02-30,u,1,a", "at is not a time as declared (default: ISO 8601)"),
    "short line": ("1,2025-03-01,u", "line has fewer columns than the header"),
    "long line": ("1,2025-03-01,u,1,a,more", "line has more columns than the header"),
    "open quote": ('1,2025-03-01,"u,1,a', "line opens a quote that is never closed; what follows is part of it"),
    "10 MB cell": ("1,2025-03-01," + "u" * 10_000_000 + ",1,a", "line is longer than 8 MB"),
    "not UTF-8": (
        "1,2025-03-01,caf\xe9,1,a".encode("latin-1"),
        "line is not UTF-8 (is another encoding to be declared?)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_set_aside_with_its_reason_and_the_others_are_kept(feed, name):
    line, reason = BAD[name]
    line = line if isinstance(line, bytes) else line.encode()
    feed.add("a.csv", HEAD.encode() + b"x,2025-03-01,u,1,a\ny,2025-03-01,u,1,a\n" + line + b"\n")
    done = feed.ingest()
    assert done.counts == {"read": 3, "kept": 2, "rejected": 1, "duplicates": 0}
    [row] = feed.lake.read(done.rejected).execute().to_dict("records")
    assert row["reason"] == reason and row["origin"] == "a.csv" and row["raw"]
    if not reason.startswith("line"):
        assert row["row"] == 3
    assert feed.ingest() == done


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12), max_size=12))
@settings(max_examples=25, deadline=None)
def test_counts_add_up_for_any_lines_and_kept_rows_fit_the_contract(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("any")
    feed = Feed(folder, Lake(folder / "lake"))
    feed.add("a.csv", HEAD + "x,2025-03-01,u,1,a\n" + "\n".join(lines) + "\n")
    done = feed.ingest()
    counts = done.counts
    assert counts["read"] == counts["kept"] + counts["rejected"] + counts["duplicates"]
    assert (done.table.rows, done.rejected.rows) == (counts["kept"], counts["rejected"])
    contract(SALES).validate(feed.lake.read(done.table))


def test_json_lines_that_are_no_objects_are_set_aside_and_keys_may_be_absent(feed):
    feed.add(
        "a.jsonl",
        '{"id": 1, "at": "2025-03-01T10:00:00Z", "amount": 2}\n\n{"id": 2, "at": \n[1]\n{"id": "3", "at": "2025-03-01", "kind": "a", "x": {}}\n',
    )
    done = feed.ingest()
    assert done.counts == {"read": 4, "kept": 2, "rejected": 2, "duplicates": 0}
    assert set(reasons(feed, done)[0]) == {'{"id": 2, "at": ', "[1]"}
    assert feed.lake.read(done.table).id.execute().tolist() == ["1", "3"]


def test_parquet_csv_and_json_of_the_same_rows_make_the_same_table(feed, tmp_path):
    frame = pd.DataFrame(
        {
            "id": ["1", "2"],
            "at": pd.to_datetime(["2025-03-01 10:00", "2025-03-02 00:00"]),
            "user": ["ü", None],
            "amount": [0.1, None],
            "kind": ["a", "b"],
        }
    )
    frame.to_parquet(tmp_path / "x.parquet")
    forms = {
        "f.parquet": (tmp_path / "x.parquet").read_bytes(),
        "f.csv": frame.to_csv(index=False),
        "f.jsonl": frame.to_json(orient="records", lines=True, date_format="iso"),
    }
    found = set()
    for name, content in forms.items():
        one = Feed(tmp_path, feed.lake).add(name, content)
        found.add(one.ingest(table=f"p/{name[2:]}").table.digest)
    assert len(found) == 1


def test_other_encodings_separators_and_line_ends_are_read_as_declared(feed, tmp_path, lake):
    text = HEAD + "1,2025-03-01,café,1,a\n2,2025-03-01,x,1,a\n"
    want = feed.add("u.csv", text).ingest().table.digest
    for encoding in ("latin-1", "utf-16"):
        assert (
            Feed(tmp_path, lake, encoding=encoding)
            .add(f"{encoding}.csv", text.encode(encoding))
            .ingest(table=f"p/{encoding}")
            .table.digest
            == want
        )
    assert (
        Feed(tmp_path, lake).add("bom.csv", b"\xef\xbb\xbf" + text.encode()).ingest(table="p/bom").table.digest == want
    )
    assert (
        Feed(tmp_path, lake, separator=";").add("semi.csv", text.replace(",", ";")).ingest(table="p/semi").table.digest
        == want
    )
    for name, old, new in (("crlf", "\n", "\r\n"), ("mixed", "u\n", "u\r\n"), ("mixed2", "kind\n", "kind\r\n")):
        assert (
            Feed(tmp_path, lake).add(f"{name}.csv", text.replace(old, new)).ingest(table=f"p/{name}").table.digest
            == want
        )


def test_a_file_that_is_unreadable_as_a_whole_is_an_error_and_the_table_stays(feed):
    before = days(feed, 1).ingest()
    for name, content, said in (
        ("twice.csv", "id,id,at\n1,2,3\n", "has the column 'id' twice"),
        ("utf16.csv", HEAD.encode("utf-16"), "is not UTF-8"),
        ("no.parquet", b"PAR1 nothing", "cannot be read as parquet"),
        ("cut.csv.gz", b"\x1f\x8b\x08\x00\x00", "cannot be read as csv"),
    ):
        feed.add(name, content)
        with pytest.raises(SourceError, match=said) as raised:
            feed.ingest()
        assert raised.value.where == name and raised.value.next_step
        feed.raws.pop()
    assert feed.ingest() == before


def test_empty_and_header_only_files_of_a_feed_add_nothing(feed):
    days(feed, 1)
    feed.add("empty.csv", "").add("header.csv", HEAD).add("empty.jsonl", "")
    assert feed.ingest().counts == {"read": 5, "kept": 5, "rejected": 0, "duplicates": 0}


def test_nothing_that_fits_is_an_error_that_explains_the_columns(tmp_path, lake):
    from mlloop import ingestion

    problem = Problem.model_validate(
        {
            "name": "toy", "question": "?", "decision": "!", "sources": {"sales": {"kind": "files", "path": "x"}}, "money": {},
            "task": {"kind": "regression", "table": "sales", "target": "amount"}, "rules": [{"name": "r", "meaning": "m", "score": "1"}],
            "success": {"metric": "mae", "threshold": 1.0}, "tables": {"sales": SALES.model_dump()},
        }
    )  # fmt: skip
    (tmp_path / "a.csv").write_text("sale_id,at,amount\n1,2025-03-01,5\n")
    place = type("Place", (), {"state": tmp_path, "validation_engine": "pandera"})()
    batches = {"sales": [{"path": "a.csv", "format": "csv", "origin": "a.csv", "digest": "a", "rows": 1}]}
    with pytest.raises(ContractError, match=r"id is missing .1 rows.*'sale_id' looks like it: was it renamed"):
        ingestion.ingest(problem, batches, NOW, place, lake=lake)


def test_every_kind_of_schema_change_is_explained(feed):
    feed.add("d1.csv", HEAD + "1,2025-03-01,u,1,a\n")
    feed.add("d2.csv", "id,at,user,amount_eur,kind\n2,2025-03-02,u,1,a\n")
    feed.add("d3.csv", "id,at,user,amount,kind,branch\n3,2025-03-03,u,1,a,x\n")
    feed.add("d4.csv", "id,at,amount,kind,branch\n4,2025-03-04,cheap,a,x\n")
    done = feed.ingest()
    found = schema_changes(SALES, feed.raws, feed.lake.read(done.rejected), {f"d{n}.csv": 1 for n in range(1, 5)})
    assert found[["file", "change", "column"]].values.tolist() == [
        ["d2.csv", "renamed", "amount"], ["d3.csv", "renamed", "amount_eur"], ["d3.csv", "new", "branch"],
        ["d4.csv", "missing", "user"], ["d4.csv", "other type", "amount"],
    ]  # fmt: skip


@pytest.mark.parametrize("seconds", [0.15, 0.4, 0.8, 1.2])
def test_a_kill_at_any_moment_is_finished_by_the_next_run(feed, seconds):
    days(feed, 3, rows=9)
    whole = feed.ingest(table="p/whole")
    code = (
        "import os, signal, sys, threading\nsys.path.insert(0, %r)\nfrom pathlib import Path\nfrom test_ingestion import *\n"
        "feed = Feed(Path(%r), Lake(%r))\nfor name in ('d1.csv', 'd2.csv', 'd3.csv'): feed.add(name, (feed.folder / name).read_text())\n"
        "feed.lake.con.raw_sql('SELECT 1')\n"
        "threading.Timer(%r, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()\nfor n in (1, 2, 3): feed.ingest(n)\n"
    )
    code %= (str(Path(__file__).parent), str(feed.folder), feed.lake.uri, seconds)
    subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    done = feed.ingest()
    assert done.counts == whole.counts and done.table.digest == whole.table.digest == digest(feed.lake.read(done.table))


def test_the_example_statement_holds_together():
    assert load(Path(__file__).parent.parent / "docs/examples/online_retail.yaml").name == "online_retail"


RETAIL = Path(os.environ.get("MLLOOP_TEST_DATA", "/nonexistent"), "online_retail")


@pytest.mark.timeout(1800)
@pytest.mark.skipif(not RETAIL.is_dir(), reason="MLLOOP_TEST_DATA does not name a folder with online_retail in it")
def test_online_retail_day_by_day_equals_all_days_at_once_and_the_whole_file(tmp_path, lake):
    """The whole file has the spaces around descriptions taken off and customers without '.0'; the days have not."""
    table = load(Path(__file__).parent.parent / "docs/examples/online_retail.yaml").tables["sales"]
    with tarfile.open(RETAIL / "online_retail_by_day.tar.gz") as packed:
        packed.extractall(tmp_path / "days", filter="data")
    source, as_of = Source(kind="files", path="*"), dt.datetime(2012, 1, 1)
    raws = [RawFile(path, "csv", path.name, source) for path in sorted((tmp_path / "days").rglob("*.csv"))]
    names = [raw.origin for raw in raws]
    whole = ingest_table(
        lake, "r/whole", table, [RawFile(RETAIL / "online_retail.csv.gz", "csv", "whole", source)], ["whole"], as_of
    )
    at_once = ingest_table(lake, "r/at_once", table, raws, names, as_of)
    trimmed = lambda ref: digest(lake.read(ref).mutate(Description=lambda t: t.Description.strip()))
    counts = {"read": 541_909, "kept": 541_907, "rejected": 2, "duplicates": 0}
    assert len(raws) == 305 and whole.counts == at_once.counts == counts
    assert trimmed(at_once.table) == trimmed(whole.table)
    for n in range(1, len(raws) + 1):
        daily = ingest_table(lake, "r/daily", table, raws[:n], names[:n], as_of)
    assert daily.counts == counts and daily.table.digest == at_once.table.digest


@pytest.mark.parametrize("columns", [3, 210])
def test_a_table_of_very_many_columns_is_checked_as_any_other_and_planned_without_quadratic_steps(
    tmp_path, lake, columns
):
    names = [f"c{n}" for n in range(columns)]
    table = Table(source="sales", columns={name: Column(type="number", min=0) for name in names})
    lines = [
        ",".join(names),
        ",".join("1" * columns),
        ",".join(["x", *"1" * (columns - 1)]),
        ",".join(["NA", *"2" * (columns - 1)]),
    ]
    feed = Feed(tmp_path, lake, table).add("a.csv", "\n".join(lines) + "\n")
    done = feed.ingest()
    assert done.counts == {"read": 3, "kept": 2, "rejected": 1, "duplicates": 0}
    assert lake.read(done.rejected)["reason"].execute().tolist() == ["c0 is not a finite number"]
    (setting,) = lake.con.raw_sql("SELECT current_setting('disabled_optimizers')").fetchone()
    assert sorted(filter(None, setting.split(","))) == (["common_subexpressions", "in_clause"] if columns > 200 else [])
