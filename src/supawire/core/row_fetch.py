"""Fetches of single rows for a mirror: rows whose values a change did not fully contain.

Why a fetched row is correct: the fetch begins after the incomplete change was received, so its answer includes that
change. It may also include changes of this row that have not been received yet, and nothing tells which. Therefore the
answer is kept for `settle` seconds, in which such changes arrive. If none does, the answer is exactly the row after the
incomplete change. Otherwise the newest change decides:

* A complete change, or a delete, is newer than the incomplete one and states the whole row. The fetch is abandoned.
* Another incomplete change makes the order uncertain. The answer is shown, because it is newer than the row that the
  copy shows, and the row is fetched again.

`RowFetches` decides when to fetch which row; `Mirror` applies the answers to its copy.
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, auto
from typing import Any, Final

from msgspec import Struct

from supawire._mirror_events import Row
from supawire.core.table_copy import Key
from supawire.events import Instant


class FetchRow(Struct, frozen=True):
    """Fetch the row with these values of the key columns. The result comes back with this number."""

    number: int
    key: Row


class AbandonRow(Struct, frozen=True):
    """Cancel the fetch of a row with this number."""

    number: int


class _FetchState(Enum):
    WAITING = auto()
    """The fetch begins at `due_at`."""
    FETCHING = auto()
    SETTLING = auto()
    """The answer is applied at `due_at`, unless a change of the row arrives before."""


class _RowFetch(Struct):
    """The fetch of one row. values: its key columns."""

    number: int
    values: Row
    state: _FetchState
    due_at: float = 0.0
    answered_at: Instant = Instant(0.0, 0.0)
    answer: Row | None = None
    again: bool = False
    """Whether an incomplete change arrived after the fetch began."""


Answer = tuple[Key, Row | None]
"""A row to apply to the copy; None if there is no row with this key (in the filter)."""


class RowFetches:
    """The fetches of single rows of one mirror.

    Args: settle: seconds to wait after an answer for changes that it may include. longest: maximum seconds to wait for
        a server that is late. pause: minimum seconds from an answer to the next fetch of the same row.
    """

    def __init__(self, settle: float, longest: float, pause: float) -> None:
        self._settle: Final = settle
        self._longest: Final = longest
        self._pause: Final = pause
        self._fetches: dict[Key, _RowFetch] = {}
        self._number = 0
        self.effects: list[FetchRow | AbandonRow] = []
        """What the mirror has to do next; it empties the list."""

    def __bool__(self) -> bool:
        return bool(self._fetches)

    def __contains__(self, key: Key) -> bool:
        return key in self._fetches

    @property
    def next_deadline(self) -> float | None:
        """Time at which `due` must be called, None for never."""
        return min(
            (one.due_at for one in self._fetches.values() if one.state is not _FetchState.FETCHING), default=None
        )

    def keep(self, incomplete: Mapping[Key, Row]) -> None:
        """Fetch these incomplete rows, and abandon the fetches of all others."""
        self._abandon([key for key in self._fetches if key not in incomplete])
        for key, values in incomplete.items():
            if key not in self._fetches:
                self._begin(self._fetches.setdefault(key, _RowFetch(0, values, _FetchState.WAITING)))

    def clear(self) -> None:
        """Abandon all fetches."""
        self._abandon(list(self._fetches))

    def changed(self, key: Key) -> Answer | None:
        """Handle another incomplete change of a row. Return an answer that can be shown until the next one."""
        one = self._fetches[key]
        match one.state:
            case _FetchState.WAITING:
                return None
            case _FetchState.FETCHING:
                one.again = True
                return None
            case _FetchState.SETTLING:
                self._wait(one)
                return key, one.answer

    def answered(self, number: int, row: Row | None, now: Instant) -> Answer | None:
        """Handle the fetched row. Return it if it can be shown at once, although the row must be fetched again."""
        found = self._running(number)
        if found is None:
            return None
        key, one = found
        one.answered_at, one.answer = now, row
        if one.again:
            self._wait(one)
            return key, row
        one.state, one.due_at = _FetchState.SETTLING, now.mono + self._settle
        return None

    def failed(self, number: int) -> bool:
        """Remove a fetch that has failed. Return False if it is not running."""
        found = self._running(number)
        if found is not None:
            del self._fetches[found[0]]
        return found is not None

    def await_older(self, committed: Any, now: Instant) -> None:
        """Wait longer for answers that are newer than a change that arrives only now: the server is late."""
        for one in self._fetches.values():
            if one.state is _FetchState.SETTLING and committed < one.answered_at.at():
                latest = one.answered_at.mono + self._longest
                one.due_at = max(one.due_at, min(now.mono + self._settle, latest))

    def due(self, now: Instant) -> Iterator[Answer]:
        """Begin the fetches whose time has come, and remove and yield the answers that are settled."""
        for key, one in list(self._fetches.items()):
            if one.state is _FetchState.FETCHING or one.due_at > now.mono:
                continue
            if one.state is _FetchState.WAITING:
                self._begin(one)
            else:
                del self._fetches[key]
                yield key, one.answer

    # --- internal

    def _begin(self, one: _RowFetch) -> None:
        self._number += 1
        one.number, one.state, one.again = self._number, _FetchState.FETCHING, False
        self.effects.append(FetchRow(one.number, one.values))

    def _wait(self, one: _RowFetch) -> None:
        one.state, one.due_at = _FetchState.WAITING, one.answered_at.mono + self._pause

    def _running(self, number: int) -> tuple[Key, _RowFetch] | None:
        for key, one in self._fetches.items():
            if one.number == number and one.state is _FetchState.FETCHING:
                return key, one
        return None

    def _abandon(self, keys: Iterable[Key]) -> None:
        for key in keys:
            one = self._fetches.pop(key)
            if one.state is _FetchState.FETCHING:
                self.effects.append(AbandonRow(one.number))
