"""HTTP broadcasts: request forms and the meaning of responses, and the tickets and tokens of the session."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supawire.core import http_broadcast
from supawire.core.effects import PublishByHttp
from supawire.core.http_broadcast import (
    HttpMessage,
    HttpOutcome,
    batches,
    classify,
    http_message,
    may_repeat,
    single_form,
)
from supawire.core.outbox import OutgoingBroadcast
from supawire.errors import AuthError, ClosedError, InvalidArgumentError, PayloadTooLargeError
from supawire.events import Sent
from supawire.options import Limits, Secret, SessionOptions
from supawire.testing.harness import NOT_YET, SessionHarness

ID = "6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11"


def made(payload: Any = None, *, topic: str = "room", event: str = "typing", **options: Any) -> HttpMessage:
    body = payload if isinstance(payload, bytes) else json.dumps(payload if payload is not None else {}).encode()
    given: dict[str, Any] = {"json": not isinstance(payload, bytes), "private": False, "id": None} | options
    return http_message(topic, event, body, **given)


def test_one_message_uses_the_single_form():
    """Topic and event are percent-encoded parts of the path, the payload is the body, privacy is in the query."""
    form = single_form(made({"n": 1}, topic="room:a/b?c", event="tipp#ü%", private=True))
    assert form is not None
    assert form.path == "/broadcast/room%3Aa%2Fb%3Fc/events/tipp%23%C3%BC%25?private=true"
    assert (form.content_type, form.body) == ("application/json", b'{"n": 1}')


def test_bytes_are_an_octet_stream():
    """Bytes are sent unchanged."""
    form = single_form(made(b"\x00\xff"))
    assert form is not None
    assert (form.content_type, form.body) == ("application/octet-stream", b"\x00\xff")


@pytest.mark.parametrize(
    "options",
    [{"id": ID}, {"payload": {"private": 1}}, {"topic": ".."}, {"event": "."}],
    ids=str,
)
def test_some_messages_need_the_batch_form(options: dict[str, Any]):
    """An id, a top-level key `private`, and a name that a path would lose do not fit the single form."""
    assert single_form(made(**options)) is None


def test_a_nested_member_private_does_not_matter():
    """Only a top-level `private` is read as an option, so nested ones are sent in the single form."""
    assert single_form(made({"a": {"private": True}, "privately": 1})) is not None


def test_an_escaped_member_private_is_found():
    """An escaped key counts by its decoded value."""
    assert http_message("room", "e", rb'{"\u0070rivate":true}', json=True, private=False, id=None).overrides


@pytest.mark.parametrize("payload", ["[1]", '"text"', "7", "null", "true"])
def test_only_objects_can_be_sent_by_http(payload: str):
    """A JSON value that is not an object is refused, since the server would wrap it."""
    with pytest.raises(InvalidArgumentError, match="JSON object"):
        http_message("room", "e", payload.encode(), json=True, private=False, id=None)


def test_bytes_have_no_id():
    """Bytes with an id are refused: no form supports both."""
    with pytest.raises(InvalidArgumentError, match="batch form"):
        made(b"x", id=ID)


def test_a_size_over_the_limit_is_refused():
    """A payload over the limit raises, one at the limit passes."""
    http_broadcast.check_size(bytes(10), 10, "room")
    http_broadcast.check_size(bytes(10), None, "room")
    with pytest.raises(PayloadTooLargeError) as caught:
        http_broadcast.check_size(bytes(11), 10, "room")
    assert caught.value.topic == "room"


def test_a_batch_has_each_message():
    """The batch form has topic, event, payload, privacy and id of each message."""
    form = http_broadcast.batch_form([made({"n": 1}, private=True, id=ID), made({"n": 2})])
    assert (form.path, form.content_type) == ("/broadcast", "application/json")
    assert json.loads(form.body) == {
        "messages": [
            {"topic": "room", "event": "typing", "payload": {"n": 1}, "private": True, "id": ID},
            {"topic": "room", "event": "typing", "payload": {"n": 2}, "private": False},
        ]
    }


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4_000_000)), max_size=12), st.one_of(st.none(), st.integers(1, 4))
)
def test_batches_keep_the_order_and_the_limits(messages: list[tuple[bool, int]], most: int | None):
    """Splitting messages into requests loses none, keeps their order, and no request exceeds a limit."""
    letters = [HttpMessage("t", str(index), bytes(size), json=json) for index, (json, size) in enumerate(messages)]
    cut = list(batches(letters, most))
    assert [one for run in cut for one in run] == letters
    for run in cut:
        assert len(run) == 1 or all(one.json for one in run)
        assert len(run) == 1 or sum(len(one.payload) for one in run) <= http_broadcast.BATCH_BYTES
        assert len(run) <= (most or 12)


def test_there_are_as_few_batches_as_possible():
    """JSON messages that fit share a request."""
    letters = [made({"n": n}) for n in range(5)]
    assert [len(run) for run in batches(letters, None)] == [5]
    assert [len(run) for run in batches(letters, 2)] == [2, 2, 1]
    assert [len(run) for run in batches([*letters[:2], made(b"x"), made(b"y"), *letters[:2]], None)] == [2, 1, 1, 2]
    assert list(batches([], None)) == []


def test_a_batch_is_limited_by_the_bytes_of_its_messages():
    """Two messages that are each a little under half of the limit share a request; larger ones do not."""
    half = http_broadcast.BATCH_BYTES // 2
    for size, runs in ((half - 1000, [2]), (half + 1000, [1, 1])):
        letters = [HttpMessage("room", "typing", bytes(size)) for _ in range(2)]
        assert [len(run) for run in batches(letters, None)] == runs


def test_a_batch_of_names_that_are_escaped_is_within_the_limit():
    """JSON writes a control character in six bytes; a request is not larger than the limit and not far below it."""
    letters = [HttpMessage("\x01" * 50_000, "\x01" * 50_000, b"{}") for _ in range(20)]
    first, *_ = batches(letters, None)
    size = len(http_broadcast.batch_form(first).body)
    assert size <= http_broadcast.BATCH_BYTES < size + 2 * 600_000


def error(text: str) -> bytes:
    return json.dumps({"message": text}).encode()


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (202, b"", HttpOutcome.ACCEPTED),
        (200, b"<html>", HttpOutcome.UNEXPECTED),
        (302, b"", HttpOutcome.REFUSED),
        (400, b"", HttpOutcome.REFUSED),
        (401, error("Unauthorized"), HttpOutcome.REFRESH),
        (401, error("Tenant not found in database"), HttpOutcome.REFUSED),
        (403, error("Unauthorized"), HttpOutcome.REFUSED),
        (404, b"", HttpOutcome.NO_ROUTE),
        (408, b"", HttpOutcome.RETRY_LATER),
        (413, b"", HttpOutcome.REFUSED),
        (415, b"", HttpOutcome.REFUSED),
        (422, error("RLS policy error"), HttpOutcome.REFUSED),
        (422, error("Tenant database unavailable"), HttpOutcome.RETRY_LATER),
        (422, error("Connect rate limit reached"), HttpOutcome.RETRY_LATER),
        (429, error("Too many requests"), HttpOutcome.RETRY_LATER),
        (500, error("Unable to authorize broadcast"), HttpOutcome.RETRY_LATER),
        (500, b"", HttpOutcome.UNKNOWN),
        (502, b"", HttpOutcome.UNKNOWN),
        (503, b"", HttpOutcome.RETRY_LATER),
        (
            503,
            b"upstream connect error or disconnect/reset before headers. reset reason: termination",
            HttpOutcome.UNKNOWN,
        ),
        (504, b"", HttpOutcome.UNKNOWN),
    ],
)
def test_responses_are_classified(status: int, body: bytes, verdict: HttpOutcome):
    """Each response of the server or a gateway shows whether the message was accepted or may be later."""
    assert classify(status, body) is verdict


@pytest.mark.parametrize("verdict", HttpOutcome)
def test_only_requests_without_hidden_duplicates_are_repeated(verdict: HttpOutcome):
    """A request is repeated if it was certainly not accepted, or possibly accepted and all messages have an id."""
    named, plain = made(id=ID), made()
    later, unsure = verdict is HttpOutcome.RETRY_LATER, verdict is HttpOutcome.UNKNOWN
    assert may_repeat(verdict, [plain]) is later
    assert may_repeat(verdict, [named, plain]) is later
    assert may_repeat(verdict, [named, named]) is (later or unsure)


MESSAGE = OutgoingBroadcast("typing", b'{"n":1}', timeout=7.0)


def offline(**options: Any) -> SessionHarness:
    """Return a connected client that sends by HTTP while a channel is not joined."""
    harness = SessionHarness(SessionOptions(offline="http", **options), token="the-token")
    harness.call(harness.session.open)
    harness.accept()
    return harness


def orders(harness: SessionHarness) -> list[PublishByHttp]:
    return [effect for effect in harness.effects if isinstance(effect, PublishByHttp)]


def test_a_broadcast_is_sent_by_http_while_not_joined():
    """The effect has the channel's privacy and its own token, and its outcome goes to the caller (R31)."""
    harness = offline()
    room = harness.channel(private=True, token="its-own")
    ticket = harness.call(harness.session.broadcast, room, MESSAGE)
    assert ticket is not None
    (order,) = orders(harness)
    assert (order.ticket, order.message.topic, order.message.private) == (ticket, "room", True)
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


def test_payloads_that_http_cannot_carry_are_refused_at_the_call():
    """A payload that is not an object, or too large, raises, and no ticket is pending."""
    harness = offline(limits=Limits(payload_bytes=10))
    room = harness.channel()
    with pytest.raises(InvalidArgumentError, match="JSON object"):
        harness.call(harness.session.broadcast, room, OutgoingBroadcast("typing", b"[1]"))
    with pytest.raises(PayloadTooLargeError):
        harness.call(harness.session.broadcast, room, OutgoingBroadcast("typing", b'{"n":1000000}'))
    assert orders(harness) == []
    assert harness.session.stats().pending == 0


def test_a_ticket_of_http_is_resolved_once():
    """`close()` resolves the ticket first, and the later response has no effect (R31)."""
    harness = offline()
    ticket = harness.call(harness.session.broadcast, harness.channel(), MESSAGE)
    post = harness.session.http_broadcasts.open()
    harness.call(harness.session.close)
    harness.drop(1000)
    for pending in (ticket, post):
        assert pending is not None
        assert isinstance(harness.outcome(pending), ClosedError)
        harness.session.http_broadcasts.settle(pending, Sent("http"))
        harness.pump()
    with pytest.raises(ClosedError):
        harness.session.http_broadcasts.open()
    with pytest.raises(ClosedError):
        harness.call(harness.session.http_broadcasts.refresh)


class Provided(SessionHarness):
    """A harness with a token provider whose answers the test gives."""

    def __init__(self) -> None:
        super().__init__(SessionOptions(has_token_provider=True))
        self.token_requests: list[int] = []

    def on_fetch_token(self, number: int) -> None:
        self.token_requests.append(number)

    def give(self, answer: Secret | None | AuthError) -> None:
        self.call(self.session.token_ready, self.token_requests[-1], answer)


def provided() -> Provided:
    harness = Provided()
    harness.call(harness.session.open)
    harness.give(Secret("first"))
    harness.accept()
    return harness


def test_a_refresh_returns_the_newest_token():
    """Concurrent callers share one request to the provider."""
    harness = provided()
    one, two = (
        harness.call(harness.session.http_broadcasts.refresh),
        harness.call(harness.session.http_broadcasts.refresh),
    )
    assert len(harness.token_requests) == 2  # one for the connection, one for both callers
    assert harness.outcome(one) is NOT_YET
    harness.give(Secret("second"))
    assert harness.outcome(one) == harness.outcome(two) == harness.session.http_broadcasts.token == Secret("second")


def test_a_failed_refresh_raises_the_reason():
    """The outcome is the provider's error or its timeout, and the old token stays (R27)."""
    harness = provided()
    raised = harness.call(harness.session.http_broadcasts.refresh)
    harness.give(AuthError("no"))
    assert isinstance(harness.outcome(raised), AuthError)
    late = harness.call(harness.session.http_broadcasts.refresh)
    harness.run_for(harness.options.timeout + 1)
    assert isinstance(harness.outcome(late), AuthError)
    assert harness.session.http_broadcasts.token == Secret("first")


def test_a_token_set_by_the_user_completes_a_refresh():
    """A caller that waits for the provider gets a token that the user sets in the meantime."""
    harness = provided()
    ticket = harness.call(harness.session.http_broadcasts.refresh)
    harness.call(harness.session.set_token, Secret("mine"))
    assert harness.outcome(ticket) == Secret("mine")
