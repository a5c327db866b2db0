"""Events as JSON objects with stable names, and as lines for people."""

from datetime import UTC, datetime
from typing import Any, Final, cast

from supawire._display import printable
from supawire.cli.output import MAX_LINE, shown, to_json
from supawire.errors import RealtimeError, RowError
from supawire.events import (
    Broadcast,
    ChannelState,
    ConnectionState,
    Delete,
    Event,
    Gap,
    Insert,
    Presence,
    PresenceJoin,
    PresenceLeave,
    PresenceSync,
    PresenceUpdate,
    Status,
    System,
    Update,
)

Fields = dict[str, Any]
Parts = list[str | tuple[str, str]]

_PRESENCE: Final = {PresenceJoin: "join", PresenceLeave: "leave", PresenceUpdate: "update", PresenceSync: "sync"}
_PASSING: Final = (
    ChannelState.WAITING,
    ChannelState.JOINING,
    ChannelState.LEAVING,
    ChannelState.CLOSED,
    ConnectionState.CONNECTING,
)
_STYLES: Final = {"INSERT": "green", "UPDATE": "yellow", "DELETE": "red"}


def event_fields(event: Event, received_at: datetime | None = None) -> Fields:
    """Return an event as a JSON object; `kind` is broadcast, change, presence, system, gap or status."""
    at = {"received_at": received_at or datetime.now(UTC)}
    match event:
        case Broadcast():
            fields: Fields = {"kind": "broadcast", "topic": event.topic, "event": event.event}
            fields |= _read("payload", event)
            fields |= {"id": event.id} if event.id else {}
            fields |= {"replayed": True} if event.replayed else {}
            return fields | at
        case Insert() | Update() | Delete():
            return _change(cast("Insert | Update | Delete", event)) | at
        case PresenceJoin() | PresenceLeave() | PresenceUpdate():
            kind = {"kind": "presence", "topic": event.topic, "type": _PRESENCE[type(event)], "key": event.key}
            return kind | {"current": _entries(event.current), "previous": _entries(event.previous)} | at
        case PresenceSync():
            state = {key: _entries(entries) for key, entries in event.state.items()}
            return {"kind": "presence", "topic": event.topic, "type": "sync", "state": state, **at}
        case System():
            fields = {"kind": "system", "topic": event.topic, "extension": event.extension}
            return fields | {"status": event.status, "message": event.message} | at
        case Gap():
            fields = {"kind": "gap", "topic": event.topic, "started_at": event.started_at, "ended_at": event.ended_at}
            lost = sorted(event.lost)
            return fields | {
                "reason": event.reason, "lost": lost, "verdict": event.verdict, "replayed": event.replayed, **at
            }  # fmt: skip
        case Status():
            fields = {
                "kind": "status",
                "topic": event.topic,
                "state": str(event.state),
                "previous": str(event.previous),
            }
            return fields | {"ready": event.ready, "cause": _cause(event.cause)} | at


def is_data(event: Event) -> bool:
    """Return whether this counts as an event for `--count`: not a state, a message of the server, a gap or a sync."""
    return not isinstance(event, Status | System | Gap | PresenceSync)


def is_passing(event: Event) -> bool:
    """Return whether this is a state that is not shown, because the next one follows at once."""
    return isinstance(event, Status) and event.state in _PASSING


def _change(event: Insert[Any] | Update[Any] | Delete) -> Fields:
    fields: Fields = {
        "kind": "change", "topic": event.topic, "type": event.type, "schema": event.schema, "table": event.table
    }  # fmt: skip
    if not isinstance(event, Delete):
        fields |= _read("record", event)
    if not isinstance(event, Insert):
        fields |= _read("old_record", event)
    fields |= {"columns": {column.name: column.type for column in event.columns}}
    fields |= _read("commit_timestamp", event)
    return fields | ({"errors": list(event.errors)} if event.errors else {})


def _read(name: str, event: Any) -> Fields:
    """Return a part of an event, or why it cannot be read, so that one bad value does not end a command."""
    try:
        return {name: getattr(event, name)}
    except RowError as error:
        return {name: None, f"{name}_error": str(error)}


def _entries(entries: tuple[Presence[Any], ...]) -> list[Fields]:
    return [_read("payload", entry) | {"ref": entry.ref} for entry in entries]


def _cause(cause: RealtimeError | None) -> Fields | None:
    if cause is None:
        return None
    return {"error": type(cause).__name__, "code": cause.code, "message": cause.message, "hint": cause.hint}


def event_line(event: Event) -> Parts:
    """Return an event as a line for people: time, kind, name, content."""
    fields = event_fields(event)
    time = (f"{fields['received_at'].astimezone():%H:%M:%S} ", "dim")
    match event:
        case Broadcast():
            extra = " (replayed)" if event.replayed else ""
            return [time, ("broadcast ", "cyan"), (shown(event.event), "bold"), " ", _value(fields, "payload"), extra]
        case Insert() | Update() | Delete():
            table = shown(f"{event.schema}.{event.table}")
            parts: Parts = [time, (f"{event.type} ", _STYLES[event.type]), (table, "bold")]
            parts += [" ", _value(fields, "record")] if "record" in fields else []
            old = fields.get("old_record")
            parts += [(" was " if "record" in fields else " ", "dim"), shown(old)] if old else []
            return [*parts, (f" {shown(', '.join(event.errors))}", "red") if event.errors else ""]
        case PresenceJoin() | PresenceLeave() | PresenceUpdate():
            entries = event.previous if isinstance(event, PresenceLeave) else event.current
            payloads = " ".join(_value(entry, "payload") for entry in _entries(entries))
            return [time, (f"presence {fields['type']} ", "magenta"), (shown(event.key), "bold"), " ", payloads]
        case PresenceSync():
            return [time, ("presence sync ", "magenta"), f"{len(event.state)} present"]
        case System():
            style = "dim" if event.status == "ok" else "red"
            return [time, (f"system {shown(event.extension)} {shown(event.status)}: {shown(event.message)}", style)]
        case Gap():
            lost = f", perhaps lost: {', '.join(sorted(event.lost))}" if event.lost else ""
            seconds = (event.ended_at - event.started_at).total_seconds()
            return [time, (f"gap of {seconds:.1f} s: {shown(event.reason)}{lost} ({event.verdict})", "yellow")]
        case Status():
            return [time, _status_text(event)]


def _status_text(event: Status) -> tuple[str, str]:
    who = "connection" if event.topic is None else f"channel {shown(event.topic)}"
    cause = f": {shown(str(event.cause))}" if event.cause is not None else ""
    ready = ", ready" if event.ready else ""
    return f"{who} {event.state}{ready}{cause}", "red" if event.cause is not None else "dim"


def _value(fields: Fields, name: str) -> str:
    error = fields.get(f"{name}_error")
    return f"({shown(error)})" if error else shown_json(fields[name])


def shown_json(value: Any) -> str:
    """Return a value as JSON on one line; text is in quotation marks."""
    return printable(to_json(value), MAX_LINE)
