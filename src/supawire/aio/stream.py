"""Iterators over events: `async for change in channel.listen(changes("users"))`."""

import asyncio
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar, cast

from supawire._validation import misused
from supawire.aio.buffers import Buffer
from supawire.aio.subscriptions import Registration
from supawire.errors import ClosedError, OperationTimeout, again
from supawire.events import ConnectionState
from supawire.options import check_number

if TYPE_CHECKING:
    from supawire.aio.driver import Driver

if TYPE_CHECKING:  # with a default, a bare generic type passes strict checkers; at run time Python 3.13 has them
    import typing_extensions

    E_co = typing_extensions.TypeVar("E_co", covariant=True, default=Any)
else:
    E_co = TypeVar("E_co", covariant=True)


class Source(Protocol):
    """Where the events of an iterator come from."""

    def may_come(self) -> bool | None:
        """Asked before an iterator waits: None when nobody has begun it; False when no more events come.

        Raises the reason when it ended for one.
        """
        ...

    async def begin(self) -> None:
        """Begin, and wait for it. It goes on when this wait is cancelled or times out, until `end`."""
        ...

    def end(self) -> None:
        """Withdraw what `begin` asked for, if it has not been reached yet; called when the iterator ends."""
        ...


class AsyncStream(Generic[E_co]):
    """The events of some selectors, in order; `async for`, `anext()`, or a context manager that ends it.

    It is registered from the moment it is made, and survives reconnects and rejoins. It ends when the channel is left
    or the client closed, and raises the cause when they ended for another reason. Reading the iterator of a channel
    that was never subscribed subscribes the channel; a timeout or a cancellation meanwhile ends neither that nor the
    iterator. When nothing refers to it any more it is unregistered. For one task at a time.
    """

    def __init__(self, registration: Registration, buffer: Buffer, source: Source) -> None:
        self._registration = registration
        self._buffer = buffer
        self._source = source
        self._closed = False
        finalizer = weakref.finalize(self, registration.cancel_soon, source.end)
        finalizer.atexit = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._buffer)} waiting"
        return f"<AsyncStream of {self._registration.wanted}, {state}>"

    @property
    def dropped(self) -> int:
        """How many events had no room, or gave way to a newer one."""
        return self._buffer.dropped

    def close(self) -> None:
        """Receive nothing more; what is not read yet is dropped, and the iteration ends."""
        self._closed = True
        self._registration.cancel()
        self._source.end()
        self._buffer.wake()

    if not TYPE_CHECKING:
        __iter__ = misused("an AsyncStream is iterated in async code", "Write `async for event in stream:`.")
        __enter__ = __exit__ = misused("an AsyncStream is used in async code", "Write `async with stream:`.")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E_co:
        try:
            return self._buffer.take()
        except IndexError:
            return cast("E_co", await self._next())

    async def get(self, *, timeout: float | None = None) -> E_co:
        """The next event, waited for no longer than the timeout.

        Args: timeout: seconds; None: no limit. 0 takes what is there.
        Raises: OperationTimeout: none came in time; the iterator goes on. ClosedError: the iteration is over. Else as
            iterating does.
        """
        limit = None if timeout is None else check_number("timeout", timeout, minimum=0, unit="seconds")
        try:
            return self._buffer.take()
        except IndexError:
            pass
        bound = asyncio.timeout(limit)
        try:
            async with bound:
                return cast("E_co", await self._next())
        except StopAsyncIteration:
            raise ended() from None
        except TimeoutError:
            if not bound.expired():
                raise
            raise late() from None

    async def _next(self) -> Any:
        buffer = self._buffer
        while not len(buffer):
            if buffer.error is not None:
                error, buffer.error = buffer.error, None
                raise error
            goes_on = None if self._closed else self._source.may_come()
            if self._closed or goes_on is False:
                self.close()
                raise StopAsyncIteration
            if goes_on is None:
                await self._source.begin()
            else:
                await buffer.wait()
        return buffer.take()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def ended() -> ClosedError:
    """What `get` raises when the iteration is over."""
    return ClosedError("the iteration is over: the channel was left, or the client or the iterator closed")


def late() -> OperationTimeout:
    """What `get` raises when the time is over."""
    return OperationTimeout("no event came in time", hint="The iterator goes on; ask again.")


class Moves:
    """Where the iterators of the client itself get their events from; a `Source`."""

    def __init__(self, driver: "Driver") -> None:
        self._driver = driver
        self._keeps = driver.registry.client()

    def may_come(self) -> bool | None:
        """Until the client has ended."""
        self._driver.check_loop()
        if self._driver.error is not None:
            raise again(self._driver.error)
        return self._driver.session.state is not ConnectionState.CLOSED

    async def begin(self) -> None:
        """It has begun with the client."""

    def end(self) -> None:
        """The client goes on without its iterators."""
