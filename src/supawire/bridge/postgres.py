"""A checkpoint in PostgreSQL, and the rows of a table for a bridge. Needs psycopg."""

import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, LiteralString, cast

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow, dict_row

from supawire._validation import check_database_url
from supawire._values import filter_syntax
from supawire.bridge.checkpoints import TABLES, SqlCheckpoint
from supawire.bridge.messages import LeaderLostError
from supawire.errors import BridgeError, InvalidArgumentError, SetupError
from supawire.options import Secret, check_text
from supawire.worker.database import TRANSACTION_POOLER_PORT
from supawire.worker.values import where_sql

LOCK_CLASS: Final = 0x73776272
"""First number of the advisory lock of a leader; the second is a checksum of the bridge's name."""
FETCHED_ROWS: Final = 2000
"""Rows that are fetched from the database at once."""
_OPTIONS: Final[dict[str, Any]] = {
    "connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}  # fmt: skip
"""Times after which a connection that the network has lost raises an error, in seconds and milliseconds."""
_HOLDS: Final = """
select exists (select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid() and granted
  and classid = %s::bigint::oid and objid = %s::bigint::oid)
"""
_EXISTS: Final = "select count(to_regclass(name)) from unnest(%s::text[]) name"
_PREFIX: Final = "supawire_bridge"
_SUFFIXES: Final = ("", "_rows", "_pending", "_cursors")
_COLUMNS: Final = """
select a.attname::text, format_type(a.atttypid, a.atttypmod),
  coalesce(array_position(i.indkey::int2[], a.attnum), -1)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_index i on i.indrelid = c.oid and i.indisprimary
where n.nspname = %s and c.relname = %s order by a.attnum
"""


class PostgresCheckpoint(SqlCheckpoint):
    """A checkpoint in tables of PostgreSQL, for processes on any machines.

    The leader holds an advisory lock of its session, and everything is written over that session: when it is lost,
    nothing more is recorded, and so nothing more is sent. This needs a direct connection or the pooler's session mode;
    a pooler that gives each transaction another session is refused. The tables `supawire_bridge…` are created.

    Args: url: the database URL. schema: of the tables.
    """

    def __init__(self, url: str | Secret, *, schema: str = "public") -> None:
        super().__init__()
        self._url: Final = check_session_url(url)
        self._schema: Final = check_text("schema", schema)
        self._quoted: Final = sql.Identifier(schema).as_string()
        self._connection: psycopg.Connection[Any] | None = None

    def __repr__(self) -> str:
        return f"<PostgresCheckpoint in the schema {self._schema}>"

    def acquire(self, bridge: str, /) -> bool:
        """Become the leader of the bridge with this name; return False while another process is."""
        check_text("bridge", bridge)
        self.release()
        self._name = bridge
        try:
            self._connection = psycopg.connect(
                self._url.reveal(), autocommit=True, application_name="supawire bridge", prepare_threshold=None,
                **_OPTIONS,
            )  # fmt: skip
            number = self._lock_number
            signed = number - 2**32 if number >= 2**31 else number
            held = self._connection.execute("select pg_try_advisory_lock(%s, %s)", (LOCK_CLASS, signed))
            if not held.fetchall()[0][0]:
                self.release()
                return False
            self._create(self._connection)
            self._become(bridge)
        except psycopg.Error as error:
            self.release()
            raise BridgeError(f"the checkpoint cannot be used: {_reason(error)}") from error
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        """Stop being the leader, and close the connection."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
        self._connection = None

    @property
    def _lock_number(self) -> int:
        # bridges with the same name and other schemas have other checkpoints, and so other leaders
        return zlib.crc32((self._name if self._schema == "public" else f"{self._schema}.{self._name}").encode())

    def _create(self, connection: "psycopg.Connection[Any]") -> None:
        names = [f"{self._quoted}.{_PREFIX}{suffix}" for suffix in _SUFFIXES]
        if connection.execute(_EXISTS, (names,)).fetchall()[0][0] == len(names):
            return
        with connection.transaction():
            connection.execute(sql.SQL("set local search_path = {}").format(sql.Identifier(self._schema)))
            connection.execute(TABLES.format(prefix=_PREFIX, bytes="bytea").encode())
            for name in names:  # without it, the REST API of the project would show the tables to everyone
                connection.execute(cast("LiteralString", f"alter table {name} enable row level security"))

    def check(self) -> None:
        """Return if this process is the leader. Raises: LeaderLostError."""
        with self._transaction():
            if not self._run(_HOLDS, (LOCK_CLASS, self._lock_number)).fetchone()[0]:
                raise LeaderLostError(f"the advisory lock of the bridge {self._name!r} is not held any more")
            self._fence()

    def _db(self) -> "psycopg.Connection[Any]":
        if self._connection is None:
            raise LeaderLostError(f"this process is not the leader of the bridge {self._name!r}; call acquire()")
        return self._connection

    def _text(self, text: str) -> LiteralString:
        return cast("LiteralString", text.replace("{prefix}", f"{self._quoted}.{_PREFIX}").replace("?", "%s"))

    def _run(self, text: str, parameters: Sequence[Any] = ()) -> Any:
        return self._db().execute(self._text(text), parameters)

    def _run_many(self, text: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            self._db().cursor().executemany(self._text(text), rows)

    @contextmanager
    def _transaction(self) -> Generator[None]:
        connection = self._db()
        try:
            with connection.transaction():
                yield
        except psycopg.Error as error:
            if connection.closed or isinstance(error, psycopg.OperationalError):
                raise LeaderLostError(f"the connection of the leader was lost: {_reason(error)}") from error
            raise BridgeError(f"the checkpoint cannot be used: {_reason(error)}") from error


def check_session_url(url: str | Secret) -> Secret:
    """Return the URL of a database whose sessions can hold a lock. Raises: InvalidArgumentError."""
    secret = check_database_url(url, conninfo_to_dict)
    if str(conninfo_to_dict(secret.reveal()).get("port", "")) == TRANSACTION_POOLER_PORT:
        raise InvalidArgumentError(
            f"the port {TRANSACTION_POOLER_PORT} is that of a pooler in transaction mode, where no lock can be held",
            hint="Use the direct connection, or the pooler's session mode: port 5432.",
        )
    return secret


def _reason(error: psycopg.Error) -> str:
    return error.diag.message_primary or " ".join(str(error).split())


class TableReader:
    """Reads the rows of a table for a mirror. The calls block.

    Args: where: the filter of the mirror. columns: those to read, None for all.
    """

    def __init__(
        self, url: str | Secret, schema: str, table: str, *, where: str | None, columns: Sequence[str] | None
    ) -> None:
        self._url: Final = check_database_url(url, conninfo_to_dict)
        self._schema: Final = schema
        self._table: Final = table
        self._where: Final = filter_syntax.parse(where or "")
        self._columns: Final = columns

    def key(self) -> tuple[str, ...]:
        """Return the columns of the primary key. Raises: SetupError, psycopg.Error."""
        with self._connect() as connection:
            return self._describe(connection)[0]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield all rows that match, from one snapshot."""
        with self._connect() as connection:
            yield from self._select(connection, {})

    def row(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the row with this key, None if there is none that matches."""
        with self._connect() as connection:
            return next(self._select(connection, key), None)

    @contextmanager
    def _connect(self) -> "Generator[psycopg.Connection[TupleRow]]":
        connection = psycopg.connect(
            self._url.reveal(), application_name="supawire bridge", prepare_threshold=None, **_OPTIONS
        )  # fmt: skip
        with connection:
            # local: a pooler may give the next transaction of another client this session
            connection.execute("select set_config('TimeZone', 'UTC', true)")
            yield connection

    def _describe(self, connection: "psycopg.Connection[Any]") -> tuple[tuple[str, ...], dict[str, str]]:
        found = connection.execute(_COLUMNS, (self._schema, self._table)).fetchall()
        if not found:
            raise SetupError(f"there is no table {self._schema}.{self._table}, or this role may not see it")
        key = tuple(name for name, _, place in sorted(found, key=lambda one: one[2]) if place >= 0)
        if not key:
            raise SetupError(f"{self._schema}.{self._table} has no primary key, by which rows are told apart")
        return key, {name: kind for name, kind, _ in found}

    def _select(self, connection: "psycopg.Connection[TupleRow]", key: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        kinds = self._describe(connection)[1]
        unknown = {condition.column for condition in self._where} - kinds.keys()
        if unknown:
            raise SetupError(f"{self._schema}.{self._table} has no column {min(unknown)!r}, which the filter has")
        columns = sql.SQL("*") if self._columns is None else sql.SQL(", ").join(map(sql.Identifier, self._columns))
        conditions = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(key[name])) for name in key]
        query = sql.SQL("select {} from {} where {}").format(
            columns,
            sql.Identifier(self._schema, self._table),
            sql.SQL(" and ").join([where_sql(self._where, kinds, None), *conditions]),
        )
        with connection.cursor("supawire_rows", row_factory=dict_row) as cursor:
            cursor.itersize = FETCHED_ROWS
            cursor.execute(query)
            yield from cursor
