"""The pool of connections to the database."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest

from supawire.errors import StateError
from supawire.server.postgres.database import Database, DatabaseError, error_of

pytestmark = pytest.mark.anyio

PID = "select pg_backend_pid()"


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  the condition depends on another process
        await asyncio.sleep(0.005)


@pytest.fixture(name="pool")
async def _pool(database: str) -> AsyncIterator[Database]:
    pool = Database(database, size=2)
    yield pool
    await pool.close()


async def test_connections_are_reused_and_limited(pool: Database):
    """Queries beyond the size of the pool wait for a free connection."""
    first = await pool.query(PID)
    assert await pool.query(PID) == first
    results = await asyncio.gather(*(pool.query("select pg_backend_pid(), pg_sleep(0.01)") for _ in range(6)))
    assert len({rows[0][0] for rows in results}) == 2


async def test_an_error_has_the_text_and_code_of_postgresql(pool: Database):
    """The connection is used again after it."""
    before = await pool.query(PID)
    with pytest.raises(DatabaseError) as caught:
        await pool.query("select 1/0")
    error = caught.value
    assert (error.sqlstate, error.text, error.retryable) == ("22012", "division by zero", False)
    assert isinstance(error.__cause__, psycopg.errors.DivisionByZero)
    assert await pool.query(PID) == before


async def test_a_lost_connection_is_replaced(pool: Database, sql: psycopg.Connection[Any]):
    """The query that meets the loss fails with a retryable error; later queries get a new connection."""
    ((pid,),) = await pool.query(PID)
    sql.execute("select pg_terminate_backend(%s, 10000)", [pid])
    with pytest.raises(DatabaseError) as caught:
        await pool.query(PID)
    assert caught.value.retryable
    assert await pool.query(PID) != [(pid,)]


async def fail_halfway(pool: Database) -> None:
    async with pool.transaction() as connection:
        await connection.execute("insert into t values (3)")
        await connection.execute("select 1/0")


async def test_a_transaction_is_committed_or_rolled_back(pool: Database, sql: psycopg.Connection[Any]):
    """It is committed at the end of its block, unless `rollback` is set or the block raises."""
    sql.execute("create table t (n int)")
    async with pool.transaction() as connection:
        await connection.execute("insert into t values (1)")
    async with pool.transaction(rollback=True) as connection:
        await connection.execute("insert into t values (2)")
    with pytest.raises(DatabaseError):
        await fail_halfway(pool)
    assert await pool.query("select n from t") == [(1,)]


async def test_a_connection_with_a_cancelled_statement_is_not_reused(pool: Database, sql: psycopg.Connection[Any]):
    """The next queries get connections on which no statement is running."""
    query = asyncio.create_task(pool.query("select pg_sleep(60)"))
    sleeps = "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'"
    await until(lambda: sql.execute(sleeps).fetchone() == (1,))
    query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await query
    assert await asyncio.gather(*(pool.query("select 1") for _ in range(4))) == [[(1,)]] * 4


async def test_a_closed_pool_refuses_queries(pool: Database):
    """A query after `close` raises StateError."""
    await pool.query(PID)
    await pool.close()
    with pytest.raises(StateError):
        await pool.query(PID)


async def run_many(database: Database, last: str) -> None:
    """Run many statements in one round trip, as the checks of row level security do."""
    async with database.connection() as one, one.pipeline(), one.transaction(force_rollback=True):
        for _ in range(20):
            await one.execute("select set_config('role', 'postgres', true)")
        await (await one.execute(last.encode())).fetchall()


async def test_a_cancelled_query_leaves_no_results_for_the_next_one(database: str):
    """The next query on the pool gets its own result, at whatever point the earlier one was cancelled."""
    pool = Database(database, 1)
    await pool.query("select 1")
    for turns in range(40):
        query = asyncio.ensure_future(run_many(pool, "select pg_sleep(0.001)"))
        for _ in range(turns % 10):
            await asyncio.sleep(0)
        query.cancel()
        await asyncio.wait([query])
        assert await pool.query("select %s::int", [turns]) == [(turns,)]
    await pool.close()


async def test_an_error_in_a_pipeline_affects_no_later_query(database: str):
    """A failed statement ends its own transaction only."""
    pool = Database(database, 1)
    for number in range(5):
        with pytest.raises(DatabaseError, match="division by zero"):
            await run_many(pool, "select 1 / 0")
        assert await pool.query("select %s::int", [number]) == [(number,)]
    await pool.close()


def test_a_message_of_libpq_becomes_one_line():
    """libpq breaks its messages into lines, with tabs in front; a log line must not."""
    lost = psycopg.OperationalError("server closed the connection\n\tThis probably means\n\tthe worst")
    assert error_of(lost).text == "server closed the connection This probably means the worst"
