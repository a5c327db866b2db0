"""A loop of `websockets` and `json` without a client, in the environment of the official client.

`python -m benchmarks.clients.plain URL TOPIC TASK`
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.asyncio.client import connect

from benchmarks.clients.meter import Meter, above_pauses, breath
from benchmarks.frames import EVENT, compact, message, table_of


async def main(url: str, topic: str, text: str) -> None:
    """Join, then execute the task."""
    task, meter = json.loads(text), Meter()
    topic = f"realtime:{topic}"
    bindings = [{"event": "*", "schema": "public", "table": table_of(number)} for number in range(task["bindings"])]
    url = f"{url.replace('http', 'ws')}/realtime/v1/websocket?apikey=key&vsn=2.0.0"
    async with connect(url, compression=None, max_size=16_000_000) as socket, asyncio.TaskGroup() as tasks:
        await socket.send(compact(["1", "1", topic, "phx_join", {"config": {"postgres_changes": bindings}}]))
        for _ in range(1 + bool(bindings)):
            await socket.recv()
        if task["does"] == "send":
            await meter.obey(sender(socket, topic))
            return
        reader = tasks.create_task(read(socket, meter))
        await meter.obey()
        reader.cancel()


async def read(socket: Any, meter: Meter) -> None:
    """Receive and decode frames in a loop."""
    while True:
        json.loads(await socket.recv())
        meter.left -= 1
        if not meter.left:
            meter.stop()


def sender(socket: Any, topic: str) -> Callable[[int], Awaitable[dict[str, float]]]:
    """Return a function that sends broadcasts one after another."""
    payloads = [message(number) for number in range(512)]

    async def send(count: int) -> None:
        for number in range(count):
            body = {"type": "broadcast", "event": EVENT, "payload": payloads[number % 512]}
            await socket.send(compact(["1", str(number), topic, "broadcast", body]))
            await breath(number)

    return lambda count: above_pauses(count, send)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
