"""Resources left by open/close cycles: `python -m tests.faults.leaks [cycles]` prints them.

The server runs in a separate process, so that only resources of the client are measured. Each kind of cycle runs some
times before the measurement, because some objects are created only once; then tasks, threads, descriptors, objects and
memory are counted before and after.
"""

import asyncio
import gc
import logging
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from supawire import AsyncClient, ConnectionState, broadcast, col, connect_async, gaps, presence, status
from supawire.errors import RealtimeError
from supawire.server import LocalServer
from tests import loops
from tests.conftest import ROOT
from tests.faults.steps import at_once
from tests.held import Held

WARM_UP: Final = 15


@dataclass(frozen=True)
class Load:
    """The resources of this process."""

    tasks: int
    held: Held
    objects: int
    kib: int

    @classmethod
    def now(cls) -> "Load":
        """Return the current resources, after garbage collection."""
        for _ in range(3):
            gc.collect()
        objects = len(gc.get_objects())
        figures = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return cls(len(asyncio.all_tasks()), Held.now(), objects, int(figures["VmRSS"].split()[0]))

    def since(self, before: "Load") -> dict[str, int]:
        """Return the differences to an earlier measurement."""
        return {
            "tasks": self.tasks - before.tasks,
            "threads and files": len(self.held.since(before.held)),
            "objects": self.objects - before.objects,
            "kib": self.kib - before.kib,
        }


Opened = Callable[..., Any]
Cycle = Callable[[Opened], Awaitable[object]]


async def full(opened: Opened) -> None:
    """Use listeners of every kind, presence, sends and an iterator, and close the client."""
    async with opened(heartbeat=1) as client:
        await _use(client)


async def cut(opened: Opened) -> None:
    """Use the same over a connection that is replaced."""
    async with opened() as client:
        await _use(client)
        client.reconnect()
        await client.channel("room", echo=True, ack=True).subscribe()


async def aborted(opened: Opened) -> None:
    """Cancel a call of `close`."""
    client: AsyncClient = await opened()
    await client.channel("room").subscribe()
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    await client.wait_closed()


async def cancelled(opened: Opened) -> None:
    """Cancel the opening of a client."""

    async def enter() -> None:
        async with opened():
            await asyncio.get_running_loop().create_future()

    opening = asyncio.create_task(enter())
    for _ in range(5):
        await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])


async def denied(opened: Opened) -> None:
    """Join a channel that is denied, and call a closed client."""
    async with opened() as client:
        try:
            await client.channel("room", private=True).subscribe()
        except RealtimeError:
            await client.close()
        assert client.state is ConnectionState.CLOSED


async def _use(client: AsyncClient) -> None:
    room = client.channel("room", echo=True, ack=True)

    async def later(_: object) -> None:
        await asyncio.sleep(0)

    for selector in (broadcast(), presence(), gaps(), status()):
        room.on(selector, lambda _: None)
        room.on(selector, later)
        room.on(selector, lambda _: None, thread=True)
    stream = room.listen(broadcast("x"))
    await room.subscribe()
    await room.track({"here": True})
    for number in range(5):
        await room.broadcast("x", number)
        await anext(stream)
    room.listen(broadcast())  # no reference to the stream is kept


async def refused(opened: Opened) -> None:
    """Connect to a port without a server."""
    try:
        await opened(nowhere=True, open_timeout=0.005)
    except RealtimeError:
        return


async def mirrored(opened: Opened) -> None:
    """Close one mirror, one that is fetching when the client ends, and one with a plain fetch."""

    async def fetch() -> list[dict[str, int]]:
        return [{"id": 1}]

    async def hang() -> list[dict[str, int]]:
        return await asyncio.get_running_loop().create_future()

    async with opened() as client:
        async with client.mirror("t", key="id", fetch=fetch, settle=0) as mirror:
            await anext(mirror.listen())
        client.mirror("t", key="id", fetch=hang).listen()
        await client.mirror("t", key="id", fetch=list, settle=0, where=col("n") > 1).ready()


CYCLES: Final[dict[str, Cycle]] = {
    cycle.__name__: cycle for cycle in (full, cut, aborted, cancelled, denied, refused, mirrored)
}


async def measure(kind: str, count: int, url: str, key: str) -> dict[str, int]:
    """Return what this many cycles leave."""

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        unused_url = f"http://127.0.0.1:{unused.getsockname()[1]}"

        def opened(*, nowhere: bool = False, **options: Any) -> Any:
            return connect_async(
                unused_url if nowhere else url, key, backoff=at_once, on_error=lambda _: None, **options
            )

        for _ in range(WARM_UP):
            await CYCLES[kind](opened)
        before = Load.now()
        for _ in range(count):
            await CYCLES[kind](opened)
        for _ in range(200):  # the last sockets are gone a moment later
            if not Held.now().since(before.held):
                break
            await asyncio.sleep(0.01)
        return Load.now().since(before)


@contextmanager
def separate_server() -> Generator[tuple[str, str]]:
    """Run a local server in a separate process; yields its URL and key."""
    command = [sys.executable, "-m", "tests.faults.leaks", "serve"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        url, key = process.stdout.readline().split()
        try:
            yield url, key
        finally:
            process.stdin.close()
            process.wait()


def serve() -> None:
    """Run the server of that process until the parent ends."""
    with LocalServer() as server:
        print(server.url, server.anon_key, flush=True)
        sys.stdin.read()


def main(count: int) -> None:
    """Print the resources left by each kind of cycle."""
    logging.disable(logging.WARNING)
    with separate_server() as (url, key):
        for kind in CYCLES:
            left = asyncio.run(measure(kind, count, url, key))
            print(f"{kind:10} {count} cycles: " + ", ".join(f"{name} {more:+}" for name, more in left.items()))


if __name__ == "__main__":
    loops.install()
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
