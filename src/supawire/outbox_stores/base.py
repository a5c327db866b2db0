"""What an outbox needs of its store, and the check of a message before it is stored."""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast
from uuid import UUID

from msgspec import Struct

from supawire.core.delivery import OutboxMessage
from supawire.core.http_broadcast import check_size, http_message
from supawire.errors import InvalidArgumentError, OutboxFullError
from supawire.options import check_bool, check_event, check_json, check_topic

MAX_MESSAGES: Final = 100_000
MAX_BYTES: Final = 256 * 1024 * 1024
MAX_PAYLOAD_BYTES: Final = 3_000_000

LOADED_MESSAGES: Final = 500
"""Most messages that are read from a store at once."""

LOADED_BYTES: Final = 16_000_000
"""Bytes of payloads after which no further message is read at once."""


class NewMessage(Struct, frozen=True):
    """A checked message that is not stored yet."""

    id: str
    topic: str
    event: str
    payload: bytes
    private: bool
    added_at: float

    @property
    def size(self) -> int:
        """The bytes that count for the limit of the store."""
        return len(self.payload) + len(self.topic.encode()) + len(self.event.encode())


@dataclass(frozen=True, slots=True)
class DeadMessage:
    """A message that an outbox has given up. `error`: why; `payload`: JSON text; times are Unix seconds."""

    id: str
    topic: str
    event: str
    payload: bytes
    private: bool
    added_at: float
    dead_at: float
    error: str


class StoreCounts(Struct, frozen=True):
    """What a store holds. bytes: of pending and dead messages; oldest_at: Unix time of the oldest pending one."""

    pending: int
    dead: int
    bytes: int
    oldest_at: float | None


class OutboxStore(Protocol):
    """The store of an outbox. Any thread may call it; the calls may block, and raise `OutboxError`."""

    def add(self, topic: str, event: str, payload: Any, *, private: bool = False, id: str | UUID | None = None) -> str:
        """Store a message and return its id once it is durable. Raises `OutboxFullError`."""
        ...

    def acquire(self) -> bool:
        """Become the only sender, until `release` or the end of the process. Return False if another is."""
        ...

    def release(self) -> None:
        """Stop being the sender."""
        ...

    def load(self, without: frozenset[str]) -> tuple[Sequence[OutboxMessage], bool]:
        """Return the first pending messages, in order, without those of some topics; and whether these are all.

        Raises: OutboxError: also when this object is not the sender any more.
        """
        ...

    def settle(self, sent: Sequence[str], dead: Iterable[tuple[str, str]]) -> None:
        """Remove the accepted messages, and move others to the dead ones, with an error each, in one transaction."""
        ...

    def counts(self) -> StoreCounts:
        """Return how many messages there are."""
        ...

    def last(self) -> int:
        """Return the place of the newest pending message, 0 if there is none."""
        ...

    def has_pending(self, until: int) -> bool:
        """Return whether a message up to this place is pending."""
        ...

    def dead(self, limit: int = 100) -> list[DeadMessage]:
        """Return the oldest dead messages."""
        ...

    def retry(self, ids: Iterable[str] | None = None) -> int:
        """Make dead messages pending again, all if no ids are given, and return how many."""
        ...

    def discard(self, ids: Iterable[str] | None = None) -> int:
        """Remove dead messages, all if no ids are given, and return how many."""
        ...


def check_message(
    topic: object, event: object, payload: object, private: object, id: object, limit: int | None = MAX_PAYLOAD_BYTES
) -> NewMessage:
    """Return a message that can be sent by HTTP and on a channel, with a new id if it has none.

    Raises: InvalidArgumentError, PayloadTooLargeError.
    """
    name = check_topic(topic).removeprefix("realtime:")
    if isinstance(payload, bytes | bytearray | memoryview):
        raise InvalidArgumentError(
            "an outbox takes JSON objects, not bytes: bytes cannot be sent together with an id",
            topic=name,
            hint="Send a reference to them, or encode them in base64.",
        )
    body = check_json(payload)
    check_size(body, limit, name)
    wanted = check_id(id)
    http_message(name, check_event(event), body, json=True, private=check_bool("private", private), id=wanted)
    now = time.time()
    return NewMessage(wanted or new_id(now), name, check_event(event), body, private is True, now)


def check_id(id: object) -> str | None:
    """Return an id as text in lower case. Raises `InvalidArgumentError` if it is not a UUID."""
    if id is None or isinstance(id, UUID):
        return None if id is None else str(id)
    try:
        return str(UUID(cast("str", id)))
    except (ValueError, AttributeError, TypeError) as error:
        raise InvalidArgumentError(f"id must be a UUID, as uuid.uuid4() makes them, or None, not {id!r}") from error


def check_ids(ids: object) -> list[str] | None:
    """Return ids as a list of texts, or None. Raises `InvalidArgumentError` unless each is a UUID."""
    if ids is None:
        return None
    if isinstance(ids, str | UUID) or not isinstance(ids, Iterable):
        raise InvalidArgumentError(f"ids must be a list of UUIDs, or None for all, not {ids!r:.80}")
    found = [check_id(one) for one in cast("Iterable[object]", ids)]
    if None in found:
        raise InvalidArgumentError("ids must be a list of UUIDs, and one of them is None")
    return cast("list[str]", found)


def new_id(now: float) -> str:
    """Return a UUID of version 7: milliseconds since 1970, then random bits. Later ones sort after earlier ones."""
    value = int.from_bytes(int(now * 1000).to_bytes(6, "big") + os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    return str(UUID(int=value & ~(0b11 << 62) | 0b10 << 62))


def full(messages: int, max_messages: int, held: int, max_bytes: int, dead: int | None = None) -> OutboxFullError:
    """Return the error for a store that is full."""
    of_them = "" if not dead else f", {dead} of them dead"
    return OutboxFullError(
        f"the outbox has {messages} of {max_messages} messages and {held} of {max_bytes} bytes{of_them}",
        hint="Wait until messages are sent, remove dead ones with discard(), or raise max_messages and max_bytes.",
    )
