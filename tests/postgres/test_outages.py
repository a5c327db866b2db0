"""Publications that change, and connections that are lost: channels are told, and hear on by themselves (§4.6)."""

import logging
from collections.abc import Iterator
from itertools import count
from typing import Any

import psycopg
import pytest

from supawire.errors import RealtimeError
from supawire.server import LocalServer
from supawire.server.postgres.cluster import Cluster

from .listening import SUBSCRIBED, Ear, Listener, of
from .test_changes import publish, run

pytestmark = pytest.mark.slow

Sql = psycopg.Connection[tuple[Any, ...]]
LOST = ("error", '{:error, "Too many database timeouts"}')


def test_a_table_that_is_added_is_heard_at_once(ear: Ear, sql: Sql):
    """A wildcard covers it from its first row; the subscription is confirmed anew."""
    publish(sql, "todos", "id int4 primary key")
    with ear.listen(of("*")) as listener:
        publish(sql, "later", "id int4 primary key", "insert into later values (1)")
        assert listener.system() == ("ok", SUBSCRIBED)
        assert listener.change()["table"] == "later"


def test_a_column_that_is_renamed_added_or_dropped(ear: Ear, sql: Sql):
    """Rows have the columns that the table has now; a filter on the old name holds no more."""
    publish(sql, "todos", "id int4 primary key, a text")
    with ear.listen(of("todos")) as listener, ear.listen(of("todos", filter="a=eq.x")) as filtered:
        run(sql, "insert into todos values (1, 'x')")
        assert listener.change()["record"] == {"id": 1, "a": "x"}
        run(sql, "alter table todos rename a to b", "insert into todos values (2, 'x')")
        assert listener.change()["record"] == {"id": 2, "b": "x"}
        run(sql, "alter table todos add c int4[], drop b", "insert into todos values (3, '{1}')")
        data = listener.change()
        assert (data["record"], [column["type"] for column in data["columns"]]) == (
            {"id": 3, "c": [1]},
            ["int4", "_int4"],
        )
        run(sql, "alter table todos rename id to key", "delete from todos where key = 3")
        assert listener.change()["old_record"] == {"key": 3}
        run(sql, "alter table todos add a text", "insert into todos values (4, null, 'x')")
        assert [data["record"] for data in filtered.changes(2)] == [
            {"id": 1, "a": "x"},
            {"key": 4, "c": None, "a": "x"},
        ]


def test_a_table_that_changes_within_a_transaction(ear: Ear, sql: Sql):
    """Each row has the columns that the table had when it was written, as far as there still are such."""
    publish(sql, "todos", "id int4 primary key, a text")
    with ear.listen(of("todos")) as listener:
        run(
            sql,
            "begin; insert into todos values (1, 'x'); alter table todos add b bool[]; "
            "insert into todos values (2, 'y', '{t}'); alter table todos drop a, add c macaddr; "
            "insert into todos values (3, '{f}', '08:00:2b:01:02:03'); commit",
        )
        assert [data["record"] for data in listener.changes(3)] == [
            {"id": 1},
            {"id": 2, "b": [True]},
            {"id": 3, "b": [False], "c": "08:00:2b:01:02:03"},
        ]


def test_the_publication_may_go_and_come(ear: Ear, sql: Sql):
    """Without one nothing can be had; with a new one a join works again."""
    publish(sql, "todos", "id int4 primary key")
    with ear.listen(of("todos")) as listener:
        run(sql, "drop publication supabase_realtime")
        listener.wait("system", lambda one: "Please check Realtime is enabled" in one["message"])
        run(sql, "create publication supabase_realtime for table todos")
        while True:
            listener.push("phx_join", {"config": {"postgres_changes": [of("todos")]}})
            if listener.system() == ("ok", SUBSCRIBED):
                break
        run(sql, "insert into todos values (1)")
        assert listener.change()["record"] == {"id": 1}


@pytest.fixture
def announcing(database: str) -> Iterator[Ear]:
    """Listeners of a server that announces outages, which the real one does not."""
    with LocalServer(database=database, announce_outages=True) as server:
        yield Ear(server)


def recovered(listener: Listener) -> None:
    """It was told that changes are lost, and that they flow again."""
    assert listener.system() == LOST
    assert listener.system() == ("ok", SUBSCRIBED)


def test_a_replication_connection_that_is_killed_is_replaced(
    announcing: Ear, sql: Sql, caplog: pytest.LogCaptureFixture
):
    """With announce_outages channels are told of the gap and of its end; the log has PostgreSQL's reason."""
    publish(sql, "todos", "id int4 primary key")
    with announcing.listen(of("todos")) as listener, caplog.at_level(logging.INFO, "supawire.server"):
        run(sql, "insert into todos values (1)")
        assert listener.change()["record"] == {"id": 1}
        killed = "select pg_terminate_backend(active_pid) from pg_replication_slots where database = current_database()"
        run(sql, killed)
        recovered(listener)
        run(sql, "insert into todos values (2)")
        assert listener.change()["record"] == {"id": 2}
    assert "terminating connection due to administrator command" in caplog.text


def test_other_connections_that_are_killed_are_replaced_unnoticed(ear: Ear, sql: Sql):
    """Those that ask about rows: the batch is asked again."""
    publish(sql, "todos", "id int4 primary key", "alter table todos enable row level security")
    run(sql, "create policy p on todos using (true)")
    with ear.listen(of("todos")) as listener:
        run(sql, "insert into todos values (1)")
        listener.change()
        killed = (
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
            "where application_name = 'supawire' and backend_type = 'client backend' and datname = current_database()"
        )
        run(sql, killed, "insert into todos values (2)")
        assert listener.change()["record"] == {"id": 2}
        assert len(listener.frames["system"]) == 1


def test_the_slot_goes_with_the_server(database: str, sql: Sql):
    """Nothing keeps the log from being forgotten when the server is not there."""
    slots = "select count(*) from pg_replication_slots where database = current_database()"
    with LocalServer(database=database):
        assert sql.execute(slots).fetchone() == (1,)
        temporary = sql.execute("select bool_and(temporary) from pg_replication_slots").fetchone()
        assert temporary == (True,)
    while sql.execute(slots).fetchone() != (0,):
        pass


def test_what_was_dealt_with_is_forgotten(ear: Ear, sql: Sql):
    """The slot moves on with what is told, and with what is written to tables that nobody watches."""
    publish(sql, "todos", "id int4 primary key")
    run(sql, "create table elsewhere (t text)")
    behind = (
        "select pg_current_wal_lsn() - confirmed_flush_lsn from pg_replication_slots "
        "where database = current_database()"
    )
    with ear.listen(of("todos")) as listener:
        run(sql, "insert into todos values (1)")
        listener.change()
        run(sql, "insert into elsewhere select repeat('x', 1000) from generate_series(1, 5000)")
        while (row := sql.execute(behind).fetchone()) is None or row[0] > 1_000_000:
            pass


def test_a_database_that_restarts():
    """Its connections are lost all at once, and come back by themselves: for changes and for those who join."""
    with Cluster() as cluster, LocalServer(database=cluster.url, prepare=True, announce_outages=True) as server:
        with psycopg.connect(cluster.url, autocommit=True) as sql:
            publish(sql, "todos", "id int4 primary key", "grant select on todos to authenticated")
        with Ear(server).listen(of("todos")) as listener:
            cluster.down()
            assert listener.system() == LOST
            cluster.up()
            assert listener.system() == ("ok", SUBSCRIBED)
            with psycopg.connect(cluster.url, autocommit=True) as sql, Ear(server).listen(of("todos")) as newcomer:
                run(sql, "insert into todos values (1)")
                assert listener.change()["record"] == {"id": 1}
                assert newcomer.change()["record"] == {"id": 1}


TAKE = (
    "select pg_terminate_backend(active_pid, 10000), pg_create_physical_replication_slot('full_last') "
    "from pg_replication_slots where database = current_database() and active"
)


def fits(sql: Sql, text: str) -> bool:
    """Whether there was a slot left for this."""
    try:
        run(sql, text)
    except psycopg.errors.ConfigurationLimitExceeded:
        return False
    return True


def test_without_a_free_slot_the_server_says_so_and_goes_on_when_there_is_one(database: str, sql: Sql):
    """At the start with PostgreSQL's words; later it tries again until there is one."""
    drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name like 'full%'"
    publish(sql, "todos", "id int4 primary key")
    numbers = count()
    try:
        while fits(sql, f"select pg_create_physical_replication_slot('full_{next(numbers)}')"):
            pass
        with pytest.raises(RealtimeError, match="all replication slots are in use"), LocalServer(database=database):
            pass
        run(sql, drop)
        with (
            LocalServer(database=database, announce_outages=True) as server,
            Ear(server).listen(of("todos")) as listener,
        ):
            while fits(sql, f"select pg_create_physical_replication_slot('full_{next(numbers)}')"):
                pass
            while not fits(sql, TAKE):  # the server was faster, and has a slot once more
                recovered(listener)
            assert listener.system() == LOST
            run(sql, drop)
            assert listener.system() == ("ok", SUBSCRIBED)
            run(sql, "insert into todos values (1)")
            assert listener.change()["record"] == {"id": 1}
    finally:
        run(sql, drop)
