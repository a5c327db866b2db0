"""Rows as Python values, by the column types that the server sends with them (protocol §4.4).

One decoder is made per list of columns and kept. It decodes a row in one typed pass; what does not fit that pass (a
missing column, an infinite date, a server that sends everything as text) is decoded again, column by column, and what
still does not fit stays as it was sent. The way back, for the local server, is `_towire`.

| PostgreSQL | Python |
| --- | --- |
| int2, int4, int8, oid | `int`, exact |
| numeric | `Decimal`, with its scale |
| float4, float8 | `float`; the server sends NaN and Infinity as null |
| bool | `bool` |
| text, varchar, char, name | `str` |
| timestamptz, timestamp | `datetime`, aware and naive, with microseconds |
| date, time, timetz | `date`, `time` |
| uuid | `UUID` |
| bytea | `bytes` |
| arrays | lists of these |
| json, jsonb | as they are: integers exact, other numbers `float`; `Decimal` beyond the range of these |
| everything else: enums, ranges, interval, inet, money, … | as sent, nearly always text |
| numbers in it: domains and composites | exact: `int`, and `Decimal` for what is not whole |
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Set
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any, Final, NoReturn, cast

import msgspec

from supawire._rowtypes import TYPES, RowType, read_array
from supawire._towire import infer_columns, to_wire
from supawire.errors import RowError

__all__ = ["Column", "decode_columns", "decode_row", "infer_columns", "to_wire", "unsent_columns"]

_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, ArithmeticError)
_KEPT: Final = 256
_LONGEST_KEPT: Final = 64_000
"""Bytes of a list of columns whose plan is kept for later."""
_MOST_COLUMNS: Final = 1600
"""Of a table in PostgreSQL."""
_NOTHING: Final[Set[str]] = frozenset()
_LONGEST_INT: Final = 4000  # Python refuses to read longer ones, for the time that it takes
_AS_JSON: Final = frozenset({"", "json", "jsonb", "geometry", "geography"})
"""Types whose numbers are those of JSON; "": no type was sent. Any other that we do not know may hold a numeric."""

_ODD_NAME: Final = re.compile(r'["\\\x00-\x1f]')  # no field of a struct can be called so

_any: Final = msgspec.json.Decoder()
_exact: Final = msgspec.json.Decoder(float_hook=Decimal)
_items: Final = msgspec.json.Decoder(list[msgspec.Raw])
_fields: Final[msgspec.json.Decoder[dict[str, msgspec.Raw] | None]] = msgspec.json.Decoder(
    dict[str, msgspec.Raw] | None
)


class Column(msgspec.Struct, frozen=True):
    """One column of a row: its name, and its type as PostgreSQL's catalogue names it (`int4`, `_text`)."""

    name: str
    type: str = ""


_columns: Final = msgspec.json.Decoder(list[Column])
_scalars: Final = {name: msgspec.json.Decoder(kind.target) for name, kind in TYPES.items()}


def decode_columns(columns: bytes | msgspec.Raw) -> tuple[Column, ...]:
    """The columns of a change; none for null and for what is no list of columns."""
    return _plan_of(bytes(columns)).columns


def decode_row(columns: bytes | msgspec.Raw, record: bytes | msgspec.Raw) -> dict[str, Any]:
    """The row as a dict, its values by the types of `columns`.

    A column that was not sent is missing, a key that is no column stays as sent, null gives an empty dict.
    Raises: RowError, with `.raw`, for what is no JSON object.
    """
    known, plan = _newest
    if columns != known:
        plan = _plan_anew(columns)
    decode = plan.whole
    if decode is not None and len(record) >= plan.shortest:
        try:
            row = plan.build(decode(record))
            for name, convert in plan.late:
                row[name] = convert(row[name])
        except _UNREADABLE:
            return _column_by_column(plan, bytes(record))
        return row
    return _column_by_column(plan, bytes(record))


def unsent_columns(columns: bytes | msgspec.Raw, row: Mapping[str, Any]) -> Set[str]:
    """The columns that the server lists and did not send: large values that an update left alone, or of a large row."""
    known, plan = _newest
    if columns != known:
        plan = _plan_anew(columns)
    listed = plan.types.keys()
    return _NOTHING if listed == row.keys() else listed - row.keys()


class _Plan(msgspec.Struct, frozen=True, eq=False):
    """What is known about one list of columns.

    whole: decodes a row that has them all, None when that is not possible; shortest: no such row has fewer bytes.
    late: what is to be done to columns after it. build: from its struct to a dict.
    """

    columns: tuple[Column, ...]
    types: dict[str, str]
    late: tuple[tuple[str, Callable[[Any], Any]], ...]
    whole: Callable[[bytes | msgspec.Raw], Any] | None
    shortest: int
    build: Callable[[Any], dict[str, Any]]


def _plan_of(columns: bytes) -> _Plan:
    return (_plan if len(columns) <= _LONGEST_KEPT else _plan.__wrapped__)(columns)


@lru_cache(_KEPT)
def _plan(columns: bytes) -> _Plan:
    try:
        listed = tuple(_columns.decode(columns))
    except _UNREADABLE:
        listed = ()
    types = {column.name: column.type for column in listed}
    late = tuple(_late_columns(types))
    odd = not listed or len(types) < len(listed) or len(listed) > _MOST_COLUMNS
    if odd or any(_ODD_NAME.search(name) for name in types):
        return _Plan(listed, types, late, None, 0, dict)
    fields = [f"f{number}" for number in range(len(listed))]
    row = msgspec.defstruct(
        "Row",
        [(field, _target(column.type)) for field, column in zip(fields, listed, strict=True)],
        rename=dict(zip(fields, types, strict=True)),
        forbid_unknown_fields=True,  # so that a key that is no column is not lost
        gc=False,
    )
    shortest = sum(len(name) + len('"":0,') for name in types)
    return _Plan(listed, types, late, msgspec.json.Decoder(row).decode, shortest, _builder(len(listed))(*types))


_newest: tuple[msgspec.Raw, _Plan] = msgspec.Raw(b""), _Plan((), {}, (), None, 0, dict)
"""The columns that came last, and their plan: nearly always those that come next. Found by a comparison, which costs
0.02 µs against 0.29 for their bytes, a hash and the cache."""


def _plan_anew(columns: bytes | msgspec.Raw) -> _Plan:
    global _newest  # noqa: PLW0603  one name for both, so that no thread sees half of it
    copied = bytes(columns)  # what came is a view, and would keep its whole frame alive
    plan = _plan_of(copied)
    _newest = msgspec.Raw(copied), plan
    return plan


def _late_columns(types: dict[str, str]) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    for name, kind in types.items():
        known = TYPES.get(_item(kind))
        if known is None and _item(kind) not in _AS_JSON:
            yield name, _without_float
        elif known is not None and known.late:
            yield name, partial(_read_array if kind.startswith("_") else _read, known)


@lru_cache(_KEPT)
def _builder(size: int) -> Callable[..., Callable[[Any], dict[str, Any]]]:
    """A function from names to a function from struct to dict; names reach the generated code as values only."""
    names = ", ".join(f"k{number}" for number in range(size))
    items = ", ".join(f"k{number}: row.f{number}" for number in range(size))
    made: Callable[..., Callable[[Any], dict[str, Any]]] = eval(f"lambda {names}: lambda row: {{{items}}}")  # noqa: S307
    return made


def _item(kind: str) -> str:
    return kind.removeprefix("_")


def _target(kind: str) -> Any:
    known = TYPES.get(_item(kind))
    if known is None or (known.late and kind.startswith("_")):
        return Any
    return list[known.target | None] | None if kind.startswith("_") else known.target | None


class _Inexact(ValueError):
    """A float, where the server may have sent a numeric with more digits."""


def _without_float(value: Any) -> Any:
    """The value of a type that we do not know. Raises: _Inexact."""
    kept: Any = value
    if isinstance(value, float):
        raise _Inexact
    if isinstance(value, dict):
        value = list(cast("dict[str, Any]", value).values())
    if isinstance(value, list):
        for part in cast("list[Any]", value):
            _without_float(part)
    return kept


def _read(known: RowType, value: Any) -> Any:
    if isinstance(value, list):
        return [_read(known, item) for item in cast("list[Any]", value)]
    if not isinstance(value, str):
        return value
    try:
        return known.read(value)
    except ValueError:
        return value


def _read_array(known: RowType, value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = read_array(value)
        except ValueError:
            return value
    return _read(known, value)


def _column_by_column(plan: _Plan, record: bytes) -> dict[str, Any]:
    try:
        raw = _fields.decode(record) or {}
        return {name: _value(plan.types.get(name, ""), bytes(text)) for name, text in raw.items()}
    except _UNREADABLE as error:
        why = "a number of it is too large" if isinstance(error, ArithmeticError) else error
        raise RowError(f"the row cannot be read: {why}", raw=record) from error


def _value(kind: str, text: bytes) -> Any:
    if text == b"null":
        return None
    if kind.startswith("_") and _item(kind) in TYPES:
        return _array(_item(kind), text)
    known = TYPES.get(kind)
    if known is None:
        return _plain(text, _any if _item(kind) in _AS_JSON else _exact)
    if not known.late:
        try:
            return _scalars[kind].decode(text)
        except _UNREADABLE:
            pass  # from here on: not today's form of this type
    return _read(known, _plain(text))


def _array(item: str, text: bytes) -> Any:
    if not text.startswith(b"["):
        return _read_array(TYPES[item], _plain(text))
    parts = [bytes(part) for part in _items.decode(text)]
    return [_array(item, part) if part.startswith(b"[") else _value(item, part) for part in parts]


def _plain(text: bytes, decoder: msgspec.json.Decoder[Any] = _any) -> Any:
    try:
        return decoder.decode(text)
    except (
        msgspec.DecodeError,
        ValueError,
        ArithmeticError,
    ):  # perhaps a number that no float, or no int that Python reads, can hold
        return json.loads(text.decode(), parse_float=Decimal, parse_int=_integer, parse_constant=_no_json)


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) < _LONGEST_INT else Decimal(digits)


def _no_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
