"""The cost of the local server for one message to a hundred receivers.

The server is one process, the crowd another: a hundred sockets that discard what they receive, and one that sends. The
crowd sends at most `WINDOW` messages ahead of the slowest receiver; or one message at a time, each when all have
received the previous one, so that messages cannot share a write. In a second crowd each socket is read by its own
process, so that receivers compete for the machine like real clients.
"""

import asyncio
import json
import mmap
import os
import socket
import sys
import time
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.frames import EVENT, message
from benchmarks.measure import Child, Figures
from benchmarks.scenarios import SERVER

RECEIVERS: Final = 100
MESSAGES: Final = 1_000
WINDOW: Final = 128
MAX_BATCH: Final = 32
TURNS: Final = {"fan-out": (MESSAGES, WINDOW), "fan-out-single": (MESSAGES // 10, 1)}
SEPARATE: Final = {"fan-out-separate": (MESSAGES, WINDOW)}
POLL_INTERVAL: Final = 0.0005
TOPIC: Final = "realtime:room"


def fan_out(rounds: int) -> dict[str, dict[str, Figures]]:
    """Return the server's CPU microseconds per delivery and deliveries per second: under load, and one at a time."""
    figures: dict[str, Figures] = {name: {"cpu": [], "rate": []} for name in (*TURNS, *SEPARATE)}
    for who, turns in (("crowd", TURNS), ("separate", SEPARATE)):
        _measure(who, turns, rounds, figures)
    return {name: {SERVER: kept} for name, kept in figures.items()}


def _measure(who: str, turns: dict[str, tuple[int, int]], rounds: int, figures: dict[str, Figures]) -> None:
    """Measure with one kind of crowd."""
    with Child([sys.executable, "-m", "benchmarks.fanout", "server"]) as server:
        url, key = server.hear().split()
        with Child([sys.executable, "-m", "benchmarks.fanout", who, url, key]) as crowd:
            for number in range(rounds + 1):
                for name, (messages, window) in turns.items():
                    kept, before = figures[name], _cpu(server)
                    crowd.tell(f"{messages} {window}")
                    wall = float(crowd.hear())
                    if number:  # the first turn warms up
                        kept["cpu"].append(round((_cpu(server) - before) / messages / RECEIVERS * 1e6, 4))
                        kept["rate"].append(round(messages * RECEIVERS / wall))


def _cpu(server: Child) -> float:
    server.tell("cpu")
    return float(server.hear())


def serve() -> None:
    """Run the server: print its address, then its CPU time for each line of input."""
    from supawire.server import LocalServer

    with LocalServer() as server:
        print(server.url, server.anon_key, flush=True)
        for _ in sys.stdin:
            print(time.process_time(), flush=True)


class Receiver(asyncio.Protocol):
    """A socket that counts bytes."""

    def __init__(self, heard: asyncio.Event) -> None:
        self.bytes = 0
        self._heard = heard
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Count received bytes."""
        self.bytes += len(data)
        self._heard.set()

    async def more_than(self, size: int) -> None:
        """Wait until this many bytes have arrived."""
        while self.bytes <= size:
            self._heard.clear()
            await self._heard.wait()


class Crowd:
    """A hundred receivers and a sender on one topic."""

    def __init__(self, url: str, key: str) -> None:
        self._where = urlsplit(url)
        self._key = key
        self._heard = asyncio.Event()
        self._receivers: list[Receiver] = []

    async def join_all(self) -> None:
        """Join all sockets, the sender last."""
        for _ in range(RECEIVERS + 1):
            self._receivers.append(await self._join())
        await asyncio.sleep(0.2)
        self._size = 0
        self._size = await self._bytes_of(1)

    async def send_all(self, count: int, window: int) -> float:
        """Send messages, at most `window` ahead of the slowest receiver, until all have them; returns the seconds."""
        began = time.perf_counter()
        goals = [receiver.bytes for receiver in self._receivers[:-1]]
        sent = 0
        while sent < count:
            burst = min(MAX_BATCH, window, count - sent)
            self._send(burst)
            sent += burst
            await self._until([goal + (sent - window) * self._size for goal in goals])
        await self._until([goal + sent * self._size for goal in goals])
        return time.perf_counter() - began

    async def _until(self, goals: list[int]) -> None:
        while any(receiver.bytes < goal for receiver, goal in zip(self._receivers, goals, strict=False)):
            self._heard.clear()
            await self._heard.wait()

    async def _bytes_of(self, count: int) -> int:
        """Return the bytes of this many messages."""
        before = self._receivers[0].bytes
        self._send(count)
        await self._receivers[0].more_than(before)
        await asyncio.sleep(0.1)  # the rest of the joins
        return self._receivers[0].bytes - before

    async def _join(self) -> Receiver:
        where = self._where
        loop = asyncio.get_running_loop()
        _, receiver = await loop.create_connection(lambda: Receiver(self._heard), str(where.hostname), where.port or 80)
        receiver.transport.write(upgrade(where.netloc, self._key))
        await receiver.more_than(0)
        upgraded = receiver.bytes
        receiver.transport.write(JOIN)
        await receiver.more_than(upgraded)
        return receiver

    def _send(self, count: int) -> None:
        self._receivers[-1].transport.write(BROADCAST * count)


class SeparateCrowd:
    """The same number of sockets, each read by its own process, which counts bytes in shared memory."""

    def __init__(self, url: str, key: str) -> None:
        self._where = urlsplit(url)
        self._key = key
        self._counts = memoryview(mmap.mmap(-1, 8 * RECEIVERS)).cast("Q")
        self._sender = self._join()
        self._readers = [self._fork(number) for number in range(RECEIVERS)]
        self._send(1)
        self._size = 0
        while not all(self._counts):
            time.sleep(POLL_INTERVAL)
        time.sleep(0.2)  # the rest of the joins
        self._size = self._counts[0]

    def send_all(self, count: int, window: int) -> float:
        """Send messages, at most `window` ahead of the slowest receiver, until all have them; returns the seconds."""
        began, sent, start = time.perf_counter(), 0, list(self._counts)
        while sent < count:
            burst = min(MAX_BATCH, window, count - sent)
            self._send(burst)
            sent += burst
            self._until(start, sent - window)
        self._until(start, sent)
        return time.perf_counter() - began

    def _until(self, start: list[int], messages: int) -> None:
        while any(now < then + messages * self._size for now, then in zip(self._counts, start, strict=True)):
            time.sleep(POLL_INTERVAL)

    def _join(self) -> socket.socket:
        connection = socket.create_connection((str(self._where.hostname), self._where.port or 80))
        connection.sendall(upgrade(self._where.netloc, self._key))
        connection.recv(65_536)
        connection.sendall(JOIN)
        connection.recv(65_536)
        return connection

    def _fork(self, number: int) -> int:
        connection = self._join()
        if child := os.fork():
            connection.close()
            return child
        try:
            while more := len(connection.recv(1 << 18)):
                self._counts[number] += more
        finally:
            os._exit(0)

    def _send(self, count: int) -> None:
        self._sender.sendall(BROADCAST * count)


def framed(frame: Any) -> bytes:
    """Return a client's frame, with a mask of zeros."""
    data = json.dumps(frame, separators=(",", ":")).encode()
    assert 126 <= len(data) < 1 << 16 or len(data) < 126
    size = bytes((0x80 | len(data),)) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2)
    return b"\x81" + size + bytes(4) + data


JOIN: Final = framed(["1", "1", TOPIC, "phx_join", {"config": {}}])
BROADCAST: Final = framed(["1", "2", TOPIC, "broadcast", {"type": "broadcast", "event": EVENT, "payload": message(1)}])


def upgrade(host: str, key: str) -> bytes:
    """Return the request of a WebSocket handshake."""
    return (
        f"GET /realtime/v1/websocket?apikey={key}&vsn=2.0.0 HTTP/1.1\r\nHost: {host}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ).encode()


async def crowd(url: str, key: str) -> None:
    """Join, then send on command."""
    room = Crowd(url, key)
    await room.join_all()
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(await room.send_all(*map(int, line.split())), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve()
    elif sys.argv[1] == "separate":
        separate = SeparateCrowd(*sys.argv[2:])
        for line in sys.stdin:
            print(separate.send_all(*map(int, line.split())), flush=True)
    else:
        asyncio.run(crowd(*sys.argv[2:]))
