"""The sockets of one client, and the sink that passes their frames to listeners.

Each connection attempt is identified by its generation; there is one at a time for each socket of the core. A task
opens the socket and then reads it to its end, so every outcome is reported to the core in one place. Late reports of an
abandoned attempt have an old generation, and the core drops them.

The frame sink is the hot path. Per frame it makes one call of the core and calls the listeners. Everything else is done
per batch: the clock is read at the first frame, and `end_batch` runs when no more frames wait, before other tasks of
the event loop run. No task, future, timer or closure is created per message.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from supawire.aio.callbacks import is_unawaited
from supawire.aio.reporting import FrameTap, Reports
from supawire.aio.subscriptions import Registry
from supawire.aio.tasks import Tasks, is_shutdown_error
from supawire.core.effects import Connect, Disconnect, ProbeWebSocket, Transmit
from supawire.core.fallback import Cause
from supawire.core.receive import LARGE_FRAME_BYTES, Delivery
from supawire.core.session import Session
from supawire.errors import ConnectError, ConnectionLostError, InvalidArgumentError, RealtimeError
from supawire.events import Instant
from supawire.transport.base import Closed, Connection, OpenRequest, Transport

MAX_BATCH: Final = 256
"""The most frames that are handled before other tasks of the event loop run."""


CHECKED_BYTES: Final = 16_000_000
"""Bytes of large frames after which the sizes of the buffers are checked."""


class BatchOwner(Protocol):
    """Performs what the frames of a batch caused."""

    def now(self) -> Instant:
        """Return the current time."""
        ...

    def pump(self) -> None:
        """Perform the effects of the core."""
        ...

    def end_batch(self, began: Instant, *, ordered: bool) -> None:
        """Finish a batch. ordered: whether it had frames other than data."""
        ...

    def fail(self, bug: BaseException) -> None:
        """End the client after a failure in our own code."""
        ...


class FrameSink:
    """Receives the frames of one generation; a `Sink` of the transport."""

    def __init__(
        self, owner: BatchOwner, session: Session, registry: Registry, reports: Reports, generation: int
    ) -> None:
        self._owner = owner
        self._registry = registry
        self._reports = reports
        self._generation = generation
        receiver = session.receiver(generation)
        self._receive = receiver.receive
        self._receive_large = receiver.receive_large
        self._heavy_bytes = 0
        """Bytes of large frames since the last check of the buffers."""
        self._effects = session.effects
        self._removed = registry.removed
        self._now: Instant | None = None
        self._ordered = False
        """Whether the batch has frames other than data, which may create effects or change the deadline of the core."""
        self.max_batch = MAX_BATCH
        """At most the size of the smallest buffer; otherwise a batch could overflow the buffer of a fast consumer."""

    def frame(self, data: bytes, binary: bool, /) -> None:  # noqa: C901  hot path, few calls
        """Handle one frame."""
        now = self._now
        if now is None:
            now = self._begin_batch()
        try:
            if len(data) > LARGE_FRAME_BYTES:
                delivery = self._take_heavy(data, binary, now)
            else:
                delivery = self._receive(self._generation, data, binary, now)
        except Exception as bug:  # noqa: BLE001  our own bug: it ends the client
            self._owner.fail(bug)
            return
        if delivery is None:
            self._ordered = True
            return
        if self._effects:  # effects of earlier frames come first
            self._owner.pump()
        listeners, event = delivery
        removed = self._removed
        for listener in listeners:
            if removed and self._registry.was_removed(listener):
                continue
            try:
                result = listener(event)
            except BaseException as error:  # noqa: BLE001  errors of user code never end the client
                self._reports.inline_raised(listener, error, event)
            else:
                if result is not None and result is not True and is_unawaited(result):  # `ThreadBuffer.put` gives True
                    self._registry.run(listener, result, event)

    def _take_heavy(self, data: bytes, binary: bool, now: Instant) -> Delivery | None:
        """Handle a large frame; check the sizes of the buffers from time to time."""
        self._heavy_bytes += len(data)
        if self._heavy_bytes > CHECKED_BYTES:
            self._heavy_bytes = 0
            self._registry.limit_bytes()
        return self._receive_large(self._generation, data, binary, now)

    def _begin_batch(self) -> Instant:
        self._now = now = self._owner.now()
        return now

    def batch_done(self) -> None:
        """End the batch, because no more frames wait."""
        began, self._now = self._now, None
        ordered, self._ordered = self._ordered, False
        if began is not None:
            self._owner.end_batch(began, ordered=ordered)


class TappedFrameSink(FrameSink):
    """A frame sink that also calls the user's `on_frame`."""

    def __init__(
        self, tap: FrameTap, owner: BatchOwner, session: Session, registry: Registry, reports: Reports, generation: int
    ) -> None:
        super().__init__(owner, session, registry, reports, generation)
        self._tap = tap

    def frame(self, data: bytes, binary: bool, /) -> None:
        """Call `on_frame`, then handle the frame."""
        self._tap("in", data, binary)
        super().frame(data, binary)


_BUGS: Final = (
    ArithmeticError, AssertionError, AttributeError, BufferError, ImportError, LookupError, NameError,
    NotImplementedError, RecursionError, SyntaxError, TypeError, ValueError,
)  # fmt: skip
"""Exceptions that indicate a bug, here or in a dependency; some of them are subclasses of `OSError` too."""

_ABANDONED: Final = Cause(text="the attempt was abandoned")


class SocketOwner(Protocol):
    """Receives what happens to the sockets."""

    def opened(self, generation: int, clock_offset: float | None, protocol: str | None) -> None:
        """Handle the opened socket of a generation."""
        ...

    def probed(self, generation: int, works: bool) -> None:
        """Handle whether a WebSocket could be opened while this generation uses long polling."""
        ...

    def closed(self, generation: int, cause: Cause) -> None:
        """Handle the end of the socket of a generation, also when it could not be opened."""
        ...

    def abort(self, error: RealtimeError | None) -> None:
        """End the client at once."""
        ...

    def fail(self, bug: BaseException) -> None:
        """End the client after a failure in our own code."""
        ...


PROBE_TIMEOUT: Final = 10.0
"""Seconds that the WebSocket may take that is tried while long polling is used."""


class _Nothing:
    """A sink that drops every frame."""

    max_batch = 1

    def frame(self, data: bytes, binary: bool, /) -> None:
        """Drop a frame."""

    def batch_done(self) -> None:
        """Do nothing."""


class _Socket:
    """An open socket. passed: the number of frames passed to it."""

    __slots__ = ("connection", "passed", "sink")

    def __init__(self, connection: Connection) -> None:
        self.connection: Connection = connection
        self.sink: FrameSink | None = None
        self.passed = 0


class Sockets:
    """Opens, reads and closes sockets, as the core's effects say.

    Args: transport: None for the WebSocket transport. make_sink: returns the sink for the frames of a generation.
    """

    __slots__ = (
        "_longpoll", "_make_sink", "_max_batch", "_open", "_owner", "_pause_reasons", "_reports", "_request",
        "_running", "_tap", "_tasks", "_transport",
    )  # fmt: skip

    def __init__(
        self,
        owner: SocketOwner,
        tasks: Tasks,
        reports: Reports,
        request: OpenRequest,
        transport: Transport | None,
        make_sink: Callable[[int], FrameSink],
        tap: FrameTap | None,
    ) -> None:
        self._owner = owner
        self._tasks = tasks
        self._reports = reports
        self._request = request
        self._transport = transport
        self._longpoll: Transport | None = None
        self._make_sink = make_sink
        self._tap = tap
        self._running: dict[int, asyncio.Task[None]] = {}
        """The task of each generation, from the attempt to the end of its socket."""
        self._open: dict[int, _Socket] = {}
        """The open sockets by generation."""
        self._max_batch = MAX_BATCH
        self._pause_reasons: dict[str, None] = {}
        """Why reading is paused."""

    # --- effects of the core

    def connect(self, order: Connect) -> None:
        """Open a socket."""
        generation = order.generation
        task = self._tasks.spawn(self._run(generation, order.longpoll), f"socket-{generation}")
        if task is not None and not task.done():
            self._running[generation] = task

    def probe(self, order: ProbeWebSocket) -> None:
        """Open a socket with the client's transport, close it, and report whether that worked."""
        self._tasks.spawn(self._probe(order.generation), f"probe-{order.generation}")

    def disconnect(self, order: Disconnect) -> None:
        """Close the socket of this generation, or abort it."""
        task, socket = self._running.get(order.generation), self._open.get(order.generation)
        if task is None:
            return
        if socket is None or order.abort:
            if socket is not None:
                socket.connection.abort()
            task.cancel()
        else:
            self._tasks.spawn(socket.connection.close(order.code), f"close-{order.generation}")

    def transmit(self, order: Transmit) -> bool:
        """Write a frame; return whether it and all earlier ones are written to the network already."""
        if self._tap is not None:
            self._tap("out", order.data, order.binary, secret=order.secret)
        socket = self._open.get(order.generation)
        if socket is None:
            return False
        socket.passed += 1
        connection = socket.connection
        connection.write(order.data, order.binary)
        return connection.written >= socket.passed

    # --- for the driver

    def set_reading(self, reads: bool, reason: str) -> None:
        """Pause or resume reading for a reason; reading resumes when no other reason to pause is left."""
        if reads:
            self._pause_reasons.pop(reason, None)
        else:
            self._pause_reasons[reason] = None
        for socket in list(self._open.values()):
            (socket.connection.pause_reading if self._pause_reasons else socket.connection.resume_reading)()

    def set_smallest_buffer(self, limit: int | None) -> None:
        """Limit the batches to the smallest buffer of the listeners."""
        self._max_batch = MAX_BATCH if limit is None else min(MAX_BATCH, limit)
        for socket in self._open.values():
            if socket.sink is not None:
                socket.sink.max_batch = self._max_batch

    def has_written(self, generation: int, sequence: int) -> bool:
        """Return whether this frame was written to the network."""
        socket = self._open.get(generation)
        return socket is not None and socket.connection.written >= sequence

    async def flush(self, generation: int, sequence: int) -> None:
        """Wait until this frame is written to the network. Raises `ConnectionLostError` when it never will be."""
        socket = self._open.get(generation)
        if socket is None or not await socket.connection.flush(sequence):
            raise ConnectionLostError("the connection was lost before the frame was sent", maybe_sent=False)

    @property
    def name(self) -> str | None:
        """What carries the connection, for transports that tell; None without a connection. Any thread may read it."""
        for socket in list(self._open.values()):
            name: str | None = getattr(socket.connection, "name", None)
            if name is not None:
                return name
        return None

    def descriptors(self) -> list[int]:
        """Return the file descriptors of our open sockets, for transports that have `fileno()`."""
        connections: list[Any] = [socket.connection for socket in self._open.values()]
        return [connection.fileno() for connection in connections if hasattr(connection, "fileno")]

    def abort(self) -> None:
        """Abort all sockets; their tasks are ended by `Tasks`."""
        for socket in self._open.values():
            socket.connection.abort()

    # --- the task

    async def _run(self, generation: int, longpoll: bool) -> None:
        cause = _ABANDONED
        try:
            cause = await self._open_and_read(generation, self._get_transport(longpoll=longpoll))
        except asyncio.CancelledError:
            # At the end of the event loop all tasks are cancelled at once; this lets the root task handle it first.
            asyncio.get_running_loop().call_soon(self._on_end, generation, cause)
            raise
        self._on_end(generation, cause)

    def _on_end(self, generation: int, cause: Cause) -> None:
        self._open.pop(generation, None)
        self._running.pop(generation, None)
        if not self._tasks.stopping:  # otherwise the client has ended or is ending
            self._owner.closed(generation, cause)

    async def _open_and_read(self, generation: int, transport: Transport) -> Cause:
        try:
            connection = await transport.open(self._request)
        except ConnectError as error:
            body = (error.body or "").encode()
            return Cause(
                status=error.status,
                body=body,
                retry_after=error.retry_after,
                text=error.message,
                reached=error.reached,
            )
        except Exception as error:  # noqa: BLE001  see `_broken`
            return self._broken(error)
        task = asyncio.current_task()
        assert task is not None
        self._running[generation] = task  # an eager task runs before `connect` has it
        socket = self._open[generation] = _Socket(connection)
        if self._pause_reasons:
            connection.pause_reading()
        protocol: str | None = getattr(connection, "protocol", None)
        self._owner.opened(generation, getattr(connection, "clock_offset", None), protocol)
        sink = socket.sink = self._make_sink(generation)
        sink.max_batch = self._max_batch
        try:
            end = await connection.run(sink)
        except Exception as error:  # noqa: BLE001  see `_broken`
            connection.abort()
            return self._broken(error)
        return _cause(end)

    async def _probe(self, generation: int) -> None:
        works = False
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                connection = await self._get_transport().open(self._request)
            connection.abort()
            await connection.run(_Nothing())
            works = True
        except (ConnectError, OSError, TimeoutError):
            pass  # it does not work
        except Exception as error:  # noqa: BLE001  see `_broken`
            self._broken(error)
        self._owner.probed(generation, works)

    def _get_transport(self, *, longpoll: bool = False) -> Transport:
        if longpoll:
            if self._longpoll is None:
                from supawire.transport.longpoll import LongPollTransport

                self._longpoll = LongPollTransport()
            return self._longpoll
        if self._transport is None:
            from supawire.transport.websocket import WebSocketTransport

            self._transport = WebSocketTransport()
        return self._transport

    def _broken(self, error: Exception) -> Cause:
        """Handle an exception of a transport that is not a `ConnectError`.

        A bug does not go away by retrying: it ends the client with itself as the cause, and so does a request that this
        machine cannot serve. Other exceptions of a user's transport are reported, and the connection is retried.
        """
        if isinstance(error, InvalidArgumentError):
            self._owner.abort(error)
        elif isinstance(error, _BUGS) and not isinstance(error, OSError):
            self._owner.fail(error)
        elif not isinstance(error, OSError | EOFError) and not is_shutdown_error(error):
            self._reports.raised("the transport", self._transport, error)
        return Cause(text=f"{type(error).__name__}: {error}")


def _cause(end: Closed) -> Cause:
    return Cause(code=end.code, text=end.text, written=end.written)
