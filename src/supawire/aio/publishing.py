"""Broadcasts by HTTP: `publish`, `publish_many`, and what `offline="http"` sends (protocol §6.5 to §6.7).

What goes out in which form, and what an answer means, is `core.rest`'s; a request and its repetitions are `posting`'s.

Each call is a task of the client's own and a ticket of its session. So it ends with the client, its caller hears of it,
and a caller who goes away takes it along.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, cast
from weakref import WeakValueDictionary

from supawire.aio.letters import Published
from supawire.aio.posting import Poster
from supawire.core import rest
from supawire.core.effects import Publish, Ticket
from supawire.core.rest import Letter
from supawire.errors import ClosedError, HttpError, OperationTimeout, RateLimitedError, RealtimeError
from supawire.options import ClientOptions, Endpoint, Secret
from supawire.types import Sent

if TYPE_CHECKING:
    from supawire.aio.driver import Driver

Work = Callable[[], Coroutine[Any, Any, Any]]


class Publisher:
    """The HTTP side of one client."""

    def __init__(self, driver: "Driver", endpoint: Endpoint, options: ClientOptions) -> None:
        self._driver = driver
        self._posts = driver.session.posts
        self.poster: Final = Poster(driver, endpoint, options)
        self._running: dict[Ticket, asyncio.Task[None]] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._old: int | None = None
        """The generation in which the server turned out to have no single form; with the next one it may be another."""

    # --- calls

    async def publish(self, letter: Letter, timeout: float | None) -> Sent:
        """Send one message; see `AsyncClient.publish`."""
        deadline = self._deadline(timeout)
        return cast("Sent", await self._outcome(lambda: self._one(letter, None, deadline)))

    async def publish_many(self, letters: Sequence[Letter], timeout: float | None) -> Published:
        """Send many; see `AsyncClient.publish_many`."""
        deadline = self._deadline(timeout)
        return cast("Published", await self._outcome(lambda: self._many(letters, deadline)))

    def perform(self, order: Publish) -> None:
        """Send what a channel could not, after what it gave before."""
        deadline = self._deadline(order.timeout)
        self._start(order.ticket, lambda: self._in_turn(order, deadline))

    def cancel(self, ticket: Ticket) -> None:
        """Its caller went away."""
        task = self._running.pop(ticket, None)
        if task is not None:
            task.cancel()

    # --- tasks and tickets

    async def _outcome(self, work: Work) -> Any:
        ticket = self._posts.open()
        self._start(ticket, work)
        return await self._driver.outcome(ticket)

    def _start(self, ticket: Ticket, work: Work) -> None:
        task = self._driver.tasks.spawn(self._settle(ticket, work), f"publish-{ticket.number}")
        if task is None:
            self._posts.settle(ticket, ClosedError("the client was closed"))
        else:
            self._running[ticket] = task

    async def _settle(self, ticket: Ticket, work: Work) -> None:
        await asyncio.sleep(0)  # a loop with eager tasks would be here before anybody waits
        outcome: Any = HttpError("the HTTP request was given up; it may have arrived", maybe_sent=True)
        try:
            outcome = await work()
        except RealtimeError as error:
            outcome = error
        finally:
            self._running.pop(ticket, None)
            self._posts.settle(ticket, outcome)
            self._driver.pump()

    # --- one message, many, and those of a channel

    async def _one(self, letter: Letter, token: Secret | None, deadline: float | None) -> Sent:
        form = rest.single(letter)
        if form is None or (letter.json and self._is_old()):
            return await self._batch([letter], token, deadline)
        error = _too_old(404) if self._is_old() else await self.poster.post([letter], form, token, deadline)
        if error is None:
            return Sent("http", acked=True)
        if not letter.json:
            raise error if error.status is None else _too_old(error.status, error.body)
        sent = await self._batch([letter], token, deadline)
        if rest.says_old(letter):
            self._old = self._driver.session.generation
        return sent

    async def _batch(self, letters: Sequence[Letter], token: Secret | None, deadline: float | None) -> Sent:
        error = await self.poster.post(letters, rest.batch(letters), token, deadline)
        if error is not None:
            raise error
        return Sent("http", id=letters[0].id if len(letters) == 1 else None)

    async def _many(self, letters: Sequence[Letter], deadline: float | None) -> Published:
        sent: list[Sent] = []
        for run in rest.runs(letters, self._posts.most):
            try:
                if run[0].json:
                    sent += [await self._batch(run, None, deadline)] * len(run)
                else:
                    sent.append(await self._one(run[0], None, deadline))
            except (HttpError, OperationTimeout, RateLimitedError) as error:
                raise _partly(len(letters), sent, len(run), error) from error
        return Published(tuple(sent))

    async def _in_turn(self, order: Publish, deadline: float | None) -> Sent:
        """One broadcast of a channel after another, so that their order is kept."""
        topic = order.letter.topic
        turn = self._turns.setdefault(topic, asyncio.Lock())
        try:
            async with asyncio.timeout_at(deadline):
                await turn.acquire()
        except TimeoutError:
            text = "earlier broadcasts of the channel held it beyond its timeout; it was not sent"
            raise OperationTimeout(text, topic=topic) from None
        try:
            return await self._one(order.letter, order.token, deadline)
        finally:
            turn.release()

    def _deadline(self, timeout: float | None) -> float | None:
        return None if timeout is None else self._driver.loop.time() + timeout

    def _is_old(self) -> bool:
        return self._old == self._driver.session.generation


def _too_old(status: int, body: str | None = None) -> HttpError:
    return HttpError(
        "this server takes no bytes by HTTP: it has no route for a single message",
        status=status,
        body=body,
        hint="It is older than Realtime 2.97, or the URL is not the project's. Send JSON, or bytes on a channel.",
        docs="errors.md#http-route",
    )


def _partly(messages: int, sent: Sequence[Sent], tried: int, error: RealtimeError) -> HttpError:
    """The error for `publish_many`, with what became of each message."""
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
