"""Async iterators over events: `async for change in channel.listen(changes("users"))`."""

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar, cast

from supawire._validation import check_count, check_number, misused
from supawire.aio.buffers import Buffer
from supawire.aio.subscriptions import Registration
from supawire.core.batches import Batching
from supawire.errors import ClosedError, OperationTimeout

if TYPE_CHECKING:  # with a default, a bare generic type passes strict checkers; at run time Python 3.13 has them
    import typing_extensions

    E_co = typing_extensions.TypeVar("E_co", covariant=True, default=Any)
else:
    E_co = TypeVar("E_co", covariant=True)


class Source(Protocol):
    """The source of an iterator's events."""

    def can_continue(self) -> bool | None:
        """Return whether more events can arrive: None if the source must be started first, False if it has ended.

        Called before an iterator waits. Raises the error that ended the source, if any.
        """
        ...

    async def begin(self) -> None:
        """Start the source, and wait for it. It continues when this wait is cancelled or times out, until `end`."""
        ...

    def end(self) -> None:
        """Withdraw a pending `begin`; called when the iterator ends."""
        ...


class AsyncStream(Generic[E_co]):
    """The events of some selectors, in order; `async for`, `anext()`, or a context manager that ends it.

    It is registered as soon as it is made, and survives reconnects and rejoins. It ends when the channel is left
    or the client closed, and raises the cause if they ended for another reason. Reading the iterator of a channel
    that was never subscribed subscribes the channel; a timeout or a cancellation meanwhile ends neither the join nor
    the iterator. It is unregistered when it is garbage-collected. Use it from one task at a time.
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
        return f"<AsyncStream of {self._registration.description}, {state}>"

    @property
    def dropped(self) -> int:
        """How many events were dropped because the buffer was full, or replaced by a newer one."""
        return self._buffer.dropped

    def close(self) -> None:
        """Stop receiving; unread events are dropped, and the iteration ends."""
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
        """Return the next event; wait at most `timeout`.

        Args: timeout: seconds; None: no limit. 0: return only an event that is already there.
        Raises: OperationTimeout: no event arrived in time; the iterator continues. ClosedError: the iteration is over.
            Otherwise the same errors as iteration.
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

    def batches(self, *, max: int = 100, within: float = 0.05) -> AsyncIterator[list[E_co]]:
        """Return an iterator over lists of the next events, for consumers that pay per call, such as databases.

        A list has 1 to `max` events, in order, and is complete `within` seconds after its first event at the latest.
        It ends, raises and reports gaps as the stream does. Events that are not in a list yet stay in the stream: a
        consumer that stops, times out or is cancelled between two lists loses none, and may read on by any means.

        Args: max: the most events of a list, and never more than the stream's `buffer=`. within: seconds; 0: return
            the events that are there. A list is also complete when half the stream's buffer is full, or when
            the waiting events have too many bytes.
        Raises: InvalidArgumentError.
        """
        return AsyncBatches(self._wait_for_event, self._buffer, make_batching(self._buffer.limit, max, within))

    async def _next(self) -> Any:
        await self._wait_for_event()
        return self._buffer.take()

    async def _wait_for_event(self) -> None:
        """Wait until an event can be taken. Raises the error that ended the iteration, or StopAsyncIteration."""
        buffer = self._buffer
        while not len(buffer):
            if buffer.error is not None:
                error, buffer.error = buffer.error, None
                raise error
            more = None if self._closed else self._source.can_continue()
            if self._closed or more is False:
                self.close()
                raise StopAsyncIteration
            if more is None:
                await self._source.begin()
            else:
                buffer.wakeup_pending = False
                await buffer.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncBatches(Generic[E_co]):
    """Lists of the events of a stream; see `AsyncStream.batches`.

    Events are taken from the stream's buffer after the last wait, so a cancelled wait loses none.
    """

    def __init__(self, wait: Callable[[], Awaitable[None]], buffer: Buffer, batching: Batching) -> None:
        self._wait = wait
        self._buffer = buffer
        self._batching = batching

    if not TYPE_CHECKING:
        __iter__ = misused("the batches of an AsyncStream are iterated in async code", "Write `async for batch in …:`.")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[E_co]:
        buffer, batching, clock = self._buffer, self._batching, asyncio.get_running_loop().time
        while True:
            if not len(buffer):
                await self._wait()
                batching.started(clock())
            left = batching.seconds_left(len(buffer), clock())
            if left and not buffer.is_blocked and not buffer.wakeup_pending:
                await self._wait_for_more(left)
            batch = [buffer.take() for _ in range(min(batching.size, len(buffer)))]
            if batch:  # none if the stream was closed meanwhile
                batching.taken(len(buffer), clock())
                return batch

    async def _wait_for_more(self, seconds: float) -> None:
        bound = asyncio.timeout(seconds)
        try:
            async with bound:
                await self._buffer.wait(self._batching.enough)
        except TimeoutError:
            if not bound.expired():
                raise


def make_batching(limit: int, size: object, within: object) -> Batching:
    """Check the arguments of `batches` for a buffer of `limit` events. Raises `InvalidArgumentError`."""
    size, within = check_count("max", size), check_number("within", within, minimum=0, unit="seconds")
    return Batching(size, within, limit)


def ended() -> ClosedError:
    """Return the error that `get` raises when the iteration is over."""
    return ClosedError("the iteration has ended: the channel was left, or the client or the iterator was closed")


def late() -> OperationTimeout:
    """Return the error that `get` raises after its timeout."""
    return OperationTimeout("no event arrived in time", hint="The iterator continues; call get() again.")
