"""pgmq by its own Python client on asyncpg: each task reads a message, waiting with read_with_poll, and deletes it."""

# pyright: basic, reportMissingImports=false
# the library is in an environment of its own

import asyncio

import asyncpg
from pgmq import AsyncPGMQueue
from pgmq.install import get_embedded_install_sql

from benchmarks.queues.roles import Meter, Place, Producer, play

QUEUE = "short"


async def new_queue(place: Place) -> AsyncPGMQueue:
    """Return a client with a connection for each task. pgmq is installed by its SQL file, not as an extension."""
    pool = await asyncpg.create_pool(place.database, min_size=1, max_size=place.concurrency)
    queue = AsyncPGMQueue(pool=pool, init_extension=False)
    await queue.init()
    return queue


async def produce(place: Place) -> Producer:
    """Install pgmq, create the queue, and return what creates messages."""
    connection = await asyncpg.connect(place.database)
    await connection.execute(get_embedded_install_sql())
    await connection.close()
    queue = await new_queue(place)
    await queue.create_queue(QUEUE)

    async def fill(count: int) -> None:
        await queue.send_batch(QUEUE, [{"n": n} for n in range(count)])

    async def one() -> None:
        await queue.send(QUEUE, {"n": 0})

    return Producer(fill, one)


async def consume(place: Place, meter: Meter) -> None:
    """Run the tasks."""
    queue = await new_queue(place)

    async def work() -> None:
        while True:
            for message in await queue.read_with_poll(QUEUE, vt=30, qty=1, max_poll_seconds=5, poll_interval_ms=100):
                meter.handled()
                await queue.delete(QUEUE, message.msg_id)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(place.concurrency):
            tasks.create_task(work())


if __name__ == "__main__":
    play(produce, consume)
