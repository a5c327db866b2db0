"""Row level security: which rows somebody sees, in one query for each role with its claims in a batch (protocol §4.5).

What counts is what is visible *now*, by primary key, to the role and the claims, as in the real server. The stream may
tell of a transaction a moment before other sessions see it, so the snapshot has to catch up first.
"""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

from psycopg import sql

from supawire.server.postgres.book import Viewer
from supawire.server.postgres.catalog import Snapshot
from supawire.server.postgres.database import Database, DatabaseError
from supawire.server.postgres.quoting import identifier, quoted

_SNAPSHOT: Final = "select pg_current_snapshot()::text"
_BECOME: Final = "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)"
_SEEN: Final = """
    select v.place from unnest({arrays}) with ordinality v({keys}, place)
    cross join lateral (select from {table} t where {equal} limit 1) row
"""
"""A look-up for each row, by the key's index. Written as a join, it would have the policy tried on the whole table."""
PAUSES: Final = (0.0, 0.0005, 0.002, 0.01, 0.05)
"""Seconds between two looks at a snapshot that is behind; the last one again and again."""
FAILURES: Final = 8
"""Rows for which a policy raised, one by one, before it is taken to raise for the rest."""


class Key(NamedTuple):
    """Where a row is: its table's quoted name, the columns of the key, their types, and the texts of the values."""

    table: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    values: tuple[str, ...]


class Seen(NamedTuple):
    """Which of the rows somebody sees, by their numbers, and for which of them a policy failed."""

    visible: frozenset[int]
    failed: frozenset[int]


async def caught_up(database: Database, snapshot: Snapshot | None, xids: Collection[int]) -> None:
    """Return once everybody sees what these transactions did."""
    looks = 0
    while snapshot is None or not all(map(snapshot.sees, xids)):
        await asyncio.sleep(PAUSES[min(looks, len(PAUSES) - 1)])
        looks += 1
        ((text,),) = await database.query(_SNAPSHOT)
        snapshot = Snapshot.parse(text)


async def seen_by(database: Database, viewer: Viewer, rows: Sequence[tuple[int, Key]]) -> Seen:
    """What a viewer sees of these numbered rows.

    A policy that raises hides the row that it raises for; one that raises for row after row hides all of them.
    """
    visible: set[int] = set()
    failed: set[int] = set()
    waiting = [rows]
    alone = 0
    while waiting:
        part = waiting.pop()
        try:
            visible.update(await _look(database, viewer, part))
        except DatabaseError as error:
            if error.retryable:
                raise
            if len(part) == 1 or alone >= FAILURES:
                failed.update(number for number, _ in part)
                alone += 1
            else:
                waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
    return Seen(frozenset(visible), frozenset(failed))


async def _look(database: Database, viewer: Viewer, rows: Iterable[tuple[int, Key]]) -> list[int]:
    tables: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[tuple[int, Key]]] = {}
    for number, key in rows:
        tables.setdefault(key[:3], []).append((number, key))
    queries: list[sql.Composed] = []
    parameters: list[Any] = []
    for (table, columns, types), keys in tables.items():
        queries.append(_query(table, columns, types))
        parameters += [list(texts) for texts in zip(*(key.values for _, key in keys), strict=True)]
    found: list[int] = []
    async with database.connection() as one:
        async with one.pipeline(), one.transaction(force_rollback=True):  # all of it in one message
            await one.execute(_BECOME, [viewer.role, viewer.claims])
            cursor = await one.execute(_numbered(queries), parameters)
        answers = await cursor.fetchall()
    groups = list(tables.values())
    for group, place in answers:
        found.append(groups[int(group)][int(place) - 1][0])
    return found


def _query(table: str, columns: tuple[str, ...], types: tuple[str, ...]) -> sql.Composed:
    names = [sql.Identifier(f"k{place}") for place in range(len(columns))]
    return sql.SQL(_SEEN).format(
        arrays=sql.SQL(", ").join([sql.SQL("%s::text[]")] * len(columns)),
        keys=sql.SQL(", ").join(names),
        table=quoted(table),
        equal=sql.SQL(" and ").join(
            sql.SQL("t.{} = v.{}::{}").format(identifier(column), name, quoted(kind))
            for column, name, kind in zip(columns, names, types, strict=True)
        ),
    )


def _numbered(queries: Sequence[sql.Composed]) -> sql.Composed:
    return sql.SQL(" union all ").join(
        [
            sql.SQL("select {}::int, q.place::int from ({}) q").format(sql.Literal(number), query)
            for number, query in enumerate(queries)
        ]
    )
