"""Plausible values for columns, from their names and types."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from random import Random
from typing import Any, Final
from uuid import UUID

FIRST_NAMES: Final = (
    "Ada",
    "Alan",
    "Barbara",
    "Edsger",
    "Frances",
    "Grace",
    "Katherine",
    "Linus",
    "Margaret",
    "Niklaus",
)
WORDS: Final = (
    "amber",
    "bridge",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "garden",
    "harbor",
    "island",
    "juniper",
    "lantern",
)
STATES: Final = ("new", "open", "done")
CITIES: Final = ("Berlin", "Lagos", "Lima", "Osaka", "Toronto")

_MAX_NUMBER: Final = {"int2": 1000, "int4": 100_000, "int8": 1_000_000}
_ALIASES: Final = {
    "smallint": "int2", "integer": "int4", "int": "int4", "bigint": "int8", "real": "float4",
    "double precision": "float8", "boolean": "bool", "character varying": "varchar", "character": "bpchar",
    "decimal": "numeric", "timestamp without time zone": "timestamp", "timestamp with time zone": "timestamptz",
    "time without time zone": "time", "time with time zone": "timetz", "serial": "int4", "bigserial": "int8",
}  # fmt: skip


def type_name(text: str) -> str:
    """Return the short name of a type: `int8` for `bigint`, `numeric` for `numeric(10,2)`."""
    plain = re.sub(r"\([\d, ]*\)", "", text.strip().lower())
    return _ALIASES.get(plain, plain)


def value_for(name: str, type: str, now: datetime, random: Random) -> Any:
    """Return a value for a column, as Python code receives it. An unknown type gets text.

    Args: type: a short name as of `type_name`; an array begins with `_` or ends with `[]`.
    """
    if type.startswith("_") or type.endswith("[]"):
        item = type.removeprefix("_").removesuffix("[]")
        return [value_for(name, item, now, random) for _ in range(2)]
    if type in _MAX_NUMBER:
        return random.randint(1, _MAX_NUMBER[type])
    make = _MAKERS.get(type)
    return _text(name, random) if make is None else make(now, random)


def _text(name: str, random: Random) -> str:
    lowered = name.lower()
    for pattern, make in _TEXTS:
        if pattern.search(lowered):
            return make(random)
    return " ".join(random.sample(WORDS, 2))


def _past(now: datetime, random: Random) -> datetime:
    return (now - timedelta(seconds=random.randint(0, 3600))).replace(microsecond=0)


def _moment(now: datetime, random: Random) -> time:
    return _past(now, random).time()


def _day(now: datetime, random: Random) -> date:
    return _past(now, random).date()


_TEXTS: Final[tuple[tuple[re.Pattern[str], Callable[[Random], str]], ...]] = (
    (re.compile("mail"), lambda random: f"{random.choice(FIRST_NAMES).lower()}@example.com"),
    (re.compile("url|link|website"), lambda random: f"https://example.com/{random.choice(WORDS)}"),
    (re.compile("phone"), lambda random: f"+1-555-01{random.randint(10, 99)}"),
    (re.compile("status|state"), lambda random: random.choice(STATES)),
    (re.compile("city|place|town"), lambda random: random.choice(CITIES)),
    (re.compile("user|name|author|owner"), lambda random: random.choice(FIRST_NAMES)),
)

_MAKERS: Final[dict[str, Callable[[datetime, Random], Any]]] = {
    "bool": lambda _, random: random.random() < 0.5,
    "numeric": lambda _, random: Decimal(random.randint(100, 99_999)) / 100,
    "float4": lambda _, random: random.randint(1, 4000) / 4,
    "float8": lambda _, random: random.randint(1, 4000) / 4,
    "uuid": lambda _, random: UUID(int=random.getrandbits(128), version=4),
    "date": _day,
    "time": _moment,
    "timetz": lambda now, random: _moment(now, random).replace(tzinfo=UTC),
    "timestamp": lambda now, random: _past(now, random).replace(tzinfo=None),
    "timestamptz": _past,
    "interval": lambda _, random: timedelta(minutes=random.randint(1, 600)),
    "json": lambda _, random: {random.choice(WORDS): random.randint(1, 9)},
    "jsonb": lambda _, random: {random.choice(WORDS): random.randint(1, 9)},
    "bytea": lambda _, random: random.randbytes(4),
    "inet": lambda _, random: f"192.0.2.{random.randint(1, 254)}",
    "bit": lambda _, random: random.choice("01"),
}
