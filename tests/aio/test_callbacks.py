"""How callbacks of the user are called."""

import asyncio
from functools import partial
from typing import Any

import pytest

from supawire.aio.callbacks import is_async
from tests.aio.peer import connected, settled

pytestmark = pytest.mark.anyio


class AsyncCallable:
    """An object that is called like a coroutine function."""

    async def __call__(self, event: Any) -> None:
        pass

    async def method(self, event: Any) -> None:
        pass


class PlainCallable:
    """An object that is called like a plain function."""

    def __call__(self, event: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (AsyncCallable(), True),
        (AsyncCallable().method, True),
        (partial(AsyncCallable(), 1), True),
        (AsyncCallable, False),
        (partial(AsyncCallable), False),
        (PlainCallable(), False),
        (print, False),
        (None, False),
    ],
)
def test_only_what_returns_a_coroutine_is_async(function: object, expected: bool):
    """`is_async` is False for a class, also if its instances have an async `__call__`: a call gives an instance."""
    assert is_async(function) is expected


async def test_a_new_request_for_a_token_cancels_the_running_one():
    """A provider that still works on an older request is cancelled when it is called again."""
    asked: list[int] = []
    cancelled: list[int] = []

    async def provider() -> str:
        number = len(asked)
        asked.append(number)
        if number == 1:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancelled.append(number)
                raise
        return "token"

    async with connected(token=provider) as (client, _):
        joining = asyncio.ensure_future(client.channel("room").subscribe())
        await settled()
        assert (asked, cancelled) == ([0, 1], [])
        client.reconnect()
        await joining
        assert cancelled == [1] and len(asked) > 2
