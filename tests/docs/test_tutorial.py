"""The tutorial works when it is followed word by word, in an empty folder and an environment of its own.

Blocks of `console` are commands, with what they print; `…` stands for any text, alone on a line for any lines. Files
begin with a comment that has their name. Comments of the page say what is done with programs that keep running.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import venv
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from queue import Empty, Queue
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from docs.tables import ROOT

PAGES: Final = ("chat", "presence", "live-table", "tests", "deploy")
STEP: Final = re.compile(r"<!-- (?P<mark>[^>]+?) -->|^```(?P<kind>\w+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
ACTIVATE: Final = "source .venv/bin/activate"
LOAD: Final = "set -a; . ./.env; set +a"
DEADLINE: Final = 60.0
"""Seconds in which a program prints a line or ends, on a busy machine."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform == "win32", reason="not run: the tutorial is for Linux and macOS"),
]


def matches(pattern: str, text: str) -> bool:
    """Return whether the text is what the page shows."""
    parts = (re.escape(part) for part in pattern.split("…"))
    return re.fullmatch(".*".join(parts), text, re.DOTALL) is not None


class Environment:
    """A virtual environment with the installed distributions that `pip install` would add, as links."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        names = {"base": str(folder), "platbase": str(folder)}
        self._packages = Path(sysconfig.get_path("purelib", "venv", names))
        self._scripts = folder / "bin"
        self._done: set[tuple[str, str]] = set()

    def install(self, requirement: Requirement) -> None:
        name = canonicalize_name(requirement.name)
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) in self._done:
                continue
            self._done.add((name, extra))
            if not extra:
                self._link(name)
            for text in distribution(name).requires or ():
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    self.install(needed)

    def _link(self, name: str) -> None:
        found = distribution(name)
        parts = {Path(file).parts[0] for file in found.files or ()}
        for part in sorted(parts - {"..", "__pycache__"}):
            link = self._packages / part
            if not link.exists():
                link.symlink_to(Path(str(found.locate_file(part))))
        if name == "supawire":
            (self._packages / "supawire.pth").write_text(str(ROOT / "src"), encoding="utf-8")
        for script in found.entry_points.select(group="console_scripts"):
            path = self._scripts / script.name
            call = f"from {script.module} import {script.attr}\nraise SystemExit({script.attr}())\n"
            path.write_text(f"#!{self._scripts}/python\n{call}", encoding="utf-8")
            path.chmod(0o755)


class Program:
    """A program that keeps running, as in a terminal of its own."""

    def __init__(self, command: str, folder: Path, variables: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=folder,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: Queue[str] = Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))

    def expect(self, text: str) -> None:
        """Read the lines of the text; a line `…` ends it."""
        for line in text.splitlines():
            if line == "…":
                return
            printed = self._lines.get(timeout=DEADLINE)
            assert matches(line, printed), f"{printed!r} instead of {line!r}"

    def type(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def press(self, key: str) -> None:
        """End the program with Ctrl-C or the end of its input, and wait for it."""
        if key == "Ctrl-C":
            self._process.send_signal(signal.SIGINT)
        else:
            assert self._process.stdin is not None
            self._process.stdin.close()
        assert self._process.wait(DEADLINE) in (0, -signal.SIGINT, 130)
        self.close()

    def close(self) -> None:
        """End the program if it still runs, and free what belongs to it."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


class Follower:
    """Somebody who does what the pages say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs: dict[str, Program] = {}
        self._environment: Environment | None = None
        self._variables = {
            "HOME": str(folder),
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),  # of PostgreSQL's data
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "PATH": os.environ["PATH"],
        }

    def follow(self, page: str) -> None:
        mark = ""
        for step in STEP.finditer(page):
            kind, text = step["kind"], step["text"]
            if kind is None:
                mark = step["mark"]
                if mark.startswith("Ctrl-"):
                    key, _, command = mark.partition(": ")
                    self.programs[command].press(key)
                continue
            if kind == "console":
                for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
                    self._run(command, output, keeps_running=mark == "keeps running")
            elif kind in ("python", "sql"):
                name = self.folder / re.split(r"\s", text)[1]
                name.parent.mkdir(parents=True, exist_ok=True)
                name.write_text(text, encoding="utf-8")
            elif mark.startswith("type into: "):
                self.programs[mark.removeprefix("type into: ")].type(text)
            elif kind == "output":
                self.programs[mark.removeprefix("printed by: ")].expect(text)
            mark = ""

    def _run(self, command: str, output: str, *, keeps_running: bool) -> None:
        if command == "mkdir chat && cd chat":
            self.folder /= "chat"
            self.folder.mkdir()
        elif command == "python3 -m venv .venv":
            self._environment = Environment(self.folder / ".venv")
        elif command == ACTIVATE:
            self._variables["PATH"] = f"{self.folder}/.venv/bin:{os.environ['PATH']}"
        elif command.startswith("pip install "):
            assert self._environment is not None
            for requirement in shlex.split(command)[2:]:
                self._environment.install(Requirement(requirement))
        elif command == LOAD:
            lines = (self.folder / ".env").read_text(encoding="utf-8").splitlines()
            self._variables |= dict(line.split("=", 1) for line in lines if not line.startswith("#"))
        elif keeps_running:
            # a free port, since another server may run on this machine
            real = command.replace("supawire serve", "supawire serve --port 0")
            self.programs[command] = Program(real, self.folder, self._variables)
            self.programs[command].expect(output)
        else:
            ran = subprocess.run(
                ["bash", "-c", command],
                check=False,
                cwd=self.folder,
                env=self._variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=DEADLINE,
            )
            assert ran.returncode == 0, ran.stdout
            assert matches(output, ran.stdout), ran.stdout


@pytest.fixture
def follower() -> Iterator[Follower]:
    folder = Path(tempfile.mkdtemp(prefix="supawire-tutorial-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user when the tests run as root
    it = Follower(folder)
    yield it
    for program in it.programs.values():
        program.close()
    shutil.rmtree(folder)


def test_the_tutorial_works_as_written(follower: Follower):
    """Every file, command and input of the five pages, in order, gives the output that the pages show."""
    pytest.importorskip("psycopg", reason="not run: the third page needs the extra postgres")
    for name in PAGES:
        page = ROOT / "docs" / f"tutorial-{name}.md"
        try:
            follower.follow(page.read_text(encoding="utf-8"))
        except (AssertionError, Empty, subprocess.TimeoutExpired) as error:
            raise AssertionError(f"{page.name}: {error!r}") from error
