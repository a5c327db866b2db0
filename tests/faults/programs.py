"""Programs that end in the middle of something; `python -m tests.faults.programs NAME URL KEY` says "ready" there."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from supawire import AsyncClient, broadcast, connect_async
from tests import loops

Program = Callable[[str, str], Coroutine[Any, Any, object]]


def ready() -> None:
    """Tell the test that the state is reached."""
    print("ready", flush=True)


async def forever() -> NoReturn:
    """Stay in this state."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("unreachable")


async def opened(url: str, key: str, **options: Any) -> AsyncClient:
    """A client that nobody closes."""
    return await connect_async(url, key, heartbeat=1, **options)


async def connecting(url: str, key: str) -> None:
    """In the first attempt."""
    asyncio.get_running_loop().call_later(0.2, ready)
    async with connect_async(url, key):
        pass


async def retrying(url: str, key: str) -> None:
    """In the backoff after a refusal."""
    asyncio.get_running_loop().call_later(0.2, ready)
    async with connect_async(url, key, backoff=lambda attempt: 60.0, open_timeout=None):
        pass


async def joining(url: str, key: str) -> None:
    """A join is not answered."""
    async with connect_async(url, key) as client:
        asyncio.get_running_loop().call_later(0.1, ready)
        await client.channel("silent").subscribe(timeout=None)


async def iterating(url: str, key: str) -> None:
    """Joined, and waiting for an event."""
    async with connect_async(url, key) as client, client.channel("room") as room:
        ready()
        async for _ in room.listen(broadcast()):
            pass


async def sending(url: str, key: str) -> None:
    """An ack is awaited while more is sent."""
    async with connect_async(url, key) as client:
        room = client.channel("room", ack=True)
        await room.subscribe()
        ready()
        while True:
            await room.broadcast("x", {})


async def handling(url: str, key: str) -> None:
    """An async handler and a blocking one on the thread never return."""
    block = threading.Event()
    async with connect_async(url, key) as client:
        room = client.channel("room", echo=True)

        async def hangs(_: object) -> None:
            await forever()

        def blocks(_: object) -> None:
            ready()
            block.wait()

        room.on(broadcast(), hangs)
        room.on(broadcast(), blocks, thread=True)
        await room.subscribe()
        await room.broadcast("x", {})
        await forever()


async def asking(url: str, key: str) -> None:
    """A provider of tokens blocks its thread."""

    def blocks() -> str:
        ready()
        threading.Event().wait()
        return ""

    async with connect_async(url, key, token=blocks, timeout=50):
        await forever()


async def closing(url: str, key: str) -> None:
    """`close` waits for a peer that does not answer."""
    client = await opened(url, key)
    asyncio.get_running_loop().call_later(0.1, ready)
    await client.close()
    ready()
    await forever()


async def forgotten(url: str, key: str) -> None:
    """The program ends with its client open, joined and iterated."""
    client = await opened(url, key)
    room = client.channel("room")
    room.on(broadcast(), print, thread=True)
    await room.subscribe()
    iterating = asyncio.ensure_future(anext(room.listen(broadcast())))
    await room.broadcast("x", {})
    await asyncio.sleep(0)
    ready()
    assert not iterating.done()


async def leaving(url: str, key: str) -> None:
    """The program calls `sys.exit` with its client open."""
    client = await opened(url, key)
    await client.channel("room").subscribe()
    ready()
    sys.exit(3)


async def raising(url: str, key: str) -> None:
    """The program dies of an exception with its client open."""
    client = await opened(url, key)
    await client.channel("room").subscribe()
    ready()
    raise KeyError("mine")


async def dying(url: str, key: str) -> None:
    """The process ends at once, without a word."""
    client = await opened(url, key)
    await client.channel("room").subscribe()
    ready()
    os._exit(4)


PROGRAMS: dict[str, Program] = {
    program.__name__: program
    for program in (
        connecting, retrying, joining, iterating, sending, handling, asking, closing,
        forgotten, leaving, raising, dying,
    )
}  # fmt: skip

if __name__ == "__main__":
    loops.install()
    name, url, key = sys.argv[1:]
    asyncio.run(PROGRAMS[name](url, key), debug=False)  # or it would tell how long the import of aiohttp took
