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

from .conftest import Harness, raised


def payloads(harness: Harness) -> list[int]:
    """Return the numbers that were sent, in order."""
    return [int(pushed.payload) for pushed in harness.pushed()]


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
    assert set(range(100)) - set(arrived) <= {29, 30}, "only frames that were written before the loss"
    assert NOT_YET not in outcomes.values()


def test_queued_sends_are_sent_in_order_after_the_join(each: Harness) -> None:
    """Queued broadcasts are sent when the channel is joined, in their order, before anything newer (R32)."""
    harness = Harness(SessionOptions(protocol=each.options.protocol, offline="wait"))
    room = harness.channel()
    tickets = [harness.broadcast(room, b"%d" % number) for number in range(5)]
    harness.open()
    assert harness.pushed() == []
    harness.call(harness.session.join, room)
    tickets += [harness.broadcast(room, b"%d" % number) for number in range(5, 8)]
    assert harness.pushed() == []
    harness.answer_join()
    assert harness.broadcast(room, b"8") is None
    assert payloads(harness) == list(range(9))
    assert [harness.outcome(ticket) for ticket in tickets] == [Sent("socket")] * 8


def test_queued_sends_survive_lost_connections_and_are_sent_once(make_harness: Callable[..., Harness]) -> None:
    """A queue that waits through three lost connections is sent on the fourth, once (R32)."""
    harness = make_harness(offline="queue")
    harness.open()
    room = harness.joined()
    harness.drop(1006)
    tickets = [harness.broadcast(room, b"%d" % number, timeout=300.0) for number in range(3)]
    for _ in range(3):
        harness.reconnect()
        harness.drop(1006)
    harness.reconnect()
    harness.answer_join()
    harness.drop(1006)
    harness.reconnect()
    harness.answer_join()
    assert payloads(harness) == [0, 1, 2]
    assert [harness.outcome(ticket) for ticket in tickets] == [Sent("socket")] * 3


def test_a_full_queue_refuses_and_stays_unchanged(make_harness: Callable[..., Harness]) -> None:
    """Over queue_size a send raises at once and names the size; the queue is unchanged (R32)."""
    harness = make_harness(offline="queue", queue_size=3)
    harness.open()
    room, other = harness.channel(), harness.channel("other")
    for number in range(3):
        harness.broadcast(room, b"%d" % number)
    error = raised(lambda: harness.broadcast(room, b"3"))
    assert isinstance(error, StateError)
    assert "3 broadcasts" in str(error)
    assert "queue_size" in str(error)
    harness.broadcast(other, b"9")
    assert harness.session.stats().queued == 4
    harness.join(room)
    assert payloads(harness) == [0, 1, 2]
    assert harness.session.stats().queued == 1


def test_each_queued_send_times_out_alone(make_harness: Callable[..., Harness]) -> None:
    """Of three queued sends the one that times out fails, is never sent, and does not affect the others (R32)."""
    harness = make_harness(offline="queue")
    harness.open()
    room = harness.channel()
    long, short, none = (harness.broadcast(room, b"%d" % n, timeout=t) for n, t in enumerate((30.0, 5.0, None)))
    harness.run_for(5.1)
    error = error_of(harness.outcome(short))
    assert isinstance(error, OperationTimeout)
    assert "not sent" in str(error)
    assert (harness.outcome(long), harness.outcome(none)) == (NOT_YET, NOT_YET)
    harness.join(room)
    assert payloads(harness) == [0, 2]


def test_the_timeout_of_an_ack_starts_when_it_is_sent(make_harness: Callable[..., Harness]) -> None:
    """A queued send with ack has its full timeout for the reply, however long it was queued."""
    harness = make_harness(offline="wait")
    harness.open()
    room = harness.channel(ack=True)
    ticket = harness.broadcast(room, b"1", ack=True, timeout=10.0)
    harness.run_for(9)
    harness.join(room)
    harness.run_for(9.9)
    assert harness.outcome(ticket) is NOT_YET
    harness.run_for(0.2)
    assert isinstance(error_of(harness.outcome(ticket)), OperationTimeout)


# --- nothing is left behind


def test_unacked_sends_leave_nothing(harness: Harness) -> None:
    """A hundred thousand sends without ack leave no ticket, no pending reply and no deadline (R33)."""
    harness.open()
    room = harness.joined()
    before = harness.session.table_sizes()
    message = OutgoingBroadcast("e", b"{}")
    now, send = harness.now, harness.session.broadcast
    for _ in range(100_000):
        assert send(room, message, now) is None
        harness.session.effects.clear()
    assert harness.session.table_sizes() == before
    assert harness.session.stats().frames_sent == 100_001


def test_acked_sends_leave_nothing_when_they_are_answered(harness: Harness) -> None:
    """Acked sends leave every table with their reply, and the heap of deadlines does not grow (R33)."""
    harness.open()
    room = harness.joined(ack=True)
    for number in range(3000):
        harness.broadcast(room, ack=True)
        pushed = harness.pushed()[-1]
        harness.effects.clear()
        harness.answer_push(pushed)
        harness.outcomes.clear()
        assert harness.session.table_sizes()["requests"] == 0, number
    assert harness.session.table_sizes()["heap"] <= 100
    assert harness.session.stats().pending == 0


# --- latest


def test_the_newest_message_of_a_key_is_sent_in_the_place_of_the_first(
    make_harness: Callable[..., Harness],
) -> None:
    """What the limit holds back is replaced by key: keys keep their turn, and replaced calls say so."""
    harness = make_harness(limits=Limits(messages_per_second=1))
    harness.open()
    room = harness.joined()
    harness.broadcast(room, b"0", latest="a")
    tickets = {
        number: harness.broadcast(room, b"%d" % number, latest=key, ack=False)
        for number, key in enumerate(["a", "b", None, "a", "a", "b"], 1)
    }
    assert harness.session.stats().queued == 3
    harness.run_for(3.5)
    assert payloads(harness) == [0, 5, 6, 3]
    outcomes = {number: harness.outcome(ticket).via for number, ticket in tickets.items()}
    assert outcomes == {1: "replaced", 2: "replaced", 3: "socket", 4: "replaced", 5: "socket", 6: "socket"}
    assert harness.session.table_sizes()["tickets"] == 0


def test_a_replaced_message_does_not_count_for_the_queue(make_harness: Callable[..., Harness]) -> None:
    """While the channel is not joined, any number of messages with one key takes one place, also in a full queue."""
    harness = make_harness(offline="wait", queue_size=2)
    room = harness.channel()
    harness.broadcast(room, b"0", latest="a")
    harness.broadcast(room, b"1")
    last = [harness.broadcast(room, b"%d" % number, latest="a", timeout=5.0) for number in range(2, 50)][-1]
    with pytest.raises(StateError, match="already queued"):
        harness.broadcast(room, b"50", latest="b")
    harness.run_for(6)
    assert isinstance(error_of(harness.outcome(last)), OperationTimeout)
    harness.broadcast(room, b"51", latest="a")
    harness.open()
    harness.join(room)
    assert payloads(harness) == [1, 51]


def test_a_cancelled_call_removes_only_its_own_message(make_harness: Callable[..., Harness]) -> None:
    """The cancellation of a replaced call leaves the message that replaced it in the queue."""
    harness = make_harness(offline="wait")
    room = harness.channel()
    older, newer = (harness.broadcast(room, b"%d" % number, latest="a") for number in (1, 2))
    other = harness.broadcast(room, b"3", latest="b")
    harness.call(harness.session.cancel, older)
    harness.call(harness.session.cancel, other)
    harness.open()
    harness.join(room)
    assert payloads(harness) == [2] and harness.outcome(newer).via == "socket"


# --- limits


def test_messages_are_paced_and_kept_in_order(make_harness: Callable[..., Harness]) -> None:
    """Over the limit on messages per second sends are queued, and none is lost or overtaken (R35)."""
    harness = make_harness(limits=Limits(messages_per_second=10))
    harness.open()
    room, other = harness.joined("a"), harness.joined("b")
    at = list[float]()
    tickets = [harness.broadcast((room, other)[n % 2], b"%d" % n, timeout=60.0) for n in range(35)]
    seen = 0
    for _ in range(400):
        now = harness.now.mono
        at += [now] * (len(harness.pushed()) - seen)
        seen = len(harness.pushed())
        harness.run_for(0.01)
    assert len(at) == 35
    assert max(sum(start <= one < start + 0.99 for one in at) for start in at) <= 10
    assert at[-1] - at[0] <= 3.1
    for topic in (room, other):
        numbers = [int(pushed.payload) for pushed in harness.pushed() if pushed.topic == topic]
        assert numbers == sorted(numbers)
    assert [harness.outcome(ticket) for ticket in tickets if ticket is not None] == [Sent("socket")] * 25


def test_a_send_delayed_too_long_by_the_limit_fails_with_rate_limited(make_harness: Callable[..., Harness]) -> None:
    """A send delayed beyond its timeout by the message limit fails with RateLimitedError and is not sent (R35)."""
    harness = make_harness(limits=Limits(messages_per_second=1))
    harness.open()
    room = harness.joined()
    assert harness.broadcast(room, b"0") is None
    held, late = harness.broadcast(room, b"1", timeout=5.0), harness.broadcast(room, b"2", timeout=1.5)
    harness.run_for(5)
    assert harness.outcome(held) == Sent("socket")
    error = error_of(harness.outcome(late))
    assert isinstance(error, RateLimitedError)
    assert "messages per second" in str(error)
    assert payloads(harness) == [0, 1]


def test_a_limit_below_one_per_second_holds(make_harness: Callable[..., Harness]) -> None:
    """A limit below one per second is one call in a longer window (R35)."""
    harness = make_harness(limits=Limits(messages_per_second=0.2))
    harness.open()
    room = harness.joined()
    at = list[float]()
    for number in range(3):
        harness.broadcast(room, b"%d" % number, timeout=60.0)
    for _ in range(120):
        at += [harness.now.mono] * (len(harness.pushed()) - len(at))
        harness.run_for(0.1)
    assert [round(later - earlier) for earlier, later in pairwise(at)] == [5, 5]


def test_more_channels_than_the_limit_are_refused(make_harness: Callable[..., Harness]) -> None:
    """The 101st channel raises with the limit and a hint; leaving one makes room (R35)."""
    harness = make_harness(limits=Limits(joins_per_second=None))
    harness.open()
    rooms = [harness.joined(f"room-{number}") for number in range(100)]
    last = harness.channel("one too many")
    error = raised(lambda: harness.call(harness.session.join, last))
    assert isinstance(error, RateLimitedError)
    assert "100 channels" in str(error)
    assert "max_sockets=" in str(error)
    assert harness.state(last) is ChannelState.IDLE
    assert harness.session.stats().pending == 0
    harness.call(harness.session.join, rooms[0])
    harness.call(harness.session.leave, rooms[0], 10.0)
    assert harness.outcome(harness.join(last)) is None


# --- size


@pytest.mark.parametrize("ack", [True, False], ids=["ack", "no ack"])
def test_a_payload_over_the_limit_is_refused_before_anything_is_sent(harness: Harness, ack: bool) -> None:
    """3,000,001 bytes raise at once, with size and limit; 3,000,000 are sent (R36)."""
    harness.open()
    room = harness.joined(ack=True)
    error = raised(lambda: harness.broadcast(room, b"1" * 3_000_001, ack=ack))
    assert isinstance(error, PayloadTooLargeError)
    assert "3000001" in str(error)
    assert "3000000" in str(error)
    assert harness.pushed() == []
    assert harness.session.stats().pending == 0
    harness.broadcast(room, b"1" * 3_000_000, ack=ack)
    assert len(harness.pushed()) == 1


@pytest.mark.parametrize("ack", [True, False], ids=["ack", "no ack"])
def test_a_frame_over_the_limit_is_refused_before_anything_is_sent(
    make_harness: Callable[..., Harness], ack: bool
) -> None:
    """Without a payload limit the frame limit applies: the server would close the socket with 1009 (R36)."""
    harness = make_harness(limits=Limits(payload_bytes=None))
    harness.open()
    room = harness.joined(ack=True)
    sequence = harness.session.sequence
    error = raised(lambda: harness.broadcast(room, b"1" * 5_000_000, ack=ack))
    assert isinstance(error, PayloadTooLargeError)
    assert "5000000" in str(error)
    assert harness.session.sequence == sequence
    assert harness.session.stats().pending == 0
    assert harness.session.table_sizes()["requests"] == 0
    harness.broadcast(room, b"1" * 4_999_900, ack=ack)
    assert len(harness.pushed()) == 1


def test_a_queued_frame_over_the_limit_fails_only_its_send(make_harness: Callable[..., Harness]) -> None:
    """A queued send whose frame is too large gets the error; those behind it are sent (R36)."""
    harness = make_harness(limits=Limits(payload_bytes=None), offline="wait")
    harness.open()
    room = harness.channel()
    big, small = harness.broadcast(room, b"1" * 5_000_000), harness.broadcast(room, b"2")
    harness.join(room)
    assert isinstance(error_of(harness.outcome(big)), PayloadTooLargeError)
    assert harness.outcome(small) == Sent("socket")


def test_bytes_require_version_2(make_harness: Callable[..., Harness]) -> None:
    """Binary payloads are refused at once on version 1.0.0, with an explanation."""
    harness = make_harness(protocol="1.0.0")
    harness.open()
    room = harness.joined()
    error = raised(lambda: harness.call(harness.session.broadcast, room, OutgoingBroadcast("e", b"\x00", json=False)))
    assert isinstance(error, InvalidArgumentError)
    assert "2.0.0" in str(error)


def test_a_large_frame_is_delivered(harness: Harness) -> None:
    """A broadcast of eight megabytes is delivered like any other (R36)."""
    harness.open()
    room = harness.joined()
    received = harness.collect(room, broadcast())
    text = "x" * 8_000_000
    harness.receive(room, "broadcast", {"type": "broadcast", "event": "e", "payload": {"text": text}})
    assert len(received[0].payload["text"]) == 8_000_000


def test_bytes_are_sent_unchanged_on_version_2(harness: Harness) -> None:
    """A binary payload is sent byte for byte, marked as raw."""
    harness.open()
    room = harness.joined()
    payload = bytes(range(256))
    harness.call(harness.session.broadcast, room, OutgoingBroadcast("e", payload, json=False))
    (frame,) = [effect.data for effect in harness.effects if isinstance(effect, Transmit) and effect.binary]
    unpacked = binary.unpack(binary.UP, frame)
    assert (unpacked.payload, unpacked.json) == (payload, False)


def test_queued_sends_that_fail_leave_no_deadline(make_harness: Callable[..., Harness]) -> None:
    """When a channel is left, no deadline of its queued sends remains (R33)."""
    harness = make_harness(offline="queue")
    harness.open()
    room = harness.joined()
    harness.drop(1006)
    before = harness.session.table_sizes()["deadlines"]
    for _ in range(5):
        harness.broadcast(room, timeout=1000.0)
    assert harness.session.table_sizes()["deadlines"] == before + 5
    harness.call(harness.session.leave, room, 1.0)
    assert harness.session.table_sizes()["deadlines"] == before


def test_the_hint_depends_on_whether_the_channel_is_subscribed(harness: Harness) -> None:
    """The hint suggests subscribe() only if it was not called; otherwise the client joins automatically."""
    harness.open()
    room = harness.channel()
    with pytest.raises(StateError) as idle:
        harness.broadcast(room)
    assert idle.value.hint is not None and idle.value.hint.startswith("Call subscribe() first")
    harness.call(harness.session.join, room)
    harness.refuse_join("UnknownErrorOnChannel: x")
    assert harness.state(room) is ChannelState.RETRYING
    with pytest.raises(StateError, match="retrying") as retrying:
        harness.broadcast(room)
    assert retrying.value.hint is not None and retrying.value.hint.startswith("It joins automatically")
