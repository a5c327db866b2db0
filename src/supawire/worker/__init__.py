"""Work that must be done: jobs that are rows of a table, or messages of a queue, with the extra `supawire[worker]`.

    app = Worker(url, key, database=DATABASE_URL)

    @app.job("orders", where=col("status") == "pending", claim={"status": "running"})
    async def fulfil(job: Job[Order]) -> None: ...

    app.run()

A change that Realtime announces only wakes the worker up; what is to be done is read from the table. So nothing is lost
while Realtime is away. See docs/worker.md for what is guaranteed.
"""

from typing import TYPE_CHECKING, Final

from supawire._lazy import lazy_names, needs_extra

if TYPE_CHECKING:
    from supawire.worker.app import Worker
    from supawire.worker.job import Job, JobTransaction
    from supawire.worker.runner import JobStats
    from supawire.worker.serving import Health, WorkerContext, WorkerStats
    from supawire.worker.source import (
        Batch,
        Claimed,
        Finished,
        MigratingSource,
        Settled,
        Source,
        TransactionalSource,
        Wakeup,
    )
    from supawire.worker.values import NOW, REASON

__all__ = [
    "NOW",
    "REASON",
    "Batch",
    "Claimed",
    "Finished",
    "Health",
    "Job",
    "JobStats",
    "JobTransaction",
    "MigratingSource",
    "Settled",
    "Source",
    "TransactionalSource",
    "Wakeup",
    "Worker",
    "WorkerContext",
    "WorkerStats",
]

_HOMES: Final = {
    "NOW": "values",
    "REASON": "values",
    "Batch": "source",
    "Claimed": "source",
    "Finished": "source",
    "Health": "serving",
    "Job": "job",
    "JobStats": "runner",
    "JobTransaction": "job",
    "MigratingSource": "source",
    "Settled": "source",
    "Source": "source",
    "TransactionalSource": "source",
    "Wakeup": "source",
    "Worker": "app",
    "WorkerContext": "serving",
    "WorkerStats": "serving",
}

if not TYPE_CHECKING:  # hidden from type checkers, which would otherwise accept every misspelt name
    __getattr__ = lazy_names(__name__, _HOMES, needs_extra("worker", "psycopg"))

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
