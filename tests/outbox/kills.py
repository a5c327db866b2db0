"""`python -m tests.outbox.kills --kills 1000`: kills processes that add and send, and shows that nothing is lost.

Several processes share one SQLite outbox. Each adds messages and, if it is the sender, sends them to a local server in
this process. A process is killed with SIGKILL after a random time, or kills itself at a chosen point: before or after
a commit of `add`, before a request, between the answer and the removal of the messages, or inside that transaction.
Another one replaces it. A process reports each id after `add` has returned, through a pipe, so that the ledger of this
process has what was promised to be durable.

A receiver counts each frame with an id, before copies are dropped (raw), and each event that its handler gets. At the
end everything in the ledger must have been received, and no id twice by the handler.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, cast

from supawire import Broadcast, LocalServer, SqliteOutbox, broadcast, connect, connect_async
from supawire.core.delivery import OutboxMessage
from supawire.options import Backoff

TOPICS: Final = ("red", "green", "blue")

POINTS: Final = (
    "before add", "inside add", "after add", "before request", "after request", "inside removal", "after removal",
)  # fmt: skip


def kill_myself() -> None:
    """End this process at once, as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


class MortalOutbox(SqliteOutbox):
    """An outbox whose process kills itself when it has passed a point a given number of times."""

    point: str | None = None
    passes: int = 0

    def passed(self, point: str) -> None:
        """Record that the process is at this point."""
        if point == self.point:
            self.passes -= 1
            if self.passes < 0:
                kill_myself()

    def add(self, *args: Any, **kwargs: Any) -> str:
        self.passed("before add")
        added = super().add(*args, **kwargs)
        self.passed("after add")
        return added

    def load(self, without: frozenset[str]) -> tuple[Sequence[OutboxMessage], bool]:
        found = super().load(without)
        if found[0]:
            self.passed("before request")
        return found

    def settle(self, sent: Sequence[str], dead: Iterable[tuple[str, str]]) -> None:
        self.passed("after request")
        super().settle(sent, dead)
        self.passed("after removal")

    def trace(self, statement: str) -> None:
        """Look at each SQL statement before it runs."""
        if statement.lower() == "commit":
            self.passed(f"inside {self.transaction}")
        elif statement.startswith("delete"):
            self.transaction = "removal"
        elif statement.startswith("insert"):
            self.transaction = "add"

    transaction: str = ""


def work(path: str, url: str, key: str, point: str | None, passes: int, ledger: Connection) -> None:
    """Add and send until killed."""

    async def run() -> None:
        store = MortalOutbox(path)
        store.point, store.passes = point, passes
        assert store._connection is not None
        store._connection.set_trace_callback(store.trace)
        async with connect_async(url, key) as client:
            client.outbox(store, backoff=Backoff(initial=0.01, maximum=0.1), poll=0.02)
            while True:
                topic = random.choice(TOPICS)
                ledger.send(await asyncio.to_thread(store.add, topic, "e", {"pid": os.getpid()}))
                await asyncio.sleep(random.uniform(0, 0.01))

    asyncio.run(run())


@dataclass
class Ledger:
    """What was added and what was received. order: whether a topic was ever received out of order."""

    added: set[str] = field(default_factory=set)
    raw: Counter[str] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)

    @property
    def lost(self) -> set[str]:
        return self.added - self.received.keys()

    @property
    def doubled(self) -> int:
        return sum(count - 1 for count in self.received.values())

    @property
    def raw_doubled(self) -> int:
        return sum(count - 1 for count in self.raw.values())

    def __str__(self) -> str:
        by_point = ", ".join(f"{point}: {count}" for point, count in sorted(self.kills.items()))
        return (
            f"kills: {sum(self.kills.values())} ({by_point})\n"
            f"messages reported as durable: {len(self.added)}; received: {len(self.received)}\n"
            f"lost: {len(self.lost)}; received twice by the handler: {self.doubled}; second copies on the wire: "
            f"{self.raw_doubled}"
        )


@dataclass
class Worker:
    """A process. kill_at: when it is killed, None until it has added a message."""

    process: BaseProcess
    point: str | None
    kill_at: float | None = None
    killed: bool = False


class Workers:
    """The processes that add and send, of which a given number is killed."""

    def __init__(self, arguments: tuple[str, str, str], ledger: Ledger, luck: random.Random) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["supawire.aio.client", "supawire.transport.pooled"])
        self._arguments = arguments
        self._ledger = ledger
        self._luck = luck
        self._running: dict[Any, Worker] = {}

    def start(self) -> None:
        """Start a process; two of three kill themselves at a point, or are killed if they do not reach it."""
        point = self._luck.choice(POINTS) if self._luck.random() < 2 / 3 else None
        passes = self._luck.randrange(1, 10)
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=work, args=(*self._arguments, point, passes, theirs), daemon=True)
        process.start()
        theirs.close()
        self._running[ours] = Worker(process, point)

    def run(self, kills: int, at_once: int, seconds: float) -> None:
        """Run until so many processes were killed, or for so many seconds."""
        until = time.monotonic() + seconds
        while sum(self._ledger.kills.values()) < kills and time.monotonic() < until:
            while len(self._running) < at_once:
                self.start()
            self.receive(0.02)
            for worker in self._running.values():
                if worker.kill_at is not None and worker.kill_at < time.monotonic():
                    worker.killed = True
                    worker.process.kill()
        for worker in self._running.values():
            worker.killed = True
            worker.process.kill()
        while self._running:
            self.receive(0.1)

    def receive(self, seconds: float) -> None:
        """Read the ids that processes report, and notice those that have ended."""
        for pipe in wait(list(self._running), seconds):
            worker = self._running[pipe]
            try:
                self._ledger.added.add(cast("Connection", pipe).recv())
            except (EOFError, OSError):
                del self._running[pipe]
                cast("Connection", pipe).close()
                worker.process.join()
                assert worker.process.exitcode == -signal.SIGKILL, worker.process.exitcode
                self._ledger.kills[str(worker.point) if not worker.killed else "any time"] += 1
            else:
                if worker.kill_at is None:
                    longest = 0.5 if worker.point is None else 2.0
                    worker.kill_at = time.monotonic() + self._luck.uniform(0, longest)


def run(kills: int, at_once: int = 3, seed: int | None = None, seconds: float = 3600.0) -> Ledger:
    """Kill so many processes, send what is left, and return the ledger."""
    ledger = Ledger()
    with tempfile.TemporaryDirectory() as folder, LocalServer() as server:
        path = str(Path(folder) / "outbox.db")

        def see(direction: str, data: str | bytes, binary: bool) -> None:
            with contextlib.suppress(ValueError, TypeError, KeyError, IndexError):
                if direction == "in":
                    ledger.raw[json.loads(data)[4]["meta"]["id"]] += 1

        def receive(event: Broadcast) -> None:
            ledger.received[str(event.id)] += 1

        with connect(server.url, server.anon_key, on_frame=see) as client:
            for topic in TOPICS:
                client.channel(topic).on(broadcast(), receive, overflow="pause")
                client.channel(topic).subscribe()
            arguments = path, server.url, server.anon_key
            Workers(arguments, ledger, random.Random(seed)).run(kills, at_once, seconds)
            with SqliteOutbox(path) as store, client.outbox(store) as outbox:
                outbox.flush(timeout=60)
                assert outbox.stats().dead == 0
            settle(lambda: not ledger.lost)
    return ledger


def settle(done: Callable[[], bool]) -> None:
    """Wait until the receiver has everything, or for ten seconds."""
    for _ in range(1000):
        if done():
            return
        time.sleep(0.01)


def main() -> None:
    """Run and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=3)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seconds", type=float, default=3600.0, help="at most; what is left is still sent")
    given = parser.parse_args()
    began = time.monotonic()
    ledger = run(given.kills, given.at_once, given.seed, given.seconds)
    print(ledger)
    print(f"{time.monotonic() - began:.0f} s")
    raise SystemExit(bool(ledger.lost or ledger.doubled))


if __name__ == "__main__":
    main()
