"""Bindings of `postgres_changes`, and row changes passed to `emit`.

A binding is one element of a join's `postgres_changes`: what it selects, its id, and the server's error text when it
is invalid. The texts are the real server's, as far as they can be determined without a database. See docs/protocol.md,
Bindings.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, TypeAlias, cast

import msgspec

from supawire._values.encode import infer_columns
from supawire._values.filter_syntax import Condition, FilterSyntaxError, parse, problem
from supawire._values.patterns import like_without_escapes
from supawire.errors import InvalidArgumentError
from supawire.options import check_choice, check_kind, check_text, check_writable, refuse
from supawire.server.elixir_inspect import elixir_inspect, inspect_filters

KEY: Final = "id"
"""Assumed primary key column, since there is no catalog."""

Row: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RowChange:
    """A row change with the values that the caller passed; `columns` are in table order."""

    type: str
    schema: str
    table: str
    columns: tuple[tuple[str, str], ...]
    record: Row | None = None
    old_record: Row | None = None
    errors: tuple[str, ...] = ()

    @property
    def key(self) -> frozenset[str]:
        """The names of the primary key columns."""
        return frozenset({KEY})


def make_change(
    type: str,
    table: str,
    *,
    record: Row | None = None,
    old_record: Row | None = None,
    schema: str = "public",
    columns: Mapping[str, str] | Iterable[Mapping[str, str]] | None = None,
    errors: str | Sequence[str] | None = None,
) -> RowChange:
    """Return a validated row change.

    Args: type: INSERT, UPDATE or DELETE. record: the new row; required for INSERT and UPDATE. old_record: the old row;
    required for DELETE; for UPDATE it defaults to the key column `id` of the new row. columns: types by name, or a
    list of `{"name", "type"}`; inferred from the Python values by default. errors: texts for the frame's `errors`;
    400 and 401 leave out the rows, 413 leaves out long values, as the real server does.
    Raises: InvalidArgumentError.
    """
    kind = check_choice("type", type.upper() if isinstance(type, str) else type, TYPES)
    for name, value in (("table", table), ("schema", schema)):
        check_text(name, value)
    for name, row in (("record", record), ("old_record", old_record)):
        _check_row(name, row)
    if kind == "DELETE":
        if old_record is None or record is not None:
            raise InvalidArgumentError("a DELETE needs an old_record and no record: emit_delete(table, old_record={…})")
    elif record is None:
        raise InvalidArgumentError(f"an {kind} needs a record, the new row: record={{'id': 1}}")
    if kind == "INSERT" and old_record is not None:
        raise InvalidArgumentError("old_record must not be given for an INSERT")
    if kind == "UPDATE" and old_record is None and record is not None:
        old_record = {name: record[name] for name in record if name == KEY}
    row = record if record is not None else old_record
    return RowChange(kind, schema, table, _columns(columns, row or {}), record, old_record, _errors(errors))


def _check_row(name: str, row: object) -> None:
    if row is None:
        return
    check_kind(name, row, Mapping, "a row, such as {'id': 1}")
    for column in cast("Mapping[object, object]", row):
        check_text(f"a column of {name}", column)


def _columns(given: Mapping[str, str] | Iterable[Mapping[str, str]] | None, row: Row) -> tuple[tuple[str, str], ...]:
    if isinstance(given, Mapping):
        pairs = tuple(cast("Mapping[str, str]", given).items())
    else:
        try:
            listed = infer_columns(row) if given is None else given
            pairs = tuple((column["name"], column["type"]) for column in listed)
        except (TypeError, KeyError) as error:
            raise refuse(
                "columns", given, "types by name, such as {'id': 'int8'}, or a list of {'name', 'type'}"
            ) from error
    for name, kind in pairs:
        check_text("a column's name", name)
        check_text(f"the type of the column {name}", kind)
    return pairs


def _errors(given: str | Sequence[str] | None) -> tuple[str, ...]:
    texts = (given,) if isinstance(given, str) else given or ()
    if not isinstance(texts, Sequence) or isinstance(texts, bytes):
        raise refuse("errors", given, "a string or a list of strings")
    for error in texts:
        check_writable("errors", check_kind("errors", error, str, "a string or a list of strings"))
    return tuple(texts)


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
    """A binding that the server rejects, with the text of the `system` frame."""


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding with its id. `error` says why it cannot be subscribed; the other fields then have their defaults."""

    echo: Json
    id: int
    event: str = ANY
    schema: str = ANY
    table: str = ANY
    conditions: tuple[Condition, ...] = ()
    select: tuple[str, ...] | None = None
    error: str | None = None

    @property
    def description(self) -> str:
        """The parameters as formatted in the server's error texts."""
        filters = inspect_filters([(c.column, c.op, c.wire_value, c.negated) for c in self.conditions])
        select = "nil" if self.select is None else elixir_inspect(list(self.select))
        return (
            f"[event: {self.event}, schema: {self.schema}, table: {self.table}, filters: {filters}, select: {select}]"
        )

    def covers(self, type: str, schema: str, table: str) -> bool:
        """Return whether the binding matches changes of this type and table, regardless of its filter."""
        return self.event in (ANY, type) and _matches_name(self.schema, schema) and _matches_name(self.table, table)


def bind(element: Json, *, database: bool = False) -> Binding:
    """Return the binding for an element of a join. database: only parse the conditions; the database validates them."""
    number = binding_id(element)
    echo = {**element, "id": number}
    try:
        binding = _parse(element, echo, number)
        if not database:
            _check_conditions(binding)
    except BindingError as error:
        return Binding(echo, number, error=str(error))
    return binding


def binding_id(element: Json) -> int:
    """Return the id of this element; equal elements get equal ids."""
    text = msgspec.json.encode(element, order="sorted")
    return int.from_bytes(blake2b(text, digest_size=4).digest(), "big") % 2**27


def _parse(element: Json, echo: Json, number: int) -> Binding:
    schema, table = _relation(element)
    conditions = _conditions(element.get("filter"))
    select = _select(element, schema, table)
    event = str(element.get("event", ANY)).upper()
    return Binding(echo, number, event if event in TYPES else ANY, schema, table, conditions, select)


def _check_conditions(binding: Binding) -> None:
    for condition in binding.conditions:
        if (error := problem(condition)) is not None:
            raise BindingError(EXCEPTION.format(given=binding.description, error=error))


def _relation(element: Json) -> tuple[str, str]:
    """Return schema and table. Only four combinations of keys are valid, and none with a null."""
    given = {name: element[name] for name in ("schema", "table", "filter") if name in element}
    allowed = set(given) in ({"schema"}, {"table"}, {"schema", "table"}, {"schema", "table", "filter"})
    if not allowed or not all(isinstance(value, str) for value in given.values()):
        raise BindingError(NO_PARAMS.format(given=elixir_inspect(element)))
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


def _matches_name(pattern: str, name: str) -> bool:
    """Match with SQL LIKE without an escape character: `_` and `%` are wildcards."""
    return pattern in (ANY, name) or like_without_escapes(pattern, name)
