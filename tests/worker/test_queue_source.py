"""A pgmq queue as the source of jobs, with the functions of pgmq itself: the package `pgmq` contains their SQL."""

import asyncio
import math
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import pytest

import supawire
from supawire import LocalServer, broadcast
from supawire.errors import InvalidArgumentError, RealtimeError, SetupError
from supawire.options import Secret
from supawire.worker import Job, Worker
from supawire.worker.database import Database
from supawire.worker.queue_source import QueueSource, queue_setup
from supawire.worker.source import Finished

if TYPE_CHECKING:
    from psycopg import Connection

install = pytest.importorskip(
    "pgmq.install", reason="not run: the package pgmq, which contains the SQL of pgmq, is not installed"
)


def rows(sql: Any, statement: str) -> list[tuple[Any, ...]]:
    return sql.execute(statement).fetchall()


def send(sql: Any, *messages: str) -> None:
    for message in messages:
        sql.execute("select pgmq.send('mails', %s::jsonb)", [message])


@pytest.fixture(name="pgmq")
def _pgmq(sql: "Connection[Any]") -> Any:
    """A connection to a database with pgmq and without queues."""
    sql.execute(install.get_embedded_install_sql())
    return sql


@pytest.fixture(name="queue")
def _queue(pgmq: Any) -> Any:
    """A connection to a database with the queues `mails` and `mails_dead`."""
    pgmq.execute(queue_setup("mails", "mails_dead"))
    return pgmq


@pytest.fixture(name="connections")
async def _connections(database: str) -> AsyncGenerator[Database]:
    connections = Database(Secret(database))
    yield connections
    await connections.close()


@pytest.fixture(name="source")
def _source(queue: Any, connections: Database) -> QueueSource:
    return new_source(connections)


def new_source(connections: Database, archive: bool = False) -> QueueSource:
    return QueueSource(connections, "mails", dead_letters="mails_dead", archive=archive)


async def test_a_message_is_a_job_until_its_lease_ends(queue: Any, source: QueueSource):
    """A message is given to one worker, and to another one when its lease has ended; then the first changes nothing."""
    send(queue, '{"to": "ada"}')
    assert await source.prepare() == []
    batch = await source.claim(5, 29.5)
    [claim] = batch.jobs
    assert (claim.key, claim.row, claim.attempt, claim.age) == ((1,), {"to": "ada"}, 1, 0.0)
    assert batch.next_due is not None
    assert math.ceil(batch.next_due) == 30
    assert (await source.claim(5, 30)).jobs == []
    queue.execute("update pgmq.q_mails set vt = clock_timestamp()")
    [again] = (await source.claim(5, 30)).jobs
    assert (again.key, again.attempt, again.age > 0) == ((1,), 2, True)
    assert await source.extend([claim], 30) == set()
    assert await source.complete([Finished(claim)]) == ["lost"]
    assert not await source.retry(claim, 0, "late")
    assert not await source.fail(claim, "late")
    assert await source.extend([again], 60) == {again.token}
    assert await source.complete([Finished(again)]) == ["done"]
    assert rows(queue, "select count(*) from pgmq.q_mails") == [(0,)]


async def test_completed_messages_are_deleted_or_archived(queue: Any, connections: Database):
    """A completed message is deleted, or with archive=True moved to the archive."""
    for archive in (False, True):
        send(queue, '{"n": 1}')
        source = new_source(connections, archive=archive)
        [claim] = (await source.claim(1, 30)).jobs
        assert await source.complete([Finished(claim)]) == ["done"]
        assert rows(queue, "select count(*) from pgmq.q_mails") == [(0,)]
        assert rows(queue, "select count(*) from pgmq.a_mails") == [(1 if archive else 0,)]


async def test_a_failed_message_becomes_a_dead_letter(queue: Any, source: QueueSource):
    """A message that failed is moved once, with its headers and what happened."""
    queue.execute("""select pgmq.send('mails', '{"to": "ada"}', '{"tenant": 7}'::jsonb)""")
    [claim] = (await source.claim(1, 30)).jobs
    assert claim.headers == {"tenant": 7}
    assert await source.fail(claim, "no such address")
    assert not await source.fail(claim, "no such address")
    assert rows(queue, "select count(*) from pgmq.q_mails") == [(0,)]
    note = {"queue": "mails", "msg_id": 1, "attempts": 1, "error": "no such address"}
    assert rows(queue, "select message, headers from pgmq.q_mails_dead") == [
        ({"to": "ada"}, {"tenant": 7, "supawire": note})
    ]


async def test_a_retried_message_waits(queue: Any, source: QueueSource):
    """A message is hidden for the delay; one that is given back can be read at once."""
    send(queue, "[1]")
    [claim] = (await source.claim(1, 30)).jobs
    assert claim.row == {"message": [1]}
    assert await source.retry(claim, 19.2, "busy")
    batch = await source.claim(1, 30)
    assert (batch.jobs, batch.next_due is not None and 19 < batch.next_due <= 20) == ([], True)
    queue.execute("update pgmq.q_mails set vt = clock_timestamp()")
    [claim] = (await source.claim(1, 30)).jobs
    await source.release([claim])
    [claim] = (await source.claim(1, 30)).jobs
    assert claim.attempt == 3


class AnswerLost(Database):
    """A database whose connection is lost after the next statement was committed."""

    loses = False

    async def query(self, statement: Any, parameters: Any = None) -> list[Any]:
        found = await super().query(statement, parameters)
        if self.loses:
            self.loses = False
            raise RealtimeError("the connection was lost", retryable=True)
        return found


async def test_a_completion_whose_answer_was_lost_is_done(queue: Any, database: str):
    """A repeated completion says done if the first one was committed, lost if another worker has the message."""
    connections = AnswerLost(Secret(database))
    source = new_source(connections)
    send(queue, '{"n": 1}', '{"n": 2}')
    claims = (await source.claim(2, 30)).jobs
    queue.execute("update pgmq.q_mails set vt = clock_timestamp() where msg_id = 2")
    await source.claim(1, 30)
    connections.loses = True
    with pytest.raises(RealtimeError):
        await source.complete([Finished(claim) for claim in claims])
    assert await source.complete([Finished(claim) for claim in claims]) == ["done", "lost"]
    await connections.close()


async def test_what_is_missing_is_refused_with_the_sql_that_mends_it(sql: Any, connections: Database, database: str):
    """Without pgmq, a queue or rights the source does not start; the SQL of the error mends it."""
    source = new_source(connections)
    with pytest.raises(SetupError, match="has no pgmq") as caught:
        await source.prepare()
    assert "create extension pgmq" in str(caught.value)
    sql.execute(install.get_embedded_install_sql())
    with pytest.raises(SetupError, match="has no queue 'mails'") as caught:
        await source.prepare()
    sql.execute(caught.value.sql)
    assert await source.prepare() == []
    sql.execute("drop trigger supawire_announce on pgmq.q_mails")
    [warning] = await source.prepare()
    assert "no trigger announces new messages" in warning
    sql.execute("drop role if exists clerk; create role clerk login password 'x'; grant usage on schema pgmq to clerk")
    clerk = Database(Secret(f"postgresql://clerk:x@{database.rpartition('@')[2]}"))
    try:
        with pytest.raises(SetupError, match="the role clerk may not") as caught:
            await new_source(clerk).prepare()
        sql.execute(caught.value.sql)
        send(sql, '{"n": 1}')
        [claim] = (await new_source(clerk).claim(1, 30)).jobs
        assert await new_source(clerk).fail(claim, "no")
    finally:
        await clerk.close()
        sql.execute("drop owned by clerk; drop role clerk")


@pytest.mark.parametrize("options", [{"queue": "two words"}, {"queue": "a;b"}, {"queue": "q", "dead_letters": "q"}])
def test_bad_names_are_refused(options: dict[str, Any]):
    """A name that pgmq refuses, and a queue that is its own queue of dead letters, are refused at once."""
    with pytest.raises(InvalidArgumentError):
        Worker(database="postgresql://127.0.0.1/x").queue(**options)


async def test_each_statement_that_sends_is_announced(queue: Any, database: str):
    """A batch of messages is announced by one broadcast on the private channel of the queue."""
    async with (
        LocalServer(database=database) as server,
        supawire.connect_async(server.url, server.service_key) as client,
    ):
        channel = client.channel("supawire:queue:mails", private=True)
        events = channel.listen(broadcast("queued"))
        await channel.subscribe(wait="ready")
        queue.execute("""select pgmq.send_batch('mails', array['{"n": 1}', '{"n": 2}']::jsonb[])""")
        queue.execute("""select pgmq.send('mails', '{"n": 3}')""")
        assert [(await anext(events)).event for _ in range(2)] == ["queued", "queued"]


async def test_messages_can_be_sent_without_realtime(queue: Any):
    """In a database without the functions of Realtime, the trigger does not keep a message from being sent."""
    queue.execute("drop function realtime.send")
    send(queue, "{}")
    assert rows(queue, "select count(*) from pgmq.q_mails") == [(1,)]


async def test_the_worker_runs_messages(pgmq: Any, database: str):
    """Messages are run when they are announced; one that always raises becomes a dead letter after its attempts."""
    async with LocalServer(database=database) as server:
        app = Worker(server.url, server.service_key, database=database, poll=3600)
        seen: list[Any] = []
        enough = asyncio.Event()

        @app.queue("mails", max_attempts=1)
        async def mail(job: Job) -> None:
            seen.append(job.row)
            if len(seen) == 3:
                enough.set()
            if job.row["n"] == 2:
                raise ValueError("two")
            if job.row["n"] == 3:
                async with job.transaction() as connection:
                    await connection.execute("insert into sent values (3)")

        pgmq.execute("create table sent (n int)")
        await app.apply_migration()
        async with app:
            send(pgmq, '{"n": 1}', '{"n": 2}', '{"n": 3}')
            await enough.wait()
    assert sorted(row["n"] for row in seen) == [1, 2, 3]
    assert rows(pgmq, "select message, headers -> 'supawire' ->> 'error' from pgmq.q_mails_dead") == [
        ({"n": 2}, "ValueError: two")
    ]
    assert rows(pgmq, "select (select count(*) from pgmq.q_mails), (select n from sent)") == [(0, 3)]
