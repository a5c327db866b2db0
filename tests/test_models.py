"""`model=`: rows and payloads as objects of the user's classes."""

import subprocess
import sys
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Interface
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic.dataclasses
import pytest
from msgspec import Raw
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, create_model

from supawire import Delete, InvalidArgumentError, Update, broadcast, changes
from supawire._values.models import check_model
from supawire.events import ChangeData, with_model
from supawire.selectors import ModelSelector
from tests.modelled import change_of, message_of, refusal, typed_dict

T = TypeVar("T")

create: Any = create_model  # its arguments depend on the fields


# --- supported models


class Mood(Enum):
    SAD = "sad"


@dataclass
class Meta:
    x: float
    seen: list[date]


class MetaModel(BaseModel):
    x: float
    seen: list[date]


COLUMNS: dict[str, tuple[str, Any]] = {
    "id": ("int8", int),
    "title": ("text", str),
    "price": ("numeric", Decimal),
    "weight": ("numeric", float),
    "at": ("timestamptz", datetime),
    "day": ("date", date),
    "clock": ("time", time),
    "owner": ("uuid", UUID),
    "done": ("bool", bool),
    "tags": ("_text", list[str | None]),
    "grid": ("_int4", list[list[int | None]]),
    "data": ("bytea", bytes),
    "mood": ("mood", Mood),
    "span": ("int4range", str),
    "pause": ("interval", str),
    "note": ("text", str | None),
}
TYPES = {name: kind for name, (kind, _) in COLUMNS.items()} | {"meta": "jsonb"}
FIELDS: dict[str, Any] = {name: annotation for name, (_, annotation) in COLUMNS.items()}
RECORD = (
    '{"id": 9007199254740993, "title": "é", "price": 1.1000, "weight": 1.50, "at": "2024-01-02T03:04:05.123456+00:00",'
    ' "day": "2024-01-02", "clock": "03:04:05", "owner": "6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11", "done": true,'
    ' "tags": ["a", null], "grid": [[1, 2], [3, null]], "data": "00ff", "mood": "sad", "span": "[1,10)",'
    ' "pause": "1 day 02:03:04", "note": null, "meta": {"x": 1.5, "seen": ["2024-01-02"]}}'
)

KINDS: dict[str, type[Any]] = {
    "dataclass": make_dataclass("Row", (FIELDS | {"meta": Meta}).items()),
    "attrs": attrs.make_class("Row", {name: attrs.field(type=of) for name, of in (FIELDS | {"meta": Meta}).items()}),
    "struct": msgspec.defstruct("Row", (FIELDS | {"meta": Meta}).items()),
    "TypedDict": typed_dict("Row", FIELDS | {"meta": Meta}),
    "pydantic": create("Row", **{name: (kind, ...) for name, kind in (FIELDS | {"meta": MetaModel}).items()}),
    "pydantic dataclass": pydantic.dataclasses.dataclass(make_dataclass("Row", (FIELDS | {"meta": MetaModel}).items())),
}


@pytest.mark.parametrize("model", KINDS.values(), ids=KINDS)
def test_rows_become_objects_with_exact_values(model: type[Any]):
    """An object of each kind of class has the exact values of its row, nested ones by their own annotations."""
    record = change_of(RECORD, TYPES, model).record
    assert isinstance(record, dict if dict in model.__mro__ else model)
    got = dict(record) if isinstance(record, dict) else {name: getattr(record, name) for name in TYPES}
    meta = got.pop("meta")
    assert got == {
        "id": 9007199254740993,
        "title": "é",
        "price": Decimal("1.1000"),
        "weight": 1.5,
        "at": datetime(2024, 1, 2, 3, 4, 5, 123456, UTC),
        "day": date(2024, 1, 2),
        "clock": time(3, 4, 5),
        "owner": UUID("6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11"),
        "done": True,
        "tags": ["a", None],
        "grid": [[1, 2], [3, None]],
        "data": b"\x00\xff",
        "mood": Mood.SAD,
        "span": "[1,10)",
        "pause": "1 day 02:03:04",
        "note": None,
    }
    assert str(got["price"]) == "1.1000" and type(got["weight"]) is float
    assert (meta.x, meta.seen) == (1.5, [date(2024, 1, 2)])


MESSAGE = '{"user": "alice", "at": "2024-01-02T03:04:05Z", "price": 1.10, "big": 9007199254740993}'
MESSAGE_FIELDS: dict[str, Any] = {"user": str, "at": datetime, "price": Decimal, "big": int}
MESSAGES: dict[str, type[Any]] = {
    "dataclass": make_dataclass("Message", MESSAGE_FIELDS.items()),
    "struct": msgspec.defstruct("Message", MESSAGE_FIELDS.items()),
    "TypedDict": typed_dict("Message", MESSAGE_FIELDS),
    "pydantic": create("Message", **{name: (kind, ...) for name, kind in MESSAGE_FIELDS.items()}),
    "pydantic, strict": create(
        "Message", __config__=ConfigDict(strict=True), **{name: (kind, ...) for name, kind in MESSAGE_FIELDS.items()}
    ),
    "pydantic dataclass": pydantic.dataclasses.dataclass(make_dataclass("Message", MESSAGE_FIELDS.items())),
}


@pytest.mark.parametrize("model", MESSAGES.values(), ids=MESSAGES)
def test_payloads_become_objects(model: type[Any]):
    """The JSON of a broadcast becomes an object of each kind of class; everything else of the event is kept."""
    message = message_of(MESSAGE, model)
    payload = message.payload
    got = payload if isinstance(payload, dict) else {name: getattr(payload, name) for name in MESSAGE_FIELDS}
    assert got == {
        "user": "alice",
        "at": datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
        "price": Decimal("1.1"),
        "big": 9007199254740993,
    }
    assert (message.topic, message.event, message.id, message.replayed) == ("room", "e", "m1", True)


class Price(msgspec.Struct):
    amount: Decimal


def test_a_number_of_a_payload_becomes_an_exact_decimal():
    """A number of a payload is decoded into a Decimal with all its digits and its scale."""
    payload = message_of('{"amount": 12345678901234567.890}', Price).payload
    assert str(payload.amount) == "12345678901234567.890"


@dataclass
class Pause:
    pause: timedelta | None
    pauses: list[timedelta | None] = field(default_factory=list[timedelta | None])


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("1 day", timedelta(1)),
        ("-1 days", timedelta(-1)),
        ("00:00:00", timedelta(0)),
        ("1 day 02:03:04", timedelta(1, 7384)),
        ("-1 days +02:03:00", timedelta(-1, 7380)),
        ("3 days -04:05:06.7", timedelta(3) - timedelta(0, 14706, 700000)),
        ("-00:01:30", timedelta(0, -90)),
        ("100:00:00.000001", timedelta(0, 360000, 1)),
        ("P1DT2H", timedelta(1, 7200)),
    ],
)
def test_intervals_without_months_become_timedeltas(sent: str, expected: timedelta):
    """A timedelta field accepts an interval of days and smaller units; `row` has the text."""
    change = change_of(f'{{"pause": "{sent}"}}', {"pause": "interval"}, Pause)
    assert change.record == Pause(expected)
    assert change.row == {"pause": sent}
    listed = change_of(f'{{"pause": null, "pauses": ["{sent}", null]}}', {"pause": "interval"}, Pause)
    assert listed.record == Pause(None, [expected, None])


@dataclass
class Host:
    address: IPv4Interface
    anything: object = None


def test_networks_become_objects_of_ipaddress():
    """A field of a class of `ipaddress` accepts an inet, and a field of type Any accepts any value."""
    change = change_of('{"address": "10.0.0.1/8", "anything": [1]}', {"address": "inet", "anything": "jsonb"}, Host)
    assert change.record == Host(IPv4Interface("10.0.0.1/8"), [1])


class Renamed(msgspec.Struct, rename="camel"):
    user_id: int


class Aliased(BaseModel):
    user_id: int = Field(alias="userId")


class Chosen(BaseModel):
    user_id: int = Field(validation_alias=AliasChoices("uid", AliasPath("userId")))


class ByName(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    userId: int = Field(alias="other")  # noqa: N815


@pytest.mark.parametrize("model", [Renamed, Aliased, Chosen, ByName])
def test_renamed_fields_and_aliases_select_columns(model: type[Any]):
    """Renaming by msgspec and aliases of pydantic define the column of a field."""
    record = change_of('{"userId": 7}', {"userId": "int8"}, model).record
    assert list(record.model_dump().values() if isinstance(record, BaseModel) else [record.user_id]) == [7]


@dataclass
class Box(Generic[T]):
    id: T


def test_a_generic_class_is_supported():
    """`Box[int]` is a model, and its argument is checked."""
    assert change_of('{"id": 7}', {"id": "int8"}, Box[int]).record == Box(7)
    assert "id: Expected `str`" in str(refusal(change_of('{"id": 7}', {"id": "int8"}, Box[str])))


def test_columns_without_a_field_are_ignored():
    """A column without a field is not in the object, but in `row`."""
    change = change_of('{"id": 7, "more": "x"}', {"id": "int8", "more": "text"}, Box[int])
    assert (change.record, change.row) == (Box(7), {"id": 7, "more": "x"})


class Counted(msgspec.Struct):
    id: int

    def __post_init__(self) -> None:
        made.append(self.id)


made: list[int] = []


def test_an_object_is_created_on_first_access_and_cached():
    """No object is created before `record` or `payload` is read, nor by repr; then it is always the same object."""
    made.clear()
    change = change_of('{"id": 7}', {"id": "int8"}, Counted, kind=Update)
    message = message_of('{"id": 8}', Counted)
    assert "record={'id': 7}" in repr(change) and "payload={'id': 8}" in repr(message)
    assert (change.topic, change.old_record, change.row, made) == ("room", {"id": 1}, {"id": 7}, [])
    assert change.record is change.record and message.payload is message.payload
    assert made == [7, 8]


def test_listeners_without_a_model_receive_dicts():
    """A listener with a model receives a copy of the event; others read dicts, before and after."""
    plain = change_of('{"id": 7}', {"id": "int8"}, None)
    before = plain.record
    model = check_model(Box[int])
    assert model is not None
    assert with_model(plain, model).record == Box(7)
    assert plain.record is before and plain.row is before


def test_old_record_is_always_a_dict():
    """`old_record` is the dict that the server sent, whatever the model; a Delete has neither `record` nor `row`."""
    update = change_of('{"id": 7}', {"id": "int8"}, Box[int], kind=Update)
    assert update.old_record == {"id": 1}
    model = check_model(Box[int])
    assert model is not None
    data = ChangeData(
        "public", "t", "DELETE", columns=Raw(b'[{"name":"id","type":"int8"}]'), old_record=Raw(b'{"id":1}')
    )
    delete = with_model(Delete("room", data), model)
    assert delete.old_record == {"id": 1}
    assert not hasattr(delete, "record") and not hasattr(delete, "row")


# --- unsupported models


class Pair(NamedTuple):
    id: int


class Plain:
    id: int


@dataclass
class Lost:
    id: "Nowhere"  # noqa: F821  # pyright: ignore[reportUndefinedVariable]


class LostModel(BaseModel):
    id: "Nowhere"  # noqa: F821  # pyright: ignore[reportUndefinedVariable]


class Row(msgspec.Struct, array_like=True):
    id: int


@dataclass
class Vague:
    at: datetime | str


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (int, "not int"),
        (dict, "not dict; omit it to receive dicts"),
        (dict[str, int], "omit it to receive dicts"),
        (list[Meta], "not list"),
        ("Meta", "not 'Meta'"),
        (Meta(1.0, []), "pass the class itself, Meta"),
        (Meta | None, "not "),
        (Pair, "not Pair"),
        (Plain, "not Plain"),
        (Mood, "not Mood"),
        (msgspec.Struct, "not Struct"),
        (lambda: None, "not <function"),
        (Any, "Any"),
        (Lost, "'Nowhere' is not defined"),
        (LostModel, "'Nowhere' is not defined"),
        (Row, "array_like"),
        (Vague, "more than one str-like type"),
    ],
)
def test_unsupported_models_are_refused_at_once(model: Any, expected: str):
    """A class that cannot be created from rows and payloads raises InvalidArgumentError in the selector."""
    for make in (lambda: changes("users", model=model), lambda: broadcast("e", model=model)):
        with pytest.raises(InvalidArgumentError) as caught:
            make()
        assert expected in str(caught.value) and str(caught.value).startswith("model")


def test_selectors_with_a_model_are_values():
    """Selectors are equal and have equal hashes if selection and class are equal."""
    assert changes("users", model=Meta) == changes("users", model=Meta)
    assert len({changes("users", model=Meta), changes("users", model=Box), changes("users")}) == 3
    assert isinstance(changes("users", model=Meta), ModelSelector)
    assert repr(changes("users", model=Meta)).endswith("model=Meta)")


def test_pydantic_is_not_imported_by_supawire():
    """Models of other kinds work without pydantic being imported."""
    code = (
        "import dataclasses, sys; from supawire import broadcast, changes\n"
        "User = dataclasses.make_dataclass('User', [('id', int)])\n"
        "changes('users', model=User); broadcast(model=User)\n"
        "assert 'pydantic' not in sys.modules and 'aiohttp' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
