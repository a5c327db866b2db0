"""Any input from the server: nothing raises, everything dropped is counted, and later frames arrive (R40)."""

import json
from typing import Any

import pytest

from supawire.core import binary
from supawire.core.effects import UnknownEvent, UnreadableFrame
from supawire.events import Broadcast, Delete, Insert, System, Update
from supawire.options import PROTOCOLS
from supawire.server.faults import GARBAGE

from .busy_channel import Live, busy, still_receives, text
from .conftest import Harness

DEEP = 100_000


@pytest.fixture(params=PROTOCOLS)
def live(request: pytest.FixtureRequest) -> tuple[Harness, str, list[Any]]:
    """A joined channel and its events, in each version."""
    return busy(request.param)


# --- garbage

TEXTS: dict[str, bytes] = {
    "empty": b"",
    "space": b"  ",
    "null": b"null",
    "number": b"5",
    "string": b'"text"',
    "empty array": b"[]",
    "empty object": b"{}",
    "cut off": b'["1","2","realtime:room","broadcast",{"ev',
    "two values": b"{} {}",
    "NaN": b'[null,null,"realtime:room","broadcast",NaN]',
    "too short": b'[null,null,"realtime:room","broadcast"]',
    "topic no text": b'[null,null,5,"broadcast",{}]',
    "event no text": b'[null,null,"realtime:room",5,{}]',
    "no topic": b'{"event":"broadcast","payload":{}}',
    "topic a list": b'{"topic":[],"event":"broadcast","payload":{}}',
    "bad UTF-8 outside": b'\xff\xfe["1"]',
    "bad UTF-8 in the topic": b'[null,null,"realtime:\xff","broadcast",{}]',
    "bad UTF-8 in the event": b'[null,null,"realtime:room","\xc3\x28",{}]',
    "lone surrogate": b'[null,null,"realtime:\\ud800","broadcast",{}]',
    "BOM": b'\xef\xbb\xbf[null,null,"realtime:room","broadcast",{}]',
    "zero bytes": b"\x00" * 100,
    "deep arrays": b"[" * DEEP,
    "deep and closed": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP,
    "deep payload": b'[null,null,"realtime:room","broadcast",' + b"[" * DEEP + b"]" * DEEP + b"]",
    "deep inside": b'[null,null,"realtime:room","broadcast",{"payload":' + b"[" * DEEP + b"]" * DEEP + b"}]",
    "huge ref": b"[null," + b"9" * 10_000 + b',"realtime:room","broadcast",{}]',
    "huge float": b'[null,1e999,"realtime:room","broadcast",{}]',
    "the other version": b'{"topic":1,"event":[],"payload":null,"ref":{}}',
}

BINARIES: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"\x04",
    "unknown kind": b"\xff\xfe",
    "kind 5": b"\x05\x00\x00\x00\x00",
    "short header": b"\x04\xff\xff\xff\x01x",
    "ends in the event": b"\x04\x0d\xff\x00\x01realtime:room",
    "ends in the metadata": b"\x04\x0d\x01\xff\x01realtime:roome",
    "reply cut off": b"\x01\x01",
    "push cut off": b"\x00\xff\xff\xff",
    "text as binary": b'[null,null,"realtime:room","broadcast",{}]',
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_that_is_not_a_frame_is_counted_and_dropped(live: Live, name: str) -> None:
    """Broken JSON, wrong shapes, bad UTF-8 and deep nesting are counted; later frames arrive (R40)."""
    harness, _, events = live
    harness.receive_raw(TEXTS[name])
    stats = harness.session.stats()
    assert stats.garbage_frames + stats.unknown_frames + stats.stale_frames + len(events) >= 1, (
        "the frame was not counted"
    )
    assert still_receives(live)


@pytest.mark.parametrize("name", BINARIES)
def test_bytes_that_are_not_a_frame_are_counted_and_dropped(live: Live, name: str) -> None:
    """Unknown kinds and truncated headers are counted; later frames arrive (R40)."""
    harness, _, _ = live
    harness.receive_raw(BINARIES[name], binary=True)
    assert harness.session.stats().garbage_frames == 1
    assert len(harness.reports(UnreadableFrame)) == 1
    assert still_receives(live)


def test_twelve_unreadable_frames_in_a_row_are_dropped(live: Live) -> None:
    """The frames of the local server's fault `garbage` do not end the connection (R40)."""
    harness, _, _ = live
    for data, binary_ in GARBAGE:
        harness.receive_raw(data, binary=binary_)
    assert still_receives(live)


def test_binary_frames_of_plain_phoenix_are_counted(live: Live) -> None:
    """Kinds 0 to 2, which the server does not use, are reported as unknown, not as garbage (R40)."""
    harness, room, _ = live
    for layout in (binary.PUSH_DOWN, binary.REPLY, binary.BROADCAST):
        fields = (b"1", b"2", room.encode(), b"ok")[-len(layout.fields) :]
        harness.receive_raw(binary.pack(layout, *fields, payload=b"x"), binary=True)
    assert (harness.session.stats().unknown_frames, harness.session.stats().garbage_frames) == (3, 0)
    assert len(harness.reports(UnknownEvent)) == 3
    assert still_receives(live)


# --- unusual frames


def test_refs_may_be_numbers(live: Live) -> None:
    """A proxy that converts refs to numbers does not break replies, events or presence (R40)."""
    harness, room, events = live
    join = harness.sent("phx_join")[-1]
    number = int(join.ref or 0)
    acked = harness.broadcast(room, ack=True)
    pushed = harness.pushed()[-1]
    reply = {"status": "ok", "response": {}}
    harness.receive_raw(text(harness, number, int(pushed.ref), room, "phx_reply", reply))
    assert harness.outcome(acked).acked
    state = {"bob": {"metas": [{"phx_ref": "B"}]}}
    harness.receive_raw(text(harness, number, None, room, "presence_state", state))
    assert set(harness.session.presence_state(room)) == {"bob"}
    harness.receive_raw(text(harness, number, None, room, "broadcast", {"event": "e", "payload": 1}))
    assert isinstance(events[-1], Broadcast)
    harness.receive_raw(text(harness, number, number, room, "phx_close", {}))
    assert harness.state(room).value == "retrying"


PAYLOADS = [None, True, 5, 2**70, 1.5, "text", [], [1, "a"], {}, {"a": None}]


@pytest.mark.parametrize("payload", PAYLOADS, ids=repr)
def test_any_json_is_delivered_as_a_broadcasts_payload(live: Live, payload: object) -> None:
    """Lists, strings, numbers, null and objects are payloads; an absent one is null (R40)."""
    harness, room, events = live
    harness.receive(room, "broadcast", {"type": "broadcast", "event": "e", "payload": payload})
    harness.receive(room, "broadcast", {"event": "absent"})
    assert [(one.event, one.payload) for one in events] == [("e", payload), ("absent", None)]


@pytest.mark.parametrize("payload", PAYLOADS, ids=repr)
@pytest.mark.parametrize(
    "event",
    ["broadcast", "postgres_changes", "presence_state", "presence_diff", "system", "phx_reply", "phx_close", "new_one"],
)
def test_any_json_as_the_payload_of_any_event_raises_nothing(live: Live, event: str, payload: object) -> None:
    """Any value in place of an object raises no exception, and the next frames arrive (R40)."""
    harness, room, _ = live
    harness.receive_raw(text(harness, None, None, room, event, payload))
    assert harness.session.stats().frames_received == 2
    assert still_receives(live)


@pytest.mark.parametrize("value", PAYLOADS, ids=repr)
@pytest.mark.parametrize(
    ("event", "member"),
    [
        ("broadcast", "event"),
        ("broadcast", "meta"),
        ("broadcast", "type"),
        ("postgres_changes", "ids"),
        ("postgres_changes", "data"),
        ("presence_diff", "joins"),
        ("presence_diff", "leaves"),
        ("system", "status"),
        ("system", "message"),
        ("system", "extension"),
        ("system", "channel"),
        ("phx_reply", "status"),
        ("phx_reply", "response"),
        ("phx_error", "reason"),
    ],
)
def test_any_json_as_any_member_raises_nothing(live: Live, event: str, member: str, value: object) -> None:
    """Each member of each event may have any type: no exception, and the next frames arrive (R40)."""
    harness, room, _ = live
    whole: dict[str, Any] = {
        "broadcast": {"type": "broadcast", "event": "e", "payload": {}, "meta": {"id": "1"}},
        "postgres_changes": {"ids": [100], "data": {"schema": "s", "table": "t", "type": "INSERT"}},
        "presence_diff": {"joins": {}, "leaves": {}},
        "system": {"extension": "x", "status": "ok", "message": "m", "channel": "room"},
        "phx_reply": {"status": "ok", "response": {}},
        "phx_error": {"reason": "r"},
    }[event]
    harness.receive_raw(text(harness, None, None, room, event, {**whole, member: value}))
    assert still_receives(live)


def test_a_message_that_is_an_object_is_shown_as_its_json(live: Live) -> None:
    """Old servers send an inspected object as the message of a system event; listeners get it as text (R40)."""
    harness, room, events = live
    message = {"extension": "postgres_changes", "status": "error", "message": {"reason": "no"}, "channel": "room"}
    harness.receive_raw(text(harness, None, None, room, "system", message))
    assert [one.message for one in events if isinstance(one, System)] == ['{"reason":"no"}']


def test_unknown_events_are_counted_and_reported_by_name(live: Live) -> None:
    """An unknown event is reported with topic and name, on a joined topic and on an unknown one (R40)."""
    harness, room, _ = live
    harness.receive(room, "of_tomorrow", {"a": 1})
    harness.receive("realtime:elsewhere", "of_tomorrow", {})
    assert harness.session.stats().unknown_frames == 2
    assert [(one.topic, one.event) for one in harness.reports(UnknownEvent)] == [
        (room, "of_tomorrow"),
        ("realtime:elsewhere", "of_tomorrow"),
    ]


def test_unknown_members_and_more_elements_change_nothing(live: Live) -> None:
    """Additional members in objects, and additional elements in arrays of version 2.0.0, are ignored (R40)."""
    harness, room, events = live
    payload = {"type": "broadcast", "event": "e", "payload": 1, "of": "tomorrow", "ids": "x"}
    if harness.options.protocol == "2.0.0":
        harness.receive_raw(json.dumps([None, None, room, "broadcast", payload, "more", {}]).encode())
    else:
        frame = {"topic": room, "event": "broadcast", "payload": payload, "ref": None, "more": {}}
        harness.receive_raw(json.dumps(frame).encode())
    assert [one.payload for one in events] == [1]


CHANGE = {"schema": "public", "table": "users", "type": "INSERT", "columns": [], "record": {}, "errors": None}
ODD_CHANGES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "null commit_timestamp": ({**CHANGE, "commit_timestamp": None}, ()),
    "no commit_timestamp": (CHANGE, ()),
    "missing columns": ({k: v for k, v in CHANGE.items() if k != "columns"}, ()),
    "null columns": ({**CHANGE, "columns": None}, ()),
    "missing record": ({k: v for k, v in CHANGE.items() if k != "record"}, ()),
    "errors a list": ({**CHANGE, "errors": ["Error 401: Unauthorized"]}, ("Error 401: Unauthorized",)),
    "errors a string": ({**CHANGE, "errors": "Error 413: Payload Too Large"}, ("Error 413: Payload Too Large",)),
    "errors missing": ({k: v for k, v in CHANGE.items() if k != "errors"}, ()),
    "more members": ({**CHANGE, "of": "tomorrow"}, ()),
    "lower-case type": ({**CHANGE, "type": "insert", "schema": 5}, ()),
}


@pytest.mark.parametrize("name", ODD_CHANGES)
def test_rows_with_unusual_members_are_delivered(live: Live, name: str) -> None:
    """Null or missing times, columns and records, and errors of any shape reach the listener (R40)."""
    harness, room, events = live
    data, errors = ODD_CHANGES[name]
    harness.receive(room, "postgres_changes", {"ids": [100], "data": data})
    (row,) = events
    assert isinstance(row, Insert)
    assert row.errors == errors
    assert row.commit_timestamp is None
    assert row.record == {}


def test_each_kind_of_row_has_its_class(live: Live) -> None:
    """INSERT, UPDATE and DELETE are three classes; an unknown kind is counted and does not raise (R40)."""
    harness, room, events = live
    for kind in ("INSERT", "UPDATE", "DELETE", "TRUNCATE"):
        harness.row(room, 100, kind=kind, id=1)
    assert [type(row) for row in events] == [Insert, Update, Delete]
    assert harness.session.stats().unknown_frames == 1


def test_a_message_for_a_channel_may_carry_any_extension(live: Live) -> None:
    """System messages without channel, with unknown extensions and statuses, reach listeners unchanged (R40)."""
    harness, room, events = live
    harness.receive_raw(
        text(harness, None, None, room, "system", {"status": "ok", "message": "Server requested disconnect"})
    )
    harness.receive_raw(
        text(harness, None, None, room, "system", {"extension": "new", "status": "odd", "message": "x"})
    )
    assert [(one.extension, one.status) for one in events] == [("", "ok"), ("new", "odd")]
    assert harness.state(room).value == "joined"


def test_replies_without_a_pending_request_are_counted(live: Live) -> None:
    """A reply with an unknown ref, none, or one already answered is counted and resolves nothing (R40)."""
    harness, room, _ = live
    join = harness.sent("phx_join")[-1]
    for ref in ("999", None, join.ref):
        harness.receive(room, "phx_reply", {"status": "error", "response": {"reason": "Unauthorized: no"}}, ref=ref)
    assert harness.session.stats().late_replies == 3
    assert still_receives(live)
