"""Many browsers on one upstream channel of `supawire.asgi.Relay`: `python -m benchmarks.relay`.

The relay runs under uvicorn in a process of its own, the local server in this one. Processes of readers open event
streams and WebSockets with plain asyncio sockets and measure from the broadcast to its arrival. Some of the browsers
do not read: the relay has to cut them, and the others must not notice. For each number of browsers it prints how many
deliveries a second were offered and made, the delay, and the memory of the relay.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import socket
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from supawire import Broadcast, LocalServer, broadcast, connect_async

TOPIC: Final = "room"
UPGRADE: Final = (
    "GET /ws HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: c3VwYXdpcmUtYnJvd3Nlcg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
GET: Final = "GET / HTTP/1.1\r\nHost: relay\r\n\r\n"
STAMP: Final = b'"at":'


def raise_limit() -> int:
    """Allow as many open files as the system permits, and return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def memory() -> int:
    """Return the bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


# --- the relay, in a process of its own


def serve(url: str, key: str, port: "multiprocessing.Queue[int]", overflow: str, buffer: int) -> None:
    """Run the relay under uvicorn, and answer /stats with its counters and memory."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Mount, Route

    from supawire.asgi import Relay, View

    raise_limit()
    view = View(TOPIC, broadcast())
    options: Any = {"overflow": overflow, "buffer": buffer, "send_timeout": 5.0}
    relay = Relay(lambda: connect_async(url, key), lambda _: view, **options)

    async def stats(_: Any) -> JSONResponse:
        counted = relay.stats()
        cpu = time.process_time()
        shown = {name: getattr(counted, name) for name in type(counted).__dataclass_fields__}
        return JSONResponse(shown | {"memory": memory(), "cpu": cpu})

    app = Starlette(routes=[Route("/stats", stats), Mount("/", relay)], lifespan=relay.lifespan)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="critical", ws_per_message_deflate=False,
        ws_ping_interval=None, backlog=4096,
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    server = uvicorn.Server(config)

    async def run() -> None:
        running = asyncio.ensure_future(server.serve())
        while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.05)
        port.put(server.servers[0].sockets[0].getsockname()[1])
        await running

    asyncio.run(run())


# --- browsers, in processes of their own


class Reader(asyncio.Protocol):
    """A browser that counts messages and collects their delays."""

    def __init__(self, request: str, delays: list[float], opened: "Opened") -> None:
        self._request = request
        self._delays = delays
        self._opened = opened
        self._rest = b""
        self._accepted = False
        self.count = 0
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request.encode())

    def data_received(self, data: bytes) -> None:
        """Take the time stamps out of the data, whatever frames it is in."""
        if not self._accepted:
            assert data.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 101 ")), data
            self._accepted = True
            self._opened.count += 1
        now = time.time()
        *parts, rest = (self._rest + data).split(STAMP)
        found = len(parts)
        # the number ends with `,`; a part that is cut off is completed by the next data
        for part in [*parts[1:], rest] if found else []:
            number, comma, _ = part.partition(b",")
            if comma:
                self._delays.append(now - float(number))
                self.count += 1
        self._rest = STAMP + rest if found and b"," not in rest else rest[-len(STAMP) :]

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the relay has closed."""
        self.lost = True


class Opened:
    """How many browsers have received the beginning of their stream."""

    count = 0


async def read(port: int, count: int, sockets: int, slow: int, pipe: Any) -> None:
    """Open browsers, then answer commands until the pipe closes."""
    raise_limit()
    loop = asyncio.get_running_loop()
    delays: list[float] = []
    opened = Opened()
    readers: list[Reader] = []
    slow_ones: list[Reader] = []
    every = count // slow if slow else 1
    for number in range(count):
        request = UPGRADE if number < sockets else GET
        is_slow = number % every == 0 and len(slow_ones) < slow
        connection = socket.socket()
        connection.setblocking(False)
        if is_slow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(connection, ("127.0.0.1", port))
        _, reader = await loop.create_connection(lambda r=request: Reader(r, delays, opened), sock=connection)
        (slow_ones if is_slow else readers).append(reader)
        if number % 50 == 0:
            await asyncio.sleep(0.01)
    while opened.count < count:  # noqa: ASYNC110  a counter of this process
        await asyncio.sleep(0.02)
    for reader in slow_ones:
        reader.transport.pause_reading()
    pipe.send(opened.count)
    while True:
        await loop.run_in_executor(None, pipe.poll, None)
        command, wanted = pipe.recv()
        if command == "end":
            return
        deadline = loop.time() + 120
        while sum(reader.count for reader in readers) < wanted * len(readers) and loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        counts = {"received": sum(reader.count for reader in readers), "lost": sum(reader.lost for reader in readers)}
        pipe.send(counts | {"delays": sorted(delays)[:: max(1, len(delays) // 5000)], "finished": time.time()})
        for reader in readers:
            reader.count = 0
        delays.clear()


def run_readers(port: int, count: int, sockets: int, slow: int, pipe: Any) -> None:
    """Run the readers of one process."""
    asyncio.run(read(port, count, sockets, slow, pipe))


# --- the measurement


@asynccontextmanager
async def relay(server: LocalServer, options: argparse.Namespace) -> AsyncGenerator[int]:
    """Start the relay; yield its port."""
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[int] = context.Queue()
    process = context.Process(
        target=serve, args=(server.url, server.anon_key, queue, options.overflow, options.buffer), daemon=True
    )
    process.start()
    try:
        yield await asyncio.to_thread(queue.get, True, 60)
    finally:
        process.terminate()
        await asyncio.to_thread(process.join, 30)
        if process.is_alive():
            process.kill()


async def stats(port: int) -> dict[str, float]:
    """Return the counters of the relay."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /stats HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return json.loads(answer.partition(b"\r\n\r\n")[2])


async def measure(server: LocalServer, browsers: int, options: argparse.Namespace) -> dict[str, float]:
    """Return the figures for one number of browsers."""
    context = multiprocessing.get_context("spawn")
    slow = round(browsers * options.slow)
    async with relay(server, options) as port, connect_async(server.url, server.anon_key) as client:
        empty = await stats(port)
        parts = options.processes
        pipes, processes = [], []
        for number in range(parts):
            mine = browsers // parts + (number < browsers % parts)
            late = slow // parts + (number < slow % parts)
            ours, theirs = context.Pipe()
            arguments = (port, mine, round(mine * options.sockets), late, theirs)
            process = context.Process(target=run_readers, args=arguments, daemon=True)
            process.start()
            pipes.append(ours)
            processes.append(process)
        opened = sum([await asyncio.to_thread(pipe.recv) for pipe in pipes])
        assert opened == browsers, (opened, browsers)
        full = await stats(port)
        rate = options.deliveries / browsers
        count = max(10, round(rate * options.seconds))
        loop = asyncio.get_running_loop()
        channel = client.channel(TOPIC)
        await channel.subscribe()
        text = "x" * options.size
        begin, started = loop.time(), time.time()
        for number in range(count):
            await asyncio.sleep(max(0.0, begin + number / rate - loop.time()))
            await channel.broadcast("m", {"at": time.time(), "text": text})
        for pipe in pipes:
            pipe.send(("wait", count))
        answers = [await asyncio.to_thread(pipe.recv) for pipe in pipes]
        after = await stats(port)
        for pipe in pipes:
            pipe.send(("end", 0))
        for process in processes:
            await asyncio.to_thread(process.join, 20)
        received = sum(answer["received"] for answer in answers)
        delays = sorted(delay for answer in answers for delay in answer["delays"])
        took = max(answer["finished"] for answer in answers) - started
        return {
            "browsers": browsers,
            "offered": options.deliveries,
            "made": received / took,
            "expected": count * (browsers - slow),
            "received": received,
            "lost": sum(answer["lost"] for answer in answers),
            "p50": delays[len(delays) // 2] if delays else float("nan"),
            "p99": delays[int(len(delays) * 0.99)] if delays else float("nan"),
            "cpu": (after["cpu"] - full["cpu"]) / max(1, received) * 1e6,
            "kib": (full["memory"] - empty["memory"]) / browsers / 1024,
            "grown": (after["memory"] - full["memory"]) / 1e6,
            "slow": slow,
            "cut": after["cut"],
            "dropped": after["dropped"],
        }


# --- the same streams by sse-starlette


class Sink:
    """Takes what applications send, without a network."""

    def __init__(self) -> None:
        self.expected = 0
        self.all_there = asyncio.Event()
        self.over = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        """Disconnect at the end."""
        await self.over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        """Count a message."""
        if b"data: " in message.get("body", b""):
            self.expected -= 1
            if not self.expected:
                self.all_there.set()


async def streams(browsers: int, messages: int, *, library: bool) -> tuple[float, float]:
    """Return KiB per browser and CPU µs per delivery of event streams without a network."""
    from sse_starlette import EventSourceResponse

    from supawire.asgi import Relay, View

    async def taken(queue: "asyncio.Queue[bytes]") -> AsyncGenerator[bytes]:
        while True:
            yield await queue.get()

    sink = Sink()
    queues: list[asyncio.Queue[bytes]] = []
    view = View(TOPIC, broadcast())
    async with LocalServer() as server:
        relay = Relay(lambda: connect_async(server.url, server.anon_key), lambda _: view)
        async with relay.lifespan():
            before = memory()
            running: list[asyncio.Task[None]] = []
            for _ in range(browsers):
                scope: Any = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
                queues.append(asyncio.Queue(1000))
                app: Any = EventSourceResponse(taken(queues[-1])) if library else relay
                running.append(asyncio.ensure_future(app(scope, sink.receive, sink.send)))
            await asyncio.sleep(3)  # the channel is joined, and the streams have begun
            kib = (memory() - before) / browsers / 1024
            begin = time.thread_time()
            for _ in range(messages):
                sink.expected = browsers
                sink.all_there.clear()
                if library:
                    frame = b'id: 1\nevent: m\ndata: {"payload":"%s"}\n\n' % (b"x" * 100)
                    for queue in queues:
                        queue.put_nowait(frame)
                else:
                    relay._hub.receive(relay._hub.topics[TOPIC], broadcast(), Broadcast(TOPIC, "m", "x" * 100))
                await sink.all_there.wait()
            cpu = (time.thread_time() - begin) / messages / browsers * 1e6
            sink.over.set()
            await asyncio.wait(running, timeout=5)
    return kib, cpu


def compare(library: bool, pipe: Any) -> None:
    """Measure in a fresh process."""
    pipe.send(asyncio.run(streams(2000, 20, library=library)))


def compare_both() -> None:
    """Print the cost of an event stream of the relay and of sse-starlette."""
    context = multiprocessing.get_context("spawn")
    for library in (False, True):
        ours, theirs = context.Pipe()
        process = context.Process(target=compare, args=(library, theirs))
        process.start()
        kib, cpu = ours.recv()
        process.join()
        name = "sse-starlette" if library else "relay"
        print(f"{name}: {kib:.1f} KiB per browser, {cpu:.1f} µs per delivery, without a network", flush=True)


HEAD: Final = (
    "browsers", "deliveries/s offered", "made", "p50 ms", "p99 ms", "CPU µs per delivery", "KiB per browser",
    "MB grown", "slow", "cut", "received of",
)  # fmt: skip


def line(found: dict[str, float]) -> str:
    """Return the figures as a line of a table."""
    cells = [
        f"{found['browsers']:,.0f}", f"{found['offered']:,.0f}", f"{found['made']:,.0f}", f"{found['p50'] * 1000:,.0f}",
        f"{found['p99'] * 1000:,.0f}", f"{found['cpu']:.1f}", f"{found['kib']:.0f}", f"{found['grown']:.0f}",
        f"{found['slow']:,.0f}", f"{found['cut']:,.0f}", f"{found['received']:,.0f}/{found['expected']:,.0f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


async def main(words: list[str]) -> list[dict[str, float]]:
    """Measure each number of browsers, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay", description=__doc__)
    parser.add_argument("--browsers", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--deliveries", type=float, nargs="+", default=[5000.0], help="offered deliveries a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--sockets", type=float, default=0.5, help="share of WebSockets among the browsers")
    parser.add_argument("--slow", type=float, default=0.0, help="share of browsers that do not read")
    parser.add_argument("--size", type=int, default=100, help="characters of a message")
    parser.add_argument("--overflow", default="error", help="policy of the relay")
    parser.add_argument("--buffer", type=int, default=1000, help="messages that may wait for a browser")
    parser.add_argument("--processes", type=int, default=2, help="processes of readers")
    parser.add_argument("--compare", action="store_true", help="only compare event streams with those of sse-starlette")
    options = parser.parse_args(words)
    if options.compare:
        await asyncio.to_thread(compare_both)
        return []
    limit = raise_limit()
    print(f"{os.cpu_count()} cores, {limit:,} open files for each process", flush=True)
    print("| " + " | ".join(HEAD) + " |", flush=True)
    every: list[dict[str, float]] = []
    for browsers in options.browsers:
        for deliveries in options.deliveries:
            one = argparse.Namespace(**vars(options) | {"deliveries": deliveries})
            async with LocalServer() as server:
                every.append(await measure(server, browsers, one))
            print(line(every[-1]), flush=True)
    return every


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
