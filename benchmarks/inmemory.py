"""A client without a network: a transport that answers joins and passes frames to the client on command.

The cost of a frame is that of the client only, and the smallest of many short turns is exact to a few percent even on
a busy machine.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from benchmarks.answers import Answers
from supawire.transport.base import Closed, OpenRequest, Sink

URL: Final = "http://127.0.0.1:1"


class Memory:
    """A transport with one connection, and that connection."""

    def __init__(self) -> None:
        self.written = 0
        self._answers = Answers("2.0.0")
        self._sink: Sink | None = None
        self._over = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def open(self, request: OpenRequest, /) -> "Memory":
        """Return the connection."""
        return self

    def write(self, data: bytes, binary: bool, /) -> None:
        """Receive a frame; answers follow in the next iteration of the event loop."""
        self.written += 1
        answer = self._answers.to_binary if binary else self._answers.to_text
        for frame in answer(data):
            self._loop.call_soon(self.feed, (frame,))

    def feed(self, frames: Sequence[bytes], binary: bool = False) -> None:
        """Pass frames to the client in one batch."""
        assert self._sink is not None
        take = self._sink.frame
        for frame in frames:
            take(frame, binary)
        self._sink.batch_done()

    def feed_from_outside(self, frames: Sequence[bytes]) -> None:
        """Pass frames to the client from another thread."""
        self._loop.call_soon_threadsafe(self.feed, frames)

    async def flush(self, count: int, /) -> bool:
        """Return True: every frame is written."""
        return True

    async def run(self, sink: Sink, /) -> Closed:
        """Wait until the connection is closed."""
        self._sink = sink
        await self._over.wait()
        return Closed(1000)

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""

    async def close(self, code: int = 1000) -> None:
        """End the connection."""
        self._over.set()

    def abort(self) -> None:
        """End the connection."""
        self._over.set()
