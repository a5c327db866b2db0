"""Collect facts about the database, in one read-only transaction that is rolled back. Needs the extra `postgres`.

The role and the claims of the token are set inside savepoints, which are rolled back too. Policies on
`realtime.messages` cannot be tried with rows as the server does it, because that writes; their expressions are
evaluated as the role for a row that is made up. psycopg blocks, so this runs in a thread of its own, and PostgreSQL
ends each statement in time.
"""

import asyncio
import json
import re
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, LiteralString, cast

import psycopg
from psycopg import Connection, conninfo, sql
from psycopg.rows import TupleRow

from supawire.doctor.facts import (
    ColumnFacts,
    DatabaseFacts,
    MessagesFacts,
    PolicyError,
    PolicyFacts,
    RowsFacts,
    SlotFacts,
    TableFacts,
    Target,
)
from supawire.errors import InvalidArgumentError

EXAMPLE: Final = "postgresql://USER:PASSWORD@HOST:5432/postgres"
MIN_CONNECT_TIMEOUT: Final = 2
"""libpq's shortest connection timeout in seconds."""
STATEMENT_TIMEOUT: Final = 1.5
"""Seconds for a statement that evaluates policies."""
MAX_POLICIES: Final = 30
CANCELED: Final = "57014"
READ_ONLY: Final = "25006"
"""A policy calls a function that writes, which is not possible in a read-only transaction."""
WRITES: Final = "a policy writes when it is evaluated, and doctor only reads"
_HOSTED: Final = re.compile(r"db\.([a-z0-9]{1,40})\.supabase\.(?:co|in|red)")
_POOLED: Final = re.compile(r"[a-z_]{1,40}\.([a-z0-9]{1,40})")
_CONNECTION_PROBLEMS: Final = (
    ("password authentication failed|no password supplied|authentication", "password"),
    ('role ".*" does not exist', "password"),
    ('database ".*" does not exist', "name"),
    ("too many (clients|connections)|remaining connection slots|max client", "crowded"),
    ("Network is unreachable|Cannot assign requested address", "ipv6"),
    (r'host name "db\.[a-z0-9]+\.supabase\.\w+" to address', "ipv6"),
)
"""Patterns in libpq's messages, each with the end of the name of a problem."""

_SERVER: Final = """
    with realtime as (select oid from pg_namespace where nspname = 'realtime'),
      messages as (select c.oid, c.relkind from pg_class c join realtime on realtime.oid = c.relnamespace
        where c.relname = 'messages'),
      functions as (select proname, pronargs from pg_proc join realtime on realtime.oid = pronamespace)
    select current_setting('server_version'), current_setting('wal_level'),
      current_setting('max_replication_slots')::int, pg_is_in_recovery(),
      array_remove(array[
        case when not exists (select from realtime) then 'the schema realtime' end,
        case when not exists (select from messages) then 'the table realtime.messages' end,
        case when not exists (select from functions where proname = 'topic') then 'the function realtime.topic' end],
        null),
      array_remove(array[
        case when not exists (select from functions where proname = 'send' and pronargs = 4)
          then 'the function realtime.send' end,
        case when not exists (select from functions where proname = 'broadcast_changes')
          then 'the function realtime.broadcast_changes' end], null),
      coalesce((select relkind = 'p' from messages), false),
      array(select pg_get_expr(c.relpartbound, c.oid) from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = (select oid from messages) order by c.relname desc limit 100),
      (select array_remove(array[case when pubinsert then 'insert' end, case when pubupdate then 'update' end,
        case when pubdelete then 'delete' end], null)
        from pg_publication where pubname = 'supabase_realtime'),
      exists (select from pg_roles where rolname = %s)
"""
"""Without `to_regclass`, which fails where the role may not use the schema."""
_SLOTS: Final = """
    select slot_name::text, active, coalesce(wal_status = 'lost', false),
      coalesce(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
        else pg_current_wal_lsn() end, restart_lsn), 0)::int8
    from pg_replication_slots order by slot_name limit 100
"""
_TABLE: Final = """
    select c.oid, format('%%I.%%I', n.nspname, c.relname), c.relkind::text, c.relpersistence::text,
      c.relreplident::text, c.relrowsecurity,
      array(select a.attname::text from pg_index i
        join pg_attribute a on a.attrelid = c.oid and a.attnum = any(i.indkey)
        where i.indrelid = c.oid and i.indisreplident),
      exists (select from pg_publication_tables p
        where p.pubname = 'supabase_realtime' and p.schemaname = n.nspname and p.tablename = c.relname),
      array(select format('%%I.%%I', n2.nspname, c2.relname) from pg_inherits h
        join pg_class c2 on c2.oid = h.inhrelid join pg_namespace n2 on n2.oid = c2.relnamespace
        where h.inhparent = c.oid order by 1 limit 5),
      array(select distinct format('%%I.%%I', n3.nspname, c3.relname) from pg_rewrite r
        join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
          and d.refclassid = 'pg_class'::regclass
        join pg_class c3 on c3.oid = d.refobjid and c3.oid <> c.oid
        join pg_namespace n3 on n3.oid = c3.relnamespace
        where r.ev_class = c.oid and c.relkind in ('v', 'm') limit 5),
      pg_get_userbyid(c.relowner)::text, c.relforcerowsecurity
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = %s and c.relname = %s
"""
_NARROWED: Final = """
    select case when r.prqual is not null then 'row filter' when r.prattrs is not null then 'column list' else '' end
    from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
    where p.pubname = 'supabase_realtime' and r.prrelid = %s
"""
_NEAR: Final = """
    select format('%%I.%%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and n.nspname !~ '^pg_|^information_schema$'
      and (lower(c.relname) = lower(%s)
        or (n.nspname = %s and lower(c.relname) in (lower(%s) || 's', rtrim(lower(%s), 's'))))
    order by 1 limit 5
"""
_COLUMNS: Final = """
    select a.attname::text, format_type(a.atttypid, null),
      coalesce(has_column_privilege(%s::name, a.attrelid, a.attnum, 'select'), false),
      exists (select from pg_index i
        where i.indrelid = a.attrelid and i.indisprimary and a.attnum = any(i.indkey))
    from pg_attribute a where a.attrelid = %s and a.attnum > 0 and not a.attisdropped order by a.attnum
"""
_POLICIES: Final = """
    select polname::text, polpermissive, polcmd::text, pg_get_expr(polqual, polrelid),
      pg_get_expr(polwithcheck, polrelid)
    from pg_policy
    where polrelid = %s and exists (
      select from unnest(polroles) as r(id) where r.id = 0 or pg_has_role(%s::name, r.id, 'usage'))
    order by polname
"""
_BYPASS: Final = """
    select rolsuper or rolbypassrls or (pg_has_role(rolname, %s::name, 'usage') and not %s)
    from pg_roles where rolname = %s
"""
_MAY_USE: Final = "select has_schema_privilege(%s::name, %s, 'usage')"
_IDENTITY: Final = """
    select set_config('realtime.topic', %s, true), set_config('request.jwt.claims', %s, true),
      set_config('request.jwt.claim.sub', %s, true), set_config('request.jwt.claim.role', %s, true),
      set_config('request.headers', '{}', true), set_config('role', %s, true)
"""
_MESSAGES: Final = """
    select c.oid, c.relrowsecurity, pg_get_userbyid(c.relowner)::text, c.relforcerowsecurity,
      array_remove(array[
        case when not has_schema_privilege(%s::name, c.relnamespace, 'usage') then 'usage of the schema' end,
        case when not has_table_privilege(%s::name, c.oid, 'select') then 'select' end,
        case when not has_table_privilege(%s::name, c.oid, 'insert') then 'insert' end], null)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'realtime' and c.relname = 'messages'
"""
_MESSAGE_COLUMNS: Final = """
    select a.attname::text, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid)
    from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = %s and a.attnum > 0 and not a.attisdropped order by a.attnum
"""


def check_database_url(url: str) -> str | None:
    """Check a database URL and return the hosted project that it names, None if it names none.

    Raises: InvalidArgumentError, without the URL, which may contain a password.
    """
    try:
        parts = conninfo.conninfo_to_dict(url)
    except psycopg.Error:  # its text quotes the URL
        raise InvalidArgumentError(f"the URL of the database is invalid; expected a URL like {EXAMPLE}") from None
    host, user = str(parts.get("host", ""))[:300], str(parts.get("user", ""))[:100]
    found = _HOSTED.fullmatch(host) or (_POOLED.fullmatch(user) if host.endswith(".pooler.supabase.com") else None)
    return found[1] if found else None


async def examine_database(url: str, target: Target, deadline: float) -> DatabaseFacts:
    """Return the facts; in time, also if the database does not answer."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[DatabaseFacts] = loop.create_future()
    examination = _Examination(url, target, deadline)

    def resolve(facts: DatabaseFacts | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(facts or DatabaseFacts())

    def run() -> None:
        facts, error = None, None
        try:
            facts = examination.run()
        except BaseException as caught:  # noqa: BLE001  raised by the task that waits
            error = caught
        try:
            loop.call_soon_threadsafe(resolve, facts, error)
        except RuntimeError:
            return  # the event loop was closed meanwhile, so nobody waits

    threading.Thread(target=run, name="supawire-doctor", daemon=True).start()
    started = time.monotonic()
    try:
        async with asyncio.timeout(max(0.05, deadline - started)):
            return await done
    except TimeoutError:
        return examination.so_far(time.monotonic() - started)


class _Examination:
    """One run through the database."""

    def __init__(self, url: str, target: Target, deadline: float) -> None:
        self._url: Final = url
        self._target: Final = target
        self._deadline: Final = deadline
        self._connected = False
        self._search_path = ""
        """The setting of the role that connects; policies are evaluated with it."""
        self._facts: dict[str, Any] = {}
        self._durations: dict[str, float] = {}

    def run(self) -> DatabaseFacts:
        """Connect and collect everything; what cannot be read is left out and named in `incomplete`."""
        started = time.monotonic()
        try:
            with self._connection() as connection:
                self._read(connection, started)
        except psycopg.Error as error:
            text = error.diag.message_primary or " ".join(str(error).split())
            if self._connected and not self._facts:
                return DatabaseFacts(seconds=time.monotonic() - started, problem="refused", error=_brief(text))
            if not self._facts:
                kind = next((name for pattern, name in _CONNECTION_PROBLEMS if re.search(pattern, text)), "unreachable")
                return DatabaseFacts(seconds=time.monotonic() - started, problem=kind, error=_brief(text))
            self._facts["incomplete"] = _brief(text)
        return DatabaseFacts(seconds=time.monotonic() - started, durations=self._durations, **self._facts)

    def so_far(self, seconds: float) -> DatabaseFacts:
        """Return what has been collected when the time is over; called in another thread."""
        facts: dict[str, Any] = {"incomplete": "the time limit was reached"} | self._facts
        return DatabaseFacts(seconds=seconds, no_answer=True, durations=dict(self._durations), **facts)

    @contextmanager
    def _connection(self) -> Generator[Connection[TupleRow]]:
        connection = psycopg.connect(
            self._url,
            autocommit=True,
            prepare_threshold=None,
            application_name="supawire doctor",
            connect_timeout=max(MIN_CONNECT_TIMEOUT, int(self._left())),
        )
        try:
            self._connected = True
            connection.execute("begin transaction read only")
            self._search_path = str(_one(connection, "show search_path")[0])
            # so that functions of others, in schemas where they may create some, are not called for those of PostgreSQL
            connection.execute("set local search_path = pg_catalog")
            yield connection
        finally:
            connection.close()  # which rolls back

    def _left(self) -> float:
        return max(0.05, self._deadline - time.monotonic())

    def _restore_search_path(self, connection: Connection[TupleRow]) -> None:
        """Use the search path of the role that connects, until the savepoint is rolled back."""
        connection.execute("select set_config('search_path', %s, true)", [self._search_path])

    def _limit(self, connection: Connection[TupleRow], most: float = 10.0) -> None:
        """Let PostgreSQL end the next statements before the time is over."""
        limit = f"{max(50, int(min(most, self._left() - 0.1) * 1000))}ms"
        connection.execute("select set_config('statement_timeout', %s, true)", [limit])

    def _read(self, connection: Connection[TupleRow], started: float) -> None:
        self._limit(connection)
        target = self._target
        row = _one(connection, _SERVER, [target.role])
        version, wal_level, max_slots, replica, missing, old, partitioned, bounds, operations, role_exists = row
        self._facts |= {
            "version": str(version).partition(" ")[0],
            "wal_level": wal_level,
            "max_slots": max_slots,
            "replica": replica,
            "missing": tuple(missing),
            "old": tuple(old),
            "partitioned": partitioned,
            "partitions": tuple(bounds),
            "publication": operations is not None,
            "operations": frozenset(operations or ()),
            "role_exists": role_exists,
        }
        self._durations["database"] = self._durations["schema"] = time.monotonic() - started
        with self._part(connection, "wal"):
            slots = connection.execute(_SLOTS).fetchall()
            self._facts["slots"] = tuple(SlotFacts(*slot) for slot in slots)
        if target.table is not None:
            with self._part(connection, "table"):
                self._read_table(connection, target.table, exists=role_exists)
        if target.topic is not None and not missing and role_exists:
            with self._part(connection, "policies"):
                self._facts["messages"] = self._read_messages(connection, target.topic)

    @contextmanager
    def _part(self, connection: Connection[TupleRow], name: str) -> Generator[None]:
        """Measure a part. If PostgreSQL refuses it, the others are read all the same."""
        started = time.monotonic()
        try:
            with connection.transaction():
                yield
        except psycopg.Error as error:
            if connection.closed:
                raise
            self._facts["incomplete"] = _brief(error.diag.message_primary or str(error))
        self._durations[name] = time.monotonic() - started

    # --- the table

    def _read_table(self, connection: Connection[TupleRow], name: str, *, exists: bool) -> None:
        target, role = self._target, self._target.role
        row = connection.execute(_TABLE, [target.schema, name]).fetchone()
        self._facts["table_read"] = True
        if row is None:
            near = connection.execute(_NEAR, [name, target.schema, name, name]).fetchall()
            self._facts["near"] = tuple(str(found) for (found,) in near)
            return
        oid, quoted, kind, persistence, identity, security, index, published, partitions, bases, owner, force = row
        columns = connection.execute(_COLUMNS, [role if exists else None, oid]).fetchall()
        new = connection.info.server_version >= 150_000
        narrowed = connection.execute(_NARROWED, [oid]).fetchone() if new else None
        policies, bypass, usage = [], False, True
        if exists:
            policies = connection.execute(_POLICIES, [oid, role]).fetchall()
            bypass = bool(_one(connection, _BYPASS, [owner, force, role])[0])
            usage = bool(_one(connection, _MAY_USE, [role, target.schema])[0])
        table = self._facts["table"] = TableFacts(
            quoted=quoted,
            kind=kind,
            persistence=persistence,
            identity=identity,
            columns=tuple(ColumnFacts(*column) for column in columns),
            identity_columns=tuple(index),
            published=published,
            narrowed=narrowed[0] if narrowed else "",
            partitions=tuple(partitions),
            bases=tuple(bases),
            row_security=security,
            bypass=bypass,
            policies=tuple(PolicyFacts(*policy[:3]) for policy in policies),
            may_use_schema=usage,
        )
        self._facts["bad_values"] = self._bad_values(connection, table)
        readable = usage and any(column.readable for column in table.columns)
        if table.row_security and not bypass and exists and readable:
            self._facts["rows"] = self._read_rows(connection, table)

    def _bad_values(self, connection: Connection[TupleRow], table: TableFacts) -> Mapping[str, str]:
        """Return PostgreSQL's error for the values of the filter that it cannot read, by column."""
        types = {column.name: column.type for column in table.columns}
        bad: dict[str, str] = {}
        for condition in self._target.conditions:
            if condition.column not in types or condition.op not in ("eq", "neq", "lt", "lte", "gt", "gte", "in"):
                continue
            cast_to = types[condition.column] + ("[]" if condition.op == "in" else "")
            text = sql.SQL("select (%s::text::{}) is null").format(_trusted(cast_to))
            try:
                with connection.transaction(force_rollback=True):
                    self._restore_search_path(connection)
                    connection.execute(text, [condition.wire_value])
            except psycopg.DataError as error:
                bad[condition.column] = _brief(error.diag.message_primary or str(error))
        return bad

    def _read_rows(self, connection: Connection[TupleRow], table: TableFacts) -> RowsFacts:
        started = time.monotonic()
        text = sql.SQL("select exists (select from {})").format(_trusted(table.quoted))
        try:
            with connection.transaction(force_rollback=True):
                self._limit(connection, STATEMENT_TIMEOUT)
                self._restore_search_path(connection)
                exist = bool(_one(connection, text)[0])
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.QueryCanceled):
            exist = None
        try:
            with connection.transaction(force_rollback=True):
                self._become(connection, "")
                visible = bool(_one(connection, text)[0])
        except _NotEvaluatedError as error:
            return RowsFacts(skipped=str(error))
        except psycopg.Error as error:
            return _failed_rows(error, exist, time.monotonic() - started)
        return RowsFacts(exist=exist, visible=visible, seconds=time.monotonic() - started)

    def _become(self, connection: Connection[TupleRow], topic: str) -> None:
        """Act as the role of the token with its claims, until the savepoint is rolled back."""
        self._limit(connection, STATEMENT_TIMEOUT)
        self._restore_search_path(connection)
        target = self._target
        subject = target.user.claims.get("sub")
        claims = dict(target.user.claims) or {"role": target.role}
        values = [topic, json.dumps(claims), subject if isinstance(subject, str) else "", target.role, target.role]
        try:
            connection.execute(_IDENTITY, values)
        except psycopg.errors.InsufficientPrivilege as error:
            reason = f"the role of the database URL may not act as {target.role}: {error.diag.message_primary}"
            raise _NotEvaluatedError(reason) from error

    # --- realtime.messages

    def _read_messages(self, connection: Connection[TupleRow], topic: str) -> MessagesFacts:
        started, role = time.monotonic(), self._target.role
        oid, security, owner, force, missing = _one(connection, _MESSAGES, [role, role, role])
        bypass = bool(_one(connection, _BYPASS, [owner, force, role])[0])
        access: dict[tuple[str, str], bool] = {}
        errors: list[PolicyError] = []
        skipped = ""
        if security and not bypass and not missing:
            policies = connection.execute(_POLICIES, [oid, role]).fetchall()[:MAX_POLICIES]
            columns = connection.execute(_MESSAGE_COLUMNS, [oid]).fetchall()
            try:
                for action, commands in (("read", "*r"), ("write", "*a")):
                    chosen = [policy for policy in policies if policy[2] in commands]
                    access |= self._evaluate(connection, topic, action, chosen, columns, errors)
            except _NotEvaluatedError as error:
                skipped = str(error)
        return MessagesFacts(
            seconds=time.monotonic() - started,
            row_security=security,
            bypass=bypass,
            missing=tuple(missing),
            access=access,
            errors=tuple(errors),
            skipped=skipped,
        )

    def _evaluate(
        self,
        connection: Connection[TupleRow],
        topic: str,
        action: str,
        policies: Sequence[TupleRow],
        columns: Sequence[TupleRow],
        errors: list[PolicyError],
    ) -> dict[tuple[str, str], bool]:
        """Return what these policies allow together: one permissive policy at least, and all restrictive ones."""
        granted: dict[str, bool] = {"broadcast": False, "presence": False}
        denied: set[str] = set()
        for name, permissive, _, using, check in policies:
            expression = (check if check is not None else using) if action == "write" else using
            try:
                found = self._try_policy(connection, topic, expression or "true", columns)
            except psycopg.Error as error:
                if error.sqlstate == READ_ONLY:
                    raise _NotEvaluatedError(WRITES) from error
                if not any(one.policy == name for one in errors):
                    errors.append(PolicyError(name, _brief(error.diag.message_primary or str(error))))
                continue
            for extension, allowed in found.items():
                if permissive:
                    granted[extension] = granted[extension] or allowed
                elif not allowed:
                    denied.add(extension)
        return {(extension, action): allowed and extension not in denied for extension, allowed in granted.items()}

    def _try_policy(
        self, connection: Connection[TupleRow], topic: str, expression: str, columns: Sequence[TupleRow]
    ) -> dict[str, bool]:
        """Evaluate the expression of a policy for a message of each extension, as the role."""
        parts = [_made_up_column(*column) for column in columns]
        text = sql.SQL(
            "select messages.extension, coalesce(({}), false) "
            "from (select {} from unnest(array['broadcast', 'presence']) as made(extension)) as messages"
        ).format(_trusted(expression), sql.SQL(", ").join(parts))
        with connection.transaction(force_rollback=True):
            self._become(connection, topic)
            rows = connection.execute(text, [topic] * sum(column[0] == "topic" for column in columns)).fetchall()
        return {extension: bool(allowed) for extension, allowed in rows}


class _NotEvaluatedError(Exception):
    """Policies cannot be evaluated here; the text says why."""


def _failed_rows(error: psycopg.Error, exist: bool | None, seconds: float) -> RowsFacts:
    """Return the facts for an evaluation that failed."""
    if error.sqlstate == CANCELED:
        return RowsFacts(exist=exist, no_answer=True, seconds=seconds)
    if error.sqlstate == READ_ONLY:
        return RowsFacts(exist=exist, skipped=WRITES, seconds=seconds)
    return RowsFacts(exist=exist, error=_brief(error.diag.message_primary or str(error)), seconds=seconds)


def _made_up_column(name: str, type: str, default: str | None) -> sql.Composable:
    """Return the value of a column of the made-up message: the topic, the extension, or its default."""
    if name == "topic":
        return sql.SQL("%s::text as topic")
    if name == "extension":
        return sql.SQL("made.extension as extension")
    value = _trusted(default) if default is not None else sql.SQL("null::{}").format(_trusted(type))
    return sql.SQL("{} as {}").format(value, sql.Identifier(name))


def _trusted(text: str) -> sql.SQL:
    """Return SQL that PostgreSQL itself has written: a quoted name, a type or an expression of its catalog."""
    return sql.SQL(cast("LiteralString", text.replace("%", "%%")))


def _one(connection: Connection[TupleRow], text: Any, values: Sequence[Any] = ()) -> tuple[Any, ...]:
    row = connection.execute(text, values).fetchone()
    assert row is not None  # each of these statements returns one row
    return row


def _brief(text: str) -> str:
    """Return an error on one line, without the stops at its end and of limited length."""
    return " ".join(text.split()).rstrip(".")[:300]
