"""One connected browser: the messages that wait for it, and what happens when it reads too slowly.

Nothing here waits: `put` adds a message and calls `wake`, and the shell takes the messages with `take`.
"""

from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Final, Literal

from supawire.asgi.messages import Item, encode, gap

RelayOverflow = Literal["error", "drop_oldest", "drop_newest", "latest"]
RELAY_OVERFLOW: Final[tuple[RelayOverflow, ...]] = ("error", "drop_oldest", "drop_newest", "latest")

SLOW: Final = "slow"
FAILED: Final = "failed"
SHUTDOWN: Final = "shutdown"
POLICY: Final = "policy"
GONE: Final = "gone"
"""Why a browser is disconnected: it does not read; a topic has ended; the server stops; it has sent what it may not; it
has left by itself."""

ANSWERS: Final = ("sent", "refused")
"""The names of answers to messages of a browser."""


class Viewer:
    """A browser and its bounded buffer.

    Args: limit: the most messages that wait. max_bytes: the most bytes of their JSON, except that one message may have
    any size. overflow: what happens to further ones; "error": disconnect. key: for "latest", a function of the event.
    heartbeat: seconds without a message after which a heartbeat is due. send_timeout: seconds that one write may take.
    wake: called when there is something to take. cut: called when the browser is to be disconnected at once.
    """

    __slots__ = (
        "_cut", "_heartbeat", "_key", "_keyed", "_limit", "_max_bytes", "_overflow", "_queue", "_send_timeout", "_size",
        "_wake", "dropped", "ended", "heartbeat_due", "last_number", "last_sent_at", "lost_topics", "resync",
        "writing_since",
    )  # fmt: skip

    def __init__(
        self,
        *,
        limit: int,
        max_bytes: int,
        overflow: RelayOverflow,
        key: Callable[[Any], Hashable] | None,
        heartbeat: float,
        send_timeout: float,
        wake: Callable[[], None],
        cut: Callable[[], None],
        now: float,
    ) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._overflow: RelayOverflow = overflow
        self._key = key
        self._heartbeat = heartbeat
        self._send_timeout = send_timeout
        self._wake = wake
        self._cut = cut
        self._queue: deque[Item] = deque()
        self._keyed: dict[Hashable, Item] = {}
        self._size = 0
        self.dropped: int = 0
        """Messages that were dropped, without those that "latest" replaced."""
        self.ended: str | None = None
        """Why it is to be disconnected."""
        self.heartbeat_due: bool = False
        self.last_number: int = 0
        """The number of the newest message that was offered to it."""
        self.last_sent_at: float = now
        self.writing_since: float | None = None
        self.lost_topics: dict[str, frozenset[str]] = {}
        """Topics of dropped messages, with the kinds of events; reported as gaps with the next messages."""
        self.resync: set[str] = set()
        """Topics whose presence state has to be sent again when the buffer is empty."""

    def __len__(self) -> int:
        return len(self._keyed) if self._overflow == "latest" else len(self._queue)

    @property
    def waits(self) -> bool:
        """Whether there is something to send."""
        return bool(self._queue or self._keyed or self.lost_topics or self.resync or self.heartbeat_due)

    def put(self, item: Item) -> None:
        """Add a message, within the limits."""
        if self.ended is not None:
            return
        if self._overflow == "latest":
            self._put_latest(item)
        elif not self._is_full(item):
            self._queue.append(item)
            self._size += item.size
        elif self._overflow == "error":
            self.dropped += len(self._queue) + 1
            self.end(SLOW, at_once=True)
            return
        elif self._overflow == "drop_newest":
            self._drop(item)
        else:
            while self._queue and self._is_full(item):
                oldest = self._queue.popleft()
                self._size -= oldest.size
                self._drop(oldest)
            self._queue.append(item)
            self._size += item.size
        self._wake()

    def _is_full(self, item: Item) -> bool:
        count = len(self)
        return count >= self._limit or (count > 0 and self._size + item.size > self._max_bytes)

    def _put_latest(self, item: Item) -> None:
        key: Hashable = item if self._key is None or item.source is None else self._key(item.source)
        replaced = self._keyed.pop(key, None)
        if replaced is not None:
            self._size -= replaced.size
        while self._keyed and self._is_full(item):
            oldest = self._keyed.pop(next(iter(self._keyed)))
            self._size -= oldest.size
            self._drop(oldest)
        self._keyed[key] = item
        self._size += item.size

    def _drop(self, item: Item) -> None:
        self.dropped += 1
        if item.name in ANSWERS:
            return  # it has a topic that the browser has written, and is not an event
        kinds = item.lost or _KINDS.get(item.name, frozenset())
        self.lost_topics[item.topic] = self.lost_topics.get(item.topic, frozenset()) | kinds

    def take(self, max_bytes: int) -> list[Item]:
        """Remove and return the oldest messages, at least one and together about `max_bytes` at most.

        A gap for each topic of which messages were dropped comes first.
        """
        taken = [
            Item("gap", topic, encode(gap(topic, "the browser was too slow", lost=kinds)[1]), lost=kinds)
            for topic, kinds in self.lost_topics.items()
        ]
        self.resync.update(topic for topic, kinds in self.lost_topics.items() if "presence" in kinds)
        self.lost_topics.clear()
        size = 0
        while (self._queue or self._keyed) and (size < max_bytes or not taken):
            item = self._keyed.pop(next(iter(self._keyed))) if self._keyed else self._queue.popleft()
            self._size -= item.size
            size += item.size
            taken.append(item)
        return taken

    def sent(self, now: float) -> None:
        """Record that a write was accepted."""
        self.writing_since = None
        self.heartbeat_due = False
        self.last_sent_at = now

    def add_gap(self, topic: str, kinds: frozenset[str]) -> None:
        """Report with the next messages that events of a topic could not be shown."""
        self.lost_topics[topic] = self.lost_topics.get(topic, frozenset()) | kinds
        self._wake()

    def end(self, reason: str, *, at_once: bool = False) -> None:
        """Disconnect the browser: after the messages that wait, or at once, without them."""
        if self.ended is None:
            self.ended = reason
        if at_once:
            self._queue.clear()
            self._keyed.clear()
            self._size = 0
            self._cut()
        self._wake()

    def check(self, now: float) -> float:
        """Mark a heartbeat as due, or end a browser that does not read; return when to check again."""
        if self.writing_since is not None:
            ends_at = self.writing_since + self._send_timeout
            if now >= ends_at:
                self.end(SLOW, at_once=True)
                return now + self._send_timeout
            return ends_at
        due_at = self.last_sent_at + self._heartbeat
        if now >= due_at:
            self.heartbeat_due = True
            self._wake()
            due_at = now + self._heartbeat
        return min(due_at, now + self._send_timeout)


_KINDS: Final = {
    "broadcast": frozenset({"broadcast"}),
    "change": frozenset({"changes"}),
    "presence": frozenset({"presence"}),
    "presence_state": frozenset({"presence"}),
    "system": frozenset({"system"}),
}
