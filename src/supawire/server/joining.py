"""`phx_join`: the checks in the server's order, and what a new channel is told (protocol §3.1, §3.2, §3.7)."""

from dataclasses import dataclass
from typing import Any, Final

from supawire.core.frames import JOIN, PREFIX
from supawire.server.broadcasts import Broadcasts
from supawire.server.changes import Changes
from supawire.server.channel import Channel
from supawire.server.desk import Desk
from supawire.server.joins import JoinConfig, parse_join
from supawire.server.limits import Meter
from supawire.server.peers import Peer
from supawire.server.tokens import Claims, Refused, check
from supawire.server.tracking import Tracking
from supawire.server.wire import DECODE_ERRORS, Push, encode, is_object

NO_TOPIC: Final = "TopicNameRequired: You must provide a topic name"
TOO_MANY_USERS: Final = "ConnectionRateLimitReached: Too many connected users"
TOO_MANY_JOINS: Final = "ClientJoinRateLimitReached: Too many joins per second"
TOO_MANY_CHANNELS: Final = "ChannelRateLimitReached: Too many channels"
UNAUTHORIZED: Final = "Unauthorized: You do not have permissions to read from this Channel topic: "
REPLICATION_READY: Final = "Replication connection established"
CRASHED: Final = "join crashed"


@dataclass(frozen=True, slots=True)
class JoinRefused:
    """Why there is no channel; the answer is held back for a while (protocol §3.2)."""

    reason: str
    close: int | None = None
    """A code to close the socket with, after the answer."""
    at_once: bool = False


class Joining:
    """How a join becomes a channel, or a reason."""

    def __init__(self, desk: Desk, broadcasts: Broadcasts, tracking: Tracking, changes: Changes) -> None:
        self._desk = desk
        self._outbox = desk.outbox
        self._broadcasts = broadcasts
        self._tracking = tracking
        self._changes = changes
        self.meter: Final = Meter(desk.limits.joins)

    def join(self, peer: Peer, push: Push) -> Channel | JoinRefused:
        """Check a join and make its channel; nothing is sent yet."""
        try:
            payload = push.value()
        except DECODE_ERRORS:
            payload = None
        if push.kind is not None or not is_object(payload):
            return JoinRefused(CRASHED, at_once=True)
        if push.topic == PREFIX:
            return JoinRefused(NO_TOPIC)
        config = parse_join(push.topic, payload)
        return self._limited(peer) or self._admit(peer, push, config)

    def _limited(self, peer: Peer) -> JoinRefused | None:
        mono = self._outbox.now.mono
        if not peer.channels and self._desk.crowded:
            return JoinRefused(TOO_MANY_USERS)
        self.meter.count(mono)
        if self.meter.tripped(mono):
            return JoinRefused(TOO_MANY_JOINS, close=1001)
        if self._desk.limits.channels is not None and len(peer.channels) >= self._desk.limits.channels:
            return JoinRefused(TOO_MANY_CHANNELS)
        return None

    def _admit(self, peer: Peer, push: Push, config: JoinConfig) -> Channel | JoinRefused:
        sub_topic: str = push.topic.removeprefix(PREFIX)
        token = config.token if config.token is not None else peer.token
        claims = check(token, self._desk.options.secret, self._outbox.now)
        if isinstance(claims, Refused):
            return JoinRefused(claims.reason)
        reads = self._desk.rights.read_rights(claims, sub_topic, private=config.private, presence=config.presence)
        if not any(reads):
            return JoinRefused(UNAUTHORIZED + sub_topic)
        if config.problem is not None:
            return JoinRefused(config.problem)
        if (reason := self._desk.rules.rejection(sub_topic)) is not None:
            return JoinRefused(reason)
        return self._make(peer, push, config, token, claims, reads)

    def _make(
        self, peer: Peer, push: Push, config: JoinConfig, token: str, claims: Claims, reads: tuple[bool, bool]
    ) -> Channel:
        channel = Channel(self._desk.new_id(), peer, push.topic, push.join_ref, config, token, claims)
        channel.presence_key = config.presence_key or self._desk.new_key()
        channel.bindings = self._changes.bind(config)
        channel.reads_broadcast, channel.reads_presence = reads
        channel.hears_presence = not config.private or (config.presence and channel.reads_presence)
        return channel

    def welcome(self, channel: Channel, push: Push) -> None:
        """The ok reply, then everything that follows it, in the order of protocol §3.7."""
        echo = [binding.echo for binding in channel.bindings]
        payload: dict[str, Any] = {"status": "ok", "response": {"postgres_changes": echo}}
        self._outbox.reply(channel.peer, channel.wire_topic, JOIN, push.ref, push.join_ref, encode(payload))
        self._desk.rooms.enter(channel)
        self._broadcasts.replay(channel)
        self._changes.subscribe(channel)
        if channel.config.replication_ready:
            self._outbox.system(channel, "system", "ok", REPLICATION_READY)
        self._tracking.send_state(channel)
