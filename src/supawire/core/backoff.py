"""How long to wait before the next attempt (api §6)."""

from typing import Protocol

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
