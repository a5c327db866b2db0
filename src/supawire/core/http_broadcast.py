"""HTTP broadcasts: which request form carries a message, and what the responses mean.

There are two forms. The *single* form answers 403 if the token may not send, and accepts bytes; old servers lack it.
The *batch* form accepts ids and several messages, but answers 202 even to private messages that it then drops. See
docs/protocol.md, HTTP batch and HTTP single.

A message that is sent twice arrives twice: nothing removes duplicates. So a request is repeated only if it was
certainly not accepted, or if each of its messages has an id by which receivers can recognise the duplicate.
"""

import enum
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct

from supawire._server_errors import Action, body_text, classify_http
from supawire.errors import InvalidArgumentError, PayloadTooLargeError

ACCEPTED: Final = 202
NO_ROUTE: Final = 404
BATCH_BYTES: Final = 7_500_000
"""Maximum bytes of payloads in one batch; the server accepts bodies up to 8 MB."""

_JSON: Final = "application/json"
_BYTES: Final = "application/octet-stream"


class HttpMessage(Struct, frozen=True):
    """One HTTP broadcast. `topic` is the sub-topic; `payload`: a JSON object as text, or raw bytes if not `json`.

    `overrides`: the object has a top-level `private`, which the single form would interpret as its own option.
    """

    topic: str
    event: str
    payload: bytes
    json: bool = True
    private: bool = False
    id: str | None = None
    overrides: bool = False


class Form(Struct, frozen=True):
    """One HTTP request: path below the base URL including the query, content type and body."""

    path: str
    content_type: str
    body: bytes


class HttpOutcome(enum.Enum):
    """Meaning of an HTTP response for the caller."""

    ACCEPTED = "accepted by the server"
    NO_ROUTE = "the server does not have this route"
    REFRESH = "not accepted; a newer token may be accepted"
    RETRY_LATER = "not accepted; may be accepted later"
    UNKNOWN = "unknown whether it was accepted"
    UNEXPECTED = "not an answer of Realtime; unknown whether it was accepted"
    REFUSED = "not accepted, and never will be"


def check_size(payload: bytes, limit: int | None, topic: str) -> None:
    """Raise an error for a payload that the server would refuse or silently drop."""
    if limit is not None and len(payload) > limit:
        raise payload_too_large(payload, limit, topic)


def payload_too_large(payload: bytes, limit: int, topic: str) -> PayloadTooLargeError:
    """Return the error for a payload above the limit."""
    return PayloadTooLargeError(
        f"the payload has {len(payload)} bytes, the limit is {limit}",
        topic=topic,
        hint="Send less, or a reference to it; Limits(payload_bytes=…) sets your project's limit.",
    )


def http_message(topic: str, event: str, payload: bytes, *, json: bool, private: bool, id: str | None) -> HttpMessage:
    """Return a message that at least one form can carry.

    Raises: InvalidArgumentError: a JSON value that is not an object, or bytes with an id.
    """
    if json:
        overrides = "private" in members(payload)
        return HttpMessage(topic, event, payload, private=private, id=id, overrides=overrides)
    if id is not None:
        raise InvalidArgumentError(
            "bytes cannot be published with an id: only the batch form accepts ids, and it accepts only JSON",
            topic=topic,
        )
    return HttpMessage(topic, event, payload, json=False, private=private)


def members(payload: bytes) -> dict[str, Raw]:
    """Return the top-level members of a JSON object. Raises `InvalidArgumentError` for any other value."""
    try:
        return msgspec.json.decode(payload, type=dict[str, Raw])
    except msgspec.MsgspecError as error:
        raise InvalidArgumentError(
            f"over HTTP the payload must be a JSON object: {error}",
            hint='The server would wrap any other value; send {"value": …} or the like.',
        ) from error


def single_form(message: HttpMessage) -> Form | None:
    """Return the request in the single form, None if only the batch form can carry the message."""
    if message.id is not None or message.overrides or not {".", ".."}.isdisjoint((message.topic, message.event)):
        return None  # also, clients and proxies resolve `.` and `..` in a path
    path = f"/broadcast/{quote(message.topic, safe='')}/events/{quote(message.event, safe='')}"
    query = "?private=true" if message.private else ""
    return Form(path + query, _JSON if message.json else _BYTES, message.payload)


def batch_form(messages: Sequence[HttpMessage]) -> Form:
    """Return the request in the batch form; no message may be raw bytes."""
    bodies = [_json_message(message) for message in messages]
    return Form("/broadcast", _JSON, msgspec.json.encode({"messages": bodies}))


def _json_message(message: HttpMessage) -> dict[str, str | bool | Raw]:
    body: dict[str, str | bool | Raw] = {
        "topic": message.topic,
        "event": message.event,
        "payload": Raw(message.payload),
        "private": message.private,
    }
    return body if message.id is None else body | {"id": message.id}


def batches(messages: Sequence[HttpMessage], max_messages: int | None) -> Iterator[Sequence[HttpMessage]]:
    """Split the messages into requests, in order: bytes are sent alone, a batch has at most `max_messages`."""
    start, size = 0, 0
    for index, one in enumerate(messages):
        added = weight(one.payload, one.topic, one.event)
        full = size + added > BATCH_BYTES or (max_messages is not None and index - start >= max_messages)
        if index > start and (full or not one.json or not messages[index - 1].json):
            yield messages[start:index]
            start, size = index, 0
        size += added
    if start < len(messages):
        yield messages[start:]


def weight(payload: bytes, topic: str, event: str) -> int:
    """Return the maximum size of a message in a batch: JSON escapes a control character in a name as six bytes."""
    return len(payload) + 6 * (len(topic.encode()) + len(event.encode())) + 120


def route_missing(message: HttpMessage) -> bool:
    """Whether a 404 to the single form means an old server. Not if there is a slash: gateways may mishandle it."""
    return "/" not in message.topic + message.event


def classify(status: int, body: bytes) -> HttpOutcome:
    """Return the meaning of a response."""
    if status == ACCEPTED:
        return HttpOutcome.ACCEPTED
    if status == NO_ROUTE:
        return HttpOutcome.NO_ROUTE
    if status < 300:
        return HttpOutcome.UNEXPECTED
    text = body_text(body) or ""
    row = classify_http(status, text)
    if row.action is Action.GIVE_UP:
        return HttpOutcome.REFUSED
    if row.action is Action.REFRESH:
        return HttpOutcome.REFRESH
    return HttpOutcome.RETRY_LATER if status < 500 or row.starts or _unavailable(status, body) else HttpOutcome.UNKNOWN


def _unavailable(status: int, body: bytes) -> bool:
    """Whether this 503 means that the request was not processed; proxies also send 503 for a lost connection."""
    return status == 503 and b"disconnect/reset before headers" not in body


def may_repeat(verdict: HttpOutcome, messages: Sequence[HttpMessage]) -> bool:
    """Whether a request may be repeated without undetectable duplicates."""
    if verdict is HttpOutcome.UNKNOWN:
        return all(one.id is not None for one in messages)
    return verdict is HttpOutcome.RETRY_LATER
