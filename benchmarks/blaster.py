"""The server of the benchmarks: `python -m benchmarks.blaster`.

It answers joins and heartbeats, and on command pushes frames that were built beforehand as fast as the receiver takes
them, so that the receiver's cost is all there is to see. It prints its port, then takes orders as lines of JSON on
standard input: `{"topic": ..., "kind": ..., "count": ...}`.
"""

import asyncio
import base64
import hashlib
import json
import struct
import sys
from typing import Any
from urllib.parse import parse_qs, urlsplit

from benchmarks.frames import BINDING_ID, BLOCK, V1, block, framed

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Peer:
    """One connected client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, topics: "dict[str, Peer]") -> None:
        self._reader = reader
        self._writer = writer
        self._topics = topics
        self._vsn = ""
        self._blocks: dict[tuple[str, str], list[bytes]] = {}

    async def serve(self) -> None:
        """Answer until the client goes."""
        try:
            await self._shake_hands()
            while (text := await self._next_text()) is not None:
                self._answer(json.loads(text))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # it went
        finally:
            self._writer.close()

    async def blast(self, topic: str, kind: str, count: int) -> None:
        """Push frames; the socket's back-pressure is the only brake."""
        key = topic, kind
        if key not in self._blocks:
            self._blocks[key] = block(kind, self._vsn, topic)
        frames = self._blocks[key]
        whole = b"".join(frames)
        for _ in range(count // BLOCK):
            self._writer.write(whole)
            await self._writer.drain()
        self._writer.write(b"".join(frames[: count % BLOCK]))
        await self._writer.drain()

    async def _shake_hands(self) -> None:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self._vsn = parse_qs(urlsplit(head[0].split(" ")[1]).query).get("vsn", [V1])[0]
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        accept = base64.b64encode(hashlib.sha1(fields["sec-websocket-key"].encode() + _MAGIC).digest())
        self._writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )

    async def _next_text(self) -> bytes | None:
        while True:
            first, second = await self._reader.readexactly(2)
            size = second & 127
            if size == 126:
                (size,) = struct.unpack("!H", await self._reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self._reader.readexactly(8))
            mask = await self._reader.readexactly(4)
            masked = await self._reader.readexactly(size)
            match first & 15:
                case 1:
                    return bytes(byte ^ mask[place % 4] for place, byte in enumerate(masked))
                case 8:
                    return None
                case _:
                    continue

    def _answer(self, frame: Any) -> None:
        if self._vsn == V1:
            frame = [frame.get(name) for name in ("join_ref", "ref", "topic", "event", "payload")]
        join_ref, ref, topic, event, payload = frame
        bindings: list[Any] = []
        if event == "phx_join":
            self._topics[topic] = self
            wanted = payload.get("config", {}).get("postgres_changes") or []
            bindings = [{"id": BINDING_ID + place, **binding} for place, binding in enumerate(wanted)]
        response = {"status": "ok", "response": {"postgres_changes": bindings} if event == "phx_join" else {}}
        self._send(join_ref, ref, topic, "phx_reply", response)
        if bindings:
            ready = {"status": "ok", "extension": "postgres_changes", "message": "Subscribed to PostgreSQL"}
            self._send(join_ref, None, topic, "system", {**ready, "channel": topic.removeprefix("realtime:")})

    def _send(self, join_ref: str | None, ref: str | None, topic: str, event: str, payload: Any) -> None:
        if self._vsn == V1:
            frame: Any = {"ref": ref, "topic": topic, "event": event, "payload": payload}
        else:
            frame = [join_ref, ref, topic, event, payload]
        self._writer.write(framed(json.dumps(frame).encode(), is_binary=False))


async def commands() -> asyncio.StreamReader:
    """Standard input, for reading line by line."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def main() -> None:
    """Serve until standard input ends."""
    topics: dict[str, Peer] = {}
    server = await asyncio.start_server(
        lambda reader, writer: Peer(reader, writer, topics).serve(), "127.0.0.1", 0, limit=1 << 20
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    lines = await commands()
    while line := await lines.readline():
        order = json.loads(line)
        await topics[order["topic"]].blast(**order)


if __name__ == "__main__":
    asyncio.run(main())
