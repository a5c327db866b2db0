"""Stored messages read from PostgreSQL: pages, resumption from cursors, late commits, and what may be missing."""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from supawire import Cursor, Gap, LocalServer, broadcast, connect_async
from supawire.cursors import PageQuery
from supawire.errors import AuthError, InvalidArgumentError, StateError
from supawire.history import DatabaseHistory, PostgresCursors, SqliteCursors
from supawire.history.rest import VIEW

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(database: str) -> Iterator[LocalServer]:
    """Yield a running server on the database, with policies that allow members everything."""
    with LocalServer(database=database) as server:
        server.sql("create policy members on realtime.messages to authenticated using (true) with check (true)")
        yield server


@pytest.fixture
def history(database: str) -> Iterator[DatabaseHistory]:
    """Yield a reader of the table."""
    with DatabaseHistory(database) as history:
        yield history


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteCursors]:
    """Yield an empty store of cursors."""
    with SqliteCursors(tmp_path / "cursors.db") as store:
        yield store


def open_client(server: LocalServer, history: DatabaseHistory, **options: Any) -> Any:
    return connect_async(server.url, server.anon_key, token=server.token(), history=history, **options)


def send(server: LocalServer, first: int, last: int, topic: str = "room") -> None:
    """Store messages with the numbers from first to last, in one transaction."""
    server.sql(
        "select realtime.send(jsonb_build_object('n', n), 'e', %s, true) from generate_series(%s::int, %s::int) n",
        topic, first, last,
    )  # fmt: skip


async def take(stream: Any, count: int) -> list[Any]:
    """Return the numbers of the next messages."""
    return [(await stream.get(timeout=20)).payload["n"] for _ in range(count)]


async def test_history_reads_all_messages_in_pages(server: LocalServer, history: DatabaseHistory):
    """`history()` returns what is stored, oldest first and in the order of sending, also within a transaction."""
    for first in range(0, 60, 20):
        send(server, first, first + 19)
    send(server, 1000, 1005, topic="other")
    async with open_client(server, history) as client:
        room = client.channel("room", private=True)
        got = [message async for message in room.history(page=7)]
        assert [message.payload["n"] for message in got] == list(range(60))
        assert all(message.replayed and message.inserted_at is not None for message in got)
        later = [message.payload["n"] async for message in room.history(since=got[30].cursor, limit=5)]
        assert later == [31, 32, 33, 34, 35]
        assert [one async for one in room.history(broadcast("none"))] == []
        assert [one async for one in room.history(since=datetime.now(UTC))] == []


async def test_a_stream_delivers_stored_and_then_live_messages(server: LocalServer, history: DatabaseHistory):
    """Stored messages come first, live ones follow without a hole or a second copy, over a lost connection."""
    send(server, 0, 49)
    async with open_client(server, history) as client:
        stream = client.channel("room", private=True).listen(broadcast("e"), from_=0)
        assert await take(stream, 50) == list(range(50))
        send(server, 50, 54)
        assert await take(stream, 5) == list(range(50, 55))
        assert stream.caught_up
        server.drop_connections()
        send(server, 55, 59)
        assert await take(stream, 5) == list(range(55, 60))
        with pytest.raises(TimeoutError):
            await stream.get(timeout=0.3)


async def test_a_new_stream_continues_at_the_saved_cursor(
    server: LocalServer, history: DatabaseHistory, store: SqliteCursors
):
    """The cursor in a store moves when the next message is asked for; the one that was not handled comes again."""
    send(server, 0, 9)
    async with open_client(server, history) as client:
        room = client.channel("room", private=True)
        async with room.listen(broadcast(), from_=store, cursor_name="mine") as stream:
            assert await take(stream, 4) == [0, 1, 2, 3]
        async with room.listen(broadcast(), from_=store, cursor_name="mine", commit="manual") as stream:
            assert await take(stream, 2) == [3, 4]
            await stream.commit()
            assert await take(stream, 2) == [5, 6]
        async with room.listen(broadcast(), from_=store, cursor_name="mine") as stream:
            assert await take(stream, 5) == [5, 6, 7, 8, 9]
        async with room.listen(broadcast(), from_=store, cursor_name="new", start="newest") as stream:
            reading = asyncio.create_task(stream.get())
            await asyncio.sleep(0.2)  # the stream has begun to wait
            send(server, 10, 10)
            assert (await reading).payload["n"] == 10


async def test_the_broadcast_of_a_client_is_read_from_the_table(server: LocalServer, history: DatabaseHistory):
    """A persisted broadcast has no id when it is delivered; the stream finds its row."""
    async with open_client(server, history) as client:
        room = client.channel("room", private=True, ack=True, echo=True)
        stream = room.listen(broadcast(), from_=time.time())
        reading = asyncio.create_task(stream.get())
        await room.subscribe()
        await room.broadcast("unstored", {"n": 0})
        sent = await room.broadcast("stored", {"n": 1}, persist=True)
        message = await reading
        assert (message.event, message.payload, message.id) == ("stored", {"n": 1}, sent.id)


async def test_a_transaction_that_commits_late_is_not_missed(
    server: LocalServer, history: DatabaseHistory, database: str
):
    """A message whose transaction began before a delivered one is found by a new stream after it has committed."""
    with psycopg.connect(database) as slow:
        slow.execute("select realtime.send('{\"n\": 1}', 'e', 'room', true)")
        send(server, 2, 2)
        async with open_client(server, history) as client:
            room = client.channel("room", private=True)
            async with room.listen(broadcast(), from_=0, settle=0) as stream:
                assert await take(stream, 1) == [2]
                with pytest.raises(TimeoutError):
                    await stream.get(timeout=0.5)
                cursor = stream.cursor
        slow.commit()
    assert cursor is not None
    assert len(cursor.seen) == 1
    async with open_client(server, history) as client:
        room = client.channel("room", private=True)
        async with room.listen(broadcast(), from_=Cursor.parse(str(cursor)), settle=0) as stream:
            assert await take(stream, 1) == [1]
            with pytest.raises(TimeoutError):
                await stream.get(timeout=0.3)


async def test_a_cursor_older_than_the_oldest_partition_gives_a_gap(server: LocalServer, history: DatabaseHistory):
    """What the server has removed since the cursor is a Gap, before the messages that are left."""
    send(server, 0, 1)
    async with open_client(server, history) as client:
        room = client.channel("room", private=True)
        old = Cursor.since("room", time.time() - 10 * 86400)
        async with room.listen(broadcast(), from_=old) as stream:
            gap = await stream.get(timeout=20)
            assert isinstance(gap, Gap)
            assert (gap.verdict, gap.reason) == ("truncated", "retention")
            assert await take(stream, 2) == [0, 1]


async def test_an_expired_message_is_left_out(server: LocalServer, history: DatabaseHistory):
    """A message whose time to live has passed is not read, as it is not replayed."""
    send(server, 0, 1)
    server.sql("update realtime.messages set expires_at = now() at time zone 'utc' where payload ->> 'n' = '0'")
    async with open_client(server, history) as client:
        got = [one.payload["n"] async for one in client.channel("room", private=True).history()]
    assert got == [1]


async def test_a_position_whose_row_is_gone_does_not_lose_messages(server: LocalServer, history: DatabaseHistory):
    """Without the row of the cursor, the messages of its transaction come again rather than never."""
    send(server, 0, 9)
    first = history.read(PageQuery("room", Cursor("room", 0).position, limit=4))
    assert [json.loads(row.payload)["n"] for row in first.rows] == [0, 1, 2, 3]
    last = first.rows[-1]
    rest = history.read(PageQuery("room", last.position))
    assert [json.loads(row.payload)["n"] for row in rest.rows] == [4, 5, 6, 7, 8, 9]
    server.sql("delete from realtime.messages where id = %s", last.id)
    again = history.read(PageQuery("room", last.position))
    assert [json.loads(row.payload)["n"] for row in again.rows] == [0, 1, 2, 4, 5, 6, 7, 8, 9]


async def test_rows_of_one_command_are_read_once(server: LocalServer, history: DatabaseHistory):
    """Many rows of a single INSERT, which have one time and one place, are divided into pages by their ids."""
    server.sql(
        "insert into realtime.messages (topic, extension, event, payload, private)"
        " select 'room', 'broadcast', 'e', jsonb_build_object('n', n), true from generate_series(0, 99) n"
    )
    async with open_client(server, history) as client:
        got = [one.payload["n"] async for one in client.channel("room", private=True).history(page=7)]
    assert sorted(got) == list(range(100))


async def test_a_stream_survives_the_loss_of_its_database_connection(server: LocalServer, history: DatabaseHistory):
    """A lost connection to the database is opened again, and reported."""
    send(server, 0, 4)
    errors: list[Exception] = []
    async with open_client(server, history, on_error=errors.append) as client:
        stream = client.channel("room", private=True).listen(broadcast(), from_=0, poll=0.05)
        assert await take(stream, 5) == list(range(5))
        server.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'supawire history'")
        send(server, 5, 5)
        assert await take(stream, 1) == [5]


async def test_a_role_without_rights_is_refused(server: LocalServer, database: str):
    """A role that may not read the table gives an error that says what to grant, at the first read."""
    # a name of its own: roles belong to the cluster, which other tests use too
    server.sql("drop role if exists without_rights; create role without_rights login password 'x'")
    url = make_conninfo(database, user="without_rights", password="x")
    with DatabaseHistory(url) as history:
        async with open_client(server, history) as client:
            with pytest.raises((StateError, AuthError), match=r"permission denied|password|authentication"):
                await anext(client.channel("room", private=True).listen(broadcast(), from_=0))
    assert "x@" not in repr(history)


def test_a_wrong_password_is_not_tried_again(database: str):
    """A refused password is an AuthError, which is not retried, and the password is not shown."""
    url = make_conninfo(database, password="wrong-password-of-test")
    with DatabaseHistory(url) as history, pytest.raises(AuthError) as refused:
        history.read(PageQuery("room", Cursor("room", 0).position))
    assert not refused.value.retryable
    assert "wrong-password-of-test" not in str(refused.value)


def test_a_wrong_url_is_refused_without_its_password():
    """A text that is no URL of PostgreSQL is refused at once, and not shown."""
    with pytest.raises(InvalidArgumentError, match="must be the URL") as refused:
        DatabaseHistory("this is secret=")
    assert "secret" not in str(refused.value)


# --- cursors in PostgreSQL


def test_postgres_cursors_keep_the_later_cursor(database: str):
    """A saved cursor is loaded by another store; an earlier one does not replace a later one."""
    with PostgresCursors(database) as store, PostgresCursors(database) as other:
        assert other.load("mine") is None
        store.save("mine", Cursor("room", 5, seen=frozenset({"6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11"})))
        other.save("mine", Cursor("room", 4))
        loaded = other.load("mine")
        assert loaded is not None
        assert (loaded.at, len(loaded.seen)) == (5, 1)
        other.delete("mine")
        assert store.load("mine") is None


def test_a_cursor_is_saved_in_a_transaction_of_the_user(database: str):
    """The statement of a store, executed in the user's transaction, is rolled back with it."""
    store = PostgresCursors(database)
    store.create()
    with psycopg.connect(database) as connection:
        connection.execute(*store.statement("mine", Cursor("room", 5)))
        connection.rollback()
        assert store.load("mine") is None
        connection.execute(*store.statement("mine", Cursor("room", 6)))
        connection.commit()
    assert store.load("mine") == Cursor("room", 6)
    store.close()


def test_the_table_of_cursors_is_not_open_to_everyone(database: str):
    """The table has row level security, so that the project's REST API does not show it."""
    with PostgresCursors(database) as store:
        store.create()
    with psycopg.connect(database) as connection:
        row = connection.execute("select relrowsecurity from pg_class where relname = 'supawire_cursors'").fetchone()
    assert row == (True,)


@pytest.mark.parametrize("name", ["", "a b", 'x"; drop table y', "1a"])
def test_names_of_tables_are_checked(name: str):
    """A table's name that would have to be quoted is refused."""
    with pytest.raises(InvalidArgumentError, match="must be a name"):
        PostgresCursors("postgresql://localhost/x", table=name)


def test_stores_can_be_used_after_a_fork(database: str):
    """A child process opens a connection of its own."""
    with PostgresCursors(database) as store:
        store.save("mine", Cursor("room", 1))
        child = os.fork()
        if child == 0:
            try:
                store.save("mine", Cursor("room", 2))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert store.load("mine") == Cursor("room", 2)


def test_what_cannot_be_read_from_is_refused(server: LocalServer):
    """The option is checked: an object without `read` is refused."""
    with pytest.raises(InvalidArgumentError, match="history must have"):
        connect_async(server.url, server.anon_key, history="postgresql://")  # pyright: ignore[reportArgumentType]


def test_the_view_for_the_rest_api_shows_what_policies_allow(server: LocalServer):
    """The SQL for the view runs, and the view shows rows to those who may read them."""
    send(server, 0, 1)
    server.sql(VIEW)
    assert server.sql("select payload ->> 'n' from public.message_history order by 1") == [("0",), ("1",)]
    server.sql("drop policy members on realtime.messages; grant usage on schema realtime to authenticated")
    assert server.sql("set role authenticated; select count(*) from public.message_history; reset role") == [(0,)]
