"""Frames and changes recorded since the page last fetched them, bounded; payloads are decoded only then.

Payloads are shown without tokens and are cut to a maximum length. A frame for many connections has the same `data`
object in all its effects (`effects.Send`) and becomes one line.
"""

from collections import deque
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Struct

from supawire._display import hide_tokens
from supawire.core import binary
from supawire.core.frames import ACCESS_TOKEN, BROADCAST, JOIN
from supawire.events import Instant
from supawire.server.recorder import redact
from supawire.server.wire import DECODE_ERRORS, decode, encode

MAX_SHOWN: Final = 4_000
"""Default maximum characters shown of a payload."""
MAX_DECODED: Final = 64_000
"""Maximum bytes of a payload that is decoded; of a longer one only the beginning is shown, unless it holds a token."""


def for_display(payload: bytes, *, json: bool = True, whole: bool = False, most: int = MAX_SHOWN) -> tuple[str, bool]:
    """Return a payload for display and whether it was cut. `whole`: decode it completely, regardless of its size."""
    if not json:
        head = payload[:64]
        return head.hex(" "), len(payload) > len(head)
    if whole or len(payload) <= MAX_DECODED:
        payload = _redacted(payload)
    head = payload[: 4 * most].decode(errors="replace")
    text = hide_tokens(head)
    return text[:most], len(text) > most or len(payload) > 4 * most


def _redacted(payload: bytes) -> bytes:
    try:
        return encode(redact(decode(payload)))
    except DECODE_ERRORS:  # not JSON: shown as received
        return payload


MAX_PENDING: Final = 500
"""Maximum lines that wait to be fetched; older ones are dropped and counted."""
LOOK_BACK: Final = 4
"""Number of recent lines searched for another copy of a frame: one of each version, and their neighbors."""
MAX_CONNECTIONS: Final = 12
"""Maximum number of connections listed for one frame."""


class FrameLine(Struct, frozen=True):
    """A frame for display. `payload` is JSON text, or the beginning of raw bytes in hexadecimal."""

    at: float
    out: bool
    connections: list[int]
    receivers: int
    topic: str
    event: str
    user_event: str
    ref: str
    size: int
    binary: bool
    payload: str
    cut: bool


class ChangeLine(Struct, frozen=True):
    """A row change and the number of channels it was sent to; rows are JSON text."""

    at: float
    type: str
    table: str
    record: str
    old_record: str
    errors: str
    receivers: int


class News(Struct, frozen=True):
    """The lines since the last fetch, oldest first, and the number of dropped lines."""

    frames: list[FrameLine]
    changes: list[ChangeLine]
    missed: int


class _RecordedFrame:
    __slots__ = ("at", "binary", "connections", "data", "out", "receivers")

    def __init__(self, at: float, out: bool, connection: int, data: bytes, is_binary: bool) -> None:
        self.at = at
        self.out = out
        self.connections = [connection]
        self.receivers = 1
        self.data = data
        self.binary = is_binary


class _RecordedChange:
    __slots__ = ("at", "data", "receivers")

    def __init__(self, at: float, data: bytes, receivers: int) -> None:
        self.at = at
        self.data = data
        self.receivers = receivers


class Journal:
    """The recorded lines for one page."""

    def __init__(self) -> None:
        self._frames: deque[_RecordedFrame] = deque()
        self._changes: deque[_RecordedChange] = deque()
        self._missed = 0

    # --- inputs

    def frame_received(self, connection: int, data: bytes, is_binary: bool, now: Instant) -> None:
        """Record a frame from a client."""
        self._add(_RecordedFrame(now.wall, False, connection, data, is_binary))

    def frame_sent(self, connection: int, data: bytes, is_binary: bool, now: Instant) -> None:
        """Record a frame to a client."""
        for line in islice(reversed(self._frames), LOOK_BACK):
            if line.data is data and line.out:
                line.receivers += 1
                if len(line.connections) < MAX_CONNECTIONS:
                    line.connections.append(connection)
                return
        self._add(_RecordedFrame(now.wall, True, connection, data, is_binary))

    def _add(self, line: _RecordedFrame) -> None:
        self._frames.append(line)
        if len(self._frames) > MAX_PENDING:
            self._frames.popleft()
            self._missed += 1

    def changed(self, data: bytes, receivers: int, now: Instant) -> None:
        """Record a row change and the number of channels it was sent to."""
        for line in islice(reversed(self._changes), LOOK_BACK):
            if line.data == data:
                line.receivers += receivers
                return
        self._changes.append(_RecordedChange(now.wall, data, receivers))
        if len(self._changes) > MAX_PENDING:
            self._changes.popleft()
            self._missed += 1

    def clear_frames(self) -> None:
        """Remove the recorded frames."""
        self._frames.clear()

    # --- output

    def take(self) -> News:
        """Return and remove all recorded lines."""
        news = News(
            [_frame_line(line) for line in self._frames], [_change_line(line) for line in self._changes], self._missed
        )
        self._frames.clear()
        self._changes.clear()
        self._missed = 0
        return news


class _Parts(Struct):
    topic: str = ""
    event: str = ""
    payload: bytes = b""
    json: bool = True
    ref: str = ""
    user_event: str = ""


def _frame_line(line: _RecordedFrame) -> FrameLine:
    try:
        parts = _binary(line.data, line.out) if line.binary else _text(line.data)
    except DECODE_ERRORS:
        parts = _Parts(event="unreadable", payload=line.data, json=not line.binary)
    secret = parts.event in (JOIN, ACCESS_TOKEN)
    payload, cut = for_display(parts.payload, json=parts.json, whole=secret)
    user_event = parts.user_event or _user_event(parts)
    numbers = line.connections
    return FrameLine(
        *(line.at, line.out, numbers, line.receivers, parts.topic, parts.event, user_event, parts.ref),
        *(len(line.data), line.binary, payload, cut),
    )


def _text(data: bytes) -> _Parts:
    if data.lstrip()[:1] == b"{":
        frame = _object.decode(data)
        return _Parts(_name(frame.topic), _name(frame.event), bytes(frame.payload), ref=_name(frame.ref))
    array = _array.decode(data)
    return _Parts(_name(array.topic), _name(array.event), bytes(array.payload), ref=_name(array.ref))


class _FrameObject(Struct, gc=False):
    topic: Any
    event: Any
    payload: msgspec.Raw = msgspec.Raw(b"null")
    ref: Any = None


class _FrameArray(Struct, array_like=True, gc=False):
    join_ref: Any
    ref: Any
    topic: Any
    event: Any
    payload: msgspec.Raw


_object: Final = msgspec.json.Decoder(_FrameObject)
_array: Final = msgspec.json.Decoder(_FrameArray)


def _name(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _binary(data: bytes, out: bool) -> _Parts:
    frame = binary.unpack(binary.DOWN if out else binary.UP, data)
    fields = {
        name: value.decode(errors="replace") for name, value in zip(frame.layout.fields, frame.fields, strict=True)
    }
    ref, topic, event = fields.get("ref", ""), fields["topic"], fields.get("event", fields.get("status", ""))
    if frame.layout in (binary.USER_PUSH, binary.USER_BROADCAST):
        return _Parts(topic, BROADCAST, frame.payload, frame.json, ref, event)
    return _Parts(topic, event, frame.payload, False, ref)


def _user_event(parts: _Parts) -> str:
    if parts.event != BROADCAST or not parts.json or len(parts.payload) > MAX_DECODED:
        return ""
    try:
        return _inner.decode(parts.payload).event
    except DECODE_ERRORS:
        return ""


class _Inner(Struct):
    event: str = ""


_inner: Final = msgspec.json.Decoder(_Inner)


def _change_line(line: _RecordedChange) -> ChangeLine:
    try:
        data: dict[str, Any] = decode(line.data)
    except DECODE_ERRORS:  # values may be nested too deeply for the decoder
        return ChangeLine(line.at, "unreadable", "", for_display(line.data)[0], "", "", line.receivers)
    errors: list[str] | None = data.get("errors")
    rows = {
        name: for_display(encode(data[name]), json=True)[0] if name in data else "" for name in ("record", "old_record")
    }
    table = f"{data['schema']}.{data['table']}"
    return ChangeLine(
        line.at, data["type"], table, rows["record"], rows["old_record"], "; ".join(errors or ()), line.receivers
    )
