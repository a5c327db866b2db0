"""Broadcasts by HTTP: `publish`, `publish_many`, and what `offline="http"` sends.

`core.http_broadcast` decides in which form messages are sent and what an answer means. `HttpSender` sends one request
and repeats it. Delivery is at most once: an answer that leaves open whether the message was accepted raises an error
that says so. A message that was certainly not accepted is retried within the call's timeout; one with an id is retried
also when that is uncertain.

Each call is a task of the client and a ticket of its session. So it ends with the client, its caller gets the outcome,
and it is cancelled together with its caller. See docs/protocol.md, HTTP batch, HTTP single and HTTP answers.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NotRequired, Protocol, TypedDict, cast
from uuid import UUID
from weakref import WeakValueDictionary

from msgspec import Struct
from msgspec.structs import replace

from supawire._server_errors import http_error
from supawire.aio.callbacks import RANDOM, describe_callable
from supawire.aio.tasks import Tasks
from supawire.core import http_broadcast
from supawire.core.effects import PublishByHttp, Ticket
from supawire.core.http_broadcast import Form, HttpMessage, HttpOutcome, check_size, http_message
from supawire.core.pacing import delay
from supawire.core.session import Session
from supawire.core.token import same
from supawire.core.trace_context import add_to_payload
from supawire.errors import (
    ClosedError,
    HttpError,
    InvalidArgumentError,
    OperationTimeout,
    PayloadTooLargeError,
    RateLimitedError,
    RealtimeError,
    docs_of,
)
from supawire.events import Instant, Sent
from supawire.options import Backoff, ClientOptions, Endpoint, Secret, check_bool, check_event, check_json, check_topic
from supawire.transport.base import HttpClient, HttpRequest, parse_retry_after

if TYPE_CHECKING:
    from supawire.transport.pooled import PooledHttp


class Message(TypedDict):
    """One message for `publish_many`: a dict with these keys."""

    topic: str
    event: str
    payload: Any
    private: NotRequired[bool]
    id: NotRequired[str | UUID | None]


_NEEDED: Final = ("topic", "event", "payload")
_KEYS: Final = (*_NEEDED, "private", "id")


class Published(Struct, frozen=True):
    """The result of `publish_many`: the server has accepted each message; delivery is not guaranteed.

    `sent`: how each message was sent, in the order given. `acked` is False for messages in a batch: it is accepted as a
    whole, even if it has private messages that the token may not send, and those are dropped.
    """

    sent: tuple[Sent, ...]

    @property
    def accepted(self) -> int:
        """How many messages the server accepted."""
        return len(self.sent)


def read_message(
    topic: object, event: object, payload: object, private: object, id: object, limit: int | None
) -> HttpMessage:
    """Check one message. Raises `InvalidArgumentError`, `PayloadTooLargeError`."""
    name = check_topic(topic).removeprefix("realtime:")
    json = not isinstance(payload, bytes | bytearray | memoryview)
    body = check_json(payload) if json else bytes(cast("bytes", payload))
    check_size(body, limit, name)
    return http_message(name, check_event(event), body, json=json, private=check_bool("private", private), id=_uuid(id))


def carrying(message: HttpMessage, traceparent: str | None, limit: int | None) -> HttpMessage:
    """Return the message with the trace context in its payload, if there is one and the payload is JSON.

    Args: limit: the most bytes of a payload.
    """
    if traceparent is None or not message.json:
        return message
    return replace(message, payload=add_to_payload(message.payload, traceparent, limit))


def read_messages(messages: Iterable[object], limit: int | None) -> list[HttpMessage]:
    """Check many messages; an error names the index of the wrong one."""
    if isinstance(messages, Mapping | str | bytes) or not isinstance(messages, Iterable):
        raise InvalidArgumentError(f"messages must be an iterable of dicts, not {cast('object', messages)!r:.80}")
    checked: list[HttpMessage] = []
    for index, message in enumerate(messages):
        try:
            checked.append(_read(message, limit))
        except (InvalidArgumentError, PayloadTooLargeError) as error:
            error.message = f"messages[{index}]: {error.message}"
            raise
    return checked


def _read(message: object, limit: int | None) -> HttpMessage:
    if not isinstance(message, Mapping):
        kind = type(message).__name__
        raise InvalidArgumentError(f"a message is a dict with the keys {', '.join(_NEEDED)}, not {kind}")
    given = cast("Mapping[object, object]", message)
    for key in given:
        if key not in _KEYS:
            from difflib import get_close_matches  # imported late, because it is needed only for errors

            near = get_close_matches(str(key), _KEYS, n=1)
            raise InvalidArgumentError(
                f"unknown key {key!r}; expected {', '.join(_KEYS)}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
    if missing := [key for key in _NEEDED if key not in given]:
        raise InvalidArgumentError(f"{' and '.join(missing)} is missing")
    return read_message(
        given["topic"], given["event"], given["payload"], given.get("private", False), given.get("id"), limit
    )


def _uuid(id: object) -> str | None:
    if id is None or isinstance(id, UUID):
        return None if id is None else str(id)
    try:
        return str(UUID(cast("str", id)))
    except (ValueError, AttributeError, TypeError) as error:
        raise InvalidArgumentError(f"id must be a UUID, as uuid.uuid4() makes them, not {id!r}") from error


BACKOFF: Final = Backoff(initial=0.5, maximum=8)

_OURS: Final = frozenset({"authorization", "apikey", "content-type", "content-length", "host"})
"""Headers that are set here, overriding the client's `headers`."""


class PendingCalls(Protocol):
    """Waits for the tickets of the core."""

    def now(self) -> Instant:
        """Return the current time."""
        ...

    def pump(self) -> None:
        """Perform the effects of the core."""
        ...

    async def outcome(self, ticket: Ticket) -> Any:
        """Wait for a ticket and return its value, or raise its error."""
        ...


class HttpSender:
    """Sends the HTTP requests of one client.

    Args: backoff: the pauses between attempts of one call; a longer Retry-After takes precedence. trace_headers:
    returns further headers of a request.
    """

    def __init__(
        self,
        calls: PendingCalls,
        session: Session,
        loop: asyncio.AbstractEventLoop,
        endpoint: Endpoint,
        options: ClientOptions,
        backoff: Backoff,
        trace_headers: Callable[[], dict[str, str]] | None,
    ) -> None:
        self._trace_headers = trace_headers
        self._loop = loop
        self._calls = calls
        self._http_broadcasts = session.http_broadcasts
        self._endpoint = endpoint
        self._options = options
        self._backoff = backoff
        headers = options.headers or {}
        self._headers = {name: value for name, value in headers.items() if name.lower() not in _OURS}
        self._http: HttpClient | None = options.http
        self._pooled: PooledHttp | None = None

    async def post(
        self,
        messages: Sequence[HttpMessage],
        form: Form,
        token: Secret | None,
        deadline: float | None,
        *,
        once: bool = False,
    ) -> HttpError | None:
        """Send until the request is accepted; return None, or the error if the server does not have this route.

        Args: once: repeat it only with a newer token.
        Raises every other error.
        """
        attempt, refreshed = 0, False
        topic = messages[0].topic if len(messages) == 1 else None
        while True:
            await self._pace(len(messages), deadline, topic)
            used = token or self._http_broadcasts.token
            verdict, error = await self._request_once(form, used, deadline, topic)
            if error is None:
                self._http_broadcasts.accepted(len(messages))
                return None
            if verdict is HttpOutcome.NO_ROUTE:
                return error
            if verdict is HttpOutcome.REFRESH and token is None and not refreshed:
                refreshed = True
                await self._refresh(used, error, deadline)
            elif error.retryable and not once and http_broadcast.may_repeat(verdict, messages):
                await self._wait(error, attempt, deadline)
                attempt += 1
            else:
                raise error

    async def _request_once(
        self, form: Form, token: Secret | None, deadline: float | None, topic: str | None
    ) -> tuple[HttpOutcome, HttpError | None]:
        """Send the request once."""
        bound = asyncio.timeout_at(deadline)
        try:
            async with bound:
                response = await self._client().request(self._request(form, token))
        except InvalidArgumentError:
            raise
        except HttpError as error:
            error.topic = topic
            return (HttpOutcome.UNKNOWN if error.maybe_sent else HttpOutcome.RETRY_LATER), error
        except Exception as error:
            if bound.expired():
                text = "no answer to the HTTP request in time; it may still have arrived"
                raise OperationTimeout(text, topic=topic) from None
            raise self._broken(error, topic) from error
        verdict = http_broadcast.classify(response.status, response.body)
        if verdict is HttpOutcome.ACCEPTED:
            return verdict, None
        return verdict, http_error(
            response.status,
            response.body,
            topic,
            maybe_sent=verdict in (HttpOutcome.UNKNOWN, HttpOutcome.UNEXPECTED),
            retry_after=parse_retry_after(response.headers.get("retry-after"), datetime.now(UTC)),
        )

    def _broken(self, error: Exception, topic: str | None) -> HttpError:
        """Return the error for an unexpected exception of a user's HTTP client; the message may have been sent."""
        text = f"the HTTP client {describe_callable(type(self._http))} raised {type(error).__name__}"
        return HttpError(text, topic=topic, maybe_sent=True, hint="It should raise HttpError.")

    def _request(self, form: Form, token: Secret | None) -> HttpRequest:
        key = self._endpoint.key
        shown = key if token is None or _is_only_a_key(token) else token
        return HttpRequest(
            self._endpoint.rest_url + form.path,
            form.body,
            {
                **self._headers,
                **({} if self._trace_headers is None else self._trace_headers()),
                "Content-Type": form.content_type,
            },
            {"apikey": key, "Authorization": Secret(f"Bearer {shown.reveal()}")},
            ssl=self._options.ssl,
            proxy=cast("Secret | None", self._options.proxy),
            host=self._endpoint.host,
        )

    def _client(self) -> HttpClient:
        if self._http is None:
            from supawire.transport.pooled import PooledHttp

            self._http = self._pooled = PooledHttp()
        return self._http

    # --- waiting

    async def _pace(self, messages: int, deadline: float | None, topic: str | None) -> None:
        """Wait for the limit on messages per second, which is shared with the WebSocket."""
        while (ready_at := self._http_broadcasts.ready_at(now := self._now(), messages)) > now:
            if deadline is not None and ready_at >= deadline:
                raise RateLimitedError("the limit on messages per second delays it beyond its timeout", topic=topic)
            await asyncio.sleep(ready_at - now)
        self._http_broadcasts.spend(now, messages)

    async def _wait(self, error: HttpError, attempt: int, deadline: float | None) -> None:
        """Wait before the next attempt; raise the error if the deadline does not allow one."""
        asked = min(error.retry_after or 0.0, self._options.max_retry_after)
        seconds = max(delay(self._backoff, attempt, RANDOM), asked)
        if deadline is not None and self._now() + seconds >= deadline:
            raise error
        await asyncio.sleep(seconds)

    async def _refresh(self, used: Secret | None, error: HttpError, deadline: float | None) -> None:
        """Get a newer token than the one that was refused; raise the error if there is none."""
        if not same(used, self._http_broadcasts.token):
            return  # a newer one arrived meanwhile
        if not self._http_broadcasts.refreshable:
            raise error
        try:
            async with asyncio.timeout_at(deadline):
                await self._calls.outcome(self._http_broadcasts.refresh(self._calls.now()))
        except (RealtimeError, TimeoutError) as reason:
            raise error from reason
        if same(used, self._http_broadcasts.token):
            raise error

    def _now(self) -> float:
        return self._loop.time()

    # --- closing

    async def close(self) -> None:
        """Close the connections of our own HTTP client."""
        if self._pooled is not None:
            await self._pooled.close()

    def abort(self) -> None:
        """Close the connections without waiting."""
        if self._pooled is not None:
            self._pooled.abort()


def _is_only_a_key(token: Secret) -> bool:
    """Return whether it is an API key, not a JWT; in Authorization only the client's own key is allowed."""
    return token.reveal().startswith("sb_")


Work = Callable[[], Coroutine[Any, Any, Any]]


class Publisher:
    """The broadcasts of one client by HTTP.

    Args: loop: the client's event loop; after it has ended, a call on any thread raises that the client was closed.
    """

    def __init__(
        self,
        calls: PendingCalls,
        session: Session,
        tasks: Tasks,
        loop: asyncio.AbstractEventLoop,
        endpoint: Endpoint,
        options: ClientOptions,
        backoff: Backoff = BACKOFF,
        trace_headers: Callable[[], dict[str, str]] | None = None,
    ) -> None:
        self._loop = loop
        self._calls = calls
        self._session = session
        self._tasks = tasks
        self._http_broadcasts = session.http_broadcasts
        self.sender: Final = HttpSender(calls, session, loop, endpoint, options, backoff, trace_headers)
        self._running: dict[Ticket, asyncio.Task[None]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._old_server: int | None = None
        """The generation in which the server was found to lack the single form; it may differ after a reconnect."""

    # --- calls

    async def publish(self, message: HttpMessage, timeout: float | None) -> Sent:
        """Send one message; see `AsyncClient.publish`."""
        deadline = self._deadline(timeout)
        return cast("Sent", await self._outcome(lambda: self._one(message, None, deadline)))

    async def publish_many(self, messages: Sequence[HttpMessage], timeout: float | None) -> Published:
        """Send many messages; see `AsyncClient.publish_many`."""
        deadline = self._deadline(timeout)
        return cast("Published", await self._outcome(lambda: self._many(messages, deadline)))

    async def publish_once(self, messages: Sequence[HttpMessage], timeout: float | None) -> None:
        """Send messages with ids in one request, without repeating it. Raises the error of the request."""
        deadline = self._deadline(timeout)
        await self._outcome(lambda: self._batch(messages, None, deadline, once=True))

    def perform(self, order: PublishByHttp) -> None:
        """Send a broadcast of a channel that is not joined, after its earlier ones."""
        deadline = self._deadline(order.timeout)
        self._start(order.ticket, lambda: self._in_order(order, deadline))

    def cancel(self, ticket: Ticket) -> None:
        """Cancel the call of this ticket."""
        task = self._running.pop(ticket, None)
        if task is not None:
            task.cancel()

    # --- tasks and tickets

    async def _outcome(self, work: Work) -> Any:
        ticket = self._http_broadcasts.open()
        self._start(ticket, work)
        return await self._calls.outcome(ticket)

    def _start(self, ticket: Ticket, work: Work) -> None:
        task = self._tasks.spawn(self._settle(ticket, work), f"publish-{ticket.number}")
        if task is None:
            self._http_broadcasts.settle(ticket, ClosedError("the client was closed"))
        else:
            self._running[ticket] = task

    async def _settle(self, ticket: Ticket, work: Work) -> None:
        await asyncio.sleep(0)  # an eager task would otherwise run before its caller waits
        outcome: Any = HttpError("the HTTP request was cancelled; it may have arrived", maybe_sent=True)
        try:
            outcome = await work()
        except RealtimeError as error:
            outcome = error
        finally:
            self._running.pop(ticket, None)
            self._http_broadcasts.settle(ticket, outcome)
            self._calls.pump()

    # --- one message, many, and those of a channel

    async def _one(self, message: HttpMessage, token: Secret | None, deadline: float | None) -> Sent:
        form = http_broadcast.single_form(message)
        if form is None or (message.json and self._is_old_server()):
            return await self._batch([message], token, deadline)
        error = _too_old(404) if self._is_old_server() else await self.sender.post([message], form, token, deadline)
        if error is None:
            return Sent("http", acked=True)
        if not message.json:
            raise error if error.status is None else _too_old(error.status, error.body)
        sent = await self._batch([message], token, deadline)
        if http_broadcast.route_missing(message):
            self._old_server = self._session.generation
        return sent

    async def _batch(
        self, messages: Sequence[HttpMessage], token: Secret | None, deadline: float | None, *, once: bool = False
    ) -> Sent:
        error = await self.sender.post(messages, http_broadcast.batch_form(messages), token, deadline, once=once)
        if error is not None:
            raise error
        return Sent("http", id=messages[0].id if len(messages) == 1 else None)

    async def _many(self, messages: Sequence[HttpMessage], deadline: float | None) -> Published:
        sent: list[Sent] = []
        for run in http_broadcast.batches(messages, self._http_broadcasts.max_messages):
            try:
                if run[0].json:
                    sent += [await self._batch(run, None, deadline)] * len(run)
                else:
                    sent.append(await self._one(run[0], None, deadline))
            except (HttpError, OperationTimeout, RateLimitedError) as error:
                raise _partial_failure(len(messages), sent, len(run), error) from error
        return Published(tuple(sent))

    async def _in_order(self, order: PublishByHttp, deadline: float | None) -> Sent:
        """Send one broadcast of a channel at a time, to keep their order."""
        topic = order.message.topic
        lock = self._locks.setdefault(topic, asyncio.Lock())
        try:
            async with asyncio.timeout_at(deadline):
                await lock.acquire()
        except TimeoutError:
            text = "earlier broadcasts of the channel delayed it beyond its timeout; it was not sent"
            raise OperationTimeout(text, topic=topic) from None
        try:
            return await self._one(order.message, order.token, deadline)
        finally:
            lock.release()

    def _deadline(self, timeout: float | None) -> float | None:
        return None if timeout is None else self._loop.time() + timeout

    def _is_old_server(self) -> bool:
        return self._old_server == self._session.generation


def _too_old(status: int, body: str | None = None) -> HttpError:
    return HttpError(
        "this server does not accept bytes by HTTP: it has no route for a single message",
        status=status,
        body=body,
        hint="It is older than Realtime 2.97, or the URL is not the project's. Send JSON, or bytes on a channel.",
        docs=docs_of("http-route"),
    )


def _partial_failure(messages: int, sent: Sequence[Sent], tried: int, error: RealtimeError) -> HttpError:
    """Return the error for `publish_many`, with the outcome of each message."""
    rest_of_them = messages - len(sent) - tried
    skipped = HttpError("not sent, because an earlier message of the call failed", retryable=True)
    answer = error if isinstance(error, HttpError) else None
    return HttpError(
        f"{messages - len(sent)} of {messages} messages were not accepted: {error.message}",
        status=answer.status if answer else None,
        body=answer.body if answer else None,
        maybe_sent=answer.maybe_sent if answer else isinstance(error, OperationTimeout),
        retry_after=answer.retry_after if answer else None,
        outcomes=(*sent, *[error] * tried, *[skipped] * rest_of_them),
        retryable=error.retryable,
        hint=error.hint,
        docs=error.docs,
    )
