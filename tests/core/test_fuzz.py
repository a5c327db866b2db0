"""Any bytes and any JSON through codec and session: no exception, and later frames are delivered (R40)."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supawire.core import binary
from supawire.core.codec import CODECS
from supawire.errors import RemoteProtocolError
from supawire.events import Broadcast
from supawire.options import PROTOCOLS, Protocol

from .busy_channel import busy, still_receives, text

BYTES = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=40).map(str.encode),
    st.binary(max_size=40).map(lambda tail: b'[null,null,"realtime:room","broadcast",' + tail),
    st.binary(max_size=40).map(lambda tail: b'{"topic":"realtime:room","event":"system","payload":' + tail),
)
NUMBER = st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
REF = st.one_of(st.none(), st.text(max_size=3), st.integers(), st.just("1"), JSON)
EVENTS = ["broadcast", "postgres_changes", "presence_state", "presence_diff", "system"]
EVENT = st.sampled_from([*EVENTS, "phx_reply", "phx_close", "phx_error", "x"])
MEMBERS = ["event", "payload", "meta", "ids", "data", "joins", "leaves", "status", "response", "reason", "message"]
MEMBER = st.sampled_from([*MEMBERS, "extension"])
PAYLOAD = st.one_of(JSON, st.dictionaries(MEMBER, JSON, max_size=5))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(data=BYTES)
def test_arbitrary_bytes_raise_remote_protocol_error_or_nothing(protocol: Protocol, data: bytes) -> None:
    """The lenient decoder returns a frame of five parts or raises `RemoteProtocolError`, for any bytes (R40)."""
    try:
        frame = CODECS[protocol].plain(data)
    except RemoteProtocolError:
        return
    assert isinstance(frame.topic, str)
    assert isinstance(frame.event, str)
    assert frame.ref is None or isinstance(frame.ref, str)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(frames=st.lists(st.tuples(BYTES, st.booleans()), max_size=5))
@settings(max_examples=50)
def test_arbitrary_frames_never_raise_out_of_the_session(protocol: Protocol, frames: list[tuple[bytes, bool]]) -> None:
    """Any bytes, as text or binary, raise no exception, and later frames are delivered (R40)."""
    live = busy(protocol)
    for data, as_binary in frames:
        live[0].receive_raw(data, binary=as_binary)
    assert still_receives(live)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(parts=st.lists(st.tuples(REF, REF, st.just("realtime:room"), EVENT, PAYLOAD), max_size=4))
@settings(max_examples=40)
def test_arbitrary_json_in_frames_of_the_right_shape_never_raises(protocol: Protocol, parts: list[Any]) -> None:
    """Frames of any event with any refs and members raise nothing, and the delivered events are readable (R40)."""
    harness, _, events = busy(protocol)
    for one in parts:
        harness.receive_raw(text(harness, *one))
    for event in events:
        assert repr(event)
        if isinstance(event, Broadcast):
            assert event.payload is event.payload


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(join_ref=st.none() | st.text(), ref=st.none() | st.text(), topic=st.text(), event=st.text(), payload=JSON)
def test_encoding_and_decoding_are_inverse(
    protocol: Protocol, join_ref: str | None, ref: str | None, topic: str, event: str, payload: object
) -> None:
    """A frame of any parts is decoded to the same parts by its own codec."""
    codec = CODECS[protocol]
    assert codec.plain(codec.encode(join_ref, ref, topic, event, payload)) == (join_ref, ref, topic, event, payload)


NAME = st.text(max_size=60)


@given(join_ref=NAME, ref=NAME, topic=NAME, event=NAME, payload=st.binary(max_size=50), as_json=st.booleans())
def test_a_broadcast_is_decoded_as_it_was_encoded(
    join_ref: str, ref: str, topic: str, event: str, payload: bytes, as_json: bool
) -> None:
    """A binary broadcast of any parts keeps them all, the payload byte for byte."""
    data, is_binary = CODECS["2.0.0"].encode_broadcast(join_ref, ref, topic, event, payload, json=as_json)
    unpacked = binary.unpack(binary.UP, data)
    assert is_binary
    assert tuple(field.decode() for field in unpacked.fields) == (join_ref, ref, topic, event, "")
    assert (unpacked.payload, unpacked.json) == (payload, as_json)
