"""Recording of the frames that clients sent, for tests; tokens are removed from the output."""

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from supawire._display import HIDDEN, hide_tokens
from supawire.core.frames import ACCESS_TOKEN, JOIN
from supawire.server.wire import DECODE_ERRORS, decode, is_list, is_object, read

MAX_FRAMES_KEPT: Final = 10_000
MAX_BYTES_KEPT: Final = 32_000_000
_SECRET_KEYS: Final = frozenset({"access_token", "user_token", "apikey"})


@dataclass(frozen=True, slots=True)
class ReceivedFrame:
    """A frame that a client sent. `payload` is decoded JSON, or bytes; `event` is the event of the frame.

    `user_event` is the event of a broadcast. A frame that could not be decoded has `event` None and its text as
    payload.
    """

    connection: int
    topic: Any
    event: str | None
    payload: Any
    ref: str | None = None
    join_ref: str | None = None
    user_event: str | None = None
    binary: bool = False


class Recorder:
    """The newest frames, bounded in number and bytes; decoded and redacted when they are read."""

    def __init__(self, max_frames: int = MAX_FRAMES_KEPT, max_bytes: int = MAX_BYTES_KEPT) -> None:
        self._max_frames: Final = max_frames
        self._max_bytes: Final = max_bytes
        self._frames: deque[tuple[int, bool, bytes, bool]] = deque()
        self._bytes = 0

    def record(self, connection: int, v2: bool, data: bytes, binary: bool) -> None:
        """Record one frame."""
        self._frames.append((connection, v2, data, binary))
        self._bytes += len(data)
        while len(self._frames) > self._max_frames or self._bytes > self._max_bytes:
            self._bytes -= len(self._frames.popleft()[2])

    def clear(self) -> None:
        """Remove all frames."""
        self._frames.clear()
        self._bytes = 0

    def frames(self) -> list[ReceivedFrame]:
        """Return the recorded frames, oldest first."""
        return [_decode_frame(*entry) for entry in self._frames]


def _decode_frame(connection: int, v2: bool, data: bytes, binary: bool) -> ReceivedFrame:
    push = read(v2, data, binary)
    if push is None:
        return ReceivedFrame(connection, None, None, _undecodable(data, binary), binary=binary)
    ref, join_ref = _ref(push.ref), _ref(push.join_ref)
    event = push.event if isinstance(push.event, str) else repr(push.event)
    if push.kind == 0 or (push.kind is not None and not push.json):
        payload: Any = push.payload
    else:
        payload = _value(push.payload)
    user_event = push.user_event.decode() if push.kind else _user_event(payload)
    if event in (JOIN, ACCESS_TOKEN):
        payload = redact(payload)
    return ReceivedFrame(connection, push.topic, event, payload, ref, join_ref, user_event, binary)


def _value(payload: bytes) -> Any:
    try:
        return decode(payload)
    except DECODE_ERRORS:
        return payload


def _undecodable(data: bytes, binary: bool) -> str | bytes:
    return data if binary else hide_tokens(data.decode(errors="replace"), any_parts=True)


def _ref(text: bytes) -> str | None:
    return None if text == b"null" else text.decode().strip('"')


def _user_event(payload: Any) -> str | None:
    event = payload.get("event") if is_object(payload) else None
    return event if isinstance(event, str) else None


def redact(value: Any) -> Any:
    """Return the value with tokens replaced at any depth."""
    if is_object(value):
        return {key: HIDDEN if key in _SECRET_KEYS and item else redact(item) for key, item in value.items()}
    if is_list(value):
        return [redact(item) for item in value]
    return value
