"""The trace context of broadcasts: where it is written, and how it is taken out again.

It is the text of the W3C header `traceparent`. A broadcast on a channel has it in `meta`, beside the payload, so that
receivers get the payload as it was sent; it is a text frame then, because the server does not pass on the metadata of a
binary one. An HTTP request has no place beside the payload: there it is the member `_traceparent` of the object.
"""

import re
from typing import Any, Final, cast

import msgspec
from msgspec import UNSET, Raw, Struct

from supawire.core.codec import DECODE_ERRORS
from supawire.events import Broadcast, LateBroadcast, frame_of, sent_payload

PAYLOAD_KEY: Final = "_traceparent"
"""The member of an object sent by HTTP."""

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_MARK: Final = b"_traceparent"


class _Meta(Struct):
    traceparent: str | None = None


class _Body(Struct):
    meta: _Meta | None = None


class _ArrayFrame(Struct, array_like=True):
    join_ref: Raw
    ref: Raw
    topic: Raw
    event: Raw
    payload: _Body


class _ObjectFrame(Struct):
    payload: _Body


_array_frame: Final = msgspec.json.Decoder(_ArrayFrame).decode
_object_frame: Final = msgspec.json.Decoder(_ObjectFrame).decode
_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_late: Final[type[LateBroadcast[Any]]] = LateBroadcast
_broadcast: Final[type[Broadcast[Any]]] = Broadcast


def is_traceparent(value: object) -> bool:
    """Return whether it has the form of a `traceparent` of version 00."""
    return isinstance(value, str) and len(value) == 55 and _TRACEPARENT.fullmatch(value) is not None


def add_to_payload(payload: bytes, traceparent: str, limit: int | None) -> bytes:
    """Return the JSON object with the trace context as its last member; any other JSON value as it is.

    An object that would have more bytes than the limit is returned as it is, too.
    """
    text = payload.rstrip()
    if text[:1] != b"{" or text[-1:] != b"}":
        return payload
    comma = b"" if text[1:-1].strip() == b"" else b","
    longer = b'%b%b"%b":"%b"}' % (text[:-1], comma, _MARK, traceparent.encode())
    return payload if limit is not None and len(longer) > limit else longer


def take(event: Broadcast[Any]) -> Broadcast[Any]:
    """Return the event with its trace context in the place where `trace_of` finds it, and not in its payload.

    An event without one is returned as it is.
    """
    traceparent = _of_frame(frame_of(event))
    if traceparent is not None:
        return _copy(event, traceparent, UNSET)
    if isinstance(event, LateBroadcast):
        return _take_from_text(event)
    if type(event.payload) is not dict:
        return event
    payload = cast("dict[str, Any]", event.payload)
    if not is_traceparent(payload.get(PAYLOAD_KEY)):
        return event
    left = payload.copy()
    return _copy(event, left.pop(PAYLOAD_KEY), left)


def trace_of(event: Broadcast[Any]) -> str | None:
    """Return the trace context of an event that `take` has returned, None if it has none."""
    kept = frame_of(event)
    return kept.decode() if kept[:1] == b"0" else None  # frames begin with `[`, `{` or the byte 4


def _of_frame(frame: bytes) -> str | None:
    first = frame[:1]
    try:
        if first == b"[":
            body = _array_frame(frame).payload
        elif first == b"{":
            body = _object_frame(frame).payload
        else:
            return None
    except DECODE_ERRORS:
        return None
    found = None if body.meta is None else body.meta.traceparent
    return found if is_traceparent(found) else None


def _take_from_text(event: LateBroadcast[Any]) -> Broadcast[Any]:
    raw, _ = sent_payload(event)
    if not isinstance(raw, Raw) or _MARK not in bytes(raw):
        return event
    try:
        members = _members(raw)
        traceparent = msgspec.json.decode(members.pop(PAYLOAD_KEY, b"null"))
    except DECODE_ERRORS:
        return event
    if not is_traceparent(traceparent):
        return event
    return _copy(event, traceparent, Raw(msgspec.json.encode(members)))


def _copy(event: Broadcast[Any], traceparent: str, payload: Any) -> Broadcast[Any]:
    """Return a copy that keeps the trace context instead of its frame. payload: the new one, unless UNSET."""
    kept = traceparent.encode()
    if isinstance(event, LateBroadcast):
        raw, model = sent_payload(event)
        text = raw if payload is UNSET else payload
        return _late(event.topic, event.event, UNSET, event.id, event.replayed, kept, text, model)
    return _broadcast(
        event.topic, event.event, event.payload if payload is UNSET else payload, event.id, event.replayed, kept
    )
