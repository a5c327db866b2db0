"""Create events as listeners with `model=` receive them."""

from typing import Any, TypedDict

import msgspec
import pytest
from msgspec import UNSET, Raw

from supawire import Insert, RowError, Update
from supawire._values.models import check_model
from supawire.events import ChangeData, LateBroadcast, with_model

typed_dict: Any = TypedDict
"""`TypedDict` without static types, for fields that type checkers reject."""

Kind = type[Insert[Any]] | type[Update[Any]]


def change_of(
    record: str, columns: dict[str, str], model: type[Any] | None, *, kind: Kind = Insert, errors: str = "null"
) -> Any:
    """Return a change with this record, as a listener with the model receives it."""
    listed = msgspec.json.encode([{"name": name, "type": kind} for name, kind in columns.items()])
    data = ChangeData(
        "public", "t", "UPDATE", None, Raw(listed), Raw(record.encode()), Raw(b'{"id":1}'), Raw(errors.encode())
    )
    change: Any = kind("room", data)
    made = check_model(model)
    return change if made is None else with_model(change, made)


def message_of(payload: str | bytes, model: type[Any]) -> Any:
    """Return a broadcast with this JSON, or these bytes, as a listener with the model receives it."""
    made = check_model(model)
    assert made is not None
    raw = payload if isinstance(payload, bytes) else Raw(payload.encode())
    late: Any = LateBroadcast
    return late("room", "e", UNSET, "m1", True, b"", raw, made)


def refusal(event: Any, attribute: str = "record") -> RowError:
    """Return the error that is raised when the attribute is read."""
    with pytest.raises(RowError) as caught:
        getattr(event, attribute)
    return caught.value
