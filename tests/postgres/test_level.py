"""The level: its connections, its parts, and what becomes of their trouble."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest

from supawire.errors import StateError
from supawire.server import HubOptions
from supawire.server.app import App
from supawire.server.postgres import backend as levels
from supawire.server.postgres.backend import PostgresBackend, trouble_of
from supawire.server.postgres.component import Answers, BackendContext
from supawire.server.postgres.database import Database, DatabaseError
from supawire.server.postgres.messages import Partitions
from supawire.server.queries import MessagesQuery, Query, QueryError, Replay

pytestmark = pytest.mark.slow

PID = "select pg_backend_pid()"


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  it is another process, or another thread, that is waited for
        await asyncio.sleep(0.005)


@pytest.fixture(name="pool")
async def _pool(database: str) -> AsyncIterator[Database]:
    pool = Database(database, size=2)
    yield pool
    await pool.close()


# --- connections ---


async def test_connections_are_used_again_and_never_more_than_allowed(pool: Database):
    """Questions beyond that wait for their turn."""
    first = await pool.query(PID)
    assert await pool.query(PID) == first
    seen = await asyncio.gather(*(pool.query("select pg_backend_pid(), pg_sleep(0.01)") for _ in range(6)))
    assert len({rows[0][0] for rows in seen}) == 2


async def test_errors_say_what_the_database_said(pool: Database):
    """With its code, and the connection stays good."""
    before = await pool.query(PID)
    with pytest.raises(DatabaseError) as caught:
        await pool.query("select 1/0")
    error = caught.value
    assert (error.sqlstate, error.text, error.retryable) == ("22012", "division by zero", False)
    assert isinstance(error.__cause__, psycopg.errors.DivisionByZero)
    assert await pool.query(PID) == before


async def test_a_lost_connection_is_replaced(pool: Database, sql: psycopg.Connection[Any]):
    """The question that met the loss fails and may be asked again; no later one meets it."""
    ((pid,),) = await pool.query(PID)
    sql.execute("select pg_terminate_backend(%s, 10000)", [pid])
    with pytest.raises(DatabaseError) as caught:
        await pool.query(PID)
    assert caught.value.retryable
    assert await pool.query(PID) != [(pid,)]


async def half(pool: Database) -> None:
    async with pool.transaction() as connection:
        await connection.execute("insert into t values (3)")
        await connection.execute("select 1/0")


async def test_what_is_tried_can_be_undone(pool: Database, sql: psycopg.Connection[Any]):
    """A transaction is committed at the end of its block, unless it is to be rolled back or fails."""
    sql.execute("create table t (n int)")
    async with pool.transaction() as connection:
        await connection.execute("insert into t values (1)")
    async with pool.transaction(rollback=True) as connection:
        await connection.execute("insert into t values (2)")
    with pytest.raises(DatabaseError):
        await half(pool)
    assert await pool.query("select n from t") == [(1,)]


async def test_a_question_that_is_given_up_leaves_no_connection_in_the_middle(
    pool: Database, sql: psycopg.Connection[Any]
):
    """Cancelled in a statement, the connection is not handed to somebody else as it is."""
    asking = asyncio.create_task(pool.query("select pg_sleep(60)"))
    sleeps = "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'"
    await until(lambda: sql.execute(sleeps).fetchone() == (1,))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await asyncio.gather(*(pool.query("select 1") for _ in range(4))) == [[(1,)]] * 4


async def test_a_closed_pool_says_so(pool: Database):
    """And its connections are gone."""
    await pool.query(PID)
    await pool.close()
    with pytest.raises(StateError):
        await pool.query(PID)


# --- parts ---


class Part:
    """Answers by what it is given."""

    def __init__(self, ground: BackendContext) -> None:
        self.ground = ground
        self.stopped = False
        self.broken = asyncio.Event()
        self.answer: Callable[[], Any] = lambda: ()

    @property
    def answers(self) -> Answers:
        async def find(question: MessagesQuery) -> Any:
            del question
            return self.answer()

        return {MessagesQuery: find}

    async def start(self) -> None: ...

    async def run(self) -> None:
        await self.broken.wait()
        raise RuntimeError("a bug")

    async def stop(self) -> None:
        self.stopped = True

    def unsubscribe(self, channel: int) -> None: ...


class Asked:
    """Stands where the app does, and notes the answers."""

    def __init__(self) -> None:
        self.app = App(HubOptions(secret="s" * 40, database=True))
        self.answers: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
        self.app.answered = lambda number, answer: self.answers.put_nowait((number, answer))


QUESTION: Query[Any] = MessagesQuery("lab", Replay(0, 25))


@pytest.fixture(name="part")
async def _part(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[PostgresBackend, Part, Asked]]:
    parts: list[Part] = []

    def make(ground: BackendContext) -> Part:
        parts.append(Part(ground))
        return parts[-1]

    monkeypatch.setattr(levels, "PARTS", (make,))
    level, asked = PostgresBackend(database), Asked()
    await level.start()
    await asked.app.start()
    level.run(asked.app)
    yield level, parts[0], asked
    await asked.app.stop()
    await level.stop()
    assert parts[0].stopped


async def test_a_question_gets_the_answer_of_the_part_that_knows_it(part: tuple[PostgresBackend, Part, Asked]):
    """Trouble of the database is an answer too, and a bug is one that is logged."""
    level, one, asked = part

    def refuse(sqlstate: str | None, *, retryable: bool = False) -> Callable[[], Any]:
        def fail() -> Any:
            raise DatabaseError("no", sqlstate=sqlstate, text="no", retryable=retryable, hint=None)

        return fail

    def bug() -> Any:
        raise KeyError

    for number, (answer, expected) in enumerate(
        [
            (lambda: (), ()),
            (refuse("57014"), QueryError.CANCELED),
            (refuse(None, retryable=True), QueryError.DOWN),
            (refuse("XX000"), QueryError.UNKNOWN),
            (bug, QueryError.UNKNOWN),
        ]
    ):
        one.answer = answer
        level.ask(number, QUESTION)
        assert await asked.answers.get() == (number, expected)


async def test_a_part_that_ends_by_a_bug_is_told(
    part: tuple[PostgresBackend, Part, Asked], caplog: pytest.LogCaptureFixture
):
    """In the log, and to everybody who wants to join from then on."""
    _, one, asked = part
    with caplog.at_level(logging.ERROR, "supawire.server"):
        one.broken.set()
        await until(lambda: asked.app.hub.database_error is not None)
    assert asked.app.hub.database_error is QueryError.DOWN
    assert "a bug" in caplog.text


async def test_a_part_that_cannot_start_ends_the_level(database: str, monkeypatch: pytest.MonkeyPatch):
    """What had started before lets go, and the error is the part's."""
    parts: list[Part] = []

    class Failing(Part):
        async def start(self) -> None:
            raise StateError("no room")

    def make(kind: type[Part]) -> Callable[[BackendContext], Part]:
        def made(ground: BackendContext) -> Part:
            parts.append(kind(ground))
            return parts[-1]

        return made

    monkeypatch.setattr(levels, "PARTS", (make(Part), make(Failing)))
    level = PostgresBackend(database)
    with pytest.raises(StateError, match="no room"):
        await level.start()
    assert [part.stopped for part in parts] == [True, True]
    assert not level.running
    with pytest.raises(StateError, match="closed"):
        await parts[0].ground.database.query("select 1")


async def test_a_level_that_is_cancelled_while_its_cluster_starts_leaves_none(monkeypatch: pytest.MonkeyPatch):
    """The thread that starts it cannot be cancelled; it is waited for, and stopped."""
    level = PostgresBackend()
    starting = asyncio.create_task(level.start())
    await until(lambda: level._cluster is not None)
    cluster = level._cluster
    assert cluster is not None
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert cluster._supervisor is None
    assert repr(cluster) == "Cluster(not running)"


def test_each_trouble_has_its_word():
    """A cancelled query, a lost connection, and all else."""
    for sqlstate, retryable, trouble in (
        ("57014", False, "CANCELED"),
        (None, True, "DOWN"),
        ("42P01", False, "UNKNOWN"),
    ):
        error = DatabaseError("no", sqlstate=sqlstate, text="no", retryable=retryable, hint=None)
        assert trouble_of(error) is QueryError[trouble]


# --- partitions ---


async def test_partitions_are_kept_while_the_server_runs(
    database: str, sql: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
):
    """Those that are missing are made; a failure is told and tried again."""
    ground = BackendContext(database, lambda act: None)
    part = Partitions(ground, every=0.001)
    await part.start()

    def made() -> int:
        row = sql.execute("select count(*) from pg_inherits where inhparent = 'realtime.messages'::regclass").fetchone()
        assert row is not None
        return row[0]

    assert made() == 4
    sql.execute("do $$ begin execute format('drop table realtime.messages_%s', to_char(now(), 'YYYY_MM_DD')); end $$")
    running = asyncio.create_task(part.run())
    await until(lambda: made() == 4)
    with caplog.at_level(logging.WARNING, "supawire.server"):
        sql.execute("alter function realtime.keep_partitions() rename to gone")
        await until(lambda: "could not be kept" in caplog.text)
    sql.execute("alter function realtime.gone() rename to keep_partitions")
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await ground.database.close()
