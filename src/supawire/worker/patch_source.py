"""The source that takes rows of a table by conditional updates over REST, without SQL functions.

Who has a row is in columns of the table itself, which `columns_sql` adds: the token of the claim, the end of its lease,
the number of attempts, the last error. Each change is one PATCH whose filters name the state that it expects.
PostgreSQL checks them again after waiting for a lock, so of several workers one gets the row, and a worker whose lease
was taken over changes nothing. Weaker than the other sources: leases are compared with the clocks of the workers, rows
are not locked while they are looked for, and nothing is ordered by key.
"""

import asyncio
import random
import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from supawire._values.encode import to_wire
from supawire._values.filter_syntax import Condition, matches
from supawire.errors import RealtimeError, SetupError
from supawire.worker.rest import RestClient, RestError
from supawire.worker.source import Batch, Claimed, Finished, Settled, Wakeup
from supawire.worker.table import TableOptions
from supawire.worker.table_checks import identify
from supawire.worker.values import REASON, SqlValue, Values, values_before

TOKEN: Final = "worker_token"  # noqa: S105  the name of a column
UNTIL: Final = "worker_until"
ATTEMPTS: Final = "worker_attempts"
ERROR: Final = "worker_error"
SINCE: Final = "worker_since"
COLUMNS: Final = {
    TOKEN: "text",
    UNTIL: "timestamptz",
    ATTEMPTS: "integer not null default 0",
    ERROR: "text",
    SINCE: "timestamptz",
}
MAX_CANDIDATES: Final = 100
"""Rows that are looked at for one claim."""
MAX_UNSURE: Final = 10_000
_UNDEFINED_COLUMN: Final = "42703"
_UNDEFINED_TABLES: Final = ("42P01", "PGRST205")
_NO_RIGHTS: Final = "42501"

Query = list[tuple[str, str]]
Row = dict[str, Any]


class PatchSource:
    """Jobs that are rows of a table in an exposed schema; implements `Source`.

    rest: None to write the migration. key: the column that names a row.
    """

    def __init__(self, rest: RestClient | None, options: TableOptions, key: str) -> None:
        self._connected: Final = rest
        self._options: Final = options
        self._key: Final = key
        self._before: Final = values_before(options.where.conditions, options.claim)
        self._fresh: Final = [_filter(condition) for condition in options.where.conditions]
        self._taken: Final = _equal(options.claim)
        self._unsure: Final = set[Any]()
        self._columns: Collection[str] = ()

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
        """The columns of the rows that were claimed."""
        return self._columns

    async def prepare(self) -> Sequence[str]:
        """Check the condition, and that the columns are there and may be read and written. Raises: SetupError."""
        self._check_loops()
        columns = [self._key, *COLUMNS]
        nothing: Query = [(self._key, "is.null"), ("select", ",".join(columns))]
        try:
            await self._rest.select(self._options.table, [*nothing, ("limit", "1")])
            await self._rest.update(self._options.table, nothing, self._values(self._options.claim) | {TOKEN: None})
        except RestError as error:
            raise self._setup_error(error) or error from None
        return []

    async def claim(self, limit: int, lease: float) -> Batch:
        """Look for rows whose lease has ended and for new ones, and try to take each by one PATCH."""
        now = datetime.now(UTC)
        wanted = str(min(MAX_CANDIDATES, 2 * limit))
        seen = ("select", ",".join([self._key, *COLUMNS]))
        held, fresh = await asyncio.gather(
            self._select([*self._taken, (UNTIL, "not.is.null"), ("order", UNTIL), ("limit", wanted), seen]),
            self._select(
                [
                    *self._fresh,
                    ("or", f"({UNTIL}.is.null,{UNTIL}.lt.{now.isoformat()})"),
                    *self._order,
                    ("limit", wanted),
                    seen,
                ]
            ),
        )
        ends = [(row, datetime.fromisoformat(row[UNTIL])) for row in held]
        candidates = [(row, self._taken) for row, end in ends if end < now]
        if len(fresh) > limit:  # others look at the same rows, and lose those that this worker takes
            random.shuffle(fresh)
        candidates += [(row, self._fresh) for row in fresh]
        jobs: list[Claimed] = []
        while candidates and len(jobs) < limit:
            part, candidates = candidates[: limit - len(jobs)], candidates[limit - len(jobs) :]
            taken = await asyncio.gather(
                *(self._take(row, state, lease) for row, state in part), return_exceptions=True
            )
            jobs += [one for one in taken if isinstance(one, Claimed)]
            errors = [one for one in taken if isinstance(one, BaseException)]
            if errors and jobs:
                break  # these are held already; the next claim reports what is wrong
            if errors:
                raise errors[0]
        next_end = min((end for _, end in ends if end >= now), default=None)
        return Batch(jobs, None if next_end is None else (next_end - now).total_seconds())

    async def extend(self, claims: Sequence[Claimed], lease: float) -> Collection[Any]:
        """Extend leases, in one request."""
        return {row[TOKEN] for row in await self._update_held(claims, {UNTIL: _end(lease)})}

    async def complete(self, finished: Sequence[Finished]) -> Sequence[Settled]:
        """Complete jobs: those that write no columns in one request, the others each in its own."""
        tokens = [one.claim.token for one in finished]
        again = self._unsure.intersection(tokens)
        if len(self._unsure) > MAX_UNSURE:
            self._unsure.clear()
        self._unsure.update(tokens)  # until the answer is here, a lost one leaves open what happened
        ended: set[Any] = set()
        if plain := [one.claim for one in finished if not one.values]:
            ended.update(await self._complete(plain, {}))
        for one in finished:
            if one.values:
                ended.update(await self._complete([one.claim], one.values))
        if missing := again - ended:
            done = await self._select([(TOKEN, _in(missing)), (UNTIL, "is.null"), ("select", TOKEN)])
            ended.update(row[TOKEN] for row in done)
        self._unsure.difference_update(tokens)
        return ["done" if token in ended else "lost" for token in tokens]

    async def retry(self, claim: Claimed, delay: float, error: str) -> bool:
        """Let the job wait: its lease ends after the delay, and nobody holds it."""
        return bool(await self._update_held([claim], {UNTIL: _end(delay), ERROR: error, TOKEN: None}))

    async def fail(self, claim: Claimed, reason: str) -> bool:
        """Write the values of `failed=` and the reason. Nothing else tells that the job is dead."""
        values = self._values(self._options.failed, reason) | {UNTIL: None, ERROR: reason}
        return bool(await self._update_held([claim], values))

    async def release(self, claims: Sequence[Claimed]) -> None:
        """Give jobs back: a first attempt leaves no trace, a later one waits for the next worker."""
        for claim in claims:
            back = {TOKEN: None, UNTIL: _end(0), ATTEMPTS: claim.attempt - 1}
            if claim.attempt == 1 and self._before:
                back |= {UNTIL: None, **self._before}
            await self._update_held([claim], back)

    async def close(self) -> None:
        """Do nothing: the connections belong to the worker."""

    async def migration(self) -> list[str]:
        """Return the SQL that adds the columns."""
        return [columns_sql(self._options.schema, self._options.table)]

    # --- requests

    @property
    def _rest(self) -> RestClient:
        assert self._connected is not None
        return self._connected

    async def _take(self, row: Row, state: Query, lease: float) -> Claimed | None:
        """Claim a row if it is still as it was seen."""
        token = secrets.token_hex(12)
        attempt, since = 1, row[SINCE]
        if state is self._taken:
            attempt = row[ATTEMPTS] + 1
        else:
            since = datetime.now(UTC).isoformat()
        values = self._values(self._options.claim) | {
            TOKEN: token, UNTIL: _end(lease), ATTEMPTS: attempt, SINCE: since
        }  # fmt: skip
        seen = "is.null" if row[TOKEN] is None else f"eq.{row[TOKEN]}"
        until = "is.null" if row[UNTIL] is None else f"eq.{row[UNTIL]}"
        taken = await self._update(
            [(self._key, f"eq.{_text(row[self._key])}"), (TOKEN, seen), (UNTIL, until), *state], values
        )
        if not taken:
            return None
        got = {name: value for name, value in taken[0].items() if name not in COLUMNS}
        self._columns = got.keys()
        age = 0.0 if since is None else (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds()
        return Claimed((row[self._key],), got, attempt, token, max(0.0, age))

    async def _complete(self, claims: Sequence[Claimed], values: Mapping[str, Any]) -> list[Any]:
        body = self._values(self._options.done) | dict(values) | {UNTIL: None}
        return [row[TOKEN] for row in await self._update_held(claims, body)]

    async def _update_held(self, claims: Sequence[Claimed], values: Row) -> list[Row]:
        """Update rows that are still held by these claims and still have the values of `claim=`."""
        if TOKEN in values:  # the answer would not name the claims
            return await self._update([*self._held(claims), *self._taken, ("select", self._key)], values)
        return await self._update([*self._held(claims), *self._taken, ("select", TOKEN)], values)

    def _held(self, claims: Sequence[Claimed]) -> Query:
        return [(TOKEN, _in([claim.token for claim in claims])), (UNTIL, "not.is.null")]

    async def _select(self, query: Query) -> list[Row]:
        return _rows(await self._rest.select(self._options.table, query))

    async def _update(self, query: Query, values: Mapping[str, Any]) -> list[Row]:
        return _rows(await self._rest.update(self._options.table, query, values))

    # --- values

    @property
    def _order(self) -> Query:
        order = [f"{column}.{'desc' if descending else 'asc'}" for column, descending in self._options.order]
        return [("order", ",".join([*order, self._key]))]

    def _values(self, values: Values, reason: str = "") -> Row:
        """Return the values to write, with the time of this machine for NOW."""
        now = datetime.now(UTC)
        return {
            column: (reason if value is REASON else now) if isinstance(value, SqlValue) else value
            for column, value in values.items()
        }

    def _check_loops(self) -> None:
        """Check that a row no longer matches the condition after each of the changes. Raises: SetupError."""
        options = self._options
        for name, values in (
            ("claim", options.claim),
            ("done", options.claim | options.done),
            ("failed", options.claim | options.failed),
        ):
            conditions = [condition for condition in options.where.conditions if condition.column in values]
            if matches(conditions, self._values(values)):
                raise SetupError(
                    f"a row of {options.table} that got {name}={getattr(options, name)!r} still matches"
                    f" where={options.where!r}, so it would be claimed again and again",
                    hint=f"Let {name}= change a column that where= compares, to a value that does not match.",
                )

    def _setup_error(self, error: RestError) -> SetupError | None:
        table = identify(self._options.schema, self._options.table)
        if error.sqlstate in _UNDEFINED_TABLES:
            return SetupError(f"PostgREST knows no table {table}: {error.message}", hint="Is its schema exposed?")
        if error.sqlstate == _UNDEFINED_COLUMN:
            return SetupError(
                f"the columns in which the worker keeps leases are missing: {error.message}",
                sql=columns_sql(self._options.schema, self._options.table),
            )
        if error.sqlstate == _NO_RIGHTS:
            return SetupError(
                f"the key's role may not read and update {table}: {error.message}",
                sql=f"grant select, update on {table} to service_role;",
            )
        return None


def _rows(answer: bytes) -> list[Row]:
    """Return the rows of an answer. Raises: RealtimeError that is worth another attempt: it has none."""
    try:
        return msgspec.json.decode(answer, type=list[Row])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RealtimeError(f"PostgREST returned something unexpected: {error}", retryable=True) from error


def columns_sql(schema: str, table: str) -> str:
    """Return the SQL that adds the columns to a table, and an index by which the holder of a claim is found."""
    added = ",\n  ".join(f"add column if not exists {name} {kind}" for name, kind in COLUMNS.items())
    index = identify(f"{table.encode()[:40].decode(errors='ignore')}_{TOKEN}")
    return (
        f"alter table {identify(schema, table)}\n  {added};\n"
        f"create index if not exists {index} on {identify(schema, table)} ({TOKEN}) where {TOKEN} is not null;\n"
    )


def _end(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def _in(tokens: Collection[str]) -> str:
    return f"in.({','.join(tokens)})"


def _filter(condition: Condition) -> tuple[str, str]:
    """Return a condition as a filter of PostgREST, whose syntax is that of Realtime except for quotes."""
    value = f"({condition.value})" if condition.op == "in" else condition.value
    return condition.column, f"{'not.' if condition.negated else ''}{condition.op}.{value}"


def _equal(values: Values) -> Query:
    """Return the filters that a row has these values, as far as they can be compared: no times, no JSON."""
    pairs = [(column, to_wire(value)) for column, value in values.items() if not isinstance(value, SqlValue)]
    return [
        (column, "is.null" if value is None else f"eq.{_text(value)}")
        for column, value in pairs
        if not isinstance(value, dict | list)
    ]


def _text(value: Any) -> str:
    return ("false", "true")[value] if isinstance(value, bool) else str(value)
