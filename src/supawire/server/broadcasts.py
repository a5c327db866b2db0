"""Broadcasts from clients and from the server itself. See docs/protocol.md, Broadcast."""

import re
from collections import deque
from typing import Any, Final, NamedTuple

from supawire.core.frames import BROADCAST, PREFIX
from supawire.server.authorization import Authorization
from supawire.server.connection import ServerChannel
from supawire.server.hub_options import Ids
from supawire.server.limits import WORST_RATIO, ServerLimits, term_size
from supawire.server.outbox import Outbox
from supawire.server.queries import (
    RETENTION,
    MessagesQuery,
    QueryFailed,
    Replay,
    Steps,
    StoredMessage,
    StoreQuery,
    run_query,
)
from supawire.server.rooms import Room, Rooms
from supawire.server.stepper import GeneratorStepper
from supawire.server.wire import (
    DECODE_ERRORS,
    Push,
    Shared,
    decode,
    encode,
    is_object,
    shared_raw,
    shared_text,
    shared_user,
    text,
    user_frame,
    user_payload,
)

MAX_MESSAGES_KEPT: Final = 10_000
TOO_BIG: Final = b'{"status":"error","response":"payload_size_exceeded"}'
UNAUTHORIZED: Final = b'{"status":"error","response":{"error":"unauthorized"}}'
INVALID_TTL: Final = b'{"status":"error","response":{"error":"invalid_persist_ttl"}}'
RAW_OVERHEAD: Final = 50
"""Bytes that the server adds to the size of a raw payload when it applies the limit."""


class MessageStore:
    """The newest messages, bounded in number and age: the `realtime.messages` of a server without a database."""

    def __init__(self, kept: int = MAX_MESSAGES_KEPT) -> None:
        self._messages: deque[StoredMessage] = deque(maxlen=kept)

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, message: StoredMessage) -> None:
        """Add a message; the oldest is removed when there are too many."""
        while self._messages and self._messages[0].sent_at < message.sent_at - RETENTION:
            self._messages.popleft()
        self._messages.append(message)

    def replay(self, topic: str, wanted: Replay, wall: float) -> list[StoredMessage]:
        """Return the newest private messages of a topic since the requested time, oldest first."""
        found: list[StoredMessage] = []
        for message in reversed(self._messages):
            if message.sent_at < wall - RETENTION or len(found) == wanted.limit:
                break
            if message.expires_at is not None and message.expires_at <= wall:
                continue
            if message.private and message.topic == topic and int(message.sent_at * 1000) >= wanted.since:
                found.append(message)
        return found[::-1]


class ReplayMessages(NamedTuple):
    """The messages for a join with replay."""

    stored: tuple[StoredMessage, ...] = ()
    """Stored messages, oldest first."""
    delivered_meanwhile: tuple[StoredMessage, ...] = ()
    """Messages delivered to the topic while the stored ones were queried; some may be in `stored` too."""


class Broadcasts:
    """Delivers broadcasts from a sender to the channels of a room."""

    def __init__(
        self,
        outbox: Outbox,
        rooms: Rooms,
        rights: Authorization,
        stepper: GeneratorStepper,
        limits: ServerLimits,
        ids: Ids,
    ) -> None:
        self._outbox = outbox
        self._ids = ids
        self._rooms = rooms
        self._rights = rights
        self._limits = limits
        self._stepper = stepper
        self._lookups: list[tuple[str, list[StoredMessage]]] = []
        """Topics with a pending replay query, and the messages delivered to them meanwhile."""
        self.store: Final = MessageStore()
        stepper.register_local(MessagesQuery, self._stored)
        stepper.register_local(StoreQuery, self._store)

    def push(self, channel: ServerChannel, push: Push) -> None:
        """Handle a client's broadcast. Without permission it is dropped without a reply, even with `ack`."""
        ttl = parse_persist(push.metadata) if channel.private else None
        if ttl is not None:
            self._stepper.run(self._push_and_store(channel, push, ttl), channel)
            return
        allowed = self._rights.may_write(channel, "broadcast")
        if allowed:
            self._push(channel, push)
        elif allowed is None:
            self._stepper.run(self._push_if_allowed(channel, push), channel)

    def _push_if_allowed(self, channel: ServerChannel, push: Push) -> Steps[None]:
        if (yield from self._rights.write(channel, "broadcast")):
            self._push(channel, push)

    def _push_and_store(self, channel: ServerChannel, push: Push, ttl: int) -> Steps[None]:
        """Deliver a broadcast, then store it if a policy allows that. See docs/protocol.md, Persisted broadcasts.

        The reply has the id of the stored message; a message that was not stored is answered like any other.
        """
        if ttl == 0:
            self._answer(channel, push, INVALID_TTL)
        elif not (yield from self._rights.write(channel, "broadcast")):
            self._answer(channel, push, UNAUTHORIZED)
        elif self._too_big(push):
            self._answer(channel, push, TOO_BIG)
        else:
            may_store = yield from self._rights.write(channel, "persistence")
            self._deliver(channel, push)
            stored: str | None = None
            if may_store:
                query = StoreQuery(channel.sub_topic, push.user_event.decode(), push.payload, push.json, ttl)
                try:
                    stored = yield from run_query(query)
                except QueryFailed as failed:
                    self._outbox.report(f"a broadcast on {channel.sub_topic!r} was not stored: {failed.error.name}")
            if channel.open:
                answer = None if stored is None else encode({"status": "ok", "response": {"id": stored}})
                self._answer(channel, push, answer)

    def _store(self, query: StoreQuery) -> str:
        wall, number = self._outbox.now.wall, self._ids.message_id()
        self.store.add(
            StoredMessage(
                number, query.topic, query.event, query.payload, query.json, True, wall, expires_at=wall + query.ttl
            )
        )
        return number

    def _push(self, channel: ServerChannel, push: Push) -> None:
        if self._too_big(push):
            self._answer(channel, push, TOO_BIG)
            return
        self._deliver(channel, push)
        if channel.open:
            self._answer(channel, push)

    def _deliver(self, channel: ServerChannel, push: Push) -> None:
        room = self._rooms.of(channel)
        skip = None if channel.config.self_send else channel
        if push.kind is None and not push.payload.startswith(b"{") and _any_v2(room, skip):
            self._rooms.publish(room, _for_v1(channel, push), skip)
            self._rooms.crash(channel)  # the real server's fast path for version 2.0.0 accepts only objects
            return
        self._rooms.publish(room, _shared(channel, push), skip)

    def _too_big(self, push: Push) -> bool:
        if push.kind is None:
            return self.exceeds(push.payload)
        limit = self._limits.payload_bytes
        return limit is not None and len(push.payload) + RAW_OVERHEAD > limit

    def exceeds(self, payload: bytes) -> bool:
        """Return whether JSON text exceeds the payload limit when decoded."""
        limit = self._limits.payload_bytes
        if limit is None or len(payload) * WORST_RATIO < limit - 16:
            return False
        try:
            return term_size(decode(payload)) > limit
        except DECODE_ERRORS:
            return len(payload) > limit

    def _answer(self, channel: ServerChannel, push: Push, payload: bytes | None = None) -> None:
        if not channel.config.ack:
            return
        answer = () if payload is None else (payload,)
        self._outbox.reply(channel.peer, channel.wire_topic, BROADCAST, push.ref, channel.join_ref, *answer)

    # --- sent by the server ---

    def publish(self, sub_topic: str, shared: Shared, *, private: bool, message_id: str | None = None) -> None:
        """Deliver a message from the server or from HTTP to the room; do nothing when the room is empty."""
        room = self._rooms.get(sub_topic, private)
        if room is not None:
            self._rooms.publish(room, shared, message_id=message_id)

    def store_and_deliver(self, message: StoredMessage) -> None:
        """Store and deliver a message as `realtime.send` does, unless it is over a limit."""
        if not self._too_long(message):
            self.store.add(message)
            self.deliver(message)

    def deliver(self, message: StoredMessage) -> None:
        """Deliver a stored message to the room; over a limit it is dropped silently."""
        if self._too_long(message) or self._rooms.messages.tripped(self._outbox.now.mono):
            return
        for topic, delivered in self._lookups:
            if message.private and topic == message.topic:
                delivered.append(message)
        self.publish(message.topic, _live(message), private=message.private, message_id=message.id)

    def _too_long(self, message: StoredMessage) -> bool:
        limit = self._limits.payload_bytes
        return limit is not None and len(message.payload) > limit

    # --- replay ---

    def find_replay(self, topic: str, wanted: Replay) -> Steps[ReplayMessages]:
        """Return the messages to replay to a join. See docs/protocol.md, Replay."""
        lookup: tuple[str, list[StoredMessage]] = topic, []
        self._lookups.append(lookup)
        try:
            found = yield from run_query(MessagesQuery(topic, wanted))
        finally:
            self._lookups = [other for other in self._lookups if other is not lookup]
        return ReplayMessages(found, tuple(lookup[1]))

    def _stored(self, query: MessagesQuery) -> tuple[StoredMessage, ...]:
        return tuple(self.store.replay(query.topic, query.replay, self._outbox.now.wall))

    def replay(self, channel: ServerChannel, missed: ReplayMessages) -> None:
        """Send the messages stored before the join; copies that are delivered later are skipped."""
        for message in missed.stored:
            channel.replayed.add(message.id)
            self._replay_one(channel, message)
        for message in missed.delivered_meanwhile:
            frame = _live(message).get(channel.peer.v2)
            if frame is not None and message.id not in channel.replayed:
                self._outbox.send(channel.peer, frame)

    def _replay_one(self, channel: ServerChannel, message: StoredMessage) -> None:
        meta, peer = message.metadata(replayed=True), channel.peer
        if message.json:
            payload = user_payload(message.event.encode(), message.payload, meta)
            self._outbox.send(peer, text(peer.v2, channel.wire_topic, BROADCAST, payload, join_ref=channel.join_ref))
        elif peer.v2:
            frame = user_frame(channel.topic, message.event.encode(), message.payload, json=False, metadata=meta)
            if frame is not None:
                self._outbox.send(peer, frame)


def parse_persist(metadata: Any) -> int | None:
    """Return for how many seconds the metadata of a frame asks to store it; None: not at all, 0: an invalid request."""
    persist = metadata.get("persist") if is_object(metadata) else None
    if persist in (None, False, "false"):
        return None
    if persist is True or persist == "true":
        return int(RETENTION)
    if not is_object(persist):
        return 0
    ttl = persist.get("ttl")
    if ttl is None:
        return int(RETENTION)
    if isinstance(ttl, str) and re.fullmatch(r"[+-]?[0-9]{1,9}", ttl):
        ttl = int(ttl)
    return ttl if type(ttl) is int and 0 < ttl <= RETENTION else 0


def _any_v2(room: Room, skip: ServerChannel | None) -> bool:
    return any(member.peer.v2 for member in room.members.values() if member is not skip and member.reads_broadcast)


def _shared(channel: ServerChannel, push: Push) -> Shared:
    if push.kind is None:
        return shared_text(channel.wire_topic, BROADCAST, push.payload)
    if push.kind == 0:
        return shared_raw(channel.topic, BROADCAST, push.payload)
    return shared_user(channel.topic, push.user_event, push.payload, json=push.json)


def _for_v1(channel: ServerChannel, push: Push) -> Shared:
    """Return a text frame that only clients with version 1.0.0 receive."""
    return Shared(lambda v2: None if v2 else text(False, channel.wire_topic, BROADCAST, push.payload))


def _live(message: StoredMessage) -> Shared:
    topic, event = PREFIX + message.topic, message.event.encode()
    return shared_user(topic, event, message.payload, json=message.json, metadata=message.metadata())


def server_message(sub_topic: str, event: str, payload: Any, message_id: str | None = None) -> Shared:
    """Return a text broadcast in the form of the HTTP endpoint; it has `meta` only with an id."""
    body: dict[str, Any] = {"event": event, "payload": payload, "type": "broadcast"}
    if message_id is not None:
        body["meta"] = {"id": message_id}
    return shared_text(encode(PREFIX + sub_topic), BROADCAST, encode(body))
