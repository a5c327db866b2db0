"""An outbox in a SQLite file.

The journal is a write-ahead log with `synchronous=FULL`: a commit returns after the log was written to the disk with
fsync, so what was added survives a crash of the process, and of the machine if the disk keeps what it confirmed. Any
number of processes may add. The sender holds an exclusive lock of a second, empty database beside the file: the
operating system releases it when the process ends, however it ends, so there is no lease that could expire too early.
Connections are closed before a `fork()`, see `_forks`.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar
from uuid import UUID

import msgspec

from supawire._forks import FORKS
from supawire._validation import check_path
from supawire.core.delivery import OutboxMessage
from supawire.errors import InvalidArgumentError, OutboxError
from supawire.options import check_count
from supawire.outbox_stores.base import (
    LOADED_BYTES,
    LOADED_MESSAGES,
    MAX_BYTES,
    MAX_MESSAGES,
    DeadMessage,
    StoreCounts,
    check_ids,
    check_message,
    full,
)

BUSY_TIMEOUT: Final = 30.0
"""Seconds that a call waits for other processes that write."""

APPLICATION_ID: Final = 0x73776F62
"""Marks the file as an outbox, so that another database is not changed by mistake."""

VERSION: Final = 1

_SCHEMA: Final = """
create table messages (
    seq integer primary key autoincrement, id text not null unique, topic text not null, event text not null,
    payload blob not null, private integer not null, size integer not null, added_at real not null,
    dead_at real, error text);
create index pending on messages (seq) where dead_at is null;
create table totals (messages integer not null, bytes integer not null, dead integer not null);
insert into totals values (0, 0, 0);
create trigger added after insert on messages begin
    update totals set messages = messages + 1, bytes = bytes + new.size; end;
create trigger removed after delete on messages begin
    update totals set messages = messages - 1, bytes = bytes - old.size, dead = dead - (old.dead_at is not null); end;
create trigger changed after update of dead_at on messages begin
    update totals set dead = dead + (new.dead_at is not null) - (old.dead_at is not null); end;
"""
"""The totals are kept by triggers, because counting 100,000 rows at each `add` takes 5 ms."""

P = ParamSpec("P")
T = TypeVar("T")


def _hint(error: sqlite3.Error) -> str | None:
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return f"Another process has written to it for {BUSY_TIMEOUT:g} s."
    if isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error):
        return "It is another kind of file, or damaged. Give another path."
    return None


class SqliteOutbox:
    """An outbox in a SQLite file, for `client.outbox(…)`. Any thread and any process of this machine may add to it.

    Not for network file systems, on which the locks of SQLite do not work.

    Args: path: the file; it is created with mode 0600, and two more files beside it. max_messages, max_bytes: limits of
        what it holds, pending and dead messages together. max_payload_bytes: limit of one payload; None: no limit.
    Raises: InvalidArgumentError: also for a file that is not an outbox. OutboxError: it cannot be opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_messages: int = MAX_MESSAGES,
        max_bytes: int = MAX_BYTES,
        max_payload_bytes: int | None = 3_000_000,
    ) -> None:
        if str(path) in ("", ":memory:"):
            raise InvalidArgumentError("path must be the path of a file: an outbox in memory would lose its messages")
        self.path: Path = Path(check_path("path", path))
        self._file = Path(os.path.realpath(path))  # one lock for all names; and the working directory may change
        self.max_messages: int = check_count("max_messages", max_messages)
        self.max_bytes: int = check_count("max_bytes", max_bytes)
        self.max_payload_bytes: int | None = (
            None if max_payload_bytes is None else check_count("max_payload_bytes", max_payload_bytes)
        )
        self._lock: threading.RLock = threading.RLock()
        self._pid = os.getpid()
        self._inherited: list[sqlite3.Connection | None] = []
        self._connection: sqlite3.Connection | None = None
        self._sender: sqlite3.Connection | None = None
        FORKS.add(self)
        self._open()

    def __repr__(self) -> str:
        return f"<SqliteOutbox {str(self.path)!r}>"

    # --- internal: calls

    @staticmethod
    def _guarded(
        function: "Callable[Concatenate[SqliteOutbox, P], T]",
    ) -> "Callable[Concatenate[SqliteOutbox, P], T]":
        """Hold the lock of the store during a call, and raise errors of SQLite as `OutboxError`."""

        @wraps(function)
        def call(self: "SqliteOutbox", *args: P.args, **kwargs: P.kwargs) -> T:
            self._check_process()
            with self._lock:
                try:
                    return function(self, *args, **kwargs)
                except sqlite3.Error as error:
                    self._roll_back()
                    raise OutboxError(f"the outbox {self.path} cannot be used: {error}", hint=_hint(error)) from error
                except BaseException:  # such as KeyboardInterrupt: other processes wait for the transaction
                    self._roll_back()
                    raise

        return call

    # --- used by programs

    @_guarded
    def add(self, topic: str, event: str, payload: Any, *, private: bool = False, id: str | UUID | None = None) -> str:
        """Store a message and return its id once it is durable. It needs no client: any process with a client sends it.

        Args: payload: a JSON object. id: a UUID of your own: while the outbox has a message with this id, nothing is
            added; if omitted, a new one.
        Raises: InvalidArgumentError, PayloadTooLargeError. OutboxFullError. OutboxError: also when the disk is full.
        """
        message = check_message(topic, event, payload, private, id, self.max_payload_bytes)
        connection = self._db()
        connection.execute("begin immediate")
        held, size, dead = connection.execute("select messages, bytes, dead from totals").fetchone()
        known = id is not None and connection.execute("select 1 from messages where id = ?", (message.id,)).fetchone()
        if not known and (held >= self.max_messages or size + message.size > self.max_bytes):
            connection.execute("rollback")
            raise full(held, self.max_messages, size, self.max_bytes, dead)
        connection.execute(
            "insert or ignore into messages (id, topic, event, payload, private, size, added_at)"
            " values (?, ?, ?, ?, ?, ?, ?)",
            (message.id, message.topic, message.event, message.payload, private, message.size, message.added_at),
        )
        connection.execute("commit")
        return message.id

    @_guarded
    def dead(self, limit: int = 100) -> list[DeadMessage]:
        """Return the oldest dead messages, at most `limit`."""
        found = self._db().execute(
            "select id, topic, event, payload, private, added_at, dead_at, error from messages"
            " where dead_at is not null order by seq limit ?",
            (check_count("limit", limit),),
        )
        return [
            DeadMessage(key, topic, event, payload, bool(private), added_at, dead_at, error)
            for key, topic, event, payload, private, added_at, dead_at, error in found
        ]

    @_guarded
    def retry(self, ids: Iterable[str] | None = None) -> int:
        """Make dead messages pending again, all if no ids are given, and return how many. They keep their place."""
        sql = (
            "update messages set dead_at = null, error = null, added_at = ? where dead_at is not null"
            " and (? or id in (select value from json_each(?)))"
        )
        chosen = check_ids(ids)
        return self._db().execute(sql, (time.time(), chosen is None, _json(chosen or ()))).rowcount

    @_guarded
    def discard(self, ids: Iterable[str] | None = None) -> int:
        """Remove dead messages, all if no ids are given, and return how many."""
        sql = "delete from messages where dead_at is not null and (? or id in (select value from json_each(?)))"
        chosen = check_ids(ids)
        return self._db().execute(sql, (chosen is None, _json(chosen or ()))).rowcount

    @_guarded
    def close(self) -> None:
        """Close the file; the next call opens it again."""
        self.release()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- used by the sender

    @_guarded
    def acquire(self) -> bool:
        """Become the only sender. Return False if another process or client is."""
        self._db()
        if self._sender is not None:
            return False
        lock = self._file.with_name(self._file.name + "-sender")
        _create(lock)
        connection = _connect(lock, 0)
        try:
            connection.execute("pragma journal_mode = memory")  # nothing is ever written
            connection.execute("begin exclusive")
        except sqlite3.Error as error:
            connection.close()
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return False
        self._sender = connection
        return True

    @_guarded
    def release(self) -> None:
        """Stop being the sender."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    @_guarded
    def load(self, without: frozenset[str]) -> tuple[Sequence[OutboxMessage], bool]:
        """Return the first pending messages, without those of some topics; and whether these are all."""
        if self._sender is None:  # closed meanwhile: another process may be the sender now
            raise OutboxError(f"the outbox {self.path} is not being sent from here; call acquire() first")
        found = self._db().execute(
            "select seq, id, topic, event, payload, private, added_at from messages where dead_at is null"
            " and topic not in (select value from json_each(?)) order by seq limit ?",
            (_json(without), LOADED_MESSAGES + 1),
        )
        messages: list[OutboxMessage] = []
        size = 0
        for seq, key, topic, event, payload, private, added_at in found:
            if len(messages) == LOADED_MESSAGES or (messages and size > LOADED_BYTES):
                found.close()
                return messages, False
            messages.append(OutboxMessage(seq, key, topic, event, payload, bool(private), added_at))
            size += len(payload)
        return messages, True

    @_guarded
    def settle(self, sent: Sequence[str], dead: Iterable[tuple[str, str]]) -> None:
        """Remove the accepted messages, and move others to the dead ones, in one transaction."""
        connection = self._db()
        connection.execute("begin immediate")
        connection.executemany("delete from messages where id = ?", [(sent_id,) for sent_id in sent])
        now = time.time()
        connection.executemany(
            "update messages set dead_at = ?, error = ? where id = ? and dead_at is null",
            [(now, error, dead_id) for dead_id, error in dead],
        )
        connection.execute("commit")

    @_guarded
    def counts(self) -> StoreCounts:
        """Return how many messages there are."""
        sql = (
            "select messages - dead, dead, bytes, (select added_at from messages where dead_at is null order by seq"
            " limit 1) from totals"
        )
        return StoreCounts(*self._db().execute(sql).fetchone())

    @_guarded
    def last(self) -> int:
        """Return the place of the newest pending message, 0 if there is none."""
        return self._db().execute("select coalesce(max(seq), 0) from messages where dead_at is null").fetchone()[0]

    @_guarded
    def has_pending(self, until: int) -> bool:
        """Return whether a message up to this place is pending."""
        sql = "select 1 from messages where dead_at is null and seq <= ? limit 1"
        return self._db().execute(sql, (until,)).fetchone() is not None

    # --- internal

    def _roll_back(self) -> None:
        """End the transaction of a call that has failed."""
        if self._connection is not None and self._connection.in_transaction:
            with suppress(sqlite3.Error):
                self._connection.execute("rollback")

    def _check_process(self) -> None:
        """Start anew in a forked child.

        SQLite forbids to close an inherited connection, because it might write. That of the sender writes nothing, and
        as long as it is open, SQLite takes the lock of the parent for one of the child.
        """
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.RLock()
            self._inherited.append(self._connection)  # only if the fork was not made by Python
            if self._sender is not None:
                self._sender.close()
            self._connection = self._sender = None

    def _before_fork(self) -> None:
        """Wait for the end of a call, prevent further ones, and close the connection."""
        self._lock.acquire()
        if self._connection is not None and not self._connection.in_transaction:
            connection, self._connection = self._connection, None
            connection.close()

    def _after_fork(self) -> None:
        """Allow calls again."""
        self._lock.release()

    def _db(self) -> sqlite3.Connection:
        return self._connection or self._open()

    @_guarded
    def _open(self) -> sqlite3.Connection:
        _create(self._file)
        connection = _connect(self._file, BUSY_TIMEOUT)
        try:
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = full")
            connection.execute("pragma fullfsync = on")  # macOS: also empty the cache of the disk
            connection.execute("begin immediate")
            marks = [connection.execute(f"pragma {name}").fetchone()[0] for name in ("application_id", "user_version")]
            if marks == [0, 0] and not connection.execute("select 1 from sqlite_master").fetchone():
                for statement in _SCHEMA.replace("; end;", "; end\0").replace(";\n", "\0").split("\0"):
                    connection.execute(statement)
                connection.execute(f"pragma application_id = {APPLICATION_ID}")
                connection.execute(f"pragma user_version = {VERSION}")
            elif marks != [APPLICATION_ID, VERSION]:
                raise InvalidArgumentError(
                    f"{self.path} is a SQLite database, but not an outbox of this version", hint="Give another path."
                )
            connection.execute("commit")
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)


def _create(path: Path) -> None:
    """Create an empty file that only this user may read, if there is none; SQLite gives its other files this mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise OutboxError(f"the file {path} cannot be created: {error.strerror}", retryable=False) from error
    if os.name == "posix":  # so that the new name survives a crash of the machine
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _json(ids: Iterable[str]) -> str:
    return msgspec.json.encode(list(ids)).decode()
