"""Doctor changes nothing that belongs to the user."""

import pytest

from supawire.doctor import diagnose_async
from supawire.server import LocalServer


async def test_nothing_is_sent_to_the_topic_of_the_user():
    """The given topic is joined and left; messages and presence go to a topic that nobody else knows."""
    async with LocalServer() as server:
        await diagnose_async(server.url, server.anon_key, token=server.token(), topic="room", table="orders")
        frames = server.frames
    on_topic = {frame.event for frame in frames if frame.topic == "realtime:room"}
    assert on_topic <= {"phx_join", "phx_leave", "access_token"}
    (other,) = {frame.topic for frame in frames if frame.event in ("broadcast", "presence")}
    assert other.startswith("realtime:supawire-doctor-")


async def test_the_database_is_only_read():
    """Nothing is written, also not by a function that a policy calls, and tables are as before."""
    pytest.importorskip("psycopg")
    async with LocalServer(postgres=True) as server:
        server.sql(
            "create table orders (id bigint primary key); insert into orders values (1);"
            "create table log (at timestamptz);"
            "alter table orders enable row level security; alter publication supabase_realtime add table orders;"
            "create function audit() returns boolean language sql security definer as"
            " 'insert into public.log values (now()) returning true';"
            "create policy audited on orders using (audit());"
            "create policy everybody on realtime.messages using (true) with check (true)"
        )
        report = await diagnose_async(
            server.url, server.anon_key, table="orders", topic="room", database_url=server.database_url
        )
        counts = [server.sql(f"select count(*) from {table}") for table in ("log", "orders", "realtime.messages")]
    assert counts == [[(0,)], [(1,)], [(0,)]]
    assert report.healthy, str(report)
    assert report.step("rows").detail == "a policy writes when it is evaluated, and doctor only reads"


async def test_functions_of_others_are_not_called_for_those_of_postgresql():
    """A function with the name of one in the catalog, and a better match, is not called when the catalog is read."""
    pytest.importorskip("psycopg")
    async with LocalServer(postgres=True) as server:
        server.sql(
            "create function public.lower(name) returns text language plpgsql as"
            " $$ begin raise exception 'called as %', current_user; end $$"
        )
        report = await diagnose_async(
            server.url, server.anon_key, table="missing", database_url=server.database_url, timeout=15
        )
    assert [finding.name for finding in report.step("table").findings] == ["table-missing"], str(report)
    assert "called as" not in str(report)
