"""What the server wants of a database is made where it is missing (protocol §11.1).

SQL from any thread, a statement at a time: what `LocalServer.sql` runs on.
"""

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


class SqlSession:
    """One connection for all threads, opened when it is first used, and again when it was lost.

    Args: where: the URL of the database, once it runs.
    """

    def __init__(self, where: Callable[[], str]) -> None:
        self._where: Final = where
        self._turn: Final = threading.Lock()
        self._connection: psycopg.Connection[TupleRow] | None = None
        self._closed = False

    def run(self, text: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of the last statement that has any; each is committed when this returns.

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
                cursor.execute(cast("LiteralString", text), parameters or None)  # whoever writes tests writes SQL
                rows: list[tuple[Any, ...]] = []
                more: bool | None = True
                while more:
                    if cursor.description is not None:
                        rows = cursor.fetchall()
                    more = cursor.nextset()
                return rows

    def close(self) -> None:
        """Close the connection for good, once the statement that is running is done."""
        with self._turn:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
