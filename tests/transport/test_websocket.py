"""What the WebSocket transport does on the wire, besides the contract."""

import asyncio
import importlib.util
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from aiohttp import WSMsgType, web

from supawire.errors import ConnectError, InvalidArgumentError
from supawire.options import Endpoint, Secret
from supawire.transport import OpenRequest, _aiohttp
from supawire.transport._connection import WebSocketConnection
from supawire.transport.http import retry_after
from supawire.transport.websocket import WebSocketTransport
from tests.transport.rigs import KEY, WebSocketPeer, line, websocket_rig

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def raw_server(answer: bytes, *, hang: bool = False) -> AsyncGenerator[str, None]:
    """A TCP server that answers every request with these bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if hang:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def refusal(url: str) -> ConnectError:
    with pytest.raises(ConnectError) as caught:
        await WebSocketTransport().open(OpenRequest(Endpoint.of(url, KEY)))
    return caught.value


async def test_the_handshake_says_what_it_was_told():
    """The key arrives unescaped, headers and Host as given, and no compression is offered."""
    async with websocket_rig() as rig:
        endpoint = Endpoint.of(rig.url, KEY, host="tenant.example:4000", params={"log": "a b"})
        request = OpenRequest(endpoint, {"X-Gateway": "yes"})
        connection, peer = await asyncio.gather(rig.transport.open(request), rig.accept())
        seen = peer.request
        assert (seen.query["apikey"], seen.query["vsn"], seen.query["log"]) == (KEY, "2.0.0", "a b")
        assert (seen.headers["Host"], seen.headers["X-Gateway"]) == ("tenant.example:4000", "yes")
        assert "Sec-WebSocket-Extensions" not in seen.headers
        connection.abort()
        await connection.run(_NoSink())


class _NoSink:
    max_batch = 1

    def frame(self, data: bytes, binary: bool, /) -> None:
        raise AssertionError("nothing is read after an abort")

    def batch_done(self) -> None: ...


async def test_sockets_of_one_loop_share_what_opens_them():
    """Two transports open by one aiohttp session: it outlives one socket, ends with the last, and then comes anew."""
    async with websocket_rig() as rig:
        one, other = [await WebSocketTransport().open(rig.request()) for _ in range(2)]
        first = await rig.accept()
        peer = await rig.accept()
        shared = one._session
        assert isinstance(shared, _aiohttp.AiohttpSession)
        assert other._session is shared
        await first.close(1000)
        await one.run(_NoSink())
        assert one.fileno() == -1
        other.write(b"still here", False)
        assert await peer.receive() == (b"still here", False)
        other.abort()
        await other.run(_NoSink())
        assert shared.aiohttp.closed
        third = await rig.transport.open(rig.request())
        assert third._session is not shared
        third.abort()
        await third.run(_NoSink())


async def test_a_redirect_is_not_followed():
    """A redirect is a refusal, so that the key goes nowhere but where the user said."""
    answer = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 5\r\n\r\nmoved"
    async with raw_server(answer) as url:
        error = await refusal(url)
    assert (error.status, error.body) == (302, "moved")


async def test_a_body_that_hangs_does_not_hold_the_refusal_up(monkeypatch: pytest.MonkeyPatch):
    """The status of a refusal is told although its body never ends."""
    monkeypatch.setattr(_aiohttp, "_BODY_TIME", 0.05)
    async with raw_server(b"HTTP/1.1 503 Busy\r\nContent-Length: 50\r\n\r\nbroken", hang=True) as url:
        error = await refusal(url)
    assert (error.status, error.body) == (503, "broken")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Hi\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: soup\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"",
    ],
)
async def test_an_answer_that_is_no_websocket_is_a_failure(answer: bytes):
    """Anything that is no WebSocket handshake is a ConnectError without the key in it (R30, R48)."""
    async with raw_server(answer) as url:
        error = await refusal(url)
    assert KEY not in f"{error!r} {error}"
    assert "apikey" not in str(error)
    assert error.__cause__ is None and error.__context__ is None


async def test_a_cancelled_opening_leaves_nothing():
    """Cancelling `open` while the server is silent closes the socket."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        gone.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    opening = asyncio.create_task(WebSocketTransport().open(OpenRequest(Endpoint.of(url, KEY))))
    await asked.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await gone.wait()
    server.close()
    await server.wait_closed()


async def test_pings_are_answered_and_hidden():
    """The server's pings are answered by themselves and never reach the sink."""
    async with websocket_rig() as rig, line(rig) as it:
        peer = it.peer
        assert isinstance(peer, WebSocketPeer)
        peer.socket._autoping = False
        await peer.socket.ping(b"there?")
        message = await peer.socket.receive()
        assert (message.type, bytes(message.data)) == (WSMsgType.PONG, b"there?")
        await peer.send(b"[]")
        assert await it.sink.has(1) == [(b"[]", False)]


async def test_of_pongs_that_wait_the_newest_is_kept():
    """A peer that pings and never reads does not fill our memory (RFC 6455 §5.5.3 wants the newest answered)."""
    async with websocket_rig() as rig, line(rig) as it:
        peer, connection = it.peer, it.connection
        assert isinstance(peer, WebSocketPeer) and isinstance(connection, WebSocketConnection)
        peer.socket._autoping = False
        sent = 0
        while not connection._full:
            connection.write(bytes(1_000_000), True)
            sent += 1
        for number in range(500):
            await peer.socket.ping(b"%d" % number)
        await peer.send(b"[]")
        await it.sink.has(1)
        assert not connection._queue
        messages = [await peer.socket.receive() for _ in range(sent + 1)]
        assert [bytes(one.data) for one in messages if one.type is WSMsgType.PONG] == [b"499"]


async def test_a_frame_of_eight_megabytes_is_taken():
    """Inbound frames of 8 MB pass (R36)."""
    async with websocket_rig() as rig, line(rig) as it:
        await it.peer.send(bytes(8_000_000), True)
        assert len((await it.sink.has(1))[0][0]) == 8_000_000


async def test_a_frame_over_the_limit_ends_the_connection():
    """A frame that is longer than allowed ends the connection, and the end says why."""
    async with websocket_rig() as rig, line(rig) as it:
        peer = it.peer
        assert isinstance(peer, WebSocketPeer) and peer.request.transport is not None
        peer.request.transport.write(b"\x82\x7f" + (16_000_001).to_bytes(8))
        peer.request.transport.write(bytes(16_000_001))  # newer aiohttp ends it at the header, older ones at the end
        end = await it.run
        assert end.code is None
        assert "rules of WebSocket" in end.text


async def test_a_frame_may_come_in_fragments():
    """Fragments are one frame to the sink."""
    async with websocket_rig() as rig, line(rig) as it:
        peer = it.peer
        assert isinstance(peer, WebSocketPeer) and peer.request.transport is not None
        peer.request.transport.write(b"\x01\x02he" + b"\x80\x03llo")
        assert await it.sink.has(1) == [(b"hello", False)]


async def test_socks_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    """A SOCKS proxy without aiohttp-socks is refused with the command that installs it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    request = OpenRequest(Endpoint.of("http://127.0.0.1:1", KEY), proxy=Secret("socks5://127.0.0.1:1"))
    with pytest.raises(InvalidArgumentError, match=r"supawire\[socks\]"):
        await WebSocketTransport().open(request)


async def test_a_proxy_is_asked():
    """An HTTP proxy gets the request for the server's address."""
    asked: list[str] = []

    async def proxy(request: web.BaseRequest) -> web.Response:
        asked.append(str(request.url))
        return web.Response(status=502)

    runner = web.ServerRunner(web.Server(proxy))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    through = Secret(f"http://127.0.0.1:{runner.addresses[0][1]}")
    with pytest.raises(ConnectError) as caught:
        await WebSocketTransport().open(OpenRequest(Endpoint.of("http://far.invalid", KEY), proxy=through))
    await runner.cleanup()
    assert caught.value.status == 502
    assert asked[0].startswith("ws://far.invalid/realtime/v1/websocket") or "far.invalid" in asked[0]


@pytest.mark.parametrize(
    ("date", "ahead"),
    [
        ("Tue, 24 Nov 2026 12:00:30 GMT", datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC)),
        ("Mon, 01 Jan 2001 00:00:00 GMT", datetime(2001, 1, 1, tzinfo=UTC)),
        ("soon", None),
        ("", None),
    ],
)
async def test_the_date_of_the_answer_is_the_clock_of_the_server(date: str, ahead: datetime | None):
    """A connection knows how far the server's clock is ahead of ours, None without a date that can be read (R44)."""

    async def accept(request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        socket.headers["Date"] = date
        await socket.prepare(request)
        await socket.receive()
        return socket

    runner = web.ServerRunner(web.Server(accept))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    before = time.time()
    request = OpenRequest(Endpoint.of(f"http://127.0.0.1:{runner.addresses[0][1]}", KEY))
    connection = await WebSocketTransport().open(request)
    after = time.time()
    if ahead is None:
        assert connection.clock_offset is None
    else:
        assert connection.clock_offset is not None
        assert ahead.timestamp() - after <= connection.clock_offset <= ahead.timestamp() - before
    connection.abort()
    await connection.run(_NoSink())
    await runner.cleanup()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Tue, 24 Nov 2026 12:00:30 GMT", 30.0),
        ("Tue, 24 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("9" * 400, None),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("Tue, 24 Nov 99999 12:00:30 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -9999", None),
        ("Tue, 24 Nov 2026 12:00:30 +99999999999999999999", None),
        ("Tue, 24 Nov 2026 99999999999999999999:00:30 GMT", None),
        ("Tue, 24 Nov 2026 " + "1" * 5000, None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None):
    """Retry-After is read in both of its forms; what cannot be read counts as absent (R30)."""
    assert retry_after(header, datetime(2026, 11, 24, 12, tzinfo=UTC)) == seconds
