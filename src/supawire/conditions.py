"""Filters written as Python expressions: `changes("orders", where=(col("total") >= 100) & col("note").is_(None))`.

An expression is the conditions that the server can be asked for and nothing else (protocol §4.2): a column against a
value, negated or not, and any number of these joined by AND, which is `_where`. `_literals` writes the values, and
`filters` the conditions.
"""

from collections.abc import Iterable, Set
from itertools import islice
from typing import TYPE_CHECKING, NoReturn, cast

from msgspec import Struct

from supawire import filters
from supawire._literals import Scalar, literal, text
from supawire._where import JOIN, TRUTHS, Truth, Where
from supawire.errors import InvalidArgumentError
from supawire.filters import MAX_ITEMS, Condition

__all__ = ["FilterColumn", "Scalar", "Truth", "Where", "col"]


class FilterColumn(Struct, frozen=True, eq=False):
    """A column of a table, from `col`: compared with a value it is a condition, a `Where`.

    Null matches no comparison, list or pattern, negated or not, as in SQL: see `is_` and `is_distinct_from`.
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
        return object.__hash__(self)  # two of one name are not equal: comparing them is a mistake that raises

    def in_(self, values: Iterable[Scalar]) -> Where:
        """One of these values, at most 100.

        Raises: InvalidArgumentError: no value, too many, null, or one that the server does not compare.
        """
        return Where((Condition(self.name, "in", filters.in_list(self._items(values))),))

    def is_(self, value: Truth) -> Where:
        """Null (None), or for a boolean column True, False or "unknown", which is null; `~` for is not."""
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
        """Unlike this value, where null is one more value: `!=` that matches null too; with `~` it is `==`."""
        return self._compare("isdistinct", value)

    def like(self, pattern: str) -> Where:
        r"""Text that matches: `%` stands for any text, `_` for one character, `\` before them for themselves."""
        return self._like("like", pattern)

    def ilike(self, pattern: str) -> Where:
        """`like`, where upper and lower case are the same."""
        return self._like("ilike", pattern)

    def match(self, pattern: str) -> Where:
        """Text in which this POSIX regular expression is found, PostgreSQL's `~`."""
        return self._pattern("match", pattern)

    def imatch(self, pattern: str) -> Where:
        """`match`, where upper and lower case are the same, PostgreSQL's `~*`."""
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
        return sorted(items) if isinstance(values, Set) else items  # equal sets are equal filters

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
        filters.check_condition(condition, f"{self!r}.{op}({pattern!r})")
        return Where((condition,))

    if not TYPE_CHECKING:  # to a checker they are not there; at run time a hint says more than a TypeError

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
    """The column of that name, to be compared in `changes(where=…)`.

    Comparisons give a `Where`: `==`, `!=`, `<`, `<=`, `>`, `>=` with a Python value, `in_`, `is_`,
    `is_distinct_from`, `like`, `ilike`, `match`, `imatch`.
    Raises: InvalidArgumentError: a name that no filter can have.
    Wire: protocol §4.2.
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
    """Whether the condition is read back, first and after another one."""
    try:
        return filters.parse(f"{condition},{condition}") == (condition, condition)
    except filters.FilterSyntaxError:
        return False
