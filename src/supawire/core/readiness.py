"""When a joined channel becomes ready: the server reports that changes or database broadcasts are live.

A `system` error of postgres_changes neither ends nor renews a join: the server retries by itself, or never will. Any
other `system` error announces that the channel is about to be closed, and why.
"""

from enum import Enum, auto
from typing import Final, NamedTuple

from supawire._server_errors import REPLICATING, SUBSCRIBED, Action, Known, classify_system, system_error
from supawire.core import frames
from supawire.errors import RealtimeError
from supawire.events import Instant, System

_TOKEN_REPLY_PERIOD: Final = 60.0
"""Seconds after a token push in which "Subscribed to PostgreSQL" may be its reply; usually 1 to 3."""


class SystemMeaning(Enum):
    """Meaning of a `system` message for its channel."""

    NOTHING = auto()
    READY = auto()
    DEGRADED = auto()
    RESUBSCRIBED = auto()
    """The server subscribed to changes again by itself, because its worker was replaced."""
    CLOSING = auto()
    """The server is about to close the channel."""


class SystemReading(NamedTuple):
    """An interpreted `system` message, with table row and error if it reports one."""

    meaning: SystemMeaning
    row: Known | None = None
    error: RealtimeError | None = None


class ChannelReadiness:
    """Conditions that a join still waits for."""

    __slots__ = ("_awaited", "_subscribes", "_token_pushes", "changes_live", "permanent_error")

    def __init__(self) -> None:
        self._awaited: tuple[str, ...] = ()
        self._subscribes = False
        """Whether the join has bindings for changes, so that the server reports its subscription."""
        self._token_pushes: tuple[float, ...] = ()
        """Times of token pushes for which the server has not yet reported a new subscription."""
        self.changes_live: bool = True
        """Whether no problem with changes is known."""
        self.permanent_error: RealtimeError | None = None
        """Permanent error reported for changes of this join."""

    def joined(self, *, changes: bool, replication: bool) -> None:
        """Reset for a new join that requests changes, or a report when database broadcasts are live."""
        self._awaited = (SUBSCRIBED,) * changes + (REPLICATING,) * replication
        self.changes_live = not changes
        self._subscribes = changes
        self._token_pushes = ()
        self.permanent_error = None

    def token_sent(self, now: Instant) -> None:
        """Record a token push: the server subscribes to changes again and reports it."""
        if self._subscribes:
            self._token_pushes = (*self._pending_token_pushes(now), now.mono)

    @property
    def is_ready(self) -> bool:
        """Whether everything that was requested is live."""
        return not self._awaited

    def read(self, message: System, now: Instant, *, keyed: bool = False) -> SystemReading:
        """Interpret a `system` message. `keyed`: the channel has no token and joined with the API key."""
        if message.status == "ok":
            return self._ok(message.message, now)
        row = classify_system(message.extension, message.status, message.message)
        if row is None:
            return SystemReading(SystemMeaning.NOTHING)
        error = system_error(message.extension, message.message, message.topic, keyed=keyed)
        if message.extension != frames.POSTGRES_CHANGES:
            return SystemReading(SystemMeaning.CLOSING, row, error)
        self._awaited = (SUBSCRIBED, *self._without(SUBSCRIBED))
        self.changes_live = False
        if row.action is Action.GIVE_UP:
            self.permanent_error = error
        return SystemReading(SystemMeaning.DEGRADED, row, error)

    def _ok(self, text: str, now: Instant) -> SystemReading:
        if text not in self._awaited:
            if text != SUBSCRIBED or not self._subscribes:
                return SystemReading(SystemMeaning.NOTHING)
            pending = self._pending_token_pushes(now)
            self._token_pushes = pending[1:]
            return SystemReading(SystemMeaning.NOTHING if pending else SystemMeaning.RESUBSCRIBED)
        self._awaited = self._without(text)
        if text == SUBSCRIBED:
            self.changes_live, self.permanent_error = True, None
        return SystemReading(SystemMeaning.READY if self.is_ready else SystemMeaning.NOTHING)

    def _pending_token_pushes(self, now: Instant) -> tuple[float, ...]:
        return tuple(at for at in self._token_pushes if now.mono - at <= _TOKEN_REPLY_PERIOD)

    def _without(self, text: str) -> tuple[str, ...]:
        return tuple(awaited for awaited in self._awaited if awaited != text)
