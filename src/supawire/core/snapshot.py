"""Immutable snapshots of a presence state (R45).

A snapshot is a copy of the state that many snapshots share, and the few keys that have changed since that copy was
made. A snapshot after each diff therefore costs about what has changed: a copy of 10,000 members takes up to a
millisecond, and is made once in some hundred diffs. Nothing that a snapshot holds is ever changed, so it may be read on
any thread.
"""

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Final

from supawire.types import Presence

Metas = tuple[Presence, ...]

_COPY_COST: Final = 10
"""What copying one member of a whole state costs, in keys that have changed: it lies in memory that no cache has."""


class Snapshot(Mapping[str, Metas]):
    """An immutable state of presence.

    `len` and lookups cost the same however many are here. The first iteration merges the two parts; the result is kept.
    """

    __slots__ = ("_base", "_changes", "_merged", "_size")

    def __init__(self, base: dict[str, Metas], changes: dict[str, Metas], size: int) -> None:
        self._base = base
        self._changes = changes
        self._size = size
        self._merged: dict[str, Metas] | None = None if changes else base

    def __getitem__(self, key: str) -> Metas:
        metas = self._changes.get(key)
        if metas is None:
            return self._base[key]
        if not metas:
            raise KeyError(key)
        return metas

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole())

    def keys(self) -> KeysView[str]:
        """Return a view of the keys."""
        return self._whole().keys()

    def values(self) -> ValuesView[Metas]:
        """Return a view of what each key has tracked."""
        return self._whole().values()

    def items(self) -> ItemsView[str, Metas]:
        """Return a view of keys and what they have tracked."""
        return self._whole().items()

    def __repr__(self) -> str:
        return repr(self._whole())

    def _whole(self) -> dict[str, Metas]:
        if self._merged is None:
            merged = self._base | self._changes
            for key, metas in self._changes.items():
                if not metas:
                    del merged[key]
            self._merged = merged
        return self._merged


class Snapshots:
    """Makes the snapshots of one state, which reports each of its changes."""

    __slots__ = ("_base", "_changes", "_taken")

    def __init__(self) -> None:
        self._base: dict[str, Metas] | None = None
        self._changes: dict[str, Metas] = {}
        self._taken: Snapshot | None = None

    def take(self, state: dict[str, Metas]) -> Snapshot:
        """Return the state as it is now: the same object until something changes."""
        if self._taken is None:
            if self._base is None:
                self._base = state.copy()
            self._taken = Snapshot(self._base, self._changes.copy(), len(state))
        return self._taken

    def change(self, key: str, metas: Metas) -> None:
        """Record what a key has now, empty when it has left. Drops the copy when a new one is cheaper."""
        if self._base is None:
            return
        self._taken = None
        self._changes[key] = metas
        if len(self._changes) ** 2 > _COPY_COST * (len(self._base) + _COPY_COST):
            self.forget()

    def forget(self) -> None:
        """Begin anew with the next snapshot: the state was replaced."""
        self._base = self._taken = None
        self._changes = {}
