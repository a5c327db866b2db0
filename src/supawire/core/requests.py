"""All deadlines of a session in one heap, on the monotonic clock; setting a key again replaces its deadline.

Requests that wait: tickets owed to callers, and pushes whose reply is not in.

One socket answers joins one after another, and a refused one holds it for seconds (protocol §3.2). So the deadlines of
pushes run on *socket time*: the monotonic clock less the time in which a join stood unanswered. Freezing and thawing
move one number; no deadline is ever rewritten. Two kinds of deadlines run on the monotonic clock itself (`firm`): those
that a caller has set explicitly, and those of heartbeats that were sent while no join was unanswered, because the
server's socket answers a heartbeat before it takes the join that follows.
"""

import heapq
from collections.abc import Collection, Hashable, Iterator
from typing import Any, Generic, TypeVar

from msgspec import Struct

from supawire.core import frames
from supawire.core.effects import Effects, Settle, Ticket
from supawire.errors import ConnectionLostError, RealtimeError

K = TypeVar("K", bound=Hashable)


class Timers(Generic[K]):
    """Deadlines by key. A replaced or cancelled entry stays in the heap until it comes up, and is then passed over."""

    __slots__ = ("_deadlines", "_heap", "_newest")

    def __init__(self) -> None:
        self._deadlines: dict[K, tuple[float, int, K]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._newest = 0

    def set(self, key: K, deadline: float) -> None:
        """Wake for this key at `deadline` (seconds, monotonic)."""
        self._newest += 1
        entry = (deadline, self._newest, key)
        self._deadlines[key] = entry
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 64 + 4 * len(self._deadlines):
            self._heap = list(self._deadlines.values())
            heapq.heapify(self._heap)

    def cancel(self, key: K) -> None:
        """Forget this key, whether it is set or not."""
        self._deadlines.pop(key, None)

    def deadline(self, key: K) -> float | None:
        """When this key is due, None when it is not set."""
        entry = self._deadlines.get(key)
        return entry and entry[0]

    def clear(self) -> None:
        """Forget all."""
        self._deadlines.clear()
        self._heap.clear()

    @property
    def next(self) -> float | None:
        """The earliest deadline."""
        heap = self._heap
        while heap and self._deadlines.get(heap[0][2]) is not heap[0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, mono: float) -> Iterator[K]:
        """Keys whose time has come, earliest first, each forgotten as it is taken."""
        while (deadline := self.next) is not None and deadline <= mono:
            yield self.pop()

    def pop(self) -> K:
        """Take the key of the earliest deadline."""
        key = heapq.heappop(self._heap)[2]
        del self._deadlines[key]
        return key

    def __len__(self) -> int:
        return len(self._deadlines)


class Tickets:
    """Everything owed to callers. A ticket is settled once, because leaving this table is being settled."""

    __slots__ = ("_effects", "_newest", "_open")

    def __init__(self, effects: Effects) -> None:
        self._effects = effects
        self._open: dict[Ticket, None] = {}
        self._newest = 0

    def create(self, what: str) -> Ticket:
        """Owe somebody an outcome."""
        self._newest += 1
        ticket = Ticket(self._newest, what)
        self._open[ticket] = None
        return ticket

    def resolve(self, ticket: Ticket | None, outcome: Any) -> None:
        """Pay: a value, or the error that the caller gets. A ticket that is not open was paid before."""
        if ticket in self._open:
            del self._open[ticket]
            self._effects.append(Settle(ticket, outcome))

    def drop(self, ticket: Ticket) -> None:
        """The caller went away and wants nothing any more."""
        self._open.pop(ticket, None)

    def settle_all(self, error: RealtimeError, but: Collection[Ticket] = ()) -> None:
        """The end: nothing stays unpaid, but what is settled by the end itself."""
        for ticket in list(self._open):
            if ticket not in but:
                self.resolve(ticket, error)

    def __contains__(self, ticket: object) -> bool:
        return ticket in self._open

    def __len__(self) -> int:
        return len(self._open)


class Pending(Struct):
    """A push whose reply is awaited."""

    event: str
    topic: str
    ticket: Ticket | None
    sequence: int
    """Its place among the frames of this socket, to know whether it was written when the socket was lost."""
    sent_at: float
    firm: bool = False
    """Whether its deadline does not stop while a join is unanswered."""

    @property
    def name(self) -> str | None:
        """The channel, as users say it; None for the socket itself."""
        return None if self.topic == frames.PHOENIX else self.topic.removeprefix(frames.PREFIX)

    def lost(self, error: ConnectionLostError, written: int | None) -> ConnectionLostError:
        """What its caller gets when the socket is gone that had written so many frames, None when nobody knows."""
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
    """Pushes by ref, with deadlines in socket time and firm ones."""

    __slots__ = ("_firm", "_frozen_at", "_pending", "_shift", "_timers", "late")

    def __init__(self) -> None:
        self._pending: dict[str, Pending] = {}
        self._timers: Timers[str] = Timers()
        self._firm: Timers[str] = Timers()
        self._shift = 0.0
        self._frozen_at: float | None = None
        self.late: int = 0

    def expect(self, ref: str, pending: Pending, timeout: float | None) -> None:
        """Await the reply to `ref` for `timeout` seconds, None for as long as the socket lives."""
        self._pending[ref] = pending
        if pending.event == frames.HEARTBEAT and self._frozen_at is None:
            pending.firm = True
        if timeout is None:
            return
        if pending.firm:
            self._firm.set(ref, pending.sent_at + timeout)
        else:
            self._timers.set(ref, self._socket_time(pending.sent_at) + timeout)

    def take(self, ref: str | None) -> Pending | None:
        """The push that this ref answers; None, and counted, when nobody waits for it."""
        pending = self._pending.pop(ref, None) if ref is not None else None
        if pending is None:
            self.late += 1
        elif ref is not None:
            self._cancel(ref, pending)
        return pending

    def forget(self, topic: str) -> Iterator[Pending]:
        """Take all pushes of a channel whose join has ended: nobody will answer them."""
        for ref in [ref for ref, pending in self._pending.items() if pending.topic == topic]:
            pending = self._pending.pop(ref)
            self._cancel(ref, pending)
            yield pending

    def clear(self) -> list[Pending]:
        """Take all: the socket is gone."""
        lost = list(self._pending.values())
        self._pending.clear()
        self._timers, self._firm = Timers(), Timers()
        self._frozen_at = None
        return lost

    def freeze(self, mono: float) -> None:
        """A join is unanswered: from here on socket time stands still."""
        if self._frozen_at is None:
            self._frozen_at = mono

    def thaw(self, mono: float) -> None:
        """All joins are answered: socket time goes on."""
        if self._frozen_at is not None:
            self._shift += mono - self._frozen_at
            self._frozen_at = None

    def due(self, mono: float) -> Iterator[Pending]:
        """Take the pushes whose time is over.

        Compared as `next` says it, on the monotonic clock: the other way round, rounding could leave a deadline that
        has come for the shell and never comes here.
        """
        while (deadline := self._firm.next) is not None and deadline <= mono:  # `clear` may come between two of them
            yield self._pending.pop(self._firm.pop())
        while (deadline := self._next_running) is not None and deadline <= mono:
            yield self._pending.pop(self._timers.pop())

    @property
    def next(self) -> float | None:
        """The earliest deadline on the monotonic clock; in socket time there is none while that stands still."""
        firm, running = self._firm.next, self._next_running
        return running if firm is None else firm if running is None else min(firm, running)

    @property
    def _next_running(self) -> float | None:
        if self._frozen_at is not None or (deadline := self._timers.next) is None:
            return None
        return deadline + self._shift

    def _cancel(self, ref: str, pending: Pending) -> None:
        (self._firm if pending.firm else self._timers).cancel(ref)

    def _socket_time(self, mono: float) -> float:
        return (self._frozen_at if self._frozen_at is not None else mono) - self._shift

    def __len__(self) -> int:
        return len(self._pending)
