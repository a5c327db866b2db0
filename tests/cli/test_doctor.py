"""`supawire doctor`."""

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from supawire.cli import run
from supawire.doctor import Finding, Outcome, Report, Step, diagnose
from supawire.errors import InvalidArgumentError
from supawire.options import Secret
from supawire.server import LocalServer


@pytest.fixture(name="server")
def _server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LocalServer:
    """A server that is not started; no settings come from outside."""
    monkeypatch.chdir(tmp_path)
    for name in ("SUPABASE_URL", "SUPABASE_KEY", "SUPAWIRE_DATABASE_URL", "SUPABASE_DB_URL", "SUPAWIRE_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    return LocalServer()


def test_a_healthy_server_is_exit_code_0(server: LocalServer, capsys: pytest.CaptureFixture[str]):
    """Each step has a line, and the last line is the summary; the key is not in it."""
    with server:
        assert run(["doctor", server.url, "--key", server.anon_key]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[-1].startswith("nothing wrong found in ")
    assert "pass    broadcast" in out
    assert server.anon_key not in out


def test_a_problem_is_exit_code_1_with_its_remedy(server: LocalServer, capsys: pytest.CaptureFixture[str]):
    """A problem has one line that says what is wrong and one that says what to do."""
    with server:
        assert run(["doctor", server.url, "--key", server.anon_key[:-5], "--topic", "room"]) == 1
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    at = lines.index("The key is incomplete: its end is missing.")
    assert lines[at + 1] == "-> Copy the whole key from the project's settings."


def test_json_is_one_object(server: LocalServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """`--json` prints the report on one line; URL and key may come from the environment."""
    with server:
        monkeypatch.setenv("SUPABASE_URL", server.url)
        monkeypatch.setenv("SUPABASE_KEY", server.anon_key)
        assert run(["doctor", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out)["healthy"] is True


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "no server is given"),
        (["http://127.0.0.1:1"], "--key"),
        (["http://127.0.0.1:1", "--key", "k", "--timeout", "0"], "timeout"),
        (["http://127.0.0.1:1", "--key", "k", "--filter", "a=eq.1"], "table"),
        (["http://127.0.0.1:1", "--key", "k", "--table", "*"], "one table"),
        (["http://127.0.0.1:1", "--key", "k", "--topic", ""], "topic"),
        (["http://127.0.0.1:1", "--key", "k", "--table", "a\0b"], "control characters"),
        (["http://127.0.0.1:1", "--key", "k", "--ca-file", "missing.pem"], "missing.pem"),
        (["http://127.0.0.1:1", "--key", "k", "--proxy", "ftp://x"], "proxy"),
        (["http://127.0.0.1:1", "--key", "k", "--event", "TRUNCATE"], "INSERT"),
    ],
    ids=lambda value: " ".join(value[2:]) if isinstance(value, list) else "",
)
def test_wrong_usage_is_exit_code_2(
    arguments: list[str], expected: str, server: LocalServer, capsys: pytest.CaptureFixture[str]
):
    """One line on stderr says what is wrong, and stdout is empty."""
    del server
    assert run(["doctor", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert expected in err


def test_an_empty_variable_is_no_database(
    server: LocalServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """With SUPABASE_DB_URL set to nothing, only the server is examined."""
    monkeypatch.setenv("SUPABASE_DB_URL", "")
    with server:
        assert run(["doctor", server.url, "--key", server.anon_key]) == 0
    assert "no database URL given" in capsys.readouterr().out


def test_a_report_has_no_control_characters():
    """Names and errors of the database cannot change what a terminal shows; values for programs are as they were."""
    finding = Finding("name", Outcome.FAIL, "policy \x1b[2J raises", "drop\ritem", "select '\x9b';")
    step = Step("rows", "row security", Outcome.FAIL, "\x1b]0;title\x07", 0.1, (finding,))
    report = Report("127.0.0.1:1", (step,), 0.1)
    assert all(line.isprintable() for _, line in report.lines())
    assert report.to_dict()["steps"][0]["findings"][0]["sql"] == "select '\x9b';"


def test_a_name_server_that_does_not_answer_takes_no_longer_than_the_time_limit(monkeypatch: pytest.MonkeyPatch):
    """The report is returned although the lookup has not ended."""
    ended, look_up = threading.Event(), socket.getaddrinfo

    def blocked(host: str, *arguments: object, **options: object) -> object:
        if host == "name.invalid":
            ended.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "no name server answers")
        return look_up(host, *arguments, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(socket, "getaddrinfo", blocked)
    reports: list[Report] = []
    thread = threading.Thread(target=lambda: reports.append(diagnose("http://name.invalid", "k", timeout=0.3)))
    thread.start()
    thread.join(20)
    waited = thread.is_alive()
    ended.set()
    thread.join()
    assert not waited
    assert [finding.name for finding in reports[0].step("dns").findings] == ["dns-no-answer"]


def test_a_database_url_that_is_none_does_not_show_its_password(server: LocalServer):
    """The error has an example in place of the text, which may contain a password."""
    pytest.importorskip("psycopg")
    with server, pytest.raises(InvalidArgumentError) as caught:
        diagnose(server.url, server.anon_key, database_url="postgresql://a:hunter2@[bad")
    assert "hunter2" not in str(caught.value)


def test_diagnose_blocks_also_where_an_event_loop_runs(server: LocalServer):
    """`diagnose` can be called in a notebook, whose event loop runs, and takes keys as `Secret`."""
    import asyncio

    async def cell() -> bool:
        return diagnose(server.url, Secret(server.anon_key)).healthy

    with server:
        assert asyncio.run(cell())


def test_diagnose_needs_no_extra():
    """The module is imported without the packages of the extras `cli`, `server` and `postgres`."""
    code = (
        "import sys\n"
        "for name in ('cyclopts', 'rich', 'jwt', 'psycopg'): sys.modules[name] = None\n"
        "from supawire.doctor import diagnose\n"
        "report = diagnose('http://127.0.0.1:1', 'k')\n"
        "assert not report.healthy and [f.name for f in report.findings][0] == 'tcp-refused'\n"
        "try: diagnose('http://127.0.0.1:1', 'k', database_url='postgresql://x')\n"
        "except Exception as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert "supawire[postgres]" in done.stdout
