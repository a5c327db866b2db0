"""supawire's async door: `python -m benchmarks.clients.ours URL TOPIC SCENARIO`."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from benchmarks.clients.meter import Meter
from benchmarks.frames import EVENT, TABLE
from supawire import AsyncStream, Selector, broadcast, changes, connect_async


async def main(url: str, topic: str, scenario: str) -> None:
    """Join with the listener of this scenario, then let it count."""
    meter = Meter()
    async with connect_async(url, "key") as client, asyncio.TaskGroup() as tasks:
        channel = client.channel(topic)
        selector: Selector[Any] = changes(TABLE) if scenario.startswith("change") else broadcast(EVENT)
        if scenario in ITERATED:
            reader = tasks.create_task(ITERATED[scenario](channel.listen(selector), meter))
        else:
            reader = None
            channel.on(selector, HANDLERS[scenario](meter))
        await channel.subscribe()
        await meter.obey()
        if reader is not None:
            reader.cancel()


async def iterate_payloads(messages: AsyncStream[Any], meter: Meter) -> None:
    """`async for` that reads what was sent."""
    async for message in messages:
        _ = message.payload
        meter.left -= 1
        if not meter.left:
            meter.stop()


async def iterate_records(rows: AsyncStream[Any], meter: Meter) -> None:
    """`async for` that reads the row."""
    async for change in rows:
        _ = change.record
        meter.left -= 1
        if not meter.left:
            meter.stop()


def payload_read(meter: Meter) -> Callable[[Any], None]:
    """A handler that reads what was sent."""

    def take(message: Any) -> None:
        _ = message.payload
        meter.left -= 1
        if not meter.left:
            meter.stop()

    return take


def record_read(meter: Meter) -> Callable[[Any], None]:
    """A handler that reads the row."""

    def take(change: Any) -> None:
        _ = change.record
        meter.left -= 1
        if not meter.left:
            meter.stop()

    return take


def columns_read(meter: Meter) -> Callable[[Any], None]:
    """A handler that reads each of the eight columns."""

    def take(change: Any) -> None:
        row = change.record
        _ = row["id"], row["title"], row["price"], row["at"], row["owner"], row["meta"], row["done"], row["tags"]
        meter.left -= 1
        if not meter.left:
            meter.stop()

    return take


def not_read(meter: Meter) -> Callable[[Any], None]:
    """A handler that looks at nothing but what kind it is."""

    def take(change: Any) -> None:
        _ = change.type
        meter.left -= 1
        if not meter.left:
            meter.stop()

    return take


HANDLERS: dict[str, Callable[[Meter], Callable[[Any], None]]] = {
    "broadcast": payload_read,
    "broadcast-both": payload_read,
    "binary": payload_read,
    "change": record_read,
    "change-both": record_read,
    "change-typed": columns_read,
    "change-unread": not_read,
}

ITERATED: dict[str, Callable[[AsyncStream[Any], Meter], Coroutine[Any, Any, None]]] = {
    "broadcast-iterated": iterate_payloads,
    "broadcast-both-iterated": iterate_payloads,
    "change-iterated": iterate_records,
}

if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
