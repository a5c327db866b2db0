"""Where the client asks the user for a token."""

import asyncio

import pytest

from tests.aio.peer import connected, settled

pytestmark = pytest.mark.anyio


async def test_a_question_that_is_asked_anew_cancels_the_open_one():
    """A provider that still works on an older question is cancelled when it is asked again."""
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
