"""Jobs in memory, for tests of handlers and of the worker: no database, and the event loop's time."""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from supawire.errors import ConnectError
from supawire.worker.source import Batch, Claimed, Finished, Settled


@dataclass(slots=True)
class MemoryJob:
    """A job, and what became of it.

    visible_at: when a running job's lease ends or a waiting one is due, in the time of the loop. claims: how often it
    was claimed. completions: how often it was completed; never more than once. values: what the handler wrote with
    `job.write`. error: of the last attempt that failed.
    """

    row: dict[str, Any]
    state: Literal["waiting", "running", "done", "dead"] = "waiting"
    attempts: int = 0
    claims: int = 0
    completions: int = 0
    visible_at: float = 0.0
    created_at: float | None = None
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    error: str | None = None


class MemoryJobs:
    """A source of jobs for `Worker.source`, with the rules of a table: leases, attempts, dead letters.

        jobs = MemoryJobs([{"id": 1}])
        app.source("orders", lambda _: jobs)(handler)
        await app.serve(until_idle=True)
        assert jobs.jobs[0].state == "done"

    While `down` is True, every call fails as if the database could not be reached. `calls` counts them by name.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = (), *, name: str = "memory") -> None:
        self.name: Final = name
        self.wakeup: Final = None
        self.jobs: Final[list[MemoryJob]] = []
        self.down: bool = False
        self.calls: Final = Counter[str]()
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> MemoryJob:
        """Add a job. A worker finds it at its next claim."""
        job = MemoryJob(dict(row))
        self.jobs.append(job)
        return job

    @property
    def columns(self) -> Collection[str]:
        """The columns of all rows."""
        return {column for job in self.jobs for column in job.row}

    async def prepare(self) -> Sequence[str]:
        """Return no warnings."""
        self._check("prepare")
        return ()

    async def claim(self, limit: int, lease: float) -> Batch:
        """Take the jobs that are due, oldest first."""
        self._check("claim")
        now = self._now()
        due = [
            number
            for number, job in enumerate(self.jobs)
            if job.state in ("waiting", "running") and job.visible_at <= now
        ][:limit]
        taken = [self._take(number, now, lease) for number in due]
        later = [job.visible_at for job in self.jobs if job.state in ("waiting", "running") and job.visible_at > now]
        return Batch(taken, min(later) - now if later else None)

    def _take(self, number: int, now: float, lease: float) -> Claimed:
        job = self.jobs[number]
        job.state = "running"
        job.attempts += 1
        job.claims += 1
        job.visible_at = now + lease
        job.created_at = now if job.created_at is None else job.created_at
        return Claimed((number,), job.row, job.attempts, (number, job.claims), now - job.created_at)

    async def extend(self, claims: Sequence[Claimed], lease: float) -> Collection[Any]:
        """Extend the leases that are held."""
        self._check("extend")
        held = [claim.token for claim in claims if self._held(claim) is not None]
        for number, _ in held:
            self.jobs[number].visible_at = self._now() + lease
        return held

    async def complete(self, finished: Sequence[Finished]) -> Sequence[Settled]:
        """Complete jobs."""
        self._check("complete")
        return [self._complete(one) for one in finished]

    def _complete(self, finished: Finished) -> Settled:
        job = self._held(finished.claim)
        if job is None:
            return "lost"
        job.state = "done"
        job.completions += 1
        job.values = dict(finished.values)
        return "done"

    async def retry(self, claim: Claimed, delay: float, error: str) -> bool:
        """Let a job wait."""
        self._check("retry")
        job = self._held(claim)
        if job is not None:
            job.state, job.visible_at, job.error = "waiting", self._now() + delay, error
        return job is not None

    async def fail(self, claim: Claimed, reason: str) -> bool:
        """Make a job a dead letter."""
        self._check("fail")
        job = self._held(claim)
        if job is not None:
            job.state, job.error = "dead", reason
        return job is not None

    async def release(self, claims: Sequence[Claimed]) -> None:
        """Give jobs back."""
        self._check("release")
        for claim in claims:
            job = self._held(claim)
            if job is not None:
                job.state, job.visible_at = "waiting", 0.0
                job.attempts -= 1

    async def close(self) -> None:
        """Do nothing."""

    def _held(self, claim: Claimed) -> MemoryJob | None:
        number, claims = cast("tuple[int, int]", claim.token)
        job = self.jobs[number]
        return job if job.state == "running" and job.claims == claims else None

    def _check(self, name: str) -> None:
        self.calls[name] += 1
        if self.down:
            raise ConnectError("the source of jobs cannot be reached, as the test says")

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
