"""Payloads of broadcasts: decoded with their frame, or from the text where decoding fails or a model is used."""

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from supawire import RowError
from supawire.core import binary
from supawire.core.effects import UnreadableFrame
from supawire.options import PROTOCOLS, SessionOptions
from supawire.selectors import broadcast

from .conftest import Story

HUGE = '{"amount": 1e400, "note": "a"}'
"""Valid JSON for PostgreSQL with a number that does not fit a float."""


class Price(msgspec.Struct):
    amount: Decimal
    note: str = ""


def framed(story: Story, room: str, message: str, join_ref: str = "null") -> bytes:
    """Return a broadcast with this text as the `payload` of its frame."""
    if story.options.protocol == "2.0.0":
        return f'[{join_ref},null,"{room}","broadcast",{message}]'.encode()
    return f'{{"topic":"{room}","event":"broadcast","payload":{message},"ref":null}}'.encode()


def packed(room: str, payload: bytes, meta: bytes = b"", *, is_json: bool = True) -> bytes:
    return binary.pack(binary.USER_BROADCAST, room.encode(), b"e", meta, payload=payload, json=is_json)


@pytest.fixture(params=PROTOCOLS)
def story(request: pytest.FixtureRequest) -> Story:
    told = Story(SessionOptions(protocol=request.param))
    told.open()
    return told


def listening(story: Story, *selectors: Any) -> tuple[str, list[Any]]:
    room = story.channel("room")
    heard = story.collect(room, *selectors)
    story.join(room)
    return room, heard


def refusal(event: Any) -> RowError:
    with pytest.raises(RowError) as caught:
        _ = event.payload
    return caught.value


def test_a_payload_that_cannot_be_read_says_so_where_it_is_read(story: Story) -> None:
    """The message is delivered, each read raises an error with the text, and it does not count as garbage (R40)."""
    room, heard = listening(story, broadcast())
    story.receive_raw(framed(story, room, f'{{"event":"e","payload":{HUGE},"type":"broadcast"}}'))
    assert [(one.topic, one.event, one.id) for one in heard] == [("room", "e", None)]
    assert refusal(heard[0]).raw == HUGE.encode() == refusal(heard[0]).raw
    assert refusal(heard[0]).topic == "room"
    assert story.session.stats().garbage_frames == 0


def test_the_same_in_a_binary_frame() -> None:
    """The frame is marked as JSON but is not: `raw` has the bytes (R40)."""
    story = Story()
    story.open()
    room, heard = listening(story, broadcast("e"))
    story.receive_raw(packed(room, b"not json"), binary=True)
    assert refusal(heard[0]).raw == b"not json"


def test_a_stored_one_that_cannot_be_read_is_delivered_once(story: Story) -> None:
    """It is recognised by its id like any other (R44)."""
    room, heard = listening(story, broadcast())
    frame = framed(story, room, f'{{"event":"e","meta":{{"id":"m1","replayed":true}},"payload":{HUGE}}}')
    for _ in range(2):
        story.receive_raw(frame)
    if story.options.protocol == "2.0.0":
        story.receive_raw(packed(room, b"not json", b'{"id":"m1"}'), binary=True)
    assert [(one.id, one.replayed) for one in heard] == [("m1", True)]


def test_one_of_a_channel_that_is_not_joined_is_garbage(story: Story) -> None:
    """No listener can get it, so it is counted and reported (R40)."""
    _, heard = listening(story, broadcast())
    message = f'{{"event":"e","payload":{HUGE}}}'
    story.receive_raw(framed(story, "realtime:elsewhere", message))
    story.receive_raw(framed(story, "realtime:room", message).replace(b'"broadcast"', b'"something"', 1))
    assert heard == [] and story.session.stats().garbage_frames == 2 == len(story.reports(UnreadableFrame))


def test_a_model_is_made_of_the_text_that_came(story: Story) -> None:
    """A Decimal gets every digit and the scale of a number, even beyond the range of float; others get floats."""
    room, heard = listening(story, broadcast("e", model=Price))
    plain = story.collect(room, broadcast("e"))
    for number in ("1.10", "12345678901234567.890", "1e400"):
        story.receive_raw(framed(story, room, f'{{"event":"e","payload":{{"amount":{number}}}}}'))
    assert [str(one.payload.amount) for one in heard] == ["1.10", "12345678901234567.890", "1E+400"]
    assert heard[0].payload is heard[0].payload, "it is made once"
    assert [one.payload for one in plain[:2]] == [{"amount": 1.1}, {"amount": 12345678901234567.89}]


def test_a_model_of_a_binary_frame() -> None:
    """JSON becomes an object; bytes do not, and are complete in the error."""
    story = Story()
    story.open()
    room, heard = listening(story, broadcast("e", model=Price))
    story.receive_raw(packed(room, b'{"amount":1.10}', b'{"id":"m1","replayed":true}'), binary=True)
    story.receive_raw(packed(room, b"\x00\x01", is_json=False), binary=True)
    assert str(heard[0].payload.amount) == "1.10" and (heard[0].id, heard[0].replayed) == ("m1", True)
    assert refusal(heard[1]).raw == b"\x00\x01"


def test_a_model_of_a_frame_of_an_odd_shape(story: Story) -> None:
    """A frame that was decoded leniently becomes an object as well (R40)."""
    room, heard = listening(story, broadcast("e", model=Price))
    frame = json.loads(framed(story, room, '{"event":"e","payload":{"amount":"1.10"}}'))
    if isinstance(frame, list):
        frame[1] = 7
    else:
        frame["ref"] = 7
    story.receive_raw(json.dumps(frame).encode())
    assert str(heard[0].payload.amount) == "1.10"


def test_a_misfit_raises_where_it_is_read(story: Story) -> None:
    """The error has the received text, and the other listener gets its dict (R42)."""
    room, heard = listening(story, broadcast("e", model=Price))
    plain = story.collect(room, broadcast("e"))
    story.receive_raw(framed(story, room, '{"event":"e","payload":{"amount": "dear"}}'))
    assert refusal(heard[0]).raw == b'{"amount": "dear"}' and plain[0].payload == {"amount": "dear"}
