"""The command `supawire demo`."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import supawire as supawire_package
from supawire.cli import run
from supawire.cli.demo import OwnBackend
from supawire.cli.demo.checks import Checks, Content
from supawire.cli.demo.tour import CHANGES, STEPS, row_content
from supawire.selectors import broadcast, changes, presence
from supawire.server import LocalServer
from tests.cli.conftest import ENVIRONMENT, SCRIPT, Serving, supawire
from tests.cli.proxy import Proxy, Tamper
from tests.conftest import ROOT

Start = Callable[..., Serving]
Capture = pytest.CaptureFixture[str]

ALL_IS_WELL = "Everything that was sent arrived, and nothing else: 26 of 26"


def test_the_plain_tour_prints_every_step():
    """In a pipe it ends with exit code 0 and prints whole lines without escape codes."""
    done = supawire("demo")
    assert (done.code, done.err) == (0, "")
    assert "\x1b" not in done.out
    for line in (
        '    bob = await supawire.connect_async(url, key, protocol="1.0.0")',
        "  Alice     ok connected, protocol 2.0.0 (",
        "  Bob       ok connected, protocol 1.0.0 (",
        "  Bob       <- chat {'text': 'Hello, room'} (after ",
        "  Alice     ok confirmed by the server (",
        "  Dashboard <- ink b'\\x003f\\x99\\xcc\\xff' (after ",
        "  Dashboard <- join alice {'name': 'Alice', 'mood': 'curious'} (after ",
        "  Dashboard <- update alice {'name': 'Alice', 'mood': 'delighted'} (after ",
        "  Dashboard <- leave bob {'name': 'Bob', 'mood': 'calm'} (after ",
        "  Dashboard <- Insert items id=1 name='Lamp' price=Decimal('19.90') added_at=datetime(2026, 5, 4, 12, 30, tz",
        "  Bob       <- Insert items id=9007199254740993 name='Desk' price=Decimal('249.00')",
        "  Dashboard <- Update items id=1 price=Decimal('17.50') (was Decimal('19.90')) (after ",
        "  Dashboard <- Delete items id=1 (after ",
        "  round trip of confirmed broadcasts: median ",
    ):
        assert f"\n{line}" in done.out, line
    assert not re.search(r"Bob +<- ink|Bob +<- Insert items id=1 ", done.out)
    assert done.out.splitlines()[-1].startswith(ALL_IS_WELL)


def test_the_page_of_the_demo_shows_its_output(capsys: Capture):
    """The excerpt is one of a real tour, except for times and the order of two clients."""
    page = (ROOT / "docs" / "demo.md").read_text(encoding="utf-8")
    excerpt = next(block for block in re.findall(r"```text\n(.*?)```", page, re.DOTALL) if block.startswith("== 3/6"))
    assert run(["demo"]) == 0
    shown, printed = (re.sub(r"[\d.]+ ms", "# ms", text).splitlines() for text in (excerpt, capsys.readouterr().out))
    begin = printed.index(shown[0])
    assert sorted(printed[begin : begin + len(shown)]) == sorted(shown)


@pytest.mark.slow
def test_the_tour_of_a_running_server_is_the_same(serving: Start, tmp_path: Path):
    """Against `supawire serve`, found by its env file, changes included."""
    path = tmp_path / "dev.env"
    server = serving("--env-file", str(path))
    done = supawire("demo", "--env-file", str(path))
    assert done.code == 0, done.out
    assert f"Server: {server.url}, already running" in done.out
    assert re.search(
        r"  Dashboard <- Update items-\w+ id=1 price=Decimal\('17.50'\) \(was Decimal\('19.90'\)\)", done.out
    )
    assert ALL_IS_WELL in done.out
    assert "eyJ" not in done.out


@pytest.mark.slow
def test_two_tours_on_one_server_do_not_interfere(serving: Start, tmp_path: Path):
    """Both receive exactly what they sent."""
    path = tmp_path / "dev.env"
    serving("--env-file", str(path))
    command = [str(SCRIPT), "demo", "--env-file", str(path)]
    both = [subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=30)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all(ALL_IS_WELL in output for output in outputs)


def test_the_tour_skips_changes_that_the_key_does_not_permit(capsys: Capture):
    """The step prints why it is skipped; everything else arrives."""
    with LocalServer() as server:
        assert run(["demo", "--url", server.url, "--key", server.anon_key]) == 0
    out = capsys.readouterr().out
    assert "skipped: /dev/emit answered 404" in out
    assert "nothing else: 21 of 21" in out


@pytest.mark.parametrize("name", ["SUPAWIRE_KEY", "SUPAWIRE_SERVICE_KEY"])
def test_the_key_may_come_from_the_environment(name: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch):
    """An empty variable is ignored."""
    with LocalServer() as server:
        for each in ("SUPAWIRE_KEY", "SUPAWIRE_SERVICE_KEY"):
            monkeypatch.setenv(each, server.anon_key if each == name else "")
        assert run(["demo", "--url", server.url]) == 0
    assert server.anon_key not in capsys.readouterr().out


def test_a_refused_key_is_one_line(capsys: Capture):
    """The command exits with code 1 and one line with the reason, without the key."""
    with LocalServer() as server, LocalServer() as other:
        assert run(["demo", "--url", server.url, "--key", other.anon_key]) == 1
    out, err = capsys.readouterr()
    assert "401" in err and err.count("\n") == 1
    assert "Result" not in out
    assert other.anon_key not in out + err


def test_no_server_is_one_line(capsys: Capture):
    """The command exits with code 1 and one line with the URL."""
    with LocalServer() as server:
        url = server.url
    assert run(["demo", "--url", url, "--key", server.anon_key]) == 1
    assert capsys.readouterr().err == f"supawire: {url} does not answer. Is a server running there?\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    """Run one `supawire serve` for all tests that do not change it."""
    serving = Serving("--show-keys")
    yield serving
    serving.end()


def once(part: bytes, then: Callable[[bytes], list[bytes]]) -> Tamper:
    """Return a function that changes the first frame containing these bytes."""
    pending = [part]

    def tamper(payload: bytes) -> list[bytes]:
        if pending and pending[0] in payload:
            pending.clear()
            return then(payload)
        return [payload]

    return tamper


@pytest.mark.parametrize(
    ("tamper", "expected_patterns"),
    [
        (once(b"Hello, room", lambda it: []), [r"not arrived \(1\):\n  (Bob|Dashboard): broadcast chat .*Hello, room"]),
        (once(b"Hello, room", lambda it: [it, it]), [r"but not sent \(1\):\n  (Bob|Dashboard): broadcast chat"]),
        (
            once(b"Hello, room", lambda it: [it.replace(b"Hello", b"Adieu")]),
            [r"not arrived \(1\):\n.*Hello, room", r"but not sent \(1\):\n.*Adieu, room"],
        ),
        (once(b"\xcc\xff", lambda it: []), [r"not arrived \(1\):\n  Dashboard: broadcast ink b'"]),
        (once(b'"delighted"', lambda it: []), [r"not arrived \(\d\):\n  \w+: presence update alice .*delighted"]),
        (once(b'"price":19.90', lambda it: []), [r"not arrived \(1\):\n  Dashboard: changes Insert items-\w+ id=1 "]),
        (
            once(b'"price":249.00', lambda it: [it.replace(b"249.00", b"249.0")]),
            [r"not arrived \(1\):\n  (Bob|Dashboard): changes Insert .*249\.00", r"but not sent \(1\):\n.*249\.0'"],
        ),
    ],
    ids=["lost", "doubled", "altered", "lost bytes", "lost presence", "lost change", "lost digit"],
)
def test_a_broken_delivery_fails_the_tour(
    server: Serving, capsys: Capture, tamper: Tamper, expected_patterns: list[str]
):
    """One lost, doubled or altered frame gives exit code 1, and the result names the item and its receiver."""
    with Proxy(int(server.url.rpartition(":")[2]), tamper) as proxy:
        arguments = ["demo", "--url", proxy.url, "--key", server.exported("SUPAWIRE_SERVICE_KEY"), "--patience", "0.3"]
        assert run(arguments) == 1
    out = capsys.readouterr().out
    result = out[out.index("== Result ==") :]
    for pattern in expected_patterns:
        assert re.search(pattern, result), result
    assert re.search(r"FAILED: \d+ of 26 arrived\.", result)


def test_a_step_that_raises_fails_the_tour(server: Serving, capsys: Capture):
    """The tour ends there with exit code 1, and prints what arrived and the error."""

    def tamper(payload: bytes) -> list[bytes]:
        if b'"phx_reply"' not in payload or b"table:items" not in payload:
            return [payload]
        frame = json.loads(payload)
        frame[4] = {"status": "error", "response": {"reason": "Unauthorized: You do not have permissions to read"}}
        return [json.dumps(frame).encode()]

    with Proxy(int(server.url.rpartition(":")[2]), tamper) as proxy:
        arguments = ["demo", "--url", proxy.url, "--key", server.exported("SUPAWIRE_SERVICE_KEY"), "--patience", "0.3"]
        assert run(arguments) == 1
    out = capsys.readouterr().out
    assert re.search(r"Errors \(\d\):\n(.*\n)*  the tour ended early: .*Unauthorized", out), out
    assert "FAILED: 19 of 19 arrived." in out


def in_terminal(*arguments: str, interrupt_at: bytes | None = None, **environment: str) -> tuple[int, str]:
    """Return the exit code and the output in a terminal of 80 columns; press Ctrl-C after these bytes."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [str(SCRIPT), "demo", *arguments],
        env=ENVIRONMENT | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40"} | environment,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    text = b""
    try:
        while data := _read(leader):
            text += data
            if interrupt_at is not None and interrupt_at in text:
                process.send_signal(signal.SIGINT)
                interrupt_at = None
        return process.wait(timeout=30), text.decode()
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def _read(leader: int) -> bytes:
    try:
        return os.read(leader, 4096)
    except OSError:  # Linux raises it when the other side is closed
        return b""


COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CODE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.mark.slow
def test_a_terminal_has_colours_and_a_status_line():
    """No line is wider than the terminal."""
    code, text = in_terminal("--speed", "20")
    assert code == 0
    assert re.search(r"\x1b\[36m +Alice", text)
    assert re.search(r"\d/6 \w+ \| sent \d+ \| arrived \d+ of \d+", CODE.sub("", text))
    assert ALL_IS_WELL in CODE.sub("", text)
    assert max(len(line) for line in re.split(r"[\r\n]+", CODE.sub("", text))) <= 80


@pytest.mark.slow
def test_no_color_applies_in_a_terminal():
    """With NO_COLOR the tour has no colours and no bold."""
    code, text = in_terminal("--speed", "20", NO_COLOR="1")
    assert code == 0
    assert not COLOUR.search(text)
    assert "| arrived" in text


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"arguments": ("--plain",)}, {"TERM": "dumb"}], ids=["--plain", "TERM=dumb"])
def test_plain_output_in_a_terminal(how: dict[str, Any]):
    """--plain, and a dumb terminal, get the same output as a pipe."""
    code, text = in_terminal(*how.pop("arguments", ()), **how)
    assert code == 0
    assert "\x1b" not in text
    assert "== Result ==" in text


def test_ctrl_c_ends_the_tour_at_once():
    """The command exits with code 130, one line, a visible cursor, and no traceback."""
    code, text = in_terminal("--speed", "4", interrupt_at=b"broadcast chat")
    assert code == 130
    assert "supawire: interrupted" in text
    assert "Traceback" not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_an_ascii_output_gets_ascii_only():
    """The tour is complete without characters that the encoding lacks."""
    done = supawire("demo", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert done.code == 0
    assert done.out.isascii()
    assert "?" not in done.out


# --- what is shown


def test_shown_code_fits_into_80_columns():
    """The code fits also with a longer topic."""
    for code in (*STEPS, f"{CHANGES}\n{OwnBackend.emits}"):
        for line in code.replace("room:demo", "room:demo-1234").replace("items", "items-1234").splitlines():
            assert len(line) <= 76, line


async def test_shown_code_runs():
    """The code of all steps, one after the other, does what the tour shows."""
    shown: list[Any] = []
    with LocalServer() as server:
        names: dict[str, Any] = {
            "supawire": supawire_package,
            "url": server.url,
            "key": server.anon_key,
            "show": shown.append,
            "server": server,
            "broadcast": broadcast,
            "changes": changes,
            "presence": presence,
        }
        body = "\n".join([*STEPS[:-1], OwnBackend.emits.replace('"id": 1', '"price": 100, "id": 1'), STEPS[-1]])
        text = "\n    ".join(body.splitlines())
        exec(f"async def steps():\n    {text}\n    await bob.close()\n    return alice, bob, seconds", names)
        alice, bob, seconds = await asyncio.wait_for(names["steps"](), 10)
    assert (alice.state, bob.state) == ("closed", "closed")
    assert seconds > 0
    assert {type(event).__name__ for event in shown} >= {"PresenceJoin", "PresenceLeave", "PresenceSync"}


# --- the books


def test_values_are_compared_exactly():
    """Values of different types or scales differ; the order of keys does not matter."""
    assert Content("a", {"x": 1, "y": [2]}) == Content("a", {"y": [2], "x": 1})
    for one, other in ((1, True), (1, 1.0), (Decimal("19.9"), Decimal("19.90")), ([1], [True]), (None, "None")):
        assert Content("a", {"x": one}) != Content("a", {"x": other})
    assert Content("a", 1) != Content("b", 1)


async def test_each_expected_item_arrives_once():
    """A second arrival is surplus, and so is one at another client."""
    checks = Checks(patience=0.01)
    checks.send("broadcast", Content("chat", 1), ["Bob", "Dashboard"])
    assert checks.arrive("Bob", "broadcast", Content("chat", 1)) is not None
    assert checks.arrive("Bob", "broadcast", Content("chat", 1)) is None
    assert checks.arrive("Alice", "broadcast", Content("chat", 1)) is None
    assert [str(item) for item in checks.missing] == ["Dashboard: broadcast chat 1"]
    assert [item.who for item in checks.surplus] == ["Bob", "Alice"]
    assert not checks.complete
    assert (checks.expected_count(), checks.arrivals(), checks.arrivals("presence")) == (2, 1, 0)


async def test_the_timeout_is_shared_by_all_missing_items():
    """When it is used up, the next wait is short."""
    checks = Checks(patience=0.05)
    items = checks.send("broadcast", Content("chat"), ["Bob"])
    for _ in range(3):
        await checks.settle(items)
    assert not checks.complete
    checks.arrive("Bob", "broadcast", Content("chat"))
    await checks.settle(items)
    assert checks.complete


def test_an_update_shows_changed_columns_and_compares_all():
    """The text has old and new values of changed columns; updates that differ elsewhere are not equal."""
    row = {"id": 1, "name": "Lamp", "price": 2}
    content = row_content("UPDATE", "items", {**row, "price": 3}, row)
    assert str(content) == "Update items id=1 price=3 (was 2)"
    assert content != row_content("UPDATE", "items", {**row, "price": 3, "name": "Light"}, row)
    assert content != row_content("UPDATE", "items", {**row, "price": 3}, {"id": 1, "price": 2})
