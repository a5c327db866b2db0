"""The relay under uvicorn, in a real browser and under load."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route

from supawire import LocalServer, broadcast, connect_async
from supawire.asgi import Relay, View
from tests.server.inspector.browser import chromium

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

PAGE = """<!doctype html><title>relay</title><link rel="icon" href="data:,">
<pre id="sse"></pre><pre id="ws"></pre><script>
const show = (place, text) => document.querySelector(place).append(text + "\\n")
const source = new EventSource("/live/")
source.addEventListener("broadcast", (message) => show("#sse", JSON.parse(message.data).payload))
source.addEventListener("gap", (message) => show("#sse", "gap"))
source.onopen = () => show("#sse", "open")

let lastId = ""
function connect() {
    const socket = new WebSocket(`ws://${location.host}/live/?last_event_id=${lastId}`)
    socket.onmessage = (message) => {
        const {event, id, data} = JSON.parse(message.data)
        lastId = id || lastId
        if (event === "ready") show("#ws", "open")
        if (event === "broadcast") show("#ws", data.payload)
        if (event === "gap") show("#ws", "gap")
    }
    socket.onclose = () => setTimeout(connect, 200)
}
connect()
</script>"""


class Proxy:
    """Passes bytes on to a port that may change, and can cut all connections."""

    def __init__(self) -> None:
        self.target = 0
        self.port = 0
        self.accepts = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on one connection."""
        await self.accepts.wait()
        try:
            theirs, ours = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, ours}
        await asyncio.gather(self._copy(reader, ours), self._copy(theirs, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    def cut(self) -> None:
        """Cut all connections, and keep new ones waiting until `accepts` is set."""
        self.accepts.clear()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


@asynccontextmanager
async def proxy() -> AsyncGenerator[Proxy]:
    made = Proxy()
    server = await asyncio.start_server(made.handle, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    made.accepts.set()
    try:
        yield made
    finally:
        made.cut()
        server.close()


@asynccontextmanager
async def site(server: LocalServer, through: Proxy) -> AsyncGenerator[Relay]:
    """Run page and relay under uvicorn, behind the proxy."""

    async def page(_: Request) -> HTMLResponse:
        return HTMLResponse(PAGE)

    view = View("room", broadcast())
    relay = Relay(lambda: connect_async(server.url, server.anon_key), lambda _: view, retry=0.2)
    app = Starlette(routes=[Route("/", page), Mount("/live", relay)], lifespan=relay.lifespan)
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical"))
    task = asyncio.ensure_future(running.serve())
    while not running.started:  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.01)
    through.target = running.servers[0].sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        running.should_exit = True
        relay._end_viewers()  # as a signal does
        await asyncio.wait_for(task, 20)


@pytest.mark.needs("chromium")
async def test_a_page_comes_back_with_its_last_id(require: Callable[[str], str], tmp_path: Path):
    """EventSource and WebSocket receive what they missed while cut off; after a restart of the server, a gap."""
    async with LocalServer() as server, proxy() as through, chromium(require("chromium"), tmp_path) as page:

        async def both(*lines: str) -> None:
            for place in ("#sse", "#ws"):
                await page.shows(place, "\n".join(lines))

        async with site(server, through) as relay:
            await page.open(f"http://127.0.0.1:{through.port}/")
            await both("open")
            server.broadcast("room", "m", "one")
            await both("open", "one")
            through.cut()
            while relay.stats().viewers:  # noqa: ASYNC110  the browser's connections end
                await asyncio.sleep(0.01)
            sees = relay.stats().delivered
            server.broadcast("room", "m", "two")
            through.accepts.set()
            await page.shows("#sse", "open\none\nopen\ntwo")
            await page.shows("#ws", "open\none\ntwo\nopen")
            assert relay.stats().replayed == 2 and relay.stats().delivered == sees
        async with site(server, through):
            await page.shows("#sse", "two\nopen\ngap")
            await page.shows("#ws", "open\ngap\nopen")
            server.broadcast("room", "m", "three")
            await both("three")


async def test_the_load_program_loses_nothing(capsys: Any):
    """With a few dozen browsers in another process every message arrives at each that reads."""
    pytest.importorskip("resource")  # limits of open files, on Unix
    from benchmarks.relay import main

    (found,) = await main(["--browsers", "40", "--deliveries", "800", "--seconds", "1", "--processes", "1"])
    assert found["received"] == found["expected"] > 0 and found["cut"] == found["lost"] == 0
    assert "| 40 |" in capsys.readouterr().out
