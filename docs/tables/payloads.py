"""Table of the conversion of values to JSON in a payload, with an example of each kind, encoded by the library."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from importlib import import_module
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from docs.tables import rows, table
from supawire._validation import check_json


@dataclass
class Point:
    """A dataclass as users write them."""

    x: int
    y: int


class Model(BaseModel):
    """A pydantic model with an alias."""

    model_config = ConfigDict(populate_by_name=True)
    size: int = Field(alias="the size")


class Color(Enum):
    """An enum of texts."""

    RED = "red"


NUMPY: Final = "[numpy.int64(1), numpy.arange(2)]"
EXAMPLES: Final = (
    ("a mapping of any kind", '{"a": 1}'),
    ("list, tuple, set, frozenset", "({1},)"),
    ("dataclass, attrs class, `msgspec.Struct`", "Point(1, 2)"),
    ("pydantic model, by its aliases", "Model(size=1)"),
    ("`datetime`, `date`, `time`", "datetime(2026, 1, 2, 3, 4, tzinfo=UTC)"),
    ("`timedelta`", "timedelta(minutes=1)"),
    ("`UUID`", "UUID(int=1)"),
    ("`Decimal`", 'Decimal("1.10")'),
    ("`bytes` inside a payload, in base64", '[b"ab"]'),
    ("a member of an enum: its value", "Color.RED"),
    ("an address of `ipaddress`", 'ip_address("127.0.0.1")'),
    ("a number or array of numpy", NUMPY),
)
"""Kind of value, and an expression that creates one."""

WITHOUT_NUMPY: Final = "[1,[0,1]]"
"""The JSON of the numpy example, since numpy is not installed everywhere; `tests/test_payloads.py` compares it."""

_NAMES: Final[dict[str, Any]] = {
    one.__name__: one for one in (Point, Model, Color, datetime, timedelta, UUID, Decimal, ip_address)
} | {"UTC": UTC}


def value_of(expression: str) -> Any:
    """Return the value of an expression of `EXAMPLES`. Raises: ModuleNotFoundError for numpy's where it is missing."""
    names = {**_NAMES, "numpy": import_module("numpy")} if expression == NUMPY else dict(_NAMES)
    return eval(expression, names)


@table("payloads")
def payloads() -> str:
    """Return the table of kinds with the JSON of each example."""
    lines: list[tuple[str, str, str]] = []
    for kind, expression in EXAMPLES:
        known = expression != NUMPY or find_spec("numpy") is not None
        sent = check_json(value_of(expression)).decode() if known else WITHOUT_NUMPY
        lines.append((kind, f"`{expression}`", f"`{sent}`"))
    return rows(("value", "for example", "JSON"), lines)
