"""Timers of the hub."""

import pytest

from supawire.server.schedule import Schedule


def test_due_timers_run_in_order() -> None:
    """They are ordered by time, then by creation; timers that are not due wait."""
    done: list[str] = []
    schedule = Schedule()
    for at, name in ((2.0, "b"), (1.0, "a"), (2.0, "c"), (3.0, "d")):
        schedule.at(at, lambda name=name: done.append(name))
    schedule.run(2.0)
    assert done == ["a", "b", "c"]
    assert schedule.next_at == 3.0


def test_a_cancelled_timer_does_not_run() -> None:
    """It does not count for the next deadline either."""
    done: list[int] = []
    schedule = Schedule()
    timer = schedule.at(1.0, lambda: done.append(1))
    timer.cancel()
    assert schedule.next_at is None
    schedule.run(5.0)
    assert done == []


def test_timers_created_during_a_run_wait_for_the_next() -> None:
    """A timer that schedules itself again does not keep the run going."""
    done: list[int] = []
    schedule = Schedule()

    def again() -> None:
        done.append(1)
        schedule.at(0.0, again)

    schedule.at(0.0, again)
    schedule.run(1.0)
    assert done == [1] and schedule.next_at == 0.0


def test_a_timer_can_cancel_another_that_is_due() -> None:
    """Both are due in the same run."""
    done: list[int] = []
    schedule = Schedule()
    schedule.at(1.0, lambda: other.cancel())
    other = schedule.at(1.0, lambda: done.append(1))
    schedule.run(1.0)
    assert done == []


def test_cancelled_timers_are_removed() -> None:
    """The size of the schedule stays bounded, and other timers are kept."""
    done: list[int] = []
    schedule = Schedule()
    schedule.at(1e6, lambda: done.append(1))
    for n in range(10_000):
        schedule.at(float(n), lambda: done.append(2)).cancel()
    assert len(schedule) < 200
    schedule.run(1e6)
    assert done == [1]


def test_a_timer_that_raises_keeps_the_others_scheduled() -> None:
    """The timers that have not run yet run in the next run."""
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
