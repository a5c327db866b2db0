"""Refused joins and system errors: each row of the server's tables has the documented consequence (R29)."""

from collections.abc import Callable

import pytest

from supawire.errors import AuthError, JoinDeniedError, JoinError, RealtimeError
from supawire.events import ChannelState
from supawire.options import Limits, Secret, SessionOptions
from supawire.selectors import changes
from supawire.testing.harness import NOT_YET, error_of

from .conftest import Harness
from .server_texts import CHANGES, LONGEST, REASONS, SLOWLY, SOON, SYSTEMS, Class


def with_provider(name: str = "room") -> tuple[Harness, str]:
    """Return a client with a token provider, no channel limit, and a channel whose join is unanswered."""
    harness = Harness(SessionOptions(has_token_provider=True, limits=Limits(channels=None)))
    harness.call(harness.session.open)
    harness.give_token("first")
    harness.accept()
    room = harness.channel(name)
    harness.call(harness.session.join, room)
    harness.give_token("first")
    return harness, room


def follow(harness: Harness, room: str, says: Callable[[], None], what: Class) -> None:
    """Let the server send the error, and check the consequence given by the row."""
    says()
    if what == "give up":
        assert harness.state(room) is ChannelState.FAILED
        harness.run_alive(120)
        assert len(harness.sent("phx_join")) == 1, "no retry without a call"
        return
    assert harness.state(room) is ChannelState.RETRYING
    error = harness.at(room).error
    assert error is not None
    assert error.retryable
    harness.run_alive(SOON + 0.01 if what != "slow" else SLOWLY - 0.01)
    if what == "slow":
        assert harness.state(room) is ChannelState.RETRYING
        harness.run_alive(LONGEST - SLOWLY + 0.02)
    harness.give_token("second")
    assert harness.state(room) is ChannelState.JOINING
    assert harness.sent("phx_join")[-1].payload["access_token"] == "second"
    if what in ("refresh", "refresh once"):
        harness.refuse_join(
            "JwtSignatureError: no" if what == "refresh once" else "InvalidJWTToken: Token has expired 1"
        )
        assert harness.state(room) is (ChannelState.FAILED if what == "refresh once" else ChannelState.RETRYING)


@pytest.mark.parametrize(("reason", "what"), REASONS.items())
def test_each_reason_of_a_refused_join_is_handled_as_in_the_table(reason: str, what: Class) -> None:
    """Fatal reasons stop, transient ones are retried, limits more slowly, tokens after a fresh one (R29)."""
    harness, room = with_provider()
    waiting = harness.call(harness.session.join, room)
    follow(harness, room, lambda: harness.refuse_join(reason), what)
    if what == "give up":
        error = error_of(harness.outcome(waiting))
        assert isinstance(error, JoinDeniedError)
        assert reason in str(error)
        assert error.hint
        assert error.docs
    elif harness.state(room) is not ChannelState.FAILED:
        assert harness.outcome(waiting) is NOT_YET


@pytest.mark.parametrize(("text", "what"), SYSTEMS.items())
def test_each_system_error_is_handled_as_in_the_table(text: str, what: Class) -> None:
    """A system error followed by phx_close is handled by its class, with the server's text as the reason (R29)."""
    harness, room = with_provider()
    harness.answer_join()
    follow(harness, room, lambda: harness.end_channel(room, text), what)
    if what == "give up":
        assert text in str(harness.at(room).error)


@pytest.mark.parametrize(("text", "what"), CHANGES.items())
def test_no_system_error_of_changes_ends_the_channel(text: str, what: str) -> None:
    """Each ends readiness with the server's text; those that the server never retries are reported (R19, R29)."""
    harness, db = with_provider("db")
    harness.call(harness.session.leave, db, 1.0)
    harness.reply(harness.sent("phx_join")[-1], {})
    harness.reply(harness.sent("phx_leave")[-1])
    harness.collect(db, changes("users"))
    ready = harness.call(harness.session.join, db, ready=True)
    harness.give_token("first")
    harness.answer_join()
    harness.system(db, text, status="error")
    harness.run_alive(60)
    assert harness.state(db) is ChannelState.JOINED
    assert len(harness.sent("phx_join")) == 2
    if what == "never":
        assert text in str(error_of(harness.outcome(ready)))
        assert [text in str(error) for error in harness.errors] == [True]
    else:
        assert harness.outcome(ready) is NOT_YET
        assert harness.errors == []


def test_a_fatal_refusal_is_retried_when_the_token_changes(make_harness: Callable[..., Harness]) -> None:
    """Unauthorized stops until the token changes; setting the same token has no effect (R29)."""
    harness = make_harness(token="v1")
    harness.open()
    room = harness.channel(private=True)
    harness.call(harness.session.join, room)
    assert harness.sent("phx_join")[0].payload["access_token"] == "v1", "in the first join frame"
    harness.refuse_join("Unauthorized: no")
    harness.call(harness.session.set_token, Secret("v1"))
    assert harness.state(room) is ChannelState.FAILED
    harness.call(harness.session.set_token, Secret("v2"))
    assert harness.state(room) is ChannelState.JOINING
    assert harness.sent("phx_join")[1].payload["access_token"] == "v2"


def test_a_fatal_refusal_is_not_retried_after_a_reconnect(harness: Harness) -> None:
    """A channel that was refused permanently is not joined again after a reconnect (R29)."""
    harness.open()
    room, other = harness.channel(), harness.joined("other")
    harness.call(harness.session.join, room)
    harness.refuse_join("TenantNotFound: Tenant with the given ID does not exist")
    harness.drop(1001)
    harness.reconnect()
    assert [frame.topic for frame in harness.sent("phx_join")[2:]] == [other]
    assert harness.state(room) is ChannelState.FAILED


@pytest.mark.parametrize(
    "response", [{"reason": "RealtimeRestarting: wait"}, "RealtimeRestarting: wait", {}, None, [], 5]
)
def test_a_malformed_refusal_is_a_transient_refusal(harness: Harness, response: object) -> None:
    """Reasons that are bare strings, missing, or not text count as transient refusals (R29, R40)."""
    harness.open()
    room = harness.channel()
    harness.call(harness.session.join, room)
    harness.receive(room, "phx_reply", {"status": "error", "response": response}, ref=harness.sent("phx_join")[0].ref)
    assert harness.state(room) is ChannelState.RETRYING
    assert isinstance(harness.at(room).error, JoinError)


def test_the_reason_of_a_close_is_the_system_error_before_it(harness: Harness) -> None:
    """A phx_close after a system error has that error; one without it has none of an earlier join (R29)."""
    harness.open()
    room = harness.joined()
    harness.end_channel(room, "Too many messages per second")
    assert "Too many messages" in str(harness.at(room).error)
    harness.run_alive(31)
    harness.answer_join()
    harness.close_channel(room, harness.sent("phx_join")[-1].ref)
    assert "Too many messages" not in str(harness.at(room).error)
    assert isinstance(harness.at(room).error, RealtimeError)


def test_an_expired_token_is_an_auth_error(harness: Harness) -> None:
    """The error of a channel closed for its token is an AuthError and a PermissionError (R29)."""
    harness.open()
    room = harness.joined()
    harness.end_channel(room, "Token has expired 1 seconds ago")
    assert isinstance(harness.at(room).error, AuthError)
    assert isinstance(harness.at(room).error, PermissionError)


TOO_MANY = "ChannelRateLimitReached: Too many channels"


def test_too_many_channels_is_retried_once_while_the_client_counts_fewer(make_harness: Callable[..., Harness]) -> None:
    """The server's count lags after a leave; the second refusal is final, until the next subscribe (R29)."""
    harness = make_harness(limits=Limits(channels=2))
    harness.open()
    left, room = harness.joined("left"), harness.channel()
    harness.joined("stays")
    harness.call(harness.session.leave, left, 10.0)
    for _ in range(2):
        joining = harness.call(harness.session.join, room)
        harness.refuse_join(TOO_MANY)
        assert harness.state(room) is ChannelState.RETRYING
        harness.run_for(1.1)
        harness.refuse_join(TOO_MANY)
        assert harness.state(room) is ChannelState.FAILED
        assert error_of(harness.outcome(joining)).code == "ChannelRateLimitReached"
    assert len([frame for frame in harness.sent("phx_join") if frame.topic == room]) == 4


def test_a_channel_is_joined_when_the_server_accepts_the_second_attempt(make_harness: Callable[..., Harness]) -> None:
    """The second attempt succeeds, and a later refusal has one more attempt again (R29)."""
    harness = make_harness(limits=Limits(channels=1))
    harness.open()
    room = harness.channel()
    for _ in range(2):
        joining = harness.call(harness.session.join, room)
        harness.refuse_join(TOO_MANY)
        harness.run_alive(2.1)
        harness.answer_join()
        assert harness.outcome(joining) is None
        harness.run_alive(6)
        harness.close_channel(room, harness.sent("phx_join")[-1].ref)
        harness.run_alive(1.1)


def test_too_many_channels_is_final_without_a_limit_in_the_client(make_harness: Callable[..., Harness]) -> None:
    """Without a client-side limit the server's answer is final (R29)."""
    harness = make_harness(limits=Limits.off())
    harness.open()
    room = harness.channel()
    harness.call(harness.session.join, room)
    harness.refuse_join(TOO_MANY)
    assert harness.state(room) is ChannelState.FAILED
