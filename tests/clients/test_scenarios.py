"""Typical uses of both clients."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from supawire import (
    Broadcast,
    ChannelState,
    ConnectionState,
    Gap,
    HandlerError,
    Heartbeat,
    Insert,
    LocalServer,
    PresenceJoin,
    PresenceLeave,
    PresenceSync,
    PresenceUpdate,
    Sent,
    Status,
    System,
    broadcast,
    changes,
    gaps,
    presence,
    status,
    system,
)
from supawire.errors import (
    ClosedError,
    ConnectError,
    InvalidArgumentError,
    JoinDeniedError,
    JoinError,
    OperationTimeout,
    RealtimeError,
    SlowConsumerError,
    StateError,
)
from tests.clients.client_api import END, ClientApi, until

pytestmark = pytest.mark.anyio


def payloads(events: list[Any]) -> list[Any]:
    return [event.payload for event in events]


def pushes(server: LocalServer, event: str) -> int:
    return sum(frame.event == event for frame in server.frames)


# --- listening


async def test_messages_reach_iterators_and_handlers(api: ClientApi, server: LocalServer):
    """A broadcast reaches every iterator and handler whose selector matches it, in order (R41)."""
    received: list[Any] = []
    async with api.client(server) as client:
        room = await client.channel("room", echo=True)
        every, one = await room.listen(broadcast()), await room.listen(broadcast("a"))
        await room.on(broadcast("a"), received.append)
        await room.subscribe()
        for number in range(6):
            assert await room.broadcast("ab"[number % 2], number) == Sent("socket")
        assert payloads(await every.take(6)) == [0, 1, 2, 3, 4, 5]
        assert payloads(await one.take(3)) == [0, 2, 4]
        await until(lambda: len(received) == 3)
        assert payloads(received) == [0, 2, 4]
        assert isinstance(received[0], Broadcast) and received[0].topic == "room"


async def test_bytes_are_payloads_too(api: ClientApi, server: LocalServer):
    """A broadcast of bytes arrives as the same bytes."""
    async with api.client(server) as client:
        room = await client.channel("room", echo=True)
        received = await room.listen(broadcast())
        await room.subscribe()
        await room.broadcast("blob", b"\x00\xff")
        assert (await received.next()).payload == b"\x00\xff"


async def test_rows_are_typed(api: ClientApi, server: LocalServer):
    """An inserted row arrives as an `Insert` whose values are exact (R42)."""
    async with api.client(server) as client:
        table = await (await client.channel("db")).listen(changes("users", event="INSERT"))
        reading = asyncio.ensure_future(table.next())
        await until(lambda: (pushes(server, "phx_join")) == 1)
        await (await client.channel("db")).ready()
        server.emit("INSERT", "users", record={"id": 9007199254740993, "price": Decimal("1.10")})
        change = await reading
        assert isinstance(change, Insert)
        assert change.record == {"id": 9007199254740993, "price": Decimal("1.10")}


async def test_one_iterator_over_several_selectors(api: ClientApi, server: LocalServer):
    """An iterator over several selectors yields the events of all in the order of arrival."""
    async with api.client(server) as client:
        room = await client.channel("room", echo=True)
        union = await room.listen(broadcast("a"), status(), system())
        await room.subscribe()
        await room.broadcast("a", 1)
        kinds = [type(event) for event in await union.take(4)]
        assert kinds[-1] is Broadcast and set(kinds) <= {Broadcast, Status, System}


async def test_iterating_subscribes_and_leaving_ends_it(api: ClientApi, server: LocalServer):
    """The first `next` joins the channel; `unsubscribe` ends the iteration, and that of later iterators."""
    async with api.client(server) as client:
        room = await client.channel("room")
        received = await room.listen(broadcast())
        reading = asyncio.ensure_future(received.next())
        await until(lambda: room.state is ChannelState.JOINED)
        server.broadcast("room", "a", 1)
        assert (await reading).payload == 1
        last = asyncio.ensure_future(received.next())
        await room.unsubscribe()
        assert await last == END
        assert await received.next() == END
        assert await (await room.listen(broadcast())).next() == END
        await room.subscribe()
        assert room.state is ChannelState.JOINED


async def test_closing_ends_iterators_after_their_waiting_events(api: ClientApi, server: LocalServer):
    """Closing the client ends an iterator after the events that arrived before."""
    async with api.client(server) as client:
        room = await client.channel("room", echo=True)
        received = await room.listen(broadcast())
        seen = await room.listen(broadcast())
        await room.subscribe()
        await room.broadcast("a", 1)
        await seen.next()
        waiting = asyncio.ensure_future(seen.next())
        await client.close()
        assert await waiting == END
        assert payloads([await received.next()]) == [1]
        assert await received.next() == END


async def test_an_iterator_raises_why_its_channel_failed(api: ClientApi, server: LocalServer):
    """When a channel is refused permanently, its iterators and `subscribe` raise the reason, which is in `error`
    (R23)."""
    server.reject_join("room", "Unauthorized: You do not have permissions to read from this Channel topic: room")
    async with api.client(server) as client:
        room = await client.channel("room", private=True)
        received = await room.listen(broadcast())
        with pytest.raises(JoinDeniedError, match="permissions"):
            await room.subscribe()
        with pytest.raises(JoinDeniedError, match="permissions"):
            await received.next()
        assert room.state is ChannelState.FAILED and isinstance(room.error, JoinDeniedError)


async def test_waiting_for_an_event_has_a_time_limit(api: ClientApi, server: LocalServer):
    """`get(timeout=...)` raises OperationTimeout and the iterator continues; after the end it raises ClosedError."""
    async with api.client(server) as client:
        room = await client.channel("room", echo=True)
        received = await room.listen(broadcast())
        await room.subscribe()
        with pytest.raises(OperationTimeout, match="no event arrived in time"):
            await received.get(timeout=0.01)
        with pytest.raises(OperationTimeout):
            await received.get(timeout=0)
        with pytest.raises(InvalidArgumentError):
            await received.get(timeout=-1)
        await room.broadcast("a", 1)
        assert (await received.get(timeout=30)).payload == 1
        await room.broadcast("a", 2)
        assert (await received.get()).payload == 2
        await received.close()
        with pytest.raises(ClosedError, match="iteration has ended"):
            await received.get()
        assert await received.next() == END


async def test_an_iterator_continues_after_a_timeout_during_the_first_join(api: ClientApi, server: LocalServer):
    """`get(timeout=...)` before the channel is joined raises, and a later one continues with the same join."""
    server.drop_reply("phx_join", 1)
    async with api.client(server, timeout=0.3) as client:
        room = await client.channel("room")
        received = await room.listen(broadcast())
        for limit in (0, 0.01, 0.05):
            with pytest.raises(OperationTimeout, match="no event arrived in time"):
                await received.get(timeout=limit)
        coming = asyncio.ensure_future(received.get(timeout=30))
        await until(lambda: room.state is ChannelState.JOINED)
        server.broadcast("room", "a", 1)
        assert (await coming).payload == 1


async def test_an_iterator_continues_after_its_own_timeout_of_the_join(api: ClientApi, server: LocalServer):
    """A join that exceeds the timeout of `subscribe` raises OperationTimeout once, and the iterator continues."""
    server.drop_reply("phx_join")
    async with api.client(server, timeout=0.02) as client:
        room = await client.channel("room")
        received = await room.listen(broadcast())
        with pytest.raises(OperationTimeout, match="not joined in time"):
            await received.next()
        server.reset_faults()
        coming = asyncio.ensure_future(received.next())
        await until(lambda: room.state is ChannelState.JOINED)
        server.broadcast("room", "a", 1)
        assert (await coming).payload == 1


async def test_an_iterator_joins_again_after_a_subscribe_that_timed_out(api: ClientApi, server: LocalServer):
    """A join that `subscribe(timeout=...)` withdrew is sent again when an iterator is read."""
    server.drop_reply("phx_join", 1)
    async with api.client(server) as client:
        room = await client.channel("room")
        received = await room.listen(broadcast())
        with pytest.raises(OperationTimeout):
            await room.subscribe(timeout=0.05)
        coming = asyncio.ensure_future(received.next())
        await until(lambda: room.state is ChannelState.JOINED)
        server.broadcast("room", "a", 1)
        assert (await coming).payload == 1


async def test_closing_an_iterator_withdraws_the_join_that_it_began(api: ClientApi, server: LocalServer):
    """A channel that only a closed iterator subscribed, and that was never joined, leaves."""
    server.drop_reply("phx_join")
    async with api.client(server) as client:
        room = await client.channel("room")
        received = await room.listen(broadcast())
        with pytest.raises(OperationTimeout):
            await received.get(timeout=0.05)
        assert room.state is ChannelState.JOINING
        await received.close()
        await until(lambda: room.state is ChannelState.IDLE)


async def test_a_slow_consumer_gets_an_error_and_continues(api: ClientApi, server: LocalServer):
    """After more events than the buffer holds the iterator yields those that fit, raises SlowConsumerError, and
    continues with new events (R39)."""
    async with api.client(server) as client:
        room = await client.channel("room")
        received = await room.listen(broadcast(), buffer=3)
        latest = await room.listen(broadcast(), buffer=2, overflow="latest", key=lambda event: event.event)
        newest = await room.listen(broadcast(), buffer=3, overflow="drop_oldest")
        await room.subscribe()
        for number in range(6):
            server.broadcast("room", "ab"[number % 2], number)
        await until(lambda: received.dropped == 3 and newest.dropped == 3 and latest.dropped == 4)
        assert payloads(await received.take(3)) == [0, 1, 2]
        with pytest.raises(SlowConsumerError):
            await received.next()
        server.broadcast("room", "c", "next")
        assert (await received.next()).payload == "next"
        assert payloads(await newest.take(3)) in ([3, 4, 5], [4, 5, "next"])
        assert {4, 5} & set(payloads(await latest.take(2)))


async def test_iterators_and_subscriptions_can_be_ended(api: ClientApi, server: LocalServer):
    """`with` around an iterator and `cancel()` of a handler end them; other listeners continue."""
    received: list[Any] = []
    other: list[Any] = []
    async with api.client(server) as client:
        room = await client.channel("room", echo=True)
        subscription = await room.on(broadcast(), received.append)
        await room.on(broadcast(), other.append)
        await room.subscribe()
        async with await room.listen(broadcast()) as stream:
            await room.broadcast("a", 1)
            await stream.next()
        await until(lambda: len(received) == 1)
        assert await stream.next() == END
        await subscription.cancel()
        await subscription.cancel()
        await room.broadcast("a", 2)
        await until(lambda: len(other) == 2)
        assert payloads(received) == [1]


async def test_on_is_a_decorator(api: ClientApi, server: LocalServer):
    """`@channel.on(selector)` registers a function and returns it."""
    received: list[Any] = []
    async with api.client(server) as client:
        room = await client.channel("room", echo=True)

        def function(event: Broadcast[Any]) -> None:
            received.append(event.payload)

        decorator = room.inner.on(broadcast("a"))
        assert decorator(function) is function
        await room.subscribe()
        await room.broadcast("a", 1)
        await until(lambda: received == [1])


async def test_async_handlers_run_in_order(api: ClientApi, server: LocalServer):
    """An async handler is called with one event after another, also when it waits in between (R37)."""
    received: list[Any] = []

    async def handler(event: Any) -> None:
        received.append(("begin", event.payload))
        await asyncio.sleep(0)
        received.append(("end", event.payload))

    async with api.client(server) as client:
        room = await client.channel("room", echo=True)
        await room.on(broadcast(), handler)
        await room.subscribe()
        for number in range(3):
            await room.broadcast("a", number)
        await until(lambda: len(received) == 6)
        assert received == [(what, number) for number in range(3) for what in ("begin", "end")]


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "coroutine"])
async def test_exceptions_of_handlers_reach_on_error(api: ClientApi, server: LocalServer, is_async: bool):
    """Each exception of a handler is reported to `on_error` once, and the handler gets the next event (R1)."""
    errors: list[Exception] = []
    calls: list[Any] = []

    def plain(event: Any) -> None:
        calls.append(event.payload)
        raise ZeroDivisionError(event.payload)

    async def coroutine(event: Any) -> None:
        plain(event)

    async with api.client(server, on_error=errors.append) as client:
        room = await client.channel("room", echo=True)
        await room.on(broadcast(), coroutine if is_async else plain)
        await room.subscribe()
        for number in range(5):
            await room.broadcast("a", number)
        await until(lambda: len(errors) == 5)
        assert calls == [0, 1, 2, 3, 4]
        assert {type(error) for error in errors} == {HandlerError}
        assert all(isinstance(error.__cause__, ZeroDivisionError) for error in errors)
        assert client.state is ConnectionState.OPEN


async def test_wrong_listeners_raise_at_once(api: ClientApi, server: LocalServer):
    """A handler that cannot be called with one event, and a wrong selector or policy, are refused when registered
    (R38)."""
    async with api.client(server) as client:
        room = await client.channel("room")
        for wrong in (
            room.on(broadcast(), lambda: None),
            room.on(broadcast(), 5),
            room.on("typing", print),
            room.listen(),
            room.listen("typing"),
            room.listen(broadcast(), overflow="latest"),
            room.listen(broadcast(), overflow="newest"),
            room.listen(broadcast(), buffer=0),
            room.on(broadcast(), print, overflow="latest"),
        ):
            with pytest.raises(InvalidArgumentError):
                await wrong


# --- joining and the connection


async def test_channel_returns_the_same_object_for_a_topic(api: ClientApi, server: LocalServer):
    """The same topic and options give the same object, other options raise, and a removed channel is replaced (R21,
    R24)."""
    async with api.client(server) as client:
        room = await client.channel("room")
        assert (await client.channel("realtime:room")).inner is room.inner
        assert dict(client.channels) == {"room": room.inner}
        with pytest.raises(InvalidArgumentError, match="other options"):
            await client.channel("room", private=True)
        await room.subscribe()
        await client.remove_channel(room)
        assert dict(client.channels) == {}
        with pytest.raises(ClosedError):
            await room.subscribe()
        again = await client.channel("room", echo=True)
        await again.subscribe()
        await client.remove_channel(room)  # its topic belongs to another channel now
        assert again.state is ChannelState.JOINED
        await client.remove_all_channels()
        assert dict(client.channels) == {}


@pytest.mark.parametrize("wrong", ["room", None, 5])
async def test_only_a_channel_can_be_removed(api: ClientApi, server: LocalServer, wrong: Any):
    """`remove_channel` with a topic or another object raises an error that says what is expected."""
    async with api.client(server) as client:
        with pytest.raises(InvalidArgumentError, match=r"a channel of client\.channel"):
            await client.remove_channel(wrong)


async def test_a_channel_is_a_context_manager(api: ClientApi, server: LocalServer):
    """Entering joins, exiting leaves, and the channel can be entered again (R20)."""
    async with api.client(server) as client:
        room = await client.channel("room")
        for _ in range(2):
            async with room:
                assert room.state is ChannelState.JOINED
            assert room.state is ChannelState.IDLE
        assert pushes(server, "phx_leave") == 2


async def test_ready_is_more_than_joined(api: ClientApi, server: LocalServer):
    """`subscribe(wait="ready")` returns when changes are live, and a row written then is delivered (R18)."""
    async with api.client(server) as client:
        room = await client.channel("db")
        table = await room.listen(changes("users"))
        await room.subscribe(wait="ready")
        await room.ready()
        server.emit("INSERT", "users", record={"id": 1})
        assert (await table.next()).record == {"id": 1}
        with pytest.raises(StateError):
            await (await client.channel("other")).ready()


@pytest.mark.parametrize("call", ["ready", "subscribe"])
async def test_ready_includes_listeners_added_after_the_join(api: ClientApi, server: LocalServer, call: str):
    """A row that is emitted right after `ready()` reaches a listener that was added to a joined channel."""
    async with api.client(server) as client:
        room = await client.channel("room")
        await room.subscribe()
        received = await room.listen(changes("users"))
        await (room.ready() if call == "ready" else room.subscribe(wait="ready"))
        server.emit("INSERT", "users", record={"id": 1})
        assert (await received.get(timeout=30)).record == {"id": 1}


async def test_a_join_that_gets_no_answer_times_out(api: ClientApi, server: LocalServer):
    """`subscribe(timeout=...)` raises OperationTimeout and withdraws the join; a later call works (R20, R22)."""
    server.drop_reply("phx_join", times=1)
    async with api.client(server) as client:
        room = await client.channel("room")
        with pytest.raises(OperationTimeout):
            await room.subscribe(timeout=0.05)
        await room.subscribe()
        assert room.state is ChannelState.JOINED


async def test_a_lost_connection_is_restored_and_gaps_are_reported(api: ClientApi, server: LocalServer):
    """After a lost connection the channel is joined again, events arrive, and a Gap is reported (R7, R44)."""
    async with api.client(server) as client:
        room = await client.channel("room")
        away, received = await room.listen(gaps()), await room.listen(broadcast())
        moves = await client.listen()
        await room.subscribe()
        server.drop_connections()
        gap = await away.next()
        assert isinstance(gap, Gap) and gap.lost == {"broadcast"} and gap.started_at <= gap.ended_at
        server.broadcast("room", "a", 1)
        assert (await received.next()).payload == 1
        seen = [move.state for move in await moves.take(4) if isinstance(move, Status)]
        assert ChannelState.JOINED in seen
        assert (await client.stats()).reconnects == 1


async def test_a_permanent_refusal_raises_in_every_call(api: ClientApi, server: LocalServer):
    """A refused reconnect ends the client: `wait_closed`, iterators, waiting calls and later calls raise it (R2,
    R30)."""
    errors: list[Exception] = []
    async with api.client(server, on_error=errors.append) as client:
        room = await client.channel("room")
        received, moves = await room.listen(broadcast()), await client.listen()
        await room.subscribe()
        server.drop_reply("heartbeat")
        waiting = [asyncio.ensure_future(call) for call in (received.next(), client.wait_closed())]
        server.refuse_connections(status=403)
        server.drop_connections()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ConnectError, ConnectError]
        with pytest.raises(ConnectError, match="403"):
            await client.wait_closed()
        with pytest.raises(ConnectError, match="403"):
            await client.ping()
        with pytest.raises(ConnectError, match="403"):
            await room.broadcast("a", 1)
        with pytest.raises(ConnectError, match="403"):
            await moves.take(100)
        assert client.state is ConnectionState.CLOSED
        await until(lambda: [type(error) for error in errors] == [ConnectError])


async def test_opening_fails_with_the_reason(api: ClientApi, server: LocalServer):
    """A permanent refusal raises at once; a temporary one is retried until `open_timeout` (R30)."""
    server.refuse_connections(status=403)
    with pytest.raises(ConnectError, match="403"):
        await api.open(server.url, server.anon_key)
    server.refuse_connections(status=503)
    with pytest.raises(ConnectError, match=r"within 0\.1 s"):
        await api.open(server.url, server.anon_key, backoff=lambda attempt: 0.01, open_timeout=0.1)
    with pytest.raises(InvalidArgumentError):
        await api.open(server.url, server.anon_key, heartbeat=90)
    with pytest.raises(InvalidArgumentError):
        await api.open("ftp://example", server.anon_key)
    server.accept_connections()
    async with await api.open(server.url, server.anon_key) as client:
        assert client.state is ConnectionState.OPEN
    assert client.state is ConnectionState.CLOSED


async def test_ping_stats_reconnect_and_repr_of_the_client(api: ClientApi, server: LocalServer):
    """`ping` returns seconds, `stats` counts, `reconnect` replaces the connection, and `repr` shows its state."""
    async with api.client(server) as client:
        room = await client.channel("room")
        await room.subscribe()
        assert 0 < await client.ping() < 10
        await client.reconnect()
        await until(lambda: client.state is ConnectionState.OPEN and room.state is ChannelState.JOINED)
        stats = await client.stats()
        assert (stats.connects, stats.joins) == (2, 2)
        host = server.url.removeprefix("http://")
        assert repr(client.inner).endswith(f"Client of {host} open, 1 channels>") and server.anon_key not in repr(
            client
        )
        assert repr(room.inner).endswith("Channel 'room' joined>")
        assert (room.topic, room.error, room.options.echo) == ("room", None, False)


async def test_the_repr_of_listeners_names_their_selectors(api: ClientApi, server: LocalServer):
    """Iterators and subscriptions print their selectors, their channel and the number of waiting events."""

    def added(change: Any) -> None: ...

    async with api.client(server) as client:
        room = await client.channel("room")
        stream = await room.listen(broadcast("typing"), changes("users", event="INSERT"))
        wanted = "broadcast('typing'), changes('users', event='INSERT') on 'room'"
        assert repr(stream.inner).endswith(f"Stream of {wanted}, 0 waiting>")
        await stream.close()
        assert repr(stream.inner).endswith(f"Stream of {wanted}, closed>")
        made = await room.on(changes("users"), added)
        assert repr(made.inner).startswith("<Subscription of test_the_repr_of_listeners")
        assert repr(made.inner).endswith("added to changes('users') on 'room'>")
        every = await client.listen()
        assert "Stream of status() and gaps() of the client, 0 waiting" in repr(every.inner)


async def test_heartbeats_are_events(api: ClientApi, server: LocalServer):
    """`listen(heartbeats=True)` yields the outcome of each heartbeat; without it only state changes and gaps are
    events."""
    async with api.client(server, heartbeat=0.05) as client:
        beats, plain = await client.listen(heartbeats=True), await client.listen()
        sent, answered = [event for event in await beats.take(2) if isinstance(event, Heartbeat)]
        assert (sent.status, sent.latency, answered.status) == ("sent", None, "ok")
        assert answered.latency is not None and answered.latency >= 0
        await plain.close()
        assert await plain.next() == END


async def test_a_published_message_has_its_id(api: ClientApi, server: LocalServer):
    """`Sent.id` is the given id, or None without one."""
    async with api.client(server) as client:
        number = "7d444840-9dc0-11d1-b245-5ffdce74fad2"
        assert (await client.publish("room", "e", {}, id=number)).id == number
        assert (await client.publish("room", "e", {})).id is None


CALLS: dict[str, Any] = {
    "ping": lambda client, room: client.ping(),
    "publish": lambda client, room: client.publish("room", "a", {}),
    "publish_many": lambda client, room: client.publish_many([{"topic": "room", "event": "a", "payload": {}}]),
    "set_auth": lambda client, room: client.set_auth(None),
    "reconnect": lambda client, room: client.reconnect(),
    "channel": lambda client, room: client.channel("other"),
    "remove_channel": lambda client, room: client.remove_channel(room),
    "remove_all_channels": lambda client, room: client.remove_all_channels(),
    "stats": lambda client, room: client.stats(),
    "close": lambda client, room: client.close(),
    "wait_closed": lambda client, room: client.wait_closed(),
    "listen": lambda client, room: client.listen(),
    "subscribe": lambda client, room: room.subscribe(),
    "ready": lambda client, room: room.ready(),
    "unsubscribe": lambda client, room: room.unsubscribe(),
    "broadcast": lambda client, room: room.broadcast("a", 1),
    "track": lambda client, room: room.track({}),
    "untrack": lambda client, room: room.untrack(),
    "presence_state": lambda client, room: room.presence_state(),
    "channel.set_auth": lambda client, room: room.set_auth(None),
    "on": lambda client, room: room.on(broadcast(), print),
    "channel.listen": lambda client, room: room.listen(broadcast()),
}
QUIET = {"remove_channel", "remove_all_channels", "stats", "close", "wait_closed", "listen", "unsubscribe"}


@pytest.mark.parametrize("name", CALLS)
async def test_after_close_every_call_raises_or_returns_at_once(api: ClientApi, server: LocalServer, name: str):
    """After `close` a call raises ClosedError, or is one of those that then do nothing (R10, R11)."""
    async with api.client(server) as client:
        room = await client.channel("room")
        await room.subscribe()
        await client.close()
        if name in QUIET:
            await CALLS[name](client, room)
        else:
            with pytest.raises(ClosedError, match="closed"):
                await CALLS[name](client, room)
        assert (client.state, room.state) == (ConnectionState.CLOSED, ChannelState.CLOSED)


async def test_close_raises_closed_error_in_every_waiting_call(api: ClientApi, server: LocalServer):
    """Closing ends waiting calls with ClosedError, and a `wait_closed` returns (R10)."""
    server.drop_reply("phx_join")
    server.drop_reply("heartbeat")
    async with api.client(server) as client:
        room = await client.channel("room")
        calls = [asyncio.ensure_future(call) for call in (room.subscribe(), client.ping(), client.wait_closed())]
        await until(lambda: pushes(server, "heartbeat") and pushes(server, "phx_join"))
        await client.close()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ClosedError, ClosedError, type(None)]


# --- sending


async def test_a_confirmed_broadcast(api: ClientApi, server: LocalServer):
    """With ack the call returns when the server has confirmed, and raises OperationTimeout when it does not (R31)."""
    async with api.client(server) as client:
        room = await client.channel("room", ack=True)
        await room.subscribe()
        assert await room.broadcast("a", 1) == Sent("socket", acked=True)
        server.drop_reply("broadcast")
        with pytest.raises(OperationTimeout):
            await room.broadcast("a", 2, timeout=0.05)


async def test_sending_while_not_joined(api: ClientApi, server: LocalServer):
    """`offline` selects raise, queue, wait, or HTTP; nothing is sent twice (R32, R34)."""
    async with api.client(server) as client:
        with pytest.raises(StateError, match="not joined"):
            await (await client.channel("room")).broadcast("a", 1)
    async with api.client(server, offline="queue") as client:
        room = await client.channel("room", echo=True)
        received = await room.listen(broadcast())
        sent = [await room.broadcast("a", number) for number in range(3)]
        assert [one.via for one in sent] == ["queue"] * 3
        await room.subscribe()
        assert [await one.wait() for one in sent] == [Sent("socket")] * 3
        assert payloads(await received.take(3)) == [0, 1, 2]
    async with api.client(server, offline="wait") as client:
        room = await client.channel("room", echo=True)
        received = await room.listen(broadcast())
        sending = asyncio.ensure_future(room.broadcast("a", "waited"))
        await until(lambda: client.inner.stats().queued if api.name == "async" else True)
        await room.subscribe()
        assert await sending == Sent("socket")
        assert (await received.next()).payload == "waited"
    async with api.client(server, offline="http") as client:
        assert (await (await client.channel("room")).broadcast("a", {"by": "http"})).via == "http"


async def test_the_newest_values_are_sent(api: ClientApi, server: LocalServer):
    """`latest=` replaces what waits for the join, and a throttled sender what waits for its rate."""
    async with api.client(server, offline="queue") as client:
        room = await client.channel("room", echo=True)
        received = await room.listen(broadcast())
        sent = [await room.broadcast("cursor", number, latest="alice") for number in range(3)]
        await room.subscribe()
        assert [(await one.wait()).via for one in sent] == ["replaced", "replaced", "socket"]
        assert (await received.next()).payload == 2
        async with await room.throttled(20) as sender:
            for number in range(100):
                await sender.send("cursor", number, key="alice")
        numbers = [(await received.next()).payload]
        while numbers[-1] != 99:
            numbers.append((await received.next()).payload)
        assert numbers == sorted(numbers) and len(numbers) + sender.inner.replaced == 100


async def test_queued_sends_fail_with_the_cause(api: ClientApi, server: LocalServer):
    """A queued broadcast that is never sent raises in `wait` and reaches `on_error`, also when the client closes
    (R31)."""
    errors: list[Exception] = []
    async with api.client(server, offline="queue", on_error=errors.append) as client:
        sent = await (await client.channel("room")).broadcast("a", 1)
        await client.close()
        with pytest.raises(ClosedError):
            await sent.wait()
    await until(lambda: [type(error) for error in errors] == [ClosedError])


async def test_publishing_needs_no_channel(api: ClientApi, server: LocalServer):
    """`publish` and `publish_many` send by HTTP to every client that listens (R34)."""
    async with api.client(server) as client:
        room = await client.channel("room")
        received = await room.listen(broadcast())
        await room.subscribe()
        assert (await client.publish("room", "a", {"n": 1})).via == "http"
        messages = ({"topic": "room", "event": "a", "payload": {"n": number}} for number in (2, 3))
        assert (await client.publish_many(messages)).accepted == 2
        assert payloads(await received.take(3)) == [{"n": 1}, {"n": 2}, {"n": 3}]
        with pytest.raises(InvalidArgumentError):
            await client.publish("room", "a", 5)
        with pytest.raises(InvalidArgumentError):
            await client.publish_many({"topic": "room"})


# --- presence and tokens


async def test_presence(api: ClientApi, server: LocalServer):
    """Joins, updates and leaves of other clients are events, and the state is a snapshot of all present (R45)."""
    async with api.client(server) as client, api.client(server) as other:
        room = await client.channel("room", presence_key="me")
        seen = await room.listen(presence())
        await room.subscribe()
        await room.track({"mood": 1})
        theirs = await other.channel("room", presence_key="you")
        await theirs.track({"mood": 2})
        await theirs.subscribe()
        kinds: list[type] = []
        while PresenceLeave not in kinds:
            event = await seen.next()
            kinds.append(type(event))
            if isinstance(event, PresenceSync) and set(event.state) == {"me", "you"}:
                if PresenceUpdate not in kinds:
                    await theirs.track({"mood": 3})
                else:
                    assert (await room.presence_state())["you"][0].payload == {"mood": 3}
                    await theirs.untrack()
        assert kinds.count(PresenceJoin) == 2 and PresenceUpdate in kinds
        assert [event.payload for event in (await room.presence_state())["me"]] == [{"mood": 1}]


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "coroutine"])
async def test_a_token_provider_is_called(api: ClientApi, server: LocalServer, is_async: bool):
    """A plain or async `token=` is called, and private channels join with the token that it returns (R25, R29)."""
    calls: list[datetime] = []

    def plain() -> str:
        calls.append(datetime.now(UTC))
        return server.token("authenticated", 3600)

    async def coroutine() -> str:
        return plain()

    async with api.client(server, token=coroutine if is_async else plain) as client:
        await (await client.channel("room", private=True)).subscribe()
    assert calls


async def test_a_token_can_be_set(api: ClientApi, server: LocalServer):
    """Private channels join with the token given to `set_auth` of the client or of the channel, and a wrong one
    raises (R27)."""
    async with api.client(server) as client:
        room = await client.channel("room", private=True)
        with pytest.raises(JoinError):
            await room.subscribe(timeout=5)
        await client.set_auth(server.token("authenticated", 3600))
        await room.subscribe()
        other = await client.channel("other", private=True)
        await other.set_auth(server.token("authenticated", 3600))
        await other.subscribe()
        with pytest.raises(InvalidArgumentError):
            await client.set_auth("")


async def test_every_error_has_one_base(api: ClientApi, server: LocalServer):
    """Every error that a call raises is a RealtimeError, raised without a wrapper."""
    async with api.client(server) as client:
        with pytest.raises(RealtimeError) as caught:
            await (await client.channel("room")).broadcast("a", 1)
        assert caught.value.__cause__ is None and caught.value.topic == "room"
