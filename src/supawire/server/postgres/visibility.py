"""Row level security: find which rows an identity can see, with one query per role and claims in a batch.

As on the real server, visibility is evaluated at query time, by primary key, with the role and the claims. The stream
may contain a transaction shortly before other sessions see it, so the queries wait until the snapshot includes it. See
docs/protocol.md, Row level security of changes.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, LiteralString, NamedTuple, TypeAlias, cast

from psycopg import AsyncCursor, sql
from psycopg.rows import TupleRow

from supawire.server.postgres.binding_checks import Identity
from supawire.server.postgres.catalog import TransactionSnapshot, snapshot_delay, wait_until_visible
from supawire.server.postgres.database import Database, DatabaseError, identifier, quoted

_SNAPSHOT: Final = "select pg_current_snapshot()::text"
_SET_IDENTITY: Final = "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)"
_VISIBLE: Final = """
    select v.place from unnest({arrays}) with ordinality v({keys}, place)
    cross join lateral (select from {table} t where {equal} limit 1) row
"""
"""One index look-up per row. As a join, PostgreSQL would evaluate the policy on the whole table."""
MAX_SINGLE_FAILURES: Final = 8
"""Failing rows that are checked one by one before the policy is assumed to fail for the remaining rows."""
MAX_IDENTITIES_PER_QUERY: Final = 50
"""Maximum identities checked in one round trip."""


class Key(NamedTuple):
    """A row's location: its table's quoted name, the key columns, their types, and the texts of the values."""

    table: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    values: tuple[str, ...]


class VisibleRows(NamedTuple):
    """The visible rows, by number, and the rows for which a policy failed."""

    visible: frozenset[int]
    failed: frozenset[int]


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

    def __init__(self, failures: Mapping[Identity, Failure]) -> None:
        super().__init__(f"a row policy raised for {len(failures)} identities")
        self.failures: Final = failures


async def find_visible_rows(
    database: Database, wanted: Mapping[Identity, Rows], xids: Collection[int], *, isolate: bool = False
) -> dict[Identity, VisibleRows]:
    """Return what each identity sees of these rows, once these transactions are visible.

    isolate: a policy that raises hides rows from its identity only. Raises: PolicyFailed otherwise; DatabaseError.
    """
    found: dict[Identity, VisibleRows] = {}
    failing: dict[Identity, Failure] = {}
    identities = list(wanted)
    for first in range(0, len(identities), MAX_IDENTITIES_PER_QUERY):
        some = identities[first : first + MAX_IDENTITIES_PER_QUERY]
        try:
            results = await _check_included(database, [(identity, wanted[identity]) for identity in some], xids)
        except DatabaseError as error:
            if error.retryable:
                raise
            if isolate:
                for identity in some:
                    found[identity] = await _find_visible_rows_one_by_one(database, identity, wanted[identity], xids)
            else:
                suspects = {identity: Failure(wanted[identity], error.text) for identity in some}
                failing.update(await still_failing(database, suspects) or suspects)
        else:
            found.update(
                (identity, VisibleRows(visible, frozenset())) for identity, visible in zip(some, results, strict=True)
            )
    if failing:
        raise PolicyFailed(failing)
    return found


async def still_failing(database: Database, suspects: Mapping[Identity, Failure]) -> dict[Identity, Failure]:
    """Return the identities for whom a policy still raises.

    Raises: DatabaseError when the database cannot be reached.
    """
    failing: dict[Identity, Failure] = {}
    for identity, failure in suspects.items():
        try:
            await _check(database, [(identity, failure.rows)])
        except DatabaseError as error:
            if error.retryable:
                raise
            failing[identity] = Failure(failure.rows, error.text)
    return failing


async def _find_visible_rows_one_by_one(
    database: Database, identity: Identity, rows: Rows, xids: Collection[int]
) -> VisibleRows:
    """Return what one identity sees when a policy may raise.

    A policy that raises hides the row it raises for; after repeated failures all remaining rows are hidden.
    """
    await wait_until_visible(database, xids)
    visible: set[int] = set()
    failed: set[int] = set()
    waiting = [rows]
    alone = 0
    while waiting:
        part = waiting.pop()
        try:
            visible.update(*(await _check(database, [(identity, part)]))[1])
        except DatabaseError as error:
            if error.retryable:
                raise
            if len(part) == 1 or alone >= MAX_SINGLE_FAILURES:
                failed.update(number for number, _ in part)
                alone += 1
            else:
                waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
    return VisibleRows(frozenset(visible), frozenset(failed))


async def _check_included(
    database: Database, checks: Sequence[tuple[Identity, Rows]], xids: Collection[int]
) -> list[frozenset[int]]:
    """Check the rows, and repeat the check if the snapshot did not include the transactions."""
    attempts = 0
    while True:
        snapshot, found = await _check(database, checks)
        if all(map(snapshot.sees, xids)):
            return found
        await asyncio.sleep(snapshot_delay(attempts))
        attempts += 1


async def _check(
    database: Database, checks: Sequence[tuple[Identity, Rows]]
) -> tuple[TransactionSnapshot, list[frozenset[int]]]:
    """Run one check per identity in one round trip. All checks include what the returned snapshot includes.

    Raises: DatabaseError when a policy raises in any of them.
    """
    cursors: list[tuple[AsyncCursor[TupleRow], list[Rows]]] = []
    async with database.connection() as one:
        async with one.pipeline(), one.transaction(force_rollback=True):
            snapshot_cursor = await one.execute(_SNAPSHOT)
            for identity, rows in checks:
                query, parameters, groups = _build_query(rows)
                await one.execute(_SET_IDENTITY, [identity.role, identity.claims])
                cursors.append((await one.execute(query, parameters), groups))
        ((snapshot,),) = await snapshot_cursor.fetchall()
        return TransactionSnapshot.parse(snapshot), [
            frozenset(groups[int(group)][int(place) - 1][0] for group, place in await cursor.fetchall())
            for cursor, groups in cursors
        ]


def _build_query(rows: Rows) -> tuple[LiteralString, list[Any], list[Rows]]:
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
    return sql.SQL(_VISIBLE).format(
        arrays=sql.SQL(", ").join([sql.SQL("%s::text[]")] * len(columns)),
        keys=sql.SQL(", ").join(names),
        table=quoted(table),
        equal=sql.SQL(" and ").join(
            sql.SQL("t.{} = v.{}::{}").format(identifier(column), name, quoted(kind))
            for column, name, kind in zip(columns, names, types, strict=True)
        ),
    )
