"""What holds of tables, kept for as long as it cannot have changed: keys, rights on columns, row level security.

PostgreSQL announces a table in the stream again after anything about it has changed, also its rights, and before the
next row of it. So what was found out for one announcement holds until the next one, provided that the query saw the
transactions it was made for. Changes that are of no table, such as a role that joins another one, count a second later.
"""

import time
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from supawire.server.postgres.catalog import Catalog, Facts
from supawire.server.postgres.pgoutput import Relation

LASTING: Final = 1.0
"""Seconds."""
MOST: Final = 10_000
"""Tables and roles that are kept."""


class _Known(NamedTuple):
    relation: Relation
    facts: Facts | None
    until: float


class KnownFacts:
    """Facts by table and role."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: dict[tuple[int, str], _Known] = {}

    async def of(
        self, relations: Mapping[int, Relation], roles: Collection[str], xids: Collection[int]
    ) -> Mapping[tuple[int, str], Facts]:
        """What holds for these tables, as the stream announced them last, and roles; none for what is gone."""
        now = time.monotonic()
        pairs = [(oid, role) for oid in relations for role in roles]
        known = [one for pair in pairs if (one := self._known.get(pair)) is not None]
        if len(known) == len(pairs) and all(
            one.relation is relations[one.relation.oid] and one.until > now for one in known
        ):
            return {pair: one.facts for pair, one in zip(pairs, known, strict=True) if one.facts is not None}
        found, snapshot = await self._catalog.facts(relations, roles)
        if snapshot is not None and all(map(snapshot.sees, xids)):
            if len(self._known) > MOST:
                self._known.clear()
            for oid, role in pairs:
                self._known[oid, role] = _Known(relations[oid], found.get((oid, role)), now + LASTING)
        return found
