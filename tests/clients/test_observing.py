"""Counters and probes of both clients."""

from typing import Any

import pytest

from supawire import LocalServer, SlowConsumerError, broadcast, changes
from tests.clients.client_api import ClientApi, until

pytestmark = pytest.mark.anyio


async def test_the_counters_of_a_channel_never_fall(api: ClientApi, server: LocalServer):
    """Messages, dropped events and handler errors are counted per channel and client, also after listeners are gone."""
    errors: list[Exception] = []

    def fail(event: Any) -> None:
        raise ValueError(event.payload)

    async with api.client(server, on_error=errors.append) as client:
        room = await client.channel("room", echo=True)
        handled = await room.on(broadcast("bad"), fail)
        slow = await room.listen(broadcast("many"), buffer=2, overflow="drop_newest")
        await room.subscribe()
        for number in range(5):
            await room.broadcast("many", number)
        await room.broadcast("bad", "x")
        await until(lambda: len(errors) == 1)
        stats, own = await client.stats(), await room.stats()
        assert (own.messages_sent, own.messages_received, own.joins) == (6, 6, 1)
        assert (own.buffered, own.overflowed, own.handler_errors) == (2, 3, 1)
        assert (stats.messages_sent, stats.messages_received) == (6, 6)
        assert (stats.buffered, stats.overflowed, stats.handler_errors) == (2, 3, 1)
        assert (stats.channels, stats.joined_channels) == (1, 1)
        await slow.close()
        await handled.cancel()
        await until(lambda: not room.inner.stats().buffered)
        assert (await room.stats()).overflowed == (await client.stats()).overflowed == 3
        await client.remove_channel(room)
        stats = await client.stats()
        assert (stats.overflowed, stats.handler_errors, stats.messages_received, stats.channels) == (3, 1, 6, 0)


async def test_the_counters_tell_what_carries_the_connection(api: ClientApi, server: LocalServer):
    """`stats().transport` has the packages of the open connection, and is None without one."""
    async with api.client(server) as client:
        await (await client.channel("room")).subscribe()
        assert ((await client.stats()).transport or "").startswith("aiohttp 3.")
    assert (await client.stats()).transport is None


async def test_published_messages_are_counted(api: ClientApi, server: LocalServer):
    """Messages that the server accepted by HTTP are counted, each one of a batch."""
    async with api.client(server) as client:
        await client.publish("room", "e", {})
        await client.publish_many([{"topic": "room", "event": "e", "payload": {}}] * 3)
        assert (await client.stats()).messages_published == 4


async def test_a_client_is_ready_when_its_channels_are(api: ClientApi, server: LocalServer):
    """`is_ready()` is false while a channel is not live, `healthy()` only looks at the connection, with reasons."""
    async with api.client(server) as client:
        assert (await client.healthy()).ok and (await client.is_ready()).reasons == ()
        room = await client.channel("room")
        stream = await room.listen(changes("users"))
        server.drop_reply("phx_join", 1)
        with pytest.raises(Exception, match="not joined in time"):
            await room.subscribe(timeout=0.01)
        await room.subscribe(wait="ready")
        assert await client.is_ready()
        server.refuse_connections()
        server.drop_connections()
        await until(lambda: not client.inner.healthy())
        (why,) = (await client.healthy()).reasons
        assert "has not been open" in why
        assert len((await client.is_ready()).reasons) == 2 and await client.healthy(grace=60)
        server.accept_connections()
        await until(lambda: client.inner.is_ready())
        await stream.close()
    assert (await client.healthy()).reasons == ("the client is closed",)


async def test_the_error_of_a_slow_consumer_is_counted_as_overflow(api: ClientApi, server: LocalServer):
    """Events that a full iterator drops are counted once, before and after it has raised."""
    async with api.client(server) as client:
        room = await client.channel("room", echo=True)
        stream = await room.listen(broadcast("many"), buffer=2)
        await room.subscribe()
        for number in range(4):
            await room.broadcast("many", number)
        await until(lambda: room.inner.stats().overflowed == 2)
        await stream.take(2)
        with pytest.raises(SlowConsumerError):
            await stream.next()
        assert (await room.stats()).overflowed == 2
