"""The built-in HTTP client: aiohttp with one connection pool. Imported at the first request: importing aiohttp is slow.

A connection that was idle for longer than aiohttp's 15 seconds is not reused. Gateways close idle connections after a
minute or more, so a request rarely meets a connection that is just being closed and thus has an unknown outcome.
"""

import io
from types import SimpleNamespace
from typing import Any, Final, cast

import aiohttp
from yarl import URL

from supawire.errors import HttpError
from supawire.transport._aiohttp import (
    BODY_TIMEOUT,
    NO_LIMIT,
    connector,
    hide,
    http_proxy,
    network_errors,
    read_beginning,
    tls_name,
)
from supawire.transport.base import HttpRequest, HttpResponse

_MAX_WRITE: Final = 1_000_000
"""Maximum bytes of a request body written at once; between the parts of a longer one the event loop runs."""


class PooledHttp:
    """Sends requests over pooled connections; checks certificates, follows no redirects, stores no cookies.

    Args: body_timeout: seconds to wait for the body of a response, whose status is sufficient without it.
    """

    def __init__(self, *, body_timeout: float = BODY_TIMEOUT) -> None:
        self._body_timeout = body_timeout
        self._session: aiohttp.ClientSession | None = None

    async def request(self, request: HttpRequest, /) -> HttpResponse:
        """Send the request and return the response; see `HttpClient.request`."""
        session = self._session = self._session or _session(request)
        progress = SimpleNamespace(began=False)
        try:
            return await self._send(session, request, progress)
        except network_errors() as error:
            failure = _failed(error, request, maybe_sent=progress.began)
        raise failure  # raised outside the handler: aiohttp's exception contains the headers with the key

    async def close(self) -> None:
        """Close all connections; later requests open new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def abort(self) -> None:
        """Close all connections at once, without waiting."""
        session, self._session = self._session, None
        if session is not None and session.connector is not None:
            session.connector._close(abort_ssl=True)  # pyright: ignore[reportPrivateUsage]  close() itself waits
            session.detach()

    async def _send(
        self, session: aiohttp.ClientSession, request: HttpRequest, progress: SimpleNamespace
    ) -> HttpResponse:
        async with session.request(
            request.method,
            URL(request.url, encoded=True),
            data=request.body if len(request.body) < _MAX_WRITE else io.BytesIO(request.body),
            headers=request.reveal(),
            allow_redirects=False,
            server_hostname=tls_name(request.host),
            ssl=True if request.ssl is None else request.ssl,
            proxy=http_proxy(request.proxy),
            trace_request_ctx=progress,
        ) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            body = await read_beginning(response, self._body_timeout)
            if response.status >= 400:  # the body becomes an error's text, and gateways may repeat the request in it
                body = _hide(body.decode("utf-8", "replace"), request).encode()
            return HttpResponse(response.status, body, headers)


def _hide(text: str, request: HttpRequest) -> str:
    return hide(text, (*request.secrets.values(), request.proxy), request.headers.values())


def _session(request: HttpRequest) -> aiohttp.ClientSession:
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_on_headers_sent)
    return aiohttp.ClientSession(
        connector=connector(request.proxy),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "supawire"},
        timeout=NO_LIMIT,
        trace_configs=[trace],
    )


async def _on_headers_sent(_session: aiohttp.ClientSession, context: SimpleNamespace, _sent: Any) -> None:
    """Trace hook: the connection is open and the request is about to be sent."""
    cast("SimpleNamespace", context.trace_request_ctx).began = True


def _failed(error: Exception, request: HttpRequest, *, maybe_sent: bool) -> HttpError:
    text = str(error) or type(error).__name__
    return HttpError(
        f"the HTTP request got no response: {_hide(text, request)}",
        maybe_sent=maybe_sent,
        retryable=not isinstance(error, aiohttp.ClientSSLError),  # an invalid certificate is permanent
        hint="It may have reached the server." if maybe_sent else "It was not sent.",
    )
