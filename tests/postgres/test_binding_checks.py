"""Answers of the database to bindings, with the texts of the real server."""

from typing import Any

import psycopg
import pytest

from .listening import SUBSCRIBED, Listeners, of
from .test_changes import publish, run

pytestmark = pytest.mark.slow

Sql = psycopg.Connection[tuple[Any, ...]]
UNPUBLISHED = (
    "Unable to subscribe to changes with given parameters. "
    "Please check Realtime is enabled for the given connect parameters: "
)
EXCEPTION = (
    "Unable to subscribe to changes with given parameters. "
    "An exception happened so please check your connect parameters: "
)


def refusal(listeners: Listeners, *bindings: dict[str, Any], **claims: Any) -> str:
    """Return the message of the error."""
    with listeners.join(*bindings, **claims) as listener:
        status, message = listener.system()
    assert status == "error"
    return message


RAISED = "ERROR P0001 (raise_exception) "
SYNTAX = "ERROR 22P02 (invalid_text_representation) invalid input syntax for type "
NO_TEXT = "requires a text-compatible column type, got "
ZONED = "timestamp with time zone"
REFUSED = {
    "nope=eq.1": RAISED + "invalid column for filter nope",
    "secret=eq.1": RAISED + "invalid column for filter secret",
    "id=eq.x": SYNTAX + 'integer: "x"',
    "id=in.(1,x)": SYNTAX + 'integer: "x"',
    "id=gt.9999999999": 'ERROR 22003 (numeric_value_out_of_range) value "9999999999" is out of range for type integer',
    "at=lt.soon": f'ERROR 22007 (invalid_datetime_format) invalid input syntax for type {ZONED}: "soon"',
    "at=lt.2024-13-01": 'ERROR 22008 (datetime_field_overflow) date/time field value out of range: "2024-13-01"',
    "id=in.(" + ",".join(map(str, range(101))) + ")": RAISED + "too many values for `in` filter. Maximum 100",
    "id=is.maybe": RAISED + "invalid value for is filter: must be null, true, false, or unknown",
    "id=is.true": RAISED + "is true filter requires a boolean column, got integer",
    "id=like.1%": RAISED + f"operator like {NO_TEXT}integer",
    "at=imatch.1": RAISED + f"operator imatch {NO_TEXT}{ZONED}",
    "a=match.[b": RAISED + "invalid regular expression for match filter: "
    "invalid regular expression: brackets [] not balanced",
}


@pytest.mark.parametrize(("filter", "error"), REFUSED.items())
def test_an_invalid_filter_is_refused_with_the_text_of_the_server(
    listeners: Listeners, sql: Sql, filter: str, error: str
):
    """Columns, values and operators are checked against the table, with PostgreSQL's messages."""
    publish(sql, "todos", "id int4 primary key, a text, at timestamptz, secret text")
    run(sql, "revoke select on todos from authenticated", "grant select (id, a, at) on todos to authenticated")
    message = refusal(listeners, of("todos", filter=filter))
    assert message.startswith(EXCEPTION + "[event: *, schema: public, table: todos, filters: [")
    assert message.partition(". Exception: ")[2] == error


def test_an_invalid_select_or_role_is_refused(listeners: Listeners, sql: Sql):
    """A column of select that does not exist, and a role that does not exist."""
    publish(sql, "todos", "id int4 primary key")
    assert refusal(listeners, of("todos", select=["nope"])) == (
        EXCEPTION + '[event: *, schema: public, table: todos, filters: [], select: ["nope"]]. '
        "Exception: ERROR P0001 (raise_exception) invalid column for select nope"
    )
    assert refusal(listeners, of("todos"), role="ghost").endswith(
        'Exception: ERROR 42704 (undefined_object) role "ghost" does not exist'
    )


@pytest.mark.parametrize("binding", [of("private_one"), of("nope"), of("*", schema="nope"), {"table": "todo"}])
def test_a_binding_without_a_published_table(listeners: Listeners, sql: Sql, binding: dict[str, Any]):
    """Not published, missing, or in a missing schema: one text, with the binding."""
    publish(sql, "todos", "id int4 primary key")
    run(sql, "create table private_one (id int primary key)")
    message = refusal(listeners, binding)
    table, schema = binding.get("table", "*"), binding.get("schema", "public")
    assert message == f"{UNPUBLISHED}[event: *, schema: {schema}, table: {table}, filters: [], select: nil]"


def test_one_invalid_binding_makes_all_fail(listeners: Listeners, sql: Sql):
    """They are one transaction: no binding of the channel is active, and it can join again."""
    publish(sql, "todos", "id int4 primary key")
    with listeners.join(of("todos"), of("nope")) as spoilt, listeners.listen(of("todos")) as good:
        assert spoilt.system()[0] == "error"
        run(sql, "insert into todos values (1)")
        good.change()
        spoilt.push("phx_join", {"config": {"postgres_changes": [of("todos")]}})
        assert spoilt.system() == ("ok", SUBSCRIBED)
        assert "postgres_changes" not in spoilt.frames


def test_filters_need_columns_that_the_role_can_read(listeners: Listeners, sql: Sql):
    """Privileges of other roles do not count."""
    publish(sql, "todos", "id int4 primary key, a text", "revoke select on todos from anon")
    assert refusal(listeners, of("todos", filter="a=eq.x"), role="anon").endswith("invalid column for filter a")
    with listeners.listen(of("todos", filter="a=eq.x")):
        pass


def test_subscriptions_of_a_channel_that_left_are_removed(listeners: Listeners, sql: Sql):
    """Other channels of the same topic still receive changes."""
    publish(sql, "todos", "id int4 primary key")
    with listeners.listen(of("todos")) as stays:
        with listeners.listen(of("todos")) as leaves:
            leaves.push("phx_leave", {})
            leaves.wait("phx_close")
            run(sql, "insert into todos values (1)")
            stays.change()
            leaves.push("phx_join", {"config": {}})
            leaves.wait("phx_reply")
            assert "postgres_changes" not in leaves.frames
        run(sql, "insert into todos values (2)")
        assert stays.change()["record"] == {"id": 2}


def test_each_new_token_confirms_the_subscription_and_loses_nothing(listeners: Listeners, sql: Sql):
    """Ten tokens are pushed, each is followed by `Subscribed to PostgreSQL`, and no row is missing."""
    publish(sql, "todos", "id int4 primary key")
    with listeners.listen(of("todos")) as listener:
        for number in range(10):
            listener.push("access_token", {"access_token": listeners.server.token(n=number)})
            run(sql, f"insert into todos select generate_series({number * 10}, {number * 10 + 9})")
        ids = [data["record"]["id"] for data in listener.changes(100)]
        while len(listener.frames["system"]) < 11:
            assert listener.system() == ("ok", SUBSCRIBED)
    assert ids == list(range(100))
