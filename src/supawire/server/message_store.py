"""In-memory store of messages for replay: the `realtime.messages` of a server without a database."""

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

RETENTION: Final = 72 * 3600.0
MAX_MESSAGES_KEPT: Final = 10_000
MAX_REPLAY: Final = 25


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A stored message. `payload` is JSON text, or raw bytes when `json` is False; `sent_at` is wall time."""

    id: str
    topic: str
    event: str
    payload: bytes
    json: bool
    private: bool
    sent_at: float

    def metadata(self, *, replayed: bool = False) -> bytes:
        """Return the `meta` of the message's frames."""
        return b'{"id":"%b"%b}' % (self.id.encode(), b',"replayed":true' if replayed else b"")


@dataclass(frozen=True, slots=True)
class Replay:
    """The replay requested by a join: since when (Unix time in milliseconds) and at most how many messages."""

    since: int
    limit: int


def parse_replay(value: dict[str, Any]) -> Replay | None:
    """Return the `replay` of a join; None when it is invalid. See docs/protocol.md, Replay."""
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
        """Add a message; the oldest is removed when there are too many."""
        while self._messages and self._messages[0].sent_at < message.sent_at - RETENTION:
            self._messages.popleft()
        self._messages.append(message)

    def replay(self, topic: str, wanted: Replay, wall: float) -> list[StoredMessage]:
        """Return the newest private messages of a topic since the requested time, oldest first."""
        found: list[StoredMessage] = []
        for message in reversed(self._messages):
            if message.sent_at < wall - RETENTION or len(found) == wanted.limit:
                break
            if message.private and message.topic == topic and int(message.sent_at * 1000) >= wanted.since:
                found.append(message)
        return found[::-1]
