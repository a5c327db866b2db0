"""The user's token: the current one in every join, fetched before it expires, and never printed."""

import base64
from collections.abc import Callable

import pytest

from supawire.core.effects import PublishByHttp, Transmit
from supawire.core.requests import TimerKind
from supawire.core.token import expiry, on_wire
from supawire.errors import AuthError, RealtimeError
from supawire.events import ChannelState
from supawire.options import Secret, SessionOptions
from supawire.selectors import broadcast, gaps

from .conftest import Harness, jwt, tokens

EXPIRED = "InvalidJWTToken: Token has expired 12 seconds ago"
BROKEN = AuthError("the provider is out of order", retryable=True)


# --- the newest token


def test_the_provider_is_called_before_each_connect_and_each_join(provided: Harness) -> None:
    """A connect and a join each fetch a token once, and the join carries it (R25)."""
    room = provided.channel()
    provided.call(provided.session.join, room)
    assert provided.fetches == 2
    assert provided.sent("phx_join") == [], "not before the answer"
    provided.give_token("two")
    assert tokens(provided) == ["two"]
    provided.answer_join()
    provided.drop(1006)
    provided.run_to_attempt()
    assert provided.fetches == 3
    provided.give_token("three")
    provided.accept()
    assert tokens(provided) == ["two", "three"]


def test_a_token_set_while_disconnected_is_in_the_next_join(make_harness: Callable[..., Harness]) -> None:
    """set_token during the backoff: the join after it carries the new token (R25)."""
    harness = make_harness(token="v1")
    harness.open()
    harness.joined()
    harness.drop(1006)
    harness.call(harness.session.set_token, Secret("v2"))
    harness.reconnect()
    assert tokens(harness) == ["v1", "v2"]


def test_a_new_token_is_sent_once_to_each_joined_channel(make_harness: Callable[..., Harness]) -> None:
    """Three joined channels get one access_token push each; none for the same token or a channel's own (R25)."""
    harness = make_harness(token="v1")
    harness.open()
    rooms = [harness.joined(name) for name in ("a", "b", "c")]
    own = harness.joined("own", token="mine")
    harness.call(harness.session.set_token, Secret("v2"))
    assert [(frame.topic, frame.payload) for frame in harness.sent("access_token")] == [
        (room, {"access_token": "v2"}) for room in rooms
    ]
    assert {frame.join_ref for frame in harness.sent("access_token")} == {
        frame.ref for frame in harness.sent("phx_join") if frame.topic != own
    }
    harness.call(harness.session.set_token, Secret("v2"))
    assert len(harness.sent("access_token")) == 3
    assert harness.session.stats().pending == 0, "no deadline waits for a reply that cannot arrive"
    assert not harness.session.awaits_reply


@pytest.mark.parametrize("own", [False, True], ids=["client's", "channel's own"])
def test_a_token_that_arrives_during_a_join_is_sent_after_it(make_harness: Callable[..., Harness], own: bool) -> None:
    """The server receives a token that is newer than the join it has just accepted (R25)."""
    harness = make_harness(token="v1")
    harness.open()
    room = harness.channel()
    harness.call(harness.session.join, room)
    if own:
        harness.call(harness.session.set_channel_token, room, Secret("v2"))
    else:
        harness.call(harness.session.set_token, Secret("v2"))
    assert harness.sent("access_token") == []
    harness.answer_join()
    assert tokens(harness) == ["v1"]
    assert tokens(harness, "access_token") == ["v2"]


def test_a_channel_may_have_its_own_token(make_harness: Callable[..., Harness]) -> None:
    """A channel's own token is in its joins and pushes, and in no other channel's (R25)."""
    harness = make_harness(token="v1")
    harness.open()
    harness.joined("own", token="mine")
    room = harness.joined("room")
    harness.call(harness.session.set_channel_token, "realtime:own", Secret("mine too"))
    harness.call(harness.session.set_channel_token, "realtime:own", Secret("mine too"))
    assert tokens(harness) == ["mine", "v1"]
    assert [(frame.topic, frame.payload["access_token"]) for frame in harness.sent("access_token")] == [
        ("realtime:own", "mine too")
    ]
    harness.call(harness.session.set_channel_token, "realtime:own", None)
    assert tokens(harness, "access_token") == ["mine too", "v1"], "the client's token again"
    assert room


def test_the_provider_wins_over_set_auth_of_a_channel(provided: Harness) -> None:
    """A token set on a channel is used until the provider answers; one given in its options is kept (R25)."""
    room, own = provided.channel("room"), provided.channel("own", token="mine")
    for topic in (room, own):
        provided.call(provided.session.join, topic)
    provided.give_token("v1")
    for frame in provided.sent("phx_join"):
        provided.reply(frame, {"postgres_changes": []})
    for topic in (room, own):
        provided.call(provided.session.set_channel_token, topic, Secret(f"set on {topic}"))
    provided.call(provided.session.join, provided.channel("later"))
    provided.give_token("v1")
    pushed = [(frame.topic, frame.payload["access_token"]) for frame in provided.sent("access_token")]
    assert pushed == [(room, f"set on {room}"), (own, f"set on {own}"), (room, "v1")]


def test_a_token_is_fetched_before_it_expires(provided: Harness) -> None:
    """At 75 to 85 % of its lifetime the token is fetched again and sent to the channels (R25)."""
    provided.call(provided.session.join, provided.channel())
    provided.give_token(jwt(provided, 1000))
    provided.answer_join()
    fetches = provided.fetches
    provided.run_alive(749)
    assert provided.fetches == fetches
    start = provided.now.mono
    while provided.fetches == fetches:
        provided.run_alive(1)
    assert provided.now.mono - start <= 102
    fresh = jwt(provided, 1000)
    provided.give_token(fresh)
    assert tokens(provided, "access_token") == [fresh]
    provided.run_alive(740)
    assert provided.fetches == fetches + 1


def test_a_refresh_missed_in_sleep_is_made_on_waking(provided: Harness) -> None:
    """After a clock jump the token is fetched at once, not when the timer fires (R25, R6)."""
    room = provided.channel()
    provided.call(provided.session.join, room)
    provided.give_token(jwt(provided, 3600))
    provided.answer_join()
    fetches = provided.fetches
    provided.clock.sleep(3500)
    provided.run_alive(5.1)
    assert provided.fetches == fetches + 1
    provided.give_token(jwt(provided, 3600, n=2))
    assert len(provided.sent("access_token")) == 1


def test_refresh_times_are_spread() -> None:
    """Clients with tokens of the same lifetime do not fetch together: the time is random (R25)."""
    moments = set[float]()
    for seed in range(40):
        harness = Harness(SessionOptions(has_token_provider=True, heartbeat=59), seed=seed)
        harness.call(harness.session.open)
        harness.give_token(jwt(harness, 1000))
        deadline = harness.session.deadline(TimerKind.TOKEN_REFRESH)
        assert deadline is not None
        moments.add(round(deadline - harness.now.mono))
    assert min(moments) >= 750
    assert max(moments) <= 850
    assert len(moments) > 20


def test_a_token_set_by_the_user_supersedes_a_pending_request(provided: Harness) -> None:
    """set_token during a request to the provider: joins continue at once, the answer is dropped (R27)."""
    room = provided.channel()
    provided.call(provided.session.join, room)
    provided.call(provided.session.set_token, Secret("mine"))
    assert tokens(provided) == ["mine"]
    provided.give_token("late")
    provided.answer_join()
    provided.run_alive(30)
    assert provided.errors == [], "no timeout is reported for a superseded request"
    assert tokens(provided, "access_token") == []


def test_a_token_set_by_the_user_continues_the_connection_attempt(make_harness: Callable[..., Harness]) -> None:
    """set_token while a connect waits for the provider: it connects at once (R27)."""
    harness = make_harness(has_token_provider=True)
    harness.call(harness.session.open)
    harness.call(harness.session.set_token, Secret("mine"))
    assert harness.connects == 1
    harness.give_token("late")
    assert harness.connects == 1


# --- a provider that fails


def test_a_provider_that_raises_keeps_the_token(provided: Harness) -> None:
    """The join uses the current token; the error is reported once; retries get slower (R27)."""
    room = provided.channel()
    provided.call(provided.session.join, room)
    provided.give_token(BROKEN)
    assert tokens(provided) == ["one"]
    provided.answer_join()
    assert provided.errors == [BROKEN]
    waits = list[float]()
    for _ in range(6):
        fetches, at = provided.fetches, provided.now.mono
        while provided.fetches == fetches:
            provided.run_alive(0.25)
        waits.append(provided.now.mono - at)
        provided.give_token(BROKEN)
    assert waits[0] <= 4.5
    assert waits[-1] >= 14
    assert max(waits) <= 30.5
    fetches = provided.fetches
    while provided.fetches == fetches:
        provided.run_alive(1)
    provided.give_token("two")
    assert tokens(provided, "access_token") == ["two"]


def test_a_provider_that_never_answers_delays_only_until_the_timeout(provided: Harness) -> None:
    """After `timeout` the join uses the current token, and an AuthError is reported (R27)."""
    room = provided.channel()
    provided.call(provided.session.join, room)
    provided.run_alive(10.1)
    assert tokens(provided) == ["one"]
    (error,) = provided.errors
    assert isinstance(error, AuthError)
    assert "10 s" in str(error)


def test_a_join_waits_for_the_first_token_ever(make_harness: Callable[..., Harness]) -> None:
    """Before the provider's first token no join is sent; the connection opens, and the join follows (R27)."""
    harness = make_harness(has_token_provider=True)
    harness.call(harness.session.open)
    harness.give_token(BROKEN)
    harness.accept()
    room = harness.channel()
    joining = harness.call(harness.session.join, room)
    harness.give_token(BROKEN)
    assert harness.sent("phx_join") == []
    harness.run_alive(5)
    harness.give_token("one")
    assert tokens(harness) == ["one"]
    harness.answer_join()
    assert harness.outcome(joining) is None


def test_a_slow_older_answer_never_overwrites_a_newer_one(provided: Harness) -> None:
    """Of two requests the answer to the newer one counts, in whatever order they arrive (R27)."""
    session = provided.session
    provided.call(session.join, provided.channel())
    first = provided.fetches
    provided.drop(1006)
    provided.run_to_attempt()
    assert provided.fetches == first + 1
    provided.call(session.token_ready, first + 1, Secret("newer"))
    stale = session.stats().stale_frames
    provided.call(session.token_ready, first, Secret("older"))
    assert session.stats().stale_frames == stale + 1
    provided.accept()
    assert tokens(provided) == ["newer"]


def test_a_late_answer_does_not_restore_a_token_after_sign_out(provided: Harness) -> None:
    """set_token(None) during a request: the answer is dropped (R27)."""
    provided.call(provided.session.join, provided.channel("first"))
    provided.call(provided.session.set_token, None)
    provided.give_token("one again")
    provided.answer_join()
    assert tokens(provided) == [None]
    assert provided.session.http_broadcasts.token is None
    assert provided.sent("access_token") == []


def test_without_a_token_joins_fall_back_to_the_key(make_harness: Callable[..., Harness]) -> None:
    """set_token(None): later joins carry no token, so that the server uses the key; nothing is pushed (R27)."""
    harness = make_harness(token="v1")
    harness.open()
    harness.call(harness.session.set_token, None)
    harness.joined("b")
    assert tokens(harness) == [None]
    assert harness.sent("access_token") == []
    assert "access_token" not in harness.sent("phx_join")[-1].payload


@pytest.mark.parametrize("key", [None, "sb_publishable_x"])
def test_a_joined_channel_rejoins_without_the_token_after_sign_out(
    make_harness: Callable[..., Harness], key: str | None
) -> None:
    """Without another token to push, a joined channel rejoins once without one, which is a gap (R27)."""
    harness = make_harness(token="v1")
    harness.open()
    reported = harness.collect(harness.joined("a"), gaps(), broadcast())
    harness.joined("mine", token="own")
    harness.call(harness.session.set_token, None if key is None else Secret(key))
    harness.call(harness.session.set_token, None)
    harness.run_for(1)
    assert tokens(harness) == ["v1", "own", None]
    harness.answer_join()
    harness.run_for(1)
    assert harness.sent("access_token") == [] and len(harness.sent("phx_join")) == 3
    assert [gap.reason for gap in reported] == ["rejoin"]


def test_a_new_token_in_time_avoids_a_rejoin(make_harness: Callable[..., Harness]) -> None:
    """After a sign-out and sign-in in one event-loop iteration the token is pushed, without a rejoin."""
    harness = make_harness(token="v1")
    harness.open()
    harness.joined("a")
    harness.session.set_token(None, harness.now)  # before the shell performs an effect
    harness.call(harness.session.set_token, Secret("v2"))
    harness.run_for(1)
    assert tokens(harness) == ["v1"] and tokens(harness, "access_token") == ["v2"]


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
def test_a_token_that_cannot_be_read_is_used_and_not_scheduled(provided: Harness, text: str) -> None:
    """New API keys and unreadable JWTs are accepted and cause no scheduled refresh (R28)."""
    provided.call(provided.session.join, provided.channel())
    provided.give_token(text)
    assert expiry(Secret(text)) is None
    assert provided.session.deadline(TimerKind.TOKEN_REFRESH) is None
    assert provided.errors == []
    assert tokens(provided) == [None if text.startswith("sb_") else text]


@pytest.mark.parametrize("subject", ["", "a", "ab", "abc"])
def test_the_expiry_of_a_token_of_any_length_is_read(subject: str) -> None:
    """JWTs leave out the padding of base64, so the missing padding follows from the length of the payload."""
    payload = base64.urlsafe_b64encode(b'{"exp":1764000000,"sub":"%s"}' % subject.encode()).decode().rstrip("=")
    assert expiry(Secret(f"eyJhbGciOiJIUzI1NiJ9.{payload}.sign")) == 1764000000


def test_new_keys_are_not_sent_as_tokens(make_harness: Callable[..., Harness]) -> None:
    """`sb_` values are never sent as access_token, in joins or pushes (R28)."""
    harness = make_harness(token="sb_publishable_x")
    harness.open()
    harness.joined()
    harness.call(harness.session.set_token, Secret("sb_secret_y"))
    assert tokens(harness) == [None]
    assert harness.sent("access_token") == []
    assert on_wire(Secret("sb_x")) is None


# --- secrets


def test_no_effect_that_holds_a_token_shows_it(make_harness: Callable[..., Harness]) -> None:
    """Joins, token pushes and HTTP sends never show their token in a repr, a comparison or an error (R48)."""
    harness = make_harness(token="very-secret-1", offline="http")
    harness.open()
    room, away = harness.joined(), harness.channel("away", token="very-secret-3")
    harness.call(harness.session.set_token, Secret("very-secret-2"))
    harness.broadcast(away)
    harness.refuse_join("Unauthorized: no")
    held = [effect for effect in harness.effects if isinstance(effect, Transmit) and b"very-secret" in effect.data]
    assert len(held) == 2
    assert all(effect.secret for effect in held)
    assert any(isinstance(effect, PublishByHttp) for effect in harness.effects)
    assert "very-secret" not in repr(harness.effects)
    shown = [str(error) + repr(error) for error in _errors(harness)] + [repr(harness.at(room).options)]
    assert "very-secret" not in "".join(shown)


def _errors(harness: Harness) -> list[RealtimeError]:
    return [outcome for outcome in harness.outcomes.values() if isinstance(outcome, RealtimeError)] + harness.errors


def test_a_token_of_the_client_does_not_affect_channels_with_their_own(make_harness: Callable[..., Harness]) -> None:
    """A channel refused for its own token does not retry when the client's token changes (R25)."""
    harness = make_harness()
    harness.open()
    own, other = harness.channel("own", token="mine"), harness.channel("other")
    for room in (own, other):
        harness.call(harness.session.join, room)
        harness.refuse_join("Unauthorized: no")
    harness.call(harness.session.set_token, Secret("newer"))
    assert harness.state(own) is ChannelState.FAILED
    assert harness.state(other) is ChannelState.JOINING
    assert len(harness.sent("phx_join")) == 3
