"""Types whose JSON somebody has defined: with `create cast (… as json)`, as hstore and PostGIS have it.

The real server lets PostgreSQL make the JSON of every value. Here that is needed for these types alone, and all values
of a batch go into one query.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from psycopg import sql

from supawire.server.postgres.database import Database
from supawire.server.postgres.pgoutput import UNCHANGED, Relation
from supawire.server.postgres.quoting import quoted
from supawire.server.postgres.replication import RowChange
from supawire.server.postgres.values import Type, Writers

_ONE: Final = "select {}::int8, v.given, to_jsonb(v.given::{})::text from unnest(%s::text[]) v(given)"


async def fill(database: Database, types: Mapping[int, Type], writers: Writers, changes: Sequence[RowChange]) -> None:
    """Have the writers know the JSON of all such values of these changes, and of no others."""
    writers.cast.clear()
    if not any(one.kind == "j" for one in types.values()):
        return
    texts = _texts(writers, changes)
    if not texts:
        return
    queries = [sql.SQL(_ONE).format(sql.Literal(oid), quoted(types[oid].sql)) for oid in texts]
    parameters = [[text.decode() for text in some] for some in texts.values()]
    for oid, given, made in await database.query(sql.Composed(queries).join(" union all "), parameters):
        writers.cast[int(oid), str(given).encode()] = str(made).encode()


def _texts(writers: Writers, changes: Iterable[RowChange]) -> dict[int, set[bytes]]:
    """By type the different values that have to be asked about."""
    places: dict[int, tuple[Relation, list[tuple[int, int]]]] = {}
    texts: dict[int, set[bytes]] = {}
    for change in changes:
        relation = change.relation
        known = places.get(relation.oid)
        if known is None or known[0] is not relation:
            asks = [(place, one.type) for place, one in enumerate(relation.columns) if writers.asks(one.type)]
            known = places[relation.oid] = relation, asks
        for place, oid in known[1]:
            for row in (change.new, change.old):
                value: Any = None if row is None else row[place]
                if value is not None and value is not UNCHANGED:
                    texts.setdefault(oid, set()).add(value)
    return texts
