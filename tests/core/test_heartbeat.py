"""Heartbeats on time, dead connections, and clock jumps (R4-R6)."""

from collections.abc import Callable
from typing import cast

import pytest

from supawire.errors import ConnectionLostError, OperationTimeout
from supawire.events import ConnectionState, Heartbeat
from supawire.options import Limits
from supawire.testing.harness import error_of

from .conftest import Story

# --- reports


def watch_heartbeats(story: Story) -> list[Heartbeat]:
    """Watch heartbeats and return the list of them."""
    beats: list[object] = []
    story.session.watch(beats.append, heartbeats=True)
    return cast("list[Heartbeat]", beats)


def statuses(beats: list[Heartbeat]) -> list[tuple[str, float | None]]:
    return [(beat.status, beat.latency) for beat in beats if isinstance(beat, Heartbeat)]


def test_each_heartbeat_is_reported_when_sent_and_answered(story: Story) -> None:
    """Heartbeat watchers receive "sent", then "ok" with the round-trip seconds; other watchers receive none."""
    beats, plain = watch_heartbeats(story), story.watch()
    story.open()
    story.run_for(25)
    assert statuses(beats) == [("sent", None)]
    story.run_for(0.5)
    story.reply(story.sent("heartbeat")[-1])
    assert statuses(beats) == [("sent", None), ("ok", 0.5)]
    assert not any(isinstance(event, Heartbeat) for event in plain)


def test_a_refused_heartbeat_is_reported(story: Story) -> None:
    """An error reply is reported as such, and the connection stays."""
    beats = watch_heartbeats(story)
    story.open()
    story.run_for(25)
    story.reply(story.sent("heartbeat")[-1], {"reason": "no"}, status="error")
    assert statuses(beats)[-1] == ("error", 0.0)


def test_an_unanswered_heartbeat_and_the_lost_connection_are_reported(story: Story) -> None:
    """The events are "timeout", then "disconnected" as the socket is dropped; after a reconnect they continue."""
    beats = watch_heartbeats(story)
    story.open()
    story.run_for(35)
    assert [status for status, _ in statuses(beats)] == ["sent", "timeout", "disconnected"]
    story.reconnect()
    story.run_for(25)
    assert statuses(beats)[-1] == ("sent", None)


def test_a_ping_is_reported_as_a_heartbeat(story: Story) -> None:
    """`ping()` is a heartbeat, and its reply is reported like any other."""
    beats = watch_heartbeats(story)
    story.open()
    story.call(story.session.ping, 5.0)
    story.reply(story.sent("heartbeat")[-1])
    assert statuses(beats) == [("sent", None), ("ok", 0.0)]


@pytest.mark.parametrize("enabled", [False, True])
def test_the_token_provider_is_called_at_each_heartbeat_if_enabled(
    make_story: Callable[..., Story], enabled: bool
) -> None:
    """With token_on_heartbeat=True a replaced token reaches the server before the old one expires (R26)."""
    story = make_story(has_token_provider=True, token_on_heartbeat=enabled)
    story.call(story.session.open)
    story.give_token("first")
    story.accept()
    room = story.channel()
    story.call(story.session.join, room)
    story.give_token("first")
    story.answer_join()
    fetches = story.fetches
    story.run_alive(25)
    assert story.fetches == fetches + enabled
    if enabled:
        story.give_token("second")
        assert story.sent("access_token")[-1].topic == room


# --- heartbeats


def test_heartbeats_carry_refs_and_keep_the_connection(story: Story) -> None:
    """A heartbeat with its own ref is sent at each interval, and answered ones keep the connection (R4)."""
    story.open()
    story.run_alive(101)
    refs = [beat.ref for beat in story.sent("heartbeat")]
    assert len(refs) == 4 == len(set(refs))
    assert None not in refs
    assert story.session.state is ConnectionState.OPEN
    assert story.connects == 1


def test_an_unanswered_heartbeat_ends_the_socket_within_interval_and_timeout(story: Story) -> None:
    """A silent server is dropped after heartbeat + timeout, without waiting for a close handshake (R4)."""
    story.open()
    story.run_for(34.9)
    assert story.session.state is ConnectionState.OPEN
    assert story.aborts == []
    story.run_for(0.1)
    assert story.session.state is ConnectionState.RETRYING
    assert len(story.aborts) == 1
    assert isinstance(story.session.error, ConnectionLostError)
    story.run_for(1.5)
    assert story.connects == 2


def test_other_traffic_does_not_replace_a_heartbeat_reply(story: Story) -> None:
    """Other incoming frames do not hide that heartbeats are not answered (R4)."""
    story.open()
    room = story.joined()
    for _ in range(40):
        story.run_for(1)
        story.receive(room, "broadcast", {"event": "e", "payload": {}})
    assert len(story.aborts) == 1


@pytest.mark.parametrize("heartbeat", [0.5, 7.0, 59.0])
def test_heartbeats_use_any_interval(make_story: Callable[..., Story], heartbeat: float) -> None:
    """The interval is the configured one, never a nearby one (R4)."""
    story = make_story(heartbeat=heartbeat, timeout=10.0)
    story.open()
    story.run_alive(10 * heartbeat + 0.01)
    assert len(story.sent("heartbeat")) == 10


def test_heartbeats_keep_their_schedule_under_constant_traffic(story: Story) -> None:
    """Ninety seconds of incoming frames do not delay a heartbeat (R5)."""
    story.open()
    room = story.joined()
    frame = story.codec.encode(None, None, room, "broadcast", {"event": "e", "payload": {}})
    start, beats = story.now.mono, list[float]()
    for _ in range(9000):
        story.run_for(0.01)
        story.receive_raw(frame)
        if fresh := story.new_frames("heartbeat"):
            beats.append(round(story.now.mono - start, 1))
            story.reply(fresh[0])
    assert beats == [25.0, 50.0, 75.0]


def test_a_pending_heartbeat_ends_with_its_socket(story: Story) -> None:
    """The first heartbeat of a new socket ignores the deadline of an unanswered one of the old socket (R5)."""
    story.open()
    story.run_for(26)
    assert len(story.new_frames("heartbeat")) == 1, "sent, and not answered"
    story.drop(1006)
    story.run_for(1.5)
    story.accept()
    story.run_for(25 + 9.9)
    assert story.session.state is ConnectionState.OPEN
    assert len(story.new_frames("heartbeat")) == 1
    story.run_for(0.2)
    assert story.session.state is ConnectionState.RETRYING


def test_heartbeats_are_not_expected_while_a_join_is_unanswered(story: Story) -> None:
    """Joins block the connection: the timeout of a heartbeat behind one starts when the join is answered (R4)."""
    story.open()
    story.run_for(14)
    one, two = story.channel("one"), story.channel("two")
    story.call(story.session.join, one)
    story.call(story.session.join, two)
    story.run_for(19)
    assert len(story.sent("heartbeat")) == 1
    first, second = story.sent("phx_join")
    story.reply(first, {"reason": "Unauthorized: no"}, status="error")
    story.run_for(19)
    assert story.session.state is ConnectionState.OPEN, "38 s after the join, 27 after the beat"
    story.reply(second, {"postgres_changes": []})
    story.run_for(9.9)
    assert story.session.state is ConnectionState.OPEN, "its ten seconds run now"
    story.run_for(0.2)
    assert story.session.state is ConnectionState.RETRYING


def test_a_heartbeat_that_is_due_soon_is_sent_before_a_join(story: Story) -> None:
    """Its reply does not wait for that of the join, so a connection silent for long is detected in time (R4)."""
    story.open()
    story.run_for(24.9)
    story.call(story.session.join, story.channel())
    assert [frame.event for frame in story.sent()] == ["heartbeat", "phx_join"]
    story.run_for(9.9)
    assert story.session.state is ConnectionState.OPEN
    story.run_for(0.2)
    assert story.session.state is ConnectionState.RETRYING


def test_a_heartbeat_before_a_join_detects_a_half_open_socket(make_story: Callable[..., Story]) -> None:
    """If the join is answered but the heartbeat before it is not, that heartbeat's timeout ends the socket (R4)."""
    story = make_story(heartbeat=8.0, timeout=10.0)
    story.open()
    story.call(story.session.join, story.channel())
    assert [frame.event for frame in story.sent()] == ["heartbeat", "phx_join"]
    story.reply(story.sent("phx_join")[0], {"postgres_changes": []})
    story.run_for(9.9)
    assert story.session.state is ConnectionState.OPEN
    story.run_for(0.2)
    assert story.session.state is ConnectionState.RETRYING


def test_a_heartbeat_that_is_not_due_soon_waits_for_its_time(story: Story) -> None:
    """A join causes no extra heartbeat if one was sent recently; the next comes at its interval (R3)."""
    story.open()
    story.run_alive(26)
    story.call(story.session.join, story.channel())
    assert [frame.event for frame in story.sent()] == ["heartbeat", "phx_join"]


def test_requests_end_with_the_socket_whose_heartbeat_ends_at_the_same_instant(story: Story) -> None:
    """A ping that times out together with a heartbeat is resolved once, with whichever comes first (R4)."""
    story.open()
    story.run_for(25)
    pings = [story.call(story.session.ping, 10.0) for _ in range(3)]
    story.run_for(10)
    assert story.session.state is ConnectionState.RETRYING
    assert all(isinstance(error_of(story.outcome(ping)), ConnectionLostError | OperationTimeout) for ping in pings)


@pytest.mark.parametrize("number", [10, 100])
@pytest.mark.parametrize("delay", [None, 0.0, 0.05, 7.0, 19.99])
def test_a_dead_socket_is_detected_in_time_however_many_joins_are_unanswered(
    make_story: Callable[..., Story], number: int, delay: float | None
) -> None:
    """After a join reply, maybe one more frame, then silence: the socket is dropped 35 s later (R4)."""
    story = make_story(limits=Limits(joins_per_second=None))
    story.open()
    rooms = [story.channel(f"room-{place}") for place in range(number)]
    for room in rooms:
        story.call(story.session.join, room)
    story.drop(1006)
    story.reconnect()
    story.reply(story.sent("phx_join")[number], {"postgres_changes": []})
    if delay is not None:
        story.run_for(delay)
        story.receive(rooms[0], "broadcast", {"event": "e", "payload": {}})
    story.run_for(35.01)
    assert story.session.state is not ConnectionState.OPEN


@pytest.mark.parametrize("silent", [0.0, 5.0, 14.0, 15.0, 20.0, 24.99])
def test_a_dead_socket_is_detected_in_time_whenever_a_join_is_sent(story: Story, silent: float) -> None:
    """A join sent into a dead connection does not delay its detection after 35 s (R4)."""
    story.open()
    story.run_alive(25)
    story.run_for(silent)
    story.call(story.session.join, story.channel())
    story.run_for(35.01 - silent)
    assert story.session.state is not ConnectionState.OPEN


def test_a_ping_returns_the_round_trip_time(story: Story) -> None:
    """A ping resolves with the seconds until its own reply; an unanswered ping times out and does no harm."""
    story.open()
    ping, lost = story.call(story.session.ping, 10.0), story.call(story.session.ping, 2.0)
    story.run_for(0.25)
    story.reply(story.sent("heartbeat")[0])
    story.run_for(2)
    assert story.outcome(ping) == pytest.approx(0.25)
    assert isinstance(error_of(story.outcome(lost)), OperationTimeout)
    assert story.session.state is ConnectionState.OPEN
    assert story.session.stats().last_round_trip == pytest.approx(0.25)


# --- after sleep of the machine


def test_a_clock_jump_is_detected_within_seconds(story: Story) -> None:
    """After an hour's sleep a heartbeat is sent within a few seconds, not at the next interval (R6)."""
    story.open()
    story.run_for(6)
    story.clock.sleep(3600)
    story.run_for(5)
    assert len(story.sent("heartbeat")) == 1
    story.run_for(5.1)
    assert story.session.state is ConnectionState.RETRYING, "no answer to the probe in a few seconds"


def test_a_clock_jump_with_a_responding_server_keeps_the_connection(story: Story) -> None:
    """If the probe is answered, the connection stays (R6)."""
    story.open()
    story.clock.sleep(-3600)
    story.run_alive(60)
    assert story.session.state is ConnectionState.OPEN
    assert story.connects == 1


def test_small_clock_steps_are_ignored(story: Story) -> None:
    """A clock correction of some seconds causes no probe (R6)."""
    story.open()
    for _ in range(10):
        story.clock.sleep(4)
        story.run_alive(6)
    assert len(story.sent("heartbeat")) == 2


def test_after_a_jump_the_next_join_carries_a_token_fetched_after_it(make_story: Callable[..., Story]) -> None:
    """The token of the first join after a sleep was fetched after the sleep (R6, R25)."""
    story = make_story(has_token_provider=True)
    story.call(story.session.open)
    story.give_token("old")
    story.accept()
    room = story.channel()
    story.call(story.session.join, room)
    story.give_token("old")
    story.answer_join()
    story.clock.sleep(3600)
    story.run_for(10.1)
    assert story.session.state is ConnectionState.RETRYING
    story.give_token("stale, but newer than before the sleep")
    story.run_for(1.5)
    assert story.session.state is ConnectionState.CONNECTING
    story.give_token("fresh")
    story.accept()
    story.give_token("fresh") if story.session.is_fetching_token else None
    assert story.sent("phx_join")[-1].payload["access_token"] == "fresh"
