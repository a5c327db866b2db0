"""Filters: what each expression sends, and what is said to one that cannot be sent; all of it asked of the code."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import ip_address
from typing import Any, Final
from uuid import UUID

from docs.tables import rows, table
from supawire import InvalidArgumentError, changes, col
from supawire._values.filter_syntax import matches
from supawire.selectors import ChangesSelector

NAMES: Final[dict[str, Any]] = {
    "changes": changes, "col": col, "date": date, "datetime": datetime, "Decimal": Decimal, "time": time,
    "ip_address": ip_address, "timedelta": timedelta, "UTC": UTC, "UUID": UUID,
}  # fmt: skip

OPERATORS: Final = (
    ('col("total") == 10', "`total = 10`"),
    ('col("total") != 10', "`total <> 10`"),
    ('col("total") < 10', "`total < 10`"),
    ('col("total") <= 10', "`total <= 10`"),
    ('col("total") > 10', "`total > 10`"),
    ('col("total") >= 10', "`total >= 10`"),
    ('col("status").in_(["open", "paid"])', "`status IN ('open', 'paid')`, at most 100 values"),
    ('col("status").is_distinct_from("open")', "`status IS DISTINCT FROM 'open'`: unlike it, or null"),
    ('~col("status").is_distinct_from("open")', "`status IS NOT DISTINCT FROM 'open'`"),
    ('col("note").is_(None)', "`note IS NULL`"),
    ('~col("note").is_(None)', "`note IS NOT NULL`"),
    ('col("done").is_(True)', '`done IS TRUE`; also `False` and `"unknown"`, which is null; boolean columns only'),
    ('~col("done").is_(True)', "`done IS NOT TRUE`: false or null"),
    ('col("name").like("a%")', "`name LIKE 'a%'`: `%` is any text, `_` one character; text columns only"),
    ('col("name").ilike("a%")', "`name ILIKE 'a%'`, upper and lower case alike"),
    ('col("name").match("^a|b$")', "`name ~ '^a|b$'`, a regular expression found anywhere; text columns only"),
    ('col("name").imatch("^a")', "`name ~* '^a'`, upper and lower case alike"),
    ('~col("name").like("a%")', "`NOT name LIKE 'a%'`; `~` goes before each of them"),
    ('(col("total") >= 10) & (col("total") < 20)', "`total >= 10 AND total < 20`; any number"),
)

VALUES: Final = (
    '"open"', '"a,b (c)"', "'say \"hi\"'", '""', "10", "1.5", 'Decimal("10.50")', "True",
    "datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)", "datetime(2026, 1, 2, 3, 4, 5)", "date(2026, 1, 2)", "time(3, 4, 5)",
    "timedelta(hours=26)", "UUID(int=1)", 'ip_address("10.0.0.1")', 'b"\\xde\\xad"',
)  # fmt: skip

REFUSED: Final = (
    '(col("a") > 1) | (col("b") > 2)',
    '~((col("a") > 1) & (col("b") > 2))',
    '(col("a") > 1) and (col("b") > 2)',
    '1 <= col("a") < 9',
    'col("a") > 1 & col("b") > 2',
    'col("a") == col("b")',
    'col("a") == None',
    'col("a") == [1, 2]',
    'col("a").in_([])',
    'col("a").in_([1, None])',
    'col("a").is_("null")',
    'changes("orders", where=col("a") > 1, filter="b=eq.2")',
)


def _evaluated(expression: str) -> Any:
    return eval(expression, dict(NAMES))


@table("filter-operators")
def operators() -> str:
    """Every operator: Python, wire, SQL, and whether a row with null in the column comes."""
    lines: list[list[str]] = []
    for expression, meaning in OPERATORS:
        where = _evaluated(expression)
        selector = changes("orders", where=where)
        assert isinstance(selector, ChangesSelector)
        null = matches(where.conditions, dict.fromkeys((condition.column for condition in where.conditions), None))
        lines.append([f"`{expression}`", f"`{selector.filter}`", meaning, "yes" if null else "no"])
    return rows(["Python", "on the wire", "in SQL", "null comes"], lines)


@table("filter-values")
def values() -> str:
    """Values of each type, and their texts."""
    lines = [[f"`{value}`", f"`{col('a') == _evaluated(value)}`"] for value in VALUES]
    return rows(['`col("a") == …`', "on the wire"], lines)


@table("filter-refusals")
def refusals() -> str:
    """What cannot be expressed, and what is said to it."""
    lines: list[list[str]] = []
    for expression in REFUSED:
        try:
            _evaluated(expression)
        except InvalidArgumentError as error:
            lines.append([f"`{expression}`", error.message, error.hint or ""])
    return rows(["Python", "`InvalidArgumentError`", "instead"], lines)
