"""Our codec and the one of the official JavaScript client encode the same frames, and decode each other's."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supawire.core import binary, frames
from supawire.core.codec import CODECS, decode_meta

from .official import Process

pytestmark = pytest.mark.slow

V2 = CODECS["2.0.0"]

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
refs = st.integers(1, 10**6).map(str)
numbers = st.integers(-(2**53) + 1, 2**53 - 1)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
payloads = st.dictionaries(names, values, max_size=4).filter(lambda payload: set(payload) != {"hex"})
raw = st.binary(max_size=300)
pushes = st.fixed_dictionaries({"join_ref": refs, "ref": refs, "topic": names, "event": names})


@settings(max_examples=20)
@given(st.lists(st.tuples(pushes, payloads | raw), min_size=1, max_size=20))
def test_broadcasts_are_encoded_alike(official_javascript: Process, sends: list[tuple[dict[str, str], Any]]):
    """A broadcast of 2.0.0 has the same header and payload in their frame and in ours, JSON or bytes."""
    theirs = official_javascript.request(
        "encode",
        frames=[
            {
                **push,
                "event": "broadcast",
                "payload": {"type": "broadcast", "event": push["event"], "payload": plain(body)},
            }
            for push, body in sends
        ],
    )
    for (push, body), frame in zip(sends, theirs, strict=True):
        is_json = not isinstance(body, bytes)
        payload = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() if is_json else body
        refs = push["join_ref"], push["ref"], push["topic"]
        ours, is_binary = V2.encode_broadcast(*refs, push["event"], payload, json=is_json)
        assert is_binary
        one, other = (binary.unpack(binary.UP, data) for data in (ours, bytes.fromhex(frame["hex"])))
        assert one._replace(payload=b"") == other._replace(payload=b"")
        assert (json.loads(one.payload) == json.loads(other.payload)) if is_json else one.payload == other.payload


@settings(max_examples=20)
@given(st.lists(st.tuples(pushes, payloads), min_size=1, max_size=20))
def test_our_text_frames_are_decoded_by_the_official_client(
    official_javascript: Process, sends: list[tuple[dict[str, str], Any]]
):
    """It decodes refs, topic, event and payload as we encoded them."""
    ours = [V2.encode(**push, payload={"payload": body}).decode() for push, body in sends]
    theirs = official_javascript.request("decode", frames=ours)
    assert theirs == [{**push, "payload": {"payload": body}} for push, body in sends]


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(names, names, payloads | st.binary(max_size=300), st.none() | st.uuids()), min_size=1, max_size=20
    )
)
def test_broadcasts_are_decoded_alike(official_javascript: Process, sends: list[tuple[str, str, Any, Any]]):
    """A frame of kind 4 has the same event, payload and metadata for both."""
    written = [kind_4(*send) for send in sends]
    theirs = official_javascript.request("decode", frames=[{"hex": data.hex()} for data in written])
    for data, message in zip(written, theirs, strict=True):
        unpacked = binary.unpack(binary.DOWN, data)
        topic, event, meta = unpacked.fields
        payload = json.loads(unpacked.payload) if unpacked.json else {"hex": unpacked.payload.hex()}
        assert (message["topic"], message["event"]) == (topic.decode(), frames.BROADCAST)
        assert (message["payload"]["event"], message["payload"]["payload"]) == (event.decode(), payload)
        assert message["payload"].get("meta", {}).get("id") == (decode_meta(meta).id if meta else None)


def plain(body: Any) -> Any:
    return {"hex": body.hex()} if isinstance(body, bytes) else body


def kind_4(topic: str, event: str, body: Any, number: Any) -> bytes:
    meta = b"" if number is None else json.dumps({"id": str(number)}).encode()
    is_json = not isinstance(body, bytes)
    payload = json.dumps(body).encode() if is_json else body
    return binary.pack(binary.USER_BROADCAST, topic.encode(), event.encode(), meta, payload=payload, json=is_json)
