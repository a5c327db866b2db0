"""A transport and an HTTP client without a network, for the tests of this library and of its users.

The peer of a `MemoryTransport` is an object in the same event loop, controlled by the test:

    transport = MemoryTransport()
    client = connect_async(url, key, transport=transport)      # opened by another task
    peer = await transport.accept()
    frame = await peer.receive()
    peer.send(b"[null, ...]")

`FakeHttp` answers what `publish` and `offline="http"` send:

    http = FakeHttp()
    http.answer(429, headers={"retry-after": "7"})
    async with connect_async(url, key, http=http) as client:
        await client.publish("room", "typing", {"user": "alice"})
    assert http.requests[0].url.endswith("/broadcast/room/events/typing")
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from supawire.errors import ConnectError, HttpError
from supawire.transport.base import CLOSE_TIMEOUT, Closed, HttpRequest, HttpResponse, OpenRequest, Sink


class MemoryFrame(NamedTuple):
    """One frame."""

    data: bytes
    binary: bool


class MemoryTransport:
    """Opens connections in memory.

    Args: capacity: how many frames a peer accepts before `receive` takes some. close_timeout: seconds that a close
        waits for the peer.
    """

    def __init__(self, *, capacity: int | None = None, close_timeout: float = CLOSE_TIMEOUT) -> None:
        self._capacity = capacity
        self._close_timeout = close_timeout
        self._refusals: deque[ConnectError] = deque()
        self._peers: asyncio.Queue[MemoryPeer] = asyncio.Queue()
        self.requests: list[OpenRequest] = []
        """All attempts so far, including refused ones."""
        self.silent = False
        """When True, attempts are not answered: they wait until they are cancelled."""

    async def open(self, request: OpenRequest, /) -> "MemoryConnection":
        """Open a connection, or refuse it as set by `refuse`."""
        self.requests.append(request)
        if self.silent:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(0)
        if self._refusals:
            raise self._refusals.popleft()
        connection = MemoryConnection(self._capacity, close_timeout=self._close_timeout)
        self._peers.put_nowait(connection.peer)
        return connection

    def refuse(
        self, status: int | None = None, body: str = "", *, retry_after: float | None = None, times: int = 1
    ) -> None:
        """Refuse the next attempts: with an HTTP status or, without one, as if no server were listening."""
        for _ in range(times):
            self._refusals.append(
                ConnectError("refused by the test", status=status, body=body or None, retry_after=retry_after)
            )

    async def accept(self) -> "MemoryPeer":
        """Wait for the next connection and return its peer."""
        return await self._peers.get()


class MemoryPeer:
    """The server's end of a connection in memory."""

    def __init__(self, connection: "MemoryConnection") -> None:
        self._connection = connection
        self._arrived: asyncio.Queue[MemoryFrame | Closed] = asyncio.Queue()
        self.answers_close = True
        """Whether the client's close frame is answered."""

    def send(self, data: bytes, binary: bool = False) -> None:
        """Send one frame to the client."""
        self._connection.receive_from_peer(MemoryFrame(data, binary))

    async def receive(self) -> MemoryFrame:
        """Return the client's next frame. Raises `EOFError` when the client has closed."""
        item = await self._arrived.get()
        if isinstance(item, Closed):
            self._arrived.put_nowait(item)
            raise EOFError(f"the client closed with code {item.code}")  # noqa: TRY004  not a type error
        self._connection.frame_taken()
        return item

    def close(self, code: int | None = 1000, text: str = "") -> None:
        """Close the connection with this code."""
        self._connection.receive_from_peer(Closed(code, text))

    def drop(self) -> None:
        """Drop the connection without a close frame."""
        self._connection.receive_from_peer(Closed(None, "the connection was lost"))

    @property
    def waiting(self) -> int:
        """The number of the client's frames that have not been received yet."""
        return self._arrived.qsize()

    def receive_from_client(self, item: MemoryFrame | Closed) -> None:
        """Called by the client's end with a frame, or with the end of the connection."""
        self._arrived.put_nowait(item)


class MemoryConnection:
    """The client's end of a connection in memory."""

    def __init__(self, capacity: int | None = None, *, close_timeout: float = CLOSE_TIMEOUT) -> None:
        self._free = capacity
        self._close_timeout = close_timeout
        self._inbox: asyncio.Queue[MemoryFrame | Closed] = asyncio.Queue()
        self._outbox: deque[MemoryFrame] = deque()
        self._progress = asyncio.Event()
        self._reading = asyncio.Event()
        self._reading.set()
        self._ended = asyncio.Event()
        self._write_closed = False
        self._accepted = 0
        self.written: int = 0
        self.clock_offset: float | None = 0.0
        """Both ends use the same clock."""
        self.peer: MemoryPeer = MemoryPeer(self)

    # --- the client's side

    def write(self, data: bytes, binary: bool, /) -> None:
        """Send one frame, once the peer has room for it."""
        self._accepted += 1
        if not self._write_closed:
            self._outbox.append(MemoryFrame(data, binary))
            self._send_queued()

    async def flush(self, count: int, /) -> bool:
        """Wait until `count` frames are written; return False when the connection ends before."""
        while self.written < count and not self._ended.is_set():
            self._progress.clear()
            await self._progress.wait()
        return self.written >= count

    async def run(self, sink: Sink, /) -> Closed:
        """Read until the connection ends, and return how it ended."""
        taken = 0
        try:
            while True:
                if self._inbox.empty():
                    sink.batch_done()
                item = await self._inbox.get()
                if isinstance(item, Closed):
                    break
                sink.frame(*item)
                taken += 1
                if taken >= sink.max_batch:
                    taken = 0
                    sink.batch_done()
                    await asyncio.sleep(0)
                if not self._reading.is_set():
                    sink.batch_done()
                    await self._reading.wait()
        finally:
            self._end(Closed(None))
        return Closed(item.code, item.text, self.written)

    def pause_reading(self) -> None:
        """Stop passing frames to the sink."""
        self._reading.clear()

    def resume_reading(self) -> None:
        """Continue to pass frames to the sink."""
        self._reading.set()

    async def close(self, code: int = 1000) -> None:
        """Send a close frame, wait a bounded time for the peer's, and close."""
        self.resume_reading()
        try:
            async with asyncio.timeout(self._close_timeout):
                if await self.flush(self._accepted) and not self._write_closed:
                    self._write_closed = True
                    self.peer.receive_from_client(Closed(code))
                    if self.peer.answers_close:
                        self.receive_from_peer(Closed(code))
                await self._ended.wait()
        except TimeoutError:
            return
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._end(Closed(None))
        self.resume_reading()
        self._inbox.put_nowait(Closed(None, "the connection was lost"))

    # --- the peer's side

    def receive_from_peer(self, item: MemoryFrame | Closed) -> None:
        """Called by the peer with a frame or its end; ignored after the end of the connection."""
        if not self._ended.is_set():
            self._inbox.put_nowait(item)

    def frame_taken(self) -> None:
        """Called when the peer has received one frame."""
        if self._free is not None:
            self._free += 1
        self._send_queued()

    # --- both

    def _send_queued(self) -> None:
        """Hand over as many frames as the peer has room for."""
        while self._outbox and (self._free is None or self._free > 0):
            self.peer.receive_from_client(self._outbox.popleft())
            self.written += 1
            if self._free is not None:
                self._free -= 1
        self._progress.set()

    def _end(self, end: Closed) -> None:
        if not self._ended.is_set():
            if not self._write_closed:
                self.peer.receive_from_client(end)
            self._write_closed = True
            self._outbox.clear()
            self._ended.set()
            self._progress.set()


class FakeHttp:
    """Records every request, and answers in call order with the answers that were set, then always with 202."""

    def __init__(self) -> None:
        self.requests: list[HttpRequest] = []
        """All requests so far."""
        self._script: deque[HttpResponse | HttpError | tuple[asyncio.Event, HttpResponse]] = deque()

    def answer(
        self, status: int = 202, body: bytes | Any = b"", headers: Mapping[str, str] | None = None, *, times: int = 1
    ) -> None:
        """Set the answer to the next requests; a body that is not bytes is sent as JSON."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        named = {name.lower(): value for name, value in (headers or {}).items()}
        self._script.extend([HttpResponse(status, data, named)] * times)

    def fail(self, *, maybe_sent: bool = False, retryable: bool = True, times: int = 1) -> None:
        """Let the next requests fail: the connection is refused or, with `maybe_sent`, breaks after sending."""
        text = "the connection broke" if maybe_sent else "the connection was refused"
        for _ in range(times):
            self._script.append(HttpError(text, maybe_sent=maybe_sent, retryable=retryable))

    def hold(self, status: int = 202) -> asyncio.Event:
        """Delay the answer to the next request until the returned event is set."""
        answered = asyncio.Event()
        self._script.append((answered, HttpResponse(status)))
        return answered

    async def request(self, request: HttpRequest, /) -> HttpResponse:
        """Answer one request; see `HttpClient.request`."""
        self.requests.append(request)
        await asyncio.sleep(0)
        answer = self._script.popleft() if self._script else HttpResponse(202)
        if isinstance(answer, tuple):
            answered, answer = answer
            await answered.wait()
        if isinstance(answer, HttpError):
            raise answer
        return answer
