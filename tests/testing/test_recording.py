"""`RecordingTransport` with both clients."""

from typing import Any

import pytest

from supawire import (
    ConnectError,
    InvalidArgumentError,
    JoinDeniedError,
    LocalServer,
    OperationTimeout,
    PushError,
    StateError,
    broadcast,
    changes,
    connect,
    connect_async,
    presence,
)
from supawire.testing.recorded_frames import read
from supawire.testing.recording import RecordingTransport
from supawire.transport.websocket import WebSocketTransport
from tests.clients.client_api import until

pytestmark = pytest.mark.anyio

URL, KEY = "http://127.0.0.1:1", "very-secret-key"
Version = Any


@pytest.fixture(params=["1.0.0", "2.0.0"])
def version(request: pytest.FixtureRequest) -> Version:
    return request.param


async def test_without_a_server_every_request_succeeds(version: Version):
    """Joins, confirmed broadcasts, tracks, pings and leaves succeed, in both versions."""
    wire = RecordingTransport()
    async with connect_async(URL, KEY, transport=wire, protocol=version) as client:
        room = client.channel("room", ack=True)
        room.listen(changes("users"), presence())
        await room.subscribe(wait="ready")
        assert (await room.broadcast("typing", {"n": 1})).acked
        await room.track({"n": 2})
        assert await client.ping() >= 0
        await room.unsubscribe()
        assert [frame.event for frame in wire.sent()] == ["phx_join", "broadcast", "presence", "heartbeat", "phx_leave"]


async def test_recorded_frames_are_decoded(version: Version):
    """A broadcast has its event and payload in both versions; refs, topic and config of a join are readable."""
    wire = RecordingTransport()
    async with connect_async(URL, KEY, transport=wire, protocol=version) as client:
        room = client.channel("room")
        received = room.listen(broadcast())
        await room.subscribe()
        await room.broadcast("typing", {"n": 1})
        wire.broadcast("room", "stop", {"n": 2})
        assert (await anext(received)).payload == {"n": 2}
    join, message = wire.sent(topic="room")[:2]
    assert join.config["broadcast"] == {"self": False, "ack": False}
    assert (message.topic, message.event, message.user_event, message.payload) == (
        "realtime:room", "broadcast", "typing", {"n": 1},
    )  # fmt: skip
    assert message.join_ref == join.ref and message.binary is (version == "2.0.0")
    (got,) = wire.received("broadcast")
    assert (got.user_event, got.payload, got.connection) == ("stop", {"n": 2}, 1)
    assert wire.frames.index(message) < wire.frames.index(got)
    assert wire.sent("heartbeat", topic="phoenix") == []
    wire.clear()
    assert wire.frames == []


async def test_a_binary_payload_is_recorded_as_bytes():
    """A payload of bytes is recorded unchanged."""
    wire = RecordingTransport()
    async with connect_async(URL, KEY, transport=wire) as client:
        await client.channel("room").subscribe()
        await client.channel("room").broadcast("blob", b"\x00\xff")
    assert [(frame.user_event, frame.payload) for frame in wire.sent("broadcast")] == [("blob", b"\x00\xff")]


async def test_tokens_are_not_recorded():
    """Neither frames nor their `repr` contain a token or the key."""
    wire = RecordingTransport()
    async with connect_async(URL, KEY, transport=wire, token="a-token-of-a-user") as client:
        await client.channel("room").subscribe()
        await client.set_auth("another-token-here")
    assert [frame.event for frame in wire.sent()][:2] == ["phx_join", "access_token"]
    everything = repr(wire.frames) + str([frame.data for frame in wire.frames])
    assert "***" in everything
    for secret in (KEY, "a-token-of", "another"):
        assert secret not in everything


async def test_answers_can_be_set():
    """The next frames of an event get the configured answer, a number of times or always; then the default again."""
    wire = RecordingTransport()
    async with connect_async(URL, KEY, transport=wire, rejoin_backoff=lambda attempt: 0.0) as client:
        wire.answer("phx_join", {"reason": "Unauthorized: You do not have permissions"}, status="error")
        with pytest.raises(JoinDeniedError):
            await client.channel("closed").subscribe()
        room = client.channel("room", ack=True)
        await room.subscribe()

        wire.answer("presence", {"reason": "no"}, status="error", topic="other")
        await room.track({})
        wire.answer("presence", {"reason": "no"}, status="error", topic="room")
        with pytest.raises(PushError, match="no"):
            await room.track({"n": 2})

        wire.ignore("broadcast", times=2)
        for number in range(2):
            with pytest.raises(OperationTimeout):
                await room.broadcast("a", number, timeout=0.01)
        assert (await room.broadcast("a", 2)).acked

        wire.ignore("heartbeat", times=None)
        with pytest.raises(OperationTimeout):
            await client.ping(timeout=0.01)
        wire.reset()
        assert await client.ping() >= 0


async def test_a_connection_can_be_refused_and_dropped():
    """`refuse` and `drop` act like a network, and the client reconnects."""
    wire = RecordingTransport()
    wire.refuse(503, times=2)
    async with connect_async(URL, KEY, transport=wire, backoff=lambda attempt: 0.0) as client:
        assert wire.attempts == 3
        room = client.channel("room")
        received = room.listen(broadcast())
        await room.subscribe()
        wire.drop()
        await until(lambda: len(wire.sent("phx_join")) == 2)
        await room.subscribe()
        wire.broadcast("room", "back", None)
        assert (await anext(received)).event == "back"
        assert [frame.connection for frame in wire.sent("phx_join")] == [3, 4]
    with pytest.raises(StateError, match="not connected"):
        wire.drop()
    wire.refuse(403)
    with pytest.raises(ConnectError):
        await connect_async(URL, KEY, transport=wire)


async def test_it_records_another_transport():
    """Frames of a real socket are recorded and passed on, except those that the test answers."""
    async with LocalServer() as server:
        wire = RecordingTransport(WebSocketTransport())
        async with connect_async(server.url, server.anon_key, transport=wire) as client:
            room = client.channel("room", echo=True, ack=True)
            received = room.listen(broadcast())
            await room.subscribe()
            wire.answer("broadcast", {"reason": "too many"}, status="error")
            with pytest.raises(PushError, match="too many"):
                await room.broadcast("kept back", 1)
            await room.broadcast("through", 2)
            assert (await anext(received)).event == "through"
            wire.broadcast("room", "from the test", 3)
            assert (await anext(received)).event == "from the test"
        assert [frame.user_event for frame in server.frames if frame.event == "broadcast"] == ["through"]
        assert [frame.user_event for frame in wire.sent("broadcast")] == ["kept back", "through"]
        assert [frame.user_event for frame in wire.received("broadcast")] == ["through", "from the test"]


def test_it_can_be_used_from_any_thread():
    """Answers, frames and drops work from the thread that uses the sync client."""
    wire = RecordingTransport()
    with connect(URL, KEY, transport=wire, backoff=lambda attempt: 0.0) as client:
        room = client.channel("room", ack=True)
        received = room.listen(broadcast())
        room.subscribe()
        wire.broadcast("room", "a", 1)
        assert next(received).payload == 1
        wire.ignore("broadcast")
        with pytest.raises(OperationTimeout):
            room.broadcast("b", 2, timeout=0.01)
        connects = client.stats().connects
        wire.drop()
        while client.stats().connects == connects:
            pass
    assert [frame.user_event for frame in wire.sent("broadcast")] == ["b"]


async def test_invalid_arguments_are_refused():
    """An unknown event or status, a wrong count and a payload that is not JSON raise at once (R38)."""
    wire = RecordingTransport()
    with pytest.raises(InvalidArgumentError, match="did you mean 'phx_join'"):
        wire.answer("phx_joim")
    with pytest.raises(InvalidArgumentError, match="status"):
        wire.answer("phx_join", status="okay")
    with pytest.raises(InvalidArgumentError, match="times"):
        wire.ignore("phx_join", times=0)
    with pytest.raises(InvalidArgumentError, match="response"):
        wire.answer("phx_join", object())
    async with connect_async(URL, KEY, transport=wire):
        with pytest.raises(InvalidArgumentError, match="JSON"):
            wire.broadcast("room", "a", float("nan"))


@pytest.mark.parametrize(
    ("data", "binary"), [(b"nonsense", False), (b"[1]", False), (b'{"topic": 1}', False), (b"\x09", True), (b"", True)]
)
def test_invalid_frames_are_recorded_as_bytes(data: bytes, binary: bool):
    """A frame that cannot be decoded is recorded with its bytes."""
    frame = read("in", 1, data, binary)
    assert (frame.topic, frame.event, frame.payload, frame.binary) == (None, None, data, binary)


def test_every_binary_frame_is_decoded():
    """Pushes, replies and broadcasts of the binary kinds are decoded, with payloads of JSON or bytes."""
    reply = read("in", 1, b'\x01\x01\x01\x04\x0212roomok{"n":1}', True)
    assert (reply.event, reply.topic, reply.ref, reply.payload) == (
        "phx_reply", "room", "2", {"status": "ok", "response": {"n": 1}},
    )  # fmt: skip
    push = read("in", 1, b"\x00\x01\x04\x011roomeraw", True)
    assert (push.event, push.join_ref, push.payload) == ("e", "1", b"raw")
    stored = read("in", 1, b"\x04\x04\x01\x00\x01roome[1]", True)
    assert (stored.event, stored.user_event, stored.payload) == ("broadcast", "e", [1])
