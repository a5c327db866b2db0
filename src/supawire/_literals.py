"""Python values as texts that PostgreSQL casts to the type of a column, for the values of filters (protocol §4.2).

The server casts both sides of a comparison: the text that stands in the filter, and the JSON text of the row's value.
So every text here is one that PostgreSQL reads as exactly this value, and not only the local server.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any, Final, TypeAlias, get_args
from uuid import UUID

from supawire._towire import to_wire
from supawire.errors import InvalidArgumentError

Network: TypeAlias = IPv4Address | IPv6Address | IPv4Interface | IPv6Interface | IPv4Network | IPv6Network
Scalar: TypeAlias = (
    str | int | float | Decimal | bool | datetime | date | time | timedelta | UUID | Network | bytes | bytearray
)
"""What a column can be compared with."""

_MOST_DIGITS: Final = 131_072
_MOST_DECIMALS: Final = 16_383


def literal(column: str, value: object) -> str:
    """The text of a value. Raises: InvalidArgumentError, which names the column."""
    write = next((write for kind, write in _WRITE if isinstance(value, kind)), None)
    if write is None:
        raise _unfit(column, value)
    try:
        return write(value)
    except (ValueError, OverflowError) as error:
        raise InvalidArgumentError(f"{column}: {type(value).__name__} has no text for the server: {error}") from error


def text(column: str, value: str) -> str:
    """A text that can be sent and stored. Raises: InvalidArgumentError."""
    if "\0" in value:
        raise InvalidArgumentError(f"{column}: {value!r} has a NUL character, which PostgreSQL cannot store")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"{column}: {value!r} cannot be written as UTF-8: {error.reason}") from error
    return str.__str__(value)  # of a text that is a member of an enum too, whose own str() may be its name


def _unfit(column: str, value: object) -> InvalidArgumentError:
    kind = type(value).__name__
    if isinstance(value, Enum):
        return InvalidArgumentError(f"{column}: {value!r} is no value for the server", hint="Give its .value.")
    if isinstance(value, list | tuple | set | frozenset):
        return InvalidArgumentError(
            f"{column}: the server compares no arrays, and this is a {kind}",
            hint="For one of several values, col(…).in_([…]); for a jsonb column, its text: json.dumps(value).",
        )
    if isinstance(value, dict):
        return InvalidArgumentError(
            f"{column}: a dict has no text of its own", hint="For a jsonb column give its text: json.dumps(value)."
        )
    return InvalidArgumentError(
        f"{column}: a {kind} is no value that the server compares",
        hint="Give a str, int, float, Decimal, bool, datetime, date, time, timedelta, UUID, bytes or an IP address.",
    )


def _decimal(value: Decimal) -> str:
    if value.is_nan():
        return "NaN"
    if value.is_infinite():
        return "Infinity" if value > 0 else "-Infinity"
    exponent = value.as_tuple().exponent
    if value.adjusted() >= _MOST_DIGITS or (isinstance(exponent, int) and exponent < -_MOST_DECIMALS):
        raise ValueError(f"a numeric has at most {_MOST_DIGITS} digits before the point and {_MOST_DECIMALS} after it")
    return format(value, "f")


def _int(value: int) -> str:
    return _decimal(Decimal(value))  # Python writes no int of more than 4300 digits


def _float(value: float) -> str:
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))  # a float has no scale, and 10 is read for every type of number, 10.0 not for integers
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(written := float.__repr__(value), written)


def _moment(value: datetime) -> str:
    return (value if value.tzinfo is None else value.astimezone(UTC)).isoformat()


def _clock(value: time) -> str:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise ValueError(f"{value.tzinfo} has no offset without a date; give the time one, or none at all")
    return value.isoformat()


_WRITE: Final[tuple[tuple[type | tuple[type, ...], Callable[[Any], str]], ...]] = (
    (bool, lambda value: "true" if value else "false"),  # the first that fits: a bool is an int, a datetime is a date
    (int, _int),
    (float, _float),
    (Decimal, _decimal),
    (datetime, _moment),
    (date, date.isoformat),
    (time, _clock),
    (timedelta, to_wire),
    ((UUID, *get_args(Network)), str),
    ((bytes, bytearray), lambda value: value.hex()),  # as rows have it; the cast takes both for text, which is alike
)
