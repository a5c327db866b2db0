"""Heartbeats on time, dead connections, and clock jumps (R4-R6)."""

from collections.abc import Callable
from typing import cast

import pytest

from supawire.errors import ConnectionLostError, OperationTimeout
from supawire.events import ConnectionState, Heartbeat
from supawire.options import Limits
from supawire.testing.harness import error_of

from .conftest import Harness

# --- reports


def watch_heartbeats(harness: Harness) -> list[Heartbeat]:
    """Watch heartbeats and return the list of them."""
    beats: list[object] = []
    harness.session.watch(beats.append, heartbeats=True)
    return cast("list[Heartbeat]", beats)


def statuses(beats: list[Heartbeat]) -> list[tuple[str, float | None]]:
    return [(beat.status, beat.latency) for beat in beats if isinstance(beat, Heartbeat)]


def test_each_heartbeat_is_reported_when_sent_and_answered(harness: Harness) -> None:
    """Heartbeat watchers receive "sent", then "ok" with the round-trip seconds; other watchers receive none."""
    beats, plain = watch_heartbeats(harness), harness.watch()
    harness.open()
    harness.run_for(25)
    assert statuses(beats) == [("sent", None)]
    harness.run_for(0.5)
    harness.reply(harness.sent("heartbeat")[-1])
    assert statuses(beats) == [("sent", None), ("ok", 0.5)]
    assert not any(isinstance(event, Heartbeat) for event in plain)


def test_a_refused_heartbeat_is_reported(harness: Harness) -> None:
    """An error reply is reported as such, and the connection stays."""
    beats = watch_heartbeats(harness)
    harness.open()
    harness.run_for(25)
    harness.reply(harness.sent("heartbeat")[-1], {"reason": "no"}, status="error")
    assert statuses(beats)[-1] == ("error", 0.0)


def test_an_unanswered_heartbeat_and_the_lost_connection_are_reported(harness: Harness) -> None:
    """The events are "timeout", then "disconnected" as the socket is dropped; after a reconnect they continue."""
    beats = watch_heartbeats(harness)
    harness.open()
    harness.run_for(35)
    assert [status for status, _ in statuses(beats)] == ["sent", "timeout", "disconnected"]
    harness.reconnect()
    harness.run_for(25)
    assert statuses(beats)[-1] == ("sent", None)


def test_a_ping_is_reported_as_a_heartbeat(harness: Harness) -> None:
    """`ping()` is a heartbeat, and its reply is reported like any other."""
    beats = watch_heartbeats(harness)
    harness.open()
    harness.call(harness.session.ping, 5.0)
    harness.reply(harness.sent("heartbeat")[-1])
    assert statuses(beats) == [("sent", None), ("ok", 0.0)]


@pytest.mark.parametrize("enabled", [False, True])
def test_the_token_provider_is_called_at_each_heartbeat_if_enabled(
    make_harness: Callable[..., Harness], enabled: bool
) -> None:
    """With token_on_heartbeat=True a replaced token reaches the server before the old one expires (R26)."""
    harness = make_harness(has_token_provider=True, token_on_heartbeat=enabled)
    harness.call(harness.session.open)
    harness.give_token("first")
    harness.accept()
    room = harness.channel()
    harness.call(harness.session.join, room)
    harness.give_token("first")
    harness.answer_join()
    fetches = harness.fetches
    harness.run_alive(25)
    assert harness.fetches == fetches + enabled
    if enabled:
        harness.give_token("second")
        assert harness.sent("access_token")[-1].topic == room


# --- heartbeats


def test_heartbeats_carry_refs_and_keep_the_connection(harness: Harness) -> None:
    """A heartbeat with its own ref is sent at each interval, and answered ones keep the connection (R4)."""
    harness.open()
    harness.run_alive(101)
    refs = [beat.ref for beat in harness.sent("heartbeat")]
    assert len(refs) == 4 == len(set(refs))
    assert None not in refs
    assert harness.session.state is ConnectionState.OPEN
    assert harness.connects == 1


def test_an_unanswered_heartbeat_ends_the_socket_within_interval_and_timeout(harness: Harness) -> None:
    """A silent server is dropped after heartbeat + timeout, without waiting for a close handshake (R4)."""
    harness.open()
    harness.run_for(34.9)
    assert harness.session.state is ConnectionState.OPEN
    assert harness.aborts == []
    harness.run_for(0.1)
    assert harness.session.state is ConnectionState.RETRYING
    assert len(harness.aborts) == 1
    assert isinstance(harness.session.error, ConnectionLostError)
    harness.run_for(1.5)
    assert harness.connects == 2


def test_other_traffic_does_not_replace_a_heartbeat_reply(harness: Harness) -> None:
    """Other incoming frames do not hide that heartbeats are not answered (R4)."""
    harness.open()
    room = harness.joined()
    for _ in range(40):
        harness.run_for(1)
        harness.receive(room, "broadcast", {"event": "e", "payload": {}})
    assert len(harness.aborts) == 1


@pytest.mark.parametrize("heartbeat", [0.5, 7.0, 59.0])
def test_heartbeats_use_any_interval(make_harness: Callable[..., Harness], heartbeat: float) -> None:
    """The interval is the configured one, never a nearby one (R4)."""
    harness = make_harness(heartbeat=heartbeat, timeout=10.0)
    harness.open()
    harness.run_alive(10 * heartbeat + 0.01)
    assert len(harness.sent("heartbeat")) == 10


def test_heartbeats_keep_their_schedule_under_constant_traffic(harness: Harness) -> None:
    """Ninety seconds of incoming frames do not delay a heartbeat (R5)."""
    harness.open()
    room = harness.joined()
    frame = harness.codec.encode(None, None, room, "broadcast", {"event": "e", "payload": {}})
    start, beats = harness.now.mono, list[float]()
    for _ in range(9000):
        harness.run_for(0.01)
        harness.receive_raw(frame)
        if fresh := harness.new_frames("heartbeat"):
            beats.append(round(harness.now.mono - start, 1))
            harness.reply(fresh[0])
    assert beats == [25.0, 50.0, 75.0]


def test_a_pending_heartbeat_ends_with_its_socket(harness: Harness) -> None:
    """The first heartbeat of a new socket ignores the deadline of an unanswered one of the old socket (R5)."""
    harness.open()
    harness.run_for(26)
    assert len(harness.new_frames("heartbeat")) == 1, "sent, and not answered"
    harness.drop(1006)
    harness.run_for(1.5)
    harness.accept()
    harness.run_for(25 + 9.9)
    assert harness.session.state is ConnectionState.OPEN
    assert len(harness.new_frames("heartbeat")) == 1
    harness.run_for(0.2)
    assert harness.session.state is ConnectionState.RETRYING


def test_heartbeats_are_not_expected_while_a_join_is_unanswered(harness: Harness) -> None:
    """Joins block the connection: the timeout of a heartbeat behind one starts when the join is answered (R4)."""
    harness.open()
    harness.run_for(14)
    one, two = harness.channel("one"), harness.channel("two")
    harness.call(harness.session.join, one)
    harness.call(harness.session.join, two)
    harness.run_for(19)
    assert len(harness.sent("heartbeat")) == 1
    first, second = harness.sent("phx_join")
    harness.reply(first, {"reason": "Unauthorized: no"}, status="error")
    harness.run_for(19)
    assert harness.session.state is ConnectionState.OPEN, "38 s after the join, 27 s after the heartbeat"
    harness.reply(second, {"postgres_changes": []})
    harness.run_for(9.9)
    assert harness.session.state is ConnectionState.OPEN, "its ten seconds run now"
    harness.run_for(0.2)
    assert harness.session.state is ConnectionState.RETRYING


def test_a_heartbeat_that_is_due_soon_is_sent_before_a_join(harness: Harness) -> None:
    """A heartbeat before a join is answered first, so a half-open connection is detected in time (R4)."""
    harness.open()
    harness.run_for(24.9)
    harness.call(harness.session.join, harness.channel())
    assert [frame.event for frame in harness.sent()] == ["heartbeat", "phx_join"]
    harness.run_for(9.9)
    assert harness.session.state is ConnectionState.OPEN
    harness.run_for(0.2)
    assert harness.session.state is ConnectionState.RETRYING


def test_a_heartbeat_before_a_join_detects_a_half_open_socket(make_harness: Callable[..., Harness]) -> None:
    """If the join is answered but the heartbeat before it is not, that heartbeat's timeout ends the socket (R4)."""
    harness = make_harness(heartbeat=8.0, timeout=10.0)
    harness.open()
    harness.call(harness.session.join, harness.channel())
    assert [frame.event for frame in harness.sent()] == ["heartbeat", "phx_join"]
    harness.reply(harness.sent("phx_join")[0], {"postgres_changes": []})
    harness.run_for(9.9)
    assert harness.session.state is ConnectionState.OPEN
    harness.run_for(0.2)
    assert harness.session.state is ConnectionState.RETRYING


def test_a_heartbeat_that_is_not_due_soon_waits_for_its_time(harness: Harness) -> None:
    """A join causes no extra heartbeat if one was sent recently; the next comes at its interval (R3)."""
    harness.open()
    harness.run_alive(26)
    harness.call(harness.session.join, harness.channel())
    assert [frame.event for frame in harness.sent()] == ["heartbeat", "phx_join"]


def test_requests_end_with_the_socket_whose_heartbeat_ends_at_the_same_instant(harness: Harness) -> None:
    """A ping that times out together with a heartbeat is resolved once, with whichever comes first (R4)."""
    harness.open()
    harness.run_for(25)
    pings = [harness.call(harness.session.ping, 10.0) for _ in range(3)]
    harness.run_for(10)
    assert harness.session.state is ConnectionState.RETRYING
    assert all(isinstance(error_of(harness.outcome(ping)), ConnectionLostError | OperationTimeout) for ping in pings)


@pytest.mark.parametrize("number", [10, 100])
@pytest.mark.parametrize("delay", [None, 0.0, 0.05, 7.0, 19.99])
def test_a_dead_socket_is_detected_in_time_however_many_joins_are_unanswered(
    make_harness: Callable[..., Harness], number: int, delay: float | None
) -> None:
    """After a join reply, maybe one more frame, then silence: the socket is dropped 35 s later (R4)."""
    harness = make_harness(limits=Limits(joins_per_second=None))
    harness.open()
    rooms = [harness.channel(f"room-{place}") for place in range(number)]
    for room in rooms:
        harness.call(harness.session.join, room)
    harness.drop(1006)
    harness.reconnect()
    harness.reply(harness.sent("phx_join")[number], {"postgres_changes": []})
    if delay is not None:
        harness.run_for(delay)
        harness.receive(rooms[0], "broadcast", {"event": "e", "payload": {}})
    harness.run_for(35.01)
    assert harness.session.state is not ConnectionState.OPEN


@pytest.mark.parametrize("silent", [0.0, 5.0, 14.0, 15.0, 20.0, 24.99])
def test_a_dead_socket_is_detected_in_time_whenever_a_join_is_sent(harness: Harness, silent: float) -> None:
    """A join sent into a dead connection does not delay its detection after 35 s (R4)."""
    harness.open()
    harness.run_alive(25)
    harness.run_for(silent)
    harness.call(harness.session.join, harness.channel())
    harness.run_for(35.01 - silent)
    assert harness.session.state is not ConnectionState.OPEN


def test_a_ping_returns_the_round_trip_time(harness: Harness) -> None:
    """A ping resolves with the seconds until its own reply; an unanswered ping times out and does no harm."""
    harness.open()
    ping, lost = harness.call(harness.session.ping, 10.0), harness.call(harness.session.ping, 2.0)
    harness.run_for(0.25)
    harness.reply(harness.sent("heartbeat")[0])
    harness.run_for(2)
    assert harness.outcome(ping) == pytest.approx(0.25)
    assert isinstance(error_of(harness.outcome(lost)), OperationTimeout)
    assert harness.session.state is ConnectionState.OPEN
    assert harness.session.stats().last_round_trip == pytest.approx(0.25)


# --- after sleep of the machine


def test_a_clock_jump_is_detected_within_seconds(harness: Harness) -> None:
    """After an hour's sleep a heartbeat is sent within a few seconds, not at the next interval (R6)."""
    harness.open()
    harness.run_for(6)
    harness.clock.sleep(3600)
    harness.run_for(5)
    assert len(harness.sent("heartbeat")) == 1
    harness.run_for(5.1)
    assert harness.session.state is ConnectionState.RETRYING, "no answer to the probe in a few seconds"


def test_a_clock_jump_with_a_responding_server_keeps_the_connection(harness: Harness) -> None:
    """If the probe is answered, the connection stays (R6)."""
    harness.open()
    harness.clock.sleep(-3600)
    harness.run_alive(60)
    assert harness.session.state is ConnectionState.OPEN
    assert harness.connects == 1


def test_small_clock_steps_are_ignored(harness: Harness) -> None:
    """A clock correction of some seconds causes no probe (R6)."""
    harness.open()
    for _ in range(10):
        harness.clock.sleep(4)
        harness.run_alive(6)
    assert len(harness.sent("heartbeat")) == 2


def test_after_a_jump_the_next_join_carries_a_token_fetched_after_it(make_harness: Callable[..., Harness]) -> None:
    """The token of the first join after a sleep was fetched after the sleep (R6, R25)."""
    harness = make_harness(has_token_provider=True)
    harness.call(harness.session.open)
    harness.give_token("old")
    harness.accept()
    room = harness.channel()
    harness.call(harness.session.join, room)
    harness.give_token("old")
    harness.answer_join()
    harness.clock.sleep(3600)
    harness.run_for(10.1)
    assert harness.session.state is ConnectionState.RETRYING
    harness.give_token("stale, but newer than before the sleep")
    harness.run_for(1.5)
    assert harness.session.state is ConnectionState.CONNECTING
    harness.give_token("fresh")
    harness.accept()
    harness.give_token("fresh") if harness.session.is_fetching_token else None
    assert harness.sent("phx_join")[-1].payload["access_token"] == "fresh"
