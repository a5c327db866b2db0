"""The inspector on the network: access checks, the files of the page, and a WebSocket for each open page.

Any web page can send requests to this machine, also under a host name of its own (DNS rebinding). Therefore Host must
name this machine, the WebSocket is accepted only from the inspector's own page, and requests through proxies are
refused.

Frames are kept in a bounded history from the start of the server. While a page is open, they are decoded for it, and
the state of the hub is compared a few times per second and sent when it has changed. A page that reads slowly misses
lines, but delays nothing else.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from ipaddress import ip_address
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from aiohttp import WSMsgType, web

from supawire.errors import RealtimeError
from supawire.events import Instant
from supawire.server.dev import is_here
from supawire.server.hub import Hub
from supawire.server.inspector.commands import MAX_REQUEST, Answer, ShowFrames, SqlCommand, SqlResult, execute, read
from supawire.server.inspector.fault_buttons import FAULTS
from supawire.server.inspector.history import History
from supawire.server.inspector.journal import Journal
from supawire.server.inspector.overview import overview

PROXIES: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "cf-connecting-ip")
OUTSIDE: Final = ("cross-site", "same-site")


def refusal(address: str | None, headers: Mapping[str, str], *, live: bool) -> str | None:
    """Return why a request is refused, or None. Header names are lower case; `live`: for the page's WebSocket."""
    host = headers.get("host", "")
    if not _is_loopback(address) or any(name in headers for name in PROXIES):
        return "the inspector is available on this machine only"
    if not is_here(host):
        return "open the inspector as http://127.0.0.1 or http://localhost"
    origin = headers.get("origin")
    if live and origin is None:
        return "only the inspector's page can open its WebSocket"
    if origin is not None and origin != f"http://{host}":
        return "other pages cannot use the inspector"
    if headers.get("sec-fetch-site") in OUTSIDE and not _is_visit(headers):
        return "other pages cannot use the inspector"
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
    "/inspector/faults.js": ("faults.js", "text/javascript; charset=utf-8"),
    "/inspector/lists.js": ("lists.js", "text/javascript; charset=utf-8"),
    "/inspector/sql.js": ("sql.js", "text/javascript; charset=utf-8"),
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
MAX_PAGES: Final = 16
"""Maximum number of open pages."""
logger: Final = logging.getLogger("supawire.server")
encode: Final = msgspec.json.Encoder().encode


class InspectedServer(Protocol):
    """The server that the inspector shows (`app.App`)."""

    @property
    def hub(self) -> Hub: ...

    def now(self) -> Instant:
        """Return the current monotonic and wall time."""
        ...

    def pump(self) -> None:
        """Perform the effects of the hub."""
        ...

    async def run_sql(self, text: str) -> SqlResult:
        """Run SQL in the database. Raises: RealtimeError."""
        ...

    def message_complete(self, request: web.Request) -> None:
        """Record that a complete message has arrived on the WebSocket of a request."""
        ...


class Page:
    """One open page."""

    def __init__(self, history: History) -> None:
        self.ws: Final = web.WebSocketResponse(compress=False, max_msg_size=MAX_REQUEST, timeout=1.0)
        self.journal: Final = Journal(history)
        self.running: asyncio.Task[None] | None = None
        """The SQL that runs for this page."""
        self.answers: Final[list[Answer]] = []
        self.overview = b""


class Inspector:
    """Serves `/` and `/inspector/` of one server."""

    def __init__(self, app: InspectedServer) -> None:
        self._app = app
        self.history: Final = History()
        """What has happened; the app records it here."""
        app.hub.watch(self.history)
        self._pages: Final[set[Page]] = set()
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
        if len(self._pages) >= MAX_PAGES:
            return web.Response(
                status=503, text=f"{MAX_PAGES} inspector pages are open; close one of them", headers=HEADERS
            )
        return await self._live(request)

    async def stop(self) -> None:
        """Close the WebSockets of all pages."""
        await asyncio.gather(*(page.ws.close(code=1001) for page in list(self._pages)))

    # --- one page

    async def _live(self, request: web.Request) -> web.StreamResponse:
        page = Page(self.history)
        if not page.ws.can_prepare(request).ok:
            return web.Response(status=400, text="Not a WebSocket upgrade request", headers=HEADERS)
        await page.ws.prepare(request)
        self._pages.add(page)
        sender = asyncio.get_running_loop().create_task(self._send_news(page))
        sender.add_done_callback(_log_failure)
        try:
            async for message in page.ws:
                self._app.message_complete(request)
                if message.type is WSMsgType.TEXT:
                    self._take(page, message.data)
        finally:
            self._pages.discard(page)
            tasks = [sender] if page.running is None else [sender, page.running]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return page.ws

    async def _send_news(self, page: Page) -> None:
        """Send new lines and changed state, as fast as the page reads."""
        hub = self._app.hub
        level = "PostgreSQL" if hub.options.database else "memory"
        about = {"version": version("supawire"), "level": level, "started_at": self._started_at, "faults": FAULTS}
        news: dict[str, Any] = {"about": about}
        while not page.ws.closed:
            state = encode(overview(hub, self._app.now()))
            if state != page.overview:
                page.overview = state
                news["overview"] = msgspec.Raw(state)
            lines = page.journal.take()
            news |= {"frames": lines.frames} if lines.frames else {}
            news |= {"changes": lines.changes} if lines.changes else {}
            news |= {"missed": lines.missed} if lines.missed else {}
            if page.answers:
                news["answers"] = list(page.answers)
                page.answers.clear()
            if news:
                try:
                    await page.ws.send_str(encode(news).decode())
                except ConnectionResetError:  # the page has disconnected; its reader ends too
                    return
            news = {}
            await asyncio.sleep(REFRESH)

    def _take(self, page: Page, text: str) -> None:
        order = read(text)
        match order:
            case Answer():
                page.answers.append(order)
            case ShowFrames(frames):
                page.journal.frames = frames
                page.journal.skip()
            case SqlCommand(statement):
                self._run_sql(page, statement)
            case _:
                page.answers.append(execute(order, self._app.hub, self.history, self._app.now()))
                self._app.pump()

    def _run_sql(self, page: Page, text: str) -> None:
        if page.running is not None and not page.running.done():
            page.answers.append(Answer("sql", "the statement before has not finished"))
            return

        async def run() -> None:
            try:
                page.answers.append(Answer("sql", result=await self._app.run_sql(text)))
            except RealtimeError as error:
                page.answers.append(Answer("sql", str(error)))

        page.running = asyncio.get_running_loop().create_task(run())
        page.running.add_done_callback(_log_failure)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the inspector failed", exc_info=error)
