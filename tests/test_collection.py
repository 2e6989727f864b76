"""Collection: every kind of source, incrementally, and every way in which one can fail."""

import datetime as dt
import gzip
import http.server
import json
import os
import sqlite3
import subprocess
import sys
import threading
import uuid

import pyarrow.parquet as pq
import pytest

from mlloop.collection import RawStore, collect, external_files, fetch_files, fetch_http, fetch_nannyml, fetch_sql
from mlloop.core.errors import SourceError
from mlloop.core.settings import Settings
from mlloop.core.storage import digest_file
from mlloop.problem import Problem, Source

NOW = dt.datetime(2025, 4, 1)


@pytest.fixture
def place(tmp_path):
    return Settings(
        root=tmp_path, lake_uri=str(tmp_path / "lake"), ledger_url="", tracking_url="", artifacts_uri="", engine="duckdb", engine_memory="",
        engine_threads=None, kernel_pool="fresh", kernels_ahead=0, keep_minutes=1.0, problems=tmp_path, notebooks=tmp_path,
        state=tmp_path / ".mlloop", reports=tmp_path,
    )  # fmt: skip


def store(place, source):
    return RawStore(place, "toy", "rows", source)


def statement(sources, **more):
    first = next(iter(sources))
    return Problem.model_validate(
        {
            "name": "toy", "question": "?", "decision": "!", "sources": sources, "money": {}, "rules": [{"name": "r", "meaning": "m", "score": "1"}],
            "task": {"kind": "regression", "table": "t", "target": "n"}, "success": {"metric": "mae", "threshold": 1.0},
            "tables": {"t": {"source": first, "columns": {"n": {"type": "number"}}}},
        } | more
    )  # fmt: skip


def test_bytes_are_copied_as_they_are_whatever_they_are(place, tmp_path):
    content = {
        "a.csv": b"x\xff\n1\n",
        "b.csv.gz": gzip.compress(b"x\n1\n2\n", mtime=0),
        "c.jsonl": b'{"x": 1}\nbroken',
        "d.tsv": b"x\n1\n",
    }
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    for name, data in content.items():
        source = Source(kind="files", path=name)
        [batch] = fetch_files(source, store(place, source), NOW, place)
        assert (place.state / batch.path).read_bytes() == data and batch.digest == digest_file(tmp_path / name)
        assert batch.rows == {"a.csv": 1, "b.csv.gz": 2, "c.jsonl": 2, "d.tsv": 1}[name]


def test_a_files_name_may_hold_anything_that_is_text(place, tmp_path):
    names = ["a\nb.csv", "<script>alert(1)<script>.csv", "quote' and \".csv", "ümläut 日.csv"]
    for number, name in enumerate(names):
        (tmp_path / name).write_text(f"x\n{number}\n")
    source = Source(kind="files", path="*.csv")
    batches = fetch_files(source, store(place, source), NOW, place)
    assert sum(batch.rows for batch in batches) == 4 and all("\n" not in str(batch.path) for batch in batches)
    (tmp_path / os.fsdecode(b"\xff\xfe.csv")).write_text("x\n4\n")
    with pytest.raises(SourceError, match="has a name that is not UTF-8 text") as error:
        fetch_files(source, store(place, source), NOW, place)
    assert "\\udcff\\udcfe.csv" in str(error.value) and str(error.value).isascii()


def test_only_new_files_are_read_and_a_changed_one_replaces_the_old(place, tmp_path, monkeypatch):
    source = Source(kind="files", path="feed/*.csv")
    (tmp_path / "feed").mkdir()
    (tmp_path / "feed/2025-03-01.csv").write_text("x\n1\n")
    statement_ = statement({"rows": source.model_dump()})
    first = collect(statement_, NOW, place)["rows"]
    copied = []
    import shutil

    real = shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", lambda a, b: copied.append(a.name) or real(a, b))
    (tmp_path / "feed/2025-03-02.csv").write_text("x\n2\n")
    second = collect(statement_, NOW, place)["rows"]
    assert copied == ["2025-03-02.csv"] and second[0] == first[0] and len(second) == 2
    (tmp_path / "feed/2025-03-01.csv").write_text("x\n1\n9\n")
    third = collect(statement_, NOW, place)["rows"]
    assert third[0].digest != first[0].digest and third[1] == second[1]
    assert (place.state / first[0].path).read_text() == "x\n1\n"


def test_a_file_named_by_day_is_not_there_before_its_day_is_over(place, tmp_path):
    for day in (1, 2, 3):
        (tmp_path / f"feed-2025-03-0{day}.csv").write_text("x\n1\n")
    source = Source(kind="files", path="feed-*.csv")
    count = lambda moment: len(fetch_files(source, store(place, source), moment, place))
    assert [count(dt.datetime(2025, 3, d, h)) for d, h in ((1, 23), (2, 0), (3, 12), (4, 0))] == [0, 1, 2, 3]


@pytest.fixture
def till(tmp_path):
    with sqlite3.connect(tmp_path / "till.db") as con:
        con.execute("CREATE TABLE sold (id INTEGER, at TEXT, price)")
        rows = [(n, f"2025-03-{1 + n // 10:02d}T{n % 10:02d}:00:00", n * 1.5 if n % 7 else "free") for n in range(100)]
        con.executemany("INSERT INTO sold VALUES (?, ?, ?)", rows)
    return Source(kind="sql", url="sqlite:///till.db", table="sold", watermark="at")


def ids(place, batches):
    return [i for batch in batches for i in pq.read_table(place.state / batch.path)["id"].to_pylist()]


def test_a_database_is_fetched_by_windows_and_each_moment_sees_the_same_rows_again(place, till):
    problem = statement({"till": till.model_dump()})
    at = lambda day, hour=0: collect(problem, dt.datetime(2025, 3, day, hour), place)["till"]
    early, late = at(3), at(6)
    assert [b.rows for b in late] == [20, 30] and ids(place, late) == list(range(50))
    assert at(3) == early and at(6) == late
    between = at(4, 5)
    assert ids(place, between) == list(range(35)) and between[0] == early[0]
    assert at(4, 5) == between and at(6) == late


def test_the_same_moment_fetches_nothing(place, till, tmp_path):
    problem = statement({"till": till.model_dump()})
    first = collect(problem, NOW, place)
    (tmp_path / "till.db").rename(tmp_path / "gone.db")
    with pytest.raises(SourceError, match="no such database"):
        collect(problem, NOW + dt.timedelta(days=1), place)
    (tmp_path / "gone.db").rename(tmp_path / "till.db")
    assert collect(problem, NOW, place) == first


def test_a_table_without_watermark_is_read_whole_and_changes_by_content(place, till, tmp_path):
    source = till.model_copy(update={"watermark": None})
    kept = store(place, source)
    [first] = fetch_sql(source, kept, NOW, place)
    assert fetch_sql(source, kept, NOW, place) == [first]
    with sqlite3.connect(tmp_path / "till.db") as con:
        con.execute("DELETE FROM sold WHERE id = 0")
    [second] = fetch_sql(source, kept, NOW, place)
    assert (first.rows, second.rows) == (100, 99) and second.digest != first.digest


def test_a_column_of_mixed_types_is_kept_as_text_over_many_chunks(place, till, monkeypatch):
    monkeypatch.setattr("mlloop.collection.CHUNK_ROWS", 6)
    [batch] = fetch_sql(till, store(place, till), NOW, place)
    table = pq.read_table(place.state / batch.path)
    assert table["price"].to_pylist()[:3] == ["free", "1.5", "3.0"] and table["id"].to_pylist() == list(range(100))


def test_a_query_and_its_watermark(place, till):
    source = Source(
        kind="sql", url="sqlite:///till.db", query="SELECT id, at FROM sold WHERE id % 2 = 0", watermark="at"
    )
    [batch] = fetch_sql(source, store(place, source), dt.datetime(2025, 3, 2), place)
    assert ids(place, [batch]) == [0, 2, 4, 6, 8]


POSTGRES = os.environ.get("MLLOOP_TEST_POSTGRES")


@pytest.mark.skipif(not POSTGRES, reason="MLLOOP_TEST_POSTGRES does not hold the URL of a Postgres database to use")
def test_postgres_gives_windows_and_the_values_of_its_own_types(place):
    import sqlalchemy as sa

    name = f"sold_{uuid.uuid4().hex[:8]}"
    admin = sa.create_engine(sa.make_url(POSTGRES).set(drivername="postgresql+psycopg"), poolclass=sa.pool.NullPool)
    made = f"CREATE TABLE {name} AS SELECT n AS id, timestamptz '2025-03-01 00:00+00' + n * interval '6 hours' AS at,"
    made += " (n * 1.25)::numeric(10, 2) AS price, ('{\"n\": ' || n || '}')::jsonb AS note, NULLIF(mod(n, 3), 0) AS maybe FROM generate_series(0, 19) n"
    with admin.begin() as connection:
        connection.exec_driver_sql(made)
    try:
        problem = statement({"till": {"kind": "sql", "url": POSTGRES, "table": name, "watermark": "at"}})
        early, late = (collect(problem, dt.datetime(2025, 3, day), place)["till"] for day in (2, 4))
        assert ids(place, early) == [0, 1, 2, 3] and [b.rows for b in late] == [4, 8] and late[0] == early[0]
        table = pq.read_table(place.state / late[1].path)
        assert table["price"].to_pylist()[:2] == ["5.00", "6.25"] and table["note"].to_pylist()[0] == '{"n": 4}'
        assert table["maybe"].to_pylist()[:3] == [1, 2, None] and str(table["at"][0].as_py()).startswith(
            "2025-03-02 00:00:00"
        )
        wrong = Source(kind="sql", url=POSTGRES, table="not_there")
        with pytest.raises(SourceError, match='relation "not_there" does not exist'):
            fetch_sql(wrong, store(place, wrong), NOW, place)
    finally:
        with admin.begin() as connection:
            connection.exec_driver_sql(f"DROP TABLE {name}")


def test_source_time_and_digest_of_what_was_fetched_are_kept(place, till):
    collect(statement({"till": till.model_dump()}), dt.datetime(2025, 3, 3), place)
    kept = json.loads((place.state / "raw/toy/till/manifest.json").read_text())
    [(name, batch)] = kept["batches"].items()
    assert batch["origin"] == "sold" and len(batch["digest"]) == 64 and batch["watermark"] == "2025-03-03T00:00:00"
    assert dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(kept["fetched"][name]) < dt.timedelta(minutes=5)


class Service(http.server.ThreadingHTTPServer):
    """Pages of rows at /rows?page=N; fails as told before it answers."""

    def __init__(self, failures=(), pages=3):
        self.failures, self.pages, self.asked, self.tokens = list(failures), pages, [], []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}/rows"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.tokens.append(self.headers.get("Authorization"))
        failure = self.server.failures.pop(0) if self.server.failures else None
        if failure == "drop":
            self.connection.close()
            return
        page = int(self.path.split("page=")[1]) if "page=" in self.path else 1
        rows = [{"id": page * 10 + n, "at": f"2025-03-{page:02d}T0{n}:00:00"} for n in range(3)]
        following = f"/rows?page={page + 1}" if page < self.server.pages else None
        body = json.dumps({"data": rows, "links": {"next": following}}).encode()
        self.send_response(failure if isinstance(failure, int) else 200)
        self.end_headers()
        self.wfile.write(b"<html>" if failure == "html" else b'{"data": 3}' if failure == "shape" else body)

    def log_message(self, *line):
        pass


def web(service, **more):
    return Source(kind="http", url=service.url, records="data", next_page="links.next", **more)


def test_pages_are_followed_and_what_may_pass_is_tried_again(place):
    service = Service([503, "drop", 429])
    source = web(service, headers={"Authorization": "Bearer ${TOY_TOKEN}"})
    os.environ["TOY_TOKEN"] = "secret"
    [batch] = fetch_http(source, store(place, source), NOW, place)
    rows = [json.loads(line) for line in (place.state / batch.path).read_text().splitlines()]
    assert [row["id"] for row in rows] == [10, 11, 12, 20, 21, 22, 30, 31, 32] and batch.rows == 9
    assert len(service.asked) == 6 and set(service.tokens) == {"Bearer secret"}


def test_a_service_with_a_watermark_gives_windows(place):
    source = web(Service(), watermark="at")
    kept = store(place, source)
    first = kept.remember(dt.datetime(2025, 3, 2), fetch_http(source, kept, dt.datetime(2025, 3, 2), place))
    both = fetch_http(source, kept, dt.datetime(2025, 3, 3), place)
    assert [b.rows for b in both] == [3, 3] and both[0] == first[0]


@pytest.mark.parametrize(
    ("failures", "said", "asked"),
    [
        ([404], "answered 404", 1),
        ([401], "answered 401", 1),
        ([503] * 5, "answered 503", 5),
        (["html"], "not JSON", 1),
        (["shape"], "expected a list of objects", 1),
    ],
)
def test_a_service_that_fails_is_told_with_its_answer(place, failures, said, asked, monkeypatch):
    service = Service(failures)
    with pytest.raises(SourceError, match=said) as raised:
        fetch_http(web(service), store(place, web(service)), NOW, place)
    assert len(service.asked) == asked and raised.value.where == service.url
    assert not list((place.state / "raw").rglob("*.jsonl"))


def test_nothing_listens_there(place):
    source = Source(kind="http", url="http://127.0.0.1:9/rows")
    with pytest.raises(SourceError, match="cannot be reached"):
        fetch_http(source, store(place, source), NOW, place)


def test_the_census_is_whole_and_each_moment_sees_its_own_rows(place):
    source = Source(kind="nannyml", dataset="us_census_ma_employment", watermark="observed_at")
    kept = store(place, source)
    first = kept.remember(dt.datetime(2016, 1, 1), fetch_nannyml(source, kept, dt.datetime(2016, 1, 1), place))
    all_ = fetch_nannyml(source, kept, dt.datetime(2030, 1, 1), place)
    assert [b.rows for b in all_] == [68_785, 208_892] and all_[0] == first[0]
    later = pq.read_table(place.state / all_[1].path, columns=["employed", "year", "observed_at"]).to_pandas()
    assert later.employed.isin([0, 1]).all() and (later.observed_at.dt.year == later.year).all()
    assert later.observed_at.is_monotonic_increasing


def test_external_files_are_those_of_the_user_alone_and_cost_no_heavy_import(place, tmp_path):
    (tmp_path / "a.csv").write_text("x\n")
    (tmp_path / "shop.db").touch()
    problem = statement(
        {
            "files": {"kind": "files", "path": "*.csv"}, "base": {"kind": "sql", "url": "sqlite:///shop.db", "table": "t"},
            "world": {"kind": "files", "path": "{state}/world/toy/clicks/*.jsonl"}, "web": {"kind": "http", "url": "http://x.org"},
        },
        simulator={"start": "2025-03-03"},
    )  # fmt: skip
    (place.state / "world/toy/clicks").mkdir(parents=True)
    (place.state / "world/toy/clicks/2025-03-03.jsonl").touch()
    assert external_files(problem, place) == [tmp_path / "a.csv", tmp_path / "shop.db"]
    code = "import sys, mlloop.collection; print(sorted({'pandas', 'sqlalchemy', 'httpx', 'pyarrow', 'ibis', 'numpy'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.parametrize(
    ("name", "content", "path", "said"),
    [
        ("loans.csv", b"x\n1\n", "laons.csv", r"no file matches \(the folder holds .*loans.csv"),
        ("empty.csv", b"", "empty.csv", "is empty"),
        ("header.csv", b"x,y\n", "header.csv", "is empty"),
        ("short.csv.gz", gzip.compress(b"x\n1\n", mtime=0)[:-6], "short.csv.gz", "cut short"),
        ("no.gz.csv.gz", b"x\n1\n", "no.gz.csv.gz", "is not what its name says"),
        ("not.parquet", b"x\n1\n", "not.parquet", "is not what its name says"),
        ("rows.xyz", b"x\n1\n", "rows.xyz", "cannot tell the format"),
    ],
)
def test_a_file_that_cannot_be_taken_is_told_and_nothing_is_left(place, tmp_path, name, content, path, said):
    (tmp_path / name).write_bytes(content)
    source = Source(kind="files", path=path)
    with pytest.raises(SourceError, match=said) as raised:
        fetch_files(source, store(place, source), NOW, place)
    assert raised.value.next_step and "mlloop" in raised.value.next_step
    assert not [p for p in (place.state / "raw").rglob("*part*")]


def as_nobody(code: str) -> subprocess.CompletedProcess:
    """Run code as a user without rights (root may read everything)."""
    drop = "import os\nif os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
    return subprocess.run(
        [sys.executable, "-c", code.replace("#drop", drop)], capture_output=True, text=True, check=False
    )


def test_files_without_permission_and_folders_without_are_told(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "secret.csv").write_text("x\n1\n")
    (tmp_path / "secret.csv").chmod(0)
    (tmp_path / "open.csv").write_text("x\n1\n")
    code = f"""
from pathlib import Path
import shutil, datetime as dt
from mlloop.collection import RawStore, fetch_files
from mlloop.core.errors import MlloopError
from mlloop.problem import Source
from mlloop.core.settings import Settings
home = Path({str(tmp_path)!r})
#drop
for state, path in ((Path('/tmp/mlloop-nobody'), 'secret.csv'), (home / 'denied', 'open.csv')):
    place = Settings(home, '', '', '', '', 'duckdb', '', None, 'fresh', 0, 1.0, home, home, state, home)
    source = Source(kind='files', path=path)
    try:
        fetch_files(source, RawStore(place, 'toy', 'rows', source), dt.datetime(2025, 4, 1), place)
        print('taken')
    except MlloopError as error:
        print(str(error).replace(chr(10), ' '))
shutil.rmtree('/tmp/mlloop-nobody', ignore_errors=True)
"""
    for parent in tmp_path.parents:
        if str(parent).startswith("/tmp/pytest"):
            parent.chmod(0o755)
    done = as_nobody(code)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    assert "may not be read: no permission" in lines[0] and "cannot be written: Permission denied" in lines[1]


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here (unshare -rm)")
    (tmp_path / "big.csv").write_bytes(b"x\n" + b"1\n" * 1_000_000)
    (tmp_path / "disk").mkdir()
    code = f"""
from pathlib import Path
import datetime as dt
from mlloop.collection import RawStore, fetch_files
from mlloop.core.errors import MlloopError
from mlloop.problem import Source
from mlloop.core.settings import Settings
home = Path({str(tmp_path)!r})
place = Settings(home, '', '', '', '', 'duckdb', '', None, 'fresh', 0, 1.0, home, home, home / 'disk', home)
source = Source(kind='files', path='big.csv')
try:
    fetch_files(source, RawStore(place, 'toy', 'rows', source), dt.datetime(2025, 4, 1), place)
except MlloopError as error:
    print(str(error).replace(chr(10), ' '), [p.name for p in (home / 'disk').rglob('*') if p.is_file()])
"""
    (tmp_path / "full.py").write_text(code)
    shell = f"mount -t tmpfs -o size=1m none {tmp_path}/disk && {sys.executable} {tmp_path}/full.py"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", shell], capture_output=True, text=True, check=False)
    assert "cannot be written: No space left on device" in done.stdout and done.stdout.strip().endswith("[]"), (
        done.stderr
    )
