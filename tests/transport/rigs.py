"""Both ends of every transport behind one interface, so that one contract test covers all transports."""

import asyncio
import json
import ssl
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

import pytest

from supawire.options import Endpoint
from supawire.testing.recording import RecordingTransport
from supawire.transport import Closed, Connection, OpenRequest, Transport
from supawire.transport.base import CLOSE_TIMEOUT
from supawire.transport.longpoll import LongPollTransport
from supawire.transport.memory import MemoryTransport
from supawire.transport.websocket import Reading, WebSocketTransport
from tests.faults.misbehaver import BINARY, CLOSE, TEXT, Misbehaver, Wire

KEY = "a+secret/key="


class Peer(Protocol):
    """The other end of one connection."""

    async def send(self, data: bytes, binary: bool = False) -> None: ...

    async def receive(self) -> tuple[bytes, bool]: ...

    async def close(self, code: int | None) -> None: ...

    async def drop(self) -> None: ...

    def never_answer_close(self) -> None: ...

    def set_reading(self, reads: bool) -> None:
        """Stop reading from the network, or continue; `receive` still returns what was read before."""
        ...

    async def reached(self) -> None:
        """Wait until the first frame has arrived, if a frame does not leave when it is written."""
        ...


class Rig(Protocol):
    """A transport, and the server that it connects to."""

    carries_binary: bool
    """Whether it carries binary frames."""
    carries_codes: bool
    """Whether each end receives the close code of the other."""

    @property
    def transport(self) -> Transport: ...

    @property
    def frame(self) -> int:
        """Size of a frame of which a few hundred fill the buffers on the way to a peer that does not read."""
        ...

    def request(self) -> OpenRequest: ...

    async def accept(self) -> Peer: ...

    async def refuse(self, status: int, body: str, retry_after: float | None) -> None: ...

    async def leave(self) -> None:
        """Stop listening."""
        ...


@dataclass
class Collector:
    """A sink that collects all frames."""

    max_batch: int = 256
    frames: list[tuple[bytes, bool]] = field(default_factory=list[tuple[bytes, bool]])
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    batches: list[int] = field(default_factory=list[int])
    """The number of frames received at each end of a batch."""

    def frame(self, data: bytes, binary: bool, /) -> None:
        self.frames.append((data, binary))
        self.arrived.set()

    def batch_done(self) -> None:
        self.batches.append(len(self.frames))

    async def has(self, count: int) -> list[tuple[bytes, bool]]:
        """Wait for this many frames and return them."""
        while len(self.frames) < count:
            self.arrived.clear()
            await self.arrived.wait()
        return self.frames


@dataclass
class Line:
    """An open connection that is being read."""

    connection: Connection
    peer: Peer
    sink: Collector
    run: "asyncio.Task[Closed]"


@asynccontextmanager
async def line(rig: Rig, sink: Collector | None = None) -> AsyncGenerator[Line, None]:
    """Open a connection and read from it in a task."""
    sink = sink or Collector()
    connection, peer = await asyncio.gather(rig.transport.open(rig.request()), rig.accept())
    run = asyncio.create_task(connection.run(sink))
    try:
        yield Line(connection, peer, sink, run)
    finally:
        connection.abort()
        run.cancel()
        await asyncio.wait([run])


# --- memory


class AsyncMemoryPeer:
    def __init__(self, peer: Any) -> None:
        self._peer = peer

    async def send(self, data: bytes, binary: bool = False) -> None:
        self._peer.send(data, binary)

    async def receive(self) -> tuple[bytes, bool]:
        return tuple(await self._peer.receive())

    async def close(self, code: int | None) -> None:
        self._peer.close(code)

    async def drop(self) -> None:
        self._peer.drop()

    def never_answer_close(self) -> None:
        self._peer.answers_close = False

    def set_reading(self, reads: bool) -> None:
        """Do nothing: this peer reads only what `receive` takes."""

    async def reached(self) -> None:
        """Do nothing: frames leave at once."""


class MemoryRig:
    carries_binary = carries_codes = True
    frame = 10

    def __init__(self, close_timeout: float) -> None:
        self.memory = MemoryTransport(capacity=20, close_timeout=close_timeout)
        self.transport: Transport = self.memory

    def request(self) -> OpenRequest:
        return OpenRequest(Endpoint.of("http://127.0.0.1:1", KEY))

    async def accept(self) -> Peer:
        return AsyncMemoryPeer(await self.memory.accept())

    async def refuse(self, status: int, body: str, retry_after: float | None) -> None:
        self.memory.refuse(status, body, retry_after=retry_after)

    async def leave(self) -> None:
        self.memory.refuse()


class RecordingRig(MemoryRig):
    """The same connections, whose frames are recorded."""

    def __init__(self, close_timeout: float) -> None:
        super().__init__(close_timeout)
        self.transport = RecordingTransport(self.memory)


# --- WebSocket


class WebSocketPeer:
    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    async def send(self, data: bytes, binary: bool = False) -> None:
        self.wire.send(data, BINARY if binary else TEXT)

    async def receive(self) -> tuple[bytes, bool]:
        kind, data = await self.wire.read_frame()
        if kind == CLOSE:
            raise EOFError(f"the client closed with code {int.from_bytes(data[:2])}")
        return data, kind == BINARY

    async def close(self, code: int | None) -> None:
        self.wire.send(b"" if code is None else code.to_bytes(2), CLOSE)

    async def drop(self) -> None:
        self.wire.reset()

    def never_answer_close(self) -> None:
        """Do nothing: this peer sends only what the test sends."""

    def set_reading(self, reads: bool) -> None:
        self.wire.set_reading(reads)

    async def reached(self) -> None:
        """Do nothing: frames leave at once."""


@dataclass(frozen=True)
class Certified:
    """The TLS contexts of a server on this machine and of clients that trust it."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@cache
def certified() -> Certified:
    """Create an authority and a certificate of it. Skips the test without trustme."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    return Certified(server, client)


class WebSocketRig:
    carries_binary = carries_codes = True
    frame = 100_000

    def __init__(self, transport: Transport, tls: Certified | None = None) -> None:
        self.transport = transport
        self.server = Misbehaver(Wire.upgrade, tls=tls and tls.server)
        self._tls = tls
        self._accepted = 0

    def request(self) -> OpenRequest:
        return OpenRequest(Endpoint.of(self.server.url, KEY), ssl=self._tls and self._tls.client)

    async def accept(self) -> WebSocketPeer:
        self._accepted += 1
        return WebSocketPeer(await self.server.connected(self._accepted))

    async def refuse(self, status: int, body: str, retry_after: float | None) -> None:
        headers = [] if retry_after is None else [f"Retry-After: {retry_after:g}"]
        self.server.scripts = [lambda wire: wire.refuse(status, body.encode(), *headers)]

    async def leave(self) -> None:
        await self.server.leave()


@asynccontextmanager
async def memory_rig(close_timeout: float = CLOSE_TIMEOUT) -> AsyncGenerator[Rig, None]:
    yield MemoryRig(close_timeout)


@asynccontextmanager
async def recording_rig(close_timeout: float = CLOSE_TIMEOUT) -> AsyncGenerator[Rig, None]:
    yield RecordingRig(close_timeout)


@asynccontextmanager
async def websocket_rig(
    close_timeout: float = CLOSE_TIMEOUT, *, tls: bool = False, fast: bool = False, reading: Reading = Reading.QUEUE
) -> AsyncGenerator[WebSocketRig, None]:
    """Provide the WebSocket transport. Skips the test when a package that it needs is missing."""
    if fast:
        pytest.importorskip("aiofastnet")
    transport = WebSocketTransport(close_timeout=close_timeout, fast=fast, reading=reading)
    rig = WebSocketRig(transport, certified() if tls else None)
    async with rig.server:
        yield rig


# --- long polling


class LongPollPeer:
    """The server's end of one session; a POST is answered when the test has received all of its frames."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.wires: set[Wire] = set()
        """The open TCP connections on which the session was used."""
        self._out: deque[str] = deque()
        self._in: asyncio.Queue[tuple[bytes, asyncio.Event] | None] = asyncio.Queue()
        self._news = asyncio.Event()
        self._posted = asyncio.Event()
        self._ended = False
        self.dropped = False

    async def send(self, data: bytes, binary: bool = False) -> None:
        assert not binary
        self._out.append(data.decode())
        self._news.set()

    async def receive(self) -> tuple[bytes, bool]:
        received = await self._in.get()
        if received is None:
            self._in.put_nowait(None)
            raise EOFError("the client abandoned the session")
        frame, taken = received
        taken.set()
        return frame, False

    async def close(self, code: int | None) -> None:
        self._ended = True
        self._news.set()

    async def drop(self) -> None:
        self.dropped = True
        for wire in self.wires:
            wire.reset()

    def never_answer_close(self) -> None:
        """Do nothing: a session has no close frames."""

    def set_reading(self, reads: bool) -> None:
        """Do nothing: a POST is answered when `receive` has taken its frames."""

    async def reached(self) -> None:
        await self._posted.wait()

    def left(self, wire: Wire) -> None:
        """Handle the end of a TCP connection."""
        self.wires.discard(wire)
        if not self.wires:
            self._in.put_nowait(None)

    async def poll(self) -> dict[str, Any]:
        """Answer a GET."""
        while not self._out:
            if self._ended:
                return {"status": 410, "token": "another", "messages": []}
            self._news.clear()
            await self._news.wait()
        messages = list(self._out)
        self._out.clear()
        return {"status": 200, "token": self.token, "messages": messages}

    async def post(self, frames: list[bytes]) -> dict[str, Any]:
        """Answer a POST."""
        self._posted.set()
        taken = [asyncio.Event() for _ in frames]
        for entry in zip(frames, taken, strict=True):
            self._in.put_nowait(entry)
        for event in taken:
            await event.wait()
        return {"status": 200}


class LongPollRig:
    carries_binary = carries_codes = False
    frame = 10

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.server = Misbehaver(self._serve)
        self._peers: dict[str, LongPollPeer] = {}
        self._accepted: asyncio.Queue[LongPollPeer] = asyncio.Queue()

    async def _serve(self, wire: Wire) -> None:
        """Answer the requests of one TCP connection until the client closes it."""
        peer: LongPollPeer | None = None
        arriving = asyncio.ensure_future(wire.request())
        try:
            while True:
                await arriving
                parts = urlsplit(wire.head.split()[1])
                query = dict(parse_qsl(parts.query))
                assert (parts.path, query["vsn"], query["apikey"]) == ("/realtime/v1/longpoll", "1.0.0", KEY)
                peer = self._peers.get(query.get("token", "")) or self._new_peer()
                peer.wires.add(wire)
                if peer.dropped:
                    wire.reset()
                    return
                answering = asyncio.ensure_future(self._answer(peer, wire, "token" not in query))
                arriving = asyncio.ensure_future(wire.request())
                await asyncio.wait([answering, arriving], return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    answering.cancel()  # the client has closed the connection
                    continue
                body = json.dumps(answering.result()).encode()
                wire.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        finally:
            arriving.cancel()
            if peer is not None:
                peer.left(wire)

    def _new_peer(self) -> LongPollPeer:
        peer = LongPollPeer(f"session/{len(self._peers)}+=")
        self._peers[peer.token] = peer
        self._accepted.put_nowait(peer)
        return peer

    async def _answer(self, peer: LongPollPeer, wire: Wire, new: bool) -> dict[str, Any]:
        if new:
            return {"status": 410, "token": peer.token, "messages": []}
        if wire.head.startswith("GET"):
            return await peer.poll()
        many = wire.header("content-type") == "application/x-ndjson"
        return await peer.post(wire.body.split(b"\n") if many else [wire.body])

    def request(self) -> OpenRequest:
        return OpenRequest(Endpoint.of(self.server.url, KEY))

    async def accept(self) -> LongPollPeer:
        return await self._accepted.get()

    async def refuse(self, status: int, body: str, retry_after: float | None) -> None:
        headers = [] if retry_after is None else [f"Retry-After: {retry_after:g}"]
        self.server.scripts = [lambda wire: wire.refuse(status, body.encode(), *headers)]

    async def leave(self) -> None:
        await self.server.leave()


@asynccontextmanager
async def longpoll_rig(close_timeout: float = CLOSE_TIMEOUT) -> AsyncGenerator[LongPollRig, None]:
    rig = LongPollRig(LongPollTransport(close_timeout=close_timeout))
    async with rig.server:
        yield rig


WEBSOCKET_RIGS = {
    "websocket": websocket_rig,
    "websocket by receive()": partial(websocket_rig, reading=Reading.STEP),
    "websocket in a task": partial(websocket_rig, reading=Reading.TASK),
    "TLS": partial(websocket_rig, tls=True),
    "fast": partial(websocket_rig, fast=True),
    "fast TLS": partial(websocket_rig, tls=True, fast=True),
    "fast TLS in a task": partial(websocket_rig, tls=True, fast=True, reading=Reading.TASK),
}
"""The WebSocket transport over TCP and TLS, with the connections of aiofastnet, and with each way to read frames."""

RIGS = {"memory": memory_rig, "recording": recording_rig, **WEBSOCKET_RIGS, "longpoll": longpoll_rig}
