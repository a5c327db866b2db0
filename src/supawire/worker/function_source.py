"""The source that takes rows of a table through SQL functions, called over REST.

`supawire worker init` writes the functions: they contain the statements of a table source and run with the
rights of their owner (`security definer`), so a key that may do nothing else with the table can claim and end its jobs.
What is guaranteed is the same as with a direct connection, except for transactions of the handler.
"""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct
from psycopg import sql

from supawire._values.rows import decode_row
from supawire.errors import RealtimeError, SetupError
from supawire.worker.database import Database
from supawire.worker.rest import RestClient, RestError
from supawire.worker.source import Batch, Claimed, Finished, Settled, Wakeup
from supawire.worker.statements import Statements, TableShape, assigned
from supawire.worker.table import FORGET_LIMIT, TableOptions, TableSource, index_sql

VERSION: Final = 2
"""Version of the functions' arguments and results."""
MAX_BASE: Final = 63 - len("_complete")
_PLACEHOLDER: Final = re.compile(r"%\((\w+)\)s")
_UNKNOWN_FUNCTION: Final = ("PGRST202", "42883")
_NO_RIGHTS: Final = "42501"


def function_base(name: str) -> str:
    """Return the beginning of the names of the functions for a job, such as "worker_orders" for "public.orders"."""
    words = re.sub(r"\W+", "_", name.removeprefix("public.").lower()).strip("_")
    base = f"worker_{words}"
    if len(base.encode()) <= MAX_BASE:
        return base
    return f"{base.encode()[: MAX_BASE - 9].decode(errors='ignore')}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def fingerprint(options: TableOptions) -> str:
    """Return a digest of what the functions contain, by which a worker finds out that they are for other options."""
    parts = (
        VERSION, options.schema, options.table, options.name, str(options.where), options.claim, options.done,
        options.failed, options.order, options.group, options.jobs_schema,
    )  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


class _Job(Struct):
    id: int
    claims: int
    attempt: int
    age: float
    row: dict[str, str]
    """JSON by column, as texts: a value that cannot be read does not keep others from being read."""


class _Claims(Struct):
    """The result of the function that claims. columns: name and type of each column, as in a change."""

    jobs: list[_Job]
    columns: Raw
    key: list[str]
    next_due: float | None = None


class _Check(Struct):
    version: int
    fingerprint: str


class FunctionSource:
    """Jobs that are rows of a table, through functions; implements `Source`.

    rest: None, and database: given, to write the migration. role: who may call the functions.
    """

    def __init__(
        self, rest: RestClient | None, options: TableOptions, holder: str, *, database: Database | None, role: str
    ) -> None:
        self._rest: Final = rest
        self._database: Final = database
        self._role: Final = role
        self._options: Final = options
        self._holder: Final = holder
        self._base: Final = function_base(options.name)
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
        """Check that the functions are there, may be called, and belong to these options. Raises: SetupError."""
        hint = "Run `supawire worker init module:app --database URL --apply` as the owner of the database."
        try:
            found: _Check = await self._call("check", {}, _Check)
        except RestError as error:
            if error.sqlstate in _UNKNOWN_FUNCTION:
                raise SetupError(
                    f"the functions {self._base}_… do not exist in the exposed schema", hint=hint
                ) from None
            if error.sqlstate == _NO_RIGHTS:
                raise SetupError(
                    f"the role of the key may not call the functions {self._base}_…: {error.message}",
                    hint="Write them for that role: `supawire worker init module:app --database URL --role ROLE`.",
                ) from None
            raise
        if (found.version, found.fingerprint) != (VERSION, fingerprint(self._options)):
            raise SetupError(f"the functions {self._base}_… were written for other options of this job", hint=hint)
        return []

    async def claim(self, limit: int, lease: float) -> Batch:
        """Take rows, in one call."""
        arguments = {"max_jobs": limit, "lease_seconds": lease, "worker": self._holder}
        answer = await self._call("claim", arguments, _Claims)
        return Batch([self._claimed(job, answer) for job in answer.jobs], answer.next_due)

    async def extend(self, claims: Sequence[Claimed], lease: float) -> Collection[Any]:
        """Extend leases, in one call."""
        return set(await self._call("extend", _tokens(claims) | {"lease_seconds": lease}, list[tuple[int, int]]))

    async def complete(self, finished: Sequence[Finished]) -> Sequence[Settled]:
        """Complete jobs: those that write no columns in one call, the others each in its own."""
        outcomes: dict[int, Settled] = {}
        if plain := [one.claim for one in finished if not one.values]:
            outcomes.update(await self._complete(plain, None))
        for one in finished:
            if one.values:
                outcomes.update(await self._complete([one.claim], one.values))
        return [outcomes[one.claim.token[0]] for one in finished]

    async def retry(self, claim: Claimed, delay: float, error: str) -> bool:
        """Let the job wait."""
        return await self._call("retry", _one(claim) | {"delay_seconds": delay, "reason": error}, bool)

    async def fail(self, claim: Claimed, reason: str) -> bool:
        """Make the job a dead letter."""
        return await self._call("fail", _one(claim) | {"reason": reason}, bool)

    async def release(self, claims: Sequence[Claimed]) -> None:
        """Give jobs back: a first attempt leaves no trace, a later one waits for the next worker."""
        await self._call("release", _tokens(claims), bool)

    async def close(self) -> None:
        """Do nothing: the connections belong to the worker."""

    async def migration(self) -> list[str]:
        """Return indexes for the table, and the functions. Raises: SetupError."""
        assert self._database is not None
        shape = (await TableSource(self._database, self._options, self._holder).describe()).shape
        [(path,)] = await self._database.query("select current_schemas(false)::text[]")
        return [*index_sql(shape), Functions(shape, self._options, self._role, path).text()]

    async def _complete(self, claims: Sequence[Claimed], values: Mapping[str, Any] | None) -> dict[int, Settled]:
        arguments = _tokens(claims) | {"row_values": None if values is None else dict(values)}
        found = await self._call("complete", arguments, list[tuple[int, bool, bool]])
        return {number: self._outcome(ended, moved) for number, ended, moved in found}

    def _outcome(self, ended: bool, moved: bool) -> Settled:
        if not ended:
            return "lost"
        return "done" if moved and self._options.group is None else "again"

    async def _call(self, name: str, arguments: Mapping[str, Any], kind: Any) -> Any:
        assert self._rest is not None
        body = await self._rest.call(f"{self._base}_{name}", arguments)
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RealtimeError(f"the function {self._base}_{name} returned something unexpected: {error}") from error

    def _claimed(self, job: _Job, answer: _Claims) -> Claimed:
        row = _decoded(answer.columns, job.row)
        self._columns = row.keys()
        return Claimed(tuple(row[name] for name in answer.key), row, job.attempt, (job.id, job.claims), job.age)


def _decoded(columns: Raw, texts: Mapping[str, str]) -> dict[str, Any]:
    """Return a row. A value that Python cannot read, such as JSON that is nested too deeply, is its text."""
    values = {name: Raw(text.encode()) for name, text in texts.items()}
    try:
        return decode_row(columns, Raw(msgspec.json.encode(values)))
    except (RecursionError, ValueError):
        values = {
            name: value if _is_readable(value) else Raw(msgspec.json.encode(texts[name]))
            for name, value in values.items()
        }
        return decode_row(columns, Raw(msgspec.json.encode(values)))


def _is_readable(value: Raw) -> bool:
    try:
        msgspec.json.decode(value)
    except (RecursionError, ValueError):
        return False
    return True


def _tokens(claims: Sequence[Claimed]) -> dict[str, Any]:
    return {"ids": [claim.token[0] for claim in claims], "claims": [claim.token[1] for claim in claims]}


def _one(claim: Claimed) -> dict[str, Any]:
    return {"id": claim.token[0], "claims": claim.token[1]}


# --- the functions


_META: Final = ("due", "id", "claims", "attempts", "age")
_CLAIM_BODY: Final = """for found in execute format({statement}, max_jobs) using lease_seconds, worker loop
    next_due := found."supawire due";
    if found."supawire id" is not null then
      jobs := jobs || jsonb_build_object('id', found."supawire id", 'claims', found."supawire claims",
        'attempt', found."supawire attempts", 'age', found."supawire age", 'row',
        (select jsonb_object_agg(e.key, e.value::text) from jsonb_each(to_jsonb(found) - {meta}) e));
    end if;
  end loop;
  return jsonb_build_object('jobs', jobs, 'next_due', next_due, 'key', {key}::jsonb, 'columns', (
    select jsonb_agg(jsonb_build_object('name', a.attname, 'type', y.typname) order by a.attnum)
    from pg_attribute a join pg_type y on y.oid = a.atttypid
    where a.attrelid = {table}::regclass and a.attnum > 0 and not a.attisdropped));"""
_COMPLETE_BODY: Final = """if exists (select from unnest(ids) number where number % {every} = 0) then
    {forget};
  end if;
  if row_values is null or jsonb_typeof(row_values) = 'null' then
    for found in {plain} loop
      result := result || jsonb_build_array(jsonb_build_array(found.id, found.held, found.moved));
    end loop;
    return result;
  end if;
  select string_agg(one.assignment, ', ') into assignments from (
    select format('%1$I = (select r.%1$I from jsonb_populate_record(null::{name}, $3) r)', k) as assignment
    from jsonb_object_keys(row_values) k
    union all
    select d.assignment from (values {done}) d(name, assignment) where d.name is not null and not row_values ? d.name
  ) one;
  for found in execute format({with_values}, assignments) using ids, claims, row_values loop
    result := result || jsonb_build_array(jsonb_build_array(found.id, found.held, found.moved));
  end loop;
  return result;"""
FORGET_EVERY: Final = 100
"""Completions after which old entries of done jobs are removed."""
_COLLECT_BODY: Final = """for found in {statement} loop
    result := result || jsonb_build_array(jsonb_build_array(found.id, found.claims));
  end loop;
  return result;"""
_SINGLE_BODY: Final = """for found in {statement} loop
    held := true;
  end loop;
  return held;"""
_DECLARED: Final = {
    "jobs jsonb := '[]'": "jobs :=",
    "next_due float8": "next_due :=",
    "result jsonb := '[]'": "result :=",
    "assignments text": "into assignments",
    "held boolean := false": "held :=",
}
"""Variables of the functions, and a text of the bodies that need them."""


class Functions:
    """Writes the functions for one job. role: who may call them. path: the schemas of types and operators."""

    def __init__(self, shape: TableShape, options: TableOptions, role: str, path: Sequence[str]) -> None:
        self._shape: Final = shape
        self._options: Final = options
        self._role: Final = role
        self._path: Final = ", ".join(_name(schema) for schema in ("pg_catalog", *path, "pg_temp"))
        self._statements: Final = Statements(shape)
        self._base: Final = function_base(options.name)

    def text(self) -> str:
        """Return the SQL that creates or replaces the functions. It may be run again."""
        made = self._statements
        check = f"return jsonb_build_object('version', {VERSION}, 'fingerprint', '{fingerprint(self._options)}');"
        retry = ("id bigint", "claims integer", "delay_seconds float8", "reason text")
        single = ("id bigint", "claims integer", "reason text")
        several = ("ids bigint[]", "claims integer[]")
        parts = [
            self._function("check", (), "jsonb", check),
            self._function(
                "claim", ("max_jobs integer", "lease_seconds float8", "worker text"), "jsonb", self._claim()
            ),
            self._function(
                "extend",
                (*several, "lease_seconds float8"),
                "jsonb",
                _COLLECT_BODY.format(statement=_static(made.extend, "ids", "claims", "lease")),
            ),
            self._function("complete", (*several, "row_values jsonb"), "jsonb", self._complete()),
            self._function(
                "retry",
                retry,
                "boolean",
                _SINGLE_BODY.format(statement=_static(made.retry, "id", "claims", "delay", "reason")),
            ),
            self._function(
                "fail", single, "boolean", _SINGLE_BODY.format(statement=_static(made.fail, "id", "claims", "reason"))
            ),
            self._function("release", several, "boolean", f"{_static(made.release, 'ids', 'claims')};\n  return true;"),
        ]
        return f"-- the functions of the job {self._options.name}, which {self._role} may call over REST\n" + "\n".join(
            parts
        )

    def _claim(self) -> str:
        statement = _dynamic(self._statements.claim_with(sql.SQL("%1$s")), "lease", "holder")
        return _CLAIM_BODY.format(
            statement=_quoted(statement),
            meta=f"array[{', '.join(_literal(f'supawire {word}') for word in _META)}]",
            key=_literal(msgspec.json.encode(self._shape.key).decode()),
            table=_literal(_name(self._shape.schema, self._shape.table)),
        )

    def _complete(self) -> str:
        done = [
            f"({_literal(column)}, {_literal(_text(assignment))})"
            for column, assignment in zip(self._shape.done, assigned(self._shape.done, self._shape.kinds), strict=True)
        ]
        statement = _dynamic(self._statements.complete_assigning(sql.SQL("%1$s")), "ids", "claims")
        forget = self._statements.forget.as_string()
        return _COMPLETE_BODY.format(
            every=FORGET_EVERY,
            forget=_static(forget % {"keep": self._options.keep, "limit": FORGET_LIMIT}),
            plain=_static(self._statements.complete, "ids", "claims"),
            name=_name(self._shape.schema, self._shape.table).replace("%", "%%").replace("'", "''"),
            done=", ".join(done) or "(null::text, null::text)",
            with_values=_quoted(statement),
        )

    def _function(self, name: str, arguments: Sequence[str], returns: str, body: str) -> str:
        """Return one function, and the grants that let only the role call it."""
        function = f"public.{_name(f'{self._base}_{name}')}"
        signature = f"{function}({', '.join(argument.split(' ', 1)[1] for argument in arguments)})"
        declared = "".join(f"\n  {text};" for text, use in _DECLARED.items() if use in body)
        found = "\n  found record;" if "for found" in body else ""
        declare = f"declare{found}{declared}\n" if found or declared else ""
        text = f"\n#variable_conflict use_column\n{declare}begin\n  {body}\nend\n"
        return (
            f"create or replace function {function}({', '.join(arguments)}) returns {returns}\n"
            f"language plpgsql security definer set search_path = {self._path} set timezone = 'UTC' "
            f"set datestyle = 'ISO, YMD'\nas {_quoted(text)};\n"
            f"revoke all on function {signature} from public, anon, authenticated, service_role;\n"
            f"grant execute on function {signature} to {_name(self._role)};\n"
        )


def _text(statement: Any) -> str:
    """Return SQL for psycopg as SQL without parameters."""
    return statement.as_string().replace("%%", "%")


def _dynamic(statement: Any, *parameters: str) -> str:
    """Return a statement for `format()`, which reads doubled percent signs as psycopg does; parameters are numbered."""
    text = statement if isinstance(statement, str) else statement.as_string()
    return _PLACEHOLDER.sub(lambda found: f"${parameters.index(found[1]) + 1}", text)


def _static(statement: Any, *parameters: str) -> str:
    """Return a statement for the body of a function, with numbered parameters."""
    return _dynamic(statement, *parameters).replace("%%", "%").strip()


def _quoted(text: str) -> str:
    """Return the text between dollar quotes that it does not contain."""
    number = 0
    while f"$w{number}$" in text:
        number += 1
    return f"$w{number}${text}$w{number}$"


def _name(*names: str) -> str:
    return ".".join(sql.Identifier(name).as_string() for name in names)


def _literal(text: str) -> str:
    return sql.Literal(text).as_string()
