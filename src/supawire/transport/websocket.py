"""The built-in transport: WebSocket by aiohttp. Imported at the first connect: importing aiohttp is slow.

All WebSockets of an event loop share one aiohttp session, because a session and its connector take 5 KiB. It holds
nothing that belongs to one client: headers, TLS settings and an HTTP proxy are passed with each request. It is created
for the first socket and closed with the last one. A SOCKS proxy is a property of the connector, so each socket behind
one has a session of its own.
"""

import asyncio
import os
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import aiohttp
from yarl import URL

from supawire.errors import ConnectError
from supawire.options import Secret
from supawire.transport._aiohttp import (
    BODY_TIMEOUT,
    NO_LIMIT,
    FastConnector,
    connector,
    hide,
    http_proxy,
    is_socks,
    network_errors,
    read_beginning,
    tls_name,
    uses_aiofastnet,
)
from supawire.transport._connection import Reading, Socket, WebSocketConnection
from supawire.transport.base import CLOSE_TIMEOUT, OpenRequest, parse_date, parse_retry_after

_REDIRECTS: Final = (301, 302, 303, 307, 308)
"""Statuses of redirects, which are not followed."""

_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")
"""Reasons of `ssl.SSLError` when the server answers the TLS handshake with plain HTTP."""


class WebSocketTransport:
    """Opens WebSockets: checks certificates, follows no redirects, uses no compression, answers pings.

    Args: close_timeout: seconds to wait for the peer's close frame. body_timeout: seconds to wait for the body of a
        refusal, whose status is sufficient without it.
    """

    __slots__ = ("_body_timeout", "_close_timeout", "_fast", "_reading")

    def __init__(
        self,
        *,
        fast: bool | None = None,
        close_timeout: float = CLOSE_TIMEOUT,
        body_timeout: float = BODY_TIMEOUT,
        reading: Reading = Reading.QUEUE,
    ) -> None:
        self._fast = uses_aiofastnet(fast)
        self._close_timeout = close_timeout
        self._body_timeout = body_timeout
        self._reading = reading

    async def open(self, request: OpenRequest, /) -> WebSocketConnection:
        """Open a socket; see `Transport.open`."""
        opener = _session(request.proxy, self._fast)
        failure: ConnectError | None = None
        handshake = _Handshake(self._body_timeout)
        token = _handshake.set(handshake)
        try:
            socket = await _connect(opener.aiohttp, request)
        except _RefusedError as refused:
            failure = _refusal(refused, request)
        except (*network_errors(), _DroppedError) as error:
            failure = _failure(error, request)
        except BaseException:
            await opener.close()
            raise
        else:
            response = handshake.response
            assert response is not None
            return WebSocketConnection(
                *(opener, socket, response, handshake.clock_offset),
                close_timeout=self._close_timeout,
                reading=self._reading,
            )
        finally:
            _handshake.reset(token)
        await opener.close()
        raise failure  # raised outside the handler: aiohttp's exception contains the URL with the key


async def _connect(opener: aiohttp.ClientSession, request: OpenRequest) -> Socket:
    endpoint = request.endpoint
    return await opener.ws_connect(
        URL(endpoint.reveal(), encoded=True),
        headers={**request.headers, **({"Host": endpoint.host} if endpoint.host else {})},
        server_hostname=tls_name(endpoint.host),
        ssl=True if request.ssl is None else request.ssl,
        proxy=http_proxy(request.proxy),
        max_msg_size=request.max_frame,
        compress=0,
        autoclose=False,
        autoping=False,
        heartbeat=None,
        decode_text=False,
    )


# --- errors


class _RefusedError(Exception):
    """The server's status was not 101. aiohttp's exception has no body, so the body is read before it is lost."""

    def __init__(self, status: int, retry_after: float | None, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.retry_after = retry_after
        self.body = body


class _DroppedError(Exception):
    """The peer closed the connection before it answered."""


def _refusal(refused: _RefusedError, request: OpenRequest) -> ConnectError:
    redirect = " (a redirect, which is not followed)" if refused.status in _REDIRECTS else ""
    return ConnectError(
        f"the server refused the connection with status {refused.status}{redirect}",
        status=refused.status,
        body=_hide(refused.body.decode("utf-8", "replace"), request),
        retry_after=refused.retry_after,
    )


def _failure(error: Exception, request: OpenRequest) -> ConnectError:
    text = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientResponseError):  # its text is the URL
        text = f"the answer to the upgrade is not a WebSocket handshake: {error.message}"
    elif isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
        number = error.os_error.errno or 0
        reason = os.strerror(number) if number > 0 else error.os_error.strerror or error.os_error
        reason = str(reason) or type(error.os_error).__name__
        text = f"{error.host}:{error.port} cannot be reached: {reason}"
    elif getattr(getattr(error, "os_error", None), "reason", None) in _NO_TLS:
        parts = urlsplit(request.endpoint.rest_url)
        text = f"{parts.netloc} answers without TLS: write http:// instead of https:// in the URL"
    elif isinstance(error, aiohttp.ClientSSLError) and (reason := _tls_reason(error)):
        text = f"{error.host}:{error.port} cannot be reached: {reason}"
    reached = isinstance(error, _DroppedError | aiohttp.ClientResponseError)
    return ConnectError(_hide(text, request), reached=reached)


def _tls_reason(error: aiohttp.ClientSSLError) -> str | None:
    """Return why TLS failed if the text of aiohttp's exception lacks it, as for errors of aiofastnet."""
    cause: Any = getattr(error, "certificate_error", None) or error.os_error
    return None if cause.args else getattr(cause, "strerror", None)


def _hide(text: str, request: OpenRequest) -> str:
    sent = (*request.headers.values(), *request.endpoint.params.values())
    return hide(text, (request.endpoint.key, request.proxy), sent)


# --- the shared session


class _OwnedSession:
    """An aiohttp session that is closed with its last socket."""

    __slots__ = ("__weakref__", "_fast", "_loop", "_sockets", "aiohttp")

    def __init__(self, proxy: Secret | None, *, fast: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._fast = fast
        self._sockets = 0
        self.aiohttp: Final = aiohttp.ClientSession(
            connector=_direct(fast) if proxy is None else connector(proxy, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "supawire"},
            timeout=NO_LIMIT,
            middlewares=(_upgrade,),
        )

    def add_socket(self) -> "_OwnedSession":
        """Count one more socket."""
        self._sockets += 1
        return self

    async def close(self) -> None:
        """Release one socket, which was aborted; it is closed when this returns."""
        self._sockets -= 1
        if self._sockets:
            await asyncio.sleep(0)  # asyncio closes the socket in its next iteration
            return
        if _shared.get((self._loop, self._fast)) is self:
            del _shared[self._loop, self._fast]
        await self.aiohttp.close()


def _direct(fast: bool) -> aiohttp.TCPConnector:
    """Return a connector without limits and without DNS cache, so that a server that moved is found again."""
    kind = FastConnector if fast else aiohttp.TCPConnector
    return kind(force_close=True, limit=0, use_dns_cache=False)


_shared: Final[WeakValueDictionary[tuple[asyncio.AbstractEventLoop, bool], _OwnedSession]] = WeakValueDictionary()
"""By event loop and whether connections are those of aiofastnet; only the open sockets keep a session alive."""


def _session(proxy: Secret | None, fast: bool) -> _OwnedSession:
    """Return the session for one more socket; close it together with the socket."""
    if proxy is not None and is_socks(proxy):
        return _OwnedSession(proxy).add_socket()
    fast = (
        fast and proxy is None
    )  # aiohttp starts TLS behind a proxy by the event loop, which refuses others' connections
    loop = asyncio.get_running_loop()
    shared = _shared.get((loop, fast))
    if shared is None:
        shared = _shared[loop, fast] = _OwnedSession(None, fast=fast)
    return shared.add_socket()


# --- the upgrade


class _Handshake:
    """Data of one upgrade, shared with the middleware: only there does aiohttp give access to response headers."""

    __slots__ = ("body_timeout", "clock_offset", "response")

    def __init__(self, body_timeout: float) -> None:
        self.body_timeout = body_timeout
        self.response: aiohttp.ClientResponse | None = None
        """The response that accepted the upgrade."""
        self.clock_offset: float | None = None
        """Seconds by which the server's clock is ahead of ours, rounded down like its Date header; None if unknown."""


_handshake: Final[ContextVar[_Handshake]] = ContextVar("supawire-handshake")
"""Set by the task that opens a socket, read by the middleware."""


async def _upgrade(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send the request once and accept no status other than 101.

    aiohttp would repeat a request whose connection was dropped, bypassing our backoff. It would also follow redirects,
    and send the key and the token to another host.
    """
    handshake = _handshake.get()
    try:
        response = await send(request)
    except aiohttp.ClientConnectorError:
        raise  # the request was not sent
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _DroppedError(str(error) or type(error).__name__) from error
    if response.status == 101:
        if (date := parse_date(response.headers.get("Date"))) is not None:
            handshake.clock_offset = date - time.time()
        handshake.response = response
        return response
    try:
        retry_after = parse_retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
        raise _RefusedError(response.status, retry_after, await read_beginning(response, handshake.body_timeout))
    finally:
        response.close()
