"""What a service takes from its callers: how long a request may take to arrive, and how many may be there at once.

Without bounds a few hundred callers who connect and say nothing hold every file descriptor, and nobody else is
answered. A request must be whole within a time; where no connection is left, the one that has waited longest without
a whole request makes room; and log lines of one kind are folded, so that a flood of faults is no flood of lines.
"""

import asyncio
import logging
import re
import resource
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mlloop.core.errors import UsageError

RESERVED_FILES = 128  # for models, the log, the ledger, and callers who are let in before others are closed
ACCEPTED = 32  # callers whom the event loop lets in before it looks at any of them
WAITING = 2048  # callers whom the system keeps waiting to be let in
TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
NO_ROOM = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"


def most_connections() -> int:
    """How many connections the process may hold, by its limit of file descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, min(soft, 65_536) - RESERVED_FILES) if soft != resource.RLIM_INFINITY else 65_536


@dataclass
class Bounds:
    """What connections keep to, and which there are, the one that was quiet longest first.

    Attributes
    ----------
    request_s : float
        Seconds from a request's first byte (or the connection) to its last.
    connections : int
    closed : callable
        Is told why a connection was closed: 'too slow' or 'no room'.
    """

    request_s: float
    connections: int
    closed: Callable[[str], None] = lambda why: None
    held: dict[Any, None] = field(default_factory=dict)


def bounded(protocol: type, bounds: Bounds) -> type:
    """uvicorn's protocol for a connection, with bounds."""

    class Bounded(protocol):
        """A connection that must state a whole request in time."""

        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._begin()
            if len(bounds.held) > bounds.connections:
                _make_room(self)

        def data_received(self, data: bytes) -> None:
            if self._deadline is None:
                self._begin()
            super().data_received(data)
            if self.is_asked:
                self._end()

        def connection_lost(self, error: Exception | None) -> None:
            self._end()
            bounds.held.pop(self, None)
            super().connection_lost(error)

        @property
        def is_asked(self) -> bool:
            """Whether a whole request is here and not yet answered."""
            cycle = getattr(self, "cycle", None)
            return cycle is not None and not cycle.response_complete and not cycle.more_body

        def turn_away(self, answer: bytes, why: str) -> None:
            """Close with a last word; an application that still waits for the body is told that the caller is gone."""
            if self.transport.is_closing():
                return
            bounds.closed(why)
            cycle = getattr(self, "cycle", None)
            if cycle is None or cycle.response_complete or not cycle.response_started:
                self.transport.write(answer)
            self.transport.close()

        def _begin(self) -> None:
            bounds.held.pop(self, None)
            bounds.held[self] = None  # at the end of the line
            self._deadline = self.loop.call_later(bounds.request_s, self._is_late)

        def _end(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _is_late(self) -> None:
            self._deadline = None
            if not self.is_asked:
                self.turn_away(TOO_SLOW, "too slow")

    def _make_room(newest: Bounded) -> None:
        for other in bounds.held:
            if other is not newest and not other.is_asked and not other.transport.is_closing():
                bounds.held.pop(other)
                return other.turn_away(TOO_SLOW, "no room")
        bounds.held.pop(newest, None)
        return newest.turn_away(NO_ROOM, "no room")

    return Bounded


class Folded(logging.Filter):
    """Lets one line of a kind pass in `every_s` seconds, with how many like it were left out before it."""

    def __init__(self, every_s: float = 60.0):
        super().__init__()
        self.every_s = every_s
        self._kinds: dict[tuple, list[float]] = {}  # when one passed last, how many were left out since

    def filter(self, record: logging.LogRecord) -> bool:
        raised = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        kind = (record.name, record.levelno, re.sub(r"\d+", "#", str(record.msg))[:200], raised)
        passed, left_out = self._kinds.get(kind, [float("-inf"), 0])
        now = time.monotonic()
        if now - passed < self.every_s:
            self._kinds[kind][1] += 1
            return False
        if len(self._kinds) > 1000:
            self._kinds.clear()
        self._kinds[kind] = [now, 0]
        if left_out:
            record.msg, record.args = (
                f"{record.getMessage()} (and {left_out:.0f} more of this kind since the last line)",
                (),
            )
        return True


def fold_log_lines() -> None:
    """Fold what the server and its event loop write."""
    for name in ("uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        if not any(isinstance(filter_, Folded) for filter_ in logger.filters):
            logger.addFilter(Folded())


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to a port of a host; before anything is loaded, so that a port in use is told at once.

    Raises
    ------
    UsageError
        The port is in use, or the host is not this machine.
    """
    sockets: list[socket.socket] = []
    try:
        addresses = dict.fromkeys(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))
        for family, kind, protocol, _, address in list(addresses)[: 1 if port == 0 else None]:
            opened = socket.socket(family, kind, protocol)
            sockets.append(opened)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.bind(address)
            opened.listen(WAITING)  # nobody is refused while the models are loaded
    except OSError as error:
        for opened in sockets:
            opened.close()
        if sockets and sockets[:-1] and host == "localhost":  # one of its two addresses is enough
            return listen("127.0.0.1", port)
        raise UsageError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            "mlloop serve",
            "Stop what listens there, or choose another port, 0 for any that is free: mlloop serve --port 0",
        ) from error
    return sockets
