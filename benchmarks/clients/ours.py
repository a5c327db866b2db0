"""supawire's async client: `python -m benchmarks.clients.ours URL TOPIC TASK`."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.clients.meter import Meter, above_pauses, breath, round_trips
from benchmarks.clients.readers import READERS, Todo
from benchmarks.frames import EVENT, message, table_of, topic_of
from benchmarks.scenarios import Task
from supawire import (
    AsyncChannel,
    AsyncClient,
    AsyncStream,
    Limits,
    PresenceSync,
    Selector,
    broadcast,
    changes,
    connect_async,
    presence,
)
from supawire.transport.websocket import Reading, WebSocketTransport


async def main(url: str, topic: str, text: str) -> None:
    """Join, then execute the task."""
    task, meter = Task(**json.loads(text)), Meter()
    transport = WebSocketTransport(fast=task.fast, reading=Reading(task.reading))
    async with (
        connect_async(url, "key", limits=Limits.off(), transport=transport) as client,
        asyncio.TaskGroup() as tasks,
    ):
        if task.does == "receive":
            readers = [tasks.create_task(reader) for reader in await listen(client, topic, task, meter)]
            await meter.obey()
            for reader in readers:
                reader.cancel()
        else:
            await meter.obey(await ACTS[task.does](client, topic, task))


async def listen(client: AsyncClient, topic: str, task: Task, meter: Meter) -> list[Any]:
    """Join with the listeners of this task; returns the coroutines that they need."""
    channels = [channel_of(client, topic_of(topic, number), task) for number in range(task.channels)]
    reader = READERS[task.reads](meter)
    streams = [
        each.listen(one) if task.by in ("iterator", "batches") else on(each, one, reader, task)
        for each in channels
        for one in selectors(task)
    ]
    for each in channels:
        await each.subscribe()
    while len(channels[0].presence_state()) < task.members:  # noqa: ASYNC110  there is no event for those who were there
        await asyncio.sleep(0.01)
    iterate = over_batches if task.by == "batches" else over_events
    return [iterate(stream, reader) for stream in streams if stream is not None]


def channel_of(client: AsyncClient, topic: str, task: Task) -> AsyncChannel:
    """Return the channel; its presence key requests a number of members from the benchmark server."""
    return client.channel(topic, presence_key=str(task.members) if task.members else None, ack=task.does == "ack")


def selectors(task: Task) -> list[Selector[Any]]:
    """Return the selectors of the task."""
    model = Todo if task.reads == "model" else None
    match task.kind:
        case "change":
            return [changes(table_of(number), model=model) for number in range(task.bindings)]
        case "diff":
            return [presence()]
        case _:
            return [broadcast(EVENT)]


def on(channel: AsyncChannel, selector: Selector[Any], reader: Callable[[Any], None], task: Task) -> None:
    """Register the handler."""

    async def take(event: Any) -> None:
        reader(event)

    channel.on(selector, take if task.by == "async" else reader)


async def over_events(events: AsyncStream[Any], reader: Callable[[Any], None]) -> None:
    """Read the events of the task with `async for`."""
    async for event in events:
        reader(event)


async def over_batches(events: AsyncStream[Any], reader: Callable[[Any], None]) -> None:
    """Read the events of the task in lists."""
    async for batch in events.batches():
        for event in batch:
            reader(event)


Act = Callable[[int], Awaitable[dict[str, float] | None]]


async def sender(client: AsyncClient, topic: str, task: Task) -> Act:
    """Return a function that sends broadcasts one after another."""
    channel = channel_of(client, topic, task)
    await channel.subscribe()
    payloads = [message(number) for number in range(512)]

    async def send(count: int) -> None:
        for number in range(count):
            await channel.broadcast(EVENT, payloads[number % 512])
            await breath(number)

    return lambda count: above_pauses(count, send)


async def acked(client: AsyncClient, topic: str, task: Task) -> Act:
    """Return a function that sends broadcasts, each after the ack of the previous one."""
    channel = channel_of(client, topic, task)
    await channel.subscribe()
    payload = message(1)
    return lambda count: round_trips(count, lambda: channel.broadcast(EVENT, payload))


async def state_taker(client: AsyncClient, topic: str, task: Task) -> Act:
    """Return a function that joins channels with many members."""

    async def take(count: int) -> None:
        for _ in range(count):
            channel, there = channel_of(client, topic, task), asyncio.Event()
            channel.on(presence(), lambda event, there=there: there.set() if isinstance(event, PresenceSync) else None)
            await channel.subscribe()
            await there.wait()
            assert len(channel.presence_state()) == task.members
            await client.remove_channel(channel)

    return take


ACTS = {"send": sender, "ack": acked, "state": state_taker}


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
