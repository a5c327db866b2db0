"""The program `supawire`."""

import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec

import pytest

from supawire.cli import COMMANDS, NEEDED, run
from tests.cli.conftest import supawire


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_help_lists_the_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    """`--help`, and no arguments, list every command with exit code 0."""
    assert run(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(f" {each.name} " in out for each in COMMANDS)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("serve", ["--host", "--port", "--strict", "--secret", "--show-keys", "--env-file", "--allow-host"]),
        ("demo", ["--url", "--key", "--env-file", "--speed", "--plain", "--patience"]),
    ],
)
def test_help_of_a_command_lists_its_options(
    command: str, options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """`supawire COMMAND --help` names each option, and the environment variable of a secret."""
    for name in ("SUPAWIRE_SECRET", "SUPAWIRE_KEY", "SUPAWIRE_SERVICE_KEY"):
        monkeypatch.setenv(name, "hidden" * 6)
    assert run([command, "--help"]) == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert [option for option in options if option not in out] == []
    assert "env var: SUPAWIRE_S" in out
    assert "hidden" not in out


def test_version_is_the_version_of_the_package():
    """`supawire --version` prints the version first, then Python, transport and what is installed of each extra."""
    done = supawire("--version")
    lines = done.out.splitlines()
    assert (done.code, done.err, lines[0]) == (0, "", f"supawire {version('supawire')}")
    assert lines[1].startswith(f"Python {sys.version.split()[0]} ")
    assert f"transport: aiohttp {version('aiohttp')}" in done.out
    if find_spec("aiofastnet") is not None:  # the tests are run with SUPAWIRE_FAST
        out = " ".join(done.out.split())
        assert f" on aiofastnet {version('aiofastnet')}" in out
        assert ("switched off by SUPAWIRE_FAST=0" in out) == (os.environ["SUPAWIRE_FAST"] == "0")
    assert f"\nextra server: pyjwt {version('pyjwt')}\n" in done.out


@pytest.mark.parametrize(
    ("arguments", "expected_text"),
    [
        (["srve"], '"serve"'),
        (["serve", "--prot", "1"], "--port"),
        (["serve", "--port", "many"], "--port"),
        (["serve", "--port", "70000"], "65535"),
        (["serve", "--secret", "short"], "32 bytes"),
        (["serve", "--env-file", "no/such/folder/env"], "no/such/folder"),
        (["demo", "--speed", "0"], "--speed"),
        (["demo", "--url", "http://127.0.0.1:1"], "--key"),
        (["demo", "--url", "nonsense", "--key", "k"], "https://"),
        (["demo", "--env-file", "missing.env"], "missing.env"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_is_one_line_on_stderr(
    arguments: list[str], expected_text: str, capsys: pytest.CaptureFixture[str]
):
    """The exit code is 2, the line names the correct usage, and stdout is empty."""
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("supawire: ") and err.count("\n") == 1
    assert expected_text in err
    assert "short" not in err


@pytest.mark.parametrize("words", [["send", "room", "event", "{}"], ["listen", "room", "--for"], ["serve", "--port"]])
def test_a_key_in_the_wrong_place_is_not_printed(words: list[str], capsys: pytest.CaptureFixture[str]):
    """The error of a wrong command line has `***` in its place."""
    key = f"sb_secret_{'a' * 22}_{'b' * 8}"
    assert run([*words, key]) == 2
    err = capsys.readouterr().err
    assert "***" in err and "aaaa" not in err


@pytest.mark.parametrize("package", ["cyclopts", "rich", "jwt", "dotenv", "tomli_w"])
def test_a_missing_extra_is_named(package: str):
    """The exit code is 2, and one line has the command that installs it."""
    code = f"import sys; sys.modules[{package!r}] = None; from supawire.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, "demo"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert NEEDED[package] in done.stderr
    assert "pip install 'supawire[cli]'" in done.stderr


def test_the_module_is_the_same_program():
    """`python -m supawire` and `python -m supawire.cli` work like `supawire`."""
    for module in ("supawire", "supawire.cli"):
        done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"supawire {version('supawire')}\n")


def test_the_list_of_commands_imports_none_of_them():
    """`supawire --help` imports neither a client nor the server, so that it is fast."""
    code = (
        "import sys; from supawire.cli import run; run(['--help']); "
        "sys.exit(str([name for name in ('aiohttp', 'supawire.aio', 'supawire.server') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]):
    """The script for a shell contains the commands and their options."""
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("serve", "env-file", "context"))
