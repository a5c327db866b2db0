"""Tests of the built-in HTTP client against a server on raw sockets, and of `FakeHttp`."""

import asyncio
import gc
import importlib.util
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from supawire.errors import HttpError, InvalidArgumentError
from supawire.options import Secret
from supawire.testing import FakeHttp
from supawire.transport import HttpClient, HttpRequest, HttpResponse
from supawire.transport._aiohttp import MAX_BODY
from supawire.transport.pooled import PooledHttp
from tests.faults.misbehaver import Misbehaver, Wire

pytestmark = pytest.mark.anyio

KEY = "a-key-that-nobody-sees"
OK = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"


def peer(*answers: bytes | None, hang: bool = False) -> Misbehaver:
    """Return a server that answers each request with the next of these, on any connection; None drops the connection.

    hang: keep the connection open, without an answer, when no answers are left.
    """
    left = list(answers)

    async def answer(wire: Wire) -> None:
        open_for_more = True
        while open_for_more:
            await wire.request()
            if not left and hang:
                await wire.read()
            data = left.pop(0) if left else None
            wire.write(data or b"")
            open_for_more = data is not None and b"Connection: close" not in data
        wire.hang_up()

    return Misbehaver(answer)


@asynccontextmanager
async def client(**options: Any) -> AsyncGenerator[PooledHttp, None]:
    http = PooledHttp(**options)
    try:
        yield http
    finally:
        await http.close()


def request_to(url: str, path: str = "/api/broadcast", **options: Any) -> HttpRequest:
    secrets = {"apikey": Secret(KEY), "Authorization": Secret(f"Bearer {KEY}")}
    return HttpRequest(url + path, b'{"n":1}', {"Content-Type": "application/json"}, secrets, **options)


async def failure(http: HttpClient, request: HttpRequest) -> HttpError:
    with pytest.raises(HttpError) as caught:
        await http.request(request)
    return caught.value


def open_sessions() -> list[aiohttp.ClientSession]:
    gc.collect()
    return [it for it in gc.get_objects() if type(it) is aiohttp.ClientSession and not it.closed]


async def test_a_request_is_sent_unchanged():
    """Method, encoded path, headers, secrets, Host and body arrive as given."""
    async with peer(OK) as it, client() as http:
        request = request_to(it.url, "/api/broadcast/a%2Fb/events/%C3%BC%25?private=true", host="tenant.example:4000")
        assert (await http.request(request)).status == 202
    head = it.heads[0]
    assert head.startswith("POST /api/broadcast/a%2Fb/events/%C3%BC%25?private=true HTTP/1.1\r\n")
    for line in ("Host: tenant.example:4000", f"apikey: {KEY}", f"Authorization: Bearer {KEY}", "User-Agent: supawire"):
        assert f"\r\n{line}\r\n" in head
    assert head.count("Content-Type") == 1
    assert it.wire.body == b'{"n":1}'


async def test_a_long_body_is_sent_completely():
    """A body of megabytes arrives unchanged, and its length is in the headers."""
    body = bytes(range(256)) * 20_000
    async with peer(OK) as it, client() as http:
        assert (await http.request(HttpRequest(it.url, body))).status == 202
    assert it.wire.body == body
    assert "Content-Length: 5120000\r\n" in it.heads[0]


async def test_a_response_has_status_headers_and_body():
    """A response is returned whatever its status; header names are lower case."""
    answer = b'HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 13\r\n\r\n{"message":1}'
    async with peer(answer) as it, client() as http:
        response = await http.request(request_to(it.url))
    assert (response.status, response.body, response.headers["retry-after"]) == (429, b'{"message":1}', "7")


async def test_connections_are_reused():
    """Consecutive requests share one connection."""
    async with peer(OK, OK, OK) as it, client() as http:
        for _ in range(3):
            await http.request(request_to(it.url))
        assert len(it.wires) == 1


async def test_a_closed_connection_is_not_reused():
    """When the server closes after its response, the next request opens a new connection instead of failing."""
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with peer(closing, OK) as it, client() as http:
        for _ in range(2):
            assert (await http.request(request_to(it.url))).status == 202
        assert len(it.wires) == 2


async def test_nothing_is_open_before_the_first_request_and_after_close():
    """The first request creates the pool; after `close` no session, connector or connection is left."""
    before = open_sessions()
    async with peer(OK, OK) as it:
        http = PooledHttp()
        await http.close()
        assert open_sessions() == before
        await http.request(request_to(it.url))
        (session,) = [one for one in open_sessions() if one not in before]
        connector = session.connector
        assert connector is not None
        await http.close()
        assert session.closed and connector.closed
        await it.wire.done.wait()


async def test_abort_closes_without_waiting():
    """`abort` is not a coroutine and closes every connection; a second call does nothing."""
    async with peer(OK) as it:
        http = PooledHttp()
        await http.request(request_to(it.url))
        http.abort()
        http.abort()
        await it.wire.done.wait()
    assert [one for one in open_sessions() if one.connector is not None and not one.connector.closed] == []


async def test_a_redirect_is_returned():
    """A redirect is not followed, so that key and token are sent only to the configured server."""
    async with peer(OK) as other:
        redirect = f"HTTP/1.1 307 Elsewhere\r\nLocation: {other.url}/\r\nContent-Length: 0\r\n\r\n".encode()
        async with peer(redirect) as it, client() as http:
            assert (await http.request(request_to(it.url))).status == 307
        assert other.heads == []


async def test_a_refused_connection_sends_nothing():
    """When the connection cannot be opened, the error has `maybe_sent=False` (R34)."""
    async with peer() as it:
        url = it.url
    async with client() as http:
        error = await failure(http, request_to(url))
    assert (error.status, error.maybe_sent, error.retryable) == (None, False, True)


async def test_a_dropped_connection_may_have_sent_the_request():
    """When the connection ends without a response, the error has `maybe_sent=True`."""
    async with peer(None) as it, client() as http:
        error = await failure(http, request_to(it.url))
    assert (error.status, error.maybe_sent, error.retryable) == (None, True, True)
    assert len(it.wires) == 1  # the request was not sent twice


async def test_a_failed_tls_handshake_is_not_retryable():
    """A failed TLS handshake sends nothing, and its error is not retryable."""

    async def serve(wire: Wire) -> None:
        await wire.read(1)
        wire.write(b"what?")
        wire.hang_up()

    async with Misbehaver(serve) as server, client() as http:
        error = await failure(http, request_to(server.url.replace("http:", "https:")))
    assert (error.maybe_sent, error.retryable) == (False, False)


class WatchedContext(ssl.SSLContext):
    """A TLS context that records the host name it verifies."""

    names: "asyncio.Queue[str]"

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        self.names.put_nowait(options["server_hostname"])
        return super().wrap_bio(*args, **options)


async def test_tls_uses_the_given_context_and_host_name():
    """TLS uses the context in `ssl`, and verifies the name in `host` without its port."""
    context = WatchedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.names = asyncio.Queue()
    async with peer() as it, client() as http:
        requesting = asyncio.create_task(
            http.request(request_to(it.url.replace("http:", "https:"), ssl=context, host="a.b:4000"))
        )
        assert await context.names.get() == "a.b"
        requesting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await requesting


@pytest.mark.parametrize("answer", [None, b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 nonsense\r\n\r\n"], ids=str)
async def test_errors_show_no_secret(answer: bytes | None):
    """Neither the error nor its cause and context contain the key or the token."""
    async with peer(answer) as it, client() as http:
        error = await failure(http, request_to(it.url))
    assert KEY not in f"{error!r} {error} {error.__dict__}"
    assert error.__cause__ is None and error.__context__ is None


def test_requests_show_no_secret():
    """The repr of a request shows neither its secrets nor its body."""
    shown = repr(request_to("http://127.0.0.1"))
    assert KEY not in shown and '{"n"' not in shown
    assert request_to("http://127.0.0.1").reveal()["Authorization"] == f"Bearer {KEY}"


async def test_a_response_is_returned_although_its_body_never_ends():
    """The status and the beginning of the body are returned after `body_timeout`."""
    answer = b"HTTP/1.1 503 Busy\r\nContent-Length: 50\r\n\r\nbroken"
    async with peer(answer, hang=True) as it, client(body_timeout=0.05) as http:
        assert await http.request(request_to(it.url)) == HttpResponse(503, b"broken", {"content-length": "50"})


async def test_a_truncated_body_is_returned():
    """A body that ends early is returned as received, with the status."""
    answer = b"HTTP/1.1 500 Oh\r\nContent-Length: 50\r\nConnection: close\r\n\r\nbroken"
    async with peer(answer) as it, client() as http:
        assert (await http.request(request_to(it.url))).body == b"broken"


async def test_a_long_body_is_cut():
    """Only the beginning of a body is read, and a connection with unread data is not reused."""
    answer = b"HTTP/1.1 500 Oh\r\nContent-Length: 900000\r\n\r\n" + bytes(900_000)
    async with peer(answer, OK) as it, client() as http:
        assert len((await http.request(request_to(it.url))).body) == MAX_BODY
        assert (await http.request(request_to(it.url))).status == 202
        assert len(it.wires) == 2


async def test_a_cancelled_request_closes_its_connection():
    """After cancellation the server receives the end of the connection."""
    async with peer(hang=True) as it, client() as http:
        requesting = asyncio.create_task(http.request(request_to(it.url)))
        await it.until(lambda: bool(it.heads))
        requesting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await requesting
        await it.wire.done.wait()


async def test_requests_go_through_an_http_proxy():
    """An HTTP proxy receives the request with the server's URL, and its response is returned."""
    async with peer(b"HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n") as it, client() as http:
        response = await http.request(request_to("http://far.invalid", proxy=Secret(it.url)))
    assert response.status == 502
    assert it.heads[0].startswith("POST http://far.invalid/api/broadcast HTTP/1.1")


async def test_a_proxy_that_refuses_a_tunnel_receives_no_request():
    """When the proxy refuses the tunnel to a TLS server, the request is not sent, and the error hides its password."""
    async with peer(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n") as it, client() as http:
        proxy = Secret(it.url.replace("//", "//user:hidden@"))
        error = await failure(http, request_to("https://far.invalid", proxy=proxy))
    assert it.heads[0].startswith("CONNECT far.invalid:443")
    assert error.maybe_sent is False
    assert "hidden" not in f"{error!r} {error}"
    assert KEY not in "".join(it.heads)


async def test_socks_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    """A SOCKS proxy without aiohttp-socks is refused with the command that installs it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    async with client() as http:
        with pytest.raises(InvalidArgumentError, match=r"supawire\[socks\]"):
            await http.request(request_to("http://127.0.0.1:1", proxy=Secret("socks5://127.0.0.1:1")))


async def test_fake_http_gives_the_configured_responses():
    """`FakeHttp` records the requests and gives the configured responses in order, then always 202."""
    http = FakeHttp()
    http.answer(429, {"message": "no"}, {"Retry-After": "7"})
    http.fail(maybe_sent=True)
    gate = http.hold()
    request = request_to("http://127.0.0.1:1")
    assert await http.request(request) == HttpResponse(429, b'{"message":"no"}', {"retry-after": "7"})
    assert (await failure(http, request)).maybe_sent is True
    waiting = asyncio.create_task(http.request(request))
    await asyncio.sleep(0)
    gate.set()
    assert (await waiting).status == (await http.request(request)).status == 202
    assert http.requests == [request] * 4
