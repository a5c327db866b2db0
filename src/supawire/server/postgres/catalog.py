"""Query and cache types, tables, primary keys and column privileges.

Types are cached permanently. Privileges may change in the transaction that writes a row, so each batch of changes first
queries the versions of its tables, in a snapshot that includes the batch; facts are cached by version. Changes that do
not modify a table's catalog rows, such as role memberships, take effect up to a second later.
"""

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:  # so that values can be converted without psycopg
    from supawire.server.postgres.database import Database

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

_SNAPSHOT: Final = "select pg_current_snapshot()::text"

UNKNOWN: Final = "text"
"""The type used for a type that no longer exists: its values are sent as strings."""


@dataclass(frozen=True, slots=True)
class Type:
    """A type of the catalog. name: as in pg_type; sql: its SQL name, quoted and qualified where needed.

    kind: `b`ase, `c`omposite, `d`omain, `e`num, `p`seudo, `r`ange or `m`ultirange, as in pg_type; `j` for one with a
    cast to JSON of its own, such as hstore. item: for an array the oid of its items. base: for a domain the oid of its
    base type. fields: for a composite names and oids.
    """

    oid: int
    name: str
    sql: str
    kind: str = "b"
    item: int = 0
    delimiter: str = ","
    base: int = 0
    fields: tuple[tuple[str, int], ...] = ()

    @property
    def whole(self) -> str:
        """The type to cast a text to without truncation: `character` alone means a length of one."""
        return _WITHOUT_LENGTH.get(self.oid, self.sql)


_WITHOUT_LENGTH: Final = {1042: "pg_catalog.bpchar", 1560: 'pg_catalog."bit"'}


FIRST_USER_OID: Final = 16_384
"""First oid that PostgreSQL assigns to objects created by users."""


def is_builtin(type: Type) -> bool:
    """Return whether this is a base type of PostgreSQL itself; a user-defined type may have the same name."""
    return type.kind == "b" and type.oid < FIRST_USER_OID


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


class _CachedFacts(NamedTuple):
    version: str | None
    facts: Facts | None
    expires_at: float


class Catalog:
    """Queries of the system catalogs, and a cache of the facts about tables.

    `types` holds the types loaded so far.
    """

    def __init__(self, database: "Database") -> None:
        self._database = database
        self.types: Final[dict[int, Type]] = {}
        self._facts: dict[tuple[int, str], _CachedFacts] = {}

    async def load_types(self, oids: Iterable[int]) -> None:
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

    async def facts(
        self, oids: Collection[int], roles: Collection[str], xids: Collection[int]
    ) -> Mapping[tuple[int, str], Facts]:
        """Return the facts by table and role, once these transactions are visible.

        A table or role that no longer exists has no entry.
        """
        now = time.monotonic()
        versions = await self._versions(oids, xids)
        pairs = [(oid, role) for oid in oids for role in roles]
        cached = {
            pair: one
            for pair in pairs
            if (one := self._facts.get(pair)) is not None
            and one.version == versions.get(pair[0])
            and one.expires_at > now
        }
        if len(cached) == len(pairs):
            return {pair: one.facts for pair, one in cached.items() if one.facts is not None}
        found = await self._load_facts(oids, roles)
        if len(self._facts) > MAX_CACHED_FACTS:
            self._facts.clear()
        for oid, role in pairs:
            self._facts[oid, role] = _CachedFacts(versions.get(oid), found.get((oid, role)), now + FACTS_LIFETIME)
        return found

    async def _versions(self, oids: Collection[int], xids: Collection[int]) -> Mapping[int, str]:
        """Return a text for each table that changes with its columns and privileges.

        The query is repeated until its snapshot includes these transactions.
        """
        attempts = 0
        while True:
            rows = await self._database.query(_VERSIONS, [list(oids)])
            snapshot = TransactionSnapshot.parse(rows[0][0])
            if all(map(snapshot.sees, xids)):
                return {oid: version for _, oid, version in rows if oid is not None}
            await asyncio.sleep(snapshot_delay(attempts))
            attempts += 1

    async def _load_facts(self, oids: Collection[int], roles: Collection[str]) -> Mapping[tuple[int, str], Facts]:
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


FACTS_LIFETIME: Final = 1.0
"""Maximum seconds for which facts are cached."""
MAX_CACHED_FACTS: Final = 10_000
SNAPSHOT_DELAYS: Final = (0.0, 0.0005, 0.002, 0.01, 0.05)
"""Seconds between two checks of a snapshot that is behind; the last value repeats."""


def snapshot_delay(attempts: int) -> float:
    """Return the seconds to wait after this many checks of a snapshot that is behind."""
    return SNAPSHOT_DELAYS[min(attempts, len(SNAPSHOT_DELAYS) - 1)]


async def wait_until_visible(database: "Database", xids: Collection[int]) -> None:
    """Wait until the effects of these transactions are visible to all sessions."""
    attempts = 0
    while True:
        ((text,),) = await database.query(_SNAPSHOT)
        if all(map(TransactionSnapshot.parse(text).sees, xids)):
            return
        await asyncio.sleep(snapshot_delay(attempts))
        attempts += 1
