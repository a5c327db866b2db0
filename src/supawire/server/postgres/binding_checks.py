"""Resolve the bindings of a channel to subscriptions on tables, and check them.

The checks are those of the trigger on the real server's table `realtime.subscription`, in the same order and with the
same error texts; values and patterns are validated by PostgreSQL itself. All bindings of a channel succeed or fail
together. See docs/protocol.md, Bindings.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString, NamedTuple

import psycopg
from psycopg import AsyncConnection, errors, sql

from supawire._values.filter_syntax import MAX_ITEMS, Condition
from supawire.server.bindings import EXCEPTION, UNPUBLISHED, Binding
from supawire.server.postgres.catalog import PUBLICATION
from supawire.server.postgres.database import Database, is_lost, quoted
from supawire.server.queries import SubscribeQuery


@dataclass(frozen=True, slots=True)
class Identity:
    """Role and claims with which rows are read. claims: those of the token, as JSON."""

    role: str
    claims: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TableSubscription:
    """One binding of one channel on one table. id: as known to the client. select: sorted, None for all."""

    channel: int
    id: int
    event: str
    conditions: tuple[Condition, ...]
    select: tuple[str, ...] | None
    identity: Identity


RAISED: Final = "P0001"
"""SQLSTATE of `raise` in the trigger."""

_TABLES: Final = """
    select distinct c.oid::int8
    from pg_publication_tables p
    join pg_namespace n on n.nspname = p.schemaname
    join pg_class c on c.relname = p.tablename and c.relnamespace = n.oid
    where p.pubname = %s and (%s = '*' or p.schemaname like %s) and (%s = '*' or p.tablename like %s)
    order by 1
"""

_COLUMNS: Final = """
    select a.attname::text, format_type(a.atttypid, null), a.atttypid::regtype::text, a.atttypid = 'bool'::regtype,
      exists (select from pg_operator o where o.oprname = '~~' and o.oprleft = a.atttypid),
      exists (select from pg_operator o
        where o.oprname = '~' and o.oprleft = a.atttypid and o.oprright = a.atttypid)
    from pg_attribute a
    where a.attrelid = %s::oid and a.attnum > 0 and not a.attisdropped
      and has_column_privilege(%s::name, a.attrelid, a.attnum, 'SELECT')
"""


class _CheckedColumn(NamedTuple):
    """Properties of a column that the checks use. sql: its type, quoted; shown: its type in error texts."""

    sql: str
    shown: str
    is_bool: bool
    has_like: bool
    has_regex: bool


class _InvalidBinding(Exception):
    """Carries an error text of the trigger."""


async def resolve_bindings(database: Database, query: SubscribeQuery) -> list[tuple[int, TableSubscription]] | str:
    """Return the subscriptions, each with its table, or the error text of the `system` frame. Raises: DatabaseError."""
    claims = query.requester.claims.values
    identity = Identity(str(claims.get("role")), json.dumps(claims))
    found: list[tuple[int, TableSubscription]] = []
    async with database.transaction(rollback=True) as connection:
        for binding in query.bindings:
            try:
                tables = await _tables(connection, binding, identity)
            except psycopg.Error as error:
                if is_lost(error):
                    raise
                return EXCEPTION.format(given=binding.description, error=_error_text(error))
            except _InvalidBinding as refused:
                return EXCEPTION.format(
                    given=binding.description, error=f"ERROR {RAISED} ({_condition_name(RAISED)}) {refused}"
                )
            if not tables:
                return UNPUBLISHED.format(given=binding.description)
            select = None if binding.select is None else tuple(sorted(set(binding.select)))
            subscription = TableSubscription(
                query.channel, binding.id, binding.event, binding.conditions, select, identity
            )
            found += [(table, subscription) for table in tables]
    return found


async def _tables(connection: AsyncConnection, binding: Binding, identity: Identity) -> list[int]:
    """Return the published tables that the binding names, after checking it against each of them."""
    named = binding.schema, binding.schema, binding.table, binding.table
    cursor = await connection.execute(_TABLES, [PUBLICATION, *named])
    tables = [oid for (oid,) in await cursor.fetchall()]
    for table in tables:
        cursor = await connection.execute(_COLUMNS, [table, identity.role])
        columns = {name: _CheckedColumn(*rest) for name, *rest in await cursor.fetchall()}
        for condition in binding.conditions:
            await _check(connection, condition, columns)
        for name in binding.select or ():
            if name not in columns:
                raise _InvalidBinding(f"invalid column for select {name}")
    return tables


async def _check(connection: AsyncConnection, condition: Condition, columns: Mapping[str, _CheckedColumn]) -> None:
    column = columns.get(condition.column)
    if column is None:
        raise _InvalidBinding(f"invalid column for filter {condition.column}")
    if condition.op == "is":
        _check_is(condition, column)
    elif condition.op in ("like", "ilike"):
        if not column.has_like:
            raise _InvalidBinding(_no_text(condition, column))
    elif condition.op in ("match", "imatch"):
        if not column.has_regex:
            raise _InvalidBinding(_no_text(condition, column))
        await _check_regex(connection, condition)
    elif condition.op == "in":
        await _check_list(connection, condition, column)
    else:
        await _cast(connection, condition.value, column.sql)


def _no_text(condition: Condition, column: _CheckedColumn) -> str:
    return f"operator {condition.op} requires a text-compatible column type, got {column.shown}"


def _check_is(condition: Condition, column: _CheckedColumn) -> None:
    if condition.value not in ("null", "true", "false", "unknown"):
        raise _InvalidBinding("invalid value for is filter: must be null, true, false, or unknown")
    if condition.value != "null" and not column.is_bool:
        raise _InvalidBinding(f"is {condition.value} filter requires a boolean column, got {column.shown}")


async def _check_regex(connection: AsyncConnection, condition: Condition) -> None:
    try:
        async with connection.transaction():
            await connection.execute("select '' ~ %s", [condition.value])
    except errors.InvalidRegularExpression as error:
        why = error.diag.message_primary
        raise _InvalidBinding(f"invalid regular expression for {condition.op} filter: {why}") from error


async def _check_list(connection: AsyncConnection, condition: Condition, column: _CheckedColumn) -> None:
    rows = await _cast(connection, condition.wire_value, column.sql + "[]", "coalesce(array_length({}, 1), 0)")
    if rows[0][0] > MAX_ITEMS:
        raise _InvalidBinding(f"too many values for `in` filter. Maximum {MAX_ITEMS}")


async def _cast(
    connection: AsyncConnection, value: str, type: str, shape: LiteralString = "({}) is null"
) -> Sequence[tuple[Any, ...]]:
    """Let PostgreSQL parse the value as the type."""
    read = sql.SQL("%s::text::{}").format(quoted(type))
    cursor = await connection.execute(sql.SQL("select ") + sql.SQL(shape).format(read), [value])
    return await cursor.fetchall()


def _error_text(error: psycopg.Error) -> str:
    """Return PostgreSQL's error as the real server prints it."""
    return f"ERROR {error.sqlstate} ({_condition_name(error.sqlstate or '')}) {error.diag.message_primary}"


def _condition_name(state: str) -> str:
    """Return the condition name of an SQLSTATE from PostgreSQL's manual, such as `undefined_object`."""
    try:
        name = errors.lookup(state).__name__
    except KeyError:
        return "unknown"
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("_")
