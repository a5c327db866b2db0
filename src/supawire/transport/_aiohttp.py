"""What both uses of aiohttp, WebSocket and HTTP, need.

One aiohttp session for all WebSockets of an event loop; a session and its connector take 5 KiB.

Nothing in it belongs to one client: headers, TLS and an HTTP proxy come with each request. It is made for the first
socket and closed with the last one. A SOCKS proxy stands in the connector, so such sockets have one each.
"""

import asyncio
import importlib.util
import sys
import time
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, cast
from urllib.parse import quote
from weakref import WeakValueDictionary

import aiohttp
from yarl import URL

from supawire.errors import InvalidArgumentError
from supawire.options import Secret
from supawire.transport._connection import AbortableWebSocket
from supawire.transport.http import date, retry_after

NO_LIMIT: Final = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
"""Time limits are the caller's; aiohttp has none."""

BODY: Final = 64_000
"""Bytes of an answer's body that are read."""

_BODY_TIME: Final = 2.0
"""Seconds in which they must come; the status alone is enough to go on with."""

_KEY: Final = 8
"""Letters from which on a key or a proxy's address is replaced; a shorter one is no secret, and part of many words."""

_TELLING: Final = 16
"""Letters from which on a header of the user's may be a secret; shorter ones are names and versions."""
_LOOKS_UP: Final = {"socks5h": "socks5", "socks4a": "socks4"}
"""Schemes that say that the proxy is to look up names, and what aiohttp-socks calls them."""


def hide(text: str, secrets: Iterable[Secret | None], headers: Iterable[str] = ()) -> str:
    """The text without what we sent and a peer may repeat: secrets, and long values of the user's headers (R48)."""
    values = [secret.reveal() for secret in secrets if secret is not None]
    values += [value for value in headers if len(value) >= _TELLING]
    for value in values:
        for shown in (value, value.rpartition(" ")[2], quote(value, safe="")):
            text = text.replace(shown, "***") if len(shown) >= _KEY else text
    return text


async def beginning(response: aiohttp.ClientResponse) -> bytes:
    """The body as far as it is looked at. One that breaks off changes nothing: the status says what happened."""
    body = b""
    try:
        async with asyncio.timeout(_BODY_TIME):
            while len(body) < BODY and (part := await response.content.read(BODY - len(body))):
                body += part
    except (TimeoutError, aiohttp.ClientError):
        return body  # what came is kept
    return body


def connector(proxy: Secret | None, *, force_close: bool = False) -> aiohttp.BaseConnector:
    """What opens sockets: straight, or through a SOCKS proxy. Raises `InvalidArgumentError` without its package."""
    if proxy is None or not is_socks(proxy):
        return aiohttp.TCPConnector(force_close=force_close)
    if importlib.util.find_spec("aiohttp_socks") is None:
        raise InvalidArgumentError(
            "a SOCKS proxy needs the package aiohttp-socks", hint="pip install 'supawire[socks]'"
        )
    socks: Any = importlib.import_module("aiohttp_socks")
    scheme, _, rest = proxy.reveal().partition("://")
    plain = _LOOKS_UP.get(scheme)
    more = {} if plain is None else {"rdns": True}
    return socks.ProxyConnector.from_url(f"{plain or scheme}://{rest}", force_close=force_close, **more)


def network_errors() -> tuple[type[Exception], ...]:
    """The exceptions that say that the network, the peer or a proxy failed; everything else is a bug."""
    proxies: Any = sys.modules.get("aiohttp_socks")  # a SOCKS error cannot come before the package is loaded
    names = ("ProxyError", "ProxyConnectionError", "ProxyTimeoutError")  # none of them is a subclass of another
    of_proxies = [getattr(proxies, name) for name in names if hasattr(proxies, name)]
    return (aiohttp.ClientError, OSError, EOFError, *of_proxies)


def is_socks(proxy: Secret) -> bool:
    """Whether the connector goes through this proxy, not the request."""
    return proxy.reveal().startswith("socks")


def http_proxy(proxy: Secret | None) -> str | None:
    """The proxy that a request is told of; it may hold a password."""
    return None if proxy is None or is_socks(proxy) else proxy.reveal()


def tls_name(host: str | None) -> str | None:
    """The name that TLS shall check: the host without its port."""
    return None if host is None else (URL.build(scheme="https", authority=host).host or host)


class Answer:
    """What the answer to an upgrade says besides yes; aiohttp shows its headers to a middleware only."""

    __slots__ = ("clock_offset",)

    def __init__(self) -> None:
        self.clock_offset: float | None = None
        """By how many seconds the server's clock is ahead of ours, rounded down as its Date is; None: not known."""


answer: Final[ContextVar[Answer]] = ContextVar("supawire-answer")
"""Where the task that opens a socket looks for it."""


class RequestRefused(Exception):
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


class AiohttpSession:
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

    def take(self) -> "AiohttpSession":
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


_shared: Final[WeakValueDictionary[asyncio.AbstractEventLoop, AiohttpSession]] = WeakValueDictionary()
"""By event loop; what keeps a session are its sockets."""


def session(proxy: Secret | None) -> AiohttpSession:
    """The session for one socket more; to be closed with it."""
    if proxy is not None and is_socks(proxy):
        return AiohttpSession(proxy).take()
    loop = asyncio.get_running_loop()
    shared = _shared.get(loop)
    if shared is None:
        shared = _shared[loop] = AiohttpSession(None)
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
        raise RequestRefused(response.status, after, await beginning(response))
    finally:
        response.close()
