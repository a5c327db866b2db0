"""A coroutine that is stepped by who brings what it waits for."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from supawire.transport._connection import Stepper

pytestmark = pytest.mark.anyio


class Reader:
    """Reads numbers out of futures, as the reader of a socket does out of its queue."""

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

    def bring(self, number: int) -> None:
        self.next.set_result(number)


async def started(reader: Reader) -> tuple["Stepper[list[int]]", "asyncio.Task[list[int]]"]:
    stepper = Stepper(reader.run())
    task = asyncio.ensure_future(stepper.run())
    await asyncio.sleep(0)
    return stepper, task


async def test_it_goes_on_in_the_moment_in_which_something_is_brought() -> None:
    """Not a turn of the event loop later, and once for each."""
    reader = Reader()
    stepper, task = await started(reader)
    stepper.bring(reader.bring, 1)
    stepper.bring(reader.bring, 2)
    assert reader.read == [1, 2]
    stepper.bring(reader.bring, -1)
    assert await task == [1, 2] and reader.closed


async def test_what_comes_from_elsewhere_wakes_it_up_too() -> None:
    """As it does with a task: in a later turn."""
    reader = Reader()
    stepper, task = await started(reader)
    reader.bring(1)
    assert reader.read == []
    await asyncio.sleep(0)
    assert reader.read == [1]
    stepper.bring(lambda _: None, 0)  # brings nothing: it waits on
    reader.bring(2)
    await asyncio.sleep(0)
    assert reader.read == [1, 2]
    reader.bring(-1)
    assert await task == [1, 2]


async def test_bringing_that_fails_loses_nothing() -> None:
    """What was brought before the error is taken, and it can be woken up afterwards."""
    reader = Reader()
    stepper, task = await started(reader)

    def half(number: int) -> None:
        reader.bring(number)
        raise ZeroDivisionError

    def not_at_all(number: int) -> None:
        raise ZeroDivisionError(number)

    with pytest.raises(ZeroDivisionError):
        stepper.bring(half, 1)
    with pytest.raises(ZeroDivisionError):
        stepper.bring(not_at_all, 2)
    assert reader.read == [1]
    reader.bring(-1)
    assert await task == [1]


async def test_it_may_give_others_their_turn() -> None:
    """`sleep(0)` is one turn, in which what is brought waits."""
    order: list[str] = []

    async def polite() -> None:
        order.append("first")
        await asyncio.sleep(0)
        order.append("second")

    stepper = Stepper(polite())
    task = asyncio.Task(stepper.run())  # not an eager one, which would be ahead of the other
    asyncio.get_running_loop().call_soon(order.append, "other")
    await asyncio.sleep(0)
    stepper.bring(order.append, "brought")
    await task
    assert order == ["first", "other", "brought", "second"]


async def test_its_error_is_for_who_awaits_it() -> None:
    """And not for who brought what made it fail."""

    async def fails(waits: "asyncio.Future[int]") -> None:
        await waits
        raise ZeroDivisionError

    waits: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stepper = Stepper(fails(waits))
    task = asyncio.ensure_future(stepper.run())
    await asyncio.sleep(0)
    stepper.bring(waits.set_result, 1)
    with pytest.raises(ZeroDivisionError):
        await task


async def test_a_wish_to_exit_goes_through() -> None:
    """Ctrl-C in a handler ends the event loop, as it does from a task."""

    async def exits(waits: "asyncio.Future[int]") -> None:
        await waits
        raise SystemExit

    waits: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stepper = Stepper(exits(waits))
    task = asyncio.ensure_future(_caught(stepper))
    await asyncio.sleep(0)
    with pytest.raises(SystemExit):
        stepper.bring(waits.set_result, 1)
    assert isinstance(await task, SystemExit)


async def _caught(stepper: "Stepper[Any]") -> BaseException | None:
    try:
        await stepper.run()
    except SystemExit as error:
        return error
    return None


async def test_cancelled_it_ends_where_it_is() -> None:
    """Its `finally` has run, and nothing wakes it any more."""
    reader = Reader()
    stepper, task = await started(reader)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reader.closed and reader.read == []
    stepper.bring(lambda _: None, 0)
    await asyncio.sleep(0)
    assert reader.read == []
