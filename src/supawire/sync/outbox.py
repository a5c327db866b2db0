"""The outbox of the sync client: the async one, called from any thread."""

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from supawire._validation import misused
from supawire.aio.outbox import AsyncOutbox, OutboxStats
from supawire.options import DEFAULT, Timeout
from supawire.outbox_stores.base import DeadMessage
from supawire.sync.portal import Portal


class Outbox:
    """An outbox, made by `client.outbox(store)`: it sends stored messages until the server has accepted each of them.

    It starts when it is made. `with` closes it at the end, which first sends what is pending, within 10 s.
    """

    def __init__(self, portal: Portal, outbox: AsyncOutbox) -> None:
        self._portal = portal
        self._async = outbox

    # --- the messages

    def add(self, topic: str, event: str, payload: Any, *, private: bool = False, id: str | UUID | None = None) -> str:
        """Store a message and return its id. It is durable when this returns, and sent as soon as possible.

        Receivers get the id as `Broadcast.id`; those of this library drop a second copy. If the call is cancelled, the
        message may be stored.

        Args: payload: a JSON object. private: send to private channels of the topic. id: a UUID of your own: while the
            store has a message with this id, nothing is added; if omitted, a new one.
        Raises: InvalidArgumentError, PayloadTooLargeError. OutboxFullError. OutboxError: it cannot be stored.
            ClosedError.
        """
        return self._portal.call(self._async.add, topic, event, payload, private=private, id=id)

    def wake(self) -> None:
        """Look into the store at once, for messages that something else has added; else it looks every `poll` s."""
        self._portal.run(self._async.wake)

    def flush(self, timeout: Timeout = DEFAULT) -> None:
        """Wait until the messages that the store has now were accepted, or are dead.

        Args: timeout: seconds; if omitted, the client's; None: no limit.
        Raises: OperationTimeout, with the last failure as its cause. OutboxError. ClosedError.
        """
        self._portal.call(self._async.flush, timeout)

    def stats(self) -> OutboxStats:
        """Return what the outbox holds, and what this object has sent. Raises: OutboxError."""
        return self._portal.call(self._async.stats)

    def dead(self, limit: int = 100) -> list[DeadMessage]:
        """Return the oldest messages that were given up, at most `limit`. Raises: OutboxError."""
        return self._portal.call(self._async.dead, limit)

    def retry(self, ids: Iterable[str] | None = None) -> int:
        """Make dead messages pending again, all if no ids are given, and return how many. Raises: OutboxError."""
        return self._portal.call(self._async.retry, ids)

    def discard(self, ids: Iterable[str] | None = None) -> int:
        """Remove dead messages, all if no ids are given, and return how many. Raises: OutboxError."""
        return self._portal.call(self._async.discard, ids)

    def close(self, timeout: float | None = 10.0) -> int:
        """Send what is pending, then stop. Return how many messages are left; they stay in the store.

        Args: timeout: seconds for sending; 0: stop after the current request; None: no limit.
        """
        return self._portal.call(self._async.close, timeout)

    if not TYPE_CHECKING:
        __aenter__ = __aexit__ = misused("this outbox is for code that blocks", "Write `with`, or use connect_async().")

    def __enter__(self) -> Self:
        self._portal.call(self._async.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._portal.inherited:
            self.close()

    def __repr__(self) -> str:
        return repr(self._async).replace("Async", "", 1)
