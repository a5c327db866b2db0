"""The built-in HTTP client on the wire, and the fake that stands in for it."""

import asyncio
import gc
import importlib.util
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from supawire.errors import HttpError, InvalidArgumentError
from supawire.options import Secret
from supawire.testing.http import FakeHttp
from supawire.transport import HttpClient, HttpRequest, HttpResponse, _aiohttp
from supawire.transport.pooled import PooledHttp

pytestmark = pytest.mark.anyio

KEY = "a-key-that-nobody-sees"
OK = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Peer:
    """A TCP server that answers each request with the next bytes of its script; None cuts the connection."""

    script: list[bytes | None] = field(default_factory=list[bytes | None])
    heads: list[str] = field(default_factory=list[str])
    bodies: list[bytes] = field(default_factory=list[bytes])
    connections: int = 0
    hang: bool = False
    """Keep connections open after the script's end, without an answer."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """A connection was closed by the client."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.lower().split("\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith("content-length:")), 0)
        self.heads.append(head)
        self.bodies.append(await reader.readexactly(length))
        self.asked.set()
        if not self.script and self.hang:
            await reader.readexactly(1)
        answer = self.script.pop(0)
        if answer is None:
            return False
        writer.write(answer)
        await writer.drain()
        return b"Connection: close" not in answer


@asynccontextmanager
async def peer(*script: bytes | None, hang: bool = False) -> AsyncGenerator[Peer, None]:
    it = Peer(list(script), hang=hang)
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    it.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield it
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def client() -> AsyncGenerator[PooledHttp, None]:
    http = PooledHttp()
    try:
        yield http
    finally:
        await http.close()


def ask(url: str, path: str = "/api/broadcast", **options: Any) -> HttpRequest:
    secrets = {"apikey": Secret(KEY), "Authorization": Secret(f"Bearer {KEY}")}
    return HttpRequest(url + path, b'{"n":1}', {"Content-Type": "application/json"}, secrets, **options)


async def failure(http: HttpClient, request: HttpRequest) -> HttpError:
    with pytest.raises(HttpError) as caught:
        await http.request(request)
    return caught.value


def open_sessions() -> list[aiohttp.ClientSession]:
    gc.collect()
    return [it for it in gc.get_objects() if type(it) is aiohttp.ClientSession and not it.closed]


async def test_a_request_goes_out_as_it_is():
    """Method, the path as it was encoded, headers, secrets, Host and body arrive as they were given."""
    async with peer(OK) as it, client() as http:
        request = ask(it.url, "/api/broadcast/a%2Fb/events/%C3%BC%25?private=true", host="tenant.example:4000")
        assert (await http.request(request)).status == 202
    head = it.heads[0]
    assert head.startswith("POST /api/broadcast/a%2Fb/events/%C3%BC%25?private=true HTTP/1.1\r\n")
    for line in ("Host: tenant.example:4000", f"apikey: {KEY}", f"Authorization: Bearer {KEY}", "User-Agent: supawire"):
        assert f"\r\n{line}\r\n" in head
    assert head.count("Content-Type") == 1
    assert it.bodies == [b'{"n":1}']


async def test_a_long_body_arrives_whole():
    """A body of megabytes arrives as it is, with its length told before."""
    body = bytes(range(256)) * 20_000
    async with peer(OK) as it, client() as http:
        assert (await http.request(HttpRequest(it.url, body))).status == 202
    assert it.bodies == [body]
    assert "Content-Length: 5120000\r\n" in it.heads[0]


async def test_an_answer_has_status_headers_and_body():
    """Any status is an answer; names of headers are lower case."""
    answer = b'HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 13\r\n\r\n{"message":1}'
    async with peer(answer) as it, client() as http:
        response = await http.request(ask(it.url))
    assert (response.status, response.body, response.headers["retry-after"]) == (429, b'{"message":1}', "7")


async def test_connections_are_kept_and_used_again():
    """Requests one after another share one connection (R34)."""
    async with peer(OK, OK, OK) as it, client() as http:
        for _ in range(3):
            await http.request(ask(it.url))
        assert it.connections == 1


async def test_a_connection_that_was_closed_is_not_used_again():
    """When the server closes after its answer, the next request opens a new connection instead of failing."""
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with peer(closing, OK) as it, client() as http:
        for _ in range(2):
            assert (await http.request(ask(it.url))).status == 202
        assert it.connections == 2


async def test_nothing_is_open_before_the_first_request_and_after_close():
    """The pool is made by the first request, and after `close` no session, connector or connection is left."""
    before = open_sessions()
    async with peer(OK, OK) as it:
        http = PooledHttp()
        await http.close()
        assert open_sessions() == before
        await http.request(ask(it.url))
        (session,) = [one for one in open_sessions() if one not in before]
        connector = session.connector
        assert connector is not None
        await http.close()
        assert session.closed and connector.closed
        await it.gone.wait()


async def test_abort_waits_for_nothing():
    """`abort` closes every connection although nobody awaits anything; twice is once."""
    async with peer(OK) as it:
        http = PooledHttp()
        await http.request(ask(it.url))
        http.abort()
        http.abort()
        await it.gone.wait()
    assert [one for one in open_sessions() if one.connector is not None and not one.connector.closed] == []


async def test_a_redirect_is_an_answer():
    """A redirect is not followed, so that key and token go nowhere but where the user said."""
    async with peer(OK) as other, peer() as it, client() as http:
        it.script.append(f"HTTP/1.1 307 Elsewhere\r\nLocation: {other.url}/\r\nContent-Length: 0\r\n\r\n".encode())
        assert (await http.request(ask(it.url))).status == 307
        assert other.heads == []


async def test_nobody_listens():
    """A connection that cannot be made is an error that says that nothing was sent (R34)."""
    async with peer() as it:
        url = it.url
    async with client() as http:
        error = await failure(http, ask(url))
    assert (error.status, error.maybe_sent, error.retryable) == (None, False, True)


async def test_a_connection_that_breaks_leaves_it_open_whether_it_arrived():
    """A connection that ends without an answer is an error that says that the request may have arrived (R34)."""
    async with peer(None) as it, client() as http:
        error = await failure(http, ask(it.url))
    assert (error.status, error.maybe_sent, error.retryable) == (None, True, True)
    assert it.connections == 1  # it was not sent twice


async def test_what_is_no_tls_is_not_tried_again():
    """A failed TLS handshake sends nothing, and is no better a second later."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(b"what?")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with client() as http:
        error = await failure(http, ask(url))
    server.close()
    await server.wait_closed()
    assert (error.maybe_sent, error.retryable) == (False, False)


class WatchedContext(ssl.SSLContext):
    """A TLS context that says which name it is to check."""

    names: "asyncio.Queue[str]"

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        self.names.put_nowait(options["server_hostname"])
        return super().wrap_bio(*args, **options)


async def test_the_given_context_makes_tls_and_checks_the_given_name():
    """`ssl` is what TLS is made with, and `host` without its port is the name that it checks."""
    context = WatchedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.names = asyncio.Queue()
    async with peer() as it, client() as http:
        asking = asyncio.create_task(http.request(ask(it.url.replace("http:", "https:"), ssl=context, host="a.b:4000")))
        assert await context.names.get() == "a.b"
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


@pytest.mark.parametrize("answer", [None, b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 nonsense\r\n\r\n"], ids=str)
async def test_errors_show_no_secret(answer: bytes | None):
    """Neither the error nor what hangs on it holds the key or the token (R48)."""
    async with peer(answer) as it, client() as http:
        error = await failure(http, ask(it.url))
    assert KEY not in f"{error!r} {error} {error.__dict__}"
    assert error.__cause__ is None and error.__context__ is None


def test_requests_show_no_secret():
    """A request prints neither its secrets nor its body."""
    shown = repr(ask("http://127.0.0.1"))
    assert KEY not in shown and '{"n"' not in shown
    assert ask("http://127.0.0.1").reveal()["Authorization"] == f"Bearer {KEY}"


async def test_a_body_that_hangs_does_not_hold_the_answer_up(monkeypatch: pytest.MonkeyPatch):
    """The status is told although the body never ends."""
    monkeypatch.setattr(_aiohttp, "_BODY_TIME", 0.05)
    async with peer(b"HTTP/1.1 503 Busy\r\nContent-Length: 50\r\n\r\nbroken", hang=True) as it, client() as http:
        assert await http.request(ask(it.url)) == HttpResponse(503, b"broken", {"content-length": "50"})


async def test_a_body_that_breaks_off_is_as_long_as_it_is():
    """A body that ends early changes nothing about the answer."""
    answer = b"HTTP/1.1 500 Oh\r\nContent-Length: 50\r\nConnection: close\r\n\r\nbroken"
    async with peer(answer) as it, client() as http:
        assert (await http.request(ask(it.url))).body == b"broken"


async def test_a_long_body_is_cut():
    """No more than the beginning of a body is read, and a connection with a rest in it is not used again."""
    answer = b"HTTP/1.1 500 Oh\r\nContent-Length: 900000\r\n\r\n" + bytes(900_000)
    async with peer(answer, OK) as it, client() as http:
        assert len((await http.request(ask(it.url))).body) == _aiohttp.BODY
        assert (await http.request(ask(it.url))).status == 202
        assert it.connections == 2


async def test_a_cancelled_request_leaves_nothing():
    """Cancelling a request closes its connection."""
    async with peer(hang=True) as it, client() as http:
        asking = asyncio.create_task(http.request(ask(it.url)))
        await it.asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await it.gone.wait()


async def test_a_proxy_is_asked():
    """An HTTP proxy gets the request for the server's address, and its answer is the answer."""
    async with peer(b"HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n") as it, client() as http:
        response = await http.request(ask("http://far.invalid", proxy=Secret(it.url)))
    assert response.status == 502
    assert it.heads[0].startswith("POST http://far.invalid/api/broadcast HTTP/1.1")


async def test_a_proxy_that_makes_no_tunnel_got_nothing():
    """When the proxy refuses the way to a TLS server, the request was not sent, and the error hides its password."""
    async with peer(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n") as it, client() as http:
        proxy = Secret(it.url.replace("//", "//user:hidden@"))
        error = await failure(http, ask("https://far.invalid", proxy=proxy))
    assert it.heads[0].startswith("CONNECT far.invalid:443")
    assert error.maybe_sent is False
    assert "hidden" not in f"{error!r} {error}"
    assert KEY not in "".join(it.heads)


async def test_socks_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    """A SOCKS proxy without aiohttp-socks is refused with the command that installs it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    async with client() as http:
        with pytest.raises(InvalidArgumentError, match=r"supawire\[socks\]"):
            await http.request(ask("http://127.0.0.1:1", proxy=Secret("socks5://127.0.0.1:1")))


async def test_the_fake_answers_as_it_was_told():
    """`FakeHttp` keeps the requests and follows its script, then answers 202."""
    http = FakeHttp()
    http.answer(429, {"message": "no"}, {"Retry-After": "7"})
    http.fail(maybe_sent=True)
    gate = http.hold()
    request = ask("http://127.0.0.1:1")
    assert await http.request(request) == HttpResponse(429, b'{"message":"no"}', {"retry-after": "7"})
    assert (await failure(http, request)).maybe_sent is True
    held = asyncio.create_task(http.request(request))
    await asyncio.sleep(0)
    gate.set()
    assert (await held).status == (await http.request(request)).status == 202
    assert http.requests == [request] * 4
