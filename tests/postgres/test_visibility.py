"""Which rows an identity can see: the snapshot that is waited for, and policies that raise."""

import asyncio
from collections.abc import AsyncGenerator

import psycopg
import pytest

from supawire.server.postgres.binding_checks import Identity
from supawire.server.postgres.catalog import wait_until_visible
from supawire.server.postgres.database import Database
from supawire.server.postgres.visibility import Key, PolicyFailed, find_visible_rows

from .test_changes import Sql, run

pytestmark = pytest.mark.slow

XID = "select pg_current_xact_id()::text::int8"
LOOKS = 50
"""Journeys to the database, far more than a look needs that does not wait."""


@pytest.mark.parametrize("what", ["rows", "snapshot"])
async def test_checks_wait_until_every_transaction_of_the_batch_is_visible(database: str, sql: Sql, what: str):
    """One visible transaction is not enough."""
    run(sql, "create table notes (id int4 primary key)", "grant select on notes to authenticated")
    first = sql.execute(XID).fetchall()[0][0]
    pool = Database(database)
    key = Key("public.notes", ("id",), ("int4",), ("1",))
    viewer = Identity("authenticated", "{}")
    with psycopg.connect(database) as other:
        second = other.execute(XID).fetchall()[0][0]
        other.execute("insert into notes values (1)")
        xids = [first, second]
        evaluation = asyncio.ensure_future(
            find_visible_rows(pool, {viewer: [(7, key)]}, xids) if what == "rows" else wait_until_visible(pool, xids)
        )
        for _ in range(LOOKS):
            await pool.query("select 1")
        assert not evaluation.done()
        other.commit()
        found = await evaluation
    if found is not None:
        assert found[viewer].visible == {7}
    await pool.close()


ADA, BEN = Identity("authenticated", '{"sub": "ada"}'), Identity("authenticated", '{"sub": "ben"}')


def rows(count: int) -> list[tuple[int, Key]]:
    return [(number, Key("public.notes", ("id",), ("int4",), (str(number),))) for number in range(count)]


@pytest.fixture
async def pool(database: str) -> AsyncGenerator[Database]:
    pool = Database(database)
    yield pool
    await pool.close()


def raise_where(sql: Sql, condition: str) -> None:
    """Let a policy raise where that holds; `n` counts its evaluations, and is not rolled back."""
    run(
        sql,
        "create table notes (id int4 primary key); insert into notes select generate_series(0, 999)",
        "create sequence evaluations",
        "grant select on notes to authenticated; grant usage on evaluations to authenticated",
        f"""create function allowed(id int4) returns bool language plpgsql as $$
        declare n int8 := nextval('evaluations'); claims text := current_setting('request.jwt.claims');
        begin
            if {condition} then raise exception 'not now'; end if;
            return true;
        end $$""",
        "alter table notes enable row level security",
        "create policy own on notes for select to authenticated using (allowed(id))",
    )


async def test_a_policy_that_raises_for_every_row_is_evaluated_a_few_times(pool: Database, sql: Sql):
    """After some rows that failed alone the remaining ones count as failed, without a query for each."""
    raise_where(sql, "true")
    found = await find_visible_rows(pool, {ADA: rows(1000)}, [], isolate=True)
    assert found[ADA] == (frozenset(), frozenset(range(1000)))
    ((evaluations,),) = sql.execute("select last_value from evaluations").fetchall()
    assert evaluations < 100


async def test_a_policy_that_raises_for_one_row_hides_that_row(pool: Database, sql: Sql):
    """With isolation the rows around it are found."""
    raise_where(sql, "id = 5")
    found = await find_visible_rows(pool, {ADA: rows(12)}, [], isolate=True)
    assert found[ADA] == (frozenset(range(12)) - {5}, {5})


@pytest.mark.parametrize(
    ("condition", "failing"),
    [("claims like '%ada%'", {ADA}), ("n = 1", {ADA, BEN})],
    ids=["for one identity", "not again when it is checked"],
)
async def test_failures_name_the_identities_that_a_policy_raises_for(
    pool: Database, sql: Sql, condition: str, failing: set[Identity]
):
    """Those it still raises for; all that were in the query when it raises for none of them any more."""
    raise_where(sql, condition)
    with pytest.raises(PolicyFailed) as caught:
        await find_visible_rows(pool, {ADA: rows(3), BEN: rows(3)}, [])
    assert set(caught.value.failures) == failing
    assert all("not now" in failure.error for failure in caught.value.failures.values())
