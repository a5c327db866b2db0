"""Python expressions that the filter syntax does not support: refused where they are written, with a hint.

Type checkers refuse most of it too, as tests/typing shows; here the names have no types, as without a type checker.
"""

from collections.abc import Callable
from datetime import datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from itertools import count
from typing import Any

import pytest

from supawire import changes as typed_changes
from supawire import col as typed_col
from supawire.errors import InvalidArgumentError

changes: Any = typed_changes
col: Any = typed_col
a: Any = col("a")
b: Any = col("b")
FIRST_MOMENT = datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))


class Season(tzinfo):
    """A zone whose offset depends on the date."""

    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        return dt and timedelta(hours=1)


REFUSED: list[tuple[Callable[[], Any], str, str]] = [
    (lambda: (a > 1) | (b > 2), "does not support OR", "Pass two selectors"),
    (lambda: True | (a > 1), "does not support OR", "Pass two selectors"),
    (lambda: (a > 1) ^ (b > 2), "does not support OR", "Pass two selectors"),
    (lambda: ~((a > 1) & (b > 2)), "an OR of the negated conditions", "Negate single conditions"),
    (lambda: (a > 1) and (b > 2), "has no truth value", "join them with &"),
    (lambda: (a > 1) or (b > 2), "has no truth value", "join them with &"),
    (lambda: not (a > 1), "has no truth value", "Negate with ~"),
    (lambda: 1 <= a < 9, "has no truth value", "chains such as"),
    (lambda: (a > 1) & (True), "True is not a condition", "join them with &"),
    (lambda: True & (a > 1), "True is not a condition", "join them with &"),
    (lambda: (a > 1) & b, r"col\('b'\) is not a condition", "join them with &"),
    (lambda: a > 1 & b > 2, "& binds more tightly", "in parentheses"),
    (lambda: a == 1 | b == 2, "& binds more tightly", "in parentheses"),
    (lambda: a & (b > 1), "is a column, not a condition", "in parentheses"),
    (lambda: bool(a), "is a column, not a condition", r"is_\(True\)"),
    (lambda: ~a, "negates a column", r"is_\(True\)"),
    (lambda: 1 in a, "is not supported", r"in_\(\[…\]\)"),
    (lambda: a == b, "cannot compare with another column", "in the handler"),
    (lambda: a == (b > 1), "is a condition, not a value", "in parentheses"),
    (lambda: a == None, "never true", r"Write col\('a'\)\.is_\(None\)"),  # noqa: E711
    (lambda: a != None, "never true", r"Write ~col\('a'\)\.is_\(None\)"),  # noqa: E711
    (lambda: a < None, "never true", r"Write col\('a'\)\.is_\(None\)"),
    (lambda: a.is_distinct_from(None), "never true", r"Write ~col\('a'\)\.is_\(None\)"),
    (lambda: a.in_([]), "an empty list never matches", "at least one value"),
    (lambda: a.in_(range(101)), "at most 100", "several selectors"),
    (lambda: a.in_(count()), "at most 100", "several selectors"),
    (lambda: a.in_([1, None]), "null never matches", r"is_\(None\)"),
    (lambda: a.in_("xy"), "must be a list", r"in_\(\[…\]\)"),
    (lambda: a.in_(b"xy"), "must be a list", r"in_\(\[…\]\)"),
    (lambda: a.in_(5), "must be a list", r"in_\(\[…\]\)"),
    (lambda: a.in_([[1]]), "does not compare arrays", "json.dumps"),
    (lambda: a.is_("null"), "not 'null'", "Pass None for null"),
    (lambda: a.is_(1), "not 1", "=="),
    (lambda: a.is_("yes"), "not 'yes'", "=="),
    (lambda: a == [1], "does not compare arrays", "json.dumps"),
    (lambda: a == {"x": 1}, "cannot compare with a dict", "json.dumps"),
    (lambda: a == 1j, "cannot compare with a complex", "Pass a str, int"),
    (lambda: a == Enum("E", "X").X, "is an enum member", ".value"),
    (lambda: a == time(1, tzinfo=Season()), "depends on the date", ""),
    (lambda: a == FIRST_MOMENT, "cannot be written as text", ""),
    (lambda: a == Decimal("1e131072"), "131072 digits", ""),
    (lambda: a == Decimal("1e-16384"), "16383 after it", ""),
    (lambda: a == "x\0", "NUL", ""),
    (lambda: a == "\ud800", "UTF-8", ""),
    (lambda: a.like("x\\"), "ends with an escape", "Write two"),
    (lambda: a.ilike("\\\\\\"), "ends with an escape", "Write two"),
    (lambda: a.like(3), "must be a string", ""),
    (lambda: a.match("("), "invalid regular expression", ""),
    (lambda: a.imatch("a**"), "invalid regular expression", ""),
    (lambda: col(""), "must not be empty", ""),
    (lambda: col(1), "must be a string", ""),
    (lambda: col("a,b"), "cannot be used in a filter", "in the handler"),
    (lambda: col("a=b"), "cannot be used in a filter", "in the handler"),
    (lambda: col(" a"), "cannot be used in a filter", "in the handler"),
    (lambda: col('"a"'), "cannot be used in a filter", "in the handler"),
    (lambda: col("a(b"), "cannot be used in a filter", "in the handler"),
    (
        lambda: changes("t", where=a > 1, filter="b=eq.1"),
        "filter= and where= exclude each other",
        "text for filter=",
    ),
    (lambda: changes("t", where="a=eq.1"), "is not a condition created with col", "Pass a text as filter="),
    (lambda: changes("t", where=a), "is not a condition created with col", "join them with &"),
    (lambda: changes("t", where=True), "is not a condition created with col", "join them with &"),
    (lambda: changes("t", filter=a > 1), "filter must be a string", "Pass conditions as where="),
    (lambda: changes(where=a > 1), "by name", "one selector for each table"),
    (lambda: changes("t", schema="*", where=a > 1), "by name", "one selector for each table"),
    (lambda: changes("*", select=["id"]), "by name", "one selector for each table"),
    (lambda: changes("t", select=["*"]), r"must not contain '\*'", "all columns"),
    (lambda: changes("t", select="id"), "select must be a list", ""),
    (lambda: changes("t", select=[]), "select must be a list", ""),
    (lambda: changes("t", select=5), "select must be a list", ""),
    (lambda: changes("t", filter="a=is.nul"), "must be null, true, false, or unknown", ""),
    (lambda: changes("t", filter="a=in.()"), "an empty list never matches", ""),
]


@pytest.mark.parametrize(("write", "expected", "hint"), REFUSED, ids=count())
def test_unsupported_expressions_are_refused_with_a_hint(write: Callable[[], Any], expected: str, hint: str):
    """An expression that the syntax does not support raises where it is written, with a hint."""
    with pytest.raises(InvalidArgumentError, match=expected) as caught:
        write()
    if hint:
        assert caught.value.hint is not None
        with pytest.raises(InvalidArgumentError, match=hint):
            raise caught.value


@pytest.mark.parametrize("written", ['a=match."("', "a=match.(", " a=not.match.( ", "a=in.(", "a=not.in.x"])
def test_a_refused_filter_is_quoted_as_it_was_written(written: str):
    """The error shows the user's text, not a reformatted one."""
    with pytest.raises(InvalidArgumentError) as caught:
        changes("t", filter=f"b=eq.1,{written}")
    assert written.strip() in caught.value.message


def test_a_refused_pattern_is_quoted_as_python():
    """The error shows the Python expression, because the user wrote no filter text."""
    with pytest.raises(InvalidArgumentError, match=r"col\('a'\)\.match\('\('\): invalid regular expression"):
        col("a").match("(")


def test_a_pattern_that_only_postgresql_supports_is_sent():
    """A pattern that the local server does not support without a database may work on a real server."""
    pattern = "(" + "a" * 100 + "){255}"
    assert str(col("a").match(pattern)) and changes("t", filter=f'a=match."{pattern}"').filter
