"""Handlers and iterators: events, order, and slow consumers."""

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest

from supawire import Broadcast, Insert, broadcast, changes, gaps, presence, status, system
from supawire.aio.driver import DriverSettings
from supawire.errors import (
    HandlerError,
    InvalidArgumentError,
    JoinDeniedError,
    OperationTimeout,
    ReconnectExhaustedError,
    SlowConsumerError,
    StateError,
)
from supawire.events import ChannelState, ConnectionState
from supawire.options import Backoff
from tests.aio.peer import Server, connected, driven, settled, until

pytestmark = pytest.mark.anyio


def payloads(received: list[Any]) -> list[Any]:
    return [event.payload for event in received]


# --- handlers


async def test_a_handler_gets_the_events_of_its_selector():
    """A plain handler is called with each event of its selector, wildcards included, in order (R41)."""
    one: list[Any] = []
    every: list[Any] = []
    async with connected() as (client, server):
        room = client.channel("room")
        room.on(broadcast("a"), one.append)
        room.on(broadcast(), every.append)
        await room.subscribe()
        for number in range(6):
            server.broadcast("room", "ab"[number % 2], number)
        await settled()
        assert payloads(one) == [0, 2, 4]
        assert payloads(every) == [0, 1, 2, 3, 4, 5]
        assert isinstance(every[0], Broadcast) and every[0].topic == "room"


async def test_on_is_a_decorator_too():
    """`@channel.on(selector)` registers the function and returns it."""
    received: list[Any] = []
    async with connected() as (client, server):
        room = client.channel("db")

        @room.on(changes("users", event="INSERT"))
        def added(change: Insert[dict[str, Any]]) -> None:
            received.append(change.record)

        assert callable(added)
        await room.subscribe()
        server.change("db", 1, {"id": 5, "name": "Ada"})
        await settled()
        assert received == [{"id": 5, "name": "Ada"}]


class _Callable:
    def __init__(self, received: list[Any]) -> None:
        self.received = received

    async def __call__(self, event: Any) -> None:
        self.received.append(event)

    async def method(self, event: Any) -> None:
        self.received.append(event)


async def _append(received: list[Any], event: Any) -> None:
    await asyncio.sleep(0)
    received.append(event)


@pytest.mark.parametrize(
    "make",
    [
        lambda received: received.append,
        lambda received: partial(_append, received),
        lambda received: partial(list.append, received),
        _Callable,
        lambda received: _Callable(received).method,
        lambda received: lambda event: received.append(event),
    ],
    ids=["bound", "async partial", "partial", "async object", "async method", "lambda"],
)
async def test_anything_callable_is_a_handler(make: Callable[[list[Any]], Any]):
    """Functions, partials, objects and bound methods work, async ones included, in order (R37)."""
    received: list[Any] = []
    async with connected() as (client, server):
        room = client.channel("room")
        room.on(broadcast(), make(received))
        await room.subscribe()
        for number in range(20):
            server.broadcast("room", "e", number)
        await settled(100)
        assert payloads(received) == list(range(20))


@pytest.mark.parametrize(
    "handler",
    [5, "print", lambda: None, lambda a, b: None, [].clear],
    ids=["number", "text", "none", "two", "method"],
)
async def test_a_handler_that_cannot_be_called_with_one_event_raises(handler: Any):
    """A handler that is not callable with one argument raises when it is registered, and is not kept (R38)."""
    async with driven() as (client, _, driver):
        room = client.channel("room")
        with pytest.raises(InvalidArgumentError):
            room.on(broadcast(), handler)
        assert len(driver.registry) == 0


async def test_a_partial_that_takes_one_event_is_a_handler():
    """A partial is accepted if it can be called with one event, and its bound arguments are passed."""
    calls: list[tuple[Any, str]] = []

    def handler(event: Any, name: str) -> None:
        calls.append((event.payload, name))

    async with connected() as (client, server):
        room = client.channel("room")
        room.on(broadcast(), partial(handler, name="bound"))
        await room.subscribe()
        server.broadcast("room", "e", 1)
        await settled()
        assert calls == [(1, "bound")]


async def test_generators_and_wrong_options_of_handlers_are_refused():
    """Generator functions, threads for async handlers and overflow="latest" raise when registered."""

    async def generator(event: Any) -> Any:
        yield event

    async with connected() as (client, _):
        room = client.channel("room")
        with pytest.raises(InvalidArgumentError, match="generator"):
            room.on(broadcast(), generator)
        with pytest.raises(InvalidArgumentError, match="async handler"):
            room.on(broadcast(), _Callable([]), thread=True)
        with pytest.raises(InvalidArgumentError, match="latest"):
            room.on(broadcast(), print, overflow="latest")
        with pytest.raises(InvalidArgumentError, match="drop_oldest"):
            room.on(broadcast(), print, overflow=cast("Any", "drop_oldst"))
        with pytest.raises(InvalidArgumentError, match="selector"):
            room.on(cast("Any", "typing"), print)
        with pytest.raises(InvalidArgumentError):
            room.on(broadcast(), print, buffer=0)


async def test_a_handler_registered_twice_is_called_twice():
    """A function registered twice is called twice, and cancelling one registration leaves the other."""
    received: list[Any] = []
    async with connected() as (client, server):
        room = client.channel("room")
        first = room.on(broadcast("a"), received.append)
        room.on(broadcast(), received.append)
        await room.subscribe()
        server.broadcast("room", "a", 1)
        await settled()
        assert payloads(received) == [1, 1]
        first.cancel()
        first.cancel()
        server.broadcast("room", "a", 2)
        await settled()
        assert payloads(received) == [1, 1, 2]


@pytest.mark.parametrize("kind", ["plain", "async", "thread"])
async def test_a_handler_that_raises_affects_no_other_handler(kind: str):
    """An exception of a handler reaches `on_error` once with its traceback; later events and other handlers are
    unaffected (R1)."""
    errors: list[Exception] = []
    received: list[Any] = []
    other: list[Any] = []

    def plain(event: Any) -> None:
        received.append(event)
        if event.payload == 0:
            raise KeyError("oops")

    async def handler(event: Any) -> None:
        plain(event)

    async with connected(on_error=errors.append) as (client, server):
        room = client.channel("room")
        if kind == "async":
            room.on(broadcast(), handler)
        else:
            room.on(broadcast(), plain, thread=kind == "thread")
        room.on(broadcast(), other.append)
        await room.subscribe()
        for number in range(6):
            server.broadcast("room", "e", number)
        await until(lambda: len(received) == 6 and bool(errors))
        assert payloads(received) == payloads(other) == list(range(6))
        assert [type(error) for error in errors] == [HandlerError]
        cause = errors[0].__cause__
        assert isinstance(cause, KeyError) and cause.__traceback__ is not None
        assert isinstance(errors[0], HandlerError) and errors[0].topic == "room"
        assert client.state.value == "open"


@pytest.mark.parametrize("raises", [asyncio.CancelledError, StopIteration, StopAsyncIteration])
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "plain"])
async def test_a_cancelled_error_of_a_handler_is_reported(raises: type[BaseException], is_async: bool):
    """A CancelledError raised by a handler ends neither the reader nor the handler's task (R1)."""
    errors: list[Exception] = []
    received: list[Any] = []

    def plain(event: Any) -> None:
        received.append(event)
        raise raises

    async def handler(event: Any) -> None:
        plain(event)

    async with connected(on_error=errors.append) as (client, server):
        room = client.channel("room")
        if is_async:
            room.on(broadcast(), handler)
        else:
            room.on(broadcast(), plain)
        await room.subscribe()
        for number in range(3):
            server.broadcast("room", "e", number)
        await settled(50)
        assert payloads(received) == [0, 1, 2]
        assert len(errors) == 3


async def test_a_handler_that_cancels_its_own_task_gets_the_next_event():
    """An async handler that cancels the task it runs in is reported and called again (R1)."""
    received: list[Any] = []

    async def handler(event: Any) -> None:
        received.append(event)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    errors: list[Exception] = []
    async with connected(on_error=errors.append) as (client, server):
        room = client.channel("room")
        room.on(broadcast(), handler)
        await room.subscribe()
        for number in range(3):
            server.broadcast("room", "e", number)
        await settled(50)
        assert payloads(received) == [0, 1, 2]
        assert len(errors) == 3


async def test_an_on_error_that_raises_is_logged():
    """An exception of `on_error` is logged and does not end the client (R1)."""

    def hook(error: Exception) -> None:
        raise RuntimeError("no")

    def handler(event: Any) -> None:
        received.append(event)
        raise ValueError

    received: list[Any] = []
    async with connected(on_error=hook) as (client, server):
        room = client.channel("room")
        room.on(broadcast(), handler)
        await room.subscribe()
        server.broadcast("room", "e", 1)
        server.broadcast("room", "e", 2)
        await settled()
        assert payloads(received) == [1, 2]


async def test_a_slow_async_handler_delays_no_other_handler():
    """While an async handler waits, other channels receive events and acks (R39)."""
    gate = asyncio.Event()
    slow: list[Any] = []
    quick: list[Any] = []

    async def handler(event: Any) -> None:
        await gate.wait()
        slow.append(event)

    async with connected() as (client, server):
        one, two = client.channel("one"), client.channel("two", ack=True)
        one.on(broadcast(), handler)
        two.on(broadcast(), quick.append)
        await one.subscribe()
        await two.subscribe()
        server.broadcast("one", "e", 1)
        server.broadcast("two", "e", 2)
        await two.broadcast("e", {})
        assert (payloads(slow), payloads(quick)) == ([], [2])
        gate.set()
        await settled()
        assert payloads(slow) == [1]


async def test_a_blocking_handler_on_the_thread_delays_no_other_handler():
    """While a threaded handler blocks, other channels receive events and acks, and heartbeats are answered (R39)."""
    gate = threading.Event()
    blocked: list[Any] = []
    threads: set[str] = set()
    quick: list[Any] = []

    def handler(event: Any) -> None:
        gate.wait()
        threads.add(threading.current_thread().name)
        blocked.append(event)

    async with connected() as (client, server):
        one, two = client.channel("one"), client.channel("two", ack=True)
        one.on(broadcast(), handler, thread=True)
        two.on(broadcast(), quick.append)
        await one.subscribe()
        await two.subscribe()
        for number in range(10):
            server.broadcast("one", "e", number)
        server.broadcast("two", "e", 2)
        await two.broadcast("e", {})
        assert await client.ping() >= 0
        assert (payloads(blocked), payloads(quick)) == ([], [2])
        gate.set()
        await until(lambda: len(blocked) == 10)
        assert payloads(blocked) == list(range(10))
        assert threads == {"supawire-dispatch"}


async def test_a_thread_that_cannot_start_since_the_interpreter_ends_is_no_error(monkeypatch: pytest.MonkeyPatch):
    """An event that arrives while the interpreter exits calls no threaded handler, and is not reported (R46)."""
    errors: list[Exception] = []
    received: list[Any] = []

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    async with connected(on_error=errors.append) as (client, server):
        room = client.channel("room")
        room.on(broadcast(), received.append, thread=True)
        await room.subscribe()
        monkeypatch.setattr(threading.Thread, "start", refuse)
        server.broadcast("room", "e", 1)
        await settled()
        assert client.state is ConnectionState.OPEN
    assert (received, errors) == ([], [])


async def test_a_handler_that_never_returns_does_not_delay_close_forever():
    """`close` waits a bounded time for a blocked threaded handler, and then leaves it running (R10)."""
    gate = threading.Event()
    async with driven(DriverSettings(shutdown_timeout=0.05)) as (client, server, _):
        room = client.channel("room")
        room.on(broadcast(), lambda event: gate.wait(), thread=True)
        await room.subscribe()
        server.broadcast("room", "e", 1)
        await settled()
        await client.close()
        assert client.state.value == "closed"
    gate.set()


async def test_an_async_handler_that_suppresses_its_cancellation_does_not_delay_close_forever():
    """`close` waits a bounded time for a handler that suppresses its cancellation (R10)."""
    gate = asyncio.Event()

    async def handler(event: Any) -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    async with driven(DriverSettings(shutdown_timeout=0.05)) as (client, server, _):
        room = client.channel("room")
        room.on(broadcast(), handler)
        await room.subscribe()
        server.broadcast("room", "e", 1)
        await settled()
        await client.close()
        assert client.state.value == "closed"
        gate.set()
        await settled()


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "thread"])
@pytest.mark.parametrize(
    ("overflow", "expected"),
    [("error", [0, 1, 2, 3]), ("drop_newest", [0, 1, 2, 3]), ("drop_oldest", [0, 7, 8, 9])],
)
async def test_events_waiting_for_a_handler_are_bounded(is_async: bool, overflow: Any, expected: list[int]):
    """More events than `buffer` behind a handler follow the policy; "error" reports once per episode, and the
    handler stays (R39)."""
    errors: list[Exception] = []
    received: list[Any] = []
    gate: Any = asyncio.Event() if is_async else threading.Event()

    def blocking(event: Any) -> None:
        received.append(event)
        gate.wait()

    async def waiting(event: Any) -> None:
        received.append(event)
        await gate.wait()

    async with connected(on_error=errors.append) as (client, server):
        room = client.channel("room")
        if is_async:
            subscription = room.on(broadcast(), waiting, buffer=3, overflow=overflow)
        else:
            subscription = room.on(broadcast(), blocking, buffer=3, overflow=overflow, thread=True)
        await room.subscribe()
        server.broadcast("room", "e", 0)
        await until(lambda: bool(received))
        for number in range(1, 10):
            server.broadcast("room", "e", number)
        await until(lambda: subscription.dropped == 6)
        assert client.stats().overflowed == 6
        gate.set()
        await until(lambda: len(received) == 4)
        assert payloads(received) == expected
        assert [type(error) for error in errors] == ([SlowConsumerError] if overflow == "error" else [])
        server.broadcast("room", "e", "next")
        await until(lambda: len(received) == 5)
        assert received[-1].payload == "next"


async def test_a_slow_plain_handler_is_logged(caplog: pytest.LogCaptureFixture):
    """A plain handler that blocks the event loop causes a warning in the log once a minute."""
    async with driven(DriverSettings(slow_batch=0.01)) as (client, server, _):
        room = client.channel("room")
        room.on(broadcast(), lambda event: time.sleep(0.02))
        await room.subscribe()
        for number in range(3):
            server.broadcast("room", "e", number)
            await settled()
        warnings = [record for record in caplog.records if "thread=True" in record.getMessage()]
        assert len(warnings) == 1


async def test_a_cancelled_subscription_is_called_no_more():
    """After `cancel` a handler is not called, not even for events that wait already, and a running call ends."""
    received: list[Any] = []
    gate = asyncio.Event()
    async with connected() as (client, server):
        room = client.channel("room")

        async def handler(event: Any) -> None:
            await gate.wait()
            received.append(event)

        subscription = room.on(broadcast(), handler)
        await room.subscribe()
        for number in range(5):
            server.broadcast("room", "e", number)
        await settled()
        subscription.cancel()
        gate.set()
        await settled()
        assert payloads(received) == [0]


async def test_a_handler_may_use_the_client():
    """A handler may send, add and cancel listeners and start a leave; the order of events is kept."""
    async with connected() as (client, server):
        room = client.channel("room")
        tasks: list[asyncio.Task[Any]] = []
        late: list[Any] = []

        def handler(event: Any) -> None:
            if event.payload == 0:
                room.on(broadcast("e"), late.append)
            tasks.append(asyncio.create_task(room.broadcast("echo", event.payload)))

        room.on(broadcast("e"), handler)
        await room.subscribe()
        for number in range(3):
            server.broadcast("room", "e", number)
        await server.got("broadcast", 3)
        assert [frame.payload["payload"] for frame in server.of("broadcast")] == [0, 1, 2]
        assert payloads(late) == [1, 2]
        await asyncio.gather(*tasks)


# --- iterators


async def test_an_iterator_gets_the_union_of_its_selectors_in_order():
    """One iterator over several selectors yields the events of all in the order of arrival."""
    async with connected() as (client, server):
        room = client.channel("db")
        stream = room.listen(broadcast("a"), changes("users"), system())
        await room.subscribe(wait="ready")
        server.broadcast("db", "a", 1)
        server.change("db", 1, {"id": 1})
        server.broadcast("db", "b", 2)
        server.system("db", "ok", "hello", "other")
        kinds = [type(await anext(stream)).__name__ for _ in range(4)]
        assert kinds == ["System", "Broadcast", "Insert", "System"]


async def test_iterating_joins_a_channel_that_is_not_subscribed():
    """The first `next` subscribes, and raises a refusal."""
    async with connected() as (client, server):
        stream = client.channel("room").listen(broadcast())
        waiting = asyncio.create_task(anext(stream))
        await server.got("phx_join")
        await settled()
        server.broadcast("room", "e", 1)
        assert (await waiting).payload == 1
        server.answers["phx_join"] = server.refuse("Unauthorized: You do not have permissions to read")
        with pytest.raises(JoinDeniedError):
            await anext(client.channel("other", private=True).listen(broadcast()))


async def test_an_iterator_ends_when_the_channel_is_left():
    """`async for` ends after the remaining events when the channel is left; later iterators end at once."""
    async with connected() as (client, server):
        room = client.channel("room")
        stream, other = room.listen(broadcast()), room.listen(broadcast())
        await room.subscribe()
        waiting = asyncio.create_task(_all(other))
        server.broadcast("room", "e", 1)
        await settled()
        await room.unsubscribe()
        assert payloads(await waiting) == [1]
        assert payloads(await _all(stream)) == [1]
        assert await _all(room.listen(broadcast())) == []


async def _all(stream: Any) -> list[Any]:
    return [event async for event in stream]


async def test_an_iterator_continues_after_a_reconnect():
    """A lost connection does not end an iterator; it yields the events of the next join (R15)."""
    async with connected() as (client, server):
        room = client.channel("room")
        stream = room.listen(broadcast())
        await room.subscribe()
        for number in range(5):
            assert server.peer is not None
            server.peer.drop()
            await server.got("phx_join", number + 2)
            await settled()
            server.broadcast("room", "e", number)
            assert (await anext(stream)).payload == number


async def test_an_iterator_raises_the_reason_of_its_end():
    """When a channel is refused permanently or the client gives up, its iterators raise the cause (R3)."""
    async with connected(backoff=Backoff(initial=0, max_attempts=1)) as (client, server):
        room, other = client.channel("room"), client.channel("other")
        refused, lost = room.listen(broadcast()), other.listen(broadcast())
        everything = client.listen()
        await room.subscribe()
        await other.subscribe()
        waiting = asyncio.create_task(anext(refused))
        await settled()
        server.system("room", "error", "You do not have permissions to read from this topic", "system")
        server.send("realtime:room", "phx_close", {}, join_ref=server.of("phx_join")[0].join_ref)
        with pytest.raises(JoinDeniedError):
            await waiting
        server.transport.refuse(times=9)
        assert server.peer is not None
        server.peer.drop()
        with pytest.raises(ReconnectExhaustedError):
            await anext(lost)
        with pytest.raises(ReconnectExhaustedError):
            await client.wait_closed()
        with pytest.raises(ReconnectExhaustedError):
            await _all(everything)


async def test_an_unreferenced_iterator_is_unregistered():
    """An iterator is unregistered when its last reference is gone, and when its `with` block ends."""
    async with driven() as (client, _, driver):
        room = client.channel("room")
        stream = room.listen(broadcast())
        assert len(driver.registry) == 1
        del stream
        gc.collect()
        await settled()
        assert len(driver.registry) == 0
        async with room.listen(broadcast()) as kept:
            assert len(driver.registry) == 1
        assert len(driver.registry) == 0
        with pytest.raises(StopAsyncIteration):
            await anext(kept)
        watching = client.listen()
        watching.close()
        assert driver.session._context.watchers == {}


async def test_an_iterator_continues_after_a_cancelled_first_join():
    """A timeout around `anext` before the channel is joined ends neither the iterator nor the join."""
    async with connected() as (client, server):
        server.answers["phx_join"] = None
        room = client.channel("room")
        received = room.listen(broadcast())
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(received), 0.01)
        join = await server.got("phx_join")
        assert room.state is ChannelState.JOINING and server.events()["phx_join"] == 1
        server.reply(join, response={"postgres_changes": []})
        server.broadcast("room", "e", 1)
        assert (await anext(received)).payload == 1


async def test_an_unreferenced_iterator_withdraws_its_join():
    """When the last reference to an iterator is gone, a channel that only it subscribed and that was never joined
    leaves."""
    async with connected() as (client, server):
        server.answers["phx_join"] = None
        room = client.channel("room")
        received = room.listen(broadcast())
        with pytest.raises(OperationTimeout):
            await received.get(timeout=0.01)
        del received
        gc.collect()
        await until(lambda: room.state is ChannelState.IDLE)


@pytest.mark.parametrize(
    "selector",
    [broadcast("e"), broadcast(), changes("users"), presence(), system(), status(), gaps()],
    ids=["event", "broadcasts", "changes", "presence", "system", "status", "gaps"],
)
async def test_the_cost_of_listen_is_independent_of_the_number_of_iterators(selector: Any):
    """`listen` and `close` take as many steps among 3,000 iterators as among 30, each with its own buffer size."""

    async def steps(count: int) -> int:
        async with connected() as (client, server):
            room = client.channel("room")
            others = [room.listen(selector, buffer=2 * number + 1) for number in range(count)]
            await room.subscribe(wait="ready")
            server.broadcast("room", "e", 1)
            await settled()
            seen = 0

            def count_step(frame: Any, event: str, argument: Any) -> None:
                nonlocal seen
                seen += 1

            sys.setprofile(count_step)
            try:
                room.listen(selector, buffer=2 * (count // 2)).close()
            finally:
                sys.setprofile(None)
            assert len(others) == count
            return seen

    few, many = await steps(30), await steps(3000)
    assert many < few + 40, "with a heap of buffer sizes there are a few steps more"


async def test_an_iterator_is_for_one_task_at_a_time():
    """A second task that waits on the same iterator gets an error that it needs its own iterator."""
    async with connected() as (client, _):
        room = client.channel("room")
        await room.subscribe()
        stream = room.listen(broadcast())
        first = asyncio.create_task(anext(stream))
        await settled()
        with pytest.raises(StateError, match="its own listen"):
            await anext(stream)
        first.cancel()


async def test_a_cancelled_next_loses_no_event():
    """After a waiting `next` is cancelled the iterator is usable, and the next event is not lost."""
    async with connected() as (client, server):
        room = client.channel("room")
        await room.subscribe()
        stream = room.listen(broadcast())
        waiting = asyncio.create_task(anext(stream))
        await settled()
        waiting.cancel()
        await settled()
        server.broadcast("room", "e", 1)
        assert (await anext(stream)).payload == 1


async def overflown(server: Server, room: Any, count: int = 10) -> None:
    for number in range(count):
        server.broadcast("room", "e", number)
    await settled(50)


async def test_overflow_error_raises_after_the_waiting_events():
    """With "error" the iterator yields the events it holds, raises SlowConsumerError once, and continues (R39)."""
    async with connected() as (client, server):
        room = client.channel("room")
        stream = room.listen(broadcast(), buffer=3)
        await room.subscribe()
        await overflown(server, room)
        assert [(await anext(stream)).payload for _ in range(3)] == [0, 1, 2]
        server.broadcast("room", "e", "hidden")
        await settled()
        with pytest.raises(SlowConsumerError):
            await anext(stream)
        assert stream.dropped == 8
        server.broadcast("room", "e", "next")
        assert (await anext(stream)).payload == "next"


@pytest.mark.parametrize(
    ("overflow", "kept"), [("drop_oldest", [7, 8, 9]), ("drop_newest", [0, 1, 2])], ids=["oldest", "newest"]
)
async def test_overflow_drop_policies_count_dropped_events(overflow: Any, kept: list[int]):
    """The policies "drop_oldest" and "drop_newest" keep the other events and count the dropped ones (R39)."""
    async with connected() as (client, server):
        room = client.channel("room")
        stream = room.listen(broadcast(), buffer=3, overflow=overflow)
        await room.subscribe()
        await overflown(server, room)
        assert [(await anext(stream)).payload for _ in range(3)] == kept
        assert (stream.dropped, client.stats().overflowed) == (7, 7)


async def test_overflow_latest_keeps_the_newest_per_key():
    """With "latest" one event per key stays, in the order of the keys; of too many keys the newest stay (R39)."""
    errors: list[Exception] = []
    async with connected(on_error=errors.append) as (client, server):
        room = client.channel("room")
        stream = room.listen(broadcast(), buffer=2, overflow="latest", key=lambda event: event.payload["id"])
        await room.subscribe()
        for number, key in enumerate("abab"):
            server.broadcast("room", "e", {"id": key, "n": number})
        server.broadcast("room", "e", {"no": "id"})
        await settled()
        assert [(await anext(stream)).payload["n"] for _ in range(2)] == [2, 3]
        for number, key in enumerate("abc"):
            server.broadcast("room", "e", {"id": key, "n": number})
        await settled()
        assert [(await anext(stream)).payload["id"] for _ in range(2)] == ["b", "c"]
        assert stream.dropped == 3
        assert [type(error.__cause__) for error in errors] == [KeyError]


async def test_overflow_pause_stops_reading():
    """With "pause" no event is lost; reading stops while the buffer is full and resumes when it has space (R39)."""
    async with connected() as (client, server):
        room = client.channel("room")
        stream = room.listen(broadcast(), buffer=3, overflow="pause")
        await room.subscribe()
        await overflown(server, room, 50)
        assert len(stream._buffer) <= 4
        seen = [(await anext(stream)).payload for _ in range(50)]
        assert (seen, stream.dropped) == (list(range(50)), 0)


async def test_a_pause_ends_with_the_first_request():
    """While a request waits for its reply the socket is read in spite of "pause", which then acts like "error"
    (R39)."""
    async with driven() as (client, server, driver):
        room = client.channel("room", ack=True)
        stream = room.listen(broadcast(), buffer=3, overflow="pause")
        await room.subscribe()
        await overflown(server, room)
        assert driver.pauses.paused
        await room.broadcast("e", {})
        assert not driver.pauses.paused
        await settled(50)
        seen = [(await anext(stream)).payload for _ in range(3)]
        assert seen == [0, 1, 2]
        with pytest.raises(SlowConsumerError):
            await _all(stream)


async def test_a_pause_ends_after_a_heartbeat_interval():
    """Reading stops for at most one heartbeat interval, then the buffer overflows as with "error" (R39)."""
    async with driven(heartbeat=0.05) as (client, server, driver):
        server.answers["heartbeat"] = server.reply
        room = client.channel("room")
        stream = room.listen(broadcast(), buffer=3, overflow="pause")
        await room.subscribe()
        await overflown(server, room)
        await until(lambda: not driver.pauses.paused)
        await settled(50)
        with pytest.raises(SlowConsumerError):
            await _all(stream)


@pytest.mark.parametrize(
    "options",
    [{"overflow": "latest"}, {"key": str}, {"buffer": 0}, {"overflow": "drop"}, {"overflow": "latest", "key": 5}],
)
async def test_wrong_options_of_listen_raise(options: dict[str, Any]):
    """Options of `listen` that exclude each other raise at the call."""
    async with connected() as (client, _):
        with pytest.raises(InvalidArgumentError):
            client.channel("room").listen(broadcast(), **options)


async def test_listen_without_a_selector_raises():
    """`listen()` without a selector raises, because it would never yield."""
    async with connected() as (client, _):
        with pytest.raises(InvalidArgumentError, match="needs a selector"):
            cast("Any", client.channel("room")).listen()


async def test_a_fast_consumer_of_a_small_buffer_does_not_overflow():
    """A burst of a thousand frames passes through a buffer of two, because the consumer runs between the frames
    (R39)."""
    async with connected() as (client, server):
        room = client.channel("room")
        stream = room.listen(broadcast(), buffer=2)
        await room.subscribe()

        async def consume() -> list[Any]:
            return [(await anext(stream)).payload for _ in range(1000)]

        consuming = asyncio.create_task(consume())
        await settled()
        for number in range(1000):
            server.broadcast("room", "e", number)
        assert await consuming == list(range(1000))
        assert stream.dropped == 0


async def test_unknown_and_invalid_frames_are_ignored():
    """Invalid frames, unknown events and frames of unknown topics are counted, and later events are delivered (R40)."""
    received: list[Any] = []
    async with connected() as (client, server):
        room = client.channel("room")
        room.on(broadcast(), received.append)
        room.on(presence(), received.append)
        await room.subscribe()
        await settled()
        received.clear()
        for data in (
            b"",
            b"{",
            b"[]",
            b"[1,2,3,4,5]",
            b"\xff\xfe",
            b'[null,null,"realtime:room","odd",{}]',
            b"[" * 5000,
        ):
            server.raw(data)
        for data in (b"", b"\x04", b"\x09abc", bytes([4, 200, 200, 200, 0])):
            server.raw(data, binary=True)
        server.broadcast("nobody", "e", 1)
        server.broadcast("room", "e", "after")
        await settled()
        assert payloads(received) == ["after"]
        stats = client.stats()
        assert stats.garbage_frames > 0 and stats.unknown_frames > 0
