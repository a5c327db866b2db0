"""Presence of one room: tracked payloads and their diffs. See docs/protocol.md, Presence."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from supawire.server.wire import encode

Metas = dict[str, dict[str, list[dict[str, Any]]]]


@dataclass(frozen=True, slots=True)
class Diff:
    """A `presence_diff`; both sides map keys to metas and may be empty."""

    joins: Metas
    leaves: Metas

    def payload(self) -> bytes:
        """Return the JSON text of the frame's payload."""
        return encode({"joins": self.joins, "leaves": self.leaves})


@dataclass(slots=True)
class _Entry:
    key: str
    payload: dict[str, Any]
    ref: str
    previous: str | None = None

    def meta(self) -> dict[str, Any]:
        previous = {} if self.previous is None else {"phx_ref_prev": self.previous}
        return {**self.payload, "phx_ref": self.ref, **previous}

    def alone(self) -> Metas:
        return {self.key: {"metas": [self.meta()]}}


class RoomPresence:
    """The tracked payloads of one room, at most one per channel; several channels may share a key."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, channel: int) -> bool:
        return channel in self._entries

    def track(self, channel: int, key: str, payload: dict[str, Any], ref: str) -> Diff | None:
        """Add or replace a payload and return the diff; None when the same payload is already tracked."""
        old = self._entries.get(channel)
        if old is None:
            entry = self._entries[channel] = _Entry(key, payload, ref)
            return Diff(entry.alone(), {})
        if _same(old.payload, payload):
            return None
        entry = self._entries[channel] = _Entry(key, payload, ref, previous=old.ref)
        return Diff(entry.alone(), old.alone())

    def untrack(self, channel: int) -> Diff | None:
        """Remove the channel's payload and return the diff; None when there was none."""
        old = self._entries.pop(channel, None)
        return None if old is None else Diff({}, old.alone())

    def state(self) -> Metas:
        """Return the full state in the form of `presence_state`."""
        state: Metas = {}
        for entry in self._entries.values():
            state.setdefault(entry.key, {"metas": []})["metas"].append(entry.meta())
        return state

    def keys(self) -> Iterator[str]:
        """Return the keys that are present, each as often as it has metas."""
        return (entry.key for entry in self._entries.values())


def _same(old: dict[str, Any], new: dict[str, Any]) -> bool:
    if old != new:
        return False
    return msgspec.json.encode(old, order="sorted") == msgspec.json.encode(new, order="sorted")  # True == 1 in Python
