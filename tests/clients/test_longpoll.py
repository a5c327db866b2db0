"""Both clients over long polling."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from supawire import Gap, InvalidArgumentError, LocalServer, broadcast, changes, gaps
from supawire.core import fallback
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


async def test_websockets_are_used_again(api: ClientApi, server: LocalServer, monkeypatch: pytest.MonkeyPatch):
    """While upgrades are refused, trials change nothing; then one works, and the client reconnects by WebSocket."""
    monkeypatch.setattr(fallback, "FIRST_PROBE", 0.05)
    server.block_websockets(426)
    async with api.client(server, fallback="longpoll") as client:
        room = await client.channel("room", ack=True, echo=True)
        got: list[Any] = []
        await room.on(broadcast(), got.append)
        await room.subscribe()
        await asyncio.sleep(0.3)
        assert (client.inner.stats().transport, client.inner.stats().reconnects) == ("longpoll", 0)
        server.accept_connections()
        await until(lambda: client.inner.stats().reconnects == 1 and room.inner.state == "joined")
        await room.broadcast("x", b"\x00")
        await until(lambda: got)
        assert client.inner.stats().transport.startswith("aiohttp")


async def test_a_hanging_trial_does_not_delay_the_close(
    api: ClientApi, server: LocalServer, monkeypatch: pytest.MonkeyPatch
):
    """A WebSocket that is tried and gets no answer is abandoned when the client is closed."""
    monkeypatch.setattr(fallback, "FIRST_PROBE", 0.05)
    refused: list[bytes] = []
    tried, left = asyncio.Event(), asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if not refused:
            refused.append(head)
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        elif b"/websocket?" in head:
            tried.set()
            assert not await reader.read()
            left.set()
        else:
            await forward(reader, writer, server, head)
        writer.close()

    held = await asyncio.start_server(hold, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{held.sockets[0].getsockname()[1]}"
    client = await api.open(url, server.anon_key, fallback="longpoll", backoff=lambda attempt: 0.0)
    async with asyncio.timeout(8), client:
        await (await client.channel("room")).subscribe()
        await tried.wait()
        before = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - before < 3
    await asyncio.wait_for(left.wait(), 3)
    held.close()


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: LocalServer, head: bytes) -> None:
    """Copy between a connection whose head was read and the server, until one of them closes."""
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    far_writer.write(head)

    async def copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                to.write(data)
        except ConnectionError:
            pass  # one of the ends has closed the connection
        to.close()

    await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))


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
