"""A scripted server at the other end of a `MemoryTransport`, for tests that define exactly which frame arrives when.

By default it answers like a real server; it records what it received.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from supawire import AsyncClient, ClientOptions, connect_async
from supawire.aio.driver import Driver, DriverSettings
from supawire.core.frames import Frame
from supawire.transport.base import CLOSE_TIMEOUT
from supawire.transport.memory import MemoryPeer, MemoryTransport
from tests.faults.misbehaver import Received, decode_frame

URL = "http://127.0.0.1:1"
KEY = "the-anon-key"


class Server(Received):
    """Accepts connections in memory and answers them.

    Set an entry of `answers` to change the answer to an event; None: no answer.
    """

    def __init__(self, transport: MemoryTransport | None = None) -> None:
        super().__init__()
        self.transport = MemoryTransport() if transport is None else transport
        self.connections = 0
        self.peer: MemoryPeer | None = None
        self.answers: dict[str, Callable[[Frame], None] | None] = {
            "phx_join": self._join,
            "phx_leave": self._leave,
            "heartbeat": self.reply,
            "presence": self.reply,
            "broadcast": self._broadcast,
        }
        self.acks: set[str] = set()
        """Topics that were joined with ack."""
        self.stops_reading = asyncio.Event()
        """When set, nothing more is received, so that the network fills up."""

    # --- called by tests

    def reply(self, frame: Frame, status: str = "ok", response: Any = None) -> None:
        """Answer a request."""
        payload = {"status": status, "response": {} if response is None else response}
        self.send(frame.topic, "phx_reply", payload, join_ref=frame.join_ref, ref=frame.ref)

    def refuse(self, reason: str) -> Callable[[Frame], None]:
        """Return an answer that is an error."""
        return lambda frame: self.reply(frame, "error", {"reason": reason})

    def send(
        self, topic: str, event: str, payload: Any, *, join_ref: str | None = None, ref: str | None = None
    ) -> None:
        """Send a frame."""
        self.raw(json.dumps([join_ref, ref, topic, event, payload]).encode())

    def raw(self, data: bytes, binary: bool = False) -> None:
        """Send bytes as a frame."""
        assert self.peer is not None
        self.peer.send(data, binary)

    def broadcast(self, topic: str, event: str, payload: Any) -> None:
        """Send a broadcast of another client."""
        message = {"type": "broadcast", "event": event, "payload": payload}
        self.send(f"realtime:{topic}", "broadcast", message)

    def change(self, topic: str, number: int, record: dict[str, Any], kind: str = "INSERT") -> None:
        """Send a change of a row of `users`."""
        columns = [
            {"name": name, "type": "int8" if isinstance(value, int) else "text"} for name, value in record.items()
        ]
        data = {"schema": "public", "table": "users", "type": kind, "commit_timestamp": "2026-11-24T12:00:00Z",
                "columns": columns, "record": record, "errors": None}  # fmt: skip
        self.send(f"realtime:{topic}", "postgres_changes", {"ids": [number], "data": data})

    def system(self, topic: str, status: str, message: str, extension: str = "postgres_changes") -> None:
        """Send a `system` message."""
        payload = {"status": status, "message": message, "extension": extension, "channel": topic}
        self.send(f"realtime:{topic}", "system", payload)

    async def connected(self, count: int) -> None:
        """Wait until this many connections were accepted."""
        await self.until(lambda: self.connections >= count)

    # --- automatic answers

    async def serve(self) -> None:
        """Accept connections and answer, until cancelled."""
        async with asyncio.TaskGroup() as peers:
            while True:
                self.peer = await self.transport.accept()
                self.connections += 1
                self.notify()
                peers.create_task(self._talk(self.peer))

    async def _talk(self, peer: MemoryPeer) -> None:
        while True:
            try:
                data, is_binary = await peer.receive()
            except EOFError:
                return
            frame = decode_frame(data, is_binary=is_binary)
            self.frames.append(frame)
            self.notify()
            if self.stops_reading.is_set():
                await asyncio.get_running_loop().create_future()
            answer = self.answers.get(frame.event)
            if answer is not None and peer is self.peer:
                answer(frame)

    def _join(self, frame: Frame) -> None:
        config = frame.payload["config"]
        if config["broadcast"]["ack"]:
            self.acks.add(frame.topic)
        changes = [{"id": number + 1, **binding} for number, binding in enumerate(config["postgres_changes"])]
        self.reply(frame, response={"postgres_changes": changes})
        if config["presence"]["enabled"]:
            self.send(frame.topic, "presence_state", {})
        if changes:
            self.system(frame.topic.removeprefix("realtime:"), "ok", "Subscribed to PostgreSQL")

    def _leave(self, frame: Frame) -> None:
        self.reply(frame)
        self.send(frame.topic, "phx_close", {}, join_ref=frame.join_ref, ref=frame.join_ref)

    def _broadcast(self, frame: Frame) -> None:
        if frame.topic in self.acks:
            self.reply(frame)


@asynccontextmanager
async def serving(transport: MemoryTransport | None = None) -> AsyncGenerator[Server, None]:
    """Yield a running server at the other end of this transport, or of a new one."""
    server = Server(transport)
    task = asyncio.create_task(server.serve())
    try:
        yield server
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def connected(
    *, capacity: int | None = None, close_timeout: float = CLOSE_TIMEOUT, **options: Any
) -> AsyncGenerator[tuple[AsyncClient, Server], None]:
    """Yield a client that is connected to a scripted server, and the server; the client reconnects without delay."""
    async with serving(MemoryTransport(capacity=capacity, close_timeout=close_timeout)) as server:
        options.setdefault("backoff", lambda attempt: 0.0)
        options.setdefault("rejoin_backoff", lambda attempt: 0.0)
        async with connect_async(URL, KEY, transport=server.transport, **options) as client:
            yield client, server


@asynccontextmanager
async def driven(
    settings: DriverSettings | None = None, **options: Any
) -> AsyncGenerator[tuple[AsyncClient, Server, Driver], None]:
    """Like `connected`, with other settings of the driver; yields the driver too."""
    async with serving() as server:
        options.setdefault("backoff", lambda attempt: 0.0)
        options.setdefault("rejoin_backoff", lambda attempt: 0.0)
        driver = await open_driver(URL, KEY, settings, transport=server.transport, **options)
        async with AsyncClient(driver) as client:
            yield client, server, driver


async def open_driver(url: str, key: str, settings: DriverSettings | None = None, **options: Any) -> Driver:
    """Open the driver of an async client with other settings than the client's."""
    chosen = ClientOptions(**options)
    driver = Driver(chosen.endpoint(url, key), chosen, settings=settings or DriverSettings())
    await driver.open()
    return driver


async def open_client(url: str, key: str, settings: DriverSettings, **options: Any) -> AsyncClient:
    """Open an async client whose driver has these settings."""
    return AsyncClient(await open_driver(url, key, settings, **options))


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, at most four seconds."""
    for _ in range(4000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the condition did not become true")


async def settled(turns: int = 20) -> None:
    """Run the event loop for some iterations."""
    for _ in range(turns):
        await asyncio.sleep(0)
