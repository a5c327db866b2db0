"""Channels of one client on several sockets, with both clients and the local server."""

from typing import Any

import pytest

from supawire import ChannelState, ConnectionState, Limits, LocalServer, RateLimitedError, broadcast
from supawire.server import ServerLimits
from tests.clients.client_api import ClientApi, until

OPTIONS: dict[str, Any] = {"max_sockets": 4, "limits": Limits(channels=3, joins_per_second=None)}


async def test_each_channel_receives_and_sends_after_a_lost_socket(api: ClientApi):
    """Twelve channels on four sockets: each gets its message before and after one socket is lost, and can send."""
    asked: list[None] = []
    with LocalServer(limits=ServerLimits(channels=3)) as server:

        def token() -> str:
            asked.append(None)
            return server.token()

        async with api.client(server, token=token, **OPTIONS) as client:
            rooms = [await client.channel(f"room-{number}", ack=True) for number in range(12)]
            received: list[list[Any]] = [[] for _ in rooms]
            for room, kept in zip(rooms, received, strict=True):
                await room.on(broadcast("e"), lambda event, kept=kept: kept.append(event.payload))
                await room.subscribe()
            assert [socket.channels for socket in (await client.stats()).sockets] == [3, 3, 3, 3]
            assert len(asked) == 1
            join = next(frame for frame in server.frames if frame.topic == "realtime:room-7")
            for times in (1, 2):
                for number in range(12):
                    server.broadcast(f"room-{number}", "e", number)
                await until(lambda times=times: all(len(kept) == times for kept in received))
                assert received == [[number] * times for number in range(12)]
                if times == 1:
                    server.drop_connections(connection=join.connection)
                    await until(lambda: client.inner.stats().reconnects == 1)
                    await until(lambda: all(room.state is ChannelState.JOINED for room in rooms))
            assert [(await room.broadcast("back", 1)).acked for room in rooms] == [True] * 12
            stats = await client.stats()
            assert [socket.reconnects for socket in stats.sockets] == [0, 0, 1, 0]
            assert client.state is ConnectionState.OPEN


async def test_the_most_channels_of_all_sockets_are_stated(api: ClientApi, server: LocalServer):
    """One channel more than all sockets take raises with the number of sockets and the option."""
    async with api.client(server, max_sockets=2, limits=Limits(channels=1)) as client:
        for number in range(2):
            await (await client.channel(f"room-{number}")).subscribe()
        one_more = await client.channel("one more")
        with pytest.raises(RateLimitedError, match="2 sockets") as caught:
            await one_more.subscribe()
        assert "max_sockets=" in str(caught.value)
