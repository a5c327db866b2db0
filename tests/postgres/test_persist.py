"""Broadcasts that clients ask the server to store, as rows of `realtime.messages`, and joins that wait for changes."""

import asyncio
from collections.abc import Iterator

import pytest

from supawire import Insert, LocalServer, broadcast, changes, connect_async
from supawire.errors import JoinDeniedError, PushError

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(database: str) -> Iterator[LocalServer]:
    """Yield a running server on the database, with policies that allow members everything."""
    with LocalServer(database=database) as server:
        server.sql("create policy members on realtime.messages to authenticated using (true) with check (true)")
        yield server


async def test_a_persisted_broadcast_is_a_row_and_is_delivered_once(server: LocalServer):
    """The row has the message and its expiry; its insert is not delivered again as a message of the database."""
    async with connect_async(server.url, server.anon_key, token=server.token()) as client:
        room = client.channel("room", private=True, ack=True, echo=True)
        with_stream = room.listen(broadcast())
        await room.subscribe()
        sent = await room.broadcast("move", {"x": 1}, persist=60)
        server.sql("select realtime.send('{}', 'last', 'room', true)")
        assert [(await anext(with_stream)).event for _ in range(2)] == ["move", "last"]
    (row,) = server.sql(
        "select id::text, topic, event, payload, extension, private, skip_broadcast,"
        " expires_at - inserted_at = interval '60 s' from realtime.messages where event = 'move'"
    )
    assert row == (sent.id, "room", "move", {"x": 1}, "broadcast", True, True, True)


async def test_expired_rows_are_not_replayed(server: LocalServer):
    """A replay leaves out rows whose `expires_at` has passed."""
    async with connect_async(server.url, server.anon_key, token=server.token()) as client:
        room = client.channel("room", private=True, ack=True)
        await room.subscribe()
        await room.broadcast("old", {}, persist=60)
        await room.broadcast("blob", b"\x01", persist=True)
        server.sql("update realtime.messages set expires_at = now() at time zone 'utc' where event = 'old'")
        async with connect_async(server.url, server.anon_key, token=server.token()) as other:
            event = await anext(other.channel("room", private=True, replay_since=0).listen(broadcast()))
    assert (event.event, event.payload) == ("blob", b"\x01")


async def test_storing_needs_a_policy_for_persistence(server: LocalServer):
    """Without a policy for the extension `persistence` the message is delivered and not stored."""
    server.sql(
        "drop policy members on realtime.messages;"
        "create policy readers on realtime.messages for select to authenticated using (true);"
        "create policy writers on realtime.messages for insert to authenticated with check (extension = 'broadcast')"
    )
    async with connect_async(server.url, server.anon_key, token=server.token()) as client:
        room = client.channel("room", private=True, ack=True)
        await room.subscribe()
        with pytest.raises(PushError, match="did not store it"):
            await room.broadcast("move", {}, persist=True)
    assert server.sql("select count(*) from realtime.messages") == [(0,)]


async def test_a_join_waits_until_its_changes_are_live(server: LocalServer):
    """After `subscribe` of a channel with `wait`, the next change arrives; a table that is not published is refused."""
    server.sql(
        "create table notes (id int primary key); grant select on notes to anon, authenticated;"
        "alter publication supabase_realtime add table notes; create table hidden (id int primary key)"
    )
    async with connect_async(server.url, server.anon_key) as client:
        room = client.channel("db", wait=True)
        stream = room.listen(changes("notes"))
        await room.subscribe()
        server.sql("insert into notes values (1)")
        change = await asyncio.wait_for(anext(stream), 10)
        assert isinstance(change, Insert) and change.record == {"id": 1}
        wrong = client.channel("wrong", wait=True)
        wrong.listen(changes("hidden"))
        with pytest.raises(JoinDeniedError, match="RealtimeDisabledForConfiguration"):
            await wrong.subscribe()
