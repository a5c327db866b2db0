"""Handling of `phx_join`: the checks in the server's order, the reply, and the frames that follow a successful join.

See docs/protocol.md, Join.
"""

from typing import Any, Final

from supawire.core.frames import JOIN, PREFIX
from supawire.server.authorization import Authorization, ReadAccess
from supawire.server.broadcasts import Broadcasts, ReplayMessages
from supawire.server.changes import Changes
from supawire.server.connection import Peer, ServerChannel
from supawire.server.connections import Connections
from supawire.server.database_state import BroadcastReadiness, DatabaseState
from supawire.server.faults import FaultRules
from supawire.server.hub_options import HubOptions, Ids
from supawire.server.join_config import JoinConfig, parse_join
from supawire.server.limits import Meter
from supawire.server.outbox import Outbox
from supawire.server.presence import PresenceHandler
from supawire.server.queries import QueryFailed, Requester, Sleep, Steps
from supawire.server.rooms import Rooms
from supawire.server.token_refresh import ChannelTokens
from supawire.server.tokens import Claims, TokenRefused, check
from supawire.server.wire import DECODE_ERRORS, Push, encode, is_object, sub_topic

NO_TOPIC: Final = "TopicNameRequired: You must provide a topic name"
TOO_MANY_USERS: Final = "ConnectionRateLimitReached: Too many connected users"
TOO_MANY_JOINS: Final = "ClientJoinRateLimitReached: Too many joins per second"
TOO_MANY_CHANNELS: Final = "ChannelRateLimitReached: Too many channels"
UNAUTHORIZED: Final = "Unauthorized: You do not have permissions to read from this Channel topic: "
NO_REPLAY: Final = "UnableToReplayMessages: Realtime was unable to replay messages"
CRASHED: Final = "join crashed"


class JoinRejectedError(Exception):
    """A join is refused with this reason. The reply is delayed by `Timings.join_error`, unless it is sent `at_once`.

    `close` is a code to close the connection with after the reply.
    """

    def __init__(self, reason: str, *, close: int | None = None, at_once: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.close = close
        self.at_once = at_once


class JoinHandler:
    """Answers joins. `meter` counts them."""

    def __init__(
        self,
        *,
        options: HubOptions,
        ids: Ids,
        meter: Meter,
        rules: FaultRules,
        outbox: Outbox,
        connections: Connections,
        rooms: Rooms,
        rights: Authorization,
        database: DatabaseState,
        broadcasts: Broadcasts,
        presence: PresenceHandler,
        changes: Changes,
        readiness: BroadcastReadiness,
        token_refresh: ChannelTokens,
    ) -> None:
        self._secret = options.secret
        self._max_channels = options.limits.channels
        self._refusal_delay = options.timings.join_error
        self._ids = ids
        self._meter = meter
        self._rules = rules
        self._outbox = outbox
        self._connections = connections
        self._rooms = rooms
        self._rights = rights
        self._database = database
        self._broadcasts = broadcasts
        self._presence = presence
        self._changes = changes
        self._readiness = readiness
        self._token_refresh = token_refresh

    def join(self, peer: Peer, push: Push) -> Steps[None]:
        """Create a channel and send its first frames, or reply with the reason of the refusal."""
        try:
            yield from self._join(peer, push)
        except JoinRejectedError as refused:
            if self._refusal_delay and not refused.at_once:
                yield Sleep(self._refusal_delay)
            self._refuse(peer, push, refused)

    def _join(self, peer: Peer, push: Push) -> Steps[None]:
        topic = sub_topic(push.topic)
        if delay := self._rules.join_delay(topic):
            yield Sleep(delay)
        config = _parse(push)
        self._check_limits(peer)
        token = peer.token if config.token is None else config.token
        claims = self._check_token(token)
        if config.unanswered:
            return
        self._check_database()
        reads = yield from self._read_access(Requester(claims, peer.headers), topic, config)
        self._check_rules(topic, config)
        missed = yield from self._missed(topic, config, reads)
        channel = ServerChannel(self._ids.channel_number(), peer, push.topic, push.join_ref, config, token, claims)
        channel.presence_key = config.presence_key or self._ids.presence_key()
        channel.bindings = self._changes.bind(config)
        channel.reads_broadcast, channel.reads_presence = reads
        channel.receives_presence_diffs = not config.private or (config.presence and channel.reads_presence)
        waits = config.wait is not None and bool(channel.bindings)
        if waits and config.wait is not None:
            reason = yield from self._changes.establish(channel, config.wait)
            if reason is not None:
                raise JoinRejectedError(reason)
        self._accept(channel, push, missed, established=waits)

    # --- checks ---

    def _check_limits(self, peer: Peer) -> None:
        mono = self._outbox.now.mono
        if not peer.channels and self._connections.at_capacity:
            raise JoinRejectedError(TOO_MANY_USERS)
        self._meter.count(mono)
        if self._meter.tripped(mono):
            raise JoinRejectedError(TOO_MANY_JOINS, close=1001)
        if self._max_channels is not None and len(peer.channels) >= self._max_channels:
            raise JoinRejectedError(TOO_MANY_CHANNELS)

    def _check_token(self, token: str) -> Claims:
        claims = check(token, self._secret, self._outbox.now)
        if isinstance(claims, TokenRefused):
            raise JoinRejectedError(claims.reason)
        return claims

    def _check_database(self) -> None:
        if (error := self._database.error) is not None:
            raise JoinRejectedError(error.reason)

    def _read_access(self, who: Requester, topic: str, config: JoinConfig) -> Steps[ReadAccess]:
        try:
            reads = yield from self._rights.read(who, topic, private=config.private, presence=config.presence)
        except QueryFailed as failed:
            raise JoinRejectedError(failed.error.reason) from failed
        if not any(reads):
            raise JoinRejectedError(UNAUTHORIZED + topic)
        return reads

    def _check_rules(self, topic: str, config: JoinConfig) -> None:
        """Refuse a join with an invalid configuration, or one that a fault rule rejects."""
        reason = config.problem or self._rules.rejection(topic)
        if reason is not None:
            raise JoinRejectedError(reason)

    def _missed(self, topic: str, config: JoinConfig, reads: ReadAccess) -> Steps[ReplayMessages]:
        """Return the messages to replay, if the join requests any."""
        if config.replay is None or not reads.broadcast:
            return ReplayMessages()
        try:
            return (yield from self._broadcasts.find_replay(topic, config.replay))
        except QueryFailed as failed:
            raise JoinRejectedError(NO_REPLAY) from failed

    # --- answers ---

    def _accept(self, channel: ServerChannel, push: Push, missed: ReplayMessages, *, established: bool) -> None:
        """Send the ok reply, then the frames that follow it. See docs/protocol.md, After a join."""
        echo = [binding.echo for binding in channel.bindings]
        payload: dict[str, Any] = {"status": "ok", "response": {"postgres_changes": echo}}
        self._outbox.reply(channel.peer, channel.wire_topic, JOIN, push.ref, push.join_ref, encode(payload))
        self._rooms.add(channel)
        self._broadcasts.replay(channel, missed)
        if established:
            self._changes.established(channel)
        else:
            self._changes.subscribe(channel)
        self._readiness.announce(channel)
        self._presence.send_state(channel)
        if channel.open:
            self._token_refresh.watch(channel)

    def _refuse(self, peer: Peer, push: Push, refused: JoinRejectedError) -> None:
        payload = encode({"status": "error", "response": {"reason": refused.reason}})
        self._outbox.reply(peer, encode(push.topic), JOIN, push.ref, push.join_ref, payload)
        if refused.close is not None:
            self._connections.close(peer, refused.close)


def _parse(push: Push) -> JoinConfig:
    """Return the configuration of a join. Raises: JoinRefused."""
    try:
        payload = push.value()
    except DECODE_ERRORS:
        payload = None
    if push.kind is not None or not is_object(payload):
        raise JoinRejectedError(CRASHED, at_once=True)
    if push.topic == PREFIX:
        raise JoinRejectedError(NO_TOPIC)
    return parse_join(push.topic, payload)
