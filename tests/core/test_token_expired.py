"""An expired token: a fresh one is used, or a visible error and few attempts (R26)."""

from collections.abc import Callable

import pytest

from supawire.errors import AuthError, JoinError
from supawire.events import ChannelState
from supawire.options import Secret, SessionOptions
from supawire.selectors import broadcast
from supawire.server.hub_options import HubOptions
from supawire.testing.harness import NOT_YET, error_of
from supawire.testing.linked import SECRET, World

from .conftest import Harness, jwt, tokens

EXPIRED = "InvalidJWTToken: Token has expired 12 seconds ago"
BROKEN = AuthError("the provider is out of order")


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


def test_an_expired_join_is_repeated_with_a_new_token(provided: Harness) -> None:
    """A join refused for an expired token is retried soon with the provider's next token (R26)."""
    joining = provided.call(provided.session.join, provided.channel())
    provided.give_token("old")
    provided.refuse_join(EXPIRED)
    provided.run_alive(1.1)
    provided.give_token("new")
    provided.answer_join()
    assert tokens(provided) == ["old", "new"]
    assert provided.outcome(joining) is None
    assert provided.errors == []


@pytest.mark.parametrize("how", ["refused", "closed"])
def test_a_provider_that_repeats_a_refused_token_is_reported_and_tried_slowly(provided: Harness, how: str) -> None:
    """If the provider returns the expired token again, an AuthError is reported and attempts are few (R26)."""
    room = provided.channel()
    provided.call(provided.session.join, room)
    minutes = list[int]()
    for _ in range(3):
        before = len(provided.sent("phx_join"))
        for _ in range(240):
            if provided.session.is_fetching_token:
                provided.give_token("expired")
            if provided.state(room) is ChannelState.JOINING:
                if how == "refused":
                    provided.refuse_join(EXPIRED)
                else:
                    provided.answer_join()
                    provided.end_channel(room, "Token has expired 3 seconds ago")
            provided.run_alive(0.25)
        minutes.append(len(provided.sent("phx_join")) - before)
    assert minutes[0] <= 7
    assert max(minutes[1:]) <= 5
    assert min(minutes) >= 2, "it is still retried"
    if how == "refused":
        assert provided.errors
    assert all(isinstance(error, AuthError) for error in provided.errors)


def test_a_provider_of_expired_tokens_is_called_at_increasing_intervals(provided: Harness) -> None:
    """If tokens are already expired when they arrive, requests to the provider become less frequent (R26)."""
    room = provided.channel()
    provided.call(provided.session.join, room)
    expired = jwt(provided, -5)
    provided.give_token(expired)
    provided.answer_join()
    fetches = provided.fetches
    for _ in range(300):
        provided.run_alive(1)
        if provided.session.is_fetching_token:
            provided.give_token(expired)
    assert provided.fetches - fetches <= 20, "in five minutes"


def test_without_a_provider_an_expired_token_fails_until_a_new_one_is_set(
    make_harness: Callable[..., Harness],
) -> None:
    """An expired fixed token is not sent again; set_token makes the channel join (R26)."""
    harness = make_harness(token="v1")
    harness.open()
    room = harness.channel()
    joining = harness.call(harness.session.join, room)
    harness.refuse_join(EXPIRED)
    error = error_of(harness.outcome(joining))
    assert isinstance(error, JoinError)
    assert harness.state(room) is ChannelState.FAILED
    harness.run_alive(100)
    assert len(harness.sent("phx_join")) == 1
    harness.call(harness.session.set_token, Secret("v2"))
    harness.answer_join()
    assert tokens(harness) == ["v1", "v2"]
    assert harness.state(room) is ChannelState.JOINED
    assert harness.at(room).error is None


def test_a_token_that_is_newer_than_the_refused_one_is_tried_at_once(make_harness: Callable[..., Harness]) -> None:
    """If the user set a newer token while the join was unanswered, the refusal of the old one is not final (R26)."""
    harness = make_harness(token="v1")
    harness.open()
    room = harness.channel()
    joining = harness.call(harness.session.join, room)
    harness.call(harness.session.set_token, Secret("v2"))
    harness.refuse_join(EXPIRED)
    assert harness.outcome(joining) is NOT_YET
    harness.run_alive(1.1)
    harness.answer_join()
    assert tokens(harness) == ["v1", "v2"]
