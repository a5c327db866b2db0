"""From commit to handler through the local server on PostgreSQL: `python -m benchmarks.postgres`.

Server, database and the inserting program are separate processes; the client is this one, with three bindings on one
channel. Measured without and with row level security: the time from the end of a commit to the handler, and rows per
second, inserted by one statement for all and by one statement each.
"""

import argparse
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final, LiteralString, NamedTuple

import psycopg

import supawire
from supawire import changes
from supawire.server import LocalServer

SINGLES: Final = 300
TABLE: Final[LiteralString] = """
    create table rows (
      id int primary key generated always as identity, owner text, n int, at timestamptz default now());
    alter publication supabase_realtime add table rows;
"""
SECURED: Final[LiteralString] = """
    alter table rows enable row level security;
    create policy own on rows for select to authenticated using (owner = auth.jwt() ->> 'sub');
"""
INSERT: Final[LiteralString] = "insert into rows (owner, n) values ('ada', 1)"
BULK: Final[LiteralString] = "insert into rows (owner, n) select 'ada', n from generate_series(1, %s) n"


class Place(NamedTuple):
    """The values that the other processes need."""

    url: str
    key: str
    token: str
    database: str


def serve(pipe: "Connection[Any, Any]", secured: bool) -> None:
    """Run the server: send its addresses, and at the end its memory."""
    with LocalServer(postgres=True) as server:
        server.sql(TABLE + SECURED if secured else TABLE)
        pipe.send(Place(server.url, server.anon_key, server.token(sub="ada"), server.database_url))
        pipe.recv()
    if sys.platform != "win32":
        import resource

        pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    else:
        pipe.send(None)


def insert(pipe: "Connection[Any, Any]", database: str) -> None:
    """Insert on command; sends the times of begin and end for each command."""
    with psycopg.connect(database, autocommit=True) as connection:
        while (order := pipe.recv()) is not None:
            statement, count, times = order
            began = time.perf_counter()
            for _ in range(times):
                connection.execute(statement, [count] if count else None)
            pipe.send((began, time.perf_counter()))


class Listener:
    """Counts rows, and wakes the function that waits for the last one."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self._wanted = 0
        self._done = threading.Event()

    def __call__(self, event: object) -> None:
        """Count a row."""
        self.seen.append(time.perf_counter())
        if len(self.seen) >= self._wanted:
            self._done.set()

    def expect(self, count: int) -> Callable[[], float]:
        """Return a function that waits for this many rows from now on and returns the time of the last."""
        self.seen.clear()
        self._wanted = count
        self._done.clear()

        def wait() -> float:
            if not self._done.wait(120):
                raise TimeoutError(f"{len(self.seen)} of {count} rows came")
            return self.seen[-1]

        return wait


def measure(secured: bool, rows: int) -> list[str]:
    """Return the cells of one line of the table."""
    spawn = multiprocessing.get_context("spawn")
    server_pipe, theirs = spawn.Pipe()
    server = spawn.Process(target=serve, args=(theirs, secured))
    server.start()
    place: Place = server_pipe.recv()
    insert_pipe, theirs = spawn.Pipe()
    inserter = spawn.Process(target=insert, args=(theirs, place.database))
    inserter.start()
    listener = Listener()
    with supawire.connect(place.url, place.key, token=place.token) as client:
        channel = client.channel("rows")
        channel.on(changes("rows"), listener)
        channel.on(changes("rows", event="UPDATE"), listener)
        channel.on(changes("rows", event="DELETE"), listener)
        channel.subscribe(wait="ready")

        def run(statement: str, count: int, times: int) -> tuple[float, float, float]:
            wait = listener.expect((count or 1) * times)
            insert_pipe.send((statement, count, times))
            began, ended = insert_pipe.recv()
            return began, ended, wait()

        run(INSERT, 0, 20)
        waits = sorted(last - ended for _, ended, last in (run(INSERT, 0, 1) for _ in range(SINGLES)))
        began, _, last = run(BULK, rows, 1)
        bulk = rows / (last - began)
        began, _, last = run(INSERT, 0, rows // 10)
        apart = rows / 10 / (last - began)
    insert_pipe.send(None)
    inserter.join()
    server_pipe.send(None)
    memory = server_pipe.recv()
    server.join()
    times = (f"{1000 * waits[int(SINGLES * part)]:.2f}" for part in (0.5, 0.9))
    return ["yes" if secured else "no", *times, f"{bulk:,.0f}", f"{apart:,.0f}", f"{(memory or 0) / 1024:.0f}"]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.postgres", description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="rows of the one statement")
    rows: int = parser.parse_args().rows
    head = "row security | median ms | 90 % ms | rows/s, one statement | rows/s, one each | server MB"
    print(f"| {head} |", "|" + " --- |" * 6, sep="\n")
    for secured in (False, True):
        print("|", " | ".join(measure(secured, rows)), "|", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
