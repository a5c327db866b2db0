"""The schema `realtime` that the local server creates."""

from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from supawire.errors import StateError
from supawire.server.postgres.cluster import Cluster
from supawire.server.postgres.database import Database
from supawire.server.postgres.preflight import prepare
from tests.postgres import databases

pytestmark = pytest.mark.slow

MESSAGES = "select topic, extension, event, payload, binary_payload, private from realtime.messages"
Sql = psycopg.Connection[tuple[Any, ...]]


def one(sql: Sql, text: LiteralString) -> Any:
    row = sql.execute(text).fetchone()
    assert row is not None
    return row[0]


async def test_preparing_twice_keeps_data(database: str, sql: Sql):
    """Tables and rows that were created in between are kept."""
    sql.execute("select realtime.send('{\"n\": 1}', 'ping', 'lab')")
    sql.execute("create function auth.mine() returns int language sql as 'select 1'")
    pool = Database(database)
    await prepare(pool, ours=True)
    await prepare(pool)
    await pool.close()
    assert one(sql, "select count(*) from realtime.messages") == 1
    assert one(sql, "select auth.mine()") == 1


async def test_a_foreign_realtime_schema_is_not_changed(cluster: Cluster):
    """It may be the real one; the error mentions that."""
    with databases.database(cluster, "foreign_schema") as url:
        with psycopg.connect(url, autocommit=True) as there:
            there.execute("create schema realtime")
        pool = Database(url)
        with pytest.raises(StateError, match="leave out --prepare"):
            await prepare(pool)
        await pool.close()


def test_sending_stores_a_message_with_its_id(sql: Sql):
    """The payload gets the id of the row unless it has one; messages are private by default."""
    sql.execute("select realtime.send('{\"n\": 1}', 'ping', 'lab'), realtime.send('{\"id\": 7}', 'ping', 'lab', false)")
    first, second = sql.execute(MESSAGES + " order by private desc").fetchall()
    assert first == ("lab", "broadcast", "ping", {"n": 1, "id": first[3]["id"]}, None, True)
    assert first[3]["id"] == str(one(sql, "select id from realtime.messages where private"))
    assert (second[3], second[5]) == ({"id": 7}, False)


def test_send_binary_stores_bytes(sql: Sql):
    """The row has no JSON payload."""
    sql.execute(r"select realtime.send_binary('\x00ff10', 'blob', 'lab')")
    assert sql.execute(MESSAGES).fetchone() == ("lab", "broadcast", "blob", None, b"\x00\xff\x10", True)


@pytest.mark.parametrize("payload", ["[1]", "7", '"x"', "null"])
def test_a_payload_that_is_not_an_object_is_a_warning(sql: Sql, payload: str):
    """Nothing is sent, and the transaction continues."""
    notices: list[str] = []
    sql.add_notice_handler(lambda notice: notices.append(f"{notice.severity} {notice.message_primary}"))
    sql.execute("select realtime.send(%s::jsonb, 'ping', 'lab')", [payload])
    assert len(notices) == 1
    assert notices[0].startswith("WARNING WarnSendingBroadcastMessage: ")
    assert one(sql, "select count(*) from realtime.messages") == 0


def test_a_missing_partition_is_a_warning(sql: Sql):
    """Nothing is sent. `keep_partitions` creates the partition, and drops those that ended three days ago."""
    notices: list[str | None] = []
    sql.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    name = "messages_" + one(sql, "select to_char(now() at time zone 'utc', 'YYYY_MM_DD')")
    sql.execute(SQL("drop table realtime.{}").format(Identifier(name)))
    sql.execute("create table realtime.messages_2020_01_02 partition of realtime.messages "
                "for values from ('2020-01-02') to ('2020-01-03')")  # fmt: skip
    sql.execute("select realtime.send('{}', 'ping', 'lab')")
    assert "no partition" in str(notices)
    sql.execute("select realtime.keep_partitions()")
    sql.execute("select realtime.send('{}', 'ping', 'lab')")
    assert one(sql, "select count(*) from realtime.messages") == 1
    parts = [row[0] for row in sql.execute("select inhrelid::regclass::text from pg_inherits "
             "where inhparent = 'realtime.messages'::regclass")]  # fmt: skip
    assert f"realtime.{name}" in parts
    assert len(parts) == 4
    assert "realtime.messages_2020_01_02" not in parts


def test_a_row_trigger_broadcasts_changes(sql: Sql):
    """The message has operation, table, new and old row; parts that do not apply are null."""
    sql.execute("""
        create table notes (id int primary key, body text);
        create function tell() returns trigger language plpgsql security definer as $$
        begin
          perform realtime.broadcast_changes('notes', tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
          return null;
        end $$;
        create trigger tell after insert or update or delete on notes for each row execute function tell();
        insert into notes values (1, 'a');
        update notes set body = 'b';
        delete from notes;
    """)
    rows = sql.execute("select event, payload - 'id', private from realtime.messages order by inserted_at").fetchall()
    a, b, where = {"id": 1, "body": "a"}, {"id": 1, "body": "b"}, {"schema": "public", "table": "notes"}
    assert rows == [
        ("INSERT", {"operation": "INSERT", "record": a, "old_record": None, **where}, True),
        ("UPDATE", {"operation": "UPDATE", "record": b, "old_record": a, **where}, True),
        ("DELETE", {"operation": "DELETE", "record": None, "old_record": b, **where}, True),
    ]


def test_policies_apply_to_send(sql: Sql):
    """`realtime.topic()` is the topic; a denied insert is a warning, and nothing is sent."""
    sql.execute("""
        create policy write on realtime.messages for insert to authenticated
        with check (realtime.topic() = 'room:' || auth.uid()::text)
    """)
    ada = "00000000-0000-0000-0000-00000000000a"
    with sql.transaction():
        sql.execute("select set_config('role', 'authenticated', true)")
        sql.execute("select set_config('request.jwt.claims', %s, true)", [f'{{"sub": "{ada}"}}'])
        sql.execute(
            "select realtime.send('{}', 'ping', 'room:other'), realtime.send('{}', 'ping', %s)", [f"room:{ada}"]
        )
    assert [row[0] for row in sql.execute(MESSAGES)] == [f"room:{ada}"]


def test_functions_return_the_claims(sql: Sql):
    """`auth.uid()`, `auth.role()`, `auth.email()` and `auth.jwt()`; null outside of a request."""
    request = "select auth.uid()::text, auth.role(), auth.email(), auth.jwt() ->> 'x'"
    assert sql.execute(request).fetchone() == (None, None, None, None)
    ada = "00000000-0000-0000-0000-00000000000a"
    claims = f'{{"sub": "{ada}", "role": "authenticated", "email": "a@b.c", "x": 1}}'
    sql.execute("select set_config('request.jwt.claims', %s, false)", [claims])
    assert sql.execute(request).fetchone() == (ada, "authenticated", "a@b.c", "1")
