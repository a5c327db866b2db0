"""Tables that are added to the publication, altered, removed or filtered while clients listen."""

from typing import Any

import psycopg
import pytest

from supawire.server import LocalServer
from supawire.server.postgres.publication import WHOLE

from .listening import SUBSCRIBED, Listeners, of
from .test_changes import publish, run

pytestmark = pytest.mark.slow

Sql = psycopg.Connection[tuple[Any, ...]]


def test_a_table_added_to_the_publication_is_sent_at_once(listeners: Listeners, sql: Sql):
    """A wildcard includes it from its first row; the subscription is confirmed again."""
    publish(sql, "todos", "id int4 primary key")
    with listeners.listen(of("*")) as listener:
        publish(sql, "later", "id int4 primary key", "insert into later values (1)")
        assert listener.system() == ("ok", SUBSCRIBED)
        assert listener.change()["table"] == "later"


def test_renamed_added_and_dropped_columns(listeners: Listeners, sql: Sql):
    """Rows have the present columns; a filter on the old name does not match any more."""
    publish(sql, "todos", "id int4 primary key, a text")
    with listeners.listen(of("todos")) as listener, listeners.listen(of("todos", filter="a=eq.x")) as filtered:
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


def test_a_table_altered_within_a_transaction(listeners: Listeners, sql: Sql):
    """Each row has the columns that the table had when the row was written, except dropped ones."""
    publish(sql, "todos", "id int4 primary key, a text")
    with listeners.listen(of("todos")) as listener:
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


def test_the_publication_is_dropped_and_created_again(listeners: Listeners, sql: Sql):
    """Without it subscriptions fail; with a new one a join works."""
    publish(sql, "todos", "id int4 primary key")
    with listeners.listen(of("todos")) as listener:
        run(sql, "drop publication supabase_realtime")
        listener.wait("system", lambda one: "Please check Realtime is enabled" in one["message"])
        run(sql, "create publication supabase_realtime for table todos")
        while True:
            listener.push("phx_join", {"config": {"postgres_changes": [of("todos")]}})
            if listener.system() == ("ok", SUBSCRIBED):
                break
        run(sql, "insert into todos values (1)")
        assert listener.change()["record"] == {"id": 1}


@pytest.mark.parametrize("narrowing", ["where (id > 10)", "(id)", "(id) where (id > 10)"])
def test_row_filters_and_column_lists_of_the_publication_are_ignored(
    listeners: Listeners, sql: Sql, caplog: pytest.LogCaptureFixture, narrowing: str
):
    """All rows and columns of a published table are sent; the local server logs a warning."""
    publish(sql, "plain", "id int4 primary key")
    run(sql, "create table todos (id int4 primary key, secret text)")
    run(sql, f"alter publication supabase_realtime add table todos {narrowing}")
    with listeners.listen(of("todos"), of("plain")) as listener:
        run(sql, "insert into todos values (1, 'x')", "insert into plain values (2)")
        assert [data["record"] for data in listener.changes(2)] == [{"id": 1, "secret": "x"}, {"id": 2}]
        assert "row filter or a column list for todos; the real server ignores both" in caplog.text
        publish(sql, "later", "id int4 primary key")
    with listeners.listen(of("later")) as listener:  # the publication that is streamed is kept up to date
        run(sql, "insert into later values (3)")
        assert listener.change()["record"] == {"id": 3}
    run(sql, "alter publication supabase_realtime set table todos")
    with listeners.listen(of("todos")) as listener:
        run(sql, "insert into todos values (4, 'y')")
        assert listener.change()["record"] == {"id": 4, "secret": "y"}
        assert sql.execute("select from pg_publication where pubname = %s", [WHOLE]).fetchall() == []


def test_a_foreign_database_gets_no_second_publication(database: str, sql: Sql, caplog: pytest.LogCaptureFixture):
    """The row filter of that database applies, and the log warns that the real server ignores it."""
    run(sql, "comment on schema realtime is null", "create table todos (id int4 primary key)")
    run(sql, "alter publication supabase_realtime add table todos where (id > 10)")
    with LocalServer(database=database) as server, Listeners(server).listen(of("todos")) as listener:
        run(sql, "insert into todos values (1)", "insert into todos values (11)")
        assert listener.change()["record"] == {"id": 11}
    assert "applies here only" in caplog.text


def test_a_table_that_leaves_the_publication_and_comes_back(listeners: Listeners, sql: Sql):
    """No frame is sent, and changes resume."""
    publish(sql, "todos", "id int4 primary key")
    publish(sql, "extra", "id int4 primary key")
    with listeners.listen(of("extra")) as narrow, listeners.listen(of("*")) as wide:
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
        assert narrow.has_no_further_status
        assert wide.has_no_further_status


def test_a_table_that_is_dropped_and_created_again(listeners: Listeners, sql: Sql):
    """The real server sends no changes for 20 to 37 s, then a second `Subscribed to PostgreSQL`; the local one within
    a second.
    """
    publish(sql, "todos", "id int4 primary key")
    publish(sql, "extra", "id int4 primary key")
    with listeners.listen(of("extra")) as narrow, listeners.listen(of("*")) as wide:
        run(sql, "begin; insert into extra values (1); drop table extra; commit", "insert into todos values (1)")
        assert wide.change()["table"] == "todos"
        publish(sql, "extra", "id int4 primary key")
        assert narrow.system() == ("ok", SUBSCRIBED)
        assert wide.system() == ("ok", SUBSCRIBED)
        run(sql, "insert into extra values (2)")
        assert narrow.change()["record"] == {"id": 2}
