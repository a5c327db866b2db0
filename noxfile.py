"""The checks of the project: `python -m nox -l` lists the sessions, `python -m nox` runs the quick gate.

Sessions run in the environment that runs nox, which README's last command creates. With
`--default-venv-backend virtualenv` each gets an environment of its own, with what requirements/dev.txt pins.
"""

import argparse
import filecmp
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import nox

nox.needs_version = ">=2025.11.12"
nox.options.sessions = ["quick"]
nox.options.default_venv_backend = "none"

ROOT = Path(__file__).resolve().parent
SOURCE_DATE_EPOCH = "1764000000"
QUICK = [
    *(f"tests/{folder}" for folder in ("core", "aio", "clients", "server", "linked", "golden")),
    *map(str, sorted(Path("tests").glob("test_*"))),
]
"""Tests of both clients, of the core, of the local server in memory, and of the modules at the top of the package."""

# so that the tools beside the interpreter are found when its environment is not activated
os.environ["PATH"] = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", "")))

TOOL = "cosmic-ray==8.7.0"
AREAS = {
    "core": ("src/supawire/core", "tests/core"),
    "sync": ("src/supawire/sync", "tests/sync tests/clients"),
    "visibility": (
        "src/supawire/server/postgres/visibility.py",
        "tests/postgres/test_row_security.py tests/postgres/test_visibility.py",
    ),
}
"""What is mutated, and the tests that have to notice."""
CONFIG = """\
[cosmic-ray]
module-path = "{path}"
timeout = 900.0
excluded-modules = []
test-command = "{python} tests/mutation/run_tests.py {original} {tests}"

[cosmic-ray.distributor]
name = "local"
"""


@nox.session
def quick(session: nox.Session) -> None:
    """Lint, import contracts, types of src, and the fast tests of the pure half; at most three minutes on two cores."""
    _install(session)
    _lint(session)
    session.run("lint-imports", "--no-cache")
    session.run("basedpyright", "src")
    session.run("pytest", "-q", "-n", "3", "-m", "not slow", *(session.posargs or QUICK))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, the workflow files and the configuration of pre-commit."""
    _install(session)
    _lint(session)


@nox.session
def imports(session: nox.Session) -> None:
    """Check the import contracts of pyproject.toml."""
    _install(session)
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """Check types strictly, and that the public types of the installed package are complete. Arguments: paths."""
    _install(session)
    session.run("basedpyright", *session.posargs)
    if session.posargs:
        return
    with tempfile.TemporaryDirectory() as folder:
        options = ("-q", "--no-deps", "--no-build-isolation")
        session.run("python", "-m", "pip", "install", *options, "--target", folder, ".")
        with session.chdir(folder):  # in the repository, the sources would be checked
            command = ("basedpyright", "--verifytypes", "supawire", "--ignoreexternal")
            session.run(*command, env={"PYTHONPATH": folder}, silent=True)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests, or what the arguments say: `nox -s tests -- tests/core -k join`."""
    _install(session)
    workers = ("-n", str((os.cpu_count() or 1) + 1))  # one more, since much of it is waiting
    session.run("pytest", *(session.posargs or workers))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the pages and the change log; warnings are errors."""
    _install(session)
    with tempfile.TemporaryDirectory() as folder:
        session.run("python", "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", folder)
    session.run("towncrier", "build", "--draft", "--version", "next", silent=True)


@nox.session
def package(session: nox.Session) -> None:
    """Build the distributions twice, compare them, check metadata and files, and run tests in the unpacked source.

    Argument: a folder for the distributions, otherwise they are removed at the end.
    """
    _install(session)
    with tempfile.TemporaryDirectory() as folder:
        builds = [Path(folder, name) for name in ("one", "two")]
        for build in builds:
            session.run(
                *("python", "-m", "build", "--no-isolation", "-o", str(build)),
                env={"SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH},
                silent=True,
            )
        names = sorted(path.name for path in builds[0].iterdir())
        _, different, missing = filecmp.cmpfiles(builds[0], builds[1], names, shallow=False)
        if different or missing:
            session.error(f"the second build differs: {', '.join(different + missing)}")
        (wheel,) = builds[0].glob("*.whl")
        (source,) = builds[0].glob("*.tar.gz")
        session.run("twine", "check", "--strict", str(wheel), str(source))
        session.run("python", "-m", "tests.distributions", str(wheel), str(source))
        with tarfile.open(source) as archive:
            archive.extractall(folder, filter="data")
        with session.chdir(Path(folder, source.name.removesuffix(".tar.gz"))):
            paths = {"PYTHONPATH": "src"}  # before the checkout that is installed
            session.run("pytest", "-q", "--collect-only", "-p", "no:cacheprovider", env=paths, silent=True)
            session.run("pytest", "-q", "-n", "3", "-m", "not slow", "tests/golden", "tests/test_package.py", env=paths)
        if session.posargs:
            shutil.copytree(builds[0], session.posargs[0], dirs_exist_ok=True)


@nox.session
def full(session: nox.Session) -> None:
    """Run `.ci/run`: everything that must hold before a change goes in. Arguments: names of steps."""
    session.run("bash", ".ci/run", *session.posargs, external=True)


def _install(session: nox.Session) -> None:
    if session.virtualenv.is_sandboxed:
        session.install("-r", "requirements/dev.txt")
        session.install("--no-deps", "--no-build-isolation", "-e", ".")


def _lint(session: nox.Session) -> None:
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    workflows = sorted(str(path) for path in Path(".github/workflows").glob("*.yml"))
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    session.run("check-jsonschema", "--builtin-schema", "vendor.readthedocs", ".readthedocs.yaml")
    session.run("pre-commit", "validate-config")


@nox.session(venv_backend="virtualenv", reuse_venv=True)
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
