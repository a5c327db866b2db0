"""Compare the worker with other queues on the same embedded PostgreSQL: `python -m benchmarks.queues`.

Each library gets a database of its own on one cluster. Its consumers and its producer are programs of their own
(`*_queue.py` in this folder); the local server, which only ours needs, is one more. Measured are:

* jobs per second: consumers are warm, then many short jobs are committed at once; the time is from that commit until
  the database holds no job that is not done;
* CPU per job, of the consumers and of PostgreSQL;
* from commit to handler: jobs created one by one while the consumers are idle;
* statements per minute of idle consumers, counted by pg_stat_statements.
"""

import argparse
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, LiteralString, Self

import psycopg
from psycopg.sql import SQL, Identifier

from benchmarks.queues.report import KEPT, table
from benchmarks.queues.server import local_server
from supawire.server.postgres.cluster import Cluster

ROOT: Final = Path(__file__).resolve().parent.parent.parent
HOME: Final = ROOT / "build" / "queues-python"
PATIENCE: Final = 120.0
"""Seconds to wait for an answer of a program."""
WARM_UP: Final = 200
SINGLES: Final = 200
PAUSE: Final = 0.05
"""Seconds between two single jobs."""
CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Queue:
    """A measured library."""

    module: str
    left: LiteralString
    """Counts the jobs that are not done."""
    ours: bool = False


QUEUES: Final = {
    "supawire": Queue("supawire_queue", "select count(*) from short where status <> 'done'", ours=True),
    "procrastinate": Queue(
        "procrastinate_queue", "select count(*) from procrastinate_jobs where status in ('todo', 'doing')"
    ),
    "pgqueuer": Queue("pgqueuer_queue", "select count(*) from pgqueuer"),
    "pgmq": Queue("pgmq_queue", "select count(*) from pgmq.q_short"),
}


@dataclass
class Figures:
    """What was measured of one library with one number of processes. `wake` and `wake95` are milliseconds."""

    processes: int
    concurrency: int
    jobs_per_second: float
    cpu: float
    """Milliseconds of the consumers per job."""
    postgres_cpu: float
    """Milliseconds of all processes of PostgreSQL per job."""
    wake: float
    wake95: float
    idle: float
    """Statements per minute."""


class Program:
    """A producer or a consumer, which answers each line."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self._name = name
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._unread = b""

    def answer(self) -> Any:
        """Return the next answer. Raises: RuntimeError when there is none in time."""
        output = self._process.stdout
        assert output is not None
        while b"\n" not in self._unread:
            if not select.select([output], [], [], PATIENCE)[0] or not (more := output.read(65_536)):
                raise RuntimeError(f"{self._name} does not answer")
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def ask(self, line: object = "") -> Any:
        """Write a line and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        return self.answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        with self._process:
            pass


def install() -> str | None:
    """Install the other libraries, pinned by hash; returns the reason if that fails, else None."""
    python = HOME / "bin" / "python"
    if python.exists() and _succeeds([str(python), "-c", "import procrastinate, pgqueuer, pgmq, asyncpg"]):
        return None
    steps = [
        [sys.executable, "-m", "venv", str(HOME)],
        [str(python), "-m", "pip", "install", "-qq", "--require-hashes", "-r", "requirements/queues.txt"],
    ]
    return None if all(map(_succeeds, steps)) else "its packages cannot be installed"


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL).returncode == 0


def postgres_cpu(postmaster: int) -> float:
    """Return the CPU seconds of all processes of PostgreSQL, also of those that have ended."""

    def seconds(process: int, fields: slice) -> float:
        words = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return sum(map(int, words[fields])) / CLOCK_TICKS

    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text(encoding="utf-8").split()
    total = seconds(postmaster, slice(11, 15))
    for child in children:
        try:
            total += seconds(int(child), slice(11, 13))
        except FileNotFoundError:  # it has ended since the list was read, and is lost to this sum
            continue
    return total


@dataclass
class Bench:
    """The cluster, and a connection that only measures, to a database of its own."""

    cluster: Cluster
    admin: "psycopg.Connection[Any]"
    jobs: int
    idle: float

    def measure(self, name: str, processes: int, concurrency: int) -> Figures:
        """Return the figures of one library."""
        queue = QUEUES[name]
        database = f"{name}_{processes}"
        self.admin.execute(SQL("create database {}").format(Identifier(database)))
        role = f"consumer_{database}"  # its statements are counted, not those of the server or of the producer
        self.admin.execute(SQL("create role {} login superuser password 'benchmark'").format(Identifier(role)))
        owner_url = self.cluster.url_of(database)
        consumer_url = f"postgresql://{role}:benchmark@{owner_url.rpartition('@')[2]}"
        with ExitStack() as stack:
            url, key = stack.enter_context(local_server(owner_url)) if queue.ours else ("-", "-")
            python = sys.executable if queue.ours else str(HOME / "bin" / "python")

            def start(part: str, database: str) -> Program:
                words = ["-m", f"benchmarks.queues.{queue.module}", part, database, str(concurrency), url, key]
                program = stack.enter_context(Program(f"the program to {part} jobs of {name}", [python, *words]))
                assert program.answer() == "ready"
                return program

            producer = start("produce", owner_url)
            consumers = [start("consume", consumer_url) for _ in range(processes)]
            watch = stack.enter_context(psycopg.connect(owner_url, autocommit=True))
            return self._figures(queue, producer, consumers, watch, role, concurrency)

    def _figures(
        self,
        queue: Queue,
        producer: Program,
        consumers: list[Program],
        watch: "psycopg.Connection[Any]",
        role: str,
        concurrency: int,
    ) -> Figures:
        producer.ask(WARM_UP)
        _wait_until_done(watch, queue)
        reports(consumers)
        database_cpu = postgres_cpu(self.cluster.pid)
        producer.ask(self.jobs)
        began = time.perf_counter()
        _wait_until_done(watch, queue)
        seconds = time.perf_counter() - began
        database_cpu = postgres_cpu(self.cluster.pid) - database_cpu
        loaded = reports(consumers)
        assert sum(len(report["started"]) for report in loaded) >= self.jobs
        time.sleep(2)  # until the consumers are idle
        reports(consumers)
        created: list[float] = []
        for _ in range(SINGLES):
            created.append(producer.ask(0))
            time.sleep(PAUSE)
        _wait_until_done(watch, queue)
        started = sorted(instant for report in reports(consumers) for instant in report["started"])
        waits = sorted((end - begin) * 1000 for begin, end in zip(created, started, strict=True))
        time.sleep(2)
        before = self._statements(role)
        time.sleep(self.idle)
        idle = (self._statements(role) - before) * 60 / self.idle
        return Figures(
            processes=len(consumers),
            concurrency=concurrency,
            jobs_per_second=round(self.jobs / seconds, 1),
            cpu=round(sum(report["cpu"] for report in loaded) / self.jobs * 1000, 3),
            postgres_cpu=round(database_cpu / self.jobs * 1000, 3),
            wake=round(statistics.median(waits), 2),
            wake95=round(waits[int(len(waits) * 0.95)], 2),
            idle=round(idle, 1),
        )

    def _statements(self, role: str) -> int:
        found = self.admin.execute(
            "select coalesce(sum(calls), 0)::int from pg_stat_statements join pg_roles on oid = userid "
            "where rolname = %s",
            [role],
        ).fetchone()
        assert found is not None
        return found[0]


def reports(consumers: list[Program]) -> list[dict[str, Any]]:
    """Return what the consumers did since the last report."""
    return [consumer.ask() for consumer in consumers]


def _wait_until_done(watch: "psycopg.Connection[Any]", queue: Queue) -> None:
    until = time.monotonic() + PATIENCE
    while (row := watch.execute(queue.left).fetchone()) and row[0]:
        if time.monotonic() > until:
            raise RuntimeError(f"{row[0]} jobs were not done within {PATIENCE:.0f} s")
        time.sleep(0.02)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queues", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=QUEUES, default=list(QUEUES), help="only these libraries")
    parser.add_argument("--jobs", type=int, default=4000, help="jobs of the measurement of throughput")
    parser.add_argument("--idle", type=float, default=30.0, help="seconds in which statements of idle consumers count")
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 8], choices=[1, 2, 4, 8], help="8 jobs in all")
    parser.add_argument("--write", action="store_true", help="store the figures; then run python -m docs.tables")
    options = parser.parse_args()
    names: list[str] = options.only
    if any(not QUEUES[name].ours for name in names) and (why := install()):
        print(f"not run: {', '.join(name for name in names if not QUEUES[name].ours)}: {why}", file=sys.stderr)
        names = [name for name in names if QUEUES[name].ours]
    result: dict[str, Any] = {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"{platform.python_implementation()} {platform.python_version()}",
        "on": time.strftime("%Y-%m-%d"),
        "figures": [],
    }
    with (
        Cluster(settings={"shared_preload_libraries": "pg_stat_statements"}) as cluster,
        psycopg.connect(cluster.url, autocommit=True) as admin,
    ):
        admin.execute("create extension pg_stat_statements")
        bench = Bench(cluster, admin, options.jobs, options.idle)
        for processes in options.processes:
            for name in names:
                try:
                    figures = bench.measure(name, processes, 8 // processes)
                except RuntimeError as error:
                    print(f"not run: {name} with {processes} processes: {error}", file=sys.stderr, flush=True)
                    continue
                result["figures"].append([name, asdict(figures)])
                print(name, figures, file=sys.stderr, flush=True)
    head, *rows = table(result)
    print(*("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)), sep="\n")
    if options.write:
        KEPT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
