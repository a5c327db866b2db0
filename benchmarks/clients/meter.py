"""The half of a measured client that every one of them shares: count, and say what the CPU did meanwhile.

Lines of standard input are orders: the number of messages that come next. The answer is a line `ready`, and when they
were all delivered a line of JSON with the seconds of CPU of the whole process and of the clock. Only the standard
library is used here, since this runs in several environments.
"""

import asyncio
import json
import sys
import time


class Meter:
    """What is left to be delivered in this round: whoever delivers counts `left` down, and calls `stop` at zero."""

    def __init__(self) -> None:
        self.left = 0
        self._began = 0.0, 0.0

    def start(self, count: int) -> None:
        """Count so many messages."""
        self.left = count
        self._began = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        """The last one was delivered."""
        cpu, wall = time.process_time(), time.perf_counter()
        say(json.dumps({"cpu": cpu - self._began[0], "wall": wall - self._began[1]}))

    async def obey(self) -> None:
        """Take orders until standard input ends."""
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        say("joined")
        while line := await lines.readline():
            self.start(int(line))
            say("ready")


def say(line: str) -> None:
    """A line for the runner."""
    print(line, flush=True)
