"""This client's own presence on one channel: the desired payload, and what the server has confirmed.

The desired payload outlives joins: it is sent again after each. Only one push is in flight at a time; the newest
desired payload follows it, and those in between are skipped. The server closes a channel at the sixth push in 30 s, so
the sixth is delayed here. See docs/protocol.md, Presence limits.
"""

from enum import Enum, auto
from typing import Final

from msgspec import Raw

from supawire.core import frames
from supawire.core.context import Context
from supawire.core.effects import Ticket, TrackFailed
from supawire.core.pacing import Allowance
from supawire.core.requests import TimerKey, TimerKind
from supawire.errors import OperationTimeout, RateLimitedError, RealtimeError
from supawire.events import Instant

NOT_TRACKED: Final = None
"""The desired payload of a client that is not present."""

_MARGIN: Final = 0.5
"""Seconds added to the server's window, which begins when the first push arrives, later than when we sent it."""

_UNTRACK: Final = {"type": "presence", "event": "untrack"}


class _Unknown(Enum):
    """Placeholder for the server's state after a request that was not answered."""

    UNKNOWN = auto()


class PresenceTracking:
    """The desired and the confirmed presence of one channel."""

    __slots__ = (
        "_allowance",
        "_confirmed",
        "_context",
        "_in_flight",
        "_join_ref",
        "_name",
        "_tickets",
        "_topic",
        "desired_payload",
    )

    def __init__(self, context: Context, topic: str, name: str) -> None:
        self._context = context
        self._topic = topic
        self._name = name
        self._allowance: Allowance | None = None
        """Rate limit of the active join, None before its first push."""
        self._tickets: dict[Ticket, None] = {}
        self._join_ref: str | None = None
        self._confirmed: bytes | _Unknown | None = NOT_TRACKED
        self._in_flight: tuple[bytes | None] | None = None
        self.desired_payload: bytes | None = NOT_TRACKED
        """The desired payload as JSON."""

    def use_socket(self, context: Context) -> None:
        """Use the context of another socket."""
        self._context = context

    def joined(self, join_ref: str) -> None:
        """Reset for a new join: the server has no presence of ours and restarts its rate limit."""
        self._join_ref = join_ref
        self._confirmed = NOT_TRACKED
        self._in_flight = None
        self._allowance = None

    @property
    def busy(self) -> bool:
        """Whether a request is in flight."""
        return self._in_flight is not None

    def ended(self, error: RealtimeError | None) -> None:
        """Record that the join ended. Without an error, callers keep waiting for the next join."""
        self._join_ref = None
        self._in_flight = None
        self._context.timers.cancel(TimerKey(TimerKind.PRESENCE, self._topic))
        if error is not None:
            self._resolve_waiting(error)

    def set_desired(self, payload: bytes | None) -> None:
        """Set the desired payload. It is sent by `advance`, or after the next join."""
        self.desired_payload = payload

    def add_waiter(self, ticket: Ticket, timeout: float | None, now: Instant) -> None:
        """Resolve the ticket when this payload or a newer one is confirmed, at most `timeout` seconds from now."""
        self._tickets[ticket] = None
        if timeout is not None:
            self._context.timers.set(TimerKey(TimerKind.CALL_TIMEOUT, self._topic, ticket), now.mono + timeout)

    def advance(self, now: Instant) -> None:
        """Send the desired payload if it is not confirmed, no push is in flight and the rate limit allows it."""
        if self._join_ref is None or self._in_flight is not None:
            return
        if self.desired_payload == self._confirmed:
            self._resolve_waiting(None)
            return
        if self._allowance is None:
            limits = self._context.options.limits
            self._allowance = Allowance(limits.presence_calls, limits.presence_window + _MARGIN)
        ready_at = max(self._allowance.ready_at(now.mono), self._context.presence.ready_at(now.mono))
        if ready_at > now.mono:
            self._context.timers.set(TimerKey(TimerKind.PRESENCE, self._topic), ready_at)
            return
        self._allowance.spend(now.mono)
        self._context.presence.spend(now.mono)
        self._in_flight = (self.desired_payload,)
        tracked = (
            {"type": "presence", "event": "track", "payload": Raw(self.desired_payload)}
            if self.desired_payload is not None
            else _UNTRACK
        )
        timeout = self._context.options.timeout
        self._context.push(frames.PRESENCE, tracked, now, topic=self._topic, join_ref=self._join_ref, timeout=timeout)

    def answered(self, error: RealtimeError | None, now: Instant) -> None:
        """Handle the reply to the push in flight, or its timeout."""
        sent, self._in_flight = self._in_flight, None
        if sent is None:
            return
        if error is None:
            (self._confirmed,) = sent
        elif isinstance(error, OperationTimeout):
            self._confirmed = _Unknown.UNKNOWN  # so that the next desired payload is always sent
        if error is not None and self.desired_payload == sent[0]:
            if not self._tickets:  # sent after a rejoin: no caller waits for the result
                self._context.report(TrackFailed(error, self._name))
            self._resolve_waiting(error)
            return
        self.advance(now)

    def expired(self, ticket: Ticket) -> bool:
        """Fail a call whose timeout has passed with the reason of the delay. Return False if it is unknown here."""
        if ticket not in self._tickets:
            return False
        del self._tickets[ticket]
        self._context.tickets.resolve(ticket, self._timeout_error())
        return True

    def cancel(self, ticket: Ticket) -> None:
        """Remove the ticket of a cancelled call. The desired payload stays."""
        if self._tickets.pop(ticket, ticket) is None:
            self._context.timers.cancel(TimerKey(TimerKind.CALL_TIMEOUT, self._topic, ticket))

    def _timeout_error(self) -> RealtimeError:
        if self._context.timers.deadline(TimerKey(TimerKind.PRESENCE, self._topic)) is None:
            return OperationTimeout("the server did not answer the presence request in time", topic=self._name)
        limits = self._context.options.limits
        return RateLimitedError(
            f"a channel may send at most {limits.presence_calls} presence requests in {limits.presence_window:g} s",
            topic=self._name,
            hint="The newest track or untrack is sent as soon as the limit allows.",
        )

    def _resolve_waiting(self, outcome: RealtimeError | None) -> None:
        for ticket in list(self._tickets):
            del self._tickets[ticket]
            self._context.timers.cancel(TimerKey(TimerKind.CALL_TIMEOUT, self._topic, ticket))
            self._context.tickets.resolve(ticket, outcome)
