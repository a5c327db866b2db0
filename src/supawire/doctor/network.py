"""Collect facts about the network: DNS, TCP, TLS, HTTP and the WebSocket handshake. Each step is bounded in time."""

import asyncio
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from msgspec import Struct

from supawire._server_errors import connect_error
from supawire.core.fallback import Cause, Evidence, evidence
from supawire.doctor.facts import DnsFacts, HandshakeFacts, HttpFacts, Target, TcpFacts, TlsFacts, TlsProblem
from supawire.errors import ConnectError, HttpError
from supawire.options import Endpoint, Secret
from supawire.transport.base import HttpRequest, OpenRequest, parse_date
from supawire.transport.longpoll import LongPollTransport
from supawire.transport.pooled import PooledHttp
from supawire.transport.websocket import WebSocketTransport

DNS_TIMEOUT: Final = 2.0
TCP_TIMEOUT: Final = 2.0
TLS_TIMEOUT: Final = 2.0
HTTP_TIMEOUT: Final = 3.0
HANDSHAKE_TIMEOUT: Final = 3.5
"""Seconds; the server holds a refusal back for 2 s."""
BODY_TIMEOUT: Final = 0.5
CLOSE_TIMEOUT: Final = 0.2
MAX_ADDRESSES: Final = 8

_PLAIN: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")
"""Reasons of `ssl.SSLError` when the server answers with something other than TLS."""
_VERIFICATION: Final[dict[int, TlsProblem]] = {9: "not-yet-valid", 10: "expired", 62: "other-name", 64: "other-name"}
"""OpenSSL's codes of failed verifications; the others are about the issuer."""
_PROJECT: Final = re.compile(r"([a-z0-9]{1,40})\.supabase\.(?:co|in|red)")

T = TypeVar("T")


class Network(Struct, frozen=True):
    """How to reach the server. deadline: on the clock of `time.monotonic`."""

    endpoint: Endpoint
    target: Target
    deadline: float
    tls: ssl.SSLContext | None = None
    proxy: Secret | None = None
    token: Secret | None = None

    def limit(self, most: float) -> float:
        """Return the seconds that a step may take."""
        return max(0.01, min(most, self.deadline - time.monotonic()))


class Clock:
    """Measures a step."""

    def __init__(self) -> None:
        self._started: Final = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started


async def within(limit: float, step: Awaitable[T]) -> T | None:
    """Return the result of a step, None if it was not finished within the limit in seconds."""
    timeout = asyncio.timeout(limit)
    try:
        async with timeout:
            return await step
    except TimeoutError:
        if not timeout.expired():
            raise
        return None


def project_of(host: str) -> str | None:
    """Return the reference of the hosted project with this host."""
    found = _PROJECT.fullmatch(host[:100])
    return found[1] if found else None


def proxy_variable(host: str, *, secure: bool) -> str | None:
    """Return the environment variable that names a proxy for the host, None if there is none."""
    proxies = getproxies()
    scheme = next((name for name in ("https" if secure else "http", "all") if proxies.get(name)), None)
    if scheme is None or proxy_bypass(host):
        return None
    names = (f"{scheme}_proxy", f"{scheme}_PROXY".upper())
    return next((name for name in names if os.environ.get(name)), None)


async def resolve(network: Network) -> DnsFacts:
    """Look up the host's addresses."""
    clock, target = Clock(), network.target
    try:
        found = await within(network.limit(DNS_TIMEOUT), _look_up(target.host, target.port))
    except (OSError, UnicodeError) as error:  # UnicodeError: a label that is empty or too long
        return DnsFacts(seconds=clock.seconds, error=str(error))
    if found is None:
        return DnsFacts(seconds=clock.seconds, no_answer=True)
    addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
    return DnsFacts(seconds=clock.seconds, addresses=addresses)


async def _look_up(host: str, port: int) -> list[Any]:
    """Return the addresses of a host.

    The lookup has a thread of its own: the event loop waits for those of its executor when it is closed, and the
    program at its end, which may take half a minute if no name server answers.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[list[Any]] = loop.create_future()

    def resolve(found: list[Any], error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(found)

    def run() -> None:
        found: list[Any] = []
        error: BaseException | None = None
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except BaseException as caught:  # noqa: BLE001  raised by the task that waits
            error = caught
        with suppress(RuntimeError):  # the event loop was closed meanwhile
            loop.call_soon_threadsafe(resolve, found, error)

    threading.Thread(target=run, name="supawire-doctor-dns", daemon=True).start()
    return await done


async def connect(network: Network, addresses: Sequence[str]) -> TcpFacts:
    """Open and close a TCP connection: to all addresses at the same time, because one family may lead nowhere."""
    clock = Clock()
    attempts = {asyncio.ensure_future(_try_address(address, network)) for address in addresses[:MAX_ADDRESSES]}
    limit, errors = network.limit(TCP_TIMEOUT), list[OSError]()
    try:
        while attempts:
            done, attempts = await asyncio.wait(
                attempts, timeout=max(0.0, limit - clock.seconds), return_when=asyncio.FIRST_COMPLETED
            )
            for attempt in done:
                outcome = attempt.result()
                if isinstance(outcome, str):
                    return TcpFacts(seconds=clock.seconds, address=outcome)
                errors.append(outcome)
            if not done:
                return TcpFacts(seconds=clock.seconds, no_answer=True)
    finally:
        for attempt in attempts:
            attempt.cancel()
        if attempts:
            await asyncio.wait(attempts)
    refused = any(isinstance(error, ConnectionRefusedError) for error in errors)
    return TcpFacts(seconds=clock.seconds, refused=refused, error=None if refused else _reason(errors[0]))


async def _try_address(address: str, network: Network) -> str | OSError:
    """Return the address if it accepts a connection, else the error."""
    try:
        _, writer = await asyncio.open_connection(address, network.target.port)
    except OSError as error:
        return error
    await _close(writer)
    return address


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno and error.errno > 0 else (error.strerror or str(error))


async def secure(network: Network, address: str) -> TlsFacts:
    """Open a TLS connection to an address of the host, and read the server's certificate."""
    clock, target = Clock(), network.target
    context = network.tls or ssl.create_default_context()
    name = network.endpoint.host.rpartition(":")[0] or network.endpoint.host if network.endpoint.host else target.host
    opening = asyncio.open_connection(address, target.port, ssl=context, server_hostname=name)
    try:
        opened = await within(network.limit(TLS_TIMEOUT), opening)
    except ssl.SSLCertVerificationError as error:
        return TlsFacts(
            seconds=clock.seconds,
            problem=_VERIFICATION.get(error.verify_code, "untrusted"),
            error=error.verify_message,
        )
    except ssl.SSLError as error:
        plain = (error.reason or "") in _PLAIN
        return TlsFacts(
            seconds=clock.seconds,
            problem="plain" if plain else "failed",
            error=(error.reason or str(error)).replace("_", " ").lower(),
        )
    except OSError as error:
        return TlsFacts(seconds=clock.seconds, problem="failed", error=_reason(error) or "the connection was closed")
    if opened is None:
        return TlsFacts(seconds=clock.seconds, no_answer=True)
    tls: ssl.SSLObject = opened[1].get_extra_info("ssl_object")
    certificate: Any = tls.getpeercert() or {}
    after = certificate.get("notAfter")
    facts = TlsFacts(
        seconds=clock.seconds,
        not_after=float(ssl.cert_time_to_seconds(after)) if isinstance(after, str) else None,
        version=tls.version() or "",
    )
    await _close(opened[1])
    return facts


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError, TimeoutError):
        await within(CLOSE_TIMEOUT, writer.wait_closed())


async def request(network: Network) -> HttpFacts:
    """Ask the HTTP interface for a sign of life."""
    clock, endpoint = Clock(), network.endpoint
    secrets = {"apikey": endpoint.key}
    client = PooledHttp(body_timeout=BODY_TIMEOUT)
    sent_at = time.time()
    try:
        response = await within(
            network.limit(HTTP_TIMEOUT),
            client.request(
                HttpRequest(
                    url=f"{endpoint.rest_url}/ping",
                    secrets=secrets,
                    method="GET",
                    ssl=network.tls,
                    proxy=network.proxy,
                    host=endpoint.host,
                )
            ),
        )
    except HttpError as error:
        return HttpFacts(seconds=clock.seconds, error=error.message)
    finally:
        await client.close()
    if response is None:
        return HttpFacts(seconds=clock.seconds, no_answer=True)
    return HttpFacts(
        seconds=clock.seconds,
        status=response.status,
        content_type=response.headers.get("content-type", ""),
        location=_without_query(response.headers.get("location", "")),
        date=parse_date(response.headers.get("date")),
        at=(sent_at + time.time()) / 2,
    )


def _without_query(url: str) -> str:
    parts = urlsplit(url[:500])
    return f"{parts.scheme}://{parts.netloc}{parts.path}" if parts.netloc else parts.path


async def open_socket(network: Network) -> HandshakeFacts:
    """Open a WebSocket and close it."""
    clock = Clock()
    transport = WebSocketTransport(close_timeout=CLOSE_TIMEOUT, body_timeout=BODY_TIMEOUT)
    opening = transport.open(OpenRequest(network.endpoint, ssl=network.tls, proxy=network.proxy))
    try:
        socket = await within(network.limit(HANDSHAKE_TIMEOUT), opening)
    except ConnectError as error:
        seconds, shown = clock.seconds, error
        if error.status is not None:
            shown = connect_error(error.status, error.body or "", error.retry_after)
        cause = Cause(status=error.status, body=(error.body or "").encode(), reached=error.reached)
        works = evidence(cause) is not Evidence.NONE and await _can_poll(network)
        return HandshakeFacts(seconds=seconds, error=shown, status=error.status, polling_works=works)
    if socket is None:
        seconds = clock.seconds
        return HandshakeFacts(seconds=seconds, no_answer=True, polling_works=await _can_poll(network))
    seconds = clock.seconds
    running = asyncio.ensure_future(socket.run(_Nothing()))
    await asyncio.sleep(0)  # only a connection that runs can be cancelled, which closes the socket
    running.cancel()
    await asyncio.wait([running])
    return HandshakeFacts(seconds=seconds)


async def _can_poll(network: Network) -> bool:
    """Return whether a session of long polling can be started; it is abandoned."""
    opening = LongPollTransport(close_timeout=CLOSE_TIMEOUT).open(
        OpenRequest(network.endpoint, ssl=network.tls, proxy=network.proxy)
    )
    try:
        session = await within(network.limit(HANDSHAKE_TIMEOUT), opening)
    except ConnectError:
        return False
    if session is not None:
        session.abort()
        await session.run(_Nothing())
    return session is not None


class _Nothing:
    """A sink that drops every frame."""

    max_batch = 1

    def frame(self, data: bytes, binary: bool, /) -> None:
        """Drop a frame."""

    def batch_done(self) -> None:
        """Do nothing."""
