"""The PostgreSQL backend of the hub: starts and stops the database, its components and their tasks."""

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Final, TypeVar

from supawire.errors import StateError
from supawire.events import Instant
from supawire.server.app import App
from supawire.server.hub import Hub
from supawire.server.postgres.change_feed import Feed
from supawire.server.postgres.cluster import Cluster
from supawire.server.postgres.component import BackendContext, Behaviour, Component
from supawire.server.postgres.database import Database, DatabaseError
from supawire.server.postgres.messages import MessageTable, Partitions
from supawire.server.postgres.policies import Policies
from supawire.server.postgres.preflight import check_url, run_checks, without_password
from supawire.server.postgres.project import Project, migrate
from supawire.server.postgres.schema import SqlSession, prepare
from supawire.server.queries import Answer, Query, QueryError

logger: Final = logging.getLogger("supawire.server")

T = TypeVar("T")
POLL_INTERVAL: Final = 1.0
"""Seconds between two checks that the embedded cluster is running."""
PARTS: Final[tuple[Callable[[BackendContext], Component], ...]] = (Partitions, Policies, MessageTable, Feed)
"""The components of the backend, in start order."""


class PostgresBackend:
    """The PostgreSQL backend of one server's `App`.

    Args:
        url: URL of the database; None for an embedded one.
        prepare: create missing schemas and tables; always done for an embedded database.
        behaviour: how outages are reported to clients.
        project: Supabase project whose migrations and seeds run on an embedded database.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        prepare: bool = False,
        behaviour: Behaviour | None = None,
        project: Project | None = None,
    ) -> None:
        if url is not None:
            check_url(url)
        self._given: Final = url
        self._behaviour: Final = behaviour or Behaviour()
        self._prepare: Final = prepare or url is None
        self.project: Final = project
        self._cluster: Cluster | None = None
        self._ground: BackendContext | None = None
        self._app: App | None = None
        self._parts: list[Component] = []
        self._answers: dict[type[Query[Any]], Callable[[Any], Awaitable[Answer]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._exits: Final = AsyncExitStack()
        self._stopping = False
        self.session: Final = SqlSession(lambda: self.own_url)
        """Runs SQL for the server's owner, from any thread. The caller that stops the backend permanently closes it."""
        self.version: str = ""
        """The PostgreSQL version, such as `18.6`; set by `start`."""

    @property
    def url(self) -> str:
        """URL of the database for users and their programs. Raises: StateError when the database is not running."""
        if self._given is not None:
            return self._given
        if self._cluster is None:
            raise StateError(
                "the database does not run yet; use it inside `with LocalServer(postgres=True) as server:`"
            )
        return self._cluster.url

    @property
    def shown_url(self) -> str:
        """The URL without a password; for an embedded database it works for programs of the same user only."""
        return without_password(self.url) if self._cluster is None else self._cluster.shown_url

    @property
    def psql(self) -> str:
        """The psql command to show to users: `psql` if it is on PATH, else the path of the embedded one."""
        if self._cluster is None or shutil.which("psql") is not None:
            return "psql"
        beside = self._cluster.programs / "psql"
        return str(beside) if beside.exists() else "psql"

    @property
    def embedded(self) -> bool:
        """Whether the database is an embedded one."""
        return self._given is None

    @property
    def running(self) -> bool:
        """Whether the backend has started and has not been stopped."""
        return self._ground is not None

    @property
    def own_url(self) -> str:
        """URL of the database for the backend itself; uses a Unix socket where there is one."""
        return self.url if self._cluster is None else self._cluster.socket_url()

    # --- lifecycle ---

    async def start(self) -> None:
        """Start and prepare the database, check it and start all components. Raises: RealtimeError."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        if self._given is None:
            self._cluster = cluster = Cluster()
            starting = asyncio.get_running_loop().run_in_executor(None, cluster.start)
            self._exits.push_async_callback(self._end, cluster, starting)
            await asyncio.shield(starting)
        self._ground = ground = BackendContext(self.own_url, self._do, self._behaviour)
        self._exits.push_async_callback(ground.database.close)
        if self._prepare:
            await self._make_ready()
        self.version = await run_checks(ground.database)
        for make in PARTS:
            part = make(ground)
            self._parts.append(part)
            self._answers.update(part.answers)
            self._exits.push_async_callback(part.stop)
            await part.start()

    async def _make_ready(self) -> None:
        """Prepare the database on a separate connection, because some settings apply only to new connections."""
        database = Database(self.own_url, 1)
        try:
            await prepare(database, ours=self._cluster is not None)
        finally:
            await database.close()
        if self.project is not None:
            await migrate(self.own_url, self.project)

    async def _end(self, cluster: Cluster, starting: asyncio.Future[Cluster]) -> None:
        """Stop the embedded cluster, also when `start` was cancelled while the cluster was starting."""
        await asyncio.wait([starting])
        self._cluster = None
        await asyncio.to_thread(cluster.stop)

    def run(self, app: App) -> None:
        """Attach the app of the server, which is now listening, and start the components' tasks."""
        self._app = app
        for part in self._parts:
            self._spawn(part.run()).add_done_callback(self._ended)
        if self._cluster is not None:
            self._spawn(self._watch(self._cluster)).add_done_callback(self._ended)

    async def stop(self) -> None:
        """Close all connections to the database; stop the cluster if it is embedded."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._ground = None
        await self._exits.aclose()  # runs every callback, even if one fails

    # --- backend of the app ---

    def ask(self, number: int, question: Query[Any]) -> None:
        """Start answering a query of the hub; returns at once."""
        self._spawn(self._answer(number, question))

    def unsubscribe(self, channel: int) -> None:
        """Remove the subscriptions of a channel that has ended; returns at once."""
        for part in self._parts:
            part.unsubscribe(channel)

    async def _answer(self, number: int, question: Query[Any]) -> None:
        answer: Answer = QueryError.UNKNOWN
        try:
            answer = await self._answers[type(question)](question)
        except DatabaseError as error:
            answer = trouble_of(error)
        except Exception:
            logger.exception("the local server failed on a question to its database")
        if self._app is not None:
            self._app.answered(number, answer)

    async def _watch(self, cluster: Cluster) -> None:
        """Raise StateError when the embedded cluster ends. Unlike a given database, it is not restarted."""
        while cluster.lives:  # noqa: ASYNC110  the cluster is another process
            await asyncio.sleep(POLL_INTERVAL)
        raise StateError("the PostgreSQL of the local server has ended", hint="Start the server again.")

    # --- tasks ---

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Log the failure of a task that should run until `stop`, and refuse joins from now on."""
        if self._stopping or task.cancelled():
            return
        logger.error("a task of the local server has ended", exc_info=task.exception())
        self._do(lambda hub, now: hub.troubled(QueryError.DOWN, now))

    def _do(self, act: Callable[[Hub, Instant], T]) -> T:
        app = self._app
        if app is None:
            raise StateError("the server does not run yet")
        try:
            return act(app.hub, app.now())
        finally:
            app.pump()


def trouble_of(error: DatabaseError) -> QueryError:
    """Return the error that clients receive for a database error. See docs/protocol.md, Join errors."""
    if error.sqlstate == "57014":
        return QueryError.CANCELED
    return QueryError.DOWN if error.retryable else QueryError.UNKNOWN
