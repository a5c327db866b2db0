"""`LocalServer` with an embedded or a given database."""

import json
import logging
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier, Literal

from supawire import changes, connect_async
from supawire.errors import ConnectError, InvalidArgumentError, RealtimeError, StateError
from supawire.server import LocalServer
from supawire.server.postgres.cluster import Cluster
from supawire.server.postgres.database import SqlSession
from supawire.server.postgres.preflight import without_password
from supawire.server.queries import QueryError
from tests.held import Held, left_since
from tests.postgres import databases
from tests.server.inspector.inspector_client import open_inspector
from tests.sync.test_threads import in_threads

pytestmark = pytest.mark.slow


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[LocalServer]:
    with LocalServer(postgres=True) as server:
        yield server


def test_sql_runs_statements_with_parameters(server: LocalServer):
    """It returns rows as tuples, passes parameters separately, and accepts several statements."""
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


def test_sql_can_be_called_from_many_threads(server: LocalServer):
    """Each call returns its own rows."""
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: server.sql("select %s::int", n), range(100))) == [[(n,)] for n in range(100)]


def test_threads_that_begin_together_share_one_connection(server: LocalServer):
    """The first statements of all threads open one connection."""
    with LocalServer(database=server.database_url, prepare=True) as fresh:
        backends = in_threads(lambda _: fresh.sql("select pg_backend_pid()"), 8)
        assert len({str(rows) for rows in backends}) == 1


def test_a_closed_session_refuses_sql(server: LocalServer):
    """A statement that waited for another thread's while the server stopped opens no new connection."""
    session = SqlSession(lambda: server.database_url)
    assert session.run("select 1") == [(1,)]
    session.close()
    with pytest.raises(StateError, match="has stopped"):
        session.run("select 1")


def test_a_lost_sql_connection_is_reopened(server: LocalServer):
    """The statement during which it was lost fails; the next one works."""
    with pytest.raises(psycopg.errors.AdminShutdown):
        server.sql("select pg_terminate_backend(pg_backend_pid())")
    assert server.sql("select 1") == [(1,)]


def test_methods_for_servers_without_a_database_name_the_sql_to_use(server: LocalServer):
    """emit, send and policy raise StateError."""
    for call, hint in (
        (lambda: server.emit("INSERT", "t", record={"id": 1}), "insert into"),
        (lambda: server.emit_delete("t", old_record={"id": 1}), "insert into"),
        (lambda: server.send("lab", "e", {}), "realtime.send"),
        (lambda: server.policy(lambda *_: True), "create policy"),
    ):
        with pytest.raises(StateError, match=hint):
            call()


def test_stop_leaves_nothing_and_the_server_can_start_again():
    """No folder, thread or open file is left; a second start has an empty database."""
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


def test_an_embedded_database_that_was_killed_is_reported():
    """It is not restarted, joins are refused, and stopping the server works."""
    reported = threading.Event()

    class Report(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and "has ended" in str(record.exc_info[1]):
                reported.set()

    handler = Report()
    logging.getLogger("supawire.server").addHandler(handler)
    try:
        with LocalServer(postgres=True) as server:
            ((folder,),) = server.sql("show data_directory")
            pid = (Path(folder) / "postmaster.pid").read_text().split()[0]
            os.kill(int(pid), signal.SIGKILL)
            assert reported.wait(30)
            assert server._do(lambda hub, now: hub.database_error) is QueryError.DOWN
    finally:
        logging.getLogger("supawire.server").removeHandler(handler)


def test_an_interrupt_during_the_start_leaves_nothing():
    """Ctrl-C in `start` ends what was started; the server can be started again."""
    script = """
import os, signal, tempfile, threading, time
from supawire.server import LocalServer
server = LocalServer(postgres=True)

def interrupt():
    while not os.listdir(tempfile.gettempdir()):
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
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o1777)  # root starts PostgreSQL as another user
        environment = {**os.environ, "TMPDIR": folder}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=50, env=environment
        )
        assert not any(Path(folder).iterdir())
    assert (done.stdout, done.stderr) == ("1\n[(1,)]\n", "")


async def test_async_with_does_not_block_the_event_loop():
    """The caller's event loop runs while the database starts."""
    async with LocalServer(postgres=True) as server:
        assert server.sql("select 1") == [(1,)]


# --- a given database ---


def test_a_given_database_that_is_prepared_is_used(database: str):
    """Nothing in it is created, and it keeps running."""
    with LocalServer(database=database) as server:
        assert server.database_url == database
        server.sql("create table mine ()")
    with psycopg.connect(database) as after:
        assert after.execute("select to_regclass('mine')::text").fetchone() == ("mine",)
    with pytest.raises(StateError, match="not running"):
        server.sql("select 1")


@pytest.fixture(name="bare")
def _bare(cluster: Cluster) -> Iterator[str]:
    """An empty database."""
    with databases.database(cluster, "bare") as url:
        yield url


def test_an_empty_database_is_prepared_on_request(bare: str):
    """Without `prepare` the error names what is missing and how to create it; a prepared database stays prepared."""
    with pytest.raises(StateError, match=r"lacks the table realtime\.messages.*--prepare"):
        LocalServer(database=bare).start()
    with psycopg.connect(bare) as reader:
        assert reader.execute("select to_regnamespace('realtime')").fetchone() == (None,)
    with LocalServer(database=bare, prepare=True) as server:
        server.sql("create table mine (id int)")
        ((granted,),) = server.sql("select has_table_privilege('anon', 'mine', 'select')")
        assert granted is False  # privileges of a given database are not changed
    with LocalServer(database=bare) as server:
        assert server.sql("select realtime.topic()") == [(None,)]


# --- trouble ---


@pytest.mark.parametrize(
    ("spoil", "expected_text"),
    [
        (lambda url: url.replace("127.0.0.1:", "127.0.0.1:1"), "is the URL correct"),
        (lambda url: url.replace("postgres:", "postgres:wrong"), "Correct user and password"),
        (lambda url: url.replace("postgres:", "nobody:"), "Correct user and password"),
        (lambda url: url.rpartition("/")[0] + "/nowhere", "createdb"),
    ],
    ids=["port", "password", "user", "name"],
)
def test_an_unreachable_database_is_one_sentence_with_a_hint(database: str, spoil: Any, expected_text: str):
    """The password is not in it."""
    password = database.partition("//postgres:")[2].partition("@")[0]
    with pytest.raises(ConnectError, match=expected_text) as caught:
        LocalServer(database=spoil(database)).start()
    assert password not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgres:/secret@nowhere", "secret", "postgresql://u:secret@[::1/x"])
def test_an_invalid_url_is_refused_by_the_constructor(url: str):
    """The error does not show it."""
    with pytest.raises(InvalidArgumentError, match="USER:PASSWORD") as caught:
        LocalServer(database=url)
    assert "secret" not in str(caught.value)


def test_a_role_without_enough_privileges_is_refused(database: str):
    """Each hint has the statement to run; after all of them the server starts."""
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
                StateError, match=r"without its policies.*GRANT ALL ON realtime.messages TO .half way. and"
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


def test_unsuitable_settings_are_named():
    """wal_level must be logical, with the statement to run; missing slots and senders are reported too."""
    remedy = r"wal_level = replica.*ALTER SYSTEM SET wal_level = logical, then restart"
    settings = {
        "wal_level": ("replica", remedy),
        "max_replication_slots": ("0", "max_replication_slots"),
        "max_wal_senders": ("0", "max_wal_senders"),
    }
    with Cluster() as cluster:
        for name, (value, expected_text) in settings.items():
            with psycopg.connect(cluster.url, autocommit=True) as admin:
                admin.execute("alter system reset all")
                admin.execute(SQL("alter system set {} = {}").format(Identifier(name), Literal(value)))
            cluster.down()
            cluster.up()
            with pytest.raises(RealtimeError, match=expected_text):
                LocalServer(database=cluster.url, prepare=True).start()


def test_contradicting_options_are_refused():
    """postgres=True with database=, and prepare=True without a database."""
    with pytest.raises(InvalidArgumentError):
        LocalServer(postgres=True, database="postgresql://localhost/x")
    with pytest.raises(InvalidArgumentError):
        LocalServer(prepare=True)


def test_a_port_in_use_stops_the_database_too():
    """The error is the one of the port, and nothing of the database is left."""
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
    """The shown URL still refers to the same database."""
    assert without_password(url) == shown


def test_the_shown_url_of_an_embedded_database_works_for_its_owner(cluster: Cluster):
    """Its password is in a file that only the owner can read."""
    assert cluster.url.partition("postgres:")[2].partition("@")[0] not in cluster.shown_url
    with psycopg.connect(cluster.shown_url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert stat.S_IMODE((cluster.folder / "pgpass").stat().st_mode) == 0o600


@pytest.mark.parametrize("option", ["announce_outages", "isolate_policy_errors"])
def test_outage_options_need_a_database(option: str):
    """Without a database these options are refused; the error names the missing option."""
    options: dict[str, Any] = {option: True}
    with pytest.raises(InvalidArgumentError, match=rf"{option}=True needs a database; give postgres=True"):
        LocalServer(**options)


async def test_the_inspector_shows_changed_rows(database: str) -> None:
    """A change is one line with the number of channels that received it; rows cannot be emitted from the page."""
    async with LocalServer(database=database, inspector=True) as server, open_inspector(server.url) as page:
        assert page.about["level"] == "PostgreSQL"
        server.sql("create table notes (id int primary key, body text)")
        server.sql("alter publication supabase_realtime add table notes")
        async with (
            connect_async(server.url, server.anon_key) as one,
            connect_async(server.url, server.anon_key) as two,
        ):
            for client in (one, two):
                client.channel("notes").on(changes("notes"), lambda _: None)
                await client.channel("notes").subscribe(wait="ready")
            server.sql("insert into notes values (1, 'hello')")
            await page.until(lambda: sum(it["receivers"] for it in page.changes) == 2)
            for line in page.changes:
                assert (line["table"], line["type"]) == ("public.notes", "INSERT")
                assert json.loads(line["record"]) == {"id": 1, "body": "hello"}
            answer = await page.request(do="emit", type="INSERT", table="notes", record={"id": 2})
            assert "database" in answer["error"]
