"""Rows and payloads that do not fit their model: an error on access, and the data stays available."""

import traceback
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv6Interface
from typing import Annotated, Any, Literal, NotRequired, TypedDict
from uuid import UUID

import pydantic.dataclasses
import pytest
from msgspec import UNSET, Struct, UnsetType
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from supawire import RowError, Update
from tests.modelled import change_of, message_of, refusal, typed_dict


def one_field(kind: str, annotation: Any) -> type[Any]:
    """A class of this kind with the field `v`."""
    if kind == "dataclass":
        return dataclass(type("Row", (), {"__annotations__": {"v": annotation}}))
    if kind == "TypedDict":
        return typed_dict("Row", {"v": annotation})
    return type("Row", (Struct if kind == "struct" else BaseModel,), {"__annotations__": {"v": annotation}})


KINDS = ["dataclass", "TypedDict", "struct", "pydantic"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("column", "sent", "annotation"),
    [
        ("timestamptz", '"infinity"', datetime),
        ("timestamp", '"-infinity"', datetime),
        ("timestamp", '"0044-03-15T00:00:00 BC"', datetime),
        ("timestamptz", '"12345-01-02T03:04:05+00:00"', datetime),
        ("date", '"infinity"', date),
        ("date", '"0044-03-15 BC"', date),
        ("date", '"10000-01-01"', date),
        ("time", '"24:00:00"', time),
        ("timetz", '"24:00:00+00"', time),
        ("float8", "null", float),
        ("int8", "7", str),
        ("text", '"seven"', int),
        ("numeric", "1.5", int),
        ("uuid", '"nope"', UUID),
        ("money", '"$1,000.00"', Decimal),
        ("_int4", "[1, null]", list[int]),
        ("interval", '"1 mon"', timedelta),
        ("interval", '"-1 years"', timedelta),
        ("interval", '"2147483647 days"', timedelta),
        ("inet", '"10.0.0"', IPv4Address),
        ("inet", '"10.0.0.1/8"', IPv6Interface),
        ("text", '"x"', complex),
    ],
)
def test_an_invalid_value_raises_an_error_with_its_column(kind: str, column: str, sent: str, annotation: Any):
    """A value that Python or the class cannot represent raises RowError, which names column and class."""
    record = f'{{"v": {sent}}}'
    change = change_of(record, {"v": column}, one_field(kind, annotation))
    error = refusal(change)
    assert "the row cannot be converted to Row: v" in error.message
    assert (error.raw, error.topic, error.retryable) == (record.encode(), "room", False)
    assert "v" in change.row


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_does_not_fit_stays_readable(kind: str):
    """Each read raises a new error; `row`, `raw` and the other attributes of the change stay readable."""
    change = change_of('{"v": "x", "w": 1.10}', {"v": "text", "w": "numeric"}, one_field(kind, int), kind=Update)
    first, second = refusal(change), refusal(change)
    assert first is not second
    assert change.row == {"v": "x", "w": Decimal("1.10")}
    assert change.row is change.row
    assert change.raw["record"] == {"v": "x", "w": 1.1}
    assert change.old_record == {"id": 1}


@pytest.mark.parametrize("record", ["[1]", '{"v": ', '{"v": nope}', '"x"'])
def test_an_invalid_record_raises_the_same_error_with_a_model(record: str):
    """A record that is not a JSON object raises RowError with the received data, with and without a model."""
    for model in (one_field("struct", int), None):
        change = change_of(record, {"v": "int8"}, model)
        for error in (refusal(change), refusal(change, "row")):
            assert (error.raw, error.topic) == (record.encode(), "room")


# --- missing values


class Post(Struct):
    id: int
    body: str = ""


class OpenPost(Struct):
    id: int
    body: str | UnsetType = UNSET


class DictPost(TypedDict):
    id: int
    body: NotRequired[str]


class PydanticPost(BaseModel):
    id: int
    body: str | None = None


class AliasedPost(BaseModel):
    id: int
    text: str | None = Field(default=None, validation_alias=AliasChoices("content", "body"))


@pydantic.dataclasses.dataclass
class PydanticDataclassPost:
    id: int
    body: str | None = None


@dataclass
class DataclassPost:
    id: int
    body: list[str] = field(default_factory=list[str])


@dataclass
class RequiredPost:
    id: int
    body: str


POST = {"id": "int8", "body": "text"}
CLOSED = [Post, PydanticPost, AliasedPost, PydanticDataclassPost, DataclassPost, RequiredPost]


@pytest.mark.parametrize("model", CLOSED)
def test_a_missing_value_does_not_become_a_default(model: type[Any]):
    """A large value that an UPDATE did not change becomes neither the default of its field nor None."""
    change = change_of('{"id": 7}', POST, model, kind=Update)
    error = refusal(change)
    assert error.message == f"the row cannot be converted to {model.__name__}: the server did not send body"
    assert "left alone" not in error.message and "`row`" in (error.hint or "")
    assert change.row == {"id": 7}


@pytest.mark.parametrize(("model", "expected"), [(OpenPost, OpenPost(7)), (DictPost, {"id": 7})])
def test_a_field_that_may_be_unset_may_be_missing(model: type[Any], expected: Any):
    """A field that may be UNSET, and a NotRequired key, distinguish a missing value from null."""
    assert change_of('{"id": 7}', POST, model, kind=Update).record == expected


def test_null_is_distinguished_from_missing():
    """A null that was sent is None, with the same class."""
    assert change_of('{"id": 7, "body": null}', POST, PydanticPost).record == PydanticPost(id=7, body=None)


@pytest.mark.parametrize("model", CLOSED)
def test_a_missing_column_without_a_field_is_allowed(model: type[Any]):
    """Only columns with a field must have been sent."""
    columns = POST | {"content": "text"} if model is not AliasedPost else POST
    sent = '{"id": 7, "body": "x"}' if model is not DataclassPost else '{"id": 7, "body": ["x"]}'
    columns |= {"huge": "text"}
    assert change_of(sent, columns, model, kind=Update).record.id == 7


def test_one_of_several_aliases_is_sufficient():
    """A field with several aliases has its value if one of them was sent."""
    columns = {"id": "int8", "content": "text", "body": "text"}
    assert change_of('{"id": 7, "body": "x"}', columns, AliasedPost).record.text == "x"
    assert "did not send body, content" in refusal(change_of('{"id": 7}', columns, AliasedPost)).message


@pytest.mark.parametrize("model", [Post, PydanticPost, OpenPost, DictPost])
def test_an_unlisted_column_takes_the_default_of_its_field(model: type[Any]):
    """A column that the server does not list was not selected or does not exist, so the class decides."""
    record = change_of('{"id": 7}', {"id": "int8"}, model).record
    assert record == (model(id=7) if model is not DictPost else {"id": 7})


@pytest.mark.parametrize("model", [Post, OpenPost, DictPost, PydanticPost])
def test_a_truncated_row_is_available_as_a_dict(model: type[Any]):
    """`row` has the columns that were sent; an object is created only if its class allows missing values."""
    change = change_of('{"id": 7}', POST, model, errors='["Error 413: Payload Too Large"]')
    assert change.truncated and change.row == {"id": 7}
    if model in (OpenPost, DictPost):
        assert change.record in (OpenPost(7), {"id": 7})
    else:
        assert "did not send body" in refusal(change).message


class AllDefaults(Struct):
    id: int = 0


class NothingRequired(TypedDict, total=False):
    id: int


@pytest.mark.parametrize("model", [AllDefaults, NothingRequired])
@pytest.mark.parametrize("error", ["Error 401: Unauthorized", "Error 400: Bad Request, no primary key"])
def test_an_unauthorized_row_raises_an_error(model: type[Any], error: str):
    """A row that the role may not read is not an object of defaults; the error has the server's text."""
    change = change_of("{}", {}, model, errors=f'["{error}"]')
    assert refusal(change).message == f"the server sent no columns of this row: {error}"
    assert change.row == {}
    assert change.unauthorized is ("401" in error)


# --- payloads


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("payload", ['{"v": "x"}', "[1]", "null", '"x"', '{"v": '])
def test_an_invalid_payload_raises_an_error(kind: str, payload: str):
    """A message that does not fit raises RowError with the received text, each time it is read."""
    message = message_of(payload, one_field(kind, int))
    for _ in range(2):
        error = refusal(message, "payload")
        assert (error.raw, error.topic) == (payload.encode(), "room")
        assert error.message.startswith("the payload cannot be converted to Row: ")


@pytest.mark.parametrize("kind", KINDS)
def test_a_binary_message_cannot_become_an_object(kind: str):
    """A binary message raises RowError with its bytes, even if they contain JSON."""
    error = refusal(message_of(b'{"v": 1}', one_field(kind, int)), "payload")
    assert error.message == "the payload is bytes, but Row requires JSON"
    assert error.raw == b'{"v": 1}'


# --- validation by the classes


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    v: Decimal


class Forbidding(Struct, forbid_unknown_fields=True):
    v: Decimal


def test_strictness_is_that_of_the_class():
    """Values are refused or converted as the strictness settings of pydantic or the struct define."""
    assert change_of('{"v": 1.10}', {"v": "numeric"}, Strict).record.v == Decimal("1.10")
    assert "v: " in refusal(change_of('{"v": 1}', {"v": "int8"}, Strict)).message
    for model in (Strict, Forbidding):
        assert "w" in refusal(change_of('{"v": 1.10, "w": 1}', {"v": "numeric", "w": "int8"}, model)).message


class Checked(Struct):
    v: int

    def __post_init__(self) -> None:
        if self.v < 0:
            raise ValueError("v is below zero")


class CheckedModel(BaseModel):
    v: int

    @model_validator(mode="after")
    def check(self) -> "CheckedModel":
        if self.v < 0:
            raise ValueError("v is below zero")
        return self


@pytest.mark.parametrize("model", [Checked, CheckedModel])
def test_a_validation_error_of_the_class_is_a_row_error(model: type[Any]):
    """A ValueError raised by the class becomes a RowError with its text."""
    assert change_of('{"v": 1}', {"v": "int8"}, model).record.v == 1
    assert "v is below zero" in refusal(change_of('{"v": -1}', {"v": "int8"}, model)).message


class Broken(Struct):
    v: int

    def __post_init__(self) -> None:
        raise KeyError("a bug")


def test_other_exceptions_of_the_class_are_raised_unchanged():
    """Any other exception of the user's class is not converted to RowError."""
    with pytest.raises(KeyError, match="a bug"):
        _ = change_of('{"v": 1}', {"v": "int8"}, Broken).record


class Mood(Enum):
    SAD = "sad"


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


class CatStruct(Struct, tag="cat"):
    pass


class DogStruct(Struct, tag="dog"):
    pass


class OwnerStruct(Struct):
    pet: CatStruct | DogStruct


@pytest.mark.parametrize("model", [Owner, OwnerStruct])
def test_an_unknown_union_tag_is_not_shown(model: type[Any]):
    """The error names the place of a wrong union tag, without the value."""
    error = refusal(message_of('{"pet": {"kind": "secret-value", "type": "secret-value"}}', model), "payload")
    assert "pet" in error.message and "secret-value" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("kind", KINDS)
def test_errors_do_not_show_values(kind: str):
    """Neither the error nor its traceback contains values of the row, because errors are logged."""
    for annotation in (int, datetime, IPv4Address, timedelta, Mood, Literal["sad"], list[int]):
        change = change_of('{"v": "secret-value"}', {"v": "text"}, one_field(kind, annotation))
        message = message_of('{"v": "secret-value"}', one_field(kind, annotation))
        for event, attribute in ((change, "record"), (message, "payload")):
            error = refusal(event, attribute)
            assert "secret-value" not in "".join(traceback.format_exception(error))


class Wide(BaseModel):
    a: int
    b: int
    c: int
    d: int
    e: int
    f: int
    g: int


def test_an_error_names_at_most_five_columns():
    """The remaining ones are counted."""
    columns = dict.fromkeys("abcdefg", "text")
    text = refusal(change_of("{" + ", ".join(f'"{name}": "x"' for name in columns) + "}", columns, Wide)).message
    assert text.endswith("; and 2 more") and text.count("valid integer") == 5


def test_the_hint_of_an_error_names_the_row():
    """The hint names `row`, and the error is a ValueError, as for rows without a model."""
    error = refusal(change_of('{"v": "x"}', {"v": "text"}, one_field("struct", int)))
    assert isinstance(error, RowError) and isinstance(error, ValueError)
    assert str(error) == "the row cannot be converted to Row: v: Expected `int`, got `str`. `row` has it as a dict."
