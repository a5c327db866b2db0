"""The one connection: attempts, backoff, heartbeats, and a machine that slept."""

import random
from collections.abc import Callable

import pytest

from supawire.core.backoff import delay
from supawire.core.effects import AskDelay
from supawire.errors import ConnectError, ConnectionLostError, OperationTimeout, ReconnectExhaustedError
from supawire.options import Backoff, SessionOptions
from supawire.server.desk import HubOptions, Timings
from supawire.testing.linked import SECRET, World
from supawire.testing.pilot import NOT_YET, error_of
from supawire.types import ChannelState, LinkState

from .conftest import Story

# --- heartbeats


def test_heartbeats_carry_refs_and_keep_the_connection(story: Story) -> None:
    """A heartbeat goes out at each interval with a ref of its own, and answered ones keep the socket (R4)."""
    story.open()
    story.run_alive(101)
    refs = [beat.ref for beat in story.sent("heartbeat")]
    assert len(refs) == 4 == len(set(refs))
    assert None not in refs
    assert story.session.state is LinkState.OPEN
    assert story.connects == 1


def test_an_unanswered_heartbeat_ends_the_socket_within_interval_and_timeout(story: Story) -> None:
    """A server that answers nothing is left at heartbeat + timeout, without waiting for a close handshake (R4)."""
    story.open()
    story.run_for(34.9)
    assert story.session.state is LinkState.OPEN
    assert story.aborts == []
    story.run_for(0.1)
    assert story.session.state is LinkState.RETRYING
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
        story.hear(room, "broadcast", {"event": "e", "payload": {}})
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
        story.hear_raw(frame)
        if fresh := story.news("heartbeat"):
            beats.append(round(story.now.mono - start, 1))
            story.reply(fresh[0])
    assert beats == [25.0, 50.0, 75.0]


def test_a_pending_heartbeat_dies_with_its_socket(story: Story) -> None:
    """The first beat of a new socket is not held to the deadline of one that the old socket swallowed (R5)."""
    story.open()
    story.run_for(26)
    assert len(story.news("heartbeat")) == 1, "sent, and not answered"
    story.drop(1006)
    story.run_for(1.5)
    story.accept()
    story.run_for(25 + 9.9)
    assert story.session.state is LinkState.OPEN
    assert len(story.news("heartbeat")) == 1
    story.run_for(0.2)
    assert story.session.state is LinkState.RETRYING


def test_heartbeats_are_not_expected_while_a_join_is_unanswered(story: Story) -> None:
    """Joins block the server's socket: a heartbeat's deadline stands still until the join is answered (R4)."""
    story.open()
    story.run_for(24)
    one, two = story.channel("one"), story.channel("two")
    story.do(story.session.join, one)
    story.do(story.session.join, two)
    story.run_for(19)
    assert len(story.sent("heartbeat")) == 1
    first, second = story.sent("phx_join")
    story.reply(first, {"reason": "Unauthorized: no"}, status="error")
    story.run_for(17)
    assert story.session.state is LinkState.OPEN, "36 s after the join, 35 after the beat"
    story.reply(second, {"postgres_changes": []})
    story.run_for(9.9)
    assert story.session.state is LinkState.OPEN, "its ten seconds run now"
    story.run_for(0.2)
    assert story.session.state is LinkState.RETRYING


def test_a_ping_gives_the_round_trip(story: Story) -> None:
    """ping is settled with the seconds until its own reply, one that is not answered with a timeout, and no harm."""
    story.open()
    ping, lost = story.do(story.session.ping, 10.0), story.do(story.session.ping, 2.0)
    story.run_for(0.25)
    story.reply(story.sent("heartbeat")[0])
    story.run_for(2)
    assert story.outcome(ping) == pytest.approx(0.25)
    assert isinstance(error_of(story.outcome(lost)), OperationTimeout)
    assert story.session.state is LinkState.OPEN
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
    assert story.session.state is LinkState.RETRYING, "no answer to the probe in a few seconds"


def test_a_jump_with_a_living_server_costs_nothing(story: Story) -> None:
    """When the probe is answered the connection stays (R6)."""
    story.open()
    story.clock.sleep(-3600)
    story.run_alive(60)
    assert story.session.state is LinkState.OPEN
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
    story.do(story.session.open)
    story.give_token("old")
    story.accept()
    room = story.channel()
    story.do(story.session.join, room)
    story.give_token("old")
    story.answer_join()
    story.clock.sleep(3600)
    story.run_for(10.1)
    assert story.session.state is LinkState.RETRYING
    story.give_token("stale, but newer than before the sleep")
    story.run_for(1.5)
    assert story.session.state is LinkState.CONNECTING
    story.give_token("fresh")
    story.accept()
    story.give_token("fresh") if story.session._context.tokens.fetching else None
    assert story.sent("phx_join")[-1].payload["access_token"] == "fresh"


# --- coming back

CLOSES = [None, 1000, 1001, 1002, 1005, 1006, 1007, 1009, 1011, 1012, 1013, 3000, 4000, 4999]


@pytest.mark.parametrize("code", CLOSES)
def test_every_close_that_we_did_not_ask_for_is_followed_by_a_reconnect(code: int | None) -> None:
    """Whatever the close code, also none and 1000, the client comes back and its channel is joined again (R7)."""
    world = World()
    ada = world.client()
    room = ada.channel("lobby")
    ada.start(ada.session.join, room)
    world.run_for(1)
    assert ada.wire is not None
    world.act(world.hub.faults.drop_connections, code)
    world.run_for(0.1)
    assert ada.session.state is LinkState.RETRYING
    world.run_for(31)
    assert ada.session.channels[room].state is ChannelState.JOINED
    assert ada.session.stats().reconnects == 1


def test_accept_then_close_does_not_spin() -> None:
    """A server that accepts and closes at once sees at most six connections in ten seconds, then ever fewer (R8)."""
    for seed in range(50):
        story = Story(seed=seed)
        story.do(story.session.open)
        end = story.now.mono + 10
        while story.now.mono < end:
            if story.session.state is LinkState.CONNECTING:
                story.accept()
                story.drop(1000)
            story.run_for(0.01)
        assert story.connects <= 6, f"seed {seed}"


def test_a_connection_that_answers_and_dies_young_does_not_reset_the_backoff(story: Story) -> None:
    """The backoff begins anew only after an ok reply and five seconds up, both (R8)."""
    story.open()
    room = story.channel()
    story.do(story.session.join, room)
    for _ in range(6):
        story.answer_join()
        story.run_for(4.9)
        story.drop(1006)
        story.come_back()
    story.drop(1006)
    story.run_for(14.9)
    assert story.session.state is LinkState.RETRYING


def test_a_proven_connection_makes_the_next_attempt_a_first_one(story: Story) -> None:
    """After an ok reply and five seconds up the next reconnect comes within the first step again (R8)."""
    story.open()
    for _ in range(6):
        story.drop(1006)
        story.come_back()
    story.join(story.channel())
    story.run_for(5.1)
    story.drop(1006)
    story.run_for(1.5)
    assert story.session.state is LinkState.CONNECTING


def test_clients_that_were_dropped_together_come_back_spread_out() -> None:
    """Five hundred sessions that lose their socket at once reconnect over more than a second (R9)."""
    delays = list[float]()
    for seed in range(500):
        story = Story(seed=seed)
        story.open()
        lost_at = story.now.mono
        story.drop(1012)
        assert story.session.next_deadline is not None
        delays.append(story.session.next_deadline - lost_at)
    assert max(delays) - min(delays) >= 1.0
    assert max(delays) <= 1.5
    fullest = max(sum(at <= other < at + 0.1 for other in delays) for at in delays)
    assert fullest < 100, "no tenth of a second takes a fifth of them"


def test_many_channels_are_joined_at_the_pace_that_is_allowed() -> None:
    """A hundred channels rejoin at no more than fifty a second, and every one ends joined (R9)."""
    world = World()
    ada = world.client()
    rooms = [ada.channel(f"room-{number}") for number in range(100)]
    for room in rooms:
        ada.start(ada.session.join, room)
    world.run_for(5)
    assert ada.wire is not None
    world.cut(ada.wire)
    sent: list[float] = []
    known = len(ada.sent("phx_join"))
    for _ in range(800):
        world.run_for(0.01)
        fresh = len(ada.sent("phx_join")) - known - len(sent)
        sent += [world.clock.now.mono] * fresh
    assert len(sent) == 100
    assert max(sum(at <= other < at + 0.99 for other in sent) for at in sent) <= 50
    assert {ada.session.channels[room].state for room in rooms} == {ChannelState.JOINED}


def test_by_default_it_is_tried_for_ever() -> None:
    """A server that is away for ten times the longest step finds the client back within the longest step (R3)."""
    world = World()
    ada = world.client()
    room = ada.channel("lobby")
    ada.start(ada.session.join, room)
    world.run_for(1)
    world.unreachable = True
    assert ada.wire is not None
    world.cut(ada.wire)
    world.run_for(300)
    assert ada.session.state in (LinkState.RETRYING, LinkState.CONNECTING)
    world.unreachable = False
    world.run_for(31)
    assert ada.session.channels[room].state is ChannelState.JOINED


def test_attempts_that_are_used_up_reach_everyone_who_waits(make_story: Callable[..., Story]) -> None:
    """With max_attempts the end is a typed error in every ticket and channel, once, with its cause (R3)."""
    story = make_story(backoff=Backoff(max_attempts=3), open_timeout=None, offline="wait")
    opened = story.do(story.session.open)
    room = story.channel()
    joining = story.do(story.session.join, room)
    sending = story.broadcast(room, timeout=None)
    for _ in range(4):
        assert story.outcome(opened) is NOT_YET
        story.drop(text="nobody listens")
        story.run_to_attempt()
    assert story.connects == 4, "the first one and three more"
    for ticket in (opened, joining, sending):
        error = error_of(story.outcome(ticket))
        assert isinstance(error, ReconnectExhaustedError)
        assert "nobody listens" in str(error)
    assert story.session.state is LinkState.CLOSED
    assert story.state(room) is ChannelState.CLOSED
    assert story.session.next_deadline is None


def test_the_first_opening_ends_after_its_time(story: Story) -> None:
    """open_timeout ends all attempts of the first opening with one ConnectError that says what the last one said."""
    opened = story.do(story.session.open)
    while story.session.state is not LinkState.CLOSED:
        if story.session.state is LinkState.CONNECTING:
            story.drop(text="refused by the network")
        story.run_for(0.1)
    assert story.now.mono == pytest.approx(1000 + 20, abs=0.2)
    error = error_of(story.outcome(opened))
    assert isinstance(error, ConnectError)
    assert "20 s" in str(error)
    assert "refused by the network" in str(error)


def test_open_timeout_counts_only_until_the_first_connection(story: Story) -> None:
    """A client that was open once is not ended by open_timeout."""
    story.open()
    story.drop(1006)
    story.run_for(1000)
    assert story.session.state is not LinkState.CLOSED


def test_an_attempt_that_hangs_is_given_up(story: Story) -> None:
    """A handshake that nobody answers is thrown away after `timeout` and tried again."""
    story.do(story.session.open)
    story.run_for(10.01)
    assert story.session.state is LinkState.RETRYING
    assert len(story.aborts) == 1
    generation = story.session.generation
    story.do(story.session.transport_opened, 1)
    assert story.session.state is LinkState.RETRYING, "what the old attempt says is stale"
    assert story.session.generation == generation
    assert story.session.stats().stale_frames == 1


def test_reconnect_does_not_wait_for_the_backoff(story: Story) -> None:
    """reconnect() connects now, while backing off and while open, where it replaces the socket."""
    story.open()
    room = story.joined()
    for _ in range(8):
        story.drop(1006)
        story.run_to_attempt()
    story.drop(text="again")
    assert story.session.state is LinkState.RETRYING
    connects = story.connects
    story.do(story.session.reconnect)
    assert story.session.state is LinkState.CONNECTING
    story.do(story.session.reconnect)
    assert story.connects == connects + 1, "one attempt at a time"
    story.accept()
    assert story.state(room) is ChannelState.JOINING
    aborted = len(story.aborts)
    story.do(story.session.reconnect)
    assert len(story.aborts) == aborted + 1
    assert story.session.state is LinkState.CONNECTING
    assert story.state(room) is ChannelState.WAITING


def test_wishes_for_another_connection_are_no_failed_attempts(make_story: Callable[..., Story]) -> None:
    """However often the user reconnects, no attempt is used up by it."""
    story = make_story(backoff=Backoff(max_attempts=2))
    story.open()
    for _ in range(5):
        story.do(story.session.reconnect)
        story.accept()
    assert story.session.state is LinkState.OPEN


def test_a_backoff_of_the_user_is_asked_and_awaited(make_story: Callable[..., Story]) -> None:
    """With a function for a backoff the core asks for each delay, numbered from 0, and waits what it says."""
    story = make_story(backoff=None)
    story.open()
    asked = list[int]()
    for _ in range(3):
        story.drop(1006)
        asked.append([effect.attempt for effect in story.effects if isinstance(effect, AskDelay)][-1])
        story.do(story.session.delay_ready, ("connect",), 7.0)
        story.run_for(6.9)
        assert story.session.state is LinkState.RETRYING
        story.run_for(0.2)
        assert story.session.state is LinkState.CONNECTING
    assert asked == [0, 1, 2]


@pytest.mark.parametrize("key", [("connect",), ("rejoin", "realtime:room")])
def test_an_answer_about_a_delay_that_comes_too_late_is_nothing(
    make_story: Callable[..., Story], key: tuple[str, ...]
) -> None:
    """A delay that is answered after close() arms no deadline (R10)."""
    story = make_story(backoff=None, rejoin_backoff=None)
    story.open()
    room = story.joined()
    story.close_channel(room, story.sent("phx_join")[0].ref)
    story.do(story.session.close)
    story.drop(1000)
    story.do(story.session.delay_ready, key, 1.0)
    assert story.session.next_deadline is None


# --- idle


def test_an_idle_socket_is_closed_and_opened_again(make_story: Callable[..., Story]) -> None:
    """After idle_disconnect without channels the socket is closed; the next subscribe opens it, then joins."""
    story = make_story(idle_disconnect=5.0)
    story.open()
    room = story.joined()
    story.run_alive(60)
    assert story.session.state is LinkState.OPEN, "a wanted channel keeps it"
    story.do(story.session.leave, room, 10.0)
    story.reply(story.sent("phx_leave")[-1])
    story.run_alive(4.9)
    assert story.session.state is LinkState.OPEN
    story.run_alive(0.2)
    assert story.session.state is LinkState.IDLE
    assert story.session.next_deadline is None
    joins = len(story.sent("phx_join"))
    joining = story.do(story.session.join, room)
    assert story.session.state is LinkState.CONNECTING
    assert len(story.sent("phx_join")) == joins, "nothing is sent before the socket is open"
    story.accept()
    story.answer_join()
    assert story.outcome(joining) is None
    story.run_alive(60)
    assert story.session.state is LinkState.OPEN


def test_a_heartbeat_of_an_idle_socket_is_forgotten(make_story: Callable[..., Story]) -> None:
    """A beat that was unanswered when the idle socket was closed ends no later one (R5)."""
    story = make_story(idle_disconnect=26.0)
    story.open()
    story.run_for(26.1)
    assert story.session.state is LinkState.IDLE
    story.do(story.session.open)
    story.accept()
    story.run_for(20)
    assert story.session.state is LinkState.OPEN


@pytest.mark.parametrize("how", ["timeout", "cancel", "remove"])
def test_a_withdrawn_wish_lets_the_socket_go_idle(make_story: Callable[..., Story], how: str) -> None:
    """A subscribe that nobody waits for any more, and a removed channel, count as no channel."""
    story = make_story(idle_disconnect=30.0)
    story.open()
    room = story.channel()
    ticket = story.do(story.session.join, room, timeout=2.0 if how == "timeout" else None)
    if how == "cancel":
        story.do(story.session.cancel, ticket)
    elif how == "remove":
        story.do(story.session.remove, room)
    story.run_alive(13)
    for frame in (*story.sent("phx_join"), *story.sent("phx_leave")):
        story.reply(frame, {"postgres_changes": []})
    story.run_alive(33)
    assert story.session.state is LinkState.IDLE


def test_a_wish_during_a_leave_keeps_the_socket(make_story: Callable[..., Story]) -> None:
    """A channel that is wanted again while the last one leaves finds its socket open (R24)."""
    story = make_story(idle_disconnect=1.0)
    story.open()
    room, other = story.joined(), story.channel("other")
    story.do(story.session.leave, room, 10.0)
    story.run_alive(0.9)
    story.do(story.session.join, other)
    story.run_alive(5)
    assert story.session.state is LinkState.OPEN


# --- the arithmetic of backoff


def test_steps_of_the_backoff_grow_to_the_longest() -> None:
    """Attempt 0 waits anything up to its step, later ones between half and the whole of min(maximum, initial × 2ⁿ)."""
    backoff, rng = Backoff(initial=1.5, maximum=30), random.Random(1)
    for attempt, step in enumerate([1.5, 3, 6, 12, 24, 30, 30]):
        drawn = [delay(backoff, attempt, rng) for _ in range(300)]
        lowest = 0 if attempt == 0 else step / 2
        assert lowest <= min(drawn) < lowest + step / 10
        assert step * 0.95 < max(drawn) <= step
    assert delay(backoff, 100_000, rng) <= 30


def test_without_jitter_the_step_is_exact() -> None:
    """jitter=0 waits the step exactly, also at attempt 0."""
    backoff, rng = Backoff(initial=2, maximum=10, factor=3, jitter=0), random.Random(1)
    assert [delay(backoff, attempt, rng) for attempt in range(4)] == [2, 6, 10, 10]


def test_refused_joins_of_ten_cost_no_reconnect() -> None:
    """Ten refused among a hundred channels, each holding the socket for 5 s, cost no reconnect; ninety are joined."""
    world = World(hub=HubOptions(secret=SECRET, timings=Timings.strict()))
    ada = world.client(SessionOptions())
    ada.keep_history = False
    rooms = {ada.channel(f"room-{number}"): number for number in range(100)}
    for number in range(0, 100, 10):
        world.act(world.hub.faults.reject_join, f"room-{number}", "Unauthorized: no")
    for room in rooms:
        ada.start(ada.session.join, room)
    world.run_for(90)
    states = {room: ada.session.channels[room].state for room in rooms}
    assert {states[room] for room, number in rooms.items() if number % 10} == {ChannelState.JOINED}
    assert {states[room] for room, number in rooms.items() if not number % 10} == {ChannelState.FAILED}
    assert ada.session.stats().connects == 1
