"""Requests of the inspector page as JSON: `{"do": "publish", …}`. Each request except `ShowFrames` gets an answer."""

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

KEY_LIFETIME: Final = 10 * 365 * 24 * 3600
ROLES: Final = {"anon": "anon", "service": "service_role"}
MAX_REQUEST: Final = 1_000_000
"""Maximum bytes of a request."""


class Answer(Struct, frozen=True):
    """The result of a request; without an error text it succeeded."""

    to: str
    error: str = ""
    keys: dict[str, str] = {}


class ShowFrames(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="look"):
    """Whether to send frames; a paused page gets none."""

    frames: bool


class PublishCommand(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="publish"):
    """Send a broadcast to every channel of a topic, as the HTTP endpoint does."""

    topic: str
    event: str
    payload: Any
    private: bool = False


class EmitCommand(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="emit"):
    """Deliver a row change; only without a database."""

    type: str
    table: str
    schema: str = "public"
    record: dict[str, Any] | None = None
    old_record: dict[str, Any] | None = None


class Keys(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="keys"):
    """Show the API keys; sent when the user clicks the button."""


Command = ShowFrames | PublishCommand | EmitCommand | Keys
_decoder: Final = msgspec.json.Decoder(Command)


def read(text: str | bytes) -> Command | Answer:
    """Decode a request, or return the error for an invalid one."""
    try:
        return _decoder.decode(text)
    except DECODE_ERRORS as error:
        return Answer("order", f"invalid request: {error}")


def execute(order: PublishCommand | EmitCommand | Keys, hub: Hub, now: Instant) -> Answer:
    """Execute a request. The shell performs the effects."""
    try:
        match order:
            case PublishCommand(topic, event, payload, private):
                _check("topic", topic)
                _check("event", event)
                hub.broadcast(topic, event, payload, now, private=private)
                return Answer("publish")
            case EmitCommand(type, table, schema, record, old_record):
                if hub.options.database:
                    raise InvalidArgumentError("this server has a database; change its rows with SQL")
                _check("table", table)
                hub.emit(make_change(type, table, schema=schema, record=record, old_record=old_record), now)
                return Answer("emit")
            case Keys():
                expires = int(now.wall) + KEY_LIFETIME
                secret = hub.options.secret
                return Answer(
                    "keys", keys={name: sign({"role": role, "exp": expires}, secret) for name, role in ROLES.items()}
                )
    except InvalidArgumentError as error:
        return Answer(str(order.__struct_config__.tag), str(error))


def _check(name: str, value: str) -> None:
    size = len(value.encode())
    if not 0 < size <= MAX_NAME:
        raise InvalidArgumentError(f"{name} has {size} bytes; from 1 to {MAX_NAME} are allowed")
