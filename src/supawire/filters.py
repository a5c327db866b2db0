"""Filters written as Python expressions: `changes("orders", where=(col("total") >= 100) & col("note").is_(None))`.

An expression can contain what the server supports: comparisons of a column with a value, negated or not, joined by AND.
Other operators raise an error with a hint when they are used, and are hidden from type checkers.

Values are written as text. The server casts both the text in the filter and the JSON text of the row's value to the
column's type, so each text is one that PostgreSQL parses as exactly this value. See docs/protocol.md, Filters.
"""

from collections.abc import Callable, Iterable, Set
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeAlias, cast, get_args
from uuid import UUID

from msgspec import Struct

from supawire._validation import check_writable
from supawire._values import filter_syntax
from supawire._values.encode import to_wire
from supawire._values.filter_syntax import MAX_ITEMS, Condition
from supawire.errors import InvalidArgumentError

Network: TypeAlias = IPv4Address | IPv6Address | IPv4Interface | IPv6Interface | IPv4Network | IPv6Network
Scalar: TypeAlias = (
    str | int | float | Decimal | bool | datetime | date | time | timedelta | UUID | Network | bytes | bytearray
)
"""The types of values that a column can be compared with."""

_MAX_DIGITS: Final = 131_072
_MAX_DECIMALS: Final = 16_383


def literal(column: str, value: object) -> str:
    """Return the text of a value. Raises: InvalidArgumentError, which names the column."""
    write = next((write for kind, write in _WRITE if isinstance(value, kind)), None)
    if write is None:
        raise _unfit(column, value)
    try:
        return write(value)
    except (ValueError, OverflowError) as error:
        raise InvalidArgumentError(
            f"{column}: this {type(value).__name__} cannot be written as text: {error}"
        ) from error


def text(column: str, value: str) -> str:
    """Check that a text can be sent and stored, and return it. Raises: InvalidArgumentError."""
    if "\0" in value:
        raise InvalidArgumentError(f"{column}: {value!r} contains a NUL character, which PostgreSQL cannot store")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"{column}: {value!r} cannot be written as UTF-8: {error.reason}") from error
    return str.__str__(value)  # a member of a string enum may define another str()


def _unfit(column: str, value: object) -> InvalidArgumentError:
    kind = type(value).__name__
    if isinstance(value, Enum):
        return InvalidArgumentError(f"{column}: {value!r} is an enum member, not a value", hint="Pass its .value.")
    if isinstance(value, list | tuple | set | frozenset):
        return InvalidArgumentError(
            f"{column}: cannot compare with a {kind}; the server does not compare arrays",
            hint="For one of several values, use col(…).in_([…]); for a jsonb column, pass json.dumps(value).",
        )
    if isinstance(value, dict):
        return InvalidArgumentError(
            f"{column}: cannot compare with a dict", hint="For a jsonb column, pass json.dumps(value)."
        )
    return InvalidArgumentError(
        f"{column}: cannot compare with a {kind}",
        hint="Pass a str, int, float, Decimal, bool, datetime, date, time, timedelta, UUID, bytes or an IP address.",
    )


def _decimal(value: Decimal) -> str:
    if value.is_nan():
        return "NaN"
    if value.is_infinite():
        return "Infinity" if value > 0 else "-Infinity"
    exponent = value.as_tuple().exponent
    if value.adjusted() >= _MAX_DIGITS or (isinstance(exponent, int) and exponent < -_MAX_DECIMALS):
        raise ValueError(
            f"a numeric has at most {_MAX_DIGITS} digits before the decimal point and {_MAX_DECIMALS} after it"
        )
    return format(value, "f")


def _int(value: int) -> str:
    return _decimal(Decimal(value))  # Python refuses to convert an int of more than 4300 digits


def _float(value: float) -> str:
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))  # a float has no scale; every numeric type parses 10, but integers do not parse 10.0
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(written := float.__repr__(value), written)


def _moment(value: datetime) -> str:
    return (value if value.tzinfo is None else value.astimezone(UTC)).isoformat()


def _clock(value: time) -> str:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise ValueError(
            f"the offset of {value.tzinfo} depends on the date; pass a time with a fixed offset, or without one"
        )
    return value.isoformat()


_WRITE: Final[tuple[tuple[type | tuple[type, ...], Callable[[Any], str]], ...]] = (
    (bool, lambda value: "true" if value else "false"),  # first match: a bool is an int, a datetime is a date
    (int, _int),
    (float, _float),
    (Decimal, _decimal),
    (datetime, _moment),
    (date, date.isoformat),
    (time, _clock),
    (timedelta, to_wire),
    ((UUID, *get_args(Network)), str),
    ((bytes, bytearray), lambda value: value.hex()),  # the form used in rows; the cast treats both as text
)


Truth: TypeAlias = bool | Literal["unknown"] | None
"""Argument of `is_`."""

TRUTHS: Final[dict[str, Truth]] = {"null": None, "true": True, "false": False, "unknown": "unknown"}
JOIN: Final = "Put each comparison in parentheses and join them with &: (col('a') >= 1) & (col('b') == 2)."
_SIGNS: Final = {"eq": "==", "neq": "!=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_METHODS: Final = {
    "in": "in_", "is": "is_", "isdistinct": "is_distinct_from",
    "like": "like", "ilike": "ilike", "match": "match", "imatch": "imatch",
}  # fmt: skip


class Where(Struct, frozen=True):
    """Conditions that must all be true for a row; `str()` returns their text for the server.

    Combine with `&`; negate a single condition with `~`. Filters with the same text are equal and hashable.
    """

    conditions: tuple[Condition, ...]

    def __and__(self, other: "Where") -> "Where":
        """Return a filter that requires both."""
        if not isinstance(other, Where):
            raise _not_a_condition(other)
        return Where(self.conditions + other.conditions)

    def __invert__(self) -> "Where":
        """Negate the condition. Null still does not match, except with `is_` and `is_distinct_from`.

        Raises: InvalidArgumentError: several conditions, whose negation would be an OR.
        """
        if len(self.conditions) != 1:
            raise InvalidArgumentError(
                f"~({self}) is an OR of the negated conditions, and the server does not support OR",
                hint="Negate single conditions, as in ~a & b; for alternatives, pass several selectors to a listener.",
            )
        only = self.conditions[0]
        return Where((Condition(only.column, only.op, only.value, not only.negated),))

    def __str__(self) -> str:
        return ",".join(map(str, self.conditions))

    def __repr__(self) -> str:
        return " & ".join(map(_shown, self.conditions))

    if not TYPE_CHECKING:  # hidden from type checkers; at run time a hint is more helpful than a TypeError

        def __rand__(self, other: object) -> NoReturn:
            raise _not_a_condition(other)

        def __or__(self, other: object) -> NoReturn:
            raise InvalidArgumentError(
                "conditions can be combined with & only; the server does not support OR",
                hint=(
                    "Pass two selectors, listen(changes(…, where=a), changes(…, where=b)); a row that matches both"
                    " arrives once."
                    " For one of several values, use col(…).in_([…])."
                ),
            )

        __ror__ = __xor__ = __rxor__ = __or__

        def __bool__(self) -> NoReturn:
            raise InvalidArgumentError(
                f"{self!r} has no truth value: the server evaluates it for each row",
                hint=f"and, or, not and chains such as 1 <= col('a') < 9 cannot be used. {JOIN} Negate with ~.",
            )


def filter_text(filter: str | None, where: Where | None) -> str | None:
    """Return the checked filter of a selector, given in one of two forms. Raises: InvalidArgumentError."""
    if where is None and filter is None:
        return None
    if where is None:
        if not isinstance(filter, str):
            raise InvalidArgumentError(f"filter must be a string, not {filter!r}", hint="Pass conditions as where=.")
        check_writable("filter", filter)
        filter_syntax.check(filter)
        return filter
    if filter is not None:
        raise InvalidArgumentError(
            "filter= and where= exclude each other; pass one of them",
            hint="str(where) is the text for filter=.",
        )
    if not isinstance(where, Where):
        raise _not_a_condition(where)
    return str(where)


def _not_a_condition(given: object) -> InvalidArgumentError:
    hint = (
        "Pass a text as filter=, and a condition such as col('status') == 'open' as where=."
        if isinstance(given, str)
        else JOIN
    )
    return InvalidArgumentError(f"{given!r} is not a condition created with col()", hint=hint)


def _shown(condition: Condition) -> str:
    """Format the condition as Python code, with its value as the text that is sent."""
    value: object = condition.value
    if condition.op == "in":
        value = list(condition.items)
    elif condition.op == "is":
        value = TRUTHS[condition.value]
    column, sign = f"col({condition.column!r})", _SIGNS.get(condition.op)
    shown = f"({column} {sign} {value!r})" if sign else f"{column}.{_METHODS[condition.op]}({value!r})"
    return f"~{shown}" if condition.negated else shown


__all__ = ["FilterColumn", "Scalar", "Truth", "Where", "col"]


class FilterColumn(Struct, frozen=True, eq=False):
    """A column of a table, created by `col`; comparing it with a value gives a condition (`Where`).

    As in SQL, null matches no comparison, list or pattern, negated or not: see `is_` and `is_distinct_from`.
    """

    name: str

    def __eq__(self, value: Scalar) -> Where:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._compare("eq", value)

    def __ne__(self, value: Scalar) -> Where:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._compare("neq", value)

    def __lt__(self, value: Scalar) -> Where:
        return self._compare("lt", value)

    def __le__(self, value: Scalar) -> Where:
        return self._compare("lte", value)

    def __gt__(self, value: Scalar) -> Where:
        return self._compare("gt", value)

    def __ge__(self, value: Scalar) -> Where:
        return self._compare("gte", value)

    def __hash__(self) -> int:
        return object.__hash__(self)  # columns of the same name are not equal: comparing them raises an error

    def in_(self, values: Iterable[Scalar]) -> Where:
        """Match one of these values, at most 100.

        Raises: InvalidArgumentError: no value, too many, null, or one that the server cannot compare.
        """
        return Where((Condition(self.name, "in", filter_syntax.in_list(self._items(values))),))

    def is_(self, value: Truth) -> Where:
        """Match null (None), or for a boolean column True, False or "unknown", which is null; negate with `~`."""
        named = [name for name, truth in TRUTHS.items() if truth is value or (truth == value == "unknown")]
        if not named:
            null = str(value).lower() in {"null", "none"}
            raise InvalidArgumentError(
                f"{self.name}: the argument of is_ must be None, True, False or 'unknown', not {value!r}",
                hint="Pass None for null."
                if null
                else "Compare other values with ==, or with is_distinct_from to treat null as a value.",
            )
        return Where((Condition(self.name, "is", named[0]),))

    def is_distinct_from(self, value: Scalar) -> Where:
        """Match values that differ, treating null as a value: like `!=`, but null matches too; with `~` like `==`."""
        return self._compare("isdistinct", value)

    def like(self, pattern: str) -> Where:
        r"""Match text against a pattern: `%` is any text, `_` any character; a `\` before them makes them literal."""
        return self._like("like", pattern)

    def ilike(self, pattern: str) -> Where:
        """Like `like`, ignoring case."""
        return self._like("ilike", pattern)

    def match(self, pattern: str) -> Where:
        """Match text that contains this POSIX regular expression, PostgreSQL's `~`."""
        return self._pattern("match", pattern)

    def imatch(self, pattern: str) -> Where:
        """Like `match`, ignoring case, PostgreSQL's `~*`."""
        return self._pattern("imatch", pattern)

    def __repr__(self) -> str:
        return f"col({self.name!r})"

    def _compare(self, op: str, value: object) -> Where:
        if value is None:
            negated = "~" if op in {"neq", "isdistinct"} else ""
            raise InvalidArgumentError(
                f"{self.name}: a comparison with null is never true", hint=f"Write {negated}{self!r}.is_(None)."
            )
        return Where((Condition(self.name, op, self._value(value)),))

    def _value(self, value: object) -> str:
        if isinstance(value, FilterColumn):
            raise InvalidArgumentError(
                f"{self.name}: cannot compare with another column ({value!r}); the server compares columns with values",
                hint="Compare them in the handler, or in a generated column of the table.",
            )
        if isinstance(value, Where):
            raise InvalidArgumentError(f"{self.name}: {value!r} is a condition, not a value", hint=JOIN)
        return text(self.name, value) if isinstance(value, str) else literal(self.name, value)

    def _items(self, values: Iterable[Scalar]) -> list[str]:
        if isinstance(values, str | bytes | bytearray) or not isinstance(values, Iterable):
            raise InvalidArgumentError(
                f"{self.name}: the argument of in_ must be a list of values, not {values!r}",
                hint=f"Write {self!r}.in_([…]).",
            )
        given = list(islice(values, MAX_ITEMS + 1))
        if not given:
            raise InvalidArgumentError(f"{self.name}: an empty list never matches", hint="Pass at least one value.")
        if len(given) > MAX_ITEMS:
            raise InvalidArgumentError(
                f"{self.name}: in_ accepts at most {MAX_ITEMS} values",
                hint="Distribute them over several selectors of one listener, or compare with a range.",
            )
        if any(value is None for value in cast("list[Scalar | None]", given)):
            raise InvalidArgumentError(
                f"{self.name}: null never matches an item of a list", hint=f"Add a selector with {self!r}.is_(None)."
            )
        items = [self._value(value) for value in given]
        return sorted(items) if isinstance(values, Set) else items  # equal sets give equal filters

    def _like(self, op: str, pattern: str) -> Where:
        where = self._pattern(op, pattern)
        if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
            raise InvalidArgumentError(
                f"{self.name}: the pattern {pattern!r} of {op} ends with an escape",
                hint="Write two backslashes for a literal one.",
            )
        return where

    def _pattern(self, op: str, pattern: str) -> Where:
        if not isinstance(pattern, str):
            raise InvalidArgumentError(
                f"{self.name}: the pattern of {op} must be a string, not {type(pattern).__name__}"
            )
        condition = Condition(self.name, op, text(self.name, pattern))
        filter_syntax.check_condition(condition, f"{self!r}.{op}({pattern!r})")
        return Where((condition,))

    if not TYPE_CHECKING:  # hidden from type checkers; at run time a hint is more helpful than a TypeError

        def __bool__(self) -> NoReturn:
            raise InvalidArgumentError(
                f"{self!r} is a column, not a condition", hint=f"Compare it, as in {self!r} == 1 or {self!r}.is_(True)."
            )

        def __contains__(self, value: object) -> NoReturn:
            raise InvalidArgumentError(
                f"{value!r} in {self!r} is not supported", hint=f"For one of several values, use {self!r}.in_([…])."
            )

        def __invert__(self) -> NoReturn:
            raise InvalidArgumentError(
                f"~{self!r} negates a column, not a condition", hint=f"Compare it first, as in ~{self!r}.is_(True)."
            )

        def __and__(self, other: object) -> NoReturn:
            raise InvalidArgumentError(
                f"{self!r} is a column, not a condition: & binds more tightly than a comparison", hint=JOIN
            )

        __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __and__


def col(name: str) -> FilterColumn:
    """Return the column of that name, for comparisons in `changes(where=…)`.

    Comparisons give a `Where`: `==`, `!=`, `<`, `<=`, `>`, `>=` with a Python value, `in_`, `is_`,
    `is_distinct_from`, `like`, `ilike`, `match`, `imatch`.
    Raises: InvalidArgumentError: a name that cannot be used in a filter.
    Wire: docs/protocol.md, Filters.
    """
    if not isinstance(name, str):
        raise InvalidArgumentError(f"the name of a column must be a string, not {type(name).__name__}")
    if not name:
        raise InvalidArgumentError("the name of a column must not be empty")
    condition = Condition(text("the name of a column", name), "eq", "1")
    if '"' in name or not _survives(condition):
        raise InvalidArgumentError(
            f"the column name {name!r} cannot be used in a filter, because its syntax has no quotes for names",
            hint="Filter the rows in the handler, or add a generated column with a plain name.",
        )
    return FilterColumn(condition.column)


def _survives(condition: Condition) -> bool:
    """Return whether the condition can be parsed back, both as the first one and after another one."""
    try:
        return filter_syntax.parse(f"{condition},{condition}") == (condition, condition)
    except filter_syntax.FilterSyntaxError:
        return False
