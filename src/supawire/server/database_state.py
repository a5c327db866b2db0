"""State of the database as its backend reports it: whether it works, and whether broadcasts from it are delivered."""

from typing import Final

from supawire.server.connection import ServerChannel
from supawire.server.outbox import Outbox
from supawire.server.queries import QueryError
from supawire.server.rooms import Rooms
from supawire.server.schedule import Schedule, Timer

READY: Final = "Replication connection established"
NOT_IN_TIME: Final = "Replication connection was not established in time"


class DatabaseState:
    """The error because of which joins are refused.

    After an outage the real server refuses joins for some time longer: `recovery`, in seconds.
    """

    def __init__(self, schedule: Schedule, outbox: Outbox, recovery: float) -> None:
        self.error: QueryError | None = None
        self._schedule = schedule
        self._outbox = outbox
        self._recovery = recovery
        self._recovering: Timer | None = None
        """Timer after which joins are accepted again."""

    def report(self, error: QueryError | None) -> None:
        """Set the error, or end it with None."""
        if self._recovering is not None:
            if error is None:
                return
            self._recovering.cancel()
            self._recovering = None
        if error is None and self.error is not None and self._recovery:
            self._recovering = self._schedule.at(self._outbox.now.mono + self._recovery, self._recovered)
            error = QueryError.BUSY
        self.error = error

    def _recovered(self) -> None:
        self._recovering = None
        self.error = None


class BroadcastReadiness:
    """The channels that wait until messages from the database are delivered, and whether they are.

    `timeout`: seconds until a waiting channel is closed. `flowing`: whether messages are delivered from the start.
    """

    def __init__(self, schedule: Schedule, outbox: Outbox, rooms: Rooms, timeout: float, *, flowing: bool) -> None:
        self._schedule = schedule
        self._outbox = outbox
        self._rooms = rooms
        self._timeout = timeout
        self._flowing = flowing
        self._waiting: dict[int, ServerChannel] = {}

    def announce(self, channel: ServerChannel) -> None:
        """Send a channel that joined with `replication_ready` its message, now or when ready; close it on timeout."""
        if not channel.config.replication_ready:
            return
        if self._flowing:
            self._outbox.system(channel, "system", "ok", READY)
            return
        self._waiting[channel.id] = channel
        self._schedule.at(self._outbox.now.mono + self._timeout, lambda: self._time_out(channel))

    def set_ready(self, ready: bool) -> None:
        """Record whether messages from the database are delivered; if so, notify the waiting channels."""
        self._flowing = ready
        waiting = list(self._waiting.values()) if ready else []
        for channel in waiting:
            del self._waiting[channel.id]
            if channel.open:
                self._outbox.system(channel, "system", "ok", READY)

    def _time_out(self, channel: ServerChannel) -> None:
        if self._waiting.pop(channel.id, None) is not None and channel.open:
            self._rooms.close_with_error(channel, NOT_IN_TIME)
