"""Recorded frames: decoding them, a file format for them, and passing recorded events to another client.

A file has one JSON object a line. The first one is the header, each other one a frame:

    {"format":"supawire recording","version":1,"recorded_at":"2026-01-02T03:04:05Z"}
    {"at":0.012,"connection":1,"direction":"in","text":"[null,null,\"realtime:room\",\"broadcast\",{...}]"}
    {"at":0.034,"connection":1,"direction":"in","binary":"BAQAAA..."}

`at` is seconds since the first frame, `binary` is base64. Tokens and keys are replaced by `***`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import IO, Any, Final, Literal, Self, TypeGuard, cast

import msgspec
from msgspec import UNSET, Raw, UnsetType

from supawire._display import hide_tokens
from supawire.aio.reporting import redact_frame
from supawire.core import binary, frames
from supawire.core.codec import CODECS
from supawire.core.frames import Frame
from supawire.errors import InvalidArgumentError, RemoteProtocolError

Direction = Literal["in", "out"]

_LAYOUTS: Final = {"out": binary.UP, "in": binary.DOWN}


@dataclass(frozen=True, slots=True)
class RecordedFrame:
    """A frame that the client sent (`direction` "out") or received ("in").

    connection: 1 for the first socket, 2 for the next. topic, event: those of the frame. payload: decoded JSON, or
    bytes; for a broadcast the sender's payload, and `user_event` its event. data: the frame itself. at: seconds since
    the first frame. Tokens are hidden in all of it. A frame that cannot be decoded has neither topic nor event, and its
    bytes as payload.
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
    at: float = 0.0

    @property
    def config(self) -> dict[str, Any]:
        """The `config` of a join."""
        config = self.payload.get("config") if is_object(self.payload) else None
        return config if is_object(config) else {}


def read(direction: Direction, connection: int, data: bytes, is_binary: bool, at: float = 0.0) -> RecordedFrame:
    """Decode a frame."""
    shown = redact_frame(data, binary=is_binary, secret=False)
    try:
        frame, user_event = _read_binary(direction, data) if is_binary else _read_text(shown)
    except (RemoteProtocolError, ValueError):
        return RecordedFrame(direction, connection, None, None, shown, binary=is_binary, data=shown, at=at)
    return RecordedFrame(
        direction, connection, frame.topic, frame.event, frame.payload, frame.ref, frame.join_ref, user_event,
        is_binary, shown, at,
    )  # fmt: skip


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Return whether this is a JSON object."""
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
        return data  # a plain Phoenix push may be binary too


# --- the file

FORMAT: Final = "supawire recording"
VERSION: Final = 1
MAX_FILE: Final = 200_000_000
"""Maximum bytes of a file that is read or written."""


class _Header(msgspec.Struct):
    format: str
    version: int
    recorded_at: datetime | None = None


class _Line(msgspec.Struct, omit_defaults=True):
    at: float
    connection: int
    direction: Direction
    text: str | UnsetType = UNSET
    binary: bytes | UnsetType = UNSET


_header: Final = msgspec.json.Decoder(_Header)
_line: Final = msgspec.json.Decoder(_Line)


@dataclass(frozen=True, slots=True)
class Recording:
    """Frames that were recorded, in order; `RecordingTransport.play` passes their events to another client.

    recorded_at: when the recording began.
    """

    frames: tuple[RecordedFrame, ...]
    recorded_at: datetime | None = None

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a file. Raises: InvalidArgumentError: it is not a recording, or of another version; OSError."""
        file = Path(path)
        if file.stat().st_size > MAX_FILE:
            raise InvalidArgumentError(f"{file} has more than {MAX_FILE:,} bytes, the maximum for a recording")
        with file.open("rb") as lines:
            header = _read_header(file, lines.readline())
            found = [_read_frame(file, number, line) for number, line in enumerate(lines, 2) if line.strip()]
        return cls(tuple(found), header.recorded_at)

    def save(self, path: str | PathLike[str]) -> None:
        """Write a file; an existing one is replaced. Raises: OSError."""
        with Path(path).open("wb") as file:
            writer = RecordingWriter(file, self.recorded_at or datetime.now(UTC))
            for frame in self.frames:
                writer.write(frame)

    @property
    def topics(self) -> dict[str, bool]:
        """The topics that were joined, without `realtime:`, and whether each was private."""
        joins = [frame for frame in self.frames if frame.direction == "out" and frame.event == frames.JOIN]
        return {str(join.topic).removeprefix(frames.PREFIX): join.config.get("private") is True for join in joins}


class RecordingWriter:
    """Writes a recording to an open file, frame by frame."""

    def __init__(self, file: IO[bytes], recorded_at: datetime) -> None:
        self._file: Final = file
        self.size: int = 0
        """Bytes written."""
        self._put(_Header(FORMAT, VERSION, recorded_at))

    def write(self, frame: RecordedFrame) -> None:
        """Write a frame, with tokens hidden."""
        data = _without_tokens(frame)
        line = _Line(round(frame.at, 6), frame.connection, frame.direction)
        if frame.binary:
            line.binary = data
        else:
            line.text = data.decode(errors="replace")
        self._put(line)

    def _put(self, line: msgspec.Struct) -> None:
        self.size += self._file.write(msgspec.json.encode(line) + b"\n")


def _read_header(file: Path, line: bytes) -> _Header:
    try:
        header = _header.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        header = None
    if header is None or header.format != FORMAT:
        raise InvalidArgumentError(f"{file} is not a recording of supawire", hint="supawire record makes one.")
    if header.version != VERSION:
        raise InvalidArgumentError(
            f"{file} is a recording of version {header.version}; this supawire reads version {VERSION}",
            hint="Use the version of supawire that made it, or record again.",
        )
    return header


def _read_frame(file: Path, number: int, line: bytes) -> RecordedFrame:
    try:
        found = _line.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgumentError(f"{file}, line {number}: {error}", hint="The file is damaged or cut off.") from error
    if isinstance(found.text, str):
        return read(found.direction, found.connection, found.text.encode(), False, found.at)
    data = found.binary if isinstance(found.binary, bytes) else b""
    return read(found.direction, found.connection, data, True, found.at)


def _without_tokens(frame: RecordedFrame) -> bytes:
    """Return the data of a frame, with everything that looks like a token or key hidden."""
    if not frame.binary:
        return hide_tokens(frame.data.decode(errors="replace")).encode()
    try:
        payload = binary.unpack(_LAYOUTS[frame.direction], frame.data).payload
    except ValueError:
        return frame.data
    text = payload.decode(errors="surrogateescape")
    return frame.data[: len(frame.data) - len(payload)] + hide_tokens(text).encode(errors="surrogateescape")


# --- passing recorded events on

PLAYED: Final = (frames.BROADCAST, frames.POSTGRES_CHANGES, frames.PRESENCE_STATE, frames.PRESENCE_DIFF)
"""Events of the server that are passed on; others belong to the connection of the recording."""

Binding = Mapping[str, Any]


class _RawFrame(msgspec.Struct):
    topic: str
    event: str
    payload: Raw = Raw(b"{}")


class _RawChange(msgspec.Struct):
    data: Raw
    ids: list[int] = []


class _ChangeHead(msgspec.Struct):
    schema: str = ""
    table: str = ""
    type: str = ""


_raw_array: Final = msgspec.json.Decoder(list[Raw])
_raw_object: Final = msgspec.json.Decoder(_RawFrame)
_raw_change: Final = msgspec.json.Decoder(_RawChange)
_change_head: Final = msgspec.json.Decoder(_ChangeHead)


def bindings_of(frame: RecordedFrame) -> list[Binding] | None:
    """Return the bindings of row changes, with their ids, in a reply to a join; None if the frame is none."""
    if frame.direction != "in" or frame.event != frames.REPLY or not is_object(frame.payload):
        return None
    response = frame.payload.get("response")
    bindings = response.get("postgres_changes") if is_object(response) else None
    return list(filter(is_object, cast("list[object]", bindings))) if isinstance(bindings, list) else None


def raw_payload(frame: RecordedFrame) -> Raw:
    """Return the payload of a text frame as received, so that numbers keep their digits."""
    if frame.data.lstrip()[:1] == b"[":
        return _raw_array.decode(frame.data)[4]
    return _raw_object.decode(frame.data).payload


def change_for(payload: Raw, recorded: Iterable[Binding], joined: Iterable[Binding]) -> dict[str, Any] | None:
    """Return a recorded change with the ids of other bindings, or None if none of them matches.

    recorded: the bindings of the recording; a binding with a filter matches only what an equal one has received.
    """
    try:
        change = _raw_change.decode(payload)
        head = _change_head.decode(change.data)
    except msgspec.ValidationError:  # not a row change; the client that received it skipped it too
        return None
    before = [binding for binding in recorded if binding.get("id") in change.ids]
    ids = [binding["id"] for binding in joined if "id" in binding and _matches(binding, head, before)]
    return {"ids": ids, "data": change.data} if ids else None


def _matches(binding: Binding, head: _ChangeHead, before: list[Binding]) -> bool:
    if binding.get("event") not in ("*", head.type):
        return False
    if binding.get("filter"):
        names = ("schema", "table", "filter")
        return any(all(binding.get(name) == other.get(name) for name in names) for other in before)
    return binding.get("schema") in ("*", head.schema) and binding.get("table", "*") in ("*", head.table)
