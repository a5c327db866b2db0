"""Who may stop the reading of the socket, and for how long (api §3, overflow="pause").

Reading stops while a buffer with that policy is full: for at most one heartbeat interval, and never while a request of
ours waits for its reply, since the reply would never be read. Then the valve is open, and a buffer that is still full
overflows as with "error".

What waits between the socket and a consumer: bounded, with a stated policy (R39).

`put` is the listener that the core calls: it costs an append. What happens to an event for which there is no room is
one method, `overflow`, and each policy is a class that has its own.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Final, Literal, cast

from supawire.errors import InvalidArgumentError, SlowConsumerError, StateError
from supawire.events import Broadcast, Change, Delete, Insert, LateBroadcast, Update, row_size, text_size
from supawire.options import check_choice, check_count, check_takes


class FlowControl:
    """The valve of one client.

    Args: patience: seconds that reading may stop. awaits_reply: whether a request waits. set_reading: stop or go on.
    """

    __slots__ = ("_awaits_reply", "_holders", "_patience", "_set_reading", "_timer")

    def __init__(self, patience: float, awaits_reply: Callable[[], bool], set_reading: Callable[[bool], None]) -> None:
        self._patience = patience
        self._awaits_reply = awaits_reply
        self._set_reading = set_reading
        self._holders: set[object] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def closed(self) -> bool:
        """Whether reading stands still."""
        return self._timer is not None

    def pause_reading(self, holder: object) -> bool:
        """Stop reading because this holder is full; False when that may not be (any longer)."""
        if holder in self._holders:
            return self.closed
        if self._awaits_reply():
            return False
        self._holders.add(holder)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._patience, self.open)
            self._set_reading(False)
        return True

    def resume_reading(self, holder: object) -> None:
        """This holder has room again, or is gone."""
        self._holders.discard(holder)
        if not self._holders:
            self.open()

    def check(self) -> None:
        """A request may have been sent since: then read on."""
        if self._timer is not None and self._awaits_reply():
            self.open()

    def open(self) -> None:
        """Read on. Holders that are still full stay known as such, and stop nothing until they have had room."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._set_reading(True)


class ThreadFlowControl:
    """The same valve for a buffer that is filled on the loop and emptied on a thread."""

    def __init__(self, flow_control: FlowControl, loop: asyncio.AbstractEventLoop) -> None:
        self._flow_control = flow_control
        self._loop = loop

    def pause_reading(self, holder: object) -> bool:
        """On the loop: see `FlowControl.hold`."""
        return self._flow_control.pause_reading(holder)

    def resume_reading(self, holder: object) -> None:
        """On any thread: see `FlowControl.release`."""
        try:
            self._loop.call_soon_threadsafe(self._flow_control.resume_reading, holder)
        except RuntimeError:
            return  # the loop was closed: nothing is read any more


MOST_BYTES: Final = 128_000_000
"""Bytes of large events that may wait for one consumer, besides the bound on their number."""

Overflow = Literal["error", "drop_oldest", "drop_newest", "latest", "pause"]
OVERFLOW: Final[tuple[Overflow, ...]] = ("error", "drop_oldest", "drop_newest", "latest", "pause")
Key = Callable[[Any], Hashable]


class Buffer:
    """Events for one consumer; with this policy, "error", the newest are dropped, and that is told once per episode.

    Filled on the event loop. An iterator is told by `error`, in its place among the events, so that nothing is taken
    until it has read that. For a handler there is `slow`, called at once, and what finds room is taken.
    """

    most_bytes: int = MOST_BYTES

    def __init__(self, limit: int, slow: Callable[[SlowConsumerError], None] | None = None) -> None:
        self.limit = limit
        self.dropped: int = 0
        self.error: SlowConsumerError | None = None
        """What the consumer gets after the events that are there."""
        self.events: deque[Any] = deque()
        """What waits; a consumer on a thread takes from it without a lock where the policy allows that."""
        self._waiter: asyncio.Future[None] | None = None
        self._slow = slow

    def put(self, event: Any) -> None:
        """Take an event; a listener of the core."""
        if len(self.events) >= self.limit:
            self.overflow(event)
            return
        if self.error is not None and self._slow is None:
            self.dropped += 1  # its place is behind the word that something was missed
            return
        self.events.append(event)
        if self._waiter is not None:
            self.wake()

    def overflow(self, event: Any) -> None:
        """There is no room for this event."""
        self._refuse(event, f"more than {self.limit} events")

    def _refuse(self, event: Any, what: str) -> None:
        self.dropped += 1
        if self.error is None:
            self.error = SlowConsumerError(
                f"{what} waited for a slow consumer",
                topic=getattr(event, "topic", None),
                hint="Do less per event, raise buffer=, or choose another overflow=.",
            )
            if self._slow is not None:
                self._slow(self.error)

    def weigh(self) -> None:
        """Drop what has too many bytes together, as the policy says; one event may have any number."""
        waiting = self._waiting()
        total = sum(map(weight, waiting))
        for _ in waiting[1:]:
            if total <= self.most_bytes:
                return
            total -= self._shed()

    def _waiting(self) -> list[Any]:
        return list(self.events)

    def _shed(self) -> int:
        """Drop one event for its bytes, and give their number."""
        try:
            event = self.events.pop()
        except IndexError:  # its consumer is on another thread, and was quicker
            return 0
        self._refuse(event, f"events of more than {self.most_bytes} bytes")
        return weight(event)

    def put_over_limit(self, event: Any) -> None:
        """Take an event for which there is no room; for a moment in which the consumer is about to make some."""
        self.events.append(event)

    @property
    def resets_when_drained(self) -> bool:
        """Whether an episode of overflow is over when the consumer has caught up; else when it has read the error."""
        return self._slow is not None

    def take(self) -> Any:
        """The oldest event. Raises `IndexError` when there is none."""
        return self.events.popleft()

    async def wait(self) -> None:
        """Wait for an event, or to be woken up; for one consumer at a time. Raises `StateError` for a second one."""
        if self._waiter is not None:
            raise StateError("another task waits on this iterator already", hint="Give each task its own listen().")
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            if self._waiter is waiter:
                self._waiter = None

    def wake(self) -> None:
        """Let a consumer that waits look again."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def close(self) -> None:
        """The consumer is gone."""
        self.events.clear()

    def __len__(self) -> int:
        return len(self.events)

    def drop(self) -> None:
        """Count an event that the consumer will not get."""
        self.dropped += 1


class DropOldest(Buffer):
    """Keeps the newest events."""

    def overflow(self, event: Any) -> None:
        """Drop the oldest for this one."""
        self.drop()
        self.events.popleft()
        self.events.append(event)

    def _shed(self) -> int:
        self.drop()
        return weight(self.events.popleft())


class DropNewest(Buffer):
    """Keeps the oldest events."""

    def overflow(self, event: Any) -> None:
        """Drop this one."""
        self.drop()

    def _shed(self) -> int:
        try:
            event = self.events.pop()
        except IndexError:
            return 0
        self.drop()
        return weight(event)


class Latest(Buffer):
    """Keeps the newest event of each key, in the order in which the keys came."""

    def __init__(self, limit: int, key: Key) -> None:
        super().__init__(limit)
        self._key = key
        self._by_key: dict[Hashable, Any] = {}

    def put(self, event: Any) -> None:
        """Take an event in the place of an older one of its key; with too many keys, the oldest key goes."""
        key = self._key(event)
        if key in self._by_key:
            self.drop()
        elif len(self._by_key) >= self.limit:
            self.drop()
            del self._by_key[next(iter(self._by_key))]
        self._by_key[key] = event
        if self._waiter is not None:
            self.wake()

    def take(self) -> Any:
        """The event of the oldest key."""
        if not self._by_key:
            raise IndexError("no event")
        return self._by_key.pop(next(iter(self._by_key)))

    def _waiting(self) -> list[Any]:
        return list(self._by_key.values())

    def _shed(self) -> int:
        self.drop()
        return weight(self._by_key.pop(next(iter(self._by_key))))

    def close(self) -> None:
        """The consumer is gone."""
        self._by_key.clear()

    def __len__(self) -> int:
        return len(self._by_key)


class Pause(Buffer):
    """Stops the reading of the socket while it is full; then as "error"."""

    def __init__(
        self,
        limit: int,
        flow_control: FlowControl | ThreadFlowControl,
        slow: Callable[[SlowConsumerError], None] | None = None,
    ) -> None:
        super().__init__(limit, slow)
        self._flow_control = flow_control
        self._holds = False

    def put(self, event: Any) -> None:
        """Take an event, and stop reading with the last one that fits."""
        super().put(event)
        if len(self.events) >= self.limit and not self._holds:
            self._holds = self._flow_control.pause_reading(self)

    def overflow(self, event: Any) -> None:
        """Keep what comes of the frame that was being read when reading stopped; else as "error"."""
        if self.error is None and self._flow_control.pause_reading(self):
            self._holds = True
            self.events.append(event)
        else:
            super().overflow(event)

    def _shed(self) -> int:
        """Stop reading, and drop nothing as long as that may be."""
        if self.error is None and self._flow_control.pause_reading(self):
            self._holds = True
            return 0
        return super()._shed()

    def take(self) -> Any:
        """The oldest event; reading goes on when half of the room is free."""
        event = super().take()
        if self._holds and len(self.events) <= self.limit // 2:
            self._release()
        return event

    def close(self) -> None:
        """The consumer is gone."""
        super().close()
        self._release()

    def _release(self) -> None:
        self._holds = False
        self._flow_control.resume_reading(self)


def weight(event: Any) -> int:
    """Bytes of the frame that an event keeps; 0 for one whose values were made already, as a large one's are not."""
    if isinstance(event, LateBroadcast):
        return text_size(cast("LateBroadcast[Any]", event))
    if isinstance(event, Insert | Update | Delete):
        return row_size(cast("Change[Any]", event))
    payload = cast("Broadcast[Any]", event).payload if isinstance(event, Broadcast) else None
    return len(payload) if isinstance(payload, bytes) else 0


def make_buffer(
    buffer: int,
    overflow: str,
    key: Key | None,
    flow_control: Callable[[], FlowControl | ThreadFlowControl],
    slow: Callable[[SlowConsumerError], None] | None = None,
) -> Buffer:
    """The buffer that `buffer=`, `overflow=` and `key=` describe. Raises `InvalidArgumentError`."""
    limit = check_count("buffer", buffer)
    policy = check_choice("overflow", overflow, OVERFLOW)
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
