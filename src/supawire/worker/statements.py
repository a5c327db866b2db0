"""The SQL of a table source. Each change of state is one statement, so it happens completely or not at all.

A job in hand is a row of the side table with the state `running`, until the time `visible_at` when its lease ends, or
`waiting` for its next attempt at that time. Its id and `claims`, which counts its claims, are the token of a claim:
statements that end or extend a claim change nothing when the number is another one.

At most one row in hand exists per source and key, and per source and value of the column `group=`: unique indexes
ensure it, also when two statements run at the same time.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct
from psycopg import sql

from supawire._values.filter_syntax import Condition
from supawire.worker.database import Statement, identifier, identify, literal, raw
from supawire.worker.values import Values, constants, equal_sql, order_sql, value_sql, where_sql

IN_HAND: Final = "('running', 'waiting')"


class TableShape(Struct, frozen=True):
    """What the statements depend on. kinds: the types of all columns, as `format_type` names them, in their order."""

    schema: str
    table: str
    name: str
    jobs_schema: str
    key: tuple[str, ...]
    kinds: Mapping[str, str]
    where: tuple[Condition, ...]
    claim: Values
    done: Values
    failed: Values
    before: Values
    """What the columns get when a job is given back; empty: they stay as they are."""
    order: tuple[tuple[str, bool], ...]
    group: str | None


class Statements:
    """The statements of one source, made once."""

    def __init__(self, shape: TableShape) -> None:
        self._shape: Final = shape
        self._parts: Final = self._make_parts()
        self.extend: Final = self._format(_EXTEND)
        self.complete: Final = self._format(_COMPLETE, moved=self._moved(assigned(shape.done, shape.kinds)))
        self.retry: Final = self._format(_RETRY)
        self.fail: Final = self._format(_FAIL, moved=self._moved(assigned(shape.failed, shape.kinds)))
        self.release: Final = self._format(_RELEASE_ROW if shape.before else _RELEASE)
        self.forget: Final = self._format(_FORGET)
        self._claims: Final[dict[int, Statement]] = {}
        self._with_values: Final[dict[tuple[str, ...], Statement]] = {}

    def claim(self, limit: int) -> Statement:
        """Return the statement that claims so many jobs.

        The number is part of the text: with a parameter, PostgreSQL would plan for a tenth of the table. With groups it
        has the parameter `after`.
        """
        if limit not in self._claims:
            after = sql.SQL("%(after)s::{}").format(raw(self._shape.kinds[self._shape.group or self._shape.key[0]]))
            self._claims[limit] = self.claim_with(literal(limit), after)
        return self._claims[limit]

    def claim_with(self, limit: sql.SQL, after: sql.SQL | sql.Composed | None = None) -> Statement:
        """Return the statement that claims as many jobs as this SQL says.

        after: with groups, SQL for the value after which they are looked for, or null.
        """
        text = _CLAIM_ORDERED if self._shape.group else _CLAIM
        return self._format(text, limit=limit, after=sql.SQL("null") if after is None else after)

    def complete_assigning(self, assignments: sql.SQL) -> Statement:
        """Return the statement that completes jobs and changes their rows by this SQL."""
        return self._format(_COMPLETE, moved=self._moved([sql.Composed([assignments])]))

    def complete_with(self, columns: Sequence[str]) -> Statement:
        """Return the statement that completes one job and writes these columns, with the parameters w0, w1 …"""
        names = tuple(columns)
        if names not in self._with_values:
            if len(self._with_values) >= _MAX_SHAPES:
                self._with_values.clear()
            shape = self._shape
            parts = assigned({name: value for name, value in shape.done.items() if name not in names}, shape.kinds)
            parts += [
                _one(column, sql.SQL("%({})s::{}").format(raw(f"w{number}"), raw(shape.kinds[column])))
                for number, column in enumerate(names)
            ]
            self._with_values[names] = self._format(_COMPLETE, moved=self._moved(parts))
        return self._with_values[names]

    def _moved(self, assigned: Sequence[sql.Composed]) -> sql.Composed:
        """Return the statement that changes the rows of jobs that end, or only finds them if nothing is assigned."""
        if not assigned:
            return self._format("select ended.id from ended join {table} t on {match_ended} and {held}")
        text = "update {table} t set {values} from ended where {match_ended} and {held} returning ended.id"
        return self._format(text, values=sql.SQL(", ").join(assigned))

    def _make_parts(self) -> dict[str, Any]:
        shape = self._shape
        keys = sql.SQL(", ").join(identifier("t", column) for column in shape.key)
        text = sql.SQL(", ").join(sql.SQL("{}::text").format(identifier("t", column)) for column in shape.key)
        claimed = [
            sql.SQL("{}, {}").format(literal(column), _typed(value, shape.kinds[column]))
            for column, value in constants(shape.claim, shape.kinds).items()
        ]
        where = where_sql(shape.where, shape.kinds, "t")
        equal = equal_sql(shape.claim, shape.kinds, "t")
        return {
            "jobs": identifier(shape.jobs_schema, "jobs"),
            "table": identifier(shape.schema, shape.table),
            "source": literal(shape.name),
            "in_hand": sql.SQL(IN_HAND),
            "given": sql.SQL(_GIVEN),
            "free": sql.SQL(_FREE).format(
                jobs=identifier(shape.jobs_schema, "jobs"),
                source=literal(shape.name),
                key=sql.SQL("array[{}]").format(text),
            ),
            "keys": keys,
            "key": sql.SQL("array[{}]").format(text),
            "where": where,
            "set_claim": sql.SQL(", ").join(assigned(shape.claim, shape.kinds)),
            "set_before": sql.SQL(", ").join(assigned(shape.before, shape.kinds)),
            "claimed": sql.SQL("jsonb_build_object({})").format(sql.SQL(", ").join(claimed)),
            "held": sql.SQL("({}) and not coalesce({}, false)").format(equal, where),
            "order": order_sql(shape.order, "t"),
            "order_taken": order_sql(shape.order, "moved"),
            "group": identifier("t", shape.group or shape.key[0]),
            "match_first": sql.SQL(" and ").join(
                sql.SQL("{} = {}").format(identifier("t", column), identifier("first", column)) for column in shape.key
            ),
        } | {f"match_{name}": self._match(name) for name in ("due", "taken", "ended")}

    def _match(self, alias: str) -> sql.Composed:
        """Return the condition that a row of the table has the key that the row `alias` of the side table names."""
        shape = self._shape
        return sql.SQL(" and ").join(
            sql.SQL("{} = ({}.key)[{}]::{}").format(
                identifier("t", column), raw(alias), literal(number), raw(shape.kinds[column])
            )
            for number, column in enumerate(shape.key, 1)
        )

    def _format(self, text: str, **more: Any) -> sql.Composed:
        return sql.SQL(text).format(**self._parts, **more)  # pyright: ignore[reportArgumentType]  one of the texts below


def indexes(shape: TableShape) -> dict[str, str]:
    """Return, by name, the statements that create the indexes with which claims of this table are index scans."""
    where = where_sql(shape.where, shape.kinds, None).as_string().replace("%%", "%")
    order = order_sql(shape.order, None).as_string().replace("%%", "%")
    table = identify(shape.schema, shape.table)
    made: dict[str, str] = {}
    for columns in [order] if shape.group is None else [order, f"{identify(shape.group)}, {order}"]:
        definition = f"{table} ({columns}) where {where}"
        name = f"{_cut(shape.table)}_worker_{hashlib.sha256(definition.encode()).hexdigest()[:8]}"
        made[name] = f"create index if not exists {identify(name)}\n  on {definition};"
    return made


def index_sql(shape: TableShape) -> list[str]:
    """Return the statements that create the indexes of this table."""
    return list(indexes(shape).values())


def _cut(name: str) -> str:
    """Return the beginning of a name, so that it has at most 63 bytes with what follows."""
    return name.encode()[:40].decode(errors="ignore")


_MAX_SHAPES: Final = 100


def _typed(value: Any, kind: str) -> sql.Composed:
    return sql.SQL("{}::{}").format(value_sql(value, kind), raw(kind))


def _one(column: str, value: sql.SQL | sql.Composed) -> sql.Composed:
    return sql.SQL("{} = {}").format(identifier(column), value)


def assigned(values: Values, kinds: Mapping[str, str]) -> list[sql.Composed]:
    return [_one(column, value_sql(value, kinds[column])) for column, value in values.items()]


_DUE: Final = """
with due as materialized (
  select j.id, j.key, j.claimed from {jobs} j
  where j.source = {source} and j.state in {in_hand} and j.visible_at <= now()
  order by j.visible_at limit {limit} for update skip locked
), held as materialized (
  select due.id from due join {table} t on {match_due}
  where to_jsonb(t) @> due.claimed and not coalesce({where}, false)
  for update of t skip locked
), withdrawn as (
  delete from {jobs} j using due where j.id = due.id and not exists (
    select from {table} t where {match_due} and (to_jsonb(t) @> due.claimed or coalesce({where}, false)))
), again as (
  update {jobs} j set state = 'running', attempts = j.attempts + 1, claims = j.claims + 1, claimed = {claimed},
    visible_at = now() + %(lease)s * interval '1 second', claimed_at = now(), holder = %(holder)s
  from held where j.id = held.id
  returning j.id, j.key, j.attempts, j.claims, j.created_at
), """
_FRESH: Final = """found as materialized (
  select {key} as key, null::text as group_key from {table} t
  where {where} and {free}
  order by {order} limit {limit} for update of t skip locked
), fresh as materialized (
  select * from found limit greatest(0, {limit} - (select count(*) from again))
), """
_FRESH_ORDERED: Final = """first as (
  (select {group} as "supawire group", {keys} from {table} t where {where} and {group} > {after}
   order by {group}, {order} limit 1)
  union all
  (select {group} as "supawire group", {keys} from {table} t where {where} and {group} is not null and {after} is null
   order by {group}, {order} limit 1)
  union all
  select next.* from first cross join lateral (
    select {group}, {keys} from {table} t where {where} and {group} > first."supawire group"
    order by {group}, {order} limit 1) next
), found as materialized (
  select locked.* from first cross join lateral (
    select {key} as key, {group}::text as group_key from {table} t
    where {match_first} and {where} and {group} = first."supawire group" and {free} and not exists (
      select from {jobs} j where j.source = {source} and j.group_key = {group}::text and j.state in {in_hand}
        and j.key <> {key})
    limit 1 for update of t skip locked) locked
  limit {limit}
), without as materialized (
  select {key} as key, null::text as group_key from {table} t
  where {where} and {group} is null and {free}
  order by {group}, {order} limit {limit} for update of t skip locked
), fresh as materialized (
  select key, group_key from (select *, 1 as turn from found union all select *, 2 from without) one order by turn
  limit greatest(0, {limit} - (select count(*) from again))
), """
"""`first` has the first row of each group. It goes from one group to the next by the index, and only until enough are
found that are not in hand, so it does not matter how many rows wait. `without` has rows that belong to no group; their
turn is after the last group."""
_TAKE: Final = """adopted as (
  update {jobs} j set state = 'running', attempts = 1, claims = j.claims + 1, claimed = {claimed}, created_at = now(),
    last_error = null, visible_at = now() + %(lease)s * interval '1 second', claimed_at = now(), holder = %(holder)s
  from fresh where j.source = {source} and j.key = fresh.key and j.state in {in_hand}
    and (j.state = 'waiting' or j.visible_at <= now())
  returning j.id, j.key, j.attempts, j.claims, j.created_at
), entered as (
  insert into {jobs} (source, key, group_key, state, claimed, visible_at, holder)
  select {source}, key, group_key, 'running', {claimed}, now() + %(lease)s * interval '1 second', %(holder)s
  from fresh order by group_key
  on conflict do nothing
  returning id, key, attempts, claims, created_at
), taken as (
  select * from again union all select * from adopted union all select * from entered
), moved as (
  update {table} t set {set_claim} from taken where {match_taken}
  returning taken.id as "supawire id", taken.claims as "supawire claims", taken.attempts as "supawire attempts",
    extract(epoch from now() - taken.created_at)::float8 as "supawire age", t.*
)
select next.due as "supawire due", moved.* from (select (
  select extract(epoch from j.visible_at - now())::float8 from {jobs} j
  where j.source = {source} and j.state in {in_hand}
    and not exists (select from again where again.id = j.id)
  order by j.visible_at limit 1) as due) next
left join moved on true
order by {order_taken}
"""
_CLAIM: Final = _DUE + _FRESH + _TAKE
_CLAIM_ORDERED: Final = _DUE.replace("with due", "with recursive due") + _FRESH_ORDERED + _TAKE

_FREE: Final = """not exists (select from {jobs} j
    where j.source = {source} and j.key = {key} and j.state = 'running' and j.visible_at > now())"""
_GIVEN: Final = "given as (select * from unnest(%(ids)s::bigint[], %(claims)s::integer[]) as g(id, claims))"

_EXTEND: Final = """with {given}
update {jobs} j set visible_at = now() + %(lease)s * interval '1 second'
from given where j.id = given.id and j.claims = given.claims and j.state = 'running'
returning j.id, j.claims
"""

_COMPLETE: Final = """with {given}, ended as (
  update {jobs} j set state = 'done', finished_at = now()
  from given where j.id = given.id and j.claims = given.claims and j.state = 'running'
  returning j.id, j.key
), moved as (
  {moved}
)
select given.id, ended.id is not null or exists (
    select from {jobs} j where j.id = given.id and j.claims = given.claims and j.state = 'done') as held,
  moved.id is not null as moved
from given left join ended on ended.id = given.id left join moved on moved.id = given.id
"""

_RETRY: Final = """
update {jobs} j set state = 'waiting', visible_at = now() + %(delay)s * interval '1 second', last_error = %(reason)s
where j.id = %(id)s and j.claims = %(claims)s and (
  j.state = 'running' or (j.state = 'waiting' and j.last_error = %(reason)s))
returning j.id
"""

_FAIL: Final = """with ended as (
  update {jobs} j set state = 'dead', finished_at = now(), last_error = %(reason)s
  where j.id = %(id)s and j.claims = %(claims)s and j.state in ('running', 'dead')
  returning j.id, j.key
), moved as (
  {moved}
)
select id from ended
"""

_RELEASE: Final = """with {given}
update {jobs} j set state = 'waiting', visible_at = now(), attempts = j.attempts - 1
from given where j.id = given.id and j.claims = given.claims and j.state = 'running'
"""
_RELEASE_ROW: Final = """with {given}, ended as (
  delete from {jobs} j using given
  where j.id = given.id and j.claims = given.claims and j.state = 'running' and j.attempts = 1
  returning j.key
), moved as (
  update {table} t set {set_before} from ended where {match_ended} and {held}
)
update {jobs} j set state = 'waiting', visible_at = now(), attempts = j.attempts - 1
from given where j.id = given.id and j.claims = given.claims and j.state = 'running' and j.attempts > 1
"""

_FORGET: Final = """
delete from {jobs} where id in (
  select id from {jobs}
  where source = {source} and state = 'done' and finished_at < now() - %(keep)s * interval '1 second'
  order by finished_at limit %(limit)s for update skip locked)
"""
