"""All deadlines of a session in one heap, on the monotonic clock; setting a key again replaces its deadline."""

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Timers(Generic[K]):
    """Deadlines by key. A replaced or cancelled entry stays in the heap until it comes up, and is then passed over."""

    __slots__ = ("_deadlines", "_heap", "_newest")

    def __init__(self) -> None:
        self._deadlines: dict[K, tuple[float, int, K]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._newest = 0

    def set(self, key: K, deadline: float) -> None:
        """Wake for this key at `deadline` (seconds, monotonic)."""
        self._newest += 1
        entry = (deadline, self._newest, key)
        self._deadlines[key] = entry
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 64 + 4 * len(self._deadlines):
            self._heap = list(self._deadlines.values())
            heapq.heapify(self._heap)

    def cancel(self, key: K) -> None:
        """Forget this key, whether it is set or not."""
        self._deadlines.pop(key, None)

    def deadline(self, key: K) -> float | None:
        """When this key is due, None when it is not set."""
        entry = self._deadlines.get(key)
        return entry and entry[0]

    def clear(self) -> None:
        """Forget all."""
        self._deadlines.clear()
        self._heap.clear()

    @property
    def next(self) -> float | None:
        """The earliest deadline."""
        heap = self._heap
        while heap and self._deadlines.get(heap[0][2]) is not heap[0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, mono: float) -> Iterator[K]:
        """Keys whose time has come, earliest first, each forgotten as it is taken."""
        while (deadline := self.next) is not None and deadline <= mono:
            yield self.pop()

    def pop(self) -> K:
        """Take the key of the earliest deadline."""
        key = heapq.heappop(self._heap)[2]
        del self._deadlines[key]
        return key

    def __len__(self) -> int:
        return len(self._deadlines)
