"""Delays of the backoff, and limits on calls per second."""

import random

from hypothesis import given
from hypothesis import strategies as st

from supawire.core.pacing import Pace, delay
from supawire.options import Backoff


def test_backoff_steps_grow_to_the_maximum() -> None:
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


# --- limits per second


@given(st.integers(1, 5), st.lists(st.floats(0, 2), min_size=1, max_size=60))
def test_no_window_has_more_calls_than_the_limit(limit: int, waits: list[float]) -> None:
    """If each call waits until it is allowed, no window of a second has more calls than the limit (R35)."""
    pace = Pace(limit)
    at, calls = 0.0, list[float]()
    for wait in waits:
        at = max(at + wait, pace.ready_at(at + wait))
        assert pace.ready_at(at) == at
        pace.spend(at)
        calls.append(at)
    assert max(sum(start <= one < start + 0.999 for one in calls) for start in calls) <= limit


def test_no_limit_never_waits() -> None:
    """None means no limit and stores nothing."""
    pace = Pace(None)
    for _ in range(1000):
        pace.spend(1.0)
    assert pace.ready_at(1.0) == 1.0


def test_the_pace_counts_several_at_once() -> None:
    """Several messages are allowed once enough slots are free, and not before."""
    pace = Pace(4, 1.0)
    pace.spend(10.0, 2)
    pace.spend(10.5)
    assert pace.ready_at(10.6, 1) == 10.6
    assert pace.ready_at(10.6, 3) == 11.0
    assert pace.ready_at(10.6, 4) == 11.5
    assert Pace(None).ready_at(5.0, 1000) == 5.0
