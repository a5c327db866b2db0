"""Messages from the database: delivered as they commit, and replayed to later joins."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any, LiteralString, cast

import psycopg
import pytest

from supawire.server import LocalServer, ServerLimits
from supawire.server.postgres.database import Database
from supawire.server.postgres.messages import Partitions
from tests.postgres.wire import Wire, wire

pytestmark = pytest.mark.slow

Sql = psycopg.Connection[tuple[Any, ...]]
LAB = "realtime:lab"
READY = {"replication_ready": True}
ALL = "create policy everything on realtime.messages for all to authenticated using (true) with check (true)"


@pytest.fixture
async def server(database: str, sql: Sql) -> AsyncIterator[LocalServer]:
    """Run a server on a new database in which signed-in users have all permissions."""
    sql.execute(ALL)
    async with LocalServer(database=database) as server:
        yield server


def send(sql: Sql, n: Any, topic: str = "lab", event: str = "ping", private: bool = True) -> None:
    sql.execute("select realtime.send(%s::jsonb, %s, %s, %s)", [json.dumps({"n": n}), event, topic, private])


def id_of(sql: Sql, n: int) -> str:
    row = sql.execute("select id::text from realtime.messages where payload @> jsonb_build_object('n', %s)", [n])
    return row.fetchall()[0][0]


def numbers(frames: list[Any]) -> list[Any]:
    return [frame.payload["payload"].get("n") for frame in frames if frame.event == "broadcast"]


def replayed_and_live(frames: list[Any]) -> tuple[list[int], list[int]]:
    """Return the numbers of replayed and live broadcasts, each in order, without the final marker."""
    parts: tuple[list[int], list[int]] = [], []
    for frame in frames:
        if frame.event == "broadcast" and (n := frame.payload["payload"]["n"]) != "last":
            parts["replayed" not in frame.payload["meta"]].append(n)
    return parts


async def until_number(client: Wire, n: Any) -> list[Any]:
    """Return the numbers of the broadcasts up to this one."""
    before = len(client.got)
    await client.until(lambda frame: frame.event == "broadcast" and frame.payload["payload"].get("n") == n)
    return numbers(client.got[before:])


# --- delivery ---


async def test_a_sent_message_arrives_with_its_id_in_both_versions(server: LocalServer, sql: Sql):
    """`meta.id` is the id of the row; so is the payload's `id` unless the payload had one."""
    async with wire(server) as new, wire(server, vsn="1.0.0") as old:
        for client in (new, old):
            await client.join()
        send(sql, 1)
        number = id_of(sql, 1)
        expected = {"type": "broadcast", "event": "ping", "payload": {"n": 1, "id": number}, "meta": {"id": number}}
        assert await new.broadcast() == expected == await old.broadcast()
        sql.execute("""select realtime.send('{"n": 2, "id": "mine"}', 'ping', 'lab')""")
        got = await new.broadcast()
        assert got["payload"] == {"n": 2, "id": "mine"} and got["meta"] == {"id": id_of(sql, 2)}


async def test_raw_bytes_are_sent_in_version_two_only(server: LocalServer, sql: Sql):
    """`realtime.send_binary` makes a frame of kind 4 with the id; version 1.0.0 receives nothing."""
    async with wire(server) as new, wire(server, vsn="1.0.0") as old:
        for client in (new, old):
            await client.join()
        sql.execute(r"select realtime.send_binary('\x00ff10', 'blob', 'lab')")
        got = await new.broadcast()
        ((number,),) = sql.execute("select id::text from realtime.messages").fetchall()
        assert got == {"type": "broadcast", "event": "blob", "payload": b"\x00\xff\x10", "meta": {"id": number}}
        send(sql, 1)
        assert await until_number(old, 1) == [1]


async def test_private_and_public_messages_go_to_their_own_channels(server: LocalServer, sql: Sql):
    """A message reaches no other topic."""
    async with wire(server) as private, wire(server) as public, wire(server) as other:
        await private.join()
        await public.join(private=False)
        await other.join("realtime:labs")
        send(sql, 1)
        send(sql, 2, private=False)
        send(sql, 3)
        send(sql, 4, topic="labs")
        send(sql, 5, private=False)
        assert await until_number(private, 3) == [1, 3]
        assert await until_number(public, 5) == [2, 5]
        assert await until_number(other, 4) == [4]


async def test_messages_arrive_in_the_order_of_commits(server: LocalServer, sql: Sql, database: str):
    """Messages of one transaction stay together; those that are rolled back do not arrive."""
    async with wire(server) as client:
        await client.join()
        with psycopg.connect(database) as slow, psycopg.connect(database) as undone:
            for n in range(3):
                send(slow, f"slow {n}")
            send(undone, "undone")
            send(sql, "first")
            assert await until_number(client, "first") == ["first"]
            undone.rollback()
            slow.commit()
            send(sql, "last")
            assert await until_number(client, "last") == ["slow 0", "slow 1", "slow 2", "last"]


async def test_many_messages_keep_their_order(server: LocalServer, sql: Sql):
    """One statement sends a thousand messages."""
    async with wire(server) as client:
        await client.join()
        sql.execute(
            """select realtime.send(jsonb_build_object('n', n), 'ping', 'lab') from generate_series(1, 1000) n"""
        )
        assert await until_number(client, 1000) == list(range(1, 1001))


async def test_a_trigger_broadcasts_changes_of_rows(server: LocalServer, sql: Sql):
    """`realtime.broadcast_changes` sends operation, schema, table and both rows, privately."""
    sql.execute("""
        create table public.notes (id int primary key, body text);
        create function public.tell() returns trigger language plpgsql security definer as $$
        begin
          perform realtime.broadcast_changes('notes:' || coalesce(new.id, old.id), tg_op, tg_op,
            tg_table_name, tg_table_schema, new, old);
          return null;
        end $$;
        create trigger tell after insert or update or delete on public.notes
          for each row execute function public.tell();
    """)
    async with wire(server) as client:
        await client.join("realtime:notes:1")
        sql.execute(
            "insert into public.notes values (1, 'a'), (2, 'other'); update public.notes set body = 'b' where id = 1"
        )
        sql.execute("delete from public.notes where id = 1")
        got = [await client.broadcast() for _ in range(3)]
    for message, (operation, record, old) in zip(
        got,
        [
            ("INSERT", {"id": 1, "body": "a"}, None),
            ("UPDATE", {"id": 1, "body": "b"}, {"id": 1, "body": "a"}),
            ("DELETE", None, {"id": 1, "body": "b"}),
        ],
        strict=True,
    ):
        assert message["event"] == operation
        expected = {"operation": operation, "schema": "public", "table": "notes", "record": record, "old_record": old}
        assert message["payload"] == expected | {"id": message["meta"]["id"]}


async def test_a_row_inserted_without_the_functions_is_delivered(
    server: LocalServer, sql: Sql, caplog: pytest.LogCaptureFixture
):
    """Any payload is sent unchanged; a row without event or payload is logged and not sent."""
    insert = "insert into realtime.messages (topic, extension, event, payload, private) values (%s, %s, %s, %s, %s)"
    with caplog.at_level(logging.WARNING, "supawire.server"):
        async with wire(server) as client:
            await client.join()
            sql.execute(insert, ["lab", "broadcast", None, '{"n": 1}', True])
            sql.execute(insert, ["lab", "broadcast", "ping", None, True])
            sql.execute(insert, ["lab", "broadcast", "ping", '{"n": 2.50, "big": 12345678901234567890}', True])
            got = await client.broadcast()
            assert got["payload"] == {"n": 2.5, "big": 12345678901234567890}
    assert [record.getMessage() for record in caplog.records] == [
        "a message from the database is not delivered: it has no event",
        "a message from the database is not delivered: it has no payload",
    ]


async def test_updates_and_deletes_of_messages_are_not_sent(server: LocalServer, sql: Sql):
    """Only inserted rows are sent."""
    async with wire(server) as client:
        await client.join()
        send(sql, 1)
        sql.execute("update realtime.messages set event = 'other'")
        sql.execute("delete from realtime.messages")
        send(sql, 2)
        assert await until_number(client, 2) == [1, 2]


async def test_a_message_over_the_size_limit_is_stored_and_not_sent(database: str, sql: Sql):
    """Neither sender nor receiver is notified."""
    sql.execute(ALL)
    async with LocalServer(database=database, limits=ServerLimits(payload_kb=1)) as server, wire(server) as client:
        await client.join()
        send(sql, "x" * 2000)
        send(sql, "small")
        assert await until_number(client, "small") == ["small"]
        assert sql.execute("select count(*) from realtime.messages").fetchone() == (2,)


async def test_messages_need_the_permission_to_read_broadcasts(server: LocalServer, sql: Sql):
    """A socket with the permission for presence only joins and receives none."""
    sql.execute("drop policy everything on realtime.messages")
    sql.execute(
        "create policy ears on realtime.messages for select to authenticated using (auth.jwt() ->> 'sub' = 'ears')"
    )
    sql.execute("""create policy eyes on realtime.messages for select to authenticated
        using (auth.jwt() ->> 'sub' = 'eyes' and extension = 'presence')""")
    async with wire(server, server.token(sub="ears")) as ears, wire(server, server.token(sub="eyes")) as observer:
        for client in (ears, observer):
            assert (await client.join(presence={"enabled": True}))["status"] == "ok"
        send(sql, 1)
        await until_number(ears, 1)
        assert [frame.event for frame in await observer.frames_before_heartbeat()] == ["presence_state"]


async def test_a_locked_table_delays_its_own_changes_only(server: LocalServer, sql: Sql, database: str):
    """While a migration holds the lock, changes that need a visibility check wait; messages do not."""
    sql.execute("""create table public.held (id int primary key); alter table public.held enable row level security;
        create policy p on public.held for select using (true);
        alter publication supabase_realtime add table public.held""")
    async with wire(server) as client, await psycopg.AsyncConnection.connect(database) as migration:
        await client.join(postgres_changes=[{"event": "*", "schema": "public", "table": "held"}])
        await client.until(lambda frame: frame.event == "system" and frame.payload["status"] == "ok")
        with psycopg.connect(database) as writer:
            writer.execute("insert into public.held values (1)")
            locking = asyncio.create_task(migration.execute("lock table public.held"))
            # once the lock is queued, no other transaction reads the row between its commit and the lock
            while sql.execute("select from pg_locks where not granted").fetchone() is None:  # noqa: ASYNC110
                await asyncio.sleep(0)
            writer.commit()
        await locking
        send(sql, 1)
        assert (await client.broadcast())["payload"]["n"] == 1
        assert not [frame for frame in client.got if frame.event == "postgres_changes"]
        await migration.commit()
        change = await client.until(lambda frame: frame.event == "postgres_changes")
        assert change.payload["data"]["record"] == {"id": 1}


async def test_a_missing_publication_is_logged_with_the_statement_to_run(
    database: str, sql: Sql, caplog: pytest.LogCaptureFixture
):
    """The statement works without a restart; rows then have the name of their partition."""
    sql.execute(ALL)
    sql.execute("drop publication supabase_realtime_messages_publication")
    with caplog.at_level(logging.WARNING, "supawire.server"):
        async with LocalServer(database=database) as server, wire(server) as client:
            remedy = caplog.records[0].getMessage().partition(": run ")[2]
            await client.join()
            sql.execute(cast("LiteralString", remedy))
            while not numbers(await client.frames_before_heartbeat()):
                send(sql, 1)


# --- replication_ready ---


async def test_replication_ready_is_sent(server: LocalServer, sql: Sql):
    """A message that is sent after it arrives."""
    async with wire(server) as client:
        await client.join(broadcast=READY)
        message = {"message": "Replication connection established", "status": "ok", "extension": "system"}
        assert await client.system() == message | {"channel": "lab"}
        send(sql, 1)
        assert await until_number(client, 1) == [1]


async def test_a_lost_stream_is_reopened(server: LocalServer, sql: Sql):
    """A client that joins meanwhile is notified when messages are delivered; later commits reach every client."""
    async with wire(server) as client:
        await client.join(broadcast=READY)
        await client.system()
        sql.execute("""select pg_terminate_backend(active_pid, 10000) from pg_replication_slots
            where active and database = current_database()""")
        async with wire(server) as other:
            await other.join(broadcast=READY)
            assert (await other.system())["message"] == "Replication connection established"
            for each in (other, client):
                while not numbers(await each.frames_before_heartbeat()):
                    send(sql, 1)


# --- replay ---


def since(sql: Sql, ago: timedelta = timedelta(hours=1)) -> int:
    ((at,),) = sql.execute("select (extract(epoch from now() - %s) * 1000)::bigint", [ago]).fetchall()
    return at


async def replayed(server: LocalServer, expected: Any, vsn: str = "2.0.0", topic: str = "lab") -> list[Any]:
    """Return what a join with this replay receives before its presence state."""
    async with wire(server, vsn=vsn) as client:
        reply = await client.join(f"realtime:{topic}", broadcast={"replay": expected}, presence={"enabled": True})
        assert reply["status"] == "ok", reply
        await client.until(lambda frame: frame.event == "presence_state")
        return client.got[1:-1]


async def test_a_replay_is_sent_oldest_first(server: LocalServer, sql: Sql):
    """In text frames with the join_ref and `replayed` in `meta`, also in version 1.0.0."""
    for n in range(3):
        send(sql, n)
    frames = await replayed(server, {"since": since(sql)})
    number = id_of(sql, 0)
    assert frames[0].payload == {
        "type": "broadcast",
        "event": "ping",
        "payload": {"n": 0, "id": number},
        "meta": {"id": number, "replayed": True},
    }
    assert frames[0].join_ref == "1" and numbers(frames) == [0, 1, 2]
    assert [frame.payload for frame in await replayed(server, {"since": since(sql)}, "1.0.0")] == [
        frame.payload for frame in frames
    ]


@pytest.mark.parametrize(
    ("limit", "expected_numbers"),
    [(None, range(5, 30)), (3, range(27, 30)), (0, range(29, 30)), (-4, range(29, 30)), (100, range(5, 30))],
)
async def test_a_replay_has_the_newest_messages_up_to_the_limit(
    server: LocalServer, sql: Sql, limit: int | None, expected_numbers: range
):
    """25 by default and at most; in insertion order, although one transaction has one time."""
    sql.execute("select realtime.send(jsonb_build_object('n', n), 'ping', 'lab') from generate_series(0, 29) n")
    expected = {"since": since(sql)} | ({} if limit is None else {"limit": limit})
    assert numbers(await replayed(server, expected)) == list(expected_numbers)


async def test_only_private_broadcasts_of_the_topic_since_then_are_replayed(server: LocalServer, sql: Sql):
    """Not public ones, other topics, other extensions or older ones."""
    insert = """insert into realtime.messages (topic, extension, event, payload, private, inserted_at)
        values (%s, %s, %s, jsonb_build_object('n', %s::int), true, now() at time zone 'utc' - %s::interval)"""
    sql.execute("select realtime.keep_partitions()")
    for n, (topic, extension, event, ago) in enumerate(
        [
            ("lab", "broadcast", "ping", "90 seconds"),
            ("lab", "broadcast", "ping", "30 seconds"),
            ("lab", "presence", "ping", "20 seconds"),
            ("labs", "broadcast", "ping", "15 seconds"),
            ("lab", "broadcast", None, "10 seconds"),
        ]
    ):
        sql.execute(insert, [topic, extension, event, n, ago])
    send(sql, 5, private=False)
    send(sql, 6)
    assert numbers(await replayed(server, {"since": since(sql, timedelta(seconds=60))})) == [1, 6]
    assert numbers(await replayed(server, {"since": since(sql, timedelta(seconds=-60))})) == []


async def test_messages_older_than_three_days_are_not_replayed(server: LocalServer, sql: Sql):
    """Even if requested and their partition still exists."""
    sql.execute("""do $$ declare day date := (now() at time zone 'utc')::date; begin
        execute format('create table realtime.messages_old partition of realtime.messages for values from (%L) to (%L)',
          day - 6, day - 1); end $$""")
    for hours, n in ((73, 1), (71, 2), (1, 3)):
        sql.execute(
            """insert into realtime.messages (topic, extension, event, payload, private, inserted_at) values
            ('lab', 'broadcast', 'ping', jsonb_build_object('n', %s::int), true,
             now() at time zone 'utc' - make_interval(hours => %s))""",
            [n, hours],
        )
    for at in (0, -(10**30), since(sql, timedelta(days=10))):
        assert numbers(await replayed(server, {"since": at})) == [2, 3]
    assert await replayed(server, {"since": 10**30}) == []


async def test_raw_bytes_are_replayed_to_version_two(server: LocalServer, sql: Sql):
    """As kind 4, with `replayed` and `id` in the metadata."""
    sql.execute(r"select realtime.send_binary('\x00ff10', 'blob', 'lab')")
    send(sql, 1)
    frames = await replayed(server, {"since": since(sql)})
    ((number,),) = sql.execute("select id::text from realtime.messages where payload is null").fetchall()
    assert frames[0].payload["payload"] == b"\x00\xff\x10"
    assert frames[0].payload["meta"] == {"id": number, "replayed": True}
    assert numbers(frames[1:]) == [1]
    assert numbers(await replayed(server, {"since": since(sql)}, "1.0.0")) == [1]


async def test_a_replay_needs_the_permission_to_read_broadcasts(server: LocalServer, sql: Sql):
    """A join that presence permits receives no messages."""
    send(sql, 1)
    sql.execute("alter policy everything on realtime.messages using (extension = 'presence')")
    assert await replayed(server, {"since": since(sql)}) == []


async def test_a_failed_replay_query_refuses_the_join(server: LocalServer, sql: Sql):
    """The join is refused with the text of the real server."""
    sql.execute("alter table realtime.messages rename column payload to body")
    async with wire(server) as client:
        reply = await client.join(broadcast={"replay": {"since": 0}})
        reason = "UnableToReplayMessages: Realtime was unable to replay messages"
        assert reply == {"status": "error", "response": {"reason": reason}}


async def test_nothing_is_lost_or_doubled_between_replay_and_live(server: LocalServer, sql: Sql, database: str):
    """While messages are sent continuously, a join with a replay receives each message once, from its first one on.

    Replayed messages are in order, and so are live ones. A message that was being delivered during the replay query
    arrives live even if it is older: the limit excluded it from the replay, and nothing holds it back.
    """
    done = asyncio.Event()

    async def write() -> None:
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
            for n in range(400):
                await connection.execute("select realtime.send(jsonb_build_object('n', %s::int), 'ping', 'lab')", [n])
        done.set()

    writing = asyncio.create_task(write())
    start, joins = since(sql), 0
    while not done.is_set():
        async with wire(server) as client:
            await client.join(broadcast={"replay": {"since": start}}, presence={"enabled": True})
            await client.until(lambda frame: frame.event == "presence_state")
            send(sql, "last")
            await until_number(client, "last")
            missed, live = replayed_and_live(client.got)
            assert live == sorted(live)
            if missed:
                assert missed == list(range(missed[0], missed[0] + len(missed)))
            if got := sorted(missed + live):
                assert got == list(range(got[0], got[0] + len(got)))
                joins += 1
    await writing
    assert joins


# --- partitions


async def test_missing_partitions_are_created_while_the_server_runs(
    database: str, sql: Sql, caplog: pytest.LogCaptureFixture
):
    """A failure is logged, and the next check tries again."""
    pool = Database(database)
    partitions = Partitions(pool, interval=0.001)
    await partitions.start()

    def count() -> int:
        row = sql.execute("select count(*) from pg_inherits where inhparent = 'realtime.messages'::regclass").fetchone()
        assert row is not None
        return row[0]

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110  the condition depends on another process
            await asyncio.sleep(0.005)

    assert count() == 4
    sql.execute("do $$ begin execute format('drop table realtime.messages_%s', to_char(now(), 'YYYY_MM_DD')); end $$")
    running = asyncio.create_task(partitions.run())
    await until(lambda: count() == 4)
    with caplog.at_level(logging.WARNING, "supawire.server"):
        sql.execute("alter function realtime.keep_partitions() rename to gone")
        await until(lambda: "could not be created" in caplog.text)
    sql.execute("alter function realtime.gone() rename to keep_partitions")
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await pool.close()
