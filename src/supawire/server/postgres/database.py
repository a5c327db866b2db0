"""Names in SQL text that also has parameters: there a percent sign has to be doubled, also within a name.

Connections to the database, a few of them, shared by everything in the server that asks it something.
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
    """A name that PostgreSQL has quoted where needed, such as what `format_type` gives."""
    return sql.SQL(cast("LiteralString", name.replace("%", "%%")))


def identifier(name: str) -> sql.SQL:
    """A name as it is in the catalogue."""
    return quoted(sql.Identifier(name).as_string())


Text: TypeAlias = LiteralString | sql.SQL | sql.Composed
Row: TypeAlias = tuple[Any, ...]
CONNECTIONS: Final = 4
NAME: Final = "supawire"
"""What `pg_stat_activity` shows."""
CONNECTING: Final = 10
"""Seconds; connecting to this machine takes some milliseconds."""


class DatabaseError(RealtimeError):
    """PostgreSQL refused a statement, or cannot be reached (`retryable`).

    `sqlstate`: its five characters, None when it said nothing. `text`: its message, without detail and position.
    """

    def __init__(self, message: str, *, sqlstate: str | None, text: str, retryable: bool, hint: str | None) -> None:
        super().__init__(message, retryable=retryable, hint=hint)
        self.sqlstate: Final = sqlstate
        self.text: Final = text


def told(error: psycopg.Error) -> DatabaseError:
    """The same error, of our tree."""
    text = error.diag.message_primary or one_line(error)
    return DatabaseError(
        f"the database refused: {text}" if error.sqlstate else f"the database cannot be reached: {text}",
        sqlstate=error.sqlstate,
        text=text,
        retryable=is_lost(error),
        hint=error.diag.message_hint,
    )


def one_line(error: Exception) -> str:
    """What libpq says by itself is spread over lines."""
    return " ".join(str(error).split())


def is_lost(error: psycopg.Error) -> bool:
    """Whether the connection is what failed, so that another one may do."""
    state = error.sqlstate or ""
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and (
        not state or state[:2] in ("08", "57", "53")
    )


async def connect(url: str, **more: Any) -> AsyncConnection[TupleRow]:
    """One connection, each statement committed at once unless a transaction is opened. Raises: DatabaseError."""
    options: dict[str, Any] = {"application_name": NAME, "connect_timeout": CONNECTING, **more}
    try:
        return await AsyncConnection.connect(url, autocommit=True, **options)
    except psycopg.Error as error:
        raise told(error) from error


class Database:
    """A pool of connections; they are opened when first needed, and replaced when they are lost."""

    def __init__(self, url: str, size: int = CONNECTIONS) -> None:
        self.url: Final = url
        self._idle: list[AsyncConnection[TupleRow]] = []
        self._free: Final = asyncio.Semaphore(size)
        self._closed = False

    def __repr__(self) -> str:
        return "Database()"  # the URL holds a password

    async def query(self, text: Text | str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement, committed at once; its rows. `text` has `%s` for parameters. Raises: DatabaseError."""
        async with self.connection() as connection:
            # never a value: callers write it themselves or compose it with psycopg.sql
            cursor = await connection.execute(cast("LiteralString", text), parameters or None)
            return await cursor.fetchall() if cursor.description is not None else []

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[AsyncConnection[TupleRow]]:
        """A connection for as long as the block takes; psycopg's errors in it become DatabaseError.

        After an error of the connection itself it is thrown away; so it is when a transaction is left open, and when
        the block was cancelled: answers that it did not wait for would be taken for those to the next question.
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
        """The same inside a transaction; `rollback` undoes it at the end in any case."""
        async with self.connection() as connection, connection.transaction(force_rollback=rollback):
            yield connection

    async def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
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
