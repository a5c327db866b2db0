"""The PostgreSQL backend: its answers to the hub, its tasks, and its end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from supawire.errors import StateError
from supawire.server import HubOptions
from supawire.server.app import App
from supawire.server.postgres.backend import PostgresBackend, query_error_of
from supawire.server.postgres.change_feed import ChangeFeed
from supawire.server.postgres.database import Database, DatabaseError
from supawire.server.queries import Query, QueryError, Requester, SubscribeQuery
from supawire.server.tokens import Claims

pytestmark = pytest.mark.slow


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  the condition depends on another process or thread
        await asyncio.sleep(0.005)


class FakeFeed:
    """A change feed that returns the answers of the test."""

    def __init__(self, url: str, database: Database, *args: Any, **options: Any) -> None:
        del url, args, options
        self.database = database
        self.stopped = False
        self.broken = asyncio.Event()
        self.answer: Callable[[], Any] = lambda: None

    async def start(self) -> None: ...

    async def subscribe(self, query: SubscribeQuery) -> Any:
        del query
        return self.answer()

    async def run(self) -> None:
        await self.broken.wait()
        raise RuntimeError("a bug")

    async def stop(self) -> None:
        self.stopped = True


class FeedThatCannotStart(FakeFeed):
    async def start(self) -> None:
        raise StateError("no room")


def making(feeds: list[FakeFeed], kind: type[FakeFeed] = FakeFeed) -> Callable[..., ChangeFeed]:
    """Return a factory that adds the feed it makes to a list."""

    def make(*args: Any, **options: Any) -> ChangeFeed:
        feeds.append(kind(*args, **options))
        return cast("ChangeFeed", feeds[-1])

    return make


def new_app() -> App:
    return App(HubOptions(secret="s" * 40, database=True))


QUERY: Query[Any] = SubscribeQuery(1, Requester(Claims({"role": "anon"}, "anon", 1), {}), ())


@pytest.fixture(name="running")
async def _running(database: str) -> AsyncIterator[tuple[PostgresBackend, FakeFeed, App]]:
    """A running backend, its change feed, and its app."""
    feeds: list[FakeFeed] = []
    backend, app = PostgresBackend(database, make_feed=making(feeds)), new_app()
    await backend.start(app)
    await app.start()
    backend.run()
    yield backend, feeds[0], app
    await app.stop()
    await backend.stop()
    assert feeds[0].stopped


async def test_a_query_is_answered_also_when_it_fails(
    running: tuple[PostgresBackend, FakeFeed, App], caplog: pytest.LogCaptureFixture
):
    """A database error becomes a QueryError; a bug is logged and becomes QueryError.UNKNOWN."""
    backend, feed, app = running
    answers: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
    app.answered = lambda number, answer: answers.put_nowait((number, answer))

    def refuse(sqlstate: str | None, *, retryable: bool = False) -> Callable[[], Any]:
        def fail() -> Any:
            raise DatabaseError("no", sqlstate=sqlstate, text="no", retryable=retryable, hint=None)

        return fail

    def bug() -> Any:
        raise KeyError

    for number, (answer, expected) in enumerate(
        [
            (lambda: None, None),
            (refuse("57014"), QueryError.CANCELED),
            (refuse(None, retryable=True), QueryError.DOWN),
            (refuse("XX000"), QueryError.UNKNOWN),
            (bug, QueryError.UNKNOWN),
        ]
    ):
        feed.answer = answer
        backend.ask(number, QUERY)
        assert await answers.get() == (number, expected)
    assert "KeyError" in caplog.text


async def test_a_task_that_ends_by_a_bug_is_logged_and_joins_are_refused(
    running: tuple[PostgresBackend, FakeFeed, App], caplog: pytest.LogCaptureFixture
):
    """From then on the hub refuses joins, as when the database is down."""
    _, feed, app = running
    with caplog.at_level(logging.ERROR, "supawire.server"):
        feed.broken.set()
        await until(lambda: app.hub.database_error is not None)
    assert app.hub.database_error is QueryError.DOWN
    assert "a bug" in caplog.text


async def test_a_failed_start_closes_what_was_opened(database: str):
    """The error is the one of the part that failed, and the connections are closed."""
    feeds: list[FakeFeed] = []
    backend = PostgresBackend(database, make_feed=making(feeds, FeedThatCannotStart))
    with pytest.raises(StateError, match="no room"):
        await backend.start(new_app())
    assert feeds[0].stopped
    assert not backend.running
    with pytest.raises(StateError, match="closed"):
        await feeds[0].database.query("select 1")


async def test_a_cancelled_start_stops_the_cluster():
    """The thread that starts the cluster cannot be cancelled, so it is awaited; then the cluster is stopped."""
    backend = PostgresBackend()
    starting = asyncio.create_task(backend.start(new_app()))
    await until(lambda: backend.cluster is not None)
    cluster = backend.cluster
    assert cluster is not None
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not cluster.is_running
    assert repr(cluster) == "Cluster(not running)"


def test_each_database_error_has_a_query_error():
    """A cancelled query, a lost connection, and every other error."""
    for sqlstate, retryable, expected in (
        ("57014", False, "CANCELED"),
        (None, True, "DOWN"),
        ("42P01", False, "UNKNOWN"),
    ):
        error = DatabaseError("no", sqlstate=sqlstate, text="no", retryable=retryable, hint=None)
        assert query_error_of(error) is QueryError[expected]
