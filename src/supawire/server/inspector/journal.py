"""The lines of a page: entries of the history, decoded when the page fetches them.

Payloads are shown without tokens and are cut to a maximum length.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct

from supawire._display import hide_tokens
from supawire.core import binary
from supawire.core.frames import ACCESS_TOKEN, BROADCAST, ERROR, JOIN, REPLY, SYSTEM
from supawire.server.inspector.history import Entry, History, Kind
from supawire.server.recorder import redact
from supawire.server.wire import DECODE_ERRORS, decode, encode

MAX_SHOWN: Final = 4_000
"""Default maximum characters shown of a payload."""
MAX_BYTES_SHOWN: Final = 64
"""Default maximum bytes shown of a binary payload."""
UNREADABLE: Final = "unreadable"
MAX_DECODED: Final = 64_000
"""Maximum bytes of a payload that is decoded; of a longer one only the beginning is shown, unless it holds a token."""


def for_display(payload: bytes, *, json: bool = True, whole: bool = False, most: int = MAX_SHOWN) -> tuple[str, bool]:
    """Return a payload for display and whether it was cut. `whole`: decode it completely, regardless of its size."""
    if not json:
        head = payload[: MAX_BYTES_SHOWN if most <= MAX_SHOWN else most // 3]
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


MAX_LINES: Final = 500
"""Maximum lines that a page gets at once; older ones are dropped and counted."""
MAX_CONNECTIONS: Final = 12
"""Maximum number of connections listed for one frame."""
MAX_STATUS: Final = 100_000
"""Maximum bytes of a reply that is decoded for its status."""


class FrameLine(Struct, frozen=True):
    """A frame or an event of a connection for display. `payload` is text, or raw bytes in hexadecimal.

    `bad`: an error reply, a refused handshake, or a frame that cannot be read.
    """

    number: int
    at: float
    kind: Kind
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
    bad: bool = False


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


class Journal:
    """The lines of one page. It begins with what the history already has."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._next = max(history.first, history.next - MAX_LINES)
        self.frames = True
        """Whether the page wants frames; a paused page does not."""

    def skip(self) -> None:
        """Leave out everything that has happened until now."""
        self._next = self._history.next

    def take(self) -> News:
        """Return the new lines."""
        entries = self._history.since(self._next)
        missed = self._history.next - self._next - len(entries) + max(0, len(entries) - MAX_LINES)
        self._next = self._history.next
        frames: list[FrameLine] = []
        changes: list[ChangeLine] = []
        for entry in entries[-MAX_LINES:]:
            entry.seen = True
            if entry.kind is Kind.CHANGE:
                changes.append(_change_line(entry))
            elif self.frames:
                frames.append(frame_line(entry))
        return News(frames, changes, missed)


class Parts(Struct):
    """The parts of a frame. `payload`: JSON text, or raw bytes unless `json`."""

    topic: str = ""
    event: str = ""
    payload: bytes = b""
    json: bool = True
    ref: str = ""
    user_event: str = ""
    join_ref: str = ""
    status: str = ""
    """The status of a binary reply."""


def parts_of(entry: Entry) -> Parts:
    """Return the parts of a frame; one that cannot be read has the event `unreadable` and its bytes as payload."""
    try:
        return _binary(entry.data, entry.kind is Kind.OUT) if entry.binary else _text(entry.data)
    except DECODE_ERRORS:
        return Parts(event=UNREADABLE, payload=entry.data, json=not entry.binary)


def frame_line(entry: Entry, *, most: int = MAX_SHOWN, whole: bool = False) -> FrameLine:
    """Return the line of a frame or of an event of a connection. `whole`: decode also a very long payload."""
    if entry.kind not in (Kind.IN, Kind.OUT):
        return _connection_line(entry)
    parts = parts_of(entry)
    secret = parts.event in (JOIN, ACCESS_TOKEN)
    payload, cut = for_display(parts.payload, json=parts.json, whole=secret or whole, most=most)
    user_event = parts.user_event or _user_event(parts)
    return FrameLine(
        *(entry.number, entry.at, entry.kind, entry.connections[:MAX_CONNECTIONS], entry.receivers),
        *(parts.topic, parts.event, user_event, parts.ref, len(entry.data), entry.binary, payload, cut),
        bad=_is_bad(entry, parts),
    )


def _connection_line(entry: Entry) -> FrameLine:
    text = entry.data.decode(errors="replace")
    event, payload = {
        Kind.OPENED: ("connected", f"version {text}"),
        Kind.REFUSED: (f"refused with {entry.code}", text),
    }.get(entry.kind, ("disconnected", f"close code {entry.code}" if entry.code else "without a close code"))
    shown, cut = for_display(payload.encode())
    bad = entry.kind is Kind.REFUSED
    return FrameLine(
        *(entry.number, entry.at, entry.kind, entry.connections, 1, "", event, "", "", len(entry.data), False),
        *(shown, cut, bad),
    )


def _is_bad(entry: Entry, parts: Parts) -> bool:
    if parts.event in (UNREADABLE, ERROR):
        return True
    if entry.kind is Kind.OUT and parts.event in (REPLY, SYSTEM):
        return status_of(parts) not in ("", "ok")
    return False


def status_of(parts: Parts) -> str:
    """Return the status of a reply or of a system message; empty if it has none."""
    if parts.status:
        return parts.status
    if not parts.json or len(parts.payload) > MAX_STATUS:
        return ""
    try:
        return _status.decode(parts.payload).status
    except DECODE_ERRORS:
        return ""


class _Status(Struct):
    status: str = ""


_status: Final = msgspec.json.Decoder(_Status)


def _text(data: bytes) -> Parts:
    if data.lstrip()[:1] == b"{":
        frame = _object.decode(data)
        return Parts(
            _name(frame.topic), _name(frame.event), bytes(frame.payload), ref=_name(frame.ref),
            join_ref=_name(frame.join_ref),
        )  # fmt: skip
    array = _array.decode(data)
    return Parts(
        _name(array.topic), _name(array.event), bytes(array.payload), ref=_name(array.ref),
        join_ref=_name(array.join_ref),
    )  # fmt: skip


class _FrameObject(Struct, gc=False):
    topic: Any
    event: Any
    payload: msgspec.Raw = msgspec.Raw(b"null")
    ref: Any = None
    join_ref: Any = None


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


def _binary(data: bytes, out: bool) -> Parts:
    frame = binary.unpack(binary.DOWN if out else binary.UP, data)
    fields = {
        name: value.decode(errors="replace") for name, value in zip(frame.layout.fields, frame.fields, strict=True)
    }
    ref, topic, event = fields.get("ref", ""), fields["topic"], fields.get("event", REPLY)
    join_ref, status = fields.get("join_ref", ""), fields.get("status", "")
    if frame.layout in (binary.USER_PUSH, binary.USER_BROADCAST):
        return Parts(topic, BROADCAST, frame.payload, frame.json, ref, event, join_ref)
    return Parts(topic, event, frame.payload, False, ref, "", join_ref, status)


def _user_event(parts: Parts) -> str:
    if parts.event != BROADCAST or not parts.json or len(parts.payload) > MAX_DECODED:
        return ""
    try:
        return _inner.decode(parts.payload).event
    except DECODE_ERRORS:
        return ""


class _Inner(Struct):
    event: str = ""


_inner: Final = msgspec.json.Decoder(_Inner)


def _change_line(line: Entry) -> ChangeLine:
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
