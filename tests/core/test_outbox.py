"""Outgoing broadcasts: queued in order, sent once, paced, and limited in size."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from supawire.core import binary
from supawire.core.effects import Transmit
from supawire.core.outbox import OutgoingBroadcast
from supawire.errors import (
    ConnectionLostError,
    InvalidArgumentError,
    OperationTimeout,
    PayloadTooLargeError,
    RateLimitedError,
    StateError,
)
from supawire.events import ChannelState, Sent
from supawire.options import PROTOCOLS, Limits, Protocol, SessionOptions
from supawire.selectors import broadcast
from supawire.testing.harness import NOT_YET, error_of
from supawire.testing.linked import World

from .conftest import Story, raised


def payloads(story: Story) -> list[int]:
    """Return the numbers that were sent, in order."""
    return [int(pushed.payload) for pushed in story.pushed()]


# --- offline


@pytest.mark.parametrize("ack", [True, False], ids=["ack", "no ack"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_hundred_queued_sends_survive_a_lost_connection(ack: bool, protocol: Protocol) -> None:
    """With a queue, what is reported as sent arrives: in order, once, and nothing in between is lost (R32)."""
    world = World(seed=3)
    ada = world.client(SessionOptions(protocol=protocol, offline="queue"))
    bob = world.client()
    room, there = ada.channel("lobby", ack=True), bob.channel("lobby")
    received = bob.collect(there, broadcast())
    for client, topic in ((ada, room), (bob, there)):
        client.start(client.session.join, topic)
    world.run_for(1)
    tickets = {}
    for number in range(100):
        if number == 30:
            assert ada.wire is not None
            world.cut(ada.wire)
        message = OutgoingBroadcast("e", b'{"n":%d}' % number, ack=ack, timeout=60.0)
        tickets[number] = ada.call(ada.session.broadcast, room, message)
        world.run_for(0.1)
    world.run_for(60)
    arrived = [message.payload["n"] for message in received]
    assert arrived == sorted(set(arrived)), "in order, once"
    outcomes = {number: Sent("socket") if ticket is None else ada.outcome(ticket) for number, ticket in tickets.items()}
    reported = [number for number, outcome in outcomes.items() if isinstance(outcome, Sent)]
    uncertain = {
        n for n, outcome in outcomes.items() if isinstance(outcome, ConnectionLostError) and outcome.maybe_sent
    }
    if ack:
        assert set(reported) <= set(arrived) <= set(reported) | uncertain
        assert len(uncertain) <= 1
    assert set(range(100)) - set(arrived) <= {29, 30}, "only what was on the wire when it was cut"
    assert NOT_YET not in outcomes.values()


def test_queued_sends_are_sent_in_order_after_the_join(each: Story) -> None:
    """Queued broadcasts are sent when the channel is joined, in their order, before anything newer (R32)."""
    story = Story(SessionOptions(protocol=each.options.protocol, offline="wait"))
    room = story.channel()
    tickets = [story.broadcast(room, b"%d" % number) for number in range(5)]
    story.open()
    assert story.pushed() == []
    story.call(story.session.join, room)
    tickets += [story.broadcast(room, b"%d" % number) for number in range(5, 8)]
    assert story.pushed() == []
    story.answer_join()
    assert story.broadcast(room, b"8") is None
    assert payloads(story) == list(range(9))
    assert [story.outcome(ticket) for ticket in tickets] == [Sent("socket")] * 8


def test_queued_sends_survive_lost_connections_and_are_sent_once(make_story: Callable[..., Story]) -> None:
    """A queue that waits through three lost connections is sent on the fourth, once (R32)."""
    story = make_story(offline="queue")
    story.open()
    room = story.joined()
    story.drop(1006)
    tickets = [story.broadcast(room, b"%d" % number, timeout=300.0) for number in range(3)]
    for _ in range(3):
        story.reconnect()
        story.drop(1006)
    story.reconnect()
    story.answer_join()
    story.drop(1006)
    story.reconnect()
    story.answer_join()
    assert payloads(story) == [0, 1, 2]
    assert [story.outcome(ticket) for ticket in tickets] == [Sent("socket")] * 3


def test_a_full_queue_refuses_and_stays_unchanged(make_story: Callable[..., Story]) -> None:
    """Over queue_size a send raises at once and names the size; the queue is unchanged (R32)."""
    story = make_story(offline="queue", queue_size=3)
    story.open()
    room, other = story.channel(), story.channel("other")
    for number in range(3):
        story.broadcast(room, b"%d" % number)
    error = raised(lambda: story.broadcast(room, b"3"))
    assert isinstance(error, StateError)
    assert "3 broadcasts" in str(error)
    assert "queue_size" in str(error)
    story.broadcast(other, b"9")
    assert story.session.stats().queued == 4
    story.join(room)
    assert payloads(story) == [0, 1, 2]
    assert story.session.stats().queued == 1


def test_each_queued_send_times_out_alone(make_story: Callable[..., Story]) -> None:
    """Of three queued sends the one that times out fails, is never sent, and does not affect the others (R32)."""
    story = make_story(offline="queue")
    story.open()
    room = story.channel()
    long, short, none = (story.broadcast(room, b"%d" % n, timeout=t) for n, t in enumerate((30.0, 5.0, None)))
    story.run_for(5.1)
    error = error_of(story.outcome(short))
    assert isinstance(error, OperationTimeout)
    assert "not sent" in str(error)
    assert (story.outcome(long), story.outcome(none)) == (NOT_YET, NOT_YET)
    story.join(room)
    assert payloads(story) == [0, 2]


def test_the_timeout_of_an_ack_starts_when_it_is_sent(make_story: Callable[..., Story]) -> None:
    """A queued send with ack has its full timeout for the reply, however long it was queued."""
    story = make_story(offline="wait")
    story.open()
    room = story.channel(ack=True)
    ticket = story.broadcast(room, b"1", ack=True, timeout=10.0)
    story.run_for(9)
    story.join(room)
    story.run_for(9.9)
    assert story.outcome(ticket) is NOT_YET
    story.run_for(0.2)
    assert isinstance(error_of(story.outcome(ticket)), OperationTimeout)


# --- nothing is left behind


def test_unacked_sends_leave_nothing(story: Story) -> None:
    """A hundred thousand sends without ack leave no ticket, no pending reply and no deadline (R33)."""
    story.open()
    room = story.joined()
    before = story.session.table_sizes()
    message = OutgoingBroadcast("e", b"{}")
    now, send = story.now, story.session.broadcast
    for _ in range(100_000):
        assert send(room, message, now) is None
        story.session.effects.clear()
    assert story.session.table_sizes() == before
    assert story.session.stats().frames_sent == 100_001


def test_acked_sends_leave_nothing_when_they_are_answered(story: Story) -> None:
    """Acked sends leave every table with their reply, and the heap of deadlines does not grow (R33)."""
    story.open()
    room = story.joined(ack=True)
    for number in range(3000):
        story.broadcast(room, ack=True)
        pushed = story.pushed()[-1]
        story.effects.clear()
        story.answer_push(pushed)
        story.outcomes.clear()
        assert story.session.table_sizes()["requests"] == 0, number
    assert story.session.table_sizes()["heap"] <= 100
    assert story.session.stats().pending == 0


# --- limits


def test_messages_are_paced_and_kept_in_order(make_story: Callable[..., Story]) -> None:
    """Over the limit on messages per second sends are queued, and none is lost or overtaken (R35)."""
    story = make_story(limits=Limits(messages_per_second=10))
    story.open()
    room, other = story.joined("a"), story.joined("b")
    at = list[float]()
    tickets = [story.broadcast((room, other)[n % 2], b"%d" % n, timeout=60.0) for n in range(35)]
    seen = 0
    for _ in range(400):
        now = story.now.mono
        at += [now] * (len(story.pushed()) - seen)
        seen = len(story.pushed())
        story.run_for(0.01)
    assert len(at) == 35
    assert max(sum(start <= one < start + 0.99 for one in at) for start in at) <= 10
    assert at[-1] - at[0] <= 3.1
    for topic in (room, other):
        numbers = [int(pushed.payload) for pushed in story.pushed() if pushed.topic == topic]
        assert numbers == sorted(numbers)
    assert [story.outcome(ticket) for ticket in tickets if ticket is not None] == [Sent("socket")] * 25


def test_a_send_delayed_too_long_by_the_limit_fails_with_rate_limited(make_story: Callable[..., Story]) -> None:
    """A send delayed beyond its timeout by the message limit fails with RateLimitedError and is not sent (R35)."""
    story = make_story(limits=Limits(messages_per_second=1))
    story.open()
    room = story.joined()
    assert story.broadcast(room, b"0") is None
    held, late = story.broadcast(room, b"1", timeout=5.0), story.broadcast(room, b"2", timeout=1.5)
    story.run_for(5)
    assert story.outcome(held) == Sent("socket")
    error = error_of(story.outcome(late))
    assert isinstance(error, RateLimitedError)
    assert "messages per second" in str(error)
    assert payloads(story) == [0, 1]


def test_a_limit_below_one_per_second_holds(make_story: Callable[..., Story]) -> None:
    """A limit below one per second is one call in a longer window (R35)."""
    story = make_story(limits=Limits(messages_per_second=0.2))
    story.open()
    room = story.joined()
    at = list[float]()
    for number in range(3):
        story.broadcast(room, b"%d" % number, timeout=60.0)
    for _ in range(120):
        at += [story.now.mono] * (len(story.pushed()) - len(at))
        story.run_for(0.1)
    assert [round(later - earlier) for earlier, later in pairwise(at)] == [5, 5]


def test_more_channels_than_the_limit_are_refused(make_story: Callable[..., Story]) -> None:
    """The 101st channel raises with the limit and a hint; leaving one makes room (R35)."""
    story = make_story(limits=Limits(joins_per_second=None))
    story.open()
    rooms = [story.joined(f"room-{number}") for number in range(100)]
    last = story.channel("one too many")
    error = raised(lambda: story.call(story.session.join, last))
    assert isinstance(error, RateLimitedError)
    assert "100 channels" in str(error)
    assert "another client" in str(error)
    assert story.state(last) is ChannelState.IDLE
    assert story.session.stats().pending == 0
    story.call(story.session.join, rooms[0])
    story.call(story.session.leave, rooms[0], 10.0)
    assert story.outcome(story.join(last)) is None


# --- size


@pytest.mark.parametrize("ack", [True, False], ids=["ack", "no ack"])
def test_a_payload_over_the_limit_is_refused_before_anything_is_sent(story: Story, ack: bool) -> None:
    """3,000,001 bytes raise at once, with size and limit; 3,000,000 are sent (R36)."""
    story.open()
    room = story.joined(ack=True)
    error = raised(lambda: story.broadcast(room, b"1" * 3_000_001, ack=ack))
    assert isinstance(error, PayloadTooLargeError)
    assert "3000001" in str(error)
    assert "3000000" in str(error)
    assert story.pushed() == []
    assert story.session.stats().pending == 0
    story.broadcast(room, b"1" * 3_000_000, ack=ack)
    assert len(story.pushed()) == 1


@pytest.mark.parametrize("ack", [True, False], ids=["ack", "no ack"])
def test_a_frame_over_the_limit_is_refused_before_anything_is_sent(make_story: Callable[..., Story], ack: bool) -> None:
    """Without a payload limit the frame limit applies: the server would close the socket with 1009 (R36)."""
    story = make_story(limits=Limits(payload_bytes=None))
    story.open()
    room = story.joined(ack=True)
    sequence = story.session.sequence
    error = raised(lambda: story.broadcast(room, b"1" * 5_000_000, ack=ack))
    assert isinstance(error, PayloadTooLargeError)
    assert "5000000" in str(error)
    assert story.session.sequence == sequence
    assert story.session.stats().pending == 0
    assert story.session.table_sizes()["requests"] == 0
    story.broadcast(room, b"1" * 4_999_900, ack=ack)
    assert len(story.pushed()) == 1


def test_a_queued_frame_over_the_limit_fails_only_its_send(make_story: Callable[..., Story]) -> None:
    """A queued send whose frame is too large gets the error; those behind it are sent (R36)."""
    story = make_story(limits=Limits(payload_bytes=None), offline="wait")
    story.open()
    room = story.channel()
    big, small = story.broadcast(room, b"1" * 5_000_000), story.broadcast(room, b"2")
    story.join(room)
    assert isinstance(error_of(story.outcome(big)), PayloadTooLargeError)
    assert story.outcome(small) == Sent("socket")


def test_bytes_require_version_2(make_story: Callable[..., Story]) -> None:
    """Binary payloads are refused at once on version 1.0.0, with an explanation."""
    story = make_story(protocol="1.0.0")
    story.open()
    room = story.joined()
    error = raised(lambda: story.call(story.session.broadcast, room, OutgoingBroadcast("e", b"\x00", json=False)))
    assert isinstance(error, InvalidArgumentError)
    assert "2.0.0" in str(error)


def test_a_large_frame_is_delivered(story: Story) -> None:
    """A broadcast of eight megabytes is delivered like any other (R36)."""
    story.open()
    room = story.joined()
    received = story.collect(room, broadcast())
    text = "x" * 8_000_000
    story.receive(room, "broadcast", {"type": "broadcast", "event": "e", "payload": {"text": text}})
    assert len(received[0].payload["text"]) == 8_000_000


def test_bytes_are_sent_unchanged_on_version_2(story: Story) -> None:
    """A binary payload is sent byte for byte, marked as raw."""
    story.open()
    room = story.joined()
    payload = bytes(range(256))
    story.call(story.session.broadcast, room, OutgoingBroadcast("e", payload, json=False))
    (frame,) = [effect.data for effect in story.effects if isinstance(effect, Transmit) and effect.binary]
    unpacked = binary.unpack(binary.UP, frame)
    assert (unpacked.payload, unpacked.json) == (payload, False)


def test_queued_sends_that_fail_leave_no_deadline(make_story: Callable[..., Story]) -> None:
    """When a channel is left, no deadline of its queued sends remains (R33)."""
    story = make_story(offline="queue")
    story.open()
    room = story.joined()
    story.drop(1006)
    before = story.session.table_sizes()["deadlines"]
    for _ in range(5):
        story.broadcast(room, timeout=1000.0)
    assert story.session.table_sizes()["deadlines"] == before + 5
    story.call(story.session.leave, room, 1.0)
    assert story.session.table_sizes()["deadlines"] == before


def test_the_hint_depends_on_whether_the_channel_is_subscribed(story: Story) -> None:
    """The hint suggests subscribe() only if it was not called; otherwise the client joins automatically."""
    story.open()
    room = story.channel()
    with pytest.raises(StateError) as idle:
        story.broadcast(room)
    assert idle.value.hint is not None and idle.value.hint.startswith("Call subscribe() first")
    story.call(story.session.join, room)
    story.refuse_join("UnknownErrorOnChannel: x")
    assert story.state(room) is ChannelState.RETRYING
    with pytest.raises(StateError, match="retrying") as retrying:
        story.broadcast(room)
    assert retrying.value.hint is not None and retrying.value.hint.startswith("It joins automatically")
