"""`PostgresStreams`, a store of live streams in a table of PostgreSQL. Requires psycopg: the extra `worker`.

Browsers can read the table by PostgREST, with the policies of row level security that you give it.
"""

import re
from types import TracebackType
from typing import Any, Final, Self

from psycopg.sql import SQL, Identifier
from psycopg.types.json import Jsonb

from supawire.aio.live_streams import StoredStream
from supawire.errors import InvalidArgumentError, StateError
from supawire.options import Secret
from supawire.worker.database import Database, DatabaseError, check_database

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
_SAVE: Final = SQL("""\
insert into {table} (id, kind, info, text, bytes, status, reason) values (%s, %s, %s, %s, %s, %s, %s)
on conflict (id) do update set kind = excluded.kind, info = excluded.info, text = excluded.text, bytes = excluded.bytes,
  status = excluded.status, reason = excluded.reason, updated_at = now()
""")
_LOAD: Final = SQL("select kind, info, text, bytes, status, reason from {table} where id = %s")
_UNDEFINED_TABLE: Final = "42P01"


class PostgresStreams:
    """Stores live streams in a table; give it to `channel.stream(store=…)` and `channel.streams(store=…)`.

    Text and JSON values are in the column `text`, bytes in `bytes`; `status` is "running" or how the stream has ended.
    A connection is opened at the first use, and again after it was lost; `async with` or `close()` closes it. Use a
    store in one event loop.

    Args: url: the URL of the database. table: its name, with or without a schema; `sql()` creates it.
    Raises: InvalidArgumentError.
    """

    def __init__(self, url: str | Secret, table: str = "supawire_streams") -> None:
        if not isinstance(table, str) or not _NAME.fullmatch(table):
            raise InvalidArgumentError(f"table must be a name such as 'streams' or 'app.streams', not {table!r}")
        self._database = Database(check_database(url), 1)
        self._table = table
        self._identifier = Identifier(*table.split("."))

    def sql(self) -> str:
        """Return the statements that create the table, with row level security and without policies."""
        return _TABLE.format(table=".".join(f'"{name}"' for name in self._table.split(".")))

    async def save(self, stream: StoredStream) -> None:
        """Store a stream, replacing an earlier state of it.

        Raises: DatabaseError; also for text with the character U+0000, which PostgreSQL cannot store. StateError: there
            is no such table.
        """
        info = None if stream.info is None else Jsonb(stream.info)
        text, data = (None, stream.data) if stream.kind == "bytes" else (stream.data.decode(), None)
        await self._query(_SAVE, (stream.id, stream.kind, info, text, data, stream.status, stream.reason))

    async def load(self, id: str) -> StoredStream | None:
        """Return a stream, or None if it is not stored. Raises: DatabaseError. StateError: there is no such table."""
        rows = await self._query(_LOAD, (id,))
        if not rows:
            return None
        kind, info, text, stored, status, reason = rows[0]
        data = bytes(stored or b"") if kind == "bytes" else (text or "").encode()
        return StoredStream(id, kind, data, info, status, reason)

    async def close(self) -> None:
        """Close the connection."""
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _query(self, statement: SQL, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        query = statement.format(table=self._identifier)
        try:
            try:
                return await self._database.query(query, values)
            except DatabaseError as error:
                if not error.retryable:
                    raise
                return await self._database.query(query, values)  # both statements may be repeated
        except DatabaseError as error:
            if error.sqlstate != _UNDEFINED_TABLE:
                raise
            hint = f"Create it with the statements that sql() returns: {self.sql()}"
            raise StateError(f"there is no table {self._table}", hint=hint) from error
