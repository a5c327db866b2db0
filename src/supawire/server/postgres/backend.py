"""The PostgreSQL backend of the hub: starts and stops the database, and everything that uses it."""

import asyncio
import logging
import shutil
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from supawire.errors import StateError
from supawire.server.app import App
from supawire.server.hub import Hub
from supawire.server.inspector.commands import SqlResult
from supawire.server.postgres.change_feed import OUTAGE_LOSS, ChangeFeed
from supawire.server.postgres.cluster import Cluster
from supawire.server.postgres.console import run_sql
from supawire.server.postgres.database import Database, DatabaseError, SqlSession
from supawire.server.postgres.matching import MAX_POLL_INTERVAL
from supawire.server.postgres.messages import MessageTable, Partitions
from supawire.server.postgres.migrations import migrate
from supawire.server.postgres.policies import QUERY_TIMEOUT, Policies
from supawire.server.postgres.preflight import check_url, prepare, run_checks, without_password
from supawire.server.postgres.project import Project
from supawire.server.queries import (
    Answer,
    MessagesQuery,
    PermissionsQuery,
    Query,
    QueryError,
    StoreQuery,
    SubscribeQuery,
)

logger: Final = logging.getLogger("supawire.server")

CHECK_INTERVAL: Final = 1.0
"""Seconds between two checks that the embedded cluster is running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    """How outages are reported to clients, and timeouts. The defaults are the real server's: no notification at all."""

    announce_outages: bool = False
    """Channels with Postgres changes receive an error when the database is lost, and a confirmation when it is back."""
    isolate_policy_errors: bool = False
    """A row policy that raises hides rows from its subscriber only, who receives an error instead of the row."""
    outage_loss: float = OUTAGE_LOSS
    """Minimum seconds of changes that are lost when the database was lost, unless outages are announced."""
    policy_loss: float = MAX_POLL_INTERVAL
    """Maximum seconds of changes that are lost after a policy stops raising."""
    policy_timeout: float = QUERY_TIMEOUT
    """Seconds after which a policy on `realtime.messages` is cancelled."""


class PostgresBackend:
    """The PostgreSQL backend of one server's `App`.

    Args:
        url: URL of the database; None for an embedded one.
        prepare: create missing schemas and tables; always done for an embedded database.
        options: how outages are reported to clients.
        project: Supabase project whose migrations and seeds run on an embedded database.
        make_feed: creates the change feed.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        prepare: bool = False,
        options: BackendOptions | None = None,
        project: Project | None = None,
        make_feed: Callable[..., ChangeFeed] = ChangeFeed,
    ) -> None:
        if url is not None:
            check_url(url)
        self._given_url: Final = url
        self._options: Final = options or BackendOptions()
        self._prepare: Final = prepare or url is None
        self.project: Final = project
        self._make_feed: Final = make_feed
        self._cluster: Cluster | None = None
        self._app: App | None = None
        self._partitions: Partitions
        self._policies: Policies
        self._messages: MessageTable
        self._feed: ChangeFeed
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
        if self._given_url is not None:
            return self._given_url
        if self._cluster is None:
            raise StateError("the database is not running; use it inside `with LocalServer(postgres=True) as server:`")
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
    def cluster(self) -> Cluster | None:
        """The embedded database, from the beginning of `start` until it has stopped; None for a given one."""
        return self._cluster

    @property
    def embedded(self) -> bool:
        """Whether the database is an embedded one."""
        return self._given_url is None

    @property
    def running(self) -> bool:
        """Whether the backend has started and has not been stopped."""
        return self._app is not None

    @property
    def own_url(self) -> str:
        """URL of the database for the backend itself; uses a Unix socket where there is one."""
        return self.url if self._cluster is None else self._cluster.socket_url()

    # --- lifecycle ---

    async def start(self, app: App) -> None:
        """Start and prepare the database for this app, check it, and open the stream of changes.

        The app need not be listening yet. Raises: RealtimeError.
        """
        try:
            await self._start(app)
        except BaseException:
            await self.stop()
            raise

    async def _start(self, app: App) -> None:
        if self._given_url is None:
            self._cluster = cluster = Cluster()
            starting = asyncio.get_running_loop().run_in_executor(None, cluster.start)
            self._exits.push_async_callback(self._stop_cluster, cluster, starting)
            await asyncio.shield(starting)
        url, options = self.own_url, self._options
        database = Database(url)
        self._exits.push_async_callback(database.close)
        if self._prepare:
            await self._make_ready()
        self.version = await run_checks(database)
        self._partitions = Partitions(database)
        self._messages = MessageTable(database, app.call_hub)
        self._policies = Policies(url, timeout=options.policy_timeout)
        self._feed = self._make_feed(
            url,
            database,
            app.call_hub,
            consumers=[self._messages.consumer],
            announce_outages=options.announce_outages,
            isolate_policy_errors=options.isolate_policy_errors,
            outage_loss=options.outage_loss,
            policy_loss=options.policy_loss,
            max_change_bytes=app.hub.limits.change_bytes,
        )
        self._exits.push_async_callback(self._policies.close)
        self._exits.push_async_callback(self._feed.stop)
        await self._partitions.start()
        await self._messages.start()
        await self._feed.start()
        self._app = app

    async def _make_ready(self) -> None:
        """Prepare the database on a separate connection, because some settings apply only to new connections."""
        database = Database(self.own_url, 1)
        try:
            await prepare(database, ours=self._cluster is not None)
        finally:
            await database.close()
        if self.project is not None:
            await migrate(self.own_url, self.project)

    async def _stop_cluster(self, cluster: Cluster, starting: asyncio.Future[Cluster]) -> None:
        """Stop the embedded cluster, also when `start` was cancelled while the cluster was starting."""
        await asyncio.wait([starting])
        self._cluster = None
        await asyncio.to_thread(cluster.stop)

    def run(self) -> None:
        """Start the tasks; the app is listening now."""
        self._run_until_stop(self._partitions.run())
        self._run_until_stop(self._feed.run())
        if self._cluster is not None:
            self._run_until_stop(self._watch_cluster(self._cluster))

    async def stop(self) -> None:
        """Close all connections to the database; stop the cluster if it is embedded."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._app = None
        await self._exits.aclose()  # runs every callback, even if one fails

    # --- backend of the app ---

    def ask(self, number: int, question: Query[Any]) -> None:
        """Start answering a query of the hub; returns at once."""
        self._spawn(self._answer(number, question))

    def unsubscribe(self, channel: int) -> None:
        """Remove the subscriptions of a channel that has ended; returns at once."""
        self._feed.unsubscribe(channel)

    async def run_sql(self, text: str) -> SqlResult:
        """Run SQL for the inspector. Raises: DatabaseError."""
        return await run_sql(self.own_url, text)

    async def _answer(self, number: int, query: Query[Any]) -> None:
        answer: Answer = QueryError.UNKNOWN
        try:
            answer = await self._resolve(query)
        except DatabaseError as error:
            answer = query_error_of(error)
        except Exception:
            logger.exception("the local server failed on a query to its database")
        if self._app is not None:
            self._app.answered(number, answer)

    async def _resolve(self, query: Query[Any]) -> Answer:
        match query:
            case SubscribeQuery():
                return await self._feed.subscribe(query)
            case PermissionsQuery():
                return await self._policies.permissions(query)
            case MessagesQuery():
                return await self._messages.replay(query)
            case StoreQuery():
                return await self._messages.store(query)
            case _:
                raise TypeError(f"the database cannot answer a {type(query).__name__}")

    async def _watch_cluster(self, cluster: Cluster) -> None:
        """Raise StateError when the embedded cluster ends. Unlike a given database, it is not restarted."""
        while cluster.is_running:  # noqa: ASYNC110  the cluster is another process
            await asyncio.sleep(CHECK_INTERVAL)
        raise StateError("the PostgreSQL of the local server has ended", hint="Start the server again.")

    # --- tasks ---

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _run_until_stop(self, work: Coroutine[Any, Any, None]) -> None:
        self._spawn(work).add_done_callback(self._on_task_end)

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        """Log the failure of a task that should run until `stop`, and refuse joins from now on."""
        if self._stopping or task.cancelled():
            return
        logger.error("a task of the local server has ended", exc_info=task.exception())
        if self._app is not None:
            self._app.call_hub(Hub.set_database_error, QueryError.DOWN)


def query_error_of(error: DatabaseError) -> QueryError:
    """Return the error that clients receive for a database error. See docs/protocol.md, Join errors."""
    if error.sqlstate == "57014":
        return QueryError.CANCELED
    return QueryError.DOWN if error.retryable else QueryError.UNKNOWN
