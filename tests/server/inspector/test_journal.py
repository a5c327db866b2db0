"""The lines that the inspector sends for frames and changes."""

import json
from typing import Any

from supawire.core import binary
from supawire.events import Instant
from supawire.server.effects import Refusal, Send
from supawire.server.inspector import journal
from supawire.server.inspector.history import History
from supawire.server.inspector.journal import FrameLine, Journal
from supawire.server.tokens import sign

NOW = Instant(1.0, 1_764_000_000.5)
TOKEN = sign({"role": "authenticated", "exp": 4_000_000_000}, "a secret that is long enough to sign with it")


def one(data: bytes, *, is_binary: bool = False, out: bool = False) -> FrameLine:
    history = History()
    if out:
        history.frame_sent(Send(7, data, is_binary), NOW)
    else:
        history.frame_received(7, data, is_binary, NOW)
    (line,) = Journal(history).take().frames
    return line


def test_both_versions_and_all_kinds_are_decoded() -> None:
    """Arrays, objects and each binary frame give topic, event, ref and payload."""
    array = one(b'["1","2","realtime:room","broadcast",{"event":"typing","payload":{"n":1}}]')
    assert (array.topic, array.event, array.user_event, array.ref) == ("realtime:room", "broadcast", "typing", "2")
    first = one(b'{"topic":"realtime:room","event":"phx_reply","payload":{"status":"ok"},"ref":5}', out=True)
    assert (first.event, first.ref, first.kind, first.payload) == ("phx_reply", "5", "out", '{"status":"ok"}')
    push = binary.pack(binary.USER_PUSH, b"1", b"2", b"realtime:room", b"typing", b"", payload=b'{"n":1}', json=True)
    up = one(push, is_binary=True)
    assert (up.topic, up.event, up.user_event, up.ref, up.payload) == (
        "realtime:room", "broadcast", "typing", "2", '{"n":1}',
    )  # fmt: skip
    raw = binary.pack(binary.USER_BROADCAST, b"realtime:room", b"blob", b"", payload=bytes(range(100)), json=False)
    down = one(raw, is_binary=True, out=True)
    assert (down.user_event, down.payload[:8], down.cut, down.size) == ("blob", "00 01 02", True, len(raw))


def test_invalid_frames_are_shown_as_unreadable() -> None:
    """Their content is shown, text or not."""
    for data in (b"{", b"", b"[1]", b'{"topic":5}', b"[" * 5000, b"\xff\xfe"):
        line = one(data)
        assert (line.event, line.topic) == ("unreadable", "")
    assert one(b"\x09\x01", is_binary=True, out=True).payload == "09 01"
    assert one(b'["1","1","t","e","\xff"]').payload == '"\N{REPLACEMENT CHARACTER}"'


def test_no_token_is_shown() -> None:
    """Tokens are removed from joins, token pushes, broadcasts, strings and long payloads, at any depth."""
    shapes: list[Any] = [
        ["1", "1", "realtime:room", "phx_join", {"access_token": "opaque", "config": {}}],
        ["1", "1", "realtime:room", "access_token", {"access_token": TOKEN}],
        ["1", "1", "realtime:room", "broadcast", {"event": "x", "payload": {"deep": [f"Bearer {TOKEN}"]}}],
        ["1", "1", "realtime:room", "broadcast", {"apikey": "sb_secret_abcdefgh", "text": "sb_publishable_12345678"}],
        ["1", "1", "realtime:room", "broadcast", {"first": TOKEN, "long": "x" * 100_000}],
        ["1", "1", "realtime:room", "phx_join", {"long": "x" * 100_000, "access_token": "opaque"}],
    ]
    for shape in shapes:
        line = one(json.dumps(shape).encode())
        for secret in (TOKEN, TOKEN.split(".")[1], "opaque", "sb_secret_abcdefgh", "sb_publishable_12345678"):
            assert secret not in line.payload
    assert TOKEN not in one(f"not JSON {TOKEN}".encode()).payload


def test_a_frame_for_many_connections_is_one_line() -> None:
    """The line counts the recipients, also when protocol versions alternate."""
    history = History()
    book = Journal(history)
    newer, older = b'[null,null,"realtime:room","x",{}]', b'{"topic":"realtime:room","event":"x","payload":{}}'
    for number in range(500):
        history.frame_sent(Send(2 * number, newer, False), NOW)
        history.frame_sent(Send(2 * number + 1, older, False), NOW)
    lines = book.take().frames
    assert [(line.receivers, len(line.connections)) for line in lines] == [(500, journal.MAX_CONNECTIONS)] * 2
    assert book.take().frames == []


def test_pending_lines_are_bounded() -> None:
    """The number of lines dropped since the last fetch is reported."""
    history = History()
    book = Journal(history)
    for number in range(journal.MAX_LINES + 25):
        history.frame_received(1, b"%d" % number, False, NOW)
    news = book.take()
    assert (len(news.frames), news.missed, news.frames[-1].payload) == (
        journal.MAX_LINES,
        25,
        str(journal.MAX_LINES + 24),
    )
    assert book.take().missed == 0


def test_a_long_payload_is_truncated() -> None:
    """A few thousand characters of it are shown, and the line says that it is truncated."""
    line = one(json.dumps(["1", "1", "t", "e", "é" * 1_000_000]).encode())
    assert line.cut and len(line.payload) == journal.MAX_SHOWN
    assert not one(b'["1","1","t","e",{}]').cut


def test_a_payload_can_be_shown_whole() -> None:
    """With a larger maximum, long texts and bytes are complete."""
    history = History()
    raw = binary.pack(binary.USER_PUSH, b"1", b"2", b"realtime:room", b"x", b"", payload=bytes(500), json=False)
    history.frame_received(1, raw, True, NOW)
    history.frame_received(1, json.dumps(["1", "1", "t", "e", "x" * 200_000]).encode(), False, NOW)
    blob, text = (journal.frame_line(entry, most=1_000_000, whole=True) for entry in history.since(0))
    assert (bytes.fromhex(blob.payload), blob.cut) == (bytes(500), False)
    assert (len(text.payload), text.cut) == (200_002, False)


def test_a_change_counts_its_channels() -> None:
    """A change is one line with its rows and the number of channels."""
    table = '"schema":"public","table":"users"'
    data = f'{{{table},"type":"UPDATE","record":{{"id":1}},"old_record":{{"id":0}},"errors":null}}'.encode()
    hidden = f'{{{table},"type":"INSERT","record":{{}},"errors":["Error 401: Unauthorized"]}}'.encode()
    history = History()
    for _ in range(3):
        history.changed(bytes(bytearray(data)), 1, NOW)
    history.changed(hidden, 0, NOW)
    one, two = Journal(history).take().changes
    assert (one.table, one.type, one.receivers, one.record) == ("public.users", "UPDATE", 3, '{"id":1}')
    assert (two.errors, two.receivers, two.old_record) == ("Error 401: Unauthorized", 0, "")


def test_a_change_that_is_nested_too_deeply_is_shown_as_text() -> None:
    """A change that cannot be encoded as JSON is shown as text, and other lines are not affected."""
    deep = b'{"schema":"public","table":"t","type":"INSERT","record":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    history = History()
    history.changed(deep, 1, NOW)
    (line,) = Journal(history).take().changes
    assert (line.type, line.receivers, line.record[:11]) == ("unreadable", 1, '{"schema":"')


def test_a_page_begins_with_what_happened_before() -> None:
    """A page that is opened later gets the latest lines, without counting older ones as left out."""
    history = History()
    for number in range(journal.MAX_LINES + 100):
        history.frame_received(1, b"%d" % number, False, NOW)
    book = Journal(history)
    news = book.take()
    assert (len(news.frames), news.frames[0].payload, news.missed) == (journal.MAX_LINES, "100", 0)
    history.frame_received(1, b"later", False, NOW)
    assert [line.payload for line in book.take().frames] == ["later"]


def test_lines_that_are_no_longer_kept_are_counted() -> None:
    """A page that was behind by more than the history keeps gets the number of lines that it has missed."""
    history = History(max_entries=10)
    book = Journal(history)
    for number in range(25):
        history.frame_received(1, b"%d" % number, False, NOW)
    news = book.take()
    assert (len(news.frames), news.missed) == (10, 15)


def test_a_paused_page_gets_changes_only() -> None:
    """Frames of the pause are left out, also after it; changes are shown."""
    history = History()
    book = Journal(history)
    book.frames = False
    history.frame_received(1, b"hidden", False, NOW)
    history.changed(b'{"schema":"public","table":"t","type":"INSERT","record":{}}', 1, NOW)
    news = book.take()
    assert (news.frames, len(news.changes), news.missed) == ([], 1, 0)
    history.frame_received(1, b"hidden", False, NOW)
    book.skip()
    book.frames = True
    assert book.take().frames == []


BAD = [
    (b'["1","1","realtime:room","phx_reply",{"status":"error","response":{"reason":"x"}}]', False, True),
    (b'["1","1","realtime:room","phx_reply",{"status":"ok","response":{}}]', False, False),
    (b'["1",null,"realtime:room","phx_error",{}]', False, True),
    (b'["1",null,"realtime:room","system",{"status":"error","message":"x"}]', False, True),
    (b'["1",null,"realtime:room","system",{"status":"ok","message":"x"}]', False, False),
    (b'["1",null,"realtime:room","broadcast",{"status":"error"}]', False, False),
    (b'["1","1","realtime:room","phx_reply",5]', False, False),
    (binary.pack(binary.REPLY, b"1", b"2", b"realtime:room", b"error", payload=b"{}"), True, True),
    (binary.pack(binary.REPLY, b"1", b"2", b"realtime:room", b"ok", payload=b"{}"), True, False),
]


def test_error_replies_are_marked() -> None:
    """Error replies, errors of the system, crashes and frames that cannot be read are marked, other frames are not."""
    for data, is_binary, bad in BAD:
        line = one(data, is_binary=is_binary, out=True)
        assert (line.bad, line.event != "unreadable") == (bad, True), data
    assert one(b"{").bad


def test_connections_are_lines() -> None:
    """Opened, refused and closed connections are lines; a refused handshake is marked and shows its answer."""
    history = History()
    history.connection_opened(1, True, NOW)
    history.connection_refused(2, Refusal(401, b'{"error":"API key is missing"}'), NOW)
    history.connection_closed(1, 1012, NOW)
    history.connection_closed(3, None, NOW)
    lines = Journal(history).take().frames
    assert [(line.kind, line.event, line.payload, line.bad) for line in lines] == [
        ("opened", "connected", "version 2.0.0", False),
        ("refused", "refused with 401", '{"error":"API key is missing"}', True),
        ("closed", "disconnected", "close code 1012", False),
        ("closed", "disconnected", "without a close code", False),
    ]
