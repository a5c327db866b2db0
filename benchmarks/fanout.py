"""What the local server needs for one message to a hundred receivers.

The server is one process, the crowd another: a hundred sockets that throw away what comes, and one that sends. The
crowd sends as much as it likes, but never more than `WINDOW` messages ahead of the slowest receiver; or one message
after another, each when everyone has the one before, so that nothing can be joined into one write.
"""

import asyncio
import json
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
BURST: Final = 32
TURNS: Final = ((MESSAGES, WINDOW), (MESSAGES // 10, 1))
TOPIC: Final = "realtime:room"


def fan_out(rounds: int) -> dict[str, dict[str, Figures]]:
    """CPU microseconds of the server for one delivery, and deliveries a second: under load, and one by one."""
    figures: dict[str, Figures] = {"fan-out": {"cpu": [], "rate": []}, "fan-out-single": {"cpu": [], "rate": []}}
    with Child([sys.executable, "-m", "benchmarks.fanout", "server"]) as server:
        url, key = server.hear().split()
        with Child([sys.executable, "-m", "benchmarks.fanout", "crowd", url, key]) as crowd:
            for number in range(rounds + 1):
                for kept, (messages, window) in zip(figures.values(), TURNS, strict=True):
                    before = _cpu(server)
                    crowd.tell(f"{messages} {window}")
                    wall = float(crowd.hear())
                    if number:  # the first turn is to get warm
                        kept["cpu"].append(round((_cpu(server) - before) / messages / RECEIVERS * 1e6, 4))
                        kept["rate"].append(round(messages * RECEIVERS / wall))
    return {name: {SERVER: kept} for name, kept in figures.items()}


def _cpu(server: Child) -> float:
    server.tell("cpu")
    return float(server.hear())


def serve() -> None:
    """The server: says where it is, then for each line how much CPU it has had."""
    from supawire.server import LocalServer

    with LocalServer() as server:
        print(server.url, server.anon_key, flush=True)
        for _ in sys.stdin:
            print(time.process_time(), flush=True)


class Ear(asyncio.Protocol):
    """A socket that counts bytes."""

    def __init__(self, heard: asyncio.Event) -> None:
        self.bytes = 0
        self._heard = heard
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Something came."""
        self.bytes += len(data)
        self._heard.set()

    async def more_than(self, size: int) -> None:
        """Until so many bytes have come."""
        while self.bytes <= size:
            self._heard.clear()
            await self._heard.wait()


class Crowd:
    """A hundred receivers and a sender in one room."""

    def __init__(self, url: str, key: str) -> None:
        self._where = urlsplit(url)
        self._key = key
        self._heard = asyncio.Event()
        self._ears: list[Ear] = []

    async def enter(self) -> None:
        """Everyone joins; the sender is the last."""
        for _ in range(RECEIVERS + 1):
            self._ears.append(await self._join())
        await asyncio.sleep(0.2)
        self._size = 0
        self._size = await self._told(1)

    async def shout(self, count: int, window: int) -> float:
        """Send so many messages, so many ahead of who hears last, until everyone has them: seconds."""
        began = time.perf_counter()
        goals = [ear.bytes for ear in self._ears[:-1]]
        sent = 0
        while sent < count:
            burst = min(BURST, window, count - sent)
            self._send(burst)
            sent += burst
            await self._until([goal + (sent - window) * self._size for goal in goals])
        await self._until([goal + sent * self._size for goal in goals])
        return time.perf_counter() - began

    async def _until(self, goals: list[int]) -> None:
        while any(ear.bytes < goal for ear, goal in zip(self._ears, goals, strict=False)):
            self._heard.clear()
            await self._heard.wait()

    async def _told(self, count: int) -> int:
        """Bytes of so many messages."""
        before = self._ears[0].bytes
        self._send(count)
        await self._ears[0].more_than(before)
        await asyncio.sleep(0.1)  # the rest of it
        return self._ears[0].bytes - before

    async def _join(self) -> Ear:
        where = self._where
        loop = asyncio.get_running_loop()
        _, ear = await loop.create_connection(lambda: Ear(self._heard), str(where.hostname), where.port or 80)
        ear.transport.write(
            f"GET /realtime/v1/websocket?apikey={self._key}&vsn=2.0.0 HTTP/1.1\r\nHost: {where.netloc}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        await ear.more_than(0)
        upgraded = ear.bytes
        ear.transport.write(framed(["1", "1", TOPIC, "phx_join", {"config": {}}]))
        await ear.more_than(upgraded)
        return ear

    def _send(self, count: int) -> None:
        body = {"type": "broadcast", "event": EVENT, "payload": message(1)}
        self._ears[-1].transport.write(framed(["1", "2", TOPIC, "broadcast", body]) * count)


def framed(frame: Any) -> bytes:
    """A client's frame, with a mask that changes nothing."""
    data = json.dumps(frame, separators=(",", ":")).encode()
    assert 126 <= len(data) < 1 << 16 or len(data) < 126
    size = bytes((0x80 | len(data),)) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2)
    return b"\x81" + size + bytes(4) + data


async def crowd(url: str, key: str) -> None:
    """Enter, then shout on command."""
    room = Crowd(url, key)
    await room.enter()
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(await room.shout(*map(int, line.split())), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve()
    else:
        asyncio.run(crowd(*sys.argv[2:]))
