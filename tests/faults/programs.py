"""Programs that end during an operation; `python -m tests.faults.programs NAME URL KEY` prints "ready" there."""

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
    """Report that the state is reached."""
    print("ready", flush=True)


async def forever() -> NoReturn:
    """Stay in this state."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("unreachable")


async def opened(url: str, key: str, **options: Any) -> AsyncClient:
    """Open a client that is never closed."""
    return await connect_async(url, key, heartbeat=1, **options)


async def connecting(url: str, key: str) -> None:
    """Wait in the first connection attempt."""
    asyncio.get_running_loop().call_later(0.2, ready)
    async with connect_async(url, key):
        pass


async def retrying(url: str, key: str) -> None:
    """Wait in the backoff after a refusal."""
    asyncio.get_running_loop().call_later(0.2, ready)
    async with connect_async(url, key, backoff=lambda attempt: 60.0, open_timeout=None):
        pass


async def joining(url: str, key: str) -> None:
    """Wait for a join that is not answered."""
    async with connect_async(url, key) as client:
        asyncio.get_running_loop().call_later(0.1, ready)
        await client.channel("silent").subscribe(timeout=None)


async def iterating(url: str, key: str) -> None:
    """Join, and wait for an event."""
    async with connect_async(url, key) as client, client.channel("room") as room:
        ready()
        async for _ in room.listen(broadcast()):
            pass


async def sending(url: str, key: str) -> None:
    """Wait for an acknowledgement while more is sent."""
    async with connect_async(url, key) as client:
        room = client.channel("room", ack=True)
        await room.subscribe()
        ready()
        while True:
            await room.broadcast("x", {})


async def handling(url: str, key: str) -> None:
    """Run an async handler and a blocking one on the thread that never return."""
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


async def waiting_for_token(url: str, key: str) -> None:
    """Wait for a token provider that blocks its thread."""

    def blocks() -> str:
        ready()
        threading.Event().wait()
        return ""

    async with connect_async(url, key, token=blocks, timeout=50):
        await forever()


async def closing(url: str, key: str) -> None:
    """Wait in `close` for a peer that does not answer."""
    client = await opened(url, key)
    asyncio.get_running_loop().call_later(0.1, ready)
    await client.close()
    ready()
    await forever()


async def forgotten(url: str, key: str) -> None:
    """End the program with an open client, joined and iterated."""
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
    """Call `sys.exit` with an open client."""
    client = await opened(url, key)
    await client.channel("room").subscribe()
    ready()
    sys.exit(3)


async def raising(url: str, key: str) -> None:
    """End the program by an exception with an open client."""
    client = await opened(url, key)
    await client.channel("room").subscribe()
    ready()
    raise KeyError("mine")


async def dying(url: str, key: str) -> None:
    """End the process at once, without cleanup."""
    client = await opened(url, key)
    await client.channel("room").subscribe()
    ready()
    os._exit(4)


PROGRAMS: dict[str, Program] = {
    program.__name__: program
    for program in (
        connecting, retrying, joining, iterating, sending, handling, waiting_for_token, closing,
        forgotten, leaving, raising, dying,
    )
}  # fmt: skip

if __name__ == "__main__":
    loops.install()
    name, url, key = sys.argv[1:]
    asyncio.run(PROGRAMS[name](url, key), debug=False)  # or it would tell how long the import of aiohttp took
