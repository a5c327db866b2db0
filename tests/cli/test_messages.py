"""`supawire send`, `publish`, `presence`, `token` and `trigger`."""

import io
import json
import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer
from typing import Any

import jwt
import pytest

from supawire import LocalServer, broadcast, changes, connect
from supawire._values.encode import inferred_type
from supawire.cli import env_files, run
from supawire.cli.plausible import type_name, value_for
from tests.cli.conftest import Serving

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer() as server:
        yield server


@pytest.fixture(scope="module")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run one `supawire serve` without a database, and return the file with its keys."""
    path = tmp_path_factory.mktemp("serve") / "dev.env"
    serving = Serving("--env-file", str(path))
    yield path
    serving.end()


def command(server: LocalServer, *words: str, key: str = "") -> int:
    return run([*words, "--url", server.url, "--key", key or server.anon_key])


def objects(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("word", ["send", "publish"])
def test_a_message_reaches_listeners(server: LocalServer, word: str, capsys: Capture):
    """It is delivered, and the command says that the server confirmed it."""
    with connect(server.url, server.anon_key) as client, client.channel("room:1") as room:
        messages = room.listen(broadcast("typing"))
        assert command(server, word, "room:1", "typing", '{"user": "alice", "n": 1}') == 0
        assert messages.get(timeout=5).payload == {"user": "alice", "n": 1}
    assert capsys.readouterr().out.startswith("typing sent to room:1: confirmed by the server (")


@pytest.mark.parametrize("word", ["send", "publish"])
def test_a_payload_from_stdin_or_a_file(
    server: LocalServer, word: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """`-` reads JSON from stdin and `@FILE` from a file; without a payload it is an empty object."""
    file = tmp_path / "payload.json"
    file.write_text('{"from": "file"}', encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"from": "stdin"}')))
    with connect(server.url, server.anon_key) as client, client.channel("room:2") as room:
        messages = room.listen(broadcast())
        for payload in ("-", f"@{file}", None):
            assert command(server, word, "room:2", "e", *([] if payload is None else [payload]), "--json") == 0
        payloads = [messages.get(timeout=5).payload for _ in range(3)]
    assert payloads == [{"from": "stdin"}, {"from": "file"}, {}]
    [first, *_] = objects(capsys.readouterr().out)
    assert (first["kind"], first["topic"], first["event"], first["acked"]) == ("sent", "room:2", "e", True)


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["send", "t", "e", "{nope"], 2, "not JSON"),
        (["send", "t", "e", "@missing.json"], 2, "missing.json cannot be read"),
        (["send", "t", ""], 2, "event"),
        (["publish", "t", "e", "[1]"], 2, "JSON object"),
        (["publish", "t", "e", "--id", "x"], 2, "UUID"),
        (["send", "t", "e", "--private"], 1, "policy"),
        (["presence", "t", "--private"], 1, "policy"),
        (["presence", "t", "--for", "x"], 2, "30s"),
        (["presence", "t", "--for", "1s"], 2, "--watch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line(server: LocalServer, words: list[str], code: int, expected: str, capsys: Capture):
    """Wrong arguments have exit code 2, refusals by the server 1."""
    assert command(server, *words) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert expected in err


@pytest.mark.parametrize(
    "words",
    [["listen", "t"], ["send", "t", "e"], ["publish", "t", "e"], ["presence", "t"], ["presence", "t", "--watch"]],
)
@pytest.mark.parametrize("wrong", ["host", "key"])
def test_an_unreachable_host_and_a_wrong_key_are_one_line(
    server: LocalServer, words: list[str], wrong: str, capsys: Capture
):
    """Exit code 1, soon, without the key."""
    with LocalServer() as other:
        url, key = other.url, other.anon_key
    assert run([*words, "--url", url if wrong == "host" else server.url, "--key", key]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert ("401" if wrong == "key" else "refused") in err
    assert key not in err and "gave up" not in err


# --- presence


def test_who_is_present(server: LocalServer, capsys: Capture):
    """Everyone with payload, as a table and as JSON; the command itself is not present."""
    with connect(server.url, server.anon_key) as client, client.channel("lobby", presence_key="alice") as room:
        room.track({"name": "Alice", "at": "<\x1b[1m>"})
        assert command(server, "presence", "lobby") == 0
        assert command(server, "presence", "lobby", "--json") == 0
    table, row, line = capsys.readouterr().out.splitlines()
    assert table.split() == ["key", "devices", "payload"]
    assert row.split(maxsplit=2) == ["alice", "1", '{"name":"Alice","at":"<\\u001b[1m>"}']
    [entry] = json.loads(line)["entries"]
    assert (json.loads(line)["key"], entry["payload"]["name"]) == ("alice", "Alice")


def test_nobody_is_present(server: LocalServer, capsys: Capture):
    """For an empty channel the command prints so, and no JSON lines."""
    assert command(server, "presence", "empty") == 0
    assert command(server, "presence", "empty", "--json") == 0
    assert capsys.readouterr().out == "Nobody is present.\n"


def test_watch_shows_who_joins_until_its_time_is_over(server: LocalServer, capsys: Capture):
    """In a pipe each event is a line."""
    with connect(server.url, server.anon_key) as client, client.channel("watched", presence_key="bob") as room:
        room.track({"name": "Bob"})
        assert command(server, "presence", "watched", "--watch", "--for", "0.2") == 0
    out = capsys.readouterr().out
    assert 'presence join bob {"name":"Bob"}' in out and "presence sync 1 present" in out


# --- token


def test_a_token_is_made_by_a_running_server(env_file: Path, capsys: Capture):
    """`supawire serve` signs it; it opens a private channel."""
    words = ["token", "make", "--sub", "user-1", "--claim", 'app={"n": 1}', "--claim", "name=Al", "--expires", "5m"]
    assert run([*words, "--env-file", str(env_file)]) == 0
    token = capsys.readouterr().out.strip()
    claims = jwt.decode(token, options={"verify_signature": False})
    lifetime = claims.pop("exp") - datetime.now(UTC).timestamp()
    assert 290 < lifetime <= 300
    assert claims == {"role": "authenticated", "sub": "user-1", "app": {"n": 1}, "name": "Al"}
    values = env_files.read(env_file)
    with connect(values["SUPAWIRE_URL"], values["SUPAWIRE_KEY"], token=token) as client:
        client.channel("private:1", private=True).subscribe()


def test_a_token_is_made_with_a_secret(capsys: Capture):
    """Without a server; with a minus it has expired already; --json also has what it says."""
    secret = "s" * 32
    assert run(["token", "make", "--role", "anon", "--expires", "-1h", "--secret", secret, "--json"]) == 0
    [made] = objects(capsys.readouterr().out)
    claims = jwt.decode(made["token"], secret, algorithms=["HS256"], options={"verify_exp": False})
    assert (claims["role"], made["expired"], made["role"]) == ("anon", True, "anon")
    assert made["expires"].endswith(" ago")


def test_a_token_is_explained_without_being_printed(server: LocalServer, capsys: Capture, monkeypatch: Any):
    """Kind, role, claims, expiry in words, remarks; neither the token nor its signature is in the output."""
    token = server.token("authenticated", 2 * 3600 + 30, sub="user-1", app={"org": 7})
    monkeypatch.setattr("sys.stdin", io.StringIO(f"Bearer {token}\n"))
    assert run(["token", "explain", "-"]) == 0
    assert run(["token", "explain", token, "--json"]) == 0
    out, err = capsys.readouterr()
    assert "token of a user (JWT)" in out and "expires      in 2 hours (" in out
    assert 'claim app    {"org":7}' in out
    fields = json.loads(out.splitlines()[-1])
    assert (fields["kind"], fields["algorithm"], fields["expired"]) == ("token of a user (JWT)", "HS256", False)
    assert not any(part in out + err for part in token.split("."))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda server: server.anon_key, "legacy anon key (JWT)"),
        (lambda server: server.service_key, "It bypasses row level security"),
        (lambda server: server.publishable_key, "publishable key"),
        (lambda server: server.secret_key, "secret key"),
        (lambda server: server.token(expires_in=-7200), "2 hours ago"),
        (lambda _: jwt.encode({"sub": "x"}, "k" * 32), "has no role"),
        (lambda _: jwt.encode({"role": "anon", "exp": 9e99}, "k" * 32), "no valid exp"),
        (lambda _: jwt.encode({"role": "a", "exp": 4e9, "iat": 3e9}, "k" * 32), "issued in the future"),
        (lambda _: jwt.encode({"role": "a"}, "", algorithm="none"), "not signed"),
    ],
)
def test_what_keys_and_tokens_are(server: LocalServer, make: Any, expected: str, capsys: Capture):
    """Each kind is recognised, and the command prints what a server will refuse."""
    assert run(["token", "explain", make(server)]) == 0
    assert expected in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("text", ["nonsense", "a.b.c", "eyJhbGciOiJub25lIn0.!!.", "", "x" * 100_000])
def test_what_is_no_token_is_refused(text: str, capsys: Capture):
    """Exit code 2 and one line, which does not repeat the text."""
    assert run(["token", "explain", text]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "neither a JWT" in err


# --- trigger


def test_a_change_without_a_database(env_file: Path, capsys: Capture):
    """Listeners receive a plausible row, whose types are those of --columns; given values are kept."""
    values = env_files.read(env_file)
    words = ["trigger", "insert", "users", "--columns", "id:bigint, email:text,total:numeric(10,2)", "--set", "id=7"]
    with connect(values["SUPAWIRE_URL"], values["SUPAWIRE_KEY"]) as client:
        rows = client.channel("db").listen(changes("users"))
        client.channel("db").subscribe(wait="ready")
        for kind in ("INSERT", "UPDATE", "DELETE"):
            words[1] = kind
            assert run([*words, "--env-file", str(env_file), "--json"]) == 0
        received: list[Any] = [rows.get(timeout=5) for _ in range(3)]
    printed = objects(capsys.readouterr().out)
    assert [row.type for row in received] == ["INSERT", "UPDATE", "DELETE"]
    assert [line["row"]["id"] for line in printed] == [7, 7, 7]
    assert received[0].record["id"] == 7 and received[0].record["email"].endswith("@example.com")
    assert [column.type for column in received[0].columns] == ["int8", "text", "numeric"]
    assert str(received[0].record["total"]) == printed[0]["row"]["total"]
    assert received[2].old_record == {"id": 7}


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["trigger", "UPSERT", "t"], 2, "INSERT"),
        (["trigger", "INSERT", "t", "--set", "x"], 2, "COLUMN=VALUE"),
        (["trigger", "INSERT", "t", "--columns", "id"], 2, "id:int8"),
        (["trigger", "INSERT", "t", "--columns", "id:int8", "--set", "b=1"], 2, "not among --columns"),
        (["trigger", "INSERT", "t", "--database-url", "postgresql://x@db.example.com/d"], 2, "this machine only"),
        (["trigger", "INSERT", "t", "--database-url", "postgresql://x@127.0.0.1:1/d"], 1, "cannot be used"),
        (["trigger", "INSERT", "t"], 1, "has no route /dev/emit"),
        (["token", "make"], 1, "has no route /dev/token"),
        (["token", "make", "--claim", "x"], 2, "NAME=VALUE"),
        (["token", "make", "--expires", "soon"], 2, "30s"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_triggers_and_tokens_are_one_line(
    server: LocalServer, words: list[str], code: int, expected: str, capsys: Capture
):
    """Wrong arguments have exit code 2; a server that lacks the route, or a database that is not there, 1."""
    if "--database-url" in words:
        pytest.importorskip("psycopg")
    assert command(server, *words) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert expected in err


class _Page(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html>")

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@pytest.mark.parametrize("words", [["trigger", "INSERT", "t"], ["token", "make"]], ids=lambda words: words[0])
def test_a_server_that_answers_with_a_page_is_no_local_server(words: list[str], capsys: Capture):
    """Such as that of a website during development: one line and exit code 1."""
    with TCPServer(("127.0.0.1", 0), _Page) as page:
        threading.Thread(target=page.handle_request, daemon=True).start()
        assert run([*words, "--url", f"http://127.0.0.1:{page.server_address[1]}", "--key", "k"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "has no route /dev/" in err


def test_the_service_key_is_required(env_file: Path, capsys: Capture):
    """With the anon key of a running server the refusal is one line."""
    values = env_files.read(env_file)
    assert run(["trigger", "INSERT", "t", "--url", values["SUPAWIRE_URL"], "--key", values["SUPAWIRE_KEY"]]) == 1
    assert "needs the service key" in capsys.readouterr().err


@pytest.mark.parametrize(
    "type",
    [
        "int2", "int4", "int8", "numeric", "float8", "bool", "text", "varchar", "uuid", "date", "time", "timestamp",
        "timestamptz", "timetz", "interval", "jsonb", "bytea", "_int4", "_text",
    ],
)  # fmt: skip
def test_plausible_values_have_the_type_of_their_column(type: str):
    """A value of each type can be sent, and the same seed gives the same value."""
    now = datetime(2026, 1, 2, tzinfo=UTC)
    value = value_for("x", type, now, random.Random(1))
    assert value == value_for("x", type, now, random.Random(1))
    similar = {"int2": "int8", "int4": "int8", "_int4": "_int8", "varchar": "text"}
    assert inferred_type(value) == similar.get(type, type)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("bigint", "int8"), ("NUMERIC(10, 2)", "numeric"), ("character varying(40)", "varchar"), ("mood", "mood")],
)
def test_names_of_types(text: str, expected: str):
    """Long names of SQL and lengths are understood."""
    assert type_name(text) == expected
