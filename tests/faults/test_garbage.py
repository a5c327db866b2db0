"""Invalid frames: each is counted, none ends the connection, and the next valid one is delivered."""

import asyncio
import struct
from typing import Any

import pytest

from supawire import Broadcast, changes, presence, status, system
from supawire.errors import ConnectionLostError, RealtimeError
from supawire.server import LocalServer
from tests.faults.misbehaver import BINARY, Misbehaver
from tests.faults.steps import Collector, check_recovery, client_of, joined_channel

pytestmark = pytest.mark.anyio

DEEP = 100_000

UNREADABLE: dict[str, bytes] = {
    "nothing": b"",
    "half an array": b'["1","2","realtime:room"',
    "half a string": b'[null,null,"realtime:room","broadcast',
    "no JSON": b"<html>502 Bad Gateway</html>",
    "null": b"null",
    "a number": b"5",
    "a string": b'"realtime:room"',
    "true": b"true",
    "an empty array": b"[]",
    "an object": b'{"topic":"realtime:room","event":"broadcast","payload":{},"ref":null}',
    "four elements": b'[null,null,"realtime:room","broadcast"]',
    "a topic that is a number": b'[null,null,7,"broadcast",{}]',
    "an event that is null": b'[null,null,"realtime:room",null,{}]',
    "NaN": b'[null,null,"realtime:room","broadcast",{"event":"x","payload":NaN}]',
    "Infinity": b'[null,null,"realtime:room","broadcast",{"event":"x","payload":-Infinity}]',
    "a control character": b'[null,null,"realtime:room","broadcast",{"event":"a\x00b","payload":1}]',
    "two values": b"[][]",
    "deep": b"[" * DEEP,
    "deep and closed": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP,
    "a byte order mark": b"\xef\xbb\xbf[]",
    "one big string": b'"' + b"x" * 4_900_000 + b'"',
}

UNREADABLE_BINARY: dict[str, bytes] = {
    "nothing": b"",
    "an unknown kind": b"\x07\x01\x01\x01abc",
    "kind 255": b"\xff\xfe",
    "a kind alone": b"\x04",
    "half a header": b"\x04\x0d\x05",
    "a header that promises too much": b"\x04\xff\xff\xff\x01realtime:room",
    "a push that ends": b"\x00\x05\x05\x05a",
    "text": b'[null,null,"realtime:room","broadcast",{}]',
}

ODD: dict[str, bytes] = {
    "a ref that is a number": b'[null,5,"realtime:room","broadcast",{"event":"odd","payload":1}]',
    "six elements": b'[null,null,"realtime:room","broadcast",{"event":"odd","payload":1},"more"]',
    "a ref that is an object": b'[null,{},"realtime:room","broadcast",{"event":"odd","payload":1}]',
    "an unknown event": b'[null,null,"realtime:room","something_new",{"a":1}]',
    "an empty event": b'[null,null,"realtime:room","",{}]',
    "an unknown topic": b'[null,null,"realtime:elsewhere","broadcast",{"event":"odd","payload":1}]',
    "an empty topic": b'[null,null,"","broadcast",{}]',
    "a payload that is a list": b'[null,null,"realtime:room","broadcast",[1,2]]',
    "a payload that is null": b'[null,null,"realtime:room","broadcast",null]',
    "a payload that is a string": b'[null,null,"realtime:room","broadcast","x"]',
    "a meta that is a list": b'[null,null,"realtime:room","broadcast",{"event":"odd","payload":1,"meta":[]}]',
    "an id that is a number": b'[null,null,"realtime:room","broadcast",{"event":"odd","payload":1,"meta":{"id":5}}]',
    "changes without data": b'[null,null,"realtime:room","postgres_changes",{"ids":[0]}]',
    "changes with odd ids": b'[null,null,"realtime:room","postgres_changes",{"ids":["a",null,1e99,{}],"data":{}}]',
    "changes of no kind": b'[null,null,"realtime:room","postgres_changes",{"ids":[0],"data":{"type":5,"table":[]}}]',
    "changes with everything null": (
        b'[null,null,"realtime:room","postgres_changes",{"ids":[0],"data":{"type":"INSERT","schema":null,"table":null,'
        b'"commit_timestamp":null,"columns":null,"record":null,"errors":null}}]'
    ),
    "a presence state that is a list": b'[null,null,"realtime:room","presence_state",[]]',
    "a presence state without metas": b'[null,null,"realtime:room","presence_state",{"a":{},"b":null,"c":5}]',
    "a presence diff of nonsense": (
        b'[null,null,"realtime:room","presence_diff",{"joins":5,"leaves":{"x":{"metas":[{}]}}}]'
    ),
    "a presence diff without anything": b'[null,null,"realtime:room","presence_diff",null]',
    "a system message without anything": b'[null,null,"realtime:room","system",null]',
    "a system message of objects": b'[null,null,"realtime:room","system",{"status":{},"message":[1],"extension":5}]',
    "a reply without anything": b'[null,"77","realtime:room","phx_reply",null]',
    "a reply that is a string": b'[null,"77","realtime:room","phx_reply","payload_size_exceeded"]',
    "a reply with an odd status": b'[null,"77","realtime:room","phx_reply",{"status":5,"response":NaN}]',
    "a close of an unknown join": b'["no","no","realtime:room","phx_close",{}]',
    "a close without refs": b'[null,null,"realtime:nobody","phx_close",{}]',
    "an error without a payload": b'["no","no","realtime:room","phx_error",null]',
}


@pytest.mark.parametrize("fault", UNREADABLE)
async def test_invalid_text_frames_are_counted_and_dropped(fault: str):
    """Text that cannot be decoded raises no error, ends nothing, and is counted (R1)."""
    errors = Collector()
    async with Misbehaver() as server, client_of(server, on_error=errors) as client:
        room, received = await joined_channel(client)
        server.wire.send(UNREADABLE[fault])
        await check_recovery(server, room, received, joins=1)
        assert client.stats().garbage_frames == 1
        assert len(server.wires) == 1 and errors == []


@pytest.mark.parametrize("fault", UNREADABLE_BINARY)
async def test_invalid_binary_frames_are_counted_and_dropped(fault: str):
    """Truncated binary frames and those of an unknown kind raise no error and end nothing."""
    errors = Collector()
    async with Misbehaver() as server, client_of(server, on_error=errors) as client:
        room, received = await joined_channel(client)
        server.wire.send(UNREADABLE_BINARY[fault], BINARY)
        await check_recovery(server, room, received, joins=1)
        assert client.stats().garbage_frames == 1
        assert len(server.wires) == 1 and errors == []


@pytest.mark.parametrize("fault", ODD)
async def test_frames_of_unexpected_shape_end_no_channel(fault: str):
    """A frame of a shape that no server sends is processed as far as possible, with every kind of listener."""
    errors, events = Collector(), Collector()
    async with Misbehaver() as server, client_of(server, on_error=errors) as client:
        room = client.channel("room")
        for selector in (changes("*"), presence(), system()):
            room.on(selector, events)
        await room.subscribe()
        _, received = await joined_channel(client)
        server.wire.send(ODD[fault])
        server.wire.broadcast("room", "after", 1)
        await received.until(lambda all_: any(message.event == "after" for message in all_))
        for event in events:
            repr(event)
        await check_recovery(server, room, received, joins=1)
        assert len(server.wires) == 1 and errors == []


VALUES: dict[str, tuple[str, Any]] = {
    "a number beyond 64 bits": ("123456789012345678901234567890", 123456789012345678901234567890),
    "a negative one": ("-123456789012345678901234567890", -123456789012345678901234567890),
    "a float beyond all": ("1e999", None),
    "a lone surrogate": ('"\\ud800"', None),
    "a pair of surrogates": ('"\\ud83d\\ude00"', "😀"),
    "NUL": ('"\\u0000"', "\x00"),
    "many keys of one name": ('{"a":1,"a":2}', {"a": 2}),
    "an empty key": ('{"":1}', {"": 1}),
    "deep": ("[" * 500 + "]" * 500, None),
}


@pytest.mark.parametrize("fault", VALUES)
async def test_unusual_values_are_delivered_or_raise_on_access(fault: str):
    """A payload that Python cannot represent raises a typed error on access, and loses no other event."""
    text, expected = VALUES[fault]
    async with Misbehaver() as server, client_of(server) as client:
        room, received = await joined_channel(client)
        server.wire.send(f'[null,null,"realtime:room","broadcast",{{"event":"odd","payload":{text}}}]')
        server.wire.broadcast("room", "after", 1)
        await received.until(lambda all_: any(message.event == "after" for message in all_))
        for message in received[:-1]:
            repr(message)
            try:
                assert message.payload == expected or expected is None
            except RealtimeError:
                assert expected is None
        if expected is not None:
            assert len(received) == 2
        await check_recovery(server, room, received, joins=1)
        assert len(server.wires) == 1


async def test_text_that_is_not_utf8_does_not_end_the_client():
    """The frame is dropped or the socket ends; the client continues either way."""
    async with Misbehaver() as server, client_of(server) as client:
        room, received = await joined_channel(client)
        server.wire.send(b'[null,null,"realtime:room","broadcast",{"event":"\xff\xfe","payload":1}]')
        server.wire.send(b'[null,null,"realtime:room","broadcast",{"event":"x","payload":"\xed\xa0\x80"}]')
        server.wire.broadcast("room", "after", 1)
        await received.until(lambda all_: any(message.event == "after" for message in all_))
        for message in received:
            try:
                repr(message)
                assert isinstance(message, Broadcast)
                assert message.payload is not None
            except RealtimeError:
                continue
        await check_recovery(server, room, received, joins=1)


async def test_large_frames_arrive():
    """Frames of 4.9 MB, the server's limit, and of 15 MB are delivered completely, as text and as binary."""
    async with Misbehaver() as server, client_of(server) as client:
        room, received = await joined_channel(client)
        for size in (4_900_000, 15_000_000):
            server.wire.broadcast("room", "big", "x" * size)
            server.wire.send(_binary("big", b"y" * size), BINARY)
        await received.until(4)
        assert [len(message.payload) for message in received] == [4_900_000, 4_900_000, 15_000_000, 15_000_000]
        await check_recovery(server, room, received, joins=1)


def _binary(event: str, payload: bytes) -> bytes:
    topic = b"realtime:room"
    return struct.pack("5B", 4, len(topic), len(event), 0, 0) + topic + event.encode() + payload


async def test_a_frame_of_64_mb_ends_the_socket_not_the_client():
    """A frame above the limit is not read completely: the socket ends, and a new one is opened."""
    async with Misbehaver() as server, client_of(server) as client:
        room, received = await joined_channel(client)
        moves = Collector()
        room.on(status(), moves)
        server.wire.send(b"x" * 64_000_000, BINARY)
        await moves.until(1)
        assert isinstance(moves[0].cause, ConnectionLostError)
        await check_recovery(server, room, received, joins=2)


async def test_garbage_of_the_local_server_ends_no_channel():
    """After a dozen invalid frames of the local server, in both versions, the client is joined."""
    for protocol in ("1.0.0", "2.0.0"):
        with LocalServer() as server:
            async with client_of(server, server.anon_key, protocol=protocol) as client:
                _, received = await joined_channel(client)
                server.garbage()
                await client.ping()
                server.broadcast("room", "after", {})
                await received.until(1)
                assert client.stats().garbage_frames >= 5
                assert client.stats().connects == 1


async def test_much_garbage_loses_no_event(caplog: pytest.LogCaptureFixture):
    """Ten thousand invalid frames between valid ones lose none of these, and cause one log message."""
    async with Misbehaver() as server, client_of(server) as client:
        _, received = await joined_channel(client)
        for number in range(10_000):
            server.wire.send(b"{")
            if number % 100 == 0:
                server.wire.broadcast("room", "count", number)
                await asyncio.sleep(0)
        await received.until(100)
        await client.ping()
        assert client.stats().garbage_frames == 10_000
        assert [message.payload for message in received] == list(range(0, 10_000, 100))
        warned = [line for line in caplog.records if line.levelname == "WARNING" and line.name == "supawire.wire"]
        assert len(warned) == 1
