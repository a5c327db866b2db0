"""WebSocket and TCP connections of the server: the writing side of a WebSocket, and limits on unfinished requests.

`aiohttp` makes one system call per frame. Frames of a server are not masked, so a frame for many sockets is encoded
once, and all frames for one socket within an event loop iteration are written together (`Socket`). The close frame is
also written here: when a task other than the reader closes, `aiohttp` does not wait for the peer's close frame but
aborts the connection, and a peer that reads slowly would report 1006.

`aiohttp` limits the size of one request or message, but neither the time until the first request is complete nor the
sum over all connections. Therefore a `TcpConnection` in front of each connection's protocol counts the bytes received
since the last complete request or message.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, cast

from aiohttp import web

logger: Final = logging.getLogger("supawire.server")

MAX_UNSENT: Final = 32_000_000
"""Maximum unsent bytes for a client that does not read; above it the connection is aborted."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds to wait for the peer's close frame."""

_TEXT: Final = 0x81
_BINARY: Final = 0x82
_CLOSE: Final = b"\x88\x02"


def frame_of(data: bytes, binary: bool) -> bytes:
    """Return a complete unmasked WebSocket frame (RFC 6455 §5.2)."""
    size = len(data)
    kind = _BINARY if binary else _TEXT
    if size < 126:
        return bytes((kind, size)) + data
    if size < 65_536:
        return bytes((kind, 126, size >> 8, size & 255)) + data
    return bytes((kind, 127)) + size.to_bytes(8, "big") + data


class Socket:
    """The writing side of one socket."""

    __slots__ = ("_closing", "_ended", "_max_unsent", "_out", "_transport", "close_code", "readable", "ws")

    def __init__(self, ws: web.WebSocketResponse, max_unsent: int = MAX_UNSENT) -> None:
        self.ws: Final = ws
        self._max_unsent: Final = max_unsent
        self.readable: Final = asyncio.Event()
        """Cleared while reading is paused."""
        self.readable.set()
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._closing = False
        self.close_code: int | None = None
        """The close code that one of the sides sent first."""
        self._ended: Final = asyncio.Event()
        """Set when reading has ended."""

    async def open(self, request: web.Request) -> bool:
        """Answer the upgrade, followed by frames already added.

        Return False when the client has disconnected meanwhile.
        """
        try:
            await self.ws.prepare(request)
        except ConnectionResetError:
            return False
        self._transport = request.transport  # of any class: other event loops than asyncio's have their own
        if self._closing:
            self.abort()
        else:
            self.flush()
        return True

    def add(self, frame: bytes) -> bool:
        """Add a complete frame (`frame_of`); return True for the first one since the last flush."""
        self._out.append(frame)
        return len(self._out) == 1

    def flush(self) -> None:
        """Write the added frames; abort the connection of a client that has stopped reading."""
        out, transport = self._out, self._transport
        if transport is None:  # not open yet: the frames follow the response to the upgrade
            return
        self._out = []
        if self._closing or not out or transport.is_closing():
            return
        transport.write(out[0] if len(out) == 1 else b"".join(out))
        if transport.get_write_buffer_size() > self._max_unsent:
            self.abort()

    async def close(self, code: int) -> None:
        """Write the added frames, then close with this code; abort when the peer does not answer."""
        self.flush()
        transport, already, self._closing = self._transport, self._closing, True
        if transport is None or already:
            return
        self.close_code = self.close_code or code
        transport.write(_CLOSE + code.to_bytes(2, "big"))
        try:
            await asyncio.wait_for(self._ended.wait(), CLOSE_TIMEOUT)
        except TimeoutError:
            pass  # no answer within the timeout
        finally:
            if not self._ended.is_set():
                transport.abort()

    async def end(self) -> None:
        """Handle the end of reading: the peer closed, answered our close frame, or disconnected."""
        self._ended.set()
        if self._closing and self._transport is not None:
            self._transport.close()  # otherwise aiohttp sends another close frame at the end of the request
        elif self.ws.prepared:
            await self.ws.close()

    def abort(self) -> None:
        """Abort the connection; the peer reports 1006."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        """Pause reading."""
        self.readable.clear()

    def resume_reading(self) -> None:
        """Resume reading."""
        self.readable.set()


MAX_UNFINISHED: Final = 128_000_000
"""Maximum bytes of unfinished requests and messages in all; above it the one with the most is aborted."""


class TcpConnection(asyncio.Protocol):
    """A protocol in front of the protocol that parses the connection."""

    __slots__ = ("_inner", "_owner", "_timer", "_transport", "unfinished")

    def __init__(self, owner: "TcpConnections", inner: Any) -> None:
        self._owner: Final = owner
        self._inner: Final = inner
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self.unfinished: int = 0
        """Bytes received since the last complete request or message."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are not subclasses of it
        self._timer = asyncio.get_running_loop().call_later(self._owner.timeout, self.abort)
        self._owner.open[self._inner] = self
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.unfinished += len(data)
        self._owner.count(len(data))
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.complete()
        self._owner.open.pop(self._inner, None)
        self._inner.connection_lost(exc)

    def complete(self) -> None:
        """Record that a request or message is complete."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._owner.count(-self.unfinished)
        self.unfinished = 0

    def abort(self) -> None:
        """Abort the connection."""
        self.complete()
        if self._transport is not None:
            self._transport.abort()


class TcpConnections:
    """All open connections.

    timeout: timeout of the first request in seconds. limit: maximum of unfinished bytes over all connections.
    """

    def __init__(self, timeout: float, limit: int = MAX_UNFINISHED) -> None:
        self.timeout: Final = timeout
        self.open: Final[dict[Any, TcpConnection]] = {}
        """By the protocol that parses the connection."""
        self._limit: Final = limit
        self._unfinished = 0

    def wrap(self, make: Callable[[], Any]) -> Callable[[], TcpConnection]:
        """Return a protocol factory that puts a `TcpConnection` in front of each protocol."""
        return lambda: TcpConnection(self, make())

    def count(self, size: int) -> None:
        """Add to the unfinished bytes; above the limit, abort the connection that has most of them."""
        self._unfinished += size
        if size > 0 and self._unfinished > self._limit:
            largest = max(self.open.values(), key=lambda connection: connection.unfinished)
            logger.warning(
                "connections hold %d bytes of unfinished messages; aborting the one with %d of them",
                *(self._unfinished, largest.unfinished),
            )
            largest.abort()
