"""A small run of the program that kills a reader, and its own comparison."""

from typing import Any

import pytest

pytest.importorskip("psycopg")

from tests.history.restarts import compare, run


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_each_message_is_handled_once_over_kills_of_the_reader():
    """A reader that records messages together with the cursor handles each exactly once, however often it is killed."""
    outcome = run(500, seed=1, between=0.05)
    assert outcome.correct, str(outcome)
    assert outcome.kills > 0


def test_the_comparison_finds_what_is_wrong():
    """Messages that are missing, handled twice, or out of order without a late commit are counted."""
    figures: dict[str, Any] = {"delivered": 4, "kills": 1, "cuts": 0, "seconds": 1.0}
    assert compare([1, 2, 3], [1, 2, 3], set(), **figures).correct
    late = compare([1, 2, 3], [1, 3, 2], {2}, **figures)
    assert late.correct
    assert late.behind == 1
    assert compare([1, 2, 3], [1, 3, 2], set(), **figures).unexplained == 1
    assert compare([1, 2, 3], [1, 2], set(), **figures).missing == 1
    assert compare([1, 2, 3], [1, 2, 2, 3], set(), **figures).twice == 1
