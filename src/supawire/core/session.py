"""The core of a client: its connection, its channels and all pending calls, as a state machine without I/O.

Commands carry the user's requests and inputs carry what happened on the network, each with the current time. Effects
are queued in order, and `next_deadline` says when to call `tick`. The core opens no socket, never blocks, reads no
clock and writes no log, so that the same inputs always produce the same effects.

    ticket = session.join("realtime:lobby", now=now)      # a pending call, resolved exactly once
    delivery = session.receive(generation, data, False, now)   # hot path: listeners and event, or None
    while (effect := session.next_effect()) is not None: ...   # work for the shell

`Session` only composes the components and decides which of them handles an input or a deadline. It has one socket, or
with `max_sockets` several, see `sockets`; generations are numbered across all of them. `HttpBroadcasts` is the
interface for HTTP broadcasts: their tickets, the token they use and the rate limit. The HTTP requests themselves are
made by the shell.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from supawire.core import frames
from supawire.core.channel import CoreChannel
from supawire.core.connection import ConnectionMachine
from supawire.core.context import Context, Counts
from supawire.core.effects import (
    ChannelLimitLearned,
    ClientEnded,
    ClockJumped,
    Effect,
    Ended,
    SocketChanged,
    Ticket,
    TicketKind,
)
from supawire.core.fallback import Cause
from supawire.core.health import channel_troubles, connection_troubles
from supawire.core.listeners import Listener
from supawire.core.membership import (
    CloseChannel,
    ConnectionLost,
    GapDue,
    JoinRejected,
    JoinTimedOut,
    Leave,
    LeaveTimedOut,
    Membership,
    RejoinDue,
    RetryDelay,
    RetryDue,
    Subscribe,
    Waiter,
    send_join,
    send_joins,
)
from supawire.core.outbox import OutgoingBroadcast
from supawire.core.pacing import Uniform
from supawire.core.receive import Receiver
from supawire.core.requests import Replies, TimerKey, TimerKind
from supawire.core.sockets import IDLE_AFTER, Socket, SocketGroup
from supawire.core.token_refresh import TokenRefresh
from supawire.errors import ClosedError, ConnectionLostError, InvalidArgumentError, RateLimitedError, RealtimeError
from supawire.events import Budget, ChannelState, ConnectionState, Heartbeat, Instant, PresenceState, Stats, Status
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
        "_end_error",
        "_ended",
        "_openers",
        "_past",
        "_past_late",
        "_receiver",
        "_refresh",
        "_replies",
        "_sockets",
        "channels",
        "effects",
        "http_broadcasts",
        "receive",
        "receive_large",
        "state",
    )  # fmt: skip

    def __init__(
        self, options: SessionOptions, *, random: Uniform, token: Secret | None = None, strict: bool = False
    ) -> None:
        self._context = Context(options, token, random, strict=strict)
        self.state: ConnectionState = ConnectionState.IDLE
        """The state of the connection; of all sockets together if there are several, see `SocketGroup.state`."""
        self._replies: list[Replies] = []
        """The pending pushes of each socket; looked at after each input."""
        self._sockets: Final = SocketGroup(options.limits.channels, options.max_sockets, self._make_socket)
        self._connection: Final = self._sockets.first.connection
        """The connection of the first socket, which exists as long as the client."""
        self._past = Counts()
        """The counters of the sockets that were closed because no channel needed them."""
        self._past_late = 0
        self._ended = False
        self._end_error: RealtimeError | None = None
        self._channels: dict[str, CoreChannel] = {}
        self.channels: Final[Mapping[str, CoreChannel]] = MappingProxyType(self._channels)
        """The channels by full topic."""
        self._receiver = self._sockets.first.receiver
        self._refresh = TokenRefresh(self._context, self._sockets, self._channels)
        self.http_broadcasts: Final = HttpBroadcasts(self._context, self._connection, self._refresh)
        self._drift: float | None = None
        self._openers: tuple[Ticket, ...] = ()
        self._closers: tuple[Ticket, ...] = ()
        self.receive: Final = self._receiver.receive
        """Hot path: `receive(generation, data, binary, now)` of the first socket, see `Receiver.receive`."""
        self.receive_large: Final = self._receiver.receive_large
        """The same for frames of more than `LARGE_FRAME_BYTES`."""
        self.effects: Final = self._context.effects
        """The queue of effects, in order."""

    def _make_socket(self, number: int) -> Socket:
        context = self._context.for_socket(number) if number else self._context
        self._replies.append(context.replies)
        return Socket(context, self)

    def receiver(self, generation: int) -> Receiver:
        """Return the receiver for the frames of this generation."""
        socket = self._sockets.at(generation)
        return self._receiver if socket is None else socket.receiver

    def is_current(self, generation: int) -> bool:
        """Return whether this is the current generation of a socket."""
        return self._sockets.at(generation) is not None

    # --- outputs

    def next_effect(self) -> Effect | None:
        """Remove and return the next effect, or None if there is none."""
        effects = self._context.effects
        return effects.popleft() if effects else None

    @property
    def next_deadline(self) -> float | None:
        """Monotonic time at which `tick` must be called; None for never."""
        first = self._context.timers.next
        for replies in self._replies:
            if replies and (other := replies.next) is not None and (first is None or other < first):
                first = other
        return first

    def deadline(self, kind: TimerKind, topic: str | None = None) -> float | None:
        """Return the monotonic time of one deadline, None if it is not set. For inspection only."""
        return self._context.timers.deadline(TimerKey(kind, topic))

    @property
    def error(self) -> RealtimeError | None:
        """Why the connection, or one of the sockets, is not open."""
        errors = (socket.connection.error for socket in self._sockets)
        return next((error for error in errors if error is not None), None)

    @property
    def generation(self) -> int:
        """Number of the current connection attempt of the first socket."""
        return self._context.generation

    @property
    def sequence(self) -> int:
        """Number of frames passed to the first socket of this generation."""
        return self._context.sequence

    def sequence_of(self, generation: int) -> int:
        """Return the number of frames passed to the socket of this generation."""
        socket = self._sockets.at(generation)
        return 0 if socket is None else socket.context.sequence

    @property
    def awaits_reply(self) -> bool:
        """Whether a request or a join is waiting for its reply."""
        return any(socket.context.replies or socket.joins.unanswered for socket in self._sockets)

    @property
    def pending_tickets(self) -> frozenset[Ticket]:
        """The tickets of all pending calls."""
        return frozenset(self._context.tickets)

    @property
    def is_fetching_token(self) -> bool:
        """Whether a request to the token provider is pending."""
        return self._context.tokens.fetching

    def stats(self) -> Stats:
        """Return the counters, without those of the shell. Any thread may call it, since each `list` copies at once."""
        channels = list(self._channels.values())
        members = [channel.membership for channel in channels]
        sockets = list(self._sockets)
        contexts = [socket.context for socket in sockets]
        every = [self._past, *(context.counts for context in contexts)]
        received = sum(member.received for member in members) + sum(counts.removed_received for counts in every)
        newest = max(contexts, key=lambda context: (context.round_trip is not None, context.answered_at))
        return Stats(
            state=self.state,
            frames_received=received + sum(counts.other_frames for counts in every),
            frames_sent=sum(counts.frames_sent for counts in every),
            connects=sum(counts.connects for counts in every),
            reconnects=sum(counts.reconnects for counts in every),
            fallbacks=sum(counts.fallbacks for counts in every),
            joins=sum(counts.joins for counts in every),
            stale_frames=sum(counts.stale for counts in every),
            late_replies=self._past_late + sum(context.replies.late for context in contexts),
            garbage_frames=sum(counts.garbage for counts in every),
            unknown_frames=sum(counts.unknown for counts in every),
            pending=len(self._context.tickets),
            queued=sum(channel.queued for channel in channels),
            overflowed=0,
            last_round_trip=newest.round_trip,
            malformed_presence=sum(counts.malformed_presence for counts in every),
            messages_received=received,
            messages_sent=sum(member.outbox.sent for member in members) + sum(counts.removed_sent for counts in every),
            messages_published=sum(counts.published for counts in every),
            gaps=sum(counts.gaps for counts in every),
            channels=len(channels),
            joined_channels=sum(member.state is ChannelState.JOINED for member in members),
            clock_offset=self._context.server_clock.offset,
            sockets=tuple(socket.stats() for socket in sockets),
        )

    def budgets(self, mono: float) -> dict[str, Budget]:
        """Return what is used of the rate limits, by the names in `Stats`. Any thread may call it."""
        return {
            "message_budget": self._context.messages.budget(mono),
            "join_budget": self._context.joins.budget(mono),
            "presence_budget": self._context.presence.budget(mono),
        }

    def troubles(self, mono: float, grace: float, *, with_channels: bool) -> tuple[str, ...]:
        """Return why the client is not healthy or, with channels, not ready; see `AsyncClient.healthy`.

        Any thread may call it.
        """
        ended = self.state in (ConnectionState.CLOSING, ConnectionState.CLOSED)
        sockets = [self._sockets.first] if ended or not self._sockets.several else list(self._sockets)
        options = self._context.options
        found: list[str] = []
        for socket in sockets:
            down_since = socket.connection.down_since
            reasons = connection_troubles(
                socket.connection.state,
                socket.connection.error,
                down_for=0.0 if down_since is None else mono - down_since,
                silent_for=mono - socket.context.answered_at,
                longest_silence=options.heartbeat + options.timeout,
                grace=grace,
            )
            found += (reason if len(sockets) == 1 else f"socket {socket.number}: {reason}" for reason in reasons)
        return (*found, *channel_troubles(list(self._channels.values()))) if with_channels else tuple(found)

    def table_sizes(self) -> dict[str, int]:
        """Return the number of entries in each internal table, to detect leaks."""
        context = self._context
        sockets = list(self._sockets)
        return {
            "channels": len(self._channels),
            "queued joins": sum(socket.joins.waiting for socket in sockets),
            "unanswered joins": sum(socket.joins.unanswered for socket in sockets),
            "tickets": len(context.tickets),
            "requests": sum(len(socket.context.replies) for socket in sockets),
            "deadlines": len(context.timers),
            "heap": context.timers.heap_size + sum(socket.context.replies.heap_size for socket in sockets),
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
            for socket in self._sockets:
                socket.connection.close(now)
        return ticket

    def abort(self, error: RealtimeError | None, now: Instant) -> None:
        """Close permanently and at once, without sending anything. Pending calls get the error, or `ClosedError`."""
        for socket in self._sockets:
            socket.connection.abort(error, now)

    def reconnect(self, now: Instant) -> None:
        """Connect now instead of after the backoff. An open connection is replaced; with several sockets, each."""
        self._connection.check_open()
        for socket in self._sockets:
            socket.connection.reconnect(now)

    def ping(self, timeout: float | None, now: Instant, *, ignore_queue_time: bool = False) -> Ticket:
        """Send a heartbeat on the first open socket. The ticket resolves with the round-trip time in seconds.

        `ignore_queue_time`: do not count time spent behind unanswered joins.

        Raises: ConnectionLostError: there is no connection now.
        """
        self._connection.check_open()
        socket = self._first_open()
        if socket is None:
            raise ConnectionLostError("there is no connection now", maybe_sent=False)
        ticket = self._context.tickets.create(TicketKind.PING)
        socket.context.push(
            frames.HEARTBEAT, {}, now, ticket=ticket, timeout=timeout, counts_queue_time=not ignore_queue_time
        )
        return ticket

    def set_token(self, token: Secret | None, now: Instant) -> None:
        """Set the client's token. With a provider, it is used until the provider returns the next one."""
        self._connection.check_open()
        self._refresh.set_by_user(token, now)
        self._send_joins(now)

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
            socket = self._sockets.first
            channel = CoreChannel(socket.context, socket.joins, topic, options)
            self._channels[topic] = channel
            socket.add(channel)
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

        Raises: RateLimitedError: each of the sockets already has the maximum number of channels.
        """
        channel = self._get(topic)
        socket = self._place(channel, now)
        ticket = self._context.tickets.create(TicketKind.READY if ready else TicketKind.JOIN)
        self._need(socket, now)
        channel.membership.handle(Subscribe(Waiter(ticket, ready, timeout, ignore_queue_time)), now)
        send_joins(socket.joins, now)
        return ticket

    def leave(self, topic: str, bound: float, now: Instant) -> Ticket:
        """Leave the channel. The ticket resolves when the server confirms, or after `bound` seconds."""
        ticket = self._context.tickets.create(TicketKind.LEAVE)
        channel = self._get(topic)
        channel.membership.handle(Leave(ticket, bound), now)
        self._left(channel, now)
        return ticket

    def remove(self, topic: str, now: Instant) -> None:
        """Leave the channel and remove it. Its object is closed."""
        channel = self._channels.pop(topic, None)
        if channel is not None:
            socket = self._sockets.holds(channel)
            socket.remove(channel)
            socket.context.counts.removed_received += channel.membership.received
            socket.context.counts.removed_sent += channel.membership.outbox.sent
            channel.membership.handle(CloseChannel(None), now)
            self._left(channel, now)

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
        self._send_joins(now)

    def presence_state(self, topic: str) -> PresenceState:
        """Return an immutable snapshot of the presence state."""
        return self._get(topic).presence()

    def cancel(self, ticket: Ticket, now: Instant) -> None:
        """Discard the ticket of a cancelled call, and withdraw a request that only this call needed."""
        if ticket in self._context.tickets:
            self._context.tickets.drop(ticket)
            for channel in list(self._channels.values()):
                wanted = channel.wanted
                channel.cancel(ticket, now)
                if wanted and not channel.wanted:
                    self._left(channel, now)

    # --- inputs

    def transport_opened(
        self, generation: int, now: Instant, *, clock_offset: float | None = None, protocol: str | None = None
    ) -> None:
        """Handle that the socket of this generation is open.

        `clock_offset`: seconds by which the server's clock is ahead of ours, or slightly less; None if not known.
        `protocol`: the version of its frames, if not that of the options.
        """
        socket = self._current(generation)
        if socket is not None:
            self._watch_clock(now)
            self._context.server_clock.set_offset(clock_offset, now)
            socket.receiver.use_protocol(protocol or self._context.options.protocol)
            socket.connection.opened(now)
            send_joins(socket.joins, now)

    def transport_closed(self, generation: int, cause: Cause, now: Instant) -> None:
        """Handle that the socket of this generation was closed or could not be opened."""
        socket = self._current(generation)
        if socket is not None:
            socket.connection.closed(cause, now)

    def probed(self, generation: int, works: bool, now: Instant) -> None:
        """Handle the result of `ProbeWebSocket`."""
        socket = self._current(generation)
        if socket is not None:
            socket.connection.probed(works, now)

    def token_ready(self, number: int, token: Secret | None | RealtimeError, now: Instant) -> None:
        """Handle the token provider's answer to request `number`: a token, or the error that it raised."""
        self._refresh.answered(number, token, now)
        self._send_joins(now)

    def delay_ready(self, topic: str | None, seconds: float, now: Instant, *, socket: int = 0) -> None:
        """Handle the result of the user's backoff function for a channel; topic None: for a socket's connection."""
        if topic is None:
            self._sockets.sockets[socket].connection.delay_ready(seconds, now)
        elif topic in self._channels:  # otherwise it was removed meanwhile
            self._channels[topic].membership.handle(RetryDelay(seconds), now)

    def tick(self, now: Instant) -> None:
        """Handle all deadlines that have passed."""
        self._watch_clock(now)
        for socket in self._sockets:
            for pending in socket.context.replies.due(now.mono):
                socket.receiver.unanswered(pending, now)
        for key in self._context.timers.due(now.mono):
            self._deadline_passed(key, now)
            self._send_joins(now)

    # --- events of the sockets

    def socket_changed(self, socket: Socket, status: Status) -> None:
        """Announce a new state of the connection, or of several sockets together if that has changed."""
        previous, self.state = self.state, self._sockets.state
        if not self._sockets.several:
            self._context.announce(status)
            return
        self._context.report(SocketChanged(socket.number, status))
        if self.state is not previous:
            self._context.announce(Status(None, self.state, previous, status.cause))

    def socket_opened(self, socket: Socket, now: Instant) -> None:
        """Resolve the callers that wait for the connection, and start the channels of the socket."""
        for ticket in self._openers:
            self._context.tickets.resolve(ticket, None)
        self._openers = ()
        socket.joins.opened()
        self._watch_idle(socket, now)

    def socket_lost(self, socket: Socket, error: ConnectionLostError, written: int | None, now: Instant) -> None:
        """Fail the requests that were pending on the socket; its channels wait for the next connection."""
        self._context.notify_heartbeat(Heartbeat("disconnected"))
        for pending in socket.context.replies.clear():
            self._context.tickets.resolve(pending.ticket, pending.lost(error, written))
        since = socket.joins.lost(socket.receiver.last_received_at or now, now)
        for channel in list(socket.channels.values()):
            channel.membership.handle(ConnectionLost(error, since), now)

    def socket_closed(self, socket: Socket, error: RealtimeError | None, now: Instant) -> None:
        """Close the channels of a socket that has ended permanently. After an error, the other sockets end too."""
        socket.joins.lost(now, now)
        for channel in list(socket.channels.values()):
            channel.membership.handle(CloseChannel(error), now)
        self._end_error = self._end_error or error
        if error is not None:
            self.abort(error, now)
        if not self._ended and all(each.connection.state is ConnectionState.CLOSED for each in self._sockets):
            self._ended = True
            self._end(self._end_error)

    def _end(self, error: RealtimeError | None) -> None:
        """Fail all pending calls: the last connection has ended permanently."""
        unreported = not self._openers  # otherwise the caller of open() gets the error
        self._settle_all(error or ClosedError("the client was closed"))
        self._context.tokens.drop_request()
        self._context.timers.clear()
        self._context.effects.append(Ended(None, error))
        if error is not None and unreported:
            self._context.report(ClientEnded(error))
        self._settle_closers()

    def channel_limit_reached(self, socket: Socket, member: Membership, ref: str, reason: str, now: Instant) -> bool:
        """Move a channel that was refused because its socket has too many to another socket.

        If the refusal shows that the server's limit is lower than ours, all sockets with more channels are relieved.
        Return False if no socket can take the channel; the refusal then stands. A rejoin is not moved but retried: the
        server's count may still include the join that it replaces.
        """
        if not self._sockets.several or member.pending_join is None or member.pending_join.ref != ref:
            return False
        if member.state is ChannelState.REJOINING:
            return False
        most, limit = socket.most_counted(now), self._sockets.limit
        learned = most is not None and most > 0 and (limit is None or most < limit)
        if learned and most is not None:
            self._sockets.limit = most
            self._context.report(ChannelLimitLearned(most))
        target = self._sockets.room_for(self._channels[member.topic], besides=socket)
        if target is None:
            return False
        member.handle(JoinRejected(ref, reason, elsewhere=True), now)
        self._move(self._channels[member.topic], target, now)
        if learned:
            for each in list(self._sockets):
                self._relieve(each, now)
        return True

    def _relieve(self, socket: Socket, now: Instant) -> None:
        """Move the channels that exceed the limit and are not joined to other sockets.

        The server holds each refusal back for seconds and answers nothing else meanwhile. If joins that it will refuse
        are on their way, replacing the connection is faster than waiting for the refusals.
        """
        limit = self._sockets.limit
        over = 0 if limit is None else socket.occupied(leaving=True) - limit
        if over <= 0:
            return
        if socket.joins.unanswered:
            socket.connection.lose(ConnectionLostError("the socket has more channels than the server accepts"), now)
        for channel in list(socket.subscribed.values())[-over:]:
            if not channel.membership.has_join:
                target = self._sockets.room_for(channel, besides=socket)
                if target is not None:
                    self._move(channel, target, now)

    def _move(self, channel: CoreChannel, target: Socket, now: Instant) -> None:
        """Place a channel without a join on another socket."""
        source = self._sockets.holds(channel)
        if source is target:
            return
        source.remove(channel)
        target.add(channel)
        channel.use_socket(target.context, target.joins, now)
        if channel.wanted:  # `subscribed` may also have channels that were left
            target.subscribed[channel.topic] = channel
            self._need(target, now)
            self._watch_idle(source, now)

    # --- internal

    def _deadline_passed(self, key: TimerKey, now: Instant) -> None:  # noqa: C901, PLR0912, PLR0915  one flat dispatch
        """Pass a deadline to the component that has set it."""
        socket = self._sockets.sockets.get(key.socket)
        if socket is None:
            return  # it was closed meanwhile
        connection = socket.connection
        channel = None if key.topic is None else self._channels.get(key.topic)
        match key.kind:
            case TimerKind.HEARTBEAT:
                connection.heartbeat_due(now)
                if socket is self._first_open():
                    self._refresh.heartbeat_due(now)
            case TimerKind.CLOCK_CHECK:
                connection.schedule_clock_check(now)
            case TimerKind.PROBE:
                connection.probe_due()
            case TimerKind.CONNECT:
                connection.pace_allows(now)
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
                self._retire(socket, now)
            case TimerKind.JOIN_TIMEOUT:
                self._join_late(socket, now)
            case TimerKind.JOIN_QUEUE:
                for each in self._sockets:  # the pace is that of all sockets
                    each.joins.resume()
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
                wanted = channel.wanted
                channel.expired(key.ticket, now)
                if wanted and not channel.wanted:
                    self._left(channel, now)

    def _send_joins(self, now: Instant) -> None:
        """Send the joins that may be sent now, one of each socket in turn: each socket answers one after another."""
        queues = [socket.joins for socket in self._sockets]
        while queues:
            queues = [joins for joins in queues if send_join(joins, now)]

    def _join_late(self, socket: Socket, now: Instant) -> None:
        """Time out the first unanswered join, or drop the connection if nothing was received since it became first."""
        received = socket.receiver.last_received_at
        last_received_at = received.mono if received else 0.0
        if socket.joins.is_silent(last_received_at):
            socket.connection.lose(ConnectionLostError("nothing was received while a join was unanswered"), now)
        elif (late := socket.joins.timed_out(now, last_received_at)) is not None:
            channel, ref = late
            channel.handle(JoinTimedOut(ref), now)

    def _watch_clock(self, now: Instant) -> None:
        """Probe the connections and fetch a token after a clock jump: the machine slept or its clock was set."""
        before, self._drift = self._drift, now.wall - now.mono
        if before is not None and abs(self._drift - before) > CLOCK_JUMP:
            self._context.report(ClockJumped(self._drift - before))
            for socket in self._sockets:
                socket.connection.probe(now)
            self._refresh.request(now)

    # --- which channel is on which socket

    def _place(self, channel: CoreChannel, now: Instant) -> Socket:
        """Return the socket for a channel that the user subscribes, and place the channel there."""
        socket = self._sockets.holds(channel)
        if channel.wanted:
            return socket
        if not channel.membership.has_join:  # else it is being left, and is joined again where it was
            found = self._sockets.room_for(channel)
            if found is None:
                raise self._too_many_channels(channel)
            self._move(channel, found, now)
            socket = found
        elif channel.topic not in socket.subscribed and not self._sockets.has_room(socket):
            raise self._too_many_channels(channel)  # another channel has its place
        socket.subscribed[channel.topic] = channel
        return socket

    def _too_many_channels(self, channel: CoreChannel) -> RateLimitedError:
        limit, sockets = self._sockets.limit, self._context.options.max_sockets
        if sockets > 1:
            return RateLimitedError(
                f"{sockets} sockets with {limit} subscribed channels each are in use, the most that are allowed",
                topic=channel.name,
                hint="unsubscribe() a channel, or raise max_sockets= if your plan allows more connections.",
            )
        return RateLimitedError(
            f"{limit} channels are subscribed already, the most that one connection may have",
            topic=channel.name,
            hint=(
                "Pass max_sockets= to spread the channels of this client over several connections, unsubscribe() one, "
                "or set Limits(channels=…) to your project's limit."
            ),
        )

    def _need(self, socket: Socket, now: Instant) -> None:
        """Connect a socket that a channel is subscribed on, and keep it."""
        if socket.connection.state is ConnectionState.IDLE:
            socket.connection.start(now)
        self._context.timers.cancel(socket.context.key(TimerKind.IDLE))

    def _left(self, channel: CoreChannel, now: Instant) -> None:
        """Record that a channel is no longer subscribed."""
        socket = self._sockets.holds(channel)
        socket.left(now)
        self._sockets.channel_left()
        self._watch_idle(socket, now)

    def _watch_idle(self, socket: Socket, now: Instant) -> None:
        seconds = self._context.options.idle_disconnect
        if socket.number:
            seconds = IDLE_AFTER if seconds is None else min(seconds, IDLE_AFTER)
        if seconds is None or socket.connection.state is not ConnectionState.OPEN or socket.wanted:
            return
        key = socket.context.key(TimerKind.IDLE)
        if self._context.timers.deadline(key) is None:
            self._context.timers.set(key, now.mono + seconds)

    def _retire(self, socket: Socket, now: Instant) -> None:
        """Remove a socket that was closed because no channel needs it, unless it is the first."""
        if socket.number and socket.connection.state is ConnectionState.IDLE:
            for channel in list(socket.channels.values()):
                self._move(channel, self._sockets.first, now)
            self._past.add(socket.context.counts)
            self._past_late += socket.context.replies.late
            self._replies.remove(socket.context.replies)
            self._sockets.retire(socket)

    def _first_open(self) -> Socket | None:
        for socket in self._sockets:
            if socket.connection.state is ConnectionState.OPEN:
                return socket
        return None

    def _get(self, topic: str) -> CoreChannel:
        channel = self._channels.get(topic)
        if channel is None or channel.membership.state is ChannelState.CLOSED:
            raise self._connection.reason("the channel or its client was closed")
        return channel

    def _current(self, generation: int) -> Socket | None:
        """Return the socket of this generation; count the input as stale if it is an older one."""
        socket = self._sockets.at(generation)
        self._context.counts.stale += socket is None
        return socket

    def _settle_all(self, error: RealtimeError) -> None:
        """Fail all pending calls except those of `close`."""
        closers = set(self._closers)
        for socket in self._sockets:
            socket.context.replies.clear()
        self._context.tickets.settle_all(error, but=closers)
        self._openers = ()

    def _settle_closers(self) -> None:
        for ticket in self._closers:
            self._context.tickets.resolve(ticket, None)
        self._closers = ()
