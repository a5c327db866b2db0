"""The snapshot file of a mirror: the rows of its last run, to start with.

The file is a SQLite database. Each save is one transaction, so the file always has a complete copy. It belongs to one
table, one selection of rows and columns, and one user: all of these are part of a fingerprint, and a file with another
fingerprint is ignored and overwritten. The token is not stored.

Rows are stored as MessagePack, with extension types for the values that it does not have, so that they are read as
they were written: `Decimal`, times, UUIDs and large integers.
"""

import os
import sqlite3
import time
from base64 import urlsafe_b64decode
from collections.abc import Hashable, Mapping
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID, uuid4

import msgspec
from msgspec.msgpack import Ext

from supawire._mirror_events import Row
from supawire.errors import CacheError
from supawire.options import Secret

APPLICATION_ID: Final = 0x73776D63
"""Marks the file as a snapshot, so that another database is not changed by mistake."""

VERSION: Final = 1

BUSY_TIMEOUT: Final = 10.0
"""Seconds that a call waits for another process."""

_SCHEMA: Final = (
    "create table if not exists meta (name text primary key, value text not null)",
    "create table if not exists rows (key blob primary key, row blob not null) without rowid",
)

_DAMAGES: Final = (
    sqlite3.DatabaseError, msgspec.MsgspecError, ValueError, ArithmeticError, KeyError, TypeError, RecursionError,
)  # fmt: skip
"""What reading a damaged file raises."""

VOLATILE_CLAIMS: Final = frozenset({"exp", "iat", "nbf", "jti", "amr", "session_id"})
"""Claims of a token that change without another user or other rights."""


class MirrorCache:
    """The snapshot file of one mirror. The calls block, and one runs at a time.

    Args: what: all that determines which rows the mirror has, except for the user.
    """

    def __init__(self, path: str | os.PathLike[str], what: Mapping[str, Any]) -> None:
        self.path: Path = Path(path)
        self._what = msgspec.json.encode({**what, "format": VERSION}, order="deterministic")
        self._writer = str(uuid4())
        """Marks the file as written by this object; another process may write the same file."""

    def load(self, identity: str) -> tuple[list[Row], float] | None:
        """Return the rows of this user and when they were saved, None if there are none.

        Raises: CacheError: the file is damaged, and was renamed; or it is another kind of file.
        """
        if not self.path.exists():
            return None
        try:
            with closing(self._open()) as connection:
                meta = dict(
                    cast("list[tuple[str, str]]", connection.execute("select name, value from meta").fetchall())
                )
                if meta.get("fingerprint") != self._fingerprint(identity):
                    return None
                found = connection.execute("select row from rows").fetchall()
            rows = [cast("Row", unpack(row)) for (row,) in found]
            return rows, datetime.fromtimestamp(float(meta["saved_at"]), UTC).timestamp()
        except (sqlite3.OperationalError, OSError) as error:
            raise CacheError(f"the snapshot {self.path} cannot be read: {error}") from error
        except _DAMAGES as error:
            damaged = self.path.with_name(self.path.name + ".damaged")
            self.path.replace(damaged)
            raise CacheError(
                f"the snapshot {self.path} is damaged, and was renamed to {damaged.name}: {error}"
            ) from error

    def save(self, identity: str, rows: Mapping[Hashable, Row | None], *, whole: bool) -> bool:
        """Save rows by key, None for one that is gone; whole: these are all rows.

        Return False if all rows must be saved, because something else has written the file. Raises: CacheError.
        """
        try:
            changed = [(pack(key), None if row is None else pack(row)) for key, row in rows.items()]
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
            raise CacheError(f"a row cannot be saved: {error}", hint="Omit cache=.") from error
        fingerprint = self._fingerprint(identity)
        try:
            with closing(self._open()) as connection:
                connection.execute("begin immediate")
                meta = dict(
                    cast("list[tuple[str, str]]", connection.execute("select name, value from meta").fetchall())
                )
                if not whole and (meta.get("fingerprint"), meta.get("writer")) != (fingerprint, self._writer):
                    connection.execute("rollback")
                    return False
                if whole:
                    connection.execute("delete from rows")
                connection.executemany(
                    "delete from rows where key = ?", [(key,) for key, row in changed if row is None]
                )
                connection.executemany("insert or replace into rows values (?, ?)", [one for one in changed if one[1]])
                values = {"fingerprint": fingerprint, "writer": self._writer, "saved_at": str(time.time())}
                connection.executemany("insert or replace into meta values (?, ?)", list(values.items()))
                connection.execute("commit")
        except (sqlite3.Error, OSError) as error:
            raise CacheError(f"the snapshot {self.path} cannot be written: {error}") from error
        return True

    def _open(self) -> sqlite3.Connection:
        """Open the file, or create it with the mode 0600."""
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None)
        try:
            marks = [connection.execute(f"pragma {name}").fetchone()[0] for name in ("application_id", "user_version")]
            if marks[0] != APPLICATION_ID and connection.execute("select 1 from sqlite_master").fetchone():
                raise CacheError(
                    f"{self.path} is a SQLite database, but not the snapshot of a mirror", hint="Give another path."
                )
            connection.execute("begin immediate")
            if marks != [APPLICATION_ID, VERSION]:
                for name in ("rows", "meta"):
                    connection.execute(f"drop table if exists {name}")
                connection.execute(f"pragma application_id = {APPLICATION_ID}")
                connection.execute(f"pragma user_version = {VERSION}")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("commit")
        except BaseException:
            connection.close()
            raise
        return connection

    def _fingerprint(self, identity: str) -> str:
        return sha256(self._what + b"\0" + identity.encode()).hexdigest()


def identity_of(token: Secret | None, key: Secret) -> str:
    """Return a hash that is the same for all tokens of one user with the same rights, and for no other user.

    It covers all claims except those that change with each token. Of an opaque token, it is a hash of the token.
    """
    text = (key if token is None else token).reveal()
    if text.startswith(("sb_publishable_", "sb_secret_")):
        return "_".join(text.split("_")[:2])
    try:
        part = text.split(".")[1]
        claims = msgspec.json.decode(urlsafe_b64decode(part + "=" * (-len(part) % 4)), type=dict[str, Any])
        kept = {name: value for name, value in claims.items() if name not in VOLATILE_CLAIMS}
        known = msgspec.json.encode(kept, order="deterministic")
    except (IndexError, ValueError, msgspec.MsgspecError):
        known = text.encode()
    return sha256(b"supawire mirror" + known).hexdigest()


# --- values

_TUPLE, _DECIMAL, _DATETIME, _DATE, _TIME, _UUID, _TIMEDELTA, _INTEGER = range(1, 9)

_TEXTS: Final[dict[type, tuple[int, Any, Any]]] = {
    Decimal: (_DECIMAL, str, Decimal),
    datetime: (_DATETIME, datetime.isoformat, datetime.fromisoformat),
    date: (_DATE, date.isoformat, date.fromisoformat),
    time_of_day: (_TIME, time_of_day.isoformat, time_of_day.fromisoformat),
    UUID: (_UUID, str, UUID),
}
"""Types that are stored as text: code, and both conversions."""

_READERS: Final = {code: read for code, _, read in _TEXTS.values()}

_encoder: Final = msgspec.msgpack.Encoder()


def pack(value: Any) -> bytes:
    """Return a value as MessagePack. Raises: CacheError: it has a value of another type."""
    return _encoder.encode(_marked(value))


def unpack(data: bytes) -> Any:
    """Return the value that `pack` was called with."""
    return msgspec.msgpack.decode(data, ext_hook=_unmarked)


def _marked(value: Any) -> Any:
    """Replace what MessagePack does not have by extension types."""
    kind = cast("type[Any]", type(value))
    if kind in (str, float, bool, bytes, type(None)):
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**64 else Ext(_INTEGER, str(value).encode())
    if kind is dict:
        return {_marked(name): _marked(one) for name, one in value.items()}
    if kind is list:
        return [_marked(one) for one in value]
    if kind is tuple:
        return Ext(_TUPLE, _encoder.encode([_marked(one) for one in value]))
    if kind is timedelta:
        return Ext(_TIMEDELTA, _encoder.encode((value.days, value.seconds, value.microseconds)))
    if kind in _TEXTS:
        code, write, _ = _TEXTS[kind]
        return Ext(code, write(value).encode())
    raise CacheError(f"rows with a value of the type {kind.__name__} cannot be saved", hint="Omit cache=.")


def _unmarked(code: int, data: memoryview) -> Any:
    if code == _TUPLE:
        return tuple(unpack(bytes(data)))
    if code == _TIMEDELTA:
        return timedelta(*unpack(bytes(data)))
    text = bytes(data).decode()
    return int(text) if code == _INTEGER else _READERS[code](text)
