"""What is checked before a table source claims its first row: table, columns, key, rights, row security, condition.

Each problem that would lose jobs or repeat them endlessly is a `SetupError` with the SQL that mends it; what only makes
the worker slower is a warning.
"""

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from psycopg import sql

from supawire._values.filter_syntax import Condition
from supawire.errors import SetupError
from supawire.worker.database import Database, DatabaseError, Statement, identifier, identify, literal, raw
from supawire.worker.migration import REQUIRED, migration
from supawire.worker.statements import TableShape, indexes
from supawire.worker.values import SqlValue, value_sql, values_before, where_sql

if TYPE_CHECKING:
    from supawire.worker.table import TableOptions

LARGE_TABLE: Final = 10_000
"""Rows above which a missing index is worth a warning."""
PUBLICATION: Final = "supabase_realtime"

_TABLE: Final = """
select c.oid, current_user, c.relkind::text, c.reltuples::float8, has_schema_privilege(n.oid, 'usage'),
  has_table_privilege(c.oid, 'select'), row_security_active(c.oid),
  exists (select from pg_policies p, unnest(p.roles) r where p.schemaname = n.nspname and p.tablename = c.relname
    and p.cmd in ('ALL', 'UPDATE') and case when r = 'public' then true else pg_has_role(r, 'usage') end),
  exists (select from pg_publication_tables p where p.pubname = {publication} and p.schemaname = n.nspname
    and p.tablename = c.relname),
  exists (select from pg_publication where pubname = {publication}),
  (select array_agg(a.attname::text order by k.n) from pg_index i, unnest(i.indkey) with ordinality k (attnum, n),
     pg_attribute a where i.indrelid = c.oid and i.indisprimary and a.attrelid = c.oid and a.attnum = k.attnum)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %s and c.relname = %s
"""
_COLUMNS: Final = """
select a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull,
  has_column_privilege(a.attrelid, a.attnum, 'update')
from pg_attribute a where a.attrelid = %s and a.attnum > 0 and not a.attisdropped order by a.attnum
"""
_JOBS: Final = """
select array_agg(a.attname::text), bool_and(has_table_privilege(c.oid, 'select')
  and has_table_privilege(c.oid, 'insert') and has_table_privilege(c.oid, 'update')
  and has_table_privilege(c.oid, 'delete')), bool_and(has_schema_privilege(n.oid, 'usage'))
from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
where n.nspname = %s and c.relname = 'jobs' and a.attnum > 0 and not a.attisdropped
"""
_INDEXES: Final = "select indexname from pg_indexes where schemaname = %s and tablename = %s"


class TableDescription(Struct, frozen=True):
    """A table with the options of its source. published: None without the publication of Realtime."""

    shape: TableShape
    role: str
    rows: float
    row_security: bool
    published: bool | None


class Catalog:
    """Reads the catalog for one table source."""

    def __init__(self, database: Database, options: "TableOptions") -> None:
        self._database: Final = database
        self._options: Final = options
        self._table: Final = identify(options.schema, options.table)

    async def describe(self) -> TableDescription:
        """Read the table and check the options with it. Raises: SetupError, DatabaseError."""
        options = self._options
        statement = sql.SQL(_TABLE).format(publication=literal(PUBLICATION))
        found = await self._database.query(statement, (options.schema, options.table))
        if not found:
            raise SetupError(
                f"there is no table {self._table} in this database", hint="Create it, or correct table= and schema=."
            )
        oid, role, kind, rows, may_use, may_select, secured, has_policy, published, has_publication, key = found[0]
        if kind not in ("r", "p"):
            raise SetupError(
                f"{self._table} is not a table, and only rows of tables can be locked", hint="Name the table."
            )
        columns = await self._database.query(_COLUMNS, (oid,))
        kinds = {name: kind for name, kind, _, _ in columns}
        self._check_columns(kinds)
        if not key:
            raise SetupError(
                f"{self._table} has no primary key, by which jobs are told apart",
                sql=f"alter table {self._table} add column id bigint generated always as identity primary key;",
            )
        self._check_rights(role, may_use, may_select, {name for name, _, _, may_update in columns if may_update})
        if secured and not has_policy:
            raise SetupError(
                f"row level security hides the rows of {self._table} from the role {role}: it has no policy for it",
                sql=f"create policy worker on {self._table} for all to {identify(role)} using (true);",
                hint="Or connect as a role that bypasses row level security, such as postgres.",
            )
        order = self._order(key, {name for name, _, not_null, _ in columns if not_null})
        before = await self._before(kinds)
        await self._check_loops(kinds)
        shape = TableShape(
            options.schema, options.table, options.name, options.jobs_schema, tuple(key), kinds,
            options.where.conditions, options.claim, options.done, options.failed, before, order, options.group,
        )  # fmt: skip
        return TableDescription(shape, role, rows, secured, published if has_publication else None)

    async def check_jobs(self, described: TableDescription) -> None:
        """Check the side table. Raises: SetupError with the migration."""
        schema = self._options.jobs_schema
        (columns, may_use, may_use_schema), *_ = await self._database.query(_JOBS, (schema,))
        missing = [name for name in REQUIRED if name not in (columns or ())]
        name = identify(schema, "jobs")
        if columns and missing:
            raise SetupError(
                f"the table {name} is of another version or purpose: it has no column {', '.join(missing)}",
                hint="Pass another schema as jobs_schema= to the worker, or move that table.",
            )
        if missing:
            raise SetupError(
                f"the side table {name}, in which the worker keeps attempts and leases, is missing",
                sql=migration(identify(schema)),
                hint="Run `supawire worker init module:app --apply`, or this migration:",
            )
        if not (may_use and may_use_schema):
            role = identify(described.role)
            raise SetupError(
                f"the role {described.role} may not use the side table {name}",
                sql=f"grant usage on schema {identify(schema)} to {role};\n"
                f"grant select, insert, update, delete on {name} to {role};",
            )

    async def check_statement(self, statement: Statement, parameters: Mapping[str, Any]) -> None:
        """Let PostgreSQL check the statement that claims, without running it. Raises: SetupError."""
        try:
            await self._database.query(sql.SQL("explain {}").format(statement), parameters)
        except DatabaseError as error:
            if error.retryable:
                raise
            raise SetupError(f"rows of {self._table} cannot be claimed: {error.message}", hint=error.hint) from error

    async def warnings(self, described: TableDescription) -> list[str]:
        """Return what makes this worker slower than it could be, with the SQL that mends it."""
        found: list[str] = []
        if described.published is None:
            found.append(
                f"this database has no publication {PUBLICATION}, so changes are not announced and only the poll finds"
                f" jobs: create publication {PUBLICATION} for table {self._table};"
            )
        elif not described.published:
            found.append(
                f"{self._table} is not in the publication {PUBLICATION}, so changes are not announced and only the poll"
                f" finds jobs: alter publication {PUBLICATION} add table {self._table};"
            )
        if described.row_security:
            found.append(
                f"row level security applies to the role {described.role}: rows of {self._table} that its policies hide"
                " are not worked on"
            )
        if described.rows > LARGE_TABLE:
            names = {
                name for (name,) in await self._database.query(_INDEXES, (self._options.schema, self._options.table))
            }
            lacking = [text for name, text in indexes(described.shape).items() if name not in names]
            found += [f"{self._table} has {described.rows:.0f} rows and no index for claims: {one}" for one in lacking]
        return found

    # --- columns and rights

    def _check_columns(self, kinds: Mapping[str, str]) -> None:
        options = self._options
        wanted: dict[str, str] = {}
        for condition in options.where.conditions:
            wanted.setdefault(condition.column, _default_of(condition))
        for values in (options.claim, options.done, options.failed):
            for column, value in values.items():
                wanted.setdefault(column, _type_of(value))
        for column, _ in options.order:
            wanted.setdefault(column, "timestamptz not null default now()")
        if options.group is not None:
            wanted.setdefault(options.group, "text")
        missing = {column: kind for column, kind in wanted.items() if column not in kinds}
        if missing:
            lines = ",\n  ".join(f"add column {identify(column)} {kind}" for column, kind in missing.items())
            raise SetupError(
                f"{self._table} has no column {', '.join(missing)}", sql=f"alter table {self._table}\n  {lines};"
            )

    def _check_rights(self, role: str, may_use: bool, may_select: bool, may_update: Iterable[str]) -> None:
        options = self._options
        written = {*options.claim, *options.done, *options.failed}
        lines: list[str] = []
        if not may_use:
            lines.append(f"grant usage on schema {identify(options.schema)} to {identify(role)};")
        if not may_select or not written <= set(may_update):
            lines.append(f"grant select, update on {self._table} to {identify(role)};")
        if lines:
            raise SetupError(
                f"the role {role} may not select and update rows of {self._table}, which a worker has to",
                sql="\n".join(lines),
            )

    def _order(self, key: Iterable[str], not_null: Iterable[str]) -> tuple[tuple[str, bool], ...]:
        options = self._options
        order = options.order + tuple((column, False) for column in key if (column, False) not in options.order)
        nullable = [column for column, _ in order if column not in set(not_null)]
        if options.group is not None and nullable:
            raise SetupError(
                f"{', '.join(nullable)} of {self._table} may be null, which has no place in an order",
                sql="\n".join(
                    f"alter table {self._table} alter column {identify(one)} set not null;" for one in nullable
                ),
            )
        return order

    # --- the condition

    async def _before(self, kinds: Mapping[str, str]) -> dict[str, Any]:
        """Return the values with which a row that is given back matches the condition again; empty if unknown."""
        options = self._options
        before = values_before(options.where.conditions, options.claim)
        needed = [condition for condition in options.where.conditions if condition.column in options.claim]
        known = before and all(condition.column in before for condition in needed)
        return before if known and await self._matches(before, kinds) else {}

    async def _check_loops(self, kinds: Mapping[str, str]) -> None:
        """Check that a row no longer matches the condition after each of the changes. Raises: SetupError."""
        options = self._options
        for name, values in (
            ("claim", options.claim),
            ("done", options.claim | options.done),
            ("failed", options.claim | options.failed),
        ):
            if await self._matches(values, kinds):
                raise SetupError(
                    f"a row of {self._table} that got {name}={getattr(options, name)!r} still matches"
                    f" where={options.where!r}, so it would be claimed again and again",
                    hint=f"Let {name}= change a column that where= compares, to a value that does not match.",
                )

    async def _matches(self, values: Mapping[str, Any], kinds: Mapping[str, str]) -> bool:
        """Return whether a row with these values may match the condition, whatever its other columns are."""
        conditions = [condition for condition in self._options.where.conditions if condition.column in values]
        if not conditions:
            return True
        columns = sql.SQL(", ").join(
            sql.SQL("{}::{} as {}").format(
                sql.SQL("''") if value is SqlValue.REASON else value_sql(value, kinds[column]),
                raw(kinds[column]),
                identifier(column),
            )
            for column, value in values.items()
        )
        where = where_sql(conditions, kinds, "t")
        statement = sql.SQL("select coalesce({}, false) from (select {}) t where %s").format(where, columns)
        try:
            return bool((await self._database.query(statement, (True,)))[0][0])
        except DatabaseError as error:
            if error.retryable:
                raise
            raise SetupError(
                f"where={self._options.where!r} and the values {dict(values)!r} do not fit the columns of"
                f" {self._table}: {error.message}",
                hint=error.hint,
            ) from error


def _default_of(condition: Condition) -> str:
    if condition.op == "eq" and not condition.negated:
        return f"text not null default {sql.Literal(condition.value).as_string()}"
    return "boolean" if condition.op == "is" and condition.value in ("true", "false") else "text"


def _type_of(value: Any) -> str:
    if isinstance(value, SqlValue):
        return "timestamptz" if value is SqlValue.NOW else "text"
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "boolean"), (int, "bigint"), (float, "double precision"), (datetime, "timestamptz"), (date, "date"),
        (dict, "jsonb"), (list, "jsonb"),
    )  # fmt: skip
    return next((name for kind, name in kinds if isinstance(value, kind)), "text")
