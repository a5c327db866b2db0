"""Streams of stored messages for code that blocks: each call runs the async stream on the I/O thread."""

from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from supawire._validation import misused
from supawire.aio.history import AsyncHistory, AsyncMessageStream
from supawire.cursors import Cursor, StoredBroadcast
from supawire.events import Gap
from supawire.sync.portal import Portal

if TYPE_CHECKING:
    import typing_extensions

    P_co = typing_extensions.TypeVar("P_co", covariant=True, default=Any)
else:
    P_co = TypeVar("P_co", covariant=True)


class MessageStream(Generic[P_co]):
    """The stored messages after a cursor, then live ones, as `StoredBroadcast`; made by `listen(from_=…)`.

    Each message once, in order, also over reconnects; see the page about history for what is guaranteed. A `Gap` in
    between is a period of which messages may be missing. `for`, `next()`, or a context manager that ends it. Use it
    from one thread at a time.

    A message counts as handled when the next one is asked for, or with commit="manual" at `commit()`. With a store, the
    cursor is saved then. A message that was not handled when the process ended is delivered again.
    """

    def __init__(self, portal: Portal, stream: AsyncMessageStream[P_co]) -> None:
        self._portal = portal
        self._async = stream

    def __repr__(self) -> str:
        return repr(self._async).replace("<Async", "<", 1)

    @property
    def cursor(self) -> Cursor | None:
        """The position after all messages that were handled, None before the first read."""
        return self._async.cursor

    @property
    def caught_up(self) -> bool:
        """Whether all messages that were stored when the stream began have been delivered."""
        return self._async.caught_up

    @property
    def count(self) -> int:
        """How many messages were delivered."""
        return self._async.count

    def commit(self) -> None:
        """Count all delivered messages as handled, and save the cursor if there is a store.

        Raises: what the store raises.
        """
        self._portal.call(self._async.commit)

    def get(self, *, timeout: float | None = None) -> StoredBroadcast[P_co] | Gap:
        """Return the next message or gap; wait at most `timeout`.

        Args: timeout: seconds; None: no limit.
        Raises: OperationTimeout: none came in time; the stream continues. ClosedError: the stream has ended. Otherwise
            the same errors as iteration.
        """
        return self._portal.call(self._async.get, timeout=timeout)

    def close(self) -> None:
        """End the stream. Messages that were not handled are delivered again by the next stream from this cursor."""
        self._portal.run(self._async.close)

    if not TYPE_CHECKING:
        __aenter__ = __aexit__ = __aiter__ = misused("a MessageStream is used in code that blocks", "Write `with`.")

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StoredBroadcast[P_co] | Gap:
        found = self._portal.call(_next, self._async)
        if found is None:
            raise StopIteration
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._portal.inherited:
            self._portal.call(self._async.__aexit__, kind, error, trace)


class History(Generic[P_co]):
    """The stored messages of a topic, oldest first, without those that are stored later; made by `history()`."""

    def __init__(self, portal: Portal, history: AsyncHistory[P_co]) -> None:
        self._portal = portal
        self._async = history

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StoredBroadcast[P_co] | Gap:
        found = self._portal.call(_next, self._async)
        if found is None:
            raise StopIteration
        return found


async def _next(iterator: AsyncMessageStream[P_co] | AsyncHistory[P_co]) -> StoredBroadcast[P_co] | Gap | None:
    """Return the next item, None at the end."""
    return await anext(iterator, None)
