"""Our worker, with the options that it has by default except for the number of concurrent jobs."""

import psycopg

from benchmarks.queues.roles import Meter, Place, Producer, play
from supawire import col
from supawire.worker import Job, Worker


def new_worker(place: Place, meter: Meter) -> Worker:
    """Return the worker."""
    app = Worker(place.url, place.key, database=place.database)

    @app.job("short", where=col("status") == "pending", concurrency=place.concurrency)
    async def short(job: Job) -> None:
        del job
        meter.handled()

    return app


async def produce(place: Place) -> Producer:
    """Create the table, and return what inserts rows."""
    connection = await psycopg.AsyncConnection.connect(place.database, autocommit=True)
    await connection.execute("""
        create table short (id bigint primary key generated always as identity, status text not null default 'pending');
        grant select on short to service_role;
        alter publication supabase_realtime add table short;
    """)
    await new_worker(place, Meter()).apply_migration()

    async def fill(count: int) -> None:
        await connection.execute("insert into short select from generate_series(1, %s)", [count])

    async def one() -> None:
        await connection.execute("insert into short default values")

    return Producer(fill, one)


async def consume(place: Place, meter: Meter) -> None:
    """Run the worker."""
    await new_worker(place, meter).serve()


if __name__ == "__main__":
    play(produce, consume)
