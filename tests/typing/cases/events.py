"""Types of the fields of events."""

from datetime import datetime
from typing import Any, assert_never, assert_type

from supawire.events import Broadcast, Change, Delete, Gap, Insert, Update

Row = dict[str, Any]


def a_match_is_exhaustive(change: Change[Row]) -> None:
    match change:
        case Insert():
            assert_type(change.record, Row)
        case Update():
            assert_type(change.record, Row)
            assert_type(change.old_record, Row)
        case Delete():
            assert_type(change.old_record, Row)
            print(change.record)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        case _:
            assert_never(change)


def fields(change: Insert[Row], message: Broadcast[bytes], gap: Gap) -> None:
    assert_type(change.commit_timestamp, datetime | None)
    assert_type(change.truncated, bool)
    assert_type(message.payload, bytes)
    assert_type(gap.lost, frozenset[str])
    change.record = {}  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
