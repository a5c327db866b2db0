"""Senders of the newest values, in virtual time."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from supawire import AsyncChannel, Backoff, Limits
from supawire.errors import ClosedError, InvalidArgumentError, OperationTimeout, RateLimitedError, StateError
from supawire.selectors import broadcast
from supawire.testing import VirtualServer
from tests.aio.stream_scenarios import in_virtual_time

Got = list[tuple[float, str, Any]]


@asynccontextmanager
async def two(server: VirtualServer, **options: Any) -> AsyncGenerator[tuple[AsyncChannel, Got]]:
    """Yield a joined channel, and what another client receives: seconds since the start, event and payload."""
    options = {"backoff": Backoff(initial=1, maximum=1, jitter=0), **options}
    soon = Backoff(initial=0.1, maximum=0.1, jitter=0)
    async with server.connect(**options) as one, server.connect(backoff=soon) as other:
        got: Got = []
        room, there = one.channel("room"), other.channel("room")
        loop = asyncio.get_running_loop()
        there.on(broadcast(), lambda message: got.append((loop.time() - began, message.event, message.payload)))
        await there.subscribe()
        await room.subscribe()
        began = loop.time()
        yield room, got


@in_virtual_time
async def test_the_first_value_is_sent_at_once_and_the_last_one_always() -> None:
    """A hundred values in a second at 4 a second are sent evenly: first, newest at each turn, and last."""
    async with two(VirtualServer()) as (room, got), room.throttled(4) as sender:
        for number in range(100):
            sender.send("cursor", {"n": number})
            await asyncio.sleep(0.01)
        assert sender.replaced > 90
        await asyncio.sleep(1)
        assert [round(at, 2) for at, _, _ in got] == pytest.approx([0, 0.25, 0.5, 0.75, 1.0], abs=0.02)
        assert [payload["n"] for _, _, payload in got][::4] == [0, 99]
        assert sender.waiting == 0


@in_virtual_time
async def test_keys_take_turns() -> None:
    """The rate is that of all keys, and a frequent key does not delay others beyond one round."""
    async with two(VirtualServer()) as (room, got), room.throttled(10) as sender:
        for number in range(30):
            for key in ("a", "b", "c"):
                sender.send("cursor", [key, number], key=key)
            await asyncio.sleep(0.1)
        assert 30 <= len(got) <= 31
        assert "".join(payload[0] for _, _, payload in got[:30]) == "abc" * 10


@in_virtual_time
async def test_values_wait_for_a_lost_connection() -> None:
    """While the channel joins again only the newest value waits; it is sent after the join."""
    server = VirtualServer()
    async with two(server) as (room, got), room.throttled(100) as sender:
        sender.send("cursor", 0)
        await asyncio.sleep(0.1)
        server.drop_connections()
        await asyncio.sleep(0.1)
        for number in range(1, 50):
            sender.send("cursor", number)
        await asyncio.sleep(5)
        assert [payload for _, _, payload in got][-1] == 49 and len(got) <= 3


@in_virtual_time
async def test_the_end_of_the_block_sends_what_waits() -> None:
    """`async with` and a drain of the client send the values that wait; an error in the block discards them."""
    async with two(VirtualServer()) as (room, got):
        async with room.throttled(2) as sender:
            for key in "abc":
                sender.send("e", key, key=key)
        assert [payload for _, _, payload in got] == ["a", "b", "c"]
        with pytest.raises(ClosedError, match="sender was closed"):
            sender.send("e", 1)
        sender = room.throttled(0.1)
        for key in "de":
            sender.send("e", key, key=key)
        await sender.__aexit__(ValueError, ValueError("mine"), None)
        assert sender.waiting == 2


@in_virtual_time
async def test_the_end_of_the_block_waits_for_a_value_that_the_rate_limit_of_the_client_holds() -> None:
    """A value that was handed to the client, whose own limit delays it, is sent before the block ends."""
    async with two(VirtualServer(), limits=Limits(messages_per_second=1)) as (room, got):
        await room.broadcast("e", 0)
        async with room.throttled(100) as sender:
            sender.send("e", 1)
            await asyncio.sleep(0.1)
            assert sender.waiting == 0
        await asyncio.sleep(0.1)
        assert [payload for _, _, payload in got] == [0, 1]


@in_virtual_time
async def test_a_drain_of_the_client_sends_what_waits() -> None:
    """Values that wait when the client drains are sent before it closes."""
    server = VirtualServer()
    async with two(server) as (_, got):
        async with server.connect() as client:
            channel = client.channel("room")
            await channel.subscribe()
            sender = channel.throttled(2)
            for key in "abc":
                sender.send("e", key, key=key)
            await client.drain()
        assert [payload for _, _, payload in got] == ["a", "b", "c"]


@in_virtual_time
async def test_bad_input_is_refused_at_once() -> None:
    """Wrong values raise in `send`, and so do too many keys and a channel that is not subscribed."""
    async with two(VirtualServer()) as (room, _):
        for wrong in (0, -1, "4", None, True):
            with pytest.raises(InvalidArgumentError, match="per_second"):
                room.throttled(wrong)  # pyright: ignore[reportArgumentType]
        sender = room.throttled(0.001, max_keys=2)
        sender.send("e", 0)
        await asyncio.sleep(0.1)
        wrong_calls: tuple[dict[str, Any], ...] = ({"event": ""}, {"payload": object()}, {"key": ""}, {"key": 5})
        for changed in wrong_calls:
            arguments: dict[str, Any] = {"event": "e", "payload": 1, **changed}
            with pytest.raises(InvalidArgumentError):
                sender.send(**arguments)
        sender.send("e", 1)
        sender.send("e", 2, key="b")
        sender.send("e", 3)
        with pytest.raises(RateLimitedError, match="max_keys"):
            sender.send("e", 4, key="c")
        with pytest.raises(OperationTimeout, match="2 values were not sent"):
            await sender.flush(timeout=1)
        await room.unsubscribe()
        with pytest.raises((StateError, ClosedError)):
            sender.send("e", 5)


@in_virtual_time
async def test_the_budget_shows_what_is_used() -> None:
    """`stats()` has how many calls of the rate limits were made and may still be made."""
    async with VirtualServer().connect(limits=Limits(messages_per_second=5, joins_per_second=10)) as client:
        room = client.channel("room")
        await room.subscribe()
        for number in range(3):
            await room.broadcast("e", number)
        budget = client.stats().message_budget
        assert (budget.limit, budget.window, budget.used, budget.left) == (5, 1.0, 3, 2)
        assert client.stats().join_budget.used == 1
        assert client.stats().presence_budget.limit is None and client.stats().presence_budget.left is None
        await asyncio.sleep(1.1)
        assert client.stats().message_budget.left == 5
