"""Commands as programs of a shell: Ctrl-C, closed pipes, terminals, `.env` files."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from supawire import LocalServer
from supawire.testing import RecordedFrame, Recording
from tests.cli.conftest import DEADLINE, ENVIRONMENT, SCRIPT, supawire

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither these signals nor pseudo-terminals"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer() as server:
        yield server


def wait_for_join(server: LocalServer, topic: str, process: subprocess.Popen[str]) -> None:
    """Wait until the server has received the join of a topic that begins with this."""
    waiting = threading.Event()
    while process.poll() is None:
        joins = [str(frame.topic) for frame in server.frames if frame.event == "phx_join"]
        if any(join.startswith(f"realtime:{topic}") for join in joins):
            return
        waiting.wait(0.01)


def start(server: LocalServer, words: Sequence[str]) -> subprocess.Popen[str]:
    environment = ENVIRONMENT | {"SUPABASE_URL": server.url, "SUPABASE_KEY": server.anon_key}
    return subprocess.Popen(
        [SCRIPT, *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "words",
    [
        ["listen", "{topic}"],
        ["listen", "{topic}", "--exec", "sleep 60"],
        ["presence", "{topic}", "--watch"],
        ["record", "{folder}/x.jsonl", "{topic}"],
        ["replay", "{folder}/recording.jsonl", "--port", "0"],
        ["bench", "--rate", "1"],
    ],
    ids=lambda words: " ".join(words),
)
def test_ctrl_c_ends_each_long_command(server: LocalServer, words: list[str], tmp_path: Path):
    """Exit code 130 and one line that says so; no traceback, and no process is left."""
    topic = f"c-{words[0]}-{len(words)}"
    join = RecordedFrame("out", 1, "realtime:x", "phx_join", {}, data=b'["1","1","realtime:x","phx_join",{}]')
    Recording((join,)).save(tmp_path / "recording.jsonl")
    process = start(server, [word.format(topic=topic, folder=tmp_path) for word in words])
    if words[0] == "replay":
        assert process.stdout is not None
        process.stdout.readline()
    else:
        wait_for_join(server, "topic:" if words[0] == "bench" else topic, process)
    if "--exec" in words:
        server.broadcast(topic, "e", {})
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130, err
    assert "supawire: interrupted\n" in err
    assert "Traceback" not in err


def test_sigterm_ends_a_command_and_what_it_runs(server: LocalServer, tmp_path: Path):
    """Exit code 143, and the command of --exec is ended too."""
    script = tmp_path / "handle.py"
    script.write_text("import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    process = start(server, ["listen", "terminated", "--json", "--exec", f"'{sys.executable}' '{script}'"])
    wait_for_join(server, "terminated", process)
    server.broadcast("terminated", "e", {})
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    [child] = [int(line) for line in lines if line.strip().isdigit()]
    process.terminate()
    process.communicate(timeout=DEADLINE)
    assert process.returncode == 143
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_sigterm_ends_a_command_that_ignores_ctrl_c(server: LocalServer):
    """A shell without job control lets the jobs that it starts with & ignore SIGINT; SIGTERM ends them all the same."""
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", SCRIPT, "listen", "ignoring"],
        env=ENVIRONMENT | {"SUPABASE_URL": server.url, "SUPABASE_KEY": server.anon_key},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_join(server, "ignoring", process)
    process.terminate()
    try:
        _, err = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert process.returncode == 143, err
    assert "Traceback" not in err and "Task" not in err


@pytest.mark.parametrize("words", [["listen", "{topic}"], ["listen", "{topic}", "--json"]], ids=["text", "json"])
def test_a_closed_pipe_ends_the_command_quietly(server: LocalServer, words: list[str]):
    """As with `| head -1`: exit code 0, and nothing about it on stderr."""
    topic = f"pipe-{len(words)}"
    process = start(server, [word.format(topic=topic) for word in words])
    wait_for_join(server, topic, process)
    assert process.stdout is not None and process.stderr is not None
    server.broadcast(topic, "first", {})
    assert "first" in process.stdout.readline()
    process.stdout.close()
    server.broadcast(topic, "second", {})
    server.broadcast(topic, "third", {})
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(DEADLINE) == 0, err
    assert "Traceback" not in err and "pipe" not in err.replace(f"channel {topic}", "").lower()


@pytest.mark.parametrize("words", [["--help"], ["context", "list"]], ids=lambda words: words[0])
def test_a_pipe_that_is_closed_from_the_start_is_no_error(words: list[str]):
    """A command that prints and ends has exit code 0 too."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [SCRIPT, *words], env=ENVIRONMENT, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "")


def in_terminal(server: LocalServer, words: list[str], topic: str, **environment: str) -> str:
    """Run a command in a pseudo-terminal, send one broadcast, and return all of its output."""
    ours, theirs = os.openpty()
    variables = ENVIRONMENT | {"SUPABASE_URL": server.url, "SUPABASE_KEY": server.anon_key, "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [SCRIPT, *words], env=variables | environment, stdin=theirs, stdout=theirs, stderr=theirs, text=True
    )
    os.close(theirs)
    wait_for_join(server, topic, process)
    server.broadcast(topic, "typing", {"n": 1})
    output = b""
    with contextlib.suppress(OSError):  # Linux reports the end of a terminal as an error
        while data := os.read(ours, 4096):
            output += data
    os.close(ours)
    process.wait(DEADLINE)
    return output.decode()


def test_colours_are_for_terminals_only(server: LocalServer):
    """In a terminal events are coloured; with NO_COLOR, and in a pipe, they are not."""
    coloured = in_terminal(server, ["listen", "colour", "--count", "1"], "colour")
    assert "\x1b[36mbroadcast \x1b[0m\x1b[1mtyping\x1b[0m" in coloured
    assert "\x1b[36m" not in in_terminal(server, ["listen", "plain", "--count", "1"], "plain", NO_COLOR="1")


def test_watch_draws_a_table_in_a_terminal(server: LocalServer):
    """The table is drawn again at each change, with its title."""
    words = ["presence", "table", "--watch", "--for", "1s"]
    assert "table: 0 present" in in_terminal(server, words, "table")


@pytest.mark.parametrize(
    ("content", "code", "expected"),
    [
        ("SUPABASE_URL=http://127.0.0.1:1\nSUPABASE_KEY='not closed\n", 2, ".env, line 2 cannot be read"),
        ("SUPABASE_URL=http://127.0.0.1:1\nSUPABASE_KEY=k\n", 1, "127.0.0.1:1 cannot be reached"),
        ("", 2, "no server is given"),
    ],
)
def test_a_file_env_in_the_folder_is_used(content: str, code: int, expected: str, tmp_path: Path):
    """Its values are used, and its errors are one line."""
    (tmp_path / ".env").write_text(content)
    with contextlib.chdir(tmp_path):
        done = supawire("publish", "room", "event")
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
    assert expected in done.err and "not closed" not in done.err
