"""An expired token: a fresh one is used, or a visible error and few attempts (R26)."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from supawire.errors import AuthError, JoinError
from supawire.events import ChannelState
from supawire.options import Secret, SessionOptions
from supawire.selectors import broadcast
from supawire.server.hub_options import HubOptions
from supawire.testing.harness import NOT_YET, error_of
from supawire.testing.linked import SECRET, World

from .conftest import Story

EXPIRED = "InvalidJWTToken: Token has expired 12 seconds ago"
BROKEN = AuthError("the provider is out of order")


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


def test_a_channel_with_an_expired_token_rejoins_with_a_new_one() -> None:
    """The server expires the token: with a provider the channel recovers without user code (R26)."""
    world = World(hub=HubOptions(secret=SECRET))
    ada = world.client(SessionOptions(has_token_provider=True))
    ada.provide = lambda: world.token(n=world.random.random())
    room = ada.channel("lobby", private=True)
    events = ada.collect(room, broadcast())
    ada.start(ada.session.join, room)
    world.run_for(1)
    for _ in range(3):
        world.act(world.hub.faults.expire_tokens)
        world.run_for(0.1)
        assert ada.session.channels[room].state is ChannelState.RETRYING
        assert isinstance(ada.session.channels[room].error, AuthError)
        world.run_for(8)
        assert ada.session.channels[room].state is ChannelState.JOINED
        world.act(world.hub.broadcast, "lobby", "e", {}, world.clock.now, private=True)
        world.run_for(0.1)
    assert len(events) == 3


def test_an_expired_join_is_repeated_with_a_new_token(harness: Story) -> None:
    """A join refused for an expired token is retried soon with the provider's next token (R26)."""
    joining = harness.call(harness.session.join, harness.channel())
    harness.give_token("old")
    harness.refuse_join(EXPIRED)
    harness.run_alive(1.1)
    harness.give_token("new")
    harness.answer_join()
    assert tokens(harness) == ["old", "new"]
    assert harness.outcome(joining) is None
    assert harness.errors == []


@pytest.mark.parametrize("how", ["refused", "closed"])
def test_a_provider_that_repeats_a_refused_token_is_reported_and_tried_slowly(harness: Story, how: str) -> None:
    """If the provider returns the expired token again, an AuthError is reported and attempts are few (R26)."""
    room = harness.channel()
    harness.call(harness.session.join, room)
    minutes = list[int]()
    for _ in range(3):
        before = len(harness.sent("phx_join"))
        for _ in range(240):
            if harness.session.is_fetching_token:
                harness.give_token("expired")
            if harness.state(room) is ChannelState.JOINING:
                if how == "refused":
                    harness.refuse_join(EXPIRED)
                else:
                    harness.answer_join()
                    harness.end_channel(room, "Token has expired 3 seconds ago")
            harness.run_alive(0.25)
        minutes.append(len(harness.sent("phx_join")) - before)
    assert minutes[0] <= 7
    assert max(minutes[1:]) <= 5
    assert min(minutes) >= 2, "it is still tried"
    if how == "refused":
        assert harness.errors
    assert all(isinstance(error, AuthError) for error in harness.errors)


def test_a_provider_of_expired_tokens_is_called_at_increasing_intervals(harness: Story) -> None:
    """If tokens are already expired when they arrive, requests to the provider become less frequent (R26)."""
    room = harness.channel()
    harness.call(harness.session.join, room)
    expired = jwt(harness, -5)
    harness.give_token(expired)
    harness.answer_join()
    fetches = harness.fetches
    for _ in range(300):
        harness.run_alive(1)
        if harness.session.is_fetching_token:
            harness.give_token(expired)
    assert harness.fetches - fetches <= 20, "in five minutes"


def test_without_a_provider_an_expired_token_fails_until_a_new_one_is_set(
    make_story: Callable[..., Story],
) -> None:
    """An expired fixed token is not sent again; set_token makes the channel join (R26)."""
    story = make_story(token="v1")
    story.open()
    room = story.channel()
    joining = story.call(story.session.join, room)
    story.refuse_join(EXPIRED)
    error = error_of(story.outcome(joining))
    assert isinstance(error, JoinError)
    assert story.state(room) is ChannelState.FAILED
    story.run_alive(100)
    assert len(story.sent("phx_join")) == 1
    story.call(story.session.set_token, Secret("v2"))
    story.answer_join()
    assert tokens(story) == ["v1", "v2"]
    assert story.state(room) is ChannelState.JOINED
    assert story.at(room).error is None


def test_a_token_that_is_newer_than_the_refused_one_is_tried_at_once(make_story: Callable[..., Story]) -> None:
    """If the user set a newer token while the join was unanswered, the refusal of the old one is not final (R26)."""
    story = make_story(token="v1")
    story.open()
    room = story.channel()
    joining = story.call(story.session.join, room)
    story.call(story.session.set_token, Secret("v2"))
    story.refuse_join(EXPIRED)
    assert story.outcome(joining) is NOT_YET
    story.run_alive(1.1)
    story.answer_join()
    assert tokens(story) == ["v1", "v2"]
