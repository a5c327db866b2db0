"""`supawire/browser/streams.js`: live streams read with supabase-js, in node and in a real browser."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from supawire import AsyncChannel, Backoff, LocalServer, connect_async
from supawire.browser import STREAMS
from tests.server.inspector.browser import chromium

from .official import PEERS

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
PAGE = """<!doctype html><meta charset="utf-8"><title>streams</title>
<link rel="icon" href="data:,">
<pre id="text"></pre><p id="status"></p>
<script src="/supabase.js"></script>
<script type="module">
import { readStreams } from "/streams.js"
const client = supabase.createClient(%(url)s, %(key)s)
const streams = readStreams(client.channel("room"), {
  id: "answer",
  load: async () => (location.hash ? null : { text: "stored", status: "complete" }),
  onUpdate: (stream) => { document.querySelector("#text").textContent = stream.text },
  onEnd: (stream) => { document.querySelector("#status").textContent = stream.status },
})
streams.subscribe()
window.cancel = () => streams.cancel("answer")
</script>"""


async def words(count: int, pause: float = 0.01) -> AsyncIterator[str]:
    for number in range(count):
        yield f"wörd{number} "
        await asyncio.sleep(pause)


def text_of(count: int) -> str:
    return "".join(f"wörd{number} " for number in range(count))


@asynccontextmanager
async def producer() -> AsyncGenerator[tuple[LocalServer, AsyncChannel]]:
    async with (
        LocalServer() as server,
        connect_async(server.url, server.anon_key, backoff=Backoff(0.1)) as client,
        client.channel("room", ack=True) as room,
    ):
        yield server, room


@asynccontextmanager
async def site(server: LocalServer) -> AsyncGenerator[str]:
    """Serve the page, the module and supabase-js; yield the URL."""
    page = PAGE % {"url": json.dumps(server.url), "key": json.dumps(server.anon_key)}

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=page, content_type="text/html")

    def file(path: Path) -> Callable[[web.Request], Any]:
        script = path.read_text(encoding="utf-8")

        async def answer_file(_: web.Request) -> web.Response:
            return web.Response(text=script, content_type="text/javascript")

        return answer_file

    app = web.Application()
    library = PEERS / "node_modules/@supabase/supabase-js/dist/umd/supabase.js"
    app.add_routes(
        [web.get("/", answer), web.get("/streams.js", file(STREAMS)), web.get("/supabase.js", file(library))]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        where = web.TCPSite(runner, "127.0.0.1", 0)
        await where.start()
        port = runner.addresses[0][1]
        yield f"http://127.0.0.1:{port}/"
    finally:
        await runner.cleanup()


def test_the_module_is_short():
    """The module has at most 100 lines, so that it can be read and copied."""
    assert len(STREAMS.read_text(encoding="utf-8").splitlines()) <= 100


@pytest.mark.needs("node", "supabase-js")
async def test_supabase_js_reads_text_bytes_and_json(require: Callable[[str], str]):
    """With supabase-js in node, each kind of stream arrives as it was sent, and readers can cancel one."""
    async with producer() as (server, room):
        process = await asyncio.create_subprocess_exec(
            require("node"), str(PEERS / "streams.mjs"), server.url, server.anon_key, STREAMS.as_uri(), cwd=PEERS,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        out = process.stdout

        async def printed() -> dict[str, Any]:
            return json.loads(await asyncio.wait_for(out.readline(), 30))

        assert await printed() == {"subscribed": "SUBSCRIBED"}
        sent = await room.stream(words(100), info={"model": "m"})
        got = await printed()
        assert (got["id"], got["status"], got["text"], got["info"]) == (
            sent.id,
            "complete",
            text_of(100),
            {"model": "m"},
        )
        assert got["updates"] <= sent.messages
        await room.stream([b"\x00\xff", b"\x01"])
        assert (await printed())["bytes"] == [0, 255, 1]
        await room.stream([{"a": 1}, "ü\n", [None]], kind="json")
        assert (await printed())["values"] == [{"a": 1}, "ü\n", [None]]
        await room.stream(["\ufeffa", "\ufeffb"])
        assert (await printed())["text"] == "\ufeffa\ufeffb"
        for name, kind, text in (
            ("bad-json", "json", "{bad\n"),
            ("bad-bytes", "bytes", "!!!"),
            ("huge", "text", "x" * 100_001),
        ):
            segment = {"id": name, "run": "r", "seq": 1, "at": 0, "kind": kind, "text": text}
            await room.broadcast("stream", segment)
            got = await printed()
            assert (got["id"], got["status"]) == (name, "too_large" if name == "huge" else "corrupt")
        async with room.stream(id="long") as stream:
            await stream.write("a word")
            process.stdin.write(json.dumps(["cancel", "long"]).encode() + b"\n")
            async for word in words(100_000):
                await stream.write(word)  # raises when the request has come
        assert stream.status == (await printed())["status"] == "cancelled"
        process.stdin.write(b'["close"]\n')
        assert await asyncio.wait_for(process.wait(), 30) == 0


@pytest.mark.needs("chromium", "supabase-js")
async def test_a_page_shows_a_stream_over_reloads_and_lost_connections(require: Callable[[str], str], tmp_path: Path):
    """In a browser the whole text is shown after a reload in the middle and after a lost connection."""
    async with producer() as (server, room), site(server) as url, chromium(require("chromium"), tmp_path) as page:
        await page.open(url + "#live")
        async with room.stream(id="answer") as out:
            for number in range(60):
                await out.write(f"wörd{number} ")
                await asyncio.sleep(0.01)
            await page.shows("#text", "wörd59")
            await page.open(url + "?again#live")  # a reload: the page asks for the text so far
            await page.shows("#text", text_of(60).strip())
            server.drop_connections()
            for number in range(60, 100):
                await out.write(f"wörd{number} ")
                await asyncio.sleep(0.01)
        await page.shows("#status", "complete")
        assert (await page.text("#text")).strip() == text_of(100).strip()
        assert page.complaints == []


@pytest.mark.needs("chromium", "supabase-js")
async def test_a_page_shows_a_stored_stream(require: Callable[[str], str], tmp_path: Path):
    """When no producer answers, the page shows what `load` returns."""
    async with LocalServer() as server, site(server) as url, chromium(require("chromium"), tmp_path) as page:
        await page.open(url)
        await page.shows("#status", "complete")
        assert await page.text("#text") == "stored"


@pytest.mark.needs("chromium", "supabase-js")
async def test_a_page_cancels_the_producer(require: Callable[[str], str], tmp_path: Path):
    """`cancel` in the page stops the producer, and the page sees the end."""
    async with producer() as (server, room), site(server) as url, chromium(require("chromium"), tmp_path) as page:
        await page.open(url + "#live")
        sending = asyncio.ensure_future(_send(room))
        await page.shows("#text", "wörd5")
        await page.run("cancel()")
        assert await asyncio.wait_for(sending, 30) == "cancelled"
        await page.shows("#status", "cancelled")


async def _send(room: AsyncChannel) -> str:
    return (await room.stream(words(100_000), id="answer")).status
