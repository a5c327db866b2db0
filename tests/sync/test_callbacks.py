"""Exceptions, return values and calls of the user's code in the sync client."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from supawire import Client, ConnectionState, LocalServer, broadcast, connect
from supawire.errors import HandlerError
from tests.aio.test_callbacks import EXITS, KINDS, causes
from tests.sync.conftest import ours
from tests.sync.test_handlers import Notes

EVERY = [*KINDS, *EXITS]


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("place", ["plain", "async"])
def test_every_exception_of_a_handler_is_reported(server: LocalServer, kind: type[BaseException], place: str):
    """An exception of any kind, SystemExit included, reaches `on_error`, and the handler is called again."""
    errors, received = Notes(), list[Any]()

    def plain(event: Any) -> None:
        received.append(event.payload)
        raise kind

    async def handler(event: Any) -> None:
        plain(event)

    with connect(server.url, server.anon_key, on_error=errors) as client:
        room = client.channel("room", echo=True)
        room.on(broadcast(), handler if place == "async" else plain)
        room.subscribe()
        for number in range(2):
            room.broadcast("e", number)
        assert causes(errors.wait(2)) == [kind, kind] and isinstance(errors.all[0], HandlerError)
        assert received == [0, 1] and client.state is ConnectionState.OPEN


@pytest.mark.parametrize("kind", EVERY)
def test_every_exception_of_on_error_is_logged(
    server: LocalServer, kind: type[BaseException], caplog: pytest.LogCaptureFixture
):
    """When `on_error` raises, even SystemExit, the thread of handlers continues, and ends with the client."""
    reported = Notes()

    def on_error(error: Exception) -> None:
        reported(error)
        raise kind

    def handler(_: object) -> None:
        raise KeyError

    with connect(server.url, server.anon_key, on_error=on_error) as client:
        room = client.channel("room", echo=True)
        room.on(broadcast(), handler)
        room.subscribe()
        for number in range(2):
            room.broadcast("e", number)
        reported.wait(2)
        assert "supawire-dispatch" in ours()
    assert caplog.text.count("on_error raised for HandlerError") == 2
    assert "left alone" not in caplog.text
    assert ours() == []


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("place", ["on_frame", "async provider", "plain provider", "backoff"])
def test_every_exception_of_a_hook_is_reported(server: LocalServer, kind: type[BaseException], place: str):
    """An exception of user code on the I/O thread is reported, and ends neither that thread nor the client."""
    errors, raised = Notes(), Notes()

    def raises(*_: Any) -> Any:
        raised(None)
        raise kind

    async def raises_later() -> Any:
        raises()

    options: dict[str, Any] = {
        "on_frame": {"on_frame": raises},
        "async provider": {"token": raises_later},
        "plain provider": {"token": raises},
        "backoff": {"backoff": raises},
    }[place]
    with connect(server.url, server.anon_key, on_error=errors, **options) as client:
        if place == "backoff":
            server.drop_connections()
        else:
            client.channel("room").unsubscribe()
            assert client.ping() > 0
        raised.wait(1)
        if "provider" not in place:
            assert causes(errors.wait(1)[:1]) == [kind]
        assert client.state is not ConnectionState.CLOSED


def test_a_plain_handler_may_return_an_awaitable(server: LocalServer):
    """The awaitable that `lambda m: self.handle(m)` returns is awaited, one event after another, before and after
    errors."""
    errors, received, running = Notes(), Notes(), list[Any]()

    async def handle(event: Any) -> None:
        running.append(event)
        assert len(running) == 1, "one after another"
        await asyncio.sleep(0)
        running.remove(event)
        received(event.payload)
        if event.payload == 1:
            raise KeyError

    with connect(server.url, server.anon_key, on_error=errors) as client:
        room = client.channel("room", echo=True)
        plain = Notes()
        room.on(broadcast(), lambda event: handle(event))
        room.on(broadcast(), plain)
        room.subscribe()
        for number in range(5):
            room.broadcast("e", number)
        assert received.wait(5) == [0, 1, 2, 3, 4]
        assert len(plain.wait(5)) == 5
        assert causes(errors.wait(1)) == [KeyError] and "lambda" in str(errors.all[0])


async def in_thread(client: Client) -> None:
    await asyncio.to_thread(client.close)


async def by_gather(client: Client) -> None:
    await asyncio.gather(in_thread(client), asyncio.sleep(0))


async def by_task(client: Client) -> None:
    await asyncio.create_task(in_thread(client))


async def by_wait_for(client: Client) -> None:
    await asyncio.wait_for(in_thread(client), 10)


@pytest.mark.parametrize("way", [in_thread, by_gather, by_task, by_wait_for])
def test_an_async_handler_may_close_the_client_in_any_way(server: LocalServer, way: Callable[[Client], Any]):
    """An async handler that calls `close()`, in any way, runs to its end, and `close()` does not wait for it."""
    after = Notes()
    with connect(server.url, server.anon_key) as client:
        room = client.channel("room", echo=True)

        async def handler(_: object) -> None:
            await way(client)
            after(client.state)

        room.on(broadcast(), handler)
        room.subscribe()
        room.broadcast("e", 1)
        assert after.wait(1) == [ConnectionState.CLOSED]
    for thread in threading.enumerate():
        if thread.name == "supawire-dispatch":
            thread.join(10)
    assert ours() == []
