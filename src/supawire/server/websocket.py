"""WebSocket connections of the server: the hub's side (`Sockets`) and the writing side of one socket (`Socket`).

`aiohttp` makes one system call per frame. Frames of a server are not masked, so a frame for many sockets is encoded
once, and all frames for one socket within an event loop iteration are written together. The close frame is also
written here: when a task other than the reader closes, `aiohttp` does not wait for the peer's close frame but aborts
the connection, and a peer that reads slowly would report 1006.
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
"""Maximum unsent bytes for a client that does not read; above it the connection is aborted."""

CLOSING: Final = 2.0
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

    __slots__ = ("_closing", "_ended", "_out", "_transport", "readable", "ws")

    def __init__(self, ws: web.WebSocketResponse) -> None:
        self.ws: Final = ws
        self.readable: Final = asyncio.Event()
        """Cleared while reading is paused."""
        self.readable.set()
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._closing = False
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
        if transport.get_write_buffer_size() > MAX_UNSENT:
            self.abort()

    async def close(self, code: int) -> None:
        """Write the added frames, then close with this code; abort when the peer does not answer."""
        self.flush()
        transport, already, self._closing = self._transport, self._closing, True
        if transport is None or already:
            return
        transport.write(_CLOSE + code.to_bytes(2, "big"))
        try:
            await asyncio.wait_for(self._ended.wait(), CLOSING)
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

    def hold(self) -> None:
        """Pause reading."""
        self.readable.clear()

    def release(self) -> None:
        """Resume reading."""
        self.readable.set()


class Sockets:
    """All open connections of a hub. `take` handles a frame when its connection is not suspended."""

    def __init__(self, desk: HubContext, take: Take) -> None:
        self._context = desk
        self._outbox = desk.outbox
        self._take: Final = take

    def open(self, peer: Peer) -> None:
        """Register a connection and start its idle timeout."""
        self._context.peers[peer.id] = peer
        peer.idle = self._context.schedule.at(
            peer.last_received_at + self._context.timings.idle, lambda: self._listen(peer)
        )
        self._sweep_later(peer)

    def received(self, peer: Peer, data: bytes, binary: bool, now: Instant) -> None:
        """Handle a received frame, or queue it while the connection is suspended."""
        peer.last_received_at = now.mono
        if len(data) > MAX_FRAME:
            self.close(peer, 1009)
        elif not peer.suspended:
            self._take(peer, data, binary)
        else:
            self._context.mailboxes.add(peer, Inbound(data, binary))

    def gone(self, peer: Peer) -> None:
        """Remove a connection after its socket has ended, and end its channels."""
        peer.gone = True
        self._context.peers.pop(peer.id, None)
        self._end_channels(peer)
        for timer in (peer.idle, peer.sweep):
            if timer is not None:
                timer.cancel()

    def close(self, peer: Peer, code: int | None) -> None:
        """Close a connection and end its channels. Without a code the connection is aborted."""
        self._outbox.close(peer, code)
        self._end_channels(peer)

    def _end_channels(self, peer: Peer) -> None:
        for channel in list(peer.channels.values()):
            self._context.rooms.end(channel)

    # --- idle timeout ---

    def _listen(self, peer: Peer) -> None:
        """Close a connection that has been idle for `Timings.idle` with 1000."""
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
        """Abort a connection whose last channel has ended; one that never had a channel stays open."""
        if peer.gone:
            return
        if peer.had_channels and not peer.channels:
            self.close(peer, None)
        else:
            self._sweep_later(peer)
