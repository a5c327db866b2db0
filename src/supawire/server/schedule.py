"""Deadlines of the hub: one heap, no clock of its own."""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count


class Timer:
    """One deadline; `cancel()` makes it pass unnoticed."""

    __slots__ = ("at", "do", "number")

    def __init__(self, at: float, number: int, do: Callable[[], None]) -> None:
        self.at = at
        self.number = number
        self.do: Callable[[], None] | None = do

    def cancel(self) -> None:
        """What was planned does not happen."""
        self.do = None

    def __lt__(self, other: "Timer") -> bool:
        return (self.at, self.number) < (other.at, other.number)


class Schedule:
    """What is to happen when, in order of time, then of planning."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._numbers = count()

    def at(self, mono: float, do: Callable[[], None]) -> Timer:
        """Do something at this reading of the monotonic clock."""
        timer = Timer(mono, next(self._numbers), do)
        heappush(self._heap, timer)
        return timer

    @property
    def next_at(self) -> float | None:
        """When `run` is wanted, or None."""
        while self._heap and self._heap[0].do is None:
            heappop(self._heap)
        return self._heap[0].at if self._heap else None

    def run(self, mono: float) -> None:
        """Do everything that is due; what is planned meanwhile waits for the next run, so this ends."""
        due: list[Timer] = []
        while self._heap and self._heap[0].at <= mono:
            due.append(heappop(self._heap))
        for timer in due:
            if timer.do is not None:
                timer.do()
