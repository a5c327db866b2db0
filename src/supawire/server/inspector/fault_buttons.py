"""The faults that the page offers, with their arguments: the page draws its buttons from this table."""

from typing import Any, Final, Literal

from msgspec import Struct

from supawire.errors import InvalidArgumentError
from supawire.events import Instant
from supawire.server.hub import Hub

FieldKind = Literal["topic", "connection", "number", "text", "choice", "check"]


class Field(Struct, frozen=True):
    """An argument of a fault. `value`: what the page offers; an empty field is left out, unless it is required."""

    name: str
    label: str
    kind: FieldKind
    value: Any = ""
    choices: tuple[Any, ...] = ()
    required: bool = False


class FaultButton(Struct, frozen=True):
    """A fault: the method of `Faults` with this name. Those without a group are always visible."""

    name: str
    label: str
    group: str
    fields: tuple[Field, ...] = ()
    hint: str = ""


_CONNECTION: Final = Field("connection", "Connection", "connection")
_TOPIC: Final = Field("topic", "Topic", "topic", "*", required=True)
_SECONDS: Final = Field("seconds", "Seconds", "number", 1, required=True)
_EVENTS: Final = ("phx_join", "phx_leave", "broadcast", "presence", "heartbeat")
_CODES: Final = (1006, 1000, 1001, 1009, 1011, 1012)

FAULTS: Final = (
    FaultButton(
        "drop_connections",
        "Drop the connection",
        "",
        (_CONNECTION, Field("code", "Close code", "choice", 1006, _CODES)),
        "1006: without a close code, as when a network fails.",
    ),
    FaultButton(
        "reject_join",
        "Refuse joins",
        "",
        (_TOPIC, Field("reason", "Reason", "text", "Unauthorized: You do not have permissions", required=True)),
    ),
    FaultButton(
        "drop_reply",
        "Lose replies",
        "",
        (Field("event", "To", "choice", "broadcast", _EVENTS, required=True), Field("times", "How many", "number", 1)),
        "The request is executed. Without a number all replies are lost.",
    ),
    FaultButton("expire_tokens", "Expire tokens", "", (_TOPIC,)),
    FaultButton("reset", "Remove all faults", ""),
    FaultButton(
        "refuse_connections",
        "Refuse connections",
        "Connections",
        (Field("times", "How many", "number", 1), Field("status", "HTTP status", "choice", 503, (503, 429, 401, 403))),
        "Without a number all are refused, until they are accepted again.",
    ),
    FaultButton("accept_connections", "Accept connections again", "Connections"),
    FaultButton(
        "block_websockets",
        "Block WebSockets",
        "Connections",
        (Field("status", "HTTP status", "choice", 400, (400, 403, 426, 502), required=True),),
        "Long polling works, until connections are accepted again.",
    ),
    FaultButton(
        "lose_answers",
        "Lose answers of long polling",
        "Connections",
        (
            Field("method", "To", "choice", "GET", ("GET", "POST"), required=True),
            Field("times", "How many", "number", 1, required=True),
        ),
        "The request is executed.",
    ),
    FaultButton("pause", "Pause", "Connections", (_CONNECTION,), "Nothing is answered, as behind a broken network."),
    FaultButton("resume", "Resume", "Connections", (_CONNECTION,)),
    FaultButton("lag", "Delay frames", "Connections", (_SECONDS, _CONNECTION), "0 ends it."),
    FaultButton("request_disconnect", "Ask clients to leave", "Connections", (), "As before a deployment: 1012."),
    FaultButton("garbage", "Send invalid frames", "Connections", (_CONNECTION,)),
    FaultButton(
        "send_raw",
        "Send a frame",
        "Connections",
        (Field("data", "Text", "text", '[null,null,"phoenix","phx_reply",{}]', required=True), _CONNECTION),
    ),
    FaultButton("delay_join", "Delay joins", "Joins and replies", (_TOPIC, _SECONDS)),
    FaultButton("delay_replies", "Delay replies", "Joins and replies", (_SECONDS,), "0 ends it."),
    FaultButton(
        "close_channel",
        "Close channels",
        "Channels",
        (_TOPIC, Field("stale", "Of a former join", "check", False)),
    ),
    FaultButton("crash_channel", "Crash channels", "Channels", (_TOPIC,)),
    FaultButton(
        "send_system",
        "Send a system message",
        "Channels",
        (
            _TOPIC,
            Field("status", "Status", "choice", "error", ("error", "ok")),
            Field("message", "Message", "text", "Something went wrong", required=True),
        ),
    ),
)
_BY_NAME: Final = {button.name: button for button in FAULTS}


def cause(name: str, arguments: dict[str, Any], hub: Hub, now: Instant) -> None:
    """Cause a fault. Raises: InvalidArgumentError: an unknown fault, or arguments that it does not take."""
    button = _BY_NAME.get(name)
    if button is None:
        raise InvalidArgumentError(f"there is no fault {name!r}; there are: {', '.join(_BY_NAME)}")
    fields = {field.name: field for field in button.fields}
    unknown = sorted(arguments.keys() - fields.keys())
    missing = [field.label for field in button.fields if field.required and arguments.get(field.name) in (None, "")]
    if unknown:
        raise InvalidArgumentError(f"{name} has no argument {unknown[0]!r}")
    if missing:
        raise InvalidArgumentError(f"{button.label}: {missing[0]} is empty")
    given = {name: value for name, value in arguments.items() if value not in (None, "")}
    if name == "drop_connections" and given.get("code") == 1006:
        del given["code"]
    hub.at(now)
    if name == "request_disconnect":
        hub.request_disconnect(now)
    else:
        getattr(hub.faults, name)(**given)
