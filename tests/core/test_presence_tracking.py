"""Tracking of payloads: kept across joins, and limited to what the server allows (R35, R45)."""

from collections.abc import Callable
from typing import Any

import pytest

from supawire.core.codec import encode_json
from supawire.core.effects import GapReported
from supawire.core.pacing import Allowance
from supawire.errors import InvalidArgumentError, OperationTimeout, PayloadTooLargeError, PushError, RateLimitedError
from supawire.events import ChannelState, Gap
from supawire.options import Limits
from supawire.selectors import broadcast, changes, gaps, presence
from supawire.server.hub_options import HubOptions
from supawire.server.limits import ServerLimits
from supawire.testing.harness import NOT_YET, error_of
from supawire.testing.linked import SECRET, World

from .conftest import Harness


def requests_of(harness: Harness) -> list[Any]:
    """Return the payloads of the presence requests that were sent, None for an untrack."""
    payloads = [frame.payload for frame in harness.sent("presence")]
    return [payload["payload"] if payload["event"] == "track" else None for payload in payloads]


def answer(harness: Harness) -> None:
    """Let the server confirm the newest request."""
    harness.reply(harness.sent("presence")[-1])


@pytest.fixture
def here(harness: Harness) -> tuple[Harness, str]:
    """A joined channel with presence enabled."""
    harness.open()
    return harness, harness.joined(presence_key="ada")


Here = tuple[Harness, str]


def track(harness: Harness, room: str, payload: bytes | None, timeout: float | None = 10.0) -> Any:
    """Track a payload and return the ticket."""
    return harness.call(harness.session.track, room, payload, timeout)


def test_track_is_resolved_by_its_confirmation(here: Here) -> None:
    """track and untrack return when the server has confirmed them (R45)."""
    harness, room = here
    tracked = track(harness, room, b'{"n":1}')
    assert harness.outcome(tracked) is NOT_YET
    answer(harness)
    assert harness.outcome(tracked) is None
    untracked = track(harness, room, None)
    answer(harness)
    assert harness.outcome(untracked) is None
    assert requests_of(harness) == [{"n": 1}, None]


def test_a_refused_track_raises_and_the_channel_stays_joined(here: Here) -> None:
    """An error reply reaches the caller as PushError; the request is not repeated (R45)."""
    harness, room = here
    tracked = track(harness, room, b'{"n":1}')
    harness.reply(harness.sent("presence")[-1], {"reason": "Presence track payload must be a map"}, status="error")
    assert isinstance(error_of(harness.outcome(tracked)), PushError)
    harness.run_alive(60)
    assert len(harness.sent("presence")) == 1
    assert harness.state(room) is ChannelState.JOINED


def test_an_unanswered_track_times_out_and_the_next_payload_is_sent(here: Here) -> None:
    """Without a reply the caller times out; the server's state is unknown, so any newer payload is sent."""
    harness, room = here
    tracked = track(harness, room, b'{"n":1}', None)
    harness.run_alive(10.1)
    assert isinstance(error_of(harness.outcome(tracked)), OperationTimeout)
    untracked = track(harness, room, None)
    assert requests_of(harness) == [{"n": 1}, None]
    answer(harness)
    assert harness.outcome(untracked) is None


def test_a_refused_presence_without_a_caller_is_reported(harness: Harness) -> None:
    """If the track after a rejoin is refused or not answered, `on_error` is called (R45)."""
    harness.open()
    room = harness.channel(presence_key="ada")
    track(harness, room, b"{}")
    harness.join(room)
    harness.reply(harness.sent("presence")[-1], {}, status="error")
    assert [type(error) for error in harness.errors] == [PushError]
    harness.drop(1006)
    harness.reconnect()
    harness.answer_join()
    harness.run_alive(10.1)
    assert [type(error) for error in harness.errors] == [PushError, OperationTimeout]


def test_the_payload_is_sent_again_after_every_rejoin_until_untrack(each: Harness) -> None:
    """Each join is followed by one track of the latest payload, before anything else; none after untrack (R45)."""
    each.open()
    room = each.channel(presence_key="ada")
    each.call(each.session.track, room, b'{"n":1}', 10.0)
    each.join(room)
    answer(each)
    for turn in range(3):
        each.call(each.session.track, room, b'{"n":%d}' % (turn + 2), 10.0)
        answer(each)
        each.drop(1006)
        each.reconnect()
        each.answer_join()
        assert requests_of(each)[-1] == {"n": turn + 2}
        answer(each)
    each.close_channel(room, each.sent("phx_join")[-1].ref)
    each.run_alive(1.1)
    each.answer_join()
    answer(each)
    assert requests_of(each)[-1] == {"n": 4}
    each.call(each.session.track, room, None, 10.0)
    answer(each)
    before = len(each.sent("presence"))
    each.drop(1006)
    each.reconnect()
    each.answer_join()
    assert len(each.sent("presence")) == before


def test_a_first_track_without_presence_enables_it(harness: Harness) -> None:
    """track on a channel joined without presence joins again with it, tracks, and returns (R45)."""
    harness.open()
    room = harness.joined()
    tracked = track(harness, room, b'{"n":1}', 60.0)
    assert harness.sent("presence") == []
    harness.run_for(0)
    assert harness.sent("phx_join")[-1].payload["config"]["presence"] == {"enabled": True}
    harness.answer_join()
    answer(harness)
    assert harness.outcome(tracked) is None
    assert requests_of(harness) == [{"n": 1}]
    assert len(harness.sent("phx_join")) == 2


def test_track_while_not_joined_returns_at_once(harness: Harness) -> None:
    """In every state that is not joined a track resolves at once; only the latest is sent after the join (R45)."""
    room = harness.channel(presence_key="ada")
    for number in range(3):
        assert harness.outcome(track(harness, room, b"%d" % number)) is None
    harness.open()
    harness.call(harness.session.join, room)
    assert harness.outcome(track(harness, room, b"3")) is None
    harness.answer_join()
    assert requests_of(harness) == [3]


def test_payloads_are_merged_while_a_request_is_in_flight(here: Here) -> None:
    """Of ten payloads in a row the first and the last are sent; the last resolves all callers (R35)."""
    harness, room = here
    tickets = [track(harness, room, b"%d" % number) for number in range(10)]
    assert requests_of(harness) == [0]
    answer(harness)
    assert requests_of(harness) == [0, 9]
    assert {harness.outcome(ticket) for ticket in tickets} == {NOT_YET}
    answer(harness)
    assert {harness.outcome(ticket) for ticket in tickets} == {None}


def test_the_same_payload_is_not_sent_again(here: Here) -> None:
    """A payload that the server already has resolves at once, without a request (R35)."""
    harness, room = here
    track(harness, room, b"1")
    answer(harness)
    assert harness.outcome(track(harness, room, b"1")) is None
    assert len(harness.sent("presence")) == 1


def test_presence_requests_stay_within_the_limit_of_the_server(here: Here) -> None:
    """The sixth call in 30 s is delayed; the latest payload is sent when the window ends (R35)."""
    harness, room = here
    for number in range(5):
        track(harness, room, b"%d" % number)
        answer(harness)
    tickets = [track(harness, room, b"%d" % number, 60.0) for number in range(5, 9)]
    harness.run_alive(29.9)
    assert requests_of(harness) == [0, 1, 2, 3, 4]
    harness.run_alive(1)
    assert requests_of(harness) == [0, 1, 2, 3, 4, 8]
    answer(harness)
    assert {harness.outcome(ticket) for ticket in tickets} == {None}


def test_a_track_delayed_too_long_by_the_limit_raises_and_is_sent_later(here: Here) -> None:
    """After its timeout the caller gets RateLimitedError with the limit; the payload is sent anyway (R35)."""
    harness, room = here
    for number in range(5):
        track(harness, room, b"%d" % number)
        answer(harness)
    late = track(harness, room, b"5", 10.0)
    harness.run_alive(10.1)
    error = error_of(harness.outcome(late))
    assert isinstance(error, RateLimitedError)
    assert "5 presence requests in 30 s" in str(error)
    harness.run_alive(21)
    assert requests_of(harness)[-1] == 5


def test_a_new_join_restarts_the_rate_limit(here: Here) -> None:
    """After a rejoin five calls are allowed again at once: the server counts per channel process (R35)."""
    harness, room = here
    for number in range(5):
        track(harness, room, b"%d" % number)
        answer(harness)
    harness.drop(1006)
    harness.reconnect()
    harness.answer_join()
    answer(harness)
    for number in range(10, 14):
        track(harness, room, b"%d" % number)
        answer(harness)
    assert requests_of(harness)[5:] == [4, 10, 11, 12, 13]


def test_the_server_never_has_to_enforce_its_presence_limit() -> None:
    """A client that tracks ten times a second for two minutes is never closed, and its last payload is set (R35)."""
    world = World(hub=HubOptions(secret=SECRET, limits=ServerLimits(presence_calls=5)))
    ada, bob = world.client(), world.client()
    room, there = ada.channel("lobby", presence_key="ada"), bob.channel("lobby")
    bob.collect(there, presence())
    for client, topic in ((ada, room), (bob, there)):
        client.start(client.session.join, topic)
    world.run_for(1)
    for number in range(1200):
        ada.call(ada.session.track, room, b'{"n":%d}' % number, 5.0)
        world.run_for(0.1)
    world.run_for(31)
    assert len(ada.sent("phx_join")) == 1, "never closed"
    assert [meta.payload for meta in bob.session.presence_state(there)["ada"]] == [{"n": 1199}]


@pytest.mark.parametrize("calls", [1, 3, None])
def test_the_presence_limit_is_an_option(make_harness: Callable[..., Harness], calls: int | None) -> None:
    """Another limit, or none, is respected (R35)."""
    harness = make_harness(limits=Limits(presence_calls=calls))
    harness.open()
    room = harness.joined(presence_key="ada")
    for number in range(20):
        track(harness, room, b"%d" % number)
        answer(harness)
    assert len(harness.sent("presence")) == (20 if calls is None else calls)


def test_the_allowance_follows_the_window_of_the_server() -> None:
    """The window starts with the first call; the first call after it starts another."""
    allowance = Allowance(2, 30.0)
    assert allowance.ready_at(100.0) == 100.0
    allowance.spend(100.0)
    allowance.spend(120.0)
    assert allowance.ready_at(125.0) == 130.0
    assert allowance.ready_at(131.0) == 131.0
    allowance.spend(131.0)
    assert allowance.ready_at(132.0) == 132.0
    allowance.spend(132.0)
    assert allowance.ready_at(133.0) == 161.0


@pytest.mark.parametrize("how", ["leave", "remove", "cancel", "drop", "closed"])
def test_every_end_resolves_the_callers_of_track(here: Here, how: str) -> None:
    """Leaving, removing, losing or closing fails the callers with a reason; the payload is kept (R31)."""
    harness, room = here
    tracked = track(harness, room, b"1", None)
    if how == "leave":
        harness.call(harness.session.leave, room, 10.0)
    elif how == "remove":
        harness.call(harness.session.remove, room)
    elif how == "drop":
        harness.drop(1006)
    elif how == "closed":
        harness.close_channel(room, harness.sent("phx_join")[-1].ref)
    else:
        harness.call(harness.session.cancel, tracked)
        answer(harness)
        assert harness.outcome(tracked) is NOT_YET
        return
    assert error_of(harness.outcome(tracked))
    if how in ("drop", "closed"):
        if how == "drop":
            harness.reconnect()
        else:
            harness.run_alive(1.1)
        harness.answer_join()
        assert requests_of(harness) == [1, 1]


def test_a_payload_set_during_a_rejoin_is_sent_on_the_new_join(here: Here) -> None:
    """During a rejoin nothing is sent on the old join: the payload is sent once, on the new one (R45)."""
    harness, room = here
    harness.collect(room, changes("users"))
    harness.run_for(0)
    assert harness.state(room) is ChannelState.REJOINING
    tracked = track(harness, room, b"1", 60.0)
    assert harness.sent("presence") == []
    harness.answer_join()
    (push,) = harness.sent("presence")
    assert push.join_ref == harness.sent("phx_join")[-1].ref
    answer(harness)
    assert harness.outcome(tracked) is None


# --- a first payload after the join


def test_a_first_track_without_listeners_opens_no_gap(each: Harness) -> None:
    """track() after subscribe() rejoins for presence; without any listener no gap is reported (R17, R44)."""
    each.open()
    room = each.joined()
    watched = each.watch()
    each.call(each.session.track, room, b"{}", 10.0)
    each.run_alive(0.1)
    each.answer_join()
    assert len(each.sent("phx_join")) == 2
    assert [event for event in watched if isinstance(event, Gap)] == []
    assert each.reports(GapReported) == []


def test_a_first_track_opens_a_gap_for_kinds_with_listeners(each: Harness) -> None:
    """The rejoin may lose broadcasts; presence has no listener, so it is not in the gap (R17, R44)."""
    each.open()
    room = each.channel()
    reported = each.collect(room, gaps())
    each.collect(room, broadcast())
    each.join(room)
    each.call(each.session.track, room, b"{}", 10.0)
    each.run_alive(0.1)
    each.answer_join()
    assert [(gap.reason, gap.lost) for gap in reported] == [("rejoin", {"broadcast"})]


def test_a_listener_added_during_the_rejoin_of_a_first_track_gets_the_gap(each: Harness) -> None:
    """The gap is reported to the listener, which may have missed events since it was added (R44)."""
    each.open()
    room = each.joined()
    reported = each.collect(room, gaps())
    each.call(each.session.track, room, b"{}", 10.0)
    each.run_alive(0.1)
    each.collect(room, broadcast())
    each.answer_join()
    assert [(gap.reason, gap.lost) for gap in reported] == [("rejoin", {"broadcast"})]


# --- limits of the project


def test_presence_requests_of_all_channels_stay_within_the_rate_of_the_project(
    make_harness: Callable[..., Harness],
) -> None:
    """With 2 a second, six channels that track at once take three seconds, and all are tracked (R35)."""
    harness = make_harness(limits=Limits(presence_per_second=2))
    harness.open()
    rooms = [harness.joined(f"room-{number}", presence_key="me") for number in range(6)]
    for room in rooms:
        harness.call(harness.session.track, room, b"{}", 10.0)
    counts = list[int]()
    for _ in range(3):
        counts.append(len(harness.sent("presence")))
        harness.run_alive(1.0)
    assert counts == [2, 4, 6]


@pytest.mark.parametrize(("limits", "keys"), [(Limits.free(), 10), (Limits.pro(), 10), (Limits.team(), 10)])
def test_a_payload_with_too_many_keys_is_refused_at_once(
    make_harness: Callable[..., Harness], limits: Limits, keys: int
) -> None:
    """The hosted plans allow ten keys in a payload: one more raises before anything is sent or stored (R36)."""
    harness = make_harness(limits=limits)
    harness.open()
    room = harness.joined(presence_key="me")
    harness.call(harness.session.track, room, encode_json(dict.fromkeys(map(str, range(keys)), 1)), 10.0)
    with pytest.raises(InvalidArgumentError, match=r"11 keys.*at most 10"):
        harness.call(harness.session.track, room, encode_json(dict.fromkeys(map(str, range(keys + 1)), 1)), 10.0)
    assert len(harness.sent("presence")) == 1
    assert harness.session.stats().pending == 1


def test_a_payload_that_is_too_large_is_refused_at_once(make_harness: Callable[..., Harness]) -> None:
    """The server closes the channel for a tracked payload over the project's size; the call raises instead (R36)."""
    harness = make_harness(limits=Limits(payload_bytes=100))
    harness.open()
    room = harness.joined(presence_key="me")
    with pytest.raises(PayloadTooLargeError):
        harness.call(harness.session.track, room, b'{"x":"%s"}' % (b"x" * 100), 10.0)
    assert harness.sent("presence") == []


@pytest.mark.parametrize("late", [0.05, 0.2, 0.4])
def test_a_slow_first_request_delays_the_sixth(late: float) -> None:
    """The server's window starts when it receives the first push: the sixth is sent after its end (R35)."""
    world = World(hub=HubOptions(secret=SECRET, limits=ServerLimits(presence_calls=5)))
    ada = world.client()
    room = ada.channel("room", presence_key="ada")
    ada.start(ada.session.join, room)
    world.run_for(1)
    assert ada.wire is not None
    ada.wire.latency = late
    for number in range(6):
        ada.call(ada.session.track, room, b'{"n":%d}' % number, 60.0)
        world.run_for(1)
        ada.wire.latency = 0.001
    world.run_for(60)
    assert ada.session.channels[room].state is ChannelState.JOINED
    assert ada.session.stats().joins == 1
    (present,) = ada.session.presence_state(room)["ada"]
    assert present.payload == {"n": 5}
