"""A coroutine that goes on in the moment in which what it waits for has come.

One open WebSocket of aiohttp: a reader that is a loop, and a writer without a task.

Reading: frames are taken from the queue that aiohttp's parser fills, which costs a fifth less than its `receive()`;
pings and close frames are then ours to answer. The loop goes on in the moment in which something has come, not a turn
of the event loop later (`_stepper`). Taking does not yield while frames are queued, so it gives the event loop its turn
by itself, as often as the sink wants.

Writing: aiohttp's `send_frame` is a coroutine that nearly always runs through at its first step, so one step is all
that a frame costs. When the socket is full it stops at a future; then later frames queue up behind it, and the future's
callback goes on with them.

Closing is ours: aiohttp's own close waits ten seconds for some peers, and it has no abort.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sized
from typing import Any, Final, Generic, Protocol, TypeVar

import aiohttp
from aiohttp import EofStream, WSMsgType

from supawire.transport.base import Closed, Sink

A = TypeVar("A")
T = TypeVar("T")


class Stepper(Generic[T]):
    """Runs one coroutine as a task does, only without waiting for a turn of the event loop where it need not.

    What a task waits for wakes it up in the loop's next turn, and a turn costs more than all that is done with a
    message. Who brings what is waited for says so by `bring`, and it goes on at once.
    """

    __slots__ = ("_coroutine", "_ended", "_loop", "_waits")

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._loop = asyncio.get_running_loop()
        self._coroutine = coroutine
        self._waits: asyncio.Future[Any] | None = None
        self._ended: asyncio.Future[T] = self._loop.create_future()

    async def run(self) -> T:
        """Start it, and wait for its end; cancelled, it ends where it is."""
        self._step()
        try:
            return await self._ended
        finally:
            self._waits = None
            if not self._ended.cancel() and not self._ended.cancelled():
                self._ended.exception()  # asyncio shall not say that nobody looked at it
            self._coroutine.close()

    def bring(self, what: Callable[[A], object], argument: A) -> None:
        """Do something that may bring what it waits for, and then go on at once."""
        waits = self._waits
        if waits is None:
            what(argument)
            return
        waits.remove_done_callback(self._woken)
        try:
            what(argument)
        finally:
            if waits is self._waits:  # else it was ended by that
                (self._step if waits.done() else self._await)()

    def _await(self) -> None:
        if self._waits is not None:
            self._waits.add_done_callback(self._woken)

    def _woken(self, waits: "asyncio.Future[Any]") -> None:
        if waits is self._waits:  # else it has ended
            self._step()

    def _turn(self) -> None:
        if not self._ended.done():
            self._step()

    def _step(self) -> None:
        self._waits = None
        try:
            waits: asyncio.Future[Any] | None = self._coroutine.send(None)
        except StopIteration as end:
            if not self._ended.done():
                self._ended.set_result(end.value)
        except BaseException as error:  # as a task does: for who awaits it, and a wish to exit for the loop too
            if not self._ended.done():
                self._ended.set_exception(error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
        else:
            if waits is None:  # it gives others their turn
                self._loop.call_soon(self._turn)
            else:
                waits._asyncio_future_blocking = False  # as a task does that takes it over
                self._waits = waits
                self._await()


CLOSE_BOUND: Final = 4.0
"""Seconds that a polite close waits for the peer."""

_NO_STATUS: Final = 0
"""What aiohttp calls a close frame without a code."""


class _Bringing(asyncio.Protocol):
    """aiohttp's protocol of a connection, and who reads what it takes."""

    __slots__ = ("_bring", "_protocol", "_take")

    def __init__(self, protocol: asyncio.Protocol, reading: Stepper[Any]) -> None:
        self._protocol = protocol
        self._bring: Final = reading.bring
        self._take: Final = protocol.data_received

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._bring(self._take, data)

    def eof_received(self) -> bool | None:
        """No more will come."""
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        """The socket takes nothing for now."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """It takes again."""
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._bring(self._protocol.connection_lost, exc)


class Closable(Protocol):
    """What opened the socket."""

    async def close(self) -> None:
        """The socket has ended."""
        ...


class AbortableWebSocket(aiohttp.ClientWebSocketResponse[bool]):
    """A WebSocket that knows its queue of frames, and its transport, which is the only thing that can be aborted."""

    def __init__(self, reader: Any, writer: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(reader, writer, *args, **kwargs)
        self._transport: asyncio.Transport = writer.transport
        self.read: Callable[[], Awaitable[Any]] = getattr(reader, "read", self.receive)
        """The next message; a newer aiohttp without that queue is read in its own way."""
        self.queued: Sized = getattr(reader, "_buffer", ())
        """Messages that are there already; empty where that cannot be known."""

    def bring_to(self, reading: Stepper[Any]) -> None:
        """Whatever comes from the network lets this go on."""
        protocol = self._transport.get_protocol()
        if isinstance(protocol, asyncio.Protocol):
            self._transport.set_protocol(_Bringing(protocol, reading))

    def fileno(self) -> int:
        """The socket's number in this process; -1 when it is closed."""
        socket = self._transport.get_extra_info("socket")
        return -1 if socket is None else socket.fileno()

    def abort(self) -> None:
        """Drop the connection and what is still to be written, at once."""
        self._transport.abort()
        self._response.close()  # or it warns that it was not closed, with the whole URL and the key in it


class WebSocketConnection:
    """A `Connection` over one WebSocket; with it ends its part in the aiohttp session that opened it."""

    __slots__ = (
        "_flushers", "_full", "_given", "_gone", "_loop", "_over", "_pong", "_queue", "_resumed", "_session", "_shut",
        "_socket", "clock_offset", "written",
    )  # fmt: skip

    def __init__(self, session: Closable, socket: AbortableWebSocket, clock_offset: float | None = None) -> None:
        self._session = session
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[bytes, WSMsgType]] | None = None
        self._pong: bytes | None = None
        """The answer to the newest ping, when it waits."""
        self._given = 0
        self._full = False
        """The socket takes nothing for now: frames wait in the queue."""
        self._shut = False
        """Nothing more is written: we said goodbye, or it failed."""
        self._flushers: list[tuple[int, asyncio.Future[bool]]] = []
        self._resumed: asyncio.Event | None = None
        self._over = False
        self._gone: asyncio.Event | None = None
        """For who waits until it is over."""
        self.written = 0
        self.clock_offset = clock_offset
        """By how many seconds the server's clock is ahead of this machine's; None: it did not say."""

    # --- writing

    def write(self, data: bytes, binary: bool, /) -> None:
        """Send one frame: at once, or after those that still wait."""
        self._given += 1
        self._send(data, WSMsgType.BINARY if binary else WSMsgType.TEXT)

    async def flush(self, count: int, /) -> bool:
        """Wait until `count` frames are written; False when the connection ends before."""
        if self.written >= count:
            return True
        if self._over or (self._shut and not self._full):
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
        """Send a pong; of those that cannot be sent yet the newest is enough (RFC 6455 §5.5.3)."""
        if self._full:
            self._pong = data
        elif not self._shut:
            self._start(data, WSMsgType.PONG)

    def _start(self, data: bytes, kind: WSMsgType) -> None:
        self._step(self._socket.send_frame(data, kind), counts=kind in (WSMsgType.TEXT, WSMsgType.BINARY))

    def _step(self, sending: Coroutine[Any, Any, None], *, counts: bool) -> None:
        """Run the sender as far as it goes. It writes first: when it waits, its frame is written."""
        try:
            waits: asyncio.Future[Any] | None = sending.send(None)
        except StopIteration:
            self.written += counts
        except Exception:  # noqa: BLE001  whatever it is, this socket takes nothing any more; the reader learns why
            self._fail()
        else:
            self.written += counts
            self._full = True
            self._wait(sending, waits)

    def _wait(self, sending: Coroutine[Any, Any, None], waits: "asyncio.Future[Any] | None") -> None:
        if waits is None:
            self._loop.call_soon(self._go_on, sending)
            return
        waits._asyncio_future_blocking = False  # as a task does that takes it over
        waits.add_done_callback(lambda _: self._go_on(sending))

    def _go_on(self, sending: Coroutine[Any, Any, None]) -> None:
        """The socket takes frames again: end the sender that waited, then send what has queued up."""
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
        """Wake up who waited for frames that are written by now, or never will be."""
        lost = self._over or (self._shut and not self._full)
        for count, flushed in list(self._flushers):
            if self.written >= count or lost:
                self._flushers.remove((count, flushed))
                if not flushed.done():
                    flushed.set_result(self.written >= count)

    # --- reading

    async def run(self, sink: Sink, /) -> Closed:
        """Read until the end, and say what it was."""
        reading = Stepper(self._read(sink))
        self._socket.bring_to(reading)
        try:
            code, text = await reading.run()
        finally:
            self._shut, self._full = True, False
            self._over = True
            self._queue = None
            if self._gone is not None:
                self._gone.set()
            self._release()
            await self._hang_up()
        return Closed(code, text, self.written)

    async def _read(self, sink: Sink) -> tuple[int | None, str]:
        read, frame, queued = self._socket.read, sink.frame, self._socket.queued
        text, binary = WSMsgType.TEXT, WSMsgType.BINARY
        taken = 0
        while True:
            if not queued:
                sink.batch_done()
            try:
                message = await read()
            except (EofStream, aiohttp.ClientError):
                return None, "the connection was lost"
            except aiohttp.WebSocketError as error:
                self._say_goodbye(error.code)
                return None, f"the peer broke the rules of WebSocket: {error}"
            kind = message.type
            if kind is text:
                frame(message.data, False)
            elif kind is binary:
                frame(message.data, True)
            elif kind is WSMsgType.PING:
                self._answer_ping(message.data)
            elif kind is not WSMsgType.PONG:
                return self._ended(message)
            taken += 1
            if taken >= sink.max_batch or self._resumed is not None:
                taken = 0
                sink.batch_done()
                await self._pause()

    async def _pause(self) -> None:
        """Give the event loop its turn, and wait until reading is wanted."""
        if self._resumed is None:
            await asyncio.sleep(0)
        else:
            await self._resumed.wait()

    def _ended(self, message: Any) -> tuple[int | None, str]:
        if message.type is WSMsgType.CLOSE:
            code = None if message.data == _NO_STATUS else message.data
            self._say_goodbye(code)
            return code, message.extra or ""
        if message.type is WSMsgType.ERROR:
            return None, f"the peer broke the rules of WebSocket: {message.data}"
        return None, "the connection was lost"

    def pause_reading(self) -> None:
        """Give no more frames to the sink."""
        if self._resumed is None:
            self._resumed = asyncio.Event()

    def resume_reading(self) -> None:
        """Give frames again."""
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    # --- the end

    async def close(self, code: int = 1000) -> None:
        """Say goodbye, wait a bounded time for the answer, and end."""
        self.resume_reading()
        try:
            async with asyncio.timeout(CLOSE_BOUND):
                if await self.flush(self._given):
                    self._say_goodbye(code)
                await self._end()
        except TimeoutError:
            return  # the peer does not answer: then without its answer
        finally:
            self.abort()

    async def _end(self) -> None:
        if self._over:
            return
        if self._gone is None:
            self._gone = asyncio.Event()
        await self._gone.wait()

    def fileno(self) -> int:
        """The socket's number in this process, which a forked child inherits; -1 when it is closed."""
        return self._socket.fileno()

    def abort(self) -> None:
        """End at once."""
        self._socket.abort()

    def _say_goodbye(self, code: int | None) -> None:
        if not self._shut and not self._full:
            self._start(b"" if code is None else code.to_bytes(2), WSMsgType.CLOSE)
        self._shut = True

    async def _hang_up(self) -> None:
        """Drop the socket without the farewell of TLS, for which asyncio waits up to 30 s."""
        self._socket.abort()
        await self._session.close()
