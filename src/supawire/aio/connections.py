"""The hot lane's last part: frames of one connection go to their listeners (architecture: Two walks).

What is done per frame: one call of the core, and the listeners. Everything else is per batch: the clock is read when
the first frame of a batch comes, and `end_batch` runs when no more frames wait, before the event loop has its turn.
No task, future, timer or closure is made for a message.

The sockets of one client: one attempt at a time, known by its generation.

A task of the client's own opens the socket and then reads it to its end, so whatever becomes of it is told to the core
in one place. What an attempt that was given up still says has an old generation, and the core drops it.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from supawire.aio.thread_buffer import is_shutdown_error
from supawire.core.connection import Cause
from supawire.core.effects import Connect, Disconnect, PauseReading, ResumeReading, Transmit
from supawire.core.receive import HEAVY, Delivery
from supawire.errors import ConnectError, ConnectionLostError, InvalidArgumentError
from supawire.events import Instant
from supawire.options import ClientOptions, Endpoint, Secret
from supawire.transport.base import Closed, Connection, OpenRequest, Transport

if TYPE_CHECKING:
    from supawire.aio.driver import Driver


MAX_BATCH: Final = 256
"""The most frames that are taken before the event loop gets its turn."""


WEIGHED: Final = 16_000_000
"""Bytes of heavy frames after which the buffers are weighed."""


class FrameSink:
    """Takes the frames of one generation; a `Sink` of the transport."""

    def __init__(self, driver: "Driver", generation: int) -> None:
        self._driver = driver
        self._generation = generation
        self._receive = driver.session.receive
        self._receive_heavy = driver.session.receive_heavy
        self._heavy = 0
        """Bytes of heavy frames since buffers were weighed."""
        self._effects = driver.session.effects
        self._gone = driver.registry.gone
        self._now: Instant | None = None
        self._ordered = False
        """Whether the batch has frames that are no data: the core may want something, an effect or a deadline."""
        self.max_batch = MAX_BATCH
        """Never more than the smallest buffer takes, or a consumer that is fast would overflow all the same."""

    def frame(self, data: bytes, binary: bool, /) -> None:  # noqa: C901  one walk, with as few calls as can be
        """Take one frame."""
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
        if self._effects:  # of earlier frames: they come first
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
                if given is not None and given is not True:  # buffers say True
                    self._driver.inline_returned(listener, given, event)

    def _take_heavy(self, data: bytes, binary: bool, now: Instant) -> Delivery | None:
        """Take a heavy frame; now and then buffers are weighed, which costs nothing beside what was read since."""
        self._heavy += len(data)
        if self._heavy > WEIGHED:
            self._heavy = 0
            self._driver.registry.weigh()
        return self._receive_heavy(self._generation, data, binary, now)

    def _begin_batch(self) -> Instant:
        self._now = now = self._driver.now()
        return now

    def batch_done(self) -> None:
        """No more frames for now: the batch is over."""
        began, self._now = self._now, None
        ordered, self._ordered = self._ordered, False
        if began is not None:
            self._driver.end_batch(began, ordered=ordered)


class TappedFrameSink(FrameSink):
    """The same with the user's `on_frame`."""

    def frame(self, data: bytes, binary: bool, /) -> None:
        """Show the frame, then take it."""
        self._driver.tap("in", data, binary)
        super().frame(data, binary)


def name_topic(event: Any) -> str | None:
    """The topic of an event, for an error's text."""
    return getattr(event, "topic", None)


_BUGS: Final = (
    ArithmeticError, AssertionError, AttributeError, BufferError, ImportError, LookupError, NameError,
    NotImplementedError, RecursionError, SyntaxError, TypeError, ValueError,
)  # fmt: skip
"""Exceptions of Python that say that a program is wrong, here or in a dependency; some of them are an `OSError` too."""

_GIVEN_UP: Final = Cause(text="the attempt was given up")


class Sockets:
    """Performs what the core orders of sockets."""

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
        """Whether the user looks at each frame."""
        self._open: dict[int, tuple[asyncio.Task[None], Connection | None]] = {}
        self._generation = 0
        self._current: Connection | None = None
        self._current_sink: FrameSink | None = None
        self._burst = MAX_BATCH
        self._stops: dict[str, None] = {}
        """Who does not want the socket to be read now."""

    # --- orders

    def connect(self, order: Connect) -> None:
        """Open a socket."""
        generation = order.generation
        task = self._driver.tasks.spawn(self._live(generation), f"socket-{generation}")
        if task is not None and not task.done():
            self._open.setdefault(generation, (task, None))  # an eager task may have opened it already

    def disconnect(self, order: Disconnect) -> None:
        """Close the socket of this generation, or throw it away."""
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

    def pause(self, order: PauseReading) -> None:
        """Stop reading."""
        if order.generation == self._generation:
            self.set_reading(False, "session")

    def resume(self, order: ResumeReading) -> None:
        """Go on reading."""
        if order.generation == self._generation:
            self.set_reading(True, "session")

    # --- for the driver

    def set_reading(self, reads: bool, who: str) -> None:
        """Stop or go on reading; it is read when nobody wants it stopped."""
        if reads:
            self._stops.pop(who, None)
        else:
            self._stops[who] = None
        if self._current is not None:
            (self._current.pause_reading if self._stops else self._current.resume_reading)()

    def set_smallest_buffer(self, limit: int | None) -> None:
        """A listener came or went: this is the smallest buffer now."""
        self._burst = MAX_BATCH if limit is None else min(MAX_BATCH, limit)
        if self._current_sink is not None:
            self._current_sink.max_batch = self._burst

    def has_written(self, generation: int, sequence: int) -> bool:
        """Whether this frame was handed to the network."""
        current = self._current
        return current is not None and generation == self._generation and current.written >= sequence

    async def flush(self, generation: int, sequence: int) -> None:
        """Wait until this frame is handed to the network. Raises `ConnectionLostError` when it never will be."""
        entry = self._open.get(generation)
        connection = entry[1] if entry is not None else None
        if connection is None or not await connection.flush(sequence):
            raise ConnectionLostError("the connection was lost before the frame was sent", maybe_sent=False)

    def descriptors(self) -> list[int]:
        """The numbers under which the system knows our open sockets, of transports that say so by a `fileno()`."""
        connections: list[Any] = [connection for _, connection in self._open.values()]
        return [connection.fileno() for connection in connections if hasattr(connection, "fileno")]

    def abort(self) -> None:
        """Throw everything away; the tasks are ended by their owner."""
        for _, connection in self._open.values():
            if connection is not None:
                connection.abort()

    # --- the task

    async def _live(self, generation: int) -> None:
        cause = _GIVEN_UP
        try:
            cause = await self._open_and_read(generation)
        except asyncio.CancelledError:
            # At the end of the event loop all tasks are cancelled at once, and the client is told of it after this one.
            self._driver.loop.call_soon(self._gone, generation, cause)
            raise
        self._gone(generation, cause)

    def _gone(self, generation: int, cause: Cause) -> None:
        self._open.pop(generation, None)
        if self._generation == generation:
            self._current = None
        if not self._driver.tasks.stopping:  # else it has ended already, or is about to
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
        self._stops.pop("session", None)  # of the socket before
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
        """What a transport raised that is not a `ConnectError`.

        A bug does not go away by trying again: it ends the client with itself as the cause, and so does a request that
        this machine cannot serve. What a transport of the user's raises besides is reported and tried again (R2).
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
