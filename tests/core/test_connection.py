"""The connection: attempts, backoff, reconnects, and the end of a socket that no channel needs."""

from collections.abc import Callable

import pytest

from supawire.core.effects import AskDelay
from supawire.errors import ConnectError, ReconnectExhaustedError
from supawire.events import ChannelState, ConnectionState
from supawire.options import Backoff
from supawire.testing.harness import NOT_YET, error_of
from supawire.testing.linked import World

from .conftest import Harness

CLOSES = [None, 1000, 1001, 1002, 1005, 1006, 1007, 1009, 1011, 1012, 1013, 3000, 4000, 4999]


@pytest.mark.parametrize("code", CLOSES)
def test_every_unrequested_close_is_followed_by_a_reconnect(code: int | None) -> None:
    """Whatever the close code, also none and 1000, the client reconnects and joins its channel again (R7)."""
    world = World()
    ada = world.client()
    room = ada.channel("lobby")
    ada.start(ada.session.join, room)
    world.run_for(1)
    assert ada.wire is not None
    world.act(world.hub.faults.drop_connections, code)
    world.run_for(0.1)
    assert ada.session.state is ConnectionState.RETRYING
    world.run_for(31)
    assert ada.session.channels[room].state is ChannelState.JOINED
    assert ada.session.stats().reconnects == 1


def test_accept_then_close_keeps_the_backoff_growing() -> None:
    """A server that accepts and closes at once gets at most six connections in ten seconds, then fewer (R8)."""
    for seed in range(50):
        harness = Harness(seed=seed)
        harness.call(harness.session.open)
        end = harness.now.mono + 10
        while harness.now.mono < end:
            if harness.session.state is ConnectionState.CONNECTING:
                harness.accept()
                harness.drop(1000)
            harness.run_for(0.01)
        assert harness.connects <= 6, f"seed {seed}"


def test_a_short_connection_does_not_reset_the_backoff(harness: Harness) -> None:
    """The backoff restarts only after both an ok reply and five seconds open (R8)."""
    harness.open()
    room = harness.channel()
    harness.call(harness.session.join, room)
    for _ in range(6):
        harness.answer_join()
        harness.run_for(4.9)
        harness.drop(1006)
        harness.reconnect()
    harness.drop(1006)
    harness.run_for(14.9)
    assert harness.session.state is ConnectionState.RETRYING


def test_a_stable_connection_resets_the_backoff(harness: Harness) -> None:
    """After an ok reply and five seconds open, the next reconnect comes within the first step again (R8)."""
    harness.open()
    for _ in range(6):
        harness.drop(1006)
        harness.reconnect()
    harness.join(harness.channel())
    harness.run_for(5.1)
    harness.drop(1006)
    harness.run_for(1.5)
    assert harness.session.state is ConnectionState.CONNECTING


def test_clients_dropped_together_reconnect_at_different_times() -> None:
    """Five hundred sessions that lose their socket at once reconnect over more than a second (R9)."""
    delays = list[float]()
    for seed in range(500):
        harness = Harness(seed=seed)
        harness.open()
        lost_at = harness.now.mono
        harness.drop(1012)
        assert harness.session.next_deadline is not None
        delays.append(harness.session.next_deadline - lost_at)
    assert max(delays) - min(delays) >= 1.0
    assert max(delays) <= 1.5
    fullest = max(sum(at <= other < at + 0.1 for other in delays) for at in delays)
    assert fullest < 100, "no tenth of a second takes a fifth of them"


def test_many_channels_are_joined_within_the_rate_limit() -> None:
    """A hundred channels rejoin at no more than fifty a second, and all end up joined (R9)."""
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
    for _ in range(200):
        world.run_for(0.04)
        fresh = len(ada.sent("phx_join")) - known - len(sent)
        sent += [world.clock.now.mono] * fresh
    assert len(sent) == 100
    assert max(sum(at <= other < at + 0.95 for other in sent) for at in sent) <= 50
    assert {ada.session.channels[room].state for room in rooms} == {ChannelState.JOINED}


def test_by_default_attempts_never_end() -> None:
    """After an outage of ten times the longest step, the client reconnects within the longest step (R3)."""
    world = World()
    ada = world.client()
    room = ada.channel("lobby")
    ada.start(ada.session.join, room)
    world.run_for(1)
    world.unreachable = True
    assert ada.wire is not None
    world.cut(ada.wire)
    world.run_for(300)
    assert ada.session.state in (ConnectionState.RETRYING, ConnectionState.CONNECTING)
    world.unreachable = False
    world.run_for(31)
    assert ada.session.channels[room].state is ChannelState.JOINED


def test_exhausted_attempts_fail_all_pending_calls(make_harness: Callable[..., Harness]) -> None:
    """With max_attempts the end is a typed error in every ticket and channel, once, with its cause (R3)."""
    harness = make_harness(backoff=Backoff(max_attempts=3), open_timeout=None, offline="wait")
    opened = harness.call(harness.session.open)
    room = harness.channel()
    joining = harness.call(harness.session.join, room)
    sending = harness.broadcast(room, timeout=None)
    for _ in range(4):
        assert harness.outcome(opened) is NOT_YET
        harness.drop(text="nobody listens")
        harness.run_to_attempt()
    assert harness.connects == 4, "the first attempt and three more"
    for ticket in (opened, joining, sending):
        error = error_of(harness.outcome(ticket))
        assert isinstance(error, ReconnectExhaustedError)
        assert "nobody listens" in str(error)
        assert isinstance(error.__cause__, ConnectError)
    assert harness.session.state is ConnectionState.CLOSED
    assert harness.state(room) is ChannelState.CLOSED
    assert harness.session.next_deadline is None


def test_the_first_connection_has_a_timeout(harness: Harness) -> None:
    """open_timeout ends all attempts of the first connection with one ConnectError that includes the last error."""
    opened = harness.call(harness.session.open)
    while harness.session.state is not ConnectionState.CLOSED:
        if harness.session.state is ConnectionState.CONNECTING:
            harness.drop(text="refused by the network")
        harness.run_for(0.1)
    assert harness.now.mono == pytest.approx(1000 + 20, abs=0.2)
    error = error_of(harness.outcome(opened))
    assert isinstance(error, ConnectError)
    assert "20 s" in str(error)
    assert "refused by the network" in str(error)


@pytest.mark.parametrize("limit", ["attempts", "time"])
def test_the_final_error_carries_the_last_http_answer(make_harness: Callable[..., Harness], limit: str) -> None:
    """The final error has the status, body, `retry_after` and hint of the last refusal (R3)."""
    harness = make_harness(backoff=Backoff(max_attempts=1) if limit == "attempts" else Backoff())
    opened = harness.call(harness.session.open)
    while harness.session.state is not ConnectionState.CLOSED:
        if harness.session.state is ConnectionState.CONNECTING:
            harness.drop(status=503, body=b"busy", retry_after=1.5)
        harness.run_for(0.1)
    error = error_of(harness.outcome(opened))
    assert type(error) is (ReconnectExhaustedError if limit == "attempts" else ConnectError)
    assert (error.status, error.body, error.retry_after) == (503, "busy", 1.5)
    assert isinstance(error.__cause__, ConnectError) and error.hint == error.__cause__.hint


def test_open_timeout_counts_only_until_the_first_connection(harness: Harness) -> None:
    """A client that was connected once is not ended by open_timeout."""
    harness.open()
    harness.drop(1006)
    harness.run_for(1000)
    assert harness.session.state is not ConnectionState.CLOSED


def test_a_hanging_attempt_times_out(harness: Harness) -> None:
    """A handshake that is not answered is aborted after `timeout` and retried."""
    harness.call(harness.session.open)
    harness.run_for(10.01)
    assert harness.session.state is ConnectionState.RETRYING
    assert len(harness.aborts) == 1
    generation = harness.session.generation
    harness.call(harness.session.transport_opened, 1)
    assert harness.session.state is ConnectionState.RETRYING, "the result of the old attempt is stale"
    assert harness.session.generation == generation
    assert harness.session.stats().stale_frames == 1


def test_reconnect_does_not_wait_for_the_backoff(harness: Harness) -> None:
    """reconnect() connects at once, during the backoff and while open, where it replaces the socket."""
    harness.open()
    room = harness.joined()
    for _ in range(8):
        harness.drop(1006)
        harness.run_to_attempt()
    harness.drop(text="again")
    assert harness.session.state is ConnectionState.RETRYING
    connects = harness.connects
    harness.call(harness.session.reconnect)
    assert harness.session.state is ConnectionState.CONNECTING
    harness.call(harness.session.reconnect)
    assert harness.connects == connects + 1, "one attempt at a time"
    harness.accept()
    assert harness.state(room) is ChannelState.JOINING
    aborted = len(harness.aborts)
    harness.call(harness.session.reconnect)
    assert len(harness.aborts) == aborted + 1
    assert harness.session.state is ConnectionState.CONNECTING
    assert harness.state(room) is ChannelState.WAITING


def test_reconnects_by_the_user_do_not_count_as_failed_attempts(make_harness: Callable[..., Harness]) -> None:
    """Reconnects by the user do not count as attempts."""
    harness = make_harness(backoff=Backoff(max_attempts=2))
    harness.open()
    for _ in range(5):
        harness.call(harness.session.reconnect)
        harness.accept()
    assert harness.session.state is ConnectionState.OPEN


def test_the_delay_of_a_backoff_function_is_awaited(make_harness: Callable[..., Harness]) -> None:
    """If the backoff is a function, the core requests each delay, numbered from 0, and waits that long."""
    harness = make_harness(backoff=None)
    harness.open()
    attempts = list[int]()
    for _ in range(3):
        harness.drop(1006)
        attempts.append([effect.attempt for effect in harness.effects if isinstance(effect, AskDelay)][-1])
        harness.call(harness.session.delay_ready, None, 7.0)
        harness.run_for(6.9)
        assert harness.session.state is ConnectionState.RETRYING
        harness.run_for(0.2)
        assert harness.session.state is ConnectionState.CONNECTING
    assert attempts == [0, 1, 2]


@pytest.mark.parametrize("topic", [None, "realtime:room"])
def test_a_late_delay_of_a_backoff_function_has_no_effect(
    make_harness: Callable[..., Harness], topic: str | None
) -> None:
    """A delay returned after close() sets no deadline (R10)."""
    harness = make_harness(backoff=None, rejoin_backoff=None)
    harness.open()
    room = harness.joined()
    harness.close_channel(room, harness.sent("phx_join")[0].ref)
    harness.call(harness.session.close)
    harness.drop(1000)
    harness.call(harness.session.delay_ready, topic, 1.0)
    assert harness.session.next_deadline is None


def test_each_state_change_of_the_connection_is_reported_with_its_cause(harness: Harness) -> None:
    """A watcher receives each status change of the connection once, in order and with its cause (R23)."""
    moves = harness.watch()
    harness.open()
    harness.drop(1012)
    harness.reconnect()
    harness.call(harness.session.close)
    harness.drop(1000)
    S = ConnectionState  # noqa: N806
    assert [(move.previous, move.state) for move in moves] == [
        (S.IDLE, S.CONNECTING),
        (S.CONNECTING, S.OPEN),
        (S.OPEN, S.RETRYING),
        (S.RETRYING, S.CONNECTING),
        (S.CONNECTING, S.OPEN),
        (S.OPEN, S.CLOSING),
        (S.CLOSING, S.CLOSED),
    ]
    assert {move.topic for move in moves} == {None}
    assert [move.cause and move.cause.close_code for move in moves] == [None, None, 1012, None, None, None, None]


def test_replies_of_an_earlier_socket_do_not_make_a_connection_stable(make_harness: Callable[..., Harness]) -> None:
    """Only a reply on the same socket restarts the backoff: sockets without a reply use up the attempts (R8)."""
    harness = make_harness(backoff=Backoff(jitter=0, max_attempts=2))
    harness.open()
    harness.joined()
    harness.run_alive(6)
    for _ in range(2):
        harness.drop(1006)
        harness.reconnect()
        harness.run_for(6)
    harness.drop(1006)
    assert harness.session.state is ConnectionState.CLOSED
    assert isinstance(harness.session.error, ReconnectExhaustedError)


def test_attempts_end_after_max_elapsed(make_harness: Callable[..., Harness]) -> None:
    """With max_elapsed, attempts end that many seconds after the first failure, however many they are (R3)."""
    harness = make_harness(backoff=Backoff(initial=1, factor=1, jitter=0, max_elapsed=20), open_timeout=None)
    harness.open()
    harness.drop(text="gone")
    for _ in range(15):
        harness.run_to_attempt()
        harness.drop(text="nobody listens")
    assert {harness.session.state} == {ConnectionState.RETRYING}
    harness.reconnect()
    harness.run_alive(30)  # stable: the backoff restarts
    harness.drop(text="gone")
    for attempt in range(30):
        harness.run_to_attempt()
        if harness.session.state is ConnectionState.CLOSED:
            break
        harness.drop(text=f"nobody listens {attempt}")
    error = harness.session.error
    assert isinstance(error, ReconnectExhaustedError) and "in 20 s" in str(error)


def test_an_idle_socket_is_closed_and_opened_again(make_harness: Callable[..., Harness]) -> None:
    """After idle_disconnect without channels the socket is closed; the next subscribe opens it, then joins."""
    harness = make_harness(idle_disconnect=5.0)
    harness.open()
    room = harness.joined()
    harness.run_alive(60)
    assert harness.session.state is ConnectionState.OPEN, "a subscribed channel keeps it"
    harness.call(harness.session.leave, room, 10.0)
    harness.reply(harness.sent("phx_leave")[-1])
    harness.run_alive(4.9)
    assert harness.session.state is ConnectionState.OPEN
    harness.run_alive(0.2)
    assert harness.session.state is ConnectionState.IDLE
    assert harness.session.next_deadline is None
    joins = len(harness.sent("phx_join"))
    joining = harness.call(harness.session.join, room)
    assert harness.session.state is ConnectionState.CONNECTING
    assert len(harness.sent("phx_join")) == joins, "nothing is sent before the socket is open"
    harness.accept()
    harness.answer_join()
    assert harness.outcome(joining) is None
    harness.run_alive(60)
    assert harness.session.state is ConnectionState.OPEN


def test_a_heartbeat_of_an_idle_socket_has_no_timeout(make_harness: Callable[..., Harness]) -> None:
    """A heartbeat unanswered when the idle socket was closed does not end a later socket (R5)."""
    harness = make_harness(idle_disconnect=26.0)
    harness.open()
    harness.run_for(26.1)
    assert harness.session.state is ConnectionState.IDLE
    harness.call(harness.session.open)
    harness.accept()
    harness.run_for(20)
    assert harness.session.state is ConnectionState.OPEN


@pytest.mark.parametrize("how", ["timeout", "cancel", "remove"])
def test_a_cancelled_join_lets_the_socket_become_idle(make_harness: Callable[..., Harness], how: str) -> None:
    """A subscribe that all callers cancelled, and a removed channel, do not keep the socket open."""
    harness = make_harness(idle_disconnect=30.0)
    harness.open()
    room = harness.channel()
    ticket = harness.call(harness.session.join, room, timeout=2.0 if how == "timeout" else None)
    if how == "cancel":
        harness.call(harness.session.cancel, ticket)
    elif how == "remove":
        harness.call(harness.session.remove, room)
    harness.run_alive(13)
    for frame in (*harness.sent("phx_join"), *harness.sent("phx_leave")):
        harness.reply(frame, {"postgres_changes": []})
    harness.run_alive(33)
    assert harness.session.state is ConnectionState.IDLE


def test_a_join_during_a_leave_keeps_the_socket(make_harness: Callable[..., Harness]) -> None:
    """A channel subscribed again while the last one leaves finds its socket open (R24)."""
    harness = make_harness(idle_disconnect=1.0)
    harness.open()
    room, other = harness.joined(), harness.channel("other")
    harness.call(harness.session.leave, room, 10.0)
    harness.run_alive(0.9)
    harness.call(harness.session.join, other)
    harness.run_alive(5)
    assert harness.session.state is ConnectionState.OPEN
