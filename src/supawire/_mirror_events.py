"""The events and states of a mirror, the live copy of a table.

Rows are stored as plain dicts and returned as copies, or as objects of the user's class created on access, so that
changing them does not change the mirror.
"""

from collections.abc import AsyncIterable, Awaitable, Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

from msgspec import UNSET, Struct
from msgspec.structs import force_setattr

from supawire._display import brief_event, content_hash

if TYPE_CHECKING:  # strict checkers require a default; at run time it needs Python 3.13
    import typing_extensions

    R = typing_extensions.TypeVar("R", default=dict[str, Any])
else:
    R = TypeVar("R")

Row: TypeAlias = dict[str, Any]
Rows: TypeAlias = dict[Hashable, Row]
"""Rows by their keys in canonical form."""

RowSource: TypeAlias = Callable[[], Iterable[Any] | AsyncIterable[Any] | Awaitable[Iterable[Any] | AsyncIterable[Any]]]
"""The callable for `fetch=`: sync or async, may be a generator; provides mappings from column to value."""

RowLookup: TypeAlias = Callable[[dict[str, Any]], Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None]
"""The callable for `fetch_row=`: sync or async; takes the key columns and their values, and returns the row or None."""


class MirrorState(StrEnum):
    """The state of a mirror."""

    JOINING = "joining"
    WAITING = "waiting"
    FETCHING = "fetching"
    SETTLING = "settling"
    LIVE = "live"
    REFETCHING = "refetching"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class MirrorStats:
    """Counters since the mirror was made. changes: received; fetches, row_fetches: calls of `fetch` and `fetch_row`.

    verifications: comparisons with the table that ended; differences: rows that were found to differ, and repaired;
    verified_at: when the last comparison ended, None before the first.
    """

    changes: int
    fetches: int
    row_fetches: int
    verifications: int
    differences: int
    verified_at: datetime | None


class RowView(Struct, frozen=True):
    """How rows are presented to users: `key` of its columns, `row` as a copy or an object of their class."""

    key: Callable[[Row], Any]
    row: Callable[[Row], Any]


class RowInserted(Struct, Generic[R], frozen=True, eq=False):
    """A row was added to the mirror."""

    _row: Row
    _shown: RowView

    @property
    def key(self) -> Any:
        """Its key: the value, or the tuple of values if the key has several columns."""
        return self._shown.key(self._row)

    @property
    def row(self) -> R:
        """The row. Raises `RowError` when it does not fit the model."""
        return cast("R", self._shown.row(self._row))

    def __eq__(self, other: object) -> bool:
        """Compare the rows; objects created for `model=` are not compared."""
        if not isinstance(other, RowInserted):
            return NotImplemented
        theirs = cast("RowInserted[Any]", other)
        return self._row == theirs._row and bool(self.key == theirs.key)

    def __hash__(self) -> int:
        return hash((RowInserted, content_hash(self._row)))

    def __repr__(self) -> str:
        return brief_event("RowInserted", key=self.key, row=self._row)


class RowUpdated(Struct, Generic[R], frozen=True, eq=False):
    """A row of the mirror has new values, and possibly a new key."""

    _row: Row
    _old: Row
    _shown: RowView

    @property
    def key(self) -> Any:
        """Its current key."""
        return self._shown.key(self._row)

    @property
    def old_key(self) -> Any:
        """Its previous key; nearly always the same."""
        return self._shown.key(self._old)

    @property
    def row(self) -> R:
        """The current row. Raises `RowError` when it does not fit the model."""
        return cast("R", self._shown.row(self._row))

    @property
    def old(self) -> R:
        """The previous row. Raises `RowError` when it does not fit the model."""
        return cast("R", self._shown.row(self._old))

    def __eq__(self, other: object) -> bool:
        """Compare the rows; objects created for `model=` are not compared."""
        if not isinstance(other, RowUpdated):
            return NotImplemented
        theirs = cast("RowUpdated[Any]", other)
        return (self._row, self._old) == (theirs._row, theirs._old) and bool(self.key == theirs.key)

    def __hash__(self) -> int:
        return hash((RowUpdated, content_hash(self._row), content_hash(self._old)))

    def __repr__(self) -> str:
        return brief_event("RowUpdated", key=self.key, row=self._row, old=self._old)


class RowDeleted(Struct, Generic[R], frozen=True, eq=False):
    """A row was removed from the mirror: it was deleted, or no longer matches the filter."""

    _old: Row
    _shown: RowView

    @property
    def key(self) -> Any:
        """The key that it had."""
        return self._shown.key(self._old)

    @property
    def old(self) -> R:
        """The removed row. Raises `RowError` when it does not fit the model."""
        return cast("R", self._shown.row(self._old))

    def __eq__(self, other: object) -> bool:
        """Compare the rows; objects created for `model=` are not compared."""
        if not isinstance(other, RowDeleted):
            return NotImplemented
        theirs = cast("RowDeleted[Any]", other)
        return self._old == theirs._old and bool(self.key == theirs.key)

    def __hash__(self) -> int:
        return hash((RowDeleted, content_hash(self._old)))

    def __repr__(self) -> str:
        return brief_event("RowDeleted", key=self.key, old=self._old)


class Resynced(Struct, Generic[R], frozen=True, eq=False):
    """The mirror was reloaded: `rows` has all rows, `changes` the differences from what this iterator has reported.

    `reason`: why, such as "first", "gap: connection_lost" or "refresh"; "begin" is where a later iterator begins;
    "merged" replaces changes that exceeded the buffer of a slow iterator; "compared": `refresh_every` or `verify` found
    a difference; "cache": the rows of an earlier run, which are not live.
    """

    reason: str
    _before: Rows
    _after: Rows
    _shown: RowView
    _changes: Any = UNSET

    @property
    def rows(self) -> dict[Any, R]:
        """All rows by key. Raises `RowError` when one does not fit the model."""
        return {self._shown.key(row): cast("R", self._shown.row(row)) for row in self._after.values()}

    @property
    def changes(self) -> "tuple[RowInserted[R] | RowUpdated[R] | RowDeleted[R], ...]":
        """The differences as changes of single rows; computed on first access, then cached.

        A new key counts as a new row.
        """
        if self._changes is UNSET:
            force_setattr(self, "_changes", tuple(_differences(self._before, self._after, self._shown)))
        return cast("tuple[RowInserted[R] | RowUpdated[R] | RowDeleted[R], ...]", self._changes)

    def __eq__(self, other: object) -> bool:
        """Compare the rows; objects created for `model=` are not compared."""
        if not isinstance(other, Resynced):
            return NotImplemented
        theirs = cast("Resynced[Any]", other)
        return (self.reason, self._before, self._after) == (theirs.reason, theirs._before, theirs._after)

    def __hash__(self) -> int:
        return hash((Resynced, self.reason, len(self._before), len(self._after)))

    def __repr__(self) -> str:
        return brief_event("Resynced", reason=self.reason, rows=self._after)


RowChange = RowInserted[R] | RowUpdated[R] | RowDeleted[R]
"""A change of one row of the mirror."""

MirrorEvent = RowInserted[R] | RowUpdated[R] | RowDeleted[R] | Resynced[R]
"""An item of an iterator over a mirror."""


def same_row(row: Row, other: Row) -> bool:
    """Return whether two rows are equal; unlike with `==`, NaN equals NaN, also inside lists."""
    try:
        if row == other:
            return True
    except ArithmeticError:  # a signaling NaN of Decimal, which a server may send as text
        pass
    return row.keys() == other.keys() and all(_same_value(value, other[name]) for name, value in row.items())


def _same_value(value: Any, other: Any) -> bool:
    try:
        if value == other:
            return True
    except ArithmeticError:
        pass
    return type(value) is type(other) and repr(value) == repr(other)


def _differences(before: Rows, after: Rows, shown: RowView) -> Iterator[RowChange[Any]]:
    for key, old in before.items():
        if key not in after:
            yield RowDeleted(old, shown)
    for key, row in after.items():
        old = before.get(key)
        if old is None:
            yield RowInserted(row, shown)
        elif not same_row(row, old):
            yield RowUpdated(row, old, shown)


def rewound(
    rows: Mapping[Hashable, Row], events: list[MirrorEvent[Any]], key_of: Callable[[Row], Hashable | None]
) -> Rows:
    """Return the rows as they were before these events."""
    past: Rows = dict(rows)
    for event in reversed(events):
        match event:
            case RowInserted(row):
                del past[key_of(row)]
            case RowUpdated(row, old):
                del past[key_of(row)]
                past[key_of(old)] = old
            case RowDeleted(old):
                past[key_of(old)] = old
            case Resynced(_, before):
                past = dict(before)
    return past
