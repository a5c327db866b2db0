"""Looks at rows wait until everybody sees all of the batch."""

import asyncio

import psycopg
import pytest

from supawire.server.postgres.catalog import wait_until_visible
from supawire.server.postgres.database import Database
from supawire.server.postgres.subscriptions import Identity
from supawire.server.postgres.visibility import Key, find_visible_rows

from .test_changes import Sql, run

pytestmark = pytest.mark.slow

XID = "select pg_current_xact_id()::text::int8"
LOOKS = 50
"""Journeys to the database, far more than a look needs that does not wait."""


@pytest.mark.parametrize("what", ["rows", "snapshot"])
async def test_a_transaction_of_the_batch_that_others_do_not_see_is_waited_for(database: str, sql: Sql, what: str):
    """One that is seen already is not enough: each transaction of the batch has to be."""
    run(sql, "create table notes (id int4 primary key)", "grant select on notes to authenticated")
    first = sql.execute(XID).fetchall()[0][0]
    pool = Database(database)
    key = Key("public.notes", ("id",), ("int4",), ("1",))
    viewer = Identity("authenticated", "{}")
    with psycopg.connect(database) as other:
        second = other.execute(XID).fetchall()[0][0]
        other.execute("insert into notes values (1)")
        xids = [first, second]
        looking = asyncio.ensure_future(
            find_visible_rows(pool, {viewer: [(7, key)]}, xids) if what == "rows" else wait_until_visible(pool, xids)
        )
        for _ in range(LOOKS):
            await pool.query("select 1")
        assert not looking.done()
        other.commit()
        found = await looking
    if found is not None:
        assert found[viewer].visible == {7}
    await pool.close()
