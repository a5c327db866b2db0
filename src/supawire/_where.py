"""What stands in `changes(where=…)`: conditions joined by AND, as `conditions.col` makes them.

Beyond that Python can write what the server has no word for. It is refused where it is written, with a word on what to
do instead; to a checker these operators are not even there.
"""

from typing import TYPE_CHECKING, Final, Literal, NoReturn, TypeAlias

from msgspec import Struct

from supawire import filters
from supawire._checks import check_writable
from supawire.errors import InvalidArgumentError
from supawire.filters import Condition

Truth: TypeAlias = bool | Literal["unknown"] | None
"""What `is_` asks for."""

TRUTHS: Final[dict[str, Truth]] = {"null": None, "true": True, "false": False, "unknown": "unknown"}
JOIN: Final = "Put each comparison in parentheses and join them with &: (col('a') >= 1) & (col('b') == 2)."
_SIGNS: Final = {"eq": "==", "neq": "!=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_METHODS: Final = {
    "in": "in_", "is": "is_", "isdistinct": "is_distinct_from",
    "like": "like", "ilike": "ilike", "match": "match", "imatch": "imatch",
}  # fmt: skip


class Where(Struct, frozen=True):
    """Conditions that must all be true for a row; `str()` is their text for the server.

    Joined by `&`; a single one is negated by `~`. Equal ones have the same text, so they can be keys and members of
    sets.
    """

    conditions: tuple[Condition, ...]

    def __and__(self, other: "Where") -> "Where":
        """Both."""
        if not isinstance(other, Where):
            raise _no_condition(other)
        return Where(self.conditions + other.conditions)

    def __invert__(self) -> "Where":
        """Not this one; null stays no match, except under `is_` and `is_distinct_from`.

        Raises: InvalidArgumentError: they are several; not all of them would be an OR.
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

    if not TYPE_CHECKING:  # to a checker they are not there; at run time a hint says more than a TypeError

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
    """The filter of a selector, from either of its two forms; checked. Raises: InvalidArgumentError."""
    if where is None and filter is None:
        return None
    if where is None:
        if not isinstance(filter, str):
            raise InvalidArgumentError(f"filter must be a text, not {filter!r}", hint="Conditions go into where=.")
        check_writable("filter", filter)
        filters.check(filter)
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
    """The condition in Python, with its value as the text that is sent."""
    value: object = condition.value
    if condition.op == "in":
        value = list(condition.items)
    elif condition.op == "is":
        value = TRUTHS[condition.value]
    column, sign = f"col({condition.column!r})", _SIGNS.get(condition.op)
    shown = f"({column} {sign} {value!r})" if sign else f"{column}.{_METHODS[condition.op]}({value!r})"
    return f"~{shown}" if condition.negated else shown
