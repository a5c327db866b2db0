"""Create the schema that the server needs where it is missing, and run SQL for `LocalServer.sql`."""

import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, LiteralString, cast

import psycopg
from psycopg.rows import TupleRow

from supawire.errors import StateError
from supawire.server.postgres.database import CONNECTING, NAME, Database, DatabaseError

HERE: Final = Path(__file__).parent
OURS: Final = "supawire"
"""Comment that marks a schema `realtime` created by this library."""
LOCK: Final = 7_320_117
"""Key of the advisory lock that serializes preparations of the same database."""
LACKING: Final = "42501"

_WHOSE: Final = """
    select obj_description(oid, 'pg_namespace') from pg_namespace where nspname = 'realtime'
"""


async def prepare(database: Database, *, ours: bool = False) -> None:
    """Create whatever is missing; may be called repeatedly.

    `ours`: the database is in an embedded cluster, so privileges on `public` are granted as in a Supabase project, and
    roles and schemas that migrations refer to are created.
    Raises: StateError when a schema `realtime` exists that this library did not create, or the role lacks privileges.
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
    """Return the contents of an SQL file in this folder."""
    return (HERE / name).read_bytes()


class SqlSession:
    """One connection shared by all threads, opened on first use and reopened after it was lost.

    Args: where: returns the URL of the database, once it runs.
    """

    def __init__(self, where: Callable[[], str]) -> None:
        self._where: Final = where
        self._turn: Final = threading.Lock()
        self._connection: psycopg.Connection[TupleRow] | None = None
        self._closed = False

    def run(self, text: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run statements in autocommit mode and return the rows of the last one that has any.

        Raises: psycopg.Error; StateError once it is closed.
        """
        with self._turn:
            if self._closed:
                raise StateError("the local server has stopped")
            connection = self._connection
            if connection is None or connection.closed:
                connection = self._connection = psycopg.connect(
                    self._where(), autocommit=True, application_name=NAME, connect_timeout=CONNECTING
                )
            with connection.cursor() as cursor:
                cursor.execute(cast("LiteralString", text), parameters or None)  # written by the test's author
                rows: list[tuple[Any, ...]] = []
                more: bool | None = True
                while more:
                    if cursor.description is not None:
                        rows = cursor.fetchall()
                    more = cursor.nextset()
                return rows

    def close(self) -> None:
        """Close the connection permanently, after the running statement."""
        with self._turn:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
