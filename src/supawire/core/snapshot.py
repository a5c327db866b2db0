"""Who is here, as it was at one moment, without a copy of it (R45).

A snapshot reads the live state of its roster. Before a key changes, the newest snapshot keeps what the key had; an
older one looks into what it keeps itself, then into what the ones after it keep, then at the live state. So a state
that is read after every diff costs what changed, however many are here; a copy of 10,000 costs 250 µs each time. Of the
snapshots that somebody still holds only the newest few live like this: an older one is copied, once.

A snapshot may be read on any thread while the roster changes. That needs the two orders kept here: a key's old value is
kept before the live state changes, and the live state is read before what is kept is looked at.
"""

from collections import deque
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Final
from weakref import ref

from supawire.types import Presence

Metas = tuple[Presence, ...]

_LIVE: Final = 4
"""Snapshots that may live on the state at once."""


class Snapshot(Mapping[str, Metas]):
    """An immutable state of presence. A key that is not here has no metas."""

    __slots__ = ("__weakref__", "_before", "_copy", "_live", "_next")

    def __init__(self, live: dict[str, Metas]) -> None:
        self._live = live
        self._before: dict[str, Metas] = {}
        self._next: Snapshot | None = None
        self._copy: dict[str, Metas] | None = None

    # --- for the roster

    @property
    def outdated(self) -> bool:
        """Whether anything has changed since."""
        return bool(self._before)

    def keep(self, key: str, metas: Metas) -> None:
        """The key is about to change; this is what it has."""
        self._before.setdefault(key, metas)

    def follow(self, newer: "Snapshot") -> None:
        """From now on another one keeps what changes."""
        self._next = newer

    def settle(self) -> None:
        """Live on a copy."""
        self._copy = self._whole()
        self._next = None  # only now: who reads meanwhile looks for the copy at the end of the way

    # --- for everyone

    def __getitem__(self, key: str) -> Metas:
        metas = self._find(key)
        if not metas:
            raise KeyError(key)
        return metas

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and bool(self._find(key))

    def __len__(self) -> int:
        return len(self._whole())

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole())

    def keys(self) -> KeysView[str]:
        """Who is here."""
        return self._whole().keys()

    def values(self) -> ValuesView[Metas]:
        """What they have tracked."""
        return self._whole().values()

    def items(self) -> ItemsView[str, Metas]:
        """Both."""
        return self._whole().items()

    def __repr__(self) -> str:
        return repr(self._whole())

    def _find(self, key: str) -> Metas:
        found = self._live.get(key, ())
        at: Snapshot | None = self
        while at is not None:
            metas = at._before.get(key) if at._copy is None else at._copy.get(key, ())
            if metas is not None:
                return metas
            at = at._after()
        return found

    def _whole(self) -> dict[str, Metas]:
        if self._copy is not None:
            return self._copy
        whole, kept = self._live.copy(), deque[dict[str, Metas]]()
        at: Snapshot | None = self
        while at is not None:
            if at._copy is not None:
                whole = at._copy.copy()
                break
            kept.appendleft(at._before.copy())
            at = at._after()
        for before in kept:
            whole.update(before)
        return {key: metas for key, metas in whole.items() if metas} if any(kept) else whole

    def _after(self) -> "Snapshot | None":
        """The next one; when this one was settled just now, itself with its copy."""
        after = self._next
        return self if after is None and self._copy is not None else after


class Snapshots:
    """The snapshots of one roster."""

    def __init__(self) -> None:
        self._held: list[ref[Snapshot]] = []

    def take(self, live: dict[str, Metas]) -> Snapshot:
        """The state as it is now: the same object until something changes, or nobody holds it."""
        newest = self.newest
        if newest is not None and not newest.outdated:
            return newest
        made = Snapshot(live)
        if newest is not None:
            newest.follow(made)
        self._held.append(ref(made))
        if len(self._held) > _LIVE and (oldest := self._held.pop(0)()) is not None:
            oldest.settle()
        return made

    @property
    def newest(self) -> Snapshot | None:
        """Who keeps what changes, None when nobody looks at the newest state."""
        return self._held[-1]() if self._held else None

    def forget(self) -> None:
        """The live state is another object from now on; the old one changes no more."""
        self._held.clear()
