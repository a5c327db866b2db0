"""`supawire record`, `replay` and `bench`."""

import json
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from supawire import Client, LocalServer, broadcast, changes, connect, presence
from supawire.cli import bench, env_files, run
from tests.cli.test_listen import Running

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer() as server:
        yield server


def record(server: LocalServer, path: Path, *words: str) -> int:
    """Record one insert, and one participant that joins and leaves."""
    file, topic = str(path), path.stem
    recording = Running(server, "record", topic, file, "--table", "todos", "--presence", "--count", "3", *words)
    recording.words = ["record", file, topic, *recording.words[3:]]
    with recording, connect(server.url, server.anon_key) as client:
        server.emit(
            "INSERT", "todos", record={"id": 1, "note": server.service_key}, columns={"id": "int8", "note": "text"}
        )
        with client.channel(topic, presence_key="alice") as room:
            room.track({"name": "Alice"})
    return recording.code


def test_a_recording_is_printed_and_served_again(server: LocalServer, tmp_path: Path, capsys: Capture):
    """What was recorded is printed as `listen` prints it, and a client of the replay receives it from a server."""
    file, env_file = tmp_path / "session.jsonl", tmp_path / "replay.env"
    assert record(server, file) == 0
    if sys.platform != "win32":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert server.anon_key not in file.read_text() and server.service_key not in file.read_text()
    assert "3 events in" in capsys.readouterr().err

    assert run(["replay", str(file), "--json", "--speed", "0"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [event.get("type") for event in printed if event.get("type") != "sync"]
    assert kinds == ["INSERT", "join", "leave"]

    with Replaying(file, env_file) as replaying, replaying.client() as client:
        room = client.channel("session")
        rows, people = room.listen(changes("todos", event="INSERT")), room.listen(presence())
        room.subscribe(wait="ready")
        row = rows.get(timeout=10)
        arrived = [people.get(timeout=10) for _ in range(3)]
    assert replaying.codes == [0] and not env_file.exists()
    assert row.record == {"id": 1, "note": "***"}
    assert [type(event).__name__ for event in arrived] == ["PresenceSync", "PresenceJoin", "PresenceSync"]


class Replaying:
    """`supawire replay` in a thread, until its end."""

    def __init__(self, file: Path, env_file: Path) -> None:
        self._env_file = env_file
        self.codes: list[int] = []
        words = ["replay", str(file), "--port", "0", "--env-file", str(env_file), "--speed", "0"]
        self._thread = threading.Thread(target=lambda: self.codes.append(run(words)))

    def __enter__(self) -> Self:
        self._thread.start()
        waiting = threading.Event()
        while self._thread.is_alive() and not self._env_file.exists():
            waiting.wait(0.01)
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.join(20)

    def client(self) -> Client:
        values = env_files.read(self._env_file)
        return connect(values["SUPAWIRE_URL"], values["SUPAWIRE_KEY"])


def test_broadcasts_and_bytes_of_a_private_channel_are_served_again(server: LocalServer, tmp_path: Path):
    """JSON and binary messages arrive as they were sent; any key may join."""
    file = tmp_path / "private.jsonl"
    recording = Running(server, "record", "private", "--private", "--count", "2", key=server.service_key)
    recording.words.insert(1, str(file))
    with recording:
        server.send("private", "bytes", b"\x00\xff")
        server.broadcast("private", "json", {"n": 1}, private=True)
    assert recording.code == 0
    with Replaying(file, tmp_path / "replay.env") as replaying, replaying.client() as client:
        messages = client.channel("private", private=True).listen(broadcast())
        received = [messages.get(timeout=10) for _ in range(2)]
    assert [(message.event, message.payload) for message in received] == [("bytes", b"\x00\xff"), ("json", {"n": 1})]


def test_a_recording_that_is_full_ends_with_exit_code_1(server: LocalServer, tmp_path: Path, capsys: Capture):
    """The size of the file is limited."""
    assert record(server, tmp_path / "full.jsonl", "--max-size", "0.0001") == 1
    assert "has reached --max-size" in capsys.readouterr().err
    assert (tmp_path / "full.jsonl").stat().st_size < 1000


def test_a_replaced_file_can_be_read_by_its_owner_only(server: LocalServer, tmp_path: Path):
    """With --force, the mode of a file that others could read changes."""
    file = tmp_path / "forced.jsonl"
    file.write_text("old")
    file.chmod(0o644)
    assert record(server, file, "--force") == 0
    assert "old" not in file.read_text()[:3]
    assert sys.platform == "win32" or stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full")
def test_a_full_disk_ends_a_recording(server: LocalServer, capsys: Capture):
    """The command ends at the first frame that cannot be written, with exit code 1 and the reason."""
    recording = Running(server, "record", "disk")
    recording.words = ["record", "/dev/full", "disk", "--force", *recording.words[2:]]
    with recording:
        server.broadcast("disk", "big", {"text": "x" * 100_000})
    assert recording.code == 1
    assert "supawire: No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"format":"supawire recording","version":2}\n', "is a recording of version 2; this supawire reads version 1"),
        ('{"format":"other","version":1}\n', "is not a recording of supawire"),
        ("\x00\xff", "is not a recording of supawire"),
        ("", "is not a recording of supawire"),
        ('{"format":"supawire recording","version":1}\n', "no joined channel"),
        ('{"format":"supawire recording","version":1}\n{"at":0,"connec', "line 2: "),
        ('{"format":"supawire recording","version":1}\n{"at":0,"connection":1,"direction":"up"}', "line 2: "),
    ],
)
@pytest.mark.parametrize("words", [[], ["--print"]])
def test_a_file_that_is_no_recording_is_refused(
    text: str, expected: str, words: list[str], tmp_path: Path, capsys: Capture
):
    """Exit code 2 and one line that names the file and the problem."""
    file = tmp_path / "x.jsonl"
    file.write_text(text, encoding="latin-1")
    assert run(["replay", str(file), *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "x.jsonl" in err and expected in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["replay", "missing.jsonl"], "missing.jsonl cannot be read"),
        (["replay", "."], "cannot be read"),
        (["record", "pyproject.toml", "x"], "exists"),
        (["record", "no/such/folder/x", "y"], "cannot be written"),
        (["record", "x", "y", "--max-size", "1000"], "--max-size"),
        (["record", "x", "y", "--filter", "a=eq.1"], "--table"),
        (["bench", "--messages", "0"], "--messages"),
        (["bench", "--test", "nope"], "first connect latency"),
        (["bench", "http://127.0.0.1:2"], "given twice"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_one_line(words: list[str], expected: str, capsys: Capture):
    """Exit code 2, before anything is written or sent."""
    options = [] if words[0] == "replay" else ["--url", "http://127.0.0.1:1", "--key", "k"]
    assert run([*words, *options]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert expected in err


def test_bench_measures_a_server(server: LocalServer, capsys: Capture):
    """Each test passes, with the names and figures of realtime-check."""
    options = ["--key", server.anon_key, "--messages", "5", "--clients", "2", "--rate", "0"]
    assert run(["bench", server.url, *options, "--json"]) == 0
    tests = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(test["suite"], test["name"], test["passed"]) for test in tests] == [
        (suite, name, True) for suite, name, _ in bench.TESTS
    ]
    for test in tests:
        assert {"p50", "p95", "p99"} <= test["slis"].keys()
        assert test["slis"].get("delivered", {"value": 100}) in ({"value": 100}, {"value": 100, "unit": "%"})
    assert run(["bench", server.url, *options, "--test", "round trip"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("PASS  connection / heartbeat round trip  p50 ")
    assert last.startswith("1 passed, 0 failed in ")


def test_bench_fails_if_messages_are_lost(server: LocalServer, capsys: Capture, monkeypatch: pytest.MonkeyPatch):
    """Less than 99 % delivered is a failed test and exit code 1."""
    monkeypatch.setattr(bench, "SETTLE", 0.05)
    monkeypatch.setattr(bench._Bench, "_payload", lambda self, number: {"seq": -number})
    options = ["--messages", "4", "--rate", "0", "--test", "self"]
    assert run(["bench", server.url, "--key", server.anon_key, *options]) == 1
    assert "25.0 % delivered, less than 99 %" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["record", "{file}", "x"], ["bench"]])
def test_an_unreachable_server_is_one_line(words: list[str], tmp_path: Path, capsys: Capture):
    """Exit code 1, soon, and no file without frames is left."""
    file = tmp_path / "x.jsonl"
    with LocalServer() as gone:
        url, key = gone.url, gone.anon_key
    assert run([*(word.format(file=file) for word in words), "--url", url, "--key", key]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and "refused" in err
    assert not file.exists()


@pytest.mark.parametrize(
    ("latencies", "expected"),
    [([], [0, 0, 0]), ([0.001], [1, 1, 1]), ([n / 1000 for n in range(1, 101)], [50, 95, 99])],
)
def test_percentiles(latencies: list[float], expected: list[float]):
    """By the nearest rank, in milliseconds."""
    assert [metric.value for metric in bench.percentiles(latencies)] == expected
