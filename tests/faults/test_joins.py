"""Joins that are refused, or answered late, wrongly, twice or never; and late frames of old joins."""

import asyncio

import pytest

from supawire import ChannelState, ConnectionState, Limits, status
from supawire._server_errors import JOIN_REASONS, KEY_CHECKED, KEY_HINTS, Action, Known
from supawire.core.frames import Frame
from supawire.errors import JoinDeniedError, JoinError, OperationTimeout, RealtimeError
from supawire.server import LocalServer
from tests.faults.misbehaver import Misbehaver, Wire
from tests.faults.steps import Collector, Steps, at_once, check_recovery, client_of, joined_channel

pytestmark = pytest.mark.anyio


_REFUSED = (ChannelState.RETRYING, ChannelState.FAILED)


def reason_of(row: Known) -> str:
    """Return a reason with the text of the server."""
    text = f"{row.starts or 'some text'} of today"
    return text if row.code is None else f"{row.code}: {text}"


def named(row: Known) -> str:
    return f"{row.code}-{row.starts[:20]}"


@pytest.mark.parametrize("refusal", ["UnknownErrorOnChannel: try later", "Unauthorized: you may not"])
async def test_refused_joins_do_not_end_the_connection(refusal: str):
    """With ten of a hundred joins refused, ninety are joined on one connection, and ten have the reason."""
    options = {"rejoin_backoff": lambda attempt: 60.0, "limits": Limits(joins_per_second=1000)}
    with LocalServer() as server:
        for number in range(10):
            server.reject_join(f"room:{10 * number}", refusal)
        async with client_of(server, server.anon_key, **options) as client:
            rooms, moves = [client.channel(f"room:{number}") for number in range(100)], Collector()
            for room in rooms:
                room.on(status(), moves)
            joins = [asyncio.create_task(room.subscribe(timeout=None)) for room in rooms]
            good = [join for number, join in enumerate(joins) if number % 10]
            await asyncio.gather(*good)
            bad = [room for number, room in enumerate(rooms) if not number % 10]
            await moves.until(lambda _: all(room.state in _REFUSED for room in bad))
            assert all(isinstance(room.error, JoinError) for room in bad)
            assert sum(room.state is ChannelState.JOINED for room in rooms) == 90
            assert (client.stats().connects, client.stats().reconnects) == (1, 0)
            for join in joins:
                join.cancel()
            await asyncio.wait(joins)


@pytest.mark.parametrize("token", [None, "a-token"], ids=["key", "token"])
@pytest.mark.parametrize("row", JOIN_REASONS, ids=named)
async def test_every_known_refusal_is_treated_as_documented(row: Known, token: str | None):
    """Temporary refusals are retried; others raise the row's error at once, and no join follows.

    Without a token the server checks the key instead, and the hint is about the key.
    """
    hint = KEY_CHECKED + KEY_HINTS[row.slug] if token is None and row.slug in KEY_HINTS else row.hint
    limits = Limits(channels=None)  # a client that counts channels itself tries once more after "too many"
    async with Misbehaver() as server, client_of(server, limits=limits, token=token) as client:
        server.answers["phx_join"] = lambda wire, frame: wire.deny(frame, reason_of(row))
        room = client.channel("room")
        joining = asyncio.create_task(room.subscribe())
        await server.got("phx_join")
        server.answers["phx_join"] = Wire.accept
        if row.action in (Action.RETRY, Action.SLOW_RETRY):
            await joining
            assert len(server.of("phx_join")) == 2
            assert room.error is None
        else:  # without a provider the token cannot be refreshed
            with pytest.raises(row.error) as caught:
                await joining
            assert isinstance(caught.value, RealtimeError) and reason_of(row) in caught.value.message
            assert caught.value.topic == "room" and caught.value.hint == hint
            assert room.state is ChannelState.FAILED
            await client.ping()
            assert len(server.of("phx_join")) == 1
            await room.subscribe()  # and may be tried again by hand
        assert client.stats().connects == 1


@pytest.mark.parametrize("row", [row for row in JOIN_REASONS if row.action is Action.REFRESH], ids=named)
async def test_a_refused_token_is_refreshed(row: Known):
    """When the token is refused, the provider is called, and the next join carries its result."""
    tokens = iter(f"token-{number}" for number in range(99))
    async with Misbehaver() as server, client_of(server, token=lambda: next(tokens)) as client:

        def once(wire: Wire, frame: Frame) -> None:
            server.answers["phx_join"] = Wire.accept
            wire.deny(frame, reason_of(row))

        server.answers["phx_join"] = once
        await client.channel("room").subscribe()
        first, second = (frame.payload["access_token"] for frame in server.of("phx_join"))
        assert first != second


@pytest.mark.parametrize(
    "response", ['"payload_size_exceeded"', "null", "5", "[]", "{}", '{"reason":{"a":1}}', '{"reason":null}']
)
async def test_an_error_reply_of_any_shape_is_retried(response: str):
    """An error reply with an unexpected response is treated like an unknown reason."""
    async with Misbehaver() as server, client_of(server) as client:

        def once(wire: Wire, frame: Frame) -> None:
            server.answers["phx_join"] = Wire.accept
            payload = f'{{"status":"error","response":{response}}}'
            wire.send(f'["{frame.join_ref}","{frame.ref}","realtime:room","phx_reply",{payload}]')

        server.answers["phx_join"] = once
        room, received = await joined_channel(client)
        await check_recovery(server, room, received, joins=2)


async def test_an_unanswered_join_is_left_and_sent_again():
    """While other frames arrive, an unanswered join is left by its own ref and sent again on the same socket."""
    async with Misbehaver() as server, client_of(server, timeout=0.1, heartbeat=0.05) as client:
        server.answers["phx_join"] = None
        room, received = client.channel("room"), Collector()
        joining = asyncio.create_task(room.subscribe(timeout=None))
        first = await server.got("phx_join")
        left = await server.got("phx_leave")
        assert left.join_ref == first.ref
        server.answers["phx_join"] = Wire.accept
        await joining
        assert [frame.event for frame in server.frames if frame.topic != "phoenix"][:3] == [
            "phx_join", "phx_leave", "phx_join",
        ]  # fmt: skip
        assert client.stats().connects == 1
        assert received == []


async def test_a_socket_without_frames_after_a_join_is_replaced():
    """When no frame arrived since the join was sent, the socket is replaced."""
    async with Misbehaver() as server, client_of(server, timeout=0.1) as client:
        server.answers["phx_join"] = None
        joining = asyncio.create_task(client.channel("room").subscribe(timeout=None))
        await server.connected(2)
        server.answers["phx_join"] = Wire.accept
        await joining
        assert client.stats().reconnects == 1


async def test_a_late_answer_to_an_old_join_does_not_change_the_channel():
    """A late ok or error for an abandoned join does not change the channel, and is counted."""
    async with Misbehaver() as server, client_of(server, timeout=0.1, heartbeat=0.05) as client:
        server.answers["phx_join"] = None
        room = client.channel("room")
        joining = asyncio.create_task(room.subscribe(timeout=None))
        old = await server.got("phx_join")
        new = await server.got("phx_join", 2)
        server.wire.reply(old, "error", {"reason": "Unauthorized: late"})
        server.wire.accept(old)
        await client.ping()
        assert room.state is ChannelState.JOINING and not joining.done()
        server.answers["phx_join"] = Wire.accept
        server.wire.accept(new)
        await joining
        moves = Collector()
        room.on(status(), moves)
        server.wire.push("realtime:room", "phx_close", {}, join_ref=old.ref, ref=old.ref)
        server.wire.push("realtime:room", "phx_error", {}, join_ref=old.ref, ref=old.ref)
        late = client.stats().late_replies
        server.wire.accept(old)
        await client.ping()
        assert room.state is ChannelState.JOINED and moves == []
        assert client.stats().late_replies == late + 1
        assert client.stats().stale_frames >= 2


@pytest.mark.parametrize("protocol", ["1.0.0", "2.0.0"])
async def test_a_late_close_of_an_old_join_does_not_close_the_new_one(protocol: str):
    """A topic that was left and joined again ignores the close of its former join, in both versions."""
    with LocalServer() as server:
        async with client_of(server, server.anon_key, protocol=protocol) as client:
            room, received = await joined_channel(client)
            await room.unsubscribe()
            await room.subscribe()
            server.close_channel("room", stale=True)
            server.broadcast("room", "hello", {"n": 1})
            await received.until(1)
            assert room.state is ChannelState.JOINED and len(received) == 1
            assert client.stats().stale_frames >= 1


async def test_replies_with_an_unknown_ref_are_ignored():
    """A reply with an unknown ref is counted, and the join continues to wait."""
    async with Misbehaver() as server, client_of(server) as client:

        def wrongly(wire: Wire, frame: Frame) -> None:
            for ref in ("999", None, ""):
                wire.reply(frame._replace(ref=ref), "error", {"reason": "Unauthorized: not meant for you"})
            wire.reply(frame._replace(topic="realtime:other", ref="998"))
            wire.accept(frame)

        server.answers["phx_join"] = wrongly
        room, received = await joined_channel(client)
        assert room.state is ChannelState.JOINED
        assert client.stats().late_replies == 4
        await check_recovery(server, room, received, joins=1)


@pytest.mark.parametrize("second", ["ok", "error"])
async def test_a_second_reply_is_ignored(second: str):
    """A second reply to the same join is counted and changes nothing."""
    async with Misbehaver() as server, client_of(server) as client:

        def twice(wire: Wire, frame: Frame) -> None:
            wire.accept(frame)
            wire.reply(frame, second, {"reason": "Unauthorized: on second thoughts", "postgres_changes": []})

        server.answers["phx_join"] = twice
        room, received = await joined_channel(client)
        await check_recovery(server, room, received, joins=1)
        assert client.stats().late_replies == 1


async def test_a_subscribe_can_be_repeated_after_a_timeout():
    """A timeout cancels the request; the channel can subscribe again with a definite result."""
    async with Misbehaver() as server, client_of(server) as client:
        server.answers["phx_join"] = None
        room, received = client.channel("room"), Collector()
        with pytest.raises(OperationTimeout):
            await room.subscribe(timeout=0.05)
        joining = asyncio.create_task(room.subscribe())
        await asyncio.sleep(0)
        joining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await joining
        server.answers["phx_join"] = Wire.accept
        await room.subscribe()
        assert room.state is ChannelState.JOINED and received == []


async def test_a_crashed_channel_rejoins():
    """`phx_error` and an unexplained `phx_close` of the active join are followed by another join."""
    steps = Steps()
    with LocalServer() as server:
        async with client_of(server, server.anon_key, rejoin_backoff=steps) as client:
            room, received = await joined_channel(client)
            for act in (server.crash_channel, server.close_channel):
                before = len(steps)
                act("room")
                await steps.until(before + 1)
                await room.subscribe()
                server.broadcast("room", "hello", {})
                await received.until(before + 1)
            assert client.stats().connects == 1


async def test_a_server_restart_ends_in_a_joined_channel():
    """`Server requested disconnect` and 1012, with joins refused meanwhile, end in a joined channel."""
    steps = Steps()
    with LocalServer() as server:
        async with client_of(server, server.anon_key, rejoin_backoff=steps) as client:
            room, received = await joined_channel(client)
            server.reject_join("room", "RealtimeRestarting: Realtime is restarting, please standby")
            server.request_disconnect()
            await steps.until(3)
            server.reset_faults()
            await room.subscribe()
            server.broadcast("room", "hello", {})
            await received.until(1)
            assert client.stats().reconnects == 1


async def test_leaving_a_channel_does_not_affect_others():
    """A topic is left while another is being joined, and its late frames are not delivered."""
    async with Misbehaver() as server, client_of(server) as client:
        one, received_one = await joined_channel(client, "one")
        server.answers["phx_leave"] = None
        leaving = asyncio.create_task(one.unsubscribe(timeout=0.05))
        two, received_two = await joined_channel(client, "two")
        await leaving
        server.wire.broadcast("one", "ghost", {})
        server.wire.broadcast("two", "real", {})
        await received_two.until(1)
        assert received_one == [] and (one.state, two.state) == (ChannelState.IDLE, ChannelState.JOINED)
        assert client.state is ConnectionState.OPEN


async def test_a_denied_channel_can_join_with_another_token():
    """A permanently refused channel joins when it gets an accepted token."""
    async with Misbehaver() as server, client_of(server, rejoin_backoff=at_once) as client:
        server.answers["phx_join"] = lambda wire, frame: wire.deny(frame, "Unauthorized: not you")
        room = client.channel("room", private=True)
        with pytest.raises(JoinDeniedError):
            await room.subscribe()
        server.answers["phx_join"] = Wire.accept
        await room.set_auth("another-token")
        await room.subscribe()
        assert server.of("phx_join")[-1].payload["access_token"] == "another-token"
