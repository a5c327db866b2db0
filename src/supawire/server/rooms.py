"""Rooms: the channels joined to each topic and their presence, delivery to them, and how a channel ends.

The private and the public channels of one topic are in different rooms.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from supawire.core.frames import CLOSE, ERROR, PRESENCE_DIFF
from supawire.server.connection import ServerChannel
from supawire.server.effects import Send, Unsubscribe
from supawire.server.limits import Meter, ServerLimits
from supawire.server.outbox import Outbox
from supawire.server.wire import Shared, encode, shared_text

TOO_MANY_MESSAGES: Final = "Too many messages per second"


Metas = dict[str, dict[str, list[dict[str, Any]]]]


@dataclass(frozen=True, slots=True)
class PresenceDiff:
    """A `presence_diff`; both sides map keys to metas and may be empty."""

    joins: Metas
    leaves: Metas

    def payload(self) -> bytes:
        """Return the JSON text of the frame's payload."""
        return encode({"joins": self.joins, "leaves": self.leaves})


@dataclass(slots=True)
class _TrackedPresence:
    key: str
    payload: dict[str, Any]
    ref: str
    previous: str | None = None

    def meta(self) -> dict[str, Any]:
        previous = {} if self.previous is None else {"phx_ref_prev": self.previous}
        return {**self.payload, "phx_ref": self.ref, **previous}

    def alone(self) -> Metas:
        return {self.key: {"metas": [self.meta()]}}


class RoomPresence:
    """The tracked payloads of one room, at most one per channel; several channels may share a key.

    See docs/protocol.md, Presence.
    """

    def __init__(self) -> None:
        self._entries: dict[int, _TrackedPresence] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, channel: int) -> bool:
        return channel in self._entries

    def track(self, channel: int, key: str, payload: dict[str, Any], ref: str) -> PresenceDiff | None:
        """Add or replace a payload and return the diff; None when the same payload is already tracked."""
        old = self._entries.get(channel)
        if old is None:
            entry = self._entries[channel] = _TrackedPresence(key, payload, ref)
            return PresenceDiff(entry.alone(), {})
        if _same(old.payload, payload):
            return None
        entry = self._entries[channel] = _TrackedPresence(key, payload, ref, previous=old.ref)
        return PresenceDiff(entry.alone(), old.alone())

    def untrack(self, channel: int) -> PresenceDiff | None:
        """Remove the channel's payload and return the diff; None when there was none."""
        old = self._entries.pop(channel, None)
        return None if old is None else PresenceDiff({}, old.alone())

    def state(self) -> Metas:
        """Return the full state in the form of `presence_state`."""
        state: Metas = {}
        for entry in self._entries.values():
            state.setdefault(entry.key, {"metas": []})["metas"].append(entry.meta())
        return state

    def keys(self) -> Iterator[str]:
        """Return the keys that are present, each as often as it has metas."""
        return (entry.key for entry in self._entries.values())


def _same(old: dict[str, Any], new: dict[str, Any]) -> bool:
    if old != new:
        return False
    return msgspec.json.encode(old, order="sorted") == msgspec.json.encode(new, order="sorted")  # True == 1 in Python


class Room:
    """The private or the public channels of one topic."""

    __slots__ = ("key", "members", "presence", "wire_topic")

    def __init__(self, key: tuple[str, bool], topic: str) -> None:
        self.key: Final = key
        self.members: Final[dict[int, ServerChannel]] = {}
        self.presence: Final = RoomPresence()
        self.wire_topic: Final = encode(topic)


class Rooms:
    """All rooms with at least one channel, and the rate meters of deliveries."""

    def __init__(self, outbox: Outbox, limits: ServerLimits) -> None:
        self._outbox = outbox
        self._rooms: dict[tuple[str, bool], Room] = {}
        self.database_channels: Final[dict[int, ServerChannel]] = {}
        """Channels with bindings in the database, by number; it is notified when they end."""
        self.messages: Final = Meter(limits.messages)
        self.presence: Final = Meter(limits.presence)

    def get(self, sub_topic: str, private: bool) -> Room | None:
        """Return the room of a topic; None when it has no channels."""
        return self._rooms.get((sub_topic, private))

    def all(self) -> list[Room]:
        return list(self._rooms.values())

    def of(self, channel: ServerChannel) -> Room:
        """Return the room of an open channel."""
        return self._rooms[channel.sub_topic, channel.private]

    def add(self, channel: ServerChannel) -> Room:
        """Add a channel to its room, which is created if necessary."""
        key = channel.sub_topic, channel.private
        room = self._rooms.get(key)
        if room is None:
            room = self._rooms[key] = Room(key, channel.topic)
        room.members[channel.id] = channel
        channel.peer.channels[channel.topic] = channel
        channel.peer.had_channels = True
        return room

    # --- delivery ---

    def publish(
        self, room: Room, shared: Shared, skip: ServerChannel | None = None, message_id: str | None = None
    ) -> None:
        """Deliver a broadcast to every channel in the room that may read it, except `skip`.

        This is performance-critical: one lookup and one effect per recipient. Over the rate limit, every recipient is
        closed.
        """
        recipients = 0
        effects = self._outbox.effects
        for member in room.members.values():
            if member is skip or not member.reads_broadcast or (message_id and message_id in member.replayed):
                continue
            peer = member.peer
            frame = shared.get(peer.v2)
            if frame is None:
                continue
            recipients += 1
            if peer.suspended or peer.lag_until:
                self._outbox.send(peer, frame)
            else:
                effects.append(Send(peer.id, frame[0], frame[1]))
        mono = self._outbox.now.mono
        self.messages.count(mono, recipients + 1)
        if recipients and self.messages.tripped(mono):
            self._close_readers(room, skip)

    def _close_readers(self, room: Room, skip: ServerChannel | None) -> None:
        for member in list(room.members.values()):
            if member is not skip and member.reads_broadcast:
                self.close_with_error(member, TOO_MANY_MESSAGES)

    def send_presence_diff(self, room: Room, diff: PresenceDiff | None) -> None:
        """Deliver a presence diff to every channel in the room that receives diffs."""
        if diff is None:
            return
        shared = shared_text(room.wire_topic, PRESENCE_DIFF, diff.payload())
        recipients = 0
        for member in room.members.values():
            if member.receives_presence_diffs and (frame := shared.get(member.peer.v2)):
                recipients += 1
                self._outbox.send(member.peer, frame)
        self.presence.count(self._outbox.now.mono, recipients)

    # --- end of a channel ---

    def end(self, channel: ServerChannel) -> None:
        """Remove a channel from its room, presence and subscriptions; the others receive the presence diff."""
        if not channel.open:
            return
        channel.open = False
        channel.subscribed = False
        self.unsubscribe(channel)
        if channel.expiry_timer is not None:
            channel.expiry_timer.cancel()
        if channel.peer.channels.get(channel.topic) is channel:
            del channel.peer.channels[channel.topic]
        channel.peer.former_join_refs[channel.topic] = channel.join_ref
        room = self.of(channel)
        del room.members[channel.id]
        self.send_presence_diff(room, room.presence.untrack(channel.id))
        if not room.members:
            del self._rooms[room.key]

    def unsubscribe(self, channel: ServerChannel) -> None:
        """Remove the bindings of a channel from the database, if they are subscribed there."""
        if self.database_channels.pop(channel.id, None) is not None:
            self._outbox.effects.append(Unsubscribe(channel.id))

    def close(self, channel: ServerChannel) -> None:
        """End a channel with `phx_close` and its join_ref."""
        self.end(channel)
        self._outbox.push(channel, CLOSE, b"{}", ref=channel.join_ref)

    def crash(self, channel: ServerChannel) -> None:
        """End a channel with `phx_error`, as when its process crashes."""
        self.end(channel)
        self._outbox.push(channel, ERROR, b'{"reason":"channel_crash"}', ref=channel.join_ref)

    def close_with_error(self, channel: ServerChannel, message: str) -> None:
        """End a channel with a `system` error, then `phx_close`."""
        self._outbox.system(channel, "system", "error", message)
        self.close(channel)
