"""The state machine of a channel's joins: its only entry is `handle`, and it is never entered twice at once."""

import pytest

from supawire.core.membership import Event, Membership
from supawire.events import ChannelState, Instant
from supawire.options import Secret
from supawire.selectors import changes

from .conftest import Story


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the events that machines handle; fail when one is handled while another is."""
    names: list[str] = []
    active: list[Event] = []
    handle = Membership.handle

    def checked(machine: Membership, event: Event, now: Instant) -> None:
        assert not active, f"{event} is handled during {active}"
        active.append(event)
        names.append(type(event).__name__)
        try:
            handle(machine, event, now)
        finally:
            active.pop()

    monkeypatch.setattr(Membership, "handle", checked)
    return names


def test_no_event_is_handled_while_another_is(handled: list[str]) -> None:
    """Two channels subscribe, rejoin, are refused, lose the connection, and leave: each step is one event."""
    story = Story()
    story.open()
    room, db = story.channel(), story.channel("db")
    story.join(room)
    story.join(db)
    assert handled == ["Subscribe", "SendJoin", "JoinAccepted"] * 2
    story.collect(db, changes("users"))
    story.run_for(0)
    story.refuse_join("Unauthorized: no")
    assert handled[6:] == ["RequirementsChanged", "RejoinDue", "SendJoin", "JoinRefused"]
    assert story.state(db) is ChannelState.FAILED
    story.call(story.session.set_channel_token, db, Secret("another"))
    story.answer_join()
    assert handled[10:] == ["TokenChanged", "SendJoin", "JoinAccepted"]
    story.call(story.session.leave, room, 10.0)
    story.call(story.session.join, room)
    assert story.state(room) is ChannelState.LEAVING
    story.reply(story.sent("phx_leave")[-1])
    assert handled[13:] == ["Leave", "Subscribe", "LeaveAnswered", "SendJoin"]
    story.drop(1006)
    story.come_back()
    assert handled[17:] == ["ConnectionLost", "ConnectionLost", "SendJoin", "SendJoin"]


def test_a_waiting_channel_is_sent_only_by_the_queue(handled: list[str]) -> None:
    """Without a connection a subscribe leaves the channel waiting; opening sends its join without another event."""
    story = Story()
    room = story.channel()
    story.call(story.session.join, room)
    assert handled == ["Subscribe"]
    assert story.state(room) is ChannelState.WAITING
    story.accept()
    assert handled == ["Subscribe", "SendJoin"]
    assert story.state(room) is ChannelState.JOINING
