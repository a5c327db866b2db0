"""Frames that nest deeper than JSON decoders of Python go, which PostgreSQL and the server do not mind.

Only the value that is so deep cannot be read, so it is cut out, and the rest of the frame is read without it.
"""

import re
from typing import Final

from msgspec import Raw

_DEEP: Final = 100
"""Levels of a value that is cut out: far fewer than any decoder reads, and more than others have."""

_MARK: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)

PAYLOAD, ROW, META = 3, 4, 6
"""The level of a broadcast's payload, of a change's row, and of what is in a presence's meta; of both versions."""


def cut(data: bytes, level: int) -> tuple[bytes, list[bytes]]:
    """The frame with each deep value on that level replaced by a number, -1 and so on, and these values in order."""
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
    """A part of the frame, and for a number that stands for a value that value."""
    text = bytes(part)
    if not text.startswith(b"-") or not text[1:].isdigit():
        return part
    number = int(text[1:6])
    return Raw(values[number - 1]) if 0 < number <= len(values) else part
