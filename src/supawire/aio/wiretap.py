"""What `on_frame` sees: frames as they are on the wire, without tokens (R48)."""

from typing import Any, Final, Literal, cast

import msgspec

Direction = Literal["in", "out"]

_TOKEN: Final = b'"access_token"'
_HIDDEN: Final = "***"


def redact(data: bytes, *, binary: bool, secret: bool) -> bytes:
    """The frame with every `access_token` member hidden; one that holds a token and cannot be read is hidden whole."""
    if binary or not (secret or _TOKEN in data):
        return data
    try:
        return msgspec.json.encode(_hide(msgspec.json.decode(data)))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _HIDDEN.encode()


def _hide(value: Any) -> Any:
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {name: _HIDDEN if name == "access_token" else _hide(part) for name, part in members.items()}
    if isinstance(value, list):
        return [_hide(part) for part in cast("list[Any]", value)]
    return value
