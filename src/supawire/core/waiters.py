"""Callers who wait for a channel to be joined or ready, and how long they still have.

A timeout that was left out does not count the time behind pacing or behind other unanswered joins of the socket
(api §3): it stands still while the channel is *held*.
"""

from msgspec import Struct

from supawire.core.context import Context, Key
from supawire.core.effects import Ticket
from supawire.errors import RealtimeError


class Waiter(Struct):
    """One caller. `left`: seconds that remain, None for no limit; `since`: when they began to run, None while held."""

    ticket: Ticket
    ready: bool
    left: float | None
    patient: bool
    since: float | None = None


class Waiters:
    """The callers of one channel."""

    __slots__ = ("_context", "_held", "_topic", "_waiters")

    def __init__(self, context: Context, topic: str) -> None:
        self._context = context
        self._topic = topic
        self._waiters: dict[Ticket, Waiter] = {}
        self._held = False

    def add(self, waiter: Waiter, mono: float) -> None:
        """Wait from now on."""
        self._waiters[waiter.ticket] = waiter
        if not (self._held and waiter.patient):
            self._run(waiter, mono)

    def hold(self, held: bool, mono: float) -> None:
        """The channel is held up by others, or no longer."""
        if held is self._held:
            return
        self._held = held
        for waiter in self._waiters.values():
            if not waiter.patient or waiter.left is None:
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
        self._context.tickets.settle(ticket, outcome)

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
