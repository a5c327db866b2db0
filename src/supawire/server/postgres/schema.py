"""What the server wants of a database is made where it is missing (protocol §11.1)."""

from functools import cache
from pathlib import Path
from typing import Final

from supawire.errors import StateError
from supawire.server.postgres.database import Database, DatabaseError

HERE: Final = Path(__file__).parent
OURS: Final = "supawire"
"""Comment on the schema `realtime` that we made."""
LOCK: Final = 7_320_117
"""Two preparations of one database wait for one another."""
LACKING: Final = "42501"

_WHOSE: Final = """
    select obj_description(oid, 'pg_namespace') from pg_namespace where nspname = 'realtime'
"""


async def prepare(database: Database, *, ours: bool = False) -> None:
    """Make what is missing; may be done again at any time.

    `ours`: the database is in a cluster of ours, so tables in `public` are opened as in a project of Supabase, and what
    migrations of a project refer to is made.
    Raises: StateError when there is a schema `realtime` of somebody else, or the role may not do it.
    """
    whose = await database.query(_WHOSE)
    if whose and whose[0][0] != OURS:
        raise StateError(
            "the database has a schema realtime that supawire has not made",
            hint="If it is a Supabase database, leave out --prepare: it has what is needed. Otherwise rename it.",
        )
    try:
        async with database.transaction() as connection:
            await connection.execute("select pg_advisory_xact_lock(%s)", [LOCK])
            await connection.execute(text("schema.sql"))
            if ours:
                await connection.execute(text("open.sql"))
                await connection.execute(text("supabase.sql"))
    except DatabaseError as error:
        if error.sqlstate != LACKING:
            raise
        raise StateError(
            f"the database cannot be prepared: {error.text}",
            hint="Use a superuser, or the owner of the database with CREATEROLE.",
        ) from error


@cache
def text(name: str) -> bytes:
    """The SQL of a file beside this one."""
    return (HERE / name).read_bytes()
