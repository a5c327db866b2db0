"""What users give to `publish` and `publish_many`, checked, and what they get back."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NotRequired, TypedDict, cast
from uuid import UUID

from msgspec import Struct

from supawire.core.rest import Letter, check_size, letter
from supawire.errors import InvalidArgumentError, PayloadTooLargeError
from supawire.options import check_bool, check_event, check_json, check_topic
from supawire.types import Sent


class Message(TypedDict):
    """One message for `publish_many`: a dict with these keys."""

    topic: str
    event: str
    payload: Any
    private: NotRequired[bool]
    id: NotRequired[str | UUID | None]


_NEEDED: Final = ("topic", "event", "payload")
_KEYS: Final = (*_NEEDED, "private", "id")


class Published(Struct, frozen=True):
    """What `publish_many` did: each message was accepted by the server. That says nothing of anybody having got it.

    `sent`: how each went out, in the order given. `acked` is False for those in a batch: it is accepted as a whole,
    also with private messages that the token may not send, and those are dropped.
    """

    sent: tuple[Sent, ...]

    @property
    def accepted(self) -> int:
        """How many messages the server took."""
        return len(self.sent)


def read_letter(
    topic: object, event: object, payload: object, private: object, id: object, limit: int | None
) -> Letter:
    """One message as it was given. Raises `InvalidArgumentError`, `PayloadTooLargeError`."""
    name = check_topic(topic).removeprefix("realtime:")
    json = not isinstance(payload, bytes | bytearray | memoryview)
    body = check_json(payload) if json else bytes(cast("bytes", payload))
    check_size(body, limit, name)
    return letter(name, check_event(event), body, json=json, private=check_bool("private", private), id=_uuid(id))


def read_letters(messages: Iterable[object], limit: int | None) -> list[Letter]:
    """Many messages; an error says which one it means."""
    if isinstance(messages, Mapping | str | bytes) or not isinstance(messages, Iterable):
        raise InvalidArgumentError(f"messages must be an iterable of dicts, not {cast('object', messages)!r:.80}")
    letters: list[Letter] = []
    for index, message in enumerate(messages):
        try:
            letters.append(_read(message, limit))
        except (InvalidArgumentError, PayloadTooLargeError) as error:
            error.message = f"messages[{index}]: {error.message}"
            raise
    return letters


def _read(message: object, limit: int | None) -> Letter:
    if not isinstance(message, Mapping):
        kind = type(message).__name__
        raise InvalidArgumentError(f"a message is a dict with the keys {', '.join(_NEEDED)}, not {kind}")
    given = cast("Mapping[object, object]", message)
    for key in given:
        if key not in _KEYS:
            from difflib import get_close_matches  # a start needs no near words

            near = get_close_matches(str(key), _KEYS, n=1)
            raise InvalidArgumentError(
                f"{key!r} is none of {', '.join(_KEYS)}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
    if missing := [key for key in _NEEDED if key not in given]:
        raise InvalidArgumentError(f"{' and '.join(missing)} is missing")
    return read_letter(
        given["topic"], given["event"], given["payload"], given.get("private", False), given.get("id"), limit
    )


def _uuid(id: object) -> str | None:
    if id is None or isinstance(id, UUID):
        return None if id is None else str(id)
    try:
        return str(UUID(cast("str", id)))
    except (ValueError, AttributeError, TypeError) as error:
        raise InvalidArgumentError(f"id must be a UUID, as uuid.uuid4() makes them, not {id!r}") from error
