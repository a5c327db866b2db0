"""`supawire bridge`: to a webhook until SIGTERM, and what it says about wrong arguments."""

import json
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from threading import Event, Thread

import pytest

from supawire.cli import run
from supawire.server import LocalServer

SECRET = "whsec_" + "A" * 40


@contextmanager
def receiver() -> Generator[tuple[str, list[dict[str, object]], Event]]:
    """Run a receiver of webhooks; provide its URL, what it got, and an event for the first one."""
    got: list[dict[str, object]] = []
    first = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            first.set()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingTCPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", got, first
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a process at once there")
def test_broadcasts_are_posted_until_sigterm(tmp_path: Path):
    """Broadcasts of a public topic reach a webhook, and SIGTERM ends the command with exit code 0."""
    with receiver() as (url, got, first), LocalServer() as server:
        words = ["bridge", "--to", url, "--secret", SECRET, "--public-topic", "room", "--url", server.url]
        words += ["--key", server.anon_key, "--checkpoint", str(tmp_path / "c.db")]
        with subprocess.Popen(
            [sys.executable, "-m", "supawire", *words], stderr=subprocess.PIPE, text=True, cwd=tmp_path
        ) as process:
            while not first.wait(0.1):
                assert process.poll() is None
                server.broadcast("room", "hello", {"n": 1})
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert {(one["kind"], one["event"]) for one in got} == {("broadcast", "hello")}
    assert "handed on" in errors and SECRET not in errors


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--to", "redis://localhost"], "nothing is to be handed on"),
        (["--to", "redis://localhost", "--table", "a"], "give --database"),
        (["--to", "redis://localhost", "--topic", "a", "--filter", "a=eq.1"], "of one --table"),
        (["--to", "amqp://localhost", "--public-topic", "a"], "amqp://"),
        (["--to", "https://localhost", "--public-topic", "a"], "no secret is given"),
        (["--to", "redis://localhost", "--public-topic", "a", "--checkpoint", "database"], "needs --database"),
        (["--to", "redis://localhost", "--public-topic", "a", "--log-level", "loud"], "--log-level"),
    ],
)
def test_wrong_arguments(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Arguments that do not fit together end with exit code 2 and say what is missing."""
    for package in ("redis", "standardwebhooks"):
        pytest.importorskip(package)
    for name in ("DATABASE_URL", "SUPAWIRE_WEBHOOK_SECRET"):
        monkeypatch.delenv(name, raising=False)
    assert run(["bridge", *words, "--url", "http://127.0.0.1:1", "--key", "key"]) == 2
    assert text in capsys.readouterr().err
