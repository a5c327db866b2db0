"""Convert PostgreSQL's text of a value to the JSON that the real server sends for it.

On the real server the database produces the JSON from the text that its decoder wrote. `pgoutput` gives the same texts,
so each type has one function from text to JSON here, looked up by the type's oid once per column of a table. The stream
uses fixed formats for dates, intervals, floats and bytes (`replication.py`).

Some results look wrong but are the real server's: `char(n)` and `bit(n)` are cut to their first character, since values
are cast to the type without its length; NaN and infinity become null, but strings within an array; bytea has no `\\x`,
except in arrays. See docs/protocol.md, Value types.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final, TypeAlias, cast

import msgspec

from supawire._values.rows import read_array
from supawire.server.postgres.catalog import Type, is_builtin

Write: TypeAlias = Callable[[bytes], bytes]
"""Converts PostgreSQL's text to JSON."""

NULL: Final = b"null"


def string(text: bytes) -> bytes:
    """Encode a text as a JSON string."""
    return msgspec.json.encode(text.decode())


def _as_is(text: bytes) -> bytes:
    return text


def _bool(text: bytes) -> bytes:
    return b"true" if text == b"t" else b"false"


def _number(text: bytes) -> bytes:
    """Normalize a number like jsonb: no exponent, no minus sign before zero."""
    if text.isdigit():
        return text
    value = Decimal(text.decode())
    if not value.is_finite():
        return string(text)
    return format(abs(value) if value.is_zero() else value, "f").encode()


def _number_or_null(text: bytes) -> bytes:
    return NULL if text in _NOT_FINITE else _number(text)


_NOT_FINITE: Final = frozenset({b"NaN", b"Infinity", b"-Infinity"})


def _stamp(text: bytes) -> bytes:
    """Put a T between date and time: `2024-01-02T03:04:05`."""
    return b'"' + text.replace(b" ", b"T", 1) + b'"' if text[:1].isdigit() else string(text)


_ZONE: Final = re.compile(rb"[+-]\d\d(?::\d\d)*")


def _stamp_with_zone(text: bytes) -> bytes:
    """Format a time with zone; the zone, always UTC in the stream, gets its minutes."""
    if text.endswith(b"+00") and text[:1].isdigit():
        return b'"' + text.replace(b" ", b"T", 1) + b':00"'
    found = _ZONE.search(text, 11)
    if not text[:1].isdigit() or found is None:
        return string(text)
    minutes = b"" if b":" in found[0] else b":00"
    return _stamp(text[: found.end()] + minutes + text[found.end() :])


def _bytes(text: bytes) -> bytes:
    return b'"' + text.removeprefix(b"\\x") + b'"'


def _first(text: bytes) -> bytes:
    """Return the first character, a blank if empty: the result of a cast to a type of the default length 1."""
    return string((text.decode()[:1] or " ").encode())


_WRITE: Final[Mapping[str, Write]] = {
    **dict.fromkeys(("int2", "int4", "int8", "oid"), _as_is),
    "bool": _bool,
    "numeric": _number,
    "float4": _number,
    "float8": _number,
    "timestamp": _stamp,
    "timestamptz": _stamp_with_zone,
    "jsonb": _as_is,
}
"""By name in pg_type; all other types are encoded as strings."""

_ALONE: Final[Mapping[str, Write]] = {
    "numeric": _number_or_null,
    "float4": _number_or_null,
    "float8": _number_or_null,
    "bytea": _bytes,
    "bpchar": _first,
    "bit": _first,
}
"""Types that are encoded differently when they are the type of the column itself."""

_CUT: Final[Mapping[str, Write]] = {"bpchar": _first, "bit": _first}
"""Types that are also encoded this way as items of an array column."""


class Writers:
    """The encoders of a catalog's types, created on demand; types added later are included."""

    def __init__(self, types: Mapping[int, Type]) -> None:
        self._types = types
        self._made: dict[int, Write] = {}
        self.computed: Final[dict[tuple[int, bytes], bytes]] = {}
        """JSON by type and text, for types that only PostgreSQL can cast (`computes`); filled before encoding."""

    def computes(self, oid: int) -> bool:
        """Return whether PostgreSQL computes the JSON of this type: `json`, one with its own cast, or containing one.

        PostgreSQL converts `json` to jsonb with limits on digits, depth and characters, which the real server has too.
        """
        whole = self._types[oid]
        parts = [part for part in (whole.item, whole.base, *(kind for _, kind in whole.fields)) if part]
        return is_computed(whole) or any(map(self.computes, parts))

    def of_column(self, oid: int) -> Write:
        """Return the encoder for a column of this type. Raises: KeyError for a type that is not in the catalog."""
        write = self._made.get(oid)
        if write is None:
            write = self._precomputed(oid) if self.computes(oid) else self._of_column(self._types[oid])
            self._made[oid] = write
        return write

    def _precomputed(self, oid: int) -> Write:
        return lambda text: self.computed[oid, text]

    def _of_column(self, type: Type) -> Write:
        if type.item:
            item = self._types[type.item]
            return _array(_CUT[item.name], ",") if is_builtin(item) and item.name in _CUT else self._inside(type)
        return _ALONE[type.name] if is_builtin(type) and type.name in _ALONE else self._inside(type)

    def _inside(self, type: Type) -> Write:
        """Return the encoder for a value inside another one, where nothing is truncated or replaced by null."""
        if type.item:
            return _array(self._inside(self._types[type.item]), type.delimiter)
        if type.kind == "d":
            return self._inside(self._types[type.base])
        if type.kind == "c":
            return _composite([(name, self._inside(self._types[oid])) for name, oid in type.fields])
        return _WRITE.get(type.name, string) if is_builtin(type) else string


def is_computed(type: Type) -> bool:
    """Return whether PostgreSQL computes the JSON of values of this type itself."""
    return type.kind == "j" or type.oid == JSON


JSON: Final = 114


def _array(write: Write, delimiter: str) -> Write:
    def written(text: bytes) -> bytes:
        words = text.decode()
        return _list(read_array(words if delimiter == "," else _with_commas(words)), write)

    return written


def _list(items: list[Any], write: Write) -> bytes:
    return b"[" + b", ".join(_item(item, write) for item in items) + b"]"


def _item(item: Any, write: Write) -> bytes:
    if item is None:
        return NULL
    return _list(cast("list[Any]", item), write) if isinstance(item, list) else write(item.encode())


def _with_commas(text: str) -> str:
    """Rewrite an array of boxes, separated by semicolons because boxes contain commas, as one of quoted items."""
    return re.sub(r"[^{};]+", lambda found: f'"{found[0]}"', text).replace(";", ",")


def _composite(fields: list[tuple[str, Write]]) -> Write:
    names = [msgspec.json.encode(name) for name, _ in fields]
    if not fields:
        return lambda text: b"{}"

    def written(text: bytes) -> bytes:
        values = read_record(text.decode())
        parts = [
            name + b": " + (NULL if value is None else write(value.encode()))
            for name, (_, write), value in zip(names, fields, values, strict=True)
        ]
        return b"{" + b", ".join(parts) + b"}"

    return written


_FIELD: Final = re.compile(r'(?:"(?:[^"\\]|\\.|"")*"|[^",()\\]|\\.)*', re.DOTALL)
_PIECE: Final = re.compile(r'"((?:[^"\\]|\\.|"")*)"|\\(.)|([^"\\]+)', re.DOTALL)
_ESCAPE: Final = re.compile(r'\\(.)|""', re.DOTALL)


def read_record(text: str) -> list[str | None]:
    """Parse a composite value, such as `(1,"a b",)`, into its fields; None for NULL. Raises: ValueError."""
    if not (text.startswith("(") and text.endswith(")")):
        raise ValueError("malformed record literal")
    fields: list[str | None] = []
    at = 0
    while at < len(text) - 1:
        found = _FIELD.match(text, at + 1)
        if found is None or text[found.end() : found.end() + 1] not in {",", ")"}:
            raise ValueError("malformed record literal")
        fields.append(_PIECE.sub(_unquoted, found[0]) if found[0] else None)
        at = found.end()
    return fields


def _unquoted(found: re.Match[str]) -> str:
    quoted, escaped, plain = found.groups()
    if quoted is not None:
        return _ESCAPE.sub(lambda one: one[1] or '"', quoted)
    return escaped or plain
