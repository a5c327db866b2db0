"""The writing side of one server socket: frames in order, joined per loop turn, bounded.

`aiohttp` writes each frame by itself, which is one system call a frame. A server's frames are unmasked, so a frame for
a hundred sockets is the same bytes on each: it is built once, and what one socket gets within a loop turn is written
to its transport in one go. So is our close frame: when another task than the reader closes, `aiohttp` does not wait for
the peer's answer but cuts the connection, and a peer that is slow to read then sees 1006.

The sockets of the hub: frames in strict order, silence, the end (protocol §3.2, §3.4, §8).
"""

import asyncio
from typing import Final

from aiohttp import web

from supawire.core.frames import MAX_FRAME
from supawire.events import Instant
from supawire.server.connection import Inbound, Peer
from supawire.server.context import HubContext
from supawire.server.mailboxes import Take

MAX_UNSENT: Final = 32_000_000
"""Bytes that may wait in the kernel's stead for a client that does not read; one that is slower is cut off."""

CLOSING: Final = 2.0
"""Seconds that a peer has to answer a close frame."""

_TEXT: Final = 0x81
_BINARY: Final = 0x82
_CLOSE: Final = b"\x88\x02"


def frame_of(data: bytes, binary: bool) -> bytes:
    """A whole unmasked WebSocket frame (RFC 6455 §5.2)."""
    size = len(data)
    kind = _BINARY if binary else _TEXT
    if size < 126:
        return bytes((kind, size)) + data
    if size < 65_536:
        return bytes((kind, 126, size >> 8, size & 255)) + data
    return bytes((kind, 127)) + size.to_bytes(8, "big") + data


class Socket:
    """One socket of the server."""

    __slots__ = ("_closing", "_ended", "_out", "_transport", "readable", "ws")

    def __init__(self, ws: web.WebSocketResponse) -> None:
        self.ws: Final = ws
        self.readable: Final = asyncio.Event()
        """Cleared while nothing more is to be read."""
        self.readable.set()
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._closing = False
        self._ended: Final = asyncio.Event()
        """Set when nothing more is read."""

    async def open(self, request: web.Request) -> bool:
        """Answer the upgrade; what was added before goes out after it. False when the client has gone meanwhile."""
        try:
            await self.ws.prepare(request)
        except ConnectionResetError:
            return False
        self._transport = request.transport  # of any class: event loops other than asyncio's have their own
        if self._closing:
            self.abort()
        else:
            self.flush()
        return True

    def add(self, frame: bytes) -> bool:
        """Add a whole frame (`frame_of`); True when it is the first one since the last flush."""
        self._out.append(frame)
        return len(self._out) == 1

    def flush(self) -> None:
        """Write what was added; cut off a client that has stopped reading."""
        out, transport = self._out, self._transport
        if transport is None:  # not open yet: it goes out with the answer to the upgrade
            return
        self._out = []
        if self._closing or not out or transport.is_closing():
            return
        transport.write(out[0] if len(out) == 1 else b"".join(out))
        if transport.get_write_buffer_size() > MAX_UNSENT:
            self.abort()

    async def close(self, code: int) -> None:
        """Write what was added, then close with this code; a peer that does not answer is cut off."""
        self.flush()
        transport, already, self._closing = self._transport, self._closing, True
        if transport is None or already:
            return
        transport.write(_CLOSE + code.to_bytes(2, "big"))
        try:
            await asyncio.wait_for(self._ended.wait(), CLOSING)
        except TimeoutError:
            pass  # it does not answer
        finally:
            if not self._ended.is_set():
                transport.abort()

    async def end(self) -> None:
        """The peer closed, or answered our close, or is gone."""
        self._ended.set()
        if self._closing and self._transport is not None:
            self._transport.close()  # otherwise aiohttp sends one more close frame at the end of the request
        elif self.ws.prepared:
            await self.ws.close()

    def abort(self) -> None:
        """Cut the connection; the peer sees 1006."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def hold(self) -> None:
        """Read nothing more for now."""
        self.readable.clear()

    def release(self) -> None:
        """Read again."""
        self.readable.set()


class Sockets:
    """Every open socket. `take` handles a frame whose turn it is."""

    def __init__(self, desk: HubContext, take: Take) -> None:
        self._context = desk
        self._outbox = desk.outbox
        self._take: Final = take

    def open(self, peer: Peer) -> None:
        """A socket is there."""
        self._context.peers[peer.id] = peer
        peer.idle = self._context.schedule.at(
            peer.last_received_at + self._context.timings.idle, lambda: self._listen(peer)
        )
        self._sweep_later(peer)

    def received(self, peer: Peer, data: bytes, binary: bool, now: Instant) -> None:
        """A frame came in. It waits when the socket stands still."""
        peer.last_received_at = now.mono
        if len(data) > MAX_FRAME:
            self.close(peer, 1009)
        elif not peer.suspended:
            self._take(peer, data, binary)
        else:
            self._context.standing.add(peer, Inbound(data, binary))

    def gone(self, peer: Peer) -> None:
        """The socket has ended, whoever ended it. Its channels leave."""
        peer.gone = True
        self._context.peers.pop(peer.id, None)
        self._end_channels(peer)
        for timer in (peer.idle, peer.sweep):
            if timer is not None:
                timer.cancel()

    def close(self, peer: Peer, code: int | None) -> None:
        """End a socket from this side; its channels leave at once. Without a code it is cut."""
        self._outbox.close(peer, code)
        self._end_channels(peer)

    def _end_channels(self, peer: Peer) -> None:
        for channel in list(peer.channels.values()):
            self._context.rooms.end(channel)

    # --- silence ---

    def _listen(self, peer: Peer) -> None:
        """A socket without a byte for a minute is closed with 1000 (protocol §3.4)."""
        if peer.gone:
            return
        at = peer.last_received_at + self._context.timings.idle
        if self._context.now.mono >= at:
            self.close(peer, 1000)
        else:
            peer.idle = self._context.schedule.at(at, lambda: self._listen(peer))

    def _sweep_later(self, peer: Peer) -> None:
        if self._context.timings.sweep is not None:
            at = self._context.now.mono + self._context.timings.sweep
            peer.sweep = self._context.schedule.at(at, lambda: self._sweep(peer))

    def _sweep(self, peer: Peer) -> None:
        """A socket whose last channel is gone is cut; one that never had any is left alone (protocol §8)."""
        if peer.gone:
            return
        if peer.had_channels and not peer.channels:
            self.close(peer, None)
        else:
            self._sweep_later(peer)
