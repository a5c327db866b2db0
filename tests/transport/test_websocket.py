"""Tests of the WebSocket transport on the wire, in addition to the contract."""

import asyncio
import importlib.util
import ssl
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from aiohttp import ClientConnectorError, TCPConnector

from supawire.errors import ConnectError, InvalidArgumentError
from supawire.options import Endpoint, Secret
from supawire.transport import OpenRequest, websocket
from supawire.transport._connection import WebSocketConnection, frame_queue
from supawire.transport.base import parse_retry_after
from supawire.transport.websocket import WebSocketTransport
from tests.faults.misbehaver import PING, PONG, Misbehaver, Wire
from tests.transport.pausing import flood, pause_and_resume
from tests.transport.rigs import KEY, WEBSOCKET_RIGS, Collector, WebSocketRig, certified, line, websocket_rig

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


@pytest.fixture(params=["websocket", "websocket by receive()", "websocket in a task", "fast", "fast TLS"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[WebSocketRig]:
    async with WEBSOCKET_RIGS[request.param]() as rig:
        yield rig


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


@pytest.mark.parametrize("fast", [False, True])
async def test_the_body_of_a_refusal_may_come_after_its_head(fast: bool):
    """The error has the body, although gateways send it in a packet of its own."""

    async def serve(wire: Wire) -> None:
        await wire.request()
        wire.write(b"HTTP/1.1 429 No\r\nContent-Length: 8\r\nRetry-After: 7\r\n\r\n")
        await asyncio.sleep(0.02)  # a packet of its own
        wire.write(b"too many")

    if fast:
        pytest.importorskip("aiofastnet")
    async with Misbehaver(serve) as server:
        error = await refusal(server, fast=fast)
    assert (error.status, error.body, error.retry_after) == (429, "too many", 7.0)


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


async def test_pings_are_answered_and_hidden(rig: WebSocketRig):
    """Pings of the server are answered and not passed to the sink."""
    async with line(rig) as it:
        wire = rig.server.wire
        wire.send(b"there?", PING)
        assert await wire.read_frame() == (PONG, b"there?")
        await it.peer.send(b"[]")
        assert await it.sink.has(1) == [(b"[]", False)]


async def test_of_waiting_pongs_only_the_newest_is_kept(rig: WebSocketRig):
    """The memory stays bounded if a peer sends pings and never reads; RFC 6455 requires a pong for the newest ping."""
    async with line(rig) as it:
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


async def test_a_frame_of_eight_megabytes_is_received(rig: WebSocketRig):
    """Frames of 8 MB are received."""
    async with line(rig) as it:
        await it.peer.send(bytes(8_000_000), True)
        assert len((await it.sink.has(1))[0][0]) == 8_000_000


async def test_a_frame_over_the_limit_ends_the_connection(rig: WebSocketRig):
    """A frame that is longer than allowed ends the connection, and the text of the end states the reason."""
    async with line(rig) as it:
        wire = rig.server.wire
        wire.write(b"\x82\x7f" + (16_000_001).to_bytes(8))
        wire.write(bytes(16_000_001))  # newer aiohttp ends it at the header, older ones at the end
        end = await it.run
        assert end.code is None
        assert "violated the WebSocket protocol" in end.text


async def test_a_frame_may_come_in_fragments(rig: WebSocketRig):
    """The sink receives the fragments as one frame."""
    async with line(rig) as it:
        rig.server.wire.write(b"\x01\x02he" + b"\x80\x03llo")
        assert await it.sink.has(1) == [(b"hello", False)]


# --- other versions of aiohttp


async def _awaits() -> None: ...


@pytest.mark.parametrize(
    "socket",
    [
        SimpleNamespace(),
        SimpleNamespace(_reader=SimpleNamespace(read=_awaits)),
        SimpleNamespace(_reader=SimpleNamespace(_buffer=deque[Any]())),
        SimpleNamespace(_reader=SimpleNamespace(read=_awaits, _buffer=[])),
        SimpleNamespace(_reader=SimpleNamespace(read=lambda: None, _buffer=deque[Any]())),
    ],
)
def test_a_queue_of_another_form_is_not_used(socket: Any):
    """The queue of aiohttp's parser is read only if it has the expected form."""
    assert frame_queue(socket) is None


async def test_the_queue_of_this_aiohttp_is_used():
    """With the tested versions of aiohttp, frames are taken from the queue of its parser."""
    async with websocket_rig() as rig, line(rig) as it:
        await it.peer.send(b"[]")
        await it.sink.has(1)
        assert isinstance(it.connection, WebSocketConnection)
        assert frame_queue(it.connection._socket) is not None


class _OtherQueue:
    """A queue of frames of an aiohttp that only has the method that its `receive()` calls."""

    def __init__(self, reader: Any) -> None:
        self.read = reader.read


async def test_frames_arrive_although_the_protocol_has_another_form():
    """A protocol that is not called by `data_received` is not wrapped, and frames are received in the task of `run`."""
    async with websocket_rig() as rig:
        connection, peer = await asyncio.gather(rig.transport.open(rig.request()), rig.accept())
        assert isinstance(connection, WebSocketConnection)
        connection._protocol = asyncio.BufferedProtocol()
        sink = Collector()
        run = asyncio.create_task(connection.run(sink))
        await peer.send(b"[]")
        assert await sink.has(1) == [(b"[]", False)]
        await peer.close(1000)
        assert (await run).code == 1000


async def test_frames_arrive_although_the_queue_has_another_form():
    """Without the expected queue, frames are received by the public `receive()`, and batches still end."""
    async with websocket_rig() as rig:
        connection, peer = await asyncio.gather(rig.transport.open(rig.request()), rig.accept())
        assert isinstance(connection, WebSocketConnection)
        socket: Any = connection._socket
        socket._reader = _OtherQueue(socket._reader)
        sink = Collector()
        run = asyncio.create_task(connection.run(sink))
        for number in range(3):
            await peer.send(b"%d" % number)
        assert await sink.has(3) == [(b"0", False), (b"1", False), (b"2", False)]
        await asyncio.sleep(0)
        assert sink.batches[-1] == 3
        await peer.close(1000)
        assert (await run).code == 1000


# --- connections of aiofastnet


async def test_a_connection_tells_what_carries_it():
    """`name` has the packages with their versions, and aiofastnet only where it carries the connection."""
    pytest.importorskip("aiofastnet")
    for fast in (False, True):
        async with websocket_rig(fast=fast) as rig:
            connection = await rig.transport.open(rig.request())
            assert isinstance(connection, WebSocketConnection)
            assert connection.name.startswith("aiohttp 3.")
            assert ("aiofastnet" in connection.name) == fast
            connection.abort()
            await connection.run(_NoSink())


@pytest.mark.parametrize("setting", ["", "0", "1", "yes"])
def test_an_environment_variable_switches_aiofastnet_off(setting: str, monkeypatch: pytest.MonkeyPatch):
    """SUPAWIRE_FAST=0 applies where `fast=` is not given; values other than 0 and 1 are refused."""
    pytest.importorskip("aiofastnet")
    monkeypatch.setenv("SUPAWIRE_FAST", setting)
    if setting in ("0", "1"):
        assert WebSocketTransport()._fast == (setting == "1")
        assert WebSocketTransport(fast=True)._fast
        assert not WebSocketTransport(fast=False)._fast
    else:
        with pytest.raises(InvalidArgumentError, match="SUPAWIRE_FAST must be 0 or 1"):
            WebSocketTransport()


@pytest.mark.parametrize("fast", [0, "0", "off"])
def test_fast_is_true_false_or_none(fast: Any):
    """Other values are refused at once: most of them would switch on what was to be switched off."""
    with pytest.raises(InvalidArgumentError, match="fast must be True or False"):
        WebSocketTransport(fast=fast)


def test_fast_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    """`fast=True` without aiofastnet is refused with the command that installs it; the default needs nothing."""
    monkeypatch.setenv("SUPAWIRE_FAST", "1")
    monkeypatch.setitem(sys.modules, "aiofastnet", None)  # which makes its import fail
    with pytest.raises(InvalidArgumentError, match=r"supawire\[fast\]"):
        WebSocketTransport(fast=True)
    assert not WebSocketTransport()._fast


@pytest.mark.parametrize("error", [AttributeError, TypeError, None])
async def test_an_aiohttp_that_connects_in_another_way_still_connects(
    error: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
):
    """Where aiofastnet cannot be put under aiohttp, the event loop opens the connection."""
    pytest.importorskip("aiofastnet")
    opens: Any = vars(TCPConnector)["_wrap_create_connection"]

    async def other(self: Any, *args: Any, **options: Any) -> Any:
        if error is None:
            return await opens(SimpleConnector(self), *args, **options)
        if not isinstance(self, TCPConnector):
            raise error
        return await opens(self, *args, **options)

    monkeypatch.setattr(TCPConnector, "_wrap_create_connection", other)
    async with websocket_rig(fast=True) as rig, line(rig) as it:
        await it.peer.send(b"[]")
        assert await it.sink.has(1) == [(b"[]", False)]
        assert isinstance(it.connection, WebSocketConnection)
        assert "aiofastnet" not in it.connection.name


class SimpleConnector:
    """A connector that uses the running event loop, not the one it was given."""

    def __init__(self, connector: Any) -> None:
        self._connector = connector
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connector, name)


@pytest.mark.parametrize("fast", [False, True])
async def test_the_error_of_a_bad_certificate_has_the_reason(fast: bool):
    """The error says what is wrong with the certificate, also where aiofastnet has checked it."""
    if fast:
        pytest.importorskip("aiofastnet")
    async with Misbehaver(Wire.upgrade, tls=certified().server) as server:
        request = OpenRequest(Endpoint.of(server.url, KEY), ssl=ssl.create_default_context())
        with pytest.raises(ConnectError, match=r"CERTIFICATE_VERIFY_FAILED.* certificate"):
            await WebSocketTransport(fast=fast).open(request)


async def test_the_error_of_a_failed_connection_is_never_without_a_reason():
    """An error of the network without text, as aiofastnet raises them with uvloop, is named by its class."""
    request = OpenRequest(Endpoint.of("http://127.0.0.1:1", KEY))
    key: Any = SimpleNamespace(host="127.0.0.1", port=1, ssl=True)
    failure = websocket._failure(ClientConnectorError(key, ConnectionResetError()), request)
    assert str(failure).startswith("127.0.0.1:1 cannot be reached: ConnectionResetError")


@pytest.mark.parametrize("fast", [False, True])
async def test_reading_never_stalls_after_a_pause(fast: bool):
    """Over TLS, frames arrive after each of a hundred pauses; `tests.transport.pausing` makes ten thousand."""
    if fast:
        pytest.importorskip("aiofastnet")
    tls = certified()
    async with Misbehaver(flood, tls=tls.server) as server:
        request = OpenRequest(Endpoint.of(server.url, KEY), ssl=tls.client)
        connection = await WebSocketTransport(fast=fast).open(request)
        numbers = await pause_and_resume(connection, 100, seed=1)
    assert numbers.next >= 100


# --- proxies


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
