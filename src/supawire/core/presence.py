"""Immutable snapshots of a presence state (R45).

A snapshot is a copy of the state that many snapshots share, and the few keys that have changed since that copy was
made. A snapshot after each diff therefore costs about what has changed: a copy of 10,000 members takes up to a
millisecond, and is made once in some hundred diffs. Nothing that a snapshot holds is ever changed, so it may be read on
any thread.

Who is here, as one join of one channel knows it (protocol §5.2).

A *meta* is one tracked payload, known by its `phx_ref`; a *key* is a participant and holds one meta for each of its
devices. The rules, each earned by a bug in some client:

* The state belongs to a join. A new join's `presence_state` replaces it, and what changed between the two is told as
  joins and leaves, so that a reconnect does not look as if everybody had left (R45).
* Diffs that come before the state of this join are held, then applied onto it. Without presence in the join no state
  will come, so they are applied at once.
* Diffs name no join. What was told to an older one may come after the answer to the new one, up to the older one's
  `phx_close`; the state is made after that, so such diffs are in it, or were for somebody who has left since: us, above
  all, whose leave is told to nobody.
* Joined metas are added unless their ref is known; then those are removed whose ref is listed as left. An update comes
  as joins(new) and leaves(old) of the same key: it is told as an update, since the new meta names the old ref.
* Nothing is told of a key whose metas did not change, and a leave of somebody unknown ends nothing.
"""

from collections import deque
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from supawire.core.codec import DECODE_ERRORS, encode_json, items, members
from supawire.events import (
    Presence,
    PresenceEvent,
    PresenceJoin,
    PresenceLeave,
    PresenceState,
    PresenceSync,
    PresenceUpdate,
)

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


MOST_METAS: Final = 10_000
"""Metas that are kept of one key, the oldest ones; a key is one participant, and has one for each of its devices."""

MOST_KEYS: Final = 250_000
"""Participants that are kept of one channel."""

_HELD_BYTES: Final = 32_000_000
_HELD: Final = 1000
"""Diffs that wait for a state at most; the state that comes at last has the older ones in it."""


class _Entry(Struct, gc=False):
    metas: list[Raw] = []


class _Refs(Struct, gc=False):
    phx_ref: str = ""
    phx_ref_prev: str | None = None


_entries: Final = msgspec.json.Decoder(dict[str, _Entry])
_refs: Final = msgspec.json.Decoder(_Refs)
_json: Final = msgspec.json.Decoder()
_NOBODY: Final = Raw(b"{}")


class ChannelPresence:
    """The presence state of one channel."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._state: dict[str, Metas] = {}
        self._snapshots: Final = Snapshots()
        self._held: deque[tuple[Raw, Raw]] | None = None
        """Diffs of this join that wait for its state; None when they do not wait. An empty deque takes 760 bytes."""
        self.malformed: int = 0

    def joined(self, *, enabled: bool) -> None:
        """A new join is accepted. The old state stays to be looked at until the new one is there, if one will come."""
        if not enabled:
            self.clear()
        self._held = deque(maxlen=_HELD) if enabled else None

    def older_ended(self) -> None:
        """The server has closed an older join: what is held was told to that one, and the coming state is newer."""
        if self._held is not None:
            self._held.clear()

    def clear(self) -> None:
        """The channel was left: nobody is known to be here."""
        self._state = {}
        self._snapshots.forget()
        self._held = None

    def state(self) -> PresenceState:
        """Everyone who is here, immutable."""
        return self._snapshots.take(self._state)

    def replace(self, raw: Raw) -> list[PresenceEvent]:
        """Apply a `presence_state`, then the diffs that came before it."""
        entries = self._read(raw)
        if entries is None:
            return []
        if len(entries) > MOST_KEYS or any(len(metas) > MOST_METAS for metas in entries.values()):
            self.malformed += 1
            entries = {key: entries[key][:MOST_METAS] for key in islice(entries, MOST_KEYS)}
        before, self._state = self._state, entries
        self._snapshots.forget()
        events: list[PresenceEvent] = []
        for key, metas in before.items():
            after = self._state.get(key)
            events += self._told(key, metas, after) if after else [PresenceLeave(self._topic, key, (), metas)]
        events += [PresenceJoin(self._topic, key, metas, ()) for key, metas in self._state.items() if key not in before]
        held, self._held = self._held, None
        for joins, leaves in held or ():
            events += self._apply(joins, leaves)
        return [*events, PresenceSync(self._topic, self.state)]

    def apply(self, joins: Raw, leaves: Raw) -> list[PresenceEvent]:
        """Apply a `presence_diff`, or hold it until this join's state is there."""
        if self._held is not None:
            self._held.append((joins, leaves))
            while sum(len(one) + len(other) for one, other in self._held) > _HELD_BYTES:
                self._held.popleft()
            return []
        events = self._apply(joins, leaves)
        if events:
            events.append(PresenceSync(self._topic, self.state))
        return events

    def _apply(self, joins: Raw, leaves: Raw) -> list[PresenceEvent]:
        joined, left = self._read(joins), self._read(leaves)
        if joined is None or left is None:
            return []
        events: list[PresenceEvent] = []
        for key in joined | left if joined and left else joined or left:
            before = self._state.get(key, ())
            after = _changed(before, joined.get(key, ()), left.get(key, ()))
            if len(after) > MOST_METAS or (not before and len(self._state) >= MOST_KEYS):
                self.malformed += 1
                after = after[:MOST_METAS] if before or len(self._state) < MOST_KEYS else before
            if after == before:
                continue
            self._snapshots.change(key, after)
            if not after:
                del self._state[key]
                events.append(PresenceLeave(self._topic, key, (), before))
                continue
            self._state[key] = after
            if before:
                events += self._told(key, before, after)
            else:
                events.append(PresenceJoin(self._topic, key, after, ()))
        return events

    def _told(self, key: str, before: Metas, after: Metas) -> list[PresenceEvent]:
        """What to tell of a key that was here and still is: several changes in one frame one by one, joins last."""
        old, new = {meta.ref for meta in before}, {meta.ref for meta in after}
        came = [meta for meta in after if meta.ref not in old]
        gone = {meta.ref for meta in before if meta.ref not in new}
        updated = {meta.previous_ref for meta in came if meta.previous_ref in gone}
        events: list[PresenceEvent] = []
        if updated:
            events.append(PresenceUpdate(self._topic, key, after, before))
        if gone - updated:
            events.append(PresenceLeave(self._topic, key, after, before))
        if any(meta.previous_ref not in updated for meta in came):
            events.append(PresenceJoin(self._topic, key, after, before))
        return events

    def _read(self, raw: Raw) -> dict[str, Metas] | None:
        """The metas of who has any. Two loops, since as comprehensions with a function they took half as much again."""
        if raw == _NOBODY:  # one half of nearly every diff
            return {}
        found: dict[str, Metas] = {}
        try:
            for key, entry in _entries.decode(raw).items():
                metas: list[Presence] = []
                for meta in entry.metas:
                    refs = _refs.decode(meta)
                    metas.append(Presence(key, refs.phx_ref, refs.phx_ref_prev, meta))
                if metas:
                    found[key] = tuple(metas)
        except DECODE_ERRORS:
            return self._read_tolerantly(raw)
        return found

    def _read_tolerantly(self, raw: Raw) -> dict[str, Metas] | None:
        """Read what has the right shape and count the rest."""
        self.malformed += 1
        try:
            entries = _json.decode(raw)
        except DECODE_ERRORS:
            return None
        if entries is None:
            return {}
        keys = members(entries)
        if keys is None:
            return None
        found = {key: tuple(_metas_of(key, entry)) for key, entry in keys.items()}
        return {key: metas for key, metas in found.items() if metas}


def _changed(before: Metas, joined: Metas, left: Metas) -> Metas:
    if not before and not left:
        return joined
    if not joined and len(before) == len(left) == 1:  # nearly every leave, in a third of the time
        return () if before[0].ref == left[0].ref else before
    gone = {meta.ref for meta in left}
    every = before
    if joined:
        known = {meta.ref for meta in before}
        every = (*before, *(meta for meta in joined if meta.ref not in known))
    return tuple([meta for meta in every if meta.ref not in gone])


def _metas_of(key: str, entry: Any) -> Iterator[Presence]:
    for item in items((members(entry) or {}).get("metas")):
        meta = members(item)
        if meta is not None:
            before = meta.get("phx_ref_prev")
            raw = Raw(encode_json(meta))
            yield Presence(key, str(meta.get("phx_ref", "")), None if before is None else str(before), raw)
