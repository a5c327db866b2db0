"""Deadlines of the hub."""

import pytest

from supawire.server.schedule import Schedule


def test_what_is_due_happens_in_order() -> None:
    """By time, then by planning; what is not due waits."""
    done: list[str] = []
    schedule = Schedule()
    for at, name in ((2.0, "b"), (1.0, "a"), (2.0, "c"), (3.0, "d")):
        schedule.at(at, lambda name=name: done.append(name))
    schedule.run(2.0)
    assert done == ["a", "b", "c"]
    assert schedule.next_at == 3.0


def test_what_is_cancelled_passes_unnoticed() -> None:
    """It is no deadline either."""
    done: list[int] = []
    schedule = Schedule()
    timer = schedule.at(1.0, lambda: done.append(1))
    timer.cancel()
    assert schedule.next_at is None
    schedule.run(5.0)
    assert done == []


def test_a_run_ends_although_everything_plans_itself_anew() -> None:
    """What is planned during a run waits for the next one."""
    done: list[int] = []
    schedule = Schedule()

    def again() -> None:
        done.append(1)
        schedule.at(0.0, again)

    schedule.at(0.0, again)
    schedule.run(1.0)
    assert done == [1] and schedule.next_at == 0.0


def test_one_may_cancel_another_that_is_due_too() -> None:
    """Both are due in the same run."""
    done: list[int] = []
    schedule = Schedule()
    schedule.at(1.0, lambda: other.cancel())
    other = schedule.at(1.0, lambda: done.append(1))
    schedule.run(1.0)
    assert done == []


def test_cancelled_deadlines_do_not_pile_up() -> None:
    """However many are planned and cancelled, the schedule stays small, and the others are kept."""
    done: list[int] = []
    schedule = Schedule()
    schedule.at(1e6, lambda: done.append(1))
    for n in range(10_000):
        schedule.at(float(n), lambda: done.append(2)).cancel()
    assert len(schedule) < 200
    schedule.run(1e6)
    assert done == [1]


def test_what_raises_does_not_take_the_rest_with_it() -> None:
    """What is due and has not been done yet is done in the next run."""
    done: list[int] = []
    schedule = Schedule()

    def fail() -> None:
        raise ValueError

    schedule.at(1.0, lambda: done.append(1))
    schedule.at(2.0, fail)
    schedule.at(3.0, lambda: done.append(3))
    with pytest.raises(ValueError):
        schedule.run(4.0)
    assert (done, schedule.next_at) == ([1], 3.0)
    schedule.run(4.0)
    assert (done, schedule.next_at) == ([1, 3], None)
