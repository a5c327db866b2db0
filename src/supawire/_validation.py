"""Checks of arguments and options, and helpful errors for common mistakes.

Arguments are checked where they enter the library; an error states the given value, the allowed values, the reason and
the closest match. Methods that only raise such an error are hidden from type checkers, which report these mistakes
themselves. Also encodes payloads as JSON, finds the part of a payload that cannot be encoded, and warns about a client
or local server that was garbage-collected without being closed.
"""

import enum
import math
import os
import re
import warnings
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TypeVar, cast

import msgspec

from supawire.errors import InvalidArgumentError, StateError

T = TypeVar("T")


class NoAttributeError(StateError, AttributeError):
    """A `StateError` for a missing attribute that is also an AttributeError, so that `hasattr` and `getattr` work."""


class NotSupportedError(StateError, TypeError):
    """A `StateError` for an unsupported protocol that is also a TypeError.

    Web frameworks detect what a stream is by the `TypeError` that `iter()` raises.
    """


def misused(message: str, hint: str) -> Callable[..., Any]:
    """Return a method that raises `NotSupportedError`."""

    def method(self: object, *_: object) -> Any:
        raise NotSupportedError(message, hint=hint)

    return method


def not_built(kind: str, value: object, wanted: type[T], call: str) -> T:
    """Return `value` if it has the type that only this library passes, so that users do not call a constructor.

    Raises: InvalidArgumentError, which names `call` to use.
    """
    if not isinstance(value, wanted):
        raise InvalidArgumentError(f"{kind} cannot be created by calling the class", hint=f"Write {call}.")
    return value


PREFIX: Final = "realtime:"
MAX_NAME_BYTES: Final = 255

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_QUOTES: Final = "\"'`"
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Default(enum.Enum):
    """The type of an omitted argument, where None has a meaning of its own."""

    DEFAULT = "default"

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT: Final = Default.DEFAULT
Timeout = float | None | Default


class Secret:
    """A token or key: never shown, logged or pickled; `reveal()` is called where the URL or frame is built."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the text."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled; pass the object itself")

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: object) -> "Secret":
        return self


def refuse(name: str, value: object, allowed: str, *, why: str = "", near: object = None) -> InvalidArgumentError:
    """Return the error for a value that is not allowed."""
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "…"
    text = f"{name} must be {allowed}, not {shown}" + (f": {why}" if why else "")
    return InvalidArgumentError(text + (f"; the nearest allowed value is {near!r}" if near is not None else ""))


def check_bool(name: str, value: object) -> bool:
    """Return `value` if it is True or False; other truthy values are refused, since they are probably mistakes."""
    if isinstance(value, bool):
        return value
    near = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(str(value).lower())
    raise refuse(name, value, "True or False", near=near)


def check_choice(name: str, value: object, allowed: Iterable[T]) -> T:
    """Return `value` if it is one of `allowed`."""
    choices = tuple(allowed)
    for choice in choices:
        if value == choice and type(value) is type(choice):
            return choice
    from difflib import get_close_matches  # slow to import, and only needed for errors

    near = get_close_matches(str(value), [str(choice) for choice in choices], n=1, cutoff=0.5)
    raise InvalidArgumentError(
        f"{name} must be one of {', '.join(repr(choice) for choice in choices)}, not {value!r}"
        + (f"; did you mean {near[0]!r}?" if near else "")
    )


def check_number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    minimum: float | None = None,
    below: float | None = None,
    maximum: float | None = None,
    unit: str = "",
    why: str = "",
) -> float:
    """Return `value` unchanged if it is a finite number (no bool) within the bounds."""
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (("above", above), ("at least", minimum), ("below", below), ("at most", maximum))
        if bound is not None
    ]
    allowed = " ".join(filter(None, ["a number", " and ".join(bounds), unit]))
    if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
        hint = "use its total_seconds()" if hasattr(value, "total_seconds") else why
        raise refuse(name, value, allowed, why=hint)
    if (above is not None and value <= above) or (minimum is not None and value < minimum):
        raise refuse(name, value, allowed, why=why, near=minimum)
    if (below is not None and value >= below) or (maximum is not None and value > maximum):
        raise refuse(name, value, allowed, why=why, near=maximum if maximum is not None else _just_below(below))
    return value


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that is too large for a float
        return False


def _just_below(bound: float | None) -> float | None:
    return None if bound is None else bound - 1


def check_count(name: str, value: object, *, minimum: int = 1, maximum: int | None = None, why: str = "") -> int:
    """Return `value` if it is an int (no bool) within the bounds."""
    allowed = f"a whole number of at least {minimum}" + (f" and at most {maximum}" if maximum is not None else "")
    if isinstance(value, bool) or not isinstance(value, int):
        raise refuse(name, value, allowed, why=why)
    if value < minimum:
        raise refuse(name, value, allowed, why=why, near=minimum)
    if maximum is not None and value > maximum:
        raise refuse(name, value, allowed, why=why, near=maximum)
    return value


def check_timeout(value: object, default: float | None, name: str = "timeout") -> float | None:
    """Return the timeout in seconds: `default` if omitted, None for no limit, else a number above 0."""
    if value is DEFAULT:
        return default
    if value is None:
        return None
    return check_number(name, value, above=0, unit="seconds, or None for no limit")


def check_callable(name: str, value: object) -> Callable[..., Any]:
    """Return `value` if it is callable."""
    if not callable(value):
        raise refuse(name, value, "callable")
    return value


def check_plain(name: str, value: object) -> Callable[..., Any]:
    """Return `value` if it is callable and not async: its result would not be awaited."""
    import inspect

    function = check_callable(name, value)
    inner: Any = function
    while isinstance(inner, partial):
        inner = cast("partial[Any]", inner).func
    if any(inspect.iscoroutinefunction(each) for each in (inner, getattr(inner, "__call__", None))):  # noqa: B004
        raise InvalidArgumentError(
            f"{name} must be a plain function, not an async one, whose result would not be awaited",
            hint="In a plain function, start a task with asyncio.create_task(), or put the argument into a queue.",
        )
    return function


def check_takes(name: str, value: object, count: int, allowed: str) -> Callable[..., Any]:
    """Return `value` if it accepts this number of positional arguments; some C functions have no signature and pass.

    Args: allowed: what it should be, for the error text.
    """
    import inspect

    function = check_callable(name, value)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return function
    try:
        signature.bind(*[None] * count)
    except TypeError as error:
        shown = getattr(function, "__qualname__", None) or type(function).__qualname__
        raise InvalidArgumentError(
            f"{name} must be {allowed}; {shown}{signature} cannot be called with this number of arguments"
        ) from error
    return function


def check_kind(name: str, value: object, kind: type[T], allowed: str) -> T:
    """Return `value` if it is an instance of this class."""
    if not isinstance(value, kind):
        raise refuse(name, value, allowed)
    return value


def check_text(name: str, value: object, *, secret: bool = False) -> str:
    """Return `value` if it is a non-empty string without control characters, which would break a header or a URL."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name} must be a string, not {type(value).__name__}")
    shown = f"the given text of {len(value)} characters" if secret else repr(value)
    if not value:
        raise InvalidArgumentError(f"{name} must not be empty")
    if _CONTROL.search(value):
        raise InvalidArgumentError(
            f"{name} must not contain line breaks or control characters, got {shown}; use .strip()"
        )
    check_writable(name, value, shown)
    return value


def check_path(name: str, value: object) -> str:
    """Return the path of a file as text. Raises: InvalidArgumentError: it is not a path."""
    try:
        path = os.fspath(cast("str", value))
    except TypeError:
        path = ""
    if not isinstance(path, str) or not path or "\0" in path:
        raise InvalidArgumentError(f"{name} must be the path of a file, a string or a Path, not {value!r:.80}")
    return path


def check_database_url(url: object, parse: Callable[[str], Mapping[str, Any]]) -> Secret:
    """Return the URL of a database, or a string of libpq, as a `Secret`.

    Args: parse: psycopg's `conninfo_to_dict`.
    Raises: InvalidArgumentError: it has another form. The error never shows it.
    """
    secret = url if isinstance(url, Secret) else Secret(url) if isinstance(url, str) else None
    parts: Mapping[str, Any] = {}
    try:
        parts = {} if secret is None else parse(secret.reveal())
    except Exception:  # noqa: BLE001  its text shows a part of the URL
        secret = None
    # after an "@" in the password that is not escaped, the rest of the password is taken for the host or the port
    if secret is None or not parts or "@" in f"{parts.get('host')}{parts.get('dbname')}":
        raise InvalidArgumentError(
            "url must be the URL of a PostgreSQL database, such as postgresql://user:password@host:5432/postgres",
            hint="Characters such as @ and / in the password must be escaped: urllib.parse.quote(password, safe='').",
        )
    return secret


def check_writable(name: str, text: str, shown: str | None = None) -> int:
    """Return the length of the text in UTF-8 bytes. Raises InvalidArgumentError for unpaired surrogates."""
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(
            f"{name}={shown or repr(text)} cannot be encoded as UTF-8: {error.reason}"
        ) from None  # the cause would show the text


def check_secret(name: str, value: object) -> Secret:
    """Return a token or key as a `Secret`; the error does not show it."""
    if isinstance(value, Secret):
        return value
    text = check_text(name, value, secret=True)
    if not text.isascii() or " " in text:
        raise InvalidArgumentError(f"{name} must be printable ASCII without blanks, as JWTs and keys are; use .strip()")
    return Secret(text)


def check_token(name: str, value: object) -> Secret:
    """Return a token or key as a `Secret`. Refuses a text that looks like a JWT but is damaged.

    For a damaged JWT the real server sends a vague error that looks temporary. Other texts, such as an `sb_` key, are
    left to the server or a gateway to check.
    """
    if isinstance(value, str) and value[:7].lower() == "bearer ":
        raise InvalidArgumentError(f"{name} must be the token alone, without the prefix Bearer")
    secret = check_secret(name, value)
    if (flaw := _flaw(secret.reveal())) is not None:
        raise InvalidArgumentError(
            f"{name} is not a valid JWT: {flaw}",
            hint="Copy it completely, without quotation marks. Keys may also begin with sb_.",
        )
    return secret


def _flaw(text: str) -> str | None:
    """Return why a text that looks like a JWT is not valid, None if it is."""
    if text[0] in _QUOTES or text[-1] in _QUOTES:
        return "it begins or ends with a quotation mark"
    parts = text.split(".")
    if len(parts) != 3:
        return f"it has {len(parts)} parts instead of three" if text.startswith("eyJ") else None
    for part, what in zip(parts, ("header", "payload"), strict=False):
        if not _is_object(part):
            return f"its {what} must be a JSON object in base64"
    return None


def _is_object(part: str) -> bool:
    try:
        raw = urlsafe_b64decode(part + "=" * (-len(part) % 4))
        return isinstance(msgspec.json.decode(raw), dict)
    except (ValueError, msgspec.MsgspecError, RecursionError):  # binascii.Error is a ValueError
        return False


def check_headers(name: str, value: object) -> dict[str, str]:
    """Return a copy of a mapping of HTTP header names to values."""
    pairs = check_pairs(name, value)
    for header in pairs:
        if not _HEADER_NAME.fullmatch(header):
            raise InvalidArgumentError(f"{name}: {header!r} is not a valid name of an HTTP header")
        if header.lower() == "host":
            raise InvalidArgumentError(f"{name}: pass host= instead of a Host header, so that TLS uses the same name")
        if header.lower() in {"connection", "upgrade"} or header.lower().startswith("sec-websocket-"):
            raise InvalidArgumentError(f"{name}: {header} is set by the WebSocket handshake and cannot be overridden")
    return pairs


def check_pairs(name: str, value: object) -> dict[str, str]:
    """Return a copy of a mapping of strings to strings without control characters."""
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"{name} must be a mapping of strings to strings, not {type(value).__name__}")
    pairs: dict[str, str] = {}
    for key, text in cast("Mapping[object, object]", value).items():
        checked = check_text(f"a key of {name}", key)
        pairs[checked] = "" if text == "" else check_text(f"{name}[{checked!r}]", text, secret=True)
    return pairs


def _fits(name: str, text: str, size: int) -> None:
    used = check_writable(name, text)
    if used > size:
        raise InvalidArgumentError(
            f"{name} must have at most {size} bytes of UTF-8, not {used}: its length is encoded in one byte"
        )


def check_topic(topic: object) -> str:
    """Return the full topic, with exactly one prefix `realtime:`, for a topic with or without it; at most 255 bytes."""
    if not isinstance(topic, str):
        raise InvalidArgumentError(f"topic must be a string, not {type(topic).__name__}")
    full = topic if topic.startswith(PREFIX) else PREFIX + topic
    if full == PREFIX:
        raise InvalidArgumentError(f"topic={topic!r} has an empty name, which the server refuses (TopicNameRequired)")
    if "\0" in full:
        raise InvalidArgumentError(
            f"topic={topic!r} contains a NUL character, which the server's database cannot store"
        )
    _fits("topic (with realtime:)", full, MAX_NAME_BYTES)
    return full


def check_event(event: object) -> str:
    """Check the name of a broadcast event: not empty, at most 255 bytes of UTF-8."""
    if not isinstance(event, str):
        raise InvalidArgumentError(f"event must be a string, not {type(event).__name__}")
    if not event:
        raise InvalidArgumentError("event must not be empty")
    if len(event) > MAX_NAME_BYTES or not event.isascii():
        _fits("event", event, MAX_NAME_BYTES)
    return event


def check_key(name: str, value: object) -> str:
    """Check a key that messages of one kind share: text that is not empty, at most 255 bytes of UTF-8."""
    if not isinstance(value, str) or not value:
        raise InvalidArgumentError(f"{name} must be text that is not empty, such as 'cursor:alice', not {value!r}")
    if (used := check_writable(name, value)) > MAX_NAME_BYTES:
        raise InvalidArgumentError(f"{name} must have at most {MAX_NAME_BYTES} bytes of UTF-8, not {used}")
    return value


def check_json(payload: object, name: str = "payload") -> bytes:
    """Encode `payload` as JSON.

    Besides dicts, lists and plain values, all types that msgspec encodes are accepted: dataclasses, attrs classes,
    structs, sets, datetimes, UUIDs; a Decimal and nested bytes become strings, the bytes in base64. Also accepted are
    pydantic models, numpy numbers and arrays, addresses of `ipaddress`, and subclasses of texts, numbers and mappings.
    The page on broadcasts has the table.
    NaN and Infinity, keys other than texts or numbers, and other objects raise `InvalidArgumentError` with their path.
    """
    try:
        encoded = _json.encode(payload)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        where = _bad_place(payload, name) if not isinstance(error, RecursionError) else name
        raise InvalidArgumentError(f"{where} cannot be encoded as JSON: {error}") from error
    if b"null" in encoded and _has_nan(payload):  # NaN was written as null
        path, value = _where_nan(payload, name)
        raise InvalidArgumentError(
            f"{path} cannot be encoded as JSON: {value} is not a JSON number; pass None for null"
        )
    return encoded


def _of_numpy(value: Any) -> object:
    if value.dtype.kind not in "biufUS":  # other dtypes, such as times in nanoseconds, have no Python equivalent
        raise TypeError(f"values of numpy's {value.dtype} cannot be encoded as JSON")
    return value.tolist()


_FOREIGN: Final[Mapping[str, Callable[[Any], object]]] = {"numpy": _of_numpy, "ipaddress": str}
"""By the package of a class."""


def _plain(value: object) -> object:
    """Convert an object of a foreign class to a value that can be encoded."""
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
    raise TypeError(f"objects of type {type(value).__name__} are not supported")


_json: Final = msgspec.json.Encoder(enc_hook=_plain)


def _parts(value: object, path: str) -> Iterable[tuple[object, str]]:
    if isinstance(value, Mapping):
        return [(part, f"{path}[{key!r}]") for key, part in cast("Mapping[object, object]", value).items()]
    if isinstance(value, list | tuple):
        return [(part, f"{path}[{index}]") for index, part in enumerate(cast("Sequence[object]", value))]
    return ()


def _bad_place(value: object, path: str) -> str:
    """Return the path to the innermost value that cannot be encoded."""
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


# --- objects that were never closed

_PACKAGE: Final = str(Path(__file__).parent)


class Site(NamedTuple):
    """A line of the user's code."""

    file: str
    line: int


def call_site() -> Site:
    """Return the innermost line of the call stack that is outside this package."""
    import inspect  # slow to import, and needed only when something is opened

    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return Site("<unknown>", 0) if frame is None else Site(frame.f_code.co_filename, frame.f_lineno)


def warn_unclosed(what: str, site: Site, hint: str) -> None:
    """Emit a `ResourceWarning` for the line that opened an object which was never closed, as Python does for files."""
    text = f"{what} that was opened at {site.file}:{site.line} was never closed; {hint}"
    warnings.warn_explicit(text, ResourceWarning, site.file, site.line)
