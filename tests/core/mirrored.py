"""Changes and a table for the tests of mirrors."""

from collections.abc import Mapping
from typing import Any

from msgspec import Raw, json

from supawire._changes import NULL, ChangeData, type_of_change
from supawire._mirrored import Row, Shown
from supawire.types import Gap, Instant

COLUMNS = {"id": "int8", "a": "int4", "big": "text", "v": "int8"}
PLAIN = Shown(lambda row: row["id"], dict)


def change(
    kind: str,
    row: Mapping[str, Any],
    old: Mapping[str, Any] | None = None,
    *,
    table: str = "users",
    columns: Mapping[str, str] = COLUMNS,
    errors: str | None = None,
) -> Any:
    """A change as it comes from the wire; of an UPDATE the old row is its key, if it is not given."""
    listed = [{"name": name, "type": kind} for name, kind in columns.items()]
    data = ChangeData("public", table, kind, "2026-11-24T12:00:00.000Z", Raw(json.encode(listed)))
    if kind != "DELETE":
        data.record = Raw(json.encode(row))
    if kind != "INSERT":
        data.old_record = Raw(json.encode({"id": row["id"]} if old is None else old))
    data.errors = NULL if errors is None else Raw(json.encode([errors]))
    return type_of_change[kind]("users", data)


def row(key: int, a: int = 0, big: str = "x", v: int = 0) -> Row:
    """A row of the table that most tests use."""
    return {"id": key, "a": a, "big": big, "v": v}


def at(mono: float) -> Instant:
    """An instant."""
    return Instant(mono, 1_764_000_000.0 + mono)


def gap(*lost: str) -> Gap:
    """Something was missed."""
    return Gap("users", at(0).at(), at(1).at(), "connection_lost", lost=frozenset(lost))
