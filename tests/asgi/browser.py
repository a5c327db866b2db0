"""A browser for tests: calls an ASGI application in this event loop and reads what it sends."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Self

from supawire import LocalServer, connect_async
from supawire.asgi import Relay

TIMEOUT = 20


class Browser:
    """One request or WebSocket. `blocked`: while it is set, it accepts no data, as a slow browser."""

    def __init__(self, app: Any, path: str = "/", *, socket: bool = False, **headers: str) -> None:
        self._app = app
        raw, _, query = path.partition("?")
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.scope: dict[str, Any] = {
            "type": "websocket" if socket else "http", "method": "GET", "path": raw, "raw_path": raw.encode(),
            "root_path": "", "query_string": query.encode(), "headers": [(b"host", b"app.example"), *pairs],
            "scheme": "ws" if socket else "http", "server": ("app.example", 80), "client": ("127.0.0.1", 1),
            "http_version": "1.1", "extensions": {"websocket.http.response": {}}, "subprotocols": [],
            "asgi": {"version": "3.0", "spec_version": "2.4"},
        }  # fmt: skip
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.open = asyncio.Event()
        self.open.set()
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = b""
        self.close_code: int | None = None
        self.complete = False
        self.retries: list[int] = []
        self.last_id = ""
        self.heartbeats = 0
        self._took = asyncio.Event()
        self._events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        if socket:
            self.sent.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        try:
            await self._app(self.scope, self.sent.get, lambda message: self.take(message))
        finally:
            self._events.put_nowait(("end", None))

    async def take(self, message: dict[str, Any]) -> None:
        """Accept a message of the application."""
        await self.open.wait()
        self._took.set()
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self.status = message["status"]
                self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
                if self.headers.get("content-type", "").startswith("text/event-stream"):
                    self._events.put_nowait(("open", None))
            case "http.response.body" | "websocket.http.response.body":
                self.body += message.get("body", b"")
                self.complete = not message.get("more_body", False)
                if self.headers["content-type"].startswith("text/event-stream"):
                    self._parse()
            case "websocket.accept":
                self._events.put_nowait(("open", None))
            case "websocket.send":
                data = json.loads(message["text"])
                self._note(data["event"], data.get("id"), data.get("data"))
            case "websocket.close":
                self.close_code = message["code"]
            case kind:
                raise AssertionError(kind)

    def _note(self, name: str, number: str | None, data: Any) -> None:
        self.last_id = number or self.last_id
        if name == "heartbeat":
            self.heartbeats += 1
        elif name != "ready":
            self._events.put_nowait((name, data))

    def _parse(self) -> None:
        *blocks, self.body = self.body.split(b"\n\n")
        for block in blocks:
            fields = dict(line.split(": ", 1) for line in block.decode().split("\n"))
            self.heartbeats += fields.get("") == "heartbeat"
            if "retry" in fields:
                self.retries.append(int(fields["retry"]))
            if "data" in fields:
                self._note(fields["event"], fields.get("id"), json.loads(fields["data"]))
            else:
                self.last_id = fields.get("id", self.last_id)

    async def next(self) -> tuple[str, Any]:
        """Return name and data of the next event; "open" first, "end" last."""
        return await asyncio.wait_for(self._events.get(), TIMEOUT)

    async def changed(self) -> None:
        """Wait until anything is sent to it."""
        self._took.clear()
        await asyncio.wait_for(self._took.wait(), TIMEOUT)

    async def opened(self) -> Self:
        """Wait until the connection is accepted."""
        assert (await self.next())[0] == "open", (self.status, self.body)
        return self

    async def ended(self) -> None:
        """Wait for the end, past all events. Raises what the application has raised."""
        await asyncio.wait_for(asyncio.shield(self._task), TIMEOUT)

    def send(self, **message: Any) -> None:
        """Send a JSON text over the WebSocket."""
        self.sent.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})

    async def leave(self) -> None:
        """Disconnect."""
        kind = self.scope["type"]
        self.sent.put_nowait({"type": f"{kind}.disconnect", "code": 1001})
        await self.ended()


@asynccontextmanager
async def relaying(authorize: Any = None, **options: Any) -> AsyncGenerator[tuple[LocalServer, Relay]]:
    """A local server and an open relay."""
    async with LocalServer() as server:
        relay = Relay(lambda: connect_async(server.url, server.anon_key), authorize, **options)
        async with relay.lifespan():
            yield server, relay
