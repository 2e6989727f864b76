"""Messages of a topic as rows: JSON as it is, Avro and Protobuf by a schema; what cannot be read says why.

A row is one line of JSON with the message's own fields and four of Kafka's: kafka_partition, kafka_offset, kafka_time
and kafka_key. A message that is no row becomes a line that ingestion sets aside with its reason.
"""

import base64
import datetime as dt
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mlloop.core.errors import SourceError
from mlloop.core.records import Row
from mlloop.store.kafka_client import AWAY

REJECTED, RAW = "mlloop:rejected", "mlloop:raw"
SCHEMAS = {".avsc": "avro", ".binpb": "protobuf", ".desc": "protobuf", ".pb": "protobuf"}
Decode = Callable[[bytes], str]


class Undecodable(Exception):
    """A message that is not what its source declares; holds the reason, which names no content."""


@dataclass(frozen=True)
class Topic:
    """A topic and how it is reached.

    Attributes
    ----------
    table : str
        The table of the lake where its messages land: 'problem/source__messages'.
    brokers, name, group : str
        bootstrap.servers, the topic, the consumer group.
    begin : {'earliest', 'latest'}
        Where a partition begins that the lake does not have yet.
    options : mapping
        More of librdkafka's configuration, such as security.protocol; `${NAME}` is taken from the environment.
    """

    table: str
    brokers: str
    name: str
    group: str
    begin: Literal["earliest", "latest"] = "earliest"
    options: Mapping[str, str] = field(default_factory=dict)

    def stream(self, partition: int) -> str:
        """What a partition is called among the positions of its table."""
        return f"kafka:{self.name}:{partition}"


@dataclass(frozen=True)
class Message:
    """One message as the lake keeps it.

    Attributes
    ----------
    partition, offset : int
    at : datetime or None
        The message's own time stamp, naive UTC.
    key : str or None
    value : bytes or None
        None: a tombstone.
    """

    partition: int
    offset: int
    at: dt.datetime | None
    key: str | None
    value: bytes | None

    def fields(self) -> str:
        """Kafka's own fields, as members of a JSON object."""
        at = self.at.isoformat() if self.at else None
        own = {"kafka_partition": self.partition, "kafka_offset": self.offset, "kafka_time": at, "kafka_key": self.key}
        return json.dumps(own, ensure_ascii=False)[1:-1]


def line(message: Message, decode: Decode, is_late: bool, late_hours: float | None) -> str:
    """A message as one line of a JSON-lines file: a row, or what ingestion sets aside.

    Parameters
    ----------
    decode : callable
        See `decoder`.
    is_late : bool
        Whether it came more than `late_hours` behind the newest message before it in its partition.
    """
    try:
        if is_late:
            raise Undecodable(f"message came more than {late_hours:g} h behind the newest of its partition")
        if message.value is None:
            raise Undecodable("message has no value (a tombstone)")
        body = decode(message.value)[1:-1].strip()
        return f"{{{body}{', ' if body else ''}{message.fields()}}}"
    except Undecodable as error:
        text = None if message.value is None else message.value.decode("utf-8", "backslashreplace")
        raw = f"{{{message.fields()}, {json.dumps('value')}: {json.dumps(text, ensure_ascii=False)}}}"
        return json.dumps({REJECTED: str(error), RAW: raw}, ensure_ascii=False)


def decoder(schema: Path | None, message: str | None = None, framed: bool = False) -> Decode:
    """What turns a message's bytes into the text of a JSON object.

    Parameters
    ----------
    schema : Path, optional
        An Avro schema (.avsc), or a set of Protobuf descriptors (.binpb, .desc, .pb); without it messages are JSON.
    message : str, optional
        The full name of the Protobuf message, such as shop.Click.
    framed : bool
        Whether a schema registry's serializer wrote them: a zero byte and the schema's id before the message.

    Raises
    ------
    SourceError
        A schema that is not there or cannot be read, or a library that is not installed.
    """
    kind = form(schema)
    decode = _json if schema is None else _avro(schema) if kind == "avro" else _protobuf(schema, message)
    return _framed(decode, kind) if framed else decode


def form(schema: Path | None) -> str:
    """'json', 'avro' or 'protobuf', by the schema's suffix.

    Raises
    ------
    SourceError
        A suffix that says neither.
    """
    if schema is None:
        return "json"
    if schema.suffix == ".proto":
        step = f"Run: protoc --include_imports --descriptor_set_out={schema.stem}.binpb {schema.name}, and declare that file"
        raise SourceError("is Protobuf source; what is read here is its compiled descriptors", str(schema), step)
    if schema.suffix not in SCHEMAS:
        raise SourceError(
            f"has the suffix {schema.suffix!r}, expected one of {', '.join(SCHEMAS)}",
            str(schema),
            "Fix schema in the statement, then: mlloop check",
        )
    return SCHEMAS[schema.suffix]


def _json(value: bytes) -> str:
    try:
        text = value.decode("utf-8")
        row = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Undecodable("message is not JSON") from error
    if not isinstance(row, dict):
        raise Undecodable("message is not a JSON object")
    return " ".join(text.split("\n")).replace("\r", " ").strip()


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _read(schema: Path) -> bytes:
    try:
        return schema.read_bytes()
    except OSError as error:
        raise SourceError(
            f"the schema cannot be read: {error.strerror}",
            str(schema),
            "Put it there or fix schema in the statement, then: mlloop check",
        ) from error


def _avro(schema: Path) -> Decode:
    content = _read(schema)
    try:
        import fastavro
    except ImportError as error:
        raise SourceError("is an Avro schema, and fastavro is not installed", str(schema), AWAY) from error
    try:
        parsed = fastavro.parse_schema(json.loads(content))
    except (ValueError, KeyError, fastavro.schema.SchemaParseException, fastavro.schema.UnknownType) as error:
        raise SourceError(
            f"is not an Avro schema: {error!r}", str(schema), "Fix the file, then: mlloop check"
        ) from error

    def decode(value: bytes) -> str:
        stream = io.BytesIO(value)
        try:
            row = fastavro.schemaless_reader(stream, parsed, None)
        except Exception as error:  # fastavro raises whatever the bytes lead to
            raise Undecodable("message does not fit the Avro schema") from error
        if stream.read(1) or not isinstance(row, dict):
            raise Undecodable("message does not fit the Avro schema")
        return _dumped(row, "Avro")

    return decode


def _dumped(row: Row, what: str) -> str:
    try:
        return json.dumps(row, default=_plain, ensure_ascii=False, allow_nan=False)
    except ValueError:  # not a finite number: no JSON, and no value
        finite = json.loads(json.dumps(row, default=_plain), parse_constant=lambda _: None)
        return json.dumps(finite, ensure_ascii=False)
    except TypeError as error:
        raise Undecodable(f"message holds a value of {what} that has no form in JSON") from error


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dt.datetime):
        return (value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value).isoformat()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _protobuf(schema: Path, name: str | None) -> Decode:
    content = _read(schema)
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message, message_factory
    except ImportError as error:
        raise SourceError("holds Protobuf descriptors, and protobuf is not installed", str(schema), AWAY) from error
    try:
        files = descriptor_pb2.FileDescriptorSet.FromString(content)
        pool = descriptor_pool.DescriptorPool()
        for file in files.file:
            pool.Add(file)
    except (message.DecodeError, TypeError) as error:
        raise SourceError(
            f"holds no set of Protobuf descriptors: {error}",
            str(schema),
            "Write it: protoc --include_imports --descriptor_set_out=FILE.binpb FILE.proto",
        ) from error
    known = [
        ".".join(filter(None, (file.package, message_type.name)))
        for file in files.file
        for message_type in file.message_type
    ]
    if name not in known:
        raise SourceError(
            f"has no message {name!r} (messages: {', '.join(known)})",
            str(schema),
            "Fix message in the statement, then: mlloop check",
        )
    message_class = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))

    def decode(value: bytes) -> str:
        try:
            row = message_class.FromString(value)
        except message.DecodeError as error:
            raise Undecodable(f"message is not a Protobuf {name}") from error
        text = json_format.MessageToDict(
            row, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        return _dumped(text, "Protobuf")

    return decode


def _framed(decode: Decode, kind: str) -> Decode:
    """The decoder of what lies behind a registry's header: a zero byte, four of the schema's id, for Protobuf the message's place."""

    def inner(value: bytes) -> str:
        if len(value) < 5 or value[0] != 0:
            raise Undecodable("message has no schema registry's header")
        return decode(_behind_indexes(value[5:]) if kind == "protobuf" else value[5:])

    return inner


def _behind_indexes(value: bytes) -> bytes:
    """What follows the list of message indexes: zigzag varints, their number first, a lone 0 for the first message."""
    count, at = _varint(value, 0)
    for _ in range(count):
        _, at = _varint(value, at)
    return value[at:]


def _varint(value: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(value):
        number |= (value[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not value[at - 1] & 0x80:
            return (number >> 1) ^ -(number & 1), at
    raise Undecodable("message has no schema registry's header")
