"""The command `supawire serve`."""

import os
import pty
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from supawire.cli import env_files, run
from supawire.cli.banner import banner
from supawire.cli.output import make_console
from supawire.cli.settings import ServeSettings, url_of
from supawire.server import LocalServer
from tests.cli.conftest import ENVIRONMENT, SCRIPT, Serving
from tests.conftest import ROOT

SECRET = "a-secret-for-development-that-is-long-enough"
KEY_LIKE = re.compile(r"eyJ\w+\.|sb_[a-z]+_\w")

Start = Callable[..., Serving]


def open_socket(url: str, key: str) -> ClientConnection:
    return connect(f"{url.replace('http', 'ws')}/socket/websocket?vsn=2.0.0&apikey={key}", proxy=None)


def post(url: str, key: str, data: bytes) -> int:
    http_request = urllib.request.Request(url, data, {"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(http_request) as answer:
            return answer.status
    except HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_closes_sockets_with_1012(serving: Start, number: int):
    """On SIGTERM and SIGINT, as in a deployment of the real server; the exit code is 0."""
    server = serving("--show-keys")
    with open_socket(server.url, server.exported("SUPAWIRE_KEY")) as client:
        client.send('[null,"1","phoenix","heartbeat",{}]')
        assert '"status":"ok"' in str(client.recv())
        done = server.stop(number)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    assert (done.code, done.err) == (0, "")
    assert "Stopped." in done.out


@pytest.mark.slow
def test_keys_are_printed_on_request_only(serving: Start):
    """The banner has no key and no secret, and names the option that prints them."""
    server = serving(SUPAWIRE_SECRET=SECRET)
    assert not KEY_LIKE.search(server.banner)
    assert SECRET not in server.banner
    assert "--show-keys" in server.banner and "--env-file" in server.banner
    assert not KEY_LIKE.search(server.stop().out)


@pytest.mark.slow
def test_printed_keys_work(serving: Start):
    """With --show-keys the banner has lines for a shell; the anon key opens a socket, the service key changes rows."""
    server = serving("--show-keys")
    assert server.exported("SUPAWIRE_URL") == server.url
    with open_socket(server.url, server.exported("SUPAWIRE_KEY")):
        pass
    for name, kind in (("SUPAWIRE_PUBLISHABLE_KEY", "sb_publishable_"), ("SUPAWIRE_SECRET_KEY", "sb_secret_")):
        assert server.exported(name).startswith(kind)
        query = {"apikey": server.exported(name), "vsn": "2.0.0"}
        address = server.url.replace("http", "ws") + "/realtime/v1/websocket?" + urlencode(query)
        with connect(address):
            pass
    change = b'{"type":"INSERT","table":"users","record":{"id":1}}'
    assert post(f"{server.url}/dev/emit", server.exported("SUPAWIRE_SERVICE_KEY"), change) == 202
    assert post(f"{server.url}/dev/emit", server.exported("SUPAWIRE_KEY"), change) == 403


@pytest.mark.slow
def test_a_fixed_secret_keeps_keys_valid(serving: Start):
    """A key of the secret is valid for a server with that secret, and for no other."""
    key = LocalServer(secret=SECRET).anon_key
    with open_socket(serving(SUPAWIRE_SECRET=SECRET).url, key):
        pass
    with pytest.raises(InvalidStatus) as refused, open_socket(serving().url, key):
        pass
    assert refused.value.response.status_code == 401


def test_the_env_file_is_private_and_removed_at_the_end(serving: Start, tmp_path: Path):
    """--env-file writes URL and keys, which only the owner can read; keys are not printed."""
    path = tmp_path / "dev.env"
    server = serving("--env-file", str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    values = env_files.read(path)
    assert values["SUPAWIRE_URL"] == server.url
    with open_socket(server.url, values["SUPAWIRE_KEY"]):
        pass
    assert not KEY_LIKE.search(server.banner)
    assert server.stop().code == 0
    assert not path.exists()


def test_the_env_file_can_be_read_by_a_shell(tmp_path: Path):
    """The command of the banner sets the variables."""
    path = tmp_path / "dev.env"
    env_files.EnvFile(path).write({"SUPAWIRE_URL": "http://127.0.0.1:4000", "SUPAWIRE_KEY": "a.b-c_d"})
    command = f'set -a; . {path}; set +a; env | grep -E "^SUPAWIRE_(URL|KEY)=" | sort'
    done = subprocess.run(["sh", "-c", command], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout == "SUPAWIRE_KEY=a.b-c_d\nSUPAWIRE_URL=http://127.0.0.1:4000\n"


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_another_file_is_not_overwritten(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]):
    """A file, link or folder that supawire did not write stays unchanged; exit code 2."""
    path, other = tmp_path / ".env", tmp_path / "other"
    other.write_text(env_files.FIRST_LINE + "\nPRECIOUS=1\n", encoding="utf-8")
    if kind == "file":
        path.write_text("PRECIOUS=1\n", encoding="utf-8")
    elif kind == "link":
        path.symlink_to(other)
    else:
        path.mkdir()
    assert run(["serve", "--port", "0", "--env-file", str(path)]) == 2
    assert "not written by supawire" in capsys.readouterr().err
    assert "PRECIOUS=1" in other.read_text(encoding="utf-8")
    assert kind != "file" or path.read_text(encoding="utf-8") == "PRECIOUS=1\n"


def test_no_other_file_of_the_folder_is_replaced(tmp_path: Path):
    """Only the env file is new after writing; a file with a similar name stays."""
    (tmp_path / "dev.env.new").write_text("PRECIOUS=1\n", encoding="utf-8")
    env_files.EnvFile(tmp_path / "dev.env").write({"SUPAWIRE_URL": "http://127.0.0.1:1"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dev.env", "dev.env.new"]
    assert (tmp_path / "dev.env.new").read_text(encoding="utf-8") == "PRECIOUS=1\n"


def test_the_env_file_of_a_killed_server_is_overwritten(tmp_path: Path):
    """A file that was changed meanwhile is not removed."""
    path = tmp_path / "dev.env"
    env_files.EnvFile(path).write({"SUPAWIRE_URL": "http://127.0.0.1:1", "SUPAWIRE_KEY": "old"})
    second = env_files.EnvFile(path)
    second.write({"SUPAWIRE_URL": "http://127.0.0.1:2", "SUPAWIRE_KEY": "new"})
    assert env_files.read(path)["SUPAWIRE_KEY"] == "new"
    path.write_text("mine now", encoding="utf-8")
    second.remove()
    assert path.read_text(encoding="utf-8") == "mine now"


def test_a_port_in_use_is_one_line(capsys: pytest.CaptureFixture[str]):
    """The exit code is 1, and the line names the solution."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run(["serve", "--port", str(taken.getsockname()[1])]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "--port" in err and err.count("\n") == 1


CURL = re.compile(r"^ *curl -X POST (?P<url>\S+) (?P<rest>(?:.*\\\n)+.*)$", re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["banner", "page"])
def test_the_printed_command_changes_a_row(serving: Start, where: str):
    """The command of the banner and the one of the page each change a row."""
    server = serving("--show-keys")
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    found = CURL.search(server.banner if where == "banner" else page)
    assert found
    arguments = shlex.split(found["rest"].replace("\\\n", ""))
    header, data = arguments[arguments.index("-H") + 1], arguments[arguments.index("-d") + 1]
    assert header == "Authorization: Bearer $SUPAWIRE_SERVICE_KEY"
    url = found["url"] if where == "banner" else found["url"].replace("http://127.0.0.1:4000", server.url)
    assert post(url, server.exported("SUPAWIRE_SERVICE_KEY"), data.encode()) == 202


def test_the_printed_python_client_receives_its_broadcast(serving: Start, tmp_path: Path):
    """The code of the banner runs unchanged."""
    path = tmp_path / "dev.env"
    server = serving("--env-file", str(path))
    _, _, after = server.banner.partition("A client in Python:\n")
    block = re.match(r"(?:\n|    .*\n)+", after)
    assert block
    script = textwrap.dedent(block[0])
    with subprocess.Popen(
        [sys.executable, "-u", "-c", script], env=ENVIRONMENT | env_files.read(path), stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "typing {'user': 'alice'}\n"
        client.kill()


def make_settings(host: str = "127.0.0.1", *, strict: bool = False, allow_host: tuple[str, ...] = ()) -> ServeSettings:
    return ServeSettings(host, 0, strict, SECRET, fixed=True, show_keys=False, env_file=None, allow_host=allow_host)


@pytest.mark.parametrize(
    ("host", "local", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:4000"),
        ("127.0.0.2", True, "http://127.0.0.2:4000"),
        ("localhost", True, "http://localhost:4000"),
        ("::1", True, "http://[::1]:4000"),
        ("0.0.0.0", False, "http://127.0.0.1:4000"),
        ("::", False, "http://[::1]:4000"),
        ("192.0.2.7", False, "http://192.0.2.7:4000"),
        ("dev.example", False, "http://dev.example:4000"),
    ],
)
def test_the_development_route_needs_a_loopback_address(host: str, local: bool, url: str):
    """The URL is one that clients can use."""
    assert make_settings(host).options().dev is local
    assert url_of(host, 4000) == url
    values = {"SUPAWIRE_URL": url, "SUPAWIRE_KEY": "", "SUPAWIRE_SERVICE_KEY": ""}
    console = make_console()
    with console.capture() as shown:
        banner(console, make_settings(host), values)
    assert url in shown.get()
    assert ("/dev/emit" in shown.get()) is local
    assert ("Other machines" in shown.get()) is not local


def test_allowed_host_names():
    """--allow-host and --host add the project of these names, and `0.0.0.0` adds none."""
    usual = make_settings().options().tenants
    assert make_settings("0.0.0.0").options().tenants == usual
    named = make_settings("192.0.2.7", allow_host=("host.docker.internal", "realtime:4000"))
    assert named.options().tenants - usual == {"192", "host", "realtime"}


@pytest.mark.slow
def test_an_ipv6_address_works(serving: Start):
    """On ::1 the printed URL opens a socket, and the development route answers."""
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("not run: this machine has no IPv6")
    server = serving("--host", "::1", "--show-keys")
    assert server.url.startswith("http://[::1]:")
    with open_socket(server.url, server.exported("SUPAWIRE_KEY")):
        pass
    assert post(f"{server.url}/dev/emit", server.exported("SUPAWIRE_SERVICE_KEY"), b"") == 422


def test_strict_applies_the_limits_of_a_self_hosted_server():
    """Without it the server answers at once."""
    assert make_settings().options().timings.join_error == 0 and make_settings().options().limits.channels is None
    assert (
        make_settings(strict=True).options().timings.join_error == 5
        and make_settings(strict=True).options().limits.channels == 100
    )


def shown_in_terminal(**environment: str) -> str:
    """Return the output of `supawire serve` in a terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [SCRIPT, "serve", "--port", "0"], env=ENVIRONMENT | {"TERM": "xterm-256color"} | environment, stdout=follower
    )
    os.close(follower)
    text = b""
    try:
        while b"Ctrl-C stops it" not in text:
            text += os.read(leader, 4096)
    finally:
        process.terminate()
        process.wait()
        os.close(leader)
    return text.decode()


@pytest.mark.slow
def test_colours_are_for_terminals_only(serving: Start):
    """A terminal gets colours and whole lines, unless NO_COLOR is set; a pipe gets no escape codes."""
    terminal = shown_in_terminal()
    assert "\x1b[" in terminal
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal).splitlines()
    assert max(map(len, lines)) <= 80 and any(line.endswith('"record": {"id": 1}}\'') for line in lines)
    assert "\x1b[" not in shown_in_terminal(NO_COLOR="1")
    assert "\x1b" not in serving().banner


@pytest.mark.slow
def test_the_inspector_is_off_when_other_machines_can_connect(serving: Start):
    """The page is at the server's address; not with --no-inspector or on other addresses than loopback."""

    def page(server: Serving) -> int:
        try:
            with urllib.request.urlopen(server.url) as answer:
                return answer.status
        except HTTPError as error:
            with error:
                return error.code

    shown = serving()
    assert page(shown) == 200 and f"{shown.url}/ shows in a browser" in shown.banner
    assert page(serving("--no-inspector")) == 404
    assert page(serving("--host", "0.0.0.0")) == 404
