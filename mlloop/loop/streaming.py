"""Lands the messages of a problem's topics in the lake: once, or for as long as somebody wants it, with figures for Prometheus."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlloop import collection
from mlloop.core.errors import UsageError
from mlloop.core.settings import Settings
from mlloop.problem import Problem, did_you_mean
from mlloop.store import topics
from mlloop.store.lake import Lake


@dataclass
class Streamed:
    """What landed.

    Attributes
    ----------
    problem : str
    messages : dict of str to int
        Source -> messages that this call landed.
    offsets : dict of str to dict
        Source -> partition -> the next offset, as the lake has it.
    """

    problem: str
    messages: dict[str, int] = field(default_factory=dict)
    offsets: dict[str, dict[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Pace:
    """How often a micro-batch lands, and when to stop.

    Attributes
    ----------
    batch_rows : int
    every_s : float
    idle_s : float or None
        Seconds without a message after which it is over; None: never.
    """

    batch_rows: int = 10_000
    every_s: float = 10.0
    idle_s: float | None = 5.0


class Gauges:
    """What /metrics shows of a stream."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge

        self.registry = CollectorRegistry()
        shared: Any = {"registry": self.registry}
        by = ["problem", "source"]
        self.messages = Counter("mlloop_stream_messages", "Messages that landed in the lake.", by, **shared)
        self.batches = Counter("mlloop_stream_batches", "Micro-batches that landed in the lake.", by, **shared)
        self.landed = Gauge("mlloop_stream_landed_timestamp_seconds", "When one landed last.", by, **shared)
        self.lag = Gauge(
            "mlloop_stream_lag_messages",
            "Messages at the broker that are not in the lake.",
            [*by, "partition"],
            **shared,
        )
        self.faults = Gauge("mlloop_stream_broker_away", "1 while the broker does not answer.", by, **shared)

    def serve(self, port: int, host: str) -> str:
        """Answer there, until the process ends; returns the address."""
        from prometheus_client import start_http_server

        try:
            server, _ = start_http_server(port, host, self.registry)
        except OSError as error:
            raise UsageError(
                f"port {port} cannot be used: {error.strerror}", "--metrics-port", "Name another"
            ) from error
        return f"http://{host}:{server.server_port}/metrics"

    def count(self, problem: str, source: str, batch: topics.Landed) -> None:
        """Add a micro-batch."""
        self.messages.labels(problem, source).inc(batch.messages)
        self.batches.labels(problem, source).inc()
        self.landed.labels(problem, source).set_to_current_time()

    def watch(self, problem: str, sources: Sequence[str], readers: Sequence[topics.Reader]) -> None:
        """Show how far behind the readers are."""
        for source, reader in zip(sources, readers, strict=True):
            self.faults.labels(problem, source).set(reader.fault is not None)
            for partition, lag in reader.lag().items():
                self.lag.labels(problem, source, str(partition)).set(lag)


def sources_of(problem: Problem, chosen: Sequence[str] = ()) -> list[str]:
    """The problem's sources of kind 'kafka', or those of them that are chosen.

    Raises
    ------
    UsageError
        There is none, or a chosen one is not among them.
    """
    known = [name for name, source in problem.sources.items() if source.kind == "kafka"]
    if not known:
        raise UsageError(
            "no source is of kind 'kafka'", problem.name, "Other sources are fetched by: mlloop run --until collection"
        )
    for name in chosen:
        if name not in known:
            step = f"Known: mlloop ingest --source {known[0]}"
            raise UsageError(f"{name!r} is no source of kind 'kafka'{did_you_mean(name, known)}", problem.name, step)
    return list(chosen) or known


def stream(
    problem: Problem,
    settings: Settings,
    pace: Pace,
    sources: Sequence[str] = (),
    metrics: tuple[str, int] | None = None,
    on_landed: Callable[[str, topics.Landed], None] = lambda source, batch: None,
    on_fault: Callable[[str], None] = lambda fault: None,
    on_metrics: Callable[[str], None] = lambda address: None,
) -> Streamed:
    """Land messages until none comes for `pace.idle_s`, or until SIGTERM or SIGINT; what was read lands before the end.

    Parameters
    ----------
    sources : sequence of str
        Default: all of kind 'kafka'.
    metrics : (str, int), optional
        Host and port at which to serve /metrics; port 0: any that is free.

    Raises
    ------
    UsageError, SourceError, LakeError
    """
    names, lake, streamed = sources_of(problem, sources), Lake(settings), Streamed(problem.name)
    gauges = Gauges() if metrics else None
    if gauges is not None and metrics:
        on_metrics(gauges.serve(metrics[1], metrics[0]))
    readers = []
    for name in names:

        def landed(batch: topics.Landed, name: str = name) -> None:
            streamed.messages[name] = streamed.messages.get(name, 0) + batch.messages
            if gauges is not None:
                gauges.count(problem.name, name, batch)
            on_landed(name, batch)

        topic = collection.landing_topic(problem.name, name, problem.sources[name])
        readers.append(topics.Reader(lake, topic, pace.batch_rows, pace.every_s, landed))
        streamed.messages.setdefault(name, 0)
    on_turn = (
        (lambda readers: gauges.watch(problem.name, names, readers)) if gauges is not None else (lambda readers: None)
    )
    with _asked_to_stop() as stop:
        topics.follow(readers, stop.is_set, pace.idle_s, on_turn, on_fault)
    streamed.offsets = {name: _reached(lake, reader.topic) for name, reader in zip(names, readers, strict=True)}
    return streamed


def _reached(lake: Lake, topic: Any) -> dict[int, int]:
    """How far the lake has each partition of a topic."""
    if not lake.exists(topic.table):
        return {}
    rows = lake.on_duckdb().read(topic.table)
    rows = rows.filter(rows.topic == topic.name)
    reached = rows.group_by("partition").agg(until=rows.offset.max() + 1).order_by("partition").to_pyarrow().to_pylist()
    return {row["partition"]: row["until"] for row in reached}


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, so that what was read lands before the process ends."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
