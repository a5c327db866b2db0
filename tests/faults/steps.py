"""Helpers shared by the tests of this folder."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

from supawire import AsyncChannel, AsyncClient, ConnectionState, broadcast, connect_async
from tests.faults.misbehaver import Misbehaver

KEY: Final = "the-anon-key"


class Server(Protocol):
    """A misbehaving or a local server."""

    @property
    def url(self) -> str: ...


class Collector(list[Any]):
    """A handler or hook that collects its arguments; `until` waits for a number of them."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Event()

    def __call__(self, event: Any) -> Any:
        self.append(event)
        self._news.set()

    async def until(self, holds: Callable[["Collector"], bool] | int) -> Any:
        """Wait for this number of items, or until the condition holds; return the newest."""
        while not (len(self) >= holds if isinstance(holds, int) else holds(self)):
            self._news.clear()
            await self._news.wait()
        return self[-1]


def at_once(attempt: int) -> float:
    """A backoff that does not wait."""
    return 0.0


class Steps(Collector):
    """A backoff that collects the numbers of the attempts, and waits briefly so that other tasks can run."""

    def __call__(self, attempt: int) -> float:
        super().__call__(attempt)
        return 0.002


@asynccontextmanager
async def client_of(server: Server, key: str = KEY, **options: Any) -> AsyncGenerator[AsyncClient, None]:
    """Connect a client that does not wait between attempts."""
    options.setdefault("backoff", at_once)
    options.setdefault("rejoin_backoff", at_once)
    async with connect_async(server.url, key, **options) as client:
        yield client


async def joined_channel(client: AsyncClient, topic: str = "room", **options: Any) -> tuple[AsyncChannel, Collector]:
    """Return a joined channel, and a list that collects its broadcasts."""
    room, received = client.channel(topic, **options), Collector()
    room.on(broadcast(), received)
    await room.subscribe()
    return room, received


async def check_recovery(server: Misbehaver, room: AsyncChannel, received: Collector, joins: int) -> None:
    """Check that after a fault this many joins were sent, the channel is joined, and each event arrives once."""
    await server.got("phx_join", joins)
    await room.subscribe()
    before = len(received)
    for number in range(3):
        server.wire.broadcast(room.topic, "after", {"number": number})
    await received.until(before + 3)
    assert [message.payload for message in received[before:]] == [{"number": number} for number in range(3)]
    assert len(server.of("phx_join")) == joins


async def wait_for_state(client: AsyncClient, state: ConnectionState) -> None:
    """Wait until the connection is in this state."""
    moves = client.listen()
    while client.state is not state:
        await anext(moves)
    moves.close()


def ours() -> set[str]:
    """Return the names of the tasks and threads of clients."""
    tasks = {task.get_name() for task in asyncio.all_tasks()}
    threads = {thread.name for thread in threading.enumerate() if "local-server" not in thread.name}
    return {name for name in tasks | threads if name.startswith("supawire")}
