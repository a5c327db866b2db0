"""One HTTP request of a broadcast, until what became of it is certain (protocol §6.7).

At most once: an answer that leaves open whether the message was taken is an error that says so. What was certainly not
taken is tried again, within the call's timeout; what has an id also when it is not certain.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, cast

from supawire.aio.hooks import LUCK
from supawire.aio.reports import described
from supawire.core import rest
from supawire.core.backoff import delay
from supawire.core.rest import Form, Letter, Verdict
from supawire.core.token import same
from supawire.errors import (
    HttpError,
    InvalidArgumentError,
    OperationTimeout,
    RateLimitedError,
    RealtimeError,
    http_error,
)
from supawire.options import Backoff, ClientOptions, Endpoint, Secret
from supawire.transport.headers import retry_after
from supawire.transport.http import HttpClient, HttpRequest

if TYPE_CHECKING:
    from supawire.aio.driver import Driver
    from supawire.transport.pooled import PooledHttp

BACKOFF: Final = Backoff(initial=0.5, maximum=8)
"""Between attempts of one call; a longer Retry-After counts instead."""

_OURS: Final = frozenset({"authorization", "apikey", "content-type", "content-length", "host"})
"""Headers that are set here, whatever the client's `headers` say."""


class Poster:
    """Sends the requests of one client."""

    def __init__(self, driver: "Driver", endpoint: Endpoint, options: ClientOptions) -> None:
        self._driver = driver
        self._posts = driver.session.posts
        self._endpoint = endpoint
        self._options = options
        headers = options.headers or {}
        self._headers = {name: value for name, value in headers.items() if name.lower() not in _OURS}
        self._http: HttpClient | None = options.http
        self._pooled: PooledHttp | None = None

    async def post(
        self, letters: Sequence[Letter], form: Form, token: Secret | None, deadline: float | None
    ) -> HttpError | None:
        """Send until it is taken, or cannot be: None when it was, the error when the server has no such route.

        Raises every other error.
        """
        attempt, refreshed = 0, False
        topic = letters[0].topic if len(letters) == 1 else None
        while True:
            await self._pace(len(letters), deadline, topic)
            used = token or self._posts.token
            verdict, error = await self._ask(form, used, deadline, topic)
            if error is None or verdict is Verdict.NO_ROUTE:
                return error
            if verdict is Verdict.REFRESH and token is None and not refreshed:
                refreshed = True
                await self._refresh(used, error, deadline)
            elif error.retryable and rest.may_repeat(verdict, letters):
                await self._wait(error, attempt, deadline)
                attempt += 1
            else:
                raise error

    async def _ask(
        self, form: Form, token: Secret | None, deadline: float | None, topic: str | None
    ) -> tuple[Verdict, HttpError | None]:
        """Send once."""
        bound = asyncio.timeout_at(deadline)
        try:
            async with bound:
                response = await self._client().request(self._request(form, token))
        except InvalidArgumentError:
            raise
        except HttpError as error:
            error.topic = topic
            return (Verdict.UNSURE if error.maybe_sent else Verdict.LATER), error
        except Exception as error:
            if bound.expired():
                text = "no answer to the HTTP request in time; it may still have arrived"
                raise OperationTimeout(text, topic=topic) from None
            raise self._broken(error, topic) from error
        verdict = rest.judge(response.status, response.body)
        if verdict is Verdict.ACCEPTED:
            return verdict, None
        return verdict, http_error(
            response.status,
            response.body,
            topic,
            maybe_sent=verdict in (Verdict.UNSURE, Verdict.STRANGE),
            retry_after=retry_after(response.headers.get("retry-after"), datetime.now(UTC)),
        )

    def _broken(self, error: Exception, topic: str | None) -> HttpError:
        """A client of the user's raised what it should not: nobody knows how far it was."""
        text = f"the HTTP client {described(type(self._http))} raised {type(error).__name__}"
        return HttpError(text, topic=topic, maybe_sent=True, hint="It should raise HttpError.")

    def _request(self, form: Form, token: Secret | None) -> HttpRequest:
        key = self._endpoint.key
        shown = key if token is None or _is_only_a_key(token) else token
        return HttpRequest(
            self._endpoint.rest_url + form.path,
            form.body,
            {**self._headers, "Content-Type": form.content_type},
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
        """Wait for the limit on messages, which the socket counts too."""
        while (ready_at := self._posts.ready_at(now := self._now(), messages)) > now:
            if deadline is not None and ready_at >= deadline:
                raise RateLimitedError("the limit on messages per second holds it beyond its timeout", topic=topic)
            await asyncio.sleep(ready_at - now)
        self._posts.spend(now, messages)

    async def _wait(self, error: HttpError, attempt: int, deadline: float | None) -> None:
        """Wait before another attempt; raise the error when there is no time for one."""
        asked = min(error.retry_after or 0.0, self._options.max_retry_after)
        seconds = max(delay(BACKOFF, attempt, LUCK), asked)
        if deadline is not None and self._now() + seconds >= deadline:
            raise error
        await asyncio.sleep(seconds)

    async def _refresh(self, used: Secret | None, error: HttpError, deadline: float | None) -> None:
        """Get a newer token than the one that was refused; raise the error when there is none."""
        if not same(used, self._posts.token):
            return  # it came meanwhile
        if not self._posts.refreshable:
            raise error
        try:
            async with asyncio.timeout_at(deadline):
                await self._driver.outcome(self._posts.refresh(self._driver.now()))
        except (RealtimeError, TimeoutError) as reason:
            raise error from reason
        if same(used, self._posts.token):
            raise error

    def _now(self) -> float:
        return self._driver.loop.time()

    # --- the end

    async def close(self) -> None:
        """Close the connections of our own client."""
        if self._pooled is not None:
            await self._pooled.close()

    def abort(self) -> None:
        """The same, without waiting."""
        if self._pooled is not None:
            self._pooled.abort()


def _is_only_a_key(token: Secret) -> bool:
    """Whether it says who calls, not who the user is: in Authorization only our own key may (protocol §7.5)."""
    return token.reveal().startswith("sb_")
