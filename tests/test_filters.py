"""Filters written as Python expressions, and the texts that are sent for them."""

import copy
import math
import operator
import pickle
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from supawire import changes, filters
from supawire._values.filter_syntax import OPERATORS, Condition, check, matches, parse
from supawire.errors import InvalidArgumentError
from supawire.filters import FilterColumn, Where, col
from supawire.selectors import ChangesSelector

a, b = col("a"), col("b")
INDIA = timezone(timedelta(hours=5, minutes=30))
moment = datetime.fromisoformat


# --- texts


class Color(StrEnum):
    RED = "red"


class Old(str, Enum):  # noqa: UP042  str() of its members is not their value
    RED = "red, old"


class Level(IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (-(2**63), "-9223372036854775808"),
        (10**30, "1" + "0" * 30),
        (Level.HIGH, "3"),
        (True, "true"),
        (False, "false"),
        (1.5, "1.5"),
        (10.0, "10"),
        (-0.0, "0"),
        (1e22, "1e+22"),
        (5e-324, "5e-324"),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (Decimal("10.50"), "10.50"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1E-7"), "0.0000001"),
        (Decimal("sNaN"), "NaN"),
        (Decimal("-Infinity"), "-Infinity"),
        (moment("2024-01-02 03:04:05.6"), "2024-01-02T03:04:05.600000"),
        (datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), "2024-01-02T03:04:05+00:00"),
        (datetime(2024, 1, 2, 3, 4, 5, 1, tzinfo=INDIA), "2024-01-01T21:34:05.000001+00:00"),
        (date(2024, 1, 2), "2024-01-02"),
        (time(3, 4, 5), "03:04:05"),
        (time(3, 4, 5, tzinfo=INDIA), "03:04:05+05:30"),
        (timedelta(hours=26, seconds=1.5), "26:00:01.5"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (ip_address("10.0.0.1"), "10.0.0.1"),
        (ip_address("fe80::1"), "fe80::1"),
        (ip_interface("10.0.0.1/8"), "10.0.0.1/8"),
        (ip_network("10.0.0.0/8"), "10.0.0.0/8"),
        (b"\xde\xad", "dead"),
        (bytearray(b""), ""),
        ("open", "open"),
        ("", ""),
        (" x ", '" x "'),
        ("a,b", '"a,b"'),
        ("a(b", '"a(b"'),
        ('say "é"', '"say \\"é\\""'),
        ("C:\\x", '"C:\\\\x"'),
        ("not.eq.1", "not.eq.1"),
        ("12:30.5", "12:30.5"),
        (Color.RED, "red"),
        (Old.RED, '"red, old"'),
    ],
)
def test_values_are_written_as_postgresql_parses_them(value: Any, text: str):
    """Each type of value is written as text that PostgreSQL parses as exactly this value, quoted where necessary."""
    assert str(a == value) == f"a=eq.{text}"


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (a == 1, "a=eq.1"),
        (a != 1, "a=neq.1"),
        (a < 1, "a=lt.1"),
        (a <= 1, "a=lte.1"),
        (a > 1, "a=gt.1"),
        (a >= 1, "a=gte.1"),
        (operator.ge(1, a), "a=lte.1"),
        (operator.lt(1, a), "a=gt.1"),
        (operator.eq("x", a), "a=eq.x"),
        (a.in_([1, 2]), "a=in.(1,2)"),
        (a.in_(range(3)), "a=in.(0,1,2)"),
        (a.in_({"y", "x"}), "a=in.(x,y)"),
        (a.in_(n * n for n in (1, 2)), "a=in.(1,4)"),
        (a.in_(["", "null", "a b", 'q"', "é.x"]), 'a=in.("","null","a b","q\\"",é.x)'),
        (a.is_(None), "a=is.null"),
        (a.is_(True), "a=is.true"),
        (a.is_(False), "a=is.false"),
        (a.is_("unknown"), "a=is.unknown"),
        (a.is_distinct_from(1), "a=isdistinct.1"),
        (a.like("x%"), "a=like.x%"),
        (a.ilike("_x\\%"), 'a=ilike."_x\\\\%"'),
        (a.match("^(x|y)"), 'a=match."^(x|y)"'),
        (a.imatch("[[:alpha:]]"), "a=imatch.[[:alpha:]]"),
        (~(a == 1), "a=not.eq.1"),
        (~a.in_(["x"]), "a=not.in.(x)"),
        (~a.is_(None), "a=not.is.null"),
        (~~(a == 1), "a=eq.1"),
        ((a >= 1) & (a < 9) & ~b.like("x,%"), 'a=gte.1,a=lt.9,b=not.like."x,%"'),
        (col("a b.ç(1)") == 1, "a b.ç(1)=eq.1"),
    ],
)
def test_expressions_become_filter_texts(where: Where, text: str):
    """Every operator of the syntax has one form in Python."""
    assert str(where) == text
    assert parse(text) == where.conditions


def test_every_operator_has_a_python_form():
    """The builder supports all operators of the syntax."""
    one = [a == 1, a != 1, a < 1, a <= 1, a > 1, a >= 1, a.in_([1]), a.is_(None), a.is_distinct_from(1)]
    one += [a.like("x"), a.ilike("x"), a.match("x"), a.imatch("x")]
    assert {where.conditions[0].op for where in one} == set(OPERATORS)


# --- round trip

nasty = st.text(st.sampled_from(list(',()"\\. =%_{}\n\u00a0\u2003aé☃')) | st.characters(exclude_categories=["Cs"]))
texts = nasty.filter(lambda text: "\0" not in text)
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
values = (
    texts
    | st.integers()
    | st.floats()
    | st.decimals().filter(lambda value: not value.is_finite() or abs(value.adjusted()) < 1000)
    | st.booleans()
    | st.datetimes()
    | st.datetimes(moment("0002-01-01"), moment("9998-01-01"), timezones=zones)
    | st.dates()
    | st.times()
    | st.timedeltas(timedelta(days=-(10**6)), timedelta(days=10**6))
    | st.uuids()
    | st.ip_addresses()
    | st.binary()
)
columns = st.sampled_from(["a", "ab_c", "Größe", "two words", "a.b", "in", "not", "eq", "size(cm)"]).map(col)
COMPARISONS: list[Callable[[Any, Any], Where]] = [
    operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, FilterColumn.is_distinct_from,
]  # fmt: skip
singles = (
    st.builds(lambda compare, column, value: compare(column, value), st.sampled_from(COMPARISONS), columns, values)
    | st.builds(FilterColumn.in_, columns, st.lists(values, min_size=1, max_size=5))
    | st.builds(FilterColumn.is_, columns, st.sampled_from([None, True, False, "unknown"]))
    | st.builds(FilterColumn.like, columns, texts.filter(lambda text: not text.endswith("\\")))
    | st.builds(FilterColumn.imatch, columns, st.sampled_from(["^a,b$", '"', r"\(", "[,)]", " x ", "", r"\\"]))
)
conditions_alone = singles | singles.map(operator.invert)


@given(conditions_alone)
def test_the_text_of_an_expression_can_be_parsed(where: Where):
    """For every operator and value, the text is parsed to exactly the conditions of the expression."""
    assert parse(str(where)) == check(str(where)) == where.conditions
    assert len(where.conditions) == 1


@given(st.lists(conditions_alone, min_size=1, max_size=4))
def test_the_text_of_joined_expressions_can_be_parsed(parts: list[Where]):
    """`&` joins texts by commas; all are parsed in their order."""
    where = parts[0]
    for part in parts[1:]:
        where &= part
    assert parse(str(where)) == where.conditions == tuple(part.conditions[0] for part in parts)


@given(columns, st.lists(texts, min_size=1))
def test_the_items_of_in_can_be_parsed(column: FilterColumn, items: list[str]):
    """The items of in_ are parsed unchanged, the text null too."""
    assert column.in_(items).conditions[0].items == tuple(items)


@given(conditions_alone)
def test_the_repr_is_a_python_expression(where: Where):
    """repr() shows an expression that creates an equal object."""
    assert eval(repr(where), {"col": col}) == where
    assert eval(repr(where & where), {"col": col}) == where & where


@given(st.text())
def test_any_column_name_is_supported_or_refused(name: str):
    """A name is accepted only if the server parses it as this name, first or after another condition."""
    try:
        where = (col(name) == 1) & (col(name) == "x,y")
    except InvalidArgumentError:
        assume(False)
    assert [condition.column for condition in parse(str(where))] == [name, name]


# --- properties of expressions


def test_expressions_are_values():
    """A Where is frozen, equal by its conditions and hashable, and can be copied and pickled; so can columns."""
    where = (a >= 1) & (b == "x")
    again = (col("a") >= 1) & (col("b") == "x")
    assert where == again and hash(where) == hash(again) and len({where, again}) == 1
    assert where != (a >= 1)
    assert where != "a=gte.1,b=eq.x"
    assert copy.deepcopy(where) == pickle.loads(pickle.dumps(where)) == where
    with pytest.raises(AttributeError):
        where.conditions = ()  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AttributeError):
        a.name = "b"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    assert {a: 1}[a] == 1 and repr(a) == "col('a')" and a.name == "a"


def test_combining_does_not_change_the_operands():
    """`&` and `~` create new expressions."""
    one = a == 1
    both, other = one & (b == 2), ~one
    assert (str(one), str(both), str(other)) == ("a=eq.1", "a=eq.1,b=eq.2", "a=not.eq.1")


def test_the_repr_shows_what_is_sent():
    """Values are shown as the text that is sent to the server."""
    where = (a >= Decimal("1.50")) & ~b.in_([1, "x y"]) & a.is_(None)
    assert repr(where) == "(col('a') >= '1.50') & ~col('b').in_(['1', 'x y']) & col('a').is_(None)"


# --- evaluation

LAWS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
pairs = st.one_of(
    *[
        st.tuples(kind, kind)
        for kind in (
            st.integers(-5, 5),
            st.integers(2**53 - 2, 2**53 + 2),
            st.decimals(-3, 3, places=1),
            st.floats(allow_nan=False, allow_infinity=False),  # the others are null on the wire
            st.booleans(),
            st.datetimes(moment("2024-01-01"), moment("2024-01-01 00:00:01")),
            st.datetimes(moment("2024-01-01"), moment("2024-01-02"), timezones=zones),
            st.dates(date(2024, 1, 1), date(2024, 1, 4)),
            st.times(),
            st.sampled_from([UUID(int=1), UUID(int=2), UUID(int=2**100)]),
            st.binary(max_size=2),
            st.text("aAb,\" '\\", max_size=2),
        )
    ]
)


@given(pairs)
def test_comparisons_agree_with_python(pair: tuple[Any, Any]):
    """For a row with a value, an expression is true where Python's comparison is, and its negation where it is not."""
    value, other = pair
    row = {"a": value}
    for law in LAWS.values():
        where: Any = law(a, other)
        assert matches(where.conditions, row) is law(value, other)
        assert matches((~where).conditions, row) is not law(value, other)
    assert matches(a.is_distinct_from(other).conditions, row) is (value != other)
    assert matches(a.in_([other]).conditions, row) is (value == other)
    assert matches((~a.in_([other])).conditions, row) is (value != other)


@given(conditions_alone)
def test_null_follows_three_valued_logic(where: Where):
    """Null is matched by `is` null and unknown and by negations of the others, and by is_distinct_from."""
    (condition,) = where.conditions
    row: dict[str, None] = {condition.column: None}
    if condition.op == "is":
        expected = (condition.value in ("null", "unknown")) is not condition.negated
    else:
        expected = condition.op == "isdistinct" and not condition.negated
    assert matches(where.conditions, row) is expected
    assert matches(where.conditions, {}) is False


def test_joined_conditions_must_all_match():
    """Joined conditions are true where each is true."""
    where = (a >= 1) & (a < 5) & b.ilike("x%")
    rows: list[dict[str, Any]] = [{"a": 1, "b": "Xy"}, {"a": 5, "b": "x"}, {"a": 2, "b": "y"}, {"a": 2, "b": None}]
    assert [matches(where.conditions, row) for row in rows] == [True, False, False, False]


def test_patterns_are_evaluated():
    """LIKE supports %, _ and the backslash; match finds a pattern anywhere."""
    row = {"a": "100% a_b", "done": None}
    for where in (a.like("100\\%%"), a.like("%a\\_b"), a.match("[0-9]+%"), a.imatch("A_B$"), ~a.like("a")):
        assert matches(where.conditions, row), where
    for where in (a.like("a"), a.like("%a\\%"), ~a.match("%"), col("done").is_(True)):
        assert not matches(where.conditions, row), where


# --- use in selectors


@pytest.mark.parametrize("pattern", ["***=a(", "(?x)a", "[[=a=]]", r"\yword\y", "[[:<:]]a", "{,}", r"(\d+)-(\w)*"])
def test_postgresql_specific_patterns_are_not_checked(pattern: str):
    """A regular expression that Python interprets differently is sent unchanged."""
    assert a.match(pattern).conditions == (Condition("a", "match", pattern),)


def test_where_is_the_filter_of_the_selector():
    """`where=` is stored as text, so equal filters share one binding of the join, whichever way they were written."""
    made = changes("orders", where=(a >= 1) & (b == "x,y"), select=("id", "a"))
    assert made == ChangesSelector("public", "orders", "*", 'a=gte.1,b=eq."x,y"', ("id", "a"))
    assert made == changes("orders", filter='a=gte.1,b=eq."x,y"', select=["id", "a"])


def test_every_name_is_exported():
    """Each name of __all__ exists."""
    assert [name for name in filters.__all__ if not hasattr(filters, name)] == []
