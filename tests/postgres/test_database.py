"""The connections that the server asks its database with."""

import asyncio

import psycopg
import pytest

from supawire.server.postgres.database import Database, DatabaseError, told

pytestmark = pytest.mark.anyio


async def ask_many(database: Database, last: str) -> None:
    """Questions in one message, as those about row level security are."""
    async with database.connection() as one, one.pipeline(), one.transaction(force_rollback=True):
        for _ in range(20):
            await one.execute("select set_config('role', 'postgres', true)")
        await (await one.execute(last.encode())).fetchall()


async def test_the_next_question_gets_its_own_answer(database: str):
    """Who goes away in the middle of many questions leaves no answers to the one who has the connection next."""
    pool = Database(database, 1)
    await pool.query("select 1")
    for turns in range(40):
        asking = asyncio.ensure_future(ask_many(pool, "select pg_sleep(0.001)"))
        for _ in range(turns % 10):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert await pool.query("select %s::int", [turns]) == [(turns,)]
    await pool.close()


async def test_a_question_that_is_refused_spoils_no_other(database: str):
    """An error among many questions ends with them."""
    pool = Database(database, 1)
    for number in range(5):
        with pytest.raises(DatabaseError, match="division by zero"):
            await ask_many(pool, "select 1 / 0")
        assert await pool.query("select %s::int", [number]) == [(number,)]
    await pool.close()


def test_what_libpq_says_is_one_line_of_the_log():
    """It breaks its own texts into lines, with tabs in front."""
    lost = psycopg.OperationalError("server closed the connection\n\tThis probably means\n\tthe worst")
    assert told(lost).text == "server closed the connection This probably means the worst"
