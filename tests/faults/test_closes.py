"""Connections that end in every way, and connections that are dead without ending."""

import asyncio

import pytest

from supawire import ChannelState, ConnectionState, changes, gaps, presence, status
from supawire.errors import ConnectionLostError
from supawire.transport.websocket import WebSocketTransport
from tests.faults.misbehaver import PING, Misbehaver, Script, Wire, behave
from tests.faults.steps import Collector, Steps, check_recovery, client_of, joined_channel, ours

pytestmark = pytest.mark.anyio

CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 4000, 4999, None]
"""With None the close frame has no code."""


@pytest.mark.parametrize("code", CODES)
async def test_every_close_is_followed_by_a_reconnect(code: int | None):
    """Whatever the close code, the client reconnects and joins, and each event arrives once."""
    async with Misbehaver() as server, client_of(server) as client:
        room, received = await joined_channel(client)
        moves = Collector()
        room.on(status(), moves)
        server.wire.close(code)
        await check_recovery(server, room, received, joins=2)
        assert len(server.wires) == 2
        cause = moves[0].cause
        assert isinstance(cause, ConnectionLostError) and cause.close_code == code
        assert [move.state for move in moves] == [ChannelState.WAITING, ChannelState.JOINING, ChannelState.JOINED]


@pytest.mark.parametrize("how", ["reset", "end of stream", "end in the middle of a frame"])
async def test_an_end_without_a_close_is_followed_by_a_reconnect(how: str):
    """A dropped connection (1006) is opened again, and half a frame is not delivered."""
    async with Misbehaver() as server, client_of(server) as client:
        room, received = await joined_channel(client)
        if how == "reset":
            server.wire.reset()
        else:
            if how != "end of stream":
                server.wire.write(b'\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00["1",null,"realtime:room"')
            server.wire.hang_up()
        await check_recovery(server, room, received, joins=2)
        assert len(server.wires) == 2


BROKEN: dict[str, bytes] = {
    "reserved bits": b"\xf1\x02{}",
    "unknown opcode": b"\x83\x02{}",
    "masked": b"\x81\x82abcd{}",
    "continuation without a first frame": b"\x80\x02{}",
    "long ping": b"\x89\x7e\x01\x00" + bytes(256),
    "fragmented ping": b"\x09\x00",
    "close of one byte": b"\x88\x01\x03",
    "close with an illegal code": b"\x88\x02\x03\xed",
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "zeros": bytes(64),
    "noise": bytes(range(255, 0, -1)),
    "a frame of 64 MB": b"\x82\x7f" + (64_000_000).to_bytes(8) + b"x" * 1000,
    "a frame of 9 exabytes": b"\x82\x7f" + (2**63 - 1).to_bytes(8),
}


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_protocol_violation_of_websocket_ends_the_socket(fault: str):
    """Invalid bytes or a frame that is too large end the socket, but not the client."""
    async with Misbehaver() as server, client_of(server, heartbeat=0.2, timeout=0.5) as client:
        room, received = await joined_channel(client)
        server.wire.write(BROKEN[fault])
        if fault in ("masked", "zeros"):  # some transports accept these frames and stay connected
            server.wire.broadcast("room", "still", {})
            await asyncio.sleep(0)
            server.wire.reset()
        await server.connected(2)
        await check_recovery(server, room, received, joins=2)


async def test_a_connection_that_closes_at_once_does_not_reset_the_backoff():
    """Only a stable connection starts the backoff from the beginning."""
    steps = Steps()

    async def closes(wire: Wire) -> None:
        await wire.upgrade()
        wire.close(1000)

    async def joins_then_closes(wire: Wire) -> None:
        """Accept a join and close: the connection counts as stable only after some seconds."""
        await wire.upgrade()
        await wire.accept_join()
        wire.close(1011)

    scripts: list[Script] = [behave, closes, closes, closes, joins_then_closes, joins_then_closes, closes, behave]
    async with Misbehaver(*scripts) as server, client_of(server, backoff=steps) as client:
        room, _ = await joined_channel(client)
        server.wire.reset()
        await server.connected(8)
        await room.subscribe()
        assert steps == list(range(7))
        assert client.stats().connects == 8


async def test_unanswered_heartbeats_end_the_connection():
    """A peer that answers pings and sends data, but no heartbeat replies, is disconnected."""

    async def no_heartbeats(wire: Wire) -> None:
        await wire.upgrade()
        while True:
            frame = await wire.receive()
            if frame.event == "phx_join":
                wire.accept(frame)
            wire.send(b"are you there?", PING)
            wire.broadcast("room", "noise", {})

    async with (
        Misbehaver(no_heartbeats, behave) as server,
        client_of(server, heartbeat=0.1, timeout=0.3) as client,
    ):
        moves = client.listen()
        room, received = await joined_channel(client)
        async for move in moves:
            if move.topic is None and move.state is ConnectionState.RETRYING:
                assert "heartbeat" in str(move.cause)
                break
        await server.connected(2)
        await check_recovery(server, room, received, joins=2)
        assert server.wires[0].pongs > 0
        with pytest.raises(EOFError):
            await server.wires[0].receive()


async def test_a_half_open_connection_is_detected():
    """A peer that vanished behind a connection that still accepts data is detected by heartbeats."""

    async def stops_answering(wire: Wire) -> None:
        await wire.upgrade()
        await wire.accept_join()  # then sends nothing and does not close

    async with Misbehaver(stops_answering, behave) as server, client_of(server, heartbeat=0.1, timeout=0.3) as client:
        room, received = await joined_channel(client, ack=True)
        lost = asyncio.create_task(room.broadcast("a", {}, timeout=None))
        with pytest.raises(ConnectionLostError) as caught:
            await lost
        assert caught.value.maybe_sent
        await check_recovery(server, room, received, joins=2)


async def test_close_does_not_wait_for_a_peer_that_is_gone():
    """`close` ends although the peer reads and answers nothing, and leaves no task behind."""

    async def stops_answering(wire: Wire) -> None:
        await wire.upgrade()
        await wire.accept_join()

    transport = WebSocketTransport(close_timeout=0.1)
    async with Misbehaver(stops_answering) as server, client_of(server, timeout=0.2, transport=transport) as client:
        await joined_channel(client)
        await client.close()
        assert ours() == set()


async def test_a_heartbeat_of_the_old_connection_does_not_count_on_the_new_one():
    """A heartbeat that was pending when the connection dropped does not time out on the next one."""

    async def breaks_in_the_middle(wire: Wire) -> None:
        await wire.upgrade()
        await wire.accept_join()
        while (await wire.receive()).event != "heartbeat":
            pass
        wire.reset()

    scripts: list[Script] = [breaks_in_the_middle, behave]
    async with Misbehaver(*scripts) as server, client_of(server, heartbeat=0.1, timeout=0.3) as client:
        room, received = await joined_channel(client)
        await server.got("heartbeat", 6)  # beyond the deadline of the first
        await check_recovery(server, room, received, joins=2)
        assert len(server.wires) == 2


async def test_a_gap_has_the_kinds_of_lost_events():
    """A dropped connection opens a gap with the kinds of events that have listeners."""
    async with Misbehaver() as server, client_of(server) as client:
        room, _ = await joined_channel(client)
        gap_events = Collector()
        room.on(gaps(), gap_events)
        server.wire.close(1011)
        gap = await gap_events.until(1)
        assert gap.lost == {"broadcast"} and gap.started_at <= gap.ended_at
        assert gap.reason == "connection_lost"


async def test_a_rejoin_restores_bindings_and_presence():
    """After each dropped connection the join has the same bindings, and presence is tracked again."""
    async with Misbehaver() as server, client_of(server) as client:
        room, rows = client.channel("room", presence_key="me"), Collector()
        for table in ("a", "b", "c"):
            room.on(changes(table), rows)
        room.on(presence(), Collector())
        await room.subscribe()
        await room.track({"here": True})
        first = server.of("phx_join")[0].payload["config"]
        for number in range(2, 7):
            server.wire.reset()
            frame = await server.got("phx_join", number)
            assert frame.payload["config"] == first
            await server.got("presence", number)
            await room.subscribe()
            data = {"schema": "public", "table": "b", "type": "INSERT", "columns": [], "record": {}, "errors": None}
            server.wire.push("realtime:room", "postgres_changes", {"ids": [1], "data": data})
            await rows.until(number - 1)
        assert [row.table for row in rows] == ["b"] * 5


async def test_a_stalled_connection_is_replaced():
    """Sends that the network does not accept time out or report how they were lost; the client reconnects."""

    async def stops_reading(wire: Wire) -> None:
        await wire.upgrade()
        await wire.accept_join()
        wire.stop_reading()

    async with Misbehaver(stops_reading, behave) as server, client_of(server, heartbeat=0.2, timeout=0.4) as client:
        room, received = await joined_channel(client)
        big = "x" * 2_000_000
        sends = [asyncio.create_task(room.broadcast("big", big, timeout=None)) for _ in range(20)]
        outcomes = await asyncio.gather(*sends, return_exceptions=True)
        lost = [outcome for outcome in outcomes if isinstance(outcome, ConnectionLostError)]
        assert lost and len(lost) + sum(outcome is not None for outcome in outcomes if outcome not in lost) == 20
        assert any(not error.maybe_sent for error in lost)
        await check_recovery(server, room, received, joins=2)


async def test_frames_before_a_close_are_delivered():
    """Frames that were sent before the close frame are delivered, although it has already arrived."""
    async with Misbehaver() as server, client_of(server) as client:
        room, received = await joined_channel(client)
        for number in range(500):
            server.wire.broadcast("room", "count", number)
        server.wire.close(1001)
        await received.until(500)
        assert [message.payload for message in received] == list(range(500))
        await check_recovery(server, room, received, joins=2)
