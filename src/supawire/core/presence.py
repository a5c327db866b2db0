"""The presence state of a channel, and immutable snapshots of it.

A *meta* is one tracked payload, identified by its `phx_ref`; a *key* is a participant and has one meta per device.
The rules, each the result of a bug in some client:

* The state belongs to one join. The `presence_state` of a new join replaces it, and the differences are reported as
  joins and leaves, so that a reconnect does not look as if everybody had left.
* Diffs that arrive before the state of this join are buffered, then applied to it. If the join did not enable
  presence, no state will follow, so they are applied at once.
* Diffs do not name their join. Diffs addressed to an older join may arrive after the reply to the new one, until the
  `phx_close` of the older one. The server builds the new state after that, so it already includes those diffs or
  they concern members that have left since. This applies above all to our own entry, whose leave is not reported.
* Joined metas are added unless their ref is known; then the metas listed as left are removed. An update arrives as
  joins(new) and leaves(old) of the same key. It is reported as an update, since the new meta names the old ref.
* A key whose metas did not change is not reported, and a leave of an unknown meta has no effect.

See docs/protocol.md, Presence state and diff.

A snapshot consists of a copy of the state, shared by many snapshots, and the few keys that have changed since that
copy. A snapshot after each diff therefore costs about as much as the diff: copying 10,000 members takes up to a
millisecond, but is needed only once in some hundred diffs. The data of a snapshot never changes, so it can be read on
any thread.
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
"""Cost of copying one member of a whole state, in units of one changed key; it is high because of cache misses."""


class Snapshot(Mapping[str, Metas]):
    """An immutable presence state.

    `len` and lookups take constant time. The first iteration merges the two parts and caches the result.
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
        """Return a view of the metas of each key."""
        return self._whole().values()

    def items(self) -> ItemsView[str, Metas]:
        """Return a view of the keys and their metas."""
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
    """Factory of the snapshots of one state, which must report each of its changes."""

    __slots__ = ("_base", "_changes", "_snapshot")

    def __init__(self) -> None:
        self._base: dict[str, Metas] | None = None
        self._changes: dict[str, Metas] = {}
        self._snapshot: Snapshot | None = None

    @property
    def recorded_changes(self) -> int:
        """Number of keys that differ from the shared copy."""
        return len(self._changes)

    def snapshot(self, state: dict[str, Metas]) -> Snapshot:
        """Return a snapshot of the state: the same object until something changes."""
        if self._snapshot is None:
            if self._base is None:
                self._base = state.copy()
            self._snapshot = Snapshot(self._base, self._changes.copy(), len(state))
        return self._snapshot

    def change(self, key: str, metas: Metas) -> None:
        """Record the metas of a key, empty if it has left. Drops the shared copy when a new one is cheaper."""
        if self._base is None:
            return
        self._snapshot = None
        self._changes[key] = metas
        if len(self._changes) ** 2 > _COPY_COST * (len(self._base) + _COPY_COST):
            self.forget()

    def forget(self) -> None:
        """Start with a new copy at the next snapshot, because the state was replaced."""
        self._base = self._snapshot = None
        self._changes = {}


MAX_METAS: Final = 10_000
"""Maximum number of metas kept per key, oldest first. A key is one participant and has one meta per device."""

MAX_KEYS: Final = 250_000
"""Maximum number of keys kept per channel."""

_MAX_BUFFERED_BYTES: Final = 32_000_000
_MAX_BUFFERED_DIFFS: Final = 1000
"""Maximum number of diffs buffered until the state arrives; the state already includes the older ones."""


class _Entry(Struct, gc=False):
    metas: list[Raw] = []


class _Refs(Struct, gc=False):
    phx_ref: str = ""
    phx_ref_prev: str | None = None


_entries: Final = msgspec.json.Decoder(dict[str, _Entry])
_refs: Final = msgspec.json.Decoder(_Refs)
_json: Final = msgspec.json.Decoder()
_EMPTY: Final = Raw(b"{}")


class ChannelPresence:
    """The presence state of one channel."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._state: dict[str, Metas] = {}
        self._snapshots: Final = Snapshots()
        self._buffered: deque[tuple[Raw, Raw]] | None = None
        """Diffs of this join that wait for its state; None if not waiting. An empty deque takes 760 bytes."""
        self.malformed: int = 0

    @property
    def buffered_diffs(self) -> int:
        """Number of diffs that wait for the state of this join."""
        return 0 if self._buffered is None else len(self._buffered)

    def joined(self, *, enabled: bool) -> None:
        """Prepare for a new join. The old state stays readable until the new one arrives, if presence is enabled."""
        if not enabled:
            self.clear()
        self._buffered = deque(maxlen=_MAX_BUFFERED_DIFFS) if enabled else None

    def older_join_ended(self) -> None:
        """Discard the buffered diffs: they were addressed to an older join that has closed, and the state is newer."""
        if self._buffered is not None:
            self._buffered.clear()

    def clear(self) -> None:
        """Clear the state, because the channel was left."""
        self._state = {}
        self._snapshots.forget()
        self._buffered = None

    def state(self) -> PresenceState:
        """Return an immutable snapshot of the state."""
        return self._snapshots.snapshot(self._state)

    def replace(self, raw: Raw) -> list[PresenceEvent]:
        """Apply a `presence_state` and the diffs buffered before it, and return the events."""
        entries = self._read(raw)
        if entries is None:
            return []
        if len(entries) > MAX_KEYS or any(len(metas) > MAX_METAS for metas in entries.values()):
            self.malformed += 1
            entries = {key: entries[key][:MAX_METAS] for key in islice(entries, MAX_KEYS)}
        before, self._state = self._state, entries
        self._snapshots.forget()
        events: list[PresenceEvent] = []
        for key, metas in before.items():
            after = self._state.get(key)
            events += self._events_of_key(key, metas, after) if after else [PresenceLeave(self._topic, key, (), metas)]
        events += [PresenceJoin(self._topic, key, metas, ()) for key, metas in self._state.items() if key not in before]
        held, self._buffered = self._buffered, None
        for joins, leaves in held or ():
            events += self._apply(joins, leaves)
        return [*events, PresenceSync(self._topic, self.state)]

    def apply(self, joins: Raw, leaves: Raw) -> list[PresenceEvent]:
        """Apply a `presence_diff` and return the events, or buffer it until this join's state arrives."""
        if self._buffered is not None:
            self._buffered.append((joins, leaves))
            while sum(len(one) + len(other) for one, other in self._buffered) > _MAX_BUFFERED_BYTES:
                self._buffered.popleft()
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
            if len(after) > MAX_METAS or (not before and len(self._state) >= MAX_KEYS):
                self.malformed += 1
                after = after[:MAX_METAS] if before or len(self._state) < MAX_KEYS else before
            if after == before:
                continue
            self._snapshots.change(key, after)
            if not after:
                del self._state[key]
                events.append(PresenceLeave(self._topic, key, (), before))
                continue
            self._state[key] = after
            if before:
                events += self._events_of_key(key, before, after)
            else:
                events.append(PresenceJoin(self._topic, key, after, ()))
        return events

    def _events_of_key(self, key: str, before: Metas, after: Metas) -> list[PresenceEvent]:
        """Return the events for a key that stays present: one event per kind of change, joins last."""
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
        """Decode the keys that have metas. Two plain loops: comprehensions with a helper function took 50 % longer."""
        if raw == _EMPTY:  # true for one half of nearly every diff
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
        """Decode what has the right shape, and count the payload as malformed."""
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
    if not joined and len(before) == len(left) == 1:  # the most common leave, three times as fast
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
