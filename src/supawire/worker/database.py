"""The connections of a worker to PostgreSQL: opened on demand, used again, and replaced when they are lost.

A pool library is not used, because the engine already decides when to try again, and needs few connections: claims,
completions and extensions of a worker rarely overlap.
"""

import asyncio
import re
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, LiteralString, TypeAlias, cast

import psycopg
from psycopg import AsyncConnection, Connection, sql
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Format
from psycopg.rows import TupleRow

from supawire.errors import InvalidArgumentError, RealtimeError, StateError
from supawire.options import Secret

Statement: TypeAlias = LiteralString | sql.SQL | sql.Composed
Row: TypeAlias = tuple[Any, ...]

APPLICATION_NAME: Final = "supawire worker"
"""The application name shown in `pg_stat_activity`."""
MAX_CONNECTIONS: Final = 4
_OPTIONS: Final = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "tcp_user_timeout": 30_000}
"""Times after which a connection to a machine that no longer answers is given up; seconds and milliseconds."""
_SESSION: Final = "select set_config('TimeZone', 'UTC', false), set_config('DateStyle', 'ISO, YMD', false)"
"""The text of a key that is a time must be the same in every session."""
_ENGINE: Final = ", set_config('lock_timeout', '500ms', false)"
"""A statement of the engine must not wait as long as a user's transaction that locks one of its rows."""
LOCK_NOT_AVAILABLE: Final = "55P03"
TRANSACTION_POOLER_PORT: Final = "6543"
"""Port of Supabase's pooler that gives each transaction another session, so that statements cannot be prepared."""
_TEMPORARY: Final = ("08", "40", "53", "57", "25006", "55P03", "0A000")
"""Beginnings of SQLSTATE codes after which the same statement may succeed."""
_BROKEN: Final = ("08", "57", "0A000")
"""Those after which another connection is opened. 0A000: a prepared statement is outdated, because the table has got
another column."""


class DatabaseError(RealtimeError):
    """PostgreSQL refused a statement, or cannot be reached (`retryable`).

    `sqlstate`: its five-character code, None if there is none.
    """

    def __init__(self, message: str, *, sqlstate: str | None, retryable: bool, hint: str | None = None) -> None:
        super().__init__(message, retryable=retryable, hint=hint)
        self.sqlstate: Final = sqlstate


def convert_error(error: psycopg.Error) -> DatabaseError:
    """Return the error of this library for one of psycopg."""
    state = error.sqlstate
    text = error.diag.message_primary or " ".join(str(error).split())
    lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not state
    return DatabaseError(
        f"the database cannot be reached: {text}" if lost else f"the database refused: {text}",
        sqlstate=state,
        retryable=lost or bool(state and state.startswith(_TEMPORARY)),
        hint=error.diag.message_hint,
    )


def check_database(url: object) -> Secret:
    """Return the URL of a database as a `Secret`. Raises: InvalidArgumentError, which never shows it."""
    secret = url if isinstance(url, Secret) else Secret(url) if isinstance(url, str) else None
    example = "postgresql://user:password@host:5432/postgres"
    if secret is None or not secret.reveal().strip():
        raise InvalidArgumentError(
            f"database must be the URL of a PostgreSQL, such as {example}", hint="See docs/worker.md."
        )
    try:
        parts = conninfo_to_dict(secret.reveal())
        # with an unescaped mark, the rest of a password is a part of something else, which errors would show
        port, rest = str(parts.get("port", "")), f"{parts.get('dbname')}{parts.get('host')}"
        fits = "@" not in rest and re.fullmatch(r"[\d,]*", port) is not None
    except psycopg.ProgrammingError:  # its text may show a part of the password
        fits = False
    if not fits:
        raise InvalidArgumentError(
            f"database is not a valid URL of a PostgreSQL, such as {example}",
            hint="Characters such as @ : / # in the password must be percent-encoded.",
        )
    return secret


def _tolerant(kind: str) -> type[Loader]:
    """Return a loader that returns the text of a value of this type that cannot be a Python value.

    Such a value in one row must not fail the statement that claims, which has taken this row and others already.
    """
    usual = psycopg.adapters.get_loader(psycopg.adapters.types[kind].oid, Format.TEXT)
    assert usual is not None

    class Tolerant(Loader):
        def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
            super().__init__(oid, context)
            self._load: Final = usual(oid, context).load

        def load(self, data: Buffer) -> Any:
            try:
                return self._load(data)
            except (psycopg.DataError, ValueError, RecursionError):
                return bytes(data).decode(errors="replace")

    return Tolerant


_LOADERS: Final = {
    kind: _tolerant(kind)
    for kind in ("json", "jsonb", "date", "time", "timetz", "timestamp", "timestamptz", "interval")
}
"""For `infinity`, years before 1 and after 9999, 24:00, and JSON that is nested too deeply or has huge integers."""


class Database:
    """Connections for one event loop, in autocommit mode.

    size: how many may be open. for_users: whether they are for transactions of handlers.
    """

    def __init__(self, url: Secret, size: int = MAX_CONNECTIONS, *, for_users: bool = False) -> None:
        self._for_users: Final = for_users
        self._session: Final = _SESSION if for_users else _SESSION + _ENGINE
        self._url: Final = url
        self._options: Final = connection_options(url)
        self._idle: Final[list[AsyncConnection[TupleRow]]] = []
        self._slots: Final = asyncio.Semaphore(size)
        self._closed = False
        self.queries: int = 0
        """How many statements were sent by `query`."""

    def __repr__(self) -> str:
        return "Database()"  # without the URL, which contains a password

    async def query(self, statement: Statement, parameters: Any = None) -> list[Row]:
        """Run one statement, prepared, and return its rows. Raises: DatabaseError."""
        self.queries += 1
        async with self.connection() as connection:
            cursor = await connection.execute(statement, parameters, prepare=True)
            return await cursor.fetchall() if cursor.description is not None else []

    async def table(self, statement: Statement, parameters: Any = None) -> tuple[list[str], list[Row]]:
        """Run one statement, prepared, and return the names of its columns and its rows. Raises: DatabaseError."""
        self.queries += 1
        async with self.connection() as connection:
            cursor = await connection.execute(statement, parameters, prepare=True)
            assert cursor.description is not None
            return [column.name for column in cursor.description], await cursor.fetchall()

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[AsyncConnection[TupleRow]]:
        """Provide a connection for the block; errors of psycopg in it are converted to DatabaseError."""
        try:
            async with self.raw_connection() as connection:
                yield connection
        except psycopg.Error as error:
            raise convert_error(error) from error

    @asynccontextmanager
    async def raw_connection(self) -> AsyncGenerator[AsyncConnection[TupleRow]]:
        """Provide a connection for the block.

        It is closed after an error of psycopg that may be due to it, after a cancellation, because the next statement
        could get the result of this one, and when a transaction is left open.
        """
        async with self._slots:
            connection = await self._take()
            try:
                yield connection
            except psycopg.Error as error:
                if (error.sqlstate or "08").startswith(_BROKEN):
                    await connection.close()
                raise
            except asyncio.CancelledError:
                await connection.close()
                raise
            finally:
                await self._put_back(connection)

    async def close(self) -> None:
        """Close the connections; those in use are closed when they are returned."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()

    async def _take(self) -> AsyncConnection[TupleRow]:
        if self._closed:
            raise StateError("the connections to the database are closed")
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        try:
            connection = await AsyncConnection.connect(self._url.reveal(), autocommit=True, **self._options)
        except psycopg.Error as error:
            raise convert_error(error) from error
        try:
            if not self._for_users:
                for kind, loader in _LOADERS.items():
                    connection.adapters.register_loader(kind, loader)
            await connection.execute(self._session)
        except BaseException as error:
            await connection.close()
            if isinstance(error, psycopg.Error):
                raise convert_error(error) from error
            raise
        return connection

    async def _put_back(self, connection: AsyncConnection[TupleRow]) -> None:
        idle = connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        if self._closed or connection.closed or not idle:
            await connection.close()
        else:
            self._idle.append(connection)


class BlockingDatabase:
    """Connections for handlers that run on threads."""

    def __init__(self, url: Secret) -> None:
        self._url: Final = url
        self._options: Final = connection_options(url)
        self._idle: Final[list[Connection[TupleRow]]] = []
        self._lock: Final = threading.Lock()
        self._closed = False

    @contextmanager
    def connection(self) -> Generator[Connection[TupleRow]]:
        """Provide a connection for the block. Raises: DatabaseError when there is none."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None or connection.closed:
            try:
                connection = psycopg.connect(self._url.reveal(), autocommit=True, **self._options)
                connection.execute(_SESSION)
            except psycopg.Error as error:
                raise convert_error(error) from error
        try:
            yield connection
        finally:
            with self._lock:
                idle = connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
                if self._closed or connection.closed or not idle:
                    connection.close()
                else:
                    self._idle.append(connection)

    def close(self) -> None:
        """Close the connections; those in use are closed when they are returned."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop().close()


def connection_options(url: Secret) -> dict[str, Any]:
    """Return the keyword arguments with which connections are opened; those in the URL take precedence."""
    given = conninfo_to_dict(url.reveal())
    options: dict[str, Any] = {"application_name": APPLICATION_NAME, **_OPTIONS}
    options = {name: value for name, value in options.items() if name not in given}
    return options | ({"prepare_threshold": None} if given.get("port") == TRANSACTION_POOLER_PORT else {})


def identifier(*names: str) -> sql.SQL:
    """Return SQL for a name, qualified if there are several; percent signs are doubled, as for all of these."""
    return raw(identify(*names))


def identify(*names: str) -> str:
    """Return a name as SQL text, for statements without parameters and for messages."""
    return ".".join(sql.Identifier(name).as_string() for name in names)


def literal(value: Any) -> sql.SQL:
    """Return SQL for a value."""
    return raw(sql.Literal(value).as_string())


def raw(text: str) -> sql.SQL:
    """Return SQL for a text that is SQL already, for a statement with parameters."""
    return sql.SQL(cast("LiteralString", text.replace("%", "%%")))
