"""The official Python client, in its own environment: `python -m benchmarks.clients.official URL TOPIC TASK`.

It supports protocol 1.0.0 only, and does not convert columns.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from realtime import AsyncRealtimeClient  # pyright: ignore[reportMissingImports]

from benchmarks.clients.meter import Meter, above_pauses, breath, round_trips
from benchmarks.frames import EVENT, message, table_of, topic_of


async def main(url: str, topic: str, text: str) -> None:
    """Join, then execute the task."""
    task, meter = json.loads(text), Meter()
    client = new_client(url)
    if task["does"] == "receive":
        await listen(client, topic, task, meter)
        await meter.obey()
    elif task["does"] == "state":
        await meter.obey(state_taker(client, topic, task))
    else:
        channel = channel_of(client, topic, task)
        await subscribed(channel)
        await meter.obey((sender if task["does"] == "send" else acked)(channel))
    await client.remove_all_channels()


def new_client(url: str) -> Any:
    """Return a client of this server."""
    return AsyncRealtimeClient(f"{url.replace('http', 'ws')}/realtime/v1", token="key")


def channel_of(client: Any, topic: str, task: dict[str, Any]) -> Any:
    """Return the channel; its presence key requests a number of members from the benchmark server."""
    presence = {"key": str(task["members"] or ""), "enabled": bool(task["members"])}
    broadcast = {"ack": task["does"] == "ack", "self": False}
    return client.channel(topic, {"config": {"broadcast": broadcast, "presence": presence, "private": False}})


async def subscribed(channel: Any) -> None:
    """Subscribe and wait for the join."""
    joined = asyncio.Event()
    await channel.subscribe(lambda state, error: joined.set())
    await joined.wait()


async def listen(client: Any, topic: str, task: dict[str, Any], meter: Meter) -> None:
    """Join with the listeners of this task."""

    def count() -> None:
        meter.left -= 1
        if not meter.left:
            meter.stop()

    def take(event: dict[str, Any]) -> None:
        _ = event["data"]["record"] if changes else event["payload"]
        count()

    def take_state() -> None:
        there.set()
        if task["reads"] == "state":
            state = channels[0].presence_state()
            assert len(state) > len(state["user-1"])
        count()

    changes, there = task["kind"] == "change", asyncio.Event()
    channels = [channel_of(client, topic_of(topic, number), task) for number in range(task["channels"])]
    for channel in channels:
        channel.on_broadcast(EVENT, take)
        for binding in range(task["bindings"]):
            channel.on_postgres_changes("*", take, table=table_of(binding), schema="public")
        if task["members"]:
            channel.on_presence_sync(take_state)
        await subscribed(channel)
    if task["members"]:
        await there.wait()


Act = Callable[[int], Awaitable[dict[str, float] | None]]


def sender(channel: Any) -> Act:
    """Return a function that sends broadcasts one after another."""
    payloads = [message(number) for number in range(512)]

    async def send(count: int) -> None:
        for number in range(count):
            await channel.send_broadcast(EVENT, payloads[number % 512])
            await breath(number)

    return lambda count: above_pauses(count, send)


def acked(channel: Any) -> Act:
    """Return a function that sends broadcasts, each after the ack of the previous one."""
    body = {"type": "broadcast", "event": EVENT, "payload": message(1)}

    async def once() -> None:
        done = asyncio.Event()
        push = await channel.push("broadcast", body)
        push.receive("ok", lambda _: done.set())
        await done.wait()

    return lambda count: round_trips(count, once)


def state_taker(client: Any, topic: str, task: dict[str, Any]) -> Act:
    """Return a function that joins channels with many members."""

    async def take(count: int) -> None:
        for _ in range(count):
            channel, there = channel_of(client, topic, task), asyncio.Event()
            channel.on_presence_sync(there.set)
            await subscribed(channel)
            await there.wait()
            assert len(channel.presence_state()) == task["members"]
            await client.remove_channel(channel)

    return take


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
