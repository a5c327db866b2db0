"""The decisions of the relay, with the time given: what expires, what waits for a slow browser, what is repeated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec import Raw

from supawire import Broadcast, Insert, broadcast, changes
from supawire.events import ChangeData

pytest.importorskip("starlette")

from supawire.asgi.hub import Hub
from supawire.asgi.messages import Item
from supawire.asgi.view import View
from supawire.asgi.viewers import SLOW, Viewer

ALL = broadcast()
VIEW = View("room", ALL, broadcast("m"))


@dataclass
class Only:
    number: int

    def __call__(self, event: Any) -> Any:
        return event if event.payload == self.number else None


def hub(**options: Any) -> Hub:
    given: dict[str, Any] = {"backlog": 10, "backlog_bytes": 1000, "linger": 5.0, "on_error": _raise}
    given |= {"on_pending": lambda: None}
    return Hub("ab", **given | options)


def _raise(error: Exception) -> None:
    raise error


def viewer(**options: Any) -> Viewer:
    given: dict[str, Any] = {
        "limit": 10, "max_bytes": 10_000, "overflow": "error", "key": None, "heartbeat": 15.0, "send_timeout": 30.0,
        "wake": lambda: None, "cut": lambda: None, "now": 0.0,
    }  # fmt: skip
    return Viewer(**given | options)


def message(payload: Any) -> Broadcast[Any]:
    return Broadcast("room", "m", payload)


def test_a_topic_expires_after_its_last_user():
    """It expires when the last of its browsers has been gone for `linger` seconds, not if one has come meanwhile."""
    made = hub()
    topic = made.open("room", private=False)
    for _ in range(2):
        made.acquire(topic)
    made.release(topic, 0.0)
    assert made.expired(100.0) == []
    made.release(topic, 100.0)
    assert made.expired(104.9) == []
    made.acquire(topic)
    assert made.expired(200.0) == []
    made.release(topic, 200.0)
    assert made.expired(205.0) == [topic] and made.topics == {}


def test_an_event_of_several_selectors_is_one_message():
    """An event that matches two selectors of a browser is delivered once, and has one place in the backlog."""
    made = hub()
    topic, browser = made.open("room", private=False), viewer()
    made.attach(browser, [(topic, VIEW)], None)
    event = message(1)
    for selector in VIEW.selectors:
        made.receive(topic, selector, event)
    made.deliver()
    assert len(browser.take(1000)) == len(topic.backlog) == 1


def test_what_is_encoded_and_shown_is_shared():
    """Browsers get the same bytes; a `show` that several share is called once for an event."""
    made, calls = hub(), 0

    def show(event: Any) -> Any:
        nonlocal calls
        calls += 1
        return {"shown": event.payload}

    topic = made.open("room", private=False)
    plain, shown = [viewer() for _ in range(3)], [viewer() for _ in range(3)]
    for browser in plain:
        made.attach(browser, [(topic, View("room", ALL))], None)
    for browser in shown:
        made.attach(browser, [(topic, View("room", ALL, show=show))], None)
    made.receive(topic, ALL, message(1))
    made.deliver()
    for group in (plain, shown):
        taken = [browser.take(1000)[0] for browser in group]
        assert len({id(item) for item in taken}) == 1 and taken[0].frame() is taken[-1].frame()
    assert calls == 1


def test_show_may_be_an_object_without_a_hash():
    """An object that can be called but not hashed, such as a dataclass, works as `show`."""
    made, browser, view = hub(), viewer(), View("room", ALL, show=Only(1))
    topic = made.open("room", private=False)
    made.attach(browser, [(topic, view)], None)
    for number in (1, 2, 1):
        made.receive(topic, ALL, message(number))
    made.deliver()
    assert len(browser.take(1000)) == 2


def test_what_is_left_is_delivered_after_an_exception_that_ends_programs():
    """When `show` raises KeyboardInterrupt, the messages that wait are delivered by the next call."""
    calls: list[bool] = []

    def show(event: Any) -> Any:
        if event.payload == 0:
            raise KeyboardInterrupt
        return event

    made, browser = hub(on_pending=lambda: calls.append(True)), viewer()
    topic = made.open("room", private=False)
    made.attach(browser, [(topic, View("room", ALL, show=show))], None)
    for number in range(3):
        made.receive(topic, ALL, message(number))
    with pytest.raises(KeyboardInterrupt):
        made.deliver()
    assert len(calls) == 2
    made.deliver()
    assert len(browser.take(1000)) == 2


@pytest.mark.parametrize("limits", [{"backlog": 3}, {"backlog_bytes": 130}, {"backlog": 0}])
def test_a_backlog_is_bounded_and_says_what_it_has_lost(limits: dict[str, int]):
    """Beyond its limits the oldest messages go, and an id before them is answered with a gap first."""
    made = hub(**limits)
    topic = made.open("room", private=False)
    first = made.newest_id
    for number in range(6):
        made.receive(topic, ALL, message(number))
    made.deliver()
    kept = len(topic.backlog)
    assert kept <= 3
    missed = made.attach(viewer(), [(topic, View("room", ALL))], first)
    assert [item.name for item in missed] == ["gap", *["broadcast"] * kept]
    assert made.attach(viewer(), [(topic, View("room", ALL))], made.newest_id) == []


def test_the_newest_id_is_that_of_what_was_delivered():
    """A heartbeat between receiving and delivering a message does not claim that the browser has it."""
    made, first, late = hub(), viewer(), viewer()
    topic = made.open("room", private=False)
    made.attach(first, [(topic, VIEW)], None)
    before = made.newest_id
    made.receive(topic, ALL, message(1))
    assert made.newest_id == before
    assert [item.number for item in made.attach(late, [(topic, VIEW)], before)] == [2]
    assert made.newest_id == "ab-2" and len(first) == 1 and len(late) == 0


def test_an_id_from_before_a_topic_was_closed_is_a_gap():
    """A topic that was closed meanwhile has no backlog of that time, even if nothing else was sent."""
    made = hub(linger=0.0)
    topic = made.open("room", private=False)
    made.acquire(topic)
    last = made.newest_id
    made.release(topic, 0.0)
    assert made.expired(0.0)
    topic = made.open("room", private=False)
    assert [item.name for item in made.attach(viewer(), [(topic, VIEW)], last)] == ["gap"]


def test_heartbeats_and_timeouts_follow_the_clock():
    """A heartbeat is due after silence; a browser that accepts no data for `send_timeout` seconds is cut."""
    cut: list[bool] = []
    browser = viewer(cut=lambda: cut.append(True))
    assert browser.check(0.0) == 15.0 and not browser.heartbeat_due
    browser.sent(10.0)
    assert browser.check(15.0) == 25.0 and not browser.heartbeat_due
    browser.check(25.0)
    assert browser.heartbeat_due and browser.waits
    browser.writing_since = 26.0
    assert browser.check(40.0) == 56.0 and not cut
    browser.check(56.0)
    assert cut and browser.ended == SLOW


@pytest.mark.parametrize("overflow", ["error", "drop_oldest", "drop_newest", "latest"])
@pytest.mark.parametrize("limits", [{"limit": 4}, {"max_bytes": 150}])
def test_no_policy_lets_a_buffer_grow(overflow: Any, limits: dict[str, int]):
    """However much is sent to a browser that does not read, its buffer keeps within count and bytes."""
    key: Callable[[Any], Any] | None = (lambda event: event.payload) if overflow == "latest" else None
    made, browser = hub(), viewer(overflow=overflow, key=key, **limits)
    topic = made.open("room", private=False)
    made.attach(browser, [(topic, VIEW)], None)
    for number in range(50):
        made.receive(topic, ALL, message(number))
        made.deliver()
        assert len(browser) <= 4
    assert browser.dropped and (browser.ended == SLOW) == (overflow == "error")
    if overflow != "error":
        assert browser.take(10_000)[0].name == "gap"


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "latest"])
def test_dropped_answers_are_no_gaps(overflow: Any):
    """Answers that a browser does not read leave nothing behind, whatever topic it has written into its messages."""
    key: Callable[[Any], Any] | None = repr if overflow == "latest" else None
    browser = viewer(overflow=overflow, key=key, limit=2)
    for number in range(50):
        browser.put(Item("refused", f"topic {number}", b"{}"))
    assert browser.lost_topics == {} and browser.dropped == 48
    assert [item.name for item in browser.take(1000)] == ["refused"] * 2


def test_events_that_cannot_be_read_are_gaps():
    """An event whose values cannot be read becomes a gap in its kind of events."""
    made, browser, rows = hub(), viewer(), changes("orders")
    topic = made.open("room", private=False)
    made.attach(browser, [(topic, View("room", rows))], None)
    made.receive(topic, rows, Insert("room", ChangeData(record=Raw(b"{"))))
    made.deliver()
    (item,) = browser.take(1000)
    assert (item.name, item.lost) == ("gap", {"changes"})
