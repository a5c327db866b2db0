"""New tokens of a channel by `access_token`, and its end when a token expires. See docs/protocol.md, Token refresh."""

from typing import Any, Final

from supawire.server.authorization import Authorization, ReadAccess
from supawire.server.changes import Changes
from supawire.server.connection import ServerChannel
from supawire.server.hub_options import HubOptions
from supawire.server.join_config import usable
from supawire.server.outbox import Outbox
from supawire.server.queries import QueryFailed, Steps
from supawire.server.rooms import Rooms
from supawire.server.schedule import Schedule
from supawire.server.stepper import GeneratorStepper
from supawire.server.tokens import TokenRefused, check
from supawire.server.wire import is_object

NO_READ: Final = "You do not have permissions to read from this Channel topic: "
LOST_READ: Final = "You no longer have permission to read from this Channel topic: "


class ChannelTokens:
    """Handles the tokens of joined channels.

    `access_token` pushes get no reply; an invalid token leads to a `system` error and the end of the channel.
    """

    def __init__(
        self,
        options: HubOptions,
        schedule: Schedule,
        outbox: Outbox,
        rooms: Rooms,
        rights: Authorization,
        stepper: GeneratorStepper,
        changes: Changes,
    ) -> None:
        self._secret = options.secret
        self._timings = options.timings
        self._schedule = schedule
        self._outbox = outbox
        self._rooms = rooms
        self._rights = rights
        self._stepper = stepper
        self._changes = changes

    def push(self, channel: ServerChannel, value: Any) -> None:
        """Handle a client's `access_token` push."""
        token = usable(value.get("access_token")) if is_object(value) else None
        if token is None or token == channel.token:
            return
        claims = check(token, self._secret, self._outbox.now)
        if isinstance(claims, TokenRefused):
            self._rooms.close_with_error(channel, claims.message)
            return
        channel.token, channel.claims = token, claims
        channel.writes.clear()
        self._stepper.run(self._renew(channel), channel)

    def _renew(self, channel: ServerChannel) -> Steps[None]:
        """Query read access for the new token; end the channel if it has lost it."""
        presence = channel.config.presence or channel.receives_presence_diffs
        try:
            reads = yield from self._rights.read(
                channel.requester, channel.sub_topic, private=channel.private, presence=presence
            )
        except QueryFailed as failed:
            lost = failed.error.message
        else:
            lost = self._lost(channel, reads, presence=presence)
        if lost is not None:
            self._rooms.close_with_error(channel, lost)
            return
        self.watch(channel)
        if channel.bindings:
            at = self._outbox.now.mono + self._timings.resubscribe
            self._schedule.at(at, lambda: self._changes.subscribe(channel))

    def _lost(self, channel: ServerChannel, reads: ReadAccess, *, presence: bool) -> str | None:
        """Apply new read access; return the message for a channel that has lost read access, else None."""
        before = channel.reads_broadcast, channel.reads_presence
        channel.reads_broadcast, channel.reads_presence = reads
        channel.receives_presence_diffs = not channel.private or (presence and channel.reads_presence)
        if not any(reads):
            return NO_READ + channel.sub_topic
        lost = any(had and not has for had, has in zip(before, reads, strict=True))
        return LOST_READ + channel.sub_topic if lost else None

    def watch(self, channel: ServerChannel) -> None:
        """Schedule the next check of the token: when it expires, at the latest after `Timings.recheck`."""
        if channel.expiry_timer is not None:
            channel.expiry_timer.cancel()
        now = self._outbox.now
        wait = min(self._timings.recheck, max(channel.claims.exp - now.wall, 0.001))
        channel.expiry_timer = self._schedule.at(now.mono + wait, lambda: self._check_expiry(channel))

    def _check_expiry(self, channel: ServerChannel) -> None:
        if not channel.open:
            return
        expired = channel.claims.expired(self._outbox.now)
        if expired is None:
            self.watch(channel)
        else:
            self._rooms.close_with_error(channel, expired.message)
