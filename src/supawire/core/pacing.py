"""How long to wait before the next attempt (api §6).

Limits kept on our side, so that the server never has to enforce them (protocol §5.5, §8).
"""

from collections import deque
from typing import Final, Protocol

from supawire.options import Backoff


class Uniform(Protocol):
    """The one thing the core asks of a random generator."""

    def uniform(self, a: float, b: float, /) -> float: ...


def delay(backoff: Backoff, attempt: int, random: Uniform) -> float:
    """Seconds before attempt n = 0, 1, 2 …

    The step is min(maximum, initial × factorⁿ). The first attempt waits anything up to its step, so that clients that
    were dropped together come back spread out; later ones wait at least half of it. Without jitter: the step exactly.
    """
    step = _step(backoff, attempt)
    if not backoff.jitter:
        return step
    lowest = 0.0 if attempt == 0 else step * (1 - backoff.jitter / 2)
    return random.uniform(lowest, step)


def slow_delay(backoff: Backoff, random: Uniform) -> float:
    """Seconds before trying again what a limit refused: the longest step at once."""
    return random.uniform(backoff.maximum * (1 - backoff.jitter / 2), backoff.maximum)


def _step(backoff: Backoff, attempt: int) -> float:
    try:
        return min(backoff.maximum, backoff.initial * backoff.factor**attempt)
    except OverflowError:
        return backoff.maximum


class Pace:
    """At most `limit` calls in any `window` seconds; None is no limit."""

    __slots__ = ("_calls", "_window", "limit")

    def __init__(self, limit: int | None, window: float = 1.0) -> None:
        self.limit: Final = limit
        self._window = window
        self._calls: deque[float] | None = None

    def ready_at(self, mono: float, calls: int = 1) -> float:
        """When the next call, or `calls` at once (no more than the limit), may be made: `mono` itself when now."""
        if self.limit is None:
            return mono
        if self._calls is None:
            return mono
        while self._calls and self._calls[0] <= mono - self._window:
            self._calls.popleft()
        over = len(self._calls) + calls - self.limit
        return mono if over <= 0 else self._calls[over - 1] + self._window

    def spend(self, mono: float, calls: int = 1) -> None:
        """Calls are made."""
        if self.limit is None:
            return
        if self._calls is None:
            self._calls = deque()
        self._calls.extend([mono] * calls)


class Allowance:
    """The server's presence limit for one join: `limit` calls in a window that begins with the first of them."""

    def __init__(self, limit: int | None, window: float = 30.0) -> None:
        self._limit = limit
        self._window = window
        self._started_at: float | None = None
        self._spent = 0

    def ready_at(self, mono: float) -> float:
        """When the next call may be made: `mono` itself when now."""
        if self._limit is None or self._started_at is None or self._spent < self._limit:
            return mono
        return max(mono, self._started_at + self._window)

    def spend(self, mono: float) -> None:
        """A call is made."""
        if self._started_at is None or mono >= self._started_at + self._window:
            self._started_at, self._spent = mono, 0
        self._spent += 1
