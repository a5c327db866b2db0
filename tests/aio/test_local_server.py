"""The async client over real sockets, with the local server."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from supawire import (
    AsyncClient,
    ConnectionState,
    Insert,
    LocalServer,
    PresenceJoin,
    broadcast,
    changes,
    connect_async,
    presence,
)
from supawire.errors import ConnectError, JoinDeniedError
from supawire.options import Backoff
from supawire.transport.websocket import WebSocketTransport
from tests.aio.peer import until
from tests.held import Held

pytestmark = pytest.mark.anyio

QUICK = Backoff(initial=0.01, maximum=0.05)


@pytest.fixture(scope="module")
def shared() -> Iterator[LocalServer]:
    with LocalServer() as server:
        yield server


@pytest.fixture
def server(shared: LocalServer) -> Iterator[LocalServer]:
    yield shared
    shared.accept_connections()
    shared.resume()


def client_of(server: LocalServer, **options: Any) -> Any:
    options = {"backoff": QUICK, "rejoin_backoff": QUICK, **options}
    return connect_async(server.url, server.anon_key, **options)


@pytest.mark.parametrize("protocol", ["1.0.0", "2.0.0"])
async def test_two_clients_exchange_all_kinds_of_events(server: LocalServer, protocol: Any):
    """Broadcast, ack, presence and changes work between two clients in both versions of the protocol."""
    async with client_of(server, protocol=protocol) as one, client_of(server, protocol=protocol) as two:
        name = f"room:{protocol}"
        first, second = one.channel(name, ack=True), two.channel(name, presence_key="two")
        received, rows = first.listen(broadcast("typing")), first.listen(changes("users"))
        people = first.listen(presence())
        await first.subscribe(wait="ready")
        await second.subscribe()
        await second.broadcast("typing", {"user": "zwei"})
        assert (await anext(received)).payload == {"user": "zwei"}
        assert (await first.broadcast("typing", [1, None])).acked
        await second.track({"name": "Zwei"})
        async for event in people:
            if isinstance(event, PresenceJoin):
                assert event.key == "two"
                break
        assert [entry.payload for entry in first.presence_state()["two"]] == [{"name": "Zwei"}]
        server.emit("INSERT", "users", record={"id": 2**60, "name": "Ada"})
        change = await anext(rows)
        assert isinstance(change, Insert)
        assert change.record == {"id": 2**60, "name": "Ada"}


async def test_bytes_arrive_as_they_were_sent(server: LocalServer):
    """A binary broadcast arrives as the bytes that were sent."""
    async with client_of(server) as client:
        room = client.channel("bytes", echo=True)
        received = room.listen(broadcast())
        async with room:
            await room.broadcast("blob", bytes(range(256)) * 1000)
            assert (await anext(received)).payload == bytes(range(256)) * 1000


async def test_a_dropped_connection_is_restored(server: LocalServer):
    """After a cut connection, refusals and a close code, the channel is joined again and receives (R7, R15)."""
    async with client_of(server) as client:
        room = client.channel("back")
        received = room.listen(broadcast())
        await room.subscribe()
        server.refuse_connections(times=2)
        server.drop_connections()
        await until(lambda: client.stats().reconnects == 1 and room.state.value == "joined")
        server.drop_connections(1012)
        await until(lambda: client.stats().reconnects == 2 and room.state.value == "joined")
        async with client_of(server) as other, other.channel("back") as theirs:
            await theirs.broadcast("e", "again")
        assert (await anext(received)).payload == "again"


async def test_a_wrong_key_raises_at_once(server: LocalServer):
    """A wrong key is refused at once, and the error does not show it (R30, R48)."""
    with pytest.raises(ConnectError) as caught:
        await connect_async(server.url, "not-the-key")
    assert caught.value.status in (401, 403)
    assert "not-the-key" not in str(caught.value) + repr(caught.value.__cause__)


async def test_a_private_channel_needs_its_policy(server: LocalServer):
    """A private channel is refused permanently without permission, and joined by a user with permission."""
    async with client_of(server) as unauthorized:
        with pytest.raises(JoinDeniedError):
            await unauthorized.channel("secret", private=True).subscribe()
    async with client_of(server, token=server.token()) as user:
        await user.channel("secret", private=True).subscribe()


async def test_the_client_receives_after_garbage_on_a_real_socket(server: LocalServer):
    """After invalid frames of every kind the client still receives, on this connection or the next (R40)."""
    async with client_of(server) as client:
        room = client.channel("garbage")
        received = room.listen(broadcast())
        await room.subscribe()
        server.garbage()
        await until(lambda: client.stats().garbage_frames > 0)
        await until(lambda: room.state.value == "joined")
        async with client_of(server) as other, other.channel("garbage") as theirs:
            await theirs.broadcast("e", "after")
        assert (await anext(received)).payload == "after"


async def test_a_message_of_three_megabytes_arrives(server: LocalServer):
    """A message of three megabytes is sent and received (R36)."""
    async with client_of(server) as client:
        room = client.channel("big", echo=True)
        received = room.listen(broadcast())
        async with room:
            await room.broadcast("e", "x" * 2_900_000)
            assert len((await anext(received)).payload) == 2_900_000


async def test_many_messages_keep_their_order(server: LocalServer):
    """Thousands of broadcasts from one client all arrive at another in order (R31)."""
    async with client_of(server) as one, client_of(server) as two:
        received = two.channel("flood").listen(broadcast(), buffer=5000)
        await two.channel("flood").subscribe()
        async with one.channel("flood") as room:
            for number in range(3000):
                await room.broadcast("e", number)
            assert [(await anext(received)).payload for _ in range(3000)] == list(range(3000))


async def test_a_hundred_channels_on_one_connection(server: LocalServer):
    """A hundred channels join within the limit on joins, and all receive (R9)."""
    async with client_of(server) as client, client_of(server) as other:
        rooms = [client.channel(f"many:{number}") for number in range(100)]
        streams = [room.listen(broadcast()) for room in rooms]
        await asyncio.gather(*(room.subscribe() for room in rooms))
        assert client.stats().connects == 1
        for number in (0, 50, 99):
            async with other.channel(f"many:{number}") as room:
                await room.broadcast("e", number)
            assert (await anext(streams[number])).payload == number


async def test_close_ends_although_the_server_is_silent(server: LocalServer):
    """Closing takes a bounded time although the server has stopped answering."""
    client: AsyncClient = await client_of(server, transport=WebSocketTransport(close_timeout=0.05))
    await client.channel("silent").subscribe()
    server.pause()
    await client.close()
    assert client.state is ConnectionState.CLOSED


async def test_open_and_close_leaves_no_socket(server: LocalServer):
    """Many clients, closed in different states, leave no task, thread or file descriptor (R10)."""

    async def one(number: int) -> None:
        client = await client_of(server)
        room = client.channel(f"cycle:{number}")
        room.on(broadcast(), print, thread=True)
        if number % 3:
            await room.subscribe()
        if number % 3 == 1:
            await room.broadcast("e", {})
        await client.close()

    await one(1)
    before = Held.now()
    for number in range(30):
        await one(number)
    await until(lambda: not _tasks() and not Held.now().since(before))


def _tasks() -> list[str]:
    return [name for task in asyncio.all_tasks() if (name := task.get_name()).startswith("supawire")]


async def test_the_iterator_reports_events_dropped_while_sending(server: LocalServer):
    """Over a connection that is cut, every send reports success or a typed error, and success is true (R32)."""
    received: list[int] = []
    async with client_of(server) as one, client_of(server, offline="wait") as two:
        room, mirror = two.channel("cut", ack=True), one.channel("cut")
        mirror.on(broadcast(), lambda message: received.append(message.payload))
        await mirror.subscribe()
        await room.subscribe()
        sent: list[int] = []
        for number in range(60):
            if number == 30:
                server.drop_connections(1012)
                await until(lambda: one.stats().reconnects == 1 and mirror.state.value == "joined")
            try:
                await room.broadcast("e", number)
            except ConnectionError:
                continue
            sent.append(number)
        await until(lambda: len(received) >= len(sent))
        assert received == sorted(set(received))
        assert set(sent) <= set(received)
