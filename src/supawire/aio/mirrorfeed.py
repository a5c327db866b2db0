"""What iterators over a mirror read: every change, or, behind a slow one, what the changes come to.

A mirror can always say what its copy is. So nothing has to be dropped for an iterator that is slow: when more events
wait than have room, they are merged into one `Resynced` that tells all of them.
"""

from collections.abc import Callable
from typing import Any

from supawire._mirrored import MirrorEvent
from supawire.aio.buffers import Buffer


class Merging(Buffer):
    """Events for one iterator. `merge` makes one of all that wait."""

    def __init__(self, limit: int, merge: Callable[[list[MirrorEvent[Any]]], MirrorEvent[Any]]) -> None:
        super().__init__(limit)
        self._merge = merge

    def overflow(self, event: Any) -> None:
        """There is no room for this event: one takes the place of all."""
        merged = self._merge([*self.events, event])
        self.events.clear()
        self.events.append(merged)
