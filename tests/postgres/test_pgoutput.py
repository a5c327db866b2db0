"""Bytes of PostgreSQL's replication stream, made by hand after its manual (protocol §11.6)."""

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


def test_a_transaction_has_a_beginning_and_an_end():
    """Positions, the commit's time in microseconds since 2000, and the number of the transaction."""
    assert decode(b"B" + struct.pack(">QqI", 5, -7, 9)) == Begin(5, -7, 9)
    assert decode(b"C" + struct.pack(">BQQq", 0, 5, 8, 3)) == Commit(5, 8, 3)


def test_a_relation_has_its_columns_in_order():
    """Names in UTF-8, types, modifiers and who is in the identity; no schema means the system's."""
    columns = (RelationColumn("id", 23, -1, True), RelationColumn("café", 1042, 14, False))
    assert decode(RELATION) == Relation(16_388, "public", "todos", "d", columns)
    assert decode(RELATION.replace(b"public", b"")) == Relation(16_388, "pg_catalog", "todos", "d", columns)
    assert decode(b"Y" + struct.pack(">I", 16_400) + b"app\x00mood\x00") == TypeName(16_400, "app", "mood")


def test_a_row_tells_text_null_and_unchanged_apart():
    """A large value that an update left alone is no NULL."""
    assert decode(INSERT) == InsertMessage(16_388, [b"42", None, UNCHANGED])


@pytest.mark.parametrize(
    ("middle", "old", "whole"),
    [(b"", None, False), (b"K" + KEY, [b"7", None, None], False), (b"O" + KEY, [b"7", None, None], True)],
)
def test_an_update_has_no_old_row_its_key_or_all_of_it(middle: bytes, old: Row | None, whole: bool):
    """As the replica identity says."""
    message = decode(b"U" + struct.pack(">I", 1) + middle + b"N" + ROW)
    assert message == UpdateMessage(1, [b"42", None, UNCHANGED], old, whole)


def test_a_delete_has_an_old_row():
    """Its key, or all of it."""
    assert decode(b"D" + struct.pack(">I", 1) + b"K" + KEY) == DeleteMessage(1, [b"7", None, None], False)
    assert decode(b"D" + struct.pack(">I", 1) + b"O" + KEY) == DeleteMessage(1, [b"7", None, None], True)


@pytest.mark.parametrize("kind", ["T", "O", "M", "S", "z"])
def test_what_tells_of_no_row_is_passed_over(kind: str):
    """Truncates, origins and messages of other programs are named and not read."""
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
def test_bytes_that_are_no_message_are_refused(data: bytes):
    """Cut off, too long, of an unknown kind: one error, which says how it began."""
    with pytest.raises(StreamError, match="cannot be read"):
        decode(data)


@given(st.binary(max_size=60), st.sampled_from(b"BCRYIUDTOM"))
def test_no_bytes_whatever_break_the_reader(data: bytes, kind: int):
    """Any bytes are a message or a StreamError."""
    assert isinstance(read(bytes([kind]) + data), StreamMessage | StreamError)
