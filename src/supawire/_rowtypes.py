"""PostgreSQL's types: what each becomes in Python, and how its text forms are read (protocol §4.4).

Today's server sends JSON values; servers before it sent every value as PostgreSQL's own text, arrays as `{1,2}`.
Text that Python has no value for (infinite dates, years before 1 or after 9999, 24:00:00) raises ValueError here, and
stays text in the row.
"""

import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, cast
from uuid import UUID

from msgspec import Struct

_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?|NaN|[+-]?Infinity")


_INTERVAL: Final = re.compile(
    r"(?:([+-]?[0-9]++) days?)?(?:(?:(?<=[a-z]) |^)([+-]?)([0-9]++):([0-9]{2}):([0-9]{2}(?:\.[0-9]{1,6})?))?", re.ASCII
)


def read_int(text: str) -> int:
    """An integer; no blanks or underscores."""
    return int(_whole(_INTEGER, text))


def read_decimal(text: str) -> Decimal:
    """A numeric with its scale; NaN and Infinity are Decimals too. Raises: ValueError also for an endless exponent."""
    number = _whole(_NUMBER, text)
    try:
        return Decimal(number)
    except ArithmeticError as error:
        raise ValueError("a number of this size is no Decimal") from error


def read_float(text: str) -> float:
    """A float; NaN and Infinity are floats too."""
    return float(_whole(_NUMBER, text))


def read_bool(text: str) -> bool:
    """A boolean as PostgreSQL (`t`), JSON or SQL write it."""
    if text in {"t", "true"}:
        return True
    if text in {"f", "false"}:
        return False
    raise ValueError(f"{text!r} is no boolean")


def read_bytes(text: str) -> bytes:
    r"""A bytea: plain hex as today's server sends it, or with `\x` in front.

    Hex is read once. Some older servers sent the hex of `\x…`; that is the same text as the hex of such bytes, so it is
    left to the caller, who knows: `bytes.fromhex(value[2:].decode())`.
    """
    digits = text.removeprefix("\\x")
    if " " in digits or not digits.isascii():
        raise ValueError("blanks are no hex")
    return bytes.fromhex(digits)


def read_time(text: str) -> time:
    """A time, with its offset where it has one."""
    if text.startswith("24"):  # newer Pythons read it as 00:00
        raise ValueError("24:00 is no time in Python")
    return time.fromisoformat(text)


def read_datetime(text: str) -> datetime:
    """A timestamp in JSON's form (`T`) or PostgreSQL's (blank)."""
    return datetime.fromisoformat(text)


def read_interval(text: str) -> timedelta:
    """An interval of days and less; a day has 24 hours. Not part of a row: years and months have no length."""
    found = _INTERVAL.fullmatch(text)
    if not found or not text:
        raise ValueError("an interval with years or months is no timedelta")
    days, sign, hours, minutes, seconds = found.groups()
    clock = timedelta(0)
    try:
        if hours:
            whole, _, fraction = seconds.partition(".")
            clock = timedelta(0, int(whole), int(fraction.ljust(6, "0")), 0, int(minutes), int(hours))
        return timedelta(int(days or 0)) + (-clock if sign == "-" else clock)
    except OverflowError as error:
        raise ValueError("an interval of this length is no timedelta") from error


def read_text(text: str) -> str:
    """Text as it is."""
    return text


def _whole(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no number")
    return text


class RowType(Struct, frozen=True):
    """One type. target: what msgspec makes of the JSON. read: from text. late: target is text, and read follows."""

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
"""The types with a Python value; every other one stays as it was sent."""


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
_MOST_DIMENSIONS: Final = 6
"""Of an array in PostgreSQL; a deeper literal is none."""


def read_array(text: str) -> list[Any]:
    """The items of an array literal, `{1,NULL,"a b",{…}}`: strings, None for an unquoted NULL, lists for inner braces.

    Raises: ValueError.
    """
    outer: list[Any] = []
    stack = [outer]
    wants_item = True
    for mark, item in _tokens(text.partition("=")[2] if text.startswith("[") else text):  # [0:1]={1,2} has bounds
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
        return not wants_item or (len(stack) == 1 and bool(stack[0])) or len(stack) > _MOST_DIMENSIONS
    if len(stack) == 1:
        return True
    if mark == "}":
        return wants_item and bool(stack[-1])
    return wants_item if mark == "," else not wants_item
