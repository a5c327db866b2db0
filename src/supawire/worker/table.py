"""The source that takes rows of a table which match a condition, by a direct connection to PostgreSQL."""

import os
import secrets
import socket
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any, Final

from psycopg.types.json import Json, Jsonb

from supawire.errors import InvalidArgumentError, RealtimeError
from supawire.filters import Where
from supawire.options import check_text
from supawire.selectors import changes
from supawire.worker.database import LOCK_NOT_AVAILABLE, Database, DatabaseError, Row, identify
from supawire.worker.migration import migration
from supawire.worker.source import Batch, Claimed, Finished, Settled, Wakeup
from supawire.worker.statements import Statements, TableShape, index_sql
from supawire.worker.table_checks import Catalog, TableDescription
from supawire.worker.values import Values, check_values

FORGET_LIMIT: Final = 2000
"""Rows of done jobs that are removed at once."""
FORGET_AFTER: Final = 1000
"""Completions after which old rows of done jobs are removed."""
_META: Final = 5
"""Columns of a claimed row that come before those of the table: when the next job is due, and what the engine needs."""


class TableOptions:
    """The checked options of a table source."""

    def __init__(
        self,
        table: str,
        *,
        schema: str,
        name: str | None,
        where: Where,
        claim: Values,
        done: Values,
        failed: Values,
        order_by: str | Iterable[str] | None,
        group: str | None,
        jobs_schema: str,
        keep: float,
    ) -> None:
        for word, value in (("table", table), ("schema", schema)):
            check_text(word, value)
        if not isinstance(where, Where):
            raise InvalidArgumentError(
                f"where must be a condition such as col('status') == 'pending', not {where!r}",
                hint="It says which rows are jobs that wait.",
            )
        self.table: Final = table
        self.schema: Final = schema
        self.name: Final = f"{schema}.{table}" if name is None else check_text("name", name)
        self.where: Final = where
        self.claim: Final = check_values("claim", claim, empty=False)
        self.done: Final = check_values("done", done, empty=True)
        self.failed: Final = check_values("failed", failed, empty=True, reason=True)
        self.order: Final = _read_order(order_by)
        self.group: Final = None if group is None else check_text("group", group)
        self.jobs_schema: Final = jobs_schema
        self.keep: Final = keep

    @property
    def wakeup(self) -> Wakeup:
        """Inserts and updates of rows that match the condition."""
        selected = partial(changes, self.table, schema=self.schema, where=self.where)
        return Wakeup(f"supawire:worker:{self.name}", (selected(event="INSERT"), selected(event="UPDATE")))


def _read_order(order_by: str | Iterable[str] | None) -> tuple[tuple[str, bool], ...]:
    names = () if order_by is None else (order_by,) if isinstance(order_by, str) else tuple(order_by)
    for name in names:
        if not isinstance(name, str) or not name.removeprefix("-"):
            raise InvalidArgumentError(
                f"order_by must be a column or a list of columns, with - in front for descending, not {order_by!r}"
            )
    return tuple((name.removeprefix("-"), name.startswith("-")) for name in names)


def new_holder() -> str:
    """Return a name for this process in the side table."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


class TableSource:
    """Jobs that are rows of a table; implements `Source` and `TransactionalSource`."""

    def __init__(self, database: Database, options: TableOptions, holder: str) -> None:
        self._database: Final = database
        self._options: Final = options
        self._holder: Final = holder
        self._statements: Statements | None = None
        self._shape: TableShape | None = None
        self._after: Any = None
        """With groups: the one of the last job that was claimed here."""
        self._completions = FORGET_AFTER
        """Since old rows were removed; at first as many as are needed for that."""

    @property
    def name(self) -> str:
        """The name of the job, by default schema and table."""
        return self._options.name

    @property
    def wakeup(self) -> Wakeup:
        """Inserts and updates of rows that match the condition."""
        return self._options.wakeup

    @property
    def columns(self) -> Collection[str]:
        """The columns of the table."""
        return () if self._shape is None else self._shape.kinds.keys()

    async def describe(self) -> TableDescription:
        """Read the table from the catalog and check the options with it. Raises: SetupError."""
        return await Catalog(self._database, self._options).describe()

    async def prepare(self) -> Sequence[str]:
        """Check table, role and condition, and make the statements. Return warnings. Raises: SetupError."""
        catalog = Catalog(self._database, self._options)
        described = await catalog.describe()
        await catalog.check_jobs(described)
        self._shape = described.shape
        self._statements = Statements(described.shape)
        await catalog.check_statement(self._statements.claim(1), {"lease": 1.0, "holder": "", "after": None})
        return await catalog.warnings(described)

    async def migration(self) -> list[str]:
        """Return the statements that create indexes for this table. Raises: SetupError."""
        return index_sql((await self.describe()).shape)

    async def claim(self, limit: int, lease: float) -> Batch:
        """Take rows, in one statement. With groups, these take turns: each call goes on after the one before."""
        if self._completions >= FORGET_AFTER:  # before the claim: a failure must not lose what was claimed
            await self._forget()
        batch = await self._claim(limit, lease)
        groups = self._groups(batch)
        if self._after is not None and len(groups) < limit:  # the last one was reached: from the first again
            self._after = None
            if len(batch.jobs) < limit:
                try:
                    more = await self._claim(limit - len(batch.jobs), lease)
                except RealtimeError:
                    if not batch.jobs:
                        raise
                    return batch  # they are held already; the next claim reports what is wrong
                batch = Batch([*batch.jobs, *more.jobs], more.next_due)
            groups = self._groups(batch)[len(groups) :]
        self._after = groups[-1] if groups else None
        return batch

    def _groups(self, batch: Batch) -> list[Any]:
        column = self._options.group
        return [] if column is None else [job.row[column] for job in batch.jobs if job.row[column] is not None]

    async def _claim(self, limit: int, lease: float) -> Batch:
        parameters = {"lease": lease, "holder": self._holder, "after": self._after}
        names, rows = await self._database.table(self._ready.claim(limit), parameters)
        columns = names[_META:]
        assert self._shape is not None
        key = self._shape.key
        return Batch([_claimed(row, columns, key) for row in rows if row[1] is not None], rows[0][0])

    async def extend(self, claims: Sequence[Claimed], lease: float) -> Collection[Any]:
        """Extend leases, in one statement."""
        return set(await self._database.query(self._ready.extend, _tokens(claims) | {"lease": lease}))

    async def complete(self, finished: Sequence[Finished]) -> Sequence[Settled]:
        """Complete jobs: those that write no columns in one statement, the others each in its own."""
        self._completions += len(finished)
        plain = [one.claim for one in finished if not one.values]
        outcomes: dict[Any, Settled] = {}
        single = [one for one in finished if one.values]
        if plain:
            try:
                for number, ended, moved in await self._database.query(self._ready.complete, _tokens(plain)):
                    outcomes[number] = self._outcome(ended, moved)
            except DatabaseError as error:
                if error.sqlstate != LOCK_NOT_AVAILABLE:
                    raise
                single = list(finished)
        for one in single:
            outcomes[one.claim.token[0]] = await self._complete(one)
        return [outcomes[one.claim.token[0]] for one in finished]

    async def _complete(self, finished: Finished) -> Settled:
        statement, parameters = self.completion(finished)
        try:
            _, ended, moved = (await self._database.query(statement, parameters))[0]
        except DatabaseError as error:
            if error.sqlstate == LOCK_NOT_AVAILABLE:
                return "busy"
            raise
        return self._outcome(ended, moved)

    def completion(self, finished: Finished) -> tuple[Any, Any]:
        """Return the statement that completes a job, and its parameters; it returns `(id, held, row was changed)`."""
        assert self._shape is not None
        kinds = self._shape.kinds
        columns = list(finished.values)
        written = {
            f"w{number}": _parameter(finished.values[column], kinds[column]) for number, column in enumerate(columns)
        }
        statement = self._ready.complete_with(columns) if columns else self._ready.complete
        return statement, _tokens([finished.claim]) | written

    async def retry(self, claim: Claimed, delay: float, error: str) -> bool:
        """Let the job wait."""
        return bool(await self._database.query(self._ready.retry, _one(claim, error) | {"delay": delay}))

    async def fail(self, claim: Claimed, reason: str) -> bool:
        """Make the job a dead letter."""
        return bool(await self._database.query(self._ready.fail, _one(claim, reason)))

    async def release(self, claims: Sequence[Claimed]) -> None:
        """Give jobs back: a first attempt leaves no trace, a later one waits for the next worker."""
        await self._database.query(self._ready.release, _tokens(claims))

    async def close(self) -> None:
        """Do nothing: the connections belong to the worker."""

    async def _forget(self) -> None:
        """Remove old rows of done jobs."""
        self._completions = 0
        await self._database.query(self._ready.forget, {"keep": self._options.keep, "limit": FORGET_LIMIT})

    def _outcome(self, ended: bool, moved: bool) -> Settled:
        if not ended:
            return "lost"
        return "done" if moved and self._options.group is None else "again"

    @property
    def _ready(self) -> Statements:
        assert self._statements is not None, "prepare() comes first"
        return self._statements


def _claimed(row: Row, columns: Sequence[str], key: Sequence[str]) -> Claimed:
    values = dict(zip(columns, row[_META:], strict=True))
    _, number, claims, attempt, age, *_ = row
    return Claimed(tuple(values[column] for column in key), values, attempt, (number, claims), age)


def _tokens(claims: Sequence[Claimed]) -> dict[str, Any]:
    return {"ids": [claim.token[0] for claim in claims], "claims": [claim.token[1] for claim in claims]}


def _one(claim: Claimed, reason: str) -> dict[str, Any]:
    number, claims = claim.token
    return {"id": number, "claims": claims, "reason": reason}


def _parameter(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "jsonb":
        return Jsonb(value)
    if kind == "json":
        return Json(value)
    return value


def migration_of(schema: str | None, parts: Iterable[str]) -> str:
    """Return the whole migration. schema: of the side table, None if no job needs it. parts: of the sources."""
    return migration(None if schema is None else identify(schema), parts)
