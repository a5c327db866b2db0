"""Server side of both protocol versions: tolerant decoding of client frames, encoding of server frames.

A frame for many sockets is a `Shared`, which is encoded at most once per version, for the first recipient of that
version. Refs and topics are kept as JSON text to send back, because clients may use any JSON value.
"""

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias, TypeGuard

import msgspec
from msgspec import Raw, Struct

from supawire.core import binary, frames

DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)
NULL: Final = b"null"

encode: Final = msgspec.json.Encoder().encode
decode: Final = msgspec.json.Decoder().decode


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Return whether decoded JSON is an object."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Return whether decoded JSON is an array."""
    return isinstance(value, list)


def sub_topic(topic: str) -> str:
    """Return a topic without the `realtime:` prefix."""
    return topic.removeprefix(frames.PREFIX)


class Push(NamedTuple):
    """A client's frame. `payload` is JSON text, or the payload of a binary frame of this `kind`."""

    join_ref: bytes
    ref: bytes
    topic: Any
    event: Any
    payload: bytes
    kind: int | None = None
    """None for a text frame, else the kind of the binary frame: 0 or 3."""
    user_event: bytes = b""
    json: bool = True
    """For kind 3: whether the payload is JSON."""
    metadata: Any = None
    """For kind 3: the decoded metadata, None without any."""

    def value(self) -> Any:
        """Return the decoded payload. Raises one of `DECODE_ERRORS`."""
        return decode(self.payload)


Encoded: TypeAlias = tuple[bytes, bool]
"""The bytes of a frame, and whether it is binary."""


class _Object(Struct, gc=False):
    topic: Any
    event: Any
    payload: Raw
    ref: Any
    join_ref: Any = None


class _Array(Struct, array_like=True, gc=False):
    join_ref: Any
    ref: Any
    topic: Any
    event: Any
    payload: Raw


_HUGE: Final = re.compile(rb"[0-9][eE]\+?[0-9]{3}")
"""Matches where a number may be too large for a float. Payloads without a match need not be decoded to check."""

_object: Final = msgspec.json.Decoder(_Object)
_array: Final = msgspec.json.Decoder(_Array)


def read(v2: bool, data: bytes, is_binary: bool) -> Push | None:
    """Return a client's frame; None for an invalid frame that the server drops.

    See docs/protocol.md, Malformed frames.
    """
    try:
        if is_binary:
            return _read_binary(data) if v2 else None
        if not data.isascii():
            data.decode()  # parts that stay raw are not checked for valid UTF-8 otherwise
        frame = (_array if v2 else _object).decode(data)
        if _HUGE.search(data):
            decode(data)  # a frame with a number such as 1e400 is dropped
    except DECODE_ERRORS:
        return None
    return Push(encode(frame.join_ref), encode(frame.ref), frame.topic, frame.event, bytes(frame.payload))


def _read_binary(data: bytes) -> Push:
    parts = binary.unpack(binary.UP, data)
    join_ref, ref, topic, event = (field.decode() for field in parts.fields[:4])
    refs = encode(join_ref or None), encode(ref or None)
    if parts.layout is binary.PUSH_UP:
        return Push(*refs, topic, event, parts.payload, kind=0)
    metadata = decode(parts.fields[4]) if parts.fields[4] else None
    return Push(*refs, topic, frames.BROADCAST, parts.payload, 3, parts.fields[3], parts.json, metadata)


def text(v2: bool, topic: bytes, event: str, payload: bytes, ref: bytes = NULL, join_ref: bytes = NULL) -> Encoded:
    """Return a text frame. Version 1.0.0 never includes the join_ref."""
    if v2:
        return b'[%b,%b,%b,"%b",%b]' % (join_ref, ref, topic, event.encode(), payload), False
    return b'{"ref":%b,"topic":%b,"event":"%b","payload":%b}' % (ref, topic, event.encode(), payload), False


class Shared:
    """A frame for many sockets, encoded once per version; None for a version that does not get it."""

    __slots__ = ("_make", "v1", "v2")

    def __init__(self, make: Callable[[bool], Encoded | None]) -> None:
        self._make: Final = make
        self.v1: Encoded | bool | None = False  # False: not encoded yet
        self.v2: Encoded | bool | None = False

    def get(self, v2: bool) -> Encoded | None:
        """Return the frame for this version."""
        ready = self.v2 if v2 else self.v1
        if isinstance(ready, bool):
            ready = self._make(v2)
            if v2:
                self.v2 = ready
            else:
                self.v1 = ready
        return ready


def shared_text(topic: bytes, event: str, payload: bytes) -> Shared:
    """Return a text frame that is the same for all recipients, with null refs.

    Used for live broadcasts of text frames, presence diffs and changes.
    """
    return Shared(lambda v2: text(v2, topic, event, payload))


def shared_user(topic: str, event: bytes, payload: bytes, *, json: bool, metadata: bytes = b"") -> Shared:
    """Return a user's broadcast: kind 4 for version 2.0.0; text for 1.0.0, or nothing when the payload is not JSON.

    Version 1.0.0 embeds the payload into a larger JSON text. As on the real server, bytes that are declared as JSON
    but are invalid are embedded too, unless they could close the object and add an event or topic of their own.
    """

    def make(v2: bool) -> Encoded | None:
        if v2:
            return user_frame(topic, event, payload, json=json, metadata=metadata)
        if not json or not (is_json(payload) or _PLAIN.fullmatch(payload)):
            return None
        body = user_payload(event, payload, metadata)
        return text(False, encode(topic), frames.BROADCAST, body)

    return Shared(make)


def user_frame(topic: str, event: bytes, payload: bytes, *, json: bool, metadata: bytes) -> Encoded | None:
    """Return a binary frame of kind 4; None when a name is too long for it."""
    try:
        return binary.pack(binary.USER_BROADCAST, topic.encode(), event, metadata, payload=payload, json=json), True
    except ValueError:
        return None


_PLAIN: Final = re.compile(rb"[^\x00-\x1f\x7f-\xff\"{}\[\],:\\]*")
"""ASCII without the characters that have a meaning between the values of a JSON text."""


def is_json(text: bytes) -> bool:
    """Return whether this is exactly one JSON value."""
    try:
        decode(text)
    except DECODE_ERRORS:
        return False
    return True


def user_payload(event: bytes, payload: bytes, metadata: bytes = b"") -> bytes:
    """Return the payload of a broadcast in text form; `payload` must be JSON and is embedded unchanged."""
    meta = b'"meta":%b,' % metadata if metadata else b""
    return b'{"event":%b,%b"payload":%b,"type":"broadcast"}' % (encode(event.decode()), meta, payload)


_UNPARSABLE: Final = b'%{error: "unable to parse response"}'


def shared_raw(topic: str, event: str, payload: bytes) -> Shared:
    """Return a relayed push of kind 0: kind 2 for 2.0.0; for 1.0.0 text that is not JSON, as on the real server."""

    def make(v2: bool) -> Encoded | None:
        if not v2:
            return text(False, encode(topic), event, _UNPARSABLE)
        try:
            return binary.pack(binary.BROADCAST, topic.encode(), event.encode(), payload=payload), True
        except ValueError:
            return None

    return Shared(make)
