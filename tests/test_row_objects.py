"""Objects that are decoded straight from a row, compared with those that are made from a dict."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal, NotRequired
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType

from supawire import RowError, Update
from supawire._values.models import Model, check_model
from supawire.events import with_model
from tests.modelled import change_of, typed_dict


class Mood(Enum):
    SAD = "sad"
    GLAD = "glad"


class Level(IntEnum):
    LOW = 1


JSON_TYPES: tuple[Any, ...] = (
    Any,
    str,
    bool,
    list[Any],
    dict[str, Any],
    list[str],
    dict[str, dict[str, bool]],
    int,
    float,
)
FIELD_TYPES: dict[str, tuple[Any, ...]] = {
    "int4": (int, float, Annotated[int, msgspec.Meta(ge=0)], Level, Decimal, str),
    "int8": (int, float, int | str),
    "float8": (float, int, Decimal),
    "numeric": (Decimal, float, int, str),
    "bool": (bool, int),
    "text": (str, Mood, Literal["sad", "glad"], datetime, bytes, Annotated[str, msgspec.Meta(max_length=3)]),
    "timestamptz": (datetime, Annotated[datetime, msgspec.Meta(tz=True)], str, date),
    "timestamp": (datetime, Annotated[datetime, msgspec.Meta(tz=True)]),
    "date": (date, str),
    "time": (time, str),
    "timetz": (time, str),
    "uuid": (UUID, str),
    "bytea": (bytes, str),
    "interval": (str, timedelta),
    "mood": (Mood, str, Literal["sad"]),
    "money": (str, Decimal, float, Any),
    "json": JSON_TYPES,
    "jsonb": JSON_TYPES,
    "": JSON_TYPES,
    "_int4": (list[int], list[float], list[int | None], set[int], tuple[int, ...]),
    "_text": (list[str], list[Mood], list[str | None]),
    "_numeric": (list[Decimal], list[list[Decimal]]),
    "_json": (list[Any], list[dict[str, Any]], Any),
    "_bytea": (list[bytes],),
    "__text": (list[list[str]],),
}
"""The field types to try for each column type, the usual one first."""

SPECIAL = [
    "sad", "glad", "1", "1.50", "1e5", "NaN", "Infinity", "-Infinity", "{1,2}", "{a,NULL}", "ff00", "\\xff00",
    "2024-01-02", "2024-01-02T03:04:05", "2024-01-02T03:04:05.123+05:30", "2024-01-02 03:04:05+00", "0044-03-15 BC",
    "infinity", "24:00:00", "03:04:05", "03:04:05+02", "1 day 02:03:04",
]  # fmt: skip

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(2**53, 2**70), st.floats(), st.text(max_size=5),
    st.sampled_from(SPECIAL), st.uuids().map(str), st.datetimes().map(str), st.dates().map(str), st.times().map(str),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
)  # fmt: skip
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)
NUMBERS = [
    "1",
    "1.0",
    "1.50",
    "-0",
    "-0.0",
    "1e2",
    "1E400",
    "12345678901234567890.123456789012345",
    "0.1e-400",
    "1" * 5000,
]
texts = values.map(json.dumps) | st.sampled_from([*NUMBERS, "tru", '"\\ud800"', "01", '"a'])

FITTING: dict[str, tuple[str, ...]] = {
    "int4": ("1", "-7"),
    "int8": ("9007199254740993", "1"),
    "float8": ("1.5", "2"),
    "numeric": ("1.50", '"1.50"', "12345678901234567890.5"),
    "bool": ("true",),
    "text": ('"sad"', '"glad"'),
    "timestamptz": ('"2024-01-02T03:04:05.6+00:00"',),
    "timestamp": ('"2024-01-02T03:04:05"',),
    "date": ('"2024-01-02"',),
    "time": ('"03:04:05"',),
    "timetz": ('"03:04:05+02"',),
    "uuid": ('"6f1c0b8e-3f0e-4b6e-9c39-0c9ad1f8c9aa"',),
    "bytea": ('"ff00"',),
    "interval": ('"1 day"',),
    "mood": ('"sad"',),
    "money": ('"$1.00"',),
    "json": ('{"a":{"b":true}}', '["x",1.5]', '"x"'),
    "jsonb": ('{"a":"b"}', "[1]"),
    "": ('"x"', "true"),
    "_int4": ("[1,null,2]", "[1]"),
    "_text": ('["sad"]', '["a",null]'),
    "_numeric": ("[1.50]", "[[1.5]]"),
    "_json": ('[{"a":1}]',),
    "_bytea": ('["ff"]',),
    "__text": ('[["a"]]',),
}
"""Values that the server sends for each type."""


@dataclass(frozen=True)
class Case:
    """A class, the listed columns with their types, and the row as JSON."""

    kind: type[Any]
    columns: dict[str, str]
    record: str


def rename(name: str) -> str:
    return f"{name}-x"


def make_class(form: str, fields: list[tuple[str, Any, Any]], renamed: bool) -> type[Any]:
    """Create a class of one form; a field is its name, type and default (`...`: none)."""
    ordered = sorted(fields, key=lambda one: one[2] is not ...)
    match form:
        case "dataclass":
            return make_dataclass(
                "D",
                [(name, kind) if value is ... else (name, kind, field(default=value)) for name, kind, value in ordered],
            )
        case "typed dict":
            return typed_dict("T", {name: kind if value is ... else NotRequired[kind] for name, kind, value in ordered})
        case "unset":
            given = [(name, kind) if value is ... else (name, kind | UnsetType, UNSET) for name, kind, value in ordered]
            return msgspec.defstruct("U", given)
        case _:
            given = [(name, kind) if value is ... else (name, kind, value) for name, kind, value in ordered]
            return msgspec.defstruct(
                "S", given, rename=rename if renamed else None, forbid_unknown_fields=form == "strict"
            )


@st.composite
def cases(draw: Callable[..., Any]) -> Case:
    columns = draw(st.lists(st.sampled_from(list(FIELD_TYPES)), min_size=1, max_size=5))
    renamed = draw(st.booleans())
    form = draw(st.sampled_from(["struct", "dataclass", "typed dict", "strict", "unset"]))
    renames = renamed and form in ("struct", "strict")
    fields: list[tuple[str, Any, Any]] = []
    listed: dict[str, str] = {}
    sent: list[str] = []
    usual = draw(st.sampled_from([True, True, False]))  # mostly rows for which a decoder is found
    for number, column in enumerate(columns):
        name = f"f{number}"
        as_sent = rename(name) if renames else name
        if draw(st.integers(0, 9)):
            kinds = FIELD_TYPES[column]
            kind: Any = kinds[0] if usual else draw(st.sampled_from(kinds))
            kind = draw(st.sampled_from([kind, kind | None])) if kind is not Any else Any
            fields.append((name, kind, draw(st.sampled_from([..., ..., None, "default"]))))
        if draw(st.integers(0, 9)):
            listed[as_sent] = column
        if draw(st.integers(0, 19)):
            text = draw(st.sampled_from(FITTING[column])) if draw(st.integers(0, 9)) else draw(texts)
            sent.append(f"{json.dumps(as_sent)}:{text}")
    if not draw(st.integers(0, 9)):
        sent.append(f"{draw(st.sampled_from([chr(34) + 'extra' + chr(34), chr(34) + 'f0' + chr(34)]))}:{draw(texts)}")
    return Case(make_class(form, fields, renames), listed, "{" + ",".join(sent) + "}")


def outcome(case: Case, model: Model, kind: Any = Update) -> tuple[Any, ...]:
    """Return what reading the record gives: the object, or the error with everything that users see of it."""
    change = with_model(change_of(case.record, case.columns, None, kind=kind), model)
    try:
        made = change.record
    except RowError as error:
        return str(error), error.hint, error.raw, error.topic
    assert change.record is made
    return type(made), repr(made), change.old_record


@pytest.mark.slow
@given(cases())
def test_both_ways_give_the_same(case: Case):
    """For every class, list of columns and row, decoding straight gives the object or the error of the usual way."""
    model = check_model(case.kind)
    assert model is not None
    assert outcome(case, model) == outcome(case, msgspec.structs.replace(model, row_decoders=None))


def columns_of(case: Case) -> bytes:
    return bytes(change_of(case.record, case.columns, None)._data.columns)


def straight(kind: type[Any], columns: dict[str, str], record: str) -> bool:
    """Return whether the row is decoded straight to the class; both ways must agree."""
    model, case = check_model(kind), Case(kind, columns, record)
    assert model is not None
    assert outcome(case, model) == outcome(case, msgspec.structs.replace(model, row_decoders=None))
    return model.read_row(columns_of(case), record.encode()) is not None


@dataclass
class User:
    id: int
    name: str
    score: Decimal = Decimal(0)


COLUMNS = {"id": "int8", "name": "text", "score": "numeric", "note": "text"}


def test_a_row_is_decoded_straight_to_a_class():
    """A row with all columns of a class needs no dict, and columns without a field may be there or not."""
    assert straight(User, COLUMNS, '{"id":1,"name":"Ada","score":1.50,"note":"x"}')
    assert straight(User, COLUMNS, '{"id":1,"name":"Ada","score":1.50}')


@pytest.mark.parametrize(
    "record",
    [
        '{"id":1,"name":"Ada"}',
        '{"id":1,"score":1}',
        '{"id":null,"name":"Ada","score":1}',
        '{"id":"1","name":"Ada","score":1}',
        '{"id":1,"name":"Ada","score":NaN}',
        "{}",
        "null",
        "[]",
        '{"id":1',
    ],
    ids=["unsent default", "unsent", "null", "text", "not JSON", "no column", "null row", "array", "cut off"],
)
def test_a_row_that_does_not_fit_is_decoded_the_usual_way(record: str):
    """A row without one of the columns, with another value or with an error is not decoded straight."""
    assert not straight(User, COLUMNS, record)


@pytest.mark.parametrize(
    ("column", "kind", "text"),
    [
        ("bytea", bytes, '"ff00"'),
        ("timetz", time, '"03:04:05+02:00"'),
        ("interval", timedelta, '"1 day"'),
        ("json", float, "1"),
        ("money", Any, "1.5"),
        ("numeric", int, "5"),
    ],
)
def test_types_whose_values_are_converted_are_decoded_the_usual_way(column: str, kind: Any, text: str):
    """A column is not decoded straight if its JSON value means something else than its value in a dict."""
    assert not straight(make_dataclass("D", [("a", kind)]), {"a": column}, f'{{"a":{text}}}')


def test_a_column_that_is_not_listed_is_optional():
    """A field without a column gets its default; one without a default has an error that names it."""
    assert straight(User, {"id": "int8", "name": "text"}, '{"id":1,"name":"Ada"}') is False  # a numeric without a type
    assert straight(make_dataclass("D", [("id", int), ("x", str, "y")]), {"id": "int8"}, '{"id":1}')


def test_an_exception_of_a_class_is_raised_once():
    """An exception of `__post_init__` that is not a ValueError is raised unchanged, after one call."""
    calls: list[int] = []

    @dataclass
    class Picky:
        id: int

        def __post_init__(self) -> None:
            calls.append(self.id)
            raise KeyError(self.id)

    with pytest.raises(KeyError):
        _ = change_of('{"id":1}', {"id": "int8"}, Picky).record
    assert calls == [1]


def test_decoders_follow_the_columns():
    """Rows of one class with changing lists of columns are decoded by the list that came with them."""
    wide = change_of('{"id":1,"name":"Ada","score":"1.50"}', COLUMNS, User)
    narrow = change_of('{"id":1,"name":"Ada"}', {"id": "int8", "name": "text"}, User)
    assert [one.record for one in (wide, narrow)] == [User(1, "Ada", Decimal("1.50")), User(1, "Ada")]


def test_columns_without_a_field_are_skipped():
    """A value that cannot be decoded raises no error in a column that the class does not have, but in `row`."""
    kind = make_dataclass("Name", [("id", int), ("name", str)])
    change = change_of(
        '{"id":1,"name":"Ada","more":1e99999999999999999999}', {"id": "int8", "name": "text", "more": "jsonb"}, kind
    )
    assert change.record == kind(1, "Ada")
    with pytest.raises(RowError):
        _ = change.row
