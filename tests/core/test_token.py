"""The user's token: the current one in every join, fetched before it expires, and never printed."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from supawire.core.effects import PublishByHttp, Transmit
from supawire.core.requests import TimerKind
from supawire.core.token import expiry, on_wire
from supawire.errors import AuthError, RealtimeError
from supawire.events import ChannelState
from supawire.options import Secret, SessionOptions
from supawire.selectors import broadcast, gaps

from .conftest import Story

EXPIRED = "InvalidJWTToken: Token has expired 12 seconds ago"
BROKEN = AuthError("the provider is out of order", retryable=True)


def jwt(story: Story, lives: float, **claims: Any) -> str:
    """Return a token that expires after these seconds."""
    body = json.dumps({"exp": story.now.wall + lives, **claims}).encode()
    return f"h.{base64.urlsafe_b64encode(body).rstrip(b'=').decode()}.s"


@pytest.fixture
def harness() -> Story:
    """A session with a token provider, open with the token "one"."""
    story = Story(SessionOptions(has_token_provider=True))
    story.call(story.session.open)
    assert story.connects == 0, "the token is fetched before the connection"
    story.give_token("one")
    assert story.connects == 1
    story.accept()
    return story


def tokens(story: Story, event: str = "phx_join") -> list[str | None]:
    """Return the tokens in the frames of an event."""
    return [frame.payload.get("access_token") for frame in story.sent(event)]


# --- the newest token


def test_the_provider_is_called_before_each_connect_and_each_join(harness: Story) -> None:
    """A connect and a join each fetch a token once, and the join carries it (R25)."""
    room = harness.channel()
    harness.call(harness.session.join, room)
    assert harness.fetches == 2
    assert harness.sent("phx_join") == [], "not before the answer"
    harness.give_token("two")
    assert tokens(harness) == ["two"]
    harness.answer_join()
    harness.drop(1006)
    harness.run_to_attempt()
    assert harness.fetches == 3
    harness.give_token("three")
    harness.accept()
    assert tokens(harness) == ["two", "three"]


def test_a_token_set_while_disconnected_is_in_the_next_join(make_story: Callable[..., Story]) -> None:
    """set_token during the backoff: the join after it carries the new token (R25)."""
    story = make_story(token="v1")
    story.open()
    story.joined()
    story.drop(1006)
    story.call(story.session.set_token, Secret("v2"))
    story.reconnect()
    assert tokens(story) == ["v1", "v2"]


def test_a_new_token_is_sent_once_to_each_joined_channel(make_story: Callable[..., Story]) -> None:
    """Three joined channels get one access_token push each; none for the same token or a channel's own (R25)."""
    story = make_story(token="v1")
    story.open()
    rooms = [story.joined(name) for name in ("a", "b", "c")]
    own = story.joined("own", token="mine")
    story.call(story.session.set_token, Secret("v2"))
    assert [(frame.topic, frame.payload) for frame in story.sent("access_token")] == [
        (room, {"access_token": "v2"}) for room in rooms
    ]
    assert {frame.join_ref for frame in story.sent("access_token")} == {
        frame.ref for frame in story.sent("phx_join") if frame.topic != own
    }
    story.call(story.session.set_token, Secret("v2"))
    assert len(story.sent("access_token")) == 3
    assert story.session.stats().pending == 0, "nothing waits for a reply that never comes"
    assert not story.session.awaits_reply


@pytest.mark.parametrize("own", [False, True], ids=["client's", "channel's own"])
def test_a_token_that_arrives_during_a_join_is_sent_after_it(make_story: Callable[..., Story], own: bool) -> None:
    """The server receives a token that is newer than the join it has just accepted (R25)."""
    story = make_story(token="v1")
    story.open()
    room = story.channel()
    story.call(story.session.join, room)
    if own:
        story.call(story.session.set_channel_token, room, Secret("v2"))
    else:
        story.call(story.session.set_token, Secret("v2"))
    assert story.sent("access_token") == []
    story.answer_join()
    assert tokens(story) == ["v1"]
    assert tokens(story, "access_token") == ["v2"]


def test_a_channel_may_have_its_own_token(make_story: Callable[..., Story]) -> None:
    """A channel's own token is in its joins and pushes, and in no other channel's (R25)."""
    story = make_story(token="v1")
    story.open()
    story.joined("own", token="mine")
    room = story.joined("room")
    story.call(story.session.set_channel_token, "realtime:own", Secret("mine too"))
    story.call(story.session.set_channel_token, "realtime:own", Secret("mine too"))
    assert tokens(story) == ["mine", "v1"]
    assert [(frame.topic, frame.payload["access_token"]) for frame in story.sent("access_token")] == [
        ("realtime:own", "mine too")
    ]
    story.call(story.session.set_channel_token, "realtime:own", None)
    assert tokens(story, "access_token") == ["mine too", "v1"], "back to the client's"
    assert room


def test_the_provider_wins_over_set_auth_of_a_channel(harness: Story) -> None:
    """A token set on a channel is used until the provider answers; one given in its options is kept (R25)."""
    room, own = harness.channel("room"), harness.channel("own", token="mine")
    for topic in (room, own):
        harness.call(harness.session.join, topic)
    harness.give_token("v1")
    for frame in harness.sent("phx_join"):
        harness.reply(frame, {"postgres_changes": []})
    for topic in (room, own):
        harness.call(harness.session.set_channel_token, topic, Secret(f"set on {topic}"))
    harness.call(harness.session.join, harness.channel("later"))
    harness.give_token("v1")
    pushed = [(frame.topic, frame.payload["access_token"]) for frame in harness.sent("access_token")]
    assert pushed == [(room, f"set on {room}"), (own, f"set on {own}"), (room, "v1")]


def test_a_token_is_fetched_before_it_expires(harness: Story) -> None:
    """At 75 to 85 % of its lifetime the token is fetched again and sent to the channels (R25)."""
    harness.call(harness.session.join, harness.channel())
    harness.give_token(jwt(harness, 1000))
    harness.answer_join()
    fetches = harness.fetches
    harness.run_alive(749)
    assert harness.fetches == fetches
    start = harness.now.mono
    while harness.fetches == fetches:
        harness.run_alive(1)
    assert harness.now.mono - start <= 102
    fresh = jwt(harness, 1000)
    harness.give_token(fresh)
    assert tokens(harness, "access_token") == [fresh]
    harness.run_alive(740)
    assert harness.fetches == fetches + 1


def test_a_refresh_missed_in_sleep_is_made_on_waking(harness: Story) -> None:
    """After a clock jump the token is fetched at once, not when the timer fires (R25, R6)."""
    room = harness.channel()
    harness.call(harness.session.join, room)
    harness.give_token(jwt(harness, 3600))
    harness.answer_join()
    fetches = harness.fetches
    harness.clock.sleep(3500)
    harness.run_alive(5.1)
    assert harness.fetches == fetches + 1
    harness.give_token(jwt(harness, 3600, n=2))
    assert len(harness.sent("access_token")) == 1


def test_refresh_times_are_spread() -> None:
    """Clients with tokens of the same lifetime do not fetch together: the time is random (R25)."""
    moments = set[float]()
    for seed in range(40):
        story = Story(SessionOptions(has_token_provider=True, heartbeat=59), seed=seed)
        story.call(story.session.open)
        story.give_token(jwt(story, 1000))
        deadline = story.session.deadline(TimerKind.TOKEN_REFRESH)
        assert deadline is not None
        moments.add(round(deadline - story.now.mono))
    assert min(moments) >= 750
    assert max(moments) <= 850
    assert len(moments) > 20


def test_a_token_set_by_the_user_supersedes_a_pending_request(harness: Story) -> None:
    """set_token during a request to the provider: joins continue at once, the answer is dropped (R27)."""
    room = harness.channel()
    harness.call(harness.session.join, room)
    harness.call(harness.session.set_token, Secret("mine"))
    assert tokens(harness) == ["mine"]
    harness.give_token("late")
    harness.answer_join()
    harness.run_alive(30)
    assert harness.errors == [], "no timeout is reported for a superseded request"
    assert tokens(harness, "access_token") == []


def test_a_token_set_by_the_user_continues_the_connection_attempt(make_story: Callable[..., Story]) -> None:
    """set_token while a connect waits for the provider: it connects at once (R27)."""
    story = make_story(has_token_provider=True)
    story.call(story.session.open)
    story.call(story.session.set_token, Secret("mine"))
    assert story.connects == 1
    story.give_token("late")
    assert story.connects == 1


# --- a provider that fails


def test_a_provider_that_raises_keeps_the_token(harness: Story) -> None:
    """The join uses the current token; the error is reported once; retries get slower (R27)."""
    room = harness.channel()
    harness.call(harness.session.join, room)
    harness.give_token(BROKEN)
    assert tokens(harness) == ["one"]
    harness.answer_join()
    assert harness.errors == [BROKEN]
    waits = list[float]()
    for _ in range(6):
        fetches, at = harness.fetches, harness.now.mono
        while harness.fetches == fetches:
            harness.run_alive(0.25)
        waits.append(harness.now.mono - at)
        harness.give_token(BROKEN)
    assert waits[0] <= 4.5
    assert waits[-1] >= 14
    assert max(waits) <= 30.5
    fetches = harness.fetches
    while harness.fetches == fetches:
        harness.run_alive(1)
    harness.give_token("two")
    assert tokens(harness, "access_token") == ["two"]


def test_a_provider_that_never_answers_delays_only_until_the_timeout(harness: Story) -> None:
    """After `timeout` the join uses the current token, and an AuthError is reported (R27)."""
    room = harness.channel()
    harness.call(harness.session.join, room)
    harness.run_alive(10.1)
    assert tokens(harness) == ["one"]
    (error,) = harness.errors
    assert isinstance(error, AuthError)
    assert "10 s" in str(error)


def test_a_join_waits_for_the_first_token_ever(make_story: Callable[..., Story]) -> None:
    """Before the provider's first token no join is sent; the connection opens, and the join follows (R27)."""
    story = make_story(has_token_provider=True)
    story.call(story.session.open)
    story.give_token(BROKEN)
    story.accept()
    room = story.channel()
    joining = story.call(story.session.join, room)
    story.give_token(BROKEN)
    assert story.sent("phx_join") == []
    story.run_alive(5)
    story.give_token("one")
    assert tokens(story) == ["one"]
    story.answer_join()
    assert story.outcome(joining) is None


def test_a_slow_older_answer_never_overwrites_a_newer_one(harness: Story) -> None:
    """Of two requests the answer to the newer one counts, in whatever order they arrive (R27)."""
    session = harness.session
    harness.call(session.join, harness.channel())
    first = harness.fetches
    harness.drop(1006)
    harness.run_to_attempt()
    assert harness.fetches == first + 1
    harness.call(session.token_ready, first + 1, Secret("newer"))
    stale = session.stats().stale_frames
    harness.call(session.token_ready, first, Secret("older"))
    assert session.stats().stale_frames == stale + 1
    harness.accept()
    assert tokens(harness) == ["newer"]


def test_a_late_answer_does_not_restore_a_token_after_sign_out(harness: Story) -> None:
    """set_token(None) during a request: the answer is dropped (R27)."""
    harness.call(harness.session.join, harness.channel("first"))
    harness.call(harness.session.set_token, None)
    harness.give_token("one again")
    harness.answer_join()
    assert tokens(harness) == [None]
    assert harness.session.http_broadcasts.token is None
    assert harness.sent("access_token") == []


def test_without_a_token_joins_fall_back_to_the_key(make_story: Callable[..., Story]) -> None:
    """set_token(None): later joins carry no token, so that the server uses the key; nothing is pushed (R27)."""
    story = make_story(token="v1")
    story.open()
    story.call(story.session.set_token, None)
    story.joined("b")
    assert tokens(story) == [None]
    assert story.sent("access_token") == []
    assert "access_token" not in story.sent("phx_join")[-1].payload


@pytest.mark.parametrize("key", [None, "sb_publishable_x"])
def test_a_joined_channel_rejoins_without_the_token_after_sign_out(
    make_story: Callable[..., Story], key: str | None
) -> None:
    """Without another token to push, a joined channel rejoins once without one, which is a gap (R27)."""
    story = make_story(token="v1")
    story.open()
    reported = story.collect(story.joined("a"), gaps(), broadcast())
    story.joined("mine", token="own")
    story.call(story.session.set_token, None if key is None else Secret(key))
    story.call(story.session.set_token, None)
    story.run_for(1)
    assert tokens(story) == ["v1", "own", None]
    story.answer_join()
    story.run_for(1)
    assert story.sent("access_token") == [] and len(story.sent("phx_join")) == 3
    assert [gap.reason for gap in reported] == ["rejoin"]


def test_a_new_token_in_time_avoids_a_rejoin(make_story: Callable[..., Story]) -> None:
    """After a sign-out and sign-in in one event-loop iteration the token is pushed, without a rejoin."""
    story = make_story(token="v1")
    story.open()
    story.joined("a")
    story.session.set_token(None, story.now)  # before the shell does anything
    story.call(story.session.set_token, Secret("v2"))
    story.run_for(1)
    assert tokens(story) == ["v1"] and tokens(story, "access_token") == ["v2"]


# --- tokens are not validated


@pytest.mark.parametrize(
    "text",
    [
        "sb_publishable_abc",
        "sb_secret_abc",
        "",
        "not a jwt",
        "a.b",
        "a.!!!.c",
        "a.bm90IGpzb24.c",
        "a.eyJleHAiOiAic29vbiJ9.c",
        "a.W10.c",
        "a.e30.c",
        "é.é.é",
    ],
)
def test_a_token_that_cannot_be_read_is_used_and_not_scheduled(harness: Story, text: str) -> None:
    """New API keys and unreadable JWTs are accepted and cause no scheduled refresh (R28)."""
    harness.call(harness.session.join, harness.channel())
    harness.give_token(text)
    assert expiry(Secret(text)) is None
    assert harness.session.deadline(TimerKind.TOKEN_REFRESH) is None
    assert harness.errors == []
    assert tokens(harness) == [None if text.startswith("sb_") else text]


@pytest.mark.parametrize("subject", ["", "a", "ab", "abc"])
def test_the_expiry_of_a_token_of_any_length_is_read(subject: str) -> None:
    """JWTs leave out the padding of base64, so the missing padding follows from the length of the payload."""
    payload = base64.urlsafe_b64encode(b'{"exp":1764000000,"sub":"%s"}' % subject.encode()).decode().rstrip("=")
    assert expiry(Secret(f"eyJhbGciOiJIUzI1NiJ9.{payload}.sign")) == 1764000000


def test_new_keys_are_not_sent_as_tokens(make_story: Callable[..., Story]) -> None:
    """`sb_` values are never sent as access_token, in joins or pushes (R28)."""
    story = make_story(token="sb_publishable_x")
    story.open()
    story.joined()
    story.call(story.session.set_token, Secret("sb_secret_y"))
    assert tokens(story) == [None]
    assert story.sent("access_token") == []
    assert on_wire(Secret("sb_x")) is None


# --- secrets


def test_no_effect_that_holds_a_token_shows_it(make_story: Callable[..., Story]) -> None:
    """Joins, token pushes and HTTP sends never show their token in a repr, a comparison or an error (R48)."""
    story = make_story(token="very-secret-1", offline="http")
    story.open()
    room, away = story.joined(), story.channel("away", token="very-secret-3")
    story.call(story.session.set_token, Secret("very-secret-2"))
    story.broadcast(away)
    story.refuse_join("Unauthorized: no")
    held = [effect for effect in story.effects if isinstance(effect, Transmit) and b"very-secret" in effect.data]
    assert len(held) == 2
    assert all(effect.secret for effect in held)
    assert any(isinstance(effect, PublishByHttp) for effect in story.effects)
    assert "very-secret" not in repr(story.effects)
    shown = [str(error) + repr(error) for error in _errors(story)] + [repr(story.at(room).options)]
    assert "very-secret" not in "".join(shown)


def _errors(story: Story) -> list[RealtimeError]:
    return [outcome for outcome in story.outcomes.values() if isinstance(outcome, RealtimeError)] + story.errors


def test_a_token_of_the_client_does_not_affect_channels_with_their_own(make_story: Callable[..., Story]) -> None:
    """A channel refused for its own token does not retry when the client's token changes (R25)."""
    story = make_story()
    story.open()
    own, other = story.channel("own", token="mine"), story.channel("other")
    for room in (own, other):
        story.call(story.session.join, room)
        story.refuse_join("Unauthorized: no")
    story.call(story.session.set_token, Secret("newer"))
    assert story.state(own) is ChannelState.FAILED
    assert story.state(other) is ChannelState.JOINING
    assert len(story.sent("phx_join")) == 3
