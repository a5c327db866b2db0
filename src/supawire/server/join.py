"""Handling of `phx_join`: the checks in the server's order, and the frames that follow a successful join.

See docs/protocol.md, Join.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from supawire.core.frames import JOIN, PREFIX
from supawire.server.authorization import Reads
from supawire.server.broadcasts import Broadcasts, Missed
from supawire.server.changes import Changes, SubscriptionReadiness
from supawire.server.connection import Peer, ServerChannel
from supawire.server.context import HubContext
from supawire.server.join_config import JoinConfig, parse_join
from supawire.server.limits import Meter
from supawire.server.presence_push import PresencePush
from supawire.server.queries import QueryError, Who
from supawire.server.tokens import Claims, TokenRefused, check
from supawire.server.wire import DECODE_ERRORS, Push, encode, is_object

NO_TOPIC: Final = "TopicNameRequired: You must provide a topic name"
TOO_MANY_USERS: Final = "ConnectionRateLimitReached: Too many connected users"
TOO_MANY_JOINS: Final = "ClientJoinRateLimitReached: Too many joins per second"
TOO_MANY_CHANNELS: Final = "ChannelRateLimitReached: Too many channels"
UNAUTHORIZED: Final = "Unauthorized: You do not have permissions to read from this Channel topic: "
NO_REPLAY: Final = "UnableToReplayMessages: Realtime was unable to replay messages"
CRASHED: Final = "join crashed"
NOTHING: Final = Missed()


@dataclass(frozen=True, slots=True)
class JoinRefused:
    """The reason why a join is refused; the reply is delayed by `Timings.join_error`."""

    reason: str
    close: int | None = None
    """A code to close the socket with, after the reply."""
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Joined:
    """A new channel, and the messages to replay to it."""

    channel: ServerChannel
    missed: Missed


@dataclass(frozen=True, slots=True)
class JoinIgnored:
    """A join that gets no reply and creates no channel."""


Outcome: TypeAlias = Joined | JoinRefused | JoinIgnored


class JoinHandler:
    """Turns a join into a channel or a reason of refusal."""

    def __init__(
        self,
        desk: HubContext,
        broadcasts: Broadcasts,
        tracking: PresencePush,
        changes: Changes,
        readiness: SubscriptionReadiness,
    ) -> None:
        self._context = desk
        self._outbox = desk.outbox
        self._broadcasts = broadcasts
        self._tracking = tracking
        self._changes = changes
        self._readiness = readiness
        self.meter: Final = Meter(desk.limits.joins)

    def join(self, peer: Peer, push: Push, then: Callable[[Outcome], None]) -> None:
        """Check a join and call `then` with the outcome. Sends nothing."""
        try:
            payload = push.value()
        except DECODE_ERRORS:
            payload = None
        if push.kind is not None or not is_object(payload):
            then(JoinRefused(CRASHED, at_once=True))
        elif push.topic == PREFIX:
            then(JoinRefused(NO_TOPIC))
        elif (limited := self._limited(peer)) is not None:
            then(limited)
        else:
            self._admit(peer, push, parse_join(push.topic, payload), then)

    def _limited(self, peer: Peer) -> JoinRefused | None:
        mono = self._outbox.now.mono
        if not peer.channels and self._context.at_capacity:
            return JoinRefused(TOO_MANY_USERS)
        self.meter.count(mono)
        if self.meter.tripped(mono):
            return JoinRefused(TOO_MANY_JOINS, close=1001)
        if self._context.limits.channels is not None and len(peer.channels) >= self._context.limits.channels:
            return JoinRefused(TOO_MANY_CHANNELS)
        return None

    def _admit(self, peer: Peer, push: Push, config: JoinConfig, then: Callable[[Outcome], None]) -> None:
        token = config.token if config.token is not None else peer.token
        claims = check(token, self._context.options.secret, self._outbox.now)
        if isinstance(claims, TokenRefused):
            then(JoinRefused(claims.reason))
        elif config.unanswered:
            then(JoinIgnored())
        elif (trouble := self._context.asking.trouble) is not None:
            then(JoinRefused(trouble.reason))
        else:
            one = _JoinRequest(peer, push, config, token, claims, then)
            self._context.rights.read(
                Who(claims, peer.headers),
                one.sub_topic,
                private=config.private,
                presence=config.presence,
                then=lambda reads: self._authorized(one, reads),
            )

    def _authorized(self, one: "_JoinRequest", reads: Reads | QueryError) -> None:
        """Continue once read access is known; query the messages to replay if requested."""
        if isinstance(reads, QueryError):
            one.then(JoinRefused(reads.reason))
        elif not any(reads):
            one.then(JoinRefused(UNAUTHORIZED + one.sub_topic))
        elif one.config.problem is not None:
            one.then(JoinRefused(one.config.problem))
        elif (reason := self._context.rules.rejection(one.sub_topic)) is not None:
            one.then(JoinRefused(reason))
        elif one.config.replay is None or not reads.broadcast:
            self._make(one, reads, NOTHING)
        else:
            self._broadcasts.find(one.sub_topic, one.config.replay, lambda missed: self._make(one, reads, missed))

    def _make(self, one: "_JoinRequest", reads: Reads, missed: Missed | QueryError) -> None:
        if isinstance(missed, QueryError):
            one.then(JoinRefused(NO_REPLAY))
            return
        push, config = one.push, one.config
        channel = ServerChannel(
            self._context.new_id(), one.peer, push.topic, push.join_ref, config, one.token, one.claims
        )
        channel.presence_key = config.presence_key or self._context.new_key()
        channel.bindings = self._changes.bind(config)
        channel.reads_broadcast, channel.reads_presence = reads
        channel.hears_presence = not config.private or (config.presence and channel.reads_presence)
        one.then(Joined(channel, missed))

    def send_join_ok(self, joined: Joined, push: Push) -> None:
        """Send the ok reply, then the frames that follow it. See docs/protocol.md, After a join."""
        channel = joined.channel
        echo = [binding.echo for binding in channel.bindings]
        payload: dict[str, Any] = {"status": "ok", "response": {"postgres_changes": echo}}
        self._outbox.reply(channel.peer, channel.wire_topic, JOIN, push.ref, push.join_ref, encode(payload))
        self._context.rooms.enter(channel)
        self._broadcasts.replay(channel, joined.missed)
        self._changes.subscribe(channel)
        self._readiness.welcome(channel)
        self._tracking.send_state(channel)


@dataclass(frozen=True, slots=True)
class _JoinRequest:
    """A join with a valid token that is being checked further."""

    peer: Peer
    push: Push
    config: JoinConfig
    token: str = field(repr=False)
    claims: Claims = field(repr=False)
    then: Callable[[Outcome], None]

    @property
    def sub_topic(self) -> str:
        return self.push.topic.removeprefix(PREFIX)
