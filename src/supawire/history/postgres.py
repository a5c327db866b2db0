"""The stored messages read from PostgreSQL, and a store of cursors there."""

import os
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, LiteralString, Self, cast

from supawire.cursors import MICROSECOND, Cursor, Page, PageQuery, StoredRow
from supawire.errors import AuthError, InvalidArgumentError, StateError
from supawire.options import Secret, check_kind, check_text

try:
    import psycopg
    from psycopg import sql
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.rows import TupleRow
except ModuleNotFoundError as _missing:
    if _missing.name != "psycopg":
        raise
    raise ImportError(
        "reading messages and cursors in PostgreSQL needs psycopg: pip install 'supawire[history]'", name="psycopg"
    ) from _missing

_OPTIONS: Final[dict[str, Any]] = {
    "connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}  # fmt: skip
"""Times after which a connection to a machine that no longer answers is given up; those of the URL replace them."""
LONGEST_TRANSACTION: Final = 300
"""Seconds after which a transaction that is still open is no longer waited for."""
IDLE_TRANSACTION: Final = 60
"""The same for one that has not written anything yet."""
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001  the column has no time zone
_PERMANENT: Final = {
    "42501": "Grant the role SELECT on realtime.messages, and BYPASSRLS or a policy that lets it read.",
    "42P01": "The database is not that of a Supabase project, or Realtime has not been used in it yet.",
    "3F000": "The database is not that of a Supabase project, or Realtime has not been used in it yet.",
}
"""Advice by the SQLSTATE of errors that another attempt does not solve."""

_STATE: Final = """
    select (extract(epoch from clock_timestamp()) * 1000000)::bigint,
           (select (extract(epoch from min(xact_start)) * 1000000)::bigint from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid()
              and xact_start > clock_timestamp() - make_interval(secs =>
                case when backend_xid is null then %s else %s end)),
           (select min(to_date(right(child.relname, 10), 'YYYY_MM_DD')) from pg_inherits
            join pg_class child on child.oid = inhrelid
            where inhparent = 'realtime.messages'::regclass and child.relname ~ '^messages_\\d{4}_\\d\\d_\\d\\d$'),
           exists (select from pg_attribute where attrelid = 'realtime.messages'::regclass
                   and attname = 'expires_at' and not attisdropped)
"""
_COLUMNS: Final = """
    select id::text, event, payload::text, binary_payload,
           (extract(epoch from inserted_at) * 1000000)::bigint, cmin::text::bigint
    from realtime.messages
    where topic = %(topic)s and private and extension = 'broadcast' and event is not null
      and (payload is not null or binary_payload is not null)
      and (%(events)s::text[] is null or event = any(%(events)s))
"""
_NOT_EXPIRED: Final = " and (expires_at is null or expires_at > now() at time zone 'utc')"
_ORDER: Final = " order by inserted_at, cmin::text::bigint, id"
"""`cmin` is the number of the command in its transaction, whose messages all have the same `inserted_at`."""
_AFTER: Final = """
      and inserted_at >= %(at)s
      and (inserted_at > %(at)s or cmin::text::bigint > %(place)s
        or (cmin::text::bigint = %(place)s and id > %(id)s::uuid)
        or (%(id)s::uuid is not null and not exists (
          select from realtime.messages handled
          where handled.id = %(id)s::uuid and handled.inserted_at = %(at)s and handled.cmin::text::bigint = %(place)s)))
      and id <> all(%(seen)s::uuid[])
      and (%(before)s::timestamp is null or inserted_at < %(before)s)
"""
"""If the row of the position is gone or was rewritten, all messages of its instant are returned again."""
_BY_ID: Final = " and id = any(%(ids)s::uuid[])"


class SharedConnection:
    """A connection that is opened on first use and again after it was lost; one thread at a time uses it."""

    def __init__(self, url: str | Secret, name: str) -> None:
        self._url: Final = url if isinstance(url, Secret) else Secret(check_text("url", url, secret=True))
        self._name: Final = name
        try:
            given = conninfo_to_dict(self._url.reveal())
        except psycopg.ProgrammingError:
            raise InvalidArgumentError(
                "url must be the URL of a PostgreSQL database, such as postgresql://user:password@host:5432/postgres"
            ) from None
        self._options: Final[dict[str, Any]] = {name: given[name] for name in _OPTIONS if name in given}
        self._lock: threading.Lock = threading.Lock()
        self._connection: psycopg.Connection[TupleRow] | None = None
        self._pid = os.getpid()
        self._inherited: list[psycopg.Connection[TupleRow] | None] = []

    def run(self, text: sql.Composable | str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Run one statement in autocommit mode and return its rows, if it has any. Raises: psycopg.Error."""
        self._check_process()
        with self._lock:
            connection = self._open()
            try:
                cursor = connection.execute(cast("LiteralString", text), parameters)
                return cursor.fetchall() if cursor.description is not None else []
            except psycopg.OperationalError:
                with suppress(psycopg.Error):
                    connection.close()
                raise

    def _check_process(self) -> None:
        """Give up what a child process has from its parent: a connection, and a lock that may be held."""
        if self._pid != os.getpid():
            self._lock = threading.Lock()
            self._inherited.append(self._connection)  # it must not be used or closed in the child
            self._connection, self._pid = None, os.getpid()

    def _open(self) -> psycopg.Connection[TupleRow]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._url.reveal(),
                autocommit=True,
                **{**_OPTIONS, **self._options},
                application_name=self._name,
                prepare_threshold=None,  # a pooler may give each statement another server connection
            )
        return self._connection

    def close(self) -> None:
        """Close the connection."""
        self._check_process()
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None


def _error_of(error: psycopg.Error, what: str) -> StateError | AuthError:
    """Return the error for a failed statement. Other details of PostgreSQL may have contents of rows."""
    hint = _PERMANENT.get(error.sqlstate or "")
    text = f"{what}: {error.diag.message_primary or ' '.join(str(error).split())}"
    if (error.sqlstate or "").startswith("28") or "authentication failed" in text:  # no SQLSTATE while connecting
        return AuthError(text, hint="Check user and password of the database URL.")
    return StateError(text, hint=hint, retryable=hint is None)


class DatabaseHistory:
    """Reads the stored messages from the table `realtime.messages` of the project's database.

    It sees which transactions are still open, so that no message of one is missed. The role needs SELECT on the table,
    past its policies, and to see the activity of other roles it needs `pg_read_all_stats`, as the role `postgres` of a
    Supabase project has it. One connection is opened on first use; several clients and threads may share the object.

    Args: url: the database URL, direct or of a pooler. It has to be the primary.
    """

    def __init__(self, url: str | Secret) -> None:
        self._connection: Final = SharedConnection(url, "supawire history")

    def __repr__(self) -> str:
        return "<DatabaseHistory>"

    def read(self, query: PageQuery, /) -> Page:
        """Return the page of a query; blocks. Raises: StateError, AuthError."""
        try:
            return self._read(query)
        except psycopg.Error as error:
            raise _error_of(error, "the stored messages cannot be read") from error

    def _read(self, query: PageQuery) -> Page:
        # the open transactions are read first: those that are gone by then are visible to the next statement
        ((now, oldest_start, day, can_expire),) = self._connection.run(_STATE, [IDLE_TRANSACTION, LONGEST_TRANSACTION])
        horizon = now - int(query.settle * 1_000_000)
        if oldest_start is not None:
            horizon = min(horizon, oldest_start)
        columns = _COLUMNS + (_NOT_EXPIRED if can_expire else "")
        parameters = {
            "topic": query.topic,
            "events": None if query.events is None else list(query.events),
            "at": _timestamp(query.after.at),
            "place": query.after.place,
            "id": query.after.id or None,
            "seen": list(query.seen),
            "before": _timestamp(horizon) if query.settled_only else None,
            "limit": query.limit,
            "ids": list(query.ids),
        }
        rows = [_row(row) for row in self._connection.run(columns + _AFTER + _ORDER + " limit %(limit)s", parameters)]
        read = {row.id for row in rows}
        found: list[StoredRow] = []
        if not read.issuperset(query.ids):
            found = [_row(row) for row in self._connection.run(columns + _BY_ID + _ORDER, parameters)]
        oldest = 0 if day is None else (datetime.combine(day, datetime.min.time()) - _EPOCH) // MICROSECOND
        return Page(tuple(rows), now, horizon, oldest, tuple(row for row in found if row.id not in read))

    def close(self) -> None:
        """Close the connection. A later call opens another one."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _row(row: Sequence[Any]) -> StoredRow:
    number, event, text, raw, at, place = row
    return StoredRow(number, event, text.encode() if raw is None else bytes(raw), raw is None, at, place)


def _timestamp(at: int) -> datetime:
    return _EPOCH + timedelta(microseconds=at)


_CREATE: Final = """
    create table if not exists TABLE (
      name text primary key,
      at bigint not null,
      place bigint not null,
      id text collate "C" not null,
      cursor text not null,
      saved_at timestamptz not null default now()
    );
    alter table TABLE enable row level security
"""
"""Without row level security and policies the REST API of the project would show the table to everyone."""
_EXISTS: Final = "select to_regclass(%s) is not null"
_LOAD: Final = "select cursor from TABLE where name = %s"
_DELETE: Final = "delete from TABLE where name = %s"
_SAVE: Final = """
    insert into TABLE as saved (name, at, place, id, cursor) values (%s, %s, %s, %s, %s)
    on conflict (name) do update
      set at = excluded.at, place = excluded.place, id = excluded.id, cursor = excluded.cursor, saved_at = now()
    where (excluded.at, excluded.place, excluded.id) >= (saved.at, saved.place, saved.id)
"""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")


class PostgresCursors:
    """Keeps cursors in a table of PostgreSQL, which any number of processes may use at once.

    `save` keeps the later of two cursors, in one statement. The table is created on first use.

    Args: url: the database URL. table, schema: the name of the table.
    """

    def __init__(self, url: str | Secret, *, table: str = "supawire_cursors", schema: str = "public") -> None:
        for name, value in (("table", table), ("schema", schema)):
            if not isinstance(value, str) or not _NAME.fullmatch(value):
                raise InvalidArgumentError(f"{name} must be a name of letters, digits and _, not {value!r}")
        self._connection: Final = SharedConnection(url, "supawire cursors")
        self._table: Final = f'"{schema}"."{table}"'
        self._created = False

    def __repr__(self) -> str:
        return f"<PostgresCursors in {self._table}>"

    def load(self, name: str) -> Cursor | None:
        """Return the cursor saved under this name, or None; blocks. Raises: StateError, AuthError."""
        rows = self._run(_LOAD, (check_text("name", name),))
        return Cursor.parse(rows[0][0]) if rows else None

    def save(self, name: str, cursor: Cursor) -> None:
        """Save a cursor, unless a later one is saved already; blocks. Raises: StateError, AuthError."""
        check_kind("cursor", cursor, Cursor, "a Cursor")
        self._run(_SAVE, (check_text("name", name), *cursor.position, str(cursor)))

    def delete(self, name: str) -> None:
        """Delete the cursor with this name, so that an earlier one can be saved; blocks."""
        self._run(_DELETE, (check_text("name", name),))

    def statement(self, name: str, cursor: Cursor) -> tuple[LiteralString, tuple[str | int, ...]]:
        """Return the SQL and the parameters of `save`, to execute it in a transaction of yours.

        With psycopg: `connection.execute(*store.statement(name, message.cursor))`. The table must exist: call `create`
        once before.
        """
        check_kind("cursor", cursor, Cursor, "a Cursor")
        return self._text(_SAVE), (check_text("name", name), *cursor.position, str(cursor))

    def create(self) -> None:
        """Create the table unless it exists; blocks. Raises: StateError, AuthError."""
        try:
            if not self._connection.run(_EXISTS, [self._table])[0][0]:
                self._connection.run(self._text(_CREATE))
        except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateTable):
            pass  # another process has just created it
        except psycopg.Error as error:
            raise _error_of(error, f"the table {self._table} cannot be created") from error
        self._created = True

    def _text(self, template: LiteralString) -> LiteralString:
        """Return a statement with the quoted name of the table, which was checked."""
        return cast("LiteralString", template.replace("TABLE", self._table))

    def _run(self, template: LiteralString, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        if not self._created:
            self.create()
        try:
            return self._connection.run(self._text(template), parameters)
        except psycopg.Error as error:
            self._created = False
            raise _error_of(error, f"the cursors in {self._table} cannot be used") from error

    def close(self) -> None:
        """Close the connection. A later call opens another one."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
