"""Several workers on the same jobs in virtual time, with random crashes, outages, hangs and exceptions."""

import asyncio
import logging
import random
from contextlib import suppress
from typing import Any

import pytest

from supawire import Backoff
from supawire.testing import MemoryJobs, VirtualTimeLoop
from supawire.worker.job import Job
from supawire.worker.runner import JobSettings, Runner
from supawire.worker.scheduling import RetryPolicy

SEEDS = range(12)
JOBS = 60
LEASE = 20.0


class Fleet:
    """Workers that crash and are replaced, on jobs whose source is away now and then."""

    def __init__(self, seed: int) -> None:
        self.luck = random.Random(seed)
        self.jobs = MemoryJobs([{"id": number} for number in range(JOBS)])
        self.workers: dict[Runner, asyncio.Task[None]] = {}
        self.running = 0
        self.starts = 0

    async def handle(self, job: Job[Any]) -> None:
        """Succeed, fail, take long, or hang."""
        self.starts += 1
        kind = self.luck.random()
        await asyncio.sleep(self.luck.uniform(0, 3))
        if kind < 0.1:
            raise ValueError("by chance")
        if kind < 0.2:
            await asyncio.sleep(self.luck.uniform(0, 3 * LEASE))
        if kind < 0.25:
            await asyncio.sleep(10_000)

    def start(self) -> None:
        """Start a worker."""
        policy = RetryPolicy(Backoff(initial=0.5, maximum=5), None)
        settings = JobSettings(self.luck.randint(1, 6), self.luck.uniform(1, 30), LEASE, policy, 45.0, None)
        logger = logging.getLogger("supawire.worker")
        runner = Runner(self.jobs, self.handle, settings, logger=logger, random=self.luck)
        self.workers[runner] = asyncio.create_task(runner.run())

    async def crash(self) -> None:
        """End a worker at once, without giving anything back."""
        runner = self.luck.choice(list(self.workers))
        task = self.workers.pop(runner)
        attempts = [attempt.task for attempt in runner._attempts.values() if attempt.task is not None]
        for one in (task, *attempts):
            one.cancel()
        await asyncio.gather(task, *attempts, return_exceptions=True)

    async def shut_down(self) -> None:
        """End a worker in order, with a deadline."""
        runner = self.luck.choice(list(self.workers))
        task = self.workers.pop(runner)
        runner.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.luck.uniform(0, 10)):
                await runner.wait_idle()
        await runner.give_back()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def disturb(self) -> None:
        """Do something to the workers or their source."""
        act = self.luck.choice(["crash", "crash", "shut_down", "outage", "nothing"])
        if act == "crash":
            await self.crash()
        elif act == "shut_down":
            await self.shut_down()
        elif act == "outage":
            self.jobs.down = True
            await asyncio.sleep(self.luck.choice([0.1, 3, LEASE * 1.5]))
            self.jobs.down = False
        while len(self.workers) < 4:
            self.start()

    async def run(self) -> None:
        """Disturb the workers for some minutes, then let them finish."""
        for _ in range(4):
            self.start()
        for _ in range(40):
            await asyncio.sleep(self.luck.uniform(0, 8))
            await self.disturb()
        await asyncio.sleep(1200)
        for runner, task in self.workers.items():
            assert not task.done(), task
            assert runner.stats().running == len(runner._claims) == len(runner._leases) == 0
            task.cancel()
        await asyncio.gather(*self.workers.values(), return_exceptions=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_job_is_lost_or_completed_twice(seed: int):
    """Whatever happens to workers and source, each job is completed exactly once, and no worker keeps anything."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        fleet = Fleet(seed)
        runner.run(fleet.run())
    assert [(job.state, job.completions) for job in fleet.jobs.jobs] == [("done", 1)] * JOBS
    assert fleet.starts > JOBS
