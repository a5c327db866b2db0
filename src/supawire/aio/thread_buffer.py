"""How a thread waits for the event loop, and what it may not do any more when the interpreter ends.

Presence for listeners on threads: the state is taken where it changes.

`PresenceSync.state` is taken when it is first read, from what the core holds at that moment. Everything else that an
event has is its own, and may be read anywhere.

What is filled on the event loop and emptied on a thread: a buffer with a lock, and a gate to wait at.

The two threads share one interpreter, and the loop has it: between two batches it lets go of it for less time than a
thread needs to wake up, and a burst would overflow a consumer that is fast but never had its turn. So a buffer that is
full first asks for a *courtesy*: reading stops for a moment, in which a fast consumer makes room. Only one that does
not is slow, and gets what its policy says. The moment is short, so that one that blocks delays nobody.

A consumer that waits is woken by the first event of a batch: one release of a lock, not one for each event.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from supawire.aio.buffers import Buffer, DropNewest, Key, Latest, Pause, ThreadFlowControl, make_buffer
from supawire.errors import SlowConsumerError, StateError
from supawire.events import PresenceSync
from supawire.selectors import PresenceSelector, Selector

if TYPE_CHECKING:
    from supawire.aio.driver import Driver


SLICE: Final = 1.0
"""Seconds of one wait. A signal that comes just before the system begins to wait is heard only when that ends: CPython
looks for signals between two bytecodes, and a lock is waited for within one."""


def locked_gate() -> threading.Lock:
    """A lock that is taken; whoever is waited for releases it, from any thread."""
    gate = threading.Lock()
    gate.acquire()
    return gate


def wait_at_gate(gate: threading.Lock, timeout: float | None = None) -> bool:
    """Wait until the lock is released; False when that takes more than so many seconds. Ctrl-C ends it."""
    if timeout is None:
        while not gate.acquire(timeout=SLICE):
            pass
        return True
    deadline = time.monotonic() + timeout
    while not gate.acquire(timeout=max(0.0, min(SLICE, deadline - time.monotonic()))):
        if time.monotonic() >= deadline:
            return False
    return True


def is_shutdown_error(error: Exception) -> bool:
    """Whether it is only that no thread can be started any more, since the interpreter ends; then nobody is told."""
    return isinstance(error, RuntimeError) and "interpreter shutdown" in str(error)


T = TypeVar("T")

_LOOK_AGAIN: Final = 0.1


def make_thread_safe(
    selectors: Iterable[Selector[Any]], put: Callable[[Any], object], loop: asyncio.AbstractEventLoop
) -> Callable[[Any], None]:
    """The same `put`, from which a thread may read any event of these selectors."""

    def put_safely(event: Any) -> None:
        if type(event) is PresenceSync:
            put(PresenceSync(event.topic, lambda: _fetch(lambda: event.state, loop)))
        else:
            put(event)

    has_presence = any(isinstance(selector, PresenceSelector) for selector in selectors)
    return put_safely if has_presence else cast("Callable[[Any], None]", put)  # what it returns is not looked at


def _fetch(function: Callable[[], T], loop: asyncio.AbstractEventLoop) -> T:
    """What the function returns on the event loop; when that has ended nothing changes any more, so here."""
    got: list[T] = []
    here = threading.Event()

    def call() -> None:
        got.append(function())
        here.set()

    try:
        if asyncio.get_running_loop() is loop:
            return function()
    except RuntimeError:
        pass  # no loop runs here
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        return function()
    while not here.wait(_LOOK_AGAIN):
        if loop.is_closed():
            return function()
    return got[0]


GRACE_PERIOD: Final = 0.05
"""Seconds in which a consumer on a thread may make room before its buffer counts as full."""


class ThreadBuffer:
    """A buffer between the event loop, which puts, and one thread at a time, which takes.

    Args: inner: the buffer with its policy. courtesy: the valve that stops reading for a moment.
    """

    def __init__(self, inner: Buffer, grace_pause: ThreadFlowControl) -> None:
        self._inner = inner
        self._grace_pause = grace_pause
        self._in_grace_pause = not isinstance(inner, Latest | Pause)  # they make room, or stop reading, by themselves
        self._nearly = inner.limit - 1
        self._resets_when_drained = inner.resets_when_drained
        self._held = False
        self._lock = threading.Lock()
        self._gate: threading.Lock | None = None
        self.limit: int = inner.limit
        self.wakeup_pending: bool = True
        """Somebody shall look whether anything more can come, before the next wait."""

    # --- on the event loop

    def put(self, event: Any) -> bool:
        """Take an event; whether one more waits now."""
        inner = self._inner
        with self._lock:
            dropped = inner.dropped
            if len(inner) < self._nearly:
                inner.put(event)
            else:
                self._put_tightly(event)
            if self._gate is not None:
                self._open_gate()
            return inner.dropped == dropped  # not its length, which the consumer changes meanwhile

    def wake(self) -> None:
        """Let a consumer that waits, or is about to, look again."""
        with self._lock:
            self.wakeup_pending = True
            self._open_gate()

    def weigh(self) -> None:
        """See `Buffer.weigh`."""
        with self._lock:
            self._inner.weigh()
            if self._gate is not None:
                self._open_gate()

    def close(self) -> None:
        """The consumer is gone."""
        with self._lock:
            self._inner.close()
            self._release()

    # --- on any thread

    @property
    def dropped(self) -> int:
        """How many events had no room."""
        return self._inner.dropped

    def __len__(self) -> int:
        return len(self._inner)

    # --- on the consumer's thread

    def take(self) -> Any:
        """The oldest event. Raises `IndexError` when there is none."""
        with self._lock:
            event = self._inner.take()
            self._make_good()
        return event

    def take_error(self) -> SlowConsumerError | None:
        """What comes after the events that are there; once."""
        with self._lock:
            if len(self._inner):
                return None
            error, self._inner.error = self._inner.error, None
        return error

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for an event, or to be woken up; False when the time is over.

        Raises: StateError: another thread waits already.
        """
        gate = locked_gate()
        with self._lock:
            if self._gate is not None:
                raise StateError("another thread waits on this iterator", hint="Give each thread its own listen().")
            self._gate = gate
        try:
            if len(self._inner) or self.wakeup_pending:  # it came between the last look and now
                return True
            return wait_at_gate(gate, timeout)
        finally:
            with self._lock:
                if self._gate is gate:
                    self._gate = None

    # --- inside, with the lock held

    def _put_tightly(self, event: Any) -> None:
        """Take the last event that fits, or one more; reading stops with the last one."""
        inner = self._inner
        if len(inner) >= inner.limit and self._held and self._grace_pause.pause_reading(self):
            inner.put_over_limit(event)  # it came with what was being read when reading stopped
            return
        inner.put(event)
        if len(inner) >= inner.limit and self._in_grace_pause and not self._held and inner.error is None:
            self._held = self._grace_pause.pause_reading(self)

    def _make_good(self) -> None:
        """The consumer has made room, or even caught up."""
        inner = self._inner
        if self._held and len(inner) <= inner.limit // 2:
            self._release()
        if self._resets_when_drained and inner.error is not None and not len(inner):
            inner.error = None

    def _open_gate(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.release()

    def _release(self) -> None:
        if self._held:
            self._held = False
            self._grace_pause.resume_reading(self)


class LeanThreadBuffer(ThreadBuffer):
    """The same without a lock, as long as there is room: `deque` needs none.

    For policies that only ever add at one end and take at the other.
    """

    def __init__(self, inner: Buffer, grace_pause: ThreadFlowControl) -> None:
        super().__init__(inner, grace_pause)
        self._events = inner.events

    def put(self, event: Any) -> bool:
        """Take an event; whether one more waits now."""
        if len(self._events) >= self._nearly or self._inner.error is not None:
            return super().put(event)
        self._events.append(event)
        if self._gate is not None:  # looked at after the event is there; who waits looks at both the other way round
            with self._lock:
                self._open_gate()
        return True

    def take(self) -> Any:
        """The oldest event. Raises `IndexError` when there is none."""
        event = self._events.popleft()
        if self._held or self._inner.error is not None:
            with self._lock:
                self._make_good()
        return event


def make_thread_buffer(
    driver: "Driver",
    buffer: int,
    overflow: str,
    key: Key | None = None,
    slow: Callable[[SlowConsumerError], None] | None = None,
) -> ThreadBuffer:
    """The buffer that `buffer=`, `overflow=` and `key=` describe, for a consumer on a thread.

    Raises: InvalidArgumentError.
    """
    inner = make_buffer(buffer, overflow, key, lambda: ThreadFlowControl(driver.flow_control(), driver.loop), slow)
    kind = LeanThreadBuffer if type(inner) in (Buffer, DropNewest) else ThreadBuffer
    return kind(inner, ThreadFlowControl(driver.grace_pause, driver.loop))
