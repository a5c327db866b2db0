"""Sessions that are too long for each run of CI: `python -m nox -s mutation -- --minutes 30`.

nox belongs to the extra `dev`. What a session installs is in an environment of its own; tests run with the interpreter
that runs nox, which has everything that requirements/dev.txt pins.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
TOOL = "cosmic-ray==8.7.0"
AREAS = {
    "core": ("src/supawire/core", "tests/core"),
    "sync": ("src/supawire/sync", "tests/sync tests/clients"),
    "visibility": ("src/supawire/server/postgres/visibility.py", "tests/postgres/test_row_security.py"),
}
"""What is mutated, and the tests that have to notice."""
CONFIG = """\
[cosmic-ray]
module-path = "{path}"
timeout = 120.0
excluded-modules = []
test-command = "{python} tests/mutation/run_tests.py {original} {tests}"

[cosmic-ray.distributor]
name = "local"
"""


@nox.session(reuse_venv=True)
def mutation(session: nox.Session) -> None:
    """Change the code at random places, in a copy, and list the changes that no test notices.

    Takes `--minutes` in all, `--mutants` for each area, `--seed` of the choice, and names of areas.
    """
    options = _options(session.posargs)
    session.install(TOOL)
    until = time.monotonic() + options.minutes * 60
    with tempfile.TemporaryDirectory(prefix="supawire-mutation-") as folder:
        copy = Path(folder) / "copy"
        ignored = shutil.ignore_patterns(".git", ".venv", ".nox", "build", "__pycache__", "node_modules")
        shutil.copytree(ROOT, copy, ignore=ignored)
        for place, name in enumerate(options.areas):
            now = time.monotonic()
            _mutate(session, copy, name, options, now + (until - now) / (len(options.areas) - place))


def _mutate(session: nox.Session, copy: Path, name: str, options: argparse.Namespace, until: float) -> None:
    path, tests = AREAS[name]
    config, database = copy / f"{name}.toml", copy / f"{name}.sqlite"
    config.write_text(CONFIG.format(path=path, tests=tests, python=sys.executable, original=ROOT), encoding="utf-8")
    pristine = {file: file.read_bytes() for file in (copy / "src").rglob("*.py")}
    session.chdir(copy)
    session.run("cosmic-ray", "baseline", config.name)  # tests that fail anyway would notice every change
    session.run("cosmic-ray", "init", config.name, database.name)
    session.run("python", "tests/mutation/sample.py", "choose", database.name, str(options.mutants), str(options.seed))
    # a group of its own, so that the tests of the last mutant end with it
    command = [f"{session.bin}/cosmic-ray", "exec", config.name, database.name]
    running = subprocess.Popen(command, cwd=copy, start_new_session=True)  # noqa: S603
    try:
        running.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        session.warn(f"{name}: the time is over")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    for file, content in pristine.items():  # the last one may have been stopped with its change in place
        file.write_bytes(content)
    session.run("python", "tests/mutation/sample.py", "report", database.name)


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nox -s mutation --")
    parser.add_argument("areas", nargs="*", default=[], help=", ".join(AREAS))
    parser.add_argument("--minutes", type=float, default=30.0, help="for all areas together")
    parser.add_argument("--mutants", type=int, default=200, help="of each area, chosen at random")
    parser.add_argument("--seed", type=int, default=1, help="another one chooses others")
    options = parser.parse_args(words)
    options.areas = options.areas or list(AREAS)
    if unknown := [name for name in options.areas if name not in AREAS]:
        parser.error(f"unknown areas {', '.join(unknown)}; there are {', '.join(AREAS)}")
    return options
