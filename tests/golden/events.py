"""Convert events of the client to the tuples with which `expected.py` describes them."""

from typing import Any

from supawire.errors import RowError
from supawire.events import (
    Broadcast,
    Presence,
    PresenceJoin,
    PresenceLeave,
    PresenceState,
    PresenceSync,
    PresenceUpdate,
    System,
)

from .expected import UNREADABLE


def state_of(state: PresenceState) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    return {key: metas_of(metas) for key, metas in state.items()}


def metas_of(metas: tuple[Presence, ...]) -> list[tuple[str, dict[str, Any]]]:
    return [(meta.ref, meta.payload) for meta in metas]


def as_tuple(event: Any) -> tuple[Any, ...]:
    """Return an event as a tuple; its payload is read now."""
    match event:
        case Broadcast():
            try:
                payload = event.payload
            except RowError:
                payload = UNREADABLE
            return ("broadcast", event.event, payload, event.id, event.replayed)
        case System():
            return ("system", event.extension, event.status, event.message)
        case PresenceJoin() | PresenceLeave() | PresenceUpdate():
            kind = type(event).__name__.removeprefix("Presence").lower()
            return (kind, event.key, metas_of(event.current), metas_of(event.previous))
        case PresenceSync():
            return ("sync", state_of(event.state))
        case _:
            record = getattr(event, "record", None)
            old = getattr(event, "old_record", None)
            columns = tuple((column.name, column.type) for column in event.columns)
            source = (event.type, event.schema, event.table, columns)
            return (*source, record, old, event.commit_timestamp, event.errors)
