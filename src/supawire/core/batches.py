"""When a batch of events is complete: at its largest size, or some time after its first event."""

import math


class Batching:
    """Decides how long a consumer waits for more events before it takes a batch.

    Buffers do not record when an event arrived, because that would need the clock once per event. Instead this keeps
    an instant before which the oldest waiting event cannot have arrived, so an event never waits longer than `within`
    for others. Events that arrived while the consumer handled the previous batch are therefore not delayed again.

    A batch is also complete when half the buffer is full. The events that arrive in one burst before the consumer runs
    would otherwise not fit, and a consumer that only waits would be treated as slow.

    Args: size: the most events of a batch. within: the most seconds that an event waits for later ones. limit: the
    size of the buffer. The methods take the time in seconds of a monotonic clock.
    """

    __slots__ = ("_had_to_wait", "_oldest_at", "enough", "size", "within")

    def __init__(self, size: int, within: float, limit: int) -> None:
        self.size: int = min(size, limit)
        self.enough: int = min(size, (limit + 1) // 2)
        """How many waiting events complete a batch; a batch has more of them, up to `size`, if they are there."""
        self.within: float = within
        self._oldest_at = -math.inf  # events may have waited before the first batch is asked for
        self._had_to_wait = False

    def started(self, now: float) -> None:
        """Record that the first event of a batch has just arrived."""
        self._oldest_at = now

    def seconds_left(self, waiting: int, now: float) -> float:
        """Return how long to wait until `enough` events wait; 0 if the batch is to be taken now."""
        left = 0.0 if waiting >= self.enough else max(0.0, self._oldest_at + self.within - now)
        self._had_to_wait = left > 0
        return left

    def taken(self, left: int, now: float) -> None:
        """Record that a batch was taken, and that `left` events still wait.

        They arrived just now if the batch was waited for. Otherwise they may be as old as those that were taken.
        """
        if not left or self._had_to_wait:
            self._oldest_at = now
