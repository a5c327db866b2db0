"""Decoding and routing of received frames.

`receive` is the hot path: one typed decode, one lookup, and the listeners are returned together with the event. All
other frames than data of an active join go to `_control`, which favours readability over speed. Nothing here raises on
input from the server: unreadable frames are counted and reported.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw

from supawire._server_errors import classify_join, not_stored, push_error, reason_of
from supawire.core import binary, codec, frames
from supawire.core.channel import CoreChannel
from supawire.core.codec import (
    CODECS,
    DECODE_ERRORS,
    Meta,
    Payload,
    Typed,
    Unread,
    decode_lenient,
    decode_meta,
    encode_json,
    members,
    read,
)
from supawire.core.connection import ConnectionMachine
from supawire.core.context import Context
from supawire.core.effects import Listeners, UnknownEvent, UnreadableFrame
from supawire.core.frames import BROADCAST, POSTGRES_CHANGES
from supawire.core.join_queue import JoinQueue
from supawire.core.membership import (
    CHANNEL_LIMIT,
    ChangeMissed,
    HeartbeatAnswered,
    JoinAccepted,
    JoinRejected,
    LeaveAnswered,
    Membership,
    ServerClosed,
    SystemReceived,
    send_joins,
)
from supawire.core.requests import Pending
from supawire.errors import ConnectionLostError, OperationTimeout, RealtimeError, RemoteProtocolError
from supawire.events import Broadcast, Heartbeat, Instant, LateBroadcast, Sent, System, type_of_change

Delivery = tuple[Listeners, Any]
"""The listeners of an event, and the event."""

_LazyBroadcast = tuple[Membership, Listeners, str, Meta | None, Raw]

_USER_BROADCAST: Final = binary.USER_BROADCAST.kind
_HEADER: Final = binary.USER_BROADCAST.header

LARGE_FRAME_BYTES: Final = 16_384
"""Bytes of a frame above which a broadcast's payload is decoded only when it is read. `[]` takes 24 times as many
bytes in Python as on the wire, and events may be queued.
"""

_read: Final = msgspec.json.Decoder().decode
_late: Final[type[LateBroadcast[Any]]] = LateBroadcast
_broadcast: Final[type[Broadcast[Any]]] = Broadcast
"""The class itself: calling it as `Broadcast[Any]` costs 1.5 µs more, three times the rest of `receive`."""


class Receiver:
    """Receiver of the frames of one session."""

    def __init__(
        self,
        context: Context,
        connection: ConnectionMachine,
        joins: JoinQueue[Membership],
        channels: Mapping[str, CoreChannel],
        limit_reached: Callable[[Membership, str, str, Instant], bool],
    ) -> None:
        self._context = context
        self._counts = context.counts
        self._connection = connection
        self._joins = joins
        self._channels = channels
        self._limit_reached = limit_reached
        self._members: dict[str, Membership] = {}
        self._by_bytes: dict[bytes, Membership] = {}
        self._decode = context.codec.decode.decode
        self._keeps_frames = context.options.traces
        """Whether broadcasts with `meta` keep their frame, from which the trace context is read."""
        self._events: Mapping[str, Callable[[Typed, CoreChannel, bytes, Instant], None]] = {
            frames.CLOSE: self._closed,
            frames.ERROR: self._closed,
            frames.SYSTEM: self._system,
            frames.PRESENCE_STATE: self._presence_state,
            frames.PRESENCE_DIFF: self._presence_diff,
        }
        self.last_received_at: Instant | None = None
        """When the last frame was received."""

    def use_protocol(self, version: str) -> None:
        """Decode and encode the frames of the present connection in this version."""
        self._context.codec = CODECS[version]
        self._decode = self._context.codec.decode.decode

    def register(self, channel: CoreChannel) -> None:
        """Route frames to this channel. Binary frames are looked up by the bytes of the topic."""
        self._members[channel.topic] = channel.membership
        self._by_bytes[channel.topic.encode()] = channel.membership

    def unregister(self, channel: CoreChannel) -> None:
        """Stop routing frames to this channel."""
        self._members.pop(channel.topic, None)
        self._by_bytes.pop(channel.topic.encode(), None)

    def receive(self, generation: int, data: bytes, binary: bool, now: Instant) -> Delivery | None:
        """Process one frame. Return listeners and event for data of an active join, else None, maybe with effects."""
        if generation != self._context.generation:
            self._counts.stale += 1
            return None
        self.last_received_at = now
        if binary:
            return self._receive_binary(data)
        try:
            frame: Typed = self._decode(data)
        except DECODE_ERRORS:
            try:
                frame = decode_lenient(self._context.codec.plain(data))
            except RemoteProtocolError as error:
                return self._undecodable(data, error)
        member = self._members.get(frame.topic)
        if member is not None and frame.join_ref in member.accepted_refs:
            if frame.event == BROADCAST:
                member.received += 1
                payload = frame.payload
                event = payload.event or ""
                index = member.index
                listeners = index.broadcasts.get(event, index.any_broadcast) or (
                    index.build_event(event) if index.stale else ()
                )
                if payload.meta is not None:
                    return self._deliver_stored(member, listeners, event, payload.meta, payload.payload, data)
                if not listeners:
                    return None
                kept = data if index.has_models else b""
                return listeners, _broadcast(member.name, event, payload.payload, None, False, kept)
            if frame.event == POSTGRES_CHANGES:
                return self._change(frame.payload, member)
        self._counts.other_frames += 1
        self._control(frame, data, now)
        return None

    def receive_large(self, generation: int, data: bytes, binary: bool, now: Instant) -> Delivery | None:
        """Process a frame of more than `LARGE_FRAME_BYTES`: a broadcast's payload is decoded only when it is read."""
        late = self._decode_lazily(data) if binary else self._decode_text_lazily(data)
        if generation != self._context.generation or late is None:
            return self.receive(generation, data, binary, now)
        self.last_received_at = now
        late[0].received += 1
        return self._deliver_lazy(*late, data)

    def _decode_text_lazily(self, data: bytes) -> _LazyBroadcast | None:
        try:
            frame = self._context.codec.decode_unread.decode(data)
        except DECODE_ERRORS:
            return None
        member = self._members.get(frame.topic)
        if frame.event != BROADCAST or member is None or frame.join_ref not in member.accepted_refs:
            return None
        payload: Unread = frame.payload
        event = payload.event or ""
        listeners = member.index.listeners_of(event)
        return member, listeners, event, payload.meta, payload.payload

    def _decode_lazily(self, data: bytes) -> _LazyBroadcast | None:
        if data[0] != _USER_BROADCAST or not data[4]:
            return None
        topic_end = _HEADER + data[1]
        event_end = topic_end + data[2]
        body = event_end + data[3]
        member = self._by_bytes.get(data[_HEADER:topic_end])
        if member is None or not member.accepted_refs:
            return None
        event = data[topic_end:event_end].decode("utf-8", "replace")
        listeners = member.index.listeners_of(event)
        meta = decode_meta(data[event_end:body]) if event_end < body else None
        return member, listeners, event, meta, Raw(data[body:])

    # --- data

    def _change(self, payload: Payload, member: Membership) -> Delivery | None:
        member.received += 1
        data = payload.data
        event = type_of_change.get(data.type) if data is not None else None
        ids = payload.ids
        if data is None or event is None or not ids:
            self._counts.unknown += 1
            self._missed_change(member.topic)
            return None
        if len(ids) == 1:
            by_kind = member.index.changes.get(ids[0])
            if by_kind is None:
                by_kind = member.index.build_changes(ids[0])
            listeners = by_kind.get(data.type, ())
        else:
            listeners = member.index.union(ids, data.type)
        return (listeners, event(member.name, data)) if listeners else None

    def _receive_binary(self, data: bytes) -> Delivery | None:
        if len(data) < _HEADER or data[0] != _USER_BROADCAST:
            self._counts.other_frames += 1
            self._other_binary(data)
            return None
        topic_end = _HEADER + data[1]
        event_end = topic_end + data[2]
        body = event_end + data[3]
        member = self._by_bytes.get(data[_HEADER:topic_end])
        if body > len(data):
            self._counts.other_frames += 1
            self._report_unreadable(RemoteProtocolError("a binary broadcast ends inside its header"))
            return None
        if member is None or not member.accepted_refs:
            self._counts.other_frames += 1
            self._counts.stale += 1
            return None
        member.received += 1
        entry = member.index.binary.get(data[topic_end:event_end])
        if entry is None:
            entry = data[topic_end:event_end].decode("utf-8", "replace"), member.index.any_broadcast
        event, listeners = entry
        if not listeners and member.index.stale:
            listeners = member.index.build_event(event)
        payload: Any = data[body:]
        if data[4]:
            try:
                payload = _read(payload)
            except DECODE_ERRORS:
                meta = decode_meta(data[event_end:body]) if event_end < body else None
                return self._deliver_lazy(member, listeners, event, meta, Raw(payload), data)
        if event_end < body:
            return self._deliver_stored(member, listeners, event, decode_meta(data[event_end:body]), payload, data)
        if not listeners:
            return None
        return listeners, _broadcast(member.name, event, payload, None, False, data if member.index.has_models else b"")

    def _deliver_stored(
        self, member: Membership, listeners: Listeners, event: str, meta: Meta, payload: Any, data: bytes
    ) -> Delivery | None:
        """Return the delivery of a stored message, or None if this message was delivered before."""
        if not member.gaps.add_stored(meta.id, self._received_at, replayed=meta.replayed) or not listeners:
            return None
        kept = data if self._keeps_frames or member.index.has_models else b""
        return listeners, _broadcast(member.name, event, payload, meta.id, meta.replayed, kept)

    def _undecodable(self, data: bytes, error: RemoteProtocolError) -> Delivery | None:
        """Handle a frame that is not readable JSON. If only one value is unreadable, the event is still delivered."""
        try:
            return self._deep_broadcast(data, data, [])
        except DECODE_ERRORS:
            pass
        for level, take in (
            (codec.PAYLOAD, self._deep_broadcast),
            (codec.ROW, self._deep_row),
            (codec.META, self._deep_presence),
        ):
            text, values = codec.cut(data, level)
            if values:
                try:
                    return take(data, text, values)
                except DECODE_ERRORS:
                    pass
        self._counts.other_frames += 1
        self._report_unreadable(error)
        for topic in tuple(self._channels):
            self._missed_change(topic)
        return None

    def _missed_change(self, topic: str) -> None:
        """Open a gap because an unreadable frame may have been a change, so that mirrors fetch their table again."""
        channel = self._channels.get(topic)
        if channel is not None and self.last_received_at is not None:
            channel.membership.handle(ChangeMissed(), self.last_received_at)

    def _deep_broadcast(self, data: bytes, text: bytes, values: list[bytes]) -> Delivery | None:
        """Deliver a broadcast whose payload cannot be read. Raises one of `DECODE_ERRORS` for any other frame."""
        frame = self._context.codec.decode_unread.decode(text)
        if frame.event != BROADCAST:
            raise msgspec.DecodeError("no broadcast")
        member = self._members.get(frame.topic)
        if member is None or frame.join_ref not in member.accepted_refs:
            self._counts.other_frames += 1
            self._report_unreadable(
                RemoteProtocolError("a broadcast that cannot be read is for a channel that is not joined")
            )
            return None
        payload: Unread = frame.payload
        event = payload.event or ""
        listeners = member.index.listeners_of(event)
        sent = codec.restored(payload.payload, values)
        member.received += 1
        return self._deliver_lazy(member, listeners, event, payload.meta, sent, data)

    def _deep_row(self, data: bytes, text: bytes, values: list[bytes]) -> Delivery | None:
        """Deliver a change whose row is nested too deeply: only reading the row raises."""
        frame: Typed = self._decode(text)
        change = frame.payload.data
        if frame.event != POSTGRES_CHANGES or change is None:
            raise msgspec.DecodeError("no change")
        member = self._members.get(frame.topic)
        if member is None or frame.join_ref not in member.accepted_refs:
            self._counts.other_frames += 1
            self._counts.stale += 1
            return None
        change.record = codec.restored(change.record, values)
        change.old_record = codec.restored(change.old_record, values)
        return self._change(frame.payload, member)

    def _deep_presence(self, data: bytes, text: bytes, values: list[bytes]) -> None:
        """Apply presence with values nested too deeply; a number replaces them, so that other members stay correct."""
        frame: Typed = self._decode(text)
        if frame.event not in (frames.PRESENCE_STATE, frames.PRESENCE_DIFF):
            raise msgspec.DecodeError("no presence")
        self._report_unreadable(RemoteProtocolError("a value in presence is nested too deep"))
        assert self.last_received_at is not None
        self._control(frame, text, self.last_received_at)
        self._counts.other_frames += 1

    def _deliver_lazy(
        self, member: Membership, listeners: Listeners, event: str, meta: Meta | None, text: Raw, data: bytes
    ) -> Delivery | None:
        meta = meta or Meta()
        if not member.gaps.add_stored(meta.id, self._received_at, replayed=meta.replayed) or not listeners:
            return None
        return listeners, _late(member.name, event, UNSET, meta.id, meta.replayed, data, text)

    @property
    def _received_at(self) -> float:
        return 0.0 if self.last_received_at is None else self.last_received_at.mono

    # --- control frames

    def _control(self, frame: Typed, data: bytes, now: Instant) -> None:
        if frame.event == frames.REPLY:
            self._reply(frame, now)
        else:
            self._route(frame, data, now)
        send_joins(self._joins, now)

    def _route(self, frame: Typed, data: bytes, now: Instant) -> None:
        channel = self._channels.get(frame.topic)
        take = self._events.get(frame.event)
        if take is None and frame.event not in (BROADCAST, POSTGRES_CHANGES):
            self._counts.unknown += 1
            self._context.report(UnknownEvent(frame.event, frame.topic))
        elif channel is None or take is None:
            self._counts.stale += 1
        else:
            take(frame, channel, data, now)

    def _reply(self, frame: Typed, now: Instant) -> None:
        status, response = frame.payload.status, frame.payload.response
        if status == "ok":
            self._connection.answered_ok()
        ref = frame.ref
        member = self._joins.answered(ref, now)
        if member is not None and ref is not None:
            if status == "ok":
                member.handle(JoinAccepted(ref, response), now)
            else:
                reason = reason_of(read(response))
                at_limit = classify_join(reason).code == CHANNEL_LIMIT
                if not (at_limit and self._limit_reached(member, ref, reason, now)):
                    member.handle(JoinRejected(ref, reason), now)
            return
        pending = self._context.replies.take(ref)
        if pending is not None:
            error = None if status == "ok" else push_error(read(response), pending.name)
            self._answered(pending, ref, error, response, now)

    def _answered(
        self, pending: Pending, ref: str | None, error: RealtimeError | None, response: Raw, now: Instant
    ) -> None:
        channel = self._channels.get(pending.topic)
        tickets = self._context.tickets
        match pending.event:
            case frames.HEARTBEAT:
                self._context.round_trip = now.mono - pending.sent_at
                self._context.answered_at = now.mono
                answered = HeartbeatAnswered(pending.sent_at)
                for each in list(self._channels.values()):
                    if each.membership.gap_heartbeat_at is not None:
                        each.membership.handle(answered, now)
                self._context.notify_heartbeat(Heartbeat("error" if error else "ok", self._context.round_trip))
                tickets.resolve(pending.ticket, self._context.round_trip)
            case frames.BROADCAST:
                sent = Sent("socket", acked=True, id=_stored_id(response))
                if error is None and pending.must_be_stored and sent.id is None:
                    error = not_stored(pending.name)
                tickets.resolve(pending.ticket, error or sent)
            case frames.PRESENCE if channel is not None:
                channel.track_answered(error, now)
            case frames.LEAVE if channel is not None:
                channel.membership.handle(LeaveAnswered(ref), now)
            case _:
                tickets.resolve(pending.ticket, error)

    def unanswered(self, pending: Pending, now: Instant) -> None:
        """Handle a reply that did not come in time. A missing heartbeat reply means that the connection is dead."""
        late = OperationTimeout(f"the server did not answer the {pending.event} in time")
        late.topic = pending.name
        channel = self._channels.get(pending.topic)
        if pending.event == frames.HEARTBEAT:
            self._context.notify_heartbeat(Heartbeat("timeout"))
        if pending.event == frames.PRESENCE and channel is not None:
            channel.track_answered(late, now)
        elif pending.event == frames.HEARTBEAT and pending.ticket is None:
            self._connection.lose(ConnectionLostError("the server did not answer a heartbeat"), now)
        else:
            self._context.tickets.resolve(pending.ticket, late)

    def _closed(self, frame: Typed, channel: CoreChannel, data: bytes, now: Instant) -> None:
        """Handle `phx_close` or `phx_error`. Version 1.0.0 has the join_ref in `ref`, version 2.0.0 in both fields."""
        ref = frame.join_ref if frame.join_ref is not None else frame.ref
        channel.membership.handle(ServerClosed(ref, frame.event == frames.ERROR), now)

    def _system(self, frame: Typed, channel: CoreChannel, data: bytes, now: Instant) -> None:
        if frame.join_ref not in channel.membership.accepted_refs:
            self._counts.stale += 1
            return
        payload = frame.payload
        message = System(channel.name, payload.extension, payload.status, payload.message)
        channel.membership.handle(SystemReceived(message), now)

    def _presence_state(self, frame: Typed, channel: CoreChannel, data: bytes, now: Instant) -> None:
        """Apply a `presence_state`. It is decoded again without types: its keys may be names of our struct fields."""
        if frame.join_ref not in channel.membership.accepted_refs:
            self._counts.stale += 1
            return
        try:
            raw = self._context.codec.decode_raw.decode(data).payload
        except DECODE_ERRORS:  # refs that are numbers: the frame was decoded leniently
            raw = Raw(encode_json(self._context.codec.plain(data).payload))
        channel.presence_state(raw)

    def _presence_diff(self, frame: Typed, channel: CoreChannel, data: bytes, now: Instant) -> None:
        if frame.join_ref not in channel.membership.accepted_refs:
            self._counts.stale += 1
            return
        channel.presence_diff(frame.payload.joins, frame.payload.leaves)

    # --- unexpected frames

    def _other_binary(self, data: bytes) -> None:
        """Report a binary frame of kind 0 to 2: plain Phoenix frames that the server is not known to send."""
        try:
            unpacked = binary.unpack(binary.DOWN, data)
        except (ValueError, IndexError) as error:
            self._report_unreadable(RemoteProtocolError(str(error)))
            return
        self._counts.unknown += 1
        self._context.report(UnknownEvent(f"binary frame of kind {unpacked.layout.kind}"))

    def _report_unreadable(self, error: RemoteProtocolError) -> None:
        self._counts.garbage += 1
        self._context.report(UnreadableFrame(error.message))


def _stored_id(response: Raw) -> str | None:
    """Return the id in the reply to a broadcast that the server has stored."""
    if len(response) <= len(b"{}"):  # true for nearly every reply
        return None
    found = (members(read(response)) or {}).get("id")
    return found if isinstance(found, str) else None
