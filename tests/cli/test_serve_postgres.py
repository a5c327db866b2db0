"""The command `supawire serve` with a database."""

import contextlib
import queue
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import jwt
import pytest

from supawire.cli import env_files, run
from tests.cli.conftest import DEADLINE, ENVIRONMENT, Serving

psycopg = pytest.importorskip("psycopg", reason="not run: psycopg belongs to the extra postgres")
pytestmark = pytest.mark.slow

Start = Callable[..., Serving]
PASSWORD = re.compile(r"postgres:([\w-]{20,})@")


def block(banner: str, title: str) -> str:
    """Return the code under a title of the banner."""
    _, _, after = banner.partition(f"{title}\n")
    found = re.match(r"(?:\n|    .*\n)+", after)
    assert found, banner
    return textwrap.dedent(found[0]).strip()


class Printed:
    """The programs that `supawire serve --postgres` printed, and the database that they are for."""

    def __init__(self, server: Serving, env_file: Path) -> None:
        self._psql = block(server.banner, "The database:")
        self.folder = Path(self._psql.partition("passfile=")[2].rstrip('"')).parent
        table = block(server.banner, "A table whose changes clients receive, and a row, for psql:")
        self.create_table, _, self.insert = table.rpartition("\n")
        self.python = block(server.banner, "A client in Python, which prints the changes:")
        title = "The same in JavaScript, with @supabase/supabase-js and Node 22 or a browser:"
        self.javascript = block(server.banner, title)
        self.environment = ENVIRONMENT | env_files.read(env_file)

    def run_sql(self, sql: str) -> None:
        """Give SQL to the printed psql command."""
        subprocess.run(
            ["bash", "-c", self._psql], input=sql, text=True, check=True, env=ENVIRONMENT, capture_output=True
        )


def test_the_printed_python_program_receives_rows(serving: Start, tmp_path: Path):
    """psql creates the table, the program prints what is inserted, updated and deleted, and no file is left."""
    path = tmp_path / "dev.env"
    server = serving("--postgres", "--env-file", str(path))
    printed = Printed(server, path)
    assert printed.folder.is_dir()
    printed.run_sql(printed.create_table)
    script = printed.python.replace(
        "async with room:", "async with room:\n            print('joined', await room.ready())"
    )
    with subprocess.Popen(
        [sys.executable, "-u", "-c", script], env=printed.environment, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline().startswith("joined")
        for sql, shown in (
            (printed.insert, "record={'id': 1, 'body': 'hello'}"),
            ("update todos set body = 'bye';", "record={'id': 1, 'body': 'bye'}, old_record={'id': 1}"),
            ("delete from todos;", "old_record={'id': 1}"),
            (printed.insert, "record={'id': 2, 'body': 'hello'}"),
        ):
            printed.run_sql(sql)
            kind = sql.split()[0].capitalize()
            line = client.stdout.readline()
            assert line.startswith(f"{kind}(topic='todos', schema='public', table='todos', {shown}, commit_timestamp=")
        client.kill()
    assert server.stop().code == 0
    assert not printed.folder.exists()


PACKAGES = Path(__file__).parents[1] / "interop" / "peers"
"""The folder in which the official JavaScript packages are installed."""


@pytest.mark.needs("node", "supabase-js")
def test_the_printed_javascript_program_receives_rows(serving: Start, tmp_path: Path, require: Callable[[str], str]):
    """The program of the official client joins and prints the row that the printed SQL inserts."""
    path = tmp_path / "dev.env"
    printed = Printed(serving("--postgres", "--env-file", str(path)), path)
    printed.run_sql(printed.create_table)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    with subprocess.Popen(
        [require("node"), *websocket_option(require("node")), "--input-type=module", "--eval", printed.javascript],
        cwd=PACKAGES,
        env=printed.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdout is not None
        reader = threading.Thread(target=lambda out=client.stdout: [lines.put(line) for line in out])
        reader.start()
        try:
            assert lines.get(timeout=DEADLINE) == "SUBSCRIBED\n"
            text = ""
            while not text.endswith("\n}\n"):
                # SUBSCRIBED is reported before changes are live, so the first rows may be missed
                printed.run_sql(printed.insert)
                with contextlib.suppress(queue.Empty):
                    while not text.endswith("\n}\n"):
                        text += lines.get(timeout=0.5)
            assert "eventType: 'INSERT'" in text
            assert re.search(r"new: \{ id: \d+, body: 'hello' \}", text)
            assert "errors: null" in text
        finally:
            client.kill()
            reader.join()


def websocket_option(node: str) -> list[str]:
    """Return the option that node before 22 needs to have a global `WebSocket`, as browsers have."""
    found = subprocess.run([node, "--print", "typeof WebSocket"], capture_output=True, text=True, check=True)
    return ["--experimental-websocket"] if found.stdout.strip() == "undefined" else []


def test_the_password_is_printed_with_the_keys_only(serving: Start):
    """The env file has it too, in a URL for every program."""
    server = serving("--postgres", "--show-keys")
    url = server.exported("SUPAWIRE_DATABASE_URL")
    with psycopg.connect(url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert not PASSWORD.search(serving("--postgres").banner)


def test_values_with_quotes_in_the_env_file(tmp_path: Path):
    """The URL of a database may contain characters with a meaning in a shell."""
    values = {
        "SUPAWIRE_URL": "http://[::1]:4000",
        "SUPAWIRE_KEY": "k",
        "SUPAWIRE_DATABASE_URL": "postgresql:///d?a=1&b='",
    }
    path = tmp_path / "dev.env"
    env_files.EnvFile(path).write(values)
    assert env_files.read(path) == values
    shell = subprocess.run(
        ["sh", "-c", f'. {path}; printf %s "$SUPAWIRE_DATABASE_URL"'], capture_output=True, check=True
    )
    assert shell.stdout.decode() == values["SUPAWIRE_DATABASE_URL"]


@pytest.fixture(name="cluster", scope="module")
def _cluster() -> Iterator[str]:
    from supawire.server.postgres.cluster import Cluster

    with Cluster() as cluster:
        yield cluster.url


def test_a_given_database_is_prepared_on_request(serving: Start, cluster: str):
    """Unprepared it is refused in one line; once prepared, it is served without --prepare."""
    assert run(["serve", "--port", "0", "--database", cluster]) == 1
    server = serving("--database", cluster, "--prepare")
    assert not PASSWORD.search(server.banner)
    assert "grant select on todos" in server.banner
    assert "is removed when" not in server.banner
    assert server.stop().code == 0
    assert serving("--database", cluster).stop().code == 0


def test_a_project_is_served(serving: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Its migrations run and its secret signs keys; a failure is one line with file and line."""
    migrations = tmp_path / "supabase" / "migrations"
    migrations.mkdir(parents=True)
    (migrations / "1_first.sql").write_text("create table todos (id int primary key);\n")
    (tmp_path / "supabase" / "config.toml").write_text(f'[auth]\njwt_secret = "{"s" * 40}"\n')
    server = serving("--project", str(tmp_path), "--show-keys")
    assert "1 migration and 0 seeds" in server.banner
    with psycopg.connect(server.exported("SUPAWIRE_DATABASE_URL")) as connection:
        assert connection.execute("select count(*) from todos").fetchone() == (0,)
    assert jwt.decode(server.exported("SUPAWIRE_KEY"), "s" * 40, algorithms=["HS256"])["role"] == "anon"
    assert server.stop().code == 0
    (migrations / "2_second.sql").write_text("\n\ndrop table nothing;\n")
    assert run(["serve", "--port", "0", "--project", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert 'supabase/migrations/2_second.sql, line 3: table "nothing" does not exist' in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--database", "nonsense"], 2, "USER:PASSWORD"),
        (["--database", "postgresql://u:hidden@127.0.0.1:1/d"], 1, "Is it running"),
        (["--postgres", "--database", "postgresql:///d"], 2, "give one of them"),
        (["--prepare"], 2, "--database"),
        (["--project", "src", "--database", "postgresql:///d"], 2, "give one of them"),
        (["--project", "src"], 1, "no folder supabase"),
    ],
    ids=["no URL", "unreachable", "both", "no database", "project and database", "no project"],
)
def test_an_error_is_one_line_and_an_exit_code(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
):
    """The exit code is 2 for wrong usage and 1 for an error of the database; the line has no password."""
    assert run(["serve", "--port", "0", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err and err.count("\n") == 1
    assert "hidden" not in err
