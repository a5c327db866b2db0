"""The values that a job writes to its row: `claim=`, `done=`, `failed=`; and conditions of `where=` as SQL."""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final, cast

import msgspec
from psycopg import sql

from supawire._values.filter_syntax import Condition
from supawire.errors import InvalidArgumentError
from supawire.filters import TRUTHS
from supawire.worker.database import identifier, literal, raw


class SqlValue(Enum):
    """A value that the database computes when it is written."""

    NOW = "now()"
    REASON = "%(reason)s"

    def __repr__(self) -> str:
        return self.name


NOW: Final = SqlValue.NOW
"""The time of the transaction, for columns such as `started_at`."""
REASON: Final = SqlValue.REASON
"""Why the job failed, for a column of `failed=`."""

Values = Mapping[str, Any]

_OPERATORS: Final = {
    "eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">=",
    "like": "like", "ilike": "ilike", "match": "~", "imatch": "~*", "isdistinct": "is distinct from",
}  # fmt: skip


def check_values(name: str, values: object, *, empty: bool, reason: bool = False) -> dict[str, Any]:
    """Return a copy of the values by column. empty: whether there may be none. Raises: InvalidArgumentError."""
    example = f'{name}={{"status": "…"}}'
    if not isinstance(values, Mapping) or not all(isinstance(column, str) and column for column in cast("Any", values)):
        raise InvalidArgumentError(
            f"{name} must be a dict from column to value, not {values!r}", hint=f"Write {example}."
        )
    checked = dict(cast("Mapping[str, Any]", values))
    if not checked and not empty:
        raise InvalidArgumentError(
            f"{name} must have at least one column: a row that does not change would be claimed again and again",
            hint=f"Write {example}.",
        )
    for column, value in checked.items():
        if value is REASON and not reason:
            raise InvalidArgumentError(f"{name}[{column!r}] must not be REASON: a reason is there for failed= only")
        if isinstance(value, Enum) and not isinstance(value, SqlValue):
            checked[column] = value.value
    return checked


def value_sql(value: Any, kind: str) -> sql.SQL:
    """Return SQL for a value of a column of this type, as `format_type` names it."""
    if isinstance(value, SqlValue):
        return sql.SQL(value.value)
    if value is None:
        return sql.SQL("null")
    if kind in ("json", "jsonb"):
        value = msgspec.json.encode(value).decode()
    if isinstance(value, str):
        return raw(f"{sql.Literal(value).as_string()}::{kind}")
    return literal(value)


def constants(values: Values, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that can be compared with the row later: no times, reasons, and json, which has no `=`."""
    return {
        column: value for column, value in values.items() if not isinstance(value, SqlValue) and kinds[column] != "json"
    }


def equal_sql(values: Values, kinds: Mapping[str, str], alias: str) -> sql.SQL | sql.Composed:
    """Return the condition that the row has these values; true if there are none to compare."""
    parts = [
        sql.SQL("{} is not distinct from {}").format(identifier(alias, column), value_sql(value, kinds[column]))
        for column, value in constants(values, kinds).items()
    ]
    return sql.SQL(" and ").join(parts) if parts else sql.SQL("true")


def where_sql(conditions: Iterable[Condition], kinds: Mapping[str, str], alias: str | None) -> sql.SQL | sql.Composed:
    """Return conditions as SQL with literals, so that an index with this predicate is used; true if there are none."""
    parts = [_condition_sql(condition, kinds[condition.column], alias) for condition in conditions]
    return sql.SQL(" and ").join(parts) if parts else sql.SQL("true")


def _condition_sql(condition: Condition, kind: str, alias: str | None) -> sql.SQL | sql.Composed:
    column = identifier(*((condition.column,) if alias is None else (alias, condition.column)))
    if condition.op == "is":
        test = sql.SQL("{} is {}").format(column, raw(condition.value))
    elif condition.op == "in":
        items = [sql.SQL("null") if item is None else _typed(item, kind) for item in condition.items]
        test = sql.SQL("{} in ({})").format(column, sql.SQL(", ").join(items))
    else:
        is_pattern = condition.op in ("like", "ilike", "match", "imatch")
        value = literal(condition.value) if is_pattern else _typed(condition.value, kind)
        test = sql.SQL("{} {} {}").format(column, raw(_OPERATORS[condition.op]), value)
    return sql.SQL("not ({})").format(test) if condition.negated else sql.SQL("({})").format(test)


def _typed(text: str, kind: str) -> sql.SQL:
    if kind == "bytea":
        text = "\\x" + text  # filters have hex digits without the prefix
    return raw(f"{sql.Literal(text).as_string()}::{kind}")


def values_before(conditions: Iterable[Condition], claim: Values) -> dict[str, Any]:
    """Return what the claimed columns were before the claim, as far as the conditions say so: `==` and `is_`."""
    before: dict[str, Any] = {}
    for condition in conditions:
        if condition.column in claim and not condition.negated:
            if condition.op == "eq":
                before[condition.column] = condition.value
            elif condition.op == "is" and condition.value in ("null", "true", "false"):
                before[condition.column] = TRUTHS[condition.value]
    return before


def order_sql(order: Iterable[tuple[str, bool]], alias: str | None) -> sql.Composed:
    """Return the list after `order by`. order: columns, and whether each is descending."""
    return sql.SQL(", ").join(
        sql.SQL("{} {}").format(
            identifier(*((column,) if alias is None else (alias, column))), sql.SQL("desc" if descending else "asc")
        )
        for column, descending in order
    )
