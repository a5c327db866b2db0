"""One run of a worker: prepares the sources, runs their jobs and the wake-ups, and shuts down."""

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from msgspec import Struct

from supawire.aio.callbacks import RANDOM, is_async
from supawire.core.pacing import delay
from supawire.errors import RealtimeError, StateError
from supawire.options import Backoff, Secret
from supawire.worker.announcements import Announcements
from supawire.worker.database import BlockingDatabase, Database
from supawire.worker.job import Attempt, Job
from supawire.worker.rest import RestClient, RestSettings
from supawire.worker.runner import CANCEL_TIMEOUT, JobSettings, JobStats, Runner
from supawire.worker.source import Source, TransactionalSource
from supawire.worker.table import new_holder

START_BACKOFF: Final = Backoff(initial=0.5, maximum=5.0)
"""Delays between attempts to reach the database at the start."""
START_TIMEOUT: Final = 20.0
"""Seconds in which the database must be reached at the start."""


class WorkerSettings(Struct, frozen=True):
    """The checked options of a worker. Times in seconds. client: options of the Realtime client."""

    url: str | None
    key: Secret | None
    database: Secret | None
    poll: float
    lease: float
    shutdown_timeout: float
    jobs_schema: str
    keep: float
    client: dict[str, Any]
    logger: logging.Logger
    rest: RestSettings | None = None

    def context(
        self, database: Database | None, rest: RestClient | None = None, role: str = "service_role"
    ) -> "WorkerContext":
        """Return what sources get."""
        return WorkerContext(database, new_holder(), self.url, self.key, self.jobs_schema, self.keep, rest, role)


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What a source gets from its worker.

    database: None without a PostgreSQL URL. holder: names this process. rest: None unless jobs come over REST. role:
    who may call the functions that a migration creates.
    """

    database: Database | None
    holder: str
    url: str | None
    key: Secret | None
    jobs_schema: str
    keep: float
    rest: RestClient | None = None
    role: str = "service_role"


class JobDefinition(Struct, frozen=True):
    """A registered handler, and how to make the source of its jobs."""

    name: str
    make: Callable[[WorkerContext], Source]
    handler: Callable[[Job[Any]], Any]
    settings: JobSettings


@dataclass(frozen=True, slots=True)
class Health:
    """The state of a worker, for a probe.

    ok: whether jobs can be claimed and written back now. state: "stopped", "running" or "draining". database: "ok", or
    why it cannot be reached. realtime: "live", "off", or why the poll alone finds jobs. jobs: the counters by name.
    """

    ok: bool
    state: str
    database: str
    realtime: str
    jobs: Mapping[str, JobStats] = field(default_factory=dict[str, JobStats])


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """Counters since the worker was started. queries: statements sent to the database by the engine."""

    jobs: Mapping[str, JobStats]
    queries: int


class Serving:
    """One run of a worker, in one event loop."""

    def __init__(self, settings: WorkerSettings, definitions: Iterable[JobDefinition]) -> None:
        self._settings: Final = settings
        self._definitions: Final = tuple(definitions)
        self._logger: Final = settings.logger
        self._loop: Final = asyncio.get_running_loop()
        self._stop: Final = asyncio.Event()
        self._ready = False
        self._runners: Final[dict[str, Runner]] = {}
        self._announcements: Announcements | None = None
        self._database: Final = None if settings.database is None else Database(settings.database)
        self._rest: Final = None if settings.rest is None else RestClient(settings.rest)
        self._draining = False

    @property
    def queries(self) -> int:
        """How many statements the engine has sent to the database, or requests to PostgREST."""
        sent = 0 if self._database is None else self._database.queries
        return sent if self._rest is None else sent + self._rest.requests

    def stop(self) -> None:
        """Let `run` drain and return; any thread may call it."""
        with suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(self._stop.set)

    def stats(self) -> dict[str, JobStats]:
        """Return the counters of each job."""
        return {name: runner.stats() for name, runner in self._runners.items()}

    def health(self) -> Health:
        """Return what works now."""
        broken = next((runner.error for runner in self._runners.values() if runner.error is not None), None)
        if self._announcements is not None:
            realtime = self._announcements.state
        else:
            realtime = "off" if self._settings.url is None else "connecting"
        running = self._ready and not self._draining
        state = "draining" if self._draining else "running" if self._ready else "starting"
        return Health(running and broken is None, state, broken or "ok", realtime, self.stats())

    async def run(self, until_idle: bool, on_ready: Callable[[], None]) -> None:
        """Run until `stop`; with `until_idle` until no job is left. `on_ready` is called when jobs are claimed."""
        async with AsyncExitStack() as stack:
            if self._database is not None:
                stack.push_async_callback(self._database.close)
            if self._rest is not None:
                stack.push_async_callback(self._rest.close)
            context = self._settings.context(self._database, self._rest)
            for definition in self._definitions:
                source = definition.make(context)
                stack.push_async_callback(source.close)
                await self._prepare(source)
                transactions = self._transactions(source, definition, stack)
                self._runners[definition.name] = Runner(
                    source,
                    definition.handler,
                    definition.settings,
                    logger=self._logger,
                    transactions=transactions,
                    is_announced=partial(self._is_announced, definition.name),
                )
            await self._work(until_idle, on_ready)

    def _transactions(
        self, source: Source, definition: JobDefinition, stack: AsyncExitStack
    ) -> "DatabaseTransactions | None":
        url = self._settings.database
        if url is None or not isinstance(source, TransactionalSource):
            return None
        if is_async(definition.handler):
            database = Database(url, definition.settings.concurrency, for_users=True)
            stack.push_async_callback(database.close)
            return DatabaseTransactions(source, database, None)
        blocking = BlockingDatabase(url)
        stack.callback(blocking.close)
        return DatabaseTransactions(source, None, blocking)

    async def _prepare(self, source: Source) -> None:
        """Prepare a source. A database that cannot be reached is tried again for some seconds."""
        end = self._loop.time() + START_TIMEOUT
        failures = 0
        while True:
            try:
                warnings = await source.prepare()
                break
            except RealtimeError as error:
                wait = delay(START_BACKOFF, failures, RANDOM)
                if not error.retryable or self._loop.time() + wait > end:
                    raise
                self._logger.warning("%s: %s; next attempt in %.1f s", source.name, error, wait)
                failures += 1
                await asyncio.sleep(wait)
        for text in warnings:
            self._logger.warning("%s: %s", source.name, text)

    async def _work(self, until_idle: bool, on_ready: Callable[[], None]) -> None:
        tasks = {
            asyncio.create_task(runner.run(), name=f"supawire-runner-{name}") for name, runner in self._runners.items()
        }
        announcing = self._announce()
        if announcing is not None:
            tasks.add(announcing)
        stopping = asyncio.create_task(self._wait_until_idle() if until_idle else self._wait_until_stopped())
        self._ready = True
        on_ready()
        try:
            await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
            await self._drain(tasks, self._settings.shutdown_timeout)
        except asyncio.CancelledError:
            await self._drain(tasks, 0)
            raise
        finally:
            for task in (*tasks, stopping):
                task.cancel()
            outcomes = await asyncio.gather(*tasks, stopping, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _drain(self, tasks: Iterable["asyncio.Task[None]"], timeout: float) -> None:
        self._draining = True
        runners = list(self._runners.values())
        for runner in runners:
            runner.drain()
        if any(task.done() for task in tasks):
            timeout = 0  # one of them has failed
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await asyncio.gather(*(runner.wait_idle() for runner in runners))
                return
        await asyncio.gather(*(runner.give_back() for runner in runners))
        with suppress(TimeoutError):  # completions of jobs that ended in the last moment
            async with asyncio.timeout(CANCEL_TIMEOUT):
                await asyncio.gather(*(runner.wait_idle() for runner in runners))

    def _announce(self) -> "asyncio.Task[None] | None":
        settings = self._settings
        wakeups = {
            name: runner.source.wakeup for name, runner in self._runners.items() if runner.source.wakeup is not None
        }
        if settings.url is None or settings.key is None or not wakeups:
            return None
        self._announcements = Announcements(
            settings.url, settings.key, settings.client, wakeups, self._wake, self._logger
        )
        return asyncio.create_task(self._announcements.run(), name="supawire-announcements")

    def _is_announced(self, name: str) -> bool:
        return self._announcements is not None and self._announcements.is_live(name)

    def _wake(self, name: str, cause: str) -> None:
        self._runners[name].wake(cause)

    async def _wait_until_stopped(self) -> None:
        await self._stop.wait()

    async def _wait_until_idle(self) -> None:
        stopped = asyncio.create_task(self._stop.wait())
        idle = asyncio.create_task(self._wait_until_empty())
        try:
            await asyncio.wait({stopped, idle}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            idle.cancel()

    async def _wait_until_empty(self) -> None:
        await asyncio.gather(*(runner.wait_until_empty() for runner in self._runners.values()))


class DatabaseTransactions:
    """Transactions of handlers, in which their job is completed."""

    def __init__(
        self, source: TransactionalSource, database: Database | None, blocking: BlockingDatabase | None
    ) -> None:
        self._source: Final = source
        self._database: Final = database
        self._blocking: Final = blocking

    @asynccontextmanager
    async def open(self, attempt: Attempt) -> AsyncGenerator[Any]:
        """Provide a connection; complete the job and commit at the end of the block."""
        if self._database is None:
            raise StateError("this handler is a plain function", hint="Write `with job.transaction() as connection:`.")
        async with self._database.raw_connection() as connection, connection.transaction():
            yield connection
            statement, parameters = self._source.completion(attempt.finished)
            row = await (await connection.execute(statement, parameters)).fetchone()
            if row is None or not row[1]:
                attempt.mark_lost("another worker has it, or it was withdrawn")
                raise attempt.lost_error()

    @contextmanager
    def open_blocking(self, attempt: Attempt) -> Generator[Any]:
        """Provide a connection for a plain handler; complete the job and commit at the end of the block."""
        if self._blocking is None:
            raise StateError(
                "this handler is an async function", hint="Write `async with job.transaction() as connection:`."
            )
        with self._blocking.connection() as connection, connection.transaction():
            yield connection
            statement, parameters = self._source.completion(attempt.finished)
            row = connection.execute(statement, parameters).fetchone()
            if row is None or not row[1]:
                attempt.mark_lost("another worker has it, or it was withdrawn")
                raise attempt.lost_error()


class ServingThread:
    """A worker that runs in a thread, for programs that block.

    serve: returns the coroutine to run, which calls its argument when the worker is ready.
    """

    def __init__(self, serve: Callable[[Callable[[], None]], Coroutine[Any, Any, None]]) -> None:
        self._serve: Final = serve
        self._error: BaseException | None = None
        self._ready: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._main, name="supawire-worker", daemon=True)

    def start(self) -> None:
        """Start; return when the worker is ready. Raises what keeps it from starting."""
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait for the end. Raises what ended the worker."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(self._serve(self._ready.set))
        except BaseException as error:  # noqa: BLE001  raised in the thread that started this one
            self._error = error
        finally:
            self._ready.set()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what psycopg needs on Windows; elsewhere the loop of the program's policy is used."""
    return asyncio.SelectorEventLoop if sys.platform == "win32" else None
