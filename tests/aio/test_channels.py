"""Channels: the registry, joining, readiness, leaving, removal."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from supawire import ChannelState, broadcast, changes, gaps, status
from supawire.errors import (
    ClosedError,
    InvalidArgumentError,
    JoinDeniedError,
    JoinError,
    OperationTimeout,
    RateLimitedError,
    StateError,
)
from supawire.options import Limits
from tests.aio.peer import connected, driven, settled, until

pytestmark = pytest.mark.anyio


async def test_a_topic_has_one_channel():
    """`channel` with equal options or none returns the same channel for both spellings of a topic; other options raise
    (R21)."""
    async with connected() as (client, _):
        room = client.channel("room:lobby", ack=True)
        assert client.channel("realtime:room:lobby", ack=True) is room
        assert dict(client.channels) == {"room:lobby": room}
        assert (room.topic, room.options.ack, room.error) == ("room:lobby", True, None)
        with pytest.raises(InvalidArgumentError, match="other options"):
            client.channel("room:lobby", echo=True)
        assert client.channel("room:lobby") is room


async def test_subscribe_returns_when_joined():
    """`subscribe` joins with the channel's options and returns when the server has replied ok (R23)."""
    async with connected() as (client, server):
        room = client.channel("room", private=True, echo=True, ack=True, presence_key="me")
        await room.subscribe()
        assert room.state is ChannelState.JOINED
        config = server.of("phx_join")[0].payload["config"]
        assert config["broadcast"] == {"self": True, "ack": True}
        assert (config["private"], config["presence"]) == (True, {"enabled": True, "key": "me"})


async def test_subscribe_raises_a_permanent_refusal():
    """A fatal refusal raises at once with the server's reason, and the channel has failed with it (R23, R29)."""
    async with connected() as (client, server):
        server.answers["phx_join"] = server.refuse("Unauthorized: You do not have permissions to read from this topic")
        room = client.channel("room", private=True)
        with pytest.raises(JoinDeniedError, match="You do not have permissions"):
            await room.subscribe()
        assert room.state is ChannelState.FAILED
        assert isinstance(room.error, JoinDeniedError)


async def test_subscribe_retries_temporary_refusals():
    """A temporary refusal is retried until the server replies ok (R29)."""
    async with connected() as (client, server):
        join = server.answers["phx_join"]
        server.answers["phx_join"] = server.refuse("RealtimeRestarting: Realtime is restarting, please standby")
        joining = asyncio.create_task(client.channel("room").subscribe())
        await server.got("phx_join", 3)
        server.answers["phx_join"] = join
        await joining


async def test_subscribe_has_a_timeout_that_withdraws_the_join():
    """A join without a reply raises OperationTimeout after the timeout, and the channel leaves again (R20, R23)."""
    async with connected() as (client, server):
        join, server.answers["phx_join"] = server.answers["phx_join"], None
        room = client.channel("room")
        with pytest.raises(OperationTimeout):
            await room.subscribe(timeout=0.02)
        await server.got("phx_leave")
        await settled()
        assert room.state is ChannelState.IDLE
        server.answers["phx_join"] = join
        await room.subscribe()
        assert room.state is ChannelState.JOINED


async def test_a_cancelled_subscribe_withdraws_the_join():
    """Cancelling `subscribe` before the join leaves the channel, and `subscribe` can be called again (R20)."""
    async with connected() as (client, server):
        join, server.answers["phx_join"] = server.answers["phx_join"], None
        room = client.channel("room")
        joining = asyncio.create_task(room.subscribe(timeout=None))
        await server.got("phx_join")
        joining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await joining
        await server.got("phx_leave")
        server.answers["phx_join"] = join
        await room.subscribe()


async def test_a_channel_can_leave_and_join_repeatedly():
    """A channel can leave and join again, and its handlers stay registered (R20)."""
    received: list[Any] = []
    async with connected() as (client, server):
        room = client.channel("room")
        room.on(broadcast("typing"), received.append)
        for number in range(5):
            await room.subscribe()
            server.broadcast("room", "typing", number)
            await settled()
            await room.unsubscribe()
            assert room.state is ChannelState.IDLE
            await room.unsubscribe()
        assert [message.payload for message in received] == list(range(5))
        assert server.events()["phx_join"] == server.events()["phx_leave"] == 5


async def test_unsubscribe_ends_with_its_timeout():
    """A leave that the server does not answer ends with its timeout (R24)."""
    async with connected() as (client, server):
        room = client.channel("room")
        await room.subscribe()
        server.answers["phx_leave"] = None
        await room.unsubscribe(timeout=0.02)
        assert room.state is ChannelState.IDLE


async def test_async_with_joins_and_leaves():
    """`async with channel` subscribes on entry and unsubscribes on exit."""
    async with connected() as (client, server):
        async with client.channel("room") as room:
            assert room.state is ChannelState.JOINED
        assert room.state is ChannelState.IDLE
        assert server.events()["phx_leave"] == 1


async def test_ready_returns_when_changes_are_live():
    """`wait="ready"` and `ready` return when the server has confirmed that changes are live, not at the join (R18)."""
    async with connected() as (client, server):
        server.answers["phx_join"] = lambda frame: server.reply(
            frame, response={"postgres_changes": [{"id": 7, **frame.payload["config"]["postgres_changes"][0]}]}
        )
        room = client.channel("db")
        room.on(changes("users"), print)
        subscribing = asyncio.create_task(room.subscribe(wait="ready"))
        await server.got("phx_join")
        await settled()
        assert room.state is ChannelState.JOINED
        waiting = asyncio.create_task(room.ready())
        await settled()
        assert not subscribing.done() and not waiting.done()
        server.system("db", "ok", "Subscribed to PostgreSQL")
        await asyncio.gather(subscribing, waiting)
        await room.ready()


async def test_ready_raises_if_changes_can_never_be_live():
    """When the server rejects a binding permanently, `ready` raises that error, and the channel stays joined (R19)."""
    text = "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given "
    text += "connect parameters"
    async with connected(on_error=lambda error: None) as (client, server):
        join = server.answers["phx_join"]
        assert join is not None

        def answer(frame: Any) -> None:
            server.reply(
                frame, response={"postgres_changes": [{"id": 7, **frame.payload["config"]["postgres_changes"][0]}]}
            )
            server.system("db", "error", f"{text}: [event: *, schema: public, table: users, filters: []]")

        server.answers["phx_join"] = answer
        room = client.channel("db")
        room.on(changes("users"), print)
        with pytest.raises(JoinError, match="Please check Realtime"):
            await room.subscribe(wait="ready")
        with pytest.raises(JoinError):
            await room.ready()
        assert room.state is ChannelState.JOINED


async def test_ready_needs_a_subscription():
    """`ready` of a channel that is not subscribed raises an error instead of joining or waiting."""
    async with connected() as (client, server):
        with pytest.raises(StateError, match="not subscribed"):
            await client.channel("room").ready()
        assert server.events()["phx_join"] == 0


async def test_a_timeout_of_ready_leaves_the_channel_joined():
    """While waiting for ready, a timeout or a cancellation does not withdraw the join."""
    async with connected() as (client, server):
        server.answers["phx_join"] = lambda frame: server.reply(
            frame, response={"postgres_changes": [{"id": 7, **frame.payload["config"]["postgres_changes"][0]}]}
        )
        room = client.channel("db")
        room.on(changes("users"), print)
        await room.subscribe()
        with pytest.raises(OperationTimeout):
            await room.ready(timeout=0.02)
        assert room.state is ChannelState.JOINED


async def test_a_removed_channel_is_closed_and_its_topic_is_free():
    """`remove_channel` leaves and closes the channel, and a new channel of the topic can be made at once (R24)."""
    async with connected() as (client, server):
        old = client.channel("room")
        await old.subscribe()
        await client.remove_channel(old)
        assert dict(client.channels) == {}
        assert old.state is ChannelState.CLOSED
        new = client.channel("room", ack=True)
        await new.subscribe()
        calls: list[Callable[[], Awaitable[Any]]] = [
            old.subscribe,
            old.ready,
            old.untrack,
            lambda: old.broadcast("a", 1),
            lambda: old.track({}),
            lambda: old.set_auth(None),
        ]
        for call in calls:
            with pytest.raises(ClosedError):
                await call()
        with pytest.raises(ClosedError):
            old.presence_state()
        await old.unsubscribe()
        assert new is not old and new.state is ChannelState.JOINED
        await client.remove_channel(old)
        assert client.channels["room"] is new
        assert server.events()["phx_leave"] == 1


async def test_a_removed_channel_calls_and_keeps_no_handler():
    """Handlers of a removed channel are unregistered, iterators yield the events they hold and end, and a new channel
    starts empty."""
    received: list[Any] = []

    async def handler(event: Any) -> None:
        received.append(event)

    async with driven() as (client, server, driver):
        old = client.channel("room")
        old.on(broadcast(), received.append)
        old.on(broadcast(), handler)
        old.on(broadcast(), received.append, thread=True)
        stream = old.listen(broadcast())
        await old.subscribe()
        server.broadcast("room", "e", 1)
        await until(lambda: len(received) == 3)
        tasks = len(asyncio.all_tasks())
        await client.remove_channel(old)
        new = client.channel("room")
        await new.subscribe()
        server.broadcast("room", "e", 2)
        await settled()
        assert [event.payload async for event in stream] == [1]
        assert len(received) == 3
        assert len(driver.registry) == 0
        assert len(asyncio.all_tasks()) == tasks - 1


async def test_all_channels_can_be_removed():
    """`remove_all_channels` leaves every channel and keeps the connection."""
    async with connected() as (client, server):
        rooms = [client.channel(f"room:{number}") for number in range(3)]
        for room in rooms:
            await room.subscribe()
        await client.remove_all_channels()
        await server.got("phx_leave", 3)
        assert dict(client.channels) == {}
        assert client.state.value == "open"


async def test_the_channel_limit_counts_subscribed_channels():
    """More subscribed channels than the limit raise RateLimitedError; after one leaves, another can subscribe (R35)."""
    async with connected(limits=Limits(channels=2)) as (client, _):
        one, two, three = (client.channel(name) for name in ("one", "two", "three"))
        await one.subscribe()
        await two.subscribe()
        with pytest.raises(RateLimitedError, match="2 channels"):
            await three.subscribe()
        await one.unsubscribe()
        await three.subscribe()


async def test_a_thousand_joins_and_leaves_leave_nothing_behind():
    """After many joins and leaves the numbers of tasks, registrations and channels are as before (R24)."""
    async with driven(limits=Limits.off()) as (client, _, driver):
        before = len(asyncio.all_tasks())
        for _number in range(300):
            room = client.channel("room")
            subscription = room.on(broadcast(), print)
            await room.subscribe()
            subscription.cancel()
            await client.remove_channel(room)
        assert len(asyncio.all_tasks()) == before
        assert len(driver.registry) == 0
        stats = client.stats()
        assert (stats.joins, stats.pending) == (300, 0)


async def test_status_and_gaps_are_events():
    """`status()` yields a channel's state changes, `gaps()` times without connection, `client.listen` those of all
    channels (R44)."""
    async with connected() as (client, server):
        room = client.channel("room")
        room.on(broadcast(), print)
        moves, gap = room.listen(status()), room.listen(gaps())
        everything = client.listen()
        await room.subscribe()
        assert server.peer is not None
        server.peer.drop()
        event = await anext(gap)
        assert event.reason == "connection_lost"
        assert event.lost == {"broadcast"}
        seen = [(await anext(moves)).state.value for _ in range(6)]
        assert seen == ["waiting", "joining", "joined", "waiting", "joining", "joined"]
        events = [(item.topic, getattr(item, "state", None)) for item in [await anext(everything) for _ in range(5)]]
        assert ("room", ChannelState.JOINED) in events


async def test_late_changes_rejoin_once():
    """Change listeners added after the join cause one new join for all of them, which reports a gap, and all receive
    events (R17)."""
    async with connected() as (client, server):
        room = client.channel("db")
        early: list[Any] = []
        late: list[Any] = []
        room.on(changes("users", event="INSERT"), early.append)
        found = room.listen(gaps())
        await room.subscribe(wait="ready")
        room.on(changes("users", event="UPDATE"), late.append)
        room.on(changes("users", event="DELETE"), late.append)
        await server.got("phx_join", 2)
        await room.ready()
        assert (await anext(found)).reason == "rejoin"
        assert len(server.of("phx_join")[1].payload["config"]["postgres_changes"]) == 3
        server.change("db", 1, {"id": 1})
        server.change("db", 2, {"id": 1}, "UPDATE")
        await settled()
        assert (len(early), len(late), server.events()["phx_join"]) == (1, 1, 2)
