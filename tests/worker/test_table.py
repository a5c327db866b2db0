"""Rows of a table as jobs, with a real PostgreSQL: what is written when, order, leases, transactions."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

from supawire import Backoff, JobLostError, RowError, col
from supawire.worker import NOW, REASON, Job, Worker
from supawire.worker.database import Database, DatabaseError, check_database
from supawire.worker.table import TableOptions, TableSource

from .waiting import until

Make = Callable[..., Worker]
Sql = psycopg.Connection[Any]
Prepare = Callable[..., Awaitable[TableSource]]
PENDING = col("status") == "pending"
QUICK = Backoff(initial=0.01, maximum=0.01)


def fill(sql: Sql, count: int, **values: Any) -> None:
    """Insert rows that wait."""
    names = ", ".join(values) or "note"
    marks = ", ".join(["%s"] * len(values)) or "null"
    text = f"insert into orders ({names}) select {marks} from generate_series(1, {count})"
    sql.execute(text.encode(), list(values.values()) or None)


def statuses(sql: Sql) -> dict[str, int]:
    """Return how many rows have each status."""
    return dict(sql.execute("select status, count(*) from orders group by status").fetchall())


def jobs(sql: Sql) -> list[tuple[Any, ...]]:
    """Return state, attempts and error of each job, by key."""
    return sql.execute("select state, attempts, last_error from supawire.jobs order by key[1]::bigint, id").fetchall()


def options_of(**options: Any) -> TableOptions:
    """Return the options of a source of the rows of `orders` that wait."""
    defaults: dict[str, Any] = {
        "schema": "public", "name": None, "where": PENDING, "claim": {"status": "running"},
        "done": {"status": "done"}, "failed": {"status": "failed"}, "order_by": None, "group": None,
        "jobs_schema": "supawire", "keep": 3600.0,
    }  # fmt: skip
    return TableOptions("orders", **(defaults | options))


@pytest.fixture(name="prepare")
async def _prepare(database: str, orders: Make) -> AsyncIterator[Prepare]:
    """A function that prepares a source of the rows of `orders` that wait."""
    databases: list[Database] = []

    async def prepare(holder: str = "test", **options: Any) -> TableSource:
        databases.append(Database(check_database(database)))
        source = TableSource(databases[-1], options_of(**options), holder)
        await source.prepare()
        return source

    yield prepare
    for each in databases:
        await each.close()


@dataclass
class Order:
    id: int
    total: Decimal | None


async def test_a_job_gets_its_row_and_writes_its_result(orders: Make, sql: Sql):
    """A handler gets row and model object after the claim; what it writes is stored with the status `done`."""
    fill(sql, 2, total=Decimal("1.50"), data=Jsonb({"a": 1}))
    app = orders()
    seen: list[Any] = []

    @app.job("orders", where=PENDING)
    async def handler(job: Job[Order]) -> None:
        seen.append((job.record, job.row["status"], job.row["data"], job.key, job.attempt, job.source))
        job.write(note="100 % done", data={"b": [1]}, total=Decimal(2))

    await app.serve(until_idle=True)
    assert seen[0] == (Order(1, Decimal("1.50")), "running", {"a": 1}, 1, 1, "public.orders")
    assert (
        sql.execute("select status, note, data, total from orders").fetchall()
        == [("done", "100 % done", {"b": [1]}, Decimal("2.00"))] * 2
    )
    assert jobs(sql) == [("done", 1, None)] * 2


async def test_a_column_that_does_not_exist_cannot_be_written(orders: Make, sql: Sql):
    """`job.write` names the unknown column at once."""
    fill(sql, 1)
    app = orders()

    @app.job("orders", where=PENDING, max_attempts=1)
    async def handler(job: Job) -> None:
        job.write(answer="x")

    await app.serve(until_idle=True)
    ((state, _, error),) = jobs(sql)
    assert state == "dead" and error.startswith(
        "InvalidArgumentError: public.orders has no column 'answer'; it has id,"
    )


async def test_a_failure_is_written_with_its_reason(orders: Make, sql: Sql):
    """Attempts and the last error are kept, and the row gets the values of `failed`, with reason and time."""
    fill(sql, 2)
    app = orders()

    @app.job(
        "orders", where=PENDING, retry=QUICK, max_attempts=3, failed={"status": "failed", "note": REASON, "at": NOW}
    )
    async def handler(job: Job) -> None:
        if job.key == 2:
            job.fail("no such customer")
        raise ValueError(f"broken {job.attempt}")

    while statuses(sql) != {"failed": 2}:
        await app.serve(until_idle=True)
    assert jobs(sql) == [("dead", 3, "ValueError: broken 3"), ("dead", 1, "no such customer")]
    rows = sql.execute("select note, at > now() - interval '1 minute' from orders order by id").fetchall()
    assert rows == [("ValueError: broken 3", True), ("no such customer", True)]


async def test_a_row_that_does_not_fit_the_model_becomes_a_dead_letter(orders: Make, sql: Sql):
    """A poison row fails its attempts with the reason, and other rows are worked on."""
    fill(sql, 1)
    fill(sql, 1, total=Decimal("3.00"))

    @dataclass
    class Strict:
        id: int
        total: Decimal

    app = orders()

    async def handler(job: Job[Any]) -> None:
        assert job.record.total == 3

    app.job("orders", where=PENDING, model=Strict, max_attempts=1)(handler)
    await app.serve(until_idle=True)
    assert [state for state, _, _ in jobs(sql)] == ["dead", "done"]
    assert jobs(sql)[0][2].startswith(f"{RowError.__name__}: the row cannot be converted to ")


async def test_rows_are_taken_in_order(orders: Make, sql: Sql):
    """`order_by` decides which row comes first, then the primary key."""
    for total in (1, 3, 2, 3):
        fill(sql, 1, total=total)
    app = orders()
    order: list[int] = []

    @app.job("orders", where=PENDING, order_by="-total", concurrency=1)
    async def handler(job: Job) -> None:
        order.append(job.key)

    await app.serve(until_idle=True)
    assert order == [2, 4, 3, 1]


async def test_two_workers_never_share_a_row(prepare: Prepare, database: str, sql: Sql):
    """Workers that claim at the same time get different rows, and together all of them."""
    fill(sql, 300)
    sources = [await prepare(f"worker {number}") for number in range(6)]

    async def drain(source: TableSource) -> list[int]:
        keys: list[int] = []
        while batch := (await source.claim(7, 60)).jobs:
            keys += [job.key[0] for job in batch]
            assert set(await source.complete([_finished(job) for job in batch])) == {"done"}
        return keys

    taken = await asyncio.gather(*map(drain, sources))
    assert Counter(key for keys in taken for key in keys) == Counter(range(1, 301))
    assert sum(1 for keys in taken if keys) > 1
    assert statuses(sql) == {"done": 300}


def _finished(claim: Any, **values: Any) -> Any:
    from supawire.worker.source import Finished

    return Finished(claim, values)


async def test_an_expired_lease_is_claimed_again_and_the_first_claim_is_lost(prepare: Prepare, database: str, sql: Sql):
    """After a lease has ended another worker gets the job as attempt 2, and nothing of the first claim counts."""
    fill(sql, 1)
    first, second = await prepare("first"), await prepare("second")
    (one,) = (await first.claim(5, 60)).jobs
    batch = await second.claim(5, 60)
    assert batch.jobs == [] and batch.next_due is not None and 58 < batch.next_due <= 60
    sql.execute("update supawire.jobs set visible_at = now() - interval '1 second'")
    (two,) = (await second.claim(5, 60)).jobs
    assert (two.key, two.attempt) == (one.key, 2)
    assert await first.extend([one], 60) == set()
    assert await first.complete([_finished(one)]) == ["lost"]
    assert await first.complete([_finished(one, note="late")]) == ["lost"]
    assert not await first.retry(one, 0, "late")
    assert not await first.fail(one, "late")
    await first.release([one])
    assert await second.extend([two], 60) == {two.token}
    assert await second.complete([_finished(two)]) == ["done"]
    assert sql.execute("select status, note from orders").fetchall() == [("done", None)]


async def test_a_late_result_counts_while_nobody_else_has_the_job(prepare: Prepare, database: str, sql: Sql):
    """A job whose lease has ended, but that no other worker has got, can still be completed, once."""
    fill(sql, 1)
    source = await prepare()
    (one,) = (await source.claim(5, 60)).jobs
    sql.execute("update supawire.jobs set visible_at = now() - interval '1 second'")
    assert await source.complete([_finished(one)]) == ["done"]
    assert await source.complete([_finished(one)]) != ["lost"], "the same call again, after an answer that was lost"
    assert (await source.claim(5, 60)).jobs == []


async def test_a_row_asked_for_again_while_it_runs_is_worked_on_again(prepare: Prepare, database: str, sql: Sql):
    """A row that gets its first status back during the job is not claimed twice at a time, and not forgotten."""
    fill(sql, 1)
    source = await prepare()
    (one,) = (await source.claim(5, 60)).jobs
    sql.execute("update orders set status = 'pending'")
    assert (await source.claim(5, 60)).jobs == []
    assert await source.complete([_finished(one)]) == ["again"]
    assert statuses(sql) == {"pending": 1}
    (two,) = (await source.claim(5, 60)).jobs
    assert (two.key, two.attempt) == (one.key, 1)


async def test_a_dead_row_is_worked_on_again_when_its_status_is_set_back(prepare: Prepare, database: str, sql: Sql):
    """Setting the first status of a dead letter makes it a new job with all its attempts."""
    fill(sql, 1)
    source = await prepare()
    (one,) = (await source.claim(5, 60)).jobs
    assert await source.fail(one, "broken")
    sql.execute("update orders set status = 'pending'")
    (two,) = (await source.claim(5, 60)).jobs
    assert two.attempt == 1
    assert await source.complete([_finished(two)]) == ["done"]
    assert [state for state, _, _ in jobs(sql)] == ["dead", "done"]


@pytest.mark.parametrize("change", ["update orders set status = 'cancelled'", "delete from orders"])
async def test_a_row_that_is_withdrawn_is_not_tried_again(prepare: Prepare, database: str, sql: Sql, change: str):
    """A job that waits for its next attempt is dropped when its row is deleted or gets another status."""
    fill(sql, 1)
    source = await prepare()
    (one,) = (await source.claim(5, 60)).jobs
    assert await source.retry(one, 0, "broken")
    sql.execute(change.encode())
    assert (await source.claim(5, 60)).jobs == []
    assert jobs(sql) == []
    assert (await source.claim(5, 60)).next_due is None


async def test_a_job_that_is_given_back_can_be_claimed_at_once(prepare: Prepare, database: str, sql: Sql):
    """A first attempt leaves no trace, and a later one keeps the number of attempts before it."""
    fill(sql, 2)
    source = await prepare()
    one, two = (await source.claim(5, 60)).jobs
    await source.retry(two, 0, "broken")
    (two,) = (await source.claim(5, 60)).jobs
    await source.release([one, two])
    assert statuses(sql) == {"pending": 1, "running": 1}
    assert jobs(sql) == [("waiting", 1, "broken")]
    again = (await source.claim(5, 60)).jobs
    assert sorted((job.key[0], job.attempt) for job in again) == [(1, 1), (2, 2)]


async def test_a_row_locked_by_a_transaction_is_left_alone(prepare: Prepare, database: str, sql: Sql):
    """A claim does not wait for a row that somebody else has locked; it takes the others."""
    fill(sql, 2)
    source = await prepare()
    with psycopg.connect(database) as other:
        other.execute("select from orders where id = 1 for update")
        assert [job.key[0] for job in (await source.claim(5, 60)).jobs] == [2]
    assert [job.key[0] for job in (await source.claim(5, 60)).jobs] == [1]


async def test_a_completion_does_not_wait_for_a_locked_row(prepare: Prepare, sql: Sql, database: str):
    """One row that a user's transaction locks delays its own completion only, and it is written later."""
    fill(sql, 2)
    source = await prepare()
    claims = (await source.claim(5, 60)).jobs
    with psycopg.connect(database) as other:
        other.execute("update orders set note = 'x' where id = 1")
        assert await source.complete([_finished(job) for job in claims]) == ["busy", "done"]
    assert await source.complete([_finished(claims[0])]) == ["done"]


async def test_a_new_column_does_not_stop_a_worker(prepare: Prepare, database: str, sql: Sql):
    """After a column was added, statements that were prepared before are prepared again; the next claim works."""
    fill(sql, 2)
    source = await prepare()
    assert len((await source.claim(1, 60)).jobs) == 1
    sql.execute("alter table orders add column extra text default 'new'")
    with pytest.raises(Exception, match="cached plan") as raised:
        await source.claim(1, 60)
    assert raised.value.retryable  # pyright: ignore[reportAttributeAccessIssue]
    (job,) = (await source.claim(1, 60)).jobs
    assert job.row["extra"] == "new"


async def test_old_entries_of_done_jobs_are_removed(prepare: Prepare, database: str, sql: Sql):
    """Entries of jobs that were done longer ago than `keep` are removed; dead letters stay."""
    fill(sql, 3)
    source = await prepare()
    one, two, three = (await source.claim(5, 60)).jobs
    await source.complete([_finished(one), _finished(two)])
    await source.fail(three, "broken")
    sql.execute("update supawire.jobs set finished_at = now() - interval '2 hours' where key <> '{2}'")
    await (await prepare()).claim(5, 60)
    assert sorted(jobs(sql)) == [("dead", 1, "broken"), ("done", 1, None)]


async def test_a_failure_to_remove_old_entries_loses_no_row(prepare: Prepare, database: str, sql: Sql):
    """When old entries cannot be removed, nothing was claimed; the next claim takes the row."""
    fill(sql, 1)
    source = await prepare()
    sql.execute("alter table supawire.jobs rename column finished_at to ended_at")
    with pytest.raises(Exception, match="finished_at"):
        await source.claim(5, 60)
    assert statuses(sql) == {"pending": 1}
    assert len((await source.claim(5, 60)).jobs) == 1


async def test_keys_of_several_columns_and_names_with_quotes(database: str, orders: Make, sql: Sql):
    """The primary key may have several columns of any type, and names may have quotes, blanks and percent signs."""
    sql.execute(
        'create table "Odd %s" ("the %(key)s" uuid default gen_random_uuid(), at timestamptz default now(),'
        ' "is ""new""" boolean default true, "100 %" int default 1, primary key (at, "the %(key)s"))'
    )
    sql.execute("insert into \"Odd %s\" (at) select now() + n * interval '1 hour' from generate_series(1, 20) n")
    app = orders()
    seen: list[Any] = []

    @app.job(
        "Odd %s",
        where=(col("100 %") == 1) & col("at").is_distinct_from("2020-01-01"),
        claim={"100 %": 2},
        done={'is "new"': False},
        failed={},
        name="it's 100 %",
        order_by="-at",
    )
    async def handler(job: Job) -> None:
        seen.append(job.key)

    assert "100 %" in await app.apply_migration()
    await app.serve(until_idle=True)
    assert len(set(seen)) == 20 and [key[0] for key in seen] == sorted((key[0] for key in seen), reverse=True)
    assert sql.execute('select distinct "100 %", "is ""new""" from "Odd %s"').fetchall() == [(2, False)]


# --- groups


async def test_rows_of_one_group_run_one_at_a_time_and_in_order(database: str, orders: Make, sql: Sql):
    """With several workers at once, at most one job per customer runs at a time, in the order of the key."""
    for number in range(120):
        fill(sql, 1, customer=f"c{number % 5}")
    fill(sql, 10)  # rows without a customer are not ordered
    running = Counter[str | None]()
    order = defaultdict[str | None, list[int]](list)

    async def handler(job: Job) -> None:
        customer = job.row["customer"]
        if customer is not None:
            running[customer] += 1
            assert running[customer] == 1, customer
        order[customer].append(job.key)
        await asyncio.sleep(0.001)
        running[customer] -= 1
        if job.attempt == 1 and job.key % 10 == 0:
            raise ValueError("tried again before its successors")

    apps = [orders() for _ in range(3)]
    for app in apps:
        app.job("orders", where=PENDING, group="customer", retry=QUICK, concurrency=4)(handler)
    async with apps[0], apps[1], apps[2]:
        await until(lambda: statuses(sql) == {"done": 130})
    assert sum(app.stats().jobs["public.orders"].done for app in apps) == 130
    for customer in range(5):
        keys = order[f"c{customer}"]
        assert keys == sorted(keys)
        assert set(keys) == {number + 1 for number in range(120) if number % 5 == customer}
    assert [error for _, _, error in jobs(sql) if error and "AssertionError" in error] == []


async def test_a_row_that_becomes_visible_late_does_not_run_beside_its_successor(
    prepare: Prepare, database: str, sql: Sql
):
    """Two rows of one group that two workers see as the first one cannot both be claimed."""
    first, second = await prepare("a", group="customer"), await prepare("b", group="customer")
    with psycopg.connect(database) as late:
        late.execute("insert into orders (customer) values ('x')")  # key 1, committed after key 2
        fill(sql, 1, customer="x")
        (two,) = (await first.claim(5, 60)).jobs
        late.commit()
    assert two.key == (2,)
    assert (await second.claim(5, 60)).jobs == []
    assert await first.complete([_finished(two)]) == ["again"]
    assert [job.key for job in (await second.claim(5, 60)).jobs] == [(1,)]


async def test_claims_of_one_group_at_the_same_moment(prepare: Prepare, database: str, sql: Sql):
    """However many workers claim at the same moment, one of them gets a job of the group."""
    fill(sql, 60, customer="x")
    sources = [await prepare(f"{number}", group="customer") for number in range(6)]
    for _ in range(15):
        batches = await asyncio.gather(*(source.claim(3, 60) for source in sources))
        taken = [(source, job) for source, batch in zip(sources, batches, strict=True) for job in batch.jobs]
        assert len(taken) == 1
        ((source, job),) = taken
        assert await source.complete([_finished(job)]) == ["again"]


async def test_groups_take_turns(prepare: Prepare, sql: Sql):
    """Groups that always have rows do not keep others from being worked on, and rows without a group are taken too."""
    for customer in "abcdef":
        fill(sql, 20, customer=customer)
    fill(sql, 20)
    source = await prepare(group="customer")
    taken: list[str | None] = []
    for _ in range(20):
        (job,) = (await source.claim(1, 60)).jobs
        taken.append(job.row["customer"])
        await source.complete([_finished(job)])
    assert set(taken) >= set("abcdef")
    assert max(Counter(taken).values()) < 10


async def test_a_second_statement_that_fails_loses_no_row(prepare: Prepare, database: str, sql: Sql):
    """A claim that begins again with the first group returns what it holds when the database fails meanwhile."""

    class Failing(Database):
        limit = 100

        async def table(self, statement: Any, parameters: Any = None) -> Any:
            if self.queries >= self.limit:
                raise DatabaseError("away", sqlstate=None, retryable=True)
            return await super().table(statement, parameters)

    fill(sql, 1, customer="a")
    fill(sql, 1, customer="b")
    await prepare()
    connections = Failing(check_database(database))
    source = TableSource(connections, options_of(group="customer"), "test")
    await source.prepare()
    (first,) = (await source.claim(1, 60)).jobs
    connections.limit = connections.queries + 1
    assert [job.row["customer"] for job in (await source.claim(2, 60)).jobs] == ["b"]
    assert first.row["customer"] == "a"
    await connections.close()


async def test_a_claim_of_a_group_reads_few_rows(prepare: Prepare, orders: Make, sql: Sql):
    """With many rows that wait in groups that are busy, a claim reads one row per group and not all of them."""
    sql.execute("insert into orders (customer) select n % 5 from generate_series(1, 5000) n")
    app = orders()
    app.job("orders", where=PENDING, group="customer")(print)
    await app.apply_migration()
    sql.execute("analyze orders")
    source = await prepare(group="customer")
    assert len((await source.claim(8, 60)).jobs) == 5
    explain = SQL("explain (analyze, format json) {}").format(source._ready.claim(8))
    ((plan,),) = await source._database.query(explain, {"lease": 60, "holder": "", "after": None})
    assert max(rows_of(plan[0]["Plan"])) < 50


def rows_of(plan: dict[str, Any]) -> list[int]:
    """Return how many rows each node of a plan has read."""
    read = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    return [read, *(rows for part in plan.get("Plans", []) for rows in rows_of(part))]


# --- transactions


async def test_effects_and_completion_are_committed_together(orders: Make, sql: Sql):
    """What a handler writes in `job.transaction()` is committed with the completion, or rolled back with it."""
    sql.execute("create table effects (key bigint)")
    fill(sql, 2)
    app = orders()

    @app.job("orders", where=PENDING, retry=QUICK, max_attempts=2)
    async def handler(job: Job) -> None:
        async with job.transaction() as connection:
            await connection.execute("insert into effects values (%s)", [job.key])
            job.write(note="in the transaction")
            if job.key == 2 and job.attempt == 1:
                raise ValueError("rolled back")

    while statuses(sql) != {"done": 2}:
        await app.serve(until_idle=True)
    assert sorted(sql.execute("select key from effects").fetchall()) == [(1,), (2,)]
    assert jobs(sql) == [("done", 1, None), ("done", 2, "ValueError: rolled back")]
    assert sql.execute("select distinct note from orders").fetchall() == [("in the transaction",)]


async def test_a_transaction_of_a_lost_job_is_rolled_back(orders: Make, sql: Sql):
    """When another worker has the job at the end of the transaction, nothing of it remains."""
    sql.execute("create table effects (key bigint)")
    fill(sql, 1)
    app = orders()
    errors: list[Exception] = []

    @app.job("orders", where=PENDING)
    async def handler(job: Job) -> None:
        try:
            async with job.transaction() as connection:
                await connection.execute("insert into effects values (%s)", [job.key])
                sql.execute("update supawire.jobs set claims = claims + 1, visible_at = now() + interval '1 hour'")
        except JobLostError as error:
            errors.append(error)
            raise

    await app.serve(until_idle=True)
    assert len(errors) == 1
    assert sql.execute("select * from effects").fetchall() == []
    assert jobs(sql) == [("running", 1, None)]


def test_plain_handlers_have_transactions_too(orders: Make, sql: Sql):
    """A plain function uses `with job.transaction()`, on its thread."""
    sql.execute("create table effects (key bigint)")
    fill(sql, 5)
    app = orders()

    @app.job("orders", where=PENDING, concurrency=2)
    def handler(job: Job) -> None:
        with job.transaction() as connection:
            connection.execute("insert into effects values (%s)", [job.key])

    app.run(until_idle=True)
    assert sorted(sql.execute("select key from effects").fetchall()) == [(number,) for number in range(1, 6)]
    assert statuses(sql) == {"done": 5}


async def test_a_value_that_python_cannot_represent_is_its_text(orders: Make, sql: Sql):
    """One row with an infinite time, or with JSON that Python cannot read, keeps no row from being worked on."""
    fill(sql, 1)
    sql.execute("insert into orders (at) values ('infinity'), ('0044-03-15 BC')")
    sql.execute("insert into orders (data) select (repeat('[', 3000) || repeat(']', 3000))::jsonb")
    sql.execute("insert into orders (data) select repeat('9', 5000)::jsonb")
    app = orders()
    rows: list[dict[str, Any]] = []

    @app.job("orders", where=col("status") == "pending")
    async def work(job: Job) -> None:
        rows.append(job.row)

    await app.serve(until_idle=True)
    assert statuses(sql) == {"done": 5}
    assert [row["at"] for row in rows[1:3]] == ["infinity", "0044-03-15 00:00:00+00 BC"]
    assert [len(row["data"]) for row in rows[3:]] == [6000, 5000]
