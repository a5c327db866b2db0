"""A server on raw sockets whose behaviour a test defines byte by byte; by default it behaves like a real server.

    async def close_at_once(wire: Wire) -> None:
        await wire.upgrade()
        wire.close(1001)

    async with Misbehaver(close_at_once, behave) as server: ...

The n-th connection is given to the n-th script, later ones to the last. A script that returns leaves its socket open.
It speaks HTTP, WebSocket and Phoenix, and a script may also read and write bytes of any other protocol.
"""

import asyncio
import base64
import hashlib
import json
import re
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self

from supawire.core import binary
from supawire.core.frames import Frame

TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Wire:
    """One accepted connection."""

    def __init__(
        self, server: "Misbehaver", number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server = server
        self.number = number
        self.head = ""
        """The request line and headers of the newest request."""
        self.body = b""
        """Its body."""
        self.pongs = 0
        self.close_code: int | None = None
        """The code of the client's close frame."""
        self.done = asyncio.Event()
        """Set when the script has ended, which it also does when the client closes the connection."""
        self._reader = reader
        self._writer = writer

    # --- HTTP

    async def request(self) -> str:
        """Read a request with its body, and return the request line and the headers."""
        self.head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.body = await self._reader.readexactly(int(self.header("content-length") or "0"))
        self.server.heads.append(self.head)
        self.server.notify()
        return self.head

    async def upgrade(self, *headers: str) -> None:
        """Read the request and accept the upgrade."""
        await self.request()
        key = self.header("sec-websocket-key").encode()
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
        lines = ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept}", *headers]
        self.write("\r\n".join(["HTTP/1.1 101 Switching Protocols", *lines, "", ""]).encode())

    def header(self, name: str) -> str:
        """Return a header of the newest request; empty if it is missing."""
        found = re.search(rf"^{name}: *(.*?) *$", self.head.replace("\r", ""), re.IGNORECASE | re.MULTILINE)
        return found[1] if found else ""

    async def refuse(self, status: int, body: bytes = b"", *headers: str) -> None:
        """Read the request and refuse it."""
        await self.request()
        lines = [f"HTTP/1.1 {status} No", f"Content-Length: {len(body)}", "Connection: close", *headers]
        self.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.hang_up()

    # --- frames

    async def receive(self) -> Frame:
        """Return the next Phoenix frame; pongs are counted. Raises: EOFError at the end."""
        while True:
            kind, data = await self.read_frame()
            if kind == CLOSE:
                self.close_code = int.from_bytes(data[:2]) if data else None
                self.server.notify()
                raise EOFError(f"closed with {self.close_code}")
            if kind == PONG:
                self.pongs += 1
                self.server.notify()
            elif kind in (TEXT, BINARY):
                frame = decode_frame(data, is_binary=kind == BINARY)
                self.server.frames.append(frame)
                self.server.notify()
                return frame

    async def read(self, count: int = -1) -> bytes:
        """Read this many bytes of any protocol, or up to the end of the stream."""
        return await (self._reader.read() if count < 0 else self._reader.readexactly(count))

    async def read_frame(self) -> tuple[int, bytes]:
        """Return kind and payload of the next WebSocket frame. Raises: EOFError at the end of the stream."""
        try:
            first, second = await self._reader.readexactly(2)
            size = second & 127
            if size > 125:
                size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8))
            mask = await self._reader.readexactly(4)
            data = await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise EOFError("the client is gone") from error
        key = (mask * (size // 4 + 1))[:size]
        return first & 15, (int.from_bytes(data) ^ int.from_bytes(key)).to_bytes(size)

    def send(self, data: bytes | str, kind: int = TEXT) -> None:
        """Send one WebSocket frame with any payload."""
        raw = data.encode() if isinstance(data, str) else data
        size = len(raw)
        length = (
            bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2) if size < 65536 else b"\x7f" + size.to_bytes(8)
        )
        self.write(bytes([0x80 | kind]) + length + raw)

    def push(
        self, topic: str, event: str, payload: Any, *, join_ref: str | None = None, ref: str | None = None
    ) -> None:
        """Send a Phoenix frame in the version that the client requested."""
        if "vsn=1.0.0" in self.head:
            self.send(json.dumps({"topic": topic, "event": event, "payload": payload, "ref": ref}))
        else:
            self.send(json.dumps([join_ref, ref, topic, event, payload]))

    def reply(self, frame: Frame, status: str = "ok", response: Any = None) -> None:
        """Answer a request."""
        payload = {"status": status, "response": {} if response is None else response}
        self.push(frame.topic, "phx_reply", payload, join_ref=frame.join_ref, ref=frame.ref)

    def accept(self, frame: Frame) -> None:
        """Accept a join."""
        requests = frame.payload["config"]["postgres_changes"]
        self.reply(frame, response={"postgres_changes": [{"id": number, **one} for number, one in enumerate(requests)]})

    async def accept_join(self) -> None:
        """Read up to the first join and accept it; a heartbeat sent before the join is answered too."""
        while (frame := await self.receive()).event == "heartbeat":
            self.reply(frame)
        self.accept(frame)

    def deny(self, frame: Frame, reason: str) -> None:
        """Refuse a join."""
        self.reply(frame, "error", {"reason": reason})

    def broadcast(self, topic: str, event: str, payload: Any) -> None:
        """Send a broadcast of another client."""
        self.push(f"realtime:{topic}", "broadcast", {"type": "broadcast", "event": event, "payload": payload})

    # --- the socket

    def write(self, data: bytes) -> None:
        """Send any bytes."""
        if not self._writer.is_closing():
            self._writer.write(data)

    def is_closing(self) -> bool:
        """Return whether the client or the script has closed the connection."""
        return self._writer.is_closing()

    async def drain(self) -> None:
        """Wait until the client has read enough of what was sent."""
        await self._writer.drain()

    def close(self, code: int | None) -> None:
        """Send a close frame and end the stream, without waiting for the answer."""
        self.send(b"" if code is None else code.to_bytes(2), CLOSE)
        self.hang_up()

    def stop_reading(self) -> None:
        """Stop reading, so that the network buffers fill up."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.set_reading(False)

    def set_reading(self, reads: bool) -> None:
        """Stop reading, or continue; the buffers of the network keep their size."""
        transport: Any = self._writer.transport
        (transport.resume_reading if reads else transport.pause_reading)()

    def hang_up(self) -> None:
        """End the stream after the written bytes."""
        self._writer.close()

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        raw: socket.socket | None = self._writer.get_extra_info("socket")  # None when uvloop has closed it
        if raw is not None and raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


class Received:
    """The Phoenix frames that a server has received, and waiting for them."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        """The frames received on all connections."""
        self._news = asyncio.Event()

    def notify(self) -> None:
        """Wake up the waiting tests."""
        self._news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until this holds; it is evaluated after each arrival."""
        while not holds():
            self._news.clear()
            await self._news.wait()

    async def got(self, event: str, count: int = 1) -> Frame:
        """Wait until an event was received this often and return the last frame."""
        await self.until(lambda: len(self.of(event)) >= count)
        return self.of(event)[count - 1]

    def of(self, event: str) -> list[Frame]:
        """Return the received frames of an event."""
        return [frame for frame in self.frames if frame.event == event]

    def events(self) -> Counter[str]:
        """Count the received frames by event."""
        return Counter(frame.event for frame in self.frames)


Script = Callable[[Wire], Awaitable[None]]
Answer = Callable[[Wire, Frame], object]


async def behave(wire: Wire) -> None:
    """Accept the upgrade and answer each frame as `server.answers` defines."""
    await wire.upgrade()
    await answer_frames(wire)


async def answer_frames(wire: Wire) -> None:
    """Answer each frame as `server.answers` defines, on an open socket."""
    while True:
        try:
            frame = await wire.receive()
        except EOFError:
            wire.close(wire.close_code)
            return
        answer = wire.server.answers.get(frame.event)
        if answer is not None:
            answer(wire, frame)


def _leave(wire: Wire, frame: Frame) -> None:
    wire.reply(frame)
    wire.push(frame.topic, "phx_close", {}, join_ref=frame.join_ref, ref=frame.join_ref)


class Misbehaver(Received):
    """A server on 127.0.0.1, in the event loop of the test; with TLS if it gets a context."""

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self._tls = tls
        self.scripts = list(scripts or (behave,))
        self.answers: dict[str, Answer | None] = {
            "phx_join": Wire.accept,
            "phx_leave": _leave,
            "heartbeat": Wire.reply,
            "presence": Wire.reply,
            "broadcast": Wire.reply,
        }
        """How `behave` answers each event; None: not at all."""
        self.wires: list[Wire] = []
        self.heads: list[str] = []
        """Request line and headers of all requests."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    @property
    def wire(self) -> Wire:
        """The newest connection."""
        return self.wires[-1]

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave()
        for task in self._tasks:
            task.cancel()
        for wire in self.wires:
            wire.reset()
        if self._tasks:
            await asyncio.wait(self._tasks)
        bugs = [task.exception() for task in self._tasks if not task.cancelled()]
        assert not any(bugs), bugs
        await asyncio.sleep(0)

    async def listen(self) -> None:
        """Listen, at the same port as before."""
        options: dict[str, Any] = {"limit": 1 << 26, "backlog": 1000, "ssl": self._tls}
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, **options)
        self.port = self._server.sockets[0].getsockname()[1]

    async def leave(self) -> None:
        """Stop listening; open connections stay open."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def connected(self, count: int) -> Wire:
        """Wait for this many connections and return the last of them."""
        await self.until(lambda: len(self.wires) >= count)
        return self.wires[count - 1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.wires)
        wire = Wire(self, number, reader, writer)
        self.wires.append(wire)
        self._tasks.add(asyncio.create_task(self._serve(wire, number)))
        self.notify()

    async def _serve(self, wire: Wire, number: int) -> None:
        try:
            await self.scripts[min(number, len(self.scripts) - 1)](wire)
        except (EOFError, ConnectionError):
            return  # the client may close at any time
        finally:
            wire.done.set()


def decode_frame(data: bytes, *, is_binary: bool) -> Frame:
    if not is_binary:
        read = json.loads(data)
        return Frame(*read) if isinstance(read, list) else Frame(*(read.get(name) for name in Frame._fields))
    layout, (join_ref, ref, topic, event, _), is_json, payload = binary.unpack(binary.UP, data)
    assert layout is binary.USER_PUSH
    message = {"type": "broadcast", "event": event.decode(), "payload": json.loads(payload) if is_json else payload}
    return Frame(join_ref.decode(), ref.decode(), topic.decode(), "broadcast", message)
