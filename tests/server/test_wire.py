"""The server's side of both protocol versions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supawire.core import binary
from supawire.server import wire

ARRAY = b'["1","2","realtime:lab","broadcast",{"n": 1}]'
OBJECT = b'{"topic":"realtime:lab","event":"broadcast","payload":{"n": 1},"ref":"2","join_ref":"1"}'
KIND_3 = bytes.fromhex("0301020c0400013731327265616c74696d653a6c616270696e677b226e223a317d")
KIND_4 = bytes.fromhex("040c040c017265616c74696d653a6c616270696e677b226964223a226d2d31227d7b226e223a317d")


@pytest.mark.parametrize(("v2", "data"), [(True, ARRAY), (False, OBJECT)])
def test_a_text_frame_of_either_version_gives_the_same_push(v2: bool, data: bytes) -> None:
    """The parts are the same, and the payload keeps its text."""
    push = wire.read(v2, data, False)
    assert push == wire.Push(b'"1"', b'"2"', "realtime:lab", "broadcast", b'{"n": 1}')


def test_more_than_five_elements_are_accepted() -> None:
    """Extra elements of an array frame are ignored."""
    assert wire.read(True, ARRAY[:-1] + b',"more",7]', False) == wire.read(True, ARRAY, False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b'"x"',
        b'[null,"1","phoenix"]',
        b'{"topic":"phoenix","event":"heartbeat","ref":"9"}',
        b'{"topic":"phoenix","event":"heartbeat","payload":{}}',
        b'["1","2","realtime:lab","broadcast",{"a":"\xff"}]',
        b'["1","2","realtime:lab","broadcast",NaN]',
        b"[" * 100_000 + b"]" * 100_000,
    ],
    ids=lambda data: repr(data[:20]),
)
@pytest.mark.parametrize("v2", [True, False])
def test_an_invalid_frame_is_read_as_none(data: bytes, v2: bool) -> None:
    """The server drops such a text frame."""
    assert wire.read(v2, data, False) is None


@pytest.mark.parametrize("number", ["1e400", "-1E+999", "[1e309]", '{"a":{"b":1.5e1000}}'])
@pytest.mark.parametrize("v2", [True, False])
def test_a_number_that_is_too_large_drops_the_frame(number: str, v2: bool) -> None:
    """The real server's parser has no such float; a string with these characters is not affected."""
    array, text = b'["1","2","realtime:lab","broadcast",%b]', b'"of 1e400"'
    frame = b'{"topic":"realtime:lab","event":"broadcast","ref":"2","payload":%b}' if not v2 else array
    assert wire.read(v2, frame % number.encode(), False) is None
    assert wire.read(v2, frame % b"1e300", False) is not None
    push = wire.read(v2, frame % text, False)
    assert push is not None and push.payload == text


def test_each_version_reads_only_its_own_shape() -> None:
    """An object on a 2.0.0 socket and an array on a 1.0.0 socket are dropped."""
    assert wire.read(True, OBJECT, False) is None
    assert wire.read(False, ARRAY, False) is None


def test_a_user_push_is_read() -> None:
    """Kind 3 gives refs, topic, the user's event and the payload as it is."""
    push = wire.read(True, KIND_3, True)
    assert push == wire.Push(b'"7"', b'"12"', "realtime:lab", "broadcast", b'{"n":1}', 3, b"ping", True)


def test_invalid_metadata_drops_a_user_push() -> None:
    """Metadata must be JSON, although it is not used."""
    fields = b"7", b"12", b"realtime:lab", b"ping"
    good = binary.pack(binary.USER_PUSH, *fields, b'{"k":1}', payload=b"x")
    bad = binary.pack(binary.USER_PUSH, *fields, b"{k", payload=b"x")
    assert wire.read(True, good, True) is not None
    assert wire.read(True, bad, True) is None


@pytest.mark.parametrize("data", [b"", b"\x09\x00\x00", b"\xff\xfe", b"\x03\x01", KIND_3[:20], KIND_4])
def test_an_invalid_binary_frame_is_read_as_none(data: bytes) -> None:
    """Unknown kinds, truncated headers and the server's own kinds are dropped."""
    assert wire.read(True, data, True) is None


def test_version_one_has_no_binary_frames() -> None:
    """A binary frame on a 1.0.0 socket is dropped."""
    assert wire.read(False, KIND_3, True) is None


@given(st.binary(max_size=80), st.booleans(), st.booleans())
def test_reading_never_raises(data: bytes, v2: bool, is_binary: bool) -> None:
    """All bytes are read as a push or as None."""
    assert isinstance(wire.read(v2, data, is_binary), wire.Push | None)


def test_a_user_broadcast_is_kind_4_or_text() -> None:
    """A JSON broadcast is sent as kind 4 to 2.0.0, and as text with meta to 1.0.0."""
    shared = wire.shared_user("realtime:lab", b"ping", b'{"n":1}', json=True, metadata=b'{"id":"m-1"}')
    assert shared.get(True) == (KIND_4, True)
    text, is_binary = shared.get(False) or (b"", True)
    assert not is_binary
    assert wire.decode(text) == {
        "ref": None,
        "topic": "realtime:lab",
        "event": "broadcast",
        "payload": {"event": "ping", "meta": {"id": "m-1"}, "payload": {"n": 1}, "type": "broadcast"},
    }


def test_a_raw_broadcast_does_not_reach_version_one() -> None:
    """Bytes are sent to 2.0.0 only."""
    shared = wire.shared_user("realtime:lab", b"blob", b"\x00\xff", json=False)
    assert shared.get(False) is None
    assert shared.get(True) is not None


def test_a_name_too_long_for_a_binary_header_is_not_sent_to_version_2() -> None:
    """A topic over 255 bytes does not fit into kind 4."""
    assert wire.shared_user("realtime:" + "x" * 250, b"ping", b"{}", json=True).get(True) is None


def test_a_frame_is_encoded_once_for_each_version() -> None:
    """All recipients of one version get the same object."""
    calls: list[bool] = []

    def make(v2: bool) -> wire.Encoded:
        calls.append(v2)
        return b"x", v2

    shared = wire.Shared(make)
    assert [shared.get(v2) for v2 in (True, False, True, False)] == [(b"x", True), (b"x", False)] * 2
    assert calls == [True, False]
