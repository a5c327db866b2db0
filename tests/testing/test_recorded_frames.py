"""Files of recorded frames, and playing them to another client."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from supawire import InvalidArgumentError, LocalServer, broadcast, changes, connect_async, presence
from supawire.testing import Recording, RecordingTransport
from supawire.testing.recorded_frames import FORMAT, change_for, raw_payload, read
from supawire.transport.websocket import WebSocketTransport

pytestmark = pytest.mark.anyio

URL, KEY = "http://127.0.0.1:1", "k"


async def record(path: Path, version: Any = "2.0.0") -> None:
    """Record messages, a row and a participant, with a token in each of them."""
    with LocalServer() as server:
        wire = RecordingTransport(WebSocketTransport())
        token = server.token(sub="u1")
        async with connect_async(server.url, server.anon_key, token=token, transport=wire, protocol=version) as client:
            room = client.channel("room", echo=True, presence_key="alice")
            rows, messages, people = room.listen(changes("prices")), room.listen(broadcast()), room.listen(presence())
            await room.subscribe(wait="ready")
            server.emit("INSERT", "prices", record={"id": 1, "price": Decimal("1.10")})
            await rows.get(timeout=5)
            await room.broadcast("typing", {"token": token, "n": 1})
            await messages.get(timeout=5)
            await room.track({"name": "Alice", "key": server.secret_key})
            async for event in people:
                if getattr(event, "key", None) == "alice":
                    break
        wire.save(path)
        text = path.read_bytes().decode()  # noqa: ASYNC240  a small file
        assert token not in text and server.anon_key not in text and server.secret_key not in text


@pytest.mark.parametrize("recorded", ["1.0.0", "2.0.0"])
@pytest.mark.parametrize("played", ["1.0.0", "2.0.0"])
async def test_recorded_events_reach_another_client(recorded: Any, played: Any, tmp_path: Path):
    """A client without a network receives them as the first one did, whatever the versions are."""
    await record(tmp_path / "x.jsonl", recorded)
    recording = Recording.load(tmp_path / "x.jsonl")
    assert recording.topics == {"room": False}
    wire = RecordingTransport()
    async with connect_async(URL, KEY, transport=wire, protocol=played) as client:
        room = client.channel("room")
        rows, others = room.listen(changes("prices", event="INSERT")), room.listen(changes("others"))
        messages, people = room.listen(broadcast("typing")), room.listen(presence())
        await room.subscribe()
        assert wire.play(recording.frames) >= 3
        assert (await rows.get(timeout=5)).record == {"id": 1, "price": Decimal("1.10")}
        assert (await messages.get(timeout=5)).payload == {"token": "***", "n": 1}
        async for event in people:
            if getattr(event, "key", None) == "alice":
                break
        with pytest.raises(TimeoutError):
            await others.get(timeout=0)


async def test_a_saved_file_is_loaded_as_it_was(tmp_path: Path):
    """Frames keep direction, time, topic, event, payload and bytes."""
    wire = RecordingTransport()
    async with connect_async(URL, KEY, transport=wire) as client:
        room = client.channel("room", ack=True)
        await room.subscribe()
        await room.broadcast("bytes", b"\x00\xff")
    wire.save(tmp_path / "x.jsonl")
    loaded = Recording.load(tmp_path / "x.jsonl")
    expected = [(frame.direction, frame.event, frame.payload, frame.data, round(frame.at, 6)) for frame in wire.frames]
    assert [(frame.direction, frame.event, frame.payload, frame.data, frame.at) for frame in loaded.frames] == expected
    assert loaded.recorded_at is not None
    assert json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])["format"] == FORMAT


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_version_of_the_format_is_refused(version: int, tmp_path: Path):
    """The error names both versions."""
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps({"format": FORMAT, "version": version}))
    with pytest.raises(InvalidArgumentError, match=f"version {version}; this supawire reads version 1"):
        Recording.load(file)


@pytest.mark.parametrize(
    ("joined", "ids"),
    [
        ({"event": "*", "schema": "public", "table": "t"}, [9]),
        ({"event": "INSERT", "schema": "*", "table": "*"}, [9]),
        ({"event": "UPDATE", "schema": "public", "table": "t"}, None),
        ({"event": "*", "schema": "public", "table": "u"}, None),
        ({"event": "*", "schema": "public", "table": "t", "filter": "id=eq.1"}, [9]),
        ({"event": "*", "schema": "public", "table": "t", "filter": "id=eq.2"}, None),
    ],
)
def test_a_change_goes_to_the_bindings_that_match(joined: dict[str, Any], ids: list[int] | None):
    """By schema, table and kind of change; a filter matches what an equal filter has received."""
    change = {"ids": [3], "data": {"schema": "public", "table": "t", "type": "INSERT", "record": {}}}
    frame = read("in", 1, json.dumps([None, None, "realtime:x", "postgres_changes", change]).encode(), False)
    before = [{"id": 3, "event": "*", "schema": "public", "table": "t", "filter": "id=eq.1"}]
    found = change_for(raw_payload(frame), before, [{**joined, "id": 9}])
    assert (None if found is None else found["ids"]) == ids


def test_a_payload_that_is_no_change_is_skipped():
    """A malformed frame in a recording does not end the replay."""
    frame = read("in", 1, b'[null,null,"realtime:x","postgres_changes",[1]]', False)
    assert change_for(raw_payload(frame), [], []) is None


async def test_a_damaged_recording_is_played(tmp_path: Path):
    """Bindings that are not objects and a frame without a payload do not end it; what can be read arrives."""
    reply = {"status": "ok", "response": {"postgres_changes": [1, {"event": "*"}]}}
    change = {"ids": [1], "data": {"schema": "public", "table": "t", "type": "INSERT"}}
    frames = [
        ["1", "1", "realtime:room", "phx_reply", reply],
        {"topic": "realtime:room", "event": "broadcast", "ref": None},
        [None, None, "realtime:room", "postgres_changes", change],
        [None, None, "realtime:room", "broadcast", {"type": "broadcast", "event": "end", "payload": {}}],
    ]
    lines = [{"at": 0, "connection": 1, "direction": "in", "text": json.dumps(frame)} for frame in frames]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, [{"format": FORMAT, "version": 1}, *lines])))
    wire = RecordingTransport()
    async with connect_async(URL, KEY, transport=wire) as client:
        room = client.channel("room")
        messages = room.listen(broadcast("end"))
        await room.subscribe()
        wire.play(Recording.load(tmp_path / "x.jsonl").frames)
        assert (await messages.get(timeout=5)).event == "end"
