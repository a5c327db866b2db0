"""Many clients, many channels, and many cycles."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from supawire import AsyncClient, Backoff, ConnectionState, Limits, broadcast, connect_async
from supawire.aio.channel import AsyncQueuedSent
from supawire.core.requests import TimerKind
from supawire.errors import ConnectionLostError
from supawire.server import LocalServer
from tests.faults.misbehaver import Misbehaver
from tests.faults.steps import KEY, client_of, joined_channel, ours, wait_for_state

pytestmark = pytest.mark.anyio

CROWD = 200


async def test_two_hundred_clients_reconnect_after_a_drop():
    """All clients reconnect, receive events, and leave no resources."""
    async with Misbehaver() as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(server)) for _ in range(CROWD)]
        rooms = [await joined_channel(client) for client in clients]
        for wire in list(server.wires):
            wire.reset()
        await server.got("phx_join", 2 * CROWD)
        await asyncio.gather(*(room.subscribe() for room, _ in rooms))
        for wire in server.wires[CROWD:]:
            wire.broadcast("room", "hello", {})
        for _, received in rooms:
            await received.until(1)
        assert len(server.wires) == 2 * CROWD
        assert all(client.stats().reconnects == 1 for client in clients)
    assert ours() == set()


@pytest.mark.slow
async def test_reconnects_of_many_clients_are_spread_over_time():
    """With the default backoff two hundred dropped clients reconnect spread over more than a second."""
    async with Misbehaver() as server, AsyncExitStack() as stack:
        clients: list[AsyncClient] = [
            await stack.enter_async_context(connect_async(server.url, KEY, backoff=Backoff())) for _ in range(CROWD)
        ]
        loop = asyncio.get_running_loop()
        delays: list[float] = []
        for client, wire in zip(clients, list(server.wires), strict=True):
            wire.reset()
            await wait_for_state(client, ConnectionState.RETRYING)
            delays.append((client._driver.session.deadline(TimerKind.RECONNECT) or 0.0) - loop.time())
            await client.close()
        assert max(delays) - min(delays) > 1.0
        thirds = [sum(third * 0.5 <= delay < (third + 1) * 0.5 for delay in delays) for third in range(3)]
        assert all(count > CROWD / 6 for count in thirds), thirds


async def test_rejoins_respect_the_rate_limit():
    """After a drop at most as many joins as the limit allows are sent at once, and finally all are joined."""
    limits = Limits(channels=None, joins_per_second=100)
    async with Misbehaver() as server, client_of(server, limits=limits) as client:
        rooms = [client.channel(f"room:{number}") for number in range(130)]
        await asyncio.gather(*(room.subscribe() for room in rooms))
        server.wire.reset()
        await server.got("phx_join", 131)
        await client.ping()
        assert len(server.of("phx_join")) <= 130 + 101  # what a burst allows; the others wait
        await asyncio.gather(*(room.subscribe() for room in rooms))
        assert len(server.of("phx_join")) == 260


async def test_many_subscribes_and_unsubscribes_leave_no_resources():
    """Channels that are joined and left, or created and removed, leave no task and no table entry."""
    async with Misbehaver() as server, client_of(server, limits=Limits.off()) as client:
        room, received = await joined_channel(client)
        await room.unsubscribe()
        tasks = len(asyncio.all_tasks())
        for number in range(200):
            await room.subscribe()
            other = client.channel(f"other:{number}")
            await other.subscribe()
            await client.remove_channel(other)
            await room.unsubscribe()
        session = client._driver.session
        assert len(asyncio.all_tasks()) == tasks
        assert set(client.channels) == {"room"} and set(session.channels) == {"realtime:room"}
        assert (client.stats().pending, session.next_deadline is not None) == (0, True)
        assert client._driver.pending == 0 and not session._context.replies._pending
        await room.subscribe()
        server.wire.broadcast("room", "x", {})
        await received.until(1)


async def test_sends_without_ack_leave_no_resources():
    """Five thousand sends leave no task, timer or table entry."""
    async with Misbehaver() as server, client_of(server, limits=Limits.off()) as client:
        room, _ = await joined_channel(client)
        tasks = len(asyncio.all_tasks())
        for number in range(5_000):
            await room.broadcast("x", number)
        assert len(asyncio.all_tasks()) == tasks
        assert client.stats().pending == 0 and not client._driver.pending
        assert len(client._driver.session._context.timers._deadlines) < 10
        await client.ping()
        assert len(server.of("broadcast")) == 5_000


@pytest.mark.parametrize("offline", ["queue", "wait"])
async def test_sends_during_drops_arrive_once_and_in_order_or_fail(offline: str):
    """Successful sends arrive once and in order; of the failed ones only those that may have been sent."""
    delivered: list[int] = []
    certain, maybe, errors = set[int](), set[int](), list[ConnectionLostError]()
    with LocalServer() as server:
        async with (
            client_of(server, server.anon_key) as receiver,
            client_of(server, server.anon_key, offline=offline, on_error=lambda error: None) as sender,
        ):
            got = receiver.channel("room")
            got.on(broadcast(), lambda message: delivered.append(message.payload["n"]))
            await got.subscribe()
            room = sender.channel("room", ack=True)
            await room.subscribe()
            for number in range(200):
                if number % 20 == 10:
                    server.drop_connections(connection=server.frames[-1].connection)  # it was the sender's
                try:
                    sent = await room.broadcast("x", {"n": number})
                    if isinstance(sent, AsyncQueuedSent):
                        await sent.wait()
                except ConnectionLostError as error:
                    errors.append(error)
                    if error.maybe_sent:
                        maybe.add(number)
                else:
                    certain.add(number)
            await receiver.ping()
            assert sender.stats().reconnects == 10
    assert delivered == sorted(set(delivered))
    assert certain <= set(delivered) <= certain | maybe
    assert len(certain) >= 190
    assert all("not sent again" in str(error) for error in errors)
