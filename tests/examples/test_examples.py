"""The programs in examples/ work against a local server, each in its own process."""

import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from http.server import BaseHTTPRequestHandler
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from socketserver import ThreadingTCPServer
from urllib.request import Request, urlopen

import pytest

from supawire import LocalServer, broadcast, connect_async
from supawire.server import ServerLimits
from tests.cli.conftest import Serving
from tests.conftest import ROOT

pytestmark = pytest.mark.slow  # a process each

FOLDERS = ("frameworks", "streams", "worker")
PROGRAMS = sorted(
    path.name
    for path in [
        *(ROOT / "examples").glob("*.py"),
        *(path for folder in FOLDERS for path in (ROOT / "examples" / folder).iterdir()),
    ]
    if not path.name.startswith(("_", "."))
)


@asynccontextmanager
async def running(server: LocalServer, *words: str) -> AsyncGenerator[Process]:
    keys = {"SUPAWIRE_URL": server.url, "SUPAWIRE_KEY": server.anon_key, "SUPAWIRE_TOKEN": server.token()}
    environment = os.environ | keys
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "default",
        *words,
        cwd=ROOT / "examples",
        env=environment,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def line_of(process: Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().rstrip("\n")


async def lines_until(process: Process, missing: set[str]) -> None:
    """Read until all of these lines have been printed, in any order."""
    while missing:
        line = await line_of(process)
        assert line, f"the program ended before it printed {missing}: {(await process.communicate())[1].decode()}"
        missing = missing - {line}


async def write(process: Process, text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text.encode())
    await process.stdin.drain()


async def ended(process: Process) -> tuple[int | None, str, str]:
    """Close the standard input; returns exit status and the remaining output."""
    assert process.stdin is not None
    process.stdin.close()
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_the_listener_prints_rows_alarms_and_gaps_and_ends_by_ctrl_c():
    """listener.py prints a row, an alarm, and what to fetch after a lost connection; SIGINT ends it with status 0."""
    async with LocalServer() as server, running(server, "listener.py") as program:
        await lines_until(program, {"listening to orders", "listening to alarms"})
        server.emit("INSERT", "orders", record={"id": 1, "total": 5})
        await lines_until(program, {"INSERT {'id': 1, 'total': 5}"})
        server.broadcast("alarms", "alarm", {"floor": 3})
        await lines_until(program, {"ALARM {'floor': 3}"})
        server.drop_connections()
        fetch = {"fetch again: orders ['changes']", "fetch again: alarms ['broadcast']"}
        await lines_until(program, {"the connection is open", *fetch})
        program.send_signal(signal.SIGINT)
        status, out, err = await ended(program)
    assert (status, out.splitlines()[-1:]) == (0, ["stopped"])
    assert err == "the connection is retrying: the connection was lost\n"


async def test_the_listener_prints_why_it_was_refused():
    """listener.py ends with the server's reason when a channel is refused permanently."""
    async with LocalServer() as server:
        server.reject_join(
            "orders", "Unauthorized: You do not have permissions to read from this Channel topic: orders"
        )
        async with running(server, "listener.py") as program:
            status, _, err = await ended(program)
    assert status == 1
    assert re.fullmatch(r"the server refused the join: Unauthorized: .*\n", err.splitlines(keepends=True)[-1])


async def test_two_people_chat():
    """chat.py shows presence and messages, and leaves when its input ends."""
    async with LocalServer() as server, running(server, "chat.py", "alice") as alice:
        await lines_until(alice, {"* alice is here"})
        async with running(server, "chat.py", "bob") as bob:
            await lines_until(bob, {"* alice is here", "* bob is here"})
            await lines_until(alice, {"* bob is here"})
            await write(bob, "hello\n")
            await lines_until(alice, {"bob: hello"})
            assert (await ended(bob))[::2] == (0, "")
        await lines_until(alice, {"* bob has left"})
        assert (await ended(alice))[::2] == (0, "")


async def test_one_message_is_sent():
    """publish.py sends one message by HTTP, and its exit status is the outcome."""
    async with LocalServer() as server, connect_async(server.url, server.anon_key) as client:
        messages = client.channel("room:lobby").listen(broadcast())
        await client.channel("room:lobby").subscribe()
        async with running(server, "publish.py", "room:lobby", "hello", '{"n": 1}') as program:
            assert await ended(program) == (0, "confirmed\n", "")
        message = await anext(messages)
        assert (message.event, message.payload) == ("hello", {"n": 1})
        async with running(server, "publish.py", "room:lobby", "hello", "[1]") as program:
            assert (await ended(program))[0] == 2


async def test_stored_messages_are_sent_at_the_next_start(tmp_path: Path):
    """outbox.py stores a message without a server, and sends it at its next start together with another one."""
    async with LocalServer() as server, connect_async(server.url, server.anon_key) as client:
        messages = client.channel("orders").listen(broadcast())
        await client.channel("orders").subscribe()
        file = str(tmp_path / "outbox.db")
        async with running(server, "outbox.py", "--file", file, "--offline") as program:
            assert await ended(program) == (0, "stored: 1\n", "")
        async with running(server, "outbox.py", "--file", file) as program:
            assert await ended(program) == (0, "stored: 2\nsent: 2\n", "")
        assert [(await anext(messages)).event for _ in range(2)] == ["paid", "paid"]


async def test_stored_messages_are_read_on_at_the_next_start(tmp_path: Path):
    """history.py prints stored messages, and continues with the next one when it is started again."""
    async with LocalServer() as server:
        for number in range(3):
            server.send("orders", "paid", {"id": number})
        options = ("history.py", "--file", str(tmp_path / "cursors.db"), "--messages")
        async with running(server, *options, "2") as program:
            assert await ended(program) == (0, "paid {'id': 0}\npaid {'id': 1}\n", "")
        async with running(server, *options, "1") as program:
            assert await ended(program) == (0, "paid {'id': 2}\n", "")


async def test_a_script_with_the_sync_client_uses_every_feature():
    """plain_script.py receives its own broadcast, prints the next new row and ends without an error."""
    async with LocalServer() as server, running(server, "plain_script.py", "alice") as program:
        await lines_until(program, {"alice is typing"})
        server.emit("INSERT", "users", record={"id": 7})
        status, out, err = await ended(program)
        assert (status, out.splitlines(), err) == (0, ["new user: {'id': 7}", "here: alice"], "")


@contextmanager
def ending(process: "subprocess.Popen[str]") -> Generator[None]:
    """A program that hangs is killed when the test ends."""
    try:
        yield
    except BaseException:
        process.kill()
        raise


def test_the_quick_start_runs_against_supawire_serve():
    """quick_start.py makes every call, with `supawire serve` in another process."""
    program = ROOT / "examples" / "quick_start.py"
    assert not re.search(r"^\s*(async|await|import asyncio)", program.read_text(encoding="utf-8"), re.MULTILINE)
    serving = Serving("--show-keys")
    try:
        environment = os.environ | {name: serving.exported(name) for name in ("SUPAWIRE_URL", "SUPAWIRE_KEY")}
        output, ready = set[str](), "state: {'alice': [{'status': 'online'}]}\n"
        with (
            subprocess.Popen(
                [sys.executable, "-W", "error", program],
                env=environment,
                stdout=PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process,
            ending(process),
        ):
            assert process.stdout is not None
            output |= set(takewhile(lambda line: line != ready, process.stdout))
            row = json.dumps({"type": "INSERT", "table": "users", "record": {"id": 7}}).encode()
            head = {"Authorization": f"Bearer {serving.exported('SUPAWIRE_SERVICE_KEY')}"}
            with urlopen(Request(f"{serving.url}/dev/emit", row, head)) as answer:
                assert answer.status == 202
            output |= set(process.stdout)
        assert process.returncode == 0, output
        expected = {"alice is typing\n", "here: alice\n", "new user: {'id': 7}\n"}
        assert expected <= output <= expected | {"here:\n"}
    finally:
        serving.end()


async def test_forked_workers_have_a_client_each():
    """prefork_workers.py: three processes send confirmed results, and close their clients when the pool ends."""
    async with LocalServer() as server, running(server, "prefork_workers.py", "6") as program:
        status, out, err = await ended(program)
        tasks = {f"{{'task': {number}, 'result': {number**2}}}" for number in range(6)}
        assert (status, set(out.splitlines())) == (0, {*tasks, "confirmed: True"}), err
        assert [frame.event for frame in server.frames].count("phx_leave") == 4


async def test_a_script_waits_for_a_row():
    """wait_for.py prints the next new row; without one in time its exit status is 1."""
    async with LocalServer() as server:
        async with running(server, "wait_for.py", "orders", "30") as program:
            await lines_until(program, {"waiting"})
            server.emit("INSERT", "orders", record={"id": 7})
            assert await ended(program) == (0, "{'id': 7}\n", "")
        async with running(server, "wait_for.py", "orders", "0.2") as program:
            assert await ended(program) == (1, "waiting\n", "no row in 0.2 s\n")


async def test_changes_are_saved_in_batches(tmp_path: Path):
    """save_changes.py saves changes and gaps in order, several in one transaction."""
    path = tmp_path / "changes.db"
    async with LocalServer() as server, running(server, "save_changes.py", "orders", str(path)) as program:
        assert await line_of(program) == "saving"
        server.emit("INSERT", "orders", record={"id": 1, "total": "9.50"})
        server.emit("DELETE", "orders", old_record={"id": 1})
        saved = 0
        while saved < 2:
            saved += int((await line_of(program)).removesuffix(" saved"))
        server.drop_connections()
        assert await line_of(program) == "1 saved"
        program.send_signal(signal.SIGINT)
        assert (await ended(program))[0] == 130
    with closing(sqlite3.connect(path)) as database:
        assert list(database.execute("select * from changes")) == [
            ("INSERT", '{"id": 1, "total": "9.50"}'),
            ("DELETE", '{"id": 1}'),
            ("GAP", "connection_lost"),
        ]


@contextmanager
def rest(rows: list[dict[str, object]]) -> Generator[str]:
    """Serve rows like PostgREST; yields the URL."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path in ("/orders?select=*", "/orders?select=*&id=eq.2") and self.headers["apikey"]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(rows).encode())

        def log_message(self, *_: object, **__: object) -> None:
            """Log nothing."""

    with ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


async def test_a_table_is_kept_in_memory(monkeypatch: pytest.MonkeyPatch):
    """live_table.py prints the first rows, changes of rows, and the changes missed during a lost connection."""
    rows: list[dict[str, object]] = [{"id": 1, "state": "open"}]
    with rest(rows) as url:
        monkeypatch.setenv("SUPAWIRE_REST", url)
        async with LocalServer() as server, running(server, "live_table.py", "orders") as program:
            assert await line_of(program) == "begin: 1 rows, 1 changes"
            server.emit("INSERT", "orders", record={"id": 2, "state": "open"})
            server.emit("UPDATE", "orders", record={"id": 2, "state": "paid"})
            server.emit("DELETE", "orders", old_record={"id": 1})
            assert [await line_of(program) for _ in range(3)] == [
                "new {'id': 2, 'state': 'open'}",
                "changed {'state': 'paid'}",
                "deleted 1",
            ]
            rows[:] = [{"id": 2, "state": "void"}]
            server.emit("UPDATE", "orders", record={"id": 2}, errors="Error 413: Payload Too Large")
            assert await line_of(program) == "changed {'state': 'void'}"
            rows[:] = [{"id": 2, "state": "void"}, {"id": 3, "state": "open"}]
            server.drop_connections()
            assert await line_of(program) == "gap: connection_lost: 2 rows, 1 changes"
            program.send_signal(signal.SIGINT)
            assert (await ended(program))[0] == 130


async def test_many_rooms_are_on_several_sockets():
    """many_rooms.py joins more rooms than one connection may have, and shows a message of the last one."""
    with LocalServer(limits=ServerLimits(channels=100)) as server:
        async with running(server, "many_rooms.py", "102") as program:
            assert [await line_of(program) for _ in range(2)] == ["socket 0: 100 rooms", "socket 1: 2 rooms"]
            server.broadcast("room:101", "news", {"n": 1})
            assert await line_of(program) == "room:101: {'n': 1}"
            program.send_signal(signal.SIGINT)
            assert (await ended(program))[0] == 0


async def test_the_test_suite_of_the_small_app_passes():
    """The tests in testing/ pass with the fixtures as pytest finds them, and with warnings as errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:cacheprovider"),
        cwd=ROOT / "examples" / "testing",
        stdout=PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert re.search(r"\b8 passed", out.decode()) or (not find_spec("psycopg") and "7 passed" in out.decode())


def test_every_program_is_in_the_readme():
    """The README of the examples names each of them."""
    text = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `([\w.]+)", text, re.MULTILINE)) == PROGRAMS
