"""Row level security: find which rows an identity can see, with one query per role and claims in a batch.

As on the real server, visibility is evaluated at query time, by primary key, with the role and the claims. The stream
may contain a transaction shortly before other sessions see it, so the queries wait until the snapshot includes it.

Also caches facts about tables: primary keys, column privileges, row level security. Privileges may change in the
transaction that writes the row, so each batch first queries the versions of its tables, in a snapshot that includes the
batch; facts are cached per version. Changes that do not modify a table's catalog rows, such as role memberships, take
effect up to a second later. See docs/protocol.md, Row level security of changes.
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
"""One index look-up per row. As a join, PostgreSQL would evaluate the policy on the whole table."""
PAUSES: Final = (0.0, 0.0005, 0.002, 0.01, 0.05)
"""Seconds between two checks of a snapshot that is behind; the last value repeats."""
FAILURES: Final = 8
"""Failing rows that are checked one by one before the policy is assumed to fail for the remaining rows."""
TOGETHER: Final = 50
"""Maximum identities checked in one round trip."""


class Key(NamedTuple):
    """A row's location: its table's quoted name, the key columns, their types, and the texts of the values."""

    table: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    values: tuple[str, ...]


class Seen(NamedTuple):
    """The visible rows, by number, and the rows for which a policy failed."""

    visible: frozenset[int]
    failed: frozenset[int]


async def caught_up(database: Database, snapshot: TransactionSnapshot | None, xids: Collection[int]) -> None:
    """Wait until the effects of these transactions are visible to all sessions."""
    looks = 0
    while snapshot is None or not all(map(snapshot.sees, xids)):
        await asyncio.sleep(PAUSES[min(looks, len(PAUSES) - 1)])
        looks += 1
        ((text,),) = await database.query(_SNAPSHOT)
        snapshot = TransactionSnapshot.parse(text)


Table: TypeAlias = tuple[str, tuple[str, ...], tuple[str, ...]]
"""A table's name, its key columns, and their types."""
Rows: TypeAlias = Sequence[tuple[int, Key]]
"""Rows to check, numbered."""


class Failure(NamedTuple):
    """Rows for which a policy raised for one identity, and PostgreSQL's error text."""

    rows: Rows
    error: str


class PolicyFailed(Exception):
    """A policy raised; has the failures by identity."""

    def __init__(self, viewers: Mapping[Identity, Failure]) -> None:
        super().__init__(f"a row policy raised for {len(viewers)} viewers")
        self.viewers: Final = viewers


async def seen(
    database: Database, wanted: Mapping[Identity, Rows], xids: Collection[int], *, isolate: bool = False
) -> dict[Identity, Seen]:
    """Return what each identity sees of these rows, once these transactions are visible.

    isolate: a policy that raises hides rows from its identity only. Raises: PolicyFailed otherwise; DatabaseError.
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
    """Return the identities for whom a policy still raises.

    Raises: DatabaseError when the database cannot be reached.
    """
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
    """Return what one identity sees when a policy may raise.

    A policy that raises hides the row it raises for; after repeated failures all remaining rows are hidden.
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
    """Check the rows, and repeat the check if the snapshot did not include the transactions."""
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
    """Run one check per identity in one round trip. All checks include what the returned snapshot includes.

    Raises: DatabaseError when a policy raises in any of them.
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
    """Return the query for these rows, its parameters, and the rows by table in the order of the result."""
    tables: dict[Table, list[tuple[int, Key]]] = {}
    for number, key in rows:
        tables.setdefault(key[:3], []).append((number, key))
    parameters: list[Any] = []
    for keys in tables.values():
        parameters += [list(texts) for texts in zip(*(key.values for _, key in keys), strict=True)]
    return _query(tuple(tables)), parameters, list(tables.values())


@lru_cache(maxsize=256)
def _query(tables: tuple[Table, ...]) -> LiteralString:
    """Cached, because composing the query takes longer than running it."""
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
"""Seconds for which facts are cached at most."""
MOST: Final = 10_000
"""Maximum number of cached entries (table and role)."""


class _Known(NamedTuple):
    version: str | None
    facts: Facts | None
    until: float


class CatalogCache:
    """Cache of facts by table and role."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: dict[tuple[int, str], _Known] = {}

    async def of(
        self, oids: Collection[int], roles: Collection[str], xids: Collection[int]
    ) -> Mapping[tuple[int, str], Facts]:
        """Return the facts about these tables and roles, once these transactions are visible.

        A table or role that no longer exists has no entry.
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
        """Query the versions repeatedly until the snapshot includes these transactions."""
        looks = 0
        while True:
            versions, snapshot = await self._catalog.versions(oids)
            if all(map(snapshot.sees, xids)):
                return versions
            await asyncio.sleep(PAUSES[min(looks, len(PAUSES) - 1)])
            looks += 1
