"""`VirtualServer` and `VirtualTimeLoop`."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pytest

import supawire.testing
from supawire import (
    Backoff,
    ConnectError,
    ConnectionState,
    Gap,
    Insert,
    JoinDeniedError,
    Status,
    broadcast,
    changes,
    gaps,
    presence,
)
from supawire.errors import StateError
from supawire.server import ServerLimits
from supawire.testing import VirtualServer, VirtualTimeLoop

Scenario = Callable[[], Coroutine[Any, Any, None]]


def play(scenario: Scenario) -> float:
    """Run a coroutine in virtual time, and return the seconds that it took there."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        started = runner.get_loop().time()
        runner.run(scenario())
        return runner.get_loop().time() - started


def test_an_outage_of_ten_minutes_takes_no_time():
    """Ten virtual minutes without a server pass at once, and the client reconnects with a gap and all listeners."""

    async def scenario() -> None:
        server = VirtualServer()
        async with server.connect() as client:
            stream = client.channel("orders").listen(changes("orders"), gaps())
            await client.channel("orders").subscribe(wait="ready")
            server.refuse_connections(seconds=600)
            server.drop_connections()
            gap = await anext(stream)
            assert isinstance(gap, Gap) and gap.lost == {"changes"}
            server.emit("INSERT", "orders", record={"id": 1})
            row = await anext(stream)
            assert isinstance(row, Insert) and row.record == {"id": 1}
            assert client.stats().reconnects == 1

    assert play(scenario) >= 600


def test_runs_are_reproducible():
    """Two runs take the same virtual seconds, without random delays."""

    async def scenario() -> None:
        server = VirtualServer()
        async with server.connect(backoff=Backoff(initial=3, jitter=0)) as client:
            server.drop_connections()
            await client.channel("room").subscribe(timeout=None)
            server.lag(0.25)
            await client.ping()

    assert play(scenario) == play(scenario)


def test_all_features_work_without_a_network():
    """Broadcasts, presence, stored messages, HTTP and private channels work in one loop."""

    async def scenario() -> None:
        server = VirtualServer()

        @server.policy
        def members(claims: Mapping[str, Any], topic: str, extension: str, action: str) -> bool:
            return topic in claims.get("rooms", [])

        async with server.connect(token=server.token(rooms=["room"])) as client:
            room = client.channel("room", private=True, ack=True, echo=True, presence_key="alice")
            broadcasts, presences = room.listen(broadcast()), room.listen(presence())
            await room.subscribe()
            await room.track({"mood": "fine"})
            await anext(presences)
            await room.broadcast("sent", {"n": 1})
            await client.publish("room", "posted", {"n": 2}, private=True)
            server.send("room", "stored", {"n": 3})
            messages = [await anext(broadcasts) for _ in range(3)]
            assert [message.payload["n"] for message in messages] == [1, 2, 3]
            with pytest.raises(JoinDeniedError):
                await client.channel("elsewhere", private=True).subscribe()
        assert "phx_leave" in {frame.event for frame in server.frames}

    play(scenario)


def test_a_refused_connection_raises_the_usual_error():
    """A wrong key and a status give the same errors as over a network."""

    async def scenario() -> None:
        server = VirtualServer(strict=True, limits=ServerLimits())
        with pytest.raises(ConnectError, match="401"):
            await supawire.connect_async(server.url, "wrong", transport=server.transport, http=server.http)
        server.refuse_connections(status=503)
        with pytest.raises(ConnectError, match="503"):
            await server.connect(open_timeout=5)

    assert play(scenario) >= 5


def test_faults_act_on_the_client():
    """A close code arrives, and a server that stops answering is detected by the heartbeat."""

    async def scenario() -> None:
        server = VirtualServer()
        async with server.connect() as client:
            connections = (event async for event in client.listen() if isinstance(event, Status))
            server.drop_connections(1012)
            assert "1012" in str((await anext(connections)).cause)
            while (await anext(connections)).state is not ConnectionState.OPEN:
                pass
            server.pause()
            assert (await anext(connections)).state is ConnectionState.RETRYING
            server.resume()
            await connections.aclose()

    assert play(scenario) >= 25


def test_a_call_without_an_event_loop_is_explained():
    """The error names the server that runs in its own thread."""
    with pytest.raises(StateError, match="LocalServer"):
        VirtualServer().broadcast("room", "event", {})


def test_every_name_of_testing_exists():
    """Each name of `supawire.testing` can be imported, and no other one."""
    assert [name for name in supawire.testing.__all__ if getattr(supawire.testing, name) is None] == []
    with pytest.raises(AttributeError):
        _ = supawire.testing.nothing  # pyright: ignore[reportAttributeAccessIssue]
