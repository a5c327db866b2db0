"""Refused joins and system errors: each row of the server's tables has the documented consequence (R29)."""

from collections.abc import Callable

import pytest

from supawire.errors import AuthError, JoinDeniedError, JoinError, RealtimeError
from supawire.events import ChannelState
from supawire.options import Limits, Secret, SessionOptions
from supawire.selectors import changes
from supawire.testing.harness import NOT_YET, error_of

from .conftest import Story
from .server_words import CHANGES, LONGEST, REASONS, SLOWLY, SOON, SYSTEMS, Class


def with_provider(name: str = "room") -> tuple[Story, str]:
    """Return a client with a token provider, no channel limit, and a channel whose join is unanswered."""
    story = Story(SessionOptions(has_token_provider=True, limits=Limits(channels=None)))
    story.call(story.session.open)
    story.give_token("first")
    story.accept()
    room = story.channel(name)
    story.call(story.session.join, room)
    story.give_token("first")
    return story, room


def follow(story: Story, room: str, says: Callable[[], None], what: Class) -> None:
    """Let the server send the error, and check the consequence given by the row."""
    says()
    if what == "give up":
        assert story.state(room) is ChannelState.FAILED
        story.run_alive(120)
        assert len(story.sent("phx_join")) == 1, "nothing is tried again by itself"
        return
    assert story.state(room) is ChannelState.RETRYING
    error = story.at(room).error
    assert error is not None
    assert error.retryable
    story.run_alive(SOON + 0.01 if what != "slow" else SLOWLY - 0.01)
    if what == "slow":
        assert story.state(room) is ChannelState.RETRYING
        story.run_alive(LONGEST - SLOWLY + 0.02)
    story.give_token("second")
    assert story.state(room) is ChannelState.JOINING
    assert story.sent("phx_join")[-1].payload["access_token"] == "second"
    if what in ("refresh", "refresh once"):
        story.refuse_join("JwtSignatureError: no" if what == "refresh once" else "InvalidJWTToken: Token has expired 1")
        assert story.state(room) is (ChannelState.FAILED if what == "refresh once" else ChannelState.RETRYING)


@pytest.mark.parametrize(("reason", "what"), REASONS.items())
def test_each_reason_of_a_refused_join_is_handled_as_the_table_says(reason: str, what: Class) -> None:
    """Fatal reasons stop, transient ones are retried, limits more slowly, tokens after a fresh one (R29)."""
    story, room = with_provider()
    waiting = story.call(story.session.join, room)
    follow(story, room, lambda: story.refuse_join(reason), what)
    if what == "give up":
        error = error_of(story.outcome(waiting))
        assert isinstance(error, JoinDeniedError)
        assert reason in str(error)
        assert error.hint
        assert error.docs
    elif story.state(room) is not ChannelState.FAILED:
        assert story.outcome(waiting) is NOT_YET


@pytest.mark.parametrize(("text", "what"), SYSTEMS.items())
def test_each_system_error_is_handled_as_the_table_says(text: str, what: Class) -> None:
    """A system error followed by phx_close: the same classes, with the server's text as the reason (R29)."""
    story, room = with_provider()
    story.answer_join()
    follow(story, room, lambda: story.end_channel(room, text), what)
    if what == "give up":
        assert text in str(story.at(room).error)


@pytest.mark.parametrize(("text", "what"), CHANGES.items())
def test_no_system_error_of_changes_ends_the_channel(text: str, what: str) -> None:
    """Each ends readiness with the server's text; those that the server never retries are reported (R19, R29)."""
    story, db = with_provider("db")
    story.call(story.session.leave, db, 1.0)
    story.reply(story.sent("phx_join")[-1], {})
    story.reply(story.sent("phx_leave")[-1])
    story.collect(db, changes("users"))
    ready = story.call(story.session.join, db, ready=True)
    story.give_token("first")
    story.answer_join()
    story.system(db, text, status="error")
    story.run_alive(60)
    assert story.state(db) is ChannelState.JOINED
    assert len(story.sent("phx_join")) == 2
    if what == "never":
        assert text in str(error_of(story.outcome(ready)))
        assert [text in str(error) for error in story.errors] == [True]
    else:
        assert story.outcome(ready) is NOT_YET
        assert story.errors == []


def test_a_fatal_refusal_is_retried_when_the_token_changes(make_story: Callable[..., Story]) -> None:
    """Unauthorized stops until the token changes; setting the same token has no effect (R29)."""
    story = make_story(token="v1")
    story.open()
    room = story.channel(private=True)
    story.call(story.session.join, room)
    assert story.sent("phx_join")[0].payload["access_token"] == "v1", "in the first join frame"
    story.refuse_join("Unauthorized: no")
    story.call(story.session.set_token, Secret("v1"))
    assert story.state(room) is ChannelState.FAILED
    story.call(story.session.set_token, Secret("v2"))
    assert story.state(room) is ChannelState.JOINING
    assert story.sent("phx_join")[1].payload["access_token"] == "v2"


def test_a_fatal_refusal_is_not_retried_after_a_reconnect(story: Story) -> None:
    """A channel that was refused permanently is not joined again after a reconnect (R29)."""
    story.open()
    room, other = story.channel(), story.joined("other")
    story.call(story.session.join, room)
    story.refuse_join("TenantNotFound: Tenant with the given ID does not exist")
    story.drop(1001)
    story.reconnect()
    assert [frame.topic for frame in story.sent("phx_join")[2:]] == [other]
    assert story.state(room) is ChannelState.FAILED


@pytest.mark.parametrize(
    "response", [{"reason": "RealtimeRestarting: wait"}, "RealtimeRestarting: wait", {}, None, [], 5]
)
def test_a_malformed_refusal_is_a_transient_refusal(story: Story, response: object) -> None:
    """Reasons that are bare strings, missing, or not text count as transient refusals (R29, R40)."""
    story.open()
    room = story.channel()
    story.call(story.session.join, room)
    story.receive(room, "phx_reply", {"status": "error", "response": response}, ref=story.sent("phx_join")[0].ref)
    assert story.state(room) is ChannelState.RETRYING
    assert isinstance(story.at(room).error, JoinError)


def test_the_reason_of_a_close_is_the_system_error_before_it(story: Story) -> None:
    """A phx_close after a system error has that error; one without it has none of an earlier join (R29)."""
    story.open()
    room = story.joined()
    story.end_channel(room, "Too many messages per second")
    assert "Too many messages" in str(story.at(room).error)
    story.run_alive(31)
    story.answer_join()
    story.close_channel(room, story.sent("phx_join")[-1].ref)
    assert "Too many messages" not in str(story.at(room).error)
    assert isinstance(story.at(room).error, RealtimeError)


def test_an_expired_token_is_an_auth_error(story: Story) -> None:
    """The error of a channel closed for its token is an AuthError and a PermissionError (R29)."""
    story.open()
    room = story.joined()
    story.end_channel(room, "Token has expired 1 seconds ago")
    assert isinstance(story.at(room).error, AuthError)
    assert isinstance(story.at(room).error, PermissionError)


TOO_MANY = "ChannelRateLimitReached: Too many channels"


def test_too_many_channels_is_retried_once_while_the_client_counts_fewer(make_story: Callable[..., Story]) -> None:
    """The server's count lags after a leave; the second refusal is final, until the next subscribe (R29)."""
    story = make_story(limits=Limits(channels=2))
    story.open()
    left, room = story.joined("left"), story.channel()
    story.joined("stays")
    story.call(story.session.leave, left, 10.0)
    for _ in range(2):
        joining = story.call(story.session.join, room)
        story.refuse_join(TOO_MANY)
        assert story.state(room) is ChannelState.RETRYING
        story.run_for(1.1)
        story.refuse_join(TOO_MANY)
        assert story.state(room) is ChannelState.FAILED
        assert error_of(story.outcome(joining)).code == "ChannelRateLimitReached"
    assert len([frame for frame in story.sent("phx_join") if frame.topic == room]) == 4


def test_a_channel_is_joined_when_the_server_accepts_the_second_attempt(make_story: Callable[..., Story]) -> None:
    """The second attempt succeeds, and a later refusal has one more attempt again (R29)."""
    story = make_story(limits=Limits(channels=1))
    story.open()
    room = story.channel()
    for _ in range(2):
        joining = story.call(story.session.join, room)
        story.refuse_join(TOO_MANY)
        story.run_alive(2.1)
        story.answer_join()
        assert story.outcome(joining) is None
        story.run_alive(6)
        story.close_channel(room, story.sent("phx_join")[-1].ref)
        story.run_alive(1.1)


def test_too_many_channels_is_final_without_a_limit_in_the_client(make_story: Callable[..., Story]) -> None:
    """Without a client-side limit the server's answer is final (R29)."""
    story = make_story(limits=Limits.off())
    story.open()
    room = story.channel()
    story.call(story.session.join, room)
    story.refuse_join(TOO_MANY)
    assert story.state(room) is ChannelState.FAILED
