"""Runs the jobs of one source: claims them, calls the handler, extends leases, and writes results back.

`scheduling` decides; this module waits, calls the source and the handler, and counts. Three tasks run beside the
handlers: one claims, one extends leases, one writes completions, as many in one statement as have come together.
"""

import asyncio
import contextvars
import inspect
import logging
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from msgspec import Struct

from supawire._display import printable
from supawire._values.models import Model
from supawire.aio.callbacks import RANDOM, describe_callable, is_async
from supawire.core.pacing import Uniform, delay
from supawire.errors import OperationTimeout, RealtimeError, StateError
from supawire.options import Backoff
from supawire.worker.job import MAX_REASON, Attempt, Job, Transactions
from supawire.worker.scheduling import ClaimSchedule, Leases, RetryPolicy
from supawire.worker.source import Claimed, Settled, Source

T = TypeVar("T")

MAX_COMPLETIONS: Final = 200
"""Completions written by one statement."""
CALL_TIMEOUT: Final = 30.0
"""Seconds for one call of the source; afterwards it counts as failed, and is made again."""
WRITE_BACKOFF: Final = Backoff(initial=0.2, maximum=5.0)
"""Delays between attempts to write a result while the source fails."""
BUSY_DELAY: Final = 0.5
"""Seconds until a completion is written again that waits for another transaction."""
UNANNOUNCED_LIMIT: Final = 3
"""Polls in a row that found jobs which were not announced, before there is a warning. One may be a coincidence: the
announcement is on its way."""
TIMER_RESOLUTION: Final = 0.002
"""Seconds by which a timer of an event loop may be early."""
CANCEL_TIMEOUT: Final = 5.0
"""Seconds that handlers get to end after they were cancelled by a shutdown."""


class JobSettings(Struct, frozen=True):
    """The checked options of one job. Times in seconds; timeout: None for no limit."""

    concurrency: int
    poll: float
    lease: float
    policy: RetryPolicy
    timeout: float | None
    model: Model | None


class JobStats(Struct, frozen=True):
    """Counters of one job since the worker was started.

    claimed, done, retried, failed, lost, released: attempts by how they began and ended. running: those that run now.
    claims, extensions, completions: statements sent. wakeups: claims by what caused them: "start", "change", "gap",
    "reconnect", "poll", "due" (an attempt or the end of a lease), "more" (the one before was full), "again" (a result
    may have made other jobs available), "retry" (the one before failed). busy_seconds: time in handlers, of all
    attempts together. error: why the source cannot be reached now, or None.
    """

    source: str
    claimed: int
    done: int
    retried: int
    failed: int
    lost: int
    released: int
    running: int
    claims: int
    extensions: int
    completions: int
    wakeups: dict[str, int]
    busy_seconds: float
    error: str | None


class Alarm:
    """An event that is also set at a deadline."""

    def __init__(self) -> None:
        self._event: Final = asyncio.Event()

    def set(self) -> None:
        """Let `wait` return."""
        self._event.set()

    async def wait(self, deadline: float | None) -> float:
        """Wait until the event is set or this time of the loop's clock has come; then clear the event.

        Return the time; if it is within the resolution of the clock, for which timers may be early, the deadline.
        """
        loop = asyncio.get_running_loop()
        timer = None
        if deadline is not None and not self._event.is_set():
            timer = loop.call_at(deadline, self._event.set)
        try:
            await self._event.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self._event.clear()
        now = loop.time()
        return deadline if deadline is not None and 0 < deadline - now < TIMER_RESOLUTION else now


class Runner:
    """Runs the jobs of one source in the current event loop."""

    def __init__(
        self,
        source: Source,
        handler: Callable[[Job[Any]], Any],
        settings: JobSettings,
        *,
        logger: logging.Logger,
        transactions: Transactions | None = None,
        random: Uniform = RANDOM,
        is_announced: Callable[[], bool] = lambda: False,
    ) -> None:
        self.source: Final = source
        self._handler: Final = handler
        self._is_async: Final = is_async(handler)
        self._settings: Final = settings
        self._logger: Final = logger
        self._transactions: Final = transactions
        self._random: Final = random
        self._is_announced: Final = is_announced
        self._unannounced = 0
        """How often in a row the poll has found new jobs that should have been announced."""
        self._failure: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()
        self._loop: Final = asyncio.get_running_loop()
        self._schedule: Final = ClaimSchedule(settings.concurrency, settings.poll, random)
        self._leases: Final = Leases(settings.lease)
        self._attempts: Final[dict[Any, Attempt]] = {}
        self._claims: Final[dict[Any, Claimed]] = {}
        """All claims that are held: those of `_attempts`, and those whose completion is not written yet."""
        self._finished: Final[deque[Attempt]] = deque()
        self._writing = 0
        self._waiting_writes: Final[set[asyncio.Task[None]]] = set()
        """Tasks that write completions which wait for another transaction."""
        self._threads = 0
        """Threads of handlers whose attempt is over, but which still run."""
        self._claim_alarm: Final = Alarm()
        self._lease_alarm: Final = Alarm()
        self._write_alarm: Final = Alarm()
        self._idle_alarm: Final = Alarm()
        self._counts: Final = Counter[str]()
        self._busy = 0.0
        self._error: str | None = None

    # --- for the worker

    async def run(self) -> None:
        """Run until cancelled. Raises only what is a mistake in this library or in a source."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._claim_loop(), name=f"supawire-claim-{self.source.name}")
            tasks.create_task(self._lease_loop(), name=f"supawire-lease-{self.source.name}")
            tasks.create_task(self._write_loop(), name=f"supawire-write-{self.source.name}")
            try:
                await self._failure  # of the task of an attempt, which nobody else awaits
            finally:
                for task in self._waiting_writes:
                    task.cancel()

    def wake(self, cause: str) -> None:
        """Claim as soon as possible."""
        self._schedule.wake(cause)
        self._claim_alarm.set()
        if cause == "change":
            self._unannounced = 0

    def drain(self) -> None:
        """Claim nothing any more; jobs that run are finished."""
        self._schedule.drain()
        self._claim_alarm.set()
        self._idle_alarm.set()

    async def wait_idle(self) -> None:
        """Wait until no job runs and all results are written; only after `drain`."""
        while self._claims or self._schedule.claiming:
            await self._idle_alarm.wait(None)

    async def wait_until_empty(self) -> None:
        """Wait until no job runs, and the last claim has found none."""
        while self._claims or self._schedule.claiming or self._schedule.wanted:
            await self._idle_alarm.wait(None)

    async def give_back(self) -> None:
        """Cancel the jobs that still run, and give them back to the source."""
        running = list(self._attempts.values())
        for attempt in running:
            self._cancel(attempt, "the worker was shut down")
        tasks = [attempt.task for attempt in running if attempt.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_TIMEOUT)
        await self._release([attempt.claim for attempt in running if attempt.claim.token in self._claims])

    @property
    def error(self) -> str | None:
        """Why the source cannot be reached now; None when it can."""
        return self._error

    def stats(self) -> JobStats:
        """Return the counters."""
        count = self._counts
        return JobStats(
            source=self.source.name,
            claimed=count["claimed"],
            done=count["done"],
            retried=count["retried"],
            failed=count["failed"],
            lost=count["lost"],
            released=count["released"],
            running=len(self._attempts),
            claims=self._schedule.causes.total(),
            extensions=count["extensions"],
            completions=count["completions"],
            wakeups=dict(self._schedule.causes),
            busy_seconds=self._busy,
            error=self._error,
        )

    # --- claiming

    @property
    def _used(self) -> int:
        """The slots in use. Completions that wait beyond one per slot count too, or they could grow without limit."""
        waiting = len(self._finished) + self._writing + len(self._waiting_writes)
        return len(self._attempts) + self._threads + max(0, waiting - self._settings.concurrency)

    async def _claim_loop(self) -> None:
        now = self._loop.time()
        while True:
            limit = self._schedule.begin(now, self._used)
            if not limit:
                now = await self._claim_alarm.wait(self._schedule.deadline(self._used))
                continue
            began_at = self._loop.time()
            try:
                batch = await self._call(self.source.claim(limit, self._settings.lease))
            except RealtimeError as error:
                wait = self._schedule.failed(self._loop.time())
                self._report_failure(f"jobs cannot be claimed; next attempt in {wait:.1f} s", error)
            else:
                self._report_success()
                self._schedule.end(self._loop.time(), asked=limit, got=len(batch.jobs), next_due=batch.next_due)
                await self._take(batch.jobs, began_at)
            self._idle_alarm.set()
            now = self._loop.time()

    async def _take(self, claims: Sequence[Claimed], began_at: float) -> None:
        self._counts["claimed"] += len(claims)
        if not claims:
            return
        self._check_announced(claims)
        for claim in claims:
            self._claims[claim.token] = claim
        self._leases.hold([claim.token for claim in claims], began_at)
        self._lease_alarm.set()
        if self._schedule.draining:  # the shutdown began while the statement ran
            await self._release(claims)
            return
        for claim in claims:
            attempt = self._attempts[claim.token] = Attempt(claim, self.source)
            attempt.task = self._loop.create_task(self._execute(attempt), name=f"supawire-job-{claim.key}")
            attempt.task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failure.done():
            self._failure.set_exception(error)

    def _check_announced(self, claims: Sequence[Claimed]) -> None:
        """Warn when only the poll finds new jobs although they should have been announced."""
        is_late = self._schedule.last_cause == "poll" and any(claim.attempt == 1 for claim in claims)
        if not (is_late and self._is_announced()):
            return
        self._unannounced += 1
        if self._unannounced == UNANNOUNCED_LIMIT:
            self._logger.warning(
                "%s: the poll finds jobs that Realtime does not announce; check that the role of its key may read the"
                " rows (row level security), and that the publication has the table",
                self.source.name,
            )

    async def _release(self, claims: Sequence[Claimed]) -> None:
        if not claims:
            return
        try:
            await self._call(self.source.release(claims))
            self._counts["released"] += len(claims)
        except RealtimeError as error:
            self._report_failure("jobs cannot be given back; others get them when their leases end", error)
        for claim in claims:
            self._drop(claim.token)

    def _drop(self, token: Any) -> None:
        self._claims.pop(token, None)
        self._leases.drop(token)
        self._claim_alarm.set()
        self._idle_alarm.set()

    # --- one attempt

    async def _execute(self, attempt: Attempt) -> None:
        claim = attempt.claim
        began_at = self._loop.time()
        try:
            if self._settings.policy.is_exhausted(claim.attempt):
                reason = f"attempt {claim.attempt - 1} ended without a result, and no other is allowed"
                await self._end(attempt, None, reason)
                return
            error = await self._run_handler(attempt)
            self._busy += self._loop.time() - began_at
            if attempt.committed:
                self._count_done(attempt, error)
            elif not attempt.withdrawn:
                attempt.has_ended = True
                await self._settle(attempt, error)
        except asyncio.CancelledError:
            if not attempt.withdrawn:  # not by the engine: without an extension, its lease ends
                self._lose(claim.token, "its task was cancelled by other code")
            raise
        finally:
            self._attempts.pop(claim.token, None)
            self._claim_alarm.set()
            self._idle_alarm.set()

    async def _run_handler(self, attempt: Attempt) -> BaseException | None:
        """Call the handler. Return what it raised, or None when it succeeded."""
        if self._settings.timeout is not None:
            attempt.timer = self._loop.call_later(self._settings.timeout, self._check_timeout, attempt)
        job = Job[Any](attempt, self._settings.model, self._transactions)
        try:
            if self._is_async:
                await self._handler(job)
            else:
                await self._in_thread(attempt, job)
        except asyncio.CancelledError as error:
            if attempt.cancelled_for is None:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise  # the event loop ends
                return error
            return OperationTimeout(attempt.cancelled_for)
        except BaseException as error:  # noqa: BLE001  whatever a handler raises is the outcome of the attempt
            return error
        finally:
            if attempt.timer is not None:
                attempt.timer.cancel()
        return None

    async def _in_thread(self, attempt: Attempt, job: Job[Any]) -> None:
        """Call a plain handler on a thread of its own, which does not keep the process alive."""
        done: asyncio.Future[BaseException | None] = self._loop.create_future()
        context = contextvars.copy_context()

        def settle(error: BaseException | None) -> None:
            if done.done():  # the attempt ended before its thread
                self._threads -= 1
                self._claim_alarm.set()
            else:
                done.set_result(error)

        def work() -> None:
            error = None
            try:
                _check_ended(context.run(self._handler, job))
            except BaseException as raised:  # noqa: BLE001  raised where the outcome is awaited
                error = raised
            try:
                self._loop.call_soon_threadsafe(settle, error)
            except RuntimeError:
                return  # the loop was closed meanwhile

        threading.Thread(target=work, name=f"supawire-job-{job.source}", daemon=True).start()
        try:
            error = await done
        except asyncio.CancelledError:
            if done.cancelled():  # otherwise the thread has ended, at the same moment
                self._threads += 1
            attempt.mark_lost("its time is over")
            raise
        if error is not None:
            raise error

    def _check_timeout(self, attempt: Attempt) -> None:
        timeout = self._settings.timeout
        assert timeout is not None
        if attempt.alive:
            attempt.alive = False
            attempt.timer = self._loop.call_later(timeout, self._check_timeout, attempt)
        elif attempt.task is not None:
            attempt.cancelled_for = f"the attempt took longer than {timeout:g} s"
            attempt.task.cancel()

    def _cancel(self, attempt: Attempt, why: str) -> None:
        attempt.mark_lost(why)
        attempt.cancelled_for = why
        attempt.withdrawn = True
        if attempt.task is not None:
            attempt.task.cancel()

    async def _settle(self, attempt: Attempt, error: BaseException | None) -> None:
        if attempt.failed is not None:
            await self._end(attempt, None, attempt.failed)
            return
        if error is None and not attempt.retried:
            self._finished.append(attempt)
            self._write_alarm.set()
            return
        claim = attempt.claim
        wait = self._settings.policy.delay_after(claim.attempt, claim.age, self._random)
        if attempt.retried:
            reason = "job.retry() was called"
            wait = attempt.delay if wait is not None and attempt.delay is not None else wait
        else:
            reason = describe_error(error)
            level = logging.WARNING if wait is None else logging.INFO
            name = self.source.name
            self._logger.log(level, "%s: attempt %d of job %r failed: %s", name, claim.attempt, attempt.key, reason)
        await self._end(attempt, wait, reason)

    async def _end(self, attempt: Attempt, wait: float | None, reason: str) -> None:
        """Write that the job is tried again after `wait` seconds, or has failed (None)."""
        claim = attempt.claim

        async def write() -> bool:
            if wait is None:
                return await self.source.fail(claim, reason)
            return await self.source.retry(claim, wait, reason)

        held = await self._until_written(write, lambda: claim.token in self._claims)
        if not held:
            self._lose(claim.token, "its lease ended before the result was written")
            return
        self._counts["failed" if wait is None else "retried"] += 1
        self._drop(claim.token)
        self.wake("again")

    async def _until_written(self, write: Callable[[], Awaitable[T]], wanted: Callable[[], bool]) -> T | None:
        """Call `write` until it succeeds; return None when its claim is lost before."""
        failures = 0
        while wanted():
            try:
                return await self._call(write())
            except RealtimeError as error:
                self._report_failure("a result cannot be written yet", error)
                await asyncio.sleep(delay(WRITE_BACKOFF, failures, self._random))
                failures += 1
        return None

    # --- completions

    async def _write_loop(self) -> None:
        failures = 0
        while True:
            if not self._finished:
                await self._write_alarm.wait(None)
                continue
            attempts = [self._finished.popleft() for _ in range(min(MAX_COMPLETIONS, len(self._finished)))]
            attempts = [attempt for attempt in attempts if attempt.claim.token in self._claims]
            self._writing = len(attempts)
            try:
                await self._complete(attempts)
                failures = 0
            except RealtimeError as error:
                self._finished.extendleft(reversed(attempts))
                self._report_failure("completions cannot be written yet", error)
                await asyncio.sleep(delay(WRITE_BACKOFF, failures, self._random))
                failures += 1
            finally:
                self._writing = 0
            self._claim_alarm.set()

    async def _complete(self, attempts: Sequence[Attempt]) -> None:
        """Write completions. Raises: RealtimeError that is worth another attempt."""
        if not attempts:
            return
        try:
            self._counts["completions"] += 1
            settled = await self._call(self.source.complete([attempt.finished for attempt in attempts]))
        except Exception as error:
            is_refusal = isinstance(error, RealtimeError)
            # what a handler has written may be of a type that the source cannot encode, in any way
            if error.retryable if is_refusal else not any(attempt.values for attempt in attempts):
                raise
            if len(attempts) > 1:  # find the one that is refused
                for attempt in attempts:
                    await self._complete([attempt])
                return
            (attempt,) = attempts
            self._logger.warning("%s: the result of job %r is refused: %s", self.source.name, attempt.key, error)
            wait = self._settings.policy.delay_after(attempt.claim.attempt, attempt.claim.age, self._random)
            said = error.message if is_refusal else describe_error(error)
            await self._end(attempt, wait, f"its result was refused: {said}")
            return
        for attempt, outcome in zip(attempts, settled, strict=True):
            self._note(attempt, outcome)

    def _note(self, attempt: Attempt, outcome: Settled) -> None:
        if outcome == "lost":
            self._lose(attempt.claim.token, "another worker has it, or it was withdrawn")
            return
        if outcome == "busy":
            task = self._loop.create_task(self._complete_later(attempt), name=f"supawire-write-{self.source.name}")
            self._waiting_writes.add(task)
            task.add_done_callback(self._waiting_writes.discard)
            task.add_done_callback(self._on_task_done)
            return
        self._count_done(attempt, None)
        if outcome == "again":
            self.wake("again")

    async def _complete_later(self, attempt: Attempt) -> None:
        """Write a completion after a pause, without delaying those of other jobs."""
        await asyncio.sleep(BUSY_DELAY)
        await self._until_written(lambda: self._complete([attempt]), lambda: attempt.claim.token in self._claims)

    def _count_done(self, attempt: Attempt, error: BaseException | None) -> None:
        if error is not None:
            self._logger.warning("%s: job %r raised after it was completed: %r", self.source.name, attempt.key, error)
        self._counts["done"] += 1
        self._drop(attempt.claim.token)

    # --- leases

    async def _lease_loop(self) -> None:
        while True:
            now = await self._lease_alarm.wait(self._leases.deadline())
            for token in self._leases.expired(now):
                self._lose_running(token, "its lease could not be extended in time")
            due = self._leases.due(now)
            if not due:
                continue
            try:
                self._counts["extensions"] += 1
                held = await self._call(
                    self.source.extend([self._claims[token] for token in due], self._settings.lease),
                    self._settings.lease / 3,
                )
            except RealtimeError as error:
                self._leases.failed(self._loop.time())
                self._report_failure("leases cannot be extended", error)
            else:
                for token in self._leases.extended(due, held, now):
                    self._lose_running(token, "another worker has it, or it was withdrawn")

    def _lose_running(self, token: Any, why: str) -> None:
        """Cancel a job whose lease has ended.

        If its result is being written or committed, it may have left the source for that reason: the answer to the
        write decides.
        """
        attempt = self._attempts.get(token)
        if attempt is not None and not (attempt.has_ended or attempt.committing or attempt.committed):
            self._lose(token, why)

    def _lose(self, token: Any, why: str) -> None:
        claim = self._claims.get(token)
        if claim is None:
            return
        attempt = self._attempts.get(token)
        self._counts["lost"] += 1
        self._logger.warning("%s: job %r is lost: %s; its result does not count", self.source.name, claim.key, why)
        self._drop(token)
        if attempt is not None and attempt.task is not asyncio.current_task():
            self._cancel(attempt, why)

    # --- calls of the source

    async def _call(self, work: Awaitable[T], timeout: float = CALL_TIMEOUT) -> T:
        """Await a call of the source. Raises: RealtimeError, also when it takes too long."""
        try:
            async with asyncio.timeout(timeout):
                return await work
        except TimeoutError as error:
            if isinstance(error, RealtimeError):
                raise
            raise OperationTimeout(f"{self.source.name} did not answer within {timeout:g} s") from error

    def _report_failure(self, what: str, error: RealtimeError) -> None:
        """Log the first failure of a period as a warning, later ones for debugging."""
        level = logging.WARNING if self._error is None else logging.DEBUG
        self._error = str(error)
        self._logger.log(level, "%s: %s: %s", self.source.name, what, error)

    def _report_success(self) -> None:
        if self._error is not None:
            self._logger.info("%s: jobs can be claimed again", self.source.name)
            self._error = None


def _check_ended(result: object) -> None:
    """Check what a plain handler returned. Raises: StateError: it has not begun, as a coroutine that nobody awaits."""
    if inspect.iscoroutine(result):
        result.close()
    if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise StateError(
            f"the handler is a plain function, but it returned a {type(result).__name__}, which was not run",
            hint="Write `async def`, also for the function that a decorator returns, without `yield`.",
        )


def describe_error(error: BaseException | None) -> str:
    """Return the class and text of what a handler raised, as it is stored with the job."""
    if error is None:
        return ""
    text = str(error)
    return printable(f"{type(error).__name__}: {text}" if text else type(error).__name__, MAX_REASON)


def describe_handler(handler: Callable[..., Any]) -> str:
    """Return the name of a handler for messages."""
    return describe_callable(handler)
