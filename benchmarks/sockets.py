"""Many channels of one client on several sockets, against the local server: `python -m benchmarks.sockets --write`.

The server is one process and accepts 100 channels on a connection. For each number of channels another process has one
client with a handler for each channel. It subscribes to all at once and measures the time until all are joined; a
broadcast is then sent to each topic; the server cuts one connection; and when all channels are joined again, another
broadcast is sent to each. Each handler has to receive the messages of its own topic, each once.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from benchmarks.clients.meter import resident
from benchmarks.measure import Child
from benchmarks.peers import ROOT
from benchmarks.report import KEPT, load, save
from supawire import Broadcast, ChannelState, Limits, LocalServer, broadcast, connect_async
from supawire.server import ServerLimits

CASES: Final = ((100, 1), (1_000, 10), (5_000, 50))
"""Numbers of channels, and the sockets that they need."""

PER_SOCKET: Final = 100
POLL_INTERVAL: Final = 0.01
TIMEOUT: Final = 120.0
"""Seconds for each step."""


def serve() -> None:
    """Run the server: print its address; then `send N` broadcasts to N topics, and `cut TOPIC` drops a connection."""
    with LocalServer(limits=ServerLimits(channels=PER_SOCKET)) as server:
        print(server.url, server.anon_key, flush=True)
        for line in sys.stdin:
            order, argument = line.split()
            if order == "send":
                for number in range(int(argument)):
                    server.broadcast(f"room-{number}", "e", number)
            else:
                joins = [frame for frame in server.frames if frame.topic == argument]
                server.drop_connections(connection=joins[-1].connection)
            print("done", flush=True)


class Measured:
    """One client with many channels. Args: tell: gives an order to the server, and waits until it is carried out."""

    def __init__(self, url: str, key: str, channels: int, sockets: int, tell: Callable[[str], None]) -> None:
        self._url = url
        self._key = key
        self._count = channels
        self._sockets = sockets
        self._tell = tell
        self._received: list[list[Any]] = [[] for _ in range(channels)]
        self._missing = 0
        self._complete = asyncio.Event()

    async def run(self) -> dict[str, float]:
        """Return the figures. Raises: AssertionError if a message is missing or twice."""
        limits = Limits(channels=PER_SOCKET, joins_per_second=None)
        options: dict[str, Any] = {"max_sockets": self._sockets, "limits": limits}
        async with connect_async(self._url, self._key, **options) as client:
            before = resident()
            began, cpu = time.perf_counter(), time.process_time()
            channels = [client.channel(f"room-{number}") for number in range(self._count)]
            for number, channel in enumerate(channels):
                channel.on(broadcast("e"), self._handler(number))

            async def joined() -> None:
                while any(channel.state is not ChannelState.JOINED for channel in channels):  # noqa: ASYNC110
                    await asyncio.sleep(POLL_INTERVAL)

            await asyncio.gather(*(channel.subscribe(timeout=TIMEOUT) for channel in channels))
            join_wall, join_cpu = time.perf_counter() - began, time.process_time() - cpu
            memory = (resident() - before) / self._count
            assert len(client.stats().sockets) == self._sockets
            await self._send(1)
            self._tell(f"cut realtime:room-{self._count - 1}")
            began = time.perf_counter()
            async with asyncio.timeout(TIMEOUT):
                while client.stats().reconnects < 1:  # noqa: ASYNC110  there is no event for a counter
                    await asyncio.sleep(POLL_INTERVAL)
                await joined()
            recovery = time.perf_counter() - began
            await self._send(2)
            sockets = client.stats().sockets
            assert sum(socket.reconnects for socket in sockets) == 1
            assert [socket.channels for socket in sockets] == [PER_SOCKET] * self._sockets
        return {
            "channels": self._count,
            "sockets": self._sockets,
            "join_wall": round(join_wall, 3),
            "join_cpu": round(join_cpu / self._count * 1e6, 1),
            "recovery": round(recovery, 3),
            "memory": round(memory / 1024, 2),
        }

    def _handler(self, number: int) -> Callable[[Broadcast], None]:
        received = self._received[number]

        def take(event: Broadcast) -> None:
            received.append(event.payload)
            self._missing -= 1
            if not self._missing:
                self._complete.set()

        return take

    async def _send(self, times: int) -> None:
        """Let the server send to each topic for the nth time, and wait until all handlers have it."""
        self._missing = self._count
        self._complete.clear()
        await asyncio.to_thread(self._tell, f"send {self._count}")
        async with asyncio.timeout(TIMEOUT):
            await self._complete.wait()
        assert self._received == [[number] * times for number in range(self._count)]


def play(url: str, key: str, channels: int, sockets: int) -> None:
    """Measure one case in this process; orders to the server are lines of output, each answered by a line of input."""

    def tell(order: str) -> None:
        print(order, flush=True)
        sys.stdin.readline()

    print(json.dumps(asyncio.run(Measured(url, key, channels, sockets, tell).run())), flush=True)


def measure(channels: int, sockets: int) -> dict[str, float]:
    """Measure one case with a server and a client in processes of their own."""
    with Child([sys.executable, "-m", "benchmarks.sockets", "server"]) as server:
        where = server.hear().split()
        line = [sys.executable, "-m", "benchmarks.sockets", "client", *where, str(channels), str(sockets)]
        with subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            for said in client.stdout:
                if said.startswith("{"):
                    return json.loads(said)
                server.tell(said.strip())
                print(server.hear(), file=client.stdin, flush=True)
    raise RuntimeError("the client has ended without figures; see its error above")


def main() -> None:
    """Measure all cases, print the figures, and store them if `--write` is given."""
    if sys.argv[1:2] == ["server"]:
        serve()
        return
    if sys.argv[1:2] == ["client"]:
        url, key, channels, sockets = sys.argv[2:]
        play(url, key, int(channels), int(sockets))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sockets", description=__doc__)
    parser.add_argument("--write", action="store_true", help="store the figures for docs/performance.md")
    options = parser.parse_args()
    figures: list[dict[str, float]] = []
    for case in CASES:
        figures.append(measure(*case))
        print(figures[-1], flush=True)
    if options.write:
        save(load() | {"sockets": figures}, KEPT)


if __name__ == "__main__":
    main()
