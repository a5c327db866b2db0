"""`drain` with both clients."""

import asyncio
from typing import Any

import pytest

from supawire import (
    ConnectionLostError,
    LocalServer,
    OperationTimeout,
    PresenceJoin,
    PresenceLeave,
    PresenceSync,
    StateError,
    broadcast,
    presence,
)
from supawire.errors import ClosedError, InvalidArgumentError
from supawire.events import ConnectionState, Sent
from tests.clients.client_api import ClientApi, until


async def test_drain_finishes_pending_sends(api: ClientApi, server: LocalServer):
    """`drain` returns after each send is confirmed and the client is closed."""
    server.delay_replies(0.2)
    async with api.client(server) as client:
        room = await client.channel("room", ack=True)
        await room.subscribe()
        sends = [asyncio.ensure_future(room.broadcast("a", number)) for number in range(5)]
        await until(lambda: len([frame for frame in server.frames if frame.event == "broadcast"]) == 5)
        await client.drain()
        assert client.state is ConnectionState.CLOSED
        assert await asyncio.gather(*sends) == [Sent("socket", acked=True)] * 5


async def test_queued_sends_go_out_over_a_reconnect(api: ClientApi, server: LocalServer):
    """Broadcasts queued during a lost connection are sent by the next connection before the drain ends (R31, R32)."""
    async with api.client(server, offline="queue") as client:
        room = await client.channel("room")
        await room.subscribe()
        server.refuse_connections()
        server.drop_connections()
        await until(lambda: client.state is not ConnectionState.OPEN)
        sent = [await room.broadcast("a", number) for number in range(3)]
        server.accept_connections()
        await client.drain()
        assert [await one.wait() for one in sent] == [Sent("socket")] * 3
        assert client.state is ConnectionState.CLOSED
    arrived = [frame.payload for frame in server.frames if frame.event == "broadcast"]
    assert arrived == [0, 1, 2]


async def test_new_calls_are_refused_while_draining(api: ClientApi, server: LocalServer):
    """While the client drains, sends, subscriptions and posts raise StateError, and events still arrive."""
    server.drop_reply("broadcast", times=1)
    async with api.client(server) as client:
        room, late = await client.channel("room", ack=True), await client.channel("late")
        received = await room.listen(broadcast("from the server"))
        await room.subscribe()
        last = asyncio.ensure_future(room.broadcast("a", 1, timeout=None))
        await until(lambda: [frame for frame in server.frames if frame.event == "broadcast"])
        draining = asyncio.ensure_future(client.drain())
        while True:  # until the drain has begun
            await asyncio.sleep(0)
            try:
                await late.track({})
            except StateError:
                break
        for call in (room.broadcast("a", 2), late.subscribe(), room.track({}), client.publish("room", "a", {})):
            with pytest.raises(StateError, match="draining"):
                await call
        server.broadcast("room", "from the server", {"n": 1})
        assert (await received.next()).payload == {"n": 1}
        server.drop_connections()
        with pytest.raises(ConnectionLostError):
            await last
        await draining


async def test_presence_ends_with_the_leave(api: ClientApi, server: LocalServer):
    """After a drain the presence of this client is removed."""
    async with api.client(server) as client, api.client(server) as witness:
        watching = await witness.channel("room")
        seen = await watching.listen(presence())
        await watching.subscribe()
        assert isinstance(await seen.next(), PresenceSync)
        room = await client.channel("room", presence_key="ada")
        await room.track({"here": True})
        await room.subscribe()
        assert isinstance(await seen.next(), PresenceJoin)
        await client.drain()
        assert [type(event) for event in await seen.take(2)] == [PresenceSync, PresenceLeave]


async def test_drain_closes_the_client_at_its_deadline(api: ClientApi, server: LocalServer):
    """At the deadline `drain` raises, unfinished calls raise for their callers, and the client is closed."""
    server.drop_reply("broadcast")
    async with api.client(server) as client:
        room = await client.channel("room", ack=True)
        await room.subscribe()
        last = asyncio.ensure_future(room.broadcast("a", 1, timeout=None))
        await until(lambda: [frame for frame in server.frames if frame.event == "broadcast"])
        with pytest.raises(OperationTimeout, match="1 sends were not finished"):
            await client.drain(0.05)
        with pytest.raises(ClosedError):
            await last
        assert client.state is ConnectionState.CLOSED


@pytest.mark.parametrize("wrong", [0, -1, "5"])
async def test_a_wrong_deadline_raises_and_closes_nothing(api: ClientApi, server: LocalServer, wrong: Any):
    """A wrong deadline raises at once, and the client stays open."""
    async with api.client(server) as client:
        with pytest.raises(InvalidArgumentError):
            await client.drain(wrong)
        assert await client.ping() > 0


async def test_drain_of_a_closed_client_does_nothing(api: ClientApi, server: LocalServer):
    """A second `drain`, or one after `close`, does nothing, and later calls raise ClosedError."""
    async with api.client(server) as client:
        room = await client.channel("room")
        await client.drain()
        await client.drain()
        await client.close()
        for call in (client.publish("room", "a", {}), client.publish_many([]), room.broadcast("a", 1)):
            with pytest.raises(ClosedError):
                await call
        with pytest.raises(ClosedError):
            await client.mirror("users", key="id", fetch=list)
