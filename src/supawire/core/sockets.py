"""The sockets of one session: which channel is on which, and when another one is needed.

A server limits the channels of a connection. A session with `max_sockets` above 1 therefore spreads its channels: a
channel is placed when it is subscribed, on the socket that it was on before if there is room, else on the first with
room, else on a new one. It stays there, also while that socket reconnects, until it is unsubscribed. A socket without
subscribed channels is closed after `IDLE_AFTER` seconds; the first one is kept, it belongs to the client.

If the server accepts fewer channels than the options say, the limit is learned from its refusal.

`Socket` has what belongs to one connection. The session decides what follows from its events, see `SocketOwner`.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from supawire.core.channel import CoreChannel
from supawire.core.connection import ConnectionMachine
from supawire.core.context import Context
from supawire.core.join_queue import JoinQueue
from supawire.core.membership import Membership
from supawire.core.receive import Receiver
from supawire.errors import ConnectionLostError, RealtimeError
from supawire.events import ChannelState, ConnectionState, Instant, SocketStats, Status

IDLE_AFTER: Final = 10.0
"""Seconds without a subscribed channel after which a socket that is not the first is closed."""

COUNT_DELAY: Final = 30.0
"""Seconds after a leave in which the server's count may still include the channel."""

MAX_LEAVES: Final = 1000
"""The most leaves of a socket that are recorded; with more in `COUNT_DELAY` seconds, no limit is learned."""


class SocketOwner(Protocol):
    """Receives what happens to the sockets."""

    def socket_changed(self, socket: "Socket", status: Status) -> None:
        """Handle a new state of a socket."""
        ...

    def socket_opened(self, socket: "Socket", now: Instant) -> None:
        """Handle an opened socket."""
        ...

    def socket_lost(self, socket: "Socket", error: ConnectionLostError, written: int | None, now: Instant) -> None:
        """Handle the loss of a socket, of whose frames `written` were written, None if unknown."""
        ...

    def socket_closed(self, socket: "Socket", error: RealtimeError | None, now: Instant) -> None:
        """Handle the permanent end of a socket."""
        ...

    def channel_limit_reached(self, socket: "Socket", member: Membership, ref: str, reason: str, now: Instant) -> bool:
        """Handle a join refused because of too many channels, if another socket can take it; else return False."""
        ...


class Socket:
    """One connection of a session, the channels on it, its joins and the receiver of its frames."""

    __slots__ = (
        "_left_at", "_owner", "channels", "connection", "context", "is_full", "joins", "number", "receiver",
        "subscribed",
    )  # fmt: skip

    def __init__(self, context: Context, owner: SocketOwner) -> None:
        self._owner = owner
        self.context: Final = context
        self.number: Final = context.number
        self.channels: dict[str, CoreChannel] = {}
        """The channels that are placed here, by full topic, also those that are not subscribed."""
        self.subscribed: dict[str, CoreChannel] = {}
        """The channels that count against the limit, and some that no longer do; see `occupied`."""
        self.is_full: bool = False
        """Whether `has_room` found no room, and no channel was left since; otherwise all channels are counted again."""
        self._left_at: deque[float] | None = None
        """When channels were left, None if none was; an empty deque would take 700 bytes."""
        self.joins: Final[JoinQueue[Membership]] = JoinQueue(context)
        self.connection: Final = ConnectionMachine(context, self)
        self.receiver: Final = Receiver(context, self.connection, self.joins, self.channels, self._limit_reached)

    def add(self, channel: CoreChannel) -> None:
        """Place a channel here."""
        self.channels[channel.topic] = channel
        self.receiver.register(channel)
        self.context.counts.moved_received -= channel.membership.received

    def left(self, now: Instant) -> None:
        """Record that a channel is no longer subscribed."""
        self.is_full = False
        if self._left_at is None:
            self._left_at = deque(maxlen=MAX_LEAVES)
        self._left_at.append(now.mono)

    def remove(self, channel: CoreChannel) -> None:
        """Forget a channel that is moved to another socket, or removed."""
        self.channels.pop(channel.topic, None)
        if self.subscribed.pop(channel.topic, None) is not None:
            self.is_full = False
        self.receiver.unregister(channel)
        self.context.counts.moved_received += channel.membership.received

    @property
    def wanted(self) -> bool:
        """Whether a channel is subscribed here."""
        return any(channel.wanted for channel in self.subscribed.values())

    def has_room(self, limit: int | None, *, leaving: bool) -> bool:
        """Return whether another channel may be subscribed. `leaving`: channels whose leave is unanswered count."""
        if limit is None or len(self.subscribed) < limit:
            return True
        if self.is_full:
            return False
        self.is_full = self.occupied(leaving=leaving) >= limit and self.all_wanted
        return len(self.subscribed) < limit

    def occupied(self, *, leaving: bool) -> int:
        """Return how many channels count against the limit, and forget those that no longer do."""
        for topic, channel in list(self.subscribed.items()):
            if not (channel.wanted or (leaving and channel.state is ChannelState.LEAVING)):
                del self.subscribed[topic]
        return len(self.subscribed)

    @property
    def all_wanted(self) -> bool:
        """Whether all of these channels are subscribed, so that none is being left."""
        return all(channel.wanted for channel in self.subscribed.values())

    def most_counted(self, now: Instant) -> int | None:
        """Return how many channels the server counts at most: those that are joined, and those that were left just now.

        None if that is not known.
        """
        left_at = self._left_at or ()
        while left_at and now.mono - left_at[0] > COUNT_DELAY:
            left_at.popleft()
        if len(left_at) == MAX_LEAVES:
            return None
        accepted = ChannelState.JOINED, ChannelState.REJOINING
        return len(left_at) + sum(channel.state in accepted for channel in self.subscribed.values())

    def stats(self) -> SocketStats:
        """Return the counters for the user. Any thread may call it."""
        counts = self.context.counts
        channels = list(self.channels.values())
        here = sum(channel.membership.received for channel in channels)
        return SocketStats(
            number=self.number,
            state=self.connection.state,
            channels=sum(channel.wanted for channel in channels),
            frames_received=counts.other_frames + counts.moved_received + here,
            frames_sent=counts.frames_sent,
            connects=counts.connects,
            reconnects=counts.reconnects,
            last_round_trip=self.context.round_trip,
        )

    # --- events of the connection and the receiver

    def connection_changed(self, status: Status) -> None:
        """Handle a new state of the connection."""
        self._owner.socket_changed(self, status)

    def connection_opened(self, now: Instant) -> None:
        """Handle that the connection is open."""
        self._owner.socket_opened(self, now)

    def connection_lost(self, error: ConnectionLostError, written: int | None, now: Instant) -> None:
        """Handle the loss of the connection."""
        self._owner.socket_lost(self, error, written, now)

    def connection_closed(self, error: RealtimeError | None, now: Instant) -> None:
        """Handle the permanent end of the connection."""
        self._owner.socket_closed(self, error, now)

    def _limit_reached(self, member: Membership, ref: str, reason: str, now: Instant) -> bool:
        return self._owner.channel_limit_reached(self, member, ref, reason, now)


class SocketGroup:
    """The sockets of a session, and the placement of channels on them.

    Args: make: returns a new socket with the given number.
    """

    __slots__ = ("_filling", "_make", "_max_sockets", "_newest", "first", "limit", "sockets")

    def __init__(self, limit: int | None, max_sockets: int, make: Callable[[int], Socket]) -> None:
        self._make = make
        self._max_sockets = max_sockets
        self._newest = 0
        self.limit: int | None = limit
        """Channels per socket: of the options, or fewer if the server said so."""
        self.first: Final = make(0)
        self.sockets: dict[int, Socket] = {0: self.first}
        """By number, in the order of opening."""
        self._filling: Socket | None = self.first
        """The socket that takes new channels while it has room, so that not all are searched for each channel."""

    def __iter__(self) -> Iterator[Socket]:
        return iter(self.sockets.values())

    @property
    def several(self) -> bool:
        """Whether there may be more than one socket."""
        return self._max_sockets > 1

    def holds(self, channel: CoreChannel) -> Socket:
        """Return the socket that a channel is placed on."""
        return self.sockets[channel.socket]

    def at(self, generation: int) -> Socket | None:
        """Return the socket of a generation, None if that has ended."""
        for socket in self.sockets.values():
            if socket.context.generation == generation:
                return socket
        return None

    def room_for(self, channel: CoreChannel, *, besides: Socket | None = None) -> Socket | None:
        """Return a socket for a channel, a new one if all are full; None if there are as many as are allowed.

        Args: besides: a socket that is full, whatever its count says.
        """
        for socket in (self.holds(channel), self._filling, None):
            found = socket or self._first_with_room(besides)
            if found is not None and found is not besides and self.has_room(found):
                self._filling = found
                return found
        if len(self.sockets) >= self._max_sockets:
            return None
        self._newest += 1
        self._filling = self.sockets[self._newest] = self._make(self._newest)
        return self._filling

    def channel_left(self) -> None:
        """Search all sockets for room again, the oldest first, so that the newest become empty and are closed."""
        self._filling = None

    def retire(self, socket: Socket) -> None:
        """Remove a closed socket without subscribed channels."""
        del self.sockets[socket.number]
        self._filling = None

    def _first_with_room(self, besides: Socket | None) -> Socket | None:
        for socket in self.sockets.values():
            if socket is not besides and self.has_room(socket):
                return socket
        return None

    def has_room(self, socket: Socket) -> bool:
        """Return whether another channel may be subscribed on this socket."""
        return socket.has_room(self.limit, leaving=self.several)

    @property
    def state(self) -> ConnectionState:
        """The state of all sockets together.

        A socket that has failed or was lost determines it until it is open again; a new one does not while others are
        open.
        """
        if len(self.sockets) == 1:
            return self.first.connection.state
        states = {socket.connection.state for socket in self.sockets.values()}
        if ConnectionState.CLOSED in states or ConnectionState.CLOSING in states:
            return ConnectionState.CLOSED if states == {ConnectionState.CLOSED} else ConnectionState.CLOSING
        if ConnectionState.RETRYING in states:
            return ConnectionState.RETRYING
        reconnects = any(
            socket.connection.error is not None and socket.connection.state is ConnectionState.CONNECTING
            for socket in self.sockets.values()
        )
        if not reconnects and ConnectionState.OPEN in states:
            return ConnectionState.OPEN
        return ConnectionState.CONNECTING if ConnectionState.CONNECTING in states else ConnectionState.IDLE
