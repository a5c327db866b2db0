"""Backoff delays, and rate limits kept on the client side so that the server never has to enforce them."""

from collections import deque
from typing import Final, Protocol

from supawire.options import Backoff


class Uniform(Protocol):
    """The part of a random generator that the core uses."""

    def uniform(self, a: float, b: float, /) -> float: ...


def delay(backoff: Backoff, attempt: int, random: Uniform) -> float:
    """Return the seconds before attempt n = 0, 1, 2 …

    The step is min(maximum, initial × factorⁿ). The first attempt waits a random part of its step, so that clients that
    were disconnected together spread out; later attempts wait at least half of it. Without jitter: exactly the step.
    """
    step = _step(backoff, attempt)
    if not backoff.jitter:
        return step
    lowest = 0.0 if attempt == 0 else step * (1 - backoff.jitter / 2)
    return random.uniform(lowest, step)


def slow_delay(backoff: Backoff, random: Uniform) -> float:
    """Return the seconds before a retry after a rate limit: the longest step at once."""
    return random.uniform(backoff.maximum * (1 - backoff.jitter / 2), backoff.maximum)


def _step(backoff: Backoff, attempt: int) -> float:
    try:
        return min(backoff.maximum, backoff.initial * backoff.factor**attempt)
    except OverflowError:
        return backoff.maximum


class Pace:
    """A limit of `limit` calls in any `window` seconds; None for no limit."""

    __slots__ = ("_calls", "_window", "limit")

    def __init__(self, limit: int | None, window: float = 1.0) -> None:
        self.limit: Final = limit
        self._window = window
        self._calls: deque[float] | None = None

    def ready_at(self, mono: float, calls: int = 1) -> float:
        """Return when the next call, or `calls` at once (at most the limit), may be made; `mono` itself if now."""
        if self.limit is None:
            return mono
        if self._calls is None:
            return mono
        while self._calls and self._calls[0] <= mono - self._window:
            self._calls.popleft()
        over = len(self._calls) + calls - self.limit
        return mono if over <= 0 else self._calls[over - 1] + self._window

    def spend(self, mono: float, calls: int = 1) -> None:
        """Count calls."""
        if self.limit is None:
            return
        if self._calls is None:
            self._calls = deque()
        self._calls.extend([mono] * calls)


class Allowance:
    """The server's presence limit for one join: `limit` calls in a window that starts with the first call."""

    def __init__(self, limit: int | None, window: float = 30.0) -> None:
        self._limit = limit
        self._window = window
        self._started_at: float | None = None
        self._spent = 0

    def ready_at(self, mono: float) -> float:
        """Return when the next call may be made; `mono` itself if now."""
        if self._limit is None or self._started_at is None or self._spent < self._limit:
            return mono
        return max(mono, self._started_at + self._window)

    def spend(self, mono: float) -> None:
        """Count a call."""
        if self._started_at is None or mono >= self._started_at + self._window:
            self._started_at, self._spent = mono, 0
        self._spent += 1
