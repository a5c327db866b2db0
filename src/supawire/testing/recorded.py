"""One frame as a test looks at it: decoded, whichever version and direction, without tokens."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeGuard

import msgspec

from supawire.aio.wiretap import redact
from supawire.core import binary, frames
from supawire.core.codec import CODECS
from supawire.core.frames import Frame
from supawire.errors import RemoteProtocolError

Direction = Literal["in", "out"]

_LAYOUTS: Final = {"out": binary.UP, "in": binary.DOWN}


@dataclass(frozen=True, slots=True)
class RecordedFrame:
    """A frame that the client wrote (`direction` "out") or got ("in").

    connection: 1 for the first socket, 2 for the next. topic, event: the wire's. payload: decoded JSON, or bytes; of a
    broadcast what its sender gave, and `user_event` its event. data: the frame itself. Tokens are hidden in all of it.
    A frame that cannot be read has no topic and no event, and its bytes as payload.
    """

    direction: Direction
    connection: int
    topic: str | None
    event: str | None
    payload: Any
    ref: str | None = None
    join_ref: str | None = None
    user_event: str | None = None
    binary: bool = False
    data: bytes = field(default=b"", repr=False)

    @property
    def config(self) -> dict[str, Any]:
        """What a join asks for."""
        config = self.payload.get("config") if is_object(self.payload) else None
        return config if is_object(config) else {}


def read(direction: Direction, connection: int, data: bytes, is_binary: bool) -> RecordedFrame:
    """The frame that these bytes are."""
    shown = redact(data, binary=is_binary, secret=False)
    try:
        frame, user_event = _read_binary(direction, data) if is_binary else _read_text(shown)
    except (RemoteProtocolError, ValueError):
        return RecordedFrame(direction, connection, None, None, shown, binary=is_binary, data=shown)
    return RecordedFrame(
        direction, connection, frame.topic, frame.event, frame.payload, frame.ref, frame.join_ref, user_event,
        is_binary, shown,
    )  # fmt: skip


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether this is a JSON object."""
    return isinstance(value, dict)


def _read_text(data: bytes) -> tuple[Frame, str | None]:
    codec = CODECS[frames.V2 if data.lstrip()[:1] == b"[" else frames.V1]
    frame = codec.plain(data)
    if frame.event == frames.BROADCAST and is_object(frame.payload) and "event" in frame.payload:
        return frame._replace(payload=frame.payload.get("payload")), str(frame.payload["event"])
    return frame, None


def _read_binary(direction: str, data: bytes) -> tuple[Frame, str | None]:
    found = binary.unpack(_LAYOUTS[direction], data)
    parts = dict(zip(found.layout.fields, (part.decode() for part in found.fields), strict=True))
    payload: Any = found.payload
    if found.json or found.layout in (binary.PUSH_UP, binary.PUSH_DOWN, binary.REPLY, binary.BROADCAST):
        payload = _json(found.payload)
    event, user_event = parts.get("event", frames.REPLY), None
    if found.layout in (binary.USER_PUSH, binary.USER_BROADCAST):
        event, user_event = frames.BROADCAST, event
    if found.layout is binary.REPLY:
        payload = {"status": parts["status"], "response": payload}
    return Frame(parts.get("join_ref"), parts.get("ref"), parts["topic"], event, payload), user_event


def _json(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return data  # what phoenix pushes may be raw too
