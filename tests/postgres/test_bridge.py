"""A bridge's checkpoint in PostgreSQL: one leader, fenced writes; and its reader of rows."""

from typing import Any

import psycopg
import pytest

from supawire.bridge import Draft, LeaderLostError, PostgresCheckpoint
from supawire.bridge.postgres import TableReader
from supawire.errors import InvalidArgumentError, SetupError

INSERT = Draft(("changes", "public", "items"), "items:1", b"{}", row=b'{"id":1}', digest=b"1" * 16)
DELETE = Draft(("changes", "public", "items"), "items:1", b"{}", row=b'{"id":1}')


def end_sessions(sql: Any) -> None:
    """End the sessions of bridges, and wait until they have ended."""
    sql.execute(
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity where application_name = 'supawire bridge'"
    )


def test_one_leader_and_the_same_ids(database: str, sql: Any):
    """A second process becomes the leader when the first has lost its session, and gets its pending messages."""
    first, second = PostgresCheckpoint(database), PostgresCheckpoint(database)
    assert first.acquire("b")
    assert not second.acquire("b")
    one, two = first.record("s", [INSERT, DELETE])
    first.confirm("s", [one.id])
    first.save_cursor("t", "x")
    first.check()
    end_sessions(sql)
    for call in (first.check, lambda: first.record("s", [INSERT]), lambda: first.confirm("s", [two.id])):
        with pytest.raises(LeaderLostError):
            call()
    assert second.acquire("b")
    state = second.load("s")
    assert (state.rows, state.pending, second.load_cursor("t")) == ({}, [two], "x")
    assert second.record("s", [INSERT])[0].id not in (one.id, two.id)
    assert second.load("s").rows == {b'{"id":1}': b"1" * 16}
    first.release()
    second.release()


def test_each_schema_has_its_own_leader(database: str, sql: Any):
    """Bridges with the same name and checkpoints in different schemas do not wait for each other."""
    sql.execute("create schema other_bridge")
    first, second = PostgresCheckpoint(database), PostgresCheckpoint(database, schema="other_bridge")
    assert first.acquire("b") and second.acquire("b")
    first.check()
    second.check()
    first.release()
    second.release()


def test_a_lost_lock_is_noticed(database: str, sql: Any):
    """A leader whose lock is gone, or whom another has replaced, cannot record, and `check` says so."""
    old, new = PostgresCheckpoint(database), PostgresCheckpoint(database)
    assert old.acquire("b")
    assert old._connection is not None
    old._connection.execute("select pg_advisory_unlock_all()")
    with pytest.raises(LeaderLostError, match="not held any more"):
        old.check()
    assert new.acquire("b")
    with pytest.raises(LeaderLostError, match="another process has become the leader"):
        old.record("s", [INSERT])
    assert new.load("s").pending == []
    old.release()
    new.release()


def test_the_tables_are_hidden_from_the_rest_api(database: str, sql: Any):
    """The tables of the checkpoint have row level security and no policy."""
    checkpoint = PostgresCheckpoint(database)
    assert checkpoint.acquire("b")
    checkpoint.release()
    found = sql.execute(
        "select relname, relrowsecurity from pg_class where relname like 'supawire_bridge%' and relkind = 'r'"
    ).fetchall()
    assert len(found) == 4 and all(secured for _, secured in found)


def test_a_transaction_pooler_is_refused():
    """The port of the pooler in transaction mode is an error, which does not show the password."""
    with pytest.raises(InvalidArgumentError, match="6543") as caught:
        PostgresCheckpoint("postgresql://user:secret-word@host:6543/postgres")
    assert "secret-word" not in str(caught.value)


def test_rows_are_read_with_key_and_filter(database: str, sql: Any):
    """The reader finds the primary key in its order, and returns the rows that match the filter."""
    sql.execute("create table pairs (n int, b text, a int, primary key (b, a))")
    sql.execute("insert into pairs select n, 'x', n from generate_series(1, 5) n")
    reader = TableReader(database, "public", "pairs", where="n=gte.4", columns=None)
    assert reader.key() == ("b", "a")
    assert sorted(row["n"] for row in reader.rows()) == [4, 5]
    assert reader.row({"b": "x", "a": 5}) == {"n": 5, "b": "x", "a": 5}
    assert reader.row({"b": "x", "a": 1}) is None
    sql.execute("create table bare (n int)")
    for name, text in (("bare", "no primary key"), ("missing", "there is no table")):
        with pytest.raises(SetupError, match=text):
            TableReader(database, "public", name, where=None, columns=None).key()
    with pytest.raises(SetupError, match="'m'"):
        list(TableReader(database, "public", "pairs", where="m=eq.1", columns=None).rows())
    with pytest.raises(psycopg.OperationalError):
        list(TableReader("postgresql://127.0.0.1:1/none", "public", "pairs", where=None, columns=None).rows())
