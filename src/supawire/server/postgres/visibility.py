"""Row level security: which rows somebody sees, in one query for each role with its claims in a batch (protocol §4.5).

What counts is what is visible *now*, by primary key, to the role and the claims, as in the real server. The stream may
tell of a transaction a moment before other sessions see it, so the snapshot has to catch up first.

What holds of tables, kept for as long as it cannot have changed: keys, rights on columns, row level security.

Rights may change in the transaction that writes the row, before or after it, so each batch first asks PostgreSQL for
the versions of its tables, in a snapshot that includes the batch. What was found out for one version holds until
the next one. Changes that are of no table, such as a role that joins another one, count a second later.
"""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, LiteralString, NamedTuple, TypeAlias, cast

from psycopg import AsyncCursor, sql
from psycopg.rows import TupleRow

from supawire.server.postgres.catalog import Catalog, Facts, TransactionSnapshot
from supawire.server.postgres.database import Database, DatabaseError, identifier, quoted
from supawire.server.postgres.subscriptions import Identity

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
TOGETHER: Final = 50
"""Viewers who are asked about in one message."""


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


async def caught_up(database: Database, snapshot: TransactionSnapshot | None, xids: Collection[int]) -> None:
    """Return once everybody sees what these transactions did."""
    looks = 0
    while snapshot is None or not all(map(snapshot.sees, xids)):
        await asyncio.sleep(PAUSES[min(looks, len(PAUSES) - 1)])
        looks += 1
        ((text,),) = await database.query(_SNAPSHOT)
        snapshot = TransactionSnapshot.parse(text)


Table: TypeAlias = tuple[str, tuple[str, ...], tuple[str, ...]]
"""A table's name, the columns of its key, and their types."""
Rows: TypeAlias = Sequence[tuple[int, Key]]
"""Rows to look at, numbered."""


class Failure(NamedTuple):
    """Rows among which a policy raised for one viewer, and the words of PostgreSQL."""

    rows: Rows
    error: str


class PolicyFailed(Exception):
    """A policy raised; for whom."""

    def __init__(self, viewers: Mapping[Identity, Failure]) -> None:
        super().__init__(f"a row policy raised for {len(viewers)} viewers")
        self.viewers: Final = viewers


async def seen(
    database: Database, wanted: Mapping[Identity, Rows], xids: Collection[int], *, isolate: bool = False
) -> dict[Identity, Seen]:
    """Return what each viewer sees of these rows, once everybody sees what these transactions did.

    isolate: a policy that raises hides rows from its viewer alone. Raises: PolicyFailed otherwise; DatabaseError.
    """
    found: dict[Identity, Seen] = {}
    failing: dict[Identity, Failure] = {}
    viewers = list(wanted)
    for first in range(0, len(viewers), TOGETHER):
        some = viewers[first : first + TOGETHER]
        try:
            looks = await _look_late(database, [(viewer, wanted[viewer]) for viewer in some], xids)
        except DatabaseError as error:
            if error.retryable:
                raise
            if isolate:
                for viewer in some:
                    found[viewer] = await _seen_apart(database, viewer, wanted[viewer], xids)
            else:
                suspects = {viewer: Failure(wanted[viewer], error.text) for viewer in some}
                failing.update(await still_failing(database, suspects) or suspects)
        else:
            found.update((viewer, Seen(visible, frozenset())) for viewer, visible in zip(some, looks, strict=True))
    if failing:
        raise PolicyFailed(failing)
    return found


async def still_failing(database: Database, suspects: Mapping[Identity, Failure]) -> dict[Identity, Failure]:
    """Return those for whom a policy raises now. Raises: DatabaseError when the database cannot be reached."""
    failing: dict[Identity, Failure] = {}
    for viewer, failure in suspects.items():
        try:
            await _look(database, [(viewer, failure.rows)])
        except DatabaseError as error:
            if error.retryable:
                raise
            failing[viewer] = Failure(failure.rows, error.text)
    return failing


async def _seen_apart(database: Database, viewer: Identity, rows: Rows, xids: Collection[int]) -> Seen:
    """The same where a policy may raise.

    One that raises hides the row that it raises for; one that raises for row after row hides all of them.
    """
    await caught_up(database, None, xids)
    visible: set[int] = set()
    failed: set[int] = set()
    waiting = [rows]
    alone = 0
    while waiting:
        part = waiting.pop()
        try:
            visible.update(*(await _look(database, [(viewer, part)]))[1])
        except DatabaseError as error:
            if error.retryable:
                raise
            if len(part) == 1 or alone >= FAILURES:
                failed.update(number for number, _ in part)
                alone += 1
            else:
                waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
    return Seen(frozenset(visible), frozenset(failed))


async def _look_late(
    database: Database, looks: Sequence[tuple[Identity, Rows]], xids: Collection[int]
) -> list[frozenset[int]]:
    """Look, and once more while the look came too early."""
    tries = 0
    while True:
        snapshot, found = await _look(database, looks)
        if all(map(snapshot.sees, xids)):
            return found
        await asyncio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
        tries += 1


async def _look(
    database: Database, looks: Sequence[tuple[Identity, Rows]]
) -> tuple[TransactionSnapshot, list[frozenset[int]]]:
    """One look for each viewer, all of them in one message. What the snapshot sees, all of them saw.

    Raises: DatabaseError when a policy does in any.
    """
    cursors: list[tuple[AsyncCursor[TupleRow], list[Rows]]] = []
    async with database.connection() as one:
        async with one.pipeline(), one.transaction(force_rollback=True):
            taken = await one.execute(_SNAPSHOT)
            for viewer, rows in looks:
                query, parameters, groups = _question(rows)
                await one.execute(_BECOME, [viewer.role, viewer.claims])
                cursors.append((await one.execute(query, parameters), groups))
        ((snapshot,),) = await taken.fetchall()
        return TransactionSnapshot.parse(snapshot), [
            frozenset(groups[int(group)][int(place) - 1][0] for group, place in await cursor.fetchall())
            for cursor, groups in cursors
        ]


def _question(rows: Rows) -> tuple[LiteralString, list[Any], list[Rows]]:
    """The query for these rows, its parameters, and the rows by table, as its answer counts them."""
    tables: dict[Table, list[tuple[int, Key]]] = {}
    for number, key in rows:
        tables.setdefault(key[:3], []).append((number, key))
    parameters: list[Any] = []
    for keys in tables.values():
        parameters += [list(texts) for texts in zip(*(key.values for _, key in keys), strict=True)]
    return _query(tuple(tables)), parameters, list(tables.values())


@lru_cache(maxsize=256)
def _query(tables: tuple[Table, ...]) -> LiteralString:
    """Composing it takes longer than running it."""
    parts = [
        sql.SQL("select {}::int, q.place::int from ({}) q").format(sql.Literal(number), _of_table(*table))
        for number, table in enumerate(tables)
    ]
    return cast("LiteralString", sql.SQL(" union all ").join(parts).as_string())


def _of_table(table: str, columns: tuple[str, ...], types: tuple[str, ...]) -> sql.Composed:
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


LASTING: Final = 1.0
"""Seconds."""
MOST: Final = 10_000
"""Tables and roles that are kept."""


class _Known(NamedTuple):
    version: str | None
    facts: Facts | None
    until: float


class CatalogCache:
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
