"""`PostgresStreams`: live streams stored in a table."""

from typing import TYPE_CHECKING

import pytest

from supawire import StateError, StoredStream
from supawire.errors import InvalidArgumentError
from supawire.stream_stores import PostgresStreams

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

pytestmark = pytest.mark.anyio


async def test_streams_are_stored_and_loaded(database: str, sql: "Connection[TupleRow]"):
    """Each kind of stream is loaded as it was saved, with its newest state."""
    async with PostgresStreams(database, "public.streams") as store:
        for _ in range(2):
            sql.execute(store.sql().encode())
        assert await store.load("s") is None
        streams = [
            StoredStream("s", "text", "grün 'x'".encode(), {"model": "m"}),
            StoredStream("s", "text", "grün 'x' y".encode(), {"model": "m"}, "failed", "ValueError"),
            StoredStream("s", "bytes", b"\x00\xff", None, "complete"),
            StoredStream("s", "json", b'{"a":1}\n[2]\n', None, "complete"),
        ]
        for stream in streams:
            await store.save(stream)
            assert await store.load("s") == stream
        sql.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'supawire worker'")
        assert await store.load("s") == streams[-1]


async def test_a_missing_table_is_named_with_its_sql(database: str):
    """Without the table, the error has the statements that create it."""
    async with PostgresStreams(database) as store:
        with pytest.raises(StateError, match=r"there is no table supawire_streams.*create table if not exists"):
            await store.load("s")


@pytest.mark.parametrize("table", ["", "a b", "a.b.c", 'a"; drop table x', 7])
def test_names_of_tables_are_checked(table: str):
    """A name that is not one or two plain identifiers is refused."""
    with pytest.raises(InvalidArgumentError, match="table must be a name"):
        PostgresStreams("postgresql://localhost/x", table)


def test_the_url_is_not_shown():
    """Neither the store nor an error shows the URL, which has a password."""
    assert "secret" not in repr(PostgresStreams("postgresql://u:secret@localhost/x"))
    with pytest.raises(InvalidArgumentError) as refused:
        PostgresStreams("secret = and")
    assert "secret" not in str(refused.value)
