"""The connection pool that all backend components share, and helpers for quoting names in SQL.

In SQL with parameters a percent sign must be doubled, also within a quoted name.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, LiteralString, TypeAlias, cast

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import TupleRow

from supawire.errors import RealtimeError, StateError


def quoted(name: str) -> sql.SQL:
    """Return SQL for a name that PostgreSQL has already quoted, such as the result of `format_type`."""
    return sql.SQL(cast("LiteralString", name.replace("%", "%%")))


def identifier(name: str) -> sql.SQL:
    """Return SQL for an unquoted name, as stored in the catalog."""
    return quoted(sql.Identifier(name).as_string())


Text: TypeAlias = LiteralString | sql.SQL | sql.Composed
Row: TypeAlias = tuple[Any, ...]
CONNECTIONS: Final = 4
NAME: Final = "supawire"
"""The application name shown in `pg_stat_activity`."""
CONNECTING: Final = 10
"""Connection timeout in seconds; a local connection takes some milliseconds."""


class DatabaseError(RealtimeError):
    """PostgreSQL refused a statement, or cannot be reached (`retryable`).

    `sqlstate`: its five-character code, None if there is none. `text`: its message, without detail and position.
    """

    def __init__(self, message: str, *, sqlstate: str | None, text: str, retryable: bool, hint: str | None) -> None:
        super().__init__(message, retryable=retryable, hint=hint)
        self.sqlstate: Final = sqlstate
        self.text: Final = text


def told(error: psycopg.Error) -> DatabaseError:
    """Convert a psycopg error to a DatabaseError."""
    text = error.diag.message_primary or one_line(error)
    return DatabaseError(
        f"the database refused: {text}" if error.sqlstate else f"the database cannot be reached: {text}",
        sqlstate=error.sqlstate,
        text=text,
        retryable=is_lost(error),
        hint=error.diag.message_hint,
    )


def one_line(error: Exception) -> str:
    """Join the lines of an error message; those of libpq span several lines."""
    return " ".join(str(error).split())


def is_lost(error: psycopg.Error) -> bool:
    """Return whether the connection failed, so that a new connection may succeed."""
    state = error.sqlstate or ""
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and (
        not state or state[:2] in ("08", "57", "53")
    )


async def connect(url: str, **more: Any) -> AsyncConnection[TupleRow]:
    """Open one connection in autocommit mode. Raises: DatabaseError."""
    options: dict[str, Any] = {"application_name": NAME, "connect_timeout": CONNECTING, **more}
    try:
        return await AsyncConnection.connect(url, autocommit=True, **options)
    except psycopg.Error as error:
        raise told(error) from error


class Database:
    """A pool of connections, opened on demand and replaced when they are lost."""

    def __init__(self, url: str, size: int = CONNECTIONS) -> None:
        self.url: Final = url
        self._idle: list[AsyncConnection[TupleRow]] = []
        self._free: Final = asyncio.Semaphore(size)
        self._closed = False

    def __repr__(self) -> str:
        return "Database()"  # without the URL, which contains a password

    async def query(self, text: Text | str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement in autocommit mode and return its rows.

        `text` has `%s` for parameters. Raises: DatabaseError.
        """
        async with self.connection() as connection:
            # never contains a value: callers pass literals or compose it with psycopg.sql
            cursor = await connection.execute(cast("LiteralString", text), parameters or None)
            return await cursor.fetchall() if cursor.description is not None else []

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[AsyncConnection[TupleRow]]:
        """Provide a connection for the block; psycopg's errors in it are converted to DatabaseError.

        The connection is discarded after a connection error, when a transaction is left open, and when the block was
        cancelled: the next query could otherwise receive the results of the cancelled one.
        """
        async with self._free:
            connection = await self._take()
            try:
                yield connection
            except psycopg.Error as error:
                raise told(error) from error
            except BaseException:
                await connection.close()
                raise
            finally:
                await self._give_back(connection)

    @asynccontextmanager
    async def transaction(self, *, rollback: bool = False) -> AsyncGenerator[AsyncConnection[TupleRow]]:
        """Provide a connection inside a transaction; with `rollback` it is always rolled back."""
        async with self.connection() as connection, connection.transaction(force_rollback=rollback):
            yield connection

    async def close(self) -> None:
        """Close idle connections; connections in use are closed when they are returned."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    async def _take(self) -> AsyncConnection[TupleRow]:
        if self._closed:
            raise StateError("the connections to the database are closed")
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return await connect(self.url)

    async def _give_back(self, connection: AsyncConnection[TupleRow]) -> None:
        idle = connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        if self._closed or connection.closed or not idle:
            await connection.close()
        else:
            self._idle.append(connection)
