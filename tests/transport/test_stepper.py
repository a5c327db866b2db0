"""Tests of the stepper that runs the reader of a WebSocket."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from supawire.transport._connection import Stepper

pytestmark = pytest.mark.anyio


class Reader:
    """Reads numbers from futures, as the reader of a socket reads from its queue."""

    def __init__(self) -> None:
        self.read: list[int] = []
        self.closed = False
        self.next: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def run(self) -> list[int]:
        try:
            while (number := await self._take()) >= 0:
                self.read.append(number)
        finally:
            self.closed = True
        return self.read

    def _take(self) -> Awaitable[int]:
        self.next = asyncio.get_running_loop().create_future()
        return self.next

    def deliver(self, number: int) -> None:
        self.next.set_result(number)


async def started(reader: Reader) -> tuple["Stepper[list[int]]", "asyncio.Task[list[int]]"]:
    stepper = Stepper(reader.run())
    task = asyncio.ensure_future(stepper.run())
    await asyncio.sleep(0)
    return stepper, task


async def test_the_coroutine_is_resumed_at_once() -> None:
    """Each call resumes the coroutine once, during the call instead of in the next iteration of the event loop."""
    reader = Reader()
    stepper, task = await started(reader)
    stepper.call_and_resume(reader.deliver, 1)
    stepper.call_and_resume(reader.deliver, 2)
    assert reader.read == [1, 2]
    stepper.call_and_resume(reader.deliver, -1)
    assert await task == [1, 2] and reader.closed


async def test_a_future_completed_elsewhere_resumes_the_coroutine() -> None:
    """The completion of a future resumes the coroutine in a later iteration, as in a task."""
    reader = Reader()
    stepper, task = await started(reader)
    reader.deliver(1)
    assert reader.read == []
    await asyncio.sleep(0)
    assert reader.read == [1]
    stepper.call_and_resume(lambda _: None, 0)  # the call completes no future, so the coroutine continues to wait
    reader.deliver(2)
    await asyncio.sleep(0)
    assert reader.read == [1, 2]
    reader.deliver(-1)
    assert await task == [1, 2]


async def test_an_error_of_the_call_loses_nothing() -> None:
    """A value delivered before the error is read, and the coroutine can be resumed afterwards."""
    reader = Reader()
    stepper, task = await started(reader)

    def half(number: int) -> None:
        reader.deliver(number)
        raise ZeroDivisionError

    def not_at_all(number: int) -> None:
        raise ZeroDivisionError(number)

    with pytest.raises(ZeroDivisionError):
        stepper.call_and_resume(half, 1)
    with pytest.raises(ZeroDivisionError):
        stepper.call_and_resume(not_at_all, 2)
    assert reader.read == [1]
    reader.deliver(-1)
    assert await task == [1]


async def test_sleep_0_lets_other_callbacks_run() -> None:
    """`sleep(0)` takes one iteration, in which calls do not resume the coroutine."""
    order: list[str] = []

    async def yielding() -> None:
        order.append("first")
        await asyncio.sleep(0)
        order.append("second")

    stepper = Stepper(yielding())
    task = asyncio.Task(stepper.run())  # not an eager task, which would run before the other callback
    asyncio.get_running_loop().call_soon(order.append, "other")
    await asyncio.sleep(0)
    stepper.call_and_resume(order.append, "called")
    await task
    assert order == ["first", "other", "called", "second"]


async def test_an_error_of_the_coroutine_is_raised_to_the_awaiting_task() -> None:
    """An error of the coroutine is not raised to the caller that resumed it."""

    async def fails(waits: "asyncio.Future[int]") -> None:
        await waits
        raise ZeroDivisionError

    waits: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stepper = Stepper(fails(waits))
    task = asyncio.ensure_future(stepper.run())
    await asyncio.sleep(0)
    stepper.call_and_resume(waits.set_result, 1)
    with pytest.raises(ZeroDivisionError):
        await task


async def test_system_exit_is_raised_in_the_event_loop() -> None:
    """Ctrl-C in a handler ends the event loop, as it does in a task."""

    async def exits(waits: "asyncio.Future[int]") -> None:
        await waits
        raise SystemExit

    waits: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stepper = Stepper(exits(waits))
    task = asyncio.ensure_future(_caught(stepper))
    await asyncio.sleep(0)
    with pytest.raises(SystemExit):
        stepper.call_and_resume(waits.set_result, 1)
    assert isinstance(await task, SystemExit)


async def _caught(stepper: "Stepper[Any]") -> BaseException | None:
    try:
        await stepper.run()
    except SystemExit as error:
        return error
    return None


async def test_cancelling_ends_the_coroutine() -> None:
    """Cancelling runs the `finally` of the coroutine, and later calls do not resume it."""
    reader = Reader()
    stepper, task = await started(reader)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reader.closed and reader.read == []
    stepper.call_and_resume(lambda _: None, 0)
    await asyncio.sleep(0)
    assert reader.read == []
