"""What `healthy()` and `is_ready()` answer, and the counters of channels."""

from supawire.core.health import MAX_CHANNELS_NAMED
from supawire.options import SessionOptions
from supawire.selectors import changes

from .conftest import SUBSCRIBED, TROUBLE, Harness


def troubles(harness: Harness, *, grace: float = 0.0, channels: bool = False) -> tuple[str, ...]:
    return harness.session.troubles(harness.now.mono, grace, with_channels=channels)


def test_an_open_connection_is_healthy_while_heartbeats_are_answered(harness: Harness) -> None:
    """There is no reason against it while heartbeats are answered; a lost connection is one, with its error."""
    harness.open()
    assert troubles(harness) == ()
    harness.run_alive(300)
    assert troubles(harness) == ()
    harness.drop()
    harness.run_for(0.25)
    (why,) = troubles(harness)
    assert "has not been open for 0.2 s: the connection was lost" in why


def test_an_open_connection_whose_heartbeats_are_not_answered_is_not_healthy(harness: Harness) -> None:
    """The last answer may be as old as the interval and the timeout of heartbeats together, and not older."""
    harness.open()
    now = harness.now.mono
    assert harness.session.troubles(now + 35, 0.0, with_channels=False) == ()
    (why,) = harness.session.troubles(now + 35.5, 0.0, with_channels=False)
    assert why == "no heartbeat has been answered for 35.5 s, at most 35 s are normal"


def test_a_lost_connection_is_healthy_during_the_grace(harness: Harness) -> None:
    """With a grace, a lost connection is unhealthy only after that time; attempts that fail do not restart it."""
    harness.open()
    harness.drop()
    lost_at = harness.now.mono
    while harness.now.mono < lost_at + 30:
        harness.run_to_attempt()
        harness.drop()
    assert troubles(harness, grace=harness.now.mono - lost_at) == ()
    assert len(troubles(harness, grace=29)) == 1
    harness.reconnect()
    assert troubles(harness) == ()


def test_a_client_without_channels_that_has_closed_its_connection_is_healthy() -> None:
    """A connection that was closed because nothing needs it is not a problem; a closed client is one."""
    harness = Harness(SessionOptions(idle_disconnect=5.0))
    harness.open()
    harness.run_for(100)
    assert troubles(harness, channels=True) == ()
    harness.call(harness.session.close)
    assert troubles(harness, grace=1000) == ("the client is closed",)


def test_it_is_ready_when_each_subscribed_channel_is_joined_and_changes_are_live(harness: Harness) -> None:
    """Channels that are not joined, changes that are not confirmed and changes that failed are each a reason."""
    harness.open()
    topic = harness.channel()
    harness.collect(topic, changes("users"))
    assert troubles(harness, channels=True) == ()
    harness.call(harness.session.join, topic)
    assert troubles(harness, channels=True) == ("channel 'room' is joining",)
    harness.answer_join()
    assert troubles(harness, channels=True) == ("the server has not confirmed that channel 'room' is live",)
    harness.system(topic, SUBSCRIBED)
    assert troubles(harness, channels=True) == ()
    harness.system(topic, TROUBLE, status="error")
    assert troubles(harness, channels=True) == ("the server has not confirmed that channel 'room' is live",)
    assert troubles(harness) == ()


def test_a_refused_channel_is_not_ready_until_it_is_left(harness: Harness) -> None:
    """A permanent refusal is a reason, with its text; after the leave it is none."""
    harness.open()
    topic = harness.channel()
    harness.call(harness.session.join, topic)
    harness.refuse_join("Unauthorized: You do not have permissions to read from this Channel topic: room")
    (why,) = troubles(harness, channels=True)
    assert why.startswith("channel 'room' is failed: ")
    harness.call(harness.session.leave, topic, 10.0)
    assert troubles(harness, channels=True) == ()


def test_many_channels_that_are_not_ready_are_counted(harness: Harness) -> None:
    """At most 20 channels are named, and the others counted, so that the answer stays short."""
    harness.open()
    for number in range(MAX_CHANNELS_NAMED + 5):
        harness.call(harness.session.join, harness.channel(f"room{number}"))
    reasons = troubles(harness, channels=True)
    assert len(reasons) == MAX_CHANNELS_NAMED + 1
    assert reasons[-1] == "5 more channels are not ready"


def test_each_frame_is_counted_once_also_after_its_channel_is_gone(harness: Harness) -> None:
    """Received frames are the messages of all channels and the others; removing a channel changes no sum."""
    harness.open()
    topic = harness.joined()
    before = harness.session.stats()
    harness.receive(topic, "broadcast", {"event": "e", "payload": {}})
    harness.receive("realtime:other", "broadcast", {"event": "e", "payload": {}})
    harness.receive_raw(b"garbage")
    harness.receive_raw(
        b'[null,null,"realtime:room","broadcast",{"event":"e","payload":%b1%b}]' % (b"[" * 2000, b"]" * 2000)
    )
    harness.receive(topic, "presence_diff", {"joins": {}, "leaves": {}})
    harness.broadcast(topic)
    stats, own = harness.session.stats(), harness.at(topic).stats()
    assert stats.frames_received - before.frames_received == 5
    assert (own.messages_received, own.messages_sent, own.joins) == (2, 1, 1)
    assert (stats.messages_received, stats.messages_sent, stats.channels) == (2, 1, 1)
    harness.call(harness.session.remove, topic)
    after = harness.session.stats()
    assert (after.messages_received, after.messages_sent, after.channels) == (2, 1, 0)
    assert after.frames_received == stats.frames_received


def test_gaps_and_joins_are_counted_for_client_and_channel(harness: Harness) -> None:
    """A lost connection adds one gap and one join, at the channel and at the client."""
    harness.open()
    topic = harness.joined()
    harness.collect(topic, changes("users"))
    harness.answer_join()
    harness.system(topic, SUBSCRIBED)
    before = harness.at(topic).stats()
    harness.drop()
    harness.reconnect()
    harness.answer_join()
    harness.system(topic, SUBSCRIBED)
    after = harness.at(topic).stats()
    assert (after.joins - before.joins, after.gaps - before.gaps) == (1, 1)
    assert harness.session.stats().gaps == after.gaps
