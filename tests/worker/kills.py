"""Kill workers, the local server and connections of PostgreSQL at random while jobs are done, and count what happened.

`python -m tests.worker.kills [--workers 16] [--rows 100000] [--kills 1000] [--seed N]`. The exit status is 0 when no
row was lost and none was completed twice.

PostgreSQL itself keeps the account: the handler writes each start to the table `starts` over a connection of its own,
and a trigger writes a row to `completions` whenever an update sets a row of `tasks` to done. The kills are spread
evenly over the rows: one whenever a further `rows / kills` rows are done.
"""

import argparse
import asyncio
import logging
import multiprocessing
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final, LiteralString, NamedTuple

import psycopg

from supawire import Backoff, RealtimeError, col
from supawire.server import LocalServer
from supawire.server.postgres.cluster import Cluster
from supawire.worker import Job, Worker

SCHEMA: Final[LiteralString] = """
    create table tasks (id bigint primary key generated always as identity, status text not null default 'pending');
    create index on tasks (id) where status <> 'done';
    create table starts (task bigint not null, worker int not null);
    create table completions (task bigint not null);
    create function record_completion() returns trigger language plpgsql as $$
      begin
        insert into completions values (new.id);
        return null;
      end
    $$;
    create trigger record_completion after update on tasks
      for each row when (new.status = 'done') execute function record_completion();
    create role worker login superuser password 'worker';
    grant select on tasks to service_role;
    alter publication supabase_realtime add table tasks;
"""
KINDS: Final = {"worker": 60, "connection": 25, "server": 10, "sockets": 4, "postgres": 1}
"""What is killed, with its weight: a worker process, one connection of a worker, the process of the local server, the
WebSocket connections of all workers, all processes of PostgreSQL at once."""
PRELOADED: Final = [
    "supawire.worker.app",
    "supawire.aio.connect",
    "supawire.server",
    "supawire.server.postgres.backend",
]
PATIENCE: Final = 60.0
"""Seconds without progress after which the remaining rows count as lost."""


@dataclass(frozen=True)
class Plan:
    """The size of a run. `lease` is in seconds."""

    workers: int = 16
    rows: int = 100_000
    kills: int = 1000
    seed: int = 0
    concurrency: int = 4
    lease: float = 5.0


@dataclass
class Outcome:
    """What happened to the rows."""

    rows: int
    done: int = 0
    completed_twice: int = 0
    starts: int = 0
    """All starts of handlers, also those that a kill ended."""
    started_again: int = 0
    """Rows with more than one start."""
    most_starts: int = 0
    kills: Counter[str] = field(default_factory=Counter[str])
    seconds: float = 0.0

    @property
    def lost(self) -> int:
        """Return the number of rows that were not completed."""
        return self.rows - self.done

    def __str__(self) -> str:
        kills = ", ".join(f"{kind} {number}" for kind, number in self.kills.most_common())
        return (
            f"{self.rows} rows: {self.lost} lost, {self.completed_twice} completed twice\n"
            f"{self.starts} starts of handlers; {self.started_again} rows were started more than once, at most "
            f"{self.most_starts} times\n"
            f"{self.kills.total()} kills: {kills}\n"
            f"{self.seconds:.0f} s, {self.rows / self.seconds:.0f} rows/s"
        )


class Place(NamedTuple):
    """Where the processes find the database and the local server."""

    database: str
    worker_database: str
    port: int
    secret: str
    key: str


Work = Callable[[Place, Plan, int], None]
"""Runs one worker until it is killed; a function of a module, since it is called in a new process."""


def serve(place: Place, pipe: "Connection[Any, Any]") -> None:
    """Run the local server on its port; drop its sockets for each message of the pipe."""
    logging.disable(logging.WARNING)
    while True:
        try:
            server = LocalServer(database=place.database, port=place.port, secret=place.secret).start()
            break
        except (OSError, RealtimeError):  # the port is still in use, or PostgreSQL is being restarted
            time.sleep(0.2)
    while True:
        pipe.recv()
        server.drop_connections()


class Database:
    """A connection that is opened again when PostgreSQL was killed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.Connection[Any] | None = None

    def query(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        """Execute the statement and return its rows. It may be executed twice when the connection is lost."""
        while True:
            try:
                if self._connection is None:
                    self._connection = psycopg.connect(self._url, autocommit=True)
                cursor = self._connection.execute(statement, values)
                return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                self.close()
                time.sleep(0.1)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def new_worker(place: Place, plan: Plan, number: int) -> Worker:
    """Return a worker whose handler records its start over a connection of its own."""
    starts = Database(place.worker_database)
    app = Worker(
        f"http://127.0.0.1:{place.port}", place.key, database=place.worker_database, lease=plan.lease, poll=plan.lease
    )

    @app.job(
        "tasks",
        where=col("status") == "pending",
        concurrency=plan.concurrency,
        max_attempts=None,
        retry=Backoff(initial=0.05, maximum=1),
    )
    async def do(job: Job) -> None:
        starts.query("insert into starts values (%s, %s)", job.key, number)

    return app


def work(place: Place, plan: Plan, number: int) -> None:
    """Run a worker until it is killed."""
    logging.disable(logging.WARNING)  # lost connections, thousands of times
    new_worker(place, plan, number).run()


class Run:
    """The processes of one run."""

    def __init__(self, plan: Plan, work: Work = work, say: Callable[[str], None] = lambda line: None) -> None:
        self._plan = plan
        self._work = work
        self._say = say
        self._random = random.Random(plan.seed)
        self._processes = multiprocessing.get_context("forkserver")  # a new process imports nothing again
        self._processes.set_forkserver_preload(PRELOADED)
        self._workers: list[BaseProcess] = []
        self._started = 0
        self.outcome = Outcome(plan.rows)

    def play(self) -> Outcome:
        """Insert the rows, kill until all kills are done, wait for the rest of the rows, and count."""
        began = time.monotonic()
        with Cluster() as cluster:
            self._cluster = cluster
            self._database = Database(cluster.url)
            self._place = self._prepare()
            try:
                self._start_server()
                self._workers = [self._start_worker() for _ in range(self._plan.workers)]
                self._watch(began)
            finally:
                for process in (*self._workers, self._server):
                    process.kill()
                    process.join()
            self._count()
            self._database.close()
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    def _prepare(self) -> Place:
        url = self._cluster.url
        with LocalServer(database=url, prepare=True) as server:
            self._database.query(SCHEMA)
            place = Place(
                url,
                f"postgresql://worker:worker@{url.rpartition('@')[2]}",
                int(server.url.rpartition(":")[2]),
                server.secret,
                server.service_key,
            )
            asyncio.run(new_worker(place, self._plan, 0).apply_migration())
        return place

    def _watch(self, began: float) -> None:
        rows, kills = self._plan.rows, self._plan.kills
        inserted = done = killed = 0
        said = progressed = time.monotonic()
        while done < rows or killed < kills:
            if inserted < rows and inserted - done < rows / 5:  # so that new rows also come to idle workers
                count = min(max(1, rows // 50), rows - inserted)
                self._database.query("insert into tasks select from generate_series(1, %s)", count)
                inserted = self._database.query("select count(*) from tasks")[0][0]
            now = time.monotonic()
            left = self._database.query("select count(*) from tasks where status <> 'done'")[0][0]
            if inserted - left > done:
                done, progressed = inserted - left, now
            elif now - progressed > PATIENCE:
                return
            if killed < kills and done >= killed * rows / kills:
                self._kill(self._random.choices(list(KINDS), list(KINDS.values()))[0])
                killed, progressed = killed + 1, now
            else:
                time.sleep(0.05)
            for number, worker in enumerate(self._workers):
                if not worker.is_alive():
                    worker.join()
                    self._workers[number] = self._start_worker()
            if now - said > 10:
                self._say(f"{now - began:.0f} s: {done} rows done, {killed} kills")
                said = now

    # --- processes ---

    def _start_worker(self) -> BaseProcess:
        self._started += 1
        worker = self._processes.Process(target=self._work, args=(self._place, self._plan, self._started), daemon=True)
        worker.start()
        return worker

    def _start_server(self) -> None:
        self._pipe, theirs = self._processes.Pipe()
        self._server = self._processes.Process(target=serve, args=(self._place, theirs), daemon=True)
        self._server.start()

    def _kill(self, kind: str) -> None:
        self.outcome.kills[kind] += 1
        if kind == "worker":
            self._random.choice(self._workers).kill()
        elif kind == "connection":
            pids = self._database.query("select pid from pg_stat_activity where usename = 'worker' order by pid")
            if pids:
                self._database.query("select pg_terminate_backend(%s)", self._random.choice(pids)[0])
        elif kind == "server":
            self._server.kill()
            self._server.join()
            self._start_server()
        elif kind == "sockets":
            with suppress(OSError):  # the server is dead
                self._pipe.send("drop")
        else:
            self._cluster.down(crash=True)
            self._cluster.up()

    # --- the account ---

    def _count(self) -> None:
        outcome = self.outcome
        [(outcome.done,)] = self._database.query("select count(*) from tasks where status = 'done'")
        [(outcome.completed_twice,)] = self._database.query(
            "select count(*) from (select from completions group by task having count(*) > 1) twice"
        )
        [(outcome.starts, outcome.started_again, outcome.most_starts)] = self._database.query(
            "select coalesce(sum(n), 0)::int, count(*) filter (where n > 1), coalesce(max(n), 0) "
            "from (select count(*)::int n from starts group by task) each"
        )


def main() -> int:
    """Play the run of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.worker.kills", description=__doc__)
    for name, default in (("workers", 16), ("rows", 100_000), ("kills", 1000), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    plan = Plan(options.workers, options.rows, options.kills, options.seed)
    outcome = Run(plan, say=lambda line: print(line, flush=True)).play()
    print(outcome)
    return 1 if outcome.lost or outcome.completed_twice else 0


if __name__ == "__main__":
    sys.exit(main())
