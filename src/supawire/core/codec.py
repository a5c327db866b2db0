"""The client side of both wire versions. See docs/protocol.md, Frames.

There are two ways to decode. The typed one, for the hot path, decodes a frame of the expected shape in one pass,
including the payload of a broadcast but not the rows of a change. Frames that do not fit are decoded again as plain
JSON and converted to the same shape field by field (`decode_lenient`), so that the rest of the client handles only one
shape. Input that is not a frame at all raises `RemoteProtocolError`.

Lenient decoding exists because a server may be older, newer or unusual: a ref that is a number, a `message` that is an
object, a broadcast without an event. Each member is kept if it fits and converted to the nearest equivalent if not, so
that no frame raises an error or is lost.

`cut` and `restored` handle frames nested deeper than JSON decoders of Python allow, which PostgreSQL and the server
accept. Only the value that is too deep cannot be decoded, so it is cut out and the rest of the frame is decoded.
"""

import re
from typing import Any, Final, Protocol, cast

import msgspec
from msgspec import Raw, Struct

from supawire.core import binary, frames
from supawire.core.frames import Frame
from supawire.errors import RemoteProtocolError
from supawire.events import NULL, ChangeData

DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Exceptions that decoding of arbitrary bytes can raise."""


class Meta(Struct, gc=False):
    """`meta` of a broadcast that the server has stored."""

    id: str | None = None
    replayed: bool = False


class Payload(Struct, gc=False):
    """The members of all server events in one struct, so that one pass decodes any event."""

    event: str | None = None
    payload: Any = None
    meta: Meta | None = None
    ids: tuple[int, ...] = ()
    data: ChangeData | None = None
    joins: Raw = NULL
    leaves: Raw = NULL
    status: str = ""
    response: Raw = NULL
    extension: str = ""
    message: str = ""


class Typed(Protocol):
    """A decoded text frame of either version."""

    join_ref: str | None
    ref: str | None
    topic: str
    event: str
    payload: Payload


class ArrayFrame(Struct, array_like=True, gc=False):
    """A frame of version 2.0.0. More than five elements are allowed and ignored."""

    join_ref: str | None
    ref: str | None
    topic: str
    event: str
    payload: Payload


class ObjectFrame(Struct, gc=False):
    """A frame of version 1.0.0. The server never sends `join_ref`."""

    topic: str
    event: str
    payload: Payload
    ref: str | None = None
    join_ref: str | None = None


class Unread(Struct, gc=False):
    """A broadcast with its payload undecoded."""

    event: str | None = None
    payload: Raw = NULL
    meta: Meta | None = None


class _UnreadArray(Struct, array_like=True, gc=False):
    join_ref: str | None
    ref: str | None
    topic: str
    event: str
    payload: Unread


class _UnreadObject(Struct, gc=False):
    topic: str
    event: str
    payload: Unread
    ref: str | None = None
    join_ref: str | None = None


class _RawArray(Struct, array_like=True, gc=False):
    join_ref: str | None
    ref: str | None
    topic: str
    event: str
    payload: Raw


class _RawObject(Struct, gc=False):
    topic: str
    event: str
    payload: Raw
    ref: str | None = None
    join_ref: str | None = None


_encoder: Final = msgspec.json.Encoder()
_json: Final = msgspec.json.Decoder()
_meta: Final = msgspec.json.Decoder(Meta)
_encode = _encoder.encode


def encode_json(value: Any) -> bytes:
    """Encode a value that is known to be valid JSON."""
    return _encode(value)


class Codec:
    """Client side of one wire version. Each version is a subclass that defines only its shapes."""

    version: str
    decode: msgspec.json.Decoder[Any]
    """Decoder of a text frame into `Typed`; raises one of `DECODE_ERRORS` if the frame does not fit."""
    decode_raw: msgspec.json.Decoder[Any]
    """The same with the whole payload undecoded."""
    decode_unread: msgspec.json.Decoder[Any]
    """The same for a broadcast, with only the user's payload undecoded."""

    def parts(self, value: Any) -> Frame | None:
        """Return the frame in a plain JSON value, or None if it is not a frame."""
        raise NotImplementedError

    def encode(self, join_ref: str | None, ref: str | None, topic: str, event: str, payload: Any) -> bytes:
        """Encode a text frame; `payload` may contain `Raw` parts."""
        raise NotImplementedError

    def encode_broadcast(
        self, join_ref: str, ref: str, topic: str, event: str, payload: bytes, *, json: bool, metadata: bytes = b""
    ) -> tuple[bytes, bool]:
        """Encode a user's broadcast. Return the frame, and whether it is binary."""
        raise NotImplementedError

    def plain(self, data: bytes) -> Frame:
        """Decode any text frame into plain JSON. Raises `RemoteProtocolError` if it is not a frame."""
        try:
            value = _json.decode(data)
        except DECODE_ERRORS as error:
            raise RemoteProtocolError(f"a text frame is not JSON: {error}") from error
        frame = self.parts(value)
        if frame is None:
            raise RemoteProtocolError(f"a text frame does not have the form of version {self.version}")
        return frame


class ArrayCodec(Codec):
    """Version 2.0.0: `[join_ref, ref, topic, event, payload]`, with broadcasts in binary frames."""

    version = frames.V2
    decode: msgspec.json.Decoder[Any] = msgspec.json.Decoder(ArrayFrame)
    decode_raw: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_RawArray)
    decode_unread: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_UnreadArray)

    def parts(self, value: Any) -> Frame | None:
        match value:
            case [join_ref, ref, str(topic), str(event), payload, *_]:
                return Frame(_ref(join_ref), _ref(ref), topic, event, payload)
            case _:
                return None

    def encode(self, join_ref: str | None, ref: str | None, topic: str, event: str, payload: Any) -> bytes:
        return _encode((join_ref, ref, topic, event, payload))

    def encode_broadcast(
        self, join_ref: str, ref: str, topic: str, event: str, payload: bytes, *, json: bool, metadata: bytes = b""
    ) -> tuple[bytes, bool]:
        fields = join_ref.encode(), ref.encode(), topic.encode(), event.encode()
        if metadata:
            return binary.pack(binary.USER_PUSH, *fields, metadata, payload=payload, json=json), True
        return binary.user_push(*fields, payload, json=json), True


class ObjectCodec(Codec):
    """Version 1.0.0: objects, without binary payloads."""

    version = frames.V1
    decode: msgspec.json.Decoder[Any] = msgspec.json.Decoder(ObjectFrame)
    decode_raw: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_RawObject)
    decode_unread: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_UnreadObject)

    def parts(self, value: Any) -> Frame | None:
        match value:
            case {"topic": str(topic), "event": str(event)}:
                refs = _ref(value.get("join_ref")), _ref(value.get("ref"))
                return Frame(*refs, topic, event, value.get("payload"))
            case _:
                return None

    def encode(self, join_ref: str | None, ref: str | None, topic: str, event: str, payload: Any) -> bytes:
        return _encode({"topic": topic, "event": event, "payload": payload, "ref": ref, "join_ref": join_ref})

    def encode_broadcast(
        self, join_ref: str, ref: str, topic: str, event: str, payload: bytes, *, json: bool, metadata: bytes = b""
    ) -> tuple[bytes, bool]:
        if metadata:
            raise ValueError("version 1.0.0 has no metadata")
        if not json:
            raise ValueError("version 1.0.0 has no binary payloads")
        message = {"type": "broadcast", "event": event, "payload": Raw(payload)}
        return self.encode(join_ref, ref, topic, frames.BROADCAST, message), False


CODECS: Final[dict[str, Codec]] = {codec.version: codec for codec in (ArrayCodec(), ObjectCodec())}
"""The codecs by wire version."""


def decode_meta(metadata: bytes) -> Meta:
    """Decode the metadata of a binary broadcast. Unreadable metadata is ignored, so that the payload is delivered."""
    try:
        return _meta.decode(metadata)
    except DECODE_ERRORS:
        return Meta()


def _ref(value: Any) -> str | None:
    """Return a ref as a string. The server echoes our strings, but some proxies convert them to numbers."""
    return value if value is None or isinstance(value, str) else str(value)


_RAW_OF_DATA: Final = ("columns", "record", "old_record", "errors")


def decode_lenient(frame: Frame) -> Typed:
    """Convert a plain frame to its typed form."""
    return ArrayFrame(frame.join_ref, frame.ref, frame.topic, frame.event, _payload(frame.payload))


def members(value: object) -> dict[str, Any] | None:
    """Return the members of a JSON object, None for any other JSON value."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def items(value: object) -> list[Any]:
    """Return the items of a JSON array, an empty list for any other JSON value."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def _payload(given: Any) -> Payload:
    value = members(given)
    if value is None:
        return Payload(payload=given, response=_raw(given))
    return Payload(
        event=_text(value.get("event")),
        payload=value.get("payload"),
        meta=_lenient_meta(value.get("meta")),
        ids=_ids(value.get("ids")),
        data=_data(value.get("data")),
        joins=_raw(value.get("joins")),
        leaves=_raw(value.get("leaves")),
        status=_text(value.get("status")),
        response=_raw(value.get("response")),
        extension=_text(value.get("extension")),
        message=_text(value.get("message")),
    )


def _data(given: Any) -> ChangeData | None:
    value = members(given)
    if value is None:
        return None
    stamp = value.get("commit_timestamp")
    return ChangeData(
        schema=_text(value.get("schema")),
        table=_text(value.get("table")),
        type=_text(value.get("type")).upper(),
        commit_timestamp=stamp if isinstance(stamp, str) else None,
        **{name: _raw(value[name]) for name in _RAW_OF_DATA if name in value},
    )


def _lenient_meta(given: Any) -> Meta | None:
    value = members(given)
    if value is None:
        return None
    identity = value.get("id")
    return Meta(id=None if identity is None else _text(identity), replayed=value.get("replayed") is True)


def _ids(value: Any) -> tuple[int, ...]:
    return tuple(item for item in items(value) if isinstance(item, int))


def _text(value: Any) -> str:
    """Return a string unchanged and any other value as JSON text."""
    if value is None:
        return ""
    return value if isinstance(value, str) else encode_json(value).decode()


def _raw(value: Any) -> Raw:
    return NULL if value is None else Raw(encode_json(value))


def read(raw: Raw, default: Any = None) -> Any:
    """Decode an undecoded part into plain JSON; return `default` if it is unreadable."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return default


_DEEP: Final = 100
"""Minimum nesting depth of a value that is cut out: far below the limit of decoders, above that of normal values."""

_MARK: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)

PAYLOAD, ROW, META = 3, 4, 6
"""Nesting levels of a broadcast's payload, a change's row and the values of a presence meta, in both versions."""


def cut(data: bytes, level: int) -> tuple[bytes, list[bytes]]:
    """Replace each deep value on that level by a number (-1, -2, …). Return the frame and the values in order."""
    pieces: list[bytes] = []
    values: list[bytes] = []
    depth = start = deepest = kept = 0
    for mark in _MARK.finditer(data):
        sign = mark[0]
        if sign in b"[{":
            depth += 1
            if depth == level:
                start, deepest = mark.start(), depth
            deepest = max(deepest, depth)
        elif sign in b"]}":
            if depth == level and deepest - level >= _DEEP:
                values.append(data[start : mark.end()])
                pieces += [data[kept:start], b"-%d" % len(values)]
                kept = mark.end()
            depth -= 1
    return b"".join([*pieces, data[kept:]]), values


def restored(part: Raw, values: list[bytes]) -> Raw:
    """Return the value that this part of a frame stands for, or the part itself if it is not such a number."""
    text = bytes(part)
    if not text.startswith(b"-") or not text[1:].isdigit():
        return part
    number = int(text[1:6])
    return Raw(values[number - 1]) if 0 < number <= len(values) else part
