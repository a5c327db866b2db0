"""Where the trace context is in a broadcast, and how it is taken out."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from supawire.core.trace_context import PAYLOAD_KEY, add_to_payload, is_traceparent, take, trace_of
from supawire.events import Broadcast, LateBroadcast

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

objects = st.dictionaries(st.text(), st.none() | st.integers(-(2**53), 2**53) | st.text())


def sent(payload: Any, frame: bytes = b"") -> Broadcast[Any]:
    return Broadcast("room", "e", payload, None, False, frame)


def frame_with(meta: Any, version: str = "2.0.0") -> bytes:
    body = {"type": "broadcast", "event": "e", "payload": 1, "meta": meta}
    array = [None, None, "realtime:room", "broadcast", body]
    return msgspec.json.encode(
        array if version == "2.0.0" else {"topic": "realtime:room", "payload": body, "ref": None}
    )


@given(objects)
def test_what_is_added_to_an_object_is_taken_out_again(payload: dict[str, Any]) -> None:
    """An object that carries a trace context is an object of JSON, and `take` restores it, decoded or not."""
    payload.pop(PAYLOAD_KEY, None)
    plain = msgspec.json.encode(payload)
    text = add_to_payload(plain, TRACE, None)
    assert add_to_payload(plain, TRACE, len(text)) == text and add_to_payload(plain, TRACE, len(text) - 1) == plain
    decoded = msgspec.json.decode(text)
    assert decoded == {**payload, PAYLOAD_KEY: TRACE}
    late: LateBroadcast[Any] = LateBroadcast("room", "e", UNSET, None, False, b"", Raw(text))
    for event in (sent(decoded), late):
        taken = take(event)
        assert (taken.payload, trace_of(taken)) == (payload, TRACE)
    assert decoded[PAYLOAD_KEY] == TRACE  # other listeners have the same object


@pytest.mark.parametrize("text", [b"[1]", b'"x"', b"1", b"null", b"  [ ] "])
def test_only_objects_get_it(text: bytes) -> None:
    """Other JSON values are sent as they are."""
    assert add_to_payload(text, TRACE, None) == text


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
def test_it_is_read_from_the_meta_of_a_text_frame(version: str) -> None:
    """The trace context in `meta` is found in frames of both versions, and the payload stays as it is."""
    taken = take(sent([1], frame_with({"id": "a", "traceparent": TRACE}, version)))
    assert (taken.payload, trace_of(taken)) == ([1], TRACE)


@pytest.mark.parametrize(
    "value", [None, 5, "", "00-x", TRACE.upper(), TRACE + "0" * 1000, "00-" + "0" * 52, {"a": 1}, [TRACE]]
)
def test_anything_else_stays_in_the_payload(value: Any) -> None:
    """A value that is not a trace context is the user's own, and is not taken; nor does it raise."""
    payload = {PAYLOAD_KEY: value, "x": 1}
    event = sent(payload)
    assert take(event) is event
    late: LateBroadcast[Any] = LateBroadcast("room", "e", UNSET, None, False, b"", Raw(msgspec.json.encode(payload)))
    assert take(late) is late
    odd = sent(1, frame_with({"traceparent": value}))
    assert take(odd) is odd and trace_of(odd) is None
    assert not is_traceparent(value)


@pytest.mark.parametrize(
    "frame", [b"[", b"[1,2]", b"{}", b'{"payload":1}', b"\x04\x00", b"[null,null,1,2,[]]", b"{\xff"]
)
def test_a_frame_that_cannot_be_read_has_none(frame: bytes) -> None:
    """Frames of other shapes have no trace context."""
    event = sent(1, frame)
    assert take(event) is event and trace_of(event) is None
