"""A coroutine that goes on in the moment in which what it waits for has come."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

A = TypeVar("A")
T = TypeVar("T")


class Stepper(Generic[T]):
    """Runs one coroutine as a task does, only without waiting for a turn of the event loop where it need not.

    What a task waits for wakes it up in the loop's next turn, and a turn costs more than all that is done with a
    message. Who brings what is waited for says so by `bring`, and it goes on at once.
    """

    __slots__ = ("_coroutine", "_ended", "_loop", "_waits")

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._loop = asyncio.get_running_loop()
        self._coroutine = coroutine
        self._waits: asyncio.Future[Any] | None = None
        self._ended: asyncio.Future[T] = self._loop.create_future()

    async def run(self) -> T:
        """Start it, and wait for its end; cancelled, it ends where it is."""
        self._step()
        try:
            return await self._ended
        finally:
            self._waits = None
            if not self._ended.cancel() and not self._ended.cancelled():
                self._ended.exception()  # asyncio shall not say that nobody looked at it
            self._coroutine.close()

    def bring(self, what: Callable[[A], object], argument: A) -> None:
        """Do something that may bring what it waits for, and then go on at once."""
        waits = self._waits
        if waits is None:
            what(argument)
            return
        waits.remove_done_callback(self._woken)
        try:
            what(argument)
        finally:
            if waits is self._waits:  # else it was ended by that
                (self._step if waits.done() else self._await)()

    def _await(self) -> None:
        if self._waits is not None:
            self._waits.add_done_callback(self._woken)

    def _woken(self, waits: "asyncio.Future[Any]") -> None:
        if waits is self._waits:  # else it has ended
            self._step()

    def _turn(self) -> None:
        if not self._ended.done():
            self._step()

    def _step(self) -> None:
        self._waits = None
        try:
            waits: asyncio.Future[Any] | None = self._coroutine.send(None)
        except StopIteration as end:
            if not self._ended.done():
                self._ended.set_result(end.value)
        except BaseException as error:  # as a task does: for who awaits it, and a wish to exit for the loop too
            if not self._ended.done():
                self._ended.set_exception(error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
        else:
            if waits is None:  # it gives others their turn
                self._loop.call_soon(self._turn)
            else:
                waits._asyncio_future_blocking = False  # as a task does that takes it over
                self._waits = waits
                self._await()
