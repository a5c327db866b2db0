"""Tables of filters: the text that each expression sends, and the errors for those that cannot be sent.

All of it is computed by the library.
"""

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
    ('col("status").is_distinct_from("open")', "`status IS DISTINCT FROM 'open'`: another value, or null"),
    ('~col("status").is_distinct_from("open")', "`status IS NOT DISTINCT FROM 'open'`"),
    ('col("note").is_(None)', "`note IS NULL`"),
    ('~col("note").is_(None)', "`note IS NOT NULL`"),
    ('col("done").is_(True)', '`done IS TRUE`; also `False` and `"unknown"` (null); boolean columns only'),
    ('~col("done").is_(True)', "`done IS NOT TRUE`: false or null"),
    ('col("name").like("a%")', "`name LIKE 'a%'`: `%` is any text, `_` one character; text columns only"),
    ('col("name").ilike("a%")', "`name ILIKE 'a%'`, ignoring case"),
    ('col("name").match("^a|b$")', "`name ~ '^a|b$'`, a regular expression that matches anywhere; text columns only"),
    ('col("name").imatch("^a")', "`name ~* '^a'`, ignoring case"),
    ('~col("name").like("a%")', "`NOT name LIKE 'a%'`; `~` negates each operator"),
    ('(col("total") >= 10) & (col("total") < 20)', "`total >= 10 AND total < 20`; any number of conditions"),
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
    """Return the table of operators: Python, wire, SQL, and whether a row with null in the column is sent."""
    lines: list[list[str]] = []
    for expression, meaning in OPERATORS:
        where = _evaluated(expression)
        selector = changes("orders", where=where)
        assert isinstance(selector, ChangesSelector)
        null = matches(where.conditions, dict.fromkeys((condition.column for condition in where.conditions), None))
        lines.append([f"`{expression}`", f"`{selector.filter}`", meaning, "yes" if null else "no"])
    return rows(["Python", "on the wire", "in SQL", "null matches"], lines)


@table("filter-values")
def values() -> str:
    """Return the table of values of each type with their texts."""
    lines = [[f"`{value}`", f"`{col('a') == _evaluated(value)}`"] for value in VALUES]
    return rows(['`col("a") == …`', "on the wire"], lines)


@table("filter-refusals")
def refusals() -> str:
    """Return the table of expressions that cannot be sent, with their errors and hints."""
    lines: list[list[str]] = []
    for expression in REFUSED:
        try:
            _evaluated(expression)
        except InvalidArgumentError as error:
            lines.append([f"`{expression}`", error.message, error.hint or ""])
    return rows(["Python", "`InvalidArgumentError`", "instead"], lines)
