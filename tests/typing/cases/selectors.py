"""A selector determines the type of the events that its handler receives."""

from typing import Any, assert_type

from supawire.events import Broadcast, Change, Delete, Gap, Insert, PresenceEvent, Status, System, Update
from supawire.selectors import Selector, broadcast, changes, gaps, presence, status, system


def by_kind() -> None:
    assert_type(broadcast("typing"), Selector[Broadcast[Any]])
    assert_type(presence(), Selector[PresenceEvent])
    assert_type(system(), Selector[System])
    assert_type(gaps(), Selector[Gap])
    assert_type(status(), Selector[Status])


def changes_by_event() -> None:
    assert_type(changes("users"), Selector[Change[dict[str, Any]]])
    assert_type(changes("users", event="INSERT"), Selector[Insert[dict[str, Any]]])
    assert_type(changes("users", event="UPDATE"), Selector[Update[dict[str, Any]]])
    assert_type(changes("users", event="DELETE"), Selector[Delete])
    changes("users", evnt="INSERT")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    changes("users", event="insert")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


def a_narrow_selector_is_also_a_wide_one(insert: Selector[Insert[dict[str, Any]]]) -> Selector[Change[dict[str, Any]]]:
    return insert
