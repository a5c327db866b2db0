"""The built-in transport: WebSocket by aiohttp. Imported at the first connect, since aiohttp is slow to import."""

import asyncio
import os
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final, cast

import aiohttp
from yarl import URL

from supawire.errors import ConnectError
from supawire.transport._aiohttp import connector, hide, http_proxy, tls_name
from supawire.transport._connection import AbortableWebSocket, WebSocketConnection
from supawire.transport.base import OpenRequest
from supawire.transport.headers import retry_after

_BODY: Final = 64_000
"""Bytes of a refusal's body that are read."""

_BODY_TIME: Final = 2.0
"""Seconds in which they must come; the status alone is enough to go on with."""

_NO_LIMIT: Final = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)


class WebSocketTransport:
    """Opens WebSockets: certificates checked, redirects not followed, nothing compressed, pings answered."""

    async def open(self, request: OpenRequest, /) -> WebSocketConnection:
        """Open a socket; see `Transport.open`."""
        refusal = _Refusal()
        session = _session(request, refusal)
        failure: ConnectError | None = None
        try:
            socket = await _connect(session, request)
        except (aiohttp.ClientError, OSError, _Redirected, _Dropped) as error:
            failure = refusal.error(error, request) or _failed(error, request)
        except BaseException:
            await session.close()
            raise
        else:
            return WebSocketConnection(session, socket)
        await session.close()
        raise failure  # outside of the handler: aiohttp's exception holds the URL, and the URL the key


async def _connect(session: aiohttp.ClientSession, request: OpenRequest) -> AbortableWebSocket:
    endpoint = request.endpoint
    socket = await session.ws_connect(
        URL(endpoint.reveal(), encoded=True),
        headers={**request.headers, **({"Host": endpoint.host} if endpoint.host else {})},
        server_hostname=tls_name(endpoint.host),
        ssl=True if request.ssl is None else request.ssl,
        proxy=http_proxy(request.proxy),
        max_msg_size=request.max_frame,
        compress=0,
        autoclose=False,
        autoping=True,
        heartbeat=None,
        decode_text=False,
    )
    assert isinstance(socket, AbortableWebSocket)
    return socket


def _session(request: OpenRequest, refusal: "_Refusal") -> aiohttp.ClientSession:
    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(refusal.read)
    trace.on_request_redirect.append(refusal.redirected)
    return aiohttp.ClientSession(
        connector=connector(request.proxy, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "supawire"},
        timeout=_NO_LIMIT,
        trace_configs=[trace],
        middlewares=(_ask_once,),
        ws_response_class=cast("Any", AbortableWebSocket),
    )


class _Dropped(Exception):
    """The peer went away before it had answered."""


async def _ask_once(request: aiohttp.ClientRequest, ask: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """By itself aiohttp asks a second time when the peer drops the first; our backoff would know nothing of that."""
    try:
        return await ask(request)
    except aiohttp.ClientConnectorError:
        raise  # it was not even asked
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Dropped(str(error) or type(error).__name__) from error


class _Redirected(Exception):
    """The server wants us elsewhere; the key and the token go nowhere but where the user said."""


class _Refusal:
    """The answer to an upgrade that was refused. aiohttp's exception has no body, so it is read while it is there."""

    def __init__(self) -> None:
        self._status: int | None = None
        self._retry_after: float | None = None
        self._body = b""

    async def read(self, _session: aiohttp.ClientSession, _context: SimpleNamespace, end: Any) -> None:
        """A trace hook: the request has its answer."""
        if end.response.status != 101:
            await self._take(end.response)

    async def redirected(self, _session: aiohttp.ClientSession, _context: SimpleNamespace, redirect: Any) -> None:
        """A trace hook: the answer is a redirect, which is about to be followed."""
        await self._take(redirect.response)
        raise _Redirected

    async def _take(self, response: aiohttp.ClientResponse) -> None:
        self._status = response.status
        self._retry_after = retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
        try:
            async with asyncio.timeout(_BODY_TIME):
                while len(self._body) < _BODY and (part := await response.content.read(_BODY - len(self._body))):
                    self._body += part
        except (TimeoutError, aiohttp.ClientError):
            return  # a body that breaks off: what came is kept

    def error(self, error: Exception, request: OpenRequest) -> ConnectError | None:
        """The typed error, when the server answered and did not say 101."""
        if self._status is None:
            return None
        where = " and wants us elsewhere, which is not followed" if isinstance(error, _Redirected) else ""
        return ConnectError(
            f"the server refused the connection with status {self._status}{where}",
            status=self._status,
            body=_hide(self._body.decode("utf-8", "replace"), request),
            retry_after=self._retry_after,
        )


def _failed(error: Exception, request: OpenRequest) -> ConnectError:
    text = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientResponseError):  # its text is the URL
        text = f"the answer to the upgrade is no WebSocket: {error.message}"
    elif isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
        number = error.os_error.errno or 0
        reason = os.strerror(number) if number > 0 else error.os_error.strerror or error.os_error
        text = f"{error.host}:{error.port} cannot be reached: {reason}"
    return ConnectError(_hide(text, request))


def _hide(text: str, request: OpenRequest) -> str:
    return hide(text, (request.endpoint.key, request.proxy), request.headers.values())
