"""Faults with real processes and PostgreSQL: killed workers, restarts of the database, two versions, poison rows."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from supawire import Backoff, col
from supawire.server.postgres.cluster import Cluster
from supawire.worker import Job, Worker

from .conftest import ORDERS
from .waiting import PATIENCE, until

pytestmark = pytest.mark.slow

Make = Callable[..., Worker]
Sql = psycopg.Connection[Any]
PENDING = col("status") == "pending"

PROGRAM = """
import os
import time
from supawire import Backoff, col
from supawire.worker import Job, Worker

app = Worker(database=os.environ["DATABASE"], poll=0.1, lease=1)

@app.job("orders", where=col("status") == "pending", max_attempts=2, concurrency=4)
def handle(job: Job) -> None:
    print(f"began {{job.key}} {{job.attempt}}\\n", end="", flush=True)  # in one write: jobs run on threads
    {body}
"""


class Program:
    """`supawire worker run` with a handler of this body, in a process of its own."""

    def __init__(self, folder: Path, database: str, body: str, *options: str) -> None:
        (folder / "jobs.py").write_text(PROGRAM.format(body=body), encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "supawire", "worker", "run", "jobs:app", *options],
            cwd=folder,
            env={**os.environ, "DATABASE": database},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """Return the next line of the program's output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> tuple[int, str, str]:
        """Wait for the end, and return exit code, output and errors."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@contextmanager
def program(folder: Path, database: str, body: str, *options: str) -> Generator[Program]:
    """Run a program, which is killed at the end of the block."""
    started = Program(folder, database, body, *options)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.communicate()


def statuses(sql: Sql) -> dict[str, int]:
    return dict(sql.execute("select status, count(*) from orders group by status").fetchall())


def entries(sql: Sql) -> list[tuple[Any, ...]]:
    return sql.execute("select state, attempts from supawire.jobs order by key[1]::bigint").fetchall()


async def test_jobs_of_a_killed_worker_are_done_by_another(orders: Make, database: str, sql: Sql, tmp_path: Path):
    """After `kill -9` another worker gets the job when the lease has ended, as attempt 2, and nothing is lost."""
    sql.execute("insert into orders default values")
    attempts: list[int] = []
    app = orders(poll=0.1, lease=1)

    @app.job("orders", where=PENDING)
    async def handler(job: Job) -> None:
        attempts.append(job.attempt)

    with program(tmp_path, database, "time.sleep(1000)") as killed:
        assert await asyncio.to_thread(killed.line) == "began 1 1"
        async with app:
            killed.process.kill()
            assert statuses(sql) == {"running": 1}
            await until(lambda: statuses(sql) == {"done": 1})
    assert attempts == [2]
    assert entries(sql) == [("done", 2)]


def test_a_row_that_ends_its_worker_becomes_a_dead_letter(orders: Make, database: str, sql: Sql, tmp_path: Path):
    """A poison row that kills each worker is failed after the last allowed attempt, and the next worker goes on."""
    sql.execute("insert into orders (note) values ('poison')")
    for attempt in (1, 2):
        with program(tmp_path, database, "os._exit(7)") as poisoned:
            assert poisoned.line() == f"began 1 {attempt}"
            assert poisoned.end()[0] == 7
    sql.execute("insert into orders default values")
    with program(tmp_path, database, "pass") as next_one:
        assert next_one.line() == "began 2 1"
        asyncio.run(until(lambda: statuses(sql) == {"failed": 1, "done": 1}))
    assert entries(sql) == [("dead", 3), ("done", 1)]


def test_sigterm_lets_jobs_end(orders: Make, database: str, sql: Sql, tmp_path: Path):
    """At SIGTERM running jobs are finished, nothing more is claimed, and the exit code is 0."""
    sql.execute("insert into orders (note) select '' from generate_series(1, 4)")
    with program(tmp_path, database, "time.sleep(0.5)") as stopped:
        began = {stopped.line() for _ in range(4)}
        assert began == {f"began {number} 1" for number in range(1, 5)}
        sql.execute("insert into orders default values")
        stopped.process.send_signal(signal.SIGTERM)
        code, out, err = stopped.end()
    assert (code, out) == (0, ""), err
    assert statuses(sql) == {"done": 4, "pending": 1}


def test_the_worker_is_restarted_when_its_code_changes(orders: Make, database: str, sql: Sql, tmp_path: Path):
    """With `--reload` a changed file restarts the worker, after its running jobs have ended."""
    pytest.importorskip("watchfiles", reason="not run: watchfiles belongs to the extra worker")
    sql.execute("insert into orders default values")
    with program(tmp_path, database, "time.sleep(1)", "--reload") as reloaded:
        assert reloaded.line() == "began 1 1"
        (tmp_path / "jobs.py").write_text(PROGRAM.format(body="print('new', flush=True)"), encoding="utf-8")
        asyncio.run(until(lambda: statuses(sql) == {"done": 1}))
        sql.execute("insert into orders default values")
        lines = [reloaded.line()]
        while lines[-1] != "new":
            assert lines[-1].startswith("began"), lines
            lines.append(reloaded.line())
        reloaded.process.send_signal(signal.SIGINT)
        reloaded.process.wait(PATIENCE)
    assert entries(sql)[0] == ("done", 1)


async def test_a_restart_of_the_database_loses_nothing(tmp_path: Path):
    """While PostgreSQL restarts, jobs go on and results are kept; afterwards all are done, each once."""
    with Cluster() as cluster:
        with psycopg.connect(cluster.url, autocommit=True) as sql:
            sql.execute("create publication supabase_realtime")
            sql.execute(ORDERS.encode())
            sql.execute("insert into orders (note) select '' from generate_series(1, 400)")
        app = Worker(database=cluster.url, poll=0.1, lease=30)
        ran = Counter[int]()

        @app.job("orders", where=PENDING, retry=Backoff(initial=0.01), concurrency=8)
        async def handler(job: Job) -> None:
            ran[job.key] += 1
            await asyncio.sleep(0.02)

        await app.apply_migration()
        async with app:
            await until(lambda: len(ran) > 50)
            for crash in (True, False):
                await asyncio.to_thread(cluster.down, crash=crash)
                await until(lambda: not app.health().ok)
                await asyncio.to_thread(cluster.up)
                await until(lambda: app.health().ok)
            with psycopg.connect(cluster.url, autocommit=True) as sql:
                await until(lambda: statuses(sql) == {"done": 400})
                assert set(ran) == set(range(1, 401))
                # a claim whose answer was lost with the connection is repeated when its lease ends
                assert sum(ran.values()) <= 400 + 16
                assert app.stats().jobs["public.orders"].lost <= 16


async def test_two_versions_side_by_side(orders: Make, database: str, sql: Sql):
    """Versions with other values and conditions share the jobs: each row is done once, by one of them."""
    ran = Counter[int]()

    async def handler(job: Job) -> None:
        ran[job.key] += 1
        await asyncio.sleep(0.001)

    old, new = orders(poll=0.05), orders(poll=0.05)
    old.job("orders", where=PENDING, concurrency=3)(handler)
    new.job(
        "orders",
        where=col("status").in_(["pending", "urgent"]),
        claim={"status": "processing", "note": "by the new one"},
        done={"status": "finished"},
        concurrency=3,
    )(handler)
    async with old, new:
        sql.execute("insert into orders (note) select '' from generate_series(1, 200)")
        await until(lambda: sum(statuses(sql).get(one, 0) for one in ("done", "finished")) == 200)
    assert set(ran.values()) == {1} and len(ran) == 200


async def test_a_new_version_finishes_the_jobs_of_the_old_one(orders: Make, database: str, sql: Sql):
    """A job whose worker of the old version died is taken over by the new version, whatever values it writes."""
    sql.execute("insert into orders default values")
    old, new = orders(poll=0.05, lease=1), orders(poll=0.05, lease=1)

    @old.job("orders", where=PENDING)
    async def begin(job: Job) -> None:
        await asyncio.sleep(3600)

    attempts: list[int] = []

    @new.job("orders", where=PENDING, claim={"status": "processing"}, done={"status": "finished"})
    async def finish(job: Job) -> None:
        attempts.append(job.attempt)

    async with new:
        async with old:
            pass
        sql.execute("update orders set status = 'running'")
        sql.execute(
            "insert into supawire.jobs (source, key, state, claimed, visible_at)"
            """ values ('public.orders', '{1}', 'running', '{"status": "running"}', now())"""
        )
        await until(lambda: statuses(sql) == {"finished": 1})
    assert attempts[-1] == 2
