"""Decode a row straight to an object of a class, where this gives the same as decoding to a dict and converting that.

The usual way, `rows.decode_row` and then `Model.make`, works for all classes, columns and servers. For most tables and
classes one pass of msgspec's decoder gives the same in half the time or less. `find_decoder` decides that per class and
list of columns, by the types of columns and fields (`_same`). A row that the decoder refuses is decoded the usual way,
which also creates the error.

A field with a default must not get it when the server did not send its column. For such classes, a first pass over the
row checks that the columns are there.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, cast

import msgspec

from supawire._values.rows import AS_JSON, Column

Decode = Callable[[bytes | msgspec.Raw], Any]

_SAME: Final = {
    **dict.fromkeys(("int2", "int4", "int8", "oid"), frozenset({"IntType", "FloatType"})),
    **dict.fromkeys(("float4", "float8"), frozenset({"FloatType"})),
    **dict.fromkeys(("timestamp", "timestamptz"), frozenset({"DateTimeType"})),
    "numeric": frozenset({"DecimalType", "FloatType"}),
    "bool": frozenset({"BoolType"}),
    "date": frozenset({"DateType"}),
    "time": frozenset({"TimeType"}),
    "uuid": frozenset({"UUIDType"}),
    "timetz": frozenset[str](),
    "bytea": frozenset[str](),
}
"""By column type, the types of fields (of `msgspec.inspect`) that have the same value from JSON and from a dict."""


def find_decoder(kind: Any, decode: Decode, columns: tuple[Column, ...]) -> Decode | None:
    """Return a decoder of rows with these columns to objects of a class, None if all must be decoded the usual way.

    It raises an error of msgspec, or one of the class, for single rows that must. It skips columns without a field, so
    that it does not notice what cannot be decoded in them: text that is not UTF-8, numbers with a huge exponent.

    Args: kind: the class as `msgspec.inspect` describes it. decode: decodes JSON to an object of it.
    """
    types = {column.name: column.type for column in columns}
    fields: list[Any] = list(kind.fields)
    if getattr(kind, "tag", None) is not None or len(types) < len(columns):
        return None
    if not all(_same(types.get(field.encode_name, ""), field.type) for field in fields):
        return None
    listed = [field for field in fields if field.encode_name in types]
    defaulted = [field.encode_name for field in listed if not has_no_default(field)]
    if not defaulted and not any(field.required for field in listed):
        return None  # even a row without any column would fit
    return _after_check(defaulted, decode) if defaulted else decode


def has_no_default(field: Any) -> bool:
    """Return whether a field has no default value, so that one sees whether its column was sent."""
    return field.default is field.default_factory is msgspec.NODEFAULT


def _after_check(names: list[str], decode: Decode) -> Decode:
    """Return a decoder that raises if one of these columns was not sent."""
    keys = [f"f{number}" for number in range(len(names))]
    row = msgspec.defstruct("Sent", [(key, msgspec.Raw) for key in keys], rename=dict(zip(keys, names, strict=True)))
    check = msgspec.json.Decoder(row).decode

    def decode_complete(record: bytes | msgspec.Raw) -> Any:
        check(record)
        return decode(record)

    return decode_complete


def _same(column: str, field: Any) -> bool:
    """Return whether each JSON value that fits the field means the same as if the column was decoded by its type first.

    column: the type of the column; "" if the server does not list it. field: the type of a field as `msgspec.inspect`
    describes it. Constraints of a field need no look, since a value that violates them is refused.
    """
    name = type(field).__name__
    if name == "UnionType":
        parts = [part for part in field.types if type(part).__name__ != "NoneType"]
        return len(parts) == 1 and _same(column, parts[0])
    if column in AS_JSON:
        return _same_as_json(name, field)
    if column.startswith("_"):
        return name == "ListType" and not column.startswith("__") and _same(column[1:], field.item_type)
    if column in _SAME:
        return name in _SAME[column]
    return name == "StrType" or _is_text(name, field)  # values of the other types are nearly always sent as text


def _same_as_json(name: str, field: Any) -> bool:
    """Return the same for a column whose value is any JSON."""
    match name:
        case "AnyType" | "StrType" | "BoolType":
            return True
        case "ListType":
            return _same("json", field.item_type)
        case "DictType":
            return type(field.key_type).__name__ == "StrType" and _same("json", field.value_type)
        case _:
            return _is_text(name, field)


def _is_text(name: str, field: Any) -> bool:
    """Return whether a field is an enum or a literal of strings only."""
    values: list[Any] = []
    if name == "EnumType":
        values = [member.value for member in cast("type[Enum]", field.cls)]
    elif name == "LiteralType":
        values = list(field.values)
    return bool(values) and all(type(value) is str for value in values)
