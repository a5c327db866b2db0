"""Every recorded frame through the client's codec.

What does not go the normal way stands in a list with its reason, and each list is exact: an entry that is not needed
fails its test.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from supawire.core import binary
from supawire.core.codec import CODECS, DECODE_ERRORS, Typed, decode_lenient
from supawire.errors import RemoteProtocolError
from supawire.events import NULL

from .recordings import VERSIONS, Record, every, file_of, scenarios

TYPED, TOLERANT, GARBAGE = "typed", "tolerant", "garbage"

RECEIVED: Final = {
    ("1.0.0", b'"ref":7,'): (TOLERANT, "a ref that was sent as a number comes back as one"),
    ("2.0.0", b"[null,2,"): (TOLERANT, "a ref that was sent as a number comes back as one"),
    ("1.0.0", b'"payload":"not-a-map"}'): (TOLERANT, "a broadcast without an object, relayed as it came"),
    ("1.0.0", b'"payload":[1,2]}'): (TOLERANT, "a broadcast without an object, relayed as it came"),
    ("1.0.0", b'"payload":null}'): (TOLERANT, "a broadcast without an object, relayed as it came"),
    ("1.0.0", b'"topic":5,'): (GARBAGE, "the answer to a topic that is no string, which no client of ours sends"),
    ("1.0.0", b'"payload":not json,'): (GARBAGE, "a push of kind 3 that says JSON and is not, put into text unread"),
    ("1.0.0", b"%{error: "): (GARBAGE, "a push of kind 0, of which the server makes an Elixir term"),
    ("2.0.0", b'{"ref":"1",'): (GARBAGE, "the client asked for no version and got 1.0.0"),
}
"""What a server's frame has in it, where it is not read by the typed lane in one pass."""

SENT: Final = {
    ("1.0.0", b"{"): "no JSON, on purpose",
    ("1.0.0", b""): "an empty frame, on purpose",
    ("1.0.0", b"null"): "no frame, on purpose",
    ("1.0.0", b"[]"): "no frame, on purpose",
    ("1.0.0", b"{}"): "no frame, on purpose",
    ("1.0.0", b'"x"'): "no frame, on purpose",
    ("1.0.0", b'[null,"1","phoenix"]'): "no frame, on purpose",
    ("1.0.0", b'[1,2,"phoenix","heartbeat",{}]'): "a frame of the other version, on purpose",
    ("1.0.0", b'{"topic":5,"event":"x","payload":{},"ref":"1"}'): "a topic that is no string, on purpose",
    ("1.0.0", b'{"topic":"phoenix","event":"heartbeat"}'): "no payload and no refs, where we always write them",
    ("1.0.0", b'{"topic":"phoenix","event":"heartbeat","ref":"9"}'): "no payload and no join_ref",
    ("1.0.0", b'{"topic":"phoenix","event":"heartbeat","payload":{},"ref":7}'): "a ref that is a number",
    ("1.0.0", b'{"topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": "1"}'): "no join_ref",
    ("1.0.0", b"\x03\x01"): "a binary frame that ends inside its header, on purpose",
    ("1.0.0", b"\xff\xfe"): "an unknown kind of binary frame, on purpose",
    ("2.0.0", b"{"): "no JSON, on purpose",
    ("2.0.0", b""): "an empty frame, on purpose",
    ("2.0.0", b"null"): "no frame, on purpose",
    ("2.0.0", b"[]"): "no frame, on purpose",
    ("2.0.0", b"{}"): "no frame, on purpose",
    ("2.0.0", b'"x"'): "no frame, on purpose",
    ("2.0.0", b'[null,"1","phoenix"]'): "four elements are missing, on purpose",
    ("2.0.0", b'{"topic":"phoenix","event":"heartbeat"}'): "a frame of the other version, on purpose",
    ("2.0.0", b'{"topic":"phoenix","event":"heartbeat","ref":"9"}'): "a frame of the other version, on purpose",
    ("2.0.0", b'{"topic":5,"event":"x","payload":{},"ref":"1"}'): "a frame of the other version, on purpose",
    (
        "2.0.0",
        b'{"topic":"phoenix","event":"heartbeat","payload":{},"ref":7}',
    ): "a frame of the other version, on purpose",
    (
        "2.0.0",
        b'{"topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": "1"}',
    ): "sent without asking for 2.0.0",
    ("2.0.0", b'[1,2,"phoenix","heartbeat",{}]'): "refs that are numbers",
    ("2.0.0", b"\xff\xfe"): "an unknown kind of binary frame, on purpose",
    ("2.0.0", b"\x09\x00\x00"): "an unknown kind of binary frame, on purpose",
}
"""Frames that clients sent and that do not come out of our codec as they went in, whole."""

SCENARIOS: Final = every()


def read(record: Record) -> tuple[str, Typed | None]:
    """Which way a text frame went, and what came out."""
    codec = CODECS[record.vsn]
    try:
        return TYPED, codec.decode.decode(record.data)
    except DECODE_ERRORS:
        try:
            return TOLERANT, decode_lenient(codec.plain(record.data))
        except RemoteProtocolError:
            return GARBAGE, None


def way_of(record: Record) -> str:
    """Which way it has to go, by the list."""
    found = [way for (vsn, part), (way, _) in RECEIVED.items() if vsn == record.vsn and part in record.data]
    return found[0] if found else TYPED


def parts_of(record: Record) -> tuple[Any, Any, Any, Any, Any]:
    """join_ref, ref, topic, event and payload, read without our code."""
    value = record.json()
    if isinstance(value, dict):
        return None, value["ref"], value["topic"], value["event"], value["payload"]
    return tuple(value)


def as_text(ref: Any) -> str | None:
    return None if ref is None else str(ref)


def members(frame: Typed) -> dict[str, Any]:
    """Every member of the payload that was found, as plain JSON."""
    payload = frame.payload
    plain: dict[str, Any] = {
        name: json.loads(bytes(raw))
        for name in ("response", "joins", "leaves")
        if (raw := getattr(payload, name)) is not NULL
    }
    plain |= {name: text for name in ("event", "status", "extension", "message") if (text := getattr(payload, name))}
    if payload.payload is not None:
        plain["payload"] = payload.payload
    if payload.ids:
        plain["ids"] = list(payload.ids)
    if payload.meta is not None:
        plain["meta"] = {"id": payload.meta.id} | ({"replayed": True} if payload.meta.replayed else {})
    if payload.data is not None:
        data = payload.data
        raws = {name: getattr(data, name) for name in ("columns", "record", "old_record", "errors")}
        plain["data"] = {
            **{name: getattr(data, name) for name in ("schema", "table", "type", "commit_timestamp")},
            **{name: json.loads(bytes(raw)) for name, raw in raws.items() if raw is not NULL},
        }
    return plain


OURS: Final = frozenset(
    (
        "event",
        "payload",
        "meta",
        "ids",
        "data",
        "joins",
        "leaves",
        "status",
        "response",
        "extension",
        "message",
    )
)
"""Members that the typed form keeps; it leaves out `type` of a broadcast and `channel` of a system message."""


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_every_frame_of_the_server_is_read(vsn: str, name: str):
    """Each recorded text frame is decoded by the lane that is meant for it, and nothing in it is changed (R40)."""
    for record in scenarios(vsn)[name]:
        if record.sent or record.kind != "text":
            continue
        way, frame = read(record)
        assert way == way_of(record), f"{record.name}: {record.data[:200]!r}"
        if frame is None:
            continue
        join_ref, ref, topic, event, payload = parts_of(record)
        assert (frame.join_ref, frame.ref) == (as_text(join_ref), as_text(ref)), record.name
        assert (frame.topic, frame.event) == (topic, event), record.name
        if event in ("presence_state", "phx_close") or not isinstance(payload, dict):
            continue  # read by others, or kept as one undecoded part
        expected = {member: value for member, value in payload.items() if member in OURS}
        if expected.get("payload", ...) is None:
            del expected["payload"]  # a payload that is null, and none at all, are None to users
        assert members(frame) == expected, record.name


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_every_frame_that_is_ours_to_send_comes_out_again(vsn: str, name: str):
    """A recorded frame of a client is read and written again with the same value, binary ones byte for byte."""
    codec = CODECS[vsn]
    for record in scenarios(vsn)[name]:
        if not record.is_frame or not record.sent or (vsn, record.data) in SENT:
            continue
        assert written_again(codec.version, record), f"{record.name}: {record.data[:200]!r}"


def written_again(vsn: str, record: Record) -> bool:
    """Whether it is the same after reading and writing."""
    try:
        if record.kind == "text":
            codec = CODECS[vsn]
            return json.loads(codec.encode(*codec.plain(record.data))) == record.json()
        unpacked = binary.unpack(binary.UP, record.data)
        again = binary.pack(unpacked.layout, *unpacked.fields, payload=unpacked.payload, json=unpacked.json)
    except (RemoteProtocolError, ValueError):
        return False
    return again == record.data


@pytest.mark.parametrize("vsn", VERSIONS)
def test_every_binary_frame_of_the_server_is_read(vsn: str):
    """Kinds 2 and 4 are taken apart, and put together again are the same bytes."""
    found = [r for records in scenarios(vsn).values() for r in records if r.kind == "binary" and not r.sent]
    assert len(found) == {"1.0.0": 0, "2.0.0": 23}[vsn]
    for record in found:
        unpacked = binary.unpack(binary.DOWN, record.data)
        again = binary.pack(unpacked.layout, *unpacked.fields, payload=unpacked.payload, json=unpacked.json)
        assert again == record.data, record.name


def test_the_list_of_odd_frames_of_the_server_is_exact():
    """Each entry is needed: frames with it were recorded, and all of them go the way that it says."""
    received = [r for vsn, name in SCENARIOS for r in scenarios(vsn)[name] if not r.sent and r.kind == "text"]
    for (vsn, part), (way, reason) in RECEIVED.items():
        ways = {read(record)[0] for record in received if record.vsn == vsn and part in record.data}
        assert ways == {way} != {TYPED}, f"{part!r} ({reason}) is not needed: {ways}"


@pytest.mark.parametrize(("vsn", "data"), SENT, ids=lambda value: repr(value))
def test_the_list_of_frames_that_are_not_ours_to_send_is_exact(vsn: str, data: bytes):
    """Each entry is a recorded frame that our codec would not write."""
    matching = [r for records in scenarios(vsn).values() for r in records if r.sent and r.is_frame and r.data == data]
    assert matching, "no such frame was recorded"
    assert not any(written_again(vsn, record) for record in matching)


def test_frames_that_were_cut_are_rebuilt():
    """The 12 frames that are cut in the recording have their recorded length again, and are JSON where they were."""
    cut = [r for vsn, name in SCENARIOS for r in scenarios(vsn)[name] if r.length is not None]
    assert {record.scenario for record in cut} == {"sizes", "sizes-noack"}
    for record in cut:
        assert len(record.data) == record.length
        assert record.json()
    assert len(cut) == 12


@pytest.mark.needs("frames")
@pytest.mark.parametrize("vsn", VERSIONS)
def test_the_frames_here_are_those_that_were_recorded(vsn: str, require: Callable[[str], str]):
    """Nothing was changed in the copy of the recordings."""
    assert file_of(vsn).read_bytes() == (Path(require("frames")) / file_of(vsn).name).read_bytes()
