"""Payloads as JSON, and where in a payload it is that cannot be."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from supawire.errors import InvalidArgumentError


def check_json(payload: object, name: str = "payload") -> bytes:
    """`payload` as JSON.

    Besides dicts, lists and plain values, what msgspec writes is taken too: dataclasses, attrs classes, structs, sets,
    datetimes, UUIDs; a Decimal and nested bytes become strings, the bytes in base64. So are pydantic's models, numpy's
    numbers and arrays, addresses of `ipaddress`, and subclasses of texts, numbers and mappings. The page on broadcasts
    has the table.
    NaN and Infinity, keys that are no text or number, and other objects raise `InvalidArgumentError` with their path.
    """
    try:
        encoded = _json.encode(payload)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        where = _bad_place(payload, name) if not isinstance(error, RecursionError) else name
        raise InvalidArgumentError(f"{where} cannot be written as JSON: {error}") from error
    if b"null" in encoded and _has_nan(payload):  # it was written as null
        path, value = _where_nan(payload, name)
        raise InvalidArgumentError(f"{path} cannot be written as JSON: {value} is no JSON number; None is null")
    return encoded


def _of_numpy(value: Any) -> object:
    if value.dtype.kind not in "biufUS":  # of others, such as times in nanoseconds, Python has no like
        raise TypeError(f"numpy's {value.dtype} has no JSON value")
    return value.tolist()


_FOREIGN: Final[Mapping[str, Callable[[Any], object]]] = {"numpy": _of_numpy, "ipaddress": str}
"""By the package of a class."""


def _plain(value: object) -> object:
    """What an object of a class of its own is in JSON."""
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return dict(cast("Mapping[object, object]", value))
    foreign = _FOREIGN.get(type(value).__module__.partition(".")[0])
    if foreign is not None:
        return foreign(value)
    if hasattr(type(value), "__pydantic_serializer__"):
        return cast("Any", value).model_dump(by_alias=True)
    raise TypeError(f"an object of type {type(value).__name__} is no JSON value")


_json: Final = msgspec.json.Encoder(enc_hook=_plain)


def _parts(value: object, path: str) -> Iterable[tuple[object, str]]:
    if isinstance(value, Mapping):
        return [(part, f"{path}[{key!r}]") for key, part in cast("Mapping[object, object]", value).items()]
    if isinstance(value, list | tuple):
        return [(part, f"{path}[{index}]") for index, part in enumerate(cast("Sequence[object]", value))]
    return ()


def _bad_place(value: object, path: str) -> str:
    """The path to the innermost value that cannot be encoded."""
    while True:
        for part, place in _parts(value, path):
            try:
                _json.encode(part)
            except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
                value, path = part, place
                break
        else:
            return path


def _has_nan(payload: object) -> bool:
    left = [payload]
    while left:
        value = left.pop()
        kind = type(value)
        if kind is float:
            if not math.isfinite(cast("float", value)):
                return True
        elif kind is dict:
            left.extend(cast("dict[object, object]", value).values())
        elif kind is list or kind is tuple:
            left.extend(cast("list[object]", value))
        elif kind not in _PLAIN:
            left.append(msgspec.to_builtins(value, enc_hook=_plain))
    return False


_PLAIN: Final = frozenset({str, int, bool, type(None), msgspec.Raw})


def _where_nan(payload: object, name: str) -> tuple[str, float]:
    left = [(payload, name)]
    while left:
        value, path = left.pop()
        if isinstance(value, float):
            if not math.isfinite(value):
                return path, value
        elif type(value) not in _PLAIN:
            left.extend(reversed(list(_parts(msgspec.to_builtins(value, enc_hook=_plain), path))))
    return name, math.nan
