"""Errors that end a channel reach whoever waits, and `on_error` only when nobody else gets them."""

import asyncio
from typing import Any

import pytest

from supawire import broadcast
from supawire.errors import JoinError
from supawire.events import ChannelState
from tests.aio.peer import Server, connected, until

pytestmark = pytest.mark.anyio

REASON = "Unauthorized: You do not have permissions to read from this Channel topic: room"


async def refuse_later(client: Any, server: Server, room: Any) -> None:
    """Let the server refuse the channel for good when it joins again."""
    server.answers["phx_join"] = server.refuse(REASON)
    client.reconnect()
    await until(lambda: room.state is ChannelState.FAILED)


async def async_handler(event: Any) -> None: ...


@pytest.mark.parametrize("kind", ["nothing", "handler", "another topic's iterator"])
async def test_an_end_that_nobody_else_gets_goes_to_on_error(kind: str):
    """Handlers and iterators of other channels do not raise why a channel ended: `on_error` gets it, once."""
    errors: list[Exception] = []
    async with connected(on_error=errors.append) as (client, server):
        room = client.channel("room", private=True)
        kept = client.channel("other").listen(broadcast()) if kind.startswith("another") else None
        if kind == "handler":
            room.on(broadcast(), async_handler)
        await room.subscribe()
        await refuse_later(client, server, room)
        assert [type(error).__name__ for error in errors] == ["JoinDeniedError"]
        assert kept is None or kept.dropped == 0


async def test_an_end_that_an_iterator_raises_is_not_reported():
    """The channel's own iterator raises the reason, so `on_error` does not get it."""
    errors: list[Exception] = []
    async with connected(on_error=errors.append) as (client, server):
        room = client.channel("room", private=True)
        heard = room.listen(broadcast())
        await room.subscribe()
        await refuse_later(client, server, room)
        with pytest.raises(JoinError, match="permissions"):
            await anext(heard)
        assert errors == []


async def test_an_end_that_a_caller_gets_is_not_reported():
    """A `subscribe` that waits raises the reason, so `on_error` does not get it."""
    errors: list[Exception] = []
    async with connected(on_error=errors.append) as (client, server):
        server.answers["phx_join"] = server.refuse(REASON)
        with pytest.raises(JoinError, match="permissions"):
            await client.channel("room", private=True).subscribe()
        await asyncio.sleep(0)
        assert errors == []
