"""Operations that happen once per process: `python -m benchmarks.clients.cold CLIENT URL TOPIC TASK`.

The first connection with its joins, and the use of memory. Each client is imported when it is requested, since they
are installed in several environments.
"""

import asyncio
import gc
import json
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib import import_module
from itertools import count
from typing import Any, Final

from benchmarks.clients.meter import Meter, resident, say

Joined = Callable[[str, str, int, AsyncExitStack], Awaitable[Any]]
"""Opens a client that has joined this many channels, until the stack is closed."""


def listener(event: Any) -> None:
    """Ignore an event; the channel needs a listener."""


def ours(*, fast: bool = False) -> Joined:
    from benchmarks.frames import EVENT, topic_of
    from supawire import AsyncClient, Limits, broadcast, connect_async
    from supawire.transport.websocket import WebSocketTransport

    if fast:
        import_module("aiofastnet")  # otherwise the first connection imports it

    async def joined(url: str, topic: str, channels: int, stack: AsyncExitStack) -> AsyncClient:
        options: dict[str, Any] = {"limits": Limits.off(), "transport": WebSocketTransport(fast=fast)}
        client = await stack.enter_async_context(connect_async(url, "key", **options))
        async with asyncio.TaskGroup() as tasks:
            for number in range(channels):
                channel = client.channel(topic_of(topic, number))
                channel.on(broadcast(EVENT), listener)
                tasks.create_task(channel.subscribe())
        return client

    return joined


def bare() -> Joined:
    from benchmarks.clients.bare import connected, join
    from benchmarks.scenarios import Task

    async def joined(url: str, topic: str, channels: int, stack: AsyncExitStack) -> Any:
        socket = await stack.enter_async_context(connected(url))
        await join(socket, f"realtime:{topic}", Task(channels=channels))
        return socket

    return joined


def official() -> Joined:
    from benchmarks.clients.official import new_client, subscribed
    from benchmarks.frames import EVENT, topic_of

    async def joined(url: str, topic: str, channels: int, stack: AsyncExitStack) -> Any:
        client = new_client(url)
        async with asyncio.TaskGroup() as tasks:
            for number in range(channels):
                channel = client.channel(topic_of(topic, number))
                channel.on_broadcast(EVENT, lambda event: None)
                tasks.create_task(subscribed(channel))
        stack.push_async_callback(client.remove_all_channels)
        return client

    return joined


CLIENTS: Final[dict[str, Callable[[], Joined]]] = {"ours": ours, "bare": bare, "official": official}


def opener(client: str, *, fast: bool) -> Joined:
    """Return the function that opens this client."""
    return ours(fast=True) if fast else CLIENTS[client]()


CROWD: Final = 20
"""Number of clients whose memory is measured together."""


async def main(client: str, url: str, topic: str, text: str) -> None:
    """Measure one turn."""
    task = json.loads(text)
    joined = opener(client, fast=task["fast"])
    say("joined")
    sys.stdin.readline()
    meter = Meter()
    meter.start(1)
    say("ready")
    async with AsyncExitStack() as stack:
        if task["does"] == "join":
            await joined(url, topic, task["channels"], stack)
            meter.stop()
        else:
            meter.stop(**await memory(joined, url, topic, task["channels"], stack))


async def memory(joined: Joined, url: str, topic: str, channels: int, stack: AsyncExitStack) -> dict[str, float]:
    """Return the KiB of one more channel or client, as counted by Python and as resident memory."""
    names = count()

    async def grown(measure: Callable[[], int], clients: int, channels: int) -> int:
        """Return the bytes used by this many clients with this many channels."""
        gc.collect()
        before = measure()
        for _ in range(clients):
            await joined(url, f"{topic}-{next(names)}", channels, stack)
        gc.collect()
        return measure() - before

    async def each(measure: Callable[[], int]) -> float:
        if channels > 1:
            return (await grown(measure, 1, channels + 1) - await grown(measure, 1, 1)) / channels
        return await grown(measure, CROWD, 1) / CROWD

    await grown(resident, 2, channels)
    rss = await each(resident)
    tracemalloc.start(1)
    traced = await each(lambda: tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return {"traced": traced / 1024, "rss": rss / 1024}


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
