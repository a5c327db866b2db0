"""Frames that do not fit the expected shape, pressed into it (R40).

A server may be older, newer, or odd: a ref that is a number, a `message` that is an object, a broadcast without an
event. Each member is taken when it fits and turned into the nearest thing when it does not, so that nothing raises
and nothing vanishes.
"""

from typing import Any, Final, cast

import msgspec
from msgspec import Raw

from supawire.core.codec import ArrayFrame, Meta, Payload, Typed, encode_json
from supawire.core.frames import Frame
from supawire.types import NULL, ChangeData

_RAW_OF_DATA: Final = ("columns", "record", "old_record", "errors")


def soften(frame: Frame) -> Typed:
    """The typed form of a plain frame."""
    return ArrayFrame(frame.join_ref, frame.ref, frame.topic, frame.event, _payload(frame.payload))


def members(value: object) -> dict[str, Any] | None:
    """The members of a JSON object, None for any other JSON value."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def items(value: object) -> list[Any]:
    """The items of a JSON array, none for any other JSON value."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def _payload(given: Any) -> Payload:
    value = members(given)
    if value is None:
        return Payload(payload=given, response=_raw(given))
    return Payload(
        event=_text(value.get("event")),
        payload=value.get("payload"),
        meta=_meta(value.get("meta")),
        ids=_ids(value.get("ids")),
        data=_data(value.get("data")),
        joins=_raw(value.get("joins")),
        leaves=_raw(value.get("leaves")),
        status=_text(value.get("status")),
        response=_raw(value.get("response")),
        reason=None if value.get("reason") is None else _text(value["reason"]),
        extension=_text(value.get("extension")),
        message=_text(value.get("message")),
    )


def _data(given: Any) -> ChangeData | None:
    value = members(given)
    if value is None:
        return None
    stamp = value.get("commit_timestamp")
    return ChangeData(
        schema=_text(value.get("schema")),
        table=_text(value.get("table")),
        type=_text(value.get("type")).upper(),
        commit_timestamp=stamp if isinstance(stamp, str) else None,
        **{name: _raw(value[name]) for name in _RAW_OF_DATA if name in value},
    )


def _meta(given: Any) -> Meta | None:
    value = members(given)
    if value is None:
        return None
    identity = value.get("id")
    return Meta(id=None if identity is None else _text(identity), replayed=value.get("replayed") is True)


def _ids(value: Any) -> tuple[int, ...]:
    return tuple(item for item in items(value) if isinstance(item, int))


def _text(value: Any) -> str:
    """A string as it is; anything else as its JSON text, which is what a person would want to read."""
    if value is None:
        return ""
    return value if isinstance(value, str) else encode_json(value).decode()


def _raw(value: Any) -> Raw:
    return NULL if value is None else Raw(encode_json(value))


def read(raw: Raw, default: Any = None) -> Any:
    """Plain JSON of an undecoded part, or `default` when it cannot be read."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return default
