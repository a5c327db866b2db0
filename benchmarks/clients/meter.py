"""The part that all measured clients share: count messages and report the CPU time.

Each line of standard input is the number of messages of the next turn. The answer is a line `ready` and, when all
messages were delivered or sent, a line of JSON with the CPU time of the whole process and the elapsed time in seconds,
and other figures of some tasks. Only the standard library is used, since this runs in several environments.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

BREATH = 32
_pauses: list[float] = []
"""The CPU time of one pause, once it is measured."""


class Meter:
    """Counts the messages of a turn: each delivery decrements `left`, and the last one calls `stop`."""

    def __init__(self) -> None:
        self.left = 0
        self._began = 0.0, 0.0

    def start(self, count: int) -> None:
        """Start a turn of this many messages."""
        self.left = count
        self._began = time.process_time(), time.perf_counter()

    def stop(self, **more: float) -> None:
        """End the turn and report its figures."""
        cpu, wall = time.process_time(), time.perf_counter()
        say(json.dumps({"cpu": cpu - self._began[0], "wall": wall - self._began[1], **more}))

    async def obey(self, act: Callable[[int], Awaitable[dict[str, float] | None]] | None = None) -> None:
        """Read commands until standard input ends: count received messages, or call `act` with their number."""
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        say("joined")
        while line := await lines.readline():
            self.start(int(line))
            say("ready")
            if act is not None:
                more = await act(int(line))
                self.stop(**(more or {}))


async def round_trips(count: int, once: Callable[[], Awaitable[Any]]) -> dict[str, float]:
    """Call a function repeatedly; returns the median and the 99th percentile of its duration in microseconds."""
    took: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await once()
        took.append(time.perf_counter() - began)
    took.sort()
    return {"p50": took[count // 2] * 1e6, "p99": took[count * 99 // 100] * 1e6}


async def breath(number: int) -> None:
    """Pause after some messages so that the server can read them.

    Otherwise messages of a faster client would wait and be written together, which costs less.
    """
    if number % BREATH == 0:
        await asyncio.sleep(0.001)


async def above_pauses(count: int, send: Callable[[int], Awaitable[None]]) -> dict[str, float]:
    """Send `count` messages; returns the CPU time without that of the pauses, which cost more than a cheap send."""
    if not _pauses:  # before the first message, since some clients leave work for the pauses
        for number in range(100):
            await breath(BREATH * number)
        began = time.process_time()
        for number in range(400):
            await breath(BREATH * number)
        _pauses.append((time.process_time() - began) / 400)
    began = time.process_time()
    await send(count)
    return {"cpu": time.process_time() - began - _pauses[0] * -(-count // BREATH)}


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def say(line: str) -> None:
    """Print a line for the runner."""
    print(line, flush=True)
