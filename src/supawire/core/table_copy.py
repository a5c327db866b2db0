"""A copy of a table, and what a change does to it.

A change is read once, into what it states about the table: the row is now this (`Put`), the row is gone (`Drop`), or
nothing reliable (`Undecidable`). A change carries the new row, not a difference, so applying it twice does no harm, and
applied in commit order the last one is right. A value that a change does not carry (a large value that an UPDATE left
alone) is taken from the row that is there; without one the change cannot be applied.
"""

from collections.abc import Hashable, Iterable, Mapping, Set
from typing import Any, Final, NamedTuple, cast
from uuid import UUID

from msgspec import Struct

from supawire._mirror_events import Row, RowDeleted, RowInserted, Rows, RowUpdated, RowView
from supawire._values.rows import Column
from supawire.errors import RowError
from supawire.events import Change, Delete, Update

CUT: Final = frozenset({"bpchar", "bit"})
"""Types of which the server sends the first character or bit alone (protocol §4.4)."""

_FREE: Final = frozenset({"json", "jsonb"})
"""Types whose values may be of any Python type."""

Delta = RowInserted[Any] | RowUpdated[Any] | RowDeleted[Any]


class Put(NamedTuple):
    """A row is so now. `old_key`: where it was; `unsent`: columns whose values it did not change, and does not say."""

    key: Hashable
    old_key: Hashable
    row: Row
    unsent: Set[str]
    columns: tuple[Column, ...]


class Drop(NamedTuple):
    """A row is gone; `moved_to`: the key under which it went on outside of the filter, nearly always the same."""

    key: Hashable
    moved_to: Hashable


class Undecidable(NamedTuple):
    """Something changed, and what it is now has to be fetched. error: the change could not be read."""

    why: str
    error: RowError | None = None


Op = Put | Drop | Undecidable


class KeyColumns:
    """The columns that tell one row from another, and the form in which their values are compared.

    The same UUID is an object in an exact row and a text in one from JSON: both are the text here.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._only = names[0] if len(names) == 1 else None

    def of(self, row: Mapping[str, Any]) -> Hashable | None:
        """The key of a row in canonical form; None when a column of it is missing or null."""
        if self._only is not None:
            return _canonical(row.get(self._only))
        key = tuple(_canonical(row.get(name)) for name in self.names)
        return None if None in key else key

    def asked(self, key: Any) -> Hashable:
        """What a user looks up, in canonical form. Raises: TypeError: it cannot be a key."""
        hash(key)
        if self._only is not None or not isinstance(key, tuple):
            return _canonical(key)
        return tuple(_canonical(part) for part in cast("tuple[Any, ...]", key))

    def shown(self, row: Row) -> Any:
        """The key as users see it: the values as they stand in the row."""
        return row[self._only] if self._only is not None else tuple(row[name] for name in self.names)


def _canonical(value: Any) -> Hashable:
    if type(value) is UUID:
        return str(value)
    try:
        hash(value)
    except TypeError:
        raise RowError(f"a {type(value).__name__} is no key: it can be changed") from None
    return cast("Hashable", value)


class Reader(Struct, frozen=True):
    """Reads changes of one table.

    judged: the columns of the filter. plain: rows as plain JSON, not as exact Python values.
    """

    schema: str
    table: str
    key: KeyColumns
    judged: frozenset[str] = frozenset()
    plain: bool = False

    def read(self, change: Change[dict[str, Any]], *, inside: bool) -> Op | None:
        """What a change says; None: nothing, it is of another table. `inside`: the server says that the filter fits."""
        if (change.schema, change.table) != (self.schema, self.table):
            return None  # `_` in the name of a table is a wildcard of the server (protocol §4.2)
        try:
            return self._delete(change) if isinstance(change, Delete) else self._put(change, inside=inside)
        except RowError as error:
            return Undecidable(error.message, error)

    def _delete(self, change: Delete) -> Op:
        """The key is all that counts, also when a large row came without its other values."""
        key = self.key.of(self._old_row(change))
        return Undecidable(_without_key(change)) if key is None else Drop(key, key)

    def _put(self, change: Change[dict[str, Any]], *, inside: bool) -> Op:
        if change.errors:
            return Undecidable(", ".join(change.errors))
        row: Row = change.raw.get("record", {}) if self.plain else cast("Row", getattr(change, "record"))  # noqa: B009
        key = old_key = self.key.of(row)
        if isinstance(change, Update):
            old_key = self.key.of(self._old_row(change))
        if key is None or old_key is None:
            return Undecidable(_without_key(change))
        columns = change.columns
        cut = [column.name for column in columns if column.type in CUT and row.get(column.name) is not None]
        if cut:
            return Undecidable(f"the server sends only the beginning of {', '.join(cut)}")
        unsent = {column.name for column in columns} - row.keys()
        if inside:
            return Put(key, old_key, row, unsent, columns)
        if self.judged & unsent:  # what is not sent fits no condition, whatever it is (protocol §4.3)
            return Undecidable(f"the filter was judged without {', '.join(sorted(self.judged & unsent))}")
        return Drop(old_key, key)

    def _old_row(self, change: Update[Any] | Delete) -> Row:
        return change.raw.get("old_record", {}) if self.plain else change.old_record


def _without_key(change: Change[Any]) -> str:
    return ", ".join(change.errors) or f"an {change.type} came without the columns of the key"


class TableCopy:
    """The rows of a table as far as they were told."""

    def __init__(self, rows: Rows, shown: RowView) -> None:
        self.rows = rows
        self._shown = shown

    def follow(self, op: Put | Drop) -> Delta | None | Undecidable:
        """Apply the change that comes next: how the copy differs now, or `Undecidable`, and nothing is done."""
        left, taken = (op.key, op.moved_to) if isinstance(op, Drop) else (op.old_key, op.key)
        if left != taken and taken in self.rows:
            return Undecidable("a row has the key of another")
        old = self.rows.get(left)
        if isinstance(op, Drop):
            self.rows.pop(left, None)
            return None if old is None else RowDeleted(old, self._shown)
        row = _whole(op, old)
        if isinstance(row, Undecidable) or (_same(row, old) and left == taken):
            return row if isinstance(row, Undecidable) else None
        self._put(op, row)
        return RowInserted(row, self._shown) if old is None else RowUpdated(row, old, self._shown)

    def replay(self, op: Put | Drop) -> Undecidable | None:
        """Apply a change that the rows may have in them already: the last of a key, and of its columns, wins."""
        if isinstance(op, Drop):
            self.rows.pop(op.key, None)
            return None
        if op.unsent and op.key != op.old_key:
            return Undecidable("a row has another key, and was not sent whole")  # it may be under either of them
        row = _whole(op, self.rows.get(op.key))
        if isinstance(row, Undecidable):
            return row
        self._put(op, row)
        return None

    def _put(self, op: Put, row: Row) -> None:
        self.rows[op.key] = row
        if op.key != op.old_key:  # after the other: who looks from another thread finds at least one of them
            self.rows.pop(op.old_key, None)


def _whole(op: Put, known: Row | None) -> Row | Undecidable:
    """The row, with what was not sent from the one that is known."""
    if not op.unsent:
        return op.row
    if known is None or not op.unsent <= known.keys():
        return Undecidable(f"{', '.join(sorted(op.unsent))} was not sent, and is not known")
    return {column.name: (op.row if column.name in op.row else known)[column.name] for column in op.columns}


def _same(row: Row, other: Row | None) -> bool:
    try:
        return row == other
    except ArithmeticError:  # a Decimal that signals, which an odd server may send as text
        return False


def read_rows(given: Iterable[Any], key: KeyColumns, select: frozenset[str] | None) -> Rows:
    """What a fetch gave, by key. Raises: RowError."""
    rows: Rows = {}
    for one in given:
        if not isinstance(one, Mapping):
            raise RowError(
                f"fetch gave a {type(one).__name__} where a row was expected, which is a mapping from column to value",
                hint="An answer of supabase-py has its rows in `.data`.",
            )
        whole = cast("Mapping[str, Any]", one)
        row = dict(whole) if select is None else {name: whole[name] for name in whole if name in select}
        found = key.of(row)
        if found is None:
            missing = [name for name in key.names if row.get(name) is None]
            raise RowError(f"fetch gave a row without {', '.join(missing)}", hint="key= names columns of every row.")
        if not _same(rows.get(found, row), row):
            raise RowError(
                f"fetch gave two different rows with the key {found!r}",
                hint="key= must name the primary key, and pages must be cut along it, not by offset.",
            )
        rows[found] = row
    return rows


def unlike(row: Row, old: Row, columns: Iterable[Column]) -> str | None:
    """How a row of a change and one of the fetch are of different make, None when they are not."""
    for column in columns:
        new, was = row.get(column.name), old.get(column.name)
        if new is None or was is None or column.type in _FREE or type(new) is type(was):
            continue
        if not (isinstance(new, int | float) and isinstance(was, int | float)):
            made = f"a {type(was).__name__} in the rows of fetch and a {type(new).__name__} in changes"
            return f"{column.name} is {made}"
    return None
