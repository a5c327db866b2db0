"""Handlers that count and read, for both clients."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from benchmarks.clients.meter import Meter
from supawire import PresenceSync


@dataclass
class Todo:
    """The changed row as a class of the user."""

    id: int
    title: str
    price: Decimal
    at: datetime
    owner: UUID
    meta: dict[str, Any]
    done: bool
    tags: list[str]


def payload_read(meter: Meter) -> Callable[[Any], None]:
    """Return a handler that reads the payload."""

    def take(message: Any) -> None:
        _ = message.payload
        meter.left -= 1
        if not meter.left:
            meter.stop()

    return take


def record_read(meter: Meter) -> Callable[[Any], None]:
    """Return a handler that reads the row."""

    def take(change: Any) -> None:
        _ = change.record
        meter.left -= 1
        if not meter.left:
            meter.stop()

    return take


def columns_read(meter: Meter) -> Callable[[Any], None]:
    """Return a handler that reads each of the eight columns."""

    def take(change: Any) -> None:
        row = change.record
        _ = row["id"], row["title"], row["price"], row["at"], row["owner"], row["meta"], row["done"], row["tags"]
        meter.left -= 1
        if not meter.left:
            meter.stop()

    return take


def not_read(meter: Meter) -> Callable[[Any], None]:
    """Return a handler that only counts; of presence it counts joins and leaves."""

    def take(event: Any) -> None:
        if event.__class__ is PresenceSync:
            return
        meter.left -= 1
        if not meter.left:
            meter.stop()

    return take


def state_read(meter: Meter) -> Callable[[Any], None]:
    """Return a handler that reads the number of members and one payload after every diff; it keeps the newest state."""
    newest: Any = None

    def take(event: Any) -> None:
        nonlocal newest
        if event.__class__ is not PresenceSync:
            return
        newest = event.state
        assert len(newest) > len(newest["user-1"])
        meter.left -= 1
        if not meter.left:
            meter.stop()

    return take


def everyone_read(meter: Meter) -> Callable[[Any], None]:
    """Return a handler that reads all members after every diff, like a list on a screen; it keeps the newest state."""
    newest: Any = None

    def take(event: Any) -> None:
        nonlocal newest
        if event.__class__ is not PresenceSync:
            return
        newest = event.state
        for metas in newest.values():
            _ = metas[0]
        meter.left -= 1
        if not meter.left:
            meter.stop()

    return take


READERS: Final[dict[str, Callable[[Meter], Callable[[Any], None]]]] = {
    "payload": payload_read,
    "record": record_read,
    "model": record_read,
    "columns": columns_read,
    "nothing": not_read,
    "state": state_read,
    "everyone": everyone_read,
}
