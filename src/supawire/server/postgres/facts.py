"""What holds of tables, kept for as long as it cannot have changed: keys, rights on columns, row level security.

Rights may change in the transaction that writes the row, before or after it, so each batch first asks PostgreSQL for
the versions of its tables, in a snapshot that includes the batch. What was found out for one version holds until
the next one. Changes that are of no table, such as a role that joins another one, count a second later.
"""

import asyncio
import time
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from supawire.server.postgres.catalog import Catalog, Facts
from supawire.server.postgres.visibility import PAUSES

LASTING: Final = 1.0
"""Seconds."""
MOST: Final = 10_000
"""Tables and roles that are kept."""


class _Known(NamedTuple):
    version: str | None
    facts: Facts | None
    until: float


class KnownFacts:
    """Facts by table and role."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: dict[tuple[int, str], _Known] = {}

    async def of(
        self, oids: Collection[int], roles: Collection[str], xids: Collection[int]
    ) -> Mapping[tuple[int, str], Facts]:
        """Return what holds for these tables and roles once everybody sees what these transactions did.

        A table or role that is gone has no entry.
        """
        now = time.monotonic()
        versions = await self._versions(oids, xids)
        pairs = [(oid, role) for oid in oids for role in roles]
        known = {
            pair: one
            for pair in pairs
            if (one := self._known.get(pair)) is not None and one.version == versions.get(pair[0]) and one.until > now
        }
        if len(known) == len(pairs):
            return {pair: one.facts for pair, one in known.items() if one.facts is not None}
        found = await self._catalog.facts(oids, roles)
        if len(self._known) > MOST:
            self._known.clear()
        for oid, role in pairs:
            self._known[oid, role] = _Known(versions.get(oid), found.get((oid, role)), now + LASTING)
        return found

    async def _versions(self, oids: Collection[int], xids: Collection[int]) -> Mapping[int, str]:
        """Ask again until the snapshot includes these transactions."""
        looks = 0
        while True:
            versions, snapshot = await self._catalog.versions(oids)
            if all(map(snapshot.sees, xids)):
                return versions
            await asyncio.sleep(PAUSES[min(looks, len(PAUSES) - 1)])
            looks += 1
