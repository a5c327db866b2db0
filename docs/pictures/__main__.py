"""Take the pictures of the inspector, in the colours of both themes: `python -m docs.pictures [PROGRAM]`.

PROGRAM is a Chromium; if omitted, the first one on the path is used.
"""

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from supawire import LocalServer, broadcast, changes, connect_async, presence
from tests.server.inspector.browser import chromium

HERE: Final = Path(__file__).resolve().parent
WIDTH: Final = 1120
HEIGHT: Final = 720


async def take(program: str) -> None:
    """Show a small chat and a few changed rows in the inspector, and store what it looks like."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        async with (
            LocalServer(inspector=True) as server,
            chromium(program, Path(folder)) as page,
            connect_async(server.url, server.token(sub="alice")) as alice,
            connect_async(server.url, server.token(sub="bob"), protocol="1.0.0") as bob,
        ):
            await page.open(server.url)
            await page.shows("#link", "live")
            for client, name in ((alice, "alice"), (bob, "bob")):
                room = client.channel("room:lobby", presence_key=name)
                room.on(broadcast("message"), lambda _: None)
                room.on(presence(), lambda _: None)
                await room.subscribe()
                await room.track({"device": "terminal"})
            orders = alice.channel("orders", private=True)
            orders.on(changes("orders"), lambda _: None)
            await orders.subscribe(wait="ready")
            for number, total in enumerate((20, 120, 75), start=1):
                server.emit("INSERT", "orders", record={"id": number, "total": total})
            await bob.channel("room:lobby").broadcast("message", {"from": "bob", "text": "Hello, Alice!"})
            await alice.channel("room:lobby").broadcast("message", {"from": "alice", "text": "Hello, Bob!"})
            await page.shows("#frames", "message")
            await page.shows("#changes", "75")
            for theme in ("light", "dark"):
                picture = await page.picture(width=WIDTH, height=HEIGHT, dark=theme == "dark")
                (HERE / f"inspector-{theme}.png").write_bytes(picture)
                print(f"inspector-{theme}.png: {len(picture) // 1024} kB")


if __name__ == "__main__":
    found = sys.argv[1] if len(sys.argv) > 1 else shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        raise SystemExit("no Chromium is on the path; give its path as argument")
    asyncio.run(take(found))
