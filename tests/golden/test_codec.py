"""Decode and encode every recorded frame with the client's codec.

Exceptions are listed with their reasons. Tests check that the lists have no missing and no unnecessary entry.
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

from .recordings import VERSIONS, Record, all_scenarios, file_of, scenarios

TYPED, TOLERANT, GARBAGE = "typed", "tolerant", "garbage"

RECEIVED: Final = {
    ("1.0.0", b'"ref":7,'): (TOLERANT, "a ref that was sent as a number is returned as a number"),
    ("2.0.0", b"[null,2,"): (TOLERANT, "a ref that was sent as a number is returned as a number"),
    ("1.0.0", b'"payload":"not-a-map"}'): (TOLERANT, "a broadcast that is not an object, relayed unchanged"),
    ("1.0.0", b'"payload":[1,2]}'): (TOLERANT, "a broadcast that is not an object, relayed unchanged"),
    ("1.0.0", b'"payload":null}'): (TOLERANT, "a broadcast that is not an object, relayed unchanged"),
    ("1.0.0", b'"topic":5,'): (GARBAGE, "the reply to a topic that is not a string, which the client never sends"),
    ("1.0.0", b'"payload":not json,'): (
        GARBAGE,
        "a push of kind 3 that is marked as JSON but is not, relayed unread",
    ),
    ("1.0.0", b"%{error: "): (GARBAGE, "a push of kind 0, which the server converts to an Elixir term"),
    ("2.0.0", b'{"ref":"1",'): (GARBAGE, "the client requested no version, so the server used 1.0.0"),
}
"""Parts of frames of the server that the typed decoder does not accept, with the decoder that is used instead."""

SENT: Final = {
    ("1.0.0", b"{"): "not JSON, on purpose",
    ("1.0.0", b""): "an empty frame, on purpose",
    ("1.0.0", b"null"): "not a frame, on purpose",
    ("1.0.0", b"[]"): "not a frame, on purpose",
    ("1.0.0", b"{}"): "not a frame, on purpose",
    ("1.0.0", b'"x"'): "not a frame, on purpose",
    ("1.0.0", b'[null,"1","phoenix"]'): "not a frame, on purpose",
    ("1.0.0", b'[1,2,"phoenix","heartbeat",{}]'): "a frame of the other version, on purpose",
    ("1.0.0", b'{"topic":5,"event":"x","payload":{},"ref":"1"}'): "a topic that is not a string, on purpose",
    ("1.0.0", b'{"topic":"phoenix","event":"heartbeat"}'): "no payload and no refs, which the client always sends",
    ("1.0.0", b'{"topic":"phoenix","event":"heartbeat","ref":"9"}'): "no payload and no join_ref",
    ("1.0.0", b'{"topic":"phoenix","event":"heartbeat","payload":{},"ref":7}'): "a ref that is a number",
    ("1.0.0", b'{"topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": "1"}'): "no join_ref",
    ("1.0.0", b"\x03\x01"): "a binary frame that ends inside its header, on purpose",
    ("1.0.0", b"\xff\xfe"): "an unknown kind of binary frame, on purpose",
    ("2.0.0", b"{"): "not JSON, on purpose",
    ("2.0.0", b""): "an empty frame, on purpose",
    ("2.0.0", b"null"): "not a frame, on purpose",
    ("2.0.0", b"[]"): "not a frame, on purpose",
    ("2.0.0", b"{}"): "not a frame, on purpose",
    ("2.0.0", b'"x"'): "not a frame, on purpose",
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
    ): "sent without requesting 2.0.0",
    ("2.0.0", b'[1,2,"phoenix","heartbeat",{}]'): "refs that are numbers",
    ("2.0.0", b"\xff\xfe"): "an unknown kind of binary frame, on purpose",
    ("2.0.0", b"\x09\x00\x00"): "an unknown kind of binary frame, on purpose",
}
"""Frames of clients that differ after decoding and encoding."""

SCENARIOS: Final = all_scenarios()


def decode(record: Record) -> tuple[str, Typed | None]:
    """Return the name of the decoder that accepts a text frame, and the decoded frame."""
    codec = CODECS[record.vsn]
    try:
        return TYPED, codec.decode.decode(record.data)
    except DECODE_ERRORS:
        try:
            return TOLERANT, decode_lenient(codec.plain(record.data))
        except RemoteProtocolError:
            return GARBAGE, None


def expected_decoder(record: Record) -> str:
    """Return the name of the decoder that must accept the frame, by the list."""
    found = [decoder for (vsn, part), (decoder, _) in RECEIVED.items() if vsn == record.vsn and part in record.data]
    return found[0] if found else TYPED


def parts_of(record: Record) -> tuple[Any, Any, Any, Any, Any]:
    """Return join_ref, ref, topic, event and payload, decoded without code of the client."""
    value = record.json()
    if isinstance(value, dict):
        return None, value["ref"], value["topic"], value["event"], value["payload"]
    return tuple(value)


def as_text(ref: Any) -> str | None:
    return None if ref is None else str(ref)


def members(frame: Typed) -> dict[str, Any]:
    """Return the decoded members of the payload as plain JSON."""
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


TYPED_MEMBERS: Final = frozenset(
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
"""Members that the typed frame has; it omits `type` of a broadcast and `channel` of a system message."""


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_every_text_frame_of_the_server_is_decoded(vsn: str, name: str):
    """Each recorded text frame is decoded by the expected decoder, without a change of its contents (R40)."""
    for record in scenarios(vsn)[name]:
        if record.sent or record.kind != "text":
            continue
        decoder, frame = decode(record)
        assert decoder == expected_decoder(record), f"{record.name}: {record.data[:200]!r}"
        if frame is None:
            continue
        join_ref, ref, topic, event, payload = parts_of(record)
        assert (frame.join_ref, frame.ref) == (as_text(join_ref), as_text(ref)), record.name
        assert (frame.topic, frame.event) == (topic, event), record.name
        if event in ("presence_state", "phx_close") or not isinstance(payload, dict):
            continue  # decoded elsewhere, or kept as one undecoded part
        expected = {member: value for member, value in payload.items() if member in TYPED_MEMBERS}
        if expected.get("payload", ...) is None:
            del expected["payload"]  # for users, a null payload and a missing one are both None
        assert members(frame) == expected, record.name


@pytest.mark.parametrize(("vsn", "name"), SCENARIOS)
def test_frames_of_clients_are_encoded_as_they_were_decoded(vsn: str, name: str):
    """A recorded frame of a client has the same value after decoding and encoding; a binary one has the same bytes."""
    codec = CODECS[vsn]
    for record in scenarios(vsn)[name]:
        if not record.is_frame or not record.sent or (vsn, record.data) in SENT:
            continue
        assert survives_the_codec(codec.version, record), f"{record.name}: {record.data[:200]!r}"


def survives_the_codec(vsn: str, record: Record) -> bool:
    """Return whether the frame is the same after decoding and encoding."""
    try:
        if record.kind == "text":
            codec = CODECS[vsn]
            return json.loads(codec.encode(*codec.plain(record.data))) == record.json()
        unpacked = binary.unpack(binary.UP, record.data)
        packed = binary.pack(unpacked.layout, *unpacked.fields, payload=unpacked.payload, json=unpacked.json)
    except (RemoteProtocolError, ValueError):
        return False
    return packed == record.data


@pytest.mark.parametrize("vsn", VERSIONS)
def test_every_binary_frame_of_the_server_is_decoded(vsn: str):
    """Frames of kinds 2 and 4 have the same bytes after decoding and encoding."""
    found = [r for records in scenarios(vsn).values() for r in records if r.kind == "binary" and not r.sent]
    assert len(found) == {"1.0.0": 0, "2.0.0": 23}[vsn]
    for record in found:
        unpacked = binary.unpack(binary.DOWN, record.data)
        packed = binary.pack(unpacked.layout, *unpacked.fields, payload=unpacked.payload, json=unpacked.json)
        assert packed == record.data, record.name


def test_the_list_of_exceptional_frames_of_the_server_is_exact():
    """Each entry is necessary: such frames were recorded, and the given decoder accepts all of them."""
    received = [r for vsn, name in SCENARIOS for r in scenarios(vsn)[name] if not r.sent and r.kind == "text"]
    for (vsn, part), (decoder, reason) in RECEIVED.items():
        decoders = {decode(record)[0] for record in received if record.vsn == vsn and part in record.data}
        assert decoders == {decoder} != {TYPED}, f"{part!r} ({reason}) is unnecessary: {decoders}"


@pytest.mark.parametrize(("vsn", "data"), SENT, ids=lambda value: repr(value))
def test_the_list_of_frames_that_the_client_never_sends_is_exact(vsn: str, data: bytes):
    """Each entry is a recorded frame that the codec would encode differently."""
    matching = [r for records in scenarios(vsn).values() for r in records if r.sent and r.is_frame and r.data == data]
    assert matching, "no such frame was recorded"
    assert not any(survives_the_codec(vsn, record) for record in matching)


def test_frames_that_were_cut_are_restored():
    """The 12 frames that were cut have their recorded length again, and are valid JSON."""
    cut = [r for vsn, name in SCENARIOS for r in scenarios(vsn)[name] if r.length is not None]
    assert {record.scenario for record in cut} == {"sizes", "sizes-noack"}
    for record in cut:
        assert len(record.data) == record.length
        assert record.json()
    assert len(cut) == 12


@pytest.mark.needs("frames")
@pytest.mark.parametrize("vsn", VERSIONS)
def test_the_copy_of_the_recordings_is_unchanged(vsn: str, require: Callable[[str], str]):
    """The committed frames equal the original recordings."""
    assert file_of(vsn).read_bytes() == (Path(require("frames")) / file_of(vsn).name).read_bytes()
