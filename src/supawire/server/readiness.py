"""`replication_ready`: who asked to be told when messages from the database flow (protocol §3.6, §6.4)."""

from typing import Final

from supawire.server.channel import Channel
from supawire.server.desk import Desk

READY: Final = "Replication connection established"
NOT_IN_TIME: Final = "Replication connection was not established in time"


class Readiness:
    """Whether they flow, and the channels that wait for it. Without a database they always do."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._flowing = not desk.options.database
        self._waiting: dict[int, Channel] = {}

    def welcome(self, channel: Channel) -> None:
        """A channel has joined; one that asked is told now, or when they flow, or is closed after a minute."""
        if not channel.config.replication_ready:
            return
        if self._flowing:
            self._desk.outbox.system(channel, "system", "ok", READY)
            return
        self._waiting[channel.id] = channel
        at = self._desk.now.mono + self._desk.timings.replication
        self._desk.schedule.at(at, lambda: self._give_up(channel))

    def flows(self, yes: bool) -> None:
        """Messages from the database flow from now on, or no more."""
        self._flowing = yes
        waiting = list(self._waiting.values()) if yes else []
        for channel in waiting:
            del self._waiting[channel.id]
            if channel.open:
                self._desk.outbox.system(channel, "system", "ok", READY)

    def _give_up(self, channel: Channel) -> None:
        if self._waiting.pop(channel.id, None) is not None and channel.open:
            self._desk.rooms.shut(channel, NOT_IN_TIME)
