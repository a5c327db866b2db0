"""Buffers that the event loop fills and another thread empties, and the locks that such threads wait on.

The event loop holds the GIL for most of a burst, so a fast consumer thread may not run before the buffer is full. When
it is full, reading first pauses for `GRACE_PERIOD` seconds, in which a fast consumer makes room. If it does not, the
consumer is slow, and the overflow policy applies. The pause is short, so that a blocked consumer delays no others.

A waiting consumer is woken by the first event of a batch: one lock release per batch, not one per event.

`make_thread_safe` lets threads read presence events: `PresenceSync.state` is computed on first access, from data that
the event loop changes, so it is computed on the event loop. Everything else in an event may be read on any thread.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar, cast

from supawire.aio.buffers import Buffer, DropNewest, Key, Latest, Pause, ReadPauses, ThreadFlowControl, make_buffer
from supawire.errors import SlowConsumerError, StateError
from supawire.events import PresenceSync
from supawire.selectors import ModelSelector, PresenceSelector, Selector

MAX_LOCK_WAIT: Final = 1.0
"""Seconds of one wait on a lock.

CPython handles signals between bytecodes, and waiting on a lock happens within one. So a signal that arrives just
before the wait begins is handled only when the wait ends.
"""


def acquire_in_steps(lock: threading.Lock, timeout: float | None = None) -> bool:
    """Acquire the lock; return False after `timeout` seconds. Ctrl-C interrupts it."""
    if timeout is None:
        while not lock.acquire(timeout=MAX_LOCK_WAIT):
            pass
        return True
    deadline = time.monotonic() + timeout
    while not lock.acquire(timeout=max(0.0, min(MAX_LOCK_WAIT, deadline - time.monotonic()))):
        if time.monotonic() >= deadline:
            return False
    return True


class OneShotLock:
    """An event that one thread waits for and any thread sets once; a lock, because that is cheaper than `Event`."""

    __slots__ = ("_lock", "set")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.set: Final[Callable[[], None]] = self._lock.release
        """Set the event; from any thread, once."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; return False after `timeout` seconds. Ctrl-C interrupts it."""
        return acquire_in_steps(self._lock, timeout)


T = TypeVar("T")

POLL_INTERVAL: Final = 0.1


def make_thread_safe(
    selectors: Iterable[Selector[Any]], put: Callable[[Any], object], loop: asyncio.AbstractEventLoop
) -> Callable[[Any], None]:
    """Wrap `put` so that a thread may read the events of these selectors."""

    def put_safely(event: Any) -> None:
        if type(event) is PresenceSync:
            put(PresenceSync(event.topic, lambda: _fetch(lambda: event.state, loop)))
        else:
            put(event)

    plain = (selector.plain if isinstance(selector, ModelSelector) else selector for selector in selectors)
    has_presence = any(isinstance(selector, PresenceSelector) for selector in plain)
    return put_safely if has_presence else cast("Callable[[Any], None]", put)  # its result is ignored


def _fetch(function: Callable[[], T], loop: asyncio.AbstractEventLoop) -> T:
    """Return the result of the function, called on the event loop; if the loop has ended, call it here."""
    results: list[T] = []
    finished = threading.Event()

    def call() -> None:
        results.append(function())
        finished.set()

    try:
        if asyncio.get_running_loop() is loop:
            return function()
    except RuntimeError:
        pass  # no loop runs in this thread
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        return function()
    while not finished.wait(POLL_INTERVAL):
        if loop.is_closed():
            return function()
    return results[0]


class ThreadBuffer:
    """A buffer that the event loop fills and one thread at a time empties.

    Args: inner: the buffer with its policy. grace_pause: pauses reading for `GRACE_PERIOD`.
    """

    def __init__(self, inner: Buffer, grace_pause: ThreadFlowControl) -> None:
        self._inner = inner
        self._grace_pause = grace_pause
        self._in_grace_pause = not isinstance(inner, Latest | Pause)  # these replace events or pause reading themselves
        self._nearly = inner.limit - 1
        self._resets_when_drained = inner.resets_when_drained
        self._has_paused = False
        self._lock = threading.Lock()
        self._waiter: OneShotLock | None = None
        self._awaited = 1
        """How many events the waiting thread waits for."""
        self.limit: int = inner.limit
        self.wakeup_pending: bool = True
        """Whether the consumer must check the source for its end before the next wait."""

    # --- on the event loop

    def put(self, event: Any) -> bool:
        """Add an event; return False if an event was dropped."""
        inner = self._inner
        with self._lock:
            dropped = inner.dropped
            if len(inner) < self._nearly:
                inner.put(event)
            else:
                self._put_when_nearly_full(event)
            if self._waiter is not None and len(inner) >= self._awaited:
                self._wake()
            return inner.dropped == dropped  # not the length: the consumer changes it concurrently

    def wake(self) -> None:
        """Wake the consumer, or keep it from waiting next time."""
        with self._lock:
            self.wakeup_pending = True
            self._wake()

    def limit_bytes(self) -> bool:
        """Call `Buffer.limit_bytes`."""
        with self._lock:
            exceeded = self._inner.limit_bytes()
            if exceeded and self._waiter is not None:
                self._wake()
        return exceeded

    def close(self) -> None:
        """Drop all events, because the consumer is gone."""
        with self._lock:
            self._inner.close()
            self._release()

    # --- on any thread

    @property
    def dropped(self) -> int:
        """How many events were dropped."""
        return self._inner.dropped

    @property
    def has_waiter(self) -> bool:
        """Whether a thread waits for an event."""
        return self._waiter is not None

    def __len__(self) -> int:
        return len(self._inner)

    # --- on the consumer's thread

    def take(self) -> Any:
        """Remove and return the oldest event. Raises `IndexError` if there is none."""
        with self._lock:
            event = self._inner.take()
            self._after_take()
        return event

    def take_error(self) -> SlowConsumerError | None:
        """Return the error that follows the waiting events, once."""
        with self._lock:
            if len(self._inner):
                return None
            error, self._inner.error = self._inner.error, None
        return error

    def wait(self, timeout: float | None = None, count: int = 1) -> bool:
        """Wait until `count` events are there, no more are added, or `wake` is called; return False after the timeout.

        Raises: StateError: another thread already waits.
        """
        waiter = OneShotLock()
        with self._lock:
            if self._waiter is not None:
                raise StateError(
                    "another thread already waits for this iterator", hint="Give each thread its own listen()."
                )
            self._awaited = count
            self._waiter = waiter
        inner = self._inner
        try:
            if len(inner) >= count or inner.is_blocked or self.wakeup_pending:  # since the caller last checked
                return True
            return waiter.wait(timeout)
        finally:
            with self._lock:
                if self._waiter is waiter:
                    self._waiter = None

    # --- internal, with the lock held

    def _put_when_nearly_full(self, event: Any) -> None:
        """Add an event when at most one more fits; the last one that fits pauses reading."""
        inner = self._inner
        if len(inner) >= inner.limit and self._has_paused and self._grace_pause.pause_reading(self):
            inner.put_over_limit(event)  # it was already read when reading paused
            return
        inner.put(event)
        if len(inner) >= inner.limit and self._in_grace_pause and not self._has_paused and inner.error is None:
            self._has_paused = self._grace_pause.pause_reading(self)

    def _after_take(self) -> None:
        """Resume reading if there is room, and end the overflow episode if the buffer is empty."""
        inner = self._inner
        if self._has_paused and len(inner) <= inner.limit // 2:
            self._release()
        if self._resets_when_drained and inner.error is not None and not len(inner):
            inner.error = None

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.set()

    def _release(self) -> None:
        if self._has_paused:
            self._has_paused = False
            self._grace_pause.resume_reading(self)


class LeanThreadBuffer(ThreadBuffer):
    """A `ThreadBuffer` that uses no lock while there is room, because operations of `deque` are atomic.

    Only for policies that always add at one end and take at the other.
    """

    def __init__(self, inner: Buffer, grace_pause: ThreadFlowControl) -> None:
        super().__init__(inner, grace_pause)
        self._events = inner.events

    def put(self, event: Any) -> bool:
        """Add an event; return False if an event was dropped."""
        if len(self._events) >= self._nearly or self._inner.error is not None:
            return super().put(event)
        self._events.append(event)
        # Checked after appending; the consumer checks in the reverse order.
        if self._waiter is not None and len(self._events) >= self._awaited:
            with self._lock:
                self._wake()
        return True

    def take(self) -> Any:
        """Remove and return the oldest event. Raises `IndexError` if there is none."""
        event = self._events.popleft()
        if self._has_paused or self._inner.error is not None:
            with self._lock:
                self._after_take()
        return event


def make_thread_buffer(
    pauses: ReadPauses,
    buffer: int,
    overflow: str,
    key: Key | None = None,
    slow: Callable[[SlowConsumerError], None] | None = None,
) -> ThreadBuffer:
    """Return the buffer that `buffer=`, `overflow=` and `key=` describe, for a consumer on a thread.

    Raises: InvalidArgumentError.
    """
    inner = make_buffer(buffer, overflow, key, pauses.overflow_pause_of_thread, slow)
    kind = LeanThreadBuffer if type(inner) in (Buffer, DropNewest) else ThreadBuffer
    return kind(inner, pauses.grace_pause_of_thread())
