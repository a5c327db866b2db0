"""Evaluate filters on rows: in Python where the result is certain, else in PostgreSQL.

The real server casts both sides to the column's type and compares them in the database. For integers, numerics,
booleans, uuids and equality of texts, Python gives the same result. Text order, regular expressions and all other types
are left to PostgreSQL; these checks are collected and run in one query per batch. See docs/protocol.md, Matching rows.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, LiteralString, TypeAlias

import msgspec
from psycopg import sql

from supawire._values.filter_syntax import Condition, matches
from supawire.server.postgres.catalog import Type, is_builtin
from supawire.server.postgres.database import Database, DatabaseError, quoted
from supawire.server.postgres.values import NULL

ORDERED: Final = frozenset({"eq", "neq", "lt", "lte", "gt", "gte", "in", "isdistinct"})
EQUAL: Final = frozenset({"eq", "neq", "in", "isdistinct"})
_PYTHON_RULES: Final[dict[str, tuple[frozenset[str], re.Pattern[str]]]] = {
    **dict.fromkeys(("int2", "int4", "int8"), (ORDERED, re.compile(r"-?\d{1,18}", re.ASCII))),
    **dict.fromkeys(("numeric", "float8"), (ORDERED, re.compile(r"-?\d{1,15}(\.\d{1,15})?", re.ASCII))),
    "bool": (ORDERED, re.compile("true|false|t|f")),
    "uuid": (ORDERED, re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)),
    "date": (ORDERED, re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)),
    "timestamp": (ORDERED, re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d:\d\d(\.\d{1,6})?)?", re.ASCII)),
    "timestamptz": (
        ORDERED,
        # without a zone the value depends on the time zone of the database
        re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?([+-]\d\d(:\d\d)?|Z)", re.ASCII),
    ),
    **dict.fromkeys(("text", "varchar"), (EQUAL | {"like"}, re.compile(".*", re.DOTALL))),
}
"""By type: the operators that Python evaluates, and the format that operand and value must have."""

_SQL: Final[dict[str, LiteralString]] = {
    "eq": "v.given::{type} = ({operand})::{type}",
    "neq": "v.given::{type} <> ({operand})::{type}",
    "lt": "v.given::{type} < ({operand})::{type}",
    "lte": "v.given::{type} <= ({operand})::{type}",
    "gt": "v.given::{type} > ({operand})::{type}",
    "gte": "v.given::{type} >= ({operand})::{type}",
    "in": "v.given::{type} = any(({operand})::{type}[])",
    "like": "v.given::{type} ~~ {operand}",
    "ilike": "v.given::{type} ~~* {operand}",
    "match": "v.given::{type} ~ {operand}",
    "imatch": "v.given::{type} ~* {operand}",
    "isdistinct": "v.given::{type} is distinct from ({operand})::{type}",
}

_CHECK: Final = "select {}::int, v.place::int, {} from unnest(%s::text[]) with ordinality v(given, place)"

ValueText: TypeAlias = str | None
"""The text of a value, None for NULL."""


def text_of(written: bytes) -> ValueText:
    """Return the text that the real server casts: that of a JSON value, without the quotes of a string."""
    if written == NULL:
        return None
    return msgspec.json.decode(written, type=str) if written.startswith(b'"') else written.decode()


def decide(condition: Condition, type: Type, value: ValueText) -> bool | None:
    """Return whether the condition holds, or None when PostgreSQL must evaluate it."""
    kind = _kind(type)
    if (
        value is not None
        and kind not in _WITHOUT_OPERATORS
        and condition.op != "is"
        and not _python_can_evaluate(condition, kind, value)
    ):
        return None
    return matches([condition], {condition.column: value}, {condition.column: kind})


_WITHOUT_OPERATORS: Final = frozenset({"json", "_"})
"""Types for which conditions on values never hold: the cast fails or the type has no operators."""


def _kind(type: Type) -> str:
    if type.item or type.kind == "c":
        return "_"
    if type.kind == "e":
        return "text"
    return type.name if is_builtin(type) else "?"


def _python_can_evaluate(condition: Condition, kind: str, value: str) -> bool:
    rule = _PYTHON_RULES.get(kind)
    operands_fit = _operands_fit if len(condition.value) <= _MAX_CACHED_LENGTH else _operands_fit.__wrapped__
    return rule is not None and operands_fit(condition, kind) and rule[1].fullmatch(value) is not None


_MAX_CACHED_LENGTH: Final = 4096


@lru_cache(maxsize=4096)
def _operands_fit(condition: Condition, kind: str) -> bool:
    operators, form = _PYTHON_RULES[kind]
    if condition.op not in operators:
        return False
    operands = condition.items if condition.op == "in" else (condition.value,)
    return all(one is None or form.fullmatch(one) is not None for one in operands)


@dataclass(frozen=True, slots=True)
class PendingCheck:
    """A condition that PostgreSQL must evaluate for one value of a column of this type."""

    condition: Condition
    type: Type
    value: str


async def evaluate(database: Database, checks: Iterable[PendingCheck]) -> dict[PendingCheck, bool]:
    """Return the results of the checks, from one query. A check that fails with an error counts as false."""
    groups: dict[tuple[str, str, str], list[PendingCheck]] = {}
    for check in dict.fromkeys(checks):
        groups.setdefault((check.type.sql, check.condition.op, check.condition.wire_value), []).append(check)
    return await _evaluate(database, list(groups.values()))


async def _evaluate(database: Database, groups: Sequence[list[PendingCheck]]) -> dict[PendingCheck, bool]:
    if not groups:
        return {}
    texts: list[sql.Composed] = []
    parameters: list[Any] = []
    for number, group in enumerate(groups):
        test = sql.SQL(_SQL[group[0].condition.op]).format(
            type=quoted(group[0].type.sql),
            operand=sql.SQL("%s::text"),
        )
        texts.append(sql.SQL(_CHECK).format(sql.Literal(number), test))
        parameters += [group[0].condition.wire_value, [check.value for check in group]]
    try:
        rows = await database.query(sql.Composed(texts).join(" union all "), parameters)
    except DatabaseError as error:
        if error.retryable:
            raise
        return await _evaluate_split(database, groups)
    answers: dict[PendingCheck, bool] = {}
    for number, place, found in rows:
        check = groups[int(number)][int(place) - 1]
        answers[check] = found is not None and found is not check.condition.negated
    return answers


async def _evaluate_split(database: Database, groups: Sequence[list[PendingCheck]]) -> dict[PendingCheck, bool]:
    """Run the checks after a failed query: split them in halves until the failing one is isolated."""
    if len(groups) > 1:
        half = len(groups) // 2
        return {**await _evaluate(database, groups[:half]), **await _evaluate(database, groups[half:])}
    (group,) = groups
    if len(group) == 1:
        return {group[0]: False}
    half = len(group) // 2
    return {**await _evaluate(database, [group[:half]]), **await _evaluate(database, [group[half:]])}
