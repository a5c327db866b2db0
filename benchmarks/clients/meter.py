"""The half of a measured client that every one of them shares: count, and say what the CPU did meanwhile.

Lines of standard input are orders: the number of messages of the next turn. The answer is a line `ready`, and when they
were all delivered, or sent, a line of JSON with the seconds of CPU of the whole process and of the clock, and perhaps
more. Only the standard library is used here, since this runs in several environments.
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
"""What one pause costs, when it was measured."""


class Meter:
    """What is left to be delivered in this turn: whoever delivers counts `left` down, and calls `stop` at zero."""

    def __init__(self) -> None:
        self.left = 0
        self._began = 0.0, 0.0

    def start(self, count: int) -> None:
        """Count so many messages."""
        self.left = count
        self._began = time.process_time(), time.perf_counter()

    def stop(self, **more: float) -> None:
        """The last one was delivered."""
        cpu, wall = time.process_time(), time.perf_counter()
        say(json.dumps({"cpu": cpu - self._began[0], "wall": wall - self._began[1], **more}))

    async def obey(self, act: Callable[[int], Awaitable[dict[str, float] | None]] | None = None) -> None:
        """Take orders until standard input ends: to count what is received, or to do something so many times."""
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
    """Do it so many times, one after another: the microseconds that half of them and 99 of 100 took at the most."""
    took: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await once()
        took.append(time.perf_counter() - began)
    took.sort()
    return {"p50": took[count // 2] * 1e6, "p99": took[count * 99 // 100] * 1e6}


async def breath(number: int) -> None:
    """After some messages let the server read, or who is faster than it has less to do: they wait for it, and are
    written together.
    """
    if number % BREATH == 0:
        await asyncio.sleep(0.001)


async def above_pauses(count: int, send: Callable[[int], Awaitable[None]]) -> dict[str, float]:
    """Send so many, and return the CPU that it took, less that of its pauses: they cost more than the cheapest send."""
    if not _pauses:  # measured before the first message, since some clients leave work behind that pauses would do
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
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def say(line: str) -> None:
    """A line for the runner."""
    print(line, flush=True)
