"""Broadcasts by HTTP: which form carries a message, and what an answer means (protocol §6.5 to §6.7).

There are two forms. The *single* one says 403 where the token may not send, and takes bytes; old servers do not have
it. The *batch* takes ids and many messages, and answers 202 also to private messages that it then drops.

What is sent twice arrives twice: nothing on the way knows it again. So a request is repeated only when it was certainly
not taken, or when each of its messages has an id, by which whoever gets it can tell the second copy.
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
"""Bytes of payloads in one batch; the server's parser takes bodies of 8 MB."""

_JSON: Final = "application/json"
_BYTES: Final = "application/octet-stream"


class HttpMessage(Struct, frozen=True):
    """One broadcast for HTTP. `topic` is the sub-topic; `payload`: a JSON object as text, or raw bytes when not `json`.

    `overrides`: the object has a top-level `private`, which the single form would read as its option.
    """

    topic: str
    event: str
    payload: bytes
    json: bool = True
    private: bool = False
    id: str | None = None
    overrides: bool = False


class Form(Struct, frozen=True):
    """What goes out: the path below the base URL, with its query, and the body."""

    path: str
    content_type: str
    body: bytes


class HttpOutcome(enum.Enum):
    """What an answer means for who asked."""

    ACCEPTED = "the server took it"
    NO_ROUTE = "the server does not have this form"
    REFRESH = "not taken; with a newer token it may be"
    LATER = "not taken; later it may be"
    UNSURE = "it may have been taken, or not"
    STRANGE = "this is not Realtime's answer, and nobody knows what was done"
    REFUSED = "not taken, and will not be"


def check_size(payload: bytes, limit: int | None, topic: str) -> None:
    """Refuse at once what the server would refuse later, or drop without a word (R36)."""
    if limit is not None and len(payload) > limit:
        raise PayloadTooLargeError(
            f"the payload has {len(payload)} bytes, the limit is {limit}",
            topic=topic,
            hint="Send less, or a reference to it; Limits(payload_bytes=…) sets your project's limit.",
        )


def http_message(topic: str, event: str, payload: bytes, *, json: bool, private: bool, id: str | None) -> HttpMessage:
    """A message that a form can carry.

    Raises: InvalidArgumentError: a JSON value that is no object, or bytes with an id.
    """
    if json:
        overrides = "private" in members(payload)
        return HttpMessage(topic, event, payload, private=private, id=id, overrides=overrides)
    if id is not None:
        raise InvalidArgumentError(
            "bytes cannot be published with an id: only the batch form takes one, and it is JSON", topic=topic
        )
    return HttpMessage(topic, event, payload, json=False, private=private)


def members(payload: bytes) -> dict[str, Raw]:
    """The top level of a JSON object. Raises `InvalidArgumentError` for any other value."""
    try:
        return msgspec.json.decode(payload, type=dict[str, Raw])
    except msgspec.MsgspecError as error:
        raise InvalidArgumentError(
            f"over HTTP the payload must be a JSON object: {error}",
            hint='The server would wrap any other value; send {"value": …} or the like.',
        ) from error


def single(letter: HttpMessage) -> Form | None:
    """The form for one message; None when only the batch can carry it."""
    if letter.id is not None or letter.overrides or not {".", ".."}.isdisjoint((letter.topic, letter.event)):
        return None  # and on the way, a part of a path that is only dots goes up instead of down
    path = f"/broadcast/{quote(letter.topic, safe='')}/events/{quote(letter.event, safe='')}"
    query = "?private=true" if letter.private else ""
    return Form(path + query, _JSON if letter.json else _BYTES, letter.payload)


def batch(letters: Sequence[HttpMessage]) -> Form:
    """The form for many messages, none of them bytes."""
    messages = [_message(letter) for letter in letters]
    return Form("/broadcast", _JSON, msgspec.json.encode({"messages": messages}))


def _message(letter: HttpMessage) -> dict[str, str | bool | Raw]:
    message: dict[str, str | bool | Raw] = {
        "topic": letter.topic,
        "event": letter.event,
        "payload": Raw(letter.payload),
        "private": letter.private,
    }
    return message if letter.id is None else message | {"id": letter.id}


def batches(letters: Sequence[HttpMessage], most: int | None) -> Iterator[Sequence[HttpMessage]]:
    """The messages in their order, cut where a request must end: bytes go alone, a batch has at most `most`."""
    start, size = 0, 0
    for index, one in enumerate(letters):
        weight = _weight(one)
        full = size + weight > BATCH_BYTES or (most is not None and index - start >= most)
        if index > start and (full or not one.json or not letters[index - 1].json):
            yield letters[start:index]
            start, size = index, 0
        size += weight
    if start < len(letters):
        yield letters[start:]


def _weight(one: HttpMessage) -> int:
    """Bytes of a message in a batch, at most: a control character in a name becomes six."""
    return len(one.payload) + 6 * (len(one.topic.encode()) + len(one.event.encode())) + 120


def route_missing(letter: HttpMessage) -> bool:
    """Whether a 404 to the single form tells of an old server: a gateway may trip over an encoded slash."""
    return "/" not in letter.topic + letter.event


def judge(status: int, body: bytes) -> HttpOutcome:
    """What an answer means."""
    if status == ACCEPTED:
        return HttpOutcome.ACCEPTED
    if status == NO_ROUTE:
        return HttpOutcome.NO_ROUTE
    if status < 300:
        return HttpOutcome.STRANGE
    text = body_text(body) or ""
    row = classify_http(status, text)
    if row.action is Action.GIVE_UP:
        return HttpOutcome.REFUSED
    if row.action is Action.REFRESH:
        return HttpOutcome.REFRESH
    return HttpOutcome.LATER if status < 500 or row.starts or _unavailable(status, body) else HttpOutcome.UNSURE


def _unavailable(status: int, body: bytes) -> bool:
    """Whether this is the answer of one who did not even try; a proxy says 503 too when it lost the server midway."""
    return status == 503 and b"disconnect/reset before headers" not in body


def may_repeat(verdict: HttpOutcome, letters: Sequence[HttpMessage]) -> bool:
    """Whether a request is worth repeating, and nobody is deceived by it."""
    if verdict is HttpOutcome.UNSURE:
        return all(one.id is not None for one in letters)
    return verdict is HttpOutcome.LATER
