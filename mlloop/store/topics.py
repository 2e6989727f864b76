"""Messages of Kafka topics land in the lake, each once: rows and the offsets that they reach are one commit.

The lake says where to read on, not the broker: a consumer that is killed between reading and committing left neither
rows nor offsets, and of two consumers that hold the same partition for a moment (a rebalance) the lake refuses one.
Offsets are committed to the broker as well, for whoever watches the group there; nothing here reads them.
"""

import datetime as dt
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mlloop.core.errors import SourceError
from mlloop.store import kafka_client
from mlloop.store.lake import Lake
from mlloop.store.messages import Topic

SCHEMA = pa.schema(
    [
        ("topic", pa.string()), ("partition", pa.int32()), ("offset", pa.int64()), ("at", pa.timestamp("us")),
        ("key", pa.string()), ("value", pa.binary()),
    ]
)  # fmt: skip
POLL_S = 0.2
JOIN_S = 30.0
REPORT_S = 60.0


@dataclass(frozen=True)
class Landed:
    """One micro-batch that is in the lake: its messages, and the next offset of each partition."""

    topic: Topic
    messages: int
    until: dict[int, int]


class Reader:
    """Consumes one topic as a member of its group and lands micro-batches.

    Parameters
    ----------
    lake : Lake
    topic : Topic
    batch_rows : int
        Messages after which a micro-batch lands.
    every_s : float
        Seconds after which one lands, however few messages it has.
    on_landed : callable
        Called with each micro-batch that is in the lake.

    Attributes
    ----------
    fault : str or None
        What the broker last complained of; None when a message came since.

    Raises
    ------
    SourceError
        confluent-kafka is not installed, or its configuration is not accepted.
    """

    def __init__(
        self,
        lake: Lake,
        topic: Topic,
        batch_rows: int = 10_000,
        every_s: float = 10.0,
        on_landed: Callable[[Landed], None] = lambda landed: None,
    ):
        self.lake, self.topic, self.batch_rows, self.every_s, self.on_landed = (
            lake,
            topic,
            batch_rows,
            every_s,
            on_landed,
        )
        self.kafka = kafka_client.client(topic.name)
        own = {"group.id": topic.group, "enable.auto.commit": False, "auto.offset.reset": "error", "isolation.level": "read_committed"}  # fmt: skip
        try:
            settings = kafka_client.configuration(topic.brokers, topic.options, **own, error_cb=self._troubled)
            self.consumer = self.kafka.Consumer(settings, logger=kafka_client.Quiet())
        except (self.kafka.KafkaException, ValueError, TypeError) as error:
            raise SourceError(
                f"the consumer cannot be configured: {error}",
                topic.name,
                "Fix options in the statement, then: mlloop check",
            ) from error
        self.since: dict[int, int] = {}  # where the lake stands, of the partitions held; a new one is left out
        self.held: set[int] = set()
        self.is_member = False
        self.waiting: list[Any] = []
        self.begun = self.heard = time.monotonic()
        self.fault: str | None = None
        self.consumer.subscribe([topic.name], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    # what the group says

    def _assigned(self, consumer: Any, partitions: Sequence[Any]) -> None:
        self.waiting, self.is_member = [], True
        self.held = {partition.partition for partition in partitions}
        consumer.assign(self._from_lake(self.held))
        self.heard = time.monotonic()

    def _from_lake(self, held: set[int]) -> list[Any]:
        """The partitions at the offsets at which the lake has them."""
        names = {self.topic.stream(partition): partition for partition in held}
        self.since = {names[stream]: at for stream, at in self.lake.positions(self.topic.table, names).items()}
        first = self.kafka.OFFSET_BEGINNING if self.topic.begin == "earliest" else self.kafka.OFFSET_END
        return [
            self.kafka.TopicPartition(self.topic.name, held_partition, self.since.get(held_partition, first))
            for held_partition in sorted(held)
        ]

    def _revoked(self, consumer: Any, partitions: Sequence[Any]) -> None:
        try:
            self.land()
        finally:
            self._lost(consumer, partitions)

    def _lost(self, consumer: Any, partitions: Sequence[Any]) -> None:
        self.waiting, self.held, self.since = [], set(), {}

    def _troubled(self, error: Any) -> None:
        self.fault = error.str()

    # what comes

    def turn(self, wait_s: float = POLL_S) -> None:
        """Take what has come, and land it where it is enough or old enough.

        Raises
        ------
        SourceError
            The topic is not there, messages that were not read yet are gone, or the broker refuses the group.
        """
        message = self.consumer.poll(wait_s)
        while message is not None:
            self._take(message) if message.error() is None else self._judge(message)
            if self._is_due():
                break
            message = self.consumer.poll(0)  # one by one: what is read ahead is dropped when partitions move
        if self._is_due():
            self.land()

    def _is_due(self) -> bool:
        is_old = bool(self.waiting) and time.monotonic() - self.begun >= self.every_s
        return is_old or len(self.waiting) >= self.batch_rows

    def _take(self, message: Any) -> None:
        if not self.waiting:
            self.begun = time.monotonic()
        self.waiting.append(message)
        self.heard, self.fault = time.monotonic(), None

    def _judge(self, message: Any) -> None:
        """Go on after a fault that passes, stop at one that does not."""
        error, codes = message.error(), self.kafka.KafkaError
        if error.code() in (codes.OFFSET_OUT_OF_RANGE, codes._AUTO_OFFSET_RESET):
            at = self.since.get(message.partition())
            raise SourceError(
                f"partition {message.partition()} no longer has offset {at}, up to which the lake has it: messages were deleted "
                "before they were read, or the topic was made again",
                self.topic.name,
                "Let its messages live longer (retention.ms). To go on with what is there, give the source another name",
            )
        refusals = (
            codes.UNKNOWN_TOPIC_OR_PART,
            codes.TOPIC_AUTHORIZATION_FAILED,
            codes.GROUP_AUTHORIZATION_FAILED,
            codes.SASL_AUTHENTICATION_FAILED,
        )
        if error.code() in refusals or error.fatal():
            where = f"{self.topic.brokers}/{self.topic.name}"
            raise SourceError(error.str(), where, "Fix the source in the statement, then: mlloop ingest")
        self.fault = error.str()

    def land(self) -> None:
        """Write what waits and the offsets that it reaches as one commit.

        Where another consumer was there first, what waits is dropped, and reading goes on from where the lake stands.
        """
        if not self.waiting:
            return
        taken, self.waiting = self.waiting, []
        until = {item.partition(): item.offset() + 1 for item in taken}
        names = self.topic.stream
        since = {names(item): self.since[item] for item in until if item in self.since}
        if not self.lake.extend(self.topic.table, _rows(taken), since, {names(item): at for item, at in until.items()}):
            self.consumer.assign(self._from_lake(self.held))
            return
        self.since |= until
        try:
            offsets = [self.kafka.TopicPartition(self.topic.name, item, at) for item, at in until.items()]
            self.consumer.commit(offsets=offsets, asynchronous=True)
        except self.kafka.KafkaException as error:
            self.fault = str(error)  # the lake has them
        self.on_landed(Landed(self.topic, len(taken), until))

    def is_idle(self, idle_s: float) -> bool:
        """Whether no message came for so long, and the broker is there.

        Raises
        ------
        SourceError
            The broker is away, or the group takes nobody in.
        """
        quiet_s = time.monotonic() - self.heard
        if self.is_member and quiet_s >= idle_s and self.fault:
            self._ask_broker()
        if not self.is_member and quiet_s >= max(idle_s, JOIN_S):
            raise self._unread(self.fault or "the group took nobody in")
        return self.is_member and quiet_s >= idle_s

    def _ask_broker(self) -> None:
        try:
            self.consumer.list_topics(self.topic.name, timeout=JOIN_S / 3)
            self.fault = None
        except self.kafka.KafkaException as error:
            raise self._unread(error.args[0].str()) from error

    def _unread(self, why: str) -> SourceError:
        step = "Check the broker, the topic and the group, then: mlloop ingest"
        return SourceError(f"nothing can be read: {why}", f"{self.topic.brokers}/{self.topic.name}", step)

    def lag(self) -> dict[int, int]:
        """Messages that the broker has and the lake has not, by partition; one of which the broker says nothing is left out."""
        behind = {}
        for partition, at in self.since.items():
            _, high = self.consumer.get_watermark_offsets(
                self.kafka.TopicPartition(self.topic.name, partition), cached=True
            )
            if high >= at:
                behind[partition] = high - at
        return behind

    def close(self) -> None:
        """Leave the group; what waits lands before."""
        self.consumer.close()


def _rows(taken: Sequence[Any]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "topic": message.topic(),
                "partition": message.partition(),
                "offset": message.offset(),
                "at": _moment(message.timestamp()),
                "key": None if message.key() is None else message.key().decode("utf-8", "backslashreplace"),
                "value": message.value(),
            }
            for message in taken
        ],
        schema=SCHEMA,
    )


def _moment(stamp: tuple[int, int]) -> dt.datetime | None:
    kind, milliseconds = stamp
    if kind == 0 or milliseconds < 0:  # none
        return None
    return dt.datetime(1970, 1, 1) + dt.timedelta(milliseconds=milliseconds)


def follow(
    readers: Sequence[Reader],
    is_over: Callable[[], bool],
    idle_s: float | None = None,
    on_turn: Callable[[Sequence[Reader]], None] = lambda readers: None,
    on_fault: Callable[[str], None] = lambda fault: None,
) -> None:
    """Land micro-batches until it is over.

    Parameters
    ----------
    is_over : callable
        Whether to stop; what waits lands first.
    idle_s : float, optional
        Stop as well when no message came for so long; None: never.
    on_turn : callable
        Called about five times a second, with the readers.
    on_fault : callable
        Told of a broker that is away, once a minute.

    Raises
    ------
    SourceError
        See `Reader.turn`; where `idle_s` is given, also a broker that is away.
    """
    reported_at = -REPORT_S
    try:
        while not is_over() and not (idle_s is not None and all(reader.is_idle(idle_s) for reader in readers)):
            for reader in readers:
                reader.turn(POLL_S / len(readers))
                if reader.fault and time.monotonic() - reported_at >= REPORT_S:
                    reported_at = time.monotonic()
                    on_fault(f"{reader.topic.name}: {reader.fault}")
            on_turn(readers)
        for reader in readers:
            reader.land()
    finally:
        for reader in readers:
            reader.close()
