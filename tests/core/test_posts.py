"""HTTP broadcasts, from the session's side."""

from typing import Any

import pytest

from supawire.core.effects import PublishByHttp
from supawire.core.outbox import OutgoingBroadcast
from supawire.errors import AuthError, ClosedError, InvalidArgumentError, PayloadTooLargeError
from supawire.events import Sent
from supawire.options import Limits, Secret, SessionOptions
from supawire.testing.harness import NOT_YET, SessionHarness

MESSAGE = OutgoingBroadcast("typing", b'{"n":1}', timeout=7.0)


def offline(**options: Any) -> SessionHarness:
    """Return a connected client that sends by HTTP while a channel is not joined."""
    harness = SessionHarness(SessionOptions(offline="http", **options), token="the-token")
    harness.call(harness.session.open)
    harness.accept()
    return harness


def orders(harness: SessionHarness) -> list[PublishByHttp]:
    return [effect for effect in harness.effects if isinstance(effect, PublishByHttp)]


def test_a_broadcast_goes_out_by_http_while_not_joined():
    """The effect has the channel's privacy and its own token, and its outcome goes to the caller (R31)."""
    harness = offline()
    room = harness.channel(private=True, token="its-own")
    ticket = harness.call(harness.session.broadcast, room, MESSAGE)
    assert ticket is not None
    (order,) = orders(harness)
    assert (order.ticket, order.letter.topic, order.letter.private) == (ticket, "room", True)
    assert (order.token, order.timeout) == (Secret("its-own"), 7.0)
    harness.session.http_broadcasts.settle(ticket, Sent("http"))
    harness.pump()
    assert harness.outcome(ticket) == Sent("http")


def test_a_channel_without_a_token_of_its_own_uses_the_newest():
    """The effect has no token then: the current one is used when the request is made."""
    harness = offline()
    harness.call(harness.session.broadcast, harness.channel(), MESSAGE)
    assert orders(harness)[0].token is None
    assert harness.session.http_broadcasts.token == Secret("the-token")
    harness.call(harness.session.set_token, Secret("newer"))
    assert harness.session.http_broadcasts.token == Secret("newer")


def test_what_http_cannot_carry_is_refused_at_the_call():
    """A payload that is not an object, or too large, raises, and no ticket is pending."""
    harness = offline(limits=Limits(payload_bytes=10))
    room = harness.channel()
    with pytest.raises(InvalidArgumentError, match="JSON object"):
        harness.call(harness.session.broadcast, room, OutgoingBroadcast("typing", b"[1]"))
    with pytest.raises(PayloadTooLargeError):
        harness.call(harness.session.broadcast, room, OutgoingBroadcast("typing", b'{"n":1000000}'))
    assert orders(harness) == []
    assert harness.session.stats().pending == 0


def test_a_post_is_settled_once():
    """`close()` resolves the ticket first, and the later response has no effect (R31)."""
    harness = offline()
    ticket = harness.call(harness.session.broadcast, harness.channel(), MESSAGE)
    post = harness.session.http_broadcasts.open()
    harness.call(harness.session.close)
    harness.drop(1000)
    for owed in (ticket, post):
        assert owed is not None
        assert isinstance(harness.outcome(owed), ClosedError)
        harness.session.http_broadcasts.settle(owed, Sent("http"))
        harness.pump()
    with pytest.raises(ClosedError):
        harness.session.http_broadcasts.open()
    with pytest.raises(ClosedError):
        harness.call(harness.session.http_broadcasts.refresh)


class Provided(SessionHarness):
    """A harness with a token provider that answers when the test says so."""

    def __init__(self) -> None:
        super().__init__(SessionOptions(has_token_provider=True))
        self.asked: list[int] = []

    def on_fetch_token(self, number: int) -> None:
        self.asked.append(number)

    def give(self, answer: Secret | None | AuthError) -> None:
        self.call(self.session.token_ready, self.asked[-1], answer)


def provided() -> Provided:
    harness = Provided()
    harness.call(harness.session.open)
    harness.give(Secret("first"))
    harness.accept()
    return harness


def test_a_refresh_gives_the_newest_token():
    """Concurrent callers share one request to the provider."""
    harness = provided()
    one, two = (
        harness.call(harness.session.http_broadcasts.refresh),
        harness.call(harness.session.http_broadcasts.refresh),
    )
    assert len(harness.asked) == 2  # one for the connection, one for both callers
    assert harness.outcome(one) is NOT_YET
    harness.give(Secret("second"))
    assert harness.outcome(one) == harness.outcome(two) == harness.session.http_broadcasts.token == Secret("second")


def test_a_refresh_that_fails_says_why():
    """The outcome is the provider's error or its timeout, and the old token stays (R27)."""
    harness = provided()
    raised = harness.call(harness.session.http_broadcasts.refresh)
    harness.give(AuthError("no"))
    assert isinstance(harness.outcome(raised), AuthError)
    late = harness.call(harness.session.http_broadcasts.refresh)
    harness.run_for(harness.options.timeout + 1)
    assert isinstance(harness.outcome(late), AuthError)
    assert harness.session.http_broadcasts.token == Secret("first")


def test_a_token_that_the_user_sets_answers_a_refresh():
    """A caller that waits for the provider gets a token that the user sets in the meantime."""
    harness = provided()
    ticket = harness.call(harness.session.http_broadcasts.refresh)
    harness.call(harness.session.set_token, Secret("mine"))
    assert harness.outcome(ticket) == Secret("mine")
