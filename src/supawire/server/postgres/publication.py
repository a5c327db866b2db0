"""Stream the tables of the watched publication without its row filters and column lists.

The real server reads the log with wal2json, which ignores both, so rows hidden that way are still delivered in
production. The `pgoutput` decoder used here applies them; therefore the stream uses a second publication of the same
whole tables. It is created, for as long as it is needed, in databases that this library prepared; in other databases a
warning is logged. See docs/protocol.md, Surprises.
"""

import logging
from collections.abc import Iterable
from typing import Any, Final

from psycopg import sql

from supawire.server.postgres.catalog import PUBLICATION
from supawire.server.postgres.database import Database, DatabaseError, quoted
from supawire.server.postgres.preflight import OURS

logger: Final = logging.getLogger("supawire.server")

WHOLE: Final = "supawire_whole_tables"
"""Name of the second publication."""
IGNORED: Final = (
    "the publication %s has a row filter or a column list for %s; the real server ignores both and sends every row "
    "and column, and so does this server. Use row level security and column privileges to hide data."
)
APPLIED: Final = (
    "the publication %s has a row filter or a column list for %s, which applies here only: the real server ignores "
    "both and sends every row and column. Use row level security and column privileges to hide data."
)

_NARROWED_TABLES: Final = """
    select c.oid::regclass::text
    from pg_publication_rel r
    join pg_publication p on p.oid = r.prpubid
    join pg_class c on c.oid = r.prrelid
    where p.pubname = %s and (r.prqual is not null or r.prattrs is not null)
    order by 1
"""
_IS_OURS: Final = "select from pg_namespace where nspname = 'realtime' and obj_description(oid, 'pg_namespace') = %s"
_EXISTING: Final = "select pubname::text from pg_publication where pubname = any(%s) order by 1"
_STATE: Final = """
    select p.pubinsert, p.pubupdate, p.pubdelete, p.pubviaroot,
      array(select format('%%I.%%I', t.schemaname, t.tablename)
        from pg_publication_tables t where t.pubname = p.pubname order by 1)
    from pg_publication p
    where p.pubname = %s
"""


class WatchedPublication:
    """Chooses the publication to stream, and logs warnings about settings that the real server ignores."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database
        self._warned: tuple[str, ...] = ()

    async def names_to_stream(self, others: Iterable[str]) -> tuple[str, ...]:
        """Return the existing publications among the watched one and these: a stream that names a missing one fails.

        The second publication takes the place of the watched one where it is needed. Raises: DatabaseError.
        """
        rows = await self._database.query(_EXISTING, [[PUBLICATION, *others]])
        names = [name for (name,) in rows]
        if PUBLICATION in names:
            names[names.index(PUBLICATION)] = await self._whole_or_watched()
        return tuple(names)

    async def _whole_or_watched(self) -> str:
        narrowed = tuple(name for (name,) in await self._database.query(_NARROWED_TABLES, [PUBLICATION]))
        name = await self._update_whole() if narrowed else PUBLICATION
        if narrowed and narrowed != self._warned:
            logger.warning(APPLIED if name == PUBLICATION else IGNORED, PUBLICATION, ", ".join(narrowed))
        self._warned = narrowed
        return name

    async def drop_unused(self, names: tuple[str, ...]) -> None:
        """Drop the second publication if it is not in `names`."""
        if WHOLE in names or not await self._database.query(_STATE, [WHOLE]):
            return
        try:
            await self._database.query(sql.SQL("drop publication if exists {}").format(sql.Identifier(WHOLE)))
        except DatabaseError as error:
            if error.retryable:
                raise
            logger.info("the publication %s could not be dropped: %s", WHOLE, error.text)

    async def _update_whole(self) -> str:
        """Create or update the second publication and return its name, or the first one's if that is not possible."""
        if not await self._database.query(_IS_OURS, [OURS]):
            return PUBLICATION
        wanted = await self._database.query(_STATE, [PUBLICATION])
        existing = await self._database.query(_STATE, [WHOLE])
        if wanted and wanted != existing:
            try:
                await self._create(*wanted[0])
            except DatabaseError as error:
                if error.retryable:
                    raise
                logger.info("the publication %s cannot be created: %s", WHOLE, error.text)
                return PUBLICATION
        return WHOLE

    async def _create(self, inserts: Any, updates: Any, deletes: Any, via_root: Any, tables: list[str]) -> None:
        kinds = [kind for kind, yes in (("insert", inserts), ("update", updates), ("delete", deletes)) if yes]
        async with self._database.transaction() as connection:
            await connection.execute(sql.SQL("drop publication if exists {}").format(sql.Identifier(WHOLE)))
            await connection.execute(
                sql.SQL(
                    "create publication {} for table {} with (publish = {}, publish_via_partition_root = {})"
                ).format(
                    sql.Identifier(WHOLE),
                    sql.SQL(", ").join([quoted(table) for table in tables]),
                    sql.Literal(", ".join(kinds)),
                    sql.Literal(bool(via_root)),
                )
            )
