"""An outbox in a table of PostgreSQL, to which a program adds in its own transaction.

A message that is added together with the rows that it is about is sent exactly if those rows are committed. `add` uses
nothing of the given cursor but `execute` and `fetchone`, so it works with psycopg and with every framework that gives
access to one of its cursors. The sender has a connection of its own, and holds an advisory lock on it, which
PostgreSQL releases when the connection ends.

The number of messages is counted at each `add`, and not kept in a row of totals: transactions that add would wait for
each other until the first one commits.
"""

import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Self, TypeVar, cast
from uuid import UUID

from supawire._validation import check_database_url
from supawire.core.delivery import OutboxMessage
from supawire.errors import InvalidArgumentError, OutboxError, SetupError
from supawire.options import Secret, check_count
from supawire.outbox_stores.base import (
    LOADED_BYTES,
    LOADED_MESSAGES,
    MAX_BYTES,
    MAX_MESSAGES,
    DeadMessage,
    NewMessage,
    StoreCounts,
    check_ids,
    check_message,
    full,
)

if TYPE_CHECKING:
    import psycopg

_OPTIONS: Final = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "tcp_user_timeout": 30_000}
"""Options of libpq, so that a connection that the network has lost raises an error after about a minute."""

LOCK_CLASS: Final = 0x73776F62
"""First number of the advisory lock of the sender; the second is the OID of the table, whatever it is called."""

UNDEFINED_TABLE: Final = "42P01"

_SCHEMA: Final = """\
create table if not exists {table} (
    seq bigint generated always as identity primary key,
    id uuid not null unique,
    topic text not null,
    event text not null,
    payload text not null,
    private boolean not null,
    size integer not null,
    added_at timestamptz not null default clock_timestamp(),
    dead_at timestamptz,
    error text
);
create index if not exists {index} on {table} (seq) where dead_at is null;
alter table {table} enable row level security; -- no policy: not visible through the REST API
"""

_ADD: Final = """\
with held as (select count(*) as messages, coalesce(sum(size), 0)::bigint as bytes from {table}),
    added as (
        insert into {table} (id, topic, event, payload, private, size)
        select %s, %s, %s, %s, %s, %s from held where messages < %s and bytes + %s <= %s
        on conflict (id) do nothing returning 1)
select messages, bytes, (select count(*) from added) + (select count(*) from {table} where id = %s) from held
"""
"""Adds a message unless the table is full, and returns how many messages and bytes it had, and whether it has this one.

`select from {table}` sees the table as it was before the statement. So it does not see a message with this id that
another transaction has committed while this statement was waiting for it.
"""

_LOAD: Final = """\
with first as (select * from {table} where dead_at is null and topic <> all(%s) order by seq limit %s),
    summed as (select *, sum(size) over (order by seq) - size as before, count(*) over () as found from first)
select seq, id::text, topic, event, payload, private, extract(epoch from added_at)::float8, found
from summed where before < %s order by seq
"""
"""Returns the first messages, until they have too many bytes, each with the number of all that were found."""

P = ParamSpec("P")
T = TypeVar("T")


class PostgresOutbox:
    """An outbox in a table of PostgreSQL, for `client.outbox(…)`; needs psycopg (extra `postgres`).

    Args: url: of the database, `postgresql://…`, or a string of libpq; a direct connection or a pooler in session mode,
        because the sender holds a lock. Only the sender and the methods other than `add_in` connect. table: its name,
        perhaps with a schema. max_messages, max_bytes: limits of pending and dead messages together. max_payload_bytes:
        limit of one payload; None: no limit.
    Raises: InvalidArgumentError: also when psycopg is not installed.
    """

    def __init__(
        self,
        url: str | Secret,
        *,
        table: str = "supawire_outbox",
        max_messages: int = MAX_MESSAGES,
        max_bytes: int = MAX_BYTES,
        max_payload_bytes: int | None = 3_000_000,
    ) -> None:
        try:
            from psycopg.conninfo import conninfo_to_dict
        except ImportError as error:
            raise InvalidArgumentError(
                "PostgresOutbox needs psycopg", hint='pip install "supawire[postgres]", or psycopg[binary].'
            ) from error
        if not isinstance(table, str) or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?", table, re.ASCII):
            raise InvalidArgumentError(
                f"table must be a name of letters, digits and underscores, perhaps with a schema, not {table!r}"
            )
        self._url = check_database_url(url, conninfo_to_dict)
        self.table: str = table
        self._quoted = ".".join(f'"{part}"' for part in table.split("."))
        self.max_messages: int = check_count("max_messages", max_messages)
        self.max_bytes: int = check_count("max_bytes", max_bytes)
        self.max_payload_bytes: int | None = (
            None if max_payload_bytes is None else check_count("max_payload_bytes", max_payload_bytes)
        )
        self._lock: threading.RLock = threading.RLock()
        self._pid = os.getpid()
        self._inherited: list[psycopg.Connection[Any] | None] = []
        self._connection: psycopg.Connection[Any] | None = None
        self._is_sender = False

    def __repr__(self) -> str:
        return f"<PostgresOutbox {self.table!r}>"

    # --- internal: calls

    @staticmethod
    def _guarded(
        function: "Callable[Concatenate[PostgresOutbox, P], T]",
    ) -> "Callable[Concatenate[PostgresOutbox, P], T]":
        """Hold the lock of the store during a call on its own connection, and raise its errors as ours."""

        @wraps(function)
        def call(self: "PostgresOutbox", *args: P.args, **kwargs: P.kwargs) -> T:
            import psycopg

            self._check_process()
            with self._lock:
                try:
                    return function(self, *args, **kwargs)
                except psycopg.Error as error:
                    self.close()
                    raise self._error_of(error) from error

        return call

    # --- used by programs

    @property
    def sql(self) -> str:
        """The statements that create the table, for a migration."""
        return _SCHEMA.format(table=self._quoted, index=f'"{self.table.replace(".", "_")}_pending"')

    @_guarded
    def init(self) -> None:
        """Create the table if it does not exist. Raises: OutboxError."""
        self._db().execute(cast("Any", self.sql))

    def add_in(
        self, cursor: Any, topic: str, event: str, payload: Any, *, private: bool = False, id: str | UUID | None = None
    ) -> str:
        """Store a message in your transaction and return its id. It is sent after the commit, and only then.

        Args: cursor: a cursor or connection of psycopg, or a cursor of SQLAlchemy or Django on psycopg. payload: a JSON
            object. id: a UUID of your own: while the outbox has a message with this id, nothing is added; if omitted, a
            new one.
        Raises: InvalidArgumentError: also for an async cursor. PayloadTooLargeError. OutboxFullError: the transaction
            can continue. SetupError, with the SQL, when the table is missing. Other errors of the database are raised
            as they are.
        """
        message = self._check(topic, event, payload, private, id)
        result = self._execute(cursor, message)
        if hasattr(result, "__await__"):
            result.close()
            raise InvalidArgumentError("the cursor is async, so write `await outbox.add_in_async(cursor, …)`")
        row = (result if hasattr(result, "fetchone") else cursor).fetchone()
        return self._added(message, row)

    async def add_in_async(
        self, cursor: Any, topic: str, event: str, payload: Any, *, private: bool = False, id: str | UUID | None = None
    ) -> str:
        """Do the same as `add_in` with an async cursor or connection of psycopg."""
        message = self._check(topic, event, payload, private, id)
        try:
            result = self._execute(cursor, message)
            result = await result if hasattr(result, "__await__") else result
        except Exception as error:
            self._raise_if_missing(error)
            raise
        row = (result if hasattr(result, "fetchone") else cursor).fetchone()
        return self._added(message, await row if hasattr(row, "__await__") else row)

    @_guarded
    def add(self, topic: str, event: str, payload: Any, *, private: bool = False, id: str | UUID | None = None) -> str:
        """Store a message in a transaction of its own, and return its id once it is durable. See `add_in`."""
        return self.add_in(self._db(), topic, event, payload, private=private, id=id)

    @_guarded
    def dead(self, limit: int = 100) -> list[DeadMessage]:
        """Return the oldest dead messages, at most `limit`."""
        found = self._run(
            "select id::text, topic, event, payload, private, extract(epoch from added_at)::float8,"
            " extract(epoch from dead_at)::float8, error from {table} where dead_at is not null order by seq limit %s",
            check_count("limit", limit),
        )
        return [
            DeadMessage(key, topic, event, payload.encode(), private, added_at, dead_at, error)
            for key, topic, event, payload, private, added_at, dead_at, error in found.fetchall()
        ]

    @_guarded
    def retry(self, ids: Iterable[str] | None = None) -> int:
        """Make dead messages pending again, all if no ids are given, and return how many. They keep their place."""
        sql = (
            "update {table} set dead_at = null, error = null, added_at = clock_timestamp()"
            " where dead_at is not null and (%s or id = any(%s::uuid[]))"
        )
        chosen = check_ids(ids)
        return self._run(sql, chosen is None, chosen or []).rowcount

    @_guarded
    def discard(self, ids: Iterable[str] | None = None) -> int:
        """Remove dead messages, all if no ids are given, and return how many."""
        sql = "delete from {table} where dead_at is not null and (%s or id = any(%s::uuid[]))"
        chosen = check_ids(ids)
        return self._run(sql, chosen is None, chosen or []).rowcount

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        self._check_process()
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            self._is_sender = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- used by the sender

    @_guarded
    def acquire(self) -> bool:
        """Become the only sender. Return False if another process or client is."""
        self._db()  # a new connection does not hold the lock
        if self._is_sender:
            return False
        sql = "select pg_try_advisory_lock(%s, %s::regclass::oid::int)"
        self._is_sender = self._run(sql, LOCK_CLASS, self._quoted).fetchone()[0]
        return self._is_sender

    @_guarded
    def release(self) -> None:
        """Stop being the sender."""
        if self._is_sender:
            self._is_sender = False
            self._run("select pg_advisory_unlock_all()")  # the connection has no others

    @_guarded
    def load(self, without: frozenset[str]) -> tuple[Sequence[OutboxMessage], bool]:
        """Return the first pending messages, without those of some topics; and whether these are all."""
        self._db()
        if not self._is_sender:  # the connection was lost meanwhile, and the lock with it
            raise OutboxError(f"the outbox {self.table} is not being sent from here; call acquire() first")
        found = self._run(_LOAD, list(without), LOADED_MESSAGES + 1, LOADED_BYTES).fetchall()
        messages = [
            OutboxMessage(seq, key, topic, event, payload.encode(), private, added_at)
            for seq, key, topic, event, payload, private, added_at, _ in found[:LOADED_MESSAGES]
        ]
        return messages, not found or found[0][-1] == len(messages)

    @_guarded
    def settle(self, sent: Sequence[str], dead: Iterable[tuple[str, str]]) -> None:
        """Remove the accepted messages, and move others to the dead ones, in one transaction."""
        with self._db().transaction():
            self._run("delete from {table} where id = any(%s::uuid[])", list(sent))
            for dead_id, error in dead:
                sql = "update {table} set dead_at = clock_timestamp(), error = %s where id = %s and dead_at is null"
                self._run(sql, error.replace("\0", "\ufffd"), dead_id)

    @_guarded
    def counts(self) -> StoreCounts:
        """Return how many messages there are."""
        row = self._run(
            "select count(*) filter (where dead_at is null), count(*) filter (where dead_at is not null),"
            " coalesce(sum(size), 0)::bigint, (select extract(epoch from added_at)::float8 from {table}"
            " where dead_at is null order by seq limit 1) from {table}"
        ).fetchone()
        return StoreCounts(*row)

    @_guarded
    def last(self) -> int:
        """Return the place of the newest pending message, 0 if there is none."""
        return self._run("select coalesce(max(seq), 0) from {table} where dead_at is null").fetchone()[0]

    @_guarded
    def has_pending(self, until: int) -> bool:
        """Return whether a message up to this place is pending."""
        sql = "select 1 from {table} where dead_at is null and seq <= %s limit 1"
        return self._run(sql, until).fetchone() is not None

    # --- internal

    def _check_process(self) -> None:
        """Start anew in a forked child; the inherited connection belongs to its parent and is not closed."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.RLock()
            self._inherited.append(self._connection)
            self._connection, self._is_sender = None, False

    def _check(self, topic: object, event: object, payload: object, private: object, id: object) -> NewMessage:
        message = check_message(topic, event, payload, private, id, self.max_payload_bytes)
        if "\0" in message.topic + message.event:
            raise InvalidArgumentError("PostgreSQL cannot store a NUL character in a topic or an event")
        return message

    def _execute(self, cursor: Any, message: NewMessage) -> Any:
        sql = _ADD.format(table=self._quoted)
        arguments = (
            message.id, message.topic, message.event, message.payload.decode(), message.private, message.size,
            self.max_messages, message.size, self.max_bytes, message.id,
        )  # fmt: skip
        try:
            return cursor.execute(sql, arguments)
        except Exception as error:
            self._raise_if_missing(error)
            raise

    def _added(self, message: NewMessage, row: Any) -> str:
        values: Iterable[int] = cast("Any", row).values() if isinstance(row, dict) else row
        held, size, found = values
        if not found and (held >= self.max_messages or size + message.size > self.max_bytes):
            raise full(held, self.max_messages, size, self.max_bytes)
        return message.id

    def _raise_if_missing(self, error: Exception) -> None:
        """Raise an error with the SQL if the table does not exist; frameworks wrap the error of psycopg."""
        cause: BaseException | None = error
        while cause is not None:
            if getattr(cause, "sqlstate", None) == UNDEFINED_TABLE:
                raise self._missing() from error
            cause = cause.__cause__

    def _missing(self) -> SetupError:
        return SetupError(
            f"the database has no table {self.table}",
            hint="Call init() once, or put its SQL into a migration:",
            sql=self.sql,
        )

    def _error_of(self, error: "psycopg.Error") -> OutboxError | SetupError:
        """Return the error for one of psycopg."""
        if error.sqlstate == UNDEFINED_TABLE:
            return self._missing()
        return OutboxError(f"the outbox {self.table} cannot be used: {error}")

    def _run(self, sql: str, *arguments: Any) -> Any:
        return self._db().execute(cast("Any", sql.replace("{table}", self._quoted)), arguments)

    def _db(self) -> "psycopg.Connection[Any]":
        if self._connection is None or self._connection.closed:
            import psycopg

            self._is_sender = False
            self._connection = psycopg.connect(
                self._url.reveal(), autocommit=True, application_name="supawire-outbox", **cast("Any", _OPTIONS)
            )
        return self._connection
