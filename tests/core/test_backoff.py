"""Delays of the backoff in numbers."""

import random

from supawire.core.pacing import delay
from supawire.options import Backoff


def test_steps_of_the_backoff_grow_to_the_longest() -> None:
    """Attempt 0 waits up to its step, later ones between half and all of min(maximum, initial × 2ⁿ)."""
    backoff, rng = Backoff(initial=1.5, maximum=30), random.Random(1)
    for attempt, step in enumerate([1.5, 3, 6, 12, 24, 30, 30]):
        drawn = [delay(backoff, attempt, rng) for _ in range(300)]
        lowest = 0 if attempt == 0 else step / 2
        assert lowest <= min(drawn) < lowest + step / 10
        assert step * 0.95 < max(drawn) <= step
    assert delay(backoff, 100_000, rng) <= 30


def test_without_jitter_the_step_is_exact() -> None:
    """With jitter=0 the delay is exactly the step, also at attempt 0."""
    backoff, rng = Backoff(initial=2, maximum=10, factor=3, jitter=0), random.Random(1)
    assert [delay(backoff, attempt, rng) for attempt in range(4)] == [2, 6, 10, 10]
