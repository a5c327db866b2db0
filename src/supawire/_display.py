"""Prepare external text for logs and errors: without tokens, on one line, and of limited length.

Also formats events as one short line for `print` and debuggers, with limited lengths and hidden secrets, and computes
hashes of JSON values for the comparison of events.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final, cast

from msgspec import Struct

HIDDEN: Final = "***"
MAX_SHOWN: Final = 500
"""Maximum characters of external text that are shown."""

_RUN: Final = re.compile(r"[\w.-]{8,}+", re.ASCII)
_KEYS: Final = ("sb_secret_", "sb_publishable_")
_MIN_PART: Final = 8
"""Minimum length of each of the first two parts of a token, whatever they begin with."""
_MIN_CUT_TOKEN: Final = 16
"""Minimum length of the beginning of a token that is recognized although its other parts are cut off."""


def hide_tokens(text: str, *, any_parts: bool = False) -> str:
    """Replace JWTs and Supabase keys in the text.

    any_parts: also replace three parts separated by dots that do not begin like a JWT.
    """
    return _RUN.sub(lambda run: _without_tokens(run[0], any_parts=any_parts), text)


def _without_tokens(run: str, *, any_parts: bool) -> str:
    starts = [at for at in map(run.find, _KEYS) if at >= 0]
    at = run.find("eyJ")
    if at >= 0 and ("." in run[at:] or len(run) - at >= _MIN_CUT_TOKEN):
        starts.append(at)
    if any_parts:
        parts = run.split(".", 2)
        if len(parts) == 3 and min(len(parts[0]), len(parts[1])) >= _MIN_PART:
            starts.append(0)
    return run[: min(starts)] + HIDDEN if starts else run


def printable(text: str, most: int = MAX_SHOWN) -> str:
    """Return the text on one line with control characters escaped; a long one is cut, and its length is added."""
    head = hide_tokens(text[: most + _MIN_CUT_TOKEN])[:most]
    line = head if head.isprintable() else "".join(map(_escaped, head))
    return line if len(text) <= most else f"{line}… ({len(text)} characters)"


def _escaped(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")


_MAX_VALUE: Final = 600
"""Characters of one value, about eight lines of a terminal."""

_MAX_TEXT: Final = 120
_MAX_DEPTH: Final = 6
_MAX_INT_BITS: Final = 512
_MAX_HASHED: Final = 50

_SECRET_NAMES: Final = frozenset(
    {
        "accesstoken", "apikey", "authorization", "clientsecret", "encryptedpassword", "jwt", "passwd", "password",
        "privatekey", "refreshtoken", "secret", "secretkey", "servicerolekey", "token",
    }
)  # fmt: skip


class _Writer:
    def __init__(self) -> None:
        self.parts: list[str] = []
        self.room = _MAX_VALUE

    def add(self, text: str) -> None:
        self.parts.append(text)
        self.room -= len(text)

    def value(self, value: Any, depth: int) -> None:
        if isinstance(value, Mapping) and depth:
            self._items(cast("Mapping[Any, Any]", value), depth, "{", "}")
        elif isinstance(value, list) and depth:
            self._items(cast("list[Any]", value), depth, "[", "]")
        elif isinstance(value, tuple) and depth and not hasattr(cast("object", value), "_fields"):
            self._items(cast("tuple[Any, ...]", value), depth, "(", ")")
        elif isinstance(value, Mapping | list | tuple):
            self.add("…")
        else:
            self.add(_scalar(value))

    def _items(self, values: Mapping[Any, Any] | list[Any] | tuple[Any, ...], depth: int, begin: str, end: str) -> None:
        self.add(begin)
        shown = 0
        for item in values:
            if self.room <= 0:
                break
            self.add(", " if shown else "")
            if isinstance(values, Mapping):
                self.add(f"{_scalar(item)}: ")
                self.value(HIDDEN if _is_secret(item) else values[item], depth - 1)
            else:
                self.value(item, depth - 1)
            shown += 1
        left = len(values) - shown
        if left:
            self.add(f"{', ' if shown else ''}… {left} more")
        elif shown == 1 and isinstance(values, tuple):
            self.add(",")
        self.add(end)


def brief(value: Any) -> str:
    """Return the `repr` of a value, cut to some hundred characters, with secrets replaced by `***`."""
    writer = _Writer()
    writer.value(value, _MAX_DEPTH)
    return "".join(writer.parts)


def brief_event(name: str, **fields: Any) -> str:
    """Return `Name(field=value, …)` with each value shortened."""
    return f"{name}({', '.join(f'{field}={brief(value)}' for field, value in fields.items())})"


def brief_fields(self: Any) -> str:
    """The `__repr__` of structs: `Name(field=value, …)` with each value shortened."""
    fields = {name: getattr(self, name) for name in self.__struct_fields__}
    return brief_event(type(self).__name__, **fields)


class Unreadable(Struct, frozen=True):
    """Placeholder for data that cannot be decoded, in a printed or compared event."""

    data: bytes

    def __repr__(self) -> str:
        return f"<{len(self.data)} bytes that cannot be read>"


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        text = repr(hide_tokens(value[: 2 * _MAX_TEXT])[:_MAX_TEXT])
        return text if len(value) <= _MAX_TEXT else f"{text[:-1]}…{text[-1]}"
    if isinstance(value, bytes):
        return repr(value) if len(value) <= _MAX_TEXT else f"<{len(value)} bytes: {value[:_MAX_TEXT]!r}…>"
    if isinstance(value, int) and value.bit_length() > _MAX_INT_BITS:  # Python refuses to print very long integers
        return f"<int of {value.bit_length()} bits>"
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001  an object of a user-defined class; printing an event must not fail
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    text = hide_tokens(text[: 2 * _MAX_VALUE])
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}…"


def _is_secret(name: object) -> bool:
    return (
        isinstance(name, str)
        and len(name) < _MAX_TEXT
        and name.replace("_", "").replace("-", "").lower() in _SECRET_NAMES
    )


def content_hash(value: Any) -> int:
    """Return a hash that is the same for equal JSON values. Uses the first level of a value, up to a limited size."""
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value)
        if len(items) > _MAX_HASHED:
            return hash((dict, len(items)))
        return hash(frozenset((key, _flat_hash(item)) for key, item in items.items()))
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return hash((list, len(items), *map(_flat_hash, islice(items, _MAX_HASHED))))
    return _flat_hash(value)


def _flat_hash(value: Any) -> int:
    try:
        return hash(value)
    except TypeError:
        return 0


def joined(names: Iterable[object]) -> str:
    """Join some names for display, at most five of them."""
    every = [str(name) for name in names]
    return ", ".join(every[:5]) + (f" and {len(every) - 5} more" if len(every) > 5 else "")
