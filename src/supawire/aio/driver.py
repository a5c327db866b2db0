"""The asyncio shell around the core: runs one session on one event loop.

Each input (a frame, a deadline, a call of the user) is passed to the core with the current time. `pump` then performs
the effects that the core has queued, in order, and sets the single timer to the core's next deadline. `pump` is not
re-entrant: if a handler calls the client while effects are performed, the new effects are appended and the outer loop
performs them, so order is kept.

User code (plain handlers and callbacks) runs here, inline. Its exceptions go to `on_error` and never end the client. An
exception in our own code ends the client, and every pending call raises it.

The parts of the shell (tasks, sockets, handlers, HTTP, reports) get what they use from here; they do not know the
driver. `Clock` is the time source.

`drain` is the graceful shutdown: new calls are refused, pending sends finish, channels are left, and the client closes,
within a deadline. Only the public methods refuse new calls; the core keeps working, so a lost connection is restored
and queued sends are still sent.
"""

import asyncio
import math
import sys
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable, Set
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from msgspec import Struct

from supawire.aio.buffers import ReadPauses
from supawire.aio.callbacks import RANDOM, Exits, TokenSource, ask_delay, is_unawaited
from supawire.aio.connections import FrameSink, Sockets, TappedFrameSink
from supawire.aio.handler_thread import HandlerThread
from supawire.aio.handlers import Handlers
from supawire.aio.http_publish import BACKOFF, Publisher
from supawire.aio.reporting import FrameTap, Reports
from supawire.aio.subscriptions import Registry
from supawire.aio.tasks import SHUTDOWN_TIMEOUT, Tasks
from supawire.core.channel import CoreChannel
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
    ProbeWebSocket,
    PublishByHttp,
    Report,
    Settle,
    StatusChanged,
    Ticket,
    TicketKind,
    Transmit,
)
from supawire.core.fallback import Cause
from supawire.core.frames import PREFIX
from supawire.core.session import Session
from supawire.errors import ClosedError, OperationTimeout, RealtimeError, StateError, again
from supawire.events import ChannelStats, ConnectionState, Instant, Stats
from supawire.options import Backoff, ClientOptions, Endpoint, Secret
from supawire.transport.base import OpenRequest

if TYPE_CHECKING:
    from supawire.telemetry.recorder import ClientTelemetry


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

SLOW_BATCH: Final = 0.2
"""Seconds that one batch of frames may take; a longer one is logged as a warning."""

WARNING_INTERVAL: Final = 60.0


class DriverSettings(Struct, frozen=True):
    """Limits that are not options of the client.

    slow_batch: seconds after which a batch of frames is slow. shutdown_timeout: seconds that the shutdown waits for a
    running handler. http_backoff: the pauses between attempts of one HTTP call.
    """

    slow_batch: float = SLOW_BATCH
    shutdown_timeout: float = SHUTDOWN_TIMEOUT
    http_backoff: Backoff = BACKOFF


DEFAULTS: Final = DriverSettings()


class Driver:
    """Runs one session on the running event loop.

    Args: on_thread: for the sync client; handlers and `on_error` run on the dispatch thread instead of the event loop.

    Parts that few clients need, such as HTTP, are created on first use.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: ClientOptions,
        *,
        on_thread: bool = False,
        settings: DriverSettings = DEFAULTS,
    ) -> None:
        self.options = options
        self.on_thread = on_thread
        self.endpoint: Final = endpoint
        self.settings: Final = settings
        self.loop: Final = asyncio.get_running_loop()
        self.clock: Final = Clock(self.loop)
        self.telemetry: ClientTelemetry | None = None
        """Makes spans and metrics; None unless the client was opened with `telemetry=`."""
        if options.telemetry is not None:
            self.telemetry = options.telemetry.client(self, endpoint.address)
        self.session: Final = Session(options.session(), random=RANDOM, token=options.secret, strict=sys.flags.dev_mode)
        self.thread: Final = HandlerThread(self.loop, settings.shutdown_timeout)
        self.tasks: Final = Tasks(self, settings.shutdown_timeout)
        self.exits: Final = Exits(lambda: not (on_thread or self.tasks.ending))
        run_on_thread = self.thread.report_error if on_thread else None
        self.reports: Final = Reports(options.on_error, options.logger, run_on_thread, self.loop.time, self.exits)
        self.reports.on_handler_error = self._count_handler_error
        self._handler_errors = 0
        self.registry: Final = Registry(self.session, self.loop, self._limit_batches)
        self._tap = None if options.on_frame is None else FrameTap(options.on_frame, self.reports, self.exits)
        request = OpenRequest(endpoint, options.headers or {}, options.ssl, cast("Secret | None", options.proxy))
        self.sockets: Final = Sockets(
            self, self.tasks, self.reports, request, options.transport, self._make_sink(), self._tap
        )
        self.pauses: Final = ReadPauses(
            self.loop, options.heartbeat, lambda: self.session.awaits_reply, self.sockets.set_reading
        )
        self.handlers: Final = Handlers(
            self.registry, self.tasks, self.thread, self.reports, self.pauses, self.now, self.telemetry,
            on_thread=on_thread,
        )  # fmt: skip
        self._publisher: Publisher | None = None
        self._tokens: TokenSource | None = None
        self._waiting: dict[Ticket, asyncio.Future[Any]] = {}
        self._raised: BaseException | None = None
        """The last error that was raised to a caller."""
        self._reported: RealtimeError | None = None
        """The last error that was logged or passed to `on_error`."""
        self._pumping = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        """The deadline of the timer; the timer handles of some event loops have no `when()`."""
        self._warned_at = -WARNING_INTERVAL
        self.error: RealtimeError | None = None
        """Why the client ended, unless it was `close()`."""
        self.draining: bool = False
        """Whether new calls are refused, see `drain`."""
        self.drains: list[Callable[[], Coroutine[Any, Any, None]]] = []
        """Called before the channels are left: each sends what is stored or growing, and waits until it is sent."""
        self.finalizer: weakref.finalize[..., Any] | None = None
        """Closes the client if the user's object is garbage-collected while it is open."""
        self.detached = False
        """Whether everything has ended, including the loop: calls no longer wait, and any thread may make them."""

    def _make_sink(self) -> Callable[[int], FrameSink]:
        if self._tap is None:
            return partial(FrameSink, self, self.session, self.registry, self.reports)
        return partial(TappedFrameSink, self._tap, self, self.session, self.registry, self.reports)

    def _limit_batches(self, limit: int | None) -> None:
        self.sockets.set_smallest_buffer(limit)

    @property
    def publisher(self) -> Publisher:
        """The sender of broadcasts by HTTP."""
        if self._publisher is None:
            self._publisher = Publisher(
                self, self.session, self.tasks, self.loop, self.endpoint, self.options, self.settings.http_backoff,
                None if self.telemetry is None else self.telemetry.headers,
            )  # fmt: skip
        return self._publisher

    def stats(self) -> Stats:
        """Return the counters. Any thread may call it."""
        buffered, overflowed = self.registry.overflow()
        return replace(
            self.session.stats(),
            buffered=buffered,
            overflowed=overflowed,
            handler_errors=self._handler_errors,
            **self.session.budgets(self.clock.time()),
            transport=self.sockets.name,
        )

    def stats_by_topic(self) -> dict[str, ChannelStats]:
        """Return the counters of each channel. Any thread may call it."""
        return {channel.name: self.channel_stats(channel) for channel in list(self.session.channels.values())}

    def channel_stats(self, channel: CoreChannel) -> ChannelStats:
        """Return the counters of a channel. Any thread may call it."""
        buffered, overflowed = self.registry.overflow(channel.topic)
        return replace(channel.stats(), buffered=buffered, overflowed=overflowed)

    def _count_handler_error(self, topic: str | None) -> None:
        self._handler_errors += 1
        channel = self.session.channels.get(f"{PREFIX}{topic}")
        if channel is not None:
            channel.handler_errors += 1

    @property
    def pending(self) -> int:
        """The number of calls that wait for a ticket."""
        return len(self._waiting)

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
        if self.pauses.paused:
            self.pauses.check()
        self.thread.wake()
        self._arm()

    def hand_over(self) -> tuple[int, int] | None:
        """Like `pump`, but cheaper for a send without confirmation: one frame, which changes no deadline or ticket.

        Return None if the frame is written to the network, else its generation and number, for `written`.
        """
        session = self.session
        effects = session.effects
        last = effects[-1] if effects else None
        generation = last.generation if isinstance(last, Transmit) else session.generation
        if len(effects) == 1 and self._tap is None and not self._pumping and isinstance(last, Transmit):
            effects.popleft()
            return None if self.sockets.transmit(last) else (generation, session.sequence_of(generation))
        frame = generation, session.sequence_of(generation)
        self.pump()
        return None if self.sockets.has_written(*frame) else frame

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
        if ordered or self.session.effects or self.pauses.paused:
            self.pump()
        else:
            self.thread.wake()
        now = self.clock.time()
        if now - began.mono > self.settings.slow_batch and now - self._warned_at > WARNING_INTERVAL:
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

    def waiting_for(self, kinds: Set[TicketKind]) -> "list[asyncio.Future[Any]]":
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
            raise OperationTimeout("the frame was not written to the network in time; it may still be sent") from error

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
        self.exclude_current()
        try:
            await self.outcome(self.session.close(self.now()))
            await self.tasks.ended()
        except asyncio.CancelledError:
            self.abort(None)
            raise

    def exclude_current(self) -> None:
        """Exclude the handler that the caller runs in, if any, from what the shutdown waits for."""
        self.tasks.exclude_current()
        self.thread.exclude_current()

    def abort(self, error: RealtimeError | None) -> None:
        """End at once, without waiting."""
        self.session.abort(error, self.now())
        self.pump()
        self.sockets.abort()
        self.tasks.stop()

    async def drain(self, topics: Iterable[str], timeout: float | None) -> None:
        """Finish pending sends, leave the channels, close; see `AsyncClient.drain`."""
        self.exclude_current()
        self.draining = True
        late: OperationTimeout | None = None
        try:
            async with asyncio.timeout(timeout):
                for send in tuple(self.drains):
                    with suppress(RealtimeError):  # what an outbox cannot send stays in its store
                        await send()
                while sends := self.waiting_for(SENDS):  # each result goes to the caller of that send
                    await asyncio.wait(sends)
                await self._leave(topics)
        except TimeoutError:
            sends = len(self.waiting_for(SENDS))
            last = "sending stored messages, or the leave of a channel," if self.drains else "the leave of a channel"
            what = f"{sends} sends were" if sends else f"{last} was"
            late = OperationTimeout(f"{what} not finished in time; the client is closed")
        except asyncio.CancelledError:
            self.abort(None)
            raise
        await self.close()
        if late is not None:
            raise late

    async def _leave(self, topics: Iterable[str]) -> None:
        """Leave the channels and wait. The server answers a leave after all earlier frames, and ends our presence."""
        session = self.session
        subscribed = [topic for topic in topics if session.channels[topic].wanted]
        leaves = [self.promise(session.leave(topic, float("inf"), self.now())) for topic in subscribed]
        await asyncio.gather(*leaves, return_exceptions=True)  # a lost connection also counts as left

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

    def begin_call(self) -> Instant:
        """Return the current time. Raise `StateError` in another event loop, and while the client is draining."""
        self.check_loop()
        if self.draining and self.session.state is not ConnectionState.CLOSED:  # a closed client has its own error
            raise StateError("the client is draining: it finishes pending sends and accepts no new calls")
        return self.now()

    async def tasks_ended(self) -> None:
        """Release what is not a task: the dispatch thread, HTTP connections, the timer."""
        if not await self.thread.stop():
            self.reports.log("handler").warning("a handler still runs on the dispatch thread; it is left running")
        if self._publisher is not None:
            await self._publisher.sender.close()
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
        self.thread.give_up()
        if self._publisher is not None:
            self._publisher.sender.abort()
        self._release()

    def _release(self) -> None:
        """Stop the timer and detach the finalizer, which would keep the client alive."""
        self.pauses.end()
        self._disarm()
        if self.telemetry is not None:
            self.telemetry.ended()
        if self.finalizer is not None:
            self.finalizer.detach()

    def _break(self, bug: BaseException) -> None:
        error = ClosedError(f"the client ended because a part of it failed: {type(bug).__name__}: {bug}")
        error.__cause__ = bug
        self.session.abort(error, self.now())
        self.sockets.abort()
        self.tasks.stop()

    # --- inputs

    def opened(self, generation: int, clock_offset: float | None, protocol: str | None) -> None:
        """Handle the opened socket of a generation; `clock_offset`: seconds by which the server's clock is ahead."""
        self.session.transport_opened(generation, self.now(), clock_offset=clock_offset, protocol=protocol)
        self.pump()

    def probed(self, generation: int, works: bool) -> None:
        """Handle whether a WebSocket could be opened while this generation uses long polling."""
        self.session.probed(generation, works, self.now())
        self.pump()

    def closed(self, generation: int, cause: Cause) -> None:
        """Handle the end of the socket of a generation, also when it could not be opened."""
        self.session.transport_closed(generation, cause, self.now())
        self.pump()

    # --- performing effects

    def _perform(self, effect: Effect) -> None:  # noqa: C901  one flat dispatch
        match effect:
            case Transmit():
                self.sockets.transmit(effect)
            case Deliver():
                self._deliver(effect)
            case Settle():
                self._settle(effect)
            case Ended():
                self._end_iterators(effect)
            case ProbeWebSocket():
                self.sockets.probe(effect)
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
            assert self.options.token_provider is not None
            self._tokens = TokenSource(self.options.token_provider, self.tasks, self.exits, self._token_ready)
        self._tokens.fetch(effect)

    def _token_ready(self, number: int, answer: Secret | None | RealtimeError) -> None:
        self.session.token_ready(number, answer, self.now())
        self.pump()

    def _settle(self, effect: Settle) -> None:
        waiting = self._waiting.pop(effect.ticket, None)
        if waiting is None or waiting.done():
            return
        outcome = effect.outcome
        if isinstance(outcome, BaseException):
            self._raised = outcome
            waiting.set_exception(again(outcome))
        else:
            waiting.set_result(outcome)

    def _deliver(self, effect: Deliver) -> None:
        removed = self.registry.removed
        for event in effect.events:
            for listener in effect.listeners:
                if removed and self.registry.was_removed(listener):
                    continue
                try:
                    result = listener(event)
                except BaseException as error:  # noqa: BLE001  errors of user code never end the client
                    self.reports.inline_raised(listener, error, event)
                else:
                    if result is not None and result is not True and is_unawaited(result):  # as in `FrameSink.frame`
                        self.registry.run(listener, result, event)

    def _end_iterators(self, effect: Ended) -> None:
        """Wake the iterators of a channel or client that has ended; an error that no caller gets goes to `on_error`."""
        iterators = self.registry.wake_iterators(effect.topic)
        if effect.topic is None:
            self.error = effect.error
            self.tasks.stop()
            return
        unraised = not iterators and effect.error not in (self._raised, self._reported)
        if effect.error is not None and unraised and self.session.state is not ConnectionState.CLOSED:
            self.reports.error(effect.error, "channel")

    def _report(self, effect: Report) -> None:
        """Log a report, or call `on_error`, unless a caller or an iterator raises the same error."""
        if self.telemetry is not None and isinstance(effect, StatusChanged):
            self.telemetry.status(effect.status)
        error = effect.error if isinstance(effect, ErrorReport) else None
        raised_by_iterator = isinstance(effect, ChangesFailed) and self.registry.wake_change_iterators(
            f"{PREFIX}{effect.topic}"
        )
        if raised_by_iterator or (error is not None and error is self._raised):
            return
        self._reported = error
        self.reports.take(effect)

    def _ask_delay(self, effect: AskDelay) -> None:
        seconds, raised = ask_delay(effect, self.options, self.exits)
        if raised is not None:
            backoff = self.options.backoff if effect.topic is None else self.options.rejoin_backoff
            self.reports.raised("the backoff", backoff, raised)
        self.session.delay_ready(effect.topic, seconds, self.now(), socket=effect.socket)
