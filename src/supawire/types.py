"""What users receive and look at: events, presence, states, results (api: "What handlers and iterators receive").

Events are made for every frame, so they are `msgspec` structs that cost next to nothing to make, and what is
expensive (`payload`, `record`) is decoded when it is first read, then kept. Server data is never validated here.
Changes of rows stand in `_changes`.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, cast

from msgspec import UNSET, Raw, Struct
from msgspec.structs import replace

from supawire._brief import Unreadable, brief_event, brief_fields, content_hash
from supawire._changes import (
    NULL,
    Change,
    ChangeData,
    Delete,
    Insert,
    Update,
    read_json,
    type_of_change,
)
from supawire._models import Model
from supawire._presence import (
    Presence,
    PresenceEvent,
    PresenceJoin,
    PresenceLeave,
    PresenceState,
    PresenceSync,
    PresenceUpdate,
    sync_of,
)
from supawire.errors import RealtimeError, RowError

__all__ = [
    "EMPTY_STATE",
    "NULL",
    "Broadcast",
    "Change",
    "ChangeData",
    "ChannelState",
    "Delete",
    "Event",
    "Gap",
    "Heartbeat",
    "Insert",
    "Instant",
    "LinkState",
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
    state: LinkState | ChannelState
    previous: LinkState | ChannelState
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
