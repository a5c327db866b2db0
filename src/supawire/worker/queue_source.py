"""A pgmq queue (Supabase Queues) as the source of jobs.

The visibility timeout is the lease, and `read_ct` the number of the attempt. Messages are read, hidden, deleted,
archived and sent by the documented functions of pgmq. These check only the id of a message. So each statement that ends
or extends a claim first locks the message and compares its `read_ct`, which has grown if another worker has read it
since.
"""

import math
import re
from collections.abc import Collection, Sequence
from typing import Any, Final, cast

from msgspec import json
from psycopg.sql import SQL, Composed

from supawire._display import brief
from supawire.errors import InvalidArgumentError, SetupError
from supawire.selectors import broadcast
from supawire.worker.database import Database, Row, identifier, literal
from supawire.worker.source import Batch, Claimed, Finished, Settled, Wakeup

EVENT: Final = "queued"
TOPIC: Final = "supawire:queue:{}"
NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,47}")
"""pgmq forbids a few characters more than this, and 48 characters; a name is also a part of a topic."""
MAX_UNSURE: Final = 10_000

READ: Final = """
select m.msg_id, m.read_ct, m.message, to_jsonb(m) -> 'headers',
  extract(epoch from clock_timestamp() - m.enqueued_at)::float8
from pgmq.read({queue}, %s::int, %s::int) m
"""
NEXT_DUE: Final = "select extract(epoch from min(vt) - clock_timestamp())::float8 from pgmq.{table}"
HELD: Final = """
with wanted as (select * from unnest(%s::bigint[], %s::int[]) as w (msg_id, read_ct)), held as materialized (
  select q.* from pgmq.{table} q join wanted using (msg_id, read_ct) order by q.msg_id for update of q)
"""
HIDE: Final = "select held.msg_id, held.read_ct from held, lateral pgmq.set_vt({queue}, held.msg_id, %s::int) hidden"
END: Final = """
select held.msg_id, held.read_ct from held
join pgmq.{end}({queue}, (select array_agg(msg_id) from held)) as ended (msg_id) using (msg_id)
"""
PRESENT: Final = "select msg_id from pgmq.{table} where msg_id = any(%s)"
FAIL: Final = """
select held.msg_id, pgmq.delete({queue}, held.msg_id),
  pgmq.send({dead}, held.message, coalesce(held.headers, '{{}}'::jsonb) || %s::jsonb)
from held
"""
FAIL_WITHOUT_HEADERS: Final = """
select held.msg_id, pgmq.delete({queue}, held.msg_id), pgmq.send({dead}, held.message) from held
"""
"""For versions of pgmq before 1.5."""
SETUP: Final = """\
select pgmq.create(name) from unnest(array['{queue}', '{dead}']) as name;
create schema if not exists supawire;
create or replace function supawire.announce_messages() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if to_regprocedure('realtime.send(jsonb, text, text, boolean)') is not null then
    perform realtime.send('{{}}'::jsonb, '{event}', tg_argv[0], true);
  end if;
  return null;
end
$$;
revoke execute on function supawire.announce_messages() from public;
drop trigger if exists supawire_announce on {table};
create trigger supawire_announce after insert on {table}
  for each statement execute function supawire.announce_messages('{topic}');
"""
CHECK: Final = """
with queue as (select to_regclass(%s) as id)
select to_regnamespace('pgmq') is not null, id is not null, to_regclass(%s) is not null,
  exists (select from pg_attribute where attrelid = id and attname = 'headers'),
  id is null or (has_table_privilege(id, 'select') and has_table_privilege(id, 'update')
    and has_table_privilege(id, 'delete')),
  exists (select from pg_trigger where tgrelid = id and tgname = 'supawire_announce'),
  quote_ident(current_user)
from queue
"""


def check_queue_name(what: str, name: object) -> str:
    """Return a name of a queue. Raises: InvalidArgumentError."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"{what} must be the name of a pgmq queue: at most 47 letters, digits, _ and -, not {brief(name)}"
        )
    return name


def table_of(queue: str) -> str:
    """Return the name of the table of a queue, in the schema pgmq."""
    return f"q_{queue}".lower()


class QueueSource:
    """The source of one queue.

    Args: dead_letters: the queue that gets messages that have failed permanently. archive: move messages of successful
    jobs to the archive of the queue instead of deleting them.
    """

    def __init__(self, database: Database, queue: str, *, dead_letters: str, archive: bool) -> None:
        self._database: Final = database
        self._queue: Final = queue
        self._dead: Final = dead_letters
        parts = {
            "queue": literal(queue),
            "table": identifier(table_of(queue)),
            "dead": literal(dead_letters),
            "end": identifier("archive" if archive else "delete"),
        }
        self._read: Final = SQL(READ).format(**parts)
        self._next_due: Final = SQL(NEXT_DUE).format(**parts)
        self._hide: Final = SQL(HELD + HIDE).format(**parts)
        self._end: Final = SQL(HELD + END).format(**parts)
        self._present: Final = SQL(PRESENT).format(**parts)
        self._fail: Final = SQL(HELD + FAIL).format(**parts)
        self._fail_without_headers: Final = SQL(HELD + FAIL_WITHOUT_HEADERS).format(**parts)
        self._has_headers = True
        self._unsure: Final = dict[Any, None]()
        """Tokens of completions whose call failed, oldest first: they may have been committed."""

    @property
    def name(self) -> str:
        """The name for logs and statistics."""
        return f"pgmq.{self._queue}"

    @property
    def wakeup(self) -> Wakeup | None:
        """The message that the trigger written by `queue_setup` sends with each statement that inserts."""
        return Wakeup(TOPIC.format(self._queue), (broadcast(EVENT),), private=True)

    @property
    def columns(self) -> Collection[str]:
        """None: what a job writes to a message would be deleted with it."""
        return ()

    async def prepare(self) -> Sequence[str]:
        """Check pgmq, both queues and the rights of the role. A missing trigger is a warning."""
        tables = [f'pgmq."{table_of(name)}"' for name in (self._queue, self._dead)]
        [(installed, queue, dead, headers, rights, announced, role)] = await self._database.query(CHECK, tables)
        sql = queue_setup(self._queue, self._dead)
        if not installed:
            raise SetupError("the database has no pgmq (Supabase Queues)", sql=f"create extension pgmq;\n{sql}")
        if not (queue and dead):
            missing = self._queue if not queue else self._dead
            raise SetupError(f"the database has no queue {brief(missing)}", sql=sql)
        if not rights:
            raise SetupError(
                f"the role {role} may not read and delete messages of the queue {brief(self._queue)}",
                sql=queue_grants(self._queue, self._dead, role),
            )
        self._has_headers = headers
        if announced:
            return []
        return [
            "no trigger announces new messages, so only the poll finds them; run what `supawire worker init` writes"
        ]

    async def claim(self, limit: int, lease: float) -> Batch:
        """Read at most `limit` messages, the oldest ones first, and hide them for the lease, rounded up to seconds."""
        rows = await self._database.query(self._read, [math.ceil(lease), limit])
        next_due = None
        if len(rows) < limit:
            [(next_due,)] = await self._database.query(self._next_due)
        return Batch([_claimed(*row) for row in rows], next_due)

    async def extend(self, claims: Sequence[Claimed], lease: float) -> Collection[Any]:
        """Hide the messages that are still held for another lease."""
        return await self._set_timeout(claims, lease)

    async def complete(self, finished: Sequence[Finished]) -> Sequence[Settled]:
        """Delete or archive the messages that are still held."""
        tokens = [one.claim.token for one in finished]
        try:
            ended = set(await self._database.query(self._end, _arrays(tokens)))
            if again := [token for token in tokens if token not in ended and token in self._unsure]:
                # another worker has read a message that is still there; one that is not was ended by the call before
                present = {row[0] for row in await self._database.query(self._present, [[token[0] for token in again]])}
                ended.update(token for token in again if token[0] not in present)
        except BaseException:  # also a cancellation, by which the engine ends a call that takes too long
            self._unsure.update(dict.fromkeys(tokens))
            while len(self._unsure) > MAX_UNSURE:
                del self._unsure[next(iter(self._unsure))]
            raise
        for token in tokens:
            self._unsure.pop(token, None)
        return ["done" if token in ended else "lost" for token in tokens]

    async def retry(self, claim: Claimed, delay: float, error: str) -> bool:
        """Hide the message for the delay, rounded up to seconds. pgmq has no place for the error."""
        del error
        return bool(await self._set_timeout([claim], delay))

    async def fail(self, claim: Claimed, reason: str) -> bool:
        """Move the message to the queue of dead letters, with what happened in its header `supawire`."""
        note = {"queue": self._queue, "msg_id": claim.key[0], "attempts": claim.attempt, "error": reason}
        if self._has_headers:
            header = json.encode({"supawire": note}).decode()
            return bool(await self._database.query(self._fail, [*_arrays([claim.token]), header]))
        return bool(await self._database.query(self._fail_without_headers, _arrays([claim.token])))

    async def release(self, claims: Sequence[Claimed]) -> None:
        """Show the messages at once. They have been read, so the attempt counts."""
        await self._set_timeout(claims, 0)

    async def close(self) -> None:
        """Do nothing: the connections belong to the worker."""

    async def migration(self) -> list[str]:
        """Return the SQL that creates the queues and the trigger."""
        return [queue_setup(self._queue, self._dead)]

    def completion(self, finished: Finished) -> tuple[Composed, Sequence[Any]]:
        """Return the statement that ends the message in a transaction of the handler."""
        return self._end, _arrays([finished.claim.token])

    async def _set_timeout(self, claims: Sequence[Claimed], seconds: float) -> set[Row]:
        """Hide the messages that are still held for this time. Return their tokens."""
        tokens = [claim.token for claim in claims]
        return set(await self._database.query(self._hide, [*_arrays(tokens), math.ceil(seconds)]))


def _claimed(number: int, read_ct: int, message: Any, headers: Any, age: float) -> Claimed:
    """Return the claim of a message. What is not an object becomes the column `message`."""
    row: dict[str, Any] = cast("dict[str, Any]", message) if isinstance(message, dict) else {"message": message}
    return Claimed((number,), row, read_ct, (number, read_ct), age if read_ct > 1 else 0.0, headers or {})


def _arrays(tokens: Sequence[Any]) -> list[Any]:
    """Return ids and read counts, the first two parameters of a statement."""
    return [[token[0] for token in tokens], [token[1] for token in tokens]]


def queue_setup(queue: str, dead_letters: str) -> str:
    """Return the SQL that creates both queues, and the trigger that announces new messages by Realtime.

    The function of the trigger runs with the rights of its owner, because the role that sends a message need not be
    allowed to send to private topics.
    """
    return SETUP.format(
        queue=queue, dead=dead_letters, table=f'pgmq."{table_of(queue)}"', topic=TOPIC.format(queue), event=EVENT
    )


def queue_grants(queue: str, dead_letters: str, role: str) -> str:
    """Return the SQL that gives a role, already quoted, the rights of a worker on both queues."""
    tables = ", ".join(f'pgmq."{kind}_{name.lower()}"' for name in (queue, dead_letters) for kind in ("q", "a"))
    return (
        f"grant usage on schema pgmq to {role};\n"
        f"grant select, insert, update, delete on {tables} to {role};\n"
        f"grant execute on all functions in schema pgmq to {role};\n"
    )
