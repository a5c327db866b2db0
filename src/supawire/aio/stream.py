"""Iterators over events: `async for change in channel.listen(changes("users"))`."""

import weakref
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from supawire.aio.buffers import Buffer
from supawire.aio.registry import Registration

E_co = TypeVar("E_co", covariant=True)

Look = Callable[[], Awaitable[bool]]
"""Asked before an iterator waits: False when nothing will come any more; raises the reason when there is one."""


class AsyncStream(Generic[E_co]):
    """The events of some selectors, in order; `async for`, `anext()`, or a context manager that ends it.

    It is registered from the moment it is made, and survives reconnects and rejoins. It ends when the channel is left
    or the client closed, and raises the cause when they ended for another reason. Iterating a channel that was never
    subscribed subscribes it. When nothing refers to it any more it is unregistered. For one task at a time.
    """

    def __init__(self, registration: Registration, buffer: Buffer, look: Look) -> None:
        self._registration = registration
        self._buffer = buffer
        self._look = look
        self._closed = False
        finalizer = weakref.finalize(self, registration.cancel_soon)
        finalizer.atexit = False

    @property
    def dropped(self) -> int:
        """How many events had no room, or gave way to a newer one."""
        return self._buffer.dropped

    def close(self) -> None:
        """Receive nothing more; what is not read yet is dropped, and the iteration ends."""
        self._closed = True
        self._registration.cancel()
        self._buffer.wake()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E_co:
        try:
            return self._buffer.take()
        except IndexError:
            return cast("E_co", await self._next())

    async def _next(self) -> Any:
        buffer = self._buffer
        while not len(buffer):
            if buffer.error is not None:
                error, buffer.error = buffer.error, None
                raise error
            if self._closed or not await self._look():
                self.close()
                raise StopAsyncIteration
            if not len(buffer):
                await buffer.wait()
        return buffer.take()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
