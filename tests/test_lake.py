"""The lake: content digests, versions, atomic appends, and errors that say what to do."""

import datetime as dt
import shutil
import subprocess
import sys
import threading

import ibis
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlloop.core.errors import LakeError, SettingsError
from mlloop.core.settings import Settings
from mlloop.store.lake import Lake, TableRef, connect, digest

ROWS = pa.table(
    {
        "id": [1, 2, None],
        "name": ["x", None, "y|z"],
        "at": pa.array([dt.datetime(2020, 1, 1), None, dt.datetime(2021, 1, 1, 1, 2, 3)], pa.timestamp("ns")),
    }
)


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path / "lake")


def test_same_rows_in_another_order_make_no_second_version(lake):
    first = lake.write("p/t", ROWS)
    assert lake.write("p/t", ROWS.take([2, 0, 1])) == first
    assert len(lake.history("p/t")) == 1


def test_parts_of_a_microsecond_are_refused_with_the_column_and_a_way_out(lake):
    exact = pd.DataFrame({"id": [1], "at": pd.to_datetime(["2024-05-01 08:00:00.000000123"])})
    with pytest.raises(LakeError, match=r"column 'at' holds parts of a microsecond(.|\n)*dt\.floor\('us'\)"):
        lake.write("p/fine", exact)
    lake.write("p/fine", exact.assign(at=exact["at"].dt.floor("us")))
    assert lake.read("p/fine").to_pandas()["at"].tolist() == [pd.Timestamp("2024-05-01 08:00:00")]


def test_other_content_makes_a_version_and_the_old_one_stays_readable(lake):
    first = lake.write("p/t", ROWS)
    second = lake.write("p/t", ROWS.slice(0, 1))
    assert (first.version, second.version, second.rows) == (0, 1, 1)
    assert lake.read(first).count().execute() == 3
    assert lake.read(second.to_dict()).count().execute() == 1
    assert lake.ref("p/t", 0) == first


@pytest.mark.parametrize(
    "other",
    [
        ROWS.rename_columns(["id", "label", "at"]),
        ROWS.set_column(0, "id", ROWS["id"].cast(pa.float64())),
        pa.concat_tables([ROWS, ROWS.slice(0, 1)]),
        ROWS.set_column(1, "name", pa.array(["x", "", "y|z"])),
        ROWS.set_column(1, "name", pa.array(["x", "~", "y|z"])),
        ROWS.set_column(0, "id", pa.array([2, 1, None])),
    ],
    ids=[
        "name",
        "type",
        "duplicate row",
        "empty text for null",
        "text that looks like null",
        "values swapped between rows",
    ],
)
def test_digest_sees_every_kind_of_difference(other):
    assert digest(other) != digest(ROWS)


@given(
    st.lists(st.tuples(st.text(alphabet="ab|:~1", max_size=3), st.text(alphabet="ab|:~1", max_size=3)), max_size=4),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_digest_depends_on_the_multiset_of_rows_alone(rows, data):
    table = lambda pairs: pa.table(
        {"a": pa.array([a for a, _ in pairs], pa.string()), "b": pa.array([b for _, b in pairs], pa.string())}
    )
    other = data.draw(
        st.one_of(
            st.permutations(rows),
            st.lists(st.tuples(st.text("ab|:~1", max_size=3), st.text("ab|:~1", max_size=3)), max_size=4),
        )
    )
    assert (digest(table(rows)) == digest(table(other))) == (sorted(rows) == sorted(other))


def test_digest_is_the_same_from_arrow_pandas_and_the_engine(lake):
    ref = lake.write("p/t", ROWS)
    frame = ROWS.to_pandas().assign(id=lambda f: f.id.astype("Int64"))
    assert digest(ROWS) == digest(frame) == digest(lake.read(ref)) == ref.digest


def test_digest_after_appends_equals_that_of_the_whole(lake):
    for row in range(3):
        grown = lake.write("p/t", ROWS.slice(row, 1), mode="append")
    assert grown.rows == 3 and grown.digest == digest(ROWS)
    assert lake.ref("p/t", 1).digest == digest(ROWS.slice(0, 2))


def test_versions_another_program_wrote_are_digested_from_their_rows(lake):
    from deltalake import write_deltalake

    lake.write("p/t", ROWS.slice(0, 1))
    write_deltalake(
        lake.where("p/t"),
        ROWS.slice(1).cast(pa.schema([("id", pa.int64()), ("name", pa.string()), ("at", pa.timestamp("us"))])),
        mode="append",
    )
    assert lake.ref("p/t").digest == digest(ROWS) and lake.ref("p/t").rows == 3


def test_same_batch_twice_is_appended_once(lake):
    lake.write("p/t", ROWS.slice(0, 1), batches=["b1"])
    once = lake.write("p/t", ROWS.slice(1), mode="append", batches=["b2"])
    assert lake.write("p/t", ROWS.slice(1), mode="append", batches=["b2"]) == once
    assert lake.has_batch("p/t", "b2") and not lake.has_batch("p/t", "b3")


def test_an_append_of_no_rows_adds_no_version(lake):
    first = lake.write("p/t", ROWS)
    assert lake.write("p/t", ROWS.slice(0, 0), mode="append") == first


def test_an_empty_table_keeps_its_columns(lake):
    ref = lake.write("p/t", ROWS.slice(0, 0))
    assert lake.read(ref).columns == ("id", "name", "at") and lake.read(ref).count().execute() == 0


def test_restore_brings_an_earlier_version_back_with_its_notes(lake):
    lake.write("p/t", ROWS, notes={"state": "old"})
    lake.write("p/t", ROWS.slice(0, 1), notes={"state": "new"})
    back = lake.restore("p/t", 0)
    assert (back.version, back.rows, back.digest) == (2, 3, digest(ROWS))
    assert lake.history("p/t", 1)[0]["notes"] == {"state": "old"}


def test_appends_by_many_writers_at_once_are_all_there(lake):
    lake.write("p/t", pa.table({"n": [-1]}))
    failed = []

    def append(number):
        try:
            Lake(lake.uri).write("p/t", pa.table({"n": [number]}), mode="append")
        except LakeError as error:
            failed.append(error)

    threads = [threading.Thread(target=append, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    ref = lake.ref("p/t")
    assert not failed and ref.rows == 9
    assert ref.digest == digest(pa.table({"n": range(-1, 8)})) == digest(lake.read(ref))


@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.6])
def test_a_killed_writer_leaves_a_whole_version(lake, seconds):
    before = lake.write("p/t", pa.table({"n": range(10)}))
    code = (
        "import os, signal, threading, pyarrow as pa\nfrom mlloop.store.lake import Lake\n"
        f"lake, seconds = Lake({lake.uri!r}), {seconds}\n"
        "threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()\n"
        "while True:\n    lake.write('p/t', pa.table({'n': range(3_000_000)}))\n    lake.write('p/t', pa.table({'n': range(10)}))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    after = lake.ref("p/t")
    assert after.digest in (before.digest, digest(pa.table({"n": range(3_000_000)})))
    assert digest(lake.read(after)) == after.digest


def test_an_engine_table_is_written_without_passing_through_python(lake):
    con = lake.con
    con.raw_sql("CREATE TEMP VIEW big AS SELECT i AS n, 'row ' || i AS name FROM range(300000) r(i)")
    ref = lake.write("p/t", con.table("big"))
    assert ref.rows == 300_000 and lake.read(ref).n.sum().execute() == 299_999 * 150_000


def test_awkward_types_are_stored_as_what_delta_has(lake):
    frame = pd.DataFrame(
        {
            "category": pd.Categorical(["a", "b"]),
            "aware": pd.to_datetime(["2020-01-01T01:00+01:00", None], utc=True),
            "small": pd.array([1, 2], dtype="UInt8"),
            "nothing": [None, None],
        }
    )
    read = lake.read(lake.write("p/t", frame))
    assert {name: str(kind) for name, kind in read.schema().items()} == {
        "category": "string", "aware": "timestamp(6)", "small": "int16", "nothing": "string",
    }  # fmt: skip
    assert read.aware.max().execute() == pd.Timestamp("2020-01-01")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda lake: lake.read("p/tt"), r"no table 'p/tt' \(there are: p/t\)"),
        (lambda lake: lake.read("p/t", 7), r"has no version 7 \(versions: 0 to 0\)"),
        (lambda lake: lake.read("p/t", -1), r"has no version -1 \(versions: 0 to 0\)"),
        (lambda lake: lake.write("p/t", ROWS.drop(["name"]), mode="append"), "column 'name' is missing"),
        (lambda lake: lake.write("p/t", ROWS.append_column("new", ROWS["id"]), mode="append"), "column 'new' is not in the table"),
        (lambda lake: lake.write("p/t", ROWS.set_column(0, "id", pa.array(["1", "2", "3"])), mode="append"), "'id' is string, the table has int64"),
        (lambda lake: lake.write("p/u", pa.table({"d": pa.array([1], pa.duration("s"))})), "column 'd' is of type duration"),
    ],
)  # fmt: skip
def test_errors_say_what_and_where_and_what_next(lake, call, said):
    lake.write("p/t", ROWS)
    with pytest.raises(LakeError, match=said) as raised:
        call(lake)
    assert raised.value.where and raised.value.next_step


def test_a_version_whose_files_are_gone_is_told(lake, tmp_path):
    ref = lake.write("p/t", ROWS)
    for file in (tmp_path / "lake/p/t").glob("*.parquet"):
        file.unlink()
    with pytest.raises(LakeError, match="version 0 cannot be read"):
        lake.read(ref)


def test_the_reference_survives_json():
    ref = TableRef("p/t", "/lake/p/t", 3, 10, "ab")
    assert TableRef.from_dict(ref.to_dict() | {"more": 1}) == ref


def settings_of(folder, **engine):
    fields = {"engine": "duckdb", "engine_memory": "", "engine_threads": None} | engine
    return Settings(
        root=folder, lake_uri=str(folder / "lake"), ledger_url="", tracking_url="", artifacts_uri="", kernel_pool="fresh", kernels_ahead=0,
        keep_minutes=1.0, problems=folder, notebooks=folder, state=folder, reports=folder, **fields,
    )  # fmt: skip


def test_the_engine_keeps_to_the_memory_and_threads_of_the_settings(tmp_path):
    con = connect(settings_of(tmp_path, engine_memory="1GB", engine_threads=1))
    asked = con.raw_sql(
        "SELECT current_setting('threads'), current_setting('memory_limit'), current_setting('TimeZone')"
    ).fetchone()
    assert asked == (1, "953.6 MiB", "UTC")
    assert connect(settings_of(tmp_path, engine_memory="1GB", engine_threads=1)) is con


def test_a_memory_bound_that_is_none_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="engine"):
        connect(settings_of(tmp_path, engine_memory="lots"))


def test_spark_without_pyspark_says_what_to_install(tmp_path):
    try:
        import pyspark  # noqa: F401
    except ImportError:
        with pytest.raises(SettingsError, match=r"mlloop\[spark\]"):
            connect(settings_of(tmp_path, engine="spark"))
    else:
        pytest.skip("pyspark is installed here")


def test_the_engine_can_join_two_references(lake):
    left = lake.read(lake.write("p/l", pa.table({"k": [1, 2], "a": ["x", "y"]})))
    right = lake.read(lake.write("p/r", pa.table({"k": [2], "b": [5]})))
    assert left.join(right, "k").select("a", "b").execute().to_dict("list") == {"a": ["y"], "b": [5]}
    assert isinstance(left, ibis.Table)


def test_a_copied_lake_is_read_from_where_it_is(tmp_path):
    ref = Lake(tmp_path / "lake").write("p/t", ROWS)
    assert ref.uri == "p/t" and str(tmp_path) not in str(ref.to_dict())
    shutil.copytree(tmp_path / "lake", tmp_path / "copy")
    Lake(tmp_path / "lake").write("p/t", pa.table({"other": [1]}))
    former = TableRef(ref.name, str(tmp_path / "lake/p/t"), ref.version, ref.rows, ref.digest)  # as products had it
    shutil.rmtree(tmp_path / "lake")
    for one in (ref, former):
        assert Lake(tmp_path / "copy").read(one).count().to_pandas() == ref.rows


def test_a_table_outside_the_lake_is_read_where_a_product_of_an_earlier_form_says(tmp_path):
    ref = Lake(tmp_path / "elsewhere").write("p/t", ROWS)
    former = TableRef(ref.name, str(tmp_path / "elsewhere/p/t"), ref.version, ref.rows, ref.digest)
    assert Lake(tmp_path / "lake").read(former).count().to_pandas() == ref.rows


def test_what_the_engine_shows_of_its_progress_does_not_reach_stdout(tmp_path):
    code = (
        "from mlloop.core.settings import load; from mlloop.store.lake import connect; from pathlib import Path; import sys;"
        "con = connect(load(Path(sys.argv[1])));"
        "print(con.raw_sql(\"SELECT current_setting('enable_progress_bar')\").fetchall())"
    )
    for name in ("settings.ini", "pipeline.yaml"):
        (tmp_path / name).touch()
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[(False,)]\n", "under `python -c` DuckDB turns it on"
