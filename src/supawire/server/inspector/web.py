"""The inspector on the network: access checks, the files of the page, and a WebSocket for each open page.

Any web page can send requests to this machine, also under a host name of its own (DNS rebinding). Therefore Host must
name this machine, the WebSocket is accepted only from the inspector's own page, and requests through proxies are
refused.

While a page is open, frames are recorded in its journal, and the state of the hub is compared a few times per second
and sent when it has changed. A page that reads slowly misses lines, but delays nothing else.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from aiohttp import WSMsgType, web

from supawire.events import Instant
from supawire.server.dev import is_here
from supawire.server.effects import Send
from supawire.server.inspector.commands import LONGEST, Answer, Look, obey, read
from supawire.server.inspector.journal import Journal

if TYPE_CHECKING:
    from supawire.server.app import App


PROXIES: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "cf-connecting-ip")
OUTSIDE: Final = ("cross-site", "same-site")


def refusal(address: str | None, headers: Mapping[str, str], *, live: bool) -> str | None:
    """Return why a request is refused, or None. Header names are lower case; `live`: for the page's WebSocket."""
    host = headers.get("host", "")
    if not _is_loopback(address) or any(name in headers for name in PROXIES):
        return "the inspector is for this machine alone"
    if not is_here(host):
        return "open the inspector as http://127.0.0.1 or http://localhost"
    origin = headers.get("origin")
    if live and origin is None:
        return "the inspector's socket is for its page"
    if origin is not None and origin != f"http://{host}":
        return "the inspector is not for other pages"
    if headers.get("sec-fetch-site") in OUTSIDE and not _is_visit(headers):
        return "the inspector is not for other pages"
    return None


def _is_loopback(address: str | None) -> bool:
    try:
        return ip_address(address or "").is_loopback
    except ValueError:
        return False


def _is_visit(headers: Mapping[str, str]) -> bool:
    """Return whether the request is a navigation to the page, whose content the other site cannot read."""
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"


FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/inspector/look.css": ("look.css", "text/css; charset=utf-8"),
    "/inspector/main.js": ("main.js", "text/javascript; charset=utf-8"),
    "/inspector/draw.js": ("draw.js", "text/javascript; charset=utf-8"),
    "/inspector/lists.js": ("lists.js", "text/javascript; charset=utf-8"),
}
LIVE: Final = "/inspector/live"
"""Path of the page's WebSocket."""
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self' ws://localhost:* ws://127.0.0.1:*; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class File(NamedTuple):
    """One file of the page."""

    content: bytes
    content_type: str


@cache
def file_at(path: str) -> File | None:
    """Return the file at this path, or None."""
    if path not in FILES:
        return None
    name, content_type = FILES[path]
    return File(files("supawire.server.inspector").joinpath("static", name).read_bytes(), content_type)


REFRESH: Final = 0.2
"""Seconds between two updates of a page."""
MOST: Final = 16
"""Maximum number of open pages."""
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
    """Serves `/` and `/inspector/` of one server."""

    def __init__(self, app: "App") -> None:
        self._app = app
        self._viewers: Final[set[Viewer]] = set()
        self._started_at: Final = time.time()

    async def answer(self, request: web.Request) -> web.StreamResponse | None:
        """Answer a request; return None for a path that is not the inspector's."""
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
        """Close the WebSockets of all pages."""
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
        """Send new lines and changed state, as fast as the page reads."""
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
                except ConnectionResetError:  # the page has disconnected; its reader ends too
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

    # --- recording of frames

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
