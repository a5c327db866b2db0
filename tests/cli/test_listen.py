"""`supawire listen`, alone and with `--exec` and `--forward-to`."""

import asyncio
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any, Self
from uuid import UUID

import pytest
from standardwebhooks import Webhook

from supawire import _webhooks, connect
from supawire.cli import deliveries, run
from supawire.cli.deliveries import feed
from supawire.cli.output import to_json
from supawire.server import LocalServer

Capture = pytest.CaptureFixture[str]
SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    """Run one server for all tests, each of which uses a topic of its own."""
    with LocalServer() as server:
        yield server


class Running:
    """A command that runs in a thread, until it ends by itself."""

    def __init__(self, server: LocalServer, *words: str, key: str = "", joins: bool = True) -> None:
        self._server = server
        self._topic = words[1]
        self._codes: list[int] = []
        self.words = [*words, "--url", server.url, "--key", key or server.anon_key]
        self._thread = threading.Thread(target=lambda: self._codes.append(run(self.words)), daemon=True)
        self._joins = joins

    def __enter__(self) -> Self:
        self._thread.start()
        joined = threading.Event()
        while self._joins and self._thread.is_alive() and not self._has_joined():
            joined.wait(0.01)
        return self

    def _has_joined(self) -> bool:
        return any(
            frame.event == "phx_join" and frame.topic == f"realtime:{self._topic}" for frame in self._server.frames
        )

    def __exit__(self, *error: object) -> None:
        self._thread.join(30)

    @property
    def code(self) -> int:
        assert self._codes, "the command has not ended"
        return self._codes[0]


def objects(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_broadcasts_are_printed_as_they_arrive(server: LocalServer, capsys: Capture):
    """One line each on stdout, with time, event and payload; states go to stderr; --count ends it with exit code 0."""
    with Running(server, "listen", "lines", "--count", "2") as listening:
        server.broadcast("lines", "typing", {"user": "alice", "text": "a\x1b[31m\x9b"})
        server.broadcast("lines", "other", [1, None])
    out, err = capsys.readouterr()
    assert listening.code == 0
    first, second = out.splitlines()
    assert re.fullmatch(r'\d\d:\d\d:\d\d broadcast typing {"user":"alice","text":"a\\u001b\[31m\\x9b"}', first)
    assert second.endswith("broadcast other [1,null]")
    assert "channel lines joined" in err
    assert server.anon_key not in out + err


def test_json_has_one_object_a_line(server: LocalServer, capsys: Capture):
    """Each event is an object with stable names; only events are on stdout."""
    with Running(server, "listen", "json", "--event", "typing", "--json", "--count", "1") as listening:
        server.broadcast("json", "ignored", {})
        server.send("json", "typing", {"user": "alice"}, private=False)
    [event] = objects(capsys.readouterr().out)
    assert listening.code == 0
    identifier = event.pop("id")
    assert event.pop("received_at").endswith("Z")
    assert event == {
        "kind": "broadcast", "topic": "json", "event": "typing", "payload": {"user": "alice", "id": identifier}
    }  # fmt: skip


def test_changes_of_a_table_keep_their_digits(server: LocalServer, capsys: Capture):
    """Values are written as documented: numeric as text with all digits, large integers as numbers."""
    words = (
        "listen",
        "table",
        "--table",
        "prices",
        "--event",
        "insert",
        "--filter",
        "id=gt.5",
        "--json",
        "--count",
        "1",
    )
    with Running(server, *words) as listening:
        server.emit("INSERT", "prices", record={"id": 1, "price": Decimal("2.00")})
        server.emit("INSERT", "prices", record={"id": 2**63 - 1, "price": Decimal("1.10"), "blob": b"\x00\xff"})
    [event] = objects(capsys.readouterr().out)
    assert listening.code == 0
    assert event["record"] == {"id": 2**63 - 1, "price": "1.10", "blob": "AP8="}
    assert event["columns"] == {"id": "int8", "price": "numeric", "blob": "bytea"}
    assert (event["kind"], event["type"], event["schema"], event["table"]) == ("change", "INSERT", "public", "prices")


def test_presence_is_shown(server: LocalServer, capsys: Capture):
    """`--presence` adds joins, updates and leaves."""
    with (
        Running(server, "listen", "people", "--presence", "--json", "--count", "2"),
        connect(server.url, server.anon_key) as client,
        client.channel("people", presence_key="alice") as room,
    ):
        room.track({"name": "Alice"})
    events = [event for event in objects(capsys.readouterr().out) if event["type"] != "sync"]
    assert [(event["type"], event["key"]) for event in events] == [("join", "alice"), ("leave", "alice")]
    assert events[0]["current"][0]["payload"] == {"name": "Alice"}


def test_a_time_that_ends_before_the_count_is_a_failure(server: LocalServer, capsys: Capture):
    """With --for alone the exit code is 0; with a count that was not reached it is 1, with one line."""
    with Running(server, "listen", "quiet", "--for", "50ms") as listening:
        pass
    assert listening.code == 0
    capsys.readouterr()
    with Running(server, "listen", "quiet", "--for", "50ms", "--count", "3") as listening:
        pass
    assert listening.code == 1
    assert "3 of the events of --count are missing" in capsys.readouterr().err


def test_a_refused_join_ends_it(server: LocalServer, capsys: Capture):
    """A private channel without the right to it: exit code 1 and one line with the reason."""
    with Running(server, "listen", "secret", "--private", joins=False) as listening:
        pass
    err = capsys.readouterr().err
    assert listening.code == 1
    assert "supawire: " in err.splitlines()[-1] and "policy" in err.lower()


def test_a_lost_connection_and_its_gap_are_shown(server: LocalServer, capsys: Capture):
    """States go to stderr; the gap is on stdout, because a reader of events has to know of it."""

    def joins() -> int:
        return sum((frame.event, frame.topic) == ("phx_join", "realtime:gaps") for frame in server.frames)

    with Running(server, "listen", "gaps", "--json", "--count", "1") as listening:
        server.drop_connections()
        waiting = threading.Event()
        while joins() < 2:
            waiting.wait(0.01)
        server.broadcast("gaps", "after", {})
    out, err = capsys.readouterr()
    gap, event = objects(out)
    assert listening.code == 0
    assert (gap["kind"], gap["lost"], event["event"]) == ("gap", ["broadcast"], "after")
    assert "connection retrying: " in err and err.count("channel gaps joined") == 2


# --- passing events on


def test_a_command_gets_each_event_on_stdin(server: LocalServer, capsys: Capture, tmp_path: Path):
    """Events are passed in order, and event data is never part of a command line."""
    script, log = tmp_path / "handle.py", tmp_path / "log"
    script.write_text(f"import sys; open({str(log)!r}, 'a').write(sys.stdin.read())", encoding="utf-8")
    words = ("listen", "exec", "--count", "3", "--exec", f"'{sys.executable}' '{script}' '$(touch x)'")
    with Running(server, *words) as listening:
        for number in range(3):
            server.broadcast("exec", "n", {"n": number, "evil": "$(touch pwned); `id`"})
    assert listening.code == 0
    assert [event["payload"]["n"] for event in objects(log.read_text())] == [0, 1, 2]
    assert capsys.readouterr().err.count("passed on: exit code 0") == 3


def test_a_command_that_fails_is_reported(server: LocalServer, capsys: Capture):
    """The exit codes are reported, and count in the exit code of the command."""
    words = (
        "listen",
        "fails",
        "--count",
        "2",
        "--exec",
        f"'{sys.executable}' -c 'raise SystemExit(3)'",
        "--in-flight",
        "2",
    )
    with Running(server, *words) as listening:
        for _ in range(2):
            server.broadcast("fails", "n", {})
    err = capsys.readouterr().err
    assert listening.code == 1
    assert err.count("broadcast was not passed on: exit code 3") == 2
    assert err.endswith("supawire: could not be passed on: 2 of the events\n")


@pytest.mark.anyio
async def test_a_command_may_end_before_it_gets_its_event():
    """Writing to a command that has ended, without reading, raises no error on any event loop."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "", stdin=asyncio.subprocess.PIPE)
    assert await process.wait() == 0
    await feed(process, b"an event")


class Receiver:
    """An HTTP server that answers with the given statuses, then 204, and keeps the requests."""

    def __init__(self, *statuses: int) -> None:
        self.requests: list[tuple[dict[str, str], str]] = []
        remaining = list(statuses)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                outer.requests.append((dict(self.headers), body))
                status = remaining.pop(0) if remaining else 204
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                del format, args

        self._server = ThreadingTCPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook"


@pytest.fixture
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once."""
    monkeypatch.setattr(_webhooks, "FIRST_DELAY", 0.0)


@pytest.mark.usefixtures("no_delay")
def test_webhooks_are_signed_retried_and_in_order(server: LocalServer, capsys: Capture):
    """A temporary failure is repeated with the same id; the library of the specification verifies each request."""
    with Receiver(503, 429) as receiver:
        words = ("listen", "hook", "--count", "2", "--json", "--forward-to", receiver.url, "--secret", SECRET)
        with Running(server, *words) as listening:
            for number in range(2):
                server.broadcast("hook", "n", {"n": number})
    assert listening.code == 0
    bodies = [Webhook(SECRET).verify(body, headers) for headers, body in receiver.requests]
    assert [body["payload"]["n"] for body in bodies] == [0, 0, 0, 1]
    ids = [headers["webhook-id"] for headers, _ in receiver.requests]
    assert len(set(ids)) == 2 and len(set(ids[:3])) == 1
    assert objects(capsys.readouterr().out) == [bodies[0], bodies[3]]


@pytest.mark.usefixtures("no_delay")
@pytest.mark.parametrize(
    ("statuses", "requests", "text"),
    [((400,), 1, "HTTP 400"), ((301,), 1, "HTTP 301"), ((500,) * 6, 6, "HTTP 500 after 6 attempts")],
)
def test_a_webhook_that_is_given_up_is_reported(
    server: LocalServer, capsys: Capture, statuses: tuple[int, ...], requests: int, text: str
):
    """A permanent refusal is not repeated, a temporary one six times; the exit code is 1."""
    topic = f"given-up-{statuses[0]}"
    with (
        Receiver(*statuses) as receiver,
        Running(server, "listen", topic, "--count", "1", "--forward-to", receiver.url, "--secret", SECRET) as listening,
    ):
        server.broadcast(topic, "n", {})
    err = capsys.readouterr().err
    assert (listening.code, len(receiver.requests)) == (1, requests)
    assert f"supawire: broadcast was not passed on: {text} (" in err
    assert err.endswith("supawire: could not be passed on: 1 of the events\n")


def test_a_secret_in_the_environment_is_no_option(server: LocalServer, monkeypatch: pytest.MonkeyPatch):
    """With SUPAWIRE_WEBHOOK_SECRET set, `listen` without --forward-to works."""
    monkeypatch.setenv("SUPAWIRE_WEBHOOK_SECRET", SECRET)
    with Running(server, "listen", "unsigned", "--count", "1") as listening:
        server.broadcast("unsigned", "n", {})
    assert listening.code == 0


@pytest.mark.usefixtures("no_delay")
def test_a_receiver_that_is_not_there_is_reported(server: LocalServer, capsys: Capture):
    """A refused connection is repeated and then given up; a new secret is printed once, to stderr."""
    with Receiver() as receiver:
        url = receiver.url
    with Running(server, "listen", "nobody", "--count", "1", "--forward-to", url) as listening:
        server.broadcast("nobody", "n", {})
    out, err = capsys.readouterr()
    assert listening.code == 1
    assert re.search(r"^Secret of the signatures: whsec_\S+$", err, re.MULTILINE)
    assert "not passed on: Cannot connect to host" in err and "after 6 attempts" in err
    assert "whsec_" not in out


@pytest.mark.parametrize(
    ("status", "retry_after", "attempts", "expected"),
    [
        (None, None, 1, 0.5),
        (500, None, 3, 2.0),
        (503, None, 5, 8.0),
        (503, "7", 1, 7.0),
        (429, "100000", 1, 60.0),
        (429, "soon", 2, 1.0),
        (429, "9" * 5000, 1, 60.0),
        (500, None, 6, None),
        (410, "1", 1, None),
        (302, None, 1, None),
    ],
)
def test_the_delay_before_the_next_attempt(
    status: int | None, retry_after: str | None, attempts: int, expected: float | None
):
    """It doubles, is limited, respects Retry-After up to a limit, and ends after six attempts or a refusal."""
    assert _webhooks.retry_delay(status, retry_after, attempts, jitter=0.0) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--filter", "id=eq.1"], "--table"),
        (["--table", "t", "--event", "UPSERT"], "UPSERT"),
        (["--table", "t", "--filter", "nonsense"], "status=eq.open"),
        (["--count", "0"], "--count"),
        (["--for", "soon"], "30s"),
        (["--exec", "no-such-program-here"], "no-such-program-here"),
        (["--exec", "'not closed"], "--exec"),
        (["--forward-to", "ftp://x"], "http://"),
        (["--forward-to", "http://a..b/hook"], "valid host"),
        (["--forward-to", f"http://{'a' * 64}.example"], "valid host"),
        (["--forward-to", "http://x", "--secret", "whsec_hello world"], "whsec_"),
        (["--forward-to", "http://x", "--exec", "true"], "one of them"),
        (["--secret", SECRET], "--forward-to"),
        (["--in-flight", "1000"], "--in-flight"),
        (["--nope"], "--nope"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_are_refused_before_anything_is_sent(words: list[str], expected: str, capsys: Capture):
    """Exit code 2, one line, no connection: no server listens at this address."""
    assert run(["listen", "x", "--url", "http://127.0.0.1:1", "--key", "k", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert expected in err and "whsec_hello world" not in err


@pytest.mark.parametrize(
    ("command", "windows", "words"),
    [
        (r"python 'a b.py' \$x", False, ["python", "a b.py", "$x"]),
        (r"""'C:\Program Files\py.exe' -c "print(1)" x""", True, [r"C:\Program Files\py.exe", "-c", "print(1)", "x"]),
    ],
)
def test_words_of_a_command(command: str, windows: bool, words: list[str]):
    """Quotation marks group words; on Windows a backslash is part of a path."""
    assert deliveries.split_command(command, windows=windows) == words


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2**70, "1180591620717411303424"),
        ({"a": [-(2**70), 1]}, '{"a":[-1180591620717411303424,1]}'),
        (Decimal("1.10"), '"1.10"'),
        (b"\x00\xff", '"AP8="'),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), '"2026-01-02T03:04:05Z"'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (float("nan"), "null"),
    ],
)
def test_values_in_json(value: Any, expected: str):
    """As the page of the command line says."""
    assert to_json(value) == expected


def test_results_of_deliveries_have_no_secret():
    """The signer has no secret in its repr."""
    make: Callable[[str], Webhook] = _webhooks.make_signer
    assert SECRET[6:20] not in repr(make(SECRET))
