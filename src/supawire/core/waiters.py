"""Callers who wait for a channel to be joined or ready, and how long they still have.

A timeout that was left out does not count the time behind pacing or behind other unanswered joins of the socket
(api §3): it stands still while the channel is *held*.

The second level: joined, and the server says that changes or database broadcasts are live (R18, R19).

A `system` error of postgres_changes neither ends nor renews a join: the server tries again by itself, or never will.
Any other `system` error announces that the channel is about to be closed, and why.
"""

from enum import Enum, auto
from typing import Final, NamedTuple

from msgspec import Struct

from supawire._server_errors import REPLICATING, SUBSCRIBED, Action, Known, classify_system, system_error
from supawire.core import frames
from supawire.core.context import Context, Key
from supawire.core.effects import Ticket
from supawire.core.join_payload import Join
from supawire.errors import RealtimeError
from supawire.events import Instant, System
from supawire.options import ChannelOptions


class Waiter(Struct):
    """One caller. `left`: seconds that remain, None for no limit; `since`: when they began to run, None while held."""

    ticket: Ticket
    ready: bool
    left: float | None
    ignore_queue_time: bool
    since: float | None = None


class Waiters:
    """The callers of one channel."""

    __slots__ = ("_context", "_paused", "_topic", "_waiters")

    def __init__(self, context: Context, topic: str) -> None:
        self._context = context
        self._topic = topic
        self._waiters: dict[Ticket, Waiter] = {}
        self._paused = False

    def add(self, waiter: Waiter, mono: float) -> None:
        """Wait from now on."""
        self._waiters[waiter.ticket] = waiter
        if not (self._paused and waiter.ignore_queue_time):
            self._run(waiter, mono)

    def pause(self, held: bool, mono: float) -> None:
        """The channel is held up by others, or no longer."""
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
        """Settle who waits for no more than this."""
        for waiter in list(self._waiters.values()):
            if ready or not waiter.ready:
                self._settle(waiter.ticket, None)

    def unready(self, error: RealtimeError) -> None:
        """The server will never say ready: those who wait for it get the reason, and the channel stays joined."""
        for waiter in list(self._waiters.values()):
            if waiter.ready:
                self._settle(waiter.ticket, error)

    def fail(self, error: RealtimeError) -> None:
        """Everyone gets the reason."""
        for ticket in list(self._waiters):
            self._settle(ticket, error)

    def take(self, ticket: Ticket) -> Waiter | None:
        """One caller gives up."""
        self._context.timers.cancel(self._key(ticket))
        waiter = self._waiters.pop(ticket, None)
        if not self._waiters:
            self._waiters.clear()  # or it keeps its table, of 160 bytes, in each joined channel
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

    def _key(self, ticket: Ticket) -> Key:
        return ("ticket", self._topic, ticket)


_PROMPTED: Final = 60.0
"""Seconds after a token push within which "Subscribed to PostgreSQL" may be its answer; it comes after one to three."""


class Said(Enum):
    """What a `system` message means for its channel."""

    NOTHING = auto()
    READY = auto()
    DEGRADED = auto()
    ANEW = auto()
    """The server has subscribed to changes anew by itself: its worker was replaced."""
    ENDING = auto()


class Reading(NamedTuple):
    """A `system` message, read; row and error where it reports one."""

    said: Said
    row: Known | None = None
    error: RealtimeError | None = None


class ChannelReadiness:
    """What a join still waits for."""

    __slots__ = ("_awaited", "_prompts", "_subscribes", "changes_live", "hopeless")

    def __init__(self) -> None:
        self._awaited: tuple[str, ...] = ()
        self._subscribes = False
        """Whether the join has changes, so that the server says when it has subscribed to them."""
        self._prompts: tuple[float, ...] = ()
        """When tokens were pushed after which the server has not said yet that it has subscribed again."""
        self.changes_live: bool = True
        """Whether nothing is known to be wrong with changes."""
        self.hopeless: RealtimeError | None = None
        """What the server said of this join that it will never make live."""

    def joined(self, join: Join, options: ChannelOptions) -> None:
        """A new join: nothing was said yet."""
        self._awaited = (SUBSCRIBED,) * bool(join.bindings) + (REPLICATING,) * options.replication_ready
        self.changes_live = not join.bindings
        self._subscribes = bool(join.bindings)
        self._prompts = ()
        self.hopeless = None

    def prompted(self, now: Instant) -> None:
        """Note that a token was pushed: the server subscribes to changes again with it, and says so."""
        if self._subscribes:
            self._prompts = (*self._open_prompts(now), now.mono)

    @property
    def is_ready(self) -> bool:
        """Whether everything that was asked for is live."""
        return not self._awaited

    def read(self, message: System, now: Instant, *, keyed: bool = False) -> Reading:
        """Take a `system` message in. Args: keyed: the channel has no token, so it joined with the key."""
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
