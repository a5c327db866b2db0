"""Received frames: the effect of each kind of event, payloads, and large frames that are decoded when read."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from docs.tables.kinds import KINDS
from supawire import RowError
from supawire.core import binary
from supawire.core.effects import UnknownEvent, UnreadableFrame
from supawire.core.receive import LARGE_FRAME_BYTES as SIZE
from supawire.events import (
    Broadcast,
    ChannelState,
    Insert,
    LateBroadcast,
    PresenceJoin,
    PresenceLeave,
    PresenceSync,
    PresenceUpdate,
    Sent,
    System,
)
from supawire.options import PROTOCOLS, SessionOptions
from supawire.selectors import broadcast, changes, presence, status, system
from tests.core.conftest import Harness

ROOM = "realtime:room"


def ada(ref: str, previous: str | None = None) -> dict[str, Any]:
    meta = {"phx_ref": ref} | ({"phx_ref_prev": previous} if previous else {})
    return {"ada": {"metas": [meta]}}


def kinds(events: list[Any]) -> list[type]:
    return [type(event) for event in events]


def reply(harness: Harness, events: list[Any]) -> None:
    ticket = harness.broadcast(ROOM, ack=True)
    harness.answer_push(harness.pushed()[-1])
    assert harness.outcome(ticket) == Sent("socket", acked=True) and events == []


def heartbeat_reply(harness: Harness, events: list[Any]) -> None:
    ticket = harness.call(harness.session.ping, 10.0)
    harness.run_for(0.25)
    harness.reply(harness.sent("heartbeat")[-1])
    assert harness.outcome(ticket) == 0.25 and events == []


def close(harness: Harness, events: list[Any]) -> None:
    harness.close_channel(ROOM, harness.sent("phx_join")[-1].ref)
    assert harness.state(ROOM) is ChannelState.RETRYING and [event.state for event in events] == ["retrying"]


def error(harness: Harness, events: list[Any]) -> None:
    harness.close_channel(ROOM, harness.sent("phx_join")[-1].ref, event="phx_error")
    assert harness.state(ROOM) is ChannelState.RETRYING and "crashed" in str(events[0].cause)


def row(harness: Harness, events: list[Any]) -> None:
    harness.row(ROOM, 100, id=1)
    (change,) = events
    assert type(change) is Insert and change.record == {"id": 1}


def message(harness: Harness, events: list[Any]) -> None:
    harness.receive(ROOM, "broadcast", {"type": "broadcast", "event": "typing", "payload": [1]})
    assert kinds(events) == [Broadcast] and events[0].payload == [1]


def presence_state(harness: Harness, events: list[Any]) -> None:
    harness.receive(ROOM, "presence_state", ada("A"))
    assert kinds(events) == [PresenceJoin, PresenceSync] and set(events[-1].state) == {"ada"}


def presence_diff(harness: Harness, events: list[Any]) -> None:
    harness.receive(ROOM, "presence_state", {})
    harness.receive(ROOM, "presence_diff", {"joins": ada("A"), "leaves": {}})
    harness.receive(ROOM, "presence_diff", {"joins": ada("B", "A"), "leaves": ada("A")})
    harness.receive(ROOM, "presence_diff", {"joins": {}, "leaves": ada("B", "A")})
    expected = [PresenceJoin, PresenceUpdate, PresenceLeave]
    assert kinds(events) == [PresenceSync, *[kind for one in expected for kind in (one, PresenceSync)]]


def system_message(harness: Harness, events: list[Any]) -> None:
    assert not harness.at(ROOM).ready
    harness.system(ROOM, "Subscribed to PostgreSQL")
    assert System in kinds(events) and harness.at(ROOM).ready


def unknown(harness: Harness, events: list[Any]) -> None:
    harness.receive(ROOM, "postgres_cdc_of_tomorrow", {"x": 1})
    assert harness.session.stats().unknown_frames == 1 and len(harness.reports(UnknownEvent)) == 1
    assert events == [] and harness.state(ROOM) is ChannelState.JOINED


SCENES: dict[str, Callable[[Harness, list[Any]], None]] = {
    ":phx-reply": reply,
    ":heartbeat-reply": heartbeat_reply,
    ":phx-close": close,
    ":phx-error": error,
    ":postgres-changes": row,
    ":broadcast": message,
    ":presence-state": presence_state,
    ":presence-diff": presence_diff,
    ":system": system_message,
    ":unknown": unknown,
}


@pytest.mark.parametrize("kind", [kind.there for kind in KINDS])
@pytest.mark.parametrize("version", PROTOCOLS)
def test_each_kind_of_event_has_the_documented_effect(version: Any, kind: str) -> None:
    """A frame of the kind has the documented effect, in either wire version (R40)."""
    harness = Harness(SessionOptions(protocol=version))
    harness.open()
    harness.channel("room", ack=True)
    events = harness.collect(ROOM, changes("users"), broadcast(), presence(), system(), status())
    harness.join(ROOM)
    events.clear()
    SCENES[kind](harness, events)


HUGE = '{"amount": 1e400, "note": "a"}'
"""Valid JSON for PostgreSQL with a number that does not fit a float."""


class Price(msgspec.Struct):
    amount: Decimal
    note: str = ""


def framed(harness: Harness, room: str, message: str, join_ref: str = "null") -> bytes:
    """Return a broadcast with this text as the `payload` of its frame."""
    if harness.options.protocol == "2.0.0":
        return f'[{join_ref},null,"{room}","broadcast",{message}]'.encode()
    return f'{{"topic":"{room}","event":"broadcast","payload":{message},"ref":null}}'.encode()


def packed(room: str, payload: bytes, meta: bytes = b"", *, is_json: bool = True) -> bytes:
    return binary.pack(binary.USER_BROADCAST, room.encode(), b"e", meta, payload=payload, json=is_json)


@pytest.fixture(params=PROTOCOLS)
def harness(request: pytest.FixtureRequest) -> Harness:
    made = Harness(SessionOptions(protocol=request.param))
    made.open()
    return made


def join_with(harness: Harness, *selectors: Any) -> tuple[str, list[Any]]:
    room = harness.channel("room")
    events = harness.collect(room, *selectors)
    harness.join(room)
    return room, events


def refusal(event: Any) -> RowError:
    with pytest.raises(RowError) as caught:
        _ = event.payload
    return caught.value


def test_reading_an_undecodable_payload_raises(harness: Harness) -> None:
    """The message is delivered, each read raises an error with the text, and it does not count as garbage (R40)."""
    room, events = join_with(harness, broadcast())
    harness.receive_raw(framed(harness, room, f'{{"event":"e","payload":{HUGE},"type":"broadcast"}}'))
    assert [(one.topic, one.event, one.id) for one in events] == [("room", "e", None)]
    assert refusal(events[0]).raw == HUGE.encode() == refusal(events[0]).raw
    assert refusal(events[0]).topic == "room"
    assert harness.session.stats().garbage_frames == 0


def test_reading_an_undecodable_payload_of_a_binary_frame_raises() -> None:
    """The frame is marked as JSON but is not: `raw` has the bytes (R40)."""
    harness = Harness()
    harness.open()
    room, events = join_with(harness, broadcast("e"))
    harness.receive_raw(packed(room, b"not json"), binary=True)
    assert refusal(events[0]).raw == b"not json"


def test_a_stored_message_with_an_undecodable_payload_is_delivered_once(harness: Harness) -> None:
    """A stored message and its copy with the same id are delivered once (R44)."""
    room, events = join_with(harness, broadcast())
    frame = framed(harness, room, f'{{"event":"e","meta":{{"id":"m1","replayed":true}},"payload":{HUGE}}}')
    for _ in range(2):
        harness.receive_raw(frame)
    if harness.options.protocol == "2.0.0":
        harness.receive_raw(packed(room, b"not json", b'{"id":"m1"}'), binary=True)
    assert [(one.id, one.replayed) for one in events] == [("m1", True)]


def test_an_undecodable_broadcast_of_a_channel_that_is_not_joined_is_dropped(harness: Harness) -> None:
    """The frame is counted and reported, since no listener can receive it (R40)."""
    _, events = join_with(harness, broadcast())
    message = f'{{"event":"e","payload":{HUGE}}}'
    harness.receive_raw(framed(harness, "realtime:elsewhere", message))
    harness.receive_raw(framed(harness, "realtime:room", message).replace(b'"broadcast"', b'"something"', 1))
    assert events == [] and harness.session.stats().garbage_frames == 2 == len(harness.reports(UnreadableFrame))


def test_a_model_is_created_from_the_text_of_the_frame(harness: Harness) -> None:
    """A Decimal gets every digit and the scale of a number, even beyond the range of float; others get floats."""
    room, events = join_with(harness, broadcast("e", model=Price))
    plain = harness.collect(room, broadcast("e"))
    for number in ("1.10", "12345678901234567.890", "1e400"):
        harness.receive_raw(framed(harness, room, f'{{"event":"e","payload":{{"amount":{number}}}}}'))
    assert [str(one.payload.amount) for one in events] == ["1.10", "12345678901234567.890", "1E+400"]
    assert events[0].payload is events[0].payload, "it is created once"
    assert [one.payload for one in plain[:2]] == [{"amount": 1.1}, {"amount": 12345678901234567.89}]


def test_a_model_is_created_from_the_json_of_a_binary_frame() -> None:
    """JSON becomes an object; bytes do not, and are complete in the error."""
    harness = Harness()
    harness.open()
    room, events = join_with(harness, broadcast("e", model=Price))
    harness.receive_raw(packed(room, b'{"amount":1.10}', b'{"id":"m1","replayed":true}'), binary=True)
    harness.receive_raw(packed(room, b"\x00\x01", is_json=False), binary=True)
    assert str(events[0].payload.amount) == "1.10" and (events[0].id, events[0].replayed) == ("m1", True)
    assert refusal(events[1]).raw == b"\x00\x01"


def test_a_model_is_created_from_a_frame_of_an_unusual_shape(harness: Harness) -> None:
    """A frame that was decoded leniently becomes an object as well (R40)."""
    room, events = join_with(harness, broadcast("e", model=Price))
    frame = json.loads(framed(harness, room, '{"event":"e","payload":{"amount":"1.10"}}'))
    if isinstance(frame, list):
        frame[1] = 7
    else:
        frame["ref"] = 7
    harness.receive_raw(json.dumps(frame).encode())
    assert str(events[0].payload.amount) == "1.10"


def test_reading_a_payload_that_does_not_fit_the_model_raises(harness: Harness) -> None:
    """The error has the received text, and the other listener gets its dict (R42)."""
    room, events = join_with(harness, broadcast("e", model=Price))
    plain = harness.collect(room, broadcast("e"))
    harness.receive_raw(framed(harness, room, '{"event":"e","payload":{"amount": "dear"}}'))
    assert refusal(events[0]).raw == b'{"amount": "dear"}' and plain[0].payload == {"amount": "dear"}


TEXT = json.dumps([[]] * SIZE).encode()


def take(harness: Harness, data: bytes, *, is_binary: bool = False) -> None:
    """Receive a large frame as the shell does."""
    delivery = harness.session.receive_large(harness.session.generation, data, is_binary, harness.now)
    for listener in delivery[0] if delivery else ():
        listener(delivery[1] if delivery else None)


@pytest.fixture
def listening(each: Harness) -> tuple[Harness, str, list[Any]]:
    each.open()
    room = each.channel()
    events = each.collect(room, broadcast("e"), changes("users"))
    each.join(room)
    return each, room, events


def test_a_large_broadcast_is_decoded_when_it_is_read(listening: tuple[Harness, str, list[Any]]) -> None:
    """The event keeps the text and returns the same payload."""
    harness, room, events = listening
    payload = b'{"type":"broadcast","event":"e","meta":{"id":"m1"},"payload":' + TEXT + b"}"
    if harness.options.protocol == "2.0.0":
        take(harness, b'[null,null,"%s","broadcast",%s]' % (room.encode(), payload))
        frame = binary.pack(binary.USER_BROADCAST, room.encode(), b"e", b'{"id":"m2"}', payload=TEXT, json=True)
        take(harness, frame, is_binary=True)
        take(harness, frame, is_binary=True)  # a stored message that arrived before
    else:
        take(harness, b'{"topic":"%s","event":"broadcast","payload":%s,"ref":null}' % (room.encode(), payload))
    assert [type(event) for event in events] == [LateBroadcast] * len(events)
    assert [event.id for event in events] == ["m1", "m2"][: len(events)]
    assert all(event.payload == json.loads(TEXT) for event in events)
    assert harness.session.stats().frames_received == 1 + (1 if len(events) == 1 else 3)


def test_other_large_frames_are_received_like_small_ones(listening: tuple[Harness, str, list[Any]]) -> None:
    """Changes, bytes, unreadable frames, and frames of topics that are not joined."""
    harness, room, events = listening
    harness.row(room, 100, id=1)
    row = {
        "data": {"type": "INSERT", "record": {"id": "x" * SIZE}, "columns": [], "errors": None},
        "ids": [100],
    }
    parts = [None, None, room, "postgres_changes", row]
    frame = {"topic": room, "event": "postgres_changes", "payload": row, "ref": None}
    take(harness, json.dumps(parts if harness.options.protocol == "2.0.0" else frame).encode())
    assert [event.type for event in events] == ["INSERT", "INSERT"]
    for data, is_binary in (
        (b"{" * SIZE, False),
        (b"\x09" * SIZE, True),
        (b"\x04" + bytes(SIZE), True),
    ):
        take(harness, data, is_binary=is_binary)
    packed = binary.pack(binary.USER_BROADCAST, room.encode(), b"e", b"", payload=bytes(SIZE), json=False)
    take(harness, packed, is_binary=True)
    assert events[-1].payload == bytes(SIZE)
