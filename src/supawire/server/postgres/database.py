"""The connections to the database: a pool for the backend, a session for the server's owner, and quoting of names.

In SQL with parameters a percent sign must be doubled, also within a quoted name.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
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
MAX_CONNECTIONS: Final = 4
APPLICATION_NAME: Final = "supawire"
"""The application name shown in `pg_stat_activity`."""
CONNECT_TIMEOUT: Final = 10
"""Connection timeout in seconds; a local connection takes some milliseconds."""


class DatabaseError(RealtimeError):
    """PostgreSQL refused a statement, or cannot be reached (`retryable`).

    `sqlstate`: its five-character code, None if there is none. `text`: its message, without detail and position.
    """

    def __init__(self, message: str, *, sqlstate: str | None, text: str, retryable: bool, hint: str | None) -> None:
        super().__init__(message, retryable=retryable, hint=hint)
        self.sqlstate: Final = sqlstate
        self.text: Final = text


def error_of(error: psycopg.Error) -> DatabaseError:
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
    options: dict[str, Any] = {"application_name": APPLICATION_NAME, "connect_timeout": CONNECT_TIMEOUT, **more}
    try:
        return await AsyncConnection.connect(url, autocommit=True, **options)
    except psycopg.Error as error:
        raise error_of(error) from error


class Database:
    """A pool of connections, opened on demand and replaced when they are lost."""

    def __init__(self, url: str, size: int = MAX_CONNECTIONS) -> None:
        self.url: Final = url
        self._idle: list[AsyncConnection[TupleRow]] = []
        self._slots: Final = asyncio.Semaphore(size)
        self._closed = False

    def __repr__(self) -> str:
        return "Database()"  # without the URL, which contains a password

    @property
    def idle(self) -> int:
        """The number of open connections that are not in use."""
        return len(self._idle)

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
        async with self._slots:
            connection = await self._take()
            try:
                yield connection
            except psycopg.Error as error:
                raise error_of(error) from error
            except BaseException:
                await connection.close()
                raise
            finally:
                await self._put_back(connection)

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

    async def _put_back(self, connection: AsyncConnection[TupleRow]) -> None:
        idle = connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        if self._closed or connection.closed or not idle:
            await connection.close()
        else:
            self._idle.append(connection)


class SqlSession:
    """One connection shared by all threads, opened on first use and reopened after it was lost.

    url: returns the URL of the database, once it runs.
    """

    def __init__(self, url: Callable[[], str]) -> None:
        self._url: Final = url
        self._lock: Final = threading.Lock()
        self._connection: psycopg.Connection[TupleRow] | None = None
        self._closed = False

    def run(self, text: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run statements in autocommit mode and return the rows of the last one that has any.

        Raises: psycopg.Error; StateError once it is closed.
        """
        with self._lock:
            if self._closed:
                raise StateError("the local server has stopped")
            connection = self._connection
            if connection is None or connection.closed:
                connection = self._connection = psycopg.connect(
                    self._url(), autocommit=True, application_name=APPLICATION_NAME, connect_timeout=CONNECT_TIMEOUT
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
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
