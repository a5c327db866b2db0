"""The core of a client: its connection, its channels and all pending calls, as a state machine without I/O.

Commands carry the user's requests and inputs carry what happened on the network, each with the current time. Effects
are queued in order, and `next_deadline` says when to call `tick`. The core opens no socket, never blocks, reads no
clock and writes no log, so that the same inputs always produce the same effects.

    ticket = session.join("realtime:lobby", now=now)      # a pending call, resolved exactly once
    delivery = session.receive(generation, data, False, now)   # hot path: listeners and event, or None
    while (effect := session.next_effect()) is not None: ...   # work for the shell

`Session` only composes the components and decides which of them handles an input or a deadline. `HttpBroadcasts` is the
interface for HTTP broadcasts: their tickets, the token they use and the rate limit. The HTTP requests themselves are
made by the shell.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from supawire.core import frames
from supawire.core.channel import CoreChannel
from supawire.core.connection import Cause, ConnectionMachine
from supawire.core.context import Context
from supawire.core.effects import ClientEnded, ClockJumped, Effect, Ended, Ticket, TicketKind
from supawire.core.health import channel_troubles, connection_troubles
from supawire.core.join_queue import JoinQueue
from supawire.core.listeners import Listener
from supawire.core.membership import (
    CloseChannel,
    ConnectionLost,
    GapDue,
    JoinTimedOut,
    Leave,
    LeaveTimedOut,
    Membership,
    RejoinDue,
    RetryDelay,
    RetryDue,
    Subscribe,
    Waiter,
    send_joins,
)
from supawire.core.outbox import OutgoingBroadcast
from supawire.core.pacing import Uniform
from supawire.core.receive import Receiver
from supawire.core.requests import TimerKey, TimerKind
from supawire.core.token_refresh import TokenRefresh
from supawire.errors import ClosedError, ConnectionLostError, InvalidArgumentError, RateLimitedError, RealtimeError
from supawire.events import ChannelState, ConnectionState, Heartbeat, Instant, PresenceState, Stats
from supawire.options import ChannelOptions, Secret, SessionOptions


class HttpBroadcasts:
    """The interface of a session for HTTP broadcasts."""

    __slots__ = ("_connection", "_context", "_refresh")

    def __init__(self, context: Context, connection: ConnectionMachine, refresh: TokenRefresh) -> None:
        self._context = context
        self._connection = connection
        self._refresh = refresh

    def open(self) -> Ticket:
        """Create a ticket for an HTTP broadcast. Raises `ClosedError`."""
        self._connection.check_open()
        return self._context.tickets.create(TicketKind.PUBLISH)

    def accepted(self, messages: int) -> None:
        """Count messages that the server has accepted."""
        self._context.counts.published += messages

    def settle(self, ticket: Ticket, outcome: Any) -> None:
        """Resolve the ticket with a result or an exception. Does nothing if it is already resolved."""
        self._context.tickets.resolve(ticket, outcome)

    @property
    def token(self) -> Secret | None:
        """The current token of the client."""
        return self._context.tokens.current

    @property
    def refreshable(self) -> bool:
        """Whether there is a token provider that can supply a newer token."""
        return self._context.tokens.has_provider

    def refresh(self, now: Instant) -> Ticket:
        """Fetch a newer token. The ticket resolves with the token or with the error. Raises `ClosedError`."""
        self._connection.check_open()
        return self._refresh.fetch(now)

    @property
    def max_messages(self) -> int | None:
        """The largest number of messages that the rate limit allows at once."""
        return self._context.messages.limit

    def ready_at(self, mono: float, messages: int) -> float:
        """Return when the rate limit allows this number of messages; `mono` itself if that is now."""
        return self._context.messages.ready_at(mono, messages)

    def spend(self, mono: float, messages: int) -> None:
        """Count these messages against the rate limit."""
        self._context.messages.spend(mono, messages)


_NO_OPTIONS: Final = ChannelOptions()

CLOCK_JUMP: Final = 10.0
"""Seconds by which the wall clock may drift from the monotonic clock before a sleep or a clock change is assumed."""


class Session:
    """One Realtime client without I/O.

    Args: random: source of the jitter. strict: raise `LocalProtocolError` on an impossible state transition instead of
    reporting it.
    """

    __slots__ = (
        "_channels",
        "_closers",
        "_connection",
        "_context",
        "_drift",
        "_joins",
        "_openers",
        "_receiver",
        "_refresh",
        "channels",
        "effects",
        "http_broadcasts",
        "receive",
        "receive_large",
    )  # fmt: skip

    def __init__(
        self, options: SessionOptions, *, random: Uniform, token: Secret | None = None, strict: bool = False
    ) -> None:
        self._context = Context(options, token, random, strict=strict)
        self._joins: Final[JoinQueue[Membership]] = JoinQueue(self._context)
        self._connection = ConnectionMachine(self._context, self)
        self._channels: dict[str, CoreChannel] = {}
        self.channels: Final[Mapping[str, CoreChannel]] = MappingProxyType(self._channels)
        """The channels by full topic."""
        self._receiver = Receiver(self._context, self._connection, self._joins, self._channels)
        self._refresh = TokenRefresh(self._context, self._connection, self._joins, self._channels)
        self.http_broadcasts: Final = HttpBroadcasts(self._context, self._connection, self._refresh)
        self._drift: float | None = None
        self._openers: tuple[Ticket, ...] = ()
        self._closers: tuple[Ticket, ...] = ()
        self.receive: Final = self._receiver.receive
        """Hot path: `receive(generation, data, binary, now)`, see `Receiver.receive`."""
        self.receive_large: Final = self._receiver.receive_large
        """The same for frames of more than `LARGE_FRAME_BYTES`."""
        self.effects: Final = self._context.effects
        """The queue of effects, in order."""

    # --- outputs

    def next_effect(self) -> Effect | None:
        """Remove and return the next effect, or None if there is none."""
        effects = self._context.effects
        return effects.popleft() if effects else None

    @property
    def next_deadline(self) -> float | None:
        """Monotonic time at which `tick` must be called; None for never."""
        one, other = self._context.timers.next, self._context.replies.next
        return one if other is None else other if one is None else min(one, other)

    def deadline(self, kind: TimerKind, topic: str | None = None) -> float | None:
        """Return the monotonic time of one deadline, None if it is not set. For inspection only."""
        return self._context.timers.deadline(TimerKey(kind, topic))

    @property
    def state(self) -> ConnectionState:
        """The state of the connection."""
        return self._connection.state

    @property
    def error(self) -> RealtimeError | None:
        """Why the connection is not open."""
        return self._connection.error

    @property
    def generation(self) -> int:
        """Number of the current connection attempt."""
        return self._context.generation

    @property
    def sequence(self) -> int:
        """Number of frames passed to the socket of this generation."""
        return self._context.sequence

    @property
    def awaits_reply(self) -> bool:
        """Whether a request or a join is waiting for its reply."""
        return bool(self._context.replies) or self._joins.unanswered > 0

    @property
    def pending_tickets(self) -> frozenset[Ticket]:
        """The tickets of all pending calls."""
        return frozenset(self._context.tickets)

    @property
    def is_fetching_token(self) -> bool:
        """Whether a request to the token provider is pending."""
        return self._context.tokens.fetching

    def stats(self) -> Stats:
        """Return the counters. Any thread may call it: `list` copies the channels without a switch of threads."""
        channels = list(self._channels.values())
        members = [channel.membership for channel in channels]
        return self._context.stats(
            self.state,
            received=sum(member.received for member in members),
            sent=sum(member.outbox.sent for member in members),
            queued=sum(channel.queued for channel in channels),
            channels=len(channels),
            joined=sum(member.state is ChannelState.JOINED for member in members),
        )

    def troubles(self, mono: float, grace: float, *, with_channels: bool) -> tuple[str, ...]:
        """Return why the client is not healthy or, with channels, not ready; see `AsyncClient.healthy`.

        Any thread may call it.
        """
        options, down_since = self._context.options, self._connection.down_since
        found = connection_troubles(
            self.state,
            self.error,
            down_for=0.0 if down_since is None else mono - down_since,
            silent_for=mono - self._context.answered_at,
            longest_silence=options.heartbeat + options.timeout,
            grace=grace,
        )
        return (*found, *channel_troubles(list(self._channels.values()))) if with_channels else tuple(found)

    def table_sizes(self) -> dict[str, int]:
        """Return the number of entries in each internal table, to detect leaks."""
        context = self._context
        return {
            "channels": len(self._channels),
            "queued joins": self._joins.waiting,
            "unanswered joins": self._joins.unanswered,
            "tickets": len(context.tickets),
            "requests": len(context.replies),
            "deadlines": len(context.timers),
            "heap": context.timers.heap_size + context.replies.heap_size,
        }

    # --- commands: the client

    def open(self, now: Instant) -> Ticket:
        """Connect and stay connected. The ticket resolves with the first connection."""
        ticket = self._context.tickets.create(TicketKind.OPEN)
        if self.state is ConnectionState.OPEN:
            self._context.tickets.resolve(ticket, None)
            return ticket
        self._connection.check_open()
        self._openers += (ticket,)
        self._connection.start(now)
        return ticket

    def close(self, now: Instant) -> Ticket:
        """Close permanently: leave the channels, close the connection and fail all pending calls with `ClosedError`."""
        ticket = self._context.tickets.create(TicketKind.CLOSE)
        self._closers += (ticket,)
        for channel in self._channels.values():
            channel.membership.handle(CloseChannel(None), now)
        self._settle_all(ClosedError("the client was closed"))
        if self.state is ConnectionState.CLOSED:
            self._settle_closers()
        else:
            self._connection.close(now)
        return ticket

    def abort(self, error: RealtimeError | None, now: Instant) -> None:
        """Close permanently and at once, without sending anything. Pending calls get the error, or `ClosedError`."""
        self._connection.abort(error, now)

    def reconnect(self, now: Instant) -> None:
        """Connect now instead of after the backoff. An open connection is replaced."""
        self._connection.check_open()
        self._connection.reconnect(now)

    def ping(self, timeout: float | None, now: Instant, *, ignore_queue_time: bool = False) -> Ticket:
        """Send a heartbeat. The ticket resolves with the round-trip time in seconds.

        `ignore_queue_time`: do not count time spent behind unanswered joins.

        Raises: ConnectionLostError: there is no connection now.
        """
        self._connection.check_open()
        if self.state is not ConnectionState.OPEN:
            raise ConnectionLostError("there is no connection now", maybe_sent=False)
        ticket = self._context.tickets.create(TicketKind.PING)
        self._context.push(
            frames.HEARTBEAT, {}, now, ticket=ticket, timeout=timeout, counts_queue_time=not ignore_queue_time
        )
        return ticket

    def set_token(self, token: Secret | None, now: Instant) -> None:
        """Set the client's token. With a provider, it is used until the provider returns the next one."""
        self._connection.check_open()
        self._refresh.set_by_user(token, now)
        send_joins(self._joins, now)

    def watch(self, deliver: Callable[[Any], None], *, heartbeats: bool = False) -> None:
        """Register a callback for status changes of connection and channels, for gaps, and if requested heartbeats."""
        self._context.watchers[deliver] = None
        if heartbeats:
            self._context.heartbeat_watchers[deliver] = None

    def unwatch(self, deliver: Callable[[Any], None]) -> None:
        """Remove a callback that was added by `watch`."""
        self._context.watchers.pop(deliver, None)
        self._context.heartbeat_watchers.pop(deliver, None)

    # --- commands: channels

    def channel(self, topic: str, options: ChannelOptions) -> CoreChannel:
        """Return the channel with this full topic, creating it if needed.

        Raises: InvalidArgumentError: it exists with other options.
        """
        self._connection.check_open()
        channel = self._channels.get(topic)
        if channel is None:
            channel = CoreChannel(self._context, self._joins, topic, options)
            self._channels[topic] = channel
            self._receiver.register(channel)
        elif options not in (channel.options, _NO_OPTIONS):
            raise InvalidArgumentError(
                f"channel {channel.name!r} exists with other options",
                topic=channel.name,
                hint="Use the same options, or remove_channel() the first one.",
            )
        return channel

    def listen(self, topic: str, listener: Listener, now: Instant) -> None:
        """Register a listener."""
        self._get(topic).listen(listener, now)

    def unlisten(self, topic: str, listener: Listener) -> None:
        """Unregister a listener. Does nothing if the channel was removed."""
        channel = self._channels.get(topic)
        if channel is not None:
            channel.unlisten(listener)

    def server_time(self, now: Instant) -> float | None:
        """Return the server's Unix time now or slightly before, None if it is unknown."""
        return self._context.server_clock.earliest(now)

    def join(
        self,
        topic: str,
        now: Instant,
        *,
        ready: bool = False,
        timeout: float | None = None,
        ignore_queue_time: bool = False,
    ) -> Ticket:
        """Join the channel and stay joined. The ticket resolves when it is joined (or *ready*).

        `ignore_queue_time`: do not count time spent waiting for pacing or for other joins.

        Raises: RateLimitedError: the connection already has the maximum number of channels.
        """
        channel = self._get(topic)
        self._check_channel_limit(channel)
        ticket = self._context.tickets.create(TicketKind.READY if ready else TicketKind.JOIN)
        if self.state is ConnectionState.IDLE:
            self._connection.start(now)
        self._context.timers.cancel(TimerKey(TimerKind.IDLE))
        channel.membership.handle(Subscribe(Waiter(ticket, ready, timeout, ignore_queue_time)), now)
        send_joins(self._joins, now)
        return ticket

    def leave(self, topic: str, bound: float, now: Instant) -> Ticket:
        """Leave the channel. The ticket resolves when the server confirms, or after `bound` seconds."""
        ticket = self._context.tickets.create(TicketKind.LEAVE)
        self._get(topic).membership.handle(Leave(ticket, bound), now)
        self._watch_idle(now)
        return ticket

    def remove(self, topic: str, now: Instant) -> None:
        """Leave the channel and remove it. Its object is closed."""
        channel = self._channels.pop(topic, None)
        if channel is not None:
            self._receiver.unregister(channel)
            channel.membership.handle(CloseChannel(None), now)
            self._watch_idle(now)

    def broadcast(self, topic: str, message: OutgoingBroadcast, now: Instant) -> Ticket | None:
        """Send a broadcast. Return None if the frame was passed to the socket and no reply is expected, else a ticket.

        Raises: StateError, PayloadTooLargeError, ClosedError: what can be detected at once.
        """
        return self._get(topic).broadcast(message, now)

    def track(self, topic: str, payload: bytes | None, timeout: float | None, now: Instant) -> Ticket:
        """Track this presence payload (JSON); None to untrack.

        Raises: InvalidArgumentError, PayloadTooLargeError: more keys or bytes than the limits allow.
        """
        channel = self._get(topic)
        channel.check_presence(payload)
        ticket = self._context.tickets.create(TicketKind.TRACK)
        channel.track(payload, ticket, timeout, now)
        return ticket

    def set_channel_token(self, topic: str, token: Secret | None, now: Instant) -> None:
        """Set the token of one channel."""
        self._get(topic).set_token(token, now)
        send_joins(self._joins, now)

    def presence_state(self, topic: str) -> PresenceState:
        """Return an immutable snapshot of the presence state."""
        return self._get(topic).presence()

    def cancel(self, ticket: Ticket, now: Instant) -> None:
        """Discard the ticket of a cancelled call, and withdraw a request that only this call needed."""
        if ticket in self._context.tickets:
            self._context.tickets.drop(ticket)
            for channel in list(self._channels.values()):
                channel.cancel(ticket, now)
            self._watch_idle(now)

    # --- inputs

    def transport_opened(self, generation: int, now: Instant, *, clock_offset: float | None = None) -> None:
        """Handle that the socket of this generation is open.

        `clock_offset`: seconds by which the server's clock is ahead of ours, or slightly less; None if not known.
        """
        if self._is_current(generation):
            self._watch_clock(now)
            self._context.server_clock.set_offset(clock_offset, now)
            self._connection.opened(now)
            send_joins(self._joins, now)

    def transport_closed(self, generation: int, cause: Cause, now: Instant) -> None:
        """Handle that the socket of this generation was closed or could not be opened."""
        if self._is_current(generation):
            self._connection.closed(cause, now)

    def token_ready(self, number: int, token: Secret | None | RealtimeError, now: Instant) -> None:
        """Handle the token provider's answer to request `number`: a token, or the error that it raised."""
        self._refresh.answered(number, token, now)
        send_joins(self._joins, now)

    def delay_ready(self, topic: str | None, seconds: float, now: Instant) -> None:
        """Handle the result of the user's backoff function for a channel; topic None: for the connection."""
        if topic is None:
            self._connection.delay_ready(seconds, now)
        elif topic in self._channels:  # otherwise it was removed meanwhile
            self._channels[topic].membership.handle(RetryDelay(seconds), now)

    def tick(self, now: Instant) -> None:
        """Handle all deadlines that have passed."""
        self._watch_clock(now)
        for pending in self._context.replies.due(now.mono):
            self._receiver.unanswered(pending, now)
        for key in self._context.timers.due(now.mono):
            self._deadline_passed(key, now)
            send_joins(self._joins, now)

    # --- connection events

    def connection_opened(self, now: Instant) -> None:
        """Resolve the callers that wait for the connection, and start the channels."""
        for ticket in self._openers:
            self._context.tickets.resolve(ticket, None)
        self._openers = ()
        self._joins.opened()
        self._watch_idle(now)

    def connection_lost(self, error: ConnectionLostError, written: int | None, now: Instant) -> None:
        """Fail the requests that were pending on the socket; channels wait for the next connection."""
        self._context.notify_heartbeat(Heartbeat("disconnected"))
        for pending in self._context.replies.clear():
            self._context.tickets.resolve(pending.ticket, pending.lost(error, written))
        since = self._joins.lost(self._receiver.last_received_at or now, now)
        for channel in list(self._channels.values()):
            channel.membership.handle(ConnectionLost(error, since), now)

    def connection_closed(self, error: RealtimeError | None, now: Instant) -> None:
        """Close the channels and fail all pending calls: the connection has ended permanently."""
        unreported = not self._openers  # otherwise the caller of open() gets the error
        self._joins.lost(now, now)
        for channel in list(self._channels.values()):
            channel.membership.handle(CloseChannel(error), now)
        self._settle_all(error or ClosedError("the client was closed"))
        self._context.tokens.drop_request()
        self._context.timers.clear()
        self._context.effects.append(Ended(None, error))
        if error is not None and unreported:
            self._context.report(ClientEnded(error))
        self._settle_closers()

    # --- internal

    def _deadline_passed(self, key: TimerKey, now: Instant) -> None:  # noqa: C901, PLR0912  one flat dispatch
        """Pass a deadline to the component that has set it."""
        connection = self._connection
        channel = None if key.topic is None else self._channels.get(key.topic)
        match key.kind:
            case TimerKind.HEARTBEAT:
                connection.heartbeat_due(now)
                self._refresh.heartbeat_due(now)
            case TimerKind.CLOCK_CHECK:
                connection.schedule_clock_check(now)
            case TimerKind.CONNECT_TIMEOUT:
                connection.attempt_timed_out(now)
            case TimerKind.OPEN_TIMEOUT:
                connection.opening_timed_out(now)
            case TimerKind.CLOSE_TIMEOUT:
                connection.close_timed_out(now)
            case TimerKind.RECONNECT:
                connection.start_attempt(now)
            case TimerKind.STABLE:
                connection.mark_long_open()
            case TimerKind.IDLE:
                connection.close_idle(now)
            case TimerKind.JOIN_TIMEOUT:
                self._join_late(now)
            case TimerKind.JOIN_QUEUE:
                self._joins.resume()
            case TimerKind.TOKEN_TIMEOUT:
                self._refresh.timed_out(now)
            case TimerKind.TOKEN_REFRESH:
                self._refresh.request(now)
            case _ if channel is None:
                pass  # it was removed meanwhile
            case TimerKind.JOIN_RETRY:
                channel.membership.handle(RetryDue(), now)
            case TimerKind.REJOIN:
                channel.membership.handle(RejoinDue(), now)
            case TimerKind.LEAVE_TIMEOUT:
                channel.membership.handle(LeaveTimedOut(), now)
            case TimerKind.GAP:
                channel.membership.handle(GapDue(), now)
            case TimerKind.PRESENCE:
                channel.track_due(now)
            case TimerKind.OUTBOX:
                channel.flush_due(now)
            case TimerKind.CALL_TIMEOUT:
                assert key.ticket is not None
                channel.expired(key.ticket, now)
                self._watch_idle(now)

    def _join_late(self, now: Instant) -> None:
        """Time out the first unanswered join, or drop the connection if nothing was received since it became first."""
        received = self._receiver.last_received_at
        last_received_at = received.mono if received else 0.0
        if self._joins.is_silent(last_received_at):
            self._connection.lose(ConnectionLostError("nothing was received while a join was unanswered"), now)
        elif (late := self._joins.timed_out(now, last_received_at)) is not None:
            channel, ref = late
            channel.handle(JoinTimedOut(ref), now)

    def _watch_clock(self, now: Instant) -> None:
        """Probe the connection and fetch a token after a clock jump: the machine slept or its clock was set."""
        before, self._drift = self._drift, now.wall - now.mono
        if before is not None and abs(self._drift - before) > CLOCK_JUMP:
            self._context.report(ClockJumped(self._drift - before))
            self._connection.probe(now)
            self._refresh.request(now)

    def _watch_idle(self, now: Instant) -> None:
        seconds = self._context.options.idle_disconnect
        if seconds is None or self.state is not ConnectionState.OPEN or self._wanted():
            return
        if self._context.timers.deadline(TimerKey(TimerKind.IDLE)) is None:
            self._context.timers.set(TimerKey(TimerKind.IDLE), now.mono + seconds)

    def _wanted(self) -> int:
        return sum(channel.membership.wanted for channel in self._channels.values())

    def _check_channel_limit(self, channel: CoreChannel) -> None:
        limit = self._context.options.limits.channels
        if not channel.membership.wanted and limit is not None and self._wanted() >= limit:
            raise RateLimitedError(
                f"{limit} channels are subscribed already, the most that one connection may have",
                topic=channel.name,
                hint="unsubscribe() one, open another client, or set Limits(channels=…) to your project's limit.",
            )

    def _get(self, topic: str) -> CoreChannel:
        channel = self._channels.get(topic)
        if channel is None or channel.membership.state is ChannelState.CLOSED:
            raise self._connection.reason("the channel or its client was closed")
        return channel

    def _is_current(self, generation: int) -> bool:
        current = generation == self._context.generation
        self._context.counts.stale += not current
        return current

    def _settle_all(self, error: RealtimeError) -> None:
        """Fail all pending calls except those of `close`."""
        closers = set(self._closers)
        self._context.replies.clear()
        self._context.tickets.settle_all(error, but=closers)
        self._openers = ()

    def _settle_closers(self) -> None:
        for ticket in self._closers:
            self._context.tickets.resolve(ticket, None)
        self._closers = ()
