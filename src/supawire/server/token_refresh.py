"""The life of a channel's token: new ones by `access_token`, and the end when one runs out (protocol §7.2, §7.3)."""

from collections.abc import Callable
from typing import Any, Final

from supawire.server.authorization import Reads
from supawire.server.changes import Changes
from supawire.server.connection import Channel
from supawire.server.context import Desk
from supawire.server.join_config import usable
from supawire.server.queries import Trouble
from supawire.server.tokens import Refused, check
from supawire.server.wire import is_object

NO_READ: Final = "You do not have permissions to read from this Channel topic: "
LOST_READ: Final = "You no longer have permission to read from this Channel topic: "


class Renewal:
    """Tokens of joined channels. Pushes are never answered; a bad one shows as a system error and a close."""

    def __init__(self, desk: Desk, changes: Changes) -> None:
        self._desk = desk
        self._changes = changes

    def push(self, channel: Channel, value: Any) -> None:
        """A client hands in a token."""
        token = usable(value.get("access_token")) if is_object(value) else None
        if token is None or token == channel.token:
            return
        claims = check(token, self._desk.options.secret, self._desk.now)
        if isinstance(claims, Refused):
            self._desk.rooms.shut(channel, claims.message)
            return
        channel.token, channel.claims = token, claims
        channel.writes.clear()
        presence = channel.config.presence or channel.hears_presence

        def ask(done: Callable[[Reads | Trouble], None]) -> None:
            who, topic, private = channel.who, channel.sub_topic, channel.private
            self._desk.rights.read(who, topic, private=private, presence=presence, then=done)

        self._desk.standing.until_for(channel, ask, lambda reads: self._renewed(channel, reads, presence=presence))

    def _renewed(self, channel: Channel, reads: Reads | Trouble, *, presence: bool) -> None:
        lost = reads.message if isinstance(reads, Trouble) else self._lost(channel, reads, presence=presence)
        if lost is not None:
            self._desk.rooms.shut(channel, lost)
            return
        self.watch(channel)
        if channel.bindings:
            at = self._desk.now.mono + self._desk.timings.resubscribe
            self._desk.schedule.at(at, lambda: self._changes.subscribe(channel))

    def _lost(self, channel: Channel, reads: Reads, *, presence: bool) -> str | None:
        """Take new read rights; what to say when the channel may not read any more."""
        before = channel.reads_broadcast, channel.reads_presence
        channel.reads_broadcast, channel.reads_presence = reads
        channel.hears_presence = not channel.private or (presence and channel.reads_presence)
        if not any(reads):
            return NO_READ + channel.sub_topic
        lost = any(had and not has for had, has in zip(before, reads, strict=True))
        return LOST_READ + channel.sub_topic if lost else None

    def watch(self, channel: Channel) -> None:
        """Look at the token again when it runs out, or after five minutes."""
        if channel.recheck is not None:
            channel.recheck.cancel()
        now = self._desk.now
        wait = min(self._desk.timings.recheck, max(channel.claims.exp - now.wall, 0.001))
        channel.recheck = self._desk.schedule.at(now.mono + wait, lambda: self._look(channel))

    def _look(self, channel: Channel) -> None:
        if not channel.open:
            return
        expired = channel.claims.expired(self._desk.now)
        if expired is None:
            self.watch(channel)
        else:
            self._desk.rooms.shut(channel, expired.message)
