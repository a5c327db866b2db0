"""The outbox in a table of PostgreSQL: messages are added in the user's own transaction."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from supawire import LocalServer, PostgresOutbox, PostgresVerifier, broadcast, connect
from supawire.core.delivery import OutboxMessage
from supawire.errors import InvalidArgumentError, OutboxError, OutboxFullError, SetupError
from supawire.outbox_stores import postgres
from supawire.outbox_stores.base import LOADED_MESSAGES

NONE = frozenset[str]()


def load(store: PostgresOutbox, without: frozenset[str] = NONE) -> tuple[Sequence[OutboxMessage], bool]:
    """Read as the sender."""
    store.acquire()
    return store.load(without)


@pytest.fixture
def store(database: str) -> Iterator[PostgresOutbox]:
    """Yield a store with its table in an empty database."""
    with PostgresOutbox(database) as store:
        store.init()
        yield store


def test_a_message_is_sent_exactly_if_the_transaction_commits(database: str, store: PostgresOutbox):
    """What is added with a cursor or a connection becomes visible with the commit, and not after a rollback."""
    with psycopg.connect(database) as connection:
        kept = store.add_in(connection, "orders", "paid", {"n": 1})
        assert store.counts().pending == 0
        connection.commit()
        store.add_in(connection.cursor(), "orders", "paid", {"n": 2})
        connection.rollback()
        with connection.cursor(row_factory=dict_row) as cursor:
            second = store.add_in(cursor, "orders", "paid", {"n": 3})
    messages, complete = load(store)
    assert [(one.id, one.payload) for one in messages] == [(kept, b'{"n":1}'), (second, b'{"n":3}')] and complete


def test_cursors_of_frameworks_need_only_two_methods(database: str, store: PostgresOutbox):
    """A cursor whose `execute` returns something else, as in other frameworks, is used through `fetchone`."""

    class Cursor:
        def __init__(self, cursor: Any) -> None:
            self.cursor = cursor

        def execute(self, sql: str, arguments: Any) -> None:
            self.cursor.execute(sql, arguments)

        def fetchone(self) -> Any:
            return self.cursor.fetchone()

    with psycopg.connect(database) as connection:
        store.add_in(Cursor(connection.cursor()), "orders", "paid", {})
    assert store.counts().pending == 1


@pytest.mark.anyio
async def test_async_connections(database: str, store: PostgresOutbox):
    """`add_in_async` takes async connections and cursors; `add_in` refuses them and adds nothing."""
    async with await psycopg.AsyncConnection.connect(database) as connection:
        first = await store.add_in_async(connection, "orders", "paid", {"n": 1})
        async with connection.cursor() as cursor:
            second = await store.add_in_async(cursor, "orders", "paid", {"n": 2})
        with pytest.raises(InvalidArgumentError, match="add_in_async"):
            store.add_in(connection, "orders", "paid", {"n": 3})
    assert [one.id for one in load(store)[0]] == [first, second]


def test_a_missing_table_is_refused_with_its_sql(database: str, sql: Any):
    """Without the table, adding and reading raise an error that has the SQL; the SQL creates it, also twice."""
    with PostgresOutbox(database, table="app.outgoing") as store:
        sql.execute("create schema app")
        for call in (
            lambda: store.add_in(sql, "orders", "paid", {}),
            lambda: store.add("orders", "paid", {}),
            lambda: store.counts(),
        ):
            with pytest.raises(SetupError, match=r"no table app\.outgoing") as caught:
                call()
            assert caught.value.sql == store.sql
        sql.execute(store.sql)
        sql.execute(store.sql)
        store.add_in(sql, "orders", "paid", {})
        assert store.counts().pending == 1


def test_a_full_table_leaves_the_transaction_usable(database: str, store: PostgresOutbox):
    """A full outbox raises a typed error; the transaction can go on, and an id that is there is not added again."""
    store.max_messages = 1
    with psycopg.connect(database) as connection:
        mine = store.add_in(connection, "orders", "paid", {})
        with pytest.raises(OutboxFullError, match="1 of 1 messages"):
            store.add_in(connection, "orders", "paid", {})
        assert store.add_in(connection, "orders", "paid", {}, id=mine) == mine
        connection.execute("select 1")
    assert store.counts().pending == 1


def test_dead_messages_and_counts(store: PostgresOutbox):
    """Settled messages leave the table or are dead; dead ones are tried again or removed."""
    ids = [store.add("a", "e", {"n": n}) for n in range(4)]
    store.settle(ids[:1], [(ids[1], "refused")])
    counts = store.counts()
    assert (counts.pending, counts.dead) == (2, 1) and counts.oldest_at is not None
    (dead,) = store.dead()
    assert (dead.id, dead.topic, dead.payload, dead.error) == (ids[1], "a", b'{"n":1}', "refused")
    assert dead.dead_at >= dead.added_at > 1_700_000_000
    assert (store.retry([ids[0]]), store.retry([ids[1]]), store.retry()) == (0, 1, 0)
    assert [one.id for one in load(store)[0]] == ids[1:]
    assert load(store, frozenset("a")) == ([], True)
    assert store.has_pending(store.last()) and not store.has_pending(1)
    store.settle((), [(ids[2], "x"), (ids[3], "y")])
    assert (store.discard([ids[2]]), store.discard()) == (1, 1)


def test_a_page_is_bounded(store: PostgresOutbox, monkeypatch: pytest.MonkeyPatch, sql: Any):
    """At most so many messages and so many bytes are read at once, and at least one message."""
    sql.execute(
        "insert into supawire_outbox (id, topic, event, payload, private, size)"
        " select gen_random_uuid(), 'a', 'e', '{}', false, 4 from generate_series(1, %s)",
        (LOADED_MESSAGES + 1,),
    )
    messages, complete = load(store)
    assert len(messages) == LOADED_MESSAGES and not complete
    for limit, count in ((1, 1), (5, 2)):
        monkeypatch.setattr(postgres, "LOADED_BYTES", limit)
        messages, complete = load(store)
        assert len(messages) == count and not complete


def test_one_store_is_the_sender(database: str, store: PostgresOutbox, sql: Any):
    """One connection holds the lock; it is free again after `release`, and when the connection is lost."""
    with PostgresOutbox(database) as other:
        assert store.acquire() and not store.acquire() and not other.acquire()
        store.release()
        assert other.acquire()
        sql.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'supawire-outbox'")
        for one in (store, other):
            with pytest.raises(OutboxError):
                one.counts()
        assert store.acquire() and not other.acquire()


def test_the_lock_is_that_of_the_table(database: str, sql: Any):
    """A table has one lock, with and without its schema, and tables of the same name in two schemas have two."""
    sql.execute("create schema app")
    other = f"{database}{'&' if '?' in database else '?'}options=-csearch_path%3Dapp"
    with (
        PostgresOutbox(database) as short,
        PostgresOutbox(database, table="public.supawire_outbox") as long,
        PostgresOutbox(other) as elsewhere,
    ):
        short.init()
        elsewhere.init()
        assert short.acquire() and not long.acquire() and elsewhere.acquire()
        short.release()
        assert long.acquire() and not short.acquire()


def test_two_transactions_with_one_id_add_it_once(database: str, store: PostgresOutbox):
    """A transaction that waits for another one with the same id returns this id when the other one has committed."""
    same = uuid4()
    with psycopg.connect(database) as first, psycopg.connect(database) as second:
        store.add_in(first, "orders", "paid", {}, id=same)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(store.add_in, second, "orders", "paid", {}, id=same)
            while not first.execute(
                "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            ).fetchone():
                first.execute("select pg_stat_clear_snapshot()")
            first.commit()
            assert waiting.result(30) == str(same)
    assert store.counts().pending == 1


def test_an_error_with_a_nul_character_is_stored(store: PostgresOutbox):
    """A message that the server refuses with a text that PostgreSQL cannot store becomes dead all the same."""
    given = store.add("orders", "paid", {})
    store.settle([], [(given, "a\0b")])
    assert [one.error for one in store.dead()] == ["a\ufffdb"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_end_the_connection(store: PostgresOutbox):
    """A forked child that closes the store leaves the connection of its parent, and the lock, alone."""
    assert store.acquire()
    child = os.fork()
    if child == 0:
        try:
            store.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert store.load(NONE) == ([], True)


def test_wrong_arguments(database: str, store: PostgresOutbox):
    """A table name that needs quoting, a NUL character and an unreachable database are refused; no URL is shown."""
    for table in ("", "a b", 'x"; drop', "a.b.c", "1a"):
        with pytest.raises(InvalidArgumentError, match="table must be"):
            PostgresOutbox(database, table=table)
    with pytest.raises(InvalidArgumentError, match="NUL"):
        store.add("a", "b\0", {})
    for url in ("", 5, "postgress://me:secret@h/x", "postgresql://me:%zzsecret@h/x", "postgresql://me:p@secret@h/x"):
        for kind in (PostgresOutbox, PostgresVerifier):
            with pytest.raises(InvalidArgumentError, match="url must be") as refused:
                kind(url)  # pyright: ignore[reportArgumentType]
            assert "secret" not in f"{refused.value!r} {refused.value} {refused.value.__cause__}"
    unreachable = PostgresOutbox("postgresql://me:secret@127.0.0.1:1/x")
    with pytest.raises(OutboxError) as caught:
        unreachable.counts()
    assert "secret" not in f"{caught.value!r} {caught.value} {unreachable!r}"


def test_the_outbox_of_a_client_sends_the_table(database: str, store: PostgresOutbox):
    """A client sends what other connections commit, also after its connection to the database was lost."""
    with LocalServer() as server, connect(server.url, server.anon_key, on_error=lambda error: None) as client:
        events = client.channel("orders").listen(broadcast())
        client.channel("orders").subscribe()
        with client.outbox(store, poll=0.05) as outbox, psycopg.connect(database, autocommit=True) as connection:
            first = store.add_in(connection, "orders", "paid", {})
            assert next(events).id == first
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'supawire-outbox'"
            )
            second = store.add_in(connection, "orders", "paid", {})
            assert next(events).id == second
            outbox.flush()
            assert outbox.stats().pending == 0
