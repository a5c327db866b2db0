"""Changes of rows as users receive them: made for every frame, decoded when they are first read (protocol §4.4)."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import force_setattr

from supawire._brief import Unreadable, brief_event, content_hash
from supawire._misuse import NoAttributeError
from supawire._models import Model
from supawire.errors import RowError
from supawire.rows import Column, decode_columns, decode_row, unsent_columns

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
