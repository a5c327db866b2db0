"""Heartbeats: on time, answered or the socket is given up; and a machine that slept (R4-R6)."""

from collections.abc import Callable
from typing import cast

import pytest

from supawire.errors import ConnectionLostError, OperationTimeout
from supawire.events import ConnectionState, Heartbeat
from supawire.options import Limits
from supawire.testing.harness import error_of

from .conftest import Story

# --- what is told of them


def beats_of(story: Story) -> list[Heartbeat]:
    """Watch heartbeats; those that are told."""
    heard: list[object] = []
    story.session.watch(heard.append, heartbeats=True)
    return cast("list[Heartbeat]", heard)


def told(heard: list[Heartbeat]) -> list[tuple[str, float | None]]:
    return [(beat.status, beat.latency) for beat in heard if isinstance(beat, Heartbeat)]


def test_each_heartbeat_is_told_when_it_is_sent_and_answered(story: Story) -> None:
    """Who asks for heartbeats gets "sent", then "ok" with the seconds of the round trip; others get none."""
    heard, plain = beats_of(story), story.watch()
    story.open()
    story.run_for(25)
    assert told(heard) == [("sent", None)]
    story.run_for(0.5)
    story.reply(story.sent("heartbeat")[-1])
    assert told(heard) == [("sent", None), ("ok", 0.5)]
    assert not any(isinstance(event, Heartbeat) for event in plain)


def test_a_refused_heartbeat_is_told(story: Story) -> None:
    """An error reply is told as such: the connection lives."""
    heard = beats_of(story)
    story.open()
    story.run_for(25)
    story.reply(story.sent("heartbeat")[-1], {"reason": "no"}, status="error")
    assert told(heard)[-1] == ("error", 0.0)


def test_a_heartbeat_without_answer_is_told_and_the_end_of_the_connection_too(story: Story) -> None:
    """Then comes "timeout", and as the socket is given up, "disconnected"; after a reconnect it goes on."""
    heard = beats_of(story)
    story.open()
    story.run_for(35)
    assert [status for status, _ in told(heard)] == ["sent", "timeout", "disconnected"]
    story.come_back()
    story.run_for(25)
    assert told(heard)[-1] == ("sent", None)


def test_a_ping_is_told_too(story: Story) -> None:
    """`ping()` is a heartbeat, and its answer is told as of any."""
    heard = beats_of(story)
    story.open()
    story.call(story.session.ping, 5.0)
    story.reply(story.sent("heartbeat")[-1])
    assert told(heard) == [("sent", None), ("ok", 0.0)]


@pytest.mark.parametrize("wanted", [False, True])
def test_the_provider_is_asked_at_each_heartbeat_when_wanted(make_story: Callable[..., Story], wanted: bool) -> None:
    """With token_on_heartbeat=True a token that was replaced reaches the server before the old one runs out (R26)."""
    story = make_story(has_token_provider=True, token_on_heartbeat=wanted)
    story.call(story.session.open)
    story.give_token("first")
    story.accept()
    room = story.channel()
    story.call(story.session.join, room)
    story.give_token("first")
    story.answer_join()
    asked = story.fetches
    story.run_alive(25)
    assert story.fetches == asked + wanted
    if wanted:
        story.give_token("second")
        assert story.sent("access_token")[-1].topic == room


# --- heartbeats


def test_heartbeats_carry_refs_and_keep_the_connection(story: Story) -> None:
    """A heartbeat goes out at each interval with a ref of its own, and answered ones keep the socket (R4)."""
    story.open()
    story.run_alive(101)
    refs = [beat.ref for beat in story.sent("heartbeat")]
    assert len(refs) == 4 == len(set(refs))
    assert None not in refs
    assert story.session.state is ConnectionState.OPEN
    assert story.connects == 1


def test_an_unanswered_heartbeat_ends_the_socket_within_interval_and_timeout(story: Story) -> None:
    """A server that answers nothing is left at heartbeat + timeout, without waiting for a close handshake (R4)."""
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


def test_other_traffic_does_not_stand_for_a_heartbeat_reply(story: Story) -> None:
    """Frames that keep coming do not hide that heartbeats are not answered (R4)."""
    story.open()
    room = story.joined()
    for _ in range(40):
        story.run_for(1)
        story.receive(room, "broadcast", {"event": "e", "payload": {}})
    assert len(story.aborts) == 1


@pytest.mark.parametrize("heartbeat", [0.5, 7.0, 59.0])
def test_any_interval_is_honoured(make_story: Callable[..., Story], heartbeat: float) -> None:
    """The interval is the one that was asked for, never a nearer one (R4)."""
    story = make_story(heartbeat=heartbeat, timeout=10.0)
    story.open()
    story.run_alive(10 * heartbeat + 0.01)
    assert len(story.sent("heartbeat")) == 10


def test_heartbeats_keep_their_schedule_under_constant_traffic(story: Story) -> None:
    """Ninety seconds of inbound frames move no heartbeat (R5)."""
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


def test_a_pending_heartbeat_dies_with_its_socket(story: Story) -> None:
    """The first beat of a new socket is not held to the deadline of one that the old socket swallowed (R5)."""
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
    """Joins block the server's socket: a heartbeat behind one has its time when the join is answered (R4)."""
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


def test_a_heartbeat_that_is_due_soon_goes_out_before_a_join(story: Story) -> None:
    """Its answer does not wait for the join's, so a socket that was silent for long is noticed in time (R4)."""
    story.open()
    story.run_for(24.9)
    story.call(story.session.join, story.channel())
    assert [frame.event for frame in story.sent()] == ["heartbeat", "phx_join"]
    story.run_for(9.9)
    assert story.session.state is ConnectionState.OPEN
    story.run_for(0.2)
    assert story.session.state is ConnectionState.RETRYING


def test_one_heartbeat_before_a_join_finds_a_half_open_socket_out(make_story: Callable[..., Story]) -> None:
    """The join is answered, the heartbeat before it is not: its time ends the socket, not that of the next (R4)."""
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
    """Joins cost no more heartbeats than they need: one was sent a moment ago, the next comes at its interval (R3)."""
    story.open()
    story.run_alive(26)
    story.call(story.session.join, story.channel())
    assert [frame.event for frame in story.sent()] == ["heartbeat", "phx_join"]


def test_requests_end_with_the_socket_whose_heartbeat_ends_at_the_same_instant(story: Story) -> None:
    """A ping whose time is over together with that of a heartbeat is settled once, with whichever comes first (R4)."""
    story.open()
    story.run_for(25)
    pings = [story.call(story.session.ping, 10.0) for _ in range(3)]
    story.run_for(10)
    assert story.session.state is ConnectionState.RETRYING
    assert all(isinstance(error_of(story.outcome(ping)), ConnectionLostError | OperationTimeout) for ping in pings)


@pytest.mark.parametrize("number", [10, 100])
@pytest.mark.parametrize("said", [None, 0.0, 0.05, 7.0, 19.99])
def test_a_dead_socket_is_noticed_in_time_however_many_joins_are_unanswered(
    make_story: Callable[..., Story], number: int, said: float | None
) -> None:
    """A join is answered, perhaps something more is said, then there is silence: 35 s later the socket is over (R4)."""
    story = make_story(limits=Limits(joins_per_second=None))
    story.open()
    rooms = [story.channel(f"room-{place}") for place in range(number)]
    for room in rooms:
        story.call(story.session.join, room)
    story.drop(1006)
    story.come_back()
    story.reply(story.sent("phx_join")[number], {"postgres_changes": []})
    if said is not None:
        story.run_for(said)
        story.receive(rooms[0], "broadcast", {"event": "e", "payload": {}})
    story.run_for(35.01)
    assert story.session.state is not ConnectionState.OPEN


@pytest.mark.parametrize("silent", [0.0, 5.0, 14.0, 15.0, 20.0, 24.99])
def test_a_dead_socket_is_noticed_in_time_whenever_a_join_is_sent(story: Story, silent: float) -> None:
    """A join that is sent into a socket that has been dead for a while moves the 35 s by nothing (R4)."""
    story.open()
    story.run_alive(25)
    story.run_for(silent)
    story.call(story.session.join, story.channel())
    story.run_for(35.01 - silent)
    assert story.session.state is not ConnectionState.OPEN


def test_a_ping_gives_the_round_trip(story: Story) -> None:
    """ping is settled with the seconds until its own reply, one that is not answered with a timeout, and no harm."""
    story.open()
    ping, lost = story.call(story.session.ping, 10.0), story.call(story.session.ping, 2.0)
    story.run_for(0.25)
    story.reply(story.sent("heartbeat")[0])
    story.run_for(2)
    assert story.outcome(ping) == pytest.approx(0.25)
    assert isinstance(error_of(story.outcome(lost)), OperationTimeout)
    assert story.session.state is ConnectionState.OPEN
    assert story.session.stats().last_round_trip == pytest.approx(0.25)


# --- a machine that slept


def test_a_jump_of_the_clock_is_noticed_within_seconds(story: Story) -> None:
    """After an hour's sleep a heartbeat goes out within a few seconds of waking, not at the next interval (R6)."""
    story.open()
    story.run_for(6)
    story.clock.sleep(3600)
    story.run_for(5)
    assert len(story.sent("heartbeat")) == 1
    story.run_for(5.1)
    assert story.session.state is ConnectionState.RETRYING, "no answer to the probe in a few seconds"


def test_a_jump_with_a_living_server_costs_nothing(story: Story) -> None:
    """When the probe is answered the connection stays (R6)."""
    story.open()
    story.clock.sleep(-3600)
    story.run_alive(60)
    assert story.session.state is ConnectionState.OPEN
    assert story.connects == 1


def test_small_steps_of_the_clock_are_no_sleep(story: Story) -> None:
    """A clock that is corrected by some seconds causes no probe (R6)."""
    story.open()
    for _ in range(10):
        story.clock.sleep(4)
        story.run_alive(6)
    assert len(story.sent("heartbeat")) == 2


def test_after_a_jump_the_next_join_carries_a_token_fetched_after_it(make_story: Callable[..., Story]) -> None:
    """The token of the join after a sleep was asked for after the sleep (R6, R25)."""
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
    story.give_token("fresh") if story.session._context.tokens.fetching else None
    assert story.sent("phx_join")[-1].payload["access_token"] == "fresh"
