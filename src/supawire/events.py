"""Changes of rows as users receive them: made for every frame, decoded when they are first read (protocol §4.4).

Presence events as users receive them (protocol §5): made for every diff, payloads decoded when they are read.

What users receive and look at: events, presence, states, results (api: "What handlers and iterators receive").

Events are made for every frame, so they are `msgspec` structs that cost next to nothing to make, and what is
expensive (`payload`, `record`) is decoded when it is first read, then kept. Server data is never validated here.
Changes of rows stand in `_changes`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import force_setattr, replace

from supawire._display import Unreadable, brief_event, brief_fields, content_hash
from supawire._validation import NoAttributeError
from supawire._values.models import Model
from supawire._values.rows import Column, decode_columns, decode_row, unsent_columns
from supawire.errors import RealtimeError, RowError

if TYPE_CHECKING:  # with a default, a bare generic type passes strict checkers; at run time Python 3.13 has them
    import typing_extensions

    R = typing_extensions.TypeVar("R", default=dict[str, Any])
else:
    R = TypeVar("R")

NULL: Final = Raw(b"null")

_decode: Final = msgspec.json.Decoder().decode


def read_json(raw: Raw | bytes, what: str) -> Any:
    try:
        return _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RowError(f"{what} is not JSON that can be read: {error}", raw=bytes(raw)) from error


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
    """What it was made into; before that UNSET, or the model that it is to be made into."""
    _row: dict[str, Any] | UnsetType = UNSET
    """The row when `_record` is, or will be, something else."""
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
        errors = read_json(self._data.errors, "errors")
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
            **{name: read_json(part, name) for name, part in parts.items() if part is not NULL},
        }

    def _make(self, model: Model) -> Any:
        data = self._data
        row = self._read_row()
        try:
            if not row:
                raise RowError(
                    f"the server sent nothing of this row: {', '.join(self.errors) or 'it does not say why'}"
                )
            made = model.make(row, unsent_columns(data.columns, row))
        except RowError as error:
            error.raw, error.topic = bytes(data.record), self.topic
            raise
        force_setattr(self, "_record", made)
        return made

    def _read_row(self) -> dict[str, Any]:
        kept = self._row
        return self._keep("_row", self._data.record) if kept is UNSET else kept

    def _keep(self, name: str, raw: Raw) -> Any:
        try:
            value = decode_row(self._data.columns, raw)
        except RowError as error:
            error.topic = self.topic
            raise
        force_setattr(self, name, value)
        return value

    def _sent(self, raw: Raw) -> Any:
        """A row as the server sent it, for printing and comparing; nothing is kept, and no model is made."""
        try:
            return decode_row(self._data.columns, raw)
        except RowError:
            return Unreadable(bytes(raw))

    def __eq__(self, other: object) -> bool:
        """Whether the same change was sent; what `model=` makes of its row is not compared."""
        if type(self) is not type(other) or not isinstance(other, _Change):
            return NotImplemented
        mine, theirs = self._data, other._data
        if self.topic != other.topic:
            return False
        if mine == theirs:
            return True
        plain = ("schema", "table", "type", "commit_timestamp")
        return (
            all(getattr(mine, name) == getattr(theirs, name) for name in plain)
            and self._sent(mine.record) == other._sent(theirs.record)
            and self._sent(mine.old_record) == other._sent(theirs.old_record)
            and self.columns == other.columns
            and _loose(mine.errors) == _loose(theirs.errors)
        )

    def __hash__(self) -> int:
        data = self._data
        rows = content_hash(self._sent(data.record)), content_hash(self._sent(data.old_record))
        return hash((self.topic, data.schema, data.table, data.type, data.commit_timestamp, *rows))

    def __repr__(self) -> str:
        data = self._data
        fields: dict[str, Any] = {"topic": self.topic, "schema": data.schema, "table": data.table}
        for name, raw in (("record", data.record), ("old_record", data.old_record)):
            if hasattr(type(self), name):
                fields[name] = self._sent(raw)
        errors = _loose(data.errors)
        if errors:
            fields["errors"] = errors
        return brief_event(type(self).__name__, **fields, commit_timestamp=data.commit_timestamp)


def _loose(raw: Raw) -> Any:
    """A small part of a change as JSON, or as bytes where it is not JSON."""
    try:
        return read_json(raw, "errors")
    except RowError:
        return bytes(raw)


class _Written(_Change, Generic[R], frozen=True, gc=False, eq=False):
    @property
    def record(self) -> R:
        """The new row, by its column types, and with `model=` as such an object; made when first read, then kept.

        In an Update a large value (over some 2 kB) that was left alone is missing, not None, unless the table has
        REPLICA IDENTITY FULL (protocol §4.4). A model is made only when all that it has a field for was sent.

        Raises: RowError, with the row as it came: it is no JSON object, or does not fit the model.
        """
        kept: Any = self._record
        if kept is UNSET:
            data = self._data
            try:  # as `_keep`, without the call, which costs 0.08 of 3.8 µs for each change
                kept = decode_row(data.columns, data.record)
            except RowError as error:
                error.topic = self.topic
                raise
            force_setattr(self, "_record", kept)
            return kept
        return self._make(kept) if type(kept) is Model else kept

    @property
    def row(self) -> dict[str, Any]:
        """The new row as an exact dict, also with `model=`, and also when not all of it was sent."""
        is_record = self._row is UNSET and type(self._record) is not Model
        return cast("dict[str, Any]", self.record) if is_record else self._read_row()


class Insert(_Written[R], frozen=True, gc=False, eq=False):
    """A row was inserted."""

    @property
    def type(self) -> Literal["INSERT"]:
        """The kind of change."""
        return "INSERT"


class Update(_Written[R], frozen=True, gc=False, eq=False):
    """A row was updated."""

    @property
    def type(self) -> Literal["UPDATE"]:
        """The kind of change."""
        return "UPDATE"

    @property
    def old_record(self) -> dict[str, Any]:
        """The old row as an exact dict, never a model: its key only, or all columns under REPLICA IDENTITY FULL."""
        kept = self._old_record
        return self._keep("_old_record", self._data.old_record) if kept is UNSET else kept


class Delete(_Change, frozen=True, gc=False, eq=False):
    """A row was deleted."""

    @property
    def type(self) -> Literal["DELETE"]:
        """The kind of change."""
        return "DELETE"

    @property
    def old_record(self) -> dict[str, Any]:
        """The old row as an exact dict, never a model: its key only.

        All columns under REPLICA IDENTITY FULL, but never with row level security: then the key only, and sent to
        everyone who listens to the table.
        """
        kept = self._old_record
        return self._keep("_old_record", self._data.old_record) if kept is UNSET else kept

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in ("record", "row"):
                raise NoAttributeError(
                    f"a Delete has no {name}: the row is gone",
                    topic=self.topic,
                    hint="`old_record` has its key, and with REPLICA IDENTITY FULL all of it; `type` says which it is.",
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)


def row_size(change: Insert[Any] | Update[Any] | Delete) -> int:
    """Bytes of the rows as they came."""
    data = change._data  # pyright: ignore[reportPrivateUsage]  of this module
    return len(data.record) + len(data.old_record)


type_of_change: Final[dict[str, type[Insert[Any] | Update[Any] | Delete]]] = {
    "INSERT": Insert,
    "UPDATE": Update,
    "DELETE": Delete,
}
"""Event class by `data.type`; the classes themselves, as a call of `Insert[Any]` costs 1.5 µs more."""

Change = Insert[R] | Update[R] | Delete
"""Any change of a row."""


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
            tracked = read_json(self._raw, "the presence payload")
            own = {name: value for name, value in tracked.items() if not name.startswith("phx_")}
            force_setattr(self, "_payload", own)
        return cast("dict[str, Any]", self._payload)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Presence):
            return NotImplemented
        return (self.key, self.ref, self.previous_ref) == (other.key, other.ref, other.previous_ref) and bool(
            self._raw == other._raw or self._sent() == other._sent()
        )

    def __hash__(self) -> int:
        return hash((self.key, self.ref))

    def _sent(self) -> Any:
        try:
            return self.payload
        except RowError:
            return Unreadable(bytes(self._raw))

    def __repr__(self) -> str:
        return brief_event("Presence", key=self.key, payload=self._sent(), ref=self.ref)


class PresenceJoin(Struct, frozen=True, gc=False):
    """Somebody came, or came with one more device. `current` and `previous` are all of the key's entries."""

    topic: str
    key: str
    current: tuple[Presence, ...]
    previous: tuple[Presence, ...]

    __repr__ = brief_fields


class PresenceLeave(Struct, frozen=True, gc=False):
    """Somebody left, or left with one of several devices."""

    topic: str
    key: str
    current: tuple[Presence, ...]
    previous: tuple[Presence, ...]

    __repr__ = brief_fields


class PresenceUpdate(Struct, frozen=True, gc=False):
    """Somebody tracked another payload."""

    topic: str
    key: str
    current: tuple[Presence, ...]
    previous: tuple[Presence, ...]

    __repr__ = brief_fields


PresenceState = Mapping[str, tuple[Presence, ...]]
"""Everyone who is here, by presence key. Immutable."""


class PresenceSync(Struct, frozen=True, gc=False, eq=False):
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

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PresenceSync):
            return NotImplemented
        return self.topic == other.topic and dict(self.state) == dict(other.state)

    def __hash__(self) -> int:
        return hash((PresenceSync, self.topic, len(self.state)))

    def __reduce__(self) -> tuple[Any, ...]:
        return sync_of, (self.topic, dict(self.state))

    def __copy__(self) -> "PresenceSync":
        return self

    def __repr__(self) -> str:
        return brief_event("PresenceSync", topic=self.topic, state=self.state)


def sync_of(topic: str, state: dict[str, tuple[Presence, ...]]) -> PresenceSync:
    """Make the event of a state that is known."""
    kept = MappingProxyType(state)
    return PresenceSync(topic, lambda: kept, kept)


PresenceEvent = PresenceJoin | PresenceLeave | PresenceUpdate | PresenceSync
"""What `presence()` listeners receive."""


__all__ = [
    "EMPTY_STATE",
    "NULL",
    "Broadcast",
    "Change",
    "ChangeData",
    "ChannelState",
    "ConnectionState",
    "Delete",
    "Event",
    "Gap",
    "Heartbeat",
    "Insert",
    "Instant",
    "Presence",
    "PresenceEvent",
    "PresenceJoin",
    "PresenceLeave",
    "PresenceState",
    "PresenceSync",
    "PresenceUpdate",
    "Sent",
    "Stats",
    "Status",
    "System",
    "Update",
    "Verdict",
    "sync_of",
    "type_of_change",
    "with_model",
]

if TYPE_CHECKING:  # with a default, a bare generic type passes strict checkers; at run time Python 3.13 has them
    import typing_extensions

    P = typing_extensions.TypeVar("P", default=Any)
else:
    P = TypeVar("P")


class Instant(Struct, frozen=True, gc=False):
    """One reading of both clocks, in seconds: deadlines are on `mono`, token expiry and gaps on `wall` (Unix time)."""

    mono: float
    wall: float

    def __lt__(self, other: "Instant") -> bool:
        return self.mono < other.mono

    def __gt__(self, other: "Instant") -> bool:
        return self.mono > other.mono

    def at(self) -> datetime:
        """The wall clock's reading in UTC."""
        return datetime.fromtimestamp(self.wall, UTC)


class ConnectionState(StrEnum):
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


# --- broadcast ------------------------------------------------------------------------------------------------------


class Broadcast(Struct, Generic[P], frozen=True, gc=False, eq=False):
    """A message of another client, of the HTTP interface, or of the database (protocol §6).

    `payload` is any JSON value, or `bytes` for a binary message; with `model=` such an object. `id` is there for
    messages that the server stored; `replayed` says that it was sent before this channel joined.
    """

    topic: str
    event: str
    payload: P
    id: str | None = None
    replayed: bool = False
    _frame: bytes = b""
    """The frame in which it came, if a model is to be made of its text."""

    def _sent(self) -> Any:
        """The payload as it was sent, for printing and comparing."""
        return self.payload

    def __eq__(self, other: object) -> bool:
        """Whether the same message was sent; what `model=` makes of its payload is not compared."""
        if not isinstance(other, Broadcast):
            return NotImplemented
        theirs = cast("Broadcast[Any]", other)
        return (self.topic, self.event, self.id, self.replayed) == (
            theirs.topic, theirs.event, theirs.id, theirs.replayed
        ) and bool(self._sent() == theirs._sent())  # fmt: skip

    def __hash__(self) -> int:
        return hash((self.topic, self.event, self.id, self.replayed, content_hash(self._sent())))

    def __repr__(self) -> str:
        fields: dict[str, Any] = {"topic": self.topic, "event": self.event, "payload": self._sent()}
        if self.id:
            fields["id"] = self.id
        if self.replayed:
            fields["replayed"] = True
        return brief_event("Broadcast", **fields)


_kept_payload: Final[Any] = vars(Broadcast)["payload"]
"""The slot, which the property of the class below hides."""


def frame_of(event: Broadcast[Any]) -> bytes:
    """The frame in which it came; empty when it came otherwise."""
    return event._frame  # pyright: ignore[reportPrivateUsage]  of this module


class LateBroadcast(Broadcast[P], frozen=True, gc=False, eq=False):
    """A broadcast whose payload is made when it is first read: an object of a class, or an error if it is no JSON."""

    _raw: Raw | bytes = NULL
    """What came: JSON text, or the bytes of a binary message."""
    _model: Model | None = None

    @property
    def payload(self) -> P:  # pyright: ignore[reportIncompatibleVariableOverride]  to read it is all that users do
        """The object, made when first read, then kept.

        Raises: RowError, with the message as it came: its text is not JSON after all, or does not fit the model.
        """
        kept: Any = _kept_payload.__get__(self)
        if kept is UNSET:
            kept = self._make()
            _kept_payload.__set__(self, kept)
        return kept

    def _sent(self) -> Any:
        raw = self._raw
        if isinstance(raw, bytes):
            return raw
        try:
            return read_json(raw, "the payload")
        except RowError:
            return Unreadable(bytes(raw))

    def _make(self) -> Any:
        model = self._model
        try:
            if model is None:
                return read_json(self._raw, "the payload")
            if isinstance(self._raw, bytes):
                raise RowError(f"the payload is bytes, and a {model.name} is made of JSON")
            return model.read(self._raw)
        except RowError as error:
            error.raw, error.topic = bytes(self._raw), self.topic
            raise


def text_size(event: LateBroadcast[Any]) -> int:
    """Bytes of the payload as it came."""
    return len(event._raw)  # pyright: ignore[reportPrivateUsage]  of this module


def with_model(change: Change[Any], model: Model) -> Any:
    """The same change, for a listener that wants its rows as objects of a class."""
    return replace(change, _record=model)


# --- the rest -------------------------------------------------------------------------------------------------------


class System(Struct, frozen=True):
    """A `system` message of the server (protocol §3.6)."""

    topic: str
    extension: str
    status: str
    message: str

    __repr__ = brief_fields


Verdict = Literal["complete", "truncated", "not_replayable"]


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which events may be missing; refetch what matters to you.

    `verdict` speaks of stored messages: all were replayed, perhaps only the newest were, or they cannot be replayed.
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
    state: ConnectionState | ChannelState
    previous: ConnectionState | ChannelState
    cause: RealtimeError | None = None
    ready: bool = False

    def __eq__(self, other: object) -> bool:
        """Causes are the same when they are of one class and say the same."""
        if not isinstance(other, Status):
            return NotImplemented
        return (self.topic, self.state, self.previous, self.ready) == (
            other.topic, other.state, other.previous, other.ready
        ) and _told(self.cause) == _told(other.cause)  # fmt: skip

    def __hash__(self) -> int:
        return hash((self.topic, self.state, self.previous, self.ready))


def _told(error: RealtimeError | None) -> tuple[type[RealtimeError], str] | None:
    return None if error is None else (type(error), str(error))


class Heartbeat(Struct, frozen=True):
    """What became of a heartbeat, the client's own or a `ping()`.

    `latency`: seconds of the round trip, with "ok" and "error". "timeout": no answer came in time. "disconnected": the
    connection ended, and no heartbeat is sent until another one is open.
    """

    status: Literal["sent", "ok", "error", "timeout", "disconnected"]
    latency: float | None = None


Event = Broadcast[Any] | Insert[Any] | Update[Any] | Delete | PresenceEvent | System | Gap | Status
"""Anything that a handler or iterator can receive."""


@dataclass(frozen=True, slots=True)
class Sent:
    """How a broadcast went out. `acked`: the server confirmed it; by HTTP, that it was allowed and is on its way.

    `id`: that of the stored message, where the server stores it and says so, or the one given to `publish`.
    """

    via: Literal["socket", "http", "queue"]
    acked: bool = False
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters since the client was made, and what is going on now."""

    state: ConnectionState
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
