"""Checkpoints of a bridge: what was handed on, in SQLite or PostgreSQL, and which process is the leader.

A message is recorded, with its id, before it is sent, and removed when the broker has confirmed it. So a message that
was sent when the process died is sent again with the same id. Each write also checks the number of the leader, its
*epoch*: a process that was replaced cannot record anything, and sends nothing that is not recorded.
"""

import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast
from uuid import uuid4

import msgspec

from supawire._validation import check_path
from supawire.bridge.messages import BridgeMessage, Draft, LeaderLostError, SourceState
from supawire.errors import BridgeError, InvalidArgumentError
from supawire.options import check_text

TABLES: Final = """
create table if not exists {prefix} (
  name text primary key, origin text not null, epoch bigint not null, sequence bigint not null
);
create table if not exists {prefix}_rows (
  name text not null, source text not null, key {bytes} not null, digest {bytes} not null,
  primary key (name, source, key)
);
create table if not exists {prefix}_pending (
  name text not null, source text not null, sequence bigint not null, id text not null, message {bytes} not null,
  primary key (name, sequence)
);
create index if not exists {prefix}_pending_id on {prefix}_pending (name, id);
create table if not exists {prefix}_cursors (
  name text not null, source text not null, cursor text not null, primary key (name, source)
)
"""
_BECOME: Final = """
insert into {prefix} as held (name, origin, epoch, sequence) values (?, ?, 1, 0)
on conflict (name) do update set origin = excluded.origin, epoch = held.epoch + 1 returning origin, epoch, sequence
"""
"""Each leader has a new origin: after a power failure, or from a backup, the sequence may return to used numbers."""
_FENCE: Final = "update {prefix} set sequence = ? where name = ? and epoch = ?"
_ADD: Final = "insert into {prefix}_pending (name, source, sequence, id, message) values (?, ?, ?, ?, ?)"
_SET_ROW: Final = """
insert into {prefix}_rows (name, source, key, digest) values (?, ?, ?, ?)
on conflict (name, source, key) do update set digest = excluded.digest
"""
_REMOVE_ROW: Final = "delete from {prefix}_rows where name = ? and source = ? and key = ?"
_CONFIRM: Final = "delete from {prefix}_pending where name = ? and id = ?"
_ROWS: Final = "select key, digest from {prefix}_rows where name = ? and source = ?"
_PENDING: Final = "select message from {prefix}_pending where name = ? and source = ? order by sequence"
_CURSOR: Final = "select cursor from {prefix}_cursors where name = ? and source = ?"
_SET_CURSOR: Final = """
insert into {prefix}_cursors (name, source, cursor) values (?, ?, ?)
on conflict (name, source) do update set cursor = excluded.cursor
"""

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(BridgeMessage).decode


class SqlCheckpoint(ABC):
    """The statements that both databases share. Parameters are written as `?`."""

    def __init__(self) -> None:
        self._name = ""
        self._origin = ""
        self._epoch = 0
        self._sequence = 0

    @abstractmethod
    def _run(self, text: str, parameters: Sequence[Any] = ()) -> Any:
        """Run a statement and return its cursor."""

    @abstractmethod
    def _run_many(self, text: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement for each row of parameters."""

    @abstractmethod
    @contextmanager
    def _transaction(self) -> Generator[None]:
        """Run a block in a transaction, and convert errors."""

    def _become(self, bridge: str) -> None:
        """Take the next epoch."""
        self._name = bridge
        with self._transaction():
            found = self._run(_BECOME, (bridge, uuid4().hex)).fetchone()
        self._origin, self._epoch, self._sequence = found

    def _fence(self) -> None:
        """Raise unless this process is still the leader; the row stays locked until the end of the transaction."""
        if self._run(_FENCE, (self._sequence, self._name, self._epoch)).rowcount != 1:
            raise LeaderLostError(f"another process has become the leader of the bridge {self._name!r}")

    def check(self) -> None:
        """Return if this process is the leader. Raises: LeaderLostError."""
        with self._transaction():
            self._fence()

    def load(self, source: str, /) -> SourceState:
        """Return what is known about a source."""
        with self._transaction():
            rows = self._run(_ROWS, (self._name, source)).fetchall()
            pending = self._run(_PENDING, (self._name, source)).fetchall()
        return SourceState(
            {bytes(key): bytes(digest) for key, digest in rows}, [_decode(bytes(message)) for (message,) in pending]
        )

    def record(self, source: str, drafts: Sequence[Draft], /) -> list[BridgeMessage]:
        """Record messages before they are sent, and the rows that they are about, in one transaction."""
        sequence = self._sequence
        messages: list[BridgeMessage] = []
        added: list[tuple[Any, ...]] = []
        for draft in drafts:
            if draft.body is not None:
                sequence += 1
                number = f"{self._origin}-{sequence}" if draft.id is None else draft.id
                message = BridgeMessage(number, draft.subject, draft.key, draft.body)
                messages.append(message)
                added.append((self._name, source, sequence, number, _encode(message)))
        rows = {draft.row: draft.digest for draft in drafts if draft.row is not None}
        before, self._sequence = self._sequence, sequence
        try:
            with self._transaction():
                self._fence()
                self._run_many(_ADD, added)
                self._run_many(
                    _SET_ROW, [(self._name, source, row, digest) for row, digest in rows.items() if digest is not None]
                )
                self._run_many(
                    _REMOVE_ROW, [(self._name, source, row) for row, digest in rows.items() if digest is None]
                )
        except BaseException:
            self._sequence = before
            raise
        return messages

    def confirm(self, source: str, ids: Sequence[str], /) -> None:
        """Forget messages that the broker has confirmed or that have failed for ever."""
        with self._transaction():
            self._fence()
            self._run_many(_CONFIRM, [(self._name, each) for each in ids])

    def load_cursor(self, source: str, /) -> str | None:
        """Return the saved cursor of a source, None if there is none."""
        with self._transaction():
            found = self._run(_CURSOR, (self._name, source)).fetchone()
        return None if found is None else cast("str", found[0])

    def save_cursor(self, source: str, cursor: str, /) -> None:
        """Save the cursor of a source."""
        with self._transaction():
            self._fence()
            self._run(_SET_CURSOR, (self._name, source, cursor))


class SqliteCheckpoint(SqlCheckpoint):
    """A checkpoint in an SQLite file, for the processes of one machine.

    The leader holds a lock on a second file, `PATH-leader`, which the operating system releases when the process ends.
    A checkpoint survives the end of the process; after a power failure the newest part may be missing.

    Args: path: the file, created if it does not exist; not on a network drive.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self._path: Final = check_path("path", path)
        self._lock: sqlite3.Connection | None = None
        self._connection: sqlite3.Connection | None = None

    def __repr__(self) -> str:
        return f"SqliteCheckpoint({self._path!r})"

    def acquire(self, bridge: str, /) -> bool:
        """Become the leader of the bridge with this name; return False while another process is."""
        check_text("bridge", bridge)
        self.release()
        try:
            lock = sqlite3.connect(f"{self._path}-leader", timeout=0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise InvalidArgumentError(f"the checkpoint {self._path!r} cannot be opened: {error}") from error
        try:
            lock.execute("begin exclusive")
        except sqlite3.OperationalError as error:
            lock.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                return False
            raise BridgeError(f"the checkpoint {self._path!r} cannot be locked: {error}") from error
        self._lock = lock
        try:
            self._open()
            self._become(bridge)
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        """Stop being the leader, and close both files."""
        for connection in (self._connection, self._lock):
            if connection is not None:
                connection.close()
        self._connection = self._lock = None

    def _open(self) -> None:
        try:
            connection = sqlite3.connect(self._path, timeout=10, isolation_level=None, check_same_thread=False)
            self._connection = connection
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = normal")
            connection.executescript(TABLES.format(prefix="supawire_bridge", bytes="blob"))
        except sqlite3.DatabaseError as error:
            raise BridgeError(f"the checkpoint {self._path!r} cannot be opened: {error}") from error

    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise LeaderLostError(f"this process is not the leader of the bridge {self._name!r}; call acquire()")
        return self._connection

    def _run(self, text: str, parameters: Sequence[Any] = ()) -> Any:
        return self._db().execute(text.format(prefix="supawire_bridge"), parameters)

    def _run_many(self, text: str, rows: Sequence[Sequence[Any]]) -> None:
        self._db().executemany(text.format(prefix="supawire_bridge"), rows)

    @contextmanager
    def _transaction(self) -> Generator[None]:
        connection = self._db()
        try:
            connection.execute("begin immediate")
            try:
                yield
            except BaseException:
                connection.execute("rollback")
                raise
            connection.execute("commit")
        except sqlite3.Error as error:
            raise BridgeError(f"the checkpoint {self._path!r} cannot be used: {error}") from error
