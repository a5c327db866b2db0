"""A mirror as the blocking door shows it: the async mirror, read from any thread.

One row, the number of rows and whether a key is there are read where the caller is, since each is one look into a
dict; all rows together are taken on the I/O thread, where nothing changes meanwhile. A model is made by the caller.
"""

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from supawire._mirror_events import MirrorEvent, MirrorState
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
    """A live copy of a table, made by `client.mirror(...)`: a mapping from key to row. See there for what it promises.

    It begins when it is made. `with` waits until it is live, and closes it at the end. What you read from it is yours:
    each look at a row makes a new dict or object.
    """

    def __init__(self, portal: Portal, mirror: ThreadedAsyncMirror) -> None:
        self._portal = portal
        self._async = mirror

    # --- what it is

    @property
    def state(self) -> MirrorState:
        """Where it stands."""
        return self._async.state

    @property
    def live(self) -> bool:
        """Whether the copy is the table, as far as the server has told; else it is what was known before."""
        return self._async.live

    @property
    def error(self) -> RealtimeError | None:
        """Why it is not live, when that is known; None when it is."""
        return self._async.error

    def __repr__(self) -> str:
        return f"<Mirror of {self._async.table!r} {self.state}, {len(self)} rows>"

    # --- the copy

    def __getitem__(self, key: Any) -> R:
        return cast("R", self._async[key])

    def __contains__(self, key: object) -> bool:
        return key in self._async

    def __len__(self) -> int:
        return len(self._async)

    def __iter__(self) -> Iterator[Any]:
        return iter([self._async.shown.key(row) for row in self._portal.run(self._async.kept)])

    def snapshot(self) -> dict[Any, R]:
        """All rows by key as they are now, as a dict of your own. Raises `RowError` when one does not fit the model."""
        shown = self._async.shown
        return {shown.key(row): cast("R", shown.row(row)) for row in self._portal.run(self._async.kept)}

    # --- what happens to it

    def listen(self, *, buffer: int = 1000) -> Stream[MirrorEvent[R]]:
        """An iterator over how the copy changes: `RowInserted`, `RowUpdated`, `RowDeleted`, `Resynced`.

        It begins with a `Resynced` of all rows, when there is a copy already, and follows the copy from there: who
        applies all events has the copy. Nothing is dropped for a slow one: more events than `buffer` are merged into
        one `Resynced`.

        Raises: InvalidArgumentError. ClosedError.
        """
        return Stream(self._portal, *self._portal.run(self._async.listen_on_thread, buffer))

    def ready(self, timeout: Timeout = DEFAULT) -> None:
        """Wait until it is live.

        Args: timeout: seconds; left out, what one try of everything may take: twice the client's `timeout` for the
            join, the fetch's, and `settle`; None: no limit.
        Raises: JoinError: the server refuses the channel, or will never tell such changes. OperationTimeout, with the
            error of the fetch as its cause; the mirror goes on trying. ClosedError.
        """
        self._portal.call(self._async.ready, timeout)

    def refresh(self) -> None:
        """Fetch anew, as after what no change tells: a TRUNCATE, or rows that a policy shows or hides now.

        Returns at once; the mirror is not live until that is done. Raises: ClosedError.
        """
        self._portal.run(self._async.refresh)

    def close(self) -> None:
        """Follow the table no more: the channel is left, iterators end, the copy stays as it is. Twice is once.

        Returns when nothing of the mirror is left, but for a plain `fetch` that is still at work on its thread.
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
