"""Timers, pending calls and pending pushes.

`Timers` keeps all deadlines of a session in one heap, on the monotonic clock; setting a key again replaces its
deadline. `Tickets` are the pending calls and `Replies` the pushes that wait for a reply.

The server answers the joins of a connection one at a time, and a refused join blocks it for seconds. Therefore the
deadlines of pushes run on *socket time*: the monotonic clock minus the time in which a join was unanswered. Freezing
and thawing change one number; no deadline is rewritten. Two kinds of deadlines use the monotonic clock itself
(`counts_queue_time`): those that a caller set explicitly, and those of heartbeats sent while no join was unanswered,
because the server answers a heartbeat before it processes the next join.
"""

import heapq
from collections.abc import Collection, Hashable, Iterator
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from msgspec import Struct

from supawire.core import frames
from supawire.core.effects import Effects, Settle, Ticket, TicketKind
from supawire.errors import ConnectionLostError, RealtimeError

K = TypeVar("K", bound=Hashable)


class TimerKind(Enum):
    """The deadlines of a session: of the connection, of each channel, and of each call."""

    if not TYPE_CHECKING:  # type checkers see two base classes with a `__hash__`, and call that ambiguous
        __hash__ = object.__hash__  # faster than that of Enum, which is a Python function; each timer is hashed often

    CONNECT = auto()
    """The pace allows to open a socket."""
    CONNECT_TIMEOUT = auto()
    """An attempt to open a socket."""
    OPEN_TIMEOUT = auto()
    """All attempts of the first connection together."""
    CLOSE_TIMEOUT = auto()
    RECONNECT = auto()
    """The next attempt, after the backoff."""
    HEARTBEAT = auto()
    STABLE = auto()
    """The connection has been open long enough to restart the backoff."""
    CLOCK_CHECK = auto()
    PROBE = auto()
    """A WebSocket is to be tried while long polling is used."""
    IDLE = auto()
    """No channel needs the connection."""
    JOIN_TIMEOUT = auto()
    """The first unanswered join."""
    JOIN_QUEUE = auto()
    """The pace allows the next join."""
    TOKEN_TIMEOUT = auto()
    TOKEN_REFRESH = auto()
    JOIN_RETRY = auto()
    """The next join of a channel, after the backoff."""
    REJOIN = auto()
    """The join that changes what a joined channel requests."""
    LEAVE_TIMEOUT = auto()
    GAP = auto()
    """The open gap can be reported."""
    PRESENCE = auto()
    """The rate limit allows the next presence request."""
    OUTBOX = auto()
    """The rate limit allows the next queued broadcast."""
    CALL_TIMEOUT = auto()


class TimerKey(NamedTuple):
    """Identifies a deadline. topic: the channel's, None for the connection. ticket: the call that times out.

    socket: the number of the socket whose connection has the deadline.
    """

    kind: TimerKind
    topic: str | None = None
    ticket: Ticket | None = None
    socket: int = 0


class Timers(Generic[K]):
    """Deadlines by key. A replaced or cancelled entry stays in the heap until its time, and is then skipped."""

    __slots__ = ("_deadlines", "_heap", "_newest")

    def __init__(self) -> None:
        self._deadlines: dict[K, tuple[float, int, K]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._newest = 0

    def set(self, key: K, deadline: float) -> None:
        """Set the deadline of this key (seconds, monotonic)."""
        self._newest += 1
        entry = (deadline, self._newest, key)
        self._deadlines[key] = entry
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 64 + 4 * len(self._deadlines):
            self._heap = list(self._deadlines.values())
            heapq.heapify(self._heap)

    def cancel(self, key: K) -> None:
        """Cancel the deadline of this key. Does nothing if it is not set."""
        self._deadlines.pop(key, None)

    def deadline(self, key: K) -> float | None:
        """Return the deadline of this key, None if it is not set."""
        entry = self._deadlines.get(key)
        return entry and entry[0]

    def clear(self) -> None:
        """Cancel all deadlines."""
        self._deadlines.clear()
        self._heap.clear()

    @property
    def next(self) -> float | None:
        """The earliest deadline, None if there is none."""
        heap = self._heap
        while heap and self._deadlines.get(heap[0][2]) is not heap[0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, mono: float) -> Iterator[K]:
        """Yield the keys whose deadlines have passed, earliest first, removing each."""
        while (deadline := self.next) is not None and deadline <= mono:
            yield self.pop()

    @property
    def heap_size(self) -> int:
        """Number of entries in the heap, including replaced and cancelled ones."""
        return len(self._heap)

    def pop(self) -> K:
        """Remove and return the key with the earliest deadline."""
        key = heapq.heappop(self._heap)[2]
        del self._deadlines[key]
        return key

    def __len__(self) -> int:
        return len(self._deadlines)


class Tickets:
    """All pending calls. Resolving a ticket removes it from this table, so it happens only once."""

    __slots__ = ("_effects", "_newest", "_open")

    def __init__(self, effects: Effects) -> None:
        self._effects = effects
        self._open: dict[Ticket, None] = {}
        self._newest = 0

    def create(self, kind: TicketKind) -> Ticket:
        """Create a ticket for a pending call."""
        self._newest += 1
        ticket = Ticket(self._newest, kind)
        self._open[ticket] = None
        return ticket

    def resolve(self, ticket: Ticket | None, outcome: Any) -> None:
        """Resolve a ticket with a result or an exception. Does nothing if it is already resolved."""
        if ticket in self._open:
            del self._open[ticket]
            self._effects.append(Settle(ticket, outcome))

    def drop(self, ticket: Ticket) -> None:
        """Remove the ticket of a cancelled call without resolving it."""
        self._open.pop(ticket, None)

    def settle_all(self, error: RealtimeError, but: Collection[Ticket] = ()) -> None:
        """Fail all pending calls except the tickets in `but`."""
        for ticket in list(self._open):
            if ticket not in but:
                self.resolve(ticket, error)

    def __contains__(self, ticket: object) -> bool:
        return ticket in self._open

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._open)

    def __len__(self) -> int:
        return len(self._open)


class Pending(Struct):
    """A push that waits for its reply."""

    event: str
    topic: str
    ticket: Ticket | None
    sequence: int
    """Position among the frames of this socket, used to tell whether it was written when the connection was lost."""
    sent_at: float
    counts_queue_time: bool = False
    """Whether the deadline keeps running while a join is unanswered."""
    must_be_stored: bool = False
    """Whether a reply without the id of a stored message is an error."""

    @property
    def name(self) -> str | None:
        """The channel's name as the user knows it; None for the connection itself."""
        return None if self.topic == frames.PHOENIX else self.topic.removeprefix(frames.PREFIX)

    def lost(self, error: ConnectionLostError, written: int | None) -> ConnectionLostError:
        """Return the error for the caller after the connection was lost. `written`: frames written, None if unknown."""
        maybe_sent = written is None or self.sequence <= written
        return ConnectionLostError(
            error.message,
            maybe_sent=maybe_sent,
            close_code=error.close_code,
            topic=self.name,
            hint=error.hint,
            docs=error.docs,
        )


class Replies:
    """Pending pushes by ref, with deadlines in socket time or on the monotonic clock."""

    __slots__ = ("_frozen_at", "_monotonic", "_pending", "_shift", "_timers", "late")

    def __init__(self) -> None:
        self._pending: dict[str, Pending] = {}
        self._timers: Timers[str] = Timers()
        self._monotonic: Timers[str] = Timers()
        self._shift = 0.0
        self._frozen_at: float | None = None
        self.late: int = 0

    def expect(self, ref: str, pending: Pending, timeout: float | None) -> None:
        """Add a push that waits `timeout` seconds for its reply, None for as long as the connection lasts."""
        self._pending[ref] = pending
        if pending.event == frames.HEARTBEAT and self._frozen_at is None:
            pending.counts_queue_time = True
        if timeout is None:
            return
        if pending.counts_queue_time:
            self._monotonic.set(ref, pending.sent_at + timeout)
        else:
            self._timers.set(ref, self._socket_time(pending.sent_at) + timeout)

    def take(self, ref: str | None) -> Pending | None:
        """Remove and return the push with this ref. If there is none, count a late reply and return None."""
        pending = self._pending.pop(ref, None) if ref is not None else None
        if pending is None:
            self.late += 1
        elif ref is not None:
            self._cancel(ref, pending)
        return pending

    def forget(self, topic: str) -> Iterator[Pending]:
        """Remove and yield all pushes of a channel whose join has ended."""
        for ref in [ref for ref, pending in self._pending.items() if pending.topic == topic]:
            pending = self._pending.pop(ref)
            self._cancel(ref, pending)
            yield pending

    def clear(self) -> list[Pending]:
        """Remove and return all pushes, because the connection was lost."""
        lost = list(self._pending.values())
        self._pending.clear()
        self._timers, self._monotonic = Timers(), Timers()
        self._frozen_at = None
        return lost

    def freeze(self, mono: float) -> None:
        """Stop socket time: a join is unanswered."""
        if self._frozen_at is None:
            self._frozen_at = mono

    def thaw(self, mono: float) -> None:
        """Resume socket time: all joins are answered."""
        if self._frozen_at is not None:
            self._shift += mono - self._frozen_at
            self._frozen_at = None

    def due(self, mono: float) -> Iterator[Pending]:
        """Remove and yield the pushes whose deadline has passed.

        Deadlines are compared on the monotonic clock, exactly as in `next`. In socket time, rounding could make a
        deadline pass for the shell but not here.
        """
        while (deadline := self._monotonic.next) is not None and deadline <= mono:  # `clear` may be called in between
            yield self._pending.pop(self._monotonic.pop())
        while (deadline := self._next_running) is not None and deadline <= mono:
            yield self._pending.pop(self._timers.pop())

    @property
    def next(self) -> float | None:
        """The earliest deadline on the monotonic clock. Deadlines in socket time do not count while that is stopped."""
        fixed, running = self._monotonic.next, self._next_running
        return running if fixed is None else fixed if running is None else min(fixed, running)

    @property
    def _next_running(self) -> float | None:
        if self._frozen_at is not None or (deadline := self._timers.next) is None:
            return None
        return deadline + self._shift

    @property
    def heap_size(self) -> int:
        """Number of entries in the heaps, including replaced and cancelled ones."""
        return self._timers.heap_size + self._monotonic.heap_size

    def _cancel(self, ref: str, pending: Pending) -> None:
        (self._monotonic if pending.counts_queue_time else self._timers).cancel(ref)

    def _socket_time(self, mono: float) -> float:
        return (self._frozen_at if self._frozen_at is not None else mono) - self._shift

    def __len__(self) -> int:
        return len(self._pending)
