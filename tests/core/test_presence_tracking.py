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

from .conftest import Story


def requests_of(story: Story) -> list[Any]:
    """Return the payloads of the presence requests that were sent, None for an untrack."""
    payloads = [frame.payload for frame in story.sent("presence")]
    return [payload["payload"] if payload["event"] == "track" else None for payload in payloads]


def answer(story: Story) -> None:
    """Let the server confirm the newest request."""
    story.reply(story.sent("presence")[-1])


@pytest.fixture
def here(story: Story) -> tuple[Story, str]:
    """A joined channel with presence enabled."""
    story.open()
    return story, story.joined(presence_key="ada")


Here = tuple[Story, str]


def track(story: Story, room: str, payload: bytes | None, timeout: float | None = 10.0) -> Any:
    """Track a payload and return the ticket."""
    return story.call(story.session.track, room, payload, timeout)


def test_track_is_resolved_by_its_confirmation(here: Here) -> None:
    """track and untrack return when the server has confirmed them (R45)."""
    story, room = here
    tracked = track(story, room, b'{"n":1}')
    assert story.outcome(tracked) is NOT_YET
    answer(story)
    assert story.outcome(tracked) is None
    untracked = track(story, room, None)
    answer(story)
    assert story.outcome(untracked) is None
    assert requests_of(story) == [{"n": 1}, None]


def test_a_refused_track_raises_and_the_channel_stays_joined(here: Here) -> None:
    """An error reply reaches the caller as PushError; the request is not repeated (R45)."""
    story, room = here
    tracked = track(story, room, b'{"n":1}')
    story.reply(story.sent("presence")[-1], {"reason": "Presence track payload must be a map"}, status="error")
    assert isinstance(error_of(story.outcome(tracked)), PushError)
    story.run_alive(60)
    assert len(story.sent("presence")) == 1
    assert story.state(room) is ChannelState.JOINED


def test_an_unanswered_track_times_out_and_the_next_payload_is_sent(here: Here) -> None:
    """Without a reply the caller times out; the server's state is unknown, so any newer payload is sent."""
    story, room = here
    tracked = track(story, room, b'{"n":1}', None)
    story.run_alive(10.1)
    assert isinstance(error_of(story.outcome(tracked)), OperationTimeout)
    untracked = track(story, room, None)
    assert requests_of(story) == [{"n": 1}, None]
    answer(story)
    assert story.outcome(untracked) is None


def test_a_refused_presence_without_a_caller_is_reported(story: Story) -> None:
    """If the track after a rejoin is refused or not answered, `on_error` is called (R45)."""
    story.open()
    room = story.channel(presence_key="ada")
    track(story, room, b"{}")
    story.join(room)
    story.reply(story.sent("presence")[-1], {}, status="error")
    assert [type(error) for error in story.errors] == [PushError]
    story.drop(1006)
    story.reconnect()
    story.answer_join()
    story.run_alive(10.1)
    assert [type(error) for error in story.errors] == [PushError, OperationTimeout]


def test_the_payload_is_sent_again_after_every_rejoin_until_untrack(each: Story) -> None:
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


def test_a_first_track_without_presence_enables_it(story: Story) -> None:
    """track on a channel joined without presence joins again with it, tracks, and returns (R45)."""
    story.open()
    room = story.joined()
    tracked = track(story, room, b'{"n":1}', 60.0)
    assert story.sent("presence") == []
    story.run_for(0)
    assert story.sent("phx_join")[-1].payload["config"]["presence"] == {"enabled": True}
    story.answer_join()
    answer(story)
    assert story.outcome(tracked) is None
    assert requests_of(story) == [{"n": 1}]
    assert len(story.sent("phx_join")) == 2


def test_track_while_not_joined_returns_at_once(story: Story) -> None:
    """In every state that is not joined a track resolves at once; only the latest is sent after the join (R45)."""
    room = story.channel(presence_key="ada")
    for number in range(3):
        assert story.outcome(track(story, room, b"%d" % number)) is None
    story.open()
    story.call(story.session.join, room)
    assert story.outcome(track(story, room, b"3")) is None
    story.answer_join()
    assert requests_of(story) == [3]


def test_payloads_are_merged_while_a_request_is_in_flight(here: Here) -> None:
    """Of ten payloads in a row the first and the last are sent; the last resolves all callers (R35)."""
    story, room = here
    tickets = [track(story, room, b"%d" % number) for number in range(10)]
    assert requests_of(story) == [0]
    answer(story)
    assert requests_of(story) == [0, 9]
    assert {story.outcome(ticket) for ticket in tickets} == {NOT_YET}
    answer(story)
    assert {story.outcome(ticket) for ticket in tickets} == {None}


def test_the_same_payload_is_not_sent_again(here: Here) -> None:
    """A payload that the server already has resolves at once, without a request (R35)."""
    story, room = here
    track(story, room, b"1")
    answer(story)
    assert story.outcome(track(story, room, b"1")) is None
    assert len(story.sent("presence")) == 1


def test_presence_requests_stay_within_the_limit_of_the_server(here: Here) -> None:
    """The sixth call in 30 s is delayed; the latest payload is sent when the window ends (R35)."""
    story, room = here
    for number in range(5):
        track(story, room, b"%d" % number)
        answer(story)
    tickets = [track(story, room, b"%d" % number, 60.0) for number in range(5, 9)]
    story.run_alive(29.9)
    assert requests_of(story) == [0, 1, 2, 3, 4]
    story.run_alive(1)
    assert requests_of(story) == [0, 1, 2, 3, 4, 8]
    answer(story)
    assert {story.outcome(ticket) for ticket in tickets} == {None}


def test_a_track_delayed_too_long_by_the_limit_raises_and_is_sent_later(here: Here) -> None:
    """After its timeout the caller gets RateLimitedError with the limit; the payload is sent anyway (R35)."""
    story, room = here
    for number in range(5):
        track(story, room, b"%d" % number)
        answer(story)
    late = track(story, room, b"5", 10.0)
    story.run_alive(10.1)
    error = error_of(story.outcome(late))
    assert isinstance(error, RateLimitedError)
    assert "5 presence requests in 30 s" in str(error)
    story.run_alive(21)
    assert requests_of(story)[-1] == 5


def test_a_new_join_restarts_the_rate_limit(here: Here) -> None:
    """After a rejoin five calls are allowed again at once: the server counts per channel process (R35)."""
    story, room = here
    for number in range(5):
        track(story, room, b"%d" % number)
        answer(story)
    story.drop(1006)
    story.reconnect()
    story.answer_join()
    answer(story)
    for number in range(10, 14):
        track(story, room, b"%d" % number)
        answer(story)
    assert requests_of(story)[5:] == [4, 10, 11, 12, 13]


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
def test_the_presence_limit_is_an_option(make_story: Callable[..., Story], calls: int | None) -> None:
    """Another limit, or none, is respected (R35)."""
    story = make_story(limits=Limits(presence_calls=calls))
    story.open()
    room = story.joined(presence_key="ada")
    for number in range(20):
        track(story, room, b"%d" % number)
        answer(story)
    assert len(story.sent("presence")) == (20 if calls is None else calls)


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
    story, room = here
    tracked = track(story, room, b"1", None)
    if how == "leave":
        story.call(story.session.leave, room, 10.0)
    elif how == "remove":
        story.call(story.session.remove, room)
    elif how == "drop":
        story.drop(1006)
    elif how == "closed":
        story.close_channel(room, story.sent("phx_join")[-1].ref)
    else:
        story.call(story.session.cancel, tracked)
        answer(story)
        assert story.outcome(tracked) is NOT_YET
        return
    assert error_of(story.outcome(tracked))
    if how in ("drop", "closed"):
        if how == "drop":
            story.reconnect()
        else:
            story.run_alive(1.1)
        story.answer_join()
        assert requests_of(story) == [1, 1]


def test_a_payload_set_during_a_rejoin_is_sent_on_the_new_join(here: Here) -> None:
    """During a rejoin nothing is sent on the old join: the payload is sent once, on the new one (R45)."""
    story, room = here
    story.collect(room, changes("users"))
    story.run_for(0)
    assert story.state(room) is ChannelState.REJOINING
    tracked = track(story, room, b"1", 60.0)
    assert story.sent("presence") == []
    story.answer_join()
    (push,) = story.sent("presence")
    assert push.join_ref == story.sent("phx_join")[-1].ref
    answer(story)
    assert story.outcome(tracked) is None


# --- a first payload after the join


def test_a_first_track_without_listeners_opens_no_gap(each: Story) -> None:
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


def test_a_first_track_opens_a_gap_for_kinds_with_listeners(each: Story) -> None:
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


def test_a_listener_added_during_the_rejoin_of_a_first_track_gets_the_gap(each: Story) -> None:
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
    make_story: Callable[..., Story],
) -> None:
    """With 2 a second, six channels that track at once take three seconds, and all are tracked (R35)."""
    story = make_story(limits=Limits(presence_per_second=2))
    story.open()
    rooms = [story.joined(f"room-{number}", presence_key="me") for number in range(6)]
    for room in rooms:
        story.call(story.session.track, room, b"{}", 10.0)
    counts = list[int]()
    for _ in range(3):
        counts.append(len(story.sent("presence")))
        story.run_alive(1.0)
    assert counts == [2, 4, 6]


@pytest.mark.parametrize(("limits", "keys"), [(Limits.free(), 10), (Limits.pro(), 10), (Limits.team(), 10)])
def test_a_payload_with_too_many_keys_is_refused_at_once(
    make_story: Callable[..., Story], limits: Limits, keys: int
) -> None:
    """The hosted plans allow ten keys in a payload: one more raises before anything is sent or stored (R36)."""
    story = make_story(limits=limits)
    story.open()
    room = story.joined(presence_key="me")
    story.call(story.session.track, room, encode_json(dict.fromkeys(map(str, range(keys)), 1)), 10.0)
    with pytest.raises(InvalidArgumentError, match=r"11 keys.*at most 10"):
        story.call(story.session.track, room, encode_json(dict.fromkeys(map(str, range(keys + 1)), 1)), 10.0)
    assert len(story.sent("presence")) == 1
    assert story.session.stats().pending == 1


def test_a_payload_that_is_too_large_is_refused_at_once(make_story: Callable[..., Story]) -> None:
    """The server closes the channel for a tracked payload over the project's size; the call raises instead (R36)."""
    story = make_story(limits=Limits(payload_bytes=100))
    story.open()
    room = story.joined(presence_key="me")
    with pytest.raises(PayloadTooLargeError):
        story.call(story.session.track, room, b'{"x":"%s"}' % (b"x" * 100), 10.0)
    assert story.sent("presence") == []


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
