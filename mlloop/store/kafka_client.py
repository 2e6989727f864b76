"""Kafka's client library: imported where a topic is used, configured with secrets of the environment, silent."""

import os
import re
from collections.abc import Mapping
from typing import Any

from mlloop.core.errors import SourceError
from mlloop.core.records import Parameters

AWAY = "Run: pip install 'mlloop[kafka]'"


def configuration(brokers: str, options: Mapping[str, str], **ours: Any) -> Parameters:
    """librdkafka's configuration, with `${NAME}` filled in from the environment."""
    fill = lambda text: re.sub(r"\$\{(\w+)\}", lambda match: os.environ.get(match[1], match[0]), text)
    return {"bootstrap.servers": fill(brokers), **{key: fill(str(value)) for key, value in options.items()}, **ours}


def client(topic: str) -> Any:
    """The module confluent_kafka.

    Raises
    ------
    SourceError
        It is not installed.
    """
    try:
        import confluent_kafka
    except ImportError as error:
        raise SourceError("is a topic of Kafka, and confluent-kafka is not installed", topic, AWAY) from error
    return confluent_kafka


class Quiet:
    """Where librdkafka's log lines go: what matters of them comes as an error of its own."""

    def log(self, *_: Any) -> None:
        """Drop a line."""
