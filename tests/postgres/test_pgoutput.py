"""Messages of PostgreSQL's replication stream, built according to its manual."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supawire.server.postgres.pgoutput import (
    UNCHANGED,
    Begin,
    Commit,
    DeleteMessage,
    InsertMessage,
    Other,
    Relation,
    RelationColumn,
    Row,
    StreamError,
    StreamMessage,
    TypeName,
    UpdateMessage,
    decode,
)


def read(data: bytes) -> StreamMessage | StreamError:
    try:
        return decode(data)
    except StreamError as error:
        return error


RELATION = (
    b"R" + struct.pack(">I", 16_388) + b"public\x00todos\x00d" + struct.pack(">H", 2)
    + b"\x01id\x00" + struct.pack(">Ii", 23, -1)
    + b"\x00caf\xc3\xa9\x00" + struct.pack(">Ii", 1042, 14)
)  # fmt: skip
ROW = struct.pack(">H", 3) + b"t" + struct.pack(">I", 2) + b"42" + b"n" + b"u"
KEY = struct.pack(">H", 3) + b"t" + struct.pack(">I", 1) + b"7" + b"n" + b"n"
INSERT = b"I" + struct.pack(">I", 16_388) + b"N" + ROW


def test_begin_and_commit_are_decoded():
    """Positions, commit time in microseconds since 2000, and transaction id."""
    assert decode(b"B" + struct.pack(">QqI", 5, -7, 9)) == Begin(5, -7, 9)
    assert decode(b"C" + struct.pack(">BQQq", 0, 5, 8, 3)) == Commit(5, 8, 3)


def test_a_relation_is_decoded():
    """Names in UTF-8, types, modifiers and identity columns; an empty schema means pg_catalog."""
    columns = (RelationColumn("id", 23, -1, True), RelationColumn("café", 1042, 14, False))
    assert decode(RELATION) == Relation(16_388, "public", "todos", "d", columns)
    assert decode(RELATION.replace(b"public", b"")) == Relation(16_388, "pg_catalog", "todos", "d", columns)
    assert decode(b"Y" + struct.pack(">I", 16_400) + b"app\x00mood\x00") == TypeName(16_400, "app", "mood")


def test_text_null_and_unchanged_are_distinguished():
    """A large value that an update did not change is not NULL."""
    assert decode(INSERT) == InsertMessage(16_388, [b"42", None, UNCHANGED])


@pytest.mark.parametrize(
    ("middle", "old", "whole"),
    [(b"", None, False), (b"K" + KEY, [b"7", None, None], False), (b"O" + KEY, [b"7", None, None], True)],
)
def test_an_update_is_decoded_with_each_replica_identity(middle: bytes, old: Row | None, whole: bool):
    """It has no old row, its key, or all columns."""
    message = decode(b"U" + struct.pack(">I", 1) + middle + b"N" + ROW)
    assert message == UpdateMessage(1, [b"42", None, UNCHANGED], old, whole)


def test_a_delete_is_decoded():
    """A delete has the key or all columns."""
    assert decode(b"D" + struct.pack(">I", 1) + b"K" + KEY) == DeleteMessage(1, [b"7", None, None], False)
    assert decode(b"D" + struct.pack(">I", 1) + b"O" + KEY) == DeleteMessage(1, [b"7", None, None], True)


@pytest.mark.parametrize("kind", ["T", "O", "M", "S", "z"])
def test_messages_without_rows_are_not_decoded(kind: str):
    """Truncates, origins and logical messages are only named."""
    assert decode(kind.encode() + b"\x00\x01whatever") == Other(kind)


@pytest.mark.parametrize(
    "data",
    [
        INSERT[:-2],
        INSERT[:9],
        INSERT.replace(b"\x00\x00\x00\x0242", b"\x00\x00\x01\x0042"),
        INSERT.replace(b"N", b"K"),
        INSERT.replace(b"n", b"b"),
        RELATION[:-3],
        RELATION[:20],
        RELATION.replace(b"caf\xc3\xa9", b"caf\xff\xfe"),
        b"B\x00",
        b"C",
        b"U" + struct.pack(">I", 1) + b"X" + ROW,
        b"D" + struct.pack(">I", 1) + b"N" + ROW,
        b"\xff",
    ],
)
def test_invalid_messages_are_refused(data: bytes):
    """A truncated message or one of an unknown kind raises StreamError with the first byte."""
    with pytest.raises(StreamError, match="cannot be read"):
        decode(data)


@given(st.binary(max_size=60), st.sampled_from(b"BCRYIUDTOM"))
def test_any_bytes_are_a_message_or_a_stream_error(data: bytes, kind: int):
    """No other exception is raised."""
    assert isinstance(read(bytes([kind]) + data), StreamMessage | StreamError)
