"""Both clients over long polling."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from supawire import Gap, InvalidArgumentError, LocalServer, broadcast, changes, gaps
from supawire.transport.longpoll import LongPollTransport
from tests.clients.client_api import ClientApi, until

pytestmark = pytest.mark.anyio


async def test_events_go_both_ways(api: ClientApi, server: LocalServer):
    """Broadcasts with ack, changes and presence work over long polling, whatever `protocol=` is."""
    async with api.client(server, transport=LongPollTransport()) as client:
        room = await client.channel("room", echo=True, ack=True)
        got: list[Any] = []
        await room.on(broadcast(), got.append)
        await room.on(changes("todos"), got.append)
        await room.subscribe()
        for number in range(20):
            await room.broadcast("number", {"n": number})
        server.emit("INSERT", "todos", record={"id": 1})
        server.broadcast("room", "from", {"server": True})
        await room.track({"name": "Alice"})
        await until(lambda: len(got) == 22)
        await until(lambda: len(room.inner.presence_state()) == 1)
        assert [event.payload["n"] for event in got[:20]] == list(range(20))
        assert client.inner.stats().transport == "longpoll"


async def test_blocked_websockets_are_replaced(api: ClientApi, server: LocalServer):
    """With `fallback=` a client connects although upgrades are refused; bytes raise at once."""
    server.block_websockets(426)
    async with api.client(server, fallback="longpoll") as client:
        room = await client.channel("room", ack=True)
        await room.subscribe()
        assert (await room.broadcast("x", {"a": 1})).acked
        assert (client.inner.stats().transport, client.inner.stats().fallbacks) == ("longpoll", 1)
        with pytest.raises(InvalidArgumentError, match="bytes cannot be sent over long polling"):
            await room.broadcast("x", b"\x00")


async def test_a_lost_answer_becomes_a_gap(api: ClientApi, server: LocalServer):
    """If the answer to a poll is lost, its events are reported as missing and later ones arrive."""
    async with api.client(server, transport=LongPollTransport()) as client:
        room = await client.channel("room")
        got: list[Any] = []
        found: list[Gap] = []
        await room.on(broadcast(), got.append)
        await room.on(gaps(), found.append)
        await room.subscribe()
        server.lose_answers("GET")
        server.broadcast("room", "lost", {})
        await until(lambda: found)
        await until(lambda: client.inner.stats().reconnects == 1 and room.inner.state == "joined")
        server.broadcast("room", "found", {})
        await until(lambda: got)
        assert [event.event for event in got] == ["found"]


async def test_an_expired_session_is_replaced(api: ClientApi, server: LocalServer):
    """If the server ends the session, the client opens another and rejoins."""
    async with api.client(server, transport=LongPollTransport()) as client:
        room = await client.channel("room", ack=True)
        await room.subscribe()
        server.drop_connections(1000)
        await until(lambda: client.inner.stats().reconnects == 1 and room.inner.state == "joined")
        assert (await room.broadcast("x", {})).acked


@asynccontextmanager
async def without_upgrade(port: int) -> AsyncGenerator[str, None]:
    """Run a proxy that removes the header `Upgrade`, and yield its URL."""
    open_writers: list[asyncio.StreamWriter] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data.replace(b"Upgrade: websocket\r\n", b""))
        except ConnectionError:
            pass  # one of the ends has closed the connection
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        open_writers.extend((writer, far_writer))
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    finally:
        proxy.close()
        for writer in open_writers:
            writer.transport.abort()
        await asyncio.sleep(0)


async def test_a_proxy_that_removes_upgrade_is_passed(api: ClientApi, server: LocalServer):
    """Behind a proxy that removes the header `Upgrade`, a client with `fallback=` works by long polling."""
    options: dict[str, Any] = {"fallback": "longpoll", "backoff": lambda attempt: 0.0}
    async with (
        without_upgrade(int(server.url.rpartition(":")[2])) as url,
        await api.open(url, server.anon_key, **options) as client,
    ):
        room = await client.channel("room", ack=True)
        await room.subscribe()
        assert (await room.broadcast("x", {})).acked
        assert client.inner.stats().transport == "longpoll"
