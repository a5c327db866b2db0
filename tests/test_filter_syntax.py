"""The syntax of filters as the server parses it, and conditions as PostgreSQL 15 evaluates them."""

import contextlib
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supawire._values import filter_syntax
from supawire._values.filter_syntax import (
    OPERATORS,
    Condition,
    FilterSyntaxError,
    check,
    in_list,
    matches,
    parse,
    problem,
)
from supawire._values.rows import TYPES
from supawire.errors import InvalidArgumentError
from supawire.selectors import changes

C = Condition


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("  \t\n", ()),
        ("subject=eq.hey", (C("subject", "eq", "hey"),)),
        ("t=eq.12:30.5", (C("t", "eq", "12:30.5"),)),
        ("a=eq.b=c", (C("a", "eq", "b=c"),)),
        ("a=eq.", (C("a", "eq", ""),)),
        ('a=eq.""', (C("a", "eq", ""),)),
        ("id=gt.0,id=lt.100", (C("id", "gt", "0"), C("id", "lt", "100"))),
        (" id=gt.0 , id=lt.100 ", (C("id", "gt", "0"), C("id", "lt", "100"))),
        ("id=not.eq.5", (C("id", "eq", "5", True),)),
        ("s=not.like.hey%", (C("s", "like", "hey%", True),)),
        ("s=in.(hidee,ho)", (C("s", "in", "hidee,ho"),)),
        ("s=in.()", (C("s", "in", ""),)),
        ('s=not.in.("a,b",c)', (C("s", "in", '"a,b",c', True),)),
        ('s=eq."a,b"', (C("s", "eq", "a,b"),)),
        ('s=eq."a\\"b\\\\c"', (C("s", "eq", 'a"b\\c'),)),
        ('s=eq."a" b', (C("s", "eq", '"a" b'),)),
        ('s=eq."a', (C("s", "eq", '"a'),)),
        ('s=eq."a\\"', (C("s", "eq", '"a\\"'),)),
        ('s=eq.a"b,c"', None),
        ("s=eq.(a,b),t=is.null", (C("s", "eq", "(a,b)"), C("t", "is", "null"))),
        ("s=eq.(a,t=eq.1", (C("s", "eq", "(a,t=eq.1"),)),
        ("s=eq.a),t=eq.1", (C("s", "eq", "a)"), C("t", "eq", "1"))),
        ('s=in.("a)","b"),t=eq.1', (C("s", "in", '"a)","b"'), C("t", "eq", "1"))),
        ("a b =eq.1", (C("a b ", "eq", "1"),)),
        ("=eq.1", (C("", "eq", "1"),)),
        ("x=eq.\u00a01", (C("x", "eq", "\u00a01"),)),
        ("x=eq.1\u2003", (C("x", "eq", "1"),)),
    ],
)
def test_filters_are_parsed_as_by_the_server(text: str, expected: tuple[Condition, ...] | None):
    """Commas, quotes, parentheses and blanks have the documented meaning; None: refused."""
    if expected is None:
        with pytest.raises(FilterSyntaxError):
            parse(text)
    else:
        assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "parts", "shown"),
    [
        ("undefined", ("undefined",), '["undefined"]'),
        ("details=foo.x", ("foo", "x"), '["foo", "x"]'),
        ("a=not.foo.x", ("foo", "x"), '["foo", "x"]'),
        ("a=eq", ("eq",), '["eq"]'),
        ("a=not.eq", ("eq",), '["eq"]'),
        ("a=not.not.eq.1", ("not", "eq.1"), '["not", "eq.1"]'),
        ("a=EQ.1", ("EQ", "1"), '["EQ", "1"]'),
        ('a=f.say "é"', ("f", 'say "é"'), '["f", "say \\"é\\""]'),
        ("a=eq.1,,b=eq.2", (), "filter must not contain empty segments (check for extra commas)"),
        ("a=eq.1,", (), "filter must not contain empty segments (check for extra commas)"),
        ("a=in.1", (), "`in` filter value must be wrapped by parentheses"),
        ("a=in.(", (), "`in` filter value must be wrapped by parentheses"),
    ],
)
def test_errors_have_the_text_of_the_server(text: str, parts: tuple[str, ...], shown: str):
    """A filter that cannot be parsed raises an error with the server's own text, which the local server sends."""
    with pytest.raises(FilterSyntaxError) as caught:
        parse(text)
    assert caught.value.parts == parts
    assert caught.value.server_text == f"Error parsing `filter` params: {shown}"
    assert isinstance(caught.value, InvalidArgumentError)


def test_a_misspelt_operator_is_corrected():
    """The error lists the operators and suggests the closest one."""
    with pytest.raises(
        FilterSyntaxError, match=r"unknown operator 'eqq'; expected one of eq, neq.*did you mean 'eq'\?"
    ):
        parse("a=eqq.1")


plain_conditions = st.builds(
    Condition,
    st.text(st.characters(exclude_characters='=,()".\\', exclude_categories=["Z", "Cc", "Cs"]), min_size=1),
    st.sampled_from([op for op in OPERATORS if op != "in"]),
    st.text(),
    st.booleans(),
)
list_conditions = st.builds(
    lambda column, items, negated: Condition(column, "in", in_list(items), negated),
    st.just("c"),
    st.lists(st.text() | st.none(), max_size=5),
    st.booleans(),
)


@given(plain_conditions | list_conditions)
def test_a_formatted_condition_can_be_parsed(condition: Condition):
    """str() of a condition is filter text for exactly this condition, whatever its value."""
    assert parse(str(condition)) == (condition,)


@given(st.lists(plain_conditions | list_conditions, min_size=1, max_size=4))
def test_formatted_conditions_are_joined_by_commas(conditions: list[Condition]):
    """Several formatted conditions, separated by commas, are parsed as all of them."""
    assert parse(",".join(map(str, conditions))) == tuple(conditions)


@given(st.lists(st.text() | st.none()))
def test_formatted_items_of_a_list_can_be_parsed(items: list[str | None]):
    """in_list() quotes items so that they are parsed unchanged; the text NULL differs from null."""
    assert Condition("c", "in", in_list(items)).items == tuple(items)


pieces = ["a", "=", "eq", "in", "not", ".", ",", "(", ")", '"', "\\", " ", "is", "null", "like", "%"]
grammar = st.lists(st.sampled_from(pieces), max_size=14).map("".join)


@given(grammar | st.text())
@example('a=eq."\\')
@example("a=in.((")
def test_any_text_is_parsed_or_refused(text: str):
    """Any text is parsed to conditions that can be formatted and parsed again, or raises FilterSyntaxError."""
    with contextlib.suppress(FilterSyntaxError):
        for condition in parse(text):
            assert parse(str(condition)) == (condition,)
            assert matches((condition,), {}) is False


def test_a_list_is_kept_as_an_array_literal():
    """The server stores the list of an `in` in braces, and every other value unchanged."""
    assert C("a", "in", "1,2").wire_value == "{1,2}"
    assert C("a", "eq", "(1,2)").wire_value == "(1,2)"
    assert C("a", "in", ' a , "b" , null, "null"').items == ("a", "b", None, "null")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x=is.nul", "must be null, true, false, or unknown"),
        ("x=is.NULL", "must be null, true, false, or unknown"),
        ("a=in.()", "an empty list never matches"),
        ("a=in.({)", "is not a valid list"),
        ("a=in.(a b,)", "is not a valid list"),
        ("=eq.1", "has an empty column name"),
        ("a=match.(", "invalid regular expression for match filter"),
        ("a=in.(" + ",".join(map(str, range(101))) + ")", "Maximum 100"),
        ("a=foo.1", "unknown operator"),
    ],
)
def test_check_refuses_what_no_table_can_satisfy(text: str, expected: str):
    """check() refuses locally what the server would refuse for every table."""
    with pytest.raises(InvalidArgumentError, match=expected):
        check(text)


@pytest.mark.parametrize(
    "wrong", [{"table": "\ud800"}, {"schema": "\ud800"}, {"select": ["\ud800"]}, {"filter": "a=eq.\ud800"}]
)
def test_unpaired_surrogates_are_refused_at_once(wrong: dict[str, Any]):
    """A name or filter that cannot be encoded raises at once instead of a failing join."""
    arguments: dict[str, Any] = {"table": "t"} | wrong
    with pytest.raises(InvalidArgumentError, match="UTF-8"):
        changes(**arguments)


def test_check_returns_the_conditions():
    """check() returns the conditions of a filter that a table can satisfy."""
    text = "a=in.(" + ",".join(map(str, range(100))) + "),b=not.is.true,c=imatch.^x,d=isdistinct."
    assert check(text) == parse(text)
    assert check("") == ()


RAISED = "ERROR P0001 (raise_exception) "
TOO_LARGE = "ERROR 22003 (numeric_value_out_of_range) "


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("id=eq.abc", "int4", 'ERROR 22P02 (invalid_text_representation) invalid input syntax for type integer: "abc"'),
        ("id=eq.abc", None, None),
        ("id=eq. 7 ", "int4", None),
        ("id=gt.", "int8", 'ERROR 22P02 (invalid_text_representation) invalid input syntax for type bigint: ""'),
        (
            "id=eq.99999999999",
            "int4",
            'ERROR 22003 (numeric_value_out_of_range) value "99999999999" is out of range for type integer',
        ),
        ("n=eq.1e9999999999999999999", "numeric", f"{TOO_LARGE}value overflows numeric format"),
        ("n=eq.1e131072", "numeric", f"{TOO_LARGE}value overflows numeric format"),
        ("n=eq.1e-16384", "numeric", f"{TOO_LARGE}value overflows numeric format"),
        ("n=eq.1e131071", "numeric", None),
        ("n=eq.1e999", "float8", f'{TOO_LARGE}"1e999" is out of range for type double precision'),
        ("n=eq.1e999", "float4", f'{TOO_LARGE}"1e999" is out of range for type real'),
        ("n=eq.inf", "float8", None),
        ("j=eq.1e9999999999999999999", "jsonb", f"{TOO_LARGE}value overflows numeric format"),
        ("j=eq.[1e131072]", "jsonb", f"{TOO_LARGE}value overflows numeric format"),
        ("j=eq." + "9" * 5000, "jsonb", None),
        ("j=eq.NaN", "jsonb", 'ERROR 22P02 (invalid_text_representation) invalid input syntax for type jsonb: "NaN"'),
        ("d=eq.x", "date", 'ERROR 22007 (invalid_datetime_format) invalid input syntax for type date: "x"'),
        ("id=in.(1,x)", "int4", 'ERROR 22P02 (invalid_text_representation) invalid input syntax for type integer: "x"'),
        ("id=in.(1,null)", "int4", None),
        ("id=in.({)", None, 'ERROR 22P02 (invalid_text_representation) malformed array literal: "{{}"'),
        ("b=is.true", "bool", None),
        ("b=is.true", "int4", f"{RAISED}is true filter requires a boolean column, got integer"),
        ("b=is.null", "int4", None),
        ("b=is.maybe", None, f"{RAISED}invalid value for is filter: must be null, true, false, or unknown"),
        ("a=like.x%", "int4", f"{RAISED}operator like requires a text-compatible column type, got integer"),
        ("a=like.x%", "text", None),
        ("a=in.(" + ",".join(["1"] * 101) + ")", "int4", f"{RAISED}too many values for `in` filter. Maximum 100"),
    ],
)
def test_problems_have_the_text_of_postgresql(text: str, kind: str | None, expected: str | None):
    """PostgreSQL's error for subscribing to a condition is predicted without a database."""
    assert problem(parse(text)[0], kind) == expected


# value on the wire, type, condition, whether PostgreSQL says true
ANSWERS: list[tuple[Any, str, str, bool]] = [
    (7, "int4", "eq.7", True),
    (7, "int4", "eq. 7 ", True),
    (7, "int4", "eq.+7", True),
    (7, "int4", "eq.7.0", False),
    (7, "int4", "eq.0x7", False),
    (7, "int4", "not.eq.abc", False),
    (7, "int4", "neq.8", True),
    (7, "int4", "not.eq.8", True),
    (7, "int4", "gt.10", False),
    (7, "int4", "lte.7", True),
    (7, "int4", "lt.99999999999", False),
    (7, "int4", "in.(1,7)", True),
    (7, "int4", "in.(1,2)", False),
    (7, "int4", "not.in.(1,2)", True),
    (7, "int4", "in.(7,null)", True),
    (7, "int4", "not.in.(1,null)", False),
    (7, "int4", "in.(7,7.0)", False),
    (7, "int4", "like.7", False),
    (7, "int4", "is.null", False),
    (7, "int4", "not.is.null", True),
    (7, "int4", "is.true", False),
    (9007199254740993, "int8", "eq.9007199254740992", False),
    (Decimal("1.10"), "numeric", "eq.1.1", True),
    (Decimal("1.10"), "numeric", "gt.1.09", True),
    (Decimal(100), "numeric", "eq.1e2", True),
    ("NaN", "numeric", "eq.nan", True),
    ("NaN", "numeric", "gt.1", True),
    (1.5, "float8", "lt.inf", True),
    (1.0, "float8", "eq.1", True),
    (-2e10, "float8", "eq.-20000000000", True),
    (True, "bool", "eq.yes", True),
    (True, "bool", "eq.o", False),
    (True, "bool", "gt.off", True),
    (True, "bool", "is.true", True),
    (True, "bool", "not.is.false", True),
    (True, "bool", "not.is.unknown", True),
    ("Hello", "text", "eq.Hello", True),
    ("Hello", "text", "eq.hello", False),
    ("Hello", "text", "like.H%", True),
    ("Hello", "text", "like.h%", False),
    ("Hello", "text", "ilike.h_LLO", True),
    ("Hello", "text", "not.like.x%", True),
    ("a_b", "text", "like.a\\_b", True),
    ("axb", "text", "like.a\\_b", False),
    ("axb", "text", "like.a", False),
    ("a\nb", "text", "like.a%b", True),
    ("a", "text", "like.a\\", False),
    ("a", "text", "not.like.a\\", False),
    ("Hello", "text", "match.^He", True),
    ("Hello", "text", "match.l+", True),
    ("Hello", "text", "imatch.^he", True),
    ("Hello", "text", "match.\\mHello\\M", True),
    ("Hello", "text", "match.[[:upper:]]", True),
    ("Hello", "text", "match.[[:digit:]]", False),
    ("Hello", "text", "not.match.(", False),
    ("null", "text", "eq.null", True),
    ("null", "text", "in.(NULL)", False),
    ("null", "text", 'in.("NULL","null")', True),
    (" x ", "text", 'eq." x "', True),
    ("abc", "bpchar", 'eq."abc   "', True),
    ("6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11", "uuid", "eq.6F1C0A528D0E4F579A390D5F6F8B7C11", True),
    ("6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11", "uuid", "eq.nope", False),
    ("2024-01-02", "date", "eq.2024-01-02 10:00", True),
    ("infinity", "date", "gt.2024-01-02", True),
    ("2024-01-02", "date", "gt.-infinity", True),
    ("2024-01-02T03:04:05.5", "timestamp", "eq.2024-01-02 03:04:05.500+05:30", True),
    ("2024-01-02T03:04:05+00:00", "timestamptz", "eq.2024-01-02 08:34:05+05:30", True),
    ("2024-01-02T03:04:05+00:00", "timestamptz", "eq.2024-01-02T03:04:05", True),
    ("24:00:00", "time", "gt.23:59:59.999999", True),
    ("03:04:05+00", "timetz", "eq.04:04:05+01", False),
    ("03:04:05+00", "timetz", "gt.04:04:05+01", True),
    ("deadbeef", "bytea", "eq.deadbeef", True),
    ("deadbeef", "bytea", "eq.\\xdeadbeef", False),
    ({"a": 1}, "jsonb", 'eq."{\\"a\\":1.0}"', True),
    ({"a": 1}, "jsonb", "like.%a%", False),
    ({"a": 1}, "json", 'eq."{\\"a\\":1}"', False),
    ([1, 2], "_int4", 'eq."{1,2}"', False),
    ([1, 2], "_int4", "not.is.null", False),
    ("sad", "mood", "eq.sad", True),
    ("sad", "mood", "in.(sad,ok)", True),
    (7, "int4", "isdistinct.8", True),
    (7, "int4", "isdistinct.7", False),
    (7, "int4", "not.isdistinct.7", True),
    (7, "int4", "isdistinct.x", False),
    (None, "int4", "eq.7", False),
    (None, "int4", "not.eq.7", False),
    (None, "int4", "neq.7", False),
    (None, "int4", "in.(1,null)", False),
    (None, "int4", "not.in.(1)", False),
    (None, "int4", "not.in.()", True),
    (None, "text", "like.%", False),
    (None, "text", "not.match.x", False),
    (None, "int4", "is.null", True),
    (None, "int4", "not.is.null", False),
    (None, "bool", "is.unknown", True),
    (None, "bool", "is.true", False),
    (None, "bool", "not.is.true", True),
    (None, "int4", "is.x", False),
    (None, "int4", "not.is.x", False),
    (None, "int4", "isdistinct.7", True),
    (None, "int4", "not.isdistinct.7", False),
]


@pytest.mark.parametrize(("value", "kind", "condition", "expected"), ANSWERS)
def test_conditions_are_evaluated_as_by_postgresql(value: Any, kind: str, condition: str, expected: bool):
    """Both sides are cast to the column's type; null, invalid values and errors are false, negated or not."""
    assert matches(parse(f"c={condition}"), {"c": value}, {"c": kind}) is expected


def test_every_condition_must_hold():
    """Conditions are joined by AND, and an empty filter matches every row."""
    row = {"id": 7, "status": "open"}
    assert matches(parse("id=gt.5,status=eq.open"), row)
    assert not matches(parse("id=gt.5,status=eq.done"), row)
    assert matches((), row)


def test_a_missing_column_never_matches():
    """A column that was not sent makes a condition false, also with `is` and `not.`."""
    for text in ("x=eq.1", "x=not.eq.1", "x=is.null", "x=isdistinct.1"):
        assert not matches(parse(text), {"id": 1})


def test_python_values_are_compared_by_their_inferred_type():
    """Without column types a row of Python values is matched by the inferred types."""
    row = {
        "id": 7,
        "price": Decimal("1.10"),
        "at": datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
        "key": UUID(int=1),
        "done": False,
    }
    assert matches(parse("id=in.(7),price=lt.1.2,at=eq.2024-01-02T08:34:05+05:30,done=is.false"), row)
    assert matches(parse("key=eq.00000000-0000-0000-0000-000000000001"), row)


@given(st.integers(), st.integers())
def test_numbers_are_ordered_as_numbers(left: int, right: int):
    """The six comparisons of numeric columns compare numbers."""
    answers = {op: matches(parse(f"c={op}.{right}"), {"c": left}, {"c": "numeric"}) for op in OPERATORS[:6]}
    assert answers == {
        "eq": left == right,
        "neq": left != right,
        "lt": left < right,
        "lte": left <= right,
        "gt": left > right,
        "gte": left >= right,
    }


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
kinds = st.sampled_from(["", "mood", "json", "jsonb", "_int4", "_text", *TYPES])


@given(json_values, kinds, plain_conditions | list_conditions)
def test_any_value_can_be_evaluated(value: Any, kind: str, condition: Condition):
    """No combination of value, type and condition makes evaluating or checking raise."""
    assert matches((condition,), {condition.column: value}, {condition.column: kind}) in (True, False)
    assert (problem(condition, kind or None) or RAISED).startswith("ERROR ")


def test_every_name_is_exported():
    """Each name of __all__ exists."""
    assert [name for name in filter_syntax.__all__ if not hasattr(filter_syntax, name)] == []
