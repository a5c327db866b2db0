"""Tests of connections through a SOCKS proxy, which need the extra `socks`."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from urllib.parse import urlsplit

import pytest

from supawire import LocalServer, broadcast, connect_async
from supawire.errors import ConnectError, HttpError
from supawire.options import Endpoint, Secret
from supawire.transport import OpenRequest
from supawire.transport.base import HttpRequest
from supawire.transport.pooled import PooledHttp
from supawire.transport.websocket import WebSocketTransport
from tests.faults.misbehaver import Misbehaver, Wire
from tests.faults.steps import at_once

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(find_spec("aiohttp_socks") is None, reason="needs aiohttp-socks")]

SECRET = "a-unique-key"


class Proxy:
    """A SOCKS 5 proxy without passwords that resolves every name to 127.0.0.1."""

    def __init__(self) -> None:
        self.destinations: list[tuple[str, int]] = []

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _version, methods = await reader.readexactly(2)
        await reader.readexactly(methods)
        writer.write(b"\x05\x00")
        _version, _connect, _reserved, kind = await reader.readexactly(4)
        size = 4 if kind == 1 else (await reader.readexactly(1))[0]
        raw = await reader.readexactly(size)
        host = ".".join(map(str, raw)) if kind == 1 else raw.decode()
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.destinations.append((host, port))
        there, back = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
        await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
    except ConnectionError:  # one side is closed, so the other is closed too
        pass
    writer.close()


@pytest.mark.parametrize(
    ("scheme", "name"), [("socks5", "127.0.0.1"), ("socks5h", "localhost")], ids=["looked up here", "looked up there"]
)
async def test_all_traffic_goes_through_the_proxy(scheme: str, name: str):
    """WebSocket and HTTP use the proxy; with `socks5h` the proxy resolves the host name."""
    proxy = Proxy()
    async with LocalServer() as server, proxy.running() as at:
        port = urlsplit(server.url).port
        url = f"http://{name}:{port}"
        async with connect_async(url, server.anon_key, proxy=f"{scheme}://{at}") as client:
            room = client.channel("room", echo=True)
            received = room.listen(broadcast())
            await room.subscribe()
            await room.broadcast("by the socket", {})
            assert (await anext(received)).event == "by the socket"
            assert (await client.publish("room", "by HTTP", {})).acked
        assert proxy.destinations == [(name, port)] * 2


@pytest.mark.parametrize("answer", [b"\x05\xff", b"", b"\x04\x04", b"\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"])
async def test_a_refusing_proxy_is_a_network_error(answer: bytes, caplog: pytest.LogCaptureFixture):
    """Whatever a SOCKS proxy answers, opening and publishing raise their own errors; `on_error` is not called."""

    async def refuse(wire: Wire) -> None:
        await wire.read(3)
        wire.write(answer)
        wire.hang_up()

    errors: list[Exception] = []
    async with Misbehaver(refuse) as server:
        at = f"socks5://ada:hidden@127.0.0.1:{server.port}"
        with pytest.raises(ConnectError, match="no connection within") as caught:
            await connect_async(
                "http://127.0.0.1:9", "key", proxy=at, open_timeout=0.2, backoff=at_once, on_error=errors.append
            )
        http = PooledHttp()
        request = HttpRequest("http://127.0.0.1:9/x", b"{}", proxy=Secret(at))
        with pytest.raises(HttpError, match="the HTTP request got no response") as failed:
            await http.request(request)
        await http.close()
    assert errors == []
    assert "hidden" not in caplog.text + str(caught.value) + str(failed.value)


async def refuse_host(wire: Wire) -> None:
    """Accept the client, and refuse the connection to the host."""
    await wire.read(3)
    wire.write(b"\x05\x00")
    await wire.read(4)
    wire.write(b"\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00")
    wire.hang_up()


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "refuses"])
async def test_a_failing_proxy_raises_an_error_of_the_connection(stopped: bool):
    """WebSocket and HTTP raise their errors; no frame of the traceback contains the key, which some tools print."""
    async with Misbehaver(refuse_host) as server:
        if stopped:
            await server.leave()
        proxy = Secret(f"socks5://127.0.0.1:{server.port}")
        with pytest.raises(ConnectError) as opening:
            await WebSocketTransport().open(OpenRequest(Endpoint.of("http://127.0.0.1:9", SECRET), proxy=proxy))
        http = PooledHttp()
        with pytest.raises(HttpError) as requesting:
            await http.request(HttpRequest("http://127.0.0.1:9/x", secrets={"apikey": Secret(SECRET)}, proxy=proxy))
        await http.close()
    for caught in (opening, requesting):
        assert SECRET not in str(caught.value) and caught.value.__context__ is None
        frame = caught.value.__traceback__
        while frame is not None:
            if "/transport/" in frame.tb_frame.f_code.co_filename.replace("tests/transport", ""):
                assert SECRET not in repr(frame.tb_frame.f_locals)
            frame = frame.tb_next
