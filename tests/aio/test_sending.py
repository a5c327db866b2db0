"""Broadcasts over the connection, and how their outcome is reported."""

import asyncio
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from supawire import AsyncQueuedSent
from supawire.errors import (
    ClosedError,
    ConnectionLostError,
    InvalidArgumentError,
    OperationTimeout,
    PayloadTooLargeError,
    PushError,
    RateLimitedError,
    StateError,
)
from supawire.events import Sent
from supawire.options import Limits
from tests.aio.peer import connected, driven, settled

pytestmark = pytest.mark.anyio


async def test_a_broadcast_returns_when_it_is_written():
    """Without ack `broadcast` returns when the frame is written, and leaves nothing pending (R31, R33)."""
    async with driven() as (client, server, driver):
        room = client.channel("room")
        await room.subscribe()
        before = len(asyncio.all_tasks())
        for number in range(500):
            assert await room.broadcast("typing", {"number": number}) == Sent("socket")
        assert len(asyncio.all_tasks()) == before
        assert (client.stats().pending, driver.pending) == (0, 0)
        await server.got("broadcast", 500)
        assert [frame.payload["payload"]["number"] for frame in server.of("broadcast")] == list(range(500))


@pytest.mark.parametrize("payload", [{}, [], "text", 0, None, True, {"n": 12345678901234567890}, b"\x00\xff", b""])
async def test_any_json_value_or_bytes_can_be_sent(payload: Any):
    """Every JSON value and bytes arrive as they were given (R40)."""
    async with connected() as (client, server):
        room = client.channel("room")
        await room.subscribe()
        await room.broadcast("e", payload)
        assert (await server.got("broadcast")).payload["payload"] == payload


async def test_values_of_python_are_written_as_json():
    """Datetimes and decimals become strings; bytes-like payloads are sent as bytes."""
    async with connected() as (client, server):
        room = client.channel("room")
        await room.subscribe()
        await room.broadcast("e", {"at": datetime(2026, 1, 1, tzinfo=UTC), "price": Decimal("1.10")})
        await room.broadcast("e", bytearray(b"abc"))
        await server.got("broadcast", 2)
        first, second = (frame.payload["payload"] for frame in server.of("broadcast"))
        assert (first, second) == ({"at": "2026-01-01T00:00:00Z", "price": "1.10"}, b"abc")


async def test_a_payload_that_is_not_json_raises_at_once():
    """NaN, objects that are not JSON, and empty or overlong event names raise before anything is sent."""
    async with connected() as (client, server):
        room = client.channel("room")
        await room.subscribe()
        for event, payload in (("e", float("nan")), ("e", {"a": [object()]}), ("", {}), ("x" * 256, {})):
            with pytest.raises(InvalidArgumentError):
                await room.broadcast(event, payload)
        await settled()
        assert server.events()["broadcast"] == 0


async def test_with_ack_broadcast_returns_after_the_reply():
    """With ack `broadcast` returns after the server's reply (R31)."""
    async with connected() as (client, server):
        server.answers["broadcast"] = None
        room = client.channel("room", ack=True)
        await room.subscribe()
        sending = asyncio.create_task(room.broadcast("e", {}))
        frame = await server.got("broadcast")
        await settled()
        assert not sending.done()
        server.reply(frame)
        assert await sending == Sent("socket", acked=True)


async def test_a_refused_broadcast_raises():
    """An error reply raises PushError with the reason, a string as well as an object (R31, R40)."""
    async with connected() as (client, server):
        server.answers["broadcast"] = lambda frame: server.reply(frame, "error", "payload_size_exceeded")
        room = client.channel("room", ack=True)
        await room.subscribe()
        with pytest.raises((PushError, PayloadTooLargeError), match="payload_size_exceeded"):
            await room.broadcast("e", {})


async def test_an_ack_that_does_not_come_is_a_timeout():
    """A missing ack raises OperationTimeout after the call's timeout (R31)."""
    async with connected() as (client, server):
        server.answers["broadcast"] = None
        room = client.channel("room", ack=True)
        await room.subscribe()
        with pytest.raises(OperationTimeout):
            await room.broadcast("e", {}, timeout=0.02)
        assert client.stats().pending == 0


async def test_the_error_of_a_lost_connection_has_maybe_sent():
    """An ack lost with the connection raises ConnectionLostError with `maybe_sent` (R31)."""
    async with connected() as (client, server):
        server.answers["broadcast"] = None
        room = client.channel("room", ack=True)
        await room.subscribe()
        sending = asyncio.create_task(room.broadcast("e", {}))
        await server.got("broadcast")
        assert server.peer is not None
        server.peer.drop()
        with pytest.raises(ConnectionLostError) as caught:
            await sending
        assert caught.value.maybe_sent


async def test_a_full_network_delays_the_caller():
    """While the network accepts no data `broadcast` waits for its frame to be written; an unwritten frame raises an
    error that says so (R31)."""
    async with connected(capacity=3) as (client, server):
        room = client.channel("room")
        await room.subscribe()
        await settled()
        peer = server.peer
        assert peer is not None
        server.transport.silent = True
        server.stops_reading.set()
        sending = [asyncio.create_task(room.broadcast("e", number)) for number in range(6)]
        await settled()
        done = [task.done() for task in sending]
        assert done == sorted(done, reverse=True)
        assert 0 < sum(done) < 6
        late = asyncio.create_task(room.broadcast("e", "late", timeout=0.02))
        with pytest.raises(OperationTimeout):
            await late
        peer.drop()
        for task in sending[sum(done) :]:
            with pytest.raises(ConnectionLostError) as caught:
                await task
            assert not caught.value.maybe_sent


async def test_not_joined_raises_by_default():
    """With offline="raise" a broadcast of a channel that is not joined raises StateError with the reason (R31, R32)."""
    async with connected() as (client, server):
        room = client.channel("room")
        with pytest.raises(StateError, match="not joined"):
            await room.broadcast("e", {})
        server.answers["phx_join"] = None
        joining = asyncio.create_task(room.subscribe())
        await server.got("phx_join")
        with pytest.raises(StateError, match="joining"):
            await room.broadcast("e", {})
        joining.cancel()


async def test_offline_wait_sends_after_the_join():
    """With offline="wait" the call returns when the broadcast was sent after the join, or raises after its timeout
    (R32)."""
    async with connected(offline="wait") as (client, server):
        room = client.channel("room")
        with pytest.raises(OperationTimeout, match="not sent"):
            await room.broadcast("e", "lost", timeout=0.02)
        sending = asyncio.create_task(room.broadcast("e", "kept"))
        await settled()
        assert not sending.done()
        await room.subscribe()
        assert await sending == Sent("socket")
        await server.got("broadcast")
        assert [frame.payload["payload"] for frame in server.of("broadcast")] == ["kept"]


async def test_a_waiting_broadcast_can_be_cancelled():
    """A broadcast that is cancelled while it waits for the join is never sent (R32)."""
    async with connected(offline="wait") as (client, server):
        room = client.channel("room")
        sending = asyncio.create_task(room.broadcast("e", "cancelled"))
        await settled()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await room.subscribe()
        await room.broadcast("e", "kept")
        await server.got("broadcast")
        assert [frame.payload["payload"] for frame in server.of("broadcast")] == ["kept"]


async def test_offline_queue_returns_at_once():
    """With offline="queue" the call returns an AsyncQueuedSent, and broadcasts are sent in order, once each, after
    the join (R32)."""
    async with connected(offline="queue") as (client, server):
        room = client.channel("room")
        queued = [await room.broadcast("e", number) for number in range(5)]
        assert {sent.via for sent in queued} == {"queue"}
        assert client.stats().queued == 5
        await room.subscribe()
        for sent in queued:
            assert isinstance(sent, AsyncQueuedSent)
            assert await sent.wait() == Sent("socket")
        await server.got("broadcast", 5)
        assert [frame.payload["payload"] for frame in server.of("broadcast")] == [0, 1, 2, 3, 4]
        assert (await room.broadcast("e", 5)).via == "socket"


async def test_a_queued_failure_reaches_on_error_and_wait():
    """A queued broadcast that expires fails its `wait`, and is reported to `on_error` if `wait` was not called
    (R32)."""
    errors: list[Exception] = []
    async with connected(offline="queue", on_error=errors.append) as (client, _):
        room = client.channel("room")
        sent = await room.broadcast("e", {}, timeout=0.02)
        assert isinstance(sent, AsyncQueuedSent)
        with pytest.raises(OperationTimeout):
            await sent.wait()
        await settled()
        assert [type(error) for error in errors] == [OperationTimeout]


async def test_the_queue_is_bounded():
    """A full queue raises for the next broadcast instead of growing (R32)."""
    async with connected(offline="queue", queue_size=2, on_error=lambda error: None) as (client, _):
        room = client.channel("room")
        await room.broadcast("e", 1)
        await room.broadcast("e", 2)
        with pytest.raises(StateError, match="2 broadcasts are already queued"):
            await room.broadcast("e", 3)


async def test_sizes_raise_at_once():
    """A payload over the limit raises PayloadTooLargeError before anything is sent (R36)."""
    async with connected(limits=Limits(payload_bytes=100)) as (client, server):
        room = client.channel("room")
        await room.subscribe()
        with pytest.raises(PayloadTooLargeError, match="100"):
            await room.broadcast("e", "x" * 200)
        await settled()
        assert server.events()["broadcast"] == 0


async def test_pacing_delays_then_raises():
    """A limit on messages delays a broadcast up to its timeout, then RateLimitedError names the limit (R35)."""
    async with connected(limits=Limits(messages_per_second=2)) as (client, server):
        room = client.channel("room")
        await room.subscribe()
        await room.broadcast("e", 1)
        await room.broadcast("e", 2)
        with pytest.raises(RateLimitedError, match="messages per second"):
            await room.broadcast("e", 3, timeout=0.02)
        assert server.events()["broadcast"] <= 2


async def test_ack_needs_a_channel_with_ack():
    """`ack=True` for one broadcast of a channel without ack raises an error that says what to do."""
    async with connected() as (client, _):
        room = client.channel("room")
        await room.subscribe()
        with pytest.raises(StateError, match="ack=True"):
            await room.broadcast("e", {}, ack=True)


async def test_a_closed_client_refuses_to_send():
    """After `close` a broadcast raises ClosedError (R10, R31)."""
    async with connected() as (client, _):
        room = client.channel("room")
        await room.subscribe()
        await client.close()
        with pytest.raises(ClosedError):
            await room.broadcast("e", json.loads("{}"))
