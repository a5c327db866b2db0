"""`supawire worker init` and `run`, as a user calls them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from supawire import cli

from .conftest import ORDERS

PROGRAM = """
import os
from supawire import col
from supawire.worker import Worker

app = Worker(database=os.environ["DATABASE"])
other = 1

@app.job("orders", where=col("status") == "pending")
async def handle(job):
    print("did", job.key)
"""


class Commands:
    """Runs `supawire worker` in a folder with a program."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder = folder
        self._database = database
        (folder / "jobs.py").write_text(PROGRAM, encoding="utf-8")

    def __call__(self, *words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "supawire", "worker", *words],
            cwd=self.folder,
            env={**os.environ, "DATABASE": self._database},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def worker(tmp_path: Path, database: str, sql: psycopg.Connection[Any]) -> Commands:
    """The commands, for a database with the table and without the side table."""
    sql.execute(ORDERS.encode())
    return Commands(tmp_path, database)


@pytest.mark.slow
def test_the_migration_is_printed_written_and_run(worker: Commands, sql: psycopg.Connection[Any]):
    """`init` prints the migration, `--out` writes it, `--apply` runs it, and `run` works afterwards."""
    code, printed, _ = worker("init", "jobs:app")
    assert code == 0 and "create table if not exists" in printed and '"orders_worker_' in printed
    assert worker("init", "jobs:app", "--out", "migration.sql")[0] == 0
    assert (worker.folder / "migration.sql").read_text(encoding="utf-8") == printed
    code, _, errors = worker("init", "jobs:app", "--out", "migration.sql")
    assert code == 2 and "cannot be written: File exists" in errors

    sql.execute("insert into orders default values")
    code, out, errors = worker("run", "jobs:app", "--until-idle")
    assert code == 1 and "is missing" in errors and "create table if not exists" in out
    assert worker("init", "jobs:app", "--apply") == (0, printed, "")
    code, out, errors = worker("run", "jobs:app", "--until-idle")
    assert (code, out) == (0, "did 1\n"), errors


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("run", "jobs"), "must be given as module:name"),
        (("run", "jbos:app"), "there is no module 'jbos'"),
        (("run", "jobs:other"), "is not a supawire.worker.Worker, but int"),
        (("run", "jobs:app", "--log-level", "loud"), "--log-level must be"),
        (("run", "jobs:app", "--reload", "--until-idle"), "exclude each other"),
        (("run", ".jobs:app"), "such as jobs:app"),
        (("init", "jobs:app", "--apply", "--out", "x.sql"), "exclude each other"),
    ],
)
def test_mistakes_are_explained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    text: str,
):
    """A wrong target or option ends with exit code 2 and one line that says what is wrong."""
    (tmp_path / "jobs.py").write_text(PROGRAM, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE", "postgresql://127.0.0.1:1/x")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "jobs", raising=False)
    assert cli.run(["worker", *words]) == 2
    sys.modules.pop("jobs", None)
    out, errors = capsys.readouterr()
    assert out == "" and text in errors and errors.count("\n") == 1
