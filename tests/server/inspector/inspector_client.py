"""A client of the inspector's WebSocket, used instead of its page."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from supawire.server.inspector import web


class InspectorClient:
    """A client of the inspector that collects what the inspector has sent."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.overview: dict[str, Any] = {}
        self.about: dict[str, Any] = {}
        self.frames: list[dict[str, Any]] = []
        self.changes: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self.all = ""

    async def until(self, done: Callable[[], object]) -> None:
        """Read until the condition holds."""
        async with asyncio.timeout(40):
            while not done():
                text = await self.ws.receive_str()
                self.all += text
                news = json.loads(text)
                self.overview = news.get("overview", self.overview)
                self.about = news.get("about", self.about)
                for name in ("frames", "changes", "answers"):
                    getattr(self, name).extend(news.get(name, []))

    async def request(self, **fields: Any) -> dict[str, Any]:
        """Send a request and return its answer."""
        expected = len(self.answers) + 1
        await self.ws.send_json(fields)
        await self.until(lambda: len(self.answers) >= expected)
        return self.answers[-1]


@asynccontextmanager
async def open_inspector(url: str) -> AsyncGenerator[InspectorClient]:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{url}{web.LIVE}", headers={"Origin": url}) as ws:
        page = InspectorClient(ws)
        await page.until(lambda: page.overview)
        yield page
