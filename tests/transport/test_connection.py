"""The end of one WebSocket: whoever waits for frames to be written learns that they never will be."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from supawire.transport._connection import WebSocketConnection

pytestmark = pytest.mark.anyio


class FullSocket:
    """A WebSocket whose network takes nothing, and that ends when it is told to."""

    def __init__(self) -> None:
        self.ends = asyncio.get_running_loop().create_future()
        self.queued = ()

    def bring_to(self, reading: Any) -> None: ...

    async def read(self) -> Any:
        return await self.ends

    def send_frame(self, data: bytes, kind: Any) -> Coroutine[Any, Any, None]:
        async def send() -> None:
            await asyncio.get_running_loop().create_future()

        return send()

    def abort(self) -> None: ...

    async def close(self) -> None: ...


class Nobody:
    max_batch = 1

    def frame(self, data: bytes, binary: bool, /) -> None: ...

    def batch_done(self) -> None: ...


async def test_a_flush_ends_with_the_connection():
    """A flush that waits for a frame behind a full socket returns False when the connection is over."""
    from aiohttp import EofStream

    socket: Any = FullSocket()
    connection = WebSocketConnection(socket, socket)
    running = asyncio.ensure_future(connection.run(Nobody()))
    connection.write(b"a", False)
    connection.write(b"b", False)
    flushing = asyncio.ensure_future(connection.flush(2))
    await asyncio.sleep(0)
    assert not flushing.done()
    socket.ends.set_exception(EofStream())
    assert await asyncio.wait_for(flushing, 30) is False
    assert (await running).written == 1
