"""Changing a row of a table by SQL, with plausible values for its columns."""

import ipaddress
from collections.abc import Iterator
from datetime import datetime
from random import Random
from typing import TYPE_CHECKING, Any, Final, LiteralString

import msgspec

from supawire.cli.output import shown
from supawire.cli.plausible import type_name, value_for
from supawire.errors import InvalidArgumentError, StateError

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

Row = dict[str, Any]

_COLUMNS: Final = """
select a.attname, t.typname, t.typtype::text, a.attnotnull,
       a.atthasdef or a.attidentity <> '' or a.attgenerated <> '', a.attgenerated <> '' or a.attidentity = 'a',
       coalesce(a.attnum = any(i.indkey), false), t.oid,
       (select array[fn.nspname, fr.relname, fa.attname] from pg_constraint c
        join pg_class fr on fr.oid = c.confrelid join pg_namespace fn on fn.oid = fr.relnamespace
        join pg_attribute fa on fa.attrelid = c.confrelid and fa.attnum = c.confkey[1]
        where c.conrelid = r.oid and c.contype = 'f' and c.conkey = array[a.attnum] limit 1)
from pg_class r join pg_namespace n on n.oid = r.relnamespace
join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
join pg_type t on t.oid = a.atttypid
left join pg_index i on i.indrelid = r.oid and i.indisprimary
where n.nspname = %s and r.relname = %s and r.relkind in ('r', 'p')
order by a.attnum
"""


class _Column(msgspec.Struct, frozen=True):
    name: str
    type: str
    kind: str
    not_null: bool
    has_default: bool
    generated: bool
    in_key: bool
    type_id: int
    references: list[str] | None


def change_row(url: str, kind: str, schema: str, table: str, values: Row, random: Random, now: datetime) -> Row:
    """Insert, update or delete a row, and return it. Raises: InvalidArgumentError, StateError."""
    try:
        import psycopg
    except ModuleNotFoundError:
        raise InvalidArgumentError(
            "rows of a database need the extra `postgres`", hint="pip install 'supawire[postgres]'"
        ) from None
    _check_local(url)
    try:
        with psycopg.connect(url, connect_timeout=10, autocommit=True) as connection:
            found = connection.execute(_COLUMNS, (schema, table)).fetchall()
            if not found:
                raise InvalidArgumentError(f"the database has no table {shown(f'{schema}.{table}')}")
            every = [_Column(*row) for row in found]
            unknown = [name for name in values if name not in {column.name for column in every}]
            if unknown:
                raise InvalidArgumentError(f"{shown(f'{schema}.{table}')} has no column {shown(', '.join(unknown))}")
            return _Change(connection, schema, table, every, values, random, now).run(kind)
    except psycopg.OperationalError as error:
        raise StateError(f"the database cannot be used: {shown(str(error), 300)}") from None
    except psycopg.Error as error:
        raise StateError(
            f"the database refuses the row: {shown(error.diag.message_primary or str(error), 500)}",
            hint="Give the value with --set COLUMN=VALUE.",
        ) from error


def _check_local(url: str) -> None:
    """Refuse a database of another machine: the command is for development."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.pq import Conninfo

    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:  # its text may contain the password
        raise InvalidArgumentError("--database-url is not a valid URL", hint="Write postgresql://…") from None
    defaults = {option.keyword: option.val for option in Conninfo.get_defaults()}  # of PGHOST, PGSERVICE and the like
    names = [str(given.get(name) or (defaults.get(name.encode()) or b"").decode()) for name in ("host", "hostaddr")]
    if "service" in given or not all(_is_local(host) for name in names for host in name.split(",")):
        raise InvalidArgumentError("trigger changes rows of a database on this machine only")


def _is_local(host: str) -> bool:
    if host in ("", "localhost") or host.startswith("/"):  # a path is that of a Unix socket
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Change:
    """One change of a row by SQL."""

    def __init__(
        self,
        connection: "psycopg.Connection[tuple[Any, ...]]",
        schema: str,
        table: str,
        columns: list[_Column],
        values: Row,
        random: Random,
        now: datetime,
    ) -> None:
        from psycopg import sql

        self._sql = sql
        self._connection = connection
        self._table = sql.Identifier(schema, table)
        self._name = f"{schema}.{table}"
        self._columns = columns
        self._values = values
        self._random = random
        self._now = now

    def run(self, kind: str) -> Row:
        """Change a row and return it."""
        return {"INSERT": self._insert, "UPDATE": self._update, "DELETE": self._delete}[kind]()

    def _insert(self) -> Row:
        row = {
            column.name: self._value(column)
            for column in self._columns
            if column.name in self._values or not column.has_default
        }
        names, items = self._list(row)
        if not row:
            return self._execute("insert into {table} default values returning *")
        return self._execute("insert into {table} ({names}) values ({items}) returning *", names=names, items=items)

    def _update(self) -> Row:
        changeable = [column for column in self._columns if not column.in_key and not column.generated]
        texts = [column for column in changeable if not column.references and not column.has_default]
        chosen = (texts or changeable)[:1]
        row = self._values or {column.name: self._value(column) for column in chosen}
        if not row:
            raise InvalidArgumentError(f"{shown(self._name)} has only key columns; delete a row and insert another one")
        items = self._sql.SQL(", ").join(self._equations(row))
        return self._execute("update {table} set {items} where {newest} returning *", items=items)

    def _delete(self) -> Row:
        if self._values:
            condition = self._sql.SQL(" and ").join(self._equations(self._values))
            return self._execute("delete from {table} where {newest} returning *", condition=condition)
        return self._execute("delete from {table} where {newest} returning *")

    def _equations(self, row: Row) -> "Iterator[sql.Composed]":
        for name, value in row.items():
            literal = self._sql.Literal(self._adapted(name, value))
            yield self._sql.SQL("{} = {}").format(self._sql.Identifier(name), literal)

    def _value(self, column: _Column) -> Any:
        if column.name in self._values:
            return self._values[column.name]
        if column.references is not None:
            return self._referenced(column, *column.references)
        if column.kind == "e":
            labels = self._connection.execute(
                "select enumlabel from pg_enum where enumtypid = %s order by enumsortorder", (column.type_id,)
            ).fetchall()
            return labels[0][0] if labels else None
        return value_for(column.name, type_name(column.type), self._now, self._random)

    def _referenced(self, column: _Column, schema: str, table: str, name: str) -> Any:
        """Return a value that the foreign key accepts."""
        query = self._sql.SQL("select {} from {} order by 1 desc limit 1").format(
            self._sql.Identifier(name), self._sql.Identifier(schema, table)
        )
        found = self._connection.execute(query).fetchone()
        if found is None and column.not_null:
            raise StateError(
                f"{column.name} refers to {schema}.{table}, which is empty", hint="Insert a row there first."
            )
        return None if found is None else found[0]

    def _adapted(self, name: str, value: Any) -> Any:
        """Return the value as psycopg writes it for the type of the column."""
        from psycopg.types.json import Json

        types = {column.name: column.type for column in self._columns}
        return Json(value) if types[name] in ("json", "jsonb") or isinstance(value, dict) else value

    def _list(self, row: Row) -> tuple[Any, Any]:
        names = self._sql.SQL(", ").join(map(self._sql.Identifier, row))
        items = self._sql.SQL(", ").join(self._sql.Literal(self._adapted(name, value)) for name, value in row.items())
        return names, items

    def _execute(self, text: LiteralString, *, condition: "sql.Composed | None" = None, **parts: Any) -> Row:
        """Run a statement. `{newest}` in it is the newest row, of those that fulfil the condition."""
        from psycopg.rows import dict_row

        newest = self._sql.SQL(
            "(tableoid, ctid) = (select tableoid, ctid from {table} where {condition} order by {order} desc limit 1)"
        ).format(table=self._table, condition=condition or self._sql.SQL("true"), order=self._order())
        query = self._sql.SQL(text).format(**{"table": self._table, "newest": newest, **parts})
        with self._connection.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute(query).fetchone()
        if row is None:
            raise StateError(f"{shown(self._name)} has no such row", hint="Insert one first.")
        return row

    def _order(self) -> Any:
        key = [column.name for column in self._columns if column.in_key]
        return self._sql.SQL(" desc, ").join(map(self._sql.Identifier, key)) if key else self._sql.SQL("ctid")
