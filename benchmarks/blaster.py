"""The benchmark server: `python -m benchmarks.blaster [CERTIFICATE]`.

It uses TLS if a PEM file with a certificate and its key is given.

It answers joins, heartbeats and acks, and on command sends prepared frames as fast as the receiver accepts them, so
that only the receiver's cost is measured. It prints its port, then reads commands as lines of JSON from standard
input, see `Peer.blast`.
"""

import asyncio
import base64
import hashlib
import json
import ssl
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Final
from urllib.parse import parse_qs, urlsplit

from benchmarks.answers import Answers
from benchmarks.frames import BLOCK, V1, framed, plain

_MAGIC: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CHUNK: Final = 1 << 18


class Peer:
    """One connected client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, topics: "dict[str, Peer]") -> None:
        self._reader = reader
        self._writer = writer
        self._topics = topics
        self._answers = Answers("")
        self._blocks: dict[tuple[str, str, int, int], list[bytes]] = {}

    async def serve(self) -> None:
        """Answer until the client disconnects."""
        try:
            await self._shake_hands()
            unread = bytearray()
            while chunk := await self._reader.read(_CHUNK):
                unread += chunk
                for kind, data in _unmasked(unread):
                    if kind == 8:
                        return
                    self._answer(kind, data)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has disconnected
        finally:
            self._writer.close()

    async def blast(
        self, topic: str, kind: str, count: int, channels: int = 1, bindings: int = 1, pace: float = 0
    ) -> None:
        """Send frames, as fast as the socket accepts them.

        channels: number of channels that get the frames in turn. bindings: number of bindings. pace: seconds between
        two frames, to measure single messages.
        """
        key = topic, kind, channels, bindings
        if key not in self._blocks:
            frames = plain(kind, self._answers.vsn, topic, channels=channels, bindings=bindings)
            self._blocks[key] = [framed(frame, is_binary=kind == "binary") for frame in frames]
        frames = self._blocks[key]
        if pace:
            await self._one_by_one(frames, count, pace)
            return
        whole = b"".join(frames)
        for _ in range(count // BLOCK):
            self._writer.write(whole)
            await self._writer.drain()
        self._writer.write(b"".join(frames[: count % BLOCK]))
        await self._writer.drain()

    async def _one_by_one(self, frames: list[bytes], count: int, pace: float) -> None:
        for frame in islice(frames * (count // len(frames) + 1), count):
            self._writer.write(frame)
            await asyncio.sleep(pace)

    async def _shake_hands(self) -> None:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self._answers = Answers(parse_qs(urlsplit(head[0].split(" ")[1]).query).get("vsn", [V1])[0])
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        accept = base64.b64encode(hashlib.sha1(fields["sec-websocket-key"].encode() + _MAGIC).digest())
        self._writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )

    def _answer(self, kind: int, data: bytes) -> None:
        if kind == 9:  # a ping: clients disconnect without a pong
            self._writer.write(bytes((0x8A, len(data))) + data)
        if kind not in (1, 2):
            return
        for frame in (self._answers.to_text if kind == 1 else self._answers.to_binary)(data):
            self._writer.write(framed(frame))
        for topic in self._answers.topics - self._topics.keys():
            self._topics[topic] = self


def _unmasked(unread: bytearray) -> Iterator[tuple[int, bytes]]:
    """Remove the complete frames from the buffer; returns their opcodes and contents."""
    start = 0
    while len(unread) - start >= 6:
        size, head = unread[start + 1] & 127, 2
        if size >= 126:
            head = 4 if size == 126 else 10
            size = int.from_bytes(unread[start + 2 : start + head])
        begin = start + head + 4
        if len(unread) < begin + size:
            break
        mask = unread[begin - 4 : begin] * (size // 4 + 1)
        masked = int.from_bytes(unread[begin : begin + size]) ^ int.from_bytes(mask[:size])
        yield unread[start] & 15, masked.to_bytes(size)
        start = begin + size
    del unread[:start]


async def commands() -> asyncio.StreamReader:
    """Return a reader for the lines of standard input."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def main(certificate: str | None = None) -> None:
    """Serve until standard input ends."""
    topics: dict[str, Peer] = {}
    tls = None
    if certificate is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
    server = await asyncio.start_server(
        lambda reader, writer: Peer(reader, writer, topics).serve(), "127.0.0.1", 0, limit=1 << 20, ssl=tls
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    lines = await commands()
    while line := await lines.readline():
        order = json.loads(line)
        await topics[order["topic"]].blast(**order)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
