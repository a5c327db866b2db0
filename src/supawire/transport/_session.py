"""One aiohttp session for all WebSockets of an event loop; a session and its connector take 5 KiB.

Nothing in it belongs to one client: headers, TLS and an HTTP proxy come with each request. It is made for the first
socket and closed with the last one. A SOCKS proxy stands in the connector, so such sockets have one each.
"""

import asyncio
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, cast
from weakref import WeakValueDictionary

import aiohttp

from supawire.options import Secret
from supawire.transport._aiohttp import NO_LIMIT, beginning, connector, is_socks
from supawire.transport._connection import AbortableWebSocket
from supawire.transport.headers import date, retry_after


class Answer:
    """What the answer to an upgrade says besides yes; aiohttp shows its headers to a middleware only."""

    __slots__ = ("clock_offset",)

    def __init__(self) -> None:
        self.clock_offset: float | None = None
        """By how many seconds the server's clock is ahead of ours, rounded down as its Date is; None: not known."""


answer: Final[ContextVar[Answer]] = ContextVar("supawire-answer")
"""Where the task that opens a socket looks for it."""


class Refused(Exception):
    """The server answered, and did not say 101. aiohttp's exception has no body, so it is read while it is there."""

    def __init__(self, status: int, after: float | None, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.retry_after = after
        self.body = body


class Dropped(Exception):
    """The peer went away before it had answered."""


def _straight() -> aiohttp.TCPConnector:
    """As many sockets as are wanted, each with a look-up of its own: a server that moved has another address."""
    return aiohttp.TCPConnector(force_close=True, limit=0, use_dns_cache=False)


class Session:
    """A session, until all its sockets are closed."""

    __slots__ = ("__weakref__", "_loop", "_sockets", "aiohttp")

    def __init__(self, proxy: Secret | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = 0
        self.aiohttp: Final = aiohttp.ClientSession(
            connector=_straight() if proxy is None else connector(proxy, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "supawire"},
            timeout=NO_LIMIT,
            middlewares=(_ask,),
            ws_response_class=cast("Any", AbortableWebSocket),
        )

    def take(self) -> "Session":
        """One socket more."""
        self._sockets += 1
        return self

    async def close(self) -> None:
        """One socket less: it was aborted, and is gone when this returns."""
        self._sockets -= 1
        if self._sockets:
            await asyncio.sleep(0)  # asyncio closes it in its next turn
            return
        if _shared.get(self._loop) is self:
            del _shared[self._loop]
        await self.aiohttp.close()


_shared: Final[WeakValueDictionary[asyncio.AbstractEventLoop, Session]] = WeakValueDictionary()
"""By event loop; what keeps a session are its sockets."""


def session(proxy: Secret | None) -> Session:
    """The session for one socket more; to be closed with it."""
    if proxy is not None and is_socks(proxy):
        return Session(proxy).take()
    loop = asyncio.get_running_loop()
    shared = _shared.get(loop)
    if shared is None:
        shared = _shared[loop] = Session(None)
    return shared.take()


async def _ask(request: aiohttp.ClientRequest, ask: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Ask once, and take no answer but 101.

    By itself aiohttp asks a second time when the peer drops the first; our backoff would know nothing of that. And it
    follows redirects; the key and the token go nowhere but where the user said.
    """
    try:
        response = await ask(request)
    except aiohttp.ClientConnectorError:
        raise  # it was not even asked
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise Dropped(str(error) or type(error).__name__) from error
    if response.status == 101:
        if (at := date(response.headers.get("Date"))) is not None and (opening := answer.get(None)) is not None:
            opening.clock_offset = at - time.time()
        return response
    try:
        after = retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
        raise Refused(response.status, after, await beginning(response))
    finally:
        response.close()
