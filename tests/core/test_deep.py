"""Only a value that is nested too deeply is missing; an unreadable frame is a gap if there are change listeners."""

from typing import Any

import pytest
from msgspec import Raw

from supawire._mirror_events import MirrorState
from supawire.core import codec
from supawire.errors import RowError
from supawire.events import Gap
from supawire.selectors import broadcast, changes, gaps, presence
from tests.core.conftest import SUBSCRIBED, Harness
from tests.core.mirror_harness import Driven, change, row

DEEP = "[" * 20_000 + "]" * 20_000


def listening(harness: Harness, *selectors: Any) -> tuple[str, list[Any]]:
    """Return a joined channel and the list of its events."""
    room = harness.channel()
    events = harness.collect(room, *selectors)
    harness.join(room)
    if harness.sent("phx_join")[-1].payload["config"]["postgres_changes"]:
        harness.system(room, SUBSCRIBED)
    events.clear()
    return room, events


def framed(harness: Harness, room: str, event: str, payload: str) -> bytes:
    """Return a frame in the version of the harness, with the payload given as text."""
    if harness.options.protocol == "2.0.0":
        return f'[null,null,"{room}","{event}",{payload}]'.encode()
    return f'{{"topic":"{room}","event":"{event}","payload":{payload},"ref":null}}'.encode()


def inserted(record: str, data: str = '"type":"INSERT","schema":"public","table":"users"') -> str:
    columns = '[{"name":"id","type":"int8"},{"name":"doc","type":"jsonb"}]'
    return f'{{"data":{{{data},"columns":{columns},"record":{record},"errors":null}},"ids":[100]}}'


def test_a_deeply_nested_row_raises_when_it_is_read(each: Harness) -> None:
    """The change is delivered; only reading its row raises, with the row as received."""
    each.open()
    room, events = listening(each, changes("users"), gaps())
    record = f'{{"id":1,"doc":{DEEP}}}'
    each.receive_raw(framed(each, room, "postgres_changes", inserted(record)))
    (event,) = events
    assert (event.type, event.table) == ("INSERT", "users")
    with pytest.raises(RowError) as caught:
        _ = event.record
    assert caught.value.raw == record.encode()
    assert each.session.stats().garbage_frames == 0


def test_a_deeply_nested_payload_raises_when_it_is_read(each: Harness) -> None:
    """A broadcast whose payload cannot be decoded is delivered; only reading the payload raises (R40)."""
    each.open()
    room, events = listening(each, broadcast())
    each.receive_raw(framed(each, room, "broadcast", f'{{"type":"broadcast","event":"e","payload":{DEEP}}}'))
    with pytest.raises(RowError) as caught:
        _ = events[0].payload
    assert caught.value.raw == DEEP.encode()


@pytest.mark.parametrize("event", ["a", "broadcasts"])
def test_a_deeply_nested_payload_of_an_unknown_event_is_dropped(each: Harness, event: str) -> None:
    """A frame of any other event that cannot be read is counted, whatever its payload looks like."""
    each.open()
    room, events = listening(each, broadcast())
    each.receive_raw(framed(each, room, event, f'{{"type":"broadcast","event":"e","payload":{DEEP}}}'))
    assert events == []
    assert each.session.stats().garbage_frames == 1


def test_a_deeply_nested_presence_value_does_not_hide_other_members(each: Harness) -> None:
    """Any user may track such a value, which would otherwise stop presence for all."""
    each.open()
    room, events = listening(each, presence())
    metas = f'{{"a":{{"metas":[{{"phx_ref":"1","x":{DEEP}}}]}},"b":{{"metas":[{{"phx_ref":"2"}}]}}}}'
    each.receive_raw(framed(each, room, "presence_state", metas))
    assert set(events[-1].state) == {"a", "b"}
    assert each.session.stats().garbage_frames == 1


UNREADABLE = {
    "no JSON": "{",
    "endless": DEEP,
    "no data": '{"ids":[100]}',
    "no binding": '{"ids":[],"data":{"type":"INSERT"}}',
    "an unknown kind": inserted("{}", '"type":"SOMETHING"'),
    "bad UTF-8": inserted("{}", '"type":"INSERT\udcff"'),
}


@pytest.mark.parametrize("payload", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_frame_opens_a_gap(each: Harness, payload: str) -> None:
    """The frame may have been a change; the gap is reported at once, since later changes arrive again."""
    each.open()
    room, events = listening(each, changes("users"), gaps())
    text = framed(each, room, "postgres_changes", "PAYLOAD")
    each.receive_raw(text.replace(b"PAYLOAD", payload.encode("utf-8", "surrogateescape")))
    (gap,) = events
    assert isinstance(gap, Gap)
    assert (gap.reason, gap.lost, gap.verdict) == ("unreadable", {"changes"}, "not_replayable")
    assert gap.started_at == gap.ended_at


def test_no_gap_is_reported_without_listeners_for_changes(each: Harness) -> None:
    """Without listeners for changes, an unreadable frame causes no gap."""
    each.open()
    _, events = listening(each, broadcast(), gaps())
    each.receive_raw(b"{")
    assert events == []


def test_a_mirror_fetches_unreadable_rows_and_reports_one_error() -> None:
    """One error is reported until the next fetch, for any number of rows."""
    mirror = Driven()
    mirror.live(row(1))
    for _ in range(3):
        mirror.receive(change("INSERT", {"id": Raw(b"1e9999999999999999999")}))
    assert [type(error) for error in mirror.errors] == [RowError]
    assert mirror.state is not MirrorState.LIVE
    mirror.run(mirror.mirror.settings.pause)
    assert len(mirror.fetches) == 2


def test_values_are_replaced_in_one_pass():
    """Text with many unclosed quotes and brackets is scanned once."""
    for text in (b'"' + b'\\"' * 500_000, b"[" * 500_000, b"]" * 500_000, b'{"a":"' * 200_000):
        cut, values = codec.cut(text, codec.ROW)
        assert cut == text and values == []


def test_replaced_values_are_restored():
    """Replaced values are restored; strings and numbers of the sender are not changed."""
    one, two = (opening + b"[" * 200 + b"]" * 200 + closing for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")))
    text = b'[["[[[[",[' + one + b"," + two + b',[]],"\\""]]'
    cut, values = codec.cut(text, 3)
    assert (cut, values) == (b'[["[[[[",-1,"\\""]]', [b"[" + one + b"," + two + b",[]]"])
    assert codec.cut(text, 4) == (b'[["[[[[",[-1,-2,[]],"\\""]]', [one, two])
    for raw in (b"-1", b"-2"):
        assert bytes(codec.restored(Raw(raw), [one, two])) in (one, two)
    for raw in (b"-3", b"-0", b"1", b"{}", b"-" + b"9" * 9999):
        assert bytes(codec.restored(Raw(raw), [one])) == raw
