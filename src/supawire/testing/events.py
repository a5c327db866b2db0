"""Create events as a client receives them, for unit tests of code that handles them.

    from supawire.testing import insert

    def test_a_new_order_is_shipped():
        ship(insert("orders", {"id": 7, "status": "paid"}))

Rows are converted to the wire format of the server and back, so a `Decimal` or `datetime` of a test is decoded as in a
real change.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import count
from typing import Any, TypeVar, overload

import msgspec
from msgspec import UNSET, Raw

from supawire._mirror_events import Resynced, Row, RowDeleted, RowInserted, RowUpdated
from supawire._validation import check_json
from supawire._values.encode import infer_columns, to_wire
from supawire._values.models import check_model
from supawire._values.rows import Column
from supawire.aio.mirror import check_key, make_row_view
from supawire.core.table_copy import KeyColumns
from supawire.errors import InvalidArgumentError
from supawire.events import (
    Broadcast,
    ChangeData,
    Delete,
    Insert,
    LateBroadcast,
    Presence,
    PresenceJoin,
    PresenceLeave,
    PresenceSync,
    PresenceUpdate,
    Update,
    sync_of,
)
from supawire.options import check_event

M = TypeVar("M")

Columns = Mapping[str, str] | Sequence[Column]
"""Names and PostgreSQL types, such as {"id": "int8"}; if omitted, they are inferred from the values."""

_TOPIC = "test"
_refs = count(1)


@overload
def insert(
    table: str, record: Mapping[str, Any], *, schema: str = ..., topic: str = ..., columns: Columns | None = ...,
    commit_timestamp: datetime | None = ..., errors: Sequence[str] = ..., model: None = None,
) -> Insert[dict[str, Any]]: ...  # fmt: skip
@overload
def insert(
    table: str, record: Mapping[str, Any], *, schema: str = ..., topic: str = ..., columns: Columns | None = ...,
    commit_timestamp: datetime | None = ..., errors: Sequence[str] = ..., model: type[M],
) -> Insert[M]: ...  # fmt: skip
def insert(
    table: str,
    record: Mapping[str, Any],
    *,
    schema: str = "public",
    topic: str = _TOPIC,
    columns: Columns | None = None,
    commit_timestamp: datetime | None = None,
    errors: Sequence[str] = (),
    model: type[Any] | None = None,
) -> Insert[Any]:
    """Create the event of an inserted row.

    Args: columns: column names and PostgreSQL types; if omitted, they are inferred from the values. model: as for
        `changes(model=…)`.
    Raises: InvalidArgumentError: a value without a matching column type.
    """
    data = _change("INSERT", table, record, None, schema, columns, commit_timestamp, errors)
    return _with_model(Insert(topic, data), model)


@overload
def update(
    table: str, record: Mapping[str, Any], old_record: Mapping[str, Any] | None = ..., *, schema: str = ...,
    topic: str = ..., columns: Columns | None = ..., commit_timestamp: datetime | None = ...,
    errors: Sequence[str] = ..., model: None = None,
) -> Update[dict[str, Any]]: ...  # fmt: skip
@overload
def update(
    table: str, record: Mapping[str, Any], old_record: Mapping[str, Any] | None = ..., *, schema: str = ...,
    topic: str = ..., columns: Columns | None = ..., commit_timestamp: datetime | None = ...,
    errors: Sequence[str] = ..., model: type[M],
) -> Update[M]: ...  # fmt: skip
def update(
    table: str,
    record: Mapping[str, Any],
    old_record: Mapping[str, Any] | None = None,
    *,
    schema: str = "public",
    topic: str = _TOPIC,
    columns: Columns | None = None,
    commit_timestamp: datetime | None = None,
    errors: Sequence[str] = (),
    model: type[Any] | None = None,
) -> Update[Any]:
    """Create the event of an updated row.

    Args: old_record: the part of the old row that the server sends, only the key without REPLICA IDENTITY FULL; if
        omitted, an empty row. The others as for `insert`.
    Raises: InvalidArgumentError: a value without a matching column type.
    """
    data = _change("UPDATE", table, record, old_record or {}, schema, columns, commit_timestamp, errors)
    return _with_model(Update(topic, data), model)


def delete(
    table: str,
    old_record: Mapping[str, Any],
    *,
    schema: str = "public",
    topic: str = _TOPIC,
    columns: Columns | None = None,
    commit_timestamp: datetime | None = None,
    errors: Sequence[str] = (),
) -> Delete:
    """Create the event of a deleted row.

    Args: old_record: the part of the old row that the server sends, only the key without REPLICA IDENTITY FULL. The
        others as for `insert`.
    Raises: InvalidArgumentError: a value without a matching column type.
    """
    return Delete(topic, _change("DELETE", table, None, old_record, schema, columns, commit_timestamp, errors))


@overload
def broadcast(
    event: str, payload: Any, *, topic: str = ..., id: str | None = ..., replayed: bool = ..., model: None = None
) -> Broadcast[Any]: ...
@overload
def broadcast(
    event: str, payload: Any, *, topic: str = ..., id: str | None = ..., replayed: bool = ..., model: type[M]
) -> Broadcast[M]: ...
def broadcast(
    event: str,
    payload: Any,
    *,
    topic: str = _TOPIC,
    id: str | None = None,
    replayed: bool = False,
    model: type[Any] | None = None,
) -> Broadcast[Any]:
    """Create the event of a received message; its payload is encoded as JSON and decoded, unless it is `bytes`.

    Args: id: of a stored message. model: as for `broadcast(model=…)` of `supawire`.
    Raises: InvalidArgumentError: a payload that cannot be encoded as JSON.
    """
    name = check_event(event)
    made = check_model(model)
    raw = payload if isinstance(payload, bytes) else check_json(payload)
    if made is not None:
        return LateBroadcast(topic, name, UNSET, id, replayed, b"", raw if raw is payload else Raw(raw), made)
    return Broadcast(topic, name, raw if raw is payload else msgspec.json.decode(raw), id, replayed)


@overload
def presence(
    key: str, payload: Mapping[str, Any] | None = None, *, ref: str | None = ..., previous_ref: str | None = ...,
    model: None = None,
) -> Presence[dict[str, Any]]: ...  # fmt: skip
@overload
def presence(
    key: str, payload: Mapping[str, Any] | None = None, *, ref: str | None = ..., previous_ref: str | None = ...,
    model: type[M],
) -> Presence[M]: ...  # fmt: skip
def presence(
    key: str,
    payload: Mapping[str, Any] | None = None,
    *,
    ref: str | None = None,
    previous_ref: str | None = None,
    model: type[Any] | None = None,
) -> Presence[Any]:
    """Create one participant's entry, as contained in presence events and `presence_state()`.

    Args: ref, previous_ref: the server's references of this entry and of the one that it replaces; if omitted, a new
        one and None. model: as for `presence(model=…)` of `supawire`.
    """
    own = ref or f"ref-{next(_refs)}"
    made = check_model(model)
    raw = Raw(_object(dict(payload or {}), "payload"))
    return Presence(key, own, previous_ref, raw, UNSET if made is None else made)


def presence_join(*current: Presence[M], previous: Sequence[Presence[M]] = (), topic: str = _TOPIC) -> PresenceJoin[M]:
    """Create the event of a participant who joined.

    Args: current, previous: all entries of the key, after and before.
    """
    return PresenceJoin(topic, _key_of((*current, *previous)), current, tuple(previous))


def presence_leave(
    *previous: Presence[M], current: Sequence[Presence[M]] = (), topic: str = _TOPIC
) -> PresenceLeave[M]:
    """Create the event of a participant who left. Args: previous, current: all entries of the key, before and after."""
    return PresenceLeave(topic, _key_of((*previous, *current)), tuple(current), previous)


def presence_update(current: Presence[M], previous: Presence[M], *, topic: str = _TOPIC) -> PresenceUpdate[M]:
    """Create the event of a participant who tracked another payload."""
    return PresenceUpdate(topic, _key_of((current, previous)), (current,), (previous,))


def presence_sync(*here: Presence[M], topic: str = _TOPIC) -> PresenceSync[M]:
    """Create the event of a complete state. Args: here: the entries of all participants."""
    state: dict[str, tuple[Presence[M], ...]] = {}
    for one in here:
        state[one.key] = (*state.get(one.key, ()), one)
    return sync_of(topic, state)


def row_inserted(
    row: Mapping[str, Any], *, key: str | Sequence[str], model: type[Any] | None = None
) -> RowInserted[Any]:
    """Create the mirror's event of an added row. Args: key, model: those of the mirror."""
    return RowInserted(dict(row), make_row_view(_columns(key, row), check_model(model)))


def row_updated(
    row: Mapping[str, Any], old: Mapping[str, Any], *, key: str | Sequence[str], model: type[Any] | None = None
) -> RowUpdated[Any]:
    """Create the mirror's event of a changed row. Args: key, model: those of the mirror."""
    return RowUpdated(dict(row), dict(old), make_row_view(_columns(key, row, old), check_model(model)))


def row_deleted(old: Mapping[str, Any], *, key: str | Sequence[str], model: type[Any] | None = None) -> RowDeleted[Any]:
    """Create the mirror's event of a removed row. Args: key, model: those of the mirror."""
    return RowDeleted(dict(old), make_row_view(_columns(key, old), check_model(model)))


def resynced(
    rows: Sequence[Mapping[str, Any]],
    before: Sequence[Mapping[str, Any]] = (),
    *,
    key: str | Sequence[str],
    reason: str = "first",
    model: type[Any] | None = None,
) -> Resynced[Any]:
    """Create the mirror's event of a reload.

    Args: rows: all rows of the mirror. before: the rows that the iterator had reported. key, model: those of the
    mirror.
    """
    columns = _columns(key, *rows, *before)

    def by_key(rows: Sequence[Mapping[str, Any]]) -> dict[Any, Row]:
        return {columns.of(row): dict(row) for row in rows}

    return Resynced(reason, by_key(before), by_key(rows), make_row_view(columns, check_model(model)))


def _change(
    kind: str,
    table: str,
    record: Mapping[str, Any] | None,
    old_record: Mapping[str, Any] | None,
    schema: str,
    columns: Columns | None,
    committed: datetime | None,
    errors: Sequence[str],
) -> ChangeData:
    given = {name: row for name, row in (("record", record), ("old_record", old_record)) if row is not None}
    for name, row in given.items():
        _check_mapping(row, name)
    listed = _listed(columns, {**(old_record or {}), **(record or {})})
    return ChangeData(
        schema=schema,
        table=table,
        type=kind,
        commit_timestamp=None if committed is None else committed.isoformat(),
        columns=Raw(msgspec.json.encode(listed)),
        errors=Raw(msgspec.json.encode(list(errors) or None)),
        **{name: Raw(_object(row, name)) for name, row in given.items()},
    )


def _listed(columns: Columns | None, row: Mapping[str, Any]) -> list[dict[str, str]]:
    if columns is None:
        return infer_columns(row)
    if isinstance(columns, Mapping):
        return [{"name": name, "type": kind} for name, kind in columns.items()]
    return [{"name": column.name, "type": column.type} for column in columns]


def _check_mapping(row: object, name: str) -> None:
    if not isinstance(row, Mapping):
        raise InvalidArgumentError(f"{name} must be a mapping from name to value, not {type(row).__name__}")


def _object(row: Mapping[str, Any], name: str) -> bytes:
    _check_mapping(row, name)
    return msgspec.json.encode(to_wire(row))


def _with_model(change: Any, model: type[Any] | None) -> Any:
    made = check_model(model)
    return change if made is None else msgspec.structs.replace(change, _record=made)


def _key_of(entries: Sequence[Presence[Any]]) -> str:
    keys = {entry.key for entry in entries}
    if len(keys) != 1:
        raise InvalidArgumentError(f"all entries of an event must have the same key, got {len(keys)} keys")
    return keys.pop()


def _columns(key: str | Sequence[str], *rows: Mapping[str, Any]) -> KeyColumns:
    columns = check_key(key)
    for row in rows:
        lacking = [name for name in columns if row.get(name) is None]
        if lacking:
            raise InvalidArgumentError(f"a row has no {', '.join(lacking)}, which key= requires")
    return KeyColumns(columns)
