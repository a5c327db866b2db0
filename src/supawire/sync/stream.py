"""Iterators over events: `for change in channel.listen(changes("users"))`."""

import asyncio
import time
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from supawire._validation import check_number, misused
from supawire.aio.stream import Source, ended, late, make_batching
from supawire.aio.subscriptions import Registration
from supawire.aio.thread_buffer import ThreadBuffer
from supawire.sync.portal import Portal

if TYPE_CHECKING:  # with a default, a bare generic type passes strict checkers; at run time Python 3.13 has them
    import typing_extensions

    from supawire.core.batches import Batching

    E_co = typing_extensions.TypeVar("E_co", covariant=True, default=Any)
else:
    E_co = TypeVar("E_co", covariant=True)


class Stream(Generic[E_co]):
    """The events of some selectors, in order; `for`, `next()`, `get(timeout=…)`, or a context manager that ends it.

    It is registered as soon as it is made, and survives reconnects and rejoins. It ends when the channel is left
    or the client closed, and raises the cause if they ended for another reason. Reading the iterator of a channel
    that was never subscribed subscribes the channel; a timeout or Ctrl-C meanwhile ends neither the join nor
    the iterator. It is unregistered when it is garbage-collected. Use it from one thread at a time.
    """

    def __init__(self, portal: Portal, registration: Registration, buffer: ThreadBuffer, source: Source) -> None:
        self._portal = portal
        self._registration = registration
        self._buffer = buffer
        self._source = source
        self._closed = False
        finalizer = weakref.finalize(self, registration.cancel_soon, source.end)
        finalizer.atexit = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._buffer)} waiting"
        return f"<Stream of {self._registration.description}, {state}>"

    @property
    def dropped(self) -> int:
        """How many events were dropped because the buffer was full, or replaced by a newer one."""
        return self._buffer.dropped

    def get(self, *, timeout: float | None = None) -> E_co:
        """Return the next event; wait at most `timeout`.

        Args: timeout: seconds; None: no limit. 0: return only an event that is already there.
        Raises: OperationTimeout: no event arrived in time; the iterator continues. ClosedError: the iteration is over.
            Otherwise the same errors as iteration.
        """
        limit = None if timeout is None else check_number("timeout", timeout, minimum=0, unit="seconds")
        try:
            return cast("E_co", self._take(None if limit is None else time.monotonic() + limit))
        except StopIteration:
            raise ended() from None

    def close(self) -> None:
        """Stop receiving; unread events are dropped, and the iteration ends."""
        self._portal.run(self._close)

    if not TYPE_CHECKING:
        __aenter__ = __aexit__ = misused("a Stream is used in code that blocks", "Write `with stream:`.")

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> E_co:
        if self._portal.inherited:
            self._portal.check()
        try:
            return cast("E_co", self._buffer.take())
        except IndexError:
            return cast("E_co", self._take(None))

    def batches(self, *, max: int = 100, within: float = 0.05) -> Iterator[list[E_co]]:
        """Return an iterator over lists of the next events, for consumers that pay per call, such as databases.

        A list has 1 to `max` events, in order, and is complete `within` seconds after its first event at the latest.
        It ends, raises and reports gaps as the stream does. Events that are not in a list yet stay in the stream: a
        consumer that stops, times out or is cancelled between two lists loses none, and may read on by any means.

        Args: max: the most events of a list, and never more than the stream's `buffer=`. within: seconds; 0: return
            the events that are there. A list is also complete when half the stream's buffer is full, or when
            the waiting events have too many bytes.
        Raises: InvalidArgumentError.
        """
        return Batches(self._wait_for_event, self._buffer, make_batching(self._buffer.limit, max, within))

    def _take(self, deadline: float | None) -> Any:
        self._portal.check()
        while True:
            try:
                return self._buffer.take()
            except IndexError:
                self._wait_for_event(deadline)

    def _wait_for_event(self, deadline: float | None = None) -> None:
        """Wait until an event can be taken. Raises the error that ended the iteration, or StopIteration."""
        buffer = self._buffer
        self._portal.check()
        while not len(buffer):
            if (error := buffer.take_error()) is not None:
                raise error
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if buffer.wakeup_pending:
                self._look(left)
            elif not buffer.wait(left):
                raise late()

    def _look(self, left: float | None) -> None:
        """Start the source on the first read, or end or raise when the source has ended."""
        if self._closed:
            raise StopIteration
        self._buffer.wakeup_pending = False
        try:
            more = self._portal.run(self._source.can_continue)
            if more is None:
                self._portal.call(_begin, self._source, left)
        except BaseException:
            self._buffer.wakeup_pending = True
            raise
        if more is not True:
            self._buffer.wakeup_pending = True
        if more is False and not len(self._buffer):
            self._portal.run(self._close)
            raise StopIteration

    def _close(self) -> None:
        self._closed = True
        self._registration.cancel()
        self._source.end()
        self._buffer.wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._portal.inherited:
            self.close()


class Batches(Generic[E_co]):
    """Lists of the events of a stream; see `Stream.batches`.

    Events are taken from the stream's buffer after the last wait, so an interrupted wait loses none.
    """

    def __init__(self, wait: Callable[[], None], buffer: ThreadBuffer, batching: "Batching") -> None:
        self._wait = wait
        self._buffer = buffer
        self._batching = batching

    if not TYPE_CHECKING:
        __aiter__ = misused("the batches of a Stream are iterated in code that blocks", "Write `for batch in …:`.")

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[E_co]:
        buffer, batching, clock = self._buffer, self._batching, time.monotonic
        while True:
            if not len(buffer):
                self._wait()
                batching.started(clock())
            left = batching.seconds_left(len(buffer), clock())
            if left:
                buffer.wait(left, batching.enough)
            batch: list[E_co] = []
            try:
                while len(batch) < batching.size:
                    batch.append(buffer.take())
            except IndexError:  # the stream was closed meanwhile, or has fewer events
                pass
            if batch:
                batching.taken(len(buffer), clock())
                return batch


async def _begin(source: Source, seconds: float | None) -> None:
    bound = asyncio.timeout(seconds)
    try:
        async with bound:
            await source.begin()
    except TimeoutError:
        if not bound.expired():
            raise
        raise late() from None
