"""Queries about types, tables and column privileges.

Types are cached permanently. Facts about tables come from one query; `visibility.py` decides how long to cache them.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from supawire.server.postgres.database import Database
from supawire.server.postgres.values import Type

PUBLICATION: Final = "supabase_realtime"
"""The publication whose tables are watched. See docs/protocol.md, Postgres changes."""

_TYPES: Final = """
    with recursive wanted(oid) as (
      select unnest(%s::oid[])
      union
      select below.oid
      from wanted
      join pg_type t on t.oid = wanted.oid
      cross join lateral (
        select e.oid from pg_type e where e.typarray = t.oid
        union all
        select t.typbasetype where t.typbasetype <> 0
        union all
        select a.atttypid from pg_attribute a
        where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
      ) below
    )
    select t.oid::int8, t.typname::text, format_type(t.oid, null), t.typtype::text,
      coalesce(e.oid, 0)::int8, coalesce(e.typdelim, ',')::text, t.typbasetype::int8,
      array(select a.attname::text from pg_attribute a
        where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped order by a.attnum),
      array(select a.atttypid::int8 from pg_attribute a
        where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped order by a.attnum),
      exists (select from pg_cast c
        where c.castsource = t.oid and c.casttarget = 'json'::regtype and c.castfunc <> 0 and t.oid >= 16384)
    from wanted
    join pg_type t on t.oid = wanted.oid
    left join pg_type e on e.typarray = t.oid
"""

_FACTS: Final = """
    select c.oid::int8, r.rolname::text, format('%%I.%%I', n.nspname, c.relname), c.relrowsecurity,
      array(select a.attname::text from pg_constraint k
        join pg_attribute a on a.attrelid = k.conrelid and a.attnum = any(k.conkey)
        where k.conrelid = c.oid and k.contype = 'p'),
      columns.names, columns.types, columns.readable
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    cross join pg_roles r
    cross join lateral (
      select array_agg(a.attname::text order by a.attnum) as names,
        array_agg((select t.typname::text from pg_type t where t.oid = a.atttypid) order by a.attnum) as types,
        array_agg(has_column_privilege(r.oid, c.oid, a.attnum, 'SELECT') order by a.attnum) as readable
      from pg_attribute a
      where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    ) columns
    where c.oid = any(%s::oid[]) and r.rolname = any(%s)
"""

_VERSIONS: Final = """
    select pg_current_snapshot()::text, c.oid::int8, concat(c.xmin, c.ctid, (
      select string_agg(concat(a.xmin, a.ctid), ',' order by a.attnum)
      from pg_attribute a
      where a.attrelid = c.oid and a.attnum > 0))
    from (select) one
    left join pg_class c on c.oid = any(%s::oid[])
"""
"""Row versions of pg_class and pg_attribute: GRANT, REVOKE and ALTER TABLE write new ones."""

_PUBLISHED: Final = """
    select distinct c.oid::int8, p.schemaname::text, p.tablename::text
    from pg_publication_tables p
    join pg_namespace n on n.nspname = p.schemaname
    join pg_class c on c.relname = p.tablename and c.relnamespace = n.oid
    where p.pubname = %s
    order by 2, 3
"""

UNKNOWN: Final = "text"
"""The type used for a type that no longer exists: its values are sent as strings."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the publication."""

    oid: int
    schema: str
    name: str


@dataclass(frozen=True, slots=True)
class Facts:
    """The current properties of a table for one role.

    sql: its quoted name. columns: name and type, in table order. readable: the columns that the role may select.
    """

    sql: str
    row_security: bool
    key: frozenset[str]
    columns: tuple[tuple[str, str], ...]
    readable: frozenset[str]


@dataclass(frozen=True, slots=True)
class TransactionSnapshot:
    """The transactions that are visible to a query."""

    below: int
    """First transaction id that has not started."""
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> "TransactionSnapshot":
        """Parse the text of a `pg_snapshot`: `xmin:xmax:running,…`."""
        _least, below, running = text.split(":")
        return cls(int(below), frozenset(map(int, running.split(","))) if running else frozenset())

    def sees(self, xid: int) -> bool:
        """Return whether this transaction is visible to the query.

        The stream gives only the lower 32 bits of the id.
        """
        full = self.below - ((self.below - xid + 2**31) % 2**32 - 2**31)  # the nearest full id with these lower 32 bits
        return full < self.below and full not in self.running


class Catalog:
    """Queries of the system catalogs. `types` holds the types loaded so far."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.types: Final[dict[int, Type]] = {}

    async def learn(self, oids: Iterable[int]) -> None:
        """Load these types and the types they consist of.

        Loaded types are not replaced: their writers refer to them.
        """
        unknown = [oid for oid in set(oids) if oid not in self.types]
        if not unknown:
            return
        for oid, name, sql, kind, item, delimiter, base, fields, kinds, cast in await self._database.query(
            _TYPES, [unknown]
        ):
            pairs = tuple(zip(fields, kinds, strict=True))
            self.types.setdefault(oid, Type(oid, name, sql, "j" if cast else kind, item, delimiter, base, pairs))
        for oid in unknown:
            self.types.setdefault(oid, Type(oid, UNKNOWN, UNKNOWN))

    async def versions(self, oids: Collection[int]) -> tuple[Mapping[int, str], TransactionSnapshot]:
        """Return a text for each table that changes with its columns and privileges, and the snapshot of this query."""
        rows = await self._database.query(_VERSIONS, [list(oids)])
        return {oid: version for _, oid, version in rows if oid is not None}, TransactionSnapshot.parse(rows[0][0])

    async def facts(self, oids: Collection[int], roles: Collection[str]) -> Mapping[tuple[int, str], Facts]:
        """Return the current facts by table and role. Tables and roles that do not exist have no entry."""
        found: dict[tuple[int, str], Facts] = {}
        for oid, role, sql, secured, key, names, types, readable in await self._database.query(
            _FACTS, [list(oids), list(roles)]
        ):
            columns = tuple(zip(names or (), types or (), strict=True))
            may = frozenset(name for name, yes in zip(names or (), readable or (), strict=True) if yes)
            found[oid, role] = Facts(sql, secured, frozenset(key), columns, may)
        return found

    async def published(self) -> tuple[Table, ...]:
        """Return the tables of the publication; empty when the publication does not exist."""
        return tuple(Table(*row) for row in await self._database.query(_PUBLISHED, [PUBLICATION]))
