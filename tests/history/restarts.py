"""Count what a reader of stored messages handles while it is killed and its connections are cut.

    python -m tests.history.restarts --messages 100000

A local server with PostgreSQL stores the messages: half of them before the reader starts, the others meanwhile, in
transactions of different sizes, some of which stay open for seconds. The reader is killed (SIGKILL) at random instants
and started again from its cursor; the WebSockets and the connections to the database are cut as well. At the end each
message must have been handled exactly once, and only messages of long transactions behind newer ones.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg

from supawire import LocalServer
from tests.history.reader import SETTINGS, TOPIC

SEND = "select realtime.send(jsonb_build_object('n', n), 'e', %s, true) from generate_series(%s::int, %s::int) n"
LONGEST_TRANSACTION = 2.0
PATIENCE = 3600.0
"""Seconds after which the run fails."""


@dataclass(frozen=True)
class Outcome:
    """The figures of a run.

    late: messages of transactions that were held open, `behind` of which were delivered behind newer ones. unexplained:
    other messages that were delivered behind newer ones.
    """

    messages: int
    handled: int
    twice: int
    missing: int
    delivered: int
    kills: int
    cuts: int
    late: int
    behind: int
    unexplained: int
    seconds: float

    @property
    def correct(self) -> bool:
        """Whether every message was handled exactly once, and in order."""
        return not (self.twice or self.missing or self.unexplained) and self.handled == self.messages

    def __str__(self) -> str:
        return (
            f"{self.messages} messages, {self.handled} handled, {self.twice} twice, {self.missing} missing; "
            f"{self.delivered - self.handled} delivered again after {self.kills} kills and {self.cuts} cuts; "
            f"{self.late} in transactions that were held open, {self.behind} of them behind newer ones; "
            f"{self.unexplained} others out of order; {self.seconds:.0f} s"
        )


class Writer(threading.Thread):
    """Stores messages in transactions of 1 to 200; every tenth stays open for up to two seconds."""

    def __init__(self, url: str, first: int, count: int, rng: random.Random, pause: float) -> None:
        super().__init__(name="writer", daemon=True)
        self._url = url
        self._next = first
        self._end = first + count
        self._rng = rng
        self._pause = pause
        self.late: set[int] = set()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._write()
        except Exception as error:  # noqa: BLE001  shown by the main thread
            self.error = error

    def _write(self) -> None:
        held: list[tuple[float, psycopg.Connection]] = []
        with psycopg.connect(self._url, autocommit=True) as connection:
            while self._next < self._end or held:
                for due, slow in list(held):
                    if due <= time.monotonic():
                        slow.commit()
                        slow.close()
                        held.remove((due, slow))
                if self._next < self._end:
                    last = min(self._next + self._rng.randrange(200), self._end - 1)
                    if self._pause and self._rng.random() < 0.1 and len(held) < 5:
                        slow = psycopg.connect(self._url)
                        slow.execute(SEND, (TOPIC, self._next, last))
                        held.append((time.monotonic() + self._rng.random() * LONGEST_TRANSACTION, slow))
                        self.late.update(range(self._next, last + 1))
                    else:
                        connection.execute(SEND, (TOPIC, self._next, last))
                    self._next = last + 1
                time.sleep(self._pause)


class Reader:
    """The process that reads."""

    def __init__(self, settings: dict[str, str]) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, SETTINGS: json.dumps(self._settings)}
        self._process = subprocess.Popen([sys.executable, "-m", "tests.history.reader"], env=environment)

    def kill(self) -> None:
        """Kill the process, which must not have ended by itself."""
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            raise RuntimeError(f"the reader has ended by itself with {code}")
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


def size(path: str) -> int:
    return Path(path).stat().st_size if Path(path).exists() else 0


def handled_count(path: str) -> int:
    """Return how many messages were recorded."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
            return int(connection.execute("select coalesce(max(number), 0) from handled").fetchone()[0])
    except sqlite3.OperationalError:  # the reader has not created it yet
        return 0


def run(messages: int, *, seed: int, between: float, pause: float = 0.01) -> Outcome:
    """Run until all messages are handled.

    between: the most seconds from the first delivery of a reader to its kill. pause: seconds between two transactions.
    """
    rng = random.Random(seed)
    began = time.monotonic()
    with LocalServer(postgres=True) as server, tempfile.TemporaryDirectory() as folder:
        server.sql("create policy readers on realtime.messages for select to authenticated using (true)")
        stored = messages // 2
        first = Writer(server.database_url, 0, stored, rng, 0.0)
        first.start()
        first.join()
        writer = Writer(server.database_url, stored, messages - stored, rng, pause)
        writer.start()
        records, deliveries = f"{folder}/records.db", f"{folder}/deliveries"
        reader = Reader({
            "url": server.url, "key": server.anon_key, "token": server.token(), "database": server.database_url,
            "records": records, "deliveries": deliveries,
        })  # fmt: skip
        kills = cuts = 0
        while handled_count(records) < messages:
            if time.monotonic() - began > PATIENCE:
                raise RuntimeError(f"only {handled_count(records)} messages were handled")
            before = size(deliveries)
            reader.start()
            while size(deliveries) == before and handled_count(records) < messages:
                time.sleep(0.01)
            time.sleep(rng.random() * between)
            if rng.random() < 0.3:
                server.drop_connections()
                server.sql(
                    "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'supawire history'"
                )
                cuts += 1
                time.sleep(rng.random() * between)
            reader.kill()
            kills += 1
        writer.join()
        for one in (first, writer):
            if one.error is not None:
                raise one.error
        seconds = time.monotonic() - began
        table = [
            number
            for (number,) in server.sql(
                "select (payload ->> 'n')::int from realtime.messages where topic = %s"
                " order by inserted_at, cmin::text::bigint, id",
                TOPIC,
            )
        ]
        with closing(sqlite3.connect(records)) as connection:
            handled = [number for (number,) in connection.execute("select message from handled order by number")]
        delivered = Path(deliveries).read_bytes().count(b"\n")
    return compare(table, handled, writer.late, delivered=delivered, kills=kills, cuts=cuts, seconds=seconds)


def compare(
    table: list[int], handled: list[int], late: set[int], *, delivered: int, kills: int, cuts: int, seconds: float
) -> Outcome:
    """Compare what was handled with what is in the table."""
    places = {number: place for place, number in enumerate(table)}
    newest, behind, unexplained = -1, 0, 0
    for number in dict.fromkeys(handled):
        if places[number] < newest:
            behind += number in late
            unexplained += number not in late
        newest = max(newest, places[number])
    return Outcome(
        messages=len(table),
        handled=len(handled),
        twice=len(handled) - len(set(handled)),
        missing=len(set(table) - set(handled)),
        delivered=delivered,
        kills=kills,
        cuts=cuts,
        late=len(late),
        behind=behind,
        unexplained=unexplained,
        seconds=seconds,
    )


def main() -> None:
    """Read the arguments, run, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.history.restarts", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--between", type=float, default=0.4, help="the most seconds from the first delivery to a kill")
    parser.add_argument("--pause", type=float, default=0.01, help="seconds between two transactions of the writer")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    outcome = run(given.messages, seed=given.seed, between=given.between, pause=given.pause)
    print(outcome)
    sys.exit(not outcome.correct)


if __name__ == "__main__":
    main()
