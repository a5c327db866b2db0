"""procrastinate: its worker with LISTEN/NOTIFY and the polling interval that it has by default."""

# pyright: basic, reportMissingImports=false
# the library is in an environment of its own

import procrastinate

from benchmarks.queues.roles import Meter, Place, Producer, play


def new_app(place: Place) -> procrastinate.App:
    """Return an app with room for one connection per job, and two for the worker itself; at least the usual four."""
    size = max(4, place.concurrency + 2)
    return procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=place.database, max_size=size))


async def produce(place: Place) -> Producer:
    """Create the tables, and return what creates jobs."""
    app = new_app(place)
    await app.open_async()
    await app.schema_manager.apply_schema_async()
    deferrer = app.configure_task("short")

    async def fill(count: int) -> None:
        await deferrer.batch_defer_async(*({"n": n} for n in range(count)))

    async def one() -> None:
        await deferrer.defer_async(n=0)

    return Producer(fill, one)


async def consume(place: Place, meter: Meter) -> None:
    """Run the worker."""
    app = new_app(place)

    @app.task(name="short")
    async def short(n: int) -> None:
        del n
        meter.handled()

    async with app.open_async():
        await app.run_worker_async(concurrency=place.concurrency, install_signal_handlers=False)


if __name__ == "__main__":
    play(produce, consume)
