"""Jobs over REST: through the generated functions, and by conditional updates, with a small part of PostgREST."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.test_utils import TestServer

from supawire import LocalServer, col
from supawire.errors import InvalidArgumentError, RealtimeError, SetupError
from supawire.options import Secret
from supawire.worker import NOW, REASON, Claimed, Finished, Job, Source, Worker
from supawire.worker.rest import RestClient, RestSettings

from .postgrest import PostgREST

if TYPE_CHECKING:
    from psycopg import Connection

TABLE = """
    create type mood as enum ('calm', 'angry');
    create table orders (
      id bigint primary key generated always as identity,
      status text not null default 'pending',
      total numeric(10, 2),
      mood mood default 'calm',
      due text default '100 %',
      note text,
      started timestamptz
    );
    alter publication supabase_realtime add table orders;
"""
SECRET = "a secret of at least thirty-two bytes"


def rows(sql: Any, statement: str) -> list[tuple[Any, ...]]:
    return sql.execute(statement).fetchall()


class Rest:
    """A worker's sources over REST, on one database. `grade`: "functions" or "columns"."""

    def __init__(self, sql: Any, database: str, server: LocalServer, fake: PostgREST, url: str, grade: str) -> None:
        self.sql = sql
        self.database = database
        self.server = server
        self.fake = fake
        self.url = url
        self.grade = grade
        self._clients: list[RestClient] = []

    def worker(self, key: str | None = None, **options: Any) -> Worker:
        grade: Any = self.grade
        key = key or self.server.service_key
        return Worker(self.server.url, key, rest=grade, rest_url=self.url, poll=3600, **options)

    def job(self, app: Worker, handler: Any = None, **options: Any) -> None:
        values: dict[str, Any] = {
            "where": (col("status") == "pending") & (col("mood") == "calm"),
            "claim": {"status": "running", "started": NOW},
            "failed": {"status": "failed", "note": REASON},
        }
        app.job("orders", **(values | options))(handler or nothing)

    async def source(self, key: str | None = None, **options: Any) -> Source:
        """Return a source that is prepared, as a worker makes it."""
        app = self.worker(key)
        self.job(app, **options)
        await app.apply_migration(self.database)
        return await self.open(app, key)

    async def open(self, app: Worker, key: str | None = None) -> Source:
        secret = Secret(key or self.server.service_key)
        client = RestClient(RestSettings(self.url, secret, None, self.grade == "columns"))
        self._clients.append(client)
        [definition] = app._definitions.values()
        source = definition.make(app._settings.context(None, client))
        await source.prepare()
        return source

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


async def nothing(job: Job) -> None:
    del job


@asynccontextmanager
async def rest_on(sql: Any, database: str, grade: str) -> AsyncGenerator[Rest]:
    sql.execute(TABLE)
    fake = PostgREST(database, SECRET)
    async with LocalServer(database=database, secret=SECRET) as server, TestServer(fake.app) as http:
        rest = Rest(sql, database, server, fake, f"http://127.0.0.1:{http.port}/rest/v1", grade)
        yield rest
        await rest.close()


@pytest.fixture(name="rest", params=["functions", "columns"])
async def _rest(request: pytest.FixtureRequest, sql: "Connection[Any]", database: str) -> AsyncGenerator[Rest]:
    async with rest_on(sql, database, request.param) as rest:
        yield rest


@pytest.fixture(name="functions")
async def _functions(sql: "Connection[Any]", database: str) -> AsyncGenerator[Rest]:
    async with rest_on(sql, database, "functions") as rest:
        yield rest


def order(sql: Any, *totals: str) -> None:
    for total in totals:
        sql.execute("insert into orders (total) values (%s)", [total])


def expire(rest: Rest) -> None:
    """Let all leases end."""
    if rest.grade == "functions":
        rest.sql.execute("update supawire.jobs set visible_at = now()")
    else:
        rest.sql.execute("update orders set worker_until = now() - interval '1 second' where worker_until is not null")


async def claim_one(source: Source) -> Claimed:
    [claim] = (await source.claim(1, 30)).jobs
    return claim


async def test_a_row_has_one_holder(rest: Rest):
    """A row is given out once until its lease ends; afterwards the first holder changes nothing."""
    source = await rest.source()
    order(rest.sql, "1.10")
    first = await claim_one(source)
    batch = await source.claim(5, 30)
    assert (batch.jobs, batch.next_due is not None and 28 < batch.next_due <= 30) == ([], True)
    assert set(await source.extend([first], 40)) == {first.token}
    expire(rest)
    second = await claim_one(source)
    assert (first.attempt, second.attempt, second.key) == (1, 2, first.key)
    assert list(await source.extend([first], 30)) == []
    assert await source.complete([Finished(first)]) == ["lost"]
    assert not await source.retry(first, 0, "late")
    assert not await source.fail(first, "late")
    assert await source.complete([Finished(second)]) == ["done"]
    assert rows(rest.sql, "select status, started is not null from orders") == [("done", True)]


async def test_many_claim_at_the_same_time(rest: Rest):
    """Of several workers that claim at once, each row goes to one."""
    source = await rest.source()
    order(rest.sql, *map(str, range(12)))
    batches = await asyncio.gather(*(source.claim(6, 30) for _ in range(6)))
    keys = [claim.key for batch in batches for claim in batch.jobs]
    assert len(keys) == len(set(keys))
    while len(keys) < 12:
        jobs = (await source.claim(12, 30)).jobs
        assert jobs
        keys += [claim.key for claim in jobs]
    assert sorted(keys) == [(number,) for number in range(1, 13)]


async def test_columns_are_written_with_the_completion(rest: Rest):
    """What a job writes is in the row together with the status; a column that does not exist is refused."""
    source = await rest.source()
    order(rest.sql, "1", "2")
    claims = (await source.claim(2, 30)).jobs
    assert "note" in source.columns
    done = [Finished(claims[0], {"note": "100 % 'good'", "total": Decimal("2.50")}), Finished(claims[1])]
    assert await source.complete(done) == ["done", "done"]
    found = rows(rest.sql, f"select status, note, total from orders where id = {claims[0].key[0]}")
    assert found == [("done", "100 % 'good'", Decimal("2.50"))]
    order(rest.sql, "3")
    with pytest.raises(RealtimeError, match="nonsense") as caught:
        await source.complete([Finished(await claim_one(source), {"nonsense": 1})])
    assert not caught.value.retryable


async def test_retried_failed_and_released(rest: Rest):
    """A retried row waits, a failed one gets the reason, one that is given back is as before."""
    source = await rest.source()
    order(rest.sql, "1")
    assert await source.retry(await claim_one(source), 60, "busy")
    assert (await source.claim(1, 30)).jobs == []
    expire(rest)
    again = await claim_one(source)
    assert again.attempt == 2
    assert await source.fail(again, "no")
    assert rows(rest.sql, "select status, note from orders") == [("failed", "no")]
    assert (await source.claim(1, 30)).jobs == []
    order(rest.sql, "2")
    await source.release([await claim_one(source)])
    assert rows(rest.sql, "select status from orders where id = 2") == [("pending",)]
    assert (await claim_one(source)).attempt == 1


async def test_rows_keep_their_types_through_functions(functions: Rest):
    """Values are those of a direct connection: numeric as Decimal with its scale, times as datetime."""
    source = await functions.source()
    order(functions.sql, "1.10")
    row = (await claim_one(source)).row
    assert (row["total"], str(row["total"]), row["due"], row["mood"]) == (Decimal("1.1"), "1.10", "100 %", "calm")
    assert row["started"].tzinfo is not None


async def test_functions_keep_the_order_of_a_group(functions: Rest):
    """With group=, the rows of one value are given out one after the other."""
    source = await functions.source(group="due", order_by="id")
    order(functions.sql, "1", "2")
    first = await claim_one(source)
    assert (await source.claim(5, 30)).jobs == []
    assert await source.complete([Finished(first)]) == ["again"]
    assert (await claim_one(source)).key == (2,)


async def test_functions_forget_old_jobs(functions: Rest):
    """Entries of jobs that were done long ago are removed from the side table, after every hundredth job."""
    source = await functions.source()
    order(functions.sql, "1", "2")
    assert await source.complete([Finished(await claim_one(source))]) == ["done"]
    functions.sql.execute("update supawire.jobs set finished_at = now() - interval '2 days'")
    functions.sql.execute("select setval(pg_get_serial_sequence('supawire.jobs', 'id'), 99)")
    assert await source.complete([Finished(await claim_one(source))]) == ["done"]
    assert rows(functions.sql, "select id from supawire.jobs") == [(100,)]


async def test_only_the_role_may_call_the_functions(functions: Rest):
    """Another role may not call the functions, and the role that may needs no rights on the table."""
    functions.sql.execute(
        "revoke all on orders from anon; alter default privileges in schema public grant execute on functions to anon"
    )
    with pytest.raises(SetupError, match="may not call"):
        await functions.source(functions.server.anon_key)
    functions.sql.execute(
        "alter default privileges in schema public revoke execute on functions from anon;"
        "create schema if not exists other"
    )
    app = functions.worker(functions.server.anon_key)
    functions.job(app)
    await app.apply_migration(functions.database, role="anon")
    source = await functions.open(app, functions.server.anon_key)
    order(functions.sql, "1")
    assert await source.complete([Finished(await claim_one(source))]) == ["done"]
    with pytest.raises(SetupError, match="may not call"):
        await functions.open(app)


async def test_functions_for_other_options_are_refused(functions: Rest):
    """Functions that are missing, or were written for other options, are a SetupError that says what to run."""
    app = functions.worker()
    functions.job(app)
    with pytest.raises(SetupError, match="do not exist"):
        await functions.open(app)
    await app.apply_migration(functions.database)
    other = functions.worker()
    functions.job(other, done={"status": "shipped"})
    with pytest.raises(SetupError, match="other options") as caught:
        await functions.open(other)
    assert "supawire worker init" in str(caught.value.hint)


async def test_missing_columns_are_named_with_their_sql(sql: "Connection[Any]", database: str):
    """Without the columns for leases the worker does not start; the SQL of the error adds them."""
    async with rest_on(sql, database, "columns") as rest:
        app = rest.worker()
        rest.job(app)
        with pytest.raises(SetupError, match="worker_") as caught:
            await rest.open(app)
        sql.execute(str(caught.value.sql).encode())
        await rest.open(app)
        rest.sql.execute("revoke all on orders from service_role")
        with pytest.raises(SetupError, match="may not read and update"):
            await rest.open(app)


async def test_a_lost_answer_of_a_completion(rest: Rest):
    """A repeated completion says done when the first one was committed."""
    source = await rest.source()
    order(rest.sql, "1")
    claim = await claim_one(source)
    rest.fake.lost_answers = 1
    with pytest.raises(RealtimeError):
        await source.complete([Finished(claim)])
    assert await source.complete([Finished(claim)]) in (["done"], ["again"])


@pytest.mark.parametrize(
    ("options", "which"),
    [
        ({"claim": {"note": "running"}}, "claim"),
        ({"done": {"status": "pending"}}, "done"),
        ({"failed": {"status": "pending", "note": REASON}}, "failed"),
    ],
)
async def test_a_condition_that_never_changes_is_refused(
    sql: "Connection[Any]", database: str, options: dict[str, Any], which: str
):
    """Over REST, too, a worker whose rows would match the condition for ever does not start."""
    async with rest_on(sql, database, "columns") as rest:
        with pytest.raises(SetupError, match=f"got {which}=.* still matches"):
            await rest.source(where=col("status") == "pending", **options)


async def test_a_claim_that_fails_for_one_row_returns_the_others(sql: "Connection[Any]", database: str):
    """When the request for one row fails, the rows that were taken are worked on."""
    async with rest_on(sql, database, "columns") as rest:
        source = await rest.source()
        order(sql, "1", "2", "3")
        rest.fake.lost_answers, rest.fake.lost_methods = 1, ("PATCH",)
        assert len((await source.claim(3, 30)).jobs) == 2


async def test_an_answer_that_is_not_json_is_an_error_of_the_library(sql: "Connection[Any]", database: str):
    """A page of a proxy instead of rows is an error after which the worker tries again."""
    async with rest_on(sql, database, "columns") as rest:
        source = await rest.source()
        rest.fake.page = "<html>maintenance</html>"
        with pytest.raises(RealtimeError, match="something unexpected") as raised:
            await source.claim(1, 30)
        assert raised.value.retryable


async def test_a_row_that_cannot_be_read_keeps_no_other_from_being_worked_on(rest: Rest):
    """JSON that is nested too deeply is its text through functions; by columns its row is not given out."""
    rest.sql.execute("alter table orders add column extra jsonb")
    source = await rest.source()
    rest.sql.execute("insert into orders (extra) select (repeat('[', 3000) || repeat(']', 3000))::jsonb")
    order(rest.sql, "1")
    texts = [job.row["extra"] for job in (await source.claim(5, 30)).jobs]
    assert texts == (["[" * 3000 + "]" * 3000, None] if rest.grade == "functions" else [None])


async def test_the_worker_runs_rows_over_rest(rest: Rest):
    """The worker runs rows when Realtime announces them; without a database there is no transaction."""
    seen: list[Any] = []
    enough = asyncio.Event()

    async def handler(job: Job) -> None:
        seen.append(job.key)
        if len(seen) == 2:
            enough.set()
        job.write(note=f"order {job.key}")

    app = rest.worker()
    rest.job(app, handler)
    await app.apply_migration(rest.database)
    async with app:
        order(rest.sql, "1", "2")
        await enough.wait()
    assert rows(rest.sql, "select status, note from orders order by id") == [("done", "order 1"), ("done", "order 2")]


new_worker: Any = Worker


@pytest.mark.parametrize(
    "options",
    [
        {"rest": "tables"},
        {"rest": "functions", "url": None, "key": None},
        {"rest": "functions", "database": "postgresql://127.0.0.1/x"},
        {"rest": "functions", "rest_url": "localhost"},
        {"rest": "functions", "token": lambda: "x"},
        {"rest": "functions", "url": "ws://127.0.0.1:4000/socket/websocket"},
    ],
)
def test_bad_options_are_refused(options: dict[str, Any]):
    """What cannot work over REST is refused when the worker is created."""
    with pytest.raises(InvalidArgumentError):
        new_worker(**({"url": "https://abc.supabase.co", "key": "secret-key"} | options))


def test_what_rest_cannot_do_is_refused_at_once():
    """Other schemas than public, an order by group without functions, and a queue without a database are refused."""
    app = Worker("https://abc.supabase.co", "secret-key", rest="columns")
    with pytest.raises(InvalidArgumentError, match="schema public"):
        app.job("orders", where=col("status") == "pending", schema="shop")
    with pytest.raises(InvalidArgumentError, match="group"):
        app.job("orders", where=col("status") == "pending", group="device")
    with pytest.raises(InvalidArgumentError, match="a job of a queue needs the URL"):
        app.queue("mails")


def test_init_prints_what_rest_needs(
    sql: "Connection[Any]", database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    """`supawire worker init` prints functions for the role that is named, from the database that is named."""
    cli = pytest.importorskip("supawire.cli")
    sql.execute(TABLE.encode())
    (tmp_path / "rest_jobs.py").write_text(
        "from supawire import col\n"
        "from supawire.worker import Worker\n"
        "app = Worker('https://abc.supabase.co', 'secret-key', rest='functions')\n"
        "app.job('orders', where=col('status') == 'pending')(print)\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["worker", "init", "rest_jobs:app", "--database", database, "--role", "anon"]
    assert not cli.run(words)
    text = capsys.readouterr().out
    assert "create table if not exists" in text
    sql.execute(text.encode())
    found = rows(sql, "select count(*) from pg_proc where proname like 'worker_orders_%'")
    assert found == [(7,)]
    assert rows(sql, "select has_function_privilege('anon', 'worker_orders_check()', 'execute')") == [(True,)]
    assert rows(sql, "select has_function_privilege('service_role', 'worker_orders_check()', 'execute')") == [(False,)]
