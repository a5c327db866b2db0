"""Byte layouts of binary frames."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supawire.core import binary

LAB, PING, BLOB = b"realtime:lab", b"ping", b"blob"

EXAMPLES = {
    "user push, JSON": (
        binary.UP,
        "0301020c0400013731327265616c74696d653a6c616270696e677b226e223a317d",
        (binary.USER_PUSH, (b"7", b"12", LAB, PING, b""), True, b'{"n":1}'),
    ),
    "user push, raw, with metadata": (
        binary.UP,
        "0301020c0407003731337265616c74696d653a6c6162626c6f627b226b223a317d00ff10",
        (binary.USER_PUSH, (b"7", b"13", LAB, BLOB, b'{"k":1}'), False, b"\x00\xff\x10"),
    ),
    "user broadcast, JSON, with metadata": (
        binary.DOWN,
        "040c040c017265616c74696d653a6c616270696e677b226964223a226d2d31227d7b226e223a317d",
        (binary.USER_BROADCAST, (LAB, PING, b'{"id":"m-1"}'), True, b'{"n":1}'),
    ),
    "user broadcast, raw, replayed": (
        binary.DOWN,
        "040c0411007265616c74696d653a6c6162626c6f627b227265706c61796564223a747275657d00ff10",
        (binary.USER_BROADCAST, (LAB, BLOB, b'{"replayed":true}'), False, b"\x00\xff\x10"),
    ),
    "push to the server": (
        binary.UP,
        "0001020c093731347265616c74696d653a6c616262726f616463617374aa",
        (binary.PUSH_UP, (b"7", b"14", LAB, b"broadcast"), False, b"\xaa"),
    ),
    "push to the client": (
        binary.DOWN,
        "00010c09377265616c74696d653a6c616262726f616463617374aa",
        (binary.PUSH_DOWN, (b"7", LAB, b"broadcast"), False, b"\xaa"),
    ),
    "reply": (
        binary.DOWN,
        "0101020c023731347265616c74696d653a6c61626f6baa",
        (binary.REPLY, (b"7", b"14", LAB, b"ok"), False, b"\xaa"),
    ),
    "broadcast": (
        binary.DOWN,
        "020c097265616c74696d653a6c616262726f616463617374aa",
        (binary.BROADCAST, (LAB, b"broadcast"), False, b"\xaa"),
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_bytes_of_the_protocol_page(name: str) -> None:
    """Each example of docs/protocol.md, Binary frames, is decoded as documented and encoded to the same bytes."""
    layouts, text, expected = EXAMPLES[name]
    layout, fields, json, payload = expected
    assert binary.unpack(layouts, bytes.fromhex(text)) == expected
    assert binary.pack(layout, *fields, payload=payload, json=json).hex() == text


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_frame_that_ends_inside_its_header_is_refused(name: str) -> None:
    """Each shorter frame raises a ValueError, down to an empty one."""
    layouts, text, (_, _, _, payload) = EXAMPLES[name]
    header = len(bytes.fromhex(text)) - len(payload)
    for end in range(header):
        with pytest.raises(ValueError, match=r"ends inside its header|unknown kind"):
            binary.unpack(layouts, bytes.fromhex(text)[:end])
    assert binary.unpack(layouts, bytes.fromhex(text)[:header]).payload == b""


@given(st.sampled_from([binary.UP, binary.DOWN]), st.binary(max_size=64))
def test_arbitrary_bytes_are_a_frame_or_a_value_error(layouts: dict[int, binary.BinaryLayout], data: bytes) -> None:
    """Decoding arbitrary bytes raises only ValueError, and a decoded frame is encoded to the same bytes."""
    try:
        unpacked = binary.unpack(layouts, data)
    except ValueError:
        return
    again = binary.pack(unpacked.layout, *unpacked.fields, payload=unpacked.payload, json=unpacked.json)
    encoding = unpacked.layout.header - 1
    same = (
        again[:encoding] + data[encoding : encoding + 1] + again[encoding + 1 :] if unpacked.layout.encoded else again
    )
    assert same == data


@pytest.mark.parametrize("length", [255, 256])
def test_a_header_field_has_at_most_255_bytes(length: int) -> None:
    """A field of 255 bytes is encoded; one of 256 is refused by name."""
    fields = b"7", b"12", LAB, b"x" * length, b""
    if length == 255:
        assert binary.pack(binary.USER_PUSH, *fields, payload=b"")[4] == 255
    else:
        with pytest.raises(ValueError, match="event has 256 bytes"):
            binary.pack(binary.USER_PUSH, *fields, payload=b"")


@pytest.mark.parametrize("json", [True, False])
def test_the_fast_encoding_of_a_broadcast_equals_the_general_one(json: bool):
    """`user_push` produces the same bytes as `pack` and refuses the same input."""
    fields = b"1", b"22", b"realtime:room", b"typing"
    packed = binary.pack(binary.USER_PUSH, *fields, b"", payload=b"{}", json=json)
    assert binary.user_push(*fields, b"{}", json=json) == packed
    with pytest.raises(ValueError, match="event has 256 bytes"):
        binary.user_push(b"1", b"2", b"realtime:room", b"x" * 256, b"{}", json=json)
