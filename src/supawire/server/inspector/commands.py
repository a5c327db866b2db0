"""Requests of the inspector page as JSON: `{"do": "publish", …}`. Each request except `ShowFrames` gets an answer."""

from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from supawire.core.frames import MAX_NAME
from supawire.errors import InvalidArgumentError
from supawire.events import Instant
from supawire.server.bindings import make_change
from supawire.server.hub import Hub
from supawire.server.inspector.export import recording, replay_test
from supawire.server.inspector.fault_buttons import cause
from supawire.server.inspector.history import Entry, History, Kind
from supawire.server.inspector.journal import frame_line
from supawire.server.tokens import sign
from supawire.server.wire import DECODE_ERRORS

KEY_LIFETIME: Final = 10 * 365 * 24 * 3600
ROLES: Final = {"anon": "anon", "service": "service_role"}
MAX_COPIED: Final = 2_000_000
"""Maximum characters of a payload that is copied."""
MAX_REQUEST: Final = 1_000_000
"""Maximum bytes of a request."""


class SqlResult(Struct, frozen=True, omit_defaults=True):
    """The result of a statement: its rows as texts, None for NULL; `command` as psql prints it."""

    columns: list[str] = []
    rows: list[list[str | None]] = []
    more: bool = False
    """Whether there are more rows than are shown."""
    command: str = ""
    seconds: float = 0.0


class Answer(Struct, frozen=True, omit_defaults=True):
    """The result of a request; without an error text it succeeded.

    `number`: that of the frame it is about. `text`: an export, or a whole payload.
    """

    to: str
    error: str = ""
    keys: dict[str, str] = {}
    number: int = 0
    text: str = ""
    result: SqlResult | None = None


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


class FaultCommand(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="fault"):
    """Cause a fault, see `fault_buttons.py`."""

    name: str
    arguments: dict[str, Any] = {}


class ResendCommand(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="resend"):
    """Handle a frame from a client again, or send a frame to its clients again."""

    number: int


class PayloadCommand(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="payload"):
    """Return the whole payload of a frame."""

    number: int


class ExportCommand(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="export"):
    """Return what has happened since an entry of the history, as a recording or as a test."""

    form: Literal["recording", "pytest"]
    since: int = 0


class SqlCommand(Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="sql"):
    """Run SQL in the database; only with a database."""

    text: str


Request = PublishCommand | EmitCommand | Keys | FaultCommand | ResendCommand | PayloadCommand | ExportCommand
"""A request that is answered at once."""
Command = ShowFrames | SqlCommand | Request
_decoder: Final = msgspec.json.Decoder(Command)


def read(text: str | bytes) -> Command | Answer:
    """Decode a request, or return the error for an invalid one."""
    try:
        return _decoder.decode(text)
    except DECODE_ERRORS as error:
        return Answer("order", f"invalid request: {error}")


def execute(order: Request, hub: Hub, history: History, now: Instant) -> Answer:
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
            case FaultCommand(name, arguments):
                cause(name, arguments, hub, now)
                return Answer("fault")
            case ResendCommand(number):
                _resend(_frame(history, number), hub, history, now)
                return Answer("resend", number=number)
            case PayloadCommand(number):
                text = frame_line(_frame(history, number), most=MAX_COPIED, whole=True).payload
                return Answer("payload", number=number, text=text)
            case ExportCommand(form, since):
                entries = history.since(since)
                return Answer("export", text=recording(entries) if form == "recording" else replay_test(entries))
    except InvalidArgumentError as error:
        number = order.number if isinstance(order, ResendCommand | PayloadCommand) else 0
        return Answer(str(order.__struct_config__.tag), str(error), number=number)


def _frame(history: History, number: int) -> Entry:
    entry = history.find(number)
    if entry is None or entry.kind not in (Kind.IN, Kind.OUT):
        raise InvalidArgumentError("this frame is no longer kept", hint="Use a newer one.")
    return entry


def _resend(entry: Entry, hub: Hub, history: History, now: Instant) -> None:
    hub.at(now)
    there = [number for number in entry.connections if number in hub.connections.peers]
    if not there:
        raise InvalidArgumentError("the connection of this frame has ended")
    for number in there:
        if entry.kind is Kind.OUT:
            hub.faults.send_raw(entry.data, binary=entry.binary, connection=number)
        else:
            history.frame_received(number, entry.data, entry.binary, now)
            hub.receive(number, entry.data, entry.binary, now)


def _check(name: str, value: str) -> None:
    size = len(value.encode())
    if not 0 < size <= MAX_NAME:
        raise InvalidArgumentError(f"{name} has {size} bytes; from 1 to {MAX_NAME} are allowed")
