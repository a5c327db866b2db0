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

_MOST_DIGITS: Final = 131_072
_MOST_DECIMALS: Final = 16_383


def literal(column: str, value: object) -> str:
    """Return the text of a value. Raises: InvalidArgumentError, which names the column."""
    write = next((write for kind, write in _WRITE if isinstance(value, kind)), None)
    if write is None:
        raise _unfit(column, value)
    try:
        return write(value)
    except (ValueError, OverflowError) as error:
        raise InvalidArgumentError(f"{column}: {type(value).__name__} has no text for the server: {error}") from error


def text(column: str, value: str) -> str:
    """Check that a text can be sent and stored, and return it. Raises: InvalidArgumentError."""
    if "\0" in value:
        raise InvalidArgumentError(f"{column}: {value!r} has a NUL character, which PostgreSQL cannot store")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"{column}: {value!r} cannot be written as UTF-8: {error.reason}") from error
    return str.__str__(value)  # a member of a string enum may define another str()


def _unfit(column: str, value: object) -> InvalidArgumentError:
    kind = type(value).__name__
    if isinstance(value, Enum):
        return InvalidArgumentError(f"{column}: {value!r} is no value for the server", hint="Give its .value.")
    if isinstance(value, list | tuple | set | frozenset):
        return InvalidArgumentError(
            f"{column}: the server compares no arrays, and this is a {kind}",
            hint="For one of several values, col(…).in_([…]); for a jsonb column, its text: json.dumps(value).",
        )
    if isinstance(value, dict):
        return InvalidArgumentError(
            f"{column}: a dict has no text of its own", hint="For a jsonb column give its text: json.dumps(value)."
        )
    return InvalidArgumentError(
        f"{column}: a {kind} is no value that the server compares",
        hint="Give a str, int, float, Decimal, bool, datetime, date, time, timedelta, UUID, bytes or an IP address.",
    )


def _decimal(value: Decimal) -> str:
    if value.is_nan():
        return "NaN"
    if value.is_infinite():
        return "Infinity" if value > 0 else "-Infinity"
    exponent = value.as_tuple().exponent
    if value.adjusted() >= _MOST_DIGITS or (isinstance(exponent, int) and exponent < -_MOST_DECIMALS):
        raise ValueError(f"a numeric has at most {_MOST_DIGITS} digits before the point and {_MOST_DECIMALS} after it")
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
        raise ValueError(f"{value.tzinfo} has no offset without a date; give the time one, or none at all")
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
            raise _no_condition(other)
        return Where(self.conditions + other.conditions)

    def __invert__(self) -> "Where":
        """Negate the condition. Null still does not match, except with `is_` and `is_distinct_from`.

        Raises: InvalidArgumentError: there are several conditions; their negation would be an OR.
        """
        if len(self.conditions) != 1:
            raise InvalidArgumentError(
                f"~({self}) is an OR of the negated conditions, and the server has no OR",
                hint="Negate a condition alone, ~a & b; for either of several, one listener with several selectors.",
            )
        only = self.conditions[0]
        return Where((Condition(only.column, only.op, only.value, not only.negated),))

    def __str__(self) -> str:
        return ",".join(map(str, self.conditions))

    def __repr__(self) -> str:
        return " & ".join(map(_shown, self.conditions))

    if not TYPE_CHECKING:  # hidden from type checkers; at run time a hint is more helpful than a TypeError

        def __rand__(self, other: object) -> NoReturn:
            raise _no_condition(other)

        def __or__(self, other: object) -> NoReturn:
            raise InvalidArgumentError(
                "the server joins conditions by AND and has no OR",
                hint=(
                    "Listen to both, listen(changes(…, where=a), changes(…, where=b)): a row that fits both comes once."
                    " For one of several values, col(…).in_([…])."
                ),
            )

        __ror__ = __xor__ = __rxor__ = __or__

        def __bool__(self) -> NoReturn:
            raise InvalidArgumentError(
                f"whether {self!r} is true only the server knows, row by row",
                hint=f"and, or, not and chains such as 1 <= col('a') < 9 cannot be used. {JOIN} Negate with ~.",
            )


def filter_text(filter: str | None, where: Where | None) -> str | None:
    """Return the checked filter of a selector, given in one of two forms. Raises: InvalidArgumentError."""
    if where is None and filter is None:
        return None
    if where is None:
        if not isinstance(filter, str):
            raise InvalidArgumentError(f"filter must be a text, not {filter!r}", hint="Conditions go into where=.")
        check_writable("filter", filter)
        filter_syntax.check(filter)
        return filter
    if filter is not None:
        raise InvalidArgumentError(
            "filter= and where= both say which rows are wanted; give one of them",
            hint="str(where) is text for filter=.",
        )
    if not isinstance(where, Where):
        raise _no_condition(where)
    return str(where)


def _no_condition(given: object) -> InvalidArgumentError:
    hint = "A text goes into filter=; where= takes col('status') == 'open'." if isinstance(given, str) else JOIN
    return InvalidArgumentError(f"{given!r} is no condition made with col()", hint=hint)


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
    """A column of a table, made by `col`; comparing it with a value gives a condition (`Where`).

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
                f"{self.name}: is_ takes None, True, False or 'unknown', not {value!r}",
                hint="None is null."
                if null
                else "For other values compare with ==, or is_distinct_from where null counts as a value.",
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
                f"{self.name}: a comparison with null is never true", hint=f"Ask {negated}{self!r}.is_(None)."
            )
        return Where((Condition(self.name, op, self._value(value)),))

    def _value(self, value: object) -> str:
        if isinstance(value, FilterColumn):
            raise InvalidArgumentError(
                f"{self.name}: the server compares a column with a value, not with another column ({value!r})",
                hint="Compare them in the handler, or in a generated column of the table.",
            )
        if isinstance(value, Where):
            raise InvalidArgumentError(f"{self.name}: {value!r} is a condition, not a value", hint=JOIN)
        return text(self.name, value) if isinstance(value, str) else literal(self.name, value)

    def _items(self, values: Iterable[Scalar]) -> list[str]:
        if isinstance(values, str | bytes | bytearray) or not isinstance(values, Iterable):
            raise InvalidArgumentError(
                f"{self.name}: in_ takes a list of values, not {values!r}", hint=f"Write {self!r}.in_([…])."
            )
        given = list(islice(values, MAX_ITEMS + 1))
        if not given:
            raise InvalidArgumentError(
                f"{self.name}: an empty list never matches", hint="Without a value to wait for, add no listener."
            )
        if len(given) > MAX_ITEMS:
            raise InvalidArgumentError(
                f"{self.name}: in_ takes at most {MAX_ITEMS} values",
                hint="Share them out over several selectors of one listener, or ask for a range.",
            )
        if any(value is None for value in cast("list[Scalar | None]", given)):
            raise InvalidArgumentError(
                f"{self.name}: null is found in no list", hint=f"Add a selector with {self!r}.is_(None)."
            )
        items = [self._value(value) for value in given]
        return sorted(items) if isinstance(values, Set) else items  # equal sets give equal filters

    def _like(self, op: str, pattern: str) -> Where:
        where = self._pattern(op, pattern)
        if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
            raise InvalidArgumentError(
                f"{self.name}: {op} pattern {pattern!r} ends with an escape", hint="Write two for one backslash."
            )
        return where

    def _pattern(self, op: str, pattern: str) -> Where:
        if not isinstance(pattern, str):
            raise InvalidArgumentError(f"{self.name}: {op} takes a pattern as a str, not {type(pattern).__name__}")
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
                f"{value!r} in {self!r} cannot be asked", hint=f"For one of several values, {self!r}.in_([…])."
            )

        def __invert__(self) -> NoReturn:
            raise InvalidArgumentError(
                f"~{self!r}: a column is no condition", hint=f"Compare it first, as in ~{self!r}.is_(True)."
            )

        def __and__(self, other: object) -> NoReturn:
            raise InvalidArgumentError(f"{self!r} is a column, not a condition: & binds before a comparison", hint=JOIN)

        __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __and__


def col(name: str) -> FilterColumn:
    """Return the column of that name, for comparisons in `changes(where=…)`.

    Comparisons give a `Where`: `==`, `!=`, `<`, `<=`, `>`, `>=` with a Python value, `in_`, `is_`,
    `is_distinct_from`, `like`, `ilike`, `match`, `imatch`.
    Raises: InvalidArgumentError: a name that cannot be used in a filter.
    Wire: docs/protocol.md, Filters.
    """
    if not isinstance(name, str):
        raise InvalidArgumentError(f"a column's name is a str, not {type(name).__name__}")
    if not name:
        raise InvalidArgumentError("the column has no name")
    known = Condition(text("a column's name", name), "eq", "1")
    if '"' in name or not _survives(known):
        raise InvalidArgumentError(
            f"a column called {name!r} cannot be named in a filter, whose grammar has no quotes for names",
            hint="Filter such rows in the handler, or by a generated column with a plain name.",
        )
    return FilterColumn(known.column)


def _survives(condition: Condition) -> bool:
    """Return whether the condition can be parsed back, both as the first one and after another one."""
    try:
        return filter_syntax.parse(f"{condition},{condition}") == (condition, condition)
    except filter_syntax.FilterSyntaxError:
        return False
