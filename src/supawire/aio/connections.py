"""The sockets of one client, and the sink that passes their frames to listeners.

There is one connection attempt at a time, identified by its generation. A task opens the socket and then reads it to
its end, so every outcome is reported to the core in one place. Late reports of an abandoned attempt have an old
generation, and the core drops them.

The frame sink is the hot path. Per frame it makes one call of the core and calls the listeners. Everything else is done
per batch: the clock is read at the first frame, and `end_batch` runs when no more frames wait, before other tasks of
the event loop run. No task, future, timer or closure is created per message.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from supawire.aio.thread_buffer import is_shutdown_error
from supawire.core.connection import Cause
from supawire.core.effects import Connect, Disconnect, Transmit
from supawire.core.receive import HEAVY, Delivery
from supawire.errors import ConnectError, ConnectionLostError, InvalidArgumentError
from supawire.events import Instant
from supawire.options import ClientOptions, Endpoint, Secret
from supawire.transport.base import Closed, Connection, OpenRequest, Transport

if TYPE_CHECKING:
    from supawire.aio.driver import Driver


MAX_BATCH: Final = 256
"""The most frames that are handled before other tasks of the event loop run."""


WEIGHED: Final = 16_000_000
"""Bytes of large frames after which the sizes of the buffers are checked."""


class FrameSink:
    """Receives the frames of one generation; a `Sink` of the transport."""

    def __init__(self, driver: "Driver", generation: int) -> None:
        self._driver = driver
        self._generation = generation
        self._receive = driver.session.receive
        self._receive_heavy = driver.session.receive_heavy
        self._heavy = 0
        """Bytes of large frames since the last check of the buffers."""
        self._effects = driver.session.effects
        self._gone = driver.registry.gone
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
            if len(data) > HEAVY:
                delivery = self._take_heavy(data, binary, now)
            else:
                delivery = self._receive(self._generation, data, binary, now)
        except Exception as bug:  # noqa: BLE001  our own bug: it ends the client
            self._driver.fail(bug)
            return
        if delivery is None:
            self._ordered = True
            return
        if self._effects:  # effects of earlier frames come first
            self._driver.pump()
        listeners, event = delivery
        gone = self._gone
        for listener in listeners:
            if gone and self._driver.registry.is_gone(listener):
                continue
            try:
                given = listener(event)
            except BaseException as error:  # noqa: BLE001  errors of user code never end the client
                self._driver.inline_raised(listener, error, event)
            else:
                if given is not None and given is not True:  # `ThreadBuffer.put` returns True
                    self._driver.inline_returned(listener, given, event)

    def _take_heavy(self, data: bytes, binary: bool, now: Instant) -> Delivery | None:
        """Handle a large frame; check the sizes of the buffers from time to time."""
        self._heavy += len(data)
        if self._heavy > WEIGHED:
            self._heavy = 0
            self._driver.registry.weigh()
        return self._receive_heavy(self._generation, data, binary, now)

    def _begin_batch(self) -> Instant:
        self._now = now = self._driver.now()
        return now

    def batch_done(self) -> None:
        """End the batch, because no more frames wait."""
        began, self._now = self._now, None
        ordered, self._ordered = self._ordered, False
        if began is not None:
            self._driver.end_batch(began, ordered=ordered)


class TappedFrameSink(FrameSink):
    """A frame sink that also calls the user's `on_frame`."""

    def frame(self, data: bytes, binary: bool, /) -> None:
        """Call `on_frame`, then handle the frame."""
        self._driver.tap("in", data, binary)
        super().frame(data, binary)


def name_topic(event: Any) -> str | None:
    """Return the topic of an event, for error messages."""
    return getattr(event, "topic", None)


_BUGS: Final = (
    ArithmeticError, AssertionError, AttributeError, BufferError, ImportError, LookupError, NameError,
    NotImplementedError, RecursionError, SyntaxError, TypeError, ValueError,
)  # fmt: skip
"""Exceptions that indicate a bug, here or in a dependency; some of them are subclasses of `OSError` too."""

_GIVEN_UP: Final = Cause(text="the attempt was given up")


class Sockets:
    """Opens, reads and closes sockets, as the core's effects say."""

    __slots__ = (
        "_burst", "_current", "_current_sink", "_driver", "_generation", "_lane", "_open", "_request", "_stops",
        "_transport", "tapped",
    )  # fmt: skip

    def __init__(self, driver: "Driver", endpoint: Endpoint, options: ClientOptions) -> None:
        self._driver = driver
        self._transport: Transport | None = options.transport
        self._request = OpenRequest(endpoint, options.headers or {}, options.ssl, cast("Secret | None", options.proxy))
        self._lane: Callable[[Driver, int], FrameSink] = FrameSink if options.on_frame is None else TappedFrameSink
        self.tapped: bool = options.on_frame is not None
        """Whether `on_frame` is set."""
        self._open: dict[int, tuple[asyncio.Task[None], Connection | None]] = {}
        self._generation = 0
        self._current: Connection | None = None
        self._current_sink: FrameSink | None = None
        self._burst = MAX_BATCH
        self._stops: dict[str, None] = {}
        """Who has paused reading."""

    # --- effects of the core

    def connect(self, order: Connect) -> None:
        """Open a socket."""
        generation = order.generation
        task = self._driver.tasks.spawn(self._live(generation), f"socket-{generation}")
        if task is not None and not task.done():
            self._open.setdefault(generation, (task, None))  # an eager task may have opened it already

    def disconnect(self, order: Disconnect) -> None:
        """Close the socket of this generation, or abort it."""
        entry = self._open.get(order.generation)
        if entry is None:
            return
        task, connection = entry
        if connection is None or order.abort:
            if connection is not None:
                connection.abort()
            task.cancel()
        else:
            self._driver.tasks.spawn(connection.close(order.code), f"close-{order.generation}")

    def transmit(self, order: Transmit) -> None:
        """Write a frame."""
        if self.tapped:
            self._driver.tap("out", order.data, order.binary, secret=order.secret)
        if order.generation == self._generation and self._current is not None:
            self._current.write(order.data, order.binary)

    # --- for the driver

    def set_reading(self, reads: bool, who: str) -> None:
        """Pause or resume reading on behalf of `who`; reading resumes when no other caller has paused it."""
        if reads:
            self._stops.pop(who, None)
        else:
            self._stops[who] = None
        if self._current is not None:
            (self._current.pause_reading if self._stops else self._current.resume_reading)()

    def set_smallest_buffer(self, limit: int | None) -> None:
        """Limit the batches to the smallest buffer of the listeners."""
        self._burst = MAX_BATCH if limit is None else min(MAX_BATCH, limit)
        if self._current_sink is not None:
            self._current_sink.max_batch = self._burst

    def has_written(self, generation: int, sequence: int) -> bool:
        """Return whether this frame was written to the network."""
        current = self._current
        return current is not None and generation == self._generation and current.written >= sequence

    async def flush(self, generation: int, sequence: int) -> None:
        """Wait until this frame is written to the network. Raises `ConnectionLostError` when it never will be."""
        entry = self._open.get(generation)
        connection = entry[1] if entry is not None else None
        if connection is None or not await connection.flush(sequence):
            raise ConnectionLostError("the connection was lost before the frame was sent", maybe_sent=False)

    def descriptors(self) -> list[int]:
        """Return the file descriptors of our open sockets, for transports that have `fileno()`."""
        connections: list[Any] = [connection for _, connection in self._open.values()]
        return [connection.fileno() for connection in connections if hasattr(connection, "fileno")]

    def abort(self) -> None:
        """Abort all sockets; their tasks are ended by `Tasks`."""
        for _, connection in self._open.values():
            if connection is not None:
                connection.abort()

    # --- the task

    async def _live(self, generation: int) -> None:
        cause = _GIVEN_UP
        try:
            cause = await self._open_and_read(generation)
        except asyncio.CancelledError:
            # At the end of the event loop all tasks are cancelled at once; this lets the root task handle it first.
            self._driver.loop.call_soon(self._gone, generation, cause)
            raise
        self._gone(generation, cause)

    def _gone(self, generation: int, cause: Cause) -> None:
        self._open.pop(generation, None)
        if self._generation == generation:
            self._current = None
        if not self._driver.tasks.stopping:  # otherwise the client has ended or is ending
            self._driver.closed(generation, cause)

    async def _open_and_read(self, generation: int) -> Cause:
        try:
            connection = await self._chosen().open(self._request)
        except ConnectError as error:
            body = (error.body or "").encode()
            return Cause(status=error.status, body=body, retry_after=error.retry_after, text=error.message)
        except Exception as error:  # noqa: BLE001  see `_broken`
            return self._broken(error)
        task = asyncio.current_task()
        assert task is not None
        self._open[generation] = task, connection
        self._generation, self._current = generation, connection
        self._stops.pop("session", None)  # set for the previous socket
        if self._stops:
            connection.pause_reading()
        self._driver.opened(generation, getattr(connection, "clock_offset", None))
        lane = self._current_sink = self._lane(self._driver, generation)
        lane.max_batch = self._burst
        try:
            end = await connection.run(lane)
        except Exception as error:  # noqa: BLE001  see `_broken`
            connection.abort()
            return self._broken(error)
        return _cause(end)

    def _chosen(self) -> Transport:
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
            self._driver.abort(error)
        elif isinstance(error, _BUGS) and not isinstance(error, OSError):
            self._driver.fail(error)
        elif not isinstance(error, OSError | EOFError) and not is_shutdown_error(error):
            self._driver.reports.raised("the transport", self._transport, error)
        return Cause(text=f"{type(error).__name__}: {error}")


def _cause(end: Closed) -> Cause:
    return Cause(code=end.code, text=end.text, written=end.written)
