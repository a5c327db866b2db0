"""Types whose JSON PostgreSQL makes: `json`, and those with a cast of their own (`create cast (… as json)`).

The real server lets PostgreSQL make the JSON of every value. Here that is needed for these types alone, such as hstore
and those of PostGIS, and all values of a batch go into one query.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from psycopg import sql

from supawire.server.postgres.database import Database, DatabaseError
from supawire.server.postgres.pgoutput import UNCHANGED, Relation
from supawire.server.postgres.quoting import quoted
from supawire.server.postgres.replication import RowChange
from supawire.server.postgres.values import Type, Writers, asked

MOST_DIGITS: Final = 131_072
"""Digits of the largest numeric; PostgreSQL refuses more."""
LONGEST: Final = 16 * 2**20
"""Bytes of the JSON of one value. `1e131071` is 8 characters of json and 131,072 of jsonb."""

_ONE: Final = """
    select {}::int8, v.given, case when octet_length(made.text) <= {} then made.text end
    from unnest(%s::text[]) v(given), lateral (select to_jsonb(v.given::{})::text as text offset 0) made
"""
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?|[eE]\+?0*(\d+)', re.DOTALL)
"""A string, also one without an end, so that each byte is looked at once; or an exponent."""


async def fill(database: Database, types: Mapping[int, Type], writers: Writers, changes: Sequence[RowChange]) -> None:
    """Have the writers know the JSON of all such values of these changes, and of no others.

    A value that PostgreSQL cannot cast, or whose JSON is too long, is left out.
    """
    writers.cast.clear()
    if not any(map(asked, types.values())):
        return
    texts = _texts(writers, changes)
    todo = [[(oid, text.decode()) for oid, some in texts.items() for text in some if _expanded(text) <= LONGEST]]
    while todo:
        part = todo.pop()
        try:
            writers.cast.update(await _cast(database, types, part))
        except DatabaseError as error:
            if error.retryable:
                raise
            if len(part) > 1:  # one of them is the cause: halve until it is alone
                half = len(part) // 2
                todo += [part[half:], part[:half]]


async def _cast(
    database: Database, types: Mapping[int, Type], values: Sequence[tuple[int, str]]
) -> dict[tuple[int, bytes], bytes]:
    """Ask for the JSON of these values in one query. Raises: DatabaseError when one cannot be cast."""
    if not values:
        return {}
    by_type: dict[int, list[str]] = {}
    for oid, text in values:
        by_type.setdefault(oid, []).append(text)
    longest = sql.Literal(LONGEST)
    queries = [sql.SQL(_ONE).format(sql.Literal(oid), longest, quoted(types[oid].sql)) for oid in by_type]
    rows = await database.query(sql.Composed(queries).join(" union all "), list(by_type.values()))
    return {(int(oid), str(given).encode()): str(made).encode() for oid, given, made in rows if made is not None}


def _expanded(text: bytes) -> int:
    """Return how many digits the exponents of a json text may add, so that PostgreSQL is not asked to write them."""
    exponents = (found[1] for found in _TOKEN.finditer(text) if found[1])
    return sum(MOST_DIGITS if len(digits) > 6 else min(int(digits), MOST_DIGITS) for digits in exponents)


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
