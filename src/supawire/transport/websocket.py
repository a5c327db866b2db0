"""The built-in transport: WebSocket by aiohttp. Imported at the first connect: importing aiohttp is slow."""

import os
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from supawire.errors import ConnectError
from supawire.transport._aiohttp import (
    Answer,
    Dropped,
    RequestRefused,
    answer,
    hide,
    http_proxy,
    network_errors,
    session,
    tls_name,
)
from supawire.transport._connection import AbortableWebSocket, WebSocketConnection
from supawire.transport.base import OpenRequest

_ELSEWHERE: Final = (301, 302, 303, 307, 308)
"""Redirects, which are not followed."""


_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")
"""Reasons of `ssl.SSLError` when the server answers the TLS handshake with plain HTTP."""


class WebSocketTransport:
    """Opens WebSockets: checks certificates, follows no redirects, uses no compression, answers pings."""

    async def open(self, request: OpenRequest, /) -> WebSocketConnection:
        """Open a socket; see `Transport.open`."""
        opener = session(request.proxy)
        failure: ConnectError | None = None
        said = Answer()
        token = answer.set(said)
        try:
            socket = await _connect(opener.aiohttp, request)
        except RequestRefused as refused:
            failure = _refusal(refused, request)
        except (*network_errors(), Dropped) as error:
            failure = _failed(error, request)
        except BaseException:
            await opener.close()
            raise
        else:
            return WebSocketConnection(opener, socket, said.clock_offset)
        finally:
            answer.reset(token)
        await opener.close()
        raise failure  # raised outside the handler: aiohttp's exception contains the URL with the key


async def _connect(opener: aiohttp.ClientSession, request: OpenRequest) -> AbortableWebSocket:
    endpoint = request.endpoint
    socket = await opener.ws_connect(
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


def _refusal(refused: RequestRefused, request: OpenRequest) -> ConnectError:
    where = " and wants us elsewhere, which is not followed" if refused.status in _ELSEWHERE else ""
    return ConnectError(
        f"the server refused the connection with status {refused.status}{where}",
        status=refused.status,
        body=_hide(refused.body.decode("utf-8", "replace"), request),
        retry_after=refused.retry_after,
    )


def _failed(error: Exception, request: OpenRequest) -> ConnectError:
    text = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientResponseError):  # its text is the URL
        text = f"the answer to the upgrade is no WebSocket: {error.message}"
    elif isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
        number = error.os_error.errno or 0
        reason = os.strerror(number) if number > 0 else error.os_error.strerror or error.os_error
        text = f"{error.host}:{error.port} cannot be reached: {reason}"
    elif getattr(getattr(error, "os_error", None), "reason", None) in _NO_TLS:
        parts = urlsplit(request.endpoint.rest_url)
        text = f"{parts.netloc} answers without TLS: write http:// instead of https:// in the URL"
    return ConnectError(_hide(text, request))


def _hide(text: str, request: OpenRequest) -> str:
    told = (*request.headers.values(), *request.endpoint.params.values())
    return hide(text, (request.endpoint.key, request.proxy), told)
