"""subscribe: resolved by the join, fails with its reason, and timeouts that ignore time in the join queue (R23)."""

from collections.abc import Callable

from supawire.errors import ConnectionLostError, JoinDeniedError, OperationTimeout
from supawire.events import ChannelState, ConnectionState
from supawire.options import Backoff, Limits
from supawire.selectors import status
from supawire.testing.harness import NOT_YET, error_of

from .conftest import Harness

HELLO = {"type": "broadcast", "event": "hello", "payload": {"n": 1}}


def test_subscribe_returns_when_joined_and_not_before(harness: Harness) -> None:
    """subscribe returns when joined, also if the connection must be opened first (R23)."""
    room = harness.channel()
    joining = harness.call(harness.session.join, room)
    assert harness.session.state is ConnectionState.CONNECTING
    harness.accept()
    assert harness.outcome(joining) is NOT_YET
    harness.answer_join()
    assert harness.outcome(joining) is None


def test_a_fatal_refusal_is_raised_at_once_with_the_reason(harness: Harness) -> None:
    """subscribe raises the server's reason, code and a hint as one typed error (R23)."""
    harness.open()
    room = harness.channel()
    joining = harness.call(harness.session.join, room)
    harness.refuse_join("Unauthorized: You do not have permissions to read from this Channel topic: room")
    error = error_of(harness.outcome(joining))
    assert isinstance(error, JoinDeniedError)
    assert (error.code, error.topic, error.retryable) == ("Unauthorized", "room", False)
    assert "You do not have permissions" in str(error)
    assert harness.at(room).error is error


def test_subscribe_waits_through_transient_refusals(harness: Harness) -> None:
    """A transient refusal is retried; the timeout error includes the last refusal (R23)."""
    harness.open()
    room = harness.channel()
    joining = harness.call(harness.session.join, room, timeout=20.0)
    harness.refuse_join("RealtimeRestarting: Realtime is restarting, please standby")
    harness.run_for(1.1)
    assert harness.outcome(joining) is NOT_YET
    assert len(harness.sent("phx_join")) == 2
    harness.refuse_join("RealtimeRestarting: Realtime is restarting, please standby")
    harness.run_for(19)
    error = error_of(harness.outcome(joining))
    assert isinstance(error, OperationTimeout)
    assert "Realtime is restarting" in str(error)


def test_status_listeners_receive_each_change_with_its_cause(harness: Harness) -> None:
    """A status listener receives each status change of its channel in order, with its cause (R23)."""
    harness.open()
    room = harness.channel()
    moves = harness.collect(room, status())
    harness.join(room)
    harness.drop(1006)
    harness.reconnect()
    harness.refuse_join("Unauthorized: no")
    S = ChannelState  # noqa: N806
    assert [(move.previous, move.state) for move in moves] == [
        (S.IDLE, S.WAITING),
        (S.WAITING, S.JOINING),
        (S.JOINING, S.JOINED),
        (S.JOINED, S.WAITING),
        (S.WAITING, S.JOINING),
        (S.JOINING, S.FAILED),
    ]
    assert [type(move.cause) for move in moves] == [
        type(None),
        type(None),
        type(None),
        ConnectionLostError,
        type(None),
        JoinDeniedError,
    ]


def test_queue_time_behind_other_joins_does_not_count(harness: Harness) -> None:
    """A timeout that ignores queue time is paused behind other unanswered joins; a plain one is not."""
    harness.open()
    slow, patient, plain = harness.channel("slow"), harness.channel("patient"), harness.channel("plain")
    harness.call(harness.session.join, slow)
    one = harness.call(harness.session.join, patient, timeout=5.0, ignore_queue_time=True)
    two = harness.call(harness.session.join, plain, timeout=5.0)
    harness.run_for(15)
    assert harness.outcome(one) is NOT_YET
    assert isinstance(error_of(harness.outcome(two)), OperationTimeout)
    harness.reply(harness.sent("phx_join")[0], {"postgres_changes": []})
    harness.run_for(4.9)
    assert harness.outcome(one) is NOT_YET
    harness.run_for(0.2)
    assert isinstance(error_of(harness.outcome(one)), OperationTimeout)


def test_time_without_a_connection_counts(harness: Harness) -> None:
    """Time without a connection counts, also for callers that waited behind other joins when it was lost."""
    harness.open()
    first, last = harness.channel("first"), harness.channel("last")
    harness.call(harness.session.join, first)
    waiting = harness.call(harness.session.join, last, timeout=5.0, ignore_queue_time=True)
    harness.run_for(3)
    harness.drop(1006)
    harness.run_for(4.9)
    assert harness.outcome(waiting) is NOT_YET
    harness.run_for(0.2)
    assert isinstance(error_of(harness.outcome(waiting)), OperationTimeout)


def test_queue_time_behind_the_limit_on_joins_does_not_count(make_harness: Callable[..., Harness]) -> None:
    """Time behind the limit on joins is not counted either."""
    harness = make_harness(limits=Limits(joins_per_second=0.1))
    harness.open()
    harness.joined("first")
    waiting = harness.call(harness.session.join, harness.channel("second"), timeout=5.0, ignore_queue_time=True)
    harness.run_alive(9)
    assert harness.outcome(waiting) is NOT_YET
    harness.run_alive(1.1)
    harness.answer_join()
    assert harness.outcome(waiting) is None


def test_a_channel_fails_after_the_maximum_of_attempts(make_harness: Callable[..., Harness]) -> None:
    """With max_attempts for rejoins a channel ends FAILED with the reason, whether refused or unanswered (R3)."""
    for answered in (True, False):
        harness = make_harness(rejoin_backoff=Backoff(initial=1, max_attempts=2))
        harness.open()
        other, room = harness.joined("other"), harness.channel()
        joining = harness.call(harness.session.join, room)
        for _ in range(3):
            assert harness.state(room) is ChannelState.JOINING
            if answered:
                harness.refuse_join("RealtimeRestarting: wait")
            else:
                harness.run_alive(10)
                harness.receive(other, "broadcast", HELLO)
                harness.run_alive(10.01)
            if harness.state(room) is ChannelState.RETRYING:
                harness.run_alive(4)
        assert harness.state(room) is ChannelState.FAILED, f"answered={answered}"
        assert harness.outcome(joining) is not NOT_YET
        assert len(harness.sent("phx_join")) == 4


def test_time_until_a_retry_counts_after_a_refusal_behind_other_joins(harness: Harness) -> None:
    """After a join is answered before its turn, the time until its retry counts."""
    harness.open()
    harness.call(harness.session.join, harness.channel("first"))
    last = harness.channel("last")
    waiting = harness.call(harness.session.join, last, timeout=0.5, ignore_queue_time=True)
    harness.run_for(3)
    harness.refuse_join("ConnectionRateLimitReached: Too many connected users")
    harness.run_for(0.6)
    assert isinstance(error_of(harness.outcome(waiting)), OperationTimeout)


def test_a_new_subscribe_is_not_paused_by_an_earlier_one(make_harness: Callable[..., Harness]) -> None:
    """A channel that was paused when it was left is not paused when subscribed again without a connection."""
    harness = make_harness(limits=Limits(joins_per_second=0.1))
    harness.open()
    harness.joined("first")
    room = harness.channel()
    harness.call(harness.session.join, room, timeout=5.0, ignore_queue_time=True)
    harness.call(harness.session.leave, room, 1.0)
    harness.drop(1006)
    waiting = harness.call(harness.session.join, room, timeout=5.0, ignore_queue_time=True)
    harness.run_for(5.1)
    assert isinstance(error_of(harness.outcome(waiting)), OperationTimeout)


def test_a_timeout_that_is_paused_repeatedly_has_its_full_length(make_harness: Callable[..., Harness]) -> None:
    """Paused three times, such a caller has the sum of the times between, and not less (R23)."""
    harness = make_harness(limits=Limits(joins_per_second=None), rejoin_backoff=Backoff(initial=1, factor=1, jitter=0))
    harness.open()
    slow, room = harness.channel("slow"), harness.channel()
    waiting = harness.call(harness.session.join, room, timeout=5.0, ignore_queue_time=True)
    for _ in range(3):
        harness.refuse_join("RealtimeRestarting: wait")  # the channel is retried after one second
        harness.call(harness.session.join, slow)
        harness.run_alive(1.01)
        assert harness.sent("phx_join")[-1].topic == room, "behind the slow one"
        harness.run_alive(10)
        harness.reply(harness.sent("phx_join")[-2], {"reason": "Unauthorized: no"}, status="error")
    assert harness.outcome(waiting) is NOT_YET
    harness.run_for(1.9)
    assert harness.outcome(waiting) is NOT_YET
    harness.run_for(0.2)
    assert isinstance(error_of(harness.outcome(waiting)), OperationTimeout)


def test_a_channel_fails_after_the_maximum_duration_of_retries(make_harness: Callable[..., Harness]) -> None:
    """With max_elapsed a channel ends FAILED that many seconds after the first refusal (R3)."""
    harness = make_harness(rejoin_backoff=Backoff(initial=1, factor=1, jitter=0, max_elapsed=10))
    harness.open()
    room = harness.channel()
    joining = harness.call(harness.session.join, room)
    refusals = 0
    while harness.state(room) is not ChannelState.FAILED:
        harness.refuse_join("RealtimeRestarting: wait")
        refusals += 1
        harness.run_alive(1)
        assert refusals < 20
    assert 10 <= refusals <= 12
    assert harness.outcome(joining) is not NOT_YET
