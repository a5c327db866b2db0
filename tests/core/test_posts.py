"""What goes out by HTTP, as the session sees it."""

from typing import Any

import pytest

from supawire.core.effects import Publish
from supawire.core.outbox import Message
from supawire.errors import AuthError, ClosedError, InvalidArgumentError, PayloadTooLargeError
from supawire.events import Sent
from supawire.options import Limits, Secret, SessionOptions
from supawire.testing.harness import NOT_YET, Pilot

MESSAGE = Message("typing", b'{"n":1}', timeout=7.0)


def offline(**options: Any) -> Pilot:
    """A client that sends by HTTP while it is not joined, and is connected."""
    pilot = Pilot(SessionOptions(offline="http", **options), token="the-token")
    pilot.do(pilot.session.open)
    pilot.accept()
    return pilot


def orders(pilot: Pilot) -> list[Publish]:
    return [effect for effect in pilot.effects if isinstance(effect, Publish)]


def test_a_broadcast_goes_out_by_http_while_not_joined():
    """The order has the channel's privacy and its own token, and its outcome is the caller's (R31)."""
    pilot = offline()
    room = pilot.channel(private=True, token="its-own")
    ticket = pilot.do(pilot.session.broadcast, room, MESSAGE)
    assert ticket is not None
    (order,) = orders(pilot)
    assert (order.ticket, order.letter.topic, order.letter.private) == (ticket, "room", True)
    assert (order.token, order.timeout) == (Secret("its-own"), 7.0)
    pilot.session.posts.settle(ticket, Sent("http"))
    pilot.pump()
    assert pilot.outcome(ticket) == Sent("http")


def test_a_channel_without_a_token_of_its_own_uses_the_newest():
    """The order names no token then: the newest is looked up when it goes out."""
    pilot = offline()
    pilot.do(pilot.session.broadcast, pilot.channel(), MESSAGE)
    assert orders(pilot)[0].token is None
    assert pilot.session.posts.token == Secret("the-token")
    pilot.do(pilot.session.set_token, Secret("newer"))
    assert pilot.session.posts.token == Secret("newer")


def test_what_http_cannot_carry_is_refused_at_the_call():
    """A payload that is no object, or too large, raises, and nothing is owed."""
    pilot = offline(limits=Limits(payload_bytes=10))
    room = pilot.channel()
    with pytest.raises(InvalidArgumentError, match="JSON object"):
        pilot.do(pilot.session.broadcast, room, Message("typing", b"[1]"))
    with pytest.raises(PayloadTooLargeError):
        pilot.do(pilot.session.broadcast, room, Message("typing", b'{"n":1000000}'))
    assert orders(pilot) == []
    assert pilot.session.stats().pending == 0


def test_a_post_is_settled_once():
    """Whoever is first settles it: `close()` here, and the answer that comes later changes nothing (R31)."""
    pilot = offline()
    ticket = pilot.do(pilot.session.broadcast, pilot.channel(), MESSAGE)
    post = pilot.session.posts.open()
    pilot.do(pilot.session.close)
    pilot.drop(1000)
    for owed in (ticket, post):
        assert owed is not None
        assert isinstance(pilot.outcome(owed), ClosedError)
        pilot.session.posts.settle(owed, Sent("http"))
        pilot.pump()
    with pytest.raises(ClosedError):
        pilot.session.posts.open()
    with pytest.raises(ClosedError):
        pilot.do(pilot.session.posts.refresh)


class Provided(Pilot):
    """A pilot with a token provider that answers when the test says so."""

    def __init__(self) -> None:
        super().__init__(SessionOptions(has_token_provider=True))
        self.asked: list[int] = []

    def on_fetch_token(self, number: int) -> None:
        self.asked.append(number)

    def give(self, answer: Secret | None | AuthError) -> None:
        self.do(self.session.token_ready, self.asked[-1], answer)


def provided() -> Provided:
    pilot = Provided()
    pilot.do(pilot.session.open)
    pilot.give(Secret("first"))
    pilot.accept()
    return pilot


def test_a_refresh_gives_the_newest_token():
    """Those who ask together are told by one question to the provider."""
    pilot = provided()
    one, two = pilot.do(pilot.session.posts.refresh), pilot.do(pilot.session.posts.refresh)
    assert len(pilot.asked) == 2  # one for the connection, one for both
    assert pilot.outcome(one) is NOT_YET
    pilot.give(Secret("second"))
    assert pilot.outcome(one) == pilot.outcome(two) == pilot.session.posts.token == Secret("second")


def test_a_refresh_that_fails_says_why():
    """The error of the provider, or its lateness, is the outcome, and the old token stays (R27)."""
    pilot = provided()
    raised = pilot.do(pilot.session.posts.refresh)
    pilot.give(AuthError("no"))
    assert isinstance(pilot.outcome(raised), AuthError)
    late = pilot.do(pilot.session.posts.refresh)
    pilot.run_for(pilot.options.timeout + 1)
    assert isinstance(pilot.outcome(late), AuthError)
    assert pilot.session.posts.token == Secret("first")


def test_a_token_that_the_user_sets_answers_a_refresh():
    """Who waits for the provider takes the token that came otherwise meanwhile."""
    pilot = provided()
    ticket = pilot.do(pilot.session.posts.refresh)
    pilot.do(pilot.session.set_token, Secret("mine"))
    assert pilot.outcome(ticket) == Secret("mine")
