"""The lake under s3://, against a real S3 server on loopback, behind a gate that can be slow, away or break a reply."""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pandas as pd
import pytest

from mlloop.core.errors import LakeError
from mlloop.store import lake as lakes
from mlloop.store.lake import Lake

ROWS = pd.DataFrame({"id": [1, 2, 3], "name": ["view", None, "x\x0b"], "at": pd.to_datetime(["2024-01-01"] * 3)})


class Faults:
    """What the gate before the store does to the next requests, one each; None passes one."""

    def __init__(self, port: int):
        self.url = f"http://127.0.0.1:{port}"

    def _tell(self, faults=None):
        told = None if faults is None else json.dumps(faults).encode()
        request = urllib.request.Request(f"{self.url}/gate", told, method="PUT")
        return json.load(urllib.request.urlopen(request, timeout=10))

    def set(self, *faults):
        self._tell(list(faults))

    def left(self):
        return self._tell()[0]

    def met(self):
        return self._tell()[1]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def started(*command, ready: str):
    """A server that answers a PUT to `ready`, ended with the block."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(urllib.request.Request(ready, method="PUT"), timeout=5)
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        else:
            pytest.fail(f"{command} did not start")
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server():
    """The port of an S3 server that holds an empty bucket."""
    if importlib.util.find_spec("moto") is None:
        pytest.skip("needs an S3 server: pip install 'mlloop[objectstore]'")
    port = str(free_port())
    with started("-m", "moto.server", "-H", "127.0.0.1", "-p", port, ready=f"http://127.0.0.1:{port}/bucket"):
        yield port


@pytest.fixture
def gate(server, monkeypatch):
    port = free_port()
    for name in [name for name in os.environ if name.startswith(lakes.CLOUD)]:
        monkeypatch.delenv(name)
    given = {"ENDPOINT_URL": f"http://127.0.0.1:{port}", "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y",
             "REGION": "us-east-1", "ALLOW_HTTP": "true"}  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    script = str(Path(__file__).with_name("store_gate.py"))
    with started(script, str(port), server, ready=f"http://127.0.0.1:{port}/gate"):
        yield Faults(port)


@pytest.fixture
def lake(gate):
    return Lake(f"s3://bucket/{uuid.uuid4().hex}")


def test_a_table_on_s3_has_the_digests_and_versions_of_one_on_a_disk(lake, tmp_path):
    disk, refs = Lake(tmp_path / "lake"), []
    for one in (disk, lake):
        assert not one.exists("p/rows")
        first = one.write("p/rows", ROWS)
        assert one.write("p/rows", ROWS[::-1]) == first
        second = one.write("p/rows", ROWS, "append", batches=["day 2"])
        assert one.write("p/rows", ROWS, "append", batches=["day 2"]) == second
        derived = one.read(first).mutate(long=lambda t: t.name.length()).join(one.read(second), "id")
        refs.append((first, second, one.write("p/derived", derived), one.restore("p/rows", 0)))
        assert one.read(first).order_by("id").to_pandas()["name"].tolist()[::2] == ["view", "x\x0b"]
        assert one.names("p") == ["p/derived", "p/rows"] and one.names("q") == []
        assert [entry["batches"] for entry in one.history("p/rows")] == [[], ["day 2"], []]
    assert refs[0] == refs[1]


def test_writers_at_once_are_all_there_on_s3(lake):
    lake.write("p/rows", ROWS)

    def append(number):
        one = ROWS.assign(id=number + 10)
        for _ in range(20):
            try:
                return lake.write("p/rows", one, "append", batches=[f"batch {number}"])
            except LakeError as error:
                assert "another writer" in str(error)

    threads = [threading.Thread(target=append, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert lake.ref("p/rows").rows == 15 and lake.read("p/rows").to_pandas()["id"].nunique() == 7


@pytest.mark.parametrize("fault", [503, "slow", "gone"])
def test_a_fault_that_passes_is_waited_out(lake, gate, fault):
    first = lake.write("p/rows", ROWS)
    for what in (
        lambda: lake.write("p/rows", ROWS, "append", batches=[f"{fault}"]),
        lambda: lake.read(first).to_pandas(),
    ):
        gate.set(fault, None, fault)
        found = what()
        assert not gate.left()
    assert gate.met().count(fault) == 4 and len(found) == 3 and lake.ref("p/rows").rows == 6


def test_a_store_that_is_gone_is_named_with_the_next_step(lake, gate, monkeypatch):
    ref = lake.write("p/rows", ROWS)
    monkeypatch.setattr(lakes, "PATIENCE", {**lakes.PATIENCE, "max_retries": "1"})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    calls = [lambda: lake.exists("p/rows"), lambda: lake.read(ref), lambda: lake.ref("p/rows", 0), lambda: lake.names("p"),
             lambda: lake.write("p/rows", ROWS), lambda: lake.history("p/rows")]  # fmt: skip
    for call in calls:
        with pytest.raises(
            LakeError, match=r"s3://bucket/.*: the object store does not give .*\n.*\[lake\] uri.* mlloop run"
        ) as met:
            call()
        assert "\x1b" not in str(met.value)


def test_a_store_that_refuses_is_named_and_what_is_not_there_is_not_blamed_on_it(lake, gate, monkeypatch):
    ref = lake.write("p/rows", ROWS)
    with pytest.raises(LakeError, match="there is no table 'p/none' \\(there are: p/rows\\)"):
        lake.read("p/none")
    with pytest.raises(LakeError, match="has no version 7 \\(versions: 0 to 0\\)"):
        lake.read("p/rows", 7)
    gate.set(*[503] * 200)
    monkeypatch.setattr(lakes, "PATIENCE", {**lakes.PATIENCE, "max_retries": "1"})
    with pytest.raises(LakeError, match=r"object store .*Generic S3 error"):
        lake.read(ref)
    gate.set()
    with pytest.raises(LakeError, match=r"object store|cannot be written"):
        Lake("s3://nobucket/lake").write("p/rows", ROWS)


def test_a_reply_that_breaks_off_is_named_and_the_same_batch_is_written_once(lake, gate):
    lake.write("p/rows", ROWS)
    append = lambda: lake.write("p/rows", ROWS, "append", batches=["day 2"])
    for place in range(6):
        gate.set(*[None] * place, "cut")
        with contextlib.suppress(LakeError):
            append()
    assert gate.met().count("cut") == 6 and append().rows == 6


def test_nothing_of_a_store_is_asked_of_a_disk(tmp_path):
    assert lakes.storage_options(str(tmp_path)) is None and lakes.storage_options("file:///x") is None
    assert lakes.storage_options("s3://bucket/lake")["max_retries"] == "8"
    assert Lake(tmp_path).names("p") == []
