"""pgqueuer: its worker with LISTEN/NOTIFY on psycopg. A batch has as many jobs as may run at once."""

# pyright: basic, reportMissingImports=false
# the library is in an environment of its own

from datetime import timedelta

import psycopg
from pgqueuer import PgQueuer
from pgqueuer.db import PsycopgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.queues.roles import Meter, Place, Producer, play


async def new_driver(place: Place) -> PsycopgDriver:
    """Return a driver with a connection of its own."""
    return PsycopgDriver(await psycopg.AsyncConnection.connect(place.database, autocommit=True))


async def produce(place: Place) -> Producer:
    """Create the tables, and return what creates jobs."""
    queries = Queries(await new_driver(place))
    await queries.install()

    async def fill(count: int) -> None:
        await queries.enqueue(["short"] * count, [b"{}"] * count, [0] * count)

    async def one() -> None:
        await queries.enqueue("short", b"{}")

    return Producer(fill, one)


async def consume(place: Place, meter: Meter) -> None:
    """Run the worker."""
    queue = PgQueuer(await new_driver(place))

    @queue.entrypoint("short")
    async def short(job: Job) -> None:
        del job
        meter.handled()

    await queue.run(
        dequeue_timeout=timedelta(seconds=30),
        batch_size=place.concurrency,
        max_concurrent_tasks=2 * place.concurrency,  # the least that it accepts
    )


if __name__ == "__main__":
    play(produce, consume)
