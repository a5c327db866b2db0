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

from .conftest import SUBSCRIBED, TROUBLE, Harness

HELLO = {"type": "broadcast", "event": "hello", "payload": {"n": 1}}


def test_a_join_has_its_full_timeout_after_a_lost_connection(harness: Harness) -> None:
    """A connection lost at 80 % of a join's timeout gives the next join the full timeout again (R22)."""
    harness.open()
    room = harness.channel()
    harness.call(harness.session.join, room)
    harness.run_for(16)
    harness.drop(1006)
    harness.reconnect()
    harness.run_for(19.9)
    assert harness.state(room) is ChannelState.JOINING
    harness.answer_join()
    assert harness.state(room) is ChannelState.JOINED
    harness.run_alive(60)
    assert harness.state(room) is ChannelState.JOINED
    assert len(harness.sent("phx_join")) == 2
    assert harness.sent("phx_leave") == []


@pytest.mark.parametrize("end", ["reply", "leave", "drop"])
def test_the_deadline_of_a_join_ends_with_the_join(harness: Harness, end: str) -> None:
    """After its reply, a leave or a lost connection, the deadline of a join has no effect (R22)."""
    harness.open()
    room = harness.channel()
    harness.call(harness.session.join, room)
    harness.run_for(19)
    if end == "reply":
        harness.answer_join()
    elif end == "leave":
        harness.call(harness.session.leave, room, 0.5)
        harness.reply(harness.sent("phx_join")[0], {"postgres_changes": []})
        harness.reply(harness.sent("phx_leave")[0])
    else:
        harness.drop(1006)
    state = harness.state(room)
    harness.run_for(1.2)
    if end != "drop":
        assert harness.state(room) is state
        assert harness.session.state is ConnectionState.OPEN
    assert not [error for error in harness.errors if isinstance(error, OperationTimeout)]


def test_the_timeout_of_a_join_starts_after_the_join_before_it(harness: Harness) -> None:
    """The timeout of a join starts when the join before it on this connection is answered (R22)."""
    harness.open()
    one, two = harness.channel("one"), harness.channel("two")
    harness.call(harness.session.join, one)
    harness.call(harness.session.join, two)
    first, second = harness.sent("phx_join")
    harness.run_for(19)
    harness.reply(first, {"postgres_changes": []})
    harness.run_for(19)
    assert harness.state(two) is ChannelState.JOINING
    harness.reply(second, {"postgres_changes": []})
    assert harness.state(two) is ChannelState.JOINED
    assert harness.session.state is ConnectionState.OPEN


def test_a_silent_socket_is_dropped_at_the_deadline_of_a_join(harness: Harness) -> None:
    """If no frame arrives between a join and its deadline, the socket is dropped instead of the join."""
    harness.open()
    harness.joined("other")
    room = harness.channel()
    harness.run_for(1)
    harness.call(harness.session.join, room)
    harness.run_for(20.1)
    assert harness.session.state is ConnectionState.RETRYING
    assert harness.state(room) is ChannelState.WAITING
    assert harness.sent("phx_leave") == []
    assert len(harness.aborts) == 1


def test_ack_timeouts_are_paused_while_a_join_is_unanswered(harness: Harness) -> None:
    """The timeout of an ack runs only while no join of its connection is unanswered."""
    harness.open()
    room, slow = harness.joined(ack=True), harness.channel("slow")
    harness.run_for(1)
    acked = harness.broadcast(room, ack=True, timeout=2.0)
    harness.run_for(1.5)
    harness.call(harness.session.join, slow)
    harness.run_for(15)
    assert harness.outcome(acked) is NOT_YET
    harness.answer_join()
    harness.run_for(0.4)
    assert harness.outcome(acked) is NOT_YET
    harness.run_for(0.2)
    assert isinstance(error_of(harness.outcome(acked)), OperationTimeout)


def test_an_explicit_timeout_is_not_paused_by_an_unanswered_join(harness: Harness) -> None:
    """An explicit timeout of an ack or a ping is kept, whatever blocks the connection (R22)."""
    harness.open()
    room = harness.joined(ack=True)
    before = harness.broadcast(room, ack=True, timeout=2.0, ignore_queue_time=False)
    harness.run_for(1)
    harness.call(harness.session.join, harness.channel("slow"))
    behind = harness.broadcast(room, ack=True, timeout=0.5, ignore_queue_time=False)
    ping, patient = (
        harness.call(harness.session.ping, 0.5),
        harness.call(harness.session.ping, 0.5, ignore_queue_time=True),
    )
    harness.run_for(0.49)
    assert {harness.outcome(ticket) for ticket in (before, behind, ping, patient)} == {NOT_YET}
    harness.run_for(0.02)
    assert all(isinstance(error_of(harness.outcome(ticket)), OperationTimeout) for ticket in (behind, ping))
    assert harness.outcome(before) is NOT_YET
    harness.run_for(0.5)
    assert isinstance(error_of(harness.outcome(before)), OperationTimeout)
    harness.run_for(10)
    assert harness.outcome(patient) is NOT_YET
    harness.answer_join()
    harness.run_for(0.6)
    assert isinstance(error_of(harness.outcome(patient)), OperationTimeout)


@pytest.mark.parametrize(("ignore_queue_time", "seconds"), [(False, 10.0), (True, 19.0)])
def test_an_explicit_timeout_includes_queueing_and_the_ack(
    make_harness: Callable[..., Harness], ignore_queue_time: bool, seconds: float
) -> None:
    """A broadcast queued for nine of its explicit ten seconds has one second left for its ack (R32)."""
    harness = make_harness(offline="wait")
    harness.open()
    room = harness.channel(ack=True)
    harness.call(harness.session.join, room)
    kept = harness.broadcast(room, ack=True, timeout=10.0, ignore_queue_time=ignore_queue_time)
    harness.run_for(9)
    harness.answer_join()
    harness.run_for(seconds - 9 - 0.01)
    assert harness.outcome(kept) is NOT_YET
    harness.run_for(0.02)
    assert isinstance(error_of(harness.outcome(kept)), OperationTimeout)


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


def test_the_first_join_after_a_lost_connection_has_a_deadline(harness: Harness) -> None:
    """The join of a new socket is first in its queue, whatever was unanswered on the old one, and times out (R22)."""
    harness.open()
    room = harness.channel()
    harness.call(harness.session.join, room)
    harness.drop(1006)
    harness.reconnect()
    harness.run_for(20.1)
    assert len(harness.aborts) == 1
    assert harness.session.state is ConnectionState.RETRYING


def test_the_error_of_a_channel_is_the_timeout_of_its_join(harness: Harness) -> None:
    """While the channel waits for the retry, `error` is the timeout (R22, R23)."""
    harness.open()
    other, room = harness.joined("other"), harness.channel()
    harness.call(harness.session.join, room)
    harness.run_for(10)
    harness.receive(other, "broadcast", {"event": "e", "payload": {}})
    harness.run_for(10.1)
    error = error_of(harness.at(room).error)
    assert isinstance(error, OperationTimeout)
    assert error.retryable


# --- the start of a gap while the server processes a join and sends nothing else


def test_a_gap_begins_at_the_join_that_delayed_frames(make_harness: Callable[..., Harness]) -> None:
    """If the connection is lost behind an unanswered join, the gap includes what was delayed since that join (R44)."""
    harness = make_harness()
    harness.open()
    reported = harness.collect(harness.joined("room"), broadcast(), gaps())
    harness.run_alive(100)
    requested_at = harness.now.wall
    harness.call(harness.session.join, harness.channel("slow"))
    harness.run_for(3)
    harness.receive("realtime:room", "broadcast", {"event": "on its way", "payload": {}})
    harness.run_for(3)
    harness.drop(1006)
    harness.reconnect()
    for join in harness.sent("phx_join")[-2:]:
        harness.reply(join, {"postgres_changes": []})
    gap = reported[-1]
    assert isinstance(gap, Gap) and gap.reason == "connection_lost"
    assert abs(gap.started_at.timestamp() - requested_at) < 0.001


def test_a_gap_does_not_begin_before_the_join_of_its_channel(make_harness: Callable[..., Harness]) -> None:
    """A channel that was joined while the server was busy with another join has no gap from before its join (R44)."""
    harness = make_harness()
    harness.open()
    harness.call(harness.session.join, harness.channel("slow"))
    harness.run_for(3)
    reported = harness.collect(harness.channel("room"), broadcast(), gaps())
    harness.call(harness.session.join, "realtime:room")
    harness.answer_join()
    joined_at = harness.now.wall
    harness.run_for(3)
    harness.drop(1006)
    harness.reconnect()
    for join in harness.sent("phx_join")[-2:]:
        harness.reply(join, {"postgres_changes": []})
    assert abs(reported[-1].started_at.timestamp() - joined_at) < 0.001


def test_a_gap_of_changes_begins_at_the_join_that_delayed_the_error(make_harness: Callable[..., Harness]) -> None:
    """An error of changes received behind a slow join may be as old as that join, and so is its gap (R19, R44)."""
    harness = make_harness()
    harness.open()
    reported = harness.collect(harness.channel("db"), changes("users"), gaps())
    harness.join("realtime:db")
    harness.system("realtime:db", SUBSCRIBED)
    harness.run_alive(100)
    requested_at = harness.now.wall
    harness.call(harness.session.join, harness.channel("slow"))
    harness.run_for(6)
    harness.answer_join()
    harness.system("realtime:db", TROUBLE, status="error")
    harness.run_for(5)
    harness.system("realtime:db", SUBSCRIBED)
    assert [(gap.reason, gap.lost) for gap in reported] == [("degraded", {"changes"})]
    assert abs(reported[0].started_at.timestamp() - requested_at) < 0.001
