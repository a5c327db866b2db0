"""The two ends of every transport, behind one face, so that one contract is tested on all."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import WSMsgType, web

from supawire.options import Endpoint
from supawire.testing.recording import RecordingTransport
from supawire.transport import Closed, Connection, OpenRequest, Transport, _aiohttp
from supawire.transport._connection import AbortableWebSocket
from supawire.transport.memory import MemoryTransport
from supawire.transport.websocket import WebSocketTransport

KEY = "a+secret/key="


class Peer(Protocol):
    """The other end of one connection."""

    async def send(self, data: bytes, binary: bool = False) -> None: ...

    async def receive(self) -> tuple[bytes, bool]: ...

    async def close(self, code: int | None) -> None: ...

    async def drop(self) -> None: ...

    def never_answer_close(self) -> None: ...


class Rig(Protocol):
    """A transport, and the server that it reaches."""

    @property
    def transport(self) -> Transport: ...

    @property
    def frame(self) -> int:
        """The size of a frame of which a few hundred fill the way to a peer that receives nothing."""
        ...

    def request(self) -> OpenRequest: ...

    async def accept(self) -> Peer: ...

    async def refuse(self, status: int, body: str, retry_after: float | None) -> None: ...

    async def leave(self) -> None:
        """Nobody listens any more."""
        ...


@dataclass
class Collector:
    """A sink that keeps everything."""

    max_batch: int = 256
    frames: list[tuple[bytes, bool]] = field(default_factory=list[tuple[bytes, bool]])
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    batches: list[int] = field(default_factory=list[int])
    """How many frames were there, each time that there were no more."""

    def frame(self, data: bytes, binary: bool, /) -> None:
        self.frames.append((data, binary))
        self.arrived.set()

    def batch_done(self) -> None:
        self.batches.append(len(self.frames))

    async def has(self, count: int) -> list[tuple[bytes, bool]]:
        """Wait for so many frames."""
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
    """Open a connection and read it."""
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


class MemoryPeerFace:
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


class MemoryRig:
    frame = 10

    def __init__(self) -> None:
        self.memory = MemoryTransport(capacity=20)
        self.transport: Transport = self.memory

    def request(self) -> OpenRequest:
        return OpenRequest(Endpoint.of("http://127.0.0.1:1", KEY))

    async def accept(self) -> Peer:
        return MemoryPeerFace(await self.memory.accept())

    async def refuse(self, status: int, body: str, retry_after: float | None) -> None:
        self.memory.refuse(status, body, retry_after=retry_after)

    async def leave(self) -> None:
        self.memory.refuse()


class RecordingRig(MemoryRig):
    """The same connections, with somebody who keeps what passes."""

    def __init__(self) -> None:
        super().__init__()
        self.transport = RecordingTransport(self.memory)


# --- WebSocket


class WebSocketPeer:
    def __init__(self, socket: web.WebSocketResponse, request: web.Request) -> None:
        self.socket = socket
        self.request = request

    async def send(self, data: bytes, binary: bool = False) -> None:
        await self.socket.send_frame(data, WSMsgType.BINARY if binary else WSMsgType.TEXT)

    async def receive(self) -> tuple[bytes, bool]:
        message = await self.socket.receive()
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            return bytes(message.data), message.type is WSMsgType.BINARY
        raise EOFError(f"the client closed with code {self.socket.close_code}")

    async def close(self, code: int | None) -> None:
        payload = b"" if code is None else code.to_bytes(2)
        await self.socket.send_frame(payload, WSMsgType.CLOSE)

    async def drop(self) -> None:
        assert self.request.transport is not None
        self.request.transport.abort()

    def never_answer_close(self) -> None:
        """It reads nothing, so it answers nothing."""


class WebSocketRig:
    frame = 100_000

    def __init__(self) -> None:
        self.transport = WebSocketTransport()
        self._peers: asyncio.Queue[WebSocketPeer] = asyncio.Queue()
        self._refusal: web.Response | None = None
        self._runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=0.1)
        self._over = asyncio.Event()
        self.url = ""

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("GET", "/{path:.*}", self._serve)
        return app

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if self._refusal is not None:
            return self._refusal
        socket = web.WebSocketResponse(decode_text=False, autoclose=False, max_msg_size=1 << 24)
        await socket.prepare(request)
        self._peers.put_nowait(WebSocketPeer(socket, request))
        await self._over.wait()
        return socket

    async def start(self) -> None:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        self._over.set()
        await self._runner.cleanup()

    def request(self) -> OpenRequest:
        return OpenRequest(Endpoint.of(self.url, KEY))

    async def accept(self) -> WebSocketPeer:
        return await self._peers.get()

    async def refuse(self, status: int, body: str, retry_after: float | None) -> None:
        headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
        self._refusal = web.Response(status=status, text=body, headers=headers)

    async def leave(self) -> None:
        await self.stop()


@asynccontextmanager
async def memory_rig() -> AsyncGenerator[Rig, None]:
    yield MemoryRig()


@asynccontextmanager
async def recording_rig() -> AsyncGenerator[Rig, None]:
    yield RecordingRig()


@asynccontextmanager
async def websocket_rig() -> AsyncGenerator[WebSocketRig, None]:
    rig = WebSocketRig()
    await rig.start()
    try:
        yield rig
    finally:
        await rig.stop()


class _Receiving(AbortableWebSocket):
    """As with an aiohttp that does not have the queue which is read otherwise."""

    def __init__(self, reader: Any, writer: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(reader, writer, *args, **kwargs)
        self.read = self.receive


@asynccontextmanager
async def receiving_rig() -> AsyncGenerator[WebSocketRig, None]:
    _aiohttp.AbortableWebSocket = _Receiving
    try:
        async with websocket_rig() as rig:
            yield rig
    finally:
        _aiohttp.AbortableWebSocket = AbortableWebSocket


RIGS = {
    "memory": memory_rig,
    "recording": recording_rig,
    "websocket": websocket_rig,
    "websocket by receive()": receiving_rig,
}
