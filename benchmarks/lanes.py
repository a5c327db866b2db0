"""The cost per message in memory, by kind: the client, and a plain loop that does the minimum with the same frames."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from benchmarks.clients.meter import Meter
from benchmarks.clients.readers import Todo, columns_read, payload_read, record_read, state_read
from benchmarks.frames import BLOCK, EVENT, TABLE, message, plain
from benchmarks.inmemory import URL, Memory
from supawire import AsyncChannel, AsyncClient, Limits, Selector, broadcast, changes, connect, connect_async, presence

TOPIC: Final = "realtime:lane"
MEMBERS: Final = 1000
_decode = msgspec.json.Decoder().decode

Turn = Callable[[], Coroutine[Any, Any, float]]
"""One turn; returns the seconds per message."""


class Count(Meter):
    """Counts messages without a report."""

    def stop(self, **more: float) -> None:
        """Do nothing."""


@asynccontextmanager
async def opened(topic: str = "lane", **options: Any) -> AsyncGenerator[tuple[AsyncClient, AsyncChannel, Memory]]:
    """Open a client in memory; yields it with its channel and its transport."""
    memory = Memory()
    async with connect_async(URL, "key", transport=memory, limits=Limits.off()) as client:
        yield client, client.channel(topic, **options), memory


def bare_turn(frames: Sequence[bytes]) -> Turn:
    """Return a turn of a plain loop: decode, find the handler by topic and event, and call it."""
    listeners: dict[Any, dict[Any, Callable[[Any], None]]] = {}
    seen: list[Any] = [None]

    def take(payload: Any) -> None:
        seen[0] = payload

    for frame in frames:
        _, _, topic, event, _ = _decode(frame)
        listeners.setdefault(topic, {})[event] = take

    async def turn() -> float:
        began = time.thread_time()
        for frame in frames:
            _, _, topic, event, payload = _decode(frame)
            listeners[topic][event](payload)
        return (time.thread_time() - began) / len(frames)

    return turn


def fed(memory: Memory, frames: Sequence[bytes], *, is_binary: bool = False) -> Turn:
    """Return a turn that passes all frames to the client and waits for the end of the batch."""

    async def turn() -> float:
        began = time.thread_time()
        memory.feed(frames, is_binary)
        await asyncio.sleep(0)
        return (time.thread_time() - began) / len(frames)

    return turn


@asynccontextmanager
async def receiving(
    kind: str, selector: Selector[Any], read: Callable[[Meter], Callable[[Any], None]]
) -> AsyncGenerator[Turn]:
    """Create turns in which a handler receives a block of frames."""
    options: dict[str, Any] = {"presence_key": str(MEMBERS)} if kind == "diff" else {}
    async with opened(**options) as (_, channel, memory):
        channel.on(selector, read(Count()))
        await channel.subscribe()
        await asyncio.sleep(0.01)
        yield fed(memory, plain(kind, "2.0.0", TOPIC), is_binary=kind == "binary")


@asynccontextmanager
async def sending() -> AsyncGenerator[Turn]:
    """Create turns in which a block of messages is sent."""
    payloads = [message(number) for number in range(BLOCK)]
    async with opened() as (_, channel, _):
        await channel.subscribe()

        async def turn() -> float:
            began = time.thread_time()
            for payload in payloads:
                await channel.broadcast(EVENT, payload)
            return (time.thread_time() - began) / BLOCK

        yield turn


@asynccontextmanager
async def sync() -> AsyncGenerator[Turn]:
    """Create turns in which a handler of the sync client receives a block of frames in its thread."""
    memories: list[Memory] = []

    class Late:
        """A transport that is created on the client's event loop."""

        async def open(self, request: Any, /) -> Memory:
            memories.append(Memory())
            return memories[-1]

    frames = plain("broadcast", "2.0.0", TOPIC)
    loop, done, left = asyncio.get_running_loop(), asyncio.Event(), [0]

    def take(event: Any) -> None:
        _ = event.payload
        left[0] -= 1
        if not left[0]:
            loop.call_soon_threadsafe(done.set)

    client = await asyncio.to_thread(connect(URL, "key", transport=Late(), limits=Limits.off()).__enter__)
    try:
        channel = client.channel("lane")
        channel.on(broadcast(EVENT), take)
        await asyncio.to_thread(channel.subscribe)

        async def turn() -> float:
            left[0] = BLOCK
            done.clear()
            began = time.process_time()
            memories[-1].feed_from_outside(frames)
            await done.wait()
            return (time.process_time() - began) / BLOCK

        yield turn
    finally:
        await asyncio.to_thread(client.close)


LANES: Final = {
    "text": lambda: receiving("broadcast", broadcast(EVENT), payload_read),
    "binary": lambda: receiving("binary", broadcast(EVENT), payload_read),
    "change": lambda: receiving("change", changes(TABLE), record_read),
    "change, columns read": lambda: receiving("change", changes(TABLE), columns_read),
    "change, dataclass": lambda: receiving("change", changes(TABLE, model=Todo), record_read),
    "presence diff, state read": lambda: receiving("diff", presence(), state_read),
    "send": sending,
    "sync client": sync,
}
"""The functions that create the turns, by name."""
