"""A mirror of the sync client: the async mirror, read from any thread.

A single row, the number of rows and `in` are read on the caller's thread, because each is one dict lookup; all rows
together are copied on the I/O thread, where they cannot change meanwhile. Models are made on the caller's thread.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from supawire._mirror_events import MirrorEvent, MirrorState, MirrorStats
from supawire._validation import misused
from supawire.errors import RealtimeError
from supawire.options import DEFAULT, Timeout
from supawire.sync._async import ThreadedAsyncMirror
from supawire.sync.portal import Portal
from supawire.sync.stream import Stream

if TYPE_CHECKING:  # with a default, a bare generic type passes strict checkers; at run time Python 3.13 has them
    import typing_extensions

    R = typing_extensions.TypeVar("R", default=dict[str, Any])
else:
    R = TypeVar("R")


class Mirror(Mapping[Any, R]):
    """A live copy of a table, made by `client.mirror(...)`: a mapping from key to row. See `mirror` for its guarantees.

    It starts when it is made. `with` waits until it is live, and closes it at the end. Each access to a row
    returns a new dict or object, which you may change.
    """

    def __init__(self, portal: Portal, mirror: ThreadedAsyncMirror) -> None:
        self._portal = portal
        self._async = mirror

    # --- state

    @property
    def state(self) -> MirrorState:
        """The state of the mirror."""
        return self._async.state

    @property
    def live(self) -> bool:
        """Whether the copy equals the table, as far as the server has reported; else it holds the last known rows."""
        return self._async.live

    @property
    def error(self) -> RealtimeError | None:
        """Why the mirror is not live, if known; None while it is live."""
        return self._async.error

    @property
    def incomplete(self) -> frozenset[Any]:
        """The keys of the rows that `fetch_row` is fetching, in the state `refetching`; all other rows are live."""
        return self._portal.run(lambda: self._async.incomplete)

    @property
    def cached_at(self) -> datetime | None:
        """When the rows were saved, if they are those of an earlier run (`cache=`); None if they are newer."""
        return self._async.cached_at

    def stats(self) -> MirrorStats:
        """Return counters since the mirror was made."""
        return self._portal.run(self._async.stats)

    def __repr__(self) -> str:
        return f"<Mirror of {self._async.table!r} {self.state}, {len(self)} rows>"

    # --- rows

    def __getitem__(self, key: Any) -> R:
        return cast("R", self._async[key])

    def __contains__(self, key: object) -> bool:
        return key in self._async

    def __len__(self) -> int:
        return len(self._async)

    def __iter__(self) -> Iterator[Any]:
        return iter([self._async.shown.key(row) for row in self._portal.run(self._async.kept)])

    def snapshot(self) -> dict[Any, R]:
        """Return all rows by key as a new dict. Raises `RowError` when a row does not fit the model."""
        shown = self._async.shown
        return {shown.key(row): cast("R", shown.row(row)) for row in self._portal.run(self._async.kept)}

    # --- events and life cycle

    def listen(self, *, buffer: int = 1000) -> Stream[MirrorEvent[R]]:
        """Return an iterator over changes of the copy: `RowInserted`, `RowUpdated`, `RowDeleted`, `Resynced`.

        If there is a copy already, it begins with a `Resynced` of all rows. Applying all events reproduces the copy.
        Events are never dropped for a slow consumer: when more than `buffer` wait, they are merged into one `Resynced`.

        Raises: InvalidArgumentError. ClosedError.
        """
        return Stream(self._portal, *self._portal.run(self._async.listen_on_thread, buffer))

    def ready(self, timeout: Timeout = DEFAULT) -> None:
        """Wait until the mirror is live.

        Args: timeout: seconds; if omitted, the time of one attempt: twice the client's `timeout` for the join, the
            timeout of the fetch, and `settle`; None: no limit.
        Raises: JoinError: the server refuses the channel, or can never deliver such changes. OperationTimeout, with the
            error of the fetch as its cause; the mirror continues to try. ClosedError.
        """
        self._portal.call(self._async.ready, timeout)

    def refresh(self) -> None:
        """Fetch again, after something that no change reports: a TRUNCATE, or a policy that now shows or hides rows.

        Returns at once; the mirror is not live until the fetch is done. Raises: ClosedError.
        """
        self._portal.run(self._async.refresh)

    def close(self) -> None:
        """Stop following the table: leave the channel and end iterators; the rows stay readable.

        Returns when nothing of the mirror is left, except a plain `fetch` that is still running on its thread. A second
        call does nothing.
        """
        self._portal.call(self._async.close)

    if not TYPE_CHECKING:
        __aenter__ = __aexit__ = misused("this mirror is for code that blocks", "Write `with`, or use connect_async().")

    def __enter__(self) -> Self:
        self._portal.call(self._async.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._portal.inherited:
            self.close()
