"""One message per wake-up: a bare loop and supawire in one process, in small alternating slices.

`python -m benchmarks.clients.wake async|sync URL TOPIC TASK`. The cost of a wake-up depends on the system and varies
within minutes by more than a client adds, so only the difference is compared.
"""

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack
from statistics import median
from typing import Any

from benchmarks.clients.bare import connected, join, read
from benchmarks.clients.bare import decode as decode_json
from benchmarks.clients.meter import Meter, say
from benchmarks.frames import EVENT
from benchmarks.scenarios import Task
from supawire import broadcast, connect, connect_async
from supawire.transport.websocket import Reading, WebSocketTransport


class Counter(Meter):
    """Reports within this process that all messages were delivered."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self.done = asyncio.Event()

    def stop(self, **more: float) -> None:
        """End the turn; may be called on any thread."""
        self._loop.call_soon_threadsafe(self.done.set)

    async def cost(self, topic: str, count: int) -> float:
        """Request this many messages for the topic; returns the CPU seconds per message."""
        self.done.clear()
        self.left = count
        began = time.process_time()
        say(json.dumps({"blast": topic, "count": count}))
        await self.done.wait()
        return (time.process_time() - began) / count


async def main(api: str, url: str, topic: str, text: str) -> None:
    """Join with both, then execute commands."""
    task = Task(**json.loads(text))
    ours, bare = Counter(), Counter()

    def take(message: Any) -> None:
        _ = message.payload
        ours.left -= 1
        if not ours.left:
            ours.stop()

    async with AsyncExitStack() as stack:
        transport = WebSocketTransport(fast=task.fast, reading=Reading(task.reading))
        if api == "async":
            client = await stack.enter_async_context(connect_async(url, "key", transport=transport))
            channel = client.channel(f"{topic}-ours")
            channel.on(broadcast(EVENT), take)
            await channel.subscribe()
        else:
            sync_client = await asyncio.to_thread(stack.enter_context, connect(url, "key", transport=transport))
            sync_channel = sync_client.channel(f"{topic}-ours")
            sync_channel.on(broadcast(EVENT), take)
            await asyncio.to_thread(sync_channel.subscribe)
        socket = await stack.enter_async_context(connected(url))
        await join(socket, f"realtime:{topic}-bare", task)
        reader = asyncio.create_task(read(socket, bare, decode_json))
        say("joined")
        while line := await asyncio.to_thread(sys.stdin.readline):
            say("ready")
            costs = [
                (await bare.cost(f"{topic}-bare", SLICE), await ours.cost(f"{topic}-ours", SLICE))
                for _ in range(max(1, int(line) // SLICE))
            ]
            above, whole = median(one - other for other, one in costs), median(one for _, one in costs)
            spent = SLICE * sum(one for _, one in costs)
            say(json.dumps({"cpu": spent, "wall": 0, "above": above * 1e6, "whole": whole * 1e6}))
        reader.cancel()


SLICE = 100

if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
