"""Who is tracked on one topic, and what a change of it looks like (protocol §5)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from supawire.server.wire import encode

Metas = dict[str, dict[str, list[dict[str, Any]]]]


@dataclass(frozen=True, slots=True)
class Diff:
    """One `presence_diff`; both sides map keys to metas and may be empty."""

    joins: Metas
    leaves: Metas

    def payload(self) -> bytes:
        """JSON text of the frame's payload."""
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
    """The tracked payloads of one room, at most one for each channel; several channels may share a key."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, channel: int) -> bool:
        return channel in self._entries

    def track(self, channel: int, key: str, payload: dict[str, Any], ref: str) -> Diff | None:
        """A new or changed payload; None when it is the one already tracked (protocol §5.1)."""
        old = self._entries.get(channel)
        if old is None:
            entry = self._entries[channel] = _Entry(key, payload, ref)
            return Diff(entry.alone(), {})
        if _same(old.payload, payload):
            return None
        entry = self._entries[channel] = _Entry(key, payload, ref, previous=old.ref)
        return Diff(entry.alone(), old.alone())

    def untrack(self, channel: int) -> Diff | None:
        """The entry of this channel is gone; None when there was none."""
        old = self._entries.pop(channel, None)
        return None if old is None else Diff({}, old.alone())

    def state(self) -> Metas:
        """The whole state, as `presence_state` has it."""
        state: Metas = {}
        for entry in self._entries.values():
            state.setdefault(entry.key, {"metas": []})["metas"].append(entry.meta())
        return state

    def keys(self) -> Iterator[str]:
        """The keys that are present, each as often as it has metas."""
        return (entry.key for entry in self._entries.values())


def _same(old: dict[str, Any], new: dict[str, Any]) -> bool:
    if old != new:
        return False
    return msgspec.json.encode(old, order="sorted") == msgspec.json.encode(new, order="sorted")  # True equals 1
