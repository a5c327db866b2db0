"""Encode Python values as the server sends them, for rows that do not come from PostgreSQL."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, TypeVar, cast
from uuid import UUID

import msgspec

from supawire.errors import InvalidArgumentError

T = TypeVar("T")

_COLUMN_TYPES: Final[tuple[tuple[type, str], ...]] = (  # first match: a bool is an int, a datetime is a date
    (bool, "bool"),
    (int, "int8"),
    (float, "float8"),
    (Decimal, "numeric"),
    (str, "text"),
    (datetime, "timestamp"),
    (date, "date"),
    (time, "time"),
    (timedelta, "interval"),
    (UUID, "uuid"),
    (bytes, "bytea"),
    (bytearray, "bytea"),
    (Mapping, "jsonb"),
)


def infer_columns(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """Infer the columns of a row of Python values, in the wire format.

    An int outside int8 is numeric, an aware datetime timestamptz; a list is an array when its items are of one scalar
    type, else jsonb; None is text. Raises: InvalidArgumentError for values without a matching column type.
    """
    return [{"name": name, "type": inferred_type(value, name)} for name, value in record.items()]


def inferred_type(value: Any, name: str = "value") -> str:
    """Return the column type of one Python value. Raises: InvalidArgumentError."""
    if value is None:
        return "text"
    if isinstance(value, list | tuple):
        kinds = {inferred_type(item, name) for item in _leaves(cast("list[Any]", value))}
        only = kinds.pop() if len(kinds) == 1 else "jsonb"
        return only if only == "jsonb" else f"_{only}"
    if isinstance(value, datetime | time) and value.tzinfo is not None:
        return "timestamptz" if isinstance(value, datetime) else "timetz"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "numeric"
    kind = _first(_COLUMN_TYPES, value)
    if kind is None:
        raise InvalidArgumentError(
            f"{name}: no column type for a {type(value).__name__}; pass columns= and JSON values"
        )
    return kind


def _first(table: Iterable[tuple[type, T]], value: object) -> T | None:
    return next((found for python, found in table if isinstance(value, python)), None)


def _leaves(items: list[Any]) -> Iterator[Any]:
    for item in items:
        if isinstance(item, list | tuple):
            yield from _leaves(cast("list[Any]", item))
        elif item is not None:
            yield item


def to_wire(value: Any) -> Any:
    """Convert a Python value to the JSON value that the server sends; a Decimal becomes a `Raw` number."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_wire(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [to_wire(item) for item in cast("list[Any]", value)]
    convert = _first(_WIRE, value)
    if convert is None:
        raise InvalidArgumentError(f"a {type(value).__name__} cannot be encoded; pass a JSON value")
    return convert(value)


def _wire_decimal(value: Decimal) -> Any:
    if not value.is_finite():
        return "NaN" if value.is_nan() else "Infinity" if value > 0 else "-Infinity"
    return msgspec.Raw(format(value, "f").encode())


def _wire_time(value: time) -> str:
    text = _trimmed(value.replace(tzinfo=None).isoformat())
    offset = value.strftime("%z")
    return f"{text}{offset[:3]}" + (f":{offset[3:5]}" if offset[3:5] not in {"", "00"} else "")


def _wire_datetime(value: datetime) -> str:
    if value.tzinfo is None:
        return _trimmed(value.isoformat())
    return _trimmed(value.astimezone(UTC).replace(tzinfo=None).isoformat()) + "+00:00"


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _wire_interval(value: timedelta) -> str:
    sign = "-" if value < timedelta(0) else ""
    seconds = abs(value)
    hours, rest = divmod(seconds, timedelta(hours=1))
    minutes, rest = divmod(rest, timedelta(minutes=1))
    return f"{sign}{hours:02}:{minutes:02}:" + _trimmed(f"{rest.seconds:02}.{rest.microseconds:06}")


_WIRE: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (float, lambda value: value if math.isfinite(value) else None),
    (Decimal, _wire_decimal),
    (datetime, _wire_datetime),
    (date, date.isoformat),
    (time, _wire_time),
    (timedelta, _wire_interval),
    (UUID, str),
    (bytes, bytes.hex),
    (bytearray, bytearray.hex),
)


def to_json(value: Any, *, ordered: bool = False) -> str:
    """Return a value as JSON text. ordered: with the members of each object sorted by name.

    Decimals are strings with all digits, dates and times are strings in ISO 8601, bytes are base64, UUIDs are strings;
    integers of any size are numbers, and a float that is not finite is null.
    """
    order = "sorted" if ordered else None
    try:
        return msgspec.json.encode(value, enc_hook=str, order=order).decode()
    except OverflowError:  # msgspec encodes integers up to 64 bits
        return msgspec.json.encode(_with_raw_integers(value), enc_hook=str, order=order).decode()


def _with_raw_integers(value: Any) -> Any:
    """Return the value with each integer of more than 64 bits replaced by its digits as raw JSON."""
    match value:
        case int() if value.bit_length() > 63:
            return msgspec.Raw(f"{value:d}".encode())
        case dict():
            return {name: _with_raw_integers(part) for name, part in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case list() | tuple():
            return [_with_raw_integers(part) for part in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value
