"""One interface to the async and the sync client, so that a scenario is written once.

An `AwaitableProxy` wraps a client, a channel or an iterator. Its methods are coroutines with the arguments of the real
ones; calls of the sync client run on a thread. Results that have methods of their own are wrapped again.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from supawire import (
    AsyncChannel,
    AsyncClient,
    AsyncHistory,
    AsyncMessageStream,
    AsyncMirror,
    AsyncOutbox,
    AsyncQueuedSent,
    AsyncStream,
    AsyncThrottledSender,
    Channel,
    Client,
    History,
    LocalServer,
    MessageStream,
    Mirror,
    Outbox,
    QueuedSent,
    Stream,
    Subscription,
    ThrottledSender,
    connect,
    connect_async,
)

ASYNC: Final = (
    AsyncClient, AsyncChannel, AsyncStream, AsyncMirror, AsyncOutbox, AsyncMessageStream, AsyncThrottledSender,
)  # fmt: skip
END: Final = "the iteration is over"
WRAPPED: Final = (
    AsyncClient, AsyncChannel, AsyncStream, AsyncQueuedSent, AsyncMirror, AsyncOutbox, AsyncMessageStream, AsyncHistory,
    Client, Channel, Stream, QueuedSent, Subscription, Mirror, Outbox, MessageStream, History,
    AsyncThrottledSender, ThrottledSender,
)  # fmt: skip


class AwaitableProxy:
    """An object of the async or the sync client, all methods of which are awaited."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        if not callable(value):
            return value

        async def call(*args: Any, **kwargs: Any) -> Any:
            given = [argument.inner if isinstance(argument, AwaitableProxy) else argument for argument in args]
            if isinstance(self.inner, (*ASYNC, AsyncQueuedSent)):
                result = value(*given, **kwargs)
                result = await result if inspect.isawaitable(result) else result
            else:
                result = await asyncio.to_thread(value, *given, **kwargs)
            return AwaitableProxy(result) if isinstance(result, WRAPPED) else result

        return call

    async def next(self) -> Any:
        """Return the next event of an iterator, or `END`."""
        if isinstance(self.inner, AsyncStream | AsyncMessageStream | AsyncHistory):
            return await anext(self.inner, END)
        return await asyncio.to_thread(next, self.inner, END)

    async def take(self, count: int) -> list[Any]:
        """Return this many events."""
        return [await self.next() for _ in range(count)]

    async def __aenter__(self) -> "AwaitableProxy":
        if isinstance(self.inner, ASYNC):
            await self.inner.__aenter__()
        else:
            await asyncio.to_thread(self.inner.__enter__)
        return self

    async def __aexit__(self, *error: Any) -> None:
        if isinstance(self.inner, ASYNC):
            await self.inner.__aexit__(*error)
        else:
            await asyncio.to_thread(self.inner.__exit__, *error)


@dataclass(frozen=True)
class ClientApi:
    """Opens clients of one kind."""

    name: Literal["async", "sync"]

    async def open(self, url: str, key: str, **options: Any) -> AwaitableProxy:
        """Return an open client."""
        if self.name == "async":
            return AwaitableProxy(await connect_async(url, key, **options))
        return AwaitableProxy(await asyncio.to_thread(connect, url, key, **options))

    @asynccontextmanager
    async def client(self, server: LocalServer, **options: Any) -> AsyncGenerator[AwaitableProxy, None]:
        """Yield an open client of this server that reconnects without delay."""
        quick: dict[str, Any] = {"backoff": lambda attempt: 0.0, "rejoin_backoff": lambda attempt: 0.0}
        async with await self.open(server.url, server.anon_key, **{**quick, **options}) as client:
            yield client


async def until(condition: Callable[[], Any]) -> None:
    """Wait until the condition holds in another thread, and fail after a time limit."""
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not happen")
