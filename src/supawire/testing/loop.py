"""An event loop in which waiting takes no time."""

import asyncio
import selectors
from typing import Any


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for nothing: when nothing is ready, its clock is where the wait would have ended."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """What is ready. Without a timer that could come, it waits as any other."""
        if timeout is None:
            return super().select(None)
        ready = super().select(0)
        if not ready:
            self.now += max(0.0, timeout)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer whenever nothing is ready: an hour's wait is over at once.

        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test())

    For what lives in this loop alone, as with `MemoryTransport` and `FakeHttp`: it does not wait for a network or for
    threads. Only the monotonic clock jumps, `time.time()` goes on as it does.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds."""
        return self._jumping.now
