"""Lost connections to the database: by default changes are lost silently, as on the real server."""

import logging
from collections.abc import Iterator
from itertools import count
from typing import Any

import psycopg
import pytest

from supawire.errors import RealtimeError
from supawire.server import LocalServer
from supawire.server.postgres.backend import BackendOptions
from supawire.server.postgres.cluster import Cluster

from .listening import SUBSCRIBED, Listener, Listeners, ServerWithOptions, insert_until_received, of
from .test_changes import publish, run

pytestmark = pytest.mark.slow

Sql = psycopg.Connection[tuple[Any, ...]]
LOST = ("error", '{:error, "Too many database timeouts"}')
KILL = (
    "select pg_terminate_backend(active_pid, 10000) from pg_replication_slots "
    "where database = current_database() and active"
)


# --- silent outages


def test_a_killed_stream_is_reopened_silently(brief: Listeners, sql: Sql, caplog: pytest.LogCaptureFixture):
    """No frame, no close; changes of the next seconds are lost, and then they are sent again."""
    publish(sql, "todos", "id int4 primary key")
    with brief.listen(of("todos")) as listener:
        run(sql, "insert into todos values (1)")
        listener.change()
        run(sql, KILL)
        tries, received_id = insert_until_received(sql, listener, "todos", 2)
        assert tries > 1  # at least the one that was committed at once is lost
        assert received_id > 2
        assert listener.has_no_further_status
    assert "changes of rows are lost, and clients are not informed" in caplog.text
    assert "changes of rows are sent again; " in caplog.text


def test_a_restart_of_the_database_is_silent():
    """No frame, no close, and the changes around it are lost; a join works after it."""
    with (
        Cluster() as cluster,
        ServerWithOptions(cluster.url, BackendOptions(outage_loss=0.3, policy_loss=0.1), prepare=True) as server,
    ):
        with psycopg.connect(cluster.url, autocommit=True) as sql:
            publish(sql, "todos", "id int4 primary key", "grant select on todos to authenticated")
        with Listeners(server).listen(of("todos")) as listener:
            cluster.down()
            cluster.up()
            with psycopg.connect(cluster.url, autocommit=True) as sql:
                _, received_id = insert_until_received(sql, listener, "todos", 1)
                assert received_id >= 1
                assert listener.has_no_further_status
                with Listeners(server).listen(of("todos")) as newcomer:
                    run(sql, "insert into todos values (-1)")
                    assert newcomer.change()["record"] == {"id": -1}


# --- announced outages


@pytest.fixture
def announcing(database: str) -> Iterator[Listeners]:
    """Listeners of a server that announces outages, unlike the real one."""
    with LocalServer(database=database, announce_outages=True) as server:
        yield Listeners(server)


def assert_outage_announced(listener: Listener) -> None:
    """Check that the listener is notified of the outage and of its end."""
    assert listener.system() == LOST
    assert listener.system() == ("ok", SUBSCRIBED)


def test_a_killed_stream_is_announced_and_reopened(announcing: Listeners, sql: Sql, caplog: pytest.LogCaptureFixture):
    """With announce_outages channels are notified of the gap and of its end; the log has PostgreSQL's message."""
    publish(sql, "todos", "id int4 primary key")
    with announcing.listen(of("todos")) as listener, caplog.at_level(logging.INFO, "supawire.server"):
        run(sql, "insert into todos values (1)")
        assert listener.change()["record"] == {"id": 1}
        killed = "select pg_terminate_backend(active_pid) from pg_replication_slots where database = current_database()"
        run(sql, killed)
        assert_outage_announced(listener)
        run(sql, "insert into todos values (2)")
        assert listener.change()["record"] == {"id": 2}
    assert "terminating connection due to administrator command" in caplog.text


def test_killed_query_connections_are_replaced_silently(listeners: Listeners, sql: Sql):
    """The batch is processed again."""
    publish(sql, "todos", "id int4 primary key", "alter table todos enable row level security")
    run(sql, "create policy p on todos using (true)")
    with listeners.listen(of("todos")) as listener:
        run(sql, "insert into todos values (1)")
        listener.change()
        killed = (
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
            "where application_name = 'supawire' and backend_type = 'client backend' and datname = current_database()"
        )
        run(sql, killed, "insert into todos values (2)")
        assert listener.change()["record"] == {"id": 2}
        assert len(listener.frames["system"]) == 1


def test_the_replication_slot_is_dropped_with_the_server(database: str, sql: Sql):
    """PostgreSQL keeps no log for a server that has stopped."""
    slots = "select count(*) from pg_replication_slots where database = current_database()"
    with LocalServer(database=database):
        assert sql.execute(slots).fetchone() == (1,)
        temporary = sql.execute("select bool_and(temporary) from pg_replication_slots").fetchone()
        assert temporary == (True,)
    while sql.execute(slots).fetchone() != (0,):
        pass


def test_processed_positions_are_confirmed(listeners: Listeners, sql: Sql):
    """The slot advances with sent changes, and with changes of tables that no channel subscribed."""
    publish(sql, "todos", "id int4 primary key")
    run(sql, "create table elsewhere (t text)")
    behind = (
        "select pg_current_wal_lsn() - confirmed_flush_lsn from pg_replication_slots "
        "where database = current_database()"
    )
    with listeners.listen(of("todos")) as listener:
        run(sql, "insert into todos values (1)")
        listener.change()
        run(sql, "insert into elsewhere select repeat('x', 1000) from generate_series(1, 5000)")
        while (row := sql.execute(behind).fetchone()) is None or row[0] > 1_000_000:
            pass


def test_a_restart_of_the_database_is_announced():
    """All connections are lost and reopened, for changes and for joins."""
    with Cluster() as cluster, LocalServer(database=cluster.url, prepare=True, announce_outages=True) as server:
        with psycopg.connect(cluster.url, autocommit=True) as sql:
            publish(sql, "todos", "id int4 primary key", "grant select on todos to authenticated")
        with Listeners(server).listen(of("todos")) as listener:
            cluster.down()
            assert listener.system() == LOST
            cluster.up()
            assert listener.system() == ("ok", SUBSCRIBED)
            with (
                psycopg.connect(cluster.url, autocommit=True) as sql,
                Listeners(server).listen(of("todos")) as newcomer,
            ):
                run(sql, "insert into todos values (1)")
                assert listener.change()["record"] == {"id": 1}
                assert newcomer.change()["record"] == {"id": 1}


TAKE = (
    "select pg_terminate_backend(active_pid, 10000), pg_create_physical_replication_slot('full_last') "
    "from pg_replication_slots where database = current_database() and active"
)


def has_free_slot(sql: Sql, text: str) -> bool:
    """Return whether there was a free replication slot for this statement."""
    try:
        run(sql, text)
    except psycopg.errors.ConfigurationLimitExceeded:
        return False
    return True


def test_without_a_free_slot_the_server_reports_it_and_retries(database: str, sql: Sql):
    """The start fails with PostgreSQL's message; later the server retries until a slot is free."""
    drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name like 'full%'"
    publish(sql, "todos", "id int4 primary key")
    numbers = count()
    try:
        while has_free_slot(sql, f"select pg_create_physical_replication_slot('full_{next(numbers)}')"):
            pass
        with pytest.raises(RealtimeError, match="all replication slots are in use"), LocalServer(database=database):
            pass
        run(sql, drop)
        with (
            LocalServer(database=database, announce_outages=True) as server,
            Listeners(server).listen(of("todos")) as listener,
        ):
            while has_free_slot(sql, f"select pg_create_physical_replication_slot('full_{next(numbers)}')"):
                pass
            while not has_free_slot(sql, TAKE):  # the server was faster, and has a slot once more
                assert_outage_announced(listener)
            assert listener.system() == LOST
            run(sql, drop)
            assert listener.system() == ("ok", SUBSCRIBED)
            run(sql, "insert into todos values (1)")
            assert listener.change()["record"] == {"id": 1}
    finally:
        run(sql, drop)
