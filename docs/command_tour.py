"""`python -m docs.command_tour` writes the output of real runs of commands into docs/command-line.md.

The commands run against one `supawire serve`. What differs from run to run is replaced: ports, times, durations, ids.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Final

from supawire import connect
from supawire.cli import env_files, run

PAGE: Final = Path(__file__).resolve().parent / "command-line.md"
SECRET: Final = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
USER: Final = "6f1c0a52-8d0e-4f57-9a39-0d5f6f8b7c11"
_TOUR: Final = re.compile(r"(<!-- tour: (?P<name>[\w-]+) -->\n)(?P<text>.*?)(<!-- end of tour -->)", re.DOTALL)
_CHANGING: Final = (
    (r"\b\d\d:\d\d:\d\d ", "12:00:00 "),
    (r"127\.0\.0\.1:\d+\b(?!/hook)", "127.0.0.1:4000"),
    (r"20\d\d-\d\d-\d\d([T ])\d\d:\d\d:\d\d(\.\d+)?", r"2026-01-02\g<1>12:00:00"),
    (r"\(\d+ ms\)", "(2 ms)"),
    (r"p(50|95|99) [\d.]+ ms", r"p\1 1.0 ms"),
    (r"throughput [\d.]+ events/s", "throughput 20.0 events/s"),
    (r"failed in [\d.]+ s", "failed in 1.0 s"),
    (r"\([\d,]+ bytes\)", "(2,000 bytes)"),
    (r"in \d+ frames", "in 9 frames"),
    (r"saved in .*contexts\.toml", "saved in ~/.config/supawire/contexts.toml"),
    (r"in 59 minutes", "in 60 minutes"),
    (r"[ \t]+\n", "\n"),
)


class Tour:
    """One folder, one server, and the transcripts of the commands that ran there."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def runs(self) -> None:
        """Run everything."""
        self.shows("publish", self.command('supawire publish room:1 typing \'{"user": "alice"}\''))
        self.shows("send", self.command('supawire send room:1 typing \'{"user": "alice"}\''))
        self.shows("errors", self._errors())
        self.shows("listen", self._listen("supawire listen room:1 --count 2", self._send_two))
        self.shows("listen-json", self._listen("supawire listen orders --table orders --json --count 1", self._insert))
        self.shows("exec", self._listen("supawire listen room:2 --count 1 --exec cat", self._send_one))
        self.shows("forward", self._forward())
        self.shows("presence", self._presence())
        self.shows("token", self._token())
        trigger = "supawire trigger INSERT users --columns id:int8,email:text,active:bool --seed 7"
        self.shows(
            "trigger",
            self.command(trigger),
            self.command("supawire trigger UPDATE users --set id=1 --set email=a@b.example"),
        )
        self.shows("bench", self.command("supawire bench --messages 5 --clients 3 --rate 0"))
        recorded = self._listen("supawire record session.jsonl room:3 --count 2", self._send_three)
        self.shows("record", recorded)
        self.shows("replay", self.command("supawire replay session.jsonl --print --speed 0"))
        self.shows("context", *self._context())

    def shows(self, name: str, *transcripts: str) -> None:
        text = "".join(transcripts)
        for pattern, replacement in _CHANGING:
            text = re.sub(pattern, replacement, text)
        self.texts[name] = f"```text\n{text.rstrip()}\n```\n"

    def command(self, line: str, stdin: str = "") -> str:
        """Run a command in this process and return what a shell shows of it."""
        shown = io.StringIO()
        words = shlex.split(line)
        kept, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(stdin.encode()))
        try:
            with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
                run(words[1:])
        finally:
            sys.stdin = kept
        return f"$ {line}\n{shown.getvalue()}"

    def _listen(self, line: str, act: Callable[[], None], *, until: str = "joined", shown_line: str = "") -> str:
        """Run a command in a process, act when its channel is ready, and return its transcript."""
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "supawire.cli", *shlex.split(line)[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        text = ""
        ready = "ready" if "--table" in line else until
        while ready not in text and (read := process.stdout.readline()):
            text += read
        act()
        text += process.communicate(timeout=30)[0]
        return f"$ {shown_line or line}\n{text}"

    def _send_two(self) -> None:
        self.command('supawire publish room:1 typing \'{"user": "alice"}\'')
        self.command('supawire publish room:1 note \'{"text": "hello"}\'')

    def _send_one(self) -> None:
        self.command('supawire publish room:2 note \'{"text": "hello"}\'')

    def _send_three(self) -> None:
        for number in (1, 2):
            self.command(f"supawire publish room:3 step '{{\"number\": {number}}}'")

    def _insert(self) -> None:
        self.command("supawire trigger INSERT orders --columns id:int8,total:numeric --set id=1 --set total=19.90")

    def _forward(self) -> str:
        with _receiver() as url:
            line = f"supawire listen room:2 --count 1 --forward-to {url} --secret {SECRET}"
            shown_line = "supawire listen room:2 --count 1 --forward-to http://127.0.0.1:8000/hook"
            return self._listen(line, self._send_one, shown_line=shown_line)

    def _presence(self) -> str:
        values = os.environ
        with (
            connect(values[env_files.URL], values[env_files.KEY]) as client,
            client.channel("lobby", presence_key="alice") as room,
        ):
            room.track({"name": "Alice", "mood": "curious"})
            return self.command("supawire presence lobby") + self.command("supawire presence empty")

    def _token(self) -> str:
        line = f"supawire token make --sub {USER} --expires 1h"
        token = self.command(line).splitlines()[-1]
        explained = self.command("supawire token explain -", token)
        return f"$ {line} | {explained.removeprefix('$ ')}"

    def _errors(self) -> str:
        return (
            self.command("supawire listen room:1 --filter id=eq.1")
            + self.command("supawire send room:1 typing hello")
            + self.command("supawire send private:1 typing --private")
            + self.command("supawire presence room:1 --url http://127.0.0.1:1 --key k")
        )

    def _context(self) -> Iterator[str]:
        key = "sb_publishable_example"
        yield self.command("supawire context add staging --url https://abc.supabase.co", f"{key}\n")
        yield self.command("supawire context list")
        yield self.command("supawire context remove staging")


@contextlib.contextmanager
def _receiver() -> Generator[str]:
    """Run a receiver of webhooks that accepts everything, and yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/hook"
        server.shutdown()


@contextlib.contextmanager
def _place() -> Generator[None]:
    """Run a server, and work in an empty folder with its address and keys in the environment."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = Path(name)
        for variable in list(os.environ):
            if "SUPABASE_" in variable or variable.startswith(("SUPAWIRE_", "COV_")):
                del os.environ[variable]
        os.environ |= {"COLUMNS": "100", "NO_COLOR": "1", "HOME": name, "XDG_CONFIG_HOME": str(folder / "config")}
        file = folder / "dev.env"
        words = [sys.executable, "-m", "supawire.cli", "serve", "--port", "0", "--env-file", str(file)]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            while not server.stdout.readline().startswith("Ctrl-C"):
                assert server.poll() is None, "the server has ended"
            os.environ |= env_files.read(file)
            yield
        finally:
            server.terminate()
            server.communicate()
            os.environ.clear()
            os.environ |= before


def texts() -> dict[str, str]:
    """Run all commands and return the text of each place of the page."""
    tour = Tour()
    with _place():
        tour.runs()
    return tour.texts


def rewritten(text: str, shown: dict[str, str]) -> str:
    """Return the text of the page with the output of these runs."""
    return _TOUR.sub(lambda place: f"{place[1]}\n{shown[place['name']]}\n{place[4]}", text)


def names(text: str) -> list[str]:
    """Return the names of the places in the page."""
    return [place["name"] for place in _TOUR.finditer(text)]


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), texts()), encoding="utf-8")
