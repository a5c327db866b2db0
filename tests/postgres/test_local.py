"""`LocalServer` with a database: an embedded one, or a given one."""

import logging
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier, Literal

from supawire.errors import ConnectError, InvalidArgumentError, RealtimeError, StateError
from supawire.server import LocalServer
from supawire.server.postgres.cluster import Cluster
from supawire.server.postgres.preflight import without_password
from supawire.server.queries import QueryError
from tests.held import Held, left_since
from tests.postgres import databases
from tests.sync.test_threads import in_threads

pytestmark = pytest.mark.slow


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[LocalServer]:
    with LocalServer(postgres=True) as server:
        yield server


def test_sql_runs_in_a_database_of_its_own(server: LocalServer):
    """Rows come as tuples, parameters go apart from the text, and several statements are one call."""
    server.sql("create table kept (id int primary key, body jsonb); insert into kept values (1, '[1]')")
    assert server.sql("insert into kept values (%s, %s) returning id", 2, '{"a": null}') == [(2,)]
    assert server.sql("select id, body from kept order by id") == [(1, [1]), (2, {"a": None})]
    assert server.sql("update kept set body = '7'; select count(*) from kept") == [(2,)]
    assert server.sql("delete from kept") == []
    with pytest.raises(psycopg.errors.UniqueViolation):
        server.sql("insert into kept values (1, null), (1, null)")
    assert server.sql("select count(*) from kept") == [(0,)]
    with psycopg.connect(server.database_url) as other:
        assert other.execute("select count(*) from kept").fetchone() == (0,)


def test_sql_may_come_from_any_thread(server: LocalServer):
    """Many at once; each gets its own rows."""
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: server.sql("select %s::int", n), range(100))) == [[(n,)] for n in range(100)]


def test_threads_that_begin_together_share_one_connection(server: LocalServer):
    """The first statements of all threads come at the same time; none opens a connection that nobody closes."""
    with LocalServer(database=server.database_url, prepare=True) as fresh:
        backends = in_threads(lambda _: fresh.sql("select pg_backend_pid()"), 8)
        assert len({str(rows) for rows in backends}) == 1


def test_a_statement_behind_the_end_is_refused(server: LocalServer):
    """Whoever waited for another thread's statement while the server stopped opens no new connection."""
    with LocalServer(database=server.database_url, prepare=True) as ending:
        ending.sql("select 1")
        assert ending._backend is not None
        session = ending._backend.session
    with pytest.raises(StateError, match="has stopped"):
        session.run("select 1")


def test_a_connection_that_was_killed_is_opened_again(server: LocalServer):
    """The statement that met the loss says so; the next one works."""
    with pytest.raises(psycopg.errors.AdminShutdown):
        server.sql("select pg_terminate_backend(pg_backend_pid())")
    assert server.sql("select 1") == [(1,)]


def test_what_belongs_to_the_memory_level_says_what_to_do_here(server: LocalServer):
    """Changes, messages and rights are the database's."""
    for call, hint in (
        (lambda: server.emit("INSERT", "t", record={"id": 1}), "insert into"),
        (lambda: server.emit_delete("t", old_record={"id": 1}), "insert into"),
        (lambda: server.send("lab", "e", {}), "realtime.send"),
        (lambda: server.policy(lambda *_: True), "create policy"),
    ):
        with pytest.raises(StateError, match=hint):
            call()


def test_nothing_is_left_after_the_end_and_it_starts_again():
    """No folder, no thread, no open file; a second start has an empty database."""
    before = Held.now()
    server = LocalServer(postgres=True)
    with pytest.raises(StateError, match="with LocalServer"):
        _ = server.database_url
    for _ in range(2):
        with server:
            assert server.sql("select to_regclass('once')") == [(None,)]
            server.sql("create table once ()")
            ((folder,),) = server.sql("show data_directory")
            url = server.database_url
        assert not Path(folder).exists()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)
    assert not left_since(before)
    with pytest.raises(StateError, match="not running"):
        server.sql("select 1")


def test_a_database_of_its_own_that_ends_is_told():
    """It was killed, and does not come back; stopping the server is clean all the same."""
    said = threading.Event()

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and "has ended" in str(record.exc_info[1]):
                said.set()

    handler = Said()
    logging.getLogger("supawire.server").addHandler(handler)
    try:
        with LocalServer(postgres=True) as server:
            assert server._backend is not None and server._backend.cluster is not None
            os.kill(server._backend.cluster.pid, signal.SIGKILL)
            assert said.wait(30)
            assert server._do(lambda hub, now: hub.database_error) is QueryError.DOWN
    finally:
        logging.getLogger("supawire.server").removeHandler(handler)


def test_an_interrupt_while_it_starts_leaves_nothing():
    """Ctrl-C in `start` ends what had begun; the server can be started again."""
    script = """
import os, signal, threading, time
from supawire.server import LocalServer
server = LocalServer(postgres=True)

def interrupt():
    while server._backend is None or server._backend.cluster is None:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    server.start()
except KeyboardInterrupt:
    print(threading.active_count())
with server:
    print(server.sql("select 1"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=50)
    assert (done.stdout, done.stderr) == ("1\n[(1,)]\n", "")


async def test_it_works_under_async_with_too():
    """The loop of the caller goes on while the database starts."""
    async with LocalServer(postgres=True) as server:
        assert server.sql("select 1") == [(1,)]


# --- a given database ---


def test_a_given_database_that_is_prepared_is_used(database: str):
    """Nothing in it is made or ended by us."""
    with LocalServer(database=database) as server:
        assert server.database_url == database
        server.sql("create table mine ()")
    with psycopg.connect(database) as after:
        assert after.execute("select to_regclass('mine')::text").fetchone() == ("mine",)
    with pytest.raises(StateError, match="not running"):
        server.sql("select 1")


@pytest.fixture(name="bare")
def _bare(cluster: Cluster) -> Iterator[str]:
    """A database without anything in it."""
    with databases.database(cluster, "bare") as url:
        yield url


def test_a_bare_database_is_only_prepared_when_asked(bare: str):
    """Without being asked the server says what is missing and how to make it; prepared once, it stays so."""
    with pytest.raises(StateError, match=r"lacks the table realtime\.messages.*--prepare"):
        LocalServer(database=bare).start()
    with psycopg.connect(bare) as look:
        assert look.execute("select to_regnamespace('realtime')").fetchone() == (None,)
    with LocalServer(database=bare, prepare=True) as server:
        server.sql("create table mine (id int)")
        ((granted,),) = server.sql("select has_table_privilege('anon', 'mine', 'select')")
        assert granted is False  # who may read tables of a given database is for its owner to say
    with LocalServer(database=bare) as server:
        assert server.sql("select realtime.topic()") == [(None,)]


# --- trouble ---


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda url: url.replace("127.0.0.1:", "127.0.0.1:1"), "is the URL right"),
        (lambda url: url.replace("postgres:", "postgres:wrong"), "Correct user and password"),
        (lambda url: url.replace("postgres:", "nobody:"), "Correct user and password"),
        (lambda url: url.rpartition("/")[0] + "/nowhere", "createdb"),
    ],
    ids=["port", "password", "user", "name"],
)
def test_a_database_that_cannot_be_reached_is_one_sentence_with_its_remedy(database: str, spoil: Any, said: str):
    """Without the password in it."""
    password = database.partition("//postgres:")[2].partition("@")[0]
    with pytest.raises(ConnectError, match=said) as caught:
        LocalServer(database=spoil(database)).start()
    assert password not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgres:/secret@nowhere", "secret", "postgresql://u:secret@[::1/x"])
def test_what_is_no_url_is_refused_at_once(url: str):
    """When the server is made, and without showing it."""
    with pytest.raises(InvalidArgumentError, match="USER:PASSWORD") as caught:
        LocalServer(database=url)
    assert "secret" not in str(caught.value)


def test_a_role_that_may_not_do_enough_is_refused(database: str):
    """The remedy is the statement to run, one after the other, until the server runs."""
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("create role \"half way\" login password 'x'")
        try:
            url = database.partition("//")[0] + "//half%20way:x@" + database.partition("@")[2]
            with pytest.raises(StateError, match='ALTER ROLE "half way" REPLICATION'):
                LocalServer(database=url).start()
            admin.execute('alter role "half way" replication')
            with pytest.raises(StateError, match="GRANT anon, authenticated, service_role"):
                LocalServer(database=url).start()
            with pytest.raises(StateError, match="cannot be prepared"):
                LocalServer(database=url, prepare=True).start()
            admin.execute('grant anon, authenticated, service_role to "half way"')
            with pytest.raises(
                StateError, match=r"past its policies.*GRANT ALL ON realtime.messages TO .half way. and"
            ):
                LocalServer(database=url).start()
            admin.execute('grant usage on schema realtime to "half way"')
            admin.execute('grant all on realtime.messages to "half way"')
            with pytest.raises(StateError, match='ALTER ROLE "half way" BYPASSRLS'):
                LocalServer(database=url).start()
            admin.execute('alter role "half way" bypassrls')
            with LocalServer(database=url) as server:
                assert server.sql("select current_user") == [("half way",)]
        finally:
            admin.execute('drop owned by "half way"')
            admin.execute('drop role "half way"')


def test_settings_that_are_in_the_way_are_named():
    """What must be `logical`, with the statement to run; and that no slot or no sender is left."""
    remedy = r"wal_level = replica.*ALTER SYSTEM SET wal_level = logical, then restart"
    settings = {
        "wal_level": ("replica", remedy),
        "max_replication_slots": ("0", "max_replication_slots"),
        "max_wal_senders": ("0", "max_wal_senders"),
    }
    with Cluster() as cluster:
        for name, (value, said) in settings.items():
            with psycopg.connect(cluster.url, autocommit=True) as admin:
                admin.execute("alter system reset all")
                admin.execute(SQL("alter system set {} = {}").format(Identifier(name), Literal(value)))
            cluster.down()
            cluster.up()
            with pytest.raises(RealtimeError, match=said):
                LocalServer(database=cluster.url, prepare=True).start()


def test_both_levels_at_once_are_a_mistake():
    """So is preparing nothing."""
    with pytest.raises(InvalidArgumentError):
        LocalServer(postgres=True, database="postgresql://localhost/x")
    with pytest.raises(InvalidArgumentError):
        LocalServer(prepare=True)


def test_a_port_that_is_taken_ends_the_database_too():
    """The error is that of the port, and nothing of the database stays."""
    with LocalServer() as other:
        server = LocalServer(postgres=True, port=int(other.url.rpartition(":")[2]))
        with pytest.raises(OSError, match="address"):
            server.start()
        with pytest.raises(StateError):
            _ = server.frames


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@127.0.0.1:5433/d", "postgresql://u@127.0.0.1:5433/d"),
        ("postgres://u%20v:secret@[::1]/d?sslmode=disable", "postgresql://u%20v@[::1]/d?sslmode=disable"),
        ("host=/run/pg dbname=d password=secret", "postgresql:///d?host=%2Frun%2Fpg"),
        ("postgresql://?password=secret", "postgresql:///"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str):
    """And still leads to the same database."""
    assert without_password(url) == shown


def test_the_shown_url_of_an_embedded_database_works_for_its_owner(cluster: Cluster):
    """Its password is in a file that nobody else can read."""
    assert cluster.url.partition("postgres:")[2].partition("@")[0] not in cluster.shown_url
    with psycopg.connect(cluster.shown_url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert stat.S_IMODE((cluster.folder / "pgpass").stat().st_mode) == 0o600
