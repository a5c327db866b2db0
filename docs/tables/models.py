"""Table of the conversion of columns to fields of another type, tried with classes of both libraries."""

from dataclasses import make_dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Interface
from typing import Any, Final

import msgspec
from pydantic import create_model

from docs.tables import rows, table
from supawire._values.models import check_model
from supawire._values.rows import decode_row
from supawire.errors import RowError


class Mood(Enum):
    """An enum for the table."""

    SAD = "sad"


_TRIED: Final[tuple[tuple[str, str, Any], ...]] = (
    ("int8", "7", float),
    ("int8", "7", Decimal),
    ("int8", "7", str),
    ("int8", "1", bool),
    ("numeric", "1.10", float),
    ("numeric", "2.00", int),
    ("numeric", "1.10", int),
    ("numeric", "1.10", str),
    ("bool", "true", int),
    ("text", '"5"', int),
    ("text", '"sad"', Mood),
    ("text", '"2026-01-02T03:04:05"', datetime),
    ("timestamptz", '"2026-01-02T03:04:05+00:00"', str),
    ("timestamptz", '"2026-01-02T03:04:05+00:00"', date),
    ("timestamptz", '"infinity"', datetime),
    ("date", '"2026-01-02"', datetime),
    ("uuid", '"6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11"', str),
    ("bytea", '"6869"', str),
    ("_int4", "[1, 2]", tuple[int, ...]),
    ("_int4", "[1, null]", list[int]),
    ("interval", '"1 day 02:03:04"', timedelta),
    ("interval", '"1 mon"', timedelta),
    ("inet", '"10.0.0.1/8"', IPv4Interface),
    ("float8", "null", float),
)
"""Column type, value as it is sent, annotation of the field."""

_create: Final[Any] = create_model


def _tried(model: type[Any], kind: str, sent: str) -> str:
    made = check_model(model)
    assert made is not None
    row = decode_row(msgspec.json.encode([{"name": "v", "type": kind}]), f'{{"v": {sent}}}'.encode())
    try:
        value = made.make(row, frozenset()).v
    except RowError:
        return "`RowError`"
    return f"`{value!r}`".replace("datetime.", "").replace("<Mood.SAD: 'sad'>", "Mood.SAD")


def _named(annotation: Any) -> str:
    return str(annotation) if not isinstance(annotation, type) or "[" in str(annotation) else annotation.__name__


@table("model-types")
def model_types() -> str:
    """Return the table of columns and the resulting values of fields with other types."""
    lines: list[list[str]] = []
    for kind, sent, annotation in _TRIED:
        plain = _tried(make_dataclass("Row", [("v", annotation)]), kind, sent)
        pydantic = _tried(_create("Row", v=(annotation, ...)), kind, sent)
        lines.append([f"`{kind}`", f"`{sent}`", f"`{_named(annotation)}`", plain, pydantic])
    return rows(["column", "sent", "field", "dataclass, `TypedDict`, `Struct`", "pydantic"], lines)
