"""Exports of the inspector: the test that it writes is run, and what it contains."""

import ast
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supawire import ConnectError, JoinError, LocalServer, broadcast, changes, connect, connect_async, presence
from supawire.events import Instant
from supawire.server.effects import Send
from supawire.server.inspector.export import recording, replay_test
from supawire.server.inspector.history import History
from supawire.server.tokens import sign
from supawire.testing import Recording, RecordingTransport
from tests.server.inspector.inspector_client import open_inspector

NOW = Instant(1.0, 1_764_000_000.5)


async def exported(act: Callable[[LocalServer], None], form: str = "pytest") -> str:
    """Return the export after some actions on a server."""
    async with LocalServer(inspector=True) as server, open_inspector(server.url) as viewer:
        await asyncio.to_thread(act, server)
        await viewer.until(lambda: any(it["kind"] == "closed" for it in viewer.frames))
        return (await viewer.request(do="export", form=form))["text"]


def run_as_test(text: str, folder: Path) -> None:
    """Run an exported test in a process of its own."""
    (folder / "test_recorded.py").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-Werror", "-c", os.devnull, "--rootdir", "."],
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, cwd=folder,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"


def a_session(server: LocalServer) -> None:
    """Do what two clients do in an afternoon."""
    with connect(server.url, server.anon_key) as alice, connect(server.url, server.anon_key) as bob:
        lobby = alice.channel("room:lobby", presence_key="alice", ack=True, echo=True)
        heard = lobby.listen(broadcast(), changes("users", event="INSERT"), changes("users", filter="id=gt.5"))
        lobby.on(presence(), lambda event: None)
        lobby.subscribe(wait="ready")
        lobby.track({"mood": "fine"})
        theirs = bob.channel("room:lobby")
        received = theirs.listen(broadcast())
        theirs.subscribe()
        lobby.broadcast("typing", {"user": "alice", "quote": 'it\'s "so" \n'})
        assert next(received).event == "typing"
        next(heard)
        theirs.broadcast("bytes", b"\x00\x01")
        next(heard)
        server.emit("INSERT", "users", record={"id": 7, "name": "Ada"})
        next(heard)
        server.broadcast("room:lobby", "news", {"n": 1})
        next(heard)
        next(received)
        staff = bob.channel("staff", private=True, token=server.token(sub="bob", email="bob@example.com"))
        staff.subscribe()
        staff.set_auth(server.token(sub="bob"))
        staff.broadcast("hello", {"access_token": server.token()})
        server.reject_join("secret", "Unauthorized: You do not have permissions")
        with pytest.raises(JoinError):
            bob.channel("secret", private=True).subscribe()
        lobby.untrack()
        lobby.unsubscribe()
        with pytest.raises(ConnectError):
            connect(server.url, "sb_wrong_key_123456", open_timeout=0.05)
    server.emit("DELETE", "users", old_record={"id": 7})


@pytest.mark.slow
async def test_the_exported_test_passes(tmp_path: Path):
    """The export of a session with all kinds of frames is a test that passes, and contains no token."""
    text = await exported(a_session)
    for expected in (
        "room_lobby = client_1.channel('room:lobby', echo=True, ack=True, presence_key='alice')",
        'subscribe(wait="ready")',
        "changes('users', event='INSERT'), changes('users', filter='id=gt.5')",
        "server.emit('INSERT', 'users', record={'id': 7, 'name': 'Ada'}",
        "server.broadcast('room:lobby', 'news', {'n': 1})",
        "server.reject_join('secret', 'Unauthorized: You do not have permissions to read",
        "token=server.token('authenticated', sub='bob')",
        "server.refuse_connections(status=401)",
        "until(lambda: set(room_lobby.presence_state()) == {'alice'})",
    ):
        assert expected in text, text
    for secret in ("eyJ", "bob@example.com", "sb_wrong"):
        assert secret not in text
    run_as_test(text, tmp_path)


@pytest.mark.slow
async def test_a_topic_that_is_joined_again_and_shared_keys_are_repeated(tmp_path: Path):
    """A topic may be joined again with other options, and two entries of one presence key are one key."""

    def act(server: LocalServer) -> None:
        with connect(server.url, server.anon_key) as one, connect(server.url, server.anon_key) as two:
            mine, theirs = (each.channel("class", presence_key="alice") for each in (one, two))
            for room in (mine, theirs):
                room.on(presence(), lambda event: None)
                room.subscribe()
                room.track({"device": 1})
            theirs.untrack()
            mine.unsubscribe()
            one.remove_channel(mine)
            again = one.channel("class", echo=True)
            heard = again.listen(broadcast())
            again.subscribe()
            again.broadcast("message", {"n": 1})
            next(heard)

    text = await exported(act)
    assert "client_1.remove_channel(room_class)" in text
    run_as_test(text, tmp_path)


@pytest.mark.slow
async def test_what_the_exported_test_asserts_can_fail(tmp_path: Path):
    """A changed expectation makes the exported test fail, so it does check what arrives."""

    def act(server: LocalServer) -> None:
        with connect(server.url, server.anon_key) as client:
            room = client.channel("room", echo=True)
            heard = room.listen(broadcast())
            room.subscribe()
            room.broadcast("typing", {"n": 1})
            next(heard)

    text = await exported(act)
    wrong = text.replace("== ('typing', {'n': 1})", "== ('typing', {'n': 2})")
    assert wrong != text
    with pytest.raises(AssertionError, match="1 failed"):
        run_as_test(wrong, tmp_path)


def test_an_empty_history_gives_a_test_too(tmp_path: Path):
    """Without any entry the file is still a test."""
    ast.parse(replay_test([]))
    assert "def test_recorded" in replay_test([])


ODD: list[Any] = [
    ["1", "1", "realtime:room", "phx_join", None],
    ["1", "1", "realtime:room", "phx_join", {"config": 5}],
    ["1", "1", "realtime:room", "phx_join", {"config": {"broadcast": 1, "presence": [], "postgres_changes": {"a": 1}}}],
    ["1", "1", "realtime:room", "phx_join", {"access_token": "a.b.c", "config": {"postgres_changes": [5, {}]}}],
    ["1", "1", "realtime:room", "phx_join", {"access_token": 5}],
    ["1", "2", "realtime:room", "broadcast", None],
    ["1", "2", "realtime:room", "broadcast", {"event": None}],
    ["1", "2", "realtime:room", "presence", []],
    ["1", "2", "realtime:room", "access_token", {"access_token": None}],
    ["1", "2", "realtime:room", "other\n'''", {}],
    ["1", "2", "realtime:class", "phx_leave", {}],
    ["1", "2", "realtime:9 lives", "broadcast", {"event": "x", "payload": {}}],
    ["1", "2", "realtime:☃", "broadcast", {"event": "x", "payload": {}}],
    ["1", "2", "phoenix", "heartbeat", {}],
    [None, None, 5, 6, {}],
    5,
]


def test_odd_frames_give_a_valid_file():
    """Frames that no client of this package sends do not break the export."""
    history = History()
    for number, frame in enumerate(ODD):
        data = json.dumps(frame).encode()
        history.frame_received(number % 2, data, False, NOW)
        history.frame_sent(Send(number % 2, data, False), NOW)
    history.frame_received(1, b"\xff\x00", True, NOW)
    for change in (
        b"null",
        b"{",
        b'{"type":"INSERT","columns":5,"record":5}',
        b'{"type":"DELETE","old_record":{"id":1}}',
    ):
        history.changed(change, 0, NOW)
    text = replay_test(history.since(0))
    ast.parse(text)
    head, *lines = map(json.loads, recording(history.since(0)).splitlines())
    assert head["format"] == "supawire recording" and len(lines) == 2 * len(ODD) + 1


def test_no_token_is_exported():
    """Tokens are removed from both forms, wherever they are in a frame."""
    token = sign({"role": "authenticated", "exp": 4_000_000_000}, "a secret that is long enough to sign with it")
    history = History()
    for frame in (
        ["1", "1", "realtime:room", "phx_join", {"access_token": token}],
        ["1", "1", "realtime:room", "phx_join", {"user_token": "opaque", "config": {"presence": {"key": token}}}],
        ["1", "1", "realtime:room", "access_token", {"access_token": "opaque"}],
        ["1", "1", f"realtime:{token}", "broadcast", {"event": token, "payload": {"deep": [token]}}],
        ["1", "1", "realtime:room", "presence", {"event": "track", "payload": {"apikey": "opaque", "me": token}}],
    ):
        history.frame_received(1, json.dumps(frame).encode(), False, NOW)
        history.frame_sent(Send(1, json.dumps(frame).encode(), False), NOW)
    for text in (replay_test(history.since(0)), recording(history.since(0))):
        assert token not in text and token.split(".")[1] not in text and "opaque" not in text


@pytest.mark.parametrize("form", ["pytest", "recording"])
async def test_an_export_begins_after_clear(form: str):
    """Only what happened since a number is exported, and an unknown form is refused."""
    async with LocalServer(inspector=True) as server, open_inspector(server.url) as viewer:
        async with connect_async(server.url, server.anon_key) as client:
            await client.channel("before").subscribe()
            await client.channel("before").unsubscribe()
            await viewer.until(lambda: any(it["event"] == "phx_close" for it in viewer.frames))
            await client.channel("after").subscribe()
            await viewer.until(lambda: sum("after" in it["topic"] for it in viewer.frames) >= 2)
        since = next(it["number"] for it in viewer.frames if "after" in it["topic"])
        text = (await viewer.request(do="export", form=form, since=since))["text"]
        assert "after" in text and "before" not in text
        assert "invalid request" in (await viewer.request(do="export", form="zip"))["error"]


@pytest.mark.slow
async def test_the_exported_recording_is_loaded(tmp_path: Path):
    """The other export is a recording, with the frames of both clients as they saw them."""
    (tmp_path / "recording.jsonl").write_text(await exported(a_session, "recording"), encoding="utf-8")
    loaded = Recording.load(tmp_path / "recording.jsonl")
    assert loaded.topics == {"room:lobby": False, "staff": True, "secret": True}
    sent = [frame.user_event for frame in loaded.frames if frame.direction == "out" and frame.user_event]
    received = [frame.user_event for frame in loaded.frames if frame.direction == "in" and frame.user_event]
    assert sent == ["typing", "bytes", "hello"]
    assert received == ["typing", "typing", "bytes", "news", "news"]
    assert all(frame.topic is not None for frame in loaded.frames)
    wire = RecordingTransport()
    async with connect_async("http://127.0.0.1:9", "key", transport=wire) as client:
        room = client.channel("room:lobby")
        messages = room.listen(broadcast("news"))
        await room.subscribe()
        wire.play(loaded.frames)
        assert (await anext(messages)).payload == {"n": 1}
