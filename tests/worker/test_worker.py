"""A worker with the local server: wake-ups by Realtime, life cycle, statistics, health."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from supawire import AuthError, Backoff, ConnectError, LocalServer, StateError, col
from supawire.testing import MemoryJobs
from supawire.worker import Job, Worker

from .waiting import until

Make = Callable[..., Worker]
Sql = psycopg.Connection[Any]
PENDING = col("status") == "pending"


@pytest.fixture
def server(database: str) -> Iterator[LocalServer]:
    """A local server on the database."""
    with LocalServer(database=database) as running:
        yield running


async def until_live(app: Worker) -> None:
    """Return when Realtime announces jobs, and the claim that this causes has begun."""
    await until(lambda: app.health().realtime == "live" and "reconnect" in app.stats().jobs["public.orders"].wakeups)


def count(sql: Sql, status: str) -> int:
    """Return how many rows have this status."""
    (found,) = sql.execute("select count(*) from orders where status = %s", [status]).fetchall()
    return found[0]


async def test_a_change_wakes_the_worker_up(orders: Make, server: LocalServer, sql: Sql):
    """A row that is inserted is worked on because it was announced, long before the poll."""
    app = orders(url=server.url, key=server.service_key, poll=3600.0)
    did = asyncio.Event()

    @app.job("orders", where=PENDING)
    async def handler(job: Job) -> None:
        did.set()

    async with app:
        await until_live(app)
        assert app.health().ok and app.health().state == "running" and app.health().database == "ok"
        sql.execute("insert into orders default values")
        await asyncio.wait_for(did.wait(), 20)
        # a claim that began before may find the row
        await until(lambda: "change" in app.stats().jobs["public.orders"].wakeups)
        wakeups = app.stats().jobs["public.orders"].wakeups
        assert wakeups["change"] == 1 and "poll" not in wakeups
    assert count(sql, "done") == 1
    assert app.health().state == "stopped" and not app.health().ok


async def test_many_changes_cause_few_claims(orders: Make, server: LocalServer, sql: Sql):
    """Rows that come together are claimed together, and each is done once."""
    app = orders(url=server.url, key=server.service_key, poll=3600.0)
    done: list[int] = []
    all_done = asyncio.Event()

    @app.job("orders", where=PENDING, concurrency=20)
    async def handler(job: Job) -> None:
        done.append(job.key)
        if len(done) == 200:
            all_done.set()

    async with app:
        await until_live(app)
        sql.execute("insert into orders (note) select n::text from generate_series(1, 200) n")
        await asyncio.wait_for(all_done.wait(), 20)
        assert app.stats().jobs["public.orders"].claims < 60
    assert sorted(done) == list(range(1, 201)) and count(sql, "done") == 200


async def test_jobs_are_found_while_realtime_is_away(orders: Make, server: LocalServer, sql: Sql):
    """Without Realtime the poll finds the jobs, health says why, and it recovers when Realtime is back."""
    app = orders(url=server.url, key=server.service_key, poll=0.2)
    done: asyncio.Queue[int] = asyncio.Queue()

    @app.job("orders", where=PENDING)
    async def handler(job: Job) -> None:
        done.put_nowait(job.key)

    async with app:
        await until_live(app)
        server.refuse_connections(seconds=3600)
        server.drop_connections()
        await until(lambda: app.health().realtime != "live")
        sql.execute("insert into orders default values")
        assert await asyncio.wait_for(done.get(), 20) == 1
        assert app.health().ok and app.health().realtime != "live"
        server.refuse_connections(seconds=0)
        await until(lambda: app.health().realtime == "live")
        sql.execute("insert into orders default values")
        assert await asyncio.wait_for(done.get(), 20) == 2


async def test_a_channel_that_is_refused_later_is_joined_again(
    orders: Make, server: LocalServer, sql: Sql, monkeypatch: pytest.MonkeyPatch
):
    """When the server refuses the channel of a running worker permanently, the worker joins again later."""
    monkeypatch.setattr("supawire.worker.announcements.RETRY", Backoff(initial=0.05, maximum=0.05))
    app = orders(url=server.url, key=server.service_key, poll=3600.0)
    app.job("orders", where=PENDING)(lambda job: None)
    async with app:
        await until_live(app)
        topic = "supawire:worker:public.orders"
        server.reject_join(topic, "Unauthorized: You do not have permissions to read from this Channel topic: x")
        server.drop_connections()
        await until(lambda: "permissions" in app.health().realtime)
        server.reset_faults()
        await until(lambda: app.health().realtime == "live")


async def test_a_wrong_key_ends_the_worker(orders: Make, server: LocalServer):
    """When Realtime refuses the key at the start, the worker raises the error instead of polling silently."""
    app = orders(url=server.url, key=server.service_key[:-4] + "AAAA")
    app.job("orders", where=PENDING)(print)
    with pytest.raises((AuthError, ConnectError)):
        await app.serve()


async def test_an_idle_worker_asks_the_database_no_more_than_the_poll_says(orders: Make, server: LocalServer, sql: Sql):
    """Between polls the database gets no statement of a worker that has nothing to do."""
    app = orders(url=server.url, key=server.service_key, poll=0.2)
    app.job("orders", where=PENDING)(print)
    async with app:
        await until_live(app)
        before = app.stats()
        polls = before.jobs["public.orders"].claims
        await until(lambda: app.stats().jobs["public.orders"].claims >= polls + 3)
        after = app.stats()
        assert after.queries - before.queries == after.jobs["public.orders"].claims - polls
        assert set(after.jobs["public.orders"].wakeups) == {"start", "reconnect", "poll"}


def test_a_sync_program_runs_a_worker_in_a_thread(orders: Make, sql: Sql):
    """`with app` runs the worker beside a program that blocks, and ends it in order."""
    app = orders(poll=0.05)
    did = threading.Event()

    @app.job("orders", where=PENDING)
    def handler(job: Job) -> None:
        did.set()

    with app:
        assert app.health().state == "running"
        sql.execute("insert into orders default values")
        assert did.wait(20)
    assert count(sql, "done") == 1
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("supawire-worker")] == []


def test_a_worker_in_a_thread_raises_what_keeps_it_from_starting(sql: Sql, database: str):
    """The error of the start is raised in the thread that starts the worker."""
    from supawire import SetupError

    app = Worker(database=database)
    app.job("orders", where=PENDING)(print)
    with pytest.raises(SetupError, match="there is no table"), app:
        pass


async def test_a_worker_runs_once_at_a_time(orders: Make):
    """A second start while it runs is refused; after its end it can be started again."""
    app = orders()
    app.job("orders", where=PENDING)(print)
    async with app:
        with pytest.raises(StateError, match="running already"):
            await app.serve()
    await app.serve(until_idle=True)


async def test_a_cancelled_worker_gives_its_jobs_back(orders: Make, sql: Sql):
    """When the task of `serve()` is cancelled, running jobs are cancelled and can be claimed at once."""
    sql.execute("insert into orders default values")
    app = orders()
    began = asyncio.Event()

    @app.job("orders", where=PENDING)
    async def handler(job: Job) -> None:
        began.set()
        await asyncio.sleep(3600)

    task = asyncio.create_task(app.serve())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert count(sql, "pending") == 1
    assert sql.execute("select count(*) from supawire.jobs").fetchone() == (0,)


async def test_a_worker_stops_when_its_jobs_have_ended(orders: Make, sql: Sql):
    """`stop()` lets running jobs end within `shutdown_timeout`, and claims nothing more."""
    sql.execute("insert into orders (note) select '' from generate_series(1, 3)")
    app = orders()
    states: list[str] = []

    @app.job("orders", where=PENDING, concurrency=1)
    async def handler(job: Job) -> None:
        app.stop()
        await asyncio.sleep(0.1)
        states.append(app.health().state)

    await app.serve()
    assert states == ["draining"]
    assert (count(sql, "done"), count(sql, "pending")) == (1, 2)


async def test_any_source_can_be_registered():
    """A source of one's own works without a database and without Realtime."""
    jobs = MemoryJobs([{"id": 1}, {"id": 2}])
    app = Worker()

    @app.source("orders", lambda _: jobs)
    async def handler(job: Job) -> None:
        if job.row["id"] == 2:
            with pytest.raises(StateError, match="no transaction"):
                job.transaction()

    await app.serve(until_idle=True)
    assert [job.state for job in jobs.jobs] == ["done", "done"]


def test_a_second_signal_ends_the_run_at_once(monkeypatch: pytest.MonkeyPatch):
    """After two signals, `run()` has given the job back and returns."""
    monkeypatch.setattr("supawire.aio.tasks.SECOND_SIGNAL", 0)
    jobs = MemoryJobs([{"id": 1}])
    app = Worker()

    @app.source("memory", lambda _: jobs)
    async def hang(job: Job) -> None:
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(0)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.Event().wait()

    app.run()
    assert (jobs.jobs[0].state, jobs.jobs[0].attempts) == ("waiting", 0)
