"""The inspector in a browser."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from supawire import (
    AsyncClient,
    AsyncStream,
    ConnectError,
    ConnectionState,
    JoinError,
    LocalServer,
    OperationTimeout,
    Status,
    broadcast,
    changes,
    connect_async,
    presence,
)
from supawire.server.inspector.fault_buttons import FAULTS

from .browser import Page, chromium
from .test_export import run_as_test

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


async def test_history_and_errors_are_shown(program: str, tmp_path: Path):
    """A page shows what happened before it was opened; errors are red, and can be shown alone."""
    async with LocalServer(inspector=True) as server:
        with pytest.raises(ConnectError):
            await connect_async(server.url, "sb_wrong_key", open_timeout=0.05)
        async with connect_async(server.url, server.anon_key) as client:
            await client.channel("open").subscribe()
            with pytest.raises(JoinError):
                await client.channel("closed", private=True).subscribe()
            async with chromium(program, tmp_path) as page:
                await page.open(server.url)
                await page.shows("#frames", "Unauthorized")
                events = await page.run(ROWS)
                assert events[0] == "refused with 401" and "connected" in events and "phx_join" in events
                red = "[...document.querySelectorAll('tr.frame.bad')].map((row) => row.cells[5].innerText)"
                first, second = await page.run(red)
                assert "JWT" in first and "Unauthorized" in second
                colors = await page.run(
                    "['tr.frame.bad td', 'tr.frame:not(.bad) td:nth-child(4)']"
                    ".map((it) => getComputedStyle(document.querySelector(it)).color)"
                )
                assert colors[0] != colors[1]
                await page.click("#filter [name=bad]")
                await page.until(f"{ROWS}.length === 2")
                assert page.complaints == []


def value_of(fault: str, field: str, value: str) -> str:
    """Return a script that fills a field of a fault."""
    return f"document.querySelector('[data-fault={fault}]').elements['{field}'].value = {json.dumps(value)}"


async def reached(states: AsyncStream[Any], state: ConnectionState) -> None:
    """Wait until the connection has this state."""
    async with asyncio.timeout(30):
        async for event in states:
            if isinstance(event, Status) and event.topic is None and event.state is state:
                return


async def test_each_fault_has_a_button(program: str, tmp_path: Path):
    """A click on each button causes its fault, with its fields, and the page says what is in force."""
    async with inspecting(program, tmp_path) as (_, client, page):
        room = client.channel("room", ack=True)
        states = client.listen()
        await room.subscribe()
        await page.until("document.querySelector('[data-fault=drop_connections] select option[value=\"1\"]') !== null")
        names = await page.run("[...document.querySelectorAll('[data-fault]')].map((form) => form.dataset.fault)")
        assert names == [button.name for button in FAULTS]
        await page.run("document.querySelectorAll('#causes details').forEach((it) => { it.open = true; })")

        async def cause(name: str, **values: str) -> None:
            await page.run("document.querySelector('#causes > output').textContent = ''")
            for field, value in values.items():
                await page.run(value_of(name, field, value))
            await page.click(f"[data-fault={name}] button")
            await page.shows("#causes > output", "done")

        await cause("reject_join", topic="secret", reason="Unauthorized: not today")
        with pytest.raises(JoinError, match="not today"):
            await client.channel("secret").subscribe()
        await page.shows("#faults", "joins of secret refused")
        await cause("drop_reply", event="broadcast", times="1")
        with pytest.raises(OperationTimeout):
            await room.broadcast("lost", {}, timeout=0.2)
        await cause("lag", seconds="0.01", connection="1")
        await cause("delay_replies", seconds="0.01")
        await cause("delay_join", seconds="0")
        await page.shows("#faults", "replies delayed by 0.01 s")
        await cause("pause")
        await page.shows("#faults", "paused")
        await cause("resume")
        await cause("reset")
        await page.until("document.querySelector('#faults').hidden")
        await cause("send_system", topic="room", status="ok", message="from the page")
        await page.shows("#frames", "from the page")
        await cause("send_raw", data='[null,null,"realtime:room","raw",{}]')
        await page.until(f"{ROWS}.includes('raw')")
        await cause("close_channel", topic="room")
        await cause("crash_channel", topic="room")
        await cause("expire_tokens", topic="room")
        await cause("refuse_connections", times="", status="503")
        await page.shows("#faults", "connections refused with 503")
        await cause("drop_connections", code="1011", connection="1")
        await reached(states, ConnectionState.RETRYING)
        await page.until(f"{ROWS}.includes('refused with 503')")
        await cause("accept_connections")
        await reached(states, ConnectionState.OPEN)
        await cause("garbage")
        await cause("request_disconnect")
        await page.run(value_of("lag", "seconds", "soon"))
        await page.click("[data-fault=lag] button")
        await page.shows("#causes > output.bad", "seconds must be")
        assert page.complaints == []


async def test_a_message_is_copied_edited_and_sent_again(program: str, tmp_path: Path):
    """The buttons of an open frame copy its payload, send it again, and put it into the form."""
    async with inspecting(program, tmp_path) as (server, client, page):
        origin = {"origin": server.url, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
        await page.call("Browser.grantPermissions", **origin)
        room = client.channel("room", echo=True)
        messages = room.listen(broadcast())
        await room.subscribe()
        long = {"text": "x" * 10_000}
        await room.broadcast("typing", long)
        assert (await anext(messages)).payload == long
        await page.until(f"{ROWS}.filter((event) => event === 'typing broadcast').length === 2")
        await page.run(
            "[...document.querySelectorAll('tr.frame')].filter((row) => row.innerText.includes('typing'))"
            ".forEach((row) => row.querySelector('button').click())"
        )
        await page.click("tr.more [data-act=copy]")
        await page.shows("tr.more output", "copied")
        copied = json.loads(await page.run("navigator.clipboard.readText()"))
        assert long in (copied, copied.get("payload"))
        for more in ("tr.frame:has(td.in) + tr.more", "tr.frame:has(td.out) + tr.more"):
            await page.click(f"{more} [data-act=resend]")
            await page.shows(f"{more} output", "sent again")
            assert (await anext(messages)).payload == long
        await page.click("tr.more [data-act=edit]")
        await page.until("document.activeElement.name === 'payload' && document.activeElement.value.length > 9000")
        await page.type('{"n": 2}')
        await page.run("document.querySelector('#broadcast [name=payload]').value = '{\"n\": 2}'")
        await page.click("#broadcast button")
        message = await anext(messages)
        assert (message.event, message.payload) == ("typing", {"n": 2})
        await client.close()
        await page.shows("#connections", "Nobody is connected.")
        await page.click("tr.more [data-act=resend]")
        await page.shows("tr.more output.bad", "has ended")
        assert page.complaints == []


async def test_exports_are_saved_as_files(program: str, tmp_path: Path):
    """Both buttons save what happened since Clear: the pytest runs, the recording has its header."""
    saved = tmp_path / "saved"
    async with inspecting(program, tmp_path / "profile") as (_, client, page):
        await page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(saved))
        await client.channel("before").subscribe()
        await client.channel("before").unsubscribe()
        await page.until(f"{ROWS}.includes('phx_close')")
        await page.click("#clear")
        room = client.channel("room", echo=True)
        messages = room.listen(broadcast())
        await room.subscribe()
        await room.broadcast("typing", {"user": "alice"})
        await anext(messages)
        await page.until(f"{ROWS}.filter((event) => event === 'typing broadcast').length === 2")
        for form, name in (("pytest", "test_recorded.py"), ("recording", "recording.jsonl")):
            await page.click(f"[data-export={form}]")
            await page.shows("#frames-output", f"saved {name}")
            async with asyncio.timeout(30):
                while not (saved / name).exists():  # noqa: ASYNC110  the browser writes it
                    await asyncio.sleep(0.02)
        assert page.complaints == []
    text = (saved / "test_recorded.py").read_text(encoding="utf-8")
    assert "typing" in text and "before" not in text
    await asyncio.to_thread(run_as_test, text, saved)
    head, *frames = map(json.loads, (saved / "recording.jsonl").read_text(encoding="utf-8").splitlines())
    assert head["version"] == 1 and len(frames) >= 4


async def test_the_sql_box_shows_rows_and_errors(program: str, tmp_path: Path):
    """Ctrl+Enter and the button run SQL; rows are a table, and an error is shown as PostgreSQL says it."""
    pytest.importorskip("psycopg")
    async with LocalServer(inspector=True, postgres=True) as server, chromium(program, tmp_path) as page:
        await page.open(server.url)
        await page.shows("#link", "live")
        await page.until("!document.querySelector('#database').hidden")
        assert await page.run("document.querySelector('#rows').hidden")

        async def run(statement: str, *, keys: bool = False) -> None:
            await page.focus("#sql textarea")
            await page.type(statement)
            if keys:
                await page.press("Enter", 13, modifiers=2)
            else:
                await page.click("#sql button")

        await run("select n, 'row ' || n as name, null as nothing from generate_series(1, 300) n", keys=True)
        await page.shows("#sql output", "the first 200 rows")
        cells = "[...document.querySelectorAll('#database tr')].map((row) => [...row.cells].map((it) => it.innerText))"
        table = await page.run(cells)
        assert (table[0], table[1], len(table)) == (["n", "name", "nothing"], ["1", "row 1", "null"], 201)
        await run("create table notes (id int primary key, text text); insert into notes values (1, '<b>a</b>')")
        await page.shows("#sql output", "INSERT 0 1")
        assert await page.run("document.querySelector('#database .scroll').hidden")
        await run("select * from notes")
        await page.shows("#database tbody", "<b>a</b>")
        await run("select * from nothing_here")
        await page.shows("#sql output.bad", 'relation "nothing_here" does not exist')
        assert server.sql("select count(*) from notes") == [(1,)]
        for width in (390, 1440):
            for dark in (False, True):
                await page.picture(width=width, height=900, dark=dark)
                assert await page.run("document.documentElement.scrollWidth <= innerWidth"), width
                assert await page.run(CONTRAST) == []
        assert page.complaints == []


async def test_the_page_is_accessible(program: str, tmp_path: Path):
    """Each control has a name, contrast is sufficient in light and dark mode, and a narrow page does not scroll
    sideways.
    """
    async with inspecting(program, tmp_path) as (server, client, page):
        await client.channel("a-rather-long-topic:with-parts:and-more-of-them").subscribe()
        server.emit("DELETE", "a_table_with_a_long_name_that_goes_on", old_record={"id": 1})
        await page.shows("#changes", "DELETE")
        server.reject_join("no", "Unauthorized: no")
        with pytest.raises(JoinError):
            await client.channel("no").subscribe()
        await page.until("document.querySelector('tr.frame.bad') !== null")
        await page.run("document.querySelector('tr.frame.bad button').click()")
        await page.run("document.querySelectorAll('details').forEach((it) => { it.open = true; })")
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
