"""What the database says of bindings, in the words of the real server (protocol §3.6, §4.2)."""

from typing import Any

import psycopg
import pytest

from .listening import SUBSCRIBED, Ear, of
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


def refusal(ear: Ear, *bindings: dict[str, Any], **claims: Any) -> str:
    """The words of the error."""
    with ear.join(*bindings, **claims) as listener:
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
def test_a_filter_that_the_database_refuses(ear: Ear, sql: Sql, filter: str, error: str):
    """Columns, values and operators are checked against the table, with PostgreSQL's own words."""
    publish(sql, "todos", "id int4 primary key, a text, at timestamptz, secret text")
    run(sql, "revoke select on todos from authenticated", "grant select (id, a, at) on todos to authenticated")
    message = refusal(ear, of("todos", filter=filter))
    assert message.startswith(EXCEPTION + "[event: *, schema: public, table: todos, filters: [")
    assert message.partition(". Exception: ")[2] == error


def test_other_refusals(ear: Ear, sql: Sql):
    """A column for select, and a role that there is not."""
    publish(sql, "todos", "id int4 primary key")
    assert refusal(ear, of("todos", select=["nope"])) == (
        EXCEPTION + '[event: *, schema: public, table: todos, filters: [], select: ["nope"]]. '
        "Exception: ERROR P0001 (raise_exception) invalid column for select nope"
    )
    assert refusal(ear, of("todos"), role="ghost").endswith(
        'Exception: ERROR 42704 (undefined_object) role "ghost" does not exist'
    )


@pytest.mark.parametrize("binding", [of("private_one"), of("nope"), of("*", schema="nope"), {"table": "todo"}])
def test_a_binding_without_a_published_table(ear: Ear, sql: Sql, binding: dict[str, Any]):
    """Not published, not there, no such schema: one text, with what was asked for."""
    publish(sql, "todos", "id int4 primary key")
    run(sql, "create table private_one (id int primary key)")
    message = refusal(ear, binding)
    table, schema = binding.get("table", "*"), binding.get("schema", "public")
    assert message == f"{UNPUBLISHED}[event: *, schema: {schema}, table: {table}, filters: [], select: nil]"


def test_one_bad_binding_spoils_all(ear: Ear, sql: Sql):
    """They are one transaction: nothing of the channel is live, and it may join anew."""
    publish(sql, "todos", "id int4 primary key")
    with ear.join(of("todos"), of("nope")) as spoilt, ear.listen(of("todos")) as good:
        assert spoilt.system()[0] == "error"
        run(sql, "insert into todos values (1)")
        good.change()
        spoilt.push("phx_join", {"config": {"postgres_changes": [of("todos")]}})
        assert spoilt.system() == ("ok", SUBSCRIBED)
        assert "postgres_changes" not in spoilt.frames


def test_what_only_the_rights_of_another_role_allow(ear: Ear, sql: Sql):
    """The columns of a filter are those that the token's role may read."""
    publish(sql, "todos", "id int4 primary key, a text", "revoke select on todos from anon")
    assert refusal(ear, of("todos", filter="a=eq.x"), role="anon").endswith("invalid column for filter a")
    with ear.listen(of("todos", filter="a=eq.x")):
        pass


def test_a_channel_that_left_is_forgotten(ear: Ear, sql: Sql):
    """Its bindings are gone from the books; other channels of the same topic hear on."""
    publish(sql, "todos", "id int4 primary key")
    with ear.listen(of("todos")) as stays:
        with ear.listen(of("todos")) as leaves:
            leaves.push("phx_leave", {})
            leaves.wait("phx_close")
            run(sql, "insert into todos values (1)")
            stays.change()
            leaves.push("phx_join", {"config": {}})
            leaves.wait("phx_reply")
            assert "postgres_changes" not in leaves.frames
        run(sql, "insert into todos values (2)")
        assert stays.change()["record"] == {"id": 2}
