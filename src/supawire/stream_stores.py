"""`PostgresStreams`, a store of live streams in a table of PostgreSQL. Requires psycopg: the extra `postgres` or `worker`.

Browsers can read the table by PostgREST, with the policies of row level security that you give it.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

from supawire.aio.live_streams import StoredStream
from supawire.errors import InvalidArgumentError, StateError
from supawire.options import Secret

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from psycopg import AsyncConnection

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}(\.[A-Za-z_][A-Za-z0-9_]{0,62})?")
_TABLE: Final = """\
create table if not exists {table} (
  id text primary key,
  kind text not null,
  info jsonb,
  text text,
  bytes bytea,
  status text not null,
  reason text,
  updated_at timestamptz not null default now()
);
alter table {table} enable row level security;
"""
_SAVE: Final = """\
insert into {table} (id, kind, info, text, bytes, status, reason) values (%s, %s, %s, %s, %s, %s, %s)
on conflict (id) do update set kind = excluded.kind, info = excluded.info, text = excluded.text, bytes = excluded.bytes,
  status = excluded.status, reason = excluded.reason, updated_at = now()
"""
_LOAD: Final = "select kind, info, text, bytes, status, reason from {table} where id = %s"


class PostgresStreams:
    """Stores live streams in a table; give it to `channel.stream(store=…)` and `channel.streams(store=…)`.

    Text and JSON values are in the column `text`, bytes in `bytes`; `status` is "running" or how the stream has ended.
    Text with the character U+0000, which PostgreSQL cannot store, raises its error. One connection is opened at the
    first use, and again after it was lost. `async with` or `close()` closes it. Use a store in one event loop.

    Args: url: the URL of the database. table: its name, with or without a schema; `sql()` creates it.
    """

    def __init__(self, url: str | Secret, table: str = "supawire_streams") -> None:
        if not isinstance(table, str) or not _NAME.fullmatch(table):
            raise InvalidArgumentError(f"table must be a name such as 'streams' or 'app.streams', not {table!r}")
        self._url = url if isinstance(url, Secret) else Secret(url)
        self._table = table
        self._connection: AsyncConnection[Any] | None = None
        self._lock = asyncio.Lock()

    def sql(self) -> str:
        """Return the statements that create the table, with row level security and without policies."""
        return _TABLE.format(table=self._table)

    async def save(self, stream: StoredStream) -> None:
        """Store a stream, replacing an earlier state of it."""
        from psycopg.types.json import Jsonb

        info = None if stream.info is None else Jsonb(stream.info)
        text, data = (None, stream.data) if stream.kind == "bytes" else (stream.data.decode(), None)
        await self._execute(_SAVE, (stream.id, stream.kind, info, text, data, stream.status, stream.reason))

    async def load(self, id: str) -> StoredStream | None:
        """Return a stream, or None if it is not stored."""
        row = await self._execute(_LOAD, (id,))
        if row is None:
            return None
        kind, info, text, data, status, reason = row
        return StoredStream(id, kind, bytes(data or b"") if kind == "bytes" else (text or "").encode(), info, status, reason)

    async def close(self) -> None:
        """Close the connection; the next use opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _execute(self, statement: str, values: tuple[Any, ...]) -> Any:
        """Execute a statement, and return its first row, if it has rows; once more if the connection was lost."""
        from psycopg import OperationalError
        from psycopg.errors import UndefinedTable

        async with self._lock:
            for attempt in (1, 2):
                fresh = self._connection is None
                try:
                    cursor = await (await self._connected()).execute(statement.format(table=self._table), values)
                    return None if cursor.description is None else await cursor.fetchone()
                except UndefinedTable as error:
                    raise StateError(
                        f"there is no table {self._table}", hint=f"Create it with the SQL of sql(): {self.sql()}"
                    ) from error
                except OperationalError:
                    await self.close()
                    if fresh or attempt == 2:
                        raise
            return None

    async def _connected(self) -> AsyncConnection[Any]:
        from psycopg import AsyncConnection

        if self._connection is None:
            self._connection = await AsyncConnection.connect(self._url.reveal(), autocommit=True)
        return self._connection
