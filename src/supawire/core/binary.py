"""The binary frames of version 2.0.0, in both directions. See docs/protocol.md, Binary frames.

A frame consists of the kind, one length byte per header field, for kinds 3 and 4 one byte with the payload encoding,
the fields, and the payload. Each kind is one `BinaryLayout`; no other code contains offsets.
"""

from itertools import accumulate, pairwise
from typing import Final, NamedTuple

from msgspec import Struct

from supawire.core.frames import MAX_NAME


class BinaryLayout(Struct, frozen=True):
    """Layout of one kind of binary frame."""

    kind: int
    fields: tuple[str, ...]
    encoded: bool = False
    """Whether a byte after the lengths gives the payload encoding: raw (0) or JSON (1)."""

    @property
    def header(self) -> int:
        """Number of bytes before the first field."""
        return 1 + len(self.fields) + self.encoded


PUSH_UP: Final = BinaryLayout(0, ("join_ref", "ref", "topic", "event"))
PUSH_DOWN: Final = BinaryLayout(0, ("join_ref", "topic", "event"))
REPLY: Final = BinaryLayout(1, ("join_ref", "ref", "topic", "status"))
BROADCAST: Final = BinaryLayout(2, ("topic", "event"))
USER_PUSH: Final = BinaryLayout(3, ("join_ref", "ref", "topic", "event", "metadata"), encoded=True)
USER_BROADCAST: Final = BinaryLayout(4, ("topic", "event", "metadata"), encoded=True)

UP: Final = {layout.kind: layout for layout in (PUSH_UP, USER_PUSH)}
"""Frames that a client may send, by kind."""

DOWN: Final = {layout.kind: layout for layout in (PUSH_DOWN, REPLY, BROADCAST, USER_BROADCAST)}
"""Frames that a server may send, by kind."""


class Unpacked(NamedTuple):
    """The parts of a binary frame; `fields` are in the order of its layout."""

    layout: BinaryLayout
    fields: tuple[bytes, ...]
    json: bool
    payload: bytes


def pack(layout: BinaryLayout, *fields: bytes, payload: bytes, json: bool = False) -> bytes:
    """Encode a frame. Raises ValueError for a field over 255 bytes or a wrong number of fields."""
    if len(fields) != len(layout.fields):
        raise ValueError(f"kind {layout.kind} has the fields {', '.join(layout.fields)}, got {len(fields)}")
    for name, field in zip(layout.fields, fields, strict=True):
        if len(field) > MAX_NAME:
            raise ValueError(f"{name} has {len(field)} bytes; a binary frame holds at most {MAX_NAME}")
    encoding = (json,) if layout.encoded else ()
    return b"".join((bytes((layout.kind, *map(len, fields), *encoding)), *fields, payload))


def user_push(join_ref: bytes, ref: bytes, topic: bytes, event: bytes, payload: bytes, *, json: bool) -> bytes:
    """Encode a broadcast without metadata like `pack`, but three times as fast: it is the most common frame."""
    try:
        head = bytes((USER_PUSH.kind, len(join_ref), len(ref), len(topic), len(event), 0, json))
    except ValueError:
        return pack(USER_PUSH, join_ref, ref, topic, event, b"", payload=payload, json=json)  # raises, naming the field
    return b"".join((head, join_ref, ref, topic, event, payload))


def unpack(layouts: dict[int, BinaryLayout], data: bytes) -> Unpacked:
    """Decode a frame of one direction. Raises ValueError for an unknown kind or a truncated frame."""
    layout = layouts.get(data[0]) if data else None
    if layout is None:
        raise ValueError(f"unknown kind of binary frame: {data[:1].hex() or 'empty frame'}")
    start, count = layout.header, len(layout.fields)
    ends = list(accumulate(data[1 : 1 + count], initial=start))
    if len(data) < max(start, ends[-1]):
        raise ValueError(f"a frame of kind {layout.kind} ends inside its header")
    fields = tuple(data[begin:end] for begin, end in pairwise(ends))
    json = layout.encoded and data[start - 1] != 0
    return Unpacked(layout, fields, json, data[ends[-1] :])
