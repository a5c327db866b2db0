"""Incomplete requests and messages: the timeout for them, and the limit on their bytes."""

import asyncio
from contextlib import closing

import aiohttp
import pytest

from supawire.server.hub_options import Timings
from supawire.server.websocket import TcpConnections
from tests.server.test_app import LAB, TOKEN, running

SHORT = Timings(request=0.05)
UPGRADE = (
    "GET /socket/websocket?vsn=2.0.0&apikey={key} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


async def answer(port: int, sent: bytes) -> bytes:
    """Return what is received until the server ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        writer.write(sent)
        try:
            return await asyncio.wait_for(reader.read(), 10)
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: 1", b"\x16\x03\x01"],
)
async def test_an_incomplete_request_times_out(sent: bytes) -> None:
    """The connection is closed and removed."""
    async with running(timings=SHORT) as net:
        assert b"200" not in await answer(net.app.port, sent)
        assert not net.app.tcp.open


async def test_an_incomplete_body_times_out() -> None:
    """The response is 408, and the connection is closed."""
    head = b"POST /api/broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{"
    async with running(timings=SHORT) as net:
        assert (await answer(net.app.port, head)).startswith(b"HTTP/1.1 408 ")


async def test_the_request_timeout_does_not_apply_to_open_sockets() -> None:
    """An open socket may be idle for as long as the protocol allows."""
    async with running(timings=SHORT) as net:
        ws = await net.joined()
        await asyncio.sleep(0.15)
        await ws.send_json(["1", "2", LAB, "broadcast", {"event": "e"}])
        await ws.send_json([None, "7", "phoenix", "heartbeat", {}])
        assert (await ws.receive_json())[1] == "2"
        assert (await ws.receive_json())[1] == "7"
        (connection,) = net.app.tcp.open.values()
        assert connection.unfinished == 0


class Transport(asyncio.Transport):
    """A transport that records whether it was aborted."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True


async def test_incomplete_data_is_bounded_over_all_connections() -> None:
    """The connection with most of it is aborted; others, and complete messages, are not affected."""
    connections = TcpConnections(timeout=60, limit=1000)
    make = connections.wrap(asyncio.Protocol)
    transports = [Transport() for _ in range(4)]
    small, large, done, last = (make() for _ in transports)
    for connection, transport in zip((small, large, done, last), transports, strict=True):
        connection.connection_made(transport)
    small.data_received(b"x" * 200)
    for _ in range(6):
        large.data_received(b"x" * 100)
    for _ in range(50):
        done.data_received(b"x" * 150)
        done.complete()
    assert not any(transport.aborted for transport in transports)
    last.data_received(b"x" * 300)
    assert [transport.aborted for transport in transports] == [False, True, False, False]
    for connection in (small, large, done, last):
        connection.connection_lost(None)
    assert not connections.open


async def test_incomplete_frames_count_until_they_are_complete() -> None:
    """The bytes received of an announced frame count for its connection."""
    async with running() as net:
        reader, writer = await asyncio.open_connection("127.0.0.1", net.app.port)
        with closing(writer):
            writer.write(UPGRADE.format(key=TOKEN).encode())
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"\x81\xff" + (4_000_000).to_bytes(8, "big") + b"\0\0\0\0" + b"x" * 100_000)
            await writer.drain()
            (connection,) = net.app.tcp.open.values()
            while connection.unfinished < 100_000:  # noqa: ASYNC110  the bytes are on their way
                await asyncio.sleep(0)
            connection.abort()
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        async with aiohttp.ClientSession() as http, http.get(f"{net.url}/healthcheck") as health:
            assert health.status == 200
