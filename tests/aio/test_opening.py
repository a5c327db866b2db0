"""Opening and closing a client."""

import asyncio
import gc
import threading
from typing import Any

import pytest
import trio

import supawire
from supawire import AsyncClient, ConnectionState, connect_async
from supawire.errors import (
    AuthError,
    ClosedError,
    ConnectError,
    InvalidArgumentError,
    ReconnectExhaustedError,
    StateError,
)
from supawire.options import Backoff
from supawire.transport.memory import MemoryTransport
from tests.aio.peer import KEY, URL, connected, driven, serving, settled

pytestmark = pytest.mark.anyio


def ours() -> set[str]:
    """Return the names of tasks and threads that belong to clients."""
    tasks = {task.get_name() for task in asyncio.all_tasks()}
    threads = {thread.name for thread in threading.enumerate()}
    return {name for name in tasks | threads if name.startswith("supawire")}


async def test_a_client_is_opened_by_await_or_by_async_with():
    """`await` and `async with` both open a client, and an awaited client works in `async with` too."""
    async with serving() as server:
        async with connect_async(URL, KEY, transport=server.transport) as client:
            assert client.state is ConnectionState.OPEN
        assert client.state is ConnectionState.CLOSED
        client = await connect_async(URL, KEY, transport=server.transport)
        async with client as same:
            assert same is client and client.state is ConnectionState.OPEN
        assert client.state is ConnectionState.CLOSED


async def test_nothing_starts_before_it_is_opened():
    """An opener that is dropped unused has not connected, and causes a warning."""
    transport = MemoryTransport()
    opening: Any = connect_async(URL, KEY, transport=transport)
    await settled()
    assert transport.requests == []
    with pytest.warns(ResourceWarning, match="nothing was opened"):
        opening = None
    gc.collect()
    assert opening is None


def test_another_event_loop_than_asyncios_is_an_error():
    """Under trio `connect_async` raises a StateError that names the supported event loops, without a warning (R46)."""

    async def main() -> None:
        await connect_async("http://127.0.0.1:1", "key")

    with pytest.raises(StateError, match="event loop of asyncio") as caught:
        trio.run(main)
    assert "trio.to_thread" in str(caught.value.hint)


async def test_an_opening_is_used_once():
    """Opening the same object twice raises instead of making a second client."""
    async with serving() as server:
        opening = connect_async(URL, KEY, transport=server.transport)
        async with opening:
            with pytest.raises(StateError, match="opened already"):
                await opening


@pytest.mark.parametrize(
    "options",
    [
        {"heartbeat": 90},
        {"offline": "later"},
        {"transport": object()},
        {"proxy": "ftp://127.0.0.1:1"},
        {"on_error": 5},
    ],
    ids=lambda options: next(iter(options)),
)
async def test_wrong_options_raise_at_the_call(options: dict[str, Any]):
    """`connect_async` raises for a wrong option at once, before anything is opened."""
    with pytest.raises(InvalidArgumentError):
        connect_async(URL, KEY, **options)


async def test_a_permanent_refusal_raises_at_once():
    """A 403 is not retried: opening raises it with the server's message, and leaves no task (R30)."""
    transport = MemoryTransport()
    transport.refuse(403, '{"error": "TenantNotFound: no such tenant"}')
    with pytest.raises(ConnectError, match="TenantNotFound") as caught:
        await connect_async(URL, KEY, transport=transport)
    assert caught.value.status == 403
    assert len(transport.requests) == 1
    assert ours() == set()


async def test_a_temporary_failure_is_retried():
    """Refused connections and 503 are retried until an attempt succeeds (R7, R30)."""
    async with serving() as server:
        server.transport.refuse()
        server.transport.refuse(503)
        async with connect_async(URL, KEY, transport=server.transport, backoff=lambda attempt: 0) as client:
            assert client.state is ConnectionState.OPEN
        assert len(server.transport.requests) == 3


async def test_opening_has_a_time_limit():
    """When no server answers within `open_timeout`, opening raises ConnectError and leaves no task."""
    transport = MemoryTransport()
    transport.silent = True
    with pytest.raises(ConnectError, match=r"within 0\.05 s"):
        await connect_async(URL, KEY, transport=transport, open_timeout=0.05)
    assert ours() == set()


async def test_attempts_can_be_limited():
    """With `max_attempts` the last failure ends the opening as ReconnectExhaustedError (R3)."""
    transport = MemoryTransport()
    transport.refuse(times=9)
    with pytest.raises(ReconnectExhaustedError):
        await connect_async(URL, KEY, transport=transport, backoff=Backoff(initial=0, max_attempts=2))
    assert len(transport.requests) == 3


async def test_a_cancelled_opening_leaves_nothing():
    """Cancelling the opening ends its attempt and its tasks."""
    transport = MemoryTransport()
    transport.silent = True
    opening = asyncio.ensure_future(connect_async(URL, KEY, transport=transport))
    await settled()
    assert len(transport.requests) == 1
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert ours() == set()


@pytest.mark.parametrize("turns", range(1, 12))
async def test_an_opening_may_be_cancelled_at_any_moment(turns: int):
    """An opening that is cancelled after any number of iterations of the loop leaves no task of the client (R2)."""
    async with serving() as server:
        opening = asyncio.ensure_future(connect_async(URL, KEY, transport=server.transport))
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        opened = (await asyncio.gather(opening, return_exceptions=True))[0]
        if isinstance(opened, AsyncClient):
            await opened.close()
        assert ours() == set()


async def test_close_is_idempotent_and_final():
    """After `close` every call raises ClosedError, closing again returns, and no task or thread is left (R10, R11)."""
    async with connected() as (client, _):
        room = client.channel("room")
        await room.subscribe()
        waiting = asyncio.create_task(anext(room.listen(supawire.broadcast())))
        await settled()
        await client.close()
        await client.close()
        with pytest.raises(StopAsyncIteration):
            await waiting
        assert (client.state, room.state.value) == (ConnectionState.CLOSED, "closed")
        for call in (room.subscribe, room.unsubscribe, room.untrack, client.ping):
            if call == room.unsubscribe:
                await call()
                continue
            with pytest.raises(ClosedError):
                await call()
        with pytest.raises(ClosedError):
            await room.broadcast("a", {})
        with pytest.raises(ClosedError):
            client.channel("other")
        with pytest.raises(ClosedError):
            client.reconnect()
        with pytest.raises(ClosedError):
            room.on(supawire.broadcast(), print)
        with pytest.raises(ClosedError):
            room.listen(supawire.broadcast())
        await client.wait_closed()
        assert ours() == set()


async def test_close_leaves_the_channels_and_sends_a_close_frame():
    """Closing leaves the joined channels and closes the socket with 1000."""
    async with connected() as (client, server):
        await client.channel("room").subscribe()
        peer = server.peer
        await client.close()
        assert peer is not None
        await server.got("phx_leave")
        with pytest.raises(EOFError, match="1000"):
            await peer.receive()


async def test_close_raises_closed_error_in_every_waiting_call():
    """Closing ends every waiting call with ClosedError (R10)."""
    async with connected() as (client, server):
        server.answers["phx_join"] = server.answers["heartbeat"] = None
        waiting: list[asyncio.Task[Any]] = [
            asyncio.create_task(client.channel("room").subscribe()),
            asyncio.create_task(client.ping()),
        ]
        await server.got("heartbeat")
        await client.close()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ClosedError, ClosedError]


async def test_close_while_connecting_and_while_backing_off():
    """`close` works in every state of the connection, at once (R10)."""
    async with connected(backoff=lambda attempt: 60.0) as (client, server):
        assert server.peer is not None
        server.peer.drop()
        await settled()
        assert client.state is ConnectionState.RETRYING
        await client.close()
        assert ours() == set()
    async with connected() as (client, server):
        assert server.peer is not None
        server.transport.silent = True
        server.peer.drop()
        await settled()
        assert client.state is ConnectionState.CONNECTING
        await client.close()
        assert ours() == set()


async def test_close_ends_although_the_peer_is_silent():
    """Closing takes a bounded time although the server never answers the close frame."""
    async with connected(close_timeout=0.05) as (client, server):
        assert server.peer is not None
        server.peer.answers_close = False
        await client.close()
        assert ours() == set()


async def test_a_cancelled_close_drops_the_socket_at_once(monkeypatch: pytest.MonkeyPatch):
    """Cancelling `close` drops the socket and ends all tasks instead of leaving the client half closed."""
    async with connected() as (client, server):
        assert server.peer is not None
        server.peer.answers_close = False
        closing = asyncio.create_task(client.close())
        await settled()
        assert client.state is ConnectionState.CLOSING
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert client.state is ConnectionState.CLOSED
        await client.wait_closed()
        assert ours() == set()


async def test_an_async_handler_may_close_the_client():
    """`close()` in an async handler returns there when all other tasks have ended, and does not cancel the handler
    (R10)."""
    after: list[set[str]] = []
    async with connected() as (client, server):
        room = client.channel("room")

        async def handler(_: object) -> None:
            await client.close()
            after.append(ours())

        room.on(supawire.broadcast("stop"), handler)
        await room.subscribe()
        server.broadcast("room", "stop", {})
        await client.wait_closed()
        await settled()
        assert after == [{"supawire", "supawire-handler"}]
        assert ours() == set()


async def test_a_plain_handler_may_start_the_close():
    """A plain handler may start `close()` in a task, which ends the client."""
    async with connected() as (client, server):
        room = client.channel("room")
        tasks: list[asyncio.Task[None]] = []
        room.on(supawire.broadcast("stop"), lambda _: tasks.append(asyncio.create_task(client.close())))
        await room.subscribe()
        server.broadcast("room", "stop", {})
        await client.wait_closed()
        await tasks[0]
        assert client.state is ConnectionState.CLOSED


async def test_a_failing_transport_is_reported_and_retried():
    """An unexpected exception of a transport is reported, and the client connects by a later attempt (R2)."""
    errors: list[Exception] = []

    class UnexpectedError(Exception):
        pass

    class FailingTransport(MemoryTransport):
        async def open(self, request: Any, /) -> Any:
            if not self.requests:
                self.requests.append(request)
                raise UnexpectedError("unexpected")
            return await super().open(request)

    transport = FailingTransport()
    async with serving(transport):
        options: dict[str, Any] = {"backoff": lambda attempt: 0, "on_error": errors.append}
        async with connect_async(URL, KEY, transport=transport, **options) as client:
            assert client.state is ConnectionState.OPEN
    assert [type(error.__cause__) for error in errors] == [UnexpectedError]


@pytest.mark.parametrize("bug", [TypeError, AttributeError, AssertionError, KeyError, ImportError, ValueError])
@pytest.mark.parametrize("when", ["opening", "reading"])
async def test_a_bug_on_opening_ends_the_client_with_its_cause(bug: type[Exception], when: str):
    """An exception that shows a bug is not retried; waiting calls raise an error with it as the cause at once (R2)."""

    class Wrong(MemoryTransport):
        async def open(self, request: Any, /) -> Any:
            self.requests.append(request)
            if when == "opening":
                raise bug("wrong")
            connection: Any = await super().open(request)

            async def run(_: object) -> None:
                await asyncio.sleep(0)
                raise bug("wrong")

            connection.run = run
            return connection

    wrong = Wrong()
    async with serving(wrong):

        async def used() -> None:
            client = await connect_async(URL, KEY, transport=wrong, open_timeout=None, backoff=lambda _: 3600)
            await client.wait_closed()

        with pytest.raises(ClosedError, match=bug.__name__) as caught:
            await used()
        assert isinstance(caught.value.__cause__, bug)
    assert len(wrong.requests) == (1 if when == "opening" else 2)
    assert ours() == set()


async def test_a_request_that_cannot_be_served_is_refused_at_once():
    """When a transport raises InvalidArgumentError, the opening ends with that error without another attempt."""

    class Refusing(MemoryTransport):
        async def open(self, request: Any, /) -> Any:
            self.requests.append(request)
            raise InvalidArgumentError("this machine does not have it")

    refusing = Refusing()
    with pytest.raises(InvalidArgumentError, match="does not have it"):
        await connect_async(URL, KEY, transport=refusing, backoff=lambda _: 3600)
    assert len(refusing.requests) == 1


async def test_a_bug_of_ours_ends_the_client_with_its_cause(monkeypatch: pytest.MonkeyPatch):
    """When an internal part of the client fails, waiting calls, iterators and `wait_closed` raise that cause (R2)."""
    async with driven() as (client, server, driver):
        room = client.channel("room")
        await room.subscribe()
        iterating = asyncio.create_task(anext(room.listen(supawire.broadcast())))
        closed = asyncio.create_task(client.wait_closed())
        server.answers["heartbeat"] = None
        pinging = asyncio.create_task(client.ping())
        await server.got("heartbeat")

        def fail(*_: object) -> None:
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr(driver.session._receiver, "_control", fail)
        server.system("room", "ok", "hello")
        outcomes = await asyncio.gather(iterating, closed, pinging, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ClosedError] * 3
        assert all(isinstance(outcome, ClosedError) for outcome in outcomes)
        assert isinstance(getattr(outcomes[1], "__cause__", None), ZeroDivisionError)
        assert client.state is ConnectionState.CLOSED
        assert ours() == set()


async def test_the_end_of_the_loop_ends_the_client():
    """A client that was never closed leaves no socket when its event loop ends, and logs nothing."""
    made: list[Any] = []

    async def forget() -> None:
        async with serving() as server:
            client = await connect_async(URL, KEY, transport=server.transport)
            await client.channel("room").subscribe()
            made.extend((client, server.peer))

    await asyncio.to_thread(asyncio.run, forget())
    client, peer = made
    assert client.state is ConnectionState.CLOSED
    assert peer.waiting > 0


async def test_a_client_belongs_to_one_loop():
    """A client that is used from another event loop or from no loop raises an error that says so (R46)."""
    async with connected() as (client, _):
        room = client.channel("room")

        async def elsewhere() -> None:
            await room.subscribe()

        with pytest.raises(StateError, match="another one"):
            await asyncio.to_thread(asyncio.run, elsewhere())
        with pytest.raises(StateError, match="outside of it"):
            await asyncio.to_thread(client.reconnect)


async def test_many_clients_leave_nothing():
    """Opening and closing fifty clients leaves as many tasks and threads as before (R10)."""
    before = len(asyncio.all_tasks()), threading.active_count()
    for _ in range(50):
        async with connected() as (client, _server):
            room = client.channel("room")
            room.on(supawire.broadcast(), print, thread=True)
            await room.subscribe()
    assert (len(asyncio.all_tasks()), threading.active_count()) == before


async def test_a_failing_token_provider_does_not_block_the_opening():
    """A provider that raises before the first connection is reported, and the client connects without a token (R27)."""
    errors: list[Exception] = []

    def provider() -> str:
        raise KeyError("no session")

    async with connected(token=provider, on_error=errors.append) as (client, _):
        assert client.state is ConnectionState.OPEN
    assert [type(error) for error in errors] == [AuthError]
    assert isinstance(errors[0].__cause__, KeyError)


def test_connect_async_is_imported_lazily():
    """`connect_async` is imported lazily, and has the type that the package declares."""
    assert connect_async.__module__ == "supawire.aio.connect"
    assert supawire.AsyncClient is AsyncClient
