"""Tests of the WebSocket transport on the wire, in addition to the contract."""

import asyncio
import importlib.util
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from supawire.errors import ConnectError, InvalidArgumentError
from supawire.options import Endpoint, Secret
from supawire.transport import OpenRequest, websocket
from supawire.transport._connection import WebSocketConnection
from supawire.transport.base import parse_retry_after
from supawire.transport.websocket import WebSocketTransport
from tests.faults.misbehaver import PING, PONG, Misbehaver, Wire
from tests.transport.rigs import KEY, line, websocket_rig

pytestmark = pytest.mark.anyio


def raw_server(answer: bytes, *, hang: bool = False) -> Misbehaver:
    """Return a server that answers every request with these bytes."""

    async def serve(wire: Wire) -> None:
        await wire.request()
        wire.write(answer)
        if hang:
            await wire.read()
        wire.hang_up()

    return Misbehaver(serve)


async def refusal(server: Misbehaver, **options: Any) -> ConnectError:
    with pytest.raises(ConnectError) as caught:
        await WebSocketTransport(**options).open(OpenRequest(Endpoint.of(server.url, KEY)))
    return caught.value


async def test_the_upgrade_request_has_the_given_values():
    """The key arrives unchanged, headers and Host as given, and no compression is offered."""
    async with websocket_rig() as rig:
        endpoint = Endpoint.of(rig.server.url, KEY, host="tenant.example:4000", params={"log": "a b"})
        request = OpenRequest(endpoint, {"X-Gateway": "yes"})
        connection, peer = await asyncio.gather(rig.transport.open(request), rig.accept())
        query = dict(parse_qsl(urlsplit(peer.wire.head.split()[1]).query))
        assert query == {"apikey": KEY, "vsn": "2.0.0", "log": "a b"}
        assert (peer.wire.header("host"), peer.wire.header("x-gateway")) == ("tenant.example:4000", "yes")
        assert not peer.wire.header("sec-websocket-extensions")
        connection.abort()
        await connection.run(_NoSink())


class _NoSink:
    max_batch = 1

    def frame(self, data: bytes, binary: bool, /) -> None:
        raise AssertionError("nothing is read after an abort")

    def batch_done(self) -> None: ...


async def test_sockets_of_one_loop_share_a_session():
    """Two transports use one aiohttp session; it is closed with the last socket, and the next one creates another."""
    async with websocket_rig() as rig:
        one, other = [await WebSocketTransport().open(rig.request()) for _ in range(2)]
        first = await rig.accept()
        peer = await rig.accept()
        shared = one._session
        assert isinstance(shared, websocket._OwnedSession)
        assert other._session is shared
        await first.close(1000)
        await one.run(_NoSink())
        assert one.fileno() == -1
        other.write(b"still here", False)
        assert await peer.receive() == (b"still here", False)
        other.abort()
        await other.run(_NoSink())
        assert shared.aiohttp.closed
        third = await WebSocketTransport().open(rig.request())
        assert third._session is not shared
        third.abort()
        await third.run(_NoSink())


async def test_a_redirect_is_not_followed():
    """A redirect is a refusal, so that the key is sent only to the configured server."""
    answer = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 5\r\n\r\nmoved"
    async with raw_server(answer) as server:
        error = await refusal(server)
    assert (error.status, error.body) == (302, "moved")


async def test_a_refusal_is_raised_although_its_body_never_ends():
    """The error has the status and the beginning of the body after `body_timeout`."""
    async with raw_server(b"HTTP/1.1 503 Busy\r\nContent-Length: 50\r\n\r\nbroken", hang=True) as server:
        error = await refusal(server, body_timeout=0.05)
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
async def test_a_response_that_is_not_a_websocket_handshake_is_an_error(answer: bytes):
    """Any other response raises a ConnectError that does not contain the key."""
    async with raw_server(answer) as server:
        error = await refusal(server)
    assert KEY not in f"{error!r} {error}"
    assert "apikey" not in str(error)
    assert error.__cause__ is None and error.__context__ is None


async def test_a_cancelled_opening_closes_the_socket():
    """Cancelling `open` while the server is silent closes the socket."""
    async with raw_server(b"", hang=True) as server:
        opening = asyncio.create_task(WebSocketTransport().open(OpenRequest(Endpoint.of(server.url, KEY))))
        await server.until(lambda: bool(server.heads))
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await server.wire.done.wait()


async def test_pings_are_answered_and_hidden():
    """Pings of the server are answered and not passed to the sink."""
    async with websocket_rig() as rig, line(rig) as it:
        wire = rig.server.wire
        wire.send(b"there?", PING)
        assert await wire.read_frame() == (PONG, b"there?")
        await it.peer.send(b"[]")
        assert await it.sink.has(1) == [(b"[]", False)]


async def test_of_waiting_pongs_only_the_newest_is_kept():
    """The memory stays bounded if a peer sends pings and never reads; RFC 6455 requires a pong for the newest ping."""
    async with websocket_rig() as rig, line(rig) as it:
        wire, connection = rig.server.wire, it.connection
        assert isinstance(connection, WebSocketConnection)
        sent = 0
        while not connection._full:
            connection.write(bytes(1_000_000), True)
            sent += 1
        for number in range(500):
            wire.send(b"%d" % number, PING)
        await it.peer.send(b"[]")
        await it.sink.has(1)
        assert not connection._queue
        received = [await wire.read_frame() for _ in range(sent + 1)]
        assert [data for kind, data in received if kind == PONG] == [b"499"]


async def test_a_frame_of_eight_megabytes_is_received():
    """Frames of 8 MB are received."""
    async with websocket_rig() as rig, line(rig) as it:
        await it.peer.send(bytes(8_000_000), True)
        assert len((await it.sink.has(1))[0][0]) == 8_000_000


async def test_a_frame_over_the_limit_ends_the_connection():
    """A frame that is longer than allowed ends the connection, and the text of the end states the reason."""
    async with websocket_rig() as rig, line(rig) as it:
        wire = rig.server.wire
        wire.write(b"\x82\x7f" + (16_000_001).to_bytes(8))
        wire.write(bytes(16_000_001))  # newer aiohttp ends it at the header, older ones at the end
        end = await it.run
        assert end.code is None
        assert "violated the WebSocket protocol" in end.text


async def test_a_frame_may_come_in_fragments():
    """The sink receives the fragments as one frame."""
    async with websocket_rig() as rig, line(rig) as it:
        rig.server.wire.write(b"\x01\x02he" + b"\x80\x03llo")
        assert await it.sink.has(1) == [(b"hello", False)]


async def test_socks_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    """A SOCKS proxy without aiohttp-socks is refused with the command that installs it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    request = OpenRequest(Endpoint.of("http://127.0.0.1:1", KEY), proxy=Secret("socks5://127.0.0.1:1"))
    with pytest.raises(InvalidArgumentError, match=r"supawire\[socks\]"):
        await WebSocketTransport().open(request)


async def test_connections_go_through_an_http_proxy():
    """An HTTP proxy receives the request with the server's URL."""
    async with Misbehaver(lambda wire: wire.refuse(502)) as proxy:
        request = OpenRequest(Endpoint.of("http://far.invalid", KEY), proxy=Secret(proxy.url))
        with pytest.raises(ConnectError) as caught:
            await WebSocketTransport().open(request)
    assert caught.value.status == 502
    assert "far.invalid" in proxy.heads[0].splitlines()[0]


@pytest.mark.parametrize(
    ("date", "ahead"),
    [
        ("Tue, 24 Nov 2026 12:00:30 GMT", datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC)),
        ("Mon, 01 Jan 2001 00:00:00 GMT", datetime(2001, 1, 1, tzinfo=UTC)),
        ("soon", None),
        ("", None),
    ],
)
async def test_the_clock_offset_comes_from_the_date_header(date: str, ahead: datetime | None):
    """`clock_offset` is how far the server's clock is ahead; None without a valid Date header."""
    async with Misbehaver(lambda wire: wire.upgrade(f"Date: {date}")) as server:
        before = time.time()
        connection = await WebSocketTransport().open(OpenRequest(Endpoint.of(server.url, KEY)))
        after = time.time()
        if ahead is None:
            assert connection.clock_offset is None
        else:
            assert connection.clock_offset is not None
            assert ahead.timestamp() - after <= connection.clock_offset <= ahead.timestamp() - before
        connection.abort()
        await connection.run(_NoSink())


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
    """Retry-After is parsed in both of its forms; an invalid one is treated as missing."""
    assert parse_retry_after(header, datetime(2026, 11, 24, 12, tzinfo=UTC)) == seconds
