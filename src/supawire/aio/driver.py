"""The asyncio shell around the core: runs one session on one event loop.

Each input (a frame, a deadline, a call of the user) is passed to the core with the current time. `pump` then performs
the effects that the core has queued, in order, and sets the single timer to the core's next deadline. `pump` is not
re-entrant: if a handler calls the client while effects are performed, the new effects are appended and the outer loop
performs them, so order is kept.

User code (plain handlers and callbacks) runs here, inline. Its exceptions go to `on_error` and never end the client. An
exception in our own code ends the client, and every pending call raises it.

`Clock` is the time source. `drain` is the graceful shutdown: new calls are refused, pending sends finish, channels are
left, and the client closes, within a deadline. Only the public methods refuse new calls; the core keeps working, so a
lost connection is restored and queued sends are still sent.
"""

import asyncio
import math
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Set
from typing import Any, Final

from supawire.aio.buffers import FlowControl
from supawire.aio.callbacks import RANDOM, TokenSource, ask_delay
from supawire.aio.connections import Sockets, name_topic
from supawire.aio.handler_thread import HandlerThread
from supawire.aio.http_publish import Publisher
from supawire.aio.reporting import Direction, Reports, redact_frame
from supawire.aio.subscriptions import Registry
from supawire.aio.tasks import Tasks
from supawire.aio.thread_buffer import GRACE_PERIOD
from supawire.aio.usercode import Exits, is_unawaited
from supawire.core.connection import Cause
from supawire.core.effects import (
    AskDelay,
    ChangesFailed,
    Connect,
    Deliver,
    Disconnect,
    Effect,
    Ended,
    ErrorReport,
    FetchToken,
    PublishByHttp,
    Report,
    Settle,
    Ticket,
    TicketKind,
    Transmit,
)
from supawire.core.frames import PREFIX
from supawire.core.session import Session
from supawire.errors import ClosedError, OperationTimeout, RealtimeError, StateError, again
from supawire.events import ConnectionState, Instant
from supawire.options import ClientOptions, Endpoint, Secret


class Clock:
    """The clock and timers of one event loop, in seconds; `time` returns the current time.

    The time must advance within one iteration of the loop. uvloop reads its clock once per iteration and in whole
    milliseconds, so a round trip could take 0.0 s and a slow handler would not be noticed. For an event loop that is
    not built on asyncio's own, the system's monotonic clock is used instead.
    """

    __slots__ = ("_exact", "_loop", "time")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._exact: Final = isinstance(loop, asyncio.BaseEventLoop)  # includes loops with virtual time
        self.time: Final[Callable[[], float]] = loop.time if self._exact else time.monotonic

    def call_at(self, when: float, function: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call a function at the given time of this clock, never earlier."""
        if self._exact:
            return self._loop.call_at(when, function, *args)
        delay = max(0.0, when - time.monotonic())
        return self._loop.call_later(math.ceil(delay * 1000) / 1000, function, *args)


SENDS: Final = frozenset({TicketKind.BROADCAST, TicketKind.TRACK, TicketKind.PUBLISH})
"""Kinds of tickets that are pending sends; pending subscriptions end with the leave instead."""


def check_accepting_calls(driver: "Driver") -> None:
    """Raise `StateError` while the client is draining; a closed client raises its own error elsewhere."""
    if driver.draining and driver.session.state is not ConnectionState.CLOSED:
        raise StateError("the client is draining: it finishes what it has, and takes nothing new")


async def drain(driver: "Driver", topics: Iterable[str], timeout: float | None) -> None:
    """Finish pending sends, leave the channels, close; see `AsyncClient.drain`."""
    driver.spare()
    driver.draining = True
    late: OperationTimeout | None = None
    try:
        async with asyncio.timeout(timeout):
            await _sends(driver)
            await _leave(driver, topics)
    except TimeoutError:
        owed = len(driver.owed(SENDS))
        what = f"{owed} sends were" if owed else "the leave of a channel was"
        late = OperationTimeout(f"{what} not finished in time; the client is closed")
    except asyncio.CancelledError:
        driver.abort(None)
        raise
    await driver.close()
    if late is not None:
        raise late


async def _sends(driver: "Driver") -> None:
    """Wait for all pending sends; each result goes to the caller of that send."""
    while owed := driver.owed(SENDS):
        await asyncio.wait(owed)


async def _leave(driver: "Driver", topics: Iterable[str]) -> None:
    """Leave the channels and wait. The server answers a leave after all earlier frames, and ends our presence."""
    session = driver.session
    wanted = [topic for topic in topics if session.channels[topic].wanted]
    leaves = [driver.promise(session.leave(topic, float("inf"), driver.now())) for topic in wanted]
    await asyncio.gather(*leaves, return_exceptions=True)  # a lost connection also counts as left


SLOW: Final = 0.2
"""Seconds that one batch of frames may take; a longer one is logged as a warning."""

_WARN_AGAIN: Final = 60.0


class Driver:
    """Runs one session on the running event loop.

    Args: blocking: for the blocking client; handlers and `on_error` run on the dispatch thread instead of the event
        loop.

    Parts that few clients need, such as flow control and HTTP, are created on first use.
    """

    def __init__(self, endpoint: Endpoint, options: ClientOptions, *, blocking: bool = False) -> None:
        self.options = options
        self.blocking = blocking
        self.endpoint: Final = endpoint
        self.loop: Final = asyncio.get_running_loop()
        self.clock: Final = Clock(self.loop)
        self.session: Final = Session(options.session(), random=RANDOM, token=options.secret, strict=sys.flags.dev_mode)
        self.dispatch: Final = HandlerThread(self, blocking=blocking)
        told = self.dispatch.report_error if blocking else None
        self.exits: Final = Exits(lambda: not (blocking or self.tasks.ending))
        self.reports: Final = Reports(options.on_error, options.logger, told, self.loop.time, self.exits)
        self.tasks: Final = Tasks(self)
        self.sockets: Final = Sockets(self, endpoint, options)
        self.registry: Final = Registry(self.session, self.loop, self.sockets.set_smallest_buffer)
        self._publisher: Publisher | None = None
        self._flow_control: FlowControl | None = None
        self._grace_pause: FlowControl | None = None
        self._tokens: TokenSource | None = None
        self._waiting: dict[Ticket, asyncio.Future[Any]] = {}
        self._told: BaseException | None = None
        """The last error that was raised to a caller."""
        self._reported: RealtimeError | None = None
        """The last error that was logged or passed to `on_error`."""
        self._pumping = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        """The deadline of the timer; the timer handles of some event loops have no `when()`."""
        self._warned_at = -_WARN_AGAIN
        self.error: RealtimeError | None = None
        """Why the client ended, unless it was `close()`."""
        self.draining = False
        """Whether new calls are refused, see `drain`."""
        self.finalizer: weakref.finalize[..., Any] | None = None
        """Closes the client if the user's object is garbage-collected while it is open."""
        self.detached = False
        """Whether everything has ended, including the loop: calls no longer wait, and any thread may make them."""

    @property
    def publisher(self) -> Publisher:
        """The sender of broadcasts by HTTP."""
        if self._publisher is None:
            self._publisher = Publisher(self, self.endpoint, self.options)
        return self._publisher

    def flow_control(self) -> FlowControl:
        """Return the flow control for buffers with overflow="pause"."""
        if self._flow_control is None:
            self._flow_control = FlowControl(
                self.options.heartbeat,
                lambda: self.session.awaits_reply,
                lambda reads: self.sockets.set_reading(reads, "valve"),
            )
        return self._flow_control

    @property
    def grace_pause(self) -> FlowControl:
        """The flow control that pauses reading briefly so that a consumer thread can empty its buffer."""
        if self._grace_pause is None:
            self._grace_pause = FlowControl(
                GRACE_PERIOD, lambda: False, lambda reads: self.sockets.set_reading(reads, "courtesy")
            )
        return self._grace_pause

    # --- the main cycle

    def now(self) -> Instant:
        """Return the current time of the monotonic and the wall clock."""
        return Instant(self.clock.time(), time.time())

    def pump(self) -> None:
        """Perform the effects that the core has queued, and set the timer to its next deadline."""
        if self._pumping:
            return
        self._pumping = True
        effects = self.session.effects
        try:
            while effects:
                try:
                    self._perform(effects.popleft())
                except Exception as bug:  # noqa: BLE001  our own bug: it ends the client
                    self._break(bug)
        finally:
            self._pumping = False
        if self._flow_control is not None and self._flow_control.closed:
            self._flow_control.check()
        self.dispatch.wake()
        self._arm()

    def hand_over(self) -> None:
        """Like `pump`, but cheaper for a send without confirmation: one frame, which changes no deadline or ticket."""
        effects = self.session.effects
        plain = len(effects) == 1 and not (self._pumping or self.sockets.tapped)
        if plain and isinstance(effect := effects[0], Transmit):
            effects.popleft()
            self.sockets.transmit(effect)
        else:
            self.pump()

    def _arm(self) -> None:
        """Set the one timer to the earliest deadline. A timer that fires too early only sets itself again."""
        deadline = self.session.next_deadline
        if self.session.state is ConnectionState.CLOSED:
            self._disarm()
        elif deadline is not None and (self._timer is None or deadline < self._timer_at):
            self._disarm()
            self._timer_at = deadline
            self._timer = self.clock.call_at(deadline, self._tick)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        deadline, now = self.session.next_deadline, self.now()
        if deadline is not None and deadline <= now.mono + time.get_clock_info("monotonic").resolution:
            try:
                self.session.tick(Instant(max(deadline, now.mono), now.wall))
            except Exception as bug:  # noqa: BLE001  our own bug
                self._break(bug)
        self.pump()

    def end_batch(self, began: Instant, *, ordered: bool) -> None:
        """Finish a batch of frames. Data frames alone create no effects, so the core is not called for them."""
        if ordered or self.session.effects or (self._flow_control is not None and self._flow_control.closed):
            self.pump()
        else:
            self.dispatch.wake()
        now = self.clock.time()
        if now - began.mono > SLOW and now - self._warned_at > _WARN_AGAIN:
            self._warned_at = now
            self.reports.log("handler").warning(
                "the event loop was held for %.1f s while frames were handled: a handler is slow; make it async, or "
                "register it with thread=True",
                now - began.mono,
            )

    # --- pending calls

    async def outcome(self, ticket: Ticket) -> Any:
        """Wait for a ticket and return its value, or raise its error. If cancelled, withdraw the ticket."""
        waiting = self.promise(ticket)
        try:
            return await waiting
        except asyncio.CancelledError:
            self.withdraw(ticket, waiting)
            raise

    def promise(self, ticket: Ticket) -> "asyncio.Future[Any]":
        """Return a future for a ticket that the core has just created."""
        waiting: asyncio.Future[Any] = self.loop.create_future()
        self._waiting[ticket] = waiting
        self.pump()
        return waiting

    def owed(self, kinds: Set[TicketKind]) -> "list[asyncio.Future[Any]]":
        """Return the futures of pending tickets of these kinds."""
        return [waiting for ticket, waiting in self._waiting.items() if ticket.kind in kinds]

    def withdraw(self, ticket: Ticket, waiting: "asyncio.Future[Any]") -> None:
        """Cancel a ticket whose caller no longer waits."""
        if waiting.done() and not waiting.cancelled():
            waiting.exception()  # both happened at once; stops asyncio from warning about an unretrieved exception
        self._waiting.pop(ticket, None)
        if self._publisher is not None:
            self._publisher.cancel(ticket)
        self.session.cancel(ticket, self.now())
        self.pump()

    async def written(self, generation: int, sequence: int, timeout: float | None) -> None:
        """Wait until a frame is written to the network. Raises `ConnectionLostError`, `OperationTimeout`."""
        if self._pumping:  # called from an eager task: the socket does not have the frame yet
            await asyncio.sleep(0)
        if self.sockets.has_written(generation, sequence):
            return
        try:
            async with asyncio.timeout(timeout):
                await self.sockets.flush(generation, sequence)
        except TimeoutError as error:
            raise OperationTimeout("the network did not take the frame in time; it may still be sent") from error

    # --- opening and closing

    async def open(self) -> None:
        """Start, and wait for the first connection; everything is released when this raises."""
        try:
            await self.tasks.start()
            await self.outcome(self.session.open(self.now()))
        except BaseException:
            self.abort(None)
            await self.tasks.ended()
            raise

    async def close(self) -> None:
        """Close gracefully within a time limit, and wait until everything is released; if cancelled, abort at once."""
        self.spare()
        try:
            await self.outcome(self.session.close(self.now()))
            await self.tasks.ended()
        except asyncio.CancelledError:
            self.abort(None)
            raise

    def spare(self) -> None:
        """Exclude the handler that the caller runs in, if any, from what the shutdown waits for."""
        self.tasks.spare()
        self.dispatch.exclude_current()

    def abort(self, error: RealtimeError | None) -> None:
        """End at once, without waiting."""
        self.session.abort(error, self.now())
        self.pump()
        self.sockets.abort()
        self.tasks.stop()

    def check_loop(self) -> None:
        """Raise `StateError` outside of the event loop in which the client was opened."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is not self.loop and not self.detached:
            raise StateError(
                "this client belongs to the event loop in which it was opened, and was called from "
                + ("another one" if here is not None else "outside of it"),
                hint="Open one client per event loop; from another thread use loop.call_soon_threadsafe().",
            )

    async def tasks_ended(self) -> None:
        """Release what is not a task: the dispatch thread, HTTP connections, the timer."""
        await self.dispatch.stop()
        if self._publisher is not None:
            await self._publisher.poster.close()
        self._release()

    def fail(self, bug: BaseException) -> None:
        """End the client after a failure in our own code; every pending call raises it."""
        self._break(bug)
        self.pump()

    def tasks_failed(self, bug: BaseException | None) -> None:
        """Release everything after the root task ended with a bug of ours, or was cancelled from outside (None)."""
        if bug is None:
            self.abort(None)
        else:
            self.fail(bug)
        self.dispatch.give_up()
        if self._publisher is not None:
            self._publisher.poster.abort()
        self._release()

    def _release(self) -> None:
        """Stop the timer and detach the finalizer, which would keep the client alive."""
        for flow_control in (self._flow_control, self._grace_pause):
            if flow_control is not None:
                flow_control.open()
        self._disarm()
        if self.finalizer is not None:
            self.finalizer.detach()

    def _break(self, bug: BaseException) -> None:
        error = ClosedError(f"the client ended because a part of it failed: {type(bug).__name__}: {bug}")
        error.__cause__ = bug
        self.session.abort(error, self.now())
        self.sockets.abort()
        self.tasks.stop()

    # --- inputs

    def opened(self, generation: int, clock_offset: float | None) -> None:
        """Handle the opened socket of a generation; `clock_offset`: seconds by which the server's clock is ahead."""
        self.session.transport_opened(generation, self.now(), clock_offset=clock_offset)
        self.pump()

    def closed(self, generation: int, cause: Cause) -> None:
        """Handle the end of the socket of a generation, also when it could not be opened."""
        self.session.transport_closed(generation, cause, self.now())
        self.pump()

    def token_ready(self, number: int, answer: Secret | None | RealtimeError) -> None:
        """Pass the token provider's result to the core."""
        self.session.token_ready(number, answer, self.now())
        self.pump()

    # --- performing effects

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Transmit():
                self.sockets.transmit(effect)
            case Deliver():
                self._deliver(effect)
            case Settle():
                self._settle(effect)
            case Ended():
                self._ended(effect)
            case Connect():
                self.sockets.connect(effect)
            case Disconnect():
                self.sockets.disconnect(effect)
            case FetchToken():
                self._fetch_token(effect)
            case AskDelay():
                self._ask_delay(effect)
            case PublishByHttp():
                self.publisher.perform(effect)
            case _:
                self._report(effect)

    def _fetch_token(self, effect: FetchToken) -> None:
        if self._tokens is None:
            self._tokens = TokenSource(self, self.options.token_provider)
        self._tokens.fetch(effect)

    def _settle(self, effect: Settle) -> None:
        waiting = self._waiting.pop(effect.ticket, None)
        if waiting is None or waiting.done():
            return
        outcome = effect.outcome
        if isinstance(outcome, BaseException):
            self._told = outcome
            waiting.set_exception(again(outcome))
        else:
            waiting.set_result(outcome)

    def _deliver(self, effect: Deliver) -> None:
        gone = self.registry.gone
        for event in effect.events:
            for listener in effect.listeners:
                if gone and self.registry.is_gone(listener):
                    continue
                try:
                    given = listener(event)
                except BaseException as error:  # noqa: BLE001  errors of user code never end the client
                    self.inline_raised(listener, error, event)
                else:
                    if given is not None and given is not True:  # `ThreadBuffer.put` returns True
                        self.inline_returned(listener, given, event)

    def _ended(self, effect: Ended) -> None:
        """Wake the iterators of a channel or client that has ended; an error that no caller gets goes to `on_error`."""
        heard = self.registry.ended(effect.topic)
        if effect.topic is None:
            self.error = effect.error
            self.tasks.stop()
            return
        unheard = not heard and effect.error not in (self._told, self._reported)
        if effect.error is not None and unheard and self.session.state is not ConnectionState.CLOSED:
            self.reports.error(effect.error, "channel")

    def _report(self, effect: Report) -> None:
        """Log a report, or call `on_error`, unless a caller or an iterator raises the same error."""
        error = effect.error if isinstance(effect, ErrorReport) else None
        raised = isinstance(effect, ChangesFailed) and self.registry.refused(f"{PREFIX}{effect.topic}")
        if raised or (error is not None and error is self._told):
            return
        self._reported = error
        self.reports.take(effect)

    def _ask_delay(self, effect: AskDelay) -> None:
        seconds, raised = ask_delay(effect, self.options, self.exits)
        if raised is not None:
            backoff = self.options.backoff if effect.topic is None else self.options.rejoin_backoff
            self.reports.raised("the backoff", backoff, raised)
        self.session.delay_ready(effect.topic, seconds, self.now())

    # --- user code

    def handler_raised(self, handler: object, error: BaseException, event: Any) -> None:
        """Report an exception of a handler to `on_error`."""
        self.reports.raised("the handler", handler, error, name_topic(event))

    def inline_raised(self, handler: object, error: BaseException, event: Any) -> None:
        """Like `handler_raised`, for a handler that was called on the event loop."""
        if not self.exits.take(error):
            self.handler_raised(handler, error, event)

    def inline_returned(self, handler: Callable[[Any], object], given: object, event: Any) -> None:
        """Run the awaitable that a plain handler returned, if any."""
        if is_unawaited(given):
            self.registry.run(handler, given, event)

    def tap(self, direction: Direction, data: bytes, binary: bool, *, secret: bool = False) -> None:
        """Pass a frame to the user's `on_frame`, with tokens redacted."""
        hook = self.options.on_frame
        if hook is None:
            return
        try:
            hook(direction, redact_frame(data, binary=binary, secret=secret), binary)
        except BaseException as error:  # noqa: BLE001  errors of user code never end the client
            if not self.exits.take(error):
                self.reports.raised("on_frame", hook, error)
