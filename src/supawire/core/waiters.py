"""Callers that wait for a channel to be joined or ready, and their timeouts.

A default timeout does not count the time behind pacing or behind other unanswered joins of the connection: it is paused
while the channel is *held*.

`ChannelReadiness` tracks when a joined channel becomes ready: the server reports that changes or database broadcasts
are live. A `system` error of postgres_changes neither ends nor renews a join: the server retries by itself, or never
will. Any other `system` error announces that the channel is about to be closed, and why.
"""

from enum import Enum, auto
from typing import Final, NamedTuple

from msgspec import Struct

from supawire._server_errors import REPLICATING, SUBSCRIBED, Action, Known, classify_system, system_error
from supawire.core import frames
from supawire.core.context import Context
from supawire.core.effects import Ticket
from supawire.core.join_payload import Join
from supawire.core.requests import TimerKey, TimerKind
from supawire.errors import RealtimeError
from supawire.events import Instant, System
from supawire.options import ChannelOptions


class Waiter(Struct):
    """One caller. `left`: remaining seconds, None for no limit; `since`: when they started, None while paused."""

    ticket: Ticket
    ready: bool
    left: float | None
    ignore_queue_time: bool
    since: float | None = None


class Waiters:
    """The waiting callers of one channel."""

    __slots__ = ("_context", "_paused", "_topic", "_waiters")

    def __init__(self, context: Context, topic: str) -> None:
        self._context = context
        self._topic = topic
        self._waiters: dict[Ticket, Waiter] = {}
        self._paused = False

    def add(self, waiter: Waiter, mono: float) -> None:
        """Add a waiter and start its timeout unless it is paused."""
        self._waiters[waiter.ticket] = waiter
        if not (self._paused and waiter.ignore_queue_time):
            self._run(waiter, mono)

    def pause(self, held: bool, mono: float) -> None:
        """Pause or resume the timeouts that ignore time in the queue."""
        if held is self._paused:
            return
        self._paused = held
        for waiter in self._waiters.values():
            if not waiter.ignore_queue_time or waiter.left is None:
                continue
            if held:
                self._stop(waiter, mono)
            else:
                self._run(waiter, mono)

    def joined(self, *, ready: bool) -> None:
        """Resolve the waiters for "joined" and, with `ready`, those for "ready"."""
        for waiter in list(self._waiters.values()):
            if ready or not waiter.ready:
                self._settle(waiter.ticket, None)

    def unready(self, error: RealtimeError) -> None:
        """Fail the waiters for "ready": it will never be reached. The channel stays joined."""
        for waiter in list(self._waiters.values()):
            if waiter.ready:
                self._settle(waiter.ticket, error)

    def fail(self, error: RealtimeError) -> None:
        """Fail all waiters."""
        for ticket in list(self._waiters):
            self._settle(ticket, error)

    def take(self, ticket: Ticket) -> Waiter | None:
        """Remove and return a waiter, None if unknown."""
        self._context.timers.cancel(self._key(ticket))
        waiter = self._waiters.pop(ticket, None)
        if not self._waiters:
            self._waiters.clear()  # otherwise each joined channel would keep an empty table of 160 bytes
        return waiter

    def __len__(self) -> int:
        return len(self._waiters)

    def _settle(self, ticket: Ticket, outcome: RealtimeError | None) -> None:
        self.take(ticket)
        self._context.tickets.resolve(ticket, outcome)

    def _run(self, waiter: Waiter, mono: float) -> None:
        if waiter.left is not None:
            waiter.since = mono
            self._context.timers.set(self._key(waiter.ticket), mono + waiter.left)

    def _stop(self, waiter: Waiter, mono: float) -> None:
        if waiter.left is not None and waiter.since is not None:
            waiter.left -= mono - waiter.since
            waiter.since = None
            self._context.timers.cancel(self._key(waiter.ticket))

    def _key(self, ticket: Ticket) -> TimerKey:
        return TimerKey(TimerKind.CALL_TIMEOUT, self._topic, ticket)


_PROMPTED: Final = 60.0
"""Seconds after a token push in which "Subscribed to PostgreSQL" may be its reply; usually 1 to 3."""


class Said(Enum):
    """Meaning of a `system` message for its channel."""

    NOTHING = auto()
    READY = auto()
    DEGRADED = auto()
    ANEW = auto()
    """The server subscribed to changes again by itself, because its worker was replaced."""
    ENDING = auto()


class Reading(NamedTuple):
    """An interpreted `system` message, with table row and error if it reports one."""

    said: Said
    row: Known | None = None
    error: RealtimeError | None = None


class ChannelReadiness:
    """Conditions that a join still waits for."""

    __slots__ = ("_awaited", "_prompts", "_subscribes", "changes_live", "hopeless")

    def __init__(self) -> None:
        self._awaited: tuple[str, ...] = ()
        self._subscribes = False
        """Whether the join has bindings for changes, so that the server reports its subscription."""
        self._prompts: tuple[float, ...] = ()
        """Times of token pushes for which the server has not yet reported a new subscription."""
        self.changes_live: bool = True
        """Whether no problem with changes is known."""
        self.hopeless: RealtimeError | None = None
        """Permanent error reported for changes of this join."""

    def joined(self, join: Join, options: ChannelOptions) -> None:
        """Reset for a new join."""
        self._awaited = (SUBSCRIBED,) * bool(join.bindings) + (REPLICATING,) * options.replication_ready
        self.changes_live = not join.bindings
        self._subscribes = bool(join.bindings)
        self._prompts = ()
        self.hopeless = None

    def prompted(self, now: Instant) -> None:
        """Record a token push: the server subscribes to changes again and reports it."""
        if self._subscribes:
            self._prompts = (*self._open_prompts(now), now.mono)

    @property
    def is_ready(self) -> bool:
        """Whether everything that was requested is live."""
        return not self._awaited

    def read(self, message: System, now: Instant, *, keyed: bool = False) -> Reading:
        """Interpret a `system` message. `keyed`: the channel has no token and joined with the API key."""
        if message.status == "ok":
            return self._ok(message.message, now)
        row = classify_system(message.extension, message.status, message.message)
        if row is None:
            return Reading(Said.NOTHING)
        error = system_error(message.extension, message.message, message.topic, keyed=keyed)
        if message.extension != frames.POSTGRES_CHANGES:
            return Reading(Said.ENDING, row, error)
        self._awaited = (SUBSCRIBED, *self._without(SUBSCRIBED))
        self.changes_live = False
        if row.action is Action.GIVE_UP:
            self.hopeless = error
        return Reading(Said.DEGRADED, row, error)

    def _ok(self, text: str, now: Instant) -> Reading:
        if text not in self._awaited:
            if text != SUBSCRIBED or not self._subscribes:
                return Reading(Said.NOTHING)
            prompts = self._open_prompts(now)
            self._prompts = prompts[1:]
            return Reading(Said.NOTHING if prompts else Said.ANEW)
        self._awaited = self._without(text)
        if text == SUBSCRIBED:
            self.changes_live, self.hopeless = True, None
        return Reading(Said.READY if self.is_ready else Said.NOTHING)

    def _open_prompts(self, now: Instant) -> tuple[float, ...]:
        return tuple(at for at in self._prompts if now.mono - at <= _PROMPTED)

    def _without(self, text: str) -> tuple[str, ...]:
        return tuple(awaited for awaited in self._awaited if awaited != text)
