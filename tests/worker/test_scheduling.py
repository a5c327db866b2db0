"""When a worker claims, which leases it extends, and what follows a failed attempt: the decisions, without waiting."""

import ast
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supawire import Backoff, worker
from supawire.worker.scheduling import MAX_CLAIM, OVERDUE_DELAY, ClaimSchedule, Leases, RetryPolicy

POLL = 30.0


def schedule(concurrency: int = 4) -> ClaimSchedule:
    return ClaimSchedule(concurrency, POLL, random.Random(1))


def idle(concurrency: int = 4, next_due: float | None = None) -> ClaimSchedule:
    """Return a schedule whose first claim, at time 0, has found nothing."""
    it = schedule(concurrency)
    assert it.begin(0, 0) == concurrency
    it.end(0, asked=concurrency, got=0, next_due=next_due)
    return it


def test_a_claim_is_made_at_the_start():
    """The first claim asks for as many jobs as there are slots, and no second one begins while it runs."""
    it = schedule()
    assert it.begin(0, used=0) == 4
    assert it.begin(0, used=0) == 0
    assert it.deadline(0) is None


def test_an_idle_worker_claims_once_per_poll_interval():
    """After a claim that found nothing the next one is due one to one and a tenth poll intervals later."""
    it = idle()
    due = it.deadline(0)
    assert due is not None and POLL <= due <= POLL * 1.1
    assert it.begin(due - 0.001, 0) == 0
    assert it.begin(due, 0) == 4
    assert it.causes == {"start": 1, "poll": 1}


def test_any_number_of_wakeups_causes_one_claim():
    """Wake-ups are merged, and those that come during a claim cause one more after it."""
    it = idle()
    for _ in range(100):
        it.wake("change")
    assert it.begin(1, 0) == 4
    for _ in range(100):
        it.wake("change")
    assert it.begin(1, 0) == 0
    it.end(1, asked=4, got=0, next_due=None)
    assert it.begin(1, 0) == 4
    it.end(1, asked=4, got=0, next_due=None)
    assert it.begin(1, 0) == 0
    assert it.causes["change"] == 2


def test_a_full_claim_is_followed_by_another():
    """A claim that returned as many jobs as asked for is repeated when a slot is free, until one returns fewer."""
    it = schedule()
    it.begin(0, 0)
    it.end(0, asked=4, got=4, next_due=None)
    assert it.begin(0, used=4) == 0 and it.deadline(4) is None
    assert it.begin(0, used=3) == 1
    it.end(0, asked=1, got=0, next_due=None)
    assert it.begin(0, used=0) == 0


def test_a_claim_is_limited():
    """One claim asks for a limited number of jobs, however many slots are free."""
    assert schedule(1000).begin(0, 0) == MAX_CLAIM


@pytest.mark.parametrize(("next_due", "at"), [(2.0, 2.0), (0.0001, 0.01), (-5.0, OVERDUE_DELAY)])
def test_a_job_that_becomes_due_is_claimed_then(next_due: float, at: float):
    """A claim follows when a job becomes due; one that is overdue, because its row is locked, is asked for later."""
    it = idle(next_due=next_due)
    assert it.deadline(0) == at
    assert it.begin(at, 0) == 4
    assert it.last_cause == "due"


def test_a_failed_claim_is_repeated_with_growing_delays():
    """Claims that fail are repeated after delays that grow, and wake-ups do not shorten them."""
    it = schedule()
    now, waits = 0.0, list[float]()
    for _ in range(8):
        assert it.begin(now, 0) == 4
        waits.append(it.failed(now))
        it.wake("change")
        assert it.begin(now, 0) == 0 or waits[-1] == 0
        now += waits[-1]
        assert it.deadline(0) == pytest.approx(now)
    assert max(waits[:2]) < 1.5 and 5 <= waits[-1] <= 10


def test_nothing_is_claimed_while_draining():
    """After `drain` no claim begins, whatever happens."""
    it = schedule()
    it.drain()
    it.wake("change")
    assert it.begin(0, 0) == 0 and it.deadline(0) is None


@given(st.lists(st.tuples(st.sampled_from(["wake", "tick", "end", "fail"]), st.floats(0, 40)), max_size=60))
def test_a_wakeup_is_never_forgotten(steps: list[tuple[str, float]]):
    """After each wake-up a claim begins that began after it, as soon as slots are free and failures have passed."""
    it = schedule()
    now, woken, running, asked = 0.0, True, False, 0
    for step, seconds in steps:
        now += seconds
        if step == "wake":
            it.wake("change")
            woken = True
        elif step == "tick" and not running:
            asked = it.begin(now, 0)
            running = asked > 0
            woken = woken and not running
        elif step == "end" and running:
            it.end(now, asked=asked, got=0, next_due=None)
            running = False
        elif step == "fail" and running:
            it.failed(now)
            running, woken = False, True
    if running:
        it.end(now, asked=asked, got=0, next_due=None)
    deadline = it.deadline(0)
    assert deadline is not None
    assert not woken or it.begin(max(now, deadline), 0) == 4


def test_the_worker_reads_no_wall_clock():
    """A clock that jumps has no effect: the worker uses the event loop's clock, and SQL that of the database."""
    calls = {
        f"{path.name}:{node.lineno}"
        for path in Path(worker.__file__).parent.glob("*.py")
        if path.name != "patch_source.py"  # conditional requests have no other clock, as its guarantees say
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if (node.value.id, node.attr) in {("time", "time"), ("datetime", "now"), ("date", "today")}
    }
    assert calls == set()


# --- leases


def test_leases_are_extended_together_after_a_third():
    """When a third of the oldest lease has passed, all leases older than a sixth are extended together."""
    leases = Leases(60)
    leases.hold(["a"], 0)
    leases.hold(["b"], 8)
    leases.hold(["c"], 15)
    assert leases.due(19.9) == [] and leases.deadline() == 20
    assert leases.due(20) == ["a", "b"]
    assert leases.extended(["a", "b"], ["a", "b"], 20) == []
    assert leases.deadline() == 35


def test_a_claim_that_the_source_no_longer_knows_is_lost():
    """Claims that an extension does not confirm are lost; jobs that ended meanwhile are not."""
    leases = Leases(60)
    leases.hold(["a", "b", "c"], 0)
    leases.drop("c")
    assert leases.extended(["a", "b", "c"], ["a"], 20) == ["b"]
    assert len(leases) == 1


def test_a_lease_that_cannot_be_extended_ends_in_time():
    """While extensions fail they are repeated each tenth of a lease, until the lease has ended elsewhere too."""
    leases = Leases(60)
    leases.hold(["a"], 0)
    tries = 0
    now = 0.0
    while not leases.expired(now):
        deadline = leases.deadline()
        assert deadline is not None
        now = max(now, deadline)
        if leases.due(now):
            tries += 1
            leases.failed(now)
    assert now == 60 and 6 <= tries <= 8
    assert leases.deadline() is None


# --- attempts


def test_attempts_are_limited():
    """After the last attempt there is no delay but a failure; one that began beyond it is not run."""
    policy = RetryPolicy(Backoff(initial=1, jitter=0), 3)
    assert [policy.delay_after(number, 0, random.Random()) for number in (1, 2, 3)] == [1, 2, None]
    assert not policy.is_exhausted(3) and policy.is_exhausted(4)


def test_the_limits_of_the_backoff_count_too():
    """`max_attempts` and `max_elapsed` of the Backoff end the attempts as well."""
    few = RetryPolicy(Backoff(max_attempts=2), None)
    assert few.delay_after(1, 0, random.Random()) is not None
    assert few.delay_after(2, 0, random.Random()) is None
    short = RetryPolicy(Backoff(max_elapsed=60), None)
    assert short.delay_after(50, 59, random.Random()) is not None
    assert short.delay_after(2, 60, random.Random()) is None
    assert RetryPolicy(Backoff(), None).delay_after(10_000, 0, random.Random()) is not None
