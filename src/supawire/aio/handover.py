"""What is filled on the event loop and emptied on a thread: a buffer with a lock, and a gate to wait at.

The two threads share one interpreter, and the loop has it: between two batches it lets go of it for less time than a
thread needs to wake up, and a burst would overflow a consumer that is fast but never had its turn. So a buffer that is
full first asks for a *courtesy*: reading stops for a moment, in which a fast consumer makes room. Only one that does
not is slow, and gets what its policy says. The moment is short, so that one that blocks delays nobody.

A consumer that waits is woken by the first event of a batch: one release of a lock, not one for each event.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from supawire.aio.buffers import Buffer, DropNewest, Key, Latest, Pause, make_buffer
from supawire.aio.gates import closed_gate, pass_gate
from supawire.aio.valve import ThreadValve
from supawire.errors import SlowConsumerError, StateError

if TYPE_CHECKING:
    from supawire.aio.driver import Driver

COURTESY: Final = 0.05
"""Seconds in which a consumer on a thread may make room before its buffer counts as full."""


class Handover:
    """A buffer between the event loop, which puts, and one thread at a time, which takes.

    Args: inner: the buffer with its policy. courtesy: the valve that stops reading for a moment.
    """

    def __init__(self, inner: Buffer, courtesy: ThreadValve) -> None:
        self._inner = inner
        self._courtesy = courtesy
        self._courteous = not isinstance(inner, Latest | Pause)  # they make room, or stop reading, by themselves
        self._nearly = inner.limit - 1
        self._forgives = inner.forgives
        self._held = False
        self._lock = threading.Lock()
        self._gate: threading.Lock | None = None
        self.limit: int = inner.limit
        self.roused: bool = True
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
            self.roused = True
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

    def trouble(self) -> SlowConsumerError | None:
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
        gate = closed_gate()
        with self._lock:
            if self._gate is not None:
                raise StateError("another thread waits on this iterator", hint="Give each thread its own listen().")
            self._gate = gate
        try:
            if len(self._inner) or self.roused:  # it came between the last look and now
                return True
            return pass_gate(gate, timeout)
        finally:
            with self._lock:
                if self._gate is gate:
                    self._gate = None

    # --- inside, with the lock held

    def _put_tightly(self, event: Any) -> None:
        """Take the last event that fits, or one more; reading stops with the last one."""
        inner = self._inner
        if len(inner) >= inner.limit and self._held and self._courtesy.hold(self):
            inner.squeeze(event)  # it came with what was being read when reading stopped
            return
        inner.put(event)
        if len(inner) >= inner.limit and self._courteous and not self._held and inner.error is None:
            self._held = self._courtesy.hold(self)

    def _make_good(self) -> None:
        """The consumer has made room, or even caught up."""
        inner = self._inner
        if self._held and len(inner) <= inner.limit // 2:
            self._release()
        if self._forgives and inner.error is not None and not len(inner):
            inner.error = None

    def _open_gate(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.release()

    def _release(self) -> None:
        if self._held:
            self._held = False
            self._courtesy.release(self)


class LeanHandover(Handover):
    """The same without a lock, as long as there is room: `deque` needs none.

    For policies that only ever add at one end and take at the other.
    """

    def __init__(self, inner: Buffer, courtesy: ThreadValve) -> None:
        super().__init__(inner, courtesy)
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


def make_handover(
    driver: "Driver",
    buffer: int,
    overflow: str,
    key: Key | None = None,
    slow: Callable[[SlowConsumerError], None] | None = None,
) -> Handover:
    """The buffer that `buffer=`, `overflow=` and `key=` describe, for a consumer on a thread.

    Raises: InvalidArgumentError.
    """
    inner = make_buffer(buffer, overflow, key, lambda: ThreadValve(driver.valve(), driver.loop), slow)
    kind = LeanHandover if type(inner) in (Buffer, DropNewest) else Handover
    return kind(inner, ThreadValve(driver.courtesy, driver.loop))
