"""The inspector on the network: its files, and a WebSocket for each page that is open.

While at least one is open, frames pass by its journal; the state of the hub is looked at a few times a second, and sent
when it has changed. A page that does not read is told less, and delays nobody.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import WSMsgType, web

from supawire.server.effects import Send
from supawire.server.inspector.gate import refusal
from supawire.server.inspector.journal import Journal
from supawire.server.inspector.orders import LONGEST, Answer, Look, obey, read
from supawire.server.inspector.page import HEADERS, LIVE, file_at
from supawire.types import Instant

if TYPE_CHECKING:
    from supawire.server.app import App

REFRESH: Final = 0.2
"""Seconds between two looks."""
MOST: Final = 16
"""Pages that may be open at once."""
logger: Final = logging.getLogger("supawire.server")
encode: Final = msgspec.json.Encoder().encode


class Viewer:
    """One open page."""

    def __init__(self) -> None:
        self.ws: Final = web.WebSocketResponse(compress=False, max_msg_size=LONGEST, timeout=1.0)
        self.journal: Final = Journal()
        self.frames = True
        self.answers: Final[list[Answer]] = []
        self.overview = b""


class Inspector:
    """Everything under `/` and `/inspector/` of one server."""

    def __init__(self, app: "App") -> None:
        self._app = app
        self._viewers: Final[set[Viewer]] = set()
        self._started_at: Final = time.time()

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        """Answer a request, None when it is for somebody else."""
        path = request.path
        live = path == LIVE
        file = file_at(path)
        if request.method not in ("GET", "HEAD") or not (live or file):
            return None
        headers: Mapping[str, str] = {name.lower(): value for name, value in request.headers.items()}
        if (reason := refusal(request.remote, headers, live=live)) is not None:
            return web.Response(status=403, text=reason, headers=HEADERS)
        if file is not None:
            return web.Response(body=file.content, headers={**HEADERS, "Content-Type": file.content_type})
        if len(self._viewers) >= MOST:
            return web.Response(status=503, text=f"{MOST} inspectors are open; close some", headers=HEADERS)
        return await self._live(request)

    async def stop(self) -> None:
        """Close every page's socket."""
        await asyncio.gather(*(viewer.ws.close(code=1001) for viewer in list(self._viewers)))

    # --- one page

    async def _live(self, request: web.Request) -> web.StreamResponse:
        viewer = Viewer()
        if not viewer.ws.can_prepare(request).ok:
            return web.Response(status=400, text="this is for WebSockets", headers=HEADERS)
        await viewer.ws.prepare(request)
        self._enter(viewer)
        telling = asyncio.get_running_loop().create_task(self._tell(viewer))
        telling.add_done_callback(_told)
        try:
            async for message in viewer.ws:
                self._app.arrived(request)
                if message.type is WSMsgType.TEXT:
                    self._take(viewer, message.data)
        finally:
            telling.cancel()
            self._leave(viewer)
            await asyncio.wait([telling])
        return viewer.ws

    async def _tell(self, viewer: Viewer) -> None:
        """Send what is new, as fast as the page takes it."""
        hub = self._app.hub
        level = "PostgreSQL" if hub.options.database else "memory"
        about = {"version": version("supawire"), "level": level, "started_at": self._started_at}
        news: dict[str, Any] = {"about": about}
        while not viewer.ws.closed:
            overview = encode(hub.overview(self._app.now()))
            if overview != viewer.overview:
                viewer.overview = overview
                news["overview"] = msgspec.Raw(overview)
            seen = viewer.journal.take()
            news |= {"frames": seen.frames} if seen.frames else {}
            news |= {"changes": seen.changes} if seen.changes else {}
            news |= {"missed": seen.missed} if seen.missed else {}
            if viewer.answers:
                news["answers"] = list(viewer.answers)
                viewer.answers.clear()
            if news:
                try:
                    await viewer.ws.send_str(encode(news).decode())
                except ConnectionResetError:  # the page is gone; its reader ends too
                    return
            news = {}
            await asyncio.sleep(REFRESH)

    def _take(self, viewer: Viewer, text: str) -> None:
        order = read(text)
        match order:
            case Answer():
                viewer.answers.append(order)
            case Look(frames):
                viewer.frames = frames
                viewer.journal.forget_frames()
            case _:
                viewer.answers.append(obey(order, self._app.hub, self._app.now()))
                self._app.pump()

    # --- what the pages see

    def _enter(self, viewer: Viewer) -> None:
        self._viewers.add(viewer)
        self._app.hub.watch(viewer.journal)
        self._app.tap(self._came, self._went)

    def _leave(self, viewer: Viewer) -> None:
        self._viewers.discard(viewer)
        self._app.hub.unwatch(viewer.journal)
        if not self._viewers:
            self._app.untap()

    def _came(self, connection: int, data: bytes, binary: bool, now: Instant) -> None:
        for viewer in self._viewers:
            if viewer.frames:
                viewer.journal.came(connection, data, binary, now)

    def _went(self, effect: Send, now: Instant) -> None:
        for viewer in self._viewers:
            if viewer.frames:
                viewer.journal.went(effect.conn, effect.data, effect.binary, now)


def _told(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the inspector failed", exc_info=error)
