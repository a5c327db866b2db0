"""The request forms of an HTTP broadcast and the meaning of responses, without HTTP."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supawire.core import http_broadcast
from supawire.core.http_broadcast import HttpMessage, HttpOutcome, batches, http_message, judge, may_repeat, single
from supawire.errors import InvalidArgumentError, PayloadTooLargeError

ID = "6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11"


def made(payload: Any = None, *, topic: str = "room", event: str = "typing", **options: Any) -> HttpMessage:
    body = payload if isinstance(payload, bytes) else json.dumps(payload if payload is not None else {}).encode()
    given: dict[str, Any] = {"json": not isinstance(payload, bytes), "private": False, "id": None} | options
    return http_message(topic, event, body, **given)


def test_one_message_goes_by_the_single_form():
    """Topic and event are percent-encoded parts of the path, the payload is the body, privacy is in the query."""
    form = single(made({"n": 1}, topic="room:a/b?c", event="tipp#ü%", private=True))
    assert form is not None
    assert form.path == "/broadcast/room%3Aa%2Fb%3Fc/events/tipp%23%C3%BC%25?private=true"
    assert (form.content_type, form.body) == ("application/json", b'{"n": 1}')


def test_bytes_are_an_octet_stream():
    """Bytes are sent unchanged."""
    form = single(made(b"\x00\xff"))
    assert form is not None
    assert (form.content_type, form.body) == ("application/octet-stream", b"\x00\xff")


@pytest.mark.parametrize(
    "options",
    [{"id": ID}, {"payload": {"private": 1}}, {"topic": ".."}, {"event": "."}],
    ids=str,
)
def test_some_messages_need_the_batch_form(options: dict[str, Any]):
    """An id, a top-level key `private`, and a name that a path would lose do not fit the single form."""
    assert single(made(**options)) is None


def test_a_private_key_further_down_is_harmless():
    """Only a top-level `private` is read as an option, so nested ones are sent in the single form."""
    assert single(made({"a": {"private": True}, "privately": 1})) is not None


def test_an_escaped_private_key_is_seen():
    """An escaped key counts by its decoded value."""
    assert http_message("room", "e", rb'{"\u0070rivate":true}', json=True, private=False, id=None).overrides


@pytest.mark.parametrize("payload", ["[1]", '"text"', "7", "null", "true"])
def test_only_objects_go_by_http(payload: str):
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
    form = http_broadcast.batch([made({"n": 1}, private=True, id=ID), made({"n": 2})])
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
def test_runs_keep_the_order_and_the_limits(messages: list[tuple[bool, int]], most: int | None):
    """Splitting messages into requests loses none, keeps their order, and no request exceeds a limit."""
    letters = [HttpMessage("t", str(index), bytes(size), json=json) for index, (json, size) in enumerate(messages)]
    cut = list(batches(letters, most))
    assert [one for run in cut for one in run] == letters
    for run in cut:
        assert len(run) == 1 or all(one.json for one in run)
        assert len(run) == 1 or sum(len(one.payload) for one in run) <= http_broadcast.BATCH_BYTES
        assert len(run) <= (most or 12)


def test_runs_are_as_few_as_can_be():
    """JSON messages that fit share a request."""
    letters = [made({"n": n}) for n in range(5)]
    assert [len(run) for run in batches(letters, None)] == [5]
    assert [len(run) for run in batches(letters, 2)] == [2, 2, 1]
    assert [len(run) for run in batches([*letters[:2], made(b"x"), made(b"y"), *letters[:2]], None)] == [2, 1, 1, 2]
    assert list(batches([], None)) == []


def test_a_request_is_full_when_its_messages_are():
    """Two messages that are each a little under half of the limit share a request; larger ones do not."""
    half = http_broadcast.BATCH_BYTES // 2
    for size, runs in ((half - 1000, [2]), (half + 1000, [1, 1])):
        letters = [HttpMessage("room", "typing", bytes(size)) for _ in range(2)]
        assert [len(run) for run in batches(letters, None)] == runs


def test_a_request_with_names_that_grow_is_within_the_limit():
    """JSON writes a control character in six bytes; a request is not larger than the limit and not far below it."""
    letters = [HttpMessage("\x01" * 50_000, "\x01" * 50_000, b"{}") for _ in range(20)]
    first, *_ = batches(letters, None)
    size = len(http_broadcast.batch(first).body)
    assert size <= http_broadcast.BATCH_BYTES < size + 2 * 600_000


def error(text: str) -> bytes:
    return json.dumps({"message": text}).encode()


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (202, b"", HttpOutcome.ACCEPTED),
        (200, b"<html>", HttpOutcome.STRANGE),
        (302, b"", HttpOutcome.REFUSED),
        (400, b"", HttpOutcome.REFUSED),
        (401, error("Unauthorized"), HttpOutcome.REFRESH),
        (401, error("Tenant not found in database"), HttpOutcome.REFUSED),
        (403, error("Unauthorized"), HttpOutcome.REFUSED),
        (404, b"", HttpOutcome.NO_ROUTE),
        (408, b"", HttpOutcome.LATER),
        (413, b"", HttpOutcome.REFUSED),
        (415, b"", HttpOutcome.REFUSED),
        (422, error("RLS policy error"), HttpOutcome.REFUSED),
        (422, error("Tenant database unavailable"), HttpOutcome.LATER),
        (422, error("Connect rate limit reached"), HttpOutcome.LATER),
        (429, error("Too many requests"), HttpOutcome.LATER),
        (500, error("Unable to authorize broadcast"), HttpOutcome.LATER),
        (500, b"", HttpOutcome.UNSURE),
        (502, b"", HttpOutcome.UNSURE),
        (503, b"", HttpOutcome.LATER),
        (
            503,
            b"upstream connect error or disconnect/reset before headers. reset reason: termination",
            HttpOutcome.UNSURE,
        ),
        (504, b"", HttpOutcome.UNSURE),
    ],
)
def test_answers_are_judged(status: int, body: bytes, verdict: HttpOutcome):
    """Each response of the server or a gateway shows whether the message was accepted or may be later."""
    assert judge(status, body) is verdict


@pytest.mark.parametrize("verdict", HttpOutcome)
def test_only_what_deceives_nobody_is_repeated(verdict: HttpOutcome):
    """A request is repeated if it was certainly not accepted, or possibly accepted and all messages have an id."""
    named, plain = made(id=ID), made()
    later, unsure = verdict is HttpOutcome.LATER, verdict is HttpOutcome.UNSURE
    assert may_repeat(verdict, [plain]) is later
    assert may_repeat(verdict, [named, plain]) is later
    assert may_repeat(verdict, [named, named]) is (later or unsure)
