"""What the real server (2.129.8) keeps silent about, and the local one too (protocol §13).

Each docstring begins with what was observed at the real server.
"""

import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from supawire.errors import InvalidArgumentError
from supawire.server import LocalServer
from supawire.server.inspector.overview import overview
from supawire.server.postgres.backend import BackendOptions
from supawire.server.postgres.cluster import Cluster
from supawire.server.postgres.publication import WHOLE

from .listening import PATIENCE, SUBSCRIBED, Ear, Listener, ServerWithOptions, of
from .test_changes import publish, run

pytestmark = pytest.mark.slow

Sql = psycopg.Connection[tuple[Any, ...]]
KILL = (
    "select pg_terminate_backend(active_pid, 10000) from pg_replication_slots "
    "where database = current_database() and active"
)
BRIEF = BackendOptions(outage_loss=0.3, policy_loss=0.1)


@pytest.fixture(name="brief")
def _brief(database: str) -> Iterator[Ear]:
    """Listeners of a server that is silent as the real one, for a shorter time."""
    with ServerWithOptions(database, BRIEF) as server:
        yield Ear(server)


def silent(listener: Listener) -> bool:
    """Whether no `system` frame came but the first confirmation."""
    return [one["message"] for one in listener.frames["system"]] == [SUBSCRIBED]


def until_logged(caplog: pytest.LogCaptureFixture, words: str) -> None:
    """Return when the log has these words."""
    end = time.monotonic() + PATIENCE
    while words not in caplog.text:
        assert time.monotonic() < end
        time.sleep(0.005)


def until_told(sql: Sql, listener: Listener, table: str, first: int) -> tuple[int, int]:
    """Insert rows until one is heard: how many there were, and the number of the first that was heard."""
    number = first
    while True:
        run(sql, f"insert into {table} (id) values ({number})")
        try:
            return number - first + 1, listener.change_in(0.1)["record"]["id"]
        except TimeoutError:
            number += 1


# --- a row policy that raises


@pytest.fixture(name="notes")
def _notes(sql: Sql) -> None:
    """Only the owner sees a note, and an owner is a uuid; rows of `plain` everybody sees."""
    publish(sql, "notes", "id int4 primary key, owner uuid", "alter table notes enable row level security")
    run(sql, "create policy own on notes for select to authenticated using (owner = auth.uid())")
    publish(sql, "plain", "id int4 primary key")


ADA = "00000000-0000-0000-0000-00000000000a"


@pytest.mark.usefixtures("notes")
def test_a_policy_that_raises_stops_every_change_of_everybody(brief: Ear, sql: Sql, caplog: pytest.LogCaptureFixture):
    """Every poll of the project fails, nothing is said, until that subscriber has left and some seconds more."""
    with brief.listen(of("notes"), of("plain"), sub=ADA) as sound:
        with brief.listen(of("notes"), sub="alice"):
            run(sql, "insert into plain values (1)")
            assert sound.change()["record"] == {"id": 1}
            run(sql, f"insert into notes values (1, '{ADA}')", "insert into plain values (2)")
            run(sql, "insert into plain select generate_series(3, 50)")
            until_logged(caplog, "a row policy raised")
            (shown,) = brief.server._do(lambda hub, now: overview(hub, now).faults)  # in the inspector
            assert "a row policy raised for role authenticated" in shown
        tries, told = until_told(sql, sound, "plain", 100)
        assert told >= 100
        assert tries >= 1
        assert silent(sound)
    assert "with sub 'alice': invalid input syntax for type uuid" in caplog.text
    assert "isolate_policy_errors" in caplog.text
    assert "changes of rows are sent again" in caplog.text


@pytest.mark.usefixtures("notes")
def test_a_policy_that_is_corrected_lets_changes_through(brief: Ear, sql: Sql, caplog: pytest.LogCaptureFixture):
    """The subscriber stays: polls succeed once the policy does not raise."""
    with brief.listen(of("plain")) as sound, brief.listen(of("notes"), sub="alice") as cause:
        run(sql, f"insert into notes values (1, '{ADA}')")
        until_logged(caplog, "a row policy raised")
        run(sql, "drop policy own on notes", "create policy own on notes using (true)")
        _, told = until_told(sql, sound, "plain", 1)
        assert told >= 1
        run(sql, f"insert into notes values (2, '{ADA}')")
        while cause.change()["record"]["id"] != 2:
            pass


@pytest.mark.usefixtures("notes")
def test_deletes_and_other_tables_ask_no_policy(brief: Ear, sql: Sql):
    """A subscriber with such claims costs nothing as long as no policy is asked: for deletes and other tables."""
    run(sql, f"insert into notes values (1, '{ADA}')")
    with brief.listen(of("notes", "DELETE"), of("plain"), sub="alice") as listener:
        run(sql, "insert into plain values (1)", "delete from notes")
        assert [data["type"] for data in listener.changes(2)] == ["INSERT", "DELETE"]


# --- the database is lost


def test_a_connection_that_is_killed_is_replaced_silently(brief: Ear, sql: Sql, caplog: pytest.LogCaptureFixture):
    """No frame, no close; changes of the next seconds are lost, and then they come again."""
    publish(sql, "todos", "id int4 primary key")
    with brief.listen(of("todos")) as listener:
        run(sql, "insert into todos values (1)")
        listener.change()
        run(sql, KILL)
        tries, told = until_told(sql, listener, "todos", 2)
        assert tries > 1  # at least the one that was committed at once is lost
        assert told > 2
        assert silent(listener)
    assert "changes of rows are lost, and clients are not informed" in caplog.text
    assert "changes of rows are sent again; " in caplog.text


def test_a_restart_of_the_database_is_silent():
    """No frame, no close, and the changes around it are lost; a join works when it is back."""
    with Cluster() as cluster, ServerWithOptions(cluster.url, BRIEF, prepare=True) as server:
        with psycopg.connect(cluster.url, autocommit=True) as sql:
            publish(sql, "todos", "id int4 primary key", "grant select on todos to authenticated")
        with Ear(server).listen(of("todos")) as listener:
            cluster.down()
            cluster.up()
            with psycopg.connect(cluster.url, autocommit=True) as sql:
                _, told = until_told(sql, listener, "todos", 1)
                assert told >= 1
                assert silent(listener)
                with Ear(server).listen(of("todos")) as newcomer:
                    run(sql, "insert into todos values (-1)")
                    assert newcomer.change()["record"] == {"id": -1}


# --- the publication


@pytest.mark.parametrize("narrowing", ["where (id > 10)", "(id)", "(id) where (id > 10)"])
def test_row_filters_and_column_lists_are_ignored(ear: Ear, sql: Sql, caplog: pytest.LogCaptureFixture, narrowing: str):
    """All rows and columns of a published table are sent; here the log warns whoever hides data that way."""
    publish(sql, "plain", "id int4 primary key")
    run(sql, "create table todos (id int4 primary key, secret text)")
    run(sql, f"alter publication supabase_realtime add table todos {narrowing}")
    with ear.listen(of("todos"), of("plain")) as listener:
        run(sql, "insert into todos values (1, 'x')", "insert into plain values (2)")
        assert [data["record"] for data in listener.changes(2)] == [{"id": 1, "secret": "x"}, {"id": 2}]
        assert "row filter or a column list for todos; the real server ignores both" in caplog.text
        publish(sql, "later", "id int4 primary key")
    with ear.listen(of("later")) as listener:  # the publication that is streamed is kept up to date
        run(sql, "insert into later values (3)")
        assert listener.change()["record"] == {"id": 3}
    run(sql, "alter publication supabase_realtime set table todos")
    with ear.listen(of("todos")) as listener:
        run(sql, "insert into todos values (4, 'y')")
        assert listener.change()["record"] == {"id": 4, "secret": "y"}
        assert sql.execute("select from pg_publication where pubname = %s", [WHOLE]).fetchall() == []


def test_a_database_of_somebody_else_is_not_changed(database: str, sql: Sql, caplog: pytest.LogCaptureFixture):
    """Where the schema is not ours, the filter applies, and the log says that the real server ignores it."""
    run(sql, "comment on schema realtime is null", "create table todos (id int4 primary key)")
    run(sql, "alter publication supabase_realtime add table todos where (id > 10)")
    with LocalServer(database=database) as server, Ear(server).listen(of("todos")) as listener:
        run(sql, "insert into todos values (1)", "insert into todos values (11)")
        assert listener.change()["record"] == {"id": 11}
    assert "applies here only" in caplog.text


def test_a_table_that_leaves_the_publication_and_comes_back(ear: Ear, sql: Sql):
    """Nothing is said, and changes resume."""
    publish(sql, "todos", "id int4 primary key")
    publish(sql, "extra", "id int4 primary key")
    with ear.listen(of("extra")) as narrow, ear.listen(of("*")) as wide:
        for number in (1, 2):
            run(sql, "alter publication supabase_realtime drop table extra")
            run(sql, f"insert into extra values ({number})", f"insert into todos values ({number})")
            assert wide.change()["table"] == "todos"
            with pytest.raises(TimeoutError):  # longer than the server looks at the publication
                narrow.read(1.5)
            run(sql, "alter publication supabase_realtime add table extra")
            run(sql, f"insert into extra values ({number + 10})")
            assert narrow.change_in(5)["record"] == {"id": number + 10}
            assert wide.change()["record"] == {"id": number + 10}
        assert silent(narrow)
        assert silent(wide)


def test_a_table_that_is_dropped_and_made_anew(ear: Ear, sql: Sql):
    """20 to 37 s without changes, then a second `Subscribed to PostgreSQL`; here within a second."""
    publish(sql, "todos", "id int4 primary key")
    publish(sql, "extra", "id int4 primary key")
    with ear.listen(of("extra")) as narrow, ear.listen(of("*")) as wide:
        run(sql, "begin; insert into extra values (1); drop table extra; commit", "insert into todos values (1)")
        assert wide.change()["table"] == "todos"
        publish(sql, "extra", "id int4 primary key")
        assert narrow.system() == ("ok", SUBSCRIBED)
        assert wide.system() == ("ok", SUBSCRIBED)
        run(sql, "insert into extra values (2)")
        assert narrow.change()["record"] == {"id": 2}


# --- rows


def test_the_keys_of_a_row_come_in_the_order_of_jsonb(ear: Ear, sql: Sql):
    """By their length in bytes, then by their bytes; `columns` keeps the order of the table."""
    publish(sql, "todos", 'title text, id int4 primary key, "ä" int4, n int4, at int4, b int4')
    run(sql, "alter table todos replica identity full")
    with ear.listen(of("todos")) as listener:
        run(sql, "insert into todos values ('x', 1, 2, 3, 4, 5)", "update todos set n = 6")
        insert, update = listener.changes(2)
    order = ["b", "n", "at", "id", "ä", "title"]
    assert [list(insert["record"]), list(update["record"]), list(update["old_record"])] == [order] * 3
    assert [column["name"] for column in insert["columns"]] == ["title", "id", "ä", "n", "at", "b"]


# --- tokens


def test_each_new_token_confirms_the_subscription_and_loses_nothing(ear: Ear, sql: Sql):
    """10 pushes of a token, each followed by `Subscribed to PostgreSQL`, and no row is missing."""
    publish(sql, "todos", "id int4 primary key")
    with ear.listen(of("todos")) as listener:
        for number in range(10):
            listener.push("access_token", {"access_token": ear.server.token(n=number)})
            run(sql, f"insert into todos select generate_series({number * 10}, {number * 10 + 9})")
        ids = [data["record"]["id"] for data in listener.changes(100)]
        while len(listener.frames["system"]) < 11:
            assert listener.system() == ("ok", SUBSCRIBED)
    assert ids == list(range(100))


@pytest.mark.parametrize("option", ["announce_outages", "isolate_policy_errors"])
def test_the_options_are_for_a_database(option: str):
    """At the memory level there is nothing to announce; the error names what to give."""
    options: dict[str, Any] = {option: True}
    with pytest.raises(InvalidArgumentError, match=rf"{option}=True needs a database; give postgres=True"):
        LocalServer(**options)
