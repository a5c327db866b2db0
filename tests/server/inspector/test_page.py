"""The inspector in a browser."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from supawire import AsyncClient, LocalServer, broadcast, changes, connect_async, presence

from .browser import Page, chromium

pytestmark = [pytest.mark.slow, pytest.mark.needs("chromium"), pytest.mark.timeout(180)]

ROWS = "[...document.querySelectorAll('#frames tbody tr.frame')].map((row) => row.cells[4].innerText)"


@pytest.fixture
def program(require: Callable[[str], str]) -> str:
    return require("chromium")


@asynccontextmanager
async def inspecting(program: str, folder: Path) -> AsyncGenerator[tuple[LocalServer, AsyncClient, Page]]:
    """Run a server, a client of it, and a browser with its inspector."""
    async with (
        LocalServer(inspector=True) as server,
        connect_async(server.url, server.token()) as client,
        chromium(program, folder) as page,
    ):
        await page.open(server.url)
        await page.shows("#link", "live")
        yield server, client, page


async def test_the_page_shows_connections_frames_and_changes(program: str, tmp_path: Path):
    """They appear without a reload, as text, and can be filtered and paused."""
    async with inspecting(program, tmp_path) as (server, client, page):
        room = client.channel("room:lobby", presence_key="alice", ack=True)
        room.on(presence(), lambda _: None)
        room.on(changes("users"), lambda _: None)
        await room.subscribe(wait="ready")
        await room.track({"mood": "<b>fine</b>"})
        await page.shows("#connections", "#1")
        await page.shows("#connections", "* public.users")
        await page.shows("#channels", '{"mood":"<b>fine</b>"}')

        await room.broadcast("typing", {"text": "<img src=x onerror=alert(1)>"})
        await page.shows("#frames", "typing")
        assert await page.run("document.querySelectorAll('img').length") == 0
        server.emit("INSERT", "users", record={"id": 7, "name": "Ada"})
        await page.shows("#changes", '{"id":7,"name":"Ada"}')

        await page.focus("#filter [name=text]")
        await page.type("typing")
        assert set(await page.run(ROWS)) == {"typing broadcast"}
        await page.run("document.querySelector('#frames tbody button').focus()")
        await page.press("Enter", 13)
        await page.shows("tr.more pre", "onerror=alert")

        await page.click("#pause")
        await page.shows("#link", "paused")
        server.broadcast("room:lobby", "typing-unseen", {})
        await page.click("#pause")
        await page.shows("#link", "live")
        await room.broadcast("typing-again", {})
        await page.until(f"{ROWS}.some((event) => event.startsWith('typing-again'))")
        assert not any("unseen" in event for event in await page.run(ROWS))
        assert page.complaints == []


async def test_the_forms_of_the_page_work(program: str, tmp_path: Path):
    """They publish and change rows, invalid JSON is reported at once, and keys are shown after a click only."""
    async with inspecting(program, tmp_path) as (server, client, page):
        news = client.channel("room").listen(broadcast(), changes("users"))
        await client.channel("room").subscribe(wait="ready")
        for name, text in (("topic", "room"), ("event", "said"), ("payload", '{"n": 1')):
            await page.focus(f"#broadcast [name={name}]")
            await page.type(text)
        await page.click("#broadcast button")
        await page.shows("#broadcast output", "not JSON")
        await page.focus("#broadcast [name=payload]")
        await page.type('{"n": 1}')
        await page.press("Tab", 9)
        await page.press("Tab", 9)
        await page.press("Enter", 13)  # on the button, by keyboard alone
        await page.shows("#broadcast output", "sent")
        message = await anext(news)
        assert (message.event, message.payload) == ("said", {"n": 1})  # pyright: ignore[reportAttributeAccessIssue]

        await page.click("#rows summary")
        await page.focus("#emit [name=table]")
        await page.type("users")
        await page.click("#emit button")
        await page.shows("#emit output", "emitted")
        assert (await anext(news)).record == {"id": 1}  # pyright: ignore[reportAttributeAccessIssue]

        assert "eyJ" not in await page.run("document.documentElement.outerHTML")
        await page.click("#show-keys")
        await page.until("!document.querySelector('#keys').hidden")
        key = await page.run("[...document.querySelectorAll('#keys code')].at(-1).innerText")
        async with connect_async(server.url, key) as other:
            await other.channel("room", private=True).subscribe()
        await page.click("#show-keys")
        assert "eyJ" not in await page.run("document.documentElement.outerHTML")
        assert page.complaints == []


async def test_the_page_is_accessible(program: str, tmp_path: Path):
    """Each control has a name, contrast is sufficient in light and dark mode, and a narrow page does not scroll
    sideways.
    """
    async with inspecting(program, tmp_path) as (server, client, page):
        await client.channel("a-rather-long-topic:with-parts:and-more-of-them").subscribe()
        server.emit("DELETE", "a_table_with_a_long_name_that_goes_on", old_record={"id": 1})
        await page.shows("#changes", "DELETE")
        controls = {"button", "textbox", "searchbox", "combobox", "checkbox", "DisclosureTriangle"}
        assert [role for role, name in await page.nodes() if role in controls and not name] == []
        for width in (390, 700, 1440):
            for dark in (False, True):
                await page.picture(width=width, height=900, dark=dark)
                assert await page.run("document.documentElement.scrollWidth <= innerWidth"), width
                assert await page.run(CONTRAST) == []


ATTEMPTS = (
    """(url) => new Promise((done) => {
        const it = new WebSocket(`${url.replace("http", "ws")}/inspector/live`);
        it.onopen = () => done("in");
        it.onerror = () => done("out");
    })""",
    """(url) => new Promise((done) => {
        const it = document.createElement("script");
        it.onload = () => done("in");
        it.onerror = () => done("out");
        it.src = `${url}/inspector/draw.js`;
        document.head.append(it);
    })""",
    """(url) => fetch(url).then(() => "in", () => "out")""",
    """(url) => fetch(url, { mode: "no-cors" }).then(() => "in", () => "out")""",
)


async def test_a_page_of_another_origin_is_refused_by_the_browser(program: str, tmp_path: Path):
    """A page of another port gets neither files nor the WebSocket, and a rebound name is refused."""
    rebind = "--host-resolver-rules=MAP attacker.test 127.0.0.1"
    async with (
        LocalServer(inspector=True) as server,
        LocalServer() as other,
        chromium(program, tmp_path, rebind) as page,
    ):
        await page.open(f"{other.url}/healthcheck")
        assert await page.text("body") == "ok"
        for attempt in ATTEMPTS:
            assert await page.run(f"({attempt})('{server.url}')") == "out", attempt
        await page.open(server.url.replace("127.0.0.1", "attacker.test"))
        assert "open the inspector as http://127.0.0.1" in await page.text("body")


CONTRAST = """
(() => {
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const light = (color) => {
    paint.fillStyle = color;
    paint.fillRect(0, 0, 1, 1);
    const parts = [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255);
    const [red, green, blue] = parts.map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (color !== "rgba(0, 0, 0, 0)") return color;
    }
  };
  const bad = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest(".hidden, .skip, noscript, option")) continue;
    const [one, two] = [light(getComputedStyle(node).color), light(ground(node))].sort((a, b) => b - a);
    if ((one + 0.05) / (two + 0.05) < 4.5) bad.push(node.outerHTML.slice(0, 80));
  }
  return bad;
})()
"""
