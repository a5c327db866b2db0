"""Decode messages of `pgoutput`, PostgreSQL's built-in logical decoding plugin, into typed values.

Uses version 1 of the protocol: transactions arrive whole, in commit order. Text is kept as bytes, since most of it is
forwarded to clients unchanged. See "Logical Replication Message Formats" in PostgreSQL's manual.
"""

import struct
from collections.abc import Iterable
from enum import Enum
from typing import Final, Literal, TypeAlias

from msgspec import Struct


class Unchanged(Enum):
    """Marker for a large (TOASTed) value that an UPDATE did not change, which the stream omits."""

    UNCHANGED = "u"


UNCHANGED: Final = Unchanged.UNCHANGED

Value: TypeAlias = bytes | None | Literal[Unchanged.UNCHANGED]
"""PostgreSQL's text of a value, None for NULL, or UNCHANGED."""
Row: TypeAlias = list[Value]
"""One value for each column of the relation, in its order."""


class StreamError(Exception):
    """The bytes are not a valid message of protocol version 1."""


class Begin(Struct, frozen=True, gc=False):
    """Start of a transaction that committed at `final_lsn`. commit_at: microseconds since 2000-01-01 UTC."""

    final_lsn: int
    commit_at: int
    xid: int


class Commit(Struct, frozen=True, gc=False):
    """End of a transaction. end_lsn: the position to confirm once it has been processed."""

    commit_lsn: int
    end_lsn: int
    commit_at: int


class RelationColumn(Struct, frozen=True, gc=False):
    """A column of a relation. modifier: the type modifier, such as the length of a char, or -1."""

    name: str
    type: int
    modifier: int
    in_identity: bool
    """Whether the column is part of the old row under the current replica identity."""


class Relation(Struct, frozen=True):
    """A table as of the changes that follow. identity: `d`, `n`, `f` or `i`, as in pg_class."""

    oid: int
    schema: str
    table: str
    identity: str
    columns: tuple[RelationColumn, ...]


class TypeName(Struct, frozen=True, gc=False):
    """The name of a type that is not built in; sent before the first relation that uses it."""

    oid: int
    schema: str
    name: str


class InsertMessage(Struct, frozen=True):
    """An inserted row."""

    relation: int
    new: Row


class UpdateMessage(Struct, frozen=True):
    """An updated row. old: None, the identity columns (`whole` is False; the others are NULL), or all columns."""

    relation: int
    new: Row
    old: Row | None
    whole: bool


class DeleteMessage(Struct, frozen=True):
    """A deleted row; `old` as for an update."""

    relation: int
    old: Row
    whole: bool


class Other(Struct, frozen=True, gc=False):
    """A message without row changes: truncate, origin, a logical message."""

    kind: str


StreamMessage: TypeAlias = Begin | Commit | Relation | TypeName | InsertMessage | UpdateMessage | DeleteMessage | Other


class CommittedChange(Struct, frozen=True):
    """A committed change of a row. type: INSERT, UPDATE or DELETE. whole: whether `old` has every column."""

    begin: Begin
    type: str
    relation: Relation
    new: Row | None
    old: Row | None
    whole: bool = False


_BEGIN: Final = struct.Struct(">QqI")
_COMMIT: Final = struct.Struct(">BQQq")
_OID: Final = struct.Struct(">I")
_COUNT: Final = struct.Struct(">H")
_COLUMN: Final = struct.Struct(">Ii")
_KEY: Final = ord("K")
_OLD: Final = ord("O")
_NEW: Final = ord("N")
_TEXT: Final = ord("t")
_NULL: Final = ord("n")
_SAME: Final = ord("u")


def decode(data: bytes) -> StreamMessage:
    """Decode one message. Raises: StreamError."""
    try:
        return _decode(data)
    except (IndexError, ValueError, struct.error) as error:
        raise StreamError(f"a message of {len(data)} bytes that begins with {data[:1]!r} cannot be read") from error


def _decode(data: bytes) -> StreamMessage:
    match data[:1]:
        case b"I":
            return _insert(data)
        case b"U":
            return _update(data)
        case b"D":
            return _delete(data)
        case b"B":
            return _begin(data)
        case b"C":
            return _commit(data)
        case b"R":
            return _relation(data)
        case b"Y":
            return _type(data)
        case other:
            return Other(other.decode("ascii"))


def _begin(data: bytes) -> Begin:
    return Begin(*_BEGIN.unpack_from(data, 1))


def _commit(data: bytes) -> Commit:
    _flags, commit_lsn, end_lsn, commit_at = _COMMIT.unpack_from(data, 1)
    return Commit(commit_lsn, end_lsn, commit_at)


def _relation(data: bytes) -> Relation:
    (oid,) = _OID.unpack_from(data, 1)
    schema, at = _string(data, 5)
    table, at = _string(data, at)
    identity = chr(data[at])
    (count,) = _COUNT.unpack_from(data, at + 1)
    at += 3
    columns: list[RelationColumn] = []
    for _ in range(count):
        flags = data[at]
        name, at = _string(data, at + 1)
        kind, modifier = _COLUMN.unpack_from(data, at)
        at += 8
        columns.append(RelationColumn(name, kind, modifier, bool(flags & 1)))
    return Relation(oid, schema or "pg_catalog", table, identity, tuple(columns))


def _type(data: bytes) -> TypeName:
    (oid,) = _OID.unpack_from(data, 1)
    schema, at = _string(data, 5)
    name, _ = _string(data, at)
    return TypeName(oid, schema or "pg_catalog", name)


def _insert(data: bytes) -> InsertMessage:
    (relation,) = _OID.unpack_from(data, 1)
    if data[5] != _NEW:
        raise ValueError("an insert without a new row")
    return InsertMessage(relation, _row(data, 6)[0])


def _update(data: bytes) -> UpdateMessage:
    (relation,) = _OID.unpack_from(data, 1)
    at, mark, old = 5, data[5], None
    if mark in (_KEY, _OLD):
        old, at = _row(data, 6)
    if data[at] != _NEW:
        raise ValueError("an update without a new row")
    return UpdateMessage(relation, _row(data, at + 1)[0], old, mark == _OLD)


def _delete(data: bytes) -> DeleteMessage:
    (relation,) = _OID.unpack_from(data, 1)
    if data[5] not in (_KEY, _OLD):
        raise ValueError("a delete without an old row")
    return DeleteMessage(relation, _row(data, 6)[0], data[5] == _OLD)


def _row(data: bytes, at: int) -> tuple[Row, int]:
    """Return the values of a row and the offset after it. Performance-critical: called for each row of the stream."""
    (count,) = _COUNT.unpack_from(data, at)
    at += 2
    row: Row = []
    size_at = _OID.unpack_from
    for _ in range(count):
        mark = data[at]
        at += 1
        if mark == _TEXT:
            end = at + 4 + size_at(data, at)[0]
            if end > len(data):
                raise ValueError("a value that is longer than its message")
            row.append(data[at + 4 : end])
            at = end
        elif mark == _NULL:
            row.append(None)
        elif mark == _SAME:
            row.append(UNCHANGED)
        else:
            raise ValueError("a value of an unknown kind")
    return row, at


def _string(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(0, at)
    return data[at:end].decode(), end + 1


class ChangeDecoder:
    """Decodes the messages of one stream to row changes: joins each row with its transaction and its table."""

    def __init__(self) -> None:
        self._relations: dict[int, Relation] = {}
        self.transaction: Begin | None = None
        """The transaction of the next row; None between transactions."""

    def decode(self, messages: Iterable[bytes], changes: list[CommittedChange]) -> int:
        """Append the row changes in these messages to `changes`.

        Returns the position to confirm once they are processed, 0 if no transaction ended. Raises: StreamError.
        """
        end_lsn = 0
        for data in messages:
            match decode(data):
                case InsertMessage() | UpdateMessage() | DeleteMessage() as message:
                    changes.append(self._row_change(message))
                case Relation() as relation:
                    self._relations[relation.oid] = relation
                case Begin() as begin:
                    self.transaction = begin
                case Commit() as commit:
                    self.transaction, end_lsn = None, commit.end_lsn
                case TypeName() | Other():
                    pass
        return end_lsn

    def _row_change(self, message: InsertMessage | UpdateMessage | DeleteMessage) -> CommittedChange:
        begin, relation = self.transaction, self._relations.get(message.relation)
        if begin is None or relation is None:
            raise StreamError("a row outside of a transaction, or of a table that was not announced")
        match message:
            case InsertMessage():
                return CommittedChange(begin, "INSERT", relation, message.new, None)
            case UpdateMessage():
                return CommittedChange(begin, "UPDATE", relation, message.new, message.old, message.whole)
            case DeleteMessage():
                return CommittedChange(begin, "DELETE", relation, None, message.old, message.whole)
