"""The clock and the timers of one event loop, as the core reads them: seconds that move on within a batch.

uvloop reads its clock once per iteration and in whole milliseconds, so a round trip would take 0.0 s and a slow handler
could not be noticed. For an event loop that is not built on asyncio's own the system's clock is read instead.
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any, Final


class Clock:
    """The clock of an event loop; `time` returns its seconds."""

    __slots__ = ("_exact", "_loop", "time")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._exact: Final = isinstance(loop, asyncio.BaseEventLoop)  # also one of virtual time
        self.time: Final[Callable[[], float]] = loop.time if self._exact else time.monotonic

    def call_at(self, when: float, function: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call a function at an instant of this clock, not earlier."""
        if self._exact:
            return self._loop.call_at(when, function, *args)
        delay = max(0.0, when - time.monotonic())
        return self._loop.call_later(math.ceil(delay * 1000) / 1000, function, *args)
