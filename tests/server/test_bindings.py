"""Bindings of `postgres_changes`, and the real server's error texts for invalid ones."""

from typing import Any

import pytest

from supawire._values.filter_syntax import matches
from supawire.server.bindings import bind
from supawire.server.elixir_inspect import elixir_inspect, inspect_filters

TODOS = {"event": "*", "schema": "public", "table": "todos"}


def test_equal_elements_have_equal_ids() -> None:
    """The id is a number below 2^27 that does not depend on the order of the keys."""
    one, two = bind(TODOS), bind(dict(reversed(TODOS.items())))
    assert one.id == two.id
    assert 0 <= one.id < 2**27
    assert bind({**TODOS, "event": "INSERT"}).id != one.id


def test_an_element_is_echoed_as_sent_with_its_id() -> None:
    """Unknown keys and values of other types are echoed too."""
    odd = {"event": "NOPE", "schema": "public", "table": "todos", "more": [1]}
    binding = bind(odd)
    assert binding.echo == {**odd, "id": binding.id}
    assert binding.error is None and binding.event == "*"


@pytest.mark.parametrize(
    ("element", "schema", "table"),
    [
        ({"schema": "shop"}, "shop", "*"),
        ({"table": "orders"}, "public", "orders"),
        ({"schema": "shop", "table": "orders"}, "shop", "orders"),
    ],
)
def test_schema_and_table_have_defaults(element: dict[str, Any], schema: str, table: str) -> None:
    """The default table is all tables of the schema, and the default schema is public."""
    binding = bind(element)
    assert (binding.schema, binding.table, binding.error) == (schema, table, None)


NO_PARAMS = "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: "
WILDCARD = "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name."
EXCEPTION = (
    "Unable to subscribe to changes with given parameters. "
    "An exception happened so please check your connect parameters: "
)


@pytest.mark.parametrize(
    ("element", "error"),
    [
        ({}, NO_PARAMS + "%{}"),
        (
            {**TODOS, "filter": None},
            NO_PARAMS + '%{"event" => "*", "filter" => nil, "schema" => "public", "table" => "todos"}',
        ),
        ({"schema": "public", "filter": "id=eq.1"}, NO_PARAMS + '%{"filter" => "id=eq.1", "schema" => "public"}'),
        ({"schema": "public", "table": None}, NO_PARAMS + '%{"schema" => "public", "table" => nil}'),
        ({**TODOS, "filter": "details=foo.x"}, 'Error parsing `filter` params: ["foo", "x"]'),
        ({**TODOS, "filter": "undefined"}, 'Error parsing `filter` params: ["undefined"]'),
        (
            {**TODOS, "select": "id"},
            'Error parsing `select` params: expected a list of column name strings, e.g. select: ["col1", "col2"]',
        ),
        (
            {"schema": "public", "select": ["id"]},
            "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name.",
        ),
    ],
)
def test_an_invalid_binding_has_the_real_servers_error(element: dict[str, Any], error: str) -> None:
    """The texts were recorded from the real server."""
    assert bind(element).error == error


def test_a_list_of_too_many_items_has_the_real_servers_error() -> None:
    """The error for 101 items shows the filter over several lines, as Elixir formats it."""
    items = ",".join(map(str, range(101)))
    error = bind({**TODOS, "filter": f"id=in.({items})"}).error
    assert error == (
        f'{EXCEPTION}[event: *, schema: public, table: todos, filters: [\n  {{"id", "in",\n   "{{{items}}}",\n'
        "   false}\n], select: nil]. "
        "Exception: ERROR P0001 (raise_exception) too many values for `in` filter. Maximum 100"
    )


@pytest.mark.parametrize("select", [[], [1, None]])
def test_a_select_without_names_selects_all_columns(select: list[Any]) -> None:
    """This holds for an empty list and for one without strings."""
    binding = bind({**TODOS, "select": select})
    assert (binding.select, binding.error) == (None, None)


@pytest.mark.parametrize(
    ("table", "matched", "others"),
    [
        ("*", ["todos", "x"], []),
        ("todos", ["todos"], ["Todos", "todos2"]),
        ("user_a", ["user_a", "userXa"], ["usera"]),
        ("%s", ["todos", "s"], ["todo"]),
        ("a.b", ["a.b"], ["axb"]),
    ],
)
def test_tables_are_compared_as_sql_like(table: str, matched: list[str], others: list[str]) -> None:
    """Only `_` and `%` are wildcards, and there is no escape character."""
    binding = bind({"schema": "public", "table": table})
    assert [name for name in matched + others if binding.covers("INSERT", "public", name)] == matched


def test_a_binding_covers_its_event_only() -> None:
    """The event is case-insensitive; `*` covers all events."""
    insert = bind({**TODOS, "event": "insert"})
    assert [kind for kind in ("INSERT", "UPDATE", "DELETE") if insert.covers(kind, "public", "todos")] == ["INSERT"]
    assert bind(TODOS).covers("DELETE", "public", "todos")


def test_values_are_formatted_as_by_elixir() -> None:
    """Maps are sorted, strings quoted, and null is nil."""
    value = {"b": [1, 2.5, None, True], "a": 'x"\\\n#{y}'}
    assert elixir_inspect(value) == '%{"a" => "x\\"\\\\\\n\\#{y}", "b" => [1, 2.5, nil, true]}'


def test_deeply_nested_values_are_formatted() -> None:
    """A value may be nested more deeply than Python's recursion limit."""
    deep: Any = []
    for _ in range(20_000):
        deep = [deep]
    assert elixir_inspect(deep) == "[" * 20_001 + "]" * 20_001
    assert bind({"schema": None, "x": {"y": [{}, {"z": []}]}}).error == (
        NO_PARAMS + '%{"schema" => nil, "x" => %{"y" => [%{}, %{"z" => []}]}}'
    )


def test_short_filters_stay_on_one_line() -> None:
    """Only a list wider than 80 columns is broken into lines."""
    assert inspect_filters([]) == "[]"
    assert inspect_filters([("id", "eq", "1", False)]) == '[{"id", "eq", "1", false}]'
    many = inspect_filters([("id", "eq", "1", False)] * 4)
    assert many == "[\n" + ",\n".join(['  {"id", "eq", "1", false}'] * 4) + "\n]"


def test_wildcards_in_names_are_matched_in_linear_time():
    """Any client with a key can send such a table name."""
    binding = bind({"event": "*", "schema": "public", "table": "%a" * 11 + "%b"})
    assert not binding.covers("INSERT", "public", "a" * 63)
    assert bind({"event": "*", "schema": "public", "table": "%a" * 11 + "%"}).covers("INSERT", "public", "a" * 63)


def test_patterns_in_filters_are_matched_in_linear_time():
    """LIKE patterns and regular expressions that backtrack exponentially elsewhere are matched quickly."""
    binding = bind({"schema": "public", "table": "t", "filter": "c=match.(a+)+$"})
    assert binding.error is None
    assert not matches(binding.conditions, {"c": "a" * 5000 + "!"})
