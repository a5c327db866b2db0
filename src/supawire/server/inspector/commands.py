"""What the page may ask for, as JSON: `{"do": "publish", …}`. Each order but `Look` is answered."""

from typing import Any, Final

import msgspec
from msgspec import Struct

from supawire.core.frames import MAX_NAME
from supawire.errors import InvalidArgumentError
from supawire.events import Instant
from supawire.server.bindings import make_change
from supawire.server.hub import Hub
from supawire.server.tokens import sign
from supawire.server.wire import DECODE_ERRORS

YEARS: Final = 10 * 365 * 24 * 3600
ROLES: Final = {"anon": "anon", "service": "service_role"}
LONGEST: Final = 1_000_000
"""Bytes of an order."""


class Answer(Struct, frozen=True):
    """What became of an order: nothing said is good news."""

    to: str
    error: str = ""
    keys: dict[str, str] = {}


class Look(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="look"):
    """Whether frames are wanted; a page that pauses gets none."""

    frames: bool


class Publish(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="publish"):
    """Send a broadcast to everyone in a channel, as the HTTP interface does."""

    topic: str
    event: str
    payload: Any
    private: bool = False


class Emit(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="emit"):
    """A row changes, at the memory level."""

    type: str
    table: str
    schema: str = "public"
    record: dict[str, Any] | None = None
    old_record: dict[str, Any] | None = None


class Keys(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="keys"):
    """Somebody clicked to see the keys."""


Order = Look | Publish | Emit | Keys
_decoder: Final = msgspec.json.Decoder(Order)


def read(text: str | bytes) -> Order | Answer:
    """An order, or the answer to what is none."""
    try:
        return _decoder.decode(text)
    except DECODE_ERRORS as error:
        return Answer("order", f"not understood: {error}")


def obey(order: Publish | Emit | Keys, hub: Hub, now: Instant) -> Answer:
    """Do it; the shell pumps."""
    try:
        match order:
            case Publish(topic, event, payload, private):
                _check("topic", topic)
                _check("event", event)
                hub.broadcast(topic, event, payload, now, private=private)
                return Answer("publish")
            case Emit(type, table, schema, record, old_record):
                if hub.options.database:
                    raise InvalidArgumentError("this server has a database: rows change there, by SQL")
                _check("table", table)
                hub.emit(make_change(type, table, schema=schema, record=record, old_record=old_record), now)
                return Answer("emit")
            case Keys():
                expires = int(now.wall) + YEARS
                secret = hub.options.secret
                return Answer(
                    "keys", keys={name: sign({"role": role, "exp": expires}, secret) for name, role in ROLES.items()}
                )
    except InvalidArgumentError as error:
        return Answer(order.__class__.__name__.lower(), str(error))


def _check(name: str, value: str) -> None:
    size = len(value.encode())
    if not 0 < size <= MAX_NAME:
        raise InvalidArgumentError(f"{name} has {size} bytes; from 1 to {MAX_NAME} are allowed")
