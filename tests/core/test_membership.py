"""The state machine of a channel's joins: which join is active, and which refs are sent (R12-R14)."""

from collections.abc import Callable

import pytest

from supawire.core import binary
from supawire.core.membership import Event, Membership
from supawire.events import ChannelState, Instant
from supawire.options import Secret
from supawire.selectors import broadcast, changes, presence, status, system
from supawire.testing.harness import NOT_YET

from .conftest import Harness

HELLO = {"type": "broadcast", "event": "hello", "payload": {"n": 1}}


def delivers_both_ways(harness: Harness, topic: str) -> bool:
    """Return whether broadcasts get through in both directions."""
    received = harness.collect(topic, broadcast("hello"))
    harness.receive(topic, "broadcast", HELLO)
    before = len(harness.pushed())
    harness.broadcast(topic, b'{"n":2}')
    return len(received) == 1 and len(harness.pushed()) == before + 1


# --- which join is active


def timed_out_then_joined(harness: Harness) -> tuple[str, str]:
    """Return a channel whose first join timed out and whose second was accepted, and the first join's ref."""
    harness.open()
    other, room = harness.channel("other"), harness.channel()
    harness.join(other)
    harness.call(harness.session.join, room)
    old = harness.sent("phx_join")[-1].ref
    harness.run_for(10)
    harness.receive(other, "broadcast", HELLO)
    harness.run_for(11.1)
    assert len(harness.sent("phx_join")) == 3
    harness.answer_join()
    assert harness.state(room) is ChannelState.JOINED
    assert old is not None
    return room, old


@pytest.mark.parametrize("event", ["phx_close", "phx_error"])
def test_the_late_end_of_a_join_that_timed_out_is_ignored(each: Harness, event: str) -> None:
    """After a timed-out and an accepted join, a late phx_close or phx_error of the first has no effect (R12)."""
    room, old = timed_out_then_joined(each)
    stale = each.session.stats().stale_frames
    each.close_channel(room, old, event=event)
    assert each.state(room) is ChannelState.JOINED
    assert each.session.stats().stale_frames == stale + 1
    assert delivers_both_ways(each, room)
    assert len(each.sent("phx_join")) == 3


@pytest.mark.parametrize("event", ["phx_close", "phx_error"])
def test_the_late_end_of_a_join_that_was_left_is_ignored(each: Harness, event: str) -> None:
    """A topic is left and joined again at once; the late end of its first join has no effect (R12)."""
    each.open()
    room = each.joined()
    old = each.sent("phx_join")[-1].ref
    each.call(each.session.leave, room, 10.0)
    again = each.call(each.session.join, room)
    each.reply(each.sent("phx_leave")[-1])
    each.answer_join()
    assert each.outcome(again) is None
    each.close_channel(room, old, event=event)
    assert each.state(room) is ChannelState.JOINED
    assert delivers_both_ways(each, room)


@pytest.mark.parametrize("status", ["ok", "error"])
def test_a_late_reply_to_an_old_join_changes_no_state(each: Harness, status: str) -> None:
    """A reply to the join that timed out, ok or not, neither joins nor fails the channel (R12)."""
    each.open()
    other, room = each.joined("other"), each.channel()
    joining = each.call(each.session.join, room)
    old = each.sent("phx_join")[-1]
    each.run_for(10)
    each.receive(other, "broadcast", HELLO)
    each.run_for(10.01)
    assert each.state(room) is ChannelState.RETRYING
    each.reply(old, {"reason": "Unauthorized: no"}, status=status)
    assert each.state(room) is ChannelState.RETRYING
    assert each.outcome(joining) is NOT_YET
    each.run_for(1.1)
    assert each.state(room) is ChannelState.JOINING
    each.reply(old, {"reason": "Unauthorized: no"}, status=status)
    assert each.state(room) is ChannelState.JOINING
    each.answer_join()
    each.reply(old, {"reason": "Unauthorized: no"}, status=status)
    assert each.state(room) is ChannelState.JOINED
    assert each.session.stats().late_replies == 3


def test_data_of_an_older_join_is_dropped_and_counted(harness: Harness) -> None:
    """Events, system messages and presence that name an older join are not delivered (R12)."""
    room, old = timed_out_then_joined(harness)
    received = harness.collect(room, broadcast(), system(), presence())
    stale = harness.session.stats().stale_frames
    error = {"extension": "system", "status": "error", "message": "Token has expired 1 seconds ago"}
    diff = {"joins": {"bob": {"metas": [{"phx_ref": "A"}]}}, "leaves": {}}
    for event, payload in (("broadcast", HELLO), ("system", error), ("presence_state", {}), ("presence_diff", diff)):
        harness.receive(room, event, payload, join_ref=old)
    assert received == []
    assert harness.session.stats().stale_frames == stale + 4
    harness.receive(room, "broadcast", HELLO, join_ref=harness.sent("phx_join")[-1].ref)
    assert len(received) == 1, "replayed messages carry the join_ref of the active join"


def test_nothing_is_delivered_while_the_channel_is_not_joined(each: Harness) -> None:
    """Live data is delivered only while a join is active: not before the ok, and not after the end (R12)."""
    each.open()
    room = each.channel()
    received = each.collect(room, broadcast())
    each.receive(room, "broadcast", HELLO)
    each.call(each.session.join, room)
    each.receive(room, "broadcast", HELLO)
    each.answer_join()
    each.receive(room, "broadcast", HELLO)
    each.close_channel(room, each.sent("phx_join")[-1].ref)
    each.receive(room, "broadcast", HELLO)
    assert len(received) == 1


def test_the_end_of_the_active_join_is_followed_by_another(each: Harness) -> None:
    """After phx_close or phx_error of the active join, the channel joins again after the backoff (R12)."""
    each.open()
    room = each.joined()
    for event in ("phx_close", "phx_error"):
        each.close_channel(room, each.sent("phx_join")[-1].ref, event=event)
        assert each.state(room) is ChannelState.RETRYING
        each.run_for(2.1)
        each.answer_join()
        assert each.state(room) is ChannelState.JOINED


# --- leaving joins that the server may still have


def test_a_join_that_timed_out_is_left_before_the_next(each: Harness) -> None:
    """Before the next join is sent, phx_leave names the one that was not answered (R13)."""
    room, old = timed_out_then_joined(each)
    ours = [(frame.event, frame.join_ref) for frame in each.sent() if frame.topic == room]
    assert ours == [("phx_join", old), ("phx_leave", old), ("phx_join", ours[2][1])]


def test_a_rejoin_that_timed_out_leaves_both_joins(each: Harness) -> None:
    """If a rejoin over an active join is not answered, both are left: the server has one of them (R13)."""
    each.open()
    other, db = each.joined("other"), each.joined("db")
    first = each.sent("phx_join")[-1].ref
    each.collect(db, changes("users"))
    each.run_for(10)
    each.receive(other, "broadcast", HELLO)
    second = each.sent("phx_join")[-1].ref
    each.run_for(10.1)
    assert each.state(db) is ChannelState.RETRYING
    assert [frame.join_ref for frame in each.sent("phx_leave")] == [first, second]


def test_a_joined_topic_is_not_joined_again(each: Harness) -> None:
    """Repeated subscribes, listeners that need no join, and replies to other requests cause no second join (R13)."""
    each.open()
    room = each.joined()
    for _ in range(3):
        assert each.outcome(each.call(each.session.join, room)) is None
    each.collect(room, broadcast(), system(), status())
    each.run_alive(120)
    assert len(each.sent("phx_join")) == 1


# --- join_ref on the wire


def test_every_push_of_a_channel_carries_the_join_ref_of_its_join(each: Harness) -> None:
    """After each of three joins, broadcasts, presence, tokens and the leave carry that join's ref (R14)."""
    each.open()
    room = each.channel(ack=True, presence_key="ada")
    each.call(each.session.track, room, b"{}", 10.0)
    for turn in range(3):
        seen, pushed = len(each.sent()), len(each.pushed())
        each.call(each.session.join, room)
        each.answer_join()
        join = each.sent("phx_join")[-1]
        each.broadcast(room, ack=True)
        each.broadcast(room)
        each.call(each.session.set_channel_token, room, Secret(f"token {turn}"))
        each.call(each.session.leave, room, 10.0)
        fresh = [frame for frame in each.sent()[seen:] if frame.topic == room]
        assert {frame.event for frame in fresh} >= {"phx_join", "presence", "access_token", "phx_leave"}
        assert {frame.join_ref for frame in fresh} == {join.ref}
        assert {one.join_ref for one in each.pushed()[pushed:]} == {join.ref}
        assert len(each.pushed()[pushed:]) == 2
        each.reply(each.sent("phx_leave")[-1])
    refs = [frame.ref for frame in each.sent()]
    assert len(refs) == len(set(refs)), "a ref is never used twice"


def test_binary_data_without_an_active_join_is_dropped_and_counted(harness: Harness) -> None:
    """A binary broadcast for a channel that is not joined, or for an unknown topic, is not delivered (R12)."""
    harness.open()
    room = harness.channel()
    received = harness.collect(room, broadcast())
    for topic in (room, "realtime:elsewhere"):
        data = binary.pack(binary.USER_BROADCAST, topic.encode(), b"e", b"", payload=b"{}", json=True)
        harness.receive_raw(data, binary=True)
    assert received == []
    assert harness.session.stats().stale_frames == 2
    assert harness.session.stats().garbage_frames == 0


def test_frames_of_an_older_socket_are_dropped_and_counted(each: Harness) -> None:
    """Frames from the transport of an older generation are not delivered and do not count as activity (R12)."""
    each.open()
    room = each.channel()
    received = each.collect(room, broadcast())
    each.join(room)
    old = each.session.generation
    each.drop(1006)
    each.reconnect()
    each.answer_join()
    before = each.session.stats()
    data = each.codec.encode(None, None, room, "broadcast", HELLO)
    assert each.session.receive(old, data, False, each.now) is None
    assert each.session.receive(old, b"\x04", True, each.now) is None
    after = each.session.stats()
    assert received == []
    assert after.stale_frames == before.stale_frames + 2
    assert after.frames_received == before.frames_received


# --- events are handled one after another


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
    harness = Harness()
    harness.open()
    room, db = harness.channel(), harness.channel("db")
    harness.join(room)
    harness.join(db)
    assert handled == ["Subscribe", "SendJoin", "JoinAccepted"] * 2
    harness.collect(db, changes("users"))
    harness.run_for(0)
    harness.refuse_join("Unauthorized: no")
    assert handled[6:] == ["RequirementsChanged", "RejoinDue", "SendJoin", "JoinRejected"]
    assert harness.state(db) is ChannelState.FAILED
    harness.call(harness.session.set_channel_token, db, Secret("another"))
    harness.answer_join()
    assert handled[10:] == ["ChannelTokenSet", "SendJoin", "JoinAccepted"]
    harness.call(harness.session.leave, room, 10.0)
    harness.call(harness.session.join, room)
    assert harness.state(room) is ChannelState.LEAVING
    harness.reply(harness.sent("phx_leave")[-1])
    assert handled[13:] == ["Leave", "Subscribe", "LeaveAnswered", "SendJoin"]
    harness.drop(1006)
    harness.reconnect()
    assert handled[17:] == ["ConnectionLost", "ConnectionLost", "SendJoin", "SendJoin"]


def test_a_waiting_channel_is_sent_only_by_the_queue(handled: list[str]) -> None:
    """Without a connection a subscribe leaves the channel waiting; opening sends its join without another event."""
    harness = Harness()
    room = harness.channel()
    harness.call(harness.session.join, room)
    assert handled == ["Subscribe"]
    assert harness.state(room) is ChannelState.WAITING
    harness.accept()
    assert handled == ["Subscribe", "SendJoin"]
    assert harness.state(room) is ChannelState.JOINING


def delay_after_refusal(harness: Harness, again: Callable[[], object] = lambda: None) -> float:
    """Refuse the newest join, do something, and return the seconds until the next join, to a tenth."""
    harness.refuse_join("something unknown")
    again()
    joins, refused_at = len(harness.sent("phx_join")), harness.now.mono
    while len(harness.sent("phx_join")) == joins:
        harness.run_alive(0.1)
    return harness.now.mono - refused_at


def test_the_delays_between_joins_begin_anew_after_a_leave_only(harness: Harness) -> None:
    """Delays grow with each refusal; a subscribe call while the channel is retrying does not shorten them."""
    harness.open()
    room = harness.channel()
    harness.call(harness.session.join, room)
    delays = [delay_after_refusal(harness) for _ in range(5)]
    assert delays[0] < 2
    assert delays[-1] > 4
    assert delay_after_refusal(harness, lambda: harness.call(harness.session.join, room)) > 4
    assert delay_after_refusal(harness) > 4
    harness.refuse_join("something unknown")
    harness.call(harness.session.leave, room, 1.0)
    harness.call(harness.session.join, room)
    assert delay_after_refusal(harness) < 2


def test_a_channel_that_was_left_does_not_count_as_never_subscribed(harness: Harness) -> None:
    """Iterators of a channel that was left end; those of a new channel subscribe."""
    harness.open()
    room = harness.channel()
    assert not harness.at(room).begun
    harness.join(room)
    assert harness.at(room).begun
    harness.call(harness.session.leave, room, 1.0)
    assert harness.at(room).begun
