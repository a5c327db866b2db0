"""The built-in HTTP client: aiohttp, one pool of connections. Imported at the first request: aiohttp is slow to import.

A connection that was idle for longer than aiohttp's 15 seconds is not used again: gateways close theirs after a minute
or more, so that a request hardly ever meets a connection that is just being closed and cannot say what became of it.
"""

import io
from types import SimpleNamespace
from typing import Any, Final, cast

import aiohttp
from yarl import URL

from supawire.errors import HttpError
from supawire.transport._aiohttp import NO_LIMIT, beginning, connector, hide, http_proxy, network_errors, tls_name
from supawire.transport.http import HttpRequest, HttpResponse

AT_ONCE: Final = 1_000_000
"""Bytes of a request's body that are written at once; of a longer one the loop gets its turn in between."""


class PooledHttp:
    """Sends requests over connections that it keeps; certificates checked, redirects not followed, no cookies."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def request(self, request: HttpRequest, /) -> HttpResponse:
        """Send it and wait for the answer; see `HttpClient.request`."""
        session = self._session = self._session or _session(request)
        progress = SimpleNamespace(began=False)
        try:
            return await _ask(session, request, progress)
        except network_errors() as error:
            failure = _failed(error, request, maybe_sent=progress.began)
        raise failure  # outside of the handler: aiohttp's exception holds the headers, and they the key

    async def close(self) -> None:
        """Close every connection; later requests open new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def abort(self) -> None:
        """Drop every connection at once, without waiting."""
        session, self._session = self._session, None
        if session is not None and session.connector is not None:
            session.connector._close(abort_ssl=True)  # pyright: ignore[reportPrivateUsage]  close() itself waits
            session.detach()


async def _ask(session: aiohttp.ClientSession, request: HttpRequest, progress: SimpleNamespace) -> HttpResponse:
    async with session.request(
        request.method,
        URL(request.url, encoded=True),
        data=request.body if len(request.body) < AT_ONCE else io.BytesIO(request.body),
        headers=request.reveal(),
        allow_redirects=False,
        server_hostname=tls_name(request.host),
        ssl=True if request.ssl is None else request.ssl,
        proxy=http_proxy(request.proxy),
        trace_request_ctx=progress,
    ) as response:
        headers = {name.lower(): value for name, value in response.headers.items()}
        body = await beginning(response)
        if response.status >= 400:  # it becomes the text of an error, and gateways like to repeat what they refuse
            body = _hide(body.decode("utf-8", "replace"), request).encode()
        return HttpResponse(response.status, body, headers)


def _hide(text: str, request: HttpRequest) -> str:
    return hide(text, (*request.secrets.values(), request.proxy), request.headers.values())


def _session(request: HttpRequest) -> aiohttp.ClientSession:
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_begins)
    return aiohttp.ClientSession(
        connector=connector(request.proxy),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "supawire"},
        timeout=NO_LIMIT,
        trace_configs=[trace],
    )


async def _begins(_session: aiohttp.ClientSession, context: SimpleNamespace, _sent: Any) -> None:
    """A trace hook: there is a connection, and the first byte is about to go out."""
    cast("SimpleNamespace", context.trace_request_ctx).began = True


def _failed(error: Exception, request: HttpRequest, *, maybe_sent: bool) -> HttpError:
    text = str(error) or type(error).__name__
    return HttpError(
        f"no answer to the HTTP request: {_hide(text, request)}",
        maybe_sent=maybe_sent,
        retryable=not isinstance(error, aiohttp.ClientSSLError),  # a certificate is no better a second later
        hint="It may have arrived all the same." if maybe_sent else "It was not sent.",
    )
