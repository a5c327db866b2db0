"""The second level: joined, and the server says that changes or database broadcasts are live (R18, R19).

A `system` error of postgres_changes neither ends nor renews a join: the server tries again by itself, or never will.
Any other `system` error announces that the channel is about to be closed, and why.
"""

from enum import Enum, auto
from typing import NamedTuple

from supawire.core import frames
from supawire.core.join import Join
from supawire.errors import REPLICATING, SUBSCRIBED, Action, Known, RealtimeError, classify_system, system_error
from supawire.options import ChannelOptions
from supawire.types import System


class Said(Enum):
    """What a `system` message means for its channel."""

    NOTHING = auto()
    READY = auto()
    DEGRADED = auto()
    ENDING = auto()


class Reading(NamedTuple):
    """A `system` message, read; row and error where it reports one."""

    said: Said
    row: Known | None = None
    error: RealtimeError | None = None


class Readiness:
    """What a join still waits for."""

    __slots__ = ("_awaited", "changes_live", "hopeless")

    def __init__(self) -> None:
        self._awaited: tuple[str, ...] = ()
        self.changes_live: bool = True
        """Whether nothing is known to be wrong with changes."""
        self.hopeless: RealtimeError | None = None
        """What the server said of this join that it will never make live."""

    def joined(self, join: Join, options: ChannelOptions) -> None:
        """A new join: nothing was said yet."""
        self._awaited = (SUBSCRIBED,) * bool(join.bindings) + (REPLICATING,) * options.replication_ready
        self.changes_live = not join.bindings
        self.hopeless = None

    @property
    def is_ready(self) -> bool:
        """Whether everything that was asked for is live."""
        return not self._awaited

    def read(self, message: System, *, keyed: bool = False) -> Reading:
        """Take a `system` message in. Args: keyed: the channel has no token, so it joined with the key."""
        if message.status == "ok":
            return self._ok(message.message)
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

    def _ok(self, text: str) -> Reading:
        if text not in self._awaited:
            return Reading(Said.NOTHING)  # said again after a token refresh or a change of the publication
        self._awaited = self._without(text)
        if text == SUBSCRIBED:
            self.changes_live, self.hopeless = True, None
        return Reading(Said.READY if self.is_ready else Said.NOTHING)

    def _without(self, text: str) -> tuple[str, ...]:
        return tuple(awaited for awaited in self._awaited if awaited != text)
