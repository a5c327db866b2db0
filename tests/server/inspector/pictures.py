"""`python -m tests.server.inspector.pictures` takes the screenshots of docs/inspector.md again; it needs chromium."""

import asyncio
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from supawire import AsyncClient, LocalServer, RealtimeError, broadcast, changes, connect_async, presence

from .browser import Page, chromium

FOLDER: Final = Path(__file__).resolve().parents[3] / "docs" / "_static"


async def act(server: LocalServer, alice: AsyncClient, bob: AsyncClient) -> None:
    """Do what two people in a chat do, with one mistake."""
    with suppress(RealtimeError):
        await connect_async(server.url, "sb_publishable_of_another_project", open_timeout=0.05)
    lobby, theirs = alice.channel("room:lobby", presence_key="alice", ack=True), bob.channel("room:lobby")
    for room in (lobby, theirs):
        room.on(presence(), lambda _: None)
        room.on(broadcast(), lambda _: None)
    lobby.on(changes("orders", event="INSERT"), lambda _: None)
    await lobby.subscribe(wait="ready")
    await lobby.track({"status": "online"})
    await theirs.subscribe()
    await lobby.broadcast("message", {"from": "alice", "text": "Is the order there?"})
    with suppress(RealtimeError):
        await bob.channel("staff", private=True).subscribe()
    server.emit("INSERT", "orders", record={"id": 7, "customer": "Ada", "total": 250})
    await theirs.broadcast("message", {"from": "bob", "text": "Now it is."})


async def open_error(page: Page) -> None:
    """Open the newest red frame, and wait until it is visible."""
    await page.run("[...document.querySelectorAll('tr.frame.bad button')].at(-1).click()")
    await page.until("document.querySelector('tr.more') !== null")


async def save(page: Page, name: str, *, width: int, height: int, dark: bool = False) -> None:
    """Write one screenshot."""
    await page.picture(width=width, height=height, dark=dark)  # the layout follows this size
    shot = await page.picture(width=width, height=height, dark=dark)
    file = FOLDER / f"{name}.png"
    file.write_bytes(shot)
    print(file.name, f"{len(shot) / 1000:.0f} kB")


async def wide_and_narrow(program: str, profile: Path) -> None:
    """Take the pictures of the whole page."""
    async with (
        LocalServer(inspector=True) as server,
        connect_async(server.url, server.token()) as alice,
        connect_async(server.url, server.anon_key) as bob,
        chromium(program, profile) as page,
    ):
        await act(server, alice, bob)
        server.drop_reply("broadcast", 1)
        await page.open(server.url)
        await page.shows("#frames", "Unauthorized")
        await page.shows("#faults", "dropped")
        await open_error(page)
        await save(page, "inspector", width=1280, height=940)
        await save(page, "inspector-dark", width=1280, height=940, dark=True)
        await page.picture(width=390, height=844, dark=False)
        await page.run("document.querySelector('tr.more').remove()")
        await open_error(page)
        await page.run("document.querySelector('tr.frame.bad:has(+ tr.more)').scrollIntoView()")
        await page.run("scrollTo(0, 0)")
        await save(page, "inspector-narrow", width=390, height=844)


async def sql_box(program: str, profile: Path) -> None:
    """Take the picture of the SQL box."""
    async with LocalServer(inspector=True, postgres=True) as server, chromium(program, profile) as page:
        server.sql(
            "create table orders (id int primary key, customer text, total numeric, placed_at timestamptz);"
            "insert into orders select n, (array['Ada', 'Grace', 'Edsger'])[n % 3 + 1], n * 12.5, "
            "timestamptz '2026-03-01' + n * interval '1 hour' from generate_series(1, 6) n"
        )
        await page.open(server.url)
        await page.until("!document.querySelector('#database').hidden")
        await page.focus("#sql textarea")
        await page.type("select * from orders where total > 25 order by placed_at desc")
        await page.click("#sql button")
        await page.shows("#sql output", "rows")
        await page.run("document.querySelectorAll('main section:not(#database), .side').forEach((it) => it.remove())")
        await page.run("document.querySelector('main').style.gridTemplate = '\"wide\" auto / 1fr'")
        await save(page, "inspector-sql", width=900, height=440)


async def main() -> None:
    """Take all pictures."""
    program = shutil.which("chromium")
    if program is None:
        sys.exit("chromium is not installed")
    for take in (wide_and_narrow, sql_box):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            await take(program, Path(profile))


if __name__ == "__main__":
    asyncio.run(main())
