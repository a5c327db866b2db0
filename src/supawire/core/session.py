"""What each deadline means: the first part of its key, and who acts on it.

Broadcasts by HTTP, as the session sees them: what is owed, with which token they go, and when the limit lets them.

The requests themselves are the shell's. A post ends once, whoever is first: its answer, its caller, or `close()`.

The client's core: one link, its channels, and everything that is owed to callers.

A pure state machine. Commands say what the user wants and inputs what the world did, each with the instant; effects
come out in order, and one deadline says when `tick` is wanted. It opens nothing, waits for nothing, reads no clock and
logs nothing, so that the same inputs always give the same effects.

    ticket = session.join("realtime:lobby", now=now)      # owed to the caller, settled once
    delivery = session.receive(generation, data, False, now)   # hot lane: who gets what, or None
    while (effect := session.next_effect()) is not None: ...   # orders to the shell

This file composes; it decides only which part an input belongs to.
"""

from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any, Final

from supawire.core import frames
from supawire.core.channel import CoreChannel
from supawire.core.connection import Cause, Connection
from supawire.core.context import Context, Key
from supawire.core.effects import Effect, Ended, Ticket
from supawire.core.join_queue import JoinQueue
from supawire.core.listeners import Listener
from supawire.core.membership import Membership
from supawire.core.outbox import OutgoingBroadcast
from supawire.core.pacing import Uniform
from supawire.core.receive import Receiver
from supawire.core.token_refresh import TokenRefresh
from supawire.core.waiters import Waiter
from supawire.errors import ClosedError, ConnectionLostError, InvalidArgumentError, RateLimitedError, RealtimeError
from supawire.events import ChannelState, ConnectionState, Heartbeat, Instant, PresenceState, Stats
from supawire.options import ChannelOptions, Secret, SessionOptions


class Deadlines:
    """The parts of one session that act on deadlines; only on a caller's ("ticket") it acts itself."""

    __slots__ = ("channels", "joins", "link", "receiver", "refresh")

    def __init__(
        self,
        link: Connection,
        joins: JoinQueue,
        refresh: TokenRefresh,
        receiver: Receiver,
        channels: Mapping[str, CoreChannel],
    ) -> None:
        self.link: Final = link
        self.joins: Final = joins
        self.refresh: Final = refresh
        self.receiver: Final = receiver
        self.channels: Final = channels

    def passed(self, key: Any, now: Instant) -> None:
        """The deadline with this key has passed."""
        _MEANINGS[key[0]](self, key, now)

    def beat(self, now: Instant) -> None:
        """Send a heartbeat; with `token_on_heartbeat` ask the provider too."""
        self.link.beat(now)
        self.refresh.beat(now)

    def join_late(self, now: Instant) -> None:
        """The join that leads the row is not answered; or the socket is dead, when nothing was heard since."""
        heard = self.receiver.last_received_at
        if not self.joins.timed_out(now, heard.mono if heard else 0.0):
            self.link.lose(ConnectionLostError("nothing came while a join waited for its answer"), now)


_Due = Callable[[Deadlines, Any, Instant], None]


def _of_channel(call: Callable[[CoreChannel, Instant], None]) -> _Due:
    """A channel's deadline has its topic as the second part."""

    def due(of: Deadlines, key: Any, now: Instant) -> None:
        channel = of.channels.get(key[1])
        if channel is not None:
            call(channel, now)

    return due


def _of_member(call: Callable[[Membership, Instant], None]) -> _Due:
    return _of_channel(lambda channel, now: call(channel.membership, now))


_MEANINGS: Final[Mapping[Hashable, _Due]] = {
    "attempt": lambda of, _, now: of.link.attempt_late(now),
    "opening": lambda of, _, now: of.link.opening_late(now),
    "closing": lambda of, _, now: of.link.closing_late(now),
    "connect": lambda of, _, now: of.link.due(now),
    "beat": lambda of, _, now: of.beat(now),
    "proven": lambda of, _, __: of.link.up(),
    "clock": lambda of, _, now: of.link.look(now),
    "idle": lambda of, _, now: of.link.idle(now),
    "join": lambda of, _, now: of.join_late(now),
    "joins": lambda of, _, now: of.joins.pump(now),
    "token": lambda of, _, now: of.refresh.late(now),
    "refresh": lambda of, _, now: of.refresh.ask(now),
    "rejoin": _of_member(Membership.retry_due),
    "again": _of_member(Membership.again_due),
    "leave": _of_member(Membership.leave_late),
    "gap": _of_member(Membership.gap_due),
    "track": _of_channel(CoreChannel.track_due),
    "flush": _of_channel(CoreChannel.flush_due),
}


class Posts:
    """The part of one session that the HTTP side of its shell talks to."""

    __slots__ = ("_connection", "_context", "_refresh")

    def __init__(self, context: Context, link: Connection, refresh: TokenRefresh) -> None:
        self._context = context
        self._connection = link
        self._refresh = refresh

    def open(self) -> Ticket:
        """Something goes out by HTTP: its outcome is owed. Raises `ClosedError`."""
        self._connection.check_open()
        return self._context.tickets.create("publish")

    def settle(self, ticket: Ticket, outcome: Any) -> None:
        """It is over: a value, or the error that the caller gets. One that was settled before stays as it was."""
        self._context.tickets.resolve(ticket, outcome)

    @property
    def token(self) -> Secret | None:
        """The newest token of the client."""
        return self._context.tokens.current

    @property
    def refreshable(self) -> bool:
        """Whether somebody can be asked for a newer one."""
        return self._context.tokens.has_provider

    def refresh(self, now: Instant) -> Ticket:
        """Ask for a newer token; settled with it, or with why there is none. Raises `ClosedError`."""
        self._connection.check_open()
        return self._refresh.wait(now)

    @property
    def most(self) -> int | None:
        """How many messages the limit ever allows at once."""
        return self._context.messages.limit

    def ready_at(self, mono: float, messages: int) -> float:
        """When the limit allows so many messages: `mono` itself when now."""
        return self._context.messages.ready_at(mono, messages)

    def spend(self, mono: float, messages: int) -> None:
        """They go out."""
        self._context.messages.spend(mono, messages)


_NO_OPTIONS: Final = ChannelOptions()

JUMP: Final = 10.0
"""Seconds by which the wall clock may move against the monotonic one before it counts as a sleep or a new setting."""


class Session:
    """One client of Realtime, without the world.

    Args: random: draws the jitter. strict: raise `LocalProtocolError` on an impossible move instead of reporting it.
    """

    __slots__ = (
        "_channels",
        "_closers",
        "_connection",
        "_context",
        "_deadlines",
        "_drift",
        "_joins",
        "_openers",
        "_receiver",
        "_refresh",
        "channels",
        "effects",
        "posts",
        "receive",
        "receive_heavy",
    )  # fmt: skip

    def __init__(
        self, options: SessionOptions, *, random: Uniform, token: Secret | None = None, strict: bool = False
    ) -> None:
        self._context = Context(options, token, random, strict=strict)
        self._joins = JoinQueue(self._context)
        self._connection = Connection(self._context, self)
        self._channels: dict[str, CoreChannel] = {}
        self.channels: Final[Mapping[str, CoreChannel]] = MappingProxyType(self._channels)
        """The channels by full topic."""
        self._receiver = Receiver(self._context, self._connection, self._joins, self._channels)
        self._refresh = TokenRefresh(self._context, self._connection, self._joins, self._channels)
        self.posts: Final = Posts(self._context, self._connection, self._refresh)
        self._drift: float | None = None
        self._openers: tuple[Ticket, ...] = ()
        self._closers: tuple[Ticket, ...] = ()
        self._deadlines = Deadlines(self._connection, self._joins, self._refresh, self._receiver, self._channels)
        self.receive: Final = self._receiver.receive
        """The hot lane: `receive(generation, data, binary, now)`, see `Receiver.receive`."""
        self.receive_heavy: Final = self._receiver.receive_heavy
        """The same for frames of more than `HEAVY` bytes."""
        self.effects: Final = self._context.effects
        """What `next_effect` takes from; to look whether there is anything."""

    # --- outputs

    def next_effect(self) -> Effect | None:
        """The next order to the shell, None when there is none."""
        effects = self._context.effects
        return effects.popleft() if effects else None

    @property
    def next_deadline(self) -> float | None:
        """When `tick` is wanted, on the monotonic clock; None for never."""
        one, other = self._context.timers.next, self._context.replies.next
        return one if other is None else other if one is None else min(one, other)

    @property
    def state(self) -> ConnectionState:
        """Where the link stands."""
        return self._connection.state

    @property
    def error(self) -> RealtimeError | None:
        """Why the link is not open."""
        return self._connection.error

    @property
    def generation(self) -> int:
        """The present attempt's number."""
        return self._context.generation

    @property
    def sequence(self) -> int:
        """How many frames were handed to the socket of this generation."""
        return self._context.sequence

    @property
    def awaits_reply(self) -> bool:
        """Whether a request of ours waits for its reply."""
        return bool(self._context.replies) or self._joins.unanswered > 0

    def stats(self) -> Stats:
        """The counters so far."""
        return self._context.stats(self.state, sum(channel.queued for channel in self._channels.values()))

    # --- commands: the client

    def open(self, now: Instant) -> Ticket:
        """Connect, and stay connected; the ticket is settled with the first connection."""
        ticket = self._context.tickets.create("open")
        if self.state is ConnectionState.OPEN:
            self._context.tickets.resolve(ticket, None)
            return ticket
        self._connection.check_open()
        self._openers += (ticket,)
        self._connection.want(now)
        return ticket

    def close(self, now: Instant) -> Ticket:
        """End for good: leave, close, and settle everything that is owed with `ClosedError`."""
        ticket = self._context.tickets.create("close")
        self._closers += (ticket,)
        for channel in self._channels.values():
            channel.close(None, now)
        self._settle_all(ClosedError("the client was closed"))
        if self.state is ConnectionState.CLOSED:
            self._settle_closers()
        else:
            self._connection.close(now)
        return ticket

    def abort(self, error: RealtimeError | None, now: Instant) -> None:
        """End for good and at once, without a word to the server; who waits gets the error, or `ClosedError` (R2)."""
        self._connection.abort(error, now)

    def reconnect(self, now: Instant) -> None:
        """Connect now, not at the end of the backoff; an open connection is replaced."""
        self._connection.check_open()
        self._connection.reconnect(now)

    def ping(self, timeout: float | None, now: Instant, *, patient: bool = False) -> Ticket:
        """Send a heartbeat; settled with its round trip in seconds.

        `patient`: time behind unanswered joins is not counted.

        Raises: ConnectionLostError: there is no connection now.
        """
        self._connection.check_open()
        if self.state is not ConnectionState.OPEN:
            raise ConnectionLostError("there is no connection now", maybe_sent=False)
        ticket = self._context.tickets.create("ping")
        self._context.push(frames.HEARTBEAT, {}, now, ticket=ticket, timeout=timeout, firm=not patient)
        return ticket

    def set_token(self, token: Secret | None, now: Instant) -> None:
        """The client's token from now on; with a provider, until it is asked the next time."""
        self._connection.check_open()
        self._refresh.set_by_user(token, now)

    def watch(self, deliver: Callable[[Any], None], *, heartbeats: bool = False) -> None:
        """Tell of every move of link and channels, of gaps, and if wanted of heartbeats."""
        self._context.watchers[deliver] = None
        if heartbeats:
            self._context.beat_watchers[deliver] = None

    def unwatch(self, deliver: Callable[[Any], None]) -> None:
        """No longer."""
        self._context.watchers.pop(deliver, None)
        self._context.beat_watchers.pop(deliver, None)

    # --- commands: channels

    def channel(self, topic: str, options: ChannelOptions) -> CoreChannel:
        """The channel of this full topic, made when it is new.

        Raises: InvalidArgumentError: it exists with other options (R21).
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
                hint="Ask with the same options, or remove_channel() the first one.",
            )
        return channel

    def listen(self, topic: str, listener: Listener, now: Instant) -> None:
        """Register a listener."""
        self._get(topic).listen(listener, now)

    def unlisten(self, topic: str, listener: Listener) -> None:
        """Unregister a listener; also of a channel that is gone."""
        channel = self._channels.get(topic)
        if channel is not None:
            channel.unlisten(listener)

    def join(
        self, topic: str, now: Instant, *, ready: bool = False, timeout: float | None = None, patient: bool = False
    ) -> Ticket:
        """Want to be joined; settled when it is (or *ready*).

        `patient`: time behind pacing and behind other joins is not counted.

        Raises: RateLimitedError: as many channels are wanted as one connection may have.
        """
        channel = self._get(topic)
        self._check_room(channel)
        ticket = self._context.tickets.create("ready" if ready else "join")
        if self.state is ConnectionState.IDLE:
            self._connection.want(now)
        self._context.timers.cancel(("idle",))
        channel.subscribe(Waiter(ticket, ready, timeout, patient), now)
        return ticket

    def leave(self, topic: str, bound: float, now: Instant) -> Ticket:
        """Want to be out; settled when the server has confirmed, or after the bound."""
        ticket = self._context.tickets.create("leave")
        self._get(topic).unsubscribe(ticket, bound, now)
        self._watch_idle(now)
        return ticket

    def remove(self, topic: str, now: Instant) -> None:
        """Leave and forget the channel; its object is closed."""
        channel = self._channels.pop(topic, None)
        if channel is not None:
            self._receiver.unregister(channel)
            channel.close(None, now)
            self._watch_idle(now)

    def broadcast(self, topic: str, message: OutgoingBroadcast, now: Instant) -> Ticket | None:
        """Send a broadcast. None: it is handed to the socket, and nothing more will come; else see the ticket.

        Raises what can be told at once: StateError, PayloadTooLargeError, ClosedError.
        """
        return self._get(topic).broadcast(message, now)

    def track(self, topic: str, wish: bytes | None, timeout: float | None, now: Instant) -> Ticket:
        """Be present with this payload (JSON), None: not be present.

        Raises: InvalidArgumentError, PayloadTooLargeError: more keys or bytes than the limits allow.
        """
        channel = self._get(topic)
        channel.check_presence(wish)
        ticket = self._context.tickets.create("track")
        channel.track(wish, ticket, timeout, now)
        return ticket

    def set_channel_token(self, topic: str, token: Secret | None, now: Instant) -> None:
        """The token of one channel."""
        self._get(topic).set_token(token, now)

    def presence_state(self, topic: str) -> PresenceState:
        """Everyone who is here, as an immutable snapshot."""
        return self._get(topic).presence()

    def cancel(self, ticket: Ticket, now: Instant) -> None:
        """The caller went away: it wants nothing any more, and what only it wanted is withdrawn."""
        if ticket in self._context.tickets:
            self._context.tickets.drop(ticket)
            for channel in list(self._channels.values()):
                channel.cancel(ticket, now)
            self._watch_idle(now)

    # --- inputs

    def transport_opened(self, generation: int, now: Instant, *, clock_offset: float | None = None) -> None:
        """The socket of this generation is open.

        `clock_offset`: by how many seconds the server's clock is ahead of ours, or a little less; None: not known.
        """
        if self._is_current(generation):
            self._watch_clock(now)
            self._context.server_clock.learn(clock_offset, now)
            self._connection.opened(now)

    def transport_closed(self, generation: int, cause: Cause, now: Instant) -> None:
        """The socket of this generation ended, or could not be opened."""
        if self._is_current(generation):
            self._connection.closed(cause, now)

    def token_ready(self, number: int, token: Secret | None | RealtimeError, now: Instant) -> None:
        """The provider answered the question with this number, or raised."""
        self._refresh.answered(number, token, now)

    def delay_ready(self, key: Key, seconds: float, now: Instant) -> None:
        """The user's backoff callable answered."""
        match key:
            case (_, str(topic)) if topic in self._channels:
                self._channels[topic].membership.delay_ready(seconds, now)
            case ("connect",):
                self._connection.delay_ready(seconds, now)
            case _:
                pass  # of a channel that was removed meanwhile

    def tick(self, now: Instant) -> None:
        """A deadline passed."""
        self._watch_clock(now)
        for pending in self._context.replies.due(now.mono):
            self._receiver.unanswered(pending, now)
        for key in self._context.timers.due(now.mono):
            if key[0] == "ticket":
                self._ticket_late(key, now)
            else:
                self._deadlines.passed(key, now)

    # --- what the link tells

    def connection_opened(self, now: Instant) -> None:
        """The socket is open: whoever waited for it, and the channels."""
        for ticket in self._openers:
            self._context.tickets.resolve(ticket, None)
        self._openers = ()
        self._joins.opened(now)
        self._watch_idle(now)

    def connection_lost(self, error: ConnectionLostError, written: int | None, now: Instant) -> None:
        """The socket is gone: requests on it are settled, channels wait (R31)."""
        self._context.beaten(Heartbeat("disconnected"))
        for pending in self._context.replies.clear():
            self._context.tickets.resolve(pending.ticket, pending.lost(error, written))
        since = self._joins.lost(self._receiver.last_received_at or now, now)
        for channel in list(self._channels.values()):
            channel.membership.connection_lost(error, since, now)

    def connection_closed(self, error: RealtimeError | None, now: Instant) -> None:
        """The end."""
        unheard = not self._openers  # who opens the client gets it raised
        self._joins.lost(now, now)
        for channel in list(self._channels.values()):
            channel.close(error, now)
        self._settle_all(error or ClosedError("the client was closed"))
        self._context.tokens.forget()
        self._context.timers.clear()
        self._context.effects.append(Ended(None, error))
        if error is not None and unheard:
            self._context.report("closed", error=error)
        self._settle_closers()

    # --- inside

    def _ticket_late(self, key: Any, now: Instant) -> None:
        _, topic, ticket = key
        channel = self._channels.get(topic)
        if channel is not None:
            channel.expired(ticket, now)
            self._watch_idle(now)

    def _watch_clock(self, now: Instant) -> None:
        """A sleep, or a clock that was set, shows as one clock moving against the other (R6)."""
        before, self._drift = self._drift, now.wall - now.mono
        if before is not None and abs(self._drift - before) > JUMP:
            self._context.report("clock", jump=self._drift - before)
            self._connection.probe(now)
            self._refresh.ask(now)

    def _watch_idle(self, now: Instant) -> None:
        seconds = self._context.options.idle_disconnect
        if seconds is None or self.state is not ConnectionState.OPEN or self._wanted():
            return
        if self._context.timers.deadline(("idle",)) is None:
            self._context.timers.set(("idle",), now.mono + seconds)

    def _wanted(self) -> int:
        return sum(channel.wanted for channel in self._channels.values())

    def _check_room(self, channel: CoreChannel) -> None:
        limit = self._context.options.limits.channels
        if not channel.wanted and limit is not None and self._wanted() >= limit:
            raise RateLimitedError(
                f"{limit} channels are wanted already, the most that one connection may have",
                topic=channel.name,
                hint="unsubscribe() one, open another client, or set Limits(channels=…) to your project's limit.",
            )

    def _get(self, topic: str) -> CoreChannel:
        channel = self._channels.get(topic)
        if channel is None or channel.state is ChannelState.CLOSED:
            raise self._connection.reason("the channel or its client was closed")
        return channel

    def _is_current(self, generation: int) -> bool:
        current = generation == self._context.generation
        self._context.counts.stale += not current
        return current

    def _settle_all(self, error: RealtimeError) -> None:
        """Everything that is owed, but the word that we are closed."""
        closers = set(self._closers)
        self._context.replies.clear()
        self._context.tickets.settle_all(error, but=closers)
        self._openers = ()

    def _settle_closers(self) -> None:
        for ticket in self._closers:
            self._context.tickets.resolve(ticket, None)
        self._closers = ()
