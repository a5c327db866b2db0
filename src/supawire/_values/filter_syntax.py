"""Parse, format and check the text of `changes(filter=…)` and, for the local server, evaluate it.

    filter    := condition ("," condition)*                 all must match
    condition := column "=" ["not."] op "." value
    value     := text, or a quoted text; for in: "(" item ("," item)* ")"

In a quoted text, quotes and backslashes are escaped by a backslash. `parse` accepts exactly what the server's parser
accepts; `check` also refuses what the server would refuse on subscribing to any table. See docs/protocol.md, Filters.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from supawire._values import compare
from supawire._values.encode import inferred_type, to_wire
from supawire._values.rows import read_array
from supawire.errors import InvalidArgumentError

__all__ = [
    "MAX_ITEMS",
    "OPERATORS",
    "Condition",
    "FilterSyntaxError",
    "check",
    "check_condition",
    "in_list",
    "matches",
    "parse",
    "problem",
]

OPERATORS: Final = (
    "eq", "neq", "lt", "lte", "gt", "gte", "in", "like", "ilike", "is", "match", "imatch", "isdistinct",
)  # fmt: skip
MAX_ITEMS: Final = 100
_IS_VALUES: Final = ("null", "true", "false", "unknown")
_BLANKS: Final = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_REFUSED: Final = "ERROR P0001 (raise_exception) "


class FilterSyntaxError(InvalidArgumentError):
    """A filter that cannot be parsed.

    `parts`: the parsed pieces that the server's text lists, if any; `server_text`: the server's exact error text.
    """

    def __init__(
        self, message: str = "", *, parts: tuple[str, ...] = (), server_text: str = "", **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.parts = parts
        self.server_text = server_text


class Condition(Struct, frozen=True):
    """One condition; `str()` formats it. value: without quotes; for `in` the text between the parentheses."""

    column: str
    op: str
    value: str
    negated: bool = False

    @property
    def wire_value(self) -> str:
        """The value as the server stores it: for `in` an array literal."""
        return "{" + self.value + "}" if self.op == "in" else self.value

    @property
    def items(self) -> tuple[str | None, ...]:
        """The items of an `in`, None for NULL. Raises: InvalidArgumentError when the list cannot be parsed."""
        try:
            return tuple(cast("list[str | None]", read_array(self.wire_value)))
        except ValueError as error:
            raise InvalidArgumentError(f"{self.column}: ({self.value}) is not a valid list: {error}") from error

    def __str__(self) -> str:
        value = f"({self.value})" if self.op == "in" else _written(self.value)
        return f"{self.column}={'not.' if self.negated else ''}{self.op}.{value}"


def _written(value: str) -> str:
    if value == value.strip(_BLANKS) and not any(mark in value for mark in ',()"\\'):
        return value
    return _quoted(value)


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


_PLAIN_ITEM: Final = re.compile(r"(?!null\Z)[\w.:+@/-]+", re.IGNORECASE)


def in_list(items: Iterable[str | None]) -> str:
    """Format texts as the value of an `in` condition, quoted where necessary."""
    return ",".join("NULL" if item is None else _item(item) for item in items)


def _item(item: str) -> str:
    return item if _PLAIN_ITEM.fullmatch(item) else _quoted(item)


# --- reading --------------------------------------------------------------------------------------------------------


def parse(text: str) -> tuple[Condition, ...]:
    """Parse a filter into its conditions; a blank one has none. Raises: FilterSyntaxError."""
    return tuple(map(_condition, _parts(text)))


def _parts(text: str) -> list[str]:
    text = text.strip(_BLANKS)
    return [part.strip(_BLANKS) for part in _split(text)] if text else []


def _split(text: str) -> Iterator[str]:
    """Split at commas outside of parentheses and quotes.

    A quote opens only directly after `.`, `(` or an inner comma.
    """
    start = depth = at = 0
    before = ""
    while at < len(text):
        mark = text[at]
        if mark == '"' and before in {".", "(", ","}:
            at = _end_of_quote(text, at + 1)
        elif mark == "(":
            depth += 1
        elif mark == ")":
            depth = max(0, depth - 1)
        elif mark == "," and not depth:
            yield text[start:at]
            start, mark = at + 1, ""
        before = mark
        at += 1
    yield text[start:]


def _end_of_quote(text: str, at: int) -> int:
    while at < len(text) and text[at] != '"':
        at += 2 if text[at] == "\\" and at + 1 < len(text) else 1
    return at


_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


def _condition(text: str) -> Condition:
    if not text:
        raise _refusal("the filter has an empty condition; remove the extra comma", reason=_EMPTY)
    column, equals, rest = text.partition("=")
    if not equals:
        raise _refusal(f"{text!r} has no '='; write column=op.value, as in status=eq.open", text)
    negated = rest.startswith("not.")
    op, dot, value = rest.removeprefix("not.").partition(".")
    if not dot:
        raise _refusal(f"{text!r} has no '.' after the operator; write column=op.value, as in status=eq.open", op)
    if op not in OPERATORS:
        from difflib import get_close_matches  # slow to import, and only needed for errors

        near = get_close_matches(op, OPERATORS, n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise _refusal(f"unknown operator {op!r}; expected one of {', '.join(OPERATORS)}{meant}", op, value)
    if op != "in":
        return Condition(column, op, _unquoted(value), negated)
    if len(value) < 2 or not (value.startswith("(") and value.endswith(")")):
        raise _refusal(
            f"the list in {text} must be in parentheses: {column}={'not.' * negated}in.(a,b)", reason=_NO_LIST
        )
    return Condition(column, op, value[1:-1], negated)


_EMPTY: Final = "filter must not contain empty segments (check for extra commas)"
_NO_LIST: Final = "`in` filter value must be wrapped by parentheses"


def _refusal(message: str, *parts: str, reason: str | None = None) -> FilterSyntaxError:
    shown = reason or "[" + ", ".join(msgspec.json.encode(part).decode() for part in parts) + "]"
    return FilterSyntaxError(message, parts=parts, server_text=f"Error parsing `filter` params: {shown}")


def _unquoted(value: str) -> str:
    """Remove the quotes that enclose the whole value; other values are unchanged."""
    if not value.startswith('"') or len(value) < 2 or _end_of_quote(value, 1) != len(value) - 1:
        return value
    return _ESCAPED.sub(r"\1", value[1:-1])


# --- checking -------------------------------------------------------------------------------------------------------


def check(text: str) -> tuple[Condition, ...]:
    """Parse and check a filter. Raises: InvalidArgumentError, also for a filter that no table can satisfy."""
    parts = _parts(text)
    conditions = tuple(map(_condition, parts))
    for condition, part in zip(conditions, parts, strict=True):
        check_condition(condition, part)
    return conditions


_OF_POSTGRES: Final = re.compile(r"\A\*\*\*|\(\?|\[\[|\[[:.=]|\\(?![dswDSW])\w|\{,|--|&&|~~|\|\|")
"""Syntax of PostgreSQL's regular expressions that Python's interpret differently."""


def check_condition(condition: Condition, written: str | None = None) -> None:
    """Check a condition; `written`: the user's text of it, for error texts.

    Raises: InvalidArgumentError: no table can satisfy it, or the server refuses it for every table.

    A regular expression is checked only where PostgreSQL's and Python's syntax agree.
    """
    if not condition.column:
        raise InvalidArgumentError(f"the condition {written or str(condition)!r} has an empty column name")
    written = written or str(condition)
    if condition.op == "in" and not condition.items:
        raise InvalidArgumentError(f"{written}: an empty list never matches")
    if condition.op in {"match", "imatch"} and (
        _OF_POSTGRES.search(condition.value) or compare.needs_postgres(condition.op, condition.value)
    ):
        return
    found = problem(condition)
    if found:
        raise InvalidArgumentError(f"{written}: {found.partition(') ')[2]}")


def problem(condition: Condition, kind: str | None = None) -> str | None:
    """Return PostgreSQL's error for subscribing to this condition, as quoted in the server's message; None if valid.

    kind: the type of the column as named in the catalog, None when unknown.
    """
    op, value = condition.op, condition.value
    if op == "is":
        return _problem_of_is(value, kind)
    if op == "in":
        return _problem_of_list(condition, kind)
    sql_name = compare.SQL_NAMES.get(kind or "", kind)
    if op in {"like", "ilike", "match", "imatch"}:
        try:
            compare.pattern(op, "text", value)
        except ValueError as error:
            if op in {"match", "imatch"}:
                return f"{_REFUSED}invalid regular expression for {op} filter: invalid regular expression: {error}"
        if kind is not None and kind not in compare.TEXT_TYPES:
            return f"{_REFUSED}operator {op} requires a text-compatible column type, got {sql_name}"
        return None
    return None if kind is None or op == "isdistinct" else _problem_of_value(value, kind)


def _problem_of_is(value: str, kind: str | None) -> str | None:
    if value not in _IS_VALUES:
        return f"{_REFUSED}invalid value for is filter: must be null, true, false, or unknown"
    if value != "null" and kind not in {None, "bool"}:
        sql_name = compare.SQL_NAMES.get(kind or "", kind)
        return f"{_REFUSED}is {value} filter requires a boolean column, got {sql_name}"
    return None


def _problem_of_list(condition: Condition, kind: str | None) -> str | None:
    try:
        items = condition.items
    except InvalidArgumentError:
        return f'ERROR 22P02 (invalid_text_representation) malformed array literal: "{condition.wire_value}"'
    if len(items) > MAX_ITEMS:
        return f"{_REFUSED}too many values for `in` filter. Maximum {MAX_ITEMS}"
    if kind is None:
        return None
    return next((found for item in items if item is not None and (found := _problem_of_value(item, kind))), None)


def _problem_of_value(value: str, kind: str) -> str | None:
    name = compare.SQL_NAMES.get(kind, kind)
    try:
        compare.to_comparable(kind, value)
    except OverflowError as error:
        return f"ERROR 22003 (numeric_value_out_of_range) {error}"
    except (ValueError, RecursionError):
        about_time = kind.startswith(("time", "date"))
        code = "22007 (invalid_datetime_format)" if about_time else "22P02 (invalid_text_representation)"
        return f'ERROR {code} invalid input syntax for type {name}: "{value}"'
    return None


# --- evaluating -----------------------------------------------------------------------------------------------------


def matches(conditions: Iterable[Condition], row: Mapping[str, Any], columns: Mapping[str, str] | None = None) -> bool:
    """Return whether every condition is true for the row: wire values or Python values by column.

    columns: the types by name; missing ones are inferred from the value. A condition is false if the row lacks the
    column, if the value is NULL (except with `is` and `isdistinct`), or if it is not a value of the column's type.
    """
    return all(_matches(condition, row, columns or {}) for condition in conditions)


def _matches(condition: Condition, row: Mapping[str, Any], columns: Mapping[str, str]) -> bool:
    if condition.column not in row:
        return False
    given = row[condition.column]
    kind = columns.get(condition.column) or inferred_type(given)
    value = to_wire(given)
    if value is None:
        return _matches_null(condition)
    try:
        found = compare.compare(condition.op, kind, value, condition.wire_value)
    except (ValueError, TypeError, ArithmeticError, RecursionError):
        return False
    return found is not None and found is not condition.negated


def _matches_null(condition: Condition) -> bool:
    if condition.op == "is" and condition.value in _IS_VALUES:
        return (condition.value in {"null", "unknown"}) is not condition.negated
    if condition.op == "in":
        return condition.negated and not condition.value.strip(_BLANKS)  # null is definitely not in an empty list
    return condition.op == "isdistinct" and not condition.negated
