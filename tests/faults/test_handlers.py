"""Handlers and hooks that raise, block, never return, or close the client."""

import asyncio
import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from supawire import (
    AsyncChannel,
    ChannelState,
    ConnectionState,
    Subscription,
    broadcast,
    changes,
    gaps,
    presence,
    status,
    system,
)
from supawire.errors import ClosedError, HandlerError, SlowConsumerError
from supawire.server import LocalServer
from tests.aio.peer import until
from tests.faults.misbehaver import Misbehaver
from tests.faults.steps import Collector, check_recovery, client_of, joined_channel, ours, wait_for_state

pytestmark = pytest.mark.anyio


@dataclass
class Equal:
    """A callable that is equal to others and not hashable."""

    name: str
    received: list[Any] = field(default_factory=list[Any], compare=False)

    def __call__(self, event: Any) -> None:
        self.received.append(event)

    def method(self, event: Any) -> None:
        self.received.append(event)


async def test_any_callable_may_be_a_handler():
    """Callables that are not hashable, or equal to another one, are called once per registration (R37)."""
    async with Misbehaver() as server, client_of(server) as client:
        room, received = await joined_channel(client)
        one, other = Equal("same"), Equal("same")
        assert one == other
        for handler in (one, other, one.method, one.method, partial(one), Equal.__call__.__get__(other)):
            room.on(broadcast("hello"), handler)
        room.on(broadcast(), received)
        server.wire.broadcast("room", "hello", 1)
        await received.until(2)
        assert (len(one.received), len(other.received)) == (4, 2)


async def test_the_error_of_a_handler_names_it():
    """The error names the user's function, also if it was registered twice or is a partial (R1)."""
    errors = Collector()

    def fails(_: Any) -> None:
        raise KeyError("mine")

    async with Misbehaver() as server, client_of(server, on_error=errors) as client:
        room, _ = await joined_channel(client)
        for handler in (fails, fails, partial(fails)):
            room.on(broadcast("hello"), handler)
        server.wire.broadcast("room", "hello", 1)
        await errors.until(3)
        assert all("fails raised KeyError" in str(error) for error in errors)


def raises_everything(room: AsyncChannel, *, thread: bool) -> None:
    """Return two handlers for every event, which raise."""

    def fails(event: Any) -> None:
        raise KeyError(type(event).__name__)

    async def fails_too(event: Any) -> None:
        raise KeyError(type(event).__name__)

    for selector in (broadcast(), changes("*"), presence(), system(), status(), gaps()):
        room.on(selector, fails, thread=thread)
        room.on(selector, fails_too)


@pytest.mark.parametrize("thread", [False, True], ids=["inline", "thread"])
async def test_handlers_that_raise_end_no_connection(thread: bool):
    """With a handler that raises on every event of every kind, further events arrive, and errors are reported (R1)."""
    errors = Collector()
    with LocalServer() as server:
        async with client_of(server, server.anon_key, on_error=errors) as client:
            room = client.channel("room", presence_key="me")
            raises_everything(room, thread=thread)
            received = Collector()
            room.on(broadcast("after"), received)
            await room.subscribe(wait="ready")
            await room.track({})
            server.emit("INSERT", "users", record={"id": 1})
            server.drop_connections(1011)
            await wait_for_state(client, ConnectionState.RETRYING)
            await room.subscribe(wait="ready")
            for number in range(5):
                server.broadcast("room", "after", {"n": number})
            await received.until(5)
            await errors.until(lambda all_: sum("Broadcast" in str(error) for error in all_) >= 10)
            assert client.state is ConnectionState.OPEN and room.state is ChannelState.JOINED
            assert all(isinstance(error, HandlerError) and isinstance(error.__cause__, KeyError) for error in errors)
            assert all(error.__cause__.__traceback__ is not None for error in errors)
            kinds = Counter(error.__cause__.args[0] for error in errors)
            assert kinds["Broadcast"] == 10  # once each
            assert {"Insert", "PresenceSync", "System", "Status", "Gap"} <= set(kinds)


@pytest.mark.parametrize("hook", ["on_error", "on_frame", "backoff", "rejoin_backoff", "token", "key"])
async def test_hooks_that_raise_end_no_connection(hook: str, caplog: pytest.LogCaptureFixture):
    """Each hook may raise: the client reconnects, and further events arrive (R1)."""
    caplog.set_level(logging.CRITICAL)
    calls = Collector()

    def fails(argument: Any = None, *_: Any) -> Any:
        calls(argument)
        if hook == "token" and len(calls) == 1:
            return "the-first-token"
        if hook.endswith("backoff") and len(calls) > 1:
            return 0.0  # what steps in for the first has a random delay
        raise KeyError("mine")

    options: dict[str, Any] = {} if hook == "key" else {hook: fails}
    async with Misbehaver() as server, client_of(server, **options) as client:
        room, received = await joined_channel(client)
        room.on(broadcast("after"), lambda _: 1 / 0)
        kept = room.listen(broadcast(), overflow="latest", key=fails)
        if hook == "rejoin_backoff":
            join_ref = server.of("phx_join")[0].ref
            server.wire.push("realtime:room", "phx_error", {}, join_ref=join_ref, ref=join_ref)
        else:
            server.wire.reset()
        await server.got("phx_join", 2)
        await room.subscribe()
        for number in range(5):
            server.wire.broadcast("room", "after", number)
        await received.until(5)
        assert client.state is ConnectionState.OPEN
        assert calls
        kept.close()


async def test_a_cancelled_handler_receives_the_next_event():
    """CancelledError raised by a handler is reported, and the next event is handled (R1)."""
    errors, calls = Collector(), Collector()

    async def cancels(event: Any) -> None:
        calls(event)
        raise asyncio.CancelledError

    def cancels_inline(event: Any) -> None:
        raise asyncio.CancelledError

    async with Misbehaver() as server, client_of(server, on_error=errors) as client:
        room, received = await joined_channel(client)
        room.on(broadcast(), cancels)
        room.on(broadcast(), cancels_inline)
        for number in range(3):
            server.wire.broadcast("room", "x", number)
        await calls.until(3)
        await received.until(3)
        await errors.until(6)
        await check_recovery(server, room, received, joins=1)


async def test_a_handler_that_never_returns_delays_nothing_else():
    """An async handler that never returns, and a plain one on the thread, delay no channel, ack or heartbeat (R39)."""
    forever, block = asyncio.Event(), threading.Event()

    async def hangs(_: Any) -> None:
        await forever.wait()

    async with Misbehaver() as server, client_of(server, heartbeat=0.05) as client:
        slow, _ = await joined_channel(client, "slow", ack=True)
        _, received = await joined_channel(client, "quick")
        slow.on(broadcast(), hangs)
        slow.on(broadcast(), lambda _: block.wait(), thread=True)
        for number in range(10):
            server.wire.broadcast("slow", "x", number)
        server.wire.broadcast("quick", "x", 1)
        await received.until(1)
        await server.got("heartbeat", 3)
        assert (await slow.broadcast("y", {})).acked
        assert not block.is_set()
        block.set()  # or the end of the client would wait for it
    assert ours() == set()


async def test_a_blocking_handler_on_the_loop_is_named_in_the_log(caplog: pytest.LogCaptureFixture):
    """A plain handler that blocks the event loop is logged as a warning, and no connection is lost (R39)."""
    async with Misbehaver() as server, client_of(server, heartbeat=0.1, timeout=0.1) as client:
        room, received = await joined_channel(client)
        room.on(broadcast(), lambda _: time.sleep(0.25))  # longer than the deadline of a heartbeat
        server.wire.broadcast("room", "x", 1)
        await server.got("heartbeat", 3)
        await check_recovery(server, room, received, joins=1)
        assert [line for line in caplog.records if "a handler is slow" in line.message]


@pytest.mark.parametrize("kind", ["async", "task", "thread"])
async def test_a_handler_may_close_the_client(kind: str):
    """`close()` called by a handler of any kind ends the client and leaves no resources."""
    async with Misbehaver() as server, client_of(server) as client:
        room, _ = await joined_channel(client)
        closing: list[Any] = []
        loop = asyncio.get_running_loop()

        async def closes(_: Any) -> None:
            await client.close()

        def starts(_: Any) -> None:
            closing.append(asyncio.ensure_future(client.close()))

        def from_the_thread(_: Any) -> None:
            closing.append(asyncio.run_coroutine_threadsafe(client.close(), loop))

        handler = {"async": closes, "task": starts, "thread": from_the_thread}[kind]
        room.on(broadcast(), handler, thread=kind == "thread")
        for _ in range(3):  # more than one is on the way
            server.wire.broadcast("room", "x", {})
        await client.wait_closed()
        for one in closing:
            await asyncio.wrap_future(one) if kind == "thread" else await one
        assert client.state is ConnectionState.CLOSED
        with pytest.raises(ClosedError):
            await room.broadcast("x", {})
    await until(lambda: ours() == set())  # the dispatch thread ends a moment later


async def test_a_handler_may_leave_and_remove_its_channel():
    """A handler may unsubscribe, remove its channel or cancel itself during a batch."""
    async with Misbehaver() as server, client_of(server) as client:
        for act in ("unsubscribe", "remove", "cancel"):
            room, received = await joined_channel(client, act)
            kept: list[Any] = []
            subscriptions: list[Subscription] = []

            def handler(
                event: Any, act: str = act, room: AsyncChannel = room, kept: list[Any] = kept,
                subscriptions: list[Subscription] = subscriptions,
            ) -> None:  # fmt: skip
                kept.append(event)
                if act == "cancel":
                    subscriptions[0].cancel()
                elif len(kept) == 1:
                    leaving = room.unsubscribe() if act == "unsubscribe" else client.remove_channel(room)
                    kept.append(asyncio.ensure_future(leaving))

            subscriptions.append(room.on(broadcast(), handler))
            for number in range(50):
                server.wire.broadcast(act, "x", number)
            if act == "cancel":
                await received.until(50)
                assert len(kept) == 1
            else:
                await received.until(1)
                await kept[1]
        assert client.state is ConnectionState.OPEN


async def test_an_overflow_follows_its_policy():
    """With 10,000 messages at once memory is bounded, each policy is followed, and heartbeats continue (R39)."""
    errors = Collector()
    async with Misbehaver() as server, client_of(server, heartbeat=0.05, on_error=errors) as client:
        room, received = await joined_channel(client)
        forever = asyncio.Event()
        first = asyncio.Event()

        async def slow(_: Any) -> None:
            first.set()
            await forever.wait()

        handled = room.on(broadcast(), slow, buffer=10)
        streams = {
            "error": room.listen(broadcast(), buffer=100),
            "drop_oldest": room.listen(broadcast(), buffer=100, overflow="drop_oldest"),
            "drop_newest": room.listen(broadcast(), buffer=100, overflow="drop_newest"),
            "latest": room.listen(broadcast(), buffer=100, overflow="latest", key=_last_digit),
        }
        for number in range(10_000):
            server.wire.broadcast("room", "count", number)
        await received.until(10_000)
        assert [message.payload for message in received] == list(range(10_000))
        got: dict[str, list[int]] = {policy: [] for policy in streams}
        for policy, stream in streams.items():
            for _ in range(100 if policy != "latest" else 10):
                got[policy].append((await anext(stream)).payload)
        assert got["error"] == got["drop_newest"] == list(range(100))
        assert got["drop_oldest"] == list(range(9_900, 10_000))
        assert got["latest"] == list(range(9_990, 10_000))
        with pytest.raises(SlowConsumerError):
            await anext(streams["error"])
        assert [type(error) for error in errors] == [SlowConsumerError]
        assert handled.dropped >= 10_000 - 12
        assert client.stats().overflowed == sum(s.dropped for s in streams.values()) + handled.dropped
        await server.got("heartbeat", len(server.of("heartbeat")) + 2)
        assert client.stats().connects == 1


def _last_digit(event: Any) -> int:
    return event.payload % 10


async def test_pausing_stops_the_socket_and_loses_no_message():
    """With overflow="pause" a consumer that is slow at times receives all 5,000 messages, in order (R39)."""
    async with Misbehaver() as server, client_of(server) as client:
        room = client.channel("room")
        stream = room.listen(broadcast(), buffer=50, overflow="pause")
        await room.subscribe()
        for number in range(5_000):
            server.wire.broadcast("room", "count", number)
        got: list[int] = []
        async for message in stream:
            got.append(message.payload)
            if len(got) % 500 == 0:
                await asyncio.sleep(0.001)
            if len(got) == 5_000:
                break
        assert got == list(range(5_000)) and stream.dropped == 0
        assert client.stats().connects == 1


async def test_a_pause_does_not_block_acks_and_heartbeats():
    """A paused consumer that never reads does not block them: it receives SlowConsumerError (R39)."""
    async with Misbehaver() as server, client_of(server, heartbeat=0.1, timeout=0.2) as client:
        room = client.channel("room", ack=True)
        stream = room.listen(broadcast(), buffer=5, overflow="pause")
        await room.subscribe()
        for number in range(200):
            server.wire.broadcast("room", "count", number)
        assert (await room.broadcast("mine", {}, timeout=5)).acked
        await server.got("heartbeat", 4)
        assert client.stats().connects == 1
        for number in range(5):
            assert (await anext(stream)).payload == number
        with pytest.raises(SlowConsumerError):
            await _exhaust(stream)
        assert stream.dropped > 0


async def _exhaust(stream: Any) -> None:
    async for _ in stream:
        pass
