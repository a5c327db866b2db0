"""Backoff delays, and rate limits kept on the client side so that the server never has to enforce them."""

import math
from collections import deque
from collections.abc import Hashable
from typing import Final, Generic, Protocol, TypeVar

from supawire.events import Budget
from supawire.options import Backoff

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


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

    def budget(self, mono: float) -> Budget:
        """Return what is used. Any thread may call it."""
        began = mono - self._window
        return Budget(self.limit, self._window, sum(at > began for at in tuple(self._calls or ())))

    def spend(self, mono: float, calls: int = 1) -> None:
        """Count calls."""
        if self.limit is None:
            return
        if self._calls is None:
            self._calls = deque()
        self._calls.extend([mono] * calls)


class Throttle(Generic[K, V]):
    """The newest value of each key, one every `interval` seconds; the keys take turns.

    Args: max_keys: at most so many values wait.
    """

    def __init__(self, interval: float, max_keys: int) -> None:
        self._interval = interval
        self._max_keys = max_keys
        self._values: dict[K, V] = {}
        """What waits, in sending order. A newer value takes the place of the older one of its key."""
        self._ready_at = -math.inf
        self.replaced: int = 0
        """Number of values that a newer one has replaced."""

    def put(self, key: K, value: V) -> bool:
        """Add a value. Return False if too many keys wait."""
        if key in self._values:
            self.replaced += 1
        elif len(self._values) >= self._max_keys:
            return False
        self._values[key] = value
        return True

    def pop(self, mono: float) -> tuple[K, V] | None:
        """Remove and return the next key and value, None if none is due."""
        if not self._values or mono < self._ready_at:
            return None
        self._ready_at = mono + self._interval
        key = next(iter(self._values))
        return key, self._values.pop(key)

    def restore(self, key: K, value: V, ready_at: float) -> None:
        """Put back a value that could not be sent, unless there is a newer one; nothing is due before `ready_at`."""
        if key in self._values:
            self.replaced += 1
        else:
            self._values = {key: value, **self._values}
        self._ready_at = max(self._ready_at, ready_at)

    def next_at(self) -> float | None:
        """Return when a value is due, None if there is none."""
        return self._ready_at if self._values else None

    def __len__(self) -> int:
        return len(self._values)


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
