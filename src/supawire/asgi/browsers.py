"""The connection of one browser: an event stream or a WebSocket, its writing and its reading."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from supawire.asgi.messages import Item
from supawire.asgi.viewers import GONE, POLICY, SHUTDOWN, SLOW, Viewer

MAX_WRITE_BYTES: Final = 65_536
"""About the most bytes of one write to a browser."""
MAX_INCOMING_BYTES: Final = 65_536
"""The most bytes of one message from a browser."""
END_TIMEOUT: Final = 5.0
"""Seconds for telling a slow browser that it is disconnected."""

POLICY_VIOLATION: Final = 1008
MESSAGE_TOO_BIG: Final = 1009
SERVICE_RESTART: Final = 1012
TRY_AGAIN_LATER: Final = 1013
_CLOSE_CODES: Final = {SHUTDOWN: SERVICE_RESTART, POLICY: POLICY_VIOLATION}


class Gate:
    """Lets the one task that writes to a browser wait until there is something to write."""

    __slots__ = ("_loop", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None

    def open(self) -> None:
        """Wake the waiting task."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def wait(self) -> None:
        """Wait for `open`."""
        self._waiter = self._loop.create_future()
        await self._waiter


class Wire(Protocol):
    """How messages are written to a browser."""

    async def begin(self, receive: Receive, send: Send) -> None:
        """Accept the browser."""
        ...

    async def write(self, send: Send, items: list[Item], newest_id: str | None) -> None:
        """Write messages, and then the id up to which the browser has received everything, if it is given."""
        ...

    async def heartbeat(self, send: Send, newest_id: str) -> None:
        """Write a heartbeat with this id."""
        ...

    async def end(self, send: Send, reason: str) -> None:
        """Write what tells the browser to come back, and close."""
        ...


class EventStream:
    """Server-sent events. Args: retry: seconds after which the browser is to connect again."""

    def __init__(self, retry: float) -> None:
        self._retry = retry

    async def begin(self, receive: Receive, send: Send) -> None:
        """Send the headers, and the time after which to connect again."""
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._body(send, self._retry_line(self._retry))

    async def write(self, send: Send, items: list[Item], newest_id: str | None) -> None:
        """Send the frames in one part of the body. A block with an id alone is not an event for the page."""
        frames = [item.frame() for item in items]
        if newest_id is not None:
            frames.append(f"id: {newest_id}\n\n".encode())
        await self._body(send, b"".join(frames))

    async def heartbeat(self, send: Send, newest_id: str) -> None:
        """Send a comment, with the id."""
        await self._body(send, f": heartbeat\nid: {newest_id}\n\n".encode())

    async def end(self, send: Send, reason: str) -> None:
        """Send a longer time after which to connect again if the server stops, different for each browser."""
        seconds = self._retry * (1 + 2 * random.random()) if reason == SHUTDOWN else self._retry
        await self._body(send, self._retry_line(seconds), more=False)

    @staticmethod
    def _retry_line(seconds: float) -> bytes:
        return f"retry: {round(seconds * 1000)}\n\n".encode()

    @staticmethod
    async def _body(send: Send, body: bytes, *, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": more})


class WebSocketWire:
    """JSON texts on a WebSocket."""

    async def begin(self, receive: Receive, send: Send) -> None:
        """Accept the WebSocket."""
        await receive()  # websocket.connect
        await send({"type": "websocket.accept"})

    async def write(self, send: Send, items: list[Item], newest_id: str | None) -> None:
        """Send one text for each message, and `ready` with the id."""
        for item in items:
            await send({"type": "websocket.send", "text": item.text()})
        if newest_id is not None:
            await send({"type": "websocket.send", "text": f'{{"event":"ready","id":"{newest_id}"}}'})

    async def heartbeat(self, send: Send, newest_id: str) -> None:
        """Send a heartbeat, which pages can see, unlike pings."""
        await send({"type": "websocket.send", "text": f'{{"event":"heartbeat","id":"{newest_id}"}}'})

    async def end(self, send: Send, reason: str) -> None:
        """Close with the code for this reason."""
        code = _CLOSE_CODES.get(reason, TRY_AGAIN_LATER)
        await send({"type": "websocket.close", "code": code, "reason": reason})


async def serve(
    receive: Receive,
    send: Send,
    wire: Wire,
    *,
    make_viewer: Callable[[Callable[[], None], Callable[[], None]], Viewer],
    attach: Callable[[Viewer], list[Item]],
    states: Callable[[Viewer], list[Item]],
    newest_id: Callable[[], str],
    received: Callable[[Viewer, Message], Awaitable[None]],
) -> None:
    """Serve a browser until it or the relay ends the connection.

    Args: make_viewer: returns the viewer, for the callbacks `wake` and `cut`. attach: adds it to its topics and returns
    what it has missed. states: returns the presence states that the viewer has to get again. newest_id: returns the id
    up to which a viewer without waiting messages has everything. received: called with each message from the browser.
    """
    loop = asyncio.get_running_loop()
    gate = Gate(loop)
    viewer: Viewer | None = None
    reading: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    bound = asyncio.timeout(None)

    def cut() -> None:
        with suppress(RuntimeError):  # it is being cut already
            bound.reschedule(loop.time())

    try:
        async with bound:
            await wire.begin(receive, send)
            viewer = current = make_viewer(gate.open, cut)

            def check() -> None:
                nonlocal timer
                timer = loop.call_at(current.check(loop.time()), check)

            check()
            reading = loop.create_task(_read(receive, viewer, received), name="supawire-relay-browser")
            await _write(send, wire, viewer, gate, attach(viewer), states, newest_id)
    except TimeoutError:
        if viewer is None or not bound.expired():
            raise
        if viewer.ended == SLOW and viewer.writing_since is None:
            # the network accepts data: it was only too much at once; the browser may leave meanwhile
            with suppress(OSError, WebSocketDisconnect):
                async with asyncio.timeout(END_TIMEOUT):
                    await wire.end(send, SLOW)
    except (OSError, WebSocketDisconnect):
        return  # the browser has gone; HTTP servers and Starlette say so by these two
    finally:
        if timer is not None:
            timer.cancel()
        if reading is not None:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading


async def _write(
    send: Send,
    wire: Wire,
    viewer: Viewer,
    gate: Gate,
    missed: list[Item],
    states: Callable[[Viewer], list[Item]],
    newest_id: Callable[[], str],
) -> None:
    loop = asyncio.get_running_loop()
    begin_id: str | None = newest_id()
    *pieces, items = _pieces(missed)
    for piece in pieces:  # each with its own time, and without a copy of all that was missed
        viewer.writing_since = loop.time()
        await wire.write(send, piece, None)
        viewer.sent(loop.time())
    while True:
        viewer.writing_since = loop.time()
        if items or begin_id is not None:
            await wire.write(send, items, begin_id)
        elif viewer.heartbeat_due:
            await wire.heartbeat(send, newest_id())
        begin_id = None
        viewer.sent(loop.time())
        while not viewer.waits:
            if viewer.ended is not None:
                await wire.end(send, viewer.ended)
                return
            await gate.wait()
        items = viewer.take(MAX_WRITE_BYTES)
        if viewer.resync and not len(viewer):
            items += states(viewer)


def _pieces(items: list[Item]) -> list[list[Item]]:
    """Return the messages in lists of about `MAX_WRITE_BYTES` at most; the last one may be empty."""
    pieces: list[list[Item]] = [[]]
    size = 0
    for item in items:
        if size >= MAX_WRITE_BYTES:
            pieces.append([])
            size = 0
        pieces[-1].append(item)
        size += item.size
    return pieces


async def _read(receive: Receive, viewer: Viewer, received: Callable[[Viewer, Message], Awaitable[None]]) -> None:
    while True:
        message = await receive()
        if message["type"] in ("http.disconnect", "websocket.disconnect"):
            viewer.end(GONE, at_once=True)
            return
        if message["type"] == "websocket.receive":
            await received(viewer, message)


async def refuse(answer: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send an answer instead of an event stream or of accepting a WebSocket.

    Servers without the extension for it answer every refused WebSocket with status 403.
    """
    if scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
        if scope["type"] == "websocket":
            await receive()  # websocket.connect
        await answer(scope, receive, send)
    else:
        await receive()
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": ""})


def last_event_id(scope: Scope) -> str | None:
    """Return the id that the browser has received last, from its header or the parameter `last_event_id`."""
    from starlette.requests import HTTPConnection

    header = Headers(scope=scope).get("last-event-id")
    return header or HTTPConnection(scope).query_params.get("last_event_id")


def incoming_size(message: Message) -> int:
    """Return the bytes of a message from a browser."""
    text: Any = message.get("text")
    return len(text.encode()) if text is not None else len(message.get("bytes") or b"")
