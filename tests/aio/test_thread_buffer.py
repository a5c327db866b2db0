"""Buffers that the event loop fills and a thread empties, and the event that such a thread waits on."""

import asyncio
import threading
from typing import Any

import pytest

from supawire.aio.buffers import Buffer, DropNewest, DropOldest, FlowControl, Latest, ThreadFlowControl
from supawire.aio.thread_buffer import MAX_LOCK_WAIT, LeanThreadBuffer, OneShotLock, ThreadBuffer, acquire_in_steps
from tests.aio.peer import until

pytestmark = pytest.mark.anyio

COUNT = 20_000


class SocketReading:
    """A socket whose reading can be paused."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.reads.set()
        self.stops = 0

    def set(self, reads: bool) -> None:
        self.stops += not reads
        (self.reads.set if reads else self.reads.clear)()


def thread_buffer(inner: Buffer, longest: float = 30.0) -> tuple[ThreadBuffer, SocketReading]:
    reading = SocketReading()
    flow_control = ThreadFlowControl(FlowControl(longest, lambda: False, reading.set), asyncio.get_running_loop())
    kind = LeanThreadBuffer if type(inner) in (Buffer, DropNewest) else ThreadBuffer
    return kind(inner, flow_control), reading


def take_all(kept: ThreadBuffer, until: Any) -> list[Any]:
    """Take events on this thread until the last one equals this one."""
    taken: list[Any] = []
    kept.wakeup_pending = False
    while not taken or taken[-1] != until:
        try:
            taken.append(kept.take())
        except IndexError:
            kept.wait(30)
    return taken


@pytest.mark.parametrize("inner", [Buffer, DropNewest, DropOldest], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("limit", [1, 2, 100, 1000])
async def test_a_burst_does_not_overflow_a_fast_consumer(inner: type[Buffer], limit: int):
    """A consumer on a thread that takes events at once gets all events of a burst in order (R39)."""
    kept, reading = thread_buffer(inner(limit))
    count = COUNT if limit > 2 else 500
    consumer = asyncio.ensure_future(asyncio.to_thread(take_all, kept, count - 1))
    for number in range(count):
        await reading.reads.wait()
        kept.put(number)
        if number % min(256, limit) == 0:
            await asyncio.sleep(0)
    assert await consumer == list(range(count))
    assert kept.dropped == 0
    assert reading.stops > 0


async def test_a_slow_consumer_gets_its_policy_after_the_grace_period():
    """After the grace period a full buffer overflows, and reading is not paused again (R39)."""
    kept, reading = thread_buffer(Buffer(10), longest=0.01)
    for number in range(10):
        assert kept.put(number)
    assert not reading.reads.is_set()
    kept.put(10)  # one event was being read when reading stopped
    await reading.reads.wait()
    assert not kept.put(11)
    assert reading.reads.is_set() and reading.stops == 1
    assert kept.dropped == 1
    assert await asyncio.to_thread(take_all, kept, 10) == list(range(11))
    error = kept.take_error()
    assert error is not None and "slow consumer" in str(error)
    assert kept.take_error() is None
    for number in range(10):
        kept.put(number)
    assert reading.stops == 2


async def test_one_event_at_a_time_wakes_the_consumer():
    """A consumer that waits between events is woken by each event."""
    kept, _ = thread_buffer(Buffer(10))
    consumer = asyncio.ensure_future(asyncio.to_thread(take_all, kept, 99))
    for number in range(100):
        kept.put(number)
        await until(lambda: not len(kept))
    assert await consumer == list(range(100))


async def test_the_newest_of_each_key_is_kept_across_threads():
    """With "latest" a thread ends with the newest event of each key, while events arrive."""
    kept, _ = thread_buffer(Latest(10, lambda event: event[0]))
    consumer = asyncio.ensure_future(asyncio.to_thread(take_all, kept, ("end", 0)))
    for number in range(COUNT):
        kept.put(("ab"[number % 2], number))
        if number % 100 == 0:
            await asyncio.sleep(0)
    kept.put(("end", 0))
    taken = await consumer
    last = dict(taken)
    assert (last["a"], last["b"]) == (COUNT - 2, COUNT - 1)
    assert kept.dropped + len(taken) == COUNT + 1


async def test_a_wait_ends_by_time_and_by_being_woken():
    """`wait` returns False after its timeout, and True when it is woken without an event."""
    kept, _ = thread_buffer(Buffer(10))
    kept.wakeup_pending = False
    assert not await asyncio.to_thread(kept.wait, 0.01)
    waiting = asyncio.ensure_future(asyncio.to_thread(kept.wait))
    await until(lambda: kept.has_waiter)
    kept.wake()
    assert await waiting
    assert kept.wait()  # the event was not consumed yet


async def test_closing_resumes_reading():
    """A full buffer that is closed does not pause reading any longer."""
    kept, reading = thread_buffer(Buffer(1))
    kept.put(1)
    assert not reading.reads.is_set()
    kept.close()
    await reading.reads.wait()
    assert not len(kept)


def test_events_can_be_taken_after_the_loop_has_ended():
    """A buffer can be emptied after its event loop is closed."""
    kept: Any = None

    async def fill() -> None:
        nonlocal kept
        kept, _ = thread_buffer(Buffer(2))
        kept.put(1)
        kept.put(2)

    thread = threading.Thread(target=asyncio.run, args=(fill(),))
    thread.start()
    thread.join()
    assert take_all(kept, 2) == [1, 2]


# --- locks


class SlowLock:
    """A lock that is acquired at the n-th attempt, and records the timeout of each attempt."""

    def __init__(self, attempts: int) -> None:
        self.attempts = attempts
        self.timeouts: list[float] = []

    def acquire(self, timeout: float) -> bool:
        self.timeouts.append(timeout)
        return len(self.timeouts) >= self.attempts


@pytest.mark.parametrize("timeout", [None, 600.0])
def test_no_wait_on_a_lock_is_long(timeout: float | None):
    """A Ctrl-C during a wait is handled when the wait ends, so each wait on the lock is short (R46)."""
    lock: Any = SlowLock(5)
    assert acquire_in_steps(lock, timeout)
    assert len(lock.timeouts) == 5 and all(0 < waited <= MAX_LOCK_WAIT for waited in lock.timeouts)


def test_another_thread_can_set_the_event():
    """A wait ends when another thread sets the event, and the next wait does not return at once."""
    event = OneShotLock()
    threading.Timer(0, event.set).start()
    assert event.wait()
    assert not event.wait(0)


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_wait_is_limited_in_time(timeout: float):
    """A wait returns False after its timeout, and True at once if the event is set."""
    event = OneShotLock()
    assert not event.wait(timeout)
    event.set()
    assert event.wait(timeout)
