"""Where commands take URL, key and token from."""

import os
import stat
import sys
from io import StringIO
from pathlib import Path

import pytest

from supawire.cli import contexts, run
from supawire.cli.connection import Connect, Place, Target, choose
from supawire.errors import InvalidArgumentError
from supawire.options import Secret

URL = "http://127.0.0.1:4000"
OTHER = "https://abc.supabase.co"

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def empty_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run each test in an empty folder, with no settings in the environment and an empty configuration folder."""
    for name in list(os.environ):
        if "SUPABASE_" in name or name.startswith("SUPAWIRE_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(contexts, "user_config_path", lambda *_, **__: tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def target(url: str, key: str, token: str | None = None) -> Target:
    return Target(url, Secret(key), None if token is None else Secret(token))


def test_the_first_place_with_a_value_gives_it():
    """Options come before the environment, and what they lack is taken from later places."""
    places = [Place("options", URL), Place("a", None, "first", "user"), Place("b", URL, "second")]
    assert choose(places) == target(URL, "first", "user")


def test_places_after_the_last_value_are_not_read():
    """Files are read only when URL or key are still missing."""

    def places():
        yield Place("options", URL, "key")
        pytest.fail("it was read")

    assert choose(places()) == target(URL, "key")


@pytest.mark.parametrize("same", ["http://127.0.0.1:4000/", "ws://127.0.0.1:4000/realtime/v1/websocket"])
def test_a_key_is_used_for_its_own_url_only(same: str):
    """A place that names another URL gives nothing; another form of the same URL is the same server."""
    assert choose([Place("options", URL), Place("a", OTHER, "other"), Place("b", same, "own")]) == target(URL, "own")
    with pytest.raises(InvalidArgumentError, match=r"no key is given for .*4000 \(a has a key for https://abc"):
        choose([Place("options", URL), Place("a", OTHER, "other")])


def test_a_key_without_a_url_does_not_go_to_the_url_of_a_later_place():
    """Otherwise the `.env` of a strange folder could name the server that gets the key of the environment."""
    places = [Place("options"), Place("environment", None, "mine"), Place(".env", OTHER, None)]
    with pytest.raises(InvalidArgumentError, match="no key is given for https://abc"):
        choose(places)
    assert choose([*places, Place("more", OTHER, "own")]) == target(OTHER, "own")
    assert choose([Place("options", None, "typed"), *places[1:]]) == target(OTHER, "typed")


def test_what_is_missing_is_named():
    """The error says where URL and key may be given."""
    with pytest.raises(InvalidArgumentError, match=r"no server is given.*SUPABASE_URL"):
        Connect().target()
    with pytest.raises(InvalidArgumentError, match=r"no key is given for http://127.0.0.1:4000.*--key"):
        Connect(url=URL).target()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SUPABASE_URL": URL, "SUPABASE_KEY": "k"}, target(URL, "k")),
        ({"SUPABASE_URL": URL, "SUPABASE_ANON_KEY": "k", "SUPABASE_SERVICE_ROLE_KEY": "s"}, target(URL, "k")),
        ({"SUPABASE_URL": URL, "SUPABASE_SECRET_KEY": "sb_secret_1"}, target(URL, "sb_secret_1")),
        ({"NEXT_PUBLIC_SUPABASE_URL": URL, "NEXT_PUBLIC_SUPABASE_PUBLISHABLE_KEY": "k"}, target(URL, "k")),
        ({"VITE_SUPABASE_URL": URL, "VITE_SUPABASE_ANON_KEY": "k"}, target(URL, "k")),
        ({"SUPAWIRE_URL": URL, "SUPAWIRE_KEY": "k", "SUPABASE_URL": OTHER, "SUPABASE_KEY": "x"}, target(URL, "k")),
        ({"SUPABASE_URL": URL, "SUPABASE_KEY": "k", "SUPABASE_TOKEN": "t"}, target(URL, "k", "t")),
        ({"SUPABASE_URL": "", "SUPAWIRE_URL": URL, "SUPAWIRE_KEY": "k"}, target(URL, "k")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("place", ["environment", "file", ".env"])
def test_variables_in_the_environment_and_in_files(
    variables: dict[str, str], expected: Target, place: str, monkeypatch: pytest.MonkeyPatch
):
    """The names of supawire and of Supabase are read; an empty value counts as missing."""
    connect = Connect()
    if place == "environment":
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
    else:
        file = Path(".env" if place == ".env" else "other.env")
        text = "".join(f'export {name} = "{value}" # comment\n' for name, value in variables.items())
        file.write_text(f"# keys\n\n{text}", encoding="utf-8")
        connect = Connect() if place == ".env" else Connect(env_file=file)
    assert connect.target() == expected


def test_a_command_that_needs_a_service_key_prefers_it(monkeypatch: pytest.MonkeyPatch):
    """With `service`, a service key is used instead of an anon key of the same place."""
    for name, value in {"SUPAWIRE_URL": URL, "SUPAWIRE_KEY": "a", "SUPAWIRE_SERVICE_KEY": "s"}.items():
        monkeypatch.setenv(name, value)
    assert Connect().target(service=True) == target(URL, "s")


def test_the_environment_comes_before_the_file(monkeypatch: pytest.MonkeyPatch):
    """A variable of the environment is used instead of the one in .env."""
    Path(".env").write_text(f"SUPABASE_URL={URL}\nSUPABASE_KEY=file\n", encoding="utf-8")
    monkeypatch.setenv("SUPABASE_URL", URL)
    monkeypatch.setenv("SUPABASE_KEY", "environment")
    assert Connect().target() == target(URL, "environment")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"SUPABASE_URL=http://x\nSUPABASE_KEY='not closed\n", "line 2"),
        (b"SUPABASE_URL http://x\n", "line 1"),
        (b"SUPABASE_KEY=\xff\xfe\n", "not UTF-8"),
        (b"A=1\n" * 300_000, "larger than"),
        (b"SUPABASE_URL=nonsense\nSUPABASE_KEY=k", "the URL of .env: the URL must begin with"),
        (b"SUPABASE_URL=http://x\nSUPABASE_KEY=eyJcut.in", "not a valid JWT"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_a_broken_file_is_a_clear_error(content: bytes, expected: str):
    """The error names the file or the value, and no part of a key."""
    Path(".env").write_bytes(content)
    with pytest.raises(InvalidArgumentError) as caught:
        Connect().target()
    assert expected in str(caught.value)
    assert "not closed" not in str(caught.value) and "eyJcut" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.env", "."])
def test_a_file_that_cannot_be_read_is_named(name: str):
    """A missing file and a folder are reported with their name."""
    with pytest.raises(InvalidArgumentError, match=rf"--env-file: {name} cannot be read"):
        Connect(env_file=Path(name)).target()


def test_settings_have_no_key_in_their_repr():
    """Keys and tokens are in no repr."""
    connect = Connect(url=URL, key="secret-key", token="secret-token")
    shown = repr([connect, connect.target(), Place("x", URL, "secret-key", "secret-token")])
    assert "secret-" not in shown


# --- contexts


def test_a_context_is_added_listed_used_and_removed(capsys: Capture, monkeypatch: pytest.MonkeyPatch):
    """The file is readable by its owner only, and no output contains a key."""
    assert run(["context", "add", "dev", "--url", URL, "--key", "sb_secret_abc", "--token", "user"]) == 0
    assert Connect(context="dev").target() == target(URL, "sb_secret_abc", "user")
    monkeypatch.setenv("SUPAWIRE_CONTEXT", "dev")
    assert Connect().target() == target(URL, "sb_secret_abc", "user")
    if sys.platform != "win32":
        assert stat.S_IMODE(contexts.path().stat().st_mode) == 0o600
    assert run(["context", "list"]) == 0
    assert run(["context", "list", "--json"]) == 0
    out = capsys.readouterr().out
    assert f'{{"name":"dev","url":"{URL}","key_kind":"secret key","has_token":true}}\n' in out
    assert "sb_secret_abc" not in out
    assert run(["context", "remove", "dev"]) == 0
    assert contexts.load() == {}


def test_the_key_of_a_context_may_come_from_a_pipe(monkeypatch: pytest.MonkeyPatch):
    """Without --key it is read from stdin."""
    monkeypatch.setattr("sys.stdin", StringIO("sb_publishable_1\n"))
    assert run(["context", "add", "dev", "--url", URL]) == 0
    assert contexts.load()["dev"].key == "sb_publishable_1"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["add", "a b", "--url", URL, "--key", "k"], "letters, digits"),
        (["add", "a", "--url", "nonsense", "--key", "k"], "https://"),
        (["add", "a", "--url", URL, "--key", "eyJcut.in"], "key is not a valid JWT"),
        (["remove", "b"], "no context b; existing: there is none yet"),
        (["add"], "NAME"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_contexts_are_refused(words: list[str], expected: str, capsys: Capture):
    """Exit code 2 and one line; nothing is saved."""
    assert run(["context", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert expected in err and "eyJcut" not in err
    assert contexts.load() == {}


@pytest.mark.parametrize(
    ("text", "mode", "expected"),
    [
        ('version = 1\n[contexts.a]\nurl = "x"\nkey = "sb_secret_hidden', 0o600, "not valid TOML"),
        ("version = 2\n", 0o600, "has version 2; this supawire reads version 1"),
        ('version = 1\n[contexts.a]\nurl = "x"\n', 0o600, "required field `key`"),
        ("version = 1\n", 0o644, "chmod 600"),
    ],
)
def test_a_broken_file_of_contexts_is_refused(text: str, mode: int, expected: str, capsys: Capture):
    """Exit code 2 and one line that names the file and the problem."""
    if mode != 0o600 and sys.platform == "win32":
        pytest.skip("Windows has no such modes")
    contexts.path().parent.mkdir()
    contexts.path().write_text(text, encoding="utf-8")
    contexts.path().chmod(mode)
    assert run(["context", "list"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "contexts.toml" in err
    assert expected in err and "hidden" not in err
