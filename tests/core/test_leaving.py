"""Leaving a channel and subscribing again; one topic, one channel."""

from collections.abc import Callable

import pytest

from supawire.core.effects import Ended, Transmit
from supawire.errors import InvalidArgumentError, OperationTimeout, StateError
from supawire.events import ChannelState
from supawire.options import Backoff, ChannelOptions, Limits
from supawire.selectors import broadcast, changes, status
from supawire.testing.harness import NOT_YET, error_of
from supawire.testing.linked import World

from .conftest import Harness, raised

HELLO = {"type": "broadcast", "event": "hello", "payload": {}}


def test_a_channel_can_be_left_and_joined_any_number_of_times(each: Harness) -> None:
    """The same object joins, delivers to its old listeners, and leaves, repeatedly, with a definite result (R20)."""
    each.open()
    room = each.channel()
    received, rows = each.collect(room, broadcast()), each.collect(room, changes("users"))
    for turn in range(5):
        assert each.outcome(each.join(room)) is None
        each.receive(room, "broadcast", HELLO)
        each.row(room, 100, id=turn)
        left = each.call(each.session.leave, room, 10.0)
        assert each.outcome(left) is NOT_YET
        each.reply(each.sent("phx_leave")[-1])
        each.close_channel(room, each.sent("phx_join")[-1].ref)
        assert each.outcome(left) is None
        assert each.state(room) is ChannelState.IDLE
        each.receive(room, "broadcast", HELLO)
    assert len(received) == 5
    assert [change.record["id"] for change in rows] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cause", ["cancel", "timeout", "refused", "leave"])
def test_a_subscribe_that_failed_can_be_repeated(each: Harness, cause: str) -> None:
    """After a subscribe that was cancelled, timed out, refused or left, the next one succeeds (R20)."""
    each.open()
    room = each.channel()
    joining = each.call(each.session.join, room, timeout=5.0)
    if cause == "cancel":
        each.call(each.session.cancel, joining)
    elif cause == "timeout":
        each.run_for(5.1)
        assert isinstance(error_of(each.outcome(joining)), OperationTimeout)
    elif cause == "leave":
        each.call(each.session.leave, room, 10.0)
        assert isinstance(error_of(each.outcome(joining)), StateError)
    else:
        each.refuse_join("Unauthorized: no")
        assert each.outcome(joining) is not NOT_YET
    if cause != "refused":
        assert each.state(room) is ChannelState.LEAVING, "no caller needs it any more"
        each.reply(each.sent("phx_join")[-1], {"postgres_changes": []})
        each.reply(each.sent("phx_leave")[-1])
        assert each.state(room) is ChannelState.IDLE
    again = each.join(room)
    assert each.outcome(again) is None
    assert each.state(room) is ChannelState.JOINED


def test_a_subscribe_is_withdrawn_only_after_its_last_caller(harness: Harness) -> None:
    """Of two callers only the last one to give up withdraws the subscribe; a joined channel stays joined (R20)."""
    harness.open()
    room = harness.channel()
    first, second = (
        harness.call(harness.session.join, room, timeout=2.0),
        harness.call(harness.session.join, room, timeout=9.0),
    )
    harness.run_for(3)
    assert isinstance(error_of(harness.outcome(first)), OperationTimeout)
    assert harness.state(room) is ChannelState.JOINING
    harness.answer_join()
    assert harness.outcome(second) is None
    third = harness.call(harness.session.join, room, ready=True, timeout=1.0)
    harness.call(harness.session.cancel, third)
    assert harness.state(room) is ChannelState.JOINED
    assert harness.at(room).wanted


def test_a_timeout_during_a_rejoin_does_not_withdraw_the_subscribe(harness: Harness) -> None:
    """A caller's timeout on a channel that was joined before does not withdraw the subscribe (R20)."""
    harness.open()
    room = harness.joined()
    harness.drop(1006)
    late = harness.call(harness.session.join, room, timeout=0.1)
    harness.run_for(0.2)
    assert isinstance(error_of(harness.outcome(late)), OperationTimeout)
    harness.reconnect()
    harness.answer_join()
    assert harness.state(room) is ChannelState.JOINED


def test_a_new_subscribe_after_a_failure_has_all_its_attempts(make_harness: Callable[..., Harness]) -> None:
    """subscribe after FAILED starts again: attempts are counted from zero (R20)."""
    harness = make_harness(rejoin_backoff=Backoff(initial=1, max_attempts=1))
    harness.open()
    room = harness.joined()
    for _ in range(2):
        harness.call(harness.session.join, room, timeout=None)
        if harness.state(room) is ChannelState.JOINED:
            harness.close_channel(room, harness.sent("phx_join")[-1].ref)
        else:
            harness.refuse_join("RealtimeRestarting: wait")
        assert harness.state(room) is ChannelState.RETRYING
        harness.run_for(1.1)
        harness.refuse_join("RealtimeRestarting: wait")
        assert harness.state(room) is ChannelState.FAILED


def test_a_leave_has_a_time_limit(harness: Harness) -> None:
    """An unanswered leave ends after its time limit, and is reported once (R24)."""
    harness.open()
    room = harness.joined()
    moves = harness.collect(room, status())
    left = harness.call(harness.session.leave, room, 3.0)
    harness.run_for(2.9)
    assert harness.outcome(left) is NOT_YET
    harness.run_for(0.2)
    assert harness.outcome(left) is None
    harness.reply(harness.sent("phx_leave")[0])
    harness.close_channel(room, harness.sent("phx_join")[0].ref)
    assert [move.state for move in moves] == [ChannelState.LEAVING, ChannelState.IDLE]
    assert [effect.topic for effect in harness.effects if isinstance(effect, Ended)] == [room]


@pytest.mark.parametrize("by", ["reply", "close", "drop"])
def test_a_leave_ends_with_its_reply_the_close_or_the_connection(each: Harness, by: str) -> None:
    """The reply, the phx_close and the loss of the socket each end a leave; what follows has no effect (R24)."""
    each.open()
    room = each.joined()
    left = each.call(each.session.leave, room, 10.0)
    if by == "reply":
        each.reply(each.sent("phx_leave")[0])
    elif by == "close":
        each.close_channel(room, each.sent("phx_join")[0].ref)
    else:
        each.drop(1006)
    assert each.outcome(left) is None
    assert each.state(room) is ChannelState.IDLE
    assert not each.at(room).wanted


def test_leaving_again_and_leaving_an_idle_channel_resolve(harness: Harness) -> None:
    """A second leave shares the end of the first; one of a channel that is not joined resolves at once (R24)."""
    harness.open()
    room = harness.joined()
    one, two = harness.call(harness.session.leave, room, 10.0), harness.call(harness.session.leave, room, 10.0)
    harness.reply(harness.sent("phx_leave")[0])
    three = harness.call(harness.session.leave, room, 10.0)
    assert [harness.outcome(ticket) for ticket in (one, two, three)] == [None] * 3
    assert len(harness.sent("phx_leave")) == 1


@pytest.mark.parametrize("state", ["waiting", "retrying", "failed"])
def test_a_channel_that_is_not_joined_is_left_at_once(harness: Harness, state: str) -> None:
    """If the server has no join of the channel, a leave sends nothing and returns at once (R24)."""
    room = harness.channel()
    if state == "waiting":
        joining = harness.call(harness.session.join, room)
    else:
        harness.open()
        joining = harness.call(harness.session.join, room)
        harness.refuse_join("Unauthorized: no" if state == "failed" else "RealtimeRestarting: wait")
    assert harness.state(room).value == state
    left = harness.call(harness.session.leave, room, 10.0)
    assert harness.outcome(left) is None
    assert harness.outcome(joining) is not NOT_YET
    assert harness.state(room) is ChannelState.IDLE
    assert harness.at(room).error is None
    harness.run_for(60)
    assert harness.sent("phx_leave") == []
    assert len(harness.sent("phx_join")) <= 1


def test_leaving_one_channel_does_not_affect_the_others(each: Harness) -> None:
    """Of three channels the middle one is left or removed; the others receive and send as before (R24)."""
    for how in ("leave", "remove"):
        harness = Harness(each.options)
        harness.open()
        rooms = [harness.joined(name) for name in ("a", "b", "c")]
        received = [harness.collect(room, broadcast()) for room in rooms]
        if how == "leave":
            harness.call(harness.session.leave, rooms[1], 10.0)
        else:
            harness.call(harness.session.remove, rooms[1])
        harness.reply(harness.sent("phx_leave")[0])
        harness.close_channel(rooms[1], harness.sent("phx_join")[1].ref)
        for room in rooms:
            harness.receive(room, "broadcast", HELLO)
        assert [len(one) for one in received] == [1, 0, 1], how
        assert {harness.state(rooms[0]), harness.state(rooms[2])} == {ChannelState.JOINED}


def test_a_removed_channel_can_be_created_again_at_once(each: Harness) -> None:
    """A removed channel can be created again at once; the late end of its join does not affect the new one (R24)."""
    each.open()
    room = each.joined("room")
    old = each.sent("phx_join")[0].ref
    each.call(each.session.remove, room)
    assert each.channel("room", ack=True) == room
    joined = each.call(each.session.join, room)
    each.reply(each.sent("phx_leave")[0])
    each.answer_join()
    each.close_channel(room, old)
    assert each.outcome(joined) is None
    assert each.state(room) is ChannelState.JOINED


def test_a_thousand_cycles_leave_nothing_behind() -> None:
    """After 1,000 subscribes and leaves channels, deadlines, tickets and replies are as after 10 (R24)."""
    world = World()
    ada = world.client()
    ada.keep_history = False
    kept = ada.channel("kept")
    ada.start(ada.session.join, kept)
    sizes: list[dict[str, int]] = []
    for turn in range(1000):
        room = ada.channel(f"room-{turn % 3}")
        ada.start(ada.session.join, room)
        world.run_for(0.02)
        assert ada.session.channels[room].state is ChannelState.JOINED
        ada.start(ada.session.leave, room, 10.0)
        world.run_for(0.01)
        if turn % 2:
            ada.call(ada.session.remove, room)
        sizes.append(ada.session.table_sizes())
    assert ada.session.channels[kept].state is ChannelState.JOINED
    most = {"deadlines": 10, "requests": 3, "tickets": 0, "heap": 150, "channels": 4}
    most |= {"queued joins": 0, "unanswered joins": 0}
    assert [size for size in sizes[10:] if any(size[table] > most[table] for table in most)] == []


def test_equal_options_return_the_same_channel(harness: Harness) -> None:
    """One topic is one channel, also without options; different options are refused with a hint (R21)."""
    first = harness.session.channel("realtime:room", ChannelOptions(private=True, presence_key="ada"))
    assert harness.session.channel("realtime:room", ChannelOptions(private=True, presence_key="ada")) is first
    assert harness.session.channel("realtime:room", ChannelOptions()) is first
    for other in (ChannelOptions(private=True), ChannelOptions(private=True, presence_key="bob")):
        error = raised(lambda other=other: harness.session.channel("realtime:room", other))
        assert isinstance(error, InvalidArgumentError)
        assert "'room'" in str(error)
        assert "remove_channel" in str(error)
    assert harness.session.channels["realtime:room"] is first
    assert first.options == ChannelOptions(private=True, presence_key="ada")


def test_a_cancelled_send_is_removed_from_the_queue(make_harness: Callable[..., Harness]) -> None:
    """Cancelling a broadcast that waits for the join removes it from the queue (R32)."""
    harness = make_harness(offline="wait")
    harness.open()
    room = harness.channel()
    one, two = harness.broadcast(room, b'{"n":1}'), harness.broadcast(room, b'{"n":2}')
    harness.call(harness.session.cancel, one)
    harness.join(room)
    assert [pushed.payload for pushed in harness.pushed()] == [b'{"n":2}']
    assert harness.outcome(one) is NOT_YET
    assert harness.outcome(two).via == "socket"
    assert harness.session.stats().pending == 0


def test_frames_of_removed_channels_are_counted(harness: Harness) -> None:
    """Frames for an unknown topic are dropped and counted, and raise nothing (R24, R40)."""
    harness.open()
    room = harness.joined()
    harness.call(harness.session.remove, room)
    stale = harness.session.stats().stale_frames
    for event in (
        "broadcast",
        "postgres_changes",
        "presence_state",
        "presence_diff",
        "system",
        "phx_close",
        "phx_error",
    ):
        harness.receive(room, event, {})
    assert harness.session.stats().stale_frames == stale + 7
    assert not [effect for effect in harness.effects[-1:] if isinstance(effect, Transmit)]


def test_a_queued_join_is_not_sent_after_a_leave(make_harness: Callable[..., Harness]) -> None:
    """A channel left while pacing delays its join is never joined, and does not delay those behind it (R24)."""
    harness = make_harness(limits=Limits(joins_per_second=1))
    harness.open()
    harness.joined("first")
    left, last = harness.channel("left"), harness.channel("last")
    harness.call(harness.session.join, left)
    harness.call(harness.session.join, last)
    harness.call(harness.session.leave, left, 1.0)
    harness.run_for(1.1)
    assert [frame.topic for frame in harness.sent("phx_join")] == ["realtime:first", last]
    harness.run_for(5)
    assert left not in [frame.topic for frame in harness.sent("phx_join")]
