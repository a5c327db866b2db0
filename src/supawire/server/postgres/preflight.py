"""Prepare a database and check that it is usable; each problem is reported as one sentence with a hint."""

import re
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote, urlencode

from psycopg import Error, conninfo

from supawire.errors import ConnectError, InvalidArgumentError, RealtimeError, StateError
from supawire.server.postgres.database import Database, DatabaseError

EXAMPLE: Final = "postgresql://USER:PASSWORD@127.0.0.1:5432/DATABASE"
ROLES: Final = ("anon", "authenticated", "service_role")
PREPARE_HINT: Final = "`supawire serve --prepare`, or LocalServer(prepare=True), creates what is missing."
OLDEST_VERSION: Final = 150_000
_URL_PARTS: Final = ("user", "host", "port", "dbname")
_SECRET_PARTS: Final = ("password", "sslpassword", "oauth_client_secret")


class _ConnectionHint(NamedTuple):
    """A known libpq connection error and its hint."""

    pattern: str
    hint: str


_CONNECTION_ERRORS: Final = (
    _ConnectionHint("password authentication failed|no password supplied", "Correct user and password in the URL."),
    _ConnectionHint(
        "role .* does not exist", "Correct the user in the URL, or create it: createuser --replication NAME."
    ),
    _ConnectionHint("database .* does not exist", "Correct the name in the URL, or create it: createdb NAME."),
    _ConnectionHint("no pg_hba.conf entry", "Allow this address in pg_hba.conf, and reload PostgreSQL."),
    _ConnectionHint(
        "too many (clients|connections)|remaining connection slots",
        "Close other connections, or raise max_connections.",
    ),
    _ConnectionHint("starting up|shutting down", "Try again when the database is running."),
    _ConnectionHint("", f"Is it running, and is the URL correct? It looks like {EXAMPLE}."),
)

_STATE: Final = """
    select current_setting('server_version_num')::int, current_setting('wal_level'),
           (select rolreplication or rolsuper from pg_roles where rolname = current_user), current_user,
           exists (select from pg_tables where schemaname = 'realtime' and tablename = 'messages'),
           exists (select from pg_publication where pubname = 'supabase_realtime'),
           (select array_agg(name order by name) from unnest(%s::text[]) name
            where not exists (select from pg_roles where rolname = name)),
           (select array_agg(rolname::text order by rolname) from pg_roles
            where rolname = any(%s) and not pg_has_role(current_user, oid, 'member')),
           (select row_security_active(c.oid) or not has_table_privilege(c.oid, 'insert')
               or not has_schema_privilege(n.oid, 'usage')
            from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where n.nspname = 'realtime' and c.relname = 'messages')
"""


def check_url(url: str) -> None:
    """Check a database URL. Raises: InvalidArgumentError, without the URL, which may contain a password."""
    try:
        conninfo.conninfo_to_dict(url)
    except Error:  # psycopg's text quotes the URL
        raise InvalidArgumentError(f"the URL of the database is invalid; expected a URL like {EXAMPLE}") from None


def without_password(url: str) -> str:
    """Return the URL without the password, for display."""
    given = conninfo.conninfo_to_dict(url)
    who, host = given.get("user"), str(given.get("host", ""))
    place = host if not host.startswith("/") else ""
    more = {"host": host} if host.startswith("/") else {}
    port = f":{given['port']}" if given.get("port") else ""
    more |= {name: str(value) for name, value in given.items() if name not in {*_URL_PARTS, *_SECRET_PARTS} and value}
    user = f"{quote(str(who), safe='')}@" if who else ""
    query = f"?{urlencode(more)}" if more else ""
    return f"postgresql://{user}{f'[{place}]' if ':' in place else place}{port}/{given.get('dbname', '')}{query}"


async def run_checks(database: Database) -> str:
    """Check the database and return its version. Raises: ConnectError if unreachable, StateError if unusable."""
    try:
        row = (await database.query(_STATE, [list(ROLES), list(ROLES)]))[0]
    except DatabaseError as error:
        raise _unreachable(error) from error
    version, wal_level, replicates, user, messages, publication, missing, foreign, bound = row
    if version < OLDEST_VERSION:
        raise StateError(f"PostgreSQL {version // 10_000} is not supported", hint="Use version 15 or newer.")
    if wal_level != "logical":
        raise StateError(
            f"the database has wal_level = {wal_level}, so it does not report changed rows",
            hint="Run ALTER SYSTEM SET wal_level = logical, then restart PostgreSQL.",
        )
    if not replicates:
        raise StateError(
            f"the role {user} has no REPLICATION privilege, so it cannot read row changes",
            hint=f"Run ALTER ROLE {_quoted(user)} REPLICATION as a superuser, or use another role.",
        )
    missing_objects = [
        *([] if messages else ["the table realtime.messages"]),
        *([] if publication else ["the publication supabase_realtime"]),
        *(f"the role {name}" for name in missing or ()),
    ]
    if missing_objects:
        raise StateError(f"the database is not prepared: it lacks {', '.join(missing_objects)}", hint=PREPARE_HINT)
    if foreign:
        raise StateError(
            f"the role {user} cannot act as {', '.join(foreign)}, which row level security needs",
            hint=f"Run GRANT {', '.join(foreign)} TO {_quoted(user)} as a superuser.",
        )
    if bound:
        raise StateError(
            f"the role {user} cannot write realtime.messages without its policies, so it cannot check permissions",
            hint=f"Use the owner of that table, or run GRANT USAGE ON SCHEMA realtime TO {_quoted(user)}, GRANT ALL ON "
            f"realtime.messages TO {_quoted(user)} and ALTER ROLE {_quoted(user)} BYPASSRLS as a superuser.",
        )
    return f"{version // 10_000}.{version % 10_000}"


def _unreachable(error: DatabaseError) -> RealtimeError:
    if error.sqlstate is not None and not error.retryable:
        return error
    lines = [line.strip() for line in error.text.splitlines() if line.strip()]
    reason = lines[-1] if lines else "no reason was given"
    hint = next(one.hint for one in _CONNECTION_ERRORS if re.search(one.pattern, reason[:1000]))
    return ConnectError(f"the database cannot be reached: {reason}", hint=hint)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


HERE: Final = Path(__file__).parent
OURS: Final = "supawire"
"""Comment that marks a schema `realtime` created by this library."""
ADVISORY_LOCK: Final = 7_320_117
"""Key of the advisory lock that serializes preparations of the same database."""
INSUFFICIENT_PRIVILEGE: Final = "42501"

_OWNER_MARK: Final = """
    select obj_description(oid, 'pg_namespace') from pg_namespace where nspname = 'realtime'
"""


async def prepare(database: Database, *, ours: bool = False) -> None:
    """Create whatever is missing; may be called repeatedly.

    `ours`: the database is in an embedded cluster, so privileges on `public` are granted as in a Supabase project, and
    roles and schemas that migrations refer to are created.
    Raises: StateError when a schema `realtime` exists that this library did not create, or the role lacks privileges.
    """
    mark = await database.query(_OWNER_MARK)
    if mark and mark[0][0] != OURS:
        raise StateError(
            "the database has a schema realtime that supawire did not create",
            hint="A Supabase database has what is needed, so leave out --prepare; in another one rename the schema.",
        )
    try:
        async with database.transaction() as connection:
            await connection.execute("select pg_advisory_xact_lock(%s)", [ADVISORY_LOCK])
            await connection.execute(text("schema.sql"))
            if ours:
                await connection.execute(text("open.sql"))
                await connection.execute(text("supabase.sql"))
    except DatabaseError as error:
        if error.sqlstate != INSUFFICIENT_PRIVILEGE:
            raise
        raise StateError(
            f"the database cannot be prepared: {error.text}",
            hint="Use a superuser, or the owner of the database with CREATEROLE.",
        ) from error


@cache
def text(name: str) -> bytes:
    """Return the contents of an SQL file in this folder."""
    return (HERE / name).read_bytes()
