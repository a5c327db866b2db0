"""Bounded buffers between the socket and a consumer, and the flow control of overflow="pause".

`Buffer.put` is the listener that the core calls; while there is room it only appends. An event that does not fit goes
to the method `overflow`, which each policy class overrides.

`FlowControl` pauses reading the socket while a buffer with overflow="pause" is full: for at most one heartbeat
interval, and never while a request of ours waits for its reply, because the reply would not be read. After that reading
goes on, and a buffer that is still full overflows as with "error".
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Final, Literal, cast

from supawire.errors import InvalidArgumentError, SlowConsumerError, StateError
from supawire.events import Broadcast, Change, Delete, Insert, LateBroadcast, Update, row_size, text_size
from supawire.options import check_choice, check_count, check_takes


class FlowControl:
    """Pauses and resumes reading for the buffers of one client.

    Args: longest: the most seconds of one pause. awaits_reply: returns whether a request waits for a reply.
    set_reading: called with False to pause reading, with True to resume it.
    """

    __slots__ = ("_awaits_reply", "_holders", "_longest", "_set_reading", "_timer")

    def __init__(self, longest: float, awaits_reply: Callable[[], bool], set_reading: Callable[[bool], None]) -> None:
        self._longest = longest
        self._awaits_reply = awaits_reply
        self._set_reading = set_reading
        self._holders: set[object] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def paused(self) -> bool:
        """Whether reading is paused."""
        return self._timer is not None

    def pause_reading(self, holder: object) -> bool:
        """Pause reading because this holder is full; return False if reading may not pause (any longer)."""
        if holder in self._holders:
            return self.paused
        if self._awaits_reply():
            return False
        self._holders.add(holder)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._longest, self.resume)
            self._set_reading(False)
        return True

    def resume_reading(self, holder: object) -> None:
        """Withdraw the pause of this holder, which has room again or is gone."""
        self._holders.discard(holder)
        if not self._holders:
            self.resume()

    def check(self) -> None:
        """Resume reading if a request has been sent since the pause began."""
        if self._timer is not None and self._awaits_reply():
            self.resume()

    def resume(self) -> None:
        """Resume reading. Holders that are still full stay registered, and cannot pause again until they had room."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._set_reading(True)


class ThreadFlowControl:
    """The same flow control for a buffer that is filled on the event loop and emptied on a thread."""

    def __init__(self, flow_control: FlowControl, loop: asyncio.AbstractEventLoop) -> None:
        self._flow_control = flow_control
        self._loop = loop

    def pause_reading(self, holder: object) -> bool:
        """Call `FlowControl.pause_reading`; on the event loop only."""
        return self._flow_control.pause_reading(holder)

    def resume_reading(self, holder: object) -> None:
        """Call `FlowControl.resume_reading` on the event loop; from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._flow_control.resume_reading, holder)
        except RuntimeError:
            return  # the loop is closed, so nothing is read


GRACE_PERIOD: Final = 0.05
"""Seconds in which a consumer on a thread may make room before its overflow policy applies."""


class ReadPauses:
    """The two flow controls of one client, created on first use.

    Args: longest: the most seconds of a pause for overflow="pause". awaits_reply: returns whether a request waits for a
    reply. set_reading: called with False to pause reading, with True to resume it, and the reason.
    """

    __slots__ = ("_awaits_reply", "_grace_pause", "_longest", "_loop", "_overflow_pause", "_set_reading")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        longest: float,
        awaits_reply: Callable[[], bool],
        set_reading: Callable[[bool, str], None],
    ) -> None:
        self._loop = loop
        self._longest = longest
        self._awaits_reply = awaits_reply
        self._set_reading = set_reading
        self._overflow_pause: FlowControl | None = None
        self._grace_pause: FlowControl | None = None

    @property
    def paused(self) -> bool:
        """Whether reading is paused for overflow="pause"."""
        return self._overflow_pause is not None and self._overflow_pause.paused

    def overflow_pause(self) -> FlowControl:
        """Return the flow control for buffers with overflow="pause"."""
        if self._overflow_pause is None:
            self._overflow_pause = FlowControl(
                self._longest, self._awaits_reply, lambda reads: self._set_reading(reads, "flow_control")
            )
        return self._overflow_pause

    def overflow_pause_of_thread(self) -> ThreadFlowControl:
        """Return the same for a buffer that is emptied on a thread."""
        return ThreadFlowControl(self.overflow_pause(), self._loop)

    def grace_pause_of_thread(self) -> ThreadFlowControl:
        """Return the flow control that pauses reading briefly so that a consumer thread can empty its buffer."""
        if self._grace_pause is None:
            self._grace_pause = FlowControl(
                GRACE_PERIOD, lambda: False, lambda reads: self._set_reading(reads, "grace_pause")
            )
        return ThreadFlowControl(self._grace_pause, self._loop)

    def check(self) -> None:
        """Resume reading if a request has been sent since the pause began."""
        if self._overflow_pause is not None:
            self._overflow_pause.check()

    def end(self) -> None:
        """Resume reading, because the client ends."""
        for pause in (self._overflow_pause, self._grace_pause):
            if pause is not None:
                pause.resume()


MAX_BYTES: Final = 128_000_000
"""The most bytes of large events that may wait for one consumer, besides the limit on their number."""

Overflow = Literal["error", "drop_oldest", "drop_newest", "latest", "pause"]
OVERFLOW: Final[tuple[Overflow, ...]] = ("error", "drop_oldest", "drop_newest", "latest", "pause")
Key = Callable[[Any], Hashable]


class Buffer:
    """Events for one consumer, with the policy "error": the newest are dropped, and one error is raised per episode.

    It is filled on the event loop. An iterator raises `error` after the events that were waiting, and further events
    are dropped until then. A handler has a `slow` callback instead, called at once, and later events are kept if they
    fit.
    """

    max_bytes: int = MAX_BYTES

    def __init__(self, limit: int, slow: Callable[[SlowConsumerError], None] | None = None) -> None:
        self.limit = limit
        self.dropped: int = 0
        self.error: SlowConsumerError | None = None
        """The error to be raised after the waiting events."""
        self.events: deque[Any] = deque()
        """The waiting events; where the policy allows it, a thread takes from this deque without a lock."""
        self._waiter: asyncio.Future[None] | None = None
        self._awaited = 1
        """How many events the waiting consumer waits for."""
        self.wakeup_pending: bool = False
        """Whether `wake` was called since the consumer last checked its source for the end."""
        self._slow = slow

    def put(self, event: Any) -> None:
        """Add an event; a listener of the core."""
        if len(self.events) >= self.limit:
            self.overflow(event)
            return
        if self.error is not None and self._slow is None:
            self.dropped += 1  # events after the error are dropped until it has been raised
            return
        self.events.append(event)
        if self._waiter is not None and len(self.events) >= self._awaited:
            self._wake()

    def overflow(self, event: Any) -> None:
        """Handle an event that does not fit."""
        self._drop_with_error(event, f"more than {self.limit} events")

    def _drop_with_error(self, event: Any, what: str) -> None:
        self.dropped += 1
        if self.error is None:
            self.error = SlowConsumerError(
                f"{what} waited for a slow consumer",
                topic=getattr(event, "topic", None),
                hint="Do less per event, raise buffer=, or choose another overflow=.",
            )
            if self._slow is not None:
                self._slow(self.error)

    def limit_bytes(self) -> bool:
        """Drop events by the policy while they have too many bytes together; a single event may have any size.

        Return whether they had too many. A consumer that waits for further events is woken then.
        """
        waiting = self._waiting()
        total = sum(map(kept_bytes, waiting))
        exceeded = total > self.max_bytes
        for _ in waiting[1:]:
            if total <= self.max_bytes:
                break
            total -= self._drop_one()
        if exceeded:
            self._wake()
        return exceeded

    def _waiting(self) -> list[Any]:
        return list(self.events)

    def _drop_one(self) -> int:
        """Drop one event because of its size, and return its bytes."""
        try:
            event = self.events.pop()
        except IndexError:  # the consumer, on another thread, took it first
            return 0
        self._drop_with_error(event, f"events of more than {self.max_bytes} bytes")
        return kept_bytes(event)

    def put_over_limit(self, event: Any) -> None:
        """Add an event beyond the limit; used during a grace pause, in which the consumer is expected to make room."""
        self.events.append(event)

    @property
    def resets_when_drained(self) -> bool:
        """Whether an overflow episode ends when the buffer is empty; otherwise it ends when the error was raised."""
        return self._slow is not None

    @property
    def is_blocked(self) -> bool:
        """Whether no further events are added until waiting ones were taken or the error was raised."""
        return self.error is not None

    def take(self) -> Any:
        """Remove and return the oldest event. Raises `IndexError` if there is none."""
        return self.events.popleft()

    async def wait(self, count: int = 1) -> None:
        """Wait until `count` events are there, or for `wake`. Raises `StateError` if another consumer already waits."""
        if self._waiter is not None:
            raise StateError("another task already waits for this iterator", hint="Give each task its own listen().")
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        self._awaited = count
        try:
            await waiter
        finally:
            if self._waiter is waiter:
                self._waiter = None

    def wake(self) -> None:
        """Wake a waiting consumer, so that it checks its source for the end."""
        self.wakeup_pending = True
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def close(self) -> None:
        """Drop all events, because the consumer is gone."""
        self.events.clear()

    def __len__(self) -> int:
        return len(self.events)

    def drop(self) -> None:
        """Count a dropped event."""
        self.dropped += 1


class DropOldest(Buffer):
    """Keeps the newest events."""

    def overflow(self, event: Any) -> None:
        """Replace the oldest event by this one."""
        self.drop()
        self.events.popleft()
        self.events.append(event)

    def _drop_one(self) -> int:
        self.drop()
        return kept_bytes(self.events.popleft())


class DropNewest(Buffer):
    """Keeps the oldest events."""

    def overflow(self, event: Any) -> None:
        """Drop this event."""
        self.drop()

    def _drop_one(self) -> int:
        try:
            event = self.events.pop()
        except IndexError:
            return 0
        self.drop()
        return kept_bytes(event)


class Latest(Buffer):
    """Keeps the newest event of each key, in the order in which the keys first arrived."""

    def __init__(self, limit: int, key: Key) -> None:
        super().__init__(limit)
        self._key = key
        self._by_key: dict[Hashable, Any] = {}

    def put(self, event: Any) -> None:
        """Add an event, replacing an older one with the same key; if there are too many keys, drop the oldest."""
        key = self._key(event)
        if key in self._by_key:
            self.drop()
        elif len(self._by_key) >= self.limit:
            self.drop()
            del self._by_key[next(iter(self._by_key))]
        self._by_key[key] = event
        if self._waiter is not None and len(self._by_key) >= self._awaited:
            self._wake()

    def take(self) -> Any:
        """Remove and return the event of the oldest key. Raises `IndexError` if there is none."""
        if not self._by_key:
            raise IndexError("no event")
        return self._by_key.pop(next(iter(self._by_key)))

    def _waiting(self) -> list[Any]:
        return list(self._by_key.values())

    def _drop_one(self) -> int:
        self.drop()
        return kept_bytes(self._by_key.pop(next(iter(self._by_key))))

    def close(self) -> None:
        """Drop all events, because the consumer is gone."""
        self._by_key.clear()

    def __len__(self) -> int:
        return len(self._by_key)


class Pause(Buffer):
    """Pauses reading the socket while it is full, as long as flow control allows; then it behaves as "error"."""

    def __init__(
        self,
        limit: int,
        flow_control: FlowControl | ThreadFlowControl,
        slow: Callable[[SlowConsumerError], None] | None = None,
    ) -> None:
        super().__init__(limit, slow)
        self._flow_control = flow_control
        self._has_paused = False

    def put(self, event: Any) -> None:
        """Add an event, and pause reading with the last one that fits."""
        super().put(event)
        if len(self.events) >= self.limit and not self._has_paused:
            self._has_paused = self._flow_control.pause_reading(self)

    def overflow(self, event: Any) -> None:
        """Keep events of frames that were already read when reading paused; otherwise behave as "error"."""
        if self.error is None and self._flow_control.pause_reading(self):
            self._has_paused = True
            self.events.append(event)
        else:
            super().overflow(event)

    def _drop_one(self) -> int:
        """Pause reading instead of dropping an event, as long as that is allowed."""
        if self.error is None and self._flow_control.pause_reading(self):
            self._has_paused = True
            return 0
        return super()._drop_one()

    @property
    def is_blocked(self) -> bool:
        """Whether an error is to be raised, or reading is paused until there is room."""
        return self.error is not None or self._has_paused

    def take(self) -> Any:
        """Remove and return the oldest event; reading resumes when the buffer is half empty."""
        event = super().take()
        if self._has_paused and len(self.events) <= self.limit // 2:
            self._release()
        return event

    def close(self) -> None:
        """Drop all events and resume reading, because the consumer is gone."""
        super().close()
        self._release()

    def _release(self) -> None:
        self._has_paused = False
        self._flow_control.resume_reading(self)


def kept_bytes(event: Any) -> int:
    """Return the bytes of the frame that an event keeps in memory; 0 if its values were decoded on arrival."""
    if isinstance(event, LateBroadcast):
        return text_size(cast("LateBroadcast[Any]", event))
    if isinstance(event, Insert | Update | Delete):
        return row_size(cast("Change[Any]", event))
    payload = cast("Broadcast[Any]", event).payload if isinstance(event, Broadcast) else None
    return len(payload) if isinstance(payload, bytes) else 0


def check_buffer(buffer: int, overflow: str) -> tuple[int, Overflow]:
    """Check the arguments `buffer=` and `overflow=`, and return them. Raises `InvalidArgumentError`."""
    return check_count("buffer", buffer), check_choice("overflow", overflow, OVERFLOW)


def make_buffer(
    buffer: int,
    overflow: str,
    key: Key | None,
    flow_control: Callable[[], FlowControl | ThreadFlowControl],
    slow: Callable[[SlowConsumerError], None] | None = None,
) -> Buffer:
    """Return the buffer that `buffer=`, `overflow=` and `key=` describe. Raises `InvalidArgumentError`."""
    limit, policy = check_buffer(buffer, overflow)
    if policy == "latest":
        if key is None:
            raise InvalidArgumentError("overflow='latest' keeps the newest event per key(event); give key=")
        return Latest(limit, check_takes("key", key, 1, "a function of one event"))
    if key is not None:
        raise InvalidArgumentError(f"key= belongs to overflow='latest', not to {policy!r}")
    match policy:
        case "drop_oldest":
            return DropOldest(limit)
        case "drop_newest":
            return DropNewest(limit)
        case "pause":
            return Pause(limit, flow_control(), slow)
        case _:
            return Buffer(limit, slow)
