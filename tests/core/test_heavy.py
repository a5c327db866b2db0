"""Large frames: payloads are decoded when read, since a decoded list can take 24 times its bytes on the wire."""

import json
from typing import Any

import pytest

from supawire.core import binary
from supawire.core.receive import HEAVY
from supawire.events import LateBroadcast
from supawire.selectors import broadcast, changes
from tests.core.conftest import Story

TEXT = json.dumps([[]] * HEAVY).encode()


def take(story: Story, data: bytes, *, is_binary: bool = False) -> None:
    """Receive a large frame as the shell does."""
    delivery = story.session.receive_heavy(story.session._context.generation, data, is_binary, story.now)
    for listener in delivery[0] if delivery else ():
        listener(delivery[1] if delivery else None)


@pytest.fixture
def listening(each: Story) -> tuple[Story, str, list[Any]]:
    each.open()
    room = each.channel()
    heard = each.collect(room, broadcast("e"), changes("users"))
    each.join(room)
    return each, room, heard


def test_a_large_broadcast_is_decoded_when_it_is_read(listening: tuple[Story, str, list[Any]]) -> None:
    """The event keeps the text and returns the same payload."""
    story, room, heard = listening
    payload = b'{"type":"broadcast","event":"e","meta":{"id":"m1"},"payload":' + TEXT + b"}"
    if story.options.protocol == "2.0.0":
        take(story, b'[null,null,"%s","broadcast",%s]' % (room.encode(), payload))
        frame = binary.pack(binary.USER_BROADCAST, room.encode(), b"e", b'{"id":"m2"}', payload=TEXT, json=True)
        take(story, frame, is_binary=True)
        take(story, frame, is_binary=True)  # it is stored, and has arrived before
    else:
        take(story, b'{"topic":"%s","event":"broadcast","payload":%s,"ref":null}' % (room.encode(), payload))
    assert [type(event) for event in heard] == [LateBroadcast] * len(heard)
    assert [event.id for event in heard] == ["m1", "m2"][: len(heard)]
    assert all(event.payload == json.loads(TEXT) for event in heard)
    assert story.session.stats().frames_received == 1 + (1 if len(heard) == 1 else 3)


def test_other_large_frames_are_taken_as_always(listening: tuple[Story, str, list[Any]]) -> None:
    """Changes, bytes, unreadable frames, and frames of topics that are not joined."""
    story, room, heard = listening
    story.row(room, 100, id=1)
    row = {"data": {"type": "INSERT", "record": {"id": "x" * HEAVY}, "columns": [], "errors": None}, "ids": [100]}
    parts = [None, None, room, "postgres_changes", row]
    frame = {"topic": room, "event": "postgres_changes", "payload": row, "ref": None}
    take(story, json.dumps(parts if story.options.protocol == "2.0.0" else frame).encode())
    assert [event.type for event in heard] == ["INSERT", "INSERT"]
    for data, is_binary in ((b"{" * HEAVY, False), (b"\x09" * HEAVY, True), (b"\x04" + bytes(HEAVY), True)):
        take(story, data, is_binary=is_binary)
    packed = binary.pack(binary.USER_BROADCAST, room.encode(), b"e", b"", payload=bytes(HEAVY), json=False)
    take(story, packed, is_binary=True)
    assert heard[-1].payload == bytes(HEAVY)
