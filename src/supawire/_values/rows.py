"""Decode rows to Python values, by the column types that the server sends with them.

Today's server sends JSON values; older ones sent every value as PostgreSQL's own text, arrays as `{1,2}`. One decoder
is created per list of columns and cached. It decodes a row in one typed pass; if that fails (a missing column, an
infinite date, a server that sends everything as text) the row is decoded again, column by column. Values that still do
not fit (infinite dates, years before 1 or after 9999, 24:00:00) stay as they were sent. See docs/protocol.md, Value
types. For the opposite direction, used by the local server, see `encode.py`.

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
| numbers inside these: domains and composites | exact: `int`, and `Decimal` for other numbers |
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any, Final, Generic, NoReturn, TypeVar, cast
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, astuple

from supawire.errors import RowError

_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?|NaN|[+-]?Infinity")


_INTERVAL: Final = re.compile(
    r"(?:([+-]?[0-9]++) days?)?(?:(?:(?<=[a-z]) |^)([+-]?)([0-9]++):([0-9]{2}):([0-9]{2}(?:\.[0-9]{1,6})?))?", re.ASCII
)


def read_int(text: str) -> int:
    """Parse an integer; blanks and underscores are refused."""
    return int(_match(_INTEGER, text))


class TooLargeError(ValueError):
    """A number is valid, but too large for a Decimal."""


def read_decimal(text: str) -> Decimal:
    """Parse a numeric with its scale, NaN or Infinity. Raises: ValueError, TooLargeError for a too large exponent."""
    number = _match(_NUMBER, text)
    try:
        return Decimal(number)
    except ArithmeticError as error:
        raise TooLargeError("the number is too large for a Decimal") from error


def read_float(text: str) -> float:
    """Parse a float, NaN or Infinity."""
    return float(_match(_NUMBER, text))


def read_bool(text: str) -> bool:
    """Parse a boolean in the notation of PostgreSQL (`t`), JSON or SQL."""
    if text in {"t", "true"}:
        return True
    if text in {"f", "false"}:
        return False
    raise ValueError(f"{text!r} is not a boolean")


def read_bytes(text: str) -> bytes:
    r"""Parse a bytea: plain hex as sent by today's server, or with a prefix `\x`.

    Some older servers sent the hex of the text `\x…`. This cannot be distinguished from the hex of such bytes, so only
    one level is decoded; a caller that knows can apply `bytes.fromhex(value[2:].decode())`.
    """
    digits = text.removeprefix("\\x")
    if " " in digits or not digits.isascii():
        raise ValueError("hex digits must not contain blanks")
    return bytes.fromhex(digits)


def read_time(text: str) -> time:
    """Parse a time, with its offset if it has one."""
    if text.startswith("24"):  # newer Python versions parse it as 00:00
        raise ValueError("24:00 is not a time in Python")
    return time.fromisoformat(text)


def read_datetime(text: str) -> datetime:
    """Parse a timestamp in JSON's form (`T`) or PostgreSQL's (blank)."""
    return datetime.fromisoformat(text)


def read_interval(text: str) -> timedelta:
    """Parse an interval of days and smaller units, with 24 hours per day. Not used for rows: years and months vary."""
    found = _INTERVAL.fullmatch(text)
    if not found or not text:
        raise ValueError("an interval with years or months cannot be a timedelta")
    days, sign, hours, minutes, seconds = found.groups()
    clock = timedelta(0)
    try:
        if hours:
            whole, _, fraction = seconds.partition(".")
            clock = timedelta(0, int(whole), int(fraction.ljust(6, "0")), 0, int(minutes), int(hours))
        return timedelta(int(days or 0)) + (-clock if sign == "-" else clock)
    except OverflowError as error:
        raise ValueError("the interval is too long for a timedelta") from error


def read_text(text: str) -> str:
    """Return the text unchanged."""
    return text


def _match(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a number")
    return text


class RowType(Struct, frozen=True):
    """How to decode one type.

    target: msgspec's type for the JSON value. read: parses text. late: the target is text, to be parsed by `read`.
    """

    target: Any
    read: Callable[[str], Any]
    late: bool = False


_INT: Final = RowType(int, read_int)
_FLOAT: Final = RowType(float, read_float)
_TEXT: Final = RowType(str, read_text)
_STAMP: Final = RowType(datetime, read_datetime)

TYPES: Final[dict[str, RowType]] = {
    **dict.fromkeys(("int2", "int4", "int8", "oid"), _INT),
    **dict.fromkeys(("float4", "float8"), _FLOAT),
    **dict.fromkeys(("timestamp", "timestamptz"), _STAMP),
    **dict.fromkeys(("text", "varchar", "bpchar", "char", "name"), _TEXT),
    "numeric": RowType(Decimal, read_decimal),
    "bool": RowType(bool, read_bool),
    "date": RowType(date, date.fromisoformat),
    "time": RowType(time, read_time),
    "timetz": RowType(str, read_time, late=True),
    "uuid": RowType(UUID, UUID),
    "bytea": RowType(str, read_bytes, late=True),
}
"""The types with a Python equivalent; values of all others stay as sent."""


_TOKEN: Final = re.compile(
    r"""
    \s* (?:
        ([{},])                                                     # a mark
      | "( (?: [^"\\] | \\. )* )"                                  # a quoted item
      | ( (?: [^{},"\\\s] | \\. )+ (?: \s+ (?: [^{},"\\\s] | \\. )+ )* )  # words
    ) \s*
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_MAX_DIMENSIONS: Final = 6
"""Maximum dimensions of an array in PostgreSQL."""


def read_array(text: str) -> list[Any]:
    """Parse an array literal, `{1,NULL,"a b",{…}}`: strings, None for an unquoted NULL, lists for inner braces.

    Raises: ValueError.
    """
    outer: list[Any] = []
    stack = [outer]
    wants_item = True
    for mark, item in _tokens(text.partition("=")[2] if text.startswith("[") else text):  # explicit bounds: [0:1]={1,2}
        if _misplaced(mark, stack, wants_item):
            raise ValueError("malformed array literal")
        if mark == "{":
            stack[-1].append(inner := list[Any]())
            stack.append(inner)
        elif mark == "}":
            stack.pop()
        elif mark != ",":
            stack[-1].append(item)
        wants_item = mark in {"{", ","}
    if len(stack) != 1 or not outer:
        raise ValueError("malformed array literal")
    return cast("list[Any]", outer[0])


def _tokens(text: str) -> Iterator[tuple[str, str | None]]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found:
            raise ValueError("malformed array literal")
        at = found.end()
        mark, quoted, plain = found.groups()
        if mark:
            yield mark, None
        elif quoted is not None:
            yield "item", _ESCAPE.sub(r"\1", quoted)
        else:
            yield "item", None if plain.upper() == "NULL" else _ESCAPE.sub(r"\1", plain)


def _misplaced(mark: str, stack: list[list[Any]], wants_item: bool) -> bool:
    if mark == "{":
        return not wants_item or (len(stack) == 1 and bool(stack[0])) or len(stack) > _MAX_DIMENSIONS
    if len(stack) == 1:
        return True
    if mark == "}":
        return wants_item and bool(stack[-1])
    return wants_item if mark == "," else not wants_item


# --- rows

_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, ArithmeticError)
_MAX_PLANS: Final = 256
"""Maximum number of lists of columns whose plan is cached."""
_MAX_CACHED_BYTES: Final = 64_000
"""Maximum bytes of a list of columns whose plan is cached."""
_MAX_COLUMNS: Final = 1600
"""Maximum columns of a table in PostgreSQL."""
_MAX_DIGITS: Final = 4000
"""Maximum digits of an int; Python refuses to parse longer ones, since it takes too long."""
_NO_COLUMNS: Final[Set[str]] = frozenset()
AS_JSON: Final = frozenset({"", "json", "jsonb", "geometry", "geography"})
"""Types whose numbers are JSON numbers; "": no type was sent. Any other unknown type may contain a numeric."""

_UNSUPPORTED_NAME: Final = re.compile(r'["\\\x00-\x1f]')  # not possible as the JSON name of a struct field

_any: Final = msgspec.json.Decoder()
_exact: Final = msgspec.json.Decoder(float_hook=Decimal)
_items: Final = msgspec.json.Decoder(list[msgspec.Raw])
_fields: Final[msgspec.json.Decoder[dict[str, msgspec.Raw] | None]] = msgspec.json.Decoder(
    dict[str, msgspec.Raw] | None
)


class Column(msgspec.Struct, frozen=True):
    """One column of a row: its name, and its type as named in PostgreSQL's catalog (`int4`, `_text`)."""

    name: str
    type: str = ""


_columns: Final = msgspec.json.Decoder(list[Column])
_scalars: Final = {name: msgspec.json.Decoder(kind.target) for name, kind in TYPES.items()}


def decode_columns(columns: bytes | msgspec.Raw) -> tuple[Column, ...]:
    """Decode the columns of a change; empty for null and for invalid lists."""
    return _plans.find(columns).columns


def decode_row(columns: bytes | msgspec.Raw, record: bytes | msgspec.Raw) -> dict[str, Any]:
    """Decode a row into a dict, with values converted by the types of `columns`.

    A column that was not sent is missing, the value of an unknown column is not converted, null gives an empty dict.
    Raises: RowError, with `.raw`, if the row is not a JSON object.
    """
    plan = _plans.find(columns)
    decode = plan.decode
    if decode is not None and len(record) >= plan.min_bytes:
        try:
            row = plan.to_dict(decode(record))
            for name, convert in plan.late:
                row[name] = convert(row[name])
        except _UNREADABLE:
            return _column_by_column(plan, bytes(record))
        return row
    return _column_by_column(plan, bytes(record))


def unsent_columns(columns: bytes | msgspec.Raw, row: Mapping[str, Any]) -> Set[str]:
    """Return the columns that the server lists but did not send: unchanged large values, or values of a large row."""
    listed = _plans.find(columns).types.keys()
    return _NO_COLUMNS if listed == row.keys() else listed - row.keys()


class _Plan(msgspec.Struct, frozen=True, eq=False):
    """The decoder for one list of columns.

    decode: decodes a row that has all columns to a struct, None when not possible; min_bytes: minimum bytes of such a
    row. to_dict: converts the struct to a dict. late: conversions of single columns, applied after it.
    """

    columns: tuple[Column, ...]
    types: dict[str, str]
    late: tuple[tuple[str, Callable[[Any], Any]], ...] = ()
    decode: Callable[[bytes | msgspec.Raw], Any] | None = None
    min_bytes: int = 0
    to_dict: Callable[[Any], dict[str, Any]] = dict


def _make_plan(columns: bytes) -> _Plan:
    try:
        listed = tuple(_columns.decode(columns))
    except _UNREADABLE:
        listed = ()
    types = {column.name: column.type for column in listed}
    late = tuple(_late_columns(types))
    odd = not listed or len(types) < len(listed) or len(listed) > _MAX_COLUMNS
    if odd or any(_UNSUPPORTED_NAME.search(name) for name in types):
        return _Plan(listed, types, late)
    as_attributes = all(name.isidentifier() and not name.startswith("__") for name in types)
    fields = list(types) if as_attributes else [f"f{number}" for number in range(len(listed))]
    row = msgspec.defstruct(
        "Row",
        [(field, _target(column.type)) for field, column in zip(fields, listed, strict=True)],
        rename=dict(zip(fields, types, strict=True)),
        forbid_unknown_fields=True,  # so that keys of unknown columns are not lost
        gc=False,
    )
    min_bytes = sum(len(name) + len('"":0,') for name in types)
    to_dict = asdict if as_attributes else partial(_dict_by_position, tuple(types))
    return _Plan(listed, types, late, msgspec.json.Decoder(row).decode, min_bytes, to_dict)


def _dict_by_position(names: tuple[str, ...], row: Struct) -> dict[str, Any]:
    return dict(zip(names, astuple(row), strict=True))


P = TypeVar("P")


class PlanCache(Generic[P]):
    """What is made of lists of columns, as the server sends them.

    The next change usually has the same columns as the one before, so the newest plan is found by comparing bytes. This
    takes 0.02 µs; copying and hashing the bytes for the cache of all plans takes 0.3 µs.
    """

    def __init__(self, make: Callable[[bytes], P], size: int = _MAX_PLANS) -> None:
        self._make = make
        self._newest: tuple[Any, Any] = (), None  # one attribute, so that threads never see a mixed pair
        self._cached = lru_cache(size)(make)

    def __len__(self) -> int:
        return self._cached.cache_info().currsize

    def find(self, columns: bytes | msgspec.Raw) -> P:
        """Return the plan for this list of columns."""
        newest, plan = self._newest
        return plan if columns == newest else self._find(columns)

    def _find(self, columns: bytes | msgspec.Raw) -> P:
        copied = bytes(columns)  # a Raw is a view that would keep its whole frame in memory
        plan = self._cached(copied) if len(copied) <= _MAX_CACHED_BYTES else self._make(copied)
        self._newest = msgspec.Raw(copied), plan
        return plan


_plans: Final = PlanCache(_make_plan)


def _late_columns(types: dict[str, str]) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    for name, kind in types.items():
        known = TYPES.get(_item(kind))
        if known is None and _item(kind) not in AS_JSON:
            yield name, _without_float
        elif known is not None and known.late:
            yield name, partial(_read_array if kind.startswith("_") else _read, known)


def _item(kind: str) -> str:
    return kind.removeprefix("_")


def _target(kind: str) -> Any:
    known = TYPES.get(_item(kind))
    if known is None or (known.late and kind.startswith("_")):
        return Any
    return list[known.target | None] | None if kind.startswith("_") else known.target | None


class _Inexact(ValueError):
    """A float where the server may have sent a numeric with more digits."""


def _without_float(value: Any) -> Any:
    """Return a value of an unknown type, which must not contain a float. Raises: _Inexact."""
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
        why = "it contains a number that is too large" if isinstance(error, ArithmeticError) else error
        raise RowError(f"the row cannot be read: {why}", raw=record) from error


def _value(kind: str, text: bytes) -> Any:
    if text == b"null":
        return None
    if kind.startswith("_") and _item(kind) in TYPES:
        return _array(_item(kind), text)
    known = TYPES.get(kind)
    if known is None:
        return _plain(text, _any if _item(kind) in AS_JSON else _exact)
    if not known.late:
        try:
            return _scalars[kind].decode(text)
        except _UNREADABLE:
            pass  # not today's format of this type: try the following ones
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
    ):  # perhaps a number that exceeds float, or an int too long to parse
        return json.loads(text.decode(), parse_float=Decimal, parse_int=_integer, parse_constant=_refuse_constant)


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) < _MAX_DIGITS else Decimal(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")
