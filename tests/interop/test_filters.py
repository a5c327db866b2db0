"""Filters of the official JavaScript client and of ours have the same meaning for the server."""

from itertools import product
from typing import Any, Final

import pytest

from supawire import Where, col
from supawire._values.filter_syntax import OPERATORS, check, parse

from .official import Process

pytestmark = pytest.mark.slow

TEXTS: Final = (
    "open", "", " outer ", "a,b", "a(b", "a)b", "(a)", 'say "hi"', '"', "\\", 'C:\\"x"\\', "not.eq.1", "12:30.5", "a=b",
    "null", "NULL", "é☃😀", "line\nbreak", "50%_", "{1,2}", ",,", "eq.(", "\u2003wide\u2003",
)  # fmt: skip
VALUES: Final = (7, -1.5, 10.0, True, False, 2**53)
COMPARISONS: Final = ("eq", "neq", "lt", "lte", "gt", "gte", "isdistinct")


def built(op: str, value: Any, negated: bool) -> Where:
    column = col("c")
    made: dict[str, Any] = {
        "eq": column.__eq__, "neq": column.__ne__, "lt": column.__lt__, "lte": column.__le__, "gt": column.__gt__,
        "gte": column.__ge__, "isdistinct": column.is_distinct_from, "in": column.in_, "is": column.is_,
        "like": column.like, "ilike": column.ilike, "match": column.match, "imatch": column.imatch,
    }  # fmt: skip
    where: Where = made[op](value)
    return ~where if negated else where


def cases() -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = list(product(COMPARISONS, TEXTS + VALUES))
    found += [(op, text) for op in ("like", "ilike") for text in TEXTS if not text.endswith("\\")]
    found += [(op, pattern) for op in ("match", "imatch") for pattern in ("^a,b$", "[(]", '"', r"a\.b", " x", "")]
    found += [("is", value) for value in (None, True, False, "unknown")]
    found += [("in", list(items)) for items in (VALUES[:3], ["open", "a,b"], ['say "hi"', "a(b"], ["é☃😀", "a=b"])]
    return found


def test_both_builders_create_equal_conditions(official_javascript: Process):
    """For every operator, negated or not, and values with special characters, the conditions are equal."""
    every = [(op, value, negated) for op, value in cases() for negated in (False, True)]
    assert {op for op, _, _ in every} == set(OPERATORS)
    requests = [[{"column": "c", "op": op, "value": value, "negated": negated}] for op, value, negated in every]
    theirs: list[str] = official_javascript.request("filters", conditions=requests)
    differing = [
        (text, str(where))
        for text, (op, value, negated) in zip(theirs, every, strict=True)
        if meaning(text) != meaning(str(where := built(op, value, negated)))
    ]
    assert differing == []


def meaning(text: str) -> list[Any]:
    """Return the conditions of a text; items of lists without quotes, of which there may be unnecessary ones."""
    return [
        (
            condition.column,
            condition.op,
            condition.negated,
            condition.items if condition.op == "in" else condition.value,
        )
        for condition in check(text)
    ]


def test_joined_conditions_have_the_same_text(official_javascript: Process):
    """Several conditions are joined to the same text."""
    requests = [{"column": f"c{n}", "op": "eq", "value": text, "negated": False} for n, text in enumerate(TEXTS)]
    (theirs,) = official_javascript.request("filters", conditions=[requests])
    ours = col("c0") == TEXTS[0]
    for n, text in enumerate(TEXTS[1:], 1):
        ours &= col(f"c{n}") == text
    assert theirs == str(ours)
    assert parse(theirs) == ours.conditions
