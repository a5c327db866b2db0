"""A socket that no channel needs is closed, and opened again on demand."""

from collections.abc import Callable

import pytest

from supawire.events import ConnectionState

from .conftest import Story


def test_an_idle_socket_is_closed_and_opened_again(make_story: Callable[..., Story]) -> None:
    """After idle_disconnect without channels the socket is closed; the next subscribe opens it, then joins."""
    story = make_story(idle_disconnect=5.0)
    story.open()
    room = story.joined()
    story.run_alive(60)
    assert story.session.state is ConnectionState.OPEN, "a wanted channel keeps it"
    story.call(story.session.leave, room, 10.0)
    story.reply(story.sent("phx_leave")[-1])
    story.run_alive(4.9)
    assert story.session.state is ConnectionState.OPEN
    story.run_alive(0.2)
    assert story.session.state is ConnectionState.IDLE
    assert story.session.next_deadline is None
    joins = len(story.sent("phx_join"))
    joining = story.call(story.session.join, room)
    assert story.session.state is ConnectionState.CONNECTING
    assert len(story.sent("phx_join")) == joins, "nothing is sent before the socket is open"
    story.accept()
    story.answer_join()
    assert story.outcome(joining) is None
    story.run_alive(60)
    assert story.session.state is ConnectionState.OPEN


def test_a_heartbeat_of_an_idle_socket_is_forgotten(make_story: Callable[..., Story]) -> None:
    """A heartbeat unanswered when the idle socket was closed does not end a later socket (R5)."""
    story = make_story(idle_disconnect=26.0)
    story.open()
    story.run_for(26.1)
    assert story.session.state is ConnectionState.IDLE
    story.call(story.session.open)
    story.accept()
    story.run_for(20)
    assert story.session.state is ConnectionState.OPEN


@pytest.mark.parametrize("how", ["timeout", "cancel", "remove"])
def test_a_withdrawn_wish_lets_the_socket_go_idle(make_story: Callable[..., Story], how: str) -> None:
    """A subscribe whose callers have all given up, and a removed channel, do not count as channels."""
    story = make_story(idle_disconnect=30.0)
    story.open()
    room = story.channel()
    ticket = story.call(story.session.join, room, timeout=2.0 if how == "timeout" else None)
    if how == "cancel":
        story.call(story.session.cancel, ticket)
    elif how == "remove":
        story.call(story.session.remove, room)
    story.run_alive(13)
    for frame in (*story.sent("phx_join"), *story.sent("phx_leave")):
        story.reply(frame, {"postgres_changes": []})
    story.run_alive(33)
    assert story.session.state is ConnectionState.IDLE


def test_a_wish_during_a_leave_keeps_the_socket(make_story: Callable[..., Story]) -> None:
    """A channel subscribed again while the last one leaves finds its socket open (R24)."""
    story = make_story(idle_disconnect=1.0)
    story.open()
    room, other = story.joined(), story.channel("other")
    story.call(story.session.leave, room, 10.0)
    story.run_alive(0.9)
    story.call(story.session.join, other)
    story.run_alive(5)
    assert story.session.state is ConnectionState.OPEN
