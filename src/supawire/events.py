"""The objects that users receive and read: events, presence, states and results.

Events are created for every frame, so they are `msgspec` structs that are cheap to create. Expensive parts (`payload`,
`record`) are decoded on first access and cached. Data from the server is not validated here.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import force_setattr, replace

from supawire._display import Unreadable, brief_event, brief_fields, content_hash
from supawire._other_clients import explain_attribute, explain_item
from supawire._values.models import Model
from supawire._values.rows import Column, decode_columns, decode_row, unsent_columns
from supawire.errors import RealtimeError, RowError, Sent

if TYPE_CHECKING:  # strict checkers require a default; at run time it needs Python 3.13
    import typing_extensions

    R = typing_extensions.TypeVar("R", default=dict[str, Any])
else:
    R = TypeVar("R")

NULL: Final = Raw(b"null")

_decode: Final = msgspec.json.Decoder().decode
_decode_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode


def read_json(raw: Raw | bytes, what: str, decode: Callable[[Raw | bytes], Any] = _decode) -> Any:
    try:
        return decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RowError(f"{what} cannot be decoded as JSON: {error}", raw=bytes(raw)) from error


class ChangeData(Struct, gc=False):
    """The `data` of a `postgres_changes` frame; rows and columns are decoded on access.

    See docs/protocol.md, Change payload.
    """

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
    """The decoded row or model object; before that UNSET, or the model to create."""
    _row: dict[str, Any] | UnsetType | None = UNSET
    """The row as a dict when `_record` is, or will be, a model object; None if it is not decoded yet."""
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
            raise RowError(
                f"commit_timestamp {text!r} is not a valid time", raw=text.encode() if text else None
            ) from error

    @property
    def columns(self) -> tuple[Column, ...]:
        """Name and PostgreSQL type of each visible column, in the table's order."""
        return decode_columns(self._data.columns)

    @property
    def errors(self) -> tuple[str, ...]:
        """The server's errors about this row; nearly always empty."""
        errors = read_json(self._data.errors, "errors")
        if errors is None:
            return ()
        return tuple(map(str, cast("list[Any]", errors))) if isinstance(errors, list) else (str(errors),)

    @property
    def truncated(self) -> bool:
        """Whether the row was too large, so that values over 64 bytes are missing (`Error 413`)."""
        return any("413" in error for error in self.errors)

    @property
    def unauthorized(self) -> bool:
        """Whether the role may not read the row's key, so that the row is empty (`Error 401`)."""
        return any("401" in error for error in self.errors)

    @property
    def raw(self) -> dict[str, Any]:
        """The `data` of the frame as plain JSON, without conversions."""
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
        made = model.read_row(data.columns, data.record)
        if made is not None:
            force_setattr(self, "_record", made)
            return made
        row = self._read_row()
        try:
            if not row:
                raise RowError(f"the server sent no columns of this row: {', '.join(self.errors) or 'no reason given'}")
            made = model.make(row, unsent_columns(data.columns, row))
        except RowError as error:
            error.raw, error.topic = bytes(data.record), self.topic
            raise
        force_setattr(self, "_record", made)
        return made

    def _read_row(self) -> dict[str, Any]:
        kept = self._row
        return self._keep("_row", self._data.record) if kept is UNSET or kept is None else kept

    def _keep(self, name: str, raw: Raw) -> Any:
        try:
            value = decode_row(self._data.columns, raw)
        except RowError as error:
            error.topic = self.topic
            raise
        force_setattr(self, name, value)
        return value

    def _sent(self, raw: Raw) -> Any:
        """Return a row as the server sent it, for printing and comparing; nothing is cached."""
        try:
            return decode_row(self._data.columns, raw)
        except RowError:
            return Unreadable(bytes(raw))

    def __eq__(self, other: object) -> bool:
        """Compare the changes as sent; objects created for `model=` are not compared."""
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

    if not TYPE_CHECKING:
        __getattr__, __getitem__, __iter__ = explain_attribute("change"), explain_item("change"), None


def _loose(raw: Raw) -> Any:
    """Decode a small part of a change as JSON; return the bytes if it is not JSON."""
    try:
        return read_json(raw, "errors")
    except RowError:
        return bytes(raw)


class _Written(_Change, Generic[R], frozen=True, gc=False, eq=False):
    @property
    def record(self) -> R:
        """The new row with values converted by column type, or an object of the class in `model=`.

        Decoded on first access.

        In an Update an unchanged large value (over some 2 kB) is missing, not None, unless the table has REPLICA
        IDENTITY FULL. A model object is created only when all columns for its fields were sent.

        Raises: RowError, with the row as it was sent: it is not a JSON object, or does not fit the model.
        """
        kept: Any = self._record
        if kept is UNSET:
            return self._keep("_record", self._data.record)
        return self._make(kept) if type(kept) is Model else kept

    @property
    def row(self) -> dict[str, Any]:
        """The new row as a dict, also with `model=`, and also when some of its columns were not sent."""
        return cast("dict[str, Any]", self.record) if self._row is UNSET else self._read_row()


class Insert(_Written[R], frozen=True, gc=False, eq=False):
    """A row was inserted."""

    if not TYPE_CHECKING:
        __getattr__, __getitem__ = explain_attribute("insert", "change"), explain_item("insert", "change")

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
        """The old row as a dict, never a model object: only its key, or all columns under REPLICA IDENTITY FULL."""
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
        """The old row as a dict, never a model object: only its key.

        With REPLICA IDENTITY FULL all columns, except with row level security: then only the key, and it is sent to all
        subscribers of the table.
        """
        kept = self._old_record
        return self._keep("_old_record", self._data.old_record) if kept is UNSET else kept

    if not TYPE_CHECKING:
        __getattr__, __getitem__ = explain_attribute("delete", "change"), explain_item("delete", "change")


def row_size(change: Insert[Any] | Update[Any] | Delete) -> int:
    """Return the bytes of the rows as received."""
    data = change._data  # pyright: ignore[reportPrivateUsage]  of this module
    return len(data.record) + len(data.old_record)


type_of_change: Final[dict[str, type[Insert[Any] | Update[Any] | Delete]]] = {
    "INSERT": Insert,
    "UPDATE": Update,
    "DELETE": Delete,
}
"""Event class by `data.type`. The bare classes, because calling `Insert[Any]` costs 1.5 µs more."""

Change = Insert[R] | Update[R] | Delete
"""A change of a row."""


class Presence(Struct, Generic[R], frozen=True, gc=False, eq=False):
    """The tracked payload of one participant. One key may have several: tabs or devices of the same user."""

    key: str
    ref: str
    previous_ref: str | None
    _raw: Raw
    _payload: Any = UNSET
    """The decoded payload; before that UNSET, or the model that it is converted to."""

    @property
    def payload(self) -> R:
        """The tracked payload, without the server's `phx_*` members; with `model=` an object of that class.

        Raises: RowError, with the entry as it was received: it cannot be read, or does not fit the model.
        """
        kept = self._payload
        if kept is UNSET or type(kept) is Model:
            kept = self._tracked(_decode) if kept is UNSET else self._make(kept)
            force_setattr(self, "_payload", kept)
        return cast("R", kept)

    def _tracked(self, decode: Callable[[Raw | bytes], Any]) -> dict[str, Any]:
        sent = read_json(self._raw, "the presence payload", decode)
        return {name: value for name, value in sent.items() if not name.startswith("phx_")}

    def _make(self, model: Model) -> Any:
        """Create the object from the received text, so that numbers keep their digits."""
        text = msgspec.json.encode(self._tracked(_decode_members))
        try:
            return model.read(text)
        except RowError as error:
            error.raw = bytes(self._raw)
            raise

    def __eq__(self, other: object) -> bool:
        """Compare the tracked payloads; objects that `model=` created from them are not compared."""
        if not isinstance(other, Presence):
            return NotImplemented
        theirs = cast("Presence[Any]", other)
        return (self.key, self.ref, self.previous_ref) == (theirs.key, theirs.ref, theirs.previous_ref) and bool(
            self._raw == theirs._raw or self._sent() == theirs._sent()
        )

    def __hash__(self) -> int:
        return hash((self.key, self.ref))

    def _sent(self) -> Any:
        """Return the payload as a dict, for printing and comparing; it is not cached, and no model is used."""
        try:
            return self._tracked(_decode)
        except RowError:
            return Unreadable(bytes(self._raw))

    def __repr__(self) -> str:
        return brief_event("Presence", key=self.key, payload=self._sent(), ref=self.ref)

    if not TYPE_CHECKING:
        __getattr__, __getitem__, __iter__ = explain_attribute("entry"), explain_item("entry"), None


class PresenceJoin(Struct, Generic[R], frozen=True, gc=False):
    """A participant joined, or joined with another device. `current` and `previous` are all entries of the key."""

    topic: str
    key: str
    current: tuple[Presence[R], ...]
    previous: tuple[Presence[R], ...]

    __repr__ = brief_fields

    if not TYPE_CHECKING:
        __getattr__, __getitem__, __iter__ = explain_attribute("presence event"), explain_item("presence event"), None


class PresenceLeave(Struct, Generic[R], frozen=True, gc=False):
    """A participant left, or left with one of several devices."""

    topic: str
    key: str
    current: tuple[Presence[R], ...]
    previous: tuple[Presence[R], ...]

    __repr__ = brief_fields

    if not TYPE_CHECKING:
        __getattr__, __getitem__, __iter__ = explain_attribute("presence event"), explain_item("presence event"), None


class PresenceUpdate(Struct, Generic[R], frozen=True, gc=False):
    """A participant tracked another payload."""

    topic: str
    key: str
    current: tuple[Presence[R], ...]
    previous: tuple[Presence[R], ...]

    __repr__ = brief_fields

    if not TYPE_CHECKING:
        __getattr__, __getitem__, __iter__ = explain_attribute("presence event"), explain_item("presence event"), None


PresenceState = Mapping[str, tuple[Presence[R], ...]]
"""All participants, by presence key. Immutable."""


class PresenceSync(Struct, Generic[R], frozen=True, gc=False, eq=False):
    """The presence state is complete: sent after each `presence_state`, and after the other events of a diff."""

    topic: str
    _take: Callable[[], PresenceState[R]]
    _state: PresenceState[R] | UnsetType = UNSET

    @property
    def state(self) -> PresenceState[R]:
        """All participants; copied on first access."""
        if self._state is UNSET:
            force_setattr(self, "_state", self._take())
        return cast("PresenceState[R]", self._state)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PresenceSync):
            return NotImplemented
        theirs = cast("PresenceSync[Any]", other)
        return self.topic == theirs.topic and dict(self.state) == dict(theirs.state)

    def __hash__(self) -> int:
        return hash((PresenceSync, self.topic, len(self.state)))

    def __reduce__(self) -> tuple[Any, ...]:
        return sync_of, (self.topic, dict(self.state))

    def __copy__(self) -> "PresenceSync[R]":
        return self

    def __repr__(self) -> str:
        return brief_event("PresenceSync", topic=self.topic, state=self.state)

    if not TYPE_CHECKING:
        __getattr__, __getitem__, __iter__ = explain_attribute("presence state"), explain_item("presence state"), None


def sync_of(topic: str, state: dict[str, tuple[Presence[R], ...]]) -> PresenceSync[R]:
    """Create the event for a given state."""
    kept = MappingProxyType(state)
    return PresenceSync(topic, lambda: kept, kept)


PresenceEvent = PresenceJoin[R] | PresenceLeave[R] | PresenceUpdate[R] | PresenceSync[R]
"""An event that `presence()` listeners receive."""


class _ModelledState(Mapping[str, tuple[Presence[Any], ...]]):
    """A state whose payloads are objects of a class; the entries of a key are created on its first access."""

    __slots__ = ("_made", "_model", "_state")

    def __init__(self, state: PresenceState[Any], model: Model) -> None:
        self._state = state
        self._model = model
        self._made: dict[str, tuple[Presence[Any], ...]] = {}

    def __getitem__(self, key: str) -> tuple[Presence[Any], ...]:
        made = self._made.get(key)
        return self._made.setdefault(key, _modelled(self._state[key], self._model)) if made is None else made

    def __len__(self) -> int:
        return len(self._state)

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __contains__(self, key: object) -> bool:
        return key in self._state

    def __repr__(self) -> str:
        return repr(self._state)


def _modelled(entries: tuple[Presence[Any], ...], model: Model) -> tuple[Presence[Any], ...]:
    return tuple([replace(entry, _payload=model) for entry in entries])


def presence_with_model(event: PresenceEvent[Any], model: Model) -> PresenceEvent[Any]:
    """Return the same event for a listener with `model=`."""
    if isinstance(event, PresenceSync):
        return PresenceSync(event.topic, lambda: _ModelledState(event.state, model))
    return replace(event, current=_modelled(event.current, model), previous=_modelled(event.previous, model))


__all__ = [
    "EMPTY_STATE",
    "NULL",
    "Broadcast",
    "Budget",
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
    "presence_with_model",
    "sync_of",
    "type_of_change",
    "with_model",
]

if TYPE_CHECKING:  # strict checkers require a default; at run time it needs Python 3.13
    import typing_extensions

    P = typing_extensions.TypeVar("P", default=Any)
else:
    P = TypeVar("P")


class Instant(Struct, frozen=True, gc=False):
    """One reading of both clocks, in seconds: `mono` for deadlines, `wall` (Unix time) for token expiry and gaps."""

    mono: float
    wall: float

    def __lt__(self, other: "Instant") -> bool:
        return self.mono < other.mono

    def __gt__(self, other: "Instant") -> bool:
        return self.mono > other.mono

    def at(self) -> datetime:
        """The wall clock time in UTC."""
        return datetime.fromtimestamp(self.wall, UTC)


class ConnectionState(StrEnum):
    """The state of a client's connection."""

    IDLE = "idle"
    CONNECTING = "connecting"
    OPEN = "open"
    RETRYING = "retrying"
    CLOSING = "closing"
    CLOSED = "closed"


class ChannelState(StrEnum):
    """The state of a channel."""

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
    """A message sent by another client, by the HTTP interface, or by the database. See docs/protocol.md, Broadcast.

    `payload` is any JSON value, or `bytes` for a binary message; with `model=` an object of that class. `id` is set for
    messages that the server stored; `replayed`: the message was sent before this channel joined.
    """

    topic: str
    event: str
    payload: P
    id: str | None = None
    replayed: bool = False
    _frame: bytes = b""
    """The frame it was received in, if its text is to be converted to a model object."""

    def _sent(self) -> Any:
        """Return the payload as sent, for printing and comparing."""
        return self.payload

    def __eq__(self, other: object) -> bool:
        """Compare the messages as sent; objects created for `model=` are not compared."""
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

    if not TYPE_CHECKING:
        __getattr__, __getitem__, __iter__ = explain_attribute("message"), explain_item("message"), None


_kept_payload: Final[Any] = vars(Broadcast)["payload"]
"""The slot, which is hidden by the property of the subclass below."""


def frame_of(event: Broadcast[Any]) -> bytes:
    """Return the frame it was received in; empty if it has none."""
    return event._frame  # pyright: ignore[reportPrivateUsage]  of this module


class LateBroadcast(Broadcast[P], frozen=True, gc=False, eq=False):
    """A broadcast whose payload is decoded on first access: an object of a class, or an error if it is not JSON."""

    _raw: Raw | bytes = NULL
    """The received JSON text, or the bytes of a binary message."""
    _model: Model | None = None

    @property
    def payload(self) -> P:  # pyright: ignore[reportIncompatibleVariableOverride]  to read it is all that users do
        """The decoded payload; decoded on first access, then cached.

        Raises: RowError, with the message as it was sent: it is not JSON, or does not fit the model.
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
                raise RowError(f"the payload is bytes, but {model.name} requires JSON")
            return model.read(self._raw)
        except RowError as error:
            error.raw, error.topic = bytes(self._raw), self.topic
            raise


def sent_payload(event: Broadcast[Any]) -> tuple[Raw | bytes, Model | None]:
    """Return the payload of a broadcast as JSON text or bytes, and the model it is converted to."""
    if isinstance(event, LateBroadcast):
        return event._raw, event._model  # pyright: ignore[reportPrivateUsage]  of this module
    payload = event.payload
    return (payload if isinstance(payload, bytes) else Raw(msgspec.json.encode(payload))), None


def text_size(event: LateBroadcast[Any]) -> int:
    """Return the bytes of the payload as received."""
    return len(event._raw)  # pyright: ignore[reportPrivateUsage]  of this module


def with_model(change: Change[Any], model: Model) -> Any:
    """Return the same change for a listener with `model=`."""
    return replace(change, _record=model, _row=None)


# --- system, status, statistics -------------------------------------------------------------------------------------


class System(Struct, frozen=True):
    """A `system` message of the server. See docs/protocol.md, System messages."""

    topic: str
    extension: str
    status: str
    message: str

    __repr__ = brief_fields


Verdict = Literal["complete", "truncated", "not_replayable"]


@dataclass(frozen=True, slots=True)
class Gap:
    """A period in which events may be missing; fetch your data again.

    `verdict` is about stored messages: all were replayed, only the newest may have been, or they cannot be replayed.
    `lost`: the kinds of events that may be missing: "changes", "broadcast", "presence".
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
    """A change of state of a channel, or of the connection (topic None): from one state to another, or of `ready`."""

    topic: str | None
    state: ConnectionState | ChannelState
    previous: ConnectionState | ChannelState
    cause: RealtimeError | None = None
    ready: bool = False

    def __eq__(self, other: object) -> bool:
        """Compare the statuses. Causes are equal when they have the same class and text."""
        if not isinstance(other, Status):
            return NotImplemented
        return (self.topic, self.state, self.previous, self.ready) == (
            other.topic, other.state, other.previous, other.ready
        ) and _comparable(self.cause) == _comparable(other.cause)  # fmt: skip

    def __hash__(self) -> int:
        return hash((self.topic, self.state, self.previous, self.ready))


def _comparable(error: RealtimeError | None) -> tuple[type[RealtimeError], str] | None:
    return None if error is None else (type(error), str(error))


class Heartbeat(Struct, frozen=True):
    """The outcome of a heartbeat, sent by the client itself or by `ping()`.

    `latency`: seconds of the round trip, for "ok" and "error". "timeout": no answer in time. "disconnected": the
    connection ended; no heartbeats are sent until it is open again.
    """

    status: Literal["sent", "ok", "error", "timeout", "disconnected"]
    latency: float | None = None


Event = Broadcast[Any] | Insert[Any] | Update[Any] | Delete | PresenceEvent[Any] | System | Gap | Status
"""An object that a handler or iterator can receive."""


@dataclass(frozen=True, slots=True)
class SocketStats:
    """One socket of a client: its state, its subscribed channels, and counters since it was first opened."""

    number: int
    """0 for the socket that the client opened first."""
    state: ConnectionState
    channels: int
    frames_received: int
    frames_sent: int
    connects: int
    reconnects: int
    last_round_trip: float | None
    """Seconds of the newest heartbeat's round trip."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of one of the client's rate limits (`Limits`) is used.

    limit: calls in any `window` seconds, None if there is no limit. used: calls in the last `window` seconds; without a
    limit they are not counted.
    """

    limit: int | None = None
    window: float = 1.0
    used: int = 0

    @property
    def left(self) -> int | None:
        """How many calls may be made now; None: any number."""
        return None if self.limit is None else max(0, self.limit - self.used)


NO_LIMIT: Final = Budget()


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters since the client was created, and its current state."""

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
    malformed_presence: int = 0
    messages_received: int = 0
    messages_sent: int = 0
    messages_published: int = 0
    gaps: int = 0
    handler_errors: int = 0
    buffered: int = 0
    channels: int = 0
    joined_channels: int = 0
    clock_offset: float | None = None
    """Seconds by which the server's clock is ahead of ours."""
    fallbacks: int = 0
    """How often long polling was chosen because WebSockets were blocked."""
    sockets: tuple[SocketStats, ...] = ()
    """Each socket of the client; with `max_sockets=1` one. Counters of closed sockets are only in the totals."""
    message_budget: Budget = NO_LIMIT
    """Of `Limits.messages_per_second`: broadcasts by the socket and by HTTP."""
    join_budget: Budget = NO_LIMIT
    """Of `Limits.joins_per_second`."""
    presence_budget: Budget = NO_LIMIT
    """Of `Limits.presence_per_second`."""
    transport: str | None = None
    """What carries the connection, if it tells: its packages and their versions."""


@dataclass(frozen=True, slots=True)
class ChannelStats:
    """Counters of one channel since it was made, and its current state."""

    state: ChannelState
    ready: bool = False
    joins: int = 0
    messages_received: int = 0
    messages_sent: int = 0
    queued: int = 0
    buffered: int = 0
    overflowed: int = 0
    gaps: int = 0
    handler_errors: int = 0
    malformed_presence: int = 0


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """The answer of `healthy()` or `is_ready()`: true if there is no reason against it.

    reasons: why not, in short sentences without secrets; empty if all is well.
    """

    reasons: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.reasons

    @property
    def ok(self) -> bool:
        """Whether there are no reasons against it, for answers in JSON."""
        return not self.reasons


EMPTY_STATE: Final[PresenceState[dict[str, Any]]] = MappingProxyType({})
