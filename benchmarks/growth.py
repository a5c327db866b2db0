"""Curves of cost by number of channels, members and so on, measured in memory; each is flat or linear."""

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.clients.readers import everyone_read, state_read
from benchmarks.frames import BLOCK, EVENT, compact, plain, table_of, topic_of
from benchmarks.inmemory import Memory
from benchmarks.lanes import Count, Turn, fed, opened
from supawire import broadcast, changes, presence

SECONDS: Final = 1.5
"""Duration of the measurement of each point."""

TOPIC: Final = "realtime:lane"
Made = AbstractAsyncContextManager[Turn]


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve. says: what is counted. each: what a figure is the cost of. make: creates a turn with this count."""

    says: str
    each: str
    points: tuple[int, ...]
    make: Callable[[int], Made]


def read(event: Any) -> None:
    """Handle a broadcast: read its payload."""
    _ = event.payload


def read_row(event: Any) -> None:
    """Handle a change: read its record."""
    _ = event.record


def reader() -> Callable[[Any], None]:
    """Return another handler that reads the payload."""

    def take(event: Any) -> None:
        _ = event.payload

    return take


@asynccontextmanager
async def channels(count: int) -> AsyncGenerator[Turn]:
    """Messages to many channels in turn."""
    async with opened() as (client, _, memory):
        for number in range(count):
            channel = client.channel(topic_of("lane", number))
            channel.on(broadcast(EVENT), read)
            await channel.subscribe()
        yield fed(memory, plain("broadcast", "2.0.0", TOPIC, channels=count))


@asynccontextmanager
async def bindings(count: int) -> AsyncGenerator[Turn]:
    """Changes for many bindings in turn."""
    async with opened() as (_, channel, memory):
        for number in range(count):
            channel.on(changes(table_of(number)), read_row)
        await channel.subscribe()
        yield fed(memory, plain("change", "2.0.0", TOPIC, bindings=count))


@asynccontextmanager
async def listeners(count: int) -> AsyncGenerator[Turn]:
    """Messages for many handlers; returns the seconds per delivery."""
    async with opened() as (_, channel, memory):
        for _ in range(count):
            channel.on(broadcast(EVENT), reader())
        await channel.subscribe()
        feed = fed(memory, plain("broadcast", "2.0.0", TOPIC))

        async def turn() -> float:
            return await feed() / count

        yield turn


@asynccontextmanager
async def present(count: int, take: Callable[[Any], None]) -> AsyncGenerator[Memory]:
    """A channel with many members and a presence handler."""
    async with opened(presence_key=str(count)) as (_, channel, memory):
        channel.on(presence(), take)
        await channel.subscribe()
        while len(channel.presence_state()) < count:  # noqa: ASYNC110  there is no event for those who were there
            await asyncio.sleep(0.01)
        yield memory


@asynccontextmanager
async def members(count: int) -> AsyncGenerator[Turn]:
    """Diffs among many members; after each, their number and one of them is read."""
    async with present(count, state_read(Count())) as memory:
        yield fed(memory, plain("diff", "2.0.0", TOPIC))


@asynccontextmanager
async def everyone(count: int) -> AsyncGenerator[Turn]:
    """Diffs among many members; after each, all are read. Returns the seconds per member."""
    async with present(count, everyone_read(Count())) as memory:
        feed = fed(memory, plain("diff", "2.0.0", TOPIC)[: max(2, min(BLOCK, 20_000 // count))])

        async def turn() -> float:
            return await feed() / count

        yield turn


@asynccontextmanager
async def size(count: int) -> AsyncGenerator[Turn]:
    """Messages of this many bytes; returns the seconds per 200 bytes."""
    body = compact({"event": EVENT, "payload": {"text": "x" * (count - 100)}, "type": "broadcast"})
    frame = f'[null,null,"{TOPIC}","broadcast",{body}]'.encode()
    async with opened() as (_, channel, memory):
        channel.on(broadcast(EVENT), read)
        await channel.subscribe()
        feed = fed(memory, [frame] * max(1, 200_000 // count))

        async def turn() -> float:
            return await feed() / (len(frame) / 200)

        yield turn


@asynccontextmanager
async def backlog(count: int) -> AsyncGenerator[Turn]:
    """A stream that is this many messages behind catches up.

    Measured in CPU time, unlike the others: a turn of many messages is long, and other processes run during it. The CPU
    clock is coarse, so a turn of few messages is repeated.
    """
    async with opened() as (_, channel, memory):
        stream = channel.listen(broadcast(EVENT), buffer=count)
        await channel.subscribe()
        frames = (plain("broadcast", "2.0.0", TOPIC) * (count // 512 + 1))[:count]

        times = max(1, 1_000 // count)

        async def turn() -> float:
            began = time.process_time()
            for _ in range(times):
                memory.feed(frames)
                async for number in numbered(stream):
                    if number == count:
                        break
            return (time.process_time() - began) / (count * times)

        yield turn


@asynccontextmanager
async def iterators(count: int) -> AsyncGenerator[Turn]:
    """Create and close another stream on a channel that has this many."""
    async with opened() as (_, channel, _memory):
        others = [channel.listen(broadcast(EVENT)) for _ in range(count)]
        await channel.subscribe()
        times = 100

        async def turn() -> float:
            began = time.perf_counter()
            for _ in range(times):
                channel.listen(broadcast(EVENT)).close()
            return (time.perf_counter() - began) / times

        yield turn
        assert len(others) == count


async def numbered(stream: Any) -> AsyncGenerator[int]:
    """Read the events of a stream and yield their count."""
    number = 0
    async for event in stream:
        read(event)
        number += 1
        yield number


CURVES: Final = {
    "channels": Curve("channels on one connection", "a message", (1, 10, 100, 1_000), channels),
    "bindings": Curve("bindings of one channel", "a change", (1, 10, 100, 500), bindings),
    "listeners": Curve("handlers of one event", "a delivery", (1, 10, 100, 1_000), listeners),
    "members": Curve("members present", "a diff, their number and one member read", (10, 100, 1_000, 10_000), members),
    "everyone": Curve("members present, all read after each diff", "a member", (10, 100, 1_000, 10_000), everyone),
    "size": Curve("bytes of a message", "200 bytes", (200, 2_000, 20_000, 200_000, 3_000_000), size),
    "backlog": Curve("messages waiting in a stream", "a message", (10, 100, 1_000, 10_000, 100_000), backlog),
    "iterators": Curve("streams on one channel", "`listen` and `close`", (1, 10, 100, 1_000, 10_000), iterators),
}
"""By name."""


def grow() -> dict[str, list[list[float]]]:
    """Measure every curve; returns pairs of count and microseconds."""
    return {
        name: [[count, round(asyncio.run(best(curve, count)) * 1e6, 3)] for count in curve.points]
        for name, curve in CURVES.items()
    }


async def best(curve: Curve, count: int) -> float:
    """Return the seconds of the best of many turns."""
    async with curve.make(count) as turn:
        gc.collect()
        until, least = time.monotonic() + SECONDS, float("inf")
        while time.monotonic() < until:
            least = min(least, await turn())
        return least
