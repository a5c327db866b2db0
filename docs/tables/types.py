"""Table of the Python types of a row's values, from the types that the library knows."""

from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from docs.tables import rows, table
from supawire._values.rows import TYPES

_LATE = {"bytea": bytes, "timetz": time}
_ABOUT: dict[Any, str] = {
    int: "exact, whatever its size",
    float: "NaN and Infinity arrive as `None`, since the server sends them as null; inside an array they are floats",
    datetime: "with microseconds; aware for `timestamptz`, naive for `timestamp`",
    str: "",
    Decimal: "with its scale; NaN and Infinity arrive as `None`",
    bool: "",
    date: "",
    time: "with its offset for `timetz`",
    UUID: "",
    bytes: "",
}


@table("row-types")
def row_types() -> str:
    """Return the table of PostgreSQL types by their Python type."""
    kinds: dict[Any, list[str]] = {}
    for name, known in TYPES.items():
        kinds.setdefault(_LATE.get(name, known.target), []).append(f"`{name}`")
    lines = [[", ".join(names), f"`{kind.__name__}`", _ABOUT[kind]] for kind, names in kinds.items()]
    return rows(
        ["PostgreSQL", "Python", ""],
        [
            *lines,
            ["arrays of these", "`list`", "nested like the array"],
            [
                "`json`, `jsonb`, `geometry`",
                "unchanged",
                "integers exact, other numbers `float`, or `Decimal` beyond its range",
            ],
            [
                "everything else: enums, ranges, `interval`, `inet`, `money`, domains, composites …",
                "as sent",
                "nearly always `str`; numbers of domains and composites are `int`, and `Decimal` when not whole",
            ],
        ],
    )
