"""TCP connections of the local server: a timeout for the first request and a limit on unfinished data.

`aiohttp` limits the size of one request or message, but neither the time until the first request is complete nor the
sum over all connections. Therefore a `Connection` in front of each connection's protocol counts the bytes received
since the last complete request or message.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, cast

logger: Final = logging.getLogger("supawire.server")

MAX_UNFINISHED: Final = 128_000_000
"""Maximum bytes of unfinished requests and messages in all; above it the one with the most is aborted."""


class Connection(asyncio.Protocol):
    """A protocol in front of the protocol that parses the connection."""

    __slots__ = ("_all", "_inner", "_timer", "_transport", "unfinished")

    def __init__(self, everything: "Connections", inner: Any) -> None:
        self._all: Final = everything
        self._inner: Final = inner
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self.unfinished: int = 0
        """Bytes received since the last complete request or message."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are not subclasses of it
        self._timer = asyncio.get_running_loop().call_later(self._all.patience, self.cut)
        self._all.open[self._inner] = self
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.unfinished += len(data)
        self._all.count(len(data))
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.arrived()
        self._all.open.pop(self._inner, None)
        self._inner.connection_lost(exc)

    def arrived(self) -> None:
        """Record that a request or message is complete."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._all.count(-self.unfinished)
        self.unfinished = 0

    def cut(self) -> None:
        """Abort the connection."""
        self.arrived()
        if self._transport is not None:
            self._transport.abort()


class Connections:
    """All open connections.

    patience: timeout of the first request in seconds. limit: maximum of unfinished bytes over all connections.
    """

    def __init__(self, patience: float, limit: int = MAX_UNFINISHED) -> None:
        self.patience: Final = patience
        self.open: Final[dict[Any, Connection]] = {}
        """By the protocol that parses the connection."""
        self._limit: Final = limit
        self._unfinished = 0

    def guarded(self, make: Callable[[], Any]) -> Callable[[], Connection]:
        """Return a protocol factory that puts a `Connection` in front of each protocol."""
        return lambda: Connection(self, make())

    def count(self, size: int) -> None:
        """Add to the unfinished bytes; above the limit, abort the connection that has most of them."""
        self._unfinished += size
        if size > 0 and self._unfinished > self._limit:
            largest = max(self.open.values(), key=lambda connection: connection.unfinished)
            logger.warning(
                "connections hold %d bytes of unfinished messages; the one with %d of them is cut",
                *(self._unfinished, largest.unfinished),
            )
            largest.cut()
