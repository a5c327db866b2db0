"""Report the progress of background tasks to browsers: Celery, Dramatiq, arq.

    SUPAWIRE_URL=… SUPAWIRE_KEY=… python tasks.py celery|dramatiq|arq

A task that only reports needs no channel: `publish` sends one message by HTTP. Open the client once in each worker
process, at the first use, since workers fork. Here the brokers run in this process.
"""

import asyncio
import os
import sys
from functools import cache
from typing import Any

from supawire import Client, connect, connect_async


@cache
def realtime() -> Client:
    """Return the client of this process, opened at the first use."""
    return connect(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"])


def with_celery() -> None:
    """Run a task of Celery that reports its progress."""
    from celery import Celery

    app = Celery("shop", broker="memory://")
    app.conf.task_always_eager = True

    @app.task(bind=True)
    def export(self: Any, rows: int) -> None:
        for done in range(1, rows + 1):
            realtime().publish(f"task:{self.request.id}", "progress", {"done": done, "of": rows})

    export.apply_async((2,), task_id="celery")


def with_dramatiq() -> None:
    """Run a task of Dramatiq that reports its progress."""
    import dramatiq
    from dramatiq.brokers.stub import StubBroker
    from dramatiq.middleware import CurrentMessage

    broker = StubBroker()
    broker.add_middleware(CurrentMessage())
    dramatiq.set_broker(broker)

    @dramatiq.actor
    def export(rows: int) -> None:
        for done in range(1, rows + 1):
            realtime().publish("task:dramatiq", "progress", {"done": done, "of": rows})

    worker = dramatiq.Worker(broker, worker_timeout=100)
    worker.start()
    export.send(2)
    broker.join("default")
    worker.stop()


async def with_arq() -> None:
    """Run a task of arq that reports its progress; arq itself passes `ctx` and calls `startup`."""
    from arq.worker import func

    async def startup(ctx: dict[str, Any]) -> None:
        ctx["realtime"] = await connect_async(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"])

    async def shutdown(ctx: dict[str, Any]) -> None:
        await ctx["realtime"].close()

    async def export(ctx: dict[str, Any], rows: int) -> None:
        for done in range(1, rows + 1):
            await ctx["realtime"].publish(f"task:{ctx['job_id']}", "progress", {"done": done, "of": rows})

    class WorkerSettings:
        functions = (func(export),)
        on_startup = startup
        on_shutdown = shutdown

    ctx: dict[str, Any] = {"job_id": "arq"}
    await WorkerSettings.on_startup(ctx)
    await WorkerSettings.functions[0].coroutine(ctx, 2)
    await WorkerSettings.on_shutdown(ctx)


if __name__ == "__main__":
    match sys.argv[1]:
        case "celery":
            with_celery()
        case "dramatiq":
            with_dramatiq()
        case name:
            assert name == "arq", f"celery, dramatiq or arq, not {name}"
            asyncio.run(with_arq())
    if realtime.cache_info().currsize:
        realtime().close()
