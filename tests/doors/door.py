"""One way to say a scenario, whichever door it goes through: everything is awaited, and a blocking call has a thread.

A `Through` stands for a client, a channel or an iterator of one door. Its methods are coroutines with the arguments of
the real ones, and what they return is wrapped again when it has methods of its own.
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
    AsyncMirror,
    AsyncQueuedSent,
    AsyncStream,
    Channel,
    Client,
    LocalServer,
    Mirror,
    QueuedSent,
    Stream,
    Subscription,
    connect,
    connect_async,
)

ASYNC: Final = (AsyncClient, AsyncChannel, AsyncStream, AsyncMirror)
END: Final = "the iteration is over"
WRAPPED: Final = (
    AsyncClient, AsyncChannel, AsyncStream, AsyncQueuedSent, AsyncMirror,
    Client, Channel, Stream, QueuedSent, Subscription, Mirror,
)  # fmt: skip


class Through:
    """An object behind one of the doors."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        if not callable(value):
            return value

        async def call(*args: Any, **kwargs: Any) -> Any:
            given = [argument.inner if isinstance(argument, Through) else argument for argument in args]
            if isinstance(self.inner, AsyncClient | AsyncChannel | AsyncStream | AsyncQueuedSent | AsyncMirror):
                result = value(*given, **kwargs)
                result = await result if inspect.isawaitable(result) else result
            else:
                result = await asyncio.to_thread(value, *given, **kwargs)
            return Through(result) if isinstance(result, WRAPPED) else result

        return call

    async def next(self) -> Any:
        """The next event of an iterator, or `END`."""
        if isinstance(self.inner, AsyncStream):
            return await anext(self.inner, END)
        return await asyncio.to_thread(next, self.inner, END)

    async def take(self, count: int) -> list[Any]:
        """So many events."""
        return [await self.next() for _ in range(count)]

    async def __aenter__(self) -> "Through":
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
class Door:
    """One of the two."""

    name: Literal["async", "blocking"]

    async def open(self, url: str, key: str, **options: Any) -> Through:
        """An open client."""
        if self.name == "async":
            return Through(await connect_async(url, key, **options))
        return Through(await asyncio.to_thread(connect, url, key, **options))

    @asynccontextmanager
    async def client(self, server: LocalServer, **options: Any) -> AsyncGenerator[Through, None]:
        """An open client of this server, that does not wait before it tries again."""
        quick: dict[str, Any] = {"backoff": lambda attempt: 0.0, "rejoin_backoff": lambda attempt: 0.0}
        async with await self.open(server.url, server.anon_key, **{**quick, **options}) as client:
            yield client


async def until(condition: Callable[[], Any]) -> None:
    """Wait for what another thread does; a test that waits too long fails."""
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not happen")
