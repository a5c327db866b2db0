"""Compare values as PostgreSQL does after casting both sides to the column's type. See docs/protocol.md, Matching rows.

Differences from the database: text is ordered by code point, not by collation, and enums by name; dates and times are
parsed in ISO format only; intervals, networks, money and ranges are compared as text; regular expressions do not
support back references or lookaround (`patterns.py`); jsonb supports equality but no order.
"""

import json
import math
import operator
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Final, NoReturn
from uuid import UUID

import msgspec

from supawire._values.patterns import UnsupportedPatternError, compiled
from supawire._values.rows import TooLargeError, read_array, read_bytes, read_decimal, read_float, read_int, read_time

TEXT_TYPES: Final = frozenset({"text", "varchar", "bpchar", "char", "name"})
SQL_NAMES: Final = {
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "float4": "real",
    "float8": "double precision",
    "bool": "boolean",
    "varchar": "character varying",
    "bpchar": "character",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "time": "time without time zone",
    "timetz": "time with time zone",
}
"""The names of catalog types in PostgreSQL's error texts."""

_MAX_DIGITS: Final = 131072
"""Maximum number of digits of a numeric before the decimal point."""

_MAX_SCALE: Final = 16383
"""Maximum number of digits of a numeric after the decimal point."""

_TOO_LARGE: Final = "value overflows numeric format"

_RANGES: Final = {"int2": 2**15, "int4": 2**31, "int8": 2**63}
_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}
_BOOLS: Final = {
    **dict.fromkeys(("t", "tr", "tru", "true", "y", "ye", "yes", "on", "1"), True),
    **dict.fromkeys(("f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0"), False),
}


def compare(op: str, kind: str, value: Any, operand: str) -> bool | None:
    """Return `value op operand` for a wire value that is not null; None where PostgreSQL returns NULL.

    Raises: ValueError when a side is not a value of the type, or the type has no such operator. The server casts the
    JSON text of a value, which array types cannot parse, so no condition holds for an array.
    """
    if kind.startswith("_") or (kind == "json" and op != "is"):
        raise ValueError(f"{kind} has no operator {op}")
    if op == "in":
        return _among(kind, value, operand)
    if op in {"like", "ilike", "match", "imatch"}:
        return pattern(op, kind, operand)(text_of(value))
    if op == "is":
        return _is(kind, value, operand)
    if op == "isdistinct":
        return bool(to_comparable(kind, value) != to_comparable(kind, operand))
    if kind == "jsonb" and op not in {"eq", "neq"}:
        raise ValueError("jsonb is not ordered here")
    return bool(_COMPARE[op](to_comparable(kind, value), to_comparable(kind, operand)))


def _among(kind: str, value: Any, operand: str) -> bool | None:
    items = read_array(operand)
    if any(isinstance(item, list) for item in items):
        raise ValueError("nested arrays are not supported")
    among = [to_comparable(kind, item) for item in items if item is not None]
    if to_comparable(kind, value) in among:
        return True
    return None if None in items else False


def _is(kind: str, value: Any, operand: str) -> bool:
    if operand == "null":
        return False
    if kind != "bool" or operand not in {"true", "false", "unknown"}:
        raise ValueError(f"is {operand} requires a boolean")
    return operand != "unknown" and to_comparable(kind, value) is (operand == "true")


def to_comparable(kind: str, value: Any) -> Any:
    """Convert a wire value, or PostgreSQL's text of one, to a value with the order of the type.

    Raises: ValueError if it is not a value of the type, OverflowError with PostgreSQL's text if it is out of range.
    """
    if isinstance(value, list) and kind != "jsonb":
        raise ValueError(f"a list is not a value of type {kind}")
    if kind in {"json", "jsonb"}:
        return json.loads(text_of(value), parse_float=_numeric, parse_int=_numeric, parse_constant=_not_json)
    text = text_of(value)
    read = _READ.get(kind)
    if kind in _RANGES:
        number = read_int(text.strip())
        if not -_RANGES[kind] <= number < _RANGES[kind]:
            raise OverflowError(f'value "{text}" is out of range for type {SQL_NAMES.get(kind, kind)}')
        return number
    return read(text) if read else text


def text_of(value: Any) -> str:
    """Return PostgreSQL's text of a wire value."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal | int | float):
        return str(value)
    return bytes(value).decode() if isinstance(value, msgspec.Raw) else msgspec.json.encode(value).decode()


def _bytes(text: str) -> bytes:
    return read_bytes(text) if text.startswith("\\x") else text.encode()  # plain hex is cast like any text


def _numeric(text: str) -> Decimal:
    """Parse a number. Raises: OverflowError if it has more digits than PostgreSQL's numeric can hold."""
    try:
        number = read_decimal(text)
    except TooLargeError as error:
        raise OverflowError(_TOO_LARGE) from error
    exponent = number.as_tuple().exponent
    if isinstance(exponent, int) and (exponent < -_MAX_SCALE or (number and number.adjusted() >= _MAX_DIGITS)):
        raise OverflowError(_TOO_LARGE)
    return number


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _spelled(text: str) -> str:
    """Return the number as Python spells it: PostgreSQL also accepts `inf` and blanks."""
    text = text.strip()
    return _SPELLED.get(text.lower(), text)


def _decimal(text: str) -> tuple[bool, Decimal | float]:
    return _number(_numeric(_spelled(text)))


def _float(kind: str, text: str) -> tuple[bool, Decimal | float]:
    number = read_float(_spelled(text))
    if math.isinf(number) and not _spelled(text).endswith("Infinity"):
        raise OverflowError(f'"{text}" is out of range for type {SQL_NAMES[kind]}')
    return _number(number)


_SPELLED: Final = {"nan": "NaN"} | {
    sign + word: f"{sign}Infinity" for sign in ("", "+", "-") for word in ("inf", "infinity")
}


def _number(value: Decimal | float) -> tuple[bool, Decimal | float]:
    return (True, 0) if math.isnan(value) else (False, value)  # NaN equals itself and is the greatest value


def _moment(text: str) -> tuple[int, datetime]:
    endless = {"infinity": 1, "-infinity": -1}.get(text.strip().lower())
    if endless is not None:
        return endless, datetime.min  # noqa: DTZ901 - never compared with a moment
    return 0, datetime.fromisoformat(text.strip())


def _stamp(text: str) -> tuple[int, datetime]:
    rank, moment = _moment(text)
    return rank, moment.replace(tzinfo=None)


def _stamp_with_zone(text: str) -> tuple[int, datetime]:
    rank, moment = _moment(text)
    return rank, moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _day(text: str) -> tuple[int, date]:
    rank, moment = _moment(text)
    return rank, moment.date()


def _clock(text: str) -> tuple[bool, time]:
    if text.strip() == "24:00:00":
        return True, time.min
    return False, read_time(text.strip()).replace(tzinfo=None)


def _clock_with_zone(text: str) -> tuple[timedelta, timedelta]:
    """Return a sort key: the time in UTC, then the zone."""
    moment = read_time(text.strip())
    offset = moment.utcoffset() or timedelta()
    return datetime.combine(date.min, moment.replace(tzinfo=None)) - datetime.combine(
        date.min, time.min
    ) - offset, -offset


def _flag(text: str) -> bool:
    flag = _BOOLS.get(text.strip().lower())
    if flag is None:
        raise ValueError(f"{text!r} is not a boolean")
    return flag


_READ: Final[Mapping[str, Callable[[str], Any]]] = {
    "oid": lambda text: read_int(text.strip()),
    "numeric": _decimal,
    "float4": partial(_float, "float4"),
    "float8": partial(_float, "float8"),
    "bool": _flag,
    "bpchar": str.rstrip,
    "timestamp": _stamp,
    "timestamptz": _stamp_with_zone,
    "date": _day,
    "time": _clock,
    "timetz": _clock_with_zone,
    "uuid": UUID,
    "bytea": _bytes,
}


def pattern(op: str, kind: str, text: str) -> Callable[[str], bool]:
    """Return the test for a pattern operator. Raises: ValueError for an invalid pattern or a type that is not text."""
    if kind not in TEXT_TYPES and (kind in _READ or kind in _RANGES or kind == "jsonb"):
        raise ValueError(f"{kind} is not a text type")
    return compiled(op, text.rstrip() if kind == "bpchar" else text).search


def needs_postgres(op: str, text: str) -> bool:
    """Return whether only PostgreSQL can evaluate the pattern."""
    try:
        compiled(op, text)
    except UnsupportedPatternError:
        return True
    except ValueError:
        return False
    return False
