"""The engine with jobs in memory, in virtual time: outcomes of attempts, leases, failures of the source, shutdown."""

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest

from supawire import Backoff, InvalidArgumentError, JobLostError
from supawire.testing import MemoryJobs, VirtualTimeLoop
from supawire.worker.job import Job
from supawire.worker.runner import JobSettings, Runner
from supawire.worker.scheduling import RetryPolicy

from .waiting import until

LOGGER = logging.getLogger("supawire.worker")
Handler = Callable[[Job[Any]], Any]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(test())


class Running:
    """A runner with these jobs, running inside the block."""

    def __init__(self, jobs: MemoryJobs, handler: Handler, **settings: Any) -> None:
        options: dict[str, Any] = {
            "concurrency": 2,
            "poll": 30.0,
            "lease": 60.0,
            "policy": RetryPolicy(Backoff(initial=1, jitter=0), 3),
            "timeout": None,
            "model": None,
        }
        self.runner = Runner(jobs, handler, JobSettings(**(options | settings)), logger=LOGGER)

    async def __aenter__(self) -> Runner:
        self._task = asyncio.create_task(self.runner.run())
        return self.runner

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def nothing(job: Job[Any]) -> None:
    """Do the job at once."""


def test_jobs_are_done_and_write_columns():
    """Each job is run once, is done when its handler returns, and what it wrote is stored with the completion."""
    jobs = MemoryJobs([{"id": number, "note": None} for number in range(5)])

    async def handler(job: Job[Any]) -> None:
        job.write(note=f"did {job.row['id']}")

    async def test() -> None:
        async with Running(jobs, handler) as runner:
            await runner.wait_until_empty()
            stats = runner.stats()
        assert [(job.state, job.completions, job.attempts) for job in jobs.jobs] == [("done", 1, 1)] * 5
        assert jobs.jobs[3].values == {"note": "did 3"}
        assert (stats.claimed, stats.done, stats.running, stats.failed, stats.lost) == (5, 5, 0, 0, 0)

    run(test)


def test_a_handler_that_raises_is_tried_again_and_fails_at_last():
    """An exception is stored, the delays are those of the backoff, and after the last attempt the job is dead."""
    jobs = MemoryJobs([{"id": 1}])
    times: list[float] = []

    async def handler(job: Job[Any]) -> None:
        times.append(asyncio.get_running_loop().time())
        assert job.attempt == len(times)
        raise ValueError(f"attempt {job.attempt}")

    async def test() -> None:
        async with Running(jobs, handler) as runner:
            await asyncio.sleep(100)
            stats = runner.stats()
        assert [round(later - earlier, 1) for earlier, later in pairwise(times)] == [1, 2]
        assert (jobs.jobs[0].state, jobs.jobs[0].error) == ("dead", "ValueError: attempt 3")
        assert (stats.retried, stats.failed, stats.done) == (2, 1, 0)

    run(test)


def test_a_handler_can_decide_the_outcome():
    """`job.retry` and `job.fail` end the attempt as they say, also when the handler catches the exception."""
    jobs = MemoryJobs([{"id": 1}, {"id": 2}, {"id": 3}])
    times: list[float] = []

    async def handler(job: Job[Any]) -> None:
        try:
            if job.row["id"] == 1:
                times.append(asyncio.get_running_loop().time())
                job.retry(delay=7)
            if job.row["id"] == 2:
                job.fail("no such address")
            if job.attempt == 1:
                job.retry()
        except Exception:  # noqa: BLE001
            return

    async def test() -> None:
        async with Running(jobs, handler, poll=1000.0):
            await asyncio.sleep(100)
        assert [round(later - earlier, 1) for earlier, later in pairwise(times)] == [7, 7]
        assert [(job.state, job.attempts) for job in jobs.jobs] == [("dead", 3), ("dead", 1), ("done", 2)]
        assert [job.error for job in jobs.jobs][:2] == ["job.retry() was called", "no such address"]

    run(test)


@pytest.mark.parametrize("swallows", [False, True])
def test_a_handler_that_hangs_is_cancelled(swallows: bool):
    """An attempt over its time is cancelled and has failed, unless the handler ends well all the same."""
    jobs = MemoryJobs([{"id": 1}])

    async def handler(job: Job[Any]) -> None:
        if job.attempt == 1:
            try:
                await asyncio.sleep(10_000)
            except asyncio.CancelledError:
                if not swallows:
                    raise

    async def test() -> None:
        async with Running(jobs, handler, timeout=10.0) as runner:
            await asyncio.sleep(15)
            assert runner.stats().lost == 0
        assert (jobs.jobs[0].state, jobs.jobs[0].attempts) == ("done", 1 if swallows else 2)
        assert swallows or jobs.jobs[0].error == "OperationTimeout: the attempt took longer than 10 s"

    run(test)


def test_keep_alive_starts_the_time_again():
    """A handler that calls `keep_alive` may take longer than its time."""
    jobs = MemoryJobs([{"id": 1}])

    async def handler(job: Job[Any]) -> None:
        for _ in range(20):
            await asyncio.sleep(6)
            job.keep_alive()

    async def test() -> None:
        async with Running(jobs, handler, timeout=10.0):
            await asyncio.sleep(130)
        assert (jobs.jobs[0].state, jobs.jobs[0].attempts) == ("done", 1)

    run(test)


def test_leases_are_extended_while_jobs_run():
    """A job that runs longer than its lease keeps it, with one extension of all jobs per third of the lease."""
    jobs = MemoryJobs([{"id": 1}, {"id": 2}])

    async def handler(job: Job[Any]) -> None:
        await asyncio.sleep(600)

    async def test() -> None:
        async with Running(jobs, handler) as runner:
            await asyncio.sleep(590)
            assert 27 <= jobs.calls["extend"] <= 30
            await asyncio.sleep(20)
            assert runner.stats().lost == 0
        assert [(job.state, job.attempts) for job in jobs.jobs] == [("done", 1)] * 2

    run(test)


def test_a_lost_lease_cancels_the_job():
    """When another worker has got the job, the handler is cancelled, `lost` is set, and its result changes nothing."""
    jobs = MemoryJobs([{"id": 1}])
    seen: list[Any] = []

    async def handler(job: Job[Any]) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            seen.append(job.lost)
            with pytest.raises(JobLostError, match="no longer held"):
                job.keep_alive()

    async def test() -> None:
        async with Running(jobs, handler) as runner:
            await asyncio.sleep(1)
            jobs.jobs[0].claims += 1  # as another worker's claim does
            await asyncio.sleep(30)
            assert runner.stats().lost == 1
        assert seen == [True]
        assert (jobs.jobs[0].state, jobs.jobs[0].completions) == ("running", 0)

    run(test)


def test_a_result_after_the_lease_was_lost_does_not_count():
    """A handler that ends before it learns of the loss completes nothing; the job counts as lost."""
    jobs = MemoryJobs([{"id": 1}, {"id": 2}])

    async def handler(job: Job[Any]) -> None:
        jobs.jobs[job.key].claims += 1
        if job.row["id"] == 2:
            raise ValueError

    async def test() -> None:
        async with Running(jobs, handler) as runner:
            await asyncio.sleep(1)
            assert (runner.stats().lost, runner.stats().done, runner.stats().retried) == (2, 0, 0)
        assert [job.completions for job in jobs.jobs] == [0, 0]
        assert jobs.jobs[1].error is None

    run(test)


def test_a_source_that_is_away_for_a_moment_loses_nothing():
    """While the source fails, jobs go on, and completions, failures and claims are written when it is back."""
    jobs = MemoryJobs([{"id": number} for number in range(4)])

    async def handler(job: Job[Any]) -> None:
        jobs.down = True
        await asyncio.sleep(1)
        if job.row["id"] == 1 and job.attempt == 1:
            raise ValueError

    async def test() -> None:
        async with Running(jobs, handler) as runner:
            for _ in range(8):
                await asyncio.sleep(12)
                assert runner.error is not None or not jobs.down
                jobs.down = False
            await asyncio.sleep(60)
            jobs.down = False
            await asyncio.sleep(60)
            assert runner.error is None
            assert runner.stats().lost == 0
        assert [(job.state, job.completions) for job in jobs.jobs] == [("done", 1)] * 4
        assert [job.attempts for job in jobs.jobs] == [1, 2, 1, 1]

    run(test)


def test_a_lease_that_cannot_be_extended_is_given_up():
    """When the source is away for longer than the lease, the job is lost: another worker may have it."""
    jobs = MemoryJobs([{"id": 1}])
    ends: list[float] = []

    async def handler(job: Job[Any]) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ends.append(asyncio.get_running_loop().time())

    async def test() -> None:
        began = asyncio.get_running_loop().time()
        async with Running(jobs, handler) as runner:
            await asyncio.sleep(1)
            jobs.down = True
            await asyncio.sleep(100)
            assert runner.stats().lost == 1
        assert ends[0] - began == pytest.approx(60, abs=1)

    run(test)


def test_a_job_that_ends_its_worker_each_time_becomes_a_dead_letter():
    """A job whose earlier attempts all ended without a result is not run again after the last allowed one."""
    jobs = MemoryJobs([{"id": 1}])
    jobs.jobs[0].attempts = 3
    ran: list[int] = []

    async def handler(job: Job[Any]) -> None:
        ran.append(job.attempt)

    async def test() -> None:
        async with Running(jobs, handler) as runner:
            await runner.wait_until_empty()
        assert ran == []
        assert jobs.jobs[0].state == "dead"
        assert jobs.jobs[0].error == "attempt 3 ended without a result, and no other is allowed"

    run(test)


def test_no_more_jobs_run_than_allowed():
    """At any time at most `concurrency` handlers run, and slots are filled again at once."""
    jobs = MemoryJobs([{"id": number} for number in range(30)])
    running, most = 0, 0

    async def handler(job: Job[Any]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1

    async def test() -> None:
        began = asyncio.get_running_loop().time()
        async with Running(jobs, handler, concurrency=3) as runner:
            await runner.wait_until_empty()
        assert most == 3
        assert asyncio.get_running_loop().time() - began == pytest.approx(10, abs=0.5)

    run(test)


def test_an_idle_worker_asks_no_more_than_the_poll_says():
    """In an hour without jobs, the source gets one claim per poll interval and nothing else."""
    jobs = MemoryJobs()

    async def test() -> None:
        async with Running(jobs, nothing):
            await asyncio.sleep(3600)
        assert 3600 / 33 - 1 <= jobs.calls["claim"] <= 3600 / 30 + 1
        assert set(jobs.calls) == {"claim"}

    run(test)


def test_a_shutdown_lets_jobs_end():
    """After `drain` nothing is claimed, and `wait_idle` returns when the running jobs are done and written."""
    jobs = MemoryJobs([{"id": number} for number in range(5)])

    async def handler(job: Job[Any]) -> None:
        await asyncio.sleep(5)

    async def test() -> None:
        async with Running(jobs, handler) as runner:
            await asyncio.sleep(1)
            runner.drain()
            await runner.wait_idle()
        assert [job.state for job in jobs.jobs] == ["done"] * 2 + ["waiting"] * 3

    run(test)


def test_a_shutdown_gives_the_rest_back():
    """Jobs that do not end in time are cancelled and given back, as if this attempt had not begun."""
    jobs = MemoryJobs([{"id": 1}, {"id": 2}])
    cancelled: list[bool] = []

    async def handler(job: Job[Any]) -> None:
        try:
            await asyncio.sleep(500)
        except asyncio.CancelledError:
            cancelled.append(job.lost)
            if job.row["id"] == 1:
                raise

    async def test() -> None:
        async with Running(jobs, handler) as runner:
            await asyncio.sleep(1)
            runner.drain()
            await runner.give_back()
            await runner.wait_idle()
            assert runner.stats().released == 2
        assert cancelled == [True, True]
        assert [(job.state, job.attempts) for job in jobs.jobs] == [("waiting", 0)] * 2

    run(test)


def test_a_completion_that_is_refused_is_a_failed_attempt():
    """When the source refuses the result of one job of several, the others are done and this one is tried again."""

    class Refusing(MemoryJobs):
        async def complete(self, finished: Any) -> Any:
            if any(one.claim.row["id"] == 1 for one in finished):
                raise InvalidArgumentError("a check constraint does not allow this")
            return await super().complete(finished)

    jobs = Refusing([{"id": 0}, {"id": 1}, {"id": 2}])

    async def test() -> None:
        async with Running(jobs, nothing, concurrency=3):
            await asyncio.sleep(60)
        assert [job.state for job in jobs.jobs] == ["done", "dead", "done"]
        assert jobs.jobs[1].error == "its result was refused: a check constraint does not allow this"

    run(test)


@pytest.mark.parametrize("is_busy_first", [False, True])
def test_a_value_that_cannot_be_encoded_is_a_failed_attempt(is_busy_first: bool):
    """What `job.write` got for one job may be of any type: the worker and the other jobs go on."""

    class Strict(MemoryJobs):
        busy = is_busy_first

        async def complete(self, finished: Any) -> Any:
            if self.busy:
                self.busy = False
                return ["busy" for _ in finished]
            for one in finished:
                json.dumps(dict(one.values))
            return await super().complete(finished)

    jobs = Strict([{"id": 0, "note": None}, {"id": 1, "note": None}])

    async def handler(job: Job[Any]) -> None:
        job.write(note=object() if job.row["id"] == 0 else "text")

    async def test() -> None:
        async with Running(jobs, handler):
            await asyncio.sleep(60)
        assert [job.state for job in jobs.jobs] == ["dead", "done"]
        said = "its result was refused: TypeError: Object of type object is not JSON serializable"
        assert jobs.jobs[0].error == said

    run(test)


def test_a_handler_whose_task_is_cancelled_by_other_code_is_started_again():
    """A job whose task other code has cancelled is not held any longer, and starts again when its lease ends."""
    jobs = MemoryJobs([{"id": 1}])

    async def handler(job: Job[Any]) -> None:
        if job.attempt == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

    async def test() -> None:
        async with Running(jobs, handler) as runner:
            await asyncio.sleep(100)
            assert (runner.stats().lost, runner.stats().done) == (1, 1)
        assert jobs.jobs[0].state == "done"

    run(test)


def test_a_completion_that_has_to_wait_does_not_delay_others():
    """A completion that is "busy" is written again later, and jobs that end meanwhile are completed at once."""

    class Locked(MemoryJobs):
        until = 1060.0

        async def complete(self, finished: Any) -> Any:
            now = asyncio.get_running_loop().time()
            locked = [one.claim.row["id"] == 0 and now < self.until for one in finished]
            free = [one for one, is_locked in zip(finished, locked, strict=True) if not is_locked]
            settled = iter(await super().complete(free))
            return ["busy" if is_locked else next(settled) for is_locked in locked]

    jobs = Locked([{"id": number} for number in range(6)])

    async def test() -> None:
        async with Running(jobs, nothing, concurrency=2) as runner:
            await asyncio.sleep(5)
            assert [job.state for job in jobs.jobs] == ["running"] + ["done"] * 5
            await asyncio.sleep(100)
            assert (runner.stats().done, runner.stats().lost) == (6, 0)
        assert jobs.jobs[0].completions == 1

    run(test)


def test_a_result_that_is_written_during_an_extension_is_not_lost():
    """When an extension finds a job completed whose answer is still on its way, the job counts as done."""

    class Slow(MemoryJobs):
        async def complete(self, finished: Any) -> Any:
            settled = await super().complete(finished)
            await asyncio.sleep(25)  # longer than until the next extension
            return settled

        async def retry(self, claim: Any, delay: float, error: str) -> bool:
            held = await super().retry(claim, delay, error)
            await asyncio.sleep(25)
            return held

    jobs = Slow([{"id": 1}, {"id": 2}])

    async def handler(job: Job[Any]) -> None:
        if job.row["id"] == 2 and job.attempt == 1:
            raise ValueError

    async def test() -> None:
        async with Running(jobs, handler) as runner:
            await asyncio.sleep(100)
            stats = runner.stats()
        assert jobs.calls["extend"] > 0
        assert (stats.done, stats.retried, stats.lost) == (2, 1, 0)

    run(test)


def test_jobs_that_only_the_poll_finds_are_reported(caplog: pytest.LogCaptureFixture):
    """When new jobs should be announced and the poll alone finds them three times in a row, there is one warning."""
    jobs = MemoryJobs()

    async def test() -> None:
        async with Running(jobs, nothing) as runner:
            runner._is_announced = lambda: True  # pyright: ignore[reportAttributeAccessIssue]
            for _ in range(5):
                await asyncio.sleep(40)
                jobs.add({"id": 1})

    run(test)
    assert caplog.text.count("the poll finds jobs that Realtime does not announce") == 1


def test_a_mistake_in_a_source_ends_the_worker():
    """An exception of a source that is not an error of this library is not swallowed."""

    class Broken(MemoryJobs):
        async def retry(self, claim: Any, delay: float, error: str) -> bool:
            raise ZeroDivisionError

    jobs = Broken([{"id": 1}])

    async def handler(job: Job[Any]) -> None:
        raise ValueError

    async def test() -> None:
        running = Running(jobs, handler)
        with pytest.raises(ExceptionGroup) as raised:
            await running.runner.run()
        assert raised.value.subgroup(ZeroDivisionError) is not None

    run(test)


async def test_a_plain_handler_runs_on_a_thread():
    """A plain function runs on another thread, and its exceptions are outcomes like those of an async one."""
    jobs = MemoryJobs([{"id": 1}, {"id": 2}])
    threads: list[str] = []

    def handler(job: Job[Any]) -> None:
        threads.append(threading.current_thread().name)
        if job.row["id"] == 2:
            job.fail("no")

    async with Running(jobs, handler) as runner:
        await runner.wait_until_empty()
    assert threads == ["supawire-job-memory"] * 2
    assert [job.state for job in jobs.jobs] == ["done", "dead"]


async def test_a_plain_handler_that_hangs_keeps_its_slot():
    """A thread cannot be stopped: the attempt has failed, `lost` says so, and the slot is free when the thread ends."""
    jobs = MemoryJobs([{"id": 1}])
    lost, end, again = threading.Event(), threading.Event(), threading.Event()
    attempts: list[int] = []

    def handler(job: Job[Any]) -> None:
        attempts.append(job.attempt)
        if job.attempt == 1:
            while not job.lost:
                end.wait(0.005)
            lost.set()
            end.wait(10)
        else:
            again.set()

    settings = {"timeout": 0.05, "policy": RetryPolicy(Backoff(initial=0, maximum=0), 3), "concurrency": 1}
    async with Running(jobs, handler, **settings) as runner:
        await asyncio.to_thread(lost.wait, 10)
        assert attempts == [1]
        end.set()
        await asyncio.to_thread(again.wait, 10)
        await runner.wait_until_empty()
        assert runner.stats().retried == 1
    assert attempts == [1, 2]


async def _later() -> None:
    """Do nothing."""


@pytest.mark.parametrize("handler", [lambda _: _later(), lambda _: (number for number in range(3))])
async def test_a_plain_handler_that_returns_a_coroutine_has_not_done_its_job(handler: Handler):
    """A function that only returns a coroutine or a generator has done nothing, so its attempt fails."""
    jobs = MemoryJobs([{"id": 1}])
    async with Running(jobs, handler, policy=RetryPolicy(Backoff(), 1)) as runner:
        await runner.wait_until_empty()
    assert jobs.jobs[0].state == "dead"
    assert "the handler is a plain function, but it returned a" in str(jobs.jobs[0].error)


async def test_a_thread_that_ends_at_the_moment_of_its_timeout_frees_its_slot():
    """When the thread has ended before its attempt is cancelled, the slot is free, and the next attempt begins."""
    jobs = MemoryJobs([{"id": 1}])
    loop = asyncio.get_running_loop()

    def end_both(thread: threading.Thread) -> None:
        thread.join()  # the loop has its result now, and gets the timeout behind it, before the task runs again
        (attempt,) = runner._attempts.values()
        loop.call_soon(runner._check_timeout, attempt)

    def handler(job: Job[Any]) -> None:
        if job.attempt == 1:
            loop.call_soon_threadsafe(end_both, threading.current_thread())

    settings = {"timeout": 100.0, "policy": RetryPolicy(Backoff(initial=0, maximum=0), 3), "concurrency": 1}
    async with Running(jobs, handler, **settings) as runner:
        await until(lambda: jobs.jobs[0].state == "done")
    assert jobs.jobs[0].attempts == 2
