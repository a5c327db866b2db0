"""The queue of joins: timeouts of joins, timeouts paused meanwhile, and gaps that begin at a slow join (R22)."""

from collections.abc import Callable

import pytest

from supawire.errors import OperationTimeout
from supawire.events import ChannelState, ConnectionState, Gap
from supawire.options import SessionOptions
from supawire.selectors import broadcast, changes, gaps
from supawire.server.hub_options import HubOptions, Timings
from supawire.testing.harness import NOT_YET, error_of
from supawire.testing.linked import SECRET, World

from .conftest import SUBSCRIBED, TROUBLE, Story

HELLO = {"type": "broadcast", "event": "hello", "payload": {"n": 1}}


def test_a_join_has_its_full_timeout_after_a_lost_connection(story: Story) -> None:
    """A connection lost at 80 % of a join's timeout gives the next join the full timeout again (R22)."""
    story.open()
    room = story.channel()
    story.call(story.session.join, room)
    story.run_for(16)
    story.drop(1006)
    story.reconnect()
    story.run_for(19.9)
    assert story.state(room) is ChannelState.JOINING
    story.answer_join()
    assert story.state(room) is ChannelState.JOINED
    story.run_alive(60)
    assert story.state(room) is ChannelState.JOINED
    assert len(story.sent("phx_join")) == 2
    assert story.sent("phx_leave") == []


@pytest.mark.parametrize("end", ["reply", "leave", "drop"])
def test_the_deadline_of_a_join_ends_with_the_join(story: Story, end: str) -> None:
    """After its reply, a leave or a lost connection, the deadline of a join has no effect (R22)."""
    story.open()
    room = story.channel()
    story.call(story.session.join, room)
    story.run_for(19)
    if end == "reply":
        story.answer_join()
    elif end == "leave":
        story.call(story.session.leave, room, 0.5)
        story.reply(story.sent("phx_join")[0], {"postgres_changes": []})
        story.reply(story.sent("phx_leave")[0])
    else:
        story.drop(1006)
    state = story.state(room)
    story.run_for(1.2)
    if end != "drop":
        assert story.state(room) is state
        assert story.session.state is ConnectionState.OPEN
    assert not [error for error in story.errors if isinstance(error, OperationTimeout)]


def test_the_timeout_of_a_join_starts_after_the_join_before_it(story: Story) -> None:
    """The timeout of a join starts when the join before it on this connection is answered (R22)."""
    story.open()
    one, two = story.channel("one"), story.channel("two")
    story.call(story.session.join, one)
    story.call(story.session.join, two)
    first, second = story.sent("phx_join")
    story.run_for(19)
    story.reply(first, {"postgres_changes": []})
    story.run_for(19)
    assert story.state(two) is ChannelState.JOINING
    story.reply(second, {"postgres_changes": []})
    assert story.state(two) is ChannelState.JOINED
    assert story.session.state is ConnectionState.OPEN


def test_a_silent_socket_is_dropped_at_the_deadline_of_a_join(story: Story) -> None:
    """If no frame arrives between a join and its deadline, the socket is dropped instead of the join."""
    story.open()
    story.joined("other")
    room = story.channel()
    story.run_for(1)
    story.call(story.session.join, room)
    story.run_for(20.1)
    assert story.session.state is ConnectionState.RETRYING
    assert story.state(room) is ChannelState.WAITING
    assert story.sent("phx_leave") == []
    assert len(story.aborts) == 1


def test_ack_timeouts_are_paused_while_a_join_is_unanswered(story: Story) -> None:
    """The timeout of an ack runs only while no join of its connection is unanswered."""
    story.open()
    room, slow = story.joined(ack=True), story.channel("slow")
    story.run_for(1)
    acked = story.broadcast(room, ack=True, timeout=2.0)
    story.run_for(1.5)
    story.call(story.session.join, slow)
    story.run_for(15)
    assert story.outcome(acked) is NOT_YET
    story.answer_join()
    story.run_for(0.4)
    assert story.outcome(acked) is NOT_YET
    story.run_for(0.2)
    assert isinstance(error_of(story.outcome(acked)), OperationTimeout)


def test_an_explicit_timeout_is_not_paused_by_an_unanswered_join(story: Story) -> None:
    """An explicit timeout of an ack or a ping is kept, whatever blocks the connection (R22)."""
    story.open()
    room = story.joined(ack=True)
    before = story.broadcast(room, ack=True, timeout=2.0, ignore_queue_time=False)
    story.run_for(1)
    story.call(story.session.join, story.channel("slow"))
    behind = story.broadcast(room, ack=True, timeout=0.5, ignore_queue_time=False)
    ping, patient = (
        story.call(story.session.ping, 0.5),
        story.call(story.session.ping, 0.5, ignore_queue_time=True),
    )
    story.run_for(0.49)
    assert {story.outcome(ticket) for ticket in (before, behind, ping, patient)} == {NOT_YET}
    story.run_for(0.02)
    assert all(isinstance(error_of(story.outcome(ticket)), OperationTimeout) for ticket in (behind, ping))
    assert story.outcome(before) is NOT_YET
    story.run_for(0.5)
    assert isinstance(error_of(story.outcome(before)), OperationTimeout)
    story.run_for(10)
    assert story.outcome(patient) is NOT_YET
    story.answer_join()
    story.run_for(0.6)
    assert isinstance(error_of(story.outcome(patient)), OperationTimeout)


@pytest.mark.parametrize(("ignore_queue_time", "seconds"), [(False, 10.0), (True, 19.0)])
def test_an_explicit_timeout_includes_queueing_and_the_ack(
    make_story: Callable[..., Story], ignore_queue_time: bool, seconds: float
) -> None:
    """A broadcast queued for nine of its explicit ten seconds has one second left for its ack (R32)."""
    story = make_story(offline="wait")
    story.open()
    room = story.channel(ack=True)
    story.call(story.session.join, room)
    kept = story.broadcast(room, ack=True, timeout=10.0, ignore_queue_time=ignore_queue_time)
    story.run_for(9)
    story.answer_join()
    story.run_for(seconds - 9 - 0.01)
    assert story.outcome(kept) is NOT_YET
    story.run_for(0.02)
    assert isinstance(error_of(story.outcome(kept)), OperationTimeout)


def test_ten_refused_joins_cause_no_reconnect() -> None:
    """Ten refused joins of a hundred, each blocking the connection for 5 s, cause no reconnect; ninety are joined."""
    world = World(hub=HubOptions(secret=SECRET, timings=Timings.strict()))
    ada = world.client(SessionOptions())
    ada.keep_history = False
    rooms = {ada.channel(f"room-{number}"): number for number in range(100)}
    for number in range(0, 100, 10):
        world.act(world.hub.faults.reject_join, f"room-{number}", "Unauthorized: no")
    for room in rooms:
        ada.start(ada.session.join, room)
    world.run_for(90)
    states = {room: ada.session.channels[room].state for room in rooms}
    assert {states[room] for room, number in rooms.items() if number % 10} == {ChannelState.JOINED}
    assert {states[room] for room, number in rooms.items() if not number % 10} == {ChannelState.FAILED}
    assert ada.session.stats().connects == 1


def test_the_first_join_after_a_lost_connection_has_a_deadline(story: Story) -> None:
    """The join of a new socket is first in its queue, whatever was unanswered on the old one, and times out (R22)."""
    story.open()
    room = story.channel()
    story.call(story.session.join, room)
    story.drop(1006)
    story.reconnect()
    story.run_for(20.1)
    assert len(story.aborts) == 1
    assert story.session.state is ConnectionState.RETRYING


def test_the_error_of_a_channel_is_the_timeout_of_its_join(story: Story) -> None:
    """While the channel waits for the retry, `error` is the timeout (R22, R23)."""
    story.open()
    other, room = story.joined("other"), story.channel()
    story.call(story.session.join, room)
    story.run_for(10)
    story.receive(other, "broadcast", {"event": "e", "payload": {}})
    story.run_for(10.1)
    error = error_of(story.at(room).error)
    assert isinstance(error, OperationTimeout)
    assert error.retryable


# --- the start of a gap while the server processes a join and sends nothing else


def test_a_gap_begins_at_the_join_that_delayed_frames(make_story: Callable[..., Story]) -> None:
    """If the connection is lost behind an unanswered join, the gap includes what was delayed since that join (R44)."""
    story = make_story()
    story.open()
    reported = story.collect(story.joined("room"), broadcast(), gaps())
    story.run_alive(100)
    requested_at = story.now.wall
    story.call(story.session.join, story.channel("slow"))
    story.run_for(3)
    story.receive("realtime:room", "broadcast", {"event": "on its way", "payload": {}})
    story.run_for(3)
    story.drop(1006)
    story.reconnect()
    for join in story.sent("phx_join")[-2:]:
        story.reply(join, {"postgres_changes": []})
    gap = reported[-1]
    assert isinstance(gap, Gap) and gap.reason == "connection_lost"
    assert abs(gap.started_at.timestamp() - requested_at) < 0.001


def test_a_gap_does_not_begin_before_the_join_of_its_channel(make_story: Callable[..., Story]) -> None:
    """A channel that was joined while the server was busy with another join has no gap from before its join (R44)."""
    story = make_story()
    story.open()
    story.call(story.session.join, story.channel("slow"))
    story.run_for(3)
    reported = story.collect(story.channel("room"), broadcast(), gaps())
    story.call(story.session.join, "realtime:room")
    story.answer_join()
    joined_at = story.now.wall
    story.run_for(3)
    story.drop(1006)
    story.reconnect()
    for join in story.sent("phx_join")[-2:]:
        story.reply(join, {"postgres_changes": []})
    assert abs(reported[-1].started_at.timestamp() - joined_at) < 0.001


def test_a_gap_of_changes_begins_at_the_join_that_delayed_the_error(make_story: Callable[..., Story]) -> None:
    """An error of changes received behind a slow join may be as old as that join, and so is its gap (R19, R44)."""
    story = make_story()
    story.open()
    reported = story.collect(story.channel("db"), changes("users"), gaps())
    story.join("realtime:db")
    story.system("realtime:db", SUBSCRIBED)
    story.run_alive(100)
    requested_at = story.now.wall
    story.call(story.session.join, story.channel("slow"))
    story.run_for(6)
    story.answer_join()
    story.system("realtime:db", TROUBLE, status="error")
    story.run_for(5)
    story.system("realtime:db", SUBSCRIBED)
    assert [(gap.reason, gap.lost) for gap in reported] == [("degraded", {"changes"})]
    assert abs(reported[0].started_at.timestamp() - requested_at) < 0.001
