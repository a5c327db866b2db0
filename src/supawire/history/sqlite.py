"""A store of cursors in an SQLite file."""

import os
import sqlite3
import threading
import time
from types import TracebackType
from typing import Final, Self

from supawire._forks import FORKS
from supawire.cursors import Cursor
from supawire.errors import InvalidArgumentError, StateError
from supawire.options import check_kind, check_number, check_text

RETRY_INTERVAL: Final = 0.01
"""Seconds until the file is opened again while another process opens it."""
_CREATE: Final = """
    create table if not exists supawire_cursors (
      name text primary key,
      at integer not null,
      place integer not null,
      id text not null,
      cursor text not null
    ) without rowid
"""
_SAVE: Final = """
    insert into supawire_cursors (name, at, place, id, cursor) values (?, ?, ?, ?, ?)
    on conflict (name) do update
      set at = excluded.at, place = excluded.place, id = excluded.id, cursor = excluded.cursor
    where (excluded.at, excluded.place, excluded.id)
      >= (supawire_cursors.at, supawire_cursors.place, supawire_cursors.id)
"""
_LOAD: Final = "select cursor from supawire_cursors where name = ?"
_DELETE: Final = "delete from supawire_cursors where name = ?"


class SqliteCursors:
    """Keeps cursors in an SQLite file, which several threads and processes may use at once.

    `save` keeps the later of two cursors, in one statement. A saved cursor survives the end of the process; the newest
    ones may be lost when the machine loses power, and their messages are then read again.

    Args: path: the file, created if it does not exist. timeout: seconds to wait for another process that writes.
    """

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = 10.0) -> None:
        self._path: Final = os.fspath(path)
        self._timeout: Final = check_number("timeout", timeout, above=0, unit="seconds")
        self._lock: threading.RLock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._inherited: list[sqlite3.Connection | None] = []
        FORKS.add(self)
        with self._lock:
            self._open()

    def __repr__(self) -> str:
        return f"SqliteCursors({self._path!r})"

    def load(self, name: str) -> Cursor | None:
        """Return the cursor saved under this name, or None. Raises: StateError: the file cannot be read."""
        rows = self._run(_LOAD, (check_text("name", name),))
        return Cursor.parse(rows[0][0]) if rows else None

    def save(self, name: str, cursor: Cursor) -> None:
        """Save a cursor, unless a later one is saved already. Raises: StateError: the file cannot be written."""
        self._run(*self.statement(name, cursor))

    def delete(self, name: str) -> None:
        """Delete the cursor with this name, so that an earlier one can be saved."""
        self._run(_DELETE, (check_text("name", name),))

    @staticmethod
    def statement(name: str, cursor: Cursor) -> tuple[str, tuple[str | int, ...]]:
        """Return the SQL and the parameters of `save`, to execute it in a transaction of yours on the same file."""
        check_kind("cursor", cursor, Cursor, "a Cursor")
        return _SAVE, (check_text("name", name), *cursor.position, str(cursor))

    def close(self) -> None:
        """Close the file. A later call opens it again."""
        self._check_process()
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _check_process(self) -> None:
        """Give up what a child process has from its parent: a connection, and a lock that may be held."""
        if self._pid != os.getpid():
            self._lock = threading.RLock()
            self._inherited.append(self._connection)  # only if the fork was not made by Python; it must not be used
            self._connection, self._pid = None, os.getpid()

    def _before_fork(self) -> None:
        """Wait for the end of a call, prevent further ones, and close the file."""
        self._lock.acquire()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _after_fork(self) -> None:
        """Allow calls again."""
        self._lock.release()

    def _run(self, text: str, parameters: tuple[str | int, ...]) -> list[tuple[str]]:
        self._check_process()
        with self._lock:
            try:
                return self._open().execute(text, parameters).fetchall()
            except sqlite3.Error as error:
                raise StateError(f"the cursors in {self._path!r} cannot be used: {error}", retryable=True) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            connection: sqlite3.Connection | None = None
            try:
                connection = sqlite3.connect(
                    self._path, timeout=self._timeout, isolation_level=None, check_same_thread=False
                )
                self._prepare(connection)
            except sqlite3.Error as error:
                if connection is not None:
                    connection.close()
                if _is_busy(error):
                    raise StateError(
                        f"the cursors in {self._path!r} cannot be used: {error} for {self._timeout:g} s", retryable=True
                    ) from error
                raise InvalidArgumentError(f"{self._path!r} cannot be opened as an SQLite file: {error}") from error
            self._connection = connection
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Create the table; a change of the journal mode does not wait for other processes by itself."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                connection.execute("pragma journal_mode = wal")
                connection.execute("pragma synchronous = normal")
                connection.execute(_CREATE)
            except sqlite3.Error as error:
                if not _is_busy(error) or time.monotonic() >= deadline:
                    raise
                time.sleep(RETRY_INTERVAL)
            else:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_busy(error: sqlite3.Error) -> bool:
    """Return whether another process uses the file."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
