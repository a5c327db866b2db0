"""`connect_async`, and what it returns: a client that is opened by `await` or by `async with`."""

import asyncio
import importlib.util
import logging
import warnings
from collections.abc import Awaitable, Callable, Generator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from supawire._validation import NoAttributeError, NotSupportedError
from supawire.aio.client import AsyncClient
from supawire.aio.driver import Driver
from supawire.cursors import HistorySource
from supawire.errors import InvalidArgumentError, StateError
from supawire.options import Backoff, ClientOptions, Fallback, Limits, Offline, Secret, TokenProvider
from supawire.options import Protocol as Version
from supawire.transport.base import HttpClient, Transport

if TYPE_CHECKING:
    import ssl as tls

    from supawire.telemetry import Telemetry


class Closable(Protocol):
    """An object with an async `close`."""

    async def close(self) -> None:
        """Close it."""
        ...


if TYPE_CHECKING:  # with a default, a bare generic type passes strict checkers; at run time Python 3.13 has them
    import typing_extensions

    C = typing_extensions.TypeVar("C", bound=Closable, default=Any)
else:
    C = TypeVar("C", bound=Closable)


def _hint(call: str) -> str:
    sync = call.removesuffix("_async")
    return f"Write `async with {call}(…) as client:`, or `client = await {call}(…)`; code that blocks calls {sync}()."


class ClientOpener(Generic[C]):
    """A client that is not open yet. Nothing starts before it is awaited or entered, which can be done once.

    `client = await connect_async(...)`, or `async with connect_async(...) as client:`.
    """

    def __init__(self, start: Callable[[], Awaitable[C]], call: str = "connect_async") -> None:
        self._start: Callable[[], Awaitable[C]] | None = start
        """None after use, to release what it refers to."""
        self._call = call
        self._client: C | None = None
        self._misused = False

    def __await__(self) -> Generator[Any, Any, C]:
        return self._open().__await__()

    async def __aenter__(self) -> C:
        self._client = await self._open()
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            self._misused = True
            message = f"{self._call}() returns a client that is not open yet, which has no attribute {name!r}"
            raise NoAttributeError(message, hint=_hint(self._call))

        def __enter__(self) -> Any:
            self._misused = True
            raise NotSupportedError(f"{self._call}() opens a client in async code", hint=_hint(self._call))

        def __exit__(self, *_: object) -> None: ...

    async def _open(self) -> C:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._start = None
            raise StateError(
                f"{self._call} needs the event loop of asyncio, and none is running here",
                hint="Under trio use connect(), in a thread: trio.to_thread.run_sync(connect, url, key).",
            ) from None
        start, self._start = self._start, None
        if start is None:
            raise StateError("this client was opened already", hint=f"Call {self._call}() again for another one.")
        return await start()

    def __del__(self) -> None:
        if self._start is not None and not self._misused:
            warnings.warn(
                f"{self._call}() was called and its result dropped: nothing was opened; await it, or use async with",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


def connect_async(
    url: str,
    key: str | Secret,
    *,
    token: str | Secret | TokenProvider | None = None,
    protocol: Version = "2.0.0",
    heartbeat: float = 25.0,
    timeout: float = 10.0,
    open_timeout: float | None = 20.0,
    backoff: Backoff | Callable[[int], float] = Backoff(),
    rejoin_backoff: Backoff | Callable[[int], float] = Backoff(initial=1.0),
    offline: Offline = "raise",
    queue_size: int = 1000,
    limits: Limits = Limits(),
    idle_disconnect: float | None = None,
    max_sockets: int = 1,
    token_on_heartbeat: bool = False,
    max_retry_after: float = 300.0,
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    ssl: "tls.SSLContext | None" = None,
    proxy: str | Secret | None = None,
    host: str | None = None,
    on_error: Callable[[Exception], object] | None = None,
    transport: Transport | None = None,
    http: HttpClient | None = None,
    logger: logging.Logger | None = None,
    on_frame: Callable[..., object] | None = None,
    history: HistorySource | None = None,
    telemetry: "Telemetry | None" = None,
    fallback: Fallback | None = None,
) -> ClientOpener[AsyncClient]:
    """Open a Supabase Realtime client in this event loop; use as `async with connect_async(url, key)`, or `await` it.

    Opening waits for the first connection. A permanent refusal raises at once; any other failure is retried until
    `open_timeout`. Afterwards the client reconnects without limit, except after a permanent refusal, which ends it.

    Args:
        url: the project's URL, or one that ends in /realtime/v1, …/websocket or /socket/websocket; http(s) or ws(s).
        key: the project's API key.
        token: a user's JWT, or a callable (plain or async) that returns one or None; called before each connect and
            join, and before expiry.
        protocol, heartbeat, timeout, open_timeout, backoff, rejoin_backoff, offline, queue_size, limits,
            idle_disconnect, max_sockets, token_on_heartbeat, max_retry_after, headers, params, ssl, proxy, host: see
            `ClientOptions`; durations in seconds.
        on_error: called on the event loop with every error that is not raised to a caller; if omitted, it is logged.
        transport: replaces the WebSocket transport. http: replaces the HTTP client. logger: the parent logger.
        on_frame: called with ("in" or "out", data, binary) for each frame, tokens redacted; must be quick.
        history: reads stored messages, such as `DatabaseHistory(url)`; not closed with the client.
        telemetry: OpenTelemetry: a `supawire.telemetry.Telemetry`.
        fallback: "longpoll" uses long polling where WebSockets are blocked.

    Raises: InvalidArgumentError, at once. Opening raises ConnectError, AuthError.
    """
    options = ClientOptions(
        token, protocol, heartbeat, timeout, open_timeout, backoff, rejoin_backoff, offline, queue_size, limits,
        idle_disconnect, max_sockets, token_on_heartbeat, max_retry_after, headers, params, ssl, proxy, host, on_error,
        transport, http, logger, on_frame, history, telemetry, fallback,
    )  # fmt: skip
    endpoint = options.endpoint(url, key)
    check_installed(options)

    async def start() -> AsyncClient:
        driver = Driver(endpoint, options)
        await driver.open()
        return AsyncClient(driver)

    return ClientOpener(start)


def check_installed(options: ClientOptions) -> None:
    """Raise `InvalidArgumentError` for options that need something that is not installed or lacks a method."""
    if options.http is not None and not callable(getattr(options.http, "request", None)):
        raise InvalidArgumentError(f"http must have the method of supawire.transport.HttpClient, not {options.http!r}")
    if options.transport is not None and not callable(getattr(options.transport, "open", None)):
        raise InvalidArgumentError(
            f"transport must have the methods of supawire.transport.Transport, not {options.transport!r}"
        )
    proxy = cast("Secret | None", options.proxy)
    if proxy is not None and proxy.reveal().startswith("socks") and importlib.util.find_spec("aiohttp_socks") is None:
        raise InvalidArgumentError("a SOCKS proxy needs aiohttp-socks", hint="pip install 'supawire[socks]'")
