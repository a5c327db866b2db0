"""Selectors define what a handler or iterator receives: small immutable objects, created by functions.

    broadcast("typing")    changes("users", event="INSERT")    presence()    system()    gaps()    status()

Only the arguments are checked here, immediately; the server checks a binding when the channel joins.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, cast, overload

from msgspec import Struct

from supawire._display import brief
from supawire._other_clients import takes_misuse, wrong_changes, wrong_selector
from supawire._validation import check_writable
from supawire._values.models import Model, check_model
from supawire.errors import InvalidArgumentError
from supawire.events import Broadcast, Change, Delete, Gap, Insert, PresenceEvent, Status, System, Update
from supawire.filters import Where, filter_text
from supawire.options import check_choice, check_event

if TYPE_CHECKING:  # strict checkers require a default; at run time it needs Python 3.13
    import typing_extensions

    E_co = typing_extensions.TypeVar("E_co", covariant=True, default=Any)
else:
    E_co = TypeVar("E_co", covariant=True)
P = TypeVar("P")
R = TypeVar("R")

ANY: Final = "*"

ChangeEvent = Literal["*", "INSERT", "UPDATE", "DELETE"]
_CHANGE_EVENTS: Final = ("*", "INSERT", "UPDATE", "DELETE")


class Selector(Struct, Generic[E_co], frozen=True):
    """Base class of selectors; the type parameter is the type that the handler or iterator receives."""


class BroadcastSelector(Selector[E_co], frozen=True):
    """Broadcasts with one event name, or all of them with `*`."""

    event: str = ANY

    def __repr__(self) -> str:
        return f"broadcast({brief(self.event)})"


class ChangesSelector(Selector[E_co], frozen=True):
    """Row changes: one binding of the join. See docs/protocol.md, Bindings."""

    schema: str = "public"
    table: str = ANY
    event: str = ANY
    filter: str | None = None
    select: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        options = {"schema": (self.schema, "public"), "event": (self.event, ANY)}
        options |= {"filter": (self.filter, None), "select": (self.select, None)}
        shown = [f"{name}={brief(value)}" for name, (value, default) in options.items() if value != default]
        return f"changes({', '.join([brief(self.table), *shown])})"

    def binding(self) -> dict[str, Any]:
        """Return the element of `postgres_changes` for the join.

        Unused keys are omitted, since the server refuses null.
        """
        binding: dict[str, Any] = {"event": self.event, "schema": self.schema, "table": self.table}
        if self.filter is not None:
            binding["filter"] = self.filter
        if self.select is not None:
            binding["select"] = list(self.select)
        return binding


class ModelSelector(Selector[E_co], frozen=True):
    """A selector whose payloads or rows are converted to objects of a class."""

    plain: Selector[Any]
    model: Model

    def __repr__(self) -> str:
        plain = repr(self.plain)[:-1]
        return f"{plain}{'' if plain.endswith('(') else ', '}model={self.model.name})"


class PresenceSelector(Selector[E_co], frozen=True):
    """Presence events: joins, leaves, updates, and the complete state."""

    def __repr__(self) -> str:
        return "presence()"


class SystemSelector(Selector[E_co], frozen=True):
    """The server's own messages about this channel."""

    def __repr__(self) -> str:
        return "system()"


class GapsSelector(Selector[E_co], frozen=True):
    """Periods in which events may be missing."""

    def __repr__(self) -> str:
        return "gaps()"


class StatusSelector(Selector[E_co], frozen=True):
    """Changes of the channel's state."""

    def __repr__(self) -> str:
        return "status()"


@overload
def broadcast(event: str = ANY, *, model: None = None) -> Selector[Broadcast[Any]]: ...
@overload
def broadcast(event: str = ANY, *, model: type[P]) -> Selector[Broadcast[P]]: ...
@takes_misuse
def broadcast(event: str = ANY, *misplaced: object, model: type[Any] | None = None) -> Selector[Broadcast[Any]]:
    """Select the messages sent to the channel under this event name; `*` is every name.

    Args:
        model: the class of `payload`, which is converted on access: a dataclass, TypedDict, `msgspec.Struct` or
            pydantic model. A message that does not fit raises `RowError` there.

    Raises: InvalidArgumentError: the name is empty or over 255 bytes of UTF-8; the model is not a supported class.
    Wire: docs/protocol.md, Broadcast.
    """
    if misplaced or isinstance(event, Mapping):
        raise wrong_selector("broadcast", event)
    return _with_model(BroadcastSelector(check_event(event)), model)


@overload
def changes(
    table: str = ANY, *, schema: str | None = None, event: Literal["INSERT"],
    filter: str | None = None, where: Where | None = None, select: Sequence[str] | None = None, model: None = None,
) -> Selector[Insert[dict[str, Any]]]: ...  # fmt: skip
@overload
def changes(
    table: str = ANY, *, schema: str | None = None, event: Literal["UPDATE"],
    filter: str | None = None, where: Where | None = None, select: Sequence[str] | None = None, model: None = None,
) -> Selector[Update[dict[str, Any]]]: ...  # fmt: skip
@overload
def changes(
    table: str = ANY, *, schema: str | None = None, event: Literal["DELETE"],
    filter: str | None = None, where: Where | None = None, select: Sequence[str] | None = None, model: None = None,
) -> Selector[Delete]: ...  # fmt: skip
@overload
def changes(
    table: str = ANY, *, schema: str | None = None, event: ChangeEvent = ANY,
    filter: str | None = None, where: Where | None = None, select: Sequence[str] | None = None, model: None = None,
) -> Selector[Change[dict[str, Any]]]: ...  # fmt: skip
@overload
def changes(
    table: str = ANY, *, schema: str | None = None, event: Literal["INSERT"],
    filter: str | None = None, where: Where | None = None, select: Sequence[str] | None = None, model: type[R],
) -> Selector[Insert[R]]: ...  # fmt: skip
@overload
def changes(
    table: str = ANY, *, schema: str | None = None, event: Literal["UPDATE"],
    filter: str | None = None, where: Where | None = None, select: Sequence[str] | None = None, model: type[R],
) -> Selector[Update[R]]: ...  # fmt: skip
@overload
def changes(
    table: str = ANY, *, schema: str | None = None, event: Literal["DELETE"],
    filter: str | None = None, where: Where | None = None, select: Sequence[str] | None = None, model: type[R],
) -> Selector[Delete]: ...  # fmt: skip
@overload
def changes(
    table: str = ANY, *, schema: str | None = None, event: ChangeEvent = ANY,
    filter: str | None = None, where: Where | None = None, select: Sequence[str] | None = None, model: type[R],
) -> Selector[Change[R]]: ...  # fmt: skip
@takes_misuse
def changes(
    table: str = ANY,
    *misplaced: object,
    schema: str | None = None,
    event: ChangeEvent = ANY,
    filter: str | None = None,
    where: Where | None = None,
    select: Sequence[str] | None = None,
    model: type[Any] | None = None,
) -> Selector[Any]:
    """Select inserts, updates and deletes of the rows of a table (`*`: of all tables of the schema).

    Args:
        schema: "public" if omitted. event: "INSERT", "UPDATE", "DELETE" or "*".
        where: which rows, such as `col("total") >= 100`. Rows are checked as they are after the change; a DELETE has
            only the key columns, unless the table has REPLICA IDENTITY FULL.
        filter: the same as text, such as "status=eq.open"; all conditions must match. See docs/protocol.md, Filters.
        select: the columns to receive; the key is always included. Requires a table.
        model: the class of `record`, which is converted on access: a dataclass, TypedDict, `msgspec.Struct` or pydantic
            model. A row that does not fit raises `RowError` there, and `row` has it as a dict. `old_record` is always a
            dict.

    A DELETE on a table with row level security is sent to all subscribers, with the key only.
    `_` and `%` in names are wildcards of the server: `user_a` also matches `userXa`.

    Raises: InvalidArgumentError: an unknown event, a filter that the server would refuse for every table, both filter
    and where, a name that is not a string.
    """
    if misplaced or isinstance(table, Mapping) or (isinstance(table, str) and ":" in table and "=" in table):
        raise wrong_changes(table, misplaced)
    schema = _schema_of(table, schema)
    for name, value in (("table", table), ("schema", schema)):
        if not isinstance(value, str) or not value.strip():
            raise InvalidArgumentError(f"{name} must be a name or '*', not {value!r}")
        check_writable(name, value)
    wanted = check_choice("event", event.upper() if isinstance(event, str) else event, _CHANGE_EVENTS)
    text = filter_text(filter, where)
    if (text is not None or select is not None) and ANY in (table, schema):
        raise InvalidArgumentError(
            "filter, where and select require a table and a schema by name; the server does not support them with '*'",
            hint="Create one selector for each table.",
        )
    return _with_model(ChangesSelector(schema, table, wanted, text, _columns(select)), model)


@overload
def presence(*, model: None = None) -> Selector[PresenceEvent[dict[str, Any]]]: ...
@overload
def presence(*, model: type[P]) -> Selector[PresenceEvent[P]]: ...
@takes_misuse
def presence(*misplaced: object, model: type[Any] | None = None, **misnamed: object) -> Selector[PresenceEvent[Any]]:
    """Select presence joins, updates and leaves, and after those of a diff `PresenceSync` with the complete state.

    Args:
        model: the class of the `payload` of each entry, created on first access: a dataclass, attrs class, TypedDict,
            `msgspec.Struct` or pydantic model. A payload that does not fit raises `RowError` on access; the rest of
            the event can still be read.

    Raises: InvalidArgumentError: the model is not a supported class.
    """
    if misplaced or misnamed:
        raise wrong_selector("presence", None)
    return _with_model(PresenceSelector(), model)


def system() -> Selector[System]:
    """Select the server's messages about the channel, such as "Subscribed to PostgreSQL"."""
    return SystemSelector()


def gaps() -> Selector[Gap]:
    """Select gaps: periods in which events may be missing, each reported when events arrive again."""
    return GapsSelector()


def status() -> Selector[Status]:
    """Select the channel's changes of state: joined, ready, retrying with the cause."""
    return StatusSelector()


def _schema_of(table: object, schema: str | None) -> str:
    if schema is not None:
        return schema
    if isinstance(table, str) and "." in table:
        first, _, last = table.partition(".")
        raise InvalidArgumentError(
            f"table={table!r} contains a schema",
            hint=f"Write changes({last!r}, schema={first!r}). With schema=, a dot is part of the table's name.",
        )
    return "public"


def check_selector(value: object) -> Selector[Any]:
    """Return `value` if it is a selector. Raises: InvalidArgumentError, which explains how to write one."""
    if isinstance(value, Selector):
        return cast("Selector[Any]", value)
    if isinstance(value, str):
        near = f"write broadcast({value!r}) for messages, or changes({value!r}) for the rows of a table"
    elif value in (broadcast, changes, presence, system, gaps, status):
        near = f"call it: {getattr(value, '__name__', '')}()"
    elif callable(value):
        near = "pass the selector first: @channel.on(broadcast('typing')), or channel.on(broadcast('typing'), handler)"
    else:
        near = "create one with broadcast(), changes(), presence() or another function"
    raise InvalidArgumentError(f"{brief(value)} is not a selector: {near}")


def _columns(select: Sequence[str] | None) -> tuple[str, ...] | None:
    if select is None:
        return None
    columns = tuple(select) if isinstance(select, Iterable) and not isinstance(select, str) else ()
    if ANY in columns:
        raise InvalidArgumentError("select must not contain '*'", hint="Omit select= to receive all columns.")
    if not columns or not all(isinstance(column, str) and column for column in columns):
        raise InvalidArgumentError(f"select must be a list of column names, such as ['id', 'name'], not {select!r}")
    for column in columns:
        check_writable("a column of select", column)
    return columns


def _with_model(plain: Selector[Any], model: type[Any] | None) -> Selector[Any]:
    made = check_model(model)
    return plain if made is None else ModelSelector(plain, made)
