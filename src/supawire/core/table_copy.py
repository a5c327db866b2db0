"""A copy of a table, and the effect of changes on it.

Each change is first converted to what it states about the table: the row now has these values (`Put`), the row is gone
(`Drop`), it has values that were not all sent (`Incomplete`), or nothing reliable (`Undecidable`). A change carries the
new row, not a difference, so applying it twice is harmless, and after applying all in commit order the last one wins. A
value that a change omits (a large value that an UPDATE did not touch) is taken from the existing row; without one the
row is incomplete too.
"""

from collections.abc import Hashable, Iterable, Mapping, Set
from typing import Any, Final, NamedTuple, TypeAlias, cast
from uuid import UUID

from msgspec import Struct

from supawire._mirror_events import Row, RowDeleted, RowInserted, Rows, RowUpdated, RowView
from supawire._values.rows import Column
from supawire.errors import RowError
from supawire.events import Change, Delete, Update

TRUNCATED_TYPES: Final = frozenset({"bpchar", "bit"})
"""Types of which the server sends only the first character or bit."""

_ANY_TYPE: Final = frozenset({"json", "jsonb"})
"""Types whose values may have any Python type."""

Key: TypeAlias = Hashable
"""The key of a row in canonical form."""

Delta = RowInserted[Any] | RowUpdated[Any] | RowDeleted[Any]


class Put(NamedTuple):
    """A row has these values. `old_key`: its previous key; `unsent`: columns that were not changed and not sent."""

    key: Hashable
    old_key: Hashable
    row: Row
    unsent: Set[str]
    columns: tuple[Column, ...]


class Drop(NamedTuple):
    """A row is gone. `moved_to`: its key outside the filter, nearly always unchanged."""

    key: Hashable
    moved_to: Hashable


class Incomplete(NamedTuple):
    """A row has values that are not all known; the row must be fetched. row: the known values, with all key columns."""

    key: Hashable
    old_key: Hashable
    row: Row
    why: str


class Undecidable(NamedTuple):
    """A change after which all rows must be fetched. error: why it could not be read, if that is the reason."""

    why: str
    error: RowError | None = None


Op = Put | Drop | Incomplete | Undecidable


class KeyColumns:
    """The key columns of a table, and the canonical form in which their values are compared.

    A UUID is an object in exact rows and a string in JSON rows; the canonical form of both is the string.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._only = names[0] if len(names) == 1 else None

    def of(self, row: Mapping[str, Any]) -> Hashable | None:
        """Return the key of a row in canonical form, None if a key column is missing or null."""
        if self._only is not None:
            return _canonical(row.get(self._only))
        key = tuple(_canonical(row.get(name)) for name in self.names)
        return None if None in key else key

    def values(self, row: Row) -> Row:
        """Return the key columns of a row and their values."""
        return {name: row[name] for name in self.names}

    def values_of(self, key: Hashable) -> Row:
        """Return the key columns and their values for a key in canonical form."""
        return dict(zip(self.names, (key,) if self._only is not None else cast("tuple[Any, ...]", key), strict=True))

    def lookup(self, key: Any) -> Hashable:
        """Return a user's lookup key in canonical form. Raises: TypeError: it is not hashable."""
        hash(key)
        if self._only is not None or not isinstance(key, tuple):
            return _canonical(key)
        return tuple(_canonical(part) for part in cast("tuple[Any, ...]", key))

    def shown(self, row: Row) -> Any:
        """Return the key as shown to users: the values as they are in the row."""
        return row[self._only] if self._only is not None else tuple(row[name] for name in self.names)


def _canonical(value: Any) -> Hashable:
    if type(value) is UUID:
        return str(value)
    try:
        hash(value)
    except TypeError:
        raise RowError(f"a {type(value).__name__} cannot be a key: it is not hashable") from None
    return cast("Hashable", value)


class ChangeReader(Struct, frozen=True):
    """Reader of the changes of one table.

    filter_columns: the columns of the filter. plain: rows as plain JSON, not as exact Python values.
    """

    schema: str
    table: str
    key: KeyColumns
    filter_columns: frozenset[str] = frozenset()
    plain: bool = False

    def read(self, change: Change[dict[str, Any]], *, inside: bool) -> Op | None:
        """Return the operation of a change, None for another table. `inside`: whether it matches the filter."""
        if (change.schema, change.table) != (self.schema, self.table):
            return None  # the server treats `_` in a table name as a wildcard
        try:
            return self._delete(change) if isinstance(change, Delete) else self._put(change, inside=inside)
        except RowError as error:
            return Undecidable(error.message, error)

    def _delete(self, change: Delete) -> Op:
        """Convert a delete. Only the key matters, so a large row may lack its other values."""
        key = self.key.of(self._old_row(change))
        return Undecidable(_without_key(change)) if key is None else Drop(key, key)

    def _put(self, change: Change[dict[str, Any]], *, inside: bool) -> Op:
        row: Row = change.raw.get("record", {}) if self.plain else cast("Row", getattr(change, "record"))  # noqa: B009
        key = old_key = self.key.of(row)
        if isinstance(change, Update):
            old_key = self.key.of(self._old_row(change))
        if key is None or old_key is None:
            return Undecidable(_without_key(change))
        if change.errors:
            return Incomplete(key, old_key, row, ", ".join(change.errors))
        columns = change.columns
        cut = [column.name for column in columns if column.type in TRUNCATED_TYPES and row.get(column.name) is not None]
        if cut:
            return Incomplete(key, old_key, row, f"the server sends only the beginning of {', '.join(cut)}")
        unsent = {column.name for column in columns} - row.keys()
        if inside:
            return Put(key, old_key, row, unsent, columns)
        if self.filter_columns & unsent:  # a value that is not sent never matches the filter
            missing = ", ".join(sorted(self.filter_columns & unsent))
            return Incomplete(key, old_key, row, f"the filter was evaluated without {missing}")
        return Drop(old_key, key)

    def _old_row(self, change: Update[Any] | Delete) -> Row:
        return change.raw.get("old_record", {}) if self.plain else change.old_record


def _without_key(change: Change[Any]) -> str:
    return ", ".join(change.errors) or f"an {change.type} arrived without the columns of the key"


class TableCopy:
    """The rows of a table as known from fetches and changes."""

    def __init__(self, rows: Rows, shown: RowView) -> None:
        self.rows = rows
        self.incomplete: dict[Key, Row] = {}
        """The rows that must be fetched, with the values known of them. `rows` has older ones, or none."""
        self._shown = shown

    def follow(self, op: Put | Drop) -> Delta | None | Incomplete | Undecidable:
        """Apply the next change and return the difference, or return why it cannot be applied and change nothing."""
        left, taken = (op.key, op.moved_to) if isinstance(op, Drop) else (op.old_key, op.key)
        if left != taken and taken in self.rows:
            return Undecidable("a row got the key of another one")
        old = self.rows.get(left)
        if isinstance(op, Drop):
            return self._drop(left)
        row = self._whole(op, left)
        if isinstance(row, Incomplete):
            return row
        self._complete(op)
        if _same(row, old) and left == taken:
            return None
        self._put(op, row)
        return RowInserted(row, self._shown) if old is None else RowUpdated(row, old, self._shown)

    def replay(self, op: Put | Drop) -> Incomplete | None:
        """Apply a change that the rows may already include."""
        if isinstance(op, Drop):
            self._drop(op.key)
            return None
        if op.unsent and op.key != op.old_key:  # known under either key
            return Incomplete(op.key, op.old_key, op.row, "a row got another key and arrived without all values")
        row = self._whole(op, op.key)
        if isinstance(row, Incomplete):
            return row
        self._complete(op)
        self._put(op, row)
        return None

    def mark_incomplete(self, op: Incomplete) -> Delta | None:
        """Record that a row must be fetched, and return the difference: a row that changed its key is removed."""
        self.incomplete[op.key] = op.row
        return self._drop(op.old_key) if op.key != op.old_key else None

    def show_fetched(self, key: Key, row: Row | None) -> Delta | None:
        """Set a row to what was fetched, None if it does not exist, and return the difference."""
        old = self.rows.get(key)
        if row is None:
            self.rows.pop(key, None)
            return None if old is None else RowDeleted(old, self._shown)
        if _same(row, old):
            return None
        self.rows[key] = row
        return RowInserted(row, self._shown) if old is None else RowUpdated(row, old, self._shown)

    def keep_incomplete(self, other: "TableCopy") -> None:
        """Take over the rows that are incomplete here from another copy that has followed the same changes."""
        for key in list(self.incomplete):
            if key in other.rows:
                self.rows[key] = other.rows[key]
            else:
                self.rows.pop(key, None)
            if key not in other.incomplete:
                del self.incomplete[key]

    def _complete(self, op: Put) -> None:
        if self.incomplete:
            self.incomplete.pop(op.key, None)
            self.incomplete.pop(op.old_key, None)

    def _drop(self, key: Key) -> Delta | None:
        self.incomplete.pop(key, None)
        old = self.rows.pop(key, None)
        return None if old is None else RowDeleted(old, self._shown)

    def _put(self, op: Put, row: Row) -> None:
        self.rows[op.key] = row
        if op.key != op.old_key:  # last, so that other threads find at least one of the two
            self.rows.pop(op.old_key, None)

    def _whole(self, op: Put, known_as: Key) -> Row | Incomplete:
        """Return the complete row, with values that were not sent taken from the row with the key `known_as`."""
        if not op.unsent:
            return op.row
        known = None if known_as in self.incomplete else self.rows.get(known_as)
        if known is None or not op.unsent <= known.keys():
            why = f"{', '.join(sorted(op.unsent))} was not sent and is not known"
            return Incomplete(op.key, op.old_key, op.row, why)
        return {column.name: (op.row if column.name in op.row else known)[column.name] for column in op.columns}


def _same(row: Row, other: Row | None) -> bool:
    try:
        return row == other
    except ArithmeticError:  # a signaling Decimal, which an unusual server may send
        return False


def read_rows(given: Iterable[Any], key: KeyColumns, select: frozenset[str] | None) -> Rows:
    """Return the rows of a fetch by key. Raises: RowError."""
    rows: Rows = {}
    for one in given:
        if not isinstance(one, Mapping):
            raise RowError(
                f"fetch must return rows, which are mappings from column to value, and returned a {type(one).__name__}",
                hint="An answer of supabase-py has its rows in `.data`.",
            )
        whole = cast("Mapping[str, Any]", one)
        row = dict(whole) if select is None else {name: whole[name] for name in whole if name in select}
        found = key.of(row)
        if found is None:
            missing = [name for name in key.names if row.get(name) is None]
            raise RowError(
                f"fetch returned a row without {', '.join(missing)}", hint="key= must name columns that every row has."
            )
        if not _same(rows.get(found, row), row):
            raise RowError(
                f"fetch returned two different rows with the key {found!r}",
                hint="key= must name the primary key, and pages must be split by it, not by offset.",
            )
        rows[found] = row
    return rows


def type_difference(row: Row, old: Row, columns: Iterable[Column]) -> str | None:
    """Return how a row of a change and a fetched row differ in type, None if they do not."""
    for column in columns:
        new, was = row.get(column.name), old.get(column.name)
        if new is None or was is None or column.type in _ANY_TYPE or type(new) is type(was):
            continue
        if not (isinstance(new, int | float) and isinstance(was, int | float)):
            made = f"a {type(was).__name__} in the rows of fetch and a {type(new).__name__} in changes"
            return f"{column.name} is {made}"
    return None
