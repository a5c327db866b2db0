"""The HTTP endpoints without the HTTP server: requests in, responses out. See docs/protocol.md, HTTP batch.

`Rest.answer` expects the path as the Realtime container serves it (`/api/…`); the shell maps the gateway's path to it.
"""

import re
from collections.abc import Mapping
from itertools import count
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from supawire.core.frames import PREFIX
from supawire.server.authorization import Authorization
from supawire.server.broadcasts import Broadcasts, server_message
from supawire.server.effects import Later, Respond, RestAnswer, RestRequest
from supawire.server.handshake import JSON, tenant, x_headers
from supawire.server.hub_options import HubOptions
from supawire.server.limits import Meter
from supawire.server.outbox import Outbox
from supawire.server.queries import QueryError, Requester, Steps
from supawire.server.rooms import Rooms
from supawire.server.stepper import GeneratorStepper
from supawire.server.tokens import Claims, check
from supawire.server.wire import DECODE_ERRORS, decode, encode, is_list, is_object, shared_user

HTML: Final = "text/html; charset=utf-8"
MAX_BODY: Final = 8_000_000
SINGLE_PATH: Final = re.compile(r"/api/broadcast/([^/]+)/events/([^/]+)")
TOO_LARGE: Final = ["Payload size exceeds tenant limit"]
BLANK: Final = ["can't be blank"]
INVALID: Final = ["is invalid"]
NO_TYPE: Final = {"error": "Unsupported Media Type. Use application/json or application/octet-stream"}
NOT_PARSED: Final = object()
"""The value of a body that is not parsed."""


Errors: TypeAlias = dict[str, list[str]]


def _json(status: int, value: Any) -> RestAnswer:
    return RestAnswer(status, encode(value), JSON)


def _message(status: int, message: str) -> RestAnswer:
    return _json(status, {"message": message})


class Rest:
    """Broadcasts over HTTP, and the two health endpoints."""

    def __init__(
        self,
        options: HubOptions,
        outbox: Outbox,
        rooms: Rooms,
        rights: Authorization,
        stepper: GeneratorStepper,
        broadcasts: Broadcasts,
    ) -> None:
        self._options = options
        self._limits = options.limits
        self._outbox = outbox
        self._rooms = rooms
        self._rights = rights
        self._stepper = stepper
        self._broadcasts = broadcasts
        self._requests = Meter(options.limits.messages)
        self._numbers = count(1)

    def answer(self, request: RestRequest) -> RestAnswer | Later:
        """Answer a request now, or with a later `Respond`; an unknown route gets 404."""
        task = self._stepper.run(self._answer(request))
        if task.result is not None:
            return task.result
        number = next(self._numbers)
        task.on_return = lambda answer: self._outbox.effects.append(Respond(number, answer))
        return Later(number)

    def _answer(self, request: RestRequest) -> Steps[RestAnswer]:
        route = request.method, request.path
        if route == ("GET", "/healthcheck"):
            return RestAnswer(200, b"ok", "text/plain; charset=utf-8")
        if route == ("GET", "/api/ping"):
            return self._unknown_tenant(request) or _message(200, "Success")
        single = SINGLE_PATH.fullmatch(request.path)
        if request.method != "POST" or not (single or request.path == "/api/broadcast"):
            return RestAnswer(404, b"Not Found", HTML)
        if len(request.body) > MAX_BODY:
            return RestAnswer(413, b"Request Entity Too Large", HTML)
        body = _parse(request)
        if isinstance(body, RestAnswer):
            return body
        if single and _type(request) not in ("", "application/json", "application/octet-stream"):
            return _json(415, NO_TYPE)
        named = (unquote(single[1]), unquote(single[2])) if single else None
        return self._with_rates((yield from self._broadcast(request, body, named)))

    def _unknown_tenant(self, request: RestRequest) -> RestAnswer | None:
        known = tenant(request.host) in self._options.tenants
        return None if known else _message(401, "Tenant not found in database")

    def _broadcast(self, request: RestRequest, body: Any, single: tuple[str, str] | None) -> Steps[RestAnswer]:
        """Run the checks common to both forms (tenant, rate, token), then send."""
        mono = self._outbox.now.mono
        if (stranger := self._unknown_tenant(request)) is not None:
            return stranger
        if self._requests.tripped(mono):
            return _message(429, "Too many requests")
        self._requests.count(mono)
        token = token_of(request)
        if token is None:
            return RestAnswer(500, b"Internal Server Error", HTML)
        claims = check(token, self._options.secret, self._outbox.now)
        if not isinstance(claims, Claims):
            return _message(401, "Unauthorized")
        who = Requester(claims, x_headers(request.headers))
        if single is None:
            return (yield from self._send_batch(who, body))
        return (yield from self._send_one(request, who, *single, body))

    # --- batch ---

    def _send_batch(self, who: Requester, body: Any) -> Steps[RestAnswer]:
        messages = body.get("messages") if is_object(body) else None
        if not messages:
            return _json(422, {"errors": {"messages": BLANK if messages in (None, []) else INVALID}})
        if not is_list(messages) or not all(map(is_object, messages)):
            return _json(422, {"errors": {"messages": INVALID}})
        messages = [_cast(message) for message in messages]
        errors = [self._errors(message) for message in messages]
        if any(errors):
            return _json(422, {"errors": {"messages": errors}})
        if (refused := self._too_many(len(messages))) is not None:
            return refused
        topics = dict.fromkeys(message["topic"] for message in messages if message.get("private"))
        allowed = yield from self._rights.write_broadcasts(who, topics)
        return self._deliver(messages, allowed)

    def _deliver(self, messages: list[dict[str, Any]], allowed: Mapping[str, bool | QueryError]) -> RestAnswer:
        """Send a batch. Messages without write access are skipped, and the status is still 202."""
        for message in messages:
            topic, private = message["topic"], bool(message.get("private"))
            if not private or allowed[topic] is True:
                shared = server_message(topic, message["event"], message["payload"], message.get("id"))
                self._broadcasts.publish(topic, shared, private=private)
        return RestAnswer(202)

    def _errors(self, message: dict[str, Any]) -> Errors:
        """Return the validation errors of one message by field."""
        errors: Errors = {}
        for name, kind in (("topic", str), ("event", str), ("payload", dict)):
            value = message.get(name)
            if value is None:
                errors[name] = BLANK
            elif not isinstance(value, kind):
                errors[name] = INVALID
        for name, kind in (("private", bool), ("id", str)):
            if not isinstance(message.get(name), kind | None):
                errors[name] = INVALID
        if "payload" not in errors and self._broadcasts.exceeds(encode(message["payload"])):
            errors["payload"] = TOO_LARGE
        return errors

    def _too_many(self, messages: int) -> RestAnswer | None:
        limit, mono = self._limits.messages, self._outbox.now.mono
        if limit is None:
            return None
        if self._rooms.messages.tripped(mono):
            return _message(429, "You have exceeded your rate limit")
        if messages + self._rooms.messages.average(mono) > limit:
            return _message(429, "Too many messages to broadcast, please reduce the batch size")
        return None

    # --- single ---

    def _send_one(self, request: RestRequest, who: Requester, topic: str, event: str, body: Any) -> Steps[RestAnswer]:
        json = _type(request) != "application/octet-stream"
        payload = encode({} if body is NOT_PARSED else body) if json else request.body
        in_body = body.get("private") if json and is_object(body) else None
        private = request.query.get("private") if in_body is None else in_body
        if self._broadcasts.exceeds(payload) if json else self._raw_exceeds(payload):
            return _json(422, {"errors": {"payload": TOO_LARGE}})
        if (refused := self._too_many(1)) is not None:
            return refused
        is_private = private is True or private == "true"
        if is_private:
            allowed = (yield from self._rights.write_broadcasts(who, [topic]))[topic]
            if isinstance(allowed, QueryError):
                return _message(allowed.status, allowed.rest_message)
            if not allowed:
                return _message(403, "Unauthorized")
        shared = shared_user(PREFIX + topic, event.encode(), payload, json=json)
        self._broadcasts.publish(topic, shared, private=is_private)
        return RestAnswer(202)

    def _raw_exceeds(self, payload: bytes) -> bool:
        limit = self._limits.payload_bytes
        return limit is not None and len(payload) > limit

    def _with_rates(self, answer: RestAnswer) -> RestAnswer:
        limit = self._limits.messages
        if limit is None:
            return answer
        rolling = int(self._requests.average(self._outbox.now.mono))
        rates = (
            ("x-rate-rolling", str(rolling)),
            ("x-rate-limit", f"{limit:g}"),
            ("x-rate-limit-remaining", f"{max(limit - rolling, 0):g}"),
        )
        return RestAnswer(answer.status, answer.body, answer.content_type, rates)


def _type(request: RestRequest) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _parse(request: RestRequest) -> Any:
    """Return the decoded body, an error response, or `NOT_PARSED` for another content type."""
    if _type(request) != "application/json":
        return NOT_PARSED
    if not request.body:
        return {}
    try:
        value = decode(request.body)
    except DECODE_ERRORS:
        return RestAnswer(400, b"Bad Request", HTML)
    return value if is_object(value) else {"_json": value}


_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}


def _cast(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message of a batch as the real server casts it: blank text is null, and a boolean may be a string."""
    found = {name: None if isinstance(value, str) and not value.strip() else value for name, value in message.items()}
    private = found.get("private")
    if isinstance(private, str):
        found["private"] = _BOOLEANS.get(private, private)
    return found


def token_of(request: RestRequest) -> str | None:
    """Return the token of a request; None for an `Authorization` that is not two words, on which the server fails.

    The scheme is case-insensitive; with a scheme other than Bearer the `apikey` header is used.
    """
    words = request.headers.get("authorization", "").split(" ")
    if words != [""]:
        if len(words) != 2:
            return None
        if words[0].lower() == "bearer":
            return words[1]
    return request.headers.get("apikey", "")
