"""Who wants which changes: the rows of the real server's `realtime.subscription` (protocol §11.1)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from supawire.filters import Condition
from supawire.server.bindings import ANY


@dataclass(frozen=True, slots=True)
class Viewer:
    """On whose behalf rows are looked at. claims: those of the token, as JSON."""

    role: str
    claims: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Listing:
    """One binding of one channel on one table. id: what clients know the binding by. select: sorted, None for all."""

    channel: int
    id: int
    event: str
    conditions: tuple[Condition, ...]
    select: tuple[str, ...] | None
    viewer: Viewer

    def wants(self, type: str) -> bool:
        """Whether changes of this type are asked for."""
        return self.event in (ANY, type)


class Book:
    """Listings by table, and by channel."""

    def __init__(self) -> None:
        self._tables: dict[int, list[Listing]] = {}
        self._channels: dict[int, frozenset[int]] = {}
        self._viewers: dict[int, Viewer] = {}
        self.replaced: Final[set[int]] = set()
        """Channels that were entered with other claims than before, since this was cleared."""

    def __len__(self) -> int:
        return len(self._channels)

    def __contains__(self, channel: object) -> bool:
        return channel in self._channels

    def of_table(self, oid: int) -> list[Listing]:
        """Who wants something of this table."""
        return self._tables.get(oid, _NOBODY)

    def enter(self, channel: int, listings: Iterable[tuple[int, Listing]]) -> None:
        """Write down a channel's listings, each with its table, in place of its earlier ones."""
        former = self._viewers.get(channel)
        self.strike(channel)
        tables: set[int] = set()
        for oid, listing in listings:
            tables.add(oid)
            self._tables.setdefault(oid, []).append(listing)
            self._viewers[channel] = listing.viewer
            if former is not None and listing.viewer != former:
                self.replaced.add(channel)
        self._channels[channel] = frozenset(tables)

    def strike(self, channel: int) -> None:
        """Forget a channel."""
        self._viewers.pop(channel, None)
        for oid in self._channels.pop(channel, ()):
            left = [listing for listing in self._tables[oid] if listing.channel != channel]
            if left:
                self._tables[oid] = left
            else:
                del self._tables[oid]

    def viewers(self) -> set[Viewer]:
        """Return everybody on whose behalf something is in it."""
        return set(self._viewers.values())

    def channels(self) -> Iterator[int]:
        """Those that are in it."""
        return iter(tuple(self._channels))


_NOBODY: Final[list[Listing]] = []
