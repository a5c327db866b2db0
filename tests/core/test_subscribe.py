"""subscribe: resolved by the join, fails with its reason, and timeouts that ignore time in the join queue (R23)."""

from collections.abc import Callable

from supawire.errors import ConnectionLostError, JoinDeniedError, OperationTimeout
from supawire.events import ChannelState, ConnectionState
from supawire.options import Backoff, Limits
from supawire.selectors import status
from supawire.testing.harness import NOT_YET, error_of

from .conftest import Story

HELLO = {"type": "broadcast", "event": "hello", "payload": {"n": 1}}


def test_subscribe_returns_when_joined_and_not_before(story: Story) -> None:
    """subscribe returns when joined, also if the connection must be opened first (R23)."""
    room = story.channel()
    joining = story.call(story.session.join, room)
    assert story.session.state is ConnectionState.CONNECTING
    story.accept()
    assert story.outcome(joining) is NOT_YET
    story.answer_join()
    assert story.outcome(joining) is None


def test_a_fatal_refusal_is_raised_at_once_with_the_reason(story: Story) -> None:
    """subscribe raises the server's reason, code and a hint as one typed error (R23)."""
    story.open()
    room = story.channel()
    joining = story.call(story.session.join, room)
    story.refuse_join("Unauthorized: You do not have permissions to read from this Channel topic: room")
    error = error_of(story.outcome(joining))
    assert isinstance(error, JoinDeniedError)
    assert (error.code, error.topic, error.retryable) == ("Unauthorized", "room", False)
    assert "You do not have permissions" in str(error)
    assert story.at(room).error is error


def test_subscribe_waits_through_transient_refusals(story: Story) -> None:
    """A transient refusal is retried; the timeout error includes the last refusal (R23)."""
    story.open()
    room = story.channel()
    joining = story.call(story.session.join, room, timeout=20.0)
    story.refuse_join("RealtimeRestarting: Realtime is restarting, please standby")
    story.run_for(1.1)
    assert story.outcome(joining) is NOT_YET
    assert len(story.sent("phx_join")) == 2
    story.refuse_join("RealtimeRestarting: Realtime is restarting, please standby")
    story.run_for(19)
    error = error_of(story.outcome(joining))
    assert isinstance(error, OperationTimeout)
    assert "Realtime is restarting" in str(error)


def test_status_listeners_receive_each_change_with_its_cause(story: Story) -> None:
    """A status listener receives each status change of its channel in order, with its cause (R23)."""
    story.open()
    room = story.channel()
    moves = story.collect(room, status())
    story.join(room)
    story.drop(1006)
    story.reconnect()
    story.refuse_join("Unauthorized: no")
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


def test_queue_time_behind_other_joins_does_not_count(story: Story) -> None:
    """A timeout that ignores queue time is paused behind other unanswered joins; a plain one is not."""
    story.open()
    slow, patient, plain = story.channel("slow"), story.channel("patient"), story.channel("plain")
    story.call(story.session.join, slow)
    one = story.call(story.session.join, patient, timeout=5.0, ignore_queue_time=True)
    two = story.call(story.session.join, plain, timeout=5.0)
    story.run_for(15)
    assert story.outcome(one) is NOT_YET
    assert isinstance(error_of(story.outcome(two)), OperationTimeout)
    story.reply(story.sent("phx_join")[0], {"postgres_changes": []})
    story.run_for(4.9)
    assert story.outcome(one) is NOT_YET
    story.run_for(0.2)
    assert isinstance(error_of(story.outcome(one)), OperationTimeout)


def test_time_without_a_connection_counts(story: Story) -> None:
    """Time without a connection counts, also for callers that waited behind other joins when it was lost."""
    story.open()
    first, last = story.channel("first"), story.channel("last")
    story.call(story.session.join, first)
    waiting = story.call(story.session.join, last, timeout=5.0, ignore_queue_time=True)
    story.run_for(3)
    story.drop(1006)
    story.run_for(4.9)
    assert story.outcome(waiting) is NOT_YET
    story.run_for(0.2)
    assert isinstance(error_of(story.outcome(waiting)), OperationTimeout)


def test_queue_time_behind_the_limit_on_joins_does_not_count(make_story: Callable[..., Story]) -> None:
    """Time behind the limit on joins is not counted either."""
    story = make_story(limits=Limits(joins_per_second=0.1))
    story.open()
    story.joined("first")
    waiting = story.call(story.session.join, story.channel("second"), timeout=5.0, ignore_queue_time=True)
    story.run_alive(9)
    assert story.outcome(waiting) is NOT_YET
    story.run_alive(1.1)
    story.answer_join()
    assert story.outcome(waiting) is None


def test_a_channel_fails_after_the_maximum_of_attempts(make_story: Callable[..., Story]) -> None:
    """With max_attempts for rejoins a channel ends FAILED with the reason, whether refused or unanswered (R3)."""
    for answered in (True, False):
        story = make_story(rejoin_backoff=Backoff(initial=1, max_attempts=2))
        story.open()
        other, room = story.joined("other"), story.channel()
        joining = story.call(story.session.join, room)
        for _ in range(3):
            assert story.state(room) is ChannelState.JOINING
            if answered:
                story.refuse_join("RealtimeRestarting: wait")
            else:
                story.run_alive(10)
                story.receive(other, "broadcast", HELLO)
                story.run_alive(10.01)
            if story.state(room) is ChannelState.RETRYING:
                story.run_alive(4)
        assert story.state(room) is ChannelState.FAILED, f"answered={answered}"
        assert story.outcome(joining) is not NOT_YET
        assert len(story.sent("phx_join")) == 4


def test_time_until_a_retry_counts_after_a_refusal_behind_other_joins(story: Story) -> None:
    """After a join is answered before its turn, the time until its retry counts."""
    story.open()
    story.call(story.session.join, story.channel("first"))
    last = story.channel("last")
    waiting = story.call(story.session.join, last, timeout=0.5, ignore_queue_time=True)
    story.run_for(3)
    story.refuse_join("ConnectionRateLimitReached: Too many connected users")
    story.run_for(0.6)
    assert isinstance(error_of(story.outcome(waiting)), OperationTimeout)


def test_a_new_subscribe_is_not_paused_by_an_earlier_one(make_story: Callable[..., Story]) -> None:
    """A channel that was paused when it was left is not paused when subscribed again without a connection."""
    story = make_story(limits=Limits(joins_per_second=0.1))
    story.open()
    story.joined("first")
    room = story.channel()
    story.call(story.session.join, room, timeout=5.0, ignore_queue_time=True)
    story.call(story.session.leave, room, 1.0)
    story.drop(1006)
    waiting = story.call(story.session.join, room, timeout=5.0, ignore_queue_time=True)
    story.run_for(5.1)
    assert isinstance(error_of(story.outcome(waiting)), OperationTimeout)


def test_a_timeout_that_is_paused_repeatedly_has_its_full_length(make_story: Callable[..., Story]) -> None:
    """Paused three times, such a caller has the sum of the times between, and not less (R23)."""
    story = make_story(limits=Limits(joins_per_second=None), rejoin_backoff=Backoff(initial=1, factor=1, jitter=0))
    story.open()
    slow, room = story.channel("slow"), story.channel()
    waiting = story.call(story.session.join, room, timeout=5.0, ignore_queue_time=True)
    for _ in range(3):
        story.refuse_join("RealtimeRestarting: wait")  # of the room: one second passes until it is tried again
        story.call(story.session.join, slow)
        story.run_alive(1.01)
        assert story.sent("phx_join")[-1].topic == room, "behind the slow one"
        story.run_alive(10)
        story.reply(story.sent("phx_join")[-2], {"reason": "Unauthorized: no"}, status="error")
    assert story.outcome(waiting) is NOT_YET
    story.run_for(1.9)
    assert story.outcome(waiting) is NOT_YET
    story.run_for(0.2)
    assert isinstance(error_of(story.outcome(waiting)), OperationTimeout)


def test_a_channel_fails_after_the_maximum_duration_of_retries(make_story: Callable[..., Story]) -> None:
    """With max_elapsed a channel ends FAILED that many seconds after the first refusal (R3)."""
    story = make_story(rejoin_backoff=Backoff(initial=1, factor=1, jitter=0, max_elapsed=10))
    story.open()
    room = story.channel()
    joining = story.call(story.session.join, room)
    refusals = 0
    while story.state(room) is not ChannelState.FAILED:
        story.refuse_join("RealtimeRestarting: wait")
        refusals += 1
        story.run_alive(1)
        assert refusals < 20
    assert 10 <= refusals <= 12
    assert story.outcome(joining) is not NOT_YET
