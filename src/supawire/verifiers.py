"""Verifiers of mirrors: queries that summarize a table, so that a mirror finds the rows that differ from it.

`Verifier` is the interface, and `PostgresVerifier` implements it with a connection to the database. What its answers
are compared with is described in `core.verification`.
"""

import os
import threading
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import msgspec
from msgspec import Struct

from supawire._validation import check_database_url
from supawire.core.verification import Summary, VersionKind
from supawire.errors import InvalidArgumentError, SetupError
from supawire.options import Secret

if TYPE_CHECKING:
    import psycopg

_OPTIONS: Final = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "tcp_user_timeout": 30_000}
"""Options of libpq, so that a connection that the network has lost raises an error after about a minute."""

_KEY_TYPES: Final = frozenset({"int2", "int4", "int8", "text", "varchar", "uuid"})
_TIME_TYPES: Final = frozenset({"timestamp", "timestamptz"})
_VERSION_TYPES: Final = _KEY_TYPES | _TIME_TYPES | {"xid8"}


_ROWS: Final = """\
with supawire_hashed as (
        select {keys}, {text} as supawire_k, {version} as supawire_v from {table} where {where}
    ),
    supawire_rows as (
        select *, ('x0' || substr(md5(supawire_k), 1, 7))::bit(32)::int % {buckets} as supawire_bucket
        from supawire_hashed
    )
"""
"""Names that no column has, because the columns of the key keep theirs."""

_SUMMARY: Final = """\
select supawire_bucket, count(*),
    sum(('x' || substr(md5(length(supawire_k) || ':' || supawire_k || supawire_v), 1, 16))::bit(64)::bigint)
from supawire_rows group by supawire_bucket
"""

_VERSIONS: Final = "select supawire_v, {keys} from supawire_rows where supawire_bucket = any({chosen})"


class VerifiedTable(Struct, frozen=True):
    """The table of a mirror. key: the columns of its key."""

    schema: str
    name: str
    key: tuple[str, ...]


class Verifier(Protocol):
    """Queries that summarize a table. The methods may be plain (run on a thread, may block) or async.

    version: the column with the version of a row, None if the summary has something else that the mirror does not know.
    """

    version: str | None

    def summary(self, table: VerifiedTable, buckets: int) -> Summary | Awaitable[Summary]:
        """Return the number of rows and the sum of their hashes, modulo 2**64, for each bucket that has rows."""
        ...

    def versions(
        self, table: VerifiedTable, buckets: int, chosen: Sequence[int]
    ) -> Iterable[tuple[Mapping[str, Any], str]] | Awaitable[Iterable[tuple[Mapping[str, Any], str]]]:
        """Return the key columns and the version as text of each row in the chosen buckets."""
        ...


class PostgresVerifier:
    """A verifier with a connection to the database; needs psycopg (extra `worker` or `postgres`).

    Args:
        url: of the database, `postgresql://…`, or a string of libpq.
        version: a column that each UPDATE changes, such as `updated_at` with a trigger: a timestamp, a number, a text
            or a UUID. If omitted, the system column `xmin` tells whether the table has changed.
        where: the filter of the mirror as an SQL condition; needed if the mirror has one. It is put into the query as
            it is, so it must not contain anything from outside.
        role, claims: query as this role with these claims of a JWT, so that policies of row level security apply as for
            the mirror's user; if omitted, with the rights of the connection.
    Raises: InvalidArgumentError: also when psycopg is not installed.
    """

    def __init__(
        self,
        url: str | Secret,
        *,
        version: str | None = None,
        where: str | None = None,
        role: str | None = None,
        claims: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            from psycopg.conninfo import conninfo_to_dict
        except ImportError as error:
            raise InvalidArgumentError(
                "PostgresVerifier needs psycopg", hint='pip install "supawire[worker]", or psycopg[binary].'
            ) from error
        for name, value in (("version", version), ("where", where), ("role", role)):
            if value is not None and not (isinstance(value, str) and value.strip()):
                raise InvalidArgumentError(f"{name} must be a text or None, not {value!r}")
        if claims is not None and role is None:
            raise InvalidArgumentError("claims are for a role, and none is given", hint='role="authenticated".')
        self._url = check_database_url(url, conninfo_to_dict)
        self.version: str | None = version
        self.where: str | None = where
        self._role = role
        self._claims = claims
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._inherited: list[psycopg.Connection[Any] | None] = []
        self._connection: psycopg.Connection[Any] | None = None
        self._checked: dict[VerifiedTable, VersionKind] = {}

    def __repr__(self) -> str:
        return f"<PostgresVerifier version={self.version!r}>"

    def summary(self, table: VerifiedTable, buckets: int) -> Summary:
        """Return the number of rows and the sum of their hashes for each bucket."""
        rows = self._query(table, buckets, _SUMMARY)
        found = {bucket: (count, int(total) % 2**64) for bucket, count, total in rows}
        return Summary(found, self._checked[table])

    def versions(
        self, table: VerifiedTable, buckets: int, chosen: Sequence[int]
    ) -> Iterable[tuple[Mapping[str, Any], str]]:
        """Return the key columns and the version as text of each row in the chosen buckets."""
        rows = self._query(table, buckets, _VERSIONS, list(chosen))
        return [(dict(zip(table.key, key, strict=True)), version) for version, *key in rows]

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        self._check_process()
        with self._lock:
            self._close()

    # --- internal

    def _check_process(self) -> None:
        """Start anew in a forked child; the inherited connection belongs to its parent and is not closed."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.Lock()
            self._inherited.append(self._connection)
            self._connection = None

    def _query(
        self, table: VerifiedTable, buckets: int, select: str, chosen: list[int] | None = None
    ) -> "list[tuple[Any, ...]]":
        import psycopg
        from psycopg import sql

        self._check_process()
        with self._lock:
            try:
                connection = self._open()
                with connection.transaction():
                    kind = self._check(connection, table)
                    self._take_role(connection)
                    keys = [sql.Identifier(column) for column in table.key]
                    query = sql.SQL(cast("Any", _ROWS + select)).format(
                        keys=sql.SQL(", ").join(keys),
                        text=_key_text(keys),
                        version=self._version_text(kind),
                        table=sql.Identifier(table.schema, table.name),
                        where=sql.SQL(cast("Any", self.where or "true")),
                        buckets=sql.Literal(buckets),
                        chosen=sql.Literal(chosen),
                    )
                    return connection.execute(query).fetchall()
            except psycopg.Error as error:
                self._close()
                raise SetupError(f"the verifier cannot query {table.schema}.{table.name}: {error}") from error

    def _open(self) -> "psycopg.Connection[Any]":
        if self._connection is None or self._connection.closed:
            import psycopg

            self._connection = psycopg.connect(
                self._url.reveal(),
                autocommit=True,
                application_name="supawire-verifier",
                **cast("Any", _OPTIONS),
            )
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _take_role(self, connection: "psycopg.Connection[Any]") -> None:
        if self._role is not None:
            connection.execute("select set_config('role', %s, true)", (self._role,))
            claims = msgspec.json.encode(dict(self._claims or {}) | {"role": self._role}).decode()
            connection.execute("select set_config('request.jwt.claims', %s, true)", (claims,))

    def _check(self, connection: "psycopg.Connection[Any]", table: VerifiedTable) -> VersionKind:
        """Check the types of the columns once. Raises: SetupError."""
        kind = self._checked.get(table)
        if kind is not None:
            return kind
        found = connection.execute(
            "select a.attname, t.typname from pg_attribute a join pg_type t on t.oid = a.atttypid"
            " join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname = %s and c.relname = %s and a.attnum > 0",
            (table.schema, table.name),
        ).fetchall()
        types = dict(cast("list[tuple[str, str]]", found))
        for column, allowed in (*((name, _KEY_TYPES) for name in table.key), (self.version, _VERSION_TYPES)):
            if column is not None and types.get(column) not in allowed:
                raise SetupError(
                    f"{table.schema}.{table.name} has no column {column}"
                    if column not in types
                    else f"the column {column} of {table.schema}.{table.name} is {types[column]}",
                    hint=f"It must be one of {', '.join(sorted(allowed))}.",
                )
        kind = "time" if self.version is not None and types[self.version] in _TIME_TYPES else "text"
        self._checked[table] = kind
        return kind

    def _version_text(self, kind: VersionKind) -> Any:
        from psycopg import sql

        if self.version is None:
            return sql.SQL("xmin::text")
        column = sql.Identifier(self.version)
        if kind == "time":
            return sql.SQL("coalesce((extract(epoch from {0}) * 1000000)::bigint::text, '')").format(column)
        return sql.SQL("coalesce({0}::text, '')").format(column)


def _key_text(keys: Sequence[Any]) -> Any:
    from psycopg import sql

    if len(keys) == 1:
        return sql.SQL("{0}::text").format(keys[0])
    part = "length({0}::text) || ':' || {0}::text"
    return sql.SQL(" || ").join([sql.SQL(part).format(key) for key in keys])


def check_verifier(verifier: object, filter: str | None) -> None:
    """Raise `InvalidArgumentError` unless the object is a verifier that can apply the filter."""
    methods = [getattr(verifier, name, None) for name in ("summary", "versions")]
    if isinstance(verifier, type) or not all(map(callable, methods)) or not hasattr(verifier, "version"):
        raise InvalidArgumentError(
            f"verifier must be a verifier, not {verifier!r:.80}", hint="Such as PostgresVerifier(DATABASE_URL)."
        )
    if filter is not None and isinstance(verifier, PostgresVerifier) and verifier.where is None:
        raise InvalidArgumentError(
            f"the mirror has the filter {filter!r}, and the verifier has none",
            hint='Give PostgresVerifier the same filter as an SQL condition: where="…".',
        )
