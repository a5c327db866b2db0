"""The two roles of a measured program: it consumes jobs, or it produces them, and obeys lines of its standard input.

A program gives the functions of its library to `play`, and is started as
`python -m benchmarks.queues.NAME produce|consume DATABASE CONCURRENCY URL KEY`. The answers are lines of JSON. Only the
standard library is used, since the programs run in environments of their own.
"""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TextIO

_CHANNEL: Final[TextIO] = sys.stdout


class Place(NamedTuple):
    """The values of the command line."""

    database: str
    concurrency: int
    url: str
    key: str


class Meter:
    """Counts the jobs that were handled, and the CPU time of this process since the last report."""

    def __init__(self) -> None:
        self._started: list[float] = []
        self._cpu = time.process_time()

    def handled(self) -> None:
        """Record that a handler has started. `time.perf_counter` is the same clock in all processes on Linux."""
        self._started.append(time.perf_counter())

    def report(self) -> dict[str, Any]:
        """Return and reset the figures: the instants at which handlers started, and the CPU seconds."""
        cpu = time.process_time()
        figures = {"started": self._started, "cpu": cpu - self._cpu}
        self._started, self._cpu = [], cpu
        return figures


@dataclass(frozen=True)
class Producer:
    """Functions that create jobs."""

    fill: Callable[[int], Awaitable[object]]
    """Create this many jobs at once."""
    one: Callable[[], Awaitable[object]]
    """Create and commit one job."""


def say(answer: object) -> None:
    """Write a line for the program that measures."""
    print(json.dumps(answer), file=_CHANNEL, flush=True)


def play(produce: Callable[[Place], Awaitable[Producer]], consume: Callable[[Place, Meter], Awaitable[object]]) -> None:
    """Run the role that the command line names."""
    role, database, concurrency, url, key = sys.argv[1:]
    place = Place(database, int(concurrency), url, key)
    asyncio.run(_produce(place, produce) if role == "produce" else _consume(place, consume))


async def _produce(place: Place, produce: Callable[[Place], Awaitable[Producer]]) -> None:
    producer = await produce(place)
    say("ready")
    while line := await asyncio.to_thread(sys.stdin.readline):
        if count := int(line):
            await producer.fill(count)
            say("filled")
        else:
            await producer.one()
            say(time.perf_counter())


async def _consume(place: Place, consume: Callable[[Place, Meter], Awaitable[object]]) -> None:
    meter = Meter()
    threading.Thread(target=_answer, args=(meter,), daemon=True).start()
    say("ready")
    await consume(place, meter)


def _answer(meter: Meter) -> None:
    """Report whenever a line arrives.

    A thread of its own, so that the event loop under measurement has no part in it.
    """
    for _ in sys.stdin:
        say(meter.report())
