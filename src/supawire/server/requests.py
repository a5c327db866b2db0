"""HTTP requests and answers, between `aiohttp` and the hub."""

from typing import Final

from aiohttp import web

from supawire.server.effects import RestAnswer

CORS: Final = {"Access-Control-Allow-Origin": "*"}
PREFLIGHT: Final = {
    **CORS,
    "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
    "Access-Control-Allow-Headers": "authorization, apikey, content-type, x-client-info",
}
MAX_HEADER: Final = 4_400
"""Bytes of one header value: the real server's border is soft, seen between 4,200 and 8,000 (protocol §1.2)."""
MAX_LINE: Final = 8_150


def headers_of(request: web.Request) -> dict[str, str]:
    """Return the headers by their names in lower case."""
    return {name.lower(): value for name, value in request.headers.items()}


def refused_as_too_long(request: web.Request) -> web.Response | None:
    """Return the answer to a request whose line or header is too long; None for any other."""
    if len(request.raw_path) + len(request.method) > MAX_LINE:
        return web.Response(status=414)
    if any(len(value) > MAX_HEADER for value in request.headers.values()):
        return web.Response(status=431)
    return None


def response_of(answer: RestAnswer) -> web.Response:
    """Return an answer of the hub, open to pages of other origins."""
    headers = {**CORS, **dict(answer.headers)}
    if answer.content_type is not None:
        headers["Content-Type"] = answer.content_type
    return web.Response(status=answer.status, body=answer.body or None, headers=headers)
