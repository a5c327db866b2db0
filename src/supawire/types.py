"""What users receive and look at: events, presence, states, results (api: "What handlers and iterators receive").

Events are made for every frame, so they are `msgspec` structs that cost next to nothing to make, and what is
expensive (`payload`, `record`) is decoded when it is first read, then kept. Server data is never validated here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import force_setattr

from supawire.errors import RealtimeError, RowError
from supawire.rows import Column, decode_columns, decode_row

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")

NULL: Final = Raw(b"null")

_json: Final = msgspec.json.Decoder()


class Instant(NamedTuple):
    """One reading of both clocks, in seconds: deadlines are on `mono`, token expiry and gaps on `wall` (Unix time)."""

    mono: float
    wall: float

    def at(self) -> datetime:
        """The wall clock's reading in UTC."""
        return datetime.fromtimestamp(self.wall, UTC)


class LinkState(StrEnum):
    """Where the one connection of a client stands."""

    IDLE = "idle"
    CONNECTING = "connecting"
    OPEN = "open"
    RETRYING = "retrying"
    CLOSING = "closing"
    CLOSED = "closed"


class ChannelState(StrEnum):
    """Where a channel stands."""

    IDLE = "idle"
    WAITING = "waiting"
    JOINING = "joining"
    JOINED = "joined"
    REJOINING = "rejoining"
    RETRYING = "retrying"
    LEAVING = "leaving"
    FAILED = "failed"
    CLOSED = "closed"


def _read(raw: Raw | bytes, what: str) -> Any:
    try:
        return _json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RowError(f"{what} is not JSON that can be read: {error}", raw=bytes(raw)) from error


# --- broadcast ------------------------------------------------------------------------------------------------------


class Broadcast(Struct, Generic[P], frozen=True, gc=False, eq=False):
    """A message of another client, of the HTTP interface, or of the database (protocol §6).

    `payload` is any JSON value, or `bytes` for a binary message. `id` is there for messages that the server stored;
    `replayed` says that it was sent before this channel joined.
    """

    topic: str
    event: str
    _raw: Raw | bytes
    id: str | None = None
    replayed: bool = False
    _binary: bool = False
    _payload: Any = UNSET

    @property
    def payload(self) -> P:
        """The message. Raises `RowError` when its text is not JSON after all."""
        if self._payload is UNSET:
            value = bytes(self._raw) if self._binary else _read(self._raw, "the payload")
            force_setattr(self, "_payload", value)
        return cast("P", self._payload)

    def __repr__(self) -> str:
        kept = "".join((f", id={self.id!r}" if self.id else "", ", replayed=True" if self.replayed else ""))
        size = memoryview(self._raw).nbytes
        return f"Broadcast(topic={self.topic!r}, event={self.event!r}, payload=<{size} bytes>{kept})"


# --- changes --------------------------------------------------------------------------------------------------------


class ChangeData(Struct, gc=False):
    """`data` of a `postgres_changes` frame as it came; rows and columns stay undecoded (protocol §4.4)."""

    schema: str = ""
    table: str = ""
    type: str = ""
    commit_timestamp: str | None = None
    columns: Raw = NULL
    record: Raw = NULL
    old_record: Raw = NULL
    errors: Raw = NULL


class _Change(Struct, frozen=True, gc=False, eq=False):
    topic: str
    _data: ChangeData
    _record: Any = UNSET
    _old_record: dict[str, Any] | UnsetType = UNSET

    @property
    def schema(self) -> str:
        """The table's schema."""
        return self._data.schema

    @property
    def table(self) -> str:
        """The table's name."""
        return self._data.table

    @property
    def commit_timestamp(self) -> datetime | None:
        """When the transaction was committed; None on rows that the server could not read."""
        text = self._data.commit_timestamp
        try:
            return datetime.fromisoformat(text) if text else None
        except ValueError as error:
            raise RowError(f"commit_timestamp {text!r} is no time", raw=text.encode() if text else None) from error

    @property
    def columns(self) -> tuple[Column, ...]:
        """Name and PostgreSQL type of each visible column, in the table's order."""
        return decode_columns(self._data.columns)

    @property
    def errors(self) -> tuple[str, ...]:
        """What the server says is wrong with this row, nearly always nothing."""
        errors = _read(self._data.errors, "errors")
        if errors is None:
            return ()
        return tuple(map(str, cast("list[Any]", errors))) if isinstance(errors, list) else (str(errors),)

    @property
    def truncated(self) -> bool:
        """The row was too large: values over 64 bytes are missing (`Error 413`)."""
        return any("413" in error for error in self.errors)

    @property
    def unauthorized(self) -> bool:
        """The role may not read the row's key: the row is empty (`Error 401`)."""
        return any("401" in error for error in self.errors)

    @property
    def raw(self) -> dict[str, Any]:
        """`data` of the frame as plain JSON, nothing converted."""
        data = self._data
        parts = {"columns": data.columns, "record": data.record, "old_record": data.old_record, "errors": data.errors}
        plain = {"schema": data.schema, "table": data.table, "type": data.type}
        return {
            **plain,
            "commit_timestamp": data.commit_timestamp,
            **{name: _read(part, name) for name, part in parts.items() if part is not NULL},
        }

    def _row(self, kept: str, raw: Raw) -> dict[str, Any]:
        value = decode_row(self._data.columns, raw)
        force_setattr(self, kept, value)
        return value

    def __repr__(self) -> str:
        where = f"topic={self.topic!r}, schema={self.schema!r}, table={self.table!r}"
        return f"{type(self).__name__}({where}, at={self._data.commit_timestamp!r})"


class Insert(_Change, Generic[R], frozen=True, gc=False, eq=False):
    """A row was inserted."""

    @property
    def type(self) -> Literal["INSERT"]:
        """The kind of change."""
        return "INSERT"

    @property
    def record(self) -> R:
        """The new row, decoded by its column types. Raises `RowError` with the row as it came."""
        return cast("R", self._row("_record", self._data.record) if self._record is UNSET else self._record)


class Update(_Change, Generic[R], frozen=True, gc=False, eq=False):
    """A row was updated."""

    @property
    def type(self) -> Literal["UPDATE"]:
        """The kind of change."""
        return "UPDATE"

    @property
    def record(self) -> R:
        """The new row. A large column that the update left alone may be missing (protocol §4.4)."""
        return cast("R", self._row("_record", self._data.record) if self._record is UNSET else self._record)

    @property
    def old_record(self) -> dict[str, Any]:
        """The old row: its key only, or all columns under REPLICA IDENTITY FULL."""
        kept = self._old_record
        return self._row("_old_record", self._data.old_record) if kept is UNSET else kept


class Delete(_Change, Generic[R], frozen=True, gc=False, eq=False):
    """A row was deleted."""

    @property
    def type(self) -> Literal["DELETE"]:
        """The kind of change."""
        return "DELETE"

    @property
    def old_record(self) -> dict[str, Any]:
        """The old row: its key only; all columns under REPLICA IDENTITY FULL, but never with row level security."""
        kept = self._old_record
        return self._row("_old_record", self._data.old_record) if kept is UNSET else kept


type_of_change: Final[dict[str, type[Insert[Any] | Update[Any] | Delete[Any]]]] = {
    "INSERT": Insert,
    "UPDATE": Update,
    "DELETE": Delete,
}
"""Event class by `data.type`; the classes themselves, as a call of `Insert[Any]` costs 1.5 µs more."""

Change = Insert[R] | Update[R] | Delete[R]
"""Any change of a row."""


# --- presence -------------------------------------------------------------------------------------------------------


class Presence(Struct, frozen=True, gc=False, eq=False):
    """One participant's tracked payload. One key may hold several: tabs or devices of the same person."""

    key: str
    ref: str
    previous_ref: str | None
    _raw: Raw
    _payload: Any = UNSET

    @property
    def payload(self) -> dict[str, Any]:
        """What was tracked, without the server's `phx_*` members."""
        if self._payload is UNSET:
            tracked = _read(self._raw, "the presence payload")
            own = {name: value for name, value in tracked.items() if not name.startswith("phx_")}
            force_setattr(self, "_payload", own)
        return cast("dict[str, Any]", self._payload)

    def __repr__(self) -> str:
        return f"Presence(key={self.key!r}, ref={self.ref!r})"


class PresenceJoin(Struct, frozen=True):
    """Somebody came, or came with one more device. `current` and `previous` are all of the key's entries."""

    topic: str
    key: str
    current: tuple[Presence, ...]
    previous: tuple[Presence, ...]


class PresenceLeave(Struct, frozen=True):
    """Somebody left, or left with one of several devices."""

    topic: str
    key: str
    current: tuple[Presence, ...]
    previous: tuple[Presence, ...]


class PresenceUpdate(Struct, frozen=True):
    """Somebody tracked another payload."""

    topic: str
    key: str
    current: tuple[Presence, ...]
    previous: tuple[Presence, ...]


PresenceState = Mapping[str, tuple[Presence, ...]]
"""Everyone who is here, by presence key. Immutable."""


class PresenceSync(Struct, frozen=True, eq=False):
    """The state is complete: after each `presence_state`, and after the other events of a diff."""

    topic: str
    _take: Callable[[], PresenceState]
    _state: PresenceState | UnsetType = UNSET

    @property
    def state(self) -> PresenceState:
        """Everyone who is here, taken when first read."""
        if self._state is UNSET:
            force_setattr(self, "_state", self._take())
        return cast("PresenceState", self._state)

    def __repr__(self) -> str:
        return f"PresenceSync(topic={self.topic!r})"


PresenceEvent = PresenceJoin | PresenceLeave | PresenceUpdate | PresenceSync
"""What `presence()` listeners receive."""


# --- the rest -------------------------------------------------------------------------------------------------------


class System(Struct, frozen=True):
    """A `system` message of the server (protocol §3.6)."""

    topic: str
    extension: str
    status: str
    message: str


Verdict = Literal["complete", "truncated", "not_replayable"]


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which events may be missing; refetch what matters to you.

    `verdict` speaks of stored messages: all were replayed, only the newest were, or they cannot be replayed.
    `lost` names the kinds of events that may be missing: "changes", "broadcast", "presence".
    """

    topic: str
    started_at: datetime
    ended_at: datetime
    reason: str
    replayed: int = 0
    verdict: Verdict = "not_replayable"
    lost: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Status:
    """A channel or the link (topic None) went from one state to another, or became ready, or lost it."""

    topic: str | None
    state: LinkState | ChannelState
    previous: LinkState | ChannelState
    cause: RealtimeError | None = None
    ready: bool = False


Event = Broadcast[Any] | Insert[Any] | Update[Any] | Delete[Any] | PresenceEvent | System | Gap | Status
"""Anything that a handler or iterator can receive."""


@dataclass(frozen=True, slots=True)
class Sent:
    """How a broadcast went out. `acked`: the server confirmed it; by HTTP, that it was allowed and is on its way."""

    via: Literal["socket", "http", "queue"]
    acked: bool = False


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters since the client was made, and what is going on now."""

    state: LinkState
    frames_received: int
    frames_sent: int
    connects: int
    reconnects: int
    joins: int
    stale_frames: int
    late_replies: int
    garbage_frames: int
    unknown_frames: int
    pending: int
    queued: int
    overflowed: int
    last_round_trip: float | None
    """Seconds of the newest heartbeat's round trip."""


EMPTY_STATE: Final[PresenceState] = MappingProxyType({})
