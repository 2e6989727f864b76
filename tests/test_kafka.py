"""Topics as sources: each message lands once, whatever dies; what cannot be read or is late is set aside and counted."""

import dataclasses
import datetime as dt
import importlib.util
import io
import json
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import broker as brokers
import pyarrow as pa
import pytest
import test_collection

from mlloop import collection, ingestion
from mlloop.core.errors import LakeError, SettingsError, SourceError
from mlloop.problem import Problem, Source
from mlloop.service import topic as sinks
from mlloop.store import messages, topics
from mlloop.store.lake import Lake

DAY = dt.datetime(2025, 3, 1)
STAMP = int(DAY.replace(tzinfo=dt.UTC).timestamp() * 1000)


place = test_collection.place  # a fixture


def problem_of(address: str = "127.0.0.1:1", **more) -> Problem:
    source = {"kind": "kafka", "brokers": address, "topic": "sales", "options": {"session.timeout.ms": "6000"}, **more}
    columns = {
        "id": {"type": "integer", "required": True},
        "n": {"type": "number"},
        "at": {"type": "time"},
        "kafka_offset": {"type": "integer"},
    }
    return test_collection.statement(
        {"till": source}, tables={"t": {"source": "till", "key": ["id"], "time": "at", "columns": columns}}
    )


def sale(number: int, at: dt.datetime = DAY) -> bytes:
    return json.dumps({"id": number, "n": number / 2, "at": at.isoformat()}).encode()


def landed_rows(values, stamps=None) -> pa.Table:
    stamps = stamps or [DAY] * len(values)
    rows = [
        {"topic": "sales", "partition": 0, "offset": n, "at": at, "key": None, "value": value}
        for n, (value, at) in enumerate(zip(values, stamps, strict=True))
    ]
    return pa.Table.from_pylist(rows, schema=topics.SCHEMA)


# ------------------------------------------------------------------------------- rows and offsets as one commit


def test_of_writers_at_the_same_position_one_lands_and_the_others_are_refused(place):
    lake, outcome = Lake(place), []
    name = "toy/till__messages"
    rows = landed_rows([sale(n) for n in range(10)])
    write = lambda: outcome.append(Lake(place).extend(name, rows, {}, {"kafka:sales:0": 10}))
    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome) == [False] * 5 + [True]
    assert lake.ref(name).rows == 10 and lake.positions(name, ["kafka:sales:0", "kafka:sales:1"]) == {
        "kafka:sales:0": 10
    }


def test_writers_of_different_partitions_do_not_hinder_each_other(place):
    name = "toy/till__messages"

    def write(partition: int) -> None:
        at, mine = 0, Lake(place)
        for _ in range(5):
            rows = landed_rows([sale(at + n) for n in range(4)])
            since = {f"kafka:sales:{partition}": at} if at else {}
            assert mine.extend(name, rows, since, {f"kafka:sales:{partition}": at + 4})
            at += 4

    threads = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lake = Lake(place)
    assert lake.ref(name).rows == 60 and set(lake.positions(name, [f"kafka:sales:{n}" for n in range(3)]).values()) == {
        20
    }


def test_rows_that_lead_from_another_position_are_not_written(place):
    lake, name = Lake(place), "toy/till__messages"
    assert lake.extend(name, landed_rows([sale(1)]), {}, {"kafka:sales:0": 1})
    assert not lake.extend(name, landed_rows([sale(1)]), {}, {"kafka:sales:0": 1})
    assert not lake.extend(name, landed_rows([sale(3)]), {"kafka:sales:0": 2}, {"kafka:sales:0": 3})
    assert lake.ref(name).rows == 1
    with pytest.raises(LakeError, match="column 'value' is missing"):
        lake.extend(name, landed_rows([sale(2)]).drop_columns("value"), {"kafka:sales:0": 1}, {"kafka:sales:0": 2})


# -------------------------------------------------------------------------------------- what a message says


def read(value, schema=None, message=None, framed=False, late=False):
    one = messages.Message(1, 7, DAY, "k", value)
    return json.loads(messages.line(one, messages.decoder(schema, message, framed), late, 24))


def test_a_json_message_keeps_its_text_and_gets_the_fields_of_kafka():
    line = messages.line(
        messages.Message(1, 7, DAY, None, b'{"price": 1.10,\n "big": 123456789012345678901}'),
        messages.decoder(None),
        False,
        None,
    )
    assert '"price": 1.10,' in line and "123456789012345678901" in line and "\n" not in line
    assert read(b"{}") == {
        "kafka_partition": 1,
        "kafka_offset": 7,
        "kafka_time": "2025-03-01T00:00:00",
        "kafka_key": "k",
    }


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"\xff\xfe", "message is not JSON"),
        (b'{"x": NaN}', "message is not JSON"),
        (b'{"x": 1', "message is not JSON"),
        (b"[" * 100_000, "message is not JSON"),
        (b"[1]", "message is not a JSON object"),
        (None, "message has no value (a tombstone)"),
    ],
)
def test_a_message_that_is_no_row_says_why_and_keeps_its_bytes(value, why):
    set_aside = read(value)
    assert set_aside[messages.REJECTED] == why
    raw = json.loads(set_aside[messages.RAW])
    assert raw["kafka_offset"] == 7 and raw["value"] == (
        None if value is None else value.decode("utf-8", "backslashreplace")
    )


def test_a_late_message_says_so():
    assert read(b"{}", late=True)[messages.REJECTED] == "message came more than 24 h behind the newest of its partition"


def test_avro_is_read_by_its_schema(tmp_path):
    fastavro = pytest.importorskip("fastavro", reason="pip install 'mlloop[kafka]'")
    fields = [
        {"name": "id", "type": "long"}, {"name": "note", "type": ["null", "string"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}, {"name": "x", "type": "double"},
    ]  # fmt: skip
    schema = {"type": "record", "name": "Sale", "fields": fields}
    file = tmp_path / "sale.avsc"
    file.write_text(json.dumps(schema))
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, {"id": 5, "note": "é", "at": DAY.replace(tzinfo=dt.UTC), "x": float("nan")})
    row = read(out.getvalue(), file)
    assert (row["id"], row["note"], row["at"], row["x"]) == (5, "é", "2025-03-01T00:00:00", None)
    assert read(b"\x00\x00\x00\x00\x09" + out.getvalue(), file, framed=True)["id"] == 5
    for broken in (out.getvalue()[:-3], out.getvalue() + b"x", b""):
        assert read(broken, file)[messages.REJECTED] == "message does not fit the Avro schema"
    assert read(out.getvalue(), file, framed=True)[messages.REJECTED] == "message has no schema registry's header"
    file.write_text('{"type": "recor"}')
    with pytest.raises(SourceError, match="is not an Avro schema"):
        read(b"", file)


def proto(tmp_path: Path):
    """A set of descriptors and a class of its message `shop.Sale`, as protoc would make them."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="sale.proto", package="shop", syntax="proto3")
    kind = file.message_type.add(name="Sale")
    field = descriptor_pb2.FieldDescriptorProto
    for number, (name, of) in enumerate(
        (("id", field.TYPE_INT64), ("item_name", field.TYPE_STRING), ("n", field.TYPE_DOUBLE)), 1
    ):
        kind.field.add(name=name, number=number, type=of, label=field.LABEL_OPTIONAL)
    path = tmp_path / "sale.binpb"
    path.write_bytes(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return path, message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Sale"))


def test_protobuf_is_read_by_its_descriptors(tmp_path):
    path, made = proto(tmp_path)
    value = made(id=2**53 + 1, item_name="tea").SerializeToString()
    row = read(value, path, "shop.Sale")
    assert (row["id"], row["item_name"], row["n"]) == (str(2**53 + 1), "tea", 0.0)
    assert read(b"\x00\x00\x00\x00\x09\x00" + value, path, "shop.Sale", framed=True)["item_name"] == "tea"
    assert read(b"\x00\x00\x00\x00\x09\x04\x02\x00" + value, path, "shop.Sale", framed=True)["item_name"] == "tea"
    assert read(b"\xff\xff", path, "shop.Sale")[messages.REJECTED] == "message is not a Protobuf shop.Sale"
    with pytest.raises(SourceError, match=r"no message 'shop.Sole' \(messages: shop.Sale\)"):
        read(value, path, "shop.Sole")
    with pytest.raises(SourceError, match="protoc --include_imports"):
        read(value, tmp_path / "sale.proto")


def test_a_schema_that_is_not_there_and_a_key_of_another_kind_are_told(tmp_path):
    with pytest.raises(SourceError, match="the schema cannot be read"):
        messages.decoder(tmp_path / "none.avsc")
    with pytest.raises(ValueError, match="a source of kind 'kafka' needs brokers and topic"):
        Source(kind="kafka")
    with pytest.raises(ValueError, match="has no topic: it belongs to kind 'kafka'"):
        Source(kind="files", path="x", topic="y")
    masked = Source(
        kind="kafka",
        brokers="b",
        topic="t",
        options={"sasl.password": "x", "ssl.key.pem": "y", "sasl.username": "${U}"},
    )
    assert masked.model_dump(mode="json")["options"] == {
        "sasl.password": "***",
        "ssl.key.pem": "***",
        "sasl.username": "${U}",
    }
    assert "topic" not in Source(kind="files", path="x").model_dump()


# --------------------------------------------------------------------------- from the landing table to the rows


def test_late_and_poisonous_messages_are_rejected_and_the_counts_add_up(place):
    values = [sale(1), b"oops", sale(2, DAY - dt.timedelta(days=3)), None, sale(1), sale(4), b'{"n": 1}']
    stamps = [DAY, DAY, DAY - dt.timedelta(days=3), DAY, DAY, DAY + dt.timedelta(hours=2), DAY]
    problem = problem_of(late_hours=24)
    columns = {name: column for name, column in problem.tables["t"].columns.items() if name != "kafka_offset"}
    table = problem.tables["t"].model_copy(update={"columns": columns})
    problem = problem.model_copy(update={"tables": {"t": table}})
    lake = Lake(place)
    assert lake.extend("toy/till__messages", landed_rows(values, stamps), {}, {"kafka:sales:0": len(values)})
    batches = collection.collect(problem, DAY + dt.timedelta(days=1), place)
    raw = {name: [dataclasses.asdict(batch) for batch in ones] for name, ones in batches.items()}
    done = ingestion.ingest(problem, raw, DAY + dt.timedelta(days=1), place, lake=lake)["t"]
    assert done.counts == {"read": 7, "kept": 2, "rejected": 4, "duplicates": 1}
    rejected = lake.read(done.rejected).execute()
    assert sorted(rejected.reason) == [
        "id is missing",
        "message came more than 24 h behind the newest of its partition",
        "message has no value (a tombstone)",
        "message is not JSON",
    ]
    raw_text = rejected.set_index("reason").raw["message is not JSON"]
    assert json.loads(raw_text) == {
        "kafka_partition": 0,
        "kafka_offset": 1,
        "kafka_time": "2025-03-01T00:00:00",
        "kafka_key": None,
        "value": "oops",
    }


def test_a_moment_sees_the_same_messages_again_whatever_lands_later(place):
    hour = dt.timedelta(hours=1)
    problem, lake, name = problem_of(), Lake(place), "toy/till__messages"
    first = landed_rows([sale(n) for n in range(4)], [DAY, DAY + hour, DAY + 2 * hour, DAY + hour])
    assert lake.extend(name, first, {}, {"kafka:sales:0": 4})
    early, late = DAY + 2 * hour, DAY + 3 * hour
    seen = collection.collect(problem, late, place)["till"]
    assert [batch.watermark for batch in seen] == ["0:4"]
    assert [batch.watermark for batch in collection.collect(problem, early, place)["till"]] == ["0:2"]
    more = landed_rows([b"", b"", b"", b"", sale(9)], [DAY] * 5).slice(4)
    assert lake.extend(name, more, {"kafka:sales:0": 4}, {"kafka:sales:0": 5})
    after = collection.collect(problem, late, place)["till"]
    assert after[0] == seen[0] and [batch.watermark for batch in after] == ["0:4", "0:5"]
    assert [batch.watermark for batch in collection.collect(problem, early, place)["till"]] == ["0:2"]


def test_a_fixed_schema_reads_the_same_messages_again(place):
    path, made = proto(place.root)
    value = made(id=1, item_name="tea").SerializeToString()
    lake = Lake(place)
    assert lake.extend("toy/till__messages", landed_rows([value]), {}, {"kafka:sales:0": 1})
    content = lambda problem: (
        place.state / collection.collect(problem, DAY + dt.timedelta(1), place)["till"][0].path
    ).read_text()
    whole = path.read_bytes()
    problem = problem_of(schema_file="sale.binpb", message="shop.Sale")
    path.write_bytes(whole.replace(b"item_name", b"itex_name"))
    assert '"itex_name": "tea"' in content(problem)
    path.write_bytes(whole)
    assert '"item_name": "tea"' in content(problem)


def test_a_source_whose_messages_never_landed_names_the_command(place):
    with pytest.raises(SourceError, match="no message has landed yet") as told:
        collection.collect(problem_of(), DAY, place)
    assert "mlloop ingest --problem toy" in str(told.value)


# ---------------------------------------------------------------------------------------- with a real broker


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with brokers.in_memory(tmp_path_factory.mktemp("broker")) as running:
        yield running


def reader(place, broker, group="g", topic="sales", **more):
    landing = messages.Topic("toy/till__messages", broker.address, topic, group, options={"session.timeout.ms": "6000"})
    return topics.Reader(Lake(place), landing, **more)


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"


def offsets_of(place):
    rows = Lake(place).read("toy/till__messages").execute()
    return sorted(zip(rows["partition"], rows["offset"], strict=True))


@brokers.needed
def test_a_reader_goes_on_where_the_lake_stands_and_one_that_was_overtaken_is_refused(place, broker):
    broker.make("overtaken", 2)
    broker.produce("overtaken", ((sale(n), str(n), n % 2, STAMP) for n in range(1000)))
    landed = []
    first = reader(place, broker, "one", "overtaken", batch_rows=300, on_landed=landed.append)
    until(lambda: first.turn() or landed)  # 300 are in the lake, then it is as good as dead
    stuck = reader(place, broker, "two", "overtaken", batch_rows=10_000, every_s=600)
    until(lambda: stuck.turn() or len(stuck.waiting) == 700)
    other = reader(place, broker, "three", "overtaken", batch_rows=350, on_landed=landed.append)
    until(lambda: other.turn() or sum(batch.messages for batch in landed) >= 650)
    stuck.land()
    assert stuck.waiting == [] and sum(batch.messages for batch in landed) == 650
    stuck.every_s, stuck.on_landed = 0.1, landed.append
    until(lambda: stuck.turn() or sum(batch.messages for batch in landed) == 1000)
    for one in (first, stuck, other):
        one.close()
    assert offsets_of(place) == sorted((n % 2, n // 2) for n in range(1000))


@brokers.needed
def test_a_topic_that_is_not_there_and_a_broker_that_is_away_are_told(place, broker, monkeypatch):
    missing = reader(place, broker, topic="nothing")
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:.*/nothing"):
        topics.follow([missing], lambda: False, 60)
    monkeypatch.setattr(topics, "JOIN_S", 1.0)
    away = topics.Reader(Lake(place), messages.Topic("toy/x", "127.0.0.1:1", "sales", "g"))
    with pytest.raises(SourceError, match=r"nothing can be read: .*127\.0\.0\.1:1"):
        topics.follow([away], lambda: False, 0.5)


@brokers.needed
def test_predictions_reach_a_topic_and_a_broker_that_is_away_delays_nobody(place, broker):
    from confluent_kafka import Consumer, TopicPartition

    records = [{"id": f"p{n}", "at": DAY.isoformat(), "entity": f"e{n % 3}", "score": n / 10} for n in range(50)]
    sending = dataclasses.replace(place, predictions_brokers=broker.address, predictions_topic="said.{problem}")
    broker.make("said.loan", 1)
    sink = sinks.of(sending)
    sink.send("loan", records)
    sink.close()
    assert (sink.sent, sink.unsent) == (50, 0)
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "check"})
    consumer.assign([TopicPartition("said.loan", 0, 0)])
    came = []
    until(lambda: came.extend(consumer.consume(50, 1.0)) or len(came) == 50)
    consumer.close()
    assert [json.loads(one.value()) for one in came] == records and came[4].key() == b"e1"
    away = dataclasses.replace(
        sending, predictions_brokers="127.0.0.1:1", predictions_options='{"message.timeout.ms": 300}'
    )
    sink = sinks.of(away)
    sink.send("loan", records)
    sink.close()
    assert (sink.sent, sink.unsent) == (0, 50) and sink.fault


def test_options_that_are_no_json_are_told(place):
    pytest.importorskip("confluent_kafka", reason="pip install 'mlloop[kafka]'")
    for options, why in (("{", "is no JSON"), ("[1]", "no object"), ('{"no.such": "x"}', "no producer can be made")):
        with pytest.raises(SettingsError, match=why):
            sinks.of(
                dataclasses.replace(
                    place, predictions_brokers="b:1", predictions_topic="t", predictions_options=options
                )
            )
    assert sinks.of(place) is None


# ------------------------------------------------------------------------------------------- at full length


def start(project: Path, *more: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "mlloop",
        "ingest",
        "--problem",
        "toy",
        "--batch-rows",
        "5000",
        "--every-s",
        "0.2",
        *more,
    ]
    return subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
@brokers.needed
@pytest.mark.skipif(
    importlib.util.find_spec("moto") is None, reason="no object store: pip install 'mlloop[objectstore]'"
)
def test_of_100_000_messages_each_lands_once_through_kills_of_consumers_and_broker(tmp_path):
    from mlloop.core import settings

    for name, text in (
        ("settings.ini", ""),
        ("pipeline.yaml", "tasks: []\n"),
        ("env.yaml", "problem: toy\nas_of: null\nsample: 1.0\nseed: 0\n"),
    ):
        (tmp_path / name).write_text(text)
    (tmp_path / "problems").mkdir()
    drawn, total = random.Random(1), 100_000
    with brokers.in_object_store(tmp_path) as running:
        running.make("sales", 3)
        problem = problem_of(running.address, options={"session.timeout.ms": "6000"}, late_hours=24)
        (tmp_path / "problems/toy.yaml").write_text(json.dumps(problem.model_dump(mode="json", exclude_none=True)))
        poison = set(drawn.sample(range(total), 500))
        value = lambda n: b"\xffpoison %d" % n if n in poison else sale(n)
        broken = lambda n: STAMP - 3 * 86_400_000 if n in late else STAMP + n
        late = set(drawn.sample(sorted(set(range(10, total)) - poison), 200))
        send = threading.Thread(
            target=lambda: running.produce("sales", ((value(n), None, n % 3, broken(n)) for n in range(total)))
        )
        send.start()
        place, kills, broker_kills = settings.load(tmp_path), 0, 0
        count = lambda: Lake(place).ref("toy/till__messages").rows if Lake(place).exists("toy/till__messages") else 0
        followers = [start(tmp_path, "--follow"), start(tmp_path, "--follow")]
        end = time.monotonic() + 800
        while count() < total and time.monotonic() < end:
            moved = count()
            until(
                lambda moved=moved: count() > moved or count() == total, 120
            )  # somebody is at work: now something dies
            time.sleep(drawn.uniform(0.0, 1.0))
            if kills % 3 == 1 and not send.is_alive():
                running.kill()
                broker_kills += 1
                time.sleep(drawn.uniform(0.2, 1.0))
                running.start()
            else:
                victim = drawn.randrange(2)
                followers[victim].kill()
                followers[victim].wait()
                followers[victim] = start(tmp_path, "--follow")
            kills += 1
        for one in followers:
            one.send_signal(signal.SIGTERM)
        outputs = [one.communicate(timeout=60)[0] for one in followers]
        assert {one.returncode for one in followers} <= {0, -signal.SIGTERM}, (
            outputs
        )  # one that had just begun is killed by it
        send.join()
    assert offsets_of(place) == sorted((n % 3, n // 3) for n in range(total)) and kills >= 3 and broker_kills
    moment = DAY + dt.timedelta(days=1)
    batches = {
        name: [dataclasses.asdict(one) for one in ones]
        for name, ones in collection.collect(problem, moment, place).items()
    }
    done = ingestion.ingest(problem, batches, moment, place)["t"]
    assert done.counts == {"read": total, "kept": total - 700, "rejected": 700, "duplicates": 0}
    print(f"{kills} kills, {broker_kills} of the broker")
