"""Positions in the stored messages of a topic, stored messages, and the protocols of what stores and reads them.

All are values without I/O. `supawire.history` has the stores of cursors and the readers of the table.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol, TypeVar, runtime_checkable
from uuid import UUID

from msgspec import UNSET, Raw, Struct

from supawire._values.models import Model
from supawire.errors import InvalidArgumentError
from supawire.events import Broadcast, LateBroadcast, sent_payload

P = TypeVar("P")

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
LAST_PLACE: Final = 2**40
"""The place after all messages of an instant."""
_MAX_AT: Final = 250_000_000_000_000_000
"""Microseconds since 1970 up to the year 9892, which a `datetime` can represent."""
_TEXT: Final = re.compile(r"1;([0-9]{1,18});([0-9]{1,15});([0-9a-f-]{36})?;([A-Za-z0-9_-]*);(.+)", re.DOTALL)


class Position(NamedTuple):
    """A place in the order of the stored messages of one topic.

    at: `inserted_at` in microseconds since 1970. place: the place of the row among those of the same instant. id: its
    id, by which rows of one place are ordered.
    """

    at: int
    place: int
    id: str = ""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far the stored messages of a topic have been handled: an immutable value.

    All messages up to `inserted_at` are handled, and later ones whose ids are in `seen`. `str()` gives a text of
    printable characters that `Cursor.parse` reads. Cursors of one topic are ordered by position.

    Attributes: topic: the sub-topic. inserted_at: the time of the last message up to which all are handled, in UTC. id:
    its id, or None for a point in time. place: its place among the messages of the same instant, which the reader of
    the table decides. seen: ids of handled messages that are later, or that may be found again; at most some hundred.
    """

    topic: str
    at: int
    place: int = LAST_PLACE
    id: str | None = None
    seen: frozenset[str] = frozenset()

    @classmethod
    def since(cls, topic: str, instant: datetime | float) -> Cursor:
        """Return the cursor before the first message of an instant: Unix seconds or an aware datetime."""
        return cls(topic, max(0, microseconds(instant) - 1))

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Return the cursor with this text. Raises: InvalidArgumentError: it is not the text of a cursor."""
        found = _TEXT.fullmatch(text) if isinstance(text, str) else None
        try:
            if found is None:
                raise ValueError
            at, place, number, seen, topic = found.groups()
            if int(at) > _MAX_AT:
                raise ValueError
            raw = urlsafe_b64decode(seen + "=" * (-len(seen) % 4))
            if len(raw) % 16:
                raise ValueError
            ids = frozenset(str(UUID(bytes=raw[start : start + 16])) for start in range(0, len(raw), 16))
            return cls(topic, int(at), int(place), None if number is None else str(UUID(number)), ids)
        except ValueError:
            raise InvalidArgumentError(
                f"{text!r:.80} is not the text of a cursor", hint="Pass what str(cursor) returned, unchanged."
            ) from None

    def __str__(self) -> str:
        raw = b"".join(sorted(UUID(one).bytes for one in self.seen))
        seen = urlsafe_b64encode(raw).decode().rstrip("=")
        return f"1;{self.at};{self.place};{self.id or ''};{seen};{self.topic}"

    @property
    def position(self) -> Position:
        """Time, place and id, by which cursors of a topic are ordered."""
        return Position(self.at, self.place, self.id or "")

    @property
    def inserted_at(self) -> datetime:
        """The time of the last message up to which all are handled."""
        return instant_of(self.at)

    def __lt__(self, other: Cursor) -> bool:
        return self._pair(other)[0] < self._pair(other)[1]

    def __le__(self, other: Cursor) -> bool:
        return self._pair(other)[0] <= self._pair(other)[1]

    def __gt__(self, other: Cursor) -> bool:
        return self._pair(other)[0] > self._pair(other)[1]

    def __ge__(self, other: Cursor) -> bool:
        return self._pair(other)[0] >= self._pair(other)[1]

    def _pair(self, other: Cursor) -> tuple[Position, Position]:
        if not isinstance(other, Cursor):
            raise TypeError(f"a Cursor cannot be compared with {type(other).__name__}")
        if other.topic != self.topic:
            raise TypeError(f"cursors of different topics are not ordered: {self.topic!r} and {other.topic!r}")
        return self.position, other.position


def instant_of(at: int) -> datetime:
    """Return the datetime of microseconds since 1970."""
    return EPOCH + at * MICROSECOND


def microseconds(instant: datetime | float) -> int:
    """Return Unix seconds or an aware datetime as microseconds since 1970. Raises: InvalidArgumentError."""
    if isinstance(instant, datetime):
        if instant.tzinfo is None:
            raise InvalidArgumentError(
                f"{instant!r} has no time zone; pass an aware datetime, such as datetime.now(UTC)"
            )
        return max(0, (instant - EPOCH) // MICROSECOND)
    if isinstance(instant, bool) or not isinstance(instant, int | float):
        raise InvalidArgumentError(f"an instant is Unix seconds or an aware datetime, not {instant!r}")
    if not 0 <= instant <= 100_000_000_000:
        raise InvalidArgumentError(f"{instant!r} is not a time in Unix seconds; pass seconds, not milliseconds")
    return int(instant * 1_000_000)


class StoredBroadcast(LateBroadcast[P], frozen=True, gc=False, eq=False):
    """A broadcast read from the stored messages.

    `inserted_at`: when it was stored, None when it was received without its time. `cursor`: the position after it;
    a reader that starts with it continues with the next message.
    """

    inserted_at: datetime | None = None
    cursor: Cursor | None = None


_stored: Final[type[StoredBroadcast[Any]]] = StoredBroadcast


class StoredRow(Struct, frozen=True, gc=False):
    """One row of `realtime.messages`. `payload`: JSON text, or bytes if not `json`. `at`, `place`: see `Position`."""

    id: str
    event: str
    payload: bytes
    json: bool
    at: int
    place: int

    @property
    def position(self) -> Position:
        """Its place in the order of the messages."""
        return Position(self.at, self.place, self.id)


def stored_broadcast(
    topic: str, row: StoredRow, cursor: Cursor, model: Model | None, *, replayed: bool
) -> StoredBroadcast[Any]:
    """Return the broadcast of a row."""
    payload = Raw(row.payload) if row.json else row.payload
    return _stored(
        topic, row.event, UNSET, row.id, replayed, b"", payload, model, instant_of(row.at), cursor
    )  # fmt: skip


def received_broadcast(event: Broadcast[Any], cursor: Cursor) -> StoredBroadcast[Any]:
    """Return a broadcast that was received on the socket."""
    raw, model = sent_payload(event)
    return _stored(event.topic, event.event, UNSET, event.id, event.replayed, b"", raw, model, None, cursor)


class PageQuery(Struct, frozen=True):
    """A query of a history: the messages of a private topic after a position, oldest first.

    Attributes: after: the position; its id is empty if there is no message there. seen: ids to leave out.
    events: the event names, None for all. limit: the most rows. settle: seconds after which a message is expected to be
    visible. settled_only: leave out newer rows. ids: also return the rows with these ids, wherever they are.
    """

    topic: str
    after: Position
    seen: tuple[str, ...] = ()
    events: tuple[str, ...] | None = None
    limit: int = 500
    settle: float = 5.0
    settled_only: bool = False
    ids: tuple[str, ...] = ()


class Page(Struct, frozen=True):
    """The answer to a `PageQuery`.

    Times are microseconds since 1970 on the clock of the database.

    Attributes: rows: in the order of the messages. now: when the rows were read, or shortly before. horizon: the time
    before which all messages were visible then. oldest: the time before which messages may have been removed. found:
    the rows with the `ids` of the query, if they are not in `rows`.
    """

    rows: tuple[StoredRow, ...]
    now: int
    horizon: int
    oldest: int = 0
    found: tuple[StoredRow, ...] = ()


@runtime_checkable
class HistorySource(Protocol):
    """Reads stored messages: `DatabaseHistory`, `RestHistory`, or one of yours.

    `read` may be plain, which runs on a thread and may block, or async. `RealtimeError` with `retryable` is retried.
    """

    def read(self, query: PageQuery, /) -> Page | Awaitable[Page]:
        """Return the page of a query."""
        ...


@runtime_checkable
class CursorStore(Protocol):
    """Keeps cursors by name: `SqliteCursors`, `PostgresCursors`, or one of yours.

    The methods may be plain, which run on a thread and may block, or async.
    """

    def load(self, name: str, /) -> Cursor | Awaitable[Cursor | None] | None:
        """Return the cursor that was saved under this name, None if there is none."""
        ...

    def save(self, name: str, cursor: Cursor, /) -> Awaitable[None] | None:
        """Save a cursor under this name, unless a later one is saved already."""
        ...
