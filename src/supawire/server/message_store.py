"""Messages that the server keeps for replay (protocol §6.3, §6.4); the memory level's `realtime.messages`."""

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

RETENTION: Final = 72 * 3600.0
MAX_MESSAGES_KEPT: Final = 10_000
MAX_REPLAY: Final = 25


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One kept message. `payload` is JSON text, or raw bytes when `json` is False; `sent_at` is wall time."""

    id: str
    topic: str
    event: str
    payload: bytes
    json: bool
    private: bool
    sent_at: float

    def metadata(self, *, replayed: bool = False) -> bytes:
        """The `meta` of its frames."""
        return b'{"id":"%b"%b}' % (self.id.encode(), b',"replayed":true' if replayed else b"")


@dataclass(frozen=True, slots=True)
class Replay:
    """What a join asks for: since when (milliseconds, Unix time) and how many at most."""

    since: int
    limit: int


def parse_replay(value: dict[str, Any]) -> Replay | None:
    """The `replay` of a join; None when it is not valid (protocol §3.1, §6.3)."""
    since, limit = value.get("since"), value.get("limit")
    if limit is None:
        limit = MAX_REPLAY
    if type(since) is not int or type(limit) is not int:
        return None
    return Replay(since, min(max(limit, 1), MAX_REPLAY))


class Store:
    """The newest messages, bounded in number and age."""

    def __init__(self, kept: int = MAX_MESSAGES_KEPT) -> None:
        self._messages: deque[StoredMessage] = deque(maxlen=kept)

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, message: StoredMessage) -> None:
        """Keep one; the oldest goes when there are too many."""
        while self._messages and self._messages[0].sent_at < message.sent_at - RETENTION:
            self._messages.popleft()
        self._messages.append(message)

    def replay(self, topic: str, wanted: Replay, wall: float) -> list[StoredMessage]:
        """The newest private messages of a topic since then, oldest first."""
        found: list[StoredMessage] = []
        for message in reversed(self._messages):
            if message.sent_at < wall - RETENTION or len(found) == wanted.limit:
                break
            if message.private and message.topic == topic and int(message.sent_at * 1000) >= wanted.since:
                found.append(message)
        return found[::-1]
