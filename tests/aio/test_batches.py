"""Batches of a stream in virtual time: size, time, end, gaps, slow consumers, and what a cancelled wait leaves."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supawire import AsyncChannel, Broadcast, Gap, broadcast, gaps
from supawire.aio.buffers import Buffer, DropOldest, Latest
from supawire.aio.stream import AsyncBatches, make_batching
from supawire.errors import InvalidArgumentError, SlowConsumerError, StateError
from supawire.testing import VirtualServer
from tests.aio.stream_scenarios import BACKOFF, in_virtual_time


@asynccontextmanager
async def joined() -> AsyncGenerator[tuple[AsyncChannel, VirtualServer]]:
    """Yield a joined channel and its server."""
    server = VirtualServer()
    async with server.connect(backoff=BACKOFF) as client, client.channel("room") as room:
        yield room, server


def send(server: VirtualServer, *numbers: int) -> None:
    for number in numbers:
        server.broadcast("room", "n", number)


def payloads(batch: list[Any]) -> list[Any]:
    return [event.payload for event in batch]


@in_virtual_time
async def test_a_batch_is_complete_with_its_last_event():
    """A list has at most `max` events in order, and is returned at once when it has that many."""
    async with joined() as (room, server):
        batches = room.listen(broadcast("n")).batches(max=3, within=60)
        send(server, *range(7))
        started = asyncio.get_running_loop().time()
        assert [payloads(await anext(batches)) for _ in range(2)] == [[0, 1, 2], [3, 4, 5]]
        assert asyncio.get_running_loop().time() - started < 1
        assert payloads(await anext(batches)) == [6]


@in_virtual_time
async def test_a_batch_is_complete_some_time_after_its_first_event():
    """An incomplete list is returned `within` seconds after its first event, however long the first one takes."""
    async with joined() as (room, server):
        batches = room.listen(broadcast("n")).batches(max=100, within=0.5)
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(10)
        send(server, 1)
        await asyncio.sleep(0.3)
        send(server, 2)
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await asyncio.sleep(0.15)
        assert payloads(waiting.result()) == [1, 2]


@in_virtual_time
async def test_within_zero_returns_what_is_there():
    """With within=0 a list has the events that are there, and never waits for more."""
    async with joined() as (room, server):
        batches = room.listen(broadcast("n")).batches(within=0)
        send(server, 1, 2)
        await asyncio.sleep(1)
        assert payloads(await anext(batches)) == [1, 2]


@in_virtual_time
async def test_a_cancelled_wait_loses_no_event():
    """Events of an unfinished list stay in the stream when the wait is cancelled or times out."""
    async with joined() as (room, server):
        stream = room.listen(broadcast("n"))
        batches = stream.batches(max=10, within=60)
        send(server, 1, 2)
        await asyncio.sleep(1)
        assert payloads(await anext(batches)) == [1, 2]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await anext(batches)
        send(server, 3, 4)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await anext(batches)
        assert (await stream.get()).payload == 3
        assert payloads(await anext(batches)) == [4]


@in_virtual_time
async def test_batches_end_as_the_stream_does():
    """The last events come in a list when the channel is left, and then the iteration ends."""
    async with joined() as (room, server):
        stream = room.listen(broadcast("n"))

        async def leave() -> None:
            await asyncio.sleep(1)
            send(server, 1, 2)
            await asyncio.sleep(1)
            await room.unsubscribe()

        leaving = asyncio.create_task(leave())
        started = asyncio.get_running_loop().time()
        assert [payloads(batch) async for batch in stream.batches(within=3600)] == [[1, 2]]
        assert asyncio.get_running_loop().time() - started < 60
        await leaving


@in_virtual_time
async def test_events_of_a_channel_that_was_left_do_not_wait():
    """A list that begins at the moment in which the channel is left does not wait for more events."""
    async with joined() as (room, server):
        stream = room.listen(broadcast("n"))
        batches = stream.batches(within=3600)
        send(server, 1)
        await asyncio.sleep(1)
        assert payloads(await anext(batches)) == [1]
        send(server, 2)
        await asyncio.sleep(0.01)
        await room.unsubscribe()
        async with asyncio.timeout(60):
            assert [payloads(batch) async for batch in batches] == [[2]]


@in_virtual_time
async def test_closing_the_stream_ends_its_batches():
    """Closing drops unread events, as in the stream, and a waiting consumer ends."""
    async with joined() as (room, server):
        stream = room.listen(broadcast("n"))
        waiting = asyncio.ensure_future(anext(stream.batches(within=3600), "end"))
        await asyncio.sleep(1)
        send(server, 1)
        await asyncio.sleep(1)
        stream.close()
        assert await waiting == "end"


@in_virtual_time
async def test_a_gap_is_in_the_batch_at_its_place():
    """A gap between two events is in the list between them."""
    async with joined() as (room, server):
        batches = room.listen(broadcast("n"), gaps()).batches(max=3, within=60)
        send(server, 1)
        await asyncio.sleep(1)
        server.drop_connections()
        await asyncio.sleep(30)  # it reconnects meanwhile
        send(server, 2)
        await asyncio.sleep(1)
        batch: list[Any] = await anext(batches)
        assert [type(event) for event in batch] == [Broadcast, Gap, Broadcast]


@in_virtual_time
async def test_the_error_of_a_slow_consumer_follows_the_events_that_were_kept():
    """The list has the events that fitted into the buffer, which may be fewer than `max`; then the error is raised."""
    async with joined() as (room, server):
        batches = room.listen(broadcast("n"), buffer=4).batches(max=100, within=60)
        send(server, *range(6))
        await asyncio.sleep(1)
        assert payloads(await anext(batches)) == [0, 1, 2, 3]
        with pytest.raises(SlowConsumerError):
            await anext(batches)
        send(server, 7)
        assert payloads(await anext(batches)) == [7]


@in_virtual_time
async def test_a_consumer_does_not_wait_for_events_that_its_buffer_cannot_have():
    """A list is not delayed until it has `max` events if the buffer has less room."""
    buffer = Buffer(3)
    batches = AsyncBatches[int](_never, buffer, make_batching(buffer.limit, 100, 3600))
    buffer.put(0)
    await anext(batches)
    buffer.put(1)
    waiting = asyncio.ensure_future(anext(batches))
    await asyncio.sleep(0)
    buffer.put(2)
    buffer.put(3)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert waiting.done() and waiting.result() == [1, 2, 3]


@in_virtual_time
async def test_a_burst_fits_into_the_buffer_of_a_consumer_that_waits():
    """A list is complete when the buffer is half full, so that a waiting consumer loses no event of a burst."""
    buffer = Buffer(100)
    batches = AsyncBatches[int](buffer.wait, buffer, make_batching(buffer.limit, 100, 3600))
    waiting = asyncio.ensure_future(anext(batches))
    await asyncio.sleep(0)
    taken: list[int] = []
    for number in range(0, 1000, 40):  # bursts, between which the consumer runs
        for one in range(number, number + 40):
            buffer.put(one)
        await asyncio.sleep(1)
        if waiting.done():
            taken += waiting.result()
            waiting = asyncio.ensure_future(anext(batches))
    waiting.cancel()
    assert buffer.dropped == 0
    assert taken + list(buffer.events) == list(range(1000))


@in_virtual_time
async def test_latest_merges_events_while_a_batch_waits():
    """With overflow="latest", newer events replace older ones of the same key until the list is complete."""
    buffer = Latest(10, key=lambda event: event[0])
    batches = AsyncBatches[Any](buffer.wait, buffer, make_batching(buffer.limit, 3, 1))
    waiting = asyncio.ensure_future(anext(batches))
    for event in ("a1", "b1", "a2"):
        await asyncio.sleep(0.1)
        buffer.put(event)
    await asyncio.sleep(2)
    assert waiting.result() == ["a2", "b1"]


@in_virtual_time
async def test_large_events_complete_a_batch():
    """A consumer that waits for more events is woken when those that wait have too many bytes together."""
    buffer = DropOldest(10)
    buffer.max_bytes = 100
    batches = AsyncBatches[Any](buffer.wait, buffer, make_batching(buffer.limit, 10, 3600))
    waiting = asyncio.ensure_future(anext(batches))
    await asyncio.sleep(0)
    for name in "ab":
        buffer.put(Broadcast("room", name, b"x" * 60))
        buffer.limit_bytes()
        await asyncio.sleep(1)
    assert [event.event for event in waiting.result()] == ["b"]


@in_virtual_time
async def test_two_tasks_cannot_wait_for_one_stream():
    """A second task that waits for a batch raises, and the first continues."""
    async with joined() as (room, server):
        stream = room.listen(broadcast("n"))
        waiting = asyncio.ensure_future(anext(stream.batches(within=60)))
        await asyncio.sleep(1)
        send(server, 1)
        await asyncio.sleep(1)
        with pytest.raises(StateError):
            await stream._buffer.wait()
        await asyncio.sleep(60)
        assert payloads(waiting.result()) == [1]


@pytest.mark.parametrize("arguments", [{"max": 0}, {"max": 1.5}, {"max": True}, {"within": -1}, {"within": None}])
@in_virtual_time
async def test_arguments_are_checked_when_it_is_called(arguments: dict[str, Any]):
    """A wrong size or time raises at once."""
    async with joined() as (room, _):
        with pytest.raises(InvalidArgumentError, match=next(iter(arguments))):
            room.listen(broadcast("n")).batches(**arguments)


async def _never() -> None:
    raise AssertionError("not called")


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 30)),
        st.tuples(st.just("sleep"), st.floats(0, 2)),
    ),
    max_size=40,
)


@given(steps=STEPS, size=st.integers(1, 20), within=st.sampled_from([0.0, 0.1, 1.0]), work=st.floats(0, 1.5))
def test_no_event_waits_longer_than_it_may(steps: list[tuple[str, Any]], size: int, within: float, work: float):
    """All events arrive once and in order, also over timeouts; each is taken `within` seconds after it arrived at the
    latest, or as soon as the consumer asks and earlier events are gone."""
    in_virtual_time(_consume)(steps, size, within, work)


async def _consume(steps: list[tuple[str, Any]], size: int, within: float, work: float) -> None:
    loop, buffer = asyncio.get_running_loop(), Buffer(10_000)
    batches = AsyncBatches[tuple[int, float]](buffer.wait, buffer, make_batching(buffer.limit, size, within))
    taken: list[int] = []
    total = sum(count for kind, count in steps if kind == "put")

    async def produce() -> None:
        number = 0
        for kind, amount in steps:
            if kind == "sleep":
                await asyncio.sleep(amount)
                continue
            for _ in range(amount):
                buffer.put((number, loop.time()))
                number += 1

    async def consume() -> None:
        while len(taken) < total:
            asked = loop.time()
            try:
                async with asyncio.timeout(0.7):
                    batch = await anext(batches)
            except TimeoutError:
                continue
            assert 0 < len(batch) <= size
            oldest = min(arrived for _, arrived in batch)
            assert loop.time() <= max(asked, oldest + within) + 1e-6
            taken.extend(number for number, _ in batch)
            await asyncio.sleep(work)

    async with asyncio.timeout(1000), asyncio.TaskGroup() as tasks:
        tasks.create_task(produce())
        tasks.create_task(consume())
    assert taken == list(range(total))
