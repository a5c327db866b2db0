"""Helpers for aiohttp, shared by the WebSocket transport and the HTTP client.

All WebSockets of an event loop share one aiohttp session, because a session and its connector take 5 KiB. It holds
nothing that belongs to one client: headers, TLS settings and an HTTP proxy are passed with each request. It is created
for the first socket and closed with the last one. A SOCKS proxy is a property of the connector, so each socket behind
one has a session of its own.
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
"""No aiohttp timeouts: callers apply their own."""

BODY: Final = 64_000
"""Maximum bytes read of a response body."""

_BODY_TIME: Final = 2.0
"""Seconds to wait for the body; the status is sufficient without it."""

_KEY: Final = 8
"""Minimum length of a key or proxy address to be redacted; shorter ones are not secret and occur in ordinary words."""

_TELLING: Final = 16
"""Minimum length of a user-defined header value to be redacted; shorter ones are names and versions."""
_LOOKS_UP: Final = {"socks5h": "socks5", "socks4a": "socks4"}
"""Schemes that make the proxy resolve host names, with the schemes that aiohttp-socks uses for them."""


def hide(text: str, secrets: Iterable[Secret | None], headers: Iterable[str] = ()) -> str:
    """Redact what was sent and a peer may repeat: secrets, and long values of user-defined headers."""
    values = [secret.reveal() for secret in secrets if secret is not None]
    values += [value for value in headers if len(value) >= _TELLING]
    for value in values:
        for shown in (value, value.rpartition(" ")[2], quote(value, safe="")):
            text = text.replace(shown, "***") if len(shown) >= _KEY else text
    return text


async def beginning(response: aiohttp.ClientResponse) -> bytes:
    """Read the beginning of the body. Read errors are ignored, because the status tells what happened."""
    body = b""
    try:
        async with asyncio.timeout(_BODY_TIME):
            while len(body) < BODY and (part := await response.content.read(BODY - len(body))):
                body += part
    except (TimeoutError, aiohttp.ClientError):
        return body  # return what has been received
    return body


def connector(proxy: Secret | None, *, force_close: bool = False) -> aiohttp.BaseConnector:
    """Create the connector: direct, or through a SOCKS proxy.

    Raises `InvalidArgumentError` if aiohttp-socks is missing.
    """
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
    """Return the exceptions raised when the network, the peer or a proxy fails; all others are bugs."""
    proxies: Any = sys.modules.get("aiohttp_socks")  # SOCKS errors cannot occur before the package is loaded
    names = ("ProxyError", "ProxyConnectionError", "ProxyTimeoutError")  # none is a subclass of another
    of_proxies = [getattr(proxies, name) for name in names if hasattr(proxies, name)]
    return (aiohttp.ClientError, OSError, EOFError, *of_proxies)


def is_socks(proxy: Secret) -> bool:
    """Return whether the proxy is configured on the connector rather than on the request."""
    return proxy.reveal().startswith("socks")


def http_proxy(proxy: Secret | None) -> str | None:
    """Return the proxy to pass with a request; its URL may contain a password."""
    return None if proxy is None or is_socks(proxy) else proxy.reveal()


def tls_name(host: str | None) -> str | None:
    """Return the host name that TLS verifies: the host without its port."""
    return None if host is None else (URL.build(scheme="https", authority=host).host or host)


class Answer:
    """Data from the response to an upgrade; aiohttp gives access to its headers in a middleware only."""

    __slots__ = ("clock_offset",)

    def __init__(self) -> None:
        self.clock_offset: float | None = None
        """Seconds by which the server's clock is ahead of ours, rounded down like its Date header; None if unknown."""


answer: Final[ContextVar[Answer]] = ContextVar("supawire-answer")
"""Set by the task that opens a socket, read by the middleware."""


class RequestRefused(Exception):
    """The server's status was not 101. aiohttp's exception has no body, so the body is read before it is lost."""

    def __init__(self, status: int, after: float | None, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.retry_after = after
        self.body = body


class Dropped(Exception):
    """The peer closed the connection before it answered."""


def _straight() -> aiohttp.TCPConnector:
    """Return a connector without limits and without DNS cache, so that a server that moved is found again."""
    return aiohttp.TCPConnector(force_close=True, limit=0, use_dns_cache=False)


class AiohttpSession:
    """An aiohttp session that is closed with its last socket."""

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
        """Count one more socket."""
        self._sockets += 1
        return self

    async def close(self) -> None:
        """Release one socket, which was aborted; it is closed when this returns."""
        self._sockets -= 1
        if self._sockets:
            await asyncio.sleep(0)  # asyncio closes the socket in its next iteration
            return
        if _shared.get(self._loop) is self:
            del _shared[self._loop]
        await self.aiohttp.close()


_shared: Final[WeakValueDictionary[asyncio.AbstractEventLoop, AiohttpSession]] = WeakValueDictionary()
"""By event loop; only the open sockets keep a session alive."""


def session(proxy: Secret | None) -> AiohttpSession:
    """Return the session for one more socket; close it together with the socket."""
    if proxy is not None and is_socks(proxy):
        return AiohttpSession(proxy).take()
    loop = asyncio.get_running_loop()
    shared = _shared.get(loop)
    if shared is None:
        shared = _shared[loop] = AiohttpSession(None)
    return shared.take()


async def _ask(request: aiohttp.ClientRequest, ask: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send the request once and accept no status other than 101.

    aiohttp would repeat a request whose connection was dropped, bypassing our backoff. It would also follow redirects,
    and send the key and the token to another host.
    """
    try:
        response = await ask(request)
    except aiohttp.ClientConnectorError:
        raise  # the request was not sent
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
