"""Changed rows of PostgreSQL, as channels receive them. See docs/protocol.md, Postgres changes."""

import re
from typing import Any, LiteralString, cast

import psycopg
import pytest

from supawire.server import LocalServer, ServerLimits

from .listening import Listener, Listeners, of

pytestmark = pytest.mark.slow

Sql = psycopg.Connection[tuple[Any, ...]]


def run(sql: Sql, *texts: str) -> None:
    """Run each statement in its own transaction."""
    for text in texts:
        sql.execute(cast("LiteralString", text))


def publish(sql: Sql, table: str, columns: str, *more: str) -> None:
    """Create a table, and add it to the publication."""
    run(sql, f"create table {table} ({columns})", f"alter publication supabase_realtime add table {table}", *more)


def rows(listener: Listener, count: int) -> list[tuple[str, Any, Any]]:
    """Return type, record and old record of the next changes."""
    return [(one["type"], one.get("record"), one.get("old_record")) for one in listener.changes(count)]


def test_insert_update_and_delete_are_sent_in_order(listeners: Listeners, sql: Sql):
    """Each change has the keys that apply to its type."""
    publish(sql, "todos", "id int4 primary key, details text, n int2")
    with listeners.listen(of("todos")) as listener:
        run(sql, "insert into todos values (1, 'a', 5)", "update todos set n = 6", "delete from todos")
        insert, update, delete = listener.changes(3)
    head = {"schema": "public", "table": "todos", "errors": None}
    columns = [{"name": "id", "type": "int4"}, {"name": "details", "type": "text"}, {"name": "n", "type": "int2"}]
    stamp = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
    for data in (insert, update, delete):
        assert stamp.fullmatch(data.pop("commit_timestamp"))
        assert data.pop("columns") == columns
        assert {name: data.pop(name) for name in head} == head
    assert insert == {"type": "INSERT", "record": {"id": 1, "details": "a", "n": 5}}
    assert update == {"type": "UPDATE", "record": {"id": 1, "details": "a", "n": 6}, "old_record": {"id": 1}}
    assert delete == {"type": "DELETE", "old_record": {"id": 1}}


@pytest.mark.parametrize(
    ("identity", "update", "moved", "deleted"),
    [
        ("default", {"id": 1}, {"id": 1}, {"id": 2}),
        ("full", {"id": 1, "code": "a", "n": 1}, {"id": 1, "code": "a", "n": 2}, {"id": 2, "code": "a", "n": 2}),
        ("using index by_code", {"code": "a"}, {"code": "a"}, {"code": "a"}),
    ],
)
def test_the_replica_identity_decides_what_the_old_record_has(
    listeners: Listeners, sql: Sql, identity: str, update: Any, moved: Any, deleted: Any
):
    """By default it has the key columns, even if unchanged; with FULL all columns; with USING INDEX those of the
    index.
    """
    publish(sql, "items", "id int4 primary key, code text not null, n int4")
    run(sql, "create unique index by_code on items (code)", f"alter table items replica identity {identity}")
    with listeners.listen(of("items")) as listener:
        run(sql, "insert into items values (1, 'a', 1)", "update items set n = 2", "update items set id = 2")
        run(sql, "delete from items")
        assert rows(listener, 4) == [
            ("INSERT", {"id": 1, "code": "a", "n": 1}, None),
            ("UPDATE", {"id": 1, "code": "a", "n": 2}, update),
            ("UPDATE", {"id": 2, "code": "a", "n": 2}, moved),
            ("DELETE", None, deleted),
        ]


def test_a_table_without_identity_cannot_be_updated(listeners: Listeners, sql: Sql):
    """PostgreSQL refuses the update; inserts are still sent."""
    publish(sql, "logs", "id int4 primary key", "alter table logs replica identity nothing")
    with listeners.listen(of("logs")) as listener:
        run(sql, "insert into logs values (1)")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            run(sql, "update logs set id = 2")
        run(sql, "insert into logs values (3)")
        assert [data["record"] for data in listener.changes(2)] == [{"id": 1}, {"id": 3}]


def test_an_insert_into_a_table_without_a_key_has_error_400(listeners: Listeners, sql: Sql):
    """It has neither data nor time. A delete, which FULL allows, is sent with an empty old record."""
    publish(sql, "keyless", "a int4", "alter table keyless replica identity full")
    with listeners.listen(of("keyless"), of("keyless", filter="a=eq.99")) as listener:
        run(sql, "insert into keyless values (1)", "update keyless set a = 2", "delete from keyless")
        first = listener.wait("postgres_changes")
        assert sorted(first["ids"]) == sorted(listener.ids)
        assert first["data"] == {
            "schema": "public",
            "table": "keyless",
            "type": "INSERT",
            "columns": [],
            "commit_timestamp": None,
            "record": {},
            "errors": ["Error 400: Bad Request, no primary key"],
        }
        update, delete = listener.changes(2)
    assert (update["errors"], update["record"], update["old_record"]) == (first["data"]["errors"], {}, {})
    assert (delete["errors"], delete["old_record"]) == (None, {"a": 2})


def test_a_key_that_the_role_cannot_read_is_error_401(listeners: Listeners, sql: Sql):
    """Another role, which can read the key, receives the row."""
    publish(sql, "guarded", "id int4 primary key, a text", "revoke select on guarded from authenticated")
    run(sql, "grant select (a) on guarded to authenticated")
    with listeners.listen(of("guarded")) as outside, listeners.listen(of("guarded"), role="service_role") as inside:
        run(sql, "insert into guarded values (1, 'x')")
        refused = outside.change()
        assert (refused["errors"], refused["record"], refused["columns"]) == (["Error 401: Unauthorized"], {}, [])
        assert refused["commit_timestamp"] is None
        assert inside.change()["record"] == {"id": 1, "a": "x"}


def test_columns_that_the_role_cannot_read_are_left_out(listeners: Listeners, sql: Sql):
    """They are missing in columns, record and old record from the next change after the REVOKE."""
    publish(sql, "partly", "id int4 primary key, secret text, a text", "alter table partly replica identity full")
    with listeners.listen(of("partly")) as listener:
        run(sql, "insert into partly values (1, 's', 'x')")
        assert listener.change()["record"] == {"id": 1, "secret": "s", "a": "x"}
        run(sql, "revoke select on partly from authenticated", "grant select (id, a) on partly to authenticated")
        run(sql, "update partly set a = 'y'")
        data = listener.change()
    assert [column["name"] for column in data["columns"]] == ["id", "a"]
    assert (data["record"], data["old_record"]) == ({"id": 1, "a": "y"}, {"id": 1, "a": "x"})


def test_changed_privileges_apply_to_the_next_change(listeners: Listeners, sql: Sql):
    """Also when changes follow each other so quickly that facts about the table are cached."""
    publish(sql, "todos", "id int4 primary key, a text")
    with listeners.listen(of("todos")) as listener:
        for n in range(0, 30, 3):
            run(sql, f"insert into todos values ({n}, 'x')")
            assert listener.change()["errors"] is None
            run(sql, "revoke select on todos from authenticated", f"insert into todos values ({n + 1}, 'x')")
            assert listener.change()["errors"] == ["Error 401: Unauthorized"]
            run(sql, "grant select (id) on todos to authenticated", f"insert into todos values ({n + 2}, 'x')")
            assert listener.change()["record"] == {"id": n + 2}
            run(sql, "grant select on todos to authenticated")


def test_an_unchanged_large_value_is_missing(listeners: Listeners, sql: Sql):
    """With the default identity it is missing, and a filter on it is false. With FULL it is copied from the old row."""
    publish(sql, "books", "id int4 primary key, body text, n int4", "alter table books alter body set storage external")
    body = "x" * 20_000
    with listeners.listen(of("books")) as listener, listeners.listen(of("books", filter="body=neq.y")) as filtered:
        run(sql, f"insert into books values (1, '{body}', 1)", "update books set n = 2")
        assert [data["record"] for data in listener.changes(2)] == [
            {"id": 1, "body": body, "n": 1},
            {"id": 1, "n": 2},
        ]
        run(sql, "alter table books replica identity full", "update books set n = 3")
        assert listener.change()["record"] == {"id": 1, "body": body, "n": 3}
        run(sql, "insert into books values (2, 'short', 0)")
        assert [data["record"]["id"] for data in filtered.changes(2)] == [1, 2]


def test_a_change_that_is_too_large_keeps_its_short_values(listeners: Listeners, sql: Sql, database: str):
    """Error 413: values of at most 64 bytes of JSON remain.

    A slightly smaller row, or one without a limit, is complete.
    """
    publish(sql, "large", "id int4 primary key, short text, long text, wide text, nothing text")
    limits = ServerLimits(change_bytes=1_048_576)
    with (
        LocalServer(database=database, limits=limits) as server,
        Listeners(server).listen(of("large")) as listener,
        listeners.listen(of("large")) as unlimited,
    ):
        run(sql, f"insert into large values (1, '{'s' * 62}', '{'l' * 63}', repeat('w', 1048577))")
        run(sql, "insert into large values (2, 's', 'l', repeat('w', 1047000))")
        refused, whole = listener.changes(2)
        assert len(unlimited.change()["record"]["wide"]) == 1_048_577
    assert refused["errors"] == ["Error 413: Payload Too Large"]
    assert refused["record"] == {"id": 1, "short": "s" * 62}
    assert len(refused["columns"]) == 5 and refused["commit_timestamp"] is not None
    assert (whole["errors"], len(whole["record"]["wide"])) == (None, 1_047_000)


def test_a_truncate_is_not_sent(listeners: Listeners, sql: Sql):
    """The next frame is the next row."""
    publish(sql, "todos", "id int4 primary key")
    with listeners.listen(of("todos")) as listener:
        run(sql, "insert into todos values (1)", "truncate todos", "insert into todos values (1)")
        assert [data["type"] for data in listener.changes(2)] == ["INSERT", "INSERT"]


def test_rows_are_sent_in_the_order_of_commits(listeners: Listeners, sql: Sql, database: str):
    """Not in the order of statements. Rows that are rolled back are not sent."""
    publish(sql, "todos", "id int4 primary key")
    with listeners.listen(of("todos")) as listener, psycopg.connect(database) as slow:
        slow.execute("insert into todos values (1)")
        run(sql, "insert into todos values (2)", "begin; insert into todos values (3); rollback")
        slow.commit()
        run(sql, "insert into todos select generate_series(10, 5009)")
        found = [data["record"]["id"] for data in listener.changes(5002)]
    assert found == [2, 1, *range(10, 5010)]


def test_wildcards_are_those_of_like(listeners: Listeners, sql: Sql):
    """In schema and table `*` matches everything, `_` one character and `%` any number; the ids name the matching
    bindings.
    """
    publish(sql, "user_a", "id int4 primary key")
    publish(sql, '"userXa"', "id int4 primary key")
    run(sql, "create schema app", "grant usage on schema app to authenticated")
    publish(sql, "app.user_a", "id int4 primary key", "grant select on app.user_a to authenticated")
    bindings = of("user_a"), of("*", schema="a%"), of("*", event="DELETE"), {"schema": "*"}, {"table": "userXa"}
    with listeners.listen(*bindings) as listener:
        one, two, three, four, five = listener.ids
        run(
            sql, "insert into user_a values (1)", 'insert into "userXa" values (1)', "insert into app.user_a values (1)"
        )
        run(sql, "delete from user_a")
        found = [listener.wait("postgres_changes") for _ in range(4)]
    assert [sorted(payload["ids"]) for payload in found] == [
        sorted(ids) for ids in ([one, four], [one, four, five], [two, four], [one, three, four])
    ]


def test_each_column_list_gets_its_own_frame(listeners: Listeners, sql: Sql):
    """A frame has the selected columns and the key. Bindings with equal lists share a frame."""
    publish(sql, "todos", "id int4 primary key, a text, b text", "alter table todos replica identity full")
    wide, narrow = of("todos"), of("todos", select=["b"])
    with listeners.listen(wide, narrow, of("todos", select=["b", "id"]), narrow | {"event": "UPDATE"}) as listener:
        run(sql, "insert into todos values (1, 'x', 'y')", "update todos set a = 'z'")
        found = [listener.wait("postgres_changes") for _ in range(6)]
        ids = listener.ids
    summary = [(one["data"]["type"], sorted(one["ids"]), set(one["data"]["record"])) for one in found]
    assert summary == [
        ("INSERT", [ids[0]], {"id", "a", "b"}),
        ("INSERT", [ids[1]], {"id", "b"}),
        ("INSERT", [ids[2]], {"id", "b"}),
        ("UPDATE", [ids[0]], {"id", "a", "b"}),
        ("UPDATE", sorted([ids[1], ids[3]]), {"id", "b"}),
        ("UPDATE", [ids[2]], {"id", "b"}),
    ]
    assert [column["name"] for column in found[1]["data"]["columns"]] == ["id", "b"]
    assert found[4]["data"]["old_record"] == {"id": 1, "b": "y"}


def test_changes_of_a_partition_have_its_name(listeners: Listeners, sql: Sql):
    """As on the real server; with publish_via_partition_root they have the name of the root."""
    publish(sql, "parted", "id int4, day date, primary key (id, day)) partition by range (day")
    run(sql, "create table parted_1 partition of parted for values from ('2024-01-01') to ('2025-01-01')")
    with listeners.listen(of("parted_1")) as listener:
        run(sql, "insert into parted values (1, '2024-05-05')", "delete from parted")
        assert rows(listener, 2) == [
            ("INSERT", {"id": 1, "day": "2024-05-05"}, None),
            ("DELETE", None, {"id": 1, "day": "2024-05-05"}),
        ]
    run(sql, "alter publication supabase_realtime set (publish_via_partition_root = true)")
    with listeners.listen(of("parted")) as listener:
        run(sql, "insert into parted values (2, '2024-05-05')")
        assert listener.change()["table"] == "parted"


def test_names_may_have_any_characters(listeners: Listeners, sql: Sql):
    """Quotes, percent signs, braces, spaces and letters of any script in schema, table, column and type."""
    run(sql, 'create schema "my %s {0}""s"', 'grant usage on schema "my %s {0}""s" to authenticated')
    run(sql, 'create type "my %s {0}""s"."Typ %d" as enum (\'a%\', \'b\')')
    name = '"my %s {0}""s"."Täble %(x)s 😀"'
    publish(sql, name, 'id "my %s {0}""s"."Typ %d" primary key, "c %s""{}" text')
    run(sql, f"alter table {name} enable row level security", f"grant select on {name} to authenticated")
    run(sql, f"create policy p on {name} for select to authenticated using (true)")
    binding = of("Täble %(x)s 😀", schema='my %s {0}"s', filter='c %s"{}=match.^x,id=lt.b')
    with listeners.listen(binding) as listener:
        run(sql, f"insert into {name} values ('a%', 'xy')")
        data = listener.change()
    assert (data["schema"], data["table"]) == ('my %s {0}"s', "Täble %(x)s 😀")
    assert data["record"] == {"id": "a%", 'c %s"{}': "xy"}
    assert data["columns"][0] == {"name": "id", "type": "Typ %d"}


def test_a_join_without_config_receives_bare_data(listeners: Listeners, sql: Sql):
    """The topic is the binding, and the event is the type of the change."""
    publish(sql, "todos", "id int4 primary key")
    with listeners.join() as listener:
        listener.topic = "public:todos:id=gt.1"
        listener.push("phx_join", {})
        assert listener.system() == ("ok", "Subscribed to PostgreSQL")
        run(sql, "insert into todos values (1), (2)")
        assert listener.wait("INSERT")["record"] == {"id": 2}


def test_the_keys_of_a_row_are_in_the_order_of_jsonb(listeners: Listeners, sql: Sql):
    """Keys are sorted by length, then by bytes; `columns` is in the order of the table."""
    publish(sql, "ordered", 'title text, id int4 primary key, "é" int4, b int4, "B" int4')
    run(sql, "alter table ordered replica identity full")
    with listeners.listen(of("ordered")) as listener:
        run(sql, "insert into ordered values ('x', 1, 2, 3, 4)", "update ordered set b = 5")
        inserted, updated = listener.changes(2)
        for data in (inserted, updated):
            assert list(data["record"]) == ["B", "b", "id", "é", "title"]
            assert [column["name"] for column in data["columns"]] == ["title", "id", "é", "b", "B"]
        assert list(updated["old_record"]) == ["B", "b", "id", "é", "title"]


def test_the_keys_of_a_row_with_unicode_names_are_in_the_order_of_jsonb(listeners: Listeners, sql: Sql):
    """By length in bytes, then by bytes; `columns` keeps the order of the table."""
    publish(sql, "todos", 'title text, id int4 primary key, "ä" int4, n int4, at int4, b int4')
    run(sql, "alter table todos replica identity full")
    with listeners.listen(of("todos")) as listener:
        run(sql, "insert into todos values ('x', 1, 2, 3, 4, 5)", "update todos set n = 6")
        insert, update = listener.changes(2)
    order = ["b", "n", "at", "id", "ä", "title"]
    assert [list(insert["record"]), list(update["record"]), list(update["old_record"])] == [order] * 3
    assert [column["name"] for column in insert["columns"]] == ["title", "id", "ä", "n", "at", "b"]
