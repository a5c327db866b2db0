"""Timers of the hub: a heap of deadlines without a clock of its own."""

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final

MAX_CANCELLED: Final = 64
"""Number of cancelled timers above which they are removed from the heap."""


class Timer:
    """One deadline, which can be cancelled."""

    __slots__ = ("_schedule", "at", "callback", "number")

    def __init__(self, schedule: "Schedule", at: float, number: int, do: Callable[[], None]) -> None:
        self._schedule = schedule
        self.at: float = at
        self.number: int = number
        self.callback: Callable[[], None] | None = do

    def cancel(self) -> None:
        """Cancel the timer and release its callback."""
        if self.callback is not None:
            self.callback = None
            self._schedule.count_cancelled()

    def __lt__(self, other: "Timer") -> bool:
        return (self.at, self.number) < (other.at, other.number)


class Schedule:
    """Timers in order of time, then of creation."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._numbers = count()
        self._cancelled = 0

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, mono: float, do: Callable[[], None]) -> Timer:
        """Schedule `do` at this monotonic time."""
        timer = Timer(self, mono, next(self._numbers), do)
        heappush(self._heap, timer)
        return timer

    def count_cancelled(self) -> None:
        """Count a cancelled timer; remove cancelled timers from the heap when there are many, to bound its size."""
        self._cancelled += 1
        if self._cancelled > MAX_CANCELLED and self._cancelled * 2 > len(self._heap):
            self._heap = [timer for timer in self._heap if timer.callback is not None]
            heapify(self._heap)
            self._cancelled = 0

    @property
    def next_at(self) -> float | None:
        """The time at which `run` must be called, or None."""
        while self._heap and self._heap[0].callback is None:
            heappop(self._heap)
        return self._heap[0].at if self._heap else None

    def run(self, mono: float) -> None:
        """Run all timers that are due. Timers created meanwhile wait for the next run, so that this ends.

        When a callback raises, the timers that have not run yet stay scheduled.
        """
        due: deque[Timer] = deque()
        while self._heap and self._heap[0].at <= mono:
            due.append(heappop(self._heap))
        try:
            while due:
                timer = due.popleft()
                do, timer.callback = timer.callback, None
                if do is not None:
                    do()
        finally:
            for timer in due:
                heappush(self._heap, timer)
