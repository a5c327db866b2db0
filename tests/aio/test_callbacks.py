"""How callbacks of the user are called, and how exceptions that they raise are handled."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from supawire import AsyncClient, ConnectionState, broadcast, connect_async, status
from supawire.aio.callbacks import is_async
from supawire.errors import AuthError, HandlerError, InvalidArgumentError, OperationTimeout
from tests.aio.peer import KEY, URL, Server, connected, settled, until

pytestmark = pytest.mark.anyio

KINDS: list[type[BaseException]] = [
    ZeroDivisionError, StopIteration, StopAsyncIteration, asyncio.CancelledError, GeneratorExit, pytest.fail.Exception,
    type("Odd", (BaseException,), {}),
]  # fmt: skip
EXITS: list[type[BaseException]] = [SystemExit, KeyboardInterrupt]


def causes(errors: list[Exception]) -> list[type[BaseException]]:
    """Return the type of each error and the type of its cause."""
    found: list[type[BaseException]] = []
    for error in errors:
        cause = error.__cause__
        assert cause is not None
        found.append(type(cause.__cause__ or cause) if isinstance(cause, RuntimeError) else type(cause))
    return found


# ------------------------------------------------------------------------------------------- exceptions of callbacks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["plain", "async", "thread"])
async def test_every_exception_of_a_handler_is_reported(kind: type[BaseException], place: str):
    """An exception of any kind in a handler reaches `on_error` with its cause, and the handler is called again."""
    errors, received = list[Exception](), list[Any]()

    def plain(event: Any) -> None:
        received.append(event.payload)
        raise kind

    async def handler(event: Any) -> None:
        plain(event)

    async with connected(on_error=errors.append) as (client, server):
        room = client.channel("room")
        room.on(broadcast(), handler if place == "async" else plain, thread=place == "thread")
        await room.subscribe()
        for number in range(2):
            server.broadcast("room", "e", number)
        await until(lambda: len(errors) == 2)
        assert received == [0, 1] and client.state is ConnectionState.OPEN
        assert causes(errors) == [kind, kind] and all(isinstance(error, HandlerError) for error in errors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["async provider", "plain provider", "on_frame", "backoff", "fetch"])
async def test_every_exception_of_other_user_code_is_reported(kind: type[BaseException], place: str):
    """An exception of any kind raised by a token provider, `on_frame`, `backoff` or `fetch` is reported, and the client
    continues."""
    errors, raised = list[Exception](), list[object]()

    def raises(*_: Any) -> Any:
        raised.append(None)
        raise kind

    async def raises_later() -> Any:
        raises()

    async def rows() -> Any:
        raises()

    options: dict[str, Any] = {
        "async provider": {"token": raises_later, "open_timeout": None},
        "plain provider": {"token": raises, "open_timeout": None},
        "on_frame": {"on_frame": raises},
        "backoff": {"backoff": raises},
        "fetch": {},
    }[place]
    if "token" in options:
        async with connected(on_error=errors.append, **options) as (client, server):
            with pytest.raises(OperationTimeout, match="raised") as caught:
                await client.channel("room").subscribe(timeout=0.1)
            assert isinstance(caught.value.__cause__, AuthError)
            assert raised and causes([caught.value.__cause__]) == [kind]
            assert client.state is not ConnectionState.CLOSED
        return
    async with connected(on_error=errors.append, **options) as (client, server):
        if place == "backoff":
            assert server.peer is not None
            server.peer.drop()
        if place == "fetch":
            client.mirror("t", key="id", fetch=rows).listen()
        else:
            await client.channel("room").subscribe()
        await until(lambda: bool(errors))
        assert raised and causes(errors[:1]) == [kind]
        assert client.state is not ConnectionState.CLOSED


@pytest.mark.parametrize("kind", KINDS)
async def test_every_exception_of_on_error_is_logged(kind: type[BaseException], caplog: pytest.LogCaptureFixture):
    """When `on_error` raises, the error that it was called with is logged, and it is called again."""
    reported = list[Exception]()

    def on_error(error: Exception) -> None:
        reported.append(error)
        raise kind

    def handler(_: object) -> None:
        raise KeyError

    async with connected(on_error=on_error) as (client, server):
        room = client.channel("room")
        room.on(broadcast(), handler)
        await room.subscribe()
        for number in range(2):
            server.broadcast("room", "e", number)
        await until(lambda: len(reported) == 2)
        assert client.state is ConnectionState.OPEN
    assert caplog.text.count("on_error raised for HandlerError") == 2


@pytest.mark.parametrize("kind", EXITS)
@pytest.mark.parametrize("place", ["plain", "async", "on_error", "provider", "on_frame", "fetch"])
def test_an_exit_request_ends_the_program(kind: type[BaseException], place: str):
    """SystemExit and KeyboardInterrupt raised on the event loop leave the loop, as from any callback or task of
    asyncio."""

    def leave(*_: Any) -> Any:
        raise kind

    async def leave_later(*_: Any) -> Any:
        raise kind

    def fail(_: object) -> None:
        raise KeyError

    options: dict[str, Any] = {
        "on_error": {"on_error": leave}, "provider": {"token": leave_later}, "on_frame": {"on_frame": leave},
    }.get(place, {})  # fmt: skip

    async def program() -> None:
        async with connected(**options) as (client, server):
            room = client.channel("room")
            room.on(broadcast(), {"plain": leave, "async": leave_later}.get(place, fail))
            await room.subscribe()
            if place == "fetch":
                client.mirror("t", key="id", fetch=leave_later).listen()
            server.broadcast("room", "e", 1)
            await asyncio.get_running_loop().create_future()

    logging.getLogger("supawire").setLevel(logging.CRITICAL)
    try:
        with pytest.raises(kind):
            asyncio.run(program())
    finally:
        logging.getLogger("supawire").setLevel(logging.NOTSET)


@pytest.mark.parametrize("kind", EXITS)
async def test_an_exit_request_on_a_thread_is_reported(kind: type[BaseException]):
    """SystemExit raised on the thread of handlers goes to `on_error` like any other exception."""
    errors = list[Exception]()

    def leave(_: object) -> None:
        raise kind

    async with connected(on_error=errors.append) as (client, server):
        room = client.channel("room")
        room.on(broadcast(), leave, thread=True)
        await room.subscribe()
        server.broadcast("room", "e", 1)
        await until(lambda: bool(errors))
        assert causes(errors) == [kind] and client.state is ConnectionState.OPEN


async def test_a_client_closed_by_the_end_of_the_loop_logs_no_error(caplog: pytest.LogCaptureFixture):
    """Tasks that `asyncio.run` cancels when it ends are not reported as errors of handlers, providers or `fetch`."""
    errors = list[Exception]()

    async def waits(*_: Any) -> Any:
        await asyncio.get_running_loop().create_future()

    async def program() -> None:
        server = Server()
        task = asyncio.create_task(server.serve())
        client = await connect_async(URL, KEY, transport=server.transport, on_error=errors.append)
        room = client.channel("room")
        for _ in range(20):
            room.on(broadcast("e"), waits)
            room.on(broadcast("never"), waits)
        await room.subscribe()
        client.mirror("t", key="id", fetch=waits).listen()
        server.broadcast("room", "e", 1)
        server.broadcast("room", "never", 1)
        await settled()
        assert not task.done()

    await asyncio.to_thread(asyncio.run, program())
    assert errors == [] and "raised" not in caplog.text


# ---------------------------------------------------------------------------------------- return values of callbacks


@pytest.mark.parametrize("thread", [False, True])
async def test_a_plain_handler_may_return_an_awaitable(thread: bool):
    """The awaitable that `lambda m: self.handle(m)` returns is awaited, one event after another, and errors name the
    handler."""
    received, errors, running = list[Any](), list[Exception](), list[Any]()

    async def handle(event: Any) -> None:
        running.append(event)
        assert len(running) == 1, "one after another"
        for _ in range(3):
            await asyncio.sleep(0)
        running.remove(event)
        received.append(event.payload)
        if event.payload == 1:
            raise KeyError("mine")

    async with connected(on_error=errors.append) as (client, server):
        room = client.channel("room")
        listening = room.on(broadcast(), lambda event: handle(event), thread=thread)
        await room.subscribe()
        for number in range(5):
            server.broadcast("room", "e", number)
        await until(lambda: len(received) == 5 and bool(errors))
        assert received == [0, 1, 2, 3, 4]
        assert causes(errors) == [KeyError] and "lambda" in str(errors[0])
        assert isinstance(errors[0], HandlerError) and errors[0].topic == "room"
        listening.cancel()
        server.broadcast("room", "e", 5)
        await settled()
        assert len(received) == 5


async def test_awaitables_of_a_plain_handler_are_bounded():
    """At most `buffer` awaitables wait; further ones are dropped and counted like the events of an async handler."""
    errors, gate, begun = list[Exception](), asyncio.Event(), list[Any]()

    async def handle(event: Any) -> None:
        begun.append(event.payload)
        await gate.wait()

    async with connected(on_error=errors.append) as (client, server):
        room = client.channel("room")
        listening = room.on(broadcast(), lambda event: handle(event), buffer=2)
        await room.subscribe()
        for number in range(8):
            server.broadcast("room", "e", number)
            await settled()
        gate.set()
        await settled()
        assert begun == [0, 1, 2] and listening.dropped == 5
        assert "slow consumer" in str(errors[0])


async def test_a_task_returned_by_a_plain_handler_is_not_awaited():
    """A handler that starts a task and returns it is called for each event at once."""
    received = list[Any]()

    async def handle(event: Any) -> None:
        received.append(event.payload)

    async with connected() as (client, server):
        room = client.channel("room")
        room.on(broadcast(), lambda event: asyncio.create_task(handle(event)))
        await room.subscribe()
        server.broadcast("room", "e", 1)
        await until(lambda: received == [1])


@pytest.mark.parametrize("name", ["on_error", "on_frame"])
async def test_async_hooks_are_refused(name: str):
    """An async `on_error` or `on_frame` is refused at once, because it would not be awaited."""

    async def hook(*_: Any) -> None: ...

    options: dict[str, Any] = {name: hook}
    with pytest.raises(InvalidArgumentError, match=f"{name} must be a plain function"):
        connect_async(URL, KEY, **options)


async def test_an_error_is_logged_when_on_error_returns_an_awaitable(caplog: pytest.LogCaptureFixture):
    """When `on_error` returns an awaitable, the error is logged with a warning about it."""

    async def later(error: Exception) -> None: ...

    def handler(_: object) -> None:
        raise KeyError("mine")

    async with connected(on_error=lambda error: later(error)) as (client, server):
        room = client.channel("room")
        room.on(broadcast(), handler)
        await room.subscribe()
        server.broadcast("room", "e", 1)
        await until(lambda: "returned an awaitable" in caplog.text)
    assert "mine" in caplog.text


# -------------------------------------------------------------------------------------------- closing and cancelling


async def test_a_cancelled_handler_is_not_called_again():
    """A plain handler that another handler cancels does not get the event that is being delivered."""
    received = list[str]()
    async with connected() as (client, server):
        room = client.channel("room")
        room.on(broadcast(), lambda _: (received.append("first"), second.cancel()))
        second = room.on(broadcast(), lambda _: received.append("second"))
        moves = client.channel("other")
        moves.on(status(), lambda _: third.cancel())
        third = moves.on(status(), lambda _: received.append("third"))
        await room.subscribe()
        server.broadcast("room", "e", 1)
        await moves.subscribe()
        assert received == ["first"]

        def again(event: Any) -> None:
            received.append(event.payload)

        room.on(broadcast(), again).cancel()
        room.on(broadcast(), again)
        server.broadcast("room", "e", "last")
        await settled()
        assert received == ["first", "first", "last"]


async def by_gather(client: AsyncClient) -> None:
    await asyncio.gather(client.close(), asyncio.sleep(0))


async def by_group(client: AsyncClient) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(client.close())


async def by_task(client: AsyncClient) -> None:
    await asyncio.create_task(client.close())


async def by_wait_for(client: AsyncClient) -> None:
    await asyncio.wait_for(client.close(), 10)


async def by_drain(client: AsyncClient) -> None:
    await asyncio.create_task(client.drain())


@pytest.mark.parametrize("way", [by_gather, by_group, by_task, by_wait_for, by_drain])
async def test_a_handler_may_close_the_client_in_any_way(way: Callable[[AsyncClient], Awaitable[None]]):
    """An async handler that calls `close()`, in any way, runs to its end, and no task is left."""
    after = list[ConnectionState]()
    async with connected() as (client, server):
        room = client.channel("room")

        async def handler(_: object) -> None:
            await way(client)
            after.append(client.state)

        room.on(broadcast(), handler)
        await room.subscribe()
        server.broadcast("room", "e", 1)
        await client.wait_closed()
        await until(lambda: bool(after))
        await settled()
    assert after == [ConnectionState.CLOSED]
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "supawire-handler"]


async def test_a_task_of_an_earlier_call_excludes_no_handler_from_the_shutdown():
    """A task that a handler started and that closes the client later does not protect the handler's current call from
    cancellation."""
    cancelled, later, go = list[bool](), list[asyncio.Task[None]](), asyncio.Event()

    async with connected() as (client, server):
        room = client.channel("room")

        async def close() -> None:
            await go.wait()
            await client.close()

        async def handler(event: Any) -> None:
            if event.payload == 0:
                later.append(asyncio.create_task(close()))
                return
            go.set()
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        room.on(broadcast(), handler)
        await room.subscribe()
        server.broadcast("room", "e", 0)
        server.broadcast("room", "e", 1)
        await client.wait_closed()
        await asyncio.wait(later)
    assert cancelled == [True]


async def test_a_threaded_handler_may_close_the_client():
    """`close()` on the event loop does not wait for a threaded handler that itself waits for that `close()`."""
    after = list[ConnectionState]()
    loop = asyncio.get_running_loop()
    async with connected() as (client, server):
        room = client.channel("room")

        def handler(_: object) -> None:
            asyncio.run_coroutine_threadsafe(client.close(), loop).result(4.5)
            after.append(client.state)

        room.on(broadcast(), handler, thread=True)
        await room.subscribe()
        server.broadcast("room", "e", 1)
        await client.wait_closed()
        await until(lambda: bool(after))
    assert after == [ConnectionState.CLOSED]


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
def test_only_callables_that_return_a_coroutine_are_async(function: object, expected: bool):
    """`is_async` is False for a class, also if its instances have an async `__call__`, because calling the class
    returns an instance."""
    assert is_async(function) is expected


async def test_a_new_request_for_a_token_cancels_the_running_one():
    """A running call of the provider is cancelled when the provider is called again."""
    calls: list[int] = []
    cancelled: list[int] = []

    async def provider() -> str:
        number = len(calls)
        calls.append(number)
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
        assert (calls, cancelled) == ([0, 1], [])
        client.reconnect()
        await joining
        assert cancelled == [1] and len(calls) > 2
