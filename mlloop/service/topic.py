"""The prediction log as messages of a Kafka topic, sent after the disk has them.

The log on the disk is the record, the topic a copy of it for others: a prediction is acknowledged when the disk has it,
whether or not the broker is there. What could not be sent is counted.
"""

import json
import threading
from collections.abc import Iterable
from typing import Any

from mlloop.core.errors import SettingsError, SourceError
from mlloop.core.records import PredictionRecordJson
from mlloop.core.settings import Settings
from mlloop.store import kafka_client, prediction_log

FLUSH_S = 10.0


class Topic:
    """Sends records to a topic, in the order of each entity; never waits for the broker.

    Parameters
    ----------
    settings : Settings
        Its [predictions] brokers, topic and options.

    Attributes
    ----------
    sent, unsent : int
        Records that the broker has, and that it will not get.
    fault : str or None
        Why the last one was not sent; None when sending works.

    Raises
    ------
    SettingsError
        confluent-kafka is not installed, or its configuration is not accepted.
    """

    def __init__(self, settings: Settings):
        self.topic, self.sent, self.unsent = settings.predictions_topic, 0, 0
        self.fault: str | None = None
        self._lock = threading.Lock()
        own = {"enable.idempotence": True, "linger.ms": 20, "compression.type": "zstd"}
        where = "settings.ini [predictions]"
        try:
            kafka = kafka_client.client(self.topic)
            configuration = kafka_client.configuration(
                settings.predictions_brokers, _options(settings.predictions_options), **own
            )
            self.producer = kafka.Producer(configuration, logger=kafka_client.Quiet())
        except SourceError as error:
            raise SettingsError(error.what, where, error.next_step) from error
        except (kafka.KafkaException, ValueError, TypeError) as error:
            raise SettingsError(
                f"no producer can be made: {error}", where, "Fix the file, then: mlloop serve"
            ) from error

    def send(self, problem: str, records: Iterable[PredictionRecordJson]) -> None:
        """Hand records to the producer; what it has no room for is counted as unsent."""
        topic = self.topic.replace("{problem}", problem)
        for record in records:
            key = str(record.get("entity") or record.get("id") or "")
            try:
                self.producer.produce(topic, prediction_log.encode(record), key, on_delivery=self._delivered)
            except Exception as error:  # a full queue, a name that is no topic's: a loss that is counted
                self._lost(str(error))
        self.producer.poll(0)

    def _delivered(self, error: Any, message: Any) -> None:
        if error is not None:
            return self._lost(error.str())
        with self._lock:
            self.sent, self.fault = self.sent + 1, None

    def _lost(self, why: str) -> None:
        with self._lock:
            self.unsent, self.fault = self.unsent + 1, why

    def close(self) -> None:
        """Send what waits, for some seconds; the rest is counted as unsent."""
        left = self.producer.flush(FLUSH_S)
        with self._lock:
            self.unsent += left


def _options(text: str) -> dict[str, str]:
    """More of librdkafka's configuration, as JSON: {"security.protocol": "SASL_SSL"}."""
    try:
        options = json.loads(text or "{}")
    except ValueError as error:
        raise SettingsError(f"options is no JSON: {error}", "settings.ini [predictions]", "Fix the file, then: mlloop serve") from error  # fmt: skip
    if not isinstance(options, dict):
        raise SettingsError("options is no object of JSON", "settings.ini [predictions]", 'Example: options = {"security.protocol": "SSL"}')  # fmt: skip
    return {str(name): str(value) for name, value in options.items()}


def of(settings: Settings) -> Topic | None:
    """Where the service sends its predictions; None where the project names no brokers."""
    return Topic(settings) if settings.predictions_brokers else None
