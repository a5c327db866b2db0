"""One element of `postgres_changes`: what it asks for, its id, and the server's words when it cannot be had (§4.2).

The texts are the real server's (protocol §3.6), as far as they can be known without a database.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, TypeAlias, cast

import msgspec

from supawire._like import like_without_escapes
from supawire.filters import Condition, FilterSyntaxError, parse, problem
from supawire.server.elixir import inspect, inspect_filters

Json: TypeAlias = dict[str, Any]

ANY: Final = "*"
TYPES: Final = ("INSERT", "UPDATE", "DELETE")
SELECT_SYNTAX: Final = (
    'Error parsing `select` params: expected a list of column name strings, e.g. select: ["col1", "col2"]'
)
SELECT_WILDCARD: Final = (
    "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name."
)
NO_PARAMS: Final = (
    "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: {given}"
)
UNPUBLISHED: Final = (
    "Unable to subscribe to changes with given parameters. "
    "Please check Realtime is enabled for the given connect parameters: {given}"
)
EXCEPTION: Final = (
    "Unable to subscribe to changes with given parameters. "
    "An exception happened so please check your connect parameters: {given}. Exception: {error}"
)


class BindingError(Exception):
    """A binding that the server refuses; the text is what its `system` frame says."""


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding with its id. `error` says why it cannot be subscribed; the other fields are defaults then."""

    echo: Json
    id: int
    event: str = ANY
    schema: str = ANY
    table: str = ANY
    conditions: tuple[Condition, ...] = ()
    select: tuple[str, ...] | None = None
    error: str | None = None

    @property
    def described(self) -> str:
        """The parameters as the server's error texts list them."""
        filters = inspect_filters([(c.column, c.op, c.wire_value, c.negated) for c in self.conditions])
        select = "nil" if self.select is None else inspect(list(self.select))
        return (
            f"[event: {self.event}, schema: {self.schema}, table: {self.table}, filters: {filters}, select: {select}]"
        )

    def wants(self, type: str, schema: str, table: str) -> bool:
        """Whether changes of this type and table are asked for, filters aside."""
        return self.event in (ANY, type) and _like(self.schema, schema) and _like(self.table, table)


def bind(element: Json, *, database: bool = False) -> Binding:
    """An element of a join as a binding. database: one will try the conditions, so that they are only read here."""
    number = binding_id(element)
    echo = {**element, "id": number}
    try:
        binding = _parse(element, echo, number)
        if not database:
            _try(binding)
    except BindingError as error:
        return Binding(echo, number, error=str(error))
    return binding


def binding_id(element: Json) -> int:
    """A number for this element, the same for equal ones (protocol §3.2)."""
    text = msgspec.json.encode(element, order="sorted")
    return int.from_bytes(blake2b(text, digest_size=4).digest(), "big") % 2**27


def _parse(element: Json, echo: Json, number: int) -> Binding:
    schema, table = _relation(element)
    conditions = _conditions(element.get("filter"))
    select = _select(element, schema, table)
    event = str(element.get("event", ANY)).upper()
    return Binding(echo, number, event if event in TYPES else ANY, schema, table, conditions, select)


def _try(binding: Binding) -> None:
    for condition in binding.conditions:
        if (error := problem(condition)) is not None:
            raise BindingError(EXCEPTION.format(given=binding.described, error=error))


def _relation(element: Json) -> tuple[str, str]:
    """Schema and table; only four combinations of keys are understood, and none with a null."""
    given = {name: element[name] for name in ("schema", "table", "filter") if name in element}
    allowed = set(given) in ({"schema"}, {"table"}, {"schema", "table"}, {"schema", "table", "filter"})
    if not allowed or not all(isinstance(value, str) for value in given.values()):
        raise BindingError(NO_PARAMS.format(given=inspect(element)))
    return given.get("schema", "public"), given.get("table", ANY)


def _conditions(text: str | None) -> tuple[Condition, ...]:
    if text is None:
        return ()
    try:
        return tuple(parse(text))
    except FilterSyntaxError as error:
        raise BindingError(error.server_text) from error


def _select(element: Json, schema: str, table: str) -> tuple[str, ...] | None:
    given = element.get("select")
    if given is None:
        return None
    if isinstance(given, str):
        raise BindingError(SELECT_SYNTAX)
    if not isinstance(given, list):
        return None
    names = tuple(name for name in cast("list[object]", given) if isinstance(name, str))
    if names and ANY in (schema, table):
        raise BindingError(SELECT_WILDCARD)
    return names or None


def _like(pattern: str, name: str) -> bool:
    """SQL LIKE without an escape: `_` and `%` are wildcards (protocol §4.2)."""
    return pattern in (ANY, name) or like_without_escapes(pattern, name)
