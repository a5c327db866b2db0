"""`model=`: convert rows and payloads to objects of user-defined classes.

A class is analysed once, when its selector is created; classes that msgspec or pydantic cannot create are refused
there. Dataclasses, TypedDicts and structs are converted by msgspec in strict mode, pydantic classes by pydantic, which
is never imported here: users of such a class have already imported it.

An object is created only from what the server sent. If a column was not sent (a large value that an update did not
change, a row over a megabyte), its field must not get its default, which would look like the value; only fields that
can represent "not sent" may be missing.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import is_dataclass
from typing import Any, Final, cast, get_origin

import msgspec
from msgspec import Struct

from supawire._values.row_objects import Decode, find_decoder, has_no_default
from supawire._values.rows import PlanCache, decode_columns, read_interval
from supawire.errors import InvalidArgumentError, RowError

_MAX_SHOWN: Final = 5
_MAX_DECODERS: Final = 16
"""Maximum number of lists of columns whose decoder is cached for one class."""
_PATH: Final = " - at `$"
_ENDS_WITH_VALUE: Final = re.compile(r"(Invalid (?:enum )?value) .*", re.DOTALL)
"""Error texts of msgspec that end with the value."""

_MISFITS: Final = (msgspec.MsgspecError, ValueError, RecursionError)
"""Errors of msgspec and pydantic for values that do not fit; other exceptions of user code are not converted."""

_ALLOWED: Final = "a dataclass, an attrs class, a TypedDict, a msgspec.Struct or a pydantic model"


class Model(Struct, frozen=True, eq=False):
    """One class and its converters. Models of the same class are equal.

    from_row: converts a dict of Python values. from_json: converts a JSON text. misfit: returns the text for an error,
    without the values. fields: for each field that must be sent, the column names that it accepts. row_decoders: by
    list of columns, decoders of rows that need no dict in between; None if the class has none.
    """

    kind: type[Any]
    from_row: Callable[[dict[str, Any]], Any]
    from_json: Callable[[bytes | msgspec.Raw], Any]
    misfit: Callable[[Exception], str]
    fields: tuple[tuple[str, ...], ...]
    row_decoders: PlanCache[Decode | None] | None = None

    @property
    def name(self) -> str:
        """The name of the class."""
        return _named(self.kind)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and self.kind == other.kind

    def __hash__(self) -> int:
        return hash(self.kind)

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return check_model, (self.kind,)

    def read_row(self, columns: bytes | msgspec.Raw, record: bytes | msgspec.Raw) -> Any:
        """Convert a row as it was sent, without a dict in between; return None if `make` is needed for it."""
        decode = None if self.row_decoders is None else self.row_decoders.find(columns)
        if decode is None:
            return None
        try:
            return decode(record)
        except _MISFITS:
            return None

    def make(self, row: dict[str, Any], unsent: Set[str]) -> Any:
        """Convert a row. `unsent`: the columns that the server lists but did not send. Raises: RowError."""
        lacking = [column for column in sorted(unsent) if self._is_missing(column, row)] if unsent else ()
        if lacking:
            raise RowError(
                f"the row cannot be converted to {self.name}: the server did not send {', '.join(lacking)}",
                hint="`row` has the columns that were sent. Unchanged large values and those of huge rows are omitted.",
            )
        try:
            return self.from_row(row)
        except _MISFITS as error:
            misfit = self.misfit(error)
        raise RowError(f"the row cannot be converted to {self.name}: {misfit}", hint="`row` has it as a dict.")

    def read(self, text: bytes | msgspec.Raw) -> Any:
        """Convert a JSON text. Raises: RowError."""
        try:
            return self.from_json(text)
        except _MISFITS as error:
            misfit = self.misfit(error)
        raise RowError(
            f"the payload cannot be converted to {self.name}: {misfit}",
            hint="`raw` of this error has it as it was sent.",
        )

    def _is_missing(self, column: str, row: Mapping[str, Any]) -> bool:
        return any(column in names and not any(name in row for name in names) for names in self.fields)


def check_model(model: type[Any] | None) -> Model | None:
    """Return the model of this class; None for None.

    Raises: InvalidArgumentError: not a class of the four kinds, or one that cannot be created from JSON values.
    """
    if model is None:
        return None
    origin = get_origin(model) or model  # Box for Box[int]
    if not isinstance(origin, type):
        raise _refuse(model, f"pass the class itself, {type(model).__name__}" if _converter_for(type(model)) else "")
    make = _converter_for(origin)
    if make is None:
        raise _refuse(model, "omit it to receive dicts" if issubclass(origin, Mapping) else "")
    try:
        return make(model)
    except TypeError as error:
        raise InvalidArgumentError(f"model={_named(model)} cannot be created from a row or payload: {error}") from error


def _converter_for(kind: type[Any]) -> Callable[[type[Any]], Model] | None:
    if hasattr(kind, "__pydantic_validator__"):
        return _of_pydantic
    is_struct = issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct
    is_typed_dict = dict in kind.__mro__ and hasattr(kind, "__total__")
    is_attrs = hasattr(kind, "__attrs_attrs__")
    return _of_msgspec if is_struct or is_typed_dict or is_attrs or is_dataclass(kind) else None


def _refuse(model: object, near: str) -> InvalidArgumentError:
    shown = _named(model) if isinstance(model, type) else repr(model)[:80]
    return InvalidArgumentError(f"model must be {_ALLOWED}, not {shown}" + (f"; {near}" if near else ""))


def _named(model: object) -> str:
    return getattr(model, "__qualname__", None) or str(model)


# --- msgspec


def _of_msgspec(model: type[Any]) -> Model:
    from msgspec import inspect

    try:
        decode = msgspec.json.Decoder(model, dec_hook=_other).decode
        kind = cast("inspect.StructType", inspect.type_info(model))
    except (NameError, AttributeError) as error:  # a string annotation with an unknown name
        raise TypeError(f"an annotation cannot be resolved: {error}") from error
    if getattr(kind, "array_like", False):
        raise TypeError("it is array_like, but rows are JSON objects")
    spans = tuple(one.encode_name for one in kind.fields if _holds(one.type, inspect.TimeDeltaType))

    def from_row(row: dict[str, Any]) -> Any:
        if spans:
            row = row | {name: _spans(row[name]) for name in spans if name in row}
        return msgspec.convert(row, model, dec_hook=_other)

    return Model(
        kind=model,
        from_row=from_row,
        from_json=decode,
        misfit=_misfit,
        fields=tuple((one.encode_name,) for one in kind.fields if not _may_be_missing(one)),
        row_decoders=PlanCache(lambda columns: find_decoder(kind, decode, decode_columns(columns)), _MAX_DECODERS),
    )


def _other(kind: Any, value: Any) -> Any:
    """Convert to a class that msgspec does not know: networks are parsed, and instances of the class are accepted.

    Raises: TypeError, which msgspec converts; without the value, which errors of `ipaddress` would show.
    """
    if isinstance(kind, type) and isinstance(value, kind):
        return value
    if kind.__module__ == "ipaddress" and isinstance(value, str):
        try:
            return kind(value)
        except ValueError:
            raise TypeError(f"Invalid {_named(kind)}") from None
    raise TypeError(f"Expected `{_named(kind)}`, got `{type(value).__name__}`")


def _holds(wanted: Any, kind: type[Any]) -> bool:
    """Return whether a field is of this kind, optional or not, or a list of it."""
    parts = getattr(wanted, "types", None) or (getattr(wanted, "item_type", None),)
    return isinstance(wanted, kind) or any(part is not None and _holds(part, kind) for part in parts)


def _spans(value: Any) -> Any:
    """Convert PostgreSQL's text of an interval to a timedelta, if it is one."""
    if isinstance(value, list):
        return [_spans(item) for item in cast("list[Any]", value)]
    try:
        return read_interval(value) if isinstance(value, str) else value
    except (ValueError, OverflowError):
        return value


def _may_be_missing(one: Any) -> bool:
    """Return whether a missing value is visible: a NotRequired key, or a field that is UNSET then."""
    return not one.required and has_no_default(one)


def _misfit(error: Exception) -> str:
    """Describe the place and the reason without the value, because errors are logged."""
    text = str(error)
    before, _, path = text.rpartition(_PATH)
    path = path.removesuffix("`").removeprefix(".")
    found = bool(path) and text.endswith("`") and _PATH in text
    why = _ENDS_WITH_VALUE.sub(r"\1", before if found else text)
    return f"{path}: {why}" if found else why


# --- pydantic


def _of_pydantic(model: type[Any]) -> Model:
    import pydantic

    try:
        if issubclass(model, pydantic.BaseModel):
            model.model_rebuild()
            fields, config = model.model_fields, model.model_config
            from_row, from_json = model.model_validate, model.model_validate_json
        else:  # pydantic dataclasses
            adapter = pydantic.TypeAdapter[Any](model)
            fields, config = model.__pydantic_fields__, getattr(model, "__pydantic_config__", {})
            from_row, from_json = adapter.validate_python, adapter.validate_json
    except (pydantic.PydanticUserError, pydantic.PydanticUndefinedAnnotation) as error:
        raise TypeError(error.message) from error
    by_name = bool(config.get("populate_by_name") or config.get("validate_by_name"))
    return Model(
        kind=model,
        from_row=from_row,
        from_json=lambda text: from_json(bytes(text)),
        misfit=_misfit_of_pydantic,
        fields=tuple(tuple(_names_of(name, one, by_name=by_name)) for name, one in fields.items()),
    )


def _names_of(name: str, one: Any, *, by_name: bool) -> Iterable[str]:
    alias = one.validation_alias if one.validation_alias is not None else one.alias
    for choice in getattr(alias, "choices", (alias,)):
        if choice is not None:
            yield choice if isinstance(choice, str) else str(choice.path[0])
    if alias is None or by_name:
        yield name


def _misfit_of_pydantic(error: Exception) -> str:
    """Describe each pydantic error; the text of an invalid union tag is replaced because it shows the value."""
    import pydantic

    if not isinstance(error, pydantic.ValidationError):
        return str(error)
    found = error.errors(include_url=False, include_context=False, include_input=False)
    whys = ["unknown tag" if line["type"] == "union_tag_invalid" else line["msg"] for line in found]
    places = [".".join(map(str, line["loc"])) or "the whole value" for line in found]
    lines = [f"{place}: {why}" for place, why in zip(places, whys, strict=True)]
    return "; ".join(lines[:_MAX_SHOWN]) + (f"; and {len(lines) - _MAX_SHOWN} more" if len(lines) > _MAX_SHOWN else "")
