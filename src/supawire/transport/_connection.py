"""One open WebSocket of aiohttp, with a read loop and a writer that needs no task.

Reading: frames are taken directly from the queue that aiohttp's parser fills, which costs an eighth less than its
public `receive()`. The queue is private, so a version of aiohttp that lacks it or has it in another form is read by
`receive()`. Pings and close frames are answered here in both cases. `Stepper` resumes the read loop immediately when
data arrives, instead of one iteration of the event loop later. Taking queued frames does not yield, so the read loop
yields to the event loop explicitly, after as many frames as the sink specifies.

Writing: aiohttp's `send_frame` is a coroutine that nearly always completes at its first step, so a frame costs only one
step. When the socket's buffer is full it suspends at a future; later frames are queued, and the future's callback
sends them.

Closing is implemented here too: aiohttp's close waits ten seconds for some peers, and aiohttp has no abort.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sized
from enum import StrEnum
from inspect import iscoroutinefunction
from typing import Any, Final, Generic, Protocol, TypeVar, cast

import aiohttp
from aiohttp import EofStream, WSMsgType

from supawire.transport._aiohttp import carrier
from supawire.transport.base import CLOSE_TIMEOUT, Closed, Sink

A = TypeVar("A")
T = TypeVar("T")
Socket = aiohttp.ClientWebSocketResponse[bool]


class Stepper(Generic[T]):
    """Runs one coroutine like a task, but resumes it without waiting for the next event loop iteration where possible.

    A task is resumed in the iteration after its future completes, which costs more than processing a message. Code that
    completes the future uses `call_and_resume` instead, and the coroutine is resumed at once.
    """

    __slots__ = ("_coroutine", "_future", "_loop", "_result")

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._loop = asyncio.get_running_loop()
        self._coroutine = coroutine
        self._future: asyncio.Future[Any] | None = None
        self._result: asyncio.Future[T] = self._loop.create_future()

    async def run(self) -> T:
        """Run the coroutine to its end and return its result. Cancelling this cancels the coroutine."""
        self._step()
        try:
            return await self._result
        finally:
            self._future = None
            if not self._result.cancel() and not self._result.cancelled():
                self._result.exception()  # mark the exception as retrieved, so that asyncio does not log it
            self._coroutine.close()

    def call_and_resume(self, function: Callable[[A], object], argument: A) -> None:
        """Call a function, which may complete the awaited future, and then resume the coroutine at once."""
        awaited = self._future
        if awaited is None:
            function(argument)
            return
        awaited.remove_done_callback(self._on_done)
        try:
            function(argument)
        finally:
            if awaited is self._future:  # otherwise the call has ended the coroutine
                (self._step if awaited.done() else self._await)()

    def _await(self) -> None:
        if self._future is not None:
            self._future.add_done_callback(self._on_done)

    def _on_done(self, awaited: "asyncio.Future[Any]") -> None:
        if awaited is self._future:  # otherwise it has ended
            self._step()

    def _next_iteration(self) -> None:
        if not self._result.done():
            self._step()

    def _step(self) -> None:
        self._future = None
        try:
            awaited: asyncio.Future[Any] | None = self._coroutine.send(None)
        except StopIteration as end:
            if not self._result.done():
                self._result.set_result(end.value)
        except BaseException as error:  # as in a task: passed to the awaiting caller; exit requests also to the loop
            if not self._result.done():
                self._result.set_exception(error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
        else:
            if awaited is None:  # a bare yield: let other tasks run
                self._loop.call_soon(self._next_iteration)
            else:
                awaited._asyncio_future_blocking = False  # as asyncio's Task does when it starts to wait
                self._future = awaited
                self._await()


_NO_STATUS: Final = 0
"""aiohttp's code for a close frame without a code."""


_UNKNOWN: Final = (None,)
"""Stands for the queue of frames when it is not accessible: never empty, since `Batches` finds the ends of batches."""


class FrameReceiver(Protocol):
    """The part of a sink that receives."""

    def frame(self, data: bytes, binary: bool, /) -> None: ...

    def batch_done(self) -> None: ...


class Batches:
    """Passes frames to a sink, and ends a batch when no more frames are there, without a look into aiohttp's queue.

    `receive()` does not wait while frames are queued. So all of them were taken when the call has returned that parsed
    the data (`end`, of which `_ResumingProtocol` takes care), or else in the next iteration of the event loop.
    """

    __slots__ = ("_frame", "_loop", "_open", "_sink", "parsing")

    def __init__(self, loop: asyncio.AbstractEventLoop, sink: Sink) -> None:
        self._loop = loop
        self._sink = sink
        self._frame: Final = sink.frame
        self._open = False
        self.parsing = False
        """Whether the frames are taken in a call that ends the batch."""

    def frame(self, data: bytes, binary: bool, /) -> None:
        if not self._open:
            self._open = True
            if not self.parsing:
                self._loop.call_soon(self.end)
        self._frame(data, binary)

    def end(self) -> None:
        if self._open:
            self.batch_done()

    def batch_done(self) -> None:
        self._open = False
        self._sink.batch_done()


class _ResumingProtocol(asyncio.Protocol):
    """Wraps aiohttp's protocol of a connection and resumes the reader after each of its callbacks."""

    __slots__ = ("_batches", "_call", "_data_received", "_protocol")

    def __init__(self, protocol: asyncio.Protocol, reading: Stepper[Any], batches: Batches | None) -> None:
        self._protocol = protocol
        self._call: Final = reading.call_and_resume
        self._data_received: Final = protocol.data_received
        self._batches: Final = batches

    def data_received(self, data: bytes) -> None:
        batches = self._batches
        if batches is None:
            self._call(self._data_received, data)
            return
        batches.parsing = True
        try:
            self._call(self._data_received, data)
        finally:
            batches.parsing = False
        batches.end()

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._call(self._protocol.connection_lost, exc)


class SocketOwner(Protocol):
    """The session that opened the socket."""

    async def close(self) -> None:
        """Release the socket, which has ended."""
        ...


class Reading(StrEnum):
    """How received frames are taken from aiohttp; each of the first two falls back to the next one."""

    QUEUE = "queue"
    """From the queue of aiohttp's parser, at once when data has arrived."""
    STEP = "step"
    """By `receive()`, at once when data has arrived."""
    TASK = "task"
    """By `receive()`, in the task of `run`."""


def frame_queue(socket: Socket) -> tuple[Callable[[], Awaitable[Any]], Sized] | None:
    """Return the function that takes a frame from the queue of aiohttp's parser, and the queued frames.

    Both are private in aiohttp. Returns None if this version of aiohttp lacks them or has them in another form.
    """
    reader: Any = getattr(socket, "_reader", None)
    read, queued = getattr(reader, "read", None), getattr(reader, "_buffer", None)
    if not iscoroutinefunction(read) or not isinstance(queued, deque):
        return None
    return read, cast("Sized", queued)


class WebSocketConnection:
    """A `Connection` over one WebSocket. Releases its aiohttp session at the end."""

    __slots__ = (
        "_close_timeout", "_ended", "_flushers", "_full", "_given", "_loop", "_os_socket", "_pong", "_protocol",
        "_queue", "_reading", "_response", "_resumed", "_session", "_shut", "_socket", "_transport", "clock_offset",
        "name", "written",
    )  # fmt: skip

    def __init__(
        self,
        session: SocketOwner,
        socket: Socket,
        response: aiohttp.ClientResponse,
        clock_offset: float | None = None,
        *,
        close_timeout: float = CLOSE_TIMEOUT,
        reading: Reading = Reading.QUEUE,
    ) -> None:
        connection = response.connection
        assert connection is not None
        assert connection.transport is not None
        assert connection.protocol is not None
        self._session = session
        self._close_timeout = close_timeout
        self._socket = socket
        self._response = response
        self._transport: asyncio.Transport = connection.transport
        self._os_socket: Any = self._transport.get_extra_info("socket")  # aiofastnet has it for its own thread only
        self._protocol: asyncio.BaseProtocol = connection.protocol
        self._reading = reading
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[bytes, WSMsgType]] | None = None
        self._pong: bytes | None = None
        """The answer to the newest ping, if it cannot be sent yet."""
        self._given = 0
        self._full = False
        """Whether the socket's buffer is full: frames are queued."""
        self._shut = False
        """Whether writing has ended, by a close frame or an error."""
        self._flushers: list[tuple[int, asyncio.Future[bool]]] = []
        self._resumed: asyncio.Event | None = None
        self._ended: asyncio.Future[None] = self._loop.create_future()
        """Done when the connection has ended."""
        self.written = 0
        self.name: str = carrier(self._transport)
        """The packages that carry it, with their versions."""
        self.clock_offset = clock_offset
        """Seconds by which the server's clock is ahead of ours; None if unknown."""

    # --- writing

    def write(self, data: bytes, binary: bool, /) -> None:
        """Send one frame: at once, or after the queued ones."""
        self._given += 1
        self._send(data, WSMsgType.BINARY if binary else WSMsgType.TEXT)

    async def flush(self, count: int, /) -> bool:
        """Wait until `count` frames are written; return False when the connection ends before."""
        if self.written >= count:
            return True
        if self._ended.done() or (self._shut and not self._full):
            return False
        flushed: asyncio.Future[bool] = self._loop.create_future()
        self._flushers.append((count, flushed))
        return await flushed

    def _send(self, data: bytes, kind: WSMsgType) -> None:
        if self._full:
            if self._queue is None:
                self._queue = deque()
            self._queue.append((data, kind))
        elif not self._shut:
            self._start(data, kind)

    def _answer_ping(self, data: bytes) -> None:
        """Send a pong. Of pongs that cannot be sent yet only the newest is kept (RFC 6455 §5.5.3)."""
        if self._full:
            self._pong = data
        elif not self._shut:
            self._start(data, WSMsgType.PONG)

    def _start(self, data: bytes, kind: WSMsgType) -> None:
        self._step(self._socket.send_frame(data, kind), counts=kind in (WSMsgType.TEXT, WSMsgType.BINARY))

    def _step(self, sending: Coroutine[Any, Any, None], *, counts: bool) -> None:
        """Run the sender's first step. It writes before it waits, so its frame is written in any case."""
        try:
            awaited: asyncio.Future[Any] | None = sending.send(None)
        except StopIteration:
            self.written += counts
        except Exception:  # noqa: BLE001  any error ends writing; the reader gets the reason
            self._fail()
        else:
            self.written += counts
            self._full = True
            self._wait(sending, awaited)

    def _wait(self, sending: Coroutine[Any, Any, None], awaited: "asyncio.Future[Any] | None") -> None:
        if awaited is None:
            self._loop.call_soon(self._resume_sending, sending)
            return
        awaited._asyncio_future_blocking = False  # as asyncio's Task does when it starts to wait
        awaited.add_done_callback(lambda _: self._resume_sending(sending))

    def _resume_sending(self, sending: Coroutine[Any, Any, None]) -> None:
        """Called when the socket's buffer has room: complete the suspended sender, then send the queued frames."""
        self._full = False
        self._step(sending, counts=False)
        if self._pong is not None and not self._full and not self._shut:
            pong, self._pong = self._pong, None
            self._start(pong, WSMsgType.PONG)
        while self._queue and not self._full and not self._shut:
            self._start(*self._queue.popleft())
        if self._shut and not self._full:
            self._queue = None
        self._release()

    def _fail(self) -> None:
        self._shut = True
        self._queue = None
        self.abort()
        self._release()

    def _release(self) -> None:
        """Resolve the flush waiters whose frames are written or will never be."""
        lost = self._ended.done() or (self._shut and not self._full)
        for count, flushed in list(self._flushers):
            if self.written >= count or lost:
                self._flushers.remove((count, flushed))
                if not flushed.done():
                    flushed.set_result(self.written >= count)

    # --- reading

    async def run(self, sink: Sink, /) -> Closed:
        """Read until the connection ends, and return how it ended."""
        try:
            code, text = await self._start_reading(sink)
        finally:
            self._shut, self._full = True, False
            self._queue = None
            self._ended.set_result(None)
            self._release()
            await self._close_socket()
        return Closed(code, text, self.written)

    def _start_reading(self, sink: Sink) -> Awaitable[tuple[int | None, str]]:
        queue = frame_queue(self._socket) if self._reading is Reading.QUEUE else None
        batches = None if queue is not None else Batches(self._loop, sink)
        reading = self._read(batches or sink, sink, *(queue or (self._socket.receive, _UNKNOWN)))
        protocol = self._protocol
        if self._reading is Reading.TASK or not isinstance(protocol, asyncio.Protocol) or self._transport.is_closing():
            return reading
        stepper = Stepper(reading)
        self._transport.set_protocol(_ResumingProtocol(protocol, stepper, batches))
        return stepper.run()

    async def _read(
        self, receiver: FrameReceiver, limits: Sink, read: Callable[[], Awaitable[Any]], queued: Sized
    ) -> tuple[int | None, str]:
        frame = receiver.frame
        text, binary = WSMsgType.TEXT, WSMsgType.BINARY
        taken = 0
        while True:
            if not queued:
                receiver.batch_done()
            try:
                message = await read()
            except (EofStream, aiohttp.ClientError):
                return None, "the connection was lost"
            except aiohttp.WebSocketError as error:
                self._send_close(error.code)
                return None, f"the peer violated the WebSocket protocol: {error}"
            kind = message.type
            if kind is text:
                frame(message.data, False)
            elif kind is binary:
                frame(message.data, True)
            elif kind is WSMsgType.PING:
                self._answer_ping(message.data)
            elif kind is not WSMsgType.PONG:
                return self._read_end(message)
            taken += 1
            if taken >= limits.max_batch or self._resumed is not None:
                taken = 0
                receiver.batch_done()
                await self._pause()

    async def _pause(self) -> None:
        """Yield to the event loop, and wait while reading is paused."""
        if self._resumed is None:
            await asyncio.sleep(0)
        else:
            await self._resumed.wait()

    def _read_end(self, message: Any) -> tuple[int | None, str]:
        if message.type is WSMsgType.CLOSE:
            code = None if message.data == _NO_STATUS else message.data
            self._send_close(code)
            return code, message.extra or ""
        if message.type is WSMsgType.ERROR:
            return None, f"the peer violated the WebSocket protocol: {message.data}"
        return None, "the connection was lost"

    def pause_reading(self) -> None:
        """Stop passing frames to the sink."""
        if self._resumed is None:
            self._resumed = asyncio.Event()

    def resume_reading(self) -> None:
        """Continue to pass frames to the sink."""
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    # --- closing

    async def close(self, code: int = 1000) -> None:
        """Send a close frame, wait a bounded time for the peer's, and close the connection."""
        self.resume_reading()
        try:
            async with asyncio.timeout(self._close_timeout):
                if await self.flush(self._given):
                    self._send_close(code)
                await asyncio.shield(self._ended)
        except TimeoutError:
            return  # the peer does not answer
        finally:
            self.abort()

    def fileno(self) -> int:
        """Return the file descriptor, which a forked child inherits; -1 when closed."""
        return -1 if self._os_socket is None else self._os_socket.fileno()

    def abort(self) -> None:
        """Close the connection at once and discard unsent data."""
        self._transport.abort()
        self._response.close()  # otherwise aiohttp warns about an unclosed response, including the URL with the key

    def _send_close(self, code: int | None) -> None:
        if not self._shut and not self._full:
            self._start(b"" if code is None else code.to_bytes(2), WSMsgType.CLOSE)
        self._shut = True

    async def _close_socket(self) -> None:
        """Close the socket without a TLS shutdown, for which asyncio waits up to 30 s."""
        self.abort()
        await self._session.close()
