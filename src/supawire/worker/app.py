"""`Worker`: the jobs of one process, and what runs them."""

import asyncio
import logging
import sys
import typing
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, cast, get_args, get_origin

from supawire._values.models import check_model
from supawire.aio.tasks import stop_on_signals
from supawire.errors import InvalidArgumentError, StateError
from supawire.filters import Where
from supawire.options import (
    Backoff,
    ClientOptions,
    Secret,
    check_bool,
    check_count,
    check_kind,
    check_number,
    check_takes,
    check_text,
    check_timeout,
)
from supawire.worker.database import Database, check_database
from supawire.worker.function_source import FunctionSource
from supawire.worker.job import Job
from supawire.worker.patch_source import PatchSource
from supawire.worker.queue_source import QueueSource, check_queue_name
from supawire.worker.rest import rest_settings
from supawire.worker.runner import JobSettings, describe_handler
from supawire.worker.scheduling import RetryPolicy
from supawire.worker.serving import (
    Health,
    JobDefinition,
    Serving,
    ServingThread,
    WorkerContext,
    WorkerSettings,
    WorkerStats,
    loop_factory,
)
from supawire.worker.source import MigratingSource, Source
from supawire.worker.table import TableOptions, TableSource, migration_of
from supawire.worker.values import Values

Handler = TypeVar("Handler", bound=Callable[..., Any])

MAX_CONCURRENCY: Final = 1000


class Worker:
    """Runs jobs that must be done: rows of tables, or messages of queues.

        app = Worker(url, key, database=DATABASE_URL)

        @app.job("orders", where=col("status") == "pending", claim={"status": "running"})
        async def fulfil(job: Job[Order]) -> None: ...

        app.run()

    `run()` blocks until SIGTERM or SIGINT. `await serve()`, or `async with app`, run it in your event loop, and
    `with app` in a thread.

    Args:
        url, key: the project's URL and API key, for Realtime, which announces jobs. None: the poll alone finds them.
        database: the URL of its PostgreSQL, as a direct connection or through the pooler's session mode.
        poll: seconds after which a source is asked although nothing was announced.
        lease: seconds after which the jobs of a worker that died are given to others.
        shutdown_timeout: seconds that running jobs get to end; the others are given back.
        jobs_schema: the schema of the side table. keep: seconds for which the entries of done jobs are kept there.
        rest: how rows are reached without a database URL: "functions" calls the SQL functions that
            `supawire worker init` writes; "columns" updates rows by conditional requests, with weaker
            guarantees.
        rest_url: the address of PostgREST, by default that of the project.
        logger: the parent logger, by default "supawire".
        client: further options of the Realtime client, such as `token`; see `connect_async`.

    Raises: InvalidArgumentError.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | Secret | None = None,
        *,
        database: str | Secret | None = None,
        poll: float = 30.0,
        lease: float = 60.0,
        shutdown_timeout: float = 20.0,
        jobs_schema: str = "supawire",
        keep: float = 86_400.0,
        rest: Literal["functions", "columns"] | None = None,
        rest_url: str | None = None,
        logger: logging.Logger | None = None,
        **client: Any,
    ) -> None:
        checked = _check_client(url, key, client)
        secret = None if key is None else key if isinstance(key, Secret) else Secret(key)
        realtime_url = (
            None if url is None or secret is None else ClientOptions(**checked).endpoint(url, secret).rest_url
        )
        self._settings: Final = WorkerSettings(
            url=url,
            key=secret,
            database=None if database is None else check_database(database),
            poll=check_number("poll", poll, above=0, unit="seconds"),
            lease=check_number("lease", lease, minimum=1, unit="seconds"),
            shutdown_timeout=check_number("shutdown_timeout", shutdown_timeout, minimum=0, unit="seconds"),
            jobs_schema=check_text("jobs_schema", jobs_schema),
            keep=check_number("keep", keep, minimum=60, unit="seconds"),
            client=checked if logger is None else checked | {"logger": logger},
            logger=logging.getLogger("supawire.worker") if logger is None else logger.getChild("worker"),
            rest=rest_settings(rest, rest_url, realtime_url, secret, checked.get("token")),
        )
        if rest is not None and database is not None:
            raise InvalidArgumentError("pass database= or rest=, not both: a direct connection guarantees more")
        self._definitions: Final[dict[str, JobDefinition]] = {}
        self._serving: Serving | None = None
        self._last_stats = WorkerStats({}, 0)
        self._task: asyncio.Task[None] | None = None
        self._thread: ServingThread | None = None

    def __repr__(self) -> str:
        return f"<Worker of {', '.join(self._definitions) or 'no job'}>"

    # --- registration

    def job(
        self,
        table: str,
        *,
        where: Where,
        claim: Values | None = None,
        done: Values | None = None,
        failed: Values | None = None,
        schema: str = "public",
        name: str | None = None,
        concurrency: int = 8,
        retry: Backoff = Backoff(),
        max_attempts: int | None = 10,
        timeout: float | None = 300.0,
        lease: float | None = None,
        poll: float | None = None,
        order_by: str | Iterable[str] | None = None,
        group: str | None = None,
        key: str = "id",
        model: type[Any] | None = None,
    ) -> Callable[[Handler], Handler]:
        """Register the decorated function for the rows of a table that match a condition.

        The function is called with a `Job`. It is async, or plain and then called on a thread.

        Args:
            table, schema: the table, which has a primary key. where: which rows are jobs that wait.
            claim, done, failed: what is written to the row when it is claimed, completed, or failed permanently; by
                default `{"status": "running"}`, `{"status": "done"}`, `{"status": "failed"}`. `NOW` is the time, and in
                `failed` `REASON` is why. None of the three may leave a row that matches `where`.
            name: tells two jobs of one table apart, and must stay the same over versions of your program.
            concurrency: the most jobs that run in this process at the same time.
            retry: delays between attempts; its `max_attempts` and `max_elapsed` count too. max_attempts: attempts
                after which a job has failed; None: no limit.
            timeout: seconds for one attempt, after which it has failed; None: no limit.
            lease, poll: instead of those of the worker.
            order_by: columns that say which rows come first, with `-` in front for descending; the primary key follows.
            group: a column; of the rows with the same value, one is worked on at a time, in the order of `order_by`.
            key: only with `rest="columns"`: the column that names a row. Otherwise the primary key is read.
            model: the class of `job.record`; by default that of the annotation `Job[Order]`.

        Raises: InvalidArgumentError. What the database does not have is found when the worker starts.
        """
        rest = self._settings.rest
        if rest is None:
            self._check_database("a job of a table")
        if rest is not None and schema != "public":
            raise InvalidArgumentError(f"over REST the table must be in the schema public, not {schema!r}")
        if rest is not None and rest.columns and group is not None:
            raise InvalidArgumentError(
                'group= needs a database URL or rest="functions": conditional requests cannot keep an order'
            )
        options = TableOptions(
            table,
            schema=schema,
            name=name,
            where=where,
            claim={"status": "running"} if claim is None else claim,
            done={"status": "done"} if done is None else done,
            failed={"status": "failed"} if failed is None else failed,
            order_by=order_by,
            group=group,
            jobs_schema=self._settings.jobs_schema,
            keep=self._settings.keep,
        )

        def make(context: WorkerContext) -> Source:
            if rest is None:
                return TableSource(_database_of(context), options, context.holder)
            if rest.columns:
                return PatchSource(context.rest, options, check_text("key", key))
            return FunctionSource(context.rest, options, context.holder, database=context.database, role=context.role)

        return self.source(
            options.name, make, concurrency=concurrency, retry=retry, max_attempts=max_attempts, timeout=timeout,
            lease=lease, poll=poll, model=model,
        )  # fmt: skip

    def queue(
        self,
        queue: str,
        *,
        dead_letters: str | None = None,
        archive: bool = False,
        concurrency: int = 8,
        retry: Backoff = Backoff(),
        max_attempts: int | None = 10,
        timeout: float | None = 300.0,
        lease: float | None = None,
        poll: float | None = None,
        model: type[Any] | None = None,
    ) -> Callable[[Handler], Handler]:
        """Register the decorated function for the messages of a pgmq queue (Supabase Queues).

        `job.row` is the message if it is an object, else `{"message": …}`; `job.key` is its `msg_id`, `job.headers` its
        headers. The visibility timeout is the lease, and pgmq counts times in whole seconds.

        Args: queue: its name. dead_letters: the queue that gets messages that have failed permanently, by default the
        name with `_dead`. archive: move messages of successful jobs to the archive of the queue instead of deleting
        them.
        The others: see `job`.
        """
        self._check_database("a job of a queue")
        name = check_queue_name("queue", queue)
        dead = check_queue_name("dead_letters", f"{queue}_dead" if dead_letters is None else dead_letters)
        if dead == name:
            raise InvalidArgumentError("dead_letters must be another queue, or failed messages would be read again")
        check_bool("archive", archive)
        return self.source(
            f"pgmq.{name}", lambda context: QueueSource(_database_of(context), name, dead_letters=dead,
            archive=archive), concurrency=concurrency, retry=retry, max_attempts=max_attempts, timeout=timeout,
            lease=lease, poll=poll, model=model,
        )  # fmt: skip

    def source(
        self,
        name: str,
        make: Callable[[WorkerContext], Source],
        *,
        concurrency: int = 8,
        retry: Backoff = Backoff(),
        max_attempts: int | None = 10,
        timeout: float | None = 300.0,
        lease: float | None = None,
        poll: float | None = None,
        model: type[Any] | None = None,
    ) -> Callable[[Handler], Handler]:
        """Register the decorated function for the jobs of any `Source`.

        Args: name: of the source. make: returns the source, called when the worker starts. The others: see `job`.
        """
        if name in self._definitions:
            raise InvalidArgumentError(
                f"there is a job {name!r} already", hint="Give the second one a name of its own: name='…'."
            )
        check_kind("retry", retry, Backoff, "a Backoff, such as Backoff(initial=1)")
        settings = JobSettings(
            concurrency=check_count("concurrency", concurrency, maximum=MAX_CONCURRENCY),
            poll=self._settings.poll if poll is None else check_number("poll", poll, above=0, unit="seconds"),
            lease=self._settings.lease if lease is None else check_number("lease", lease, minimum=1, unit="seconds"),
            policy=RetryPolicy(retry, None if max_attempts is None else check_count("max_attempts", max_attempts)),
            timeout=check_timeout(timeout, None),
            model=check_model(model),
        )

        def register(handler: Handler) -> Handler:
            check_takes("the decorated function", handler, 1, "a function of one job")
            chosen = settings if settings.model is not None else _with_model(settings, handler)
            self._definitions[name] = JobDefinition(name, make, handler, chosen)
            return handler

        return register

    def _check_database(self, what: str) -> None:
        if self._settings.database is None:
            raise InvalidArgumentError(
                f"{what} needs the URL of its database", hint="Write Worker(url, key, database=DATABASE_URL)."
            )

    # --- running

    def run(self, *, until_idle: bool = False) -> None:
        """Run until SIGTERM or SIGINT, then let running jobs end, and return. A second signal gives them back at once.

        Args: until_idle: return when no job is left that can be done now.
        Raises: SetupError: the database is not prepared; `sql` mends it. RealtimeError: the database cannot be reached
            at the start, or Realtime refuses the key. StateError: it runs already.
        """
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(self._run(until_idle))

    async def _run(self, until_idle: bool) -> None:
        with stop_on_signals(self.stop, asyncio.current_task()), suppress(asyncio.CancelledError):
            await self.serve(until_idle=until_idle)  # cancelled by the second signal

    async def serve(self, *, until_idle: bool = False) -> None:
        """Run in this event loop until `stop()`. A cancellation gives running jobs back at once.

        Args and errors: see `run`.
        """
        await self._serve(until_idle, lambda: None)

    async def _serve(self, until_idle: bool, on_ready: Callable[[], None]) -> None:
        if self._serving is not None:
            raise StateError("this worker is running already", hint="Create another Worker, or call stop() first.")
        if not self._definitions:
            raise StateError("this worker has no job", hint="Decorate a function with @app.job(…).")
        self._serving = Serving(self._settings, self._definitions.values())
        try:
            await self._serving.run(until_idle, on_ready)
        finally:
            self._last_stats = self.stats()
            self._serving = None

    def stop(self) -> None:
        """Ask the worker to stop: it claims nothing more, and ends when its jobs have. Any thread may call it."""
        serving = self._serving
        if serving is not None:
            serving.stop()

    async def __aenter__(self) -> Self:
        ready = asyncio.Event()
        self._task = asyncio.create_task(self._serve(False, ready.set), name="supawire-worker")
        self._task.add_done_callback(lambda _: ready.set())
        try:
            await ready.wait()
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        if self._task.done():
            await self._task
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._task is not None:
            await self._task

    def __enter__(self) -> Self:
        self._thread = ServingThread(lambda on_ready: self._serve(False, on_ready))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.finish()

    # --- looking

    def stats(self) -> WorkerStats:
        """Return counters since the worker was started; when it does not run, those of the last time."""
        serving = self._serving
        return self._last_stats if serving is None else WorkerStats(serving.stats(), serving.queries)

    def health(self) -> Health:
        """Return the state of the worker."""
        serving = self._serving
        return Health(False, "stopped", "stopped", "stopped") if serving is None else serving.health()

    async def migration(self, database: str | Secret | None = None, *, role: str = "service_role") -> str:
        """Return the SQL that prepares the database for all jobs. It may be run again.

        Args: database: URL of the database, by default that of the worker; needed to write the functions for
        `rest="functions"`. role: who may call these.
        Raises: SetupError: a table of a job is missing, or does not have what the job needs.
        """
        parts: list[str] = []
        has_side_table = False
        async with self._open_database(database) as connections:
            context = self._settings.context(connections, role=check_text("role", role))
            for definition in self._definitions.values():
                source = definition.make(context)
                has_side_table |= isinstance(source, TableSource | FunctionSource)
                if isinstance(source, MigratingSource):
                    parts += await source.migration()
        return migration_of(self._settings.jobs_schema if has_side_table else None, parts)

    async def apply_migration(self, database: str | Secret | None = None, *, role: str = "service_role") -> str:
        """Run the migration in one transaction, and return its SQL."""
        text = await self.migration(database, role=role)
        async with (
            self._open_database(database) as connections,
            connections.connection() as connection,
            connection.transaction(),
        ):
            await connection.execute(text.encode(), prepare=False)
        return text

    @asynccontextmanager
    async def _open_database(self, url: str | Secret | None = None) -> AsyncGenerator[Database]:
        secret = self._settings.database if url is None else check_database(url)
        if secret is None:
            raise StateError("this worker has no database", hint="Write Worker(url, key, database=DATABASE_URL).")
        database = Database(secret)
        try:
            yield database
        finally:
            await database.close()


def _database_of(context: WorkerContext) -> Database:
    assert context.database is not None  # checked when the job was registered
    return context.database


def _check_client(url: object, key: object, client: Mapping[str, Any]) -> dict[str, Any]:
    """Check URL, key and options of the Realtime client, and return the options."""
    if (url is None) != (key is None):
        raise InvalidArgumentError("url and key belong together; pass both, or none to find jobs by the poll alone")
    try:
        options = ClientOptions(**client)
    except TypeError as error:
        raise InvalidArgumentError(f"the worker has no such option: {error}", hint="See docs/worker.md.") from None
    if url is not None:
        options.endpoint(url, key)  # pyright: ignore[reportArgumentType]  it checks them
    return dict(client)


def _with_model(settings: JobSettings, handler: Callable[..., Any]) -> JobSettings:
    """Return the settings with the model of the handler's annotation `Job[Order]`, if it has one."""
    model = _annotated_model(handler)
    return JobSettings(
        settings.concurrency, settings.poll, settings.lease, settings.policy, settings.timeout, check_model(model)
    )


def _annotated_model(handler: Callable[..., Any]) -> type[Any] | None:
    try:
        function = handler if hasattr(handler, "__annotations__") else getattr(handler, "__call__", handler)  # noqa: B004
        hints = typing.get_type_hints(function)
    except (NameError, TypeError) as error:
        if any("Job[" in text for text in _annotations(handler)):
            raise InvalidArgumentError(
                f"the annotation of {describe_handler(handler)} cannot be resolved: {error}", hint="Pass model=."
            ) from None
        return None
    for name, hint in hints.items():
        if name != "return" and get_origin(hint) is Job:
            (model,) = get_args(hint)
            is_class = isinstance(model, type) and model is not Any and not issubclass(model, dict)
            return cast("type[Any]", model) if is_class else None
    return None


def _annotations(handler: Callable[..., Any]) -> list[str]:
    """Return the texts of annotations that cannot be evaluated."""
    if sys.version_info >= (3, 14):  # where reading `__annotations__` evaluates them
        import annotationlib

        function = handler if hasattr(handler, "__annotate__") else getattr(handler, "__call__", handler)  # noqa: B004
        return list(annotationlib.get_annotations(function, format=annotationlib.Format.STRING).values())
    function = handler if hasattr(handler, "__annotations__") else getattr(handler, "__call__", handler)  # noqa: B004
    return [str(note) for note in getattr(function, "__annotations__", {}).values()]
