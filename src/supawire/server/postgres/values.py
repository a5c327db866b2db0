"""PostgreSQL's text of a value as the JSON that the real server sends for it (protocol §4.4).

There the JSON is made by the database, from the text that its decoder wrote. The same texts come out of `pgoutput`, so
that here each type has one function from text to JSON, found by the type's oid once for each column of a table. The
stream's session writes dates, intervals, floats and bytes in fixed styles (`replication.py`).

What looks odd is the real server's: `char(n)` and `bit(n)` are cut to their first character, since values are cast to
the type without its length; NaN and infinity are null, but strings within an array; bytea has no `\\x`, but for arrays.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeAlias, cast

import msgspec

from supawire._values.rows import read_array

Write: TypeAlias = Callable[[bytes], bytes]
"""PostgreSQL's text as JSON."""

NULL: Final = b"null"


@dataclass(frozen=True, slots=True)
class Type:
    """A type of the catalogue. name: as in pg_type; sql: as SQL names it, quoted and qualified where needed.

    kind: `b`ase, `c`omposite, `d`omain, `e`num, `p`seudo, `r`ange or `m`ultirange, as in pg_type; `j` for one with a
    cast to JSON of its own, such as hstore. item: for an array the oid of its items. base: for a domain the oid below
    it. fields: for a composite names and oids.
    """

    oid: int
    name: str
    sql: str
    kind: str = "b"
    item: int = 0
    delimiter: str = ","
    base: int = 0
    fields: tuple[tuple[str, int], ...] = ()

    @property
    def whole(self) -> str:
        """What a text is cast to so that it keeps its length: `character` alone means one of one letter."""
        return _LENGTHY.get(self.oid, self.sql)


_LENGTHY: Final = {1042: "pg_catalog.bpchar", 1560: 'pg_catalog."bit"'}


def string(text: bytes) -> bytes:
    """A JSON string."""
    return msgspec.json.encode(text.decode())


def _as_is(text: bytes) -> bytes:
    return text


def _bool(text: bytes) -> bytes:
    return b"true" if text == b"t" else b"false"


def _number(text: bytes) -> bytes:
    """Digits only, as jsonb keeps its numbers: no exponent, no minus before zero."""
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
    """`2024-01-02 03:04:05` with a T between date and time."""
    return b'"' + text.replace(b" ", b"T", 1) + b'"' if text[:1].isdigit() else string(text)


_ZONE: Final = re.compile(rb"[+-]\d\d(?::\d\d)*")


def _stamp_with_zone(text: bytes) -> bytes:
    """The same, and the zone with its minutes; the stream's is UTC."""
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
    """The first character, a blank for none: the cast to a type whose length is left out, and so is one."""
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
"""By name in pg_type; what is not here is a string of its text."""

_ALONE: Final[Mapping[str, Write]] = {
    "numeric": _number_or_null,
    "float4": _number_or_null,
    "float8": _number_or_null,
    "bytea": _bytes,
    "bpchar": _first,
    "bit": _first,
}
"""Types that are written otherwise when a column is of just this type."""

_CUT: Final[Mapping[str, Write]] = {"bpchar": _first, "bit": _first}
"""And those that stay so as items of a column that is an array of them."""


class Writers:
    """The function for each type of a catalogue, made when first wanted; types that are added later are found too."""

    def __init__(self, types: Mapping[int, Type]) -> None:
        self._types = types
        self._made: dict[int, Write] = {}
        self.cast: Final[dict[tuple[int, bytes], bytes]] = {}
        """JSON by type and text, for types that only PostgreSQL can cast (`asks`): to be filled in before writing."""

    def asks(self, oid: int) -> bool:
        """Whether PostgreSQL makes the JSON of this type: `json`, one with a cast of its own, or with such a part.

        PostgreSQL turns `json` into jsonb with its limits on digits, depth and characters, which the real server has.
        """
        whole = self._types[oid]
        parts = [part for part in (whole.item, whole.base, *(kind for _, kind in whole.fields)) if part]
        return asked(whole) or any(map(self.asks, parts))

    def of_column(self, oid: int) -> Write:
        """For a column of this type. Raises: KeyError for a type that the catalogue lacks."""
        write = self._made.get(oid)
        if write is None:
            write = self._looked_up(oid) if self.asks(oid) else self._of_column(self._types[oid])
            self._made[oid] = write
        return write

    def _looked_up(self, oid: int) -> Write:
        return lambda text: self.cast[oid, text]

    def _of_column(self, type: Type) -> Write:
        if type.item:
            item = self._types[type.item]
            return _array(_CUT[item.name], ",") if is_builtin(item) and item.name in _CUT else self._inside(type)
        return _ALONE[type.name] if is_builtin(type) and type.name in _ALONE else self._inside(type)

    def _inside(self, type: Type) -> Write:
        """For a value of this type within another one, where nothing is cut or made null."""
        if type.item:
            return _array(self._inside(self._types[type.item]), type.delimiter)
        if type.kind == "d":
            return self._inside(self._types[type.base])
        if type.kind == "c":
            return _composite([(name, self._inside(self._types[oid])) for name, oid in type.fields])
        return _WRITE.get(type.name, string) if is_builtin(type) else string


def is_builtin(type: Type) -> bool:
    """Whether this is a base type of PostgreSQL itself: a user's type may have any name."""
    return type.kind == "b" and type.oid < FIRST_OF_USERS


def asked(type: Type) -> bool:
    """Whether PostgreSQL is asked for the JSON of a value of just this type."""
    return type.kind == "j" or type.oid == JSON


JSON: Final = 114
FIRST_OF_USERS: Final = 16_384
"""Oids from here on are given to what users create."""


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
    """Boxes have commas of their own, so that their arrays are cut at semicolons; they never hold quotes."""
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
    """The fields of a composite value, such as `(1,"a b",)`; None for NULL, written as nothing. Raises: ValueError."""
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
